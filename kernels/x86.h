/* x86: which instruction sets this machine and its operating system have, and the kernels' instances for them. Compiled without
 * any -m flag: each function names its target. AGF_NO_SIMD leaves it out. Needs <immintrin.h>. */
#ifndef AGF_KERNELS_X86_H
#define AGF_KERNELS_X86_H

/* 32-bit x86 runs the portable kernels: gcc's immintrin.h wants -msse2 there, and eight registers hold no tile. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(AGF_NO_SIMD)
#define AGF_KERNELS_X86

#include <cpuid.h>

/* Where C has an operator for an intrinsic, it is written: each intrinsic is a function that the compiler has to inline, thousands of
 * times. The types: vectors of floats as they lie in memory, at any float's address, and of integers. */
typedef float agf_floats8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float agf_floats16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t agf_ints8 __attribute__((vector_size(32)));
typedef int32_t agf_ints16 __attribute__((vector_size(64)));
#define AGF_LOAD8(p) (*(const agf_floats8 *)(const void *)(p))
#define AGF_LOAD16(p) (*(const agf_floats16 *)(const void *)(p))
#define AGF_STORE8(p, v) (*(agf_floats8 *)(void *)(p) = (agf_floats8)(v))
#define AGF_STORE16(p, v) (*(agf_floats16 *)(void *)(p) = (agf_floats16)(v))
#define AGF_AND8(a, b) ((__m256)((agf_ints8)(a) & (agf_ints8)(b)))
#define AGF_AND16(a, b) ((__m512)((agf_ints16)(a) & (agf_ints16)(b)))
#define AGF_ABS8(v) ((__m256)(0x7fffffff & (agf_ints8)(v)))
#define AGF_ABS16(v) ((__m512)(0x7fffffff & (agf_ints16)(v)))

/* AddressSanitizer and UBSan would look at every element, which takes compilers gigabytes. What these kernels may touch their contracts
 * say, check_kernels holds them to it between canaries, and the portable kernels, which read and write the same, stay checked. */
#define AGF_UNCHECKED no_sanitize("address", "undefined")

#define AGF_ISA avx2
#define AGF_ISA_AVX2
#define AGF_TARGET __attribute__((target("avx2,fma,f16c,bmi,popcnt"), AGF_UNCHECKED))
#include "conv.inc"

#define AGF_ISA avx2
#define AGF_ISA_AVX2
#define AGF_TARGET __attribute__((target("avx2,fma,f16c"), AGF_UNCHECKED))
#include "elementwise.inc"

#define AGF_ISA avx2
#define AGF_ISA_AVX2
#define AGF_TARGET __attribute__((target("avx2,fma,f16c"), AGF_UNCHECKED))
#include "generic.inc"

/* AVX-512 has kernels of its own where time is spent: what it does not overwrite stays AVX2's. */
#define AGF_ISA avx512
#define AGF_ISA_AVX512
#define AGF_TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c,bmi,popcnt"), AGF_UNCHECKED))
#include "conv.inc"

#define AGF_ISA avx512
#define AGF_ISA_AVX512
#define AGF_TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c"), AGF_UNCHECKED))
#include "elementwise.inc"

/* 0: neither; 2: AVX2 and what goes with it; 512: AVX-512 as well. */
static int agf_x86_level(void) {
  enum { FMA = 1 << 12, POPCNT = 1 << 23, OSXSAVE = 1 << 27, F16C = 1 << 29 };                     /* leaf 1, ecx */
  enum { BMI = 1 << 3, AVX2 = 1 << 5, AVX512F = 1 << 16, AVX512DQ = 1 << 17, AVX512BW = 1 << 30 }; /* leaf 7, ebx */
  const unsigned vl = 1u << 31;
  unsigned a, b, c, d, low, high, one = FMA | POPCNT | OSXSAVE | F16C, seven = BMI | AVX2;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & one) != one) return 0;
  /* the registers that the operating system saves: xgetbv, in bytes for assemblers that do not know it */
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 6) != 6) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & seven) != seven) return 0;
  seven = AVX512F | AVX512DQ | AVX512BW | vl;
  return (low & 0xe6) == 0xe6 && (b & seven) == seven ? 512 : 2;
}

/* The kernels of `isa`, NULL: the best that there is. Returns 0 and leaves k alone if there are none of that name here. */
AGF_OPTIMIZE("Os", AGF_FEWEST_PASSES)
static int agf_kernels_x86(agf_kernels *k, const char *isa) {
  int level = agf_x86_level();
  int wide = level >= 512 && (!isa || !strcmp(isa, "avx512"));
  if (!wide && (level < 2 || (isa && strcmp(isa, "avx2")))) return 0;
  agf_conv_fill__avx2(k);
  agf_elementwise_fill__avx2(k);
  agf_generic_fill__avx2(k);
  if (wide) {
    agf_conv_fill__avx512(k);
    agf_elementwise_fill__avx512(k);
  }
  k->isa = wide ? "avx512" : "avx2";
  return 1;
}
AGF_OPTIMIZE_END

#undef AGF_UNCHECKED
#undef AGF_LOAD8
#undef AGF_LOAD16
#undef AGF_STORE8
#undef AGF_STORE16
#undef AGF_AND8
#undef AGF_AND16
#undef AGF_ABS8
#undef AGF_ABS16
#endif
#endif /* AGF_KERNELS_X86_H */
