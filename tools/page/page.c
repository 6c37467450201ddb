/* The engine as the web page uses it: one model, one session, one picture, in WebAssembly. The worker (worker.js) calls these from
 * JavaScript, which reads and writes the memory at the addresses that they return. Status 0 is success, else page_message() says why. */
#include "../../agf.c"

#define PAGE(name) __attribute__((export_name(#name), visibility("default"))) name

static struct {
  agf_model *model;
  agf_session *session;
  agf_input input;
  unsigned methods; /* that the session is planned for */
  int filled;       /* chw, with the picture */
  int has_run;      /* the session, the picture that is shown */
  int mapped;       /* map, of that picture */
  unsigned char *file;
  uint8_t *rgb, *rgba; /* the picture as it is, and what is shown */
  float *chw, *map;
  agf_rect seen;
  int width, height;
  agf_error error;
} page;

/* What belongs to the picture or the network before is gone. */
static void page_forget(void) { page.filled = page.has_run = page.mapped = 0; }

static int page_fails(const char *what) {
  page.error.code = AGF_ERR_MEMORY;
  snprintf(page.error.message, sizeof page.error.message, "%s does not fit into the browser's memory", what);
  return AGF_ERR_MEMORY;
}

const char *PAGE(page_message)(void) { return page.error.message; }

/* Closes the model that was open. Room for a file of `bytes`, to be filled before page_open(); 0: none. */
unsigned char *PAGE(page_file)(size_t bytes) {
  agf_session_destroy(page.session);
  agf_model_close(page.model);
  free(page.file);
  page_forget();
  page.session = NULL;
  page.model = NULL;
  page.file = bytes <= SIZE_MAX - AGF_ALIGN ? (unsigned char *)aligned_alloc(AGF_ALIGN, agf_align_up(bytes)) : NULL;
  if (!page.file) page_fails("the model");
  return page.file;
}

int PAGE(page_open)(size_t bytes) {
  size_t pixels;
  if (agf_model_open_memory(page.file, bytes, NULL, &page.model, &page.error)) return page.error.code;
  agf_model_input(page.model, &page.input);
  if (!page.input.is_picture)
    return agf_fail(&page.error, AGF_ERR_UNSUPPORTED,
                    "the model file does not say how pictures are prepared for it: convert it with --mean and --std");
  pixels = (size_t)page.input.height * (size_t)page.input.width;
  free(page.chw);
  free(page.map);
  page.chw = (float *)malloc((size_t)page.input.channels * pixels * sizeof(float));
  page.map = (float *)malloc(pixels * sizeof(float));
  page.methods = 0;
  return page.chw && page.map ? AGF_OK : page_fails("the network's input");
}

const char *PAGE(page_name)(void) { return agf_model_name(page.model); }
int PAGE(page_classes)(void) { return agf_model_classes(page.model); }
const char *PAGE(page_label)(int k) { return agf_model_label(page.model, k); }
int PAGE(page_input)(int side) { return side ? page.input.width : page.input.height; }
const char *PAGE(page_method)(int i) { return agf_method_name((agf_method)i); }
int PAGE(page_method_is_positive)(int i) { return (agf_method_traits((agf_method)i) & AGF_METHOD_NOT_NEGATIVE) != 0; }

/* Room for a picture as RGBA, to be filled before page_run() and read after page_draw(). */
uint8_t *PAGE(page_picture)(int width, int height) {
  size_t pixels = (size_t)width * (size_t)height;
  page_forget();
  free(page.rgb);
  free(page.rgba);
  page.rgb = (uint8_t *)malloc(3 * pixels);
  page.rgba = (uint8_t *)malloc(4 * pixels);
  page.width = width;
  page.height = height;
  if (page.rgb && page.rgba) return page.rgba;
  page_fails("the picture");
  return NULL;
}

static int page_session(int method) {
  agf_session_config config;
  memset(&config, 0, sizeof config);
  if (page.session && (page.methods & AGF_METHOD_BIT(method))) return AGF_OK;
  agf_session_destroy(page.session);
  page.session = NULL;
  page.has_run = 0;
  config.threads = 1;
  config.methods = page.methods | AGF_METHOD_BIT(method);
  if (agf_session_create(page.model, &config, &page.session, &page.error)) return page.error.code;
  page.methods = config.methods; /* a method that cannot be planned is not asked for again with the next one */
  return AGF_OK;
}

static int page_forward(void) {
  agf_status status = agf_run(page.session, page.chw, AGF_RUN_EXPLAIN, &page.error);
  page.has_run = status == AGF_OK;
  return status;
}

int PAGE(page_run)(void) {
  size_t i, pixels = (size_t)page.width * (size_t)page.height;
  for (i = 0; i < pixels; i++) memcpy(page.rgb + 3 * i, page.rgba + 4 * i, 3);
  if (agf_picture_to_input(page.model, 0, 0, page.rgb, page.width, page.height, 3 * (size_t)page.width, page.chw, &page.seen,
                           &page.error))
    return page.error.code;
  page.filled = 1;
  if (page_session(AGF_METHOD_AGF)) return page.error.code;
  return page_forward();
}

int PAGE(page_ranked)(int r) { return agf_ranked(page.session, r); }
double PAGE(page_logit)(int k) { return k >= 0 && k < agf_model_classes(page.model) ? (double)agf_logits(page.session)[k] : 0; }
double PAGE(page_probability)(int k) { return agf_probability(page.session, k); }

/* The map of class k, [input's height][width] floats; 0: page_message(). A method that the session is not planned for makes a new one. */
float *PAGE(page_explain)(int k, int method) {
  agf_request request;
  memset(&request, 0, sizeof request);
  request.method = (agf_method)method;
  request.count = 1;
  request.classes = &k;
  page.mapped = 0;
  if (!page.filled) {
    agf_fail(&page.error, AGF_ERR_STATE, "there is no picture that the network has seen");
    return NULL;
  }
  if (page_session(method) || (!page.has_run && page_forward())) return NULL;
  page.mapped = agf_explain(page.session, &request, page.map, &page.error) == AGF_OK;
  return page.mapped ? page.map : NULL;
}

/* The value at the end of the map's colours. */
double PAGE(page_scale)(void) { return agf_map_scale(page.map, page.input.height, page.input.width); }

/* Where page_draw() leaves the figure. */
uint8_t *PAGE(page_address)(void) { return page.rgba; }

/* The map over the picture, in gray unless colour is set. */
int PAGE(page_draw)(int method, double alpha, int colour) {
  size_t i, pixels = (size_t)page.width * (size_t)page.height;
  agf_colormap cmap = agf_method_traits((agf_method)method) & AGF_METHOD_NOT_NEGATIVE ? AGF_CMAP_VIRIDIS : AGF_CMAP_RDBU;
  uint8_t *shown;
  int status;
  if (!page.mapped) return agf_fail(&page.error, AGF_ERR_STATE, "there is no map to draw");
  shown = (uint8_t *)malloc(3 * pixels);
  if (!shown) return page_fails("the figure");
  memcpy(shown, page.rgb, 3 * pixels);
  status = colour ? AGF_OK : agf_photo_mute(&page.seen, shown, page.width, page.height, 3 * (size_t)page.width, &page.error);
  if (status == AGF_OK)
    status = agf_overlay(page.map, page.input.height, page.input.width, cmap, 0, (float)alpha, &page.seen, shown, page.width,
                         page.height, 3 * (size_t)page.width, &page.error);
  for (i = 0; i < pixels; i++) {
    memcpy(page.rgba + 4 * i, shown + 3 * i, 3);
    page.rgba[4 * i + 3] = 255;
  }
  free(shown);
  return status;
}

/* 4 * 256 bytes RGBA from one end of the colours to the other; the map's values are not needed. */
uint8_t *PAGE(page_bar)(int method) {
  static float ramp[256];
  static uint8_t bar[4 * 256];
  int i, positive = page_method_is_positive(method);
  for (i = 0; i < 256; i++) ramp[i] = positive ? (float)i / 255 : (float)i / 127.5f - 1;
  agf_render(ramp, 1, 256, positive ? AGF_CMAP_VIRIDIS : AGF_CMAP_RDBU, 1, bar, 256, 1, sizeof bar, 4, NULL);
  for (i = 0; i < 256; i++) bar[4 * i + 3] = 255;
  return bar;
}
