/* Fuzz target for libFuzzer or AFL++: the program's decoders of pictures (PNG, JPEG, BMP, PNM, EXIF) and of .npy files, as it
 * calls them. A refusal names its reason; what is accepted has the size it says. The mutator repairs a PNG's checksums, or nothing
 * behind them would be reached. */
#define _XOPEN_SOURCE 700
#include "../../tools/cli_base.h"
#include "../../tools/cli_picture.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

unsigned fuzz_sum; /* seen from elsewhere, so that the bytes are read */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  picture p;
  problem why;
  bool done;
  size_t i, n;
  memset(&p, 0, sizeof p);
  memset(&why, 0, sizeof why);
  done = size >= 6 && !memcmp(data, "\x93NUMPY", 6) ? decode_npy(data, size, &p, &why) : decode_picture(data, size, &p, &why);
  if (!done && !why.text[0]) abort();
  if (done) { /* every byte is there to be read */
    const uint8_t *bytes = p.rgb ? p.rgb : (const uint8_t *)p.tensor;
    n = (size_t)p.height * (size_t)p.width * (p.rgb ? 3 : (size_t)p.channels * sizeof *p.tensor);
    if (!n || !bytes) abort();
    for (i = 0; i < n; i++) fuzz_sum += bytes[i];
  }
  picture_free(&p);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
  size_t at = 8;
  (void)seed;
  size = LLVMFuzzerMutate(data, size, max_size);
  if (size < 8 || memcmp(data, "\x89PNG\r\n\x1a\n", 8)) return size;
  while (size - at >= 12) {
    uint32_t length = big32(data + at), crc;
    int i;
    if (length > size - at - 12) break;
    crc = crc32_of(data + at + 4, (size_t)length + 4);
    for (i = 0; i < 4; i++) data[at + 8 + length + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
    at += (size_t)length + 12;
  }
  return size;
}
