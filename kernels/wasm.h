/* WebAssembly with 128-bit vectors: the fused multiply-add, which it does not have, four at a time. The kernels are the portable ones of
 * ref.h.
 *
 * Relaxed SIMD, where compiled in (-mrelaxed-simd), has one that is fused or not as the browser's processor likes: agf_fma_is_fused()
 * finds out, and no session is made where it is not. Without, it is emulated in double as agf_fmaf does it. */
#ifndef AGF_KERNELS_WASM_H
#define AGF_KERNELS_WASM_H

#if defined(__wasm_simd128__)
#include <wasm_simd128.h>
#define AGF_FMA4

#if defined(__wasm_relaxed_simd__)
#define AGF_FMA_RELAXED
static inline v128_t agf_fma4(v128_t x, v128_t y, v128_t z) { return wasm_f32x4_relaxed_madd(x, y, z); }

static inline float agf_fma1(float x, float y, float z) {
  return wasm_f32x4_extract_lane(agf_fma4(wasm_f32x4_splat(x), wasm_f32x4_splat(y), wasm_f32x4_splat(z)), 0);
}

/* Whether it rounds once: where the product's own rounding would show, where a double in between would (the product decides what lies
 * exactly half way between two floats), and where the result is subnormal. volatile: the processor answers, not the compiler. */
static inline int agf_fma_is_fused(void) {
  static const volatile float sums[3][4] = {{0x1.001p0f, 0x1.001p0f, -0x1.002p0f, 0x1p-24f},
                                            {0x1.000002p-12f, 0x1.fffffcp-13f, 0x1.000002p0f, 0x1.000002p0f},
                                            {0x1p-75f, 0x1p-74f, 0.0f, 0x1p-149f}};
  int i;
  for (i = 0; i < 3; i++)
    if (agf_fma1(sums[i][0], sums[i][1], sums[i][2]) != sums[i][3]) return 0;
  return 1;
}
#else
static float agf_fmaf_call(float a, float b, float c);

/* The sums that a double's rounding leaves undecided are rare: then all four go one by one. */
static inline v128_t agf_fma4(v128_t x, v128_t y, v128_t z) {
  const v128_t low_bits = wasm_i64x2_const_splat(0x1fffffff), tie = wasm_i64x2_const_splat(0x10000000);
  const v128_t small = wasm_f64x2_const_splat(0x1p-125), zero = wasm_f64x2_const_splat(0);
#define AGF_HIGH(v) wasm_i32x4_shuffle(v, v, 2, 3, 2, 3)
  v128_t a = wasm_f64x2_add(wasm_f64x2_mul(wasm_f64x2_promote_low_f32x4(x), wasm_f64x2_promote_low_f32x4(y)),
                            wasm_f64x2_promote_low_f32x4(z));
  v128_t b = wasm_f64x2_add(wasm_f64x2_mul(wasm_f64x2_promote_low_f32x4(AGF_HIGH(x)), wasm_f64x2_promote_low_f32x4(AGF_HIGH(y))),
                            wasm_f64x2_promote_low_f32x4(AGF_HIGH(z)));
#undef AGF_HIGH
  v128_t open = wasm_v128_or(wasm_i64x2_eq(wasm_v128_and(a, low_bits), tie), wasm_i64x2_eq(wasm_v128_and(b, low_bits), tie));
  open = wasm_v128_or(open, wasm_v128_and(wasm_f64x2_lt(wasm_f64x2_abs(a), small), wasm_f64x2_ne(a, zero)));
  open = wasm_v128_or(open, wasm_v128_and(wasm_f64x2_lt(wasm_f64x2_abs(b), small), wasm_f64x2_ne(b, zero)));
  if (wasm_v128_any_true(open)) {
    float p[4], q[4], r[4];
    int i;
    wasm_v128_store(p, x);
    wasm_v128_store(q, y);
    wasm_v128_store(r, z);
    for (i = 0; i < 4; i++) r[i] = agf_fmaf_call(p[i], q[i], r[i]);
    return wasm_v128_load(r);
  }
  return wasm_i32x4_shuffle(wasm_f32x4_demote_f64x2_zero(a), wasm_f32x4_demote_f64x2_zero(b), 0, 1, 4, 5);
}
#endif
#endif

#endif /* AGF_KERNELS_WASM_H */
