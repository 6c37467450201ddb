"""What every part of the battery uses: errors in one line, files that are replaced whole, progress."""

import argparse
import os
import re
import sys

import agf
from agf_convert import files


PICTURE_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif")


class EvalError(Exception):
    """What is wrong with the command, the folder or the results: one line."""


def say(message):
    """A line for the user on stderr."""
    print(f"agf_eval.py: {agf.printable(message)}", file=sys.stderr)


def reason(problem):
    """An exception in one line."""
    text = " ".join(str(problem).split())
    known = isinstance(problem, (agf.Error, OSError, ValueError, EvalError, files.OutputError)) and text
    return agf.printable(text if known else f"{type(problem).__name__}: {text}".rstrip(": "))


def make_folder(path):
    """The folder for results, made where it is not there; EvalError where something else has its name."""
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise EvalError(f"-o {path}: not a folder") from None


def write_file(path, content, inputs=()):
    """Replace a file, which is none of `inputs`, by bytes or text when all is written (agf_convert.files).

    Bytes of a name that are no UTF-8 become escapes.
    """
    with files.replacing(path, inputs) as f:
        f.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))


def checksum(path):
    """What tells a model file from another one: the CRCs in its header."""
    with open(path, "rb") as f:
        return f.read(32)[24:32].hex()


def progress(items, title, total=None, done=0):
    """A progress bar with the time left; silent where stderr is not a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=title, total=total if total is not None else len(items), initial=done, disable=None)


def positive(text):
    if not re.fullmatch(r"\d+", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
