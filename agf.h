/* AGF in C: attribution maps for convolutional networks, on any CPU.
 *
 * Attribution Guided Factorization (Gur, Ali, Wolf, AAAI 2021, arXiv 2012.02166) answers, for a picture and any class, which
 * pixels spoke for that class. This header is the whole public API of the engine; agf.c (with kernels/) is the engine. It needs
 * libc, libm and, unless AGF_NO_THREADS is defined, pthreads.
 *
 *   agf_model   *model;    agf_model_open("net.agf", NULL, &model, &err);
 *   agf_session *session;  agf_session_create(model, NULL, &session, &err);
 *   agf_run(session, chw, AGF_RUN_EXPLAIN, &err);         // forward pass, image [C][H][W]
 *   agf_explain(session, &request, maps, &err);           // maps [n][H][W]
 *
 * Rules that hold for every function:
 *  - It never prints, exits or asserts on input. It returns AGF_OK or a code, and fills *err (which may be NULL) with a message
 *    that names what is wrong and where. On an error, outputs through pointers are NULL or unspecified, and nothing leaks.
 *  - NULL for a model or session is AGF_ERR_ARGUMENT; functions that give no status give "", 0 or -1.
 *  - Pointers it returns belong to the object they came from and live as long as it does; no other ownership passes.
 *  - A model is immutable: any number of threads may share one. A session is used by one thread at a time; any number of
 *    sessions may work side by side. A call for a session that is at work, from one of its own callbacks or from another thread,
 *    is AGF_ERR_STATE; callbacks return, and do not destroy the session.
 *  - After fork() the child may go on with the model, with new sessions, and with those that have no threads of their own. One that
 *    has threads lost them: running and explaining are AGF_ERR_STATE there, destroying it is allowed and waits for nobody.
 *  - Arrays that a call writes overlap neither each other nor what it reads, nor the memory of the session and the model, but where
 *    their function says so. Overlaps that can be told are AGF_ERR_ARGUMENT.
 *  - The same input gives the same bits on every instruction set, thread count and compiler. The caller's rounding mode and
 *    flush-to-zero bits are set aside while the engine works and given back.
 *
 *  - The structs that a caller fills may grow by fields whose 0 means what was before: make them all 0, then set what is wanted.
 *    `agf_request q = {0};` in C, `agf_request q = {};` in C++ (in C too from C23 on), memset(&q, 0, sizeof q) in both.
 *
 * Compatibility. AGF_VERSION_MAJOR changes when a program that compiled and ran against this header may no longer do so;
 * AGF_VERSION_MINOR when something is added; AGF_VERSION_PATCH when neither. AGF_FORMAT_VERSION is the version of model files:
 * every engine reads all versions up to its own and refuses newer ones by name. AGF_BITS_VERSION changes when a map of an
 * existing method may differ in any bit from what an earlier engine made of the same file and input. */
#ifndef AGF_H
#define AGF_H

#include <stddef.h>
#include <stdint.h>

#define AGF_VERSION_MAJOR 1
#define AGF_VERSION_MINOR 0
#define AGF_VERSION_PATCH 0
#define AGF_FORMAT_VERSION 2
#define AGF_BITS_VERSION 2

/* Build switches, defined where agf.c is compiled; what each takes off the code (x86-64, gcc 12 -O2: 340 KB with all).
 *
 *   AGF_NO_SIMD     portable kernels alone: the same bits, several times slower                150 KB
 *   AGF_NO_METHODS  no methods but agf, agf_a and agf_lc                                         14 KB
 *   AGF_NO_FILE     no agf_model_open, no open and mmap: models come from memory                  1 KB
 *   AGF_NO_THREADS  no pthreads: `threads` counts for the caller's parallel_for alone, 0 is 1     2 KB
 *   AGF_NO_CLOCK    no clock is read: agf_layer_times gives zeros                                .4 KB
 *
 * With the last three, what is left needs no operating system: memory from an allocator or the caller, snprintf, getenv and libm.
 *
 * AGF_API, defined before agf.h and agf.c are included, is what all functions are declared with: `static` for a single translation
 * unit (functions that it does not call are then no warning), __declspec(dllexport) and the like. A shared library that holds a copy of
 * the engine for itself compiles agf.c with -fvisibility=hidden: else, on ELF systems, the first copy that is loaded, perhaps of another
 * version, serves every library of the process. */
#ifndef AGF_API
#define AGF_API
#elif defined(__GNUC__)
#define AGF_API_OWN
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status and errors ------------------------------------------------------------------------------------------------- */

typedef enum agf_status {
  AGF_OK = 0,
  AGF_ERR_ARGUMENT,    /* a NULL, negative, misaligned or contradictory argument */
  AGF_ERR_IO,          /* the file cannot be opened or read */
  AGF_ERR_FORMAT,      /* not a model file, or a damaged one */
  AGF_ERR_VERSION,     /* a model file of a newer format */
  AGF_ERR_UNSUPPORTED, /* valid, but outside what the method can explain (a last layer without a seed, one class) */
  AGF_ERR_SHAPE,       /* an input size that the network cannot take */
  AGF_ERR_MEMORY,      /* the allocator gave NULL, or the caller's memory is too small */
  AGF_ERR_LIMIT,       /* more than max_bytes or the address space, or a count beyond the engine's caps */
  AGF_ERR_NUMERIC,     /* a non-finite activation, a map without support (all zeros before normalisation), an image of one value */
  AGF_ERR_STATE,       /* called in the wrong order (agf_explain before agf_run), from a callback, or after fork() */
  AGF_ERR_CANCELLED,   /* the progress callback asked to stop */
  AGF_ERR_BUILD        /* compiled with options that break the promise of equal bits (-ffast-math, forced contraction) */
} agf_status;

typedef struct agf_error {
  agf_status code;
  char message[256]; /* one line of UTF-8, NUL-terminated; long names and paths lose their middle, what is no text is '?' */
} agf_error;

/* A static string such as "AGF_ERR_SHAPE". Never NULL. */
AGF_API const char *agf_status_name(agf_status status);

/* "1.0.0": the version of the engine that is linked. */
AGF_API const char *agf_version(void);

/* sizeof the struct of this header that is called `name`, such as "agf_request", as the linked engine was compiled; 0: there is none.
 * For programs that were not compiled with this very header, such as bindings of other languages: a struct that has another size
 * there is read or written beyond its end. */
AGF_API size_t agf_struct_bytes(const char *name);

/* ---- Memory ------------------------------------------------------------------------------------------------------------ */

/* Where the engine gets memory. alloc returns 64-byte aligned memory (malloc does not; what is not aligned is given back and
 * refused) or NULL; free takes back what alloc gave. Both are called
 * only from model and session creation and destruction and, for the time of the call, from agf_session_bytes, agf_model_layer (for
 * another size than the nominal one) and agf_picture_to_input: nothing is allocated while running or explaining. NULL instead of a
 * struct: malloc and free. */
typedef struct agf_allocator {
  void *(*alloc)(void *ctx, size_t bytes);
  void (*free)(void *ctx, void *memory, size_t bytes);
  void *ctx;
} agf_allocator;

/* ---- Models ------------------------------------------------------------------------------------------------------------ */

typedef struct agf_model agf_model;

typedef struct agf_model_config {
  const agf_allocator *allocator; /* NULL: malloc; must outlive the model */
  size_t max_bytes;               /* refuse files larger than this; 0: no cap */
} agf_model_config;

/* Open a model file. The file is mapped: one copy of the weights, shared by all sessions and, through the page cache, by all
 * processes. Checked completely (CRCs, every count, shape and offset, finite weights) before it returns. Truncating the file
 * while it is open is undefined behaviour, as for any mapped file. config may be NULL. Not available with AGF_NO_FILE. */
#ifndef AGF_NO_FILE
AGF_API agf_status agf_model_open(const char *path, const agf_model_config *config, agf_model **model, agf_error *err);
#endif

/* The same from memory: borrowed, not copied; must be 64-byte aligned and stay unchanged while the model is open. */
AGF_API agf_status agf_model_open_memory(const void *data, size_t bytes, const agf_model_config *config, agf_model **model,
                                         agf_error *err);

/* Close a model. All its sessions must be destroyed before. NULL is allowed. */
AGF_API void agf_model_close(agf_model *model);

enum { AGF_CHANNELS_RGB = 0, AGF_CHANNELS_BGR = 1 };
enum { AGF_RESIZE_STRETCH = 0, AGF_RESIZE_CROP = 1 };

/* What makes probabilities of the logits. */
enum {
  AGF_HEAD_SOFTMAX = 0, /* one label of many: the probabilities of all classes sum to 1 */
  AGF_HEAD_SIGMOID = 1, /* labels that do not exclude one another: each has a probability of its own */
  AGF_HEAD_NONE = 2     /* unknown: logits only */
};

/* How the network wants its pictures: resize, crop, then (value / 255 * range - mean[c]) / std[c] per channel c of the network's
 * own channel order. */
typedef struct agf_input {
  int channels, height, width; /* the nominal input; other sizes are allowed where the network's ops allow them */
  int is_picture;              /* 1: the fields below hold; 0: the network was converted without preprocessing */
  int channel_order;           /* AGF_CHANNELS_* */
  int resize;                  /* AGF_RESIZE_STRETCH: to height x width; AGF_RESIZE_CROP: shorter side to resize_to, then cropped */
  int resize_to;               /* pixels, at the nominal size; scaled with other sizes */
  float range;                 /* what 255 becomes before mean and std: 1 or 255 */
  float mean[4], std[4];
  int is_affine;               /* 1: the network itself scales and shifts each channel of the tensor that agf_run takes, before
                                * anything else (agf_model_affine); the image that maps speak of is what comes out of that */
  int head;                    /* AGF_HEAD_*: what makes probabilities of the logits (agf_probability) */
} agf_input;

/* Scale and bias of channel c that the network applies to its input itself: image = scale * tensor + bias. 1 and 0 where it does
 * nothing of the kind, or c is out of range. */
AGF_API void agf_model_affine(const agf_model *model, int c, float *scale, float *bias);

AGF_API void agf_model_input(const agf_model *model, agf_input *input);
AGF_API const char *agf_model_name(const agf_model *model);         /* "" if the file carries none */
AGF_API const char *agf_model_source(const agf_model *model);       /* what it was converted from; "" if unknown */
AGF_API int agf_model_classes(const agf_model *model);              /* K, the number of logits */
AGF_API const char *agf_model_label(const agf_model *model, int k); /* "" without labels or for k out of range */
/* The classes that `label` may mean: those whose label it is; else, ignoring the case of ASCII letters, those whose label it is, of whose
 * label it is one of the names between commas ("cup" of "mug, cup"), whose label holds it. The first of these that finds any decides.
 * Their number; the first `room` of them, ascending, are written to classes (may be NULL). 1: it is clear which is meant. 0 for "",
 * without labels, and for NULL. */
AGF_API int agf_model_find(const agf_model *model, const char *label, int *classes, int room);
AGF_API uint64_t agf_model_parameters(const agf_model *model);      /* weights, biases, scales, without fill */
AGF_API uint64_t agf_model_file_bytes(const agf_model *model);
/* What tells the file from any other: its two CRC-32s, the header's in the upper half. For what is kept beside a model and must not be
 * taken for another's, such as latent vectors. */
AGF_API uint64_t agf_model_checksum(const agf_model *model);

/* The numbers are those of the file format. */
typedef enum agf_op {
  AGF_OP_CONV = 1,
  AGF_OP_BATCHNORM = 2,
  AGF_OP_RELU = 3,
  AGF_OP_RELU6 = 4,
  AGF_OP_MAXPOOL = 5,
  AGF_OP_AVGPOOL = 6,
  AGF_OP_ADAPTIVE_AVGPOOL = 7,
  AGF_OP_GLOBAL_AVGPOOL = 8,
  AGF_OP_LINEAR = 9,
  AGF_OP_FLATTEN = 10,
  AGF_OP_ADD = 11,
  AGF_OP_CONCAT = 12,
  AGF_OP_ACT = 13, /* this and the following since version 2 of the format */
  AGF_OP_MUL = 14,
  AGF_OP_NORM = 15,
  AGF_OP_LRN = 16,
  AGF_OP_SLICE = 17,
  AGF_OP_SHUFFLE = 18,
  AGF_OP_PAD = 19,
  AGF_OP_GLOBAL_MAXPOOL = 20,
  AGF_OP_RESIZE = 21
} agf_op;

AGF_API const char *agf_op_name(agf_op op); /* "conv", "maxpool" ...; "?" for an unknown number */

typedef struct agf_layer {
  const char *name;
  agf_op op;
  int inputs;             /* how many tensors it reads */
  int shape[3];           /* [C, H, W] of its output at the asked input size; a flattened tensor: [N, 1, 1] */
  int kernel[2], stride[2], dilation[2];
  int pad[4];             /* top, left, bottom, right */
  int groups;
  int flat;               /* a convolution that the attribution passes flat (agf-spec, "Conv, flat") */
  uint64_t parameters;
} agf_layer;

AGF_API int agf_model_layers(const agf_model *model); /* number of nodes, in topological order */
/* Layer i at input size height x width (0, 0: nominal). AGF_ERR_SHAPE names the layer that cannot take the size. Takes scratch from
 * the model's allocator where the size is not the nominal one. */
AGF_API agf_status agf_model_layer(const agf_model *model, int i, int height, int width, agf_layer *layer, agf_error *err);
/* Layer i's input j: 0 is the image, n + 1 the output of layer n; -1 out of range. */
AGF_API int agf_model_layer_input(const agf_model *model, int i, int j);

/* ---- Sessions ---------------------------------------------------------------------------------------------------------- */

typedef struct agf_session agf_session;

/* The methods (agf-spec). The first three are normalised: of the attribution's elements [C, H, W] the strongest is 1 and none is
 * above it. A pixel of the map is the sum over its C channels: a map reaches at most C, and may go far below 0, as evidence against
 * a class has no bound. Where all of it speaks against the class the strongest element is -1 and no pixel is above 0. The others'
 * maps are raw: signed but where said otherwise, summed over the image's channels. The time of a map is given in passes through the
 * network, about one forward pass each. */
typedef enum agf_method {
  AGF_METHOD_AGF = 0,             /* Attribution Guided Factorization; about 5 */
  AGF_METHOD_AGF_A,               /* AGF without M, Fx and Fdx: the paper's rules where they scale with the evidence; about 4 */
  AGF_METHOD_AGF_LC,              /* the same from a local contrast at each position; what makes the logits must
                                   * read nothing but a global average pool's output */
  AGF_METHOD_GRADIENT,            /* |d logit / d image|, not negative; 2 */
  AGF_METHOD_GRADIENT_X_INPUT,    /* image * d logit / d image; 2 */
  AGF_METHOD_SMOOTHGRAD,          /* |mean gradient of noisy copies of the image|, not negative; 2 for each sample */
  AGF_METHOD_INTEGRATED_GRADIENTS,/* image * mean gradient on the way from a zero image: sums to z(image) - z(0); 2 a step */
  AGF_METHOD_GRADCAM,             /* Grad-CAM of a layer, 0 to 1; less than 2 */
  AGF_METHOD_FULLGRAD,            /* FullGrad, not negative; 2 */
  AGF_METHOD_LRP_A1B0,            /* layer-wise relevance propagation, alpha 1, beta 0; 3 to 5 */
  AGF_METHOD_LRP_A2B1,            /* alpha 2, beta 1; 5 to 9 */
  AGF_METHOD_CLRP,                /* contrastive LRP: against all other classes alike; twice lrp_a1b0 */
  AGF_METHOD_SGLRP,               /* softmax gradient LRP: against the others by their probability; twice lrp_a1b0 */
  AGF_METHOD_LAYERCAM,            /* LayerCAM: as gradcam, each pixel by its own gradient where that is above 0; finer; less than 2 */
  AGF_METHOD_HIRESCAM,            /* HiResCAM: as gradcam, each pixel by its own gradient; less than 2 */
  AGF_METHOD_LRP_LC,              /* LRP from agf_lc's local contrast, for the networks that agf_lc takes; as lrp_a1b0 */
  AGF_METHODS                     /* their number */
} agf_method;

/* A method in agf_session_config.methods. */
#define AGF_METHOD_BIT(method) (1u << (method))
#define AGF_METHODS_ALL (AGF_METHOD_BIT(AGF_METHODS) - 1u)

AGF_API const char *agf_method_name(agf_method method); /* "agf", "lrp_a1b0" ...; "?" for an unknown number */

/* What a method is, and what a request may ask of it. */
enum {
  AGF_METHOD_BUILT = 1,             /* this engine has it: one built with AGF_NO_METHODS has agf, agf_a and agf_lc alone */
  AGF_METHOD_TAKES_OPTIONS = 2,     /* agf_request.options */
  AGF_METHOD_TAKES_DIFFERENCE = 4,  /* agf_request.difference, the label-free procedure */
  AGF_METHOD_TAKES_STEPS = 8,       /* agf_request.steps */
  AGF_METHOD_TAKES_SAMPLES = 16,    /* agf_request.samples and seed */
  AGF_METHOD_TAKES_LAYER = 32,      /* agf_request.layer */
  AGF_METHOD_NORMALISED = 64,       /* its maps are divided by their strongest evidence; the others' are raw */
  AGF_METHOD_NOT_NEGATIVE = 128,    /* no value of its maps is below 0 */
  AGF_METHOD_PLANNED = 256,         /* a session makes its maps only if its config names it in methods */
  AGF_METHOD_TAKES_AGAINST = 512    /* agf_request.against */
};

/* AGF_METHOD_* above, or-ed together; 0 for a method that is unknown or was not built. */
AGF_API unsigned agf_method_traits(agf_method method);

/* The method called `name`, or -1. An engine built with AGF_NO_METHODS has agf, agf_a and agf_lc and finds no other. */
AGF_API int agf_method_find(const char *name);

/* A view of one node's attribution, for the observer: element (c, h, w) of an array is
 * array[(c / 16) * block_stride + h * row_stride + w * pixel_stride + c % 16]. */
typedef struct agf_observation {
  int node;          /* layer whose output this is; -1: the image */
  int class_index;   /* the class being explained */
  int shape[3];      /* [C, H, W] */
  const float *cam;  /* attribution of the output's elements; NULL for the methods that are gradients */
  const float *g;    /* gradient of the seed's probability (the gradients: of the logit, or of the difference of two); NULL where no
                      * rule below needs it */
  ptrdiff_t block_stride, row_stride, pixel_stride; /* in floats */
} agf_observation;

typedef struct agf_session_config {
  int height, width;   /* input size; 0, 0: the model's nominal size */
  int threads;         /* 0: all cores (with AGF_NO_THREADS: 1); 1: no thread is made */
  int low_memory;      /* 1: recompute what can be instead of keeping it: less memory, more time, the same bits */
  const char *isa;     /* "ref", "avx2", "avx512", "neon"; NULL: the environment's AGF_ISA, else the best there is */
  size_t max_bytes;    /* refuse to need more than this; 0: no cap */
  const agf_allocator *allocator; /* NULL: malloc */
  void *memory;        /* caller's memory for the whole session, 64-byte aligned, instead of allocating; NULL: allocate */
  size_t memory_bytes; /* its size, at least agf_session_bytes() */
  /* Instead of the session's own threads: call task(arg, i) for every i in [0, n), from any threads, and return when all are
   * done. Each i exactly once; those that it leaves out are done by the calling thread. NULL: own threads. */
  void (*parallel_for)(void *ctx, int n, void (*task)(void *arg, int i), void *arg);
  void *parallel_ctx;
  /* Called on the calling thread between layers with the share of the current call that is done, 0 to 1. Nonzero cancels. */
  int (*progress)(void *ctx, double done);
  void *progress_ctx;
  /* Called on the calling thread with every tensor's merged cam and g as the attribution reaches it. A flatten has no tensor of its
   * own, nor has a linear layer or a BatchNorm (unless a convolution takes it along) before its activation. For diagnosis. */
  void (*observer)(void *ctx, const agf_observation *seen);
  void *observer_ctx;
  /* The methods that the memory is planned for, AGF_METHOD_BIT()s or-ed together; agf is always among them. agf_a needs no memory
   * of its own, agf_lc seldom: without being asked for they work wherever they fit what the others need. 0: just that. */
  unsigned methods;
} agf_session_config;

/* The memory that a session with this config needs, everything included, the caller's maps not. config may be NULL. Plans the session
 * in memory from the config's allocator, which it gives back. */
AGF_API agf_status agf_session_bytes(const agf_model *model, const agf_session_config *config, size_t *bytes, agf_error *err);

/* Create a session. All memory is planned and taken here. config may be NULL; it is copied, what it points to is not. */
AGF_API agf_status agf_session_create(const agf_model *model, const agf_session_config *config, agf_session **session,
                                      agf_error *err);

/* Destroy a session; with caller's memory, only ends its threads. NULL is allowed. */
AGF_API void agf_session_destroy(agf_session *session);

AGF_API const char *agf_isa_name(const agf_session *session); /* the instruction set in use: "ref", "avx2" ... */
AGF_API int agf_session_threads(const agf_session *session);

/* ---- Running and explaining -------------------------------------------------------------------------------------------- */

enum {
  AGF_RUN_EXPLAIN = 1 /* also form |W||x| in the forward pass: the first agf_explain is faster by it, with the same bits */
};

/* Run the network on one image, [C][H][W] floats, preprocessed. The image is copied: maps may take its place. A non-finite value in
 * it or in any activation is AGF_ERR_NUMERIC. */
AGF_API agf_status agf_run(agf_session *session, const float *chw, unsigned flags, agf_error *err);

/* The K logits of the last run; NULL before one. Valid until the next run. */
AGF_API const float *agf_logits(const agf_session *session);

/* The r-th largest logit's class (r = 0: the prediction); ties: the lowest index first. -1 before a run or out of range. */
AGF_API int agf_ranked(const agf_session *session, int r);
/* The probability of class k after the last run, as the network's head makes it (agf_input.head), 0 to 1; -1 before a run, out of range,
 * or where the head is AGF_HEAD_NONE. */
AGF_API double agf_probability(const agf_session *session, int k);

/* The latent vector: the input of the layer that makes the logits, in CHW order. */
AGF_API int agf_latent_size(const agf_session *session);
AGF_API agf_status agf_latent(const agf_session *session, float *latent, agf_error *err);

enum {
  AGF_NEIGHBOURS_OTHERS = 1 /* leave out vectors that equal the one that is asked about: the picture itself, and its copies */
};

/* The k nearest of `count` latent vectors, bank [count][size], to each of `queries` others, latents [queries][size], by Euclidean
 * distance: nearest [queries][k] are their places in the bank, nearest first, of equal ones the lower place; distance [queries][k].
 * Where the bank has fewer than k, -1 and infinity. count, queries, size and k are at least 1; a value that is not finite is
 * AGF_ERR_NUMERIC and named by its vector.
 * A blocked matrix product of float32 says which vectors can be among the nearest at all; their distances are then taken in double from
 * the differences, so that vectors which are far from 0 and near each other keep their order, and the result is the same on every
 * instruction set (the environment's AGF_ISA, else the best there is). One thread, no memory but the caller's: 100,000 vectors of 512
 * take about as long as reading them. */
AGF_API agf_status agf_neighbours(const float *bank, int count, const float *latents, int queries, int size, int k, unsigned flags,
                                  int *nearest, double *distance, agf_error *err);

/* The paper's ablations (agf-spec, "Options"); or-ed together. For AGF and agf_a, agf_lc. */
enum {
  AGF_OPT_NO_FX = 1,
  AGF_OPT_NO_FDX = 2,
  AGF_OPT_NO_M = 4,
  AGF_OPT_NO_A = 8,
  AGF_OPT_NO_REG = 16,
  AGF_OPT_FX_GRADCAM = 32
};

typedef struct agf_request {
  agf_method method;
  unsigned options;   /* AGF_OPT_* */
  int count;          /* number of maps */
  const int *classes; /* [count] classes; NULL: the ranks 0 .. count - 1 */
  /* Label-free procedure (agf-spec): the difference of this picture's latent vector and its nearest neighbour's,
   * [agf_latent_size] floats in CHW order, takes the latent vector's place in the seed; ranks then count the classifier's
   * logits of the difference. It is taken over before a map is written: maps may take its place. NULL: the ordinary seed. AGF and
   * agf_a only. */
  const float *difference;
  int *explained;     /* [count], out: the class of each map; may be `classes`; NULL: not wanted */
  int steps;          /* integrated_gradients: images between the zero image and this one; 0: 50 */
  int samples;        /* smoothgrad: noisy images; 0: 50 */
  uint64_t seed;      /* smoothgrad: of the noise; the same seed gives the same map on every machine */
  int layer;          /* gradcam, layercam, hirescam: n + 1 for the output of layer n (as agf_model_layer_input counts); 0: the
                       * default: back from the logits along first inputs, the input of the first pooling to a size, else the
                       * first tensor of more than one pixel */
  int against;        /* u + 1: why each class rather than class u (agf-spec, "One class against another"); 0: the method's
                       * ordinary question. u may not be among the classes (AGF_ERR_ARGUMENT); for agf_lc and lrp_lc its logit
                       * may not equal the class's (AGF_ERR_NUMERIC). A method without AGF_METHOD_TAKES_AGAINST refuses it */
} agf_request;

/* Explain the last run: maps[i][h][w], i < request->count, row-major, in the caller's memory; for AGF, agf_a and agf_lc positive =
 * evidence for class i, negative = evidence against it, for the others and for the scale see agf_method. Several classes share the
 * forward half of the work. A class whose map has no support is AGF_ERR_NUMERIC (a raw map may be all zeros); maps before it are
 * complete. So is an image of one value, for the methods that share the attribution out by how a pixel differs from others: AGF,
 * agf_a, agf_lc and LRP where a convolution reads the image.
 * smoothgrad and integrated_gradients run the network on other images; logits, latent vector and every later map are those of the
 * agf_run before all the same. */
AGF_API agf_status agf_explain(agf_session *session, const agf_request *request, float *maps, agf_error *err);

/* Time spent in one layer by the last agf_run and the agf_explain calls since, in seconds. A layer that was fused into the one
 * before it (BatchNorm, ReLU) has zeros; one whose forward pass is made together with that of a convolution before it (a depthwise
 * convolution, an activation, a sum, a pool) has no forward time, and the convolution that of all. AGF_ERR_ARGUMENT for i out of range. */
typedef struct agf_times {
  double forward, explain;
} agf_times;
AGF_API agf_status agf_layer_times(const agf_session *session, int i, agf_times *times);

/* ---- Pictures ---------------------------------------------------------------------------------------------------------- */

/* A rectangle of a picture, in its pixels; edges may be fractional. */
typedef struct agf_rect {
  double left, top, width, height;
} agf_rect;

/* RGB8 picture (rows of 3 * width bytes, `stride` bytes apart) to the network's input [C][H][W] with the model's own
 * preprocessing: bilinear with antialiasing, as Pillow resizes. height, width: the input size, 0, 0: nominal. *seen (may be
 * NULL) receives the part of the picture that the network sees. Allocates scratch from the model's allocator. */
AGF_API agf_status agf_picture_to_input(const agf_model *model, int height, int width, const uint8_t *rgb, int picture_width,
                                        int picture_height, size_t stride, float *chw, agf_rect *seen, agf_error *err);

/* How pixels stand in memory, as cameras, decoders and video give them. */
typedef enum agf_pixel_format {
  AGF_PIXELS_RGB24 = 0, /* red, green, blue: 3 bytes a pixel */
  AGF_PIXELS_BGR24,     /* blue, green, red */
  AGF_PIXELS_GRAY,      /* 1 byte a pixel */
  AGF_PIXELS_YUV420,    /* planes Y, Cb and Cr, the latter two of half the sides, rounded up (I420) */
  AGF_PIXELS_NV12,      /* a plane Y, then Cb and Cr in turn, of half the sides, rounded up */
  AGF_PIXEL_FORMATS     /* their number */
} agf_pixel_format;

/* "rgb24", "bgr24", "gray", "yuv420", "nv12"; "?" for an unknown number; -1 for an unknown name. */
AGF_API const char *agf_pixel_format_name(agf_pixel_format format);
AGF_API int agf_pixel_format_find(const char *name);

typedef struct agf_picture {
  agf_pixel_format format;
  int width, height;
  const uint8_t *planes[3]; /* those that the format has; [1] and [2] NULL: each follows the one before, rows and all, without a gap */
  size_t strides[3];        /* bytes from row to row of each; 0: no gap between rows */
} agf_picture;

/* Bytes of a picture without gaps; 0 for an unknown format, sides below 1, and what is beyond the address space. */
AGF_API size_t agf_picture_bytes(agf_pixel_format format, int width, int height);

/* Any of these to RGB8, which agf_picture_to_input and agf_overlay take, in rows `stride` bytes apart. Y, Cb and Cr are ITU-R BT.601's in
 * the range of video (Y 16 to 235), and chroma counts for all of its 2 x 2 pixels. `rgb` may be a picture's own memory only where
 * that is RGB24 or BGR24 with the same rows. Allocates nothing. */
AGF_API agf_status agf_picture_to_rgb(const agf_picture *picture, uint8_t *rgb, size_t stride, agf_error *err);

typedef enum agf_colormap {
  AGF_CMAP_SEISMIC = 0, /* dark blue - blue - white - red - dark red */
  AGF_CMAP_JET,
  AGF_CMAP_VIRIDIS,
  AGF_CMAP_TURBO,
  AGF_CMAP_GRAY,
  AGF_CMAP_RDBU,        /* blue - white - red, strongest at its ends (ColorBrewer's RdBu, red for the class): for signed maps */
  AGF_COLORMAPS         /* their number */
} agf_colormap;

/* The colormap called `name` ("seismic", "jet", ...), or -1; the name of one, "?" for an unknown number. */
AGF_API int agf_colormap_find(const char *name);
AGF_API const char *agf_colormap_name(agf_colormap cmap);

/* 1 for those with a middle, negative evidence below it and positive above: seismic and rdbu. */
AGF_API int agf_colormap_is_diverging(agf_colormap cmap);

/* Where a colour scale for a map [height][width] should end: the magnitude that 0.5 % of its pixels exceed. The largest is often
 * several times as large, and would leave all others nearly without colour. Where that is 0, the largest; 1 for a map of zeros;
 * 0 for one that is not finite, and for arguments that are no map. */
AGF_API float agf_map_scale(const float *map, int height, int width);

/* Where a map's evidence for the class lies, in pixels of the map. */
typedef struct agf_box {
  int left, top, width, height;
  double x, y; /* its centre of mass; the middle of the first pixel is at 0.5, 0.5 */
} agf_box;

/* The box of a map's positive evidence: beyond each of its four sides lies at most (1 - share) / 2 of it, share in (0, 1]. A map without
 * positive evidence is AGF_ERR_NUMERIC. */
AGF_API agf_status agf_map_box(const float *map, int height, int width, double share, agf_box *box, agf_error *err);

/* Blurs a finished map of any method in place: a Gaussian of deviation sigma pixels, 0 (nothing happens) to 256, edges reflected
 * (agf-spec, "Smoothed maps"): the map's sum stays what it was, its largest value becomes smaller. scratch: [height][width] floats of
 * the caller's, beside the map. A map that is not finite is AGF_ERR_NUMERIC, and stays as it is. */
AGF_API agf_status agf_map_smooth(float *map, int height, int width, double sigma, float *scratch, agf_error *err);

/* map [map_height][map_width] to a picture of out_width x out_height, bilinear. channels 3: RGB8; 4: RGBA8 whose alpha is the
 * magnitude, transparent where there is no evidence. vmax: the value at the end of the colormap; 0: agf_map_scale(). The scale is
 * symmetric, -vmax .. vmax, for a diverging colormap, and 0 .. vmax for the others. */
AGF_API agf_status agf_render(const float *map, int map_height, int map_width, agf_colormap cmap, float vmax, uint8_t *out,
                              int out_width, int out_height, size_t stride, int channels, agf_error *err);

/* An RGB8 photograph as light gray, in place, to lay a map over: no colour of it can be taken for the map's, and no dark of it hides
 * them. Outside of the rectangle `seen` (NULL: all is inside) it is pale. */
AGF_API agf_status agf_photo_mute(const agf_rect *seen, uint8_t *rgb, int width, int height, size_t stride, agf_error *err);

/* Blend a map over an RGB8 photograph in place, on the rectangle `seen` (NULL: all of it). alpha: opacity of the strongest
 * evidence, 0 to 1; weaker evidence is proportionally more transparent. */
AGF_API agf_status agf_overlay(const float *map, int map_height, int map_width, agf_colormap cmap, float vmax, float alpha,
                               const agf_rect *seen, uint8_t *rgb, int width, int height, size_t stride, agf_error *err);

#ifdef __cplusplus
}
#endif

#ifdef AGF_API_OWN
#pragma GCC diagnostic pop
#endif

/* ---- The model file, versions 1 and 2 -------------------------------------------------------------------------------------
 *
 * Little-endian; u32/u64 unsigned, f32 IEEE binary32, f16 IEEE binary16. Strings are UTF-8, NUL-terminated, named by their
 * offset in the string table, whose offset 0 is "". Everything after a table's last entry follows without gaps.
 *
 *   0  header, 64 bytes
 *        0  u8[8]  89 41 47 46 0D 0A 1A 0A
 *        8  u32    format version: 1, or 2 where the network needs what "since 2" marks below; without it the two differ in nothing but the
 *                 length of a node
 *       12  u32    header_bytes: everything before the first tensor; a multiple of 64
 *       16  u64    file_bytes: the whole file; a multiple of 64
 *       24  u32    CRC-32 (IEEE 802.3, as zlib's) of bytes [0, header_bytes), these four taken as 0
 *       28  u32    CRC-32 of bytes [header_bytes, file_bytes)
 *       32  u32    node_count, u32 edge_count, u32 tensor_count, u32 label_count (0 or the number of classes), u32 string_bytes
 *       52  u8[12] 0
 *  64  input, 80 bytes
 *        0  u32    channels, height, width (nominal)
 *       12  u32    flags: bit 0 the preprocessing below holds; since 2: bits 8 and 9 the head, AGF_HEAD_*
 *       16  u32    channel order, 0 RGB, 1 BGR
 *       20  u32    resize, 0 stretch, 1 shorter side to resize_to, then centre crop
 *       24  u32    resize_to (0 for stretch)
 *       28  f32    range (1 or 255)
 *       32  f32[4] mean
 *       48  f32[4] std
 *       64  u32    name, u32 source (strings)
 *       72  u32    since 2: scale and bias of each channel that the network applies to its input, tensor indices + 1 of vectors
 *                 [channels], both or neither; 0: none. No scale is 0. The preprocessing makes what goes into this
 * 144  nodes, 80 bytes each, since 2: 96, in topological order; the last one makes the logits
 *        0  u32    op (agf_op)
 *        4  u32    flags: bit 0 flat (conv); bit 1 ceil mode (max and average pool); bit 2 count_include_pad (average pool)
 *        8  u32    name (string)
 *       12  u32    first edge, u32 number of edges (its inputs)
 *       20  u32    kernel height, width (adaptive average pool: the output's; since 2: resize, see the argument)
 *       28  u32    stride height, width
 *       36  u32    pad top, left, bottom, right (convolutions, pools; since 2: pad)
 *       52  u32    dilation height, width (convolutions; since 2: max pools)
 *       60  u32    groups (convolutions; since 2: norm)
 *       64  u32    channels: outputs of conv and linear; since 2: of slice
 *       68  u32    tensor 0: weights of conv and linear, scale of BatchNorm; its index + 1, 0: none. Since 2: gamma of norm, slopes of
 *                 prelu, of shuffle the input channel of each output channel, a permutation, as vectors [channels]
 *       72  u32    tensor 1: bias of conv, linear, BatchNorm; its index + 1, 0: none. Since 2: beta of norm
 *       76  u32    0. Since 2: act: the function, 1 leaky_relu, 2 prelu, 3 elu, 4 silu, 5 hardswish, 6 gelu, 7 gelu_tanh, 8 mish,
 *                 9 sigmoid, 10 hardsigmoid, 11 tanh, 12 softplus, 13 clip; norm: 1 over the pixels too, 0 at each pixel, 2 global response
 *                 norm (groups 1); lrn: channels of its window; slice: the first channel; pad: 0 zeros, 1 the image reflected at its
 *                 outermost pixels, 2 those repeated;
 *                 resize (output row i of n is input row floor(i * m / n) of m, columns likewise): 0 the kernel is how often each is
 *                 repeated, 1 it is the output's size
 *       80  f32[4] since 2: act: alpha (leaky_relu, elu), alpha and beta (hardsigmoid), lo and hi (clip; no bound: -FLT_MAX, FLT_MAX);
 *                 norm: eps; lrn: alpha, beta, k; else 0. Finite
 *      Version 1 has the ops up to concat, and adds two tensors; since 2 an add has two or more.
 *      Fields that an op does not use are 0. BatchNorm is y = scale * x + bias with scale = gamma / sqrt(var + eps) and
 *      bias = beta - mean * scale, computed in double and rounded once.
 *   .  edges, u32 each: 0 the image, n + 1 the output of node n
 *   .  tensors, 40 bytes each
 *        0  u32    type, 1 f32, 2 f16 (layouts 1 to 3 only)
 *        4  u32    layout: 0 vector, 1 convolution, 2 grouped convolution, 3 linear
 *        8  u32[4] dimensions: vector [n, 1, 1, 1]; convolution [O, I / groups, kh, kw]; linear [O, C, H, W], C x H x W being the
 *                  tensor that is flattened into its input (H = W = 1 for a vector)
 *       24  u64    offset in the file, a multiple of 64
 *       32  u64    bytes
 *      Every tensor is used by at least one node.
 *   .  labels, u32 each (strings)
 *   .  strings, string_bytes
 *   .  0 up to header_bytes
 *   header_bytes: the tensors in the table's order, each at the next multiple of 64, 0 between and up to file_bytes.
 *
 * Layouts (elements; outermost first; blocks hold 16 channels, the last one of an input may hold fewer; outputs are filled with
 * zeros up to the multiple named):
 *   vector        [n]
 *   convolution   [ceil(I / 16)][kh][ceil(O / 32)][channels of this input block][kw][32]             groups = 1
 *   grouped       [ceil(O / 16)][ceil(Ig / 16)][kh][kw][channels of this input block][16]            groups > 1, Ig = I / groups;
 *                 the input block counts within the group of the output channel
 *   linear        [input][ceil(O / 32) * 32], inputs in blocked order: [ceil(C / 16)][H][W][channels of this block] */

#endif /* AGF_H */
