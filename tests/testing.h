/* What the C test programs share: counting, and reading NumPy's .npy files. */
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

static int tests_end(void) {
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

/* Reads a little-endian C-order float32 or float64 file. 0 on success; 1: no such file; 2: not readable as such. */
static inline int npy_load(const char *path, npy *a) {
  unsigned char head[12];
  char text[65536];
  const char *p;
  size_t length, i;
  int wide, got;
  FILE *f = fopen(path, "rb");
  memset(a, 0, sizeof *a);
  if (!f) return 1;
  got = fread(head, 1, 10, f) == 10 && !memcmp(head, "\x93NUMPY", 6);
  length = got ? (size_t)head[8] | (size_t)head[9] << 8 : 0;
  if (!got || head[6] != 1 || length >= sizeof text || fread(text, 1, length, f) != length) {
    fclose(f);
    return 2;
  }
  text[length] = 0;
  wide = strstr(text, "<f8") != NULL;
  p = strstr(text, "'shape': (");
  if ((!wide && !strstr(text, "<f4")) || !p || strstr(text, "True")) {
    fclose(f);
    return 2;
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
  fclose(f);
  if (i == a->elements) return 0;
  free(a->data);
  a->data = NULL;
  return 2;
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
