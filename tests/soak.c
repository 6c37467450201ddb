/* Three rounds of 2,000 explanations in one session; then sessions side by side: eight threads make, use and destroy sessions of
 * their own on one model for the seconds given (2 without an argument). Always the same bits, and the process does not grow.
 *
 *   soak [-k TEXT] [SECONDS] */
#include "testing.h"
#include "tiny.h"
#include <pthread.h>
#include <time.h>
#include <unistd.h>

/* Sanitizers, and valgrind (make valgrind sets SOAK_CHECKED), keep what was freed and a shadow of what was touched; what leaks,
 * they say themselves. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { THREADS = 8, PIXELS = 9 * 8 };

typedef struct worker {
  pthread_t thread;
  const agf_model *model;
  const float *x, *expected;
  int threads; /* of its session */
  double until;
  long rounds, wrong;
} worker;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Bytes of memory the process holds; 0 where the system does not say. */
static long resident(void) {
  long pages = 0, all;
  FILE *f = fopen("/proc/self/statm", "r");
  if (!f || fscanf(f, "%ld %ld", &all, &pages) != 2) pages = 0;
  if (f) fclose(f);
  return pages * sysconf(_SC_PAGESIZE);
}

/* Whether a run and its explanation in s succeed with the expected bits. */
static int explains(agf_session *s, const float *x, const float *expected, unsigned flags) {
  float map[PIXELS];
  agf_request q;
  memset(&q, 0, sizeof q);
  q.count = 1;
  return agf_run(s, x, flags, NULL) == AGF_OK && agf_explain(s, &q, map, NULL) == AGF_OK && !memcmp(map, expected, sizeof map);
}

static long median3(long a, long b, long c) {
  long low = a < b ? a : b, high = a < b ? b : a;
  return c < low ? low : c > high ? high : c;
}

static void *work(void *arg) {
  worker *w = (worker *)arg;
  agf_session_config c;
  agf_session *s = NULL;
  memset(&c, 0, sizeof c);
  c.threads = w->threads;
  do {
    if (w->rounds % 64 == 0) {
      agf_session_destroy(s);
      if (agf_session_create(w->model, &c, &s, NULL) != AGF_OK) {
        w->wrong++;
        return NULL;
      }
    }
    w->wrong += !explains(s, w->x, w->expected, w->rounds++ % 2 ? AGF_RUN_EXPLAIN : 0);
  } while (seconds() < w->until);
  agf_session_destroy(s);
  return NULL;
}

/* What every explanation here is of: a model, an image, and the map that it must give. */
static struct {
  agf_model *model;
  float x[3 * PIXELS], expected[PIXELS];
  double seconds;
} soak;

/* Whether growth can be judged: by this program, on this system. What is not judged is said once. */
static int growth_counts(void) {
  static int told;
  int unknown = resident() == 0;
  if (!SANITIZED && !getenv("SOAK_CHECKED") && !unknown) return 1;
  if (unknown && !told++) printf("SKIP growth: this system does not say how much memory a process holds\n"), tests_skipped++;
  return 0;
}

static void test_one_session(void) {
  agf_session *s;
  agf_error err;
  long before, growth[3], wrong = 0;
  int t, i;
  CHECK(agf_session_create(soak.model, NULL, &s, &err) == AGF_OK, "%s", err.message);
  if (!s) return;
  for (i = 0; i < 200; i++) wrong += !explains(s, soak.x, soak.expected, 0); /* what libc keeps back is settled */
  for (t = 0; t < 3; t++) { /* a leak grows in each round; pages that come late, or that the kernel takes back, count in one */
    before = resident();
    for (i = 0; i < 2000; i++) wrong += !explains(s, soak.x, soak.expected, i % 2 ? AGF_RUN_EXPLAIN : 0);
    growth[t] = resident() - before;
  }
  CHECK(!wrong, "%ld of 6200 explanations differ", wrong);
  if (growth_counts()) /* one page table or stdio buffer more is not growth; 2,000 leaks of 64 bytes would be */
    CHECK(median3(growth[0], growth[1], growth[2]) <= 65536,
          "three rounds of 2000 explanations: the process grew by %ld, %ld and %ld bytes", growth[0], growth[1], growth[2]);
  agf_session_destroy(s);
}

static void test_side_by_side(void) {
  worker w[THREADS];
  long before, grown = 0, wrong = 0, least = -1;
  int i, t;
  for (i = 0; i < 2; i++) { /* the first round settles the threads' own heaps */
    before = resident();
    memset(w, 0, sizeof w);
    for (t = 0; t < THREADS; t++) {
      w[t].model = soak.model;
      w[t].x = soak.x;
      w[t].expected = soak.expected;
      w[t].threads = t % 4 == 3 ? 5 : 1 + t % 2;
      w[t].until = seconds() + soak.seconds / 2;
      if (pthread_create(&w[t].thread, NULL, work, &w[t])) {
        printf("a thread cannot be made\n");
        exit(2);
      }
    }
    for (t = 0; t < THREADS; t++) {
      pthread_join(w[t].thread, NULL);
      wrong += w[t].wrong;
      if (least < 0 || w[t].rounds < least) least = w[t].rounds;
    }
    grown = resident() - before;
  }
  CHECK(!wrong && least > 0, "sessions side by side: %ld explanations differ; the slowest thread made %ld", wrong, least);
  if (growth_counts()) /* heaps of eight threads breathe by some pages; a leaked session is 100 KB, and thousands are made */
    CHECK(grown <= 1 << 20, "sessions side by side: the process grew by %ld bytes", grown);
}

int main(int argc, char **argv) {
  int at = tests_begin(argc, argv);
  size_t bytes, i;
  unsigned char *data = tiny_model(0, &bytes);
  agf_session *s;
  agf_error err;
  agf_request q;
  soak.seconds = at < argc ? atof(argv[at]) : 2;
  for (i = 0; i < 3 * PIXELS; i++) soak.x[i] = (float)((int)(i * 2654435761u >> 16 & 255) - 100) / 128;
  memset(&q, 0, sizeof q);
  q.count = 1;
  if (agf_model_open_memory(data, bytes, NULL, &soak.model, &err) != AGF_OK ||
      agf_session_create(soak.model, NULL, &s, &err) != AGF_OK || agf_run(s, soak.x, 0, &err) != AGF_OK ||
      agf_explain(s, &q, soak.expected, &err) != AGF_OK) {
    printf("%s\n", err.message);
    return 2;
  }
  agf_session_destroy(s);
  RUN(test_one_session);
  RUN(test_side_by_side);
  agf_model_close(soak.model);
  free(data);
  return tests_end();
}
