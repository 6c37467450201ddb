/* What kernels/generic.inc computes against double arithmetic, on the kernels that this machine chooses by itself (check_kernels compares
 * their bits with the portable ones').
 *
 *   check_math [--stride N]
 *
 * Activations: every N-th of the 2^32 floats, infinities and NaN left out: f(x) must be within 2 units in the last place of the exact
 * value, f'(x) within 4 units or 2^-22 (it is a difference near its zeros; 2^-22 is 4 units of 1, and gradients are multiplied by it). A
 * unit is a float's spacing at the exact value, so the smallest subnormal there. The double values are better by 2^20, but where libm's
 * own functions err, by less than a thousandth of a unit. */
#include "testing.h"

#include "inside.h"

typedef struct activation_case {
  const char *name;
  agf_activation f;
  float alpha, beta;
} activation_case;

static const activation_case cases[] = {
    {"leaky_relu", AGF_LEAKY_RELU, 0.1f, 0},
    {"prelu", AGF_PRELU, 0.25f, 0},
    {"elu", AGF_ELU, 1.3f, 0},
    {"silu", AGF_SILU, 0, 0},
    {"hardswish", AGF_HARDSWISH, 0, 0},
    {"gelu", AGF_GELU, 0, 0},
    {"gelu_tanh", AGF_GELU_TANH, 0, 0},
    {"mish", AGF_MISH, 0, 0},
    {"sigmoid", AGF_SIGMOID, 0, 0},
    {"hardsigmoid", AGF_HARDSIGMOID, 1 / 6.0f, 0.5f},
    {"tanh", AGF_TANH, 0, 0},
    {"softplus", AGF_SOFTPLUS, 0, 0},
    {"clip", AGF_CLIP, -0.5f, 2},
};
enum { CASES = sizeof cases / sizeof *cases, BLOCK = 64 };
typedef char every_activation_has_a_case[(int)CASES == (int)AGF_ACTIVATIONS ? 1 : -1];

static const double pi = 3.14159265358979323846;

/* 2 sqrt(2 / pi) (x + 0.044715 x^3), of gelu_tanh, and its derivative. */
static double tanh_argument(double x) { return 2 * sqrt(2 / pi) * (x + 0.044715 * x * x * x); }
static double tanh_argument_slope(double x) { return 2 * sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x); }

/* Formulas that lose no digits where f is near 0, which those of the definitions do. */
static double exact(const activation_case *c, double x) {
  double e = exp(-fabs(x)), v;
  switch (c->f) {
    case AGF_LEAKY_RELU:
    case AGF_PRELU: return x > 0 ? x : (double)c->alpha * x;
    case AGF_ELU: return x > 0 ? x : (double)c->alpha * expm1(x);
    case AGF_SILU: return x < 0 ? x * e / (1 + e) : x / (1 + e);
    case AGF_HARDSWISH: return x <= -3 ? 0 : x >= 3 ? x : x * (x + 3) / 6;
    case AGF_GELU: return x * erfc(-x / sqrt(2.0)) / 2;
    case AGF_GELU_TANH:
      v = tanh_argument(x);
      e = exp(-fabs(v));
      return x < -30 ? 0 : x < 0 ? x * e / (1 + e) : x / (1 + e);
    case AGF_MISH: return x < 0 ? x * e * (e + 2) / (e * (e + 2) + 2) : x * (1 + 2 * e) / (1 + 2 * e + 2 * e * e);
    case AGF_SIGMOID: return x < 0 ? e / (1 + e) : 1 / (1 + e);
    case AGF_HARDSIGMOID: return fmin(fmax((double)c->alpha * x + (double)c->beta, 0), 1);
    case AGF_TANH: return tanh(x);
    case AGF_SOFTPLUS: return fmax(x, 0) + log1p(e);
    case AGF_CLIP: return fmin(fmax(x, (double)c->alpha), (double)c->beta);
    case AGF_ACTIVATIONS: break;
  }
  return NAN;
}

static double exact_slope(const activation_case *c, double x) {
  const double e = exp(-fabs(x)), s = x < 0 ? e / (1 + e) : 1 / (1 + e),
               rest = x < 0 ? 1 / (1 + e) : e / (1 + e); /* s + rest = 1 */
  double t, v;
  switch (c->f) {
    case AGF_LEAKY_RELU:
    case AGF_PRELU: return x > 0 ? 1 : (double)c->alpha;
    case AGF_ELU: return x > 0 ? 1 : (double)c->alpha * exp(x);
    case AGF_SILU: return s + x * s * rest;
    case AGF_HARDSWISH: return x <= -3 ? 0 : x >= 3 ? 1 : x / 3 + 0.5;
    case AGF_GELU: return erfc(-x / sqrt(2.0)) / 2 + (fabs(x) < 50 ? x * exp(-x * x / 2) / sqrt(2 * pi) : 0);
    case AGF_GELU_TANH:
      if (fabs(x) > 30) return x > 0;
      v = exp(-tanh_argument(fabs(x)));
      return (x < 0 ? v : 1) / (1 + v) + x * tanh_argument_slope(x) * v / ((1 + v) * (1 + v));
    case AGF_MISH:
      t = x < 0 ? e * (e + 2) / (e * (e + 2) + 2) : (1 + 2 * e) / (1 + 2 * e + 2 * e * e);
      v = x < 0 ? 2 / (e * (e + 2) + 2) : 2 * e * e / (1 + 2 * e + 2 * e * e); /* 1 - t */
      return t + x * s * v * (1 + t);
    case AGF_SIGMOID: return s * rest;
    case AGF_HARDSIGMOID: v = (double)c->alpha * x + (double)c->beta; return v > 0 && v < 1 ? (double)c->alpha : 0;
    case AGF_TANH: return 4 * e * e / ((1 + e * e) * (1 + e * e));
    case AGF_SOFTPLUS: return s;
    case AGF_CLIP: return x > (double)c->alpha && x < (double)c->beta;
    case AGF_ACTIVATIONS: break;
  }
  return NAN;
}

/* The spacing of floats at v. */
static double unit(double v) {
  int e;
  frexp(v, &e);
  return ldexp(1, v == 0 || e - 24 < -149 ? -149 : e - 24);
}

static void check_activation(const agf_kernels *k, const activation_case *c, uint32_t stride) {
  float x[BLOCK], y[BLOCK], g[BLOCK], slope[AGF_CB], worst_at = 0, worst_slope_at = 0;
  double worst = 0, worst_slope = 0;
  agf_activation_row r;
  uint64_t next = 0;
  int i, n, bad;
  r.f = c->f, r.alpha = c->alpha, r.beta = c->beta, r.slope = slope, r.lanes = AGF_CB;
  for (i = 0; i < AGF_CB; i++) slope[i] = c->alpha;
  while (next >> 32 == 0) {
    for (n = 0; n < BLOCK && next >> 32 == 0; next += stride) {
      const float v = agf_from_bits((uint32_t)next);
      if (agf_finite(v)) x[n++] = v;
    }
    for (i = n; i < BLOCK; i++) x[i] = 0;
    for (i = 0; i < BLOCK; i++) g[i] = 1;
    bad = k->activate(&r, x, BLOCK / AGF_CB, y, NULL);
    k->activate_back(&r, x, y, BLOCK / AGF_CB, NULL, g);
    if (bad) worst = INFINITY;
    for (i = 0; i < n; i++) {
      double v = exact(c, x[i]), error = fabs((double)y[i] - v) / unit(v);
      if (!(error <= worst)) worst = error, worst_at = x[i];
      v = exact_slope(c, x[i]);
      error = fabs((double)g[i] - v);
      if (!(error <= 0x1p-22))
        error /= unit(v);
      else
        error = 0;
      if (!(error <= worst_slope)) worst_slope = error, worst_slope_at = x[i];
    }
  }
  printf("%s %-11s f(x) within %.3f units in the last place\n", k->isa, c->name, worst);
  CHECK(worst <= 2, "%s: f(%a) is off by %g units in the last place", c->name, (double)worst_at, worst);
  CHECK(worst_slope <= 4, "%s: f'(%a) is off by %g units in the last place", c->name, (double)worst_slope_at, worst_slope);
}

/* ---- Normalisations: y, and the gradient of <g, y> by central differences, in double ---- */

enum { CHANNELS = 37, GROUPED = 36, MAX_BLOCKS = 3 };

typedef struct norm_case {
  const char *name;
  int channels, groups, size; /* size: of local response normalisation's window, 0: layer normalisation */
} norm_case;

static double gamma_of(int c) { return 0.5 + 0.0625 * (c % 9); }
static double beta_of(int c) { return 0.25 * (c % 5) - 0.5; }

static void exact_norm(const norm_case *c, const double *x, double *y) {
  const int n = c->channels / c->groups;
  int i, j;
  for (i = 0; i < c->channels; i++) {
    double mean = 0, var = 0, sum = 0;
    if (c->size) {
      for (j = i - c->size / 2; j <= i + (c->size - 1) / 2; j++) sum += j < 0 || j >= c->channels ? 0 : x[j] * x[j];
      y[i] = x[i] / pow(1.5 + 0.125 * sum, 0.75);
      continue;
    }
    for (j = i / n * n; j < i / n * n + n; j++) mean += x[j] / n;
    for (j = i / n * n; j < i / n * n + n; j++) var += (x[j] - mean) * (x[j] - mean) / n;
    y[i] = (x[i] - mean) / sqrt(var + 1e-5) * gamma_of(i) + beta_of(i);
  }
}

/* One pixel. Limits: the maximum error in units of the largest value, 8 roundings of float; and what central differences with a step of
 * 1e-5 lose, about its square, with them. */
static void check_norm(const agf_kernels *k, const norm_case *c) {
  float x[MAX_BLOCKS * AGF_CB] = {0}, y[MAX_BLOCKS * AGF_CB], g[MAX_BLOCKS * AGF_CB] = {0}, gamma[MAX_BLOCKS * AGF_CB] = {0};
  float beta[MAX_BLOCKS * AGF_CB] = {0}, back[MAX_BLOCKS * AGF_CB], scratch[2 * (MAX_BLOCKS * AGF_CB + AGF_CB)];
  double v[CHANNELS], ey[CHANNELS], low[CHANNELS], high[CHANNELS], worst = 0, worst_back = 0, largest = 0, largest_back = 0;
  agf_norm_row norm;
  agf_lrn_row lrn;
  int i, j, bad;
  for (i = 0; i < c->channels; i++) {
    v[i] = x[i] = (float)sin(i * 1.7) * 3 + 1;
    g[i] = (float)cos(i * 2.3);
    gamma[i] = (float)gamma_of(i);
    beta[i] = (float)beta_of(i);
  }
  memcpy(back, g, sizeof back);
  memset(y, 0xff, sizeof y);
  norm.x = lrn.x = x, norm.xb = lrn.xb = AGF_CB;
  norm.channels = c->channels, norm.groups = c->groups, norm.eps = 1e-5, norm.gamma = gamma, norm.beta = beta;
  lrn.blocks = MAX_BLOCKS, lrn.size = c->size, lrn.alpha = 0.125f, lrn.beta = 0.75f, lrn.k = 1.5f, lrn.scratch = scratch;
  if (c->size) {
    bad = k->lrn(&lrn, 1, y, AGF_CB, NULL, 0);
    k->lrn_back(&lrn, 1, back, AGF_CB);
  } else {
    bad = k->layer_norm(&norm, 1, y, AGF_CB, NULL, 0);
    k->layer_norm_back(&norm, 1, back, AGF_CB);
  }
  CHECK(!bad, "%s: finite input, and an output that is not", c->name);
  exact_norm(c, v, ey);
  for (i = 0; i < c->channels; i++) {
    const double at = v[i], step = 1e-5;
    double slope = 0, error = fabs((double)y[i] - ey[i]);
    if (!(error <= worst)) worst = error;
    largest = fmax(largest, fabs(ey[i]));
    v[i] = at - step;
    exact_norm(c, v, low);
    v[i] = at + step;
    exact_norm(c, v, high);
    v[i] = at;
    for (j = 0; j < c->channels; j++) slope += (double)g[j] * (high[j] - low[j]) / (2 * step);
    error = fabs((double)back[i] - slope);
    if (!(error <= worst_back)) worst_back = error;
    largest_back = fmax(largest_back, fabs(slope));
  }
  for (; i < MAX_BLOCKS * AGF_CB; i++) CHECK(y[i] == 0 && back[i] == 0, "%s: lane %d beyond the channels is not 0", c->name, i);
  CHECK(worst <= 8 * 0x1p-24 * largest, "%s: off by %g of %g", c->name, worst, largest);
  CHECK(worst_back <= 8 * 0x1p-24 * largest_back + 1e-9, "%s: the gradient is off by %g of %g", c->name, worst_back, largest_back);
}

int main(int argc, char **argv) {
  static const norm_case norms[] = {{"layer norm", CHANNELS, 1, 0},
                                    {"layer norm in four groups", GROUPED, 4, 0},
                                    {"local response norm, 5", CHANNELS, 1, 5},
                                    {"local response norm, 4", CHANNELS, 1, 4}};
  unsigned long stride = 1021; /* a prime: 4 million floats of each */
  agf_kernels k;
  int i;
  if (argc == 3 && !strcmp(argv[1], "--stride")) stride = strtoul(argv[2], NULL, 0);
  if ((argc != 1 && argc != 3) || stride < 1 || stride > 1000000) {
    fprintf(stderr, "usage: %s [--stride N]\n", argv[0]);
    return 2;
  }
  agf_kernels_choose(&k, NULL);
  for (i = 0; i < CASES; i++) check_activation(&k, &cases[i], (uint32_t)stride);
  for (i = 0; i < 4; i++) check_norm(&k, &norms[i]);
  return tests_end();
}
