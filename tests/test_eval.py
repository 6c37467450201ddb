#!/usr/bin/env python3
"""The battery, tools/agf_eval: metrics against cases that can be done by hand, and whole runs on the demo network.

    python3 tests/test_eval.py [-k TEXT]

Whole runs use tests/demo/demo.agf (or $AGF_DEMO) and scenes that tools/train_demo.py draws. Needs what agf_eval.py
needs.
"""

import contextlib
import csv
import functools
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

from harness import ROOT, Skip, check, missing_library, needs, run_tests

needs("matplotlib", "numpy", "PIL.Image", "scipy", "sklearn", "tqdm")
import numpy as np  # noqa: E402
import scipy.ndimage  # noqa: E402
import scipy.stats  # noqa: E402
import sklearn.metrics  # noqa: E402
from PIL import Image  # noqa: E402

TOOLS = os.path.join(ROOT, "tools")
sys.path.insert(0, TOOLS)
import agf  # noqa: E402
from agf_eval import cli, common, experiments, masks, metrics, pictures, report, results, runs, subject, summary, weights  # noqa: E402
from agf_convert import format as layout  # noqa: E402

DEMO = os.environ.get("AGF_DEMO", os.path.join(ROOT, "tests", "demo", "demo.agf"))
SCENES = 12
EVAL = [sys.executable, os.path.join(TOOLS, "agf_eval.py")]


@functools.lru_cache(1)
def scenes():
    """A folder with SCENES labelled scenes and their masks, drawn once."""
    if not os.path.isfile(DEMO):
        raise Skip(f"{os.path.relpath(DEMO, ROOT)} is not there")
    folder = tempfile.mkdtemp(prefix="agf_eval_")
    command = [
        sys.executable,
        os.path.join(TOOLS, "train_demo.py"),
        "--scenes",
        str(SCENES),
        "--objects",
        "2",
        "--out",
        folder,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def evaluate(*args, code=0):
    """Run agf_eval.py to its end; its result, after checking the exit code. In this process: starting one, and loading
    matplotlib and scikit-learn, takes longer than most of these runs."""
    command = [str(a) for a in args]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(command)
        except SystemExit as end:  # argparse's
            status = end.code or 0
        except Exception:
            traceback.print_exc()
            status = 1
    done = subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())
    check(done.returncode == code, f"exit code {done.returncode}, expected {code}: {done.stderr[-600:]}")
    check("Traceback" not in done.stderr, done.stderr[-600:])
    return done


def results_of(folder):
    with open(os.path.join(folder, "results.json"), "rb") as f:
        return f.read()


def value(folder, method, metric):
    rows = json.loads(results_of(folder))["results"]
    return next(row["value"] for row in rows if (row["method"], row["metric"]) == (method, metric))


def raises(kind, call, text):
    try:
        call()
    except kind as problem:
        check(text in str(problem), f"{text!r} is not in {str(problem)!r}")
        return
    raise AssertionError(f"no {kind.__name__} was raised")


# Metrics


def test_order_of_pixels():
    heat = np.array([[0.0, 2.0, -1.0], [2.0, -0.0, 5.0]], np.float32)
    check(metrics.descending(heat).tolist() == [5, 1, 3, 0, 4, 2], "highest first, of ties the lower index")
    check(metrics.descending(-heat).tolist() == [2, 0, 4, 1, 3, 5], "lowest first, of ties the lower index")


def test_perturbation():
    pixels = np.full((3, 5, 3), 7, np.uint8)
    order = np.arange(15)[::-1]
    for tenths, gone in ((0, 0), (1, 1), (3, 4), (7, 10), (9, 13)):  # int(15 * s)
        black = metrics.perturbed(pixels, order, tenths)
        expected = np.full(15, True)
        expected[15 - gone :] = False
        check(np.array_equal(black.any(2).ravel(), expected), f"{tenths} tenths of 15 pixels")
        check((black[black.any(2)] == 7).all() and (pixels == 7).all(), "the others stay")
    # Trapezoids of width 0.1: a constant 1 covers 0.9; a step down after the first point half a trapezoid.
    check(abs(metrics.perturbation_auc(np.ones(10)) - 90) < 1e-9, "constant accuracy")
    check(abs(metrics.perturbation_auc([1] + [0] * 9) - 5) < 1e-9, "a step")
    line = np.linspace(0.9, 0.0, 10)
    check(abs(metrics.perturbation_auc(line) - 100 * np.trapezoid(line, dx=0.1)) < 1e-9, "NumPy's trapezoids")


def test_segmentation_metrics():
    mask = np.array([[True, True], [False, False]])
    foreground = np.array([[True, False], [True, False]])
    check(metrics.overlap(mask, foreground) == [1, 1, 1, 1], "one pixel of each kind")
    check(metrics.pixel_accuracy([3, 1, 2, 4]) == 0.7, "7 of 10")
    check(abs(metrics.mean_iou([3, 1, 2, 4]) - (3 / 6 + 4 / 7) / 2) < 1e-12, "IoU of both classes")
    check(metrics.mean_iou([0, 0, 0, 10]) == 0.5, "foreground that nobody has")
    # Ranked 1, 0, 1, 0: precision 1 at recall 1/2, precision 2/3 at recall 1.
    ap = metrics.average_precision(np.array([[True, False], [True, False]]), np.array([[0.9, 0.8], [0.7, 0.1]]))
    check(abs(ap - (0.5 * 1 + 0.5 * 2 / 3)) < 1e-12, f"average precision {ap}")
    check(metrics.energy_inside(mask, np.array([[3.0, 1.0], [4.0, -9.0]])) == 0.5, "half of the positive part is inside")
    raises(ValueError, lambda: metrics.energy_inside(mask, -np.ones((2, 2))), "positive")
    # Truth in rows: 3 of 4 and 1 of 2 right, a class that only was found has an empty overlap.
    confusion = np.array([[3, 1, 0], [0, 1, 1], [0, 0, 0]])
    check(abs(metrics.class_miou(confusion) - (3 / 4 + 1 / 3 + 0) / 3) < 1e-12, "mIoU over classes")
    # A constant map ranks nothing: the precision is the foreground's share.
    check(abs(metrics.average_precision(mask, np.zeros((2, 2))) - 0.5) < 1e-12, "a constant map")


def test_grid_share():
    heat = np.array([[1, 2, -9, 0], [3, 0, 4, -1], [0, 0, 5, 5], [0, 0, 0, 0]], np.float32)
    # Positive parts of the cells: 6, 4, 0, 10.
    check([metrics.share_in_cell(heat, 2, cell) for cell in range(4)] == [0.3, 0.2, 0.0, 0.5], "shares")
    check(metrics.share_in_cell(-np.ones((4, 4), np.float32), 2, 0) == 0.0, "nothing positive")
    check(metrics.share_in_cell(np.eye(9, dtype=np.float32), 3, 4) == 3 / 9, "3 x 3")


def test_insertion_and_deletion():
    rng = np.random.RandomState(3)
    picture = rng.rand(3, 20, 24)
    blurred = metrics.gaussian_blur(picture)
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 5.0) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    for got, channel in zip(blurred, picture):
        expected = scipy.ndimage.convolve(channel, kernel, mode="constant")
        check(np.abs(got - expected).max() <= 1e-12, "a convolution with the 11 x 11 Gaussian")  # doubles of order 1
    start, end, order = np.zeros((1, 2, 3)), np.arange(1.0, 7.0).reshape(1, 2, 3), np.array([4, 0, 2, 1, 3, 5])
    steps = [step.copy() for step in metrics.revealed(start, end, order, 2)]
    check(
        [step.ravel().tolist() for step in steps] == [[0] * 6, [1, 0, 3, 0, 5, 0], [1, 2, 3, 4, 5, 6]], "half of the pixels a step"
    )
    check(not start.any(), "the start is left alone")
    check(metrics.area_under([0, 1, 1]) == 0.75 and metrics.area_under([1, 1]) == 1.0, "areas")


def test_imputation():
    """Missing pixels are what a dense linear system, written out by hand, says; known ones stay."""
    rng = np.random.RandomState(5)
    pixels = rng.randint(60, 190, (5, 6, 3)).astype(np.uint8)  # far from the ends, where noise would be clipped
    missing = rng.rand(5, 6) < 0.5
    missing[0, 0] = missing[4, 5] = True
    system, known = np.eye(30), np.zeros((30, 3))
    for y in range(5):
        for x in range(6):
            if not missing[y, x]:
                known[y * 6 + x] = pixels[y, x]
                continue
            weights = {
                (v, u): 1 / 6 if v == y or u == x else 1 / 12
                for v in range(max(y - 1, 0), min(y + 2, 5))
                for u in range(max(x - 1, 0), min(x + 2, 6))
                if (v, u) != (y, x)
            }
            for (v, u), weight in weights.items():
                system[y * 6 + x, v * 6 + u] = -weight / sum(weights.values())
    expected = np.linalg.solve(system, known).reshape(5, 6, 3)
    expected[missing] += np.random.RandomState(7).normal(0, 2.55, (missing.sum(), 3))
    got = metrics.imputed(pixels, missing, 7)
    check(np.abs(got - expected).max() <= 0.5 + 1e-9, "rounded to 8 bits")  # doubles of order 100
    check(np.array_equal(got[~missing], pixels[~missing]), "known pixels stay")
    check(np.array_equal(metrics.imputed(pixels, np.zeros((5, 6), bool), 7), pixels), "nothing missing")


def test_probabilities():
    z = np.array([1000.0, 1000.0, -1000.0], np.float32)
    check(metrics.probabilities(z, "softmax").tolist() == [0.5, 0.5, 0.0], "softmax of large logits")
    check(metrics.probabilities(z, "sigmoid").tolist() == [1.0, 1.0, 0.0], "sigmoid of large logits")
    check(abs(metrics.probabilities(np.float32([0.5]), "sigmoid")[0] - 1 / (1 + np.exp(-0.5))) < 1e-15, "sigmoid")


def test_rank_correlation():
    rng = np.random.RandomState(4)
    a, b = rng.randn(2, 9, 7)
    b[0] = b[1]  # ties
    expected = scipy.stats.spearmanr(np.abs(a).ravel(), np.abs(b).ravel())[0]
    check(abs(metrics.spearman(a, b) - expected) <= 1e-12, "SciPy's")
    check(abs(metrics.spearman(a, -2 * a) - 1) <= 1e-12, "of magnitudes")
    raises(ValueError, lambda: metrics.spearman(a, np.ones((9, 7))), "constant")


def test_randomised_weights():
    for case in ("vgg_tiny", "grouped_dilated", "resnet_bottleneck"):
        path = os.path.join(ROOT, "tests", "golden", case, case + ".agf")
        with open(path, "rb") as f:
            data = f.read()
        layers = weights.weight_tensors(data)
        with agf.Model(path) as model:
            # These cases have no layer that the logits do not depend on.
            check(len(layers) == sum(layer.op in ("conv", "linear") for layer in model.layers()), f"{case}: layers")
            input_shape, last = model.input[:3], model.layers()[-1].name
        check(weights.randomised(data, 0, 1) == data, "no layers: the same file")
        previous, x = None, np.random.RandomState(0).randn(*input_shape)
        logits = []
        for depth in (1, 2, len(layers)):
            new = weights.randomised(data, depth, 1)
            check(new == weights.randomised(data, depth, 1) and len(new) == len(data), "the same seed, the same file")
            check(new != weights.randomised(data, depth, 2), "another seed, another file")
            with open("random.agf", "wb") as f:
                f.write(new)
            with agf.Model("random.agf") as model, model.session(threads=1) as session:  # CRCs and zero fill are right
                check(model.layers()[-1].name == last, "the same network")
                logits.append(session.run(x))
            changed = tensors_that_differ(data, new)
            check(changed == set(layers[:depth]), f"{case}: tensors {changed} for {depth} of {layers}")
            if previous is not None:
                check(
                    tensors_that_differ(previous, new) == set(layers[1:2] if depth == 2 else layers[2:]), "cumulative"
                )
            previous = new
        check(not np.array_equal(logits[0], logits[1]), "other weights, other logits")


def tensors_that_differ(first, second):
    """Indices of the tensors of two model files with the same tables that differ."""
    header = layout.HEADER.unpack_from(first)
    tables = layout.NODES_AT + header[6] * layout.NODES[header[1]].size + header[7] * 4
    differing = set()
    for i in range(header[8]):
        offset, size = layout.TENSOR.unpack_from(first, tables + i * layout.TENSOR.size)[6:]
        if first[offset : offset + size] != second[offset : offset + size]:
            differing.add(i)
    return differing


def test_method_names():
    method = subject.Method.parse("agf:no_a,no_reg")
    check((method.name, method.options) == ("agf", {"no_a": True, "no_reg": True}), "ablations")
    raises(common.EvalError, lambda: subject.Method.parse("nonsense"), "agf")
    if "integrated_gradients" in agf.METHODS:
        check(subject.Method.parse("integrated_gradients:steps=20").options == {"steps": 20}, "numbers")
        check(subject.Method.parse("gradcam:layer=conv_4").options == {"layer": "conv_4"}, "names")


def test_labels():
    labels = ["cup", "key", "keyboard", "crane", "Crane"]
    check(pictures.class_of("key", labels, 5) == 1 and pictures.class_of(" CUP ", labels, 5) == 0, "names")
    check(pictures.class_of("0004", labels, 5) == 4, "numbers")
    raises(ValueError, lambda: pictures.class_of("5", labels, 5), "5 classes")
    raises(ValueError, lambda: pictures.class_of("crane", labels, 5), "2 classes")
    raises(ValueError, lambda: pictures.class_of("tree", labels, 5), "tree")
    for name, k in (("0003.jpg", 3), ("1_a.png", 1), ("keyboard-7.png", 2), ("key-7.png", 1), ("CUP.png", 0)):
        check(pictures.class_of_file_name("a/" + name, labels, 5) == k, name)
    raises(ValueError, lambda: pictures.class_of_file_name("tree.png", labels, 5), "begins with no class")


# Whole runs


def scene_rows():
    with open(os.path.join(scenes(), "labels.csv"), newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def load_scene(model, name):
    """A scene, uint8 [H, W, 3], which is the network's size, and as its input, float32 [C, H, W]."""
    pixels = np.asarray(Image.open(os.path.join(scenes(), name)).convert("RGB"))
    return pixels, to_input(model, pixels)


def to_input(model, pixels):
    return (
        ((pixels / 255.0 * model.input.range - model.input.mean) / model.input.std)
        .transpose(2, 0, 1)
        .astype(np.float32)
    )


def test_perturb_run():
    evaluate("perturb", DEMO, scenes(), "-o", "out", "--limit", 3, "-m", "agf", "-m", "agf:no_a", "--explain", "target")
    positive = negative = 0.0
    with agf.Model(DEMO) as model, model.session(threads=1) as session:
        for row in scene_rows()[:3]:
            pixels, x = load_scene(model, row["file"])
            label = model.labels.index(row["label"])
            session.run(x)
            heat = session.explain(classes=label)[0]
            for sign in (1, -1):
                hits, ranking = [], np.argsort(-sign * heat.ravel(), kind="stable")
                for tenths in range(10):
                    black = pixels.copy().reshape(-1, 3)
                    black[ranking[: int(heat.size * tenths / 10)]] = 0
                    hits.append(float(np.argmax(session.run(to_input(model, black.reshape(pixels.shape)))) == label))
                area = 100 * np.trapezoid(hits, dx=0.1)
                positive, negative = positive + area * (sign > 0), negative + area * (sign < 0)
    # Sums of a few hundred doubles of order 100.
    check(abs(value("out", "agf", "positive") - positive / 3) < 1e-9, "positive AUC")
    check(abs(value("out", "agf", "negative") - negative / 3) < 1e-9, "negative AUC")
    with open("out/results.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    check({row["method"] for row in rows} == {"agf", "agf:no_a"} and len(rows) == 6, "results.csv")
    with open("out/pictures.csv", newline="", encoding="utf-8") as f:
        check(len(list(csv.DictReader(f))) == 3 * 2 * 3, "pictures.csv: pictures x methods x metrics")
    for name in ("bars.png", "curves.png", "sheet.png"):
        with Image.open(os.path.join("out", name)) as image:
            check(min(image.size) > 100, name)
    with open("out/report.md", encoding="utf-8") as f:
        report = f.read()
    check("| agf:no_a |" in report and "sheet.png" in report and "perturb" in report, "report.md")


def test_second_object():
    """A class and a mask from other columns of the CSV."""
    evaluate("segment", DEMO, scenes(), "-o", "first", "--limit", 4, "--explain", "target")
    evaluate(
        "segment", DEMO, scenes(), "-o", "second", "--limit", 4, "--explain", "second", "--mask-column", "second_mask"
    )
    evaluate("segment", DEMO, scenes(), "-o", "crossed", "--limit", 4, "--explain", "second")
    own = value("second", "agf", "ap")
    check(own > value("crossed", "agf", "ap"), "the second class's map fits the second object's mask, not the first's")
    done = evaluate("segment", DEMO, scenes(), "-o", "wrong", "--explain", "nonsense", code=2)
    check("nonsense" in done.stderr, done.stderr)


def test_segment_run():
    evaluate("segment", DEMO, scenes(), "-o", "out", "--limit", 3, "--explain", "target")
    counts, precisions = np.zeros(4), []
    with agf.Model(DEMO) as model, model.session(threads=1) as session:
        for row in scene_rows()[:3]:
            session.run(load_scene(model, row["file"])[1])
            heat = session.explain(classes=model.labels.index(row["label"]))[0]
            mask = np.asarray(Image.open(os.path.join(scenes(), row["mask"]))) >= 128
            for m, positive in zip(mask.ravel(), (heat > 0).ravel()):
                counts[(0 if m else 1) if positive else (2 if m else 3)] += 1
            precisions.append(sklearn.metrics.average_precision_score(mask.ravel(), heat.ravel()))
    tp, fp, fn, tn = counts
    for metric, expected in (
        ("pixel_accuracy", (tp + tn) / counts.sum()),
        ("ap", np.mean(precisions)),
        ("miou", (tp / (tp + fp + fn) + tn / (tn + fp + fn)) / 2),
    ):
        check(abs(value("out", "agf", metric) - expected) < 1e-12, metric)
    # The same masks in a folder of their own.
    os.mkdir("masks")
    for row in scene_rows()[:3]:
        shutil.copy(os.path.join(scenes(), row["mask"]), os.path.join("masks", row["file"]))
    evaluate("segment", DEMO, scenes(), "-o", "folder", "--limit", 3, "--explain", "target", "--masks", "masks")
    check(value("folder", "agf", "ap") == value("out", "agf", "ap"), "--masks")


def objects_of(row):
    """[(label, mask's file name)] of a scene with two objects."""
    return [(row["label"], row["mask"]), (row["second"], row["second_mask"])]


def test_segment_classes_run():
    """Two labels a picture, against arrays done by hand."""
    pairs = ("--objects", "label:mask", "--objects", "second:second_mask")
    evaluate("segment-classes", DEMO, scenes(), "-o", "out", *pairs, "--sheet", "2")
    folds, aps, right = {0: [], 1: []}, {}, {}
    with agf.Model(DEMO) as model, model.session(threads=1) as session:
        for row in scene_rows():
            session.run(load_scene(model, row["file"])[1])
            truth = np.zeros(model.input[1:3], int)
            for label, name in objects_of(row):
                mask = np.asarray(Image.open(os.path.join(scenes(), name)).convert("L")) >= 128
                truth[mask] = model.labels.index(label) + 1
            maps = {}
            for k in sorted({k for k in truth.ravel() if k}):
                heat = session.explain(classes=int(k) - 1)[0]
                aps.setdefault(k, []).append(sklearn.metrics.average_precision_score((truth == k).ravel(), heat.ravel()))
                maps[k] = heat / agf.map_scale(heat)
            folds[zlib.crc32(row["file"].encode()) & 1].append((truth, maps))

    def confusion(pictures, threshold):
        total = np.zeros((model.classes + 1,) * 2)
        for truth, maps in pictures:
            names, stack = [0, *maps], np.stack([np.full(truth.shape, threshold), *maps.values()])
            found = np.asarray(names)[stack.argmax(0)]  # the background wins where nothing is above the threshold
            np.add.at(total, (truth, found), 1)
        return total

    def miou(total):
        union = total.sum(0) + total.sum(1) - np.diag(total)
        return (np.diag(total)[union > 0] / union[union > 0]).mean()

    check(folds[0] and folds[1], "both halves have pictures")
    total = 0
    for fold in (0, 1):
        best = max(masks.SegmentClasses.THRESHOLDS, key=lambda t: miou(confusion(folds[1 - fold], np.float32(t))))
        total = total + confusion(folds[fold], np.float32(best))
    right = {"miou": miou(total), "pixel_accuracy": np.trace(total) / total.sum()}
    right["map"] = np.mean([np.mean(found) for found in aps.values()])
    for metric, expected in right.items():
        check(abs(value("out", "agf", metric) - expected) < 1e-12, f"{metric}: {value('out', 'agf', metric)}, {expected}")
    check(right["miou"] > 0.3, f"maps find objects: mIoU {right['miou']:.3f} of 11 classes")
    done = evaluate("segment-classes", DEMO, scenes(), "-o", "wrong", "--objects", "label:nonsense", code=2)
    check("nonsense" in done.stderr, done.stderr)


def test_segment_classes_of_voc():
    """A folder in PASCAL VOC's layout gives the numbers of the same pictures listed in a CSV; outlines do not count."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        os.makedirs(os.path.join("voc", name))
    os.mkdir("plain")
    with agf.Model(DEMO) as model:
        names = ["", *model.labels[::-1]]  # index 1 is a class that does not count
    with open("names.txt", "w", encoding="utf-8") as f:
        f.write("\n".join(names) + "\n")
    rows = scene_rows()[:6]
    for number, row in enumerate(rows):
        Image.open(os.path.join(scenes(), row["file"])).convert("RGB").save(f"voc/JPEGImages/p{number}.jpg", quality=95)
        shutil.copy(f"voc/JPEGImages/p{number}.jpg", "plain")
        index = None
        for label, name in objects_of(row):
            shutil.copy(os.path.join(scenes(), name), "plain")
            mask = np.asarray(Image.open(os.path.join(scenes(), name)).convert("L")) >= 128
            index = np.zeros(mask.shape, np.uint8) if index is None else index
            index[mask] = names.index(label) + 1
        image = Image.fromarray(index).convert("P")
        image.putpalette([(37 * i) % 256 for i in range(768)])
        image.save(f"voc/SegmentationClass/p{number}.png")
    with open("voc/ImageSets/Segmentation/val.txt", "w", encoding="utf-8") as f:
        f.write("".join(f"p{number}\n" for number in range(len(rows))))
    with open("plain/labels.csv", "w", encoding="utf-8") as f:
        f.write("file,label,mask,second,second_mask\n")
        for number, row in enumerate(rows):
            f.write(f"p{number}.jpg,{','.join(','.join(pair) for pair in objects_of(row))}\n")
    pairs = ("--objects", "label:mask", "--objects", "second:second_mask")
    evaluate("segment-classes", DEMO, "voc", "-o", "a", "--names", "names.txt", "-m", "agf", "-m", "gradcam")
    evaluate("segment-classes", DEMO, "plain", "-o", "b", *pairs, "-m", "agf", "-m", "gradcam")
    for method in ("agf", "gradcam"):
        # Halves are made by file names, which differ here by a folder: the ranking alone is the same to the bit.
        check(value("a", method, "map") == value("b", method, "map"), f"{method}: the same rankings")
    path = "voc/SegmentationClass/p0.png"
    image = Image.open(path)
    index = np.asarray(image).copy()
    index[:, :40] = 255
    outlined = Image.fromarray(index).convert("P")
    outlined.putpalette(image.getpalette())
    outlined.save(path)
    evaluate("segment-classes", DEMO, "voc", "-o", "c", "--names", "names.txt")
    with open("c/records.jsonl", encoding="utf-8") as f:
        records = {record["unit"]: record["result"] for record in map(json.loads, f)}
    for number in (0, 1):
        pixels = sum(n for _, _, n in records[f"JPEGImages/p{number}.jpg"]["agf"]["confusions"][0])
        check(pixels == index.size - (40 * index.shape[0] if number == 0 else 0), f"pixels that count: {pixels}")
    done = evaluate("segment-classes", DEMO, "voc", "-o", "d", code=2)
    check("--names" in done.stderr and done.stderr.count("\n") == 1, f"VOC's names are not the demo's: {done.stderr}")
    done = evaluate("segment-classes", DEMO, "voc", "-o", "d", "--names", "names.txt", "--split", "test", code=2)
    check("test.txt" in done.stderr, done.stderr)


def test_road_and_energy():
    """Imputed pixels instead of black ones; the share of the evidence in the mask."""
    evaluate("perturb", DEMO, scenes(), "-o", "out", "--limit", 1, "--fill", "road", "--explain", "target")
    evaluate("segment", DEMO, scenes(), "-o", "seg", "--limit", 1, "--explain", "target")
    row = scene_rows()[0]
    with agf.Model(DEMO) as model, model.session(threads=1) as session:
        pixels, x = load_scene(model, row["file"])
        label = model.labels.index(row["label"])
        session.run(x)
        heat = session.explain(classes=label)[0]
        hits, order = [], np.argsort(-heat.ravel(), kind="stable")
        for tenths in range(10):
            missing = np.zeros(heat.size, bool)
            missing[order[: int(heat.size * tenths / 10)]] = True
            filled = metrics.imputed(pixels, missing.reshape(heat.shape), 0)
            hits.append(float(np.argmax(session.run(to_input(model, filled))) == label))
    check(abs(value("out", "agf", "positive") - 100 * np.trapezoid(hits, dx=0.1)) < 1e-9, "ROAD's area")
    mask = np.asarray(Image.open(os.path.join(scenes(), row["mask"])).convert("L")) >= 128
    positive = np.maximum(heat.astype(float), 0)
    check(abs(value("seg", "agf", "energy") - positive[mask].sum() / positive.sum()) < 1e-12, "energy")


def test_single_delete_run():
    evaluate("single-delete", DEMO, scenes(), "-o", "out", "--limit", 1, "--patches", 4, "--explain", "target")
    with agf.Model(DEMO) as model, model.session(threads=1) as session:
        row = scene_rows()[0]
        x, k = load_scene(model, row["file"])[1], model.labels.index(row["label"])
        whole = metrics.probabilities(session.run(x), "softmax")[k]
        heat, blurred, side = session.explain(classes=k)[0], metrics.gaussian_blur(x), x.shape[1] // 4
        drops, sums = [], []
        for y in range(0, x.shape[1], side):
            for left in range(0, x.shape[2], side):
                without = x.copy()
                without[:, y : y + side, left : left + side] = blurred[:, y : y + side, left : left + side]
                drops.append(whole - metrics.probabilities(session.run(without), "softmax")[k])
                sums.append(heat[y : y + side, left : left + side].astype(float).sum())
    expected = scipy.stats.spearmanr(sums, drops).statistic
    check(abs(value("out", "agf", "correlation") - expected) < 1e-12, f"Spearman's rho, {expected}")


def test_label_free_run():
    """Against a bank and against a picture of the table: neighbours and numbers done by hand; what is refused."""
    with agf.Model(DEMO) as model, model.session(threads=1) as session:
        rows = scene_rows()[:4]
        pictures = [Image.open(os.path.join(scenes(), row["file"])).convert("RGB") for row in rows]
        bank = model.bank(pictures, [row["file"] for row in rows])
        bank.save("net.bank")
        common = ("label-free", DEMO, scenes(), "--limit", "3")
        methods = ("-m", "agf", "-m", "agf_a:neighbours=2", "-m", "gradcam", "-m", "agf:own", "-m", "agf:cosine,shared")
        evaluate(*common, "--bank", "net.bank", "-o", "out", *methods)
        energies = {"agf": [], "agf_a:neighbours=2": []}
        for i, row in enumerate(rows[:3]):
            mask = np.asarray(Image.open(os.path.join(scenes(), row["mask"])).convert("L")) >= 128
            session.run(load_scene(model, row["file"])[1])
            others = [j for j in np.argsort(np.linalg.norm(bank.latents - session.latent(), axis=1)) if j != i]
            for name, k in (("agf", 1), ("agf_a:neighbours=2", 2)):
                difference = (session.latent() - bank.latents[others[:k]].astype(np.float64).mean(0)).astype(np.float32)
                session.explain(difference=difference, method="agf_a")
                heat = session.explain(classes=session.explained, difference=difference, method=name.partition(":")[0])[0]
                positive = np.maximum(heat.astype(np.float64), 0)
                energies[name].append(positive[mask].sum() / positive.sum())
        for name, expected in energies.items():  # the same maps, summed in another order
            check(abs(value("out", name, "energy") - np.mean(expected)) < 1e-9, f"{name}: {value('out', name, 'energy')}")
        check(value("out", "agf:own", "energy") != value("out", "agf", "energy"), "another seed, another map")
    with open("pairs.csv", "w", encoding="utf-8") as f:
        f.write("file,label,pair,mask,objects\n")
        for row, other in zip(rows, rows[1:] + rows[:1]):
            f.write(f"{row['file']},{row['label']},{other['file']},{row['mask']},{row['second_mask']}\n")
    pairs = ("--labels", "pairs.csv", "--pair", "pair", "--objects-column", "objects")
    evaluate("odd-object", *common[1:], *pairs, "-o", "pairs", "-m", "agf_a", "--sheet", "0")
    check(0 <= value("pairs", "agf_a", "share") <= 1 and 0 < value("pairs", "agf_a", "chance") < 1, "shares of evidence")
    for more, text in (((), "--bank or --pair"), (("--bank", "net.bank", "-m", "activation_norm"), "--trunk")):
        done = evaluate(*common, "-o", "wrong", *more, code=2)
        check(text in done.stderr, done.stderr)
    done = evaluate("segment", DEMO, scenes(), "-o", "wrong", "-m", "agf:neighbours=2", code=2)
    check("bank" in done.stderr, done.stderr)


def test_grid_run():
    done = evaluate("grid", DEMO, scenes(), "-o", "out", "--grids", 3, "--fit", "--probability", "sigmoid")
    with open("out/run.json", encoding="utf-8") as f:
        units = json.load(f)["units"]
    shares = []
    with agf.Model(DEMO) as model, model.session(threads=1) as session:
        half = model.input.height // 2
        for unit in units:
            check(len({picture["label"] for picture in unit["pictures"]}) == 4, "four different classes")
            tiles = [
                Image.open(os.path.join(scenes(), picture["file"])).resize((half, half), Image.BILINEAR)
                for picture in unit["pictures"]
            ]
            grid = Image.new("RGB", (2 * half, 2 * half))
            for cell, tile in enumerate(tiles):
                grid.paste(tile, (cell % 2 * half, cell // 2 * half))
            session.run(to_input(model, np.asarray(grid)))
            for cell, picture in enumerate(unit["pictures"]):
                heat = np.maximum(session.explain(classes=picture["label"])[0].astype(float), 0)
                top, left = cell // 2 * half, cell % 2 * half
                shares.append(heat[top : top + half, left : left + half].sum() / heat.sum())
    check(len(units) == 3 and abs(value("out", "agf", "share") - np.mean(shares)) < 1e-12, "shares")
    check("0.250" in done.stdout, "chance is in the report")
    done = evaluate("grid", DEMO, scenes(), "-o", "none", "--confidence", "1.1", code=2)
    check("confidence" in done.stderr and not os.path.exists("none/run.json"), done.stderr)


def test_grid_asks_some_cells():
    """--asked N explains N cells of each grid, with the shares that all cells have there."""
    common = ("grid", DEMO, scenes(), "--grids", "2", "--confidence", "0.2", "--probability", "sigmoid", "--sheet", "0")
    evaluate(*common, "-o", "all")
    evaluate(*common, "--asked", "2", "-o", "some")
    with open("some/run.json", encoding="utf-8") as f:
        asked = [unit["asked"] for unit in json.load(f)["units"]]
    check(all(len(cells) == 2 and cells == sorted(set(cells)) for cells in asked), f"{asked}")
    everything, some = (records_of(folder) for folder in ("all", "some"))
    for (unit, whole), cells in zip(everything.items(), asked):
        expected = [whole["agf"]["shares"][cell] for cell in cells]
        check(some[unit]["agf"]["shares"] == expected, f"{unit}: {some[unit]}, expected {expected}")
    done = evaluate(*common, "--asked", "5", "-o", "never", code=2)
    check("has 4 cells" in done.stderr, done.stderr)


def records_of(folder):
    with open(os.path.join(folder, "records.jsonl"), encoding="utf-8") as f:
        return {record["unit"]: record["result"] for record in map(json.loads, f)}


def test_insert_delete_run():
    common = ("insert-delete", DEMO, scenes(), "--limit", 1, "--probability", "sigmoid")
    evaluate(*common, "-o", "out")
    evaluate(*common, "--steps", 6, "-o", "six")
    with agf.Model(DEMO) as model, model.session(threads=1) as session:
        x = load_scene(model, scene_rows()[0]["file"])[1]
        session.run(x)
        k = session.ranked(0)
        heat = session.explain()[0]
        kernel = np.exp(-0.5 * (np.arange(-5, 6) / 5.0) ** 2)
        kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
        blurred = np.stack([scipy.ndimage.convolve(c.astype(float), kernel, mode="constant") for c in x])
        ranking = np.argsort(-heat.ravel(), kind="stable")
        for metric, start, end in (("insertion", blurred, x), ("deletion", x, np.zeros_like(x))):
            for folder, steps in (("out", heat.shape[0]), ("six", 6)):
                curve = []
                for step in range(steps + 1):
                    chosen = np.zeros(heat.size, bool)
                    chosen[ranking[: step * heat.size // steps]] = True
                    mixed = np.where(chosen.reshape(heat.shape), end, start).astype(np.float32)
                    curve.append(1 / (1 + np.exp(-float(session.run(mixed)[k]))))
                # The blurred picture is rounded to float32 from doubles that differ in their last bits.
                check(abs(value(folder, "agf", metric) - np.trapezoid(curve) / steps) < 1e-5, f"{metric}, {steps} steps")


def test_sanity_run():
    evaluate("sanity", DEMO, scenes(), "-o", "out", "--limit", 2, "--stages", 2)
    first, everything = json.loads(results_of("out"))["curves"]["correlation"]["agf"][1]
    check(-1 <= everything < first <= 1, f"deeper randomisation changes maps more: {first:.3f}, {everything:.3f}")
    check(value("out", "agf", "all") == everything, "the last stage is in the table")


def test_speed_run():
    evaluate("speed", DEMO, scenes(), "-o", "out", "--limit", 2, "--rounds", 2)
    forward, total = value("out", "agf", "forward"), value("out", "agf", "total")
    check(0 < forward < total, f"forward {forward} ms, total {total} ms")


def test_bad_pictures():
    """A damaged picture, one without a class and one that is missing are reported and skipped."""
    os.mkdir("mixed")
    rows = scene_rows()[:3]
    for row in rows:
        shutil.copy(os.path.join(scenes(), row["file"]), "mixed")
    with open(os.path.join("mixed", rows[1]["file"]), "r+b") as f:
        f.truncate(200)
    lines = [
        "file,label",
        f"{rows[0]['file']},{rows[0]['label']}",
        f"{rows[1]['file']},{rows[1]['label']}",
        f"{rows[2]['file']},dragon",
        f"missing.png,{rows[0]['label']}",
    ]
    with open("mixed/labels.csv", "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    done = evaluate("perturb", DEMO, "mixed", "-o", "out")
    for text in (rows[1]["file"], "dragon", "missing.png"):
        check(text in done.stderr and text in done.stdout, f"{text} is reported: {done.stderr}")
    check(json.loads(results_of("out"))["results"][0]["units"] == 1, "the good one counts")
    os.mkdir("empty")
    check("no pictures" in evaluate("perturb", DEMO, "empty", "-o", "none", code=2).stderr, "an empty folder")
    with open("empty/cup.png", "wb") as f:
        f.write(b"not a picture")
    check(
        "nothing could be measured" in evaluate("perturb", DEMO, "empty", "-o", "none", code=1).stderr, "only bad ones"
    )


def copied(folder, count, *columns):
    """A folder with the first scenes and a labels.csv of the columns file, label and these; the rows."""
    os.mkdir(folder)
    rows = scene_rows()[:count]
    for row in rows:
        for name in (row["file"], row["mask"]):
            shutil.copy(os.path.join(scenes(), name), folder)
    with open(os.path.join(folder, "labels.csv"), "w", encoding="utf-8") as f:
        writer = csv.DictWriter(f, ["file", "label", *columns], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_other_contents():
    """A run does not go on with other pictures or masks than those it was begun with, whatever their names."""
    rows = copied("mine", 3, "mask")
    command = ("segment", DEMO, "mine", "-o", "out", "--explain", "target", "--sheet", "0")
    evaluate(*command)
    first = value("out", "agf", "pixel_accuracy")
    evaluate(*command)
    path = os.path.join("mine", rows[1]["mask"])
    Image.fromarray(255 - np.asarray(Image.open(path).convert("L"))).save(path)
    done = evaluate(*command, code=2)
    check("contents" in done.stderr and rows[1]["mask"] in done.stderr, done.stderr)
    check(done.stderr.count("\n") == 1, f"one line: {done.stderr}")
    os.mkdir("masks")
    for row in rows:
        inverted = 255 - np.asarray(Image.open(os.path.join(scenes(), row["mask"])).convert("L"))
        Image.fromarray(inverted).save(os.path.join("masks", row["file"]))
    check("settings" in evaluate(*command, "--masks", "masks", code=2).stderr, "another folder of masks")
    evaluate(*command[:4], "inverted", *command[5:], "--masks", "masks")
    check(value("inverted", "agf", "pixel_accuracy") < first, "inverted masks are judged anew")
    shutil.copy(os.path.join(scenes(), rows[1]["mask"]), path)
    evaluate(*command)
    shutil.copy(os.path.join("mine", rows[0]["file"]), os.path.join("mine", rows[2]["file"]))
    check("contents" in evaluate(*command, code=2).stderr, "another picture")


def test_failures_are_retried():
    """What failed is tried again when the run is continued; a picture that was repaired then counts."""
    rows = copied("mine", 3)
    path = os.path.join("mine", rows[1]["file"])
    with open(path, "r+b") as f:
        f.truncate(300)
    os.remove(os.path.join("mine", rows[2]["file"]))
    command = ("perturb", DEMO, "mine", "-o", "out", "--sheet", "0")
    evaluate(*command)
    check(json.loads(results_of("out"))["results"][0]["units"] == 1, "one picture can be used")
    for row in rows[1:]:
        shutil.copy(os.path.join(scenes(), row["file"]), "mine")
    evaluate(*command)
    found = json.loads(results_of("out"))
    check(found["results"][0]["units"] == 3 and not found["problems"], f"all three count: {found['problems']}")
    evaluate(*command[:4], "whole", *command[5:])
    check(json.loads(results_of("whole"))["results"] == found["results"], "the same numbers as in one go")


def test_hostile_pictures():
    """Nothing but pictures of the formats named is opened, and nothing that is wrong with one ends the run."""
    os.mkdir("mine")
    os.mkdir("bin")
    with open("bin/gs", "w", encoding="utf-8") as f:
        f.write(f"#!/bin/sh\necho called >>{os.path.abspath('called')}\n")
    os.chmod("bin/gs", 0o755)
    good = os.path.join(scenes(), scene_rows()[0]["file"])
    shutil.copy(good, "mine/cup_good.png")
    with open(good, "rb") as f:
        data = f.read()
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    chunk = data.index(b"IDAT")
    damaged = {
        "postscript": postscript,
        "checksum": data[: chunk + 40] + b"\0\1" + data[chunk + 42 :],
        "chunk": data[:chunk] + b"XX\0\x80" + data[chunk + 4 :],
        "header": data[:16] + b"\0" * 8 + data[24:],
        "empty": b"",
    }
    for name, content in damaged.items():
        with open(f"mine/cup_{name}.png", "wb") as f:
            f.write(content)
    Image.new("F", (20, 20)).save("mine/cup_float.tif")
    os.mkfifo("mine/cup_fifo.png")  # nobody writes to it
    environment = dict(os.environ, PATH=os.path.abspath("bin") + os.pathsep + os.environ["PATH"])
    command = EVAL + ["perturb", DEMO, "mine", "-o", "out", "--sheet", "0"]
    for _ in range(2):  # the second time, what failed is tried again
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
        check(done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-600:])
        found = json.loads(results_of("out"))
        check(found["results"][0]["units"] == 1, "the good one counts")
        check(len(found["problems"]) == len(damaged) + 2, f"problems: {found['problems']}")
        check(not os.path.exists("called"), "no other program was started")


def test_sixteen_bits():
    """A 16-bit gray picture counts by its high bytes; Pillow's own conversion would clip nearly all of it to white."""
    gray = np.asarray(Image.open(os.path.join(scenes(), scene_rows()[0]["file"])).convert("L"))
    os.mkdir("mine")
    Image.fromarray(gray.astype(np.uint16) * 256 + 77).save("mine/cup_deep.png")
    Image.fromarray(np.repeat(gray[:, :, None], 3, 2)).save("mine/cup_plain.png")
    with agf.Model(DEMO) as model:
        deep, plain = (model.preprocess(Image.open(f"mine/cup_{name}.png")) for name in ("deep", "plain"))
    check(np.array_equal(deep, plain), "the binding's")
    evaluate("insert-delete", DEMO, "mine", "-o", "out", "--sheet", "0")
    with open("out/pictures.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    values = {name: [row["value"] for row in rows if name in row["unit"]] for name in ("deep", "plain")}
    check(values["deep"] == values["plain"] and len(values["deep"]) == 3, "the battery's")


def test_damaged_tables():
    """A CSV, a run.json or records that are damaged are named in one line; short rows and odd names are a picture's."""
    rows = copied("mine", 2)
    good, label = rows[0]["file"], rows[0]["label"]

    def tried(content, code, *texts):
        with open("mine/labels.csv", "wb") as f:
            f.write(content)
        shutil.rmtree("out", ignore_errors=True)
        done = evaluate("perturb", DEMO, "mine", "-o", "out", "--sheet", "0", code=code)
        for text in texts:
            check(text in done.stderr, f"{text!r} is not in {done.stderr!r}")
        check(done.stderr.count("\n") == 1, f"one line: {done.stderr}")

    tried(f"file,label\n{good},{label}\n{rows[1]['file']}\n".encode(), 0, rows[1]["file"])
    tried(f"file,label\n{good},{label}\n,{label}\n".encode(), 0, "row 2")
    tried(f"file,label\n{good},{label}\na\0b.png,{label}\n".encode(), 0, "skipped")
    tried(f"file,label\n{good},{label}\nb\u00fccher.png,x\n".encode("latin-1"), 2, "labels.csv", "UTF-8")
    tried(f'file,label\n{good},{label}\n"{rows[1]["file"]},{label}\n'.encode(), 2, "labels.csv", "line")
    tried(f"name,label\n{good},{label}\n".encode(), 2, "file and label")
    tried(b"\x00\xff" * 100, 2, "labels.csv")
    tried(f"file,label\n{good},{label}\n{good},{label}\n".encode(), 2, "twice", good)

    os.remove("mine/labels.csv")
    for number, row in enumerate(rows):
        os.rename(os.path.join("mine", row["file"]), os.fsencode(f"mine/{row['label']}_{number}") + b"\xff\x1b[31m.png")
    command = ("perturb", DEMO, "mine", "-o", "bytes", "--sheet", "1")
    done = evaluate(*command)
    check(json.loads(results_of("bytes"))["results"][0]["units"] == 2, f"names that are not UTF-8: {done.stderr}")

    def without(*keys):
        with open("bytes/run.json", "rb") as f:
            plan = json.load(f)
        part = plan
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]
        return json.dumps(plan).encode()

    def altered_record(part):
        with open("bytes/records.jsonl", "rb") as f:
            records = [json.loads(line) for line in f]
        records[1]["result"]["agf"] = part
        return b"".join(json.dumps(record).encode() + b"\n" for record in records)

    for name, damage, text in (
        ("run.json", b'{"settings": {', "run.json"),
        ("run.json", b"[]", "run.json"),
        ("run.json", b"\xff\xfe", "run.json"),
        ("run.json", b"{}", "run.json"),
        ("records.jsonl", b'{"unit": "a"}\n', "line 1"),
        ("records.jsonl", b"\0\0\0\n", "line 1"),
        ("records.jsonl", b"3\n", "line 1"),
        ("records.jsonl", b"[" * 100000 + b"\n", "line 1"),
        ("run.json", b"[" * 100000, "run.json"),
        ("run.json", without("settings", "methods"), "run.json"),
        ("run.json", without("model"), "run.json"),
        ("records.jsonl", altered_record(None), "record of"),
        ("records.jsonl", altered_record({"positive": [1.0] * 10}), "record of"),
        ("records.jsonl", altered_record({"positive": ["a"] * 10, "negative": [1.0] * 10}), "record of"),
        ("records.jsonl", altered_record({"positive": [], "negative": {}}), "record of"),
    ):
        path = os.path.join("bytes", name)
        with open(path, "rb") as f:
            whole = f.read()
        with open(path, "wb") as f:
            f.write(damage)
        for more in (command, ("merge", "bytes", "-o", "merged")):
            done = evaluate(*more, code=2)
            check(text in done.stderr and done.stderr.count("\n") == 1, f"{name}, {damage!r}: {done.stderr}")
        with open(path, "wb") as f:
            f.write(whole)
    evaluate(*command)


def test_outputs_that_would_destroy():
    """Results replace no input and no device; links are followed, modes kept, what cannot be written is said first."""
    shutil.copy(DEMO, "net.agf")
    copied("mine", 2)
    with open("R.md", "w", encoding="utf-8") as f:
        f.write("# Results\n")
    os.chmod("R.md", 0o600)
    os.symlink("R.md", "link.md")
    os.link("net.agf", "hard.md")
    os.mkfifo("fifo")
    with open("latin.md", "wb") as f:
        f.write(b"caf\xe9\n")
    command = ("perturb", "net.agf", "mine", "-o", "out", "--sheet", "0", "--into")
    for target, text in (
        ("net.agf", "overwrite"),
        ("hard.md", "overwrite"),
        ("mine/labels.csv", ""),
        ("mine", "folder"),
        ("nowhere/R.md", "no folder"),
        ("latin.md", "UTF-8"),
    ):
        extra = ("--labels", "mine/labels.csv") if target == "mine/labels.csv" else ()
        done = evaluate(*command, target, *extra, code=2)
        check(text in done.stderr and done.stderr.count("\n") == 1, f"{target}: {done.stderr}")
        check(not os.path.exists("out"), f"{target}: refused before anything is measured")
    check(
        "results" in evaluate("perturb", "net.agf", "mine", "-o", "mine", code=2).stderr, "OUT is the pictures' folder"
    )
    evaluate(*command, "link.md")
    check(os.path.islink("link.md") and os.stat("R.md").st_mode & 0o777 == 0o600, "link and mode are kept")
    with open("R.md", encoding="utf-8") as f:
        check(f.read().startswith("# Results\n\n## perturb"), "the section is in the file behind the link")
    evaluate(*command, "/dev/null")
    check(stat.S_ISCHR(os.stat("/dev/null").st_mode), "a device stays one")
    with open(DEMO, "rb") as a, open("net.agf", "rb") as b:
        check(a.read() == b.read(), "the model is whole")
    check(not [name for name in os.listdir("out") + os.listdir(".") if "tmp" in name], "no temporary file is left")


def test_wrong_arguments():
    """An argument that no picture can satisfy is one line, before any picture is looked at."""
    for more, text in (
        (("-m", "gradcam:layer=nowhere"), "nowhere"),
        (("-m", "agf:steps=3"), "steps"),
        (("-m", "smoothgrad:samples=0"), "samples"),
        (("-m", "nonsense"), "nonsense"),
        (("--isa", "vax"), "vax"),
        (("--threads", "-1"), "threads"),
        (("--size", "1x1"), ""),
        (("--seed", "-1"), "seed"),
        (("--sheet", "-1"), "sheet"),
    ):
        done = evaluate("perturb", DEMO, scenes(), "-o", "out", *more, code=2)
        check(text in done.stderr and done.stderr.count("\n") == 1, f"{more}: {done.stderr}")
        check(not os.path.exists("out/run.json"), f"{more}: nothing was begun")
    for target in ("/dev/null", "no_folder", "no_folder/out"):
        with open("no_folder", "w", encoding="utf-8"):
            pass
        done = evaluate("perturb", DEMO, scenes(), "-o", target, code=2)
        check(done.stderr == f"agf_eval.py: error: -o {target}: not a folder\n", f"-o {target}: {done.stderr}")


def test_interrupt():
    """Ctrl-C ends a run in one line that says how to go on."""
    process = subprocess.Popen(
        EVAL + ["perturb", DEMO, scenes(), "-o", "out", *RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_lines("out/records.jsonl", 2, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    check(process.returncode == 130 and not output, f"exit code {process.returncode}: {output}")
    check("interrupted" in errors and errors.count("\n") == 1, f"quiet: {errors}")
    evaluate("perturb", DEMO, scenes(), "-o", "out", *RUN)
    check(results_of("out") == whole_results(), "the same results, to the byte")


def test_escape_sequences():
    """Names and labels from files do not reach a terminal as commands, C1 control characters neither."""
    from test_cli import write_model

    evil = "cup\x9b2J\u202e"  # the engine refuses a model file with C0 characters
    write_model("evil.agf", labels=[evil, "key", "tree"], name="net\x9d0;x\x9c")
    os.mkdir("mine")
    shutil.copy(os.path.join(scenes(), scene_rows()[0]["file"]), "mine/key_\x1b[5m.png")
    with open("mine/tree_\x1b[7m.png", "wb") as f:
        f.write(b"no picture")
    title = evil + "\x1b[31m"
    done = evaluate("perturb", "evil.agf", "mine", "-o", "out", "-m", "agf", "-m", "gradcam", "--title", title)
    with open("out/report.html", encoding="utf-8") as f:
        texts = [done.stdout, done.stderr, f.read()]
    for text in texts:
        bad = sorted(set(re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)))
        check(not bad, f"control characters {bad}")
    check("x1b" in done.stderr, done.stderr)
    with agf.Model("evil.agf") as model:
        check(repr(model).isprintable(), "repr of a model")
        try:
            agf.Model("\x1b[31m.agf")
        except agf.Error as problem:
            check(str(problem).isprintable(), "the engine's messages")


def test_pages():
    """report.html is one file: plots inside, the table, what was left out; the last line says where it is."""
    methods = ("-m", "agf", "-m", "gradcam", "-m", "agf_a")
    done = evaluate("perturb", DEMO, scenes(), "-o", "a b<c>", "--limit", 3, *methods)
    check(done.stdout.rstrip().endswith("wrote a b<c>/report.html"), done.stdout[-200:])
    with open("a b<c>/report.html", encoding="utf-8") as f:
        page = f.read()
    check(page.count('src="data:image/png;base64,') == 3 and "<c>" not in page, "pictures inside, names escaped")
    check(not re.search(r"(src|href)=\"(?!data:)", page), "it needs no other file")
    check("positive AUC" in page and "gradcam" in page and 'class="best"' in page, "the table")


def test_differences():
    """Differences to the first method are paired, and their intervals hold what a bootstrap by hand finds."""
    methods = ("-m", "agf", "-m", "gradcam")
    evaluate("segment", DEMO, scenes(), "-o", "out", "--explain", "target", *methods, "--sheet", "0")
    rows = {row["metric"]: row for row in json.loads(results_of("out"))["differences"]}
    check(set(rows) == {"pixel_accuracy", "miou", "ap", "energy"}, str(rows))
    for metric, row in rows.items():
        expected = value("out", "gradcam", metric) - value("out", "agf", metric)
        check(abs(row["value"] - expected) < 1e-12 and row["low"] <= row["value"] <= row["high"], metric)
    with open("out/pictures.csv", newline="", encoding="utf-8") as f:
        found = {(r["method"], r["unit"]): float(r["value"]) for r in csv.DictReader(f) if r["metric"] == "ap"}
    paired = np.array([found["gradcam", unit] - value for (method, unit), value in found.items() if method == "agf"])
    draws = np.random.RandomState(0).choice(paired, (20000, len(paired))).mean(1)
    width = rows["ap"]["high"] - rows["ap"]["low"]
    for end, quantile in (("low", 0.025), ("high", 0.975)):
        # Ends of intervals from 2000 and 20000 draws differ by about 3 % of the width at 2.5 % of the draws.
        check(abs(rows["ap"][end] - np.quantile(draws, quantile)) <= 0.1 * width, f"{end} end")


def test_differences_of_one_origin():
    """The stages of a picture are drawn together: repeated for each they leave the interval as wide as one of them."""
    import agf_eval.report as report

    sanity, numbers = experiments.EXPERIMENTS["sanity"](), np.random.RandomState(0).rand(30)
    widths = []
    for stages in (1, 4):
        records = {
            f"{depth} layers, {i:02d}.png": {"agf": {"depth": 1, "rho": 0.0}, "gradcam": {"depth": 1, "rho": float(rho)}}
            for depth in range(1, 1 + stages)
            for i, rho in enumerate(numbers)
        }
        units = [{"id": unit, "picture": {"file": unit.split(", ")[1]}} for unit in records]
        plan = {"settings": {"methods": ["agf", "gradcam"], "seed": 0}, "units": units}
        row = report.differences(sanity, plan, records, metrics=["correlation"])[0]
        check(abs(row["value"] - numbers.mean()) < 1e-12 and row["units"] == 30 * stages, str(row))
        widths.append(row["high"] - row["low"])
    # The same pictures are drawn: nothing but the order of sums differs.
    check(0.05 < widths[0] and abs(widths[1] - widths[0]) < 1e-9, str(widths))


def test_summary():
    """The best method of each experiment, and which are as good: those whose difference's interval holds 0."""
    methods = ("-m", "gradient", "-m", "agf", "-m", "agf:no_m", "--sheet", "0")
    evaluate("segment", DEMO, scenes(), *methods, "--explain", "target", "-o", "segment")
    evaluate("grid", DEMO, scenes(), *methods, "--grids", "3", "--confidence", "0.2", "--probability", "sigmoid", "-o", "grid")
    with open("page.md", "w", encoding="utf-8") as f:
        f.write("# Page\n")
    evaluate("summary", "segment", "grid", "-o", "out", "--into", "page.md", "--title", "In short")
    with open("page.md", encoding="utf-8") as f:
        page = f.read()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")][2:]
    questions = [experiments.EXPERIMENTS[name].question for name in ("segment", "grid")]
    check("## In short" in page and all(questions) and [row[0] for row in rows] == questions, page)
    for folder, metric, row in zip(("segment", "grid"), ("miou", "share"), rows):
        values = {name: value(folder, name, metric) for name in ("gradient", "agf", "agf:no_m")}
        best, worst = max(values, key=values.get), min(values, key=values.get)
        check(row[3].startswith(f"`{best}` {values[best]:.3f}") and row[5].startswith(f"`{worst}`"), f"{row}, {values}")
        plan, records = summary.finished_part(folder)
        experiment = experiments.EXPERIMENTS[folder]()
        for compared in report.differences(experiment, plan, records, reference=best, metrics=[metric]):
            check((f"`{compared['method']}`" in row[4]) == (compared["low"] <= 0 <= compared["high"]), f"{row}, {compared}")
            check(abs(compared["value"] - (values[compared["method"]] - values[best])) < 1e-12, f"{compared}")
    with open("out/summary.pdf", "rb") as f:
        check(f.read(5) == b"%PDF-", "a plot for print")
    with Image.open("out/summary.png") as plot:
        check(plot.size[0] > 500, "a plot")
    done = evaluate("summary", "nowhere", "-o", "never", code=2)
    check("nowhere: not a folder that agf_eval.py has written" in done.stderr, done.stderr)


def test_sheet_shows_the_class_that_it_names():
    """The contact sheet's maps are of the class in its caption: the explained one, not the label."""
    asked, shown = [], masks.Segment.shown
    masks.Segment.shown = staticmethod(lambda subject, session, unit, k: asked.append(k) or shown(subject, session, unit, k))
    try:
        evaluate("segment", DEMO, scenes(), "--explain", "second", "--mask-column", "second_mask", "--sheet", "4", "-o", "out")
    finally:
        del masks.Segment.shown
    with agf.Model(DEMO) as model:
        check(asked == [model.labels.index(row["second"]) for row in scene_rows()[:4]], f"{asked}")


def test_long_titles():
    """A title of several lines has lines, and what a file says is still no mathematics and no control character."""
    found = report.wrapped("agf: neighbours=5 and $x$", 17)
    check(found == "agf: neighbours=5\nand \\$x\\$", repr(found))
    check("\x1b" not in report.wrapped("a\x1b[31m b", 30), "no escape sequence")


def test_threads_of_a_worker():
    """A worker's threads measure side by side: each has sessions of its own, and the records of one thread."""
    args = cli.command_line().parse_args(["perturb", DEMO, scenes(), "-o", "out", "--threads", "1"])
    plan = runs.prepare(args)
    text = json.dumps({key: plan[key] for key in plan if key not in ("units", "contents")})
    expected = [runs.measure_remotely(text, unit) for unit in plan["units"]]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda unit: runs.measure_remotely(text, unit), plan["units"]))
    check(found == expected, f"records differ, such as {[a for a, b in zip(found, expected) if a != b][:1]}")


def test_method_that_a_network_lacks():
    """agf_lc needs a global average pool before the logits: without one it is reported, and the other method counts."""
    import agf_convert as convert

    rng = np.random.RandomState(6)
    conv = {"kernel": (3, 3), "stride": (4, 4), "pad": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    nodes = [
        convert.Node("conv", "conv", ["input"], weights=rng.randn(4, 3, 3, 3), **conv),
        convert.Node("relu", "relu", ["conv"]),
        convert.Node("flatten", "flatten", ["relu"]),
        convert.Node("linear", "linear", ["flatten"], weights=rng.randn(10, 256), bias=rng.randn(10)),
    ]
    with agf.Model(DEMO) as demo:
        labels = demo.labels
    preprocessing = convert.Preprocessing((0.5,) * 3, (0.25,) * 3)
    convert.ModelFile(convert.Network((3, 32, 32), nodes, labels=labels, preprocessing=preprocessing)).write("flat.agf")
    evaluate("perturb", "flat.agf", scenes(), "-o", "out", "--limit", 2, "-m", "agf", "-m", "agf_lc")
    found = json.loads(results_of("out"))
    check({row["method"] for row in found["results"]} == {"agf"}, "agf counts")
    check(sum("agf_lc" in problem for problem in found["problems"]) == 2, f"problems: {found['problems']}")


def test_folders_and_file_names():
    rows = scene_rows()[:2]
    for row in rows:
        os.makedirs(os.path.join("folders", row["label"]))
        shutil.copy(os.path.join(scenes(), row["file"]), os.path.join("folders", row["label"], "a.png"))
        os.makedirs("names", exist_ok=True)
        shutil.copy(os.path.join(scenes(), row["file"]), os.path.join("names", f"{row['label']}_1.png"))
    evaluate("perturb", DEMO, scenes(), "-o", "csv", "--limit", 2)
    expected = value("csv", "agf", "positive")
    for folder in ("folders", "names"):
        evaluate("perturb", DEMO, folder, "-o", "out_" + folder)
        check(value("out_" + folder, "agf", "positive") == expected, folder)


def kill_midway(command, records, lines):
    """Start a run and kill it once its records have this many lines."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_lines(records, lines, process)
    process.kill()
    process.wait()


def wait_for_lines(records, lines, process):
    deadline = time.monotonic() + 300
    while count_lines(records) < lines:
        check(process.poll() is None, "the run ended before it could be killed")
        check(time.monotonic() < deadline, "nothing happens")
        time.sleep(0.001)


def count_lines(path):
    try:
        with open(path, "rb") as f:
            return f.read().count(b"\n")
    except FileNotFoundError:
        return 0


RUN = ("-m", "agf", "-m", "agf:no_fx", "--threads", "1", "--sheet", "0")


@functools.lru_cache(1)
def whole_results():
    """results.json of the run that is killed, split and spread below, made by one process at once."""
    with tempfile.TemporaryDirectory() as folder:
        evaluate("perturb", DEMO, scenes(), "-o", folder, *RUN)
        return results_of(folder)


def test_resume():
    command = EVAL + ["perturb", DEMO, scenes(), "-o", "killed", *RUN]
    kill_midway(command, "killed/records.jsonl", 3)
    done = count_lines("killed/records.jsonl")
    check(3 <= done < SCENES, f"{done} of {SCENES} records after the kill")
    check(not os.path.exists("killed/results.json"), "no results before the end")
    with open("killed/records.jsonl", "rb") as f:
        kept = f.read()
    with open("killed/records.jsonl", "ab") as f:
        f.write(b'{"unit": "00011.png", "result": {"ag')  # as a machine that loses power leaves it
    evaluate("perturb", DEMO, scenes(), "-o", "killed", *RUN)
    with open("killed/records.jsonl", "rb") as f:
        check(f.read().startswith(kept[: kept.rfind(b"\n") + 1]), "finished pictures are not done again")
    check(count_lines("killed/records.jsonl") == SCENES, "each picture once")
    check(results_of("killed") == whole_results(), "the same results, to the byte")
    done = evaluate("perturb", DEMO, scenes(), "-o", "killed", "-m", "agf", code=2)
    check("other settings (methods)" in done.stderr, done.stderr)


def test_processes():
    """--jobs gives the numbers of one process."""
    common = ("segment", DEMO, scenes(), "--limit", "5", "--explain", "target", "--sheet", "0", "--threads", "1")
    evaluate(*common, "-o", "one")
    evaluate(*common, "--jobs", "2", "-o", "two")
    check(json.loads(results_of("one"))["results"] == json.loads(results_of("two"))["results"], "the same numbers")
    done = evaluate(*common, "--jobs", "2", "--dask", "tcp://nowhere:1", "-o", "never", code=2)
    check("neither --jobs nor" in done.stderr, done.stderr)


def test_killed_with_processes():
    """Of a run with --jobs that is killed nothing goes on working."""
    command = [*EVAL, "insert-delete", DEMO, scenes(), "--jobs", "2", "--sheet", "0", "-o", "killed"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        records = os.path.join("killed", "records.jsonl")
        while not os.path.exists(records) or not os.path.getsize(records):
            check(process.poll() is None, "it ended before it was killed")
            time.sleep(0.05)
        process.kill()
        process.stderr.read()  # its end comes when nobody holds the pipe any longer: the workers are gone


def deadly(text, unit):
    """Measures in a process that some units kill: one always, one where a file does not say that it has already."""
    if unit["id"] == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if unit["id"] == "once" and not os.path.exists(text):
        open(text, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"pid": os.getpid()}


def test_a_process_that_dies():
    """Its unit is tried again, alone; the others lose nothing, and one that kills every time is its own problem."""
    units = [{"id": name} for name in ("once", *map(str, range(12)), "deadly", "last")]
    travelling, runs.travelling = runs.travelling, lambda plan: os.path.abspath("tried")
    try:
        done = list(runs.work_in_processes({}, units, 2, deadly))
    finally:
        runs.travelling = travelling
    check(sorted(unit["id"] for unit, _ in done) == sorted(unit["id"] for unit in units), "each unit once")
    problems = {unit["id"]: record["_problem"] for unit, record in done if "_problem" in record}
    check(list(problems) == ["deadly"] and "ended" in problems["deadly"], problems)


def test_two_runs_in_one_folder():
    """The second is refused while the first is at work; the first goes on."""
    command = ["perturb", DEMO, scenes(), "-o", "shared", *RUN]
    with subprocess.Popen([*EVAL, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as first:
        records = os.path.join("shared", "records.jsonl")
        while not os.path.exists(records) or not os.path.getsize(records):
            check(first.poll() is None, "it ended before the second began")
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGSTOP)
        done = evaluate(*command, code=2)
        check("another run is writing there" in done.stderr, done.stderr)
        os.kill(first.pid, signal.SIGCONT)
        error = first.communicate()[1]
    check(first.returncode == 0 and count_lines(records) == SCENES, f"{first.returncode}: {error[-300:]}")
    evaluate(*command)  # when it has ended


def test_minutes():
    """--minutes ends early with the numbers so far, says so, and the same command goes on."""
    common = ("segment", DEMO, scenes(), "--limit", "6", "--explain", "target", "--sheet", "0")
    moments = iter([0.0, 1.0, 2.0, 61.0])
    clock, time.monotonic = time.monotonic, lambda: next(moments)
    try:
        done = evaluate(*common, "--minutes", "1", "-o", "out", code=3)
    finally:
        time.monotonic = clock
    check("4 of 6 units are left after 1 minutes" in done.stderr, done.stderr)
    check("so far 2 of 6 units" in done.stdout and value("out", "agf", "ap") is not None, done.stdout)
    evaluate(*common, "-o", "out")
    evaluate(*common, "-o", "whole")
    check(json.loads(results_of("out"))["results"] == json.loads(results_of("whole"))["results"], "as in one go")
    check("are left" in evaluate(*common, "--minutes", "1e-9", "-o", "none", code=3).stderr, "nothing in no time is no error")
    for wrong in ("0", "-1", "soon", "nan"):
        evaluate(*common, "--minutes", wrong, "-o", "never", code=2)
    sanity = ("sanity", DEMO, scenes(), "--limit", "2", "--explain", "target", "--sheet", "0", "--stages", "1")
    done = evaluate(*sanity, "--minutes", "1e-9", "-o", "sanity", code=3)
    check(not os.path.exists("sanity/results.json"), "half of a randomisation says nothing")


def test_shards():
    evaluate("perturb", DEMO, scenes(), "-o", "a", "--shard", "1/3", *RUN)
    done = evaluate("merge", "a", "-o", "out", code=2)
    check(f"{SCENES - SCENES // 3} of {SCENES}" in done.stderr, done.stderr)
    evaluate("perturb", DEMO, scenes(), "-o", "a", "--shard", "3/3", *RUN)
    evaluate("perturb", DEMO, scenes(), "-o", "b", "--shard", "2/3", *RUN)
    evaluate("merge", "a", "b", "-o", "out", "--sheet", "0")
    check(results_of("out") == whole_results(), "the same results, to the byte")
    evaluate("perturb", DEMO, scenes(), "-o", "other", "--shard", "1/3", "-m", "agf")
    check("different experiments" in evaluate("merge", "a", "other", "-o", "out", code=2).stderr, "different runs")


def test_dask():
    """Two workers, one of which is killed midway: the same results as one process."""
    try:
        import distributed
    except ImportError as missing:
        raise Skip(str(missing)) from None
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    started = []

    def start(module, *args):
        started.append(subprocess.Popen([sys.executable, "-m", "distributed.cli." + module, *args], **quiet))
        return started[-1]

    try:
        scheduler = start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", "s.json"
        )
        deadline = time.monotonic() + 60
        while not os.path.exists("s.json"):
            check(scheduler.poll() is None and time.monotonic() < deadline, "the scheduler did not start")
            time.sleep(0.05)
        with open("s.json", encoding="utf-8") as f:
            address = json.load(f)["address"]
        workers = [start("dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard") for _ in range(2)]
        with distributed.Client(address) as client:
            client.wait_for_workers(2, timeout=60)
        log = open("log", "w+", encoding="utf-8")
        run = subprocess.Popen(
            EVAL + ["perturb", DEMO, scenes(), "-o", "out", "--dask", address, *RUN], stdout=log, stderr=log
        )
        started.append(run)
        wait_for_lines("out/records.jsonl", 3, run)
        os.kill(workers[0].pid, signal.SIGKILL)
        workers[0].wait()
        left = SCENES - count_lines("out/records.jsonl")
        check(left > 1, "the worker was killed too late")
        code = run.wait(timeout=300)
        log.seek(0)
        check(code == 0, log.read()[-800:])
        log.close()
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
                process.wait()
    check(results_of("out") == whole_results(), "the same results, to the byte")


def test_sections():
    with open("R.md", "w", encoding="utf-8") as f:
        f.write("# Results\n\nWords.\n")
    results.put_section("R.md", "## One\n\n1\n")
    results.put_section("R.md", "## Two\n\n2\n")
    results.put_section("R.md", "## One\n\nagain\n")
    with open("R.md", encoding="utf-8") as f:
        check(
            f.read() == "# Results\n\nWords.\n\n## One\n\nagain\n\n## Two\n\n2\n", "a section is replaced in its place"
        )


def test_help():
    text = evaluate("--help").stdout
    check("parallel" in text and "--dask" in text and "merge" in text, "--help shows how to use several machines")
    for name in experiments.EXPERIMENTS:
        check("--shard" in evaluate(name, "--help").stdout, name)
    check(
        re.search("I/N|i/n", evaluate("perturb", DEMO, ".", "-o", "x", "--shard", "3/2", code=2).stderr), "--shard 3/2"
    )


if __name__ == "__main__":
    warnings.simplefilter("error")
    code = run_tests(dict(globals()), sys.argv[1:], missing_library(agf))
    if scenes.cache_info().currsize:
        shutil.rmtree(scenes())
    sys.exit(code)
