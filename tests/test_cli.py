#!/usr/bin/env python3
"""Tests of the command line program, as its user meets it: what it prints, writes, refuses and leaves behind.

    python3 tests/test_cli.py [-k TEXT]

Needs Python's standard library alone, so that it runs on a Raspberry Pi as it is. The program is $AGF_BIN, else
build/agf; a demo model to try besides is $AGF_DEMO, else the one in tests/demo/. Models and pictures are made here, so
that every value in them is known.
"""

import base64
import glob
import html.parser
import json
import math
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib

from harness import ROOT, Skip, check, missing_file, run_tests

AGF = os.path.abspath(os.environ.get("AGF_BIN", os.path.join(ROOT, "build", "agf")))
GOLDEN = os.path.join(ROOT, "tests", "golden")
PATIENCE = 120  # seconds; nothing here takes more than a few, even on a Pi


# A model file (the format is at the end of agf.h)

CONV, RELU, MAXPOOL, GLOBAL_AVGPOOL, LINEAR, FLATTEN = 1, 3, 5, 8, 9, 10
LABELS = ["cat", "polecat", "tiger cat", "crane", "crane", 'sea/lion "\u00fc"']


def conv_bytes(weights):
    """[O][I][kh][kw] to the layout "convolution" of the file."""
    out = []
    outputs, inputs, kh, kw = len(weights), len(weights[0]), len(weights[0][0]), len(weights[0][0][0])
    for block in range(0, inputs, 16):
        for y in range(kh):
            for o_block in range(0, outputs, 32):
                for i in range(block, min(block + 16, inputs)):
                    for x in range(kw):
                        out += [weights[o][i][y][x] if o < outputs else 0.0 for o in range(o_block, o_block + 32)]
    return struct.pack("<%df" % len(out), *out)


def linear_bytes(weights):
    """[O][I], I a vector, to the layout "linear" of the file."""
    padded = (len(weights) + 31) // 32 * 32
    out = [weights[o][i] if o < len(weights) else 0.0 for i in range(len(weights[0])) for o in range(padded)]
    return struct.pack("<%df" % len(out), *out)


def write_model(
    path,
    labels=LABELS,
    classes=None,
    channels=3,
    height=32,
    width=40,
    resize_to=0,
    order=0,
    value_range=1.0,
    mean=(0.4, 0.5, 0.6, 0.0),
    std=(0.2, 0.25, 0.3, 1.0),
    is_picture=True,
    name="tiny",
    layer="layer",
    seed=1,
    answers=0,
):
    """conv 3x3 - ReLU - max pool - conv 3x3 - ReLU - global average pool - flatten - linear, He-initialised.

    answers: 0 softmax, 1 sigmoid, 2 none; other than softmax the file is of version 2. resize_to: 0 stretches pictures,
    else their shorter side becomes this, and the centre is cut out. Returns the number of parameters.
    """
    rng = random.Random(seed)
    classes = classes or len(labels)

    def normal(outputs, inputs, kernel):
        deviation = math.sqrt(2 / (inputs * kernel * kernel))
        return [
            [[[rng.gauss(0, deviation) for _ in range(kernel)] for _ in range(kernel)] for _ in range(inputs)]
            for _ in range(outputs)
        ]

    strings = bytearray(b"\0")

    def string(text):
        if not text:
            return 0
        at = len(strings)
        strings.extend(text.encode() + b"\0")
        return at

    widths = (8, 16)
    head = [[normal(1, 1, 1)[0][0][0][0] for _ in range(widths[1])] for _ in range(classes)]
    tensors = [
        (1, (widths[0], channels, 3, 3), conv_bytes(normal(widths[0], channels, 3))),
        (0, (widths[0], 1, 1, 1), struct.pack("<%df" % widths[0], *[rng.gauss(0, 0.1) for _ in range(widths[0])])),
        (1, (widths[1], widths[0], 3, 3), conv_bytes(normal(widths[1], widths[0], 3))),
        (3, (classes, widths[1], 1, 1), linear_bytes(head)),
        (0, (classes, 1, 1, 1), struct.pack("<%df" % classes, *[0.0] * classes)),
    ]

    def node(op, kernel=0, stride=0, pad=0, groups=0, channels=0, weights=0, bias=0):
        dilation = 1 if op == CONV or (answers and op == MAXPOOL) else 0
        index = len(nodes)
        nodes.append(
            struct.pack(
                "<20I",
                op,
                0,
                string("%s%d" % (layer, index)),
                index,
                1,
                kernel,
                kernel,
                stride,
                stride,
                pad,
                pad,
                pad,
                pad,
                dilation,
                dilation,
                groups,
                channels,
                weights,
                bias,
                0,
            )
            + bytes(16 if answers else 0)
        )

    nodes = []
    node(CONV, 3, 1, 1, 1, widths[0], 1, 2)
    node(RELU)
    node(MAXPOOL, 2, 2)
    node(CONV, 3, 1, 1, 1, widths[1], 3, 0)
    node(RELU)
    node(GLOBAL_AVGPOOL)
    node(FLATTEN)
    node(LINEAR, channels=classes, weights=4, bias=5)
    edges = struct.pack("<%dI" % len(nodes), *range(len(nodes)))

    picture = (
        (order, 1 if resize_to else 0, resize_to, value_range, *mean, *std)
        if is_picture
        else (0, 0, 0, 0.0, *[0.0] * 8)
    )
    inputs = struct.pack("<7I9f2I8x", channels, height, width, int(is_picture) | answers << 8, *picture, string(name), string("test"))
    label_table = struct.pack("<%dI" % len(labels), *[string(label) for label in labels])
    before_tensors = 144 + (96 if answers else 80) * len(nodes) + len(edges) + 40 * len(tensors) + len(label_table) + len(strings)
    header_bytes = (before_tensors + 63) // 64 * 64
    table, data = b"", b""
    for layout, dimensions, content in tensors:
        table += struct.pack("<6I2Q", 1, layout, *dimensions, header_bytes + len(data), len(content))
        data += content + bytes(-len(content) % 64)
    body = inputs + b"".join(nodes) + edges + table + label_table + bytes(strings)
    body += bytes(header_bytes - 64 - len(body))

    def header(crc):
        return b"\x89AGF\r\n\x1a\n" + struct.pack(
            "<2IQ7I12x",
            2 if answers else 1,
            header_bytes,
            header_bytes + len(data),
            crc,
            zlib.crc32(data),
            len(nodes),
            len(nodes),
            len(tensors),
            len(labels),
            len(strings),
        )

    with open(path, "wb") as f:
        f.write(header(zlib.crc32(header(0) + body)) + body + data)
    return widths[0] * channels * 9 + widths[0] + widths[1] * widths[0] * 9 + classes * widths[1] + classes


# Pictures


def scene(width, height, seed=0):
    """Rows of (r, g, b): a gradient with a bright disc on it."""
    rng = random.Random(seed)
    cx, cy, r = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height, 0.25 * min(width, height)
    tint = [rng.randrange(256) for _ in range(3)]
    return [
        [
            (
                tuple(tint)
                if (x - cx) ** 2 + (y - cy) ** 2 < r * r
                else (255 * x // width, 255 * y // height, (7 * x + 3 * y + seed) % 256)
            )
            for x in range(width)
        ]
        for y in range(height)
    ]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(lines, width, height, depth=8, colour=2, extra=b""):
    """A PNG of unfiltered scan lines; `extra`: chunks before the data."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
        + extra
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
        + chunk(b"IEND", b"")
    )


def png_bytes(rows, extra=b""):
    return png_of([bytes(v for pixel in row for v in pixel) for row in rows], len(rows[0]), len(rows), extra=extra)


def ppm_bytes(rows):
    return b"P6\n# a comment\n%d %d\n255\n" % (len(rows[0]), len(rows)) + bytes(
        v for row in rows for p in row for v in p
    )


def bmp_bytes(rows):
    width, height = len(rows[0]), len(rows)
    lines = [b"".join(bytes(reversed(pixel)) for pixel in row) for row in reversed(rows)]
    data = b"".join(line + bytes(-len(line) % 4) for line in lines)
    return (
        struct.pack("<2sIHHI", b"BM", 54 + len(data), 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(data), 2835, 2835, 0, 0)
        + data
    )


def exif(orientation, order="<"):
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return tiff + struct.pack(order + "HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def jpeg_bytes(blocks, orientation=None, order="<"):
    """A gray baseline JPEG of even 8x8 blocks: `blocks` is rows of gray values, and every decoder agrees on them."""
    height, width = len(blocks), len(blocks[0])

    def segment(marker, data):
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data

    out = b"\xff\xd8"
    if orientation:
        out += segment(0xE1, b"Exif\0\0" + exif(orientation, order))
    out += segment(0xDB, b"\0" + b"\x08" * 64)  # a quantiser of 8 makes the DC coefficient value - 128
    out += segment(0xC0, struct.pack(">BHHB", 8, 8 * height, 8 * width, 1) + b"\x01\x11\0")
    out += segment(
        0xC4, b"\0" + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12))
    )  # DC: sizes 0 to 11, four bits each
    out += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\0")  # AC: end of block, one bit
    out += segment(0xDA, b"\x01\x01\0\0\x3f\0")
    bits, last = "", 0
    for row in blocks:
        for value in row:
            difference = value - 128 - last
            last = value - 128
            size = abs(difference).bit_length()
            bits += format(size, "04b")
            if size:
                bits += format(difference if difference > 0 else difference + (1 << size) - 1, "0%db" % size)
            bits += "0"
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    return out + data.replace(b"\xff", b"\xff\0") + b"\xff\xd9"


def read_png(path):
    """Rows of (r, g, b) of an 8-bit RGB PNG; every chunk's checksum is verified."""
    with open(path, "rb") as f:
        data = f.read()
    check(data[:8] == b"\x89PNG\r\n\x1a\n", "%s is no PNG" % path)
    at, packed, ended = 8, b"", False
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        check(
            struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + content),
            "bad PNG checksum",
        )
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">2I2B", content[:10])
            check((depth, colour) == (8, 2), "PNG of depth %d, colour type %d" % (depth, colour))
        packed += content if kind == b"IDAT" else b""
        ended = ended or kind == b"IEND"
        at += 12 + length
    check(ended, "PNG without its end")
    raw, stride, above, rows = zlib.decompress(packed), 3 * width, bytes(3 * width), []
    for y in range(height):
        kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for i in range(stride):
            a, b, c = line[i - 3] if i > 2 else 0, above[i], above[i - 3] if i > 2 else 0
            if kind == 4:
                p = a + b - c
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
                guess = a if pa <= pb and pa <= pc else b if pb <= pc else c
            else:
                guess = (0, a, b, (a + b) // 2)[kind]
            line[i] = line[i] + guess & 255
        above = bytes(line)
        rows.append([tuple(line[3 * x : 3 * x + 3]) for x in range(width)])
    return rows


def png_size(path):
    with open(path, "rb") as f:
        return struct.unpack(">2I", f.read(24)[16:24])


def npy_bytes(values, shape, descr="<f4", fortran=False, version=1):
    text = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }" % (descr, fortran, tuple(shape))
    text += " " * (-(len(text) + (10 if version == 1 else 12) + 1) % 64) + "\n"
    head = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text.encode()
    return head + struct.pack("<%d%s" % (len(values), descr[-2:].replace("f4", "f").replace("f8", "d")), *values)


def read_npy(path):
    """(shape, values) of a float32 or float64 .npy file."""
    with open(path, "rb") as f:
        data = f.read()
    check(data[:8] == b"\x93NUMPY\x01\x00", "%s is no .npy of format 1.0" % path)
    (length,) = struct.unpack("<H", data[8:10])
    check((10 + length) % 64 == 0, "the .npy header is not padded")
    header = eval(data[10 : 10 + length].decode())  # a literal dictionary, as numpy writes it
    check(not header["fortran_order"] and header["descr"] in ("<f4", "<f8"), "unexpected .npy header %r" % header)
    count = math.prod(header["shape"])
    values = struct.unpack("<%d%s" % (count, "f" if header["descr"] == "<f4" else "d"), data[10 + length :])
    return header["shape"], values


def save(path, data):
    with open(path, "wb") as f:
        f.write(data)
    return path


def read(path):
    with open(path, "rb") as f:
        return f.read()


# Running the program


class Run:
    """One run: code, out and err (text)."""

    def __init__(self, *args, limit=None, memory=None, user=None, stdout=subprocess.PIPE, timeout=PATIENCE):
        def before():
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if memory is not None:
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            if user is not None:
                os.setuid(user)

        done = subprocess.run(
            [AGF, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=timeout,
            preexec_fn=before,
        )
        self.args, self.code = args, done.returncode
        self.out = (done.stdout or b"").decode("utf-8", "replace")
        self.err = done.stderr.decode("utf-8", "replace")

    def __str__(self):
        return "agf %s: code %d, stderr %r" % (" ".join(map(str, self.args)), self.code, self.err)


def good(*args, **options):
    """Run and expect success without a word on stderr."""
    run = Run(*args, **options)
    check(run.code == 0 and not run.err, str(run))
    return run


def refused(*args, says=(), leaves=None, **options):
    """Run and expect a refusal: code 2, one line on stderr that holds every text of `says`, no file changed or new."""
    before = everything(".") if leaves is None else leaves
    run = Run(*args, **options)
    check(run.code == 2, "expected exit code 2: %s" % run)
    check(run.err.startswith("agf: ") and run.err.endswith("\n") and run.err.count("\n") == 1, "not one line: %s" % run)
    check(not run.out, "printed %r before failing: %s" % (run.out, run))
    for text in [says] if isinstance(says, str) else says:
        check(text in run.err, "%r is missing: %s" % (text, run))
    check(everything(".") == before, "left something behind: %s" % run)
    return run


def everything(folder):
    """Every file below `folder` with its content."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(path, name)
            if os.path.isfile(full):
                with open(full, "rb") as f:
                    found[full] = f.read()
    return found


def explain_json(*args, **options):
    return json.loads(good("explain", *args, "--json", **options).out)


def seen_by_program(path):
    """The picture as the program decodes it: an overlay that is fully transparent."""
    good("explain", "m.agf", path, "--overlay", "--colour", "--alpha", 0, "-o", "seen.png")
    rows = read_png("seen.png")
    os.remove("seen.png")
    return rows


def setup(**model):
    """m.agf and photo.png in the current folder."""
    write_model("m.agf", **model)
    save("photo.png", png_bytes(scene(50, 36)))


# Tests


def test_help_and_version():
    check(good("--version").out.startswith("agf "), "--version")
    for args in (["--help"], ["-h"], ["help"]):
        check("explain" in good(*args).out and "info" in good(*args).out, "help lists the commands")
    text = good("explain", "-h").out
    check(text == good("help", "explain").out == good("explain", "m.agf", "--help").out, "-h, --help and help agree")
    for option in (
        "-c",
        "--top",
        "-o",
        "-m",
        "--overlay",
        "--cmap",
        "--alpha",
        "--npy",
        "--logits",
        "--json",
        "--options",
        "--size",
        "--threads",
        "--isa",
        "--low-memory",
        "--bank",
        "-v",
        "-q",
    ):
        check(option in text, "%s is not in the help" % option)
    check("--size" in good("info", "--help").out, "help of info")


def test_help_fits_the_terminal():
    for args in (["--help"], ["help", "explain"], ["help", "info"], ["help", "bench"],
                 ["help", "selftest"]):
        for line in good(*args).out.splitlines():
            check(len(line) <= 80, "%s: %d columns: %r" % (args, len(line), line))
    page = good("help", "--man").out
    check(page.startswith(".TH AGF 1"), "a manual page: %r" % page[:50])
    for option in ("layout", "bank", "low\\-memory", "runs"):
        check("\\-\\-" + option in page, "%s is not in the manual page" % option)
    if shutil.which("groff"):
        groff = subprocess.run(["groff", "-man", "-ww", "-Tutf8"], input=page.encode(), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, timeout=PATIENCE)
        check(groff.returncode == 0 and not groff.stderr, "groff: %r" % groff.stderr)


def piped(*args, data=b""):
    """Run with `data` on standard input; (code, stdout, stderr), bytes."""
    done = subprocess.run([AGF, *args], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def test_standard_input_and_output():
    setup()
    photo = everything(".")["./photo.png"]
    good("explain", "m.agf", "photo.png", "--layout", "bare", "-o", "map.png", "--npy", "map.npy")
    code, out, error = piped("explain", "m.agf", "-", "--layout", "bare", "-o", "-", data=photo)
    check((code, error) == (0, b"") and out == everything(".")["./map.png"], "a picture through the program: %r" % error)
    code, out, error = piped("explain", "m.agf", "-", "--npy", "-", data=photo)
    check((code, error) == (0, b"") and out == everything(".")["./map.npy"], "a tensor to standard output: %r" % error)
    code, out, error = piped("explain", "m.agf", "-", "--json", "-o", "out/", data=photo)
    check(code == 0 and json.loads(out)["maps"][0]["file"] == "out/stdin.png", "%r %r" % (out, error))
    for args, says in [(["-", "-o", "-", "--npy", "-"], b"two results"), (["-", "-o", "-", "--json"], b"--json"),
                       (["photo.png", "-", "-o", "-"], b"several"), (["-"], b"empty file")]:
        code, out, error = piped("explain", "m.agf", *args, data=b"" if len(args) == 1 else photo)
        check(code == 2 and says in error and not out and error.count(b"\n") == 1, "%s: %d %r" % (args, code, error))
    with open("/dev/null", "w") as closed:
        check(Run("explain", "m.agf", "photo.png", "-o", "-", stdout=closed).code == 0, "to /dev/null")


def test_show():
    """Half blocks in 24 bits where the terminal has them, else in xterm's 256 colours; as many columns as it has."""
    setup()
    for colorterm, pattern in (("truecolor", "\033[38;2;"), ("", "\033[38;5;")):
        environment = dict(os.environ, COLORTERM=colorterm, COLUMNS="40")
        done = subprocess.run([AGF, "explain", "m.agf", "photo.png", "--top", "2", "--show", "-q"], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
        lines = done.stdout.decode().splitlines()
        blocks = [line for line in lines if "\u2580" in line]
        check(done.returncode == 0 and not done.stderr and len(lines) == 2 + len(blocks), "%r" % done.stderr)
        check(len(blocks) == 2 * 16 and all(line.count("\u2580") == 40 for line in blocks), "%d lines" % len(blocks))
        check(all(pattern in line and line.endswith("\033[0m") for line in blocks), "colours: %r" % blocks[0][:60])


GRAYS = [[20, 60, 100, 140, 180], [30, 230, 110, 0, 255], [90, 90, 10, 200, 50]]


def watch(*args, data=b"", **options):
    """Run agf watch with `data` on standard input; (what it printed as JSON, standard output, standard error)."""
    done = subprocess.run([AGF, "watch", "m.agf", *map(str, args)], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=PATIENCE)
    check(done.returncode in options.get("codes", [0]), "code %d, %r" % (done.returncode, done.stderr))
    return [json.loads(t) for t in done.stdout.splitlines()] if "--json" in args else [], done.stdout, done.stderr.decode()


def test_selftest():
    """The networks that the program carries have the bits of everywhere here, by each instruction set and by one."""
    # threads wait for each other where other suites use the processors too
    out = good("selftest", "--threads", 2 if os.environ.get("CI") else 1).out
    check("the same bits as everywhere" in out and "DIFFERS" not in out, out)
    check(len([line for line in out.splitlines() if line.startswith("| ")]) >= 1, "a row for the table")
    out = good("selftest", "--isa", "ref", "-v", "--threads", 1).out
    listed = re.findall(r"^  (\w+) +(\w+) +([0-9a-f]{64})$", out, re.M)
    check(len(listed) > 50 and ("squeeze_tiny", "agf_lc") in {(net, method) for net, method, _ in listed}, out)
    check(len({value for _, _, value in listed}) > 50, "networks and methods have maps of their own")
    refused("selftest", "m.agf", says="no files")
    refused("selftest", "--isa", "mips", says="no instruction set mips")


def test_watch_memory():
    """A thousand frames (in CI three), each explained before the next comes, in the memory of the first hundreds."""
    setup()
    frames, settled = 3000 if os.environ.get("CI") else 1000, 300
    frame = bytes(v for row in scene(24, 24) for p in row for v in p)
    process = subprocess.Popen([AGF, "watch", "m.agf", "-", "--frames", "24x24:rgb24", "--json", "--threads", "1", "-o", "last.png"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def resident():
        with open("/proc/%d/status" % process.pid) as status:
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1))

    before = 0
    for i in range(frames):
        process.stdin.write(frame)
        process.stdin.flush()
        line = process.stdout.readline()
        check(line.startswith(b"{"), "frame %d: %r" % (i, line))
        if i == settled:
            before = resident()
    after = resident()
    process.stdin.close()
    error = process.stderr.read().decode()
    check(process.wait(PATIENCE) == 0 and "%d frames explained, 0 dropped" % frames in error, error)
    # a leak of a frame each would be 1.2 MB at least, of a map more; the heap's own pages come and go
    print("memory of watch: %d KB, then %d KB" % (before, after))
    check(after - before <= 256, "%d frames take %d KB more" % (frames - settled, after - before))


def test_watch_raw_frames():
    """Every format gives the map of the same picture; one that ends within a frame is said."""
    setup()
    rows = scene(50, 36)
    good("explain", "m.agf", "photo.png", "-c", 1, "--json")
    wanted = explain_json("m.agf", "photo.png", "-c", 1)["maps"][0]["max"]
    flat = [v for row in rows for p in row for v in p]
    gray = [[(r + g + b) // 3 for r, g, b in row] for row in rows]
    save("gray.png", png_bytes([[(v,) * 3 for v in row] for row in gray]))
    wanted_gray = explain_json("m.agf", "gray.png", "-c", 1)["maps"][0]["max"]
    luma = bytes(round(16 + v * 219 / 255) for row in gray for v in row)
    frames = {
        "rgb24": (bytes(flat), wanted, 0),
        "bgr24": (bytes(v for row in rows for p in row for v in reversed(p)), wanted, 0),
        "gray": (bytes(v for row in gray for v in row), wanted_gray, 0),
        # the range of video has 219 steps instead of 255: a pixel may be off by one
        "yuv420": (luma + bytes([128]) * (2 * 25 * 18), wanted_gray, 0.05),
        "nv12": (luma + bytes([128]) * (2 * 25 * 18), wanted_gray, 0.05),
    }
    for name, (data, value, off) in frames.items():
        seen, _, error = watch("-", "--frames", "50x36:" + name, "-c", 1, "--json", data=data)
        check(len(seen) == 1 and math.isclose(seen[0]["maps"][0]["max"], value, rel_tol=off), "%s: %s" % (name, seen))
        check("1 frames explained, 0 dropped" in error, error)
    seen, _, error = watch("-", "--frames", "50x36:rgb24", "--json", data=bytes(flat)[:-1], codes=[1])
    check(not seen and "within a frame" in error, error)
    for wrong in ("50x36", "50x36:", "50x36:mauve", "0x36:gray", "99999x99999:gray", "50x36:gray "):
        refused("watch", "m.agf", "-", "--frames", wrong, says="--frames")


def test_watch_jpegs():
    """A pipe of JPEGs, rubbish between them: the newest is explained, the rest counted, and MJPEG comes out."""
    setup()
    one = jpeg_bytes(GRAYS)
    seen, _, error = watch("-", "--json", data=b"--boundary\r\n\r\n" + one + b"\r\n")
    check(len(seen) == 1 and seen[0]["picture"] == "frame 1", "%s %s" % (seen, error))
    seen, _, error = watch("-", "--json", data=b"\r\n--b\r\n".join([one] * 200))
    explained, dropped = (int(error.split()[i]) for i in (1, 4))
    check(explained == len(seen) and explained + dropped == 200, "none is lost from the count: %s" % error)
    check(seen[-1]["picture"] == "frame 200", "the newest is explained: %s" % seen[-1]["picture"])
    _, out, _ = watch("-", "-o", "-", data=one)
    check(out[:2] == b"\xff\xd8" and out[-2:] == b"\xff\xd9", "one JPEG: %r" % out[:20])
    seen, again, _ = watch("-", "-o", "-", data=out)
    check(again[:2] == b"\xff\xd8", "what comes out can go in again")
    # a damaged frame is reported, unless the next one came first; the next one is explained
    seen, _, _ = watch("-", "--json", data=one[:100] + one + one, codes=[0, 1])
    check("error" not in seen[-1], "behind a damaged frame: %s" % seen[-1])
    _, raw, _ = watch("-", "--raw", "-o", "-", "--width", 40, data=one)
    check(len(raw) == 40 * 24 * 3, "a raw frame: %d bytes" % len(raw))
    watch("-", "-o", "now.png", data=one)
    check(png_size("now.png") == (40, 24), "the newest frame as a picture")
    refused("watch", "m.agf", "-", "--raw", "-o", "x.png", says="--raw")
    refused("watch", "m.agf", "missing", says="missing")


def watching_folder(count):
    """(agf watch at work on in/, for that many pictures, into out/; when to be out of patience)."""
    process = subprocess.Popen([AGF, "watch", "m.agf", "in", "-o", "out/", "--json", "--count", str(count)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists("out") and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)  # it looks at what is there when it has made the folder
    return process, deadline


def test_watch_folder():
    """Each new picture of a folder, once it is whole; those that were there before are left alone."""
    setup()
    os.mkdir("in")
    save("in/old.png", png_bytes(scene(30, 20)))
    process, deadline = watching_folder(3)
    names = []
    for i in range(3):
        whole = png_bytes(scene(30, 20, seed=i))
        with open("in/new%d.png" % i, "wb") as f:  # in two pieces
            f.write(whole[:100])
            f.flush()
            time.sleep(0.05)
            f.write(whole[100:])
        names.append("new%d.png" % i)
        while len(os.listdir("out")) < i + 1 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    out, error = process.communicate(timeout=PATIENCE)
    check(process.returncode == 0, "code %d, %r" % (process.returncode, error))
    check(sorted(os.listdir("out")) == names, "written: %s" % os.listdir("out"))
    check([json.loads(t)["picture"] for t in out.splitlines()] == ["in/" + n for n in names], "%r" % out)


def test_watch_folder_names():
    """Pictures that differ in their ending alone have an output each; a newer one of a name replaces the older."""
    setup()
    os.mkdir("in")
    process, deadline = watching_folder(4)
    wanted = set()
    for i, (name, output) in enumerate((("a.png", "a.png"), ("a.jpg", "a.jpg.png"), ("a.jpg.bmp", "a.jpg.bmp.png"), ("a.png", "a.png"))):
        save("arriving", png_bytes(scene(30, 20 + i)))  # pictures are known by what they hold
        os.rename("arriving", "in/" + name)
        wanted.add(output)
        while (output not in os.listdir("out") or png_size("out/" + output)[1] < 20 + i) and process.poll() is None:
            check(time.monotonic() < deadline, "waiting for %s: %s" % (output, os.listdir("out")))
            time.sleep(0.02)
        time.sleep(0.2)
    out, error = process.communicate(timeout=PATIENCE)
    check(process.returncode == 0, "code %d, %r" % (process.returncode, error))
    check(set(os.listdir("out")) == wanted, "written: %s" % os.listdir("out"))
    check([png_size("out/" + name) for name in ("a.jpg.png", "a.jpg.bmp.png", "a.png")] == [(30, 21), (30, 22), (30, 23)],
          "each its own picture")


def test_watched_folder_is_no_output():
    """What would replace the pictures that come, or be the next one of them, is refused before any comes."""
    setup()
    os.mkdir("in")
    os.symlink("in", "link")
    for out in ("in", "in/", "./in/.", "link", "in/newest.png", "in/all.mjpg", "link/newest.png"):
        refused("watch", "m.agf", "in", "-o", out, says="the folder that is watched")
    check(not os.listdir("in"), "written: %s" % os.listdir("in"))


def test_html():
    """One page with every map of the run, which loads nothing from elsewhere and takes no markup from names."""
    evil = "<script>alert(1)</script>\"'&"
    setup(labels=[evil, "b", "c"])
    os.makedirs("in")
    save("in/a<b>&.png", png_bytes(scene(30, 20)))
    save("in/c.png", png_bytes(scene(20, 30, seed=1)))
    good("explain", "m.agf", "in", "--top", 3, "-m", "agf,gradcam", "-o", "out", "--html")
    check(sorted(os.listdir("out")) == ["a<b>&.png", "c.png", "index.html"], "files: %s" % os.listdir("out"))
    with open("out/index.html", encoding="utf-8") as f:
        text = f.read()
    found = {"img": [], "script": 0, "figure": 0}

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            given = dict(attributes)
            if tag == "img":
                found["img"].append(given)
            elif tag in found:
                found[tag] += 1
            check(not {"href", "srcset", "onload"} & set(given), "%s %s" % (tag, given))

    Reader().feed(text)
    maps = [i for i in found["img"] if i["class"] == "map"]
    check(found["script"] == 1 and found["figure"] == 2, "scripts, pictures: %s" % found)
    check(len(maps) == 12 and len(found["img"]) == 14, "2 pictures, of each 6 maps: %d" % len(maps))
    check({m["data-class"] for m in maps} == {evil, "b", "c"}, "labels: %s" % {m["data-class"] for m in maps})
    check({m["data-method"] for m in maps} == {"agf", "gradcam"}, "methods")
    for image in found["img"]:
        kind, data = image["src"].split(",", 1)
        check(kind in ("data:image/png;base64", "data:image/jpeg;base64"), kind)
        base64.b64decode(data, validate=True)
    check("http" not in re.sub("base64,[^\"]*", "", text), "the page loads nothing")
    refused("explain", "m.agf", "photo.png", "-o", "x.png", "--html", says=["--html", "folder"])
    refused("explain", "m.agf", "photo.png", "--html", says=["--html", "folder"])


def test_bad_arguments():
    setup()
    for args, says in [
        ([], "no command"),
        (["frobnicate"], "frobnicate"),
        (["--frobnicate"], "--frobnicate"),
        (["help", "frobnicate"], "frobnicate"),
        (["explain"], "needs a model"),
        (["explain", "m.agf"], "picture"),
        (["explain", "m.agf", "photo.png", "--frobnicate"], "--frobnicate"),
        (["explain", "m.agf", "photo.png", "-x"], "-x"),
        (["explain", "m.agf", "photo.png", "-c"], "-c"),
        (["explain", "m.agf", "photo.png", "--npy"], "--npy"),
        (["explain", "m.agf", "photo.png", "--json=1"], "--json"),
        (["explain", "m.agf", "photo.png", "--top", "0"], "--top 0"),
        (["explain", "m.agf", "photo.png", "--top", "7"], "6 classes"),
        (["explain", "m.agf", "photo.png", "--top", "two"], "--top two"),
        (["explain", "m.agf", "photo.png", "--size", "32"], "--size 32"),
        (["explain", "m.agf", "photo.png", "--size", "0x32"], "--size 0x32"),
        (["explain", "m.agf", "photo.png", "--size", "32x32x3"], "--size"),
        (["explain", "m.agf", "photo.png", "--threads", "-1"], "--threads -1"),
        (["explain", "m.agf", "photo.png", "--alpha", "1.5"], "--alpha 1.5"),
        (["explain", "m.agf", "photo.png", "--alpha", "nan"], "--alpha nan"),
        (["explain", "m.agf", "photo.png", "--cmap", "mauve"], ["mauve", "seismic"]),
        (["explain", "m.agf", "photo.png", "--layout", "heap"], ["heap", "figure", "bare"]),
        (["explain", "m.agf", "photo.png", "-m", "guess"], "guess"),
        (["explain", "m.agf", "photo.png", "--options", "no_fx,no_sense"], ["no_sense", "no_reg"]),
        (["explain", "m.agf", "photo.png", "--options", "no_fx,"], "--options"),
        (["explain", "m.agf", "photo.png", "--isa", "abacus"], "abacus"),
        (["info"], "model"),
        (["info", "m.agf", "m.agf"], "one model"),
        (["info", "m.agf", "--bank", "x"], "--bank"),
    ]:
        refused(*args, says=says)


def test_options_in_any_place():
    setup()
    plain = explain_json("m.agf", "photo.png", "-c", "1", "--npy", "a.npy")
    os.rename("a.npy", "kept.npy")
    for args in (
        ["-c1", "m.agf", "--npy=a.npy", "photo.png"],
        ["--class=1", "--npy", "a.npy", "--", "m.agf", "photo.png"],
    ):
        again = explain_json(*args) if "--" not in args else json.loads(good("explain", "--json", *args).out)
        check(again["maps"] == plain["maps"], "options in another place")
        check(everything(".")["./a.npy"] == everything(".")["./kept.npy"], "maps differ")
    save("-odd.png", png_bytes(scene(40, 32)))
    good("explain", "m.agf", "--", "-odd.png")


def test_models_that_are_none():
    setup()
    refused("explain", "missing.agf", "photo.png", says=["missing.agf", "No such file"])
    refused("explain", "photo.png", "photo.png", says="photo.png")
    refused("explain", ".", "photo.png", says=".")
    refused("info", "missing.agf", says="missing.agf")
    whole = everything(".")["./m.agf"]
    for length in (0, 1, 8, 63, 64, 200, len(whole) // 2, len(whole) - 64, len(whole) - 1):
        save("cut.agf", whole[:length])
        refused("explain", "cut.agf", "photo.png", says="cut.agf")
    newer = bytearray(whole)
    newer[8] = 99
    save("newer.agf", bytes(newer))
    refused("info", "newer.agf", says=["newer.agf", "99"])


def test_pictures_that_are_none():
    setup()
    os.mkdir("empty")
    os.mkdir("folder.png")
    save("notes.txt", b"not a picture at all")
    save("nothing.png", b"")
    refused("explain", "m.agf", "missing.png", says=["missing.png", "No such file"])
    refused("explain", "m.agf", "empty", says=["empty", "no pictures"])
    refused("explain", "m.agf", "folder.png", says="folder.png")
    refused("explain", "m.agf", "notes.txt", says=["notes.txt", "not a picture"])
    refused("explain", "m.agf", "nothing.png", says=["nothing.png", "empty file"])
    refused("explain", "m.agf", "m.agf", says="not a picture")
    for name, data in {
        "gif.gif": b"GIF89a\1\0\1\0\0\0\0;",
        "zero.ppm": b"P6 0 0 255\n",
        "wide.ppm": b"P6 99999 9 255\n",
        "wordy.ppm": b"P6 two by two\n",
        "deep.ppm": b"P6 1 1 99999\n\0\0\0",
        "max0.ppm": b"P6 1 1 0\n\0\0\0",
        "huge.png": png_of([b""], 100000, 100000),
        "large.png": png_of([b""], 16000, 16000),
        "flat.png": png_of([], 0, 5),
        "headless.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""),
    }.items():
        save(name, data)
        refused("explain", "m.agf", name, says=name)
    check("many" in refused("explain", "m.agf", "large.png").err, "256 million pixels are refused by their number")


def test_truncated_pictures():
    setup()
    rows = scene(24, 16)
    gray = [[(40 * x + 23 * y) % 256 for x in range(6)] for y in range(4)]
    for name, data in {
        "t.png": png_bytes(rows),
        "t.ppm": ppm_bytes(rows),
        "t.bmp": bmp_bytes(rows),
        "t.jpg": jpeg_bytes(gray, orientation=6),
        "t.npy": npy_bytes([math.sin(i) for i in range(3 * 32 * 40)], (3, 32, 40)),
    }.items():
        save(name, data)
        good("explain", "m.agf", name)
        lengths = {len(data) - 1, len(data) - 2, len(data) - 5, len(data) * 9 // 10, len(data) // 2, 30, 12, 6, 2}
        for length in sorted(lengths):
            save(name, data[:length])
            refused("explain", "m.agf", name, "-o", "out.png", says=name)
    damaged = bytearray(png_bytes(rows))
    damaged[len(damaged) // 2] ^= 1
    save("damaged.png", bytes(damaged))
    refused("explain", "m.agf", "damaged.png", says=["damaged.png", "checksum"])


def test_decoding():
    setup()
    rows = scene(21, 13)
    for name, data in {"a.png": png_bytes(rows), "a.ppm": ppm_bytes(rows), "a.bmp": bmp_bytes(rows)}.items():
        check(seen_by_program(save(name, data)) == rows, "%s is decoded exactly" % name)
    pale = [[(p[0] // 17,) * 3 for p in row] for row in rows]  # 0 .. 15
    expected = [[(17 * p[0],) * 3 for p in row] for row in pale]
    save("p.pgm", b"P5 21 13 15\n" + bytes(p[0] for row in pale for p in row))
    check(seen_by_program("p.pgm") == expected, "a PGM's maximum of 15 is white")
    save(
        "w.ppm", b"P6 21 13 65535\n" + b"".join(struct.pack(">3H", *(257 * v for v in p)) for row in rows for p in row)
    )
    check(seen_by_program("w.ppm") == rows, "a PPM of 16 bits")
    gray = [[(p[0],) * 3 for p in row] for row in rows]
    save("g.png", png_of([bytes(p[0] for p in row) for row in gray], 21, 13, colour=0))
    check(seen_by_program("g.png") == gray, "gray PNG")
    save("a.png", png_of([bytes(v for p in row for v in (*p, 9)) for row in rows], 21, 13, colour=6))
    check(seen_by_program("a.png") == rows, "alpha is dropped")
    save("d.png", png_of([b"".join(bytes([v, 77]) for p in row for v in p) for row in rows], 21, 13, depth=16))
    check(seen_by_program("d.png") == rows, "of 16 bits the upper 8 remain")
    palette = [(i, 255 - i, i ^ 90) for i in range(256)]
    extra = chunk(b"PLTE", bytes(v for c in palette for v in c))
    save("i.png", png_of([bytes(p[0] for p in row) for row in rows], 21, 13, colour=3, extra=extra))
    check(seen_by_program("i.png") == [[palette[p[0]] for p in row] for row in rows], "PNG with a palette")


def upright(rows, orientation):
    """The eight EXIF orientations as defined: by where row 0 and column 0 of the stored picture lie in the scene."""
    mirrored = [row[::-1] for row in rows]
    turned = [list(column) for column in zip(*rows)]  # transposed: row 0 becomes column 0
    return {
        1: rows,
        2: mirrored,
        3: mirrored[::-1],
        4: rows[::-1],
        5: turned,
        6: [row[::-1] for row in turned],
        7: [row[::-1] for row in turned][::-1],
        8: turned[::-1],
    }[orientation]


def test_exif_orientation():
    setup()
    blocks = [[20, 60, 100, 140, 180], [30, 230, 110, 0, 255], [90, 90, 10, 200, 50]]
    stored = [[(blocks[y // 8][x // 8],) * 3 for x in range(40)] for y in range(24)]
    for orientation in range(1, 9):
        expected = upright(stored, orientation)
        save("turned.jpg", jpeg_bytes(blocks, orientation, "<" if orientation % 2 else ">"))
        check(seen_by_program("turned.jpg") == expected, "overlay over orientation %d" % orientation)
        save("straight.png", png_bytes(expected))
        good("explain", "m.agf", "turned.jpg", "--logits", "a.npy")
        good("explain", "m.agf", "straight.png", "--logits", "b.npy")
        check(read_npy("a.npy") == read_npy("b.npy"), "the network sees orientation %d upright" % orientation)
    save("turned.png", png_bytes(stored, extra=chunk(b"eXIf", exif(6))))
    check(seen_by_program("turned.png") == upright(stored, 6), "PNG with an eXIf chunk")
    for nonsense in (b"II*\0\xff\xff\xff\xff", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", exif(0), exif(9), exif(777)):
        save("odd.png", png_bytes(stored, extra=chunk(b"eXIf", nonsense)))
        check(seen_by_program("odd.png") == stored, "EXIF data %r changes nothing" % nonsense)


def test_prints_the_best_five():
    setup()
    result = explain_json("m.agf", "photo.png", "--logits", "z.npy")
    shape, z = read_npy("z.npy")
    check(shape == (6,), "six scores")
    total = sum(math.exp(v - max(z)) for v in z)
    ranked = sorted(range(6), key=lambda k: -z[k])
    check([t["class"] for t in result["top"]] == ranked[:5], "the five best, best first")
    for t in result["top"]:
        # JSON carries nine digits
        check(abs(t["probability"] - math.exp(z[t["class"]] - max(z)) / total) <= 1e-8, "softmax of the scores")
        check(t["label"] == LABELS[t["class"]], "label of class %d" % t["class"])
        check(math.isclose(t["logit"], z[t["class"]], rel_tol=1e-8), "logit of class %d" % t["class"])
    lines = good("explain", "m.agf", "photo.png").out.splitlines()
    for line, t in zip(lines[1:6], result["top"]):
        check("%s (%d)" % (t["label"], t["class"]) in line, line)
        share = float(line.split("%")[0])  # two digits at least
        check(math.isclose(share, 100 * t["probability"], rel_tol=0.05, abs_tol=0.05), line)
    check([m["class"] for m in result["maps"]] == ranked[:1], "without -c the prediction is explained")
    check([m["class"] for m in explain_json("m.agf", "photo.png", "--top", 3)["maps"]] == ranked[:3], "--top 3")
    check(
        [m["class"] for m in explain_json("m.agf", "photo.png", "-c", ranked[5], "--top", 2)["maps"]]
        == [ranked[5]] + ranked[:2],
        "-c and --top",
    )


def test_heads():
    """Labels that do not exclude one another have probabilities of their own; where the file does not say, scores."""
    setup(labels=["a", "b", "c"])
    write_model("sigmoid.agf", labels=["a", "b", "c"], answers=1)
    write_model("none.agf", labels=["a", "b", "c"], answers=2)
    good("explain", "m.agf", "photo.png", "--logits", "z.npy")
    z = read_npy("z.npy")[1]
    best = max(range(3), key=lambda k: z[k])
    shares = {k: [t["probability"] for t in explain_json(k + ".agf", "photo.png")["top"]] for k in ("m", "sigmoid")}
    ranked = sorted(z, reverse=True)
    check(math.isclose(sum(shares["m"]), 1, rel_tol=1e-8), "softmax: %s" % shares["m"])
    # nine digits are printed
    check(all(math.isclose(p, 1 / (1 + math.exp(-v)), rel_tol=1e-8) for p, v in zip(shares["sigmoid"], ranked)),
          "each one's sigmoid: %s of %s" % (shares["sigmoid"], ranked))
    check(abs(sum(shares["sigmoid"]) - 1) > 0.01, "which need not sum to 1")
    out = good("explain", "sigmoid.agf", "photo.png", "-o", "sigmoid.png").out
    check(re.search(r"map of %s \(%d\), [0-9.]+ %%" % ("abc"[best], best), out), out)
    none = explain_json("none.agf", "photo.png")
    check(all(t.get("probability") is None for t in none["top"] + none["maps"]), "no probability: %s" % none)
    check([t["logit"] for t in none["top"]] == [t["logit"] for t in explain_json("m.agf", "photo.png")["top"]], "scores")
    out = good("explain", "none.agf", "photo.png", "-o", "none.png").out
    check("score %.3g" % z[best] in out and "%" not in out, out)
    for name, says in (("m", "sum to 1"), ("sigmoid", "own"), ("none", "score")):
        out = good("info", name + ".agf").out
        check(says in re.search("^answers +(.*)$", out, re.M)[1], "%s: %s" % (name, out))
    good("explain", "none.agf", "photo.png", "-o", "out/", "--html")
    check("%" not in re.sub(r"<style>.*?</style>", "", read("out/index.html").decode(), flags=re.S).partition("<script>")[0],
          "nor in the page")
    watch_out = good("explain", "none.agf", "photo.png", "--show", "-q").out
    check("score" in watch_out, "in the terminal: %r" % watch_out[-80:])


def test_classes_by_label():
    setup()
    for text, k in {
        "0": 0,
        "5": 5,
        "cat": 0,
        "CAT": 0,
        "polecat": 1,
        "pole": 1,
        "Tiger Cat": 2,
        "tiger": 2,
        "LION": 5,
        "\u00fc": 5,
    }.items():
        check(explain_json("m.agf", "photo.png", "-c", text)["maps"][0]["class"] == k, "-c %s is class %d" % (text, k))
    refused("explain", "m.agf", "photo.png", "-c", "crane", says=["ambiguous", "crane (3)", "crane (4)"])
    refused("explain", "m.agf", "photo.png", "-c", "a", says=["ambiguous", "cat (0)", "polecat (1)", "tiger cat (2)"])
    refused("explain", "m.agf", "photo.png", "-c", "dog", says=["dog", "does not exist"])
    refused("explain", "m.agf", "photo.png", "-c", "6", says=["6", "0 to 5"])
    for together in "1,2", "1, 2", "1 2":  # a list where an option for each is wanted
        refused("explain", "m.agf", "photo.png", "-c", together, says="several classes are several options: -c 1 -c 2")
    for other in "1,dog", "1,", ",":
        message = refused("explain", "m.agf", "photo.png", "-c", other, says="does not exist").err
        check("several" not in message, "no list of classes, %r: %s" % (other, message))
    refused("explain", "m.agf", "photo.png", "-c", "99999999999999999999", says="does not exist")
    refused("explain", "m.agf", "photo.png", "-c", "-1", says="does not exist")
    refused("explain", "m.agf", "photo.png", "-c", "", says="does not exist")
    refused("explain", "m.agf", "photo.png", "-c", "0", "-c", "dog", "-o", "out.png", says="dog")
    write_model("many.agf", labels=["thing %d" % i for i in range(40)])
    refused("explain", "many.agf", "photo.png", "-c", "thing", says=["thing 0 (0)", "32 more"])
    check(explain_json("many.agf", "photo.png", "-c", "thing 1")["maps"][0]["class"] == 1, "exact before part")
    write_model("mute.agf", labels=[], classes=3)
    refused("explain", "mute.agf", "photo.png", "-c", "dog", says=["0 to 2", "no labels"])
    check("class 2" in good("explain", "mute.agf", "photo.png", "-c", "2").out, "a class without a label")
    numbers = write_model("numbers.agf", labels=["10", "20", "30"])
    check(
        numbers and explain_json("numbers.agf", "photo.png", "-c", "20")["maps"][0]["class"] == 1,
        "a label that is a number",
    )


def test_npy_round_trip():
    setup()
    rng = random.Random(5)
    values = [rng.gauss(0, 1) for _ in range(3 * 24 * 56)]
    for version in (1, 2):
        save("x%d.npy" % version, npy_bytes(values, (3, 24, 56), version=version))
    save("x4.npy", npy_bytes(values, (1, 3, 24, 56)))
    result = explain_json("m.agf", "x1.npy", "-c", "4", "-c", "1", "--npy", "maps.npy", "--logits", "z.npy")
    check((result["height"], result["width"]) == (24, 56), "the tensor's size is the session's")
    check((result["npy"], result["logits"]) == ("maps.npy", "z.npy"), "JSON names the files")
    shape, maps = read_npy("maps.npy")
    check(shape == (2, 24, 56) and len(read_npy("z.npy")[1]) == 6, "shapes")
    size = 24 * 56
    for i, m in enumerate(result["maps"]):
        part = maps[i * size : (i + 1) * size]
        check(m["class"] == (4, 1)[i], "maps in the order asked for")
        check(
            math.isclose(m["min"], min(part), rel_tol=1e-8) and math.isclose(m["max"], max(part), rel_tol=1e-8),
            "min, max",
        )
        good("explain", "m.agf", "x2.npy", "-c", m["class"], "--npy", "one.npy")
        check(read_npy("one.npy") == ((1, 24, 56), part), "a class alone gives the same map, bit for bit")
    good("explain", "m.agf", "x4.npy", "-c", "4", "-c", "1", "--npy", "four.npy", "--low-memory", "--threads", "1")
    check(
        everything(".")["./four.npy"] == everything(".")["./maps.npy"],
        "[1, C, H, W], low memory, one thread: same bytes",
    )
    good("explain", "m.agf", "x1.npy", "--size", "56x24")
    good("explain", "m.agf", "x1.npy", "-o", "map.png")


def test_npy_refused():
    setup()
    values = [0.1] * (3 * 32 * 40)
    for name, data, says in [
        ("double.npy", npy_bytes(values, (3, 32, 40), "<f8"), "<f8"),
        ("big.npy", npy_bytes(values, (3, 32, 40)).replace(b"'<f4'", b"'>f4'"), ">f4"),
        ("fortran.npy", npy_bytes(values, (3, 32, 40), fortran=True), "Fortran"),
        ("flat.npy", npy_bytes(values, (96, 40)), "2 dimensions"),
        ("scalar.npy", npy_bytes([1.0], ()), "0 dimensions"),
        ("two.npy", npy_bytes(values * 2, (2, 3, 32, 40)), "4 dimensions"),
        ("five.npy", npy_bytes(values, (1, 1, 3, 32, 40)), "dimensions"),
        ("gray.npy", npy_bytes(values[:1280], (1, 32, 40)), "1 channels"),
        ("nothing.npy", npy_bytes([], (3, 0, 40)), "[3, 0, 40]"),
        ("huge.npy", npy_bytes([], (3, 16000, 16000)), "huge.npy"),
        ("overflow.npy", npy_bytes([], (3, 2**63, 40)), "overflow.npy"),
        ("long.npy", npy_bytes(values, (3, 32, 40)) + b"\0", "damaged"),
        ("future.npy", npy_bytes(values, (3, 32, 40)).replace(b"NUMPY\1", b"NUMPY\x09"), "9.0"),
        ("garbled.npy", npy_bytes(values, (3, 32, 40)).replace(b"shape", b"shade"), "header"),
        ("nan.npy", npy_bytes(values[:-1] + [math.nan], (3, 32, 40)), "nan.npy"),
        ("inf.npy", npy_bytes(values[:-1] + [math.inf], (3, 32, 40)), "inf.npy"),
    ]:
        save(name, data)
        refused("explain", "m.agf", name, "--npy", "out.npy", says=[name, says])
    save("right.npy", npy_bytes([math.sin(i) for i in range(3 * 32 * 40)], (3, 32, 40)))
    refused("explain", "m.agf", "right.npy", "--size", "32x32", says=["40x32", "32x32"])
    refused("explain", "m.agf", "right.npy", "--overlay", "-o", "out.png", says="--overlay")


def test_input_size():
    setup()
    check(explain_json("m.agf", "photo.png")["width"] == 40, "nominal size")
    result = explain_json("m.agf", "photo.png", "--size", "64x48", "--npy", "maps.npy")
    check(
        (result["width"], result["height"]) == (64, 48) and read_npy("maps.npy")[0] == (1, 48, 64),
        "--size WIDTHxHEIGHT",
    )
    refused("explain", "m.agf", "photo.png", "--size", "1x1", says="layer")
    write_model("tensor.agf", is_picture=False)
    refused("explain", "tensor.agf", "photo.png", "photo.png", says=["tensor.agf", "how pictures are prepared", "--mean"])


def test_pictures_of_several_sizes():
    """One session serves pictures of one size and is made anew for another; results do not depend on the company."""
    setup()
    rng = random.Random(3)
    for i, (h, w) in enumerate([(24, 24), (24, 24), (40, 32), (24, 24)]):
        save("t%d.npy" % i, npy_bytes([rng.gauss(0, 1) for _ in range(3 * h * w)], (3, h, w)))
    save("wrong.npy", npy_bytes([0.0] * 4 * 9, (4, 3, 3)))
    together = Run("explain", "m.agf", "t0.npy", "t1.npy", "wrong.npy", "t2.npy", "t3.npy", "--npy", "%p-all.npy")
    check(together.code == 1 and together.err.count("\n") == 1 and "wrong.npy" in together.err, str(together))
    for i in range(4):
        good("explain", "m.agf", "t%d.npy" % i, "--npy", "alone.npy")
        check(read_npy("alone.npy") == read_npy("t%d-all.npy" % i), "picture %d" % i)


def test_folder_with_a_bad_picture():
    setup()
    os.makedirs("in/sub")
    os.mkdir("out")
    for i, name in enumerate(["b.png", "a.ppm", "c.PNG"]):
        save("in/" + name, (ppm_bytes if name.endswith("ppm") else png_bytes)(scene(30 + i, 20, seed=i)))
    save("in/bad.png", png_bytes(scene(30, 20))[:100])
    save("in/readme.txt", b"no picture, and no error")
    save("in/.hidden.png", b"")
    run = Run("explain", "m.agf", "in", "-o", "out", "--json")
    check(run.code == 1, str(run))
    check(run.err.startswith("agf: in/bad.png: truncated") and run.err.count("\n") == 1, str(run))
    check(sorted(os.listdir("out")) == ["a.png", "b.png", "c.png"], "written: %s" % os.listdir("out"))
    results = [json.loads(line) for line in run.out.splitlines()]
    check(
        [r["picture"] for r in results] == ["in/a.ppm", "in/b.png", "in/bad.png", "in/c.PNG"],
        "sorted, one object a line",
    )
    check("error" in results[2] and "maps" not in results[2], "the bad one is in the JSON as an error")
    check([r["maps"][0]["file"] for r in results if "maps" in r] == ["out/a.png", "out/b.png", "out/c.png"], "files")
    for name in os.listdir("out"):
        read_png("out/" + name)
    single = Run("explain", "m.agf", "in/bad.png", "-o", "out/")
    check(single.code == 2, "one bad picture alone is bad input: %s" % single)
    good("explain", "m.agf", "in/b.png", "-o", "out/")
    check(len(os.listdir("out")) == 3, "a folder for one picture")


def test_pictures_at_a_time():
    """Several threads explain pictures of a folder side by side; what comes out is as if one did, in the same order."""
    setup()
    os.mkdir("in")
    for i in range(12):
        save("in/%02d.png" % i, png_bytes(scene(200 if i % 3 == 0 else 20, 30, seed=i)))  # some take longer
    save("in/05.bad.png", png_bytes(scene(30, 20))[:100])
    results = []
    for threads in (1, 3, 16):
        out = "out%d" % threads
        os.mkdir(out)
        run = Run("explain", "m.agf", "in", "-o", out + "/", "--json", "--threads", threads, "--npy", out + "/%p.npy", "-m", "agf,gradcam")
        check(run.code == 1 and run.err.count("\n") == 1, str(run))
        files = {}
        for name in os.listdir(out):
            with open(os.path.join(out, name), "rb") as f:
                files[name] = f.read()
        check(len(files) == 24, "written: %s" % sorted(files))
        results.append((re.sub(r'"seconds": [^,}]*', "", run.out.replace(out + "/", "")), run.err, files))
    check(len(results[0][0].splitlines()) == 13, results[0][0])
    for other in results[1:]:
        check(other == results[0], "%s\n%s" % (other[0], results[0][0]))


def test_what_a_folder_holds_besides():
    """Pictures of kinds that are not read are counted, once a kind; what is no picture is passed over in silence."""
    setup()
    os.mkdir("in")
    for name in ("a.png", "b.gif", "c.GIF", "d.heic", "labels.csv", "e.txt", ".f.gif"):
        save("in/" + name, png_bytes(scene(20, 20)))
    os.mkdir("in/folder.png")
    os.mkfifo("in/pipe.png")
    run = Run("explain", "m.agf", "in", "--json", timeout=20)
    lines = run.err.splitlines()
    check(run.code == 0 and len(run.out.splitlines()) == 1 and len(lines) == 3, str(run))
    for part in ("in: passed over 2 GIF", "in: passed over 1 HEIC", "in: passed over 1 pipes"):
        check(any(part in line for line in lines), "%r is missing: %s" % (part, run))
    check(not Run("explain", "m.agf", "in", "-q").err, "-q keeps it to itself")
    save("gif.png", b"GIF89a\1\0\1\0\0\0\0;")
    refused("explain", "m.agf", "gif.png", says=["gif.png", "a GIF file", "convert"])


def test_output_names():
    setup()
    os.mkdir("out")
    save("photo.ppm", ppm_bytes(scene(20, 20)))
    os.mkdir("x")
    save("x/other.png", png_bytes(scene(20, 20, seed=2)))
    good("explain", "m.agf", "photo.png", "photo.ppm", "x/other.png", "-o", "out")
    check(sorted(os.listdir("out")) == ["other.png", "photo.png.png", "photo.ppm.png"], "names: %s" % os.listdir("out"))
    result = explain_json("m.agf", "photo.png", "-c", 0, "-c", 3, "-c", 4, "-c", 5, "-o", "out/%s-%p.png")
    names = ["cat-photo.png", "crane-3-photo.png", "crane-4-photo.png", "sea_lion__\u00fc_-photo.png"]
    check(
        [m["file"] for m in result["maps"]] == ["out/" + n for n in names],
        "%%s: %s" % [m["file"] for m in result["maps"]],
    )
    for m in result["maps"]:
        read_png(m["file"])
    write_model("mute.agf", labels=[], classes=3)
    good("explain", "mute.agf", "photo.png", "-c", 2, "-o", "%s.png")
    check(os.path.exists("2.png"), "a class without a label goes by its index")
    good("explain", "m.agf", "photo.png", "x/other.png", "--npy", "out/%s.npy", "--logits", "out/%p-z.npy")
    check(
        {"photo.npy", "other.npy", "photo-z.npy", "other-z.npy"} <= set(os.listdir("out")), "%s of --npy is the picture"
    )
    write_model("evil.agf", labels=["../up", "/etc/x", ".hidden", "-rf", "a b;$(c)'\"", "x" * 300])
    os.mkdir("safe")
    good("explain", "evil.agf", "photo.png", "--top", 6, "-o", "safe/%s.png")
    check(len(os.listdir("safe")) == 6, "a file for each class in the folder itself: %s" % os.listdir("safe"))
    for name in os.listdir("safe"):
        check(
            not name.startswith((".", "-")) and not set(name) & set("/;$()'\" ") and len(name) < 128,
            "unsafe name %r" % name,
        )


def test_outputs_refused():
    setup()
    save("other.png", png_bytes(scene(20, 20)))
    save("taken.png", b"precious")
    os.mkdir("dir")
    pictures = ["photo.png", "other.png"]
    refused("explain", "m.agf", "photo.png", "-o", "missing/folder/out.png", says="missing/folder")
    refused("explain", "m.agf", "photo.png", "-o", "missing/folder/", says="missing")
    refused("explain", "m.agf", "photo.png", "-o", "%p/out.png", says="no such folder")
    refused("explain", "m.agf", "photo.png", "-o", "out.jpg", says=".png")
    refused("explain", "m.agf", "photo.png", "--npy", "dir", says="dir")
    refused("explain", "m.agf", "photo.png", "--npy", "missing/folder/maps.npy", says="missing/folder")
    refused("explain", "m.agf", "photo.png", "--npy", "new/maps.npy", "-c", "dog", says="dog")  # and makes no folder
    refused("watch", "m.agf", "-", "-o", "missing/folder/live.mjpeg", says="missing/folder")
    refused("bank", "m.agf", ".", "-o", "missing/folder/photos.bank", says="missing/folder")
    refused("explain", "m.agf", *pictures, "-o", "out.png", says=["out.png", "folder"])
    refused("explain", "m.agf", *pictures, "-o", "%s.png", says="%p")
    refused("explain", "m.agf", *pictures, "--npy", "maps.npy", says="%p")
    refused("explain", "m.agf", *pictures, "--logits", "z.npy", says="%p")
    refused("explain", "m.agf", "photo.png", "-o", "photo.png", says="overwritten")
    refused("explain", "m.agf", "photo.png", "-o", ".", says="overwritten")
    refused("explain", "m.agf", "photo.png", "--npy", "m.agf", says="overwritten")
    os.symlink("photo.png", "link.png")
    refused("explain", "m.agf", "photo.png", "-o", "link.png", says="overwritten")
    refused("explain", "m.agf", "photo.png", "-o", "same.png", "--npy", "same.png", says="two results")
    refused("explain", "m.agf", "photo.png", "-o", "fine.png", "--npy", "link.png", says="overwritten")
    refused("explain", "m.agf", "photo.png", "-c", "dog", "-o", "taken.png", says="dog")


def test_two_folders_that_hold_one_name():
    """Each picture keeps its result: below -o their folders are mirrored, from the first on that they do not share."""
    setup()
    wanted = {}
    for i, path in enumerate(["a/x.png", "a/deep/x.png", "b/X.png", "b/other.png", "b/other.ppm"]):
        os.makedirs("in/" + os.path.dirname(path), exist_ok=True)
        save("in/" + path, (ppm_bytes if path.endswith("ppm") else png_bytes)(scene(30, 20, seed=i)))
        good("explain", "m.agf", "in/" + path, "--layout", "bare", "-o", "alone.png", "--npy", "alone.npy")
        wanted["in/" + path] = read_png("alone.png"), read_npy("alone.npy")
    pictures = [*wanted]
    for out in ("out/", "again"):
        for _ in range(2):  # the second time, the files exist
            runs = good("explain", "m.agf", *pictures, "--layout", "bare", "-o", out, "--npy", "%p.npy", "--json").out
            files = [(json.loads(line)["maps"][0]["file"], json.loads(line)["npy"]) for line in runs.splitlines()]
            folder = out.rstrip("/") + "/"
            names = ["a/x.png", "a/deep/x.png", "b/X.png", "b/other.png.png", "b/other.ppm.png"]
            check([name for name, _ in files] == [folder + n for n in names], "mirrored: %s" % files)
            for (name, tensor), picture in zip(files, pictures):
                check((read_png(name), read_npy(tensor)) == wanted[picture], "%s has another's map" % name)
    os.makedirs("c")
    save("c/x.png", png_bytes(scene(30, 20)))
    good("explain", "m.agf", "in/a", "c", "-o", "two")
    check(os.path.exists("two/in/a/x.png") and os.path.exists("two/c/x.png"), "two folders: %s" % os.listdir("two"))


def test_names_that_clash():
    """Found before the first picture: nothing is written, and no result takes the place of another or of an input."""
    setup()
    save("x.png", png_bytes(scene(20, 20)))
    save("mask.png", png_bytes([[(255, 255, 255)] * 50] * 36))
    os.mkdir("sub")
    os.symlink("sub", "link")
    os.symlink("nowhere.png", "dangling.png")
    twice = "two results"
    for args, says in [
        (["photo.png", "-o", "c.png", "--npy", "./c.png"], twice),
        (["photo.png", "-o", "c.png", "--npy", "sub/../c.png"], twice),
        (["photo.png", "-o", "sub/c.png", "--logits", "link/c.png"], twice),
        (["photo.png", "--npy", "sub/c.npy", "--logits", os.path.abspath("sub/c.npy")], twice),
        (["photo.png", "x.png", "photo.png", "-o", "sub"], twice),
        (["photo.png", "./photo.png", "-o", "new/"], twice),
        (["x.png", "photo.png", "-o", "."], "overwritten"),
        (["photo.png", "--mask", "mask.png", "-o", "mask.png"], "mask.png: is input"),
        (["photo.png", "--mask", "mask.png", "--npy", "sub/../mask.png"], "is input"),
        (["photo.png", "-o", "dangling.png"], "dangling.png"),
    ]:
        for _ in range(2):
            refused("explain", "m.agf", *args, says=says)
            check(not os.listdir("sub") and not os.path.exists("new"), "something was written: %s" % args)
            save("c.png", b"was here before")
        os.remove("c.png")
    os.symlink("sub/real.png", "link.png")
    save("sub/real.png", b"old")
    refused("explain", "m.agf", "photo.png", "-o", "sub/real.png", "--npy", "link.png", says=twice)
    # with %s the class decides: the picture whose name is taken is reported, the others are done
    write_model("dash.agf", labels=["a", "a-b", "c"])
    save("b-c.png", png_bytes(scene(20, 20)))
    save("c.png", png_bytes(scene(20, 20, seed=1)))
    run = Run("explain", "dash.agf", "b-c.png", "c.png", "-c", "a", "-c", "a-b", "-o", "sub/%s-%p.png")
    check(run.code == 1 and "c.png" in run.err and twice in run.err and run.err.count("\n") == 1, str(run))
    check(sorted(os.listdir("sub")) == ["a-b-b-c.png", "a-b-c.png", "real.png"], "written: %s" % os.listdir("sub"))


def test_folders_of_files():
    """Every option that names a file makes the folder that it is to lie in."""
    setup()
    os.mkdir("in")
    save("in/other.png", png_bytes(scene(20, 20)))
    good("explain", "m.agf", "in", "photo.png", "--npy", "a/%p.npy", "--logits", "./b/%p.npy", "-o", "c/%p.png")
    check([sorted(os.listdir(name)) for name in "abc"] == [["other.npy", "photo.npy"]] * 2 + [["other.png", "photo.png"]],
          "written: %s" % everything(".").keys())
    good("explain", "m.agf", "in", "--npy", "d/%p.npy", "-o", "d/")
    check(sorted(os.listdir("d")) == ["other.npy", "other.png"], "one folder for both: %s" % os.listdir("d"))
    good("bank", "m.agf", "in", "-o", "e/photos.bank")
    check(os.listdir("e") == ["photos.bank"], "the bank's folder")
    jpeg = jpeg_bytes(GRAYS)
    watch("-", "-o", "f/live.mjpeg", data=jpeg)
    watch("-", "-o", "g/now.png", data=jpeg)
    check(os.listdir("f") == ["live.mjpeg"] and os.listdir("g") == ["now.png"], "watch's folders")


def test_folder_that_is_made():
    setup()
    save("other.png", png_bytes(scene(20, 20)))
    good("explain", "m.agf", "photo.png", "-o", "one/")
    check(os.listdir("one") == ["photo.png"], "a folder for one picture")
    good("explain", "m.agf", "photo.png", "other.png", "-o", "two")
    check(sorted(os.listdir("two")) == ["other.png", "photo.png"], "a folder for two")
    save("broken.png", b"\x89PNG\r\n\x1a\n")
    refused("explain", "m.agf", "broken.png", "-o", "three/", says="broken.png")
    check(not os.path.exists("three"), "no folder without a picture for it")


def test_more_files_than_may_be_open():
    setup(labels=["class %d" % i for i in range(100)])

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))

    done = subprocess.run([AGF, "explain", "m.agf", "photo.png", "--top", "100", "--layout", "bare", "-o", "m_%s.png", "-q"],
                          preexec_fn=few, stderr=subprocess.PIPE, timeout=PATIENCE)
    check(done.returncode == 0, "code %d, %r" % (done.returncode, done.stderr))
    check(len(glob.glob("m_class_*.png")) == 100 and not glob.glob(".agf*"), "a file for each class")


def test_leftovers_of_a_killed_run():
    """A temporary of the same process number does not stand in the way."""
    setup()
    script = "for i in 0 1 2; do : > .agf-$$-$i.tmp; done; exec \"$0\" explain m.agf photo.png -o out.png"
    done = subprocess.run(["sh", "-c", script, AGF], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=PATIENCE)
    check(done.returncode == 0, "code %d, %r" % (done.returncode, done.stderr))
    read_png("out.png")


def test_unwritable_folder():
    setup()
    os.mkdir("locked")
    os.chmod("locked", 0o555)
    user = 65534 if os.geteuid() == 0 else None  # root may write everywhere: then as nobody
    os.chmod(".", 0o755)
    try:
        Run("--version", user=user)
    except PermissionError:
        raise Skip("the program lies where no other user may run it, and root may write everywhere") from None
    refused("explain", "m.agf", "photo.png", "-o", "locked", says="locked", user=user)
    refused("explain", "m.agf", "photo.png", "--npy", "locked/maps.npy", says="locked", user=user)


def test_files_are_replaced_whole():
    setup()
    save("old.png", b"old")
    os.chmod("old.png", 0o640)
    os.symlink("old.png", "link.png")
    good("explain", "m.agf", "photo.png", "-o", "link.png")
    check(os.path.islink("link.png") and len(read_png("old.png")) > 0, "a symbolic link is followed")
    check(stat.S_IMODE(os.stat("old.png").st_mode) == 0o640, "an existing file keeps its mode")
    mask = os.umask(0o027)
    try:
        good("explain", "m.agf", "photo.png", "-o", "new.png")
    finally:
        os.umask(mask)
    check(stat.S_IMODE(os.stat("new.png").st_mode) == 0o640, "a new file follows the umask")
    check(not [n for n in os.listdir(".") if n.startswith(".agf")], "a temporary file is left")


def test_full_disk():
    setup()
    save("old.png", b"old")
    good("explain", "m.agf", "photo.png", "-o", "whole.png", "--npy", "whole.npy")
    for limit in (0, 1, 1000, 4096):
        refused("explain", "m.agf", "photo.png", "-o", "old.png", limit=limit, says=["old.png", "cannot be written"])
        refused(
            "explain", "m.agf", "photo.png", "--npy", "maps.npy", limit=limit, says=["maps.npy", "cannot be written"]
        )
    maps = os.path.getsize("whole.npy")
    refused("explain", "m.agf", "photo.png", "--npy", "fits.npy", "-o", "old.png", limit=maps, says="old.png")
    if not os.path.exists("/dev/full"):
        raise Skip("no /dev/full here; RLIMIT_FSIZE was tried")
    refused("explain", "m.agf", "photo.png", "--npy", "/dev/full", says="No space left")
    check(stat.S_ISCHR(os.stat("/dev/full").st_mode), "a device is not replaced")
    with open("/dev/full", "w") as full:
        for args in (["--help"], ["info", "m.agf"], ["explain", "m.agf", "photo.png"]):
            run = Run(*args, stdout=full)
            check(run.code == 2 and "standard output" in run.err, str(run))
        run = Run("explain", "m.agf", "photo.png", "--html", "-o", "page/", stdout=full)  # what fails later does not hide why
        check(run.code == 2 and "standard output cannot be written: No space left" in run.err, str(run))
    # A standard stream that the caller closed is no file of the program's own.
    closed = subprocess.run(["sh", "-c", '"$0" explain m.agf - <&- >&-', AGF], stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
    check(closed.returncode == 2 and b"standard input: Bad file descriptor" in closed.stderr, str(closed))


def test_pipes():
    setup()
    os.mkfifo("pipe")
    received = []

    def drain():
        with open("pipe", "rb") as f:
            received.append(f.read())

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    good("explain", "m.agf", "photo.png", "-o", "pipe")
    reader.join(PATIENCE)
    good("explain", "m.agf", "photo.png", "-o", "file.png")
    check(stat.S_ISFIFO(os.stat("pipe").st_mode), "a pipe stays a pipe")
    check(received == [everything(".")["./file.png"]], "the picture went through the pipe")

    def feed():
        with open("pipe", "wb") as f:
            f.write(everything(".")["./photo.png"])

    writer = threading.Thread(target=feed, daemon=True)
    writer.start()
    good("explain", "m.agf", "pipe", "--logits", "a.npy")
    writer.join(PATIENCE)
    good("explain", "m.agf", "photo.png", "--logits", "b.npy")
    check(read_npy("a.npy") == read_npy("b.npy"), "a picture from a pipe")


CMAPS = ("rdbu", "seismic", "jet", "viridis", "turbo", "gray")


def test_pictures_written():
    setup()
    good("explain", "m.agf", "photo.png", "-c", 1, "--overlay", "-o", "over.png")
    check(png_size("over.png") == (50, 36), "a single overlay has the photograph's own size")
    good(
        "explain",
        "m.agf",
        "photo.png",
        "-c",
        1,
        "--layout",
        "bare",
        "-o",
        "map.png",
        "--npy",
        "map.npy",
        "--vmax",
        "0.5",
    )
    check(png_size("map.png") == (40, 32), "a bare map has the network's size")
    values, rows = read_npy("map.npy")[1], read_png("map.png")
    counts = [0, 0]
    for i, value in enumerate(values):
        r, _, b = rows[i // 40][i % 40]
        if abs(value) > 0.02:  # nearer to 0 the colour is within a step of white
            check((r > b) == (value > 0), "pixel %d: value %g has colour r %d, b %d" % (i, value, r, b))
            counts[value > 0] += 1
    check(min(counts) > 0, "the map holds both signs: %s" % counts)
    white = [rows[i // 40][i % 40] for i, value in enumerate(values) if value == 0]
    check(all(pixel == (255, 255, 255) for pixel in white), "no evidence is white")
    sizes = {}
    for count in (1, 2, 3):
        good("explain", "m.agf", "photo.png", "--top", count, "-o", "figure.png")
        sizes[count] = png_size("figure.png")
    check(
        sizes[1][1] == sizes[2][1] == sizes[3][1] and sizes[3][0] - sizes[2][0] == sizes[2][0] - sizes[1][0] > 300,
        "several classes stand side by side: %s" % sizes,
    )
    good("explain", "m.agf", "photo.png", "-c", 1, "-c", 2, "--layout", "bare", "--overlay", "-o", "two.png")
    check(png_size("two.png") == (100, 36), "bare overlays side by side")
    for cmap in CMAPS:
        good("explain", "m.agf", "photo.png", "--cmap", cmap, "-o", cmap + ".png")
    check(
        len({everything(".")["./%s.png" % c] for c in CMAPS}) == len(CMAPS),
        "colormaps differ",
    )
    caption = []
    for k in (3, 5):
        good("explain", "m.agf", "photo.png", "-c", k, "-o", "figure.png")
        rows = read_png("figure.png")
        caption.append(rows[-int(len(rows) * 0.2) :])
    check(caption[0] != caption[1] and any(p < (80, 80, 80) for row in caption[0] for p in row), "captions in dark ink")


def test_methods_side_by_side():
    """Several -m, and lists of them: a panel each, in a picture and in the tensor; none is dropped."""
    setup()
    maps = {}
    for method in ("agf", "gradcam", "fullgrad"):
        good("explain", "m.agf", "photo.png", "-c", 1, "-m", method, "--npy", "one.npy")
        maps[method] = read_npy("one.npy")[1]
    for args in (["-m", "agf", "-m", "gradcam", "-m", "fullgrad"], ["-m", "agf,gradcam", "-m", "fullgrad,agf"]):
        result = explain_json("m.agf", "photo.png", "-c", 1, *args, "--npy", "three.npy", "-o", "three.png")
        check([m["method"] for m in result["maps"]] == ["agf", "gradcam", "fullgrad"], "the methods, each once")
        shape, values = read_npy("three.npy")
        check(shape == (3, 32, 40), "three maps: %s" % (shape,))
        for i, method in enumerate(maps):
            check(values[i * 1280 : (i + 1) * 1280] == maps[method], "%s beside others" % method)
    good("explain", "m.agf", "photo.png", "-c", 1, "-o", "one.png")
    check(png_size("three.png")[0] > 1.5 * png_size("one.png")[0], "three panels, not one")
    good("explain", "m.agf", "photo.png", "-m", "all", "--overlay", "-o", "all.png")
    check(png_size("all.png")[0] > 1000, "-m all --overlay is the captioned sheet: %s" % (png_size("all.png"),))
    refused("explain", "m.agf", "photo.png", "-o", "a.png", "-o", "b.png", says=["-o", "twice", "a.png", "b.png"])
    refused("explain", "m.agf", "photo.png", "--npy", "a.npy", "--npy=b.npy", says=["--npy", "twice"])
    refused("explain", "m.agf", "photo.png", "-m", "agf,grad_cam", says=["grad_cam", "did you mean gradcam"])
    for option, method in ((["--options", "no_m"], "agf"), (["--steps", 3], "integrated_gradients"),
                           (["--samples", 3], "smoothgrad"), (["--layer", 1], "gradcam")):
        refused("explain", "m.agf", "photo.png", "-m", "gradient", *option, says=[option[0], method])
        explain_json("m.agf", "photo.png", "-m", "gradient", "-m", method, *option)  # one of them takes it


def test_colours_fit_the_method():
    """Maps of both signs are red and blue around white; those of one sign begin at viridis' dark end."""
    setup()
    colours = {}
    for method in ("agf", "gradcam", "gradient", "fullgrad"):
        bare = ["--layout", "bare", "-o", "map.png", "--npy", "map.npy"]
        good("explain", "m.agf", "photo.png", "-c", 1, "-m", method, *bare)
        values, rows = read_npy("map.npy")[1], read_png("map.png")
        pixels = [p for row in rows for p in row]
        colours[method] = {kind: pixels[values.index(kind(values))] for kind in (min, max)}
    check(colours["agf"][max] == (178, 24, 43), "the strongest evidence is vivid: %s" % (colours["agf"],))
    check(colours["agf"][min][2] > colours["agf"][min][0], "evidence against is blue: %s" % (colours["agf"],))
    for method in ("gradcam", "gradient", "fullgrad"):
        check(colours[method][max] == (253, 231, 37), "%s: its largest value is yellow: %s" % (method, colours[method]))
        # fullgrad's is far above 0, and the scale begins there; gradient's need not be 0
        limit = 30 if method == "gradient" else 0
        off = max(abs(a - b) for a, b in zip(colours[method][min], (68, 1, 84)))
        check(off <= limit, "%s: its least value is viridis' end: %s" % (method, colours[method]))


def test_width():
    setup()
    good("explain", "m.agf", "photo.png", "--overlay", "--width", 200, "-o", "over.png")
    check(png_size("over.png") == (200, 144), "an overlay 200 pixels wide: %s" % (png_size("over.png"),))
    good("explain", "m.agf", "photo.png", "--layout", "bare", "--width", 80, "-o", "map.png")
    check(png_size("map.png") == (80, 64), "a bare map 80 pixels wide: %s" % (png_size("map.png"),))
    good("explain", "m.agf", "photo.png", "--width", 300, "-o", "figure.png")
    check(600 < png_size("figure.png")[0] < 750, "a figure of two panels: %s" % (png_size("figure.png"),))


def test_box_and_centre():
    """JSON tells where the evidence lies, in pixels of the photograph."""
    setup(height=32, width=32, resize_to=32)
    save("wide.png", png_bytes(scene(90, 45)))
    result = explain_json("m.agf", "wide.png", "-c", 1, "--npy", "map.npy")
    box, centre = result["maps"][0]["box"], result["maps"][0]["centre"]
    values = [max(v, 0) for v in read_npy("map.npy")[1]]
    scale = 45 / 32  # the crop is the middle square
    x = sum(v * (i % 32 + 0.5) for i, v in enumerate(values)) / sum(values) * scale + 22.5
    y = sum(v * (i // 32 + 0.5) for i, v in enumerate(values)) / sum(values) * scale
    check(abs(centre["x"] - x) <= 0.01 and abs(centre["y"] - y) <= 0.01, "%s, expected %g, %g" % (centre, x, y))
    check(22 <= box["left"] and box["left"] + box["width"] <= 68 and 0 <= box["top"], "outside the crop: %s" % box)
    inside = sum(
        v
        for i, v in enumerate(values)
        if 0 <= (i % 32 + 0.5) * scale + 22.5 - box["left"] <= box["width"]
        and 0 <= (i // 32 + 0.5) * scale - box["top"] <= box["height"]
    )
    check(inside >= 0.8 * sum(values), "%g of the evidence lies inside" % (inside / sum(values)))  # 1 - 4 * 0.05


def test_notes():
    setup()
    dark = [[tuple(v // 24 for v in p) for p in row] for row in scene(50, 36)]
    save("dark.png", png_bytes(dark))
    check("nearly black" in good("explain", "m.agf", "dark.png").out, "a dark picture gets a note")
    check(explain_json("m.agf", "dark.png")["notes"], "in JSON, too")
    check("note" not in good("explain", "m.agf", "photo.png").out, "an ordinary one gets none")
    write_model("two.agf", labels=["no", "yes"])
    check("agf_lc" in good("explain", "two.agf", "photo.png").out, "two classes: agf has no contrast")
    check("note" not in good("explain", "two.agf", "photo.png", "-m", "agf_lc").out, "agf_lc has")
    z = None
    good("explain", "m.agf", "photo.png", "--logits", "z.npy")
    z = read_npy("z.npy")[1]
    for k in range(6):
        notes = explain_json("m.agf", "photo.png", "-m", "lrp_a1b0", "-c", k)["notes"]
        check(bool(notes) == (z[k] < 0), "logit %g: %s" % (z[k], notes))
    check(min(z) < 0 < max(z), "both cases were tried: %s" % (z,))


def test_captions_of_all_scripts():
    """Accents come from the strokes; what they do not have from a font of the system or --font."""
    fonts = glob.glob("/usr/share/fonts/**/DejaVuSans.ttf", recursive=True)

    def ink(label, *args):
        write_model("m.agf", labels=[label, "x"])
        save("photo.png", png_bytes(scene(50, 36)))
        good("explain", "m.agf", "photo.png", "-c", 0, "-m", "agf_lc", "-o", "figure.png", *args)
        return read_png("figure.png")

    check(ink("caf\u00e9") != ink("cafe"), "an accent is drawn")
    check(ink("\u00e9") != ink("\u00e8") != ink("?"), "accents differ")
    if not fonts:
        raise Skip("DejaVu Sans is not installed")
    check(ink("\u043a\u043e\u0442") != ink("\u0434\u043e\u043c"), "Cyrillic words differ")
    check(ink("cat", "--font", fonts[0]) != ink("cat"), "--font")
    refused("explain", "m.agf", "photo.png", "--font", "photo.png", "-o", "x.png", says=["photo.png", "font"])
    refused("explain", "m.agf", "photo.png", "--font", "missing.ttf", "-o", "x.png", says="missing.ttf")


def test_did_you_mean():
    setup()
    refused("explian", says="did you mean explain")
    refused("explain", "m.agf", "photo.png", "--overaly", says="did you mean --overlay?")
    refused("explain", "m.agf", "photo.png", "--agianst=crane", says="did you mean --against?")
    refused("explain", "m.agf", "photo.png", "-smoth", "2", says="did you mean --smooth?")
    refused("explain", "m.agf", "photo.png", "-c", "crnae", says="did you mean crane")
    refused("explain", "m.agf", "photo.png", "--cmap", "virdis", says="did you mean viridis")
    check("did you mean" not in refused("explain", "m.agf", "photo.png", "-c", "helicopter").err, "nothing near")


def test_pngs_of_every_kind_and_with_every_number_of_threads():
    """What comes out of a PNG file is what went in: runs of all lengths, noise, slim pictures. Threads change
    nothing."""
    setup()
    state = random.Random(7)
    rows = {
        "1x1": [[(1, 2, 3)]],
        "slim": [[(y & 255, 3 * y & 255, 7 * y & 255)] for y in range(300)],
        "flat": [[(200, 200, 200)] * 301 for _ in range(201)],
        "noise": [[tuple(state.randrange(256) for _ in range(3)) for _ in range(500)] for _ in range(200)],
        "runs": [[(255, 0, 0) if x // (y + 1) % 2 else (255, 255, 255) for x in range(400)] for y in range(330)],
    }
    for name, expected in rows.items():
        save(name + ".png", png_bytes(expected))
        check(seen_by_program(name + ".png") == expected, "a PNG of %s" % name)
    for threads in 1, 2, 5:
        good("explain", "m.agf", "noise.png", "--threads", threads, "-o", "figure-%d.png" % threads)
    files = [read("figure-%d.png" % threads) for threads in (1, 2, 5)]
    check(len(set(files)) == 1, "figures of %s bytes with 1, 2 and 5 threads" % [len(f) for f in files])
    strips = files[0].count(b"IDAT")
    check(strips == 1 or strips > 3, "a figure of %d strips: one without zlib, else enough for five threads" % strips)


def test_overlay_where_the_network_looked():
    """A crop sees the middle of a wide photograph: outside it the overlay leaves the photograph as it is."""
    setup(height=32, width=32, resize_to=32)
    rows = scene(90, 45)
    save("wide.png", png_bytes(rows))
    good("explain", "m.agf", "wide.png", "--overlay", "--colour", "--alpha", 1, "-o", "over.png")
    over = read_png("over.png")
    changed = [x for y in range(45) for x in range(90) if over[y][x] != rows[y][x]]
    check(
        changed and min(changed) >= 22 and max(changed) <= 67, "changed columns %d to %d" % (min(changed), max(changed))
    )
    check(
        min(changed) <= 25 and max(changed) >= 64, "the whole crop is overlaid: %d to %d" % (min(changed), max(changed))
    )
    good("explain", "m.agf", "wide.png", "--overlay", "--alpha", 0, "-o", "gray.png")
    gray = read_png("gray.png")
    check(all(r == g == b for row in gray for r, g, b in row), "without --colour the photograph is gray")
    pale = [[255 - gray[y][x][0] for x in range(90)] for y in range(45)]
    luma = [[255 - (299 * r + 587 * g + 114 * b) / 1000 for r, g, b in row] for row in rows]
    for columns, share in ((range(0, 22), 0.25), (range(68, 90), 0.25), (range(25, 65), 0.65)):
        worst = max(abs(pale[y][x] - share * luma[y][x]) for y in range(45) for x in columns)
        check(worst <= 1, "columns %s: off by %g" % (columns, worst))  # rounded to 8 bits


def test_odd_shapes():
    setup()
    save("one.png", png_bytes(scene(1, 1)))
    refused("explain", "m.agf", "one.png", "-o", "figure.png", says="one.png")  # of one colour: there is nothing to explain
    for width, height in ((1, 200), (200, 1), (7, 301)):
        save("odd.png", png_bytes(scene(width, height)))
        good("explain", "m.agf", "odd.png", "--top", 2, "-o", "figure.png")
        good("explain", "m.agf", "odd.png", "--overlay", "-o", "over.png")
        read_png("figure.png")
        check(png_size("over.png") == (width, height), "overlay of %dx%d" % (width, height))
    good("explain", "m.agf", "photo.png", "--top", 6, "-o", "figure.png")
    save("wide.pgm", b"P5 10000 5000 255\n" + bytes(range(250)) * 200000)
    bare = ["--overlay", "--layout", "bare", "-o", "out.png"]
    refused("explain", "m.agf", "wide.pgm", "--top", 6, *bare, "--width", 10000, says="too many")
    good("explain", "m.agf", "wide.pgm", *bare)
    check(png_size("out.png") == (1600, 800), "an overlay of a large photograph is 1600 pixels wide: %s" % (png_size("out.png"),))
    os.remove("wide.pgm")
    write_model("long.agf", labels=["a label of many words " * 20, "\u4e2d\u6587", "plain"])
    good("explain", "long.agf", "photo.png", "--top", 3, "-o", "figure.png")
    read_png("figure.png")


def test_gray_model():
    setup(channels=1, mean=(0.5, 0, 0, 0), std=(0.25, 1, 1, 1))
    result = explain_json("m.agf", "photo.png", "--npy", "maps.npy")
    check(
        read_npy("maps.npy")[0] == (1, 32, 40) and len(result["top"]) == 5,
        "a network of one channel takes a photograph",
    )


def test_ablations():
    setup()
    maps = set()
    for option in ("", "no_fx", "no_fdx", "no_m", "no_a", "no_reg", "fx_gradcam", "no_fx,no_m", "no_m,no_fx"):
        good("explain", "m.agf", "photo.png", "-c", 1, "--npy", "m.npy", *(["--options", option] if option else []))
        maps.add(everything(".")["./m.npy"])
    check(len(maps) == 8, "eight different maps of eight choices, whatever their order: %d" % len(maps))
    good("explain", "m.agf", "photo.png", "-c", 1, "-m", "agf")


def test_gradcam_layer():
    setup()
    maps = {}
    for layer in (None, "layer1", "1", "layer4", "4"):
        asked = ["--layer", layer] if layer else []
        good("explain", "m.agf", "photo.png", "-m", "gradcam", "--npy", "m.npy", *asked)
        maps[layer] = everything(".")["./m.npy"]
    check(maps["layer1"] == maps["1"] and maps["layer4"] == maps["4"], "a layer by its name and by its number")
    check(maps["layer1"] != maps["layer4"] == maps[None], "another layer, another map; the last one is the default")
    refused("explain", "m.agf", "photo.png", "-m", "gradcam", "--layer", "layer99", says=["layer99", "agf info"])
    refused("explain", "m.agf", "photo.png", "--layer", "layer1", says="gradcam")


def test_against():
    """--against: another map, said in the text, the figure's foot and JSON; a method that cannot take it is named."""
    setup()
    good("explain", "m.agf", "photo.png", "-c", 0, "--npy", "alone.npy")
    text = good("explain", "m.agf", "photo.png", "-c", 0, "--against", 1, "--npy", "against.npy", "-o", "a.png").out
    check("map of cat (0) rather than polecat (1)" in text, text)
    check(everything(".")["./alone.npy"] != everything(".")["./against.npy"], "the same map")
    result = explain_json("m.agf", "photo.png", "-c", 0, "--against", 1, "-m", "gradcam")
    check(result["maps"][0]["against"]["class"] == 1, result["maps"])
    refused("explain", "m.agf", "photo.png", "-c", 1, "--against", 1, says=["-c 1", "--against 1", "same class"])
    refused("explain", "m.agf", "photo.png", "--against", 99, says="99")
    best = explain_json("m.agf", "photo.png")["top"][0]["class"]
    refused("explain", "m.agf", "photo.png", "--against", best, says=["photo.png", f"--against {best}", "prediction", "-c"])
    refused("explain", "m.agf", "photo.png", "--against", best, "--top", 2, says=["photo.png", "2 highest", "-c"])
    refused("explain", "m.agf", "photo.png", "-c", 0, "--against", 1, "-m", "clrp", says=["--against", "agf_lc"])
    done = Run("explain", "m.agf", "photo.png", "-c", 0, "--against", 1, "-m", "agf,clrp", "--json")
    check(done.code == 0 and "clrp" in done.err, "clrp is left out aloud: %s" % (done,))
    check([m["method"] for m in json.loads(done.out)["maps"]] == ["agf"], done.out)


def test_smooth():
    setup()
    good("explain", "m.agf", "photo.png", "--npy", "m.npy")
    good("explain", "m.agf", "photo.png", "--npy", "s.npy", "--smooth", 2)
    (shape, values), (smooth_shape, smooth) = read_npy("m.npy"), read_npy("s.npy")
    check(shape == smooth_shape and max(smooth) - min(smooth) < max(values) - min(values), "smoother")
    check(abs(sum(smooth) - sum(values)) <= 1e-4 * sum(map(abs, values)), "the sum stays")
    refused("explain", "m.agf", "photo.png", "--smooth", -1, says="--smooth -1")


def test_bank_file():
    """A bank's file gives what its folder gives, is continued, and refused where it is damaged or another model's."""
    setup()
    os.mkdir("bank")
    for i in range(6):
        save("bank/%d.png" % i, png_bytes(scene(50, 36, seed=20 + i)))
    target = scene(50, 36, seed=1)
    save("s.png", png_bytes(target))
    save("bank/copy.ppm", ppm_bytes(target))
    out = good("bank", "m.agf", "bank", "-o", "net.bank").out
    check("7 pictures" in out, out)
    whole = read("net.bank")

    def shown(bank, *more):
        found = explain_json("m.agf", "s.png", "--bank", bank, "--npy", "d.npy", *more)
        return [os.path.basename(n["picture"]) for n in found["neighbours"]], found["neighbours"], read("d.npy")

    names, found, maps = shown("bank", "--neighbours", 3)
    check(len(names) == 3 and "copy.ppm" not in names, "three neighbours, the picture's copy is none: %s" % names)
    check(sorted(n["distance"] for n in found) == [n["distance"] for n in found], "nearest first")
    from_file = shown("net.bank", "--neighbours", 3)
    check(from_file[0] == names and from_file[2] == maps, "file and folder give the same: %s, %s" % (from_file[0], names))
    check(shown("net.bank")[2] != maps and shown("net.bank", "--neighbours", 3, "--shared")[2] != maps, "K and --shared count")
    check(len(shown("net.bank", "--neighbours", 99)[0]) == 6, "no more neighbours than the bank has")
    lines = good("explain", "m.agf", "s.png", "--bank", "net.bank", "--neighbours", 3).out
    check("nearest neighbours: " in lines and all(name in lines for name in names), lines)

    # Continued: the same pictures make the same file, a changed one is seen, one that is gone leaves.
    save("bank/9.png", png_bytes(scene(50, 36, seed=40)))
    good("bank", "m.agf", "bank", "-o", "net.bank")
    os.remove("bank/9.png")
    good("bank", "m.agf", "bank", "-o", "net.bank")
    check(read("net.bank") == whole, "after a picture came and went the file is what it was")
    os.rename("bank/0.png", "old.png")
    save("bank/0.png", png_bytes(scene(50, 36, seed=41)))
    good("bank", "m.agf", "bank", "-o", "net.bank")
    check(read("net.bank") != whole, "a changed picture is computed anew")
    os.rename("old.png", "bank/0.png")
    save("bank/broken.png", b"\x89PNG\r\n\x1a\n")
    run = Run("bank", "m.agf", "bank", "-o", "net.bank")
    check(run.code == 1 and "broken.png" in run.err and read("net.bank") == whole, "the others are done: %s" % run)
    os.remove("bank/broken.png")

    # Refused, and not written over.
    end = len(whole)
    nan = whole[:64] + struct.pack("<f", float("nan")) + whole[68:]
    cases = [
        (whole[:40], "truncated"),
        (whole[: end - 1], "truncated"),
        (whole + b"x", "damaged"),
        (whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], "checksum"),
        (sealed(nan), "not finite"),
        (sealed(whole[:24] + bytes(8) + whole[32:]), "another model"),
        (sealed(whole[:32] + struct.pack("<II", 2**31 - 1, 2**31 - 1) + whole[40:]), "do not fit"),
        (sealed(whole[:32] + struct.pack("<II", 2**32 - 1, 0) + whole[40:]), "damaged"),
        (sealed(whole[:36] + struct.pack("<I", 1) + whole[40:]), "damaged"),
        (sealed(whole[:40] + struct.pack("<II", 0, 36) + whole[48:]), "damaged"),
        (sealed(whole[: end - 1] + b"x"), "no name"),
        (whole[:8] + struct.pack("<I", 2) + whole[12:], "version 2"),
        (b"", "not a bank"),
        (b"plain text", "not a bank"),
    ]
    for data, word in cases:
        save("bad.bank", data)
        refused("explain", "m.agf", "s.png", "--bank", "bad.bank", says=["bad.bank", word])
        if data:
            refused("bank", "m.agf", "bank", "-o", "bad.bank", says=["bad.bank", word])
        check(read("bad.bank") == data, "%s: the file is as it was" % word)
    refused("bank", "m.agf", "bank", says="-o")
    refused("bank", "m.agf", "s.png", "-o", "x.bank", says="s.png")
    refused("bank", "m.agf", "missing", "-o", "x.bank", says="missing")
    refused("bank", "m.agf", "bank", "-o", "m.agf", says="m.agf")
    refused("explain", "m.agf", "s.png", "--neighbours", 2, says="--bank")
    refused("explain", "m.agf", "s.png", "--shared", says="--bank")


def test_bank_interrupted():
    """What an interrupted run has done is kept, and the next one ends in the same file."""
    setup()
    os.mkdir("bank")
    for i in range(100):
        save("bank/%03d.png" % i, png_bytes(scene(20, 16, seed=i)))
    good("bank", "m.agf", "bank", "-o", "whole.bank")
    running = subprocess.Popen([AGF, "bank", "m.agf", "bank", "-o", "net.bank", "-q"])
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    code = running.wait(PATIENCE)
    check(code in (0, 128 + signal.SIGINT), "code %d" % code)  # 0: it was done already
    if os.path.exists("net.bank"):
        good("explain", "m.agf", "photo.png", "--bank", "net.bank")
    good("bank", "m.agf", "bank", "-o", "net.bank")
    check(read("net.bank") == read("whole.bank"), "continued, the bank is the same")
    check(sorted(os.listdir(".")) == ["bank", "m.agf", "net.bank", "photo.png", "whole.bank"], str(os.listdir(".")))


def sealed(bank):
    """A bank's bytes with the length and the checksum that belong to them."""
    bank = bank[:16] + struct.pack("<Q", len(bank)) + bank[24:]
    return bank[:12] + struct.pack("<I", zlib.crc32(bank[16:])) + bank[16:]


def test_bank():
    setup()
    os.mkdir("bank")
    target = scene(50, 36, seed=1)
    near = [[tuple(min(255, v + 3) for v in p) for p in row] for row in target]
    save("s.png", png_bytes(target))
    save("bank/copy.ppm", ppm_bytes(target))  # the same pixels in another file: the same latent vector
    os.symlink("../s.png", "bank/a-link.png")
    for i in range(3):
        save("bank/far%d.png" % i, png_bytes(scene(50, 36, seed=20 + i)))
    save("bank/near.png", png_bytes(near))
    result = explain_json("m.agf", "s.png", "--bank", "bank", "--npy", "d.npy", "-o", "d.png")
    check(
        result["neighbour"]["picture"] == "bank/near.png" and result["neighbour"]["distance"] > 0,
        str(result["neighbour"]),
    )
    check("bank/near.png" in good("explain", "m.agf", "s.png", "--bank", "bank").out, "the neighbour is printed")
    k = result["maps"][0]["class"]
    good("explain", "m.agf", "s.png", "-c", k, "--npy", "plain.npy")
    check(read_npy("plain.npy")[1] != read_npy("d.npy")[1], "the difference makes another map")
    good("explain", "m.agf", "s.png", "--bank", "bank", "-c", k, "--npy", "chosen.npy")
    check(read_npy("chosen.npy") == read_npy("d.npy"), "the class may be given")
    os.remove("bank/near.png")
    other = explain_json("m.agf", "s.png", "--bank", "bank")["neighbour"]
    check(
        other["picture"].startswith("bank/far") and other["distance"] > result["neighbour"]["distance"],
        "the next nearest",
    )
    save("bank/broken.png", b"\x89PNG\r\n\x1a\n")
    run = Run("explain", "m.agf", "s.png", "--bank", "bank", "--json")
    check(run.code == 1 and "bank/broken.png" in run.err and run.err.count("\n") == 1, str(run))
    check(json.loads(run.out)["neighbour"] == other, "a bad picture in the bank does not end the run")
    os.mkdir("lonely")
    save("lonely/same.png", png_bytes(target))
    refused("explain", "m.agf", "s.png", "--bank", "lonely", "-o", "out.png", says=["s.png", "lonely"])
    refused("explain", "m.agf", "s.png", "--bank", "missing", says="missing")
    refused("explain", "m.agf", "s.png", "--bank", "bank", "-c", 1, "--top", 2, says="--bank")
    many = Run("explain", "m.agf", "lonely", "s.png", "--bank", "bank", "--json")
    check(
        many.code == 1 and [json.loads(line)["neighbour"] for line in many.out.splitlines()] == [other] * 2, str(many)
    )


def test_layer_times():
    setup()
    text = good("explain", "m.agf", "photo.png", "-v").out
    for i in range(8):
        check("layer%d" % i in text, "layer%d is not in the table" % i)
    layers = explain_json("m.agf", "photo.png", "-v")["layers"]
    check([layer["name"] for layer in layers] == ["layer%d" % i for i in range(8)], "all layers in the JSON")
    check(
        sum(layer["forward"] for layer in layers) > 0 and sum(layer["explain"] for layer in layers) > 0,
        "times are measured",
    )


def test_costs_grow_with_the_pictures():
    """System calls a picture are the same for 60 pictures and for 240: no name is compared with every other one."""
    if not shutil.which("strace"):
        raise Skip("strace is not installed")
    setup()
    counts = []
    for count in (60, 240):
        folder = "in%d" % count
        os.mkdir(folder)
        for i in range(count):
            os.link("photo.png", "%s/p%03d.png" % (folder, i))
        args = ["explain", "m.agf", folder, "--layout", "bare", "-o", "out%d/" % count, "-q", "--threads", "1"]
        strace = ["strace", "-c", "-o", "calls.txt", "-e", "trace=file,fstat,lseek"]
        done = subprocess.run([*strace, AGF, *args], stderr=subprocess.PIPE, timeout=PATIENCE)
        if done.returncode and not os.path.exists("out%d" % count):
            raise Skip("strace may not trace here: %r" % done.stderr)
        with open("calls.txt") as f:
            counts.append(int([line.split()[3] if len(line.split()) > 4 else line.split()[2]
                               for line in f if line.endswith("total\n")][0]) / count)
    check(counts[1] <= counts[0] + 1, "%.1f calls a picture among 60, %.1f among 240" % tuple(counts))


def test_info():
    parameters = write_model("m.agf", resize_to=36)
    facts = json.loads(good("info", "m.agf", "--json").out)
    check(facts["parameters"] == parameters and facts["file_bytes"] == os.path.getsize("m.agf"), "sizes")
    check((facts["name"], facts["source"], facts["labels"]) == ("tiny", "test", LABELS), "name, source, labels")
    check(facts["input"] == {"channels": 3, "height": 32, "width": 40}, "input")
    check(facts["head"] == "softmax", "the head: %s" % facts["head"])
    check(facts["preprocessing"]["resize"] == "crop" and facts["preprocessing"]["resize_to"] == 36, "preprocessing")
    for got, wanted in zip(
        facts["preprocessing"]["mean"] + facts["preprocessing"]["std"], (0.4, 0.5, 0.6, 0.2, 0.25, 0.3)
    ):
        check(abs(got - wanted) <= 1e-7, "mean and std to float32's precision")
    check(facts["session"]["bytes"] > 0 < facts["session"]["low_memory_bytes"] <= facts["session"]["bytes"], "memory")
    check(
        [layer["op"] for layer in facts["layers"]]
        == ["conv", "relu", "maxpool", "conv", "relu", "global_avgpool", "flatten", "linear"],
        "ops: %s" % [layer["op"] for layer in facts["layers"]],
    )
    check(facts["layers"][0]["shape"] == [8, 32, 40] and facts["layers"][0]["inputs"] == [-1], "first layer")
    check(facts["layers"][3]["parameters"] == 1152 and facts["layers"][3]["inputs"] == [2], "fourth layer")
    larger = json.loads(good("info", "m.agf", "--json", "--size", "80x64").out)
    check(
        larger["layers"][2]["shape"] == [8, 32, 40] and larger["session"]["bytes"] > facts["session"]["bytes"], "--size"
    )
    text = good("info", "m.agf").out
    for part in ("tiny", "32 x 40", "cat, polecat", str(parameters), "MiB", "layer7", "shorter side to 36"):
        check(part in text, "%r is not in %s" % (part, text))
    write_model("plain.agf", labels=[], classes=3, is_picture=False, name="")
    facts = json.loads(good("info", "plain.agf", "--json").out)
    check(facts["preprocessing"] is None and facts["labels"] == [] and facts["name"] == "", "a file without extras")
    check("no preprocessing" in good("info", "plain.agf").out, "a file without preprocessing")
    refused("info", "m.agf", "--size", "1x1", says="layer")


def test_quiet():
    setup()
    check(not good("explain", "m.agf", "photo.png", "-q").out, "-q prints nothing")
    json.loads(good("explain", "m.agf", "photo.png", "-q", "--json").out)


def test_file_names_of_all_kinds():
    setup()
    for name in (
        b'quo"te\\and\nnewline.png',
        b"latin1-\xfc.png",
        "\u00fcml\u00e4ut.png".encode(),
        b"%s%p.png",
        b" .png",
    ):
        save(name, png_bytes(scene(20, 20)))
        out = subprocess.run(
            [AGF, b"explain", b"m.agf", name, b"--json", b"--npy", b"out.npy"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
        check(out.returncode == 0, "%r: %r" % (name, out.stderr))
        check(json.loads(out.stdout.decode())["picture"] == name.decode("utf-8", "replace"), "name %r in JSON" % name)
        save(name, b"broken")
        out = subprocess.run(
            [AGF, b"explain", b"m.agf", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE
        )
        check(out.returncode == 2 and out.stderr.count(b"\n") == 1, "%r: %r" % (name, out.stderr))


def slow_arguments(seconds, apart=False):
    """Arguments for a run of about `seconds`, however fast the machine is, on one picture or, `apart`, on links to it
    of different names."""
    slow = ["explain", "m.agf", "--size", "160x160", "--threads", "1", "--isa", "ref"]
    started = time.monotonic()
    good(*slow, "photo.png", "photo.png")
    pictures = ["photo.png"] * max(4, math.ceil(2 * seconds / (time.monotonic() - started)))
    if apart:
        pictures = ["p%05d.png" % i for i in range(len(pictures))]
        for name in pictures:
            os.link("photo.png", name)
    return slow + pictures


def on_a_terminal(args):
    """Run with a pseudo-terminal as stderr; (code, what appeared there)."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([AGF, *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    seen = b""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            seen += data
        elif process.poll() is not None:
            break
    os.close(ours)
    return process.wait(PATIENCE), seen.decode("utf-8", "replace")


def test_progress_bar():
    setup()
    args = slow_arguments(3)
    code, seen = on_a_terminal(args)
    check(code == 0 and " left" in seen and "%" in seen and "photo.png" in seen, "a bar on a terminal: %r" % seen[:200])
    shares = [int(part.split("%")[0]) for part in seen.split("\r\x1b[K") if "%" in part]
    check(shares == sorted(shares) and shares[-1] <= 100, "it only grows: %s" % shares)
    check(seen.endswith("\r\x1b[K"), "the bar is gone at the end: %r" % seen[-50:])
    check(not good(*args).err, "no bar in a pipe")
    check(on_a_terminal(args + ["-q"]) == (0, ""), "no bar with -q")
    check(on_a_terminal(["explain", "m.agf", "photo.png"]) == (0, ""), "no bar for what is done in a moment")


def test_interrupted():
    setup()
    os.mkdir("out")
    args = slow_arguments(60, apart=True)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = subprocess.Popen([AGF, *args, "-o", "out"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + PATIENCE
        while len(os.listdir("out")) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        check(process.poll() is None, "the run ended before it could be interrupted")
        process.send_signal(number)
        error = process.communicate(timeout=PATIENCE)[1]
        check(process.returncode == code and not error, "signal %d: code %d, %r" % (number, process.returncode, error))
        written = os.listdir("out")
        check(written and not [n for n in written if n.startswith(".")], "a temporary file is left: %s" % written)
        for name in written:
            read_png(os.path.join("out", name))
            os.remove(os.path.join("out", name))


def test_interrupted_within_a_step():
    """What is done in one go, here the blurring of a large map for ten seconds, is not waited for; files stay."""
    setup()
    os.mkdir("out")
    save("out/map.png", png_bytes(scene(4, 4)))
    before = read("out/map.png")
    arguments = ["explain", "m.agf", "photo.png", "--size", "1200x1200", "--smooth", "256", "--npy", "out/map.npy", "-o", "out/map.png"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        process = subprocess.Popen([AGF, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(2)  # what comes before takes half of that
        check(process.poll() is None, "the run ended before it could be interrupted")
        began = time.monotonic()
        process.send_signal(number)
        out, error = process.communicate(timeout=PATIENCE)
        took = time.monotonic() - began
        check(process.returncode == code and not out and not error, "code %d, %r, %r" % (process.returncode, out, error))
        check(took < 4, "%.1f s after the signal" % took)  # half a second, on a busy machine more
        check(os.listdir("out") == ["map.png"] and read("out/map.png") == before, "half a result: %s" % os.listdir("out"))


def test_golden_cases():
    """The program's --npy on our golden networks; the limit is agf-spec's for small golden cases."""
    cases = (
        [name for name in sorted(os.listdir(GOLDEN)) if os.path.exists(os.path.join(GOLDEN, name, "maps.txt"))]
        if os.path.isdir(GOLDEN)
        else []
    )
    if not cases:
        raise Skip("no golden cases in tests/golden")
    for case in cases:
        folder = os.path.join(GOLDEN, case)
        with open(os.path.join(folder, "maps.txt")) as f:
            for line in f:
                name, k, error, option = line.split()
                good(
                    "explain",
                    os.path.join(folder, case + ".agf"),
                    os.path.join(folder, "input.npy"),
                    "-c",
                    k,
                    "--npy",
                    "map.npy",
                    *([] if option == "-" else ["--options", option])
                )
                shape, expected = read_npy(os.path.join(folder, name))
                got_shape, got = read_npy("map.npy")
                check(got_shape == (1, *shape), "%s: shape %s" % (name, got_shape))
                off = math.sqrt(sum((a - b) ** 2 for a, b in zip(got, expected)))
                norm = math.sqrt(sum(b * b for b in expected))
                check(off <= (4 * float(error) + 2e-6) * norm, "%s %s: off by %g" % (case, name, off / norm))


def test_readme_commands():
    """The README's own command lines, on files of the names that they take."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        commands = tuple("build/agf %s net.agf" % name for name in ("explain", "info", "bank"))
        lines = [line.strip() for line in f if line.startswith(commands)]
    check(len(lines) >= 10, "commands: %d" % len(lines))
    write_model("net.agf", labels=["thing %d" % i for i in range(282)] + ["tiger cat"], height=32, width=32)
    os.mkdir("build")
    os.symlink(AGF, "build/agf")
    os.mkdir("photos")
    for i, name in enumerate(("dog.jpg", "photos/a.jpg", "photos/b.jpg")):
        save(name, jpeg_bytes([[20, 60, 100, 140, 180], [30, 230, 110, 40 * i, 255], [90, 90, 10, 200, 50]]))
    save("x.npy", npy_bytes([math.sin(i) for i in range(3 * 32 * 32)], (3, 32, 32)))
    for line in lines:
        done = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
        check(done.returncode == 0 and not done.stderr, "%s: code %d, %r" % (line, done.returncode, done.stderr))
    check(sorted(os.listdir("maps")) == ["a.png", "b.png", "index.html"] and len(glob.glob("why_*.png")) == 3, "files")


def test_demo_model():
    demo = os.environ.get("AGF_DEMO") or next(
        iter(sorted(glob.glob(os.path.join(ROOT, "tests", "demo", "*.agf")))), None
    )
    if not demo:
        raise Skip("no demo model in tests/demo/ or $AGF_DEMO")
    save("photo.png", png_bytes(scene(128, 96)))
    result = explain_json(demo, "photo.png", "-o", "map.png")
    check(len(result["top"]) == 5 and all(t["label"] for t in result["top"]), "five labelled classes")
    read_png("map.png")


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:], missing_file(AGF)))
