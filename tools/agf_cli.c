/* agf, the command line program: explains pictures with a model file, and tells what a model file holds.
 *
 * It stands on agf.h alone. A command is a row of `commands`, an option a row of `options_known`.
 * Reading and checking pictures is cli_picture.h's, drawing cli_figure.h's, measuring cli_bench.h's, files that are written whole
 * cli_output.h's, what all stand on cli_base.h's. */
#define _XOPEN_SOURCE 700 /* POSIX.1-2008 and realpath */

#include <stddef.h>

#include "agf.h"
#include "cli_bank.h"
#include "cli_base.h"
#include "cli_bench.h"
#include "cli_figure.h"
#include "cli_output.h"
#include "cli_page.h"
#include "cli_picture.h"
#include "cli_selftest.h"
#include "cli_watch.h"

/* ---- Did you mean ---------------------------------------------------------------------------------------------------------- */

/* Letters to change, add, drop or swap with their neighbour to make one word of the other; `most` + 1 for more. */
static int edits_between(const char *a, const char *b, int most) {
  enum { LONGEST = 40 };
  int rows[3][LONGEST + 1], n = (int)strlen(a), m = (int)strlen(b), i, j;

  if (n > LONGEST || m > LONGEST || abs(n - m) > most)
    return most + 1;
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

static const char *label_name(int k, const void *model) {
  return agf_model_label(model, k);
}

/* ---- Options -------------------------------------------------------------------------------------------------------------- */

enum { EXPLAIN = 1, INFO = 2, BENCH = 4, WATCH = 8, BANK = 16, SELFTEST = 32 }; /* the commands that an option belongs to */

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
  {"colour", 0, EXPLAIN | WATCH, FLAG, FIELD(colour), 0, 0, NULL, "the photograph under an overlay as it is (default: gray, and\n"
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
  {"size", 0, EXPLAIN | WATCH | INFO | BENCH | BANK, SIZE, 0, 0, 0, "WxH", "size of the network's input (default: the model's own)"},
  {"threads", 0, EXPLAIN | WATCH | INFO | BENCH | BANK | SELFTEST, COUNT, FIELD(threads), 0, 4096, "N",
   "threads to use (default: all cores)"},
  {"isa", 0, EXPLAIN | WATCH | BENCH | BANK | SELFTEST, TEXT, FIELD(isa), 0, 0, "NAME",
   "instruction set: ref, avx2, avx512, neon (default: the best)"},
  {"low-memory", 0, EXPLAIN | WATCH | BENCH | BANK, FLAG, FIELD(low_memory), 0, 0, NULL,
   "recompute instead of keeping: slower, the same maps"},
  {"runs", 0, BENCH, COUNT, FIELD(runs), 1, 10000, "N", "how often each stage is timed (default 7)"},
  {"verbose", 'v', EXPLAIN | WATCH | BENCH | SELFTEST, FLAG, FIELD(verbose), 0, 0, NULL,
   "also print the time spent in each layer; selftest: each hash"},
  {"quiet", 'q', EXPLAIN | WATCH | BENCH | BANK, FLAG, FIELD(quiet), 0, 0, NULL, "print nothing but errors and JSON, show no progress"},
  {"help", 'h', EXPLAIN | WATCH | INFO | BENCH | BANK | SELFTEST, FLAG, FIELD(help), 0, 0, NULL, "print this help"},
};

enum { OPTION_COUNT = sizeof options_known / sizeof *options_known };

static bool parse_whole(const char *text, double least, double most, int *value) {
  char *end;
  long number;

  errno = 0;
  number = strtol(text, &end, 10);
  if (end == text || *end || errno || (double)number < least || (double)number > most)
    return false;
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
    if (*(const char **)field)
      fatal("%s is given twice: %s and %s", shown, *(const char **)field, value);
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
  if (!right)
    fatal("%s %s: not a valid %s", shown, *value ? value : "''", known->argument);
}

/* The options of a command, for did_you_mean(). */
static const char *option_name(int i, const void *command) {
  return options_known[i].commands & *(const int *)command ? options_known[i].name : "";
}

static const char *suggest_option(const char *word, int command) {
  char name[64];

  snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 1, "=") + 1, word);
  return strlen(word) < 4 ? "" : did_you_mean(name + strspn(name, "-"), option_name, &command, OPTION_COUNT);
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
      while (++i < count)
        text_list_add(&o->arguments, text_of("%s", argv[i]));
      break;
    }
    for (k = 0; k < OPTION_COUNT && !known; k++) {
      const option *candidate = &options_known[k];
      size_t length = strlen(candidate->name);

      if (!(candidate->commands & command))
        continue;
      if (word[1] == '-' && !strncmp(word + 2, candidate->name, length) && (!word[2 + length] || word[2 + length] == '=')) {
        known = candidate;
        value = word[2 + length] ? equals + 1 : NULL;
      } else if (word[1] != '-' && word[1] == candidate->letter) {
        known = candidate;
        value = word[2] ? word + 2 : NULL;
      }
    }
    if (!known)
      fatal("unknown option %s%s; `agf help %s` lists the options", word, suggest_option(word, command), command_name);
    snprintf(shown, sizeof shown, "%.*s", word[1] == '-' ? (int)strlen(known->name) + 2 : 2, word);
    if (known->kind == FLAG) {
      if (value)
        fatal("%s takes no argument (in %s)", shown, word);
    } else if (!value) {
      if (++i == count)
        fatal("%s needs an argument: %s %s", shown, shown, known->argument);
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

/* ---- What the user names -------------------------------------------------------------------------------------------------- */

/* Methods by their names, in the order asked for, each once; `all` are all that this engine has. Returns how many. */
static int find_methods(const text_list *lists, agf_method methods[AGF_METHODS]) {
  bool taken[AGF_METHODS] = {false};
  int count = 0, i, k;

  for (i = 0; i < lists->count; i++) {
    const char *list = lists->items[i];

    for (;;) {
      size_t length = strcspn(list, ",");
      char *name = text_of("%.*s", (int)length, list);
      int method = agf_method_find(name), last = method;

      if (!strcmp(name, "all")) {
        method = 0;
        last = AGF_METHODS - 1;
      } else if (method < 0) {
        fatal("unknown method %s%s; `agf help explain` lists the methods", name, did_you_mean(name, method_name, NULL, AGF_METHODS));
      }
      for (k = method; k <= last; k++)
        if (!taken[k] && agf_method_traits((agf_method)k) & AGF_METHOD_BUILT) {
          taken[k] = true;
          methods[count++] = (agf_method)k;
        }
      free(name);
      if (!list[length])
        break;
      list += length + 1;
    }
  }
  if (!lists->count)
    methods[count++] = AGF_METHOD_AGF;
  return count;
}

/* "no_fx,no_m" to AGF_OPT_NO_FX | AGF_OPT_NO_M. */
static unsigned find_ablations(const char *list) {
  static const struct {
    const char *name;
    unsigned bit;
  } known[] = {{"no_fx", AGF_OPT_NO_FX}, {"no_fdx", AGF_OPT_NO_FDX}, {"no_m", AGF_OPT_NO_M},
               {"no_a", AGF_OPT_NO_A},   {"no_reg", AGF_OPT_NO_REG}, {"fx_gradcam", AGF_OPT_FX_GRADCAM}};
  unsigned bits = 0;

  for (;;) {
    size_t length = strcspn(list, ","), i;
    unsigned bit = 0;

    for (i = 0; i < sizeof known / sizeof *known; i++)
      if (length == strlen(known[i].name) && !strncmp(list, known[i].name, length))
        bit = known[i].bit;
    if (!bit)
      fatal("--options: %.*s is unknown; there are no_fx, no_fdx, no_m, no_a, no_reg and fx_gradcam", (int)length, list);
    bits |= bit;
    if (!list[length])
      return bits;
    list += length + 1;
  }
}

static agf_colormap find_cmap(const char *name) {
  int cmap = agf_colormap_find(name);

  if (cmap < 0)
    fatal("--cmap %s is unknown%s; there are rdbu, seismic, jet, viridis, turbo and gray", name,
          did_you_mean(name, cmap_name, NULL, AGF_COLORMAPS));
  return (agf_colormap)cmap;
}

/* The class that `text` names: an index, else a label by agf_model_find()'s rules. */
static int find_class(const agf_model *model, const char *text) {
  enum { LISTED = 8 };
  int classes = agf_model_classes(model), some[LISTED], found, index, i;
  bool is_number = *text && strspn(text, "0123456789") == strlen(text);
  char list[640] = "";

  if (is_number && parse_whole(text, 0, classes - 1, &index))
    return index;
  found = agf_model_find(model, text, some, LISTED);
  if (found == 1)
    return some[0];
  for (i = 0; i < found && i < LISTED; i++) {
    size_t used = strlen(list);

    snprintf(list + used, sizeof list - used, "%s%.60s (%d)", i ? ", " : "", agf_model_label(model, some[i]), some[i]);
  }
  if (found > LISTED)
    fatal("class '%s' is ambiguous: %s and %d more", text, list, found - LISTED);
  if (found)
    fatal("class '%s' is ambiguous: %s", text, list);
  if (is_number || !*agf_model_label(model, 0))
    fatal("class '%s' does not exist: the model has the classes 0 to %d%s", text, classes - 1,
          *agf_model_label(model, 0) ? "" : " and no labels");
  fatal("class '%s' does not exist: no label of the model holds it%s", text, did_you_mean(text, label_name, model, classes));
  return -1;
}

/* "tiger cat (282)", or "class 282" without labels, in memory of its own. */
static char *class_name(const agf_model *model, int k) {
  const char *label = agf_model_label(model, k);

  return *label ? text_of("%s (%d)", label, k) : text_of("class %d", k);
}

static agf_model *open_model(const char *path) {
  agf_model *model;
  agf_error error;

  if (agf_model_open(path, NULL, &model, &error))
    fatal("%s", error.message); /* it begins with the path */
  return model;
}

/* ---- agf explain: what is to be done -------------------------------------------------------------------------------------- */

/* A picture to be explained. */
typedef struct subject {
  const char *path;
  char *name; /* of its output below a folder: see name_subjects() */
  char *flat; /* the same without folders, for %p */
  /* Label-free procedure: the picture's latent vector, its nearest neighbours in the bank, nearest first, and the vector whose evidence
   * is explained. */
  float *latent, *difference;
  const char **neighbour; /* [neighbours] */
  double *distance;       /* [neighbours] */
  int neighbours;
} subject;

typedef struct explainer {
  const options *asked;
  agf_model *model;
  const char *model_name; /* for captions and JSON: the model's own, else its file's */
  agf_input input;
  agf_session *session; /* of the size below; made anew when a picture needs another */
  int height, width;
  text_list paths;   /* owns the subjects' paths */
  subject *subjects;
  int count;
  bool many;         /* several pictures or a folder: a bad one does not end the run */
  bool out_is_folder;
  bool to_stdout;    /* a file goes to standard output: nothing else does */
  page *page;        /* --html; NULL: not asked for */
  bool some_failed;
  struct queue *queue; /* of the threads that explain other pictures at the same time; NULL: there are none */
  int *classes;      /* [class_count]: the classes asked for with -c */
  int class_count;
  int ranks;         /* how many of the best classes to explain besides */
  agf_method methods[AGF_METHODS];
  int method_count;
  int layer, against; /* as agf_request has them */
  unsigned ablations;
  int cmap;          /* -1: by the method */
  style style;
  bool bare;         /* pictures without photograph beside them, captions and margins */
} explainer;

/* `text` in small letters, in memory of its own. */
static char *lowered(const char *text) {
  char *low = text_of("%s", text), *at;

  for (at = low; *at; at++)
    *at = (char)lower((unsigned char)*at);
  return low;
}

/* How many of the texts are the same, in any letter case: file systems differ in whether they tell such names apart. */
static text_map count_alike(const text_list *texts) {
  text_map counts = {0};
  int i;

  for (i = 0; i < texts->count; i++) {
    char *low = lowered(texts->items[i]);

    ++*text_map_at(&counts, low);
    free(low);
  }
  return counts;
}

static bool is_unique(const text_map *counts, const char *text) {
  char *low = lowered(text);
  bool unique = counts->values[text_map_slot(counts, low)] == 1;

  free(low);
  return unique;
}

/* The folder that holds `path`, absolute and ended by '/', in memory of its own. */
static char *absolute_folder_of(const char *path) {
  char *folder = folder_of(path), *whole = realpath(folder, NULL), *ended;

  ended = text_of("%s/", whole ? strcmp(whole, "/") ? whole : "" : folder);
  free(folder);
  free(whole);
  return ended;
}

/* The length of the common part of the folders, whole folders of it. */
static size_t common_length(const text_list *folders) {
  size_t common = strlen(folders->items[0]);
  int i;

  for (i = 1; i < folders->count; i++) {
    size_t j = 0;

    while (j < common && folders->items[0][j] == folders->items[i][j])
      j++;
    while (j && folders->items[0][j - 1] != '/')
      j--;
    common = j;
  }
  return common;
}

/* A picture's output is called after its file, without the ending unless two files differ in nothing else. Where two folders hold
 * a file of the same name, their outputs lie in folders as the pictures do, from the first folder on that they do not share. */
static void name_subjects(explainer *e) {
  text_list stems = {0}, bases = {0}, folders = {0}, whole_stems = {0};
  text_map like_stem, like_base, like_whole = {0};
  bool mirrored = false;
  size_t common = 0;
  int i;

  for (i = 0; i < e->count; i++) {
    const char *base = strcmp(e->paths.items[i], "-") ? base_name(e->paths.items[i]) : "stdin", *dot = strrchr(base, '.');

    text_list_add(&stems, dot && dot > base ? text_of("%.*s", (int)(dot - base), base) : text_of("%s", base));
    text_list_add(&bases, text_of("%s", base));
  }
  like_stem = count_alike(&stems);
  like_base = count_alike(&bases);
  for (i = 0; i < e->count && !mirrored; i++)
    mirrored = !is_unique(&like_base, bases.items[i]);
  if (mirrored) {
    for (i = 0; i < e->count; i++) {
      text_list_add(&folders, absolute_folder_of(e->paths.items[i]));
      text_list_add(&whole_stems, text_of("%s%s", folders.items[i], stems.items[i]));
    }
    common = common_length(&folders);
    like_whole = count_alike(&whole_stems);
  }
  for (i = 0; i < e->count; i++) {
    subject *s = &e->subjects[i];
    bool unique = mirrored ? is_unique(&like_whole, whole_stems.items[i]) : is_unique(&like_stem, stems.items[i]);
    char *at;

    s->path = e->paths.items[i];
    s->name = text_of("%s%s", mirrored ? folders.items[i] + common : "", unique ? stems.items[i] : bases.items[i]);
    s->flat = text_of("%s", s->name);
    for (at = s->flat; *at; at++)
      *at = *at == '/' ? '-' : *at;
  }
  text_map_free(&like_stem);
  text_map_free(&like_base);
  text_map_free(&like_whole);
  text_list_free(&stems);
  text_list_free(&bases);
  text_list_free(&folders);
  text_list_free(&whole_stems);
}

/* Folders among the arguments become the pictures in them. */
static void list_subjects(explainer *e) {
  int i;

  for (i = 1; i < e->asked->arguments.count; i++) {
    const char *path = e->asked->arguments.items[i];

    if (is_folder(path)) {
      int before = e->paths.count;

      list_folder(path, why_no_picture, &e->paths, e->asked->quiet);
      if (e->paths.count == before)
        fatal("%s: no pictures that can be read in this folder", path);
      e->many = true;
    } else {
      text_list_add(&e->paths, text_of("%s", path));
    }
  }
  e->count = e->paths.count;
  e->many = e->many || e->count > 1;
  e->subjects = allocate((size_t)e->count, sizeof *e->subjects);
  name_subjects(e);
  for (i = 0; i < e->count; i++)
    protect_input(e->subjects[i].path);
}

static bool has_placeholder(const char *pattern, char which) {
  const char *at = pattern;

  while ((at = strchr(at, '%')))
    if (*++at == which)
      return true;
  return false;
}

/* An output that cannot work is refused before the work, not after it. `path` may be NULL: not asked for. A folder is allowed for
 * pictures; one that does not exist is made by the first of them, where only a folder can be meant. */
static void check_output(explainer *e, const char *path, const char *shown, bool is_picture) {
  struct stat status;
  bool exists, per_picture, ended;
  char *folder;

  if (!path)
    return;
  if (!strcmp(path, "-")) {
    if (e->many)
      fatal("%s -: several pictures do not go to standard output", shown);
    if (e->asked->json)
      fatal("%s -: --json writes to standard output, too", shown);
    if (isatty(STDOUT_FILENO))
      fatal("%s -: standard output is a terminal; send it to a file or a pipe", shown);
    e->to_stdout = true;
    return;
  }
  exists = !stat(path, &status);
  ended = path[strlen(path) - 1] == '/';
  per_picture = has_placeholder(path, 'p') || (!is_picture && has_placeholder(path, 's'));
  if (exists && S_ISDIR(status.st_mode)) {
    if (!is_picture)
      fatal("%s %s: a folder, but a file's name is needed", shown, path);
    folder = text_of("%s", path);
    per_picture = e->out_is_folder = true;
  } else {
    char *named = text_of("%.*s", (int)(strlen(path) - ended), path);

    if (is_picture && !exists && !strchr(path, '%') && (ended || (e->many && !ends_with(path, ".png")))) {
      per_picture = e->out_is_folder = true;
      make_folder_later(named);
    } else if (is_picture && !ends_with(path, ".png") && (!exists || S_ISREG(status.st_mode))) {
      fatal("%s %s: no such folder, and no name that ends in .png", shown, path);
    }
    folder = folder_of(named);
    free(named);
    if (!is_folder(folder))
      fatal("%s %s: no such folder: %s", shown, path, folder);
  }
  if (e->many && !per_picture)
    fatal("%s %s: several pictures need %s%s in the name (the picture's name)", shown, path, is_picture ? "a folder, or " : "",
          "%p");
  if ((!exists || S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) && access(folder, W_OK))
    fatal("%s %s: cannot write to the folder %s: %s", shown, path, folder, strerror(errno));
  free(folder);
}

/* `pattern` with %s and %p replaced, in memory of its own. */
static char *fill_in(const char *pattern, const char *for_s, const char *for_p) {
  size_t length = 1;
  const char *at;
  char *filled, *end;

  for (at = pattern; *at; at++)
    length += at[0] == '%' && at[1] == 's' ? strlen(for_s) : at[0] == '%' && at[1] == 'p' ? strlen(for_p) : 1;
  filled = end = allocate(length + 1, 1);
  for (at = pattern; *at; at++) {
    const char *piece = at[0] == '%' && at[1] == 's' ? for_s : at[0] == '%' && at[1] == 'p' ? for_p : NULL;

    if (piece) {
      memcpy(end, piece, strlen(piece));
      end += strlen(piece);
      at++;
    } else {
      *end++ = *at;
    }
  }
  return filled;
}

/* The name of the picture of `s` where it is no pattern with %s, in memory of its own. */
static char *picture_name(const explainer *e, const subject *s) {
  const char *out = e->asked->out;

  return e->out_is_folder ? text_of("%s%s%s.png", out, out[strlen(out) - 1] == '/' ? "" : "/", s->name)
                          : fill_in(out, "", s->flat);
}

/* Every name that the run will write, before its first picture. Those with %s in them are known when the picture's classes are:
 * then they are held against all others. */
static void reserve_outputs(const explainer *e) {
  const options *o = e->asked;
  problem why;
  int i, k;

  for (i = 0; i < e->count; i++) {
    const subject *s = &e->subjects[i];
    char *names[3] = {NULL, NULL, NULL};

    if (o->out && (e->out_is_folder || !has_placeholder(o->out, 's'))) {
      names[0] = picture_name(e, s);
      if (e->out_is_folder) { /* the folders that mirror those of the pictures */
        char *at;

        for (at = strchr(names[0] + strlen(o->out), '/'); at; at = strchr(at + 1, '/')) {
          *at = 0;
          if (!is_folder(names[0]))
            make_folder_later(names[0]);
          *at = '/';
        }
      }
    }
    if (o->npy)
      names[1] = fill_in(o->npy, s->flat, s->flat);
    if (o->logits)
      names[2] = fill_in(o->logits, s->flat, s->flat);
    for (k = 0; k < 3; k++) {
      if (names[k] && !output_reserve(names[k], &why))
        fatal("%s", why.text);
      free(names[k]);
    }
  }
}

/* An option that no method among those asked for takes is a mistake. `given`: the option is there. */
static void check_taken(const explainer *e, bool given, const char *shown, unsigned trait) {
  char list[256] = "";
  int i;

  for (i = 0; given && i < e->method_count; i++)
    given = !(agf_method_traits(e->methods[i]) & trait);
  if (!given)
    return;
  for (i = 0; i < AGF_METHODS; i++)
    if (agf_method_traits((agf_method)i) & trait)
      snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", *list ? ", " : "", agf_method_name((agf_method)i));
  fatal("%s is for the method %s: give it with -m", shown, *list ? list : "(none in this engine)");
}

/* The layer of gradcam and its like, as agf_request has it; 0: the default. */
static int find_layer(const explainer *e) {
  const char *text = e->asked->layer;
  int layers = agf_model_layers(e->model), i, index;
  agf_layer layer;

  if (!text)
    return 0;
  for (i = 0; i < layers; i++)
    if (!agf_model_layer(e->model, i, 0, 0, &layer, NULL) && !strcmp(layer.name, text))
      return i + 1;
  if (parse_whole(text, 0, layers - 1, &index))
    return index + 1;
  fatal("--layer %s: the model has no such layer; agf info %s lists them", text, e->asked->arguments.items[0]);
  return 0;
}

static void choose_classes(explainer *e) {
  const options *o = e->asked;
  int i;

  e->class_count = o->classes.count;
  e->classes = allocate((size_t)e->class_count, sizeof *e->classes);
  for (i = 0; i < e->class_count; i++)
    e->classes[i] = find_class(e->model, o->classes.items[i]);
  e->against = o->against ? find_class(e->model, o->against) + 1 : 0;
  for (i = 0; e->against && i < e->class_count; i++)
    if (e->classes[i] == e->against - 1)
      fatal("-c %s --against %s: the same class", o->classes.items[i], o->against);
  e->ranks = o->top ? o->top : !e->class_count;
  if (e->ranks > agf_model_classes(e->model))
    fatal("--top %d: the model has %d classes", e->ranks, agf_model_classes(e->model));
  if (o->bank && o->top && e->class_count)
    fatal("--bank takes either -c or --top");
}

static void choose_looks(explainer *e) {
  const options *o = e->asked;
  bool one_map = (e->class_count + e->ranks) * e->method_count == 1 || (o->out && has_placeholder(o->out, 's'));
  problem why;

  e->cmap = o->cmap ? (int)find_cmap(o->cmap) : -1;
  e->style.alpha = (float)o->alpha;
  e->style.overlay = o->overlay;
  e->style.colour = o->colour;
  e->style.width = o->panel_width;
  e->bare = o->overlay && one_map;
  if (o->layout) {
    if (strcmp(o->layout, "figure") && strcmp(o->layout, "bare"))
      fatal("--layout %s is unknown; there are figure and bare", o->layout);
    e->bare = !strcmp(o->layout, "bare");
  }
  if (o->font) {
    chosen_typeface = typeface_load(o->font, &why);
    if (!chosen_typeface)
      fatal("%s", why.text);
  }
}

/* ---- agf explain: one picture --------------------------------------------------------------------------------------------- */

/* A picture ready for the network. */
typedef struct prepared {
  picture source;
  int height, width;
  const float *chw; /* [C][height][width] */
  float *made;      /* chw, where it was made of a photograph */
  agf_rect seen;
} prepared;

static void prepared_free(prepared *p) {
  picture_free(&p->source);
  free(p->made);
  p->made = NULL;
}

/* What p->source holds, called `path` in messages. On false *p is empty. */
static bool prepare_source(const explainer *e, const char *path, prepared *p, problem *why) {
  const options *o = e->asked;
  agf_error error;

  p->height = o->height ? o->height : e->input.height;
  p->width = o->width ? o->width : e->input.width;
  if (p->source.tensor) {
    if (p->source.channels != e->input.channels)
      failed(why, "%s: a tensor of %d channels, the network takes %d", path, p->source.channels, e->input.channels);
    else if (o->width && (p->source.height != p->height || p->source.width != p->width))
      failed(why, "%s: a tensor of %dx%d pixels, --size asks for %dx%d", path, p->source.width, p->source.height, p->width,
             p->height);
    else
      p->chw = p->source.tensor;
    p->height = p->source.height;
    p->width = p->source.width;
  } else {
    p->made = allocate((size_t)e->input.channels * (size_t)p->height * (size_t)p->width, sizeof *p->made);
    if (agf_picture_to_input(e->model, p->height, p->width, p->source.rgb, p->source.width, p->source.height,
                             3 * (size_t)p->source.width, p->made, &p->seen, &error))
      failed(why, "%s: %s", path, error.message);
    else
      p->chw = p->made;
  }
  if (!p->chw)
    prepared_free(p);
  return p->chw != NULL;
}

static bool prepare(const explainer *e, const char *path, prepared *p, problem *why) {
  memset(p, 0, sizeof *p);
  return load_picture(path, &p->source, why) && prepare_source(e, path, p, why);
}

static agf_session_config session_config(const explainer *e, int height, int width) {
  agf_session_config config;
  int i;

  memset(&config, 0, sizeof config);
  config.height = height;
  config.width = width;
  config.threads = e->queue ? 1 : e->asked->threads;
  config.low_memory = e->asked->low_memory;
  config.isa = e->asked->isa;
  for (i = 0; i < e->method_count; i++)
    config.methods |= AGF_METHOD_BIT(e->methods[i]);
  config.progress = e->queue ? progress_ignored : progress_update;
  return config;
}

/* A session of this size. */
static bool need_session(explainer *e, int height, int width, problem *why) {
  agf_session_config config = session_config(e, height, width);
  agf_error error;

  if (e->session && e->height == height && e->width == width)
    return true;
  agf_session_destroy(e->session);
  e->session = NULL;
  e->height = height;
  e->width = width;
  if (agf_session_create(e->model, &config, &e->session, &error))
    return failed(why, "%s", error.message);
  return true;
}

/* Run the network on what is prepared; on false *p is empty. */
static bool run_prepared(explainer *e, const char *path, prepared *p, unsigned flags, problem *why) {
  problem detail;
  agf_error error;

  if (!need_session(e, p->height, p->width, &detail)) {
    failed(why, "%s: %.600s", path, detail.text);
  } else if (agf_run(e->session, p->chw, flags, &error)) {
    stop_if_interrupted();
    failed(why, "%s: %s", path, error.message);
  } else {
    return true;
  }
  prepared_free(p);
  return false;
}

/* Load a picture and run the network on it; on false *p is empty. */
static bool run_picture(explainer *e, const char *path, prepared *p, unsigned flags, problem *why) {
  return prepare(e, path, p, why) && run_prepared(e, path, p, flags, why);
}

/* What became of one picture. */
typedef struct result {
  int classes;          /* of the model */
  double *probability;  /* [classes] */
  int count;            /* of maps: for each method one of each class */
  int per_method;
  agf_method *method;   /* [count] */
  int *explained;       /* [count]: their classes */
  float *maps;          /* [count][height][width] */
  double *inside;       /* [count]: share of a map's positive part inside its mask; NULL: no masks */
  double *area;         /* [count]: share of the mask in what the network sees */
  int height, width;
  double seconds;       /* forward pass and explanation */
  char **files;         /* [count]: the picture with this map, NULL: none */
  char *npy, *logits;   /* NULL: not written */
  text_list refused;    /* methods among several that did not fit, and why */
  text_list notes;      /* what a reader of the maps should know */
  text_list drawn;      /* pictures to be written, by name */
  encoded *drawn_files; /* [drawn.count] */
} result;

static void result_free(result *r) {
  int i;

  for (i = 0; r->files && i < r->count; i++)
    free(r->files[i]);
  free(r->files);
  free(r->probability);
  free(r->explained);
  free(r->method);
  free(r->maps);
  free(r->inside);
  free(r->area);
  free(r->npy);
  free(r->logits);
  for (i = 0; i < r->drawn.count; i++)
    free(r->drawn_files[i].bytes);
  free(r->drawn_files);
  text_list_free(&r->drawn);
  text_list_free(&r->notes);
  text_list_free(&r->refused);
}

/* The probabilities of all classes, as the network's head makes them; -1 each where it is not known. */
static double *probabilities(const agf_session *session, int classes) {
  double *p = allocate((size_t)classes, sizeof *p);
  int k;

  for (k = 0; k < classes; k++)
    p[k] = agf_probability(session, k);
  return p;
}

/* The maps of the session's last run, of which `s` is the picture. */
static bool explain_run(explainer *e, const subject *s, result *r, problem *why) {
  size_t map_size = (size_t)e->height * (size_t)e->width;
  int i, m;
  float *scratch;
  agf_request request;
  agf_error error;

  r->classes = agf_model_classes(e->model);
  r->probability = probabilities(e->session, r->classes);
  r->height = e->height;
  r->width = e->width;
  r->per_method = e->class_count + e->ranks;
  r->explained = allocate((size_t)(r->per_method * e->method_count), sizeof *r->explained);
  r->method = allocate((size_t)(r->per_method * e->method_count), sizeof *r->method);
  r->maps = allocate((size_t)(r->per_method * e->method_count), map_size * sizeof *r->maps);
  memcpy(r->explained, e->classes, (size_t)e->class_count * sizeof *r->explained);
  for (i = 0; i < e->ranks; i++)
    r->explained[e->class_count + i] = agf_ranked(e->session, i);

  memset(&request, 0, sizeof request);
  request.count = r->per_method;
  request.classes = r->explained;
  request.against = e->against; /* a method that cannot is left out aloud: beside the others its map would mean something else */
  if (s->difference) {
    request.difference = s->difference;
    if (!e->class_count) { /* ranked by the classifier's answer to the difference, which only the engine knows */
      request.classes = NULL;
      request.explained = r->explained;
    }
  }
  for (m = 0; m < e->method_count; m++) {
    unsigned traits = agf_method_traits(e->methods[m]); /* beside others, a method is given what it takes */

    request.method = e->methods[m];
    request.options = traits & AGF_METHOD_TAKES_OPTIONS ? e->ablations : 0;
    request.layer = traits & AGF_METHOD_TAKES_LAYER ? e->layer : 0;
    request.steps = traits & AGF_METHOD_TAKES_STEPS ? e->asked->steps : 0;
    request.samples = traits & AGF_METHOD_TAKES_SAMPLES ? e->asked->samples : 0;
    request.seed = traits & AGF_METHOD_TAKES_SAMPLES ? (uint64_t)e->asked->seed : 0;
    if (agf_explain(e->session, &request, r->maps + (size_t)r->count * map_size, &error)) {
      stop_if_interrupted();
      failed(why, "%s: %s", s->path, error.message);
      if (e->method_count > 1) /* among many, a method that does not fit this network or class is left out, aloud */
        text_list_add(&r->refused, text_of("%s: %s", agf_method_name(e->methods[m]), why->text));
      continue;
    }
    for (i = 0; i < r->per_method; i++) {
      r->method[r->count] = e->methods[m];
      r->explained[r->count++] = r->explained[i];
    }
  }
  scratch = allocate(map_size, sizeof *scratch);
  for (i = 0; i < r->count; i++)
    if (agf_map_smooth(r->maps + (size_t)i * map_size, r->height, r->width, e->asked->smooth, scratch, &error))
      fatal("%s: %s", s->path, error.message);
  free(scratch);
  return r->count > 0;
}

/* Whether this method is among those asked for. */
static bool has_method(const explainer *e, agf_method method) {
  int i;

  for (i = 0; i < e->method_count; i++)
    if (e->methods[i] == method)
      return true;
  return false;
}

/* What a reader of this picture's maps should know. */
static void take_notes(const explainer *e, const prepared *p, result *r) {
  const float *logits = agf_logits(e->session);
  int brightest = 0, i;
  size_t j;

  if (p->source.rgb) {
    for (j = 0; j < (size_t)p->source.width * (size_t)p->source.height * 3; j++)
      brightest = p->source.rgb[j] > brightest ? p->source.rgb[j] : brightest;
    if (brightest < 16)
      text_list_add(&r->notes, text_of("the picture is nearly black: its brightest value is %d of 255 (fewer bits than its file says?)",
                                       brightest));
  }
  if (r->classes == 2 && !e->against && (has_method(e, AGF_METHOD_AGF) || has_method(e, AGF_METHOD_AGF_A)))
    text_list_add(&r->notes, text_of("of two classes agf and agf_a hardly tell one from the other (their seed has no contrast): "
                                     "-m agf_lc does"));
  for (i = 0; i < r->count; i++)
    if ((r->method[i] == AGF_METHOD_LRP_A1B0 || r->method[i] == AGF_METHOD_LRP_A2B1) && logits[r->explained[i]] < 0) {
      char *name = class_name(e->model, r->explained[i]);

      text_list_add(&r->notes, text_of("%s: the logit of %s is negative (%.3g), and the map sums to it: as a whole it speaks against "
                                       "the class", agf_method_name(r->method[i]), name, logits[r->explained[i]]));
      free(name);
    }
}

/* How much of each map lies inside its mask, a picture laid over the photograph (a tensor: over the map). */
static bool measure_masks(const explainer *e, const prepared *p, result *r, problem *why) {
  const text_list *masks = &e->asked->masks;
  int i, x, y;

  if (!masks->count)
    return true;
  if (masks->count != r->per_method)
    return failed(why, "--mask: %d of them for %d classes", masks->count, r->per_method);
  r->inside = allocate((size_t)r->count, sizeof *r->inside);
  r->area = allocate((size_t)r->count, sizeof *r->area);
  for (i = 0; i < r->count; i++) {
    const float *map = r->maps + (size_t)i * (size_t)r->height * (size_t)r->width;
    double positive = 0, inside = 0, pixels = 0;
    picture mask;

    if (!load_picture(masks->items[i % r->per_method], &mask, why))
      return false;
    if (!mask.rgb || (p->source.rgb && (mask.width != p->source.width || mask.height != p->source.height))) {
      picture_free(&mask);
      return failed(why, "%s: a mask must be a picture of the photograph's size", masks->items[i % r->per_method]);
    }
    for (y = 0; y < r->height; y++)
      for (x = 0; x < r->width; x++) {
        double across = (x + 0.5) / r->width, down = (y + 0.5) / r->height;
        double left = p->source.rgb ? p->seen.left + across * p->seen.width : across * mask.width;
        double top = p->source.rgb ? p->seen.top + down * p->seen.height : down * mask.height;
        int column = (int)fmin(left, mask.width - 1), row = (int)fmin(top, mask.height - 1);
        bool white = mask.rgb[3 * ((size_t)row * (size_t)mask.width + (size_t)column)] >= 128;
        double value = fmax(map[(size_t)y * (size_t)r->width + (size_t)x], 0);

        positive += value;
        inside += white ? value : 0;
        pixels += white;
      }
    r->inside[i] = positive > 0 ? inside / positive : 0;
    r->area[i] = pixels / ((double)r->width * r->height);
    picture_free(&mask);
  }
  return true;
}

static void range_of(const result *r, int i, float *low, float *high) {
  size_t size = (size_t)r->height * (size_t)r->width, j;
  const float *map = r->maps + (size_t)i * size;

  *low = *high = map[0];
  for (j = 1; j < size; j++) {
    *low = fminf(*low, map[j]);
    *high = fmaxf(*high, map[j]);
  }
}

/* A share of 1 in percent, with as many digits as tell it from 0 and from 100. */
static const char *percent_text(double share, char text[24]) {
  double percent = 100 * share, rest = 100 - percent;

  if (percent == 0 || rest == 0)
    snprintf(text, 24, "%.0f %%", percent);
  else if (rest < 1e-4)
    snprintf(text, 24, "> 99.9999 %%");
  else if (rest < 1)
    snprintf(text, 24, "%.*f %%", 1 - (int)floor(log10(rest)), percent);
  else if (percent < 1e-4)
    snprintf(text, 24, "< 0.0001 %%");
  else
    snprintf(text, 24, percent < 1 ? "%.2g %%" : "%.1f %%", percent);
  return text;
}

/* What class k got: its probability, or its score where the network's head is not known. */
static const char *share_text(const explainer *e, const result *r, int k, char text[24]) {
  if (r->probability[k] >= 0)
    return percent_text(r->probability[k], text);
  snprintf(text, 24, "score %.3g", agf_logits(e->session)[k]);
  return text;
}

/* ---- agf explain: the files it writes ------------------------------------------------------------------------------------- */

/* A label as a part of a file's name: no separators, control or shell characters, no leading '.' or '-', at most 100 bytes. */
static char *file_safe(const char *label) {
  enum { MOST = 100 };
  char *safe = allocate(MOST + 1, 1), *end = safe;

  while (*label) {
    int length = utf8_length(label);

    if (length < 1)
      length = 1; /* a stray byte */
    if (end - safe + length > MOST)
      break;
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

  for (i = 0; i < r->per_method; i++)
    text_list_add(&labels, file_safe(agf_model_label(e->model, r->explained[i])));
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
static bool draw_panels(const explainer *e, const figure *f, const panel *panels, int count, const char *path, result *r, problem *why) {
  problem detail;
  canvas c;

  if (!(e->bare ? compose_bare : compose_figure)(&c, f, panels, count, &e->style, &detail))
    return failed(why, "%s: %.600s", path, detail.text);
  text_list_add(&r->drawn, text_of("%s", path));
  r->drawn_files = grow(r->drawn_files, (size_t)r->drawn.count, sizeof *r->drawn_files);
  r->drawn_files[r->drawn.count - 1] = encode_png(&c);
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
    for (j = 0; j < size; j++)
      (*shifted)[j] = p.map[j] - p.low;
    p.map = *shifted;
  }
  p.vmax = e->asked->vmax > 0 ? (float)e->asked->vmax : agf_map_scale(p.map, r->height, r->width);
  return p;
}

/* What a figure of these maps shows besides them; `texts` receives what it points to. */
static figure figure_of(const explainer *e, const subject *s, const prepared *p, const result *r, const canvas *photo, text_list *texts) {
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
  float **shifted; /* [count] */
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

  for (i = 0; i < d->count; i++)
    free(d->shifted[i]);
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
  if (!out)
    return true;
  if (e->out_is_folder) {
    char *path = picture_name(e, s);

    done = draw_panels(e, &f, d->panels, r->count, path, r, why);
    for (i = 0; i < r->count; i++)
      r->files[i] = text_of("%s", path);
    free(path);
  } else {
    bool each = has_placeholder(out, 's');
    text_list classes = classes_in_file_names(e, r);

    if (each)
      f.columns = 0;
    for (i = 0; i < r->count && done; i++) {
      r->files[i] = fill_in(out, classes.items[i], s->flat);
      if (each || i == 0)
        done = draw_panels(e, &f, d->panels + i, each ? 1 : r->count, r->files[i], r, why);
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

  for (i = 0; i < r->drawn.count && done; i++)
    done = write_encoded(r->drawn.items[i], &r->drawn_files[i], why);
  shape[0] = r->count;
  shape[1] = r->height;
  shape[2] = r->width;
  if (done && o->npy)
    done = write_npy(r->npy = fill_in(o->npy, s->flat, s->flat), r->maps, shape, 3, why);
  if (done && o->logits)
    done = write_npy(r->logits = fill_in(o->logits, s->flat, s->flat), agf_logits(e->session), &r->classes, 1, why);
  if (done)
    outputs_complete();
  else
    outputs_discard();
  return done;
}

/* ---- agf explain: what it prints ------------------------------------------------------------------------------------------ */

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
    if (agf_model_layer(e->model, i, e->height, e->width, &layer, NULL) || agf_layer_times(e->session, i, &times))
      continue;
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
    if (e->method_count > 1)
      printf(" by %s", agf_method_name(r->method[i]));
    printf(", %s: %s to %s", share_text(e, r, r->explained[i], share), scale_number(low, low_text),
           scale_number(high, high_text));
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
    if (r->inside)
      printf(", \"inside_mask\": %.9g, \"mask_area\": %.9g", r->inside[i], r->area[i]);
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
      if (agf_model_layer(e->model, i, e->height, e->width, &layer, NULL) || agf_layer_times(e->session, i, &times))
        continue;
      printf("%s{\"name\": ", i ? ", " : "");
      json_string(layer.name);
      printf(", \"op\": \"%s\", \"forward\": %.9g, \"explain\": %.9g}", agf_op_name(layer.op), times.forward, times.explain);
    }
    printf("]");
  }
  printf(", \"seconds\": %.6f}\n", r->seconds);
}

/* ---- agf explain: terminals and pages ------------------------------------------------------------------------------------- */

/* The maps in the terminal, one below the other: two pixels a character. */
static void show_maps(const explainer *e, const drawing *d) {
  style look = e->style;
  problem why;
  int i;

  look.width = terminal_width();
  if (look.width > 72)
    look.width = 72;
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

/* ---- agf explain ---------------------------------------------------------------------------------------------------------- */

/* A picture that could not be done: the end of the run, or one line among many. */
static void give_up(explainer *e, const char *path, const problem *why) {
  if (!e->many)
    fatal("%s", why->text);
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

/* The engine's work on a picture in units of a forward pass: the forward pass, and about 1.5 for every map. */
static const double RUN_WORK = 1, MAP_WORK = 1.5;

/* Pictures that several threads explain at a time. Each is written and reported in its turn, so that all output is as one thread
 * would make it. */
typedef struct queue {
  explainer *e;
  pthread_cond_t passed; /* with whole_program */
  int next, turn;        /* pictures: the next to be begun, and to be reported */
} queue;

/* The rest of the program is this picture's from here on, until the thread gives whole_program back. */
static void begin_turn(const explainer *e, const subject *s) {
  pthread_mutex_lock(&whole_program);
  while (e->queue && e->queue->turn != (int)(s - e->subjects))
    pthread_cond_wait(&e->queue->passed, &whole_program);
}

static double work_of(const explainer *e) {
  return RUN_WORK + MAP_WORK * (e->class_count + e->ranks);
}

static void report_refused(const result *r) {
  int i;

  for (i = 0; i < r->refused.count; i++)
    complain("%s", r->refused.items[i]);
}

static void report_subject(explainer *e, const subject *s, const prepared *p, const drawing *d, result *r) {
  progress_clear();
  if (e->asked->json)
    print_json(e, s, p, r);
  else if (!e->asked->quiet && !e->to_stdout)
    print_text(e, s, r);
  if (e->asked->show && !e->asked->json && !e->to_stdout)
    show_maps(e, d);
  if (e->page)
    page_add(e->page, s, d, r, e);
  fflush(stdout);
}

static void explain_subject(explainer *e, const subject *s) {
  double before;
  prepared p;
  drawing d;
  result r;
  problem why;
  bool done;

  memset(&r, 0, sizeof r);
  memset(&d, 0, sizeof d);
  if (!e->queue)
    progress_step(RUN_WORK, s->path);
  before = seconds_now();
  done = run_picture(e, s->path, &p, AGF_RUN_EXPLAIN, &why);
  if (done) {
    if (!e->queue)
      progress_step(work_of(e) - RUN_WORK, s->path);
    done = explain_run(e, s, &r, &why);
    r.seconds = seconds_now() - before;
    if (done) {
      take_notes(e, &p, &r);
      drawing_make(&d, e, s, &p, &r);
    }
    done = done && measure_masks(e, &p, &r, &why) && draw_pictures(e, s, &p, &d, &r, &why);
  }
  begin_turn(e, s);
  report_refused(&r);
  if (done && write_results(e, s, &r, &why))
    report_subject(e, s, &p, &d, &r);
  else
    give_up(e, s->path, &why);
  pthread_mutex_unlock(&whole_program);
  drawing_free(&d);
  prepared_free(&p);
  result_free(&r);
}

/* A picture of the list, or why there is nothing to explain. */
static void explain_listed(explainer *e, const subject *s) {
  problem why;

  if (!e->asked->bank || s->neighbours) {
    explain_subject(e, s);
    return;
  }
  begin_turn(e, s);
  if (s->latent) { /* else it is reported already */
    failed(&why, "%s: no other picture in %s to compare it with", s->path, e->asked->bank);
    give_up(e, s->path, &why);
  }
  pthread_mutex_unlock(&whole_program);
}

/* A thread's part of the queue, with a session of its own. */
static void *explain_queue(void *shared) {
  queue *q = shared;
  explainer own = *q->e;

  own.session = NULL;
  own.some_failed = false;
  pthread_mutex_lock(&whole_program);
  while (q->next < own.count && !interrupted) {
    const subject *s = &own.subjects[q->next++];

    pthread_mutex_unlock(&whole_program);
    explain_listed(&own, s);
    pthread_mutex_lock(&whole_program);
    q->turn++;
    progress_step(work_of(&own), s->path);
    progress_update(NULL, 1);
    pthread_cond_broadcast(&q->passed);
  }
  q->e->some_failed |= own.some_failed;
  pthread_mutex_unlock(&whole_program);
  agf_session_destroy(own.session);
  return NULL;
}

/* How many pictures to explain at a time, each with one thread: of several pictures one a core, which leaves no core idle while another
 * reads a picture or draws one; 1: all threads on one picture, where that many sessions would take too much memory or where a run's
 * layers are timed. */
static int pictures_at_a_time(explainer *e) {
  const size_t most_bytes = (size_t)1 << 29;
  int height = e->asked->height ? e->asked->height : e->input.height, width = e->asked->width ? e->asked->width : e->input.width;
  agf_session_config config;
  size_t bytes;
  problem why;
  int threads;

  if (e->count < 2 || e->to_stdout || e->asked->verbose || height <= 0 || !need_session(e, height, width, &why))
    return 1;
  threads = agf_session_threads(e->session);
  config = session_config(e, height, width);
  config.threads = 1;
  if (agf_session_bytes(e->model, &config, &bytes, NULL) || bytes > most_bytes / (size_t)threads)
    return 1;
  return threads < e->count ? threads : e->count;
}

/* All pictures of the list. */
static void explain_all(explainer *e) {
  int at_a_time = pictures_at_a_time(e), started, i;
  pthread_t *thread;
  queue q;

  if (at_a_time < 2) {
    for (i = 0; i < e->count; i++) {
      stop_if_interrupted();
      explain_listed(e, &e->subjects[i]);
    }
    return;
  }
  agf_session_destroy(e->session);
  e->session = NULL;
  e->queue = &q;
  q.e = e;
  q.next = q.turn = 0;
  pthread_cond_init(&q.passed, NULL);
  thread = allocate((size_t)at_a_time, sizeof *thread);
  for (started = 0; started < at_a_time - 1; started++)
    if (pthread_create(&thread[started], NULL, explain_queue, &q))
      break; /* those that there are do the work */
  explain_queue(&q);
  for (i = 0; i < started; i++)
    pthread_join(thread[i], NULL);
  free(thread);
  pthread_cond_destroy(&q.passed);
  e->queue = NULL;
  stop_if_interrupted();
}

/* The latent vector of a picture, in memory of its own; NULL: *why. */
static float *latent_of(explainer *e, const char *path, int *count, problem *why) {
  float *latent;
  agf_error error;
  prepared p;

  progress_step(RUN_WORK, path);
  if (!run_picture(e, path, &p, 0, why))
    return NULL;
  prepared_free(&p);
  *count = agf_latent_size(e->session);
  latent = allocate((size_t)*count, sizeof *latent);
  if (agf_latent(e->session, latent, &error)) {
    failed(why, "%s: %s", path, error.message);
    free(latent);
    latent = NULL;
  }
  return latent;
}

/* A bank's file that this model made, of vectors as the model makes them. */
static bool open_bank(explainer *e, bank *b, const char *path, problem *why) {
  problem detail;
  int size;

  if (!bank_read(b, path, e->model, why))
    return false;
  if (!need_session(e, b->height, b->width, &detail))
    return failed(why, "%s: %.600s", path, detail.text);
  size = agf_latent_size(e->session);
  return size == b->size || failed(why, "%s: damaged bank: vectors of %d values, the network makes %d of %d x %d pixels", path, b->size,
                                   size, b->width, b->height);
}

/* The bank that `agf bank` makes, for save_bank(), which a signal's way out calls. */
static struct {
  bank *bank;
  const char *path;
} unsaved;

static void save_bank(void) {
  problem why;

  if (!unsaved.bank->count)
    return;
  bank_sort(unsaved.bank);
  if (!bank_write(unsaved.bank, unsaved.path, &why))
    fatal("%s", why.text);
}

/* Whether a latent vector (NULL: *why says already why there is none) is of the bank's size, which the first one decides; if not, it is
 * freed. */
static bool fits_bank(const explainer *e, bank *b, const char *path, float **latent, int count, problem *why) {
  if (!*latent)
    return false;
  if (!b->size) {
    b->size = count;
    b->height = e->height;
    b->width = e->width;
  }
  if (count == b->size && e->height == b->height && e->width == b->width)
    return true;
  free(*latent);
  *latent = NULL;
  return failed(why, "%s: a latent vector of %d values at %d x %d pixels, those of %s are of %d at %d x %d", path, count, e->width,
                e->height, e->asked->bank ? e->asked->bank : e->asked->out, b->size, b->width, b->height);
}

/* The pictures that an older bank has and that did not change since, from it; what is done is set in done[i]. */
static void take_over(bank *b, const text_list *paths, const bank *kept, const uint64_t *marks, bool *done) {
  text_map known = {0};
  int i;

  for (i = 0; i < kept->count; i++)
    *text_map_at(&known, kept->names.items[i]) = i + 1;
  for (i = 0; i < paths->count && kept->count; i++) {
    const char *name = base_name(paths->items[i]);
    int at = text_map_has(&known, name) ? *text_map_at(&known, name) - 1 : -1;

    if (done[i] || at < 0 || kept->marks[at] != marks[i])
      continue;
    progress_step(RUN_WORK, paths->items[i]);
    bank_add(b, name, marks[i], kept->latents + (size_t)at * (size_t)b->size);
    done[i] = true;
  }
  text_map_free(&known);
}

/* The latent vectors of those pictures that are not done into a bank. Where its size is 0, the first picture decides it; one that fails is
 * reported. marks: NULL where the bank is not kept, and names the pictures by their paths. */
static void fill_bank(explainer *e, bank *b, const text_list *paths, const uint64_t *marks, const bool *done) {
  enum { SAVE_EVERY = 30 }; /* seconds: the work that a machine that goes down may lose */
  double saved = seconds_now();
  int i;

  for (i = 0; i < paths->count; i++) {
    int count = 0;
    float *latent;
    problem why;

    if (done && done[i])
      continue;
    latent = latent_of(e, paths->items[i], &count, &why);
    if (!fits_bank(e, b, paths->items[i], &latent, count, &why)) {
      complain("%s", why.text);
      e->some_failed = true;
      continue;
    }
    bank_add(b, marks ? base_name(paths->items[i]) : paths->items[i], marks ? marks[i] : 0, latent);
    free(latent);
    if (before_stop && seconds_now() - saved > SAVE_EVERY) {
      save_bank();
      saved = seconds_now();
    }
  }
}

/* The vector whose evidence is explained: what sets `s` apart from the mean of its neighbours, or what it shares with all of them: at each
 * place the value nearest 0 where they agree in sign, else 0 (agf-spec, "Label-free procedure"). */
static void compare_with_neighbours(const explainer *e, subject *s, const bank *b, const int *nearest) {
  int i, k;

  s->difference = allocate((size_t)b->size, sizeof *s->difference);
  for (i = 0; i < b->size; i++) {
    double mean = 0;
    float shared = s->latent[i];

    for (k = 0; k < s->neighbours; k++) {
      float other = b->latents[(size_t)nearest[k] * (size_t)b->size + (size_t)i];

      mean += (double)other / s->neighbours;
      shared = (shared > 0) != (other > 0) ? 0 : fabsf(other) < fabsf(shared) ? other : shared;
    }
    s->difference[i] = e->asked->shared ? shared : (float)(s->latent[i] - mean);
  }
}

/* The label-free procedure's first half: every subject's latent vector, and its nearest neighbours in the bank: a file that `agf bank`
 * made, or the pictures of a folder. A subject that fails is left without a latent vector. */
static void find_neighbours(explainer *e, bank *b, const text_list *paths) {
  int wanted = e->asked->neighbours ? e->asked->neighbours : 1, i, k, *nearest;
  double *distance;
  agf_error error;
  problem why;

  for (i = 0; i < e->count; i++) {
    subject *s = &e->subjects[i];
    int count = 0;

    s->latent = latent_of(e, s->path, &count, &why);
    if (!fits_bank(e, b, s->path, &s->latent, count, &why))
      give_up(e, s->path, &why);
  }
  if (paths->count && b->size)
    fill_bank(e, b, paths, NULL, NULL);
  if (!b->count)
    return;
  wanted = wanted < b->count ? wanted : b->count;
  nearest = allocate((size_t)wanted, sizeof *nearest);
  distance = allocate((size_t)wanted, sizeof *distance);
  for (i = 0; i < e->count; i++) {
    subject *s = &e->subjects[i];

    if (!s->latent)
      continue;
    if (agf_neighbours(b->latents, b->count, s->latent, 1, b->size, wanted, AGF_NEIGHBOURS_OTHERS, nearest, distance, &error))
      fatal("%s", error.message);
    s->neighbour = allocate((size_t)wanted, sizeof *s->neighbour);
    s->distance = allocate((size_t)wanted, sizeof *s->distance);
    for (k = 0; k < wanted && nearest[k] >= 0; k++) {
      s->neighbour[k] = b->names.items[nearest[k]];
      s->distance[k] = distance[k];
    }
    s->neighbours = k;
    if (s->neighbours)
      compare_with_neighbours(e, s, b, nearest);
  }
  free(nearest);
  free(distance);
}

static void explainer_free(explainer *e) {
  int i;

  agf_session_destroy(e->session);
  agf_model_close(e->model);
  for (i = 0; i < e->count; i++) {
    free(e->subjects[i].name);
    free(e->subjects[i].flat);
    free(e->subjects[i].latent);
    free(e->subjects[i].difference);
    free(e->subjects[i].neighbour);
    free(e->subjects[i].distance);
  }
  free(e->subjects);
  free(e->classes);
  text_list_free(&e->paths);
}

/* Open the model and find what the options name in it. */
static void choose_all(explainer *e) {
  const options *asked = e->asked;
  problem why;

  e->model = open_model(asked->arguments.items[0]);
  e->model_name = agf_model_name(e->model);
  if (!*e->model_name)
    e->model_name = base_name(asked->arguments.items[0]);
  agf_model_input(e->model, &e->input);
  check_taken(e, asked->against, "--against", AGF_METHOD_TAKES_AGAINST);
  check_taken(e, asked->layer, "--layer", AGF_METHOD_TAKES_LAYER);
  check_taken(e, asked->ablations, "--options", AGF_METHOD_TAKES_OPTIONS);
  check_taken(e, asked->bank, "--bank", AGF_METHOD_TAKES_DIFFERENCE);
  check_taken(e, asked->steps, "--steps", AGF_METHOD_TAKES_STEPS);
  check_taken(e, asked->samples, "--samples", AGF_METHOD_TAKES_SAMPLES);
  check_taken(e, asked->seed, "--seed", AGF_METHOD_TAKES_SAMPLES);
  e->layer = find_layer(e);
  choose_classes(e);
  choose_looks(e);
  /* What is wrong with the session itself (its size, its instruction set) is no fault of the first picture. */
  if ((asked->width || asked->isa) && !need_session(e, asked->height ? asked->height : e->input.height,
                                                    asked->width ? asked->width : e->input.width, &why))
    fatal("%s", why.text);
}

/* A model without preprocessing takes tensors alone; where none can be among what is to be explained, one message is enough. */
static void need_preprocessing(const explainer *e) {
  int i;

  for (i = 0; i < e->count; i++)
    if (ends_with(e->subjects[i].path, ".npy") || !strcmp(e->subjects[i].path, "-"))
      return;
  if (!e->input.is_picture)
    fatal("%s: the model file does not say how pictures are prepared for it: convert it with --mean and --std, or give tensors (.npy)",
          e->asked->arguments.items[0]);
}

static int run_explain(const options *asked) {
  text_list in_bank = {0};
  bank others;
  explainer e;
  page html;
  problem why;
  int i;

  memset(&e, 0, sizeof e);
  memset(&html, 0, sizeof html);
  memset(&others, 0, sizeof others);
  e.asked = asked;
  if (asked->arguments.count < 2)
    fatal("explain needs a model file and a picture: agf explain MODEL PICTURE...");
  e.method_count = find_methods(&asked->methods, e.methods);
  e.ablations = asked->ablations ? find_ablations(asked->ablations) : 0;
  list_subjects(&e);
  if ((asked->neighbours || asked->shared) && !asked->bank)
    fatal("%s goes with --bank", asked->shared ? "--shared" : "--neighbours");
  if (asked->bank && is_folder(asked->bank)) {
    list_folder(asked->bank, why_no_picture, &in_bank, asked->quiet);
    if (!in_bank.count)
      fatal("%s: no pictures that can be read in this folder", asked->bank);
    for (i = 0; i < in_bank.count; i++)
      protect_input(in_bank.items[i]);
  } else if (asked->bank) {
    protect_input(asked->bank);
  }
  if (asked->font)
    protect_input(asked->font);
  for (i = 0; i < asked->masks.count; i++)
    protect_input(asked->masks.items[i]);
  protect_input(asked->arguments.items[0]);
  check_output(&e, asked->out, "-o", true);
  check_output(&e, asked->npy, "--npy", false);
  check_output(&e, asked->logits, "--logits", false);
  if (asked->html) {
    if (!e.out_is_folder)
      fatal("--html needs a folder to write index.html into: -o FOLDER/");
    e.page = &html;
    html.path = text_of("%s%sindex.html", asked->out, asked->out[strlen(asked->out) - 1] == '/' ? "" : "/");
    if (!output_reserve(html.path, &why))
      fatal("%s", why.text);
  }
  reserve_outputs(&e);
  choose_all(&e);
  need_preprocessing(&e);
  if (asked->bank && !in_bank.count && !open_bank(&e, &others, asked->bank, &why))
    fatal("%s", why.text);

  progress_begin(e.count * work_of(&e) + (asked->bank ? RUN_WORK * (e.count + in_bank.count) : 0), asked->quiet);
  if (asked->bank)
    find_neighbours(&e, &others, &in_bank);
  explain_all(&e);
  progress_clear();
  if (e.page)
    page_write(&html, e.model_name);
  text_list_free(&in_bank);
  bank_free(&others);
  explainer_free(&e);
  return e.some_failed ? EXIT_SOME_FAILED : EXIT_SUCCESS;
}

/* ---- agf bank ------------------------------------------------------------------------------------------------------------- */

static int run_bank(const options *asked) {
  const char *folder, *path = asked->out;
  text_list paths = {0};
  bank made, kept;
  struct stat status;
  explainer e;
  problem why;
  bool there, *done;
  uint64_t *marks;
  int i;

  if (asked->arguments.count != 2)
    fatal("bank needs a model file and a folder of pictures: agf bank MODEL FOLDER -o FILE");
  if (!path)
    fatal("bank needs a file to write: -o FILE");
  memset(&e, 0, sizeof e);
  memset(&made, 0, sizeof made);
  memset(&kept, 0, sizeof kept);
  e.asked = asked;
  e.model = open_model(asked->arguments.items[0]);
  agf_model_input(e.model, &e.input);
  folder = asked->arguments.items[1];
  list_folder(folder, why_no_picture, &paths, asked->quiet);
  if (!paths.count)
    fatal("%s: no pictures that can be read in this folder", folder);
  protect_input(asked->arguments.items[0]);
  there = !stat(path, &status) && status.st_size > 0;
  if (there && !S_ISREG(status.st_mode))
    fatal("-o %s: not a file", path);
  if (there && !open_bank(&e, &kept, path, &why))
    fatal("%s; it is not written over: remove it, or name another file", why.text);
  if (there && asked->height && (kept.height != asked->height || kept.width != asked->width))
    fatal("%s: a bank at %d x %d pixels cannot be continued at %d x %d", path, kept.width, kept.height, asked->width, asked->height);
  if (!output_reserve(path, &why))
    fatal("%s", why.text);
  made.size = kept.size;
  made.height = kept.height;
  made.width = kept.width;
  progress_begin(RUN_WORK * paths.count, asked->quiet);
  made.checksum = agf_model_checksum(e.model);
  marks = allocate((size_t)paths.count, sizeof *marks);
  done = allocate((size_t)paths.count, sizeof *done);
  for (i = 0; i < paths.count; i++)
    if (!bank_mark(paths.items[i], &marks[i], &why)) {
      complain("%s", why.text);
      e.some_failed = done[i] = true;
    }
  take_over(&made, &paths, &kept, marks, done);
  unsaved.bank = &made;
  unsaved.path = path;
  before_stop = save_bank;
  fill_bank(&e, &made, &paths, marks, done);
  before_stop = NULL;
  progress_clear();
  if (!made.count)
    fatal("%s: none of its %d pictures could be done", folder, paths.count);
  save_bank();
  free(marks);
  free(done);
  if (!asked->quiet)
    printf("%s: %d pictures, latent vectors of %d values\n", path, made.count, made.size);
  text_list_free(&paths);
  bank_free(&made);
  bank_free(&kept);
  explainer_free(&e);
  return e.some_failed ? EXIT_SOME_FAILED : EXIT_SUCCESS;
}

/* ---- agf watch ------------------------------------------------------------------------------------------------------------ */

/* Where explained frames go. */
typedef struct sink {
  const char *path;   /* NULL: nowhere, only the text is printed */
  bool is_folder, is_newest;
  FILE *stream;       /* of MJPEG or raw frames */
  bool raw;
  int width, height;  /* of raw frames, which all have one size */
  long long written;
} sink;

static void sink_open(sink *k, const options *o) {
  struct stat status;
  bool exists;

  memset(k, 0, sizeof *k);
  k->path = o->out;
  k->raw = o->raw;
  if (!o->out)
    return;
  exists = !stat(o->out, &status);
  k->is_folder = (exists && S_ISDIR(status.st_mode)) || (!exists && o->out[strlen(o->out) - 1] == '/');
  k->is_newest = !k->is_folder && ends_with(o->out, ".png");
  if ((k->is_folder || k->is_newest) && o->raw)
    fatal("--raw is for a file or a pipe, -o %s is neither", o->out);
  if (k->is_folder && !exists && mkdir(o->out, 0777))
    output_failed(o->out);
  if (k->is_folder || k->is_newest)
    return;
  if (!strcmp(o->out, "-") && isatty(STDOUT_FILENO))
    fatal("-o -: standard output is a terminal; send it to a file or a pipe");
  if (exists && text_map_has(&protected_files, identity_of(&status).text))
    fatal("%s: is input of this run and would be overwritten", o->out);
  k->stream = strcmp(o->out, "-") ? fopen(o->out, "wb") : fdopen(dup(STDOUT_FILENO), "wb");
  if (!k->stream)
    output_failed(o->out);
}

static void stream_bytes(void *context, void *data, int size) {
  sink *k = context;

  if (fwrite(data, 1, (size_t)size, k->stream) != (size_t)size) {
    stop_if_interrupted(); /* nobody reads it any more */
    output_failed(k->path);
  }
}

static bool sink_frame(sink *k, const char *name, const canvas *c, problem *why) {
  bool done = true;

  if (k->is_folder || k->is_newest) {
    const char *base = base_name(name), *dot = strrchr(base, '.');
    char *path = k->is_newest ? text_of("%s", k->path)
                 : dot        ? text_of("%s/%.*s.png", k->path, (int)(dot - base), base)
                              : text_of("%s/frame-%08lld.png", k->path, k->written + 1);

    outputs_forget(); /* the same name again is the newer picture */
    done = write_png(path, c, why);
    if (done)
      outputs_complete();
    free(path);
  } else if (k->raw) {
    if (!k->written) {
      k->width = c->width;
      k->height = c->height;
    }
    if (c->width != k->width || c->height != k->height)
      return failed(why, "%s: %dx%d pixels, the raw frames before it have %dx%d", name, c->width, c->height, k->width, k->height);
    stream_bytes(k, c->rgb, c->width * c->height * 3);
    fflush(k->stream);
  } else if (k->stream) {
    stbi_write_jpg_to_func(stream_bytes, k, c->width, c->height, 3, c->rgb, 88);
    fflush(k->stream);
  }
  k->written += done;
  return done;
}

/* The maps of a frame over it, side by side, each with its class and probability in a corner. */
static bool compose_frame(const explainer *e, const drawing *d, canvas *c, problem *why) {
  style look = e->style;
  int i, width;

  look.overlay = true;
  if (!look.width && d->photo.width > 960)
    look.width = 960;
  if (!compose_bare(c, &d->figure, d->panels, d->count, &look, why))
    return false;
  width = c->width / d->count;
  for (i = 0; i < d->count; i++) {
    double cap = fmax(9, floor(width / 45.0));
    char *text = text_of("%s, %s", d->panels[i].label, d->panels[i].share);
    int wide = (int)fmin(width, text_width(text, cap) + 2 * cap), high = (int)(2.4 * cap), x, y;

    for (y = c->height > high ? c->height - high : 0; y < c->height; y++)
      for (x = i * width; x < i * width + wide; x++)
        blend(c, x, y, 0.75, WHITE);
    draw_text_within(c, i * width + 0.8 * cap, c->height - 0.8 * cap, cap, width - 1.6 * cap, text, INK);
    free(text);
  }
  return true;
}

static int run_watch(const options *asked) {
  raw_frames raw;
  source from;
  sink to;
  explainer e;
  picture frame;
  problem why;
  char *name;
  long long explained = 0, failures = 0;

  memset(&raw, 0, sizeof raw);
  memset(&e, 0, sizeof e);
  e.asked = asked;
  e.many = true;
  if (asked->arguments.count != 2)
    fatal("watch needs a model file and a source: agf watch MODEL SOURCE -o OUT");
  if (asked->json && asked->out && !strcmp(asked->out, "-"))
    fatal("-o -: --json writes to standard output, too");
  if (asked->frames && !parse_frames(asked->frames, &raw))
    fatal("--frames %s: not a size and one of rgb24, bgr24, gray, yuv420, nv12, as in 640x480:yuv420", asked->frames);
  e.method_count = find_methods(&asked->methods, e.methods);
  e.ablations = asked->ablations ? find_ablations(asked->ablations) : 0;
  protect_input(asked->arguments.items[0]);
  protect_input(asked->arguments.items[1]);
  choose_all(&e);
  need_preprocessing(&e);
  sink_open(&to, asked);
  source_open(&from, asked->arguments.items[1], &raw);
  while ((!asked->count || explained < asked->count) && next_frame(&from, &frame, &name, &why)) {
    subject s;
    prepared p;
    drawing d;
    result r;
    canvas c;
    double before = seconds_now();
    bool done = !why.text[0];

    memset(&s, 0, sizeof s);
    memset(&p, 0, sizeof p);
    memset(&d, 0, sizeof d);
    memset(&r, 0, sizeof r);
    s.path = name;
    p.source = frame;
    if (done && !p.source.rgb)
      done = failed(&why, "%s: a tensor is no frame", name);
    done = done && prepare_source(&e, name, &p, &why) && run_prepared(&e, name, &p, AGF_RUN_EXPLAIN, &why) &&
           explain_run(&e, &s, &r, &why);
    r.seconds = seconds_now() - before;
    report_refused(&r);
    if (done) {
      r.files = allocate((size_t)r.count, sizeof *r.files);
      drawing_make(&d, &e, &s, &p, &r);
      if (to.path) {
        done = compose_frame(&e, &d, &c, &why) && sink_frame(&to, name, &c, &why);
        free(c.rgb);
      }
    }
    if (!done) {
      failures++;
      give_up(&e, name, &why);
    } else {
      explained++;
      if (asked->json)
        print_json(&e, &s, &p, &r);
      else if (!asked->quiet && !(asked->out && !strcmp(asked->out, "-")))
        print_text(&e, &s, &r);
      fflush(stdout);
    }
    drawing_free(&d);
    prepared_free(&p);
    result_free(&r);
    free(name);
  }
  if (from.error[0]) {
    complain("%s: %s", from.path, from.error);
    e.some_failed = true;
  }
  if (to.stream && fclose(to.stream))
    output_failed(to.path);
  if (!asked->quiet)
    complain("%lld frames explained, %lld dropped, %lld that could not be", explained, from.dropped, failures);
  stop_if_interrupted();
  source_close(&from);
  explainer_free(&e);
  return e.some_failed ? EXIT_SOME_FAILED : EXIT_SUCCESS;
}

/* ---- agf info ------------------------------------------------------------------------------------------------------------- */

/* What `agf info` tells besides the layers. */
typedef struct facts {
  const agf_model *model;
  const char *name, *source, *path;
  agf_input input;
  int height, width;                 /* the size that memory and layers are told for */
  size_t memory, low_memory;         /* bytes of a session */
} facts;

static void print_numbers(const float *numbers, int count, const char *between) {
  int i;

  for (i = 0; i < count; i++)
    printf("%s%.6g", i ? between : "", numbers[i]);
}

static void print_facts(const facts *f) {
  enum { LABELS_SHOWN = 5 };
  const double mebibyte = 1024.0 * 1024.0;
  int classes = agf_model_classes(f->model), channels = f->input.channels < 4 ? f->input.channels : 4, k;

  printf("name        ");
  print_clean(*f->name ? f->name : "(none)");
  printf("\nsource      ");
  print_clean(*f->source ? f->source : "(unknown)");
  printf("\ninput       %d x %d x %d (channels, height, width)\n", f->input.channels, f->input.height, f->input.width);
  printf("pictures    ");
  if (!f->input.is_picture) {
    printf("the file carries no preprocessing; give tensors as .npy\n");
  } else {
    if (f->input.resize == AGF_RESIZE_CROP)
      printf("shorter side to %d pixels, then the centre", f->input.resize_to);
    else
      printf("stretched to the input's size");
    printf("; %s, 0 to %.6g, mean ", channels == 1 ? "gray" : f->input.channel_order == AGF_CHANNELS_BGR ? "BGR" : "RGB",
           f->input.range);
    print_numbers(f->input.mean, channels, " ");
    printf(", std ");
    print_numbers(f->input.std, channels, " ");
    putchar('\n');
  }
  if (f->input.is_affine) {
    printf("tensors     as the original network takes them: it scales and shifts channels itself (");
    for (k = 0; k < channels; k++) {
      float scale, bias;

      agf_model_affine(f->model, k, &scale, &bias);
      printf("%s%.6g x %+.6g", k ? ", " : "", scale, bias);
    }
    printf(")\n");
  }
  printf("answers     %s\n", f->input.head == AGF_HEAD_SOFTMAX   ? "one class of all: probabilities sum to 1"
                             : f->input.head == AGF_HEAD_SIGMOID ? "classes that do not exclude one another, each with its own probability"
                                                                 : "scores; the file does not say what makes probabilities of them");
  printf("classes     %d", classes);
  for (k = 0; k < classes && k < LABELS_SHOWN && *agf_model_label(f->model, k); k++) {
    printf("%s", k ? ", " : ": ");
    print_clean(agf_model_label(f->model, k));
  }
  printf("%s\n", k && k < classes ? ", ..." : k ? "" : ", without labels");
  printf("parameters  %llu\n", (unsigned long long)agf_model_parameters(f->model));
  printf("file        %.2f MiB\n", (double)agf_model_file_bytes(f->model) / mebibyte);
  printf("memory      %.1f MiB for a session at %dx%d, %.1f MiB with low memory\n\n", (double)f->memory / mebibyte, f->width,
         f->height, (double)f->low_memory / mebibyte);
}

/* "3", "3x5" or "-" for a pair that the op does not use. */
static const char *pair_text(const int pair[2], char text[24]) {
  if (!pair[0])
    return "-";
  if (pair[0] == pair[1])
    snprintf(text, 24, "%d", pair[0]);
  else
    snprintf(text, 24, "%dx%d", pair[0], pair[1]);
  return text;
}

static const char *pad_text(const agf_layer *layer, char text[48]) {
  const int *p = layer->pad;

  if (!layer->kernel[0])
    return "-";
  if (p[0] == p[1] && p[0] == p[2] && p[0] == p[3])
    snprintf(text, 48, "%d", p[0]);
  else
    snprintf(text, 48, "%d,%d,%d,%d", p[0], p[1], p[2], p[3]);
  return text;
}

/* The tensors that layer i reads: "image", or the numbers of layers. */
static const char *inputs_text(const agf_model *model, int i, const agf_layer *layer, char text[96]) {
  int j;

  text[0] = 0;
  for (j = 0; j < layer->inputs; j++) {
    int from = agf_model_layer_input(model, i, j);
    size_t used = strlen(text);

    if (used > 80) {
      snprintf(text + used, 96 - used, "...");
      break;
    }
    if (from == 0)
      snprintf(text + used, 96 - used, "%simage", j ? "," : "");
    else
      snprintf(text + used, 96 - used, "%s%d", j ? "," : "", from - 1);
  }
  return text;
}

static void print_layers(const facts *f) {
  char kernel[24], stride[24], pad[48], shape[48], inputs[96], notes[80];
  int width = name_columns(f->model), i;
  agf_layer layer;

  printf("%4s  ", "#");
  print_padded("name", width);
  printf("  %-16s %-9s %6s %6s %8s  %-18s %11s\n", "op", "reads", "kernel", "stride", "pad", "output", "parameters");
  for (i = 0; i < agf_model_layers(f->model); i++) {
    if (agf_model_layer(f->model, i, f->height, f->width, &layer, NULL))
      continue;
    notes[0] = 0;
    if (layer.flat)
      snprintf(notes, sizeof notes, "  flat");
    if (layer.groups > 1)
      snprintf(notes + strlen(notes), sizeof notes - strlen(notes), "  %d groups", layer.groups);
    if (layer.dilation[0] > 1 || layer.dilation[1] > 1)
      snprintf(notes + strlen(notes), sizeof notes - strlen(notes), "  dilation %s", pair_text(layer.dilation, kernel));
    printf("%4d  ", i);
    print_padded(layer.name, width);
    printf("  %-16s %-9s %6s %6s %8s  %-18s %11llu%s\n", agf_op_name(layer.op), inputs_text(f->model, i, &layer, inputs),
           pair_text(layer.kernel, kernel), pair_text(layer.stride, stride), pad_text(&layer, pad),
           shape_text(layer.shape, shape), (unsigned long long)layer.parameters, notes);
  }
}

static void print_json_ints(const char *key, const int *numbers, int count) {
  int i;

  printf(", \"%s\": [", key);
  for (i = 0; i < count; i++)
    printf("%s%d", i ? ", " : "", numbers[i]);
  printf("]");
}

static void print_facts_json(const facts *f) {
  int channels = f->input.channels < 4 ? f->input.channels : 4, k, i, j;
  bool labelled = *agf_model_label(f->model, 0);
  agf_layer layer;

  printf("{\"file\": ");
  json_string(f->path);
  printf(", \"name\": ");
  json_string(f->name);
  printf(", \"source\": ");
  json_string(f->source);
  printf(", \"input\": {\"channels\": %d, \"height\": %d, \"width\": %d}, \"preprocessing\": ", f->input.channels, f->input.height,
         f->input.width);
  if (f->input.is_picture) {
    printf("{\"channels\": \"%s\", \"resize\": \"%s\", \"resize_to\": %d, \"range\": %.9g, \"mean\": [",
           channels == 1 ? "gray" : f->input.channel_order == AGF_CHANNELS_BGR ? "bgr" : "rgb",
           f->input.resize == AGF_RESIZE_CROP ? "crop" : "stretch", f->input.resize_to, f->input.range);
    print_numbers(f->input.mean, channels, ", ");
    printf("], \"std\": [");
    print_numbers(f->input.std, channels, ", ");
    printf("]}");
  } else {
    printf("null");
  }
  printf(", \"head\": \"%s\", \"classes\": %d, \"labels\": [", f->input.head == AGF_HEAD_SOFTMAX   ? "softmax"
                                                            : f->input.head == AGF_HEAD_SIGMOID ? "sigmoid"
                                                                                                : "none",
         agf_model_classes(f->model));
  for (k = 0; labelled && k < agf_model_classes(f->model); k++) {
    printf("%s", k ? ", " : "");
    json_string(agf_model_label(f->model, k));
  }
  printf("], \"parameters\": %llu, \"file_bytes\": %llu, \"session\": {\"height\": %d, \"width\": %d, \"bytes\": %zu, "
         "\"low_memory_bytes\": %zu}, \"layers\": [",
         (unsigned long long)agf_model_parameters(f->model), (unsigned long long)agf_model_file_bytes(f->model), f->height,
         f->width, f->memory, f->low_memory);
  for (i = 0; i < agf_model_layers(f->model); i++) {
    if (agf_model_layer(f->model, i, f->height, f->width, &layer, NULL))
      continue;
    printf("%s{\"name\": ", i ? ", " : "");
    json_string(layer.name);
    printf(", \"op\": \"%s\", \"inputs\": [", agf_op_name(layer.op));
    for (j = 0; j < layer.inputs; j++)
      printf("%s%d", j ? ", " : "", agf_model_layer_input(f->model, i, j) - 1); /* -1: the image */
    printf("]");
    print_json_ints("shape", layer.shape, 3);
    print_json_ints("kernel", layer.kernel, 2);
    print_json_ints("stride", layer.stride, 2);
    print_json_ints("dilation", layer.dilation, 2);
    print_json_ints("pad", layer.pad, 4);
    printf(", \"groups\": %d, \"flat\": %s, \"parameters\": %llu}", layer.groups, layer.flat ? "true" : "false",
           (unsigned long long)layer.parameters);
  }
  printf("]}\n");
}

static int run_info(const options *asked) {
  agf_session_config config;
  agf_model *model;
  agf_error error;
  facts f;

  if (asked->arguments.count != 1)
    fatal("info needs one model file: agf info MODEL");
  model = open_model(asked->arguments.items[0]);
  f.model = model;
  f.path = asked->arguments.items[0];
  f.name = agf_model_name(model);
  f.source = agf_model_source(model);
  agf_model_input(model, &f.input);
  f.height = asked->height ? asked->height : f.input.height;
  f.width = asked->width ? asked->width : f.input.width;
  memset(&config, 0, sizeof config);
  config.height = f.height;
  config.width = f.width;
  config.threads = asked->threads;
  if (agf_session_bytes(model, &config, &f.memory, &error))
    fatal("%s: %s", f.path, error.message);
  config.low_memory = 1;
  if (agf_session_bytes(model, &config, &f.low_memory, &error))
    fatal("%s: %s", f.path, error.message);
  if (asked->json) {
    print_facts_json(&f);
  } else {
    print_facts(&f);
    print_layers(&f);
  }
  agf_model_close(model);
  return EXIT_SUCCESS;
}

/* ---- Commands ------------------------------------------------------------------------------------------------------------- */

/* ---- agf bench ------------------------------------------------------------------------------------------------------------ */

static int run_bench(const options *asked) {
  agf_session_config config;
  explainer e;
  prepared p;
  problem why;
  bench b;

  if (asked->arguments.count < 1 || asked->arguments.count > 2)
    fatal("bench needs one model file, and takes one picture: agf bench MODEL [PICTURE]");
  memset(&e, 0, sizeof e);
  memset(&p, 0, sizeof p);
  memset(&b, 0, sizeof b);
  e.asked = asked;
  b.runs = asked->runs ? asked->runs : 7;
  bench_opening(&b, asked->arguments.items[0]);
  e.model = b.model = open_model(asked->arguments.items[0]);
  agf_model_input(e.model, &e.input);
  b.name = agf_model_name(b.model);
  if (!*b.name)
    b.name = base_name(asked->arguments.items[0]);
  b.height = asked->height ? asked->height : e.input.height;
  b.width = asked->width ? asked->width : e.input.width;
  if (asked->arguments.count == 2) {
    if (!prepare(&e, asked->arguments.items[1], &p, &why))
      fatal("%s", why.text);
    b.height = p.height;
    b.width = p.width;
  }
  memset(&config, 0, sizeof config);
  config.height = b.height;
  config.width = b.width;
  config.threads = asked->threads;
  config.low_memory = asked->low_memory;
  config.isa = asked->isa;
  bench_run(&b, &config, p.chw, asked->json, asked->verbose, asked->quiet);
  prepared_free(&p);
  agf_model_close(e.model);
  return EXIT_SUCCESS;
}

/* ---- agf selftest ---------------------------------------------------------------------------------------------------------- */

static int run_selftest(const options *asked) {
  if (asked->arguments.count)
    fatal("selftest takes no files: it carries its networks");
  return selftest_run(asked->isa, asked->threads, asked->verbose);
}

static const struct command {
  const char *name, *arguments, *summary;
  int bit;
  int (*run)(const options *asked);
  const char *details;
} commands[] = {
  {"explain", "MODEL PICTURE...", "which pixels of a picture spoke for a class", EXPLAIN, run_explain,
   "PICTURE is a file (" READABLE "), - for standard input, a .npy float32 tensor [C, H, W] or [1, C, H, W] that goes into\n"
   "the network as it is, or a folder of those. Prints the 5 best classes, and writes what is asked for: red is\n"
   "evidence for the class, blue evidence against it. Several pictures need a folder after -o, or %p in the name; one\n"
   "that cannot be read is reported, and the others are done (exit code 1).\n"},
  {"bank", "MODEL FOLDER -o FILE", "latent vectors of pictures, for --bank", BANK, run_bank,
   "Computes what `explain --bank` compares pictures with, once, into a file. Interrupted or called again it goes on\n"
   "where it was: pictures that are in the file and did not change are not computed again, those that left the folder\n"
   "leave the file. A file that is no bank of this model is not written over.\n"},
  {"watch", "MODEL SOURCE", "explain frames as they come", WATCH, run_watch,
   "SOURCE is a folder, of which each new picture is explained, or a pipe (- is standard input) of JPEGs, as cameras' MJPEG is, or of raw "
   "frames (--frames). The newest frame is explained, and those that come in the meantime are dropped and counted.\n"},
  {"info", "MODEL", "what a model file holds, and the memory it needs", INFO, run_info,
   "Prints input, preprocessing, classes, parameters, memory of a session, and all layers.\n"},
  {"bench", "MODEL [PICTURE]", "how fast a model runs and explains here", BENCH, run_bench,
   "Times the forward pass, the explanation of one class and of a further one, on a picture or on noise, and sets\n"
   "them beside the machine's peak and bandwidth, probed between the runs. With -v, layer by layer.\n"},
  {"selftest", "", "whether this machine makes the right maps", SELFTEST, run_selftest,
   "Runs the small networks that the program carries, by every method and with every instruction set of this machine, and compares\n"
   "the SHA-256 of the maps with those of all other machines (exit code 1: some differ). The report has the times too.\n"},
};

enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static const char *command_name(int i, const void *unused) {
  (void)unused;
  return commands[i].name;
}

static const struct command *find_command(const char *name) {
  int i;

  for (i = 0; i < COMMAND_COUNT; i++)
    if (!strcmp(name, commands[i].name))
      return &commands[i];
  fatal("unknown command %s%s; `agf --help` lists the commands", name, did_you_mean(name, command_name, NULL, COMMAND_COUNT));
  return NULL;
}

enum { HELP_WIDTH = 79, HELP_COLUMN = 24 };

/* Print text in lines of at most HELP_WIDTH columns that begin at `column`; the first one has `used` columns already. */
static void print_wrapped(const char *text, int column, int used) {
  if (used >= column && column) {
    putchar('\n');
    used = 0;
  }
  while (*text) {
    int length = (int)strcspn(text, " \n");

    if (used > column && used + 1 + length > HELP_WIDTH) {
      putchar('\n');
      used = 0;
    }
    if (used < column)
      used += printf("%*s", column - used, "");
    else if (used > column)
      used += printf(" ");
    used += printf("%.*s", length, text);
    text += length;
    text += strspn(text, " \n");
  }
  putchar('\n');
}

static void print_command_help(const struct command *c) {
  int i;

  printf("usage: agf %s %s [options]\n\n", c->name, c->arguments);
  print_wrapped(c->details, 0, 0);
  putchar('\n');
  for (i = 0; i < OPTION_COUNT; i++) {
    const option *o = &options_known[i];
    int used;

    if (!(o->commands & c->bit))
      continue;
    used = printf("  %c%c%s --%s %s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name,
                  o->argument ? o->argument : "");
    print_wrapped(o->help, HELP_COLUMN, used);
  }
}

static void print_help(void) {
  int i;

  printf("usage: agf COMMAND ARGUMENT... [options]\n\nAttribution maps for convolutional networks.\n\n");
  for (i = 0; i < COMMAND_COUNT; i++)
    printf("  agf %s %-*s %s\n", commands[i].name, 23 - (int)strlen(commands[i].name), commands[i].arguments, commands[i].summary);
  printf("  agf %-24s %s\n  agf %-24s %s\n  agf %-24s %s\n", "help COMMAND", "a command's options", "help --man",
         "the manual page, for man", "--version", "the version");
  printf("\nExit code: 0 done, 1 some pictures failed, 2 nothing done because of bad input.\n");
}

/* Text for a manual page: '-' and '\\' have meanings there, and so has a '.' or a '\'' at the beginning of a line. */
static void print_roff(const char *text) {
  for (; *text; text++)
    if (*text == '-' || *text == '\\')
      printf("\\%s", *text == '-' ? "-" : "e");
    else if (*text == '\n')
      putchar(' ');
    else if (*text == '\'')
      printf("\\(cq");
    else
      putchar(*text);
}

static void print_man_page(void) {
  int i, k;

  printf(".TH AGF 1 \"\" \"agf %s\"\n.SH NAME\nagf \\- attribution maps for convolutional networks\n.SH SYNOPSIS\n", agf_version());
  for (i = 0; i < COMMAND_COUNT; i++) {
    printf("%s.B agf %s\n.I ", i ? ".br\n" : "", commands[i].name);
    print_roff(commands[i].arguments);
    printf(" \\fR[options]\n");
  }
  printf(".SH DESCRIPTION\nShows which pixels of a picture spoke for or against a class that a convolutional network sees in it.\n");
  for (i = 0; i < COMMAND_COUNT; i++) {
    printf(".SH \"AGF %s\"\n", commands[i].name);
    print_roff(commands[i].details);
    putchar('\n');
    for (k = 0; k < OPTION_COUNT; k++) {
      const option *o = &options_known[k];

      if (!(o->commands & commands[i].bit))
        continue;
      printf(".TP\n");
      if (o->letter)
        printf("\\fB\\-%c\\fR, ", o->letter);
      printf("\\fB\\-\\-");
      print_roff(o->name);
      printf("\\fR");
      if (o->argument) {
        printf(" \\fI");
        print_roff(o->argument);
        printf("\\fR");
      }
      putchar('\n');
      print_roff(o->help);
      putchar('\n');
    }
  }
  printf(".SH \"EXIT STATUS\"\n0: done. 1: some pictures failed, the others are done. 2: nothing was done because of bad input.\n");
}

static int run_command(const struct command *c, int count, char **argv) {
  options asked;
  int code = EXIT_SUCCESS;

  memset(&asked, 0, sizeof asked);
  asked.alpha = 0.8;
  parse_options(&asked, c->bit, c->name, count, argv);
  if (asked.help)
    print_command_help(c);
  else
    code = c->run(&asked);
  options_free(&asked);
  return code;
}

int main(int argc, char **argv) {
  const char *first = argc > 1 ? argv[1] : NULL;
  int code = EXIT_SUCCESS;

  whole_program_begin();
  catch_signals();
  if (!first)
    fatal("no command; `agf --help` lists the commands");
  if (!strcmp(first, "--version") || !strcmp(first, "-V"))
    printf("agf %s (reads model files up to version %d, and " READABLE "; maps of version %d)\n", agf_version(), AGF_FORMAT_VERSION,
           AGF_BITS_VERSION);
  else if (!strcmp(first, "--help") || !strcmp(first, "-h") || (!strcmp(first, "help") && argc == 2))
    print_help();
  else if (!strcmp(first, "help") && !strcmp(argv[2], "--man"))
    print_man_page();
  else if (!strcmp(first, "help"))
    print_command_help(find_command(argv[2]));
  else if (first[0] == '-')
    fatal("unknown option %s; `agf --help` lists the commands", first);
  else
    code = run_command(find_command(first), argc - 2, argv + 2);
  outputs_free();
  if (fflush(stdout) || ferror(stdout)) {
    stop_if_interrupted(); /* nobody reads it */
    fatal("standard output cannot be written: %s", strerror(errno));
  }
  return code;
}
