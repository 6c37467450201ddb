/* What every part of the command line program stands on: messages, memory, interruption, text, reading. Nothing here knows about
 * networks or pictures. */
#ifndef CLI_BASE_H
#define CLI_BASE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#ifdef __GLIBC__
#include <malloc.h>
#include <sys/mman.h>
#endif
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
  EXIT_SOME_FAILED = 1, /* several pictures: at least one could not be done, the others were */
  EXIT_BAD_INPUT = 2,   /* nothing was done: bad arguments, unreadable input, unwritable output */
  EXIT_SIGNAL = 128     /* plus the signal's number, as a shell reports it */
};

/* Why one picture could not be done. Functions that may fail for one picture among many return false and fill this. */
typedef struct problem {
  char text[1024];
} problem;

static volatile sig_atomic_t interrupted; /* the signal that asks the program to stop, 0: none */

static void progress_clear(void);
static void outputs_discard(void);
static void outputs_unlink(void);

/* ---- Several threads ------------------------------------------------------------------------------------------------------ */

/* Held by the thread that writes, prints or ends the program; what several pictures share is changed by nobody else. Recursive: what
 * fails in the middle of that ends the program. */
static pthread_mutex_t whole_program;

static void whole_program_begin(void) {
  pthread_mutexattr_t recursive;

  pthread_mutexattr_init(&recursive);
  pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&whole_program, &recursive);
  pthread_mutexattr_destroy(&recursive);
}

/* What one picture leaves is the next one's memory. It would go back to the system instead, and every page of it cost a fault again: a
 * thousand of them a picture, 3 us each where the machine is a virtual one. What the first picture needs comes in huge pages, if any. */
static void keep_memory(void) {
#ifdef __GLIBC__
  const size_t page = (size_t)2 << 20;
  char *heap;

  mallopt(M_MMAP_THRESHOLD, 1 << 25); /* the most that there may be */
  mallopt(M_TRIM_THRESHOLD, 1 << 28);
  heap = malloc(4 * page);
#ifdef MADV_HUGEPAGE
  if (heap) (void)madvise(heap + (page - (uintptr_t)heap % page), 3 * page, MADV_HUGEPAGE);
#endif
  free(heap); /* untouched, and still the heap's */
#endif
}

/* Work that several threads share. */
typedef struct shared_work {
  pthread_mutex_t one;
  int next, count;
  void (*task)(void *shared, int i);
  void *shared;
} shared_work;

static void *share_work(void *work) {
  shared_work *w = work;

  for (;;) {
    int i;

    pthread_mutex_lock(&w->one);
    i = w->next < w->count ? w->next++ : w->count;
    pthread_mutex_unlock(&w->one);
    if (i == w->count) return NULL;
    w->task(w->shared, i);
  }
}

/* task(shared, i) for each i below `count`, by at most so many threads, of which this is one. */
static void in_parallel(int threads, int count, void (*task)(void *shared, int i), void *shared) {
  enum { MOST = 16 };
  pthread_t thread[MOST];
  shared_work w;
  int started, wanted = (threads < count ? threads : count) - 1;

  pthread_mutex_init(&w.one, NULL);
  w.next = 0;
  w.count = count;
  w.task = task;
  w.shared = shared;
  for (started = 0; started < wanted && started < MOST; started++)
    if (pthread_create(&thread[started], NULL, share_work, &w)) break; /* those that there are do the work */
  share_work(&w);
  while (started) pthread_join(thread[--started], NULL);
  pthread_mutex_destroy(&w.one);
}

/* Bytes of the UTF-8 sequence at `text`, 0: not one. */
static int utf8_length(const char *text) {
  const unsigned char *s = (const unsigned char *)text;
  int length = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0, i;

  for (i = 1; i < length; i++)
    if ((s[i] & 0xC0) != 0x80) return 0;
  if (length == 3 && ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F))) return 0;
  if (length == 4 && ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))) return 0;
  return length;
}

/* Whether the UTF-8 sequence of `length` bytes at `text` does something to a terminal instead of standing in it: the control
 * characters of ASCII and those from U+0080 to U+009F (some terminals obey both), and what turns the direction of writing or ends a
 * line. */
static bool is_control(const char *text, int length) {
  const unsigned char *s = (const unsigned char *)text;

  if (length == 1) return s[0] < ' ' || s[0] == 127;
  if (length == 2) return s[0] == 0xC2 && s[1] < 0xA0;
  if (length == 3 && s[0] == 0xE2 && s[1] == 0x80) /* U+200E, U+200F, U+2028 to U+202E */
    return s[2] == 0x8E || s[2] == 0x8F || (s[2] >= 0xA8 && s[2] <= 0xAE);
  return length == 3 && s[0] == 0xE2 && s[1] == 0x81 && s[2] >= 0xA6 && s[2] <= 0xA9; /* U+2066 to U+2069 */
}

/* Text from a file (a label, a name) for a terminal, in place: what a terminal obeys and bytes that are not UTF-8 become '?'. An
 * error is one line by the same rule. */
static void clean_text(char *text) {
  char *to = text;

  while (*text) {
    int length = utf8_length(text);

    if (!length || is_control(text, length)) {
      *to++ = '?';
    } else {
      memmove(to, text, (size_t)length);
      to += length;
    }
    text += length ? length : 1;
  }
  *to = 0;
}

static void report(const char *format, va_list arguments) {
  char text[2048];

  vsnprintf(text, sizeof text, format, arguments);
  clean_text(text);
  progress_clear();
  fflush(stdout);
  fprintf(stderr, "agf: %s\n", text);
}

/* Report a problem that does not end the run. */
static void complain(const char *format, ...) {
  va_list arguments;

  va_start(arguments, format);
  report(format, arguments);
  va_end(arguments);
}

static int stdout_error; /* why stdout could not be written, 0: it could */

/* Whether all that has been printed is written; the reason is kept, as what follows has reasons of its own. */
static bool flush_stdout(void) {
  errno = 0;
  if ((fflush(stdout) || ferror(stdout)) && !stdout_error) stdout_error = errno ? errno : EIO;
  return !stdout_error;
}

#if defined(__GNUC__)
#define NO_RETURN __attribute__((noreturn))
#else
#define NO_RETURN
#endif

/* Report a problem that ends the run, remove what was begun, and exit. */
NO_RETURN static void fatal(const char *format, ...) {
  va_list arguments;

  pthread_mutex_lock(&whole_program); /* for good: the others end with the program */
  va_start(arguments, format);
  report(format, arguments);
  va_end(arguments);
  outputs_discard();
  exit(EXIT_BAD_INPUT);
}

/* Fills *why and returns false, so that a failing function can end in `return failed(why, ...)`. */
static bool failed(problem *why, const char *format, ...) {
  va_list arguments;

  va_start(arguments, format);
  vsnprintf(why->text, sizeof why->text, format, arguments);
  va_end(arguments);
  return false;
}

/* count elements of `size` bytes, zeroed. Never NULL. */
static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size ? size : 1);

  if (!memory) fatal("out of memory (%zu elements of %zu bytes)", count, size);
  return memory;
}

static void *grow(void *memory, size_t count, size_t size) {
  void *larger = size && count > SIZE_MAX / size ? NULL : realloc(memory, count * size);

  if (!larger) fatal("out of memory (%zu elements of %zu bytes)", count, size);
  return larger;
}

/* printf into memory of its own; the caller frees it. */
static char *text_of(const char *format, ...) {
  va_list arguments;
  int length;
  char *text;

  va_start(arguments, format);
  length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  if (length < 0) fatal("a text could not be formatted: %s", strerror(errno));
  text = allocate((size_t)length + 1, 1);
  va_start(arguments, format);
  vsnprintf(text, (size_t)length + 1, format, arguments);
  va_end(arguments);
  return text;
}

/* A growing list of texts that it owns. */
typedef struct text_list {
  char **items;
  int count;
} text_list;

static void text_list_add(text_list *list, char *text) {
  list->items = grow(list->items, (size_t)list->count + 1, sizeof *list->items);
  list->items[list->count++] = text;
}

static void text_list_free(text_list *list) {
  int i;

  for (i = 0; i < list->count; i++) free(list->items[i]);
  free(list->items);
}

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* FNV-1a. */
static uint64_t hash_of(const void *bytes, size_t size) {
  uint64_t hash = 14695981039346656037u;
  size_t i;

  for (i = 0; i < size; i++) hash = (hash ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
  return hash;
}

/* A number beside each of a set of texts that it owns. */
typedef struct text_map {
  char **keys; /* [slots], a power of two; NULL: free */
  int *values;
  size_t slots, used;
} text_map;

static size_t text_map_slot(const text_map *map, const char *key) {
  uint64_t hash = hash_of(key, strlen(key));
  size_t slot;

  slot = (size_t)(hash ^ hash >> 32) & (map->slots - 1);
  while (map->keys[slot] && strcmp(map->keys[slot], key)) slot = (slot + 1) & (map->slots - 1);
  return slot;
}

/* The number beside `key`, which is added with 0 where it is new; valid until the next call. */
static int *text_map_at(text_map *map, const char *key) {
  size_t slot, i;

  if (2 * map->used >= map->slots) {
    text_map larger = {NULL, NULL, map->slots ? 2 * map->slots : 64, map->used};

    larger.keys = allocate(larger.slots, sizeof *larger.keys);
    larger.values = allocate(larger.slots, sizeof *larger.values);
    for (i = 0; i < map->slots; i++)
      if (map->keys[i]) {
        slot = text_map_slot(&larger, map->keys[i]);
        larger.keys[slot] = map->keys[i];
        larger.values[slot] = map->values[i];
      }
    free(map->keys);
    free(map->values);
    *map = larger;
  }
  slot = text_map_slot(map, key);
  if (!map->keys[slot]) {
    map->keys[slot] = text_of("%s", key);
    map->used++;
  }
  return &map->values[slot];
}

static bool text_map_has(const text_map *map, const char *key) { return map->used && map->keys[text_map_slot(map, key)]; }

static void text_map_free(text_map *map) {
  size_t i;

  for (i = 0; i < map->slots; i++) free(map->keys[i]);
  free(map->keys);
  free(map->values);
  memset(map, 0, sizeof *map);
}

/* ASCII only, whatever the locale. */
static int lower(int c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; }

static int compare_ignoring_case(const char *a, const char *b) {
  while (*a && lower((unsigned char)*a) == lower((unsigned char)*b)) {
    a++;
    b++;
  }
  return lower((unsigned char)*a) - lower((unsigned char)*b);
}

static bool contains_ignoring_case(const char *text, const char *part) {
  for (; *text; text++) {
    size_t i = 0;

    while (part[i] && lower((unsigned char)text[i]) == lower((unsigned char)part[i])) i++;
    if (!part[i]) return true;
  }
  return !*part;
}

static bool ends_with(const char *text, const char *ending) {
  size_t length = strlen(text), wanted = strlen(ending);

  return length >= wanted && !compare_ignoring_case(text + length - wanted, ending);
}

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');

  return slash ? slash + 1 : path;
}

/* The folder that holds `path`, in memory of its own. */
static char *folder_of(const char *path) {
  const char *slash = strrchr(path, '/');

  if (!slash) return text_of(".");
  return slash == path ? text_of("/") : text_of("%.*s", (int)(slash - path), path);
}

static double seconds_now(void) {
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- Interruption ------------------------------------------------------------------------------------------------------- */

static int stop_asked[2] = {-1, -1}; /* a pipe: a byte for each signal */

static void on_signal(int number) {
  int error = errno;

  interrupted = number;
  (void)!write(stop_asked[1], "", 1);
  errno = error;
}

static void (*before_stop)(void); /* what an interrupted run does first, once; NULL: nothing */

/* A thread that ends an interrupted run whose other threads do not come to do it: a layer of a huge picture takes seconds, a large
 * picture is decoded and drawn in one go. Who writes or prints is waited for, and so is what is to be done before the end. */
static void *stop_late(void *unused) {
  const struct timespec patience = {0, 400000000};
  char byte;

  while (read(stop_asked[0], &byte, 1) != 1)
    if (errno != EINTR) return unused;
  nanosleep(&patience, NULL);
  pthread_mutex_lock(&whole_program); /* for good, once another has it to end the program */
  if (interrupted && !before_stop) {
    progress_clear();
    outputs_unlink();
    if (!ftrylockfile(stdout)) fflush(stdout);
    _exit(EXIT_SIGNAL + interrupted);
  }
  pthread_mutex_unlock(&whole_program);
  return unused;
}

/* Where no thread or pipe is to be had the run ends by itself, only later. */
static void start_stop_late(void) {
  const size_t stack_bytes = 1 << 18;
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  int ends[2], i;

  if (pipe(ends)) return;
  for (i = 0; i < 2; i++) { /* away from a standard stream's number, which the caller may have closed */
    stop_asked[i] = fcntl(ends[i], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(ends[i]);
  }
  fcntl(stop_asked[1], F_SETFL, O_NONBLOCK);
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, stack_bytes);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the others', whose waiting they end */
  (void)!pthread_create(&thread, &attributes, stop_late, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
}

/* SIGINT, SIGTERM, SIGHUP and, when nobody reads stdout any more, SIGPIPE end the run in order, temporaries removed, within half a
 * second; a second one of the first three ends it at once. A signal that the caller chose to ignore (nohup) stays ignored. Writing
 * beyond a file size limit is an error, not a death. */
static void catch_signals(void) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  struct sigaction action, old;
  size_t i;

  for (i = 0; i < sizeof signals / sizeof *signals; i++) {
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = signals[i] == SIGPIPE ? 0 : (int)SA_RESETHAND; /* each write to a closed pipe raises one */
    sigemptyset(&action.sa_mask);
    if (!sigaction(signals[i], NULL, &old) && old.sa_handler != SIG_IGN) sigaction(signals[i], &action, NULL);
  }
  signal(SIGXFSZ, SIG_IGN);
  start_stop_late();
}

static void stop_if_interrupted(void) {
  if (interrupted) {
    int signal_number = interrupted;
    void (*first)(void) = before_stop;

    pthread_mutex_lock(&whole_program); /* for good: the others end with the program */
    progress_clear();
    outputs_discard();
    if (first) {
      before_stop = NULL;
      interrupted = 0; /* what it writes is written whole */
      first();
    }
    exit(EXIT_SIGNAL + signal_number);
  }
}

/* ---- Progress ------------------------------------------------------------------------------------------------------------ */

/* A bar on stderr, for a person who waits: only on a terminal, only after a second, at most ten times a second. */
static struct {
  bool enabled, visible;
  double started, drawn;      /* seconds_now() */
  double total, before, step; /* work in all, done before the current step, in the current step; any unit */
  const char *what;           /* what is being worked on */
} progress;

static void progress_begin(double total, bool quiet) {
  progress.enabled = !quiet && isatty(STDERR_FILENO);
  progress.started = seconds_now();
  progress.total = total;
}

/* Begin a step of `weight` of the work on `what`, which must live as long as the step. */
static void progress_step(double weight, const char *what) {
  progress.before += progress.step;
  progress.step = weight;
  progress.what = what;
}

static void progress_clear(void) {
  if (progress.visible) {
    fputs("\r\033[K", stderr);
    fflush(stderr);
    progress.visible = false;
  }
}

/* The engine's progress callback: `done` is the share of the current step. Nonzero asks it to stop. */
static int progress_update(void *unused, double done) {
  enum { CELLS = 30 };
  double now, share, left;
  char bar[CELLS + 1], name[33];
  int i;

  (void)unused;
  if (interrupted) return 1;
  now = progress.enabled ? seconds_now() : 0;
  if (!progress.enabled || now - progress.started < 1 || now - progress.drawn < 0.1) return 0;
  share = (progress.before + done * progress.step) / progress.total;
  share = share < 0 ? 0 : share > 1 ? 1 : share;
  left = share > 0 ? (now - progress.started) * (1 - share) / share : 0;
  for (i = 0; i < CELLS; i++) bar[i] = i < share * CELLS ? '#' : '.';
  bar[CELLS] = 0;
  snprintf(name, sizeof name, "%s", base_name(progress.what));
  clean_text(name);
  fprintf(stderr, "\r\033[K%3.0f %% %s ", share * 100, bar);
  if (left >= 90)
    fprintf(stderr, "%.0f min left  %s", left / 60, name);
  else
    fprintf(stderr, "%.0f s left  %s", left, name);
  fflush(stderr);
  progress.visible = true;
  progress.drawn = now;
  return 0;
}

/* The same where several pictures are at work at a time: progress is a picture then. */
static int progress_ignored(void *unused, double done) {
  (void)unused;
  (void)done;
  return interrupted != 0;
}

/* ---- Reading ------------------------------------------------------------------------------------------------------------- */

/* Whether somebody has the other end of a pipe open that held nothing: without a writer, reading meets its end. A byte that has come
 * in the meantime is *first. */
static bool has_writer(int descriptor, int *first) {
  unsigned char byte;
  ssize_t got = read(descriptor, &byte, 1);

  if (got == 1) *first = byte;
  return got == 1 || (got < 0 && errno == EAGAIN);
}

/* Open a file to read, NULL: *why. Of a pipe that nobody writes to the program waits for a moment, in which whoever started both may
 * open its end, not for ever. */
static FILE *open_to_read(const char *path, problem *why) {
  const double patience = 3; /* seconds */
  double start = seconds_now();
  struct stat status;
  struct pollfd pipe_end;
  FILE *file;
  int flags, first = -1, descriptor = open(path, O_RDONLY | O_NONBLOCK);

  if (descriptor < 0 || fstat(descriptor, &status)) {
    failed(why, "%s: %s", path, strerror(errno));
    if (descriptor >= 0) close(descriptor);
    return NULL;
  }
  pipe_end.fd = descriptor;
  pipe_end.events = POLLIN;
  pipe_end.revents = 0;
  while (S_ISFIFO(status.st_mode) && first < 0 && poll(&pipe_end, 1, 100) <= 0) { /* neither data nor an end */
    stop_if_interrupted();
    if (seconds_now() - start > patience && !has_writer(descriptor, &first)) {
      close(descriptor);
      failed(why, "%s: a pipe that nobody writes to", path);
      return NULL;
    }
  }
  flags = fcntl(descriptor, F_GETFL);
  if (flags != -1) (void)fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK);
  file = fdopen(descriptor, "rb");
  if (!file) {
    failed(why, "%s: %s", path, strerror(errno));
    close(descriptor);
  } else if (first >= 0) {
    ungetc(first, file);
  }
  return file;
}

/* The rest of an open file, in memory of its own, or false: it cannot be read, or holds more than `cap` bytes. */
static bool read_rest(FILE *file, const char *path, size_t cap, uint8_t **data, size_t *size, problem *why) {
  size_t room = 1 << 16, used = 0;
  uint8_t *bytes = allocate(room, 1);

  *data = NULL;
  *size = 0;
  for (;;) {
    used += fread(bytes + used, 1, room - used, file);
    stop_if_interrupted();
    if (used < room || used > cap) break;
    room *= 2;
    bytes = grow(bytes, room, 1);
  }
  if (ferror(file) || used > cap) {
    int error = errno;

    free(bytes);
    return ferror(file) ? failed(why, "%s: %s", path, strerror(error)) : failed(why, "%s: larger than %zu bytes", path, cap);
  }
  *data = bytes;
  *size = used;
  return true;
}

/* The whole file, or false, as above. Pipes are fine. */
static bool read_whole(const char *path, size_t cap, uint8_t **data, size_t *size, problem *why) {
  FILE *file = open_to_read(path, why);
  bool done = file && read_rest(file, path, cap, data, size, why);

  if (file) fclose(file);
  return done;
}

/* Which file a path leads to, whatever it is called: the same text for the same file, "" for none. */
typedef struct file_identity {
  char text[48];
} file_identity;

static file_identity identity_of(const struct stat *status) {
  file_identity identity;

  snprintf(identity.text, sizeof identity.text, "%llu:%llu", (unsigned long long)status->st_dev,
           (unsigned long long)status->st_ino);
  return identity;
}

static bool is_folder(const char *path) {
  struct stat status;

  return !stat(path, &status) && S_ISDIR(status.st_mode);
}

static int compare_texts(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Add the files of `folder` that `wanted` accepts by name to the list, sorted by name; hidden files and subfolders are not entered.
 * For what it does not accept, `wanted` may give a reason: those are counted, and said in a line for each kind unless `quiet`. */
static void list_folder(const char *folder, const char *(*wanted)(const char *name), text_list *list, bool quiet) {
  DIR *entries = opendir(folder);
  struct dirent *entry;
  struct stat status;
  text_map passed = {0};
  int first = list->count;
  size_t i;

  if (!entries) fatal("%s: %s", folder, strerror(errno));
  while ((entry = readdir(entries))) {
    const char *reason;
    char *path;

    if (entry->d_name[0] == '.') continue;
    reason = wanted(entry->d_name);
    if (reason && !*reason) continue;
    path = text_of("%s%s%s", folder, folder[strlen(folder) - 1] == '/' ? "" : "/", entry->d_name);
    if (!reason && !stat(path, &status) && !S_ISREG(status.st_mode))
      reason = S_ISDIR(status.st_mode) ? "" : "pipes and devices: those are read where they are named themselves";
    if (!reason)
      text_list_add(list, path);
    else
      free(path);
    if (reason && *reason) ++*text_map_at(&passed, reason);
  }
  closedir(entries);
  for (i = 0; i < passed.slots && !quiet; i++)
    if (passed.keys[i]) complain("%s: passed over %d %s", folder, passed.values[i], passed.keys[i]);
  text_map_free(&passed);
  if (list->count > first) qsort(list->items + first, (size_t)(list->count - first), sizeof *list->items, compare_texts);
}

/* ---- Text out ------------------------------------------------------------------------------------------------------------ */

/* Text from a file (a label, a name) to a terminal. */
static void print_clean(const char *text) {
  char *clean = text_of("%s", text);

  clean_text(clean);
  fputs(clean, stdout);
  free(clean);
}

/* The columns that UTF-8 text takes, at one per character. */
static int columns(const char *text) {
  int count = 0;

  for (; *text; text++) count += ((unsigned char)*text & 0xC0) != 0x80;
  return count;
}

/* `text`, filled up with spaces to `width` columns. */
static void print_padded(const char *text, int width) {
  int left = width - columns(text);

  print_clean(text);
  printf("%*s", left > 0 ? left : 0, "");
}

/* A JSON string; bytes that are not UTF-8, which file names may hold, become U+FFFD. */
static void json_string(const char *text) {
  putchar('"');
  while (*text) {
    int length = utf8_length(text);

    if (!length) {
      fputs("\\ufffd", stdout);
      length = 1;
    } else if (*text == '"' || *text == '\\') {
      printf("\\%c", *text);
    } else if (length < 3 && is_control(text, length)) {
      printf("\\u%04x", (unsigned char)text[length - 1]); /* of two bytes, the second one is the character's number */
    } else {
      fwrite(text, 1, (size_t)length, stdout);
    }
    text += length;
  }
  putchar('"');
}

#endif
