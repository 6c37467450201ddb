/* The options of every command, what they become, and what a word was meant to be that is none. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stddef.h>

#include "agf.h"
#include "cli_base.h"
#include "cli_picture.h"

/* ---- Did you mean ---------------------------------------------------------------------------------------------------------- */

/* Letters to change, add, drop or swap with their neighbour to make one word of the other; `most` + 1 for more. */
static int edits_between(const char *a, const char *b, int most) {
  enum { LONGEST = 40 };
  int rows[3][LONGEST + 1], n = (int)strlen(a), m = (int)strlen(b), i, j;

  if (n > LONGEST || m > LONGEST || abs(n - m) > most) return most + 1;
  for (i = 0; i <= n; i++) {
    int *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];

    for (j = 0; j <= m; j++) {
      int same = i && j && lower((unsigned char)a[i - 1]) == lower((unsigned char)b[j - 1]);

      row[j] = !i ? j : !j ? i : above[j - 1] + !same;
      if (i && j) {
        row[j] = above[j] + 1 < row[j] ? above[j] + 1 : row[j];
        row[j] = row[j - 1] + 1 < row[j] ? row[j - 1] + 1 : row[j];
        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && two_above[j - 2] + 1 < row[j])
          row[j] = two_above[j - 2] + 1;
      }
    }
  }
  return rows[n % 3][m] <= most ? rows[n % 3][m] : most + 1;
}

/* ", did you mean X?" for the nearest of the names 0 .. count - 1, or "". Valid until the next call. */
static const char *did_you_mean(const char *text, const char *(*name)(int i, const void *of), const void *of, int count) {
  static char said[160];
  int most = (int)strlen(text) < 4 ? 1 : (int)strlen(text) < 8 ? 2 : 3, best = most + 1, i;

  *said = 0;
  for (i = 0; i < count; i++) {
    int edits = edits_between(text, name(i, of), most);

    if (edits < best) {
      best = edits;
      snprintf(said, sizeof said, " (did you mean %.100s?)", name(i, of));
    }
  }
  return said;
}

static const char *method_name(int i, const void *unused) {
  (void)unused;
  return agf_method_name((agf_method)i);
}

static const char *cmap_name(int i, const void *unused) {
  (void)unused;
  return agf_colormap_name((agf_colormap)i);
}

static const char *label_name(int k, const void *model) { return agf_model_label(model, k); }

/* ---- Options -------------------------------------------------------------------------------------------------------------- */

/* The commands that an option belongs to. */
enum { EXPLAIN = 1, INFO = 2, BENCH = 4, WATCH = 8, BANK = 16, SELFTEST = 32, EVERY_COMMAND = ~0 };

typedef struct options {
  text_list arguments; /* what is no option */
  text_list classes, masks, methods;
  int top;
  int neighbours, shared;
  const char *out, *npy, *logits;
  const char *against, *layer, *ablations, *cmap, *layout, *isa, *bank, *font, *frames;
  double alpha, vmax, smooth;
  int overlay, colour, panel_width, show, html, raw, count, json, low_memory, verbose, quiet, help;
  int width, height; /* 0: the model's own */
  int threads;
  int runs;
  int steps, samples, seed; /* of methods that take several images; 0: the engine's default */
} options;

typedef enum option_kind {
  FLAG,  /* int, set to 1 */
  TEXT,  /* const char * */
  LIST,  /* text_list, each use adds one */
  COUNT, /* int, at least `least` */
  REAL,  /* double, between least and most */
  SIZE   /* WxH into options.width and options.height */
} option_kind;

typedef struct option {
  const char *name;
  char letter;
  int commands;
  option_kind kind;
  size_t field;
  double least, most;
  const char *argument, *help;
} option;

#define FIELD(name) offsetof(options, name)

static const option options_known[] = {
    {"class", 'c', EXPLAIN | WATCH, LIST, FIELD(classes), 0, 0, "CLASS",
     "explain this class: its index, its label, or a part of the\nlabel that no other has; may be given several times"},
    {"top", 0, EXPLAIN | WATCH, COUNT, FIELD(top), 1, INT_MAX, "K", "explain the K best classes (without -c and --top: the best)"},
    {"against", 0, EXPLAIN | WATCH, TEXT, FIELD(against), 0, 0, "CLASS",
     "explain why each class rather than this one, named as for -c"},
    {"out", 'o', EXPLAIN, TEXT, FIELD(out), 0, 0, "OUT",
     "write a PNG: OUT.png, or into a folder, which a '/' at its end makes, or to a name with %s (a file for each class) and %p (the "
     "picture's name); - is standard output; without -o only the text is printed"},
    {"out", 'o', WATCH, TEXT, FIELD(out), 0, 0, "OUT",
     "a folder, for a PNG of each frame; NAME.png, which always shows the newest; else a file, a pipe or - (standard output), for "
     "MJPEG"},
    {"out", 'o', BANK, TEXT, FIELD(out), 0, 0, "FILE", "the bank (needed); one that is there is continued"},
    {"frames", 0, WATCH, TEXT, FIELD(frames), 0, 0, "WxH:FORMAT",
     "SOURCE is a pipe of raw frames: rgb24, bgr24, gray, yuv420 or nv12 (default: of JPEGs)"},
    {"raw", 0, WATCH, FLAG, FIELD(raw), 0, 0, NULL, "write raw frames, rgb24, instead of MJPEG"},
    {"count", 0, WATCH, COUNT, FIELD(count), 1, INT_MAX, "N", "end after N frames (default: when SOURCE ends)"},
    {"show", 0, EXPLAIN, FLAG, FIELD(show), 0, 0, NULL, "draw the maps in the terminal"},
    {"html", 0, EXPLAIN, FLAG, FIELD(html), 0, 0, NULL,
     "also write index.html into the folder OUT: one page with all pictures and maps, to be opened anywhere"},
    {"overlay", 0, EXPLAIN, FLAG, FIELD(overlay), 0, 0, NULL, "draw the maps over the photograph, at its own size"},
    {"layout", 0, EXPLAIN, TEXT, FIELD(layout), 0, 0, "HOW",
     "figure: photograph and maps with captions; bare: the maps\nalone, pixel by pixel (default: figure, but a single\n"
     "overlay is bare)"},
    {"colour", 0, EXPLAIN | WATCH, FLAG, FIELD(colour), 0, 0, NULL,
     "the photograph under an overlay as it is (default: gray, and\n"
     "pale where the network did not look)"},
    {"width", 0, EXPLAIN | WATCH, COUNT, FIELD(panel_width), 1, MAX_SIDE, "N",
     "a map's width in the picture, in pixels (default: a figure's 448\nor the network's; an overlay's the photograph's, up to 1600)"},
    {"cmap", 0, EXPLAIN | WATCH, TEXT, FIELD(cmap), 0, 0, "NAME",
     "rdbu or seismic, for maps of both signs; viridis, turbo, jet,\ngray (default: rdbu, viridis for methods of one sign)"},
    {"font", 0, EXPLAIN | WATCH, TEXT, FIELD(font), 0, 0, "FILE",
     "a TrueType or OpenType font for captions (default: strokes, and\na font of the system for other scripts)"},
    {"vmax", 0, EXPLAIN | WATCH, REAL, FIELD(vmax), 1e-30, 1e30, "V",
     "the value at the end of the colour scale (default: for each\nmap, what 0.5 % of its pixels exceed)"},
    {"alpha", 0, EXPLAIN | WATCH, REAL, FIELD(alpha), 0, 1, "A", "opacity of the strongest evidence in an overlay (default 0.8)"},
    {"npy", 0, EXPLAIN, TEXT, FIELD(npy), 0, 0, "FILE", "write the maps, float32 [classes, H, W], in the order asked for"},
    {"logits", 0, EXPLAIN, TEXT, FIELD(logits), 0, 0, "FILE", "write the scores of all classes, float32 [classes]"},
    {"mask", 0, EXPLAIN, LIST, FIELD(masks), 0, 0, "FILE",
     "also tell how much of the positive evidence lies inside FILE's\nwhite; one for each map, in the order of the maps"},
    {"json", 0, EXPLAIN | WATCH | INFO | BENCH, FLAG, FIELD(json), 0, 0, NULL,
     "print JSON: one object, on one line, for each picture or model"},
    {"method", 'm', EXPLAIN | WATCH, LIST, FIELD(methods), 0, 0, "METHOD",
     "several times, or a list divided by commas; agf (default): Attribution Guided Factorization; agf_a, agf_lc: its variants; "
     "gradient, gradient_x_input, smoothgrad, integrated_gradients, gradcam, fullgrad, lrp_a1b0, lrp_a2b1, clrp, sglrp, layercam, "
     "hirescam, lrp_lc: other methods, to compare; all: a contact sheet"},
    {"layer", 0, EXPLAIN | WATCH, TEXT, FIELD(layer), 0, 0, "NAME",
     "the layer whose output gradcam, layercam and hirescam weigh, by its name or number in `agf info` (default: the last before the "
     "classifier)"},
    {"steps", 0, EXPLAIN | WATCH, COUNT, FIELD(steps), 1, 100000, "N",
     "images on the way to this one, for integrated_gradients (default 50)"},
    {"samples", 0, EXPLAIN | WATCH, COUNT, FIELD(samples), 1, 100000, "N", "noisy images, for smoothgrad (default 50)"},
    {"seed", 0, EXPLAIN | WATCH, COUNT, FIELD(seed), 0, 2147483647, "N", "of smoothgrad's noise (default 0)"},
    {"options", 0, EXPLAIN | WATCH, TEXT, FIELD(ablations), 0, 0, "LIST",
     "parts of the method to change, divided by commas: no_fx,\nno_fdx, no_m, no_a, no_reg, fx_gradcam"},
    {"smooth", 0, EXPLAIN | WATCH, REAL, FIELD(smooth), 0, 256, "SIGMA",
     "blur the finished maps: a Gaussian of SIGMA pixels of the map (default 0: as they are)"},
    {"bank", 0, EXPLAIN, TEXT, FIELD(bank), 0, 0, "BANK",
     "label-free: explain what sets the picture apart from its\nnearest neighbour among the pictures in a folder, or in a\nfile that "
     "`agf bank` made of one"},
    {"neighbours", 0, EXPLAIN, COUNT, FIELD(neighbours), 1, INT_MAX, "K",
     "with --bank: from the mean of the K nearest (default 1)"},
    {"shared", 0, EXPLAIN, FLAG, FIELD(shared), 0, 0, NULL,
     "with --bank: explain instead what the picture and its nearest\nneighbours share"},
    {"size", 0, EXPLAIN | WATCH | INFO | BENCH | BANK, SIZE, 0, 0, 0, "WxH",
     "size of the network's input (default: the model's own)"},
    {"threads", 0, EXPLAIN | WATCH | INFO | BENCH | BANK | SELFTEST, COUNT, FIELD(threads), 0, 4096, "N",
     "threads to use (default: all cores)"},
    {"isa", 0, EXPLAIN | WATCH | BENCH | BANK | SELFTEST, TEXT, FIELD(isa), 0, 0, "NAME",
     "instruction set: ref, avx2, avx512, neon (default: the best)"},
    {"low-memory", 0, EXPLAIN | WATCH | BENCH | BANK, FLAG, FIELD(low_memory), 0, 0, NULL,
     "recompute instead of keeping: slower, the same maps"},
    {"runs", 0, BENCH, COUNT, FIELD(runs), 1, 10000, "N", "how often each stage is timed (default 7)"},
    {"verbose", 'v', EXPLAIN | WATCH | BENCH | SELFTEST, FLAG, FIELD(verbose), 0, 0, NULL,
     "also print the time spent in each layer; selftest: each hash"},
    {"quiet", 'q', EXPLAIN | WATCH | BENCH | BANK, FLAG, FIELD(quiet), 0, 0, NULL,
     "print nothing but errors and JSON, show no progress"},
    {"help", 'h', EVERY_COMMAND, FLAG, FIELD(help), 0, 0, NULL, "print this help"},
};

enum { OPTION_COUNT = sizeof options_known / sizeof *options_known };

static bool parse_whole(const char *text, double least, double most, int *value) {
  char *end;
  long number;

  errno = 0;
  number = strtol(text, &end, 10);
  if (end == text || *end || errno || (double)number < least || (double)number > most) return false;
  *value = (int)number;
  return true;
}

static bool parse_size(const char *text, options *o) {
  const char *by = strchr(text, 'x');
  char *width = by ? text_of("%.*s", (int)(by - text), text) : NULL;
  bool right = by && parse_whole(width, 1, MAX_SIDE, &o->width) && parse_whole(by + 1, 1, MAX_SIDE, &o->height);

  free(width);
  return right;
}

/* Put an option's value where it belongs; `shown` is the option as the user wrote it. */
static void apply_option(options *o, const option *known, const char *shown, const char *value) {
  char *field = (char *)o + known->field, *end;
  bool right = true;

  switch (known->kind) {
    case FLAG: *(int *)field = 1; break;
    case TEXT:
      if (*(const char **)field) fatal("%s is given twice: %s and %s", shown, *(const char **)field, value);
      *(const char **)field = value;
      right = *value;
      break;
    case LIST: text_list_add((text_list *)field, text_of("%s", value)); break;
    case COUNT: right = parse_whole(value, known->least, known->most, (int *)field); break;
    case REAL:
      *(double *)field = strtod(value, &end);
      right = end != value && !*end && *(double *)field >= known->least && *(double *)field <= known->most;
      break;
    case SIZE: right = parse_size(value, o); break;
  }
  if (!right) fatal("%s %s: not a valid %s", shown, *value ? value : "''", known->argument);
}

/* The options of a command as they are written, for did_you_mean(). Valid until the next call. */
static const char *option_name(int i, const void *command) {
  static char written[64];

  if (!(options_known[i].commands & *(const int *)command)) return "";
  snprintf(written, sizeof written, "--%s", options_known[i].name);
  return written;
}

static const char *suggest_option(const char *word, int command) {
  char name[64];

  word += strspn(word, "-");
  snprintf(name, sizeof name, "--%.*s", (int)strcspn(word, "="), word);
  return strlen(word) < 2 ? "" : did_you_mean(name, option_name, &command, OPTION_COUNT);
}

/* Parse argv[0 .. count - 1], a command's arguments. */
static void parse_options(options *o, int command, const char *command_name, int count, char **argv) {
  int i, k;

  for (i = 0; i < count; i++) {
    const char *word = argv[i], *value = NULL, *equals = strchr(word, '=');
    const option *known = NULL;
    char shown[64];

    if (word[0] != '-' || !word[1]) {
      text_list_add(&o->arguments, text_of("%s", word));
      continue;
    }
    if (!strcmp(word, "--")) {
      while (++i < count) text_list_add(&o->arguments, text_of("%s", argv[i]));
      break;
    }
    for (k = 0; k < OPTION_COUNT && !known; k++) {
      const option *candidate = &options_known[k];
      size_t length = strlen(candidate->name);

      if (!(candidate->commands & command)) continue;
      if (word[1] == '-' && !strncmp(word + 2, candidate->name, length) && (!word[2 + length] || word[2 + length] == '=')) {
        known = candidate;
        value = word[2 + length] ? equals + 1 : NULL;
      } else if (word[1] != '-' && word[1] == candidate->letter) {
        known = candidate;
        value = word[2] ? word + 2 : NULL;
      }
    }
    if (!known) fatal("unknown option %s%s; `agf help %s` lists the options", word, suggest_option(word, command), command_name);
    snprintf(shown, sizeof shown, "%.*s", word[1] == '-' ? (int)strlen(known->name) + 2 : 2, word);
    if (known->kind == FLAG) {
      if (value) fatal("%s takes no argument (in %s)", shown, word);
    } else if (!value) {
      if (++i == count) fatal("%s needs an argument: %s %s", shown, shown, known->argument);
      value = argv[i];
    }
    apply_option(o, known, shown, value);
  }
}

static void options_free(options *o) {
  text_list_free(&o->arguments);
  text_list_free(&o->classes);
  text_list_free(&o->masks);
  text_list_free(&o->methods);
}

#endif
