/* Pictures and tensors from files. Decoding is stb_image's; what it would silently accept (truncated and damaged files) is
 * refused here first, and what it does not do (EXIF orientation, the value range of PNM) is done here. */
#ifndef CLI_PICTURE_H
#define CLI_PICTURE_H

#include "cli_output.h"
#include "cli_png.h"

#ifdef CLI_WEBP
#include <webp/decode.h>
#define READABLE_WEBP ", WebP"
#else
#define READABLE_WEBP ""
#endif
#ifdef CLI_TIFF
#include <tiffio.h>
#define READABLE_TIFF ", TIFF"
#else
#define READABLE_TIFF ""
#endif
#define READABLE "PNG, JPEG, BMP, binary PPM or PGM" READABLE_WEBP READABLE_TIFF

/* Caps for hostile files: a side, the pixels of a picture, and the bytes of any file that is read whole. */
enum { MAX_SIDE = 16384, MAX_PIXELS = 100000000 };
#define MAX_FILE_BYTES ((size_t)1 << 30)

#define STB_IMAGE_IMPLEMENTATION
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_MAX_DIMENSIONS MAX_SIDE

/* Double a row of JPEG colour samples in width, for 4:2:2 (libjpeg's "fancy" way). It takes the place of the function in
 * stb_image (2.27 at least), which swaps two weights and so gets the last column but one wrong, by up to 90 of 255. The macro
 * renames stb's definition, the only place where the name stands before a parenthesis. */
static unsigned char *stbi__resample_row_h_2(unsigned char *out, unsigned char *row, unsigned char *unused, int width, int scale) {
  int i;

  (void)unused;
  (void)scale;
  for (i = 0; i < width; i++) {
    int before = row[i > 0 ? i - 1 : 0], after = row[i + 1 < width ? i + 1 : i];

    out[2 * i] = (unsigned char)((3 * row[i] + before + 1) / 4); /* libjpeg rounds alternately, too */
    out[2 * i + 1] = (unsigned char)((3 * row[i] + after + 2) / 4);
  }
  return out;
}
#define stbi__resample_row_h_2(out, row, unused, width, scale) stbi__resample_row_h_2_of_stb(out, row, unused, width, scale)
#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function" /* the renamed one */
#endif
#include <stb/stb_image.h>
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif
#undef stbi__resample_row_h_2

/* One input: a photograph, or a tensor that goes into the network as it is. */
typedef struct picture {
  int channels, height, width;
  uint8_t *rgb;    /* [height][width][3], upright; NULL for a tensor */
  float *tensor;   /* [channels][height][width]; NULL for a photograph */
  int orientation; /* EXIF's, 1 to 8, as the file stores the picture */
} picture;

static void picture_free(picture *p) {
  free(p->rgb);
  free(p->tensor);
  memset(p, 0, sizeof *p);
}

static uint32_t big32(const uint8_t *b) { return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3]; }

static uint32_t little32(const uint8_t *b) { return (uint32_t)b[3] << 24 | (uint32_t)b[2] << 16 | (uint32_t)b[1] << 8 | b[0]; }

static unsigned big16(const uint8_t *b) { return (unsigned)b[0] << 8 | b[1]; }

static unsigned little16(const uint8_t *b) { return (unsigned)b[1] << 8 | b[0]; }

/* ---- Is the file whole? --------------------------------------------------------------------------------------------------- */

/* The orientation, 1 to 8, in EXIF data that begins with its TIFF header; 1 where there is none. */
static int exif_orientation(const uint8_t *tiff, size_t size) {
  bool little;
  size_t at;
  unsigned entries, i;

  if (size < 8 || (memcmp(tiff, "II*\0", 4) && memcmp(tiff, "MM\0*", 4))) return 1;
  little = tiff[0] == 'I';
  at = little ? little32(tiff + 4) : big32(tiff + 4);
  if (at > size - 2) return 1;
  entries = little ? little16(tiff + at) : big16(tiff + at);
  for (i = 0, at += 2; i < entries && at + 12 <= size; i++, at += 12) {
    const uint8_t *entry = tiff + at;
    unsigned tag = little ? little16(entry) : big16(entry), type = little ? little16(entry + 2) : big16(entry + 2);
    unsigned value = little ? little16(entry + 8) : big16(entry + 8);

    if (tag == 0x0112 && type == 3) return value >= 1 && value <= 8 ? (int)value : 1;
  }
  return 1;
}

/* Adds the Huffman tables that a DHT segment holds to the set *defined (bit: class * 4 + number). stb_image trusts the tables:
 * codes that do not fit their lengths, or a table that is used but never defined, would lead it out of its arrays. */
static bool huffman_tables_are_sane(const uint8_t *data, size_t size, unsigned *defined) {
  size_t at = 0;

  while (at < size) {
    unsigned symbols = 0, code_space = 0, i;

    if (size - at < 17 || data[at] >> 4 > 1 || (data[at] & 15) > 3) return false;
    for (i = 1; i <= 16; i++) {
      symbols += data[at + i];
      code_space += (unsigned)data[at + i] << (16 - i);
    }
    if (symbols > 256 || code_space > 1u << 16 || symbols > size - at - 17) return false;
    *defined |= 1u << ((data[at] >> 4) * 4 + (data[at] & 15));
    at += 17 + symbols;
  }
  return true;
}

/* Whether all tables that a scan uses are defined. `data` is the SOS segment after its length. */
static bool scan_is_sane(const uint8_t *data, size_t size, unsigned defined, bool progressive) {
  unsigned components = size ? data[0] : 0, i;
  const uint8_t *spectrum = data + 1 + 2 * components;

  if (size < 4 + 2 * components) return false;
  for (i = 0; i < components; i++) {
    unsigned tables = data[2 + 2 * i], dc = tables >> 4, ac = tables & 15;
    bool needs_dc = !progressive || (spectrum[0] == 0 && spectrum[2] >> 4 == 0);
    bool needs_ac = !progressive || spectrum[1] > 0;

    if (dc > 3 || ac > 3 || (needs_dc && !(defined >> dc & 1)) || (needs_ac && !(defined >> (4 + ac) & 1))) return false;
  }
  return true;
}

/* Walks the segments up to the end marker, through the entropy-coded data of every scan. *unmarked: four inks without Adobe's marker
 * that says so. */
static bool jpeg_is_whole(const uint8_t *data, size_t size, int *orientation, bool *unmarked, problem *why) {
  size_t at = 2;
  unsigned tables = 0;
  bool progressive = false, marked = false;

  *unmarked = false;
  while (at + 2 <= size) {
    unsigned marker, length;
    const uint8_t *content = data + at + 4;

    if (data[at] != 0xFF) return failed(why, "damaged JPEG (no marker at byte %zu)", at);
    marker = data[at + 1];
    if (marker == 0xFF) { /* fill byte */
      at++;
      continue;
    }
    if (marker == 0xD9) return true;
    if (marker < 0xC0 || (marker >= 0xD0 && marker <= 0xD8))
      return failed(why, "damaged JPEG (marker %02X at byte %zu)", marker, at);
    if (at + 4 > size) break;
    length = big16(data + at + 2);
    if (length < 2) return failed(why, "damaged JPEG (segment of %u bytes at byte %zu)", length, at);
    if (length > size - at - 2) break;
    if (marker == 0xE1 && length >= 8 && !memcmp(content, "Exif\0\0", 6)) *orientation = exif_orientation(content + 6, length - 8);
    if (marker == 0xEE && length >= 14 && !memcmp(content, "Adobe", 5)) marked = true;
    if (marker >= 0xC0 && marker <= 0xC2 && length >= 8) *unmarked = content[5] == 4 && !marked;
    if (marker == 0xC2) progressive = true;
    if (marker == 0xC4 && !huffman_tables_are_sane(content, length - 2, &tables))
      return failed(why, "damaged JPEG (Huffman table at byte %zu)", at);
    if (marker == 0xDA && !scan_is_sane(content, length - 2, tables, progressive))
      return failed(why, "damaged JPEG (scan at byte %zu)", at);
    at += 2 + length;
    if (marker == 0xDA) /* coded data up to the next marker; FF 00 is data, FF D0 to D7 restart it, FF FF 00 is data, too */
      for (; at + 1 < size; at++)
        if (data[at] == 0xFF && data[at + 1] != 0xFF && data[at + 1] != 0 && (data[at + 1] < 0xD0 || data[at + 1] > 0xD7)) break;
  }
  return failed(why, "truncated JPEG (no end marker)");
}

/* Walks the chunks and checks their checksums, which stb_image does not. */
static bool png_is_whole(const uint8_t *data, size_t size, int *orientation, problem *why) {
  size_t at = 8;

  while (size - at >= 12) {
    uint32_t length = big32(data + at);
    const uint8_t *type = data + at + 4;

    if (length > size - at - 12) break;
    if (crc32_of(type, (size_t)length + 4) != big32(type + 4 + length))
      return failed(why, "damaged PNG (wrong checksum in the chunk at byte %zu)", at);
    if (!memcmp(type, "IEND", 4)) return true;
    if (!memcmp(type, "eXIf", 4)) *orientation = exif_orientation(type + 4, length);
    at += (size_t)length + 12;
  }
  return failed(why, "truncated PNG (no end chunk)");
}

static bool bmp_is_whole(const uint8_t *data, size_t size, problem *why) {
  uint64_t width, height, bits, needed;
  int32_t rows;

  if (size < 30) return failed(why, "truncated BMP (%zu bytes)", size);
  if (little32(data + 14) == 12) { /* the OS/2 header */
    width = little16(data + 18);
    height = little16(data + 20);
    bits = little16(data + 24);
  } else {
    width = little32(data + 18);
    rows = (int32_t)little32(data + 22); /* negative: top row first */
    height = (uint64_t)(rows < 0 ? -(int64_t)rows : rows);
    bits = little16(data + 28);
  }
  if (width > MAX_SIDE || height > MAX_SIDE) return true; /* left to the size check, which names the size */
  needed = little32(data + 10) + (width * bits + 31) / 32 * 4 * height;
  if (needed > size) return failed(why, "truncated BMP (%zu bytes of %llu)", size, (unsigned long long)needed);
  return true;
}

/* ---- Decoding ------------------------------------------------------------------------------------------------------------- */

static bool size_is_sane(uint64_t width, uint64_t height, problem *why) {
  if (!width || !height) return failed(why, "a picture of %llux%llu pixels", (unsigned long long)width, (unsigned long long)height);
  if (width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS)
    return failed(why, "%llux%llu pixels are too many (at most %d on a side, %d million in all)", (unsigned long long)width,
                  (unsigned long long)height, MAX_SIDE, MAX_PIXELS / 1000000);
  return true;
}

/* The next number of a PNM header, comments skipped; false at its end or beyond 65535. */
static bool pnm_number(const uint8_t *data, size_t size, size_t *at, unsigned *number) {
  size_t i = *at;

  while (i < size && (data[i] == '#' || strchr(" \t\r\n\v\f", data[i]))) {
    if (!data[i]) return false;
    if (data[i] == '#')
      while (i + 1 < size && data[i] != '\n') i++;
    i++;
  }
  if (i >= size || data[i] < '0' || data[i] > '9') return false;
  for (*number = 0; i < size && data[i] >= '0' && data[i] <= '9'; i++) {
    *number = *number * 10 + (data[i] - '0');
    if (*number > 65535) return false;
  }
  *at = i;
  return true;
}

/* Binary PPM and PGM (P6, P5) of any maximum: its value range is stretched to 0 .. 255. */
static bool decode_pnm(const uint8_t *data, size_t size, picture *p, problem *why) {
  unsigned width, height, maximum;
  size_t at = 2, i, samples, bytes;
  int planes = data[1] == '6' ? 3 : 1, c;

  if (!pnm_number(data, size, &at, &width) || !pnm_number(data, size, &at, &height) || !pnm_number(data, size, &at, &maximum) ||
      !maximum)
    return failed(why, "damaged PNM header");
  if (!size_is_sane(width, height, why)) return false;
  at++; /* one white space ends the header */
  bytes = maximum > 255 ? 2 : 1;
  samples = (size_t)width * height * (size_t)planes;
  if (at > size || size - at < samples * bytes) return failed(why, "truncated PNM (%zu bytes of %zu)", size, at + samples * bytes);
  p->width = (int)width;
  p->height = (int)height;
  p->rgb = allocate((size_t)width * height, 3);
  for (i = 0; i < samples; i++) {
    const uint8_t *sample = data + at + i * bytes;
    unsigned value = bytes == 2 ? big16(sample) : *sample;

    value = value > maximum ? 255 : (value * 255 + maximum / 2) / maximum;
    for (c = 0; c < 3 / planes; c++) p->rgb[planes == 3 ? i : 3 * i + (size_t)c] = (uint8_t)value;
  }
  return true;
}

/* PNG, JPEG and BMP. Alpha is dropped, gray is repeated and inks become colours as Pillow's convert("RGB") does it; of 16 bits the upper
 * 8 remain, of gray too, where Pillow cuts off what is above 255. */
static bool decode_stb(const uint8_t *data, size_t size, picture *p, problem *why) {
  int channels;

  if (size > INT_MAX) return failed(why, "a picture file of %zu bytes is too large", size);
  if (!stbi_info_from_memory(data, (int)size, &p->width, &p->height, &channels))
    return failed(why, "unreadable picture (%s)", stbi_failure_reason());
  if (!size_is_sane((uint64_t)p->width, (uint64_t)p->height, why)) return false;
  p->rgb = stbi_load_from_memory(data, (int)size, &p->width, &p->height, &channels, 3);
  return p->rgb ? true : failed(why, "unreadable picture (%s)", stbi_failure_reason());
}

/* A JPEG of four inks is taken as Adobe writes it (inverted CMYK), marker or not, as Pillow does: stb_image needs the marker. */
static bool decode_jpeg(const uint8_t *data, size_t size, picture *p, problem *why) {
  static const uint8_t marker[16] = {0xFF, 0xEE, 0, 14, 'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, 0};
  bool unmarked, done;
  uint8_t *with;

  if (!jpeg_is_whole(data, size, &p->orientation, &unmarked, why)) return false;
  if (!unmarked) return decode_stb(data, size, p, why);
  with = allocate(size + sizeof marker, 1);
  memcpy(with, data, 2);
  memcpy(with + 2, marker, sizeof marker);
  memcpy(with + 2 + sizeof marker, data + 2, size - 2);
  done = decode_stb(with, size + sizeof marker, p, why);
  free(with);
  return done;
}

#ifdef CLI_WEBP
static bool decode_webp(const uint8_t *data, size_t size, picture *p, problem *why) {
  WebPBitstreamFeatures features;
  size_t at;

  if (WebPGetFeatures(data, size, &features) != VP8_STATUS_OK) return failed(why, "damaged or truncated WebP");
  if (features.has_animation) return failed(why, "an animated WebP: give one of its pictures");
  if (!size_is_sane((uint64_t)features.width, (uint64_t)features.height, why)) return false;
  for (at = 12; size >= 8 && at <= size - 8; at += 8 + (size_t)little32(data + at + 4) + (little32(data + at + 4) & 1)) {
    size_t length = little32(data + at + 4);

    if (length > size - at - 8) return failed(why, "truncated WebP (chunk of %zu bytes at byte %zu)", length, at);
    if (!memcmp(data + at, "EXIF", 4)) {
      size_t skipped = length >= 6 && !memcmp(data + at + 8, "Exif\0\0", 6) ? 6 : 0;

      p->orientation = exif_orientation(data + at + 8 + skipped, length - skipped);
    }
  }
  p->width = features.width;
  p->height = features.height;
  p->rgb = allocate((size_t)p->width * (size_t)p->height, 3);
  if (!WebPDecodeRGBInto(data, size, p->rgb, (size_t)p->width * (size_t)p->height * 3, 3 * p->width))
    return failed(why, "damaged or truncated WebP");
  return true;
}
#endif

#ifdef CLI_TIFF
/* A TIFF file in memory, for libtiff. */
typedef struct tiff_source {
  const uint8_t *data;
  size_t size, at;
  char reason[256]; /* the first error */
} tiff_source;

static tiff_source *tiff_current; /* libtiff's handlers know of no context */

static tmsize_t tiff_read(thandle_t handle, void *to, tmsize_t count) {
  tiff_source *s = handle;
  size_t left = s->size - s->at, wanted = count < 0 ? 0 : (size_t)count < left ? (size_t)count : left;

  memcpy(to, s->data + s->at, wanted);
  s->at += wanted;
  return (tmsize_t)wanted;
}

static tmsize_t tiff_write(thandle_t handle, void *from, tmsize_t count) {
  (void)handle, (void)from, (void)count;
  return 0;
}

static toff_t tiff_seek(thandle_t handle, toff_t offset, int whence) {
  tiff_source *s = handle;
  toff_t at = whence == SEEK_CUR ? s->at + offset : whence == SEEK_END ? s->size + offset : offset;

  if (at > s->size) return (toff_t)-1;
  s->at = (size_t)at;
  return at;
}

static int tiff_close(thandle_t handle) {
  (void)handle;
  return 0;
}

static toff_t tiff_size(thandle_t handle) { return ((tiff_source *)handle)->size; }

static void tiff_error(const char *module, const char *format, va_list arguments) {
  (void)module;
  if (!*tiff_current->reason) vsnprintf(tiff_current->reason, sizeof tiff_current->reason, format, arguments);
}

/* The first picture of a TIFF file, of any kind that libtiff turns into colours. */
static bool decode_tiff(const uint8_t *data, size_t size, picture *p, problem *why) {
  tiff_source source = {data, size, 0, ""};
  uint32_t width = 0, height = 0, *pixels;
  uint16_t orientation = 1, extra = 0, *kinds = NULL, unpremultiplied = EXTRASAMPLE_ASSOCALPHA;
  bool done;
  size_t i;
  TIFF *file;

  tiff_current = &source;
  TIFFSetErrorHandler(tiff_error);
  TIFFSetWarningHandler(NULL);
  file = TIFFClientOpen("picture", "rm", &source, tiff_read, tiff_write, tiff_seek, tiff_close, tiff_size, NULL, NULL);
  if (!file) return failed(why, "unreadable TIFF (%s)", source.reason);
  TIFFGetField(file, TIFFTAG_IMAGEWIDTH, &width);
  TIFFGetField(file, TIFFTAG_IMAGELENGTH, &height);
  TIFFGetFieldDefaulted(file, TIFFTAG_ORIENTATION, &orientation);
  TIFFGetFieldDefaulted(file, TIFFTAG_EXTRASAMPLES, &extra, &kinds);
  done = size_is_sane(width, height, why);
  if (done) {
    pixels = allocate((size_t)width * height, sizeof *pixels);
    TIFFSetField(file, TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT); /* turned upright with all others */
    if (extra == 1)                                               /* alpha is dropped, not multiplied in */
      TIFFSetField(file, TIFFTAG_EXTRASAMPLES, 1, &unpremultiplied);
    done = TIFFReadRGBAImageOriented(file, width, height, pixels, ORIENTATION_TOPLEFT, 1) && !*source.reason;
    if (done) {
      p->orientation = orientation >= 1 && orientation <= 8 ? orientation : 1;
      p->width = (int)width;
      p->height = (int)height;
      p->rgb = allocate((size_t)width * height, 3);
      for (i = 0; i < (size_t)width * height; i++) {
        p->rgb[3 * i] = (uint8_t)TIFFGetR(pixels[i]);
        p->rgb[3 * i + 1] = (uint8_t)TIFFGetG(pixels[i]);
        p->rgb[3 * i + 2] = (uint8_t)TIFFGetB(pixels[i]);
      }
    } else {
      failed(why, "unreadable TIFF (%s)", *source.reason ? source.reason : "damaged");
    }
    free(pixels);
  }
  TIFFClose(file);
  return done;
}
#endif

/* What a file that is none of the above is, as far as its first bytes tell, and what to do about it. */
static bool refuse_kind(const uint8_t *data, size_t size, problem *why) {
  static const struct {
    size_t at;
    const char *magic;
    size_t length;
    const char *name;
  } kinds[] = {{0, "GIF8", 4, "GIF"},         {8, "WEBP", 4, "WebP"},
               {0, "II*\0", 4, "TIFF"},       {0, "MM\0*", 4, "TIFF"},
               {0, "II+\0", 4, "TIFF"},       {0, "MM\0+", 4, "TIFF"},
               {4, "ftypavif", 8, "AVIF"},    {4, "ftyphe", 6, "HEIC"},
               {4, "ftypmif1", 8, "HEIC"},    {0, "\0\0\0\x0cJXL ", 8, "JPEG XL"},
               {0, "\xff\x0a", 2, "JPEG XL"}, {4, "jP  \r\n\x87\n", 8, "JPEG 2000"},
               {0, "8BPS", 4, "Photoshop"},   {0, "%PDF", 4, "PDF"},
               {0, "<svg", 4, "SVG"}};
  size_t i;

  if (!size) return failed(why, "an empty file");
  for (i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (size >= kinds[i].at + kinds[i].length && !memcmp(data + kinds[i].at, kinds[i].magic, kinds[i].length)) {
      bool built = !strcmp(kinds[i].name, "WebP") || !strcmp(kinds[i].name, "TIFF");

      return failed(
          why, built ? "a %s file, and this program was built without lib%s" : "a %s file, which is not read: convert it to PNG",
          kinds[i].name, strcmp(kinds[i].name, "WebP") ? "tiff" : "webp");
    }
  return failed(why, "not a picture (" READABLE ") and not a .npy tensor");
}

/* Turn the picture upright: undo EXIF orientation 2 to 8. */
static void make_upright(picture *p, int orientation) {
  int width = orientation < 5 ? p->width : p->height, height = orientation < 5 ? p->height : p->width;
  uint8_t *upright = allocate((size_t)width * (size_t)height, 3);
  int x, y;

  for (y = 0; y < height; y++)
    for (x = 0; x < width; x++) {
      int from_x = orientation < 5 ? x : y, from_y = orientation < 5 ? y : x;

      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) from_x = p->width - 1 - from_x;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) from_y = p->height - 1 - from_y;
      memcpy(upright + 3 * ((size_t)y * (size_t)width + (size_t)x),
             p->rgb + 3 * ((size_t)from_y * (size_t)p->width + (size_t)from_x), 3);
    }
  free(p->rgb);
  p->rgb = upright;
  p->width = width;
  p->height = height;
}

static bool decode_picture(const uint8_t *data, size_t size, picture *p, problem *why) {
  static const uint8_t png[8] = {137, 'P', 'N', 'G', 13, 10, 26, 10};

  p->orientation = 1;
  if (size >= 8 && !memcmp(data, png, 8)) {
    if (!png_is_whole(data, size, &p->orientation, why) || !decode_stb(data, size, p, why)) return false;
  } else if (size >= 3 && data[0] == 0xFF && data[1] == 0xD8 && data[2] == 0xFF) {
    if (!decode_jpeg(data, size, p, why)) return false;
  } else if (size >= 2 && data[0] == 'B' && data[1] == 'M') {
    if (!bmp_is_whole(data, size, why) || !decode_stb(data, size, p, why)) return false;
  } else if (size >= 3 && data[0] == 'P' && (data[1] == '5' || data[1] == '6')) {
    if (!decode_pnm(data, size, p, why)) return false;
#ifdef CLI_WEBP
  } else if (size >= 12 && !memcmp(data, "RIFF", 4) && !memcmp(data + 8, "WEBP", 4)) {
    if (!decode_webp(data, size, p, why)) return false;
#endif
#ifdef CLI_TIFF
  } else if (size >= 4 &&
             (!memcmp(data, "II*\0", 4) || !memcmp(data, "MM\0*", 4) || !memcmp(data, "II+\0", 4) || !memcmp(data, "MM\0+", 4))) {
    if (!decode_tiff(data, size, p, why)) return false;
#endif
  } else {
    return refuse_kind(data, size, why);
  }
  p->channels = 3;
  if (p->orientation != 1) make_upright(p, p->orientation);
  return true;
}

/* ---- .npy ----------------------------------------------------------------------------------------------------------------- */

/* The text after 'key': in the header's dictionary, NULL: no such key. */
static const char *npy_value(const char *header, const char *key) {
  char quoted[32];
  const char *at;

  snprintf(quoted, sizeof quoted, "'%s':", key);
  at = strstr(header, quoted);
  return at ? at + strlen(quoted) + strspn(at + strlen(quoted), " ") : NULL;
}

/* A tensor [C, H, W] or [1, C, H, W] of little-endian float32 in C order, as numpy.save writes it (format 1.0 to 3.0). */
static bool decode_npy(const uint8_t *data, size_t size, picture *p, problem *why) {
  size_t header_at, header_bytes, count, i;
  unsigned long long shape[4] = {0};
  int dimensions = 0;
  const char *descr, *order, *at;
  char *header;
  bool right;

  if (size < 12) return failed(why, "truncated .npy (%zu bytes)", size);
  if (data[6] < 1 || data[6] > 3) return failed(why, ".npy format %d.%d is unknown", data[6], data[7]);
  header_at = data[6] == 1 ? 10 : 12;
  header_bytes = data[6] == 1 ? little16(data + 8) : little32(data + 8);
  if (header_bytes > size - header_at) return failed(why, "truncated .npy (header of %zu bytes)", header_bytes);
  header = text_of("%.*s", (int)(header_bytes < 65536 ? header_bytes : 65536), (const char *)data + header_at);
  descr = npy_value(header, "descr");
  order = npy_value(header, "fortran_order");
  at = npy_value(header, "shape");
  right = descr && order && at && *at == '(';
  if (right) {
    at++;
    while (dimensions < 4 && *at >= '0' && *at <= '9') {
      char *end;

      shape[dimensions++] = strtoull(at, &end, 10);
      at = end + strspn(end, ", ");
    }
    right = *at == ')';
  }
  if (!right)
    failed(why, "damaged .npy header, or more than four dimensions");
  else if (strncmp(descr, "'<f4'", 5))
    right = failed(why, ".npy of type %.*s, but float32 ('<f4') is needed", (int)strcspn(descr, ", }"), descr);
  else if (strncmp(order, "False", 5))
    right = failed(why, ".npy in Fortran order, but C order is needed");
  free(header);
  if (!right) return false;
  if (dimensions == 4 && shape[0] == 1)
    memmove(shape, shape + 1, 3 * sizeof *shape);
  else if (dimensions != 3)
    return failed(why, ".npy of %d dimensions%s, but [C, H, W] or [1, C, H, W] is needed", dimensions,
                  dimensions == 4 ? " and more than one picture" : "");
  for (i = 0; i < 3; i++)
    if (!shape[i] || shape[i] > MAX_SIDE) return failed(why, ".npy of shape [%llu, %llu, %llu]", shape[0], shape[1], shape[2]);
  if (shape[0] * shape[1] * shape[2] > 4ULL * MAX_PIXELS) /* no overflow: each is at most 2^14 */
    return failed(why, ".npy of shape [%llu, %llu, %llu] is too large", shape[0], shape[1], shape[2]);
  count = (size_t)(shape[0] * shape[1] * shape[2]);
  if (size - header_at - header_bytes != count * 4)
    return failed(why, "%s .npy (%zu bytes of data, its shape needs %zu)",
                  size - header_at - header_bytes < count * 4 ? "truncated" : "damaged", size - header_at - header_bytes,
                  count * 4);
  p->channels = (int)shape[0];
  p->height = (int)shape[1];
  p->width = (int)shape[2];
  p->tensor = allocate(count, sizeof *p->tensor);
  for (i = 0; i < count; i++) {
    uint32_t bits = little32(data + header_at + header_bytes + 4 * i);

    memcpy(&p->tensor[i], &bits, 4);
  }
  return true;
}

/* Write float32 values as .npy; false: the name is taken or forbidden. */
static bool write_npy(const char *path, const float *values, const int *shape, int dimensions, problem *why) {
  output *o = output_open(path, why);
  char header[128], sizes[64];
  size_t count = 1, used = 0, i, length = 0;
  uint8_t chunk[4096];
  int d;

  if (!o) return false;
  for (d = 0; d < dimensions; d++) {
    count *= (size_t)shape[d];
    length += (size_t)snprintf(sizes + length, sizeof sizes - length, "%s%d", d ? ", " : "", shape[d]);
  }
  /* Magic, version 1.0 and the header's length are 10 bytes; all of it takes 128, the header padded and ended by a newline. */
  snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%s%s), }", sizes, dimensions == 1 ? "," : "");
  length = strlen(header);
  memset(header + length, ' ', 117 - length);
  header[117] = '\n';
  output_write(o, "\x93NUMPY\x01\x00\x76\x00", 10);
  output_write(o, header, 118);
  for (i = 0; i < count; i++) {
    uint32_t bits;
    int b;

    memcpy(&bits, &values[i], 4);
    for (b = 0; b < 4; b++) chunk[used++] = (uint8_t)(bits >> 8 * b);
    if (used == sizeof chunk || i + 1 == count) {
      output_write(o, chunk, used);
      used = 0;
    }
  }
  output_close(o);
  return true;
}

/* ---- Files ---------------------------------------------------------------------------------------------------------------- */

/* For list_folder(): NULL for a file that counts as a picture by its name, "" for one that is none, else why it is not read. */
static const char *why_no_picture(const char *name) {
  static const char *const read[] = {".png",  ".jpg",  ".jpeg", ".bmp", ".ppm", ".pgm", ".pnm", ".npy",
#ifdef CLI_WEBP
                                     ".webp",
#endif
#ifdef CLI_TIFF
                                     ".tif",  ".tiff",
#endif
                                     NULL};
  static const char *const others[][2] = {{".webp", "WebP files: this program was built without libwebp"},
                                          {".tif", "TIFF files: this program was built without libtiff"},
                                          {".tiff", "TIFF files: this program was built without libtiff"},
                                          {".gif", "GIF files, which are not read: convert them to PNG"},
                                          {".heic", "HEIC files, which are not read: convert them to JPEG"},
                                          {".heif", "HEIC files, which are not read: convert them to JPEG"},
                                          {".avif", "AVIF files, which are not read: convert them to JPEG"},
                                          {".jxl", "JPEG XL files, which are not read: convert them to JPEG"},
                                          {".jp2", "JPEG 2000 files, which are not read: convert them to PNG"},
                                          {".dng", "raw camera files, which are not read: convert them to JPEG"},
                                          {".cr2", "raw camera files, which are not read: convert them to JPEG"},
                                          {".nef", "raw camera files, which are not read: convert them to JPEG"},
                                          {".arw", "raw camera files, which are not read: convert them to JPEG"}};
  size_t i;

  for (i = 0; read[i]; i++)
    if (ends_with(name, read[i])) return NULL;
  for (i = 0; i < sizeof others / sizeof *others; i++)
    if (ends_with(name, others[i][0])) return others[i][1];
  return "";
}

/* Read a picture or tensor; on false nothing is left in *p, and *why begins with the path. */
static bool load_picture(const char *path, picture *p, problem *why) {
  problem detail;
  uint8_t *data;
  size_t size;
  bool done;

  memset(p, 0, sizeof *p);
  if (strcmp(path, "-") ? !read_whole(path, MAX_FILE_BYTES, &data, &size, why)
                        : !read_rest(stdin, "standard input", MAX_FILE_BYTES, &data, &size, why))
    return false;
  done = size >= 6 && !memcmp(data, "\x93NUMPY", 6) ? decode_npy(data, size, p, &detail) : decode_picture(data, size, p, &detail);
  free(data);
  if (!done) {
    picture_free(p);
    failed(why, "%s: %.600s", path, detail.text);
  }
  return done;
}

#endif
