#!/usr/bin/env python3
"""The Python binding, tools/agf: results, errors, checked arguments, threads and lifetimes.

    python3 tests/test_python.py [-k TEXT]

Uses the golden cases in tests/golden and the shared library ($AGF_LIBRARY, else build/libagf.so). Needs numpy and
Pillow.
"""

import copy
import ctypes
import dataclasses
import gc
import itertools
import os
import pathlib
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from harness import ROOT, Skip, check, missing_library, needs, run_tests

needs("numpy", "PIL.Image")
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.join(ROOT, "tests"))
import agf  # noqa: E402
import oracle  # noqa: E402
from agf import engine  # noqa: E402
from agf.arrays import as_floats  # noqa: E402

GOLDEN = os.path.join(ROOT, "tests", "golden")
HEADER = os.path.join(ROOT, "agf.h")


def path_of(case):
    return os.path.join(GOLDEN, case, case + ".agf")


def load(case, name):
    return np.load(os.path.join(GOLDEN, case, name))


def listed(case, table):
    with open(os.path.join(GOLDEN, case, table), encoding="utf-8") as lines:
        return [line.split() for line in lines]


def picture_model(resize_to=0):
    """A file with a small network that has preprocessing and labels; crops if resize_to is given. Returns its path."""
    import agf_convert as convert

    rng = np.random.RandomState(5)
    conv = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    nodes = [
        convert.Node("conv", "conv", ["input"], weights=rng.randn(8, 3, 3, 3) / 5, bias=rng.randn(8) / 5, **conv),
        convert.Node("relu", "relu", ["conv"]),
        convert.Node("conv", "conv2", ["relu"], weights=rng.randn(8, 8, 3, 3) / 8, bias=rng.randn(8) / 5, **conv),
        convert.Node("relu", "relu2", ["conv2"]),
        convert.Node("global_avgpool", "pool", ["relu2"]),
        convert.Node("flatten", "flatten", ["pool"]),
        convert.Node("linear", "linear", ["flatten"], weights=rng.randn(3, 8), bias=rng.randn(3)),
    ]
    preprocessing = convert.Preprocessing(
        (0.4, 0.5, 0.6), (0.2, 0.25, 0.5), resize="crop" if resize_to else "stretch", resize_to=resize_to
    )
    network = convert.Network((3, 32, 40), nodes, "small", "a test", ["cup", "key", "tree"], preprocessing)
    convert.ModelFile(network).write("small.agf")
    return "small.agf"


def raises(kind, call, *texts):
    """call() raises exactly this kind of exception, with a message that holds every text; the exception."""
    try:
        call()
    except kind as problem:
        for text in texts:
            check(text in str(problem), f"{text!r} is not in {str(problem)!r}")
        return problem
    raise AssertionError(f"no {kind.__name__} was raised")


def close_to(got, expected, rel_l2):
    """agf-spec, "How exact a float32 map can be", for small golden cases: rel_l2 is an ordinary float32 run's error."""
    check(got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}")
    error = np.linalg.norm(got.astype(np.float64) - expected)
    limit = (4 * float(rel_l2) + 2e-6) * np.linalg.norm(expected)
    check(error <= limit, f"the map is off by {error:g}, allowed {limit:g}")


def test_maps_of_golden_cases():
    for case in ("vgg_tiny", "resnet_bottleneck", "squeeze_tiny"):
        with agf.Model(path_of(case)) as model, model.session(threads=1) as session:
            logits = session.run(load(case, "input.npy"))
            # A float32 forward pass of a few layers: 1e-5 of the largest logit is 80 units in the last place.
            expected = load(case, "logits.npy")
            check(np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max(), f"{case}: logits")
            check(np.array_equal(session.logits, logits), "logits property")
            check(session.ranked(0) == int(np.argmax(logits)), "ranked(0) is the prediction")
            for name, target, rel_l2, options in listed(case, "maps.txt"):
                wanted = {} if options == "-" else dict.fromkeys(options.split(","), True)
                maps = session.explain(classes=[int(target)], **wanted)
                check(maps.dtype == np.float32 and session.explained == [int(target)], f"{case} {name}")
                close_to(maps[0], load(case, name), rel_l2)


def test_methods_of_golden_cases():
    tried = set()
    for case in ("vgg_tiny", "squeeze_tiny", "corners"):
        with agf.Model(path_of(case)) as model, model.session(threads=1, methods=agf.METHODS) as session:
            session.run(load(case, "input.npy"))
            for name, method, target, steps, rel_l2 in listed(case, "methods.txt"):
                options = {"steps": int(steps)} if int(steps) else {}
                got = session.explain(classes=int(target), method=method, **options)[0]
                close_to(got, load(case, name), rel_l2)
                tried.add(method)
    check(tried == set(agf.METHODS) - {"agf", "smoothgrad"}, f"methods tried: {tried}")  # smoothgrad has no golden map


def test_options_of_methods():
    x = load("squeeze_tiny", "input.npy")
    with agf.Model(path_of("squeeze_tiny")) as model, model.session(threads=1, methods=agf.METHODS) as session:
        session.run(x)
        smooth = session.explain(method="smoothgrad", samples=3, seed=7)
        check(np.array_equal(session.explain(method="smoothgrad", samples=3, seed=7), smooth), "the same seed")
        check(not np.array_equal(session.explain(method="smoothgrad", samples=3, seed=8), smooth), "another seed")
        check(not np.array_equal(session.explain(method="smoothgrad", samples=4, seed=7), smooth), "more samples")
        k = session.ranked(0)
        at_image, logits = session.explain(method="integrated_gradients", steps=200)[0].sum(), session.logits[k]
        with model.session(threads=1) as other:
            at_zero = other.run(np.zeros_like(x))[k]
        # Completeness, up to the midpoint rule's error with 200 steps over a function with kinks.
        check(
            abs(at_image - (logits - at_zero)) <= 0.01 * abs(logits - at_zero), "integrated gradients sum to the change"
        )
        convolutions = [layer.name for layer in model.layers() if layer.op == "conv"]
        first = session.explain(method="gradcam", layer=convolutions[0])
        check(not np.array_equal(first, session.explain(method="gradcam")), "Grad-CAM of another layer")
        index = [layer.name for layer in model.layers()].index(convolutions[0])
        check(np.array_equal(first, session.explain(method="gradcam", layer=index)), "a layer's name or index")
        check(np.array_equal(session.logits[k], logits), "the logits are those of run()")
        for call, kind, text in (
            (lambda: session.explain(method="gradcam", layer="nowhere"), ValueError, "nowhere"),
            (lambda: session.explain(method="gradcam", layer=10**6), ValueError, "layer"),
            (lambda: session.explain(method="gradcam", steps=3), TypeError, "layer"),
            (lambda: session.explain(method="gradient", no_a=True), TypeError, "against"),
            (lambda: session.explain(method="clrp", no_a=True), TypeError, "none"),
            (lambda: session.explain(method="integrated_gradients", steps=0), ValueError, "steps"),
            (lambda: session.explain(method="smoothgrad", seed=-1), ValueError, "seed"),
        ):
            raises(kind, call, text)


def test_against():
    """One class against another: by number in a session, by label where labels are; what it is on a gradient."""
    with agf.Model(path_of("squeeze_tiny")) as model, model.session(threads=1, methods=agf.METHODS) as session:
        session.run(load("squeeze_tiny", "input.npy"))
        best, next_best = session.ranked(0), session.ranked(1)
        both = session.explain([best, next_best], method="gradient_x_input").astype(np.float64)
        against = session.explain(best, method="gradient_x_input", against=next_best)[0]
        # Two float32 sums of a few thousand terms each.
        close_to(against, both[0] - both[1], 1e-5)
        for method in ("agf", "agf_lc", "lrp_lc", "hirescam"):
            alone, other = session.explain(best, method=method), session.explain(best, method=method, against=next_best)
            check(np.isfinite(other).all() and not np.array_equal(alone, other), f"{method} against another class")
        for call, kind, text in (
            (lambda: session.explain(best, method="lrp_a1b0", against=next_best), TypeError, "lrp_a1b0"),
            (lambda: session.explain(best, against=best), agf.Error, "itself"),
            (lambda: session.explain(best, against=10**4), ValueError, "class"),
            (lambda: session.explain(best, against="cup"), ValueError, "labels"),
        ):
            raises(kind, call, text)
        x = load("squeeze_tiny", "input.npy")
        why = model.explain(x, [best], against=next_best)
        check(np.array_equal(why.map, session.explain(best, against=next_best)[0]), "Model.explain against")
        check(why.against == f"class {next_best}" and f"against class {next_best}" in repr(why), repr(why))


def test_smoothing():
    x = load("squeeze_tiny", "input.npy")
    with agf.Model(path_of("squeeze_tiny")) as model:
        plain, smooth = model.explain(x, top=2), model.explain(x, top=2, smooth=1.5)
        check(plain.classes == smooth.classes and plain.maps.shape == smooth.maps.shape, "the same classes")
        for before, after in zip(plain.maps, smooth.maps):
            check(np.array_equal(agf.smooth_map(before, 1.5), after) and np.ptp(after) < np.ptp(before), "each map")
            close_to(np.array([after.sum()]), np.array([before.sum()], np.float64), 1e-4)
        check(np.array_equal(agf.smooth_map(plain.map, 0), plain.map), "0 changes nothing")
        for sigma in (-1, float("nan"), 257):
            raises(agf.Error, lambda: agf.smooth_map(plain.map, sigma), "deviation")


def test_several_classes():
    with agf.Model(path_of("vgg_tiny")) as model, model.session(threads=2) as session:
        session.run(load("vgg_tiny", "input.npy"), explain=False)
        order = np.argsort(-session.logits, kind="stable")
        top = session.explain(top=3)
        check(session.explained == list(order[:3]), "top=3 explains the three highest")
        named = session.explain(classes=order[:3])  # a numpy array of classes
        check(np.array_equal(top, named), "ranks and classes give the same maps")
        check(np.array_equal(session.explain()[0], top[0]), "the default is the prediction")
        check(np.array_equal(session.explain(classes=np.int64(order[1]))[0], top[1]), "a single numpy integer")


def test_label_free():
    with agf.Model(path_of("vgg_tiny")) as model, model.session() as session:
        x = load("vgg_tiny", "input.npy")
        session.run(x * np.float32(0.5))
        neighbour = session.latent()
        session.run(x)
        latent = session.latent()
        ordinary = session.explain()
        # S - 0 is the ordinary procedure up to the rounding of the logits.
        close_to(session.explain(difference=latent)[0], ordinary[0].astype(np.float64), 1e-5)
        check(not np.array_equal(session.explain(difference=latent - neighbour), ordinary), "the difference counts")
        raises(ValueError, lambda: session.explain(difference=latent[:-1]), "difference", str(list(latent.shape)))


def test_bank():
    """Model.bank() and its file, the neighbours by a plain search, what is explained, and what is refused."""
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(12)]
    with agf.Model(picture_model()) as model, model.session() as session, tempfile.TemporaryDirectory() as folder:
        bank = model.bank(pictures, names=[f"p{i}" for i in range(12)])
        session.run(model.preprocess(pictures[4]))
        latent = session.latent()
        check(np.array_equal(bank.latents[4], latent), "a bank holds what latent() gives")
        exact = np.sqrt(((bank.latents.astype(np.float64) - latent) ** 2).sum(1))
        order = [i for i in np.argsort(exact, kind="stable") if exact[i] > 0][:3]
        places, distances = bank.nearest(latent, 3)
        # Both sum squares in double, in another order: a few roundings of 1e-16.
        check(places.tolist() == order and np.allclose(distances, exact[order], rtol=1e-14), f"{places} {order}")
        check(bank.nearest(latent, 1, others=False)[0][0] == 4, "the picture itself counts where it is asked for")
        both = bank.nearest(bank.latents[:2], 20)
        check(both[0].shape == (2, 20) and both[0][0, -1] == -1 and np.isinf(both[1][0, -1]), "more than there are")

        maps = session.explain(bank=bank, neighbours=3)
        check(session.neighbours == [(f"p{i}", float(d)) for i, d in zip(order, distances)], str(session.neighbours))
        mean = bank.latents[order].astype(np.float64).mean(0)
        check(np.array_equal(maps, session.explain(difference=(latent - mean).astype(np.float32))), "their mean's map")
        small = agf.Bank(["a", "b"], np.float32([[1, -4, -1, 5], [3, -2, 2, 5]]), 0, (1, 1))
        shared = small.compare(np.float32([2, -3, 1, 0]), [0, 1], shared=True)
        check(shared.tolist() == [1, -2, 0, 0], f"what is shared: {shared}")
        one = model.explain(pictures[4], bank=bank, neighbours=3)
        check(np.array_equal(one.maps, maps), "Model.explain() passes it on")

        path = os.path.join(folder, "net.bank")
        bank.save(path)
        again = model.bank(path)
        check(again.names == bank.names and np.array_equal(again.latents, bank.latents), "the file gives it back")
        check(again.input_size == bank.input_size and again.checksum == model.checksum, "and whose it is")
        with open(path, "rb") as file:
            data = file.read()
        for bad, word in ((data[:-1], "truncated|damaged"), (data[:50], "truncated"), (b"x" * 99, "not a bank"),
                          (data[:90] + bytes([data[90] ^ 1]) + data[91:], "checksum")):
            with open(path, "wb") as file:
                file.write(bad)
            try:
                model.bank(path)
                check(False, f"{word}: not refused")
            except ValueError as problem:
                check(re.search(word, str(problem)) and "net.bank" in str(problem), str(problem))
        raises(ValueError, lambda: model.bank("/dev/zero"), "not a bank")
        os.chmod(path, 0o640)
        link = os.path.join(folder, "link")
        os.symlink("net.bank", link)
        bank.save(link)
        check(os.path.islink(link) and os.stat(path).st_mode & 0o777 == 0o640, "the link and the permissions stay")
        check(model.bank(path).names == bank.names, "what the link leads to is written")
        pipe = os.path.join(folder, "pipe")
        os.mkfifo(pipe)
        raises(ValueError, lambda: bank.save(pipe), "pipe", "no regular file")
        check(sorted(os.listdir(folder)) == ["link", "net.bank", "pipe"], str(os.listdir(folder)))
        with agf.Model(path_of("vgg_tiny")) as other:
            raises(ValueError, lambda: other.bank(path), "another model")
            with other.session() as elsewhere:
                elsewhere.run(load("vgg_tiny", "input.npy"))
                raises(ValueError, lambda: elsewhere.explain(bank=bank), "another model")
        raises(ValueError, lambda: session.explain(bank=bank, difference=latent), "not both")
        raises(ValueError, lambda: model.bank([]), "at least one")
        raises(ValueError, lambda: agf.Bank(["a"], np.float32([[np.nan]]), 0, (1, 1)), "finite")


def test_demo_without_labels():
    """The network that learned without labels: its bank is its own, and of what sets the demo's picture apart
    from its neighbour most lies where the mushroom is, the upper right quarter, which the neighbour does not have."""
    demo = os.path.join(ROOT, "tests", "demo")
    with agf.Model(os.path.join(demo, "selfsup.agf")) as model, model.session(threads=1) as session:
        bank = model.bank(os.path.join(demo, "selfsup.bank"))
        check(len(bank) == 200 and all(name.endswith(".png") for name in bank.names), repr(bank))
        check(max(os.path.getsize(os.path.join(demo, f"selfsup.{kind}")) for kind in ("agf", "bank")) < 10**6, "small")
        other = model.bank([os.path.join(demo, "neighbours", "house-key-tree.png")])
        session.run(model.preprocess(agf.read_picture(os.path.join(demo, "odd.png"))))
        positive = np.maximum(session.explain(method="agf_a", bank=other)[0], 0)
        check(positive[:32, 32:].sum() > 0.7 * positive.sum(), f"{positive[:32, 32:].sum() / positive.sum():.2f}")
        check(bank.nearest(session.latent())[1][0] > 0, "the picture is none of the bank's")


def test_model_information():
    with agf.Model(picture_model()) as model:
        check((model.name, model.source, model.labels) == ("small", "a test", ["cup", "key", "tree"]), "texts")
        check(model.classes == 3 and model.parameters == 8 * 27 + 8 + 8 * 72 + 8 + 3 * 8 + 3, "counts")
        check(model.file_bytes == os.path.getsize("small.agf"), "size")
        check(model.input[:7] == (3, 32, 40, True, "rgb", "stretch", 0), str(model.input))
        # These are float32 in the file: half a unit in the last place.
        check(np.abs(np.subtract(model.input.std, (0.2, 0.25, 0.5))).max() <= 1.5e-8, "std")
        layers = model.layers()
        check([layer.op for layer in layers][:2] == ["conv", "relu"], "ops")
        check(layers[2].shape == (8, 8, 10) and layers[2].inputs == (2,) and layers[0].inputs == (0,), "shapes, inputs")
        check(model.layers(64, 40)[0].shape == (8, 32, 20), "another size")
    with agf.Model(path_of("vgg_tiny")) as model:
        check(model.labels == [], "no labels")
    check(re.fullmatch(r"\d+\.\d+\.\d+", agf.version()), "version")


def test_pictures():
    rng = np.random.RandomState(1)
    picture = rng.randint(0, 256, (48, 60, 3)).astype(np.uint8)
    with agf.Model(picture_model()) as model, model.session(threads=1) as session:
        chw = model.preprocess(picture)
        check(chw.shape == (3, 32, 40) and chw.dtype == np.float32, "shape")
        resized = np.asarray(Image.fromarray(picture).resize((40, 32), Image.BILINEAR), np.float64)
        expected = ((resized / 255 - model.input.mean) / model.input.std).transpose(2, 0, 1)
        # Pillow rounds to 8 bits after each of its two passes: at most a step, and std is at least 0.2.
        check(np.abs(chw - expected).max() <= 1 / 255 / 0.2, "agrees with Pillow")
        for same in (
            Image.fromarray(picture),
            np.asfortranarray(picture),
            np.pad(picture, ((0, 0), (0, 9), (0, 0)))[:, :60],
        ):
            check(np.array_equal(model.preprocess(same), chw), "Pillow images and strided arrays")
        check(model.preprocess(picture, 16, 24).shape == (3, 16, 24), "another size")
        gray = Image.fromarray(picture[:, :, 0])
        check(
            np.array_equal(model.preprocess(gray), model.preprocess(np.repeat(picture[:, :, :1], 3, 2))), "gray image"
        )
        session.run(session.preprocess(picture))
        heat = session.explain()[0]
        before = picture.copy()
        over = model.render(heat, "seismic", over=picture)
        check(over.shape == picture.shape and over.dtype == np.uint8, "an overlay is as large as its picture")
        check(np.array_equal(picture, before), "render leaves the caller's picture alone")
        check(np.array_equal(model.render(heat, over=picture, alpha=0.0), picture), "alpha 0 shows the picture")
        check(not np.array_equal(over, picture), "the overlay shows something")
        check(np.array_equal(model.render(heat, "seismic", over=Image.fromarray(picture)), over), "over a Pillow image")
        plain = model.render(np.array([[1.0, 0.0, -1.0]], np.float32), "seismic")
        check(plain.shape == (1, 3, 3), "the map's size")
        check(plain[0, 0, 0] > plain[0, 0, 2] and plain[0, 2, 2] > plain[0, 2, 0], "red for, blue against")
        check(plain[0, 1].min() >= 250, "white is none")
        check(model.render(heat, "turbo", size=(7, 9), transparent=True).shape == (7, 9, 4), "size and transparency")
    with agf.Model(picture_model(resize_to=40)) as model:
        seen = model.seen(picture)
        check(seen.width < 60 and seen.height <= 48 and seen.left > 0, f"a crop sees a part: {seen}")
        over = model.render(np.ones((32, 40), np.float32), over=picture, alpha=1.0)
        check(np.array_equal(over[:, 0], picture[:, 0]), "what the network did not see stays as it was")


def test_explain_in_one_call():
    """Paths, Pillow images, arrays and tensors, one or many: the maps, names and probabilities of the steps by hand."""
    picture = np.random.RandomState(2).randint(0, 256, (48, 60, 3)).astype(np.uint8)
    Image.fromarray(picture).save("a.png")
    with agf.Model(picture_model()) as model, model.session(threads=1, methods=["agf", "gradcam"]) as session:
        x = model.preprocess(picture)
        logits = session.run(x)
        expected, order = session.explain(classes=[2, 0]), np.argsort(-logits, kind="stable")
        p = np.exp(logits.astype(float) - logits.max())
        p /= p.sum()
        np.save("x.npy", x)
        for photo in ("a.png", os.fsencode("a.png"), pathlib.Path("a.png"), Image.open("a.png"), picture, x, "x.npy"):
            why = model.explain(photo, classes=["tree", "CUP"])
            check(np.array_equal(why.maps, expected) and why.classes == [2, 0], f"maps of {type(photo)}")
            check(why.labels == ["tree", "cup"] and why.label == "tree" and why.class_index == 2, str(why.labels))
            # Softmax in double of float32 logits, here and there.
            check(np.abs(np.subtract(why.probabilities, p[[2, 0]])).max() < 1e-12, "probabilities")
            check(np.array_equal(why.logits, logits) and np.array_equal(why.map, expected[0]), "logits, map")
        check(
            np.array_equal(model.explain(picture).maps, model.explain(picture, classes=int(order[0])).maps), "default"
        )
        check(model.explain(picture, top=3).classes == list(order), "top")
        coarse = model.explain(picture, "key", method="gradcam")
        check(np.array_equal(coarse.map, session.explain(classes=1, method="gradcam")[0]), "another method")
        for batch in (["a.png", picture], ("a.png", picture), np.stack([picture] * 2), np.stack([x] * 2), iter([x, x])):
            many = model.explain(batch, classes=[2, 0])
            check(isinstance(many, list) and len(many) == 2, f"a batch of {type(batch)}")
            check(all(np.array_equal(one.maps, expected) for one in many), f"maps of a batch of {type(batch)}")
        np.save("gray.npy", picture[:, :, 0])
        raises(ValueError, lambda: model.explain(["a.png", "gray.npy"]), "picture 1 (gray.npy): ", "[48, 60]")
        raises(ValueError, lambda: model.explain([picture, picture[:, :, 0]]), "picture 1: ", "[48, 60]", "Image.fromarray")
        raises(ValueError, lambda: model.explain(picture / 255), "[3, height, width]", "[48, 60, 3]", "a picture is uint8")
        check(model.explain(picture, size=(16, 24)).map.shape == (16, 24), "another size")
        check(model.explain(model.preprocess(picture, 16, 24)).map.shape == (16, 24), "a tensor's size")

        why = model.explain("a.png", classes=["tree", "cup"])
        check(len(why) == 2 and [one.label for one in why] == ["tree", "cup"], "a sequence of classes")
        check(
            np.array_equal(why["cup"].map, expected[1]) and why[-1].probability == why.probabilities[1], "one of them"
        )
        check("tree" in repr(why) and "a.png" in repr(why), repr(why))
        for share, text in ((0, "0 %"), (1, "100 %"), (1 - 1e-9, "> 99.9999 %"), (0.99964, "99.964 %"), (0.5, "50.0 %"),
                            (0.00888, "0.89 %"), (8e-5, "0.008 %"), (1e-9, "< 0.0001 %")):  # fmt: skip
            sure = repr(dataclasses.replace(why[0], probabilities=[share]))
            check(sure.endswith(f": tree {text}>"), f"as the program prints it: {sure}")
        check(why.overlay().size == (120, 48) and why[0].overlay().size == (60, 48), "overlays side by side")
        gray = np.asarray(why[0].overlay(alpha=0.0))
        check(np.array_equal(gray, agf.mute(picture)), "over the picture in light gray, as the program has it")
        check(np.array_equal(gray[:, :, 0], gray[:, :, 2]) and gray.min() >= 255 * 0.35 - 1, "no dark hides the map")
        check(np.array_equal(np.asarray(why[0].overlay(alpha=0.0, colour=True)), picture), "or in its colours")
        why.save("why.png")
        why.save("why.npy")
        with Image.open("why.png") as image:
            check(np.array_equal(np.asarray(image), np.asarray(why.overlay())), "a picture")
        check(np.array_equal(np.load("why.npy"), expected), "an array")
        check(why._repr_png_().startswith(b"\x89PNG"), "a notebook's picture")
        check(model.explain(x).overlay().size == (40, 32), "a tensor has no picture")
        box = why.box(1.0)
        rows, columns = np.nonzero(why.map > 0)
        check(
            box[:4] == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1), f"the whole evidence: {box}"
        )
        again = pickle.loads(pickle.dumps(why))
        check(np.array_equal(again.maps, why.maps) and again.labels == why.labels, "an Explanation is plain data")

        for call, kind, text in (
            (lambda: model.explain(picture, "trea"), ValueError, "did you mean 'tree'"),
            (lambda: model.explain(picture, "xyzzy"), ValueError, "no class"),
            (lambda: model.explain(picture, 3), ValueError, "between 0 and 2"),
            (lambda: model.explain(picture, [1.5]), TypeError, "float"),
            (lambda: model.explain("missing.png"), OSError, "missing.png"),
            (lambda: model.explain(picture[:, :, :2]), ValueError, "[48, 60, 2]"),
            (lambda: model.explain(x[0]), ValueError, "[3, 32, 40]"),
            (lambda: model.explain(3), TypeError, "picture"),
            (lambda: model.explain(picture, method="nonsense"), ValueError, "agf"),
            (lambda: why["key"], KeyError, "cup"),
        ):
            raises(kind, call, text)
        with open("x.png", "wb") as f:
            f.write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n")
        raises(OSError, lambda: model.explain("x.png"), "x.png")
        check(in_thread(lambda: model.explain(picture)) is None, "each thread has a session of its own")
    raises(ValueError, lambda: model.explain(picture), "closed")
    check(why.overlay().size == (120, 48), "an Explanation outlives its model")
    with agf.Model(path_of("vgg_tiny")) as model:
        why = model.explain(load("vgg_tiny", "input.npy"))
        check(why.label == f"class {why.class_index}", "without labels")
        raises(ValueError, lambda: model.explain(load("vgg_tiny", "input.npy"), "cup"), "no labels")


def test_names_of_classes():
    """A label may list several names; a name that several classes have is refused with their numbers."""
    from test_cli import write_model

    write_model("names.agf", labels=["tabby, tabby cat", "crane", "crane", "drum, barrel", "Fish"])
    with agf.Model("names.agf") as model:
        for name, k in (
            ("tabby, tabby cat", 0),
            ("Tabby Cat", 0),
            ("barrel", 3),
            (" fish ", 4),
            (2, 2),
            (np.int8(1), 1),
        ):
            check(model.class_index(name) == k, repr(name))
        raises(ValueError, lambda: model.class_index("crane"), "2 classes", "crane (1), crane (2)")
        check(model.class_index("bar") == 3, "a part of a label")
        raises(ValueError, lambda: model.class_index("crane\0"), "NUL")
        raises(ValueError, lambda: model.class_index("fish\0cake"), "NUL")
        raises(ValueError, lambda: model.session(isa="ref\0x"), "NUL")


def test_frames():
    """Every pixel format against the same conversion in numpy, with rows that have gaps and without."""
    rng = np.random.default_rng(3)
    width, height = 13, 7
    for name in ("rgb24", "bgr24", "gray"):
        planes = [rng.integers(0, 256, (height, width * (1 if name == "gray" else 3)), np.uint8)]
        wanted = planes[0].reshape(height, width, -1)
        wanted = np.repeat(wanted, 3, 2) if name == "gray" else wanted[:, :, ::-1] if name == "bgr24" else wanted
        check(np.array_equal(agf.frame(planes[0].tobytes(), width, height, name), wanted), name)
        gaps = np.pad(planes[0], ((0, 0), (0, 5)))
        check(np.array_equal(agf.frame(gaps, width, height, name, (gaps.shape[1],)), wanted), f"{name} with gaps")
    y = rng.integers(0, 256, (height, width), np.uint8)
    u, v = rng.integers(0, 256, (2, (height + 1) // 2, (width + 1) // 2), np.uint8)
    # ITU-R BT.601: Y = 0.299 R + 0.587 G + 0.114 B of 0 to 1 in 16 to 235, Cb = (B - Y) / 1.772 and
    # Cr = (R - Y) / 1.402 in 16 to 240
    luma = (y - 16.0) / 219
    cb, cr = ((np.repeat(np.repeat(c, 2, 0), 2, 1)[:height, :width] - 128.0) / 224 for c in (u, v))
    red, blue = luma + 1.402 * cr, luma + 1.772 * cb
    exact = np.stack([red, (luma - 0.299 * red - 0.114 * blue) / 0.587, blue], 2) * 255
    pairs = np.stack([u, v], 2).reshape(u.shape[0], -1)
    for name, planes in (("yuv420", [y, u, v]), ("nv12", [y, pairs])):
        seen = agf.frame(b"".join(p.tobytes() for p in planes), width, height, name)
        # rounded to whole numbers; the coefficients in use have six digits
        check(not np.abs(seen - np.clip(exact, 0, 255)).max() > 0.5001, f"{name} is BT.601's")
        gaps = [np.pad(p, ((0, 0), (0, 3))) for p in planes]
        again = agf.frame(b"".join(p.tobytes() for p in gaps), width, height, name, tuple(p.shape[1] for p in gaps))
        check(np.array_equal(seen, again), f"{name} with gaps")
    # Pillow's YCbCr has the full range
    image = Image.fromarray(np.full((4, 4, 3), (200, 90, 40), np.uint8)).convert("YCbCr")
    full = np.asarray(image).astype(float)[0, 0]
    video = [round(16 + full[0] * 219 / 255)] * 16 + [c for f in full[1:] for c in [round(128 + (f - 128) * 224 / 255)] * 4]
    check(np.abs(agf.frame(bytes(video), 4, 4, "yuv420") - np.array([200, 90, 40.0])).max() <= 3, "as Pillow, twice rounded")
    for call, text in (
        (lambda: agf.frame(b"0" * 9, 2, 2), "12 bytes"),
        (lambda: agf.frame(b"0" * 13, 2, 2), "12 bytes"),
        (lambda: agf.frame(b"0" * 12, 2, 2, "mauve"), "nv12"),
        (lambda: agf.frame(b"0" * 12, 2, 2, "rgb24", (5,)), "stride"),
        (lambda: agf.frame(b"0" * 12, 2, 2, "nv12", (2,)), "2 planes"),
        (lambda: agf.frame(b"", 0, 2), "width"),
    ):
        raises(ValueError, call, text)


def test_wrong_arguments():
    with agf.Model(picture_model()) as model, model.session(threads=1) as session:
        picture = np.zeros((8, 8, 3), np.uint8)
        raises(agf.Error, lambda: session.explain(), "run")
        raises(agf.Error, lambda: session.logits, "run")
        x = model.preprocess(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
        session.run(x)
        first = session.explain()
        for wrong, kind, text in (
            (picture, TypeError, "uint8"),
            (x.astype(complex), TypeError, "complex"),
            (x[0], ValueError, "[3, 32, 40]"),
            (x.transpose(1, 2, 0), ValueError, "[32, 40, 3]"),
            (np.stack([x, x]), ValueError, "[2, 3, 32, 40]"),
            ([[1.0]], ValueError, "[1, 1]"),
            ("x", TypeError, "floats"),
            (None, TypeError, "floats"),
            (np.full(x.shape, "a", object), TypeError, "object"),
        ):
            raises(kind, lambda: session.run(wrong), text)
        check(np.array_equal(session.explain(), first), "a refused input leaves the session as it was")
        whole = model.explain(x).maps
        raises(agf.Error, lambda: model.explain(x, size=(70000, 1)), "70000")
        check(np.array_equal(model.explain(x).maps, whole), "a size that is refused leaves the model as it was")
        raises(TypeError, lambda: session.explain(no_fx="no"), "no_fx", "True or False")
        for same in (
            x.astype(np.float64),
            x[None],
            np.asfortranarray(x),
            x.astype(">f4"),
            np.repeat(x, 2, 2)[:, :, ::2],
        ):
            session.run(same)
            check(np.array_equal(session.explain(), first), "converted inputs give the same map")
        bad = x.copy()
        bad[1, 2, 3] = np.nan
        problem = raises(agf.Error, lambda: session.run(bad))
        check(problem.status == "AGF_ERR_NUMERIC", problem.status)
        session.run(x)
        check(model.render(first).shape == (32, 40, 3), "a map with a leading 1")
        for call, kind, text in (
            (lambda: session.explain(classes=[3]), ValueError, "between 0 and 2"),
            (lambda: session.explain(classes=[-1]), ValueError, "-1"),
            (lambda: session.explain(classes=[]), ValueError, "no classes"),
            (lambda: session.explain(classes=[0.5]), TypeError, "float"),
            (lambda: session.explain(classes=True), TypeError, "bool"),
            (lambda: session.explain(classes=10**30), ValueError, "between"),
            (lambda: session.explain(top=0), ValueError, "top"),
            (lambda: session.explain(top=4), ValueError, "top"),
            (lambda: session.explain(classes=[0], top=1), ValueError, "not both"),
            (lambda: session.explain(method="nonsense"), ValueError, "agf"),
            (lambda: session.explain(nonsense=True), TypeError, "no_fx"),
            (lambda: session.ranked(3), ValueError, "rank"),
            (lambda: session.times(99), agf.Error, "99"),
            (lambda: model.preprocess(picture.astype(np.float32)), TypeError, "float32"),
            (lambda: model.preprocess(picture[:, :, :2]), ValueError, "[8, 8, 2]"),
            (lambda: model.preprocess(picture[:0]), ValueError, "[0, 8, 3]"),
            (lambda: model.preprocess("picture.png"), TypeError, "uint8"),
            (lambda: model.preprocess(picture, -1, 8), ValueError, "height"),
            (lambda: model.preprocess(picture, 2**30, 2**30), ValueError, "large"),
            (lambda: model.render(first[0], "nonsense"), ValueError, "seismic"),
            (lambda: model.render(first[0], over=picture, size=(3, 3)), ValueError, "over"),
            (lambda: model.render(first[0], size=(0, 3)), ValueError, "height"),
            (lambda: model.session(threads=-1), ValueError, "threads"),
            (lambda: model.session(threads="2"), TypeError, "threads"),
            (lambda: model.session(isa=2), TypeError, "isa"),
            (lambda: model.session(isa="vax"), agf.Error, "vax"),
            (lambda: model.session(progress=3), TypeError, "progress"),
            (lambda: model.session(max_bytes=1000), agf.Error, ""),
            (lambda: model.session(height=1, width=1, threads=1).run(x), ValueError, "[3, 1, 1]"),
        ):
            raises(kind, call, text)


def test_files():
    problem = raises(agf.Error, lambda: agf.Model("missing.agf"), "missing.agf")
    check(problem.status == "AGF_ERR_IO", problem.status)
    again = pickle.loads(pickle.dumps(problem))
    check((again.status, str(again)) == (problem.status, str(problem)), "an Error survives pickling")
    with open(path_of("vgg_tiny"), "rb") as f:
        data = f.read()
    for name, content in (("cut.agf", data[:-64]), ("changed.agf", data[:-1] + b"\1"), ("empty.agf", b"")):
        with open(name, "wb") as f:
            f.write(content)
        raises(agf.Error, lambda: agf.Model(name))
    raises(TypeError, lambda: agf.Model(None))
    raises(TypeError, lambda: agf.Model(3))
    raises(ValueError, lambda: agf.Model("a\0b"), "NUL")
    shutil.copy(path_of("vgg_tiny"), "f\u00fcr.agf")
    for path in ("f\u00fcr.agf", os.fsencode("f\u00fcr.agf")):
        agf.Model(path).close()


def test_lifetimes():
    model = agf.Model(path_of("vgg_tiny"))
    session = model.session(threads=2)
    session.run(load("vgg_tiny", "input.npy"))
    model.close()
    model.close()
    raises(ValueError, session.explain, "closed")
    raises(ValueError, model.layers, "closed")
    raises(ValueError, model.session, "closed")
    session.close()
    check("closed" in repr(model) and "closed" in repr(session), "repr")
    # Garbage in a cycle, in whatever order the collector finds it: the engine's model must go last.
    for _ in range(5):
        model = agf.Model(path_of("vgg_tiny"))
        model.mine = [model.session(threads=1) for _ in range(3)]
        logits = model.mine[0].run(load("vgg_tiny", "input.npy"))
        del model
        gc.collect()
        check(np.isfinite(logits).all(), "results are copies")
    # A session keeps its model.
    session = agf.Model(path_of("vgg_tiny")).session()
    gc.collect()
    session.run(load("vgg_tiny", "input.npy"))
    # At exit, with everything still open.
    code = (
        f"import sys; sys.path.insert(0, {os.path.join(ROOT, 'tools')!r}); import agf\n"
        f"m = agf.Model({path_of('vgg_tiny')!r}); s = [m.session(threads=2) for i in range(3)]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    check(done.returncode == 0 and not done.stderr, f"exit code {done.returncode}: {done.stderr}")


def test_no_leaks():
    try:
        import resource
    except ImportError:
        raise Skip("no resource module") from None
    x = load("vgg_tiny", "input.npy")

    def work(count):
        for _ in range(count):
            with agf.Model(path_of("vgg_tiny")) as model, model.session(threads=2) as session:
                session.run(x)
                session.explain(top=2)
                session.latent()
            try:
                agf.Model("missing.agf")
            except agf.Error:
                pass

    work(20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work(150)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # One session of this network takes over 1 MB; 150 leaked ones would be beyond 150 MB (in KiB on Linux).
    check(grown < 20 * 1024, f"the process grew by {grown} KiB in 150 rounds")


def test_threads():
    """Sessions side by side: the same bits. The interpreter's lock is free meanwhile."""
    x = load("vgg_tiny", "input.npy")
    with agf.Model(path_of("vgg_tiny")) as model:
        with model.session(threads=1) as session:
            session.run(x)
            expected = session.explain(top=2)
            wrong = []

            def explain_often(mine):
                for _ in range(20):
                    if not np.array_equal(mine.explain(top=2), expected):
                        wrong.append("another map")

            def run_and_explain():
                with model.session(threads=2) as own:
                    own.run(x)
                    explain_often(own)

            workers = [threading.Thread(target=run_and_explain) for _ in range(3)]
            for worker in workers:
                worker.start()
            explain_often(session)
            for worker in workers:
                worker.join()
            check(not wrong, f"{len(wrong)} maps differ")
    with agf.Model(path_of("vgg_tiny")) as model, model.session(**LARGE, any_thread=True) as session:
        session.run(np.random.RandomState(0).randn(*session.input_shape))
        worker = threading.Thread(target=lambda: session.explain(top=10))
        switch, steps, longest, last = sys.getswitchinterval(), 0, 0.0, time.perf_counter()
        sys.setswitchinterval(1e-4)
        try:
            worker.start()
            while worker.is_alive():
                now = time.perf_counter()
                steps, longest, last = steps + 1, max(longest, now - last), now
        finally:
            sys.setswitchinterval(switch)
        worker.join()
        check(steps > 100, f"only {steps} steps of Python ran beside the engine, the longest pause was {longest:.3f} s")


LARGE = {"threads": 1, "height": 96, "width": 96}  # a session of vgg_tiny whose calls take milliseconds


def in_thread(call):
    """What call() raised in another thread, or None."""
    raised = []

    def caught():
        try:
            call()
        except BaseException as problem:
            raised.append(problem)

    worker = threading.Thread(target=caught)
    worker.start()
    worker.join()
    return raised[0] if raised else None


def test_threads_that_share_a_session():
    """Nobody gets the map of another thread's picture: calls that overlap or follow each other are refused by name."""
    with agf.Model(path_of("vgg_tiny")) as model:
        inside, go_on = threading.Event(), threading.Event()

        def wait(share):
            inside.set()
            go_on.wait(60)

        with model.session(threads=1, progress=wait) as session:
            x = load("vgg_tiny", "input.npy")
            worker = threading.Thread(target=session.run, args=(x,))
            worker.start()
            check(inside.wait(60), "the other thread runs")
            try:
                for call in (lambda: session.run(x), session.explain, session.latent, lambda: session.logits):
                    raises(RuntimeError, call, "in use", "each thread")
            finally:
                go_on.set()
                worker.join()
            for call in (session.explain, session.latent, session.ranked, lambda: session.logits):
                raises(RuntimeError, call, "in use", "last run")
            session.run(x)
            session.explain()
            problem = in_thread(session.explain)
            check(isinstance(problem, RuntimeError) and "last run" in str(problem), f"{problem!r}")
        with model.session(threads=1, any_thread=True) as session:
            session.run(x)
            check(in_thread(session.explain) is None, "any_thread")


def test_close_while_others_use_the_model():
    """What other threads are doing ends well or is refused as closed; the process lives."""
    code = f"""
import sys, threading, time
sys.path.insert(0, {os.path.join(ROOT, "tools")!r})
import agf
import numpy as np

picture = np.zeros((200, 200, 3), np.uint8)
uses = [
    lambda model: model.layers(),
    lambda model: model.session(threads=1).close(),
    lambda model: model.preprocess(picture),
    lambda model: model.session(threads=1).run(np.ones(model.session(threads=1).input_shape, np.float32)),
]
for round in range(30):
    model = agf.Model({os.path.abspath(picture_model())!r})
    wrong = []

    def use(call):
        try:
            while True:
                call(model)
        except ValueError as problem:
            if "closed" not in str(problem):
                wrong.append(problem)

    workers = [threading.Thread(target=use, args=(call,)) for call in uses]
    for worker in workers:
        worker.start()
    time.sleep(0.01)
    model.close()
    for worker in workers:
        worker.join()
    assert not wrong, wrong
print("fine")
"""
    command = [sys.executable, "-X", "faulthandler", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check(done.returncode == 0 and done.stdout == "fine\n", f"exit code {done.returncode}: {done.stderr[-800:]}")


def test_copies():
    """No handle can be copied: a copy would free twice, or stand for memory of another process."""
    with agf.Model(path_of("vgg_tiny")) as model, model.session(threads=1) as session:
        for handle in (model, session, model._handle):
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                raises(TypeError, lambda: copied(handle), "cannot be copied")
        session.run(load("vgg_tiny", "input.npy"))
        check(copy.deepcopy(model.layers()) == model.layers() and copy.copy(model.input) == model.input, "plain values")


def test_fork():
    """A child of os.fork() is told that the session is its parent's, makes its own, and exits without hanging."""
    if not hasattr(os, "fork"):
        raise Skip("no os.fork")
    code = f"""
import os, sys
sys.path.insert(0, {os.path.join(ROOT, "tools")!r})
import agf
import numpy as np

model = agf.Model({path_of("vgg_tiny")!r})
session = model.session(threads=2)
x = np.load({os.path.join(GOLDEN, "vgg_tiny", "input.npy")!r})
logits = session.run(x)
child = os.fork()
if child == 0:
    try:
        session.run(x)
    except agf.Error as problem:
        assert problem.status == "AGF_ERR_STATE" and "fork" in str(problem), problem
    else:
        raise AssertionError("the parent's session ran")
    with model.session(threads=2) as own:
        assert np.array_equal(own.run(x), logits)
    session.close()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert np.array_equal(session.run(x), logits)
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    check(done.returncode == 0 and done.stdout == "fine\n", f"exit code {done.returncode}: {done.stderr[-800:]}")


def test_interrupt():
    """Ctrl-C, or any handler of a signal that raises, ends a long call soon, with and without progress."""
    if not hasattr(signal, "setitimer"):
        raise Skip("no setitimer")

    class Alarm(Exception):
        pass

    def alarmed(number, frame):
        raise Alarm

    x = np.random.RandomState(0).randn(3, 96, 96)
    with agf.Model(path_of("vgg_tiny")) as model:
        for number, handler, kind in (
            (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
            (signal.SIGALRM, alarmed, Alarm),
        ):
            before = signal.signal(number, handler)
            try:
                for progress in (None, lambda share: None):
                    with model.session(**LARGE, methods=["agf", "smoothgrad"], progress=progress) as session:
                        session.run(x)
                        kill = threading.Timer(0.2, os.kill, (os.getpid(), number))
                        start = time.perf_counter()
                        kill.start()
                        raises(kind, lambda: session.explain(method="smoothgrad", samples=10**6))
                        # A million samples would take hours; a layer takes milliseconds, a busy machine its time.
                        check(time.perf_counter() - start < 20, f"{kind.__name__} came late")
                        check(signal.getsignal(number) is handler, "the handler is put back")
                        session.run(x)
                        session.explain()
            finally:
                signal.signal(number, before)


def test_arrays_of_every_kind():
    """Whatever an array's place in memory, order of bytes and strides: the same map, or a refusal by name."""
    x = load("vgg_tiny", "input.npy")
    buffer = bytearray(x.nbytes + 1)
    unaligned = np.frombuffer(buffer, np.float32, x.size, offset=1).reshape(x.shape)
    unaligned[...] = x
    check(not unaligned.flags.aligned, "an unaligned array to try")
    frozen = x.copy()
    frozen.setflags(write=False)
    taken = []
    with agf.Model(path_of("vgg_tiny")) as model, model.session(threads=1) as session:
        session.run(x)
        expected, latent = session.explain(), session.latent()
        kinds = [unaligned, frozen, x[:, ::-1][:, ::-1], x.astype(">f8"), np.asfortranarray(x), x.astype(np.longdouble)]
        for same in kinds:
            session.run(same)
            check(np.array_equal(session.explain(), expected), f"{same.dtype}, {same.flags}")
            taken.append(as_floats(same, x.shape, "x"))
        check(all(a.flags.aligned and a.flags.c_contiguous for a in taken), "what the engine gets is aligned")
        buffer = bytearray(latent.nbytes + 1)
        difference = np.frombuffer(buffer, np.float32, latent.size, offset=1)
        difference[...] = latent
        session.run(x)
        check(np.isfinite(session.explain(difference=difference)).all(), "an unaligned difference")
        masked = np.ma.masked_array(x, mask=x > 0)
        raises(TypeError, lambda: session.run(masked), "masked")
        raises(TypeError, lambda: model.render(np.ma.masked_array(expected[0], mask=expected[0] > 0)), "masked")


def test_progress():
    x = load("vgg_tiny", "input.npy")
    with agf.Model(path_of("vgg_tiny")) as model:
        shares = []
        with model.session(threads=1, progress=shares.append) as session:
            session.run(x)
            session.explain()
            check(shares and 0 <= min(shares) and max(shares) <= 1, "shares between 0 and 1")
        with model.session(threads=1, progress=lambda share: True) as session:
            check(raises(agf.Error, lambda: session.run(x)).status == "AGF_ERR_CANCELLED", "cancelled")

        def stop(share):
            raise KeyError("mine")

        with model.session(threads=1, progress=stop) as session:
            raises(KeyError, lambda: session.run(x), "mine")
        held = []
        with model.session(threads=1, progress=lambda share: held[0].run(x)) as session:
            held.append(session)
            raises(RuntimeError, lambda: session.run(x), "in use")
            raises(RuntimeError, lambda: session.run(x), "in use")


def test_session_options():
    x = load("vgg_tiny", "input.npy")
    with agf.Model(path_of("vgg_tiny")) as model:
        with model.session(threads=1, isa="ref") as session:
            check(session.isa == "ref" and session.threads == 1 and session.bytes > 0, repr(session))
            session.run(x)
            expected = session.explain(top=3)
            check(all(t.explain >= 0 for t in map(session.times, range(len(model.layers())))), "times")
        for config in ({"threads": 2}, {"low_memory": True}, {"threads": 5, "low_memory": True}):
            with model.session(**config) as session:
                session.run(x)
                check(np.array_equal(session.explain(top=3), expected), f"the same bits with {config}")


def test_library_search():
    code = "import agf; print(agf.library_path()); print(agf.version())"
    shutil.copytree(
        os.path.join(ROOT, "tools", "agf"), "tools/agf", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )

    def run(**environment):
        env = {k: v for k, v in os.environ.items() if k != "AGF_LIBRARY"}
        env.update(PYTHONPATH=os.path.abspath("tools"), **environment)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)

    none = run()
    check(none.returncode != 0 and "build" in none.stderr and "AGF_LIBRARY" in none.stderr, none.stderr)
    real = agf.library_path()
    os.mkdir("build")
    shutil.copy(real, "build/libagf.so")
    check(run().stdout.split()[0] == os.path.abspath("build/libagf.so"), "../build")
    shutil.copy(real, "tools/agf/libagf.so")
    check(run().stdout.split()[0] == os.path.abspath("tools/agf/libagf.so"), "beside the file")
    check(run(AGF_LIBRARY=real).stdout.split()[0] == real, "AGF_LIBRARY")
    check("nowhere.so" in run(AGF_LIBRARY="nowhere.so").stderr, "a wrong AGF_LIBRARY is named")
    # A relative name without a slash is a file here, not one that the loader knows.
    shutil.copy(real, "mine.so")
    check(run(AGF_LIBRARY="mine.so").stdout.split()[0] == os.path.abspath("mine.so"), "a relative AGF_LIBRARY")


def test_inner_layers():
    """Grad-CAM and its relatives at every layer, also where the engine fuses it with what stands behind it."""
    for folder, case in (("golden", "corners"), ("golden", "dense_tiny"), ("golden-extra", "relu6_inverted")):
        path = os.path.join(ROOT, "tests", folder, case)
        x = np.load(os.path.join(path, "input.npy"))
        path = os.path.join(path, f"{case}.agf")
        exact, single = (oracle.Network(path, dtype).run(x) for dtype in (np.float64, np.float32))
        methods = [m for m in agf.methods() if engine.method_has(m, "takes_layer")]
        with agf.Model(path) as model, model.session(height=x.shape[1], width=x.shape[2], methods=methods) as session:
            session.run(x)
            for method, node in itertools.product(methods, exact.nodes):
                try:
                    expected = exact.explain(0, method, layer=node.name)
                except oracle.OracleError:
                    continue
                found = session.explain(0, method=method, layer=node.name)[0]
                rounding = np.linalg.norm(single.explain(0, method, layer=node.name) - expected)
                error = np.linalg.norm(found - expected)  # as in random_graphs.py
                limit = 8 * rounding + 1e-5 * np.linalg.norm(expected)
                check(error <= limit, f"{case}: {method} at {node.name}: {error}")


def test_other_library():
    """A library of another version, or whose structs have other sizes, is refused before anything of it is called."""
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    if not compiler:
        raise Skip("no C compiler")
    names = [name for name in engine.FUNCTIONS if name not in ("agf_version", "agf_struct_bytes")]
    sizes = "".join(f'if (!strcmp(n, "{n}")) return {ctypes.sizeof(m)} + MORE({n});' for n, m in engine.STRUCTS.items())
    with open("stub.c", "w", encoding="utf-8") as f:
        f.write(
            '#include <string.h>\n#define MORE(s) (!strcmp(#s, STRUCT) ? BYTES : 0)\n'
            f"const char *agf_version(void) {{ return VERSION; }}\n"
            f"size_t agf_struct_bytes(const char *n) {{ {sizes} return 0; }}\n"
            + "".join(f"void {name}(void) {{ *(volatile char *)0 = 1; }}\n" for name in names)
        )
    major, minor = engine.VERSION
    for at, (found, struct, more, words) in enumerate(
        (
            (f"{major}.{minor}.7", "", 0, ()),
            (f"{major}.{minor + 1}.0", "", 0, ()),
            (f"{major + 1}.0.0", "", 0, (f"version {major + 1}.0.0", f"version {major},")),
            (f"{major - 1}.9.0", "", 0, (f"version {major - 1}.9.0",)),
            ("unknown", "", 0, ("version unknown",)),
            (f"{major}.{minor}.0", "agf_request", 8, ("agf_request has", "bytes", "one release")),
            (f"{major}.{minor}.0", "agf_error", -16, ("agf_error has",)),
        )
    ):
        library = os.path.abspath(f"stub{at}.so")
        flags = [f'-DVERSION="{found}"', f'-DSTRUCT="{struct}"', f"-DBYTES=({more})"]
        subprocess.run([compiler, "-shared", "-fPIC", "-w", *flags, "stub.c", "-o", library], check=True)
        done = subprocess.run(
            [sys.executable, "-c", "import agf; print(agf.version())"],
            capture_output=True,
            text=True,
            env={**os.environ, "AGF_LIBRARY": library, "PYTHONPATH": os.path.join(ROOT, "tools")},
            check=False,
        )
        if words:
            refused = done.returncode == 1 and all(word in done.stderr for word in (library, *words))
            check(refused, f"{found}, {struct} {more}: {done.stderr[-300:]}")
        else:
            check(done.stdout.strip() == found, f"{found} is taken: {done.stderr[-300:]}")


def test_installed_library():
    """A copy of the package by itself finds what `make install` has put below a prefix."""
    os.mkdir("prefix")
    os.mkdir("prefix/lib")
    shutil.copy(agf.library_path(), "prefix/lib/libagf.so.1")
    os.symlink("libagf.so.1", "prefix/lib/libagf.so")
    shutil.copytree(os.path.join(ROOT, "tools", "agf"), "agf", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    env = {k: v for k, v in os.environ.items() if k != "AGF_LIBRARY"}
    lib = os.path.abspath("prefix/lib")
    for code, more in (
        ("import agf; print(agf.version())", {"LD_LIBRARY_PATH": lib}),
        (f"import sys; sys.prefix = {os.path.dirname(lib)!r}; import agf; print(agf.version())", {}),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**env, **more}, check=False
        )
        check(done.stdout.strip() == agf.version(), f"{more}: {done.stderr[-400:]}")


def test_struct_layouts():
    """Sizes and offsets of every struct as a C compiler lays them out, and the constants, from the header itself."""
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    if not compiler:
        raise Skip("no C compiler")
    lines, expected = [], []
    for name, mirror in engine.STRUCTS.items():
        lines.append(f'printf("{name} %d\\n", (int)sizeof({name}));')
        expected.append(f"{name} {ctypes.sizeof(mirror)}")
        for field in mirror._fields_:
            lines.append(f'printf("{name}.{field[0]} %d\\n", (int)offsetof({name}, {field[0]}));')
            expected.append(f"{name}.{field[0]} {getattr(mirror, field[0]).offset}")
    constants = {f"AGF_METHOD_{method.upper()}": i for i, method in enumerate(agf.METHODS)}
    constants.update({status: i for i, status in enumerate(engine.STATUS)})
    constants.update({f"AGF_CMAP_{name.upper()}": i for i, name in enumerate(agf.COLORMAPS)})
    constants.update({f"AGF_OPT_{name.upper()}": value for name, value in agf.ABLATIONS.items()})
    constants.update({f"AGF_METHOD_{name.upper()}": value for name, value in engine.TRAITS.items()})
    constants["AGF_RUN_EXPLAIN"] = engine.RUN_EXPLAIN
    for name, value in constants.items():
        lines.append(f'printf("{name} %d\\n", (int){name});')
        expected.append(f"{name} {value}")
    with open("layout.c", "w", encoding="utf-8") as f:
        f.write('#include "agf.h"\n#include <stdio.h>\nint main(void) {\n  %s\n  return 0;\n}\n' % "\n  ".join(lines))
    subprocess.run([compiler, "-I", ROOT, "layout.c", "-o", "layout"], check=True)
    got = subprocess.run(["./layout"], capture_output=True, text=True, check=True).stdout.splitlines()
    differing = [f"{g} here {e}" for g, e in zip(got, expected) if g != e]
    check(not differing and len(got) == len(expected), f"agf.h against the binding: {differing}")
    with open(HEADER, encoding="utf-8") as f:
        text = f.read()
    methods = set(re.findall(r"\bAGF_METHOD_(?!BIT)\w+", text))
    check(methods <= set(constants), f"methods of agf.h that the binding does not know: {methods - set(constants)}")


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:], missing_library(agf)))
