/* Every kernel of every instruction set that this machine has against kernels/ref.h, bit for bit; with --bench their speed.
 *
 *   check_kernels [--seed N] [--seeds N] [--rounds N] [--isa NAME] [--kernel NAME] [--bench]
 *
 * A test sets up a kernel's operands as buffers, each between canaries, outputs poisoned with NaN. The reference and the kernel
 * run on equal copies of them, and then every byte of every buffer must agree: outputs, operands that are inputs only, canaries.
 * A NaN equals any other NaN: which one an operation returns differs between processors. Sizes are random and small, so that they
 * reach every tail; values hold zeros of both signs, subnormals, huge numbers and, in one round of four, infinities and NaN.
 * --seeds: so many seeds, from --seed on; each draws its own rounds. */
#include "testing.h"

#include "inside.h"

#include <stddef.h>

/* ---- Random operands ---- */

static uint64_t random_state;

static uint32_t rnd(void) { /* xorshift64* (Vigna, 2016) */
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return (uint32_t)(random_state * 2685821657736338717u >> 32);
}
static int rnd_below(int n) { return (int)(rnd() % (uint32_t)n); }
static int rnd_from(int lo, int hi) { return lo + rnd_below(hi - lo + 1); }
static float rnd_unit(void) { return (float)rnd() / 4294967296.0f; }

typedef enum kind { FINITE, ANY, POSITIVE } kind; /* ANY: with infinities and NaN in wild rounds */
static int wild;

static float rnd_value(kind k) {
  float v = (2 * rnd_unit() - 1) * 4;
  switch (rnd_below(16)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4: v = 0.0f; break;
    case 5: v = -0.0f; break;
    case 6: v *= 1e-4f; break;
    case 7: v = wild ? v * 1e-39f : v; break;
    case 8: v = wild ? v * 1e37f : v; break;
    case 9: v = wild && k == ANY && rnd_below(4) == 0 ? INFINITY : v; break;
    case 10: v = wild && k == ANY && rnd_below(4) == 0 ? -INFINITY : v; break;
    case 11: v = wild && k == ANY && rnd_below(4) == 0 ? NAN : v; break;
    default: break;
  }
  return k == POSITIVE && v < 0 ? 0.0f : v;
}

/* ---- Buffers ---- */

enum { CANARY = 256, MAX_BUFFERS = 16 };
typedef enum element { FLOATS, DOUBLES, WORDS, BYTES } element;

static struct {
  unsigned char *base; /* canary, data, canary */
  unsigned char *before, *expected;
  size_t bytes;
  element type;
} buffer[MAX_BUFFERS];
static int buffers;

static void *new_buffer(size_t n, element type) {
  static const size_t size[] = {4, 8, 2, 1};
  size_t bytes = n * size[type], all = agf_align_up(bytes + 2 * CANARY);
  if (buffers == MAX_BUFFERS) abort();
  buffer[buffers].base = (unsigned char *)agf_malloc(NULL, all);
  buffer[buffers].before = (unsigned char *)malloc(all);
  buffer[buffers].expected = (unsigned char *)malloc(all);
  if (!buffer[buffers].base || !buffer[buffers].before || !buffer[buffers].expected) abort();
  buffer[buffers].bytes = bytes + 2 * CANARY;
  buffer[buffers].type = type;
  memset(buffer[buffers].base, 0xA5, all);
  return buffer[buffers++].base + CANARY;
}

static void free_buffers(void) {
  while (buffers) {
    buffers--;
    agf_mfree(NULL, buffer[buffers].base, 0);
    free(buffer[buffers].before);
    free(buffer[buffers].expected);
  }
}

static float *out_floats(size_t n) {
  float *p = (float *)new_buffer(n, FLOATS);
  memset(p, 0xff, n * sizeof *p); /* NaN */
  return p;
}
static uint16_t *out_masks(size_t n) { return (uint16_t *)new_buffer(n, WORDS); }

static float *in_floats(size_t n, kind k) {
  float *p = (float *)new_buffer(n, FLOATS);
  size_t i;
  for (i = 0; i < n; i++) p[i] = rnd_value(k);
  return p;
}
static double *in_doubles(size_t n) {
  double *p = (double *)new_buffer(n, DOUBLES);
  size_t i;
  for (i = 0; i < n; i++) p[i] = rnd_value(FINITE);
  return p;
}
static uint8_t *in_bytes(size_t n, int below) {
  uint8_t *p = (uint8_t *)new_buffer(n, BYTES);
  size_t i;
  for (i = 0; i < n; i++) p[i] = (uint8_t)rnd_below(below);
  return p;
}

/* ---- The kernels' operands ---- */

typedef struct operands {
  float *f[8];
  uint16_t *m, *m2;
  double *d[2];
  uint8_t *b;
  size_t count;
  ptrdiff_t stride, stride2;
  int n, blocks, flag, flag2;
  float value, value2;
  agf_act act;
  agf_gate_row gate;
  agf_activation_row activation;
  agf_norm_row norm;
  agf_lrn_row lrn;
  agf_pool_row pool;
  agf_conv_row conv;
  agf_dense_row dense;
  agf_gconv_row grouped;
  int shape, kind, size; /* which convolution: an entry of agf_kernels.conv, or of gconv by kind */
  double flops;          /* of one call, 0: --bench counts bytes */
  int sums;              /* the sign of a zero is open: terms that are 0 may be left out, and the epilogues settle it */
  long result;
} operands;

/* Pixels of a row, and numbers of a flat array; large when timed. */
static int benching;
static int row_pixels(void) { return benching ? 112 : rnd_from(1, 70); }
static int row_blocks(void) { return benching ? 8 : rnd_from(1, 9); }
static size_t numbers(void) { return benching ? 1 << 16 : (size_t)rnd_from(0, 5000); }
static agf_act rnd_act(void) { return (agf_act)rnd_below(3); }

static float *row(kind k, const operands *o) { return in_floats((size_t)o->n * AGF_CB, k); }

static void setup_widen(operands *o) {
  size_t i;
  o->count = numbers();
  o->m = (uint16_t *)new_buffer(o->count, WORDS);
  for (i = 0; i < o->count; i++) o->m[i] = (uint16_t)rnd();
  o->f[0] = out_floats(o->count);
}
static void call_widen(const agf_kernels *k, operands *o) { k->widen(o->m, o->f[0], o->count); }

static void setup_bytes(operands *o) {
  o->count = numbers();
  o->b = in_bytes(o->count, 256);
}
static void call_crc32(const agf_kernels *k, operands *o) { o->result = (long)k->crc32(12345, o->b, o->count); }

static void setup_finite(operands *o) {
  size_t i;
  o->count = numbers();
  o->f[0] = in_floats(o->count, FINITE);
  o->m = (uint16_t *)new_buffer(o->count, WORDS);
  for (i = 0; i < o->count; i++) o->m[i] = (uint16_t)(rnd() & 0xfbff);
  if (o->count && rnd_below(2)) { /* one that is not, at any place */
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    o->f[0][rnd_below((int)o->count)] = bad[rnd_below(3)];
    o->m[rnd_below((int)o->count)] = (uint16_t)(0x7c00 | (rnd() & 0x83ff));
  }
}
static void call_finite(const agf_kernels *k, operands *o) { o->result = k->finite(o->f[0], o->count); }
static void setup_range(operands *o) {
  o->count = numbers();
  o->f[0] = in_floats(o->count, FINITE);
  o->f[1] = in_floats(2, FINITE);
  if (o->f[1][0] > o->f[1][1]) { /* lo <= hi */
    const float lo = o->f[1][1];
    o->f[1][1] = o->f[1][0];
    o->f[1][0] = lo;
  }
}
static void call_range(const agf_kernels *k, operands *o) { k->range(o->f[0], o->count, o->f[1], o->f[1] + 1); }
static void call_finite_half(const agf_kernels *k, operands *o) { o->result = k->finite_half(o->m, o->count); }

static void setup_transpose(operands *o) {
  o->n = rnd_from(1, AGF_CB);
  o->stride = AGF_CB * rnd_from(1, 4);
  o->stride2 = AGF_CB + rnd_from(0, 3) * 16;
  o->f[0] = in_floats((size_t)(o->stride * AGF_CB), ANY);
  o->f[1] = out_floats((size_t)(o->stride2 * AGF_CB));
}
static void call_transpose(const agf_kernels *k, operands *o) { k->transpose(o->f[0], o->stride, o->n, o->f[1], o->stride2); }

/* Accumulators, some floats apart. */
static void setup_accumulators(operands *o) {
  o->n = row_pixels();
  o->stride = AGF_CB * rnd_from(1, 3);
  o->f[0] = in_floats((size_t)(o->n * o->stride), ANY);
}
static void setup_store_y(operands *o) {
  setup_accumulators(o);
  o->f[1] = in_floats(AGF_CB, FINITE);
  o->f[2] = rnd_below(2) ? in_floats(AGF_CB, FINITE) : NULL;
  o->act = rnd_act();
  o->f[3] = out_floats((size_t)o->n * AGF_CB);
  o->m = rnd_below(4) ? out_masks((size_t)o->n) : NULL;
}
static void call_store_y(const agf_kernels *k, operands *o) {
  o->result = k->store_y(o->f[0], o->stride, o->n, o->f[2], o->f[1], o->act, o->f[3], o->m) != 0;
}
static void setup_store(operands *o) {
  setup_accumulators(o);
  o->f[1] = out_floats((size_t)o->n * AGF_CB);
}
static void call_store(const agf_kernels *k, operands *o) { k->store(o->f[0], o->stride, o->n, o->f[1]); }
static void setup_store_c(operands *o) {
  setup_store(o);
  o->f[2] = row(ANY, o);
}
static void call_store_c(const agf_kernels *k, operands *o) { k->store_c(o->f[0], o->stride, o->n, o->f[2], o->f[1]); }
static void setup_store_z(operands *o) {
  setup_store(o);
  o->stride2 = 32;
  o->f[2] = in_floats(5 * 32, FINITE);
  o->f[3] = in_floats(5 * 32, FINITE);
  o->b = in_bytes((size_t)o->n, 5);
  o->value = ldexpf(1.0f, -rnd_from(0, 24)); /* of the limit: some rows have such a z, some not */
}
static void call_store_z(const agf_kernels *k, operands *o) {
  o->result = k->store_z(o->f[0], o->stride, o->n, o->f[2], o->f[3], o->b, o->stride2, o->value, o->f[1]);
}
static void setup_store_box(operands *o) {
  setup_store_c(o);
  o->f[3] = in_floats((size_t)(o->n * o->stride), ANY);
  o->f[4] = in_floats((size_t)(o->n * o->stride), ANY);
  o->value = rnd_value(FINITE);
  o->value2 = rnd_value(FINITE);
  o->blocks = rnd_from(1, AGF_CB);
}
static void call_store_box(const agf_kernels *k, operands *o) {
  k->store_box(o->f[0], o->f[3], o->f[4], o->stride, o->n, o->blocks, o->f[2], o->value, o->value2, o->f[1]);
}

static void setup_gate(operands *o) {
  agf_gate_row *q = &o->gate;
  float *cam;
  int vectors;
  o->n = row_pixels();
  cam = row(ANY, o);
  q->cam = cam;
  q->g = rnd_below(4) ? row(ANY, o) : NULL;
  q->mean = rnd_below(2) ? in_floats(1, FINITE) : NULL;
  q->act = rnd_act();
  q->y = q->act == AGF_ACT_NONE ? NULL : row(POSITIVE, o);
  q->scale = rnd_below(2) ? in_floats(AGF_CB, FINITE) : NULL;
  q->quotients = rnd_below(4) ? rnd_from(1, 2) : 0;
  q->d = q->quotients ? row(ANY, o) : NULL;
  if (q->quotients == 2) {
    q->b_stride = 32;
    q->b = in_floats(5 * 32, POSITIVE);
    q->column_class = in_bytes((size_t)o->n, 5);
  }
  vectors = (q->quotients ? q->quotients : 1) + (q->g != NULL);
  q->rhs = vectors == 1 && rnd_below(2) ? cam : out_floats((size_t)o->n * AGF_CB * (size_t)vectors);
  q->mask = rnd_below(4) ? out_masks((size_t)o->n) : NULL;
  q->cam_mask = rnd_below(2) ? out_masks((size_t)o->n) : NULL;
}
static void call_gate(const agf_kernels *k, operands *o) { o->result = k->gate(&o->gate, o->n) != 0; }

static void setup_rows(operands *o) {
  int i;
  o->n = row_pixels();
  for (i = 0; i < 5; i++) o->f[i] = row(ANY, o);
  o->flag = rnd_below(4) != 0;
  o->flag2 = rnd_below(2);
  o->act = rnd_act();
}
static void call_act_back(const agf_kernels *k, operands *o) {
  k->act_back(o->f[0], o->flag ? o->f[1] : NULL, o->f[2], o->flag2 ? o->f[3] : NULL, o->act, o->n);
}
static void call_merge_first(const agf_kernels *k, operands *o) { k->merge_first(o->f[0], o->f[1], o->n); }
static void call_merge_next(const agf_kernels *k, operands *o) {
  k->merge_next(o->f[0], o->f[1], o->f[2], o->f[3], o->flag ? o->f[4] : NULL, o->n);
}
static void call_merge_last(const agf_kernels *k, operands *o) { k->merge_last(o->f[0], o->f[1], o->n); }
static void call_mul(const agf_kernels *k, operands *o) { k->mul(o->f[0], o->f[1], o->n); }
static void call_add_back(const agf_kernels *k, operands *o) { k->add_back(o->f[0], o->f[1], o->f[2], o->n, o->f[3]); }
static void setup_activate(operands *o) {
  agf_activation_row *r = &o->activation;
  o->n = row_pixels();
  r->f = benching ? AGF_GELU : (agf_activation)rnd_below(AGF_ACTIVATIONS);
  r->alpha = rnd_value(FINITE);
  r->beta = r->f == AGF_CLIP ? r->alpha + 2 * rnd_unit() : rnd_value(FINITE);
  r->slope = in_floats(AGF_CB, FINITE);
  r->lanes = benching ? AGF_CB : rnd_from(1, AGF_CB);
  o->f[0] = row(ANY, o);
  o->f[1] = rnd_below(4) ? out_floats((size_t)o->n * AGF_CB) : o->f[0];
  o->m = rnd_below(4) ? out_masks((size_t)o->n) : NULL;
}
static void call_activate(const agf_kernels *k, operands *o) {
  o->result = k->activate(&o->activation, o->f[0], o->n, o->f[1], o->m) != 0;
}
static void setup_activate_back(operands *o) {
  setup_activate(o);
  o->f[1] = row(ANY, o);
  o->f[2] = rnd_below(4) ? row(ANY, o) : NULL;
  o->f[3] = rnd_below(4) ? row(ANY, o) : NULL;
}
static void call_activate_back(const agf_kernels *k, operands *o) {
  k->activate_back(&o->activation, o->f[0], o->f[1], o->n, o->f[2], o->f[3]);
}

static void setup_product(operands *o) {
  o->n = row_pixels();
  o->flag = benching ? AGF_FACTOR_CHANNEL : rnd_below(3);
  o->f[0] = row(ANY, o);
  o->f[1] = o->flag == AGF_FACTOR_CHANNEL ? in_floats(AGF_CB, ANY) : row(ANY, o);
  o->f[2] = rnd_below(4) ? out_floats((size_t)o->n * AGF_CB) : o->f[0];
  o->m = rnd_below(4) ? out_masks((size_t)o->n) : NULL;
}
static void call_product(const agf_kernels *k, operands *o) {
  o->result = k->product((agf_factor)o->flag, o->f[0], o->f[1], o->n, o->f[2], o->m) != 0;
}
static void setup_product_back(operands *o) {
  setup_product(o);
  o->f[2] = row(ANY, o);
  o->f[3] = rnd_below(4) ? row(ANY, o) : NULL;
  o->f[4] = rnd_below(4) ? row(ANY, o) : NULL;
  o->f[5] = o->f[4] && rnd_below(4) ? out_floats((size_t)o->n * AGF_CB) : NULL;
}
static void call_product_back(const agf_kernels *k, operands *o) {
  k->product_back((agf_factor)o->flag, o->f[0], o->f[1], o->f[2], o->n, o->f[3], o->f[4], o->f[5]);
}

static void setup_affine(operands *o) {
  int i;
  o->n = row_pixels();
  o->f[0] = row(ANY, o);
  for (i = 1; i < 5; i++) o->f[i] = in_floats(AGF_CB, FINITE);
  o->f[5] = row(ANY, o);
  o->f[6] = rnd_below(4) ? out_floats((size_t)o->n * AGF_CB) : o->f[0];
  o->m = rnd_below(4) ? out_masks((size_t)o->n) : NULL;
}
static void call_affine(const agf_kernels *k, operands *o) {
  o->result = k->affine(o->f[0], o->f[1], o->f[2], o->f[3], o->n, o->f[6], o->m) != 0;
}
static void call_affine_back(const agf_kernels *k, operands *o) {
  k->affine_back(o->f[0], o->f[1], o->f[2], o->f[3], o->f[4], o->n, o->f[5]);
}

/* Rows over all blocks: layer normalisation, in groups that begin and end anywhere, and local response normalisation. */
static void setup_layer_norm(operands *o) {
  agf_norm_row *r = &o->norm;
  o->n = benching ? 28 : rnd_from(1, 10);
  r->groups = benching || rnd_below(2) ? 1 : rnd_from(2, 6);
  r->channels = r->groups * (benching ? 384 : rnd_from(1, 50));
  r->eps = 1e-5;
  o->blocks = agf_ceil_div(r->channels, AGF_CB);
  r->xb = AGF_CB * (o->n + rnd_below(3));
  o->stride = AGF_CB * (o->n + rnd_below(3));
  o->stride2 = o->n + rnd_below(3);
  r->x = in_floats((size_t)(r->xb * o->blocks), ANY);
  r->gamma = in_floats((size_t)o->blocks * AGF_CB, FINITE);
  r->beta = in_floats((size_t)o->blocks * AGF_CB, FINITE);
  o->f[0] = in_floats((size_t)(o->stride * o->blocks), ANY);
  o->m = rnd_below(4) ? out_masks((size_t)(o->stride2 * o->blocks)) : NULL;
}
static void call_layer_norm(const agf_kernels *k, operands *o) {
  o->result = k->layer_norm(&o->norm, o->n, o->f[0], o->stride, o->m, o->stride2) != 0;
}
static void call_layer_norm_back(const agf_kernels *k, operands *o) { k->layer_norm_back(&o->norm, o->n, o->f[0], o->stride); }
static void setup_lrn(operands *o) {
  agf_lrn_row *r = &o->lrn;
  setup_layer_norm(o);
  r->x = o->norm.x, r->xb = o->norm.xb, r->blocks = o->blocks;
  r->size = benching ? 5 : rnd_from(1, 40);
  r->alpha = rnd_value(POSITIVE);
  r->beta = rnd_value(POSITIVE);
  r->k = 0.5f + rnd_unit();
  r->scratch = out_floats(2 * ((size_t)r->blocks * AGF_CB + (size_t)r->size));
}
static void call_lrn(const agf_kernels *k, operands *o) {
  o->result = k->lrn(&o->lrn, o->n, o->f[0], o->stride, o->m, o->stride2) != 0;
}
static void call_lrn_back(const agf_kernels *k, operands *o) { k->lrn_back(&o->lrn, o->n, o->f[0], o->stride); }

static void setup_add(operands *o) {
  setup_rows(o);
  o->act = rnd_act();
  o->m = rnd_below(4) ? out_masks((size_t)o->n) : NULL;
}
static void call_add(const agf_kernels *k, operands *o) { o->result = k->add(o->f[0], o->f[1], o->act, o->n, o->f[2], o->m) != 0; }

static void setup_nonzeros(operands *o) {
  setup_rows(o);
  o->m = out_masks((size_t)o->n);
}
static void call_nonzeros(const agf_kernels *k, operands *o) { k->nonzeros(o->f[0], o->n, o->m); }

/* Pools: windows of up to 4 x 4 in any place, overlapping or not. */
static void setup_pool(operands *o) {
  int w = benching ? 112 : rnd_from(1, 20), h = rnd_from(1, 6), n = benching ? w / 2 : rnd_from(1, 15), p;
  int32_t *window = (int32_t *)new_buffer((size_t)n * 2 * 4, BYTES);
  float *div = in_floats((size_t)n, FINITE);
  o->n = n;
  o->pool.n = n;
  o->pool.xr = AGF_CB * (w + rnd_below(3));
  o->pool.tr = AGF_CB * w;
  o->pool.h0 = rnd_below(h);
  o->pool.h1 = agf_imin(h, o->pool.h0 + rnd_from(1, 4));
  o->pool.x = in_floats((size_t)(h * o->pool.xr), ANY);
  o->pool.dh = rnd_from(1, 4);
  o->pool.dw = rnd_from(1, 4);
  o->pool.w0 = window;
  o->pool.w1 = window + n;
  for (p = 0; p < n; p++) {
    window[p] = benching ? 2 * p : rnd_below(w);
    window[n + p] = agf_imin(w, window[p] + (benching ? 2 : rnd_from(1, 4)));
    div[p] = (float)rnd_from(1, 16);
  }
  o->pool.div = rnd_below(2) ? div : NULL;
  o->pool.magnitudes = rnd_below(2);
  o->f[0] = out_floats((size_t)n * AGF_CB);
  o->m = rnd_below(2) ? out_masks((size_t)n) : NULL;
  o->count = (size_t)(h * o->pool.tr);
}
static void call_pool(const agf_kernels *k, operands *o) { k->pool(&o->pool, o->f[0], o->m); }
static void setup_pool_back(operands *o) {
  setup_pool(o);
  agf_pool__ref(&o->pool, o->f[0], o->m);
  o->f[1] = row(ANY, o);
  o->f[2] = row(ANY, o);
  o->f[3] = in_floats(o->count, FINITE);
  o->f[4] = in_floats(o->count, FINITE);
  o->flag = rnd_below(4) != 0;
  o->flag2 = rnd_below(4) != 0;
}
static void call_pool_back(const agf_kernels *k, operands *o) {
  k->pool_back(&o->pool, o->f[0], o->flag ? o->f[1] : NULL, o->flag2 ? o->f[2] : NULL, o->f[3], o->f[4]);
}

/* The factorisation: [blocks] planes of one row, some floats apart. */
static void setup_planes(operands *o) {
  o->n = row_pixels();
  o->blocks = row_blocks();
  o->stride = AGF_CB * (o->n + rnd_below(5));
  o->stride2 = AGF_CB * (o->n + rnd_below(5));
  o->f[0] = in_floats((size_t)(o->blocks * o->stride), ANY);
  o->f[1] = in_floats((size_t)(o->blocks * o->stride2), ANY);
  o->f[2] = in_floats((size_t)(o->blocks * o->stride), ANY);
  o->f[3] = out_floats((size_t)o->n);
  o->f[4] = out_floats((size_t)o->n);
  o->f[5] = out_floats((size_t)o->n * AGF_CB);
  o->flag = rnd_below(4) != 0;
}
static void call_pixel_sums(const agf_kernels *k, operands *o) {
  k->pixel_sums(o->f[0], o->stride, o->f[1], o->stride2, o->flag ? o->f[2] : NULL, o->stride, o->blocks, o->n, o->f[3], o->f[4]);
}
static void setup_dots(operands *o) {
  o->n = row_pixels();
  o->blocks = row_blocks();
  o->stride = AGF_CB * (o->n + rnd_below(5));
  o->f[0] = in_floats((size_t)(o->blocks * o->stride), ANY);
  o->f[1] = in_floats((size_t)o->blocks * AGF_CB, FINITE);
  o->f[2] = in_floats((size_t)o->blocks * AGF_CB, FINITE);
  o->f[3] = out_floats((size_t)o->n);
  o->value = rnd_below(8) ? 4 * rnd_unit() : rnd_value(ANY);
  o->flag = rnd_below(2);
}
static void call_fx_dots(const agf_kernels *k, operands *o) {
  k->fx_dots(o->f[0], o->stride, o->flag, o->value, o->f[1], o->f[2], o->blocks, o->n, o->f[3]);
}
static void call_weighted_mean(const agf_kernels *k, operands *o) {
  k->weighted_mean(o->f[0], o->stride, o->f[1], o->blocks, o->n, (float)(o->blocks * AGF_CB - 5), o->f[3]);
}
static void call_row_max(const agf_kernels *k, operands *o) { k->row_max(o->f[0], o->n, o->f[1]); }
static void setup_sums(operands *o) {
  o->n = row_pixels();
  o->f[0] = row(ANY, o);
  o->f[1] = in_floats((size_t)o->n, ANY);
  o->f[2] = row(FINITE, o);
  o->d[0] = in_doubles(AGF_CB);
  o->d[1] = in_doubles(AGF_CB);
  o->value = rnd_below(8) ? 4 * rnd_unit() : rnd_value(ANY);
}
static void call_pixel_dots(const agf_kernels *k, operands *o) {
  k->pixel_dots(o->f[0], o->stride, o->f[1], o->stride2, o->blocks, o->n, o->f[5]);
}
static void call_product_sums(const agf_kernels *k, operands *o) { k->product_sums(o->f[0], o->f[2], o->n, o->d[0]); }
static void call_lane_squares(const agf_kernels *k, operands *o) { k->lane_squares(o->f[0], o->f[2], o->n, o->d[0]); }
static void setup_fx_sums(operands *o) {
  setup_sums(o);
  if (rnd_below(2)) o->f[3] = out_floats((size_t)o->n * AGF_CB);
}
static void call_fx_sums(const agf_kernels *k, operands *o) {
  k->fx_sums(o->f[0], o->value, o->f[1], o->n, o->d[0], o->d[1], o->f[3]);
}
static void call_lane_sums(const agf_kernels *k, operands *o) { k->lane_sums(o->f[0], o->n, o->d[0]); }
static void setup_combine(operands *o) {
  setup_sums(o);
  o->f[2] = in_floats((size_t)o->n, ANY);
  o->f[3] = row(ANY, o);
  o->flag = rnd_below(2);
  o->flag2 = rnd_below(2);
}
static void call_combine(const agf_kernels *k, operands *o) {
  o->result = k->combine(o->f[0], o->f[3], o->f[1], o->f[2], o->flag, o->flag2, o->n, o->d[0]);
}
static void call_shift(const agf_kernels *k, operands *o) { k->shift(o->f[0], o->f[1][0], o->n); }

static void setup_linear(operands *o) {
  o->n = benching ? 1024 : rnd_from(1, 40); /* rows */
  o->blocks = benching ? 4096 : AGF_OCG * rnd_from(1, 6);
  o->stride = o->blocks + AGF_OCG * (benching ? 0 : rnd_below(3));
  o->f[0] = in_floats((size_t)o->n, FINITE);
  o->f[1] = in_floats((size_t)(o->n * o->stride), FINITE);
  o->f[2] = in_floats((size_t)o->blocks, FINITE);
  o->f[3] = in_floats((size_t)o->blocks, FINITE);
  o->f[4] = out_floats((size_t)o->n);
  o->f[5] = out_floats((size_t)o->n);
  o->flag = rnd_below(4);
  o->flag2 = rnd_below(2);
}
static void call_linear(const agf_kernels *k, operands *o) {
  k->linear(o->f[0], o->n, o->f[1], o->stride, o->blocks, o->f[2], o->flag ? o->f[3] : NULL);
}
static void call_linear_back(const agf_kernels *k, operands *o) {
  k->linear_back(o->f[0], o->flag2, o->n, o->f[1], o->stride, o->blocks, o->f[2], o->f[3], o->flag == 1 ? NULL : o->f[4],
                 o->flag == 2 ? NULL : o->f[5]);
}

/* ---- Convolutions ---- */

/* One kernel row: a geometry of the entry's shape, and what it may touch. */
static void setup_conv(operands *o) {
  agf_conv_row *r = &o->conv;
  int outputs = o->n, in = agf_rhs_in((agf_rhs)o->kind), out = agf_rhs_out((agf_rhs)o->kind), i, l, up, stride, density, panels;
  size_t masks;
  agf_axis a;
  do {
    up = o->shape == AGF_SHAPE_3_UP || o->shape == AGF_SHAPE_7_UP || (o->shape != AGF_SHAPE_3_DOWN && rnd_below(2));
    stride = o->shape == AGF_SHAPE_3 ? 1 : o->shape >= AGF_SHAPE_3_DOWN ? 2 : benching ? 1 : rnd_from(1, 3);
    r->down = up ? 1 : stride;
    r->up = up ? stride : 1;
    r->w_in = benching ? 56 : rnd_from(1, 20);
    r->w_out = benching ? r->w_in * r->up / r->down : rnd_from(1, 40);
    r->kw = o->shape == AGF_SHAPE_ANY    ? benching ? 5 : rnd_from(1, 7)
               : o->shape == AGF_SHAPE_1 ? 1
            : o->shape == AGF_SHAPE_7_UP ? 7
                                         : 3;
    r->dilation = o->shape == AGF_SHAPE_ANY && !benching ? rnd_from(1, 3) : 1;
    r->pad = benching ? r->kw / 2 : rnd_from(-3, 8);
    a.k = r->kw, a.down = r->down, a.up = r->up, a.dilation = r->dilation, a.pad = r->pad, a.in = r->w_in, a.out = r->w_out;
  } while (o->shape != AGF_SHAPE_ANY && (int)agf_shape_of(&a) != o->shape);
  r->blocks = o->shape != AGF_SHAPE_1 ? 1 : benching ? 8 : rnd_from(1, 4);
  panels = agf_ceil_div(outputs, AGF_OCG);
  r->xp = AGF_CB * (in + rnd_below(2));
  r->xb = r->xp * (r->w_in + rnd_below(3));
  r->mb = r->w_in + rnd_below(3);
  r->wb = (ptrdiff_t)panels * AGF_CB * r->kw * AGF_OCG + 64 * rnd_below(2);
  r->wab = r->wb;
  r->kept = agf_rhs_kept((agf_rhs)o->kind);
  r->ar = agf_imax(outputs, AGF_CB) + AGF_CB * rnd_below(2);
  r->ap = r->ar * out + 8 * rnd_below(2);
  r->x = in_floats((size_t)(r->xb * r->blocks), FINITE);
  o->f[0] = in_floats((size_t)(r->wb * r->blocks), FINITE);
  o->f[1] = in_floats((size_t)(r->wb * r->blocks), FINITE);
  for (i = 0; i < r->wb * r->blocks; i++) o->f[1][i] = fabsf(o->f[0][i]);
  r->w = o->f[0];
  masks = (size_t)(r->mb * r->blocks);
  o->m = out_masks(masks);
  density = benching ? 16 : rnd_from(0, 16);
  for (i = 0; i < (int)masks; i++)
    for (o->m[i] = 0, l = 0; l < AGF_CB; l++) o->m[i] |= (uint16_t)((unsigned)(rnd_from(1, 16) <= density) << l);
  r->mask = o->m;
  r->fresh = o->shape == AGF_SHAPE_1 && agf_reaches_all(&a) && rnd_below(2);
  o->f[2] = r->fresh ? out_floats((size_t)(r->ap * (r->w_out + 2 * AGF_MARGIN)))
                     : in_floats((size_t)(r->ap * (r->w_out + 2 * AGF_MARGIN)), FINITE);
  r->acc = o->f[2] + AGF_MARGIN * r->ap;
  if (o->shape != AGF_SHAPE_3_UP) o->flops = 2.0 * AGF_CB * r->kw * agf_imin(r->w_out, r->w_in) * r->blocks * outputs * out;
}

/* The reference takes 16 outputs at a time; what the margin holds afterwards is nobody's. */
static void call_conv(const agf_kernels *k, operands *o) {
  agf_conv_row r = o->conv;
  int out = agf_rhs_out((agf_rhs)o->kind), i, j, l;
  float lanes[128 * 3 * AGF_CB];
  if (strcmp(k->isa, "ref")) {
    r.wa = k->magnitudes && agf_rhs_magnitudes((agf_rhs)o->kind) ? o->f[1] : NULL;
    k->conv[o->shape][o->kind][o->size].row(&r);
  } else {
    r.acc = lanes;
    r.ar = AGF_CB;
    r.ap = out * AGF_CB;
    for (l = 0; l < o->n; l += AGF_CB) {
      size_t part = sizeof(float) * (size_t)agf_imin(AGF_CB, o->n - l);
      memset(lanes, 0, sizeof lanes);
      for (i = 0; i < r.w_out; i++)
        for (j = 0; j < out; j++) memcpy(lanes + i * r.ap + j * r.ar, o->conv.acc + i * o->conv.ap + j * o->conv.ar + l, part);
      r.w = o->conv.w + (ptrdiff_t)(l / AGF_OCG) * AGF_CB * r.kw * AGF_OCG + l % AGF_OCG;
      k->conv[AGF_SHAPE_ANY][o->kind][1].row(&r);
      for (i = 0; i < r.w_out; i++)
        for (j = 0; j < out; j++) memcpy(o->conv.acc + i * o->conv.ap + j * o->conv.ar + l, lanes + i * r.ap + j * r.ar, part);
    }
  }
  memset(o->f[2], 0, sizeof(float) * (size_t)(AGF_MARGIN * o->conv.ap));
  memset(o->conv.acc + o->conv.w_out * o->conv.ap, 0, sizeof(float) * (size_t)(AGF_MARGIN * o->conv.ap));
}

static void setup_dense(operands *o) {
  agf_dense_row *r = &o->dense;
  r->n = benching ? 56 : rnd_from(1, 40);
  r->outputs = benching || rnd_below(2) ? AGF_OCG : AGF_CB;
  r->kh = benching ? 3 : rnd_from(1, 4);
  r->kw = benching ? 3 : rnd_from(1, 4);
  r->lanes = benching ? AGF_CB : rnd_from(1, AGF_CB);
  r->blocks = benching ? 4 : rnd_from(1, 3);
  r->xo = AGF_CB * (benching ? 1 : rnd_from(1, 3));
  r->xt = AGF_CB * (benching ? 1 : rnd_from(1, 2));
  r->xr = r->xo * r->n + r->xt * r->kw + AGF_CB * rnd_below(3);
  r->xb = r->xr * r->kh;
  r->wr = (ptrdiff_t)r->lanes * r->kw * AGF_OCG + AGF_OCG * rnd_below(2);
  r->wb = r->wr * r->kh;
  r->ap = r->outputs + AGF_CB * rnd_below(2);
  r->x = in_floats((size_t)(r->xb * r->blocks), FINITE);
  r->w = in_floats((size_t)(r->wb * r->blocks), FINITE);
  r->fresh = rnd_below(2);
  r->acc = r->fresh ? out_floats((size_t)(r->ap * r->n)) : in_floats((size_t)(r->ap * r->n), FINITE);
  r->y = r->acc;
  r->yb = AGF_CB;
  o->flops = 2.0 * r->n * r->kh * r->kw * r->lanes * r->blocks * r->outputs;
}
static void call_dense_w(const agf_kernels *k, operands *o) { k->dense_w(&o->dense); }
static void call_dense_d(const agf_kernels *k, operands *o) { k->dense_d(&o->dense); }

/* One row of one block of the output of a grouped convolution, depthwise or any. */
static void setup_grouped(operands *o) {
  agf_gconv_row *r = &o->grouped;
  int in = agf_rhs_in((agf_rhs)o->kind), out = agf_rhs_out((agf_rhs)o->kind), depthwise = benching || rnd_below(2);
  int lanes = depthwise ? 1 : rnd_from(1, 40), lanes_out = depthwise ? 1 : rnd_below(2) ? 1 << rnd_from(0, 5) : rnd_from(1, 40);
  int groups = benching ? 16 : rnd_from(1, 20), blocks = agf_ceil_div(groups * lanes, AGF_CB), block, i, l, taps;
  int up = rnd_below(2), stride = benching ? 1 : rnd_from(1, 3);
  int32_t *index = (int32_t *)new_buffer((size_t)lanes * AGF_CB * 4, BYTES);
  float *x;
  if (rnd_below(2)) lanes_out = lanes;
  block = rnd_below(agf_ceil_div(groups * lanes_out, AGF_CB));
  for (i = 0; i < lanes; i++)
    for (l = 0; l < AGF_CB; l++)
      index[i * AGF_CB + l] = lanes == 1 && lanes_out == 1
                                  ? block * AGF_CB + l
                                  : agf_imin(block * AGF_CB + l, groups * lanes_out - 1) / lanes_out * lanes + i;
  r->kh = benching ? 3 : rnd_from(1, 4), r->kw = benching ? 3 : rnd_from(1, 5);
  r->dilation_h = benching ? 1 : rnd_from(1, 2), r->dilation = benching ? 1 : rnd_from(1, 3);
  r->pad_h = benching ? 1 : rnd_from(-2, 4), r->pad = benching ? 1 : rnd_from(-2, 6);
  r->down_h = r->down = up ? 1 : stride;
  r->up_h = r->up = up ? stride : 1;
  r->h_in = benching ? 3 : rnd_from(1, 6), r->w_in = benching ? 56 : rnd_from(1, 30), r->w_out = benching ? 56 : rnd_from(1, 40);
  r->row = benching ? 1 : rnd_below(9);
  r->border = rnd_below(3);
  r->xp = AGF_CB * in, r->xr = r->xp * (r->w_in + 2 * r->border), r->xb = r->xr * r->h_in;
  x = in_floats((size_t)(r->xb * blocks), FINITE);
  for (i = 0; i < blocks * r->h_in; i++) {
    memset(x + i * r->xr, 0, sizeof(float) * (size_t)(r->xp * r->border));
    memset(x + (i + 1) * r->xr - r->xp * r->border, 0, sizeof(float) * (size_t)(r->xp * r->border));
  }
  taps = r->kh * r->kw;
  r->x = x + r->border * r->xp;
  r->w = in_floats((size_t)(taps * agf_ceil_div(lanes, AGF_CB) * AGF_CB * AGF_CB), FINITE);
  r->acc = out_floats((size_t)(r->w_out * out * AGF_CB));
  r->index = index;
  r->lanes_in = lanes;
  r->reads = agf_reads_of(index, lanes);
  o->flops = 2.0 * taps * r->w_out * lanes * AGF_CB * out;
}
static void call_grouped(const agf_kernels *k, operands *o) { k->gconv[o->kind](&o->grouped); }

static void setup_border(operands *o) {
  static const int filters[] = {-1, 1, 2};
  o->n = benching ? AGF_CB : rnd_from(1, AGF_CB);
  o->blocks = benching ? AGF_OCG : AGF_CB * rnd_from(1, 2);
  o->stride = o->blocks * (benching ? 3 : rnd_from(1, 3));
  o->f[0] = in_floats((size_t)(o->n * o->stride), FINITE);
  o->f[1] = in_floats(AGF_OCG, FINITE);
  o->value = rnd_below(2) ? 1.0f : rnd_value(FINITE);
  o->flag = filters[rnd_below(3)];
}
static void call_border(const agf_kernels *k, operands *o) {
  k->border(o->f[0], o->stride, o->n, o->blocks, o->value, o->flag, o->f[1]);
}

/* ---- Running them ---- */

typedef void any_fn(void);

typedef struct kernel_test {
  char name[24];
  size_t entry; /* of the table, in bytes */
  void (*setup)(operands *o);
  void (*call)(const agf_kernels *k, operands *o);
  int shape, kind, size, outputs; /* convolutions */
} kernel_test;

#define TEST(name, setup)                                                                                                          \
  { #name, offsetof(agf_kernels, name), setup, call_##name, 0, 0, 0, 0 }
static const kernel_test listed[] = {
    TEST(widen, setup_widen),
    TEST(crc32, setup_bytes),
    TEST(finite, setup_finite),
    TEST(finite_half, setup_finite),
    TEST(range, setup_range),
    TEST(nonzeros, setup_nonzeros),
    TEST(transpose, setup_transpose),
    TEST(store_y, setup_store_y),
    TEST(store, setup_store),
    TEST(store_c, setup_store_c),
    TEST(store_z, setup_store_z),
    TEST(store_box, setup_store_box),
    TEST(gate, setup_gate),
    TEST(act_back, setup_rows),
    TEST(merge_first, setup_rows),
    TEST(merge_next, setup_rows),
    TEST(merge_last, setup_rows),
    TEST(add, setup_add),
    TEST(add_back, setup_rows),
    TEST(pool, setup_pool),
    TEST(pool_back, setup_pool_back),
    TEST(mul, setup_rows),
    TEST(pixel_sums, setup_planes),
    TEST(row_max, setup_rows),
    TEST(fx_sums, setup_fx_sums),
    TEST(fx_dots, setup_dots),
    TEST(weighted_mean, setup_dots),
    TEST(lane_sums, setup_sums),
    TEST(combine, setup_combine),
    TEST(shift, setup_rows),
    TEST(linear, setup_linear),
    TEST(linear_back, setup_linear),
    TEST(dense_w, setup_dense),
    TEST(dense_d, setup_dense),
    TEST(border, setup_border),
    TEST(activate, setup_activate),
    TEST(activate_back, setup_activate_back),
    TEST(product, setup_product),
    TEST(product_back, setup_product_back),
    TEST(product_sums, setup_sums),
    TEST(pixel_dots, setup_planes),
    TEST(lane_squares, setup_sums),
    TEST(affine, setup_affine),
    TEST(affine_back, setup_affine),
    TEST(layer_norm, setup_layer_norm),
    TEST(layer_norm_back, setup_layer_norm),
    TEST(lrn, setup_lrn),
    TEST(lrn_back, setup_lrn),
};
enum { LISTED = sizeof listed / sizeof *listed, MAX_TESTS = LISTED + AGF_RHS_KINDS * (1 + AGF_SHAPES * AGF_CONV_SIZES) };

/* The tests of a table: those listed, and one for each convolution that it has. */
static int tests_of(const agf_kernels *k, kernel_test *tests) {
#define NAME(kind, ...) #kind,
  static const char *const kinds[] = {AGF_RHS_LIST(NAME)};
#undef NAME
  static const char *const shapes[] = {"any", "1", "3", "3down", "3up", "7up"};
  int n = LISTED, shape, kind, size;
  memcpy(tests, listed, sizeof listed);
  for (kind = 0; kind < AGF_RHS_KINDS; kind++) {
    kernel_test *t = &tests[n++];
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "gconv_%s", kinds[kind]);
    t->entry = offsetof(agf_kernels, gconv) + (size_t)kind * sizeof k->gconv[0];
    t->setup = setup_grouped;
    t->call = call_grouped;
    t->kind = kind;
    for (shape = 0; shape < AGF_SHAPES; shape++)
      for (size = 0; size < AGF_CONV_SIZES && k->conv[shape][kind][size].row; size++) {
        t = &tests[n++];
        t->shape = shape;
        t->kind = kind;
        t->size = size;
        t->outputs = k->conv[shape][kind][size].outputs;
        snprintf(t->name, sizeof t->name, "conv%s_%s_%d", shapes[shape], kinds[kind], t->outputs);
        t->entry = (size_t)((const char *)&k->conv[shape][kind][size].row - (const char *)k);
        t->setup = setup_conv;
        t->call = call_conv;
      }
  }
  return n;
}

/* Operands of a round or a timing. */
static void set_up(const kernel_test *t, operands *o, uint64_t seed) {
  memset(o, 0, sizeof *o);
  o->shape = t->shape;
  o->kind = t->kind;
  o->size = t->size;
  o->n = t->outputs;
  random_state = seed;
  wild = !benching && rnd_below(4) == 0;
  o->sums = t->setup == setup_conv || t->setup == setup_dense || t->setup == setup_grouped;
  t->setup(o);
}

static any_fn *entry(const agf_kernels *k, size_t at) {
  any_fn *f;
  memcpy(&f, (const char *)k + at, sizeof f);
  return f;
}

/* Whether element i of two arrays is the same, NaN as good as NaN, and in sums -0 as good as +0. */
static int same(const void *a, const void *b, size_t i, element type, int sums) {
  if (type == FLOATS) {
    const float x = ((const float *)a)[i], y = ((const float *)b)[i];
    return agf_bits(x) == agf_bits(y) || (x != x && y != y) || (sums && x == 0 && y == 0);
  }
  if (type == DOUBLES) {
    const double x = ((const double *)a)[i], y = ((const double *)b)[i];
    return !memcmp((const double *)a + i, (const double *)b + i, sizeof x) || (x != x && y != y);
  }
  return type == WORDS ? ((const uint16_t *)a)[i] == ((const uint16_t *)b)[i] : ((const uint8_t *)a)[i] == ((const uint8_t *)b)[i];
}

/* One round: 0 if all is equal. */
static int round_of(const kernel_test *t, const agf_kernels *ref, const agf_kernels *k, uint64_t seed) {
  operands o;
  long expected;
  int i, failed = 0;
  set_up(t, &o, seed);
  for (i = 0; i < buffers; i++) memcpy(buffer[i].before, buffer[i].base, buffer[i].bytes);
  t->call(ref, &o);
  expected = o.result;
  for (i = 0; i < buffers; i++) {
    memcpy(buffer[i].expected, buffer[i].base, buffer[i].bytes);
    memcpy(buffer[i].base, buffer[i].before, buffer[i].bytes);
  }
  t->call(k, &o);
  if (o.result != expected) {
    printf("%s.%s returns %ld where the reference returns %ld\n", k->isa, t->name, o.result, expected);
    failed = 1;
  }
  for (i = 0; i < buffers && !failed; i++) {
    static const size_t size[] = {4, 8, 2, 1};
    size_t e, n = buffer[i].bytes / size[buffer[i].type], edge = CANARY / size[buffer[i].type];
    for (e = 0; e < n && !failed; e++) {
      if (same(buffer[i].base, buffer[i].expected, e, buffer[i].type, o.sums)) continue;
      failed = 1;
      if (e < edge || e >= n - edge)
        printf("%s.%s writes outside operand %d, at element %ld\n", k->isa, t->name, i, (long)e - (long)edge);
      else if (buffer[i].type == FLOATS)
        printf("%s.%s operand %d, element %ld: %a (%08x) instead of %a (%08x)\n", k->isa, t->name, i, (long)(e - edge),
               (double)((float *)(void *)buffer[i].base)[e], agf_bits(((float *)(void *)buffer[i].base)[e]),
               (double)((float *)(void *)buffer[i].expected)[e], agf_bits(((float *)(void *)buffer[i].expected)[e]));
      else
        printf("%s.%s operand %d, element %ld differs\n", k->isa, t->name, i, (long)(e - edge));
    }
  }
  free_buffers();
  return failed;
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one call, the median of 7 runs of about 10 ms. */
static double time_of(const kernel_test *t, const agf_kernels *k, operands *o) {
  double run[7], start, s;
  int calls = 1, i, j, r;
  for (;; calls *= 2) {
    start = seconds();
    for (i = 0; i < calls; i++) t->call(k, o);
    if (seconds() - start > 5e-3) break;
  }
  for (r = 0; r < 7; r++) {
    start = seconds();
    for (i = 0; i < calls; i++) t->call(k, o);
    s = (seconds() - start) / calls;
    for (j = r; j > 0 && run[j - 1] > s; j--) run[j] = run[j - 1];
    run[j] = s;
  }
  return run[3];
}

/* Multiply-adds of one core per second, twice: chains enough to hide their latency, few enough for the registers. */
#define PEAK(isa, target)                                                                                                          \
  target static double peak_##isa(long n) {                                                                                        \
    agf_v__##isa x = agf_v_all__##isa(0.999f), y = agf_v_all__##isa(0.001f), a = x, b = x, c = x, d = x, e = y, f = y, g = y;      \
    agf_v__##isa h = y, p = y, q = x;                                                                                              \
    int wide = sizeof x == sizeof(float) * AGF_CB && !strcmp(#isa, "avx512");                                                      \
    double start = seconds();                                                                                                      \
    float sum[AGF_CB];                                                                                                             \
    long i;                                                                                                                        \
    for (i = 0; i < n; i++) {                                                                                                      \
      a = agf_v_fma__##isa(a, x, y), b = agf_v_fma__##isa(b, x, y), c = agf_v_fma__##isa(c, x, y);                                 \
      d = agf_v_fma__##isa(d, x, y), e = agf_v_fma__##isa(e, x, y);                                                                \
      if (!wide) continue;                                                                                                         \
      f = agf_v_fma__##isa(f, x, y), g = agf_v_fma__##isa(g, x, y), h = agf_v_fma__##isa(h, x, y);                                 \
      p = agf_v_fma__##isa(p, x, y), q = agf_v_fma__##isa(q, x, y);                                                                \
    }                                                                                                                              \
    start = seconds() - start;                                                                                                     \
    a = agf_v_add__##isa(agf_v_add__##isa(agf_v_add__##isa(a, b), agf_v_add__##isa(c, d)), agf_v_add__##isa(e, f));                \
    a = agf_v_add__##isa(agf_v_add__##isa(agf_v_add__##isa(g, h), agf_v_add__##isa(p, q)), a);                                     \
    agf_v_store__##isa(sum, a);                                                                                                    \
    return 2.0 * AGF_CB * (wide ? 10 : 5) * (double)n / start + (sum[0] == 12345.0f);                                              \
  }
#if defined(AGF_KERNELS_X86)
PEAK(avx2, __attribute__((target("avx2,fma,f16c"))))
PEAK(avx512, __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c"))))
#elif defined(AGF_KERNELS_ARM)
PEAK(neon, )
#endif

static double peak_of(const char *isa) {
#if defined(AGF_KERNELS_X86)
  return strcmp(isa, "avx512") ? peak_avx2(1L << 22) : peak_avx512(1L << 22);
#elif defined(AGF_KERNELS_ARM)
  (void)isa;
  return peak_neon(1L << 22);
#else
  (void)isa;
  return 0;
#endif
}

/* Bytes that this core reads from memory per second, by row_max over 256 MB; the fastest of three. */
static double bandwidth_of(const agf_kernels *k) {
  const size_t n = (size_t)64 << 20;
  float *p = (float *)agf_malloc(NULL, n * sizeof *p), lanes[AGF_CB] = {0};
  double best = 0, start;
  int i;
  if (!p) return 0;
  memset(p, 0, n * sizeof *p);
  for (i = 0; i < 3; i++) {
    start = seconds();
    k->row_max(p, (int)(n / AGF_CB), lanes);
    start = (double)(n * sizeof *p) / (seconds() - start);
    if (start > best) best = start;
  }
  agf_mfree(NULL, p, 0);
  return best;
}

/* Speed of a kernel, and how many times faster than the reference it is: convolutions in FLOP/s, beside the peak measured just
 * before; the others in bytes of their operands (in cache) per second, beside what memory gives. */
static void bench(const kernel_test *t, const agf_kernels *ref, const agf_kernels *k, double bandwidth) {
  operands o;
  double bytes = 0, fast, slow, peak;
  int i;
  benching = 1;
  set_up(t, &o, 1);
  benching = 0;
  for (i = 0; i < buffers; i++) bytes += (double)(buffer[i].bytes - 2 * CANARY);
  peak = o.flops > 0 ? peak_of(k->isa) : bandwidth;
  fast = time_of(t, k, &o);
  slow = time_of(t, ref, &o);
  printf("%-8s %-16s %10.2f us %8.1f %s %5.2f of %s %8.1f x ref\n", k->isa, t->name, fast * 1e6,
         (o.flops > 0 ? o.flops : bytes) / fast * 1e-9, o.flops > 0 ? "GFLOP/s" : "GB/s   ",
         (o.flops > 0 ? o.flops : bytes) / fast / peak, o.flops > 0 ? "peak  " : "memory", slow / fast);
  free_buffers();
}

int main(int argc, char **argv) {
  static const char *const isas[] = {"avx2", "avx512", "neon"};
  enum { ISAS = sizeof isas / sizeof *isas };
  const char *only_isa = NULL, *only_kernel = NULL;
  unsigned long long seed = (unsigned long long)time(NULL);
  long rounds = 400, seeds = 1;
  static kernel_test tests[MAX_TESTS];
  agf_kernels ref, table[ISAS];
  double bandwidth = 0;
  int count, i, j, before, t, timed = 0, ran = 0;
  for (i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--bench"))
      timed = 1;
    else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
      seed = strtoull(argv[++i], NULL, 0);
    else if (i + 1 < argc && !strcmp(argv[i], "--seeds"))
      seeds = strtol(argv[++i], NULL, 0);
    else if (i + 1 < argc && !strcmp(argv[i], "--rounds"))
      rounds = strtol(argv[++i], NULL, 0);
    else if (i + 1 < argc && !strcmp(argv[i], "--isa"))
      only_isa = argv[++i];
    else if (i + 1 < argc && !strcmp(argv[i], "--kernel"))
      only_kernel = argv[++i];
    else {
      fprintf(stderr, "usage: %s [--seed N] [--seeds N] [--rounds N] [--isa NAME] [--kernel NAME] [--bench]\n", argv[0]);
      return 2;
    }
  }
  if (seeds < 1 || rounds < 1) {
    fprintf(stderr, "%s: --seeds and --rounds are at least 1\n", argv[0]);
    return 2;
  }
  agf_kernels_choose(&ref, "ref");
  if (!timed) printf("seed %llu, seeds %ld, rounds %ld\n", seed, seeds, rounds);
  for (i = 0; i < ISAS; i++) {
    table[i] = ref;
    if (only_isa && strcmp(only_isa, isas[i])) continue;
    if (!agf_kernels_choose(&table[i], isas[i])) {
      if (!timed) printf("SKIP %s: this machine does not have it\n", isas[i]), tests_skipped++;
      continue;
    }
    count = tests_of(&table[i], tests);
    if (timed) {
      bandwidth = bandwidth_of(&table[i]);
      printf("%-8s peak %.1f GFLOP/s, memory %.1f GB/s\n", isas[i], peak_of(isas[i]) * 1e-9, bandwidth * 1e-9);
    }
    for (t = 0; t < count; t++) {
      any_fn *f = entry(&table[i], tests[t].entry);
      unsigned long long first = seed;
      long r, left;
      int failed = 0;
      if (!f || f == entry(&ref, tests[t].entry) || (only_kernel && strcmp(only_kernel, tests[t].name))) continue;
      for (before = 0, j = 0; j < i; j++) before |= f == entry(&table[j], tests[t].entry); /* tested already */
      if (before) continue;
      ran++;
      if (timed) {
        bench(&tests[t], &ref, &table[i], bandwidth);
        continue;
      }
      for (left = seeds; left > 0 && !failed; left--, first += !failed)
        for (r = 0; r < rounds && !failed; r++) failed = round_of(&tests[t], &ref, &table[i], first * 1000003 + (uint64_t)r + 1);
      CHECK(!failed, "%s.%s: replay with --seed %llu --isa %s --kernel %s", isas[i], tests[t].name, first, isas[i], tests[t].name);
    }
  }
  if (!ran && !tests_skipped) CHECK(0, "nothing ran: no kernel or instruction set of that name");
  if (timed) return 0;
  return tests_end();
}
