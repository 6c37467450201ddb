/* The engine against float64 results: every case of tests/golden and tests/golden-extra (or of the folders named on the command
 * line), every map, every option, every method, and every node's cam and g where the data have them, as a diagnosis that names
 * the layer.
 *
 * A map is correct when norm(map - expected) <= limit * norm(expected), limit = 4 * the error of an ordinary float32
 * implementation + 2e-6 (agf-spec, "How exact a float32 map can be"); with --full, for networks of real size, where a ReLU may
 * flip by rounding, max(that, 5e-3). */
#include "testing.h"
#include "../agf.h"

static const struct {
  const char *name;
  unsigned bit;
} options[] = {{"no_fx", AGF_NO_FX}, {"no_fdx", AGF_NO_FDX}, {"no_m", AGF_NO_M},
               {"no_a", AGF_NO_A},   {"no_reg", AGF_NO_REG}, {"fx_gradcam", AGF_FX_GRADCAM}};

/* Option bits of "no_fx,no_m"; -1 for a name that is none. */
static int parse_options(char *text) {
  unsigned bits = 0;
  char *p;
  size_t i;
  if (!strcmp(text, "-")) return 0;
  for (p = strtok(text, ","); p; p = strtok(NULL, ",")) {
    for (i = 0; i < sizeof options / sizeof *options && strcmp(p, options[i].name); i++) continue;
    if (i == sizeof options / sizeof *options) return -1;
    bits |= options[i].bit;
  }
  return (int)bits;
}

typedef struct diagnosis {
  const agf_model *model;
  char folder[512];
  int compared;
  int told;
} diagnosis;

static void compare_node(diagnosis *d, const char *what, const char *name, const float *a, const agf_observation *o) {
  char path[1024];
  npy expected;
  int c, h, w, error;
  float *dense;
  double e;
  snprintf(path, sizeof path, "%s/%s_%s.npy", d->folder, what, name);
  if (!a || npy_load(path, &expected)) return;
  dense = (float *)malloc(sizeof *dense * (size_t)o->shape[0] * (size_t)o->shape[1] * (size_t)o->shape[2]);
  for (c = 0; c < o->shape[0]; c++)
    for (h = 0; h < o->shape[1]; h++)
      for (w = 0; w < o->shape[2]; w++)
        dense[((size_t)c * (size_t)o->shape[1] + (size_t)h) * (size_t)o->shape[2] + (size_t)w] =
            a[c / 16 * o->block_stride + h * o->row_stride + w * o->pixel_stride + c % 16];
  error = expected.elements != (size_t)o->shape[0] * (size_t)o->shape[1] * (size_t)o->shape[2];
  e = error ? INFINITY : relative_error(dense, expected.data, expected.elements);
  d->compared++;
  /* a hundred times the maps' own limit: this names a wrong layer, the maps judge */
  if (!(e <= 1e-3) && !d->told++) printf("  first layer off: %s of %s, relative error %.3g\n", what, name, e);
  free(dense);
  free(expected.data);
}

static void observe(void *ctx, const agf_observation *o) {
  diagnosis *d = (diagnosis *)ctx;
  agf_layer layer;
  const char *name = "input";
  if (o->node >= 0) {
    agf_model_layer(d->model, o->node, 0, 0, &layer, NULL);
    name = layer.name;
  }
  compare_node(d, "cam", name, o->cam, o);
  compare_node(d, "g", name, o->g, o);
}

/* errors.txt: `METHOD CLASS CODE`, requests that have no map and must say so. Returns nonzero if there is none. */
static int run_errors(const char *root, const char *name, agf_session *session, float *map) {
  char path[1024], method[64], code[64];
  int target, none = 1;
  FILE *list;
  snprintf(path, sizeof path, "%s/%s/errors.txt", root, name);
  list = fopen(path, "r");
  while (list && fscanf(list, "%63s %d %63s", method, &target, code) == 3) {
    agf_request q;
    agf_error err;
    memset(&q, 0, sizeof q);
    q.method = (agf_method)agf_method_find(method);
    q.count = 1;
    q.classes = &target;
    agf_explain(session, &q, map, &err);
    CHECK(!strcmp(agf_status_name(err.code), code), "%s class %d: %s (%s), expected %s", name, target, agf_status_name(err.code),
          err.message, code);
    none = 0;
  }
  if (list) fclose(list);
  return none;
}

/* The request's map against a file, where a float32 implementation is off by rel. */
static void compare_map(const char *root, const char *name, const char *file, int full, agf_session *session, const agf_request *q,
                        double rel, float *map) {
  char path[1024];
  agf_error err;
  agf_status st;
  npy expected;
  double e, limit = 4 * rel + 2e-6;
  if (full && limit < 5e-3) limit = 5e-3;
  snprintf(path, sizeof path, "%s/%s/%s", root, name, file);
  if (npy_load(path, &expected)) {
    CHECK(0, "%s cannot be read", path);
    return;
  }
  st = agf_explain(session, q, map, &err);
  e = st == AGF_OK ? relative_error(map, expected.data, expected.elements) : INFINITY;
  CHECK(e <= limit, "%s %s: off by %.3g, limit %.3g%s%s", name, file, e, limit, st ? ": " : "", st ? err.message : "");
  if (full) printf("  %s %s: relative error %.3g (tight limit %.3g)\n", name, file, e, 4 * rel + 2e-6);
  free(expected.data);
}

/* methods.txt: `FILE METHOD TARGET STEPS REL_L2`; STEPS: of integrated_gradients, samples of smoothgrad. Then layers.txt: `FILE
 * LAYER TARGET REL_L2`, gradcam at a layer's output. */
static void run_methods(const char *root, const char *name, int full, const agf_model *model, agf_session *session, float *map) {
  char path[1024], file[256], word[64];
  agf_layer layer;
  agf_request q;
  double rel;
  int target;
  FILE *list;
  memset(&q, 0, sizeof q);
  q.count = 1;
  q.classes = &target;
  snprintf(path, sizeof path, "%s/%s/methods.txt", root, name);
  list = fopen(path, "r");
  while (list && fscanf(list, "%255s %63s %d %d %lf", file, word, &target, &q.steps, &rel) == 5) {
    q.method = (agf_method)agf_method_find(word);
    q.samples = q.steps;
    compare_map(root, name, file, full, session, &q, rel, map);
  }
  if (list) fclose(list);
  snprintf(path, sizeof path, "%s/%s/layers.txt", root, name);
  list = fopen(path, "r");
  q.method = AGF_METHOD_GRADCAM;
  while (list && fscanf(list, "%255s %63s %d %lf", file, word, &target, &rel) == 4) {
    for (q.layer = 1; agf_model_layer(model, q.layer - 1, 0, 0, &layer, NULL) == AGF_OK && strcmp(layer.name, word); q.layer++)
      continue;
    compare_map(root, name, file, full, session, &q, rel, map);
  }
  if (list) fclose(list);
}

static void run_case(const char *root, const char *name, int full, int *compared) {
  char path[1024], file[256], opts[256];
  agf_error err;
  agf_model *model;
  agf_session *session = NULL, *watched = NULL;
  agf_session_config config;
  diagnosis d;
  npy input, expected, difference;
  float *x, *map, *vector = NULL;
  double rel;
  int target, first = 1, lists = 0;
  FILE *list;
  snprintf(path, sizeof path, "%s/%s/%s.agf", root, name, name);
  if (agf_model_open(path, NULL, &model, &err) != AGF_OK) {
    CHECK(0, "%s", err.message);
    return;
  }
  snprintf(path, sizeof path, "%s/%s/input.npy", root, name);
  if (npy_load(path, &input)) {
    CHECK(0, "%s cannot be read", path);
    agf_model_close(model);
    return;
  }
  x = npy_floats(&input);
  map = (float *)malloc(sizeof *map * input.elements);
  memset(&config, 0, sizeof config);
  config.height = input.shape[1];
  config.width = input.shape[2];
  memset(&d, 0, sizeof d);
  d.model = model;
  snprintf(d.folder, sizeof d.folder, "%s/%s", root, name);
  config.methods = AGF_METHODS_ALL;
  if (agf_session_create(model, &config, &session, &err) != AGF_OK || agf_run(session, x, AGF_RUN_EXPLAIN, &err) != AGF_OK) {
    CHECK(0, "%s: %s", name, err.message);
    goto done;
  }
  config.observer = observe;
  config.observer_ctx = &d;
  if (agf_session_create(model, &config, &watched, &err) != AGF_OK || agf_run(watched, x, 0, &err) != AGF_OK) {
    CHECK(0, "%s: %s", name, err.message);
    goto done;
  }
  snprintf(path, sizeof path, "%s/%s/logits.npy", root, name);
  if (!npy_load(path, &expected)) {
    double e = relative_error(agf_logits(session), expected.data, expected.elements);
    /* an ordinary float32 forward pass of these networks is off by 1e-7 to 3e-6 */
    CHECK(e <= 1e-5, "%s: logits off by %.3g", name, e);
    free(expected.data);
  }
  snprintf(path, sizeof path, "%s/%s/maps.txt", root, name);
  list = fopen(path, "r");
  CHECK(list != NULL, "%s cannot be read", path);
  while (list) {
    agf_request q;
    agf_status st;
    double e, limit;
    int bits;
    if (fscanf(list, "%255s %d %lf %255s", file, &target, &rel, opts) != 4) { /* then label_free.txt, its last column a file */
      fclose(list);
      snprintf(path, sizeof path, "%s/%s/label_free.txt", root, name);
      list = lists++ ? NULL : fopen(path, "r");
      continue;
    }
    limit = 4 * rel + 2e-6;
    bits = strstr(opts, ".npy") ? 0 : parse_options(opts);
    if (full && limit < 5e-3) limit = 5e-3;
    memset(&q, 0, sizeof q);
    q.count = 1;
    q.classes = &target;
    if (strstr(opts, ".npy")) { /* the label-free procedure: this file is the difference vector */
      snprintf(path, sizeof path, "%s/%s/%s", root, name, opts);
      if (npy_load(path, &difference)) {
        CHECK(0, "%s cannot be read", path);
        continue;
      }
      q.difference = vector = npy_floats(&difference);
      free(difference.data);
    }
    q.options = (unsigned)bits;
    snprintf(path, sizeof path, "%s/%s/%s", root, name, file);
    if (bits < 0 || npy_load(path, &expected)) {
      CHECK(0, "%s cannot be read, or has unknown options", path);
      continue;
    }
    st = agf_explain(session, &q, map, &err);
    e = st == AGF_OK ? relative_error(map, expected.data, expected.elements) : INFINITY;
    CHECK(e <= limit, "%s %s: off by %.3g, limit %.3g%s%s", name, file, e, limit, st ? ": " : "", st ? err.message : "");
    if (full) printf("  %s %s: relative error %.3g (tight limit %.3g)\n", name, file, e, 4 * rel + 2e-6);
    if (first) {
      float *again = (float *)malloc(sizeof *again * expected.elements);
      st = agf_explain(watched, &q, again, &err);
      CHECK(st == AGF_OK && !memcmp(again, map, sizeof *map * expected.elements),
            "%s %s: watched through an observer, or without AGF_RUN_EXPLAIN, the map has other bits", name, file);
      *compared += d.compared;
      CHECK(!d.told, "%s: a node's cam or g is off", name);
      free(again);
      first = 0;
      d.told = 1; /* the per-node data belong to the first map */
    }
    free(expected.data);
    free(vector);
    vector = NULL;
  }
  run_methods(root, name, full, model, session, map);
  first = run_errors(root, name, session, map) && first;
  CHECK(!first, "%s has neither maps nor errors", name);
done:
  agf_session_destroy(session);
  agf_session_destroy(watched);
  agf_model_close(model);
  free(input.data);
  free(x);
  free(map);
}

/* Returns how many nodes' cam and g were compared. */
static int run_folder(const char *root, int full) {
  char path[1024], name[256];
  int compared = 0;
  FILE *f;
  snprintf(path, sizeof path, "%s/cases.txt", root);
  f = fopen(path, "r");
  CHECK(f != NULL, "%s cannot be read", path);
  while (f && fscanf(f, "%255s", name) == 1) run_case(root, name, full, &compared);
  if (f) fclose(f);
  return compared;
}

int main(int argc, char **argv) {
  char root[512];
  int i, full = argc > 1 && !strcmp(argv[1], "--full");
  for (i = 1 + full; i < argc; i++) run_folder(argv[i], full);
  if (argc == 1) {
    snprintf(root, sizeof root, "%s/golden", tests_folder());
    CHECK(run_folder(root, 0) > 0, "no node's cam or g was compared");
    snprintf(root, sizeof root, "%s/golden-extra", tests_folder());
    run_folder(root, 0);
  }
  return tests_end();
}
