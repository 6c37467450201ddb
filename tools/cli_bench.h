/* agf bench: how fast a model runs and explains here, beside what the machine can do.
 *
 * The peak is the rate of independent fused multiply-adds in registers, the bandwidth that of reading a buffer larger than the
 * caches; both are probed between the measured runs, on as many threads, so that a machine that slows down slows both. Times are
 * medians. Opening the file, with the check of its weights, is measured before the rest, each time beside the bandwidth of one
 * thread. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include <math.h>
#include <pthread.h>
#include <sys/resource.h>

#include "agf.h"
#include "cli_base.h"
#include "cli_result.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { PROBE_STEPS = 1 << 17, PROBE_CHAINS = 12, PROBE_THREADS = 256 };
static const size_t PROBE_BYTES = (size_t)64 << 20; /* of each thread */

/* PROBE_STEPS times PROBE_CHAINS independent multiply-adds; returns the floating-point operations done, *keep makes them count. */
#define DEFINE_PROBE(name, attribute, vector, lanes, zero, set, fma, store)                                                        \
  attribute static double name(float *keep) {                                                                                      \
    vector c[PROBE_CHAINS], a = set(0.5f), b = set(1.0f);                                                                          \
    float out[lanes];                                                                                                              \
    int i, k;                                                                                                                      \
    for (k = 0; k < PROBE_CHAINS; k++) c[k] = zero;                                                                                \
    for (i = 0; i < PROBE_STEPS; i++) {                                                                                            \
      c[0] = fma(c[0], a, b), c[1] = fma(c[1], a, b), c[2] = fma(c[2], a, b);                                                      \
      c[3] = fma(c[3], a, b), c[4] = fma(c[4], a, b), c[5] = fma(c[5], a, b);                                                      \
      c[6] = fma(c[6], a, b), c[7] = fma(c[7], a, b), c[8] = fma(c[8], a, b);                                                      \
      c[9] = fma(c[9], a, b), c[10] = fma(c[10], a, b), c[11] = fma(c[11], a, b);                                                  \
    }                                                                                                                              \
    for (k = 0; k < PROBE_CHAINS; k++) {                                                                                           \
      store(out, c[k]);                                                                                                            \
      *keep += out[0];                                                                                                             \
    }                                                                                                                              \
    return 2.0 * PROBE_STEPS * PROBE_CHAINS * lanes;                                                                               \
  }

#define PLAIN_SET(x) (x)
#define PLAIN_FMA(c, a, b) ((c) * (a) + (b))
#define PLAIN_STORE(p, v) (*(p) = (v))
DEFINE_PROBE(probe_ref, , float, 1, 0.0f, PLAIN_SET, PLAIN_FMA, PLAIN_STORE)
#if defined(__x86_64__)
DEFINE_PROBE(probe_avx2, __attribute__((target("avx2,fma"))), __m256, 8, _mm256_setzero_ps(), _mm256_set1_ps, _mm256_fmadd_ps,
             _mm256_storeu_ps)
DEFINE_PROBE(probe_avx512, __attribute__((target("avx512f"))), __m512, 16, _mm512_setzero_ps(), _mm512_set1_ps, _mm512_fmadd_ps,
             _mm512_storeu_ps)
#elif defined(__aarch64__)
#define NEON_FMA(c, a, b) vfmaq_f32(b, c, a)
DEFINE_PROBE(probe_neon, , float32x4_t, 4, vdupq_n_f32(0), vdupq_n_f32, NEON_FMA, vst1q_f32)
#endif

typedef double probe_function(float *keep);

static probe_function *find_probe(const char *isa) {
#if defined(__x86_64__)
  if (!strcmp(isa, "avx2")) return probe_avx2;
  if (!strcmp(isa, "avx512")) return probe_avx512;
#elif defined(__aarch64__)
  if (!strcmp(isa, "neon")) return probe_neon;
#endif
  (void)isa;
  return probe_ref;
}

/* One thread's part of a probe; both quantities count over the same span of time on all threads. */
typedef struct probe {
  probe_function *peak;
  const unsigned char *data; /* [PROBE_BYTES] of 1 */
  pthread_barrier_t *start;
  double done, begin, end;
  float keep;
} probe;

static void *probe_peak(void *argument) {
  probe *p = argument;

  pthread_barrier_wait(p->start);
  p->begin = seconds_now();
  p->done = p->peak(&p->keep);
  p->end = seconds_now();
  return NULL;
}

/* The C library's search for a byte that is not there: it reads with the widest vectors that the machine has, and narrower loads do
 * not reach the bandwidth. */
static void *probe_bandwidth(void *argument) {
  probe *p = argument;

  pthread_barrier_wait(p->start);
  p->begin = seconds_now();
  p->keep += memchr(p->data, 2, PROBE_BYTES) != NULL;
  p->done = (double)PROBE_BYTES;
  p->end = seconds_now();
  return NULL;
}

/* What all threads together do in a second. */
static double probe_rate(probe *p, int threads, void *(*run)(void *)) {
  pthread_t thread[PROBE_THREADS];
  pthread_barrier_t start;
  double done = 0, begin, end;
  int i, made = 0;

  pthread_barrier_init(&start, NULL, (unsigned)threads);
  for (i = 0; i < threads; i++) p[i].start = &start;
  for (i = 1; i < threads; i++, made++)
    if (pthread_create(&thread[i], NULL, run, &p[i])) fatal("thread %d of %d cannot be made", i + 1, threads);
  run(&p[0]);
  for (i = 1; i <= made; i++) pthread_join(thread[i], NULL);
  pthread_barrier_destroy(&start);
  begin = p[0].begin;
  end = p[0].end;
  for (i = 0; i < threads; i++) {
    done += p[i].done;
    begin = fmin(begin, p[i].begin);
    end = fmax(end, p[i].end);
  }
  return done / (end - begin);
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;

  return (x > y) - (x < y);
}

/* Sorts its argument. */
static double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, compare_doubles);
  return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Multiply-adds of a convolution or linear layer, counted as two operations and as if nothing were zero; else 0. */
static double layer_operations(const agf_model *model, int i, int height, int width) {
  agf_layer layer, from;
  agf_input input;
  int source = agf_model_layer_input(model, i, 0), channels, elements;

  if (agf_model_layer(model, i, height, width, &layer, NULL) || (layer.op != AGF_OP_CONV && layer.op != AGF_OP_LINEAR)) return 0;
  agf_model_input(model, &input);
  channels = elements = input.channels;
  if (source > 0) {
    if (agf_model_layer(model, source - 1, height, width, &from, NULL)) return 0;
    channels = from.shape[0];
    elements = from.shape[0] * from.shape[1] * from.shape[2];
  }
  if (layer.op == AGF_OP_LINEAR) return 2.0 * layer.shape[0] * elements;
  channels /= layer.groups;
  return 2.0 * layer.shape[0] * layer.shape[1] * layer.shape[2] * channels * layer.kernel[0] * layer.kernel[1];
}

/* The widest layer name, for tables. */
static int name_columns(const agf_model *model) {
  int widest = 4, i;
  agf_layer layer;

  for (i = 0; i < agf_model_layers(model); i++)
    if (!agf_model_layer(model, i, 0, 0, &layer, NULL) && columns(layer.name) > widest) widest = columns(layer.name);
  return widest;
}

enum { OPENING, FORWARD, EXPLAINED, NEXT, STAGES };

typedef struct bench {
  agf_model *model;
  agf_session *session;
  const char *name;
  int height, width, threads, runs, layers;
  double *stage[STAGES];              /* [runs] seconds: opening; plain forward pass; forward pass and one class; a further class */
  double *opening_share;              /* [runs] the file's bytes a second while it is opened, of the bandwidth */
  double *layer_forward, *layer_next; /* [layers][runs] seconds */
  double *peak, *bandwidth;           /* [runs] a second */
  double convolutions, convolution_seconds; /* operations; medians of the layers' forward times */
  size_t session_bytes;
} bench;

/* A tensor of noise, the same every time: uniform in [-2, 2), about what preprocessed pictures spread over. */
static float *noise_tensor(size_t count) {
  float *x = allocate(count, sizeof *x);
  uint32_t state = 1;
  size_t i;

  for (i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    x[i] = (float)(state >> 8) / (1 << 22) - 2;
  }
  return x;
}

/* What the bandwidth probes read. */
static unsigned char *probe_data(void) {
  unsigned char *data = allocate(PROBE_BYTES, 1);

  memset(data, 1, PROBE_BYTES);
  return data;
}

/* Before the model is open for the rest, so that the process holds one mapping of it at a time. The first opening, which may have
 * to read from the disk, warms up. */
static void bench_opening(bench *b, const char *path) {
  agf_model *model;
  agf_error error;
  probe p;
  double bandwidth, t;
  unsigned char *data = probe_data();
  int r;

  memset(&p, 0, sizeof p);
  p.data = data;
  b->stage[OPENING] = allocate((size_t)b->runs, sizeof *b->stage[OPENING]);
  b->opening_share = allocate((size_t)b->runs, sizeof *b->opening_share);
  for (r = -1; r < b->runs; r++) {
    int at = r < 0 ? 0 : r;

    bandwidth = probe_rate(&p, 1, probe_bandwidth);
    t = seconds_now();
    if (agf_model_open(path, NULL, &model, &error)) fatal("%s", error.message); /* it begins with the path */
    b->stage[OPENING][at] = seconds_now() - t;
    b->opening_share[at] = (double)agf_model_file_bytes(model) / b->stage[OPENING][at] / bandwidth;
    agf_model_close(model);
    stop_if_interrupted();
  }
  free(data);
}

static void bench_measure(bench *b, const float *x) {
  probe probes[PROBE_THREADS];
  unsigned char *data = probe_data();
  float *map = allocate((size_t)b->height * (size_t)b->width, sizeof *map);
  agf_request request;
  agf_times times;
  agf_error error;
  double t;
  int r, i, target;

  memset(probes, 0, sizeof probes);
  for (i = 0; i < b->threads; i++) {
    probes[i].peak = find_probe(agf_isa_name(b->session));
    probes[i].data = data;
  }
  memset(&request, 0, sizeof request);
  request.count = 1;
  for (r = -1; r < b->runs; r++) { /* the first round warms up */
    int at = r < 0 ? 0 : r;

    progress_step(1, b->name);
    progress_update(NULL, 0);
    b->peak[at] = probe_rate(probes, b->threads, probe_peak);
    b->bandwidth[at] = probe_rate(probes, b->threads, probe_bandwidth);
    t = seconds_now();
    if (agf_run(b->session, x, 0, &error)) fatal("%s: %s", b->name, error.message);
    b->stage[FORWARD][at] = seconds_now() - t;
    for (i = 0; i < b->layers; i++) {
      agf_layer_times(b->session, i, &times);
      b->layer_forward[i * b->runs + at] = times.forward;
    }
    target = agf_ranked(b->session, 0);
    request.classes = &target;
    t = seconds_now();
    if (agf_run(b->session, x, AGF_RUN_EXPLAIN, &error) || agf_explain(b->session, &request, map, &error))
      fatal("%s: %s", b->name, error.message);
    b->stage[EXPLAINED][at] = seconds_now() - t;
    for (i = 0; i < b->layers; i++) {
      agf_layer_times(b->session, i, &times);
      b->layer_next[i * b->runs + at] = -times.explain;
    }
    target = agf_ranked(b->session, agf_model_classes(b->model) > 1);
    t = seconds_now();
    if (agf_explain(b->session, &request, map, &error)) fatal("%s: %s", b->name, error.message);
    b->stage[NEXT][at] = seconds_now() - t;
    for (i = 0; i < b->layers; i++) {
      agf_layer_times(b->session, i, &times);
      b->layer_next[i * b->runs + at] += times.explain;
    }
    stop_if_interrupted();
  }
  free(data);
  free(map);
}

static void bench_print(bench *b, int json, int verbose) {
  static const char *const stages[STAGES] = {"open_ms", "forward_ms", "explain_ms", "next_class_ms"};
  static const char *const said[STAGES] = {"opening the file, checked", "forward pass", "one class, forward pass included",
                                           "each further class"};
  int width = name_columns(b->model);
  double peak = median(b->peak, b->runs), bandwidth = median(b->bandwidth, b->runs), share;
  struct rusage usage;
  agf_layer layer;
  int i;

  for (i = 0; i < b->layers; i++) {
    double operations = layer_operations(b->model, i, b->height, b->width),
           seconds = median(b->layer_forward + i * b->runs, b->runs);

    median(b->layer_next + i * b->runs, b->runs);
    agf_model_layer(b->model, i, b->height, b->width, &layer, NULL);
    if (layer.op == AGF_OP_CONV) {
      b->convolutions += operations;
      b->convolution_seconds += seconds;
    }
  }
  share = b->convolution_seconds > 0 ? b->convolutions / b->convolution_seconds / peak : 0;
  getrusage(RUSAGE_SELF, &usage);
  if (json) {
    printf("{\"model\": ");
    json_string(b->name);
    printf(", \"height\": %d, \"width\": %d, \"isa\": \"%s\", \"threads\": %d, \"runs\": %d, \"peak_gflops\": %.6g, "
           "\"bandwidth_gbs\": %.6g, \"conv_forward_gflop\": %.6g, \"conv_forward_share_of_peak\": %.6g",
           b->height, b->width, agf_isa_name(b->session), b->threads, b->runs, peak / 1e9, bandwidth / 1e9, b->convolutions / 1e9,
           share);
  } else {
    print_clean(b->name);
    printf(", %dx%d, %s, %d thread%s, medians of %d runs\n", b->width, b->height, agf_isa_name(b->session), b->threads,
           b->threads == 1 ? "" : "s", b->runs);
    printf("  %-34s %9.1f GFLOP/s\n  %-34s %9.1f GB/s\n", "peak of multiply-adds", peak / 1e9, "read bandwidth", bandwidth / 1e9);
    printf("  %-34s %9.2f of the peak (%.2f GFLOP counted as if nothing were 0)\n", "convolutions of the forward pass", share,
           b->convolutions / 1e9);
  }
  for (i = 0; i < STAGES; i++) {
    double middle = median(b->stage[i], b->runs), least = b->stage[i][0], most = b->stage[i][b->runs - 1];

    if (json)
      printf(", \"%s\": %.6g, \"%s_min\": %.6g, \"%s_max\": %.6g", stages[i], 1e3 * middle, stages[i], 1e3 * least, stages[i],
             1e3 * most);
    else
      printf("  %-34s %9.2f ms   (%.2f to %.2f)", said[i], 1e3 * middle, 1e3 * least, 1e3 * most);
    if (i == OPENING)
      printf(json ? ", \"open_share_of_bandwidth\": %.6g" : ", %.2f of one thread's bandwidth", median(b->opening_share, b->runs));
    if (!json) printf("\n");
  }
  if (json)
    printf(", \"session_bytes\": %zu, \"peak_rss_bytes\": %.0f, \"layers\": [", b->session_bytes, usage.ru_maxrss * 1024.0);
  else
    printf("  %-34s %9.1f MB, the process at most %.1f MB\n", "session", b->session_bytes / 1e6, usage.ru_maxrss * 1024.0 / 1e6);
  if (verbose && !json)
    printf("  %-*s  %-16s %10s %9s %8s %10s\n", width, "layer", "op", "forward ms", "GFLOP/s", "of peak", "class ms");
  for (i = 0; (json || verbose) && i < b->layers; i++) {
    double operations = layer_operations(b->model, i, b->height, b->width);
    double forward = median(b->layer_forward + i * b->runs, b->runs), next = median(b->layer_next + i * b->runs, b->runs);
    double rate = forward > 0 ? operations / forward : 0;

    agf_model_layer(b->model, i, b->height, b->width, &layer, NULL);
    if (json) {
      printf("%s{\"name\": ", i ? ", " : "");
      json_string(layer.name);
      printf(", \"op\": \"%s\", \"forward_ms\": %.6g, \"class_ms\": %.6g, \"gflops\": %.6g, \"share_of_peak\": %.6g}",
             agf_op_name(layer.op), 1e3 * forward, 1e3 * next, rate / 1e9, rate / peak);
    } else if (forward > 0 || next > 0) {
      printf("  ");
      print_padded(layer.name, width);
      printf("  %-16s %10.3f %9.1f %8.2f %10.3f\n", agf_op_name(layer.op), 1e3 * forward, rate / 1e9, rate / peak, 1e3 * next);
    }
  }
  if (json) printf("]}\n");
}

/* After bench_opening. x: [C][height][width], NULL: noise. */
static void bench_run(bench *b, const agf_session_config *config, const float *x, int json, int verbose, int quiet) {
  size_t runs = (size_t)b->runs;
  agf_input input;
  agf_error error;
  float *noise = NULL;
  int i;

  if (agf_session_bytes(b->model, config, &b->session_bytes, &error) || agf_session_create(b->model, config, &b->session, &error))
    fatal("%s: %s", b->name, error.message);
  agf_model_input(b->model, &input);
  b->threads = agf_session_threads(b->session);
  if (b->threads > PROBE_THREADS) fatal("bench takes at most %d threads", PROBE_THREADS);
  b->layers = agf_model_layers(b->model);
  for (i = FORWARD; i < STAGES; i++) b->stage[i] = allocate(runs, sizeof *b->stage[i]);
  b->layer_forward = allocate((size_t)b->layers * runs, sizeof *b->layer_forward);
  b->layer_next = allocate((size_t)b->layers * runs, sizeof *b->layer_next);
  b->peak = allocate(runs, sizeof *b->peak);
  b->bandwidth = allocate(runs, sizeof *b->bandwidth);
  if (!x) x = noise = noise_tensor((size_t)input.channels * (size_t)b->height * (size_t)b->width);
  progress_begin(b->runs + 1, quiet);
  bench_measure(b, x);
  progress_clear();
  bench_print(b, json, verbose);
  for (i = 0; i < STAGES; i++) free(b->stage[i]);
  free(b->opening_share);
  free(b->layer_forward);
  free(b->layer_next);
  free(b->peak);
  free(b->bandwidth);
  free(noise);
  agf_session_destroy(b->session);
}

/* ---- agf bench ------------------------------------------------------------------------------------------------------------ */

static int run_bench(const options *asked) {
  agf_session_config config;
  explainer e;
  prepared p;
  problem why;
  bench b;

  if (asked->arguments.count < 1 || asked->arguments.count > 2)
    fatal("bench needs one model file, and takes one picture: agf bench MODEL [PICTURE]");
  memset(&e, 0, sizeof e);
  memset(&p, 0, sizeof p);
  memset(&b, 0, sizeof b);
  e.asked = asked;
  b.runs = asked->runs ? asked->runs : 7;
  bench_opening(&b, asked->arguments.items[0]);
  e.model = b.model = open_model(asked->arguments.items[0]);
  agf_model_input(e.model, &e.input);
  b.name = agf_model_name(b.model);
  if (!*b.name) b.name = base_name(asked->arguments.items[0]);
  b.height = asked->height ? asked->height : e.input.height;
  b.width = asked->width ? asked->width : e.input.width;
  if (asked->arguments.count == 2) {
    if (!prepare(&e, asked->arguments.items[1], &p, &why)) fatal("%s", why.text);
    b.height = p.height;
    b.width = p.width;
  }
  memset(&config, 0, sizeof config);
  config.height = b.height;
  config.width = b.width;
  config.threads = asked->threads;
  config.low_memory = asked->low_memory;
  config.isa = asked->isa;
  bench_run(&b, &config, p.chw, asked->json, asked->verbose, asked->quiet);
  prepared_free(&p);
  agf_model_close(e.model);
  return EXIT_SUCCESS;
}

#endif
