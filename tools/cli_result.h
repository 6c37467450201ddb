/* One picture: prepared, run, explained, and what came of it. */
#ifndef CLI_RESULT_H
#define CLI_RESULT_H

#include <math.h>

#include "cli_explainer.h"

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
  if (!p->chw) prepared_free(p);
  return p->chw != NULL;
}

static bool prepare(const explainer *e, const char *path, prepared *p, problem *why) {
  memset(p, 0, sizeof *p);
  return load_picture(path, &p->source, why) && prepare_source(e, path, p, why);
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

/* A picture that a thread prepares. */
typedef struct preparing {
  const explainer *e;
  const char *path;
  prepared *p;
  problem *why;
  bool done;
} preparing;

static void *prepare_beside(void *shared) {
  preparing *j = shared;

  j->done = prepare(j->e, j->path, j->p, j->why);
  return NULL;
}

/* The same as prepare(), and a session as the picture will need it unless it is a tensor of another size; both at a time where the run may
 * have several threads. */
static bool prepare_both(explainer *e, const char *path, prepared *p, problem *why) {
  int height = e->asked->height ? e->asked->height : e->input.height, width = e->asked->width ? e->asked->width : e->input.width;
  preparing j = {e, path, p, why, false};
  pthread_t thread;
  problem later; /* a session that cannot be is said when the picture is there */

  if (e->session || e->queue || e->asked->threads == 1 || height <= 0 || pthread_create(&thread, NULL, prepare_beside, &j))
    return prepare(e, path, p, why);
  (void)need_session(e, height, width, &later);
  pthread_join(thread, NULL);
  return j.done;
}

/* Load a picture and run the network on it; on false *p is empty. */
static bool run_picture(explainer *e, const char *path, prepared *p, unsigned flags, problem *why) {
  return prepare_both(e, path, p, why) && run_prepared(e, path, p, flags, why);
}

/* What became of one picture. */
typedef struct result {
  int classes;         /* of the model */
  double *probability; /* [classes] */
  int count;           /* of maps: for each method one of each class */
  int per_method;
  agf_method *method; /* [count] */
  int *explained;     /* [count]: their classes */
  float *maps;        /* [count][height][width] */
  double *inside;     /* [count]: share of a map's positive part inside its mask; NULL: no masks */
  double *area;       /* [count]: share of the mask in what the network sees */
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

  for (i = 0; r->files && i < r->count; i++) free(r->files[i]);
  free(r->files);
  free(r->probability);
  free(r->explained);
  free(r->method);
  free(r->maps);
  free(r->inside);
  free(r->area);
  free(r->npy);
  free(r->logits);
  for (i = 0; i < r->drawn.count; i++) free(r->drawn_files[i].bytes);
  free(r->drawn_files);
  text_list_free(&r->drawn);
  text_list_free(&r->notes);
  text_list_free(&r->refused);
}

/* The probabilities of all classes, as the network's head makes them; -1 each where it is not known. */
static double *probabilities(const agf_session *session, int classes) {
  double *p = allocate((size_t)classes, sizeof *p);
  int k;

  for (k = 0; k < classes; k++) p[k] = agf_probability(session, k);
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
  r->explained = allocate((size_t)r->per_method * (size_t)e->method_count, sizeof *r->explained);
  r->method = allocate((size_t)r->per_method * (size_t)e->method_count, sizeof *r->method);
  r->maps = allocate((size_t)r->per_method * (size_t)e->method_count, map_size * sizeof *r->maps);
  memcpy(r->explained, e->classes, (size_t)e->class_count * sizeof *r->explained);
  for (i = 0; i < e->ranks; i++) {
    int k = agf_ranked(e->session, i);

    r->explained[e->class_count + i] = k;
    if (k != e->against - 1 || s->difference) continue;
    if (e->ranks == 1)
      failed(why, "%s: --against %s is the picture's prediction: say with -c which class to explain rather than it", s->path,
             e->asked->against);
    else
      failed(why, "%s: --against %s is among the picture's %d highest classes: say with -c which to explain rather than it",
             s->path, e->asked->against, e->ranks);
    return false;
  }

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
    if (e->methods[i] == method) return true;
  return false;
}

/* What a reader of this picture's maps should know. */
static void take_notes(const explainer *e, const prepared *p, result *r) {
  enum { BLACK = 16 };
  const float *logits = agf_logits(e->session);
  int brightest = 0, i;
  size_t j;

  if (p->source.rgb) {
    for (j = 0; j < (size_t)p->source.width * (size_t)p->source.height * 3 && brightest < BLACK; j++)
      brightest = p->source.rgb[j] > brightest ? p->source.rgb[j] : brightest;
    if (brightest < BLACK)
      text_list_add(
          &r->notes,
          text_of("the picture is nearly black: its brightest value is %d of 255 (fewer bits than its file says?)", brightest));
  }
  if (r->classes == 2 && !e->against && (has_method(e, AGF_METHOD_AGF) || has_method(e, AGF_METHOD_AGF_A)))
    text_list_add(&r->notes, text_of("of two classes agf and agf_a hardly tell one from the other (their seed has no contrast): "
                                     "-m agf_lc does"));
  for (i = 0; i < r->count; i++)
    if ((r->method[i] == AGF_METHOD_LRP_A1B0 || r->method[i] == AGF_METHOD_LRP_A2B1) && logits[r->explained[i]] < 0) {
      char *name = class_name(e->model, r->explained[i]);

      text_list_add(&r->notes,
                    text_of("%s: the logit of %s is negative (%.3g), and the map sums to it: as a whole it speaks against "
                            "the class",
                            agf_method_name(r->method[i]), name, logits[r->explained[i]]));
      free(name);
    }
}

/* How much of each map lies inside its mask, a picture laid over the photograph (a tensor: over the map). */
static bool measure_masks(const explainer *e, const prepared *p, result *r, problem *why) {
  const text_list *masks = &e->asked->masks;
  int i, x, y;

  if (!masks->count) return true;
  if (masks->count != r->per_method) return failed(why, "--mask: %d of them for %d classes", masks->count, r->per_method);
  r->inside = allocate((size_t)r->count, sizeof *r->inside);
  r->area = allocate((size_t)r->count, sizeof *r->area);
  for (i = 0; i < r->count; i++) {
    const float *map = r->maps + (size_t)i * (size_t)r->height * (size_t)r->width;
    double positive = 0, inside = 0, pixels = 0;
    picture mask;

    if (!load_picture(masks->items[i % r->per_method], &mask, why)) return false;
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
  if (r->probability[k] >= 0) return percent_text(r->probability[k], text);
  snprintf(text, 24, "score %.3g", agf_logits(e->session)[k]);
  return text;
}

#endif
