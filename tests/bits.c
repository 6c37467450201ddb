/* Two SHA-256 for each test network: over its logits, latent vector and maps (several classes, option sets, the label-free
 * procedure and, for the smallest images, other methods); and over maps of what came later: one class against another, layercam,
 * hirescam, lrp_lc, smoothed maps. tests/test_bits.sh builds this for every target and compares the lines it prints with
 * tests/bits.txt.
 *
 *   bits [--isa NAME] [--threads N,N,...] [case ...]     prints "SHA-256  case" and "SHA-256  case, later"; without cases: all there are
 *
 * Each case is explained with each number of threads, then with low_memory and without AGF_RUN_EXPLAIN, then in a program that
 * rounds upward and flushes subnormals to zero, which must find its own settings unchanged. All of it must give the same bits.
 * Exit status: 0, 1 if bits differ or anything fails, 3 if the instruction set is not available. */
#include "../agf.h"
#include "../tools/cli_sha256.h"
#include "testing.h"

/* ---- The host program's floating-point settings ---- */

/* Rounding upward, subnormals flushed to zero; settings() reads back what a change of either would show in. */
#if defined(__x86_64__) || defined(__i386__)
static unsigned settings(void) {
  unsigned v;
  __asm__ volatile("stmxcsr %0" : "=m"(v));
  return v & 0xffc0u; /* without the sticky exception flags */
}
static void settings_give(unsigned v) { __asm__ volatile("ldmxcsr %0" : : "m"(v)); }
static unsigned settings_hostile(void) { return 0x1f80u | 0x8040u | 0x4000u; } /* FTZ, DAZ, upward */
#elif defined(__aarch64__)
static unsigned settings(void) {
  uint64_t v;
  __asm__ volatile("mrs %0, fpcr" : "=r"(v));
  return (unsigned)v;
}
static void settings_give(unsigned v) {
  uint64_t wide = v;
  __asm__ volatile("msr fpcr, %0" : : "r"(wide));
}
static unsigned settings_hostile(void) { return 1u << 24 | 1u << 22; }
#elif defined(__arm__) && defined(__ARM_FP)
static unsigned settings(void) {
  unsigned v;
  __asm__ volatile("vmrs %0, fpscr" : "=r"(v));
  return v & 0x07ff9f00u; /* without condition and sticky exception flags */
}
static void settings_give(unsigned v) { __asm__ volatile("vmsr fpscr, %0" : : "r"(v)); }
static unsigned settings_hostile(void) { return 1u << 24 | 1u << 22; }
#else
#include <fenv.h>
static unsigned settings(void) { return (unsigned)fegetround(); }
static void settings_give(unsigned v) { fesetround((int)v); }
static unsigned settings_hostile(void) { return FE_UPWARD; }
#endif

/* ---- A case ---- */

typedef struct test_case {
  const char *name;
  agf_model *model;
  float *x; /* [C][H][W] */
  int height, width;
  size_t pixels;
} test_case;

/* A map, or the code of the error that stands in its place. */
static void add_maps(sha256 *sha, agf_session *session, agf_request *q, float *maps, size_t pixels) {
  agf_status st = agf_explain(session, q, maps, NULL);
  if (st == AGF_OK)
    sha256_add_floats(sha, maps, pixels * (size_t)q->count);
  else
    sha256_add_u32(sha, (uint32_t)st);
}

/* What came after the first hash was settled: the second class against the first by every method that has it (a later one may join
 * only with a hash of its own), the later methods, the last map smoothed. */
static void hash_later(const test_case *c, const agf_session_config *config, agf_session *session, float *maps, char text[65]) {
  static const agf_method methods[] = {AGF_METHOD_AGF,        AGF_METHOD_AGF_A,
                                       AGF_METHOD_AGF_LC,     AGF_METHOD_GRADIENT_X_INPUT,
                                       AGF_METHOD_SMOOTHGRAD, AGF_METHOD_INTEGRATED_GRADIENTS,
                                       AGF_METHOD_FULLGRAD,   AGF_METHOD_GRADCAM,
                                       AGF_METHOD_LAYERCAM,   AGF_METHOD_HIRESCAM,
                                       AGF_METHOD_LRP_LC};
  int target = agf_model_classes(c->model) > 1 ? agf_ranked(session, 1) : 0, against;
  size_t i;
  agf_request q;
  sha256 sha;
  sha256_begin(&sha);
  memset(&q, 0, sizeof q);
  q.count = 1;
  q.classes = &target;
  q.steps = q.samples = 2;
  for (i = 0; i < sizeof methods / sizeof *methods; i++) {
    q.method = methods[i];
    if (agf_method_traits(q.method) & AGF_METHOD_PLANNED && !config->methods) continue;
    for (against = 0; against < 2; against++) {
      q.against = against && target != agf_ranked(session, 0) ? agf_ranked(session, 0) + 1 : 0;
      if (against || q.method >= AGF_METHOD_LAYERCAM) add_maps(&sha, session, &q, maps, c->pixels);
    }
  }
  q.method = AGF_METHOD_AGF;
  q.against = 0;
  if (agf_explain(session, &q, maps, NULL) == AGF_OK) {
    for (i = 0; i < 3; i++) agf_map_smooth(maps, c->height, c->width, i < 2 ? 0.7 : 9.3, maps + c->pixels, NULL);
    sha256_add_floats(&sha, maps, c->pixels);
  }
  sha256_end(&sha, text);
}

/* The case's hashes, one behind the other, under one configuration; nonzero if a session cannot be made or run. */
static int hash_case(const test_case *c, const agf_session_config *config, unsigned flags, char text[130], agf_error *err) {
  static const agf_method methods[] = {AGF_METHOD_GRADIENT_X_INPUT, AGF_METHOD_GRADCAM, AGF_METHOD_LRP_A2B1, AGF_METHOD_CLRP};
  static const unsigned options[] = {AGF_OPT_NO_FX | AGF_OPT_NO_REG, AGF_OPT_NO_FDX | AGF_OPT_NO_A,
                                     AGF_OPT_NO_M | AGF_OPT_FX_GRADCAM};
  agf_session *session;
  agf_request q;
  sha256 sha;
  size_t i, latent_size;
  int classes = agf_model_classes(c->model);
  float *maps, *latent;
  if (agf_session_create(c->model, config, &session, err) != AGF_OK) return 1;
  if (agf_run(session, c->x, flags, err) != AGF_OK) {
    agf_session_destroy(session);
    return 1;
  }
  sha256_begin(&sha);
  sha256_add_floats(&sha, agf_logits(session), (size_t)classes);
  latent_size = (size_t)agf_latent_size(session);
  latent = (float *)malloc(latent_size * sizeof *latent);
  maps = (float *)malloc(2 * c->pixels * sizeof *maps);
  if (agf_latent(session, latent, err) == AGF_OK) sha256_add_floats(&sha, latent, latent_size);
  memset(&q, 0, sizeof q);
  q.count = classes < 2 ? 1 : 2;
  add_maps(&sha, session, &q, maps, c->pixels);
  q.count = 1;
  for (i = 0; i < sizeof options / sizeof *options; i++) {
    q.options = options[i];
    add_maps(&sha, session, &q, maps, c->pixels);
  }
  q.options = 0;
  for (i = 1; i < latent_size; i += 3) latent[i] = 0; /* stands in for the difference of two pictures */
  q.difference = latent;
  add_maps(&sha, session, &q, maps, c->pixels);
  q.difference = NULL;
  for (i = 0; config->methods && i < sizeof methods / sizeof *methods; i++) {
    q.method = methods[i];
    add_maps(&sha, session, &q, maps, c->pixels);
  }
  sha256_end(&sha, text);
  hash_later(c, config, session, maps, text + 65);
  free(latent);
  free(maps);
  agf_session_destroy(session);
  return 0;
}

static void compare(const test_case *c, const char *how, int failed, const char *hash, const char *expected, const agf_error *err) {
  CHECK(!failed, "%s, %s: %s", c->name, how, err->message);
  if (!failed) CHECK(!memcmp(hash, expected, 130), "%s, %s: other bits than on one thread", c->name, how);
}

static void run_case(const test_case *c, const char *isa, const int *threads, int counts) {
  agf_session_config config;
  agf_error err = {AGF_OK, ""};
  char expected[130] = "", hash[130], how[64];
  int i, failed;
  unsigned before, after, own;
  memset(&config, 0, sizeof config);
  config.isa = isa;
  config.height = c->height;
  config.width = c->width;
  config.methods = c->pixels < 1000 ? AGF_METHODS_ALL : 0;
  for (i = 0; i < counts; i++) {
    config.threads = threads[i];
    snprintf(how, sizeof how, "%d threads", threads[i]);
    failed = hash_case(c, &config, AGF_RUN_EXPLAIN, hash, &err);
    if (!i) memcpy(expected, hash, sizeof expected);
    compare(c, how, failed, hash, expected, &err);
  }
  config.low_memory = 1;
  failed = hash_case(c, &config, 0, hash, &err);
  compare(c, "low_memory without AGF_RUN_EXPLAIN", failed, hash, expected, &err);
  config.low_memory = 0;
  own = settings();
  settings_give(settings_hostile());
  before = settings();
  failed = hash_case(c, &config, 0, hash, &err);
  after = settings();
  settings_give(own);
  compare(c, "rounding upward and flushing subnormals", failed, hash, expected, &err);
  CHECK(before == after && before != own, "%s: floating-point settings were %#x, came back as %#x", c->name, before, after);
  printf("%s  %s\n%s  %s, later\n", expected, c->name, expected + 65, c->name);
  fflush(stdout);
}

/* The demo network has no tensor to start from: a picture made by arithmetic, through the network's own preprocessing. */
static float *demo_input(const agf_model *model, const agf_input *in) {
  enum { W = 150, H = 130 };
  static uint8_t rgb[H * W * 3];
  float *x = (float *)malloc(sizeof *x * (size_t)in->channels * (size_t)in->height * (size_t)in->width);
  unsigned h, w;
  for (h = 0; h < H; h++)
    for (w = 0; w < W; w++) {
      uint8_t *p = rgb + (h * W + w) * 3;
      p[0] = (uint8_t)(h * w / 16);
      p[1] = (uint8_t)(255 - h - (w / 20 % 2) * 100);
      p[2] = (uint8_t)(((h / 13) ^ (w / 11)) * 30);
    }
  if (agf_picture_to_input(model, 0, 0, rgb, W, H, 3 * W, x, NULL, NULL) == AGF_OK) return x;
  free(x);
  return NULL;
}

/* Returns 0, or 3 if the instruction set is not available. */
static int load_and_run(const char *folder, const char *name, const char *isa, const int *threads, int counts) {
  char path[1024];
  agf_error err;
  agf_input in;
  agf_session *probe;
  agf_session_config config;
  test_case c;
  npy input;
  int missing = 0, demo = !strcmp(name, "demo");
  c.name = name;
  c.x = NULL;
  snprintf(path, sizeof path, "%s/%s/%s.agf", folder, name, name);
  if (agf_model_open(path, NULL, &c.model, &err) != AGF_OK) {
    CHECK(0, "%s", err.message);
    return 0;
  }
  agf_model_input(c.model, &in);
  c.height = in.height;
  c.width = in.width;
  snprintf(path, sizeof path, "%s/%s/input.npy", folder, name);
  if (demo) {
    c.x = demo_input(c.model, &in);
  } else if (!npy_load(path, &input)) {
    c.x = npy_floats(&input);
    c.height = input.shape[1];
    c.width = input.shape[2];
    free(input.data);
  }
  c.pixels = (size_t)c.height * (size_t)c.width;
  memset(&config, 0, sizeof config);
  config.isa = isa;
  config.threads = 1;
  config.height = c.height;
  config.width = c.width;
  if (agf_session_create(c.model, &config, &probe, &err) == AGF_OK)
    agf_session_destroy(probe);
  else if (err.code == AGF_ERR_ARGUMENT && isa)
    missing = 3, printf("%s\n", err.message);
  if (!missing) {
    CHECK(c.x != NULL, "%s: no input", name);
    if (c.x) run_case(&c, isa, threads, counts);
  }
  free(c.x);
  agf_model_close(c.model);
  return missing;
}

/* Which of the cases that the command line names there are. */
static int taken[256];

static int wanted(char **cases, int count, const char *name) {
  int i;
  for (i = 0; i < count && strcmp(cases[i], name); i++) continue;
  if (i < count && i < 256) taken[i] = 1;
  return !count || i < count;
}

int main(int argc, char **argv) {
  static const char *const folders[] = {"golden", "golden-extra"};
  const char *isa = NULL, *root = tests_folder();
  char path[1024], folder[512], name[256];
  int threads[8] = {1}, counts = 1, missing = 0;
  size_t i;
  FILE *f;
  for (argv++, argc--; argc > 1 && !strncmp(*argv, "--", 2); argv += 2, argc -= 2) {
    if (!strcmp(*argv, "--isa")) isa = argv[1];
    if (!strcmp(*argv, "--threads")) {
      char *p = argv[1];
      for (counts = 0; counts < 8 && *p; p += *p == ',') threads[counts++] = (int)strtol(p, &p, 10);
    }
  }
  for (i = 0; i < sizeof folders / sizeof *folders && !missing; i++) {
    snprintf(folder, sizeof folder, "%s/%s", root, folders[i]);
    snprintf(path, sizeof path, "%s/cases.txt", folder);
    f = fopen(path, "r");
    CHECK(f != NULL, "%s cannot be read", path);
    while (f && !missing && fscanf(f, "%255s", name) == 1)
      if (wanted(argv, argc, name)) missing = load_and_run(folder, name, isa, threads, counts);
    if (f) fclose(f);
  }
  if (!missing && wanted(argv, argc, "demo")) missing = load_and_run(root, "demo", isa, threads, counts);
  for (i = 0; i < (size_t)argc && !missing; i++) CHECK(taken[i], "there is no case %s", argv[i]);
  return missing ? missing : tests_end();
}
