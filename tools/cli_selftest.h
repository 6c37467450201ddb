/* agf selftest: the networks that the program carries are run and explained by every method with every instruction set of this machine,
 * and the hashes of their maps compared with those of all others. What comes out is a report to hand on: machine, times, bits. */
#ifndef CLI_SELFTEST_H
#define CLI_SELFTEST_H

#include "cli_bench.h"
#include "cli_picture.h"
#include "cli_selftest_data.h"
#include "cli_sha256.h"

enum { SELFTEST_MAPS = 2, SELFTEST_COPIES = 2, SELFTEST_RUNS = 3 };

/* The last one. */
static const struct selftest_network *const selftest_timed =
    selftest_networks + sizeof selftest_networks / sizeof *selftest_networks - 1;

typedef struct selftest {
  int maps, wrong, unknown; /* compared, of other bits, of methods whose bits are not known */
  bool begun, lists;        /* the head is printed; each hash is to be */
} selftest;

/* A network out of its lines: base64 of a deflated file, 64-byte aligned as the engine wants it. */
static uint8_t *selftest_model(const struct selftest_network *network, void **owner) {
  size_t packed_bytes = 0, i, line;
  uint32_t bits = 0;
  int held = 0;
  char *packed = allocate(network->bytes + 1024, 1);
  uint8_t *memory = allocate(network->bytes + 64, 1), *data = memory + (64 - (uintptr_t)memory % 64) % 64;

  for (line = 0; network->lines[line]; line++)
    for (i = 0; network->lines[line][i] && network->lines[line][i] != '='; i++) {
      bits = bits << 6 | (uint32_t)(strchr(base64_digits, network->lines[line][i]) - base64_digits);
      held += 6;
      if (held >= 8) {
        held -= 8;
        packed[packed_bytes++] = (char)(bits >> held & 255);
      }
    }
  if (stbi_zlib_decode_buffer((char *)data, (int)network->bytes, packed, (int)packed_bytes) != (int)network->bytes)
    fatal("the network %s that this program carries is damaged", network->name);
  free(packed);
  *owner = memory;
  return data;
}

static const char *selftest_expected(const char *network, const char *method) {
  const struct selftest_map *m;

  for (m = selftest_maps; m->network; m++)
    if (!strcmp(m->network, network) && !strcmp(m->method, method)) return m->sha256;
  return NULL;
}

/* A picture of pseudo-random values from -2 to 2 in coarse steps: the same on every machine. */
static void selftest_picture(float *x, size_t count) {
  uint32_t state = 1;
  size_t i;

  for (i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    x[i] = (float)(int)(state >> 24) / 64.0f - 2.0f;
  }
}

/* A picture for the network, and room for SELFTEST_MAPS maps of *pixels each. */
static float *selftest_input(const agf_model *model, size_t *pixels, float **maps) {
  agf_input input;
  float *x;

  agf_model_input(model, &input);
  *pixels = (size_t)input.height * (size_t)input.width;
  x = allocate((size_t)input.channels * *pixels, sizeof *x);
  *maps = allocate(SELFTEST_MAPS * *pixels, sizeof **maps);
  selftest_picture(x, (size_t)input.channels * *pixels);
  return x;
}

/* Medians, in seconds, of the forward pass and of it with one map by agf. */
static void selftest_time(const char *name, const agf_model *model, const char *isa, int threads, double times[2]) {
  double run[SELFTEST_RUNS], all[SELFTEST_RUNS];
  agf_session_config config;
  agf_session *session;
  agf_request request;
  agf_error error;
  size_t pixels;
  float *maps, *x = selftest_input(model, &pixels, &maps);
  int i;

  memset(&config, 0, sizeof config);
  config.isa = isa;
  config.threads = threads;
  memset(&request, 0, sizeof request);
  request.count = 1;
  if (agf_session_create(model, &config, &session, &error)) fatal("selftest: %s: %s", name, error.message);
  for (i = 0; i < SELFTEST_RUNS; i++) {
    double began = seconds_now();

    if (agf_run(session, x, 0, &error)) fatal("selftest: %s: %s", name, error.message);
    run[i] = seconds_now() - began;
    began = seconds_now();
    if (agf_run(session, x, AGF_RUN_EXPLAIN, &error) || agf_explain(session, &request, maps, &error))
      fatal("selftest: %s: %s", name, error.message);
    all[i] = seconds_now() - began;
  }
  qsort(run, SELFTEST_RUNS, sizeof *run, compare_doubles);
  qsort(all, SELFTEST_RUNS, sizeof *all, compare_doubles);
  times[0] = run[SELFTEST_RUNS / 2];
  times[1] = all[SELFTEST_RUNS / 2];
  agf_session_destroy(session);
  free(x);
  free(maps);
}

/* One network's hashes with one instruction set; of the one that is timed agf's alone, as it is larger. */
static void selftest_compare(selftest *t, const struct selftest_network *network, const agf_model *model, const char *isa,
                             int threads) {
  agf_session_config config;
  agf_session *session;
  agf_request request;
  agf_error error;
  size_t pixels;
  float *maps, *x = selftest_input(model, &pixels, &maps);
  int method;

  memset(&config, 0, sizeof config);
  config.isa = isa;
  config.threads = threads;
  for (method = 0; method < AGF_METHODS; method++)
    if (agf_method_traits((agf_method)method)) config.methods |= AGF_METHOD_BIT(method);
  if (agf_session_create(model, &config, &session, &error)) {
    config.methods &= ~AGF_METHOD_BIT(AGF_METHOD_AGF_LC); /* which not every network has */
    if (agf_session_create(model, &config, &session, &error)) fatal("selftest: %s: %s", network->name, error.message);
  }
  memset(&request, 0, sizeof request);
  request.count = SELFTEST_MAPS;
  request.steps = request.samples = SELFTEST_COPIES;
  for (method = 0; method < AGF_METHODS; method++) {
    const char *name = agf_method_name((agf_method)method), *expected = selftest_expected(network->name, name);
    char found[65];
    agf_status status;
    sha256 hash;

    stop_if_interrupted();
    if (!(config.methods & AGF_METHOD_BIT(method)) || (method != AGF_METHOD_AGF && network == selftest_timed)) continue;
    request.method = (agf_method)method;
    sha256_begin(&hash);
    status = agf_run(session, x, AGF_RUN_EXPLAIN, &error);
    if (!status) {
      sha256_add_floats(&hash, agf_logits(session), (size_t)agf_model_classes(model));
      status = agf_explain(session, &request, maps, &error);
    }
    if (!status) sha256_add_floats(&hash, maps, SELFTEST_MAPS * pixels);
    sha256_end(&hash, found);
    if (status && !expected) continue; /* a method that this network does not take */
    if (t->lists) printf("  %-18s %-20s %s\n", network->name, name, found);
    if (!expected) {
      t->unknown++;
    } else {
      t->maps += SELFTEST_MAPS;
      if (status || strcmp(found, expected)) {
        t->wrong += SELFTEST_MAPS;
        printf("DIFFERS: %s, %s with %s: %s, everywhere else %s\n", network->name, name, agf_isa_name(session),
               status ? error.message : found, expected);
      }
    }
  }
  agf_session_destroy(session);
  free(x);
  free(maps);
}

/* What the system says that this machine is, one line. */
static void selftest_machine(char *text, size_t room) {
  FILE *file = fopen("/proc/device-tree/model", "r");
  char line[256] = "";

  snprintf(text, room, "unknown machine");
  if (file && fgets(line, sizeof line, file)) {
    snprintf(text, room, "%s", line);
  } else {
    if (file) fclose(file);
    file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file))
      if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
        snprintf(text, room, "%s", strchr(line, ':') + 1 + strspn(strchr(line, ':') + 1, " "));
        break;
      }
  }
  if (file) fclose(file);
  text[strcspn(text, "\n")] = 0;
  clean_text(text);
}

/* The networks with one instruction set; `brief`: the first alone. False: not on this machine. A row of the report is added. */
static bool selftest_isa(selftest *t, const char *isa, int threads, bool brief, const char *machine, char *row, size_t room) {
  double times[2] = {0, 0}, single[2] = {0, 0}, began = seconds_now();
  const struct selftest_network *network;
  int before = t->maps, cores = 1;

  for (network = selftest_networks; network <= (brief ? selftest_networks : selftest_timed); network++) {
    agf_session_config config;
    agf_session *session;
    agf_model *model;
    agf_error error;
    agf_status status;
    void *owner;
    uint8_t *data = selftest_model(network, &owner);

    if (agf_model_open_memory(data, network->bytes, NULL, &model, &error)) fatal("selftest: %s", error.message);
    memset(&config, 0, sizeof config);
    config.isa = isa;
    config.threads = threads;
    status = agf_session_create(model, &config, &session, &error);
    if (!status) {
      cores = agf_session_threads(session);
      agf_session_destroy(session);
      if (!t->begun) printf("agf %s selftest on %s, bits of version %d\n", agf_version(), machine, AGF_BITS_VERSION);
      t->begun = true;
      selftest_compare(t, network, model, isa, threads);
      if (network == selftest_timed) {
        selftest_time(network->name, model, isa, 1, single);
        selftest_time(network->name, model, isa, threads, times);
      }
    }
    agf_model_close(model);
    free(owner);
    if (status) return false;
  }
  printf("%-6s  %3d maps compared in %.2g s", isa, t->maps - before, seconds_now() - began);
  if (!brief) {
    printf("; forward %.3g ms, with a map %.3g ms; %d thread%s: %.3g ms, %.3g ms", 1e3 * single[0], 1e3 * single[1], cores,
           cores == 1 ? "" : "s", 1e3 * times[0], 1e3 * times[1]);
    snprintf(row, room, "| %s | %s | %.3g ms | %.3g ms | %d: %.3g ms | %s |\n", machine, isa, 1e3 * single[0], 1e3 * single[1],
             cores, 1e3 * times[1], t->wrong ? "differ" : "same");
  }
  printf("\n");
  return true;
}

/* only: one instruction set; NULL: all that there are, the portable one briefly where it is not the best. Exit code 1: some bits differ. */
static int selftest_run(const char *only, int threads, bool lists) {
  static const char *const isas[] = {"avx512", "avx2", "neon", "ref"};
  selftest t;
  char machine[256], rows[sizeof isas / sizeof *isas][640];
  double began = seconds_now();
  bool any = false;
  size_t i;

  memset(&t, 0, sizeof t);
  memset(rows, 0, sizeof rows);
  t.lists = lists;
  selftest_machine(machine, sizeof machine);
  for (i = 0; i < sizeof isas / sizeof *isas; i++)
    if (!only || !strcmp(only, isas[i]))
      any |= selftest_isa(&t, isas[i], threads, any && !strcmp(isas[i], "ref"), machine, rows[i], sizeof rows[i]);
  if (!any) fatal("no instruction set %s on this machine", only);
  if (t.unknown) printf("%d methods of networks have no hashes to compare with\n", t.unknown);
  if (t.wrong)
    printf("%d of %d maps have OTHER BITS than everywhere else: please report it, with this text\n", t.wrong, t.maps);
  else if (t.maps)
    printf("the same bits as everywhere: %d maps in %.2g s\n", t.maps, seconds_now() - began);
  printf("\nFor the table in bench/README.md:\n");
  for (i = 0; i < sizeof isas / sizeof *isas; i++) fputs(rows[i], stdout);
  return t.wrong || !t.maps ? EXIT_SOME_FAILED : EXIT_SUCCESS;
}

/* ---- agf selftest ---------------------------------------------------------------------------------------------------------- */

static int run_selftest(const options *asked) {
  if (asked->arguments.count) fatal("selftest takes no files: it carries its networks");
  return selftest_run(asked->isa, asked->threads, asked->verbose);
}

#endif
