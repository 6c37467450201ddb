/* Figures: maps as panels beside the photograph, with captions and a colour scale each. */
#ifndef CLI_FIGURE_H
#define CLI_FIGURE_H

#include "cli_canvas.h"

/* How maps are drawn. */
typedef struct style {
  float alpha;  /* opacity of the strongest evidence over a photograph */
  bool overlay; /* maps over the photograph, at its own size */
  bool colour;  /* the photograph under a map as it is; else gray, and pale where the network did not look */
  int width;    /* of a panel, in pixels; 0: chosen */
} style;

/* A map of a figure, its colours and its caption. */
typedef struct panel {
  const float *map; /* [height][width] */
  agf_colormap cmap;
  float low, vmax;           /* the scale: low is 0 but for maps that are drawn from their minimum on, which is not part of `map` */
  bool is_signed;            /* it may hold evidence against the class */
  const char *label, *share; /* below the map, left and right */
} panel;

/* What a figure shows besides its maps. */
typedef struct figure {
  const canvas *photo; /* NULL: there is none */
  agf_rect seen;       /* the part of the photograph that the network saw */
  int map_height, map_width;
  int columns;             /* maps in a row that belong together; 0: no such rows */
  const char *photo_label; /* below the photograph */
  const canvas *other;     /* beside it, what it is compared with; NULL: nothing */
  char *other_label;
  const char *footer;
  int threads; /* to draw with */
} figure;

enum { USUAL_SIDE = 448, SMALL_SIDE = 320, LARGE_SIDE = 1600 };

/* Draw a map at (left, top), width x height pixels large: under an overlay, `shown` of the photograph comes first. */
static bool draw_map(canvas *c, int left, int top, int width, int height, const figure *f, const panel *p, const style *s,
                     problem *why) {
  uint8_t *corner = pixel_at(c, left, top);
  size_t stride = 3 * (size_t)c->width;
  agf_status status;
  agf_error error;

  if (s->overlay) {
    agf_rect all = {0, 0, f->photo->width, f->photo->height}, seen = f->seen;

    seen.left *= (double)width / f->photo->width;
    seen.width *= (double)width / f->photo->width;
    seen.top *= (double)height / f->photo->height;
    seen.height *= (double)height / f->photo->height;
    draw_photo(c, left, top, width, height, f->photo, &all);
    status = s->colour ? AGF_OK : agf_photo_mute(&seen, corner, width, height, stride, &error);
    if (status == AGF_OK)
      status = agf_overlay(p->map, f->map_height, f->map_width, p->cmap, p->vmax, s->alpha, &seen, corner, width, height, stride,
                           &error);
  } else {
    status = agf_render(p->map, f->map_height, f->map_width, p->cmap, p->vmax, corner, width, height, stride, 3, &error);
  }
  return status == AGF_OK || failed(why, "%s", error.message);
}

/* A number of the scale, without a sign at 0. */
static const char *scale_number(double value, char text[24]) {
  snprintf(text, 24, "%.3g", value == 0 ? 0 : value);
  return text;
}

/* A panel's colour scale on `baseline`, from `left` on, at most `room` wide: its ends' values, and what they speak for. */
static void draw_scale(canvas *c, int left, int baseline, double cap, double room, const panel *p) {
  enum { STEPS = 256 };
  bool diverging = agf_colormap_is_diverging(p->cmap), both = diverging && p->is_signed;
  char low_number[24], high_number[24], low[48], high[48];
  double gap = 0.7 * cap, width;
  int height = (int)(cap + 0.5), bar, i;
  float ramp[STEPS];

  scale_number(both ? -p->vmax : p->low, low_number);
  scale_number(p->low + p->vmax, high_number);
  snprintf(low, sizeof low, both ? "against %s" : p->is_signed ? "against or %s" : "%s", low_number);
  snprintf(high, sizeof high, p->is_signed ? "%s for" : "%s", high_number);
  width = fmin(11 * cap, room - text_width(low, cap) - text_width(high, cap) - 2 * gap);
  if (width < 2 * cap) { /* no room for words */
    snprintf(low, sizeof low, "%s", low_number);
    snprintf(high, sizeof high, "%s", high_number);
    width = fmin(11 * cap, room - text_width(low, cap) - text_width(high, cap) - 2 * gap);
  }
  if (width < cap) return;
  for (i = 0; i < STEPS; i++) ramp[i] = both ? 2 * (float)i / (STEPS - 1) - 1 : (float)i / (STEPS - 1);
  draw_text(c, left, baseline, cap, low, FAINT_INK);
  bar = (int)(left + text_width(low, cap) + gap);
  if (!agf_render(ramp, 1, STEPS, p->cmap, 1, pixel_at(c, bar, baseline - height), (int)width, height, 3 * (size_t)c->width, 3,
                  NULL))
    draw_frame(c, bar - 1, baseline - height - 1, (int)width + 2, height + 2, FRAME);
  draw_text(c, bar + (int)width + gap, baseline, cap, high, FAINT_INK);
}

/* The size of a panel whose content is width x height: that asked for, or `scale` times its own. */
static void panel_size(const style *s, double width, double height, double scale, int *panel_width, int *panel_height) {
  if (s->width) scale = s->width / width;
  *panel_width = (int)fmax(1, width * scale + 0.5);
  *panel_height = (int)fmax(1, height * scale + 0.5);
}

/* A map alone: over the photograph at the photograph's size, else at the map's own. Several stand side by side. */
static bool compose_bare(canvas *c, const figure *f, const panel *panels, int count, const style *s, problem *why) {
  double own_width = s->overlay ? f->photo->width : f->map_width, own_height = s->overlay ? f->photo->height : f->map_height;
  double longer = fmax(own_width, own_height);
  int width, height, i;
  bool done = true;

  panel_size(s, own_width, own_height, s->overlay && longer > LARGE_SIDE ? LARGE_SIDE / longer : 1, &width, &height);
  if (!canvas_new(c, (double)width * count, height, why)) return false;
  for (i = 0; i < count && done; i++) done = draw_map(c, i * width, 0, width, height, f, &panels[i], s, why);
  if (!done) free(c->rgb);
  return done;
}

/* The cells of a figure: photographs first, then a map each. */
typedef struct grid {
  canvas *c;
  const figure *f;
  const panel *panels;
  const style *s;
  agf_rect shown;     /* of the photograph */
  int first, columns; /* photographs, and cells in a row */
  int margin, cell_width, cell_height, panel_width, panel_height;
  double cap;
  bool failed;
  problem *why;
} grid;

/* Cell number `cell`, by itself. */
static void draw_cell(void *shared, int cell) {
  grid *g = shared;
  const figure *f = g->f;
  int i = cell - g->first; /* the map */
  int row = i < 0 ? 0 : f->columns ? i / f->columns : cell / g->columns;
  int column = i < 0 ? cell : f->columns ? i % f->columns + g->first : cell % g->columns;
  int cell_left = g->margin + column * (g->cell_width + g->margin), top = g->margin + row * (g->cell_height + g->margin);
  int left = cell_left + (g->cell_width - g->panel_width) / 2, baseline = top + g->panel_height + (int)(2.1 * g->cap);
  const panel *p = &g->panels[i < 0 ? 0 : i];
  double share_width = i < 0 ? 0 : text_width(p->share, g->cap);
  problem why;

  if (i < 0 && cell == 0) { /* a tensor has no photograph: its first map has the first cell */
    draw_photo(g->c, left, top, g->panel_width, g->panel_height, f->photo, &g->shown);
  } else if (i < 0) {
    agf_rect other = {0, 0, f->other->width, f->other->height};

    draw_photo(g->c, left, top, g->panel_width, g->panel_height, f->other, &other);
  } else if (!draw_map(g->c, left, top, g->panel_width, g->panel_height, f, p, g->s, &why)) {
    pthread_mutex_lock(&whole_program);
    g->failed = true;
    *g->why = why;
    pthread_mutex_unlock(&whole_program);
    return;
  }
  if (i >= 0 && !g->s->overlay) draw_frame(g->c, left - 1, top - 1, g->panel_width + 2, g->panel_height + 2, FRAME);
  draw_text_within(g->c, cell_left, baseline, g->cap, g->cell_width - share_width - (share_width > 0 ? g->cap : 0),
                   i >= 0      ? p->label
                   : cell == 0 ? f->photo_label
                               : f->other_label,
                   i < 0 ? FAINT_INK : INK);
  if (i >= 0) {
    draw_text(g->c, cell_left + g->cell_width - share_width, baseline, g->cap, p->share, FAINT_INK);
    draw_scale(g->c, cell_left, baseline + (int)(1.9 * g->cap), g->cap, g->cell_width, p);
  }
}

/* The photograph, what it is compared with, and the maps side by side, captions and scales below, network and method at the foot. */
static bool compose_figure(canvas *c, const figure *f, const panel *panels, int count, const style *s, problem *why) {
  const double most_pixels = 64e6;
  int first = f->photo ? 1 + (f->other != NULL) : 0, cells = count + first, rows, columns;
  double width, height, longer, scale, cap;
  int margin, cell_width, cell_height, panel_width, panel_height;
  agf_rect shown = f->seen;
  grid g;

  if (f->columns) { /* a row for each group, the photographs before the first */
    columns = f->columns + first;
    rows = (count + f->columns - 1) / f->columns;
  } else {
    columns = cells <= 5 ? cells : (int)ceil(sqrt(cells * 1.6));
    rows = (cells + columns - 1) / columns;
    columns = (cells + rows - 1) / rows;
  }
  /* What a panel shows decides its shape: the whole photograph under an overlay, else the part that the network saw. */
  if (s->overlay) {
    shown.left = shown.top = 0;
    shown.width = f->photo->width;
    shown.height = f->photo->height;
  }
  width = f->photo ? shown.width : f->map_width;
  height = f->photo ? shown.height : f->map_height;
  longer = fmax(width, height);
  if (s->overlay) /* its own size, or a whole multiple */
    scale = longer < SMALL_SIDE ? ceil(SMALL_SIDE / longer) : longer > LARGE_SIDE ? LARGE_SIDE / longer : 1;
  else
    scale = fmax(USUAL_SIDE, fmax(f->map_width, f->map_height)) / longer;
  if (width * height * scale * scale * cells > most_pixels) scale = sqrt(most_pixels / (width * height * cells));
  panel_size(s, width, height, scale, &panel_width, &panel_height);

  cap = fmax(10, floor(fmax(panel_width, panel_height) / 40.0));
  margin = (int)(1.8 * cap);
  cell_width = (int)fmax(panel_width, 26 * cap); /* a slim panel still has room for its caption */
  cell_height = panel_height + (int)(4.0 * cap);
  if (!canvas_new(c, margin + columns * (double)(cell_width + margin),
                  margin + rows * (double)(cell_height + margin) + floor(2.2 * cap), why))
    return false;
  g.c = c;
  g.f = f;
  g.panels = panels;
  g.s = s;
  g.shown = shown;
  g.first = first;
  g.columns = columns;
  g.margin = margin;
  g.cell_width = cell_width;
  g.cell_height = cell_height;
  g.panel_width = panel_width;
  g.panel_height = panel_height;
  g.cap = cap;
  g.failed = false;
  g.why = why;
  in_parallel(f->threads, cells, draw_cell, &g);
  draw_text_within(c, margin, c->height - margin, cap, c->width - 2.0 * margin, f->footer, FAINT_INK);
  if (g.failed) free(c->rgb);
  return !g.failed;
}

#endif
