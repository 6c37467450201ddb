/* agf explain: all pictures of the list, several at a time where that is faster. */
#ifndef CLI_EXPLAIN_H
#define CLI_EXPLAIN_H

#include "cli_neighbours.h"

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
  while (e->queue && e->queue->turn != (int)(s - e->subjects)) pthread_cond_wait(&e->queue->passed, &whole_program);
}

static void report_refused(const result *r) {
  int i;

  for (i = 0; i < r->refused.count; i++) complain("%s", r->refused.items[i]);
}

static void report_subject(explainer *e, const subject *s, const prepared *p, const drawing *d, result *r) {
  progress_clear();
  if (e->asked->json)
    print_json(e, s, p, r);
  else if (!e->asked->quiet && !e->to_stdout)
    print_text(e, s, r);
  if (e->asked->show && !e->asked->json && !e->to_stdout) show_maps(e, d);
  if (e->page) page_add(e->page, s, d, r, e);
  flush_stdout();
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
  if (!e->queue) progress_step(RUN_WORK, s->path);
  before = seconds_now();
  done = run_picture(e, s->path, &p, AGF_RUN_EXPLAIN, &why);
  if (done) {
    if (!e->queue) progress_step(work_of(e) - RUN_WORK, s->path);
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

  if (e->count < 2 || e->to_stdout || e->asked->verbose || height <= 0 || !need_session(e, height, width, &why)) return 1;
  threads = agf_session_threads(e->session);
  config = session_config(e, height, width);
  config.threads = 1;
  if (agf_session_bytes(e->model, &config, &bytes, NULL) || bytes > most_bytes / (size_t)threads) return 1;
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
    if (pthread_create(&thread[started], NULL, explain_queue, &q)) break; /* those that there are do the work */
  explain_queue(&q);
  for (i = 0; i < started; i++) pthread_join(thread[i], NULL);
  free(thread);
  pthread_cond_destroy(&q.passed);
  e->queue = NULL;
  stop_if_interrupted();
}

static int run_explain(const options *asked) {
  text_list in_bank = {0};
  bank others;
  explainer e;
  page html;
  problem why;
  int i;

  memset(&html, 0, sizeof html);
  memset(&others, 0, sizeof others);
  if (asked->arguments.count < 2) fatal("explain needs a model file and a picture: agf explain MODEL PICTURE...");
  explainer_begin(&e, asked);
  list_subjects(&e);
  if ((asked->neighbours || asked->shared) && !asked->bank)
    fatal("%s goes with --bank", asked->shared ? "--shared" : "--neighbours");
  if (asked->bank && is_folder(asked->bank)) {
    list_folder(asked->bank, why_no_picture, &in_bank, asked->quiet);
    if (!in_bank.count) fatal("%s: no pictures that can be read in this folder", asked->bank);
    for (i = 0; i < in_bank.count; i++) protect_input(in_bank.items[i]);
  } else if (asked->bank) {
    protect_input(asked->bank);
  }
  if (asked->font) protect_input(asked->font);
  for (i = 0; i < asked->masks.count; i++) protect_input(asked->masks.items[i]);
  protect_input(asked->arguments.items[0]);
  check_output(&e, asked->out, "-o", true);
  check_output(&e, asked->npy, "--npy", false);
  check_output(&e, asked->logits, "--logits", false);
  if (asked->html) {
    if (!e.out_is_folder) fatal("--html needs a folder to write index.html into: -o FOLDER/");
    e.page = &html;
    html.path = text_of("%s%sindex.html", asked->out, asked->out[strlen(asked->out) - 1] == '/' ? "" : "/");
    if (!output_reserve(html.path, &why)) fatal("%s", why.text);
  }
  reserve_outputs(&e);
  choose_all(&e);
  need_preprocessing(&e);
  if (asked->bank && !in_bank.count && !open_bank(&e, &others, asked->bank, &why)) fatal("%s", why.text);

  progress_begin(e.count * work_of(&e) + (asked->bank ? RUN_WORK * (e.count + in_bank.count) : 0), asked->quiet);
  if (asked->bank) find_neighbours(&e, &others, &in_bank);
  explain_all(&e);
  progress_clear();
  if (e.page) page_write(&html, e.model_name);
  text_list_free(&in_bank);
  bank_free(&others);
  explainer_free(&e);
  return e.some_failed ? EXIT_SOME_FAILED : EXIT_SUCCESS;
}

#endif
