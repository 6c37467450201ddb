/* Convolutions through the engine's own driver, one thread, as shares of the FMA peak measured in between:
 *   conv [avx512|avx2] dense     VGG-19's 16 convolutions, every element
 *   conv [avx512|avx2] skip      adjoints and forward pairs at several shares of nonzeros; 1.00 is the dense work at the peak
 * Build: cc -O2 bench/conv.c -o build/bench_conv -lm -lpthread */
#include "../agf.c"

#if !defined(AGF_KERNELS_X86)
int main(void) { return 0; }
#else

enum { REPEATS = 31 };

/* Twelve chains: two FMA units times their latency, and some. */
#define PEAK(name, target_, V, SET, FMA, STORE)                                                                                    \
  __attribute__((target(target_))) static float name(int n) {                                                                      \
    V c[12], a = SET(0.999f), b = SET(0.001f);                                                                                     \
    float out[16] = {0};                                                                                                           \
    int i;                                                                                                                         \
    for (i = 0; i < 12; i++) c[i] = SET((float)i); /* different, or the compiler keeps one */                                      \
    for (i = 0; i < n; i++) {                                                                                                      \
      c[0] = FMA(a, c[0], b);                                                                                                      \
      c[1] = FMA(a, c[1], b);                                                                                                      \
      c[2] = FMA(a, c[2], b);                                                                                                      \
      c[3] = FMA(a, c[3], b);                                                                                                      \
      c[4] = FMA(a, c[4], b);                                                                                                      \
      c[5] = FMA(a, c[5], b);                                                                                                      \
      c[6] = FMA(a, c[6], b);                                                                                                      \
      c[7] = FMA(a, c[7], b);                                                                                                      \
      c[8] = FMA(a, c[8], b);                                                                                                      \
      c[9] = FMA(a, c[9], b);                                                                                                      \
      c[10] = FMA(a, c[10], b);                                                                                                    \
      c[11] = FMA(a, c[11], b);                                                                                                    \
    }                                                                                                                              \
    for (i = 1; i < 12; i++) c[0] = FMA(c[0], c[i], c[0]);                                                                         \
    STORE(out, c[0]);                                                                                                              \
    return out[0];                                                                                                                 \
  }
PEAK(peak512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps)
PEAK(peak2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps)

static volatile float sink;
static int wide;

/* This thread's processor time: other programs' share does not count. */
static double clock_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* FLOP/s, for about 2 ms. */
static double peak(void) {
  int n = 500000;
  double t = clock_now();
  sink = wide ? peak512(n) : peak2(n);
  return 2.0 * 12 * (wide ? 16 : 8) * n / (clock_now() - t);
}

static int less(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}
/* The quartile: on a busy machine medians still hold other programs' cache misses. */
static double quartile(double *v, int n) {
  qsort(v, (size_t)n, sizeof *v, less);
  return v[n / 4];
}

static uint64_t state = 88172645463325252u;
static uint32_t draw(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 32);
}

static void done(agf_session *s, const agf_conv_job *j, int block, int row, const float *acc, ptrdiff_t as, ptrdiff_t rs) {
  int i;
  float *y = *(float *const *)j->out + ((size_t)block * (size_t)j->ho + (size_t)row) * (size_t)j->wo * AGF_CB;
  for (i = 0; i < agf_rhs_out(j->kind); i++) s->k.store(acc + i * rs, as, j->wo, y);
}

/* Share of the peak and seconds of one convolution, quartiles of several runs with the peak probed in between. */
static double measure(const char *isa, agf_rhs kind, int adjoint, int kernel, int stride, int ci, int co, int hw, double share,
                      int dense, double *seconds) {
  static agf_model m;
  static agf_session s;
  static agf_step st;
  static agf_node n;
  static agf_weight w;
  agf_conv_job j;
  int in = adjoint ? co : ci, out = adjoint ? ci : co, wide_in = agf_rhs_in(kind), hi, ho, b, r, p, i, k,
      border = adjoint ? 0 : kernel / 2;
  int ow = (hw + 2 * (kernel / 2) - kernel) / stride + 1;
  size_t wn, xn;
  float *x, *wd, *y;
  uint16_t *mask;
  double t[REPEATS], pk[REPEATS];
  unsigned char *scratch;
  int repeats = 2.0 * ci * co * kernel * kernel * ow * ow > 1e9 ? 7 : REPEATS;
  memset(&s, 0, sizeof s), memset(&m, 0, sizeof m), memset(&n, 0, sizeof n), memset(&j, 0, sizeof j);
  agf_kernels_ref(&s.k);
  agf_kernels_x86(&s.k, isa);
  memset(s.k.dense_from, dense ? 0 : 101, sizeof s.k.dense_from);
  n.kernel[0] = n.kernel[1] = kernel;
  n.stride[0] = n.stride[1] = stride;
  n.dilation[0] = n.dilation[1] = 1;
  n.pad[0] = n.pad[1] = n.pad[2] = n.pad[3] = kernel / 2;
  n.groups = 1;
  n.channels = co;
  wn = (size_t)agf_ceil_div(ci, 16) * 16 * (size_t)(kernel * kernel) * (size_t)agf_ceil_div(co, 32) * 32;
  wd = (float *)aligned_alloc(64, wn * 4);
  for (i = 0; i < (int)wn; i++) wd[i] = (float)(int)(draw() >> 8) * 0x1p-23f - 1.0f;
  w.type = AGF_F32;
  w.data = (const void *)wd;
  m.node = &n, m.weight = &w;
  s.model = &m, s.threads = 1;
  hi = adjoint ? ow : hw, ho = adjoint ? hw : ow;
  xn = (size_t)agf_ceil_div(in, 16) * (size_t)(hi + 2 * border) * (size_t)(hi + 2 * border) * 16 * (size_t)wide_in;
  x = (float *)aligned_alloc(64, xn * 4);
  memset(x, 0, xn * 4);
  mask = (uint16_t *)calloc((size_t)agf_ceil_div(in, 16) * (size_t)(hi * hi), 2);
  y = (float *)aligned_alloc(64, (size_t)agf_ceil_div(out, 32) * 32 * (size_t)(ho * ho) * 4);
  j.st = &st, j.kind = kind, j.adjoint = adjoint;
  j.xp = AGF_CB * wide_in, j.xr = j.xp * (hi + 2 * border), j.xb = j.xr * (hi + 2 * border);
  j.x = x + border * (j.xr + j.xp);
  j.mask = mask, j.hi = j.wi = hi, j.ho = j.wo = ho, j.ci = in, j.co = out, j.out = &y, j.done = done;
  for (b = 0; b < agf_ceil_div(in, 16); b++)
    for (r = 0; r < hi; r++)
      for (p = 0; p < hi; p++)
        for (i = 0; i < agf_imin(16, in - 16 * b); i++) {
          float *at = x + (j.x - x) + b * j.xb + r * j.xr + p * j.xp + i;
          if ((double)draw() * 0x1p-32 >= share) continue;
          for (k = 0; k < wide_in; k++) at[16 * k] = (float)(int)(draw() >> 8) * 0x1p-23f - 0.6f;
          mask[(b * hi + r) * hi + p] |= (uint16_t)(1u << i);
        }
  scratch = (unsigned char *)aligned_alloc(64, 4 << 20);
  s.arena = scratch;
  {
    static agf_buffer buffer[2]; /* 1: a task's scratch, at the arena's start */
    static agf_plan plan;
    plan.buffer = buffer;
    plan.scratch = 1;
    s.plan = &plan;
  }
  for (i = -1; i < repeats; i++) {
    double a = peak(), b0, c;
    b0 = clock_now();
    agf_conv(&s, &j);
    c = clock_now() - b0;
    if (i < 0) continue;
    t[i] = c;
    pk[i] = (a + peak()) / 2;
  }
  free(x), free(wd), free(y), free(mask), free(scratch);
  *seconds = quartile(t, repeats);
  return 2.0 * ci * co * kernel * kernel * ow * ow * agf_rhs_out(kind) / *seconds / quartile(pk, repeats);
}

int main(int argc, char **argv) {
  const char *isa = argc > 1 ? argv[1] : "avx512", *what = argc > 2 ? argv[2] : "dense";
  double sec;
  agf_kernels k;
  if (!agf_kernels_choose(&k, isa)) {
    printf("%s: not available here\n", isa);
    return 0;
  }
  wide = !strcmp(isa, "avx512");
  if (!strcmp(what, "dense")) {
    static const int L[][4] = {{3, 64, 224, 1},   {64, 64, 224, 1},  {64, 128, 112, 1}, {128, 128, 112, 1}, {128, 256, 56, 1},
                               {256, 256, 56, 3}, {256, 512, 28, 1}, {512, 512, 28, 3}, {512, 512, 14, 4}};
    double ideal = 0, total = 0;
    size_t i;
    for (i = 0; i < sizeof L / sizeof *L; i++) {
      double e = measure(isa, AGF_RHS_W, 0, 3, 1, L[i][0], L[i][1], L[i][2], 1.0, 1, &sec);
      printf("%d -> %d %d: %.3f of %.1f GFLOP/s\n", L[i][0], L[i][1], L[i][2], e, peak() * 1e-9);
      total += sec * L[i][3];
      ideal += sec * e * L[i][3];
    }
    printf("%s dense, VGG-19: %.3f of peak\n", isa, ideal / total);
  } else {
    static const struct {
      const char *name;
      agf_rhs kind;
      int adjoint, kernel, stride, ci, co, hw;
    } T[] = {{"triple 3x3 256 56", AGF_RHS_TRIPLE, 1, 3, 1, 256, 256, 56},
             {"forward pair 3x3 256 56", AGF_RHS_FWD, 0, 3, 1, 256, 256, 56},
             {"forward 3x3 256 56", AGF_RHS_W, 0, 3, 1, 256, 256, 56},
             {"flat pair 1x1 1024->256 14", AGF_RHS_FLAT, 0, 1, 1, 1024, 256, 14},
             {"flat adj 1x1 256->1024 14", AGF_RHS_FLAT, 1, 1, 1, 256, 1024, 14},
             {"flat adj 1x1 1024->256 14", AGF_RHS_FLAT, 1, 1, 1, 1024, 256, 14},
             {"forward pair 1x1 1024->256 14", AGF_RHS_FWD, 0, 1, 1, 1024, 256, 14},
             {"triple 3x3 512 14", AGF_RHS_TRIPLE, 1, 3, 1, 512, 512, 14},
             {"triple 3x3 64 224", AGF_RHS_TRIPLE, 1, 3, 1, 64, 64, 224},
             {"forward pair 3x3 512 14", AGF_RHS_FWD, 0, 3, 1, 512, 512, 14},
             {"forward pair 3x3 64 224", AGF_RHS_FWD, 0, 3, 1, 64, 64, 224},
             {"flat pair 3x3 s1 256 14", AGF_RHS_FLAT, 1, 3, 1, 256, 256, 14},
             {"flat pair 3x3 s2 256 28", AGF_RHS_FLAT, 1, 3, 2, 256, 256, 28},
             {"forward pair 3x3 s2 256 28", AGF_RHS_FWD, 0, 3, 2, 256, 256, 28},
             {"flat 1x1 64->256 56", AGF_RHS_FLAT, 1, 1, 1, 64, 256, 56},
             {"flat 1x1 512->2048 7", AGF_RHS_FLAT, 1, 1, 1, 512, 2048, 7},
             {"forward pair 1x1 64->256 56", AGF_RHS_FWD, 0, 1, 1, 64, 256, 56},
             {"forward 1x1 64->256 56", AGF_RHS_W, 0, 1, 1, 64, 256, 56},
             {"forward 1x1 512->2048 7", AGF_RHS_W, 0, 1, 1, 512, 2048, 7},
             {"forward 1x1 s2 256->512 56", AGF_RHS_W, 0, 1, 2, 256, 512, 56},
             {"forward any 5x5 64->64 56", AGF_RHS_W, 0, 5, 1, 64, 64, 56},
             {"flat any 5x5 64->64 56", AGF_RHS_FLAT, 1, 5, 1, 64, 64, 56},
             {"pair of magnitudes 3x3 256 14", AGF_RHS_APAIR, 1, 3, 1, 256, 256, 14},
             {"pair of magnitudes 1x1 256->1024 14", AGF_RHS_APAIR, 1, 1, 1, 256, 1024, 14},
             {"box adjoint 3x3", AGF_RHS_W, 1, 3, 1, 9, 64, 224}};
    static const double shares[] = {1, 0.5, 0.25, 0.1};
    size_t i, k;
    for (i = 0; i < sizeof T / sizeof *T; i++) {
      if (argc > 3 && !strstr(T[i].name, argv[3])) continue;
      printf("%s %-30s", isa, T[i].name);
      for (k = 0; k < 4; k++)
        printf("  %.2f: %.3f", shares[k],
               1 / measure(isa, T[i].kind, T[i].adjoint, T[i].kernel, T[i].stride, T[i].ci, T[i].co, T[i].hw, shares[k], 0, &sec));
      if (!T[i].adjoint && T[i].kind <= AGF_RHS_FWD)
        printf("  dense %.3f",
               1 / measure(isa, T[i].kind, T[i].adjoint, T[i].kernel, T[i].stride, T[i].ci, T[i].co, T[i].hw, 1.0, 1, &sec));
      printf("\n");
      fflush(stdout);
    }
  }
  return 0;
}
#endif
