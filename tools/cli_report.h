/* What is told of a picture: as text, as JSON, in the terminal, on a page, and what could not be done. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include "cli_drawing.h"

enum { TOP_PRINTED = 5 };

/* A tensor's shape as "96 x 14 x 14"; one of 1 x 1 as its length. */
static const char *shape_text(const int shape[3], char text[48]) {
  if (shape[1] == 1 && shape[2] == 1)
    snprintf(text, 48, "%d", shape[0]);
  else
    snprintf(text, 48, "%d x %d x %d", shape[0], shape[1], shape[2]);
  return text;
}

static void print_layer_times(const explainer *e) {
  int width = name_columns(e->model), i;
  double forward = 0, explain = 0;
  agf_layer layer;
  agf_times times;
  char shape[48];

  printf("  %*s  ", 4, "#");
  print_padded("name", width);
  printf("  %-16s %-18s %10s %10s\n", "op", "output", "forward ms", "explain ms");
  for (i = 0; i < agf_model_layers(e->model); i++) {
    if (agf_model_layer(e->model, i, e->height, e->width, &layer, NULL) || agf_layer_times(e->session, i, &times)) continue;
    printf("  %4d  ", i);
    print_padded(layer.name, width);
    printf("  %-16s %-18s %10.3f %10.3f\n", agf_op_name(layer.op), shape_text(layer.shape, shape), 1e3 * times.forward,
           1e3 * times.explain);
    forward += times.forward;
    explain += times.explain;
  }
  printf("  %4s  ", "");
  print_padded("sum", width);
  printf("  %-16s %-18s %10.3f %10.3f\n", "", "", 1e3 * forward, 1e3 * explain);
}

static void print_text(const explainer *e, const subject *s, const result *r) {
  char share[24], area[24], low_text[24], high_text[24];
  int i;

  print_clean(s->path);
  putchar('\n');
  for (i = 0; i < TOP_PRINTED && i < r->classes; i++) {
    int k = agf_ranked(e->session, i);
    char *name = class_name(e->model, k);

    printf("  %10s  ", share_text(e, r, k, share));
    print_clean(name);
    putchar('\n');
    free(name);
  }
  for (i = 0; i < s->neighbours; i++) {
    printf("%s", i ? "                      " : s->neighbours > 1 ? "  nearest neighbours: " : "  nearest neighbour: ");
    print_clean(s->neighbour[i]);
    printf(", at distance %.3g\n", s->distance[i]);
  }
  for (i = 0; i < r->count; i++) {
    char *name = class_name(e->model, r->explained[i]);
    float low, high;

    range_of(r, i, &low, &high);
    printf("  map of ");
    print_clean(name);
    if (e->against) {
      char *other = class_name(e->model, e->against - 1);

      printf(" rather than ");
      print_clean(other);
      free(other);
    }
    if (e->method_count > 1) printf(" by %s", agf_method_name(r->method[i]));
    printf(", %s: %s to %s", share_text(e, r, r->explained[i], share), scale_number(low, low_text), scale_number(high, high_text));
    if (r->inside) {
      printf(", %s of the positive evidence on %s of the picture, inside ", percent_text(r->inside[i], share),
             percent_text(r->area[i], area));
      print_clean(base_name(e->asked->masks.items[i % r->per_method]));
    }
    if (r->files[i]) {
      printf(", in ");
      print_clean(r->files[i]);
    }
    putchar('\n');
    free(name);
  }
  for (i = 0; i < r->notes.count; i++) {
    printf("  note: ");
    print_clean(r->notes.items[i]);
    putchar('\n');
  }
  if (e->asked->verbose) {
    printf("  %.3f s with %d thread%s and instruction set %s\n", r->seconds, agf_session_threads(e->session),
           agf_session_threads(e->session) == 1 ? "" : "s", agf_isa_name(e->session));
    print_layer_times(e);
  }
}

static void print_json_class(const explainer *e, const result *r, int k) {
  printf("{\"class\": %d, \"label\": ", k);
  json_string(agf_model_label(e->model, k));
  if (r->probability[k] >= 0)
    printf(", \"probability\": %.9g", r->probability[k]);
  else
    printf(", \"probability\": null");
  printf(", \"logit\": %.9g", agf_logits(e->session)[k]);
}

static void print_json_file(const char *key, const char *path) {
  printf(", \"%s\": ", key);
  if (path)
    json_string(path);
  else
    printf("null");
}

static const double BOX_SHARE = 0.9;

/* A box of the map as one of the photograph (a tensor: of the map), in its pixels. */
static void print_json_box(const prepared *p, const result *r, const agf_box *box) {
  bool photo = p->source.width > 0 && !p->source.tensor;
  double across = photo ? p->seen.width / r->width : 1, down = photo ? p->seen.height / r->height : 1;
  double left = photo ? p->seen.left : 0, top = photo ? p->seen.top : 0;

  printf(", \"box\": {\"left\": %.6g, \"top\": %.6g, \"width\": %.6g, \"height\": %.6g}, \"centre\": {\"x\": %.6g, \"y\": %.6g}",
         left + across * box->left, top + down * box->top, across * box->width, down * box->height, left + across * box->x,
         top + down * box->y);
}

static void print_json(const explainer *e, const subject *s, const prepared *p, const result *r) {
  int i;

  printf("{\"model\": ");
  json_string(e->model_name);
  printf(", \"picture\": ");
  json_string(s->path);
  printf(", \"top\": [");
  for (i = 0; i < TOP_PRINTED && i < r->classes; i++) {
    printf("%s", i ? ", " : "");
    print_json_class(e, r, agf_ranked(e->session, i));
    printf("}");
  }
  printf("], \"height\": %d, \"width\": %d, \"maps\": [", r->height, r->width);
  for (i = 0; i < r->count; i++) {
    float low, high;
    agf_box box;

    range_of(r, i, &low, &high);
    printf("%s", i ? ", " : "");
    print_json_class(e, r, r->explained[i]);
    printf(", \"method\": \"%s\"", agf_method_name(r->method[i]));
    if (e->against) {
      printf(", \"against\": {\"class\": %d, \"label\": ", e->against - 1);
      json_string(agf_model_label(e->model, e->against - 1));
      printf("}");
    }
    printf(", \"min\": %.9g, \"max\": %.9g", low, high);
    if (!agf_map_box(r->maps + (size_t)i * (size_t)r->height * (size_t)r->width, r->height, r->width, BOX_SHARE, &box, NULL))
      print_json_box(p, r, &box);
    if (r->inside) printf(", \"inside_mask\": %.9g, \"mask_area\": %.9g", r->inside[i], r->area[i]);
    print_json_file("file", r->files[i]);
    printf("}");
  }
  printf("], \"notes\": [");
  for (i = 0; i < r->notes.count; i++) {
    printf("%s", i ? ", " : "");
    json_string(r->notes.items[i]);
  }
  printf("]");
  print_json_file("npy", r->npy);
  print_json_file("logits", r->logits);
  if (s->neighbours) {
    for (i = -1; i < s->neighbours; i++) { /* the nearest by itself, then all in a list */
      printf("%s{\"picture\": ", i < 0 ? ", \"neighbour\": " : i ? ", " : ", \"neighbours\": [");
      json_string(s->neighbour[i < 0 ? 0 : i]);
      printf(", \"distance\": %.9g}", s->distance[i < 0 ? 0 : i]);
    }
    printf("], \"shared\": %s", e->asked->shared ? "true" : "false");
  }
  if (e->asked->verbose) {
    agf_layer layer;
    agf_times times;

    printf(", \"threads\": %d, \"isa\": \"%s\", \"layers\": [", agf_session_threads(e->session), agf_isa_name(e->session));
    for (i = 0; i < agf_model_layers(e->model); i++) {
      if (agf_model_layer(e->model, i, e->height, e->width, &layer, NULL) || agf_layer_times(e->session, i, &times)) continue;
      printf("%s{\"name\": ", i ? ", " : "");
      json_string(layer.name);
      printf(", \"op\": \"%s\", \"forward\": %.9g, \"explain\": %.9g}", agf_op_name(layer.op), times.forward, times.explain);
    }
    printf("]");
  }
  printf(", \"seconds\": %.6f}\n", r->seconds);
}

/* The maps in the terminal, one below the other: two pixels a character. */
static void show_maps(const explainer *e, const drawing *d) {
  style look = e->style;
  problem why;
  int i;

  look.width = terminal_width();
  if (look.width > 72) look.width = 72;
  for (i = 0; i < d->count; i++) {
    canvas c;

    if (!compose_bare(&c, &d->figure, &d->panels[i], 1, &look, &why)) {
      complain("--show: %s", why.text);
      continue;
    }
    printf("%s, %s\n", d->panels[i].label, d->panels[i].share);
    show_canvas(&c);
    free(c.rgb);
  }
}

/* A picture of the page: its photograph, and every map as a layer to lay over it. */
static void page_add(page *html, const subject *s, const drawing *d, const result *r, const explainer *e) {
  int i;

  page_begin_picture(html, s->path, d->figure.photo, &d->figure.seen);
  for (i = 0; i < d->count; i++) {
    float low, high;
    char numbers[64], low_text[24], high_text[24];

    range_of(r, i, &low, &high);
    snprintf(numbers, sizeof numbers, "%s to %s", scale_number(low, low_text), scale_number(high, high_text));
    page_add_map(html, &d->panels[i], r->height, r->width, agf_model_label(e->model, r->explained[i]), r->explained[i],
                 agf_method_name(r->method[i]), numbers);
  }
  page_end_picture(html, &r->notes);
}

/* A picture that could not be done: the end of the run, or one line among many. */
static void give_up(explainer *e, const char *path, const problem *why) {
  if (!e->many) fatal("%s", why->text);
  complain("%s", why->text);
  e->some_failed = true;
  if (e->asked->json) {
    printf("{\"model\": ");
    json_string(e->model_name);
    printf(", \"picture\": ");
    json_string(path);
    printf(", \"error\": ");
    json_string(why->text);
    printf("}\n");
  }
}

#endif
