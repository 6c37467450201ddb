/* agf watch: frames as they come, from a folder in which pictures appear, a pipe of JPEGs (MJPEG), or a pipe of raw frames. Only the newest
 * frame waits to be explained; those that it replaces are counted. */
#ifndef CLI_WATCH_H
#define CLI_WATCH_H

#include <pthread.h>

#include "cli_picture.h"
#include "cli_report.h"

/* ---- Raw frames ----------------------------------------------------------------------------------------------------------- */

typedef struct raw_frames {
  int width, height; /* 0: the source is no pipe of raw frames */
  agf_pixel_format format;
} raw_frames;

/* "640x480:yuv420". */
static bool parse_frames(const char *text, raw_frames *raw) {
  char name[16];
  int format, end = 0;

  memset(raw, 0, sizeof *raw);
  if (sscanf(text, "%5dx%5d:%15[a-z0-9]%n", &raw->width, &raw->height, name, &end) != 3 || text[end]) return false;
  format = agf_pixel_format_find(name);
  if (format >= 0) raw->format = (agf_pixel_format)format;
  return format >= 0 && raw->width > 0 && raw->height > 0 && raw->width <= MAX_SIDE && raw->height <= MAX_SIDE &&
         (int64_t)raw->width * raw->height <= MAX_PIXELS;
}

static void decode_raw(const uint8_t *data, const raw_frames *raw, picture *p) {
  agf_picture frame;
  agf_error error;

  memset(&frame, 0, sizeof frame);
  frame.format = raw->format;
  frame.width = raw->width;
  frame.height = raw->height;
  frame.planes[0] = data;
  p->channels = 3;
  p->width = raw->width;
  p->height = raw->height;
  p->rgb = allocate((size_t)raw->width * (size_t)raw->height, 3);
  if (agf_picture_to_rgb(&frame, p->rgb, 3 * (size_t)raw->width, &error)) fatal("%s", error.message);
}

/* ---- Sources -------------------------------------------------------------------------------------------------------------- */

/* Where frames come from. For pipes a thread of its own reads, so that the writer is never held up. */
typedef struct source {
  const char *path;
  bool is_folder;
  raw_frames raw;
  FILE *file;
  pthread_t reader;
  pthread_mutex_t lock;
  uint8_t *newest; /* NULL: none waits */
  size_t newest_bytes;
  bool ended;
  char error[256];
  long long came, dropped;
  text_map known; /* of a folder: files that were seen, by name and time, to their size + 1; 0: not whole yet, negative: done */
} source;

enum { FRAME_CAP = 1 << 26 };

/* The length of the JPEG at the beginning of the data; 0: it goes on; a damaged one ends at the next beginning. */
static size_t jpeg_length(const uint8_t *data, size_t size) {
  size_t at = 2;

  while (at + 4 <= size) {
    if (data[at] != 0xFF) return at;
    if (data[at + 1] == 0xD9) return at + 2;
    if (data[at + 1] == 0xFF || data[at + 1] == 1 || (data[at + 1] >= 0xD0 && data[at + 1] <= 0xD7)) {
      at += data[at + 1] == 0xFF ? 1 : 2;
      continue;
    }
    if (data[at + 1] == 0xD8) return at;
    if (data[at + 1] != 0xDA) {
      at += 2 + big16(data + at + 2);
      continue;
    }
    for (at += 2 + big16(data + at + 2); at + 1 < size; at++)
      if (data[at] == 0xFF && data[at + 1] != 0xFF && data[at + 1] != 0 && (data[at + 1] < 0xD0 || data[at + 1] > 0xD7)) break;
  }
  return at + 2 == size && data[at] == 0xFF && data[at + 1] == 0xD9 ? size : 0;
}

/* Takes the place of a frame that still waits. */
static void offer_frame(source *s, const uint8_t *data, size_t size) {
  uint8_t *copy = malloc(size);

  pthread_mutex_lock(&s->lock);
  s->came++;
  if (s->newest || !copy) s->dropped++;
  if (copy) {
    free(s->newest);
    memcpy(copy, data, size);
    s->newest = copy;
    s->newest_bytes = size;
  }
  pthread_mutex_unlock(&s->lock);
}

/* The reader's thread. It ends the process in no case: what goes wrong is said by the thread that explains. */
static void *read_frames(void *argument) {
  source *s = argument;
  size_t whole = s->raw.width ? agf_picture_bytes(s->raw.format, s->raw.width, s->raw.height) : 0, room = whole ? whole : 1 << 16,
         used = 0;
  uint8_t *buffer = malloc(room);
  const char *error = buffer ? "" : "out of memory";

  while (!*error) {
    ssize_t got = read(fileno(s->file), buffer + used, room - used);

    if (got < 0 && errno == EINTR) continue;
    if (got < 0) error = strerror(errno);
    if (got <= 0) break;
    used += (size_t)got;
    if (whole) {
      if (used == whole) {
        offer_frame(s, buffer, used);
        used = 0;
      }
      continue;
    }
    for (;;) { /* JPEGs, and anything between them */
      size_t start = 0, length;

      while (start + 1 < used && (buffer[start] != 0xFF || buffer[start + 1] != 0xD8)) start++;
      memmove(buffer, buffer + start, used - start);
      used -= start;
      length = used > 3 ? jpeg_length(buffer, used) : 0;
      if (!length || length > used) break;
      offer_frame(s, buffer, length);
      memmove(buffer, buffer + length, used - length);
      used -= length;
    }
    if (used == room) {
      uint8_t *larger = room >= FRAME_CAP ? NULL : realloc(buffer, 2 * room);

      if (!larger) {
        error = "a JPEG without an end";
        break;
      }
      buffer = larger;
      room *= 2;
    }
  }
  free(buffer);
  pthread_mutex_lock(&s->lock);
  if (!*error && used > 3) error = "it ended within a frame";
  snprintf(s->error, sizeof s->error, "%s", error);
  s->ended = true;
  pthread_mutex_unlock(&s->lock);
  return NULL;
}

static void pause_for(double seconds) {
  struct timespec time;

  time.tv_sec = (time_t)seconds;
  time.tv_nsec = (long)((seconds - (double)time.tv_sec) * 1e9);
  nanosleep(&time, NULL);
}

/* The newest picture of a folder that appeared or changed since the last look and has kept its size for as long; NULL: none. */
static char *newest_in_folder(source *s, bool first) {
  DIR *entries = opendir(s->path);
  struct dirent *entry;
  char *newest = NULL;
  struct timespec latest = {0, 0};

  while (entries && (entry = readdir(entries))) {
    struct stat status;
    char *path, *key;
    int *state;

    if (entry->d_name[0] == '.' || why_no_picture(entry->d_name)) continue;
    path = text_of("%s/%s", s->path, entry->d_name);
    if (stat(path, &status) || !S_ISREG(status.st_mode)) {
      free(path);
      continue;
    }
    key = text_of("%s:%lld.%09ld:%lld", entry->d_name, (long long)status.st_mtim.tv_sec, status.st_mtim.tv_nsec,
                  (long long)status.st_size);
    state = text_map_at(&s->known, key);
    free(key);
    if (first) {
      *state = 2;
    } else if (!*state) {
      *state = 1; /* seen once: it may still grow, and would then have another key */
    } else if (*state == 1) {
      *state = 2;
      s->came++;
      if (newest) s->dropped++;
      if (!newest || status.st_mtim.tv_sec > latest.tv_sec ||
          (status.st_mtim.tv_sec == latest.tv_sec && status.st_mtim.tv_nsec >= latest.tv_nsec)) {
        free(newest);
        newest = text_of("%s", path);
        latest = status.st_mtim;
      }
    }
    free(path);
  }
  if (!entries) fatal("%s: %s", s->path, strerror(errno));
  closedir(entries);
  return newest;
}

static void source_open(source *s, const char *path, const raw_frames *raw) {
  problem why;

  memset(s, 0, sizeof *s);
  s->path = path;
  s->raw = *raw;
  s->is_folder = is_folder(path);
  pthread_mutex_init(&s->lock, NULL);
  if (s->is_folder) {
    if (raw->width) fatal("--frames is for a pipe, %s is a folder", path);
    free(newest_in_folder(s, true));
    return;
  }
  s->file = strcmp(path, "-") ? open_to_read(path, &why) : stdin;
  if (!s->file) fatal("%s", why.text);
  if (pthread_create(&s->reader, NULL, read_frames, s)) fatal("no thread can be made to read %s", path);
}

/* Wait for the next frame. True: a picture, or, where *why has a text, one that cannot be read. False: there are no more. *name is what to
 * call it; the caller frees it. */
static bool next_frame(source *s, picture *p, char **name, problem *why) {
  why->text[0] = 0;
  memset(p, 0, sizeof *p);
  for (;;) {
    uint8_t *data;
    size_t size;
    bool ended;
    long long number;

    if (interrupted) return false;
    if (s->is_folder) {
      char *path = newest_in_folder(s, false);

      if (path) {
        *name = path;
        load_picture(path, p, why);
        return true;
      }
      pause_for(0.1);
      continue;
    }
    pthread_mutex_lock(&s->lock);
    data = s->newest;
    size = s->newest_bytes;
    s->newest = NULL;
    ended = s->ended;
    number = s->came;
    pthread_mutex_unlock(&s->lock);
    if (data) {
      problem detail;

      *name = text_of("frame %lld", number);
      if (s->raw.width)
        decode_raw(data, &s->raw, p);
      else if (!decode_picture(data, size, p, &detail)) {
        picture_free(p);
        failed(why, "%s: %.600s", *name, detail.text);
      }
      free(data);
      return true;
    }
    if (ended) return false;
    pause_for(0.002);
  }
}

static void source_close(source *s) {
  if (s->file && s->ended) pthread_join(s->reader, NULL);
  text_map_free(&s->known);
}

/* ---- agf watch ------------------------------------------------------------------------------------------------------------ */

/* Where explained frames go. */
typedef struct sink {
  const char *path; /* NULL: nowhere, only the text is printed */
  bool is_folder, is_newest;
  FILE *stream; /* of MJPEG or raw frames */
  bool raw;
  int width, height; /* of raw frames, which all have one size */
  long long written;
  text_list sources; /* the names of a folder's pictures that have an output in a folder */
  text_map owners;   /* an output's name to which of them it belongs to, from 1 on */
} sink;

/* What is written into the watched folder would be the next picture in it, and replace the one that it is made of. */
static void refuse_watched(const char *watched, const char *out) {
  struct stat a, b;
  char *folder;

  if (is_folder(out))
    folder = text_of("%s", out);
  else if (strcmp(out, "-") && out[strlen(out) - 1] != '/')
    folder = folder_of(out);
  else
    return;
  if (!stat(watched, &a) && !stat(folder, &b) && !strcmp(identity_of(&a).text, identity_of(&b).text))
    fatal("-o %s: lies in %s, the folder that is watched; name another one, or one below it", out, watched);
  free(folder);
}

static void sink_open(sink *k, const options *o) {
  struct stat status;
  bool exists;

  memset(k, 0, sizeof *k);
  k->path = o->out;
  k->raw = o->raw;
  if (!o->out) return;
  exists = !stat(o->out, &status);
  k->is_folder = (exists && S_ISDIR(status.st_mode)) || (!exists && o->out[strlen(o->out) - 1] == '/');
  k->is_newest = !k->is_folder && ends_with(o->out, ".png");
  if ((k->is_folder || k->is_newest) && o->raw) fatal("--raw is for a file or a pipe, -o %s is neither", o->out);
  if (k->is_folder && !exists && mkdir(o->out, 0777)) output_failed(o->out);
  if (!k->is_folder && strcmp(o->out, "-") && !folder_can_be(o->out)) fatal("-o %s: no such folder", o->out);
  if (k->is_folder || k->is_newest) return;
  if (!strcmp(o->out, "-") && isatty(STDOUT_FILENO)) fatal("-o -: standard output is a terminal; send it to a file or a pipe");
  if (exists && text_map_has(&protected_files, identity_of(&status).text))
    fatal("%s: is input of this run and would be overwritten", o->out);
  if (strcmp(o->out, "-")) make_folders(o->out);
  k->stream = strcmp(o->out, "-") ? fopen(o->out, "wb") : fdopen(dup(STDOUT_FILENO), "wb");
  if (!k->stream) output_failed(o->out);
}

static void stream_bytes(void *context, void *data, int size) {
  sink *k = context;

  if (fwrite(data, 1, (size_t)size, k->stream) != (size_t)size) {
    stop_if_interrupted(); /* nobody reads it any more */
    output_failed(k->path);
  }
}

/* Whether the output `path` is that of the picture `base`, which takes it where nothing has it yet. */
static bool sink_gives(sink *k, const char *path, const char *base) {
  int *owner = text_map_at(&k->owners, path);

  if (!*owner) {
    text_list_add(&k->sources, text_of("%s", base));
    *owner = k->sources.count;
  }
  return !strcmp(k->sources.items[*owner - 1], base);
}

/* The output of a picture called `base` in a folder: cat.png of cat.jpg, but cat.webp.png of a cat.webp that comes later. */
static char *sink_name(sink *k, const char *base) {
  int stem = (int)(strrchr(base, '.') - base), tries;
  char *path = text_of("%s/%.*s.png", k->path, stem, base);

  for (tries = 1; !sink_gives(k, path, base); tries++) {
    free(path);
    path = tries == 1 ? text_of("%s/%s.png", k->path, base) : text_of("%s/%s-%d.png", k->path, base, tries);
  }
  return path;
}

static bool sink_frame(sink *k, const char *name, const canvas *c, int threads, problem *why) {
  bool done = true;

  if (k->is_folder || k->is_newest) {
    const char *base = base_name(name);
    char *path = k->is_newest        ? text_of("%s", k->path)
                 : strchr(base, '.') ? sink_name(k, base)
                                     : text_of("%s/frame-%08lld.png", k->path, k->written + 1);

    outputs_forget(); /* the same name again is the newer picture */
    done = write_png(path, c, threads, why);
    if (done) outputs_complete();
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
  if (!look.width && d->photo.width > 960) look.width = 960;
  if (!compose_bare(c, &d->figure, d->panels, d->count, &look, why)) return false;
  width = c->width / d->count;
  for (i = 0; i < d->count; i++) {
    double cap = fmax(9, floor(width / 45.0));
    char *text = text_of("%s, %s", d->panels[i].label, d->panels[i].share);
    int wide = (int)fmin(width, text_width(text, cap) + 2 * cap), high = (int)(2.4 * cap), x, y;

    for (y = c->height > high ? c->height - high : 0; y < c->height; y++)
      for (x = i * width; x < i * width + wide; x++) blend(c, x, y, 0.75, WHITE);
    draw_text_within(c, i * width + 0.8 * cap, c->height - 0.8 * cap, cap, width - 1.6 * cap, text, INK);
    free(text);
  }
  return true;
}

static int run_watch(const options *asked) {
  static source from; /* a thread may read on after this function's end */
  raw_frames raw;
  sink to;
  explainer e;
  picture frame;
  problem why;
  char *name;
  long long explained = 0, failures = 0;

  memset(&raw, 0, sizeof raw);
  if (asked->arguments.count != 2) fatal("watch needs a model file and a source: agf watch MODEL SOURCE -o OUT");
  if (asked->json && asked->out && !strcmp(asked->out, "-")) fatal("-o -: --json writes to standard output, too");
  if (asked->frames && !parse_frames(asked->frames, &raw))
    fatal("--frames %s: not a size and one of rgb24, bgr24, gray, yuv420, nv12, as in 640x480:yuv420", asked->frames);
  explainer_begin(&e, asked);
  e.many = true;
  protect_input(asked->arguments.items[0]);
  protect_input(asked->arguments.items[1]);
  choose_all(&e);
  need_preprocessing(&e);
  if (asked->out && is_folder(asked->arguments.items[1])) refuse_watched(asked->arguments.items[1], asked->out);
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
    if (done && !p.source.rgb) done = failed(&why, "%s: a tensor is no frame", name);
    done = done && prepare_source(&e, name, &p, &why) && run_prepared(&e, name, &p, AGF_RUN_EXPLAIN, &why) &&
           explain_run(&e, &s, &r, &why);
    r.seconds = seconds_now() - before;
    report_refused(&r);
    if (done) {
      r.files = allocate((size_t)r.count, sizeof *r.files);
      drawing_make(&d, &e, &s, &p, &r);
      if (to.path) {
        done = compose_frame(&e, &d, &c, &why) && sink_frame(&to, name, &c, agf_session_threads(e.session), &why);
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
  if (to.stream && fclose(to.stream)) output_failed(to.path);
  text_list_free(&to.sources);
  text_map_free(&to.owners);
  if (!asked->quiet) complain("%lld frames explained, %lld dropped, %lld that could not be", explained, from.dropped, failures);
  stop_if_interrupted();
  source_close(&from);
  explainer_free(&e);
  return e.some_failed ? EXIT_SOME_FAILED : EXIT_SUCCESS;
}

#endif
