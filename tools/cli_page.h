/* What is looked at elsewhere than in a picture file: maps in a terminal, and one page of HTML that holds a whole run. */
#ifndef CLI_PAGE_H
#define CLI_PAGE_H

#include <sys/ioctl.h>

#include "cli_figure.h"

/* ---- Terminals ------------------------------------------------------------------------------------------------------------ */

static int terminal_width(void) {
  const char *columns_set = getenv("COLUMNS");
  int width = columns_set ? atoi(columns_set) : 0;
#ifdef TIOCGWINSZ
  struct winsize size;

  if (width < 1 && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size)) width = size.ws_col;
#endif
  return width < 1 ? 80 : width < 8 ? 8 : width;
}

/* A colour for the terminal: 24 bits where it says that it has them, else the nearest of xterm's cube of 6 x 6 x 6. */
static void print_colour(const uint8_t *rgb, bool ground, bool true_colour) {
  if (true_colour)
    printf("\033[%d;2;%d;%d;%dm", ground ? 48 : 38, rgb[0], rgb[1], rgb[2]);
  else
    printf("\033[%d;5;%dm", ground ? 48 : 38,
           16 + 36 * ((rgb[0] * 5 + 127) / 255) + 6 * ((rgb[1] * 5 + 127) / 255) + (rgb[2] * 5 + 127) / 255);
}

/* Two pixels a character, the upper one as the colour of an upper half block, the lower one as its ground. */
static void show_canvas(const canvas *c) {
  const char *depth = getenv("COLORTERM");
  bool true_colour = depth && (strstr(depth, "truecolor") || strstr(depth, "24bit"));
  int x, y;

  for (y = 0; y < c->height; y += 2) {
    for (x = 0; x < c->width; x++) {
      print_colour(pixel_at(c, x, y), false, true_colour);
      if (y + 1 < c->height) print_colour(pixel_at(c, x, y + 1), true, true_colour);
      fputs("\xE2\x96\x80", stdout);
    }
    fputs("\033[0m\n", stdout);
  }
}

/* ---- HTML ----------------------------------------------------------------------------------------------------------------- */

/* The page that --html asks for, as it grows: written when all pictures are done. */
typedef struct page {
  char *path;
  char *text;
  size_t length, room;
  int pictures;
} page;

static void page_bytes(page *p, const char *bytes, size_t size) {
  if (p->length + size + 1 > p->room) {
    p->room = 2 * (p->length + size + 1);
    p->text = grow(p->text, p->room, 1);
  }
  memcpy(p->text + p->length, bytes, size);
  p->length += size;
}

static void page_text(page *p, const char *text) { page_bytes(p, text, strlen(text)); }

/* Text of the user's or the model's: nothing in it is markup. */
static void page_escaped(page *p, const char *text) {
  char *clean = text_of("%s", text), *at;

  clean_text(clean);
  for (at = clean; *at; at++) switch (*at) {
      case '&': page_text(p, "&amp;"); break;
      case '<': page_text(p, "&lt;"); break;
      case '>': page_text(p, "&gt;"); break;
      case '"': page_text(p, "&quot;"); break;
      case '\'': page_text(p, "&#39;"); break;
      default: page_bytes(p, at, 1);
    }
  free(clean);
}

/* What stb_image_write makes, in pieces. */
typedef struct gathered {
  uint8_t *bytes;
  size_t size, room;
} gathered;

static void gather(void *context, void *data, int size) {
  gathered *g = context;

  if (g->size + (size_t)size > g->room) {
    g->room = 2 * (g->size + (size_t)size);
    g->bytes = grow(g->bytes, g->room, 1);
  }
  memcpy(g->bytes + g->size, data, (size_t)size);
  g->size += (size_t)size;
}

static void page_base64(page *p, const uint8_t *bytes, size_t size) {
  size_t i;

  for (i = 0; i < size; i += 3) {
    size_t left = size - i;
    unsigned v = (unsigned)bytes[i] << 16 | (left > 1 ? (unsigned)bytes[i + 1] << 8 : 0) | (left > 2 ? bytes[i + 2] : 0);
    char four[4];

    four[0] = base64_digits[v >> 18];
    four[1] = base64_digits[v >> 12 & 63];
    four[2] = left > 1 ? base64_digits[v >> 6 & 63] : '=';
    four[3] = left > 2 ? base64_digits[v & 63] : '=';
    page_bytes(p, four, 4);
  }
}

/* photo NULL: a tensor, whose maps lie on white. */
static void page_begin_picture(page *p, const char *path, const canvas *photo, const agf_rect *seen) {
  enum { SIDE = 480 };

  page_text(p, "<figure><div class=stack>");
  if (photo) {
    double scale = fmin(1, SIDE / fmax(seen->width, seen->height));
    gathered g = {NULL, 0, 0};
    problem why;
    canvas small;

    if (canvas_new(&small, fmax(1, floor(seen->width * scale + 0.5)), fmax(1, floor(seen->height * scale + 0.5)), &why)) {
      draw_photo(&small, 0, 0, small.width, small.height, photo, seen);
      if (!stbi_write_jpg_to_func(gather, &g, small.width, small.height, 3, small.rgb, 88)) fatal("out of memory for a page");
      free(small.rgb);
      page_text(p, "<img class=photo alt=\"\" src=\"data:image/jpeg;base64,");
      page_base64(p, g.bytes, g.size);
      page_text(p, "\">");
      free(g.bytes);
    }
  }
  p->pictures++;
  page_text(p, "<span class=path hidden>");
  page_escaped(p, path);
  page_text(p, "</span>");
}

/* A map as a layer: its magnitude is its opacity. */
static void page_add_map(page *p, const panel *map, int height, int width, const char *label, int k, const char *method,
                         const char *numbers) {
  size_t size = (size_t)height * (size_t)width, i;
  uint8_t *rgba = allocate(size, 4), ends[6];
  static const float both[2] = {-1, 1};
  encoded png;
  char *number = text_of("%d", k);

  agf_render(map->map, height, width, map->cmap, map->vmax, rgba, width, height, 4 * (size_t)width, 4, NULL);
  if (agf_colormap_is_diverging(map->cmap) && !agf_render(both, 1, 2, map->cmap, 1, ends, 2, 1, 6, 3, NULL))
    for (i = 0; i < size; i++) memcpy(rgba + 4 * i, ends + (map->map[i] > 0 ? 3 : 0), 3);
  png = png_encode(rgba, width, height, 4, 1);
  page_text(p, "<img class=map alt=\"\" data-class=\"");
  page_escaped(p, *label ? label : number);
  page_text(p, "\" data-method=\"");
  page_escaped(p, method);
  page_text(p, "\" data-share=\"");
  page_escaped(p, map->share);
  page_text(p, "\" data-range=\"");
  page_escaped(p, numbers);
  page_text(p, "\" src=\"data:image/png;base64,");
  page_base64(p, png.bytes, png.size);
  page_text(p, "\">");
  free(png.bytes);
  free(rgba);
  free(number);
}

static void page_end_picture(page *p, const text_list *notes) {
  int i;

  page_text(p, "</div><figcaption><b></b><div class=choice></div><small></small>");
  for (i = 0; i < notes->count; i++) {
    page_text(p, "<p>");
    page_escaped(p, notes->items[i]);
    page_text(p, "</p>");
  }
  page_text(p, "</figcaption></figure>\n");
}

static void page_write(page *p, const char *model) {
  static const char head[] =
      "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\n"
      "<style>body{font:15px/1.4 system-ui,sans-serif;margin:1.5em;color:#222;background:#fff}header{position:sticky;top:0;"
      "background:#fffe;padding:.5em 0;z-index:1}main{display:flex;flex-wrap:wrap;gap:1.5em}figure{margin:0;width:20em}"
      ".stack{position:relative;background:#fff;outline:1px solid #ccc;min-height:4em}.stack img{display:block;width:100%}"
      ".stack .photo+*~.map,.stack .photo~.map{position:absolute;inset:0;height:100%}.map{image-rendering:auto}"
      ".map:not(.on){display:none!important}button{font:inherit;border:1px solid #bbb;background:#f6f6f6;border-radius:4px;"
      "margin:.15em .2em .15em 0;cursor:pointer}button.on{background:#2166ac;color:#fff}small,p{color:#666}"
      ".gray .photo{filter:grayscale(1) contrast(.65) brightness(1.25)}figcaption{overflow-wrap:anywhere}</style>\n";
  static const char script[] =
      "<script>'use strict';\nconst $=(q,e=document)=>[...e.querySelectorAll(q)];\n"
      "let method=null;const methods=[...new Set($('.map').map(m=>m.dataset.method))];\n"
      "function paint(){for(const f of $('figure')){const maps=$('.map',f);const of=maps.filter(m=>m.dataset.method===method);"
      "const list=of.length?of:maps;if(!list.some(m=>m.dataset.class===f.dataset.class))f.dataset.class=list[0]?.dataset.class||'';"
      "const on=list.find(m=>m.dataset.class===f.dataset.class);for(const m of maps)m.classList.toggle('on',m===on);"
      "const c=f.querySelector('.choice');c.replaceChildren();for(const m of list){const b=document.createElement('button');"
      "b.textContent=m.dataset.class+', '+m.dataset.share;b.className=m===on?'on':'';"
      "b.onclick=()=>{f.dataset.class=m.dataset.class;paint()};c.append(b)}"
      "f.querySelector('b').textContent=f.querySelector('.path').textContent;"
      "f.querySelector('small').textContent=on?on.dataset.method+': '+on.dataset.range:''}"
      "for(const b of $('#methods button'))b.classList.toggle('on',b.textContent===method)}\n"
      "method=methods[0];for(const m of methods){const b=document.createElement('button');b.textContent=m;"
      "b.onclick=()=>{method=m;paint()};document.getElementById('methods').append(b)}\n"
      "const o=document.getElementById('opacity');o.oninput=()=>{for(const m of $('.map'))m.style.opacity=o.value/100};o.oninput();\n"
      "const g=document.getElementById('gray');g.onchange=()=>document.body.classList.toggle('gray',g.checked);g.onchange();\n"
      "paint();</script>\n";
  problem why;
  page whole;
  output *o;

  memset(&whole, 0, sizeof whole);
  page_text(&whole, head);
  page_text(&whole, "<title>");
  page_escaped(&whole, model);
  page_text(&whole, "</title><header><h1>");
  page_escaped(&whole, model);
  page_text(&whole, "</h1><span id=methods></span> <label>opacity <input id=opacity type=range value=80></label> "
                    "<label><input id=gray type=checkbox checked>gray photographs</label><br>"
                    "<small>Red is evidence for the class, blue against it; methods of one sign: from dark to yellow.</small>"
                    "</header><main>\n");
  o = p->pictures ? output_open(p->path, &why) : NULL;
  if (o) {
    output_write(o, whole.text, whole.length);
    output_write(o, p->text, p->length);
    output_write(o, "</main>\n", 8);
    output_write(o, script, sizeof script - 1);
    output_close(o);
    outputs_complete();
  } else if (p->pictures) {
    fatal("%s", why.text);
  }
  free(whole.text);
  free(p->text);
  free(p->path);
}

#endif
