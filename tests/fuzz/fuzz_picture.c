/* Fuzz target for libFuzzer or AFL++: the program's decoders of pictures (PNG, JPEG, BMP, PNM, EXIF) and of .npy files, as it calls them. A
 * refusal names its reason; what is accepted has the size it says. */
#define _XOPEN_SOURCE 700
#include "../../tools/cli_base.h"
#include "../../tools/cli_picture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  picture p;
  problem why;
  memset(&p, 0, sizeof p);
  memset(&why, 0, sizeof why);
  if (size >= 6 && !memcmp(data, "\x93NUMPY", 6))
    decode_npy(data, size, &p, &why);
  else
    decode_picture(data, size, &p, &why);
  picture_free(&p);
  return 0;
}
