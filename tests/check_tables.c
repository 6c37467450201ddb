/* The tables of ops and methods: rows in the order of agf.h's numbers, up to the last one, with all that they need; a row that lacks
 * something is noticed; traits agree with what a request may ask. Reads the engine's own tables. */
#include "testing.h"
#include "inside.h"

static void test_ops(void) {
  int i, j, linear = 0, rows = (int)(sizeof agf_op_table / sizeof *agf_op_table);
  CHECK(!agf_rules_of((agf_op)0) && !agf_rules_of((agf_op)(rows + 1)) && !strcmp(agf_op_name((agf_op)(rows + 1)), "?"),
        "numbers 0 and %d are no ops", rows + 1);
  for (i = 1; i <= rows; i++) {
    const agf_op_rules *r = agf_rules_of((agf_op)i);
    const char *missing = agf_missing_function(r);
    CHECK((int)r->op == i, "row %d holds op %d", i, (int)r->op);
    CHECK(!missing, "%s has no %s", r->name, missing);
    CHECK(r->fields.min_inputs >= 1 && r->fields.max_inputs >= r->fields.min_inputs, "%s has %d to %d inputs", r->name,
          r->fields.min_inputs, r->fields.max_inputs);
    linear += !!(r->traits & AGF_IS_LINEAR);
    for (j = 1; j < i; j++) CHECK(strcmp(r->name, agf_op_name((agf_op)j)) != 0, "ops %d and %d are both called %s", i, j, r->name);
  }
  CHECK(linear == 1, "%d ops' steps are said to hold an agf_linear_step", linear);
}

/* A row with one function taken out: what is missing is said. */
static void test_missing(void) {
  agf_op_rules r = *agf_rules_of(AGF_OP_CONV);
#define WITHOUT(function)                                                                                                          \
  r = *agf_rules_of(AGF_OP_CONV);                                                                                                  \
  r.function = NULL;                                                                                                               \
  CHECK(agf_missing_function(&r), "a convolution without its " #function " is taken")
  WITHOUT(shape);
  WITHOUT(weights);
  WITHOUT(sign);
  WITHOUT(forward);
  WITHOUT(rule);
  WITHOUT(gradient);
  WITHOUT(lrp);
#undef WITHOUT
  r = *agf_rules_of(AGF_OP_RELU);
  r.rows = NULL;
  CHECK(agf_missing_function(&r), "a ReLU that goes row by row without its rows is taken");
  r = *agf_rules_of(AGF_OP_RELU);
  r.weights = NULL;
  CHECK(!agf_missing_function(&r), "a ReLU needs no check of its weights");
}

static void test_methods(void) {
  int i;
  CHECK(sizeof agf_method_table / sizeof *agf_method_table == AGF_METHODS, "a row for each of %d methods", (int)AGF_METHODS);
  CHECK(!strcmp(agf_method_name(AGF_METHODS), "?") && agf_method_traits(AGF_METHODS) == 0, "there is no method %d",
        (int)AGF_METHODS);
  for (i = 0; i < AGF_METHODS; i++) {
    const agf_method_rules *r = agf_rules_of_method((agf_method)i);
    CHECK((int)r->method == i && r->explain, "row %d holds method %d", i, (int)r->method);
    CHECK(agf_method_find(r->name) == i, "%s is found as method %d", r->name, agf_method_find(r->name));
    CHECK(agf_method_traits((agf_method)i) & AGF_METHOD_BUILT, "%s is built", r->name);
    CHECK(!!(r->traits & AGF_METHOD_PLANNED) == !!(r->needs & ~(unsigned)AGF_NEEDS_LOCAL), "%s says what it needs planned",
          r->name);
    CHECK(!r->options || (r->traits & AGF_METHOD_TAKES_OPTIONS), "%s is made up of options that are AGF's", r->name);
  }
}

int main(int argc, char **argv) {
  tests_begin(argc, argv);
  RUN(test_ops);
  RUN(test_missing);
  RUN(test_methods);
  return tests_end();
}
