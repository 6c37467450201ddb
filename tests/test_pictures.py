#!/usr/bin/env python3
"""Preprocessing agrees with Pillow, so that maps agree with the Python world.

    python3 tests/test_pictures.py [-k TEXT]

A file goes the way that it goes in the program: decoded by build/agf (read back from a fully transparent overlay), then
turned into the network's input by agf_picture_to_input of the shared library ($AGF_LIBRARY, else build/libagf.so).
Pillow decodes and resizes the same file. Needs numpy and Pillow; uses the photographs below AGF_TEST_DATA.
"""

import ctypes
import glob
import os
import shutil
import subprocess
import sys

from harness import DATA, ROOT, Skip, check, missing_file, needs, run_tests
from test_cli import AGF, good, refused, write_model

needs("numpy", "PIL.Image")
import numpy as np  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402

LIBRARY = os.path.abspath(os.environ.get("AGF_LIBRARY", os.path.join(ROOT, "build", "libagf.so")))
REAL = os.path.join(DATA, "real")

# In steps of 1/255. Both round to 8 bits after each of two passes; where a sum falls on a tie, a step may lie between.
EXACT = 1.0
# JPEG decoders may round the inverse DCT, the enlargement of colour and its conversion differently: about a step each.
JPEG = 4.0


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 256)]


class Rect(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("left", "top", "width", "height")]


def picture_to_input(model, rgb, channels, height, width):
    """[H, W, 3] bytes to ([channels, height, width], the rectangle seen), by the engine with a model file's rules."""
    library = ctypes.CDLL(LIBRARY)
    handle, error, seen = ctypes.c_void_p(), Error(), Rect()
    rgb = np.ascontiguousarray(rgb, np.uint8)
    chw = np.full((channels, height, width), np.nan, np.float32)
    status = library.agf_model_open(model.encode(), None, ctypes.byref(handle), ctypes.byref(error))
    check(status == 0, error.message.decode())
    status = library.agf_picture_to_input(
        handle,
        height,
        width,
        ctypes.c_void_p(rgb.ctypes.data),
        rgb.shape[1],
        rgb.shape[0],
        ctypes.c_size_t(rgb.strides[0]),
        ctypes.c_void_p(chw.ctypes.data),
        ctypes.byref(seen),
        ctypes.byref(error),
    )
    library.agf_model_close(handle)
    check(status == 0, error.message.decode())
    return chw, (seen.left, seen.top, seen.width, seen.height)


def scene(width, height, seed=0):
    """[H, W, 3] bytes with smooth parts, edges, fine texture and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin(x * y / 40)], axis=-1)
    disc = (x - width * rng.uniform(0.3, 0.7)) ** 2 + (y - height * rng.uniform(0.3, 0.7)) ** 2 < (
        min(width, height) / 4
    ) ** 2
    rgb[disc] = rng.integers(0, 256, 3)
    rgb[(x // 3 + y // 2) % 2 == 0] *= 0.8
    return np.clip(rgb + rng.normal(0, 6, rgb.shape), 0, 255).astype(np.uint8)


def decoded(path, model):
    """The file as the program decodes it."""
    good("explain", model, path, "--overlay", "--colour", "--alpha", 0, "-o", "seen.png")
    return np.asarray(Image.open("seen.png"))


def pillow_input(image, height, width, resize_to=0):
    """[H, W, 3] float64 in 0 .. 255, and the rectangle of the picture that it shows: stretched, or as torchvision's
    Resize (shorter side to resize_to) and CenterCrop."""
    if not resize_to:
        return np.asarray(image.resize((width, height), Image.BILINEAR), np.float64), (0, 0, *image.size)
    w, h = image.size
    large = (resize_to, int(resize_to * h / w)) if w <= h else (int(resize_to * w / h), resize_to)
    left, top = int(round((large[0] - width) / 2.0)), int(round((large[1] - height) / 2.0))
    resized = image.resize(large, Image.BILINEAR)
    across, down = w / large[0], h / large[1]
    return (
        np.asarray(resized.crop((left, top, left + width, top + height)), np.float64),
        (left * across, top * down, width * across, height * down),
    )


def compare(path, limit, height=32, width=40, resize_to=0, scale=1, upright=True, model="m.agf"):
    """Check one file at `scale` times the model's size; the largest difference in steps of 1/255."""
    chw, seen = picture_to_input(model, decoded(path, model), 3, height * scale, width * scale)
    image = ImageOps.exif_transpose(Image.open(path)) if upright else Image.open(path)
    expected, rectangle = pillow_input(image.convert("RGB"), height * scale, width * scale, resize_to * scale)
    worst = np.abs(chw.transpose(1, 2, 0) * 255.0 - expected).max()
    check(worst <= limit, "%s, %s: off by %.3f/255, limit %g" % (path, (height * scale, width * scale), worst, limit))
    # the rectangle in pixels of the picture; float64 on both sides
    check(np.allclose(seen, rectangle, rtol=0, atol=1e-6), "%s: rectangle %s, expected %s" % (path, seen, rectangle))
    return worst


SIZES = [(40, 32), (41, 33), (200, 150), (150, 200), (37, 91), (20, 16), (7, 5), (1, 1), (3, 640), (801, 603)]
PLAIN = {"mean": (0.0,) * 4, "std": (1.0,) * 4}  # the input is the pixel's value / 255


def test_stretch():
    write_model("m.agf", **PLAIN)
    for i, (width, height) in enumerate(SIZES):
        Image.fromarray(scene(width, height, i)).save("a.png")
        Image.fromarray(scene(width, height, i)).save("a.ppm")
        for scale in (1, 3):
            compare("a.png", EXACT, scale=scale)
            compare("a.ppm", EXACT, scale=scale)


def test_crop():
    for height, width, resize_to in ((32, 32, 32), (32, 32, 37), (31, 31, 36), (24, 40, 41), (33, 20, 34)):
        write_model("m.agf", height=height, width=width, resize_to=resize_to, **PLAIN)
        for i, (w, h) in enumerate(SIZES):
            Image.fromarray(scene(w, h, i)).save("a.png")
            for scale in (1, 2):
                compare("a.png", EXACT, height, width, resize_to, scale)


def test_kinds_of_png():
    write_model("m.agf", **PLAIN)
    rgb = scene(90, 61)
    rgba = np.dstack([rgb, np.arange(61 * 90).reshape(61, 90) % 256]).astype(np.uint8)
    image = Image.fromarray(rgb)
    kinds = {
        "rgba": Image.fromarray(rgba, "RGBA"),
        "gray": image.convert("L"),
        "gray-alpha": image.convert("LA"),
        "palette": image.quantize(200),
        "bits": image.convert("1"),
    }
    for name, kind in kinds.items():
        kind.save(name + ".png")
        compare(name + ".png", EXACT)
    kinds["palette"].save("transparent.png", transparency=3)
    compare("transparent.png", EXACT)
    image.save("a.bmp")
    compare("a.bmp", EXACT)
    kinds["gray"].save("a.pgm")
    compare("a.pgm", EXACT)


def test_jpeg():
    write_model("m.agf", **PLAIN)
    for i, (width, height) in enumerate([(200, 150), (321, 243), (64, 48)]):
        image = Image.fromarray(scene(width, height, i))
        for subsampling in (0, 1, 2):
            for progressive in (False, True):
                image.save("a.jpg", quality=90, subsampling=subsampling, progressive=progressive)
                compare("a.jpg", JPEG)
        image.convert("L").save("gray.jpg", quality=90)
        compare("gray.jpg", JPEG)


# Decodes the files that it is given by the program's decoder, whose vector instructions are what machines differ in
# (the one function that the program replaces has none), and prints a hash of each one's pixels (FNV-1a).
DECODER = """
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#include <stb/stb_image.h>
int main(int count, char **path) {
  for (int i = 1; i < count; i++) {
    int width, height, channels;
    unsigned char *rgb = stbi_load(path[i], &width, &height, &channels, 3);
    unsigned long long hash = 14695981039346656037ULL;
    if (!rgb) return 1;
    for (long k = 0; k < 3L * width * height; k++) hash = (hash ^ rgb[k]) * 1099511628211ULL;
    printf("%d %d %llx\\n", width, height, hash);
    stbi_image_free(rgb);
  }
}
"""


def test_jpeg_everywhere():
    """A photograph has the same pixels, and so the same map, whatever vector instructions decode it, or none."""
    random, files = np.random.RandomState(5), []
    for i in range(24):
        width, height = random.randint(1, 150, 2)
        rgb = scene(width, height, i) if i % 2 else random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        files.append("%d.jpg" % i)
        Image.fromarray(rgb).save(files[-1], quality=int(random.randint(1, 101)), subsampling=i % 3, progressive=i % 5 == 0)
    with open("decoder.c", "w") as file:
        file.write(DECODER)
    own = os.environ.get("CC", "cc").split()
    # -idirafter: a compiler for another machine does not look where this one's headers are
    ways = [("vectors", own, []), ("no vectors", [*own, "-DSTBI_NO_SIMD"], [])] + [
        (name, [name + "-gcc", "-static", "-idirafter", "/usr/include"], ["qemu-" + machine])
        for name, machine in (("aarch64-linux-gnu", "aarch64"), ("arm-linux-gnueabihf", "arm"))
        if shutil.which(name + "-gcc") and shutil.which("qemu-" + machine)
    ]
    found = {}
    for name, compiler, runner in ways:
        made = subprocess.run([*compiler, "-O1", "decoder.c", "-o", "decoder", "-lm"], capture_output=True, text=True)
        check(made.returncode == 0, f"{name}: {made.stderr}")
        found[name] = subprocess.run([*runner, "./decoder", *files], check=True, capture_output=True, text=True).stdout.split("\n")
    for name, lines in found.items():
        check(len(lines) == len(files) + 1 and lines == found["vectors"], f"{name}: {lines} for {found['vectors']}")


def program_reads(kind):
    if kind not in good("--version").out:
        raise Skip("the program was built without a library for %s" % kind)


def test_webp():
    program_reads("WebP")
    write_model("m.agf", **PLAIN)
    for i, (width, height) in enumerate([(200, 150), (321, 243), (7, 5)]):
        image = Image.fromarray(scene(width, height, i))
        image.save("a.webp", lossless=True)
        compare("a.webp", EXACT)
        image.save("a.webp", quality=80)
        compare("a.webp", JPEG)
    rgba = image.copy()
    rgba.putalpha(image.convert("L"))
    rgba.save("a.webp", lossless=True, exact=True)
    compare("a.webp", EXACT)
    tags = Image.Exif()
    tags[0x0112] = 6
    image.save("a.webp", lossless=True, exif=tags)
    compare("a.webp", EXACT)
    image.save("moving.webp", save_all=True, append_images=[image.rotate(180)], duration=100)
    refused("explain", "m.agf", "moving.webp", says=["moving.webp", "animated"])
    with open("a.webp", "rb") as f:
        data = f.read()
    for length in (12, 20, 40, len(data) // 2, len(data) - 1):
        with open("cut.webp", "wb") as f:
            f.write(data[:length])
        refused("explain", "m.agf", "cut.webp", says="cut.webp")


def test_tiff():
    program_reads("TIFF")
    write_model("m.agf", **PLAIN)
    image = Image.fromarray(scene(91, 63))
    for kind in (image, image.convert("L"), image.quantize(99), image.convert("1")):
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            kind.save("a.tiff", compression=compression)
            compare("a.tiff", EXACT)
    image.save("a.tiff", compression="jpeg", quality=90)
    compare("a.tiff", JPEG)
    rgba = image.copy()
    rgba.putalpha(image.convert("L"))
    rgba.save("a.tiff")
    compare("a.tiff", EXACT)
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        image.save("a.tif", exif=tags)
        compare("a.tif", EXACT)
    with open("a.tif", "rb") as f:
        data = f.read()
    for length in (4, 8, 100, len(data) // 2):
        with open("cut.tif", "wb") as f:
            f.write(data[:length])
        refused("explain", "m.agf", "cut.tif", says="cut.tif")


def test_inks():
    """JPEGs of four inks, with Adobe's marker and without: Pillow takes both as Adobe writes them."""
    write_model("m.agf", **PLAIN)
    planes = [Image.fromarray(scene(96, 64, i)).convert("L") for i in range(4)]
    Image.merge("CMYK", planes).save("marked.jpg", quality=95, subsampling=0)
    compare("marked.jpg", JPEG)
    with open("marked.jpg", "rb") as f:
        data = f.read()
    at = data.index(b"Adobe") - 4
    with open("unmarked.jpg", "wb") as f:
        f.write(data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :])
    compare("unmarked.jpg", JPEG)


def test_sixteen_bits():
    """The upper 8 of 16 bits: of gray, Pillow would cut off what is above 255, and most pictures would be white."""
    write_model("m.agf", **PLAIN)
    gray = (scene(90, 61)[..., 0].astype(np.uint16) << 8) | 77
    Image.fromarray(gray).save("gray.png")
    check((decoded("gray.png", "m.agf") == (gray >> 8)[..., None]).all(), "16 bits of gray")


def test_exif_orientation():
    write_model("m.agf", **PLAIN)
    image = Image.fromarray(scene(120, 80))
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        image.save("a.jpg", quality=95, exif=tags)
        compare("a.jpg", JPEG)


def test_photographs():
    photographs = sorted(
        glob.glob(os.path.join(REAL, "*.jpg")) + glob.glob(os.path.join(REAL, "imagenet", "*.jpg"))[:6]
    )
    if not photographs:
        raise Skip(f"no photographs in {REAL} (AGF_TEST_DATA)")
    write_model("stretch.agf", height=224, width=224, **PLAIN)
    write_model("crop.agf", height=224, width=224, resize_to=256, **PLAIN)
    for path in photographs:
        compare(path, JPEG, 224, 224, model="stretch.agf")
        compare(path, JPEG, 224, 224, 256, model="crop.agf")


def test_normalisation():
    """Mean, std, range, channel order, networks of one channel; the pixels themselves are what test_stretch is for."""
    mean, std = (104.0, 117.0, 123.0, 0.0), (1.0, 2.0, 4.0, 1.0)
    rgb = scene(100, 75)
    write_model("plain.agf", **PLAIN)
    plain = picture_to_input("plain.agf", rgb, 3, 32, 40)[0]
    write_model("bgr.agf", order=1, value_range=255.0, mean=mean, std=std)
    got = picture_to_input("bgr.agf", rgb, 3, 32, 40)[0]
    expected = (plain[::-1] * 255 - np.reshape(mean[:3], (3, 1, 1))) / np.reshape(std[:3], (3, 1, 1))
    check(np.abs(got - expected).max() <= 1e-4, "BGR, 0..255")  # float32 at 255: steps of 1.5e-5, a few operations
    write_model("gray.agf", channels=1, mean=(0.0,) * 4, std=(1.0,) * 4)
    got = picture_to_input("gray.agf", rgb, 1, 32, 40)[0]
    gray = np.asarray(Image.fromarray(rgb).convert("L").resize((40, 32), Image.BILINEAR), np.float64)
    check(np.abs(got[0] * 255.0 - gray).max() <= EXACT, "one channel: luma first, then resized")


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:], missing_file(AGF, LIBRARY)))
