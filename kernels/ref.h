/* Every kernel in portable C: the definition of the bits, and what runs where no faster one exists. kernels.h says what each
 * computes; here is how, in the fewest words. */
#ifndef AGF_KERNELS_REF_H
#define AGF_KERNELS_REF_H

/* ---- Numbers that every instruction set must reproduce ---- */

static inline uint32_t agf_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
static inline float agf_from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

#include "wasm.h"

/* Fused multiply-add, rounded once. Where the target has the instruction the compiler's builtin is it; elsewhere libm's is slow
 * and in places wrong, so: the product of two floats is exact in double, and the double sum rounds to the right float unless its
 * lowest 29 bits, those a float drops, are a tie or the result is subnormal. There the sum is first rounded to odd, which keeps on
 * which side of the tie the exact value lies (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008). */
static inline float agf_fmaf(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#elif defined(AGF_FMA_RELAXED)
  return agf_fma1(a, b, c);
#else
  double p = (double)a * b, s = p + c;
  uint64_t u;
  memcpy(&u, &s, 8);
  if ((u & 0x1fffffff) == 0x10000000 || (fabs(s) < 0x1p-125 && s != 0)) {
    double t = s - p, e = (p - (s - t)) + (c - t); /* TwoSum: s + e is exact */
    if (e != 0 && e - e == 0 && !(u & 1)) {
      u += (e > 0) == (s > 0) ? 1 : (uint64_t)-1;
      memcpy(&s, &u, 8);
    }
  }
  return (float)s;
#endif
}

/* For texts that hold many of them. */
#if defined(__GNUC__)
__attribute__((noinline))
#endif
static float
agf_fmaf_call(float a, float b, float c) {
  return agf_fmaf(a, b, c);
}

/* acc[l] = fmaf(x, w[l], acc[l]), of magnitudes with |w[l]|, for l < n, a multiple of 4. */
static inline void agf_fma_lanes(float *acc, float x, const float *w, int n, int magnitude) {
  int l;
#if defined(AGF_FMA4)
  const v128_t xs = wasm_f32x4_splat(x);
  for (l = 0; l < n; l += 4) {
    v128_t v = wasm_v128_load(w + l);
    wasm_v128_store(acc + l, agf_fma4(xs, magnitude ? wasm_f32x4_abs(v) : v, wasm_v128_load(acc + l)));
  }
#else
  if (magnitude)
    for (l = 0; l < n; l++) acc[l] = agf_fmaf(x, fabsf(w[l]), acc[l]);
  else
    for (l = 0; l < n; l++) acc[l] = agf_fmaf(x, w[l], acc[l]);
#endif
}

/* sdiv of agf-spec: 0 where b is 0, else a / (b + 1e-9), with 1e-9 itself where that sum is 0. */
AGF_INLINE float agf_divisor(float b) {
  float d = b + 1e-9f;
  return d == 0 ? 1e-9f : d;
}
AGF_INLINE float agf_sdiv(float a, float b) { return b == 0 ? 0.0f : a / agf_divisor(b); }

/* 2^floor(n / 2), and with `rest` 2^(n - floor(n / 2)), for t = 1.5 * 2^23 + n. */
static inline float agf_power(float t, int rest) {
  uint32_t k = agf_bits(t) - 0x4b400000u;        /* n as a two's complement integer */
  uint32_t h = (k >> 1) | (k & 0x80000000u);     /* floor(n / 2) */
  return agf_from_bits(((rest ? k - h : h) + 127u) << 23);
}

/* e^x: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor's polynomial of degree 7 in r (error below 2^-27), times 2^n in two halves so that
 * subnormals and the overflow to infinity come out. 12582912 = 1.5 * 2^23 rounds to an integer when added. Passes NaN. */
static inline float agf_exp(float x) {
  float t, n, r, p;
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  t = agf_fmaf_call(x, 1.44269502f, 12582912.0f);
  n = t - 12582912.0f;
  r = agf_fmaf_call(n, -0.693145752f, x);
  r = agf_fmaf_call(n, -1.42860677e-6f, r);
  p = agf_fmaf_call(r, 1.98412701e-4f, 1.38888892e-3f);
  p = agf_fmaf_call(p, r, 8.33333377e-3f);
  p = agf_fmaf_call(p, r, 4.16666679e-2f);
  p = agf_fmaf_call(p, r, 0.166666672f);
  p = agf_fmaf_call(p, r, 0.5f);
  p = agf_fmaf_call(p, r, 1.0f);
  p = agf_fmaf_call(p, r, 1.0f);
  p *= agf_power(t, 0);
  return p * agf_power(t, 1);
}

static inline float agf_sigmoid(float x) { return 1.0f / (1.0f + agf_exp(-x)); }

AGF_INLINE float agf_relu(float x) { return x <= 0 ? 0.0f : x; }

static inline int agf_finite(float x) { return (agf_bits(x) & 0x7f800000u) != 0x7f800000u; }

static inline float agf_tree16(const float *v) {
  float t[AGF_CB];
  int l, step;
  memcpy(t, v, sizeof t);
  for (step = 8; step; step /= 2)
    for (l = 0; l < step; l++) t[l] += t[l + step];
  return t[0];
}

static inline double agf_tree16_double(const double *v) {
  double t[AGF_CB];
  int l, step;
  memcpy(t, v, sizeof t);
  for (step = 8; step; step /= 2)
    for (l = 0; l < step; l++) t[l] += t[l + step];
  return t[0];
}

AGF_INLINE float agf_half(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
  if (e == 31) return agf_from_bits(sign | 0x7f800000u | m << 13);
  if (e) return agf_from_bits(sign | (e + 112) << 23 | m << 13);
  return agf_from_bits(sign | agf_bits((float)m * 0x1p-24f));
}

/* Where vector kernels take their place, these are left for processors that lack them. */
#if !defined(AGF_NO_SIMD) && (defined(__x86_64__) || defined(__aarch64__))
AGF_OPTIMIZE("Os", AGF_FEWEST_PASSES)
#endif

/* ---- Convolutions ---- */

static inline void agf_conv_row__ref(const agf_conv_row *r, agf_rhs kind, int outputs) {
  const agf_rhs_form f = agf_rhs_get(kind);
  int b, p, t, i, j;
  for (p = 0; r->fresh && p < r->w_out; p++)
    for (j = 0; j < f.n; j++) memset(r->acc + p * r->ap + j * r->ar, 0, (size_t)outputs * sizeof(float));
  for (b = 0; b < r->blocks; b++)
    for (p = 0; p < r->w_in; p++) {
      const float *x = r->x + b * r->xb + p * r->xp;
      unsigned mask = r->mask[b * r->mb + p];
      for (t = 0; mask && t < r->kw; t++) {
        int o = p * r->up + r->pad - t * r->dilation;
        if (o < 0 || o % r->down || o / r->down >= r->w_out) continue;
        for (i = 0; i < AGF_CB; i++) {
          const float *w = r->w + b * r->wb + (i * r->kw + t) * AGF_OCG;
          if (!(mask >> i & 1)) continue;
          for (j = 0; j < f.n; j++) {
            float v = x[16 * f.in[j] + i], *acc = r->acc + o / r->down * r->ap + j * r->ar;
            if (f.abs_x[j]) v = fabsf(v);
            agf_fma_lanes(acc, v, w, outputs, f.abs_w[j]);
          }
        }
      }
    }
}

static inline void agf_dense_row__ref(const agf_dense_row *r, int magnitude) {
  int o, b, k, t, i;
  for (o = 0; o < r->n; o++) {
    if (r->fresh) memset(r->acc + o * r->ap, 0, (size_t)r->outputs * sizeof(float));
    for (b = 0; b < r->blocks; b++)
      for (k = 0; k < r->kh; k++)
        for (t = 0; t < r->kw; t++)
          for (i = 0; i < r->lanes; i++) {
            const float *w = r->w + b * r->wb + k * r->wr + (i * r->kw + t) * AGF_OCG;
            float x = r->x[b * r->xb + k * r->xr + o * r->xo + t * r->xt + i], *acc = r->acc + o * r->ap;
            agf_fma_lanes(acc, magnitude ? fabsf(x) : x, w, r->outputs, magnitude);
          }
  }
}

static void agf_dense_w__ref(const agf_dense_row *r) { agf_dense_row__ref(r, 0); }
static void agf_dense_d__ref(const agf_dense_row *r) { agf_dense_row__ref(r, 1); }

/* Where row or pixel o of the output meets the input through tap k, or -1. */
static inline int agf_meets(int o, int k, int down, int up, int dilation, int pad, int in) {
  int p = o * down - pad + k * dilation;
  return p < 0 || p % up || p / up >= in ? -1 : p / up;
}

static inline void agf_gconv_row__ref(const agf_gconv_row *r, agf_rhs kind) {
  const agf_rhs_form f = agf_rhs_get(kind);
  int o, b, k, t, i, j, l;
  for (o = 0; o < r->w_out; o++) {
    float *acc = r->acc + (ptrdiff_t)o * f.n * AGF_CB;
    memset(acc, 0, sizeof(float) * AGF_CB * (size_t)f.n);
    for (b = 0; b * AGF_CB < r->lanes_in; b++) {
      int lanes = r->lanes_in - b * AGF_CB < AGF_CB ? r->lanes_in - b * AGF_CB : AGF_CB;
      for (k = 0; k < r->kh; k++) {
        int h = agf_meets(r->row, k, r->down_h, r->up_h, r->dilation_h, r->pad_h, r->h_in);
        for (t = 0; h >= 0 && t < r->kw; t++) {
          int p = agf_meets(o, t, r->down, r->up, r->dilation, r->pad, r->w_in);
          for (i = 0; p >= 0 && i < lanes; i++) {
            const float *w = r->w + (((ptrdiff_t)b * r->kh * AGF_CB + k * lanes) * r->kw + t * lanes + i) * AGF_CB;
            const int32_t *index = r->index + (b * AGF_CB + i) * AGF_CB;
            const float *x = r->x + h * r->xr + p * r->xp;
            for (j = 0; j < f.n; j++)
              for (l = 0; l < AGF_CB; l++) {
                float v = x[index[l] / AGF_CB * r->xb + 16 * f.in[j] + index[l] % AGF_CB];
                acc[j * AGF_CB + l] = agf_fmaf(f.abs_x[j] ? fabsf(v) : v, f.abs_w[j] ? fabsf(w[l]) : w[l], acc[j * AGF_CB + l]);
              }
          }
        }
      }
    }
  }
}

#define AGF_REF_CONV(kind, ...)                                                                                          \
  static void agf_conv_row_##kind##_32__ref(const agf_conv_row *r) { agf_conv_row__ref(r, AGF_RHS_##kind, 32); }    \
  static void agf_conv_row_##kind##_16__ref(const agf_conv_row *r) { agf_conv_row__ref(r, AGF_RHS_##kind, 16); }    \
  static void agf_gconv_row_##kind##__ref(const agf_gconv_row *r) { agf_gconv_row__ref(r, AGF_RHS_##kind); }
AGF_RHS_LIST(AGF_REF_CONV)
#undef AGF_REF_CONV

/* A weight as the box rule takes it: 0 w, 1 w+, 2 w-. */
AGF_INLINE float agf_filtered(float w, int filter) {
  return filter == 0 ? w : filter == 1 ? (w > 0 ? w : 0.0f) : (w < 0 ? w : 0.0f);
}

static void agf_border__ref(const float *w, ptrdiff_t ws, int rows, int lanes, float value, int filter, float *acc) {
  int k, l;
  for (k = 0; k < rows; k++)
    for (l = 0; l < lanes; l++)
      acc[l] = agf_fmaf(value, filter < 0 ? fabsf(w[k * ws + l]) : agf_filtered(w[k * ws + l], filter), acc[l]);
}

static void agf_transpose__ref(const float *from, ptrdiff_t fs, int rows, float *to, ptrdiff_t ts) {
  int r, c;
  for (r = 0; r < rows; r++)
    for (c = 0; c < AGF_CB; c++) to[c * ts + r] = from[r * fs + c];
}

static void agf_widen__ref(const uint16_t *h, float *f, size_t n) {
  size_t i;
  for (i = 0; i < n; i++) f[i] = agf_half(h[i]);
}

/* Eight bytes a step, each through its own table (Kounavis and Berry, "slicing by 8"); the tables are made on the stack, as the
 * library has no writable globals. */
static uint32_t agf_crc32__ref(uint32_t crc, const unsigned char *p, size_t n) {
  uint32_t t[8][256];
  int i, j;
  for (i = 0; i < 256; i++) {
    uint32_t c = (uint32_t)i;
    for (j = 0; j < 8; j++) c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
    t[0][i] = c;
  }
  for (i = 0; i < 256; i++)
    for (j = 1; j < 8; j++) t[j][i] = t[j - 1][i] >> 8 ^ t[0][t[j - 1][i] & 255];
  crc = ~crc;
  for (; n >= 8; n -= 8, p += 8) {
    crc ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    crc = t[7][crc & 255] ^ t[6][crc >> 8 & 255] ^ t[5][crc >> 16 & 255] ^ t[4][crc >> 24] ^ t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^
          t[0][p[7]];
  }
  for (; n; n--, p++) crc = t[0][(crc ^ *p) & 255] ^ crc >> 8;
  return ~crc;
}

static int agf_finite_all__ref(const float *w, size_t n) {
  size_t i;
  int bad = 0;
  for (i = 0; i < n; i++) bad |= !agf_finite(w[i]);
  return !bad;
}

static int agf_finite_half__ref(const uint16_t *h, size_t n) {
  size_t i;
  int bad = 0;
  for (i = 0; i < n; i++) bad |= (h[i] & 0x7c00) == 0x7c00;
  return !bad;
}

static void agf_range__ref(const float *x, size_t n, float *lo, float *hi) {
  float l = *lo, h = *hi;
  size_t i;
  for (i = 0; i < n; i++) {
    l = x[i] < l ? x[i] : l;
    h = x[i] > h ? x[i] : h;
  }
  *lo = l + 0.0f;
  *hi = h + 0.0f;
}

static void agf_nonzeros__ref(const float *x, int n, uint16_t *mask) {
  int p, l;
  for (p = 0; p < n; p++, x += AGF_CB) {
    unsigned m = 0;
    for (l = 0; l < AGF_CB; l++) m |= (unsigned)(x[l] != 0) << l;
    mask[p] = (uint16_t)m;
  }
}

/* ---- Epilogues ---- */

static inline float agf_act_apply(float v, agf_act act) {
  if (act == AGF_ACT_NONE) return v;
  v = v > 0 ? v : 0.0f;
  return act == AGF_ACT_RELU6 && v > 6.0f ? 6.0f : v;
}

static int agf_store_y__ref(const float *acc, ptrdiff_t as, int n, const float *scale, const float *bias, agf_act act, float *y,
                            uint16_t *mask) {
  int p, l, bad = 0;
  for (p = 0; p < n; p++, acc += as, y += AGF_CB) {
    unsigned m = 0;
    for (l = 0; l < AGF_CB; l++) {
      float v = scale ? agf_fmaf(acc[l], scale[l], bias[l]) : acc[l] + bias[l];
      bad |= !agf_finite(v);
      y[l] = agf_act_apply(v, act);
      m |= (unsigned)(y[l] != 0) << l;
    }
    if (mask) mask[p] = (uint16_t)m;
  }
  return bad;
}

static void agf_store__ref(const float *acc, ptrdiff_t as, int n, float *y) {
  int p, l;
  for (p = 0; p < n; p++, acc += as, y += AGF_CB)
    for (l = 0; l < AGF_CB; l++) y[l] = acc[l] + 0.0f;
}

static void agf_store_c__ref(const float *acc, ptrdiff_t as, int n, const float *x, float *c) {
  int p, l;
  for (p = 0; p < n; p++, acc += as, x += AGF_CB, c += AGF_CB)
    for (l = 0; l < AGF_CB; l++) c[l] = fabsf(x[l]) * acc[l] + 0.0f;
}

static int agf_store_z__ref(const float *acc, ptrdiff_t as, int n, const float *lo, const float *hi, const uint8_t *column_class,
                            ptrdiff_t stride, float limit, float *z) {
  int p, l, near = 0;
  for (p = 0; p < n; p++, acc += as, z += AGF_CB) {
    const float *a = lo + column_class[p] * stride, *b = hi + column_class[p] * stride;
    for (l = 0; l < AGF_CB; l++) {
      z[l] = ((acc[l] - a[l]) - b[l]) + 0.0f;
      near |= z[l] != 0 && fabsf(z[l]) <= limit * (fabsf(a[l]) + fabsf(b[l]));
    }
  }
  return near;
}

static void agf_store_box__ref(const float *t0, const float *t1, const float *t2, ptrdiff_t as, int n, int lanes, const float *x,
                               float lo, float hi, float *out) {
  int p, l;
  for (p = 0; p < n; p++, t0 += as, t1 += as, t2 += as, x += AGF_CB, out += AGF_CB)
    for (l = 0; l < AGF_CB; l++) {
      float a = x[l] * t0[l], b = lo * t1[l], c = hi * t2[l];
      out[l] = l < lanes ? (a - b) - c + 0.0f : 0.0f;
    }
}

/* ---- Rules, element by element ---- */

static inline float agf_act_cam(float cam, float y) {
  float t = y * cam;
  return y > 0 && cam != 0 ? t / (y + 1e-9f) : 0.0f;
}

static inline float agf_act_g(float g, float y, agf_act act) {
  return !(y > 0) || (act == AGF_ACT_RELU6 && !(y < 6.0f)) ? 0.0f : g;
}

static inline float agf_shifted(float c, float mean) { return agf_bits(c) == 0x80000000u ? 0.0f : c - mean; }

static int agf_gate__ref(const agf_gate_row *r, int n) {
  int p, l, k = (r->quotients ? r->quotients : 1) + (r->g != NULL), outside = 0;
  for (p = 0; p < n; p++) {
    unsigned m = 0, mc = 0;
    for (l = 0; l < AGF_CB; l++) {
      float *o = r->rhs + (ptrdiff_t)p * k * AGF_CB + l;
      float cam = r->cam[p * AGF_CB + l], g = r->g ? r->g[p * AGF_CB + l] : 0.0f;
      if (r->mean) cam = agf_shifted(cam, *r->mean);
      if (r->act != AGF_ACT_NONE) {
        float y = r->y[p * AGF_CB + l];
        cam = agf_act_cam(cam, y);
        g = agf_act_g(g, y, r->act);
      }
      if (r->scale) g *= r->scale[l];
      outside |= g != 0 && cam == 0;
      mc |= (unsigned)(cam != 0) << l;
      if (r->quotients) {
        float s = agf_sdiv(cam, r->d[p * AGF_CB + l]);
        if (r->g) m |= (unsigned)(g != 0) << l, *o = g, o += AGF_CB;
        *o = s;
        m |= (unsigned)(s != 0) << l;
        if (r->quotients == 2) {
          s = agf_sdiv(cam, r->b[r->column_class[p] * r->b_stride + l]);
          o[AGF_CB] = s;
          m |= (unsigned)(s != 0) << l;
        }
      } else {
        *o = cam;
        m |= (unsigned)(cam != 0) << l;
        if (r->g) o[AGF_CB] = g, m |= (unsigned)(g != 0) << l;
      }
    }
    if (r->mask) r->mask[p] = (uint16_t)m;
    if (r->cam_mask) r->cam_mask[p] = (uint16_t)mc;
  }
  return outside;
}

static void agf_act_back__ref(float *cam, float *g, const float *y, const float *scale, agf_act act, int n) {
  int i;
  for (i = 0; i < n * AGF_CB; i++) {
    if (act != AGF_ACT_NONE) {
      cam[i] = agf_act_cam(cam[i], y[i]);
      if (g) g[i] = agf_act_g(g[i], y[i], act);
    }
    if (g && scale) g[i] *= scale[i % AGF_CB];
  }
}

static void agf_merge_first__ref(float *cam, const float *x, int n) {
  int i;
  for (i = 0; i < n * AGF_CB; i++) cam[i] = agf_sdiv(cam[i], x[i]);
}

static void agf_merge_next__ref(float *s, const float *cam, const float *x, float *g, const float *h, int n) {
  int i;
  for (i = 0; i < n * AGF_CB; i++) {
    s[i] += agf_sdiv(cam[i], x[i]);
    if (h) g[i] += h[i];
  }
}

static void agf_merge_last__ref(float *s, const float *x, int n) {
  int i;
  for (i = 0; i < n * AGF_CB; i++) s[i] = x[i] * s[i];
}

static int agf_add__ref(const float *x0, const float *x1, agf_act act, int n, float *y, uint16_t *mask) {
  int p, l, bad = 0;
  for (p = 0; p < n; p++) {
    unsigned m = 0;
    for (l = 0; l < AGF_CB; l++) {
      int i = p * AGF_CB + l;
      float v = x0[i] + x1[i];
      bad |= !agf_finite(v);
      y[i] = agf_act_apply(v, act);
      m |= (unsigned)(y[i] != 0) << l;
    }
    if (mask) mask[p] = (uint16_t)m;
  }
  return bad;
}

static void agf_add_back__ref(const float *cam, const float *y, const float *x, int n, float *out) {
  int i;
  for (i = 0; i < n * AGF_CB; i++) out[i] = x[i] * agf_sdiv(cam[i], y[i]);
}

/* ---- Pools ---- */

static void agf_pool__ref(const agf_pool_row *r, float *y, uint16_t *mask) {
  int p, l, h, w;
  for (p = 0; p < r->n; p++, y += AGF_CB) {
    unsigned m = 0;
    for (l = 0; l < AGF_CB; l++) {
      float v = r->div ? 0.0f : r->x[r->h0 * r->xr + r->w0[p] * AGF_CB + l];
      for (h = r->h0; h < r->h1; h += r->dh)
        for (w = r->w0[p]; w < r->w1[p]; w += r->dw) {
          float x = r->x[h * r->xr + w * AGF_CB + l];
          if (r->div)
            v += r->magnitudes ? fabsf(x) : x;
          else if (x > v)
            v = x;
        }
      y[l] = (r->div ? v / r->div[p] : v) + 0.0f;
      m |= (unsigned)(y[l] != 0) << l;
    }
    if (mask) mask[p] = (uint16_t)m;
  }
}

static void agf_pool_back__ref(const agf_pool_row *r, const float *y, const float *cam, const float *g, float *t, float *tg) {
  int p, l, h, w;
  for (p = 0; p < r->n; p++)
    for (l = 0; l < AGF_CB; l++) {
      int i = p * AGF_CB + l, done = 0;
      float s = cam ? agf_sdiv(cam[i], y[i]) : 0.0f, q = g ? g[i] : 0.0f;
      if (r->div) s /= r->div[p], q /= r->div[p];
      for (h = r->h0; h < r->h1 && !done; h += r->dh)
        for (w = r->w0[p]; w < r->w1[p] && !done; w += r->dw) {
          ptrdiff_t at = h * r->tr + w * AGF_CB + l;
          if (!r->div && r->x[h * r->xr + w * AGF_CB + l] != y[i]) continue;
          if (cam) t[at] += s;
          if (g) tg[at] += q;
          done = !r->div;
        }
    }
}

static void agf_mul__ref(float *t, const float *x, int n) {
  int i;
  for (i = 0; i < n * AGF_CB; i++) t[i] = x[i] * t[i];
}

/* ---- The factorisation ---- */

static void agf_pixel_sums__ref(const float *c, ptrdiff_t cbs, const float *x, ptrdiff_t xbs, const float *g, ptrdiff_t gbs,
                                int blocks, int n, float *phi, float *xg) {
  int p, b, l;
  for (p = 0; p < n; p++) {
    float s[AGF_CB] = {0}, m[AGF_CB] = {0};
    for (b = 0; b < blocks; b++)
      for (l = 0; l < AGF_CB; l++) {
        s[l] += c[b * cbs + p * AGF_CB + l];
        if (g) m[l] = agf_fmaf(x[b * xbs + p * AGF_CB + l], g[b * gbs + p * AGF_CB + l], m[l]);
      }
    phi[p] = agf_tree16(s);
    if (g) xg[p] = agf_tree16(m);
  }
}

static void agf_row_max__ref(const float *x, int n, float *lanes) {
  int p, l;
  for (p = 0; p < n; p++)
    for (l = 0; l < AGF_CB; l++)
      if (x[p * AGF_CB + l] > lanes[l]) lanes[l] = x[p * AGF_CB + l];
}

static void agf_fx_sums__ref(const float *x, float max, const float *phi, int n, double *pos, double *neg, float *kept) {
  int p, l;
  for (p = 0; p < n; p++) {
    double *to = phi[p] > 0 ? pos : phi[p] < 0 ? neg : NULL;
    for (l = 0; (to || kept) && l < AGF_CB; l++) {
      float q = agf_sigmoid(10.0f * agf_sdiv(x[p * AGF_CB + l], max));
      if (kept) kept[p * AGF_CB + l] = q;
      if (to) to[l] += (double)q;
    }
  }
}

static void agf_fx_dots__ref(const float *x, ptrdiff_t xbs, int kept, float max, const float *a, const float *b, int blocks, int n,
                             float *out) {
  int p, k, l;
  for (p = 0; p < n; p++) {
    float wa[AGF_CB] = {0}, wb[AGF_CB] = {0};
    for (k = 0; k < blocks; k++)
      for (l = 0; l < AGF_CB; l++) {
        float v = x[k * xbs + p * AGF_CB + l], q = kept ? v : agf_sigmoid(10.0f * agf_sdiv(v, max));
        wa[l] = agf_fmaf(q, a[k * AGF_CB + l], wa[l]);
        wb[l] = agf_fmaf(q, b[k * AGF_CB + l], wb[l]);
      }
    out[p] = agf_relu(agf_relu(agf_tree16(wa)) - agf_relu(agf_tree16(wb)));
  }
}

static void agf_weighted_mean__ref(const float *x, ptrdiff_t xbs, const float *a, int blocks, int n, float channels, float *out) {
  int p, k, l;
  for (p = 0; p < n; p++) {
    float s[AGF_CB] = {0};
    for (k = 0; k < blocks; k++)
      for (l = 0; l < AGF_CB; l++) s[l] = agf_fmaf(x[k * xbs + p * AGF_CB + l], a[k * AGF_CB + l], s[l]);
    out[p] = agf_relu(agf_tree16(s) / channels);
  }
}

static void agf_lane_sums__ref(const float *x, int n, double *sum) {
  int p, l;
  for (p = 0; p < n; p++)
    for (l = 0; l < AGF_CB; l++) sum[l] += (double)x[p * AGF_CB + l];
}

static long agf_combine__ref(float *c, const float *a, const float *fxm, const float *fdx, int no_reg, int a_off, int n,
                             double *sum) {
  int p, l;
  long count = 0;
  for (p = 0; p < n; p++)
    for (l = 0; l < AGF_CB; l++) {
      int i = p * AGF_CB + l;
      float r = 0.0f, to = -0.0f;
      if (c[i] != 0) {
        r = (no_reg ? fxm[p] : fxm[p] / (1.0f + agf_exp(-c[i]))) + fdx[p];
        if (!a_off) r += a[i];
        to = c[i] + r;
        count++;
      }
      c[i] = to;
      sum[l] += (double)r;
    }
  return count;
}

static void agf_shift__ref(float *c, float mean, int n) {
  int i;
  for (i = 0; i < n * AGF_CB; i++) c[i] = agf_shifted(c[i], mean);
}

/* ---- Linear layers ---- */

static void agf_linear__ref(const float *x, int rows, const float *w, ptrdiff_t ld, int columns, float *y, float *d) {
  int k, o;
  for (k = 0; k < rows; k++, w += ld) {
    if (x[k] == 0) continue;
    for (o = 0; o < columns; o++) {
      y[o] = agf_fmaf(x[k], w[o], y[o]);
      if (d) d[o] = agf_fmaf(fabsf(x[k]), fabsf(w[o]), d[o]);
    }
  }
}

static inline float agf_dot32(const float *w, const float *v, int columns, int magnitude) {
  float lane[2 * AGF_CB] = {0};
  int k, l;
  for (k = 0; k < columns; k += 2 * AGF_CB)
    for (l = 0; l < 2 * AGF_CB; l++) lane[l] = agf_fmaf(magnitude ? fabsf(w[k + l]) : w[k + l], v[k + l], lane[l]);
  for (l = 0; l < AGF_CB; l++) lane[l] += lane[l + AGF_CB];
  return agf_tree16(lane) + 0.0f;
}

static void agf_linear_back__ref(const float *x, int all, int rows, const float *w, ptrdiff_t ld, int columns, const float *g,
                                 const float *s, float *tg, float *ts) {
  int k;
  for (k = 0; k < rows; k++, w += ld) {
    int skip = !all && x[k] == 0;
    if (tg) tg[k] = skip ? 0.0f : agf_dot32(w, g, columns, 0);
    if (ts) ts[k] = skip ? 0.0f : agf_dot32(w, s, columns, 1);
  }
}

/* ---- What has one text for all ---- */

#define AGF_ISA ref
#define AGF_ISA_REF
#define AGF_TARGET
#include "generic.inc"

static void agf_kernels_ref(agf_kernels *k) {
  int i;
  memset(k, 0, sizeof *k);
  k->isa = "ref";
  agf_generic_fill__ref(k);
#define AGF_REF_ENTRY(kind, ...)                                                    \
  for (i = 0; i < AGF_SHAPES; i++) {                                           \
    k->conv[i][AGF_RHS_##kind][0].row = agf_conv_row_##kind##_32__ref;         \
    k->conv[i][AGF_RHS_##kind][0].outputs = 32;                                \
    k->conv[i][AGF_RHS_##kind][1].row = agf_conv_row_##kind##_16__ref;         \
    k->conv[i][AGF_RHS_##kind][1].outputs = 16;                                \
  }                                                                            \
  k->gconv[AGF_RHS_##kind] = agf_gconv_row_##kind##__ref;
  AGF_RHS_LIST(AGF_REF_ENTRY)
#undef AGF_REF_ENTRY
  k->dense_w = agf_dense_w__ref;
  k->dense_d = agf_dense_d__ref;
  memset(k->dense_from, 80, sizeof k->dense_from);
  k->border = agf_border__ref;
  k->transpose = agf_transpose__ref;
  k->widen = agf_widen__ref;
  k->crc32 = agf_crc32__ref;
  k->finite = agf_finite_all__ref;
  k->finite_half = agf_finite_half__ref;
  k->range = agf_range__ref;
  k->nonzeros = agf_nonzeros__ref;
  k->store_y = agf_store_y__ref;
  k->store = agf_store__ref;
  k->store_c = agf_store_c__ref;
  k->store_z = agf_store_z__ref;
  k->store_box = agf_store_box__ref;
  k->gate = agf_gate__ref;
  k->act_back = agf_act_back__ref;
  k->merge_first = agf_merge_first__ref;
  k->merge_next = agf_merge_next__ref;
  k->merge_last = agf_merge_last__ref;
  k->add = agf_add__ref;
  k->add_back = agf_add_back__ref;
  k->pool = agf_pool__ref;
  k->pool_back = agf_pool_back__ref;
  k->mul = agf_mul__ref;
  k->pixel_sums = agf_pixel_sums__ref;
  k->row_max = agf_row_max__ref;
  k->fx_sums = agf_fx_sums__ref;
  k->fx_dots = agf_fx_dots__ref;
  k->weighted_mean = agf_weighted_mean__ref;
  k->lane_sums = agf_lane_sums__ref;
  k->combine = agf_combine__ref;
  k->shift = agf_shift__ref;
  k->linear = agf_linear__ref;
  k->linear_back = agf_linear_back__ref;
}

#if !defined(AGF_NO_SIMD) && (defined(__x86_64__) || defined(__aarch64__))
AGF_OPTIMIZE_END
#endif
#endif /* AGF_KERNELS_REF_H */
