/* Every convolution kernel of every instruction set that this machine has, against the portable one, bit for bit, on random
 * geometries. `check_conv [seed]`. */
#include "../agf.c"

static uint64_t state;

static uint32_t draw(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 32);
}
static int pick(int lo, int hi) { return lo + (int)(draw() % (uint32_t)(hi - lo + 1)); }
static float value(void) { return (float)(int)(draw() >> 8) * 0x1p-22f - 2.0f; }

static const char *const kinds[] = {"W", "D", "A", "FWD", "FLAT", "TRIPLE", "APAIR"};
static const char *const shapes[] = {"any", "1", "3", "3down", "3up"};
static int passed, failed;

static float *filled(size_t n) {
  float *p = (float *)malloc(n * sizeof(float));
  size_t i;
  for (i = 0; i < n; i++) p[i] = value();
  return p;
}

/* One random call of entry e, and the portable kernel's, 16 outputs at a time. */
static int try_row(const agf_kernels *k, const agf_kernels *ref, int shape, int kind, int e) {
  const agf_conv_entry *entry = &k->conv[shape][kind][e];
  int outputs = entry->outputs, in = agf_rhs_in((agf_rhs)kind), out = agf_rhs_out((agf_rhs)kind), i, l, bad = 0, canary;
  int density = pick(0, 16),
      stride = shape == AGF_SHAPE_3        ? 1
               : shape >= AGF_SHAPE_3_DOWN ? 2
                                           : pick(1, 3),
      up = pick(0, 1), panels;
  agf_conv_row r, q;
  agf_axis a;
  size_t n, x_size, w_size;
  float *x, *w, *wa, *acc, *want;
  uint16_t *mask;
  memset(&r, 0, sizeof r);
  if (shape == AGF_SHAPE_3_DOWN) up = 0;
  if (shape == AGF_SHAPE_3_UP) up = 1;
  do {
    r.down = up ? 1 : stride;
    r.up = up ? stride : 1;
    r.w_in = pick(1, 20);
    r.w_out = pick(1, 40);
    r.kw = shape == AGF_SHAPE_1 ? 1 : shape == AGF_SHAPE_ANY ? pick(1, 7) : 3;
    r.dilation = shape == AGF_SHAPE_ANY ? pick(1, 3) : 1;
    r.pad = pick(-3, 8);
    a.k = r.kw, a.down = r.down, a.up = r.up, a.dilation = r.dilation, a.pad = r.pad, a.in = r.w_in, a.out = r.w_out;
  } while (shape != AGF_SHAPE_ANY && (int)agf_shape_of(&a) != shape);
  r.blocks = shape == AGF_SHAPE_1 ? pick(1, 4) : 1;
  panels = (outputs + 31) / 32;
  r.xp = AGF_CB * in + pick(0, 1) * AGF_CB;
  r.xb = r.xp * (r.w_in + pick(0, 2));
  r.mb = r.w_in + pick(0, 2);
  r.wb = (ptrdiff_t)panels * AGF_CB * r.kw * AGF_OCG + pick(0, 1) * 64;
  r.ar = agf_imax(outputs, 16) + pick(0, 1) * 16; /* the portable kernel adds to 16 */
  r.ap = r.ar * out + pick(0, 1) * 8;
  x_size = (size_t)(r.xb * r.blocks);
  w_size = (size_t)(r.wb * r.blocks);
  n = (size_t)r.ap * (size_t)(r.w_out + 2 * AGF_MARGIN);
  x = filled(x_size);
  w = filled(w_size);
  wa = (float *)malloc(w_size * sizeof(float));
  for (i = 0; i < (int)w_size; i++) wa[i] = fabsf(w[i]);
  mask = (uint16_t *)malloc((size_t)(r.mb * r.blocks) * 2);
  for (i = 0; i < r.mb * r.blocks; i++)
    for (mask[i] = 0, l = 0; l < 16; l++) mask[i] |= (uint16_t)((unsigned)(pick(1, 16) <= density) << l);
  acc = filled(n);
  want = (float *)malloc(n * sizeof(float));
  memcpy(want, acc, n * sizeof(float));
  r.x = x, r.w = w, r.mask = mask;
  r.wa = k->magnitudes && agf_rhs_magnitudes((agf_rhs)kind) ? wa : NULL;
  r.wab = r.wb;
  r.acc = acc + AGF_MARGIN * r.ap;
  entry->row(&r);
  for (l = 0; l < outputs; l += 16) {
    int o = outputs < 16 ? 0 : l;
    float *part = filled(n);
    q = r;
    memcpy(part, want, n * sizeof(float));
    q.acc = part + AGF_MARGIN * r.ap + o;
    q.w = w + (ptrdiff_t)(o / 32) * AGF_CB * r.kw * AGF_OCG + o % 32;
    ref->conv[AGF_SHAPE_ANY][kind][1].row(&q);
    memcpy(want, part, n * sizeof(float));
    free(part);
  }
  for (i = 0; i < r.w_out; i++)
    for (l = 0; l < (int)r.ap; l++) {
      size_t at = (size_t)((i + AGF_MARGIN) * r.ap + l);
      canary = l >= out * r.ar || l % r.ar >= outputs;
      if (outputs < 16 && canary) { /* the portable kernel has added to 16 */
        continue;
      }
      bad |= memcmp(&acc[at], &want[at], 4) != 0;
    }
  if (bad)
    printf("%s %s %s outputs %d: differs (w_in %d w_out %d kw %d down %d up %d dilation %d pad %d blocks %d)\n", k->isa,
           shapes[shape], kinds[kind], outputs, r.w_in, r.w_out, r.kw, r.down, r.up, r.dilation, r.pad, r.blocks);
  free(x), free(w), free(wa), free(mask), free(acc), free(want);
  return bad;
}

static int try_dense(const agf_kernels *k, const agf_kernels *ref, int d) {
  agf_dense_row r, q;
  size_t n;
  float *x, *w, *acc, *want;
  int bad;
  r.n = pick(1, 40);
  r.kh = pick(1, 4);
  r.kw = pick(1, 4);
  r.lanes = pick(1, 16);
  r.blocks = pick(1, 3);
  r.xo = AGF_CB * pick(1, 3);
  r.xt = AGF_CB * pick(1, 2);
  r.xr = r.xo * r.n + r.xt * r.kw + AGF_CB * pick(0, 2);
  r.xb = r.xr * r.kh;
  r.wr = (ptrdiff_t)r.lanes * r.kw * AGF_OCG + 32 * pick(0, 1);
  r.wb = r.wr * r.kh;
  r.ap = AGF_OCG + 16 * pick(0, 1);
  n = (size_t)(r.ap * r.n);
  x = filled((size_t)(r.xb * r.blocks));
  w = filled((size_t)(r.wb * r.blocks));
  acc = filled(n);
  want = (float *)malloc(n * sizeof(float));
  memcpy(want, acc, n * sizeof(float));
  r.x = x, r.w = w, r.acc = acc;
  q = r;
  q.acc = want;
  (d ? k->dense_d : k->dense_w)(&r);
  (d ? ref->dense_d : ref->dense_w)(&q);
  bad = memcmp(acc, want, n * sizeof(float)) != 0;
  if (bad)
    printf("%s dense %s differs (n %d kh %d kw %d lanes %d blocks %d)\n", k->isa, d ? "d" : "w", r.n, r.kh, r.kw, r.lanes,
           r.blocks);
  free(x), free(w), free(acc), free(want);
  return bad;
}

/* A grouped row: groups of `lanes` channels make groups of `lanes_out`, one random block of the output. */
static int try_grouped(const agf_kernels *k, const agf_kernels *ref, int kind) {
  int in = agf_rhs_in((agf_rhs)kind), out = agf_rhs_out((agf_rhs)kind), stride = pick(1, 3), up = pick(0, 1),
      depthwise = pick(0, 1);
  int lanes = depthwise ? 1 : pick(1, 40),
      lanes_out = depthwise    ? 1
                  : pick(0, 1) ? 1 << pick(0, 5)
                               : pick(1, 40),
      groups = pick(1, 20);
  int channels = groups * lanes, blocks = (channels + 15) / 16, block, i, l, bad;
  agf_gconv_row r, q;
  float *x, *w, *acc, *want;
  int32_t *index = (int32_t *)malloc((size_t)lanes * 64);
  size_t n;
  memset(&r, 0, sizeof r);
  if (pick(0, 1)) lanes_out = lanes;
  block = pick(0, (groups * lanes_out - 1) / 16);
  for (i = 0; i < lanes; i++)
    for (l = 0; l < AGF_CB; l++)
      index[i * AGF_CB + l] = lanes == 1 && lanes_out == 1
                                  ? block * AGF_CB + l
                                  : agf_imin(block * AGF_CB + l, groups * lanes_out - 1) / lanes_out * lanes + i;
  r.kh = pick(1, 4), r.kw = pick(1, 5);
  r.dilation_h = pick(1, 2), r.dilation = pick(1, 3);
  r.pad_h = pick(-2, 4), r.pad = pick(-2, 6);
  r.down_h = up ? 1 : stride, r.down = up ? 1 : stride;
  r.up_h = up ? stride : 1, r.up = up ? stride : 1;
  r.h_in = pick(1, 6), r.w_in = pick(1, 30), r.w_out = pick(1, 40), r.row = pick(0, 8);
  r.border = pick(0, 2);
  r.xp = AGF_CB * in, r.xr = r.xp * (r.w_in + 2 * r.border), r.xb = r.xr * r.h_in;
  x = filled((size_t)(r.xb * blocks));
  for (i = 0; i < blocks * r.h_in; i++) {
    memset(x + i * r.xr, 0, (size_t)(r.xp * r.border) * 4);
    memset(x + (i + 1) * r.xr - r.xp * r.border, 0, (size_t)(r.xp * r.border) * 4);
  }
  n = (size_t)(r.w_out * out * AGF_CB);
  w = filled((size_t)(r.kh * r.kw * (lanes + 15) / 16 * 16 * AGF_CB + AGF_CB * AGF_CB * r.kh * r.kw));
  acc = filled(n), want = filled(n);
  r.x = x + r.border * r.xp, r.w = w, r.index = index, r.lanes_in = lanes, r.acc = acc;
  r.reads = agf_reads_of(index, lanes);
  q = r;
  q.acc = want;
  k->gconv[kind](&r);
  ref->gconv[kind](&q);
  bad = memcmp(acc, want, n * sizeof(float)) != 0;
  if (bad)
    printf("%s grouped %s differs: %d lanes to %d, reads %d, kernel %d x %d, down %d up %d, border %d\n", k->isa, kinds[kind],
           lanes, lanes_out, (int)r.reads, r.kh, r.kw, r.down, r.up, r.border);
  free(x), free(w), free(acc), free(want), free(index);
  return bad;
}

static int try_transpose(const agf_kernels *k, const agf_kernels *ref) {
  int rows = pick(1, 16), fs = 16 + pick(0, 20), ts = 16 + pick(0, 20), bad;
  float *from = filled((size_t)fs * 16), *a = filled((size_t)ts * 16), *b = (float *)malloc((size_t)ts * 64);
  memcpy(b, a, (size_t)ts * 64);
  k->transpose(from, fs, rows, a, ts);
  ref->transpose(from, fs, rows, b, ts);
  bad = memcmp(a, b, (size_t)ts * 64) != 0;
  if (bad) printf("%s transpose of %d rows differs\n", k->isa, rows);
  free(from), free(a), free(b);
  return bad;
}

static int try_border(const agf_kernels *k, const agf_kernels *ref) {
  static const int filters[] = {-1, 1, 2};
  int rows = pick(1, 16), lanes = 16 * pick(1, 2), ws = lanes * pick(1, 3), filter = filters[pick(0, 2)], bad;
  float *w = filled((size_t)(rows * ws)), *a = filled(32), b[32], v = pick(0, 1) ? 1.0f : value();
  memcpy(b, a, sizeof b);
  k->border(w, ws, rows, lanes, v, filter, a);
  ref->border(w, ws, rows, lanes, v, filter, b);
  bad = memcmp(a, b, sizeof b) != 0;
  if (bad) printf("%s border differs: %d rows, %d lanes, filter %d\n", k->isa, rows, lanes, filter);
  free(w), free(a);
  return bad;
}

static void count(int bad) {
  if (bad)
    failed++;
  else
    passed++;
}

int main(int argc, char **argv) {
  static const char *const isas[] = {"ref", "avx2", "avx512", "neon"};
  agf_kernels ref, k;
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
  int isa, shape, kind, e, i, bad;
  printf("seed %llu\n", (unsigned long long)seed);
  state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
  agf_kernels_ref(&ref);
  for (isa = 0; isa < 4; isa++) {
    agf_kernels_ref(&k);
#if defined(AGF_KERNELS_X86)
    if (isa && !agf_kernels_x86(&k, isas[isa])) continue;
#elif defined(AGF_KERNELS_ARM)
    if (isa && !agf_kernels_arm(&k, isas[isa])) continue;
#else
    if (isa) continue;
#endif
    for (shape = 0; shape < AGF_SHAPES; shape++)
      for (kind = 0; kind < AGF_RHS_KINDS; kind++)
        for (e = 0; e < AGF_CONV_SIZES && k.conv[shape][kind][e].row; e++) {
          for (bad = i = 0; i < 200 && !bad; i++) bad = try_row(&k, &ref, shape, kind, e);
          count(bad);
        }
    for (kind = 0; kind < AGF_RHS_KINDS; kind++) {
      for (bad = i = 0; i < 400 && !bad; i++) bad = try_grouped(&k, &ref, kind);
      count(bad);
    }
    for (e = 0; e < 2; e++) {
      for (bad = i = 0; i < 300 && !bad; i++) bad = try_dense(&k, &ref, e);
      count(bad);
    }
    for (bad = i = 0; i < 100 && !bad; i++) bad = try_transpose(&k, &ref);
    count(bad);
    for (bad = i = 0; i < 100 && !bad; i++) bad = try_border(&k, &ref);
    count(bad);
  }
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
