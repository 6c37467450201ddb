/* aarch64: NEON. Every ARMv8-A processor has it, so there is nothing to detect. Convolutions and what belongs to them are here and
 * in conv_neon.inc, the other kernels in elementwise.inc. armv7 runs the portable kernels: its NEON flushes subnormals. */
#ifndef AGF_KERNELS_ARM_H
#define AGF_KERNELS_ARM_H

#if defined(__aarch64__) && defined(__ARM_NEON) && defined(__GNUC__) && !defined(AGF_NO_SIMD)
#define AGF_KERNELS_ARM

#include <arm_neon.h>

#define AGF_ISA neon
#define AGF_ISA_NEON
#define AGF_TARGET
#include "elementwise.inc"

#define AGF_ISA neon
#define AGF_ISA_NEON
#define AGF_TARGET
#include "generic.inc"

/* The inner loops are written one instruction at a time: from intrinsics, gcc 12 and clang 14 hoist the loads of W and then
 * spill, up to 20 stack accesses for each nonzero. volatile keeps the order as written. Offsets are literals in floats. Vectors
 * have names, since compilers keep arrays of them in memory. */
#define AGF_LDP(u, v, from, at) \
  __asm__ volatile("ldp %q0, %q1, [%2, %3]" : "=w"(u), "=w"(v) : "r"(from), "i"(4 * (at)))
#define AGF_LDR(v, from) __asm__ volatile("ldr %q0, %1" : "=w"(v) : "m"(*(const float(*)[4])(const void *)(from)))
/* One element: an `ldr s` before multiplications by element is cheaper than a dup or an ld1r. */
#define AGF_LDS(s, from) __asm__ volatile("ldr %s0, %1" : "=w"(s) : "m"(*(from)))
#define AGF_FABS(s) __asm__ volatile("fabs %s0, %s0" : "+w"(s))
#define AGF_FABS4(v) __asm__ volatile("fabs %0.4s, %0.4s" : "+w"(v))
/* acc += w * s[lane], fused */
#define AGF_FMLA(acc, w, s, lane) __asm__ volatile("fmla %0.4s, %1.4s, %2.s[%3]" : "+w"(acc) : "w"(w), "w"(s), "i"(lane))
/* AGF_LDP names no memory, so that it costs no registers: this makes the caller's stores precede it. */
#define AGF_LOADS_BEGIN() __asm__ volatile("" : : : "memory")
#define AGF_NEON_FN static inline __attribute__((always_inline))

/* 16 outputs of a pixel. */
typedef struct agf_v16 {
  float32x4_t a, b, c, d;
} agf_v16;

/* 32 outputs of a pixel, or 16 of two right-hand sides. */
typedef struct agf_v32 {
  agf_v16 low, high;
} agf_v32;

AGF_NEON_FN agf_v16 agf_load16__neon(const float *p) {
  agf_v16 v;
  v.a = vld1q_f32(p);
  v.b = vld1q_f32(p + 4);
  v.c = vld1q_f32(p + 8);
  v.d = vld1q_f32(p + 12);
  return v;
}

AGF_NEON_FN agf_v32 agf_load32__neon(const float *p) {
  agf_v32 v;
  v.low = agf_load16__neon(p);
  v.high = agf_load16__neon(p + 16);
  return v;
}

/* Sides ar floats apart. */
AGF_NEON_FN agf_v32 agf_load16x2__neon(const float *p, ptrdiff_t ar) {
  agf_v32 v;
  v.low = agf_load16__neon(p);
  v.high = agf_load16__neon(p + ar);
  return v;
}

AGF_NEON_FN void agf_store16__neon(float *p, agf_v16 v) {
  vst1q_f32(p, v.a);
  vst1q_f32(p + 4, v.b);
  vst1q_f32(p + 8, v.c);
  vst1q_f32(p + 12, v.d);
}

AGF_NEON_FN void agf_store32__neon(float *p, agf_v32 v) {
  agf_store16__neon(p, v.low);
  agf_store16__neon(p + 16, v.high);
}

AGF_NEON_FN void agf_store16x2__neon(float *p, ptrdiff_t ar, agf_v32 v) {
  agf_store16__neon(p, v.low);
  agf_store16__neon(p + ar, v.high);
}

AGF_NEON_FN agf_v16 agf_abs16__neon(agf_v16 v) {
  v.a = vabsq_f32(v.a);
  v.b = vabsq_f32(v.b);
  v.c = vabsq_f32(v.c);
  v.d = vabsq_f32(v.d);
  return v;
}

/* x * w + y, fused */
AGF_NEON_FN agf_v16 agf_fma16__neon(agf_v16 x, agf_v16 w, agf_v16 y) {
  y.a = vfmaq_f32(y.a, x.a, w.a);
  y.b = vfmaq_f32(y.b, x.b, w.b);
  y.c = vfmaq_f32(y.c, x.c, w.c);
  y.d = vfmaq_f32(y.d, x.d, w.d);
  return y;
}

/* y += w[at .. at + 16) * s[0]; the second loads run ahead of the first multiplications. */
#define AGF_TAP16(y, w, at, s)       \
  do {                               \
    float32x4_t w0, w1, w2, w3;      \
    AGF_LDP(w0, w1, w, at);          \
    AGF_LDP(w2, w3, w, (at) + 8);    \
    AGF_FMLA((y).a, w0, s, 0);       \
    AGF_FMLA((y).b, w1, s, 0);       \
    AGF_FMLA((y).c, w2, s, 0);       \
    AGF_FMLA((y).d, w3, s, 0);       \
  } while (0)
#define AGF_TAP32(y, w, at, s)             \
  do {                                     \
    AGF_TAP16((y).low, w, at, s);          \
    AGF_TAP16((y).high, w, (at) + 16, s);  \
  } while (0)
/* The same for two right-hand sides with one load of w: y += w * s[0], z += w * t[0]. */
#define AGF_TAP16_TWO(y, z, w, at, s, t) \
  do {                               \
    float32x4_t w0, w1, w2, w3;      \
    AGF_LDP(w0, w1, w, at);          \
    AGF_LDP(w2, w3, w, (at) + 8);    \
    AGF_FMLA((y).a, w0, s, 0);       \
    AGF_FMLA((y).b, w1, s, 0);       \
    AGF_FMLA((z).a, w0, t, 0);       \
    AGF_FMLA((z).b, w1, t, 0);       \
    AGF_FMLA((y).c, w2, s, 0);       \
    AGF_FMLA((y).d, w3, s, 0);       \
    AGF_FMLA((z).c, w2, t, 0);       \
    AGF_FMLA((z).d, w3, t, 0);       \
  } while (0)
#define AGF_TAP32_TWO(y, z, w, at, s, t)                        \
  do {                                                          \
    AGF_TAP16_TWO((y).low, (z).low, w, at, s, t);               \
    AGF_TAP16_TWO((y).high, (z).high, w, (at) + 16, s, t);      \
  } while (0)

/* One right-hand side, or two, of a row: from x with the panel w into y. */
typedef void agf_conv_side__neon(const agf_conv_row *r, const float *x, const float *w, float *y);

#define AGF_SIDES 2
#define AGF_OUTPUTS 16
#include "conv_neon.inc"
#define AGF_SIDES 1
#define AGF_OUTPUTS 32
#include "conv_neon.inc"
#define AGF_SIDES 1
#define AGF_OUTPUTS 16
#include "conv_neon.inc"

/* ---- Dense convolutions: six pixels and 16 outputs at a time (24 accumulators, six vectors of x, two of W) ---- */

#define AGF_DENSE_PIXEL(r, i, j, lane) \
  AGF_FMLA(y##r.i, u, x##r, lane);     \
  AGF_FMLA(y##r.j, v, x##r, lane)
#define AGF_DENSE_HALF(w, at, i, j, lane) \
  AGF_LDP(u, v, w, at);                   \
  if (magnitude) {                        \
    AGF_FABS4(u);                         \
    AGF_FABS4(v);                         \
  }                                       \
  AGF_DENSE_PIXEL(0, i, j, lane);         \
  AGF_DENSE_PIXEL(1, i, j, lane);         \
  AGF_DENSE_PIXEL(2, i, j, lane);         \
  AGF_DENSE_PIXEL(3, i, j, lane);         \
  AGF_DENSE_PIXEL(4, i, j, lane);         \
  AGF_DENSE_PIXEL(5, i, j, lane)
#define AGF_DENSE_LANE(w, lane)       \
  AGF_DENSE_HALF(w, 0, a, b, lane);   \
  AGF_DENSE_HALF(w, 8, c, d, lane)
#define AGF_SIX_ABS(ABS) \
  if (magnitude) {       \
    ABS(x0);             \
    ABS(x1);             \
    ABS(x2);             \
    ABS(x3);             \
    ABS(x4);             \
    ABS(x5);             \
  }
#define AGF_SIX_LOADS(LOAD) \
  LOAD(x0, x);              \
  LOAD(x1, x + xo);         \
  LOAD(x2, x + 2 * xo);     \
  LOAD(x3, x + 3 * xo);     \
  LOAD(x4, x + 4 * xo);     \
  LOAD(x5, x + 5 * xo)

/* Outputs [at, at + 16) of the six pixels from o on. */
AGF_NEON_FN void agf_dense_6x16__neon(const agf_dense_row *r, int o, int at, int magnitude) {
  const ptrdiff_t xo = r->xo, lane = (ptrdiff_t)r->kw * AGF_OCG;
  float *acc = r->acc + o * r->ap + at;
  const float zeros[AGF_CB] = {0}, *from = r->fresh ? zeros : acc;
  const ptrdiff_t ap = r->fresh ? 0 : r->ap;
  agf_v16 y0 = agf_load16__neon(from), y1 = agf_load16__neon(from + ap), y2 = agf_load16__neon(from + 2 * ap);
  agf_v16 y3 = agf_load16__neon(from + 3 * ap), y4 = agf_load16__neon(from + 4 * ap), y5 = agf_load16__neon(from + 5 * ap);
  int b, k, t, i;
  for (b = 0; b < r->blocks; b++)
    for (k = 0; k < r->kh; k++)
      for (t = 0; t < r->kw; t++) {
        const float *x = r->x + b * r->xb + k * r->xr + t * r->xt + o * xo;
        const float *w = r->w + b * r->wb + k * r->wr + t * AGF_OCG + at;
        float32x4_t x0, x1, x2, x3, x4, x5, u, v;
        for (i = 0; i + 4 <= r->lanes; i += 4, x += 4, w += lane) {
          AGF_SIX_LOADS(AGF_LDR);
          AGF_SIX_ABS(AGF_FABS4)
          AGF_DENSE_LANE(w, 0);
          w += lane;
          AGF_DENSE_LANE(w, 1);
          w += lane;
          AGF_DENSE_LANE(w, 2);
          w += lane;
          AGF_DENSE_LANE(w, 3);
        }
        for (; i < r->lanes; i++, x++, w += lane) {
          AGF_SIX_LOADS(AGF_LDS);
          AGF_SIX_ABS(AGF_FABS)
          AGF_DENSE_LANE(w, 0);
        }
      }
  agf_store16__neon(acc, y0);
  agf_store16__neon(acc + r->ap, y1);
  agf_store16__neon(acc + 2 * r->ap, y2);
  agf_store16__neon(acc + 3 * r->ap, y3);
  agf_store16__neon(acc + 4 * r->ap, y4);
  agf_store16__neon(acc + 5 * r->ap, y5);
}

/* All outputs of pixel o: what six do not divide. */
AGF_NEON_FN void agf_dense_1x32__neon(const agf_dense_row *r, int o, int magnitude) {
  const ptrdiff_t lane = (ptrdiff_t)r->kw * AGF_OCG;
  const float zeros[AGF_OCG] = {0};
  float *acc = r->acc + o * r->ap;
  agf_v32 y = agf_load32__neon(r->fresh || r->outputs < AGF_OCG ? zeros : acc);
  int b, k, t, i;
  if (!r->fresh) y.low = agf_load16__neon(acc);
  for (b = 0; b < r->blocks; b++)
    for (k = 0; k < r->kh; k++)
      for (t = 0; t < r->kw; t++) {
        const float *x = r->x + b * r->xb + k * r->xr + t * r->xt + o * r->xo;
        const float *w = r->w + b * r->wb + k * r->wr + t * AGF_OCG;
        for (i = 0; i < r->lanes; i++, x++, w += lane) {
          const float32x4_t s = vdupq_n_f32(magnitude ? fabsf(*x) : *x);
          const agf_v16 sx = {s, s, s, s};
          agf_v32 v = agf_load32__neon(w);
          if (magnitude) v.low = agf_abs16__neon(v.low), v.high = agf_abs16__neon(v.high);
          y.low = agf_fma16__neon(sx, v.low, y.low);
          y.high = agf_fma16__neon(sx, v.high, y.high);
        }
      }
  agf_store16__neon(acc, y.low);
  if (r->outputs == AGF_OCG) agf_store16__neon(acc + AGF_CB, y.high);
}

AGF_NEON_FN void agf_dense_row__neon(const agf_dense_row *r, int magnitude) {
  int o, at;
  AGF_LOADS_BEGIN();
  for (o = 0; o + 6 <= r->n; o += 6)
    for (at = 0; at < r->outputs; at += AGF_CB) agf_dense_6x16__neon(r, o, at, magnitude);
  for (; o < r->n; o++) agf_dense_1x32__neon(r, o, magnitude);
}

static void agf_dense_w__neon(const agf_dense_row *r) { agf_dense_row__neon(r, 0); }
static void agf_dense_d__neon(const agf_dense_row *r) { agf_dense_row__neon(r, 1); }

/* ---- Grouped and depthwise convolutions ---- */

/* Lanes [l, l + 4) of what an output block reads at pixel x. */
AGF_NEON_FN float32x4_t agf_gconv_four__neon(const float *x, ptrdiff_t xb, const int32_t *index) {
#define AGF_AT(l) (x + index[l] / AGF_CB * xb + index[l] % AGF_CB)
  float32x4_t v = vld1q_dup_f32(AGF_AT(0));
  v = vld1q_lane_f32(AGF_AT(1), v, 1);
  v = vld1q_lane_f32(AGF_AT(2), v, 2);
  return vld1q_lane_f32(AGF_AT(3), v, 3);
#undef AGF_AT
}

AGF_NEON_FN agf_v16 agf_gconv_x__neon(agf_reads reads, const float *x, ptrdiff_t xb, const int32_t *index, int abs_x) {
  agf_v16 v;
  if (reads == AGF_READS_LANE) {
    v = agf_load16__neon(x + index[0] / AGF_CB * xb);
  } else if (reads == AGF_READS_TWO) {
    v.a = v.b = vld1q_dup_f32(x + index[0] / AGF_CB * xb + index[0] % AGF_CB);
    v.c = v.d = vld1q_dup_f32(x + index[8] / AGF_CB * xb + index[8] % AGF_CB);
  } else {
    v.a = agf_gconv_four__neon(x, xb, index);
    v.b = agf_gconv_four__neon(x, xb, index + 4);
    v.c = agf_gconv_four__neon(x, xb, index + 8);
    v.d = agf_gconv_four__neon(x, xb, index + 12);
  }
  return abs_x ? agf_abs16__neon(v) : v;
}

/* One right-hand side, read at r->x + in, for output o, or for o, o + up, o + 2 up, o + 3 up, which meet pixels `down` apart
 * under the same taps. inside: all those pixels can be read, border included. */
AGF_NEON_FN void agf_gconv_tile__neon(const agf_gconv_row *r, agf_reads reads, int in, int abs_x, int abs_w, int four, int inside,
                                      int o, float *acc, ptrdiff_t ap) {
  const int kh = r->kh, kw = r->kw, up = r->up, dilation = r->dilation, w_in = r->w_in, first = o * r->down - r->pad;
  const ptrdiff_t xb = r->xb, xp = r->xp, step = r->down * xp;
  const float32x4_t zero = vdupq_n_f32(0.0f);
  const agf_v16 none = {zero, zero, zero, zero};
  agf_v16 y0 = none, y1 = none, y2 = none, y3 = none;
  int b, k, t, i;
  for (b = 0; b < r->lanes_in; b += AGF_CB) {
    const int lanes = reads == AGF_READS_LANE ? 1 : r->lanes_in - b < AGF_CB ? r->lanes_in - b : AGF_CB;
    for (k = 0; k < kh; k++) {
      const int h = agf_meets(r->row, k, r->down_h, r->up_h, r->dilation_h, r->pad_h, r->h_in);
      const float *row = r->x + h * r->xr + in, *w = r->w + ((ptrdiff_t)b * kh + k * lanes) * kw * AGF_CB;
      if (h < 0) continue;
      for (t = 0; t < kw; t++, w += lanes * AGF_CB) {
        int p = first + t * dilation;
        if (up > 1) {
          if (p % up) continue;
          p /= up;
        }
        if (!inside && (p < 0 || p >= w_in)) continue;
        for (i = 0; i < lanes; i++) {
          const agf_v16 signed_w = agf_load16__neon(w + i * AGF_CB), wi = abs_w ? agf_abs16__neon(signed_w) : signed_w;
          const int32_t *index = r->index + (b + i) * AGF_CB;
          const float *x = row + p * xp;
          y0 = agf_fma16__neon(agf_gconv_x__neon(reads, x, xb, index, abs_x), wi, y0);
          if (!four) continue;
          y1 = agf_fma16__neon(agf_gconv_x__neon(reads, x + step, xb, index, abs_x), wi, y1);
          y2 = agf_fma16__neon(agf_gconv_x__neon(reads, x + 2 * step, xb, index, abs_x), wi, y2);
          y3 = agf_fma16__neon(agf_gconv_x__neon(reads, x + 3 * step, xb, index, abs_x), wi, y3);
        }
      }
    }
  }
  acc += o * ap;
  agf_store16__neon(acc, y0);
  if (!four) return;
  agf_store16__neon(acc + up * ap, y1);
  agf_store16__neon(acc + 2 * up * ap, y2);
  agf_store16__neon(acc + 3 * up * ap, y3);
}

AGF_NEON_FN void agf_gconv_side__neon(const agf_gconv_row *r, agf_reads reads, int in, int abs_x, int abs_w, float *acc,
                                      ptrdiff_t ap) {
  const int up = r->up, reach = (r->kw - 1) * r->dilation, end = (r->w_in + r->border - 1) * up;
  int c, o;
  for (c = 0; c < up; c++)
    for (o = c; o < r->w_out;) {
      const int last = o + 3 * up, first_read = o * r->down - r->pad, last_read = last * r->down - r->pad + reach;
      const int four = reads != AGF_READS_ANY && last < r->w_out && first_read >= -r->border * up && last_read <= end;
      if (four)
        agf_gconv_tile__neon(r, reads, in, abs_x, abs_w, 1, 1, o, acc, ap);
      else
        agf_gconv_tile__neon(r, reads, in, abs_x, abs_w, 0, 0, o, acc, ap);
      o += four ? 4 * up : up;
    }
}

#define AGF_GCONV_FORM(form, abs_x, abs_w)                                                                          \
  static void agf_gconv_##form##__neon(const agf_gconv_row *r, int in, float *acc, ptrdiff_t ap) {                  \
    if (r->reads == AGF_READS_LANE)                                                                                 \
      agf_gconv_side__neon(r, AGF_READS_LANE, in, abs_x, abs_w, acc, ap);                                           \
    else if (r->reads == AGF_READS_ONE || r->reads == AGF_READS_TWO)                                                \
      agf_gconv_side__neon(r, AGF_READS_TWO, in, abs_x, abs_w, acc, ap);                                            \
    else                                                                                                            \
      agf_gconv_side__neon(r, AGF_READS_ANY, in, abs_x, abs_w, acc, ap);                                            \
  }
AGF_GCONV_FORM(signed, 0, 0)    /* W x */
AGF_GCONV_FORM(abs_w, 0, 1)     /* |W| x */
AGF_GCONV_FORM(magnitude, 1, 1) /* |W| |x| */
#undef AGF_GCONV_FORM

AGF_NEON_FN void agf_gconv_row__neon(const agf_gconv_row *r, agf_rhs kind) {
  const agf_rhs_form f = agf_rhs_get(kind);
  int j;
  for (j = 0; j < f.n; j++)
    (f.abs_x[j] ? agf_gconv_magnitude__neon : f.abs_w[j] ? agf_gconv_abs_w__neon : agf_gconv_signed__neon)(
        r, AGF_CB * f.in[j], r->acc + j * AGF_CB, (ptrdiff_t)f.n * AGF_CB);
}

#define AGF_GCONV_NEON(kind, ...) \
  static void agf_gconv_##kind##__neon(const agf_gconv_row *r) { agf_gconv_row__neon(r, AGF_RHS_##kind); }
AGF_RHS_LIST(AGF_GCONV_NEON)
#undef AGF_GCONV_NEON

/* ---- Weight panels ---- */

/* Four rows and four columns at a time. */
static void agf_transpose__neon(const float *from, ptrdiff_t fs, int rows, float *to, ptrdiff_t ts) {
  int r, c;
  for (r = 0; r + 4 <= rows; r += 4)
    for (c = 0; c < AGF_CB; c += 4) {
      const float *f = from + r * fs + c;
      float *t = to + c * ts + r;
      float32x4x2_t ab = vtrnq_f32(vld1q_f32(f), vld1q_f32(f + fs)); /* a0 b0 a2 b2, a1 b1 a3 b3 */
      float32x4x2_t cd = vtrnq_f32(vld1q_f32(f + 2 * fs), vld1q_f32(f + 3 * fs));
      vst1q_f32(t, vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0])));
      vst1q_f32(t + ts, vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1])));
      vst1q_f32(t + 2 * ts, vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0])));
      vst1q_f32(t + 3 * ts, vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1])));
    }
  for (; r < rows; r++)
    for (c = 0; c < AGF_CB; c++) to[c * ts + r] = from[r * fs + c];
}

/* By llvm-mca (bench/mca.sh) the three-tap walk breaks even at 0.85 on Cortex-A72 and 0.90 on Neoverse N1, one tap at 0.64 and
 * 0.67 for one right-hand side, at 0.75 and 0.79 for the forward pair. */
#define AGF_ONE_TAP {{65, 65, 65, 65, 65}, {65, 65, 65, 65, 65}, {77, 77, 77, 77, 77}}
#define AGF_THREE_TAPS {{87, 87, 87, 87, 87}, {87, 87, 87, 87, 87}, {87, 87, 87, 87, 87}}
static const unsigned char agf_dense_from__neon[AGF_SHAPES][3][AGF_CONV_SIZES] = {AGF_ONE_TAP, AGF_ONE_TAP, AGF_THREE_TAPS,
                                                                                   AGF_THREE_TAPS};
#undef AGF_ONE_TAP
#undef AGF_THREE_TAPS

/* The kernels of `isa`, NULL: the best that there is. Returns 0 and leaves k alone if there are none of that name here. */
static int agf_kernels_arm(agf_kernels *k, const char *isa) {
  if (isa && strcmp(isa, "neon")) return 0;
  k->isa = "neon";
  agf_elementwise_fill__neon(k);
  agf_generic_fill__neon(k);
  agf_conv_fill_32__neon(k, 0);
  agf_conv_fill_16__neon(k, 1);
  k->magnitudes = 1;
  k->dense_w = agf_dense_w__neon;
  k->dense_d = agf_dense_d__neon;
  memcpy(k->dense_from, agf_dense_from__neon, sizeof k->dense_from);
#define AGF_GCONV_ENTRY(kind, ...) k->gconv[AGF_RHS_##kind] = agf_gconv_##kind##__neon;
  AGF_RHS_LIST(AGF_GCONV_ENTRY)
#undef AGF_GCONV_ENTRY
  k->transpose = agf_transpose__neon;
  return 1;
}

#undef AGF_LDP
#undef AGF_LDR
#undef AGF_LDS
#undef AGF_FABS
#undef AGF_FABS4
#undef AGF_FMLA
#undef AGF_LOADS_BEGIN
#undef AGF_NEON_FN
#undef AGF_TAP16
#undef AGF_TAP32
#undef AGF_TAP16_TWO
#undef AGF_TAP32_TWO
#undef AGF_DENSE_PIXEL
#undef AGF_DENSE_HALF
#undef AGF_DENSE_LANE
#undef AGF_SIX_ABS
#undef AGF_SIX_LOADS

#endif
#endif /* AGF_KERNELS_ARM_H */
