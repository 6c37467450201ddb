/* The comparison methods as a user relies on them: what their maps add up to, the same bits under every instruction set, thread
 * count and memory mode, an untouched session afterwards, and errors that say what is wrong. Whether the maps are right,
 * test_golden tells. */

#include "testing.h"
#include "../agf.h"

typedef struct fixture {
  agf_model *model;
  unsigned char *file; /* the model file's bytes */
  float *x;
  int shape[3], pixels, nodes;
} fixture;

/* A case of tests/golden or tests/golden-extra. */
static fixture open_case(const char *name) {
  fixture f;
  char path[1024];
  agf_error err;
  npy a;
  FILE *in;
  long bytes = 0;
  const char *folder = "golden";
  memset(&f, 0, sizeof f);
  snprintf(path, sizeof path, "%s/%s/%s/%s.agf", tests_folder(), folder, name, name);
  in = fopen(path, "rb");
  if (!in) {
    folder = "golden-extra";
    snprintf(path, sizeof path, "%s/%s/%s/%s.agf", tests_folder(), folder, name, name);
    in = fopen(path, "rb");
  }
  if (agf_model_open(path, NULL, &f.model, &err) != AGF_OK || !in || fseek(in, 0, SEEK_END) || (bytes = ftell(in)) < 0) {
    printf("%s: %s\n", path, err.message);
    exit(2);
  }
  rewind(in);
  f.file = (unsigned char *)malloc((size_t)bytes);
  snprintf(path, sizeof path, "%s/%s/%s/input.npy", tests_folder(), folder, name);
  if (fread(f.file, 1, (size_t)bytes, in) != (size_t)bytes || npy_load(path, &a)) {
    printf("%s cannot be read\n", path);
    exit(2);
  }
  fclose(in);
  f.x = npy_floats(&a);
  memcpy(f.shape, a.shape + a.dims - 3, sizeof f.shape);
  f.pixels = f.shape[1] * f.shape[2];
  f.nodes = agf_model_layers(f.model);
  free(a.data);
  return f;
}

static void close_case(fixture *f) {
  agf_model_close(f->model);
  free(f->file);
  free(f->x);
}

static agf_session_config config_of(const fixture *f, unsigned methods) {
  agf_session_config c;
  memset(&c, 0, sizeof c);
  c.height = f->shape[1];
  c.width = f->shape[2];
  c.threads = 1;
  c.methods = methods;
  return c;
}

/* A session that has run the case's image. */
static agf_session *begin(const fixture *f, const agf_session_config *config) {
  agf_session *s;
  agf_error err;
  if (agf_session_create(f->model, config, &s, &err) != AGF_OK || agf_run(s, f->x, AGF_RUN_EXPLAIN, &err) != AGF_OK) {
    printf("%s\n", err.message);
    exit(2);
  }
  return s;
}

static agf_request request_of(agf_method method, const int *target) {
  agf_request q;
  memset(&q, 0, sizeof q);
  q.method = method;
  q.count = 1;
  q.classes = target;
  q.samples = 3;
  return q;
}

static double sum_of(const float *map, int n) {
  double sum = 0;
  int i;
  for (i = 0; i < n; i++) sum += map[i];
  return sum;
}

/* --- completeness --- */

/* Integrated gradients add up to z(image) - z(0). The logits are piecewise linear on the way there, so the midpoint rule is exact
 * but for the steps that hold a kink: the error falls as 1 / steps. 200 of them leave 1e-4 to 5e-4 of the largest logit here. */
static void test_integrated_gradients(const char *name) {
  fixture f = open_case(name);
  agf_session_config config = config_of(&f, AGF_METHOD_BIT(AGF_METHOD_INTEGRATED_GRADIENTS));
  agf_session *s = begin(&f, &config);
  float *map = (float *)malloc(sizeof *map * (size_t)f.pixels),
        *zero = (float *)calloc((size_t)(f.shape[0] * f.pixels), sizeof *zero);
  double z[2], sum, scale = 0;
  int target = agf_ranked(s, 0), k;
  agf_request q = request_of(AGF_METHOD_INTEGRATED_GRADIENTS, &target);
  agf_error err;
  q.steps = 200;
  z[0] = agf_logits(s)[target];
  for (k = 0; k < agf_model_classes(f.model); k++) scale = fmax(scale, fabs(agf_logits(s)[k]));
  CHECK(agf_explain(s, &q, map, &err) == AGF_OK, "%s: %s", name, err.message);
  sum = sum_of(map, f.pixels);
  CHECK(agf_run(s, zero, 0, &err) == AGF_OK, "%s: %s", name, err.message);
  z[1] = agf_logits(s)[target];
  CHECK(fabs(sum - (z[0] - z[1])) <= 2e-3 * scale, "%s: integrated gradients sum to %.6g, the logit changes by %.6g", name, sum,
        z[0] - z[1]);
  agf_session_destroy(s);
  close_case(&f);
  free(map);
  free(zero);
}

/* Node i's bias in the model file (agf.h, "The model file"), NULL without one. */
static const float *bias_of(const fixture *f, int i) {
  const unsigned char *node = f->file + 144 + 80 * i, *tensor;
  uint32_t edges, index;
  uint64_t offset;
  memcpy(&edges, f->file + 36, 4);
  memcpy(&index, node + 72, 4);
  if (!index) return NULL;
  tensor = f->file + 144 + 80 * (size_t)f->nodes + 4 * (size_t)edges + 40 * (size_t)(index - 1);
  memcpy(&offset, tensor + 24, 8);
  return (const float *)(const void *)(f->file + offset);
}

/* Whether the logits depend on node i. */
static int is_live(const fixture *f, int i) {
  int k, j;
  if (i == f->nodes - 1) return 1;
  for (k = i + 1; k < f->nodes; k++)
    for (j = 0; agf_model_layer_input(f->model, k, j) >= 0; j++)
      if (agf_model_layer_input(f->model, k, j) == i + 1 && is_live(f, k)) return 1;
  return 0;
}

typedef struct full_sum {
  const fixture *f;
  double sum, magnitude;
  int terms;
} full_sum;

static void add_term(void *ctx, const agf_observation *o) {
  full_sum *t = (full_sum *)ctx;
  const float *bias = o->node < 0 ? NULL : bias_of(t->f, o->node);
  int c, h, w;
  if (o->node >= 0 && !bias) return;
  t->terms++;
  for (c = 0; c < o->shape[0]; c++)
    for (h = 0; h < o->shape[1]; h++)
      for (w = 0; w < o->shape[2]; w++) {
        double g = o->g[c / 16 * o->block_stride + h * o->row_stride + w * o->pixel_stride + c % 16];
        double v = g * (bias ? bias[c] : t->f->x[(c * o->shape[1] + h) * o->shape[2] + w]);
        t->sum += v;
        t->magnitude += fabs(v);
      }
}

/* FullGrad's terms before psi, image * gradient and every bias * gradient at its output, add up to the logit exactly (not with
 * ReLU6, whose upper bound is a bias too). The gradients come from the observer, inside fused steps too. */
static void test_full_gradients(const char *name) {
  fixture f = open_case(name);
  agf_session_config config = config_of(&f, AGF_METHOD_BIT(AGF_METHOD_FULLGRAD));
  float *map = (float *)malloc(sizeof *map * (size_t)f.pixels);
  full_sum t = {NULL, 0, 0, 0};
  agf_session *s;
  agf_request q;
  agf_error err;
  double z;
  int target, expected = 1, i;
  for (i = 0; i < f.nodes; i++) expected += bias_of(&f, i) && is_live(&f, i);
  t.f = &f;
  config.observer = add_term;
  config.observer_ctx = &t;
  s = begin(&f, &config);
  target = agf_ranked(s, 0);
  z = agf_logits(s)[target];
  q = request_of(AGF_METHOD_FULLGRAD, &target);
  CHECK(agf_explain(s, &q, map, &err) == AGF_OK, "%s: %s", name, err.message);
  CHECK(t.terms == expected, "%s: gradients seen at %d of %d biases and the image", name, t.terms, expected);
  /* float32: the terms' roundings, 6e-8 each, add up along a dozen layers */
  CHECK(fabs(t.sum - z) <= 3e-6 * t.magnitude, "%s: full gradients add up to %.9g, the logit is %.9g (terms' magnitude %.3g)", name,
        t.sum, z, t.magnitude);
  agf_session_destroy(s);
  close_case(&f);
  free(map);
}

/* Where no layer reads negative values and no sum that R is divided by is 0, each rule of LRP hands on all the relevance that it
 * gets: the map adds up to the logit. alphas: how many of the two rules find such sums in this network. */
static void test_relevance(const char *name, int alphas) {
  static const agf_method methods[] = {AGF_METHOD_LRP_A1B0, AGF_METHOD_LRP_A2B1};
  fixture f = open_case(name);
  agf_session_config config = config_of(&f, AGF_METHODS_ALL);
  agf_session *s = begin(&f, &config);
  float *map = (float *)malloc(sizeof *map * (size_t)f.pixels);
  int i, target = agf_ranked(s, 0);
  double z = agf_logits(s)[target], sum;
  agf_error err;
  for (i = 0; i < alphas; i++) {
    agf_request q = request_of(methods[i], &target);
    CHECK(agf_explain(s, &q, map, &err) == AGF_OK, "%s: %s", name, err.message);
    sum = sum_of(map, f.pixels);
    /* the 1e-9 that sdiv adds to sums of order 1, and float32 sums of signed pixels */
    CHECK(fabs(sum - z) <= 1e-4 * fabs(z), "%s %s: relevance adds up to %.9g, the logit is %.9g", name, agf_method_name(methods[i]),
          sum, z);
  }
  agf_session_destroy(s);
  close_case(&f);
  free(map);
}

static void test_relevance_of_both(const char *name) { test_relevance(name, 2); }
static void test_relevance_of_a1b0(const char *name) { test_relevance(name, 1); }

/* clrp and sglrp scale the others' relevance to the class's total: their maps add up to 0. */
static void test_contrast(const char *name) {
  static const agf_method methods[] = {AGF_METHOD_CLRP, AGF_METHOD_SGLRP};
  fixture f = open_case(name);
  agf_session_config config = config_of(&f, AGF_METHODS_ALL);
  agf_session *s = begin(&f, &config);
  float *map = (float *)malloc(sizeof *map * (size_t)f.pixels);
  int i, k, target = agf_ranked(s, 0);
  agf_error err;
  for (i = 0; i < 2; i++) {
    agf_request q = request_of(methods[i], &target);
    double magnitude = 0;
    CHECK(agf_explain(s, &q, map, &err) == AGF_OK, "%s: %s", name, err.message);
    for (k = 0; k < f.pixels; k++) magnitude += fabs(map[k]);
    /* each pixel is rounded to float32 once */
    CHECK(magnitude > 0 && fabs(sum_of(map, f.pixels)) <= 1e-6 * magnitude, "%s %s: adds up to %.3g of %.3g", name,
          agf_method_name(methods[i]), sum_of(map, f.pixels), magnitude);
  }
  agf_session_destroy(s);
  close_case(&f);
  free(map);
}

/* --- bits --- */

enum { MAPS = 2 * AGF_METHODS }; /* of every method, and of one class against another */

/* Every method's map of one class, one after the other, then of that class against the next one; a method that the network does not
 * allow says so, and leaves zeros. */
static float *all_maps(const fixture *f, agf_session *s, uint64_t seed, const float *difference) {
  float *maps = (float *)calloc((size_t)f->pixels * MAPS, sizeof *maps);
  int m, target = agf_ranked(s, 0);
  for (m = 0; m < MAPS; m++) {
    float *map = maps + (size_t)m * (size_t)f->pixels;
    agf_request q = request_of((agf_method)(m % AGF_METHODS), &target);
    agf_error err;
    q.against = m < AGF_METHODS ? 0 : agf_ranked(s, 1) + 1;
    if (q.against && !(agf_method_traits(q.method) & AGF_METHOD_TAKES_AGAINST)) continue;
    if (difference) { /* what it leaves behind must not be seen */
      agf_request label_free = request_of(AGF_METHOD_AGF, &target);
      label_free.difference = difference;
      CHECK(agf_explain(s, &label_free, map, &err) == AGF_OK, "%s", err.message);
    }
    q.steps = 3;
    q.seed = seed;
    if (agf_explain(s, &q, map, &err) == AGF_OK) continue;
    CHECK(err.code == AGF_ERR_UNSUPPORTED, "%s: %s", agf_method_name(q.method), err.message);
    memset(map, 0, sizeof *map * (size_t)f->pixels);
  }
  return maps;
}

static void compare_all(const fixture *f, const char *name, const float *a, const float *b, const char *what) {
  int m;
  for (m = 0; m < MAPS; m++)
    CHECK(!memcmp(a + (size_t)m * (size_t)f->pixels, b + (size_t)m * (size_t)f->pixels, sizeof *a * (size_t)f->pixels),
          "%s %s%s: other bits with %s", name, agf_method_name((agf_method)(m % AGF_METHODS)), m < AGF_METHODS ? "" : " against",
          what);
}

static void observe_nothing(void *ctx, const agf_observation *o) {
  (void)ctx;
  (void)o;
}

/* Whether this processor has an instruction set, by the compiler's account, not the engine's. */
static int processor_has(const char *isa) {
#if defined(AGF_NO_SIMD)
  (void)isa;
  return 0;
#elif defined(__x86_64__)
  if (!strcmp(isa, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return !strcmp(isa, "avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#elif defined(__aarch64__)
  return !strcmp(isa, "neon");
#else
  (void)isa;
  return 0;
#endif
}

/* The portable kernels' maps once, as they are slow, and the others' in every way to run. */
static void test_bits(const char *name) {
  static const char *const isas[] = {"avx2", "avx512", "neon"};
  enum { ISAS = sizeof isas / sizeof *isas };
  fixture f = open_case(name);
  agf_session_config config = config_of(&f, AGF_METHODS_ALL);
  agf_session *s;
  float *first, *maps;
  agf_error err;
  char what[64];
  int i;
  config.isa = "ref";
  s = begin(&f, &config);
  first = all_maps(&f, s, 7, NULL);
  agf_session_destroy(s);
  for (i = 0; i < ISAS + 3; i++) {
    agf_session_config other = config_of(&f, AGF_METHODS_ALL);
    other.isa = i < ISAS ? isas[i] : NULL;
    if (i < ISAS) {
      snprintf(what, sizeof what, "%s and 2 threads", isas[i]);
      other.threads = 2;
    } else if (i == ISAS) {
      snprintf(what, sizeof what, "3 threads");
      other.threads = 3;
    } else if (i == ISAS + 1) {
      snprintf(what, sizeof what, "low_memory");
      other.low_memory = 1;
    } else {
      snprintf(what, sizeof what, "an observer");
      other.observer = observe_nothing;
    }
    if (agf_session_create(f.model, &other, &s, &err) != AGF_OK) {
      int missing = i < ISAS && err.code == AGF_ERR_ARGUMENT && strstr(err.message, isas[i]);
      CHECK(missing && !processor_has(isas[i]), "%s: no session with %s: %s", name, what, err.message);
      if (missing && !strcmp(name, "vgg_tiny")) printf("SKIP %s: %s\n", what, err.message), tests_skipped++; /* say it once */
      continue;
    }
    CHECK(agf_run(s, f.x, 0, &err) == AGF_OK, "%s with %s: %s", name, what, err.message);
    CHECK(i >= ISAS || !strcmp(agf_isa_name(s), isas[i]), "%s: asked for %s, got %s", name, what, agf_isa_name(s));
    maps = all_maps(&f, s, 7, NULL);
    compare_all(&f, name, first, maps, what);
    free(maps);
    if (i == ISAS) {
      maps = all_maps(&f, s, 7, NULL);
      compare_all(&f, name, first, maps, "a second time in the same session");
      free(maps);
      maps = all_maps(&f, s, UINT64_C(7) << 32, NULL);
      CHECK(memcmp(maps + AGF_METHOD_SMOOTHGRAD * f.pixels, first + AGF_METHOD_SMOOTHGRAD * f.pixels,
                   sizeof *maps * (size_t)f.pixels),
            "%s: smoothgrad ignores its seed's upper half", name);
      free(maps);
    }
    agf_session_destroy(s);
  }
  free(first);
  close_case(&f);
}

/* agf_a is AGF with three ablations, faster; the options alone give the same bits. */
static void test_variant(const char *name) {
  fixture f = open_case(name);
  agf_session_config config = config_of(&f, 0);
  agf_session *s = begin(&f, &config);
  float *a = (float *)malloc(sizeof *a * (size_t)f.pixels), *b = (float *)malloc(sizeof *b * (size_t)f.pixels);
  int target = agf_ranked(s, 0);
  agf_request q = request_of(AGF_METHOD_AGF_A, &target);
  agf_error err;
  CHECK(agf_explain(s, &q, a, &err) == AGF_OK, "%s: %s", name, err.message);
  q.method = AGF_METHOD_AGF;
  q.options = AGF_OPT_NO_M | AGF_OPT_NO_FX | AGF_OPT_NO_FDX;
  CHECK(agf_explain(s, &q, b, &err) == AGF_OK && !memcmp(a, b, sizeof *a * (size_t)f.pixels), "%s: agf_a is not its options", name);
  agf_session_destroy(s);
  close_case(&f);
  free(a);
  free(b);
}

/* --- the session --- */

static int allocations;

static void *counting_alloc(void *ctx, size_t bytes) {
  unsigned char *raw = (unsigned char *)malloc(bytes + 128), *p;
  (void)ctx;
  allocations++;
  if (!raw) return NULL;
  p = raw + 64 + (64 - (uintptr_t)raw % 64) % 64;
  p[-1] = (unsigned char)(p - raw);
  return p;
}

static void counting_free(void *ctx, void *memory, size_t bytes) {
  unsigned char *p = (unsigned char *)memory;
  (void)ctx;
  (void)bytes;
  free(p - p[-1]);
}

/* The methods allocate nothing, stay within agf_session_bytes, and leave logits, latent vector and AGF's maps as they were. */
static void test_session(const char *name) {
  fixture f = open_case(name);
  agf_session_config config = config_of(&f, AGF_METHODS_ALL), plain;
  agf_allocator allocator = {counting_alloc, counting_free, NULL};
  agf_session *s;
  float *latent[2], *map[2], *logits, *maps, *again;
  int i, before, target, classes = agf_model_classes(f.model);
  size_t bytes[2];
  agf_request q;
  agf_error err;
  config.allocator = &allocator;
  s = begin(&f, &config);
  target = agf_ranked(s, 0);
  q = request_of(AGF_METHOD_AGF, &target);
  logits = (float *)malloc(sizeof *logits * (size_t)classes);
  memcpy(logits, agf_logits(s), sizeof *logits * (size_t)classes);
  for (i = 0; i < 2; i++) {
    latent[i] = (float *)malloc(sizeof(float) * (size_t)agf_latent_size(s));
    map[i] = (float *)malloc(sizeof(float) * (size_t)f.pixels);
  }
  before = allocations;
  agf_latent(s, latent[0], NULL);
  CHECK(agf_explain(s, &q, map[0], &err) == AGF_OK, "%s: %s", name, err.message);
  maps = all_maps(&f, s, 0, NULL);
  agf_latent(s, latent[1], NULL);
  CHECK(agf_explain(s, &q, map[1], &err) == AGF_OK, "%s: %s", name, err.message);
  CHECK(allocations == before, "%s: %d allocations while explaining", name, allocations - before);
  CHECK(!memcmp(logits, agf_logits(s), sizeof *logits * (size_t)classes) && agf_ranked(s, 0) == target, "%s: the logits changed",
        name);
  CHECK(!memcmp(latent[0], latent[1], sizeof(float) * (size_t)agf_latent_size(s)), "%s: the latent vector changed", name);
  CHECK(!memcmp(map[0], map[1], sizeof(float) * (size_t)f.pixels), "%s: AGF's map after the other methods has other bits", name);
  for (i = 0; i < agf_latent_size(s); i++) latent[1][i] *= i % 2 ? -0.5f : 0.25f;
  again = all_maps(&f, s, 0, latent[1]);
  compare_all(&f, name, maps, again, "a label-free explanation before");
  free(again);
  agf_session_destroy(s);
  plain = config_of(&f, 0);
  agf_session_bytes(f.model, &plain, &bytes[0], NULL);
  plain.methods = AGF_METHOD_BIT(AGF_METHOD_AGF) | AGF_METHOD_BIT(AGF_METHOD_AGF_A);
  agf_session_bytes(f.model, &plain, &bytes[1], NULL);
  CHECK(bytes[0] == bytes[1], "%s: a session for AGF alone needs %zu or %zu bytes", name, bytes[0], bytes[1]);
  plain.methods = AGF_METHODS_ALL;
  agf_session_bytes(f.model, &plain, &bytes[1], NULL);
  CHECK(bytes[0] < bytes[1], "%s: all methods need no memory of their own", name);
  close_case(&f);
  for (i = 0; i < 2; i++) {
    free(latent[i]);
    free(map[i]);
  }
  free(logits);
  free(maps);
}

static int cancel_at;

static int cancel(void *ctx, double done) {
  (void)ctx;
  return cancel_at > 0 && done > 0.4 && --cancel_at == 0;
}

/* Smoothgrad and integrated gradients run the network on other images; ended or cancelled in their middle, they leave the session at the
 * caller's: the same logits, and the same maps of what comes after, those of AGF too, which reads what the run kept. */
static void test_other_images(const char *name) {
  static const agf_method before_and_after[] = {AGF_METHOD_GRADIENT, AGF_METHOD_AGF};
  static const agf_method others[] = {AGF_METHOD_SMOOTHGRAD, AGF_METHOD_INTEGRATED_GRADIENTS};
  fixture f = open_case(name);
  agf_session_config config = config_of(&f, AGF_METHODS_ALL);
  agf_session *s;
  size_t map = sizeof(float) * (size_t)f.pixels, logits;
  float *before[2], *after = (float *)malloc(map), *z;
  int target, i, k, cancelled;
  agf_request q;
  agf_error err;
  config.progress = cancel;
  s = begin(&f, &config);
  target = agf_ranked(s, 0);
  logits = sizeof(float) * (size_t)agf_model_classes(f.model);
  z = (float *)malloc(logits);
  memcpy(z, agf_logits(s), logits);
  q = request_of(AGF_METHOD_GRADIENT, &target);
  for (k = 0; k < 2; k++) {
    before[k] = (float *)malloc(map);
    q.method = before_and_after[k];
    CHECK(agf_explain(s, &q, before[k], &err) == AGF_OK, "%s: %s", name, err.message);
  }
  for (i = 0; i < 2; i++)
    for (cancelled = 0; cancelled < 2; cancelled++) {
      const char *other = agf_method_name(others[i]);
      q.method = others[i];
      cancel_at = cancelled;
      CHECK(agf_explain(s, &q, after, &err) == (cancelled ? AGF_ERR_CANCELLED : AGF_OK), "%s: %s, cancelled %d: %s", name, other,
            cancelled, agf_status_name(err.code));
      CHECK(!memcmp(z, agf_logits(s), logits), "%s: the logits after %s, cancelled %d, are another image's", name, other,
            cancelled);
      for (k = 0; k < 2; k++) {
        q.method = before_and_after[k];
        CHECK(agf_explain(s, &q, after, &err) == AGF_OK && !memcmp(before[k], after, map),
              "%s: %s after %s, cancelled %d, is another image's", name, agf_method_name(q.method), other, cancelled);
      }
    }
  for (k = 0; k < 2; k++) free(before[k]);
  free(after);
  free(z);
  agf_session_destroy(s);
  close_case(&f);
}

/* --- errors --- */

static void expect(agf_session *s, const agf_request *q, float *map, agf_status code, const char *word) {
  agf_error err;
  agf_status st = agf_explain(s, q, map, &err);
  CHECK(st == code && strstr(err.message, word), "%s: %s (%s), expected %s naming %s", agf_method_name(q->method),
        agf_status_name(st), err.message, agf_status_name(code), word);
}

/* One class against another: who takes it, what is refused, and that exchanging the two turns signed gradients around. */
static void test_against(const char *name) {
  fixture f = open_case(name);
  agf_session_config config = config_of(&f, AGF_METHODS_ALL);
  agf_session *s = begin(&f, &config);
  float *map = (float *)malloc(3 * sizeof *map * (size_t)f.pixels), *other = map + f.pixels, *again = other + f.pixels;
  int pair[2], classes = agf_model_classes(f.model), m, i, all[2];
  char text[32];
  agf_error err;
  agf_request q;
  pair[0] = agf_ranked(s, 0);
  pair[1] = agf_ranked(s, 1);
  for (m = 0; m < AGF_METHODS; m++) {
    q = request_of((agf_method)m, pair);
    q.steps = 3;
    if (agf_explain(s, &q, map, &err) != AGF_OK) continue;
    q.against = pair[1] + 1;
    if (!(agf_method_traits((agf_method)m) & AGF_METHOD_TAKES_AGAINST)) {
      expect(s, &q, other, AGF_ERR_ARGUMENT, agf_method_name((agf_method)m));
      continue;
    }
    CHECK(agf_explain(s, &q, other, &err) == AGF_OK, "%s %s: %s", name, agf_method_name(q.method), err.message);
    /* layercam may: where a pool makes the logits, only its own class's channel has a gradient above 0 */
    CHECK(q.method == AGF_METHOD_LAYERCAM || memcmp(map, other, sizeof *map * (size_t)f.pixels),
          "%s %s: a class against another is the class alone", name, agf_method_name(q.method));
    q.against = 0;
    CHECK(agf_explain(s, &q, again, &err) == AGF_OK && !memcmp(map, again, sizeof *map * (size_t)f.pixels),
          "%s %s: against another class leaves something behind", name, agf_method_name(q.method));
    if (q.method != AGF_METHOD_GRADIENT && q.method != AGF_METHOD_GRADIENT_X_INPUT) continue;
    q.classes = pair + 1;
    q.against = pair[0] + 1;
    agf_explain(s, &q, again, &err);
    for (i = 0; i < f.pixels && again[i] == (q.method == AGF_METHOD_GRADIENT ? other[i] : -other[i]); i++) continue;
    CHECK(i == f.pixels, "%s %s: %g, the classes exchanged %g", name, agf_method_name(q.method), (double)other[i],
          (double)again[i]);
  }
  q = request_of(AGF_METHOD_AGF, pair);
  q.against = pair[0] + 1;
  expect(s, &q, map, AGF_ERR_ARGUMENT, "itself");
  all[0] = all[1] = -7; /* no map is made where one of them cannot be */
  q.count = 2;
  q.classes = NULL;
  q.explained = all;
  q.against = pair[1] + 1;
  expect(s, &q, map, AGF_ERR_ARGUMENT, "itself");
  CHECK(all[0] == -7 && all[1] == -7, "%s: classes %d and %d were explained", name, all[0], all[1]);
  q = request_of(AGF_METHOD_AGF, pair);
  for (i = 0; i < 4; i++) {
    q.against = i == 0 ? -1 : i == 1 ? INT32_MIN : i == 2 ? classes + 1 : INT32_MAX;
    snprintf(text, sizeof text, "against = %d:", q.against);
    expect(s, &q, map, AGF_ERR_ARGUMENT, text);
  }
  agf_session_destroy(s);
  close_case(&f);
  free(map);
}

static void test_errors(void) {
  fixture f = open_case("corners"), one = open_case("one_class");
  agf_session_config config = config_of(&f, 0);
  agf_session *s = begin(&f, &config);
  float *map = (float *)malloc(sizeof *map * (size_t)(f.pixels + one.pixels)), vector[1] = {0};
  int target = 0, i;
  agf_request q = request_of(AGF_METHOD_SGLRP, &target);
  agf_layer layer;
  agf_error err;
  expect(s, &q, map, AGF_ERR_ARGUMENT, "sglrp");
  q.method = (agf_method)AGF_METHODS;
  expect(s, &q, map, AGF_ERR_ARGUMENT, "unknown method");
  q.method = AGF_METHOD_AGF_LC; /* corners has a flatten and linear layers, no global pooling */
  expect(s, &q, map, AGF_ERR_UNSUPPORTED, "global average pool");
  agf_session_destroy(s);

  config.methods = AGF_METHODS_ALL;
  s = begin(&f, &config);
  q = request_of(AGF_METHOD_LRP_A1B0, &target);
  q.options = AGF_OPT_NO_FX;
  expect(s, &q, map, AGF_ERR_ARGUMENT, "lrp_a1b0");
  q = request_of(AGF_METHOD_GRADIENT, &target);
  q.difference = vector;
  expect(s, &q, map, AGF_ERR_ARGUMENT, "gradient");
  q = request_of(AGF_METHOD_INTEGRATED_GRADIENTS, &target);
  q.steps = -1;
  expect(s, &q, map, AGF_ERR_ARGUMENT, "-1");
  q = request_of(AGF_METHOD_SMOOTHGRAD, &target);
  q.samples = -2;
  expect(s, &q, map, AGF_ERR_ARGUMENT, "-2");
  q = request_of(AGF_METHOD_GRADCAM, &target);
  q.layer = f.nodes + 1;
  expect(s, &q, map, AGF_ERR_ARGUMENT, "layers 0 to");
  for (i = 0; i < f.nodes && agf_model_layer(f.model, i, 0, 0, &layer, NULL) == AGF_OK && layer.op != AGF_OP_FLATTEN; i++) continue;
  q.layer = i + 1;
  expect(s, &q, map, AGF_ERR_UNSUPPORTED, "flattened");
  agf_session_destroy(s);

  config.methods = 1u << 30;
  CHECK(agf_session_create(f.model, &config, &s, &err) == AGF_ERR_ARGUMENT && strstr(err.message, "0x40000000"),
        "unknown methods: %s", err.message);

  config = config_of(&one, AGF_METHODS_ALL);
  s = begin(&one, &config);
  q = request_of(AGF_METHOD_CLRP, &target);
  expect(s, &q, map, AGF_ERR_UNSUPPORTED, "one class");
  q = request_of(AGF_METHOD_GRADIENT, &target);
  CHECK(agf_explain(s, &q, map, &err) == AGF_OK, "the gradient of a single class: %s", err.message);
  agf_session_destroy(s);

  for (i = 0; i < AGF_METHODS; i++)
    CHECK(agf_method_find(agf_method_name((agf_method)i)) == i, "method %d is called %s", i, agf_method_name((agf_method)i));
  CHECK(agf_method_find("lrp") == -1 && agf_method_find(NULL) == -1 && !strcmp(agf_method_name((agf_method)99), "?"),
        "a method that does not exist is found");
  close_case(&f);
  close_case(&one);
  free(map);
}

int main(int argc, char **argv) {
  static const char *const golden[] = {"vgg_tiny", "resnet_bottleneck", "dense_tiny", "grouped_dilated", "squeeze_tiny", "corners"};
  static const char *const extra[] = {"relu6_inverted", "add_self", "image_readers", "conv_logits", "pooled_logits"};
  size_t i;
  tests_begin(argc, argv);
  for (i = 0; i < sizeof golden / sizeof *golden; i++) {
    RUN_ON(test_integrated_gradients, golden[i]);
    RUN_ON(test_full_gradients, golden[i]);
    RUN_ON(test_contrast, golden[i]);
    RUN_ON(test_bits, golden[i]);
    RUN_ON(test_against, golden[i]);
    RUN_ON(test_variant, golden[i]);
    RUN_ON(test_session, golden[i]);
  }
  for (i = 0; i < sizeof extra / sizeof *extra; i++) {
    if (i) RUN_ON(test_full_gradients, extra[i]); /* not relu6_inverted */
    RUN_ON(test_bits, extra[i]);
    RUN_ON(test_session, extra[i]);
  }
  RUN_ON(test_relevance_of_both, "vgg_tiny");
  RUN_ON(test_relevance_of_both, "vgg_bn_nonsquare");
  RUN_ON(test_relevance_of_a1b0, "squeeze_tiny");
  RUN_ON(test_other_images, "vgg_tiny");
  RUN(test_errors);
  return tests_end();
}
