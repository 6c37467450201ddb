#!/usr/bin/env python3
"""Check tests/oracle.py: against the reference results in tests/golden, against its own maps in tests/golden-extra,
against direct definitions of the ops, and against what must hold of the methods whatever the network.

    test_oracle.py [-k TEXT]    all, or the tests whose name holds TEXT
"""
import argparse
import inspect
import itertools
import math
import os
import subprocess
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))
import oracle                                                    # noqa: E402
from oracle import Network, Node, OracleError, relative_error     # noqa: E402

# Two float64 implementations of the specification agree to 1e-11 (agf-spec.md); LRP on dense_tiny, which divides by
# sums near zero, is the worst case and stays below 1e-11 here.
EXACT = 1e-10
# Node tensors are stored as float32: half a unit in the last place, relative, is 6e-8.
STORED_FLOAT32 = 6e-8

counts = {"passed": 0, "failed": 0, "skipped": 0}


def check(ok, what):
    counts["passed" if ok else "failed"] += 1
    if not ok:
        print(f"FAIL {what}")


def close(actual, expected, limit, what):
    """One check: relative L2 error at most limit; NaN fails."""
    error = relative_error(np.asarray(actual), np.asarray(expected, np.float64))
    check(error <= limit, f"{what}: relative error {error:.2e}, limit {limit:.0e}")


def fails(function, words, what):
    """One check: an OracleError whose message holds the words."""
    try:
        function()
    except OracleError as reason:
        check(words in str(reason), f"{what}: the message is {reason}")
    else:
        check(False, f"{what}: no error")


def skip(name, reason):
    counts["skipped"] += 1
    print(f"SKIP {name}: {reason}")


def golden(name, folder="golden", dtype=np.float64):
    """A case's directory and its network, run on its image."""
    directory = TESTS / folder / name
    return directory, Network(directory / f"{name}.agf", dtype).run(np.load(directory / "input.npy"))


def entries(path):
    return [line.split() for line in path.read_text().splitlines()]


def options_of(text):
    return () if text == "-" else text.split(",")


# Against reference results

def check_case(name):
    """Every map, method and node tensor of a golden case. BatchNorm's statistics and the parameters of activations are
    case.json's: a model file holds them rounded to float32."""
    directory, stored = golden(name)
    network = Network(oracle.read_case(directory)).run(np.load(directory / "input.npy"))
    for node, read in zip(network.nodes, stored.nodes, strict=True):
        check((node.op, node.inputs, node.kind, node.flat) == (read.op, read.inputs, read.kind, read.flat),
              f"{name}: {node.name} is read as {read}")
        for number, rounded in ((node.w, read.w), (node.b, read.b), (node.alpha, read.alpha), (node.lo, read.lo)):
            # Half a unit in the last place of a float32.
            same = number is rounded is None or np.allclose(number, rounded, 2.0 ** -24, 0)
            check(same, f"{name}: {node.name}'s values")
    single = golden(name, dtype=np.float32)[1]
    close(network.logits, np.load(directory / "logits.npy"), EXACT, f"{name}: logits")

    nodes = {}
    requests = [(file, float(error), int(t), dict(options=options_of(options)))
                for file, t, error, options in entries(directory / "maps.txt")]
    requests += [(file, float(error), int(t), dict(method=method, steps=int(steps) or 50))
                 for file, method, t, steps, error in entries(directory / "methods.txt")]
    for i, (file, error, t, request) in enumerate(requests):
        expected = np.load(directory / file)
        float32_limit = 4 * error + 2e-6  # agf-spec.md, "How exact a float32 map can be"
        heat = network.explain(t, nodes=nodes if i == 0 else None, **request)
        close(heat, expected, EXACT, f"{name}/{file}")
        single_heat = single.explain(t, **request)
        check(single_heat.dtype == np.float32, f"{name}/{file}: the float32 run made {single_heat.dtype}")
        close(single_heat, expected, float32_limit, f"{name}/{file} in float32")

    files = sorted([*directory.glob("cam_*.npy"), *directory.glob("g_*.npy")])
    found = {oracle.file_name(key): tensor for key, tensor in nodes.items()}
    check(len(files) > 0, f"{name}: no node tensors")
    for path in files:
        expected = np.load(path)
        close(found[path.stem].reshape(expected.shape), expected, STORED_FLOAT32, f"{name}/{path.name}")


def check_extra_case(name):
    """The oracle's own maps have not moved: EXACT allows for another order of sums in another NumPy."""
    directory, network = golden(name, "golden-extra")
    close(network.logits, np.load(directory / "logits.npy"), EXACT, f"{name}: logits")
    for file, t, _, options in entries(directory / "maps.txt"):
        close(network.explain(int(t), options=options_of(options)), np.load(directory / file), EXACT, f"{name}/{file}")
    for file, method, t, steps, _ in entries(directory / "methods.txt"):
        steps = int(steps) or 50
        heat = network.explain(int(t), method, steps=steps, samples=steps)
        close(heat, np.load(directory / file), EXACT, f"{name}/{file}")
    if (directory / "label_free.txt").exists():
        for file, t, _, difference in entries(directory / "label_free.txt"):
            difference = np.load(directory / difference)
            for asked in (None, int(t)):
                close(network.explain(asked, difference=difference), np.load(directory / file), EXACT, f"{name}/{file}")
    if (directory / "errors.txt").exists():
        for method, t, _ in entries(directory / "errors.txt"):
            fails(lambda: network.explain(int(t), method), "", f"{name}: {method}")


def golden_cases():
    """All of them; cases.txt lists those that the engine reads."""
    return sorted(path.parent.name for path in (TESTS / "golden").glob("*/case.json"))


def test_golden():
    listed = (TESTS / "golden" / "cases.txt").read_text().split()
    check(set(listed) <= set(golden_cases()), f"cases.txt lists {listed}")
    for name in golden_cases():
        check_case(name)
    for name in (TESTS / "golden-extra" / "cases.txt").read_text().split():
        check_extra_case(name)


def test_f16():
    """f16 weights are the f32 ones, rounded: the same layout, read through another type."""
    directory, network = golden("vgg_tiny")
    half = Network(directory / "vgg_tiny_f16.agf")
    for node, rounded in zip(network.nodes, half.nodes):
        if node.w is not None:
            check(np.array_equal(node.w.astype(np.float16), rounded.w), f"vgg_tiny_f16: weights of {node.name}")


def test_damaged_files(scratch):
    """Every cut and every changed byte is refused: what is not checked by value is checked by a CRC."""
    data = (TESTS / "golden-extra" / "gray" / "gray.agf").read_bytes()
    path = scratch / "damaged.agf"
    accepted = []
    # All of the tables, then a prime stride over the weights: about 500 of each.
    for at in itertools.chain(range(0, 400), range(400, len(data), 101)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:]):
            path.write_bytes(damaged)
            try:
                oracle.read_model(path)
                accepted.append((at, len(damaged)))
            except OracleError:
                pass
    check(not accepted, f"damaged files were accepted: (position, size) {accepted[:5]}")


def test_cancelling():
    """Which sums are split by magnitude, by name, and what that does."""
    _, network = golden("cancelling", "golden-extra")
    found = [node.name for node in network.nodes if node.cancels]
    expected = ["add_2", "add_7", "add_18", "avgpool_19", "adaptive_avgpool_21", "global_avgpool_24"]
    check(found == expected, f"may cancel: {found}")
    check(not any(node.cancels for node in golden("resnet_basic")[1].nodes), "a ResNet's sums do not cancel")
    node = random_node("add", np.random, cancels=True)
    x, y, cam = np.array([3.0, -2, 0]), np.array([-1.0, 2, 0]), np.array([8.0, 8, 8])
    cams = [cam_in for cam_in, _ in oracle.agf_rule(node, [x, y], cam, cam, None, ())]
    close(cams, [[6, 4, 0], [2, 4, 0]], 1e-9, "a sum that cancels")  # sdiv's 1e-9
    close(oracle.lrp_rule(node, [x, y], cam, 1), [[6, 4, 0], [2, 4, 0]], 1e-9, "LRP: a sum that cancels")
    heat = np.load(TESTS / "golden-extra" / "against" / "heat_0.npy")
    check(heat.max() <= 0 and heat.min() < 0, "evidence against a class stays negative where there is no other")


# Against direct definitions of the ops

def random_node(op, random, **fields):
    node = Node(op, op, [1], (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    for key, value in fields.items():
        setattr(node, key, value)
    node.w = random.standard_normal(node.w) if isinstance(node.w, tuple) else node.w
    return node


def direct_conv(node, x, w):
    """conv(x, w), element by element: output o of group k sees the group's input channels."""
    _, height, width = x.shape
    (top, left, _, _), (sh, sw), (dh, dw) = node.pad, node.stride, node.dilation
    per_group, channels = w.shape[0] // node.groups, w.shape[1]
    ho = (height + node.pad[0] + node.pad[2] - dh * (w.shape[2] - 1) - 1) // sh + 1
    wo = (width + node.pad[1] + node.pad[3] - dw * (w.shape[3] - 1) - 1) // sw + 1
    y = np.zeros((w.shape[0], ho, wo))
    for o, i, j, c, p, q in itertools.product(range(w.shape[0]), range(ho), range(wo), *map(range, w.shape[1:])):
        row, column = i * sh - top + p * dh, j * sw - left + q * dw
        if 0 <= row < height and 0 <= column < width:
            y[o, i, j] += w[o, c, p, q] * x[o // per_group * channels + c, row, column]
    return y


def test_convolutions():
    random = np.random.RandomState(1)
    cases = [dict(w=(4, 3, 3, 3), pad=(1, 1, 1, 1)), dict(w=(4, 3, 3, 2), stride=(2, 3), pad=(0, 2, 1, 0)),
             dict(w=(6, 1, 3, 3), groups=3, dilation=(2, 1), pad=(2, 0, 2, 1)), dict(w=(3, 3, 1, 1), stride=(3, 2)),
             dict(w=(3, 1, 2, 2), groups=3, stride=(3, 3), pad=(2, 2, 2, 2))]
    for fields in cases:
        node = random_node("conv", random, **fields)
        x = random.standard_normal((3, 7, 8))
        y = oracle.conv(node, x, node.w)
        close(y, direct_conv(node, x, node.w), 1e-14, f"conv {fields}")  # sums of at most 27 terms in float64
        s = random.standard_normal(y.shape)
        adjoint = oracle.conv_t(node, node.w, s, x.shape)
        close((x * adjoint).sum(), (y * s).sum(), 1e-12, f"convT {fields}")


def direct_windows(node, height, width):
    """For every output pixel of a pool: the input pixels of its window, in row-major order."""
    if node.op == "adaptive_avgpool":
        ho, wo = node.kernel
        edges = [[(int(np.floor(i * size / bins)), int(np.ceil((i + 1) * size / bins))) for i in range(bins)]
                 for size, bins in ((height, ho), (width, wo))]
    else:
        edges = []
        for axis, size in enumerate((height, width)):
            before, after = node.pad[axis], node.pad[axis + 2]
            steps = (size + before + after - node.kernel[axis]) / node.stride[axis]
            count = int(np.ceil(steps) if node.ceil else np.floor(steps)) + 1
            starts = [i * node.stride[axis] - before for i in range(count)]
            if node.ceil and starts[-1] >= size:
                starts.pop()
            edges.append([(max(start, 0), min(start + node.kernel[axis], size)) for start in starts])
    return [[[(i, j) for i in range(*rows) for j in range(*columns)] for columns in edges[1]] for rows in edges[0]]


def test_pools():
    random = np.random.RandomState(2)
    cases = [("maxpool", dict(kernel=(3, 2), stride=(2, 2), pad=(1, 1, 1, 1), ceil=True)),
             ("maxpool", dict(kernel=(2, 3), stride=(3, 1), pad=(1, 1, 1, 1), ceil=True)),
             ("avgpool", dict(kernel=(3, 3), stride=(2, 2), pad=(1, 1, 1, 1), ceil=True)),
             ("avgpool", dict(kernel=(3, 2), stride=(2, 3), pad=(1, 0, 1, 0), ceil=True, include_pad=True)),
             ("adaptive_avgpool", dict(kernel=(3, 5))), ("adaptive_avgpool", dict(kernel=(9, 11)))]
    for op, fields in cases:
        node = random_node(op, random, **fields)
        x = np.round(random.standard_normal((2, 8, 9)) - 3, 1)  # below 0, and coarse enough that maxima are tied
        windows = direct_windows(node, 8, 9)
        y, s = np.zeros((2, len(windows), len(windows[0]))), random.standard_normal((2, len(windows), len(windows[0])))
        back = np.zeros_like(x)
        for c, i, j in np.ndindex(*y.shape):
            inside = windows[i][j]
            values = [x[(c, *pixel)] for pixel in inside]
            if op == "maxpool":
                first = inside[values.index(max(values))]
                y[c, i, j] = max(values)
                back[(c, *first)] += s[c, i, j]
            else:
                divisor = np.prod(node.kernel) if op == "avgpool" and node.include_pad else len(inside)
                y[c, i, j] = sum(values) / divisor
                for pixel in inside:
                    back[(c, *pixel)] += s[c, i, j] / divisor
        close(oracle.pool(node, x), y, 1e-14, f"{op} {fields}")
        close(oracle.pool_t(node, x, s), back, 1e-14, f"poolT of {op} {fields}")
    node = random_node("global_avgpool", random)
    close(oracle.pool(node, x)[:, 0, 0], x.mean(axis=(1, 2)), 1e-14, "global_avgpool")


def test_helpers():
    close(oracle.sdiv(np.array([1.0, 1, 1, 0]), np.array([0, 2, -1e-9, 3])), [0, 1 / (2 + 1e-9), 1e9, 0], 1e-15, "sdiv")
    random = np.random.RandomState(3)
    C, R = random.standard_normal((2, 4, 5, 6))
    C[random.rand(*C.shape) < 0.3] = 0
    R *= oracle.nz(C)
    close(oracle.shift(C, R).sum(), C.sum(), 1e-13, "shift keeps the total")
    check(not oracle.shift(C, R)[C == 0].any(), "shift leaves zeros alone")
    check(not oracle.shift(0 * C, 0 * C).any(), "shift of nothing")
    close(oracle.bilinear(np.array([[0.0, 1]]), 2, 4), [[0, 0.25, 0.75, 1]] * 2, 1e-15, "bilinear, half-pixel centres")
    close(oracle.bilinear(C, 5, 6), C, 1e-15, "bilinear, same size")


# Gradients against central differences

STEP = 1e-6  # of central differences; their error: STEP^2 (curvature) plus 1e-16 / STEP (rounding), 1e-10 together


def directional(function, x, direction):
    return (function(x + STEP * direction) - function(x - STEP * direction)) / (2 * STEP)


def test_seeds():
    random = np.random.RandomState(4)

    def probability(z, t):
        d = z - z[t]
        return oracle.softmax(z[t] * np.exp(-(d / np.abs(d).max()) ** 2 / 2))[t]

    for K in (2, 3, 10):
        for t in range(2):
            z = random.standard_normal(K) * 4
            dz = oracle.seed_gradient(z, t)
            numeric = [directional(lambda v: probability(v, t), z, direction) for direction in np.eye(K)]
            close(dz, numeric, 1e-8, f"seed's gradient, {K} classes")  # 1e-10, a hundredfold for gradients below 1
    # Of a sure network, p = 1 - 1e-14: p (1 - p) is the others' sum, which float32 has too
    z = np.array([32.0, 0.0])
    expected = np.exp(-32 * (1 - np.exp(-0.5))) * (1 - np.exp(-0.5))
    for dtype in (np.float64, np.float32):
        close(oracle.seed_gradient(z.astype(dtype), 0), [expected, 0], 2e-5, f"seed of a sure network, {dtype.__name__}")
    fails(lambda: oracle.seed_gradient(np.ones(1), 0), "one class", "seed of one class")
    fails(lambda: oracle.seed_gradient(np.ones(4), 1), "equal", "seed of equal logits")

    X, V, b, t = random.standard_normal((5, 3, 4)), random.standard_normal((4, 5)), random.standard_normal(4), 2

    def logits(X):
        return V @ X.reshape(5, -1) + b[:, None]

    z = logits(X).mean(axis=1)
    T = np.abs(z - z[t]).max()

    def contrast(X):  # "With T held fixed, g is the gradient of T * mean_h softplus(L_t - log sum_{j != t} exp L_j)"
        L = logits(X) / T
        return T * np.log1p(np.exp(L[t] - np.log(np.exp(np.delete(L, t, axis=0)).sum(axis=0)))).mean()

    nodes = [Node("global_avgpool", "pool", [0]), Node("flatten", "flatten", [1]), Node("linear", "linear", [2], w=V, b=b)]
    seen = {}
    Network(oracle.Model(X.shape, nodes)).run(X).explain(t, "agf_lc", nodes=seen)
    g = seen["g/input"]
    numeric = [directional(contrast, X, direction.reshape(X.shape)) for direction in np.eye(X.size)]
    close(g.reshape(-1), numeric, 1e-8, "agf_lc's seed")


def test_gradients(networks):
    random = np.random.RandomState(5)
    for name, network in networks.items():
        # Away from the image itself: the constant patch of `corners` ties maxima, where there is no derivative.
        image = network.values[0]
        x, t = image + 0.01 * random.standard_normal(image.shape), network.ranked(1)
        direction = random.standard_normal(x.shape)
        g = network.run(x).gradients(network.values, t)[0]
        numeric = directional(lambda v: network.activations(v)[-1].reshape(-1)[t], x, direction)
        # Piecewise linear networks have no curvature, and STEP is too small to cross a ReLU of these: rounding alone.
        close((g * direction).sum(), numeric, 1e-7, f"{name}: gradient against central differences")

        def probability(v):
            z = network.activations(v)[-1].reshape(-1)
            d = z - z[t]
            return oracle.softmax(z[t] * np.exp(-(d / np.abs(d).max()) ** 2 / 2))[t]

        nodes = {}
        network.explain(t, nodes=nodes)
        close((nodes["g/input"] * direction).sum(), directional(probability, x, direction), 1e-6,
              f"{name}: AGF's g at the image against central differences of p_t")
        network.run(image)


# What must hold of the methods

def without_biases(path, x):
    network = Network(path)
    for node in network.nodes:
        if node.b is not None:
            node.b = np.zeros_like(node.b)
    return network.run(x)


def test_completeness(networks):
    for name, network in networks.items():
        t, z = network.ranked(0), network.logits
        if all(node.op not in ("relu6", "act", "norm", "lrn", "mul") for node in network.nodes):   # piecewise linear
            terms = sum(term.sum() for term in network.fullgrad_terms(t))
            g = network.gradients(network.values, t)
            linear = sum((node.b * g[n + 1]).sum() for n, node in enumerate(network.nodes)
                         if node.op == "linear" and node.b is not None)
            close(terms + linear, z[t], 1e-12, f"{name}: FullGrad's terms add up to z_t")
    for name in ("vgg_tiny", "relu6_inverted", "image_readers"):
        network = networks[name]
        t, z = network.ranked(0), network.logits
        difference = z[t] - network.activations(0 * network.values[0])[-1].reshape(-1)[t]
        total = network.explain(t, "integrated_gradients", steps=1000).sum()
        # The midpoint rule over a piecewise constant gradient errs by about a jump / steps; the largest jumps are about
        # max |z|.
        check(abs(total - difference) <= 2e-3 * np.abs(z).max(),
              f"{name}: integrated gradients add up to {total}, not to z_t(x) - z_t(0) = {difference}")
    directory, network = golden("vgg_tiny")
    free = without_biases(directory / "vgg_tiny.agf", network.values[0])
    # Without biases the gradient is the same all along the way from 0: exact with any number of steps.
    heat = free.explain(3, "integrated_gradients", steps=3)
    close(heat.sum(), free.logits[3], 1e-12, "integrated gradients without biases")
    close(free.explain(3, "gradient_x_input"), heat, 1e-12, "gradient_x_input without biases")


def test_conservation(networks):
    random = np.random.RandomState(6)
    for inputs in (random.rand(6), random.standard_normal(6)):
        node = random_node("linear", random, w=(5, 6))
        R = random.standard_normal(5)
        for alpha in (1, 2):
            # Each part of f keeps the relevance of the outputs that it reaches, up to sdiv's L / (L + 1e-9).
            x1, x2 = np.maximum(inputs, 0), np.minimum(inputs, 0)
            positive, negative = np.maximum(node.w, 0), np.minimum(node.w, 0)

            def kept(w1, w2):
                return sum((R * L / (L + 1e-9)).sum() for L in (w1 @ x1, w2 @ x2) if L.any())

            expected = alpha * kept(positive, negative) - (alpha - 1) * kept(negative, positive)
            total = oracle.alpha_beta_rule(node, inputs, R, alpha).sum()
            close(total, expected, 1e-12, f"alpha {alpha} keeps the relevance")
    # In these every output that carries relevance has a positive inflow; what is lost is sdiv's 1e-9 against sums of
    # 1e-3 and more.
    for name in ("vgg_tiny", "vgg_bn_nonsquare", "resnet_basic"):
        network = networks[name]
        t = network.ranked(0)
        for method in ("lrp_a1b0", "lrp_a2b1"):
            close(network.explain(t, method).sum(), network.logits[t], 1e-6, f"{name}: {method} keeps the logit")
    for name, network in networks.items():
        for method in ("clrp", "sglrp"):
            heat = network.explain(network.ranked(0), method)
            # a's total is taken off: zero but for the rounding of sums of a few thousand pixels.
            check(abs(heat.sum()) <= 1e-12 * np.abs(heat).sum(), f"{name}: {method} adds up to {heat.sum():.1e}")
    nodes = {}
    networks["vgg_bn_nonsquare"].explain(0, nodes=nodes)
    totals = [nodes[key].sum() for key in nodes if key.startswith("cam/")]
    # sdiv loses 1e-9 of sums around 1e-2 at every layer.
    close(totals, [totals[0]] * len(totals), 1e-5, "vgg_bn_nonsquare: AGF keeps the seed's total down to the image")


def test_variants(networks):
    for name, network in networks.items():
        t = network.ranked(0)
        check(np.array_equal(network.explain(t, "agf_a"), network.explain(t, options=("no_m", "no_fx", "no_fdx"))),
              f"{name}: agf_a is AGF without M, Fx and Fdx")
        check(np.array_equal(network.explain(), network.explain(t)), f"{name}: the default class is the prediction")
        close(network.explain(t).shape, network.values[0].shape[1:], 0, f"{name}: the map's size")
    network = networks["vgg_tiny"]
    fails(lambda: network.explain(0, "agf_lc"), "global average pool", "agf_lc without a pooled head")
    fails(lambda: network.explain(10), "no class 10", "a class that does not exist")
    fails(lambda: network.explain(-1), "no class -1", "a negative class")
    fails(lambda: network.explain(0, options=("no_x",)), "no option no_x", "an unknown option")
    fails(lambda: network.explain(0, "gradcam", layer="conv99"), "conv99", "gradcam at a layer that does not exist")
    fails(lambda: network.explain(0, difference=np.ones(3)), "latent vector has 64", "a difference of another size")
    fails(lambda: network.run(np.ones((4, 32, 32))), "[3, H, W]", "four channels")
    fails(lambda: network.run(np.ones((3, 4, 4))), "does not fit", "an image too small")
    fails(lambda: network.run(np.full((3, 32, 32), np.nan)), "value of input is not finite", "an image of NaN")
    named = network.explain(0, "gradcam", layer="maxpool13")
    close(named, network.explain(0, "gradcam"), 0, "gradcam's own layer, named")
    network.values[-1] = np.array([1.0, 5, 5, 2, 5, 0, 0, 0, 0, 0])
    check([network.ranked(r) for r in range(5)] == [1, 2, 4, 3, 0], "ties among ranks: the lowest index first")
    network.run(network.values[0])


def test_relu6():
    """ReLU6: cam as ReLU's with its output in place of x, also where it saturates; g is 0 outside (0, 6)."""
    node = random_node("relu6", np.random)
    x, cam, g = np.array([-1.0, 0, 2, 6, 9]), np.array([5.0, 5, -3, 7, 4]), np.ones(5)
    (cam_in, g_in), = oracle.agf_rule(node, [x], cam, g, None, ())
    close(cam_in, [0, 0, -3 * 2 / (2 + 1e-9), 7 * 6 / (6 + 1e-9), 4 * 6 / (6 + 1e-9)], 1e-15, "ReLU6: cam")
    check(list(g_in) == [0, 0, 1, 0, 0], f"ReLU6: g is {g_in}")


def test_silent_windows():
    """The box rule gives nothing to a window that sees lo under positive and hi under negative weights, whatever
    rounding makes of Z; the padding counts as both."""
    lo, hi = -0.4242, 1.7
    x = np.array([[[lo, lo, hi], [lo, lo, 0.5], [lo, lo, lo]]])
    node = Node("conv", "conv", [0], kernel=(3, 3), stride=(1, 1), pad=(1, 1, 1, 1), dilation=(1, 1), groups=1)
    node.w = np.array([[[[0.3, 0.7, -0.9], [0.1, 0.2, 0], [0.1, 0.6, 0]]]])   # at [1, 1] the -0.9 meets hi
    for dtype in (np.float64, np.float32):
        node.w = node.w.astype(dtype)
        for row, column, silent in ((0, 0, True), (1, 1, True), (2, 1, False), (2, 0, False), (0, 2, False)):
            cam = np.zeros((1, 3, 3), dtype)
            cam[0, row, column] = 1
            heat = oracle.box_rule(node, x.astype(dtype), cam)
            check(heat.any() != silent, f"box rule, output {row}, {column}, {dtype.__name__}: {heat}")


# Newer networks

def test_unknown_ops():
    """An op that one of the rules does not know is no other op to it."""
    node, x = Node("twist", "t", [1]), np.ones((2, 3, 3))
    for what, rule in (("forward pass", lambda: oracle.forward(node, [x])),
                       ("gradient", lambda: oracle.adjoint(node, [x], x)),
                       ("relevance propagation", lambda: oracle.lrp_rule(node, [x], x, 1))):
        fails(rule, f"no {what} is known of twist", what)
    kept = oracle.adjoint
    try:
        oracle.adjoint = lambda node, xs, g: [g]
        fails(lambda: oracle.agf_rule(node, [x], x, x, None, set()), "no rule is known of twist", "rule")
    finally:
        oracle.adjoint = kept


def test_activations():
    """Values known to 15 digits, slopes against central differences, and the sides of the kinks."""
    x = np.array([-4.0, -1, -0.5, 0.25, 1, 4])
    exact = {"silu": (1, 1 / (1 + math.exp(-1))), "hardswish": (1, 2 / 3), "gelu": (1, 0.5 * (1 + math.erf(2 ** -0.5))),
             "gelu_tanh": (1, 0.8411919906082768), "mish": (1, math.tanh(math.log(1 + math.e))),
             "tanh": (1, math.tanh(1)), "sigmoid": (-1, 1 / (1 + math.e)), "softplus": (-1, math.log(1 + math.exp(-1))),
             "elu": (-1, 0.7 * (1 / math.e - 1)), "leaky_relu": (-1, -0.7), "prelu": (-1, -0.3), "clip": (-4, -0.8),
             "hardsigmoid": (1, 0.9)}
    parameters = dict(alpha=0.7, beta=0.2, lo=-0.8, hi=1.2, w=np.full(1, 0.3))
    check(set(exact) == set(oracle.ACTIVATIONS), "an activation without a value to check")
    for kind, (at, value) in exact.items():
        node = Node("act", kind, [1], kind=kind, **parameters)
        close(oracle.forward(node, [np.full((1, 1, 1), float(at))]), [[[value]]], 1e-15, kind)
        slopes, = oracle.adjoint(node, [x.reshape(1, 1, -1)], np.ones((1, 1, x.size)))
        numeric = directional(lambda v, node=node: oracle.forward(node, [v]), x.reshape(1, 1, -1), np.ones(x.size))
        close(slopes, numeric, 1e-8, f"slope of {kind}")  # 1e-10, a hundredfold for slopes below 1
    # Far below 0: the density's integral, by midpoints h apart (their error is h^2 x^2 / 24 at most), and tanh's tail
    for x in (-4.0, -7.0, -9.0, -12.0):
        h = 1e-5
        t = x - np.arange(h / 2, 6, h)
        tail = h * np.exp((x * x - t * t) / 2).sum() * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        exact = {"gelu": x * tail, "gelu_tanh": x / (1 + math.exp(-2 * oracle.gelu_inner(x)))}
        for kind, value in exact.items():
            found = oracle.forward(Node("act", kind, [1], kind=kind), [np.full((1, 1, 1), x)])
            close(found, [[[value]]], 1e-8, f"{kind} of {x}")
    kinks = (("leaky_relu", 0, 0.7), ("prelu", 0, 0.3), ("elu", 0, 0.7), ("clip", -0.8, 0), ("clip", 1.2, 0),
             ("hardswish", -3, 0), ("hardswish", 3, 1))
    for kind, at, slope in kinks:
        node = Node("act", kind, [1], kind=kind, **parameters)
        found, = oracle.adjoint(node, [np.full((1, 1, 1), float(at))], np.ones((1, 1, 1)))
        close(found, [[[slope]]], 1e-15, f"slope of {kind} at {at}")
    # where the function is constant but for rounding its slope is not 0: 4 e^-2x and e^-x, but for that part of them
    for kind, at, slope in (("tanh", 25, 4 * math.exp(-50)), ("tanh", -25, 4 * math.exp(-50)),
                            ("sigmoid", 45, math.exp(-45)), ("sigmoid", -45, math.exp(-45))):
        found, = oracle.adjoint(Node("act", "a", [0], kind=kind), [np.full((1, 1, 1), float(at))], np.ones((1, 1, 1)))
        check(abs(found.item() / slope - 1) < 1e-14, f"slope of {kind} at {at}: {found.item()}, it is {slope}")


def check_copies(node, picture, rows, columns, cam):
    """A node whose output pixel (i, j) is pixel (rows[i], columns[j]): cam, g and R are the sums over the copies."""
    y = oracle.forward(node, [picture])
    check(np.array_equal(y, picture[:, rows][:, :, columns]), f"{node.op} {node.border}: {y}")
    sums = np.zeros_like(picture)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            sums[:, row, column] += cam[:, i, j]
    (back, g), = oracle.agf_rule(node, [picture], cam, 2 * cam, None, ())
    check(np.array_equal(back, sums) and np.array_equal(g, 2 * sums), f"{node.op} {node.border}: {back}")
    check(np.array_equal(oracle.lrp_rule(node, [picture], cam, 1)[0], sums), f"LRP of {node.op} {node.border}")


def test_newer_rules():
    """The rules of nodes alone, on numbers that can be followed."""
    cam, g = np.array([5.0, -3, 7]), np.array([1.0, 2, 3])
    x, s = np.array([2.0, 0, -1]), np.array([0.5, 4, 3])
    mul = Node("mul", "mul", [1, 2])
    (cam_x, g_x), (cam_s, g_s) = oracle.agf_rule(mul, [x, s], cam, g, None, ())
    check(list(cam_x) == [5, 0, 7] and not cam_s.any(), f"a product's cam goes to the signal: {cam_x}, {cam_s}")
    check(list(g_x) == [0.5, 8, 9] and list(g_s) == [2, 0, -3], f"a product's gradients: {g_x}, {g_s}")
    check(not oracle.lrp_rule(mul, [x, s], cam, 1)[1].any(), "LRP: a gate gets nothing")
    # Three summands that may cancel: by magnitude, exactly but for sdiv's 1e-9.
    total = Node("add", "add", [1, 2, 3], cancels=True)
    xs = [np.array([1.0]), np.array([-2.0]), np.array([5.0])]
    shares = [float(c[0]) for c, _ in oracle.agf_rule(total, xs, np.array([8.0]), np.ones(1), None, ())]
    close(shares, [1, 2, 5], 1e-9, "a sum of three that may cancel")
    picture = np.arange(24.0).reshape(2, 3, 4)
    pad = Node("pad", "pad", [1], pad=(1, 0, 0, 2))
    cam = np.arange(48.0).reshape(2, 4, 6)
    (cropped, _), = oracle.agf_rule(pad, [picture], cam, cam, None, ())
    check(np.array_equal(cropped, cam[:, 1:, :4]), "pad: cam is cropped")
    arriving = np.arange(1.0, 85).reshape(2, 6, 7)
    for border, rows, columns in (("reflect", (2, 1, 0, 1, 2, 1), (1, 0, 1, 2, 3, 2, 1)),
                                  ("replicate", (0, 0, 0, 1, 2, 2), (0, 0, 1, 2, 3, 3, 3))):
        copying = Node("pad", "pad", [1], pad=(2, 1, 1, 2), border=border)
        check_copies(copying, picture, rows, columns, arriving)
    check_copies(Node("resize", "resize", [1], kernel=(2, 1)), picture, (0, 0, 1, 1, 2, 2), (0, 1, 2, 3), arriving[:, :, :4])
    sized = Node("resize", "resize", [1], kernel=(2, 6), to_size=True)
    check_copies(sized, picture, (0, 1), (0, 0, 1, 2, 2, 3), arriving[:, :2, :6])
    few = Node("pad", "few", [1], pad=(0, 0, 3, 0), border="reflect")
    fails(lambda: oracle.forward(few, [picture]), "few", "a reflection of more pixels than there are")
    cut = Node("slice", "slice", [1], channels=(1, 2))
    (placed, _), = oracle.agf_rule(cut, [picture], picture[:1], picture[:1], None, ())
    check(not placed[0].any() and np.array_equal(placed[1], picture[0]), "slice: cam goes to its place, 0 elsewhere")
    shuffle = Node("shuffle", "shuffle", [1], perm=(2, 0, 1))
    (back, _), = oracle.agf_rule(shuffle, [x], cam[0, 0, :3], cam[0, 0, :3], None, ())
    check(list(oracle.forward(shuffle, [x])) == [-1, 2, 0] and list(back) == [1, 2, 0], f"shuffle: {back}")


def test_gradcam_layer():
    """Back from the logits along first inputs: a pooling to a size, else the first tensor of more than one pixel."""
    names = {"resnet_basic": "relu27", "gated_tiny": "act59", "shuffle_tiny": "relu33", "vgg_tiny": "maxpool13"}
    for name, layer in names.items():
        _, network = golden(name)
        found = network.name(network.gradcam_layer())
        check(found == layer, f"{name}: gradcam looks at {found}, not at {layer}")
    _, network = golden("conv_logits", "golden-extra")
    tensor = network.gradcam_layer()
    check(tensor == network.nodes[-1].inputs[0], "conv_logits: gradcam looks at what the last convolution reads")


def test_heads():
    """What is folded into the head changes no logits; one output becomes two classes whose softmax is its sigmoid."""
    random = np.random.RandomState(8)
    w, b = random.standard_normal((2, 4, 6)), random.standard_normal((2, 4))
    x = random.standard_normal((6, 1, 1))
    flatten = Node("flatten", "flatten", [0])
    one, other = (Node("linear", f"linear{i}", [1], w=w[i], b=b[i] if i else None) for i in (0, 1))
    scale = Node("batchnorm", "scale", [2], w=random.standard_normal(4), b=random.standard_normal(4))
    total = Node("add", "add", [2, 3])
    sigmoid = Node("act", "sigmoid", [3], kind="sigmoid")
    conv = Node("conv", "conv", [0], kernel=(1, 1), stride=(1, 1), groups=1, w=w[0].reshape(4, 6, 1, 1))
    for nodes in ([flatten, one, scale], [flatten, one, other, total], [conv, replace(scale, inputs=[1])]):
        folded = oracle.fold_head(nodes)
        check(folded[-1].op in ("linear", "conv"), f"{[node.op for node in folded]}")
        logits = [Network(oracle.Model(x.shape, list(made))).run(x).logits for made in (nodes, folded)]
        close(logits[1], logits[0], 1e-14, f"{nodes[-1].name} folded into {nodes[-2].name}")
    folded = oracle.fold_head([flatten, one, scale, sigmoid])
    check([node.op for node in folded] == ["flatten", "linear"], "a sigmoid is dropped")
    fails(lambda: oracle.fold_head([flatten, one, Node("act", "tanh", [2], kind="tanh")]), "tanh", "tanh at the end")
    fails(lambda: oracle.fold_head([flatten, replace(scale, inputs=[1])]), "scale", "a BatchNorm of what is no head")
    single = Node("linear", "linear", [1], w=w[0][:1], b=b[0][:1])
    z, = Network(oracle.Model(x.shape, [flatten, single])).run(x).logits
    network = Network(oracle.Model(x.shape, oracle.two_classes([flatten, single]))).run(x)
    close(network.logits, [-z / 2, z / 2], 1e-15, "one output as two classes")
    close(oracle.softmax(network.logits)[1], oracle.sigmoid(z), 1e-15, "their softmax is the output's sigmoid")
    gradients = [network.gradients(network.values, t)[0] for t in (0, 1)]
    close(gradients[0], -gradients[1], 1e-15, "both classes have a gradient")


def test_affine_input():
    """The image that the rules speak of is what the input's affine map makes."""
    directory, network = golden("vgg_tiny")
    image, t = network.values[0], network.ranked()
    scale, bias = np.array([2.0, -0.5, 4]), np.array([0.25, 1, -3])   # powers of 2: the way back is exact
    model = replace(network.model, affine=(scale, bias))
    mapped = Network(model).run((image - bias[:, None, None]) / scale[:, None, None])
    for method in ("agf", "lrp_a1b0", "integrated_gradients", "gradient_x_input", "gradient"):
        expected = network.explain(t, method, steps=4)
        close(mapped.explain(t, method, steps=4), expected, 1e-12, f"{method} of an affine input")


def test_label_free(networks):
    """The seed of the label-free procedure: cam = difference * g, with z and t of the classifier at the difference."""
    for name in ("linear_middle", "pooled_logits", "vgg_tiny"):
        network, head = networks[name], networks[name].nodes[-1]
        difference = network.latent - 0.5 * network.latent[::-1]
        if head.op == "linear":
            z = head.w @ difference + head.b
            g = head.w.T @ oracle.seed_gradient(z, int(np.argmax(z)))
        else:
            z, area = difference.mean(axis=(1, 2)), difference[0].size
            dz = oracle.seed_gradient(z, int(np.argmax(z)))
            g = np.broadcast_to(dz[:, None, None] / area, difference.shape)
        nodes = {}
        network.explain(difference=difference.reshape(-1), nodes=nodes)
        latent = network.name(head.inputs[0])
        close(nodes["g/" + latent], g, 1e-12, f"{name}: g of the label-free seed")
        close(nodes["cam/" + latent], difference * g, 1e-12, f"{name}: cam of the label-free seed")


# SmoothGrad's noise

def test_noise(networks):
    # Known answers of Random123's kat_vectors, philox4x32 10 rounds: counter, key, output.
    ones, pi = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    for counter, key, expected in (
            ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
            ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
            (pi, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1))):
        check(tuple(int(word) for word in oracle.philox4x32(counter, key)) == expected, f"Philox4x32-10 of {counter}")
    noise = np.stack([oracle.standard_normal(7, sample, (3, 60, 60)) for sample in range(20)])
    # 216,000 deviates: the mean's standard error is 0.0022, the deviation's 0.0015; four of them.
    mean, deviation = noise.mean(), noise.std()
    check(abs(mean) <= 0.009 and abs(deviation - 1) <= 0.006, f"noise: mean {mean}, deviation {deviation}")
    # 10,800 products: four standard errors of 0.0096.
    check(abs((noise[0] * noise[1]).mean()) <= 0.04, "noise: two samples are uncorrelated")
    close(oracle.standard_normal(7, 3, (3, 60, 60), np.float32), noise[3], 1e-6, "noise in float32")
    check(not np.array_equal(oracle.standard_normal(7 + 2 ** 32, 0, (5,)), oracle.standard_normal(7, 0, (5,))),
          "the seed's upper word counts")
    network = networks["pooled_logits"]
    maps = [network.explain(0, "smoothgrad", samples=3, seed=seed) for seed in (1, 1, 2)]
    check(np.array_equal(maps[0], maps[1]), "smoothgrad: the same seed, the same map")
    check(not np.array_equal(maps[0], maps[2]), "smoothgrad: another seed, another map")
    flat = golden("pooled_logits", "golden-extra")[1].run(np.full(network.values[0].shape, 0.5))
    close(flat.explain(0, "smoothgrad", samples=2), flat.explain(0, "gradient"), 1e-14, "no contrast, no noise")


# The command line

def run_oracle(*arguments):
    command = [sys.executable, str(TESTS / "oracle.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_command_line(scratch, networks):
    case = TESTS / "golden" / "squeeze_tiny"
    model, image = case / "squeeze_tiny.agf", case / "input.npy"
    done = run_oracle(model, image, "-c", 3, "-o", scratch / "out.npy", "--nodes", scratch / "nodes")
    check(done.returncode == 0 and not done.stderr, f"oracle.py: {done.stderr}")
    close(np.load(scratch / "out.npy"), networks["squeeze_tiny"].explain(3), 0, "oracle.py -o")
    for file in ("cam_conv1.npy", "g_conv15.npy"):
        check((scratch / "nodes" / file).exists(), f"oracle.py --nodes: {file}")
    done = run_oracle(model, image, "-c", 3, "-m", "lrp_a1b0", "--float32", "-o", scratch / "single.npy")
    check(done.returncode == 0 and np.load(scratch / "single.npy").dtype == np.float32, "oracle.py --float32")
    (scratch / "broken.npy").write_bytes(b"\x93NUMPY")
    for what, arguments in (("class", (model, image, "-c", 99)), ("model", (image, image)),
                            ("file", (model, scratch / "none.npy")), ("input", (model, scratch / "broken.npy")),
                            ("option", (model, image, "--options", "no_x"))):
        done = run_oracle(*arguments, "-o", scratch / "never.npy")
        check(done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr,
              f"oracle.py, bad {what}: {done.stderr}")
        check(not list(scratch.glob("never*")), f"oracle.py, bad {what}: left a file")

    done = run_oracle(model, image, "-c", 0, "-c", 3, "-c", 10, "--make-case", scratch / "squeeze_tiny")
    check(done.returncode == 0, f"oracle.py --make-case: {done.stderr}")
    made = scratch / "squeeze_tiny"
    for listing in ("maps.txt", "methods.txt"):
        expected = {line[0]: line for line in entries(case / listing)}
        made_lines = {line[0]: line for line in entries(made / listing)}
        for file, line in expected.items():
            line_made = made_lines.get(file.replace("gradcam", "fx_gradcam") if "heat" in file else file)
            column = 2 if listing == "maps.txt" else 4  # the error column is another float32 implementation's
            check(line_made is not None, f"--make-case, {listing}: no {file}")
            check(line[1:column] == line_made[1:column], f"--make-case, {listing}: {line_made}")
            close(np.load(made / line_made[0]), np.load(case / file), EXACT, f"--make-case: {file}")
    missing = {path.name for path in case.glob("*.npy") if path.name.startswith(("cam_", "g_"))} - set(os.listdir(made))
    check(not missing, f"--make-case left out {sorted(missing)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", dest="texts", metavar="TEXT", action="append", default=[], help="tests whose name holds TEXT")
    texts = parser.parse_args().texts
    tests = [test for name, test in globals().items()
             if name.startswith("test_") and (not texts or any(text in name for text in texts))]
    if not tests:
        check(False, f"no test's name holds {' or '.join(texts)}")
    cases = [(name, "golden") for name in golden_cases()]
    cases += [(name, "golden-extra")
              for name in ("relu6_inverted", "linear_middle", "pooled_logits", "image_readers", "conv_logits")]
    shared = {}
    for test in tests:
        with tempfile.TemporaryDirectory() as scratch:
            wanted = inspect.signature(test).parameters
            if "networks" in wanted and not shared:
                shared = {name: golden(name, folder)[1] for name, folder in cases}
            offered = {"networks": shared, "scratch": Path(scratch)}
            try:
                test(**{name: offered[name] for name in wanted})
            except Exception:
                traceback.print_exc()
                check(False, f"{test.__name__} stopped")
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    print(f"{counts['passed']} passed, {counts['failed']} failed{skipped}")
    sys.exit(counts["failed"] > 0)


if __name__ == "__main__":
    main()
