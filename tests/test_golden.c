/* The engine against float64 results: every case of tests/golden and tests/golden-extra (or of the folders named on the command
 * line), every map, every option, every method, and every node's cam and g where the data have them, as a diagnosis that names
 * the layer.
 *
 * A map is correct when norm(map - expected) <= limit * norm(expected), limit = 4 * the error of an ordinary float32
 * implementation + 2e-6 (agf-spec, "How exact a float32 map can be"); with --full, for networks of real size, where a ReLU may
 * flip by rounding, max(that, 5e-3).
 *
 *   test_golden [-k CASE] [[--full] FOLDER ...] */
#include "testing.h"
#include "../agf.h"
#include <dirent.h>

static int compared_methods[AGF_METHODS], compared_against[AGF_METHODS]; /* how many maps of each */

static const struct {
  const char *name;
  unsigned bit;
} options[] = {{"no_fx", AGF_OPT_NO_FX}, {"no_fdx", AGF_OPT_NO_FDX}, {"no_m", AGF_OPT_NO_M},
               {"no_a", AGF_OPT_NO_A},   {"no_reg", AGF_OPT_NO_REG}, {"fx_gradcam", AGF_OPT_FX_GRADCAM}};

/* Option bits of "no_fx,no_m"; -1 for a name that is none. */
static int parse_options(char *text) {
  unsigned bits = 0;
  char *p;
  size_t i;
  if (!strcmp(text, "-")) return 0;
  for (p = strtok(text, ","); p; p = strtok(NULL, ",")) {
    for (i = 0; i < sizeof options / sizeof *options && strcmp(p, options[i].name); i++) continue;
    if (i == sizeof options / sizeof *options) return -1;
    bits |= options[i].bit;
  }
  return (int)bits;
}

/* Whether a list was read to its end; closes it. */
static void close_list(FILE *list, const char *path) {
  int whole = feof(list);
  fclose(list);
  CHECK(whole, "%s: a line is not understood", path);
}

/* A list that every case has. */
static FILE *open_list(const char *path) {
  FILE *list = fopen(path, "r");
  CHECK(list != NULL, "%s cannot be read", path);
  return list;
}

typedef struct diagnosis {
  const agf_model *model;
  char folder[512];
  int compared;
  int told;
  int over; /* the node tensors belong to the first map */
} diagnosis;

static void compare_node(diagnosis *d, const char *what, const char *name, const float *a, const agf_observation *o) {
  char path[1024];
  npy expected;
  int c, h, w, status;
  float *dense;
  double e;
  snprintf(path, sizeof path, "%s/%s_%s.npy", d->folder, what, name);
  if (!a || (status = npy_load(path, &expected)) == NPY_MISSING) return;
  if (status != NPY_OK || expected.elements != (size_t)o->shape[0] * (size_t)o->shape[1] * (size_t)o->shape[2]) {
    CHECK(0, "%s is damaged, or of another shape than the layer", path);
    free(expected.data);
    return;
  }
  dense = (float *)malloc(sizeof *dense * expected.elements);
  for (c = 0; c < o->shape[0]; c++)
    for (h = 0; h < o->shape[1]; h++)
      for (w = 0; w < o->shape[2]; w++)
        dense[((size_t)c * (size_t)o->shape[1] + (size_t)h) * (size_t)o->shape[2] + (size_t)w] =
            a[c / 16 * o->block_stride + h * o->row_stride + w * o->pixel_stride + c % 16];
  e = relative_error(dense, expected.data, expected.elements);
  d->compared++;
  /* a hundred times the maps' own limit: this names a wrong layer, the maps judge */
  if (!(e <= 1e-3) && !d->told++) printf("  first layer off: %s of %s, relative error %.3g\n", what, name, e);
  free(dense);
  free(expected.data);
}

/* Whether the observer must see layer i's output: a flatten has no tensor of its own, nor has a linear layer, or a BatchNorm that no
 * convolution takes along, before its own ReLU. */
static int is_observed(const agf_model *model, int i) {
  agf_layer layer, other;
  int alone;
  agf_model_layer(model, i, 0, 0, &layer, NULL);
  alone = layer.op == AGF_OP_LINEAR;
  if (layer.op == AGF_OP_BATCHNORM) {
    int input = agf_model_layer_input(model, i, 0); /* 0: the image */
    alone = !input || agf_model_layer(model, input - 1, 0, 0, &other, NULL) != AGF_OK || other.op != AGF_OP_CONV;
  }
  if (alone && agf_model_layer(model, i + 1, 0, 0, &other, NULL) == AGF_OK) return other.op != AGF_OP_RELU;
  return layer.op != AGF_OP_FLATTEN;
}

static int exists(const char *path) {
  FILE *f = fopen(path, "rb");
  if (f) fclose(f);
  return f != NULL;
}

/* How many files of a case hold a node's cam or g that the observer must see. */
static int tensors_to_see(const diagnosis *d) {
  DIR *dir = opendir(d->folder);
  struct dirent *entry;
  agf_layer layer;
  char path[1024];
  int n = 0, i;
  while (dir && (entry = readdir(dir)) != NULL) n += !strncmp(entry->d_name, "cam_", 4) || !strncmp(entry->d_name, "g_", 2);
  if (dir) closedir(dir);
  for (i = 0; agf_model_layer(d->model, i, 0, 0, &layer, NULL) == AGF_OK; i++) {
    if (is_observed(d->model, i)) continue;
    snprintf(path, sizeof path, "%s/cam_%s.npy", d->folder, layer.name);
    n -= exists(path);
    snprintf(path, sizeof path, "%s/g_%s.npy", d->folder, layer.name);
    n -= exists(path);
  }
  return n;
}

static void observe(void *ctx, const agf_observation *o) {
  diagnosis *d = (diagnosis *)ctx;
  agf_layer layer;
  const char *name = "input";
  if (d->over) return;
  if (o->node >= 0) {
    agf_model_layer(d->model, o->node, 0, 0, &layer, NULL);
    name = layer.name;
  }
  compare_node(d, "cam", name, o->cam, o);
  compare_node(d, "g", name, o->g, o);
}

/* errors.txt: `METHOD CLASS CODE`, requests that have no map and must say so. Returns how many. */
static int run_errors(const char *root, const char *name, agf_session *session, float *map) {
  char path[1024], method[64], code[64];
  int target, n = 0;
  FILE *list;
  snprintf(path, sizeof path, "%s/%s/errors.txt", root, name); /* of few cases */
  list = fopen(path, "r");
  while (list && fscanf(list, "%63s %d %63s", method, &target, code) == 3) {
    agf_request q;
    agf_error err;
    memset(&q, 0, sizeof q);
    q.method = (agf_method)agf_method_find(method);
    q.count = 1;
    q.classes = &target;
    agf_explain(session, &q, map, &err);
    CHECK(!strcmp(agf_status_name(err.code), code), "%s class %d: %s (%s), expected %s", name, target, agf_status_name(err.code),
          err.message, code);
    n++;
  }
  if (list) close_list(list, path);
  return n;
}

/* The request's map, of so many pixels, against a file, where a float32 implementation is off by rel. */
static void compare_map(const char *root, const char *name, const char *file, int full, agf_session *session, const agf_request *q,
                        double rel, float *map, size_t pixels) {
  char path[1024];
  agf_error err;
  agf_status st;
  npy expected;
  double e, limit = 4 * rel + 2e-6;
  if (full && limit < 5e-3) limit = 5e-3;
  snprintf(path, sizeof path, "%s/%s/%s", root, name, file);
  if (npy_load(path, &expected) || expected.elements != pixels) {
    CHECK(0, "%s cannot be read, or is no map of this network", path);
    free(expected.data);
    return;
  }
  st = agf_explain(session, q, map, &err);
  e = st == AGF_OK ? relative_error(map, expected.data, expected.elements) : INFINITY;
  CHECK(e <= limit, "%s %s: off by %.3g, limit %.3g%s%s", name, file, e, limit, st ? ": " : "", st ? err.message : "");
  if (full) printf("  %s %s: relative error %.3g (tight limit %.3g)\n", name, file, e, 4 * rel + 2e-6);
  if (st == AGF_OK) (q->against ? compared_against : compared_methods)[q->method]++;
  free(expected.data);
}

/* methods.txt: `FILE METHOD TARGET STEPS REL_L2`; STEPS: of integrated_gradients, samples of smoothgrad. against.txt: `FILE METHOD
 * TARGET AGAINST STEPS REL_L2`. Then layers.txt: `FILE METHOD LAYER TARGET REL_L2`, gradcam and its like at a layer's output. */
static void run_methods(const char *root, const char *name, int full, const agf_model *model, agf_session *session, float *map,
                        size_t pixels) {
  char path[1024], file[256], word[64], at[64];
  agf_layer layer;
  agf_request q;
  double rel;
  int target, few;
  FILE *list;
  memset(&q, 0, sizeof q);
  q.count = 1;
  q.classes = &target;
  snprintf(path, sizeof path, "%s/%s/methods.txt", root, name);
  list = open_list(path);
  while (list && fscanf(list, "%255s %63s %d %d %lf", file, word, &target, &q.steps, &rel) == 5) {
    q.method = (agf_method)agf_method_find(word);
    q.samples = q.steps;
    compare_map(root, name, file, full, session, &q, rel, map, pixels);
  }
  if (list) close_list(list, path);
  snprintf(path, sizeof path, "%s/%s/errors.txt", root, name);
  list = fopen(path, "r");
  few = list || full; /* such a case, and those of full size, need not have it */
  if (list) fclose(list);
  snprintf(path, sizeof path, "%s/%s/against.txt", root, name);
  list = few ? fopen(path, "r") : open_list(path);
  while (list && fscanf(list, "%255s %63s %d %d %d %lf", file, word, &target, &q.against, &q.steps, &rel) == 6) {
    q.method = (agf_method)agf_method_find(word);
    q.samples = q.steps;
    q.against++;
    compare_map(root, name, file, full, session, &q, rel, map, pixels);
  }
  if (list) close_list(list, path);
  q.against = 0;
  snprintf(path, sizeof path, "%s/%s/layers.txt", root, name); /* of few cases */
  list = fopen(path, "r");
  while (list && fscanf(list, "%255s %63s %63s %d %lf", file, word, at, &target, &rel) == 5) {
    q.method = (agf_method)agf_method_find(word);
    for (q.layer = 1; agf_model_layer(model, q.layer - 1, 0, 0, &layer, NULL) == AGF_OK && strcmp(layer.name, at); q.layer++)
      continue;
    compare_map(root, name, file, full, session, &q, rel, map, pixels);
  }
  if (list) close_list(list, path);
}

/* maps.txt and label_free.txt: `FILE TARGET REL_L2 LAST`, LAST being options, or the .npy file of the difference vector. Watched,
 * the first map has the same bits, and nodes' cam and g are right. Returns how many maps there are. */
static int run_maps(const char *root, const char *name, const char *listed, int full, agf_session *session, agf_session *watched,
                    diagnosis *d, float *map, size_t pixels) {
  char path[1024], file[256], last[256];
  agf_request q;
  agf_error err;
  npy difference;
  double rel;
  int target, bits, maps = 0, label_free = !strcmp(listed, "label_free.txt");
  float *vector, *again;
  FILE *list;
  snprintf(path, sizeof path, "%s/%s/%s", root, name, listed);
  list = label_free ? fopen(path, "r") : open_list(path); /* few cases have the other */
  if (!list) return 0;
  for (; fscanf(list, "%255s %d %lf %255s", file, &target, &rel, last) == 4; maps++) {
    memset(&q, 0, sizeof q);
    q.count = 1;
    q.classes = &target;
    vector = NULL;
    if (label_free) {
      snprintf(path, sizeof path, "%s/%s/%s", root, name, last);
      if (npy_load(path, &difference) || difference.elements != (size_t)agf_latent_size(session)) {
        CHECK(0, "%s cannot be read, or is no latent vector of this network", path);
        free(difference.data);
        continue;
      }
      q.difference = vector = npy_floats(&difference);
      free(difference.data);
    } else if ((bits = parse_options(last)) >= 0) {
      q.options = (unsigned)bits;
    } else {
      CHECK(0, "%s/%s: unknown options %s", name, listed, last);
      continue;
    }
    compare_map(root, name, file, full, session, &q, rel, map, pixels);
    if (!d->over) {
      again = (float *)malloc(sizeof *again * pixels);
      CHECK(agf_explain(watched, &q, again, &err) == AGF_OK && !memcmp(again, map, sizeof *map * pixels),
            "%s %s: watched through an observer, or without AGF_RUN_EXPLAIN, the map has other bits", name, file);
      CHECK(!d->told, "%s: a node's cam or g is off", name);
      CHECK(d->compared == tensors_to_see(d), "%s: the observer saw %d of %d node tensors", name, d->compared, tensors_to_see(d));
      free(again);
      d->over = 1;
    }
    free(vector);
  }
  snprintf(path, sizeof path, "%s/%s/%s", root, name, listed);
  close_list(list, path);
  return maps;
}

/* Returns how many nodes' cam and g were compared. */
static int run_case(const char *root, const char *name, int full) {
  char path[1024];
  agf_error err;
  agf_model *model;
  agf_session *session = NULL, *watched = NULL;
  agf_session_config config;
  diagnosis d;
  npy input, expected;
  float *x, *map;
  size_t pixels;
  double e = INFINITY;
  int maps;
  snprintf(path, sizeof path, "%s/%s/%s.agf", root, name, name);
  if (agf_model_open(path, NULL, &model, &err) != AGF_OK) {
    CHECK(0, "%s", err.message);
    return 0;
  }
  snprintf(path, sizeof path, "%s/%s/input.npy", root, name);
  if (npy_load(path, &input) || input.dims != 3) {
    CHECK(0, "%s cannot be read, or is no image", path);
    agf_model_close(model);
    return 0;
  }
  x = npy_floats(&input);
  pixels = (size_t)input.shape[1] * (size_t)input.shape[2];
  map = (float *)malloc(sizeof *map * pixels);
  memset(&config, 0, sizeof config);
  config.height = input.shape[1];
  config.width = input.shape[2];
  memset(&d, 0, sizeof d);
  d.model = model;
  snprintf(d.folder, sizeof d.folder, "%s/%s", root, name);
  config.methods = AGF_METHODS_ALL;
  if (agf_session_create(model, &config, &session, &err) != AGF_OK || agf_run(session, x, AGF_RUN_EXPLAIN, &err) != AGF_OK) {
    CHECK(0, "%s: %s", name, err.message);
    goto done;
  }
  config.observer = observe;
  config.observer_ctx = &d;
  if (agf_session_create(model, &config, &watched, &err) != AGF_OK || agf_run(watched, x, 0, &err) != AGF_OK) {
    CHECK(0, "%s: %s", name, err.message);
    goto done;
  }
  snprintf(path, sizeof path, "%s/%s/logits.npy", root, name);
  if (!npy_load(path, &expected) && expected.elements == (size_t)agf_model_classes(model))
    e = relative_error(agf_logits(session), expected.data, expected.elements);
  /* an ordinary float32 forward pass of these networks is off by 1e-7 to 3e-6 */
  CHECK(e <= 1e-5, "%s: logits off by %.3g (infinite: %s is missing, damaged or another network's)", name, e, path);
  free(expected.data);
  maps = run_maps(root, name, "maps.txt", full, session, watched, &d, map, pixels);
  maps += run_maps(root, name, "label_free.txt", full, session, watched, &d, map, pixels);
  run_methods(root, name, full, model, session, map, pixels);
  CHECK(run_errors(root, name, session, map) + maps > 0, "%s has neither maps nor errors", name);
done:
  agf_session_destroy(session);
  agf_session_destroy(watched);
  agf_model_close(model);
  free(input.data);
  free(x);
  free(map);
  return d.compared;
}

/* Every case that a folder lists. Returns how many nodes' cam and g were compared. */
static int run_folder(const char *root, int full) {
  char path[1024], name[256];
  int compared = 0;
  FILE *list;
  snprintf(path, sizeof path, "%s/cases.txt", root);
  list = open_list(path);
  while (list && fscanf(list, "%255s", name) == 1)
    if (tests_wanted("", name)) compared += run_case(root, name, full);
  if (list) close_list(list, path);
  return compared;
}

int main(int argc, char **argv) {
  char root[512];
  int i = tests_begin(argc, argv), full = argc > i && !strcmp(argv[i], "--full"), m, compared;
  if (i + full < argc) {
    for (i += full; i < argc; i++) run_folder(argv[i], full);
    return tests_end();
  }
  snprintf(root, sizeof root, "%s/golden", tests_folder());
  compared = run_folder(root, 0);
  snprintf(root, sizeof root, "%s/golden-extra", tests_folder());
  run_folder(root, 0);
  if (tests_chosen) return tests_end();
  CHECK(compared > 0, "no node's cam or g was compared");
  for (m = 0; m < AGF_METHODS; m++) {
    CHECK(compared_methods[m], "no map of %s was compared", agf_method_name((agf_method)m));
    CHECK(!!compared_against[m] == !!(agf_method_traits((agf_method)m) & AGF_METHOD_TAKES_AGAINST),
          "%d maps of %s against another class were compared", compared_against[m], agf_method_name((agf_method)m));
  }
  return tests_end();
}
