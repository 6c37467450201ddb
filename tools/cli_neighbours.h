/* The label-free procedure: latent vectors, the bank of them that `agf bank` makes, and what sets a picture apart from its neighbours
 * there. */
#ifndef CLI_NEIGHBOURS_H
#define CLI_NEIGHBOURS_H

#include "cli_bank.h"
#include "cli_report.h"

/* The latent vector of a picture, in memory of its own; NULL: *why. */
static float *latent_of(explainer *e, const char *path, int *count, problem *why) {
  float *latent;
  agf_error error;
  prepared p;

  progress_step(RUN_WORK, path);
  if (!run_picture(e, path, &p, 0, why)) return NULL;
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

  if (!bank_read(b, path, e->model, why)) return false;
  if (!need_session(e, b->height, b->width, &detail)) return failed(why, "%s: %.600s", path, detail.text);
  size = agf_latent_size(e->session);
  return size == b->size || failed(why, "%s: damaged bank: vectors of %d values, the network makes %d of %d x %d pixels", path,
                                   b->size, size, b->width, b->height);
}

/* The bank that `agf bank` makes, for save_bank(), which a signal's way out calls. */
static struct {
  bank *bank;
  const char *path;
} unsaved;

static void save_bank(void) {
  problem why;

  if (!unsaved.bank->count) return;
  bank_sort(unsaved.bank);
  if (!bank_write(unsaved.bank, unsaved.path, &why)) fatal("%s", why.text);
}

/* Whether a latent vector (NULL: *why says already why there is none) is of the bank's size, which the first one decides; if not, it is
 * freed. */
static bool fits_bank(const explainer *e, bank *b, const char *path, float **latent, int count, problem *why) {
  if (!*latent) return false;
  if (!b->size) {
    b->size = count;
    b->height = e->height;
    b->width = e->width;
  }
  if (count == b->size && e->height == b->height && e->width == b->width) return true;
  free(*latent);
  *latent = NULL;
  return failed(why, "%s: a latent vector of %d values at %d x %d pixels, those of %s are of %d at %d x %d", path, count, e->width,
                e->height, e->asked->bank ? e->asked->bank : e->asked->out, b->size, b->width, b->height);
}

/* The pictures that an older bank has and that did not change since, from it; what is done is set in done[i]. */
static void take_over(bank *b, const text_list *paths, const bank *kept, const uint64_t *marks, bool *done) {
  text_map known = {0};
  int i;

  for (i = 0; i < kept->count; i++) *text_map_at(&known, kept->names.items[i]) = i + 1;
  for (i = 0; i < paths->count && kept->count; i++) {
    const char *name = base_name(paths->items[i]);
    int at = text_map_has(&known, name) ? *text_map_at(&known, name) - 1 : -1;

    if (done[i] || at < 0 || kept->marks[at] != marks[i]) continue;
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

    if (done && done[i]) continue;
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
    if (!fits_bank(e, b, s->path, &s->latent, count, &why)) give_up(e, s->path, &why);
  }
  if (paths->count && b->size) fill_bank(e, b, paths, NULL, NULL);
  if (!b->count) return;
  wanted = wanted < b->count ? wanted : b->count;
  nearest = allocate((size_t)wanted, sizeof *nearest);
  distance = allocate((size_t)wanted, sizeof *distance);
  for (i = 0; i < e->count; i++) {
    subject *s = &e->subjects[i];

    if (!s->latent) continue;
    if (agf_neighbours(b->latents, b->count, s->latent, 1, b->size, wanted, AGF_NEIGHBOURS_OTHERS, nearest, distance, &error))
      fatal("%s", error.message);
    s->neighbour = allocate((size_t)wanted, sizeof *s->neighbour);
    s->distance = allocate((size_t)wanted, sizeof *s->distance);
    for (k = 0; k < wanted && nearest[k] >= 0; k++) {
      s->neighbour[k] = b->names.items[nearest[k]];
      s->distance[k] = distance[k];
    }
    s->neighbours = k;
    if (s->neighbours) compare_with_neighbours(e, s, b, nearest);
  }
  free(nearest);
  free(distance);
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

  if (asked->arguments.count != 2) fatal("bank needs a model file and a folder of pictures: agf bank MODEL FOLDER -o FILE");
  if (!path) fatal("bank needs a file to write: -o FILE");
  memset(&e, 0, sizeof e);
  memset(&made, 0, sizeof made);
  memset(&kept, 0, sizeof kept);
  e.asked = asked;
  e.model = open_model(asked->arguments.items[0]);
  agf_model_input(e.model, &e.input);
  folder = asked->arguments.items[1];
  list_folder(folder, why_no_picture, &paths, asked->quiet);
  if (!paths.count) fatal("%s: no pictures that can be read in this folder", folder);
  protect_input(asked->arguments.items[0]);
  there = !stat(path, &status) && status.st_size > 0;
  if (there && !S_ISREG(status.st_mode)) fatal("-o %s: not a file", path);
  if (there && !open_bank(&e, &kept, path, &why)) fatal("%s; it is not written over: remove it, or name another file", why.text);
  if (there && asked->height && (kept.height != asked->height || kept.width != asked->width))
    fatal("%s: a bank at %d x %d pixels cannot be continued at %d x %d", path, kept.width, kept.height, asked->width,
          asked->height);
  if (strcmp(path, "-") && !folder_can_be(path)) fatal("-o %s: no such folder", path);
  if (!output_reserve(path, &why)) fatal("%s", why.text);
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
  if (!made.count) fatal("%s: none of its %d pictures could be done", folder, paths.count);
  save_bank();
  free(marks);
  free(done);
  if (!asked->quiet) printf("%s: %d pictures, latent vectors of %d values\n", path, made.count, made.size);
  text_list_free(&paths);
  bank_free(&made);
  bank_free(&kept);
  explainer_free(&e);
  return e.some_failed ? EXIT_SOME_FAILED : EXIT_SUCCESS;
}

#endif
