/* Small model files made in memory, for the tests of hostile input: every op and every layout of weights in a few KB, so that whole
 * files can be taken bit by bit. Written from the format's description in agf.h, not with the converter's code. */
#ifndef AGF_TINY_H
#define AGF_TINY_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "../agf.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TINY_HEADER = 64, TINY_INPUT = 80, TINY_NODE = 80, TINY_NODE2 = 96, TINY_TENSOR = 40 }; /* TINY_NODE2: since version 2 */
enum { TINY_F32 = 1, TINY_F16 = 2 };
enum { TINY_VECTOR, TINY_CONV, TINY_GROUPED, TINY_LINEAR };

static inline uint32_t tiny_u32(const unsigned char *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void tiny_put32(unsigned char *p, uint32_t v) {
  p[0] = (unsigned char)v;
  p[1] = (unsigned char)(v >> 8);
  p[2] = (unsigned char)(v >> 16);
  p[3] = (unsigned char)(v >> 24);
}

static inline void tiny_put64(unsigned char *p, uint64_t v) {
  tiny_put32(p, (uint32_t)v);
  tiny_put32(p + 4, (uint32_t)(v >> 32));
}

static inline size_t tiny_up(size_t n) { return (n + 63) / 64 * 64; }

static inline uint32_t tiny_crc(uint32_t crc, const unsigned char *p, size_t n) {
  static uint32_t table[256];
  uint32_t i, k, v;
  if (!table[1])
    for (i = 0; i < 256; i++) {
      for (v = i, k = 0; k < 8; k++) v = v & 1 ? v >> 1 ^ 0xedb88320u : v >> 1;
      table[i] = v;
    }
  for (crc = ~crc; n--; p++) crc = crc >> 8 ^ table[(crc ^ *p) & 255];
  return ~crc;
}

/* Both CRCs, over what the header says about sizes, as far as the bytes reach. */
static inline void tiny_seal(unsigned char *data, size_t bytes) {
  size_t header;
  if (bytes < TINY_HEADER) return;
  header = tiny_u32(data + 12);
  if (header > bytes) header = bytes;
  tiny_put32(data + 28, tiny_crc(0, data + header, bytes - header));
  tiny_put32(data + 24, 0);
  tiny_put32(data + 24, tiny_crc(0, data, header));
}

/* How many ops the engine knows: their numbers are 1 to that. */
static inline int tiny_ops(void) {
  int op = 1;
  while (strcmp(agf_op_name((agf_op)op), agf_op_name((agf_op)0)) != 0) op++;
  return op - 1;
}

typedef struct tiny {
  unsigned char input[TINY_INPUT], node[64 * TINY_NODE2], tensor[64 * TINY_TENSOR], edge[4 * 128], label[4 * 64];
  char strings[2048];
  unsigned char weights[1 << 16];
  size_t string_bytes, weight_bytes;
  int version, nodes, edges, tensors, labels;
  uint32_t random;
} tiny;

/* Length of a node's record in a file. */
static inline size_t tiny_node_bytes(int version) { return version == 2 ? TINY_NODE2 : TINY_NODE; }

static inline uint32_t tiny_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

static inline uint32_t tiny_string(tiny *t, const char *s) {
  uint32_t at = (uint32_t)t->string_bytes;
  memcpy(t->strings + at, s, strlen(s) + 1);
  t->string_bytes += strlen(s) + 1;
  return at;
}

/* A network for pictures of `channels` x height x width, with preprocessing where there are 1 or 3 channels. */
static inline void tiny_begin(tiny *t, const char *name, int channels, int height, int width) {
  static const float range_mean_std[9] = {1, 0.5f, 0.4f, 0.3f, 0, 0.2f, 0.25f, 0.3f, 0};
  int i, picture = channels == 1 || channels == 3;
  memset(t, 0, sizeof *t);
  t->version = 1;
  t->string_bytes = 1;
  t->random = 12345;
  tiny_put32(t->input, (uint32_t)channels);
  tiny_put32(t->input + 4, (uint32_t)height);
  tiny_put32(t->input + 8, (uint32_t)width);
  tiny_put32(t->input + 12, (uint32_t)picture);
  if (picture) {
    tiny_put32(t->input + 20, AGF_RESIZE_CROP);
    tiny_put32(t->input + 24, (uint32_t)(height > width ? height : width) + 2);
    for (i = 0; i < 9; i++) {
      uint32_t bits;
      memcpy(&bits, &range_mean_std[i], 4);
      tiny_put32(t->input + 28 + 4 * i, bits);
    }
  }
  tiny_put32(t->input + 64, tiny_string(t, name));
  tiny_put32(t->input + 68, tiny_string(t, "tests/tiny.h"));
}

/* One stored value in -1 to 1 (1/128 steps, exact as f16). */
static inline void tiny_value(tiny *t, int type, unsigned char *to) {
  float v = (float)((int)(tiny_random(&t->random) % 257) - 128) / 128;
  uint32_t bits;
  memcpy(&bits, &v, 4);
  if (type == TINY_F32) {
    tiny_put32(to, bits);
  } else {
    uint32_t half = v == 0 ? 0 : (bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 1023);
    to[0] = (unsigned char)half;
    to[1] = (unsigned char)(half >> 8);
  }
}

/* A tensor of random values, its fill 0. Returns its index + 1. */
static inline int tiny_tensor(tiny *t, int type, int layout, int d0, int d1, int d2, int d3) {
  unsigned char *p = t->tensor + TINY_TENSOR * t->tensors, *w = t->weights + t->weight_bytes;
  int size = type == TINY_F32 ? 4 : 2, width = layout == TINY_GROUPED ? 16 : 32, panels = (d0 + width - 1) / width;
  int rows = layout == TINY_VECTOR ? 1 : d1 * d2 * d3, b, k, i, o, lanes;
  size_t at = 0;
  if (layout == TINY_VECTOR) {
    for (o = 0; o < d0; o++, at += (size_t)size) tiny_value(t, type, w + at);
  } else if (layout == TINY_CONV) {
    for (b = 0; b < d1; b += 16)
      for (k = 0; k < d2 * panels; k++)
        for (lanes = d1 - b < 16 ? d1 - b : 16, i = 0; i < lanes * d3; i++)
          for (o = 0; o < width; o++, at += (size_t)size)
            if (k % panels * width + o < d0) tiny_value(t, type, w + at);
  } else {
    int outer = layout == TINY_GROUPED ? panels : 1, inner = layout == TINY_GROUPED ? 1 : panels;
    for (b = 0; b < outer; b++)
      for (i = 0; i < rows; i++)
        for (o = 0; o < inner * width; o++, at += (size_t)size)
          if (b * width + o < d0) tiny_value(t, type, w + at);
  }
  tiny_put32(p, (uint32_t)type);
  tiny_put32(p + 4, (uint32_t)layout);
  tiny_put32(p + 8, (uint32_t)d0);
  tiny_put32(p + 12, (uint32_t)d1);
  tiny_put32(p + 16, (uint32_t)d2);
  tiny_put32(p + 20, (uint32_t)d3);
  tiny_put64(p + 24, t->weight_bytes); /* from the first tensor on; tiny_end adds the tables' size */
  tiny_put64(p + 32, at);
  t->weight_bytes = tiny_up(t->weight_bytes + at);
  return ++t->tensors;
}

/* A node without window or weights that reads edges a and, unless negative, b. Returns its edge. */
static inline int tiny_node(tiny *t, agf_op op, int a, int b) {
  unsigned char *p = t->node + TINY_NODE2 * t->nodes;
  char name[32];
  snprintf(name, sizeof name, "%s%d", agf_op_name(op), t->nodes);
  tiny_put32(p, (uint32_t)op);
  tiny_put32(p + 8, tiny_string(t, name));
  tiny_put32(p + 12, (uint32_t)t->edges);
  tiny_put32(p + 16, b < 0 ? 1 : 2);
  tiny_put32(t->edge + 4 * t->edges++, (uint32_t)a);
  if (b >= 0) tiny_put32(t->edge + 4 * t->edges++, (uint32_t)b);
  return ++t->nodes;
}

static inline unsigned char *tiny_last(tiny *t) { return t->node + TINY_NODE2 * (t->nodes - 1); }

static inline int tiny_window(tiny *t, agf_op op, int a, uint32_t flags, int kernel, int stride, int pad) {
  unsigned char *p;
  int edge = tiny_node(t, op, a, -1), i;
  p = tiny_last(t);
  tiny_put32(p + 4, flags);
  for (i = 0; i < 2; i++) {
    tiny_put32(p + 20 + 4 * i, (uint32_t)kernel);
    tiny_put32(p + 28 + 4 * i, (uint32_t)stride);
  }
  for (i = 0; i < 4; i++) tiny_put32(p + 36 + 4 * i, (uint32_t)pad);
  return edge;
}

static inline int tiny_conv(tiny *t, int a, int in, int out, int type, uint32_t flags, int kernel, int stride, int pad,
                            int dilation, int groups) {
  int edge = tiny_window(t, AGF_OP_CONV, a, flags, kernel, stride, pad);
  unsigned char *p = tiny_last(t);
  tiny_put32(p + 52, (uint32_t)dilation);
  tiny_put32(p + 56, (uint32_t)dilation);
  tiny_put32(p + 60, (uint32_t)groups);
  tiny_put32(p + 64, (uint32_t)out);
  tiny_put32(p + 68, (uint32_t)tiny_tensor(t, type, groups > 1 ? TINY_GROUPED : TINY_CONV, out, in / groups, kernel, kernel));
  tiny_put32(p + 72, (uint32_t)tiny_tensor(t, TINY_F32, TINY_VECTOR, out, 1, 1, 1));
  return edge;
}

static inline int tiny_norm(tiny *t, int a, int channels) {
  int edge = tiny_node(t, AGF_OP_BATCHNORM, a, -1);
  tiny_put32(tiny_last(t) + 68, (uint32_t)tiny_tensor(t, TINY_F32, TINY_VECTOR, channels, 1, 1, 1));
  tiny_put32(tiny_last(t) + 72, (uint32_t)tiny_tensor(t, TINY_F32, TINY_VECTOR, channels, 1, 1, 1));
  return edge;
}

static inline int tiny_linear(tiny *t, int a, int type, int c, int h, int w, int out) {
  int edge = tiny_node(t, AGF_OP_LINEAR, a, -1);
  tiny_put32(tiny_last(t) + 64, (uint32_t)out);
  tiny_put32(tiny_last(t) + 68, (uint32_t)tiny_tensor(t, type, TINY_LINEAR, out, c, h, w));
  tiny_put32(tiny_last(t) + 72, (uint32_t)tiny_tensor(t, TINY_F32, TINY_VECTOR, out, 1, 1, 1));
  return edge;
}

static inline int tiny_adaptive(tiny *t, int a, int height, int width) {
  int edge = tiny_node(t, AGF_OP_ADAPTIVE_AVGPOOL, a, -1);
  tiny_put32(tiny_last(t) + 20, (uint32_t)height);
  tiny_put32(tiny_last(t) + 24, (uint32_t)width);
  return edge;
}

/* What version 2 says of the last node: its argument and numbers. Returns its edge. */
static inline int tiny_set(tiny *t, int argument, float p0, float p1, float p2) {
  const float p[3] = {p0, p1, p2};
  int i;
  t->version = 2;
  tiny_put32(tiny_last(t) + 76, (uint32_t)argument);
  for (i = 0; i < 3; i++) {
    uint32_t bits;
    memcpy(&bits, &p[i], 4);
    tiny_put32(tiny_last(t) + 80 + 4 * i, bits);
  }
  return t->nodes;
}

/* Activation number `kind` of the format, of `channels` channels. */
static inline int tiny_act(tiny *t, int a, int kind, int channels) {
  tiny_node(t, AGF_OP_ACT, a, -1);
  if (kind == 2) tiny_put32(tiny_last(t) + 68, (uint32_t)tiny_tensor(t, TINY_F32, TINY_VECTOR, channels, 1, 1, 1)); /* prelu */
  return tiny_set(t, kind,
                  kind == 1    ? 0.1f
                  : kind == 3  ? 0.7f
                  : kind == 10 ? 0.2f
                  : kind == 13 ? -0.75f
                               : 0,
                  kind == 10   ? 0.5f
                  : kind == 13 ? 0.5f
                               : 0,
                  0);
}

/* mode 0: over the channels of each pixel, 1: over the pixels too, 2: global response norm. */
static inline int tiny_normalise(tiny *t, int a, int channels, int mode, int groups) {
  int edge = tiny_norm(t, a, channels);
  tiny_put32(tiny_last(t), AGF_OP_NORM);
  tiny_put32(tiny_last(t) + 60, (uint32_t)groups);
  tiny_set(t, mode, 1e-3f, 0, 0);
  return edge;
}

static inline int tiny_lrn(tiny *t, int a, int size) {
  tiny_node(t, AGF_OP_LRN, a, -1);
  return tiny_set(t, size, 0.5f, 0.75f, 1);
}

static inline int tiny_slice(tiny *t, int a, int first, int channels) {
  tiny_node(t, AGF_OP_SLICE, a, -1);
  tiny_put32(tiny_last(t) + 64, (uint32_t)channels);
  return tiny_set(t, first, 0, 0, 0);
}

/* Output channel c is input channel channels - 1 - c. */
static inline int tiny_shuffle(tiny *t, int a, int channels) {
  unsigned char *w = t->weights + t->weight_bytes;
  int edge = tiny_node(t, AGF_OP_SHUFFLE, a, -1), c;
  tiny_put32(tiny_last(t) + 68, (uint32_t)tiny_tensor(t, TINY_F32, TINY_VECTOR, channels, 1, 1, 1));
  for (c = 0; c < channels; c++) {
    float from = (float)(channels - 1 - c);
    uint32_t bits;
    memcpy(&bits, &from, 4);
    tiny_put32(w + 4 * c, bits);
  }
  t->version = 2;
  return edge;
}

/* border 0: zeros, 1: reflected, 2: repeated. */
static inline int tiny_pad(tiny *t, int a, int top, int left, int bottom, int right, int border) {
  const int pad[4] = {top, left, bottom, right};
  int i;
  tiny_node(t, AGF_OP_PAD, a, -1);
  for (i = 0; i < 4; i++) tiny_put32(tiny_last(t) + 36 + 4 * i, (uint32_t)pad[i]);
  return tiny_set(t, border, 0, 0, 0);
}

/* to_size 0: height and width say how often each pixel is repeated, 1: they are the output's. */
static inline int tiny_resize(tiny *t, int a, int height, int width, int to_size) {
  int edge = tiny_adaptive(t, a, height, width);
  tiny_put32(tiny_last(t), AGF_OP_RESIZE);
  tiny_set(t, to_size, 0, 0, 0);
  return edge;
}

static inline int tiny_dilated_pool(tiny *t, int a, int kernel, int stride, int pad, int dilation) {
  int edge = tiny_window(t, AGF_OP_MAXPOOL, a, 0, kernel, stride, pad);
  tiny_put32(tiny_last(t) + 52, (uint32_t)dilation);
  tiny_put32(tiny_last(t) + 56, (uint32_t)dilation);
  t->version = 2;
  return edge;
}

/* One more input of the last node, an add or a concat. */
static inline void tiny_also(tiny *t, int a) {
  tiny_put32(tiny_last(t) + 16, tiny_u32(tiny_last(t) + 16) + 1);
  tiny_put32(t->edge + 4 * t->edges++, (uint32_t)a);
}

/* The input's affine map and the head, 0 softmax, 1 sigmoid, 2 none. */
static inline void tiny_ends(tiny *t, int head) {
  int channels = (int)tiny_u32(t->input);
  t->version = 2;
  tiny_put32(t->input + 12, tiny_u32(t->input + 12) | (uint32_t)head << 8);
  tiny_put32(t->input + 72, (uint32_t)tiny_tensor(t, TINY_F32, TINY_VECTOR, channels, 1, 1, 1));
  tiny_put32(t->input + 76, (uint32_t)tiny_tensor(t, TINY_F32, TINY_VECTOR, channels, 1, 1, 1));
}

/* Labels "class 0" and so on. */
static inline void tiny_labels(tiny *t, int n) {
  char text[32];
  for (t->labels = 0; t->labels < n; t->labels++) {
    snprintf(text, sizeof text, "class %d", t->labels);
    tiny_put32(t->label + 4 * t->labels, tiny_string(t, text));
  }
}

/* A file of zeros, 64-byte aligned, with its header but for the CRCs. *header: where the weights begin; *bytes: its size. */
static inline unsigned char *tiny_header(int version, int nodes, int edges, int tensors, int labels, size_t string_bytes,
                                         size_t weight_bytes, size_t *header, size_t *bytes) {
  unsigned char *data;
  void *memory;
  *header = tiny_up(TINY_HEADER + TINY_INPUT + (size_t)nodes * tiny_node_bytes(version) + (size_t)edges * 4 +
                    (size_t)tensors * TINY_TENSOR + (size_t)labels * 4 + string_bytes);
  *bytes = *header + weight_bytes;
  if (posix_memalign(&memory, 64, *bytes)) exit(2);
  data = (unsigned char *)memory;
  memset(data, 0, *bytes);
  memcpy(data,
         "\x89"
         "AGF\r\n\x1a\n",
         8);
  tiny_put32(data + 8, (uint32_t)version);
  tiny_put32(data + 12, (uint32_t)*header);
  tiny_put64(data + 16, *bytes);
  tiny_put32(data + 32, (uint32_t)nodes);
  tiny_put32(data + 36, (uint32_t)edges);
  tiny_put32(data + 40, (uint32_t)tensors);
  tiny_put32(data + 44, (uint32_t)labels);
  tiny_put32(data + 48, (uint32_t)string_bytes);
  return data;
}

/* The file, 64-byte aligned, for the caller to free; *bytes its size. */
static inline unsigned char *tiny_end(tiny *t, size_t *bytes) {
  size_t header;
  unsigned char *data =
      tiny_header(t->version, t->nodes, t->edges, t->tensors, t->labels, t->string_bytes, t->weight_bytes, &header, bytes);
  unsigned char *p;
  int i;
  for (i = 0; i < t->tensors; i++) {
    p = t->tensor + TINY_TENSOR * i + 24;
    tiny_put64(p, header + tiny_u32(p));
  }
  p = data + TINY_HEADER;
  memcpy(p, t->input, TINY_INPUT), p += TINY_INPUT;
  for (i = 0; i < t->nodes; i++, p += tiny_node_bytes(t->version)) memcpy(p, t->node + TINY_NODE2 * i, tiny_node_bytes(t->version));
  memcpy(p, t->edge, (size_t)t->edges * 4), p += t->edges * 4;
  memcpy(p, t->tensor, (size_t)t->tensors * TINY_TENSOR), p += t->tensors * TINY_TENSOR;
  memcpy(p, t->label, (size_t)t->labels * 4), p += t->labels * 4;
  memcpy(p, t->strings, t->string_bytes);
  memcpy(data + header, t->weights, t->weight_bytes);
  tiny_seal(data, *bytes);
  return data;
}

/* From TINY_NEWER on: of version 2. */
enum { TINY_NEWER = 4, TINY_MODELS = 10 };
static const char *const tiny_names[TINY_MODELS] = {"all_ops", "plain", "conv_logits", "pool_logits", "acts",
                                                    "gates",   "norms", "moves",       "one_pixel",   "deep_head"};

static inline int tiny_find(const char *name) {
  int i;
  for (i = 0; i < TINY_MODELS; i++)
    if (!strcmp(tiny_names[i], name)) return i;
  exit(2);
}

/* Model `which`, its numbers fixed for ever: tests/golden-v1 holds what the engine made of all_ops. */
static inline unsigned char *tiny_model(int which, size_t *bytes) {
  tiny *t = (tiny *)malloc(sizeof *t);
  unsigned char *data;
  int a, b;
  if (!t) exit(2);
  if (which == 0) { /* every op, f16 and f32, all layouts, a picture with labels */
    tiny_begin(t, tiny_names[which], 3, 9, 8);
    a = tiny_conv(t, 0, 3, 4, TINY_F16, 0, 2, 1, 1, 1, 1);
    a = tiny_node(t, AGF_OP_RELU, tiny_norm(t, a, 4), -1);
    a = tiny_window(t, AGF_OP_MAXPOOL, a, 2, 3, 2, 1); /* ceil mode */
    b = tiny_node(t, AGF_OP_RELU6, tiny_conv(t, a, 4, 4, TINY_F16, 0, 2, 1, 1, 2, 2), -1);
    b = tiny_node(t, AGF_OP_ADD, b, a);
    a = tiny_window(t, AGF_OP_AVGPOOL, b, 4, 3, 1, 1); /* count_include_pad */
    a = tiny_node(t, AGF_OP_CONCAT, a, b);
    a = tiny_node(t, AGF_OP_RELU, tiny_conv(t, a, 8, 3, TINY_F16, 1, 1, 1, 0, 1, 1), -1); /* flat */
    a = tiny_node(t, AGF_OP_FLATTEN, tiny_adaptive(t, a, 2, 1), -1);
    a = tiny_node(t, AGF_OP_RELU, tiny_linear(t, a, TINY_F16, 3, 2, 1, 5), -1);
    tiny_linear(t, a, TINY_F32, 5, 1, 1, 3);
    tiny_labels(t, 3);
  } else if (which == 1) { /* f32 convolutions with more channels than a block, strides, a residual */
    tiny_begin(t, tiny_names[which], 1, 8, 8);
    a = tiny_node(t, AGF_OP_RELU, tiny_conv(t, 0, 1, 18, TINY_F32, 0, 3, 2, 1, 1, 1), -1);
    b = tiny_node(t, AGF_OP_RELU, tiny_conv(t, a, 18, 18, TINY_F32, 0, 1, 1, 0, 1, 1), -1);
    a = tiny_node(t, AGF_OP_RELU, tiny_node(t, AGF_OP_ADD, a, b), -1);
    a = tiny_conv(t, a, 18, 2, TINY_F16, 0, 3, 1, 1, 1, 1);
    tiny_linear(t, tiny_node(t, AGF_OP_FLATTEN, a, -1), TINY_F32, 2, 4, 4, 4);
  } else if (which == 2) { /* a convolution makes the logits; the input is no picture */
    tiny_begin(t, tiny_names[which], 2, 4, 4);
    a = tiny_node(t, AGF_OP_RELU, tiny_norm(t, 0, 2), -1);
    a = tiny_conv(t, a, 2, 2, TINY_F32, 0, 3, 2, 2, 1, 2);
    tiny_conv(t, tiny_node(t, AGF_OP_GLOBAL_AVGPOOL, a, -1), 2, 3, TINY_F32, 0, 1, 1, 0, 1, 1);
  } else if (which == 4) { /* every activation, and a sum of all of them; what is done to the input, a sigmoid's head */
    int all, k;
    tiny_begin(t, tiny_names[which], 3, 3, 2);
    b = tiny_conv(t, 0, 3, 2, TINY_F32, 0, 1, 1, 0, 1, 1);
    for (all = k = 1; k <= 13; k++) all = tiny_act(t, b, k, 2);
    a = tiny_node(t, AGF_OP_ADD, all - 12, all - 11);
    for (k = 10; k >= 0; k--) tiny_also(t, all - k);
    a = tiny_act(t, tiny_node(t, AGF_OP_FLATTEN, a, -1), 6, 2);
    tiny_linear(t, a, TINY_F32, 2, 3, 2, 3);
    tiny_ends(t, 1);
  } else if (which == 5) { /* products: with a channel's gate, a pixel's, a whole tensor, a vector */
    tiny_begin(t, tiny_names[which], 1, 3, 3);
    a = tiny_act(t, tiny_conv(t, 0, 1, 3, TINY_F32, 0, 2, 1, 1, 1, 1), 4, 3);
    b = tiny_conv(t, tiny_node(t, AGF_OP_GLOBAL_AVGPOOL, a, -1), 3, 3, TINY_F32, 1, 1, 1, 0, 1, 1);
    a = tiny_node(t, AGF_OP_MUL, a, tiny_act(t, b, 9, 3));
    b = tiny_act(t, tiny_conv(t, a, 3, 1, TINY_F32, 1, 1, 1, 0, 1, 1), 10, 1);
    a = tiny_node(t, AGF_OP_MUL, a, b);
    a = tiny_node(t, AGF_OP_MUL, a, tiny_act(t, a, 11, 3));
    b = tiny_node(t, AGF_OP_FLATTEN, a, -1);
    b = tiny_node(t, AGF_OP_MUL, b, tiny_act(t, b, 9, 3));
    a = tiny_linear(t, b, TINY_F32, 3, 4, 4, 5);
    a = tiny_node(t, AGF_OP_MUL, a, a);
    tiny_linear(t, a, TINY_F32, 5, 1, 1, 2);
    t->version = 2;
  } else if (which == 6) { /* normalisations of each kind, of pixels and of a vector */
    tiny_begin(t, tiny_names[which], 3, 3, 2);
    a = tiny_normalise(t, tiny_conv(t, 0, 3, 4, TINY_F32, 0, 1, 1, 0, 1, 1), 4, 0, 1);
    a = tiny_lrn(t, tiny_normalise(t, a, 4, 1, 2), 3);
    a = tiny_normalise(t, tiny_act(t, tiny_conv(t, a, 4, 4, TINY_F32, 0, 2, 1, 1, 1, 2), 6, 4), 4, 1, 4);
    a = tiny_normalise(t, tiny_lrn(t, tiny_normalise(t, a, 4, 0, 2), 1), 4, 2, 1);
    a = tiny_lrn(t, a, 1 << 20); /* a window far wider than the channels */
    a = tiny_node(t, AGF_OP_FLATTEN, tiny_node(t, AGF_OP_GLOBAL_AVGPOOL, a, -1), -1);
    tiny_linear(t, tiny_normalise(t, a, 4, 0, 1), TINY_F32, 4, 1, 1, 3);
  } else if (which == 7) { /* what copies and leaves out */
    tiny_begin(t, tiny_names[which], 2, 4, 3);
    a = tiny_node(t, AGF_OP_RELU, tiny_conv(t, 0, 2, 4, TINY_F32, 0, 2, 1, 1, 1, 1), -1);
    b = tiny_slice(t, a, 1, 3);
    a = tiny_shuffle(t, tiny_node(t, AGF_OP_CONCAT, b, tiny_slice(t, a, 0, 1)), 4);
    a = tiny_pad(t, tiny_pad(t, tiny_pad(t, a, 1, 0, 0, 2, 0), 1, 1, 0, 1, 1), 0, 1, 2, 0, 2);
    a = tiny_dilated_pool(t, tiny_resize(t, tiny_resize(t, a, 2, 1, 0), 5, 4, 1), 2, 1, 1, 2);
    b = tiny_node(t, AGF_OP_FLATTEN, tiny_node(t, AGF_OP_GLOBAL_MAXPOOL, a, -1), -1);
    tiny_conv(t, b, 4, 3, TINY_F32, 0, 1, 1, 0, 1, 1); /* of a vector */
  } else if (which == 8) {                             /* an image of one pixel */
    tiny_begin(t, tiny_names[which], 4, 1, 1);
    a = tiny_conv(t, 0, 4, 4, TINY_F32, 0, 1, 1, 0, 1, 2);
    a = tiny_shuffle(t, tiny_lrn(t, tiny_normalise(t, a, 4, 1, 1), 2), 4);
    a = tiny_node(t, AGF_OP_MUL, a, tiny_act(t, tiny_node(t, AGF_OP_GLOBAL_MAXPOOL, a, -1), 9, 4));
    a = tiny_pad(t, tiny_resize(t, a, 1, 1, 1), 0, 0, 0, 0, 0);
    a = tiny_act(t, tiny_dilated_pool(t, tiny_slice(t, a, 1, 3), 1, 1, 0, 3), 12, 3);
    tiny_linear(t, tiny_node(t, AGF_OP_FLATTEN, a, -1), TINY_F32, 3, 1, 1, 2);
    tiny_ends(t, 2);
  } else if (which == 9) { /* much behind the last global pool */
    tiny_begin(t, tiny_names[which], 3, 4, 4);
    a = tiny_act(t, tiny_conv(t, 0, 3, 4, TINY_F32, 0, 3, 1, 1, 1, 1), 5, 4);
    a = tiny_node(t, AGF_OP_GLOBAL_AVGPOOL, tiny_conv(t, a, 4, 4, TINY_F32, 0, 3, 1, 1, 1, 1), -1);
    a = tiny_act(t, tiny_conv(t, tiny_normalise(t, a, 4, 0, 1), 4, 5, TINY_F32, 1, 1, 1, 0, 1, 1), 4, 5);
    a = tiny_normalise(t, tiny_linear(t, tiny_node(t, AGF_OP_FLATTEN, a, -1), TINY_F32, 5, 1, 1, 6), 6, 0, 2);
    b = tiny_act(t, tiny_linear(t, a, TINY_F32, 6, 1, 1, 6), 6, 6);
    tiny_linear(t, tiny_node(t, AGF_OP_ADD, a, b), TINY_F32, 6, 1, 1, 4);
  } else { /* as SqueezeNet ends */
    tiny_begin(t, tiny_names[which], 3, 6, 7);
    a = tiny_node(t, AGF_OP_RELU, tiny_conv(t, 0, 3, 3, TINY_F32, 0, 2, 1, 0, 1, 1), -1);
    b = tiny_window(t, AGF_OP_AVGPOOL, a, 2, 2, 2, 0);
    a = tiny_window(t, AGF_OP_MAXPOOL, a, 2, 2, 2, 0);
    a = tiny_node(t, AGF_OP_CONCAT, a, b);
    tiny_node(t, AGF_OP_GLOBAL_AVGPOOL, tiny_node(t, AGF_OP_RELU, tiny_conv(t, a, 6, 4, TINY_F16, 0, 1, 1, 0, 1, 1), -1), -1);
    tiny_labels(t, 4);
  }
  data = tiny_end(t, bytes);
  free(t);
  return data;
}

/* Whether a model is small enough to be run thousands of times: products of weights and places, input elements under a pool's
 * windows. 0 also where the size is not possible. */
static inline int tiny_is_cheap(const agf_model *model, int height, int width, double limit) {
  agf_input in;
  agf_layer layer;
  double work = 0;
  int i;
  agf_model_input(model, &in);
  for (i = 0; i < agf_model_layers(model) && work <= limit; i++) {
    double window;
    if (agf_model_layer(model, i, height, width, &layer, NULL) != AGF_OK) return 0;
    window = (double)(layer.kernel[0] < 64 ? layer.kernel[0] : 64) * (layer.kernel[1] < 64 ? layer.kernel[1] : 64);
    work += (double)layer.shape[1] * layer.shape[2] * ((double)layer.parameters + (layer.shape[0] + 16) * (1 + window));
  }
  return work <= limit;
}

#endif
