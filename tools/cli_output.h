/* Files that are written whole or not at all. Everything that a run will write is reserved by its name before the first picture, so
 * that no result replaces another one or the run's own input, whatever the names look like. */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include "cli_base.h"

/* Files are written under a temporary name in their own folder and renamed when all files of a picture are complete. A device or
 * pipe is written directly: renaming would replace it. */
typedef struct output {
  char *path;      /* as the user named it */
  char *target;    /* where the rename goes: absolute, symbolic links followed */
  char *temporary; /* NULL: written directly */
  FILE *file;      /* NULL once all of it is written */
  struct output *next;
} output;

enum { RESERVED = 1, WRITTEN = 2 };

static output *outputs;          /* those not complete, newest first */
static text_map output_names;    /* absolute name to RESERVED or WRITTEN */
static text_map protected_files; /* identities of the run's own input, which no output may replace */
static text_map folders_to_make; /* folders that the first output in them makes: 1; made already: 2 */

static void protect_input(const char *path) {
  struct stat status;

  if (!stat(path, &status) && S_ISREG(status.st_mode)) *text_map_at(&protected_files, identity_of(&status).text) = 1;
}

/* Let the first output below `folder`, which does not exist yet, make it. */
static void make_folder_later(const char *folder) {
  int *state = text_map_at(&folders_to_make, folder);

  if (!*state) *state = 1;
}

/* Whether the folder that `path` is to lie in is there, or may be: the first output in it makes it, below one that is there. */
static bool folder_can_be(const char *path) {
  char *folder = folder_of(path), *above = folder_of(folder);
  bool there = is_folder(folder), later = !there && !strchr(folder, '%') && is_folder(above);

  if (later) make_folder_later(folder);
  free(folder);
  free(above);
  return there || later;
}

static void output_free(output *o) {
  free(o->path);
  free(o->target);
  free(o->temporary);
  free(o);
}

/* Remove whatever is not complete. */
static void outputs_discard(void) {
  pthread_mutex_lock(&whole_program);
  while (outputs) {
    output *o = outputs;

    outputs = o->next;
    if (o->file) fclose(o->file);
    if (o->temporary) unlink(o->temporary);
    output_free(o);
  }
  pthread_mutex_unlock(&whole_program);
}

/* The same in a program that ends while another thread may still be at work on them. */
static void outputs_unlink(void) {
  const output *o;

  for (o = outputs; o; o = o->next)
    if (o->temporary) unlink(o->temporary);
}

static void output_failed(const char *path) { fatal("%s: cannot be written: %s", path, strerror(errno)); }

/* The absolute name of the file that writing to `path` makes or replaces, in memory of its own: symbolic links are followed,
 * folders that do not exist yet taken as they are named. NULL: errno says why not. */
static char *canonical_name(const char *path) {
  static char *folder, *folder_name; /* the last one: most outputs of a run lie in one folder */
  char *whole, *above;
  const char *base = base_name(path);
  struct stat status;

  if (!*base || !strcmp(base, ".") || !strcmp(base, "..")) {
    size_t length = strlen(path);

    whole = realpath(path, NULL);
    if (whole || errno != ENOENT || *base || length < 2) return whole;
    above = text_of("%.*s", (int)length - 1, path);
    whole = canonical_name(above);
    free(above);
    return whole;
  }
  if (!lstat(path, &status) && S_ISLNK(status.st_mode))
    return realpath(path, NULL); /* one that leads nowhere is an error: which file would it be? */
  above = folder_of(path);
  if (!folder || strcmp(folder, above)) {
    char *name = realpath(above, NULL);

    if (!name && errno == ENOENT && strcmp(above, "/") && strcmp(above, ".")) name = canonical_name(above);
    if (!name) {
      free(above);
      return NULL;
    }
    free(folder);
    free(folder_name);
    folder = above;
    folder_name = name;
  } else {
    free(above);
  }
  return text_of("%s%s%s", folder_name, folder_name[1] ? "/" : "", base);
}

/* Find out what `path` would write to, its absolute name in *target (the caller frees it), and refuse what must not be. */
static bool output_target(const char *path, char **target, bool *direct, problem *why) {
  struct stat status;
  bool exists = !stat(path, &status);

  *target = NULL;
  *direct = exists && !S_ISREG(status.st_mode);
  if (!strcmp(path, "-")) { /* standard output, for one result */
    *direct = false;
    *target = text_of("-");
    return true;
  }
  if (exists && S_ISDIR(status.st_mode)) return failed(why, "%s: cannot be written: %s", path, strerror(EISDIR));
  if (exists && !*direct && text_map_has(&protected_files, identity_of(&status).text))
    return failed(why, "%s: is input of this run and would be overwritten", path);
  *target = canonical_name(path);
  if (!*target) return failed(why, "%s: cannot be written: %s", path, strerror(errno));
  return true;
}

/* Keep the name of an output for one result; false where it cannot be written or another result has it. A device or pipe takes
 * several. */
static bool output_reserve(const char *path, problem *why) {
  char *target;
  bool direct, fine = output_target(path, &target, &direct, why);

  if (fine && !direct) {
    int *state = text_map_at(&output_names, target);

    if (*state) fine = failed(why, "%s: two results would be written to it", path);
    *state = RESERVED;
  }
  free(target);
  return fine;
}

/* Make those folders of `path` that make_folder_later() was told of, each once. */
static void make_folders(const char *path) {
  char *folder, *at;

  if (!folders_to_make.used) return;
  folder = text_of("%s", path);
  for (at = strchr(folder + 1, '/'); at; at = strchr(at + 1, '/')) {
    *at = 0;
    if (text_map_has(&folders_to_make, folder)) {
      int *state = text_map_at(&folders_to_make, folder);

      if (*state == 1 && mkdir(folder, 0777) && errno != EEXIST) output_failed(folder);
      *state = 2;
    }
    *at = '/';
  }
  free(folder);
}

/* Begin to write `path`, or NULL: its name is taken or forbidden. What else cannot work is fatal: the next picture's result would
 * meet the same obstacle. */
static output *output_open(const char *path, problem *why) {
  static unsigned serial;
  struct stat status;
  bool exists, direct;
  char *target, *folder;
  int descriptor, *state;
  output *o;

  make_folders(path);
  if (!output_target(path, &target, &direct, why)) return NULL;
  exists = !stat(path, &status);
  state = direct ? NULL : text_map_at(&output_names, target);
  if (state && *state == WRITTEN) {
    free(target);
    failed(why, "%s: two results would be written to it", path);
    return NULL;
  }
  if (state) *state = WRITTEN;
  o = allocate(1, sizeof *o);
  o->path = text_of("%s", path);
  o->target = target;
  pthread_mutex_lock(&whole_program); /* from the file to its place in the list */
  if (direct || !strcmp(target, "-")) {
    o->file = direct ? fopen(path, "wb") : fdopen(dup(STDOUT_FILENO), "wb");
    if (!o->file) output_failed(path);
  } else {
    folder = folder_of(target);
    do { /* a name that a killed run left behind is passed over */
      free(o->temporary);
      o->temporary = text_of("%s/.agf-%ld-%u.tmp", folder, (long)getpid(), serial++);
      descriptor = open(o->temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
    } while (descriptor < 0 && errno == EEXIST);
    free(folder);
    if (descriptor < 0) output_failed(path);
    if (exists) (void)!fchmod(descriptor, status.st_mode & 0777); /* best effort, as cp does it */
    o->file = fdopen(descriptor, "wb");
    if (!o->file) {
      unlink(o->temporary);
      output_failed(path);
    }
  }
  o->next = outputs;
  outputs = o;
  pthread_mutex_unlock(&whole_program);
  return o;
}

static void output_write(output *o, const void *data, size_t size) {
  if (size && fwrite(data, 1, size, o->file) != size) output_failed(o->path);
}

/* All of it is written. A run may have more outputs for one picture than a process may have files open. */
static void output_close(output *o) {
  FILE *file = o->file;

  if (fflush(file)) output_failed(o->path);
  o->file = NULL;
  if (fclose(file)) output_failed(o->path);
}

/* Every closed output under its own name. */
static void outputs_complete(void) {
  pthread_mutex_lock(&whole_program);
  stop_if_interrupted();
  while (outputs) {
    output *o = outputs;

    if (o->temporary && rename(o->temporary, o->target)) output_failed(o->path);
    outputs = o->next;
    output_free(o);
  }
  pthread_mutex_unlock(&whole_program);
}

/* Let names be written again: what is newer replaces what this run wrote before. */
static void outputs_forget(void) { text_map_free(&output_names); }

static void outputs_free(void) {
  text_map_free(&output_names);
  text_map_free(&protected_files);
  text_map_free(&folders_to_make);
}

#endif
