/* CRC-32 with the instructions made for it, chosen by what the processor says of itself, apart from the vector instructions:
 *   static void agf_crc32_fill(agf_kernels *k): sets k->crc32 if there is something faster than ref.h's.
 *
 * x86 folds with carry-less products (Gopal et al., "Fast CRC computation for generic polynomials using PCLMULQDQ instruction",
 * 2009): 16 bytes that lie D bits before others are replaced by their remainder's contribution there. With bits reflected, the
 * two halves take x^(D + 32) and x^(D - 32) mod P, reflected and shifted up by one. */
#ifndef AGF_KERNELS_CRC32_H
#define AGF_KERNELS_CRC32_H

#if defined(AGF_NO_SIMD)
static void agf_crc32_fill(agf_kernels *k) { (void)k; }

#elif defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

/* A nibble a step: for the few bytes that are left. State, not complemented. */
static uint32_t agf_crc32_tail(uint32_t state, const unsigned char *p, size_t n) {
  static const uint32_t t[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
  for (; n; n--, p++) {
    state ^= *p;
    state = t[state & 15] ^ state >> 4;
    state = t[state & 15] ^ state >> 4;
  }
  return state;
}

#define AGF_CRC32_TARGET __attribute__((target("pclmul,sse4.1")))

AGF_CRC32_TARGET static inline __m128i agf_crc32_fold(__m128i x, __m128i next, __m128i k) {
  return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), next);
}

AGF_CRC32_TARGET static inline __m128i agf_crc32_load(const unsigned char *p) {
  return _mm_loadu_si128((const __m128i *)(const void *)p);
}

AGF_CRC32_TARGET static uint32_t agf_crc32__pclmul(uint32_t crc, const unsigned char *p, size_t n) {
  const __m128i by512 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4), by128 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
  unsigned char last[16];
  __m128i a, b, c, d;
  if (n < 64) return ~agf_crc32_tail(~crc, p, n);
  a = _mm_xor_si128(agf_crc32_load(p), _mm_cvtsi32_si128((int)~crc));
  b = agf_crc32_load(p + 16);
  c = agf_crc32_load(p + 32);
  d = agf_crc32_load(p + 48);
  for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
    a = agf_crc32_fold(a, agf_crc32_load(p), by512);
    b = agf_crc32_fold(b, agf_crc32_load(p + 16), by512);
    c = agf_crc32_fold(c, agf_crc32_load(p + 32), by512);
    d = agf_crc32_fold(d, agf_crc32_load(p + 48), by512);
  }
  a = agf_crc32_fold(agf_crc32_fold(agf_crc32_fold(a, b, by128), c, by128), d, by128);
  _mm_storeu_si128((__m128i *)(void *)last, a);
  return ~agf_crc32_tail(agf_crc32_tail(0, last, sizeof last), p, n);
}

#undef AGF_CRC32_TARGET

/* Four times the bytes per instruction; AMD's processors take two cycles for one carry-less product of any width. */
#define AGF_CRC32_TARGET __attribute__((target("avx512f,vpclmulqdq")))

AGF_CRC32_TARGET static inline __m512i agf_crc32_fold512(__m512i x, const unsigned char *next, __m512i k) {
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, k, 0x00), _mm512_clmulepi64_epi128(x, k, 0x11),
                                   _mm512_loadu_si512(next), 0x96); /* exclusive or of the three */
}

AGF_CRC32_TARGET static uint32_t agf_crc32__vpclmul(uint32_t crc, const unsigned char *p, size_t n) {
  const __m512i by2048 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x1322d1430, 0x11542778a));
  unsigned char last[256];
  __m512i a, b, c, d;
  if (n < 1024) return agf_crc32__pclmul(crc, p, n);
  a = _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~crc)));
  b = _mm512_loadu_si512(p + 64);
  c = _mm512_loadu_si512(p + 128);
  d = _mm512_loadu_si512(p + 192);
  for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
    a = agf_crc32_fold512(a, p, by2048);
    b = agf_crc32_fold512(b, p + 64, by2048);
    c = agf_crc32_fold512(c, p + 128, by2048);
    d = agf_crc32_fold512(d, p + 192, by2048);
  }
  _mm512_storeu_si512(last, a);
  _mm512_storeu_si512(last + 64, b);
  _mm512_storeu_si512(last + 128, c);
  _mm512_storeu_si512(last + 192, d);
  /* what is left is a message of 256 bytes that starts from state 0, that is from a CRC of ~0 */
  return agf_crc32__pclmul(agf_crc32__pclmul(~(uint32_t)0, last, sizeof last), p, n);
}

#undef AGF_CRC32_TARGET

static void agf_crc32_fill(agf_kernels *k) {
  unsigned a, b, c = 0, d, low, high;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_PCLMUL) || !(c & bit_SSE4_1)) return;
  k->crc32 = agf_crc32__pclmul;
  if (!(c & bit_OSXSAVE) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX512F) || !(c & bit_VPCLMULQDQ)) return;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0xe6) == 0xe6) k->crc32 = agf_crc32__vpclmul; /* the system keeps xmm, ymm, opmask and zmm */
}

#elif defined(__aarch64__) && (defined(__linux__) || defined(__APPLE__)) && defined(__GNUC__)
#ifdef __linux__
#include <sys/auxv.h>
#endif

/* Instructions by name: gcc and clang do not agree on how a function asks for the extension, nor on when its intrinsics exist. */
static uint32_t agf_crc32__arm(uint32_t crc, const unsigned char *p, size_t n) {
  uint64_t v;
  crc = ~crc;
  for (; n >= 8; n -= 8, p += 8) {
    memcpy(&v, p, 8);
    __asm__(".arch_extension crc\n\tcrc32x %w0, %w0, %1" : "+r"(crc) : "r"(v));
  }
  for (; n; n--, p++) __asm__(".arch_extension crc\n\tcrc32b %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)*p));
  return ~crc;
}

static void agf_crc32_fill(agf_kernels *k) {
#ifdef __linux__
  if (!(getauxval(AT_HWCAP) & 1ul << 7)) return; /* HWCAP_CRC32 */
#endif
  k->crc32 = agf_crc32__arm;
}

#else
static void agf_crc32_fill(agf_kernels *k) { (void)k; }
#endif

#endif /* AGF_KERNELS_CRC32_H */
