/* What the C test programs share: counting, choosing tests by name, and reading NumPy's .npy files. */
#ifndef AGF_TESTING_H
#define AGF_TESTING_H

#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tests_passed, tests_failed, tests_skipped;

/* Counts one test; on failure prints what a user would have seen go wrong. */
#define CHECK(ok, ...)                                                                                                             \
  do {                                                                                                                             \
    if (ok) {                                                                                                                      \
      tests_passed++;                                                                                                              \
    } else {                                                                                                                       \
      tests_failed++;                                                                                                              \
      printf("FAIL %s:%d: ", __FILE__, __LINE__);                                                                                  \
      printf(__VA_ARGS__);                                                                                                         \
      printf("\n");                                                                                                                \
    }                                                                                                                              \
  } while (0)

/* Which tests are to run: those whose name, or the name of what they run on, holds this text (-k TEXT); NULL: all. */
static const char *tests_chosen;
static int tests_matched;

static inline int tests_wanted(const char *test, const char *what) {
  int wanted = !tests_chosen || strstr(test, tests_chosen) || strstr(what, tests_chosen);
  tests_matched += wanted;
  return wanted;
}

/* Calls a test, unless -k chose others. RUN_ON: a test of one thing that has a name, mostly a network, its first argument. */
#define RUN(test) ((void)(tests_wanted(#test, "") ? (test(), 0) : 0))
#define RUN_ON(test, name) ((void)(tests_wanted(#test, name) ? (test(name), 0) : 0))

/* Takes `-k TEXT` from the front of the command line. Returns the index of the first argument behind it. */
static inline int tests_begin(int argc, char **argv) {
  if (argc < 2 || strcmp(argv[1], "-k")) return 1;
  if (argc < 3) {
    fprintf(stderr, "usage: %s [-k TEXT]: tests whose name, or the name of what they run on, holds TEXT\n", argv[0]);
    exit(2);
  }
  tests_chosen = argv[2];
  return 3;
}

static int tests_end(void) {
  if (tests_chosen && !tests_matched) CHECK(0, "no test's name holds %s", tests_chosen);
  printf("%d passed, %d failed", tests_passed, tests_failed);
  if (tests_skipped) printf(", %d skipped", tests_skipped);
  printf("\n");
  return tests_failed != 0 || tests_passed == 0;
}

/* Folder of the test data: the environment's AGF_TESTS, or tests/ below the current folder. */
static inline const char *tests_folder(void) {
  const char *p = getenv("AGF_TESTS");
  return p && *p ? p : "tests";
}

typedef struct npy {
  int dims, shape[4];
  size_t elements;
  double *data; /* float32 and float64 files alike */
} npy;

enum { NPY_OK, NPY_MISSING, NPY_DAMAGED };

/* Reads a little-endian C-order float32 or float64 file, all of it. NPY_DAMAGED: there is a file, but it is none of that kind. */
static inline int npy_load(const char *path, npy *a) {
  unsigned char head[12];
  char text[65536];
  const char *p;
  size_t length, i;
  int wide, got;
  FILE *f = fopen(path, "rb");
  memset(a, 0, sizeof *a);
  if (!f) return NPY_MISSING;
  got = fread(head, 1, 10, f) == 10 && !memcmp(head, "\x93NUMPY", 6);
  length = got ? (size_t)head[8] | (size_t)head[9] << 8 : 0;
  if (!got || head[6] != 1 || length >= sizeof text || fread(text, 1, length, f) != length) {
    fclose(f);
    return NPY_DAMAGED;
  }
  text[length] = 0;
  wide = strstr(text, "<f8") != NULL;
  p = strstr(text, "'shape': (");
  if ((!wide && !strstr(text, "<f4")) || !p || strstr(text, "True")) {
    fclose(f);
    return NPY_DAMAGED;
  }
  a->elements = 1;
  for (p += 10; *p && *p != ')' && a->dims < 4;) {
    a->shape[a->dims] = (int)strtol(p, (char **)&p, 10);
    a->elements *= (size_t)a->shape[a->dims++];
    while (*p == ',' || *p == ' ') p++;
  }
  a->data = (double *)malloc((a->elements + 1) * sizeof(double));
  for (i = 0; i < a->elements; i++) {
    float v = 0;
    if (fread(wide ? (void *)&a->data[i] : (void *)&v, wide ? 8 : 4, 1, f) != 1) break;
    if (!wide) a->data[i] = v;
  }
  got = i == a->elements && fgetc(f) == EOF;
  fclose(f);
  if (got) return NPY_OK;
  free(a->data);
  a->data = NULL;
  return NPY_DAMAGED;
}

static inline float *npy_floats(const npy *a) {
  float *f = (float *)malloc((a->elements + 1) * sizeof *f);
  size_t i;
  for (i = 0; i < a->elements; i++) f[i] = (float)a->data[i];
  return f;
}

/* norm(a - b) / norm(b); both zero: 0. */
static inline double relative_error(const float *a, const double *b, size_t n) {
  double d = 0, s = 0;
  size_t i;
  for (i = 0; i < n; i++) {
    d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    s += b[i] * b[i];
  }
  return s > 0 ? sqrt(d / s) : d == 0 ? 0 : INFINITY;
}

#endif
