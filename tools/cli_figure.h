/* Figures: maps as panels beside the photograph, with captions and a colour scale, as PNG. Text is drawn from a stroke font
 * of the program's own, so that it is smooth at any size. */
#ifndef CLI_FIGURE_H
#define CLI_FIGURE_H

#include <math.h>

#include "agf.h"
#include "cli_output.h"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>

/* An RGB picture in memory, [height][width][3]. */
typedef struct canvas {
  int width, height;
  uint8_t *rgb;
} canvas;

typedef struct colour {
  uint8_t r, g, b;
} colour;

static const colour INK = {34, 34, 34}, FAINT_INK = {112, 112, 112}, FRAME = {204, 204, 204};

/* A white canvas, or false: stb_image_write counts bytes in int, twice over while it compresses. */
static bool canvas_new(canvas *c, double width, double height, problem *why) {
  const double most_pixels = 200e6;

  if (width * height > most_pixels)
    return failed(why, "%.0fx%.0f pixels are too many for one picture", width, height);
  c->width = (int)width;
  c->height = (int)height;
  c->rgb = allocate((size_t)c->width * (size_t)c->height, 3);
  memset(c->rgb, 255, (size_t)c->width * (size_t)c->height * 3);
  return true;
}

static uint8_t *pixel_at(const canvas *c, int x, int y) {
  return c->rgb + 3 * ((size_t)y * (size_t)c->width + (size_t)x);
}

/* ---- Text ----------------------------------------------------------------------------------------------------------------- */

/* Printable ASCII from ' ' on. A glyph is strokes divided by spaces; a stroke is points of two characters: x as a digit, y as a
 * letter from a, the top of the capitals, over d, the top of the small letters, and k, the baseline, to n, the lowest
 * descender. A stroke begins and ends at its first and last point, goes straight through points with a capital letter, and is
 * bent by the others, which are the control points of a quadratic B-spline. A final '.' closes a stroke. */
static const char *const glyphs[95] = {
  /*   */ "", /* ! */ "0a0h 0k0k", /* " */ "0a0d 2a2d", /* # */ "2b1j 5b4j 0d6d 0h6h", /* $ */ "6c6b0b0f6f6j0j0i 3a3k",
  /* % */ "7a1k 0a3a3d0d. 5h8h8k5k.", /* & */ "7k1d1a5a5d0f0k4k7g", /* ' */ "0a0d", /* ( */ "2a0d0i2m", /* ) */ "0a2d2i0m",
  /* * */ "2a2e 0b4d 4b0d", /* + */ "0g6g 3d3j", /* , */ "1j0m", /* - */ "0g4g", /* . */ "0k0k", /* / */ "4a0l",
  /* 0 */ "0a6a6k0k.", /* 1 */ "1c4A4k", /* 2 */ "0c0a6a6d0K6k", /* 3 */ "0b0a6a6f3F6f6k0k0j", /* 4 */ "4k4A0H6h",
  /* 5 */ "6a1A0F1d6d6k0k0j", /* 6 */ "5a0a0h 0e6e6k0k.", /* 7 */ "0a6A2k", /* 8 */ "0a6a6f0f. 0f6f6k0k.",
  /* 9 */ "6d6k1k 0a6a6g0g.",
  /* : */ "0e0e 0k0k", /* ; */ "1e1e 1j0m", /* < */ "5c0G5k", /* = */ "0e6e 0i6i", /* > */ "0c5G0k", /* ? */ "0c0a5a5e2f2h 2k2k",
  /* @ */ "6d6G6i9i9a0a0l7l 3d6d6h3h.",
  /* A */ "0k4A8k 1h7h", /* B */ "0a0K3K6k6f3F0f 0a3A5a5f3f", /* C */ "7c7a0a0k7k7i", /* D */ "0A0K3K7k7a3A.",
  /* E */ "5a0A0K5k 0f4f", /* F */ "5a0A0k 0f4f", /* G */ "7c7a0a0k7k7F4f", /* H */ "0a0k 6a6k 0f6f", /* I */ "0a0k",
  /* J */ "4a4H4k0k0h", /* K */ "0a0k 6a0g 2e6k", /* L */ "0a0K5k", /* M */ "0k0A4H8A8k", /* N */ "0k0A6K6a",
  /* O */ "0a8a8k0k.", /* P */ "0k0A3A6a6f3F0f", /* Q */ "0a8a8k0k. 5h8k", /* R */ "0k0A3A6a6f3F0f 3f6k",
  /* S */ "6c6a0a0f6f6k0k0i", /* T */ "0a6a 3a3k", /* U */ "0a0G0k6k6G6a", /* V */ "0a4K8a", /* W */ "0a2K5B8K9a",
  /* X */ "0a6k 6a0k", /* Y */ "0a3F6a 3f3k", /* Z */ "0a6A0K6k",
  /* [ */ "2a0A0M2m", /* \ */ "0a4l", /* ] */ "0a2A2M0m", /* ^ */ "0d2A4d", /* _ */ "0l6l", /* ` */ "0a1c",
  /* a */ "0e0d5d5G5k 5g3G0g0k3K5k5h", /* b */ "0a0k 0d5d5k0k.", /* c */ "5e5d0d0k5k5j", /* d */ "5a5k 0d5d5k0k.",
  /* e */ "0g5G5d0d0k5k5j", /* f */ "3a1a1D1k 0d3d", /* g */ "0d5d5k0k. 5d5K5n0n0m", /* h */ "0a0k 0g0d5d5G5k",
  /* i */ "0d0k 0a0a", /* j */ "2d2K2n0n 2a2a", /* k */ "0a0k 5d0i 2g5k", /* l */ "0a0k", /* m */ "0d0k 0g0d4d4G4k 4g4d8d8G8k",
  /* n */ "0d0k 0g0d5d5G5k", /* o */ "0d6d6k0k.", /* p */ "0d0n 0d5d5k0k.", /* q */ "5d5n 0d5d5k0k.", /* r */ "0d0k 0g0d3d",
  /* s */ "4e4d0d0g5h5k0k0j", /* t */ "1b1H1k3k 0d3d", /* u */ "0d0H0k5k5h 5d5k", /* v */ "0d3K6d", /* w */ "0d2K4E6K8d",
  /* x */ "0d5k 5d0k", /* y */ "0d3k 6d2n", /* z */ "0d5D0K5k",
  /* { */ "3a1a1g0g 0g1g1m3m", /* | */ "0a0m", /* } */ "0a2a2g3g 3g2g2m0m", /* ~ */ "0h0e3e3i6i6f"
};

/* In units of the font's grid. */
enum { CAP_HEIGHT = 10 };
static const double HALF_STROKE = 0.62, GLYPH_GAP = 2.7;

static const char *glyph_of(unsigned char c) {
  return c < ' ' || c > '~' ? glyphs['?' - ' '] : glyphs[c - ' '];
}

/* How far the pen moves, in units of the font's grid. */
static double glyph_advance(unsigned char c) {
  const char *g = glyph_of(c);
  int widest = c == ' ' ? 2 : c >= '0' && c <= '9' ? 6 : 0; /* figures stand in columns */

  for (; *g; g++)
    if (*g >= '0' && *g <= '9' && *g - '0' > widest)
      widest = *g - '0';
  return widest + GLYPH_GAP;
}

/* One character per '?' where the text is not ASCII: continuation bytes take no place. */
static bool is_drawn(unsigned char c) {
  return (c & 0xC0) != 0x80;
}

/* The width of `text` with capitals `cap` pixels high. */
static double text_width(const char *text, double cap) {
  double units = 2 * HALF_STROKE - GLYPH_GAP; /* no gap behind the last character, but both ends of its strokes */

  for (; *text; text++)
    if (is_drawn((unsigned char)*text))
      units += glyph_advance((unsigned char)*text);
  return units > 0 ? units * cap / CAP_HEIGHT : 0;
}

typedef struct point {
  double x, y;
} point;

typedef struct outline {
  point from[160], to[160]; /* straight pieces; the longest glyph needs 104 */
  int count;
} outline;

static void outline_add(outline *o, point from, point to) {
  if (o->count < (int)(sizeof o->from / sizeof *o->from)) {
    o->from[o->count] = from;
    o->to[o->count++] = to;
  }
}

/* The quadratic arc from `from` to `to` with control point `by`. */
static void outline_add_arc(outline *o, point from, point by, point to) {
  enum { PIECES = 8 };
  point last = from;
  int i;

  for (i = 1; i <= PIECES; i++) {
    double t = (double)i / PIECES, a = (1 - t) * (1 - t), b = 2 * t * (1 - t), c = t * t;
    point next;

    next.x = a * from.x + b * by.x + c * to.x;
    next.y = a * from.y + b * by.y + c * to.y;
    outline_add(o, last, next);
    last = next;
  }
}

static point middle(point a, point b) {
  point m;

  m.x = (a.x + b.x) / 2;
  m.y = (a.y + b.y) / 2;
  return m;
}

/* One stroke's points to straight pieces. */
static void outline_add_stroke(outline *o, const point *points, const bool *corner, int count, bool closed) {
  point pen = closed ? middle(points[count - 1], points[0]) : points[0];
  int i;

  if (count == 2 || count == 1) {
    outline_add(o, points[0], points[count - 1]);
    return;
  }
  for (i = closed ? 0 : 1; i < (closed ? count : count - 1); i++) {
    point next = !closed && i == count - 2 ? points[i + 1] : middle(points[i], points[(i + 1) % count]);

    if (corner[i]) {
      outline_add(o, pen, points[i]);
      outline_add(o, points[i], next);
    } else {
      outline_add_arc(o, pen, points[i], next);
    }
    pen = next;
  }
}

static void outline_of(unsigned char c, outline *o) {
  const char *g = glyph_of(c);

  o->count = 0;
  while (*g) {
    point points[16];
    bool corner[16], closed;
    int count = 0;

    for (; *g && *g != ' ' && *g != '.' && count < 16; g += 2) {
      corner[count] = g[1] < 'a';
      points[count].x = g[0] - '0';
      points[count++].y = lower((unsigned char)g[1]) - 'a';
    }
    closed = *g == '.';
    g += closed;
    g += *g == ' ';
    outline_add_stroke(o, points, corner, count, closed);
  }
}

static double distance_to_piece(point p, point from, point to) {
  double dx = to.x - from.x, dy = to.y - from.y, length = dx * dx + dy * dy;
  double t = length > 0 ? ((p.x - from.x) * dx + (p.y - from.y) * dy) / length : 0;

  t = t < 0 ? 0 : t > 1 ? 1 : t;
  return hypot(p.x - from.x - t * dx, p.y - from.y - t * dy);
}

/* Draw `text` from `left` on the baseline, capitals `cap` pixels high, clipped to the canvas. */
static void draw_text(canvas *c, double left, double baseline, double cap, const char *text, colour ink) {
  double unit = cap / CAP_HEIGHT, half_stroke = fmax(0.6, unit * HALF_STROKE);
  outline o;

  left += half_stroke;
  for (; *text; text++) {
    double advance = glyph_advance((unsigned char)*text);
    int x, y, i;

    if (!is_drawn((unsigned char)*text))
      continue;
    outline_of((unsigned char)*text, &o);
    for (y = (int)(baseline - 12 * unit); y <= (int)(baseline + 5 * unit); y++)
      for (x = (int)(left - 2 * unit); x <= (int)(left + advance * unit); x++) {
        double nearest = 1e9, cover;
        uint8_t *pixel;
        point p;

        if (x < 0 || y < 0 || x >= c->width || y >= c->height)
          continue;
        p.x = (x + 0.5 - left) / unit;
        p.y = (y + 0.5 - baseline) / unit + CAP_HEIGHT;
        for (i = 0; i < o.count; i++)
          nearest = fmin(nearest, distance_to_piece(p, o.from[i], o.to[i]));
        cover = half_stroke + 0.5 - nearest * unit;
        cover = cover < 0 ? 0 : cover > 1 ? 1 : cover;
        pixel = pixel_at(c, x, y);
        pixel[0] = (uint8_t)(pixel[0] + cover * (ink.r - pixel[0]) + 0.5);
        pixel[1] = (uint8_t)(pixel[1] + cover * (ink.g - pixel[1]) + 0.5);
        pixel[2] = (uint8_t)(pixel[2] + cover * (ink.b - pixel[2]) + 0.5);
      }
    left += advance * unit;
  }
}

/* Draw `text`, shortened by "..." where it would be wider than `room`. */
static void draw_text_within(canvas *c, double left, double baseline, double cap, double room, const char *text, colour ink) {
  double units = room * CAP_HEIGHT / cap + GLYPH_GAP - 2 * HALF_STROKE, used = 0;
  double dots = 3 * glyph_advance('.');
  size_t fits = 0, i; /* bytes that leave room for the dots */
  char *shortened;

  for (i = 0; text[i] && used <= units; i++) {
    if (is_drawn((unsigned char)text[i])) {
      if (used + dots <= units)
        fits = i;
      used += glyph_advance((unsigned char)text[i]);
    }
  }
  if (used <= units) {
    draw_text(c, left, baseline, cap, text, ink);
  } else if (fits) {
    shortened = text_of("%.*s...", (int)fits, text);
    draw_text(c, left, baseline, cap, shortened, ink);
    free(shortened);
  }
}

/* ---- Pictures in pictures ------------------------------------------------------------------------------------------------- */

/* The weights of the source pixels first .. first + count - 1 that make one destination pixel. */
typedef struct taps {
  int first, count;
  float *weights;
} taps;

/* Bilinear with antialiasing along one axis: [from, from + extent) of `source` pixels becomes `wanted` ones. */
static taps *taps_for(double from, double extent, int source, int wanted) {
  double scale = extent / wanted, support = scale > 1 ? scale : 1;
  taps *all = allocate((size_t)wanted, sizeof *all);
  int i, j;

  for (i = 0; i < wanted; i++) {
    double centre = from + (i + 0.5) * scale, sum = 0;
    int first = (int)floor(centre - support), last = (int)ceil(centre + support);

    first = first < 0 ? 0 : first > source - 1 ? source - 1 : first;
    last = last > source ? source : last <= first ? first + 1 : last;
    all[i].first = first;
    all[i].count = last - first;
    all[i].weights = allocate((size_t)(last - first), sizeof(float));
    for (j = first; j < last; j++) {
      double weight = fmax(0, 1 - fabs((j + 0.5 - centre) / support));

      all[i].weights[j - first] = (float)weight;
      sum += weight;
    }
    for (j = 0; j < all[i].count; j++)
      all[i].weights[j] = sum > 0 ? (float)(all[i].weights[j] / sum) : 1.0f / (float)all[i].count;
  }
  return all;
}

static void taps_free(taps *all, int count) {
  int i;

  for (i = 0; i < count; i++)
    free(all[i].weights);
  free(all);
}

/* Draw the part `from` of `photo` at (left, top), width x height pixels large. */
static void draw_photo(canvas *c, int left, int top, int width, int height, const canvas *photo, const agf_rect *from) {
  taps *across = taps_for(from->left, from->width, photo->width, width);
  taps *down = taps_for(from->top, from->height, photo->height, height);
  int first_row = down[0].first, rows = down[height - 1].first + down[height - 1].count - first_row;
  float *narrow = allocate((size_t)rows * (size_t)width * 3, sizeof *narrow); /* [rows][width][3] */
  int x, y, i, k;

  for (y = 0; y < rows; y++)
    for (x = 0; x < width; x++)
      for (k = 0; k < 3; k++) {
        const uint8_t *source = pixel_at(photo, across[x].first, first_row + y) + k;
        float sum = 0;

        for (i = 0; i < across[x].count; i++)
          sum += across[x].weights[i] * source[3 * i];
        narrow[((size_t)y * (size_t)width + (size_t)x) * 3 + (size_t)k] = sum;
      }
  for (y = 0; y < height; y++)
    for (x = 0; x < width; x++)
      for (k = 0; k < 3; k++) {
        const float *source = narrow + ((size_t)(down[y].first - first_row) * (size_t)width + (size_t)x) * 3 + k;
        float sum = 0.5f;

        for (i = 0; i < down[y].count; i++)
          sum += down[y].weights[i] * source[(size_t)i * (size_t)width * 3];
        pixel_at(c, left + x, top + y)[k] = (uint8_t)(sum > 255 ? 255 : sum);
      }
  free(narrow);
  taps_free(across, width);
  taps_free(down, height);
}

static void draw_frame(canvas *c, int left, int top, int width, int height, colour ink) {
  int x, y;

  for (y = top; y < top + height; y++)
    for (x = left; x < left + width; x++)
      if (x == left || y == top || x == left + width - 1 || y == top + height - 1)
        if (x >= 0 && y >= 0 && x < c->width && y < c->height)
          memcpy(pixel_at(c, x, y), &ink, 3);
}

/* ---- Figures -------------------------------------------------------------------------------------------------------------- */

/* How a map becomes colours. */
typedef struct style {
  agf_colormap cmap;
  float vmax;   /* the value at the end of the scale; 0: chosen for each map, scale_of() */
  float alpha;  /* opacity of the strongest evidence over a photograph */
  bool overlay; /* maps over the photograph, at its own size */
} style;

/* A map of a figure, and its caption. */
typedef struct panel {
  const float *map;          /* [height][width] */
  const char *label, *share; /* below the map, left and right */
} panel;

/* What a figure shows besides its maps. */
typedef struct figure {
  const canvas *photo;     /* NULL: there is none */
  agf_rect seen;           /* the part of the photograph that the network saw */
  int map_height, map_width;
  const char *photo_label; /* below the photograph */
  const char *footer;
} figure;

static int compare_floats(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;

  return (x > y) - (x < y);
}

/* The end of the colour scale. A map's largest value is often several times that of all but a few pixels, and a scale up to
 * it would leave the rest nearly white: so the scale ends where 0.5 % of the pixels exceed it. */
static float scale_of(const figure *f, const float *map, const style *s) {
  size_t count = (size_t)f->map_height * (size_t)f->map_width, i;
  float *magnitudes, vmax;

  if (s->vmax > 0)
    return s->vmax;
  magnitudes = allocate(count, sizeof *magnitudes);
  for (i = 0; i < count; i++)
    magnitudes[i] = fabsf(map[i]);
  qsort(magnitudes, count, sizeof *magnitudes, compare_floats);
  vmax = magnitudes[count - 1 - count / 200];
  free(magnitudes);
  return vmax;
}

/* Draw a map at (left, top), width x height pixels large. With overlay the canvas holds the whole photograph there. */
static bool draw_map(canvas *c, int left, int top, int width, int height, const figure *f, const float *map, const style *s,
                     problem *why) {
  float vmax = scale_of(f, map, s);
  uint8_t *corner = pixel_at(c, left, top);
  size_t stride = 3 * (size_t)c->width;
  agf_rect seen = f->seen;
  agf_status status;
  agf_error error;

  if (s->overlay) {
    seen.left *= (double)width / f->photo->width;
    seen.width *= (double)width / f->photo->width;
    seen.top *= (double)height / f->photo->height;
    seen.height *= (double)height / f->photo->height;
    status = agf_overlay(map, f->map_height, f->map_width, s->cmap, vmax, s->alpha, &seen, corner, width, height, stride, &error);
  } else {
    status = agf_render(map, f->map_height, f->map_width, s->cmap, vmax, corner, width, height, stride, 3, &error);
  }
  return status == AGF_OK || failed(why, "%s", error.message);
}

/* The colour scale, with its bottom line on `baseline` and ending at `right`; returns the width it takes. */
static int draw_scale(canvas *c, int right, int baseline, double cap, const style *s) {
  enum { STEPS = 256 };
  const char *low = s->cmap == AGF_CMAP_SEISMIC ? "against" : "none", *high = "for the class";
  int gap = (int)(0.8 * cap), width = (int)(11 * cap), height = (int)(cap + 0.5), i;
  int high_left = right - (int)ceil(text_width(high, cap)), left = high_left - gap - width;
  int low_left = left - gap - (int)ceil(text_width(low, cap));
  float ramp[STEPS];

  if (low_left < 0)
    return 0;
  for (i = 0; i < STEPS; i++)
    ramp[i] = s->cmap == AGF_CMAP_SEISMIC ? 2 * (float)i / (STEPS - 1) - 1 : (float)i / (STEPS - 1);
  if (agf_render(ramp, 1, STEPS, s->cmap, 1, pixel_at(c, left, baseline - height), width, height, 3 * (size_t)c->width, 3, NULL))
    return 0;
  draw_frame(c, left - 1, baseline - height - 1, width + 2, height + 2, FRAME);
  draw_text(c, low_left, baseline, cap, low, FAINT_INK);
  draw_text(c, high_left, baseline, cap, high, FAINT_INK);
  return right - low_left;
}

/* A map alone: over the photograph at the photograph's size, else at the map's own. Several stand side by side. */
static bool compose_bare(canvas *c, const figure *f, const panel *panels, int count, const style *s, problem *why) {
  int width = s->overlay ? f->photo->width : f->map_width, height = s->overlay ? f->photo->height : f->map_height, i;
  agf_rect all = {0, 0, width, height};
  bool done = true;

  if (!canvas_new(c, (double)width * count, height, why))
    return false;
  for (i = 0; i < count && done; i++) {
    if (s->overlay)
      draw_photo(c, i * width, 0, width, height, f->photo, &all);
    done = draw_map(c, i * width, 0, width, height, f, panels[i].map, s, why);
  }
  if (!done)
    free(c->rgb);
  return done;
}

/* The photograph and the maps side by side, captions below, model and colour scale at the foot. */
static bool compose_figure(canvas *c, const figure *f, const panel *panels, int count, const style *s, problem *why) {
  enum { USUAL_SIDE = 448, SMALL_SIDE = 320 };
  const double most_pixels = 64e6;
  int cells = count + (f->photo != NULL), per_row = cells <= 5 ? cells : (int)ceil(sqrt(cells * 1.6));
  int rows = (cells + per_row - 1) / per_row, balanced = (cells + rows - 1) / rows;
  double width, height, longer, scale, cap;
  int margin, cell_width, cell_height, panel_width, panel_height, cell, baseline, scale_width;
  agf_rect shown = f->seen;
  bool done = true;

  /* What a panel shows decides its shape: the whole photograph under an overlay, else the part that the network saw. */
  if (s->overlay) {
    shown.left = shown.top = 0;
    shown.width = f->photo->width;
    shown.height = f->photo->height;
  }
  width = f->photo ? shown.width : f->map_width;
  height = f->photo ? shown.height : f->map_height;
  longer = fmax(width, height);
  if (s->overlay)
    scale = longer < SMALL_SIDE ? ceil(SMALL_SIDE / longer) : 1; /* its own size, or a whole multiple */
  else
    scale = fmax(USUAL_SIDE, fmax(f->map_width, f->map_height)) / longer;
  if (width * height * scale * scale * cells > most_pixels)
    scale = sqrt(most_pixels / (width * height * cells));
  panel_width = (int)fmax(1, width * scale + 0.5);
  panel_height = (int)fmax(1, height * scale + 0.5);

  cap = fmax(10, floor(fmax(panel_width, panel_height) / 40.0));
  margin = (int)(1.8 * cap);
  cell_width = (int)fmax(panel_width, 26 * cap); /* a slim panel still has room for its caption */
  cell_height = panel_height + (int)(2.1 * cap);
  if (!canvas_new(c, margin + balanced * (double)(cell_width + margin),
                  margin + rows * (double)(cell_height + margin) + floor(3.2 * cap), why))
    return false;
  for (cell = 0; cell < cells && done; cell++) {
    const panel *p = f->photo ? panels + cell - 1 : panels + cell;
    bool is_photo = f->photo && cell == 0;
    int cell_left = margin + cell % balanced * (cell_width + margin), top = margin + cell / balanced * (cell_height + margin);
    int left = cell_left + (cell_width - panel_width) / 2;
    double share_width = is_photo ? 0 : text_width(p->share, cap);

    if (is_photo || s->overlay)
      draw_photo(c, left, top, panel_width, panel_height, f->photo, &shown);
    if (!is_photo)
      done = draw_map(c, left, top, panel_width, panel_height, f, p->map, s, why);
    if (!is_photo && !s->overlay)
      draw_frame(c, left - 1, top - 1, panel_width + 2, panel_height + 2, FRAME);
    baseline = top + cell_height;
    draw_text_within(c, cell_left, baseline, cap, cell_width - share_width - (share_width > 0 ? cap : 0),
                     is_photo ? f->photo_label : p->label, is_photo ? FAINT_INK : INK);
    if (!is_photo)
      draw_text(c, cell_left + cell_width - share_width, baseline, cap, p->share, FAINT_INK);
  }
  baseline = c->height - margin;
  scale_width = draw_scale(c, c->width - margin, baseline, cap, s);
  draw_text_within(c, margin, baseline, cap, c->width - 3.0 * margin - scale_width, f->footer, FAINT_INK);
  if (!done)
    free(c->rgb);
  return done;
}

static void png_bytes(void *context, void *data, int size) {
  output_write(context, data, (size_t)size);
}

/* False: the name is taken or forbidden. */
static bool write_png(const char *path, const canvas *c, problem *why) {
  output *o = output_open(path, why);

  if (!o)
    return false;
  if (!stbi_write_png_to_func(png_bytes, o, c->width, c->height, 3, c->rgb, 3 * c->width))
    fatal("%s: out of memory for a picture of %dx%d pixels", path, c->width, c->height);
  output_close(o);
  return true;
}

#endif
