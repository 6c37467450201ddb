/* Hostile model files: every truncation and every single-bit flip of a small file that has every op, with the CRCs as they were and
 * repaired, is refused or gives a model that can be planned, run and explained: no crash, no hang, no memory beyond what was
 * announced. Then files made to hurt: counts at the caps, graphs that would make planning slow, values at the borders of their
 * types. */
#include "testing.h"
#include "exercise.h"
#include <time.h>

/* Of the processor, not of the clock on the wall: other programs may be busy. */
static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int refused(agf_status got, const agf_error *err, agf_status code, const char *word) {
  return got == code && err->code == code && strstr(err->message, word) != NULL;
}

/* The models themselves are good, in every way of using them. */
static void test_models(void) {
  int which;
  unsigned flags;
  for (which = 0; which < TINY_MODELS; which++) {
    size_t bytes;
    unsigned char *data = tiny_model(which, &bytes);
    int good = 0, tried = 0;
    for (flags = 0; flags < 4096; flags += 61, tried++) {
      exercise_report r = exercise(data, bytes, flags & ~1024u, 1e8);
      CHECK(!r.broken, "%s, flags 0x%x: %s", tiny_names[which], flags, r.broken);
      good += r.explained;
    }
    CHECK(good == tried, "%s: explained %d times of %d", tiny_names[which], good, tried);
    for (flags = 1; flags < 16; flags++) { /* the other methods, in a session planned for each */
      exercise_report r = exercise(data, bytes, flags << 12 | (flags & 1) << 9, 1e8);
      CHECK(r.explained && !r.broken, "%s, method %u: %s", tiny_names[which], flags, r.broken ? r.broken : "not explained");
    }
    free(data);
  }
}

/* Between them they have every op: what is not in them is not attacked. */
static void test_every_op(void) {
  int op, which, i;
  for (op = 1; op <= tiny_ops(); op++) {
    int found = 0;
    for (which = 0; which < TINY_MODELS; which++) {
      size_t bytes;
      unsigned char *data = tiny_model(which, &bytes);
      size_t record = tiny_node_bytes((int)tiny_u32(data + 8));
      for (i = 0; i < (int)tiny_u32(data + 32); i++)
        found |= tiny_u32(data + TINY_HEADER + TINY_INPUT + (size_t)i * record) == (uint32_t)op;
      free(data);
    }
    CHECK(found, "no network of tests/tiny.h has the op %s", agf_op_name((agf_op)op));
  }
  CHECK(tiny_ops() >= AGF_OP_RESIZE, "%d ops are known", tiny_ops());
}

/* Every length below the whole; with repaired CRCs and sizes, cut at multiples of 64 too, the file is consistent as far as the
 * header can tell. */
static void test_truncations(void) {
  size_t bytes, n;
  unsigned char *data = tiny_model(0, &bytes), *cut;
  int accepted = 0, broken = 0;
  for (n = 0; n < bytes; n++) {
    int repair;
    for (repair = 0; repair < 3; repair++) {
      exercise_report r;
      void *memory;
      if (posix_memalign(&memory, 64, n ? n : 1)) exit(2); /* a block of its own, so that a checker sees reads beyond it */
      cut = (unsigned char *)memory;
      memcpy(cut, data, n);
      if (repair && n >= TINY_HEADER) {
        if (repair == 2) tiny_put64(cut + 16, n);
        tiny_seal(cut, n);
      }
      r = exercise(cut, n, 0, 1e7);
      accepted += r.opened;
      if (r.broken && !broken++) printf("  %lu bytes, repair %d: %s\n", (unsigned long)n, repair, r.broken);
      free(cut);
    }
  }
  CHECK(!accepted, "%d of %lu cut files were accepted", accepted, (unsigned long)bytes);
  CHECK(!broken, "%d cut files broke a promise", broken);
  free(data);
}

/* Every bit of a model of tiny.h, one after the other, turned over; repair: with the CRCs of what there is then. */
static void test_flips(const char *name, int repair) {
  int which = tiny_find(name);
  size_t bytes, bit, slow_bit = 0;
  unsigned char *data = tiny_model(which, &bytes);
  int opened = 0, explained = 0, broken = 0;
  double slowest = 0;
  for (bit = 0; bit < 8 * bytes; bit++) {
    exercise_report r;
    unsigned char head[TINY_HEADER];
    double t0 = seconds();
    memcpy(head, data, sizeof head);
    data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    if (repair) tiny_seal(data, bytes);
    r = exercise(data, bytes, (unsigned)bit * 61u & 0x3ff, 1e7);
    opened += r.opened;
    explained += r.explained != 0;
    if (r.broken && !broken++)
      printf("  %s, bit %lu of byte %lu: %s\n", name, (unsigned long)(bit % 8), (unsigned long)(bit / 8), r.broken);
    if (bit / 8 >= sizeof head) data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    memcpy(data, head, sizeof head);
    if (seconds() - t0 > slowest) slowest = seconds() - t0, slow_bit = bit;
  }
  CHECK(!broken, "%s: %d flips broke a promise", name, broken);
  /* the work is capped at some 10 ms; the rest is room for checkers */
  CHECK(slowest < 5, "%s: the flip of bit %lu took %.1f s", name, (unsigned long)slow_bit, slowest);
  if (repair) {
    /* most weights may have any value, so most flips give another good model: otherwise nothing behind the CRCs was reached */
    CHECK((size_t)explained > 8 * bytes / 20, "%s: only %d of %lu flips could be explained", name, explained,
          (unsigned long)(8 * bytes));
  } else {
    CHECK(!opened, "%s: %d flips were not noticed", name, opened);
  }
  free(data);
}

/* Opens a file whose field at `at` was set to v, CRCs repaired. */
static agf_status open_with(const unsigned char *data, size_t bytes, size_t at, uint32_t v, agf_error *err) {
  unsigned char *copy;
  void *memory;
  agf_model *m;
  agf_status st;
  if (posix_memalign(&memory, 64, bytes)) exit(2);
  copy = (unsigned char *)memory;
  memcpy(copy, data, bytes);
  tiny_put32(copy + at, v);
  tiny_seal(copy, bytes);
  st = agf_model_open_memory(copy, bytes, NULL, &m, err);
  agf_model_close(m);
  free(copy);
  return st;
}

static void test_fields(void) {
  size_t bytes, at;
  unsigned char *data = tiny_model(0, &bytes);
  agf_error err;
  static const struct {
    size_t at;
    uint32_t value;
    agf_status code;
    const char *word;
  } cases[] = {{8, 3, AGF_ERR_VERSION, "version 3"},
               {8, 0, AGF_ERR_FORMAT, "version 0"},
               {32, 4097, AGF_ERR_LIMIT, "nodes"},
               {36, 0xffffffffu, AGF_ERR_LIMIT, "edges"},
               {40, 0x7fffffff, AGF_ERR_LIMIT, "tensors"},
               {44, 0x7fffffff, AGF_ERR_LIMIT, "labels"},
               {48, 0xffffffffu, AGF_ERR_LIMIT, "string bytes"},
               {12, 0x7fffffc0, AGF_ERR_FORMAT, "cut off or damaged"},
               {64, 0, AGF_ERR_FORMAT, "input of 0 x 9 x 8"},
               {68, 65537, AGF_ERR_FORMAT, "input of 3 x 65537 x 8"},
               {144, 13, AGF_ERR_FORMAT, "unknown op 13"},
               {144 + 20, 65537, AGF_ERR_FORMAT, "out of range"},
               {144 + 20, 64, AGF_ERR_SHAPE, "window does not fit"}};
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    agf_status st = open_with(data, bytes, cases[i].at, cases[i].value, &err);
    CHECK(refused(st, &err, cases[i].code, cases[i].word), "offset %lu set to %lu: %s: %s", (unsigned long)cases[i].at,
          (unsigned long)cases[i].value, agf_status_name(st), err.message);
  }
  /* fill behind the outputs must be 0: kernels read it, and a mask would name channels that do not exist */
  at = tiny_u32(data + 12) + 4 * 2;
  CHECK(refused(open_with(data, bytes, at, 0x3c003c00, &err), &err, AGF_ERR_FORMAT, "fill"), "fill of a convolution: %s",
        err.message);
  free(data);
}

static double plan_seconds(unsigned char *data, size_t bytes, const char *what) {
  agf_model *m;
  agf_error err;
  agf_session_config c;
  agf_session *s;
  double t0 = seconds();
  memset(&c, 0, sizeof c);
  c.threads = 1;
  c.max_bytes = 1 << 20;
  CHECK(agf_model_open_memory(data, bytes, NULL, &m, &err) == AGF_OK, "%s: %s", what, err.message);
  if (m) CHECK(refused(agf_session_create(m, &c, &s, &err), &err, AGF_ERR_LIMIT, "max_bytes"), "%s: %s", what, err.message);
  agf_model_close(m);
  return seconds() - t0;
}

/* A file of `nodes` nodes: `make` fills in node i (0 based), the last one is a global average pool of the one before. */
typedef struct big {
  int nodes, edges;
  unsigned char *node, *edge;
} big;

static unsigned char *big_node(big *b, agf_op op) {
  unsigned char *p = b->node + (size_t)b->nodes++ * TINY_NODE;
  memset(p, 0, TINY_NODE);
  tiny_put32(p, (uint32_t)op);
  tiny_put32(p + 12, (uint32_t)b->edges);
  return p;
}

static void big_edge(big *b, int from) {
  unsigned char *p = b->node + (size_t)(b->nodes - 1) * TINY_NODE + 16;
  tiny_put32(b->edge + 4 * (size_t)b->edges++, (uint32_t)from);
  tiny_put32(p, tiny_u32(p) + 1);
}

/* All convolutions share one 1 x 1 convolution's weights, as many groups as channels; conv 0: there are none. */
static unsigned char *big_file(const big *b, int channels, int height, int width, int conv, size_t *bytes) {
  size_t header, weight_bytes = !conv ? 0 : channels > 1 ? tiny_up((size_t)(channels + 15) / 16 * 64) : 128;
  unsigned char *data = tiny_header(1, b->nodes, b->edges, conv != 0, 0, 1, weight_bytes, &header, bytes), *p = data + TINY_HEADER;
  tiny_put32(p, (uint32_t)channels);
  tiny_put32(p + 4, (uint32_t)height);
  tiny_put32(p + 8, (uint32_t)width);
  p += TINY_INPUT;
  memcpy(p, b->node, (size_t)b->nodes * TINY_NODE), p += (size_t)b->nodes * TINY_NODE;
  memcpy(p, b->edge, (size_t)b->edges * 4), p += (size_t)b->edges * 4;
  if (conv) {
    tiny_put32(p, TINY_F32);
    tiny_put32(p + 4, channels > 1 ? TINY_GROUPED : TINY_CONV);
    tiny_put32(p + 8, (uint32_t)channels);
    tiny_put32(p + 12, 1);
    tiny_put32(p + 16, 1);
    tiny_put32(p + 20, 1);
    tiny_put64(p + 24, header);
    tiny_put64(p + 32, weight_bytes);
    tiny_put32(data + header, 0x3f800000);
  }
  tiny_seal(data, *bytes);
  return data;
}

/* `pad` rows above and below and, for more than one channel, columns on either side. */
static void big_conv(big *b, int from, int channels, int stride, int pad) {
  unsigned char *p = big_node(b, AGF_OP_CONV);
  int i, step = channels > 1 ? 1 : 2;
  big_edge(b, from);
  for (i = 0; i < 2; i++) {
    tiny_put32(p + 20 + 4 * i, 1);
    tiny_put32(p + 28 + 4 * i, (uint32_t)stride);
    tiny_put32(p + 52 + 4 * i, 1);
  }
  for (i = 0; i < 4; i += step) tiny_put32(p + 36 + 4 * i, (uint32_t)pad);
  tiny_put32(p + 60, (uint32_t)channels);
  tiny_put32(p + 64, (uint32_t)channels);
  tiny_put32(p + 68, 1);
}

/* Graphs at the caps must be planned (twice: announced and created) in seconds, whatever their shape. */
static void test_planning_time(void) {
  static const char *const what[] = {"4,094 convolutions",          "a ladder of sums",
                                     "a concat of a million",       "dense connections",
                                     "convolutions of 65,535 rows", "convolutions that are nearly all padding"};
  big b;
  int which, i, j;
  b.node = (unsigned char *)malloc(4096 * TINY_NODE);
  b.edge = (unsigned char *)malloc(4 << 20);
  for (which = 0; which < (int)(sizeof what / sizeof *what); which++) {
    size_t bytes;
    unsigned char *data;
    double t;
    int h = 64, w = 64;
    b.nodes = b.edges = 0;
    if (which == 0) {
      for (i = 0; i < 4094; i++) big_conv(&b, i, 1, 1, 0);
    } else if (which == 1) { /* every tensor lives until its partner at the other end */
      for (i = 0; i < 2047; i++) big_conv(&b, i, 1, 1, 0);
      for (i = 2047; i < 4094; i++) {
        big_node(&b, AGF_OP_ADD);
        big_edge(&b, i);
        big_edge(&b, 4094 - i);
      }
    } else if (which == 2) {
      h = w = 16;
      big_conv(&b, 0, 1, 1, 0);
      big_node(&b, AGF_OP_CONCAT);
      for (i = 0; i < (1 << 20) - 2; i++) big_edge(&b, i % 2);
    } else if (which == 3) { /* each reads as many of those before it as the edges allow */
      for (i = 0; i < 2046; i++) {
        big_conv(&b, 2 * i, 1, 1, 0);
        big_node(&b, AGF_OP_ADD);
        big_edge(&b, 2 * i + 1);
        big_edge(&b, 1);
      }
      big_node(&b, AGF_OP_CONCAT);
      for (j = 0; j < 500000; j++) big_edge(&b, 1 + j % 4000);
    } else {
      h = which == 5 ? 1 : 65535;
      w = 1;
      big_conv(&b, 0, 1, 1, which == 5 ? 32767 : 0);
      for (i = 1; i < 4094; i++) big_conv(&b, which == 5 ? 0 : i, 1, 1, which == 5 ? 32767 : 0);
    }
    big_node(&b, AGF_OP_GLOBAL_AVGPOOL);
    big_edge(&b, b.nodes - 1);
    data = big_file(&b, 1, h, w, 1, &bytes);
    t = plan_seconds(data, bytes, what[which]);
    /* measured 0.4 s at most, and ten times that under ASan; work that grows with the square of the counts takes minutes */
    CHECK(t < 10, "%s: planned in %.2f s", what[which], t);
    if (getenv("AGF_TIMES")) printf("  %s: %.3f s\n", what[which], t);
    free(data);
  }
  free(b.node);
  free(b.edge);
}

/* A session of height x width pixels that needs at least `least` bytes: the need is told, or refused by name where size_t cannot
 * count it, and never are fewer bytes asked for. */
static void check_need(const agf_model *model, int height, int width, double least, const char *what) {
  static uint64_t memory[8192];
  static const char *const word = "the session needs ";
  agf_session_config c;
  agf_session *s;
  agf_allocator a;
  agf_error err;
  agf_status st;
  size_t bytes = 1;
  ledger l;
  double told;
  memset(&c, 0, sizeof c);
  c.height = height;
  c.width = width;
  c.threads = 1;
  a = ledger_allocator(&l);
  l.largest = 32 << 20; /* more than the tables of a plan take */
  c.allocator = &a;
  st = agf_session_bytes(model, &c, &bytes, &err);
  told = st == AGF_OK ? (double)bytes : !strncmp(err.message, word, strlen(word)) ? strtod(err.message + strlen(word), NULL) : 0;
  CHECK(told >= least &&
            (st == AGF_OK || (least > (double)(SIZE_MAX / 4) && !bytes && refused(st, &err, AGF_ERR_LIMIT, "address"))),
        "%s at %d x %d: %s, %.0f bytes: %s", what, height, width, agf_status_name(st), told, err.message);
  st = agf_session_create(model, &c, &s, &err);
  CHECK(!s && (refused(st, &err, AGF_ERR_MEMORY, "no memory") || (st == AGF_ERR_LIMIT && told > (double)(SIZE_MAX / 2))),
        "%s at %d x %d is created: %s", what, height, width, err.message);
  c.max_bytes = 1 << 30;
  CHECK(refused(agf_session_create(model, &c, &s, &err), &err, AGF_ERR_LIMIT, "more than max_bytes 1073741824") && !s &&
            strtod(err.message + strlen(word), NULL) == told,
        "%s at %d x %d, at most 1 GiB: %s", what, height, width, err.message);
  c.max_bytes = 0;
  c.memory = (unsigned char *)memory + (64 - (uintptr_t)memory % 64) % 64;
  c.memory_bytes = sizeof memory - 64;
  st = agf_session_create(model, &c, &s, &err);
  CHECK(!s && (st == AGF_ERR_MEMORY || st == AGF_ERR_LIMIT), "%s at %d x %d in 64 KiB: %s", what, height, width, err.message);
}

/* Sizes whose bytes do not fit 32 bits, among them some whose products of sides are 0 in 32 bits, and sums that do not fit 64. */
static void test_sizes(void) {
  static const int sides[][2] = {{8192, 8192}, {16384, 8192}, {20000, 20000}, {65536, 1024}, {1025, 65536}, {26000, 26000}};
  size_t bytes, i;
  unsigned char *data = tiny_model(3, &bytes);
  agf_model *m;
  agf_error err;
  big b;
  int convs;
  CHECK(agf_model_open_memory(data, bytes, NULL, &m, &err) == AGF_OK, "%s", err.message);
  for (i = 0; m && i < sizeof sides / sizeof *sides; i++) /* the image, in blocks of 16 floats, is the least of it */
    check_need(m, sides[i][0], sides[i][1], 64.0 * sides[i][0] * sides[i][1], tiny_names[3]);
  agf_model_close(m);
  free(data);
  /* 2^20 channels padded to 2^17 x 2^17 pixels: 2^56 bytes before each convolution */
  b.node = (unsigned char *)malloc(512 * TINY_NODE);
  b.edge = (unsigned char *)malloc(512 * 4);
  for (convs = 1; convs <= 300; convs += 299) {
    b.nodes = b.edges = 0;
    for (i = 0; i < (size_t)convs; i++) big_conv(&b, (int)i, 1 << 20, 1 << 16, 1 << 16);
    big_node(&b, AGF_OP_GLOBAL_AVGPOOL);
    big_edge(&b, b.nodes - 1);
    data = big_file(&b, 1 << 20, 1, 1, 1, &bytes);
    CHECK(agf_model_open_memory(data, bytes, NULL, &m, &err) == AGF_OK, "%s", err.message);
    if (m) check_need(m, 0, 0, convs > 1 ? 9223372036854775807.0 : 72057594037927936.0, "convolutions of padding");
    agf_model_close(m);
    free(data);
  }
  free(b.node);
  free(b.edge);
}

/* What is wrong with a shuffle, and what is not: memory. */
static void test_shuffle(void) {
  static const float odd[] = {3, 4, -1, 0.5f, NAN, 1e9f};
  size_t bytes, i, at = 0, tensor;
  unsigned char *data = tiny_model(tiny_find("moves"), &bytes);
  agf_error err;
  int n, nodes = (int)tiny_u32(data + 32), edges = (int)tiny_u32(data + 36);
  for (n = 0; n < nodes; n++) {
    const unsigned char *p = data + TINY_HEADER + TINY_INPUT + (size_t)n * TINY_NODE2;
    if (tiny_u32(p) == AGF_OP_SHUFFLE) {
      tensor = TINY_HEADER + TINY_INPUT + (size_t)nodes * TINY_NODE2 + (size_t)edges * 4 + (tiny_u32(p + 68) - 1) * TINY_TENSOR;
      at = tiny_u32(data + tensor + 24);
    }
  }
  CHECK(at, "there is a shuffle");
  for (i = 0; at && i < sizeof odd / sizeof *odd; i++) { /* its second number is 2 */
    uint32_t bits;
    memcpy(&bits, &odd[i], 4);
    CHECK(refused(open_with(data, bytes, at + 4, bits, &err), &err, AGF_ERR_FORMAT, isnan(odd[i]) ? "NaN" : "each of 0 to 3 once"),
          "a channel from %g: %s", (double)odd[i], err.message);
  }
  free(data);
}

/* Every allocation of every call that allocates fails once: AGF_ERR_MEMORY with a message, and nothing leaks. */
static void test_failing_allocations(const char *name) {
  static const char *const calls[] = {"agf_model_open_memory", "agf_model_layer", "agf_picture_to_input", "agf_session_bytes",
                                      "agf_session_create"};
  size_t bytes, n;
  unsigned char *data = tiny_model(tiny_find(name), &bytes);
  uint8_t photo[20 * 10 * 3];
  float x[3 * 13 * 12];
  int picture = !strcmp(name, "all_ops");
  int call;
  memset(photo, 77, sizeof photo);
  for (call = 0; call < (int)(sizeof calls / sizeof *calls); call++) {
    long fail;
    if (call == 2 && !picture) continue;
    agf_status st = AGF_ERR_MEMORY;
    for (fail = 1; st == AGF_ERR_MEMORY && fail < 100; fail++) {
      ledger l;
      agf_allocator a;
      agf_model_config mc;
      agf_session_config c;
      agf_model *m = NULL;
      agf_session *s = NULL;
      agf_layer layer;
      agf_error err;
      a = ledger_allocator(&l);
      memset(&mc, 0, sizeof mc);
      memset(&c, 0, sizeof c);
      mc.allocator = &a;
      c.allocator = &a;
      c.threads = 2;
      if (call == 0) l.fail_at = fail;
      st = agf_model_open_memory(data, bytes, &mc, &m, &err);
      if (call > 0) l.calls = 0, l.fail_at = fail;
      if (call == 1) st = agf_model_layer(m, 3, 12, 12, &layer, &err);
      if (call == 2) st = agf_picture_to_input(m, 13, 12, photo, 20, 10, 60, x, NULL, &err);
      if (call == 3) st = agf_session_bytes(m, &c, &n, &err);
      if (call == 4) st = agf_session_create(m, &c, &s, &err);
      CHECK(st == AGF_OK || refused(st, &err, AGF_ERR_MEMORY, "memory"), "%s, allocation %ld fails: %s", calls[call], fail,
            err.message);
      CHECK((st == AGF_OK) == (l.calls < fail), "%s: allocation %ld failed unnoticed", calls[call], fail);
      agf_session_destroy(s);
      agf_model_close(m);
      CHECK(l.blocks == 0 && l.live == 0, "%s, allocation %ld fails: %ld blocks leak", calls[call], fail, l.blocks);
    }
    CHECK(st == AGF_OK && fail > 2, "%s never succeeded, or never allocated", calls[call]);
  }
  free(data);
}

/* A caller that hands in the memory needs no heap. */
static void test_no_heap(void) {
  size_t bytes, n = 0;
  unsigned char *data = tiny_model(0, &bytes);
  agf_model *m;
  agf_session *s;
  agf_session_config c;
  agf_allocator none;
  agf_error err;
  void *memory;
  ledger l;
  memset(&c, 0, sizeof c);
  c.threads = 1;
  none = ledger_allocator(&l);
  CHECK(agf_model_open_memory(data, bytes, NULL, &m, &err) == AGF_OK && agf_session_bytes(m, &c, &n, &err) == AGF_OK, "%s",
        err.message);
  if (posix_memalign(&memory, 64, n)) exit(2);
  c.allocator = &none;
  c.memory = memory;
  c.memory_bytes = n;
  CHECK(agf_session_create(m, &c, &s, &err) == AGF_OK && !l.calls, "in the caller's memory, without a heap: %s", err.message);
  agf_session_destroy(s);
  c.memory_bytes = n - 1;
  CHECK(refused(agf_session_create(m, &c, &s, &err), &err, AGF_ERR_MEMORY, "needs") && !s, "a byte too little: %s", err.message);
  c.memory_bytes = 100;
  CHECK(refused(agf_session_create(m, &c, &s, &err), &err, AGF_ERR_MEMORY, "needs") && !s, "100 bytes: %s", err.message);
  agf_model_close(m);
  free(memory);
  free(data);
}

/* Arguments at the borders of their types. */
static void test_extremes(void) {
  size_t bytes;
  unsigned char *data = tiny_model(0, &bytes);
  float map[4] = {1, -1, 0.5f, 0}, x[3];
  uint8_t rgb[12] = {0}, tall[3] = {0};
  agf_rect seen = {NAN, 0, 2, 2};
  agf_model *m;
  agf_error err;
  CHECK(agf_overlay(map, 2, 2, AGF_CMAP_JET, 0, 1, &seen, rgb, 2, 2, 6, &err) == AGF_OK && rgb[0] == 0,
        "a rectangle at NaN covers nothing");
  seen.left = INFINITY;
  seen.width = INFINITY;
  CHECK(agf_overlay(map, 2, 2, AGF_CMAP_JET, 0, 1, &seen, rgb, 2, 2, 6, &err) == AGF_OK && rgb[0] == 0,
        "a rectangle at infinity covers nothing");
  CHECK(agf_model_open_memory(data, bytes, NULL, &m, &err) == AGF_OK, "%s", err.message);
  /* a picture one pixel wide, for an input as tall as can be: resized beyond the integers */
  CHECK(refused(agf_picture_to_input(m, 65536, 1, tall, 1, 65536, 3, x, NULL, &err), &err, AGF_ERR_LIMIT, "resized"), "%s",
        err.message);
  agf_model_close(m);
  free(data);
}

/* A tensor and the same one flattened have equal sizes here, but are no summands: which of the two the sum is, is not said. Nor are
 * signal and gate, nor two tensors of as many elements flattened from other shapes. */
static void test_flattened(void) {
  int which;
  for (which = 0; which < 5; which++) {
    size_t bytes;
    tiny t;
    unsigned char *data;
    agf_error err;
    agf_model *m = NULL;
    int x, f, y;
    tiny_begin(&t, "flattened", 3, 4, 2);
    t.version = 2;
    x = tiny_conv(&t, 0, 3, 5, TINY_F32, 0, 3, 1, 1, 1, 1);
    f = tiny_node(&t, AGF_OP_FLATTEN, x, -1);
    switch (which) {
      case 0: y = tiny_node(&t, AGF_OP_ADD, f, f); break;
      case 1: y = tiny_node(&t, AGF_OP_ADD, f, x); break;
      case 2: y = tiny_node(&t, AGF_OP_ADD, x, f); break;
      case 3: y = tiny_node(&t, AGF_OP_MUL, f, x); break;
      default: y = tiny_node(&t, AGF_OP_ADD, f, tiny_node(&t, AGF_OP_FLATTEN, tiny_adaptive(&t, x, 2, 4), -1));
    }
    tiny_linear(&t, y, TINY_F32, 5, 4, 2, 3);
    data = tiny_end(&t, &bytes);
    if (which == 0)
      CHECK(agf_model_open_memory(data, bytes, NULL, &m, &err) == AGF_OK, "%s", err.message);
    else
      CHECK(refused(agf_model_open_memory(data, bytes, NULL, &m, &err), &err, AGF_ERR_SHAPE, which == 3 ? "mul" : "flattened"),
            "case %d: %s", which, m ? "accepted" : err.message);
    agf_model_close(m);
    free(data);
  }
}

/* A network of version 2: every field of every node's record set to values at the borders of integers and floats. What is still
 * accepted is planned, and a part of it run and explained by one method or another. */
static void test_newer_ops(const char *name) {
  static const uint32_t values[] = {0,          1,          2,          3,          14,         65536,      0x7fffffff, 0xffffffff,
                                    0x7fc00000, 0x7f800000, 0x7f7fffff, 0xff7fffff, 0xbf800000, 0x3f000000, 0x80000000};
  size_t bytes, at, tables = TINY_HEADER + TINY_INPUT;
  unsigned char *data = tiny_model(tiny_find(name), &bytes);
  unsigned i, count = 0;
  int opened = 0, explained = 0, broken = 0;
  for (at = tables; at < tables + TINY_NODE2 * (size_t)tiny_u32(data + 32); at += 4)
    for (i = 0; i < sizeof values / sizeof *values; i++, count++) {
      exercise_report r;
      uint32_t old = tiny_u32(data + at);
      tiny_put32(data + at, values[i]);
      tiny_seal(data, bytes);
      r = exercise(data, bytes, count * 61u & 0xfbff, count % 4 ? 0 : 1e7);
      opened += r.opened;
      explained += r.explained != 0;
      if (r.broken && !broken++)
        printf("  %s, node %lu, offset %lu set to 0x%x: %s\n", name, (unsigned long)((at - tables) / TINY_NODE2),
               (unsigned long)((at - tables) % TINY_NODE2), (unsigned)values[i], r.broken);
      tiny_put32(data + at, old);
    }
  CHECK(!broken, "%s: %d changed fields broke a promise", name, broken);
  CHECK(opened > 0 && explained > 0, "%s: of %u changes %d were accepted, %d explained", name, count, opened, explained);
  data[8] = 1; /* as version 1, which has neither the ops nor the longer records */
  tiny_seal(data, bytes);
  CHECK(!exercise(data, bytes, 0, 0).opened, "%s is accepted as a file of version 1", name);
  free(data);
}

static void test_flips_seen(const char *name) { test_flips(name, 0); }
static void test_flips_sealed(const char *name) { test_flips(name, 1); }

int main(int argc, char **argv) {
  int which;
  tests_begin(argc, argv);
  RUN(test_sizes);
  RUN(test_models);
  RUN(test_every_op);
  RUN(test_fields);
  RUN(test_truncations);
  RUN_ON(test_flips_seen, "all_ops");
  RUN_ON(test_flips_sealed, "all_ops");
  RUN_ON(test_flips_sealed, "conv_logits");
  RUN_ON(test_flips_sealed, "pool_logits");
  for (which = TINY_NEWER; which < TINY_MODELS; which++) RUN_ON(test_newer_ops, tiny_names[which]);
  RUN_ON(test_flips_sealed, "moves");
  RUN(test_planning_time);
  RUN(test_shuffle);
  RUN_ON(test_failing_allocations, "all_ops");
  RUN_ON(test_failing_allocations, "moves");
  RUN(test_no_heap);
  RUN(test_extremes);
  RUN(test_flattened);
  return tests_end();
}
