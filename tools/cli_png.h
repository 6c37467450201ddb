/* PNG files, compressed by zlib where it is there, faster by ISA-L where that is there too, else by stb_image_write. The former two take
 * strips of rows, each by itself, so that several threads work on a file; it is the same for any number of them. */
#ifndef CLI_PNG_H
#define CLI_PNG_H

#include "cli_base.h"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>

/* A file in memory. */
typedef struct encoded {
  uint8_t *bytes;
  size_t size;
} encoded;

/* ---- Checksums of PNG files and banks ------------------------------------------------------------------------------------- */

#ifdef CLI_ZLIB
#include <zlib.h>
#ifdef CLI_ISAL
#include <isa-l/igzip_lib.h>
#endif

static uint32_t crc32_of(const uint8_t *data, size_t size) {
  uLong crc = 0;
  size_t at, part;

  for (at = 0; at < size; at += part) { /* zlib counts in 32 bits */
    part = size - at < (size_t)1 << 30 ? size - at : (size_t)1 << 30;
    crc = crc32(crc, data + at, (uInt)part);
  }
  return (uint32_t)crc;
}
#else
static uint32_t crc_table[256];

static void fill_crc_table(void) {
  uint32_t i;

  for (i = 0; i < 256; i++) {
    uint32_t c = i;
    int bit;

    for (bit = 0; bit < 8; bit++) c = c & 1 ? 0xEDB88320 ^ c >> 1 : c >> 1;
    crc_table[i] = c;
  }
}

static uint32_t crc32_of(const uint8_t *data, size_t size) {
  static pthread_once_t filled = PTHREAD_ONCE_INIT;
  uint32_t crc = 0xFFFFFFFF;
  size_t i;

  pthread_once(&filled, fill_crc_table);
  for (i = 0; i < size; i++) crc = crc_table[(crc ^ data[i]) & 255] ^ crc >> 8;
  return ~crc;
}
#endif

/* ---- Writing -------------------------------------------------------------------------------------------------------------- */

#ifdef CLI_ZLIB
/* Paeth's filter: what each byte differs by from that one of its neighbours to the left, above and above left (bytes of other pixels) that
 * is nearest to left + above - above left. So many bytes at a time, step by step in arrays, are what compilers make vectors of. */
enum { FILTERED = 16 };

static void filter_bytes(const uint8_t *row, const uint8_t *above, int step, uint8_t *to) {
  int16_t by_left[FILTERED], by_above[FILTERED], nearest[FILTERED];
  uint8_t out[FILTERED];
  int k;

  for (k = 0; k < FILTERED; k++) by_left[k] = (int16_t)(above[k] - above[k - step]);
  for (k = 0; k < FILTERED; k++) by_above[k] = (int16_t)(row[k - step] - above[k - step]);
  for (k = 0; k < FILTERED; k++) {
    int16_t p = by_left[k], q = by_above[k], r = (int16_t)(p + q);
    int16_t l = (int16_t)(p < 0 ? -p : p), a = (int16_t)(q < 0 ? -q : q), c = (int16_t)(r < 0 ? -r : r);
    int16_t other = (int16_t)(a <= c ? p : 0);

    nearest[k] = (int16_t)(((l <= a) & (l <= c)) ? q : other);
  }
  for (k = 0; k < FILTERED; k++) out[k] = (uint8_t)(row[k] - above[k - step] - nearest[k]);
  memcpy(to, out, FILTERED);
}

static void filter_row(const uint8_t *row, const uint8_t *above, int bytes, int step, uint8_t *to) {
  uint8_t left[2][FILTERED + 4] = {{0}}, filtered[FILTERED];
  int i, k;

  for (i = 0; i < step; i++) to[i] = (uint8_t)(row[i] - above[i]);
  for (; i + FILTERED <= bytes; i += FILTERED) filter_bytes(row + i, above + i, step, to + i);
  if (i == bytes) return;
  for (k = -step; k < bytes - i; k++) {
    left[0][step + k] = row[i + k];
    left[1][step + k] = above[i + k];
  }
  filter_bytes(left[0] + step, left[1] + step, step, filtered);
  for (k = 0; i + k < bytes; k++) to[i + k] = filtered[k];
}

static void put32(uint8_t *to, uint32_t value) {
  int i;

  for (i = 0; i < 4; i++) to[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* The bytes around a chunk's data: length and type before, CRC-32 behind. */
enum { CHUNK_HEAD = 8, CHUNK_TAIL = 4 };

/* Complete the chunk whose data is in place; returns its size. */
static size_t finish_chunk(uint8_t *chunk, const char *type, size_t size) {
  put32(chunk, (uint32_t)size);
  memcpy(chunk + 4, type, 4);
  put32(chunk + CHUNK_HEAD + size, crc32_of(chunk + 4, size + 4));
  return CHUNK_HEAD + size + CHUNK_TAIL;
}

static size_t put_chunk(uint8_t *to, const char *type, const uint8_t *data, size_t size) {
  if (size) memcpy(to + CHUNK_HEAD, data, size);
  return finish_chunk(to, type, size);
}

/* Rows that are filtered and compressed by themselves, into a chunk of their own. */
typedef struct png_strip {
  uint8_t *chunk;
  size_t size;    /* of the chunk; 0: out of memory */
  size_t content; /* bytes that it decompresses to */
  uLong adler;    /* Adler-32 of those */
} png_strip;

typedef struct png_job {
  const uint8_t *pixels; /* [height][width][channels] */
  int width, height, channels;
  int rows, strips; /* rows of a strip, and how many there are */
  png_strip *strip; /* [strips] */
} png_job;

/* adler_of: the sum that a PNG's data end with. deflate_strip: deflate without a head, to be continued unless it is the `last`; returns the
 * number of bytes, 0 where there is no memory. */
#ifdef CLI_ISAL
static uint32_t adler_of(const uint8_t *data, size_t size) { return isal_adler32(1, data, size); }

/* Level 1 of ISA-L takes less than a third of zlib's time, and a tenth more to store for a figure, a thirtieth for a photograph under a
 * map. It comes out the same each time if its memory is zero before. */
static size_t deflate_strip(uint8_t *data, size_t size, bool last, uint8_t *to, size_t room) {
  struct deflating {
    struct isal_zstream z;
    uint8_t level[ISAL_DEF_LVL1_SMALL];
  } *d = calloc(1, sizeof *d);
  size_t made = 0;

  if (!d) return 0;
  isal_deflate_init(&d->z);
  d->z.level = 1;
  d->z.level_buf = d->level;
  d->z.level_buf_size = sizeof d->level;
  d->z.next_in = data;
  d->z.avail_in = (uint32_t)size;
  d->z.next_out = to;
  d->z.avail_out = (uint32_t)room;
  d->z.end_of_stream = last;
  d->z.flush = last ? NO_FLUSH : SYNC_FLUSH;
  if (isal_deflate(&d->z) == COMP_OK && !d->z.avail_in && d->z.avail_out) made = d->z.total_out;
  free(d);
  return made;
}
#else
static uint32_t adler_of(const uint8_t *data, size_t size) { return (uint32_t)adler32(1, data, (uInt)size); }

/* Behind the Paeth filter, matches of one byte's distance are the ones that pay: half of the time of level 4, which looks for all, and a
 * twentieth less to store (a photograph under a map). */
static size_t deflate_strip(uint8_t *data, size_t size, bool last, uint8_t *to, size_t room) {
  z_stream z;
  bool done;

  memset(&z, 0, sizeof z);
  if (deflateInit2(&z, 1, Z_DEFLATED, -15, 9, Z_RLE) != Z_OK) return 0;
  z.next_in = data;
  z.avail_in = (uInt)size;
  z.next_out = to;
  z.avail_out = (uInt)room;
  done = last ? deflate(&z, Z_FINISH) == Z_STREAM_END : deflate(&z, Z_SYNC_FLUSH) == Z_OK && !z.avail_in && z.avail_out;
  deflateEnd(&z);
  return done ? (size_t)z.total_out : 0;
}
#endif

static void png_make_strip(void *shared, int index) {
  const png_job *j = shared;
  png_strip *s = &j->strip[index];
  size_t row = (size_t)j->width * (size_t)j->channels, head = index ? 0 : 2, room, size;
  int first = index * j->rows, end = j->height - first < j->rows ? j->height : first + j->rows, y;
  uint8_t *filtered;

  s->content = (size_t)(end - first) * (row + 1);
  room = (size_t)compressBound((uLong)s->content) + 64; /* what does not compress is stored; a flush takes some bytes */
  filtered = malloc(s->content + row);
  s->chunk = malloc(CHUNK_HEAD + head + room + CHUNK_TAIL);
  if (filtered && s->chunk) {
    uint8_t *above_first = filtered + s->content, *to;

    memset(above_first, 0, row);
    for (y = first; y < end; y++) {
      const uint8_t *pixels = j->pixels + (size_t)y * row;

      to = filtered + (size_t)(y - first) * (row + 1);
      *to = 4; /* Paeth: to try all five filters for each row takes as long as compressing */
      filter_row(pixels, y ? pixels - row : above_first, (int)row, j->channels, to + 1);
    }
    s->adler = adler_of(filtered, s->content);
    if (head) memcpy(s->chunk + CHUNK_HEAD, "\x78\x01", 2); /* zlib's header */
    size = deflate_strip(filtered, s->content, index == j->strips - 1, s->chunk + CHUNK_HEAD + head, room);
    if (size) s->size = finish_chunk(s->chunk, "IDAT", head + size);
  }
  free(filtered);
}

/* `pixels`: [height][width][channels], 3 (RGB) or 4 (RGBA). Out of memory is fatal. */
static encoded png_encode(const uint8_t *pixels, int width, int height, int channels, int threads) {
  const size_t strip_bytes = (size_t)1 << 17, row = (size_t)width * (size_t)channels + 1;
  size_t rows = strip_bytes / row ? strip_bytes / row : 1, most = 256;
  uint8_t header[13] = {0}, trailer[4];
  uLong adler = 1; /* of nothing */
  encoded png;
  png_job j;
  int i;

  j.pixels = pixels;
  j.width = width;
  j.height = height;
  j.channels = channels;
  j.rows = rows > (size_t)height ? height : (int)rows;
  j.strips = (height + j.rows - 1) / j.rows;
  j.strip = allocate((size_t)j.strips, sizeof *j.strip);
  in_parallel(threads, j.strips, png_make_strip, &j);
  for (i = 0; i < j.strips; i++) {
    if (!j.strip[i].size) fatal("out of memory for a picture of %dx%d pixels", width, height);
    most += j.strip[i].size;
  }
  png.bytes = allocate(most, 1);
  memcpy(png.bytes, "\x89PNG\r\n\x1a\n", 8);
  png.size = 8;
  put32(header, (uint32_t)width);
  put32(header + 4, (uint32_t)height);
  header[8] = 8;
  header[9] = channels == 4 ? 6 : 2;
  png.size += put_chunk(png.bytes + png.size, "IHDR", header, sizeof header);
  for (i = 0; i < j.strips; i++) {
    memcpy(png.bytes + png.size, j.strip[i].chunk, j.strip[i].size);
    png.size += j.strip[i].size;
    adler = adler32_combine(adler, j.strip[i].adler, (z_off_t)j.strip[i].content);
    free(j.strip[i].chunk);
  }
  put32(trailer, (uint32_t)adler);
  png.size += put_chunk(png.bytes + png.size, "IDAT", trailer, sizeof trailer);
  png.size += put_chunk(png.bytes + png.size, "IEND", NULL, 0);
  free(j.strip);
  return png;
}

#else

static encoded png_encode(const uint8_t *pixels, int width, int height, int channels, int threads) {
  encoded png;
  int size;

  (void)threads;
  png.bytes = stbi_write_png_to_mem(pixels, channels * width, width, height, channels, &size);
  if (!png.bytes) fatal("out of memory for a picture of %dx%d pixels", width, height);
  png.size = (size_t)size;
  return png;
}
#endif

#endif
