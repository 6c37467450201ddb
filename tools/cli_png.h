/* PNG files. Pixels are filtered, and compressed as bytes and runs of bytes (Huffman codes of their own for each strip of rows), which is
 * what pays for a map or a photograph; strips are made by several threads, and the file is the same for any number of them. */
#ifndef CLI_PNG_H
#define CLI_PNG_H

#include "cli_base.h"

/* A file in memory. */
typedef struct encoded {
  uint8_t *bytes;
  size_t size;
} encoded;

/* ---- Checksums ------------------------------------------------------------------------------------------------------------ */

static uint32_t crc_table[4][256]; /* [k][v]: the CRC-32 of the byte v and k zeros */

static void fill_crc_table(void) {
  uint32_t i;
  int k;

  for (i = 0; i < 256; i++) {
    uint32_t c = i;
    int bit;

    for (bit = 0; bit < 8; bit++) c = c & 1 ? 0xEDB88320 ^ c >> 1 : c >> 1;
    crc_table[0][i] = c;
  }
  for (k = 1; k < 4; k++)
    for (i = 0; i < 256; i++) crc_table[k][i] = crc_table[k - 1][i] >> 8 ^ crc_table[0][crc_table[k - 1][i] & 255];
}

static uint32_t crc32_of(const uint8_t *data, size_t size) {
  static pthread_once_t filled = PTHREAD_ONCE_INIT;
  uint32_t crc = 0xFFFFFFFF;
  size_t i;

  pthread_once(&filled, fill_crc_table);
  for (i = 0; i + 4 <= size; i += 4) {
    crc ^= data[i] | (uint32_t)data[i + 1] << 8 | (uint32_t)data[i + 2] << 16 | (uint32_t)data[i + 3] << 24;
    crc = crc_table[3][crc & 255] ^ crc_table[2][crc >> 8 & 255] ^ crc_table[1][crc >> 16 & 255] ^ crc_table[0][crc >> 24];
  }
  for (; i < size; i++) crc = crc_table[0][(crc ^ data[i]) & 255] ^ crc >> 8;
  return ~crc;
}

enum { ADLER_MODULUS = 65521 };

/* Adler-32 as two sums modulo ADLER_MODULUS: 1 and all bytes, and all values of that. */
typedef struct adler {
  uint32_t bytes, sums;
} adler;

static void adler_add(adler *a, const uint8_t *data, size_t size) {
  enum { TOGETHER = 16, MOST = 5552 }; /* MOST: bytes whose sums fit 32 bits */
  size_t i, end;

  for (i = 0; i < size;) {
    end = size - i < MOST ? size : i + MOST;
    for (; i + TOGETHER <= end; i += TOGETHER) {
      uint32_t bytes = 0, sums = 0;
      int k;

      for (k = 0; k < TOGETHER; k++) {
        bytes += data[i + (size_t)k];
        sums += (uint32_t)(TOGETHER - k) * data[i + (size_t)k];
      }
      a->sums += TOGETHER * a->bytes + sums;
      a->bytes += bytes;
    }
    for (; i < end; i++) {
      a->bytes += data[i];
      a->sums += a->bytes;
    }
    a->bytes %= ADLER_MODULUS;
    a->sums %= ADLER_MODULUS;
  }
}

/* `a` goes on with `size` bytes whose own checksum, begun at 0 and not at 1, is `behind`. */
static void adler_join(adler *a, const adler *behind, size_t size) {
  a->sums = (uint32_t)((a->sums + behind->sums + (uint64_t)(size % ADLER_MODULUS) * a->bytes) % ADLER_MODULUS);
  a->bytes = (a->bytes + behind->bytes) % ADLER_MODULUS;
}

/* ---- Huffman codes -------------------------------------------------------------------------------------------------------- */

/* Symbols of deflate (RFC 1951): bytes, the end of a block, and lengths of runs. */
enum { END_OF_BLOCK = 256, FIRST_LENGTH = 257, SYMBOLS = 286, MOST_BITS = 14, LEAST_RUN = 4, MOST_RUN = 258 };

/* For each symbol its number of bits (0: not used) in the lower 4 bits, and above them the bits, the first one lowest. */
typedef struct huffman {
  uint32_t of[SYMBOLS];
} huffman;

/* Number of bits for each of the symbols, at most MOST_BITS. Where the best code has longer ones, the rare symbols are counted as more
 * frequent until it has not. At least two symbols must be there. */
static void choose_bits(huffman *h, const uint32_t *counts) {
  uint32_t weight[2 * SYMBOLS];
  int order[SYMBOLS], parent[2 * SYMBOLS], used = 0, smooth = 0, longest, i, k;

  memset(h, 0, sizeof *h);
  for (i = 0; i < SYMBOLS; i++) /* used symbols, the rarest first */
    if (counts[i]) {
      for (k = used++; k > 0 && counts[order[k - 1]] > counts[i]; k--) order[k] = order[k - 1];
      order[k] = i;
    }
  do {
    int leaf = 0, inner = used, next;

    for (i = 0; i < used; i++) weight[i] = (counts[order[i]] >> smooth) + (smooth > 0);
    for (next = used; next < 2 * used - 1; next++) { /* the two least of leaves and inner nodes, which come in rising order both */
      weight[next] = 0;
      for (k = 0; k < 2; k++) {
        int least = leaf < used && (inner == next || weight[leaf] <= weight[inner]) ? leaf++ : inner++;

        weight[next] += weight[least];
        parent[least] = next;
      }
    }
    longest = 0;
    parent[2 * used - 2] = 0;
    for (i = 2 * used - 3; i >= 0; i--) { /* from the root down: `weight` becomes the depth */
      weight[i] = parent[i] == 2 * used - 2 ? 1 : weight[parent[i]] + 1;
      if (i < used) {
        h->of[order[i]] = weight[i];
        if ((int)weight[i] > longest) longest = (int)weight[i];
      }
    }
    smooth++;
  } while (longest > MOST_BITS);
}

/* The codes that follow from the numbers of bits. */
static void assign_codes(huffman *h) {
  unsigned next[MOST_BITS + 2] = {0}, code = 0;
  int i, b;

  for (i = 0; i < SYMBOLS; i++)
    if (h->of[i]) next[h->of[i] + 1]++;
  for (b = 1; b <= MOST_BITS; b++) next[b] = code = (code + next[b]) << 1;
  for (i = 0; i < SYMBOLS; i++) {
    const int bits = (int)h->of[i];

    code = bits ? next[bits]++ : 0;
    for (b = 0; b < bits; b++) h->of[i] |= (code >> b & 1) << (4 + bits - 1 - b);
  }
}

/* ---- Compressing ---------------------------------------------------------------------------------------------------------- */

typedef struct bit_writer {
  uint8_t *to;
  uint64_t held; /* the lowest `count` bits */
  int count;
} bit_writer;

/* Where fewer than 8 bits are held, 56 have room. */
static void hold_bits(bit_writer *w, uint64_t bits, int count) {
  w->held |= bits << w->count;
  w->count += count;
}

static void hold_code(bit_writer *w, const huffman *h, int symbol) { hold_bits(w, h->of[symbol] >> 4, (int)(h->of[symbol] & 15)); }

/* Write all whole bytes held; up to 7 bytes beyond them are touched. */
static inline void pass_bits(bit_writer *w) {
  int whole = w->count >> 3;

  memcpy(w->to, &w->held, 8); /* the engine runs on little-endian machines only */
  w->to += whole;
  w->held = whole < 8 ? w->held >> 8 * whole : 0;
  w->count &= 7;
}

static void put_bits(bit_writer *w, unsigned bits, int count) {
  hold_bits(w, bits, count);
  pass_bits(w);
}

/* A run: bytes that repeat the one before them. */
typedef struct run {
  size_t at, length; /* LEAST_RUN to MOST_RUN */
} run;

/* 8 bytes, the first one lowest. */
static inline uint64_t load64(const uint8_t *from) {
  uint64_t v;

  memcpy(&v, from, sizeof v);
  return v;
}

/* The first place from `at`, at least 1, on at which LEAST_RUN bytes repeat the one before them; `size`: there is none. */
static size_t find_run(const uint8_t *data, size_t at, size_t size) {
  const uint64_t low = 0x7F7F7F7F7F7F7F7F;
  size_t k;

  for (; at + 8 <= size; at += 8 - LEAST_RUN + 1) {
    uint64_t differs = load64(data + at) ^ load64(data + at - 1); /* then the highest bit of each byte that is 0 */
    uint64_t same = ~(((differs & low) + low) | differs | low);

    same &= same >> 8 & same >> 16 & same >> 24;
    if (same) {
      while (!(same & 0x80)) {
        same >>= 8;
        at++;
      }
      return at;
    }
  }
  for (; at + LEAST_RUN <= size; at++) {
    for (k = 0; k < LEAST_RUN && data[at + k] == data[at - 1]; k++) continue;
    if (k == LEAST_RUN) return at;
  }
  return size;
}

/* All runs of the bytes; `found` has room for one in LEAST_RUN bytes. Returns their number. */
static size_t find_runs(const uint8_t *data, size_t size, run *found) {
  size_t count = 0, at, k, most;

  for (at = find_run(data, 1, size); at < size; at = find_run(data, at + k, size)) {
    most = size - at < MOST_RUN ? size - at : MOST_RUN;
    for (k = LEAST_RUN; k < most && data[at + k] == data[at - 1]; k++) continue;
    found[count].at = at;
    found[count++].length = k;
  }
  return count;
}

/* The symbol of a run's length, the bits behind it and their number. */
static int length_symbol(size_t run, unsigned *extra, int *extra_bits) {
  unsigned beyond = (unsigned)run - 3;
  int e = 0;

  if (run == MOST_RUN) {
    *extra = 0;
    *extra_bits = 0;
    return SYMBOLS - 1;
  }
  while (beyond >> e >= 8) e++;
  *extra = beyond & ((1u << e) - 1);
  *extra_bits = e;
  return FIRST_LENGTH + 4 * e + (int)(beyond >> e);
}

/* Adds the bytes to their counts. Four counts for each value: neighbours are often alike, and none is read right after it was written. */
static void count_bytes(const uint8_t *data, size_t size, uint32_t counts[4][SYMBOLS]) {
  size_t i;

  for (i = 0; i + 4 <= size; i += 4) {
    counts[0][data[i]]++;
    counts[1][data[i + 1]]++;
    counts[2][data[i + 2]]++;
    counts[3][data[i + 3]]++;
  }
  for (; i < size; i++) counts[0][data[i]]++;
}

/* The bytes' codes. */
static void put_bytes(bit_writer *w, const huffman *h, const uint8_t *data, size_t size) {
  size_t i;

  for (i = 0; i + 4 <= size; i += 4) {
    int k;

    for (k = 0; k < 4; k++) hold_code(w, h, data[i + (size_t)k]);
    pass_bits(w);
  }
  for (; i < size; i++) {
    hold_code(w, h, data[i]);
    pass_bits(w);
  }
}

/* Most bytes that compressing `size` bytes may take: at most MOST_BITS for each, the codes, and what pass_bits() touches. */
static size_t compressed_bound(size_t size) { return 2 * size + 256; }

/* A block of deflate, ended at a whole byte; returns its size. `runs`: room for one in LEAST_RUN bytes. */
static size_t deflate_block(const uint8_t *data, size_t size, bool last, run *runs, uint8_t *to) {
  static const uint8_t reversed[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};
  uint32_t counts[4][SYMBOLS] = {{0}};
  bit_writer w = {to, 0, 0};
  size_t count = find_runs(data, size, runs), at = 0, k;
  unsigned extra;
  huffman h;
  int i, symbol, extra_bits;

  for (k = 0; k < count; k++) {
    count_bytes(data + at, runs[k].at - at, counts);
    counts[0][length_symbol(runs[k].length, &extra, &extra_bits)]++;
    at = runs[k].at + runs[k].length;
  }
  count_bytes(data + at, size - at, counts);
  counts[0][END_OF_BLOCK] = 1;
  for (i = 0; i < SYMBOLS; i++) counts[0][i] += counts[1][i] + counts[2][i] + counts[3][i];
  choose_bits(&h, counts[0]);
  assign_codes(&h);

  put_bits(&w, last | 2 << 1, 3); /* a block with codes of its own: 286 for bytes and lengths, 1 for distances, ... */
  put_bits(&w, SYMBOLS - 257, 5);
  put_bits(&w, 0, 5);
  put_bits(&w, 19 - 4, 4);
  for (i = 0; i < 19; i++) put_bits(&w, i < 3 ? 0 : 4, 3); /* ... whose numbers of bits, 0 to 15, are written in 4 bits each */
  for (i = 0; i < SYMBOLS; i++) put_bits(&w, reversed[h.of[i] & 15], 4);
  put_bits(&w, reversed[1], 4);
  for (at = 0, k = 0; k < count; k++) {
    put_bytes(&w, &h, data + at, runs[k].at - at);
    symbol = length_symbol(runs[k].length, &extra, &extra_bits);
    hold_code(&w, &h, symbol);
    put_bits(&w, extra, extra_bits + 1); /* and the distance's code, a 0: 1 */
    at = runs[k].at + runs[k].length;
  }
  put_bytes(&w, &h, data + at, size - at);
  hold_code(&w, &h, END_OF_BLOCK);
  pass_bits(&w);
  if (!last) { /* an empty stored block, which ends at a whole byte */
    put_bits(&w, 0, 3);
    if (w.count) put_bits(&w, 0, 8 - w.count);
    put_bits(&w, 0, 16);
    put_bits(&w, 0xFFFF, 16);
  }
  if (w.count) put_bits(&w, 0, 8 - w.count);
  return (size_t)(w.to - to);
}

/* ---- The file ------------------------------------------------------------------------------------------------------------- */

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
  adler sum;      /* of those */
} png_strip;

typedef struct png_job {
  const uint8_t *pixels; /* [height][width][channels] */
  int width, height, channels;
  int rows, strips; /* rows of a strip, and how many there are */
  png_strip *strip; /* [strips] */
} png_job;

static void png_make_strip(void *shared, int index) {
  const png_job *j = shared;
  png_strip *s = &j->strip[index];
  size_t row = (size_t)j->width * (size_t)j->channels, head = index ? 0 : 2;
  int first = index * j->rows, end = j->height - first < j->rows ? j->height : first + j->rows, y;
  uint8_t *filtered, *to;
  run *runs;

  s->content = (size_t)(end - first) * (row + 1);
  filtered = malloc(s->content + row);
  runs = malloc((s->content / LEAST_RUN + 1) * sizeof *runs);
  s->chunk = malloc(CHUNK_HEAD + head + compressed_bound(s->content) + CHUNK_TAIL);
  if (filtered && runs && s->chunk) {
    uint8_t *above_first = filtered + s->content;

    memset(above_first, 0, row);
    for (y = first; y < end; y++) {
      const uint8_t *pixels = j->pixels + (size_t)y * row;

      to = filtered + (size_t)(y - first) * (row + 1);
      *to = 4; /* Paeth */
      filter_row(pixels, y ? pixels - row : above_first, (int)row, j->channels, to + 1);
    }
    adler_add(&s->sum, filtered, s->content);
    if (head) memcpy(s->chunk + CHUNK_HEAD, "\x78\x01", 2); /* zlib's header */
    s->size = head + deflate_block(filtered, s->content, index == j->strips - 1, runs, s->chunk + CHUNK_HEAD + head);
    s->size = finish_chunk(s->chunk, "IDAT", s->size);
  }
  free(filtered);
  free(runs);
}

/* `pixels`: [height][width][channels], 3 (RGB) or 4 (RGBA). Out of memory is fatal. */
static encoded png_encode(const uint8_t *pixels, int width, int height, int channels, int threads) {
  const size_t strip_bytes = (size_t)1 << 17, row = (size_t)width * (size_t)channels + 1;
  size_t rows = strip_bytes / row ? strip_bytes / row : 1, most = 256;
  uint8_t header[13] = {0}, trailer[4];
  adler sum = {1, 0};
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
    adler_join(&sum, &j.strip[i].sum, j.strip[i].content);
    free(j.strip[i].chunk);
  }
  put32(trailer, sum.sums << 16 | sum.bytes);
  png.size += put_chunk(png.bytes + png.size, "IDAT", trailer, sizeof trailer);
  png.size += put_chunk(png.bytes + png.size, "IEND", NULL, 0);
  free(j.strip);
  return png;
}

#endif
