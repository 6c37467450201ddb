/* The API as a caller meets it: errors that name what is wrong, the same bits whatever the session's config, memory that stays as
 * announced, pictures. On the small golden networks. */

#include "testing.h"
#include "../agf.h"
#include "ledger.h"
#include <fenv.h>
#include <limits.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct fixture {
  agf_model *model;
  float *x;
  int shape[3], pixels;
} fixture;

static fixture open_case(const char *name) {
  fixture f;
  char path[1024];
  agf_error err;
  npy a;
  memset(&f, 0, sizeof f);
  snprintf(path, sizeof path, "%s/golden/%s/%s.agf", tests_folder(), name, name);
  if (agf_model_open(path, NULL, &f.model, &err) != AGF_OK) {
    printf("%s\n", err.message);
    exit(2);
  }
  snprintf(path, sizeof path, "%s/golden/%s/input.npy", tests_folder(), name);
  if (npy_load(path, &a)) {
    printf("%s cannot be read\n", path);
    exit(2);
  }
  f.x = npy_floats(&a);
  memcpy(f.shape, a.shape, sizeof f.shape);
  f.pixels = f.shape[1] * f.shape[2];
  free(a.data);
  return f;
}

static void close_case(fixture *f) {
  agf_model_close(f->model);
  free(f->x);
}

/* Whether a call failed with this code and a message that names `word`. */
static int refused(agf_status got, const agf_error *err, agf_status code, const char *word) {
  return got == code && err->code == code && strstr(err->message, word) != NULL;
}

/* Maps of `count` classes under a config; NULL where anything fails. */
static float *explain(const fixture *f, const agf_session_config *config, unsigned flags, int count, agf_error *err) {
  agf_session *s;
  agf_request q;
  float *maps = (float *)malloc(sizeof(float) * (size_t)(f->pixels * count));
  memset(&q, 0, sizeof q);
  q.count = count;
  if (agf_session_create(f->model, config, &s, err) != AGF_OK) {
    free(maps);
    return NULL;
  }
  if (agf_run(s, f->x, flags, err) != AGF_OK || agf_explain(s, &q, maps, err) != AGF_OK) {
    free(maps);
    maps = NULL;
  }
  agf_session_destroy(s);
  return maps;
}

static void call_each(void *ctx, int n, void (*task)(void *arg, int i), void *arg) {
  int i;
  (*(int *)ctx)++;
  for (i = n - 1; i >= 0; i--) task(arg, i);
}

/* Every way to configure a session gives the bits of the plain one. */
static void test_same_bits(const char *name) {
  fixture f = open_case(name);
  agf_error err;
  agf_session_config c;
  int calls = 0, i, mode;
  float *want, *got;
  memset(&c, 0, sizeof c);
  c.threads = 1;
  want = explain(&f, &c, AGF_RUN_EXPLAIN, 3, &err);
  CHECK(want != NULL, "%s: %s", name, err.message);
  if (!want) return;
  for (i = 0; i < 6; i++) {
    static const char *const what[] = {"2 threads",          "5 threads", "low_memory", "the caller's parallel_for",
                                       "no AGF_RUN_EXPLAIN", "ref"};
    memset(&c, 0, sizeof c);
    c.threads = i == 0 ? 2 : i == 1 ? 5 : i == 3 ? 3 : 1;
    c.low_memory = i == 2;
    c.parallel_for = i == 3 ? call_each : NULL;
    c.parallel_ctx = &calls;
    c.isa = i == 5 ? "ref" : NULL;
    got = explain(&f, &c, i == 4 ? 0 : AGF_RUN_EXPLAIN, 3, &err);
    CHECK(got && !memcmp(want, got, sizeof(float) * (size_t)(3 * f.pixels)), "%s with %s: %s", name, what[i],
          got ? "other bits" : err.message);
    free(got);
  }
  CHECK(calls > 0, "the caller's parallel_for was never called");
  mode = fegetround();
  fesetround(FE_UPWARD);
  memset(&c, 0, sizeof c);
  got = explain(&f, &c, AGF_RUN_EXPLAIN, 3, &err);
  i = fegetround();
  fesetround(mode);
  CHECK(got && !memcmp(want, got, sizeof(float) * (size_t)(3 * f.pixels)), "%s while the caller rounds upward: other bits", name);
  CHECK(i == FE_UPWARD, "the caller's rounding mode was not given back");
  free(got);
  free(want);
  close_case(&f);
}

/* Several classes in one call are the maps of one call each, in the order asked for. */
static void test_classes(void) {
  fixture f = open_case("resnet_basic");
  agf_session *s;
  agf_request q;
  agf_error err;
  int classes[3] = {4, 0, 4}, explained[3] = {-1, -1, -1}, i;
  float *maps = (float *)malloc(sizeof(float) * (size_t)(3 * f.pixels)), *one = (float *)malloc(sizeof(float) * (size_t)f.pixels);
  agf_session_create(f.model, NULL, &s, &err);
  memset(&q, 0, sizeof q);
  q.count = 3;
  q.classes = classes;
  q.explained = explained;
  CHECK(agf_explain(s, &q, maps, &err) == AGF_ERR_STATE, "explaining before running must be refused");
  CHECK(agf_logits(s) == NULL && agf_ranked(s, 0) == -1, "there are no logits before a run");
  agf_run(s, f.x, 0, &err);
  CHECK(agf_explain(s, &q, maps, &err) == AGF_OK, "%s", err.message);
  CHECK(!memcmp(classes, explained, sizeof classes), "explained classes %d %d %d", explained[0], explained[1], explained[2]);
  for (i = 0; i < 3; i++) {
    q.count = 1;
    q.classes = &classes[i];
    agf_explain(s, &q, one, &err);
    CHECK(!memcmp(one, maps + i * f.pixels, sizeof(float) * (size_t)f.pixels), "map %d differs when asked for alone", i);
  }
  q.classes = NULL;
  q.count = 2;
  agf_explain(s, &q, maps, &err);
  for (i = 0; i < agf_model_classes(f.model); i++)
    CHECK(agf_logits(s)[explained[0]] >= agf_logits(s)[i], "class %d is ranked first, but class %d is larger", explained[0], i);
  CHECK(explained[0] == agf_ranked(s, 0) && explained[1] == agf_ranked(s, 1), "ranks and agf_ranked disagree");
  q.classes = classes;
  classes[1] = agf_model_classes(f.model);
  CHECK(refused(agf_explain(s, &q, maps, &err), &err, AGF_ERR_ARGUMENT, "class 9"), "a class that does not exist: %s", err.message);
  classes[1] = 0;
  q.options = 1u << 20;
  CHECK(refused(agf_explain(s, &q, maps, &err), &err, AGF_ERR_ARGUMENT, "options"), "unknown options: %s", err.message);
  agf_session_destroy(s);
  close_case(&f);
  free(maps);
  free(one);
}

/* agf_neighbours against a plain search in double: sizes that are and are no multiple of 32, vectors far from 0 and near each other (whose
 * squares cancel in float32), copies of the query, banks of fewer than k. */
static void test_neighbours(void) {
  enum { COUNT = 150, QUERIES = 3, SIZE = 70, K = 9 };
  static float bank[COUNT * SIZE], query[QUERIES * SIZE];
  static const int sizes[] = {1, 31, 32, 33, 64, SIZE};
  int nearest[QUERIES * K], i, j, q, round, wrong;
  double distance[QUERIES * K];
  uint32_t random = 1;
  agf_error err;
  for (round = 0; round < 12; round++) {
    int size = sizes[round % 6], others = round >= 6, from, n;
    float far = round % 2 ? 1000.0f : 0.0f;
    for (i = 0; i < COUNT * SIZE; i++) bank[i] = far + (float)((random = random * 1664525u + 1013904223u) >> 16) / 65536.0f;
    for (i = 0; i < QUERIES * SIZE; i++) query[i] = far + (float)((random = random * 1664525u + 1013904223u) >> 16) / 65536.0f;
    for (i = 0; i < 2; i++) memcpy(bank + (70 + i) * size, query + size, sizeof *bank * (size_t)size); /* two copies of query 1 */
    memset(distance, 0xA5, sizeof distance);
    CHECK(agf_neighbours(bank, COUNT, query, QUERIES, size, K, others ? AGF_NEIGHBOURS_OTHERS : 0, nearest, distance, &err) ==
              AGF_OK,
          "%s", err.message);
    for (q = wrong = 0; q < QUERIES; q++) {
      double before = -1;
      int place = -1;
      for (n = 0; n < K; n++) { /* the next one behind (before, place) in the order of distance, then place */
        double best = INFINITY, d;
        for (from = -1, i = 0; i < COUNT; i++) {
          for (d = 0, j = 0; j < size; j++)
            d += ((double)bank[i * size + j] - query[q * size + j]) * ((double)bank[i * size + j] - query[q * size + j]);
          if ((d > before || (d == before && i > place)) && d < best && !(others && d == 0)) {
            best = d;
            from = i;
          }
        }
        wrong += nearest[q * K + n] != from || distance[q * K + n] != sqrt(best);
        before = best;
        place = from;
      }
    }
    CHECK(!wrong, "%d of %d neighbours among vectors of %d values around %g are others than a plain search finds", wrong,
          QUERIES * K, size, far);
  }
  CHECK(agf_neighbours(bank, 4, query, 1, SIZE, 6, 0, nearest, distance, &err) == AGF_OK && nearest[3] >= 0 && nearest[4] == -1 &&
            nearest[5] == -1 && isinf(distance[5]),
        "a bank of 4 has %d as its fifth", nearest[4]);
  CHECK(refused(agf_neighbours(bank, 0, query, 1, SIZE, 1, 0, nearest, distance, &err), &err, AGF_ERR_ARGUMENT, "at least 1"), "%s",
        err.message);
  CHECK(refused(agf_neighbours(bank, 4, query, 1, SIZE, 0, 0, nearest, distance, &err), &err, AGF_ERR_ARGUMENT, "at least 1"), "%s",
        err.message);
  CHECK(refused(agf_neighbours(NULL, 4, query, 1, SIZE, 1, 0, nearest, distance, &err), &err, AGF_ERR_ARGUMENT, "NULL"), "%s",
        err.message);
  CHECK(refused(agf_neighbours(bank, 4, query, 1, SIZE, 1, 2, nearest, distance, &err), &err, AGF_ERR_ARGUMENT, "flags"), "%s",
        err.message);
  CHECK(refused(agf_neighbours(bank, 4, query, 1, SIZE, 1, 0, (int *)(void *)bank, distance, &err), &err, AGF_ERR_ARGUMENT,
                "overlaps"),
        "%s", err.message);
  CHECK(
      refused(agf_neighbours(bank, INT_MAX, query, INT_MAX, INT_MAX, INT_MAX, 0, nearest, distance, &err), &err, AGF_ERR_LIMIT, ""),
      "%s", err.message);
  bank[100 * SIZE + 3] = NAN;
  CHECK(refused(agf_neighbours(bank, COUNT, query, 1, SIZE, 1, 0, nearest, distance, &err), &err, AGF_ERR_NUMERIC, "vector 100"),
        "%s", err.message);
  bank[100 * SIZE + 3] = INFINITY;
  CHECK(refused(agf_neighbours(bank, COUNT, query, 1, SIZE, 1, 0, nearest, distance, &err), &err, AGF_ERR_NUMERIC, "vector 100"),
        "%s", err.message);
  bank[100 * SIZE + 3] = 1e38f; /* its square is beyond float32, its distance is not */
  CHECK(agf_neighbours(bank, COUNT, query, 1, SIZE, 1, 0, nearest, distance, &err) == AGF_OK && nearest[0] != 100, "%s",
        err.message);
  query[5] = NAN;
  CHECK(refused(agf_neighbours(bank, 4, query, 1, SIZE, 1, 0, nearest, distance, &err), &err, AGF_ERR_NUMERIC, "vector 0"), "%s",
        err.message);
}

/* The latent vector itself as the difference is the ordinary seed: the same logits, the same map. */
static void test_label_free(const char *name) {
  fixture f = open_case(name);
  agf_session *s;
  agf_request q;
  agf_error err;
  float *want = (float *)malloc(sizeof(float) * (size_t)f.pixels), *got = (float *)malloc(sizeof(float) * (size_t)f.pixels),
        *latent;
  int target = -1;
  agf_session_create(f.model, NULL, &s, &err);
  agf_run(s, f.x, 0, &err);
  latent = (float *)malloc(sizeof(float) * (size_t)agf_latent_size(s));
  CHECK(agf_latent(s, latent, &err) == AGF_OK, "%s", err.message);
  memset(&q, 0, sizeof q);
  q.count = 1;
  q.explained = &target;
  agf_explain(s, &q, want, &err);
  q.difference = latent;
  CHECK(agf_explain(s, &q, got, &err) == AGF_OK && !memcmp(want, got, sizeof(float) * (size_t)f.pixels) &&
            target == agf_ranked(s, 0),
        "%s: seeded with its own latent vector the map changes", name);
  latent[0] = NAN;
  CHECK(refused(agf_explain(s, &q, got, &err), &err, AGF_ERR_NUMERIC, "difference"), "NaN in the difference: %s", err.message);
  agf_session_destroy(s);
  close_case(&f);
  free(latent);
  free(want);
  free(got);
}

static void test_sizes(void) {
  fixture f = open_case("vgg_bn_nonsquare"), g = open_case("vgg_tiny");
  agf_session_config c;
  agf_session *s;
  agf_error err;
  agf_layer layer;
  size_t bytes = 0, small = 0, low = 0;
  float *image, *map;
  agf_request q;
  int i;
  memset(&c, 0, sizeof c);
  memset(&q, 0, sizeof q);
  q.count = 1;
  c.height = 52; /* an adaptive pool makes other sizes possible */
  c.width = 33;
  image = (float *)malloc(sizeof(float) * 3 * 52 * 33);
  map = (float *)malloc(sizeof(float) * 52 * 33);
  for (i = 0; i < 3 * 52 * 33; i++) image[i] = f.x[i];
  CHECK(agf_session_create(f.model, &c, &s, &err) == AGF_OK, "%s", err.message);
  CHECK(agf_run(s, image, 0, &err) == AGF_OK && agf_explain(s, &q, map, &err) == AGF_OK, "52 x 33 pixels: %s", err.message);
  agf_session_destroy(s);
  CHECK(agf_model_layer(f.model, 0, 52, 33, &layer, &err) == AGF_OK && layer.shape[1] == 52 && layer.shape[2] == 33,
        "the first layer's shape at 52 x 33");
  c.height = c.width = 7;
  CHECK(refused(agf_session_create(g.model, &c, &s, &err), &err, AGF_ERR_SHAPE, "maxpool") && s == NULL,
        "an image too small for the pools: %s", err.message);
  c.height = -1;
  CHECK(refused(agf_session_create(g.model, &c, &s, &err), &err, AGF_ERR_SHAPE, "-1"), "a negative height: %s", err.message);
  memset(&c, 0, sizeof c);
  c.threads = 1;
  agf_session_bytes(g.model, &c, &bytes, &err);
  c.low_memory = 1;
  agf_session_bytes(g.model, &c, &low, &err);
  CHECK(bytes > 0 && low < bytes, "low_memory needs %lu bytes, the plain session %lu", (unsigned long)low, (unsigned long)bytes);
  c.low_memory = 0;
  c.max_bytes = bytes / 2;
  CHECK(refused(agf_session_bytes(g.model, &c, &small, &err), &err, AGF_ERR_LIMIT, "max_bytes"), "above max_bytes: %s",
        err.message);
  c.max_bytes = 0;
  c.isa = "avx9000";
  CHECK(refused(agf_session_create(g.model, &c, &s, &err), &err, AGF_ERR_ARGUMENT, "avx9000"), "unknown isa: %s", err.message);
  c.isa = NULL;
  c.threads = -1;
  CHECK(refused(agf_session_create(g.model, &c, &s, &err), &err, AGF_ERR_ARGUMENT, "threads"), "-1 threads: %s", err.message);
  close_case(&f);
  close_case(&g);
  free(image);
  free(map);
}

/* Nothing is allocated while running and explaining, nothing leaks, and every allocation may fail. */
static void test_memory(void) {
  fixture f = open_case("squeeze_tiny");
  ledger l;
  agf_allocator a;
  agf_model_config mc;
  agf_session_config c;
  agf_model *model;
  agf_session *s;
  agf_request q;
  agf_error err;
  agf_status st = AGF_ERR_MEMORY;
  char path[1024];
  float *map = (float *)malloc(sizeof(float) * (size_t)f.pixels), *again = (float *)malloc(sizeof(float) * (size_t)f.pixels);
  unsigned char *memory;
  size_t bytes;
  long calls, fail;
  memset(&q, 0, sizeof q);
  q.count = 1;
  a = ledger_allocator(&l);
  memset(&mc, 0, sizeof mc);
  mc.allocator = &a;
  memset(&c, 0, sizeof c);
  c.allocator = &a;
  snprintf(path, sizeof path, "%s/golden/squeeze_tiny/squeeze_tiny.agf", tests_folder());
  for (fail = 1; st == AGF_ERR_MEMORY; fail++) {
    memset(&l, 0, sizeof l);
    l.fail_at = fail;
    s = NULL;
    st = agf_model_open(path, &mc, &model, &err);
    if (st == AGF_OK) st = agf_session_create(model, &c, &s, &err);
    if (st == AGF_OK) {
      l.fail_at = 0;
      agf_session_bytes(model, &c, &bytes, &err);
      CHECK(l.live >= bytes && l.live < bytes + 65536, "announced %lu bytes, taken %lu", (unsigned long)bytes,
            (unsigned long)l.live);
      calls = l.calls;
      CHECK(agf_run(s, f.x, 0, &err) == AGF_OK && agf_explain(s, &q, map, &err) == AGF_OK, "%s", err.message);
      CHECK(l.calls == calls, "%ld allocations while running and explaining", l.calls - calls);
    } else {
      CHECK(st == AGF_ERR_MEMORY && err.message[0], "allocation %ld failing gives %s", fail, agf_status_name(st));
    }
    agf_session_destroy(s);
    agf_model_close(model);
    CHECK(l.blocks == 0 && l.live == 0, "%ld blocks leak after allocation %ld failed", l.blocks, fail);
  }
  CHECK(st == AGF_OK && fail > 3, "opening and creating never succeeded");

  /* the caller's memory, and not a byte beyond what was announced */
  c.threads = 1;
  c.allocator = NULL;
  agf_session_bytes(f.model, &c, &bytes, &err);
  if (posix_memalign((void **)&memory, 64, bytes + 128)) exit(2);
  memset(memory, 0xff, bytes + 128); /* NaN */
  c.memory = memory;
  c.memory_bytes = bytes;
  CHECK(agf_session_create(f.model, &c, &s, &err) == AGF_OK, "%s", err.message);
  CHECK(agf_run(s, f.x, 0, &err) == AGF_OK && agf_explain(s, &q, again, &err) == AGF_OK, "%s", err.message);
  CHECK(!memcmp(map, again, sizeof(float) * (size_t)f.pixels), "in the caller's memory the map has other bits");
  agf_session_destroy(s);
  for (fail = 0; fail < 128 && memory[bytes + (size_t)fail] == 0xff; fail++) continue;
  CHECK(fail == 128, "the session wrote beyond its announced %lu bytes", (unsigned long)bytes);
  c.memory_bytes = bytes - 1;
  CHECK(refused(agf_session_create(f.model, &c, &s, &err), &err, AGF_ERR_MEMORY, "bytes"), "memory too small: %s", err.message);
  c.memory = memory + 4;
  c.memory_bytes = bytes;
  CHECK(refused(agf_session_create(f.model, &c, &s, &err), &err, AGF_ERR_ARGUMENT, "aligned"), "misaligned memory: %s",
        err.message);
  free(memory);
  free(map);
  free(again);
  close_case(&f);
}

static int stop_halfway(void *ctx, double done) {
  *(double *)ctx = done;
  return done >= 0.5;
}

static void test_run_errors(void) {
  fixture f = open_case("vgg_tiny");
  agf_session_config c;
  agf_session *s;
  agf_request q;
  agf_error err;
  float keep, *map = (float *)malloc(sizeof(float) * (size_t)f.pixels),
              *huge = (float *)malloc(sizeof(float) * (size_t)(3 * f.pixels));
  double done = -1;
  int i;
  memset(&c, 0, sizeof c);
  memset(&q, 0, sizeof q);
  q.count = 1;
  agf_session_create(f.model, &c, &s, &err);
  keep = f.x[100];
  f.x[100] = INFINITY;
  CHECK(refused(agf_run(s, f.x, 0, &err), &err, AGF_ERR_NUMERIC, "image"), "an infinite pixel: %s", err.message);
  CHECK(agf_explain(s, &q, map, &err) == AGF_ERR_STATE, "explaining after a failed run");
  f.x[100] = keep;
  for (i = 0; i < 3 * f.pixels; i++) huge[i] = 3e38f;
  CHECK(refused(agf_run(s, huge, 0, &err), &err, AGF_ERR_NUMERIC, "layer"), "activations that overflow: %s", err.message);
  free(huge);
  CHECK(agf_run(s, f.x, 0, &err) == AGF_OK, "the session works on: %s", err.message);
  agf_session_destroy(s);
  c.progress = stop_halfway;
  c.progress_ctx = &done;
  agf_session_create(f.model, &c, &s, &err);
  CHECK(agf_run(s, f.x, 0, &err) == AGF_ERR_CANCELLED && done >= 0.5 && done < 1, "cancelled at %g", done);
  agf_session_destroy(s);
  CHECK(agf_run(NULL, f.x, 0, &err) == AGF_ERR_ARGUMENT && agf_session_create(NULL, NULL, &s, NULL) == AGF_ERR_ARGUMENT,
        "NULL arguments");
  agf_session_destroy(NULL);
  agf_model_close(NULL);
  free(map);
  close_case(&f);
}

/* Memory of the caller's that lies where it should not: across the model's, at odd addresses; and in one place for input and
 * output, which is allowed. */
static void test_callers_memory(void) {
  fixture f = open_case("squeeze_tiny");
  size_t bytes, file = (size_t)agf_model_file_bytes(f.model), latents;
  agf_session_config c;
  agf_session *s;
  agf_model *m;
  agf_request q;
  agf_error err;
  float *want, *both, *difference, *maps;
  unsigned char *memory, *odd;
  uint8_t rgb[3 * 4 * 4] = {9};
  int classes[2] = {2, 0};
  char path[1024];
  FILE *from;
  memset(&c, 0, sizeof c);
  memset(&q, 0, sizeof q);
  q.count = 1;
  c.threads = 1;
  agf_session_bytes(f.model, &c, &bytes, &err);
  bytes = (bytes + 63) / 64 * 64;
  snprintf(path, sizeof path, "%s/golden/squeeze_tiny/squeeze_tiny.agf", tests_folder());
  from = fopen(path, "rb");
  if (!from || posix_memalign((void **)&memory, 64, bytes + file) || fread(memory + bytes, 1, file, from) != file) exit(2);
  fclose(from);
  CHECK(agf_model_open_memory(memory + bytes, file, NULL, &m, &err) == AGF_OK, "%s", err.message);
  c.memory = memory;
  c.memory_bytes = bytes + 64;
  CHECK(refused(agf_session_create(m, &c, &s, &err), &err, AGF_ERR_ARGUMENT, "overlaps"), "a session on its model: %s",
        err.message);
  c.memory_bytes = bytes;
  CHECK(agf_session_create(m, &c, &s, &err) == AGF_OK, "right before its model: %s", err.message);

  want = explain(&f, NULL, 0, 1, &err);
  both = (float *)malloc(sizeof(float) * (size_t)(3 * f.pixels) + 4);
  memcpy(both, f.x, sizeof(float) * (size_t)(3 * f.pixels));
  odd = (unsigned char *)both + 1;
  CHECK(agf_run(s, both, 0, &err) == AGF_OK && agf_explain(s, &q, both, &err) == AGF_OK &&
            !memcmp(both, want, sizeof(float) * (size_t)f.pixels),
        "a map over its image has other bits");
  latents = (size_t)agf_latent_size(s);
  difference = (float *)malloc(sizeof(float) * (latents + (size_t)(2 * f.pixels)));
  maps = (float *)malloc(sizeof(float) * (size_t)(2 * f.pixels));
  q.count = 2;
  q.classes = classes;
  q.difference = difference;
  CHECK(agf_latent(s, difference, &err) == AGF_OK && agf_explain(s, &q, maps, &err) == AGF_OK, "%s", err.message);
  q.explained = classes;
  CHECK(agf_explain(s, &q, difference, &err) == AGF_OK && !memcmp(difference, maps, sizeof(float) * (size_t)(2 * f.pixels)) &&
            classes[0] == 2 && classes[1] == 0,
        "maps over the difference, classes over classes: other bits");

  q.difference = NULL;
  CHECK(refused(agf_run(s, (float *)(void *)odd, 0, &err), &err, AGF_ERR_ARGUMENT, "misaligned"), "an odd image: %s", err.message);
  CHECK(refused(agf_explain(s, &q, (float *)(void *)odd, &err), &err, AGF_ERR_ARGUMENT, "misaligned"), "odd maps: %s", err.message);
  q.difference = (float *)(void *)odd;
  CHECK(refused(agf_explain(s, &q, maps, &err), &err, AGF_ERR_ARGUMENT, "misaligned"), "an odd difference: %s", err.message);
  q.difference = NULL;
  q.classes = (int *)(void *)odd;
  CHECK(refused(agf_explain(s, &q, maps, &err), &err, AGF_ERR_ARGUMENT, "misaligned"), "odd classes: %s", err.message);
  CHECK(refused(agf_latent(s, (float *)(void *)odd, &err), &err, AGF_ERR_ARGUMENT, "misaligned"), "an odd latent: %s", err.message);
  CHECK(refused(agf_render((float *)(void *)odd, 1, 1, AGF_CMAP_JET, 0, rgb, 4, 4, 12, 3, &err), &err, AGF_ERR_ARGUMENT,
                "misaligned"),
        "an odd map: %s", err.message);
  CHECK(
      refused(agf_picture_to_input(m, 0, 0, rgb, 4, 4, 12, (float *)(void *)odd, NULL, &err), &err, AGF_ERR_ARGUMENT, "misaligned"),
      "an odd input: %s", err.message);
  agf_session_destroy(s);
  agf_model_close(m);
  free(memory);
  free(want);
  free(both);
  free(difference);
  free(maps);
  close_case(&f);
}

/* Every truncation is refused, and so is any changed byte; with an explanation that is not empty. */
static void test_damaged_files(void) {
  char path[1024];
  unsigned char *data;
  FILE *f;
  long n, i;
  int accepted = 0, silent = 0;
  agf_model_config mc;
  agf_error err;
  agf_model *m;
  memset(&mc, 0, sizeof mc);
  snprintf(path, sizeof path, "%s/golden/squeeze_tiny/squeeze_tiny.agf", tests_folder());
  f = fopen(path, "rb");
  if (!f || fseek(f, 0, SEEK_END) || (n = ftell(f)) <= 0) exit(2);
  rewind(f);
  if (posix_memalign((void **)&data, 64, (size_t)n) || fread(data, 1, (size_t)n, f) != (size_t)n) exit(2);
  fclose(f);
  CHECK(agf_model_open_memory(data, (size_t)n, NULL, &m, &err) == AGF_OK, "%s", err.message);
  agf_model_close(m);
  CHECK(refused(agf_model_open_memory(data + 4, (size_t)n - 4, NULL, &m, &err), &err, AGF_ERR_ARGUMENT, "aligned"),
        "misaligned: %s", err.message);
  for (i = 0; i < n; i += i < 4096 ? 1 : 997) {
    accepted += agf_model_open_memory(data, (size_t)i, NULL, &m, &err) == AGF_OK;
    silent += !err.message[0];
    agf_model_close(m);
    data[i] ^= 0x10;
    accepted += agf_model_open_memory(data, (size_t)n, NULL, &m, &err) == AGF_OK;
    silent += !err.message[0];
    agf_model_close(m);
    data[i] ^= 0x10;
  }
  CHECK(!accepted, "%d damaged files were accepted", accepted);
  CHECK(!silent, "%d refusals without a message", silent);
  data[8] = AGF_FORMAT_VERSION + 1;
  CHECK(refused(agf_model_open_memory(data, (size_t)n, NULL, &m, &err), &err, AGF_ERR_VERSION, "version 3"), "a newer file: %s",
        err.message);
  free(data);
  CHECK(refused(agf_model_open("no/such.agf", NULL, &m, &err), &err, AGF_ERR_IO, "no/such.agf"), "no such file: %s", err.message);
  snprintf(path, sizeof path, "%s/testing.h", tests_folder());
  CHECK(refused(agf_model_open(path, NULL, &m, &err), &err, AGF_ERR_FORMAT, "not an .agf"), "not a model: %s", err.message);
  mc.max_bytes = 100;
  CHECK(refused(agf_model_open(path, &mc, &m, &err), &err, AGF_ERR_LIMIT, path) && strstr(err.message, "max_bytes 100"),
        "a file beyond max_bytes: %s", err.message);
}

static void test_rendering(void) {
  float map[4] = {-2, 0, 1, 2};
  uint8_t out[4 * 4], photo[2 * 3];
  agf_rect right = {1, 0, 1, 1};
  agf_error err;
  int cmap;
  CHECK(agf_colormap_find("turbo") == AGF_CMAP_TURBO && agf_colormap_find("plaid") == -1, "colormaps by name");
  for (cmap = 0; cmap < AGF_COLORMAPS; cmap++)
    CHECK(agf_colormap_find(agf_colormap_name((agf_colormap)cmap)) == cmap, "colormap %d is not found by its name", cmap);
  CHECK(agf_render(map, 1, 4, AGF_CMAP_RDBU, 0, out, 4, 1, 16, 4, &err) == AGF_OK && out[2] > 160 && out[0] < 40 && out[12] > 160 &&
            out[14] < 60 && out[4] == 255 && out[5] == 255 && out[6] == 255,
        "rdbu is not blue, white, red: %d %d %d", out[0], out[1], out[2]);
  CHECK(agf_render(map, 1, 4, AGF_CMAP_SEISMIC, 0, out, 4, 1, 16, 4, &err) == AGF_OK, "%s", err.message);
  CHECK(out[2] > 0 && out[0] == 0 && out[3] == 255, "the most negative value is not blue and opaque: %d %d %d", out[0], out[1],
        out[2]);
  CHECK(out[4] == 255 && out[5] == 255 && out[6] == 255 && out[7] == 0, "0 is not white and transparent");
  CHECK(out[12] > 0 && out[13] == 0 && out[14] == 0, "the most positive value is not red");
  map[0] = NAN;
  CHECK(refused(agf_render(map, 1, 4, AGF_CMAP_JET, 0, out, 4, 1, 16, 4, &err), &err, AGF_ERR_NUMERIC, "NaN"), "NaN: %s",
        err.message);
  CHECK(agf_render(map + 1, 1, 3, AGF_CMAP_JET, 0, out, 4, 1, 3, 4, &err) == AGF_ERR_ARGUMENT, "rows shorter than the picture");
  memset(photo, 100, sizeof photo);
  CHECK(agf_overlay(map + 3, 1, 1, AGF_CMAP_SEISMIC, 0, 1, &right, photo, 2, 1, 6, &err) == AGF_OK, "%s", err.message);
  CHECK(photo[0] == 100 && photo[3] == 255 && photo[4] == 0, "the overlay left its rectangle, or is not red: %d %d", photo[0],
        photo[3]);
}

/* The ground of an overlay: light gray where the network looked, pale elsewhere; nothing beyond its rows is written. */
static void test_photo_mute(void) {
  uint8_t photo[2][12] = {{0, 0, 0, 255, 0, 0, 255, 255, 255, 7, 7, 7}, {0, 255, 0, 0, 0, 255, 0, 0, 0, 7, 7, 7}};
  static const uint8_t wanted[2][3] = {{89, 139, 255}, {187, 108, 191}};
  agf_rect seen = {0, 0, 2, 2};
  char backwards[40];
  agf_error err;
  int x, y;
  snprintf(backwards, sizeof backwards, "rows of %llu bytes", (unsigned long long)(SIZE_MAX - 11));
  CHECK(agf_photo_mute(&seen, photo[0], 3, 2, 12, &err) == AGF_OK, "%s", err.message);
  for (y = 0; y < 2; y++)
    for (x = 0; x < 3; x++)
      CHECK(photo[y][3 * x] == wanted[y][x] && photo[y][3 * x + 1] == wanted[y][x] && photo[y][3 * x + 2] == wanted[y][x],
            "pixel %d, %d: %d %d %d", x, y, photo[y][3 * x], photo[y][3 * x + 1], photo[y][3 * x + 2]);
  CHECK(photo[0][9] == 7 && photo[1][11] == 7, "it wrote beyond its rows");
  CHECK(agf_photo_mute(NULL, photo[0], 1, 1, 12, &err) == AGF_OK && photo[0][0] == 147, "89 again: %d", photo[0][0]);
  CHECK(refused(agf_photo_mute(NULL, photo[0], 3, 2, 8, &err), &err, AGF_ERR_ARGUMENT, "8 bytes"), "rows too short: %s",
        err.message);
  CHECK(refused(agf_photo_mute(NULL, photo[1], 3, 2, SIZE_MAX - 11, &err), &err, AGF_ERR_ARGUMENT, backwards), "rows backwards: %s",
        err.message);
}

static int compare_magnitudes(const void *a, const void *b) {
  float x = fabsf(*(const float *)a), y = fabsf(*(const float *)b);
  return (x < y) - (x > y);
}

/* The end of the scale is the magnitude that 0.5 % of the pixels exceed, whatever the map holds. */
static void test_scale_of_a_map(void) {
  enum { SIDE = 61 };
  static float map[SIDE * SIDE], sorted[SIDE * SIDE];
  uint32_t state = 7;
  int trial, i;
  for (trial = 0; trial < 60; trial++) {
    int height = 1 + trial % SIDE, width = 1 + trial * 7 % SIDE, n = height * width;
    for (i = 0; i < n; i++) {
      state = state * 1664525u + 1013904223u;
      map[i] = ((float)(state >> 8) / (1 << 23) - 1) * powf(10, (float)(trial % 9) * 8 - 40); /* down to subnormal numbers */
      if (trial % 4 == 3 && i % 3) map[i] = map[0];                                           /* many that are equal */
    }
    memcpy(sorted, map, sizeof(float) * (size_t)n);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_magnitudes);
    CHECK(agf_map_scale(map, height, width) == fabsf(sorted[n / 200]), "%d x %d: %g instead of %g", height, width,
          agf_map_scale(map, height, width), fabsf(sorted[n / 200]));
  }
  memset(map, 0, sizeof map);
  CHECK(agf_map_scale(map, SIDE, SIDE) == 1, "a map of zeros has no scale");
  map[5] = -3;
  CHECK(agf_map_scale(map, SIDE, SIDE) == 3, "one pixel alone gives the scale");
  map[6] = INFINITY;
  CHECK(agf_map_scale(map, SIDE, SIDE) == 0 && agf_map_scale(NULL, 1, 1) == 0 && agf_map_scale(map, 0, 5) == 0, "no map, no scale");
}

static void test_box_of_a_map(void) {
  static float map[20 * 30];
  agf_box box;
  agf_error err;
  int x, y;
  for (y = 5; y < 9; y++)
    for (x = 10; x < 16; x++) map[y * 30 + x] = 1;
  CHECK(agf_map_box(map, 20, 30, 0.9, &box, &err) == AGF_OK, "%s", err.message);
  CHECK(box.left == 10 && box.top == 5 && box.width == 6 && box.height == 4 && box.x == 13 && box.y == 7, "%d %d %d %d, %g %g",
        box.left, box.top, box.width, box.height, box.x, box.y);
  map[0] = map[19 * 30 + 29] = 0.5f; /* a sixtieth of the evidence in two corners */
  map[2 * 30 + 3] = -9;              /* evidence against counts for nothing */
  CHECK(agf_map_box(map, 20, 30, 0.9, &box, &err) == AGF_OK && box.left == 10 && box.width == 6 && box.top == 5 && box.height == 4,
        "stray pixels move the box: %d %d %d %d", box.left, box.top, box.width, box.height);
  CHECK(agf_map_box(map, 20, 30, 1, &box, &err) == AGF_OK && box.left == 0 && box.width == 30 && box.top == 0 && box.height == 20,
        "all of it: %d %d %d %d", box.left, box.top, box.width, box.height);
  CHECK(agf_map_box(map, 1, 1, 0.01, &box, &err) == AGF_OK && box.width == 1 && box.height == 1, "one pixel: %s", err.message);
  memset(map, 0, sizeof map);
  map[3] = -1;
  CHECK(refused(agf_map_box(map, 20, 30, 0.9, &box, &err), &err, AGF_ERR_NUMERIC, "no positive"), "nothing: %s", err.message);
  CHECK(refused(agf_map_box(map, 20, 30, 0, &box, &err), &err, AGF_ERR_ARGUMENT, "share"), "no share: %s", err.message);
}

/* What an ambiguous, a loose and an unknown name find, in a network with ten labels. */
static void test_finding_a_class(void) {
  static const struct {
    const char *text;
    int found, first;
  } names[] = {{"cup", 1, 1}, {"CuP", 1, 1},  {"cu", 1, 1}, {"umbrella", 1, 9}, {"ROOM", 1, 5},    {"tree ", 0, -1},
               {"e", 6, 0},   {"boat", 1, 7}, {"", 0, -1},  {",", 0, -1},       {"cupcup", 0, -1}, {"house", 1, 3}};
  const char *path = getenv("AGF_DEMO");
  agf_model *model = NULL;
  agf_error err;
  int some[2], k;
  size_t i;
  CHECK(agf_model_open(path ? path : "tests/demo/demo.agf", NULL, &model, &err) == AGF_OK, "%s", err.message);
  for (i = 0; i < sizeof names / sizeof *names; i++) {
    some[0] = -1;
    k = agf_model_find(model, names[i].text, some, 1);
    CHECK(k == names[i].found && some[0] == names[i].first, "'%s': %d found, the first %d", names[i].text, k, some[0]);
  }
  some[1] = -1;
  CHECK(agf_model_find(model, "e", NULL, 0) == 6 && agf_model_find(model, "e", some, 2) == 6 && some[1] == 3,
        "butterfly, house: %d", some[1]);
  CHECK(agf_model_find(NULL, "cup", some, 2) == 0 && agf_model_find(model, NULL, some, 2) == 0, "NULL finds nothing");
  for (k = 0; k < agf_model_classes(model); k++)
    CHECK(agf_model_find(model, agf_model_label(model, k), some, 1) == 1 && some[0] == k, "the label of class %d", k);
  agf_model_close(model);
}

/* Every pixel format, with gaps between rows and between planes and without, against values worked out by hand. */
static void test_pixel_formats(void) {
  enum { W = 5, H = 3, GAP = 7 };
  /* red, white, black, mid gray and blue as BT.601 video has them: Y, Cb, Cr */
  static const uint8_t yuv[5][3] = {{81, 90, 240}, {235, 128, 128}, {16, 128, 128}, {126, 128, 128}, {41, 240, 110}};
  static const uint8_t rgb_of[5][3] = {{254, 0, 0}, {255, 255, 255}, {0, 0, 0}, {128, 128, 128}, {0, 0, 255}};
  static const size_t sizes[AGF_PIXEL_FORMATS] = {45, 45, 15, 15 + 2 * 6, 15 + 12};
  uint8_t tight[64], rows[256], whole[3 * W * H], loose[256];
  agf_picture p;
  agf_error err;
  int format, c, x, y, i;
  for (format = 0; format < AGF_PIXEL_FORMATS; format++) {
    CHECK(agf_pixel_format_find(agf_pixel_format_name((agf_pixel_format)format)) == format, "the name of format %d", format);
    CHECK(agf_picture_bytes((agf_pixel_format)format, W, H) == sizes[format], "format %d: %lu bytes", format,
          (unsigned long)agf_picture_bytes((agf_pixel_format)format, W, H));
    for (c = 0; c < 5; c++) { /* a picture of one colour, then one gray step brighter in its last pixel */
      memset(&p, 0, sizeof p);
      p.format = (agf_pixel_format)format;
      p.width = W;
      p.height = H;
      p.planes[0] = tight;
      for (i = 0; i < (int)sizes[format]; i++) {
        if (format == AGF_PIXELS_RGB24) tight[i] = rgb_of[c][i % 3];
        if (format == AGF_PIXELS_BGR24) tight[i] = rgb_of[c][2 - i % 3];
        if (format == AGF_PIXELS_GRAY) tight[i] = rgb_of[c][1];
        if (format == AGF_PIXELS_YUV420) tight[i] = yuv[c][i < 15 ? 0 : i < 21 ? 1 : 2];
        if (format == AGF_PIXELS_NV12) tight[i] = yuv[c][i < 15 ? 0 : 1 + (i - 15) % 2];
      }
      CHECK(agf_picture_to_rgb(&p, whole, 3 * W, &err) == AGF_OK, "%s", err.message);
      for (i = 0; i < 3 * W * H; i++) {
        int want = format == AGF_PIXELS_GRAY ? rgb_of[c][1] : rgb_of[c][i % 3];
        CHECK(abs(whole[i] - want) <= (format >= AGF_PIXELS_YUV420), "%s, colour %d, byte %d: %d, not %d", /* Y has 219 steps */
              agf_pixel_format_name((agf_pixel_format)format), c, i, whole[i], want);
      }
    }
    for (i = 0; i < (int)sizes[format]; i++) tight[i] = (uint8_t)(31 * i + 5);
    CHECK(agf_picture_to_rgb(&p, whole, 3 * W, &err) == AGF_OK, "%s", err.message);
    { /* the same pixels, each plane's rows 20 apart and planes 80 apart */
      static const int row_bytes[AGF_PIXEL_FORMATS][3] = {{15}, {15}, {5}, {5, 3, 3}, {5, 6}};
      int from = 0, plane;
      memset(rows, 0xAA, sizeof rows);
      for (plane = 0; plane < 3 && row_bytes[format][plane]; plane++) {
        for (y = 0; y < (plane ? 2 : H); y++, from += row_bytes[format][plane])
          memcpy(rows + 80 * plane + 20 * y, tight + from, (size_t)row_bytes[format][plane]);
        p.planes[plane] = rows + 80 * plane;
        p.strides[plane] = 20;
      }
      memset(loose, 0x55, sizeof loose);
      CHECK(agf_picture_to_rgb(&p, loose, 3 * W + GAP, &err) == AGF_OK, "%s", err.message);
      for (y = 0; y < H; y++) {
        CHECK(!memcmp(loose + y * (3 * W + GAP), whole + y * 3 * W, 3 * W), "%s: strides move row %d",
              agf_pixel_format_name((agf_pixel_format)format), y);
        for (x = 0; x < GAP; x++) CHECK(loose[y * (3 * W + GAP) + 3 * W + x] == 0x55, "a gap was written to");
      }
    }
  }
  memset(&p, 0, sizeof p); /* in place, where a pixel stays where it is */
  p.format = AGF_PIXELS_BGR24;
  p.width = W;
  p.height = H;
  p.planes[0] = tight;
  agf_picture_to_rgb(&p, whole, 3 * W, &err);
  CHECK(agf_picture_to_rgb(&p, tight, 3 * W, &err) == AGF_OK && !memcmp(tight, whole, sizeof whole), "in place: %s", err.message);
  CHECK(refused(agf_picture_to_rgb(&p, tight + 3, 3 * W, &err), &err, AGF_ERR_ARGUMENT, "overlaps"), "%s", err.message);
  p.format = AGF_PIXELS_GRAY;
  CHECK(refused(agf_picture_to_rgb(&p, tight, 3 * W, &err), &err, AGF_ERR_ARGUMENT, "overlaps"), "%s", err.message);
  CHECK(refused(agf_picture_to_rgb(&p, whole, 3 * W - 1, &err), &err, AGF_ERR_ARGUMENT, "need 15"), "%s", err.message);
  { /* steps backwards, as sizes: the memory before the picture is nobody's */
    enum { BEFORE = 100 };
    p.height = 2;
    p.strides[0] = (size_t)0 - BEFORE;
    CHECK(refused(agf_picture_to_rgb(&p, whole, 3 * W, &err), &err, AGF_ERR_ARGUMENT, "larger"), "%s", err.message);
    p.strides[0] = 0;
    CHECK(refused(agf_picture_to_rgb(&p, loose + BEFORE, (size_t)0 - BEFORE, &err), &err, AGF_ERR_ARGUMENT, "larger"), "%s",
          err.message);
    p.format = AGF_PIXELS_NV12;
    p.height = 1; /* the second plane would begin before the first */
    p.planes[0] = rows + BEFORE;
    p.planes[1] = NULL;
    p.strides[0] = (size_t)0 - BEFORE;
    CHECK(refused(agf_picture_to_rgb(&p, whole, 3 * W, &err), &err, AGF_ERR_ARGUMENT, "larger"), "%s", err.message);
    p.format = AGF_PIXELS_GRAY;
    p.height = H;
    p.planes[0] = tight;
  }
  p.strides[0] = W - 1;
  CHECK(refused(agf_picture_to_rgb(&p, whole, 3 * W, &err), &err, AGF_ERR_ARGUMENT, "plane 0"), "%s", err.message);
  p.format = AGF_PIXEL_FORMATS;
  CHECK(refused(agf_picture_to_rgb(&p, whole, 3 * W, &err), &err, AGF_ERR_ARGUMENT, "format"), "%s", err.message);
  p.format = AGF_PIXELS_GRAY;
  p.width = 0;
  CHECK(refused(agf_picture_to_rgb(&p, whole, 3 * W, &err), &err, AGF_ERR_ARGUMENT, "0 x 3"), "%s", err.message);
  CHECK(refused(agf_picture_to_rgb(NULL, whole, 3 * W, &err), &err, AGF_ERR_ARGUMENT, "NULL"), "%s", err.message);
  CHECK(!agf_picture_bytes(AGF_PIXEL_FORMATS, 1, 1) && !agf_picture_bytes(AGF_PIXELS_GRAY, 0, 1) &&
            agf_pixel_format_find("mauve") == -1 && agf_pixel_format_find(NULL) == -1 &&
            !strcmp(agf_pixel_format_name((agf_pixel_format)-1), "?"),
        "what is no format");
}

/* A smoothed map keeps its sum, spreads as a Gaussian, and looks the same from every side; what cannot be smoothed stays as it is. */
static void test_smoothing(void) {
  static float map[21 * 34], scratch[21 * 34], before[21 * 34];
  agf_error err;
  double sum[2] = {0, 0}, spread = 0;
  int x, y, i;
  map[10 * 34 + 16] = 3;
  CHECK(agf_map_smooth(map, 21, 34, 2, scratch, &err) == AGF_OK, "%s", err.message);
  for (y = 0; y < 21; y++)
    for (x = 0; x < 34; x++) {
      sum[0] += (double)map[y * 34 + x];
      spread += (double)map[y * 34 + x] * ((x - 16) * (x - 16) + (y - 10) * (y - 10)) / 3;
    }
  /* float32 rounds each of a few hundred pixels by 6e-8 of it; what is cut off beyond four deviations has 3e-4 of the variance */
  CHECK(fabs(sum[0] - 3) <= 1e-6 && fabs(spread - 2 * 2 * 2) <= 0.01, "one pixel of 3 becomes %.9g, variance %.9g", sum[0], spread);
  CHECK(map[10 * 34 + 14] == map[10 * 34 + 18] && map[8 * 34 + 16] == map[12 * 34 + 16], "it leans to a side");
  for (i = 0; i < 21 * 34; i++) map[i] = 0.7f;
  CHECK(agf_map_smooth(map, 21, 34, 40.5, scratch, &err) == AGF_OK, "%s", err.message);
  for (i = 0; i < 21 * 34; i++) sum[1] = fmax(sum[1], fabs((double)map[i] - (double)0.7f));
  CHECK(sum[1] <= 2e-7, "a map of one value, smoothed beyond its size, is off by %g", sum[1]);
  for (i = 0; i < 21 * 34; i++) map[i] = before[i] = (float)(i % 7) - 3;
  CHECK(agf_map_smooth(map, 21, 34, 0, scratch, &err) == AGF_OK && !memcmp(map, before, sizeof map), "no deviation: %s",
        err.message);
  CHECK(refused(agf_map_smooth(map, 21, 34, -1, scratch, &err), &err, AGF_ERR_ARGUMENT, "-1"), "negative: %s", err.message);
  CHECK(refused(agf_map_smooth(map, 21, 34, NAN, scratch, &err), &err, AGF_ERR_ARGUMENT, "nan"), "NaN: %s", err.message);
  CHECK(refused(agf_map_smooth(map, 21, 34, 256.5, scratch, &err), &err, AGF_ERR_ARGUMENT, "256"), "too much: %s", err.message);
  CHECK(refused(agf_map_smooth(map, 0, 34, 1, scratch, &err), &err, AGF_ERR_ARGUMENT, "34 x 0"), "no rows: %s", err.message);
  CHECK(refused(agf_map_smooth(NULL, 21, 34, 1, scratch, &err), &err, AGF_ERR_ARGUMENT, "NULL"), "no map: %s", err.message);
  CHECK(refused(agf_map_smooth(map, 21, 34, 1, map + 34, &err), &err, AGF_ERR_ARGUMENT, "overlap"), "one memory: %s", err.message);
  CHECK(!memcmp(map, before, sizeof map), "a refused map was changed");
  map[5] = INFINITY;
  CHECK(refused(agf_map_smooth(map, 21, 34, 1, scratch, &err), &err, AGF_ERR_NUMERIC, "infinity"), "infinite: %s", err.message);
  CHECK(map[4] == before[4] && map[6] == before[6], "a map that cannot be smoothed was changed");
}

/* Calls from a session's own callbacks: each must be refused, and what was under way must not notice. */
typedef struct intruder {
  agf_session *s;
  const float *x;
  float *map, *latent;
  int calls, odd; /* times that it tried; answers that were not AGF_ERR_STATE with a message */
} intruder;

static void intrude(intruder *in) {
  agf_request q;
  agf_error err;
  memset(&q, 0, sizeof q);
  q.count = 1;
  if (!in->s) return;
  in->calls++;
  in->odd += !refused(agf_explain(in->s, &q, in->map, &err), &err, AGF_ERR_STATE, "agf_explain");
  in->odd += !refused(agf_run(in->s, in->x, 0, &err), &err, AGF_ERR_STATE, "callback");
  in->odd += !refused(agf_latent(in->s, in->latent, &err), &err, AGF_ERR_STATE, "agf_latent");
}

static void intruding_observer(void *ctx, const agf_observation *o) {
  (void)o;
  intrude((intruder *)ctx);
}

static int intruding_progress(void *ctx, double done) {
  (void)done;
  intrude((intruder *)ctx);
  return 0;
}

static void test_callbacks(void) {
  fixture f = open_case("squeeze_tiny");
  size_t plane = sizeof(float) * (size_t)f.pixels;
  float *want, *map = (float *)malloc(plane);
  agf_session_config c;
  agf_request q;
  agf_error err;
  intruder in;
  memset(&c, 0, sizeof c);
  memset(&q, 0, sizeof q);
  memset(&in, 0, sizeof in);
  q.count = 1;
  want = explain(&f, NULL, 0, 1, &err);
  c.observer = intruding_observer;
  c.progress = intruding_progress;
  c.observer_ctx = c.progress_ctx = &in;
  in.x = f.x;
  in.map = (float *)malloc(plane);
  agf_session_create(f.model, &c, &in.s, &err);
  in.latent = (float *)malloc(sizeof(float) * (size_t)agf_latent_size(in.s));
  CHECK(agf_run(in.s, f.x, 0, &err) == AGF_OK && agf_explain(in.s, &q, map, &err) == AGF_OK, "%s", err.message);
  CHECK(in.calls > 10 && in.odd == 0, "%d of %d calls from callbacks were not refused", in.odd, 3 * in.calls);
  CHECK(want && !memcmp(want, map, plane), "with calls from its callbacks the map has other bits");
  agf_session_destroy(in.s);
  free(want);
  free(map);
  free(in.map);
  free(in.latent);
  close_case(&f);
}

/* Arrays of a request that lie over each other, or over what the engine works in. */
static void test_overlaps(void) {
  fixture f = open_case("resnet_basic");
  size_t bytes, plane = (size_t)f.pixels;
  agf_session_config c;
  agf_session *s;
  agf_request q;
  agf_error err;
  void *memory;
  float *maps = (float *)malloc(sizeof(float) * (2 * plane + 64)), *last = maps + 2 * plane - 1;
  int *inside = (int *)(void *)last, lists[3] = {1, 0, 1};
  memset(&c, 0, sizeof c);
  memset(&q, 0, sizeof q);
  c.threads = 1;
  agf_session_bytes(f.model, &c, &bytes, &err);
  if (posix_memalign(&memory, 64, bytes)) exit(2);
  c.memory = memory;
  c.memory_bytes = bytes;
  CHECK(agf_session_create(f.model, &c, &s, &err) == AGF_OK && agf_run(s, f.x, 0, &err) == AGF_OK, "%s", err.message);
  q.count = 2;
  inside[0] = inside[1] = 0;
  q.classes = inside;
  CHECK(refused(agf_explain(s, &q, maps, &err), &err, AGF_ERR_ARGUMENT, "classes"), "maps over classes: %s", err.message);
  q.classes = NULL;
  q.explained = inside;
  CHECK(refused(agf_explain(s, &q, maps, &err), &err, AGF_ERR_ARGUMENT, "explained"), "maps over explained: %s", err.message);
  q.explained = lists + 1;
  q.classes = lists;
  CHECK(refused(agf_explain(s, &q, maps, &err), &err, AGF_ERR_ARGUMENT, "explained"), "shifted classes: %s", err.message);
  q.explained = NULL;
  CHECK(refused(agf_explain(s, &q, (float *)memory, &err), &err, AGF_ERR_ARGUMENT, "memory"), "maps in the session: %s",
        err.message);
  CHECK(refused(agf_run(s, (const float *)memory, 0, &err), &err, AGF_ERR_ARGUMENT, "memory"), "an image in the session: %s",
        err.message);
  CHECK(refused(agf_latent(s, (float *)memory, &err), &err, AGF_ERR_ARGUMENT, "memory"), "a latent in the session: %s",
        err.message);
  CHECK(refused(agf_explain(s, &q, (float *)(UINTPTR_MAX - 63), &err), &err, AGF_ERR_ARGUMENT, "do not fit"),
        "maps beyond the address space: %s", err.message);
  q.count = 2;
  CHECK(agf_explain(s, &q, maps, &err) == AGF_OK, "lists beside each other: %s", err.message);
  agf_session_destroy(s);
  free(memory);
  free(maps);
  close_case(&f);
}

/* Messages keep what they say, however long the names in them are, and are one line of UTF-8. */
static void test_messages(void) {
  fixture f = open_case("squeeze_tiny");
  agf_session_config c;
  agf_session *s;
  agf_request q;
  agf_model *m;
  agf_error err;
  char path[4096];
  size_t i;
  for (i = 0; i + 1 < sizeof path; i++) path[i] = i % 200 == 199 ? '/' : 'a';
  path[sizeof path - 1] = 0;
  CHECK(refused(agf_model_open(path, NULL, &m, &err), &err, AGF_ERR_IO, "No such file"), "a path of 4095 bytes: %s", err.message);
  path[300] = path[199] = 'a', path[301] = 0;
  CHECK(refused(agf_model_open(path, NULL, &m, &err), &err, AGF_ERR_IO, "File name too long"), "a name of 301 bytes: %s",
        err.message);
  path[199] = '/', path[301] = 'a', path[700] = 0;
  CHECK(refused(agf_model_open(path, NULL, &m, &err), &err, AGF_ERR_IO, "No such file"), "a path of 700 bytes: %s", err.message);
  CHECK(strlen(err.message) == sizeof err.message - 1 && strstr(err.message, "...") && !strncmp(err.message, path, 90),
        "the path's ends should fill the message: %s", err.message);
  /* a file that is no model, by a long way around */
  snprintf(path, sizeof path, "%s/golden", tests_folder());
  for (i = 0; i < 80; i++) strcat(path, "/../golden");
  strcat(path, "/cases.txt");
  CHECK(refused(agf_model_open(path, NULL, &m, &err), &err, AGF_ERR_FORMAT, "not an .agf model file (agf_convert.py"),
        "no model: %s", err.message);
  CHECK(strstr(err.message, "cases.txt: ") != NULL, "no model: the message should name the file's end: %s", err.message);
  snprintf(path, sizeof path, "no\nsuch\tfile \xc2\x9b \xff\xe2\x82 caf\xc3\xa9");
  agf_model_open(path, NULL, &m, &err);
  CHECK(!strncmp(err.message, "no?such?file ?? ??? caf\xc3\xa9: ", 27), "control characters and broken UTF-8: %s", err.message);
  for (i = 0; i + 2 < 1000; i += 2) memcpy(path + i, "\xc3\xa9", 2);
  path[i] = 0;
  agf_model_open(path, NULL, &m, &err);
  for (i = 0; err.message[i] == '\xc3' && err.message[i + 1] == '\xa9'; i += 2) continue;
  CHECK(i > 80 && !strncmp(err.message + i, "...\xc3\xa9", 5), "a character is cut in two: %s", err.message);

  memset(&c, 0, sizeof c);
  memset(&q, 0, sizeof q);
  c.methods = AGF_METHODS_ALL;
  agf_session_create(f.model, &c, &s, &err);
  agf_run(s, f.x, 0, &err);
  q.count = 1;
  q.method = AGF_METHOD_GRADCAM;
  for (i = 0; i < 4; i++) {
    static const int layer[4] = {INT32_MIN, -1, INT32_MAX, 1 << 20};
    char number[16];
    snprintf(number, sizeof number, "%d", layer[i]);
    q.layer = layer[i];
    CHECK(refused(agf_explain(s, &q, f.x, &err), &err, AGF_ERR_ARGUMENT, number), "gradcam at layer %s: %s", number, err.message);
  }
  agf_session_destroy(s);
  close_case(&f);
}

/* Workers as a caller's parallel_for may call them against its promise: none, one, some that do not exist. */
static void call_none(void *ctx, int n, void (*task)(void *arg, int i), void *arg) { (void)ctx, (void)n, (void)task, (void)arg; }

static void call_strangers(void *ctx, int n, void (*task)(void *arg, int i), void *arg) {
  (void)ctx;
  task(arg, -1);
  task(arg, n);
  task(arg, INT32_MAX);
  task(arg, INT32_MIN);
  task(arg, 1);
}

static void *misaligned(void *ctx, size_t bytes) {
  char *p = (char *)ledger_alloc(ctx, bytes + 64);
  return p ? p + 16 : NULL;
}

static void free_misaligned(void *ctx, void *p, size_t bytes) {
  if (p) ledger_free(ctx, (char *)p - 16, bytes + 64);
}

/* Handles that are NULL, allocators and parallel_fors that do not do what they promise, arguments that contradict each other. */
static void test_odd_callers(void) {
  fixture f = open_case("squeeze_tiny");
  ledger l;
  agf_allocator a = ledger_allocator(&l);
  agf_model_config mc;
  agf_session_config c;
  agf_session *s;
  agf_model *m;
  agf_input input;
  agf_error err;
  char path[1024];
  float *want, *got, *map = (float *)calloc(64, sizeof *map);
  uint8_t *bytes = (uint8_t *)(void *)map;
  int i;
  memset(&mc, 0, sizeof mc);
  memset(&c, 0, sizeof c);
  memset(&input, 7, sizeof input);
  agf_model_input(NULL, &input);
  agf_model_input(f.model, NULL);
  CHECK(input.height == 0 && !*agf_model_name(NULL) && !*agf_model_source(NULL) && agf_model_classes(NULL) == 0 &&
            !*agf_model_label(NULL, 0) && agf_model_parameters(NULL) == 0 && agf_model_file_bytes(NULL) == 0 &&
            agf_model_layers(NULL) == 0 && agf_model_layer_input(NULL, 0, 0) == -1 && !*agf_isa_name(NULL) &&
            agf_session_threads(NULL) == 0 && agf_latent_size(NULL) == 0 && agf_logits(NULL) == NULL && agf_ranked(NULL, 0) == -1,
        "what NULL handles have");
  CHECK(agf_layer_times(NULL, 0, NULL) == AGF_ERR_ARGUMENT && agf_latent(NULL, map, &err) == AGF_ERR_ARGUMENT &&
            agf_model_layer(NULL, 0, 0, 0, NULL, NULL) == AGF_ERR_ARGUMENT &&
            agf_model_open(NULL, NULL, &m, NULL) == AGF_ERR_ARGUMENT,
        "what NULL handles are refused for");

  snprintf(path, sizeof path, "%s/golden/squeeze_tiny/squeeze_tiny.agf", tests_folder());
  mc.allocator = c.allocator = &a;
  a.alloc = misaligned;
  a.free = free_misaligned;
  CHECK(refused(agf_model_open(path, &mc, &m, &err), &err, AGF_ERR_ARGUMENT, "aligned"), "a misaligned model: %s", err.message);
  CHECK(refused(agf_session_create(f.model, &c, &s, &err), &err, AGF_ERR_ARGUMENT, "aligned"), "a misaligned session: %s",
        err.message);
  CHECK(l.blocks == 0, "what a misaligned allocator gave is not given back");
  a.alloc = ledger_alloc;
  a.free = NULL;
  CHECK(refused(agf_model_open(path, &mc, &m, &err), &err, AGF_ERR_ARGUMENT, "free"), "no free: %s", err.message);
  CHECK(refused(agf_session_create(f.model, &c, &s, &err), &err, AGF_ERR_ARGUMENT, "free"), "no free: %s", err.message);
  c.allocator = NULL;

  want = explain(&f, NULL, 0, 1, &err);
  c.threads = 4;
  for (i = 0; i < 2; i++) {
    c.parallel_for = i ? call_strangers : call_none;
    got = explain(&f, &c, 0, 1, &err);
    CHECK(got && want && !memcmp(got, want, sizeof(float) * (size_t)f.pixels), "a parallel_for that calls %s: %s",
          i ? "workers that do not exist" : "nobody", got ? "other bits" : err.message);
    free(got);
  }
  c.parallel_for = NULL;
  c.threads = 1;
  c.memory = (void *)64;
  c.memory_bytes = SIZE_MAX - 64;
  CHECK(refused(agf_session_create(f.model, &c, &s, &err), &err, AGF_ERR_ARGUMENT, "overlaps"), "memory without end: %s",
        err.message);

  CHECK(refused(agf_render(map, 2, 2, AGF_CMAP_JET, 0, bytes + 12, 2, 2, 6, 3, &err), &err, AGF_ERR_ARGUMENT, "overlaps"),
        "a picture over its map: %s", err.message);
  CHECK(refused(agf_overlay(map, 2, 2, AGF_CMAP_JET, 0, 1, NULL, bytes + 12, 2, 2, 6, &err), &err, AGF_ERR_ARGUMENT, "overlaps"),
        "a photograph over its map: %s", err.message);
  CHECK(agf_render(map, 2, 2, AGF_CMAP_JET, 0, bytes + 16, 2, 2, 6, 3, &err) == AGF_OK, "a picture behind its map: %s",
        err.message);
  CHECK(refused(agf_render(map, 2, 2, AGF_CMAP_JET, 0, bytes + 16, 2, 2, SIZE_MAX, 3, &err), &err, AGF_ERR_ARGUMENT, "memory"),
        "rows without end: %s", err.message);
  CHECK(refused(agf_render(map, 2, 2, AGF_CMAP_JET, -1, bytes + 16, 2, 2, 6, 3, &err), &err, AGF_ERR_ARGUMENT, "vmax"),
        "a negative vmax: %s", err.message);
  CHECK(refused(agf_render(map, 2, 2, AGF_CMAP_JET, NAN, bytes + 16, 2, 2, 6, 3, &err), &err, AGF_ERR_ARGUMENT, "vmax"),
        "vmax is NaN: %s", err.message);
  free(want);
  free(map);
  close_case(&f);
}

/* A picture of one size in place of the network's input, and errors of the past. */
static void test_odd_pictures(void) {
  char path[1024];
  agf_model *m;
  agf_session_config c;
  agf_session *s;
  agf_error err;
  agf_input input;
  size_t bytes;
  float *chw;
  void *memory;
  snprintf(path, sizeof path, "%s/demo/demo.agf", tests_folder());
  if (agf_model_open(path, NULL, &m, &err) != AGF_OK) {
    CHECK(0, "%s", err.message);
    return;
  }
  agf_model_input(m, &input);
  bytes = sizeof(float) * (size_t)(input.channels * input.height * input.width);
  chw = (float *)calloc(1, bytes);
  CHECK(
      refused(agf_picture_to_input(m, 0, 0, (uint8_t *)(void *)chw, 4, 4, 12, chw, NULL, &err), &err, AGF_ERR_ARGUMENT, "overlap"),
      "an input over its picture: %s", err.message);
  memset(&c, 0, sizeof c);
  c.threads = 1;
  agf_session_bytes(m, &c, &bytes, &err);
  if (posix_memalign(&memory, 64, bytes)) exit(2);
  c.memory = memory;
  c.memory_bytes = bytes;
  err.code = AGF_ERR_IO;
  strcpy(err.message, "of another call");
  CHECK(agf_session_create(m, &c, &s, &err) == AGF_OK && err.code == AGF_OK && !*err.message, "an old error stays: %s",
        err.message);
  agf_session_destroy(s);
  agf_model_close(m);
  free(memory);
  free(chw);
}

/* Which calls allocate: those that agf.h names, and they give it back. */
static void test_allocations(void) {
  fixture f = open_case("vgg_bn_nonsquare");
  ledger l;
  agf_allocator a = ledger_allocator(&l);
  agf_model_config mc;
  agf_model *m;
  agf_layer layer;
  agf_error err;
  char path[1024];
  long blocks, calls;
  memset(&mc, 0, sizeof mc);
  mc.allocator = &a;
  snprintf(path, sizeof path, "%s/golden/vgg_bn_nonsquare/vgg_bn_nonsquare.agf", tests_folder());
  CHECK(agf_model_open(path, &mc, &m, &err) == AGF_OK, "%s", err.message);
  blocks = l.blocks;
  calls = l.calls;
  CHECK(agf_model_layer(m, 0, 0, 0, &layer, &err) == AGF_OK && l.calls == calls, "a layer at the nominal size allocates");
  CHECK(agf_model_layer(m, 0, 52, 33, &layer, &err) == AGF_OK && l.blocks == blocks, "a layer at another size keeps memory");
  l.fail_at = l.calls + 1;
  CHECK(refused(agf_model_layer(m, 0, 52, 33, &layer, &err), &err, AGF_ERR_MEMORY, "shapes"), "a layer without memory: %s",
        err.message);
  agf_model_close(m);
  CHECK(l.blocks == 0, "%ld blocks leak", l.blocks);
  close_case(&f);
}

#if defined(__SANITIZE_THREAD__)
#define NO_FORK 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define NO_FORK 1
#endif
#endif

/* What a child of fork() can do with the parent's sessions: status bits of what went wrong there. */
static int in_the_child(const fixture *f, agf_session *threads, agf_session *alone, agf_session *callers, const float *want) {
  size_t plane = sizeof(float) * (size_t)f->pixels;
  float *map = (float *)malloc(plane), *own;
  agf_session_config c;
  agf_request q;
  agf_error err;
  int wrong = 0;
  memset(&q, 0, sizeof q);
  memset(&c, 0, sizeof c);
  q.count = 1;
  c.threads = 3;
  alarm(30); /* a hang ends the child by a signal */
  wrong |= !refused(agf_explain(threads, &q, map, &err), &err, AGF_ERR_STATE, "fork()");
  wrong |= !refused(agf_run(threads, f->x, 0, &err), &err, AGF_ERR_STATE, "fork()") << 1;
  agf_session_destroy(threads);
  wrong |= (agf_explain(alone, &q, map, &err) != AGF_OK || memcmp(map, want, plane) != 0) << 2;
  wrong |= (agf_run(alone, f->x, 0, &err) != AGF_OK || agf_explain(alone, &q, map, &err) != AGF_OK || memcmp(map, want, plane) != 0)
           << 3;
  wrong |=
      (agf_run(callers, f->x, 0, &err) != AGF_OK || agf_explain(callers, &q, map, &err) != AGF_OK || memcmp(map, want, plane) != 0)
      << 4;
  own = explain(f, &c, 0, 1, &err);
  wrong |= (!own || memcmp(own, want, plane) != 0) << 5;
  free(own);
  free(map);
  return wrong;
}

static void test_fork(void) {
#ifdef NO_FORK
  printf("SKIP fork: the thread sanitizer does not follow children\n");
  tests_skipped++;
#else
  fixture f = open_case("squeeze_tiny");
  agf_session *threads, *alone, *callers;
  agf_session_config c;
  agf_request q;
  agf_error err;
  float *want = (float *)malloc(sizeof(float) * (size_t)f.pixels);
  int status = 0, calls = 0;
  pid_t child;
  memset(&c, 0, sizeof c);
  memset(&q, 0, sizeof q);
  q.count = 1;
  c.threads = 1;
  agf_session_create(f.model, &c, &alone, &err);
  c.threads = 4;
  agf_session_create(f.model, &c, &threads, &err);
  c.parallel_for = call_each;
  c.parallel_ctx = &calls;
  agf_session_create(f.model, &c, &callers, &err);
  agf_run(alone, f.x, 0, &err);
  CHECK(agf_run(threads, f.x, 0, &err) == AGF_OK && agf_explain(threads, &q, want, &err) == AGF_OK, "%s", err.message);
  fflush(stdout);
  child = fork();
  if (child == 0) _exit(in_the_child(&f, threads, alone, callers, want));
  CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status), "the child ended by signal %d",
        WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "in the child of a fork: failures 0x%x", WEXITSTATUS(status));
  CHECK(agf_run(threads, f.x, 0, &err) == AGF_OK && agf_explain(threads, &q, f.x, &err) == AGF_OK &&
            !memcmp(f.x, want, sizeof(float) * (size_t)f.pixels),
        "the parent's session after its child: %s", err.message);
  agf_session_destroy(threads);
  agf_session_destroy(alone);
  agf_session_destroy(callers);
  free(want);
  close_case(&f);
#endif
}

/* What a binding asks before it hands over a struct of its own. */
static void test_struct_bytes(void) {
  CHECK(agf_struct_bytes("agf_request") == sizeof(agf_request) && agf_struct_bytes("agf_error") == sizeof(agf_error) &&
            agf_struct_bytes("agf_session_config") == sizeof(agf_session_config),
        "the sizes of structs");
  CHECK(!agf_struct_bytes("agf_reques") && !agf_struct_bytes("") && !agf_struct_bytes(NULL), "no struct has no size");
}

int main(int argc, char **argv) {
  static const char *const cases[] = {"vgg_tiny", "squeeze_tiny", "resnet_bottleneck", "grouped_dilated", "corners", "dense_tiny"};
  size_t i;
  tests_begin(argc, argv);
  for (i = 0; i < sizeof cases / sizeof *cases; i++) RUN_ON(test_same_bits, cases[i]);
  RUN(test_classes);
  RUN(test_neighbours);
  RUN_ON(test_label_free, "vgg_tiny");
  RUN_ON(test_label_free, "squeeze_tiny");
  RUN(test_sizes);
  RUN(test_memory);
  RUN(test_run_errors);
  RUN(test_callers_memory);
  RUN(test_damaged_files);
  RUN(test_callbacks);
  RUN(test_overlaps);
  RUN(test_messages);
  RUN(test_odd_callers);
  RUN(test_odd_pictures);
  RUN(test_allocations);
  RUN(test_fork);
  RUN(test_rendering);
  RUN(test_photo_mute);
  RUN(test_scale_of_a_map);
  RUN(test_box_of_a_map);
  RUN(test_finding_a_class);
  RUN(test_pixel_formats);
  RUN(test_smoothing);
  RUN(test_struct_bytes);
  return tests_end();
}
