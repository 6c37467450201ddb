/* Everything the API can do with a model file that may be hostile, kept cheap: opened, asked, planned, run and explained within a
 * cap on memory and on work. Shared by tests/test_hostile.c and tests/fuzz/fuzz_model.c. */
#ifndef AGF_EXERCISE_H
#define AGF_EXERCISE_H

#include "tiny.h"
#include "ledger.h"
#include <math.h>

enum { EXERCISE_MAX_BYTES = 8 << 20 };

/* What a caller could have been promised and did not get; each is a failure. */
typedef struct exercise_report {
  int opened, ran, explained;
  const char *broken; /* NULL: every promise was kept */
} exercise_report;

static inline void exercise_session(const agf_model *model, ledger *l, agf_session_config *c, unsigned flags, double limit,
                                    exercise_report *r) {
  agf_session *s = NULL;
  agf_error err;
  agf_request q;
  agf_input in;
  size_t announced = 0, before = l->live, i, plane, n;
  float *x, *map;
  int first = 0, ok;
  agf_status st;
  agf_model_input(model, &in);
  l->most = l->live;
  if (agf_session_bytes(model, c, &announced, &err) != AGF_OK) {
    if (!err.message[0]) r->broken = "agf_session_bytes refuses without a message";
    if (agf_session_create(model, c, &s, &err) == AGF_OK) r->broken = "a session is created that agf_session_bytes refuses";
    agf_session_destroy(s);
    return;
  }
  if (l->most - before > announced) r->broken = "planning takes more memory than the session";
  if (!tiny_is_cheap(model, c->height, c->width, limit)) return;
  l->most = l->live;
  st = agf_session_create(model, c, &s, &err);
  if (st != AGF_OK) {
    if (!err.message[0]) r->broken = "agf_session_create refuses without a message";
    return;
  }
  if (l->live - before > announced) r->broken = "the session holds more than it announced";
  plane = (size_t)(c->height ? c->height : in.height) * (size_t)(c->width ? c->width : in.width);
  n = plane * (size_t)in.channels;
  x = (float *)malloc(n * sizeof *x);
  map = (float *)malloc(plane * sizeof *map);
  for (i = 0; i < n; i++) x[i] = (float)((int)(i * 2654435761u >> 16 & 255) - 100) / 128;
  memset(&q, 0, sizeof q);
  q.count = 1;
  q.explained = &first;
  l->calls = 0;
  if (agf_run(s, x, flags & AGF_RUN_EXPLAIN, &err) == AGF_OK) {
    r->ran = 1;
    ok = agf_explain(s, &q, map, &err) == AGF_OK;
    if (ok && (first < 0 || first >= agf_model_classes(model))) r->broken = "the explained class does not exist";
    for (i = 0; ok && i < plane; i++)
      if (!(fabsf(map[i]) <= 3.4e38f)) r->broken = "a map is infinite or NaN";
    if (!ok && !err.message[0]) r->broken = "agf_explain refuses without a message";
    r->explained += ok;
  } else if (!err.message[0]) {
    r->broken = "agf_run refuses without a message";
  }
  if (r->ran && flags >> 12 & 15) { /* another method, of few steps */
    q.method = (agf_method)((flags >> 12 & 15) % AGF_METHODS);
    q.steps = q.samples = 2;
    if (agf_explain(s, &q, map, &err) != AGF_OK && !err.message[0]) r->broken = "agf_explain refuses without a message";
    q.against = agf_model_classes(model); /* against the last class, which may be the one that is explained */
    if (agf_explain(s, &q, map, &err) != AGF_OK && !err.message[0]) r->broken = "agf_explain refuses without a message";
    memset(&q, 0, sizeof q);
    q.count = 1;
  }
  if (r->ran && flags & 2) {
    float *latent = (float *)malloc(((size_t)agf_latent_size(s) + 1) * sizeof *latent);
    q.options = flags >> 2 & 63;
    if (agf_latent(s, latent, &err) != AGF_OK) r->broken = "no latent vector after a run";
    for (i = 0; i < (size_t)agf_latent_size(s); i++) latent[i] *= 0.5f;
    q.difference = latent;
    agf_explain(s, &q, map, &err);
    free(latent);
  }
  if (l->calls) r->broken = "memory is taken while running or explaining";
  free(x);
  free(map);
  agf_session_destroy(s);
  if (l->live != before) r->broken = "a session leaks";
}

static inline void exercise_observer(void *ctx, const agf_observation *o) {
  *(float *)ctx += (o->cam ? o->cam[0] : 0) + (o->g ? o->g[0] : 0);
}

/* flags: bit 0 forms |W||x| in the forward pass; bit 1 also the label-free procedure, with the options of bits 2 to 7; bit 8 an
 * observer; bit 9 low memory; bit 10 another size; bit 11 two threads; bits 12 to 15 one more method. */
static inline exercise_report exercise(const unsigned char *data, size_t bytes, unsigned flags, double limit) {
  static const uint8_t photo[5 * 4 * 3] = {1, 200, 30, 90, 255};
  ledger l;
  agf_allocator a;
  agf_model_config mc;
  agf_session_config c;
  agf_model *model = NULL;
  agf_error err;
  agf_input in;
  agf_layer layer;
  exercise_report r;
  float sink = 0;
  int i, j;
  memset(&r, 0, sizeof r);
  memset(&c, 0, sizeof c);
  a = ledger_allocator(&l);
  mc.allocator = &a;
  mc.max_bytes = 0;
  if (agf_model_open_memory(data, bytes, &mc, &model, &err) != AGF_OK) {
    if (!err.message[0]) r.broken = "refused without a message";
    if (l.blocks) r.broken = "a refused file leaks";
    /* the tables of a model are at most three times as large as in the file, and the model itself is small */
    if (l.most > 3 * bytes + 4096) r.broken = "a refused file takes more memory than its size allows";
    return r;
  }
  r.opened = 1;
  agf_model_input(model, &in);
  for (i = 0; i < agf_model_layers(model); i++) {
    if (agf_model_layer(model, i, 0, 0, &layer, &err) != AGF_OK) {
      r.broken = "a layer cannot be asked";
      break;
    }
    for (j = 0; j < layer.inputs; j++)
      if (agf_model_layer_input(model, i, j) < 0 || agf_model_layer_input(model, i, j) > i)
        r.broken = "a layer's input is out of range";
    if (strlen(layer.name) > bytes) r.broken = "a layer's name is longer than the file";
  }
  if (strlen(agf_model_name(model)) + strlen(agf_model_source(model)) > bytes) r.broken = "a name is longer than the file";
  for (i = 0; i < agf_model_classes(model) && i < 64; i++)
    if (strlen(agf_model_label(model, i)) > bytes) r.broken = "a label is longer than the file";
  if (in.is_picture && (double)in.height * in.width <= 1 << 16) {
    agf_rect seen;
    float *x = (float *)malloc((size_t)in.channels * (size_t)in.height * (size_t)in.width * sizeof *x);
    agf_status st = agf_picture_to_input(model, 0, 0, photo, 5, 4, 15, x, &seen, &err);
    if (st != AGF_OK && !err.message[0]) r.broken = "agf_picture_to_input refuses without a message";
    free(x);
  }
  c.threads = flags & 2048 ? 2 : 1;
  c.allocator = &a;
  c.max_bytes = EXERCISE_MAX_BYTES;
  c.low_memory = flags >> 9 & 1;
  if (flags >> 12 & 15) c.methods = AGF_METHOD_BIT((flags >> 12 & 15) % AGF_METHODS);
  if (flags & 256) {
    c.observer = exercise_observer;
    c.observer_ctx = &sink;
  }
  if (flags & 1024) {
    c.height = in.height + 3;
    c.width = in.width > 2 ? in.width - 1 : in.width;
  }
  exercise_session(model, &l, &c, flags, limit, &r);
  agf_model_close(model);
  if (l.blocks) r.broken = "a model leaks";
  return r;
}

#endif
