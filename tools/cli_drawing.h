/* The files that agf explain writes: pictures of the maps, and the numbers themselves. */
#ifndef CLI_DRAWING_H
#define CLI_DRAWING_H

#include "cli_result.h"

/* A label as a part of a file's name: no separators, control or shell characters, no leading '.' or '-', at most 100 bytes. */
static char *file_safe(const char *label) {
  enum { MOST = 100 };
  char *safe = allocate(MOST + 1, 1), *end = safe;

  while (*label) {
    int length = utf8_length(label);

    if (length < 1) length = 1; /* a stray byte */
    if (end - safe + length > MOST) break;
    if (length > 1)
      memcpy(end, label, (size_t)length);
    else if ((*label >= 'a' && *label <= 'z') || (*label >= 'A' && *label <= 'Z') || (*label >= '0' && *label <= '9') ||
             (strchr("-.", *label) && end > safe))
      *end = *label;
    else
      *end = '_';
    end += length;
    label += length;
  }
  return safe;
}

/* What %s stands for in the files of the maps: the class's label, its index where it has none, both where two would be alike. */
static text_list classes_in_file_names(const explainer *e, const result *r) {
  text_list labels = {0}, names = {0};
  text_map alike;
  int i;

  for (i = 0; i < r->per_method; i++) text_list_add(&labels, file_safe(agf_model_label(e->model, r->explained[i])));
  alike = count_alike(&labels);
  for (i = 0; i < r->count; i++) {
    const char *label = labels.items[i % r->per_method];
    char *name = !*label                    ? text_of("%d", r->explained[i])
                 : is_unique(&alike, label) ? text_of("%s", label)
                                            : text_of("%s-%d", label, r->explained[i]);

    text_list_add(&names, e->method_count > 1 ? text_of("%s-%s", agf_method_name(r->method[i]), name) : text_of("%s", name));
    free(name);
  }
  text_map_free(&alike);
  text_list_free(&labels);
  return names;
}

/* A picture of `panels`, to be written as `path`. */
static bool draw_panels(const explainer *e, const figure *f, const panel *panels, int count, const char *path, result *r,
                        problem *why) {
  problem detail;
  canvas c;

  if (!(e->bare ? compose_bare : compose_figure)(&c, f, panels, count, &e->style, &detail))
    return failed(why, "%s: %.600s", path, detail.text);
  text_list_add(&r->drawn, text_of("%s", path));
  r->drawn_files = grow(r->drawn_files, (size_t)r->drawn.count, sizeof *r->drawn_files);
  r->drawn_files[r->drawn.count - 1] = png_encode(c.rgb, c.width, c.height, 3, agf_session_threads(e->session));
  free(c.rgb);
  return true;
}

/* The methods and their options, for a figure's foot. */
static char *methods_text(const explainer *e) {
  char *text = text_of("%s", ""), *longer;
  int i;

  for (i = 0; i < e->method_count; i++) {
    longer = text_of("%s%s%s", text, i ? ", " : "", agf_method_name(e->methods[i]));
    free(text);
    text = longer;
  }
  if (e->asked->ablations) {
    longer = text_of("%s (%s)", text, e->asked->ablations);
    free(text);
    text = longer;
  }
  if (e->against) {
    char *name = class_name(e->model, e->against - 1);

    longer = text_of("%s, rather than %s", text, name);
    free(name);
    free(text);
    text = longer;
  }
  if (e->asked->smooth > 0) {
    longer = text_of("%s, smoothed by %g pixels", text, e->asked->smooth);
    free(text);
    text = longer;
  }
  return text;
}

/* Map i as a panel: its colours and their scale. FullGrad's maps, sums of magnitudes over the whole picture, begin far above 0: they
 * are drawn from their minimum on, as in its paper; `shifted` receives such a copy. */
static panel panel_of(const explainer *e, const result *r, int i, float **shifted) {
  size_t size = (size_t)r->height * (size_t)r->width, j;
  panel p;

  memset(&p, 0, sizeof p);
  p.map = r->maps + (size_t)i * size;
  p.is_signed = !(agf_method_traits(r->method[i]) & AGF_METHOD_NOT_NEGATIVE);
  p.cmap = e->cmap >= 0 ? (agf_colormap)e->cmap : p.is_signed ? AGF_CMAP_RDBU : AGF_CMAP_VIRIDIS;
  *shifted = NULL;
  if (r->method[i] == AGF_METHOD_FULLGRAD && !(e->asked->vmax > 0)) {
    float high;

    range_of(r, i, &p.low, &high);
    *shifted = allocate(size, sizeof **shifted);
    for (j = 0; j < size; j++) (*shifted)[j] = p.map[j] - p.low;
    p.map = *shifted;
  }
  p.vmax = e->asked->vmax > 0 ? (float)e->asked->vmax : agf_map_scale(p.map, r->height, r->width);
  return p;
}

/* What a figure of these maps shows besides them; `texts` receives what it points to. */
static figure figure_of(const explainer *e, const subject *s, const prepared *p, const result *r, const canvas *photo,
                        text_list *texts) {
  char *methods = methods_text(e), *label = text_of("%s", base_name(s->path)), *foot;
  figure f;

  memset(&f, 0, sizeof f);
  f.photo = p->source.rgb ? photo : NULL;
  f.seen = p->seen;
  f.map_height = r->height;
  f.map_width = r->width;
  f.columns = e->method_count > 1 && r->per_method > 1 ? r->per_method : 0;
  if (s->neighbours)
    foot = text_of("%s, %s %s%s, by %s", e->model_name, e->asked->shared ? "shared with" : "against", base_name(s->neighbour[0]),
                   s->neighbours > 1 ? " ..." : "", methods);
  else
    foot = text_of("%s, by %s", e->model_name, methods);
  clean_text(foot);
  clean_text(label);
  text_list_add(texts, label);
  text_list_add(texts, foot);
  f.threads = agf_session_threads(e->session);
  f.photo_label = label;
  f.footer = foot;
  free(methods);
  return f;
}

/* A picture's maps, ready to be drawn. */
typedef struct drawing {
  figure figure;
  panel *panels; /* [count] */
  int count;
  canvas photo, other;
  picture neighbour; /* label-free, from a folder: the nearest one, whose pixels `other` has */
  float **shifted;   /* [count] */
  text_list texts;
} drawing;

static void drawing_make(drawing *d, const explainer *e, const subject *s, const prepared *p, const result *r) {
  char share[24];
  problem why;
  int i;

  memset(d, 0, sizeof *d);
  d->count = r->count;
  d->panels = allocate((size_t)r->count, sizeof *d->panels);
  d->shifted = allocate((size_t)r->count, sizeof *d->shifted);
  d->photo.width = p->source.width;
  d->photo.height = p->source.height;
  d->photo.rgb = p->source.rgb;
  d->figure = figure_of(e, s, p, r, &d->photo, &d->texts);
  if (s->neighbours && is_folder(e->asked->bank) && (e->asked->out || e->asked->show || e->asked->html) &&
      load_picture(s->neighbour[0], &d->neighbour, &why) && d->neighbour.rgb) {
    d->other.width = d->neighbour.width;
    d->other.height = d->neighbour.height;
    d->other.rgb = d->neighbour.rgb;
    d->figure.other = &d->other;
    text_list_add(&d->texts, text_of("%s %s", e->asked->shared ? "shared with" : "against", base_name(s->neighbour[0])));
    clean_text(d->figure.other_label = d->texts.items[d->texts.count - 1]);
  }
  for (i = 0; i < r->count; i++) {
    char *name = class_name(e->model, r->explained[i]);

    d->panels[i] = panel_of(e, r, i, &d->shifted[i]);
    clean_text(name);
    text_list_add(&d->texts, e->method_count > 1 ? text_of("%s: %s", agf_method_name(r->method[i]), name) : text_of("%s", name));
    d->panels[i].label = d->texts.items[d->texts.count - 1];
    text_list_add(&d->texts, text_of("%s", share_text(e, r, r->explained[i], share)));
    d->panels[i].share = d->texts.items[d->texts.count - 1];
    free(name);
  }
}

static void drawing_free(drawing *d) {
  int i;

  for (i = 0; i < d->count; i++) free(d->shifted[i]);
  free(d->shifted);
  free(d->panels);
  picture_free(&d->neighbour);
  text_list_free(&d->texts);
}

/* The picture or, with %s, pictures that -o asks for, in memory. */
static bool draw_pictures(const explainer *e, const subject *s, const prepared *p, const drawing *d, result *r, problem *why) {
  const char *out = e->asked->out;
  figure f = d->figure;
  bool done = true;
  int i;

  r->files = allocate((size_t)r->count, sizeof *r->files);
  if (e->asked->overlay && (out || e->asked->show) && !p->source.rgb)
    return failed(why, "%s: a tensor has no photograph for --overlay", s->path);
  if (!out) return true;
  if (e->out_is_folder) {
    char *path = picture_name(e, s);

    done = draw_panels(e, &f, d->panels, r->count, path, r, why);
    for (i = 0; i < r->count; i++) r->files[i] = text_of("%s", path);
    free(path);
  } else {
    bool each = has_placeholder(out, 's');
    text_list classes = classes_in_file_names(e, r);

    if (each) f.columns = 0;
    for (i = 0; i < r->count && done; i++) {
      r->files[i] = fill_in(out, classes.items[i], s->flat);
      if (each || i == 0) done = draw_panels(e, &f, d->panels + i, each ? 1 : r->count, r->files[i], r, why);
    }
    text_list_free(&classes);
  }
  return done;
}

/* Everything that was asked to be written about one picture: all of it, or nothing. */
static bool write_results(const explainer *e, const subject *s, result *r, problem *why) {
  const options *o = e->asked;
  bool done = true;
  int shape[3], i;

  for (i = 0; i < r->drawn.count && done; i++) done = write_encoded(r->drawn.items[i], &r->drawn_files[i], why);
  shape[0] = r->count;
  shape[1] = r->height;
  shape[2] = r->width;
  if (done && o->npy) done = write_npy(r->npy = fill_in(o->npy, s->flat, s->flat), r->maps, shape, 3, why);
  if (done && o->logits)
    done = write_npy(r->logits = fill_in(o->logits, s->flat, s->flat), agf_logits(e->session), &r->classes, 1, why);
  if (done)
    outputs_complete();
  else
    outputs_discard();
  return done;
}

#endif
