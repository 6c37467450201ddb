/* The compatibility promise of agf.h: the model file of format version 1 kept in tests/golden-v1 opens for ever, and its maps keep
 * their bits until a version of AGF_BITS_VERSION changes the rules for its ops: version 2 does not, none of its sums may cancel.
 * A newer format is refused by name. `test_v1 --print` prints the table. */
#include "testing.h"
#include "tiny.h"

enum { H = 9, W = 8, CLASSES = 3 };

/* CRC-32 of the map's bytes, little-endian, for each class: plain, and without the regulariser and Fx. */
static const uint32_t maps_v1[CLASSES][2] = {{0x90d4969b, 0xba9aaebd}, {0x7d618941, 0xa6291af3}, {0xf1d79da1, 0x537fb311}};

static const char *path_v1(void) {
  static char path[1024];
  snprintf(path, sizeof path, "%s/golden-v1/all_ops.agf", tests_folder());
  return path;
}

static int print;

static void test_maps(void) {
  float x[3 * H * W], map[H * W];
  uint32_t crc;
  size_t i;
  agf_model *model;
  agf_session *s;
  agf_error err;
  agf_request q;
  int k, o;
  for (i = 0; i < 3 * H * W; i++) x[i] = (float)((int)(i * 2654435761u >> 16 & 255) - 100) / 128;
  CHECK(agf_model_open(path_v1(), NULL, &model, &err) == AGF_OK, "%s", err.message);
  if (!model) return;
  CHECK(agf_model_classes(model) == CLASSES && !strcmp(agf_model_name(model), "all_ops") &&
            !strcmp(agf_model_label(model, 2), "class 2"),
        "name, classes and labels");
  if (agf_session_create(model, NULL, &s, &err) != AGF_OK || agf_run(s, x, 0, &err) != AGF_OK) {
    CHECK(0, "%s", err.message);
    agf_session_destroy(s);
    agf_model_close(model);
    return;
  }
  for (k = 0; k < CLASSES; k++)
    for (o = 0; o < 2; o++) {
      memset(&q, 0, sizeof q);
      q.count = 1;
      q.classes = &k;
      q.options = o ? AGF_OPT_NO_REG | AGF_OPT_NO_FX : 0;
      agf_explain(s, &q, map, &err);
      crc = tiny_crc(0, (const unsigned char *)map, sizeof map);
      if (print) printf("class %d, options 0x%x: 0x%08lx %s\n", k, q.options, (unsigned long)crc, err.message);
      CHECK(err.code == AGF_OK && crc == maps_v1[k][o], "class %d, options 0x%x: the map's bits changed: %08lx, were %08lx (%s)", k,
            q.options, (unsigned long)crc, (unsigned long)maps_v1[k][o], err.message);
    }
  agf_session_destroy(s);
  agf_model_close(model);
}

static void test_file(void) {
  size_t bytes, i;
  unsigned char *data = tiny_model(0, &bytes);
  FILE *f = fopen(path_v1(), "rb");
  for (i = 0; f && i < bytes; i++)
    if (fgetc(f) != data[i]) break;
  CHECK(f && i == bytes && fgetc(f) == EOF, "tests/golden-v1/all_ops.agf is not what tests/tiny.h writes, from byte %lu on",
        (unsigned long)i);
  if (f) fclose(f);
  free(data);
}

static void test_newer(void) {
  size_t bytes;
  unsigned char *data = tiny_model(0, &bytes);
  agf_model *model;
  agf_error err;
  tiny_put32(data + 8, AGF_FORMAT_VERSION + 1);
  tiny_seal(data, bytes);
  CHECK(agf_model_open_memory(data, bytes, NULL, &model, &err) == AGF_ERR_VERSION && strstr(err.message, "format version 3"),
        "a newer file: %s", err.message);
  free(data);
}

int main(int argc, char **argv) {
  int at = tests_begin(argc, argv);
  print = at < argc && !strcmp(argv[at], "--print");
  RUN(test_maps);
  RUN(test_file);
  RUN(test_newer);
  return tests_end();
}
