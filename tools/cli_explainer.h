/* What is to be done: the model, the pictures and what their output is called, the classes, methods and looks that the options ask for,
 * and the session that does it. */
#ifndef CLI_EXPLAINER_H
#define CLI_EXPLAINER_H

#include "cli_figure.h"
#include "cli_names.h"
#include "cli_page.h"

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
  text_list paths; /* owns the subjects' paths */
  subject *subjects;
  int count;
  bool many; /* several pictures or a folder: a bad one does not end the run */
  bool out_is_folder;
  bool to_stdout; /* a file goes to standard output: nothing else does */
  page *page;     /* --html; NULL: not asked for */
  bool some_failed;
  struct queue *queue; /* of the threads that explain other pictures at the same time; NULL: there are none */
  int *classes;        /* [class_count]: the classes asked for with -c */
  int class_count;
  int ranks; /* how many of the best classes to explain besides */
  agf_method methods[AGF_METHODS];
  int method_count;
  int layer, against; /* as agf_request has them */
  unsigned ablations;
  int cmap; /* -1: by the method */
  style style;
  bool bare; /* pictures without photograph beside them, captions and margins */
} explainer;

/* The engine's work on a picture in units of a forward pass: the forward pass, and about 1.5 for every map. */
static const double RUN_WORK = 1, MAP_WORK = 1.5;

static double work_of(const explainer *e) { return RUN_WORK + MAP_WORK * (e->class_count + e->ranks); }

/* `text` in small letters, in memory of its own. */
static char *lowered(const char *text) {
  char *low = text_of("%s", text), *at;

  for (at = low; *at; at++) *at = (char)lower((unsigned char)*at);
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

    while (j < common && folders->items[0][j] == folders->items[i][j]) j++;
    while (j && folders->items[0][j - 1] != '/') j--;
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
  for (i = 0; i < e->count && !mirrored; i++) mirrored = !is_unique(&like_base, bases.items[i]);
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
    for (at = s->flat; *at; at++) *at = *at == '/' ? '-' : *at;
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
      if (e->paths.count == before) fatal("%s: no pictures that can be read in this folder", path);
      e->many = true;
    } else {
      text_list_add(&e->paths, text_of("%s", path));
    }
  }
  e->count = e->paths.count;
  e->many = e->many || e->count > 1;
  e->subjects = allocate((size_t)e->count, sizeof *e->subjects);
  name_subjects(e);
  for (i = 0; i < e->count; i++) protect_input(e->subjects[i].path);
}

static bool has_placeholder(const char *pattern, char which) {
  const char *at = pattern;

  while ((at = strchr(at, '%')))
    if (*++at == which) return true;
  return false;
}

/* An output that cannot work is refused before the work, not after it. `path` may be NULL: not asked for. A folder is allowed for
 * pictures, where only a folder can be meant. One that does not exist is made by the first output in it. */
static void check_output(explainer *e, const char *path, const char *shown, bool is_picture) {
  struct stat status;
  bool exists, per_picture, ended, means_folder = false;
  char *folder;

  if (!path) return;
  if (!strcmp(path, "-")) {
    if (e->many) fatal("%s -: several pictures do not go to standard output", shown);
    if (e->asked->json) fatal("%s -: --json writes to standard output, too", shown);
    if (isatty(STDOUT_FILENO)) fatal("%s -: standard output is a terminal; send it to a file or a pipe", shown);
    e->to_stdout = true;
    return;
  }
  exists = !stat(path, &status);
  ended = path[strlen(path) - 1] == '/';
  per_picture = has_placeholder(path, 'p') || (!is_picture && has_placeholder(path, 's'));
  if (exists && S_ISDIR(status.st_mode)) {
    if (!is_picture) fatal("%s %s: a folder, but a file's name is needed", shown, path);
    folder = text_of("%s", path);
    per_picture = e->out_is_folder = true;
  } else {
    char *named = text_of("%.*s", (int)(strlen(path) - ended), path);

    if (is_picture && !exists && !strchr(path, '%') && (ended || (e->many && !ends_with(path, ".png")))) {
      per_picture = means_folder = e->out_is_folder = true;
      make_folder_later(named);
    } else if (is_picture && !ends_with(path, ".png") && (!exists || S_ISREG(status.st_mode))) {
      fatal("%s %s: no such folder, and no name that ends in .png", shown, path);
    }
    folder = folder_of(named);
    free(named);
    if (!is_folder(folder)) {
      char *above = folder_of(folder);

      if (means_folder || !folder_can_be(path)) fatal("%s %s: no such folder: %s", shown, path, folder);
      free(folder);
      folder = above;
    }
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
      while (*piece) *end++ = *piece++;
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

  return e->out_is_folder ? text_of("%s%s%s.png", out, out[strlen(out) - 1] == '/' ? "" : "/", s->name) : fill_in(out, "", s->flat);
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
          if (!is_folder(names[0])) make_folder_later(names[0]);
          *at = '/';
        }
      }
    }
    if (o->npy) names[1] = fill_in(o->npy, s->flat, s->flat);
    if (o->logits) names[2] = fill_in(o->logits, s->flat, s->flat);
    for (k = 0; k < 3; k++) {
      if (names[k] && !output_reserve(names[k], &why)) fatal("%s", why.text);
      free(names[k]);
    }
  }
}

/* An option that no method among those asked for takes is a mistake. `given`: the option is there. */
static void check_taken(const explainer *e, bool given, const char *shown, unsigned trait) {
  char list[256] = "";
  int i;

  for (i = 0; given && i < e->method_count; i++) given = !(agf_method_traits(e->methods[i]) & trait);
  if (!given) return;
  for (i = 0; i < AGF_METHODS; i++)
    if (agf_method_traits((agf_method)i) & trait)
      snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", *list ? ", " : "", agf_method_name((agf_method)i));
  fatal("%s is not for the method %s; say with -m which of these: %s", shown, agf_method_name(e->methods[0]),
        *list ? list : "(none in this engine)");
}

/* The layer of gradcam and its like, as agf_request has it; 0: the default. */
static int find_layer(const explainer *e) {
  const char *text = e->asked->layer;
  int layers = agf_model_layers(e->model), i, index;
  agf_layer layer;

  if (!text) return 0;
  for (i = 0; i < layers; i++)
    if (!agf_model_layer(e->model, i, 0, 0, &layer, NULL) && !strcmp(layer.name, text)) return i + 1;
  if (parse_whole(text, 0, layers - 1, &index)) return index + 1;
  fatal("--layer %s: the model has no such layer; agf info %s lists them", text, e->asked->arguments.items[0]);
  return 0;
}

static void choose_classes(explainer *e) {
  const options *o = e->asked;
  int i;

  e->class_count = o->classes.count;
  e->classes = allocate((size_t)e->class_count, sizeof *e->classes);
  for (i = 0; i < e->class_count; i++) e->classes[i] = find_class(e->model, o->classes.items[i]);
  e->against = o->against ? find_class(e->model, o->against) + 1 : 0;
  for (i = 0; e->against && i < e->class_count; i++)
    if (e->classes[i] == e->against - 1) fatal("-c %s --against %s: the same class", o->classes.items[i], o->against);
  e->ranks = o->top ? o->top : !e->class_count;
  if (e->ranks > agf_model_classes(e->model)) fatal("--top %d: the model has %d classes", e->ranks, agf_model_classes(e->model));
  if (o->bank && o->top && e->class_count) fatal("--bank takes either -c or --top");
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
    if (!chosen_typeface) fatal("%s", why.text);
  }
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
  for (i = 0; i < e->method_count; i++) config.methods |= AGF_METHOD_BIT(e->methods[i]);
  config.progress = e->queue ? progress_ignored : progress_update;
  return config;
}

/* A session of this size. */
static bool need_session(explainer *e, int height, int width, problem *why) {
  agf_session_config config = session_config(e, height, width);
  agf_error error;

  if (e->session && e->height == height && e->width == width) return true;
  agf_session_destroy(e->session);
  e->session = NULL;
  e->height = height;
  e->width = width;
  if (agf_session_create(e->model, &config, &e->session, &error)) return failed(why, "%s", error.message);
  return true;
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

/* What is asked for with which methods, before anything is opened. */
static void explainer_begin(explainer *e, const options *asked) {
  memset(e, 0, sizeof *e);
  e->asked = asked;
  e->method_count = find_methods(&asked->methods, e->methods);
  e->ablations = asked->ablations ? find_ablations(asked->ablations) : 0;
}

/* Open the model and find what the options name in it. */
static void choose_all(explainer *e) {
  const options *asked = e->asked;
  problem why;

  e->model = open_model(asked->arguments.items[0]);
  e->model_name = agf_model_name(e->model);
  if (!*e->model_name) e->model_name = base_name(asked->arguments.items[0]);
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
  if ((asked->width || asked->isa) &&
      !need_session(e, asked->height ? asked->height : e->input.height, asked->width ? asked->width : e->input.width, &why))
    fatal("%s", why.text);
}

/* A model without preprocessing takes tensors alone; where none can be among what is to be explained, one message is enough. */
static void need_preprocessing(const explainer *e) {
  int i;

  for (i = 0; i < e->count; i++)
    if (ends_with(e->subjects[i].path, ".npy") || !strcmp(e->subjects[i].path, "-")) return;
  if (!e->input.is_picture)
    fatal(
        "%s: the model file does not say how pictures are prepared for it: convert it with --mean and --std, or give tensors (.npy)",
        e->asked->arguments.items[0]);
}

#endif
