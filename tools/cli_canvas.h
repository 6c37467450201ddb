/* A canvas, and what is drawn on it: text, photographs, frames. Text comes from a stroke font of the program's own, which is smooth at
 * any size and the same on every machine, or from a font file. */
#ifndef CLI_CANVAS_H
#define CLI_CANVAS_H

#include <math.h>

#include "agf.h"
#include "cli_output.h"
#include "cli_png.h"

#define STB_TRUETYPE_IMPLEMENTATION
#define STBTT_STATIC
#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#include <stb/stb_truetype.h>
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

/* An RGB picture in memory, [height][width][3]. */
typedef struct canvas {
  int width, height;
  uint8_t *rgb;
} canvas;

typedef struct colour {
  uint8_t r, g, b;
} colour;

static const colour INK = {34, 34, 34}, FAINT_INK = {112, 112, 112}, FRAME = {204, 204, 204}, WHITE = {255, 255, 255};

/* A white canvas, or false. */
static bool canvas_new(canvas *c, double width, double height, problem *why) {
  const double most_pixels = 200e6;

  if (width * height > most_pixels) return failed(why, "%.0fx%.0f pixels are too many for one picture", width, height);
  c->width = (int)width;
  c->height = (int)height;
  c->rgb = allocate((size_t)c->width * (size_t)c->height, 3);
  memset(c->rgb, 255, (size_t)c->width * (size_t)c->height * 3);
  return true;
}

static uint8_t *pixel_at(const canvas *c, int x, int y) { return c->rgb + 3 * ((size_t)y * (size_t)c->width + (size_t)x); }

/* ---- Text ----------------------------------------------------------------------------------------------------------------- */

/* Printable ASCII from ' ' on. A glyph is strokes divided by spaces; a stroke is points of two characters: x as a digit, y as a
 * letter from a, the top of the capitals, over d, the top of the small letters, and k, the baseline, to n, the lowest
 * descender. A stroke begins and ends at its first and last point, goes straight through points with a capital letter, and is
 * bent by the others, which are the control points of a quadratic B-spline. A final '.' closes a stroke. */
static const char *const glyphs[95] = {
    /*   */ "",
    /* ! */ "0a0h 0k0k",
    /* " */ "0a0d 2a2d",
    /* # */ "2b1j 5b4j 0d6d 0h6h",
    /* $ */ "6c6b0b0f6f6j0j0i 3a3k",
    /* % */ "7a1k 0a3a3d0d. 5h8h8k5k.",
    /* & */ "7k1d1a5a5d0f0k4k7g",
    /* ' */ "0a0d",
    /* ( */ "2a0d0i2m",
    /* ) */ "0a2d2i0m",
    /* * */ "2a2e 0b4d 4b0d",
    /* + */ "0g6g 3d3j",
    /* , */ "1j0m",
    /* - */ "0g4g",
    /* . */ "0k0k",
    /* / */ "4a0l",
    /* 0 */ "0a6a6k0k.",
    /* 1 */ "1c4A4k",
    /* 2 */ "0c0a6a6d0K6k",
    /* 3 */ "0b0a6a6f3F6f6k0k0j",
    /* 4 */ "4k4A0H6h",
    /* 5 */ "6a1A0F1d6d6k0k0j",
    /* 6 */ "5a0a0h 0e6e6k0k.",
    /* 7 */ "0a6A2k",
    /* 8 */ "0a6a6f0f. 0f6f6k0k.",
    /* 9 */ "6d6k1k 0a6a6g0g.",
    /* : */ "0e0e 0k0k",
    /* ; */ "1e1e 1j0m",
    /* < */ "5c0G5k",
    /* = */ "0e6e 0i6i",
    /* > */ "0c5G0k",
    /* ? */ "0c0a5a5e2f2h 2k2k",
    /* @ */ "6d6G6i9i9a0a0l7l 3d6d6h3h.",
    /* A */ "0k4A8k 1h7h",
    /* B */ "0a0K3K6k6f3F0f 0a3A5a5f3f",
    /* C */ "7c7a0a0k7k7i",
    /* D */ "0A0K3K7k7a3A.",
    /* E */ "5a0A0K5k 0f4f",
    /* F */ "5a0A0k 0f4f",
    /* G */ "7c7a0a0k7k7F4f",
    /* H */ "0a0k 6a6k 0f6f",
    /* I */ "0a0k",
    /* J */ "4a4H4k0k0h",
    /* K */ "0a0k 6a0g 2e6k",
    /* L */ "0a0K5k",
    /* M */ "0k0A4H8A8k",
    /* N */ "0k0A6K6a",
    /* O */ "0a8a8k0k.",
    /* P */ "0k0A3A6a6f3F0f",
    /* Q */ "0a8a8k0k. 5h8k",
    /* R */ "0k0A3A6a6f3F0f 3f6k",
    /* S */ "6c6a0a0f6f6k0k0i",
    /* T */ "0a6a 3a3k",
    /* U */ "0a0G0k6k6G6a",
    /* V */ "0a4K8a",
    /* W */ "0a2K5B8K9a",
    /* X */ "0a6k 6a0k",
    /* Y */ "0a3F6a 3f3k",
    /* Z */ "0a6A0K6k",
    /* [ */ "2a0A0M2m",
    /* \ */ "0a4l",
    /* ] */ "0a2A2M0m",
    /* ^ */ "0d2A4d",
    /* _ */ "0l6l",
    /* ` */ "0a1c",
    /* a */ "0e0d5d5G5k 5g3G0g0k3K5k5h",
    /* b */ "0a0k 0d5d5k0k.",
    /* c */ "5e5d0d0k5k5j",
    /* d */ "5a5k 0d5d5k0k.",
    /* e */ "0g5G5d0d0k5k5j",
    /* f */ "3a1a1D1k 0d3d",
    /* g */ "0d5d5k0k. 5d5K5n0n0m",
    /* h */ "0a0k 0g0d5d5G5k",
    /* i */ "0d0k 0a0a",
    /* j */ "2d2K2n0n 2a2a",
    /* k */ "0a0k 5d0i 2g5k",
    /* l */ "0a0k",
    /* m */ "0d0k 0g0d4d4G4k 4g4d8d8G8k",
    /* n */ "0d0k 0g0d5d5G5k",
    /* o */ "0d6d6k0k.",
    /* p */ "0d0n 0d5d5k0k.",
    /* q */ "5d5n 0d5d5k0k.",
    /* r */ "0d0k 0g0d3d",
    /* s */ "4e4d0d0g5h5k0k0j",
    /* t */ "1b1H1k3k 0d3d",
    /* u */ "0d0H0k5k5h 5d5k",
    /* v */ "0d3K6d",
    /* w */ "0d2K4E6K8d",
    /* x */ "0d5k 5d0k",
    /* y */ "0d3k 6d2n",
    /* z */ "0d5D0K5k",
    /* { */ "3a1a1g0g 0g1g1m3m",
    /* | */ "0a0m",
    /* } */ "0a2a2g3g 3g2g2m0m",
    /* ~ */ "0h0e3e3i6i6f"};

/* In units of the font's grid. */
enum { CAP_HEIGHT = 10 };
static const double HALF_STROKE = 0.62, GLYPH_GAP = 2.7;

/* Latin-1 letters from U+00C0 on: the letter and, by its number, what stands above (or, from RING on, on or below) it. */
enum { NOTHING, GRAVE, ACUTE, CIRCUMFLEX, TILDE, DIAERESIS, RING, CEDILLA, SLASH, ACCENTS };
static const char latin_letters[] = "AAAAAA?CEEEEIIII?NOOOOO?OUUUUY??aaaaaa?ceeeeiiii?nooooo?ouuuuy?y";
static const char latin_accents[] = "1234560712351235041234508123520012345607123512350412345081235205";
static const char *const accents[ACCENTS] = {"", "0a2c", "2a0c", "0c2A4c", "0c0a3c3a", "0b0b 3b3b", "0a2a2c0c.", "1l2m0n", "6a0k"};

/* What the strokes make of a character: the glyph of a letter, and its accent; false: they do not have it. */
static bool find_glyph(uint32_t c, const char **letter, int *accent) {
  bool latin = c >= 0xC0 && c <= 0xFF && latin_letters[c - 0xC0] != '?';

  *accent = latin ? latin_accents[c - 0xC0] - '0' : NOTHING;
  c = latin ? (uint32_t)latin_letters[c - 0xC0] : c;
  *letter = latin && c == 'i' ? "0d0k" : glyphs[c < ' ' || c > '~' ? '?' - ' ' : c - ' '];
  return c >= ' ' && c <= '~';
}

/* The widest x of a glyph. */
static int glyph_width(const char *g) {
  int widest = 0;

  for (; *g; g++)
    if (*g >= '0' && *g <= '9' && *g - '0' > widest) widest = *g - '0';
  return widest;
}

/* How far the pen moves, in units of the font's grid. */
static double glyph_advance(uint32_t c) {
  const char *letter;
  int accent, least = c == ' ' ? 2 : c >= '0' && c <= '9' ? 6 : 0, width; /* figures stand in columns */

  find_glyph(c, &letter, &accent);
  width = glyph_width(letter);
  return (width > least ? width : least) + GLYPH_GAP;
}

typedef struct point {
  double x, y;
} point;

typedef struct outline {
  point from[192], to[192]; /* straight pieces; the longest letter needs 104, the longest accent 33 */
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

/* Add a glyph's strokes, moved by (dx, dy). */
static void outline_add_glyph(outline *o, const char *g, double dx, double dy) {
  while (*g) {
    point points[16];
    bool corner[16], closed;
    int count = 0;

    for (; *g && *g != ' ' && *g != '.' && count < 16; g += 2) {
      corner[count] = g[1] < 'a';
      points[count].x = g[0] - '0' + dx;
      points[count++].y = lower((unsigned char)g[1]) - 'a' + dy;
    }
    closed = *g == '.';
    g += closed;
    g += *g == ' ';
    outline_add_stroke(o, points, corner, count, closed);
  }
}

static void outline_of(uint32_t c, outline *o) {
  const char *letter;
  int accent;

  o->count = 0;
  find_glyph(c, &letter, &accent);
  outline_add_glyph(o, letter, 0, 0);
  if (accent)
    outline_add_glyph(o, accents[accent], (glyph_width(letter) - glyph_width(accents[accent])) / 2.0,
                      accent < CEDILLA && c < 0xE0 ? -3 : 0);
}

/* The square of the distance to a straight piece. */
static double square_to_piece(point p, point from, point to) {
  double dx = to.x - from.x, dy = to.y - from.y, length = dx * dx + dy * dy;
  double t = length > 0 ? ((p.x - from.x) * dx + (p.y - from.y) * dy) / length : 0;

  t = t < 0 ? 0 : t > 1 ? 1 : t;
  dx = p.x - from.x - t * dx;
  dy = p.y - from.y - t * dy;
  return dx * dx + dy * dy;
}

/* Ink over a pixel of the canvas, where it is one. */
static void blend(canvas *c, int x, int y, double cover, colour ink) {
  uint8_t *pixel;

  if (x < 0 || y < 0 || x >= c->width || y >= c->height) return;
  pixel = pixel_at(c, x, y);
  pixel[0] = (uint8_t)(pixel[0] + cover * (ink.r - pixel[0]) + 0.5);
  pixel[1] = (uint8_t)(pixel[1] + cover * (ink.g - pixel[1]) + 0.5);
  pixel[2] = (uint8_t)(pixel[2] + cover * (ink.b - pixel[2]) + 0.5);
}

/* The next character of UTF-8 text; U+FFFD for a byte that is none. */
static uint32_t next_character(const char **text) {
  const unsigned char *s = (const unsigned char *)*text;
  int length = utf8_length(*text);

  *text += length ? length : 1;
  switch (length) {
    case 1: return s[0];
    case 2: return (s[0] & 31u) << 6 | (s[1] & 63u);
    case 3: return (s[0] & 15u) << 12 | (s[1] & 63u) << 6 | (s[2] & 63u);
    case 4: return (s[0] & 7u) << 18 | (s[1] & 63u) << 12 | (s[2] & 63u) << 6 | (s[3] & 63u);
    default: return 0xFFFD;
  }
}

/* A font from a file. Text that the strokes have is drawn with them, so that a figure is the same on every machine; other text with
 * a font of the system that has its characters. --font takes one for all. */
typedef struct typeface {
  uint8_t *data;
  stbtt_fontinfo info;
  double cap; /* the capitals' height in the font's units */
} typeface;

static typeface *chosen_typeface; /* --font; NULL: strokes, and what the system has */
enum { MOST_TYPEFACES = 16 };
static typeface *found_typefaces[MOST_TYPEFACES]; /* those that some text needed */
static int found_count;

static typeface *typeface_load(const char *path, problem *why) {
  typeface *t = allocate(1, sizeof *t);
  int x0, y0, x1, y1, offset;
  size_t size;

  if (!read_whole(path, (size_t)1 << 28, &t->data, &size, why)) {
    free(t);
    return NULL;
  }
  offset = size > 1024 ? stbtt_GetFontOffsetForIndex(t->data, 0) : -1;
  if (offset < 0 || (size_t)offset > size - 1024 || !stbtt_InitFont(&t->info, t->data, offset)) {
    free(t->data);
    free(t);
    failed(why, "%s: not a TrueType or OpenType font", path);
    return NULL;
  }
  if (stbtt_GetCodepointBox(&t->info, 'H', &x0, &y0, &x1, &y1) && y1 > 0) {
    t->cap = y1;
  } else {
    stbtt_GetFontVMetrics(&t->info, &y1, &y0, &x0);
    t->cap = 0.72 * (y1 > 0 ? y1 : 1000);
  }
  return t;
}

static void typeface_free(typeface *t) {
  if (t) free(t->data);
  free(t);
}

/* How many characters of the text a font lacks; `t` NULL: the strokes. */
static int missing_in(const typeface *t, const char *text) {
  int missing = 0;

  while (*text) {
    uint32_t c = next_character(&text);
    const char *letter;
    int accent;

    missing += t ? !stbtt_FindGlyphIndex(&t->info, (int)c) : !find_glyph(c, &letter, &accent);
  }
  return missing;
}

/* Font files below `folder`, those that hold most scripts first. */
static void list_fonts(const char *folder, text_list *fonts, int depth) {
  DIR *entries = opendir(folder);
  struct dirent *entry;

  while (entries && fonts->count < 4000 && (entry = readdir(entries))) {
    char *path;

    if (entry->d_name[0] == '.') continue;
    path = text_of("%s/%s", folder, entry->d_name);
    if (is_folder(path) && depth < 5) {
      list_fonts(path, fonts, depth + 1);
      free(path);
    } else if (ends_with(path, ".ttf") || ends_with(path, ".otf") || ends_with(path, ".ttc")) {
      text_list_add(fonts, path);
    } else {
      free(path);
    }
  }
  if (entries) closedir(entries);
}

static int compare_fonts(const void *a, const void *b) {
  const char *x = *(char *const *)a, *y = *(char *const *)b;
  /* upright and plain before bold and slanted, sans before the rest */
  static const char *const odd[] = {"bold", "italic", "oblique", "mono", "serif", "condensed", "light", "thin", "black", "symbol"};
  size_t i, x_odd = 0, y_odd = 0;

  for (i = 0; i < sizeof odd / sizeof *odd; i++) {
    x_odd += contains_ignoring_case(base_name(x), odd[i]);
    y_odd += contains_ignoring_case(base_name(y), odd[i]);
  }
  return x_odd != y_odd ? (x_odd > y_odd) - (x_odd < y_odd) : strcmp(x, y);
}

/* The font to draw `text` with; NULL: the strokes. */
static const typeface *find_typeface(const char *text) {
  static text_list fonts;
  static bool listed;
  static text_map hopeless; /* texts that no font has */
  const char *home = getenv("HOME");
  int i;

  if (chosen_typeface) return chosen_typeface;
  if (!missing_in(NULL, text) || text_map_has(&hopeless, text)) return NULL;
  for (i = 0; i < found_count; i++)
    if (!missing_in(found_typefaces[i], text)) return found_typefaces[i];
  if (!listed) {
    char *own = text_of("%s/.local/share/fonts", home ? home : "");

    list_fonts("/usr/share/fonts", &fonts, 0);
    list_fonts("/usr/local/share/fonts", &fonts, 0);
    list_fonts("/System/Library/Fonts", &fonts, 0);
    list_fonts(own, &fonts, 0);
    free(own);
    if (fonts.count) qsort(fonts.items, (size_t)fonts.count, sizeof *fonts.items, compare_fonts);
    listed = true;
  }
  for (i = 0; i < fonts.count && found_count < MOST_TYPEFACES; i++) {
    problem why;
    typeface *t = typeface_load(fonts.items[i], &why);

    if (t && !missing_in(t, text)) return found_typefaces[found_count++] = t;
    typeface_free(t);
  }
  *text_map_at(&hopeless, text) = 1;
  return NULL;
}

static const typeface *typeface_for(const char *text) {
  const typeface *t;

  pthread_mutex_lock(&whole_program);
  t = find_typeface(text);
  pthread_mutex_unlock(&whole_program);
  return t;
}

/* How far the pen moves for a character, in pixels. */
static double advance_of(const typeface *t, uint32_t c, double cap) {
  int advance, bearing;

  if (!t) return glyph_advance(c) * cap / CAP_HEIGHT;
  stbtt_GetCodepointHMetrics(&t->info, (int)c, &advance, &bearing);
  return advance * cap / t->cap;
}

/* The width of `text` with capitals `cap` pixels high. */
static double text_width(const char *text, double cap) {
  const typeface *t = typeface_for(text);
  double width =
      t ? 0 : (2 * HALF_STROKE - GLYPH_GAP) * cap / CAP_HEIGHT; /* no gap behind the last, but both ends of its strokes */

  while (*text) width += advance_of(t, next_character(&text), cap);
  return width > 0 ? width : 0;
}

static void draw_strokes(canvas *c, double left, double baseline, double cap, uint32_t character, colour ink) {
  double unit = cap / CAP_HEIGHT, half_stroke = fmax(0.6, unit * HALF_STROKE), advance = glyph_advance(character);
  double reach = half_stroke + 0.5 + 1; /* pixels from a piece's middle to where it leaves no ink, and one for rounding */
  int x_begin = (int)(left - 2 * unit), x_end = (int)(left + advance * unit) + 1;
  int y_begin = (int)(baseline - 15 * unit), y_end = (int)(baseline + 5 * unit) + 1, columns_used = x_end - x_begin;
  size_t size, at;
  double *nearest; /* for each pixel the square of the distance to the nearest piece */
  outline o;
  int x, y, i;

  outline_of(character, &o);
  if (!o.count || x_end <= x_begin || y_end <= y_begin) return;
  size = (size_t)(y_end - y_begin) * (size_t)columns_used;
  nearest = allocate(size, sizeof *nearest);
  for (at = 0; at < size; at++) nearest[at] = 1e9;
  for (i = 0; i < o.count; i++) {
    point from = o.from[i], to = o.to[i];
    double x_low = left + unit * fmin(from.x, to.x) - reach, x_high = left + unit * fmax(from.x, to.x) + reach;
    double y_low = baseline + unit * (fmin(from.y, to.y) - CAP_HEIGHT) - reach;
    double y_high = baseline + unit * (fmax(from.y, to.y) - CAP_HEIGHT) + reach;

    for (y = (int)fmax(y_begin, floor(y_low)); y < y_end && y < y_high; y++)
      for (x = (int)fmax(x_begin, floor(x_low)); x < x_end && x < x_high; x++) {
        double *d = nearest + (size_t)(y - y_begin) * (size_t)columns_used + (size_t)(x - x_begin), square;
        point p;

        p.x = (x + 0.5 - left) / unit;
        p.y = (y + 0.5 - baseline) / unit + CAP_HEIGHT;
        square = square_to_piece(p, from, to);
        if (square < *d) *d = square;
      }
  }
  for (y = y_begin, at = 0; y < y_end; y++)
    for (x = x_begin; x < x_end; x++, at++) {
      double cover = half_stroke + 0.5 - sqrt(nearest[at]) * unit;

      if (cover > 0) blend(c, x, y, cover > 1 ? 1 : cover, ink);
    }
  free(nearest);
}

static void draw_glyph(canvas *c, double left, double baseline, double cap, const typeface *t, uint32_t character, colour ink) {
  float scale = (float)(cap / t->cap);
  int width, height, dx, dy, x, y;
  double whole = floor(left);
  unsigned char *cover =
      stbtt_GetCodepointBitmapSubpixel(&t->info, scale, scale, (float)(left - whole), 0, (int)character, &width, &height, &dx, &dy);

  for (y = 0; cover && y < height; y++)
    for (x = 0; x < width; x++) blend(c, (int)whole + dx + x, (int)(baseline + 0.5) + dy + y, cover[y * width + x] / 255.0, ink);
  stbtt_FreeBitmap(cover, NULL);
}

/* Draw `text` from `left` on the baseline, capitals `cap` pixels high, clipped to the canvas. */
static void draw_text_with(canvas *c, double left, double baseline, double cap, const typeface *t, const char *text, colour ink) {
  if (!t) left += fmax(0.6, HALF_STROKE * cap / CAP_HEIGHT);
  while (*text) {
    uint32_t character = next_character(&text);

    if (t)
      draw_glyph(c, left, baseline, cap, t, character, ink);
    else
      draw_strokes(c, left, baseline, cap, character, ink);
    left += advance_of(t, character, cap);
  }
}

static void draw_text(canvas *c, double left, double baseline, double cap, const char *text, colour ink) {
  draw_text_with(c, left, baseline, cap, typeface_for(text), text, ink);
}

/* Draw `text`, shortened by "..." where it would be wider than `room`. */
static void draw_text_within(canvas *c, double left, double baseline, double cap, double room, const char *text, colour ink) {
  const typeface *t = typeface_for(text);
  double dots = 3 * advance_of(t, '.', cap), used = 0;
  const char *at = text, *fits = text; /* what leaves room for the dots */

  if (!t) room += (GLYPH_GAP - 2 * HALF_STROKE) * cap / CAP_HEIGHT; /* as text_width() counts */
  while (*at && used <= room) {
    if (used + dots <= room) fits = at;
    used += advance_of(t, next_character(&at), cap);
  }
  if (used <= room) {
    draw_text_with(c, left, baseline, cap, t, text, ink);
  } else if (fits > text) {
    char *shortened = text_of("%.*s...", (int)(fits - text), text);

    draw_text_with(c, left, baseline, cap, t, shortened, ink);
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
    for (j = 0; j < all[i].count; j++) all[i].weights[j] = sum > 0 ? (float)(all[i].weights[j] / sum) : 1.0f / (float)all[i].count;
  }
  return all;
}

static void taps_free(taps *all, int count) {
  int i;

  for (i = 0; i < count; i++) free(all[i].weights);
  free(all);
}

enum { TOGETHER = 16 }; /* numbers of a row at a time, so that compilers make vectors of them */

/* Row `y` of the photograph in `width` pixels, [width][3] and a number more. `floats`: room for a row of the photograph and TOGETHER
 * more. */
static void narrow_row(const canvas *photo, int y, const taps *across, int width, float *floats, float *to) {
  const uint8_t *row = pixel_at(photo, 0, y);
  int bytes = 3 * photo->width, x, i, k;

  for (x = 0; x + TOGETHER <= bytes; x += TOGETHER)
    for (k = 0; k < TOGETHER; k++) floats[x + k] = row[x + k];
  for (; x < bytes; x++) floats[x] = row[x];
  for (x = 0; x < width; x++) {
    const float *source = floats + 3 * across[x].first;
    float sum[4] = {0}; /* the fourth is the next pixel's, for a vector */

    for (i = 0; i < across[x].count; i++, source += 3)
      for (k = 0; k < 4; k++) sum[k] += across[x].weights[i] * source[k];
    memcpy(to + 3 * x, sum, sizeof sum);
  }
}

/* A weighted sum of narrow rows, of which `ring` keeps the last `kept`, as bytes. */
static void sum_rows(const float *ring, int kept, size_t row, const taps *down, uint8_t *to) {
  size_t at, k;
  int i;

  for (at = 0; at < row; at += TOGETHER) { /* a narrow row has room for the last ones */
    float sum[TOGETHER];

    for (k = 0; k < TOGETHER; k++) sum[k] = 0.5f;
    for (i = 0; i < down->count; i++) {
      const float *source = ring + (size_t)((down->first + i) % kept) * (row + TOGETHER) + at, weight = down->weights[i];

      for (k = 0; k < TOGETHER; k++) sum[k] += weight * source[k];
    }
    for (k = 0; k < TOGETHER && at + k < row; k++) to[at + k] = (uint8_t)(sum[k] > 255 ? 255 : sum[k]);
  }
}

/* Draw the part `from` of `photo` at (left, top), width x height pixels large. */
static void draw_photo(canvas *c, int left, int top, int width, int height, const canvas *photo, const agf_rect *from) {
  taps *across = taps_for(from->left, from->width, photo->width, width);
  taps *down = taps_for(from->top, from->height, photo->height, height);
  size_t row = (size_t)width * 3;
  int kept = 1, next = down[0].first, y; /* next: the row of the photograph that comes into the ring next */
  float *ring, *floats = allocate(3 * (size_t)photo->width + TOGETHER, sizeof *floats);

  for (y = 0; y < height; y++) kept = down[y].count > kept ? down[y].count : kept;
  ring = allocate((size_t)kept * (row + TOGETHER), sizeof *ring); /* [kept][row + TOGETHER] */
  for (y = 0; y < height; y++) {
    for (; next < down[y].first + down[y].count; next++)
      narrow_row(photo, next, across, width, floats, ring + (size_t)(next % kept) * (row + TOGETHER));
    sum_rows(ring, kept, row, &down[y], pixel_at(c, left, top + y));
  }
  free(floats);
  free(ring);
  taps_free(across, width);
  taps_free(down, height);
}

static void fill(canvas *c, int left, int top, int width, int height, colour ink) {
  int x, y;

  for (y = top < 0 ? 0 : top; y < top + height && y < c->height; y++)
    for (x = left < 0 ? 0 : left; x < left + width && x < c->width; x++) memcpy(pixel_at(c, x, y), &ink, 3);
}

static void draw_frame(canvas *c, int left, int top, int width, int height, colour ink) {
  fill(c, left, top, width, 1, ink);
  fill(c, left, top + height - 1, width, 1, ink);
  fill(c, left, top, 1, height, ink);
  fill(c, left + width - 1, top, 1, height, ink);
}

/* False: the name is taken or forbidden. */
static bool write_encoded(const char *path, const encoded *file, problem *why) {
  output *o = output_open(path, why);

  if (o) {
    output_write(o, file->bytes, file->size);
    output_close(o);
  }
  return o != NULL;
}

static bool write_png(const char *path, const canvas *c, int threads, problem *why) {
  encoded png = png_encode(c->rgb, c->width, c->height, 3, threads);
  bool written = write_encoded(path, &png, why);

  free(png.bytes);
  return written;
}

#endif
