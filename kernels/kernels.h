/* The kernel table: what every kernel computes, bit for bit, and how the engine hands it its tensors.
 *
 * Tensors are nChw16c: blocks of 16 channels, [block][row][pixel][16], the lanes beyond the last channel 0 and kept 0. A kernel
 * works on one row of `n` pixels of one block (16 * n contiguous floats) unless it says otherwise. Masks hold one bit for each
 * lane of a pixel, set where the value is not 0 (NaN counts as not 0); whoever produces a tensor that a convolution reads writes
 * its mask. A mask pointer that is NULL: no mask is wanted.
 *
 * Bits. Each sum of products is one chain of fused multiply-adds from +0 in the order given; a term whose x is 0 may be left
 * out. Everything else is done in the operations as written, each rounded once, never contracted. agf_exp, agf_sigmoid and
 * agf_sdiv below are those of kernels/ref.h, operation by operation. "tree16(v)" adds 16 lanes as
 * ((v0+v8)+(v4+v12)) + ((v2+v10)+(v6+v14)) + ... : v[l] += v[l+8], then l+4, l+2, l+1, over the shrinking lower half.
 *
 * kernels/ref.h defines every kernel in portable C; an instruction set's header overwrites entries with faster ones that return
 * the same bits. */
#ifndef AGF_KERNELS_H
#define AGF_KERNELS_H

enum { AGF_CB = 16, AGF_OCG = 32 }; /* channels of a block; outputs of a weight panel */

/* The kinds of right-hand sides that share one walk over the weights; x0, x1, x2 are the vectors of 16 that lie side by side at a
 * pixel. All that there is one of for each kind is made from this list: KIND(name, sides, vectors at a pixel, and for each of up to
 * three sides whether it multiplies |W|, whether it reads |x|, which vector it reads). */
#define AGF_RHS_LIST(KIND)                                                             \
  KIND(W, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)      /* W x0 */                             \
  KIND(D, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0)      /* |W| |x0| */                         \
  KIND(A, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)      /* |W| x0 */                           \
  KIND(FWD, 2, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0)    /* W x0, |W| |x0| */                   \
  KIND(FLAT, 2, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0)   /* W x0, |W| x1 */                     \
  KIND(TRIPLE, 3, 3, 0, 1, 1, 0, 0, 0, 0, 1, 2) /* W x0, |W| x1, |W| x2 */             \
  KIND(APAIR, 2, 2, 1, 1, 0, 0, 0, 0, 0, 1, 0)  /* |W| x0, |W| x1 */

#define AGF_RHS_NAME(name, ...) AGF_RHS_##name,
typedef enum agf_rhs { AGF_RHS_LIST(AGF_RHS_NAME) AGF_RHS_KINDS } agf_rhs;
#undef AGF_RHS_NAME

typedef struct agf_rhs_form {
  int n, vectors;
  unsigned char abs_w[3], abs_x[3], in[3];
} agf_rhs_form;

static inline agf_rhs_form agf_rhs_get(agf_rhs k) {
#define AGF_RHS_FORM(name, n, vectors, w0, w1, w2, x0, x1, x2, v0, v1, v2) {n, vectors, {w0, w1, w2}, {x0, x1, x2}, {v0, v1, v2}},
  static const agf_rhs_form forms[AGF_RHS_KINDS] = {AGF_RHS_LIST(AGF_RHS_FORM)};
#undef AGF_RHS_FORM
  return forms[k];
}

/* How many vectors a pixel of the input and of the accumulators holds. */
static inline int agf_rhs_in(agf_rhs k) { return agf_rhs_get(k).vectors; }
static inline int agf_rhs_out(agf_rhs k) { return agf_rhs_get(k).n; }

/* Whether one of them multiplies |W|. */
static inline int agf_rhs_magnitudes(agf_rhs k) {
  const agf_rhs_form f = agf_rhs_get(k);
  return f.abs_w[0] || f.abs_w[1] || f.abs_w[2];
}

/* The bits that are kept of the values of the last one: all, or all but the sign, for |x|. */
static inline uint32_t agf_rhs_kept(agf_rhs k) {
  const agf_rhs_form f = agf_rhs_get(k);
  return f.abs_x[f.n - 1] ? 0x7fffffffu : 0xffffffffu;
}

/* Convolutions and their adjoints in one form. Tap t of a kernel row joins input pixel p and output o where
 *   o * down = p * up + pad - t * dilation:
 * the convolution itself has down = its stride and up = 1; its adjoint up = the stride, down = 1, the taps reversed and
 * pad = (kw - 1) * dilation - the convolution's pad (which may be negative). Either way the input pixels of an output ascend
 * with t, and one of up and down is 1.
 *
 * One kernel row of `blocks` input blocks, added to one row of accumulators, for as many outputs as the entry says:
 *   acc[o][j][l] += sum over (block ascending, input pixel p ascending, lane i ascending) of x_j[p][i] * w[i][t][l],
 * terms with a clear mask bit left out, p < w_in, 0 <= o < w_out. More than one block only where kw is 1. */
typedef struct agf_conv_row {
  const float *x;       /* pixel 0: vectors of 16, x_j at x + 16 * j */
  ptrdiff_t xp, xb;     /* floats from pixel to pixel, block to block */
  const uint16_t *mask; /* [w_in], the union of the right-hand sides' nonzeros (a subset selects terms) */
  ptrdiff_t mb;         /* masks from block to block */
  const float *w;       /* panels [outputs / 32][16 lanes][kw][32 outputs], the first output; 16 outputs: half a panel, and so on */
  ptrdiff_t wb;         /* floats from block to block */
  const float *wa;      /* |w| laid out as w, where agf_kernels.magnitudes asks for it and the kind multiplies it */
  ptrdiff_t wab;        /* floats from block to block of wa */
  float *acc;           /* output 0, right-hand side 0; AGF_MARGIN outputs on either side are scratch */
  ptrdiff_t ap, ar;     /* floats from output pixel to output pixel, right-hand side to right-hand side */
  int blocks, w_in, w_out, kw, down, up, dilation, pad;
  uint32_t kept; /* agf_rhs_kept of the entry's kind */
  int fresh;     /* one tap that reaches every output: the accumulators are not read but begin at +0 */
} agf_conv_row;
typedef void agf_conv_row_fn(const agf_conv_row *r);

enum { AGF_MARGIN = 3 }; /* 7 taps of stride 2 padded by 3 reach that far beyond either end */

/* Kernel rows that have kernels of their own. The 3- and 7-tap shapes are undilated, and all that the walk over their windows
 * touches is outputs [-AGF_MARGIN, w_out + AGF_MARGIN). 1: one tap, any stride, 0 <= o < w_out for every p that meets an output. */
typedef enum agf_conv_shape {
  AGF_SHAPE_ANY,
  AGF_SHAPE_1,
  AGF_SHAPE_3,      /* down = up = 1 */
  AGF_SHAPE_3_DOWN, /* down = 2 */
  AGF_SHAPE_3_UP,   /* up = 2 */
  AGF_SHAPE_7_UP,   /* up = 2; W alone (the image's box rule), on x86: agf_cut falls back on ANY */
  AGF_SHAPES
} agf_conv_shape;

enum { AGF_CONV_SIZES = 5 };

/* Kernels of one shape and one kind by the outputs that a call adds to, descending, the last of at most 16; unused entries are 0.
 * All are powers of two. */
typedef struct agf_conv_entry {
  agf_conv_row_fn *row;
  int outputs;
} agf_conv_entry;

/* The same sums without skipping, for the first `outputs` of a panel, for one row, and all kernel rows of `blocks` input blocks:
 *   acc[o][l] += sum over (block, kernel row k, tap t, lane i), ascending,
 *   of x[block][k][o * xo + t * xt + i] * w[block][k][i][t][l].
 * Reads the zero border where a convolution's input is padded. */
typedef struct agf_dense_row {
  const float *x;           /* output 0, block 0, kernel row 0, tap 0 */
  ptrdiff_t xo, xt, xr, xb; /* floats from output to output, tap to tap, kernel row to kernel row, block to block */
  const float *w;           /* panel [lanes][kw][32] */
  ptrdiff_t wr, wb;         /* floats from kernel row to kernel row, block to block */
  float *acc;
  ptrdiff_t ap;             /* floats from output pixel to output pixel */
  int blocks, lanes, kh, kw, n; /* lanes: of each block, 1 to 16; n output pixels */
  int outputs;                  /* 16 or 32 */
  int fresh;                    /* the accumulators are not read but begin at +0 */
  const float *y;               /* where the outputs will go, pixels 16 floats apart: kernels may ask memory for it, but do not touch it */
  ptrdiff_t yb;                 /* floats from one block of 16 outputs to the next */
} agf_dense_row;
typedef void agf_dense_row_fn(const agf_dense_row *r);

/* Which channels the 16 lanes of an output block read together. */
typedef enum agf_reads {
  AGF_READS_ANY,
  AGF_READS_LANE,  /* depthwise: lane l reads channel index[0] + l, those of one block */
  AGF_READS_BLOCK, /* channels of one and the same block for all of index */
  AGF_READS_ONE,   /* the same channel in all lanes: blocks that lie within a group */
  AGF_READS_TWO    /* the same channel in lanes 0 to 7, and in lanes 8 to 15: groups of 8 channels or a multiple */
} agf_reads;

/* Grouped and depthwise convolutions and their adjoints: one row of one output block, all kernel rows and input blocks,
 *   acc[o][j][l] = sum over (input block b, kernel row k, tap t, lane i of the block) of x_j * w[b][k][t][i][l],
 * ascending, from +0, zeros included; each output lane l reads its own group's channel index[16 * (16 * b + i) + l]. Taps join
 * pixels and outputs as in agf_conv_row, in both directions; those that meet no pixel of the input are left out, or read 0 from
 * the border. */
typedef struct agf_gconv_row {
  const float *x;             /* row 0, pixel 0, block 0 */
  ptrdiff_t xp, xr, xb;       /* floats from pixel to pixel, row to row, block to block */
  const int32_t *index;       /* [lanes_in][16]: channel read by output lane l */
  int lanes_in;               /* channels of a group */
  agf_reads reads;
  const float *w;             /* [ceil(lanes_in / 16)][kh][kw][lanes of the block][16] */
  float *acc;                 /* [w_out][right-hand sides][16], overwritten */
  int row, w_in, h_in, w_out; /* row: the output's */
  int border;                 /* pixels of zeros on either side of a row of x */
  int kh, down_h, up_h, dilation_h, pad_h;
  int kw, down, up, dilation, pad;
} agf_gconv_row;
typedef void agf_gconv_row_fn(const agf_gconv_row *r);

typedef enum agf_act { AGF_ACT_NONE, AGF_ACT_RELU, AGF_ACT_RELU6 } agf_act;

/* Activations of their own (agf-spec, "Newer networks"): what cannot be fused as agf_act is. */
typedef enum agf_activation {
  AGF_LEAKY_RELU,  /* x > 0 ? x : alpha * x */
  AGF_PRELU,       /* the same with a slope for each channel */
  AGF_ELU,         /* x > 0 ? x : alpha * (e^x - 1) */
  AGF_SILU,        /* x * sigmoid(x) */
  AGF_HARDSWISH,   /* x * clip(x / 6 + 1/2, 0, 1) */
  AGF_GELU,        /* x / 2 * (1 + erf(x / sqrt 2)) */
  AGF_GELU_TANH,   /* x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) */
  AGF_MISH,        /* x * tanh(ln(1 + e^x)) */
  AGF_SIGMOID,
  AGF_HARDSIGMOID, /* clip(alpha * x + beta, 0, 1) */
  AGF_TANH,
  AGF_SOFTPLUS,    /* ln(1 + e^x) */
  AGF_CLIP,        /* x <= alpha ? alpha : x >= beta ? beta : x; alpha <= beta */
  AGF_ACTIVATIONS
} agf_activation;

typedef struct agf_activation_row {
  agf_activation f;
  float alpha, beta;  /* finite; read where f names them */
  const float *slope; /* [16], of a block, PRELU */
  int lanes;          /* 1 to 16: channels that the block has; the lanes beyond them stay 0, whatever f(0) is */
} agf_activation_row;

/* What a tensor x is multiplied by: s is one value a channel ([C,1,1]; a kernel gets the 16 of its block), one a pixel ([1,H,W]: lane 0 of
 * its only block), or a tensor of x's shape. */
typedef enum agf_factor { AGF_FACTOR_CHANNEL, AGF_FACTOR_PIXEL, AGF_FACTOR_FULL } agf_factor;

/* Layer normalisation: at each pixel, each of `groups` equal groups of neighbouring channels by itself. */
typedef struct agf_norm_row {
  const float *x;             /* [blocks][n][16], blocks xb floats apart */
  ptrdiff_t xb;
  int channels, groups;       /* groups divides channels; a group may begin and end within a block */
  double eps;
  const float *gamma, *beta;  /* [blocks * 16] */
} agf_norm_row;

/* Local response normalisation: y_c = x_c * (k + alpha * (sum of x^2 over channels c - size / 2 ... c + (size - 1) / 2))^-beta. */
typedef struct agf_lrn_row {
  const float *x;             /* [blocks][n][16], blocks xb floats apart */
  ptrdiff_t xb;
  int blocks, size;
  float alpha, beta, k;       /* k > 0, alpha >= 0, and divided by size where the network's definition does so */
  float *scratch;             /* lrn: 16 * blocks + size floats; lrn_back: twice that */
} agf_lrn_row;

/* From (cam, g) behind an activation and a BatchNorm to what the adjoint reads: cam' and g' are the rule ReLU applied where `act`
 * says so (y: the activation's output), g' *= scale. rhs, side by side per pixel, by the number of quotients:
 *   0: cam' [, g']    1: [g',] sdiv(cam', D)    2: [g',] sdiv(cam', D), sdiv(cam', B) */
typedef struct agf_gate_row {
  const float *cam, *g; /* [n][16]; g NULL: no gradient is asked for */
  const float *mean;    /* cam is what `combine` left, and becomes shift(cam, *mean); NULL: it is what it is */
  const float *y;       /* [n][16], read where act is not NONE */
  const float *scale;   /* [16] or NULL */
  int quotients;
  const float *d;       /* [n][16], read where there is a quotient */
  const float *b;       /* [classes][b_stride]: conv(1, |w|) by border class, read where there are two */
  const uint8_t *column_class; /* [n], the row of b */
  ptrdiff_t b_stride;
  float *rhs;           /* [n][right-hand sides][16]; one right-hand side: may be cam */
  uint16_t *mask;       /* [n]: any right-hand side nonzero; NULL: not wanted */
  uint16_t *cam_mask;   /* [n]: cam' nonzero; NULL: not wanted */
  agf_act act;
} agf_gate_row;

/* Windows of a pooling row: the same for max, average, adaptive and global pools. */
typedef struct agf_pool_row {
  const float *x;            /* input plane of the block: row h at x + h * xr */
  ptrdiff_t xr, tr;          /* floats from row to row of x, and of the adjoint's t and tg */
  int h0, h1;                /* window's rows, within the input */
  const int32_t *w0, *w1;    /* [n] window's columns, within the input */
  int dh, dw;                /* from tap to tap: rows h0, h0 + dh ... below h1 */
  const float *div;          /* [n] average pools: the divisor; NULL: max pool */
  int magnitudes;            /* agf_kernels.pool averages |x| */
  int n;                     /* output pixels */
} agf_pool_row;

typedef struct agf_kernels {
  const char *isa;

  agf_conv_entry conv[AGF_SHAPES][AGF_RHS_KINDS][AGF_CONV_SIZES];
  /* W x, and |W| |x|; NULL: skipping is never slower. `dense_from`: the percentage of nonzeros from which on they are taken, for
   * kinds W, D and FWD, by the outputs of the first call: 16, 32, ... 256. Skipping W x for few outputs makes few chains of
   * additions, which wait for each other. */
  agf_dense_row_fn *dense_w, *dense_d;
  int dense_packed; /* bytes of weights that dense_w and dense_d want to lie side by side; 0: they read them where they are */
  unsigned char dense_from[AGF_SHAPES][3][AGF_CONV_SIZES];
  int magnitudes; /* the rows want |w| formed once per panel: where a register's absolute value costs as much as a multiplication */
  agf_gconv_row_fn *gconv[AGF_RHS_KINDS];
  /* acc[l] = the chain from acc[l] on over k < rows, ascending, of fmaf(value, f(w[k * ws + l])), l < lanes (16 or 32).
   * f: |w|, max(w, 0) or min(w, 0), as filter is -1, 1 or 2. */
  void (*border)(const float *w, ptrdiff_t ws, int rows, int lanes, float value, int filter, float *acc);

  /* to[c * ts + r] = from[r * fs + c] for r < rows <= 16, c < 16; other columns of `to` are left. */
  void (*transpose)(const float *from, ptrdiff_t fs, int rows, float *to, ptrdiff_t ts);
  /* f[i] = h[i], widened exactly. */
  void (*widen)(const uint16_t *h, float *f, size_t n);
  /* CRC-32 (IEEE) continued over n bytes. */
  uint32_t (*crc32)(uint32_t crc, const unsigned char *p, size_t n);
  /* Whether all n numbers are finite. */
  int (*finite)(const float *w, size_t n);
  int (*finite_half)(const uint16_t *h, size_t n);
  /* lo = min(lo, x[i]), hi = max(hi, x[i]) over n numbers, + 0; lo <= hi on entry; open what comes out where one is NaN. */
  void (*range)(const float *x, size_t n, float *lo, float *hi);
  /* The mask of each pixel's nonzeros. */
  void (*nonzeros)(const float *x, int n, uint16_t *mask);

  /* y = act(scale ? fmaf(acc, scale, bias) : acc + bias); mask of y. acc is read `as` floats apart. Returns nonzero if a value
   * before the activation is not finite. act: RELU is x > 0 ? x : +0, RELU6 also x > 6 ? 6 : x. */
  int (*store_y)(const float *acc, ptrdiff_t as, int n, const float *scale, const float *bias, agf_act act, float *y,
                 uint16_t *mask);
  /* y = acc + 0 */
  void (*store)(const float *acc, ptrdiff_t as, int n, float *y);
  /* c = |x| * acc + 0 */
  void (*store_c)(const float *acc, ptrdiff_t as, int n, const float *x, float *c);
  /* z = (acc - lo[class]) - hi[class] + 0, class tables as agf_gate_row.b. Returns nonzero where one is not 0 and
   * |z| <= limit * (|lo| + |hi|). */
  int (*store_z)(const float *acc, ptrdiff_t as, int n, const float *lo, const float *hi, const uint8_t *column_class, ptrdiff_t stride,
                 float limit, float *z);
  /* out = (x * t0 - lo * t1) - hi * t2 + 0 for the first `lanes` of 16, 0 beyond; t1, t2 as t0 */
  void (*store_box)(const float *t0, const float *t1, const float *t2, ptrdiff_t as, int n, int lanes, const float *x, float lo,
                    float hi, float *out);

  /* Returns nonzero if g' is nonzero in a lane where cam' is 0. */
  int (*gate)(const agf_gate_row *r, int n);

  /* cam' and g' of agf_gate_row in place, for what no convolution lies before; g NULL: no gradients. */
  void (*act_back)(float *cam, float *g, const float *y, const float *scale, agf_act act, int n);

  /* y = f(x), mask of y; returns nonzero if a y is not finite. y may be x. */
  int (*activate)(const agf_activation_row *r, const float *x, int n, float *y, uint16_t *mask);
  /* In place, either may be NULL: cam where y = f(x) is not 0, else 0 (y is read for that alone); g *= f'(x), at a kink the slope of the
   * side below it, at the ends of a clip 0. */
  void (*activate_back)(const agf_activation_row *r, const float *x, const float *y, int n, float *cam, float *g);

  /* y = x * s, mask of y; returns nonzero if a y is not finite. y may be x. */
  int (*product)(agf_factor kind, const float *x, const float *s, int n, float *y, uint16_t *mask);
  /* In place, each of cam, g, gs may be NULL: cam where y = x * s is not 0, else 0; gs = g * x; then g *= s. */
  void (*product_back)(agf_factor kind, const float *x, const float *s, const float *y, int n, float *cam, float *g, float *gs);
  /* The gradient of one value a channel: sum[l] += x * g, in double, pixels ascending (the product is exact). Of one a pixel: lane 0 of
   * out is tree16(chain over blocks of fmaf(x, g)), the others 0. */
  void (*product_sums)(const float *x, const float *g, int n, double *sum);
  void (*pixel_dots)(const float *x, ptrdiff_t xbs, const float *g, ptrdiff_t gbs, int blocks, int n, float *out);

  /* Normalisation over pixels, per lane of a block; what stands for a lane beyond the last channel is 0.
   * lane_squares: with d = x - mean, sum[l] += d * d, in double, pixels ascending.
   * affine: y = fmaf(x - mean, scale, shift), mask of y; returns nonzero if a y is not finite; y may be x.
   * affine_back: g = fmaf(g, a, fmaf(x - mean, b, c)) in place. With r = 1 / sqrt(var + eps) and sums over the N elements that were
   * normalised together, a = r * gamma, b = -r^3 / N * sum(g * gamma * (x - mean)), c = -r / N * sum(g * gamma). */
  void (*lane_squares)(const float *x, const float *mean, int n, double *sum);
  int (*affine)(const float *x, const float *mean, const float *scale, const float *shift, int n, float *y, uint16_t *mask);
  void (*affine_back)(const float *x, const float *mean, const float *a, const float *b, const float *c, int n, float *g);

  /* All blocks of a row of n pixels; y may not be x. Sums in double: lanes (a group's channels ascending, lane by lane), then tree16; mean
   * and r = 1 / sqrt(var + eps) rounded once. y = fmaf((x - mean) * r, gamma, beta), masks of y mb apart; returns nonzero if a y is not
   * finite. back: g in place, from x as layer_norm read it. */
  int (*layer_norm)(const agf_norm_row *r, int n, float *y, ptrdiff_t yb, uint16_t *mask, ptrdiff_t mb);
  void (*layer_norm_back)(const agf_norm_row *r, int n, float *g, ptrdiff_t gb);
  /* The same for local response normalisation. */
  int (*lrn)(const agf_lrn_row *r, int n, float *y, ptrdiff_t yb, uint16_t *mask, ptrdiff_t mb);
  void (*lrn_back)(const agf_lrn_row *r, int n, float *g, ptrdiff_t gb);

  /* Several readers: first s = sdiv(cam, x) in place; next s += sdiv(cam, x), g += h (h NULL: no gradients); last cam = x * s in
   * place. */
  void (*merge_first)(float *cam, const float *x, int n);
  void (*merge_next)(float *s, const float *cam, const float *x, float *g, const float *h, int n);
  void (*merge_last)(float *s, const float *x, int n);

  /* y = act(x0 + x1), mask; returns nonzero if a sum is not finite. out = x * sdiv(cam, y). */
  int (*add)(const float *x0, const float *x1, agf_act act, int n, float *y, uint16_t *mask);
  void (*add_back)(const float *cam, const float *y, const float *x, int n, float *out);

  /* Pools. Max: the first maximum in row-major order; average: the sum in row-major order from +0, divided. Adjoints add one output
   * row's s = sdiv(cam, y) and g (each NULL if not wanted) to t and tg, planes of the input's size: max to the maximum's place,
   * average s / div and g / div to every place of the window. */
  void (*pool)(const agf_pool_row *r, float *y, uint16_t *mask);
  void (*pool_back)(const agf_pool_row *r, const float *y, const float *cam, const float *g, float *t, float *tg);
  /* cam = x * t in place */
  void (*mul)(float *t, const float *x, int n);

  /* The factorisation of a plain convolution (agf-spec, "Conv, any other"). Blocks lie cbs, xbs, gbs floats apart.
   * pixel_sums: phi[p] = tree16(sum over blocks of C), xg[p] = tree16(chain over blocks of fmaf(x, G)); G NULL: xg is left. */
  void (*pixel_sums)(const float *c, ptrdiff_t cbs, const float *x, ptrdiff_t xbs, const float *g, ptrdiff_t gbs, int blocks,
                     int n, float *phi, float *xg);
  /* lanes[l] = max(lanes[l], x[p][l]) over the pixels. */
  void (*row_max)(const float *x, int n, float *lanes);
  /* q = sigmoid(10 * sdiv(x, max)); pos[l] += q where phi > 0, neg[l] += q where phi < 0, in double, pixels ascending. kept: all q;
   * NULL: not wanted. */
  void (*fx_sums)(const float *x, float max, const float *phi, int n, double *pos, double *neg, float *kept);
  /* out[p] = relu(relu(tree16(chain of fmaf(q, a))) - relu(tree16(chain of fmaf(q, b)))), chains over blocks; a, b [blocks][16]. kept: x
   * holds q, and max is not read. */
  void (*fx_dots)(const float *x, ptrdiff_t xbs, int kept, float max, const float *a, const float *b, int blocks, int n, float *out);
  /* out[p] = relu(tree16(chain over blocks of fmaf(x, a)) / channels). */
  void (*weighted_mean)(const float *x, ptrdiff_t xbs, const float *a, int blocks, int n, float channels, float *out);
  /* sum[l] += x, in double, pixels ascending. */
  void (*lane_sums)(const float *x, int n, double *sum);
  /* r = ((fxm / (1 + exp(-c)) + fdx) + a) where c != 0; no_reg: fxm is added as it is; a_off: a counts as 0. c = c + r where c != 0, else
   * -0, which no such sum is. sum[l] += r in double; returns the count of c != 0. */
  long (*combine)(float *c, const float *a, const float *fxm, const float *fdx, int no_reg, int a_off, int n, double *sum);
  /* c = +0 where it is -0, else c - mean. */
  void (*shift)(float *c, float mean, int n);

  /* Linear layers. W is [rows][ld], columns outputs. Forward: y[o] += chain over rows ascending of fmaf(x[k], W[k][o]),
   * d[o] += the same with |x|, |W| (d NULL: not wanted); rows with x[k] == 0 are not read. */
  void (*linear)(const float *x, int rows, const float *w, ptrdiff_t ld, int columns, float *y, float *d);
  /* Adjoint, rows whose x is 0 skipped unless all: tg[k] = dot32(W[k], g), ts[k] = dot32(|W[k]|, s). dot32: lane m is the chain
   * over k = m, m + 32, ...; then lane m += lane m + 16, then tree16, + 0. columns is a multiple of 32. tg or ts may be NULL. */
  void (*linear_back)(const float *x, int all, int rows, const float *w, ptrdiff_t ld, int columns, const float *g, const float *s,
                      float *tg, float *ts);
} agf_kernels;

static void agf_kernels_ref(agf_kernels *k);

#endif /* AGF_KERNELS_H */
