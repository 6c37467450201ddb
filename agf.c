/* AGF in C: the engine. Reads top to bottom in the order data flows; each section begins with MARK:
 *
 *   status and errors - allocator - floating-point environment
 *   model file: what an op is (agf_op_rules), the parser - graph and shapes - plan: steps, tensors, the arena
 *   threads - rows and pieces - the way back: what the ops share - convolution driver
 *   op: a section each, from convolution to reshaping - the table of ops
 *   the walk back - the seed - sessions - calls - running - neighbours - methods, with their table - explaining - pictures
 *
 * A word means one thing. A node is an entry of the model file, called a layer in agf.h; a step is a node with the BatchNorm and the
 * activation that it takes along (`st`); a tensor is an activation between steps, a weight a tensor of the model file. The plan is made
 * with a session and constant from then on, a run leaves facts, an explanation (`e`) lasts for one map.
 *
 * "agf-spec" in comments is tests/agf-spec.md, the description of the algorithm after Gur, Ali, Wolf, "Visualization of Supervised
 * and Self-Supervised Neural Networks via Attribution Guided Factorization", AAAI 2021. Names follow it: x a tensor's activation, w
 * weights, z logits, cam the attribution of a tensor, g the gradient of the seed's probability, C, A, M, Fx, Fdx, R the terms of
 * the rule for plain convolutions, phi the attribution of a pixel. */
#if !defined(_WIN32) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#if defined(__APPLE__) && !defined(_DARWIN_C_SOURCE)
#define _DARWIN_C_SOURCE 1 /* the number of cores, which is no part of POSIX */
#endif
#if defined(__linux__) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE /* madvise */
#endif
#if defined(__FAST_MATH__)
#error "AGF promises the same bits everywhere: build it without -ffast-math"
#endif
/* 32-bit x86: SSE2 arithmetic; the x87 would round twice. */
#if defined(__i386__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("sse2,fpmath=sse")
#endif

#include "agf.h"

#ifdef AGF_API_OWN
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef AGF_NO_THREADS
#include <pthread.h>
#include <sched.h>
#endif
#ifndef AGF_NO_CLOCK
#include <time.h>
#endif
#if !defined(AGF_NO_FILE) && !defined(_WIN32)
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#endif
#if !defined(_WIN32) && !(defined(AGF_NO_FILE) && defined(AGF_NO_THREADS))
#include <unistd.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__) && !defined(AGF_NO_SIMD)
/* g++ 12 warns of its own header: the operand that an unmasked AVX-512 intrinsic ignores is `_mm512_undefined_ps()`. */
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

/* The compiler must not fuse a * b + c on its own: where a fused operation is meant, it is written. Said behind the headers: gcc reads a
 * pragma's options again for every function that is declared under it, and immintrin.h declares six thousand. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

/* The kernels are made for speed, in a build without optimisation too: as written they are the slowest part of it by far, and compile to
 * megabytes. The rest, which has little to do beside them, is made for size where the build optimises: that costs the compiler a quarter
 * less. What does loop over pixels or weights itself stands between AGF_FAST_BEGIN and AGF_FAST_END. (gcc alone; others do as their
 * flags say.)
 *
 * Two fifths of the compiler's time went into passes that change little here. AGF_FEWER_PASSES leaves out those that the kernels which
 * skip zeros do not miss; they would miss the next two (15 % of a forward pass), and those of elementwise.inc nearly all (a quarter of a
 * class; vrp, pta, dse and jump threading alone an eighth). AGF_FEWEST_PASSES leaves out what code made for size can do without: it
 * becomes 1 % larger, and a class of SqueezeNet takes at most 1.5 % longer. */
#if defined(__GNUC__) && !defined(__clang__)
#define AGF_PRAGMA_2(text) _Pragma(#text)
#define AGF_PRAGMA(text) AGF_PRAGMA_2(text)
#define AGF_OPTIMIZE(...) AGF_PRAGMA(GCC push_options) AGF_PRAGMA(GCC optimize(__VA_ARGS__, "fp-contract=off"))
#define AGF_OPTIMIZE_END AGF_PRAGMA(GCC pop_options)
#define AGF_FEWER_PASSES                                                                                                           \
  "no-tree-loop-vectorize", "no-tree-slp-vectorize", "no-gcse", "no-cse-follow-jumps", "no-rerun-cse-after-loop", "no-tree-pre",   \
      "no-tree-vrp", "no-tree-pta", "no-tree-dse", "no-thread-jumps", "no-ivopts", "no-tree-fre", "no-tree-ccp"
#define AGF_FEWEST_PASSES                                                                                                          \
  AGF_FEWER_PASSES, "no-tree-dominator-opts", "no-tree-sink", "no-tree-coalesce-vars", "no-schedule-insns2", "ira-region=one",     \
      "no-tree-bit-ccp", "no-tree-copy-prop", "no-tree-reassoc", "no-tree-slsr", "no-tree-dce", "no-tree-sra", "no-tree-ch",       \
      "no-tree-phiprop", "no-tree-tail-merge", "no-code-hoisting", "no-store-merging", "no-ssa-backprop", "no-ssa-phiopt",         \
      "no-tree-loop-optimize", "no-tree-loop-im", "no-move-loop-invariants", "no-expensive-optimizations", "no-forward-propagate", \
      "no-crossjumping", "no-if-conversion", "no-if-conversion2", "no-cprop-registers", "no-compare-elim", "no-shrink-wrap",       \
      "no-reorder-blocks", "no-dse", "no-split-wide-types", "no-ree"
#else
#define AGF_OPTIMIZE(...)
#define AGF_OPTIMIZE_END
#endif
/* Asked here, where the user's flags hold: within a region that is optimised gcc defines __OPTIMIZE__. */
#if !defined(__OPTIMIZE__) && !defined(AGF_KERNELS_LINKED)
#define AGF_KERNELS_BEGIN AGF_OPTIMIZE("O2")
#define AGF_KERNELS_END AGF_OPTIMIZE_END
#else
#define AGF_KERNELS_BEGIN
#define AGF_KERNELS_END
#endif
#if defined(__OPTIMIZE__) && !defined(AGF_KERNELS_LINKED)
#define AGF_SMALL_BEGIN AGF_OPTIMIZE("Os", AGF_FEWEST_PASSES)
#define AGF_SMALL_END AGF_OPTIMIZE_END
#else
#define AGF_SMALL_BEGIN
#define AGF_SMALL_END
#endif
#if defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__)
#define AGF_FAST_BEGIN AGF_SMALL_END AGF_OPTIMIZE("O2")
#define AGF_FAST_END AGF_OPTIMIZE_END AGF_SMALL_BEGIN
#else
#define AGF_FAST_BEGIN
#define AGF_FAST_END
#endif

/* gcc inlines across its optimisation levels only what it must: what is called for single elements or weights. */
#if defined(__GNUC__)
#define AGF_INLINE static inline __attribute__((always_inline))
#else
#define AGF_INLINE static inline
#endif

AGF_KERNELS_BEGIN
#include "kernels/kernels.h"

#include "kernels/ref.h"
#include "kernels/x86.h"
#include "kernels/arm.h"
#include "kernels/crc32.h"
AGF_KERNELS_END
AGF_SMALL_BEGIN

/* The kernels of `isa`, NULL: the fastest that this machine has. Returns 0 if there are none of that name here. Tests that look inside the
 * engine are compiled without kernels (AGF_KERNELS_LINKED) and take those of the library as it was built, whose AGF_INTERNAL lets them. */
#if !defined(AGF_INTERNAL)
#define AGF_INTERNAL static
#endif
#if defined(AGF_KERNELS_LINKED)
int agf_kernels_choose(agf_kernels *k, const char *isa);
#else
AGF_INTERNAL int agf_kernels_choose(agf_kernels *k, const char *isa) {
  agf_kernels_ref(k);
  if (isa && !strcmp(isa, "ref")) return 1;
  agf_crc32_fill(k);
#if defined(AGF_KERNELS_X86)
  if (agf_kernels_x86(k, isa)) return 1;
#elif defined(AGF_KERNELS_ARM)
  if (agf_kernels_arm(k, isa)) return 1;
#endif
  return !isa;
}
#endif

#define AGF_ALIGN 64

AGF_INLINE int agf_imin(int a, int b) { return a < b ? a : b; }
AGF_INLINE int agf_imax(int a, int b) { return a > b ? a : b; }
static inline int agf_ceil_div(int a, int b) { return (a + b - 1) / b; }
/* Outputs of a layer, filled up to whole weight panels. */
static inline int agf_filled(int outputs) { return agf_ceil_div(outputs, AGF_OCG) * AGF_OCG; }
static inline uint64_t agf_align_up64(uint64_t n) { return (n + (AGF_ALIGN - 1)) & ~(uint64_t)(AGF_ALIGN - 1); }
static inline size_t agf_align_up(size_t n) { return (size_t)agf_align_up64(n); }

/* MARK: status and errors -----------------------------------------------------------------------------------------------------
 * Errors are values: agf_fail fills the caller's struct and gives the code back, so that `return agf_fail(...)` is the idiom. */

AGF_API const char *agf_status_name(agf_status status) {
  static const char *const names[] = {"AGF_OK",          "AGF_ERR_ARGUMENT",    "AGF_ERR_IO",    "AGF_ERR_FORMAT",
                                      "AGF_ERR_VERSION", "AGF_ERR_UNSUPPORTED", "AGF_ERR_SHAPE", "AGF_ERR_MEMORY",
                                      "AGF_ERR_LIMIT",   "AGF_ERR_NUMERIC",     "AGF_ERR_STATE", "AGF_ERR_CANCELLED",
                                      "AGF_ERR_BUILD"};
  return (unsigned)status < sizeof names / sizeof *names ? names[status] : "AGF_ERR_?";
}

#define AGF_STR_(x) #x
#define AGF_STR(x) AGF_STR_(x)

AGF_API const char *agf_version(void) {
  return AGF_STR(AGF_VERSION_MAJOR) "." AGF_STR(AGF_VERSION_MINOR) "." AGF_STR(AGF_VERSION_PATCH);
}

AGF_API size_t agf_struct_bytes(const char *name) {
  static const struct {
    const char *name;
    size_t bytes;
  } structs[] = {{"agf_error", sizeof(agf_error)},
                 {"agf_allocator", sizeof(agf_allocator)},
                 {"agf_model_config", sizeof(agf_model_config)},
                 {"agf_input", sizeof(agf_input)},
                 {"agf_layer", sizeof(agf_layer)},
                 {"agf_observation", sizeof(agf_observation)},
                 {"agf_session_config", sizeof(agf_session_config)},
                 {"agf_request", sizeof(agf_request)},
                 {"agf_times", sizeof(agf_times)},
                 {"agf_rect", sizeof(agf_rect)},
                 {"agf_box", sizeof(agf_box)},
                 {"agf_picture", sizeof(agf_picture)}};
  size_t i;
  for (i = 0; name && i < sizeof structs / sizeof *structs; i++)
    if (!strcmp(name, structs[i].name)) return structs[i].bytes;
  return 0;
}

/* Bytes of the UTF-8 character at p; 0 for what must not stand in a message: a control character, or what is no UTF-8. */
static int agf_character(const unsigned char *p) {
  int i, n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
  if (n == 1) return p[0] >= 32 && p[0] != 127;
  if (p[0] < 0xc2 || p[0] > 0xf4 || (p[0] == 0xc2 && p[1] < 0xa0)) return 0;
  if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
      (p[0] == 0xf4 && p[1] > 0x8f))
    return 0;
  for (i = 1; i < n; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  return n;
}

/* n bytes of text behind what is in out[room] already; out NULL: counted only. What does not fit is left out. */
static void agf_put(char *out, size_t room, size_t *taken, const char *text, size_t n) {
  if (out && n > room - *taken) return;
  if (out) memcpy(out + *taken, text, n);
  *taken += n;
}

/* A string, without its middle where it is longer than `longest` bytes. */
static void agf_put_string(char *out, size_t room, size_t *taken, const char *text, size_t longest) {
  size_t length = 0, head, tail, at = 0;
  int n, cut = 0;
  const char *p;
  for (p = text; *p; p += n ? n : 1) length += (n = agf_character((const unsigned char *)p)) ? (size_t)n : 1;
  head = length <= longest ? length : longest < 4 ? 0 : (longest - 2) / 2;
  tail = length <= longest || longest < 4 ? 0 : longest - 3 - head;
  for (p = text; *p; p += n ? n : 1) {
    size_t bytes = (n = agf_character((const unsigned char *)p)) ? (size_t)n : 1;
    if (at + bytes <= head || at >= length - tail)
      agf_put(out, room, taken, n ? p : "?", bytes);
    else if (!cut++)
      agf_put(out, room, taken, "...", 3);
    at += bytes;
  }
}

/* What printf makes of %d, %u, %x, %lld, %llu, %g and %s. Returns the bytes that it takes, the closing 0 not among them. */
static size_t agf_format(char *out, size_t room, size_t longest, const char *format, va_list args) {
  size_t taken = 0;
  for (; *format; format++) {
    char spec[16], number[64];
    int n = 0, wide;
    if (*format != '%') {
      agf_put(out, room, &taken, format, 1);
      continue;
    }
    do spec[n++] = *format++;
    while (!strchr("duxgs", *format) && n < 14);
    wide = spec[n - 1] == 'l';
    spec[n++] = *format;
    spec[n] = 0;
    if (*format == 's')
      agf_put_string(out, room, &taken, va_arg(args, const char *), longest);
    else if (*format == 'g')
      n = snprintf(number, sizeof number, spec, va_arg(args, double));
    else if (wide)
      n = snprintf(number, sizeof number, spec, va_arg(args, long long));
    else
      n = snprintf(number, sizeof number, spec, va_arg(args, int));
    if (*format != 's') agf_put(out, room, &taken, number, (size_t)n);
  }
  return taken;
}

/* Names and paths come from outside and may be of any length: the longest are shortened, in their middle, so that what the message
 * says of them stays. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static agf_status
agf_fail(agf_error *err, agf_status code, const char *format, ...) {
  if (err) {
    size_t longest = 0, step, room = sizeof err->message - 1;
    va_list args, again;
    err->code = code;
    va_start(args, format);
    for (step = sizeof err->message / 2; step; step /= 2) {
      va_copy(again, args);
      if (agf_format(NULL, 0, longest + step, format, again) <= room) longest += step;
      va_end(again);
    }
    err->message[agf_format(err->message, room, longest, format, args)] = 0;
    va_end(args);
  }
  return code;
}

static void agf_clear(agf_error *err) {
  if (err) {
    err->code = AGF_OK;
    err->message[0] = 0;
  }
}

/* Whether a caller's pointer can be one to numbers of 4 bytes. */
static inline int agf_aligned4(const void *p) { return (uintptr_t)p % 4 == 0; }

/* Whether two arrays share memory. */
static int agf_overlap(const void *a, size_t bytes_a, const void *b, size_t bytes_b) {
  uintptr_t p = (uintptr_t)a, q = (uintptr_t)b;
  return p < q ? q - p < bytes_a : p - q < bytes_b;
}

/* a * b, or 0 with *overflow set. Every size that comes from a file or a caller goes through here. */
static size_t agf_mul_size(size_t a, size_t b, int *overflow) {
  if (b && a > SIZE_MAX / b) {
    *overflow = 1;
    return 0;
  }
  return a * b;
}

/* Sorts n indices by a total order: afterwards before(ctx, index[i], index[i + 1]) holds. Heapsort: needs no memory and is never
 * quadratic, whatever a hostile file or image makes it sort. */
static void agf_sort(int *index, int n, int (*before)(const void *ctx, int a, int b), const void *ctx) {
  int start = n / 2, end = n, v, i, child;
  while (end > 1) {
    if (start > 0) {
      v = index[--start];
    } else {
      v = index[--end];
      index[end] = index[0];
    }
    for (i = start; (child = 2 * i + 1) < end; i = child) {
      if (child + 1 < end && before(ctx, index[child], index[child + 1])) child++;
      if (!before(ctx, v, index[child])) break;
      index[i] = index[child];
    }
    index[i] = v;
  }
}

/* MARK: allocator -------------------------------------------------------------------------------------------------------------
 * Where models and sessions get their memory; called at creation and destruction only. */

/* malloc with 64-byte alignment: the gap in front of the block holds its distance. Large blocks begin with a huge page and ask for more of
 * them, the last one too where the block fills half of it: fewer page faults, and fewer misses of the page tables' cache in the
 * walks over tensors. The bytes around them are never touched. */
static void *agf_malloc(void *ctx, size_t bytes) {
  size_t align = AGF_ALIGN, whole = bytes, gap;
  unsigned char *raw, *p;
  (void)ctx;
#if defined(MADV_HUGEPAGE)
  const size_t page = (size_t)2 << 20;
  if (bytes >= page && bytes < SIZE_MAX / 2) {
    align = page;
    whole = (bytes + page / 2) / page * page;
    if (whole < bytes) whole = bytes;
  }
#endif
  if (whole > SIZE_MAX - align - AGF_ALIGN) return NULL;
  raw = (unsigned char *)malloc(whole + align + AGF_ALIGN);
  if (!raw) return NULL;
  p = raw + AGF_ALIGN;
  p += (align - (uintptr_t)p % align) % align;
  gap = (size_t)(p - raw);
  memcpy(p - sizeof gap, &gap, sizeof gap);
#if defined(MADV_HUGEPAGE)
  if (align == page) madvise(p, whole - whole % page, MADV_HUGEPAGE);
#endif
  return p;
}

static void agf_mfree(void *ctx, void *memory, size_t bytes) {
  unsigned char *p = (unsigned char *)memory;
  size_t gap;
  (void)ctx;
  (void)bytes;
  if (!p) return;
  memcpy(&gap, p - sizeof gap, sizeof gap);
  free(p - gap);
}

static agf_allocator agf_allocator_or_default(const agf_allocator *a) {
  agf_allocator d;
  if (a) return *a;
  d.alloc = agf_malloc;
  d.free = agf_mfree;
  d.ctx = NULL;
  return d;
}

/* Memory from an allocator that may be the caller's, and so may be wrong: `what` names what it is for. */
static agf_status agf_take(const agf_allocator *a, size_t bytes, const char *what, void **memory, agf_error *err) {
  *memory = NULL;
  if (!a->alloc || !a->free) return agf_fail(err, AGF_ERR_ARGUMENT, "the allocator lacks alloc or free");
  *memory = a->alloc(a->ctx, bytes);
  if (!*memory) return agf_fail(err, AGF_ERR_MEMORY, "no memory for %s: %llu bytes", what, (unsigned long long)bytes);
  if ((uintptr_t)*memory % AGF_ALIGN == 0) return AGF_OK;
  a->free(a->ctx, *memory, bytes);
  *memory = NULL;
  return agf_fail(err, AGF_ERR_ARGUMENT, "the allocator's memory for %s is not 64-byte aligned", what);
}

/* MARK: floating-point environment --------------------------------------------------------------------------------------------
 * Round to nearest, subnormals kept, exceptions masked: set where the engine computes, and the caller's given back. */

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
typedef unsigned agf_fp_state;
static agf_fp_state agf_fp_enter(void) {
  agf_fp_state old = _mm_getcsr();
  _mm_setcsr(0x1f80);
  return old;
}
static void agf_fp_leave(agf_fp_state old) { _mm_setcsr(old); }
#elif defined(__aarch64__)
typedef uint64_t agf_fp_state;
static agf_fp_state agf_fp_enter(void) {
  agf_fp_state old, now = 0;
  __asm__ volatile("mrs %0, fpcr" : "=r"(old));
  __asm__ volatile("msr fpcr, %0" : : "r"(now));
  return old;
}
static void agf_fp_leave(agf_fp_state old) { __asm__ volatile("msr fpcr, %0" : : "r"(old)); }
#elif defined(__arm__) && defined(__ARM_FP)
typedef uint32_t agf_fp_state;
static agf_fp_state agf_fp_enter(void) {
  agf_fp_state old, now = 0;
  __asm__ volatile("vmrs %0, fpscr" : "=r"(old));
  __asm__ volatile("vmsr fpscr, %0" : : "r"(now));
  return old;
}
static void agf_fp_leave(agf_fp_state old) { __asm__ volatile("vmsr fpscr, %0" : : "r"(old)); }
#else
#include <fenv.h>
typedef int agf_fp_state;
static agf_fp_state agf_fp_enter(void) {
  agf_fp_state old = fegetround();
  fesetround(FE_TONEAREST);
  return old;
}
static void agf_fp_leave(agf_fp_state old) { fesetround(old); }
#endif

/* Around a function of the interface that has no session: its error begins empty, and the caller's arithmetic is back at its end. */
static agf_fp_state agf_fp_begin(agf_error *err) {
  agf_clear(err);
  return agf_fp_enter();
}
static agf_status agf_fp_end(agf_fp_state fp, agf_status status) {
  agf_fp_leave(fp);
  return status;
}

/* Whether the compiler kept a * b + c apart: 1 + 2^-12 squared loses its last bit when the product is rounded. */
static int agf_build_contracts(void) {
  volatile float v = 1.000244140625f, w = -1.00048828125f;
  float a = v, c = w;
  return a * a + c != 0.0f;
}

/* MARK: model file ------------------------------------------------------------------------------------------------------------
 * From bytes to an agf_model. Everything is checked before anything is used; what is refused is named. The format is described
 * at the end of agf.h. Numbers are read byte by byte; weights are used where they lie. */

enum {
  AGF_HEADER = 64,
  AGF_INPUT_RECORD = 80,
  AGF_NODE_RECORD = 96, /* in files of version 1 without the last 16 bytes */
  AGF_TENSOR_RECORD = 40,
  AGF_MAX_NODES = 1 << 12,
  AGF_MAX_EDGES = 1 << 20,
  AGF_MAX_LABELS = 1 << 22,
  AGF_MAX_SIDE = 1 << 16, /* height, width, kernel, stride, padding, dilation */
  AGF_MAX_CHANNELS = 1 << 20
};
enum { AGF_FLAG_FLAT = 1, AGF_FLAG_CEIL = 2, AGF_FLAG_INCLUDE_PAD = 4 };
enum { AGF_F32 = 1, AGF_F16 = 2 };
enum { AGF_LAYOUT_VECTOR, AGF_LAYOUT_CONV, AGF_LAYOUT_GROUPED, AGF_LAYOUT_LINEAR };

typedef struct agf_op_rules agf_op_rules;
typedef struct agf_step agf_step;
typedef struct agf_explanation agf_explanation;
typedef struct agf_planner agf_planner;

typedef struct agf_weight {
  int type, layout, used;
  int dim[4];
  const unsigned char *data;
  uint64_t elements; /* stored, with fill */
} agf_weight;

typedef struct agf_node {
  agf_op op;
  int flags;
  const char *name;
  int edge, inputs;
  int kernel[2], stride[2], pad[4], dilation[2];
  int groups, channels;
  int w, b; /* weights, -1: none */
  int argument;
  float parameter[4];
} agf_node;

typedef struct agf_shape {
  int c, h, w;
  int flattened; /* the tensor is the vector of c * h * w elements */
} agf_shape;

struct agf_model {
  agf_allocator allocator;
  size_t allocated;
  const unsigned char *data;
  size_t bytes;
  int mapped;
  agf_input input;
  const char *name, *source;
  int version; /* of the file's format */
  int nodes, edges, weights, labels, classes;
  int input_scale, input_bias; /* weights: what the network does to each channel of its input; -1: nothing */
  agf_node *node;
  int *edge;
  agf_weight *weight;
  agf_shape *nominal; /* [nodes] */
  const unsigned char *label_table;
  const char *strings;
  uint32_t string_bytes;
  uint64_t parameters;
};

static uint32_t agf_u32(const unsigned char *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t agf_u64(const unsigned char *p) { return agf_u32(p) | (uint64_t)agf_u32(p + 4) << 32; }
static float agf_f32(const unsigned char *p) { return agf_from_bits(agf_u32(p)); }

/* Elements of a stored tensor, fill included; 0 with *overflow where the product does not fit. */
static uint64_t agf_layout_elements(int layout, const int *d, int *overflow) {
  size_t n;
  if (layout == AGF_LAYOUT_VECTOR) return (uint64_t)d[0];
  if (layout == AGF_LAYOUT_LINEAR) {
    n = agf_mul_size((size_t)d[1], (size_t)d[2], overflow);
    n = agf_mul_size(n, (size_t)d[3], overflow);
    return agf_mul_size(n, (size_t)agf_ceil_div(d[0], AGF_OCG) * AGF_OCG, overflow);
  }
  n = layout == AGF_LAYOUT_CONV ? AGF_OCG : AGF_CB;
  n *= (size_t)agf_ceil_div(d[0], (int)n);
  n = agf_mul_size(n, (size_t)d[1], overflow);
  n = agf_mul_size(n, (size_t)d[2], overflow);
  return agf_mul_size(n, (size_t)d[3], overflow);
}

/* A string of the table; NULL with *err filled where there is none. */
static const char *agf_string(const agf_model *m, uint32_t at, const char *what, int index, agf_error *err) {
  if (at < m->string_bytes) return m->strings + at;
  agf_fail(err, AGF_ERR_FORMAT, "model file: %s %d names string %u, but the table has %u bytes", what, index, (unsigned)at,
           (unsigned)m->string_bytes);
  return NULL;
}

/* The table as a whole, so that the time does not depend on how often a string is named. Control characters are refused: names end
 * up on terminals. */
static agf_status agf_check_strings(const agf_model *m, agf_error *err) {
  const unsigned char *p = (const unsigned char *)m->strings;
  uint32_t i;
  if (p[m->string_bytes - 1] != 0 || p[0] != 0)
    return agf_fail(err, AGF_ERR_FORMAT, "model file: the string table does not begin and end with a zero");
  for (i = 0; i < m->string_bytes; i++)
    if ((p[i] && p[i] < 32) || p[i] == 127)
      return agf_fail(err, AGF_ERR_FORMAT, "model file: byte %u of the string table is a control character", (unsigned)i);
  return AGF_OK;
}

static int agf_all_zero(const unsigned char *p, size_t n) {
  while (n)
    if (p[--n]) return 0;
  return 1;
}

/* Which of a node's fields an op uses: the others must be 0 in a file, so that no file has two spellings. */
typedef struct agf_op_fields {
  int min_inputs, max_inputs;
  int flags;                                      /* those that it knows */
  int kernel, window, dilation, groups, channels; /* window: stride and pad, 2: pad alone; dilation 2: since version 2 */
  int w, b;                                       /* weights: 0 none, 1 required, 2 optional */
  int version;                                    /* of the format, the first that has the op */
  int most_inputs_1;                              /* max_inputs in files of version 1 */
  int least_argument, most_argument;              /* both 0: it has none */
  int parameters;
} agf_op_fields;

/* What an op is, in a row's traits. */
enum {
  AGF_READS_VECTORS = 1,   /* it may read a flattened tensor */
  AGF_MAKES_LOGITS = 2,    /* it may be the last node: AGF's seed is its gradient */
  AGF_TAKES_BATCHNORM = 4, /* a BatchNorm that alone reads its output becomes part of its step */
  AGF_IS_BATCHNORM = 8,    /* it is what AGF_TAKES_BATCHNORM takes along */
  /* An activation (a row's `act`) that alone reads its output, behind the BatchNorm, becomes part of its step. */
  AGF_TAKES_ACT = 16,
  AGF_RESHAPES = 32, /* its output is its input's tensor under another shape: it makes no step and needs no functions but shape */
  AGF_POOLS_TO_SIZE = 64,  /* its output's height and width do not depend on its input's: what Grad-CAM looks at lies before it */
  AGF_HAS_BIAS_TERM = 128, /* FullGrad has a term for its bias b */
  AGF_IS_MAXIMUM = 256,    /* a pool that takes the largest element, not the average */
  AGF_IS_LINEAR = 512 /* its steps hold an agf_linear_step: agf_lc forms such logits at every position at once; one row alone */
};

/* What an op's output says about signs. */
typedef enum agf_sign {
  AGF_SIGN_ANY,      /* it may be negative */
  AGF_SIGN_INPUTS,   /* only where an input may be */
  AGF_SIGN_NEVER,    /* it is never negative */
  AGF_SIGN_RECTIFIED /* likewise, and it is 0 where its input is negative */
} agf_sign;

/* The shapes that a node's output follows from. */
typedef struct agf_inputs {
  const agf_model *model;
  const agf_node *node;
  const agf_shape *image, *shape; /* of the network's input, of each node's output */
} agf_inputs;

/* What a step's forward pass reads and writes: its own tensors, except where an explanation runs a step in another way. */
typedef struct agf_flow {
  const float *x; /* the first input, element (0, 0, 0) */
  const uint16_t *x_mask;
  float *y; /* NULL: only |W||x| is wanted */
  uint16_t *y_mask;
  agf_act act;
  const float *scale, *bias;
  int want_d; /* also form |W||x| */
} agf_flow;

/* An op: everything that the engine knows about it. The table of them, behind the last op's section, has a row for each; the parser,
 * the shapes, the plan and the walks ask it and name no op. A function may be missing only where it says so; a model with a node
 * whose op lacks another one is refused when it is opened. "Step" and "tensor" are those of the plan. */
struct agf_op_rules {
  agf_op op;
  const char *name;
  agf_op_fields fields;
  unsigned traits;
  agf_act act;       /* the activation that it is; steps that take activations along take it */
  size_t step_bytes; /* of what its steps hold of their own, agf_step.own; 0: nothing */

  /* In *out, which holds the first input's shape, the shape of the output; or an error that says why the input has none. */
  agf_status (*shape)(const agf_inputs *in, agf_shape *out, agf_error *err);
  /* AGF_OK where its weights are those that its (first) input asks for, else an error that says why not. NULL: it has none. */
  agf_status (*weights)(const agf_model *m, const agf_node *n, const agf_shape *in, agf_error *err);
  agf_sign (*sign)(const agf_node *n);

  /* The plan, in this order. connect, first step to last: what it asks of its input tensors (border, mask), whether its rule reads g.
   * settle, last step to first: when it reads and writes, what lies within what. plan: its buffers and its tasks' scratch.
   * NULL: nothing. */
  void (*connect)(agf_planner *p, agf_step *st);
  void (*settle)(agf_planner *p, agf_step *st);
  agf_status (*plan)(agf_planner *p, agf_step *st, agf_error *err);
  /* Fills the buffers that depend on the model alone. NULL: it has none. */
  void (*fill)(agf_session *s, const agf_step *st);

  void (*forward)(agf_session *s, const agf_step *st, const agf_flow *f);
  /* Rows [r, end) of block b of its output, where they are made of the same block of its inputs alone; forward is then agf_rows_forward,
   * mostly, and the step may be part of a chain (agf_chain_of). NULL: they are made of other channels too. */
  void (*rows)(agf_session *s, const agf_step *st, const agf_flow *f, int b, int r, int end, unsigned char *scratch);
  /* AGF's rule: (cam, g) at the output to (cam, g) at the inputs, and the delivery of each. */
  void (*rule)(agf_session *s, const agf_step *st, agf_explanation *e);
  /* From the gradient g behind the step's activation and BatchNorm, [cb][h][w][16], to that at input `slot`. */
  void (*gradient)(agf_session *s, const agf_step *st, int slot, const float *g, float *out);
  /* Layer-wise relevance propagation: from the relevance R at the output to that at input `slot`. Built without the methods: NULL. */
  void (*lrp)(agf_session *s, const agf_step *st, int slot, int alpha, const float *R, float *out);
};

static const agf_op_rules *agf_rules_of(agf_op op);
static void agf_rows_forward(agf_session *s, const agf_step *st, const agf_flow *f);

/* n fields of u32 into ints, each in [lo, hi], or all 0 where the op does not use them. */
static int agf_fields(const unsigned char *p, int n, int used, int lo, int hi, int *to) {
  int i;
  for (i = 0; i < n; i++) {
    uint32_t v = agf_u32(p + 4 * i);
    if (used ? v < (uint32_t)lo || v > (uint32_t)hi : v != 0) return 0;
    to[i] = (int)v;
  }
  return 1;
}

/* The function that an op lacks, in words; NULL: it has all that it needs. */
static const char *agf_missing_function(const agf_op_rules *r) {
  if (!r->shape) return "shape";
  if ((r->fields.w || r->fields.b) && !r->weights) return "check of its weights";
  if (r->traits & AGF_RESHAPES) return NULL;
  if (!r->sign) return "sign";
  if (!r->forward || (r->forward == agf_rows_forward && !r->rows)) return "forward pass";
  if (!r->rule) return "rule";
  if (!r->gradient) return "gradient";
#ifndef AGF_NO_METHODS
  if (!r->lrp) return "relevance propagation";
#endif
  return NULL;
}

static agf_status agf_parse_node(agf_model *m, int i, const unsigned char *p, int *next_edge, agf_error *err) {
  agf_node *n = &m->node[i];
  const agf_op_rules *rules;
  const agf_op_fields *f;
  const char *missing;
  uint32_t op = agf_u32(p), tensor;
  int j, ok, *slot;
  n->op = (agf_op)op;
  n->name = agf_string(m, agf_u32(p + 8), "node", i, err);
  if (!n->name) return AGF_ERR_FORMAT;
  rules = agf_rules_of(n->op);
  if (!rules || rules->fields.version > m->version)
    return agf_fail(err, AGF_ERR_FORMAT, "model file: node %d (%s) has the unknown op %u", i, n->name, (unsigned)op);
  missing = agf_missing_function(rules);
  if (missing)
    return agf_fail(err, AGF_ERR_UNSUPPORTED, "model file: node %d (%s, %s): this engine has no %s for it", i, n->name, rules->name,
                    missing);
  f = &rules->fields;
  if (agf_u32(p + 4) & ~(uint32_t)f->flags)
    return agf_fail(err, AGF_ERR_FORMAT, "model file: node %d (%s) has flags 0x%x that %s does not know", i, n->name,
                    (unsigned)agf_u32(p + 4), agf_op_name(n->op));
  n->flags = (int)agf_u32(p + 4);
  if (agf_u32(p + 12) != (uint32_t)*next_edge || agf_u32(p + 16) < (uint32_t)f->min_inputs ||
      agf_u32(p + 16) > (uint32_t)(m->version == 1 ? f->most_inputs_1 : f->max_inputs) ||
      agf_u32(p + 16) > (uint32_t)(m->edges - *next_edge))
    return agf_fail(err, AGF_ERR_FORMAT, "model file: node %d (%s, %s) has inputs %u of %u edges in a table of %d", i, n->name,
                    agf_op_name(n->op), (unsigned)agf_u32(p + 12), (unsigned)agf_u32(p + 16), m->edges);
  n->edge = *next_edge;
  n->inputs = (int)agf_u32(p + 16);
  *next_edge += n->inputs;
  for (j = 0; j < n->inputs; j++)
    if (m->edge[n->edge + j] > i)
      return agf_fail(err, AGF_ERR_FORMAT, "model file: node %d (%s) reads the output of node %d, which comes later", i, n->name,
                      m->edge[n->edge + j] - 1);
  ok = agf_fields(p + 20, 2, f->kernel, 1, AGF_MAX_SIDE, n->kernel) &&
       agf_fields(p + 28, 2, f->window == 1, 1, AGF_MAX_SIDE, n->stride) &&
       agf_fields(p + 36, 4, f->window, 0, AGF_MAX_SIDE, n->pad) &&
       agf_fields(p + 52, 2, f->dilation == 1 || (f->dilation && m->version > 1), 1, AGF_MAX_SIDE, n->dilation) &&
       agf_fields(p + 60, 1, f->groups, 1, AGF_MAX_CHANNELS, &n->groups) &&
       agf_fields(p + 64, 1, f->channels, 1, AGF_MAX_CHANNELS, &n->channels) &&
       agf_fields(p + 76, 1, f->most_argument, f->least_argument, f->most_argument, &n->argument);
  if (!n->dilation[0]) n->dilation[0] = n->dilation[1] = f->dilation != 0;
  for (j = 0; ok && j < 4 && m->version > 1; j++) {
    n->parameter[j] = agf_f32(p + 80 + 4 * j);
    ok = j < f->parameters ? agf_finite(n->parameter[j]) : agf_u32(p + 80 + 4 * j) == 0;
  }
  if (!ok)
    return agf_fail(err, AGF_ERR_FORMAT,
                    "model file: node %d (%s, %s) has a kernel, stride, pad, dilation, groups, channels, "
                    "argument or parameter that is out of range or not its own",
                    i, n->name, agf_op_name(n->op));
  for (j = 0; j < 2; j++) {
    int want = j ? f->b : f->w;
    slot = j ? &n->b : &n->w;
    tensor = agf_u32(p + 68 + 4 * j);
    if ((want == 0 && tensor) || (want == 1 && !tensor) || tensor > (uint32_t)m->weights)
      return agf_fail(err, AGF_ERR_FORMAT, "model file: node %d (%s, %s) names tensor %u of %d", i, n->name, agf_op_name(n->op),
                      (unsigned)tensor, m->weights);
    *slot = (int)tensor - 1;
    if (*slot >= 0) m->weight[*slot].used = 1;
  }
  return AGF_OK;
}

static agf_status agf_parse_weight(agf_model *m, int i, const unsigned char *p, uint64_t *offset, agf_error *err) {
  agf_weight *w = &m->weight[i];
  uint32_t type = agf_u32(p), layout = agf_u32(p + 4);
  uint64_t at = agf_u64(p + 24), bytes = agf_u64(p + 32);
  int overflow = 0;
  if ((type != AGF_F32 && type != AGF_F16) || layout > AGF_LAYOUT_LINEAR || (layout == AGF_LAYOUT_VECTOR && type != AGF_F32) ||
      !agf_fields(p + 8, 4, 1, 1, AGF_MAX_CHANNELS, w->dim) ||
      (layout == AGF_LAYOUT_VECTOR && (w->dim[1] != 1 || w->dim[2] != 1 || w->dim[3] != 1)))
    return agf_fail(err, AGF_ERR_FORMAT, "model file: tensor %d has type %u, layout %u, dimensions %u x %u x %u x %u", i,
                    (unsigned)type, (unsigned)layout, (unsigned)agf_u32(p + 8), (unsigned)agf_u32(p + 12),
                    (unsigned)agf_u32(p + 16), (unsigned)agf_u32(p + 20));
  w->type = (int)type;
  w->layout = (int)layout;
  w->elements = agf_layout_elements(w->layout, w->dim, &overflow);
  if (overflow || w->elements > SIZE_MAX / 8 || bytes != w->elements * (type == AGF_F32 ? 4 : 2) || at != *offset ||
      at > m->bytes || bytes > m->bytes - at)
    return agf_fail(err, AGF_ERR_FORMAT, "model file: tensor %d has %llu bytes at %llu where %llu belong at %llu", i,
                    (unsigned long long)bytes, (unsigned long long)at,
                    (unsigned long long)(overflow ? 0 : w->elements * (type == AGF_F32 ? 4 : 2)), (unsigned long long)*offset);
  w->data = m->data + at;
  *offset = (at + bytes + AGF_ALIGN - 1) / AGF_ALIGN * AGF_ALIGN;
  return AGF_OK;
}

static agf_status agf_infer_shapes(const agf_model *m, int height, int width, agf_shape *shape, agf_error *err);

/* Outputs that fill a tensor up to its vectors of 32 or 16 must be 0: kernels compute them, and another value would make nonzeros
 * in channels that do not exist. */
static int agf_fill_is_zero(const agf_weight *w) {
  uint64_t width = w->layout == AGF_LAYOUT_GROUPED ? AGF_CB : AGF_OCG, size = w->type == AGF_F32 ? 4 : 2;
  uint64_t vectors = w->elements / width, outputs = (uint64_t)w->dim[0], panels = (outputs + width - 1) / width, run, rest, i, k;
  uint64_t fill = outputs % width;
  if (w->layout == AGF_LAYOUT_VECTOR || !fill) return 1;
  /* the last panel's vectors come in runs: of kw times a block's channels; of a whole panel; of one */
  rest = vectors / panels;
  for (i = 0; i < rest; i += run) {
    uint64_t first;
    if (w->layout == AGF_LAYOUT_CONV) {
      uint64_t per_block = (uint64_t)AGF_CB * (uint64_t)w->dim[2] * (uint64_t)w->dim[3];
      uint64_t lanes = (uint64_t)agf_imin(AGF_CB, w->dim[1] - (int)(i / per_block) * AGF_CB);
      run = lanes * (uint64_t)w->dim[3];
      first = i * panels + (panels - 1) * run;
    } else if (w->layout == AGF_LAYOUT_GROUPED) {
      run = rest;
      first = (panels - 1) * rest;
    } else {
      run = 1;
      first = i * panels + panels - 1;
    }
    for (k = first; k < first + run; k++)
      if (!agf_all_zero(w->data + (k * width + fill) * size, (size_t)((width - fill) * size))) return 0;
  }
  return 1;
}

static size_t agf_node_record(const agf_model *m) { return m->version == 1 ? AGF_NODE_RECORD - 16 : AGF_NODE_RECORD; }

static const unsigned char agf_magic[8] = {0x89, 'A', 'G', 'F', '\r', '\n', 0x1a, '\n'};

/* Header and sizes, before anything is allocated. Fills the counts. */
static agf_status agf_parse_header(agf_model *m, size_t max_bytes, uint32_t *header_bytes, agf_error *err) {
  const unsigned char *d = m->data;
  uint32_t count[5];
  uint64_t need;
  int i;
  static const uint32_t cap[5] = {AGF_MAX_NODES, AGF_MAX_EDGES, AGF_MAX_NODES * 2, AGF_MAX_LABELS, 0x7fffffff};
  static const char *const what[5] = {"nodes", "edges", "tensors", "labels", "string bytes"};
  if (m->bytes < sizeof agf_magic || memcmp(d, agf_magic, sizeof agf_magic)) {
    if (m->bytes >= 4 && !memcmp(d + 1, "AGF", 3))
      return agf_fail(err, AGF_ERR_FORMAT, "model file: damaged in transfer: its line ends or high bits were changed");
    return agf_fail(err, AGF_ERR_FORMAT,
                    "not an .agf model file (agf_convert.py makes one of ONNX, TensorFlow Lite and PyTorch networks)");
  }
  if (m->bytes < AGF_HEADER + AGF_INPUT_RECORD)
    return agf_fail(err, AGF_ERR_FORMAT, "model file: cut off after %llu bytes", (unsigned long long)m->bytes);
  if (agf_u32(d + 8) > AGF_FORMAT_VERSION)
    return agf_fail(err, AGF_ERR_VERSION, "model file: format version %u, but this engine (%s) reads up to version %d",
                    (unsigned)agf_u32(d + 8), agf_version(), AGF_FORMAT_VERSION);
  if (agf_u32(d + 8) == 0) return agf_fail(err, AGF_ERR_FORMAT, "model file: format version 0");
  m->version = (int)agf_u32(d + 8);
  if (max_bytes && m->bytes > max_bytes)
    return agf_fail(err, AGF_ERR_LIMIT, "model file: %llu bytes, more than max_bytes %llu", (unsigned long long)m->bytes,
                    (unsigned long long)max_bytes);
  *header_bytes = agf_u32(d + 12);
  if (agf_u64(d + 16) != m->bytes || m->bytes % AGF_ALIGN || *header_bytes % AGF_ALIGN || *header_bytes > m->bytes)
    return agf_fail(err, AGF_ERR_FORMAT, "model file: %llu bytes, but its header says %llu (tables %u): cut off or damaged",
                    (unsigned long long)m->bytes, (unsigned long long)agf_u64(d + 16), (unsigned)*header_bytes);
  for (i = 0; i < 5; i++) {
    count[i] = agf_u32(d + 32 + 4 * i);
    if (count[i] > cap[i])
      return agf_fail(err, AGF_ERR_LIMIT, "model file: %u %s, more than the cap of %u", (unsigned)count[i], what[i],
                      (unsigned)cap[i]);
  }
  need = AGF_HEADER + AGF_INPUT_RECORD + (uint64_t)count[0] * agf_node_record(m) + (uint64_t)count[1] * 4 +
         (uint64_t)count[2] * AGF_TENSOR_RECORD + (uint64_t)count[3] * 4 + count[4];
  if (!count[0] || !count[4] || (need + AGF_ALIGN - 1) / AGF_ALIGN * AGF_ALIGN != *header_bytes ||
      !agf_all_zero(d + need, (size_t)(*header_bytes - need)) || !agf_all_zero(d + 52, 12))
    return agf_fail(err, AGF_ERR_FORMAT,
                    "model file: tables of %u bytes where %u nodes, %u edges, %u tensors, %u labels and %u "
                    "string bytes belong",
                    (unsigned)*header_bytes, (unsigned)count[0], (unsigned)count[1], (unsigned)count[2], (unsigned)count[3],
                    (unsigned)count[4]);
  m->nodes = (int)count[0];
  m->edges = (int)count[1];
  m->weights = (int)count[2];
  m->labels = (int)count[3];
  m->string_bytes = count[4];
  return AGF_OK;
}

static agf_status agf_check_tables(const agf_model *m, uint32_t header_bytes, agf_error *err) {
  agf_kernels k;
  unsigned char head[AGF_HEADER];
  uint32_t crc;
  agf_kernels_choose(&k, NULL);
  memcpy(head, m->data, sizeof head);
  memset(head + 24, 0, 4);
  crc = k.crc32(k.crc32(0, head, sizeof head), m->data + sizeof head, header_bytes - sizeof head);
  if (crc != agf_u32(m->data + 24))
    return agf_fail(err, AGF_ERR_FORMAT, "model file: the CRC of its tables does not match: damaged");
  return AGF_OK;
}

/* One pass over the weights, a piece at a time while it is in cache: their CRC, and that all are finite, as an Inf or NaN would
 * make "0 times w" something else than 0, and the kernels skip zeros. The tensors follow one another, as agf_parse_weight has seen
 * to. */
static agf_status agf_check_data(const agf_model *m, agf_error *err) {
  enum { PIECE = 1 << 17 };
  agf_kernels k;
  uint32_t crc = 0;
  int i, infinite = -1;
  agf_kernels_choose(&k, NULL);
  for (i = 0; i < m->weights; i++) {
    const agf_weight *w = &m->weight[i];
    size_t bytes = (size_t)w->elements * (w->type == AGF_F32 ? 4 : 2), at, n;
    int ok = 1;
    for (at = 0; at < bytes; at += n) {
      const void *p = w->data + at;
      n = bytes - at < (size_t)PIECE ? bytes - at : (size_t)PIECE;
      crc = k.crc32(crc, w->data + at, n);
      ok &= w->type == AGF_F32 ? k.finite((const float *)p, n / 4) : k.finite_half((const uint16_t *)p, n / 2);
    }
    crc = k.crc32(crc, w->data + bytes, agf_align_up(bytes) - bytes); /* the zeros up to the next tensor */
    if (!ok && infinite < 0) infinite = i;
  }
  if (crc != agf_u32(m->data + 28))
    return agf_fail(err, AGF_ERR_FORMAT, "model file: the CRC of its weights does not match: damaged");
  if (infinite >= 0) return agf_fail(err, AGF_ERR_FORMAT, "model file: tensor %d holds an infinity or NaN", infinite);
  for (i = 0; i < m->weights; i++)
    if (!agf_fill_is_zero(&m->weight[i]))
      return agf_fail(err, AGF_ERR_FORMAT, "model file: tensor %d has something else than zeros in the fill behind its %d outputs",
                      i, m->weight[i].dim[0]);
  return AGF_OK;
}

/* Whether weight t of a file is a vector of n elements; -1: there is none, which is right too. */
static int agf_is_vector(const agf_model *m, int t, int n) {
  return t < 0 || (m->weight[t].layout == AGF_LAYOUT_VECTOR && m->weight[t].dim[0] == n);
}

AGF_INLINE float agf_weight_at(const agf_weight *w, size_t i) {
  return w->type == AGF_F32 ? ((const float *)(const void *)w->data)[i] : agf_half(((const uint16_t *)(const void *)w->data)[i]);
}

static agf_status agf_parse_input(agf_model *m, const unsigned char *p, agf_error *err) {
  agf_input *in = &m->input;
  int i, size[3], ok;
  uint32_t flags = agf_u32(p + 12), head = m->version == 1 ? 0 : flags >> 8 & 3, order = agf_u32(p + 16), resize = agf_u32(p + 20),
           to = agf_u32(p + 24);
  if (!agf_fields(p, 1, 1, 1, AGF_MAX_CHANNELS, size) || !agf_fields(p + 4, 2, 1, 1, AGF_MAX_SIDE, size + 1))
    return agf_fail(err, AGF_ERR_FORMAT, "model file: input of %u x %u x %u", (unsigned)agf_u32(p), (unsigned)agf_u32(p + 4),
                    (unsigned)agf_u32(p + 8));
  in->channels = size[0];
  in->height = size[1];
  in->width = size[2];
  in->is_picture = (int)(flags & 1);
  in->channel_order = (int)order;
  in->resize = (int)resize;
  in->resize_to = (int)to;
  in->range = agf_f32(p + 28);
  in->head = (int)head;
  m->input_scale = m->input_bias = -1;
  ok = (flags & ~(head << 8)) <= 1 && head <= AGF_HEAD_NONE && order <= 1 && resize <= 1 && to <= AGF_MAX_SIDE &&
       (resize == 1) == (to != 0);
  for (i = 0; i < 4; i++) {
    in->mean[i] = agf_f32(p + 32 + 4 * i);
    in->std[i] = agf_f32(p + 48 + 4 * i);
  }
  if (in->is_picture) {
    ok = ok && agf_finite(in->range) && in->range > 0 && (in->channels == 1 || in->channels == 3);
    for (i = 0; i < agf_imin(in->channels, 4); i++) ok = ok && agf_finite(in->mean[i]) && agf_finite(in->std[i]) && in->std[i] > 0;
    ok = ok && (resize == 0 || (int)to >= agf_imin(in->height, in->width));
  } else
    ok = ok && agf_all_zero(p + 16, 48);
  if (!ok) return agf_fail(err, AGF_ERR_FORMAT, "model file: the preprocessing of its input is not valid");
  if (!agf_all_zero(p + 72, 8)) {
    uint32_t scale = agf_u32(p + 72), bias = agf_u32(p + 76);
    ok = m->version > 1 && scale && bias && scale <= (uint32_t)m->weights && bias <= (uint32_t)m->weights &&
         agf_is_vector(m, (int)scale - 1, in->channels) && agf_is_vector(m, (int)bias - 1, in->channels);
    for (i = 0; ok && i < in->channels; i++) ok = agf_weight_at(&m->weight[scale - 1], (size_t)i) != 0;
    if (!ok) return agf_fail(err, AGF_ERR_FORMAT, "model file: the scale and bias of its input are not valid");
    m->input_scale = (int)scale - 1;
    m->input_bias = (int)bias - 1;
    m->weight[m->input_scale].used = m->weight[m->input_bias].used = 1;
    in->is_affine = 1;
  }
  m->name = agf_string(m, agf_u32(p + 64), "input", 0, err);
  m->source = m->name ? agf_string(m, agf_u32(p + 68), "input", 1, err) : NULL;
  return m->source ? AGF_OK : AGF_ERR_FORMAT;
}

/* For ops whose weights need nothing but their sizes. */
static agf_status agf_weights_fit(const agf_model *m, const agf_node *n, const agf_shape *in, int fit, agf_error *err) {
  if (fit) return AGF_OK;
  return agf_fail(err, AGF_ERR_FORMAT,
                  "model file: the tensors of node %d (%s, %s) do not have the sizes that its input "
                  "[%d, %d, %d] asks for",
                  (int)(n - m->node), n->name, agf_op_name(n->op), in->c, in->h, in->w);
}

/* The weights of every node against its shape. */
static agf_status agf_check_weights(agf_model *m, agf_error *err) {
  int i;
  for (i = 0; i < m->nodes; i++) {
    const agf_node *n = &m->node[i];
    const agf_op_rules *rules = agf_rules_of(n->op);
    agf_status status = AGF_OK;
    agf_shape image;
    int from = m->edge[n->edge];
    image.c = m->input.channels;
    image.h = m->input.height;
    image.w = m->input.width;
    image.flattened = 0;
    if (rules->weights) status = rules->weights(m, n, from ? &m->nominal[from - 1] : &image, err);
    if (status != AGF_OK) return status;
  }
  return AGF_OK;
}

static agf_status agf_parse(agf_model *m, size_t max_bytes, agf_error *err) {
  uint32_t header_bytes = 0;
  const unsigned char *p;
  unsigned char *memory;
  void *taken;
  uint64_t offset;
  int i, next_edge = 0;
  size_t size_nodes, size_edges, size_weights;
  agf_status status = agf_parse_header(m, max_bytes, &header_bytes, err);
  if (status == AGF_OK) status = agf_check_tables(m, header_bytes, err);
  if (status != AGF_OK) return status;

  size_nodes = agf_align_up((size_t)m->nodes * sizeof(agf_node));
  size_edges = agf_align_up((size_t)m->edges * sizeof(int) + 1);
  size_weights = agf_align_up((size_t)m->weights * sizeof(agf_weight) + 1);
  m->allocated = size_nodes + size_edges + size_weights + (size_t)m->nodes * sizeof(agf_shape);
  status = agf_take(&m->allocator, m->allocated, "the tables of a model", &taken, err);
  if (status != AGF_OK) {
    m->allocated = 0;
    return status;
  }
  memory = (unsigned char *)taken;
  memset(memory, 0, m->allocated);
  m->node = (agf_node *)(void *)memory;
  m->edge = (int *)(void *)(memory + size_nodes);
  m->weight = (agf_weight *)(void *)(memory + size_nodes + size_edges);
  m->nominal = (agf_shape *)(void *)(memory + size_nodes + size_edges + size_weights);

  p = m->data + AGF_HEADER + AGF_INPUT_RECORD + (size_t)m->nodes * agf_node_record(m);
  for (i = 0; i < m->edges; i++, p += 4) {
    if (agf_u32(p) > (uint32_t)m->nodes)
      return agf_fail(err, AGF_ERR_FORMAT, "model file: edge %d names node %u of %d", i, (unsigned)agf_u32(p) - 1, m->nodes);
    m->edge[i] = (int)agf_u32(p);
  }
  offset = header_bytes;
  for (i = 0; i < m->weights; i++, p += AGF_TENSOR_RECORD) {
    status = agf_parse_weight(m, i, p, &offset, err);
    if (status != AGF_OK) return status;
  }
  if (offset != m->bytes)
    return agf_fail(err, AGF_ERR_FORMAT, "model file: %llu bytes, but its tensors end at %llu", (unsigned long long)m->bytes,
                    (unsigned long long)offset);
  status = agf_check_data(m, err);
  if (status != AGF_OK) return status;
  m->label_table = p;
  m->strings = (const char *)p + (size_t)m->labels * 4;
  status = agf_check_strings(m, err);
  if (status == AGF_OK) status = agf_parse_input(m, m->data + AGF_HEADER, err);
  for (i = 0; status == AGF_OK && i < m->nodes; i++)
    status = agf_parse_node(m, i, m->data + AGF_HEADER + AGF_INPUT_RECORD + (size_t)i * agf_node_record(m), &next_edge, err);
  if (status != AGF_OK) return status;
  if (next_edge != m->edges)
    return agf_fail(err, AGF_ERR_FORMAT, "model file: %d edges, but the nodes have %d inputs", m->edges, next_edge);
  for (i = 0; i < m->weights; i++) {
    const agf_weight *w = &m->weight[i];
    uint64_t end = (uint64_t)(w->data - m->data) + w->elements * (w->type == AGF_F32 ? 4 : 2);
    if (!w->used) return agf_fail(err, AGF_ERR_FORMAT, "model file: tensor %d belongs to no node", i);
    if (!agf_all_zero(m->data + end, (size_t)((AGF_ALIGN - end % AGF_ALIGN) % AGF_ALIGN)))
      return agf_fail(err, AGF_ERR_FORMAT, "model file: tensor %d is followed by something else than zeros", i);
  }
  status = agf_infer_shapes(m, m->input.height, m->input.width, m->nominal, err);
  if (status == AGF_OK) status = agf_check_weights(m, err);
  if (status != AGF_OK) return status;
  for (i = 0; i < m->weights; i++) {
    const int *d = m->weight[i].dim;
    m->parameters += (uint64_t)d[0] * (uint64_t)d[1] * (uint64_t)d[2] * (uint64_t)d[3];
  }
  m->classes = m->nominal[m->nodes - 1].c;
  if (m->labels && m->labels != m->classes)
    return agf_fail(err, AGF_ERR_FORMAT, "model file: %d labels for %d classes", m->labels, m->classes);
  for (i = 0; i < m->labels; i++)
    if (!agf_string(m, agf_u32(m->label_table + 4 * i), "label", i, err)) return AGF_ERR_FORMAT;
  return AGF_OK;
}

#if !defined(AGF_NO_FILE)
/* Whether a file of that size is worth opening, before any of it is read or mapped. */
static agf_status agf_check_size(const char *path, int64_t bytes, size_t max_bytes, agf_error *err) {
  if (bytes <= 0) return agf_fail(err, AGF_ERR_FORMAT, "%s: not an .agf model file (%lld bytes)", path, (long long)bytes);
  if ((uint64_t)bytes > SIZE_MAX / 2)
    return agf_fail(err, AGF_ERR_LIMIT, "%s: %lld bytes, more than this machine can map", path, (long long)bytes);
  if (max_bytes && (uint64_t)bytes > max_bytes)
    return agf_fail(err, AGF_ERR_LIMIT, "%s: %lld bytes, more than max_bytes %llu", path, (long long)bytes,
                    (unsigned long long)max_bytes);
  return AGF_OK;
}

#if defined(_WIN32)
/* No mmap here: the file is read into memory of its own. */
static agf_status agf_map(const char *path, size_t max_bytes, agf_model *m, agf_error *err) {
  FILE *f = fopen(path, "rb");
  agf_status status;
  int64_t end;
  size_t bytes;
  void *p;
  if (!f) return agf_fail(err, AGF_ERR_IO, "%s: cannot be opened", path);
  if (_fseeki64(f, 0, SEEK_END) || (end = _ftelli64(f)) < 0 || _fseeki64(f, 0, SEEK_SET)) {
    fclose(f);
    return agf_fail(err, AGF_ERR_IO, "%s: cannot be read", path);
  }
  status = agf_check_size(path, end, max_bytes, err);
  if (status != AGF_OK) {
    fclose(f);
    return status;
  }
  bytes = (size_t)end;
  status = agf_take(&m->allocator, bytes, path, &p, err);
  if (status == AGF_OK && fread(p, 1, bytes, f) != bytes) {
    m->allocator.free(m->allocator.ctx, p, bytes);
    status = agf_fail(err, AGF_ERR_IO, "%s: %llu bytes cannot be read", path, (unsigned long long)bytes);
  }
  if (status != AGF_OK) {
    fclose(f);
    return status;
  }
  fclose(f);
  m->data = (const unsigned char *)p;
  m->bytes = bytes;
  m->mapped = 1;
  return AGF_OK;
}
static void agf_unmap(agf_model *m) {
  if (m->mapped) m->allocator.free(m->allocator.ctx, (void *)(uintptr_t)m->data, m->bytes);
}
#else
static agf_status agf_map(const char *path, size_t max_bytes, agf_model *m, agf_error *err) {
  struct stat info;
  agf_status status;
  void *p;
  int fd = open(path, O_RDONLY | O_NONBLOCK); /* a pipe that nobody writes to is refused, not waited for */
  if (fd < 0) return agf_fail(err, AGF_ERR_IO, "%s: %s", path, strerror(errno));
  if (fstat(fd, &info) || !S_ISREG(info.st_mode)) {
    close(fd);
    return agf_fail(err, AGF_ERR_IO, "%s: not a regular file", path);
  }
  status = agf_check_size(path, info.st_size, max_bytes, err);
  if (status != AGF_OK) {
    close(fd);
    return status;
  }
  p = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (p == MAP_FAILED) return agf_fail(err, AGF_ERR_IO, "%s: cannot be mapped: %s", path, strerror(errno));
#ifdef MADV_HUGEPAGE
  /* What is not in the page cache yet is then read in pieces of 2 MB, where the file system can, and mapped as such: here and in
   * every later process a page fault for each of them, not for each 64 KB, and fewer misses of the TLB whenever W is streamed. A
   * file that is cached in pages of 4 KB keeps them: populating those (MADV_POPULATE_READ) takes longer than their faults. */
  madvise(p, (size_t)info.st_size, MADV_HUGEPAGE);
#endif
  m->data = (const unsigned char *)p;
  m->bytes = (size_t)info.st_size;
  m->mapped = 1;
  return AGF_OK;
}
static void agf_unmap(agf_model *m) {
  if (m->mapped) munmap((void *)(uintptr_t)m->data, m->bytes);
}
#endif
#endif

/* Opens from `path`, or from memory where path is NULL. */
static agf_status agf_open(const char *path, const void *data, size_t bytes, const agf_model_config *config, agf_model **model,
                           agf_error *err) {
  agf_allocator allocator;
  agf_model *m;
  void *memory;
  agf_status status = AGF_OK;
  const uint32_t one = 1;
  agf_clear(err);
  if (!model) return agf_fail(err, AGF_ERR_ARGUMENT, "agf_model_open: model is NULL");
  *model = NULL;
  if (*(const unsigned char *)&one != 1) return agf_fail(err, AGF_ERR_BUILD, "this engine runs on little-endian machines only");
  allocator = agf_allocator_or_default(config ? config->allocator : NULL);
  status = agf_take(&allocator, sizeof *m, "a model", &memory, err);
  if (status != AGF_OK) return status;
  m = (agf_model *)memory;
  memset(m, 0, sizeof *m);
  m->allocator = allocator;
  m->data = (const unsigned char *)data;
  m->bytes = bytes;
#if !defined(AGF_NO_FILE)
  if (path) status = agf_map(path, config ? config->max_bytes : 0, m, err);
#else
  (void)path;
#endif
  if (status == AGF_OK) status = agf_parse(m, config ? config->max_bytes : 0, err);
  if (status != AGF_OK) {
    if (path && err && m->data) { /* opened, then refused: by a message that does not name the file yet */
      char message[sizeof err->message], name[sizeof err->message];
      size_t room = sizeof message - sizeof ": ", length = strlen(err->message), n = 0;
      memcpy(message, err->message, sizeof message);
      agf_put_string(name, sizeof name - 1, &n, path, length < room - 60 ? room - length : 60);
      name[n] = 0;
      agf_fail(err, status, "%s: %s", name, message);
    }
    agf_model_close(m);
    return status;
  }
  *model = m;
  return AGF_OK;
}

#if !defined(AGF_NO_FILE)
AGF_API agf_status agf_model_open(const char *path, const agf_model_config *config, agf_model **model, agf_error *err) {
  if (model) *model = NULL;
  if (!path) return agf_fail(err, AGF_ERR_ARGUMENT, "agf_model_open: path is NULL");
  return agf_open(path, NULL, 0, config, model, err);
}
#endif

AGF_API agf_status agf_model_open_memory(const void *data, size_t bytes, const agf_model_config *config, agf_model **model,
                                         agf_error *err) {
  if (model) *model = NULL;
  if (!data || (uintptr_t)data % AGF_ALIGN)
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_model_open_memory: data is NULL or not 64-byte aligned");
  return agf_open(NULL, data, bytes, config, model, err);
}

AGF_API void agf_model_close(agf_model *model) {
  agf_allocator a;
  if (!model) return;
  a = model->allocator;
#if !defined(AGF_NO_FILE)
  agf_unmap(model);
#endif
  if (model->node) a.free(a.ctx, model->node, model->allocated);
  a.free(a.ctx, model, sizeof *model);
}

AGF_API void agf_model_input(const agf_model *model, agf_input *input) {
  if (input && model) *input = model->input;
  if (input && !model) memset(input, 0, sizeof *input);
}
AGF_API void agf_model_affine(const agf_model *model, int c, float *scale, float *bias) {
  int is = model && model->input_scale >= 0 && c >= 0 && c < model->input.channels;
  if (scale) *scale = is ? agf_weight_at(&model->weight[model->input_scale], (size_t)c) : 1.0f;
  if (bias) *bias = is ? agf_weight_at(&model->weight[model->input_bias], (size_t)c) : 0.0f;
}
AGF_API const char *agf_model_name(const agf_model *model) { return model ? model->name : ""; }
AGF_API const char *agf_model_source(const agf_model *model) { return model ? model->source : ""; }
AGF_API int agf_model_classes(const agf_model *model) { return model ? model->classes : 0; }
AGF_API const char *agf_model_label(const agf_model *model, int k) {
  return !model || k < 0 || k >= model->labels ? "" : model->strings + agf_u32(model->label_table + 4 * (size_t)k);
}
static inline int agf_lower(int c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; }

/* Whether `part` begins at `text`; in small and capital letters alike, unless exact. */
static int agf_begins(const char *text, const char *part, size_t n, int exact) {
  size_t i;
  for (i = 0; i < n; i++)
    if (exact ? text[i] != part[i] : agf_lower((unsigned char)text[i]) != agf_lower((unsigned char)part[i])) return 0;
  return 1;
}

/* How loosely a label is read; each finds more than the one before. */
enum { AGF_LABEL_EXACT, AGF_LABEL_ANY_CASE, AGF_LABEL_NAME, AGF_LABEL_PART, AGF_LABEL_READINGS };

static int agf_label_is(const char *label, const char *text, int reading) {
  const size_t length = strlen(label), n = strlen(text);
  size_t from;
  if (reading <= AGF_LABEL_ANY_CASE) return length == n && agf_begins(label, text, n, reading == AGF_LABEL_EXACT);
  for (from = 0; n <= length && from <= length - n; from++) {
    size_t before = from, after = from + n;
    if (!agf_begins(label + from, text, n, 0)) continue;
    if (reading == AGF_LABEL_PART) return 1;
    while (before > 0 && label[before - 1] == ' ') before--;
    while (label[after] == ' ') after++;
    if ((before == 0 || label[before - 1] == ',') && (label[after] == 0 || label[after] == ',')) return 1;
  }
  return 0;
}

AGF_API int agf_model_find(const agf_model *model, const char *label, int *classes, int room) {
  int reading, k, found = 0;
  if (!model || !label || !*label) return 0;
  for (reading = 0; reading < AGF_LABEL_READINGS && !found; reading++)
    for (k = 0; k < model->classes; k++)
      if (*agf_model_label(model, k) && agf_label_is(agf_model_label(model, k), label, reading)) {
        if (classes && found < room) classes[found] = k;
        found++;
      }
  return found;
}

AGF_API uint64_t agf_model_parameters(const agf_model *model) { return model ? model->parameters : 0; }
AGF_API uint64_t agf_model_file_bytes(const agf_model *model) { return model ? model->bytes : 0; }
AGF_API uint64_t agf_model_checksum(const agf_model *model) {
  return model ? (uint64_t)agf_u32(model->data + 24) << 32 | agf_u32(model->data + 28) : 0;
}
AGF_API int agf_model_layers(const agf_model *model) { return model ? model->nodes : 0; }

AGF_API int agf_model_layer_input(const agf_model *model, int i, int j) {
  if (!model || i < 0 || i >= model->nodes || j < 0 || j >= model->node[i].inputs) return -1;
  return model->edge[model->node[i].edge + j];
}

/* MARK: graph and shapes ------------------------------------------------------------------------------------------------------
 * What size every node's output has for a given input size, or which node cannot take it. */

/* Output pixels of a window of k taps, `dilation` apart, over n pixels padded by before and after. 0: none fits. agf-spec,
 * "Pools", for ceil mode. */
static int agf_window_outputs(int n, int k, int stride, int before, int after, int dilation, int ceil_mode) {
  int64_t span = (int64_t)dilation * (k - 1) + 1, room = (int64_t)n + before + after - span, out;
  if (room < 0) return 0;
  out = (ceil_mode ? (room + stride - 1) / stride : room / stride) + 1;
  if (ceil_mode && (out - 1) * stride >= (int64_t)n + before) out--;
  return out > AGF_MAX_SIDE ? 0 : (int)out;
}

static agf_status agf_shape_error(agf_error *err, const agf_node *n, const agf_shape *in, const char *why) {
  return agf_fail(err, AGF_ERR_SHAPE, "layer %s (%s): %s; its input is %s[%d, %d, %d]", n->name, agf_op_name(n->op), why,
                  in->flattened ? "the flattened " : "", in->c, in->h, in->w);
}

static const agf_shape *agf_input_shape(const agf_inputs *in, int j) {
  int from = in->model->edge[in->node->edge + j];
  return from ? &in->shape[from - 1] : in->image;
}

static agf_status agf_infer_node(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  const agf_op_rules *rules = agf_rules_of(n->op);
  const agf_shape *first = agf_input_shape(in, 0);
  agf_status status;
  if (first->flattened && first->h * first->w > 1 && !(rules->traits & AGF_READS_VECTORS))
    return agf_shape_error(err, n, first, "cannot read a flattened tensor");
  *out = *first;
  status = rules->shape(in, out, err);
  if (status == AGF_OK && (uint64_t)out->c * (uint64_t)out->h * (uint64_t)out->w > 0x7fffffff)
    return agf_shape_error(err, n, first, "its output would have 2^31 elements or more");
  return status;
}

/* " conv linear ...": the names of the ops that have a trait. */
static const char *agf_ops_with(unsigned trait, char *names, size_t room) {
  const agf_op_rules *rules;
  size_t used = 0;
  int op;
  names[0] = 0;
  for (op = 1; (rules = agf_rules_of((agf_op)op)) != NULL; op++)
    if ((rules->traits & trait) && used + strlen(rules->name) + 2 <= room)
      used += (size_t)snprintf(names + used, room - used, " %s", rules->name);
  return names;
}

static agf_status agf_infer_shapes(const agf_model *m, int height, int width, agf_shape *shape, agf_error *err) {
  char names[128];
  agf_shape image;
  agf_inputs in;
  const agf_shape *last = &shape[m->nodes - 1];
  const agf_node *n = &m->node[m->nodes - 1];
  int i;
  image.c = m->input.channels;
  image.h = height ? height : m->input.height;
  image.w = width ? width : m->input.width;
  image.flattened = 0;
  if (image.h < 1 || image.w < 1 || image.h > AGF_MAX_SIDE || image.w > AGF_MAX_SIDE ||
      (uint64_t)image.c * (uint64_t)image.h * (uint64_t)image.w > 0x7fffffff)
    return agf_fail(err, AGF_ERR_SHAPE, "an input of %d x %d pixels: sides must lie in 1 to %d", image.h, image.w, AGF_MAX_SIDE);
  in.model = m;
  in.image = &image;
  in.shape = shape;
  for (i = 0; i < m->nodes; i++) {
    agf_status status;
    in.node = &m->node[i];
    status = agf_infer_node(&in, &shape[i], err);
    if (status != AGF_OK) return status;
  }
  if (!(agf_rules_of(n->op)->traits & AGF_MAKES_LOGITS))
    return agf_fail(err, AGF_ERR_UNSUPPORTED, "layer %s (%s) makes the logits: the last layer must be one of%s", n->name,
                    agf_op_name(n->op), agf_ops_with(AGF_MAKES_LOGITS, names, sizeof names));
  if (last->h * last->w != 1)
    return agf_fail(err, AGF_ERR_SHAPE,
                    "layer %s (%s) makes the logits, but at %d x %d pixels its output is [%d, %d, %d]: one "
                    "pixel is needed",
                    n->name, agf_op_name(n->op), image.h, image.w, last->c, last->h, last->w);
  return AGF_OK;
}

AGF_API agf_status agf_model_layer(const agf_model *model, int i, int height, int width, agf_layer *layer, agf_error *err) {
  const agf_node *n;
  agf_shape *shape, s;
  size_t bytes;
  void *memory;
  agf_status status = AGF_OK;
  int j;
  agf_clear(err);
  if (!model || !layer || i < 0 || i >= model->nodes)
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_model_layer: a NULL argument, or layer %d out of range", i);
  n = &model->node[i];
  s = model->nominal[i];
  if ((height && height != model->input.height) || (width && width != model->input.width)) {
    bytes = (size_t)model->nodes * sizeof *shape;
    status = agf_take(&model->allocator, bytes, "the layers' shapes", &memory, err);
    if (status != AGF_OK) return status;
    shape = (agf_shape *)memory;
    status = agf_infer_shapes(model, height, width, shape, err);
    if (status == AGF_OK) s = shape[i];
    model->allocator.free(model->allocator.ctx, shape, bytes);
    if (status != AGF_OK) return status;
  }
  memset(layer, 0, sizeof *layer);
  layer->name = n->name;
  layer->op = n->op;
  layer->inputs = n->inputs;
  layer->shape[0] = s.flattened ? s.c * s.h * s.w : s.c;
  layer->shape[1] = s.flattened ? 1 : s.h;
  layer->shape[2] = s.flattened ? 1 : s.w;
  memcpy(layer->kernel, n->kernel, sizeof layer->kernel);
  memcpy(layer->stride, n->stride, sizeof layer->stride);
  memcpy(layer->dilation, n->dilation, sizeof layer->dilation);
  memcpy(layer->pad, n->pad, sizeof layer->pad);
  layer->groups = n->groups;
  layer->flat = (n->flags & AGF_FLAG_FLAT) != 0;
  for (j = 0; j < 2; j++) {
    int t = j ? n->b : n->w;
    const int *d = t >= 0 ? model->weight[t].dim : NULL;
    if (d) layer->parameters += (uint64_t)d[0] * (uint64_t)d[1] * (uint64_t)d[2] * (uint64_t)d[3];
  }
  return AGF_OK;
}

/* MARK: plan ------------------------------------------------------------------------------------------------------------------
 * From a model and an input size to steps (an op with the BatchNorm and activation that follow it), tensors (the activations that
 * steps read and write) and one arena. The plan is made with the session and constant from then on.
 *
 * A buffer is a part of the arena that lives from one moment to another; buffers that never live together may share memory. One may be
 * part of another, as a Concat's inputs are of its output: then the whole lives as long as its parts. Moments: 0 the image, i + 1 the
 * forward pass of step i, then two for each step's way back. Activations stay for all classes. Sizes are planned in 64 bits on every
 * machine: no buffer comes near 2^63 bytes (2^20 channels, sides of 3 * 2^16 with padding, 2^10 threads), and the sum is checked
 * against max_bytes and the address space before any of it is taken. */

/* A buffer's number, from 1 on; 0: none. Where one stands in a struct, its comment says what the buffer holds. */
typedef int agf_id;

/* What a method needs planned beside what AGF's rules do. */
enum {
  AGF_NEEDS_GRADIENT = 1,  /* gradients of a logit on their way back */
  AGF_NEEDS_LRP = 2,       /* relevance on its way back */
  AGF_NEEDS_LRP_TWICE = 4, /* by a rule that divides it by two sums: alpha is not 1 */
  AGF_NEEDS_IMAGE = 8,     /* the image while the network runs on others, and sums over its elements */
  AGF_NEEDS_TOTAL = 16,    /* sums over its pixels */
  AGF_NEEDS_OWN_BIAS = 32, /* a convolution's bias before its BatchNorm */
  AGF_NEEDS_LOCAL = 64     /* the logits at every position */
};

typedef struct agf_buffer {
  uint64_t bytes, offset;
  int first, last; /* the moments from and to which it lives */
  agf_id within;   /* the buffer that it is a part of, `at` bytes from its start; 0: it has a place of its own */
  uint64_t at;
} agf_buffer;

/* An activation: [cb][h + 2 bh][w + 2 bw][xp], with a zero border for the convolutions that read it. */
typedef struct agf_tensor {
  int c, h, w, cb, bh, bw;
  int xp;                   /* floats from pixel to pixel of x: 16, or fewer (agf_conv_settle) */
  ptrdiff_t xr, xb;         /* and from row to row and block to block */
  int readers;              /* (step, slot) pairs that read it */
  int needs_g;              /* a rule of AGF below it uses its gradient */
  int is_signed;            /* it may hold values below 0 */
  int needs_mask;           /* a convolution reads it */
  int first_reader;         /* the step that delivers to it first, going backwards; -1: none, it holds the logits */
  int part_of, first_block; /* the tensor of a Concat that it lies in, from that block on; 0: it stands alone */
  agf_id x;                 /* float, as above */
  agf_id mask;              /* uint16_t [cb][h][w], where needs_mask */
  agf_id cam, g;            /* float [cb][h][w][xp]; g where needs_g */
} agf_tensor;

/* Whether a step's rule reads the gradient at its output: never; always; unless the request's options leave nothing of R but A. */
enum { AGF_G_NEVER, AGF_G_ALWAYS, AGF_G_UNLESS_BARE };

struct agf_step {
  const agf_op_rules *rules; /* of the op of `node` */
  int index;                 /* its place among the plan's steps */
  int node, last;            /* first and last node that it covers; `last` names its output */
  int norm;                  /* the node of the BatchNorm that it has taken along, -1: none */
  agf_act act;               /* the activation that it is or has taken along */
  int chained;               /* steps behind it that its forward pass makes too: agf_chain_of */
  int inputs, in, out;       /* its inputs are the tensors plan->in[in ...], its output the tensor `out` */
  int box;                   /* it reads the image by the box rule: where all pixels are equal it has nothing to share out */
  int uses_g;                /* AGF_G_*: its rule reads the gradient at its output and forms that at its input */
  int writes;                /* the moment from which on it writes its inputs' cam and g */
  int reads_cam, reads_g;    /* the moments until which it reads its output's */
  agf_id scale, bias;        /* float [outputs, filled]: of its BatchNorm and its own; scale 0: none */
  /* What its adjoint reads, float [cb][h][w][right-hand sides][16] and uint16_t [cb][h][w]; rhs_mask 0: the output's cam as it is, or a
   * form of the op's own. */
  agf_id rhs, rhs_mask;
  agf_id tmp_cam, tmp_g; /* float [cb][h][w][16] of an input: where a delivery lies that is not the tensor's first */
  void *own;             /* the op's own part, rules->step_bytes; constant too once the plan is made */
};

/* What stays the same from a session's creation to its end. */
typedef struct agf_plan {
  int steps, tensors, buffers; /* buffers: the highest number */
  const agf_step *step;
  const agf_tensor *tensor;           /* 0: the image */
  const agf_buffer *buffer;           /* [buffers + 1] */
  const int *in;                      /* inputs of steps: tensors */
  const int *tensor_of;               /* [nodes + 1] the tensor of an edge; -1: dead, -2: inside a step */
  const agf_shape *shape;             /* [nodes] */
  const unsigned char *live;          /* [nodes] AGF_LIVE, AGF_READ_SIGNED; 0: the logits do not depend on it */
  unsigned needs;                     /* AGF_NEEDS_*: what the session's methods need */
  uint64_t arena_bytes, stay_bytes;   /* stay_bytes: of the buffers that live all the time; they come first */
  uint64_t scratch_bytes;             /* of a task */
  agf_id scratch;                     /* [threads][scratch_bytes] */
  agf_id logits, order;               /* float [classes + 32]; int [classes], the logits' ranks */
  agf_id dz, softmax;                 /* float [classes + 32], what a way back begins with at the logits; double [3][classes] */
  agf_id difference, difference_mask; /* label-free: as the latent tensor's x and mask */
  agf_id logits_difference, order_difference; /* label-free: as logits and order */
  int head,
      head_linear;     /* agf_lc: the step of the global average pool; of the linear layer that is all that follows it; -1: none */
  agf_id local;        /* agf_lc: float [pixels][linear's outputs], of a head of several layers g, [cb][h][w][16]; 0: not needed, or
                          * no memory */
  agf_id plane;        /* a map of any tensor's size: float [h][w] */
  agf_id channel;      /* double, for each channel of any tensor */
  agf_id extremes;     /* FullGrad: double [blocks of any tensor][2] */
  agf_id own_bias;     /* Grad-CAM before a BatchNorm: float, for each channel of any tensor */
  agf_id image, total; /* the image while others run: float [c][h][w]; sums of its elements or pixels: double */
} agf_plan;

/* The plan while it is made. */
struct agf_planner {
  const agf_session *s; /* its config, kernels and threads */
  const agf_model *model;
  agf_plan *plan;
  agf_step *step; /* these are the plan's */
  agf_tensor *tensor;
  agf_buffer *buffer;
  int *in, *tensor_of;
  agf_shape *shape;
  unsigned char *live;
  unsigned char *own;               /* the next step's own part */
  int most_buffers, out_of_buffers; /* how many there is room for; more were asked for */
  int *node_readers, *last_reader;  /* [nodes + 1] live readers of an edge; one of them */
  int *turn, *placed, placed_count; /* [most_buffers] agf_place's: in the order of placing, those that have their place by offset */
  uint64_t largest_plain;           /* bytes of input and output of the largest plain convolution, the last step left out */
};

/* What a run leaves. */
typedef struct agf_tensor_facts {
  int max_known;
  float max; /* over all elements */
} agf_tensor_facts;

typedef struct agf_step_facts {
  int d_known;      /* |W||x| is there */
  int border_known; /* conv(1, |w|) is there; it stays so for later runs */
  double forward_seconds, explain_seconds;
} agf_step_facts;

typedef struct agf_run_facts {
  int ran;
  unsigned flags; /* agf_run's */
  float lo, hi;   /* of the image */
  double exp_sum; /* of the logits, each less the largest: what a softmax divides by */
  agf_tensor_facts *tensor;
  agf_step_facts *step;
} agf_run_facts;

/* How far an explanation has come with a tensor. */
typedef struct agf_arrival {
  int delivered; /* readers that have delivered */
  int wants_g;   /* a rule below uses its gradient, of those that the request's options leave */
  int late;      /* its cam is what agf_kernels.combine left, to be shifted by `mean` when it is read */
  float mean;
} agf_arrival;

typedef struct agf_method_rules agf_method_rules;

/* A method: everything that the engine knows about it. */
struct agf_method_rules {
  agf_method method;
  const char *name;
  unsigned traits;  /* AGF_METHOD_*: what a request may ask of it, what its maps are */
  unsigned needs;   /* AGF_NEEDS_*: what it needs planned */
  unsigned options; /* those of AGF's that make it up */
  /* The map of e's class. NULL: this engine was built without it. */
  agf_status (*explain)(agf_session *s, agf_explanation *e, float *map, agf_error *err);
};

static const agf_method_rules *agf_rules_of_method(agf_method method);

/* One class's explanation. */
struct agf_explanation {
  const agf_request *request;
  const agf_method_rules *rules;
  unsigned options;     /* AGF_NO_* and AGF_OPT_FX_GRADCAM: the request's and those that make up the method */
  int target;           /* the class */
  int against;          /* the class that it is explained against, -1: none */
  const float *z;       /* the logits that the seed is made from */
  const float *latent;  /* the tensor that the last step reads, element (0, 0, 0), or the difference in its place */
  double base, share;   /* of the call's progress */
  agf_arrival *arrival; /* [tensors] */
  int alpha;            /* LRP's: 1 or 2 */
  int edge;             /* Grad-CAM and its like: whose gradient is wanted, 0 the image's, n + 1 that of node n, -1: none */
  const float *found;   /* that gradient, once it has been met */
  double *terms;        /* FullGrad: [pixels], where its terms are added up; NULL: nobody wants them */
};

typedef struct agf_team agf_team;

struct agf_session {
  const agf_model *model;
  agf_session_config config;
  agf_allocator allocator;
  agf_kernels k;
  size_t bytes; /* everything: tables, arena and threads */
  int owns_memory;
  int threads;
  agf_team *team;
  unsigned char *arena;
  const agf_plan *plan;
  agf_run_facts run;
  agf_arrival *arrival; /* [tensors] room for an explanation's */
  unsigned bad;         /* AGF_BAD_*, raised by tasks */
  int busy;             /* a call works with it */
};

/* Sizes of the tables in front of the arena, all bounded by the model's counts. */
typedef struct agf_tables {
  size_t session, plan, step, own, tensor, buffer, in, tensor_of, shape, live, tensor_facts, step_facts, arrival, total;
  size_t planner, readers, turn; /* the planner's, which are part of it too */
  int buffers;
} agf_tables;

static agf_tables agf_table_sizes(const agf_model *m) {
  agf_tables t;
  size_t n = (size_t)m->nodes;
  int i;
  memset(&t, 0, sizeof t);
  t.buffers = (int)(26 * n + 32); /* more than a step and a plan have room to name; agf_buf refuses beyond it */
  t.session = agf_align_up(sizeof(agf_session));
  t.plan = agf_align_up(sizeof(agf_plan));
  t.step = agf_align_up(n * sizeof(agf_step));
  for (i = 0; i < m->nodes; i++) t.own += agf_align_up(agf_rules_of(m->node[i].op)->step_bytes);
  t.tensor = agf_align_up((n + 1) * sizeof(agf_tensor));
  t.buffer = agf_align_up((size_t)(t.buffers + 1) * sizeof(agf_buffer));
  t.in = agf_align_up((size_t)m->edges * sizeof(int));
  t.tensor_of = agf_align_up((n + 1) * sizeof(int));
  t.shape = agf_align_up(n * sizeof(agf_shape));
  t.live = agf_align_up(n);
  t.tensor_facts = agf_align_up((n + 1) * sizeof(agf_tensor_facts));
  t.step_facts = agf_align_up(n * sizeof(agf_step_facts));
  t.arrival = agf_align_up((n + 1) * sizeof(agf_arrival));
  t.planner = agf_align_up(sizeof(agf_planner));
  t.readers = agf_align_up((n + 1) * sizeof(int));
  t.turn = agf_align_up((size_t)t.buffers * sizeof(int));
  t.total = t.session + t.plan + t.step + t.own + t.tensor + t.buffer + t.in + t.tensor_of + t.shape + t.live + t.tensor_facts +
            t.step_facts + t.arrival + t.planner + 2 * t.readers + 2 * t.turn;
  return t;
}

/* A session's tables and its planner in `memory`, empty. */
static agf_session *agf_session_at(void *memory, const agf_model *m, agf_planner **planner) {
  agf_tables t = agf_table_sizes(m);
  unsigned char *at = (unsigned char *)memory;
  agf_session *s = (agf_session *)memory;
  agf_planner *p;
  agf_plan *plan;
  memset(memory, 0, t.total);
  at += t.session;
  plan = (agf_plan *)(void *)at, at += t.plan;
  p = (agf_planner *)(void *)at, at += t.planner;
  plan->step = p->step = (agf_step *)(void *)at, at += t.step;
  p->own = at, at += t.own;
  plan->tensor = p->tensor = (agf_tensor *)(void *)at, at += t.tensor;
  plan->buffer = p->buffer = (agf_buffer *)(void *)at, at += t.buffer;
  plan->in = p->in = (int *)(void *)at, at += t.in;
  plan->tensor_of = p->tensor_of = (int *)(void *)at, at += t.tensor_of;
  plan->shape = p->shape = (agf_shape *)(void *)at, at += t.shape;
  plan->live = p->live = at, at += t.live;
  s->run.tensor = (agf_tensor_facts *)(void *)at, at += t.tensor_facts;
  s->run.step = (agf_step_facts *)(void *)at, at += t.step_facts;
  s->arrival = (agf_arrival *)(void *)at, at += t.arrival;
  p->node_readers = (int *)(void *)at, at += t.readers;
  p->last_reader = (int *)(void *)at, at += t.readers;
  p->turn = (int *)(void *)at, at += t.turn;
  p->placed = (int *)(void *)at, at += t.turn;
  p->most_buffers = t.buffers;
  p->s = s;
  p->model = s->model = m;
  p->plan = plan;
  s->plan = plan;
  s->arena = at;
  *planner = p;
  return s;
}

/* A new buffer. There is room for more than any model's steps ask for; agf_make_plan reports it if that is wrong. */
static agf_id agf_buf(agf_planner *p, uint64_t bytes, int first, int last) {
  agf_buffer *b;
  if (p->plan->buffers == p->most_buffers) {
    p->out_of_buffers = 1;
    return p->most_buffers;
  }
  b = &p->buffer[++p->plan->buffers];
  b->bytes = agf_align_up64(bytes ? bytes : 1);
  b->first = first;
  b->last = last;
  return p->plan->buffers;
}

/* A part of another buffer, which, like all that it is itself a part of, then lives as long as the part. */
static agf_id agf_part(agf_planner *p, agf_id within, uint64_t at, uint64_t bytes, int first, int last) {
  agf_id i = agf_buf(p, bytes, first, last);
  p->buffer[i].bytes = bytes; /* not rounded up: what follows may be another part */
  p->buffer[i].within = within;
  p->buffer[i].at = at;
  for (; within; within = p->buffer[within].within)
    if (last > p->buffer[within].last) p->buffer[within].last = last;
  return i;
}

static inline void *agf_at(const agf_session *s, agf_id buffer) {
  return buffer ? s->arena + s->plan->buffer[buffer].offset : NULL;
}
static inline float *agf_floats(const agf_session *s, agf_id buffer) { return (float *)agf_at(s, buffer); }
static void agf_clear_buffer(agf_session *s, agf_id buffer) {
  void *at = agf_at(s, buffer);
  if (at) memset(at, 0, (size_t)s->plan->buffer[buffer].bytes);
}

/* What a forward pass reads of an activation and never writes: its border, and lanes behind its last channel. */
static void agf_clear_unwritten(agf_session *s, const agf_tensor *t) {
  const size_t row = (size_t)t->xr * sizeof(float), side = (size_t)t->bw * (size_t)t->xp * sizeof(float);
  unsigned char *at = (unsigned char *)agf_at(s, t->x);
  int b, r;
  if (t->c % AGF_CB) {
    agf_clear_buffer(s, t->x);
    return;
  }
  for (b = 0; b < t->cb; b++)
    for (r = -t->bh; r < t->h + t->bh; r++, at += row)
      if (r < 0 || r >= t->h) {
        memset(at, 0, row);
      } else {
        memset(at, 0, side);
        memset(at + row - side, 0, side);
      }
}

/* A step's input tensors and its output, planned and being planned. */
static inline const agf_tensor *agf_in(const agf_session *s, const agf_step *st, int slot) {
  return &s->plan->tensor[s->plan->in[st->in + slot]];
}
static inline const agf_tensor *agf_out(const agf_session *s, const agf_step *st) { return &s->plan->tensor[st->out]; }
static inline agf_tensor *agf_plan_in(const agf_planner *p, const agf_step *st, int slot) {
  return &p->tensor[p->in[st->in + slot]];
}
static inline agf_tensor *agf_plan_out(const agf_planner *p, const agf_step *st) { return &p->tensor[st->out]; }

static inline const agf_step *agf_last_step(const agf_session *s) { return &s->plan->step[s->plan->steps - 1]; }
static inline agf_step_facts *agf_facts(const agf_session *s, const agf_step *st) { return &s->run.step[st->index]; }

static inline int agf_end(const agf_planner *p) { return 3 * p->plan->steps + 1; }
static inline int agf_is_last(const agf_planner *p, const agf_step *st) { return st->index == p->plan->steps - 1; }
/* A convolution's way back has two moments, the gate (reads its output's cam and g) and the adjoint (writes its input's): what only one
 * of them needs does not lie in the other's way. Other steps need all at once. */
static inline int agf_gate_moment(const agf_planner *p, const agf_step *st) {
  return p->plan->steps + 2 * (p->plan->steps - st->index) - 1;
}
static inline int agf_adjoint_moment(const agf_planner *p, const agf_step *st) {
  return p->plan->steps + 2 * (p->plan->steps - st->index);
}

static uint64_t agf_tensor_elements(const agf_tensor *t) { return (uint64_t)t->cb * (uint64_t)t->h * (uint64_t)t->w * AGF_CB; }

/* Where element (0, 0, 0) of a tensor's activation lies. */
static inline float *agf_x(const agf_session *s, const agf_tensor *t) {
  return agf_floats(s, t->x) + t->bh * t->xr + (ptrdiff_t)t->bw * t->xp;
}

static void agf_need_scratch(agf_planner *p, uint64_t bytes) {
  if (bytes > p->plan->scratch_bytes) p->plan->scratch_bytes = bytes;
}

/* Bits of agf_plan.live: the logits depend on the node; a node that lets negative values through reads it. */
enum { AGF_LIVE = 1, AGF_READ_SIGNED = 2 };

static void agf_find_live(agf_planner *p) {
  const agf_model *m = p->model;
  int i, j;
  p->live[m->nodes - 1] = AGF_LIVE;
  for (i = m->nodes - 1; i >= 0; i--) {
    const agf_op_rules *rules = agf_rules_of(m->node[i].op);
    int rectifies = rules->sign && rules->sign(&m->node[i]) == AGF_SIGN_RECTIFIED;
    if (!p->live[i]) continue;
    for (j = 0; j < m->node[i].inputs; j++) {
      int e = m->edge[m->node[i].edge + j];
      if (e) p->live[e - 1] |= (unsigned char)(rectifies ? AGF_LIVE : AGF_LIVE | AGF_READ_SIGNED);
      p->node_readers[e]++;
      p->last_reader[e] = i;
    }
  }
}

/* The node that alone reads node i's output, or -1. */
static int agf_only_reader(const agf_planner *p, int i) { return p->node_readers[i + 1] == 1 ? p->last_reader[i + 1] : -1; }

static int agf_new_tensor(agf_planner *p, int c, int h, int w) {
  agf_tensor *t = &p->tensor[p->plan->tensors];
  t->c = c;
  t->h = h;
  t->w = w;
  t->cb = agf_ceil_div(c, AGF_CB);
  t->xp = AGF_CB;
  t->first_reader = -1;
  return p->plan->tensors++;
}

/* Nodes to steps, with their tensors; buffers come later. */
static void agf_make_steps(agf_planner *p) {
  const agf_model *m = p->model;
  int i, j, used = 0;
  for (i = 0; i <= m->nodes; i++) p->tensor_of[i] = -1;
  p->tensor_of[0] = agf_new_tensor(p, m->input.channels, p->s->config.height, p->s->config.width);
  for (i = 0; i < m->nodes; i++) {
    const agf_node *n = &m->node[i];
    const agf_op_rules *rules = agf_rules_of(n->op);
    agf_step *st;
    int next;
    if (!p->live[i] || p->tensor_of[i + 1] != -1) continue;
    if (rules->traits & AGF_RESHAPES) {
      p->tensor_of[i + 1] = p->tensor_of[m->edge[n->edge]];
      continue;
    }
    st = &p->step[p->plan->steps++];
    st->node = st->last = i;
    st->norm = -1;
    st->rules = rules;
    st->index = p->plan->steps - 1;
    if (rules->step_bytes) st->own = p->own;
    p->own += agf_align_up(rules->step_bytes);
    st->act = rules->act;
    st->inputs = n->inputs;
    st->in = used;
    for (j = 0; j < n->inputs; j++) p->in[used++] = p->tensor_of[m->edge[n->edge + j]];
    next = agf_only_reader(p, st->last);
    if ((rules->traits & AGF_TAKES_BATCHNORM) && next >= 0 && (agf_rules_of(m->node[next].op)->traits & AGF_IS_BATCHNORM)) {
      st->norm = st->last = next;
      next = agf_only_reader(p, st->last);
    }
    if ((rules->traits & AGF_TAKES_ACT) && next >= 0 && agf_rules_of(m->node[next].op)->act != AGF_ACT_NONE) {
      st->act = agf_rules_of(m->node[next].op)->act;
      st->last = next;
    }
    st->out = agf_new_tensor(p, p->shape[i].c, p->shape[i].h, p->shape[i].w);
    if (st->norm >= 0) p->tensor_of[st->norm + 1] = -2;
    if (st->last != i) p->tensor_of[i + 1] = -2;
    p->tensor_of[st->last + 1] = st->out;
  }
}

/* Whether a node's output may hold values below 0, its inputs being so. */
static int agf_signed_behind(const agf_node *n, int is_signed) {
  switch (agf_rules_of(n->op)->sign(n)) {
    case AGF_SIGN_ANY: return 1;
    case AGF_SIGN_INPUTS: return is_signed;
    case AGF_SIGN_NEVER:
    case AGF_SIGN_RECTIFIED: return 0;
  }
  return 1;
}

/* Whether an input of a step, and whether its output, may hold values below 0. */
static int agf_inputs_signed(const agf_planner *p, const agf_step *st) {
  int j, is_signed = 0;
  for (j = 0; j < st->inputs; j++) is_signed |= agf_plan_in(p, st, j)->is_signed;
  return is_signed;
}

static int agf_step_signed(const agf_planner *p, const agf_step *st) {
  int is_signed = agf_signed_behind(&p->model->node[st->node], agf_inputs_signed(p, st));
  if (st->norm >= 0) is_signed = agf_signed_behind(&p->model->node[st->norm], is_signed);
  if (st->last != st->node && st->last != st->norm) is_signed = agf_signed_behind(&p->model->node[st->last], is_signed);
  return is_signed;
}

enum { AGF_CHAINED = 6 }; /* at most */

/* How many steps behind a convolution are a chain with it: each reads what the one before makes, and whatever else it reads is there
 * when the convolution begins, and makes a block of channels from the same block alone. The forward pass then goes through the chain
 * one group of channels after the other, some rows at a time, so that a step finds what it reads in the cache (agf_chain_task). No
 * element is made in another way, so the bits are the same. */
static int agf_chain_of(const agf_planner *p, const agf_step *head) {
  int count, j;
  for (count = 0; count < AGF_CHAINED && head->index + count + 1 < p->plan->steps; count++) {
    const agf_step *before = head + count, *st = before + 1;
    const agf_node *n = &p->model->node[st->node];
    const agf_tensor *x = agf_plan_in(p, st, 0), *y = agf_plan_out(p, before);
    int reads = 0, ready = 1;
    if (!st->rules->rows || x->c != y->c || x->h != y->h || x->w != y->w) break; /* it may read y as the gate of another tensor */
    if (n->groups && (n->groups == 1 || x->c != n->channels || AGF_CB % (n->channels / n->groups))) break;
    for (j = 0; j < st->inputs; j++) {
      reads |= agf_plan_in(p, st, j) == y;
      ready &= agf_plan_in(p, st, j) == y || p->in[st->in + j] < head->out;
    }
    if (!reads || !ready) break;
  }
  return count;
}

/* Readers, borders, and who needs a gradient: the rule of a plain convolution and of a linear layer behind a flatten use the
 * gradient at their output, and whatever lies above them hands it down. */
static void agf_connect(agf_planner *p) {
  int i, j;
  p->tensor[0].is_signed = 1;
  for (i = 0; i < p->plan->steps; i++) {
    agf_step *st = &p->step[i];
    int uses_g;
    st->writes = agf_gate_moment(p, st);
    st->reads_cam = st->reads_g = agf_adjoint_moment(p, st);
    if (st->rules->connect) st->rules->connect(p, st);
    uses_g = st->uses_g != AGF_G_NEVER;
    for (j = 0; j < st->inputs; j++) {
      agf_tensor *t = agf_plan_in(p, st, j);
      t->readers++;
      t->first_reader = i;
      if (t->needs_g) uses_g = 1;
    }
    agf_plan_out(p, st)->needs_g = uses_g || p->s->config.observer != NULL;
    agf_plan_out(p, st)->is_signed = agf_step_signed(p, st);
  }
  for (i = p->plan->steps - 1; i >= 0; i--)
    if (p->step[i].rules->settle) p->step[i].rules->settle(p, &p->step[i]);
}

/* A tensor's buffer of so many bytes a block: its own, or its blocks of the whole's. */
static agf_id agf_blocks_buf(agf_planner *p, const agf_tensor *x, agf_id whole, uint64_t block, int first, int last) {
  if (!x->part_of) return agf_buf(p, (uint64_t)x->cb * block, first, last);
  return agf_part(p, whole, (uint64_t)x->first_block * block, (uint64_t)x->cb * block, first, last);
}

/* Where tensor x lies, and its mask; what it is a part of has been planned. */
static void agf_plan_activation(agf_planner *p, agf_tensor *x) {
  const agf_tensor *whole = x->part_of ? &p->tensor[x->part_of] : x;
  uint64_t pixels = (uint64_t)x->h * (uint64_t)x->w, block;
  x->xr = (ptrdiff_t)(x->w + 2 * x->bw) * x->xp;
  block = (uint64_t)(x->h + 2 * x->bh) * (uint64_t)x->xr;
  x->xb = (ptrdiff_t)block; /* fits in a session that is not refused */
  x->x = agf_blocks_buf(p, x, whole->x, block * 4, 0, agf_end(p));
  if (x->needs_mask) x->mask = agf_blocks_buf(p, x, whole->mask, pixels * 2, 0, agf_end(p));
}

/* Its cam and g, which live from the first delivery to the moments given. */
static void agf_plan_cam(agf_planner *p, agf_tensor *x, int until_cam, int until_g) {
  const agf_tensor *whole = x->part_of ? &p->tensor[x->part_of] : x;
  uint64_t block = (uint64_t)x->h * (uint64_t)x->w * (uint64_t)x->xp * 4;
  int from = p->step[x->first_reader].writes;
  if (x->needs_g) x->g = agf_blocks_buf(p, x, whole->g, block, from, until_g);
  x->cam = agf_blocks_buf(p, x, whole->cam, block, from, until_cam);
}

static void agf_plan_tensors(agf_planner *p) {
  int i, end = agf_end(p);
  for (i = p->plan->steps - 1; i >= 0; i--) {
    const agf_step *st = &p->step[i];
    agf_tensor *x = agf_plan_out(p, st);
    agf_plan_activation(p, x);
    if (x->first_reader >= 0)
      agf_plan_cam(p, x, st->reads_cam, st->reads_g);
    else if (p->plan->needs & (AGF_NEEDS_GRADIENT | AGF_NEEDS_LRP | AGF_NEEDS_LOCAL)) /* the logits: these begin there, AGF below */
      x->cam = agf_buf(p, agf_tensor_elements(x) * 4, agf_gate_moment(p, st), agf_adjoint_moment(p, st));
  }
  agf_plan_activation(p, &p->tensor[0]);
  agf_plan_cam(p, &p->tensor[0], end, end);
}

/* Whether buffer i is placed before buffer j. By size: the largest first, then what lives longest, then what is needed first. By time:
 * what is needed first, then what lives longest, then the largest. Then in the order of their numbers. */
static int agf_places_before_by_size(const void *buffers, int i, int j) {
  const agf_buffer *a = (const agf_buffer *)buffers + i, *b = (const agf_buffer *)buffers + j;
  int life_a = a->last - a->first, life_b = b->last - b->first;
  return a->bytes != b->bytes   ? a->bytes > b->bytes
         : life_a != life_b     ? life_a > life_b
         : a->first != b->first ? a->first < b->first
                                : i < j;
}

static int agf_places_before_by_time(const void *buffers, int i, int j) {
  const agf_buffer *a = (const agf_buffer *)buffers + i, *b = (const agf_buffer *)buffers + j;
  return a->first != b->first   ? a->first < b->first
         : a->last != b->last   ? a->last > b->last
         : a->bytes != b->bytes ? a->bytes > b->bytes
                                : i < j;
}

static int agf_lies_before(const void *buffers, int i, int j) {
  const agf_buffer *a = (const agf_buffer *)buffers + i, *b = (const agf_buffer *)buffers + j;
  return a->offset != b->offset ? a->offset < b->offset : i < j;
}

/* The lowest place behind the buffers that stay that is free while buffer b lives. */
static uint64_t agf_free_place(const agf_planner *p, const agf_buffer *b) {
  uint64_t at = p->plan->stay_bytes;
  int j;
  for (j = 0; j < p->placed_count; j++) { /* by offset */
    const agf_buffer *o = &p->buffer[p->placed[j]];
    if (o->last < b->first || o->first > b->last || o->offset + o->bytes <= at) continue;
    if (o->offset >= at + b->bytes) break;
    at = o->offset + o->bytes;
  }
  return at;
}

/* More bytes than any machine has, few enough to add two of them. */
#define AGF_TOO_MANY (UINT64_MAX / 2)

/* Every buffer's place: those that stay first, then the others in the given order, each at the lowest place that is free while it
 * lives; agf_lc's only in sessions that were asked for it. Returns the arena's size, AGF_TOO_MANY where it is that or more. */
static uint64_t agf_place(agf_planner *p, int by_time) {
  uint64_t top;
  int i, j, k, n = 0, end = agf_end(p);
  int later = p->plan->needs & AGF_NEEDS_LOCAL ? 0 : p->plan->local;
  p->plan->stay_bytes = 0;
  p->placed_count = 0;
  for (i = 1; i <= p->plan->buffers; i++) {
    agf_buffer *b = &p->buffer[i];
    b->offset = UINT64_MAX;
    if (b->within) continue;
    if (b->first != 0 || b->last != end) {
      if (i != later) p->turn[n++] = i;
      continue;
    }
    b->offset = p->plan->stay_bytes;
    if (b->bytes > AGF_TOO_MANY - p->plan->stay_bytes) return AGF_TOO_MANY;
    p->plan->stay_bytes += b->bytes;
  }
  top = p->plan->stay_bytes;
  agf_sort(p->turn, n, by_time ? agf_places_before_by_time : agf_places_before_by_size, p->buffer);
  for (i = 0; i < n; i++) {
    agf_buffer *b = &p->buffer[p->turn[i]];
    if (by_time) { /* what ended is in nobody's way any more */
      for (j = k = 0; j < p->placed_count; j++)
        if (p->buffer[p->placed[j]].last >= b->first) p->placed[k++] = p->placed[j];
      p->placed_count = k;
    }
    b->offset = agf_free_place(p, b);
    if (b->bytes > AGF_TOO_MANY - b->offset) return AGF_TOO_MANY;
    if (b->offset + b->bytes > top) top = b->offset + b->bytes;
    for (j = p->placed_count++; j > 0 && p->buffer[p->placed[j - 1]].offset > b->offset; j--) p->placed[j] = p->placed[j - 1];
    p->placed[j] = p->turn[i];
  }
  for (i = 1; i <= p->plan->buffers; i++) /* a whole was made before its parts */
    if (p->buffer[i].within) p->buffer[i].offset = p->buffer[p->buffer[i].within].offset + p->buffer[i].at;
  return top;
}

/* Graphs of more buffers are placed by time only, where the work grows with the buffers that live at once, not with all. */
enum { AGF_PLACE_BOTH = 1 << 14 };

/* The smaller of both orders: neither is always the better one. */
static uint64_t agf_place_all(agf_planner *p) {
  uint64_t by_size = p->plan->buffers <= AGF_PLACE_BOTH ? agf_place(p, 0) : UINT64_MAX, by_time = agf_place(p, 1);
  return by_size < by_time ? agf_place(p, 0) : by_time;
}

/* The global average pool whose output alone the logits depend on (agf-spec, "Two variants of ours"): what is behind it works on any
 * position alone. Of several the last one that reads more than one pixel, if there is one. */
static void agf_find_head(agf_planner *p) {
  agf_plan *plan = p->plan;
  int i, j, single, lowest = plan->tensors; /* of the tensors that the steps behind i read */
  plan->head = -1;
  for (i = plan->steps - 1; i >= 0; i--) {
    const agf_step *st = &p->step[i];
    const agf_tensor *in = agf_plan_in(p, st, 0), *out = agf_plan_out(p, st);
    if ((st->rules->traits & (AGF_POOLS_TO_SIZE | AGF_IS_MAXIMUM)) == AGF_POOLS_TO_SIZE && out->h * out->w == 1 &&
        st->out <= lowest) {
      single = in->h * in->w == 1;
      if (plan->head < 0 || !single) plan->head = i;
      if (!single) break;
    }
    for (j = 0; j < st->inputs; j++) lowest = agf_imin(lowest, p->in[st->in + j]);
  }
  i = plan->steps - 1;
  plan->head_linear = plan->head >= 0 && plan->head == i - 1 && (p->step[i].rules->traits & AGF_IS_LINEAR) ? i : -1;
}

/* What methods need planned, beside what AGF does. */
static void agf_plan_methods(agf_planner *p) {
  const agf_tensor *image = &p->tensor[0];
  agf_plan *plan = p->plan;
  uint64_t pixels = (uint64_t)image->h * (uint64_t)image->w, elements = (uint64_t)image->c * pixels, plane = 0, blocks = 0;
  int i, end = agf_end(p);
  for (i = 0; i < plan->tensors; i++) {
    const agf_tensor *t = &p->tensor[i];
    if ((uint64_t)t->h * (uint64_t)t->w > plane) plane = (uint64_t)t->h * (uint64_t)t->w;
    if ((uint64_t)t->cb > blocks) blocks = (uint64_t)t->cb;
  }
  agf_find_head(p);
  if (plan->head >= 0 && plan->head_linear >= 0) {
    const agf_tensor *t = agf_plan_in(p, &p->step[plan->head], 0);
    plan->local = agf_buf(p, (uint64_t)t->h * (uint64_t)t->w * (uint64_t)agf_filled(p->model->classes) * 4,
                          agf_gate_moment(p, &p->step[plan->steps - 1]), agf_adjoint_moment(p, &p->step[plan->head]));
  }
  if (plan->head >= 0 && plan->head < plan->steps - 1 && plan->head_linear < 0 && (plan->needs & AGF_NEEDS_LOCAL))
    plan->local = agf_buf(p, agf_tensor_elements(agf_plan_in(p, &p->step[plan->head], 0)) * 4,
                          agf_gate_moment(p, &p->step[plan->steps - 1]), agf_adjoint_moment(p, &p->step[plan->head]));
  if (plan->needs & (AGF_NEEDS_GRADIENT | AGF_NEEDS_LRP)) {
    plan->plane = agf_buf(p, plane * 4, 0, end);
    plan->channel = agf_buf(p, blocks * AGF_CB * sizeof(double), 0, end);
    plan->extremes = agf_buf(p, blocks * 2 * sizeof(double), 0, end);
  }
  if (plan->needs & AGF_NEEDS_OWN_BIAS) plan->own_bias = agf_buf(p, blocks * AGF_CB * sizeof(float), 0, end);
  if (plan->needs & AGF_NEEDS_IMAGE) plan->image = agf_buf(p, elements * sizeof(float), 0, end);
  if (plan->needs & (AGF_NEEDS_IMAGE | AGF_NEEDS_TOTAL))
    plan->total = agf_buf(p, (plan->needs & AGF_NEEDS_IMAGE ? elements : pixels) * sizeof(double), 0, end);
}

/* Where a step puts a delivery that is not its tensor's first, and the gradient that its rule reads where no rule below wants it. */
static void agf_plan_deliveries(agf_planner *p, agf_step *st) {
  uint64_t cam = 0, g = 0;
  int j;
  for (j = 0; j < st->inputs; j++) {
    const agf_tensor *t = agf_plan_in(p, st, j);
    uint64_t elements = agf_tensor_elements(t);
    int *seen = &p->turn[p->in[st->in + j]]; /* 1 + the last step that read the tensor; only later do buffers take turns there */
    int first = t->first_reader == st->index && *seen != st->index + 1; /* only that slot may write the tensor's own buffers */
    *seen = st->index + 1;
    if (!first && elements > cam) cam = elements;
    if ((t->needs_g ? !first : st->uses_g != AGF_G_NEVER) && elements > g) g = elements;
  }
  if (cam) st->tmp_cam = agf_buf(p, cam * 4, st->writes, agf_adjoint_moment(p, st));
  if (g) st->tmp_g = agf_buf(p, g * 4, st->writes, agf_adjoint_moment(p, st));
}

static agf_status agf_make_plan(agf_planner *p, unsigned needs, agf_error *err) {
  agf_plan *plan = p->plan;
  const agf_tensor *latent;
  agf_status status;
  int i, end;
  uint64_t k = (uint64_t)p->model->classes;
  plan->needs = needs;
  status = agf_infer_shapes(p->model, p->s->config.height, p->s->config.width, p->shape, err);
  if (status != AGF_OK) return status;
  agf_find_live(p);
  agf_make_steps(p);
  agf_connect(p);
  end = agf_end(p);
  agf_plan_tensors(p);
  for (i = 0; i < plan->steps; i++) {
    agf_plan_deliveries(p, &p->step[i]);
    if (p->step[i].rules->plan) {
      status = p->step[i].rules->plan(p, &p->step[i], err);
      if (status != AGF_OK) return status;
    }
  }
  latent = agf_plan_in(p, &p->step[plan->steps - 1], 0);
  plan->logits = agf_buf(p, (k + AGF_OCG) * 4, 0, end);
  plan->logits_difference = agf_buf(p, (k + AGF_OCG) * 4, 0, end);
  plan->difference = agf_buf(p, p->buffer[latent->x].bytes, 0, end);
  if (latent->mask) plan->difference_mask = agf_buf(p, p->buffer[latent->mask].bytes, 0, end);
  plan->order = agf_buf(p, k * sizeof(int), 0, end);
  plan->order_difference = agf_buf(p, k * sizeof(int), 0, end);
  plan->softmax = agf_buf(p, k * 3 * sizeof(double), 0, end);
  plan->dz = agf_buf(p, (k + AGF_OCG) * 4, 0, end);
  plan->scratch_bytes = agf_align_up64(plan->scratch_bytes);
  plan->scratch = agf_buf(p, plan->scratch_bytes * (uint64_t)p->s->threads, 0, end);
  agf_plan_methods(p);
  if (p->out_of_buffers)
    return agf_fail(err, AGF_ERR_LIMIT, "the plan of %d nodes needs more than %d buffers", p->model->nodes, p->most_buffers);
  plan->arena_bytes = agf_place_all(p);
  if (plan->arena_bytes < AGF_TOO_MANY && plan->local && !(needs & AGF_NEEDS_LOCAL)) { /* in what is free anyway, or not at all */
    agf_buffer *b = &p->buffer[plan->local];
    uint64_t at;
    for (p->placed_count = 0, i = 1; i <= plan->buffers; i++)
      if (p->buffer[i].offset >= plan->stay_bytes && i != plan->local && !p->buffer[i].within) p->placed[p->placed_count++] = i;
    agf_sort(p->placed, p->placed_count, agf_lies_before, p->buffer);
    at = agf_free_place(p, b);
    if (at <= plan->arena_bytes && b->bytes <= plan->arena_bytes - at)
      b->offset = at;
    else
      plan->local = 0;
  }
  return AGF_OK;
}

/* MARK: threads ---------------------------------------------------------------------------------------------------------------
 * agf_parallel runs a task for every index of [0, n): workers draw indices from a shared counter, so who does which index is
 * open; no result depends on it. After each job the workers look out for the next one for some microseconds, because waking takes
 * longer than many a job, and then sleep. With the caller's parallel_for, its threads are the workers. */

typedef void agf_task(agf_session *s, const void *arg, int i, unsigned char *scratch);

typedef struct agf_job {
  agf_session *session;
  agf_task *task;
  const void *arg;
  int n, next;
} agf_job;

static int agf_draw(int *next) {
#if defined(__GNUC__)
  return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
#else
  return (*next)++;
#endif
}

static void agf_raise(unsigned *flags, unsigned bits) {
#if defined(__GNUC__)
  __atomic_fetch_or(flags, bits, __ATOMIC_RELAXED);
#else
  *flags |= bits;
#endif
}

static void agf_work(void *arg, int worker) {
  agf_job *j = (agf_job *)arg;
  agf_session *s = j->session;
  unsigned char *scratch;
  agf_fp_state fp;
  int i;
  if (worker < 0 || worker >= s->threads) return; /* the caller's parallel_for counts wrongly: such a worker has no scratch */
  scratch = (unsigned char *)agf_at(s, s->plan->scratch) + (size_t)worker * s->plan->scratch_bytes;
  fp = agf_fp_enter();
  while ((i = agf_draw(&j->next)) < j->n) j->task(s, j->arg, i, scratch);
  agf_fp_leave(fp);
}

static int agf_cores(void) {
#if defined(AGF_NO_THREADS)
  return 1;
#elif defined(_SC_NPROCESSORS_ONLN)
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n < 1 ? 1 : n > 256 ? 256 : (int)n;
#elif defined(_WIN32)
  return agf_imin(agf_imax(pthread_num_processors_np(), 1), 256); /* of MinGW-w64's pthreads */
#else
  return 1;
#endif
}

#ifndef AGF_NO_THREADS
struct agf_team {
  pthread_mutex_t mutex;
  pthread_cond_t wake, done;
  pthread_t *thread; /* [workers], in the arena */
  int workers;       /* besides the caller */
  int started;       /* threads that have taken their number */
  int round;         /* 0 and 1 in turn, with each job */
  int busy, stop;
  int looks; /* at a value that is about to change, before sleeping */
  agf_job *job;
#ifndef _WIN32
  pid_t process; /* whose threads they are */
#endif
};

/* Looks between jobs: 60 microseconds on Zen 5, where a look takes longest. */
enum { AGF_LOOKS = 2000 };

/* Looks out for *at to become `wanted`, for a while; now and then another program may have the core. Whoever changes *at holds the
 * mutex, which the caller takes next. */
static void agf_look_out(const agf_team *p, const int *at, int wanted) {
#if defined(__GNUC__)
  int i;
  for (i = 0; i < p->looks && __atomic_load_n(at, __ATOMIC_RELAXED) != wanted; i++) {
    if (i % 64 == 63) sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__ARM_ARCH_7A__)
    __asm__ volatile("yield");
#endif
  }
#else
  (void)p, (void)at, (void)wanted;
#endif
}

/* Changes what others look out for; with the mutex. */
static void agf_announce(int *at, int value) {
#if defined(__GNUC__)
  __atomic_store_n(at, value, __ATOMIC_RELAXED);
#else
  *at = value;
#endif
}

static void *agf_team_main(void *arg) {
  agf_team *p = (agf_team *)arg;
  int me, seen = 0;
  pthread_mutex_lock(&p->mutex);
  me = ++p->started;
  for (;;) {
    while (p->round == seen && !p->stop) pthread_cond_wait(&p->wake, &p->mutex);
    if (p->stop) break;
    seen = p->round;
    pthread_mutex_unlock(&p->mutex);
    agf_work(p->job, me);
    pthread_mutex_lock(&p->mutex);
    agf_announce(&p->busy, p->busy - 1);
    if (p->busy == 0) pthread_cond_signal(&p->done);
    pthread_mutex_unlock(&p->mutex);
    agf_look_out(p, &p->round, !seen);
    pthread_mutex_lock(&p->mutex);
  }
  pthread_mutex_unlock(&p->mutex);
  return NULL;
}

/* Whether this is the child of a fork(): it has the session's memory, but none of its threads, and what they held is held for ever. */
static int agf_team_left(const agf_session *s) {
#ifdef _WIN32
  (void)s;
  return 0;
#else
  return s->team && s->team->process != getpid();
#endif
}

static void agf_team_stop(agf_session *s) {
  agf_team *p = s->team;
  int i;
  if (!p || agf_team_left(s)) return;
  pthread_mutex_lock(&p->mutex);
  p->stop = 1;
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->mutex);
  for (i = 0; i < p->workers; i++) pthread_join(p->thread[i], NULL);
  pthread_cond_destroy(&p->wake);
  pthread_cond_destroy(&p->done);
  pthread_mutex_destroy(&p->mutex);
  s->team = NULL;
}

static size_t agf_team_bytes(int threads) { return agf_align_up(sizeof(agf_team)) + (size_t)threads * sizeof(pthread_t); }

static agf_status agf_team_start(agf_session *s, void *memory, agf_error *err) {
  agf_team *p = (agf_team *)memory;
  if (s->threads < 2 || s->config.parallel_for) return AGF_OK;
  memset(p, 0, sizeof *p);
  p->thread = (pthread_t *)(void *)((unsigned char *)memory + agf_align_up(sizeof *p));
  p->looks = s->threads <= agf_cores() ? AGF_LOOKS : 0; /* not on another's core */
  if (pthread_mutex_init(&p->mutex, NULL)) return agf_fail(err, AGF_ERR_MEMORY, "a mutex cannot be made");
  if (pthread_cond_init(&p->wake, NULL)) {
    pthread_mutex_destroy(&p->mutex);
    return agf_fail(err, AGF_ERR_MEMORY, "a condition variable cannot be made");
  }
  if (pthread_cond_init(&p->done, NULL)) {
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
    return agf_fail(err, AGF_ERR_MEMORY, "a condition variable cannot be made");
  }
#ifndef _WIN32
  p->process = getpid();
#endif
  s->team = p;
  while (p->workers < s->threads - 1) {
    if (pthread_create(&p->thread[p->workers], NULL, agf_team_main, p)) {
      agf_team_stop(s);
      return agf_fail(err, AGF_ERR_MEMORY, "thread %d of %d cannot be made", p->workers + 2, s->threads);
    }
    p->workers++;
  }
  return AGF_OK;
}

static void agf_team_run(agf_team *p, agf_job *job) {
  pthread_mutex_lock(&p->mutex);
  p->job = job;
  agf_announce(&p->busy, p->workers);
  agf_announce(&p->round, !p->round);
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->mutex);
  agf_work(job, 0);
  agf_look_out(p, &p->busy, 0);
  pthread_mutex_lock(&p->mutex);
  while (p->busy) pthread_cond_wait(&p->done, &p->mutex);
  pthread_mutex_unlock(&p->mutex);
}
#else
static int agf_team_left(const agf_session *s) {
  (void)s;
  return 0;
}
static void agf_team_stop(agf_session *s) { (void)s; }
static size_t agf_team_bytes(int threads) { return (size_t)threads; }
static agf_status agf_team_start(agf_session *s, void *memory, agf_error *err) {
  (void)s;
  (void)memory;
  (void)err;
  return AGF_OK;
}
#endif

static void agf_parallel(agf_session *s, int n, agf_task *task, const void *arg) {
  agf_job j;
  j.session = s;
  j.task = task;
  j.arg = arg;
  j.n = n;
  j.next = 0;
  if (n > 1 && s->threads > 1 && s->config.parallel_for) {
    s->config.parallel_for(s->config.parallel_ctx, s->threads, agf_work, &j);
    agf_work(&j, 0); /* what is left, where fewer workers came than were asked for */
    return;
  }
#ifndef AGF_NO_THREADS
  if (n > 1 && s->team) {
    agf_team_run(s->team, &j);
    return;
  }
#endif
  agf_work(&j, 0);
}

static double agf_now(void) {
#if defined(AGF_NO_CLOCK)
  return 0;
#elif defined(CLOCK_MONOTONIC)
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#else
  return (double)clock() / CLOCKS_PER_SEC;
#endif
}

/* MARK: rows and pieces -------------------------------------------------------------------------------------------------------
 * What the ops' tasks share: where a row of a tensor lies, how a tensor is cut into tasks, weights as floats, channels copied. */

enum { AGF_BAD_VALUE = 1, AGF_BAD_OUTSIDE = 2 };

/* Row r of block b of an activation, and of an array [cb][h][w][16] or its masks. */
static inline float *agf_row_x(const agf_session *s, const agf_tensor *t, int b, int r) {
  return agf_x(s, t) + b * t->xb + r * t->xr;
}
static inline size_t agf_row_at(const agf_tensor *t, int b, int r) { return ((size_t)b * (size_t)t->h + (size_t)r) * (size_t)t->w; }
static inline float *agf_row_of(float *p, const agf_tensor *t, int b, int r) { return p ? p + agf_row_at(t, b, r) * AGF_CB : NULL; }
static inline uint16_t *agf_row_mask(const agf_session *s, const agf_tensor *t, int b, int r) {
  return t->mask ? (uint16_t *)agf_at(s, t->mask) + agf_row_at(t, b, r) : NULL;
}

static inline ptrdiff_t agf_plane(const agf_tensor *t) { return (ptrdiff_t)t->h * t->w * AGF_CB; }

/* Where every element stands alone, a task is some rows of one block, as they follow one another in memory. */
typedef struct agf_piece {
  int b, r, end; /* rows [r, end) of block b */
} agf_piece;

static int agf_piece_rows(const agf_tensor *t) { return agf_imax(1, 32 * 1024 / (t->w * AGF_CB * (int)sizeof(float))); }
static int agf_pieces(const agf_tensor *t) { return t->cb * agf_ceil_div(t->h, agf_piece_rows(t)); }

static agf_piece agf_piece_at(const agf_tensor *t, int i) {
  int rows = agf_piece_rows(t), each = agf_ceil_div(t->h, rows);
  agf_piece p;
  p.b = i / each;
  p.r = i % each * rows;
  p.end = agf_imin(p.r + rows, t->h);
  return p;
}

/* Weights [at, at + n) as floats, filtered. */
static void agf_load_weights(agf_session *s, const agf_weight *w, size_t at, size_t n, int filter, float *to) {
  size_t i;
  if (w->type == AGF_F32)
    memcpy(to, (const float *)(const void *)w->data + at, n * sizeof *to);
  else
    s->k.widen((const uint16_t *)(const void *)w->data + at, to, n);
  for (i = 0; filter && i < n; i++) to[i] = agf_filtered(to[i], filter);
}

/* A vector tensor's elements into floats, -0 made +0. */
static void agf_load_vector(const agf_weight *w, float *to) {
  int i;
  for (i = 0; i < w->dim[0]; i++) to[i] = agf_weight_at(w, (size_t)i) + 0.0f;
}

/* Channels [c0, c0 + count) of `from` to [d0, ...) of `to`; row pointers of block 0, blocks fb and tb floats apart. */
static void agf_copy_channels(const float *from, ptrdiff_t fb, int c0, float *to, ptrdiff_t tb, int d0, int count, int n) {
  int p, i;
  while (count > 0) {
    int fl = c0 % AGF_CB, tl = d0 % AGF_CB, lanes = agf_imin(count, AGF_CB - agf_imax(fl, tl));
    const float *f = from + c0 / AGF_CB * fb + fl;
    float *t = to + d0 / AGF_CB * tb + tl;
    if (lanes == AGF_CB)
      memcpy(t, f, (size_t)n * AGF_CB * sizeof(float));
    else
      for (p = 0; p < n; p++)
        for (i = 0; i < lanes; i++) t[p * AGF_CB + i] = f[p * AGF_CB + i];
    c0 += lanes;
    d0 += lanes;
    count -= lanes;
  }
}

/* Lanes beyond a tensor's last channel, in a row of an array [cb][..][16]; NULL: there is no array. */
static void agf_clear_lanes(float *row, ptrdiff_t block, int channels, int n) {
  int p, from = channels % AGF_CB;
  if (!from || !row) return;
  row += channels / AGF_CB * block;
  for (p = 0; p < n; p++) memset(row + p * AGF_CB + from, 0, (size_t)(AGF_CB - from) * sizeof(float));
}

/* A step's forward pass on its own tensors. */
static agf_flow agf_flow_of(const agf_session *s, const agf_step *st, int want_d) {
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  agf_flow f;
  f.x = agf_x(s, ti);
  f.x_mask = (const uint16_t *)agf_at(s, ti->mask);
  f.y = agf_x(s, to);
  f.y_mask = (uint16_t *)agf_at(s, to->mask);
  f.act = st->act;
  f.scale = agf_floats(s, st->scale);
  f.bias = agf_floats(s, st->bias);
  f.want_d = want_d;
  return f;
}

/* A step's forward pass, cut into tasks of rows or pieces. */
typedef struct agf_forward_job {
  const agf_step *st;
  const agf_flow *flow;
} agf_forward_job;

static void agf_rows_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_forward_job *j = (const agf_forward_job *)arg;
  agf_piece p = agf_piece_at(agf_out(s, j->st), i);
  j->st->rules->rows(s, j->st, j->flow, p.b, p.r, p.end, scratch);
}

/* The forward pass of a step that makes its rows one by one. */
static void agf_rows_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  agf_forward_job j;
  j.st = st;
  j.flow = f;
  agf_parallel(s, agf_pieces(agf_out(s, st)), agf_rows_task, &j);
}

/* Shapes, signs and a convolution's or linear layer's bias, as several ops have them. */
static agf_status agf_same_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  (void)in, (void)out, (void)err;
  return AGF_OK;
}

static agf_sign agf_sign_any(const agf_node *n) { return (void)n, AGF_SIGN_ANY; }
static agf_sign agf_sign_of_inputs(const agf_node *n) { return (void)n, AGF_SIGN_INPUTS; }
static agf_sign agf_sign_rectified(const agf_node *n) { return (void)n, AGF_SIGN_RECTIFIED; }

static void agf_fill_bias(agf_session *s, const agf_step *st) {
  const agf_node *n = &s->model->node[st->node];
  agf_clear_buffer(s, st->bias);
  if (n->b >= 0) agf_load_vector(&s->model->weight[n->b], agf_floats(s, st->bias));
}

/* MARK: the way back ----------------------------------------------------------------------------------------------------------
 * What the ops share on the way from the logits to the image. A step's rule turns the (cam, g) of its output into one (cam, g) for each
 * of its inputs, and delivers those to the input tensors. A tensor that one step reads has its cam and g with that one delivery; with
 * several readers the deliveries are merged as they come, first, next and last, into the tensor's own arrays (agf-spec, "A tensor x
 * read by two or more nodes"). When all have come, the tensor's maker takes its turn. */

/* Where a step writes the cam and g of its input j: into the tensor's own arrays if it is the first to deliver there, else into the step's
 * own, from where they are merged. g NULL: nobody wants it. */
static void agf_destination(agf_session *s, const agf_explanation *e, const agf_step *st, int j, float **cam, float **g) {
  const agf_tensor *t = agf_in(s, st, j);
  int own = e->arrival[s->plan->in[st->in + j]].delivered == 0;
  *cam = agf_floats(s, own ? t->cam : st->tmp_cam);
  *g = t->needs_g ? agf_floats(s, own ? t->g : st->tmp_g) : st->uses_g != AGF_G_NEVER ? agf_floats(s, st->tmp_g) : NULL;
}

/* The cam and g of one input of a step, on their way into the tensor's. */
typedef struct agf_delivery {
  const agf_tensor *t;
  float *cam, *g;  /* as agf_destination has them */
  int first, last; /* of the tensor's readers */
  int wants_g;
} agf_delivery;

/* Begins the delivery to an input, whose rows then go through agf_merge_row. */
static agf_delivery agf_begin_delivery(agf_session *s, agf_explanation *e, const agf_step *st, int slot) {
  agf_arrival *a = &e->arrival[s->plan->in[st->in + slot]];
  agf_delivery d;
  agf_destination(s, e, st, slot, &d.cam, &d.g);
  d.t = agf_in(s, st, slot);
  d.first = a->delivered++ == 0;
  d.last = a->delivered == d.t->readers;
  d.wants_g = a->wants_g;
  return d;
}

/* Merges row r of block b, which has just been written to cam and g: cam = x * sum_i sdiv(cam_i, x), g = sum g_i over the readers
 * (agf-spec); with one reader nothing is to be done. cam and g are the tensor's own row at the first delivery, any place at later ones. */
static void agf_merge_row(agf_session *s, const agf_delivery *d, int b, int r, const float *cam, const float *g) {
  const agf_tensor *t = d->t;
  float *own = agf_row_of(agf_floats(s, t->cam), t, b, r), *x = agf_row_x(s, t, b, r);
  if (t->readers == 1) return;
  if (d->first)
    s->k.merge_first(own, x, t->w);
  else
    s->k.merge_next(own, cam, x, agf_row_of(agf_floats(s, t->g), t, b, r), d->wants_g ? g : NULL, t->w);
  if (d->last) s->k.merge_last(own, x, t->w);
}

static void agf_merge_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_delivery *d = (const agf_delivery *)arg;
  agf_piece p = agf_piece_at(d->t, i);
  (void)scratch;
  for (; p.r < p.end; p.r++) agf_merge_row(s, d, p.b, p.r, agf_row_of(d->cam, d->t, p.b, p.r), agf_row_of(d->g, d->t, p.b, p.r));
}

/* The delivery to an input in one go, for rules that do not come by their rows last. */
static void agf_deliver(agf_session *s, agf_explanation *e, const agf_step *st, int slot) {
  agf_delivery d = agf_begin_delivery(s, e, st, slot);
  if (d.t->readers > 1) agf_parallel(s, agf_pieces(d.t), agf_merge_task, &d);
}

typedef struct agf_times_job {
  const agf_tensor *t;
  const float *x; /* laid out as t's activation, element (0, 0, 0) */
  float *out;     /* [cb][h][w][16], multiplied in place */
} agf_times_job;

static void agf_times_x_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_times_job *j = (const agf_times_job *)arg;
  const agf_tensor *t = j->t;
  int b;
  (void)scratch;
  for (b = 0; b < t->cb; b++) s->k.mul(agf_row_of(j->out, t, b, r), j->x + b * t->xb + r * t->xr, t->w);
}

/* (cam, g) of tensor t from one place to another. */
typedef struct agf_copy_job {
  const agf_tensor *t;
  const float *cam, *g;
  float *out, *out_g;           /* out_g NULL: no g is wanted */
  const agf_delivery *delivery; /* what its rows end as, NULL: they stay as they are */
} agf_copy_job;

static void agf_copy_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_copy_job *j = (const agf_copy_job *)arg;
  const agf_tensor *t = j->t;
  int b;
  (void)scratch;
  for (b = 0; b < t->cb; b++) {
    size_t at = agf_row_at(t, b, r) * AGF_CB, bytes = (size_t)t->w * AGF_CB * sizeof(float);
    memcpy(j->out + at, j->cam + at, bytes);
    if (j->out_g) memcpy(j->out_g + at, j->g + at, bytes);
    if (j->delivery) agf_merge_row(s, j->delivery, b, r, j->out + at, j->out_g ? j->out_g + at : NULL);
  }
}

static void agf_observe(agf_session *s, const agf_explanation *e, const agf_tensor *t, int node, const float *cam, const float *g,
                        ptrdiff_t pixel) {
  agf_observation o;
  o.node = node;
  o.class_index = e->target;
  o.shape[0] = t->c;
  o.shape[1] = t->h;
  o.shape[2] = t->w;
  o.cam = cam;
  o.g = g;
  o.pixel_stride = pixel;
  o.row_stride = pixel * t->w;
  o.block_stride = o.row_stride * t->h;
  s->config.observer(s->config.observer_ctx, &o);
}

/* The g at a step's output, where a rule below wants it; else NULL. */
static float *agf_wanted_g(const agf_session *s, const agf_explanation *e, const agf_step *st) {
  return e->arrival[st->out].wants_g ? agf_floats(s, agf_out(s, st)->g) : NULL;
}

/* All readers of a step's output have delivered: its cam and g are final. */
static void agf_finish_output(agf_session *s, const agf_explanation *e, const agf_step *st) {
  const agf_tensor *t = agf_out(s, st);
  if (s->config.observer) agf_observe(s, e, t, st->last, agf_floats(s, t->cam), agf_wanted_g(s, e, st), AGF_CB);
}

/* Likewise the image's. */
static void agf_finish_image(agf_session *s, const agf_explanation *e) {
  const agf_tensor *t = &s->plan->tensor[0];
  if (s->config.observer)
    agf_observe(s, e, t, -1, agf_floats(s, t->cam), e->arrival[0].wants_g ? agf_floats(s, t->g) : NULL, AGF_CB);
}

/* Whether the options leave nothing of R but A: no gradient is read then. */
static int agf_bare(unsigned options) {
  const unsigned none = AGF_OPT_NO_M | AGF_OPT_NO_FX | AGF_OPT_NO_FDX;
  return (options & none) == none && !(options & AGF_OPT_FX_GRADCAM);
}

typedef struct agf_slope_job {
  const agf_tensor *t;
  agf_act act;
  const float *scale; /* NULL: 1 */
  const float *g;
  float *out;     /* may be g */
  uint16_t *mask; /* of out; NULL: not wanted */
} agf_slope_job;

static void agf_slope_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_slope_job *j = (const agf_slope_job *)arg;
  const agf_tensor *t = j->t;
  int b, p, l;
  (void)scratch;
  for (b = 0; b < t->cb; b++) {
    const float *y = agf_row_x(s, t, b, r), *scale = j->scale ? j->scale + b * AGF_CB : NULL;
    const float *g = j->g + agf_row_at(t, b, r) * AGF_CB;
    float *out = agf_row_of(j->out, t, b, r);
    for (p = 0; p < t->w; p++, y += AGF_CB, g += AGF_CB, out += AGF_CB)
      for (l = 0; l < AGF_CB; l++) {
        float v = g[l];
        if (j->act != AGF_ACT_NONE && (!(y[l] > 0) || (j->act == AGF_ACT_RELU6 && !(y[l] < 6.0f)))) v = 0.0f;
        if (scale) v *= scale[l];
        out[l] = v;
      }
    if (j->mask) s->k.nonzeros(agf_row_of(j->out, t, b, r), t->w, j->mask + agf_row_at(t, b, r));
  }
}

/* The gradient in t's cam array before an activation and a scale (NULL: none), into `out` with its mask (NULL: not wanted). */
static void agf_slope(agf_session *s, const agf_tensor *t, agf_act act, const float *scale, float *out, uint16_t *mask) {
  agf_slope_job j;
  j.t = t;
  j.g = agf_floats(s, t->cam);
  j.out = out;
  j.act = act;
  j.scale = scale;
  j.mask = mask;
  agf_parallel(s, t->h, agf_slope_task, &j);
}

/* A step's gradient, which lies in its output's cam array, before its activation (`act`, NONE where that is done) and BatchNorm: in the
 * step's right-hand side with a mask where its adjoint reads one, else in place. Returns where it is. */
static const float *agf_before_tail(agf_session *s, const agf_step *st, agf_act act) {
  const agf_tensor *t = agf_out(s, st);
  float *out = agf_floats(s, st->rhs_mask ? st->rhs : t->cam);
  uint16_t *mask = (uint16_t *)agf_at(s, st->rhs_mask);
  if (act != AGF_ACT_NONE || st->scale || mask) agf_slope(s, t, act, agf_floats(s, st->scale), out, mask);
  return out;
}

typedef struct agf_sum_job {
  const agf_tensor *t;
  const float *from;
  float *into; /* added to */
} agf_sum_job;

static void agf_sum_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_sum_job *j = (const agf_sum_job *)arg;
  const agf_tensor *t = j->t;
  int b, i;
  (void)s;
  (void)scratch;
  for (b = 0; b < t->cb; b++) {
    size_t at = agf_row_at(t, b, r) * AGF_CB;
    for (i = 0; i < t->w * AGF_CB; i++) j->into[at + (size_t)i] += j->from[at + (size_t)i];
  }
}

/* Input `slot` of a step has its gradient: a tensor's own is the sum over its readers. */
static void agf_gradient_deliver(agf_session *s, agf_explanation *e, const agf_step *st, int slot) {
  agf_sum_job j;
  if (e->arrival[s->plan->in[st->in + slot]].delivered++ == 0) return;
  j.t = agf_in(s, st, slot);
  j.from = agf_floats(s, st->tmp_cam);
  j.into = agf_floats(s, j.t->cam);
  agf_parallel(s, j.t->h, agf_sum_task, &j);
}

/* From (cam, g) at the output of a step to those at one of its inputs; either may be NULL: it is not wanted. */
typedef struct agf_back_job {
  const agf_step *st;
  const float *cam, *g;
  float *out, *out_g;
  const agf_delivery *delivery; /* what the rows end as, NULL: they stay as they are */
} agf_back_job;

/* The job of a rule: (cam, g) of the step's output, delivered to input `slot` as *d. */
static agf_back_job agf_rule_job(agf_session *s, const agf_step *st, agf_explanation *e, int slot, agf_delivery *d) {
  agf_back_job j;
  *d = agf_begin_delivery(s, e, st, slot);
  j.st = st;
  j.cam = agf_floats(s, agf_out(s, st)->cam);
  j.g = agf_wanted_g(s, e, st);
  j.out = d->cam;
  j.out_g = j.g ? d->g : NULL;
  j.delivery = d;
  return j;
}

/* The job of a gradient. */
static agf_back_job agf_gradient_job(const agf_step *st, const float *g, float *out) {
  agf_back_job j;
  memset(&j, 0, sizeof j);
  j.st = st;
  j.g = g;
  j.out_g = out;
  return j;
}

/* The activation and BatchNorm behind a step, in place of its output's cam and g. */
typedef struct agf_tail_job {
  const agf_tensor *t; /* the step's output */
  float *cam, *g;
  const float *scale;
  agf_act act;
} agf_tail_job;

static void agf_tail_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_tail_job *j = (const agf_tail_job *)arg;
  const agf_tensor *t = j->t;
  agf_piece p = agf_piece_at(t, i);
  (void)scratch;
  for (; p.r < p.end; p.r++)
    s->k.act_back(agf_row_of(j->cam, t, p.b, p.r), agf_row_of(j->g, t, p.b, p.r), agf_row_x(s, t, p.b, p.r),
                  j->scale ? j->scale + p.b * AGF_CB : NULL, j->act, t->w);
}

static void agf_tail(agf_session *s, const agf_explanation *e, const agf_step *st) {
  const agf_tensor *t = agf_out(s, st);
  agf_tail_job j;
  j.t = t;
  j.cam = agf_floats(s, t->cam);
  j.g = agf_wanted_g(s, e, st);
  j.scale = agf_floats(s, st->scale);
  j.act = st->act;
  if (j.act != AGF_ACT_NONE || j.scale) agf_parallel(s, agf_pieces(t), agf_tail_task, &j);
}

/* For steps of one input: what came to the output, as it is, to the input. */
static void agf_pass_on(agf_session *s, agf_explanation *e, const agf_step *st) {
  agf_delivery d = agf_begin_delivery(s, e, st, 0);
  agf_copy_job j;
  j.t = agf_out(s, st);
  j.cam = agf_floats(s, j.t->cam);
  j.g = agf_wanted_g(s, e, st);
  j.out = d.cam;
  j.out_g = j.g ? d.g : NULL;
  j.delivery = &d;
  agf_parallel(s, j.t->h, agf_copy_task, &j);
}

/* The rule of what is nothing but an activation or a BatchNorm. */
static void agf_tail_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  agf_tail(s, e, st);
  agf_pass_on(s, e, st);
}

/* The gradient and the relevance of what hands them to its inputs as they are. */
static void agf_pass_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  agf_copy_job j;
  (void)slot;
  memset(&j, 0, sizeof j);
  j.t = agf_out(s, st);
  j.cam = g;
  j.out = out;
  agf_parallel(s, j.t->h, agf_copy_task, &j);
}

#ifndef AGF_NO_METHODS
static void agf_pass_relevance(agf_session *s, const agf_step *st, int slot, int alpha, const float *R, float *out) {
  (void)alpha;
  agf_pass_gradient(s, st, slot, R, out);
}
#endif

#ifndef AGF_NO_METHODS

/* One of the products that make up the alpha-beta rule: part x+ or x- with filter w+ or w-. Those of x- are all 0 where the input
 * is never negative. */
typedef struct agf_lrp_term {
  int negative; /* part x- */
  int filter;
  float factor;
} agf_lrp_term;

/* alpha f(w+, w-) - (alpha - 1) f(w-, w+), ordered by the part of x. Returns how many terms there are. */
static int agf_lrp_terms(int alpha, int is_signed, agf_lrp_term *terms) {
  int negative, other, n = 0;
  for (negative = 0; negative <= is_signed; negative++)
    for (other = 0; other < alpha; other++, n++) {
      terms[n].negative = negative;
      terms[n].filter = negative == other ? 1 : 2;
      terms[n].factor = other ? -1.0f : (float)alpha;
    }
  return n;
}

#endif

/* MARK: convolution driver ----------------------------------------------------------------------------------------------------
 * The loops around the convolution kernels, forward and adjoint. A task holds the accumulators of some rows of one group of
 * outputs; it walks over input blocks and kernel rows, so that every output is the one chain (block, row, column, channel) that
 * kernels.h promises, and hands finished rows, 16 channels at a time, to the job's epilogue. */

enum { AGF_ACC_BYTES = 256 * 1024 };      /* accumulators of a tile: they share a core's second-level cache with a weight panel */
enum { AGF_PANEL_BYTES = 32 * 1024 };     /* weights of a call on several input blocks: they stay in the first-level cache */
enum { AGF_SPAN = 32 };                   /* pixels that pass through a buffer on the stack at a time */
enum { AGF_BAND_BYTES = 128 * 1024 };     /* of a chain's rows, which the next step finds in the second-level cache */
enum { AGF_WINDOW_BYTES = 128 * 1024 };   /* what is made as it is needed stays in the second-level cache until then */
enum { AGF_DENSE_ACC_BYTES = 24 * 1024 }; /* sums of dense kernels that the first-level cache keeps for the epilogue */
enum { AGF_DENSE_BYTES = 72 * 1024 };     /* weights that the dense kernel reads for each few pixels, from the second-level cache */

/* A convolution or adjoint along one axis, in the terms of agf_conv_row. */
typedef struct agf_axis {
  int k, down, up, dilation, pad, in, out;
} agf_axis;

static agf_axis agf_conv_axis(const agf_node *n, int axis, int adjoint, int in, int out) {
  agf_axis a;
  a.k = n->kernel[axis];
  a.dilation = n->dilation[axis];
  a.down = adjoint ? 1 : n->stride[axis];
  a.up = adjoint ? n->stride[axis] : 1;
  a.pad = adjoint ? (a.k - 1) * a.dilation - n->pad[axis] : n->pad[axis];
  a.in = in;
  a.out = out;
  return a;
}

static agf_conv_shape agf_shape_of(const agf_axis *a) {
  if (a->k == 1) return AGF_SHAPE_1;
  if ((a->k != 3 && a->k != 7) || a->dilation != 1 || a->down > 2 || a->up > 2) return AGF_SHAPE_ANY;
  if (a->pad - a->k + 1 < -AGF_MARGIN * a->down || (a->in - 1) * a->up + a->pad >= (a->out + AGF_MARGIN) * a->down)
    return AGF_SHAPE_ANY;
  if (a->k == 7) return a->up == 2 ? AGF_SHAPE_7_UP : AGF_SHAPE_ANY;
  return a->down == 2 ? AGF_SHAPE_3_DOWN : a->up == 2 ? AGF_SHAPE_3_UP : AGF_SHAPE_3;
}

/* How a convolution that makes co channels is cut into tasks: `group` outputs at a time, accumulators for `lanes` of them;
 * `blocks` input blocks go into one call: each is a stream to prefetch, and more than four at a time come late (measured: 1.9
 * times the time with twelve). */
typedef struct agf_conv_cut {
  agf_conv_shape shape;
  int group, lanes, blocks;
  int panels;     /* 2: the kernels read |W| from a panel of its own */
  size_t acc_row; /* floats of one row of accumulators */
} agf_conv_cut;

static agf_conv_cut agf_cut(const agf_session *s, agf_rhs kind, const agf_axis *rows, const agf_axis *columns, int co) {
  agf_conv_cut c;
  c.shape = agf_shape_of(columns);
  if (!s->k.conv[c.shape][kind][0].row) c.shape = AGF_SHAPE_ANY;
  c.group = agf_imax(s->k.conv[c.shape][kind][0].outputs, AGF_OCG);
  c.lanes = agf_imin(c.group, agf_ceil_div(co, AGF_OCG) * AGF_OCG);
  c.panels = 1 + (s->k.magnitudes && agf_rhs_magnitudes(kind));
  c.blocks = rows->k == 1 && columns->k == 1 ? agf_imin(agf_imax(AGF_PANEL_BYTES / (c.panels * AGF_CB * 4 * c.lanes), 1), 4) : 1;
  c.acc_row = ((size_t)columns->out + 2 * AGF_MARGIN) * (size_t)agf_rhs_out(kind) * (size_t)c.lanes;
  return c;
}

/* Rows of outputs that a convolution task holds. */
static int agf_tile_rows(const agf_conv_cut *c, int rows) {
  size_t n = AGF_ACC_BYTES / (c->acc_row * sizeof(float));
  return n < 1 ? 1 : n > (size_t)rows ? rows : (int)n;
}

typedef struct agf_conv_job agf_conv_job;

/* What becomes of the sums: row `row` of output block `block`, right-hand side j at acc + j * rs, pixels `as` apart. */
typedef void agf_epilogue(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as, ptrdiff_t rs);

/* Makes row `row` of block `block` of what a convolution reads, as it lies there, and its mask (NULL: not wanted). */
typedef void agf_prologue(agf_session *s, const agf_conv_job *j, int block, int row, float *to, uint16_t *mask);

/* One walk over a convolution's weights, forward or as its adjoint. */
struct agf_conv_job {
  const agf_step *st;
  agf_rhs kind;
  int adjoint;
  int filter;           /* 0 w, 1 w+, 2 w- */
  int packed;           /* the box rule's w, w+ and w- side by side: each makes so many outputs; 0: one filter */
  const float *x;       /* what it reads, element (0, 0, 0); not read where `make` makes it */
  ptrdiff_t xp, xr, xb; /* floats from pixel to pixel, row to row, block to block */
  const uint16_t *mask; /* [blocks][hi][wi] */
  int ci, hi, wi;       /* channels, rows and pixels that it reads */
  int co, ho, wo;       /* and makes */
  agf_epilogue *done;
  const void *out;    /* the epilogue's own */
  const float *y;     /* NULL, or where it writes first, element (0, 0, 0): asked for while the sums are formed */
  ptrdiff_t yr, yb;   /* floats from row to row, block to block */
  agf_prologue *make; /* NULL: x lies in memory; else rows are made as they are needed, in a window (agf_conv_window) */
  const void *from;   /* the prologue's own */
  size_t window;      /* bytes of a task's scratch before the window */
  agf_axis rows, columns;
  agf_conv_cut cut;
  int th, tiles; /* rows of a tile, tiles of an output group */
  int joined; /* output pixel i is made of input pixel i alone, and no border lies between rows: a tile is one row to the kernels */
};

/* Where element [oc][ic][kr][t] of an ungrouped convolution's weights with ci inputs is stored. */
static inline size_t agf_conv_index(const agf_node *n, int ci, int oc, int ic, int kr, int t) {
  int panels = agf_ceil_div(n->channels, AGF_OCG), b = ic / AGF_CB, lanes = agf_imin(AGF_CB, ci - b * AGF_CB);
  size_t block = (size_t)b * AGF_CB * (size_t)n->kernel[0] * (size_t)n->kernel[1] * (size_t)panels * AGF_OCG;
  return block +
         ((((size_t)kr * (size_t)panels + (size_t)(oc / AGF_OCG)) * (size_t)lanes + (size_t)(ic % AGF_CB)) * (size_t)n->kernel[1] +
          (size_t)t) *
             AGF_OCG +
         (size_t)(oc % AGF_OCG);
}

/* The place of a convolution's weight, grouped or not. Grouped: [oc block][ic block][kh][kw][ic][16]. */
static inline size_t agf_weight_index(const agf_node *n, int ci, int oc, int ic, int kr, int t) {
  int b = ic / AGF_CB, lanes = agf_imin(AGF_CB, ci - b * AGF_CB);
  size_t block;
  if (n->groups == 1) return agf_conv_index(n, ci, oc, ic, kr, t);
  block = ((size_t)(oc / AGF_CB) * (size_t)ci + (size_t)b * AGF_CB) * (size_t)n->kernel[0] * (size_t)n->kernel[1];
  return (block + ((size_t)kr * (size_t)n->kernel[1] + (size_t)t) * (size_t)lanes + (size_t)(ic % AGF_CB)) * AGF_CB +
         (size_t)(oc % AGF_CB);
}

/* Panels of 32 outputs that a call for the outputs from `first` on reads. */
static inline int agf_panel_count(const agf_conv_job *j, int first) {
  return agf_imin(j->cut.lanes / AGF_OCG, agf_ceil_div(j->co - first, AGF_OCG));
}

/* Where output block b of a convolution begins, from where output 0 does; `rows`: lanes and taps of its panels. */
AGF_INLINE size_t agf_adjoint_index(size_t at, int rows, int b) {
  return at + (size_t)(b / 2) * (size_t)rows * AGF_OCG + (size_t)(b % 2) * AGF_CB;
}

AGF_FAST_BEGIN
/* The panels of kernel row kr for the outputs from `first` on and `blocks` input blocks from b on, as agf_conv_row reads them.
 * Forward f32 weights are used where they lie if they fill their block; others are widened, filled up or, for adjoints, transposed
 * and reversed into `scratch`. *wb receives the distance of blocks. */
static const float *agf_panels(agf_session *s, const agf_conv_job *j, int b, int blocks, int kr, int first, float *scratch,
                               ptrdiff_t *wb) {
  const agf_node *n = &s->model->node[j->st->node];
  const agf_weight *w = &s->model->weight[n->w];
  const float *f32 = (const float *)(const void *)w->data;
  const uint16_t *f16 = (const uint16_t *)(const void *)w->data;
  int kw = n->kernel[1], count = agf_panel_count(j, first), k, p, o, i, t, f;
  size_t panel = (size_t)AGF_CB * (size_t)kw * AGF_OCG;
  *wb = (ptrdiff_t)panel * count;
  if (!j->adjoint) {
    int lanes = agf_imin(AGF_CB, j->ci - b * AGF_CB);
    size_t at = agf_conv_index(n, j->ci, first, b * AGF_CB, kr, 0), size = (size_t)lanes * (size_t)kw * AGF_OCG;
    size_t next = agf_conv_index(n, j->ci, 0, AGF_CB, 0, 0);
    if (w->type == AGF_F32 && lanes == AGF_CB && !j->filter) {
      *wb = (ptrdiff_t)next;
      return f32 + at;
    }
    for (k = 0; k < blocks; k++)
      for (p = 0; p < count; p++) {
        float *to = scratch + (size_t)(k * count + p) * panel;
        size_t from = at + (size_t)k * next + (size_t)p * size;
        agf_load_weights(s, w, from, size, j->filter, to);
      }
    return scratch;
  }
  /* lane o of the input block is output channel 16 b + o of the convolution, output l of a panel its input channel */
  kr = n->kernel[0] - 1 - kr;
  if (first + count * AGF_OCG > j->co) memset(scratch, 0, (size_t)(blocks * count) * panel * sizeof(float));
  if (j->packed) { /* the box rule's w, w+ and w- side by side */
    for (k = 0; k < blocks; k++) {
      size_t at = agf_conv_index(n, j->packed, (b + k) * AGF_CB, 0, kr, 0);
      for (i = 0; i < j->packed; i++)
        for (t = 0; t < kw; t++, at += AGF_OCG) {
          float v[AGF_CB], *to = scratch + (size_t)k * panel + (kw - 1 - t) * AGF_OCG + i;
          agf_load_weights(s, w, at, AGF_CB, 0, v);
          for (o = 0; o < AGF_CB; o++, to += kw * AGF_OCG)
            for (f = 0; f < 3; f++) to[f * j->packed] = agf_filtered(v[o], f);
        }
    }
    return scratch;
  }
  for (p = 0; p < 2 * count; p++) { /* 16 inputs of the convolution at a time */
    int ic = first + p * AGF_CB, lanes = agf_imin(AGF_CB, j->co - ic);
    size_t at = agf_conv_index(n, j->co, 0, ic, kr, 0);
    for (k = 0; lanes > 0 && k < blocks; k++) {
      size_t from = agf_adjoint_index(at, lanes * kw, b + k);
      float *to = scratch + (size_t)(k * count + p / 2) * panel + (kw - 1) * AGF_OCG + p % 2 * AGF_CB;
      for (t = 0; t < kw; t++, from += AGF_OCG, to -= AGF_OCG) {
        if (w->type == AGF_F32) {
          s->k.transpose(f32 + from, (ptrdiff_t)kw * AGF_OCG, lanes, to, (ptrdiff_t)kw * AGF_OCG);
        } else {
          float wide[AGF_CB * AGF_CB];
          for (i = 0; i < lanes; i++) s->k.widen(f16 + from + (size_t)i * (size_t)kw * AGF_OCG, wide + i * AGF_CB, AGF_CB);
          s->k.transpose(wide, AGF_CB, lanes, to, (ptrdiff_t)kw * AGF_OCG);
        }
      }
    }
  }
  for (i = 0; j->filter && i < blocks * count * (int)panel; i++) scratch[i] = agf_filtered(scratch[i], j->filter);
  return scratch;
}

#if defined(__GNUC__)
#define AGF_PREFETCHES static inline __attribute__((always_inline))
#else
#define AGF_PREFETCHES static inline
#endif

/* Asks for the weights that agf_panels reads with these arguments: they come from memory while other ones are worked on. Inline,
 * because gcc may drop calls of a function that does nothing but prefetch. */
AGF_PREFETCHES void agf_panels_ahead(const agf_session *s, const agf_conv_job *j, int b, int blocks, int kr, int first) {
#if defined(__GNUC__)
  const agf_node *n = &s->model->node[j->st->node];
  const agf_weight *w = &s->model->weight[n->w];
  size_t element = w->type == AGF_F32 ? 4 : 2, i, line = 64 / element;
  const char *data = (const char *)w->data;
  int count = agf_panel_count(j, first), k, p;
  for (k = 0; k < blocks && !j->adjoint; k++) {
    size_t at = agf_conv_index(n, j->ci, first, (b + k) * AGF_CB, kr, 0);
    size_t size = (size_t)count * (size_t)agf_imin(AGF_CB, j->ci - (b + k) * AGF_CB) * (size_t)n->kernel[1] * AGF_OCG;
    for (i = 0; i < size; i += line) __builtin_prefetch(data + (at + i) * element, 0, 2);
  }
  for (p = 0; p < 2 * count && first + p * AGF_CB < j->co && j->adjoint; p++) {
    int rows = agf_imin(AGF_CB, j->co - first - p * AGF_CB) * n->kernel[1];
    size_t at = agf_conv_index(n, j->co, 0, first + p * AGF_CB, n->kernel[0] - 1 - kr, 0);
    for (k = 0; k < blocks; k++) {
      const char *from = data + agf_adjoint_index(at, rows, b + k) * element;
      for (i = 0; i < (size_t)rows; i++) __builtin_prefetch(from + i * AGF_OCG * element, 0, 2);
    }
  }
#else
  (void)s, (void)j, (void)b, (void)blocks, (void)kr, (void)first;
#endif
}

/* |w| of agf_panels, behind it in `scratch`. *wab receives the distance of blocks. */
static const float *agf_magnitudes(const agf_conv_job *j, const float *w, ptrdiff_t wb, int blocks, int first, float *scratch,
                                   ptrdiff_t *wab) {
  size_t panel = (size_t)AGF_CB * (size_t)j->columns.k * AGF_OCG, size = panel * (size_t)agf_panel_count(j, first), i;
  float *to = scratch + (size_t)j->cut.blocks * (size_t)(j->cut.lanes / AGF_OCG) * panel;
  int k, l;
  *wab = (ptrdiff_t)size;
  for (k = 0; k < blocks; k++)
    for (i = 0; i < size; i += AGF_OCG)
      for (l = 0; l < AGF_OCG; l++) to[(size_t)k * size + i + (size_t)l] = fabsf(w[k * wb + (ptrdiff_t)i + l]);
  return to;
}

/* Input row that output row r meets under kernel row kr, or -1. */
static inline int agf_input_row(const agf_axis *a, int r, int kr) {
  return agf_meets(r, kr, a->down, a->up, a->dilation, a->pad, a->in);
}

static inline unsigned agf_popcount64(uint64_t v) {
  v -= v >> 1 & UINT64_C(0x5555555555555555);
  v = (v & UINT64_C(0x3333333333333333)) + (v >> 2 & UINT64_C(0x3333333333333333));
  v = (v + (v >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
  return (unsigned)(v * UINT64_C(0x0101010101010101) >> 56);
}

/* Whether the rows of a forward convolution that `outputs` channels of output rows [r0, r0 + rows) read hold so many nonzeros that
 * skipping zeros does not pay. */
static int agf_is_dense(const agf_session *s, const agf_conv_job *j, int outputs, int r0, int rows) {
  int h0 = agf_imax(r0 * j->rows.down - j->rows.pad, 0), b;
  int h1 = agf_imin((r0 + rows - 1) * j->rows.down - j->rows.pad + (j->rows.k - 1) * j->rows.dilation + 1, j->hi);
  size_t n = h1 > h0 ? (size_t)(h1 - h0) * (size_t)j->wi : 0, i;
  uint64_t count = 0, enough, v;
  if (j->adjoint || j->filter || !s->k.dense_w || !n) return 0; /* the dense kernels read the weights where they lie */
  for (i = 0; i + 1 < AGF_CONV_SIZES && AGF_CB << (i + 1) <= outputs; i++) continue;
  enough = (uint64_t)n * (uint64_t)j->ci * s->k.dense_from[j->cut.shape][j->kind == AGF_RHS_FWD ? 2 : j->kind][i];
  for (b = 0; b * AGF_CB < j->ci && count * 100 < enough; b++) {
    const uint16_t *m = j->mask + ((size_t)b * (size_t)j->hi + (size_t)h0) * (size_t)j->wi;
    for (i = 0; i + 4 <= n; i += 4) {
      memcpy(&v, m + i, 8);
      count += agf_popcount64(v);
    }
    for (; i < n; i++) count += agf_popcount64(m[i]);
  }
  return count * 100 >= enough;
}

/* Floats from row to row of a tile's accumulators. */
static inline size_t agf_acc_row(const agf_conv_job *j) {
  return j->joined ? (size_t)j->wo * (size_t)agf_rhs_out(j->kind) * (size_t)j->cut.lanes : j->cut.acc_row;
}

/* The sums of rows [r0, r0 + rows) for `outputs` outputs from `first` on, over the nonzeros only. acc: output 0 of row r0, +0
 * or, if `fresh`, not set yet. */
static void agf_conv_skipping(agf_session *s, const agf_conv_job *j, int first, int outputs, int r0, int rows, int fresh,
                              float *acc, float *panel) {
  const agf_conv_entry *entries = s->k.conv[j->cut.shape][j->kind];
  int full = j->ci / AGF_CB, in_blocks = agf_ceil_div(j->ci, AGF_CB), kw = j->columns.k, b, kr, r, l, blocks;
  agf_conv_row q;
  q.xp = j->xp;
  q.xb = j->xb;
  q.mb = (ptrdiff_t)j->hi * j->wi;
  q.ar = j->cut.lanes;
  q.ap = q.ar * agf_rhs_out(j->kind);
  q.w_in = j->joined ? rows * j->wi : j->wi;
  q.w_out = j->joined ? rows * j->wo : j->wo;
  q.kw = kw;
  q.down = j->columns.down;
  q.up = j->columns.up;
  q.dilation = j->columns.dilation;
  q.pad = j->columns.pad;
  q.kept = agf_rhs_kept(j->kind);
  for (b = 0; b * AGF_CB < j->ci; b += blocks) {
    blocks = b < full ? agf_imin(j->cut.blocks, full - b) : 1;
    q.blocks = blocks;
    q.fresh = fresh && !b;
    for (kr = 0; kr < j->rows.k; kr++) {
      const float *w = agf_panels(s, j, b, blocks, kr, first, panel, &q.wb);
      int more = kr + 1 < j->rows.k, next = more ? b : b + blocks, group = first; /* what comes after this */
      const float *wa = j->cut.panels > 1 ? agf_magnitudes(j, w, q.wb, blocks, first, panel, &q.wab) : NULL;
      const agf_conv_entry *e = entries;
      if (next >= in_blocks && r0 + rows == j->ho) next = 0, group += j->cut.group;
      if (next < in_blocks && group < j->co && !j->packed)
        agf_panels_ahead(s, j, next, agf_imin(j->cut.blocks, in_blocks - next), more ? kr + 1 : 0, group);
      for (l = 0; l < outputs; l += e->outputs) {
        ptrdiff_t at = (ptrdiff_t)(l / AGF_OCG) * AGF_CB * kw * AGF_OCG + l % AGF_OCG;
        while (e->outputs > outputs - l) e++;
        q.w = w + at;
        q.wa = wa ? wa + at : NULL;
        for (r = 0; r < (j->joined ? 1 : rows); r++) {
          int h = agf_input_row(&j->rows, r0 + r, kr);
          if (h < 0) continue;
          q.x = j->x + b * j->xb + h * j->xr;
          q.mask = j->mask + ((size_t)b * (size_t)j->hi + (size_t)h) * (size_t)j->wi;
          q.acc = acc + (size_t)r * j->cut.acc_row + l;
          e->row(&q);
        }
      }
    }
  }
}

/* Weights that are asked for bit by bit while others are worked on: `left` pieces of `lines` cache lines, `kh` pieces `row` bytes apart,
 * and then the next block's. */
typedef struct agf_ahead {
  const char *at;
  ptrdiff_t row, block;
  int lines, kh, left, line, k;
} agf_ahead;

AGF_PREFETCHES void agf_ask(agf_ahead *a, int64_t lines) {
#if defined(__GNUC__)
  while (lines-- > 0 && a->left) {
    __builtin_prefetch(a->at + a->line * 64, 0, 2);
    if (++a->line < a->lines) continue;
    a->line = 0;
    a->left--;
    a->at += a->row;
    if (++a->k < a->kh) continue;
    a->k = 0;
    a->at += a->block - a->kh * a->row;
  }
#else
  (void)a, (void)lines;
#endif
}

/* The weights of input blocks [b, b + blocks) for the panel whose first output is `first`. */
static agf_ahead agf_dense_ahead(const agf_session *s, const agf_conv_job *j, int b, int blocks, int first) {
  const agf_node *n = &s->model->node[j->st->node];
  const agf_weight *w = &s->model->weight[n->w];
  size_t element = w->type == AGF_F32 ? 4 : 2, at = agf_conv_index(n, j->ci, first, b * AGF_CB, 0, 0);
  int lanes = agf_imin(AGF_CB, j->ci - b * AGF_CB);
  agf_ahead a;
  memset(&a, 0, sizeof a);
  a.at = (const char *)w->data + at * element;
  a.row = (ptrdiff_t)((agf_conv_index(n, j->ci, first, b * AGF_CB, 1, 0) - at) * element);
  a.block = (ptrdiff_t)(agf_conv_index(n, j->ci, 0, AGF_CB, 0, 0) * element);
  a.lines = (int)((size_t)(lanes * n->kernel[1] * AGF_OCG) * element / 64);
  a.kh = n->kernel[0];
  a.left = blocks * a.kh;
  return a;
}

/* The same over every element; forward only, and every accumulator is set. */
static void agf_conv_dense(agf_session *s, const agf_conv_job *j, int first, int outputs, int r0, int rows, int to, float *acc,
                           float *panel) {
  const agf_node *n = &s->model->node[j->st->node];
  const agf_weight *w = &s->model->weight[n->w];
  size_t block = agf_conv_index(n, j->ci, 0, AGF_CB, 0, 0);
  size_t bytes = (size_t)n->kernel[0] * (size_t)n->kernel[1] * AGF_CB * AGF_OCG * 4; /* of a block's weights */
  int packed = bytes <= (size_t)s->k.dense_packed;
  int most = agf_imax((int)((size_t)(packed ? s->k.dense_packed : w->type == AGF_F32 ? AGF_DENSE_BYTES : 0) / bytes), 1);
  int full = j->ci / AGF_CB, in_blocks = agf_ceil_div(j->ci, AGF_CB), b, r, l, k, o, blocks;
  int pixels = j->joined ? rows * j->wo : j->wo, some = pixels, calls = rows; /* some: pixels of a call */
  agf_dense_row q;
  if (j->joined && s->k.dense_packed) { /* in pieces, between which the next weights are asked for */
    some = agf_imin(agf_ceil_div(agf_ceil_div(pixels, 8), 6) * 6, pixels);
    calls = agf_ceil_div(pixels, some);
  }
  q.xo = j->columns.down * j->xp;
  q.xt = j->columns.dilation * j->xp;
  q.xr = j->rows.dilation * j->xr;
  q.xb = j->xb;
  q.ap = (ptrdiff_t)j->cut.lanes * agf_rhs_out(j->kind);
  q.kh = n->kernel[0];
  q.kw = n->kernel[1];
  for (b = 0; b * AGF_CB < j->ci; b += blocks) {
    blocks = b < full ? agf_imin(most, full - b) : 1;
    q.blocks = blocks;
    q.lanes = agf_imin(AGF_CB, j->ci - b * AGF_CB);
    q.fresh = !b;
    for (l = 0; l < outputs; l += AGF_OCG) {
      size_t size = (size_t)q.lanes * (size_t)q.kw * AGF_OCG, at = agf_conv_index(n, j->ci, first + l, b * AGF_CB, 0, 0);
      size_t row = agf_conv_index(n, j->ci, first + l, b * AGF_CB, 1, 0) - at;
      int next = l + AGF_OCG < outputs ? b : b + blocks, group = l + AGF_OCG < outputs ? first + l + AGF_OCG : first;
      agf_ahead ahead;
      int64_t ask; /* lines of it after each call */
      if (next >= in_blocks) next = 0, group += to + rows < j->ho ? 0 : j->cut.group;
      ahead = agf_dense_ahead(s, j, next, next < full ? agf_imin(most, full - next) : 1, group);
      /* there is none, or it was read for the rows above; where weights are not packed, the kernel asks */
      if (group >= j->co || (to && group < first + outputs) || !s->k.dense_packed) ahead.left = 0;
      ask = ((int64_t)ahead.left * ahead.lines + calls - 1) / calls;
      q.outputs = agf_imin(outputs - l, AGF_OCG);
      if (w->type == AGF_F32 && (!packed || blocks * q.kh == 1)) { /* a single piece lies side by side as it is */
        q.w = (const float *)(const void *)w->data + at;
        q.wr = (ptrdiff_t)row;
        q.wb = (ptrdiff_t)block;
      } else {
        for (k = 0; k < blocks * q.kh; k++)
          agf_load_weights(s, w, at + (size_t)(k / q.kh) * block + (size_t)(k % q.kh) * row, size, 0, panel + (size_t)k * size);
        q.w = panel;
        q.wr = (ptrdiff_t)size;
        q.wb = q.kh * q.wr;
      }
      for (r = 0; r < (j->joined ? 1 : rows); r++)
        for (o = 0; o < pixels; o += some) {
          q.n = agf_imin(some, pixels - o);
          q.x = j->x + b * j->xb + ((r0 + r) * j->rows.down - j->rows.pad) * j->xr - j->columns.pad * j->xp + o * q.xo;
          q.acc = acc + (size_t)r * j->cut.acc_row + o * q.ap + l;
          q.y = q.acc, q.yb = AGF_CB;
          if (j->y && b + blocks >= in_blocks)
            q.y = j->y + (first + l) / AGF_CB * j->yb + (to + r) * j->yr + o * AGF_CB, q.yb = j->yb;
          if (j->kind != AGF_RHS_D) s->k.dense_w(&q);
          if (j->kind == AGF_RHS_FWD) q.acc += j->cut.lanes;
          if (j->kind != AGF_RHS_W) s->k.dense_d(&q);
          agf_ask(&ahead, ask);
        }
    }
  }
}

/* Whether one tap reaches every output along an axis. */
static inline int agf_reaches_all(const agf_axis *a) {
  return a->k == 1 && a->up == 1 && a->pad == 0 && (int64_t)(a->out - 1) * a->down < a->in;
}

/* Whether output i is made of input i alone along an axis. A single element may have a stride, which the kernels must not see. */
static inline int agf_is_one_to_one(const agf_axis *a) { return agf_reaches_all(a) && a->down == 1 && a->in == a->out; }

/* Rows of `rows` that the dense kernels make before the epilogue reads them: as many as the first-level cache keeps until then, if reading
 * the weights again for the next ones costs nothing. */
static int agf_dense_rows(const agf_conv_job *j, int rows) {
  size_t n = AGF_DENSE_ACC_BYTES / (agf_acc_row(j) * sizeof(float));
  size_t weights = (size_t)j->ci * (size_t)j->rows.k * (size_t)j->columns.k * (size_t)j->cut.lanes * sizeof(float);
  if (weights > 2 * AGF_DENSE_BYTES || n >= (size_t)rows) return rows;
  return n < 1 ? 1 : (int)n;
}

/* Rows [r0, r0 + rows) of the outputs from `first` on, which read rows of x from `at` on. */
static void agf_conv_tile(agf_session *s, const agf_conv_job *j, int first, int r0, int rows, int at, unsigned char *scratch) {
  int outputs = agf_imin(j->cut.group, agf_ceil_div(j->co - first, AGF_CB) * AGF_CB), block, r, some, end;
  ptrdiff_t ap = (ptrdiff_t)j->cut.lanes * agf_rhs_out(j->kind);
  float *acc = (float *)(void *)scratch + AGF_MARGIN * ap;
  float *panel = (float *)(void *)(scratch + agf_align_up(j->cut.acc_row * (size_t)agf_tile_rows(&j->cut, j->rows.out) * 4));
  int dense = agf_is_dense(s, j, outputs, at, rows), fresh = !dense && agf_reaches_all(&j->rows) && agf_reaches_all(&j->columns);
  if (!dense && !fresh) memset(scratch, 0, j->cut.acc_row * (size_t)rows * sizeof(float));
  if (!dense) agf_conv_skipping(s, j, first, outputs, at, rows, fresh, acc, panel);
  for (end = at + rows; at < end; at += some, r0 += some) {
    some = dense ? agf_dense_rows(j, end - at) : rows;
    if (dense) agf_conv_dense(s, j, first, outputs, at, some, r0, acc, panel);
    for (block = 0; block * AGF_CB < outputs; block++)
      for (r = 0; r < some; r++)
        j->done(s, j, first / AGF_CB + block, r0 + r, acc + (size_t)r * agf_acc_row(j) + block * AGF_CB, ap, j->cut.lanes);
  }
}

static void agf_conv_task(agf_session *s, const void *arg, int index, unsigned char *scratch) {
  const agf_conv_job *j = (const agf_conv_job *)arg;
  int r0 = index % j->tiles * j->th, rows = agf_imin(j->th, j->ho - r0);
  agf_conv_tile(s, j, index / j->tiles * j->cut.group, r0, rows, r0, scratch);
}

/* As agf_conv_task, for an input that is made when it is read (j->make). A task makes the rows that its tile needs once, all blocks of
 * them, in its scratch, and then every group of outputs from them. Output row i must need input row i alone. */
static void agf_conv_window_task(agf_session *s, const void *arg, int index, unsigned char *scratch) {
  const agf_conv_job *whole = (const agf_conv_job *)arg;
  int r0 = index * whole->th, rows = agf_imin(whole->th, whole->ho - r0), blocks = agf_ceil_div(whole->ci, AGF_CB), first, b, r;
  float *x = (float *)(void *)(scratch + whole->window);
  uint16_t *mask = (uint16_t *)(void *)(x + (ptrdiff_t)blocks * rows * whole->xr);
  agf_conv_job j = *whole;
  j.x = x;
  j.mask = mask;
  j.xb = rows * j.xr;
  j.hi = j.ho = rows;
  for (b = 0; b < blocks; b++)
    for (r = 0; r < rows; r++, x += j.xr, mask += j.wi) j.make(s, whole, b, r0 + r, x, mask);
  for (first = 0; first < j.co; first += j.cut.group) agf_conv_tile(s, &j, first, r0, rows, 0, scratch);
}
AGF_FAST_END

/* Weights of one output block as agf_gconv_row reads them; adjoints' have their taps reversed and may be filtered for the box
 * rule. */
static const float *agf_gconv_weights(agf_session *s, const agf_conv_job *j, int block, int lanes_in, float *scratch) {
  const agf_node *n = &s->model->node[j->st->node];
  const agf_weight *w = &s->model->weight[n->w];
  int taps = n->kernel[0] * n->kernel[1], ig = w->dim[1], og = n->channels / n->groups, l, i, tap;
  size_t size = (size_t)taps * (size_t)lanes_in * AGF_CB, row = (size_t)taps * AGF_CB;
  if (!j->adjoint && w->type == AGF_F32 && !j->filter) return (const float *)(const void *)w->data + (size_t)block * size;
  if (!j->adjoint) {
    agf_load_weights(s, w, (size_t)block * size, size, j->filter, scratch);
    return scratch;
  }
  memset(scratch, 0, size * sizeof(float));
  for (l = 0; l < AGF_CB; l++) { /* input channel c of the convolution receives from the outputs of its group */
    int c = block * AGF_CB + l;
    if (c >= j->co) break;
    for (i = 0; i < og; i++) {
      int o = c / ig * og + i, in = c % ig, lanes = agf_imin(AGF_CB, ig - in / AGF_CB * AGF_CB);
      int to_lanes = agf_imin(AGF_CB, og - i / AGF_CB * AGF_CB);
      size_t from = (size_t)(o / AGF_CB) * (size_t)ig * row + (size_t)(in / AGF_CB) * AGF_CB * row +
                    (size_t)(in % AGF_CB) * AGF_CB + (size_t)(o % AGF_CB);
      size_t to = (size_t)(i / AGF_CB) * AGF_CB * row + (size_t)(i % AGF_CB) * AGF_CB + (size_t)l;
      for (tap = 0; tap < taps; tap++)
        scratch[to + (size_t)(taps - 1 - tap) * (size_t)to_lanes * AGF_CB] =
            agf_filtered(agf_weight_at(w, from + (size_t)tap * (size_t)lanes * AGF_CB), j->filter);
    }
  }
  return scratch;
}

static agf_reads agf_reads_of(const int32_t *index, int lanes_in) {
  int i, block = 1, one = 1, two = 1, lane = lanes_in == 1 && index[0] % AGF_CB == 0;
  for (i = 0; i < lanes_in * AGF_CB; i++) {
    block &= index[i] / AGF_CB == index[0] / AGF_CB;
    one &= index[i] == index[i / AGF_CB * AGF_CB];
    two &= index[i] == index[i / 8 * 8];
    lane &= index[i] == index[0] + i;
  }
  return lane ? AGF_READS_LANE : one ? AGF_READS_ONE : two ? AGF_READS_TWO : block ? AGF_READS_BLOCK : AGF_READS_ANY;
}

/* Rows of `row` bytes that a window holds: those of one output row, and as many more as make moving them up a rare thing. */
static uint64_t agf_window_rows(const agf_axis *rows, uint64_t row) {
  uint64_t span = (uint64_t)(rows->k - 1) * (uint64_t)rows->dilation / (uint64_t)rows->up + 2,
           n = span + AGF_WINDOW_BYTES / 2 / row;
  return n < (uint64_t)rows->in ? n : (uint64_t)rows->in;
}

typedef struct agf_window {
  float *at; /* rows [from, made) of what is read, from `from` on */
  int from, made, rows;
} agf_window;

/* Makes what output row r of block `block` reads. */
static void agf_window_move(agf_session *s, const agf_conv_job *j, agf_window *v, int block, int r) {
  int first = r * j->rows.down - j->rows.pad, last = first + (j->rows.k - 1) * j->rows.dilation;
  int lo = first > 0 ? agf_ceil_div(first, j->rows.up) : 0, hi = last < 0 ? 0 : agf_imin(last / j->rows.up + 1, j->hi);
  if (lo > v->made) v->from = v->made = lo;
  if (hi - v->from > v->rows) {
    memmove(v->at, v->at + (lo - v->from) * j->xr, (size_t)(v->made - lo) * (size_t)j->xr * sizeof(float));
    v->from = lo;
  }
  for (; v->made < hi; v->made++) j->make(s, j, block, v->made, v->at + (v->made - v->from) * j->xr, NULL);
}

/* Rows [r0, r1) of one output block. */
static void agf_gconv_rows(agf_session *s, const agf_conv_job *j, int block, int r0, int r1, unsigned char *scratch) {
  const agf_node *n = &s->model->node[j->st->node];
  int lanes_in = (j->adjoint ? n->channels : j->ci) / n->groups, lanes_out = (j->adjoint ? j->co : n->channels) / n->groups;
  int i, l, r;
  size_t acc_bytes = agf_align_up((size_t)j->wo * (size_t)agf_rhs_out(j->kind) * AGF_CB * 4);
  int32_t *at = (int32_t *)(void *)(scratch + acc_bytes);
  float *acc = (float *)(void *)scratch;
  float *panel =
      (float *)(void *)(scratch + acc_bytes + agf_align_up((size_t)agf_ceil_div(lanes_in, AGF_CB) * AGF_CB * AGF_CB * 4));
  agf_window window = {NULL, 0, 0, 0};
  agf_gconv_row q;
  for (i = 0; i < lanes_in; i++)
    for (l = 0; l < AGF_CB; l++) { /* lanes beyond the last channel read as the last one does; their weights are 0 */
      int c = agf_imin(block * AGF_CB + l, j->co - 1);
      at[i * AGF_CB + l] = c / lanes_out * lanes_in + i;
      if (lanes_in == 1 && lanes_out == 1) at[l] = block * AGF_CB + l;
    }
  q.reads = agf_reads_of(at, lanes_in);
  q.index = at;
  q.lanes_in = lanes_in;
  q.x = j->x;
  q.xp = j->xp;
  q.xr = j->xr;
  q.xb = j->xb;
  q.acc = acc;
  q.w_in = j->wi;
  q.h_in = j->hi;
  q.w_out = j->wo;
  q.border = (int)((j->xr / j->xp - j->wi) / 2);
  q.kh = j->rows.k;
  q.down_h = j->rows.down;
  q.up_h = j->rows.up;
  q.dilation_h = j->rows.dilation;
  q.pad_h = j->rows.pad;
  q.kw = j->columns.k;
  q.down = j->columns.down;
  q.up = j->columns.up;
  q.dilation = j->columns.dilation;
  q.pad = j->columns.pad;
  q.w = agf_gconv_weights(s, j, block, lanes_in, panel);
  if (j->make) { /* groups lie within a block: the only one */
    window.at = (float *)(void *)(scratch + j->window);
    window.rows = (int)agf_window_rows(&j->rows, (uint64_t)j->xr * sizeof(float));
    q.x = window.at;
    q.xb = 0;
  }
  for (r = r0; r < r1; r++) {
    if (j->make) {
      agf_window_move(s, j, &window, block, r);
      q.pad_h = j->rows.pad + window.from * j->rows.up; /* its first row is row 0 */
      q.h_in = j->hi - window.from;
    }
    q.row = r;
    s->k.gconv[j->kind](&q);
    j->done(s, j, block, r, acc, (ptrdiff_t)agf_rhs_out(j->kind) * AGF_CB, AGF_CB);
  }
}

static void agf_gconv_task(agf_session *s, const void *arg, int index, unsigned char *scratch) {
  const agf_conv_job *j = (const agf_conv_job *)arg;
  int r0 = index % j->tiles * j->th;
  agf_gconv_rows(s, j, index / j->tiles, r0, agf_imin(r0 + j->th, j->ho), scratch);
}

/* Rows of `wi` pixels of ci channels that a window holds, so many right-hand sides to each; 0: not one. */
static int agf_window_tile(int wi, int ci, int vectors) {
  return AGF_WINDOW_BYTES / (agf_ceil_div(ci, AGF_CB) * (AGF_CB * vectors * 4 + 2)) / wi;
}

/* How a job is cut, and what follows from its size. */
static void agf_conv_prepare(agf_session *s, agf_conv_job *j) {
  const agf_node *n = &s->model->node[j->st->node];
  j->rows = agf_conv_axis(n, 0, j->adjoint, j->hi, j->ho);
  j->columns = agf_conv_axis(n, 1, j->adjoint, j->wi, j->wo);
  if (n->groups > 1) return;
  j->cut = agf_cut(s, j->kind, &j->rows, &j->columns, j->co);
  j->joined = agf_is_one_to_one(&j->rows) && agf_is_one_to_one(&j->columns) && j->xr == j->wi * j->xp;
  j->th = agf_tile_rows(&j->cut, j->ho);
}

static void agf_conv(agf_session *s, agf_conv_job *j) {
  int blocks;
  agf_conv_prepare(s, j);
  if (s->model->node[j->st->node].groups > 1) {
    blocks = agf_ceil_div(j->co, AGF_CB);
    j->th = blocks >= 4 * s->threads ? j->ho : agf_ceil_div(j->ho, 4);
    j->tiles = agf_ceil_div(j->ho, j->th);
    agf_parallel(s, blocks * j->tiles, agf_gconv_task, j);
    return;
  }
  blocks = agf_ceil_div(j->co, j->cut.group);
  if (j->make) {
    j->th = agf_imin(j->th, agf_window_tile(j->wi, j->ci, (int)(j->xp / AGF_CB)));
    agf_parallel(s, agf_ceil_div(j->ho, j->th), agf_conv_window_task, j);
    return;
  }
  while (s->threads > 1 && j->th > 4 && blocks * agf_ceil_div(j->ho, j->th) < 3 * s->threads) j->th = (j->th + 1) / 2;
  j->tiles = agf_ceil_div(j->ho, j->th);
  agf_parallel(s, blocks * j->tiles, agf_conv_task, j);
}

/* MARK: op: convolution -------------------------------------------------------------------------------------------------------
 * Convolutions, grouped and depthwise ones too, with the BatchNorm and activation behind them. agf-spec, "Rules, per node":
 *   reads the image (the box rule): Z = conv(x, w) - conv(lo, w+) - conv(hi, w-), s = sdiv(cam, Z),
 *     cam = x * convT(w, s) - lo * convT(w+, s) - hi * convT(w-, s)
 *   flat: C = |x| * convT(|w|, sdiv(cam, conv(|x|, |w|))), cam = C
 *   any other (plain): R = [sdiv(Fx + M, 1 + exp(-C)) + Fdx + A] * nz(C), cam = shift(C, R)
 * and g = convT(w, g). LRP: alpha f(w+, w-) - (alpha - 1) f(w-, w+), the box rule at the image. */

typedef struct agf_conv_step {
  int plain;       /* neither flat nor the image's: the full rule */
  int apart;       /* A is formed in a walk of its own: agf_conv_settle */
  int late;        /* its input's cam is delivered as C + R; the convolution that made the input is its only reader, and its gate
                    * subtracts the mean as it reads (agf_arrival) */
  int gated;       /* |W||x| (box: Z), formed on each way back, goes through the gate row by row: there is no d */
  uint64_t window; /* bytes for the adjoint's right-hand sides if they are made as they are needed; 0: they are not */
  int co;          /* outputs, filled to whole panels */
  agf_rhs back;    /* right-hand sides of its adjoint, all gradients wanted */
  int row_classes, column_classes; /* outputs whose windows the border cuts alike */
  agf_id row_class, column_class;  /* uint8_t [h], [w] of the output: the class of each row and column */
  agf_id range;                    /* int [row_classes + column_classes][2]: the classes' kernel rows and columns */
  agf_id border;                   /* float [row_classes][column_classes][co]: conv(1, |w|); box: conv(lo, w+), then conv(hi, w-) */
  agf_id d;                        /* float [cb][h][w][16] at the output: |W||x|; box: Z; 0 where gated */
  agf_id cam_mask;                 /* uint16_t [cb][h][w] at the output: nz(cam) */
  agf_id a;                        /* float [cb][h][w][16] at the input: A; box, where it is not packed: two of them */
  agf_id maps;                     /* float [4][h][w] at the input: phi, M, Fx, Fdx */
  agf_id sums;                     /* double [h][4][16 cb]: sums over a row's pixels in P and N, of x and of Gm; or of R */
  agf_id maxima;                   /* float [h][2][16 cb]: a row's largest Gm and x */
  agf_id counts;                   /* int64_t [h][cb]: nonzeros of C */
  agf_id coef;                     /* float [4][16 cb]: of W_a and W_b, for x and for Gm */
  agf_id kept;                     /* float [2][cb][h][w][16] at the input: sigmoids of x and of Gm; 0: formed twice */
  agf_id half, half_mask;          /* LRP, where the input may be negative: as its x and mask, one part of it */
} agf_conv_step;

static inline const agf_conv_step *agf_conv_of(const agf_step *st) { return (const agf_conv_step *)st->own; }

enum { AGF_KEPT_BYTES = 1536 * 1024 }; /* of sigmoids: read again, from near caches, they cost less than formed again */
enum { AGF_MAX_CLASSES = 255 };        /* ways in which the border cuts a convolution's windows, on one axis */

/* Kernel rows [lo, hi) of output o whose input lies inside. */
static void agf_tap_range(int o, int k, int stride, int pad, int dilation, int n, int *lo, int *hi) {
  int64_t start = (int64_t)o * stride - pad;
  int64_t a = start < 0 ? (-start + dilation - 1) / dilation : 0, b = start < n ? (n - 1 - start) / dilation + 1 : 0;
  *hi = (int)(b < k ? b : k);
  *lo = (int)(a < *hi ? a : *hi);
}

/* The first output after o whose range is another one, at most `outputs`. The window moves by `stride`, so its ends leave a tap
 * after a number of outputs that follows from where they are: huge padded outputs cost no more than their number of ranges. */
static int agf_next_range(int o, int outputs, int stride, int pad, int dilation, int n, int lo, int hi) {
  int64_t next = outputs, at;
  if (lo > 0) { /* tap lo - 1 comes in at the first output with o * stride + (lo - 1) * dilation >= pad */
    at = ((int64_t)pad - (int64_t)(lo - 1) * dilation + stride - 1) / stride;
    next = at < next ? at : next;
  }
  if (hi > 0) { /* tap hi - 1 falls out */
    at = ((int64_t)n - 1 - (int64_t)(hi - 1) * dilation + pad) / stride + 1;
    next = at < next ? at : next;
  }
  return next > o ? (int)next : o + 1;
}

/* Outputs in runs whose windows the border cuts alike: how many, and where `of` is not NULL, each output's run and each run's
 * taps. */
static int agf_tap_classes(int outputs, int k, int stride, int pad, int dilation, int n, uint8_t *of, int *range) {
  int o, next, lo, hi, last_lo = -1, last_hi = -1, count = 0;
  for (o = 0; o < outputs && count <= AGF_MAX_CLASSES; o = next) {
    agf_tap_range(o, k, stride, pad, dilation, n, &lo, &hi);
    next = agf_next_range(o, outputs, stride, pad, dilation, n, lo, hi);
    if (lo != last_lo || hi != last_hi) {
      if (of) {
        range[2 * count] = lo;
        range[2 * count + 1] = hi;
      }
      count++;
    }
    if (of) memset(of + o, count - 1, (size_t)(next - o));
    last_lo = lo;
    last_hi = hi;
  }
  return count;
}

static agf_status agf_conv_shape_of(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  const agf_shape *x = agf_input_shape(in, 0);
  if (x->c % n->groups || n->channels % n->groups) return agf_shape_error(err, n, x, "its groups do not divide the channels");
  out->c = n->channels;
  out->flattened = 0; /* of a vector too, which it reads as one pixel */
  out->h = agf_window_outputs(x->h, n->kernel[0], n->stride[0], n->pad[0], n->pad[2], n->dilation[0], 0);
  out->w = agf_window_outputs(x->w, n->kernel[1], n->stride[1], n->pad[1], n->pad[3], n->dilation[1], 0);
  if (out->h < 1 || out->w < 1) return agf_shape_error(err, n, x, "its window does not fit");
  return AGF_OK;
}

static agf_status agf_conv_weights(const agf_model *m, const agf_node *n, const agf_shape *in, agf_error *err) {
  const agf_weight *w = &m->weight[n->w];
  int fit = w->layout == (n->groups > 1 ? AGF_LAYOUT_GROUPED : AGF_LAYOUT_CONV) && w->dim[0] == n->channels &&
            w->dim[1] == in->c / n->groups && w->dim[2] == n->kernel[0] && w->dim[3] == n->kernel[1] &&
            agf_is_vector(m, n->b, n->channels);
  return agf_weights_fit(m, n, in, fit, err);
}

/* Scratch of one task of one convolution in one direction. */
static uint64_t agf_conv_scratch(const agf_session *s, const agf_step *st, agf_rhs kind, int adjoint) {
  const agf_node *n = &s->model->node[st->node];
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  const agf_tensor *from = adjoint ? to : ti, *into = adjoint ? ti : to;
  agf_axis rows = agf_conv_axis(n, 0, adjoint, from->h, into->h), columns = agf_conv_axis(n, 1, adjoint, from->w, into->w);
  uint64_t taps = (uint64_t)rows.k * (uint64_t)columns.k, panel;
  agf_conv_cut c;
  if (n->groups > 1) {
    int lanes = from->c / n->groups;
    return agf_align_up64((uint64_t)into->w * (uint64_t)agf_rhs_out(kind) * AGF_CB * 4) +
           agf_align_up64((uint64_t)agf_ceil_div(lanes, AGF_CB) * AGF_CB * AGF_CB * 4) +
           agf_align_up64(taps * (uint64_t)lanes * AGF_CB * 4);
  }
  c = agf_cut(s, kind, &rows, &columns, agf_imax(into->c, AGF_CB)); /* AGF_CB: the packed box rule makes more than the image has */
  panel = (uint64_t)c.panels * (uint64_t)c.blocks * (uint64_t)c.lanes * (uint64_t)columns.k;
  /* the dense kernels' */
  if (!adjoint && s->model->weight[n->w].type != AGF_F32 && taps * AGF_OCG > panel) panel = taps * AGF_OCG;
  if (!adjoint && (uint64_t)s->k.dense_packed / (AGF_CB * 4) > panel) panel = (uint64_t)s->k.dense_packed / (AGF_CB * 4);
  return agf_align_up64(c.acc_row * (uint64_t)agf_tile_rows(&c, into->h) * 4) + agf_align_up64(panel * AGF_CB * 4);
}

/* Whether the box rule's three adjoints (w, w+, w-) fit one block of 16 outputs side by side: one walk instead of three. */
static inline int agf_box_packed(const agf_node *n, int channels) { return n->groups == 1 && 3 * channels <= AGF_CB; }

static void agf_conv_connect(agf_planner *p, agf_step *st) {
  agf_conv_step *own = (agf_conv_step *)st->own;
  const agf_node *n = &p->model->node[st->node];
  agf_tensor *ti = agf_plan_in(p, st, 0);
  uint64_t planes = agf_tensor_elements(ti) + agf_tensor_elements(agf_plan_out(p, st));
  ti->needs_mask = 1;
  ti->bh = agf_imax(ti->bh, agf_imax(n->pad[0], n->pad[2]));
  ti->bw = agf_imax(ti->bw, agf_imax(n->pad[1], n->pad[3]));
  st->box = p->model->edge[n->edge] == 0;
  own->plain = !st->box && !(n->flags & AGF_FLAG_FLAT);
  st->uses_g = own->plain ? AGF_G_UNLESS_BARE : AGF_G_NEVER;
  if (own->plain && !agf_is_last(p, st) && planes > p->largest_plain) p->largest_plain = planes; /* the last one is the seed */
}

/* Whether LRP divides a convolution's R by several sums in turn, so that R outlives the first right-hand side. */
static int agf_lrp_keeps(const agf_planner *p, const agf_step *st) {
  return !st->box &&
         (((p->plan->needs & AGF_NEEDS_LRP) && agf_plan_in(p, st, 0)->is_signed) || (p->plan->needs & AGF_NEEDS_LRP_TWICE));
}

/* Bytes of the window in which the adjoint's right-hand sides are made; 0: they are not. */
static uint64_t agf_conv_window(const agf_planner *p, const agf_step *st) {
  const agf_conv_step *own = (const agf_conv_step *)st->own;
  const agf_node *n = &p->model->node[st->node];
  const agf_tensor *ti = agf_plan_in(p, st, 0), *to = agf_plan_out(p, st);
  agf_axis rows = agf_conv_axis(n, 0, 1, to->h, ti->h), columns = agf_conv_axis(n, 1, 1, to->w, ti->w);
  uint64_t row = (uint64_t)to->w * AGF_CB * (uint64_t)agf_rhs_in(own->plain ? AGF_RHS_TRIPLE : AGF_RHS_FLAT) * 4, bytes;
  if (st->box || own->apart || agf_is_last(p, st)) return 0;
  if (n->groups == 1) {
    /* All blocks of some rows: enough of them that bringing the weights into order for each tile does not count. */
    int enough = (uint64_t)to->h * (uint64_t)to->cb * row > AGF_ACC_BYTES && agf_window_tile(to->w, to->c, 2) * to->w >= 40;
    return !own->plain && enough && agf_is_one_to_one(&rows) && agf_is_one_to_one(&columns) ? AGF_WINDOW_BYTES : 0;
  }
  bytes = agf_window_rows(&rows, row) * row;
  return ti->c == n->channels && AGF_CB % (n->channels / n->groups) == 0 && bytes <= 2 * AGF_WINDOW_BYTES ? bytes : 0;
}

/* Whether a convolution makes what step st reads, so that its gate is the next to read the cam that st delivers. */
static int agf_made_by_conv(const agf_planner *p, const agf_step *st) {
  int i = st->index - 1;
  while (i >= 0 && p->step[i].out != p->in[st->in]) i--;
  return i >= 0 && p->step[i].rules == st->rules;
}

/* With low_memory the largest plain convolutions form A in a second walk over the weights, after C and G, where the right-hand
 * sides of the first walk lay (`apart`). P, Q: bytes of a plane of the output and of the input. The gate then needs 5 P instead of
 * 6 P, the adjoint P + max(2 P, P + Q) + 2 Q instead of 3 P + 3 Q. The smaller convolutions find room in what these need. */
static void agf_conv_settle(agf_planner *p, agf_step *st) {
  agf_conv_step *own = (agf_conv_step *)st->own;
  const agf_node *n = &p->model->node[st->node];
  agf_tensor *ti = agf_plan_in(p, st, 0);
  uint64_t planes = agf_tensor_elements(ti) + agf_tensor_elements(agf_plan_out(p, st));
  own->apart = p->s->config.low_memory && own->plain && !agf_is_last(p, st) && planes > p->largest_plain / 2;
  own->window = agf_conv_window(p, st);
  if (n->groups == 1) st->chained = agf_chain_of(p, st);
  own->late = own->plain && !p->s->config.observer && ti->readers == 1 && agf_made_by_conv(p, st);
  own->gated = p->s->config.low_memory && !own->window && !(p->plan->needs & AGF_NEEDS_LRP);
  /* the image of few channels, which nothing but this reads, and its cam: no lanes that hold nothing */
  if (st->box && ti->readers == 1 && agf_box_packed(n, ti->c) && !agf_is_last(p, st) && !p->s->config.observer &&
      !(p->plan->needs & ~(unsigned)AGF_NEEDS_LOCAL))
    ti->xp = agf_imin((ti->c + 3) & ~3, AGF_CB);
  st->writes = agf_adjoint_moment(p, st);
  st->reads_g = own->window || agf_lrp_keeps(p, st) ? agf_adjoint_moment(p, st) : agf_gate_moment(p, st);
  st->reads_cam = own->apart ? agf_adjoint_moment(p, st) : st->reads_g;
}

static agf_status agf_conv_plan(agf_planner *p, agf_step *st, agf_error *err) {
  agf_conv_step *own = (agf_conv_step *)st->own;
  const agf_session *s = p->s;
  const agf_node *n = &p->model->node[st->node];
  const agf_tensor *ti = agf_plan_in(p, st, 0), *to = agf_plan_out(p, st);
  int gate = agf_gate_moment(p, st), back = agf_adjoint_moment(p, st), end = agf_end(p), last = agf_is_last(p, st);
  int plain = own->plain && !last, lrp = (p->plan->needs & AGF_NEEDS_LRP) != 0, low = s->config.low_memory;
  int others = (p->plan->needs & (AGF_NEEDS_GRADIENT | AGF_NEEDS_LRP)) != 0;
  uint64_t pixels = (uint64_t)to->cb * (uint64_t)to->h * (uint64_t)to->w, classes;
  own->co = agf_filled(n->channels);
  st->bias = agf_buf(p, (uint64_t)own->co * 4, 0, end);
  if (st->norm >= 0) st->scale = agf_buf(p, (uint64_t)own->co * 4, 0, end);
  agf_need_scratch(p, agf_conv_scratch(s, st, AGF_RHS_FWD, 0));
  agf_need_scratch(p, agf_conv_scratch(s, st, AGF_RHS_W, 0));
  agf_need_scratch(p, agf_conv_scratch(s, st, AGF_RHS_D, 0));
  if (last) { /* the seed */
    st->rhs = agf_buf(p, (uint64_t)own->co * 4, 0, end);
    st->rhs_mask = agf_buf(p, (uint64_t)to->cb * 2, 0, end);
    agf_need_scratch(p, agf_conv_scratch(s, st, AGF_RHS_W, 1));
    if (!lrp) return AGF_OK;
  }
  own->back = st->box       ? AGF_RHS_W
              : own->apart  ? AGF_RHS_FLAT
              : own->plain  ? AGF_RHS_TRIPLE
              : ti->needs_g ? AGF_RHS_FLAT
                            : AGF_RHS_A;
  own->row_classes = agf_tap_classes(to->h, n->kernel[0], n->stride[0], n->pad[0], n->dilation[0], ti->h, NULL, NULL);
  own->column_classes = agf_tap_classes(to->w, n->kernel[1], n->stride[1], n->pad[1], n->dilation[1], ti->w, NULL, NULL);
  if (own->row_classes > AGF_MAX_CLASSES || own->column_classes > AGF_MAX_CLASSES)
    return agf_fail(err, AGF_ERR_LIMIT, "layer %s (conv): its %d x %d kernel is cut in more than %d ways by the border", n->name,
                    n->kernel[0], n->kernel[1], AGF_MAX_CLASSES);
  own->row_class = agf_buf(p, (uint64_t)to->h, 0, end);
  own->column_class = agf_buf(p, (uint64_t)to->w, 0, end);
  own->range = agf_buf(p, (uint64_t)(own->row_classes + own->column_classes) * 2 * sizeof(int), 0, end);
  classes = (uint64_t)own->row_classes * (uint64_t)own->column_classes;
  if (st->box || plain) own->border = agf_buf(p, classes * (uint64_t)own->co * 4 * (st->box ? 2 : 1), 0, end);
  if (!own->gated) own->d = agf_buf(p, pixels * AGF_CB * 4, low ? gate : 0, low ? back : end);
  if (!last && (!own->window || others || (p->plan->needs & AGF_NEEDS_LOCAL) || s->config.observer)) {
    uint64_t vectors = (uint64_t)agf_imax(agf_rhs_in(own->back), s->config.observer ? 2 : 1), elements = pixels * AGF_CB * vectors;
    if (own->apart && elements < pixels * AGF_CB + agf_tensor_elements(ti)) elements = pixels * AGF_CB + agf_tensor_elements(ti);
    /* one right-hand side takes cam's place, element by element, where nothing else will read cam */
    st->rhs = vectors == 1 && !others ? agf_part(p, to->cam, 0, elements * 4, gate, back) : agf_buf(p, elements * 4, gate, back);
    st->rhs_mask = agf_buf(p, pixels * 2, gate, back);
  }
  agf_need_scratch(p, agf_conv_scratch(s, st, own->back, 1) + own->window);
  if (own->apart) {
    agf_need_scratch(p, agf_conv_scratch(s, st, AGF_RHS_A, 1));
    agf_need_scratch(p, (uint64_t)to->w * AGF_CB * 4);
  }
  if (!st->box) agf_need_scratch(p, agf_conv_scratch(s, st, own->plain ? AGF_RHS_APAIR : AGF_RHS_A, 1) + own->window);
  if (others) agf_need_scratch(p, agf_conv_scratch(s, st, AGF_RHS_W, 1));
  if (st->box && !agf_box_packed(n, ti->c)) own->a = agf_buf(p, agf_tensor_elements(ti) * 2 * 4, back, back);
  if (lrp && !st->box && ti->is_signed) {
    own->half = agf_buf(p, p->buffer[ti->x].bytes, gate, back);
    own->half_mask = agf_buf(p, p->buffer[ti->mask].bytes, gate, back);
  }
  if (plain) {
    uint64_t hw = (uint64_t)ti->h * (uint64_t)ti->w, lanes = (uint64_t)ti->cb * AGF_CB;
    if (!own->window) own->cam_mask = agf_buf(p, pixels * 2, gate, back);
    if (!own->apart) own->a = agf_buf(p, agf_tensor_elements(ti) * 4, back, back);
    own->maps = agf_buf(p, hw * 4 * 4, back, back);
    own->sums = agf_buf(p, (uint64_t)ti->h * lanes * 4 * sizeof(double), back, back);
    own->maxima = agf_buf(p, (uint64_t)ti->h * lanes * 2 * 4, back, back);
    own->counts = agf_buf(p, (uint64_t)ti->h * (uint64_t)ti->cb * sizeof(int64_t), back, back);
    own->coef = agf_buf(p, lanes * 4 * 4, back, back);
    if (!low && hw * lanes * 2 * 4 <= AGF_KEPT_BYTES) own->kept = agf_buf(p, hw * lanes * 2 * 4, back, back);
    agf_need_scratch(p, agf_conv_scratch(s, st, AGF_RHS_W, 1) + own->window);
  }
  return AGF_OK;
}

static void agf_conv_fill(agf_session *s, const agf_step *st) {
  const agf_conv_step *own = agf_conv_of(st);
  const agf_model *m = s->model;
  const agf_node *n = &m->node[st->node];
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  float *bias = agf_floats(s, st->bias), *scale = agf_floats(s, st->scale);
  int i;
  agf_fill_bias(s, st);
  agf_clear_buffer(s, st->scale);
  if (st->norm >= 0) { /* conv + b, then scale and shift: one scale and one bias, in double, rounded once */
    const agf_node *norm = &m->node[st->norm];
    agf_load_vector(&m->weight[norm->w], scale);
    for (i = 0; i < to->c; i++)
      bias[i] = (float)((double)bias[i] * (double)scale[i] + (double)agf_weight_at(&m->weight[norm->b], (size_t)i)) + 0.0f;
  }
  if (own->range) {
    int *range = (int *)agf_at(s, own->range);
    agf_tap_classes(to->h, n->kernel[0], n->stride[0], n->pad[0], n->dilation[0], ti->h, (uint8_t *)agf_at(s, own->row_class),
                    range);
    agf_tap_classes(to->w, n->kernel[1], n->stride[1], n->pad[1], n->dilation[1], ti->w, (uint8_t *)agf_at(s, own->column_class),
                    range + 2 * own->row_classes);
  }
  agf_clear_buffer(s, own->border);
}

/* --- forward --- */

/* The border's table for row `row` and output block `block`: [column_classes][co], from the block's first output on. */
static const float *agf_border_at(const agf_session *s, const agf_step *st, int row, int block) {
  const agf_conv_step *own = agf_conv_of(st);
  return agf_floats(s, own->border) +
         (size_t)((const uint8_t *)agf_at(s, own->row_class))[row] * (size_t)own->column_classes * (size_t)own->co +
         (size_t)block * AGF_CB;
}

typedef struct agf_forward_out {
  const agf_tensor *to;
  const agf_flow *flow; /* y NULL: only d is wanted */
  float *d;             /* [cb][h][w][16]; NULL: not wanted */
} agf_forward_out;

static void agf_store_activation(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as) {
  const agf_forward_out *o = (const agf_forward_out *)j->out;
  const agf_flow *f = o->flow;
  const agf_tensor *to = o->to;
  uint16_t *mask = f->y_mask ? f->y_mask + agf_row_at(to, block, row) : NULL;
  if (f->y && s->k.store_y(acc, as, j->wo, f->scale ? f->scale + block * AGF_CB : NULL, f->bias + block * AGF_CB, f->act,
                           f->y + block * to->xb + row * to->xr, mask))
    agf_raise(&s->bad, AGF_BAD_VALUE);
}

/* The activation, and |W||x|. */
static void agf_done_forward(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as,
                             ptrdiff_t rs) {
  const agf_forward_out *o = (const agf_forward_out *)j->out;
  agf_store_activation(s, j, block, row, acc, as);
  if (o->d) s->k.store(acc + (j->kind == AGF_RHS_FWD ? rs : 0), as, j->wo, agf_row_of(o->d, o->to, block, row));
}

/* Whether output (channel, row, column) of the image's convolution sees lo wherever w > 0 and hi wherever w < 0. */
static int agf_box_is_silent(const agf_session *s, const agf_step *st, int channel, int row, int column) {
  const agf_node *n = &s->model->node[st->node];
  const agf_weight *w = &s->model->weight[n->w];
  const agf_tensor *image = agf_in(s, st, 0);
  int inputs = w->dim[1], first = channel / (n->channels / n->groups) * inputs, i, kr, t;
  for (i = 0; i < inputs; i++) {
    int c = first + i;
    for (kr = 0; kr < n->kernel[0]; kr++) {
      int64_t r = (int64_t)row * n->stride[0] - n->pad[0] + (int64_t)kr * n->dilation[0];
      if (r < 0 || r >= image->h) continue;
      for (t = 0; t < n->kernel[1]; t++) {
        int64_t p = (int64_t)column * n->stride[1] - n->pad[1] + (int64_t)t * n->dilation[1];
        float v, x;
        if (p < 0 || p >= image->w) continue;
        v = agf_weight_at(w, agf_weight_index(n, inputs, channel, i, kr, t));
        x = agf_row_x(s, image, c / AGF_CB, (int)r)[p * image->xp + c % AGF_CB];
        if ((v > 0 && x != s->run.lo) || (v < 0 && x != s->run.hi)) return 0;
      }
    }
  }
  return 1;
}

/* A window that sees lo wherever w > 0 and hi wherever w < 0 has nothing to share out: Z is 0 but for rounding, which is made 0, or
 * cam divided by it would be a map of noise (the corners of a scan's black background are such windows). All terms of conv(lo, w+)
 * have one sign, those of conv(hi, w-) too, so there rounding is at most 2^-24 of their sizes for each of Z's terms, and only a Z
 * within four times that, `limit`, is looked at. z: Z of pixels [p, p + n) of a row; lo, hi: as store_z has them. */
static float agf_settle_limit(const agf_session *s, const agf_step *st) {
  const agf_node *n = &s->model->node[st->node];
  return (float)(((double)s->model->weight[n->w].dim[1] * n->kernel[0] * n->kernel[1] + 2) / (1 << 22));
}
static void agf_settle_z(agf_session *s, const agf_step *st, int block, int row, int p, int n, const float *lo, const float *hi,
                         float limit, float *z) {
  const agf_conv_step *own = agf_conv_of(st);
  const agf_tensor *to = agf_out(s, st);
  const uint8_t *column_class = (const uint8_t *)agf_at(s, own->column_class);
  int lanes = agf_imin(AGF_CB, to->c - block * AGF_CB), end = p + n, l;
  for (; p < end; p++, z += AGF_CB) {
    const float *a = lo + (size_t)column_class[p] * (size_t)own->co, *b = hi + (size_t)column_class[p] * (size_t)own->co;
    for (l = 0; l < lanes; l++)
      if (z[l] != 0 && fabsf(z[l]) <= limit * (fabsf(a[l]) + fabsf(b[l])) && agf_box_is_silent(s, st, block * AGF_CB + l, row, p))
        z[l] = 0;
  }
}

/* Z of pixels [p, p + n) of a row from its sums at acc. */
static void agf_store_z(agf_session *s, const agf_step *st, int block, int row, int p, int n, const float *acc, ptrdiff_t as,
                        float *z) {
  const agf_conv_step *own = agf_conv_of(st);
  const float *lo = agf_border_at(s, st, row, block),
              *hi = lo + (size_t)own->row_classes * (size_t)own->column_classes * (size_t)own->co;
  float limit = agf_settle_limit(s, st);
  if (s->k.store_z(acc, as, n, lo, hi, (const uint8_t *)agf_at(s, own->column_class) + p, own->co, limit, z))
    agf_settle_z(s, st, block, row, p, n, lo, hi, limit, z);
}

/* The activation, and the box rule's Z. */
static void agf_done_forward_box(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as,
                                 ptrdiff_t rs) {
  const agf_forward_out *o = (const agf_forward_out *)j->out;
  (void)rs;
  agf_store_activation(s, j, block, row, acc, as);
  if (o->d) agf_store_z(s, j->st, block, row, 0, j->wo, acc, as, agf_row_of(o->d, o->to, block, row));
}

/* The convolution of step st on x, laid out as its input. */
static void agf_job_forward(agf_session *s, agf_conv_job *j, const agf_step *st, agf_rhs kind, const float *x, const uint16_t *mask,
                            agf_epilogue *done, const void *out) {
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  memset(j, 0, sizeof *j);
  j->st = st;
  j->kind = kind;
  j->x = x;
  j->xp = ti->xp;
  j->xr = ti->xr;
  j->xb = ti->xb;
  j->mask = mask;
  j->hi = ti->h;
  j->wi = ti->w;
  j->ho = to->h;
  j->wo = to->w;
  j->ci = ti->c;
  j->co = to->c;
  j->done = done;
  j->out = out;
}

/* The adjoint of step st from right-hand sides at its output. */
static void agf_job_adjoint(agf_session *s, agf_conv_job *j, const agf_step *st, agf_rhs kind, const float *rhs, int vectors,
                            const uint16_t *mask, agf_epilogue *done, const void *out) {
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  memset(j, 0, sizeof *j);
  j->st = st;
  j->kind = kind;
  j->adjoint = 1;
  j->x = rhs;
  j->xp = (ptrdiff_t)vectors * AGF_CB;
  j->xr = j->xp * to->w;
  j->xb = j->xr * to->h;
  j->mask = mask;
  j->hi = to->h;
  j->wi = to->w;
  j->ho = ti->h;
  j->wo = ti->w;
  j->ci = to->c;
  j->co = ti->c;
  j->done = done;
  j->out = out;
}

/* Lets what a job reads be made from `from`; make NULL: it lies in memory. */
static void agf_job_make(agf_session *s, agf_conv_job *j, agf_prologue *make, const void *from) {
  j->make = make;
  j->from = from;
  j->window = (size_t)agf_conv_scratch(s, j->st, j->kind, j->adjoint);
}

typedef struct agf_border_job {
  const agf_step *st;
  float value;
  int filter; /* 0 w, 1 w+, 2 w-, -1 |w| */
  float *out;
} agf_border_job;

/* conv(value, f(w)) without bias for one panel of 32 outputs (grouped: 16), every class of cut windows: agf-spec calls for it with
 * the all-ones image and |w|, and with lo, w+ and hi, w- in the box rule. */
static void agf_border_task(agf_session *s, const void *arg, int panel, unsigned char *scratch) {
  const agf_border_job *j = (const agf_border_job *)arg;
  const agf_step *st = j->st;
  const agf_conv_step *own = agf_conv_of(st);
  const agf_node *n = &s->model->node[st->node];
  const agf_weight *w = &s->model->weight[n->w];
  const int *range = (const int *)agf_at(s, own->range), *columns = range + 2 * own->row_classes;
  int rc, cc, b, kr, t, i, width = n->groups > 1 ? AGF_CB : AGF_OCG;
  int inputs = w->dim[1], kw = n->kernel[1];
  (void)scratch;
  for (rc = 0; rc < own->row_classes; rc++)
    for (cc = 0; cc < own->column_classes; cc++) {
      float *acc =
          j->out + ((size_t)rc * (size_t)own->column_classes + (size_t)cc) * (size_t)own->co + (size_t)panel * (size_t)width;
      memset(acc, 0, (size_t)width * sizeof(float));
      for (b = 0; b * AGF_CB < inputs; b++) {
        int lanes = agf_imin(AGF_CB, inputs - b * AGF_CB);
        for (kr = range[2 * rc]; kr < range[2 * rc + 1]; kr++)
          for (t = columns[2 * cc]; t < columns[2 * cc + 1]; t++) {
            size_t at = agf_weight_index(n, inputs, panel * width, b * AGF_CB, kr, t);
            ptrdiff_t ws = n->groups > 1 ? (ptrdiff_t)AGF_CB : (ptrdiff_t)kw * AGF_OCG;
            if (w->type == AGF_F32) {
              s->k.border((const float *)(const void *)w->data + at, ws, lanes, width, j->value, j->filter, acc);
            } else {
              float wide[AGF_CB * AGF_OCG];
              for (i = 0; i < lanes; i++)
                s->k.widen((const uint16_t *)(const void *)w->data + at + (size_t)i * (size_t)ws, wide + i * width, (size_t)width);
              s->k.border(wide, width, lanes, width, j->value, j->filter, acc);
            }
          }
      }
    }
}

static void agf_border(agf_session *s, const agf_step *st, float value, int filter, float *out) {
  const agf_node *n = &s->model->node[st->node];
  agf_border_job j;
  j.st = st;
  j.value = value;
  j.filter = filter;
  j.out = out;
  agf_parallel(s, agf_ceil_div(n->channels, n->groups > 1 ? AGF_CB : AGF_OCG), agf_border_task, &j);
}

/* The box rule's tables for this image. */
static void agf_border_box(agf_session *s, const agf_step *st) {
  const agf_conv_step *own = agf_conv_of(st);
  float *out = agf_floats(s, own->border);
  agf_border(s, st, s->run.lo, 1, out);
  agf_border(s, st, s->run.hi, 2, out + (size_t)own->row_classes * (size_t)own->column_classes * (size_t)own->co);
}

/* The walk that forms D at the step's output, |W||x| or the box rule's Z, and y where the flow has it. */
static void agf_job_d(agf_session *s, agf_conv_job *j, const agf_step *st, const agf_flow *f, agf_epilogue *done, const void *out) {
  if (st->box) agf_border_box(s, st);
  agf_job_forward(s, j, st, st->box ? AGF_RHS_W : f->y ? AGF_RHS_FWD : AGF_RHS_D, f->x, f->x_mask, done, out);
}

/* The job that makes what a flow asks for. */
static void agf_job_flow(agf_session *s, agf_conv_job *j, const agf_step *st, const agf_flow *f, agf_forward_out *out) {
  const agf_conv_step *own = agf_conv_of(st);
  int want_d = f->want_d && !(s->config.low_memory && f->y);
  out->to = agf_out(s, st);
  out->flow = f;
  out->d = want_d ? agf_floats(s, own->d) : NULL;
  if (want_d)
    agf_job_d(s, j, st, f, st->box ? agf_done_forward_box : agf_done_forward, out);
  else
    agf_job_forward(s, j, st, AGF_RHS_W, f->x, f->x_mask, agf_done_forward, out);
  j->y = f->y;
  j->yr = out->to->xr;
  j->yb = out->to->xb;
}

static void agf_conv_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  agf_forward_out out;
  agf_conv_job j;
  agf_job_flow(s, &j, st, f, &out);
  agf_conv(s, &j);
  agf_facts(s, st)->d_known = out.d && !s->config.low_memory;
}

static void agf_conv_rows(agf_session *s, const agf_step *st, const agf_flow *f, int b, int r, int end, unsigned char *scratch) {
  agf_forward_out out;
  agf_conv_job j;
  agf_job_flow(s, &j, st, f, &out);
  agf_conv_prepare(s, &j);
  agf_gconv_rows(s, &j, b, r, end, scratch);
}

/* --- forward, a chain (agf_chain_of) --- */

typedef struct agf_chain_job {
  const agf_step *st; /* the convolution; the others follow it */
  agf_conv_job head;  /* its own forward pass */
  int want_d;
  int part, parts; /* rows of the convolution's output that are a task, with a group of its outputs; how many tasks those are */
  int band;        /* rows of it that are made before the next step reads them */
} agf_chain_job;

/* What rows [lo, hi) of a step's input become: the rows of its output that need no others. */
static void agf_rows_reached(const agf_session *s, const agf_step *st, int *lo, int *hi) {
  const agf_node *n = &s->model->node[st->node];
  int in = agf_in(s, st, 0)->h, out = agf_out(s, st)->h, all = (st->rules->traits & AGF_POOLS_TO_SIZE) != 0, stride = n->stride[0];
  int64_t from = (int64_t)*lo + n->pad[0], to = (int64_t)*hi + n->pad[0];
  if (!all && !n->kernel[0]) return; /* no windows */
  if (!all) {
    to -= (int64_t)(n->kernel[0] - 1) * agf_imax(n->dilation[0], 1);
    from = (from + stride - 1) / stride;
    to = to > 0 ? (to - 1) / stride + 1 : 0;
  }
  *lo = *lo == 0 ? 0 : all || from > out ? out : (int)from;
  *hi = *hi == in ? out : all ? 0 : to > out ? out : (int)to;
}

/* Rows [r, end) of blocks [b, last) of a step behind the convolution. */
static void agf_chain_rows(agf_session *s, const agf_chain_job *j, const agf_step *st, int b, int last, int r, int end,
                           unsigned char *scratch) {
  agf_flow f = agf_flow_of(s, st, j->want_d && st != agf_last_step(s));
  for (; r < end && b < last; b++) st->rules->rows(s, st, &f, b, r, end, scratch);
}

/* A group of the convolution's outputs in one part of its rows, and what that reaches of the other steps. */
static void agf_chain_task(agf_session *s, const void *arg, int index, unsigned char *scratch) {
  const agf_chain_job *j = (const agf_chain_job *)arg;
  int first = index / j->parts * j->head.cut.group, b = first / AGF_CB;
  int last = agf_imin(b + j->head.cut.group / AGF_CB, agf_out(s, j->st)->cb);
  int start = index % j->parts * j->part, end = agf_imin(start + j->part, j->head.ho), r, rows, k, lo, hi;
  int made[AGF_CHAINED] = {0}; /* up to which row each step has got */
  for (r = start; r < end; r += rows) {
    rows = agf_imin(j->band, end - r);
    agf_conv_tile(s, &j->head, first, r, rows, r, scratch);
    for (k = 0, lo = start, hi = r + rows; k < j->st->chained; k++) {
      const agf_step *st = j->st + k + 1;
      agf_rows_reached(s, st, &lo, &hi);
      if (lo >= hi) break;
      agf_chain_rows(s, j, st, b, last, agf_imax(lo, made[k]), hi, scratch);
      made[k] = hi;
    }
  }
}

/* The rows of block b that need more than one part. */
static void agf_chain_seams_task(agf_session *s, const void *arg, int b, unsigned char *scratch) {
  const agf_chain_job *j = (const agf_chain_job *)arg;
  int k, i, part, made, lo, hi;
  for (k = 1; k <= j->st->chained; k++) {
    const agf_step *st = j->st + k;
    for (part = made = 0; part < j->parts; part++) {
      lo = part * j->part, hi = agf_imin(lo + j->part, j->head.ho);
      for (i = 1; i <= k && lo < hi; i++) agf_rows_reached(s, j->st + i, &lo, &hi);
      if (lo >= hi) continue;
      agf_chain_rows(s, j, st, b, b + 1, made, lo, scratch);
      made = hi;
    }
    agf_chain_rows(s, j, st, b, b + 1, made, agf_out(s, st)->h, scratch);
  }
}

static void agf_chain_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  agf_forward_out out;
  agf_chain_job j;
  int groups, k;
  j.st = st;
  j.want_d = f->want_d;
  agf_job_flow(s, &j.head, st, f, &out);
  agf_conv_prepare(s, &j.head);
  groups = agf_ceil_div(j.head.co, j.head.cut.group);
  for (j.parts = 1; s->threads > 1 && groups * j.parts < 3 * s->threads && j.head.ho > 4 * j.parts;) j.parts *= 2;
  j.part = agf_ceil_div(j.head.ho, j.parts);
  j.parts = agf_ceil_div(j.head.ho, j.part);
  j.band = agf_imin(j.head.th, agf_imax(AGF_BAND_BYTES / (j.head.cut.lanes * j.head.wo * (int)sizeof(float)), 1));
  agf_parallel(s, groups * j.parts, agf_chain_task, &j);
  if (j.parts > 1) agf_parallel(s, out.to->cb, agf_chain_seams_task, &j);
  for (k = 0; k <= st->chained; k++)
    if (st[k].rules == st->rules) agf_facts(s, st + k)->d_known = j.want_d && st + k != agf_last_step(s) && !s->config.low_memory;
}

/* D where the run has not left it. */
static void agf_conv_need_d(agf_session *s, const agf_step *st) {
  agf_flow f = agf_flow_of(s, st, 1);
  if (agf_facts(s, st)->d_known) return;
  f.y = NULL;
  f.y_mask = NULL;
  agf_conv_forward(s, st, &f);
}

/* --- the gate: from (cam, g) at the output to the right-hand sides of the adjoint --- */

/* The right-hand sides that it makes, side by side at each pixel; g where it is wanted. cam and g are those before the activation and
 * BatchNorm, D is |W||x| (box: Z), B is conv(1, |w|). */
typedef enum agf_gate_kind {
  AGF_GATE_PASS,    /* cam [, g] */
  AGF_GATE_C,       /* [g,] sdiv(cam, D) */
  AGF_GATE_C_AND_A, /* [g,] sdiv(cam, D), sdiv(cam, B) */
  AGF_GATE_A        /* sdiv(cam, B) */
} agf_gate_kind;

typedef struct agf_gate_job {
  const agf_step *st;
  agf_gate_kind kind;
  const float *cam, *g; /* at the output; g NULL: not wanted */
  const float *mean;    /* as agf_gate_row has it */
  const float *scale;   /* of the BatchNorm; NULL: none */
  agf_act act;
  float *rhs;
  int vectors;               /* right-hand sides of a pixel */
  uint16_t *mask, *cam_mask; /* NULL: not wanted */
} agf_gate_job;

/* Pixels [p, p + n) of row r of block b, into rhs. mask, cam_mask: of these, NULL: not wanted; d: their D, or room for it, which GATE_A
 * uses; NULL: D lies in memory. */
static void agf_gate_span(agf_session *s, const agf_gate_job *j, int b, int r, int p, int n, float *d, float *rhs, uint16_t *mask,
                          uint16_t *cam_mask) {
  const agf_conv_step *own = agf_conv_of(j->st);
  const agf_tensor *t = agf_out(s, j->st);
  const uint8_t *column_class = (const uint8_t *)agf_at(s, own->column_class) + p;
  size_t at = agf_row_at(t, b, r) + (size_t)p;
  agf_gate_row q;
  int k;
  q.cam = j->cam + at * AGF_CB;
  q.mean = j->mean;
  q.g = j->g ? j->g + at * AGF_CB : NULL;
  q.y = agf_row_x(s, t, b, r) + p * AGF_CB;
  q.scale = j->scale ? j->scale + b * AGF_CB : NULL;
  q.quotients = j->kind == AGF_GATE_PASS ? 0 : j->kind == AGF_GATE_C_AND_A ? 2 : 1;
  q.d = q.b = NULL;
  q.column_class = column_class;
  q.b_stride = own->co;
  switch (j->kind) {
    case AGF_GATE_PASS: break;
    case AGF_GATE_C_AND_A:
      q.b = agf_border_at(s, j->st, r, b);
      /* fall through */
    case AGF_GATE_C: q.d = d ? d : agf_floats(s, own->d) + at * AGF_CB; break;
    case AGF_GATE_A: { /* B takes D's place */
      const float *border = agf_border_at(s, j->st, r, b);
      for (k = 0; k < n; k++) memcpy(d + k * AGF_CB, border + column_class[k] * own->co, AGF_CB * sizeof(float));
      q.d = d;
      break;
    }
  }
  q.rhs = rhs;
  q.mask = mask;
  q.cam_mask = cam_mask;
  q.act = j->act;
  if (s->k.gate(&q, n)) agf_raise(&s->bad, AGF_BAD_OUTSIDE);
}

static void agf_gate_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_gate_job *j = (const agf_gate_job *)arg;
  const agf_tensor *t = agf_out(s, j->st);
  agf_piece p = agf_piece_at(t, i);
  for (; p.r < p.end; p.r++) {
    size_t at = agf_row_at(t, p.b, p.r);
    agf_gate_span(s, j, p.b, p.r, 0, t->w, j->kind == AGF_GATE_A ? (float *)(void *)scratch : NULL,
                  j->rhs + at * AGF_CB * (size_t)j->vectors, j->mask ? j->mask + at : NULL, j->cam_mask ? j->cam_mask + at : NULL);
  }
}

/* The gate as an adjoint's prologue. */
static void agf_make_gated(agf_session *s, const agf_conv_job *j, int block, int row, float *to, uint16_t *mask) {
  agf_gate_span(s, (const agf_gate_job *)j->from, block, row, 0, j->wi, NULL, to, mask, NULL);
}

/* The gate where D is formed anew: it passes through while it is in cache. */
static void agf_done_gated(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as,
                           ptrdiff_t rs) {
  const agf_gate_job *gate = (const agf_gate_job *)j->out;
  size_t at = agf_row_at(agf_out(s, j->st), block, row);
  float d[AGF_SPAN * AGF_CB];
  int p, n;
  (void)rs;
  for (p = 0; p < j->wo; p += n, at += (size_t)n, acc += n * as) {
    n = agf_imin(AGF_SPAN, j->wo - p);
    if (j->st->box)
      agf_store_z(s, j->st, block, row, p, n, acc, as, d);
    else
      s->k.store(acc, as, n, d);
    agf_gate_span(s, gate, block, row, p, n, d, gate->rhs + at * AGF_CB * (size_t)gate->vectors,
                  gate->mask ? gate->mask + at : NULL, gate->cam_mask ? gate->cam_mask + at : NULL);
  }
}

/* The gate of step st, its activation and BatchNorm included. Where g is not 0 though cam is, s->bad says so. */
static void agf_gate(agf_session *s, const agf_gate_job *j) {
  agf_flow f = agf_flow_of(s, j->st, 1);
  agf_conv_job d;
  if (!agf_conv_of(j->st)->gated || (j->kind != AGF_GATE_C && j->kind != AGF_GATE_C_AND_A)) {
    agf_parallel(s, agf_pieces(agf_out(s, j->st)), agf_gate_task, j);
    return;
  }
  f.y = NULL;
  agf_job_d(s, &d, j->st, &f, agf_done_gated, j);
  agf_conv(s, &d);
}

static agf_gate_job agf_gate_of(agf_session *s, const agf_explanation *e, const agf_step *st) {
  agf_gate_job j;
  memset(&j, 0, sizeof j);
  j.st = st;
  j.cam = agf_floats(s, agf_out(s, st)->cam);
  j.mean = e->arrival[st->out].late ? &e->arrival[st->out].mean : NULL;
  j.g = agf_wanted_g(s, e, st);
  j.scale = agf_floats(s, st->scale);
  j.act = st->act;
  j.rhs = agf_floats(s, st->rhs);
  j.mask = (uint16_t *)agf_at(s, st->rhs_mask);
  return j;
}

/* What an observer sees inside a step: behind the activation (the BatchNorm's output) and behind the BatchNorm (the convolution's). */
static void agf_observe_inside(agf_session *s, const agf_explanation *e, const agf_step *st) {
  agf_gate_job j = agf_gate_of(s, e, st);
  const float *scale = j.scale;
  int node = st->last, pass;
  j.kind = AGF_GATE_PASS;
  j.mask = NULL;
  j.vectors = j.g ? 2 : 1;
  for (pass = 0; pass < 2; pass++) {
    int next = pass == 0 && st->norm >= 0 ? st->norm : st->node;
    if (next == node) continue;
    j.scale = next == st->node ? scale : NULL;
    agf_gate(s, &j);
    agf_observe(s, e, agf_out(s, st), next, j.rhs, j.g ? j.rhs + AGF_CB : NULL, (ptrdiff_t)j.vectors * AGF_CB);
    node = next;
  }
}

/* --- adjoints --- */

typedef struct agf_adjoint_out {
  const agf_tensor *t; /* the input */
  float *g, *c, *a;    /* [cb][h][w][16]: convT(w, g), C, A, in the order of agf_rhs; NULL: not among the right-hand sides */
  float *maxima;       /* agf_maxima_at: of g, and of x where want_max_x, formed while their rows are in cache; NULL: not wanted */
  int want_max_x;
  const agf_delivery *delivery; /* c and g are the step's cam and g; NULL: not yet */
} agf_adjoint_out;

/* Of row r of a tensor its channels' largest Gm (which: 0) or x (1), [16 cb], in an agf_conv_step's maxima. */
static inline float *agf_maxima_at(float *maxima, const agf_tensor *t, int r, int which) {
  return maxima + ((size_t)r * 2 + (size_t)which) * (size_t)t->cb * AGF_CB;
}

static void agf_lane_maxima(agf_session *s, const float *x, int n, float *lanes) {
  int l;
  for (l = 0; l < AGF_CB; l++) lanes[l] = -FLT_MAX;
  s->k.row_max(x, n, lanes);
}

static void agf_done_adjoint(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as,
                             ptrdiff_t rs) {
  const agf_adjoint_out *o = (const agf_adjoint_out *)j->out;
  const agf_tensor *t = o->t;
  float *g = agf_row_of(o->g, t, block, row), *c = agf_row_of(o->c, t, block, row), *a = agf_row_of(o->a, t, block, row);
  if (g) s->k.store(acc, as, t->w, g), acc += rs;
  if (c) s->k.store_c(acc, as, t->w, agf_row_x(s, t, block, row), c), acc += rs;
  if (a) s->k.store(acc, as, t->w, a);
  if (o->maxima) agf_lane_maxima(s, g, t->w, agf_maxima_at(o->maxima, t, row, 0) + block * AGF_CB);
  if (o->maxima && o->want_max_x)
    agf_lane_maxima(s, agf_row_x(s, t, block, row), t->w, agf_maxima_at(o->maxima, t, row, 1) + block * AGF_CB);
  if (o->delivery) agf_merge_row(s, o->delivery, block, row, c, g);
}

/* out = convT(w, g) for g at rhs, or made from `from`, `vectors` to a pixel; maxima NULL: not wanted. */
static void agf_conv_adjoint_g(agf_session *s, const agf_step *st, const float *rhs, int vectors, const uint16_t *mask,
                               agf_prologue *make, const void *from, float *out, float *maxima) {
  agf_adjoint_out o;
  agf_conv_job j;
  memset(&o, 0, sizeof o);
  o.t = agf_in(s, st, 0);
  o.g = out;
  o.maxima = maxima;
  agf_job_adjoint(s, &j, st, AGF_RHS_W, rhs, vectors, mask, agf_done_adjoint, &o);
  agf_job_make(s, &j, make, from);
  agf_conv(s, &j);
}

static void agf_conv_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  (void)slot;
  agf_conv_adjoint_g(s, st, g, 1, (const uint16_t *)agf_at(s, st->rhs_mask), NULL, NULL, out, NULL);
}

/* --- the rule of a convolution that reads the image --- */

typedef struct agf_box_out {
  const agf_tensor *t; /* the image */
  float *cam;          /* convT(w, s), or all three side by side; becomes cam */
  const float *plus;   /* convT(w+, s), and behind it convT(w-, s), where they are not side by side */
} agf_box_out;

AGF_FAST_BEGIN
/* All three side by side: cam = x * convT(w, s) - lo * convT(w+, s) - hi * convT(w-, s). */
static void agf_done_box(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as, ptrdiff_t rs) {
  const agf_box_out *o = (const agf_box_out *)j->out;
  const agf_tensor *t = o->t;
  const float *x = agf_row_x(s, t, 0, row);
  float *cam = o->cam + agf_row_at(t, 0, row) * (size_t)t->xp, wide[AGF_SPAN * AGF_CB] = {0}, out[AGF_SPAN * AGF_CB] = {0};
  int compact = t->xp < AGF_CB, p, n, i, l; /* then xp is a multiple of 4 */
  (void)rs;
  if (block) return;
  for (p = 0; p < t->w; p += n, acc += n * as, x += n * t->xp, cam += n * t->xp) {
    n = compact ? agf_imin(AGF_SPAN, t->w - p) : t->w;
    for (i = 0; compact && i < n; i++)
      for (l = 0; l < t->xp; l += 4) memcpy(wide + i * AGF_CB + l, x + i * t->xp + l, 4 * sizeof *x);
    s->k.store_box(acc, acc + t->c, acc + 2 * t->c, as, n, t->c, compact ? wide : x, s->run.lo, s->run.hi, compact ? out : cam);
    for (i = 0; compact && i < n; i++)
      for (l = 0; l < t->xp; l += 4) memcpy(cam + i * t->xp + l, out + i * AGF_CB + l, 4 * sizeof *cam);
  }
}
AGF_FAST_END

static void agf_box_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_box_out *o = (const agf_box_out *)arg;
  const agf_tensor *t = o->t;
  int b;
  (void)scratch;
  for (b = 0; b < t->cb; b++) {
    float *c = agf_row_of(o->cam, t, b, r);
    const float *plus = o->plus + agf_row_at(t, b, r) * AGF_CB;
    s->k.store_box(c, plus, plus + agf_tensor_elements(t), AGF_CB, t->w, agf_imin(AGF_CB, t->c - b * AGF_CB), agf_row_x(s, t, b, r),
                   s->run.lo, s->run.hi, c);
  }
}

/* cam at the image from s = sdiv(cam, Z), which lies in the step's rhs. */
static void agf_box_adjoint(agf_session *s, const agf_step *st, float *cam) {
  const agf_tensor *ti = agf_in(s, st, 0);
  const uint16_t *mask = (const uint16_t *)agf_at(s, st->rhs_mask);
  const float *rhs = agf_floats(s, st->rhs);
  agf_conv_job j;
  agf_box_out out;
  out.t = ti;
  out.cam = cam;
  out.plus = NULL;
  if (agf_box_packed(&s->model->node[st->node], ti->c)) {
    agf_job_adjoint(s, &j, st, AGF_RHS_W, rhs, 1, mask, agf_done_box, &out);
    j.packed = ti->c;
    j.co = 3 * ti->c;
    agf_conv(s, &j);
  } else {
    float *a = agf_floats(s, agf_conv_of(st)->a);
    int filter;
    for (filter = 0; filter < 3; filter++) {
      agf_adjoint_out one;
      memset(&one, 0, sizeof one);
      one.t = ti;
      one.g = filter == 0 ? cam : a + (size_t)(filter - 1) * agf_tensor_elements(ti);
      agf_job_adjoint(s, &j, st, AGF_RHS_W, rhs, 1, mask, agf_done_adjoint, &one);
      j.filter = filter;
      agf_conv(s, &j);
    }
    out.plus = a;
    agf_parallel(s, ti->h, agf_box_task, &out);
  }
}

static void agf_image_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  agf_gate_job gate = agf_gate_of(s, e, st);
  float *cam, *unused;
  gate.kind = AGF_GATE_C;
  gate.g = NULL;
  gate.vectors = 1;
  agf_gate(s, &gate);
  agf_destination(s, e, st, 0, &cam, &unused);
  agf_box_adjoint(s, st, cam);
  agf_deliver(s, e, st, 0);
}

/* --- the rule of a flat convolution --- */

static void agf_flat_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  agf_gate_job gate = agf_gate_of(s, e, st);
  int wants_g = e->arrival[s->plan->in[st->in]].wants_g;
  agf_delivery d;
  agf_adjoint_out out;
  agf_conv_job j;
  gate.kind = AGF_GATE_C;
  if (!wants_g) gate.g = NULL;
  gate.vectors = wants_g ? 2 : 1;
  if (!agf_conv_of(st)->window) agf_gate(s, &gate);
  d = agf_begin_delivery(s, e, st, 0);
  memset(&out, 0, sizeof out);
  out.t = d.t;
  out.g = wants_g ? d.g : NULL;
  out.c = d.cam;
  out.delivery = &d;
  agf_job_adjoint(s, &j, st, wants_g ? AGF_RHS_FLAT : AGF_RHS_A, gate.rhs, gate.vectors, gate.mask, agf_done_adjoint, &out);
  if (agf_conv_of(st)->window) agf_job_make(s, &j, agf_make_gated, &gate);
  agf_conv(s, &j);
}

/* --- the rule of any other convolution ---
 * agf-spec, "Conv, any other", on the input tensor. C, G and A come out of one walk over the weights where they can. */

/* F(sigmoid(10 * sdiv(q, max q))) of x or Gm. */
typedef struct agf_f {
  const float *q;   /* element (0, 0, 0) */
  ptrdiff_t qr, qb; /* floats from row to row, block to block */
  float max;
  float *F;    /* [h][w] */
  float *kept; /* [cb][h][w][16]: the sigmoids; NULL: formed twice */
} agf_f;

/* What the row tasks share. */
typedef struct agf_plain_job {
  const agf_step *st;
  const agf_conv_step *own;
  const agf_tensor *t;        /* the input */
  float *C, *G, *A;           /* [cb][h][w][16]. G holds Gm until Fdx is formed. C becomes C + R, then cam. */
  float *phi, *M, *Fx, *Fdx;  /* [h][w]; Fx becomes Fx + M */
  agf_f f[2];                 /* those of Fx and Fdx that the options leave */
  int fs, dots_due;           /* how many; whether they are still to be formed from their coefficients */
  int64_t positive, negative; /* pixels of P and N */
  int adds_m;
  float max_m; /* of M, where it is added */
  float mean;  /* sum(R) / count(C != 0) */
  unsigned options;
  const agf_delivery *delivery;
} agf_plain_job;

static inline double *agf_plain_sums(const agf_session *s, const agf_plain_job *j, int r, int which) {
  return (double *)agf_at(s, j->own->sums) + ((size_t)r * 4 + (size_t)which) * (size_t)j->t->cb * AGF_CB;
}
static inline float *agf_plain_coef(const agf_session *s, const agf_plain_job *j, int which) {
  return agf_floats(s, j->own->coef) + (size_t)which * (size_t)j->t->cb * AGF_CB;
}

AGF_FAST_BEGIN
/* The largest of the channels' maxima over the rows. */
static float agf_plain_max(const agf_session *s, const agf_plain_job *j, int which) {
  float best = -FLT_MAX;
  int r, l;
  for (r = 0; r < j->t->h; r++) {
    const float *max = agf_maxima_at(agf_floats(s, j->own->maxima), j->t, r, which);
    for (l = 0; l < j->t->c; l++)
      if (max[l] > best) best = max[l];
  }
  return best + 0.0f;
}

/* phi, the mean of C over the channels (its sum: only the sign counts), relu(mean of x * G), and the sums over the row's pixels of P and
 * N while the row is in cache. */
static void agf_plain_phi_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_plain_job *j = (const agf_plain_job *)arg;
  const agf_tensor *t = j->t;
  float *phi = j->phi + r * t->w;
  int k, b, l;
  (void)scratch;
  s->k.pixel_sums(agf_row_of(j->C, t, 0, r), agf_plane(t), agf_row_x(s, t, 0, r), t->xb, agf_row_of(j->G, t, 0, r), agf_plane(t),
                  t->cb, t->w, phi, j->M + r * t->w);
  for (l = 0; l < t->w; l++) j->M[r * t->w + l] = agf_relu(j->M[r * t->w + l] / (float)t->c);
  for (k = 0; k < j->fs; k++) {
    const agf_f *f = &j->f[k];
    double *p = agf_plain_sums(s, j, r, 2 * k), *n = agf_plain_sums(s, j, r, 2 * k + 1);
    memset(p, 0, (size_t)t->cb * AGF_CB * 2 * sizeof *p);
    for (b = 0; b < t->cb; b++)
      s->k.fx_sums(f->q + b * f->qb + r * f->qr, f->max, phi, t->w, p + b * AGF_CB, n + b * AGF_CB, agf_row_of(f->kept, t, b, r));
  }
}

/* With a, b the channels' means over P and N, (R^T R + I) W = R^T q for R = [b a] gives W_a and W_b as dot products of the pixel's q
 * with the coefficients wa and wb. Lanes beyond the last channel get 0. */
static void agf_f_solve(agf_session *s, const agf_plain_job *j, int k) {
  const agf_tensor *t = j->t;
  double *a = agf_plain_sums(s, j, 0, 2 * k), *b = agf_plain_sums(s, j, 0, 2 * k + 1), aa = 1, ab = 0, bb = 1, det;
  float *wa = agf_plain_coef(s, j, 2 * k), *wb = agf_plain_coef(s, j, 2 * k + 1);
  int l, r;
  for (r = 1; r < t->h; r++) {
    const double *p = agf_plain_sums(s, j, r, 2 * k), *n = agf_plain_sums(s, j, r, 2 * k + 1);
    for (l = 0; l < t->c; l++) {
      a[l] += p[l];
      b[l] += n[l];
    }
  }
  for (l = 0; l < t->c; l++) {
    a[l] = j->positive ? a[l] / ((double)j->positive + 1e-9) : 0;
    b[l] = j->negative ? b[l] / ((double)j->negative + 1e-9) : 0;
    aa += a[l] * a[l];
    ab += a[l] * b[l];
    bb += b[l] * b[l];
  }
  det = aa * bb - ab * ab;
  for (l = 0; l < t->cb * AGF_CB; l++) {
    wa[l] = l < t->c ? (float)((bb * a[l] - ab * b[l]) / det) : 0.0f;
    wb[l] = l < t->c ? (float)((aa * b[l] - ab * a[l]) / det) : 0.0f;
  }
}

static void agf_plain_add_f(agf_session *s, agf_plain_job *j, const float *q, ptrdiff_t qr, ptrdiff_t qb, float max, float *F) {
  agf_f *f = &j->f[j->fs++];
  f->q = q;
  f->qr = qr;
  f->qb = qb;
  f->max = max;
  f->F = F;
  f->kept = agf_floats(s, j->own->kept);
  if (f->kept && j->fs > 1) f->kept += agf_tensor_elements(j->t);
}

/* phi and M, and the coefficients of Fx and Fdx. */
static void agf_plain_phi(agf_session *s, agf_plain_job *j) {
  int i, k;
  agf_parallel(s, j->t->h, agf_plain_phi_task, j);
  for (i = 0; i < j->t->h * j->t->w; i++) j->positive += j->phi[i] > 0, j->negative += j->phi[i] < 0;
  for (k = 0; k < j->fs; k++) agf_f_solve(s, j, k);
  j->dots_due = 1;
}
AGF_FAST_END

static void agf_plain_dots_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_plain_job *j = (const agf_plain_job *)arg;
  const agf_tensor *t = j->t;
  int k;
  (void)scratch;
  for (k = 0; k < j->fs; k++) {
    const agf_f *f = &j->f[k];
    s->k.fx_dots(f->kept ? agf_row_of(f->kept, t, 0, r) : f->q + r * f->qr, f->kept ? agf_plane(t) : f->qb, f->kept != NULL, f->max,
                 agf_plain_coef(s, j, 2 * k), agf_plain_coef(s, j, 2 * k + 1), t->cb, t->w, f->F + r * t->w);
  }
}

/* Fx and Fdx now: something else is about to take the place of what they are formed from. */
static void agf_plain_dots(agf_session *s, agf_plain_job *j) {
  if (j->dots_due) agf_parallel(s, j->t->h, agf_plain_dots_task, j);
  j->dots_due = 0;
}

/* The ablation gradcam: relu(mean over channels of x * mean over pixels of Gm). */
static void agf_gradcam_sums_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_plain_job *j = (const agf_plain_job *)arg;
  agf_piece p = agf_piece_at(j->t, i);
  (void)scratch;
  for (; p.r < p.end; p.r++) {
    double *sum = agf_plain_sums(s, j, p.r, 0) + p.b * AGF_CB;
    memset(sum, 0, AGF_CB * sizeof *sum);
    s->k.lane_sums(agf_row_of(j->G, j->t, p.b, p.r), j->t->w, sum);
  }
}

static void agf_gradcam_mean_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_plain_job *j = (const agf_plain_job *)arg;
  const agf_tensor *t = j->t;
  (void)scratch;
  s->k.weighted_mean(agf_row_x(s, t, 0, r), t->xb, agf_floats(s, j->own->coef), t->cb, t->w, (float)t->c, j->Fx + r * t->w);
}

static void agf_plain_gradcam(agf_session *s, const agf_plain_job *j) {
  float *coef = agf_floats(s, j->own->coef);
  double *sum = agf_plain_sums(s, j, 0, 0);
  int r, l;
  agf_parallel(s, agf_pieces(j->t), agf_gradcam_sums_task, j);
  for (l = 0; l < j->t->cb * AGF_CB; l++) {
    for (r = 1; r < j->t->h; r++) sum[l] += agf_plain_sums(s, j, r, 0)[l];
    coef[l] = (float)(sum[l] / (double)((size_t)j->t->h * (size_t)j->t->w));
  }
  agf_parallel(s, j->t->h, agf_gradcam_mean_task, j);
}

/* R = [(Fx + M) / (1 + exp(-C)) + Fdx + A] * nz(C), M divided by its maximum, and C + R in place of C (agf_kernels.combine); R's sums by
 * lane, and the counts of C's nonzeros by block. */
static void agf_plain_r_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_plain_job *j = (const agf_plain_job *)arg;
  const agf_tensor *t = j->t;
  int64_t *counts = (int64_t *)agf_at(s, j->own->counts) + r * t->cb;
  double *sum = agf_plain_sums(s, j, r, 0);
  float *Fx = j->Fx + r * t->w;
  int b, i;
  if (j->dots_due) agf_plain_dots_task(s, arg, r, scratch);
  for (i = 0; j->adds_m && i < t->w; i++) Fx[i] += agf_sdiv(j->M[r * t->w + i], j->max_m);
  memset(sum, 0, (size_t)t->cb * AGF_CB * sizeof *sum);
  for (b = 0; b < t->cb; b++)
    counts[b] = s->k.combine(agf_row_of(j->C, t, b, r), agf_row_of(j->A, t, b, r), Fx, j->Fdx + r * t->w,
                             (j->options & AGF_OPT_NO_REG) != 0, (j->options & AGF_OPT_NO_A) != 0, t->w, sum + b * AGF_CB);
}

AGF_FAST_BEGIN
static void agf_plain_r(agf_session *s, agf_plain_job *j) {
  const int64_t *counts = (const int64_t *)agf_at(s, j->own->counts);
  double sum = 0, count = 0;
  int r, l;
  for (l = 0; j->adds_m && l < j->t->h * j->t->w; l++) j->max_m = j->M[l] > j->max_m ? j->M[l] : j->max_m;
  agf_parallel(s, j->t->h, agf_plain_r_task, j);
  for (r = 0; r < j->t->h; r++) {
    const double *row = agf_plain_sums(s, j, r, 0);
    for (l = 0; l < j->t->c; l++) sum += row[l];
    for (l = 0; l < j->t->cb; l++) count += (double)counts[r * j->t->cb + l];
  }
  j->mean = count > 0 ? (float)(sum / (count + 1e-9)) : 0.0f;
}
AGF_FAST_END

/* cam = shift(C, R) from C + R, and its delivery. */
static void agf_plain_shift_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_plain_job *j = (const agf_plain_job *)arg;
  const agf_tensor *t = j->t;
  agf_piece p = agf_piece_at(t, i);
  (void)scratch;
  for (; p.r < p.end; p.r++) {
    float *c = agf_row_of(j->C, t, p.b, p.r);
    s->k.shift(c, j->mean, t->w);
    agf_merge_row(s, j->delivery, p.b, p.r, c, agf_row_of(j->G, t, p.b, p.r));
  }
}

/* g * m, which Gm is made of: g where cam is not 0, else 0. It overwrites each pixel's second right-hand side, which the walk for C has
 * used, and is written out because grouped kernels read every element and no mask. */
static void agf_mask_g_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_gate_job *j = (const agf_gate_job *)arg;
  const agf_tensor *t = agf_out(s, j->st);
  agf_piece p = agf_piece_at(t, i);
  int k, l;
  (void)scratch;
  for (; p.r < p.end; p.r++) {
    size_t at = agf_row_at(t, p.b, p.r);
    float *g = j->rhs + at * AGF_CB * (size_t)j->vectors;
    for (k = 0; k < t->w; k++, g += AGF_CB * j->vectors)
      for (l = 0; l < AGF_CB; l++) g[AGF_CB + l] = j->cam_mask[at + (size_t)k] >> l & 1 ? g[l] : 0.0f;
  }
}

/* Of [cam, g] likewise, as an adjoint's prologue: [g * m, g]. */
static void agf_make_masked_g(agf_session *s, const agf_conv_job *j, int block, int row, float *to, uint16_t *mask) {
  int k, l;
  agf_make_gated(s, j, block, row, to, mask);
  for (k = 0; k < j->wi; k++, to += 2 * AGF_CB)
    for (l = 0; l < AGF_CB; l++) to[l] = to[l] != 0 ? to[AGF_CB + l] : 0.0f;
}

/* Gm or, unless `masked`, G, in a walk of its own. */
static void agf_plain_g(agf_session *s, const agf_plain_job *j, agf_gate_job gate, int masked, float *maxima) {
  if (!j->own->window) {
    if (masked) agf_parallel(s, agf_pieces(agf_out(s, j->st)), agf_mask_g_task, &gate);
    agf_conv_adjoint_g(s, j->st, gate.rhs + (masked ? AGF_CB : 0), gate.vectors, masked ? gate.cam_mask : gate.mask, NULL, NULL,
                       j->G, maxima);
    return;
  }
  gate.kind = masked ? AGF_GATE_PASS : AGF_GATE_C;
  agf_conv_adjoint_g(s, j->st, NULL, 2, NULL, masked ? agf_make_masked_g : agf_make_gated, &gate, j->G, maxima);
}

/* A = convT(|w|, sdiv(cam, conv(1, |w|) * m)) in a walk of its own (low_memory): its right-hand side takes the place of the first walk's,
 * at the start of gate.rhs, and A lies behind that. */
static void agf_plain_a_apart(agf_session *s, const agf_plain_job *j, agf_gate_job gate) {
  agf_adjoint_out out;
  agf_conv_job a;
  gate.kind = AGF_GATE_A;
  gate.g = NULL;
  gate.cam_mask = NULL;
  gate.vectors = 1;
  agf_gate(s, &gate);
  memset(&out, 0, sizeof out);
  out.t = j->t;
  out.a = j->A;
  agf_job_adjoint(s, &a, j->st, AGF_RHS_A, gate.rhs, 1, gate.mask, agf_done_adjoint, &out);
  agf_conv(s, &a);
}

/* In the specification's order: phi and M are agf_plain_phi_task's, F's coefficients agf_f_solve's, Fx and Fdx agf_plain_dots'; A comes
 * with the first walk or from agf_plain_a_apart; R is agf_plain_r, its shift agf_plain_shift_task or the next step's gate. */
static void agf_plain_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  const agf_conv_step *own = agf_conv_of(st);
  size_t pixels;
  int bare = agf_bare(e->options), needs_g = !bare || e->arrival[s->plan->in[st->in]].wants_g, outside;
  agf_tensor_facts *facts = &s->run.tensor[s->plan->in[st->in]];
  agf_gate_job gate = agf_gate_of(s, e, st);
  agf_adjoint_out out;
  agf_conv_job walk;
  agf_delivery d;
  agf_plain_job j;

  if (!agf_facts(s, st)->border_known) agf_border(s, st, 1.0f, -1, agf_floats(s, own->border));
  agf_facts(s, st)->border_known = 1;
  gate.kind = own->apart ? AGF_GATE_C : AGF_GATE_C_AND_A;
  gate.cam_mask = (uint16_t *)agf_at(s, own->cam_mask);
  if (!needs_g) gate.g = NULL;
  gate.vectors = 1 + !own->apart + needs_g;
  s->bad = 0;
  if (!own->window) agf_gate(s, &gate);
  d = agf_begin_delivery(s, e, st, 0);

  memset(&j, 0, sizeof j);
  j.st = st;
  j.own = own;
  j.t = d.t;
  pixels = (size_t)j.t->h * (size_t)j.t->w;
  j.C = d.cam;
  j.G = d.g;
  j.A = own->apart ? gate.rhs + agf_tensor_elements(agf_out(s, st)) : agf_floats(s, own->a);
  j.phi = agf_floats(s, own->maps);
  j.M = j.phi + pixels;
  j.Fx = j.M + pixels;
  j.Fdx = j.Fx + pixels;
  j.options = e->options;
  j.delivery = &d;

  /* C = |x| * convT(|w|, sdiv(cam, conv(|x|, |w|) * m)), G = convT(w, g), and A */
  memset(&out, 0, sizeof out);
  out.t = j.t;
  out.g = needs_g ? j.G : NULL;
  out.c = j.C;
  out.a = own->apart ? NULL : j.A;
  out.maxima = bare ? NULL : agf_floats(s, own->maxima);
  out.want_max_x = !facts->max_known;
  agf_job_adjoint(s, &walk, st,
                  needs_g      ? own->back
                  : own->apart ? AGF_RHS_A
                               : AGF_RHS_APAIR,
                  gate.rhs, gate.vectors, gate.mask, agf_done_adjoint, &out);
  if (own->window) agf_job_make(s, &walk, agf_make_gated, &gate);
  agf_conv(s, &walk);
  /* Gm = convT(w, g * m): G wherever g is 0 outside m; else it is formed now, and G again when Fdx is done */
  outside = (s->bad & AGF_BAD_OUTSIDE) && !bare;
  if (outside) agf_plain_g(s, &j, gate, 1, out.maxima);

  memset(j.Fx, 0, 2 * pixels * sizeof *j.Fx);
  if (bare) {
    j.options |= AGF_OPT_NO_REG; /* 0 / (1 + exp(-C)) is 0 */
  } else {
    if (!facts->max_known) facts->max = agf_plain_max(s, &j, 1);
    facts->max_known = 1;
    if (j.options & AGF_OPT_FX_GRADCAM)
      agf_plain_gradcam(s, &j);
    else if (!(j.options & AGF_OPT_NO_FX))
      agf_plain_add_f(s, &j, agf_x(s, j.t), j.t->xr, j.t->xb, facts->max, j.Fx);
    if (!(j.options & AGF_OPT_NO_FDX))
      agf_plain_add_f(s, &j, j.G, (ptrdiff_t)j.t->w * AGF_CB, agf_plane(j.t), agf_plain_max(s, &j, 0), j.Fdx);
    agf_plain_phi(s, &j);
    if (outside) {
      agf_plain_dots(s, &j);
      agf_plain_g(s, &j, gate, 0, NULL);
      j.fs = 0;
      agf_parallel(s, j.t->h, agf_plain_phi_task, &j); /* M of G itself */
    }
    j.adds_m = !(j.options & (AGF_OPT_NO_M | AGF_OPT_FX_GRADCAM));
  }
  if (own->apart) agf_plain_dots(s, &j);
  if (own->apart) agf_plain_a_apart(s, &j, gate);
  agf_plain_r(s, &j);
  if (own->late) {
    e->arrival[s->plan->in[st->in]].late = 1;
    e->arrival[s->plan->in[st->in]].mean = j.mean;
  } else {
    agf_parallel(s, agf_pieces(j.t), agf_plain_shift_task, &j);
  }
}

static void agf_conv_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  if (!agf_conv_of(st)->gated) agf_conv_need_d(s, st);
  if (s->config.observer) agf_observe_inside(s, e, st);
  if (st->box)
    agf_image_rule(s, st, e);
  else if (agf_conv_of(st)->plain)
    agf_plain_rule(s, st, e);
  else
    agf_flat_rule(s, st, e);
}

#ifndef AGF_NO_METHODS

/* --- layer-wise relevance propagation --- */

typedef struct agf_divide_job {
  const agf_tensor *t; /* the output */
  const float *R;      /* [cb][h][w][16] */
  float *z;            /* laid out as R: the sums that it is divided by, written first (agf_done_z) */
  float *out;
  uint16_t *mask;
} agf_divide_job;

/* s = sdiv(R, z), with its mask. */
static void agf_lrp_divide_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_divide_job *j = (const agf_divide_job *)arg;
  const agf_tensor *t = j->t;
  int b, i;
  (void)scratch;
  for (b = 0; b < t->cb; b++) {
    size_t row = agf_row_at(t, b, r), at = row * AGF_CB;
    for (i = 0; i < t->w * AGF_CB; i++, at++) j->out[at] = agf_sdiv(j->R[at], j->z[at]);
    s->k.nonzeros(j->out + row * AGF_CB, t->w, j->mask + row);
  }
}

typedef struct agf_half_job {
  const agf_tensor *t; /* the input */
  int negative;        /* which part of it */
  float *out;          /* laid out as x */
  uint16_t *mask;
} agf_half_job;

static void agf_lrp_half_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_half_job *j = (const agf_half_job *)arg;
  const agf_tensor *t = j->t;
  int b, i;
  (void)scratch;
  for (b = 0; b < t->cb; b++) {
    const float *x = agf_row_x(s, t, b, r);
    float *out = j->out + b * t->xb + r * t->xr;
    for (i = 0; i < t->w * AGF_CB; i++) out[i] = (j->negative ? x[i] < 0 : x[i] > 0) ? x[i] : 0.0f;
    s->k.nonzeros(out, t->w, j->mask + agf_row_at(t, b, r));
  }
}

/* The sums that R is divided by. */
static void agf_done_z(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as, ptrdiff_t rs) {
  const agf_divide_job *o = (const agf_divide_job *)j->out;
  (void)rs;
  s->k.store(acc, as, j->wo, agf_row_of(o->z, o->t, block, row));
}

typedef struct agf_lrp_out {
  const agf_tensor *t; /* the input */
  const float *part;   /* the part of it that is multiplied, laid out as x */
  float factor;
  int add; /* to what `out` holds */
  float *out;
} agf_lrp_out;

/* out = [out +] factor * (part * acc). */
static void agf_done_lrp(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as, ptrdiff_t rs) {
  const agf_lrp_out *o = (const agf_lrp_out *)j->out;
  const agf_tensor *t = o->t;
  const float *x = o->part + block * t->xb + row * t->xr;
  float *c = agf_row_of(o->out, t, block, row);
  int p, l;
  (void)s;
  (void)rs;
  for (p = 0; p < t->w; p++, acc += as, x += AGF_CB, c += AGF_CB)
    for (l = 0; l < AGF_CB; l++) {
      float v = o->factor * (x[l] * acc[l]);
      c[l] = (o->add ? c[l] : 0.0f) + v;
    }
}

static void agf_conv_lrp(agf_session *s, const agf_step *st, int slot, int alpha, const float *R, float *out) {
  const agf_conv_step *own = agf_conv_of(st);
  const agf_tensor *ti = agf_in(s, st, 0);
  const float *part = agf_x(s, ti);
  const uint16_t *mask = (const uint16_t *)agf_at(s, ti->mask);
  float *z = agf_floats(s, own->d), *half = agf_floats(s, own->half);
  agf_lrp_term terms[4];
  agf_divide_job divide;
  agf_lrp_out to;
  agf_conv_job j;
  int i, n;
  (void)slot;
  divide.t = agf_out(s, st);
  divide.R = R;
  divide.z = z;
  divide.out = agf_floats(s, st->rhs);
  divide.mask = (uint16_t *)agf_at(s, st->rhs_mask);
  if (st->box) {
    agf_conv_need_d(s, st);
    agf_parallel(s, divide.t->h, agf_lrp_divide_task, &divide);
    agf_box_adjoint(s, st, out);
    return;
  }
  agf_facts(s, st)->d_known = 0; /* its place is taken by the sums that R is divided by */
  to.t = ti;
  to.out = out;
  n = agf_lrp_terms(alpha, ti->is_signed, terms);
  for (i = 0; i < n; i++) {
    if (half && (i == 0 || terms[i].negative != terms[i - 1].negative)) {
      agf_half_job split;
      split.t = ti;
      split.negative = terms[i].negative;
      split.out = half + ti->bh * ti->xr + (ptrdiff_t)ti->bw * AGF_CB;
      split.mask = (uint16_t *)agf_at(s, own->half_mask);
      agf_clear_buffer(s, own->half);
      agf_parallel(s, ti->h, agf_lrp_half_task, &split);
      part = split.out;
      mask = split.mask;
    }
    agf_job_forward(s, &j, st, AGF_RHS_W, part, mask, agf_done_z, &divide);
    j.filter = terms[i].filter;
    agf_conv(s, &j);
    agf_parallel(s, divide.t->h, agf_lrp_divide_task, &divide);
    to.part = part;
    to.factor = terms[i].factor;
    to.add = i > 0;
    agf_job_adjoint(s, &j, st, AGF_RHS_W, divide.out, 1, divide.mask, agf_done_lrp, &to);
    j.filter = terms[i].filter;
    agf_conv(s, &j);
  }
}

#endif

/* MARK: op: linear ------------------------------------------------------------------------------------------------------------
 * y = W x + b, a vector from a vector or from a flattened tensor. agf-spec: C = |x| * (|W|^T sdiv(cam, |W| |x|)); behind a flatten
 * M = relu(mean over channels of x * g), divided by its maximum where C is not 0, and cam = shift(C, M), else cam = C; g = W^T g.
 * LRP as a convolution's. */

typedef struct agf_linear_step {
  int flattened; /* its input is a flattened tensor: the rule has an M */
  int co;        /* outputs, filled to whole panels */
  agf_id vec;    /* float [inputs]: the input in the order of W's rows */
  agf_id y, d;   /* float [co]: W x, |W| |x| */
  agf_id gv, sv; /* float [inputs]: W^T g, |W|^T s and what becomes of it */
  agf_id m;      /* float [h][w]: M */
} agf_linear_step;

static inline const agf_linear_step *agf_linear_of(const agf_step *st) { return (const agf_linear_step *)st->own; }

/* A task of a linear layer forward is the columns of one thread, whole rows if there is one: W comes fastest in long pieces. Its
 * adjoint's is some rows. Weights of f16 are widened a few rows at a time. */
enum { AGF_LINEAR_TASK_ROWS = 64, AGF_LINEAR_WIDE_ROWS = 8 };

static int agf_linear_columns(const agf_session *s, int co) {
  return agf_ceil_div(agf_ceil_div(co, s->threads), AGF_OCG) * AGF_OCG;
}

static agf_status agf_linear_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  const agf_shape *x = agf_input_shape(in, 0);
  const int *d = in->model->weight[n->w].dim;
  if (in->model->weight[n->w].layout != AGF_LAYOUT_LINEAR || (!x->flattened && x->h * x->w > 1) || d[1] != x->c || d[2] != x->h ||
      d[3] != x->w)
    return agf_fail(err, AGF_ERR_SHAPE, "layer %s (linear): reads [%d, %d, %d], but at this size its input is [%d, %d, %d]",
                    n->name, d[1], d[2], d[3], x->c, x->h, x->w);
  out->c = n->channels;
  out->h = out->w = 1;
  out->flattened = 1;
  return AGF_OK;
}

static agf_status agf_linear_weights(const agf_model *m, const agf_node *n, const agf_shape *in, agf_error *err) {
  const agf_weight *w = &m->weight[n->w];
  int fit = w->layout == AGF_LAYOUT_LINEAR && w->dim[0] == n->channels && w->dim[1] == in->c && w->dim[2] == in->h &&
            w->dim[3] == in->w && agf_is_vector(m, n->b, n->channels);
  return agf_weights_fit(m, n, in, fit, err);
}

static void agf_linear_connect(agf_planner *p, agf_step *st) {
  agf_linear_step *own = (agf_linear_step *)st->own;
  int from = p->model->edge[p->model->node[st->node].edge];
  own->flattened = from && (agf_rules_of(p->model->node[from - 1].op)->traits & AGF_RESHAPES);
  st->uses_g = own->flattened ? AGF_G_ALWAYS : AGF_G_NEVER;
}

static agf_status agf_linear_plan(agf_planner *p, agf_step *st, agf_error *err) {
  agf_linear_step *own = (agf_linear_step *)st->own;
  const agf_tensor *ti = agf_plan_in(p, st, 0);
  uint64_t rows = (uint64_t)ti->c * (uint64_t)ti->h * (uint64_t)ti->w, co;
  int end = agf_end(p), gate = agf_gate_moment(p, st), back = agf_adjoint_moment(p, st);
  (void)err;
  own->co = agf_filled(p->model->node[st->node].channels);
  co = (uint64_t)own->co;
  st->bias = agf_buf(p, co * 4, 0, end);
  own->vec = agf_buf(p, rows * 4, 0, end);
  own->y = agf_buf(p, co * 4, 0, end);
  own->d = agf_buf(p, co * 4, 0, end);
  st->rhs = agf_buf(p, co * 4 * 2, 0, end); /* float [2][co]: g and s */
  own->gv = agf_buf(p, rows * 4, gate, back);
  own->sv = agf_buf(p, rows * 4, gate, back);
  if (own->flattened) own->m = agf_buf(p, (uint64_t)ti->h * (uint64_t)ti->w * 4, gate, back);
  agf_need_scratch(p, (uint64_t)AGF_LINEAR_WIDE_ROWS * co * 4);
  return AGF_OK;
}

typedef struct agf_linear_job {
  const agf_step *st;
  const float *x; /* [rows] */
  int rows;
  int filter;   /* 0 w, 1 w+, 2 w- */
  float *y, *d; /* [co]: W x, |W| |x|; d NULL: not wanted */
} agf_linear_job;

static void agf_linear_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_linear_job *j = (const agf_linear_job *)arg;
  const agf_weight *w = &s->model->weight[s->model->node[j->st->node].w];
  int co = agf_linear_of(j->st)->co, each = agf_linear_columns(s, co), c0 = i * each, columns = agf_imin(each, co - c0), k, r;
  float *d = j->d ? j->d + c0 : NULL, *wide = (float *)(void *)scratch;
  memset(j->y + c0, 0, (size_t)columns * sizeof(float));
  if (d) memset(d, 0, (size_t)columns * sizeof(float));
  if (w->type == AGF_F32 && !j->filter) {
    s->k.linear(j->x, j->rows, (const float *)(const void *)w->data + c0, co, columns, j->y + c0, d);
    return;
  }
  for (k = 0; k < j->rows; k += AGF_LINEAR_WIDE_ROWS) {
    int rows = agf_imin(AGF_LINEAR_WIDE_ROWS, j->rows - k);
    for (r = 0; r < rows; r++)
      if (j->x[k + r] != 0)
        agf_load_weights(s, w, (size_t)(k + r) * (size_t)co + (size_t)c0, (size_t)columns, j->filter, wide + r * columns);
    s->k.linear(j->x + k, rows, wide, columns, columns, j->y + c0, d);
  }
}

static void agf_linear_walk(agf_session *s, const agf_linear_job *j) {
  int co = agf_linear_of(j->st)->co;
  agf_parallel(s, agf_ceil_div(co, agf_linear_columns(s, co)), agf_linear_task, j);
}

typedef struct agf_linear_back_job {
  const agf_step *st;
  const float *x; /* [rows] */
  int rows;
  int filter;
  int all;             /* rows whose x is 0 too */
  const float *g, *sv; /* [co] */
  float *tg, *ts;      /* [rows]: W^T g, |W|^T sv; NULL: not wanted */
} agf_linear_back_job;

static void agf_linear_back_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_linear_back_job *j = (const agf_linear_back_job *)arg;
  const agf_weight *w = &s->model->weight[s->model->node[j->st->node].w];
  int k = i * AGF_LINEAR_TASK_ROWS, end = agf_imin(k + AGF_LINEAR_TASK_ROWS, j->rows), rows, r;
  int direct = w->type == AGF_F32 && !j->filter, co = agf_linear_of(j->st)->co;
  for (; k < end; k += rows) {
    const float *at = (const float *)(const void *)w->data + (size_t)k * (size_t)co;
    rows = direct ? end - k : agf_imin(AGF_LINEAR_WIDE_ROWS, end - k);
    if (!direct) {
      float *wide = (float *)(void *)scratch;
      for (r = 0; r < rows; r++)
        if (j->all || j->x[k + r] != 0)
          agf_load_weights(s, w, (size_t)(k + r) * (size_t)co, (size_t)co, j->filter, wide + (size_t)r * (size_t)co);
      at = wide;
    }
    s->k.linear_back(j->x + k, j->all, rows, at, co, co, j->g, j->sv, j->tg ? j->tg + k : NULL, j->ts ? j->ts + k : NULL);
  }
}

static void agf_linear_walk_back(agf_session *s, const agf_linear_back_job *j) {
  agf_parallel(s, agf_ceil_div(j->rows, AGF_LINEAR_TASK_ROWS), agf_linear_back_task, j);
}

/* A tensor's elements in the order of a linear layer's rows ([block][h][w][channel of the block]), and back. */
static void agf_gather(const agf_tensor *t, const float *x, float *vec) {
  int b, r, p;
  for (b = 0; b < t->cb; b++) {
    size_t lanes = (size_t)agf_imin(AGF_CB, t->c - b * AGF_CB);
    for (r = 0; r < t->h; r++)
      for (p = 0; p < t->w; p++, vec += lanes) memcpy(vec, x + b * t->xb + r * t->xr + p * AGF_CB, lanes * sizeof(float));
  }
}

static void agf_scatter(const agf_tensor *t, const float *vec, float *out) {
  int b, p;
  for (b = 0; b < t->cb; b++) {
    size_t lanes = (size_t)agf_imin(AGF_CB, t->c - b * AGF_CB);
    for (p = 0; p < t->h * t->w; p++, vec += lanes, out += AGF_CB) {
      memset(out, 0, AGF_CB * sizeof(float));
      memcpy(out, vec, lanes * sizeof(float));
    }
  }
}

static void agf_linear_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  const agf_linear_step *own = agf_linear_of(st);
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  agf_linear_job j;
  int b;
  j.st = st;
  j.x = agf_floats(s, own->vec);
  j.rows = ti->c * ti->h * ti->w;
  j.filter = 0;
  j.y = agf_floats(s, own->y);
  j.d = f->want_d ? agf_floats(s, own->d) : NULL;
  agf_gather(ti, f->x, agf_floats(s, own->vec));
  agf_linear_walk(s, &j);
  for (b = 0; f->y && b < to->cb; b++)
    if (s->k.store_y(j.y + b * AGF_CB, AGF_CB, 1, NULL, f->bias + b * AGF_CB, f->act, f->y + b * to->xb,
                     f->y_mask ? f->y_mask + b : NULL))
      agf_raise(&s->bad, AGF_BAD_VALUE);
  agf_facts(s, st)->d_known = f->want_d;
}

/* W^T g, every row of W. */
static void agf_linear_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  const agf_linear_step *own = agf_linear_of(st);
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  float *wide = agf_floats(s, st->rhs); /* g, filled to the columns of W */
  agf_linear_back_job j;
  (void)slot;
  memset(wide, 0, (size_t)own->co * sizeof *wide);
  memcpy(wide, g, (size_t)to->c * sizeof *wide);
  memset(&j, 0, sizeof j);
  j.st = st;
  j.x = agf_floats(s, own->vec);
  j.rows = ti->c * ti->h * ti->w;
  j.all = 1;
  j.g = wide;
  j.tg = agf_floats(s, own->gv);
  agf_linear_walk_back(s, &j);
  agf_scatter(ti, j.tg, out);
}

/* M of a linear layer behind a flatten: relu(mean over channels of x * g) at each position where C is not 0, divided by its
 * maximum, then cam = shift(C, M). Such tensors are small: plain loops. */
static void agf_linear_m(agf_session *s, const agf_step *st, const agf_tensor *t, float *c, const float *g) {
  float *m = agf_floats(s, agf_linear_of(st)->m), max = 0.0f;
  double sum = 0;
  long count = 0;
  int r, p, b, l;
  for (r = 0; r < t->h; r++) {
    float *row = m + r * t->w;
    uint16_t any;
    s->k.pixel_sums(c + agf_row_at(t, 0, r) * AGF_CB, agf_plane(t), agf_row_x(s, t, 0, r), t->xb, g + agf_row_at(t, 0, r) * AGF_CB,
                    agf_plane(t), t->cb, t->w, agf_floats(s, agf_linear_of(st)->sv), row);
    for (p = 0; p < t->w; p++) {
      any = 0;
      for (b = 0; b < t->cb; b++)
        for (l = 0; l < AGF_CB; l++) any |= c[(agf_row_at(t, b, r) + (size_t)p) * AGF_CB + (size_t)l] != 0;
      row[p] = agf_relu(row[p] / (float)t->c);
      if (any && row[p] > max) max = row[p];
    }
  }
  for (r = 0; r < t->h * t->w; r++) m[r] = agf_sdiv(m[r], max);
  for (b = 0; b < t->cb; b++)
    for (p = 0; p < t->h * t->w; p++)
      for (l = 0; l < AGF_CB; l++)
        if (c[((size_t)b * (size_t)(t->h * t->w) + (size_t)p) * AGF_CB + (size_t)l] != 0) sum += (double)m[p], count++;
  sum = count ? sum / ((double)count + 1e-9) : 0;
  for (b = 0; b < t->cb; b++)
    for (p = 0; p < t->h * t->w; p++)
      for (l = 0; l < AGF_CB; l++) {
        float *v = &c[((size_t)b * (size_t)(t->h * t->w) + (size_t)p) * AGF_CB + (size_t)l];
        if (*v != 0) *v = (*v + m[p]) - (float)sum;
      }
}

static void agf_linear_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  const agf_linear_step *own = agf_linear_of(st);
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  const float *cam_y = agf_floats(s, to->cam), *g_y = agf_wanted_g(s, e, st);
  float pair[2 * AGF_CB], *g = agf_floats(s, st->rhs), *sv = g + own->co, *cam, *out_g, *c = agf_floats(s, own->sv);
  int b, k, rows = ti->c * ti->h * ti->w, wants_g = e->arrival[s->plan->in[st->in]].wants_g;
  agf_linear_back_job j;
  agf_gate_row q;
  if (!agf_facts(s, st)->d_known) {
    agf_flow f = agf_flow_of(s, st, 1);
    f.y = NULL;
    agf_linear_forward(s, st, &f);
  }
  memset(&q, 0, sizeof q);
  memset(g, 0, (size_t)own->co * 2 * sizeof(float));
  for (b = 0; b < to->cb; b++) { /* s = sdiv(cam, |W| |x|), and g */
    q.cam = cam_y + b * AGF_CB;
    q.g = g_y ? g_y + b * AGF_CB : NULL;
    q.y = agf_row_x(s, to, b, 0);
    q.quotients = 1;
    q.d = agf_floats(s, own->d) + b * AGF_CB;
    q.act = st->act;
    q.rhs = pair;
    s->k.gate(&q, 1);
    memcpy(g + b * AGF_CB, pair, AGF_CB * sizeof(float));
    memcpy(sv + b * AGF_CB, g_y ? pair + AGF_CB : pair, AGF_CB * sizeof(float));
  }
  memset(&j, 0, sizeof j);
  j.st = st;
  j.x = agf_floats(s, own->vec);
  j.rows = rows;
  j.all = wants_g;
  j.g = g;
  j.sv = sv;
  j.tg = own->flattened || wants_g ? agf_floats(s, own->gv) : NULL;
  j.ts = c;
  agf_linear_walk_back(s, &j);
  for (k = 0; k < rows; k++) c[k] = fabsf(j.x[k]) * c[k] + 0.0f;
  agf_destination(s, e, st, 0, &cam, &out_g);
  agf_scatter(ti, c, cam);
  if (j.tg) agf_scatter(ti, j.tg, out_g);
  if (own->flattened) agf_linear_m(s, st, ti, cam, out_g);
  agf_deliver(s, e, st, 0);
}

#ifndef AGF_NO_METHODS

static void agf_linear_lrp(agf_session *s, const agf_step *st, int slot, int alpha, const float *R, float *out) {
  const agf_linear_step *own = agf_linear_of(st);
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  float *x = agf_floats(s, own->vec), *sum = agf_floats(s, own->sv), *rhs = agf_floats(s, st->rhs);
  agf_lrp_term terms[4];
  agf_linear_job j;
  agf_linear_back_job back;
  int i, k, n, rows = ti->c * ti->h * ti->w;
  (void)slot;
  j.st = st;
  j.x = x;
  j.rows = rows;
  j.y = agf_floats(s, own->y);
  j.d = NULL;
  memset(&back, 0, sizeof back);
  back.st = st;
  back.x = x;
  back.rows = rows;
  back.g = rhs;
  back.tg = agf_floats(s, own->gv);
  n = agf_lrp_terms(alpha, ti->is_signed, terms);
  memset(rhs, 0, (size_t)own->co * sizeof *rhs);
  for (i = 0; i < n; i++) {
    if (i == 0 || terms[i].negative != terms[i - 1].negative) {
      agf_gather(ti, agf_x(s, ti), x);
      for (k = 0; k < rows; k++) x[k] = (terms[i].negative ? x[k] < 0 : x[k] > 0) ? x[k] : 0.0f;
    }
    j.filter = back.filter = terms[i].filter;
    agf_linear_walk(s, &j);
    for (k = 0; k < to->c; k++) rhs[k] = agf_sdiv(R[k], j.y[k]);
    agf_linear_walk_back(s, &back);
    for (k = 0; k < rows; k++) {
      float v = terms[i].factor * (x[k] * back.tg[k]);
      sum[k] = (i ? sum[k] : 0.0f) + v;
    }
  }
  agf_scatter(ti, sum, out);
  agf_gather(ti, agf_x(s, ti), x); /* AGF's rule reads it there */
}

#endif

/* MARK: op: batchnorm and activations -----------------------------------------------------------------------------------------
 * BatchNorm: y = scale * x + bias; cam passes, g is scaled. ReLU, ReLU6: cam = x * sdiv(cam, x) where x > 0, g where the output
 * moves with the input. Most are part of the step before them (agf_make_steps); these are the steps of those that are not. LRP
 * passes R. */

static agf_status agf_scale_and_bias_weights(const agf_model *m, const agf_node *n, const agf_shape *in, agf_error *err) {
  return agf_weights_fit(m, n, in, agf_is_vector(m, n->w, in->c) && agf_is_vector(m, n->b, in->c), err);
}

static agf_status agf_batchnorm_plan(agf_planner *p, agf_step *st, agf_error *err) {
  uint64_t lanes = (uint64_t)agf_plan_out(p, st)->cb * AGF_CB;
  (void)err;
  st->scale = agf_buf(p, lanes * 4, 0, agf_end(p));
  st->bias = agf_buf(p, lanes * 4, 0, agf_end(p));
  return AGF_OK;
}

static void agf_batchnorm_fill(agf_session *s, const agf_step *st) {
  agf_fill_bias(s, st);
  agf_clear_buffer(s, st->scale);
  agf_load_vector(&s->model->weight[s->model->node[st->node].w], agf_floats(s, st->scale));
}

/* An activation by itself is a BatchNorm that adds 0. */
static agf_status agf_act_plan(agf_planner *p, agf_step *st, agf_error *err) {
  (void)err;
  st->bias = agf_buf(p, (uint64_t)agf_plan_out(p, st)->cb * AGF_CB * 4, 0, agf_end(p));
  return AGF_OK;
}

static void agf_tail_rows(agf_session *s, const agf_step *st, const agf_flow *f, int b, int r, int end, unsigned char *scratch) {
  const agf_tensor *ti = agf_in(s, st, 0), *t = agf_out(s, st);
  (void)scratch;
  for (; r < end; r++)
    if (s->k.store_y(f->x + b * ti->xb + r * ti->xr, AGF_CB, t->w, f->scale ? f->scale + b * AGF_CB : NULL, f->bias + b * AGF_CB,
                     f->act, f->y + b * t->xb + r * t->xr, f->y_mask ? f->y_mask + agf_row_at(t, b, r) : NULL))
      agf_raise(&s->bad, AGF_BAD_VALUE);
}

/* MARK: op: pools -------------------------------------------------------------------------------------------------------------
 * Max, average, adaptive and global average pools: windows of their own, one rule. agf-spec: cam = x * poolT(sdiv(cam, y)), the
 * magnitudes of x in place of x where an average may cancel; g = poolT(g). LRP the same with R. */

typedef struct agf_pool_step {
  int cancels; /* it averages what may cancel */
  /* int32_t [3][h]: each output row's window, from and up to which row of the input; where the first window of this row and those
   * below begins. */
  agf_id rows;
  agf_id columns; /* int32_t [2][w] */
  agf_id divisor; /* float [h][w] */
} agf_pool_step;

static inline const agf_pool_step *agf_pool_of(const agf_step *st) { return (const agf_pool_step *)st->own; }

/* A pool's window on one axis, clipped to the input, from its first tap on; extent: its part of the divisor (agf-spec, "Pools"). */
static void agf_pool_window(const agf_node *n, int axis, int in, int o, int outputs, int *lo, int *hi, int *extent) {
  int64_t start, end, step;
  if (agf_rules_of(n->op)->traits & AGF_POOLS_TO_SIZE) {
    *lo = (int)((int64_t)o * in / outputs);
    *hi = (int)(((int64_t)(o + 1) * in + outputs - 1) / outputs);
    *extent = *hi - *lo;
    return;
  }
  step = agf_imax(n->dilation[axis], 1);
  start = (int64_t)o * n->stride[axis] - n->pad[axis];
  end = start + (int64_t)(n->kernel[axis] - 1) * step + 1;
  *lo = (int)(start < 0 ? start + (-start + step - 1) / step * step : start);
  *hi = (int)(end < in ? end : in);
  *extent = n->flags & AGF_FLAG_INCLUDE_PAD ? n->kernel[axis] : *hi - *lo;
}

static agf_status agf_pool_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  const agf_shape *x = agf_input_shape(in, 0);
  int ceil_mode = (n->flags & AGF_FLAG_CEIL) != 0, axis, o, lo, hi, extent;
  if (n->pad[0] >= n->kernel[0] || n->pad[2] >= n->kernel[0] || n->pad[1] >= n->kernel[1] || n->pad[3] >= n->kernel[1])
    return agf_fail(err, AGF_ERR_FORMAT, "model file: node %d (%s, %s) has padding as large as its %d x %d window",
                    (int)(n - in->model->node), n->name, agf_op_name(n->op), n->kernel[0], n->kernel[1]);
  out->h = agf_window_outputs(x->h, n->kernel[0], n->stride[0], n->pad[0], n->pad[2], agf_imax(n->dilation[0], 1), ceil_mode);
  out->w = agf_window_outputs(x->w, n->kernel[1], n->stride[1], n->pad[1], n->pad[3], agf_imax(n->dilation[1], 1), ceil_mode);
  if (out->h < 1 || out->w < 1) return agf_shape_error(err, n, x, "its window does not fit");
  for (axis = 0; axis < 2; axis++) { /* a dilated window may have padding under all its taps */
    int size = axis ? x->w : x->h, outputs = axis ? out->w : out->h;
    for (o = 0; n->dilation[axis] > 1 && o < outputs; o++) {
      agf_pool_window(n, axis, size, o, outputs, &lo, &hi, &extent);
      if (lo >= hi) return agf_shape_error(err, n, x, "a window lies in the padding");
    }
  }
  return AGF_OK;
}

static agf_status agf_adaptive_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  (void)err;
  out->h = in->node->kernel[0];
  out->w = in->node->kernel[1];
  return AGF_OK;
}

static agf_status agf_global_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  (void)in, (void)err;
  out->h = out->w = 1;
  return AGF_OK;
}

/* An average of a tensor that may be negative may cancel. */
static void agf_average_connect(agf_planner *p, agf_step *st) { ((agf_pool_step *)st->own)->cancels = agf_inputs_signed(p, st); }

static agf_status agf_pool_plan(agf_planner *p, agf_step *st, agf_error *err) {
  agf_pool_step *own = (agf_pool_step *)st->own;
  const agf_tensor *ti = agf_plan_in(p, st, 0), *to = agf_plan_out(p, st);
  (void)err;
  own->rows = agf_buf(p, (uint64_t)to->h * 3 * 4, 0, agf_end(p));
  own->columns = agf_buf(p, (uint64_t)to->w * 2 * 4, 0, agf_end(p));
  own->divisor = agf_buf(p, (uint64_t)to->h * (uint64_t)to->w * 4, 0, agf_end(p));
  if (own->cancels) agf_need_scratch(p, (uint64_t)agf_imax(ti->w, to->w) * AGF_CB * 4);
  return AGF_OK;
}

static void agf_pool_fill(agf_session *s, const agf_step *st) {
  const agf_pool_step *own = agf_pool_of(st);
  const agf_node *n = &s->model->node[st->node];
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  int32_t *h = (int32_t *)agf_at(s, own->rows), *w = (int32_t *)agf_at(s, own->columns);
  float *divisor = agf_floats(s, own->divisor);
  int r, p, lo, hi, rows, columns, from = ti->h;
  for (r = to->h - 1; r >= 0; r--) {
    agf_pool_window(n, 0, ti->h, r, to->h, &lo, &hi, &rows);
    from = agf_imin(from, lo);
    h[r] = lo;
    h[to->h + r] = hi;
    h[2 * to->h + r] = from;
    for (p = 0; p < to->w; p++) {
      agf_pool_window(n, 1, ti->w, p, to->w, &lo, &hi, &columns);
      w[p] = lo;
      w[to->w + p] = hi;
      divisor[r * to->w + p] = (float)((double)rows * columns);
    }
  }
}

/* One row of one output block of a pool, as the kernels read it. x: of the input, element (0, 0, 0). */
static void agf_pool_row_of(const agf_session *s, const agf_step *st, const float *x, int b, int r, agf_pool_row *q) {
  const agf_pool_step *own = agf_pool_of(st);
  const agf_tensor *ti = agf_in(s, st, 0), *to = agf_out(s, st);
  const int32_t *rows = (const int32_t *)agf_at(s, own->rows);
  q->x = x + b * ti->xb;
  q->xr = ti->xr;
  q->tr = (ptrdiff_t)ti->w * AGF_CB;
  q->h0 = rows[r];
  q->h1 = rows[to->h + r];
  q->w0 = (const int32_t *)agf_at(s, own->columns);
  q->w1 = q->w0 + to->w;
  q->dh = agf_imax(s->model->node[st->node].dilation[0], 1);
  q->dw = agf_imax(s->model->node[st->node].dilation[1], 1);
  q->div = st->rules->traits & AGF_IS_MAXIMUM ? NULL : agf_floats(s, own->divisor) + r * to->w;
  q->magnitudes = 0;
  q->n = to->w;
}

static void agf_pool_rows(agf_session *s, const agf_step *st, const agf_flow *f, int b, int r, int end, unsigned char *scratch) {
  const agf_tensor *t = agf_out(s, st);
  agf_pool_row q;
  (void)scratch;
  for (; r < end; r++) {
    agf_pool_row_of(s, st, f->x, b, r, &q);
    s->k.pool(&q, f->y + b * t->xb + r * t->xr, agf_row_mask(s, t, b, r));
  }
}

/* |x| of a row of n pixels. */
AGF_FAST_BEGIN
static void agf_magnitude_row(const float *x, int n, float *out) {
  int p, l;
  for (p = 0; p < n; p++, x += AGF_CB, out += AGF_CB) {
    float v[AGF_CB]; /* which x and out do not overlap, as compilers see: they take several lanes at a time */
    for (l = 0; l < AGF_CB; l++) v[l] = fabsf(x[l]);
    memcpy(out, v, sizeof v);
  }
}
AGF_FAST_END

/* One block: windows overlap, so blocks are the tasks. cam = x * poolT(sdiv(cam, y)), or |x| * poolT(sdiv(cam, pool(|x|))) where the
 * x may cancel. Rows are cleared when the first window comes to them and finished when no window below begins before them, so that they
 * stay in cache. */
static void agf_pool_back_task(agf_session *s, const void *arg, int b, unsigned char *scratch) {
  const agf_back_job *j = (const agf_back_job *)arg;
  const agf_pool_step *own = agf_pool_of(j->st);
  const agf_tensor *ti = agf_in(s, j->st, 0), *to = agf_out(s, j->st);
  const int32_t *rows = (const int32_t *)agf_at(s, own->rows);
  float *t = agf_row_of(j->out, ti, b, 0), *tg = agf_row_of(j->out_g, ti, b, 0), *part = (float *)(void *)scratch;
  size_t row = (size_t)ti->w * AGF_CB;
  agf_pool_row q;
  int r, cleared = 0, finished = 0, cancels = t && own->cancels;
  for (r = 0; r < to->h; r++) {
    size_t at = agf_row_at(to, b, r) * AGF_CB;
    int next = r + 1 < to->h ? rows[2 * to->h + r + 1] : ti->h, end;
    agf_pool_row_of(s, j->st, agf_x(s, ti), b, r, &q);
    for (end = agf_imax(q.h1, next); cleared < end; cleared++) {
      if (t) memset(t + (size_t)cleared * row, 0, row * sizeof(float));
      if (tg) memset(tg + (size_t)cleared * row, 0, row * sizeof(float));
    }
    q.magnitudes = cancels;
    if (cancels) s->k.pool(&q, part, NULL);
    s->k.pool_back(&q, cancels ? part : agf_row_x(s, to, b, r), t ? j->cam + at : NULL, tg ? j->g + at : NULL, t, tg);
    for (; t && finished < next; finished++) {
      float *cam = t + (size_t)finished * row;
      const float *x = agf_row_x(s, ti, b, finished);
      if (cancels) {
        agf_magnitude_row(x, ti->w, part);
        x = part;
      }
      s->k.mul(cam, x, ti->w);
      if (j->delivery) agf_merge_row(s, j->delivery, b, finished, cam, tg ? tg + (size_t)finished * row : NULL);
    }
  }
}

static void agf_pool_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  agf_delivery d;
  agf_back_job j = agf_rule_job(s, st, e, 0, &d);
  agf_parallel(s, agf_out(s, st)->cb, agf_pool_back_task, &j);
}

static void agf_pool_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  agf_back_job j = agf_gradient_job(st, g, out);
  (void)slot;
  agf_parallel(s, agf_out(s, st)->cb, agf_pool_back_task, &j);
}

#ifndef AGF_NO_METHODS
static void agf_pool_lrp(agf_session *s, const agf_step *st, int slot, int alpha, const float *R, float *out) {
  agf_back_job j;
  (void)slot, (void)alpha;
  memset(&j, 0, sizeof j);
  j.st = st;
  j.cam = R;
  j.out = out;
  agf_parallel(s, agf_out(s, st)->cb, agf_pool_back_task, &j);
}
#endif

/* MARK: op: add ---------------------------------------------------------------------------------------------------------------
 * y = x0 + x1 + .... agf-spec: cam_i = x_i * sdiv(cam, y), with the magnitudes of the x where they may cancel; g as it is. LRP the same
 * with R. */

typedef struct agf_add_step {
  int cancels;       /* its inputs may cancel: they are shared out to by their magnitudes */
  agf_id deliveries; /* agf_delivery [inputs], while its rule runs */
} agf_add_step;

static inline const agf_add_step *agf_add_of(const agf_step *st) { return (const agf_add_step *)st->own; }

static agf_status agf_add_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_shape *a = agf_input_shape(in, 0);
  int j;
  (void)out;
  for (j = 1; j < in->node->inputs; j++) {
    const agf_shape *b = agf_input_shape(in, j);
    int mixed = a->h * a->w > 1 && a->flattened != b->flattened;
    if (a->c != b->c || a->h != b->h || a->w != b->w || mixed)
      return agf_fail(err, AGF_ERR_SHAPE, "layer %s (add): adds %s[%d, %d, %d] and %s[%d, %d, %d]", in->node->name,
                      a->flattened ? "the flattened " : "", a->c, a->h, a->w, b->flattened ? "the flattened " : "", b->c, b->h,
                      b->w);
  }
  return AGF_OK;
}

/* With an input that may be negative the sum may cancel, except where every reader is a ReLU: where cam is not 0 behind those, it is
 * positive. */
static void agf_add_connect(agf_planner *p, agf_step *st) {
  ((agf_add_step *)st->own)->cancels = agf_inputs_signed(p, st) && (p->live[st->node] & AGF_READ_SIGNED);
}

static agf_status agf_add_plan(agf_planner *p, agf_step *st, agf_error *err) {
  (void)err;
  ((agf_add_step *)st->own)->deliveries =
      agf_buf(p, (uint64_t)st->inputs * sizeof(agf_delivery), agf_gate_moment(p, st), agf_adjoint_moment(p, st));
  agf_need_scratch(p, (uint64_t)agf_plan_out(p, st)->w * AGF_CB * 3 * 4);
  return AGF_OK;
}

static void agf_add_rows(agf_session *s, const agf_step *st, const agf_flow *f, int b, int r, int end, unsigned char *scratch) {
  const agf_tensor *t = agf_out(s, st);
  int k;
  (void)scratch;
  for (; r < end; r++) {
    float *y = f->y + b * t->xb + r * t->xr;
    uint16_t *mask = f->y_mask ? f->y_mask + agf_row_at(t, b, r) : NULL;
    const float *sum = agf_row_x(s, agf_in(s, st, 0), b, r);
    for (k = 1; k < st->inputs; k++, sum = y) {
      int last = k + 1 == st->inputs;
      if (s->k.add(sum, agf_row_x(s, agf_in(s, st, k), b, r), last ? f->act : AGF_ACT_NONE, t->w, y, last ? mask : NULL))
        agf_raise(&s->bad, AGF_BAD_VALUE);
    }
  }
}

/* A row of the sum, added up as the forward pass does, or of the terms' magnitudes. */
AGF_FAST_BEGIN
static void agf_sum_row(const agf_session *s, const agf_step *st, int b, int r, int n, float *sum) {
  int k, p, l, cancels = agf_add_of(st)->cancels;
  for (k = 0; k < st->inputs; k++) {
    const float *x = agf_row_x(s, agf_in(s, st, k), b, r);
    for (p = 0; p < n; p++, x += AGF_CB) {
      float v[AGF_CB] = {0};
      if (k) memcpy(v, sum + p * AGF_CB, sizeof v);
      if (cancels)
        for (l = 0; l < AGF_CB; l++) v[l] += fabsf(x[l]);
      else
        for (l = 0; l < AGF_CB; l++) v[l] += x[l];
      memcpy(sum + p * AGF_CB, v, sizeof v);
    }
  }
}
AGF_FAST_END

typedef struct agf_add_job {
  const agf_step *st;
  float *cam, *g; /* of the output; the activation works in place */
  agf_act act;
  const agf_delivery *to; /* [inputs] */
  int anew;               /* the sum's terms may cancel, or the output is not the sum where that is above 6 */
} agf_add_job;

/* Add's rule is x * sdiv(cam, y), or |x| * sdiv(cam, sum of |x|) where the x may cancel, and g as it is. y is the sum before the
 * activation: behind a ReLU it is the same where cam is not 0, behind a ReLU6 it is made anew. */
static void agf_add_back_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_add_job *j = (const agf_add_job *)arg;
  const agf_tensor *t = agf_out(s, j->st);
  float *row = (float *)(void *)scratch; /* [w][16], of an input that has had a delivery before */
  float *sum = row + t->w * AGF_CB, *part = sum + t->w * AGF_CB;
  agf_piece p = agf_piece_at(t, i);
  int k, cancels = agf_add_of(j->st)->cancels;
  for (; p.r < p.end; p.r++) {
    float *cam = agf_row_of(j->cam, t, p.b, p.r), *g = agf_row_of(j->g, t, p.b, p.r);
    const float *y = agf_row_x(s, t, p.b, p.r);
    if (j->act != AGF_ACT_NONE) s->k.act_back(cam, g, y, NULL, j->act, t->w);
    if (j->anew) {
      agf_sum_row(s, j->st, p.b, p.r, t->w, sum);
      y = sum;
    }
    for (k = 0; k < j->st->inputs; k++) {
      const agf_delivery *d = &j->to[k];
      const float *x = agf_row_x(s, d->t, p.b, p.r);
      float *out = d->first ? agf_row_of(d->cam, t, p.b, p.r) : row;
      if (cancels) {
        agf_magnitude_row(x, t->w, part);
        x = part;
      }
      s->k.add_back(cam, y, x, t->w, out);
      if (d->first && d->g && g) memcpy(agf_row_of(d->g, t, p.b, p.r), g, (size_t)t->w * AGF_CB * sizeof(float));
      agf_merge_row(s, d, p.b, p.r, out, g);
    }
  }
}

static void agf_add_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  const agf_tensor *t = agf_out(s, st);
  agf_delivery *to = (agf_delivery *)agf_at(s, agf_add_of(st)->deliveries);
  agf_add_job j;
  int slot;
  j.st = st;
  j.cam = agf_floats(s, t->cam);
  j.g = agf_wanted_g(s, e, st);
  j.act = st->act;
  j.to = to;
  j.anew = agf_add_of(st)->cancels || st->act == AGF_ACT_RELU6;
  if (s->config.observer && st->last != st->node) { /* what an observer sees between the sum and the activation */
    agf_tail(s, e, st);
    j.act = AGF_ACT_NONE;
    agf_observe(s, e, t, st->node, j.cam, j.g, AGF_CB);
  }
  for (slot = 0; slot < st->inputs; slot++) to[slot] = agf_begin_delivery(s, e, st, slot);
  agf_parallel(s, agf_pieces(t), agf_add_back_task, &j);
}

#ifndef AGF_NO_METHODS

typedef struct agf_add_lrp_job {
  const agf_step *st;
  int slot;
  const float *R;
  float *out;
} agf_add_lrp_job;

/* x_i * sdiv(R, sum of x), or the same of |x_i| where they may cancel: the sum is made anew, as an activation behind it has been at
 * the one that is kept. */
static void agf_lrp_add_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_add_lrp_job *j = (const agf_add_lrp_job *)arg;
  const agf_tensor *t = agf_out(s, j->st);
  float *sum = (float *)(void *)scratch;
  agf_piece p = agf_piece_at(t, i);
  int q, cancels = agf_add_of(j->st)->cancels;
  for (; p.r < p.end; p.r++) {
    const float *x = agf_row_x(s, agf_in(s, j->st, j->slot), p.b, p.r), *R = j->R + agf_row_at(t, p.b, p.r) * AGF_CB;
    float *out = agf_row_of(j->out, t, p.b, p.r);
    agf_sum_row(s, j->st, p.b, p.r, t->w, sum);
    for (q = 0; q < t->w * AGF_CB; q++) out[q] = (cancels ? fabsf(x[q]) : x[q]) * agf_sdiv(R[q], sum[q]);
  }
}

static void agf_add_lrp(agf_session *s, const agf_step *st, int slot, int alpha, const float *R, float *out) {
  agf_add_lrp_job j;
  (void)alpha;
  j.st = st;
  j.slot = slot;
  j.R = R;
  j.out = out;
  agf_parallel(s, agf_pieces(agf_out(s, st)), agf_lrp_add_task, &j);
}

#endif

/* MARK: op: concat ------------------------------------------------------------------------------------------------------------
 * Channels of several tensors one behind the other; cam, g and R are split by channel. */

typedef struct agf_concat_step {
  agf_id first; /* int [inputs]: the output's channel where each input begins */
} agf_concat_step;

static inline int agf_concat_first(const agf_session *s, const agf_step *st, int slot) {
  return ((const int *)agf_at(s, ((const agf_concat_step *)st->own)->first))[slot];
}

static agf_status agf_concat_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  const agf_shape *a = agf_input_shape(in, 0);
  int64_t c = 0;
  int j;
  for (j = 0; j < n->inputs; j++) {
    const agf_shape *b = agf_input_shape(in, j);
    if (b->h != a->h || b->w != a->w || (b->flattened && b->h * b->w > 1))
      return agf_fail(err, AGF_ERR_SHAPE, "layer %s (concat): joins [%d, %d, %d] and [%d, %d, %d]", n->name, a->c, a->h, a->w, b->c,
                      b->h, b->w);
    c += b->c;
  }
  if (c > AGF_MAX_CHANNELS) return agf_shape_error(err, n, a, "more channels than the engine's cap");
  out->c = (int)c;
  return AGF_OK;
}

/* Inputs that only this Concat reads and that fill blocks of their own lie in its output, forward and backward: nothing is
 * copied. */
static void agf_concat_settle(agf_planner *p, agf_step *st) {
  const agf_tensor *whole = agf_plan_out(p, st);
  int j, at = 0;
  for (j = 0; j < st->inputs; at += agf_plan_in(p, st, j++)->c) {
    agf_tensor *part = agf_plan_in(p, st, j);
    if (part == p->tensor || part->readers > 1 || at % AGF_CB || (part->c % AGF_CB && j + 1 < st->inputs)) continue;
    part->part_of = st->out;
    part->first_block = at / AGF_CB;
    part->needs_mask = whole->needs_mask;
    part->needs_g = whole->needs_g;
    part->bh = whole->bh;
    part->bw = whole->bw;
  }
}

static agf_status agf_concat_plan(agf_planner *p, agf_step *st, agf_error *err) {
  (void)err;
  ((agf_concat_step *)st->own)->first = agf_buf(p, (uint64_t)st->inputs * sizeof(int), 0, agf_end(p));
  return AGF_OK;
}

static void agf_concat_fill(agf_session *s, const agf_step *st) {
  int *first = (int *)agf_at(s, ((const agf_concat_step *)st->own)->first), j, at = 0;
  for (j = 0; j < st->inputs; at += agf_in(s, st, j++)->c) first[j] = at;
}

static void agf_concat_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_step *st = (const agf_step *)arg;
  const agf_tensor *t = agf_out(s, st);
  int i, b;
  (void)scratch;
  for (i = 0; i < st->inputs; i++) {
    const agf_tensor *ti = agf_in(s, st, i);
    int at = agf_concat_first(s, st, i);
    if (ti->part_of) continue;
    agf_copy_channels(agf_row_x(s, ti, 0, r), ti->xb, 0, agf_row_x(s, t, 0, r), t->xb, at, ti->c, t->w);
    if (i + 1 == st->inputs) agf_clear_lanes(agf_row_x(s, t, 0, r), t->xb, t->c, t->w);
    for (b = at / AGF_CB; t->mask && b * AGF_CB < at + ti->c; b++)
      s->k.nonzeros(agf_row_x(s, t, b, r), t->w, agf_row_mask(s, t, b, r));
  }
}

static void agf_concat_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  int k;
  (void)f;
  for (k = 0; k < st->inputs && agf_in(s, st, k)->part_of; k++) continue;
  if (k < st->inputs) agf_parallel(s, agf_out(s, st)->h, agf_concat_task, st); /* else all inputs lie there */
}

typedef struct agf_split_job {
  const agf_tensor *ti, *to;
  int first;            /* the input's first channel */
  const float *cam, *g; /* at the output */
  float *out, *out_g;   /* at the input; out_g NULL: not wanted */
  const agf_delivery *delivery;
} agf_split_job;

/* Concat's inputs get their channels. */
static void agf_split_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_split_job *j = (const agf_split_job *)arg;
  const agf_tensor *t = j->to, *ti = j->ti;
  size_t row = agf_row_at(t, 0, r) * AGF_CB, to = agf_row_at(ti, 0, r) * AGF_CB;
  ptrdiff_t block = (ptrdiff_t)t->h * t->w * AGF_CB;
  int b;
  (void)scratch;
  agf_copy_channels(j->cam + row, block, j->first, j->out + to, block, 0, ti->c, t->w);
  agf_clear_lanes(j->out + to, block, ti->c, t->w);
  if (j->out_g) {
    agf_copy_channels(j->g + row, block, j->first, j->out_g + to, block, 0, ti->c, t->w);
    agf_clear_lanes(j->out_g + to, block, ti->c, t->w);
  }
  for (b = 0; j->delivery && b < ti->cb; b++)
    agf_merge_row(s, j->delivery, b, r, agf_row_of(j->out, ti, b, r), agf_row_of(j->out_g, ti, b, r));
}

/* Input `slot` gets its channels, where it is not a part that has them already. */
static void agf_split(agf_session *s, const agf_step *st, int slot, agf_split_job *j) {
  j->ti = agf_in(s, st, slot);
  j->to = agf_out(s, st);
  j->first = agf_concat_first(s, st, slot);
  if (!j->ti->part_of) agf_parallel(s, j->to->h, agf_split_task, j);
}

static void agf_concat_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  agf_split_job j;
  agf_delivery d;
  int slot;
  j.cam = agf_floats(s, agf_out(s, st)->cam);
  j.g = agf_wanted_g(s, e, st);
  j.delivery = &d;
  for (slot = 0; slot < st->inputs; slot++) {
    d = agf_begin_delivery(s, e, st, slot);
    j.out = d.cam;
    j.out_g = j.g ? d.g : NULL;
    agf_split(s, st, slot, &j);
  }
}

static void agf_concat_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  agf_split_job j;
  memset(&j, 0, sizeof j);
  j.cam = g;
  j.out = out;
  agf_split(s, st, slot, &j);
}

#ifndef AGF_NO_METHODS
static void agf_concat_lrp(agf_session *s, const agf_step *st, int slot, int alpha, const float *R, float *out) {
  (void)alpha;
  agf_concat_gradient(s, st, slot, R, out);
}
#endif

/* MARK: op: activation --------------------------------------------------------------------------------------------------------
 * y = f(x) for the functions that are not part of another step (agf-spec, "Newer networks"): cam where y is not 0; g times f'(x). LRP
 * passes R. */

typedef struct agf_activation_step {
  agf_id slopes; /* prelu: float [cb][16] */
} agf_activation_step;

static const char *const agf_activation_names[] = {"leaky_relu", "prelu",   "elu",         "silu", "hardswish", "gelu", "gelu_tanh",
                                                   "mish",       "sigmoid", "hardsigmoid", "tanh", "softplus",  "clip"};
typedef char
    agf_every_activation_has_a_name[sizeof agf_activation_names / sizeof *agf_activation_names == AGF_ACTIVATIONS ? 1 : -1];

static agf_activation agf_activation_of(const agf_node *n) { return (agf_activation)(n->argument - 1); }

static agf_status agf_activation_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  agf_activation f = agf_activation_of(n);
  int used = f == AGF_LEAKY_RELU || f == AGF_ELU ? 1 : f == AGF_HARDSIGMOID || f == AGF_CLIP ? 2 : 0, i;
  for (i = used; i >= 0 && i < 2; i++)
    if (n->parameter[i] != 0) used = -1;
  if (used < 0 || (f == AGF_CLIP && !(n->parameter[0] < n->parameter[1])))
    return agf_fail(err, AGF_ERR_FORMAT, "model file: node %d (%s, %s %s) has the parameters %g and %g, which are not its own",
                    (int)(n - in->model->node), n->name, agf_op_name(n->op), agf_activation_names[f], (double)n->parameter[0],
                    (double)n->parameter[1]);
  if (f == AGF_PRELU && out->flattened && out->h * out->w > 1)
    return agf_shape_error(err, n, out, "a prelu has a slope for each channel");
  return AGF_OK;
}

static agf_status agf_activation_weights(const agf_model *m, const agf_node *n, const agf_shape *in, agf_error *err) {
  return agf_weights_fit(m, n, in, (agf_activation_of(n) == AGF_PRELU) == (n->w >= 0) && agf_is_vector(m, n->w, in->c), err);
}

static agf_sign agf_activation_sign(const agf_node *n) {
  switch (agf_activation_of(n)) {
    case AGF_SIGMOID:
    case AGF_HARDSIGMOID:
    case AGF_SOFTPLUS: return AGF_SIGN_NEVER;
    case AGF_CLIP:
      if (n->parameter[1] < 0) return AGF_SIGN_ANY; /* even what is not negative is taken below 0 */
      return n->parameter[0] > 0 ? AGF_SIGN_NEVER : n->parameter[0] == 0 ? AGF_SIGN_RECTIFIED : AGF_SIGN_INPUTS;
    case AGF_LEAKY_RELU:
    case AGF_PRELU:
    case AGF_ELU:
    case AGF_SILU:
    case AGF_HARDSWISH:
    case AGF_GELU:
    case AGF_GELU_TANH:
    case AGF_MISH:
    case AGF_TANH: return AGF_SIGN_INPUTS;
    case AGF_ACTIVATIONS: break;
  }
  return AGF_SIGN_ANY;
}

static agf_status agf_activation_plan(agf_planner *p, agf_step *st, agf_error *err) {
  (void)err;
  if (p->model->node[st->node].w >= 0)
    ((agf_activation_step *)st->own)->slopes = agf_buf(p, (uint64_t)agf_plan_out(p, st)->cb * AGF_CB * 4, 0, agf_end(p));
  return AGF_OK;
}

static void agf_activation_fill(agf_session *s, const agf_step *st) {
  agf_id slopes = ((const agf_activation_step *)st->own)->slopes;
  if (!slopes) return;
  agf_clear_buffer(s, slopes);
  agf_load_vector(&s->model->weight[s->model->node[st->node].w], agf_floats(s, slopes));
}

/* The function as the kernels read it, for block b. */
static agf_activation_row agf_activation_block(const agf_session *s, const agf_step *st, int b) {
  const agf_node *n = &s->model->node[st->node];
  const float *slopes = agf_floats(s, ((const agf_activation_step *)st->own)->slopes);
  agf_activation_row r;
  r.f = agf_activation_of(n);
  r.alpha = n->parameter[0];
  r.beta = n->parameter[1];
  r.slope = slopes ? slopes + b * AGF_CB : NULL;
  r.lanes = agf_imin(AGF_CB, agf_out(s, st)->c - b * AGF_CB);
  return r;
}

static void agf_activation_rows(agf_session *s, const agf_step *st, const agf_flow *f, int b, int r, int end,
                                unsigned char *scratch) {
  const agf_tensor *ti = agf_in(s, st, 0), *t = agf_out(s, st);
  agf_activation_row q = agf_activation_block(s, st, b);
  (void)scratch;
  for (; r < end; r++)
    if (s->k.activate(&q, f->x + b * ti->xb + r * ti->xr, t->w, f->y + b * t->xb + r * t->xr,
                      f->y_mask ? f->y_mask + agf_row_at(t, b, r) : NULL))
      agf_raise(&s->bad, AGF_BAD_VALUE);
}

static void agf_activation_back_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_back_job *j = (const agf_back_job *)arg;
  const agf_tensor *ti = agf_in(s, j->st, 0), *t = agf_out(s, j->st);
  agf_piece p = agf_piece_at(t, i);
  agf_activation_row q = agf_activation_block(s, j->st, p.b);
  size_t bytes = (size_t)t->w * AGF_CB * sizeof(float);
  (void)scratch;
  for (; p.r < p.end; p.r++) {
    size_t at = agf_row_at(t, p.b, p.r) * AGF_CB;
    float *cam = agf_row_of(j->out, t, p.b, p.r), *g = agf_row_of(j->out_g, t, p.b, p.r);
    if (cam) memcpy(cam, j->cam + at, bytes);
    if (g) memcpy(g, j->g + at, bytes);
    s->k.activate_back(&q, agf_row_x(s, ti, p.b, p.r), agf_row_x(s, t, p.b, p.r), t->w, cam, g);
    if (j->delivery) agf_merge_row(s, j->delivery, p.b, p.r, cam, g);
  }
}

static void agf_activation_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  agf_delivery d;
  agf_back_job j = agf_rule_job(s, st, e, 0, &d);
  agf_parallel(s, agf_pieces(agf_out(s, st)), agf_activation_back_task, &j);
}

static void agf_activation_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  agf_back_job j = agf_gradient_job(st, g, out);
  (void)slot;
  agf_parallel(s, agf_pieces(agf_out(s, st)), agf_activation_back_task, &j);
}

/* MARK: op: mul ---------------------------------------------------------------------------------------------------------------
 * y = x * s, signal times gate; the gate is [C,1,1], [1,H,W] or of the signal's shape. agf-spec: all cam goes to the signal, where y
 * is not 0, and none to the gate; g_x = g * s, g_s = g * x summed over what the gate is spread over. LRP: all to the signal. */

static agf_status agf_mul_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_shape *x = agf_input_shape(in, 0), *gate = agf_input_shape(in, 1);
  int pixels = gate->h == x->h && gate->w == x->w;
  (void)out;
  if (!(gate->c == x->c && (pixels || gate->h * gate->w == 1)) && !(gate->c == 1 && pixels))
    return agf_fail(err, AGF_ERR_SHAPE, "layer %s (mul): multiplies [%d, %d, %d] by a gate of [%d, %d, %d]", in->node->name, x->c,
                    x->h, x->w, gate->c, gate->h, gate->w);
  if (pixels && x->h * x->w > 1 && gate->flattened != x->flattened)
    return agf_shape_error(err, in->node, x, "its gate is flattened where it is not, or the other way round");
  return AGF_OK;
}

static agf_factor agf_mul_factor(const agf_session *s, const agf_step *st) {
  const agf_tensor *x = agf_in(s, st, 0), *gate = agf_in(s, st, 1);
  return gate->c != x->c ? AGF_FACTOR_PIXEL : gate->h == x->h && gate->w == x->w ? AGF_FACTOR_FULL : AGF_FACTOR_CHANNEL;
}

/* The gate for row r of block b, as the kernels read it. */
static const float *agf_mul_gate(const agf_session *s, const agf_step *st, agf_factor kind, int b, int r) {
  return agf_row_x(s, agf_in(s, st, 1), kind == AGF_FACTOR_PIXEL ? 0 : b, kind == AGF_FACTOR_CHANNEL ? 0 : r);
}

static void agf_mul_rows(agf_session *s, const agf_step *st, const agf_flow *f, int b, int r, int end, unsigned char *scratch) {
  const agf_tensor *ti = agf_in(s, st, 0), *t = agf_out(s, st);
  agf_factor kind = agf_mul_factor(s, st);
  (void)scratch;
  for (; r < end; r++)
    if (s->k.product(kind, f->x + b * ti->xb + r * ti->xr, agf_mul_gate(s, st, kind, b, r), t->w, f->y + b * t->xb + r * t->xr,
                     f->y_mask ? f->y_mask + agf_row_at(t, b, r) : NULL))
      agf_raise(&s->bad, AGF_BAD_VALUE);
}

/* To the signal. */
static void agf_mul_signal_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_back_job *j = (const agf_back_job *)arg;
  const agf_tensor *t = agf_out(s, j->st);
  agf_factor kind = agf_mul_factor(s, j->st);
  agf_piece p = agf_piece_at(t, i);
  size_t bytes = (size_t)t->w * AGF_CB * sizeof(float);
  (void)scratch;
  for (; p.r < p.end; p.r++) {
    size_t at = agf_row_at(t, p.b, p.r) * AGF_CB;
    float *cam = agf_row_of(j->out, t, p.b, p.r), *g = agf_row_of(j->out_g, t, p.b, p.r);
    if (cam) memcpy(cam, j->cam + at, bytes);
    if (g) memcpy(g, j->g + at, bytes);
    s->k.product_back(kind, agf_row_x(s, agf_in(s, j->st, 0), p.b, p.r), agf_mul_gate(s, j->st, kind, p.b, p.r),
                      agf_row_x(s, t, p.b, p.r), t->w, cam, g, NULL);
    if (j->delivery) agf_merge_row(s, j->delivery, p.b, p.r, cam, g);
  }
}

/* To the gate: g * x summed over the pixels for block i (a value a channel), over the channels for row i (a value a pixel), or as it is
 * for row i. */
static void agf_mul_gate_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_back_job *j = (const agf_back_job *)arg;
  const agf_tensor *t = agf_out(s, j->st), *x = agf_in(s, j->st, 0), *gate = agf_in(s, j->st, 1);
  agf_factor kind = agf_mul_factor(s, j->st);
  double sum[AGF_CB];
  int b, r, l;
  (void)scratch;
  if (kind == AGF_FACTOR_CHANNEL) {
    memset(sum, 0, sizeof sum);
    for (r = 0; r < t->h; r++) s->k.product_sums(agf_row_x(s, x, i, r), j->g + agf_row_at(t, i, r) * AGF_CB, t->w, sum);
    for (l = 0; l < AGF_CB; l++) j->out_g[i * AGF_CB + l] = (float)sum[l] + 0.0f;
  } else if (kind == AGF_FACTOR_PIXEL) {
    s->k.pixel_dots(agf_row_x(s, x, 0, i), x->xb, j->g + agf_row_at(t, 0, i) * AGF_CB, agf_plane(t), t->cb, t->w,
                    agf_row_of(j->out_g, gate, 0, i));
  } else {
    for (b = 0; b < t->cb; b++) {
      float *out = agf_row_of(j->out_g, gate, b, i);
      memcpy(out, j->g + agf_row_at(t, b, i) * AGF_CB, (size_t)t->w * AGF_CB * sizeof *out);
      s->k.mul(out, agf_row_x(s, x, b, i), t->w);
    }
  }
}

static void agf_mul_to_gate(agf_session *s, const agf_back_job *j) {
  const agf_tensor *gate = agf_in(s, j->st, 1);
  agf_parallel(s, agf_mul_factor(s, j->st) == AGF_FACTOR_CHANNEL ? gate->cb : gate->h, agf_mul_gate_task, j);
}

static void agf_mul_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  agf_delivery d;
  agf_back_job j = agf_rule_job(s, st, e, 0, &d);
  agf_parallel(s, agf_pieces(agf_out(s, st)), agf_mul_signal_task, &j);
  agf_destination(s, e, st, 1, &j.out, &j.out_g);
  memset(j.out, 0, (size_t)agf_tensor_elements(agf_in(s, st, 1)) * sizeof(float));
  if (j.g && j.out_g) agf_mul_to_gate(s, &j);
  agf_deliver(s, e, st, 1);
}

static void agf_mul_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  agf_back_job j = agf_gradient_job(st, g, out);
  if (slot == 0)
    agf_parallel(s, agf_pieces(agf_out(s, st)), agf_mul_signal_task, &j);
  else
    agf_mul_to_gate(s, &j);
}

#ifndef AGF_NO_METHODS
static void agf_mul_lrp(agf_session *s, const agf_step *st, int slot, int alpha, const float *R, float *out) {
  if (slot == 0)
    agf_pass_relevance(s, st, slot, alpha, R, out);
  else
    memset(out, 0, (size_t)agf_tensor_elements(agf_in(s, st, 1)) * sizeof(float));
}
#endif

/* MARK: op: normalisation -----------------------------------------------------------------------------------------------------
 * y = (x - mean) / sqrt(var + eps) * gamma + beta over groups of channels: at each pixel (layer norm), or over all pixels too (group
 * and instance norm); var over N. Global response norm: y = x * (1 + gamma * |x_c| / (mean of all |x_c| + eps)) + beta, |x_c| being the
 * L2 norm of x's channel c. agf-spec: cam passes, g goes through what is computed of x. LRP passes R. */

enum { AGF_NORM_PIXEL = 0, AGF_NORM_SPATIAL = 1, AGF_NORM_RESPONSE = 2 }; /* a norm's argument */

typedef struct agf_normalise_step {
  agf_id gamma, beta; /* float [cb][16] */
  agf_id mean, r;     /* over the pixels too: float [cb][16] of the last run, r = 1 / sqrt(var + eps); of responses 0 and |x_c| */
  agf_id sums;        /* likewise: double [2][cb][16], sums over a channel's pixels */
  agf_id coefficient; /* likewise: float [3][cb][16], as agf_kernels.affine_back reads them */
} agf_normalise_step;

static agf_status agf_normalise_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  if (!(n->parameter[0] > 0))
    return agf_fail(err, AGF_ERR_FORMAT, "model file: node %d (%s, %s) has the eps %g, which must be above 0",
                    (int)(n - in->model->node), n->name, agf_op_name(n->op), (double)n->parameter[0]);
  if (out->c % n->groups) return agf_shape_error(err, n, out, "its groups do not divide the channels");
  if (n->argument == AGF_NORM_RESPONSE && n->groups != 1) return agf_shape_error(err, n, out, "responses know no groups");
  return AGF_OK;
}

static agf_status agf_normalise_plan(agf_planner *p, agf_step *st, agf_error *err) {
  agf_normalise_step *own = (agf_normalise_step *)st->own;
  uint64_t lanes = (uint64_t)agf_plan_out(p, st)->cb * AGF_CB;
  int end = agf_end(p);
  (void)err;
  own->gamma = agf_buf(p, lanes * 4, 0, end);
  own->beta = agf_buf(p, lanes * 4, 0, end);
  if (!p->model->node[st->node].argument) return AGF_OK;
  own->mean = agf_buf(p, lanes * 4, 0, end);
  own->r = agf_buf(p, lanes * 4, 0, end);
  own->sums = agf_buf(p, lanes * 2 * sizeof(double), 0, end);
  own->coefficient = agf_buf(p, lanes * 3 * 4, 0, end);
  return AGF_OK;
}

static void agf_normalise_fill(agf_session *s, const agf_step *st) {
  const agf_normalise_step *own = (const agf_normalise_step *)st->own;
  const agf_node *n = &s->model->node[st->node];
  agf_clear_buffer(s, own->gamma);
  agf_clear_buffer(s, own->beta);
  agf_load_vector(&s->model->weight[n->w], agf_floats(s, own->gamma));
  agf_load_vector(&s->model->weight[n->b], agf_floats(s, own->beta));
}

typedef struct agf_normalise_job {
  const agf_step *st;
  const agf_flow *flow;
  float *g;  /* in place, at the input */
  int which; /* of the sums */
} agf_normalise_job;

/* Layer norm: row r as the kernels read it. */
static agf_norm_row agf_normalise_row(const agf_session *s, const agf_step *st, const float *x, int r) {
  const agf_normalise_step *own = (const agf_normalise_step *)st->own;
  const agf_node *n = &s->model->node[st->node];
  const agf_tensor *t = agf_in(s, st, 0);
  agf_norm_row q;
  q.x = x + r * t->xr;
  q.xb = t->xb;
  q.channels = t->c;
  q.groups = n->groups;
  q.eps = (double)n->parameter[0];
  q.gamma = agf_floats(s, own->gamma);
  q.beta = agf_floats(s, own->beta);
  return q;
}

static void agf_layer_norm_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_normalise_job *j = (const agf_normalise_job *)arg;
  const agf_flow *f = j->flow;
  const agf_tensor *t = agf_out(s, j->st);
  agf_norm_row q = agf_normalise_row(s, j->st, f->x, r);
  (void)scratch;
  if (s->k.layer_norm(&q, t->w, f->y + r * t->xr, t->xb, f->y_mask ? f->y_mask + agf_row_at(t, 0, r) : NULL,
                      (ptrdiff_t)t->h * t->w))
    agf_raise(&s->bad, AGF_BAD_VALUE);
}

static void agf_layer_norm_back_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_normalise_job *j = (const agf_normalise_job *)arg;
  const agf_tensor *t = agf_out(s, j->st);
  agf_norm_row q = agf_normalise_row(s, j->st, agf_x(s, agf_in(s, j->st, 0)), r);
  (void)scratch;
  s->k.layer_norm_back(&q, t->w, agf_row_of(j->g, t, 0, r), agf_plane(t));
}

/* Over the pixels of block b, into sums: forward 0: x, 1: (x - mean)^2; backward 2: g and x * g. */
static void agf_group_sums_task(agf_session *s, const void *arg, int b, unsigned char *scratch) {
  const agf_normalise_job *j = (const agf_normalise_job *)arg;
  const agf_normalise_step *own = (const agf_normalise_step *)j->st->own;
  const agf_tensor *ti = agf_in(s, j->st, 0), *t = agf_out(s, j->st);
  double *sum = (double *)agf_at(s, own->sums) + b * AGF_CB, *other = sum + t->cb * AGF_CB;
  int r;
  (void)scratch;
  memset(sum, 0, AGF_CB * sizeof *sum);
  memset(other, 0, AGF_CB * sizeof *other);
  for (r = 0; r < t->h; r++) {
    const float *x = j->which == 2 ? agf_row_x(s, ti, b, r) : j->flow->x + b * ti->xb + r * ti->xr;
    if (j->which == 0) {
      s->k.lane_sums(x, t->w, sum);
    } else if (j->which == 1) {
      s->k.lane_squares(x, agf_floats(s, own->mean) + b * AGF_CB, t->w, sum);
    } else {
      s->k.lane_sums(agf_row_of(j->g, t, b, r), t->w, sum);
      s->k.product_sums(x, agf_row_of(j->g, t, b, r), t->w, other);
    }
  }
}

static void agf_group_forward_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_normalise_job *j = (const agf_normalise_job *)arg;
  const agf_normalise_step *own = (const agf_normalise_step *)j->st->own;
  const agf_flow *f = j->flow;
  const agf_tensor *ti = agf_in(s, j->st, 0), *t = agf_out(s, j->st);
  agf_piece p = agf_piece_at(t, i);
  const float *mean = agf_floats(s, own->mean) + p.b * AGF_CB, *scale = agf_floats(s, own->coefficient) + p.b * AGF_CB;
  (void)scratch;
  for (; p.r < p.end; p.r++)
    if (s->k.affine(f->x + p.b * ti->xb + p.r * ti->xr, mean, scale, agf_floats(s, own->beta) + p.b * AGF_CB, t->w,
                    f->y + p.b * t->xb + p.r * t->xr, f->y_mask ? f->y_mask + agf_row_at(t, p.b, p.r) : NULL))
      agf_raise(&s->bad, AGF_BAD_VALUE);
}

static void agf_group_back_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_normalise_job *j = (const agf_normalise_job *)arg;
  const agf_normalise_step *own = (const agf_normalise_step *)j->st->own;
  const agf_tensor *ti = agf_in(s, j->st, 0), *t = agf_out(s, j->st);
  agf_piece p = agf_piece_at(t, i);
  const float *mean = agf_floats(s, own->mean) + p.b * AGF_CB, *a = agf_floats(s, own->coefficient) + p.b * AGF_CB;
  const float *b = a + t->cb * AGF_CB, *c = b + t->cb * AGF_CB;
  (void)scratch;
  for (; p.r < p.end; p.r++) s->k.affine_back(agf_row_x(s, ti, p.b, p.r), mean, a, b, c, t->w, agf_row_of(j->g, t, p.b, p.r));
}

/* The mean of the channels' norms and eps. */
static double agf_mean_response(const agf_session *s, const agf_step *st) {
  const float *norm = agf_floats(s, ((const agf_normalise_step *)st->own)->r);
  int c, channels = agf_out(s, st)->c;
  double sum = 0;
  for (c = 0; c < channels; c++) sum += (double)norm[c];
  return sum / channels + (double)s->model->node[st->node].parameter[0];
}

/* Of each channel, into the coefficients: what x is multiplied by, 1 + gamma * |x_c| / mean. */
static void agf_response_scale(agf_session *s, const agf_step *st, double mean) {
  const agf_normalise_step *own = (const agf_normalise_step *)st->own;
  const float *gamma = agf_floats(s, own->gamma), *norm = agf_floats(s, own->r);
  float *scale = agf_floats(s, own->coefficient);
  int c;
  for (c = 0; c < agf_out(s, st)->c; c++) scale[c] = (float)(1 + (double)gamma[c] * (double)norm[c] / mean);
}

/* From sums over the pixels of g * x: y depends on x also through |x_c| and the mean, whose share is a multiple of x. */
static void agf_response_back(agf_session *s, const agf_step *st, const double *product) {
  const agf_normalise_step *own = (const agf_normalise_step *)st->own;
  const float *gamma = agf_floats(s, own->gamma), *norm = agf_floats(s, own->r);
  int c, channels = agf_out(s, st)->c;
  float *multiple = agf_floats(s, own->coefficient) + agf_out(s, st)->cb * AGF_CB;
  double mean = agf_mean_response(s, st), shared = 0;
  agf_response_scale(s, st, mean);
  for (c = 0; c < channels; c++) shared += (double)gamma[c] * product[c] * (double)norm[c];
  shared /= channels * mean * mean;
  for (c = 0; c < channels; c++)
    multiple[c] = norm[c] > 0 ? (float)(((double)gamma[c] * product[c] / mean - shared) / (double)norm[c]) : 0.0f;
}

static void agf_normalise_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  const agf_normalise_step *own = (const agf_normalise_step *)st->own;
  const agf_node *n = &s->model->node[st->node];
  const agf_tensor *t = agf_out(s, st);
  const float *gamma = agf_floats(s, own->gamma);
  float *mean = agf_floats(s, own->mean), *r = agf_floats(s, own->r), *scale = agf_floats(s, own->coefficient);
  const double *sum = (const double *)agf_at(s, own->sums);
  int channels = t->c / n->groups, group, c;
  double count = (double)channels * t->h * t->w;
  agf_normalise_job j;
  j.st = st;
  j.flow = f;
  j.g = NULL;
  if (!n->argument) {
    agf_parallel(s, t->h, agf_layer_norm_task, &j);
    return;
  }
  agf_clear_buffer(s, own->mean);
  agf_clear_buffer(s, own->r);
  agf_clear_buffer(s, own->coefficient);
  if (n->argument == AGF_NORM_RESPONSE) {
    j.which = 1; /* the squares of x as it is: its mean is 0 here */
    agf_parallel(s, t->cb, agf_group_sums_task, &j);
    for (c = 0; c < t->c; c++) r[c] = (float)sqrt(sum[c]);
    agf_response_scale(s, st, agf_mean_response(s, st));
  }
  for (j.which = 0; n->argument == AGF_NORM_SPATIAL && j.which < 2; j.which++) {
    agf_parallel(s, t->cb, agf_group_sums_task, &j);
    for (group = 0; group < n->groups; group++) {
      double total = 0;
      for (c = group * channels; c < (group + 1) * channels; c++) total += sum[c];
      for (c = group * channels; c < (group + 1) * channels; c++)
        if (j.which == 0) {
          mean[c] = (float)(total / count);
        } else {
          r[c] = (float)(1 / sqrt(total / count + (double)n->parameter[0]));
          scale[c] = r[c] * gamma[c];
        }
    }
  }
  agf_parallel(s, agf_pieces(t), agf_group_forward_task, &j);
}

static void agf_normalise_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  const agf_normalise_step *own = (const agf_normalise_step *)st->own;
  const agf_node *n = &s->model->node[st->node];
  const agf_tensor *t = agf_out(s, st);
  const float *gamma = agf_floats(s, own->gamma), *mean = agf_floats(s, own->mean), *r = agf_floats(s, own->r);
  float *a = agf_floats(s, own->coefficient), *b, *c;
  const double *sum = (const double *)agf_at(s, own->sums), *product;
  int channels = t->c / n->groups, group, k;
  double count = (double)channels * t->h * t->w;
  agf_normalise_job j;
  (void)slot;
  memcpy(out, g, (size_t)agf_tensor_elements(t) * sizeof *out);
  j.st = st;
  j.flow = NULL;
  j.g = out;
  j.which = 2;
  if (!n->argument) {
    agf_parallel(s, t->h, agf_layer_norm_back_task, &j);
    return;
  }
  b = a + t->cb * AGF_CB; /* only here: a layer norm has none of these buffers */
  c = b + t->cb * AGF_CB;
  product = sum + t->cb * AGF_CB;
  agf_parallel(s, t->cb, agf_group_sums_task, &j);
  agf_clear_buffer(s, own->coefficient);
  if (n->argument == AGF_NORM_RESPONSE) agf_response_back(s, st, product);
  for (group = 0; n->argument == AGF_NORM_SPATIAL && group < n->groups; group++) {
    double sums = 0, products = 0;
    for (k = group * channels; k < (group + 1) * channels; k++) {
      sums += (double)gamma[k] * sum[k];
      products += (double)gamma[k] * (product[k] - (double)mean[k] * sum[k]);
    }
    for (k = group * channels; k < (group + 1) * channels; k++) {
      double q = (double)r[k];
      a[k] = r[k] * gamma[k];
      b[k] = (float)(-q * q * q / count * products);
      c[k] = (float)(-q / count * sums);
    }
  }
  agf_parallel(s, agf_pieces(t), agf_group_back_task, &j);
}

/* For ops whose cam passes and whose g is their gradient. */
static void agf_pass_cam_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  const float *to_g = agf_wanted_g(s, e, st);
  float *cam, *g;
  agf_destination(s, e, st, 0, &cam, &g);
  memcpy(cam, agf_floats(s, agf_out(s, st)->cam), (size_t)agf_tensor_elements(agf_out(s, st)) * sizeof *cam);
  if (to_g && g) st->rules->gradient(s, st, 0, to_g, g);
  agf_deliver(s, e, st, 0);
}

/* MARK: op: local response normalisation --------------------------------------------------------------------------------------
 * y = x / d^beta, d = k + alpha / size * sum of x^2 over a window of channels that begins size / 2 before x's. agf-spec: cam passes, g
 * through the window. LRP passes R. */

static agf_status agf_lrn_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  (void)out;
  if (!(n->parameter[0] >= 0 && n->parameter[2] > 0))
    return agf_fail(err, AGF_ERR_FORMAT,
                    "model file: node %d (%s, %s) has alpha %g and k %g; at least 0 and more than 0 are needed",
                    (int)(n - in->model->node), n->name, agf_op_name(n->op), (double)n->parameter[0], (double)n->parameter[2]);
  return AGF_OK;
}

/* A window that reaches beyond all channels on either side of any of them sees no more where it is wider. */
static int agf_lrn_window(const agf_node *n, const agf_tensor *t) { return agf_imin(n->argument, 2 * t->c); }

static agf_status agf_lrn_plan(agf_planner *p, agf_step *st, agf_error *err) {
  const agf_tensor *t = agf_plan_out(p, st);
  (void)err;
  agf_need_scratch(p, (uint64_t)(t->cb * AGF_CB + agf_lrn_window(&p->model->node[st->node], t)) * 2 * 4);
  return AGF_OK;
}

static agf_lrn_row agf_lrn_row_of(const agf_session *s, const agf_step *st, const float *x, int r, unsigned char *scratch) {
  const agf_node *n = &s->model->node[st->node];
  const agf_tensor *t = agf_in(s, st, 0);
  agf_lrn_row q;
  q.x = x + r * t->xr;
  q.xb = t->xb;
  q.blocks = t->cb;
  q.size = agf_lrn_window(n, t);
  q.alpha = n->parameter[0] / (float)n->argument;
  q.beta = n->parameter[1];
  q.k = n->parameter[2];
  q.scratch = (float *)(void *)scratch;
  return q;
}

static void agf_lrn_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_forward_job *j = (const agf_forward_job *)arg;
  const agf_flow *f = j->flow;
  const agf_tensor *t = agf_out(s, j->st);
  agf_lrn_row q = agf_lrn_row_of(s, j->st, f->x, r, scratch);
  if (s->k.lrn(&q, t->w, f->y + r * t->xr, t->xb, f->y_mask ? f->y_mask + agf_row_at(t, 0, r) : NULL, (ptrdiff_t)t->h * t->w))
    agf_raise(&s->bad, AGF_BAD_VALUE);
}

static void agf_lrn_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  agf_forward_job j;
  j.st = st;
  j.flow = f;
  agf_parallel(s, agf_out(s, st)->h, agf_lrn_task, &j);
}

static void agf_lrn_back_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_back_job *j = (const agf_back_job *)arg;
  const agf_tensor *t = agf_out(s, j->st);
  agf_lrn_row q = agf_lrn_row_of(s, j->st, agf_x(s, agf_in(s, j->st, 0)), r, scratch);
  int b;
  for (b = 0; b < t->cb; b++)
    memcpy(agf_row_of(j->out_g, t, b, r), j->g + agf_row_at(t, b, r) * AGF_CB, (size_t)t->w * AGF_CB * sizeof(float));
  s->k.lrn_back(&q, t->w, agf_row_of(j->out_g, t, 0, r), agf_plane(t));
}

static void agf_lrn_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  agf_back_job j = agf_gradient_job(st, g, out);
  (void)slot;
  agf_parallel(s, agf_out(s, st)->h, agf_lrn_back_task, &j);
}

/* MARK: op: channels and borders ----------------------------------------------------------------------------------------------
 * Slice: some channels; shuffle: the channels in another order; pad: zeros or copies of pixels around every channel; resize: pixels
 * repeated or left out. Each output element is one input element or 0, so cam, g and R go back to where their element came from
 * (agf-spec): they are summed where it was taken several times, and 0 where it was not. */

enum { AGF_BORDER_ZEROS = 0, AGF_BORDER_REFLECT = 1 }; /* a pad's argument; 2: the outermost pixels repeated */

typedef struct agf_shuffle_step {
  agf_id order; /* int32_t [c]: the input channel of each output channel */
} agf_shuffle_step;

typedef struct agf_copy_step {
  agf_id from; /* int32_t [h + w]: the input row of each output row, the input column of each output column; -1: zeros */
} agf_copy_step;

static agf_status agf_slice_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  if (n->channels > out->c - n->argument)
    return agf_fail(err, AGF_ERR_SHAPE, "layer %s (slice): takes the channels %d to %d of [%d, %d, %d]", n->name, n->argument,
                    n->argument + n->channels - 1, out->c, out->h, out->w);
  out->c = n->channels;
  return AGF_OK;
}

static agf_status agf_pad_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const int *pad = in->node->pad;
  int64_t h = (int64_t)out->h + pad[0] + pad[2], w = (int64_t)out->w + pad[1] + pad[3];
  if (in->node->argument == AGF_BORDER_REFLECT && (agf_imax(pad[0], pad[2]) >= out->h || agf_imax(pad[1], pad[3]) >= out->w))
    return agf_shape_error(err, in->node, out, "it has fewer pixels than are to be reflected");
  if (h > AGF_MAX_SIDE || w > AGF_MAX_SIDE) return agf_shape_error(err, in->node, out, "its output would be too large");
  out->h = (int)h;
  out->w = (int)w;
  return AGF_OK;
}

static agf_status agf_resize_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  const agf_node *n = in->node;
  int64_t h = n->kernel[0], w = n->kernel[1];
  if (!n->argument) {
    h *= out->h;
    w *= out->w;
  }
  if (h > AGF_MAX_SIDE || w > AGF_MAX_SIDE) return agf_shape_error(err, n, out, "its output would be too large");
  out->h = (int)h;
  out->w = (int)w;
  return AGF_OK;
}

/* A permutation of the channels: every one of them once. */
static agf_status agf_shuffle_weights(const agf_model *m, const agf_node *n, const agf_shape *in, agf_error *err) {
  const agf_weight *w = &m->weight[n->w];
  agf_status status = agf_weights_fit(m, n, in, agf_is_vector(m, n->w, in->c), err);
  unsigned char *seen;
  int i;
  if (status != AGF_OK) return status;
  seen = (unsigned char *)m->allocator.alloc(m->allocator.ctx, (size_t)in->c);
  if (!seen) return agf_fail(err, AGF_ERR_MEMORY, "no memory to check layer %s (shuffle): %d bytes", n->name, in->c);
  memset(seen, 0, (size_t)in->c);
  for (i = 0; i < in->c && status == AGF_OK; i++) {
    float v = agf_weight_at(w, (size_t)i);
    if (v >= 0 && v < (float)in->c && v == (float)(int)v && !seen[(int)v])
      seen[(int)v] = 1;
    else
      status =
          agf_fail(err, AGF_ERR_FORMAT,
                   "model file: node %d (%s, shuffle) takes its channel %d from channel %g: it has to take each of 0 to %d once",
                   (int)(n - m->node), n->name, i, (double)v, in->c - 1);
  }
  m->allocator.free(m->allocator.ctx, seen, (size_t)in->c);
  return status;
}

static agf_status agf_shuffle_plan(agf_planner *p, agf_step *st, agf_error *err) {
  (void)err;
  ((agf_shuffle_step *)st->own)->order = agf_buf(p, (uint64_t)agf_plan_out(p, st)->c * sizeof(int32_t), 0, agf_end(p));
  return AGF_OK;
}

static void agf_shuffle_fill(agf_session *s, const agf_step *st) {
  int32_t *from = (int32_t *)agf_at(s, ((const agf_shuffle_step *)st->own)->order);
  int c;
  for (c = 0; c < agf_out(s, st)->c; c++)
    from[c] = (int32_t)agf_weight_at(&s->model->weight[s->model->node[st->node].w], (size_t)c);
}

/* A row of n pixels of every channel, from an array to another: blocks fb and tb floats apart. `back`: output to input. */
static void agf_move_channels(const agf_session *s, const agf_step *st, const float *from, ptrdiff_t fb, float *to, ptrdiff_t tb,
                              int n, int back) {
  const int32_t *order = (const int32_t *)agf_at(s, ((const agf_shuffle_step *)st->own)->order);
  int c, p;
  for (c = 0; c < agf_out(s, st)->c; c++) {
    int a = back ? c : order[c], b = back ? order[c] : c;
    const float *f = from + a / AGF_CB * fb + a % AGF_CB;
    float *t = to + b / AGF_CB * tb + b % AGF_CB;
    for (p = 0; p < n; p++) t[p * AGF_CB] = f[p * AGF_CB];
  }
  agf_clear_lanes(to, tb, agf_out(s, st)->c, n);
}

/* The mask of row r, which has been written. */
static void agf_mask_row(const agf_session *s, const agf_tensor *t, int r) {
  int b;
  for (b = 0; t->mask && b < t->cb; b++) s->k.nonzeros(agf_row_x(s, t, b, r), t->w, agf_row_mask(s, t, b, r));
}

static void agf_slice_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_step *st = (const agf_step *)arg;
  const agf_tensor *ti = agf_in(s, st, 0), *t = agf_out(s, st);
  (void)scratch;
  agf_copy_channels(agf_row_x(s, ti, 0, r), ti->xb, s->model->node[st->node].argument, agf_row_x(s, t, 0, r), t->xb, 0, t->c, t->w);
  agf_clear_lanes(agf_row_x(s, t, 0, r), t->xb, t->c, t->w);
  agf_mask_row(s, t, r);
}

static void agf_shuffle_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_step *st = (const agf_step *)arg;
  const agf_tensor *ti = agf_in(s, st, 0), *t = agf_out(s, st);
  (void)scratch;
  agf_move_channels(s, st, agf_row_x(s, ti, 0, r), ti->xb, agf_row_x(s, t, 0, r), t->xb, t->w, 0);
  agf_mask_row(s, t, r);
}

/* The input row (or column) that pad's or resize's output row i of `count` copies, of `size`; -1: none. */
static int agf_copied(const agf_node *n, int i, int before, int size, int count) {
  if (n->op == AGF_OP_RESIZE) return (int)((int64_t)i * size / count);
  i -= before;
  if (i >= 0 && i < size) return i;
  if (n->argument == AGF_BORDER_ZEROS) return -1;
  if (n->argument == AGF_BORDER_REFLECT) return i < 0 ? -i : 2 * (size - 1) - i;
  return i < 0 ? 0 : size - 1;
}

static agf_status agf_copy_plan(agf_planner *p, agf_step *st, agf_error *err) {
  const agf_tensor *t = agf_plan_out(p, st);
  (void)err;
  ((agf_copy_step *)st->own)->from = agf_buf(p, (uint64_t)(t->h + t->w) * sizeof(int32_t), 0, agf_end(p));
  return AGF_OK;
}

static void agf_copy_fill(agf_session *s, const agf_step *st) {
  const agf_tensor *ti = agf_in(s, st, 0), *t = agf_out(s, st);
  const agf_node *n = &s->model->node[st->node];
  int32_t *from = (int32_t *)agf_at(s, ((const agf_copy_step *)st->own)->from);
  int i;
  for (i = 0; i < t->h; i++) from[i] = agf_copied(n, i, n->pad[0], ti->h, t->h);
  for (i = 0; i < t->w; i++) from[t->h + i] = agf_copied(n, i, n->pad[1], ti->w, t->w);
}

static void agf_copy_pixels_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_step *st = (const agf_step *)arg;
  const agf_tensor *ti = agf_in(s, st, 0), *t = agf_out(s, st);
  const int32_t *row = (const int32_t *)agf_at(s, ((const agf_copy_step *)st->own)->from), *column = row + t->h;
  int b, p;
  (void)scratch;
  for (b = 0; b < t->cb; b++) {
    float *y = agf_row_x(s, t, b, r);
    memset(y, 0, (size_t)t->w * AGF_CB * sizeof *y);
    for (p = 0; row[r] >= 0 && p < t->w; p++)
      if (column[p] >= 0) memcpy(y + p * AGF_CB, agf_row_x(s, ti, b, row[r]) + column[p] * AGF_CB, AGF_CB * sizeof *y);
  }
  agf_mask_row(s, t, r);
}

static void agf_slice_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  (void)f;
  agf_parallel(s, agf_out(s, st)->h, agf_slice_task, st);
}
static void agf_shuffle_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  (void)f;
  agf_parallel(s, agf_out(s, st)->h, agf_shuffle_task, st);
}
static void agf_copy_forward(agf_session *s, const agf_step *st, const agf_flow *f) {
  (void)f;
  agf_parallel(s, agf_out(s, st)->h, agf_copy_pixels_task, st);
}

/* Row r of the input: what lies at the output, g or R, brought back to where its element came from. */
static void agf_slice_back_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_back_job *j = (const agf_back_job *)arg;
  const agf_tensor *ti = agf_in(s, j->st, 0), *t = agf_out(s, j->st);
  int b;
  (void)scratch;
  for (b = 0; b < ti->cb; b++) memset(agf_row_of(j->out_g, ti, b, r), 0, (size_t)ti->w * AGF_CB * sizeof(float));
  agf_copy_channels(j->g + agf_row_at(t, 0, r) * AGF_CB, agf_plane(t), 0, agf_row_of(j->out_g, ti, 0, r), agf_plane(ti),
                    s->model->node[j->st->node].argument, t->c, t->w);
}

static void agf_shuffle_back_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_back_job *j = (const agf_back_job *)arg;
  const agf_tensor *t = agf_out(s, j->st);
  (void)scratch;
  agf_move_channels(s, j->st, j->g + agf_row_at(t, 0, r) * AGF_CB, agf_plane(t), agf_row_of(j->out_g, t, 0, r), agf_plane(t), t->w,
                    1);
}

/* Rows of the output in order, and pixels in order: a sum is the same one whichever task forms it. */
static void agf_copy_back_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_back_job *j = (const agf_back_job *)arg;
  const agf_tensor *ti = agf_in(s, j->st, 0), *t = agf_out(s, j->st);
  const int32_t *row = (const int32_t *)agf_at(s, ((const agf_copy_step *)j->st->own)->from), *column = row + t->h;
  int b, o, p, l;
  (void)scratch;
  for (b = 0; b < ti->cb; b++) memset(agf_row_of(j->out_g, ti, b, r), 0, (size_t)ti->w * AGF_CB * sizeof(float));
  for (o = 0; o < t->h; o++) {
    if (row[o] != r) continue;
    for (b = 0; b < ti->cb; b++) {
      const float *g = j->g + agf_row_at(t, b, o) * AGF_CB;
      float *out = agf_row_of(j->out_g, ti, b, r);
      for (p = 0; p < t->w; p++)
        for (l = 0; column[p] >= 0 && l < AGF_CB; l++) out[column[p] * AGF_CB + l] += g[p * AGF_CB + l];
    }
  }
}

static void agf_slice_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  agf_back_job j = agf_gradient_job(st, g, out);
  (void)slot;
  agf_parallel(s, agf_in(s, st, 0)->h, agf_slice_back_task, &j);
}
static void agf_shuffle_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  agf_back_job j = agf_gradient_job(st, g, out);
  (void)slot;
  agf_parallel(s, agf_in(s, st, 0)->h, agf_shuffle_back_task, &j);
}
static void agf_copy_gradient(agf_session *s, const agf_step *st, int slot, const float *g, float *out) {
  agf_back_job j = agf_gradient_job(st, g, out);
  (void)slot;
  agf_parallel(s, agf_in(s, st, 0)->h, agf_copy_back_task, &j);
}

/* For ops whose cam and R go the way of their gradient. */
static void agf_moved_rule(agf_session *s, const agf_step *st, agf_explanation *e) {
  const float *to_g = agf_wanted_g(s, e, st);
  float *cam, *g;
  agf_destination(s, e, st, 0, &cam, &g);
  st->rules->gradient(s, st, 0, agf_floats(s, agf_out(s, st)->cam), cam);
  if (to_g && g) st->rules->gradient(s, st, 0, to_g, g);
  agf_deliver(s, e, st, 0);
}

#ifndef AGF_NO_METHODS
static void agf_moved_relevance(agf_session *s, const agf_step *st, int slot, int alpha, const float *R, float *out) {
  (void)alpha;
  st->rules->gradient(s, st, slot, R, out);
}
#endif

/* MARK: op: reshaping ---------------------------------------------------------------------------------------------------------
 * Flatten: the tensor stays where it is and is read as the vector of its elements. */

static agf_status agf_flatten_shape(const agf_inputs *in, agf_shape *out, agf_error *err) {
  (void)in, (void)err;
  out->flattened = 1;
  return AGF_OK;
}

/* MARK: the table of ops ------------------------------------------------------------------------------------------------------
 * A row an op, in the order of their numbers; agf_op_rules says what each column is. */

#ifdef AGF_NO_METHODS
#define AGF_LRP(function) NULL
#else
#define AGF_LRP(function) function
#endif

/* clang-format off */
static const agf_op_rules agf_op_table[] = {
    /* the fields of agf_op_fields: inputs, flags; kernel, window, dilation, groups, channels; w, b; version, inputs of version 1; argument;
     * parameters; then traits, activation, step_bytes, and the functions: shape, weights, sign, connect, settle, plan, fill;
     * forward, rows, rule, gradient, lrp */
    {AGF_OP_CONV, "conv", {1, 1, AGF_FLAG_FLAT, 1, 1, 1, 1, 1, 1, 2, 1, 1, 0, 0, 0},
     AGF_MAKES_LOGITS | AGF_TAKES_BATCHNORM | AGF_TAKES_ACT | AGF_HAS_BIAS_TERM, AGF_ACT_NONE, sizeof(agf_conv_step),
     agf_conv_shape_of, agf_conv_weights, agf_sign_any, agf_conv_connect, agf_conv_settle, agf_conv_plan, agf_conv_fill,
     agf_conv_forward, agf_conv_rows, agf_conv_rule, agf_conv_gradient, AGF_LRP(agf_conv_lrp)},
    {AGF_OP_BATCHNORM, "batchnorm", {1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0},
     AGF_IS_BATCHNORM | AGF_TAKES_ACT | AGF_HAS_BIAS_TERM, AGF_ACT_NONE, 0,
     agf_same_shape, agf_scale_and_bias_weights, agf_sign_any, NULL, NULL, agf_batchnorm_plan, agf_batchnorm_fill,
     agf_rows_forward, agf_tail_rows, agf_tail_rule, agf_pass_gradient, AGF_LRP(agf_pass_relevance)},
    {AGF_OP_RELU, "relu", {1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0},
     AGF_READS_VECTORS, AGF_ACT_RELU, 0,
     agf_same_shape, NULL, agf_sign_rectified, NULL, NULL, agf_act_plan, agf_fill_bias,
     agf_rows_forward, agf_tail_rows, agf_tail_rule, agf_pass_gradient, AGF_LRP(agf_pass_relevance)},
    {AGF_OP_RELU6, "relu6", {1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0},
     AGF_READS_VECTORS, AGF_ACT_RELU6, 0,
     agf_same_shape, NULL, agf_sign_rectified, NULL, NULL, agf_act_plan, agf_fill_bias,
     agf_rows_forward, agf_tail_rows, agf_tail_rule, agf_pass_gradient, AGF_LRP(agf_pass_relevance)},
    {AGF_OP_MAXPOOL, "maxpool", {1, 1, AGF_FLAG_CEIL, 1, 1, 2, 0, 0, 0, 0, 1, 1, 0, 0, 0},
     AGF_IS_MAXIMUM, AGF_ACT_NONE, sizeof(agf_pool_step),
     agf_pool_shape, NULL, agf_sign_of_inputs, NULL, NULL, agf_pool_plan, agf_pool_fill,
     agf_rows_forward, agf_pool_rows, agf_pool_rule, agf_pool_gradient, AGF_LRP(agf_pool_lrp)},
    {AGF_OP_AVGPOOL, "avgpool", {1, 1, AGF_FLAG_CEIL | AGF_FLAG_INCLUDE_PAD, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0},
     AGF_MAKES_LOGITS, AGF_ACT_NONE, sizeof(agf_pool_step),
     agf_pool_shape, NULL, agf_sign_of_inputs, agf_average_connect, NULL, agf_pool_plan, agf_pool_fill,
     agf_rows_forward, agf_pool_rows, agf_pool_rule, agf_pool_gradient, AGF_LRP(agf_pool_lrp)},
    {AGF_OP_ADAPTIVE_AVGPOOL, "adaptive_avgpool", {1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0},
     AGF_MAKES_LOGITS | AGF_POOLS_TO_SIZE, AGF_ACT_NONE, sizeof(agf_pool_step),
     agf_adaptive_shape, NULL, agf_sign_of_inputs, agf_average_connect, NULL, agf_pool_plan, agf_pool_fill,
     agf_rows_forward, agf_pool_rows, agf_pool_rule, agf_pool_gradient, AGF_LRP(agf_pool_lrp)},
    {AGF_OP_GLOBAL_AVGPOOL, "global_avgpool", {1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0},
     AGF_MAKES_LOGITS | AGF_POOLS_TO_SIZE, AGF_ACT_NONE, sizeof(agf_pool_step),
     agf_global_shape, NULL, agf_sign_of_inputs, agf_average_connect, NULL, agf_pool_plan, agf_pool_fill,
     agf_rows_forward, agf_pool_rows, agf_pool_rule, agf_pool_gradient, AGF_LRP(agf_pool_lrp)},
    {AGF_OP_LINEAR, "linear", {1, 1, 0, 0, 0, 0, 0, 1, 1, 2, 1, 1, 0, 0, 0},
     AGF_READS_VECTORS | AGF_MAKES_LOGITS | AGF_TAKES_ACT | AGF_IS_LINEAR, AGF_ACT_NONE, sizeof(agf_linear_step),
     agf_linear_shape, agf_linear_weights, agf_sign_any, agf_linear_connect, NULL, agf_linear_plan, agf_fill_bias,
     agf_linear_forward, NULL, agf_linear_rule, agf_linear_gradient, AGF_LRP(agf_linear_lrp)},
    {AGF_OP_FLATTEN, "flatten", {1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0},
     AGF_READS_VECTORS | AGF_RESHAPES, AGF_ACT_NONE, 0,
     agf_flatten_shape, NULL, agf_sign_of_inputs, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL},
    {AGF_OP_ADD, "add", {2, AGF_MAX_EDGES, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0},
     AGF_READS_VECTORS | AGF_TAKES_ACT, AGF_ACT_NONE, sizeof(agf_add_step),
     agf_add_shape, NULL, agf_sign_of_inputs, agf_add_connect, NULL, agf_add_plan, NULL,
     agf_rows_forward, agf_add_rows, agf_add_rule, agf_pass_gradient, AGF_LRP(agf_add_lrp)},
    {AGF_OP_CONCAT, "concat", {1, AGF_MAX_EDGES, 0, 0, 0, 0, 0, 0, 0, 0, 1, AGF_MAX_EDGES, 0, 0, 0},
     0, AGF_ACT_NONE, sizeof(agf_concat_step),
     agf_concat_shape, NULL, agf_sign_of_inputs, NULL, agf_concat_settle, agf_concat_plan, agf_concat_fill,
     agf_concat_forward, NULL, agf_concat_rule, agf_concat_gradient, AGF_LRP(agf_concat_lrp)},
    {AGF_OP_ACT, "act", {1, 1, 0, 0, 0, 0, 0, 0, 2, 0, 2, 1, 1, AGF_ACTIVATIONS, 2},
     AGF_READS_VECTORS, AGF_ACT_NONE, sizeof(agf_activation_step),
     agf_activation_shape, agf_activation_weights, agf_activation_sign, NULL, NULL, agf_activation_plan, agf_activation_fill,
     agf_rows_forward, agf_activation_rows, agf_activation_rule, agf_activation_gradient, AGF_LRP(agf_pass_relevance)},
    {AGF_OP_MUL, "mul", {2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0},
     AGF_READS_VECTORS, AGF_ACT_NONE, 0,
     agf_mul_shape, NULL, agf_sign_of_inputs, NULL, NULL, NULL, NULL,
     agf_rows_forward, agf_mul_rows, agf_mul_rule, agf_mul_gradient, AGF_LRP(agf_mul_lrp)},
    {AGF_OP_NORM, "norm", {1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 2, 1, 0, 2, 1},
     0, AGF_ACT_NONE, sizeof(agf_normalise_step),
     agf_normalise_shape, agf_scale_and_bias_weights, agf_sign_any, NULL, NULL, agf_normalise_plan, agf_normalise_fill,
     agf_normalise_forward, NULL, agf_pass_cam_rule, agf_normalise_gradient, AGF_LRP(agf_pass_relevance)},
    {AGF_OP_LRN, "lrn", {1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1, AGF_MAX_CHANNELS, 3},
     0, AGF_ACT_NONE, 0,
     agf_lrn_shape, NULL, agf_sign_of_inputs, NULL, NULL, agf_lrn_plan, NULL,
     agf_lrn_forward, NULL, agf_pass_cam_rule, agf_lrn_gradient, AGF_LRP(agf_pass_relevance)},
    {AGF_OP_SLICE, "slice", {1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 2, 1, 0, AGF_MAX_CHANNELS, 0},
     0, AGF_ACT_NONE, 0,
     agf_slice_shape, NULL, agf_sign_of_inputs, NULL, NULL, NULL, NULL,
     agf_slice_forward, NULL, agf_moved_rule, agf_slice_gradient, AGF_LRP(agf_moved_relevance)},
    {AGF_OP_SHUFFLE, "shuffle", {1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 2, 1, 0, 0, 0},
     0, AGF_ACT_NONE, sizeof(agf_shuffle_step),
     agf_same_shape, agf_shuffle_weights, agf_sign_of_inputs, NULL, NULL, agf_shuffle_plan, agf_shuffle_fill,
     agf_shuffle_forward, NULL, agf_moved_rule, agf_shuffle_gradient, AGF_LRP(agf_moved_relevance)},
    {AGF_OP_PAD, "pad", {1, 1, 0, 0, 2, 0, 0, 0, 0, 0, 2, 1, 0, 2, 0},
     0, AGF_ACT_NONE, sizeof(agf_copy_step),
     agf_pad_shape, NULL, agf_sign_of_inputs, NULL, NULL, agf_copy_plan, agf_copy_fill,
     agf_copy_forward, NULL, agf_moved_rule, agf_copy_gradient, AGF_LRP(agf_moved_relevance)},
    {AGF_OP_GLOBAL_MAXPOOL, "global_maxpool", {1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0},
     AGF_POOLS_TO_SIZE | AGF_IS_MAXIMUM, AGF_ACT_NONE, sizeof(agf_pool_step),
     agf_global_shape, NULL, agf_sign_of_inputs, NULL, NULL, agf_pool_plan, agf_pool_fill,
     agf_rows_forward, agf_pool_rows, agf_pool_rule, agf_pool_gradient, AGF_LRP(agf_pool_lrp)},
    {AGF_OP_RESIZE, "resize", {1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 2, 1, 0, 1, 0},
     0, AGF_ACT_NONE, sizeof(agf_copy_step),
     agf_resize_shape, NULL, agf_sign_of_inputs, NULL, NULL, agf_copy_plan, agf_copy_fill,
     agf_copy_forward, NULL, agf_moved_rule, agf_copy_gradient, AGF_LRP(agf_moved_relevance)}};
/* clang-format on */

/* The row of an op; NULL: there is no such op. */
static const agf_op_rules *agf_rules_of(agf_op op) {
  unsigned row = (unsigned)op - 1;
  return row < sizeof agf_op_table / sizeof *agf_op_table ? &agf_op_table[row] : NULL;
}

AGF_API const char *agf_op_name(agf_op op) {
  const agf_op_rules *rules = agf_rules_of(op);
  return rules ? rules->name : "?";
}

/* MARK: the walk back ---------------------------------------------------------------------------------------------------------
 * agf-spec, "Rules, per node": (cam, g) at a step's output to (cam, g) at its inputs, one step at a time from the logits to the
 * image. Each step first finishes its output (several readers merged, observed), then applies its rule, which delivers to its input
 * tensors. cam, g, C, A and R are arrays [cb][h][w][16]. */

/* Begins a walk: nothing has been delivered yet. Which tensors' gradients are wanted follows from the rules that the options leave, as
 * agf_connect says for all of them. */
static void agf_begin_walk(agf_session *s, agf_explanation *e) {
  const agf_plan *plan = s->plan;
  int i, j;
  memset(e->arrival, 0, (size_t)plan->tensors * sizeof *e->arrival);
  for (i = 0; i < plan->steps; i++) {
    const agf_step *st = &plan->step[i];
    int wants = s->config.observer || st->uses_g == AGF_G_ALWAYS || (st->uses_g == AGF_G_UNLESS_BARE && !agf_bare(e->options));
    for (j = 0; j < st->inputs; j++) wants |= e->arrival[plan->in[st->in + j]].wants_g;
    e->arrival[st->out].wants_g = wants;
  }
}

/* Report progress; nonzero: cancelled. */
static int agf_progress(agf_session *s, double done) {
  return s->config.progress && s->config.progress(s->config.progress_ctx, done);
}

/* A step of a walk is done: its time, and what of the explanation is. */
static agf_status agf_end_step(agf_session *s, const agf_explanation *e, const agf_step *st, double since, agf_error *err) {
  agf_facts(s, st)->explain_seconds += agf_now() - since;
  if (agf_progress(s, e->base + e->share * (s->plan->steps - st->index) / s->plan->steps))
    return agf_fail(err, AGF_ERR_CANCELLED, "cancelled while explaining");
  return AGF_OK;
}

/* AGF's rules from step `from` down to the image. */
static agf_status agf_walk_rules(agf_session *s, agf_explanation *e, int from, agf_error *err) {
  agf_status status = AGF_OK;
  int i;
  for (i = from; i >= 0 && status == AGF_OK; i--) {
    const agf_step *st = &s->plan->step[i];
    double t0 = agf_now();
    agf_finish_output(s, e, st);
    st->rules->rule(s, st, e);
    status = agf_end_step(s, e, st, t0, err);
  }
  return status;
}

/* MARK: the seed --------------------------------------------------------------------------------------------------------------
 * agf-spec, "Seed": the gradient of the softened probability of class t in the logits, and (cam, g) at the tensor that the last
 * step reads. Small; in double, with an exponential of its own so that no libm decides bits. */

static double agf_exp_double(double x) {
  double n, r, p = 1;
  uint64_t u;
  int k;
  if (x < -700) return 0;
  if (x > 700) x = 700;
  n = (x * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0; /* 1.5 * 2^52: to the nearest integer */
  r = (x - n * 0.69314718036912382) - n * 1.9082149292705877e-10;
  for (k = 14; k > 0; k--) p = 1 + r / k * p;
  u = (uint64_t)((int64_t)n + 1023) << 52;
  memcpy(&n, &u, 8);
  return p * n;
}

/* dz[K] = gradient of p_t in z; 0 if it has none: one class, or all logits equal. */
static int agf_seed_gradient(const agf_session *s, const float *z, int classes, int t, float *dz) {
  double *e = (double *)agf_at(s, s->plan->softmax), *p = e + classes, *d = p + classes, zt = z[t], sigma = 0, sum = 0, max,
         to_sigma = 0;
  double own = 0, rest;
  int i, m = 0;
  for (i = 0; i < classes; i++) {
    double a = fabs((double)z[i] - zt);
    if (a > sigma) sigma = a, m = i;
  }
  if (classes < 2 || !(sigma > 0)) return 0;
  max = -DBL_MAX;
  for (i = 0; i < classes; i++) {
    double q = ((double)z[i] - zt) / sigma;
    e[i] = agf_exp_double(-(q * q) / 2);
    p[i] = zt * e[i];
    if (p[i] > max) max = p[i];
  }
  for (i = 0; i < classes; i++) {
    p[i] = agf_exp_double(p[i] - max);
    sum += p[i];
  }
  for (i = 0; i < classes; i++) p[i] /= sum;
  rest = 1 - p[t];
  if (rest < 1e-6) /* of a sure network the difference is rounding (below 1e-16 nothing else): the others' sum is exact */
    for (rest = 0, i = 0; i < classes; i++) rest += i == t ? 0 : p[i];
  for (i = 0; i < classes; i++) { /* du: how p_t depends on u_i = z_t e_i; e_i in turn depends on d_i = z_i - z_t and on sigma */
    double di = (double)z[i] - zt, du = p[t] * (i == t ? rest : -p[i]);
    double by_d = i == m ? 0 : du * zt * e[i] * (-di / (sigma * sigma)); /* e_m is a constant: its two parts cancel */
    d[i] = by_d;
    own += du * e[i] - by_d;
    if (i != m) to_sigma += du * zt * e[i] * (di * di) / (sigma * sigma * sigma);
  }
  d[t] += own;
  d[m] += (double)z[m] > zt ? to_sigma : -to_sigma;
  d[t] -= (double)z[m] > zt ? to_sigma : -to_sigma;
  for (i = 0; i < classes; i++) dz[i] = (float)d[i];
  return 1;
}

/* dz[K] for one class against another: P(1-P) (e_t - e_u), P = softmax of z / |z_t - z_u| over the two, which is 1 / (1 + 1/e) or
 * 1 / (1 + e) whatever the logits are (agf-spec, "One class against another"). */
static void agf_pair_gradient(int classes, int t, int u, float *dz) {
  double p = 1 / (1 + agf_exp_double(-1));
  memset(dz, 0, (size_t)classes * sizeof *dz);
  dz[t] = (float)(p * (1 - p));
  dz[u] = -dz[t];
}

static int agf_ranks_before(const void *logits, int a, int b) {
  const float *z = (const float *)logits;
  return z[a] != z[b] ? z[a] > z[b] : a < b;
}

/* Order of the logits: largest first, ties by index. */
static void agf_rank(const float *z, int classes, int *order) {
  int i;
  for (i = 0; i < classes; i++) order[i] = i;
  agf_sort(order, classes, agf_ranks_before, z);
}

/* x * g in place of g, and a copy of g where a rule below wants it; then the delivery: what a seed ends with. */
static void agf_finish_seed(agf_session *s, agf_explanation *e, const agf_step *st, const float *x, float *cam, float *g) {
  const agf_tensor *t = agf_in(s, st, 0);
  agf_times_job times;
  if (g) {
    agf_copy_job copy;
    memset(&copy, 0, sizeof copy);
    copy.t = t;
    copy.cam = cam;
    copy.out = g;
    agf_parallel(s, t->h, agf_copy_task, &copy);
  }
  times.t = t;
  times.x = x;
  times.out = cam;
  agf_parallel(s, t->h, agf_times_x_task, &times);
  agf_deliver(s, e, st, 0);
}

/* (cam, g) at the last step's input: g = gradient of p_t there, cam = x * g; with a difference its tensor in place of x. */
static void agf_seed(agf_session *s, agf_explanation *e, const float *dz) {
  const agf_step *st = agf_last_step(s);
  float *cam, *g;
  const float *top = dz;
  agf_destination(s, e, st, 0, &cam, &g);
  if (st->rhs_mask) {
    agf_slope_job j;
    memset(&j, 0, sizeof j);
    j.t = agf_out(s, st);
    j.g = dz;
    j.out = agf_floats(s, st->rhs);
    j.mask = (uint16_t *)agf_at(s, st->rhs_mask);
    agf_parallel(s, j.t->h, agf_slope_task, &j);
    top = j.out;
  }
  st->rules->gradient(s, st, 0, top, cam);
  agf_finish_seed(s, e, st, e->latent, cam, g);
}

/* --- agf_lc: a local contrast at every position (agf-spec, "Two variants of ours") --- */

typedef struct agf_local_job {
  const agf_step *linear; /* NULL: X itself holds the logits */
  const agf_tensor *t;    /* X, which the pool reads */
  float *l;               /* [pixels][co]: V X, then u; without a linear layer in X's cam instead */
  float *cam;             /* of X */
  double spread;          /* T */
  int target, against;    /* against: the only other class; -1: all are */
} agf_local_job;

/* Whether class k is one of those that the target is contrasted with. */
static inline int agf_is_other(const agf_local_job *j, int k) { return k != j->target && (j->against < 0 || k == j->against); }

/* A block of columns of V X at every position; X is read where it lies, AGF_LINEAR_WIDE_ROWS channels at a time. */
static void agf_local_logits_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_local_job *j = (const agf_local_job *)arg;
  const agf_weight *w = &s->model->weight[s->model->node[j->linear->node].w];
  int co = agf_linear_of(j->linear)->co, each = agf_linear_columns(s, co), c0 = i * each, columns = agf_imin(each, co - c0), k, r,
      p;
  float *v = (float *)(void *)scratch;
  for (p = 0; p < j->t->h * j->t->w; p++) memset(j->l + (size_t)p * (size_t)co + (size_t)c0, 0, (size_t)columns * sizeof(float));
  for (k = 0; k < j->t->c; k += AGF_LINEAR_WIDE_ROWS) {
    int rows = agf_imin(AGF_LINEAR_WIDE_ROWS, j->t->c - k);
    for (r = 0; r < rows; r++)
      agf_load_weights(s, w, (size_t)(k + r) * (size_t)co + (size_t)c0, (size_t)columns, 0, v + r * columns);
    for (r = 0; r < j->t->h; r++)
      for (p = 0; p < j->t->w; p++)
        s->k.linear(agf_row_x(s, j->t, k / AGF_CB, r) + p * AGF_CB + k % AGF_CB, rows, v, columns, columns,
                    j->l + (size_t)(r * j->t->w + p) * (size_t)co + (size_t)c0, NULL);
  }
}

/* u = P * (1 for the class, -q_k for the others, 0 for those beside them) / pixels, the gradient of one position's contrast in its
 * logits: element k of l (plus bias[k], where it is not NULL) and u stands at [k / 16 * block + k % 16]. u may be l. */
static void agf_contrast_of(const agf_local_job *j, int classes, const float *l, const float *bias, ptrdiff_t block, float *u,
                            ptrdiff_t u_block) {
  double max = -DBL_MAX, sum = 0, own = 0, share;
  int k;
  for (k = 0; k < classes; k++) {
    double v = (double)l[k / AGF_CB * block + k % AGF_CB] + (bias ? (double)bias[k] : 0);
    if (k == j->target)
      own = v;
    else if (agf_is_other(j, k) && v > max)
      max = v;
  }
  for (k = 0; k < classes; k++) {
    double v = (double)l[k / AGF_CB * block + k % AGF_CB] + (bias ? (double)bias[k] : 0);
    if (agf_is_other(j, k)) sum += agf_exp_double((v - max) / j->spread);
  }
  share = 1 / (1 + agf_exp_double((max - own) / j->spread) * sum) / ((double)j->t->h * (double)j->t->w);
  for (k = 0; k < classes; k++) {
    double v = (double)l[k / AGF_CB * block + k % AGF_CB] + (bias ? (double)bias[k] : 0);
    u[k / AGF_CB * u_block + k % AGF_CB] = (float)(k == j->target       ? share
                                                   : agf_is_other(j, k) ? -share * (agf_exp_double((v - max) / j->spread) / sum)
                                                                        : 0);
  }
}

/* u(h), so that g(h) = V^T u(h), for the positions of row r. */
static void agf_local_contrast_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_local_job *j = (const agf_local_job *)arg;
  const agf_tensor *t = j->t;
  int classes = s->model->classes, p, k;
  (void)scratch;
  for (p = 0; p < t->w; p++) {
    size_t at = (size_t)r * (size_t)t->w + (size_t)p;
    float *l = j->linear ? j->l + at * (size_t)agf_linear_of(j->linear)->co : NULL;
    if (l)
      agf_contrast_of(j, classes, l, agf_floats(s, j->linear->bias), AGF_CB, l, AGF_CB);
    else
      agf_contrast_of(j, classes, agf_row_x(s, t, 0, r) + p * AGF_CB, NULL, t->xb, j->cam + at * AGF_CB, agf_plane(t));
    for (k = classes; l && k < agf_linear_of(j->linear)->co; k++) l[k] = 0.0f;
  }
}

/* The gradient, for `seed` [classes] at the logits and the values that the head's tensors hold, of what the head reads: into that tensor's
 * cam array. */
static void agf_head_gradient(agf_session *s, agf_explanation *e, const float *seed) {
  const agf_plan *plan = s->plan;
  const agf_tensor *logits = agf_out(s, agf_last_step(s));
  float *top = agf_floats(s, logits->cam), *out, *unused;
  int i, slot;
  for (i = plan->head; i < plan->steps; i++) e->arrival[plan->step[i].out].delivered = 0;
  memset(top, 0, (size_t)agf_tensor_elements(logits) * sizeof *top);
  memcpy(top, seed, (size_t)s->model->classes * sizeof *top);
  for (i = plan->steps - 1; i > plan->head; i--) {
    const agf_step *st = &plan->step[i];
    const float *g = agf_before_tail(s, st, st->act);
    for (slot = 0; slot < st->inputs; slot++) {
      agf_destination(s, e, st, slot, &out, &unused);
      st->rules->gradient(s, st, slot, g, out);
      agf_gradient_deliver(s, e, st, slot);
    }
  }
}

/* A head of several layers: g at every position of X, [cb][h][w][16] in j->l: the head run on the position alone, its contrast's
 * gradient back through it. */
static agf_status agf_local_head(agf_session *s, agf_explanation *e, const agf_local_job *j, agf_error *err) {
  const agf_plan *plan = s->plan;
  const agf_tensor *t = j->t, *v = agf_out(s, &plan->step[plan->head]), *logits = agf_out(s, agf_last_step(s));
  float *seed = agf_floats(s, plan->dz);
  int r, p, b, i, bad;
  s->bad = 0;
  for (r = 0; r < t->h; r++)
    for (p = 0; p < t->w; p++) {
      for (b = 0; b < t->cb; b++) {
        float *x = agf_row_x(s, v, b, 0);
        memcpy(x, agf_row_x(s, t, b, r) + p * AGF_CB, AGF_CB * sizeof *x);
        if (v->mask) s->k.nonzeros(x, 1, agf_row_mask(s, v, b, 0));
      }
      for (i = plan->head + 1; i < plan->steps; i++) {
        agf_flow f = agf_flow_of(s, &plan->step[i], 0);
        plan->step[i].rules->forward(s, &plan->step[i], &f);
      }
      agf_contrast_of(j, s->model->classes, agf_x(s, logits), NULL, logits->xb, seed, AGF_CB);
      agf_head_gradient(s, e, seed);
      for (b = 0; b < t->cb; b++)
        memcpy(j->l + (agf_row_at(t, b, r) + (size_t)p) * AGF_CB, agf_floats(s, v->cam) + b * AGF_CB, AGF_CB * sizeof(float));
    }
  bad = (s->bad & AGF_BAD_VALUE) != 0;
  for (i = plan->head; i < plan->steps; i++) { /* what the run left there */
    agf_flow f = agf_flow_of(s, &plan->step[i], agf_facts(s, &plan->step[i])->d_known);
    plan->step[i].rules->forward(s, &plan->step[i], &f);
  }
  if (bad)
    return agf_fail(err, AGF_ERR_NUMERIC, "%s: an activation of the head is infinite or NaN at one of the positions",
                    e->rules->name);
  return AGF_OK;
}

/* g = V^T u into cam for AGF_LINEAR_WIDE_ROWS channels at every position. */
static void agf_local_back_task(agf_session *s, const void *arg, int i, unsigned char *scratch) {
  const agf_local_job *j = (const agf_local_job *)arg;
  const agf_tensor *t = j->t;
  const agf_weight *w = &s->model->weight[s->model->node[j->linear->node].w];
  int co = agf_linear_of(j->linear)->co, k = i * AGF_LINEAR_WIDE_ROWS, rows = agf_imin(AGF_LINEAR_WIDE_ROWS, t->c - k), p;
  size_t plane = (size_t)t->h * (size_t)t->w;
  const float *v = (const float *)(const void *)w->data + (size_t)k * (size_t)co;
  float g[AGF_LINEAR_WIDE_ROWS] = {0};
  if (w->type == AGF_F16) {
    agf_load_weights(s, w, (size_t)k * (size_t)co, (size_t)rows * (size_t)co, 0, (float *)(void *)scratch);
    v = (const float *)(const void *)scratch;
  }
  for (p = 0; p < (int)plane; p++) {
    s->k.linear_back(g, 1, rows, v, co, co, j->l + (size_t)p * (size_t)co, NULL, g, NULL);
    memcpy(j->cam + ((size_t)(k / AGF_CB) * plane + (size_t)p) * AGF_CB + (size_t)(k % AGF_CB), g, (size_t)rows * sizeof *g);
  }
}

/* (cam, g) at X, the tensor that the pool reads: cam = X * g. T is taken from the logits z. */
static agf_status agf_seed_local(agf_session *s, agf_explanation *e, agf_error *err) {
  const agf_plan *plan = s->plan;
  const agf_node *last = &s->model->node[agf_last_step(s)->node];
  const agf_step *pool;
  agf_local_job j;
  float *g;
  agf_status status;
  int i, co, deep;
  memset(&j, 0, sizeof j);
  if (plan->head < 0)
    return agf_fail(err, AGF_ERR_UNSUPPORTED,
                    "%s needs logits that depend on the image through one global average pool alone; those of layer %s (%s) "
                    "do not",
                    e->rules->name, last->name, agf_op_name(last->op));
  j.linear = plan->head_linear >= 0 ? &plan->step[plan->head_linear] : NULL;
  deep = !j.linear && plan->head < plan->steps - 1;
  if ((j.linear || deep) && !plan->local)
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_lc needs memory of its own here: the session's config must name it in methods");
  j.target = e->target;
  j.against = e->against;
  for (i = 0; i < s->model->classes; i++)
    if (agf_is_other(&j, i) && fabs((double)e->z[i] - e->z[e->target]) > j.spread)
      j.spread = fabs((double)e->z[i] - e->z[e->target]);
  if (!(j.spread > 0) && e->against >= 0)
    return agf_fail(err, AGF_ERR_NUMERIC, "%s: the logits of class %d and of class %d, against which it is, are equal: %g",
                    e->rules->name, e->target, e->against, (double)e->z[e->target]);
  if (!(j.spread > 0))
    return agf_fail(err, AGF_ERR_UNSUPPORTED, "class %d: %s, so there is nothing to contrast", e->target,
                    s->model->classes < 2 ? "the network has one class" : "all logits are equal");
  pool = &plan->step[plan->head];
  j.t = agf_in(s, pool, 0);
  j.l = agf_floats(s, plan->local);
  status = deep ? agf_local_head(s, e, &j, err) : AGF_OK;
  if (status != AGF_OK) return status;
  agf_destination(s, e, pool, 0, &j.cam, &g);
  memset(j.cam, 0, (size_t)agf_tensor_elements(j.t) * sizeof(float));
  if (deep) memcpy(j.cam, j.l, (size_t)agf_tensor_elements(j.t) * sizeof(float));
  co = agf_filled(s->model->classes);
  if (j.linear) agf_parallel(s, agf_ceil_div(co, agf_linear_columns(s, co)), agf_local_logits_task, &j);
  if (!deep) agf_parallel(s, j.t->h, agf_local_contrast_task, &j);
  if (j.linear) agf_parallel(s, agf_ceil_div(j.t->c, AGF_LINEAR_WIDE_ROWS), agf_local_back_task, &j);
  agf_finish_seed(s, e, pool, agf_x(s, j.t), j.cam, g);
  return AGF_OK;
}

/* MARK: sessions --------------------------------------------------------------------------------------------------------------
 * Checks a config, plans, takes the memory, fills what does not depend on the image. */

/* The kernels of `isa`, NULL: of the environment's AGF_ISA, else the best that there are. */
static agf_status agf_choose_isa(agf_kernels *k, const char *isa, agf_error *err) {
  const char *name = isa ? isa : getenv("AGF_ISA");
  if (name && !*name) name = NULL;
  if (agf_kernels_choose(k, name)) return AGF_OK;
  return agf_fail(err, AGF_ERR_ARGUMENT, "instruction set \"%s\" is unknown or not available on this machine", name);
}

/* All that the session needs, known since it was planned, against what it may take and what size_t can count: half of it, as
 * malloc. */
static agf_status agf_check_bytes(agf_session *s, agf_error *err) {
  uint64_t bytes = agf_table_sizes(s->model).total + agf_team_bytes(s->threads) + s->plan->arena_bytes;
  const char *more = s->plan->arena_bytes == AGF_TOO_MANY ? " or more" : "";
  if (s->config.max_bytes && bytes > s->config.max_bytes)
    return agf_fail(err, AGF_ERR_LIMIT, "the session needs %llu bytes%s at %d x %d pixels, more than max_bytes %llu",
                    (unsigned long long)bytes, more, s->config.height, s->config.width, (unsigned long long)s->config.max_bytes);
  if (bytes > SIZE_MAX / 2)
    return agf_fail(err, AGF_ERR_LIMIT,
                    "the session needs %llu bytes%s at %d x %d pixels, more than this machine can address (%llu)",
                    (unsigned long long)bytes, more, s->config.height, s->config.width, (unsigned long long)(SIZE_MAX / 2));
  s->bytes = (size_t)bytes;
  return AGF_OK;
}

/* Config, instruction set and plan in `memory`, which holds the tables; everything but the arena. */
static agf_status agf_prepare(void *memory, const agf_model *model, const agf_session_config *config, agf_session **session,
                              agf_error *err) {
  agf_planner *planner;
  agf_session *s = agf_session_at(memory, model, &planner);
  agf_status status;
  unsigned needs = 0;
  int i;
  *session = s;
  if (config) s->config = *config;
  if (!s->config.height) s->config.height = model->input.height;
  if (!s->config.width) s->config.width = model->input.width;
  s->allocator = agf_allocator_or_default(s->config.allocator);
  if (s->config.threads < 0 || s->config.threads > 1024)
    return agf_fail(err, AGF_ERR_ARGUMENT, "%d threads: 0 to 1024 are allowed", s->config.threads);
  s->threads = s->config.threads ? s->config.threads : agf_cores();
#ifdef AGF_NO_THREADS
  if (!s->config.parallel_for) s->threads = 1;
#endif
  if (s->config.methods & ~AGF_METHODS_ALL)
    return agf_fail(err, AGF_ERR_ARGUMENT, "unknown methods 0x%x in the session's config", s->config.methods & ~AGF_METHODS_ALL);
  for (i = 0; i < AGF_METHODS; i++) {
    const agf_method_rules *rules = agf_rules_of_method((agf_method)i);
    if (!(s->config.methods & AGF_METHOD_BIT(i))) continue;
    if (!rules->explain)
      return agf_fail(err, AGF_ERR_UNSUPPORTED,
                      "the session's config asks for %s, which this engine was built without (AGF_NO_METHODS)", rules->name);
    needs |= rules->needs;
  }
  status = agf_choose_isa(&s->k, s->config.isa, err);
  if (status == AGF_OK) status = agf_make_plan(planner, needs, err);
  if (status == AGF_OK) status = agf_check_bytes(s, err);
  return status;
}

AGF_API agf_status agf_session_bytes(const agf_model *model, const agf_session_config *config, size_t *bytes, agf_error *err) {
  agf_allocator a = agf_allocator_or_default(config ? config->allocator : NULL);
  agf_session *s;
  size_t tables;
  void *memory;
  agf_status status;
  agf_clear(err);
  if (!model || !bytes) return agf_fail(err, AGF_ERR_ARGUMENT, "agf_session_bytes: model or bytes is NULL");
  *bytes = 0;
  tables = agf_table_sizes(model).total;
  status = agf_take(&a, tables, "the plan of a session", &memory, err);
  if (status != AGF_OK) return status;
  status = agf_prepare(memory, model, config, &s, err);
  if (status == AGF_OK) *bytes = s->bytes;
  a.free(a.ctx, memory, tables);
  return status;
}

static agf_status agf_create(const agf_model *model, const agf_session_config *config, agf_session **session, agf_error *err) {
  agf_session *s = NULL;
  unsigned char *memory;
  void *taken;
  size_t bytes;
  agf_status status;
  int i;
  if (agf_build_contracts())
    return agf_fail(err, AGF_ERR_BUILD, "this engine was compiled with a * b + c contracted: build it with -ffp-contract=off");
#if defined(AGF_FMA_RELAXED)
  if (!agf_fma_is_fused())
    return agf_fail(err, AGF_ERR_BUILD,
                    "this WebAssembly was built with -mrelaxed-simd, whose multiply-add is not fused on this processor");
#endif
  if (config && config->memory) { /* planned where it will live: no other memory is needed */
    if ((uintptr_t)config->memory % AGF_ALIGN)
      return agf_fail(err, AGF_ERR_ARGUMENT, "the session's memory is not 64-byte aligned");
    if (agf_overlap(config->memory, config->memory_bytes, model->data, model->bytes))
      return agf_fail(err, AGF_ERR_ARGUMENT, "the session's memory overlaps the model's file in memory");
    memory = (unsigned char *)config->memory;
    bytes = agf_table_sizes(model).total;
    status = AGF_OK;
    if (config->memory_bytes >= bytes) {
      status = agf_prepare(memory, model, config, &s, err);
      if (status != AGF_OK) return status;
      bytes = s->bytes;
    }
    if (config->memory_bytes < bytes)
      return agf_fail(err, AGF_ERR_MEMORY, "the session needs %llu bytes or more, the caller's memory has %llu",
                      (unsigned long long)bytes, (unsigned long long)config->memory_bytes);
  } else {
    agf_allocator a = agf_allocator_or_default(config ? config->allocator : NULL);
    status = agf_session_bytes(model, config, &bytes, err);
    if (status != AGF_OK) return status;
    status = agf_take(&a, bytes, "a session", &taken, err);
    if (status != AGF_OK) return status;
    memory = (unsigned char *)taken;
    status = agf_prepare(memory, model, config, &s, err);
    if (status == AGF_OK && s->bytes > bytes)
      status = agf_fail(err, AGF_ERR_MEMORY, "cores were added while the session was planned");
    s->bytes = bytes;
  }
  s->owns_memory = !(config && config->memory);
  if (status == AGF_OK) {
    const agf_plan *plan = s->plan;
    for (i = 0; i < plan->tensors; i++) agf_clear_unwritten(s, &plan->tensor[i]);
    agf_clear_buffer(s, plan->difference);
    agf_clear_buffer(s, plan->dz);
    for (i = 0; i < plan->steps; i++)
      if (plan->step[i].rules->fill) plan->step[i].rules->fill(s, &plan->step[i]);
    status = agf_team_start(s, s->arena + plan->arena_bytes, err);
  }
  if (status != AGF_OK) {
    if (s->owns_memory) s->allocator.free(s->allocator.ctx, s, bytes);
    return status;
  }
  *session = s;
  return AGF_OK;
}

AGF_API agf_status agf_session_create(const agf_model *model, const agf_session_config *config, agf_session **session,
                                      agf_error *err) {
  agf_fp_state fp;
  agf_status status;
  agf_clear(err);
  if (session) *session = NULL;
  if (!model || !session) return agf_fail(err, AGF_ERR_ARGUMENT, "agf_session_create: model or session is NULL");
  fp = agf_fp_enter();
  status = agf_create(model, config, session, err);
  agf_fp_leave(fp);
  return status;
}

AGF_API void agf_session_destroy(agf_session *session) {
  if (!session) return;
  agf_team_stop(session);
  if (session->owns_memory) session->allocator.free(session->allocator.ctx, session, session->bytes);
}

AGF_API const char *agf_isa_name(const agf_session *session) { return session ? session->k.isa : ""; }
AGF_API int agf_session_threads(const agf_session *session) { return session ? session->threads : 0; }

/* MARK: calls -----------------------------------------------------------------------------------------------------------------
 * What every call that works with a session asks first: whether it may now, and whether the caller's arrays lie where they may. */

/* Marks the session as at work. What is open is whether another thread races for it: where atomics are not to be had, a second call
 * may be missed. */
static agf_status agf_begin_call(agf_session *s, const char *who, agf_error *err) {
  int busy;
  if (agf_team_left(s))
    return agf_fail(
        err, AGF_ERR_STATE,
        "%s: after fork() the session's threads are in the parent process alone: the child makes a session of its own, or "
        "the parent one of 1 thread",
        who);
#if defined(__GNUC__)
  busy = __atomic_exchange_n(&s->busy, 1, __ATOMIC_ACQUIRE);
#else
  busy = s->busy;
  s->busy = 1;
#endif
  if (busy)
    return agf_fail(err, AGF_ERR_STATE, "%s: the session is at work: called from one of its own callbacks, or from another thread",
                    who);
  return AGF_OK;
}

static void agf_end_call(agf_session *s) {
#if defined(__GNUC__)
  __atomic_store_n(&s->busy, 0, __ATOMIC_RELEASE);
#else
  s->busy = 0;
#endif
}

/* An array that a call reads or writes must lie outside of what the engine works in. */
static int agf_overlaps_session(const agf_session *s, const void *array, size_t bytes) {
  return agf_overlap(array, bytes, s, s->bytes) || agf_overlap(array, bytes, s->model->data, s->model->bytes);
}

/* MARK: running ---------------------------------------------------------------------------------------------------------------
 * The API's first verb, and what can be read after it. */

typedef struct agf_image_job {
  const float *chw;
  const agf_weight *scale, *bias; /* what the network does to each channel first; NULL: nothing */
  const agf_tensor *t;
  float *x;
  uint16_t *mask;
} agf_image_job;

AGF_FAST_BEGIN
/* Row r of a CHW array into a tensor's blocks, and its masks. */
static void agf_image_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_image_job *j = (const agf_image_job *)arg;
  const agf_tensor *t = j->t;
  const int n = t->w, xp = t->xp, affine = j->scale != NULL;
  int c, p, bad = 0;
  (void)scratch;
  for (c = 0; c < t->c; c++) {
    const float *from = j->chw + ((size_t)c * (size_t)t->h + (size_t)r) * (size_t)t->w;
    int lane = c % AGF_CB;
    float *to = j->x + c / AGF_CB * t->xb + r * t->xr + lane;
    uint16_t *mask = j->mask ? j->mask + agf_row_at(t, c / AGF_CB, r) : NULL;
    float scale = affine ? agf_weight_at(j->scale, (size_t)c) : 1.0f, bias = affine ? agf_weight_at(j->bias, (size_t)c) : 0.0f;
    for (p = 0; p < n; p++) {
      float v = affine ? agf_fmaf(from[p], scale, bias) : from[p];
      bad |= !agf_finite(v);
      to[p * xp] = v + 0.0f;
      if (mask) mask[p] = (uint16_t)((lane ? mask[p] : 0) | (v != 0) << lane);
    }
  }
  if (bad) agf_raise(&s->bad, AGF_BAD_VALUE);
}
AGF_FAST_END

/* A CHW array into tensor t's form at x, as scale * chw + bias per channel where they are given, with its mask where one is wanted.
 * Returns nonzero if a value is not finite. */
static int agf_import(agf_session *s, const float *chw, const agf_weight *scale, const agf_weight *bias, const agf_tensor *t,
                      float *x, uint16_t *mask) {
  agf_image_job j;
  j.scale = scale;
  j.bias = bias;
  j.mask = mask;
  j.chw = chw;
  j.t = t;
  j.x = x;
  s->bad = 0;
  agf_parallel(s, t->h, agf_image_task, &j);
  return (s->bad & AGF_BAD_VALUE) != 0;
}

/* The first step of a chain whose output is not finite: where one's is, those behind it read it, so they are made anew one by one. */
static const agf_step *agf_first_bad(agf_session *s, const agf_step *st) {
  const agf_step *last = st + st->chained;
  for (s->bad = 0; st < last; st++) {
    agf_flow f = agf_flow_of(s, st, 0);
    st->rules->forward(s, st, &f);
    if (s->bad & AGF_BAD_VALUE) break;
  }
  return st;
}

/* Every step's forward pass, from the image tensor to the logits'. `again`: not the run that a caller asked for, but a part of an
 * explanation, whose time it is; it reports no progress. */
static agf_status agf_run_layers(agf_session *s, unsigned flags, int again, agf_error *err) {
  int i, k, steps = s->plan->steps;
  s->bad = 0;
  for (i = 0; i < steps; i += k) { /* k steps together */
    const agf_step *st = &s->plan->step[i];
    agf_step_facts *facts = agf_facts(s, st);
    agf_flow f = agf_flow_of(s, st, (flags & AGF_RUN_EXPLAIN) && i < steps - 1);
    double t0 = agf_now();
    for (k = 0; k <= st->chained; k++) {
      facts[k].d_known = 0;
      if (!again) facts[k].forward_seconds = facts[k].explain_seconds = 0;
    }
    (st->chained ? agf_chain_forward : st->rules->forward)(s, st, &f);
    *(again ? &facts->explain_seconds : &facts->forward_seconds) += agf_now() - t0;
    if (s->bad & AGF_BAD_VALUE) {
      st = agf_first_bad(s, st);
      return agf_fail(err, AGF_ERR_NUMERIC, "layer %s (%s): an activation is infinite or NaN", s->model->node[st->last].name,
                      st->rules->name);
    }
    if (!again && agf_progress(s, (i + k + 0.0) / steps)) return agf_fail(err, AGF_ERR_CANCELLED, "cancelled while running");
  }
  return AGF_OK;
}

/* The least and greatest element of the image, as the box rule sees it: what the network makes of the caller's tensor chw. */
static void agf_image_range(agf_session *s, const float *chw, int affine) {
  const agf_tensor *t = &s->plan->tensor[0];
  float *lo = &s->run.lo, *hi = &s->run.hi;
  int c, r, p;
  *lo = *hi = agf_x(s, t)[0];
  if (!affine) s->k.range(chw, (size_t)t->c * (size_t)t->h * (size_t)t->w, lo, hi);
  for (c = 0; affine && c < t->c; c++)
    for (r = 0; r < t->h; r++) {
      const float *x = agf_row_x(s, t, c / AGF_CB, r) + c % AGF_CB;
      for (p = 0; p < t->w; p++) {
        if (x[p * t->xp] < *lo) *lo = x[p * t->xp];
        if (x[p * t->xp] > *hi) *hi = x[p * t->xp];
      }
    }
}

static agf_status agf_run_steps(agf_session *s, const float *chw, unsigned flags, agf_error *err) {
  const agf_model *m = s->model;
  int affine = m->input_scale >= 0;
  const agf_plan *plan = s->plan;
  const agf_tensor *image = &plan->tensor[0], *last = agf_out(s, agf_last_step(s));
  float *z = agf_floats(s, plan->logits), *x;
  int *order = (int *)agf_at(s, plan->order), i;
  agf_status status;
  s->run.ran = 0;
  if (agf_import(s, chw, affine ? &m->weight[m->input_scale] : NULL, affine ? &m->weight[m->input_bias] : NULL, image,
                 agf_x(s, image), (uint16_t *)agf_at(s, image->mask)))
    return agf_fail(err, AGF_ERR_NUMERIC, "the image [%d, %d, %d] holds an infinity or NaN", image->c, image->h, image->w);
  agf_image_range(s, chw, affine);
  for (i = 0; i < plan->tensors; i++) s->run.tensor[i].max_known = 0;
  s->run.flags = flags;
  status = agf_run_layers(s, flags, 0, err);
  if (status != AGF_OK) return status;
  x = agf_x(s, last);
  for (i = 0; i < s->model->classes; i++) z[i] = x[i / AGF_CB * last->xb + i % AGF_CB];
  for (i = 0; i < s->model->classes; i++)
    if (!agf_finite(z[i])) return agf_fail(err, AGF_ERR_NUMERIC, "logit %d is infinite or NaN", i);
  agf_rank(z, s->model->classes, order);
  for (s->run.exp_sum = 0, i = 0; i < s->model->classes; i++) s->run.exp_sum += agf_exp_double((double)z[i] - z[order[0]]);
  s->run.ran = 1;
  return AGF_OK;
}

AGF_API agf_status agf_run(agf_session *session, const float *chw, unsigned flags, agf_error *err) {
  const agf_tensor *image;
  agf_fp_state fp;
  agf_status status;
  agf_clear(err);
  if (!session || !chw || !agf_aligned4(chw) || (flags & ~(unsigned)AGF_RUN_EXPLAIN))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_run: a NULL or misaligned argument or unknown flags 0x%x", flags);
  image = &session->plan->tensor[0];
  if (agf_overlap(chw, (size_t)image->c * (size_t)image->h * (size_t)image->w * sizeof *chw, session, session->bytes))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_run: the image lies in the session's own memory");
  status = agf_begin_call(session, "agf_run", err);
  if (status != AGF_OK) return status;
  fp = agf_fp_enter();
  status = agf_run_steps(session, chw, flags, err);
  agf_fp_leave(fp);
  agf_end_call(session);
  return status;
}

AGF_API const float *agf_logits(const agf_session *session) {
  return session && session->run.ran ? agf_floats(session, session->plan->logits) : NULL;
}

AGF_API int agf_ranked(const agf_session *session, int r) {
  if (!session || !session->run.ran || r < 0 || r >= session->model->classes) return -1;
  return ((const int *)agf_at(session, session->plan->order))[r];
}

AGF_API double agf_probability(const agf_session *session, int k) {
  const float *z = session ? agf_logits(session) : NULL;
  if (!z || k < 0 || k >= session->model->classes || session->model->input.head == AGF_HEAD_NONE) return -1;
  if (session->model->input.head == AGF_HEAD_SIGMOID) return 1 / (1 + agf_exp_double(-(double)z[k]));
  return agf_exp_double((double)z[k] - z[agf_ranked(session, 0)]) / session->run.exp_sum;
}

/* What the last step reads. */
static const agf_tensor *agf_latent_tensor(const agf_session *s) { return agf_in(s, agf_last_step(s), 0); }

AGF_API int agf_latent_size(const agf_session *session) {
  const agf_tensor *t = session ? agf_latent_tensor(session) : NULL;
  return t ? t->c * t->h * t->w : 0;
}

AGF_API agf_status agf_latent(const agf_session *session, float *latent, agf_error *err) {
  const agf_tensor *t;
  const float *x;
  int c, r, p;
  agf_clear(err);
  if (!session || !latent || !agf_aligned4(latent))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_latent: a NULL or misaligned argument");
  if (session->busy) return agf_fail(err, AGF_ERR_STATE, "agf_latent: the session is at work, and so is its latent vector");
  if (!session->run.ran) return agf_fail(err, AGF_ERR_STATE, "agf_latent before agf_run");
  if (agf_overlaps_session(session, latent, (size_t)agf_latent_size(session) * sizeof *latent))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_latent: the vector would lie in the session's or the model's memory");
  t = agf_latent_tensor(session);
  x = agf_x(session, t);
  for (c = 0; c < t->c; c++)
    for (r = 0; r < t->h; r++)
      for (p = 0; p < t->w; p++) *latent++ = x[c / AGF_CB * t->xb + r * t->xr + p * AGF_CB + c % AGF_CB];
  return AGF_OK;
}

/* MARK: neighbours ------------------------------------------------------------------------------------------------------------
 * Which of many latent vectors lie nearest. A product of float32 sorts out what cannot be near; what is left is measured in double. */

enum { AGF_BANK_ROWS = 64 }; /* vectors at a time, which stay in the cache for all queries: 128 KB where they hold 512 values */

/* The product of two vectors: of whole groups of 32 by the linear layers' kernel, of what is left over in double. */
static double agf_dot(const agf_kernels *k, const float *a, const float *b, int size) {
  const float one = 1;
  float whole = 0;
  double sum = 0;
  int i, kernel = size - size % (2 * AGF_CB);
  if (kernel) k->linear_back(&one, 1, 1, a, kernel, kernel, b, NULL, &whole, NULL);
  for (i = kernel; i < size; i++) sum += (double)a[i] * b[i];
  return sum + whole;
}

static double agf_squared_distance(const float *a, const float *b, int size) {
  double sum = 0;
  int i;
  for (i = 0; i < size; i++) {
    double d = (double)a[i] - b[i];
    sum += d * d;
  }
  return sum;
}

/* Put vector `at` at squared distance d among the k nearest so far, in ascending order; of equal ones the first stays ahead. */
static void agf_take_neighbour(int *nearest, double *squared, int k, int at, double d) {
  int i = k - 1;
  for (; i > 0 && d < squared[i - 1]; i--) {
    nearest[i] = nearest[i - 1];
    squared[i] = squared[i - 1];
  }
  nearest[i] = at;
  squared[i] = d;
}

/* Vectors [from, to) of the bank against one query, whose square is `length`. Returns the first one that is not finite, or -1. */
static int agf_search_rows(const agf_kernels *kernels, const float *bank, int from, int to, const double *lengths,
                           const float *query, double length, int size, int k, unsigned flags, int *nearest, double *squared) {
  /* The kernel's chains are size / 32 products long, and 5 sums join them: each rounds by half of 2^-23 at most, relative to a sum of
   * magnitudes that half the sum of both squares bounds. With the squares' own error that is below 4 of these; subnormal products
   * lose no more than the second number. */
  const double error = 4 * (size / 32.0 + 6) * (FLT_EPSILON / 2), least = 1e-36;
  int i;
  for (i = from; i < to; i++) {
    double both = lengths[i - from] + length, d;
    if (both - 2 * agf_dot(kernels, bank + (size_t)i * (size_t)size, query, size) - error * both - least > squared[k - 1]) continue;
    d = agf_squared_distance(bank + (size_t)i * (size_t)size, query, size);
    if (!(d <= DBL_MAX)) return i; /* products that overflowed or are no numbers never pass the test above */
    if (d < squared[k - 1] && !(d == 0 && flags & AGF_NEIGHBOURS_OTHERS)) agf_take_neighbour(nearest, squared, k, i, d);
  }
  return -1;
}

static agf_status agf_search(const agf_kernels *kernels, const float *bank, int count, const float *latents, int queries, int size,
                             int k, unsigned flags, int *nearest, double *distance, agf_error *err) {
  double lengths[AGF_BANK_ROWS];
  size_t i, places = (size_t)queries * (size_t)k;
  int from, q;
  for (q = 0; q < queries; q++)
    if (!kernels->finite(latents + (size_t)q * (size_t)size, (size_t)size))
      return agf_fail(err, AGF_ERR_NUMERIC, "agf_neighbours: latent vector %d, to find neighbours for, is not finite", q);
  for (i = 0; i < places; i++) {
    nearest[i] = -1;
    distance[i] = (double)INFINITY;
  }
  for (from = 0; from < count; from += agf_imin(AGF_BANK_ROWS, count - from)) {
    int to = from + agf_imin(AGF_BANK_ROWS, count - from), row;
    for (row = from; row < to; row++) {
      const float *v = bank + (size_t)row * (size_t)size;
      lengths[row - from] = agf_dot(kernels, v, v, size);
    }
    for (q = 0; q < queries; q++) {
      const float *query = latents + (size_t)q * (size_t)size;
      size_t at = (size_t)q * (size_t)k;
      int bad = agf_search_rows(kernels, bank, from, to, lengths, query, agf_dot(kernels, query, query, size), size, k, flags,
                                nearest + at, distance + at);
      if (bad >= 0) return agf_fail(err, AGF_ERR_NUMERIC, "agf_neighbours: vector %d of the bank is not finite", bad);
    }
  }
  for (i = 0; i < places; i++) distance[i] = sqrt(distance[i]);
  return AGF_OK;
}

AGF_API agf_status agf_neighbours(const float *bank, int count, const float *latents, int queries, int size, int k, unsigned flags,
                                  int *nearest, double *distance, agf_error *err) {
  agf_kernels kernels;
  agf_fp_state fp;
  agf_status status;
  const void *array[4];
  size_t bytes[4];
  int overflow = 0, i, j;
  agf_clear(err);
  if (!bank || !latents || !nearest || !distance || !agf_aligned4(bank) || !agf_aligned4(latents) || !agf_aligned4(nearest) ||
      (uintptr_t)distance % sizeof *distance)
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_neighbours: a NULL or misaligned argument");
  if (count < 1 || queries < 1 || size < 1 || k < 1)
    return agf_fail(err, AGF_ERR_ARGUMENT,
                    "agf_neighbours: a bank of %d vectors, %d to find neighbours for, of %d values, %d neighbours: "
                    "each must be at least 1",
                    count, queries, size, k);
  if (flags & ~(unsigned)AGF_NEIGHBOURS_OTHERS) return agf_fail(err, AGF_ERR_ARGUMENT, "agf_neighbours: unknown flags %#x", flags);
  array[0] = bank;
  array[1] = latents;
  array[2] = nearest;
  array[3] = distance;
  bytes[0] = agf_mul_size(agf_mul_size((size_t)count, (size_t)size, &overflow), sizeof *bank, &overflow);
  bytes[1] = agf_mul_size(agf_mul_size((size_t)queries, (size_t)size, &overflow), sizeof *latents, &overflow);
  bytes[2] = agf_mul_size(agf_mul_size((size_t)queries, (size_t)k, &overflow), sizeof *nearest, &overflow);
  bytes[3] = agf_mul_size(agf_mul_size((size_t)queries, (size_t)k, &overflow), sizeof *distance, &overflow);
  if (overflow) return agf_fail(err, AGF_ERR_LIMIT, "agf_neighbours: the arrays are larger than the address space");
  for (i = 2; i < 4; i++)
    for (j = 0; j < i; j++)
      if (agf_overlap(array[i], bytes[i], array[j], bytes[j]))
        return agf_fail(err, AGF_ERR_ARGUMENT, "agf_neighbours: what it writes overlaps another of its arrays");
  status = agf_choose_isa(&kernels, NULL, err);
  if (status != AGF_OK) return status;
  fp = agf_fp_enter();
  status = agf_search(&kernels, bank, count, latents, queries, size, k, flags, nearest, distance, err);
  agf_fp_leave(fp);
  return status;
}

/* MARK: methods ---------------------------------------------------------------------------------------------------------------
 * A section each: AGF with agf_a and agf_lc, gradients, averages of gradients, Grad-CAM and its like, FullGrad, layer-wise relevance
 * propagation.
 * What travels back, cam or a gradient or a relevance R, lies in the tensors' cam arrays, from the logits to the image. The table at
 * the end has a row for each method. AGF_NO_METHODS leaves out all but AGF, agf_a and agf_lc. */

/* Where every value of the image is the same, the box rule's Z is 0 but for rounding: it has nothing to share out. steps: those whose
 * rules are followed, all but the last where a seed takes its rule's place. */
static agf_status agf_check_image(const agf_session *s, const agf_explanation *e, int steps, agf_error *err) {
  int i;
  for (i = 0; s->run.lo == s->run.hi && i < steps; i++)
    if (s->plan->step[i].box)
      return agf_fail(err, AGF_ERR_NUMERIC, "every value of the image is %g: %s has nothing to share out at layer %s",
                      (double)s->run.lo, e->rules->name, s->model->node[s->plan->step[i].node].name);
  return AGF_OK;
}

/* --- AGF, agf_a, agf_lc --- */

/* heat = sum over the image's channels of cam / M, M = max(cam) where that is above 0, else -min(cam): all of it is evidence
 * against the class, and stays negative. */
static agf_status agf_finish_map(agf_session *s, const agf_explanation *e, float *map, agf_error *err) {
  const agf_tensor *t = &s->plan->tensor[0];
  const float *cam = agf_floats(s, t->cam);
  size_t plane = (size_t)t->h * (size_t)t->w, block = plane * (size_t)t->xp, all = (size_t)t->cb * block, p;
  float max, lanes[AGF_CB] = {0};
  int b, c, n, bad = 0;
  agf_finish_image(s, e);
  max = cam[0];
  for (b = 0; b < t->cb; b++) { /* lane l is channel l of its block, or of a pixel of xp floats l % xp */
    const float *at = cam + (size_t)b * block;
    size_t whole = block / AGF_CB;
    for (c = 0; c < AGF_CB; c++) lanes[c] = at[c % t->xp];
    for (p = 0; p < whole; p += (size_t)n) {
      n = (int)(whole - p < 4096 ? whole - p : 4096);
      s->k.row_max(at + p * AGF_CB, n, lanes);
    }
    for (p = whole * AGF_CB; p < block; p++) lanes[p % AGF_CB] = at[p] > lanes[p % AGF_CB] ? at[p] : lanes[p % AGF_CB];
    for (c = 0; c < AGF_CB; c++)
      if (b * AGF_CB + c % t->xp < t->c && lanes[c] > max) max = lanes[c];
  }
  if (!s->k.finite(cam, all)) return agf_fail(err, AGF_ERR_NUMERIC, "class %d: its map is infinite or NaN", e->target);
  if (!(max > 0))
    for (max = 0, p = 0; p < all; p++) max = -cam[p] > max ? -cam[p] : max;
  if (max == 0) return agf_fail(err, AGF_ERR_NUMERIC, "class %d: its map has no support, nothing reaches the image", e->target);
  for (p = 0; p < plane; p++) {
    float sum = 0.0f;
    for (c = 0; c < t->c; c++) sum += cam[(size_t)(c / AGF_CB) * block + p * (size_t)t->xp + (size_t)(c % AGF_CB)];
    map[p] = sum / max;
    bad |= !agf_finite(map[p]);
  }
  if (bad) return agf_fail(err, AGF_ERR_NUMERIC, "class %d: its map is infinite or NaN", e->target);
  return AGF_OK;
}

static agf_status agf_explain_agf(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  const agf_step *last = agf_last_step(s);
  float *dz = agf_floats(s, s->plan->dz);
  double t0 = agf_now();
  agf_status status = agf_check_image(s, e, s->plan->steps - 1, err);
  if (status != AGF_OK) return status;
  if (e->against >= 0)
    agf_pair_gradient(s->model->classes, e->target, e->against, dz);
  else if (!agf_seed_gradient(s, e->z, s->model->classes, e->target, dz))
    return agf_fail(err, AGF_ERR_UNSUPPORTED, "class %d: %s, so the seed has no gradient", e->target,
                    s->model->classes < 2 ? "the network has one class" : "all logits are equal");
  agf_begin_walk(s, e);
  agf_seed(s, e, dz);
  status = agf_end_step(s, e, last, t0, err);
  if (status == AGF_OK) status = agf_walk_rules(s, e, last->index - 1, err);
  return status == AGF_OK ? agf_finish_map(s, e, map, err) : status;
}

static agf_status agf_explain_local(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  double t0 = agf_now();
  agf_status status = agf_check_image(s, e, s->plan->steps - 1, err);
  if (status != AGF_OK) return status;
  agf_begin_walk(s, e);
  status = agf_seed_local(s, e, err);
  if (status == AGF_OK) status = agf_end_step(s, e, agf_last_step(s), t0, err);
  if (status == AGF_OK) status = agf_walk_rules(s, e, s->plan->head - 1, err);
  return status == AGF_OK ? agf_finish_map(s, e, map, err) : status;
}

/* A place between two of n elements, bilinear: the elements, and the share of the second one. */
typedef struct agf_between {
  int first, second;
  double share;
} agf_between;

/* The place at x, where element i lies at i; beyond the ends it is the last element. */
static agf_between agf_between_at(double x, int n) {
  double at = x < 0 ? 0 : x > n - 1 ? n - 1 : x;
  agf_between b;
  b.first = (int)at;
  b.second = agf_imin(b.first + 1, n - 1);
  b.share = at - b.first;
  return b;
}

/* A row's value at x. */
AGF_INLINE double agf_row_value(const float *row, const agf_between *x) {
  return row[x->first] * (1 - x->share) + row[x->second] * x->share;
}

/* A map's value at (x, y). */
AGF_INLINE double agf_map_at(const float *map, int width, const agf_between *x, const agf_between *y) {
  double top = agf_row_value(map + (size_t)y->first * (size_t)width, x);
  double bottom = agf_row_value(map + (size_t)y->second * (size_t)width, x);
  return top * (1 - y->share) + bottom * y->share;
}

#ifndef AGF_NO_METHODS

typedef void agf_back_step(agf_session *s, agf_explanation *e, const agf_step *st);

/* Begins a walk on which no gradient is wanted beside what lies in cam. */
static void agf_begin_walk_back(agf_session *s, agf_explanation *e) {
  memset(e->arrival, 0, (size_t)s->plan->tensors * sizeof *e->arrival);
}

/* From step `from`, whose output has its delivery, down to the image, or to the tensor that Grad-CAM wants. */
static agf_status agf_walk_steps(agf_session *s, agf_explanation *e, int from, agf_back_step *step, agf_error *err) {
  agf_status status = AGF_OK;
  int i;
  for (i = from; i >= 0 && !e->found && status == AGF_OK; i--) {
    double t0 = agf_now();
    step(s, e, &s->plan->step[i]);
    status = agf_end_step(s, e, &s->plan->step[i], t0, err);
  }
  return status;
}

/* The same from `seed` [classes] at the logits. */
static agf_status agf_walk_back(agf_session *s, agf_explanation *e, const float *seed, agf_back_step *step, agf_error *err) {
  const agf_tensor *logits = agf_out(s, agf_last_step(s));
  float *top = agf_floats(s, logits->cam);
  agf_begin_walk_back(s, e);
  memset(top, 0, (size_t)agf_tensor_elements(logits) * sizeof *top);
  memcpy(top, seed, (size_t)s->model->classes * sizeof *top);
  return agf_walk_steps(s, e, s->plan->steps - 1, step, err);
}

/* --- gradients --- */

typedef struct agf_term_job {
  const agf_tensor *t;
  const float *g, *x; /* x: the image's elements, as g's factors; NULL: bias */
  const float *bias;  /* [c] */
  double *extremes;   /* [cb][2]: smallest and largest |v| of a block */
  float *plane;       /* [h][w] */
  double lowest, range;
} agf_term_job;

typedef struct agf_means_job {
  const agf_tensor *t;
  const float *g; /* [cb][h][w][16] */
  double *mean;   /* [cb][16]: each channel's over the pixels */
} agf_means_job;

static void agf_channel_means_task(agf_session *s, const void *arg, int b, unsigned char *scratch) {
  const agf_means_job *j = (const agf_means_job *)arg;
  double *mean = j->mean + b * AGF_CB;
  size_t pixels = (size_t)j->t->h * (size_t)j->t->w, p;
  int l;
  (void)s;
  (void)scratch;
  for (l = 0; l < AGF_CB; l++) mean[l] = 0;
  for (p = 0; p < pixels; p++)
    for (l = 0; l < AGF_CB; l++) mean[l] += (double)j->g[((size_t)b * pixels + p) * AGF_CB + (size_t)l];
  for (l = 0; l < AGF_CB; l++) mean[l] /= (double)pixels;
}

/* |v| of fullgrad's term at pixel p of row r, channel c: v = x * g at the image, bias * g elsewhere. */
static inline float agf_term_at(const agf_term_job *j, int c, int r, int p) {
  int b = c / AGF_CB, l = c % AGF_CB;
  float g = j->g[(agf_row_at(j->t, b, r) + (size_t)p) * AGF_CB + (size_t)l];
  return fabsf(g * (j->x ? j->x[b * j->t->xb + r * j->t->xr + p * AGF_CB + l] : j->bias[c]));
}

static void agf_term_range_task(agf_session *s, const void *arg, int b, unsigned char *scratch) {
  const agf_term_job *j = (const agf_term_job *)arg;
  float lowest = agf_term_at(j, b * AGF_CB, 0, 0), highest = lowest;
  int r, p, c;
  (void)s;
  (void)scratch;
  for (c = b * AGF_CB; c < agf_imin((b + 1) * AGF_CB, j->t->c); c++)
    for (r = 0; r < j->t->h; r++)
      for (p = 0; p < j->t->w; p++) {
        float v = agf_term_at(j, c, r, p);
        lowest = v < lowest ? v : lowest;
        highest = v > highest ? v : highest;
      }
  j->extremes[2 * b] = lowest;
  j->extremes[2 * b + 1] = highest;
}

static void agf_term_sum_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_term_job *j = (const agf_term_job *)arg;
  int p, c;
  (void)s;
  (void)scratch;
  for (p = 0; p < j->t->w; p++) {
    double sum = 0;
    for (c = 0; c < j->t->c; c++) sum += ((double)agf_term_at(j, c, r, p) - j->lowest) / j->range;
    j->plane[r * j->t->w + p] = (float)sum;
  }
}

typedef struct agf_spread_job {
  const float *plane; /* [h][w] */
  int h, w, height, width;
  double *total; /* [height][width], added to; NULL: map is set */
  float *map;
} agf_spread_job;

/* Row r of the image's grid from a coarser or finer map, bilinear. */
static void agf_spread_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_spread_job *j = (const agf_spread_job *)arg;
  const agf_between y = agf_between_at((r + 0.5) * ((double)j->h / j->height) - 0.5, j->h);
  int p;
  (void)s;
  (void)scratch;
  for (p = 0; p < j->width; p++) {
    agf_between x = agf_between_at((p + 0.5) * ((double)j->w / j->width) - 0.5, j->w);
    double v = agf_map_at(j->plane, j->w, &x, &y);
    size_t at = (size_t)r * (size_t)j->width + (size_t)p;
    if (j->total)
      j->total[at] += v;
    else
      j->map[at] = (float)v;
  }
}

static void agf_spread(agf_session *s, const agf_tensor *t, double *total, float *map) {
  agf_spread_job j;
  j.plane = agf_floats(s, s->plan->plane);
  j.h = t->h;
  j.w = t->w;
  j.height = s->plan->tensor[0].h;
  j.width = s->plan->tensor[0].w;
  j.total = total;
  j.map = map;
  agf_parallel(s, j.height, agf_spread_task, &j);
}

/* fullgrad's term at tensor t: psi(v), a = |v| - min |v|, a / max a, summed over channels (as the resizing is linear, before
 * it). */
static void agf_fullgrad_term(agf_session *s, const agf_explanation *e, const agf_tensor *t, const float *g, const float *bias) {
  agf_term_job j;
  double highest = 0;
  int b;
  memset(&j, 0, sizeof j);
  j.t = t;
  j.g = g;
  j.x = bias ? NULL : agf_x(s, t);
  j.bias = bias;
  j.extremes = (double *)agf_at(s, s->plan->extremes);
  j.plane = agf_floats(s, s->plan->plane);
  agf_parallel(s, t->cb, agf_term_range_task, &j);
  j.lowest = j.extremes[0];
  for (b = 0; b < t->cb; b++) {
    j.lowest = j.extremes[2 * b] < j.lowest ? j.extremes[2 * b] : j.lowest;
    highest = j.extremes[2 * b + 1] > highest ? j.extremes[2 * b + 1] : highest;
  }
  j.range = highest - j.lowest;
  if (!(j.range > 0)) return;
  agf_parallel(s, t->h, agf_term_sum_task, &j);
  agf_spread(s, t, e->terms, NULL);
}

/* The gradient g of the logit at a node's output, -1: at the image. */
static void agf_gradient_seen(agf_session *s, agf_explanation *e, const agf_tensor *t, int node, const float *g) {
  if (s->config.observer) agf_observe(s, e, t, node, NULL, g, AGF_CB);
  if (e->terms) {
    const agf_node *n = node < 0 ? NULL : &s->model->node[node];
    if (!n)
      agf_fullgrad_term(s, e, t, g, NULL);
    else if ((agf_rules_of(n->op)->traits & AGF_HAS_BIAS_TERM) && n->b >= 0)
      agf_fullgrad_term(s, e, t, g, (const float *)(const void *)s->model->weight[n->b].data);
  }
  if (e->edge == node + 1) {
    agf_means_job j;
    j.t = t;
    j.g = g;
    j.mean = (double *)agf_at(s, s->plan->channel);
    agf_parallel(s, t->cb, agf_channel_means_task, &j);
    e->found = g;
  }
}

/* A step's gradient before its activation and BatchNorm; whoever wants to see it between them does. */
static const float *agf_gradient_inside(agf_session *s, agf_explanation *e, const agf_step *st) {
  const agf_tensor *t = agf_out(s, st);
  int behind_act = st->norm >= 0 ? st->norm : st->node, watched = s->config.observer || e->terms || e->edge >= 0;
  agf_act act = st->act;
  const float *g;
  if (watched && behind_act != st->last) {
    agf_slope(s, t, act, NULL, agf_floats(s, t->cam), NULL);
    agf_gradient_seen(s, e, t, behind_act, agf_floats(s, t->cam));
    if (e->found) return e->found; /* as it is: going on would scale it by the BatchNorm where it lies */
    act = AGF_ACT_NONE;
  }
  g = agf_before_tail(s, st, act);
  if (st->norm >= 0) agf_gradient_seen(s, e, t, st->node, g);
  return g;
}

static void agf_gradient_step(agf_session *s, agf_explanation *e, const agf_step *st) {
  const agf_tensor *to = agf_out(s, st);
  const float *g = agf_floats(s, to->cam);
  float *out, *unused;
  int slot;
  agf_gradient_seen(s, e, to, st->last, g);
  if (!e->found) g = agf_gradient_inside(s, e, st);
  for (slot = 0; slot < st->inputs && !e->found; slot++) {
    agf_destination(s, e, st, slot, &out, &unused);
    st->rules->gradient(s, st, slot, g, out);
    agf_gradient_deliver(s, e, st, slot);
  }
}

/* d z_t / d image, or d (z_t - z_u) / d image, in the image's cam array, or as far down as Grad-CAM wants. */
static agf_status agf_gradient(agf_session *s, agf_explanation *e, agf_error *err) {
  float *seed = agf_floats(s, s->plan->dz);
  const agf_tensor *image = &s->plan->tensor[0];
  agf_status status;
  memset(seed, 0, (size_t)s->model->classes * sizeof *seed);
  seed[e->target] = 1.0f;
  if (e->against >= 0) seed[e->against] = -1.0f;
  status = agf_walk_back(s, e, seed, agf_gradient_step, err);
  if (status == AGF_OK && !e->found) agf_gradient_seen(s, e, image, -1, agf_floats(s, image->cam));
  return status;
}

/* What a map sums over the image's channels: v, what arrived at the image; |v|; x * v. */
typedef enum agf_summand { AGF_SUM_PLAIN, AGF_SUM_MAGNITUDES, AGF_SUM_TIMES_X } agf_summand;

static void agf_channel_sum(agf_session *s, agf_summand of, float *map) {
  const agf_tensor *t = &s->plan->tensor[0];
  const float *cam = agf_floats(s, t->cam);
  int r, p, c;
  for (r = 0; r < t->h; r++)
    for (p = 0; p < t->w; p++) {
      double sum = 0;
      for (c = 0; c < t->c; c++) {
        double v = cam[(agf_row_at(t, c / AGF_CB, r) + (size_t)p) * AGF_CB + (size_t)(c % AGF_CB)];
        if (of == AGF_SUM_TIMES_X) v *= (double)agf_row_x(s, t, c / AGF_CB, r)[p * AGF_CB + c % AGF_CB];
        sum += of == AGF_SUM_MAGNITUDES ? fabs(v) : v;
      }
      map[(size_t)r * (size_t)t->w + (size_t)p] = (float)sum;
    }
}

static agf_status agf_explain_gradient(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  agf_status status = agf_gradient(s, e, err);
  if (status == AGF_OK) agf_channel_sum(s, AGF_SUM_MAGNITUDES, map);
  return status;
}

static agf_status agf_explain_gradient_x_input(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  agf_status status = agf_gradient(s, e, err);
  if (status == AGF_OK) agf_channel_sum(s, AGF_SUM_TIMES_X, map);
  return status;
}

/* --- averages of gradients over other images: smoothgrad, integrated gradients --- */

/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), in place. */
static void agf_philox(uint32_t counter[4], uint32_t k0, uint32_t k1) {
  int round;
  for (round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xd2511f53u * counter[0], p1 = (uint64_t)0xcd9e8d57u * counter[2];
    counter[0] = (uint32_t)(p1 >> 32) ^ counter[1] ^ k0;
    counter[2] = (uint32_t)(p0 >> 32) ^ counter[3] ^ k1;
    counter[1] = (uint32_t)p1;
    counter[3] = (uint32_t)p0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
}

/* ln u for normal u > 0: u = m 2^e with m in [sqrt 1/2, sqrt 2), ln m = 2 artanh((m - 1) / (m + 1)), its series up to s^23
 * (s^2 < 0.03, so what is left out is below 2^-60 of it). */
static double agf_log(double u) {
  uint64_t bits;
  double m, q, q2, p = 0;
  int e, k;
  memcpy(&bits, &u, 8);
  e = (int)(bits >> 52 & 0x7ff) - 1023;
  bits = (bits & 0xfffffffffffffu) | (uint64_t)1023 << 52;
  memcpy(&m, &bits, 8);
  if (m > 1.4142135623730951) {
    m /= 2;
    e++;
  }
  q = (m - 1) / (m + 1);
  q2 = q * q;
  for (k = 23; k > 0; k -= 2) p = p * q2 + 1.0 / k;
  return e * 0.6931471805599453 + 2 * q * p;
}

/* cos(2 pi v) for v in [0, 1): exact reductions to an angle of at most pi / 4, then Taylor's series of cosine or sine (what is left
 * out is below 2^-56). */
static double agf_cos_turns(double v) {
  double sign = 1, a, a2, p = 0;
  int k, sine;
  if (v > 0.5) v = 1 - v;
  if (v > 0.25) {
    v = 0.5 - v;
    sign = -1;
  }
  sine = v > 0.125;
  a = (sine ? 0.25 - v : v) * 6.283185307179586;
  a2 = a * a;
  for (k = 16; k > 0; k -= 2) p = (1 + p) * (-a2 / (sine ? k * (k + 1) : k * (k - 1)));
  return sign * (1 + p) * (sine ? a : 1);
}

/* The standard normal deviate of element `index` (CHW order) of noisy image `sample`: Box-Muller's cosine of the first two
 * words. */
static double agf_normal(uint64_t seed, uint32_t sample, uint32_t index) {
  uint32_t r[4] = {0, 0, 0, 0};
  r[0] = sample;
  r[1] = index;
  agf_philox(r, (uint32_t)seed, (uint32_t)(seed >> 32));
  return sqrt(-2 * agf_log(((r[0] >> 8) + 1) / 16777216.0)) * agf_cos_turns((r[1] >> 8) / 16777216.0);
}

typedef struct agf_other_job {
  const float *image; /* [c][h][w], the caller's */
  double factor;      /* x * factor */
  double deviation;   /* + deviation * noise; 0: none */
  uint64_t seed;
  uint32_t sample;
} agf_other_job;

/* Row r of the image tensor becomes another image's. */
static void agf_other_image_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_other_job *j = (const agf_other_job *)arg;
  const agf_tensor *t = &s->plan->tensor[0];
  int b, p, l;
  (void)scratch;
  for (b = 0; b < t->cb; b++) {
    float *x = agf_row_x(s, t, b, r);
    uint16_t *mask = agf_row_mask(s, t, b, r);
    for (p = 0; p < t->w; p++)
      for (l = 0; l < agf_imin(AGF_CB, t->c - b * AGF_CB); l++) {
        size_t at = ((size_t)(b * AGF_CB + l) * (size_t)t->h + (size_t)r) * (size_t)t->w + (size_t)p;
        double v = j->image[at] * j->factor;
        if (j->deviation != 0) v += j->deviation * agf_normal(j->seed, j->sample, (uint32_t)at);
        x[p * AGF_CB + l] = (float)v + 0.0f;
      }
    if (mask) s->k.nonzeros(x, t->w, mask);
  }
}

typedef struct agf_keep_job {
  float *image; /* [c][h][w] */
} agf_keep_job;

/* Row r of the image, kept. */
static void agf_keep_image_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_keep_job *j = (const agf_keep_job *)arg;
  const agf_tensor *t = &s->plan->tensor[0];
  int c, p;
  (void)scratch;
  for (c = 0; c < t->c; c++) {
    const float *x = agf_row_x(s, t, c / AGF_CB, r) + c % AGF_CB;
    for (p = 0; p < t->w; p++) j->image[((size_t)c * (size_t)t->h + (size_t)r) * (size_t)t->w + (size_t)p] = x[p * AGF_CB];
  }
}

typedef struct agf_total_job {
  double *total; /* [c][h][w] */
} agf_total_job;

/* Row r of the image's gradient, added up. */
static void agf_add_gradient_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_total_job *j = (const agf_total_job *)arg;
  const agf_tensor *t = &s->plan->tensor[0];
  int c, p;
  (void)scratch;
  for (c = 0; c < t->c; c++) {
    const float *g = agf_floats(s, t->cam) + agf_row_at(t, c / AGF_CB, r) * AGF_CB + c % AGF_CB;
    double *total = j->total + ((size_t)c * (size_t)t->h + (size_t)r) * (size_t)t->w;
    for (p = 0; p < t->w; p++) total[p] += (double)g[p * AGF_CB];
  }
}

/* The mean of n images' gradients: image k is x * (first + k * step) / of + deviation * noise. The run's own tensors hold those
 * images meanwhile; at the end, after an error too, the network runs on the caller's image again, which the plan's `image`
 * [c][h][w] has kept. The mean comes to lie in the plan's `total` [c][h][w]. */
static agf_status agf_average(agf_session *s, agf_explanation *e, int n, double first, double step, double of, double deviation,
                              agf_error *err) {
  const agf_tensor *t = &s->plan->tensor[0];
  size_t elements = (size_t)t->c * (size_t)t->h * (size_t)t->w, i;
  double base = e->base, share = e->share;
  agf_status status = AGF_OK;
  agf_other_job j;
  agf_keep_job keep;
  agf_total_job sum;
  int k;
  keep.image = agf_floats(s, s->plan->image);
  agf_parallel(s, t->h, agf_keep_image_task, &keep);
  sum.total = (double *)agf_at(s, s->plan->total);
  memset(sum.total, 0, elements * sizeof *sum.total);
  j.image = keep.image;
  j.seed = e->request->seed;
  for (k = 0; k < n && status == AGF_OK; k++) {
    j.factor = (first + k * step) / of;
    j.deviation = deviation;
    j.sample = (uint32_t)k;
    agf_parallel(s, t->h, agf_other_image_task, &j);
    status = agf_run_layers(s, 0, 1, err);
    e->base = base + share * k / n;
    e->share = share / n;
    if (status == AGF_OK) status = agf_gradient(s, e, err);
    if (status == AGF_OK) agf_parallel(s, t->h, agf_add_gradient_task, &sum);
  }
  j.factor = 1;
  j.deviation = 0;
  j.sample = 0;
  agf_parallel(s, t->h, agf_other_image_task, &j);
  agf_run_layers(s, s->run.flags, 1, NULL);
  for (i = 0; i < elements; i++) sum.total[i] /= n;
  return status;
}

/* |mean gradient| of noisy copies of the image. */
static agf_status agf_explain_smoothgrad(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  const agf_tensor *t = &s->plan->tensor[0];
  const double *mean = (const double *)agf_at(s, s->plan->total);
  size_t plane = (size_t)t->h * (size_t)t->w, p;
  double deviation = 0.15 * ((double)s->run.hi - (double)s->run.lo);
  agf_status status = agf_average(s, e, e->request->samples ? e->request->samples : 50, 1, 0, 1, deviation, err);
  int c;
  for (p = 0; p < plane && status == AGF_OK; p++) {
    double sum = 0;
    for (c = 0; c < t->c; c++) sum += fabs(mean[(size_t)c * plane + p]);
    map[p] = (float)sum;
  }
  return status;
}

/* Image * mean gradient of images (k + 1/2) / n on the way from a zero image. */
static agf_status agf_explain_integrated_gradients(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  const agf_tensor *t = &s->plan->tensor[0];
  const double *mean = (const double *)agf_at(s, s->plan->total);
  const float *image = agf_floats(s, s->plan->image);
  size_t plane = (size_t)t->h * (size_t)t->w, p;
  int n = e->request->steps ? e->request->steps : 50, c;
  agf_status status = agf_average(s, e, n, 0.5, 1, n, 0, err);
  for (p = 0; p < plane && status == AGF_OK; p++) {
    double sum = 0;
    for (c = 0; c < t->c; c++) sum += mean[(size_t)c * plane + p] * (double)image[(size_t)c * plane + p];
    map[p] = (float)sum;
  }
  return status;
}

/* --- gradcam, layercam, hirescam --- */

/* The tensor that they look at: the output of layer - 1, or by default, back from the logits along first inputs, the input of
 * the first pooling to a size or global pooling, else the first tensor of more than one pixel. */
static agf_status agf_gradcam_edge(const agf_session *s, const agf_explanation *e, int *edge, agf_error *err) {
  const agf_model *m = s->model;
  const char *name = e->rules->name;
  int layer = e->request->layer;
  *edge = layer;
  if (!layer) {
    int at = m->nodes, sized = -1, wide = -1;
    while (at > 0 && sized < 0) {
      const agf_node *n = &m->node[at - 1];
      const agf_shape *made = &s->plan->shape[at - 1];
      if (wide < 0 && !made->flattened && made->h * made->w > 1) wide = at;
      at = m->edge[n->edge];
      if (agf_rules_of(n->op)->traits & AGF_POOLS_TO_SIZE) sized = at;
    }
    if (sized < 0 && wide < 0 && s->config.height == 1 && s->config.width == 1)
      return agf_fail(err, AGF_ERR_UNSUPPORTED,
                      "%s: the network has no pooling to a size and no tensor of more than one pixel before the logits; the "
                      "request must name a layer",
                      name);
    *edge = sized >= 0 ? sized : wide >= 0 ? wide : 0;
  }
  if (*edge && !s->plan->live[*edge - 1])
    return agf_fail(err, AGF_ERR_UNSUPPORTED, "%s: the logits do not depend on layer %s", name, m->node[*edge - 1].name);
  if (*edge && s->plan->shape[*edge - 1].flattened)
    return agf_fail(err, AGF_ERR_UNSUPPORTED, "%s: the output of layer %s is flattened, it has no height and width", name,
                    m->node[*edge - 1].name);
  return AGF_OK;
}

/* By what an activation is weighed: its channel's mean gradient; its own gradient where that is above 0; its own gradient. */
typedef enum agf_weighing { AGF_BY_MEAN, AGF_BY_POSITIVE, AGF_BY_OWN } agf_weighing;

typedef struct agf_cam_job {
  const agf_tensor *t;
  agf_weighing weighing;
  const double *mean; /* [c] */
  const float *g;     /* [cb][h][w][16] */
  float *plane;
} agf_cam_job;

static void agf_cam_task(agf_session *s, const void *arg, int r, unsigned char *scratch) {
  const agf_cam_job *j = (const agf_cam_job *)arg;
  int p, c;
  (void)scratch;
  for (p = 0; p < j->t->w; p++) {
    double sum = 0;
    for (c = 0; c < j->t->c; c++) {
      size_t at = (agf_row_at(j->t, c / AGF_CB, r) + (size_t)p) * AGF_CB + (size_t)(c % AGF_CB);
      double w = j->weighing == AGF_BY_MEAN ? j->mean[c] : (double)j->g[at];
      if (j->weighing == AGF_BY_POSITIVE && w <= 0) w = 0;
      sum += (double)agf_row_x(s, j->t, c / AGF_CB, r)[p * AGF_CB + c % AGF_CB] * w;
    }
    j->plane[r * j->t->w + p] = (float)(sum <= 0 ? 0 : sum);
  }
}

/* The step inside which an edge lies, whose activation is not kept; NULL: it has a tensor. */
static const agf_step *agf_step_around(const agf_session *s, int edge) {
  int i;
  for (i = 0; i < s->plan->steps && s->plan->tensor_of[edge] < 0; i++)
    if (s->plan->step[i].node == edge - 1 || s->plan->step[i].norm == edge - 1) return &s->plan->step[i];
  return NULL;
}

static agf_status agf_explain_weighed(agf_session *s, agf_explanation *e, agf_weighing weighing, float *map, agf_error *err) {
  const agf_step *inside = NULL;
  agf_status status = agf_gradcam_edge(s, e, &e->edge, err);
  agf_cam_job j;
  agf_flow f;
  float max = 0.0f;
  int i, d_known = 0;
  if (status == AGF_OK) status = agf_gradient(s, e, err);
  if (status != AGF_OK) return status;
  inside = agf_step_around(s, e->edge);
  j.t = &s->plan->tensor[inside ? inside->out : s->plan->tensor_of[e->edge]];
  j.weighing = weighing;
  j.mean = (const double *)agf_at(s, s->plan->channel);
  j.g = e->found; /* a cam array: activations never share memory with one, so that making a step anew leaves it as it is */
  j.plane = agf_floats(s, s->plan->plane);
  if (inside) { /* an activation that is not kept: made anew in the place of the step's output, which is made again after */
    f = agf_flow_of(s, inside, 0);
    f.act = AGF_ACT_NONE;
    f.y_mask = NULL;
    if (inside->norm >= 0 && e->edge == inside->node + 1) { /* before its BatchNorm */
      const agf_node *n = &s->model->node[inside->node];
      agf_clear_buffer(s, s->plan->own_bias);
      if (n->b >= 0) agf_load_vector(&s->model->weight[n->b], agf_floats(s, s->plan->own_bias));
      f.scale = NULL;
      f.bias = agf_floats(s, s->plan->own_bias);
    }
    d_known = agf_facts(s, inside)->d_known;
    inside->rules->forward(s, inside, &f);
  }
  agf_parallel(s, j.t->h, agf_cam_task, &j);
  if (inside) {
    f = agf_flow_of(s, inside, 0);
    inside->rules->forward(s, inside, &f);
    agf_facts(s, inside)->d_known = d_known;
  }
  for (i = 0; i < j.t->h * j.t->w; i++) max = j.plane[i] > max ? j.plane[i] : max;
  for (i = 0; max > 0 && i < j.t->h * j.t->w; i++) j.plane[i] /= max;
  agf_spread(s, j.t, NULL, map);
  return AGF_OK;
}

static agf_status agf_explain_gradcam(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  return agf_explain_weighed(s, e, AGF_BY_MEAN, map, err);
}

static agf_status agf_explain_layercam(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  return agf_explain_weighed(s, e, AGF_BY_POSITIVE, map, err);
}

static agf_status agf_explain_hirescam(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  return agf_explain_weighed(s, e, AGF_BY_OWN, map, err);
}

/* --- FullGrad --- */

static agf_status agf_explain_fullgrad(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  size_t pixels = (size_t)s->plan->tensor[0].h * (size_t)s->plan->tensor[0].w, i;
  agf_status status;
  e->terms = (double *)agf_at(s, s->plan->total);
  memset(e->terms, 0, pixels * sizeof *e->terms);
  status = agf_gradient(s, e, err);
  for (i = 0; i < pixels; i++) map[i] = (float)e->terms[i];
  return status;
}

/* --- layer-wise relevance propagation --- */

static void agf_lrp_step(agf_session *s, agf_explanation *e, const agf_step *st) {
  const agf_tensor *to = agf_out(s, st);
  float *R = agf_floats(s, to->cam), *out, *unused;
  int slot;
  agf_finish_output(s, e, st);
  if (s->config.observer) { /* R passes activations and BatchNorms as it is */
    if (st->norm >= 0 && st->norm != st->last) agf_observe(s, e, to, st->norm, R, NULL, AGF_CB);
    if (st->node != st->last) agf_observe(s, e, to, st->node, R, NULL, AGF_CB);
  }
  for (slot = 0; slot < st->inputs; slot++) {
    agf_destination(s, e, st, slot, &out, &unused);
    st->rules->lrp(s, st, slot, e->alpha, R, out);
    agf_deliver(s, e, st, slot);
  }
}

/* The finished map of relevance `seed` at the logits. */
static agf_status agf_relevance(agf_session *s, agf_explanation *e, const float *seed, float *map, agf_error *err) {
  agf_status status = agf_check_image(s, e, s->plan->steps, err);
  if (status == AGF_OK) status = agf_walk_back(s, e, seed, agf_lrp_step, err);
  if (status != AGF_OK) return status;
  agf_finish_image(s, e);
  agf_channel_sum(s, AGF_SUM_PLAIN, map);
  return AGF_OK;
}

static agf_status agf_explain_lrp(agf_session *s, agf_explanation *e, int alpha, float *map, agf_error *err) {
  float *seed = agf_floats(s, s->plan->dz);
  e->alpha = alpha;
  memset(seed, 0, (size_t)s->model->classes * sizeof *seed);
  seed[e->target] = agf_floats(s, s->plan->logits)[e->target];
  return agf_relevance(s, e, seed, map, err);
}

static agf_status agf_explain_lrp_a1b0(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  return agf_explain_lrp(s, e, 1, map, err);
}

static agf_status agf_explain_lrp_a2b1(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  return agf_explain_lrp(s, e, 2, map, err);
}

/* From agf_lc's seed. */
static agf_status agf_explain_lrp_lc(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  double t0 = agf_now();
  agf_status status = agf_check_image(s, e, s->plan->steps - 1, err);
  if (status != AGF_OK) return status;
  e->alpha = 1;
  agf_begin_walk_back(s, e);
  status = agf_seed_local(s, e, err);
  if (status == AGF_OK) status = agf_end_step(s, e, agf_last_step(s), t0, err);
  if (status == AGF_OK) status = agf_walk_steps(s, e, s->plan->head - 1, agf_lrp_step, err);
  if (status != AGF_OK) return status;
  agf_finish_image(s, e);
  agf_channel_sum(s, AGF_SUM_PLAIN, map);
  return AGF_OK;
}

/* The relevance of the class, seeded with `own`, less that of the others, `others` [classes], which is scaled to the same total. */
static agf_status agf_contrast(agf_session *s, agf_explanation *e, float own, const double *others, float *map, agf_error *err) {
  float *seed = agf_floats(s, s->plan->dz), *less = agf_floats(s, s->plan->plane);
  double a = 0, b = 0;
  size_t pixels = (size_t)s->plan->tensor[0].h * (size_t)s->plan->tensor[0].w, i;
  int k;
  agf_status status;
  e->alpha = 1;
  e->share /= 2;
  memset(seed, 0, (size_t)s->model->classes * sizeof *seed);
  seed[e->target] = own;
  status = agf_relevance(s, e, seed, map, err);
  if (status != AGF_OK) return status;
  for (k = 0; k < s->model->classes; k++) seed[k] = k == e->target ? 0.0f : (float)others[k];
  e->base += e->share;
  status = agf_relevance(s, e, seed, less, err);
  if (status != AGF_OK) return status;
  for (i = 0; i < pixels; i++) {
    a += (double)map[i];
    b += (double)less[i];
  }
  for (i = 0; b != 0 && i < pixels; i++) map[i] = (float)((double)map[i] - (double)less[i] * (a / b));
  return AGF_OK;
}

static agf_status agf_check_others(const agf_session *s, const agf_explanation *e, agf_error *err) {
  return s->model->classes < 2 ? agf_fail(err, AGF_ERR_UNSUPPORTED, "%s: the network has one class", e->rules->name) : AGF_OK;
}

/* Against all others alike. */
static agf_status agf_explain_clrp(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  double *others = (double *)agf_at(s, s->plan->softmax), z = fabs((double)agf_floats(s, s->plan->logits)[e->target]);
  agf_status status = agf_check_others(s, e, err);
  int k;
  for (k = 0; k < s->model->classes; k++) others[k] = z / (s->model->classes - 1);
  return status == AGF_OK ? agf_contrast(s, e, (float)z, others, map, err) : status;
}

/* Against the others by their probability. */
static agf_status agf_explain_sglrp(agf_session *s, agf_explanation *e, float *map, agf_error *err) {
  const float *z = agf_floats(s, s->plan->logits);
  double *p = (double *)agf_at(s, s->plan->softmax), max = z[0], sum = 0, own;
  agf_status status = agf_check_others(s, e, err);
  int classes = s->model->classes, k;
  for (k = 1; k < classes; k++) max = z[k] > max ? z[k] : max;
  for (k = 0; k < classes; k++) sum += p[k] = agf_exp_double(z[k] - max);
  for (k = 0; k < classes; k++) p[k] /= sum;
  own = p[e->target];
  for (k = 0; k < classes; k++) p[k] = own * p[k];
  return status == AGF_OK ? agf_contrast(s, e, (float)(own * (1 - own) + 1e-8), p, map, err) : status;
}

#endif /* AGF_NO_METHODS */

/* --- the table --- */

#ifdef AGF_NO_METHODS
#define AGF_BUILT(function) NULL
#else
#define AGF_BUILT(function) function
#endif

/* clang-format off */
static const agf_method_rules agf_method_table[] = {
    {AGF_METHOD_AGF, "agf", AGF_METHOD_TAKES_OPTIONS | AGF_METHOD_TAKES_DIFFERENCE | AGF_METHOD_TAKES_AGAINST | AGF_METHOD_NORMALISED,
     0, 0, agf_explain_agf},
    {AGF_METHOD_AGF_A, "agf_a", AGF_METHOD_TAKES_OPTIONS | AGF_METHOD_TAKES_DIFFERENCE | AGF_METHOD_TAKES_AGAINST | AGF_METHOD_NORMALISED,
     0, AGF_OPT_NO_M | AGF_OPT_NO_FX | AGF_OPT_NO_FDX, agf_explain_agf},
    {AGF_METHOD_AGF_LC, "agf_lc", AGF_METHOD_TAKES_OPTIONS | AGF_METHOD_TAKES_AGAINST | AGF_METHOD_NORMALISED,
     AGF_NEEDS_LOCAL, AGF_OPT_NO_M | AGF_OPT_NO_FX | AGF_OPT_NO_FDX, agf_explain_local},
    {AGF_METHOD_GRADIENT, "gradient", AGF_METHOD_TAKES_AGAINST | AGF_METHOD_NOT_NEGATIVE | AGF_METHOD_PLANNED,
     AGF_NEEDS_GRADIENT, 0, AGF_BUILT(agf_explain_gradient)},
    {AGF_METHOD_GRADIENT_X_INPUT, "gradient_x_input", AGF_METHOD_TAKES_AGAINST | AGF_METHOD_PLANNED,
     AGF_NEEDS_GRADIENT, 0, AGF_BUILT(agf_explain_gradient_x_input)},
    {AGF_METHOD_SMOOTHGRAD, "smoothgrad",
     AGF_METHOD_TAKES_SAMPLES | AGF_METHOD_TAKES_AGAINST | AGF_METHOD_NOT_NEGATIVE | AGF_METHOD_PLANNED,
     AGF_NEEDS_GRADIENT | AGF_NEEDS_IMAGE, 0, AGF_BUILT(agf_explain_smoothgrad)},
    {AGF_METHOD_INTEGRATED_GRADIENTS, "integrated_gradients", AGF_METHOD_TAKES_STEPS | AGF_METHOD_TAKES_AGAINST | AGF_METHOD_PLANNED,
     AGF_NEEDS_GRADIENT | AGF_NEEDS_IMAGE, 0, AGF_BUILT(agf_explain_integrated_gradients)},
    {AGF_METHOD_GRADCAM, "gradcam", AGF_METHOD_TAKES_LAYER | AGF_METHOD_TAKES_AGAINST | AGF_METHOD_NOT_NEGATIVE | AGF_METHOD_PLANNED,
     AGF_NEEDS_GRADIENT | AGF_NEEDS_OWN_BIAS, 0, AGF_BUILT(agf_explain_gradcam)},
    {AGF_METHOD_FULLGRAD, "fullgrad", AGF_METHOD_TAKES_AGAINST | AGF_METHOD_NOT_NEGATIVE | AGF_METHOD_PLANNED,
     AGF_NEEDS_GRADIENT | AGF_NEEDS_TOTAL, 0, AGF_BUILT(agf_explain_fullgrad)},
    {AGF_METHOD_LRP_A1B0, "lrp_a1b0", AGF_METHOD_PLANNED,
     AGF_NEEDS_LRP, 0, AGF_BUILT(agf_explain_lrp_a1b0)},
    {AGF_METHOD_LRP_A2B1, "lrp_a2b1", AGF_METHOD_PLANNED,
     AGF_NEEDS_LRP | AGF_NEEDS_LRP_TWICE, 0, AGF_BUILT(agf_explain_lrp_a2b1)},
    {AGF_METHOD_CLRP, "clrp", AGF_METHOD_PLANNED,
     AGF_NEEDS_LRP, 0, AGF_BUILT(agf_explain_clrp)},
    {AGF_METHOD_SGLRP, "sglrp", AGF_METHOD_PLANNED,
     AGF_NEEDS_LRP, 0, AGF_BUILT(agf_explain_sglrp)},
    {AGF_METHOD_LAYERCAM, "layercam", AGF_METHOD_TAKES_LAYER | AGF_METHOD_TAKES_AGAINST | AGF_METHOD_NOT_NEGATIVE | AGF_METHOD_PLANNED,
     AGF_NEEDS_GRADIENT | AGF_NEEDS_OWN_BIAS, 0, AGF_BUILT(agf_explain_layercam)},
    {AGF_METHOD_HIRESCAM, "hirescam", AGF_METHOD_TAKES_LAYER | AGF_METHOD_TAKES_AGAINST | AGF_METHOD_NOT_NEGATIVE | AGF_METHOD_PLANNED,
     AGF_NEEDS_GRADIENT | AGF_NEEDS_OWN_BIAS, 0, AGF_BUILT(agf_explain_hirescam)},
    {AGF_METHOD_LRP_LC, "lrp_lc", AGF_METHOD_TAKES_AGAINST | AGF_METHOD_PLANNED,
     AGF_NEEDS_LRP | AGF_NEEDS_LOCAL, 0, AGF_BUILT(agf_explain_lrp_lc)}};
/* clang-format on */

/* The row of a method; NULL: there is no such method. */
static const agf_method_rules *agf_rules_of_method(agf_method method) {
  unsigned row = (unsigned)method;
  return row < sizeof agf_method_table / sizeof *agf_method_table ? &agf_method_table[row] : NULL;
}

AGF_API const char *agf_method_name(agf_method method) {
  const agf_method_rules *rules = agf_rules_of_method(method);
  return rules ? rules->name : "?";
}

AGF_API unsigned agf_method_traits(agf_method method) {
  const agf_method_rules *rules = agf_rules_of_method(method);
  return rules && rules->explain ? rules->traits | AGF_METHOD_BUILT : 0;
}

AGF_API int agf_method_find(const char *name) {
  int i;
  for (i = 0; name && i < AGF_METHODS; i++) {
    const agf_method_rules *rules = agf_rules_of_method((agf_method)i);
    if (rules->explain && !strcmp(name, rules->name)) return i;
  }
  return -1;
}

/* MARK: explaining ------------------------------------------------------------------------------------------------------------
 * The API's second verb: it checks a request, then makes its maps one by one. Some methods run steps on other values for a while
 * (agf_average, agf_explain_weighed, agf_local_head, agf_take_difference); each then makes the run's own values anew, so that every map
 * sees what agf_run left. */

/* The label-free procedure's latent vector into `difference` and its logits into `logits_difference`; *at: the vector's element (0, 0,
 * 0). The last step works on it in its own tensors, and then on the run's latent again: other methods read those. */
static agf_status agf_take_difference(agf_session *s, const float *chw, const float **at, agf_error *err) {
  const agf_step *last = agf_last_step(s);
  const agf_tensor *latent = agf_latent_tensor(s), *to = &s->plan->tensor[last->out];
  float *d = agf_floats(s, s->plan->difference) + latent->bh * latent->xr + (ptrdiff_t)latent->bw * AGF_CB, *y = agf_x(s, to);
  float *z = agf_floats(s, s->plan->logits_difference);
  uint16_t *mask = (uint16_t *)agf_at(s, s->plan->difference_mask);
  agf_flow f;
  int i, bad = -1;
  if (agf_import(s, chw, NULL, NULL, latent, d, mask))
    return agf_fail(err, AGF_ERR_NUMERIC, "the difference holds an infinity or NaN");
  f = agf_flow_of(s, last, 0);
  f.x = d;
  f.x_mask = mask;
  last->rules->forward(s, last, &f);
  for (i = 0; i < s->model->classes; i++) {
    z[i] = y[i / AGF_CB * to->xb + i % AGF_CB];
    if (!agf_finite(z[i])) bad = i;
  }
  f = agf_flow_of(s, last, 0);
  last->rules->forward(s, last, &f);
  if (bad >= 0) return agf_fail(err, AGF_ERR_NUMERIC, "logit %d of the difference is infinite or NaN", bad);
  *at = d;
  return AGF_OK;
}

static agf_status agf_check_map_finite(const agf_session *s, const agf_explanation *e, const float *map, agf_error *err) {
  size_t pixels = (size_t)s->plan->tensor[0].h * (size_t)s->plan->tensor[0].w, i;
  for (i = 0; i < pixels; i++)
    if (!agf_finite(map[i]))
      return agf_fail(err, AGF_ERR_NUMERIC, "class %d: its map by %s is infinite or NaN", e->target, e->rules->name);
  return AGF_OK;
}

static agf_status agf_explain_all(agf_session *s, const agf_request *q, float *maps, agf_error *err) {
  const agf_plan *plan = s->plan;
  size_t pixels = (size_t)plan->tensor[0].h * (size_t)plan->tensor[0].w;
  int *order = (int *)agf_at(s, q->difference ? plan->order_difference : plan->order);
  int i, classes = s->model->classes;
  agf_explanation all;
  agf_status status = AGF_OK;
  memset(&all, 0, sizeof all);
  all.request = q;
  all.rules = agf_rules_of_method(q->method);
  all.options = q->options | all.rules->options;
  all.z = agf_floats(s, plan->logits);
  all.latent = agf_x(s, agf_latent_tensor(s));
  all.arrival = s->arrival;
  all.edge = -1;
  if (q->difference) {
    status = agf_take_difference(s, q->difference, &all.latent, err);
    if (status != AGF_OK) return status;
    all.z = agf_floats(s, plan->logits_difference);
    agf_rank(all.z, classes, order);
  }
  all.against = q->against - 1;
  for (i = 0; i < q->count; i++)
    if ((q->classes ? q->classes[i] : order[i]) == all.against)
      return agf_fail(err, AGF_ERR_ARGUMENT, "%s: class %d against itself: a map asks why a class rather than another",
                      all.rules->name, all.against);
  for (i = 0; i < q->count && status == AGF_OK; i++) {
    agf_explanation e = all;
    float *map = maps + (size_t)i * pixels;
    e.target = q->classes ? q->classes[i] : order[i];
    e.base = (double)i / q->count;
    e.share = 1.0 / q->count;
    if (q->explained) q->explained[i] = e.target;
    status = e.rules->explain(s, &e, map, err);
    if (status == AGF_OK) status = agf_check_map_finite(s, &e, map, err);
  }
  return status;
}

enum { AGF_ALL_OPTIONS = AGF_OPT_NO_FX | AGF_OPT_NO_FDX | AGF_OPT_NO_M | AGF_OPT_NO_A | AGF_OPT_NO_REG | AGF_OPT_FX_GRADCAM };

/* What a request asks of its method. */
static agf_status agf_check_method(const agf_session *s, const agf_request *q, agf_error *err) {
  const agf_method_rules *rules = agf_rules_of_method(q->method);
  if (!rules) return agf_fail(err, AGF_ERR_ARGUMENT, "unknown method %d", (int)q->method);
  if (!rules->explain)
    return agf_fail(err, AGF_ERR_UNSUPPORTED, "this engine was built without the method %s (AGF_NO_METHODS)", rules->name);
  if ((rules->traits & AGF_METHOD_PLANNED) && !(s->config.methods & AGF_METHOD_BIT(q->method)))
    return agf_fail(err, AGF_ERR_ARGUMENT, "the session has no memory for %s: its config must name it in methods", rules->name);
  if (q->options & ~(unsigned)AGF_ALL_OPTIONS) return agf_fail(err, AGF_ERR_ARGUMENT, "unknown options 0x%x", q->options);
  if (q->options && !(rules->traits & AGF_METHOD_TAKES_OPTIONS))
    return agf_fail(err, AGF_ERR_ARGUMENT, "options 0x%x: they are AGF's, %s has none", q->options, rules->name);
  if (q->difference && !(rules->traits & AGF_METHOD_TAKES_DIFFERENCE))
    return agf_fail(err, AGF_ERR_ARGUMENT, "the label-free procedure is for agf and agf_a, not %s", rules->name);
  if (q->against && !(rules->traits & AGF_METHOD_TAKES_AGAINST))
    return agf_fail(err, AGF_ERR_ARGUMENT, "%s cannot explain one class against another", rules->name);
  if (q->against < 0 || q->against > s->model->classes)
    return agf_fail(err, AGF_ERR_ARGUMENT, "%s with against = %d: the network has classes 0 to %d, which are 1 to %d here",
                    rules->name, q->against, s->model->classes - 1, s->model->classes);
  if ((rules->traits & AGF_METHOD_TAKES_STEPS) && q->steps < 0)
    return agf_fail(err, AGF_ERR_ARGUMENT, "%s in %d steps", rules->name, q->steps);
  if ((rules->traits & AGF_METHOD_TAKES_SAMPLES) && q->samples < 0)
    return agf_fail(err, AGF_ERR_ARGUMENT, "%s of %d samples", rules->name, q->samples);
  if ((rules->traits & AGF_METHOD_TAKES_LAYER) && (q->layer < 0 || q->layer > s->model->nodes))
    return agf_fail(err, AGF_ERR_ARGUMENT, "%s with layer = %d: the network has layers 0 to %d, which are 1 to %d here",
                    rules->name, q->layer, s->model->nodes - 1, s->model->nodes);
  return AGF_OK;
}

/* The arrays of a request against each other. A difference is taken over before any map is written, so that maps may lie over it;
 * classes and what was explained may be one array, as each is read before it is written. */
static agf_status agf_check_arrays(const agf_session *s, const agf_request *q, const float *maps, agf_error *err) {
  int overflow = 0;
  size_t plane = (size_t)s->plan->tensor[0].h * (size_t)s->plan->tensor[0].w * sizeof *maps;
  size_t bytes = agf_mul_size(plane, (size_t)q->count, &overflow), list = agf_mul_size((size_t)q->count, sizeof(int), &overflow);
  if (overflow || bytes > UINTPTR_MAX - (uintptr_t)maps)
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_explain: %d maps of %llu bytes do not fit this machine's memory", q->count,
                    (unsigned long long)plane);
  if (agf_overlaps_session(s, maps, bytes) || (q->explained && agf_overlaps_session(s, q->explained, list)))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_explain: maps or explained would lie in the session's or the model's memory");
  if (agf_overlap(maps, bytes, q, sizeof *q) || (q->classes && agf_overlap(maps, bytes, q->classes, list)) ||
      (q->explained && agf_overlap(maps, bytes, q->explained, list)))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_explain: %d maps would overlap the request, its classes or explained", q->count);
  if (q->explained && (agf_overlap(q->explained, list, q, sizeof *q) ||
                       (q->classes && q->classes != q->explained && agf_overlap(q->explained, list, q->classes, list))))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_explain: explained would overlap the request or its classes");
  return AGF_OK;
}

AGF_API agf_status agf_explain(agf_session *session, const agf_request *request, float *maps, agf_error *err) {
  agf_fp_state fp;
  agf_status status;
  int i;
  agf_clear(err);
  if (!session || !request || !maps) return agf_fail(err, AGF_ERR_ARGUMENT, "agf_explain: a NULL argument");
  if (!agf_aligned4(maps) || !agf_aligned4(request->classes) || !agf_aligned4(request->difference) ||
      !agf_aligned4(request->explained))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_explain: maps or an array of the request is misaligned");
  if (!session->run.ran) return agf_fail(err, AGF_ERR_STATE, "agf_explain before a successful agf_run");
  status = agf_check_method(session, request, err);
  if (status != AGF_OK) return status;
  if (request->count < 1 || (!request->classes && request->count > session->model->classes))
    return agf_fail(err, AGF_ERR_ARGUMENT, "%d maps asked for, of %d classes", request->count, session->model->classes);
  for (i = 0; request->classes && i < request->count; i++)
    if (request->classes[i] < 0 || request->classes[i] >= session->model->classes)
      return agf_fail(err, AGF_ERR_ARGUMENT, "class %d does not exist: the network has classes 0 to %d", request->classes[i],
                      session->model->classes - 1);
  status = agf_check_arrays(session, request, maps, err);
  if (status == AGF_OK) status = agf_begin_call(session, "agf_explain", err);
  if (status != AGF_OK) return status;
  fp = agf_fp_enter();
  status = agf_explain_all(session, request, maps, err);
  agf_fp_leave(fp);
  agf_end_call(session);
  return status;
}

AGF_API agf_status agf_layer_times(const agf_session *session, int i, agf_times *times) {
  int k;
  if (!session || !times || i < 0 || i >= session->model->nodes) return AGF_ERR_ARGUMENT;
  times->forward = times->explain = 0;
  for (k = 0; k < session->plan->steps; k++)
    if (session->plan->step[k].node == i) {
      times->forward = session->run.step[k].forward_seconds;
      times->explain = session->run.step[k].explain_seconds;
    }
  return AGF_OK;
}

AGF_FAST_BEGIN
/* MARK: pictures --------------------------------------------------------------------------------------------------------------
 * Pixels to network input, maps to pixels. Integers and doubles in a fixed order: the same bytes everywhere. */

/* Antialiased bilinear resizing of one axis, as Pillow does it for 8-bit pictures: a triangle as wide as two output pixels (two
 * input pixels when enlarging), weights normalised and rounded to 22 bits. Output pixel i of [first, first + count) reads
 * `length[i]` input pixels from start[i] on with weight[i * taps ...]. */
typedef struct agf_resample {
  int count, taps;
  int *start, *length;
  int32_t *weight;
} agf_resample;

static int agf_resample_taps(int in, int out) {
  double scale = (double)in / out;
  return (int)ceil(scale < 1 ? 1 : scale) * 2 + 1;
}

static void agf_resample_fill(agf_resample *r, int in, int out, int first) {
  double scale = (double)in / out, width = scale < 1 ? 1 : scale;
  int i, k;
  for (i = 0; i < r->count; i++) {
    double center = (first + i + 0.5) * scale, sum = 0;
    int from = agf_imax((int)(center - width + 0.5), 0), to = agf_imin((int)(center + width + 0.5), in);
    r->start[i] = from;
    r->length[i] = to - from;
    for (k = from; k < to; k++) {
      double d = fabs((k - center + 0.5) * (1 / width));
      sum += d < 1 ? 1 - d : 0;
    }
    for (k = from; k < to; k++) {
      double d = fabs((k - center + 0.5) * (1 / width)), w = (d < 1 ? 1 - d : 0) / sum;
      r->weight[i * r->taps + (k - from)] = (int32_t)(0.5 + w * (1 << 22));
    }
  }
}

/* Of weights that make 1 << 22, or by their rounding 1 << 16 more, so that 32 bits hold it. */
static inline uint8_t agf_resample_byte(int32_t sum) {
  int32_t v = (sum + (1 << 21)) >> 22;
  return (uint8_t)(v > 255 ? 255 : v);
}

/* A row across, of `channels` bytes a pixel; a gray network sees ITU-R 601 luma, rounded as Pillow does. */
static void agf_resample_across(const agf_resample *h, const uint8_t *rgb, int channels, uint8_t *out) {
  int x, k;
  for (x = 0; x < h->count; x++, out += channels) {
    const uint8_t *q = rgb + (size_t)h->start[x] * 3;
    const int32_t *w = h->weight + x * h->taps;
    int32_t r = 0, g = 0, b = 0;
    for (k = 0; k < h->length[x]; k++, q += 3) {
      if (channels == 1) {
        r += w[k] * ((q[0] * 19595 + q[1] * 38470 + q[2] * 7471 + 0x8000) >> 16);
      } else {
        r += w[k] * q[0];
        g += w[k] * q[1];
        b += w[k] * q[2];
      }
    }
    out[0] = agf_resample_byte(r);
    if (channels == 1) continue;
    out[1] = agf_resample_byte(g);
    out[2] = agf_resample_byte(b);
  }
}

/* Row y down, of rows of `row` bytes; so many at a time that compilers make vectors of them, beyond the last one too. */
enum { AGF_RESAMPLED = 16 };
static void agf_resample_down(const agf_resample *v, int y, const uint8_t *wide, size_t row, uint8_t *out) {
  size_t at;
  int k, i;
  for (at = 0; at < row; at += AGF_RESAMPLED) {
    const uint8_t *from = wide + (size_t)v->start[y] * row + at;
    int32_t sum[AGF_RESAMPLED] = {0};
    for (k = 0; k < v->length[y]; k++, from += row)
      for (i = 0; i < AGF_RESAMPLED; i++) sum[i] += v->weight[y * v->taps + k] * from[i];
    for (i = 0; i < AGF_RESAMPLED; i++) out[at + (size_t)i] = agf_resample_byte(sum[i]);
  }
}

/* A side in whole pixels, truncated; sides beyond the integers are that large for every purpose. */
enum { AGF_HUGE_SIDE = 1 << 30 };
static inline int agf_side(double pixels) { return pixels < (double)AGF_HUGE_SIDE ? (int)pixels : AGF_HUGE_SIDE; }

/* Size to resize a picture to and the corner of the part that the network sees. torchvision's rule at the nominal size: the
 * picture's shorter side becomes resize_to, the longer one follows, truncated; the crop's corner is rounded half to even. Other
 * input sizes scale resize_to in proportion. Where the crop would reach beyond the picture, the picture is enlarged to cover it. */
static void agf_resize_rule(const agf_input *in, int height, int width, int ph, int pw, int *rh, int *rw, int *top, int *left) {
  double tall = (double)height / in->height, wide = (double)width / in->width;
  int to = agf_side(in->resize_to * (tall > wide ? tall : wide) + 0.5);
  *rh = height;
  *rw = width;
  *top = *left = 0;
  if (in->resize == AGF_RESIZE_STRETCH) return;
  *rh = pw <= ph ? agf_side((double)to * ph / pw) : to;
  *rw = pw <= ph ? to : agf_side((double)to * pw / ph);
  if (*rh < height || *rw < width) {
    int by_width = (int64_t)pw * height <= (int64_t)ph * width; /* the picture's width is the tighter side */
    *rh = by_width ? agf_imax(agf_side((double)width * ph / pw), height) : height;
    *rw = by_width ? width : agf_imax(agf_side((double)height * pw / ph), width);
  }
  *top = (*rh - height) / 2 + ((*rh - height) % 2 && (*rh - height) / 2 % 2);
  *left = (*rw - width) / 2 + ((*rw - width) % 2 && (*rw - width) / 2 % 2);
}

/* Bytes from a picture's first pixel to its last, and of float planes. */
static size_t agf_pixel_bytes(int width, int height, int channels, size_t stride, int *overflow) {
  size_t row = (size_t)width * (size_t)channels, rows = agf_mul_size(stride, (size_t)height - 1, overflow);
  if (rows > SIZE_MAX / 2 || row > SIZE_MAX / 2 - rows) *overflow = 1; /* a negative stride, as a size, of two rows */
  return rows + row;
}

static size_t agf_plane_bytes(int height, int width, int planes, int *overflow) {
  return agf_mul_size(agf_mul_size((size_t)height * sizeof(float), (size_t)width, overflow), (size_t)planes, overflow);
}

static agf_status agf_prepare_picture(const agf_model *model, int height, int width, const uint8_t *rgb, int picture_width,
                                      int picture_height, size_t stride, float *chw, agf_rect *seen, agf_error *err) {
  const agf_input *in;
  agf_resample h, v;
  size_t bytes, row;
  uint64_t need;
  unsigned char *memory;
  void *taken;
  uint8_t *line, *wide;
  float *plane[3], value[3][256];
  agf_status status;
  int rh, rw, top, left, y, x, c, k, y0, y1, channels, overflow = 0;
  if (!model || !rgb || !chw || !agf_aligned4(chw) || picture_width < 1 || picture_height < 1 ||
      stride / 3 < (size_t)picture_width || height < 0 || width < 0)
    return agf_fail(err, AGF_ERR_ARGUMENT,
                    "agf_picture_to_input: a NULL or misaligned argument, or a picture of %d x %d pixels with rows of %llu bytes",
                    picture_width, picture_height, (unsigned long long)stride);
  in = &model->input;
  if (!in->is_picture)
    return agf_fail(
        err, AGF_ERR_UNSUPPORTED,
        "the model file does not say how pictures are prepared for it: convert it with --mean and --std, or give tensors");
  height = height ? height : in->height;
  width = width ? width : in->width;
  if (height > AGF_MAX_SIDE || width > AGF_MAX_SIDE || picture_width > AGF_MAX_SIDE || picture_height > AGF_MAX_SIDE)
    return agf_fail(err, AGF_ERR_LIMIT, "a picture of %d x %d pixels for an input of %d x %d: sides are capped at %d",
                    picture_width, picture_height, width, height, AGF_MAX_SIDE);
  agf_resize_rule(in, height, width, picture_height, picture_width, &rh, &rw, &top, &left);
  if (rh == AGF_HUGE_SIDE || rw == AGF_HUGE_SIDE)
    return agf_fail(err, AGF_ERR_LIMIT, "a picture of %d x %d pixels for an input of %d x %d would be resized beyond all bounds",
                    picture_width, picture_height, width, height);
  channels = in->channels == 1 ? 1 : 3;
  bytes = agf_plane_bytes(height, width, channels, &overflow);
  if (agf_overlap(chw, bytes, rgb, agf_pixel_bytes(picture_width, picture_height, 3, stride, &overflow)) || overflow ||
      agf_overlap(chw, bytes, model->data, model->bytes))
    return agf_fail(
        err, AGF_ERR_ARGUMENT,
        "agf_picture_to_input: the input would overlap the picture or the model, or is larger than this machine's memory");

  h.count = width;
  v.count = height;
  h.taps = agf_resample_taps(picture_width, rw);
  v.taps = agf_resample_taps(picture_height, rh);
  row = (size_t)width * (size_t)channels;
  need = ((uint64_t)width * ((uint64_t)h.taps + 2) + (uint64_t)height * ((uint64_t)v.taps + 2)) * sizeof(int32_t) +
         (uint64_t)row * ((uint64_t)picture_height + 1) + 2 * AGF_RESAMPLED; /* sides below 2^17: far from 2^64 */
  bytes = (size_t)need;
  if (need > SIZE_MAX / 2)
    return agf_fail(err, AGF_ERR_MEMORY, "no memory to resize a picture of %d x %d pixels: %llu bytes", picture_width,
                    picture_height, (unsigned long long)need);
  status = agf_take(&model->allocator, bytes, "the resizing of a picture", &taken, err);
  if (status != AGF_OK) return status;
  memory = (unsigned char *)taken;
  h.start = (int *)(void *)memory;
  h.length = h.start + width;
  h.weight = (int32_t *)(h.length + width);
  v.start = (int *)(void *)(h.weight + (size_t)width * (size_t)h.taps);
  v.length = v.start + height;
  v.weight = (int32_t *)(v.length + height);
  line = (uint8_t *)(v.weight + (size_t)height * (size_t)v.taps);
  wide = line + row + AGF_RESAMPLED;
  agf_resample_fill(&h, picture_width, rw, left);
  agf_resample_fill(&v, picture_height, rh, top);

  y0 = v.start[0]; /* the rows that the second pass reads */
  y1 = v.start[height - 1] + v.length[height - 1];
  for (y = y0; y < y1; y++) agf_resample_across(&h, rgb + (size_t)y * stride, channels, wide + (size_t)y * row);
  memset(wide + (size_t)y1 * row, 0, AGF_RESAMPLED); /* what is read beyond the last row */
  /* down, then into the network's channels and values */
  for (c = 0; c < channels; c++) {
    int to = in->channel_order == AGF_CHANNELS_BGR ? channels - 1 - c : c;
    plane[c] = chw + (size_t)to * (size_t)height * (size_t)width;
    for (k = 0; k < 256; k++) value[c][k] = ((float)((double)k * in->range / 255) - in->mean[to]) / in->std[to];
  }
  for (y = 0; y < height; y++) {
    agf_resample_down(&v, y, wide, row, line);
    for (c = 0; c < channels; c++) {
      float *out = plane[c] + (size_t)y * (size_t)width;
      for (x = 0; x < width; x++) out[x] = value[c][line[(size_t)x * (size_t)channels + (size_t)c]];
    }
  }
  model->allocator.free(model->allocator.ctx, memory, bytes);
  if (seen) {
    seen->left = (double)left * picture_width / rw;
    seen->top = (double)top * picture_height / rh;
    seen->width = (double)width * picture_width / rw;
    seen->height = (double)height * picture_height / rh;
  }
  return AGF_OK;
}

AGF_API agf_status agf_picture_to_input(const agf_model *model, int height, int width, const uint8_t *rgb, int picture_width,
                                        int picture_height, size_t stride, float *chw, agf_rect *seen, agf_error *err) {
  agf_fp_state fp = agf_fp_begin(err);
  return agf_fp_end(fp, agf_prepare_picture(model, height, width, rgb, picture_width, picture_height, stride, chw, seen, err));
}

static const char *const agf_pixel_formats[AGF_PIXEL_FORMATS] = {"rgb24", "bgr24", "gray", "yuv420", "nv12"};

/* Frames are converted once, with a few operations a pixel. */
AGF_FAST_END

AGF_API const char *agf_pixel_format_name(agf_pixel_format format) {
  return (unsigned)format < AGF_PIXEL_FORMATS ? agf_pixel_formats[format] : "?";
}

AGF_API int agf_pixel_format_find(const char *name) {
  int i;
  for (i = 0; name && i < AGF_PIXEL_FORMATS; i++)
    if (!strcmp(name, agf_pixel_formats[i])) return i;
  return -1;
}

/* Plane p of a picture: bytes of a row, and rows; 0 rows: the format has no such plane. */
static void agf_plane_size(agf_pixel_format format, int width, int height, int p, size_t *row, int *rows) {
  const size_t half = ((size_t)width + 1) / 2;
  *row = (size_t)width;
  *rows = p ? 0 : height;
  switch (format) {
    case AGF_PIXELS_RGB24:
    case AGF_PIXELS_BGR24: *row *= 3; break;
    case AGF_PIXELS_YUV420:
      if (p) *row = half, *rows = (height - 1) / 2 + 1;
      break;
    case AGF_PIXELS_NV12:
      if (p == 1) *row = 2 * half, *rows = (height - 1) / 2 + 1;
      break;
    case AGF_PIXELS_GRAY:
    case AGF_PIXEL_FORMATS: break;
  }
}

AGF_API size_t agf_picture_bytes(agf_pixel_format format, int width, int height) {
  size_t bytes = 0, row;
  int p, rows, overflow = 0;
  if ((unsigned)format >= AGF_PIXEL_FORMATS || width < 1 || height < 1) return 0;
  if ((size_t)width > SIZE_MAX / 6) return 0;
  for (p = 0; p < 3; p++) {
    size_t plane;
    agf_plane_size(format, width, height, p, &row, &rows);
    plane = agf_mul_size(row, (size_t)rows, &overflow);
    if (overflow || plane > SIZE_MAX - bytes) return 0;
    bytes += plane;
  }
  return bytes;
}

static inline uint8_t agf_nearest_byte(double v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v + 0.5); }

/* BT.601: luma counts 219 steps, chroma 224 around 128. */
static void agf_yuv_pixel(int luma, int blue, int red, uint8_t *rgb) {
  const double y = 255.0 / 219 * (luma - 16), cb = 255.0 / 224 * (blue - 128), cr = 255.0 / 224 * (red - 128);
  rgb[0] = agf_nearest_byte(y + 1.402 * cr);
  rgb[1] = agf_nearest_byte(y - 0.344136 * cb - 0.714136 * cr);
  rgb[2] = agf_nearest_byte(y + 1.772 * cb);
}

static agf_status agf_convert_picture(const agf_picture *picture, uint8_t *rgb, size_t stride, agf_error *err) {
  const uint8_t *planes[3] = {NULL, NULL, NULL};
  size_t strides[3] = {0, 0, 0}, out;
  agf_pixel_format format;
  int p, x, y, in_place, width, height, overflow = 0;
  if (!picture || !picture->planes[0] || !rgb || (unsigned)picture->format >= AGF_PIXEL_FORMATS || picture->width < 1 ||
      picture->height < 1 || picture->width > AGF_MAX_SIDE || picture->height > AGF_MAX_SIDE)
    return agf_fail(err, AGF_ERR_ARGUMENT,
                    "agf_picture_to_rgb: a NULL argument, an unknown format (%d), or a picture of %d x %d pixels (sides: 1 to %d)",
                    picture ? (int)picture->format : 0, picture ? picture->width : 0, picture ? picture->height : 0, AGF_MAX_SIDE);
  format = picture->format;
  width = picture->width;
  height = picture->height;
  if (stride / 3 < (size_t)width)
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_picture_to_rgb: rows of %llu bytes, and %d pixels need %d",
                    (unsigned long long)stride, width, 3 * width);
  out = agf_pixel_bytes(width, height, 3, stride, &overflow);
  for (p = 0; p < 3; p++) {
    size_t row, bytes;
    int rows;
    agf_plane_size(format, width, height, p, &row, &rows);
    if (!rows) break;
    strides[p] = picture->strides[p] ? picture->strides[p] : row;
    if (strides[p] < row)
      return agf_fail(err, AGF_ERR_ARGUMENT, "agf_picture_to_rgb: plane %d has rows of %llu bytes, and %d pixels of %s need %llu",
                      p, (unsigned long long)strides[p], width, agf_pixel_formats[format], (unsigned long long)row);
    bytes = agf_mul_size(strides[p], (size_t)rows, &overflow); /* of whole rows: another plane may begin behind them */
    if (bytes > SIZE_MAX / 2) overflow = 1;                    /* a negative step, as a size */
    bytes -= strides[p] - row;
    if (p) { /* behind the plane before, whose last row is as long as the others */
      int above;
      size_t unused;
      agf_plane_size(format, width, height, p - 1, &unused, &above);
      planes[p] = picture->planes[p] ? picture->planes[p] : planes[p - 1] + strides[p - 1] * (size_t)above;
    } else {
      planes[0] = picture->planes[0];
    }
    in_place = planes[p] == rgb && strides[p] == stride && (format == AGF_PIXELS_RGB24 || format == AGF_PIXELS_BGR24);
    if (overflow || (!in_place && agf_overlap(rgb, out, planes[p], bytes)))
      return agf_fail(err, AGF_ERR_ARGUMENT,
                      "agf_picture_to_rgb: the result overlaps plane %d, or is larger than this machine's memory", p);
  }
  for (y = 0; y < height; y++) {
    const uint8_t *from = planes[0] + (size_t)y * strides[0];
    uint8_t *to = rgb + (size_t)y * stride;
    const uint8_t *blue = NULL, *red = NULL;
    int step = format == AGF_PIXELS_NV12 ? 2 : 1;
    if (planes[1]) blue = planes[1] + (size_t)(y / 2) * strides[1];
    if (planes[1]) red = planes[2] ? planes[2] + (size_t)(y / 2) * strides[2] : blue + 1;
    switch (format) {
      case AGF_PIXELS_RGB24: memmove(to, from, 3 * (size_t)width); break;
      case AGF_PIXELS_BGR24:
        for (x = 0; x < width; x++, from += 3, to += 3) {
          uint8_t first = from[0];
          to[0] = from[2];
          to[1] = from[1];
          to[2] = first;
        }
        break;
      case AGF_PIXELS_GRAY:
        for (x = 0; x < width; x++, to += 3) memset(to, from[x], 3);
        break;
      case AGF_PIXELS_YUV420:
      case AGF_PIXELS_NV12:
        for (x = 0; x < width; x++, to += 3) agf_yuv_pixel(from[x], blue[x / 2 * step], red[x / 2 * step], to);
        break;
      case AGF_PIXEL_FORMATS: break;
    }
  }
  return AGF_OK;
}

AGF_API agf_status agf_picture_to_rgb(const agf_picture *picture, uint8_t *rgb, size_t stride, agf_error *err) {
  agf_fp_state fp = agf_fp_begin(err);
  return agf_fp_end(fp, agf_convert_picture(picture, rgb, stride, err));
}

enum { AGF_COLORS = 33 }; /* of a colormap, at most */

/* A colormap: straight lines between `last` + 1 evenly spaced colours 0xRRGGBB (viridis and turbo within 2/255 of their definitions,
 * RdBu ColorBrewer's of nine classes with a white middle). A diverging one is laid over -vmax .. vmax; the others over 0 .. vmax. */
typedef struct agf_colors {
  const char *name;
  int diverging, last;
  double pure[2]; /* diverging: where its pure colours of evidence against and for stand, in 0 .. 1 */
  uint32_t color[AGF_COLORS];
} agf_colors;

static const agf_colors agf_colormaps[AGF_COLORMAPS] = {
    {"seismic", 1, 4, {0.25, 0.75}, {0x00004d, 0x0000ff, 0xffffff, 0xff0000, 0x800000}},
    {"jet", 0, 8, {0, 0}, {0x000080, 0x0000ff, 0x0080ff, 0x00ffff, 0x80ff80, 0xffff00, 0xff8000, 0xff0000, 0x800000}},
    {"viridis", 0, 32, {0, 0}, {0x440154, 0x470d60, 0x48186a, 0x482374, 0x472d7b, 0x453681, 0x424086, 0x3f4989, 0x3b528b,
                                0x375a8d, 0x33638d, 0x2f6a8e, 0x2c728e, 0x297a8e, 0x26818e, 0x23898e, 0x21908c, 0x1f988b,
                                0x1f9f88, 0x21a685, 0x28ae80, 0x31b57b, 0x3ebc74, 0x4cc26c, 0x5dc963, 0x6ece58, 0x82d34c,
                                0x96d83f, 0xabdc32, 0xc0df24, 0xd5e21a, 0xeae51a, 0xfde725}},
    {"turbo", 0, 32, {0, 0}, {0x30123b, 0x392a73, 0x4040a1, 0x4456c7, 0x466be3, 0x467ff6, 0x4293ff, 0x37a7fa, 0x29bbec,
                              0x1dcdd8, 0x18dcc3, 0x1ee8b0, 0x31f299, 0x4cf97e, 0x6bfd64, 0x8aff4d, 0xa3fd3c, 0xb8f735,
                              0xcced34, 0xdee037, 0xedd03a, 0xf8c03a, 0xfdae35, 0xfe982c, 0xfb8022, 0xf56817, 0xec520f,
                              0xe04009, 0xd23105, 0xc02302, 0xac1701, 0x950d01, 0x7a0403}},
    {"gray", 0, 1, {0, 0}, {0x000000, 0xffffff}},
    {"rdbu", 1, 8, {0, 1}, {0x2166ac, 0x4393c3, 0x92c5de, 0xd1e5f0, 0xffffff, 0xfddbc7, 0xf4a582, 0xd6604d, 0xb2182b}},
};

AGF_API const char *agf_colormap_name(agf_colormap cmap) { return (unsigned)cmap < AGF_COLORMAPS ? agf_colormaps[cmap].name : "?"; }

AGF_API int agf_colormap_find(const char *name) {
  int i;
  for (i = 0; name && i < AGF_COLORMAPS; i++)
    if (!strcmp(agf_colormaps[i].name, name)) return i;
  return -1;
}

AGF_API int agf_colormap_is_diverging(agf_colormap cmap) { return (unsigned)cmap < AGF_COLORMAPS && agf_colormaps[cmap].diverging; }

AGF_FAST_BEGIN

/* A colormap as straight pieces: piece i begins with `from` and changes by `by`. */
typedef struct agf_ramp {
  int last;
  struct {
    double from[3], by[3];
  } piece[AGF_COLORS - 1];
} agf_ramp;

static void agf_ramp_of(const agf_colors *colors, agf_ramp *ramp) {
  int i, c;
  ramp->last = colors->last;
  for (i = 0; i < colors->last; i++)
    for (c = 0; c < 3; c++) {
      int a = (int)(colors->color[i] >> (16 - 8 * c) & 255), b = (int)(colors->color[i + 1] >> (16 - 8 * c) & 255);
      ramp->piece[i].from[c] = a;
      ramp->piece[i].by[c] = b - a;
    }
}

/* Colour at t in [0, 1]. */
AGF_INLINE void agf_color(const agf_ramp *ramp, double t, uint8_t *rgb) {
  double at;
  int i, c;
  t = t > 0 ? t < 1 ? t : 1 : 0;
  at = t * ramp->last;
  i = agf_imin((int)at, ramp->last - 1);
  at -= i;
  for (c = 0; c < 3; c++) rgb[c] = (uint8_t)(ramp->piece[i].from[c] + ramp->piece[i].by[c] * at + 0.5);
}

/* Magnitudes of floats order as the integers that their bits make without the sign. */
static uint32_t agf_magnitude_bits(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits & 0x7fffffff;
}

/* The magnitude that `above` of the n values exceed or equal: found digit by digit, so that nothing is allocated. */
static float agf_magnitude_at(const float *map, size_t n, size_t above) {
  uint32_t found = 0;
  int shift;
  float value;
  for (shift = 24; shift >= 0; shift -= 8) {
    size_t counts[256] = {0}, i;
    uint32_t mask = shift == 24 ? 0 : ~(uint32_t)0 << (shift + 8);
    int digit = 255;
    for (i = 0; i < n; i++) {
      uint32_t bits = agf_magnitude_bits(map[i]);
      if ((bits & mask) == found) counts[bits >> shift & 255]++;
    }
    for (; digit > 0 && above >= counts[digit]; digit--) above -= counts[digit];
    found |= (uint32_t)digit << shift;
  }
  memcpy(&value, &found, sizeof value);
  return value;
}

static float agf_scale_for(const float *map, int height, int width) {
  size_t n = (size_t)height * (size_t)width, i;
  float scale;
  for (i = 0; i < n; i++)
    if (!agf_finite(map[i])) return 0;
  scale = agf_magnitude_at(map, n, n / 200);
  if (!(scale > 0)) scale = agf_magnitude_at(map, n, 0);
  return scale > 0 ? scale : 1;
}

AGF_API float agf_map_scale(const float *map, int height, int width) {
  agf_fp_state fp = agf_fp_enter();
  float scale = map && agf_aligned4(map) && height > 0 && width > 0 ? agf_scale_for(map, height, width) : 0;
  agf_fp_leave(fp);
  return scale;
}

static agf_status agf_find_box(const float *map, int height, int width, double share, agf_box *box, agf_error *err) {
  double total = 0, rest, sum, x_sum = 0, y_sum = 0;
  int x, y, edge[4]; /* left, right, top, bottom */
  if (!map || !agf_aligned4(map) || !box || height < 1 || width < 1 || !(share > 0 && share <= 1))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_map_box: a NULL or misaligned argument, a map of %d x %d, or a share of %g", width,
                    height, share);
  for (y = 0; y < height; y++)
    for (x = 0; x < width; x++) {
      float v = map[(size_t)y * (size_t)width + (size_t)x];
      if (!agf_finite(v)) return agf_fail(err, AGF_ERR_NUMERIC, "agf_map_box: the map holds an infinity or NaN");
      if (!(v > 0)) continue;
      total += v;
      x_sum += v * (x + 0.5);
      y_sum += v * (y + 0.5);
    }
  if (!(total > 0)) return agf_fail(err, AGF_ERR_NUMERIC, "agf_map_box: the map holds no positive evidence");
  rest = total * (1 - share) / 2;
  for (y = 0; y < 4; y++) { /* from each side inwards, as long as what is left outside is no more than its part */
    int columns = y < 2, from_end = y % 2, lines = columns ? width : height, across = columns ? height : width, i, k;
    sum = 0;
    for (i = 0; i < lines - 1; i++) {
      int line = from_end ? lines - 1 - i : i;
      double in_line = 0;
      for (k = 0; k < across; k++) {
        float v = columns ? map[(size_t)k * (size_t)width + (size_t)line] : map[(size_t)line * (size_t)width + (size_t)k];
        in_line += v > 0 ? v : 0;
      }
      if (!(sum + in_line <= rest)) break;
      sum += in_line;
    }
    edge[y] = from_end ? lines - i : i;
  }
  box->left = edge[0];
  box->top = edge[2];
  box->width = agf_imax(edge[1] - edge[0], 1);
  box->height = agf_imax(edge[3] - edge[2], 1);
  box->x = x_sum / total;
  box->y = y_sum / total;
  return AGF_OK;
}

AGF_API agf_status agf_map_box(const float *map, int height, int width, double share, agf_box *box, agf_error *err) {
  agf_fp_state fp = agf_fp_begin(err);
  return agf_fp_end(fp, agf_find_box(map, height, width, share, box, err));
}

/* The largest deviation of agf_map_smooth, in pixels, and how many of its Gaussian's weights that takes: floor(4 sigma + 1/2) and the
 * middle one. */
enum { AGF_SMOOTH_MOST = 256, AGF_SMOOTH_WEIGHTS = 4 * AGF_SMOOTH_MOST + 1 };

/* out = the convolution of each line of n floats, `step` apart, by the weights; of `lines` lines, which begin `next` apart. Beyond its ends
 * a line goes on mirrored, d c b a | a b c d | d c b a, again and again: places count modulo 2n. Several lines at a time share the walk. */
static void agf_blur(const float *from, float *out, int lines, size_t next, int n, size_t step, const double *weight, int r) {
  enum { TOGETHER = 8 };
  const unsigned length = (unsigned)n, period = 2 * length;
  int line, k;
  for (line = 0; line < lines; line += TOGETHER) {
    const float *v = from + (size_t)line * next;
    float *y = out + (size_t)line * next;
    size_t l, count = lines - line < TOGETHER ? (size_t)(lines - line) : (size_t)TOGETHER;
    unsigned i;
    for (i = 0; i < length; i++) {
      double sum[TOGETHER];
      unsigned left = i, right = i;
      for (l = 0; l < count; l++) sum[l] = weight[0] * (double)v[l * next + i * step];
      for (k = 1; k <= r; k++) {
        const float *before, *behind;
        left = left > 0 ? left - 1 : period - 1;
        right = right + 1 < period ? right + 1 : 0;
        before = v + (left < length ? left : period - 1 - left) * step;
        behind = v + (right < length ? right : period - 1 - right) * step;
        for (l = 0; l < count; l++) sum[l] += weight[k] * ((double)before[l * next] + (double)behind[l * next]);
      }
      for (l = 0; l < count; l++) y[l * next + i * step] = (float)sum[l];
    }
  }
}

static agf_status agf_smooth(float *map, int height, int width, double sigma, float *scratch, agf_error *err) {
  double weight[AGF_SMOOTH_WEIGHTS], sum = 1;
  int overflow = 0, r, k;
  size_t pixels, bytes, i;
  if (!map || !scratch || height < 1 || width < 1 || !agf_aligned4(map) || !agf_aligned4(scratch))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_map_smooth: a map of %d x %d pixels, a NULL or misaligned argument", width, height);
  if (!(sigma >= 0 && sigma <= (double)AGF_SMOOTH_MOST))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_map_smooth: a deviation of %g pixels; 0 to %d can be had", sigma, AGF_SMOOTH_MOST);
  pixels = agf_mul_size((size_t)height, (size_t)width, &overflow);
  bytes = agf_mul_size(pixels, sizeof *map, &overflow);
  if (overflow || agf_overlap(map, bytes, scratch, bytes))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_map_smooth: the map and scratch overlap, or do not fit this machine's memory");
  for (i = 0; i < pixels; i++)
    if (!agf_finite(map[i])) return agf_fail(err, AGF_ERR_NUMERIC, "agf_map_smooth: the map holds an infinity or NaN");
  r = (int)(4 * sigma + 0.5);
  if (r == 0) return AGF_OK;
  weight[0] = 1;
  for (k = 1; k <= r; k++) sum += 2 * (weight[k] = agf_exp_double(-((double)k * k) / (2 * sigma * sigma)));
  for (k = 0; k <= r; k++) weight[k] /= sum;
  agf_blur(map, scratch, height, (size_t)width, width, 1, weight, r);
  agf_blur(scratch, map, width, 1, height, (size_t)width, weight, r);
  return AGF_OK;
}

AGF_API agf_status agf_map_smooth(float *map, int height, int width, double sigma, float *scratch, agf_error *err) {
  agf_fp_state fp = agf_fp_begin(err);
  return agf_fp_end(fp, agf_smooth(map, height, width, sigma, scratch, err));
}

/* vmax, or the map's own scale where it is 0; never 0. Negative: a value is not finite. */
static double agf_scale_of(const float *map, int mh, int mw, float vmax) {
  size_t i, n = (size_t)mh * (size_t)mw;
  if (!(vmax > 0)) {
    vmax = agf_scale_for(map, mh, mw);
    return vmax > 0 ? vmax : -1;
  }
  for (i = 0; i < n; i++)
    if (!agf_finite(map[i])) return -1;
  return vmax;
}

static agf_status agf_check_map(const char *who, const float *map, int mh, int mw, agf_colormap cmap, float vmax,
                                const uint8_t *out, int w, int h, size_t stride, int channels, agf_error *err) {
  int overflow = 0;
  if (!map || !agf_aligned4(map) || !out || mh < 1 || mw < 1 || w < 1 || h < 1 || (channels != 3 && channels != 4) ||
      stride / (size_t)channels < (size_t)w || (unsigned)cmap >= AGF_COLORMAPS)
    return agf_fail(err, AGF_ERR_ARGUMENT,
                    "%s: a NULL or misaligned argument, an unknown colormap, or a map of %d x %d on a picture of %d x %d pixels "
                    "with %d channels and rows of %llu bytes",
                    who, mw, mh, w, h, channels, (unsigned long long)stride);
  if (!(vmax >= 0) || !agf_finite(vmax))
    return agf_fail(err, AGF_ERR_ARGUMENT, "%s: vmax is %g, it must be 0 or more", who, (double)vmax);
  if (agf_overlap(out, agf_pixel_bytes(w, h, channels, stride, &overflow), map, agf_plane_bytes(mh, mw, 1, &overflow)) || overflow)
    return agf_fail(err, AGF_ERR_ARGUMENT, "%s: the picture overlaps the map, or is larger than this machine's memory", who);
  return AGF_OK;
}

enum { AGF_COLUMNS = 64 }; /* of a picture that are drawn together: what they have in common from row to row is formed once */

/* Columns of a picture's rows over a map: where they lie in the map's rows, and what the two rows of the map hold there that the last row
 * of the picture lay between (agf_map_at, for each map's row once). */
typedef struct agf_strip {
  agf_between across[AGF_COLUMNS];
  double row[2][AGF_COLUMNS];
  int held[2]; /* which rows of the map; -1: none yet */
} agf_strip;

/* Row `r` of the map in the strip's columns; it takes the place of another than `other`. */
static const double *agf_strip_row(agf_strip *s, const float *map, int width, int r, int other) {
  int i = s->held[0] == r || (s->held[1] != r && s->held[0] != other) ? 0 : 1, x;
  if (s->held[i] != r)
    for (x = 0; x < AGF_COLUMNS; x++) s->row[i][x] = agf_row_value(map + (size_t)r * (size_t)width, &s->across[x]);
  s->held[i] = r;
  return s->row[i];
}

static agf_status agf_render_map(const float *map, int map_height, int map_width, agf_colormap cmap, float vmax, uint8_t *out,
                                 int out_width, int out_height, size_t stride, int channels, agf_error *err) {
  const agf_colors *colors;
  agf_strip strip;
  agf_ramp ramp;
  double scale;
  int x, y, left;
  if (agf_check_map("agf_render", map, map_height, map_width, cmap, vmax, out, out_width, out_height, stride, channels, err) !=
      AGF_OK)
    return AGF_ERR_ARGUMENT;
  scale = agf_scale_of(map, map_height, map_width, vmax);
  if (scale < 0) return agf_fail(err, AGF_ERR_NUMERIC, "agf_render: the map holds an infinity or NaN");
  colors = &agf_colormaps[cmap];
  agf_ramp_of(colors, &ramp);
  for (left = 0; left < out_width; left += AGF_COLUMNS) {
    strip.held[0] = strip.held[1] = -1;
    for (x = 0; x < AGF_COLUMNS; x++) /* beyond the last one too: a number that compilers know */
      strip.across[x] = agf_between_at((left + x + 0.5) * map_width / out_width - 0.5, map_width);
    for (y = 0; y < out_height; y++) {
      const agf_between down = agf_between_at((y + 0.5) * map_height / out_height - 0.5, map_height);
      const double *top = agf_strip_row(&strip, map, map_width, down.first, down.second);
      const double *bottom = agf_strip_row(&strip, map, map_width, down.second, down.first);
      uint8_t *p = out + (size_t)y * stride + (size_t)left * (size_t)channels;
      double v[AGF_COLUMNS];
      for (x = 0; x < AGF_COLUMNS; x++) v[x] = (top[x] * (1 - down.share) + bottom[x] * down.share) / scale;
      for (x = 0; x < AGF_COLUMNS && left + x < out_width; x++, p += channels) {
        agf_color(&ramp, colors->diverging ? (v[x] + 1) / 2 : v[x], p);
        if (channels == 4) p[3] = (uint8_t)(fmin(fabs(v[x]), 1) * 255 + 0.5);
      }
    }
  }
  return AGF_OK;
}

AGF_API agf_status agf_render(const float *map, int map_height, int map_width, agf_colormap cmap, float vmax, uint8_t *out,
                              int out_width, int out_height, size_t stride, int channels, agf_error *err) {
  agf_fp_state fp = agf_fp_begin(err);
  return agf_fp_end(fp, agf_render_map(map, map_height, map_width, cmap, vmax, out, out_width, out_height, stride, channels, err));
}

static agf_status agf_overlay_map(const float *map, int map_height, int map_width, agf_colormap cmap, float vmax, float alpha,
                                  const agf_rect *seen, uint8_t *rgb, int width, int height, size_t stride, agf_error *err) {
  agf_between across[AGF_COLUMNS];
  const agf_colors *colors;
  agf_ramp ramp;
  agf_rect all;
  double scale;
  uint8_t pure[2][3];
  int x, y, c, left, columns, inside[AGF_COLUMNS];
  if (agf_check_map("agf_overlay", map, map_height, map_width, cmap, vmax, rgb, width, height, stride, 3, err) != AGF_OK)
    return AGF_ERR_ARGUMENT;
  all.left = all.top = 0;
  all.width = width;
  all.height = height;
  if (!seen) seen = &all;
  if (!(alpha >= 0 && alpha <= 1) || !(seen->width > 0) || !(seen->height > 0))
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_overlay: alpha %g must lie in 0 to 1, and the rectangle must not be empty", alpha);
  scale = agf_scale_of(map, map_height, map_width, vmax);
  if (scale < 0) return agf_fail(err, AGF_ERR_NUMERIC, "agf_overlay: the map holds an infinity or NaN");
  colors = &agf_colormaps[cmap];
  agf_ramp_of(colors, &ramp);
  /* opacity carries the magnitude, so a diverging map gives only the sign: its pure red or blue */
  for (c = 0; c < 2; c++) agf_color(&ramp, colors->pure[c], pure[c]);
  for (left = 0; left < width; left += AGF_COLUMNS) {
    columns = agf_imin(AGF_COLUMNS, width - left);
    for (x = 0; x < columns; x++) {
      double u = (left + x + 0.5 - seen->left) / seen->width;
      inside[x] = u >= 0 && u < 1; /* not: outside, or a rectangle that is not finite */
      if (inside[x]) across[x] = agf_between_at(u * map_width - 0.5, map_width);
    }
    for (y = 0; y < height; y++) {
      double w = (y + 0.5 - seen->top) / seen->height;
      uint8_t *p = rgb + (size_t)y * stride + (size_t)left * 3, color[3];
      agf_between down;
      if (!(w >= 0 && w < 1)) continue;
      down = agf_between_at(w * map_height - 0.5, map_height);
      for (x = 0; x < columns; x++, p += 3) {
        double v, a;
        const uint8_t *ink = color;
        if (!inside[x]) continue;
        v = agf_map_at(map, map_width, &across[x], &down) / scale;
        a = alpha * fmin(fabs(v), 1);
        if (colors->diverging)
          ink = pure[v > 0];
        else
          agf_color(&ramp, v, color);
        for (c = 0; c < 3; c++) p[c] = (uint8_t)(p[c] * (1 - a) + ink[c] * a + 0.5);
      }
    }
  }
  return AGF_OK;
}

AGF_API agf_status agf_photo_mute(const agf_rect *seen, uint8_t *rgb, int width, int height, size_t stride, agf_error *err) {
  int x, y, overflow = 0;
  agf_clear(err);
  if (rgb && width > 0 && height > 0) agf_pixel_bytes(width, height, 3, stride, &overflow);
  if (!rgb || width < 1 || height < 1 || stride / 3 < (size_t)width || overflow)
    return agf_fail(err, AGF_ERR_ARGUMENT, "agf_photo_mute: %d x %d pixels in rows of %llu bytes", width, height,
                    (unsigned long long)stride);
  for (y = 0; y < height; y++)
    for (x = 0; x < width; x++) {
      uint8_t *p = rgb + (size_t)y * stride + 3 * (size_t)x;
      int dark = 255000 - (299 * p[0] + 587 * p[1] + 114 * p[2]); /* of 255000; ITU-R 601 luma */
      double across = seen ? x + 0.5 - seen->left : 0, down = seen ? y + 0.5 - seen->top : 0;
      int inside = !seen || (across >= 0 && across < seen->width && down >= 0 && down < seen->height);
      p[0] = p[1] = p[2] = (uint8_t)(255 - (dark * (inside ? 65 : 25) + 50000) / 100000);
    }
  return AGF_OK;
}

AGF_API agf_status agf_overlay(const float *map, int map_height, int map_width, agf_colormap cmap, float vmax, float alpha,
                               const agf_rect *seen, uint8_t *rgb, int width, int height, size_t stride, agf_error *err) {
  agf_fp_state fp = agf_fp_begin(err);
  return agf_fp_end(fp, agf_overlay_map(map, map_height, map_width, cmap, vmax, alpha, seen, rgb, width, height, stride, err));
}

AGF_FAST_END
AGF_SMALL_END
#ifdef AGF_API_OWN
#pragma GCC diagnostic pop
#endif
