/* The plan of a session's memory, for every network of tests/golden and tests/golden-extra and the demo's: buffers that live at the
 * same moment do not overlap, a part lies within its whole and lives no longer, and all lie in the arena. A plan that breaks this
 * gives wrong maps for some sizes and numbers of threads only, which comparing maps may miss. Reads the engine's own tables. */
#include "testing.h"
#include "inside.h"

static void observe(void *ctx, const agf_observation *o) { (void)ctx, (void)o; }

/* The bytes that agf_lc's local logits take, one a place and class; 0 in networks that do not allow agf_lc,
 * or whose head has several layers: those plan for it only where they are asked to. */
static uint64_t local_bytes(const agf_session *s) {
  const agf_plan *plan = s->plan;
  const agf_tensor *t;
  if (plan->head < 0 || plan->head_linear < 0) return 0;
  t = agf_in(s, &plan->step[plan->head], 0);
  return (uint64_t)t->h * (uint64_t)t->w * (uint64_t)agf_filled(s->model->classes) * 4;
}

/* The first broken rule of a plan in words, or an empty string. Sessions that were not asked for agf_lc place its local logits in
 * memory that is free anyway; where there is none, that one buffer has no place. */
static void judge(const agf_session *s, char *text, size_t size) {
  const agf_plan *plan = s->plan;
  int i, j, homeless = 0, optional = !plan->local && !(plan->needs & AGF_NEEDS_LOCAL);
  *text = 0;
  for (i = 1; i <= plan->buffers; i++) {
    const agf_buffer *a = &plan->buffer[i], *whole = a->within ? &plan->buffer[a->within] : NULL;
    if (a->offset == UINT64_MAX && optional && !homeless++ && !whole && a->bytes == agf_align_up64(local_bytes(s))) continue;
    if (a->offset == UINT64_MAX) {
      snprintf(text, size, "buffer %d of %llu bytes has no place", i, (unsigned long long)a->bytes);
      return;
    }
    if (a->offset > plan->arena_bytes || a->bytes > plan->arena_bytes - a->offset) {
      snprintf(text, size, "buffer %d ends behind the arena", i);
      return;
    }
    if (whole && (a->offset < whole->offset || a->offset + a->bytes > whole->offset + whole->bytes)) {
      snprintf(text, size, "buffer %d is no part of buffer %d", i, a->within);
      return;
    }
    if (whole && (a->first < whole->first || a->last > whole->last)) {
      snprintf(text, size, "buffer %d lives from %d to %d, buffer %d around it from %d to %d", i, a->first, a->last, a->within,
               whole->first, whole->last);
      return;
    }
    for (j = 1; j < i; j++) {
      const agf_buffer *b = &plan->buffer[j];
      if (whole || b->within || b->offset == UINT64_MAX || a->last < b->first || b->last < a->first) continue;
      if (a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes) {
        snprintf(text, size, "buffers %d and %d share memory while both live", j, i);
        return;
      }
    }
  }
}

static void test_model(const char *path) {
  agf_model *model;
  agf_input input;
  agf_error err;
  int k, plans = 0;
  if (agf_model_open(path, NULL, &model, &err) != AGF_OK) {
    CHECK(0, "%s", err.message);
    return;
  }
  agf_model_input(model, &input);
  for (k = 0; k < 64; k++) {
    agf_session_config c;
    agf_session *s;
    char text[160];
    int grown = k >> 4 & 1; /* another size, where the network takes it */
    memset(&c, 0, sizeof c);
    c.threads = k & 1 ? 3 : 1;
    c.low_memory = k >> 1 & 1;
    c.methods = k >> 2 & 1 ? (1u << AGF_METHODS) - 1 : 0;
    c.observer = k >> 3 & 1 ? observe : NULL;
    c.isa = k >> 5 & 1 ? "ref" : NULL; /* their scratch memory differs */
    c.height = input.height * (1 + 2 * grown);
    c.width = input.width * (1 + grown);
    if (agf_session_create(model, &c, &s, &err) != AGF_OK) {
      CHECK(grown && err.code == AGF_ERR_SHAPE, "%s: %s", path, err.message);
      continue;
    }
    judge(s, text, sizeof text);
    CHECK(!*text, "%s at %dx%d, threads %d, low_memory %d, methods %#x, %s observer, %s: %s", path, c.width, c.height, c.threads,
          c.low_memory, c.methods, c.observer ? "an" : "no", s->k.isa, text);
    plans++;
    agf_session_destroy(s);
  }
  /* the configurations at the network's own size */
  CHECK(plans >= 32, "%s: %d plans", path, plans);
  agf_model_close(model);
}

int main(int argc, char **argv) {
  static const char *const folders[] = {"golden", "golden-extra"};
  char path[1024], name[128];
  size_t i;
  tests_begin(argc, argv);
  for (i = 0; i < 2; i++) {
    FILE *f;
    snprintf(path, sizeof path, "%s/%s/cases.txt", tests_folder(), folders[i]);
    f = fopen(path, "r");
    CHECK(f != NULL, "%s cannot be read", path);
    while (f && fscanf(f, "%127s", name) == 1) {
      snprintf(path, sizeof path, "%s/%s/%s/%s.agf", tests_folder(), folders[i], name, name);
      RUN_ON(test_model, path);
    }
    if (f) fclose(f);
  }
  snprintf(path, sizeof path, "%s/demo/demo.agf", tests_folder());
  RUN_ON(test_model, path);
  return tests_end();
}
