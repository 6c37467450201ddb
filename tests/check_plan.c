/* The plan of a session's memory, for every network of tests/golden and tests/golden-extra and the demo's: buffers that live at the
 * same moment do not overlap, a part lies within its whole and lives no longer, and all lie in the arena. A plan that breaks this
 * gives wrong maps for some sizes and numbers of threads only, which comparing maps may miss. And the steps whose forward pass is made
 * together leave what they leave alone. Reads the engine's own tables. */
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

/* What a run that makes steps together (agf_chain_of) leaves is what they leave one by one, every element of it; where an activation is
 * not finite, the step that made it is named. Returns how many steps were made with a convolution before them. */
static int judge_chains(agf_session *s, const float *image, const char *path) {
  const agf_plan *plan = s->plan;
  unsigned char *left = (unsigned char *)malloc((size_t)plan->arena_bytes);
  agf_error err;
  int i, k, chained = 0;
  CHECK(agf_run(s, image, AGF_RUN_EXPLAIN, &err) == AGF_OK, "%s: %s", path, err.message);
  memcpy(left, s->arena, (size_t)plan->arena_bytes);
  for (i = 0; i < plan->steps; i++) {
    agf_flow f = agf_flow_of(s, &plan->step[i], i < plan->steps - 1);
    plan->step[i].rules->forward(s, &plan->step[i], &f);
  }
  for (i = 1; i <= plan->buffers; i++) {
    const agf_buffer *b = &plan->buffer[i];
    if (b->offset + b->bytes <= plan->stay_bytes && i != plan->scratch)
      CHECK(!memcmp(left + b->offset, s->arena + b->offset, (size_t)b->bytes), "%s, %d threads: buffer %d differs", path,
            s->threads, i);
  }
  free(left);
  for (i = 0; i < plan->steps; i++)
    for (k = 1; k <= plan->step[i].chained; k++, chained++) {
      const agf_step *st = &plan->step[i + k];
      const char *name = s->model->node[st->last].name;
      float keep;
      if (!st->bias || (st->rules->traits & AGF_IS_LINEAR)) continue;
      keep = agf_floats(s, st->bias)[0];
      agf_floats(s, st->bias)[0] = INFINITY;
      CHECK(agf_run(s, image, 0, &err) == AGF_ERR_NUMERIC && strstr(err.message, name), "%s, %s: %s", path, name, err.message);
      agf_floats(s, st->bias)[0] = keep;
    }
  return chained;
}

static int chains_met;

static void test_chains(const char *path) {
  agf_model *model;
  agf_input input;
  agf_error err;
  int k, i;
  if (agf_model_open(path, NULL, &model, &err) != AGF_OK) {
    CHECK(0, "%s", err.message);
    return;
  }
  agf_model_input(model, &input);
  for (k = 0; k < 4; k++) {
    int grown = k >> 1, pixels;
    float *image;
    agf_session_config c;
    agf_session *s;
    memset(&c, 0, sizeof c);
    c.threads = k & 1 ? 3 : 1;
    c.height = input.height * (1 + 2 * grown);
    c.width = input.width * (1 + grown);
    if (agf_session_create(model, &c, &s, &err) != AGF_OK) {
      CHECK(grown && err.code == AGF_ERR_SHAPE, "%s: %s", path, err.message);
      continue;
    }
    pixels = input.channels * c.height * c.width;
    image = (float *)malloc((size_t)pixels * sizeof *image);
    for (i = 0; i < pixels; i++) image[i] = (float)((unsigned)i * 2654435761u >> 16) / 32768.0f - 1;
    chains_met += judge_chains(s, image, path);
    free(image);
    agf_session_destroy(s);
  }
  agf_model_close(model);
}

static void test_chains_were_met(void) { CHECK(chains_met > 100, "only %d steps are made with others", chains_met); }

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
      RUN_ON(test_chains, path);
    }
    if (f) fclose(f);
  }
  snprintf(path, sizeof path, "%s/demo/demo.agf", tests_folder());
  RUN_ON(test_model, path);
  RUN_ON(test_chains, path);
  RUN(test_chains_were_met);
  return tests_end();
}
