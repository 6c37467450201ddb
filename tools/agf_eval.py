#!/usr/bin/env python3
"""Judge attribution methods on a folder of pictures.

    agf_eval.py perturb       NET.agf PICTURES -o OUT   accuracy while a map's highest (lowest) pixels are blacked out
    agf_eval.py segment       NET.agf PICTURES -o OUT   maps as segmentations, against masks
    agf_eval.py segment-classes NET.agf PICTURES -o OUT several labels a picture: each class's map against its own mask
    agf_eval.py grid          NET.agf PICTURES -o OUT   grid pointing: is the evidence in the explained picture's cell?
    agf_eval.py insert-delete NET.agf PICTURES -o OUT   probability while pixels appear in a blurred picture, or vanish
    agf_eval.py single-delete NET.agf PICTURES -o OUT   does a patch's share of the map rank as the loss without it?
    agf_eval.py sanity        NET.agf PICTURES -o OUT   do maps change when weights are randomised, from the top down?
    agf_eval.py label-free    NET.agf PICTURES -o OUT   maps against nearest neighbours: on objects, on the odd object?
    agf_eval.py odd-object    NET.agf PICTURES -o OUT   the same of pairs of scenes that share all objects but one
    agf_eval.py speed         NET.agf PICTURES -o OUT   milliseconds
    agf_eval.py merge         OUT [OUT ...] -o OUT      put the shards of one experiment together

Methods:  -m agf -m agf_lc -m agf:no_a,no_reg -m integrated_gradients:steps=20 -m gradcam:layer=NODE, or -m all.
Labels:   a CSV with the columns file, label (--labels, or labels.csv in the folder), else the names of subfolders,
          else the beginnings of file names (0271.jpg, cup_3.png). A label is a class's number, or its name in the
          model file.
Masks:    8-bit PNGs, foreground from 128 on: named in the CSV's column mask, or --masks FOLDER with a STEM.png for
          each picture.

OUT receives report.html, one file that shows everything, report.md, results.json, results.csv, pictures.csv and plots
(PNG). records*.jsonl there holds a line for each finished picture: a run that was killed continues after them and ends
in the same numbers; one that is given other settings, pictures or masks refuses. A picture that cannot be used is
reported and skipped, and tried again when the run is continued. PNG, JPEG, WebP, BMP, PPM, TIFF and GIF (the first
frame) are read.

Several machines that share a file system, with GNU parallel (https://www.gnu.org/software/parallel/), four shards:

    parallel --sshlogin :,host1,host2 --workdir . --progress \\
        python3 tools/agf_eval.py perturb NET.agf PICTURES -o OUT -m all --shard {}/4 ::: 1 2 3 4
    python3 tools/agf_eval.py merge OUT -o OUT

or with Dask, which moves the pictures of a worker that dies to the others:

    dask scheduler &    dask worker tcp://HOST:8786 --nthreads 1    (on every machine)
    python3 tools/agf_eval.py perturb NET.agf PICTURES -o OUT -m all --dask tcp://HOST:8786

Needs numpy, Pillow, matplotlib, tqdm, scikit-learn (segment), scipy (sanity), dask.distributed (--dask).
"""

import argparse
import csv
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import re
import shlex
import sys
import tempfile
import textwrap
import threading
import time
import zlib
from collections import Counter, namedtuple

import numpy as np
from PIL import Image

TOOLS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, TOOLS)
import agf  # noqa: E402
import agf_report as report  # noqa: E402
from agf_convert import files  # noqa: E402
from agf_convert import format as layout  # noqa: E402

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


# Methods


ACTIVATION_NORM = "activation_norm"  # of label-free alone: no method of the engine


class Method(namedtuple("Method", "text name options")):
    """A method with its options, as the user wrote it: text names it in every table."""

    @classmethod
    def parse(cls, text):
        """ "NAME" or "NAME:OPTION[=VALUE],..."; EvalError for an unknown method."""
        name, _, rest = text.partition(":")
        if name not in agf.METHODS and name != ACTIVATION_NORM:
            raise EvalError(f"no method {name!r}; there are {', '.join(agf.METHODS)}")
        options = {}
        for option in filter(None, rest.split(",")):
            key, equals, value = option.partition("=")
            options[key] = (int(value) if re.fullmatch(r"\d+", value) else value) if equals else True
        return cls(text, name, options)

    @property
    def centred(self):
        """Whether foreground is where a map of this method is above its mean, and not above 0."""
        return self.name in (
            *("lrp_a1b0", "fullgrad", "smoothgrad", "integrated_gradients", "gradcam", "layercam", "hirescam"),
            ACTIVATION_NORM,
        )


# What is measured. Pure functions of arrays, which tests/test_eval.py checks against cases that can be done by hand.


def energy_inside(mask, heat):
    """The share of a map's positive part that lies in a mask; ValueError where nothing is positive."""
    positive = np.maximum(heat.astype(np.float64), 0)
    if not positive.sum() > 0:
        raise ValueError("nothing in its map is positive")
    return float(positive[mask].sum() / positive.sum())


def imputed(pixels, missing, seed):
    """pixels [H, W, 3] with the missing ones (bool [H, W]) as their neighbours would have them, and a little noise.

    Each is the mean of its neighbours, direct ones with the weight 1/6, diagonal ones 1/12 (fewer at an edge), solved
    for all missing pixels at once, plus normal noise of 0.01 of the scale, as in ROAD (Rong et al., ICML 2022): black
    pixels would tell the network where they were.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import spsolve

    height, width = missing.shape
    number = np.full((height, width), -1)
    rows, columns = np.nonzero(missing)
    number[rows, columns] = np.arange(len(rows))
    known = np.zeros((len(rows), pixels.shape[2]))
    at, to, weights, total = [], [], [], np.zeros(len(rows))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if not (dy or dx):
                continue
            y, x, weight = rows + dy, columns + dx, 1 / 6 if 0 in (dy, dx) else 1 / 12
            inside = np.nonzero((y >= 0) & (y < height) & (x >= 0) & (x < width))[0]
            neighbour = number[y[inside], x[inside]]
            total[inside] += weight
            given, asked = inside[neighbour < 0], inside[neighbour >= 0]
            known[given] += weight * pixels[y[given], x[given]]
            at.append(asked)
            to.append(neighbour[neighbour >= 0])
            weights.append(np.full(len(asked), -weight))
    every = np.arange(len(rows))
    system = coo_array(
        (np.concatenate([*weights, total]), (np.concatenate([*at, every]), np.concatenate([*to, every]))),
        (len(rows), len(rows)),
    )
    noise = np.random.RandomState(seed).normal(0, 0.01 * 255, known.shape)
    values = spsolve(system.tocsc(), known).reshape(known.shape) + noise if len(rows) else known
    filled = pixels.copy()
    filled[rows, columns] = np.clip(np.rint(values), 0, 255)
    return filled


def descending(heat):
    """Indices of a map's pixels, highest first; ties: the lower index (row-major) first."""
    return np.argsort(-heat.ravel(), kind="stable")


def perturbed(pixels, order, tenths):
    """pixels [H, W, 3] with the first int(H * W * tenths / 10) pixels of `order` black."""
    black = pixels.copy()
    black.reshape(-1, pixels.shape[2])[order[: len(order) * tenths // 10]] = 0
    return black


def perturbation_auc(accuracy):
    """Area under the accuracies [10] (or rows of them) at 0, 0.1, ..., 0.9 by trapezoids, x 100."""
    from scipy.integrate import trapezoid

    return trapezoid(accuracy, dx=0.1) * 100


def average_precision(mask, heat):
    """scikit-learn's average precision of a map as a ranking of a mask's pixels."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(mask.ravel(), heat.ravel()))


def overlap(mask, foreground):
    """[true positives, false positives, false negatives, true negatives] in pixels."""
    pairs = ((True, True), (False, True), (True, False), (False, False))
    return [int(((mask == m) & (foreground == f)).sum()) for m, f in pairs]


def pixel_accuracy(counts):
    """The share of pixels on the right side; counts as overlap() gives them, summed over the pictures."""
    tp, _, _, tn = counts
    return (tp + tn) / sum(counts)


def mean_iou(counts):
    """Intersection over union, averaged over foreground and background; a class that nobody has counts as 0."""
    tp, fp, fn, tn = counts
    return (tp / max(tp + fp + fn, 1) + tn / max(tn + fp + fn, 1)) / 2


def share_in_cell(heat, n, cell):
    """The share of a map's positive part in cell number `cell` (row-major) of n x n; 0 where nothing is positive."""
    positive = np.maximum(heat.astype(np.float64), 0)
    height, width = (side // n for side in heat.shape)
    row, column = divmod(cell, n)
    inside = positive[row * height : (row + 1) * height, column * width : (column + 1) * width].sum()
    total = positive.sum()
    return float(inside / total) if total > 0 else 0.0


def gaussian_blur(chw):
    """chw [C, H, W] blurred by an 11 x 11 Gaussian of sigma 5 that sums to 1; beyond the edge lie zeros (RISE)."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(chw.astype(np.float64), (0, 5.0, 5.0), radius=(0, 5, 5), mode="constant")


def area_under(curve):
    """Area under a curve sampled at equal steps from 0 to 1, by trapezoids."""
    from scipy.integrate import trapezoid

    return float(trapezoid(curve) / (len(curve) - 1))


def revealed(start, end, order, per_step):
    """start [C, H, W], then `per_step` more pixels of `order` at a time taken from `end`, until all are."""
    current = start.copy()
    yield current
    flat, source = current.reshape(len(current), -1), end.reshape(len(end), -1)
    for first in range(0, len(order), per_step):
        pixels = order[first : first + per_step]
        flat[:, pixels] = source[:, pixels]
        yield current


def spearman(first, second):
    """Spearman's rank correlation of two maps' magnitudes; ValueError where one is constant and there is none."""
    from scipy.stats import spearmanr

    a, b = (np.abs(heat).ravel() for heat in (first, second))
    if a.min() == a.max() or b.min() == b.max():
        raise ValueError("a constant map has no rank correlation")
    return float(spearmanr(a, b).statistic)


def probabilities(logits, kind):
    """softmax or sigmoid of logits, in double."""
    from scipy import special

    return {"softmax": special.softmax, "sigmoid": special.expit}[kind](logits.astype(np.float64))


# Randomised copies of a model file (agf_convert.format knows the layout)

CONV, LINEAR = 1, 9  # agf_op in agf.h


def weight_tensors(data):
    """Indices of the weight tensors of convolutions and linear layers, from the logits down, each once."""
    header = layout.HEADER.unpack_from(data)
    record, nodes, found = layout.NODES[header[1]], header[6], []
    for i in reversed(range(nodes)):
        node = record.unpack_from(data, layout.NODES_AT + i * record.size)
        if node[0] in (CONV, LINEAR) and node[17] and node[17] - 1 not in found:
            found.append(node[17] - 1)
    return found


def randomised(data, layers, seed):
    """A model file's bytes with the weights of its top `layers` convolutions and linear layers drawn anew.

    Each from a normal distribution with the mean 0 and the deviation of the weights it replaces, so that activations
    keep their scale; biases and BatchNorms stay. A layer's new weights depend on the seed and the layer alone.
    """
    data = bytearray(data)
    header = list(layout.HEADER.unpack_from(data))
    tables = layout.NODES_AT + header[6] * layout.NODES[header[1]].size + header[7] * 4
    for index in weight_tensors(data)[:layers]:
        kind, form, *dims, offset, size = layout.TENSOR.unpack_from(data, tables + index * layout.TENSOR.size)
        stored, width = {layout.F32: ("<f4", 4), layout.F16: ("<f2", 2)}[kind]
        old = np.frombuffer(data, stored, size // width, offset).astype(np.float64)
        count = int(np.prod(dims))  # less than the stored number where zeros fill a block up
        deviation = math.sqrt(max(float(old @ old) / count - (float(old.sum()) / count) ** 2, 0.0))
        new = np.random.RandomState([seed, index]).normal(0.0, deviation, dims).astype(np.float32)
        if form == layout.LINEAR:  # its array is [O, C * H * W]
            new = new.reshape(dims[0], -1)
        tensor = layout.Tensor("weights", form, tuple(dims), new, kind == layout.F16)
        data[offset : offset + size] = b"".join(tensor.pieces())
    header_bytes = header[2]
    header[4], header[5] = 0, zlib.crc32(memoryview(data)[header_bytes:])
    layout.HEADER.pack_into(data, 0, *header)
    header[4] = zlib.crc32(memoryview(data)[:header_bytes])
    layout.HEADER.pack_into(data, 0, *header)
    return bytes(data)


# Pictures, labels, masks


def class_of(text, labels, classes):
    """The class that a label names: its number, or its name in the model file. ValueError otherwise."""
    text = text.strip()
    if re.fullmatch(r"\d+", text):
        if int(text) < classes:
            return int(text)
        raise ValueError(f"class {int(text)} of a network with {classes} classes")
    matches = [k for k, label in enumerate(labels) if label.lower() == text.lower()]
    if len(matches) != 1:
        raise ValueError(f"{len(matches) or 'no'} class{'es are' if len(matches) > 1 else ' is'} called {text!r}")
    return matches[0]


def class_of_file_name(path, labels, classes):
    """The class that a file's name begins with: a number, or the longest label that fits."""
    stem = os.path.splitext(os.path.basename(path))[0]
    number = re.match(r"\d+", stem)
    if number:
        return class_of(number.group(), labels, classes)
    fitting = [label for label in labels if label and stem.lower().startswith(label.lower())]
    if not fitting:
        raise ValueError("its name begins with no class: give --labels")
    return class_of(max(fitting, key=len), labels, classes)


def rows_of_csv(path):
    """The rows of a CSV with at least the columns file and label; "" where a row is short."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, restkey="", restval="", strict=True)  # strict: an open quote is no field
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise EvalError(f"{path}: its first line must name the columns file and label")
            return list(reader)
    except UnicodeDecodeError:
        raise EvalError(f"{path}: not UTF-8: save it as UTF-8 text") from None
    except csv.Error as problem:
        raise EvalError(f"{path}: not a CSV, near line {reader.line_num}: {problem}") from None


def files_of(folder):
    """The pictures below a folder in a fixed order; what else looks like pictures is counted aloud."""
    found, others = [], Counter()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if name.lower().endswith(".mask.png"):
                continue
            if ending in PICTURE_FILES:
                found.append(os.path.relpath(os.path.join(parent, name), folder))
            elif not name.startswith(".") and name != "labels.csv":
                others[ending or "files without an ending"] += 1
    if others:
        counts = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        say(f"passed over in {folder}: {counts} (what is read ends in {', '.join(PICTURE_FILES)})")
    return sorted(found)


def list_pictures(folder, args, model):
    """The pictures of a folder in a fixed order: [{file, label, explain?, mask?, problem?}].

    file: its path below the folder. explain: the class in the CSV's column --explain, if that is not predicted or
    target. problem: why it cannot be used.
    """
    if not os.path.isdir(folder):
        raise EvalError(f"{folder}: no such folder")
    table = args.labels or os.path.join(folder, "labels.csv")
    column = None if args.explain in ("predicted", "target") else args.explain
    if os.path.isfile(table):
        rows = rows_of_csv(table)
        for name in (column, getattr(args, "mask_column", None)):
            if name and rows and name not in rows[0] and not (name == "mask" and args.masks):
                raise EvalError(f"{table}: there is no column {name}")
    elif args.labels:
        raise EvalError(f"{args.labels}: no such file")
    elif column:
        raise EvalError(f"--explain {column} names a column of a CSV: give --labels")
    else:
        table, rows = folder, [{"file": name} for name in files_of(folder)]
    if not rows:
        raise EvalError(f"{folder}: no pictures")
    pictures = []
    for number, row in enumerate(rows[: args.limit], 1):
        name = row["file"].replace(os.sep, "/")
        picture = {"file": name}
        try:
            if not name:
                picture["file"] = f"row {number}"
                raise ValueError("names no file")
            if "label" in row:
                picture["label"] = class_of(row["label"], model.labels, model.classes)
            elif "/" in name:
                picture["label"] = class_of(name.split("/")[-2], model.labels, model.classes)
            else:
                picture["label"] = class_of_file_name(name, model.labels, model.classes)
            if column:
                picture["explain"] = class_of(row[column], model.labels, model.classes)
        except ValueError as problem:
            picture["problem"] = str(problem)
        if getattr(args, "masks", None):
            picture["mask"] = os.path.splitext(name)[0] + ".png"
        elif row.get(getattr(args, "mask_column", "")):
            picture["mask"] = row[args.mask_column]
        pictures.append(picture)
    return each_once(pictures, table)


def each_once(pictures, table):
    """The pictures; EvalError if there are none, or if the table lists one twice."""
    if not pictures:
        raise EvalError(f"{table}: no pictures")
    twice = [name for name, count in Counter(picture["file"] for picture in pictures).items() if count > 1]
    if twice:
        raise EvalError(f"{table}: {twice[0]} is listed twice")
    return pictures


def lines_of(path):
    """The lines of a text file; EvalError if it is none."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            return f.read().splitlines()
    except UnicodeDecodeError:
        raise EvalError(f"{path}: not UTF-8 text") from None


def contents_of(pictures, plan):
    """{path below the folder, or below the masks' behind "mask ": size and a hash of the file} of what a run reads."""
    found = {}
    for picture in progress(pictures, "contents"):
        found[picture["file"]] = content_of(os.path.join(plan["folder"], picture["file"]))
        for name in masks_of(picture):
            found["mask " + name] = content_of(os.path.join(plan["masks"] or plan["folder"], name))
    return found


def masks_of(picture):
    """The names of a picture's masks."""
    own = [picture[key] for key in ("mask", "all_objects") if key in picture]
    return own + [name for _, name in picture.get("objects", ())]


def content_of(path):
    """Size and a hash of a file, as text; "-" where it cannot be read."""
    try:
        if not os.path.isfile(path):
            return "-"
        with open(path, "rb") as f:
            found = hashlib.sha256()
            for part in iter(lambda: f.read(1 << 20), b""):
                found.update(part)
            return f"{f.tell()} {found.hexdigest()[:32]}"
    except (OSError, ValueError):  # ValueError: a NUL in its name
        return "-"


class Subject:
    """A process's model, sessions and pictures. plan: make_plan()'s, a plain dict that travels to workers."""

    def __init__(self, plan):
        self.plan, self.settings = plan, plan["settings"]
        self.methods = [Method.parse(text) for text in self.settings["methods"]]
        self.model = agf.Model(plan["model"])
        self.sessions, self.variants = {}, {}
        if not self.model.input.is_picture or self.model.input.channels != 3:
            raise EvalError(f"{plan['model']}: converted without preprocessing for RGB pictures (see agf_convert.py)")
        self.size = tuple(self.settings["size"])
        self.maps = functools.lru_cache(64)(self._maps)
        self.check_arguments()

    def check_arguments(self):
        """EvalError where the network, the machine or a method cannot take an argument: it is no picture's fault."""
        try:
            session = self.session(*self.size)
        except (agf.Error, ValueError) as problem:
            raise EvalError(reason(problem)) from None
        own = EXPERIMENTS[self.settings["experiment"]].options
        for method in self.methods:
            if method.name == ACTIVATION_NORM:
                if "trunk" not in self.settings:
                    raise EvalError(f"-m {ACTIVATION_NORM} goes with label-free and its --trunk")
                continue
            try:
                options = {key: value for key, value in method.options.items() if key not in own}
                session.explain(classes=0, method=method.name, **options)
            except (TypeError, ValueError) as problem:
                raise EvalError(f"-m {method.text}: {reason(problem)}") from None
            except agf.Error:  # nothing has been run; all before that was checked
                pass

    def session(self, height, width, model=None):
        """The session of a model (None: the one that is judged) for an input size; made once."""
        key = (id(model), height, width)
        if key not in self.sessions:
            names = tuple(sorted({method.name for method in self.methods} - {ACTIVATION_NORM}))
            self.sessions[key] = (model or self.model).session(
                height=height, width=width, threads=self.plan["threads"], isa=self.plan["isa"], methods=names
            )
        return self.sessions[key]

    def variant(self, layers):
        """The model with the top `layers` layers randomised. Only the last one is kept: they are large."""
        if layers not in self.variants:
            for old in self.variants.values():
                self.sessions = {key: session for key, session in self.sessions.items() if key[0] != id(old)}
                old.close()
            with open(self.plan["model"], "rb") as f:
                data = randomised(f.read(), layers, self.settings["seed"])
            descriptor, path = tempfile.mkstemp(suffix=".agf")
            try:
                with os.fdopen(descriptor, "wb") as f:
                    f.write(data)
                self.variants = {layers: agf.Model(path)}
            finally:
                os.remove(path)  # it stays mapped
        return self.variants[layers]

    def read(self, name, folder="folder"):
        """A picture file, upright, as a Pillow image."""
        return agf.read_picture(os.path.join(self.plan[folder], name))

    def stretched(self, picture, size=None):
        """A picture stretched to the network's size (or another): uint8 [H, W, 3]."""
        height, width = size or self.size
        rgb = Image.fromarray(agf.as_picture(self.read(picture["file"])))
        return np.asarray(rgb.resize((width, height), Image.BILINEAR))

    def mask(self, picture):
        """A picture's mask at the network's size: bool [H, W]."""
        if "mask" not in picture:
            raise ValueError("it has no mask")
        folder = "masks" if self.plan["masks"] else "folder"
        image = self.read(picture["mask"], folder)
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise ValueError(f"its mask must have 8 bits a channel, not Pillow's mode {image.mode}")
        mask = np.asarray(image.convert("L").resize(self.size[::-1], Image.NEAREST)) >= 128
        if not mask.any():
            raise ValueError("its mask has no foreground")
        return mask

    def normalised(self, pixels):
        """uint8 [H, W, 3] as the network's input, [C, H, W]: the model's preprocessing without its resizing."""
        rule = self.model.input
        ordered = pixels[:, :, ::-1] if rule.channel_order == "bgr" else pixels
        values = (ordered / 255.0 * rule.range - rule.mean) / rule.std
        return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)

    def explained_class(self, session, picture):
        """The class that --explain chooses, for a picture that has just been run."""
        which = self.settings["explain"]
        if which == "predicted":
            return session.ranked(0)
        return picture["label" if which == "target" else "explain"]

    def explain_each(self, session, k):
        """[(method, map, None) or (method, None, problem)] of class k, for the picture that was run last."""
        found = []
        for method in self.methods:
            try:
                found.append((method, session.explain(classes=k, method=method.name, **method.options)[0], None))
            except agf.Error as problem:
                found.append((method, None, str(problem)))
        return found

    def measured(self, session, k, measure):
        """{method: measure(method, map)} for the picture that was run last.

        {"problem": why} where there is no map of it, or nothing to measure in it.
        """
        results = {}
        for method, heat, problem in self.explain_each(session, k):
            if problem is None:
                try:
                    results[method.text] = measure(method, heat)
                    continue
                except ValueError as found:
                    problem = str(found)
            results[method.text] = {"problem": problem}
        return results

    def _maps(self, name, label):
        """{method: its map of a picture's target class on the model that is judged, or None}, for Sanity."""
        session = self.session(*self.size)
        session.run(self.normalised(self.stretched({"file": name})))
        return {method.text: heat for method, heat, _ in self.explain_each(session, label)}


# The experiments


class Experiment:
    """What one subcommand measures. Each unit of work gives a record; units are independent and can run anywhere."""

    help = ""
    note = ""
    metrics = ()  # (key, title, "higher" or "lower" or "" for what is better)
    curves = None  # (title, x axis, y axis)
    options = ()  # of methods, besides the engine's own

    def metrics_of(self, settings):
        """The metrics as the settings turn them."""
        return self.metrics

    @staticmethod
    def arguments(parser):
        """Add the experiment's own options."""

    @staticmethod
    def settings(args):
        """Those that decide about the numbers."""
        return {}

    @staticmethod
    def pictures(args, model):
        """What list_pictures() gives: [{file, label, ...}]."""
        return list_pictures(args.pictures, args, model)

    @staticmethod
    def units(subject, pictures, skipped):
        """The units: dicts with a unique "id". skipped(name, why) reports a picture that is left out."""
        return [{"id": picture["file"], "picture": picture} for picture in pictures]

    @staticmethod
    def exhibit(subject, unit):
        """(pixels [H, W, 3], class) of a unit, for the contact sheet."""
        pixels = subject.stretched(unit["picture"])
        session = subject.session(*subject.size)
        session.run(subject.normalised(pixels))
        return pixels, subject.explained_class(session, unit["picture"])

    @staticmethod
    def shown(subject, session, unit, k):
        """[(method, map, None) or (method, None, problem)] of an exhibit that was run last, for the contact sheet."""
        return subject.explain_each(session, k)

    def measure(self, subject, unit):
        """The unit's record: {method: numbers or {"problem": ...}}, whatever else under keys that begin with "_"."""
        raise NotImplementedError

    def values(self, record):
        """{metric: number} of one method's part of one record."""
        return record

    def settled(self, records):
        """Records for pooled(), after whatever is chosen over all of them (a threshold) has been chosen."""
        return records

    def pooled(self, records):
        """{metric: number} that come from all of a method's settled records together."""
        return {}

    def curve(self, records):
        """{name of a curve: (x, y, standard errors or None)} of one method's records."""
        return {}

    def facts(self, settings):
        """What a reader of the numbers must know, in a few words each."""
        return [f"explained class: {settings['explain']}"]


class Perturb(Experiment):
    help = "accuracy while the pixels that a map ranks highest, or lowest, are blacked out"
    note = (
        "Top-1 accuracy while 10 % to 90 % of the pixels are set to black, those with the highest values of "
        "the map first (positive) or the lowest first (negative); area under the accuracy by trapezoids over "
        "0 to 0.9, x 100 (at most 90). When the explained class is the label or the prediction, a good map "
        "loses accuracy fast under positive perturbation and keeps it under negative. When it is another object's "
        "in the same picture, a good map does the opposite: it takes that object away first, and the label's last."
    )
    metrics = (
        ("positive", "positive AUC", "lower"),
        ("negative", "negative AUC", "higher"),
        ("clean", "clean accuracy", ""),
    )
    curves = ("top-1 accuracy", "share of the pixels set to black", "accuracy")

    def metrics_of(self, settings):
        if settings["explain"] in ("predicted", "target"):
            return self.metrics
        turned = {"lower": "higher", "higher": "lower", "": ""}
        return tuple((metric, title, turned[better]) for metric, title, better in self.metrics)

    @staticmethod
    def arguments(parser):
        parser.add_argument(
            "--fill",
            choices=("black", "road"),
            default="black",
            help="what takes a pixel's place: black (default), or its neighbours' colours with a little noise (ROAD)",
        )

    @staticmethod
    def settings(args):
        return {"fill": args.fill}

    def facts(self, settings):
        fill = {"black": "black", "road": "imputed from neighbours, with noise (ROAD), instead of black"}
        return [*super().facts(settings), f"perturbed pixels: {fill[settings['fill']]}"]

    @staticmethod
    def removed(subject, pixels, order, tenths):
        if subject.settings["fill"] == "black":
            return perturbed(pixels, order, tenths)
        missing = np.zeros(len(order), bool)
        missing[order[: len(order) * tenths // 10]] = True
        return imputed(pixels, missing.reshape(pixels.shape[:2]), subject.settings["seed"])

    def measure(self, subject, unit):
        pixels, picture = subject.stretched(unit["picture"]), unit["picture"]
        session = subject.session(*subject.size)
        session.run(subject.normalised(pixels))
        clean, k = session.ranked(0), subject.explained_class(session, picture)

        def accuracies(method, heat):
            kept = {}
            for sign, order in (("positive", descending(heat)), ("negative", descending(-heat))):
                kept[sign] = [int(clean == picture["label"])]
                for tenths in range(1, 10):
                    session.run(subject.normalised(self.removed(subject, pixels, order, tenths)), explain=False)
                    kept[sign].append(int(session.ranked(0) == picture["label"]))
            return kept

        return subject.measured(session, k, accuracies)

    def values(self, record):
        areas = {sign: float(perturbation_auc(record[sign])) for sign in ("positive", "negative")}
        return {**areas, "clean": float(record["positive"][0])}

    def curve(self, records):
        x = [tenths / 10 for tenths in range(10)]
        return {sign: (x, *report.mean_and_error([record[sign] for record in records])) for sign in ("positive", "negative")}


class Segment(Experiment):
    help = "maps as segmentations, against masks"
    note = (
        "Foreground is where the map is positive; for methods whose maps are not signed around 0 (lrp_a1b0, "
        "fullgrad, smoothgrad, integrated_gradients, gradcam and its like), where it is above its mean. Pixel accuracy and"
        " mIoU (mean over foreground and background) pool the pixels of all pictures; average precision takes"
        " the map itself as a ranking, a mean over pictures. Energy is the share of the map's positive part that lies "
        "in the mask (the energy-based pointing game), a mean over pictures; chance is the mask's share of the picture."
    )
    metrics = (
        ("pixel_accuracy", "pixel accuracy", "higher"),
        ("miou", "mIoU", "higher"),
        ("ap", "average precision", "higher"),
        ("energy", "energy in the mask", "higher"),
    )

    @staticmethod
    def arguments(parser):
        parser.add_argument("--masks", metavar="FOLDER", help="masks, STEM.png for each picture")
        parser.add_argument("--mask-column", default="mask", metavar="NAME", help="the CSV's column that names the masks (default mask)")

    @staticmethod
    def settings(args):
        return {} if args.masks else {"mask_column": args.mask_column}

    def measure(self, subject, unit):
        mask = subject.mask(unit["picture"])
        session = subject.session(*subject.size)
        session.run(subject.normalised(subject.stretched(unit["picture"])))

        def judged(method, heat):
            threshold = float(heat.astype(np.float64).mean()) if method.centred else 0.0
            return {
                "counts": overlap(mask, heat > threshold),
                "ap": average_precision(mask, heat),
                "energy": energy_inside(mask, heat),
            }

        return subject.measured(session, subject.explained_class(session, unit["picture"]), judged)

    def values(self, record):
        return {
            "ap": record["ap"],
            "energy": record["energy"],
            "pixel_accuracy": pixel_accuracy(record["counts"]),
            "miou": mean_iou(record["counts"]),
        }

    def pooled(self, records):
        counts = [sum(column) for column in zip(*(record["counts"] for record in records))]
        return {"pixel_accuracy": pixel_accuracy(counts), "miou": mean_iou(counts)}


class Grid(Experiment):
    help = "grid pointing game"
    metrics = (("share", "share in own cell", "higher"),)
    note = (
        "Pictures of different classes, each classified right with a probability above the confidence asked for, "
        "are put together to a grid; for every cell, the share of the positive part of the map of its class that "
        "lies in that cell. Chance is one over the number of cells. A map without a positive part counts as 0: "
        "lrp_a1b0 gives one wherever the class's logit for the whole grid is negative."
    )

    @staticmethod
    def arguments(parser):
        parser.add_argument("--cells", type=int, default=2, metavar="N", help="N x N pictures a grid (default 2)")
        parser.add_argument("--grids", type=int, default=100, metavar="N", help="number of grids (default 100)")
        parser.add_argument("--confidence", type=float, default=0.5, metavar="P", help="least probability of the label (default 0.5)")
        parser.add_argument(
            "--fit",
            action="store_true",
            help="shrink the pictures so that the grid has the network's own size, instead of a grid of full-size pictures",
        )

    @staticmethod
    def settings(args):
        if args.cells < 2 or args.grids < 1:
            raise EvalError("a grid needs --cells of at least 2 and --grids of at least 1")
        return {"cells": args.cells, "grids": args.grids, "confidence": args.confidence, "fit": args.fit}

    @staticmethod
    def cell_size(subject):
        n = subject.settings["cells"] if subject.settings["fit"] else 1
        return tuple(side // n for side in subject.size)

    @staticmethod
    def units(subject, pictures, skipped):
        settings, by_class = subject.settings, {}
        session = subject.session(*subject.size)
        for picture in progress(pictures, "classify"):
            try:
                if "problem" in picture:
                    raise ValueError(picture["problem"])
                session.run(subject.normalised(subject.stretched(picture)), explain=False)
            except Exception as problem:  # whatever is wrong with one picture ends that one
                skipped(picture["file"], reason(problem))
                continue
            p = probabilities(session.logits, settings["probability"])
            if session.ranked(0) == picture["label"] and p[picture["label"]] > settings["confidence"]:
                by_class.setdefault(picture["label"], []).append(picture)
        cells = settings["cells"] ** 2
        if len(by_class) < cells:
            raise EvalError(
                f"{len(by_class)} classes have a picture that is classified right with a confidence above "
                f"{settings['confidence']:g}; a grid needs {cells}"
            )
        random, classes = np.random.RandomState(settings["seed"]), sorted(by_class)
        units = []
        for number in range(settings["grids"]):
            chosen = [classes[i] for i in random.permutation(len(classes))[:cells]]
            pictures = [by_class[k][random.randint(len(by_class[k]))] for k in chosen]
            units.append({"id": f"grid {number:05d}", "pictures": pictures})
        return units

    @staticmethod
    def compose(subject, unit):
        n, size = subject.settings["cells"], Grid.cell_size(subject)
        tiles = [subject.stretched(picture, size) for picture in unit["pictures"]]
        return np.concatenate([np.concatenate(tiles[row * n : (row + 1) * n], 1) for row in range(n)], 0)

    @staticmethod
    def exhibit(subject, unit):
        return Grid.compose(subject, unit), unit["pictures"][0]["label"]

    def measure(self, subject, unit):
        pixels = self.compose(subject, unit)
        session = subject.session(*pixels.shape[:2])
        session.run(subject.normalised(pixels))
        n, cells = subject.settings["cells"], []
        for cell, picture in enumerate(unit["pictures"]):
            share = functools.partial(share_in_cell, n=n, cell=cell)
            cells.append(subject.measured(session, picture["label"], lambda _, heat, share=share: share(heat)))
        results = {}
        for method in subject.methods:
            shares = [cell[method.text] for cell in cells]
            failed = [share for share in shares if isinstance(share, dict)]
            results[method.text] = failed[0] if failed else {"shares": shares}
        return results

    def values(self, record):
        return {"share": float(np.mean(record["shares"]))}

    def facts(self, settings):
        return [
            f"{settings['cells']}x{settings['cells']} pictures, confidence above {settings['confidence']:g} "
            f"({settings['probability']}), chance {1 / settings['cells'] ** 2:.3f}"
        ]


# The classes of PASCAL VOC's masks, by their colour's index from 1 on.
VOC_NAMES = (
    "aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,pottedplant,sheep,sofa,train,tvmonitor"
).split(",")
VOID = 255  # in such a mask: an object's outline, which does not count


class SegmentClasses(Experiment):
    help = "several labels a picture: each class's map against that class's own mask"
    note = (
        "For every class that a picture's masks hold, its map. Average precision takes each map as a ranking of its own "
        "class's pixels: a mean over a class's pictures, then over classes (mAP). For the segmentation, every pixel "
        "belongs to the class whose map is highest there, each map divided by the magnitude that 0.5 % of its pixels "
        "exceed, or to the background where none is above a threshold; pixel accuracy, and mIoU as the mean over the "
        "background and the classes. The threshold is the one with the best mIoU on the other half of the pictures."
    )
    metrics = (
        ("miou", "mIoU", "higher"),
        ("pixel_accuracy", "pixel accuracy", "higher"),
        ("map", "mAP", "higher"),
    )
    THRESHOLDS = [round(0.05 * step, 2) for step in range(21)]

    @staticmethod
    def arguments(parser):
        parser.add_argument(
            "--objects",
            action="append",
            metavar="LABEL:MASK",
            help="columns of the CSV that name an object's class and its mask; may be repeated (default label:mask)",
        )
        parser.add_argument(
            "--split",
            default="val",
            metavar="NAME",
            help="of a folder in PASCAL VOC's layout: the list ImageSets/Segmentation/NAME.txt (default val)",
        )
        parser.add_argument(
            "--names",
            metavar="FILE",
            help="the class of each index of a VOC mask from 1 on, a line each: a label, or a number; an empty line is a "
            "class that does not count (default: VOC's own names, as far as the network has them)",
        )

    @staticmethod
    def settings(args):
        names = lines_of(args.names) if args.names else None
        return {"objects": args.objects or ["label:mask"], "split": args.split, "names": names}

    @staticmethod
    def pictures(args, model):
        listed = os.path.join(args.pictures, "ImageSets", "Segmentation", args.split + ".txt")
        if os.path.isdir(os.path.join(args.pictures, "JPEGImages")):
            return SegmentClasses.voc_pictures(args, model, listed)
        pairs = [pair.partition(":")[::2] for pair in args.objects or ["label:mask"]]
        table = args.labels or os.path.join(args.pictures, "labels.csv")
        if not os.path.isfile(table):
            raise EvalError(f"{args.pictures}: neither in PASCAL VOC's layout (JPEGImages ...) nor with a labels.csv")
        rows, pictures = rows_of_csv(table), []
        for pair in pairs:
            for column in pair:
                if rows and column not in rows[0]:
                    raise EvalError(f"{table}: there is no column {column!r}")
        for row in rows[: args.limit]:
            picture = {"file": row["file"], "objects": []}
            try:
                for label, mask in pairs:
                    if row[label] and row[mask]:
                        picture["objects"].append([class_of(row[label], model.labels, model.classes), row[mask]])
            except ValueError as problem:
                picture["problem"] = str(problem)
            pictures.append(picture)
        return each_once(pictures, table)

    @staticmethod
    def voc_pictures(args, model, listed):
        if not os.path.isfile(listed):
            raise EvalError(f"{listed}: no such file (--split names it)")
        names = SegmentClasses.settings(args)["names"] or VOC_NAMES
        classes, missing = [], []
        for name in names:
            try:
                classes.append(class_of(name, model.labels, model.classes) if name.strip() else None)
            except ValueError as problem:
                if args.names:
                    raise EvalError(f"{args.names}: {problem}") from None
                classes.append(None)
                missing.append(name)
        if not any(k is not None for k in classes):
            raise EvalError("the network has none of VOC's classes by name: give --names, a label or a number a line")
        if missing:
            say(f"the network lacks {len(missing)} of VOC's classes, which do not count: {', '.join(missing)}")
        names = [line.split()[0] for line in lines_of(listed) if line.strip()]
        pictures = [
            {"file": f"JPEGImages/{name}.jpg", "mask": f"SegmentationClass/{name}.png", "classes": classes} for name in names[: args.limit]
        ]
        return each_once(pictures, listed)

    @staticmethod
    def truth(subject, picture):
        """int [H, W] at the network's size: 0 background, k + 1 where class k is, -1 what does not count."""
        size = subject.size[::-1]
        if "objects" in picture:
            truth = np.zeros(subject.size, int)
            for k, name in picture["objects"]:
                truth[subject.mask({"mask": name})] = k + 1
        else:
            image = subject.read(picture["mask"])
            if image.mode not in ("P", "L"):
                raise ValueError(f"its mask must hold a class's index in each pixel, not Pillow's mode {image.mode}")
            index = np.asarray(image.resize(size, Image.NEAREST))
            table = np.full(256, -1)
            table[0] = 0
            for i, k in enumerate(picture["classes"], 1):
                if k is not None and i != VOID:
                    table[i] = k + 1
            unknown = set(np.unique(index)) - set(range(len(picture["classes"]) + 1)) - {VOID}
            if unknown:
                raise ValueError(f"its mask has the indices {sorted(map(int, unknown))}, which --names does not name")
            truth = table[index]
        if not (truth > 0).any():
            raise ValueError("its masks hold no class of the network")
        return truth

    @staticmethod
    def exhibit(subject, unit):
        truth = SegmentClasses.truth(subject, unit["picture"])
        return subject.stretched(unit["picture"]), int(truth[truth > 0].min()) - 1

    def measure(self, subject, unit):
        truth = self.truth(subject, unit["picture"])
        classes = [int(k) - 1 for k in np.unique(truth[truth > 0])]
        session = subject.session(*subject.size)
        session.run(subject.normalised(subject.stretched(unit["picture"])))
        fold, counts = zlib.crc32(unit["id"].encode("utf-8", "surrogateescape")) & 1, truth >= 0
        results = {}
        for method in subject.methods:
            try:
                maps = session.explain(classes=classes, method=method.name, **method.options)
            except agf.Error as problem:
                results[method.text] = {"problem": str(problem)}
                continue
            aps = {str(k): average_precision((truth == k + 1)[counts], heat[counts]) for k, heat in zip(classes, maps)}
            scaled = np.stack([heat / agf.map_scale(heat) for heat in maps])
            winner, height = np.asarray(classes)[scaled.argmax(0)] + 1, scaled.max(0)
            confusions = []
            for threshold in self.THRESHOLDS:
                found = np.where(height > threshold, winner, 0)
                pairs, number = np.unique(np.stack([truth[counts], found[counts]]), axis=1, return_counts=True)
                confusions.append([[int(t), int(f), int(n)] for (t, f), n in zip(pairs.T, number)])
            results[method.text] = {"fold": fold, "aps": aps, "confusions": confusions}
        return results

    def values(self, record):
        return {"map": float(np.mean(list(record["aps"].values())))}

    def settled(self, records):
        """Of each record the confusions at the threshold that the other half of the records chooses."""
        names = sorted({index for r in records for triples in r["confusions"] for t, f, _ in triples for index in (t, f)})
        place = {index: i for i, index in enumerate([0, *(n for n in names if n)])}
        folds = np.zeros((2, len(self.THRESHOLDS), len(place), len(place)), int)
        for record in records:
            for step, triples in enumerate(record["confusions"]):
                for t, f, n in triples:
                    folds[record["fold"], step, place[t], place[f]] += n
        chosen = []
        for fold in (0, 1):  # a half without records leaves the choice to the other
            other = folds[1 - fold] if folds[1 - fold].any() else folds[fold]
            chosen.append(int(np.argmax([class_miou(confusion) for confusion in other])))
        settled = []
        for record in records:
            confusion = np.zeros(folds.shape[2:], int)
            for t, f, n in record["confusions"][chosen[record["fold"]]]:
                confusion[place[t], place[f]] = n
            settled.append({"confusion": confusion, "aps": record["aps"]})
        return settled

    def pooled(self, records):
        confusion = sum(record["confusion"] for record in records)
        by_class = {}
        for record in records:
            for k, ap in record["aps"].items():
                by_class.setdefault(k, []).append(ap)
        return {
            "miou": class_miou(confusion),
            "pixel_accuracy": float(np.trace(confusion) / confusion.sum()),
            "map": float(np.mean([np.mean(aps) for aps in by_class.values()])),
        }

    def facts(self, settings):
        return ["explained classes: those of each picture's masks"]


def class_miou(confusion):
    """Mean intersection over union of the classes that a confusion matrix [truth, found] holds pixels of."""
    both, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return float(np.mean(both[union > 0] / union[union > 0])) if union.any() else 0.0


class SingleDelete(Experiment):
    help = "does a patch's share of the map rank as the probability that is lost without it?"
    note = (
        "The picture is divided into patches; each by itself is replaced by the blurred picture (Gaussian, 11 x 11, "
        "sigma 5), and the fall of the class's probability is compared with the map's sum over the patch: Spearman's "
        "rank correlation over the patches."
    )
    metrics = (("correlation", "rank correlation", "higher"),)

    @staticmethod
    def arguments(parser):
        parser.add_argument("--patches", type=positive, default=8, metavar="N", help="N x N patches (default 8)")

    @staticmethod
    def settings(args):
        if args.patches < 2:
            raise EvalError("--patches must be at least 2")
        return {"patches": args.patches}

    def measure(self, subject, unit):
        from scipy.stats import spearmanr

        session, n = subject.session(*subject.size), subject.settings["patches"]
        chw = subject.normalised(subject.stretched(unit["picture"]))
        session.run(chw)
        k, blurred = subject.explained_class(session, unit["picture"]), gaussian_blur(chw).astype(np.float32)
        kind = subject.settings["probability"]
        found = subject.measured(session, k, lambda _, heat: heat.astype(np.float64))
        whole = probabilities(session.logits, kind)[k]
        edges = [np.linspace(0, side, n + 1).astype(int) for side in subject.size]
        patches = [(slice(*y), slice(*x)) for y in itertools.pairwise(edges[0]) for x in itertools.pairwise(edges[1])]
        drops = []
        for patch in patches:
            without = chw.copy()
            without[:, *patch] = blurred[:, *patch]
            drops.append(whole - probabilities(session.run(without, explain=False), kind)[k])
        if min(drops) == max(drops):
            raise ValueError("no patch changes the probability")
        results = {}
        for method, heat in found.items():
            if isinstance(heat, dict):
                results[method] = heat
                continue
            sums = [float(heat[patch].sum()) for patch in patches]
            if min(sums) == max(sums):
                results[method] = {"problem": "a constant map has no rank correlation"}
            else:
                results[method] = {"correlation": float(spearmanr(sums, drops).statistic)}
        return results

    def facts(self, settings):
        facts = super().facts(settings)
        return [*facts, f"{settings['patches']}x{settings['patches']} patches", f"probability: {settings['probability']}"]


class InsertDelete(Experiment):
    help = "probability while pixels appear in a blurred picture, or vanish (RISE)"
    metrics = (
        ("insertion", "insertion AUC", "higher"),
        ("deletion", "deletion AUC", "lower"),
        ("difference", "insertion - deletion", "higher"),
    )
    note = (
        "The probability of the explained class while the pixels that the map ranks highest are put into a "
        "blurred picture (Gaussian, 11 x 11, sigma 5) or set to 0, the mean colour, a row's worth of pixels a"
        " step; area under it."
    )
    curves = ("probability of the class", "share of the pixels", "probability")

    def measure(self, subject, unit):
        session = subject.session(*subject.size)
        chw = subject.normalised(subject.stretched(unit["picture"]))
        session.run(chw)
        k = subject.explained_class(session, unit["picture"])
        blurred, empty = gaussian_blur(chw).astype(np.float32), np.zeros_like(chw)

        def curves(method, heat):
            order, found = descending(heat), {}
            for name, start, end in (("insertion", blurred, chw), ("deletion", chw, empty)):
                curve = []
                for current in revealed(start, end, order, chw.shape[2]):
                    session.run(current, explain=False)
                    curve.append(float(probabilities(session.logits, subject.settings["probability"])[k]))
                found[name] = {"auc": area_under(curve), "curve": [round(p, 5) for p in curve]}
            return found

        return subject.measured(session, k, curves)

    def values(self, record):
        insertion, deletion = record["insertion"]["auc"], record["deletion"]["auc"]
        return {"insertion": insertion, "deletion": deletion, "difference": insertion - deletion}

    def curve(self, records):
        steps = len(records[0]["insertion"]["curve"])
        x = np.linspace(0, 1, steps).tolist()
        return {name: (x, *report.mean_and_error([record[name]["curve"] for record in records])) for name in ("insertion", "deletion")}

    def facts(self, settings):
        return [*super().facts(settings), f"probability: {settings['probability']}"]


class Sanity(Experiment):
    help = "do maps change when the weights are randomised, layer by layer from the top?"
    metrics = (("correlation", "mean rank correlation", "lower"), ("all", "all layers randomised", "lower"))
    note = (
        "Spearman's rank correlation of |map| of the label's class before and after the weights of the top "
        "layers are drawn anew (normal, with the deviation of the trained ones; biases and BatchNorms stay), "
        "cumulatively from the logits down. A map that does not change does not show what the network has "
        "learned."
    )
    curves = ("rank correlation with the trained network's map", "randomised layers, from the top", "Spearman's rho")

    @staticmethod
    def arguments(parser):
        parser.add_argument(
            "--stages",
            type=int,
            default=8,
            metavar="N",
            help="how many depths of randomisation, the first layer and all layers included (default 8)",
        )

    @staticmethod
    def settings(args):
        if args.stages < 1:
            raise EvalError("--stages must be at least 1")
        return {"stages": args.stages}

    @staticmethod
    def units(subject, pictures, skipped):
        with open(subject.plan["model"], "rb") as f:
            layers = len(weight_tensors(f.read()))
        depths = sorted({round(depth) for depth in np.linspace(1, layers, min(subject.settings["stages"], layers))})
        if len(depths) == 1:
            depths = [layers]
        return [
            {"id": f"{depth} layers, {picture['file']}", "depth": depth, "picture": picture} for depth in depths for picture in pictures
        ]

    @staticmethod
    def exhibit(subject, unit):
        return subject.stretched(unit["picture"]), unit["picture"]["label"]

    def measure(self, subject, unit):
        picture = unit["picture"]
        before = subject.maps(picture["file"], picture["label"])
        session = subject.session(*subject.size, model=subject.variant(unit["depth"]))
        session.run(subject.normalised(subject.stretched(picture)))

        def correlated(method, heat):
            if before[method.text] is None:
                raise ValueError("the trained network gives no map")
            return {"depth": unit["depth"], "rho": spearman(before[method.text], heat)}

        return subject.measured(session, picture["label"], correlated)

    def values(self, record):
        return {"correlation": record["rho"]}

    def pooled(self, records):
        deepest = max(record["depth"] for record in records)
        return {"all": float(np.mean([record["rho"] for record in records if record["depth"] == deepest]))}

    def curve(self, records):
        depths = sorted({record["depth"] for record in records})
        found = [report.mean_and_error([r["rho"] for r in records if r["depth"] == depth]) for depth in depths]
        means, errors = zip(*found)
        return {"correlation": (depths, list(means), None if None in errors else list(errors))}

    def facts(self, settings):
        return ["explained class: target"]


class LabelFree(Segment):
    help = "label-free maps, of what sets a picture apart from its nearest neighbours: on the objects, on the odd one?"
    note = (
        "Each picture is compared with its nearest neighbours in a bank, or with the picture in the CSV's column --pair, by "
        "the label-free procedure. Options of agf and agf_a: neighbours=K, from the mean of the K nearest; shared, what it "
        "shares with them instead; cosine, the nearest by the angle between latent vectors; own, the ordinary seed, of the "
        "picture's own latent vector, for the class that the difference chose. Methods that take no difference (gradcam, "
        "lrp_a1b0 ...) explain that class. activation_norm is the norm over the channels of the tensor before the last "
        "pooling, enlarged. Foreground, pixel accuracy, mIoU, average precision and energy as in segment. In odd-object, "
        "evidence is what part of the positive evidence on the objects of --objects-column lies in the mask; chance is the "
        "mask's part of their area."
    )
    options = ("neighbours", "shared", "cosine", "own")

    @staticmethod
    def arguments(parser):
        Segment.arguments(parser)
        parser.add_argument("--bank", metavar="FILE", help="a bank that `agf bank` made")
        parser.add_argument("--pair", metavar="NAME", help="the CSV's column that names the picture to compare with, instead of a bank")
        parser.add_argument("--objects-column", metavar="NAME", help="the CSV's column of the masks of all objects")
        parser.add_argument("--trunk", metavar="NET.agf", help="for -m activation_norm: the network up to its last pooling")

    @staticmethod
    def settings(args):
        if bool(args.bank) == bool(args.pair):
            raise EvalError("label-free needs either --bank or --pair")
        files_named = {name: checksum(getattr(args, name)) for name in ("bank", "trunk") if getattr(args, name)}
        paths = {f"{name}_file": os.path.abspath(getattr(args, name)) for name in files_named}
        return {**Segment.settings(args), "pair": args.pair, "objects_column": args.objects_column, **files_named, **paths}

    @staticmethod
    def pictures(args, model):
        """As list_pictures(), without labels, which the network does not have; with --pair's and --objects-column's."""
        table = args.labels or os.path.join(args.pictures, "labels.csv")
        if not os.path.isfile(table):
            raise EvalError(f"{args.pictures}: label-free needs a CSV that names masks: give --labels")
        wanted = {"mask": args.mask_column, "pair": args.pair, "all_objects": args.objects_column}
        rows, pictures = rows_of_csv(table), []
        for column in filter(None, wanted.values()):
            if rows and column not in rows[0]:
                raise EvalError(f"{table}: there is no column {column}")
        for row in rows[: args.limit]:
            pictures.append({"file": row["file"], **{key: row[column] for key, column in wanted.items() if column}})
        return each_once(pictures, table)

    @staticmethod
    def bank_of(subject):
        """The bank, read once for a process."""
        if not hasattr(subject, "bank"):
            subject.bank = subject.model.bank(subject.settings["bank_file"])
        return subject.bank

    @staticmethod
    def comparison(subject, session, picture, options):
        """(the difference that is explained, the class that it chooses) of the picture that was run last."""
        latent = session.latent()
        if picture.get("pair"):
            with subject.model.session(height=subject.size[0], width=subject.size[1], threads=1) as other:
                other.run(subject.normalised(subject.stretched({"file": picture["pair"]})), explain=False)
                bank = agf.Bank([picture["pair"]], other.latent()[None], subject.model.checksum, subject.size)
        else:
            bank = LabelFree.bank_of(subject)
        k, searched, sought = options.get("neighbours", 1), bank, latent
        if options.get("cosine"):
            unit = bank.latents / np.maximum(np.linalg.norm(bank.latents, axis=1, keepdims=True), 1e-12)
            searched = agf.Bank(bank.names, unit, bank.checksum, bank.input_size)
            sought = latent / np.maximum(np.linalg.norm(latent), np.float32(1e-12))
        # The picture itself, whose input may differ in a last bit here, is known by its name.
        own = os.path.basename(picture["file"])
        places = searched.nearest(sought, min(k + 1, len(bank)))[0]
        places = [at for at in places if at >= 0 and bank.names[at] != own][:k]
        if not len(places):
            raise ValueError("the bank holds no other picture")
        difference = bank.compare(latent, places, bool(options.get("shared")))
        session.explain(difference=difference, method="agf_a")
        return difference, session.explained[0]

    @staticmethod
    def label_free_map(subject, session, picture, method):
        """The method's map of the picture that was run last."""
        if method.name == ACTIVATION_NORM:
            if not hasattr(subject, "trunk"):
                subject.trunk = agf.Model(subject.settings["trunk_file"])
            trunk = subject.session(*subject.size, model=subject.trunk)
            trunk.run(subject.normalised(subject.stretched(picture)), explain=False)
            channels = subject.trunk.classes
            side = math.isqrt(len(trunk.latent()) // channels)
            norm = np.sqrt((trunk.latent().astype(np.float64).reshape(channels, side, -1) ** 2).sum(0))
            return np.asarray(Image.fromarray(norm.astype(np.float32)).resize(subject.size[::-1], Image.BILINEAR))
        options = {key: value for key, value in method.options.items() if key not in LabelFree.options}
        difference, chosen = LabelFree.comparison(subject, session, picture, method.options)
        if agf.engine.method_has(method.name, "takes_difference") and not method.options.get("own"):
            return session.explain(classes=chosen, difference=difference, method=method.name, **options)[0]
        return session.explain(classes=chosen, method=method.name, **options)[0]

    @staticmethod
    def exhibit(subject, unit):
        return subject.stretched(unit["picture"]), 0

    @staticmethod
    def shown(subject, session, unit, k):
        found = []
        for method in subject.methods:
            try:
                found.append((method, LabelFree.label_free_map(subject, session, unit["picture"], method), None))
            except (agf.Error, ValueError) as problem:
                found.append((method, None, str(problem)))
        return found

    def measure(self, subject, unit):
        picture = unit["picture"]
        mask = subject.mask(picture)
        objects = subject.mask({"mask": picture["all_objects"]}) if picture.get("all_objects") else None
        results = {}
        for method in subject.methods:
            session = subject.session(*subject.size)
            session.run(subject.normalised(subject.stretched(picture)))
            try:
                heat = self.label_free_map(subject, session, picture, method)
                threshold = float(heat.astype(np.float64).mean()) if method.centred else 0.0
                results[method.text] = {
                    "counts": overlap(mask, heat > threshold),
                    "ap": average_precision(mask, heat),
                    "energy": energy_inside(mask, heat),
                }
                if objects is not None:
                    evidence = np.where(objects | mask, heat, 0)
                    results[method.text]["share"] = energy_inside(mask, evidence)
                    results[method.text]["chance"] = float(mask.sum() / (objects | mask).sum())
            except (agf.Error, ValueError) as problem:
                results[method.text] = {"problem": str(problem)}
        return results

    def values(self, record):
        return {**super().values(record), **{key: record[key] for key in ("share", "chance") if key in record}}

    def facts(self, settings):
        return ["compared with " + (f"the picture in the column {settings['pair']}" if settings["pair"] else "a bank")]


class OddObject(LabelFree):
    help = "label-free maps of pairs of scenes that share all objects but one: is the evidence on that one?"
    metrics = (
        ("share", "evidence on the odd object", "higher"),
        ("chance", "its share of the objects", ""),
        *LabelFree.metrics[2:],
    )

    @staticmethod
    def settings(args):
        if not args.objects_column:
            raise EvalError("odd-object needs --objects-column")
        return LabelFree.settings(args)

    def pooled(self, records):
        return {}


class Speed(Experiment):
    help = "milliseconds"
    metrics = (
        ("total", "picture to map, ms", "lower"),
        ("forward", "forward pass, ms", "lower"),
        ("map", "map, ms", "lower"),
    )
    note = (
        "Forward pass and map of one class, the fastest of several rounds on each picture, then the median "
        "over pictures (a mean's standard error does not apply). Methods that run the network again do so "
        "within the map's time."
    )

    @staticmethod
    def arguments(parser):
        parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds on each picture (default 3)")

    @staticmethod
    def settings(args):
        if args.rounds < 1:
            raise EvalError("--rounds must be at least 1")
        return {"rounds": args.rounds}

    def measure(self, subject, unit):
        session = subject.session(*subject.size)
        chw = subject.normalised(subject.stretched(unit["picture"]))
        results = {}
        for method in subject.methods:
            rounds = []
            try:
                for _ in range(subject.settings["rounds"]):
                    start = time.perf_counter()
                    session.run(chw, explain=method.name.startswith("agf"))
                    ran = time.perf_counter()
                    session.explain(method=method.name, **method.options)
                    rounds.append((time.perf_counter() - start, ran - start))
                total, forward = min(rounds)
                results[method.text] = {"total": 1e3 * total, "forward": 1e3 * forward, "map": 1e3 * (total - forward)}
            except agf.Error as problem:
                results[method.text] = {"problem": str(problem)}
        return results

    def pooled(self, records):
        return {key: float(np.median([record[key] for record in records])) for key, _, _ in self.metrics}


EXPERIMENTS = {
    "perturb": Perturb,
    "segment": Segment,
    "segment-classes": SegmentClasses,
    "grid": Grid,
    "insert-delete": InsertDelete,
    "single-delete": SingleDelete,
    "sanity": Sanity,
    "label-free": LabelFree,
    "odd-object": OddObject,
    "speed": Speed,
}


# A run: the plan, records that survive being killed, and where the work is done


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


def make_plan(args):
    """What a worker needs, as a plain dict: paths, and settings, which decide about the numbers; and the pictures."""
    experiment = EXPERIMENTS[args.experiment]
    names = []
    for text in args.method or ["agf"]:
        names += [name for name in agf.METHODS if name not in names] if text == "all" else [text]
    if len(set(names)) < len(names):
        raise EvalError("a method is named twice")
    if args.sheet < 0:
        raise EvalError(f"--sheet {args.sheet} is negative")
    if not 0 <= args.seed < 2**32:
        raise EvalError(f"--seed must be between 0 and {2**32 - 1}")
    plan = {
        "model": os.path.abspath(args.model),
        "folder": os.path.abspath(args.pictures),
        "tools": TOOLS,
        "masks": os.path.abspath(args.masks) if getattr(args, "masks", None) else "",
        "threads": args.threads,
        "isa": args.isa,
    }
    with agf.Model(args.model) as model:
        size = list(args.size or (model.input.height, model.input.width))
        pictures = experiment.pictures(args, model)
    plan["settings"] = {
        "experiment": args.experiment,
        "model": checksum(args.model),
        "size": size,
        "methods": [Method.parse(name).text for name in names],
        "explain": args.explain,
        "probability": args.probability,
        "seed": args.seed,
        **experiment.settings(args),
        "engine": agf.version(),
        "pictures": hashlib.sha256(json.dumps(pictures).encode()).hexdigest()[:16],
    }
    plan["contents"] = contents_of(pictures, plan)
    return plan, pictures


def read_plan(path):
    """A run.json; EvalError if it is damaged."""
    try:
        with open(path, "rb") as f:
            plan = json.load(f)
        if not isinstance(plan, dict):
            raise ValueError("no object")
        for key, kind in (("settings", dict), ("contents", dict), ("units", list), ("left_out", list)):
            if not isinstance(plan[key], kind):
                raise ValueError(f"{key} is no {kind.__name__}")
        EXPERIMENTS[plan["settings"]["experiment"]]
        if not all(isinstance(unit["id"], str) for unit in plan["units"]):
            raise ValueError("a unit without a name")
    except (ValueError, KeyError, TypeError) as problem:
        raise EvalError(f"{path} is damaged ({reason(problem)}): delete the folder or choose another one") from None
    return plan


def other_settings(begun, plan):
    """The names of the settings in which two plans differ."""
    names = sorted({**begun["settings"], **plan["settings"]})
    return [name for name in names if begun["settings"].get(name) != plan["settings"].get(name)]


def prepare(args):
    """The plan with its units, from OUT/run.json where a run was begun there; EvalError if that had other settings."""
    plan, pictures = make_plan(args)
    path = os.path.join(args.out, "run.json")
    os.makedirs(args.out, exist_ok=True)
    if os.path.exists(path):
        begun = read_plan(path)
        differing = other_settings(begun, plan)
        if differing:
            raise EvalError(f"{args.out} holds a run with other settings ({', '.join(differing)}): choose another folder or delete it")
        changed = [name for name, content in plan["contents"].items() if begun["contents"].get(name) != content]
        # A picture that could not be used may have been repaired; what was measured must be as it was.
        bad = {name for name in changed if begun["contents"].get(name) == "-"}
        bad |= failed_files(args.out, begun)
        measured = [name for name in changed if name not in bad]
        if measured:
            raise EvalError(
                f"{args.out} holds a run over other contents ({len(measured)} changed, such as {measured[0]}): choose "
                "another folder or delete it"
            )
        plan = {**begun, **plan}
        if changed:
            write_file(path, json.dumps(plan, indent=1))
        return plan
    left_out = []

    def skipped(name, why):
        left_out.append(f"{name}: {why}")
        say(f"skipped {name}: {why}")

    subject = Subject(plan)
    plan["units"] = EXPERIMENTS[args.experiment].units(subject, pictures, skipped)
    plan["left_out"] = left_out
    write_file(path, json.dumps(plan, indent=1))
    return plan


def failed_files(folder, plan):
    """The files (keys of plan["contents"]) of the units that failed in a folder's records so far."""
    records, failed = {}, set()
    for name in record_files(folder):
        records.update(read_records(os.path.join(folder, name)))
    for unit in plan["units"]:
        if "_problem" in records.get(unit["id"], {}):
            for picture in unit.get("pictures", [unit.get("picture")]):
                failed |= {picture["file"], *("mask " + name for name in masks_of(picture))}
    return failed


def progress(items, title, total=None, done=0):
    """A progress bar with the time left; silent where stderr is not a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=title, total=total if total is not None else len(items), initial=done, disable=None)


def record_files(folder):
    """The names of the records in a folder."""
    return sorted(name for name in os.listdir(folder) if re.fullmatch(r"records.*\.jsonl", name))


def read_records(path):
    """{unit: result} of a records*.jsonl; of a unit that was tried again the last one. EvalError if it is damaged.

    A last line without an end is what a killed run leaves, and no record.
    """
    records = {}
    with open(path, "rb") as f:
        data = f.read()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record["unit"], str) or not isinstance(record["result"], dict):
                raise ValueError("no record")
        except (ValueError, KeyError, TypeError) as problem:
            raise EvalError(f"{path}, line {number}, is damaged ({reason(problem)}): delete the line to have it measured again") from None
        records[record["unit"]] = record["result"]
    return records


class Records:
    """A records*.jsonl, a line for each finished unit, written at once: a killed run leaves at most half a line."""

    def __init__(self, path):
        self.path, self.records = path, {}
        if os.path.exists(path):
            self.records = read_records(path)
            with open(path, "r+b") as f:
                f.truncate(f.read().rfind(b"\n") + 1)
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def add(self, unit, result):
        os.write(self.file, (json.dumps({"unit": unit, "result": result}) + "\n").encode())
        self.records[unit] = result

    def close(self):
        os.close(self.file)


def attempt(subject, unit):
    """The unit's record, or {"_problem": why} if its picture cannot be used."""
    experiment = EXPERIMENTS[subject.settings["experiment"]]()
    problem = unit.get("picture", {}).get("problem")
    if problem:
        return {"_problem": problem}
    try:
        return experiment.measure(subject, unit)
    except Exception as found:  # whatever is wrong with one picture ends that one
        return {"_problem": reason(found)}


kept = threading.local()


def subject_of(text):
    """The Subject of a plan (as JSON); a worker's thread keeps its own between pictures."""
    if getattr(kept, "text", None) != text:
        kept.text, kept.subject = text, Subject(json.loads(text))
    return kept.subject


def measure_remotely(text, unit):
    """attempt() on a Dask worker."""
    return attempt(subject_of(text), unit)


def work_here(plan, units):
    """(unit, record) for each unit, in this process."""
    subject = Subject(plan)
    for unit in units:
        yield unit, attempt(subject, unit)


def work_on_dask(plan, units, address):
    """(unit, record) for each unit as it is finished on a Dask cluster. A dead worker's units move to the others."""
    from dask.distributed import Client, as_completed

    tools = plan["tools"]

    def measure(text, unit):  # a nested function travels by value: the worker need not have this module on its path
        import sys

        if tools not in sys.path:
            sys.path.insert(0, tools)
        import agf_eval

        return agf_eval.measure_remotely(text, unit)

    with Client(address) as client:
        text = json.dumps({key: plan[key] for key in plan if key not in ("units", "contents")})
        by_key = {}
        for number, unit in enumerate(units):
            # Records do not depend on the worker, but a cached one would hide a failure: the key is this run's own.
            future = client.submit(measure, text, unit, key=f"agf-{os.getpid()}-{time.time_ns()}-{number}", retries=3)
            by_key[future.key] = (unit, future)
        for future in as_completed([future for _, future in by_key.values()]):
            unit, _ = by_key.pop(future.key)
            yield unit, future.result()


def check_outputs(args, *inputs):
    """EvalError or OutputError, before anything is measured, where results have no place or would replace inputs."""
    if args.into:
        files.check(args.into, [name for name in inputs if name])
        section_file(args.into)
    for folder in inputs:
        if folder and os.path.isdir(folder) and os.path.isdir(args.out) and os.path.samefile(folder, args.out):
            raise EvalError(f"{args.out} holds what is judged: choose another folder for results")


def run(args):
    check_outputs(args, args.model, args.pictures, args.labels, getattr(args, "masks", None))
    plan = prepare(args)
    units, name = plan["units"], "records.jsonl"
    if args.shard:
        i, n = args.shard
        units, name = units[i - 1 :: n], f"records.{i}-of-{n}.jsonl"
    records = Records(os.path.join(args.out, name))
    waiting = [unit for unit in units if "_problem" in records.records.get(unit["id"], {"_problem": ""})]
    source = work_on_dask(plan, waiting, args.dask) if args.dask else work_here(plan, waiting)
    bar = progress(source, args.experiment, len(units), len(units) - len(waiting))
    for unit, record in bar:
        records.add(unit["id"], record)
        if "_problem" in record:
            bar.write(agf.printable(f"agf_eval.py: skipped {unit['id']}: {record['_problem']}"), file=sys.stderr)
    records.close()
    if args.shard:
        print(
            f"shard {args.shard[0]} of {args.shard[1]} is complete; agf_eval.py merge {shlex.quote(args.out)} -o "
            f"{shlex.quote(args.out)} makes the results when all are"
        )
        return 0
    return finish(plan, records.records, args)


def merge(args):
    """Results of shards, which may lie in one folder or in several."""
    check_outputs(args)
    plan, records = None, {}
    for folder in args.outs:
        path = os.path.join(folder, "run.json")
        if not os.path.isfile(path):
            raise EvalError(f"{folder}: not a folder that agf_eval.py has written")
        found = read_plan(path)
        if plan and any(found[key] != plan[key] for key in ("settings", "contents", "units")):
            raise EvalError(f"{folder} and {args.outs[0]} are different experiments")
        plan = plan or found
        for name in record_files(folder):
            records.update(read_records(os.path.join(folder, name)))
    missing = [unit["id"] for unit in plan["units"] if unit["id"] not in records]
    if missing:
        raise EvalError(f"{len(missing)} of {len(plan['units'])} units are missing, such as {missing[0]}: finish the shards first")
    os.makedirs(args.out, exist_ok=True)
    return finish(plan, records, args)


# Results


def class_name(subject, k):
    """A class for a figure's caption: the label's first name, or its number."""
    label = subject.model.labels[k] if subject.model.labels else ""
    return label.split(",")[0][:24] or f"class {k}"


def plot_sheet(plan, records, count):
    """The first pictures, with label and prediction, and every method's map over them in gray; the bytes of a PNG."""
    subject = Subject(plan)
    experiment = EXPERIMENTS[plan["settings"]["experiment"]]
    shown = {}
    for unit in plan["units"]:  # a picture comes again for every depth of Sanity
        if len(shown) < count and "_problem" not in records[unit["id"]]:
            shown.setdefault(unit.get("picture", unit).get("file", unit["id"]), unit)
    columns = 1 + len(subject.methods)
    figure, axes = report.pyplot().subplots(len(shown), columns, squeeze=False, figsize=(1.6 * columns, 2.1 * len(shown)))
    for axis_row, unit in zip(axes, shown.values()):
        for axis in axis_row:
            axis.axis("off")
        try:
            pixels, k = experiment.exhibit(subject, unit)
        except Exception as problem:  # it was there when it was measured
            axis_row[0].text(0, 0.5, report.plain(textwrap.fill(reason(problem), 24)), fontsize=6)
            continue
        gray = Image.fromarray(pixels).convert("L").convert("RGBA")
        session = subject.session(*pixels.shape[:2])
        p = probabilities(session.run(subject.normalised(pixels)), subject.settings["probability"])
        predicted = session.ranked(0)
        lines = [f"predicted {class_name(subject, predicted)} ({p[predicted]:.0%})", f"maps: {class_name(subject, k)}"]
        if isinstance(experiment, LabelFree):
            lines = [unit["picture"]["file"]]
        elif "picture" in unit:
            k = unit["picture"].get("label")
            lines.insert(0, f"label {class_name(subject, k)}" if k is not None else unit["picture"]["file"])
        axis_row[0].imshow(pixels)
        axis_row[0].set_title("\n".join(report.plain(line) for line in lines), fontsize=6)
        for axis, (method, heat, problem) in zip(axis_row[1:], experiment.shown(subject, session, unit, k)):
            axis.set_title(report.plain(textwrap.fill(method.text.replace(":", ": "), 16)), fontsize=6)
            if problem is None:
                layer = Image.fromarray(subject.model.render(heat, transparent=True))
                axis.imshow(Image.alpha_composite(gray, layer))
            else:
                axis.text(0.5, 0.5, "no map", ha="center", va="center", fontsize=8)
    return report.save_figure(figure)


def section_file(path):
    """The text of a file that a section is to go into; "" if there is none. EvalError if it is no text."""
    if not os.path.isfile(path):
        return ""
    try:
        with open(path, encoding="utf-8", newline="") as f:
            return f.read()
    except UnicodeDecodeError:
        raise EvalError(f"{path}: not UTF-8 text; a report cannot go into it") from None


def put_section(path, section, inputs=()):
    """Put a Markdown section, which begins with a `## ` heading, into a file: in place of its namesake, or last."""
    text = section_file(path)
    write_file(path, report.with_section(text, section), inputs)


def finish(plan, records, args):
    """Write every result; the exit code: 1 if nothing could be measured."""
    experiment, settings = EXPERIMENTS[plan["settings"]["experiment"]](), plan["settings"]
    rows, single, curves, problems = report.tabulate(experiment, plan, records)
    compared = report.differences(experiment, plan, records)
    out = functools.partial(os.path.join, args.out)
    found = {"settings": settings, "results": rows, "differences": compared, "curves": curves, "problems": problems}
    write_file(out("results.json"), json.dumps(found, indent=1) + "\n")
    write_file(out("results.csv"), report.csv_text(rows, ["method", "metric", "value", "error", "units"]))
    write_file(out("pictures.csv"), report.csv_text(single, ["unit", "method", "metric", "value"]))
    if not rows:
        say(f"error: nothing could be measured; the first problem: {(problems or ['no units'])[0]}")
        return 1
    pictures = {"bars.png": report.plot_bars(experiment.metrics_of(settings), rows, settings["methods"])}
    if curves:
        pictures["curves.png"] = report.plot_curves(experiment, curves, settings["methods"])
    if args.sheet and os.path.isfile(plan["model"]) and os.path.isdir(plan["folder"]):
        pictures["sheet.png"] = plot_sheet(plan, records, args.sheet)
    for name, data in pictures.items():
        write_file(out(name), data)
    title = agf.printable(args.title or f"{settings['experiment']}: {os.path.basename(plan['model'])}")
    parts = (experiment, plan, rows, compared, problems, title, args.command)
    text = report.markdown(*parts, pictures)
    write_file(out("report.md"), f"<!-- {platform.platform()} -->\n{text}")
    write_file(out("report.html"), report.html_page(*parts, pictures))
    if args.into:
        put_section(args.into, report.markdown(*parts), [plan["model"]])
    print(text)
    print(f"wrote {agf.printable(out('report.html'))}")
    return 0


# The command line


def fraction(text):
    """ "i/n" with 1 <= i <= n."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found.group(1)) <= int(found.group(2)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N")
    return int(found.group(1)), int(found.group(2))


def picture_size(text):
    """ "WxH" as (height, width)."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or not int(found.group(1)) * int(found.group(2)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(found.group(2)), int(found.group(1))


def positive(text):
    if not re.fullmatch(r"\d+", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def command_line():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("-o", "--out", required=True, metavar="OUT", help="the folder for results")
    output.add_argument("--sheet", type=int, default=6, metavar="N", help="pictures on the contact sheet (default 6; 0: none)")
    output.add_argument("--title", help="the report's heading")
    output.add_argument(
        "--into",
        metavar="FILE.md",
        help="also put the report into this file, in place of the section with the same title",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("model", metavar="NET.agf")
    common.add_argument("pictures", metavar="PICTURES", help="folder")
    common.add_argument("-m", "--method", action="append", metavar="NAME[:OPTIONS]", help="may be repeated (default agf)")
    common.add_argument("--labels", metavar="FILE.csv", help="columns file, label")
    common.add_argument(
        "--explain",
        default="predicted",
        metavar="WHICH",
        help="explain the predicted class (default), the target, or the class in this column of the CSV",
    )
    common.add_argument(
        "--probability",
        choices=("softmax", "sigmoid"),
        default="softmax",
        help="how the network's logits become probabilities (default softmax)",
    )
    common.add_argument("--limit", type=positive, metavar="N", help="only the first N pictures")
    common.add_argument("--size", type=picture_size, metavar="WxH", help="input size (default: the network's)")
    common.add_argument("--seed", type=int, default=0, help="of grids and random weights (default 0)")
    common.add_argument("--threads", type=int, default=0, help="of each process (default: all cores)")
    common.add_argument("--isa", help="instruction set (default: the best)")
    common.add_argument("--shard", type=fraction, metavar="I/N", help="do the I-th of N parts; then merge")
    common.add_argument("--dask", metavar="ADDRESS", help="spread the pictures over a Dask cluster")
    for name, experiment in EXPERIMENTS.items():
        own = commands.add_parser(name, parents=[common, output], help=experiment.help, description=experiment.note)
        experiment.arguments(own)
    own = commands.add_parser("merge", parents=[output], help="put the shards of one experiment together")
    own.add_argument("outs", nargs="+", metavar="OUT")
    return parser


def main(argv=None):
    args = command_line().parse_args(argv)
    args.command = shlex.join(["tools/agf_eval.py"] + (sys.argv[1:] if argv is None else list(argv)))
    try:
        return merge(args) if args.experiment == "merge" else run(args)
    except BrokenPipeError:  # the reader of the report has seen enough; everything is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (EvalError, files.OutputError, agf.Error, OSError) as problem:
        say(f"error: {reason(problem)}")
    except ImportError as problem:
        say(f"error: needs the Python package {problem.name}")
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
