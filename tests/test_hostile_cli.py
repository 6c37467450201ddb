#!/usr/bin/env python3
"""Hostile pictures, arguments and circumstances for the command line program: whatever comes, it ends with exit code 0,
1 or 2, one line for each thing that went wrong, and neither half a file nor a leftover.

    python3 tests/test_hostile_cli.py [-k TEXT]

The ordinary mistakes of a user are test_cli.py's, whose helpers these tests use; like them they need nothing but
Python.
"""

import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

from harness import Skip, check, missing_file, run_tests
from test_cli import (
    AGF,
    PATIENCE,
    Run,
    bmp_bytes,
    chunk,
    everything,
    good,
    jpeg_bytes,
    npy_bytes,
    png_bytes,
    png_of,
    ppm_bytes,
    read_npy,
    read_png,
    refused,
    save,
    scene,
    setup,
    slow_arguments,
    write_model,
)

# What a picture's header says must not be believed before it is checked: the program gets this much address space, a
# multiple of what it needs for the small network and pictures here.
MEMORY = 1 << 30


def survives(*args, says="", **options):
    """Run on damaged input, which may happen to be valid: success, or a refusal of one line and nothing left behind."""
    before = everything(".")
    run = Run(*args, memory=MEMORY, **options)
    check(run.code in (0, 2), str(run))
    if run.code == 2:
        check(run.err.startswith("agf: ") and run.err.count("\n") == 1 and says in run.err and not run.out, str(run))
        check(everything(".") == before, "left something behind: %s" % run)
    return run


def small_pictures():
    rows = scene(9, 7)
    gray = [[(40 * x + 23 * y) % 256 for x in range(3)] for y in range(2)]
    return {
        "t.png": png_bytes(rows),
        "t.ppm": ppm_bytes(rows),
        "t.bmp": bmp_bytes(rows),
        "t.jpg": jpeg_bytes(gray, orientation=6),
        "t.npy": npy_bytes([0.5] * 3 * 12 * 12, (3, 12, 12)),
    }


def with_jpeg_size(width, height):
    data = bytearray(jpeg_bytes([[90, 200]]))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">2H", height, width)
    return bytes(data)


def test_sizes_in_headers():
    """Zero, negative and enormous sizes, with data for a few pixels at most."""
    setup()
    line = b"\0" * 27
    bmp = bytearray(bmp_bytes(scene(9, 7)))
    cases = {}
    most = 2**31 - 1
    beyond = [(most, 1), (1, most), (2**32 - 1, 2**32 - 1), (16385, 1), (16384, 16384)]
    for width, height in [(0, 7), (9, 0), (0, 0), *beyond]:
        cases["%dx%d.png" % (width, height)] = png_of([line], width, height)
        cases["%dx%d.ppm" % (width, height)] = b"P6 %d %d 255\n" % (width, height) + line
        cases["%dx%d.npy" % (width, height)] = npy_bytes([0.0] * 27, (3, height, width))
        bmp[18:26] = struct.pack("<2I", width, height)
        cases["%dx%d.bmp" % (width, height)] = bytes(bmp)
        if width < 65536 and height < 65536:
            cases["%dx%d.jpg" % (width, height)] = with_jpeg_size(width, height)
    for height in (-(2**31), -8):
        bmp[18:26] = struct.pack("<Ii", 9, height)
        cases["up%d.bmp" % height] = bytes(bmp)
    cases["65535.jpg"] = with_jpeg_size(65535, 65535)
    cases["minus.ppm"] = b"P6 -9 7 255\n" + line * 7
    cases["digits.ppm"] = b"P6 " + b"9" * 5000 + b" 7 255\n" + line * 7
    cases["minus.npy"] = npy_bytes([0.0] * 27, (3, -3, -3))
    cases["digits.npy"] = npy_bytes([], (3, int("9" * 60), 1))
    cases["wraps32.npy"] = npy_bytes([], (4, 16384, 16384))  # 2^32 bytes, 0 in 32 bits
    cases["wraps64.npy"] = npy_bytes([], (2**22, 2**22, 2**20))
    header = npy_bytes([0.0] * 27, (3, 3, 3), version=2)
    cases["long.npy"] = header[:8] + b"\xff\xff\xff\xff" + header[12:]
    for name, data in cases.items():
        save(name, data)
        refused("explain", "m.agf", name, "-o", "out.png", says=name, memory=MEMORY)
        os.remove(name)


def test_a_small_file_of_many_pixels():
    """Half a megabyte that unpacks to 100 million pixels: within the caps, so it is taken, in the memory they allow."""
    setup()
    lines = [b"\0" * 30000] * 5000 + [b"\xff" * 30000] * 5000
    save("bomb.png", png_of(lines, 10000, 10000))
    check(os.path.getsize("bomb.png") < 1 << 20, "a small file")
    good("explain", "m.agf", "bomb.png", memory=2 * MEMORY)
    save("bomb.png", png_of(lines + [b"\0" * 30000], 10000, 10001))
    refused("explain", "m.agf", "bomb.png", says=["bomb.png", "many"], memory=MEMORY)
    packed = chunk(b"IHDR", struct.pack(">2I5B", 9, 7, 8, 2, 0, 0, 0)), chunk(b"IEND", b"")
    save("empty.png", b"\x89PNG\r\n\x1a\n" + packed[0] + chunk(b"IDAT", b"") + packed[1])
    refused("explain", "m.agf", "empty.png", says="empty.png")


def test_every_truncation():
    setup()
    for name, data in small_pictures().items():
        for length in [*range(min(len(data), 300)), *range(300, len(data), 97)]:
            save(name, data[:length])
            refused("explain", "m.agf", name, "--npy", "out.npy", says=name, memory=MEMORY)
        os.remove(name)


def test_changed_bytes():
    """One byte changed at a time: in headers to 0, to 255 and its highest bit flipped, behind them to one of these."""
    setup()
    rng = random.Random(3)
    for name, data in small_pictures().items():
        accepted = 0
        for at in range(min(len(data), 400)):
            values = sorted({0, 255, data[at] ^ 128} - {data[at]})
            for value in values if at < 64 else [rng.choice(values)]:
                save(name, data[:at] + bytes([value]) + data[at + 1 :])
                accepted += survives("explain", "m.agf", name, says=name).code == 0
        os.remove(name)
        check(accepted > 0 or name == "t.png", "%s: not one change of a pixel was taken" % name)


def test_tensors_of_odd_numbers():
    setup()
    count = 3 * 32 * 40
    for name, value, says in [
        ("nan.npy", math.nan, "not finite"),
        ("inf.npy", math.inf, "not finite"),
        ("minus.npy", -math.inf, "not finite"),
        ("huge.npy", 3e38, "layer"),
    ]:
        for at in (0, count // 2, count - 1):
            save(name, npy_bytes([0.0] * at + [value] + [0.0] * (count - at - 1), (3, 32, 40)))
            if math.isfinite(value):
                save(name, npy_bytes([value] * count, (3, 32, 40)))
            run = refused("explain", "m.agf", name, "--npy", "out.npy", "-o", "out.png", says=name)
            check(any(word in run.err for word in (says, "infinit", "NaN")), "it does not say why: %s" % run)
        run = Run("explain", "m.agf", name, "photo.png", "--json")
        check(run.code == 1 and run.err.count("\n") == 1, "the other picture is explained: %s" % run)
        check(["error" in json.loads(text) for text in run.out.splitlines()] == [True, False], "JSON: %s" % run.out)
    save("tiny.npy", npy_bytes([1e-42 * (i % 7 - 3) for i in range(count)], (3, 32, 40)))
    survives("explain", "m.agf", "tiny.npy", "--npy", "tiny-map.npy", says="tiny.npy")


def test_sizes_that_the_network_cannot_take():
    setup()
    for size in ("0x0", "0x40", "-1x40", "40x-1", "99999x40", "40x4294967297",
                 "40", "x40", "40x", "40x40x40", "1e3x40", " x ", ""):
        refused("explain", "m.agf", "photo.png", "--size", size, says="--size")
    for size in ("1x1", "1x16384", "16384x1"):
        for command in (["explain", "m.agf", "photo.png"], ["info", "m.agf"], ["bench", "m.agf"]):
            refused(*command, "--size", size, says="layer")
    for args in (["explain", "m.agf", "photo.png"], ["bench", "m.agf", "--runs", 1]):
        refused(*args, "--size", "16384x16384", says=["layer", "2^31"], memory=MEMORY)
        refused(*args, "--size", "8192x8192", says=["memory", "bytes"], memory=MEMORY)
    save("line.npy", npy_bytes([0.0] * 3 * 4000, (3, 1, 4000)))
    refused("explain", "m.agf", "line.npy", says=["line.npy", "layer"])
    save("line.png", png_bytes(scene(3000, 1)))
    good("explain", "m.agf", "line.png", "--overlay", "-o", "line-map.png", memory=MEMORY)
    check(len(read_png("line-map.png")) == 1, "a picture one pixel high")


def sizes():
    """The size of every file of the folder, by name."""
    return {name: os.path.getsize(name) for name in os.listdir(".") if os.path.isfile(name)}


def test_model_files_that_are_none():
    setup()
    with open("m.agf", "rb") as f:
        data = f.read()
    save("empty.agf", b"")
    save("picture.agf", png_bytes(scene(9, 7)))
    os.mkdir("folder.agf")
    os.mkfifo("pipe.agf")
    with open("sparse.agf", "wb") as f:
        f.write(data[:64])
        f.truncate(1 << 33)
    save("ascii.agf", data.replace(b"\r\n", b"\n"))
    cases = ["empty.agf", "picture.agf", "folder.agf", "sparse.agf", "ascii.agf"]
    cases += ["photo.png", "/dev/null", "no/such.agf", ""]
    for length in (4, 8, 63, 64, 143, 144, len(data) // 2, len(data) - 1):
        cases.append(save("cut%d.agf" % length, data[:length]))
    damaged = bytearray(data)
    damaged[-70] ^= 4
    cases.append(save("flipped.agf", damaged))
    before = sizes()
    for name in cases:
        for args in (["info", name], ["explain", name, "photo.png"], ["bench", name]):
            run = Run(*args, memory=1 << 34)
            check(run.code == 2 and run.err.startswith("agf: ") and run.err.count("\n") == 1, str(run))
            check(name in run.err and not run.out, str(run))
    os.remove("sparse.agf")
    del before["sparse.agf"]
    check(sizes() == before, "files have changed")


def test_arguments():
    setup()
    huge, lines = "9" * 100000, "a\nagf: b\r\x1b[2Jc\x7f"
    values = ["", "-1", huge, "1e999", "nan", "inf", "0x10", "1 ", " 1"]
    values += ["--", lines, "%s%n%p", "\u20ac", "../../etc/passwd"]
    for option in ("--top", "--threads", "--steps", "--samples", "--seed"):
        for value in values:
            if value not in (" 1",):  # as strtol reads numbers
                refused("explain", "m.agf", "photo.png", option, value, says=option)
    for option in ("--alpha", "--vmax"):
        for value in ("", "-1", "1e999", "nan", "inf", "-inf", "nan(0)", huge + "x", lines):
            refused("explain", "m.agf", "photo.png", "--overlay", option, value, "-o", "out.png", says=option)
    for option in ("-c", "--cmap", "-m", "--options", "--layout", "--isa", "--mask", "--bank"):
        for value in ("", huge, lines, "%s%n%p"):
            refused("explain", "m.agf", "photo.png", option, value, "-o", "out.png")
    no_file = ["x" * 300 + ".png", "x" * 5000 + ".png", "photo.png/out.png", "m.agf/", "/dev/null/x.png", "a/../b.png"]
    for option in ("-o", "--npy", "--logits"):
        for value in ["", *no_file]:
            refused("explain", "m.agf", "photo.png", option, value, says=option if not value else "")
    for args in (
        [],
        [""],
        [lines],
        ["explain"],
        ["explain", "m.agf"],
        ["explain", "m.agf", ""],
        ["explain", "m.agf", lines],
        ["explain", "m.agf", "photo.png", "--threads", "4096"],
        ["explain", "m.agf", "photo.png", "--top", "2147483647"],
        ["explain", "m.agf", "photo.png"] + ["-c", "0"] * 5000 + ["-c", "nothing"],
        ["explain", "m.agf", "photo.png", "--" + "o" * 5000],
        ["info", "m.agf", "m.agf"],
        ["bench", "m.agf", "photo.png", "photo.png"],
    ):
        refused(*args)


ESCAPES = ("\x1b[2J", "\x1b]0;title\x07", "\x7f", "\x08", "\u009b2J", "\u0085", "\u202e", "\u2028", "\u2066")


def test_nothing_reaches_the_terminal():
    """Names of files, labels, layers and models are data: nothing in them commands a terminal, in text, JSON or
    errors."""
    evil = "".join(ESCAPES)
    labels = [evil + "cat", "dog" + evil, "bird"]
    write_model("m.agf", labels=labels, name="net" + evil, layer="conv" + evil)
    names = []
    for i, text in enumerate((*ESCAPES, "\udc9b2J", "\udc85")):  # the last two: bytes that are no UTF-8
        names.append("p%d%s.png" % (i, text))
        save(names[-1], png_bytes(scene(30, 20, seed=i)))
        names.append("broken%d%s.png" % (i, text))
        save(names[-1], b"broken")
    save("mask%s.png" % evil, png_bytes([[(255,) * 3] * 30] * 20))
    os.mkdir("bank" + evil)
    for i in range(3):
        save("bank%s/%d%s.png" % (evil, i, evil), png_bytes(scene(30, 20, seed=30 + i)))
    save("bank%s/x%s.png" % (evil, evil), b"broken")
    mask = "mask%s.png" % evil
    for args in (
        ["explain", "m.agf", *names, "-v"],
        ["explain", "m.agf", *names, "-v", "--json"],
        ["explain", "m.agf", names[0], "--mask", mask, "-o", "out%s.png" % evil],
        ["explain", "m.agf", names[0], "--bank", "bank" + evil, "-o", "out/"],
        ["explain", "m.agf", names[0], "-c", evil, "-o", "out.png"],
        ["explain", "m.agf", names[0], "-c", "t"],
        ["explain", "m.agf", names[0], "-m", evil],
        ["explain", "m.agf", names[0], "--layer", evil],
        ["explain", "m.agf", names[0], "-o", "no%s/x.png" % evil],
        ["explain", "m" + evil, names[0]],
        ["info", "m.agf"],
        ["info", "m.agf", "--json"],
        ["bench", "m.agf", "-v", "--runs", "1"],
        ["bench", "m.agf", "--json", "--runs", "1"],
        ["--option" + evil],
        ["explain", "--option" + evil],
        ["command" + evil],
    ):
        done = subprocess.run([AGF, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=PATIENCE)
        for what in (done.stdout, done.stderr):
            text = what.decode()  # and it is UTF-8
            found = [c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)]
            check(not found, "%s: %r in %r" % (args[:3], found[:3], text[:300]))
            if "--json" not in args:
                check(not set(text) & set("\u202e\u2028\u2066"), "%s turns the writing: %r" % (args[:3], text[:300]))
        check(done.returncode in (0, 1, 2), "%s: code %d" % (args[:3], done.returncode))


def test_pipes_that_nobody_writes_to():
    """Refused by name in seconds, as model, picture, mask or bank; one that is written to slowly is read."""
    setup()
    os.mkfifo("pipe")
    for args in (["explain", "pipe", "photo.png"], ["info", "pipe"], ["bench", "pipe"], ["explain", "m.agf", "pipe"],
                 ["explain", "m.agf", "photo.png", "--mask", "pipe"]):
        refused(*args, says="pipe", timeout=30)
    script = '(sleep 4; cat photo.png) >pipe & exec "$0" explain m.agf pipe --json'
    slow = subprocess.run(["sh", "-c", script, AGF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
    check(slow.returncode == 0, "code %d, %r" % (slow.returncode, slow.stderr))
    check(json.loads(slow.stdout)["maps"] == json.loads(good("explain", "m.agf", "photo.png", "--json").out)["maps"],
          "a picture from a slow pipe")


def test_devices_without_an_end():
    """What goes on for ever is given up at a gigabyte, as picture, mask or bank, not when memory ends."""
    setup()
    for args in (["/dev/zero"], ["photo.png", "--mask", "/dev/zero"], ["photo.png", "--bank", "/dev/zero"]):
        run = Run("explain", "m.agf", *args, memory=4 * MEMORY)
        check(run.code == 2 and "/dev/zero: larger than" in run.err and run.err.count("\n") == 1, str(run))


def test_long_labels():
    """A caption costs what it shows: labels of a million characters are cut, not tried at every length."""
    write_model("m.agf", labels=["w" * 1000000, "a label of words " * 60000, "\u4e2d" * 300000])
    save("photo.png", png_bytes(scene(50, 36)))
    started = time.monotonic()
    good("explain", "m.agf", "photo.png", "--top", 3, "-o", "figure.png", "-q")
    good("explain", "m.agf", "photo.png", "--top", 3, "-o", "%s.png", "-q")
    check(time.monotonic() - started < 20, "%.0f s for six captions" % (time.monotonic() - started))
    read_png("figure.png")


def test_broken_pipes():
    """Whoever reads stops reading: the program ends, and what it wrote is whole."""
    setup()
    os.mkdir("out")
    names = []
    for i in range(40):
        names.append("p%02d.png" % i)
        os.link("photo.png", names[-1])
    read, write = os.pipe()
    os.close(read)
    run = Run("explain", "m.agf", *names, "--json", "-o", "out", stdout=write)
    os.close(write)
    check(run.code == 128 + signal.SIGPIPE and not run.err, str(run))
    for name in os.listdir("out"):
        check(not name.startswith("."), "a temporary file is left: %s" % name)
        read_png(os.path.join("out", name))
    os.mkfifo("pipe")
    for option in ("--npy", "-o"):
        other = ["--npy", "file.npy"] if option == "-o" else ["-o", "file.png"]
        # each output is over 300 KB, more than a pipe holds (16 pages): it is not all written when the reader goes
        arguments = ["explain", "m.agf", "photo.png", "--size", "320x320", option, "pipe", *other]
        process = subprocess.Popen([AGF, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.close(os.open("pipe", os.O_RDONLY))
        error = process.communicate(timeout=PATIENCE)[1]
        code = process.returncode
        check(code == 2 and b"Broken pipe" in error, "%s: code %d, %r" % (option, code, error))
        left = [name for name in os.listdir(".") if name.startswith(".agf")]
        check(not left, "%s: a temporary file is left: %s" % (option, left))


def mounted(options):
    """An own file system on ./disk, for as long as it takes; Skip where that is not allowed."""
    os.mkdir("disk")
    if os.geteuid() != 0:
        raise Skip("only root may mount a small file system")
    for program in ("mount", "umount"):
        if not shutil.which(program):
            raise Skip("%s is not installed" % program)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "agf-test", "disk"], stderr=subprocess.PIPE)
    if done.returncode:
        raise Skip("no file system can be mounted here: %s" % done.stderr.decode().strip())


def test_disk_that_fills_up():
    setup()
    mounted("size=1m")
    try:
        save("disk/old.png", b"old")
        names = []
        for i in range(60):
            names.append("p%02d.png" % i)
            os.link("photo.png", names[-1])
        run = Run("explain", "m.agf", *names, "-o", "disk", "--npy", "disk/%p.npy")
        check(run.code in (1, 2) and "No space left" in run.err and run.err.count("\n") == 1, str(run))
        written = os.listdir("disk")
        check(len(written) > 3 and not [n for n in written if n.startswith(".")], "written: %s" % written)
        for name in written:
            if name.endswith(".npy"):
                read_npy("disk/" + name)
                check(name[:-4] + ".png" in written, "%s without its picture" % name)
            elif name != "old.png":
                read_png("disk/" + name)
        with open("disk/fill", "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"0" * 512)
            except OSError:
                pass
        refused("explain", "m.agf", "photo.png", "-o", "disk/old.png", says=["disk/old.png", "No space left"])
        subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
        refused("explain", "m.agf", "photo.png", "-o", "disk/old.png", says=["disk/old.png", "Read-only"])
        refused("explain", "m.agf", "photo.png", "--npy", "disk/new.npy", says=["disk/new.npy", "Read-only"])
    finally:
        subprocess.run(["umount", "-l", "disk"], check=True)


def test_full_devices():
    if not os.path.exists("/dev/full"):
        raise Skip("no /dev/full here")
    setup()
    for option in ("-o", "--npy", "--logits"):
        refused("explain", "m.agf", "photo.png", option, "/dev/full", says=["/dev/full", "No space left"])
    refused("explain", "m.agf", "photo.png", "--npy", "whole.npy", "-o", "/dev/full", says="/dev/full")


def test_folder_that_goes_away():
    """The output folder is removed while a run writes into it."""
    setup()
    os.mkdir("out")
    process = subprocess.Popen([AGF, *slow_arguments(20, apart=True), "-o", "out"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE
    while len(os.listdir("out")) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    while os.path.exists("out") and time.monotonic() < deadline:
        shutil.rmtree("out", ignore_errors=True)  # a new file may come in between
    error = process.communicate(timeout=PATIENCE)[1].decode()
    code = process.returncode
    check(code in (1, 2) and error.count("\n") == 1 and "out" in error, "code %d, %r" % (code, error))
    check(not os.path.exists("out"), "the folder is back")


def test_interrupted_anywhere():
    """SIGINT, SIGTERM and SIGHUP at any moment of runs that replace files: what is there is whole, old or new."""
    setup()
    os.mkdir("out")
    rng = random.Random(7)
    names = []
    for i in range(2000):
        names.append("p%04d.png" % i)
        os.link("photo.png", names[-1])
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
    for number in codes:
        if signal.getsignal(number) == signal.SIG_IGN:  # in a shell's background job; the program would inherit it
            signal.signal(number, signal.SIG_DFL)
    inputs = everything(".")
    replaced = 0
    for _ in range(24):
        number = rng.choice(sorted(codes))
        for i in range(8):
            save("out/p%04d.png" % i, png_bytes(scene(4, 4)))
        arguments = ["explain", "m.agf", *names, "--layout", "bare", "-o", "out", "--npy", "out/%p.npy"]
        process = subprocess.Popen([AGF, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(0.02 + rng.random() * 0.3)
        process.send_signal(number)
        error = process.communicate(timeout=PATIENCE)[1]
        code = process.returncode
        # -number: on a busy machine it may not have begun to handle signals
        check(code in (codes[number], -number) and not error, "signal %d: code %d, %r" % (number, code, error))
        for name in os.listdir("out"):
            check(not name.startswith("."), "a temporary file is left: %s" % name)
            if name.endswith(".npy"):
                check(read_npy("out/" + name)[0] == (1, 32, 40), "half a tensor")
                replaced += 1
            else:
                read_png("out/" + name)
            os.remove("out/" + name)
    check(replaced > 24, "the signals came before anything was written")
    check(everything(".") == inputs, "inputs have changed")


def test_no_memory():
    """With less and less address space: the whole result, or one line."""
    setup()
    refusals = 0
    for shift in range(300):
        limit = (1 << 25) - shift * 100000
        if limit < 2500000:
            break
        before = everything(".")
        run = Run("explain", "m.agf", "photo.png", "--threads", 1, "--npy", "map.npy", memory=limit)
        if run.code == 127 or "loading" in run.err:
            break  # too little for the loader itself
        if run.code == 0:
            os.remove("map.npy")
        else:
            check(run.code == 2 and run.err.startswith("agf: ") and "memory" in run.err, str(run))
            check(run.err.count("\n") == 1, str(run))
            refusals += 1
        check(everything(".") == before, "left something behind: %s" % run)
    check(refusals > 0, "memory never ran out")


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:], missing_file(AGF)))
