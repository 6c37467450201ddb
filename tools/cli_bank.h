/* Banks: the latent vectors of many pictures, for the label-free procedure, and the file that keeps them.
 *
 * A bank file, little-endian. What reads one checks all of it: a bank that was cut off, changed or made by another model is refused.
 *    0  u8[8]  89 41 47 42 0D 0A 1A 0A
 *    8  u32    version: 1
 *   12  u32    CRC-32 (IEEE 802.3, as zlib's) of everything behind it
 *   16  u64    bytes of the file
 *   24  u64    the model's checksum (agf_model_checksum)
 *   32  u32    pictures, u32 values of a latent vector, u32 height, u32 width of the network's input
 *   48  u8[16] 0
 *   64  f32    [pictures][values], finite: the latent vectors, as agf_latent gives them
 *    .  u64    [pictures]: FNV-1a of each picture's file, by which a picture that was changed is known
 *    .  the pictures' names within their folder, each UTF-8 text that ends with a 0, up to the end of the file */
#ifndef CLI_BANK_H
#define CLI_BANK_H

#include "cli_output.h"
#include "cli_picture.h"

enum { BANK_VERSION = 1, BANK_HEAD = 64, BANK_CHECKED_FROM = 16 };

static const uint8_t bank_magic[8] = {0x89, 'A', 'G', 'B', '\r', '\n', 0x1A, '\n'};

typedef struct bank {
  uint64_t checksum; /* of the model */
  int height, width; /* of the network's input */
  int size, count;   /* values of a vector; vectors */
  float *latents;    /* [count][size] */
  uint64_t *marks;   /* [count] */
  text_list names;   /* [count] */
} bank;

static void bank_free(bank *b) {
  free(b->latents);
  free(b->marks);
  text_list_free(&b->names);
  memset(b, 0, sizeof *b);
}

/* Add a picture; `latent` [size] is copied, `name` too. */
static void bank_add(bank *b, const char *name, uint64_t mark, const float *latent) {
  b->latents = grow(b->latents, ((size_t)b->count + 1) * (size_t)b->size, sizeof *b->latents);
  b->marks = grow(b->marks, (size_t)b->count + 1, sizeof *b->marks);
  memcpy(b->latents + (size_t)b->count * (size_t)b->size, latent, (size_t)b->size * sizeof *latent);
  b->marks[b->count++] = mark;
  text_list_add(&b->names, text_of("%s", name));
}

/* Put the pictures into the order of their names, so that the same pictures make the same file, however often it was continued. */
static const bank *bank_in_order; /* of compare_in_bank(), which qsort gives no context */

static int compare_in_bank(const void *a, const void *b) {
  return strcmp(bank_in_order->names.items[*(const int *)a], bank_in_order->names.items[*(const int *)b]);
}

static void bank_sort(bank *b) {
  int *order = allocate((size_t)b->count, sizeof *order), i;
  bank sorted = *b;

  for (i = 0; i < b->count; i++) order[i] = i;
  bank_in_order = b;
  qsort(order, (size_t)b->count, sizeof *order, compare_in_bank);
  memset(&sorted.names, 0, sizeof sorted.names);
  sorted.latents = NULL;
  sorted.marks = NULL;
  sorted.count = 0;
  for (i = 0; i < b->count; i++)
    bank_add(&sorted, b->names.items[order[i]], b->marks[order[i]], b->latents + (size_t)order[i] * (size_t)b->size);
  free(order);
  bank_free(b);
  *b = sorted;
}

/* What tells a picture's file from one that was changed. */
static bool bank_mark(const char *path, uint64_t *mark, problem *why) {
  uint8_t *data;
  size_t size;

  if (!read_whole(path, MAX_FILE_BYTES, &data, &size, why)) return false;
  *mark = hash_of(data, size);
  free(data);
  return true;
}

static void put_little(uint8_t *to, uint64_t value, int bytes) {
  int i;

  for (i = 0; i < bytes; i++) to[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get_little(const uint8_t *from, int bytes) {
  uint64_t value = 0;
  int i;

  for (i = 0; i < bytes; i++) value |= (uint64_t)from[i] << 8 * i;
  return value;
}

/* The whole bank as a file's bytes, in memory of their own. */
static uint8_t *bank_bytes(const bank *b, size_t *size) {
  size_t values = (size_t)b->count * (size_t)b->size, at, k;
  uint8_t *bytes;
  int i;

  *size = BANK_HEAD + 4 * values + 8 * (size_t)b->count;
  for (i = 0; i < b->count; i++) *size += strlen(b->names.items[i]) + 1;
  bytes = allocate(*size, 1);
  memcpy(bytes, bank_magic, sizeof bank_magic);
  put_little(bytes + 8, BANK_VERSION, 4);
  put_little(bytes + 16, *size, 8);
  put_little(bytes + 24, b->checksum, 8);
  put_little(bytes + 32, (uint64_t)b->count, 4);
  put_little(bytes + 36, (uint64_t)b->size, 4);
  put_little(bytes + 40, (uint64_t)b->height, 4);
  put_little(bytes + 44, (uint64_t)b->width, 4);
  at = BANK_HEAD;
  for (k = 0; k < values; k++, at += 4) {
    uint32_t bits;

    memcpy(&bits, &b->latents[k], sizeof bits);
    put_little(bytes + at, bits, 4);
  }
  for (i = 0; i < b->count; i++, at += 8) put_little(bytes + at, b->marks[i], 8);
  for (i = 0; i < b->count; i++) {
    size_t length = strlen(b->names.items[i]) + 1;

    memcpy(bytes + at, b->names.items[i], length);
    at += length;
  }
  put_little(bytes + 12, crc32_of(bytes + BANK_CHECKED_FROM, *size - BANK_CHECKED_FROM), 4);
  return bytes;
}

/* Write the bank to `path`, all of it or nothing; false: *why. */
static bool bank_write(const bank *b, const char *path, problem *why) {
  size_t size;
  uint8_t *bytes = bank_bytes(b, &size);
  output *o;

  outputs_forget(); /* a bank that grows replaces itself */
  o = output_open(path, why);
  if (o) {
    output_write(o, bytes, size);
    output_close(o);
    outputs_complete();
  }
  free(bytes);
  return o != NULL;
}

/* The names at the end of a file, `length` bytes of them. */
static bool bank_read_names(bank *b, const char *path, const uint8_t *names, size_t length, int count, problem *why) {
  size_t at = 0;
  int i;

  for (i = 0; i < count; i++) {
    const uint8_t *end = at < length ? memchr(names + at, 0, length - at) : NULL;

    if (!end || end == names + at) return failed(why, "%s: damaged bank: picture %d of %d has no name", path, i + 1, count);
    text_list_add(&b->names, text_of("%s", (const char *)names + at));
    at = (size_t)(end - names) + 1;
  }
  return at == length || failed(why, "%s: damaged bank: %zu bytes behind the last name", path, length - at);
}

/* Read a bank that `model` made, all of it checked. `data` are the bytes of the file. */
static bool bank_parse(bank *b, const char *path, const uint8_t *data, size_t size, const agf_model *model, problem *why) {
  uint64_t count, values, height, width, body;
  size_t at = BANK_HEAD, k;

  if (size < sizeof bank_magic || memcmp(data, bank_magic, sizeof bank_magic))
    return failed(why, "%s: not a bank (`agf bank` makes one of a folder)", path);
  if (size < BANK_HEAD) return failed(why, "%s: truncated bank: %zu bytes, its head alone has %d", path, size, (int)BANK_HEAD);
  if (get_little(data + 8, 4) != BANK_VERSION)
    return failed(why, "%s: a bank of version %llu, this program reads version %d", path,
                  (unsigned long long)get_little(data + 8, 4), (int)BANK_VERSION);
  if (get_little(data + 16, 8) != size)
    return failed(why, "%s: %s bank: it should have %llu bytes and has %zu", path,
                  get_little(data + 16, 8) > size ? "truncated" : "damaged", (unsigned long long)get_little(data + 16, 8), size);
  if (crc32_of(data + BANK_CHECKED_FROM, size - BANK_CHECKED_FROM) != get_little(data + 12, 4))
    return failed(why, "%s: damaged bank: its checksum does not fit its content", path);
  b->checksum = get_little(data + 24, 8);
  if (b->checksum != agf_model_checksum(model))
    return failed(why, "%s: the bank of another model: its checksum is %016llx, this model's %016llx", path,
                  (unsigned long long)b->checksum, (unsigned long long)agf_model_checksum(model));
  count = get_little(data + 32, 4);
  values = get_little(data + 36, 4);
  height = get_little(data + 40, 4);
  width = get_little(data + 44, 4);
  if (!values || values > INT_MAX || count > INT_MAX || !height || height > MAX_SIDE || !width || width > MAX_SIDE)
    return failed(why, "%s: damaged bank: %llu pictures of %llu values at %llu x %llu pixels", path, (unsigned long long)count,
                  (unsigned long long)values, (unsigned long long)width, (unsigned long long)height);
  body = size - BANK_HEAD;
  if (count && (values > body / 4 / count || body - 4 * count * values < 8 * count))
    return failed(why, "%s: damaged bank: %llu pictures of %llu values do not fit in %zu bytes", path, (unsigned long long)count,
                  (unsigned long long)values, size);
  b->height = (int)height;
  b->width = (int)width;
  b->size = (int)values;
  b->latents = allocate((size_t)(count * values), sizeof *b->latents);
  b->marks = allocate((size_t)count, sizeof *b->marks);
  for (k = 0; k < count * values; k++, at += 4) {
    uint32_t bits = (uint32_t)get_little(data + at, 4);

    memcpy(&b->latents[k], &bits, sizeof bits);
    if ((bits & 0x7F800000) == 0x7F800000)
      return failed(why, "%s: damaged bank: a value of picture %llu is not finite", path, (unsigned long long)(k / values) + 1);
  }
  for (k = 0; k < count; k++, at += 8) b->marks[k] = get_little(data + at, 8);
  if (!bank_read_names(b, path, data + at, size - at, (int)count, why)) return false;
  b->count = (int)count;
  return true;
}

static bool bank_read(bank *b, const char *path, const agf_model *model, problem *why) {
  struct stat status;
  bool has_size = !stat(path, &status) && S_ISREG(status.st_mode); /* a device or pipe may never end */
  uint8_t *data;
  size_t size;
  bool right;

  memset(b, 0, sizeof *b);
  if (!read_whole(path, has_size ? SIZE_MAX / 4 : MAX_FILE_BYTES, &data, &size, why)) return false;
  right = bank_parse(b, path, data, size, model, why);
  free(data);
  if (!right) bank_free(b);
  return right;
}

#endif
