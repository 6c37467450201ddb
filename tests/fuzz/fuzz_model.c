/* Fuzz target: a model file opened, asked, planned, run and explained (tests/exercise.h). Built for libFuzzer or AFL++
 * (`make fuzz`; `afl-clang-fast -fsanitize=fuzzer` takes it as it is), and with -DFUZZ_REPLAY as a program that runs files.
 *
 * The mutator knows the format: it changes whole fields, tables and weights, keeps the header's counts and sizes in step, and
 * repairs both CRCs, or nothing behind them would be reached. */
#include "../exercise.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

/* How the model is used comes from the file's own CRC, so that a file says everything. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  exercise_report r;
  void *memory;
  if (posix_memalign(&memory, 64, size ? size : 1)) return 0;
  if (size) memcpy(memory, data, size);
  r = exercise((const unsigned char *)memory, size, size >= TINY_HEADER ? tiny_u32(data + 24) : 0, 3e6);
  if (r.broken) {
    fprintf(stderr, "broken promise: %s\n", r.broken);
    abort();
  }
  free(memory);
  return 0;
}

/* Values that sit at the borders of what fields may hold. */
static uint32_t interesting(uint32_t *state) {
  static const uint32_t values[] = {0,           1,           2,          3,          4,          7,           8,
                                    15,          16,          17,         31,         32,         33,          255,
                                    256,         4096,        65535,      65536,      65537,      1 << 20,     0x7fffffff,
                                    0x80000000u, 0xffffffffu, 0x3f800000, 0x7f800000, 0x7f7fffff, 0xbf800000u, 0x00000001};
  return values[tiny_random(state) % (sizeof values / sizeof *values)];
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
  uint32_t state = seed, nodes, edges, tensors, labels, header, at, i;
  size_t start[6], count[6], width[6], record;
  if (size < TINY_HEADER + TINY_INPUT || tiny_random(&state) % 64 == 0) {
    size_t bytes;
    unsigned char *model = tiny_model((int)(tiny_random(&state) % TINY_MODELS), &bytes);
    if (bytes <= max_size) memcpy(data, model, size = bytes);
    free(model);
    if (size < TINY_HEADER) return LLVMFuzzerMutate(data, size, max_size);
  }
  header = tiny_u32(data + 12);
  nodes = tiny_u32(data + 32);
  edges = tiny_u32(data + 36);
  tensors = tiny_u32(data + 40);
  labels = tiny_u32(data + 44);
  record = tiny_node_bytes((int)(tiny_u32(data + 8) & 3));
  if (nodes > 4096 || edges > 65536 || tensors > 8192 || labels > 65536 || header > size ||
      TINY_HEADER + TINY_INPUT + (size_t)nodes * record + (size_t)edges * 4 + (size_t)tensors * TINY_TENSOR + (size_t)labels * 4 >
          header) {
    size = LLVMFuzzerMutate(data, size, max_size); /* not a structure any more */
    if (tiny_random(&state) % 4) tiny_seal(data, size);
    return size;
  }
  start[0] = TINY_HEADER, count[0] = TINY_INPUT / 4, width[0] = 4;
  start[1] = start[0] + TINY_INPUT, count[1] = nodes, width[1] = record;
  start[2] = start[1] + (size_t)nodes * record, count[2] = edges, width[2] = 4;
  start[3] = start[2] + (size_t)edges * 4, count[3] = tensors, width[3] = TINY_TENSOR;
  start[4] = start[3] + (size_t)tensors * TINY_TENSOR, count[4] = labels, width[4] = 4;
  start[5] = header, count[5] = (size - header) / 4, width[5] = 4;
  for (i = 0; i < 1 + tiny_random(&state) % 3; i++) {
    uint32_t t = tiny_random(&state) % 8, how = tiny_random(&state) % 8;
    uint8_t *p;
    if (t > 5) t = 1; /* nodes say most */
    if (!count[t]) continue;
    p = data + start[t] + tiny_random(&state) % count[t] * width[t];
    at = tiny_random(&state) % (uint32_t)(width[t] / 4) * 4;
    if (how < 2) {
      tiny_put32(p + at, interesting(&state));
    } else if (how < 5) { /* small changes: most fields are small numbers */
      tiny_put32(p + at, tiny_u32(p + at) + tiny_random(&state) % 7 - 3);
    } else if (how == 5) { /* another entry of the same table */
      memcpy(p, data + start[t] + tiny_random(&state) % count[t] * width[t], width[t]);
    } else if (how == 6) {
      LLVMFuzzerMutate(p, width[t], width[t]);
    } else if (t == 1) { /* another op, with the fields that it needs cleared or set */
      uint32_t op = 1 + tiny_random(&state) % (record == TINY_NODE2 ? (uint32_t)tiny_ops() : AGF_OP_CONCAT), k;
      tiny_put32(p, op);
      if (op != AGF_OP_CONV && op != AGF_OP_LINEAR && op != AGF_OP_BATCHNORM && op != AGF_OP_NORM)
        for (k = 60; k < 76; k += 4) tiny_put32(p + k, 0);
      if (op != AGF_OP_CONV && op != AGF_OP_MAXPOOL) memset(p + 52, 0, 8);
      if (op != AGF_OP_CONV && op != AGF_OP_MAXPOOL && op != AGF_OP_AVGPOOL && op != AGF_OP_PAD) memset(p + 20, 0, 32);
      if (op == AGF_OP_PAD) memset(p + 20, 0, 16);
      for (k = 76; k < record; k += 4) tiny_put32(p + k, 0);
      if (op > AGF_OP_CONCAT) { /* an argument and numbers from 0.5 up */
        tiny_put32(p + 76, tiny_random(&state) % 14);
        for (k = 80; k < 92; k += 4)
          if (tiny_random(&state) % 2) tiny_put32(p + k, 0x3f000000 + (tiny_random(&state) % 3 << 23));
      }
      if (op == AGF_OP_SLICE) tiny_put32(p + 64, 1 + tiny_random(&state) % 4);
      if (op == AGF_OP_NORM) tiny_put32(p + 60, 1 + tiny_random(&state) % 4);
      if (op == AGF_OP_MAXPOOL || op == AGF_OP_AVGPOOL || op == AGF_OP_CONV || op == AGF_OP_ADAPTIVE_AVGPOOL || op == AGF_OP_RESIZE)
        for (k = 20; k < (op == AGF_OP_ADAPTIVE_AVGPOOL || op == AGF_OP_RESIZE ? 28u : 36u); k += 4)
          if (!tiny_u32(p + k)) tiny_put32(p + k, 1 + tiny_random(&state) % 3);
      tiny_put32(p + 4, tiny_random(&state) % 4 ? 0 : tiny_random(&state) % 8);
    } else if (t == 3) { /* the dimensions, with the size that belongs to them */
      tiny_put32(p + 8 + tiny_random(&state) % 4 * 4, 1 + tiny_random(&state) % 40);
    } else {
      tiny_put32(p + at, 0);
    }
  }
  /* one more node before the last, reading any edge; every table behind it moves */
  if (tiny_random(&state) % 8 == 0 && nodes && size + 128 + 64 <= max_size) {
    size_t grown = tiny_up(header + record + 4), old = header;
    uint8_t *last;
    memmove(data + grown, data + old, size - old);
    memset(data + old, 0, grown - old);
    memmove(data + start[3] + record + 4, data + start[3], old - start[3]);
    memmove(data + start[2] + record, data + start[2], edges * 4);
    last = data + start[2] - record;
    memmove(last + record, last, record);
    memset(last, 0, record);
    tiny_put32(last, AGF_OP_RELU);
    tiny_put32(last + 12, tiny_u32(last + record + 12));
    tiny_put32(last + 16, 1);
    tiny_put32(last + record + 12, tiny_u32(last + 12) + 1);
    at = tiny_u32(last + 12);
    if (at < edges) {
      uint8_t *e = data + start[2] + record + at * 4;
      memmove(e + 4, e, (edges - at) * 4);
      tiny_put32(e, tiny_random(&state) % nodes);
      if (tiny_random(&state) % 2) tiny_put32(e + 4, nodes);
    }
    tiny_put32(data + 32, nodes + 1);
    tiny_put32(data + 36, edges + 1);
    tiny_put32(data + 12, (uint32_t)grown);
    size += grown - old;
    for (i = 0; i < tensors; i++) {
      uint8_t *p = data + start[3] + record + 4 + (size_t)i * TINY_TENSOR + 24;
      tiny_put32(p, tiny_u32(p) + (uint32_t)(grown - old));
    }
    tiny_put64(data + 16, size);
  }
  if (tiny_random(&state) % 16) tiny_seal(data, size);
  return size;
}

#ifdef __cplusplus
}
#endif

#ifdef FUZZ_REPLAY
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
  (void)data;
  (void)max_size;
  return size;
}

static int write_seeds(const char *folder) {
  int i;
  for (i = 0; i < TINY_MODELS; i++) {
    char path[1024];
    size_t bytes;
    unsigned char *data = tiny_model(i, &bytes);
    FILE *f;
    snprintf(path, sizeof path, "%s/%s.agf", folder, tiny_names[i]);
    f = fopen(path, "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f)) {
      fprintf(stderr, "%s cannot be written\n", path);
      return 1;
    }
    free(data);
  }
  return 0;
}

/* FILE ...: runs them. --seeds FOLDER: writes the seeds of tests/fuzz/model there. */
int main(int argc, char **argv) {
  agf_model *model;
  int i;
  if (argc == 3 && !strcmp(argv[1], "--seeds")) return write_seeds(argv[2]);
  for (i = 1; i < argc; i++) {
    FILE *f = fopen(argv[i], "rb");
    uint8_t *data = (uint8_t *)malloc(1 << 20);
    size_t n;
    if (!f || !data) return 2;
    n = fread(data, 1, 1 << 20, f);
    fclose(f);
    LLVMFuzzerTestOneInput(data, n);
    if (agf_model_open(argv[i], NULL, &model, NULL) == AGF_OK) agf_model_close(model); /* mapped, too */
    free(data);
  }
  printf("%d passed, 0 failed\n", argc - 1);
  return 0;
}
#endif
