#include <immintrin.h>
#define AGF_ISA avx2
#define AGF_ISA_AVX2
#define AGF_TARGET __attribute__((target("avx2,fma,f16c")))
#include "elementwise.inc"
#define AGF_ISA avx512
#define AGF_ISA_AVX512
#define AGF_TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")))
#include "elementwise.inc"
static int agf_kernels_x86(agf_kernels *k, const char *isa) {
  if (!strcmp(isa, "avx2"))
    agf_elementwise_fill__avx2(k);
  else if (!strcmp(isa, "avx512"))
    agf_elementwise_fill__avx512(k);
  else
    return 1;
  k->isa = isa;
  return 0;
}
