/* agf info: what a model file holds, and the memory it needs. */
#ifndef CLI_INFO_H
#define CLI_INFO_H

#include "cli_names.h"

/* What `agf info` tells besides the layers. */
typedef struct facts {
  const agf_model *model;
  const char *name, *source, *path;
  agf_input input;
  int height, width;         /* the size that memory and layers are told for */
  size_t memory, low_memory; /* bytes of a session */
} facts;

static void print_numbers(const float *numbers, int count, const char *between) {
  int i;

  for (i = 0; i < count; i++) printf("%s%.6g", i ? between : "", numbers[i]);
}

static void print_facts(const facts *f) {
  enum { LABELS_SHOWN = 5 };
  const double mebibyte = 1024.0 * 1024.0;
  int classes = agf_model_classes(f->model), channels = f->input.channels < 4 ? f->input.channels : 4, k;

  printf("name        ");
  print_clean(*f->name ? f->name : "(none)");
  printf("\nsource      ");
  print_clean(*f->source ? f->source : "(unknown)");
  printf("\ninput       %d x %d x %d (channels, height, width)\n", f->input.channels, f->input.height, f->input.width);
  printf("pictures    ");
  if (!f->input.is_picture) {
    printf("the file carries no preprocessing; give tensors as .npy\n");
  } else {
    if (f->input.resize == AGF_RESIZE_CROP)
      printf("shorter side to %d pixels, then the centre", f->input.resize_to);
    else
      printf("stretched to the input's size");
    printf("; %s, 0 to %.6g, mean ",
           channels == 1                                ? "gray"
           : f->input.channel_order == AGF_CHANNELS_BGR ? "BGR"
                                                        : "RGB",
           f->input.range);
    print_numbers(f->input.mean, channels, " ");
    printf(", std ");
    print_numbers(f->input.std, channels, " ");
    putchar('\n');
  }
  if (f->input.is_affine) {
    printf("tensors     as the original network takes them: it scales and shifts channels itself (");
    for (k = 0; k < channels; k++) {
      float scale, bias;

      agf_model_affine(f->model, k, &scale, &bias);
      printf("%s%.6g x %+.6g", k ? ", " : "", scale, bias);
    }
    printf(")\n");
  }
  printf("answers     %s\n", f->input.head == AGF_HEAD_SOFTMAX ? "one class of all: probabilities sum to 1"
                             : f->input.head == AGF_HEAD_SIGMOID
                                 ? "classes that do not exclude one another, each with its own probability"
                                 : "scores; the file does not say what makes probabilities of them");
  printf("classes     %d", classes);
  for (k = 0; k < classes && k < LABELS_SHOWN && *agf_model_label(f->model, k); k++) {
    printf("%s", k ? ", " : ": ");
    print_clean(agf_model_label(f->model, k));
  }
  printf("%s\n", k && k < classes ? ", ..." : k ? "" : ", without labels");
  printf("parameters  %llu\n", (unsigned long long)agf_model_parameters(f->model));
  printf("file        %.2f MiB\n", (double)agf_model_file_bytes(f->model) / mebibyte);
  printf("memory      %.1f MiB for a session at %dx%d, %.1f MiB with low memory\n\n", (double)f->memory / mebibyte, f->width,
         f->height, (double)f->low_memory / mebibyte);
}

/* "3", "3x5" or "-" for a pair that the op does not use. */
static const char *pair_text(const int pair[2], char text[24]) {
  if (!pair[0]) return "-";
  if (pair[0] == pair[1])
    snprintf(text, 24, "%d", pair[0]);
  else
    snprintf(text, 24, "%dx%d", pair[0], pair[1]);
  return text;
}

static const char *pad_text(const agf_layer *layer, char text[48]) {
  const int *p = layer->pad;

  if (!layer->kernel[0]) return "-";
  if (p[0] == p[1] && p[0] == p[2] && p[0] == p[3])
    snprintf(text, 48, "%d", p[0]);
  else
    snprintf(text, 48, "%d,%d,%d,%d", p[0], p[1], p[2], p[3]);
  return text;
}

/* The tensors that layer i reads: "image", or the numbers of layers. */
static const char *inputs_text(const agf_model *model, int i, const agf_layer *layer, char text[96]) {
  int j;

  text[0] = 0;
  for (j = 0; j < layer->inputs; j++) {
    int from = agf_model_layer_input(model, i, j);
    size_t used = strlen(text);

    if (used > 80) {
      snprintf(text + used, 96 - used, "...");
      break;
    }
    if (from == 0)
      snprintf(text + used, 96 - used, "%simage", j ? "," : "");
    else
      snprintf(text + used, 96 - used, "%s%d", j ? "," : "", from - 1);
  }
  return text;
}

static void print_layers(const facts *f) {
  char kernel[24], stride[24], pad[48], shape[48], inputs[96], notes[80];
  int width = name_columns(f->model), i;
  agf_layer layer;

  printf("%4s  ", "#");
  print_padded("name", width);
  printf("  %-16s %-9s %6s %6s %8s  %-18s %11s\n", "op", "reads", "kernel", "stride", "pad", "output", "parameters");
  for (i = 0; i < agf_model_layers(f->model); i++) {
    if (agf_model_layer(f->model, i, f->height, f->width, &layer, NULL)) continue;
    notes[0] = 0;
    if (layer.flat) snprintf(notes, sizeof notes, "  flat");
    if (layer.groups > 1) snprintf(notes + strlen(notes), sizeof notes - strlen(notes), "  %d groups", layer.groups);
    if (layer.dilation[0] > 1 || layer.dilation[1] > 1)
      snprintf(notes + strlen(notes), sizeof notes - strlen(notes), "  dilation %s", pair_text(layer.dilation, kernel));
    printf("%4d  ", i);
    print_padded(layer.name, width);
    printf("  %-16s %-9s %6s %6s %8s  %-18s %11llu%s\n", agf_op_name(layer.op), inputs_text(f->model, i, &layer, inputs),
           pair_text(layer.kernel, kernel), pair_text(layer.stride, stride), pad_text(&layer, pad), shape_text(layer.shape, shape),
           (unsigned long long)layer.parameters, notes);
  }
}

static void print_json_ints(const char *key, const int *numbers, int count) {
  int i;

  printf(", \"%s\": [", key);
  for (i = 0; i < count; i++) printf("%s%d", i ? ", " : "", numbers[i]);
  printf("]");
}

static void print_facts_json(const facts *f) {
  int channels = f->input.channels < 4 ? f->input.channels : 4, k, i, j;
  bool labelled = *agf_model_label(f->model, 0);
  agf_layer layer;

  printf("{\"file\": ");
  json_string(f->path);
  printf(", \"name\": ");
  json_string(f->name);
  printf(", \"source\": ");
  json_string(f->source);
  printf(", \"input\": {\"channels\": %d, \"height\": %d, \"width\": %d}, \"preprocessing\": ", f->input.channels, f->input.height,
         f->input.width);
  if (f->input.is_picture) {
    printf("{\"channels\": \"%s\", \"resize\": \"%s\", \"resize_to\": %d, \"range\": %.9g, \"mean\": [",
           channels == 1                                ? "gray"
           : f->input.channel_order == AGF_CHANNELS_BGR ? "bgr"
                                                        : "rgb",
           f->input.resize == AGF_RESIZE_CROP ? "crop" : "stretch", f->input.resize_to, f->input.range);
    print_numbers(f->input.mean, channels, ", ");
    printf("], \"std\": [");
    print_numbers(f->input.std, channels, ", ");
    printf("]}");
  } else {
    printf("null");
  }
  printf(", \"head\": \"%s\", \"classes\": %d, \"labels\": [",
         f->input.head == AGF_HEAD_SOFTMAX   ? "softmax"
         : f->input.head == AGF_HEAD_SIGMOID ? "sigmoid"
                                             : "none",
         agf_model_classes(f->model));
  for (k = 0; labelled && k < agf_model_classes(f->model); k++) {
    printf("%s", k ? ", " : "");
    json_string(agf_model_label(f->model, k));
  }
  printf("], \"parameters\": %llu, \"file_bytes\": %llu, \"session\": {\"height\": %d, \"width\": %d, \"bytes\": %zu, "
         "\"low_memory_bytes\": %zu}, \"layers\": [",
         (unsigned long long)agf_model_parameters(f->model), (unsigned long long)agf_model_file_bytes(f->model), f->height,
         f->width, f->memory, f->low_memory);
  for (i = 0; i < agf_model_layers(f->model); i++) {
    if (agf_model_layer(f->model, i, f->height, f->width, &layer, NULL)) continue;
    printf("%s{\"name\": ", i ? ", " : "");
    json_string(layer.name);
    printf(", \"op\": \"%s\", \"inputs\": [", agf_op_name(layer.op));
    for (j = 0; j < layer.inputs; j++) printf("%s%d", j ? ", " : "", agf_model_layer_input(f->model, i, j) - 1); /* -1: the image */
    printf("]");
    print_json_ints("shape", layer.shape, 3);
    print_json_ints("kernel", layer.kernel, 2);
    print_json_ints("stride", layer.stride, 2);
    print_json_ints("dilation", layer.dilation, 2);
    print_json_ints("pad", layer.pad, 4);
    printf(", \"groups\": %d, \"flat\": %s, \"parameters\": %llu}", layer.groups, layer.flat ? "true" : "false",
           (unsigned long long)layer.parameters);
  }
  printf("]}\n");
}

static int run_info(const options *asked) {
  agf_session_config config;
  agf_model *model;
  agf_error error;
  facts f;

  if (asked->arguments.count != 1) fatal("info needs one model file: agf info MODEL");
  model = open_model(asked->arguments.items[0]);
  f.model = model;
  f.path = asked->arguments.items[0];
  f.name = agf_model_name(model);
  f.source = agf_model_source(model);
  agf_model_input(model, &f.input);
  f.height = asked->height ? asked->height : f.input.height;
  f.width = asked->width ? asked->width : f.input.width;
  memset(&config, 0, sizeof config);
  config.height = f.height;
  config.width = f.width;
  config.threads = asked->threads;
  if (agf_session_bytes(model, &config, &f.memory, &error)) fatal("%s: %s", f.path, error.message);
  config.low_memory = 1;
  if (agf_session_bytes(model, &config, &f.low_memory, &error)) fatal("%s: %s", f.path, error.message);
  if (asked->json) {
    print_facts_json(&f);
  } else {
    print_facts(&f);
    print_layers(&f);
  }
  agf_model_close(model);
  return EXIT_SUCCESS;
}

#endif
