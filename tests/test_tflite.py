#!/usr/bin/env python3
"""TensorFlow Lite files to model files: small ones made here, and the real ones below AGF_TEST_DATA where they are.

    python3 tests/test_tflite.py [-k TEXT]

The files made here are written with the package tflite and run in LiteRT; the engine's logits are held against it.
"""

import glob
import os
import struct
import subprocess
import sys

from harness import DATA, ROOT, Skip, check, needs, run_tests

needs("numpy", "tflite", "flatbuffers")
import flatbuffers  # noqa: E402
import numpy as np  # noqa: E402
import tflite as schema  # noqa: E402

sys.path.insert(0, os.path.join(ROOT, "tools"))
from agf_convert import ConvertError, api  # noqa: E402
from agf_convert.tflite_front import read  # noqa: E402

REAL = os.path.join(DATA, "real-nets")
PICTURES = os.path.join(DATA, "pictures", "imagenet")
TYPES = {np.dtype(np.float32): 0, np.dtype(np.int32): 2, np.dtype(np.uint8): 3, np.dtype(np.int8): 9}


class File:
    """A TensorFlow Lite file under way."""

    def __init__(self):
        self.b = flatbuffers.Builder(1024)
        self.buffers, self.tensors, self.operators, self.codes = [b""], [], [], []
        self.custom = ""  # the own name of operators of kind CUSTOM

    def table(self, kind, **fields):
        getattr(schema, f"{kind}Start")(self.b)
        for name, value in fields.items():
            getattr(schema, f"{kind}Add{name}")(self.b, value)
        return getattr(schema, f"{kind}End")(self.b)

    def vector(self, items, size=4, put="PrependUOffsetTRelative"):
        self.b.StartVector(size, len(items), size)
        for item in reversed(items):
            getattr(self.b, put)(item)
        return self.b.EndVector()

    def ints(self, items):
        return self.vector([int(item) for item in items], 4, "PrependInt32")

    def tensor(self, name, shape=None, dtype=np.float32, data=None, scale=None, point=0):
        """A tensor's number; data: of a constant; scale, point: of a quantised one."""
        if data is not None:
            shape, dtype = data.shape, data.dtype
            self.buffers.append(np.ascontiguousarray(data).tobytes())
        fields = {
            "Shape": self.ints(shape),
            "Name": self.b.CreateString(name),
            "Type": TYPES[np.dtype(dtype)],
            "Buffer": len(self.buffers) - 1 if data is not None else 0,
        }
        if scale is not None:
            scales = self.vector([float(scale)], 4, "PrependFloat32")
            points = self.vector([int(point)], 8, "PrependInt64")
            fields["Quantization"] = self.table("QuantizationParameters", Scale=scales, ZeroPoint=points)
        self.tensors.append(self.table("Tensor", **fields))
        return len(self.tensors) - 1

    def operator(self, kind, inputs, output, options=None, **fields):
        """options: the name of the options' table, with its fields."""
        code = getattr(schema.BuiltinOperator, kind)
        if code not in self.codes:
            self.codes.append(code)
        made = {"OpcodeIndex": self.codes.index(code), "Inputs": self.ints(inputs), "Outputs": self.ints([output])}
        if options:
            made["BuiltinOptions"] = self.table(options, **fields)
            made["BuiltinOptionsType"] = getattr(schema.BuiltinOptions, options)
        self.operators.append(self.table("Operator", **made))

    def write(self, path, inputs, outputs):
        b = self.b
        graph = self.table(
            "SubGraph",
            Tensors=self.vector(self.tensors),
            Inputs=self.ints(inputs),
            Outputs=self.ints(outputs),
            Operators=self.vector(self.operators),
        )
        codes = []
        for code in self.codes:
            own = {"CustomCode": b.CreateString(self.custom)} if self.custom and code == schema.BuiltinOperator.CUSTOM else {}
            codes.append(self.table("OperatorCode", BuiltinCode=code, DeprecatedBuiltinCode=min(code, 127), Version=1, **own))
        buffers = []
        for data in self.buffers:
            buffers.append(self.table("Buffer", **({"Data": b.CreateByteVector(data)} if data else {})))
        b.Finish(
            self.table("Model", Version=3, Subgraphs=self.vector([graph]), OperatorCodes=self.vector(codes), Buffers=self.vector(buffers)),
            file_identifier=b"TFL3",
        )
        with open(path, "wb") as f:
            f.write(b.Output())


def small(path, activation="HARD_SWISH"):
    """A convolution with SAME padding, an activation, a depthwise one, a flatten in the order HWC, a dense layer."""
    random = np.random.RandomState(5)
    f = File()
    image = f.tensor("image", (1, 9, 8, 3))
    w = f.tensor("w", data=random.standard_normal((6, 3, 3, 3)).astype(np.float32) / 3)
    bias = f.tensor("bias", data=random.standard_normal(6).astype(np.float32) / 3)
    y = f.tensor("conv", (1, 5, 4, 6))
    f.operator("CONV_2D", [image, w, bias], y, "Conv2DOptions", Padding=0, StrideH=2, StrideW=2)
    z = f.tensor("act", (1, 5, 4, 6))
    f.operator(activation, [y], z)
    depthwise = f.tensor("depthwise.w", data=random.standard_normal((1, 3, 3, 6)).astype(np.float32) / 3)
    none = f.tensor("depthwise.b", data=np.zeros(6, np.float32))
    d = f.tensor("depthwise", (1, 5, 4, 6))
    f.operator(
        "DEPTHWISE_CONV_2D",
        [z, depthwise, none],
        d,
        "DepthwiseConv2DOptions",
        Padding=0,
        StrideH=1,
        StrideW=1,
        DepthMultiplier=1,
        FusedActivationFunction=3,
    )
    flat = f.tensor("flat", (1, 120))
    f.operator("RESHAPE", [d, f.tensor("shape", data=np.array([1, 120], np.int32))], flat)
    dense = f.tensor("dense.w", data=random.standard_normal((4, 120)).astype(np.float32) / 10)
    logits = f.tensor("logits", (1, 4))
    f.operator("FULLY_CONNECTED", [flat, dense, f.tensor("dense.b", data=np.ones(4, np.float32))], logits, "FullyConnectedOptions")
    probabilities = f.tensor("probabilities", (1, 4))
    f.operator("SOFTMAX", [logits], probabilities, "SoftmaxOptions", Beta=1.0)
    f.write(path, [image], [probabilities])


def convert(path, *arguments):
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, "tools", "agf_convert.py"), path, "-o", "net.agf", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def refused(path, word):
    try:
        read(path)
    except ConvertError as problem:
        check(word in str(problem), str(problem))
        return
    raise AssertionError(f"{path} was taken, though {word}")


def test_a_small_network_gives_the_logits_of_litert():
    needs_litert()
    small("net.tflite")
    done = convert("net.tflite")
    check(done.returncode == 0, done.stderr)
    # The converter itself allows 1e-3: a wrong stride or order is off by far more, float32 by far less.
    check("LiteRT's to " in done.stdout, done.stdout)


def check_of(path, spoil=None, output=None):
    """What the converter's comparison with LiteRT says; spoil: changes the network that was read."""
    imported = read(path, output=output)
    network = api.network_of(imported, "net", "test", [], None)
    if spoil:
        spoil(network.nodes)
    try:
        return api.write_network(network, "net.agf", imported=imported)[1]
    except ConvertError as problem:
        return str(problem)


def negate(nodes):
    """The last layer's weights."""
    node = [node for node in nodes if node.weights is not None][-1]
    node.weights = -node.weights


def test_a_tensor_within_the_network_is_compared_with_itself():
    """--output names no output of the file: LiteRT is asked for that tensor, not for the file's output."""
    needs_litert()
    small("net.tflite")
    check("LiteRT's to " in check_of("net.tflite", output="logits"), check_of("net.tflite", output="logits"))
    check("differ from LiteRT's" in check_of("net.tflite", negate, "logits"), "weights of the wrong sign")


def few_classes(path, classes, end=None, step=0.05):
    """Quantised: the mean of a convolution's output, of one or two classes; end: the activation behind it."""
    f, random = File(), np.random.RandomState(2)
    image = f.tensor("image", (1, 6, 6, 3), np.int8, scale=0.02, point=3)
    w = f.tensor("w", data=random.randint(-127, 128, (classes, 1, 1, 3)).astype(np.int8), scale=0.01)
    b = f.tensor("b", data=np.zeros(classes, np.int32), scale=0.0002)
    y, axes = f.tensor("y", (1, 6, 6, classes), np.int8, scale=0.05, point=0), f.tensor("axes", data=np.array([1, 2], np.int32))
    f.operator("CONV_2D", [image, w, b], y, "Conv2DOptions", Padding=1, StrideH=1, StrideW=1)
    out = f.tensor("logits", (1, classes), np.int8, scale=step, point=0)
    f.operator("MEAN", [y, axes], out, "ReducerOptions", KeepDims=False)
    if end:
        logits, out = out, f.tensor("probabilities", (1, classes), np.int8, scale=1 / 256, point=-128)
        f.operator(end, [logits], out, *(["SoftmaxOptions"] if end == "SOFTMAX" else []), **({"Beta": 1.0} if end == "SOFTMAX" else {}))
    f.write(path, [image], [out])


def test_quantised_networks_of_one_or_two_classes_are_compared():
    """One tensor's two numbers always correlate: their course over several is held against LiteRT's."""
    needs_litert()
    for classes, end in ((2, None), (2, "SOFTMAX"), (1, "LOGISTIC")):
        few_classes("q.tflite", classes, end)
        said = check_of("q.tflite")
        check("random tensors follow LiteRT's" in said, said)
        said = check_of("q.tflite", negate)
        check("do not resemble" in said, said)
    few_classes("q.tflite", 2, None, step=100)  # an original that says 0 whatever it is given
    said = check_of("q.tflite")
    check(said.startswith("not checked") and "too little" in said, said)


def needs_litert():
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError:
        raise Skip("ai-edge-litert is not installed") from None


def copying(path, half=False, corners=False, kind="RESIZE_NEAREST_NEIGHBOR", mode=0):
    """A picture reflected at its borders, a convolution, pixels repeated, a mean over them."""
    random = np.random.RandomState(6)
    f = File()
    image = f.tensor("image", (1, 6, 5, 3))
    padded = f.tensor("padded", (1, 8, 8, 3))
    pads = f.tensor("pads", data=np.array([[0, 0], [1, 1], [1, 2], [0, 0]], np.int32))
    f.operator("MIRROR_PAD", [image, pads], padded, "MirrorPadOptions", Mode=mode)
    w = f.tensor("w", data=random.standard_normal((4, 3, 3, 3)).astype(np.float32) / 3)
    y = f.tensor("conv", (1, 6, 6, 4))
    f.operator("CONV_2D", [padded, w, f.tensor("b", data=np.ones(4, np.float32))], y, "Conv2DOptions", Padding=1, StrideH=1, StrideW=1)
    z = f.tensor("resized", (1, 12, 18, 4))
    size = f.tensor("size", data=np.array([12, 18], np.int32))
    table = {"RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions", "RESIZE_BILINEAR": "ResizeBilinearOptions"}[kind]
    f.operator(kind, [y, size], z, table, HalfPixelCenters=half, AlignCorners=corners)
    d = f.tensor("conv2", (1, 5, 8, 4))
    w = f.tensor("w2", data=random.standard_normal((4, 3, 3, 4)).astype(np.float32) / 3)
    f.operator("CONV_2D", [z, w, f.tensor("b2", data=np.ones(4, np.float32))], d, "Conv2DOptions", Padding=1, StrideH=2, StrideW=2)
    mean = f.tensor("mean", (1, 4))
    f.operator("MEAN", [d, f.tensor("axes", data=np.array([1, 2], np.int32))], mean, "ReducerOptions", KeepDims=False)
    f.write(path, [image], [mean])


def test_copies_of_pixels_give_the_logits_of_litert():
    needs_litert()
    for half in (False, True):
        copying("copies.tflite", half)
        done = convert("copies.tflite")
        check(done.returncode == 0 and "LiteRT's to " in done.stdout, f"{done.stdout}{done.stderr}")
    copying("copies.tflite", corners=True)
    refused("copies.tflite", "another rule")
    copying("copies.tflite", mode=1)
    refused("copies.tflite", "doubled")
    copying("copies.tflite", kind="RESIZE_BILINEAR")
    refused("copies.tflite", "resizes smoothly")


def normalised(path, over=(3,)):
    """A convolution, layer normalisation as Keras writes it, with a ReLU in its last sum, a mean over the pixels."""
    random = np.random.RandomState(7)
    f = File()
    image = f.tensor("image", (1, 6, 5, 3))
    w = f.tensor("w", data=random.standard_normal((4, 3, 3, 3)).astype(np.float32) / 3)
    x = f.tensor("conv", (1, 4, 3, 4))
    f.operator("CONV_2D", [image, w, f.tensor("b", data=np.ones(4, np.float32))], x, "Conv2DOptions", Padding=1, StrideH=1, StrideW=1)

    def made(kind, name, *inputs, options=None, dims=(1, 4, 3, 4), **fields):
        y = f.tensor(name, dims)
        f.operator(kind, inputs, y, options, **fields)
        return y

    axis, small = f.tensor("axis", data=np.array([3], np.int32)), (1, 4, 3, 1)
    mean = made("MEAN", "mean", x, axis, options="ReducerOptions", dims=small, KeepDims=True)
    square = made("SQUARED_DIFFERENCE", "square", x, mean, options="SquaredDifferenceOptions")
    axis = f.tensor("axes", data=np.array(over, np.int32))
    dims = tuple(1 if i in over else size for i, size in enumerate((1, 4, 3, 4)))
    variance = made("MEAN", "variance", square, axis, options="ReducerOptions", dims=dims, KeepDims=True)
    shifted = made("ADD", "shifted", variance, f.tensor("eps", data=np.array([1e-3], np.float32)), options="AddOptions", dims=dims)
    root = made("RSQRT", "root", shifted, dims=dims)
    gamma, beta = (f.tensor(name, data=random.standard_normal(4).astype(np.float32)) for name in ("gamma", "beta"))
    root = made("MUL", "scaled", root, gamma, options="MulOptions")
    less = made("SUB", "less", beta, made("MUL", "mean.scaled", mean, root, options="MulOptions"), options="SubOptions")
    scaled = made("MUL", "x.scaled", x, root, options="MulOptions")
    y = made("ADD", "normalised", scaled, less, options="AddOptions", FusedActivationFunction=1)
    pixels = f.tensor("pixels", data=np.array([1, 2], np.int32))
    logits = made("MEAN", "logits", y, pixels, options="ReducerOptions", dims=(1, 4), KeepDims=False)
    f.write(path, [image], [logits])


def test_layer_normalisation_as_tensorflow_spells_it():
    needs_litert()
    normalised("norm.tflite")
    done = convert("norm.tflite")
    check(done.returncode == 0 and "LiteRT's to " in done.stdout, f"{done.stdout}{done.stderr}")
    check(" norm " in done.stdout and " relu " in done.stdout, done.stdout)
    normalised("norm.tflite", over=(1, 2))
    refused("norm.tflite", "SQUARED_DIFFERENCE")


def tensordot(path):
    """A dense layer of each pixel, its shapes computed in the graph, as Keras writes it for networks of any batch."""
    random = np.random.RandomState(8)
    f = File()
    image = f.tensor("image", (1, 4, 3, 3))

    def ints(name, *numbers):
        return f.tensor(name, data=np.array(numbers, np.int32))

    def made(kind, name, dims, *inputs, options=None, dtype=np.int32, **fields):
        y = f.tensor(name, dims, dtype)
        f.operator(kind, inputs, y, options, **fields)
        return y

    shape = made("SHAPE", "shape", (4,), image, options="ShapeOptions", OutType=2)
    free = made("GATHER", "free", (3,), shape, ints("batch, rows, columns", 0, 1, 2), options="GatherOptions")
    inner = made("GATHER", "inner", (1,), shape, ints("channels", 3), options="GatherOptions")
    axis = ints("axis", 0)
    products = [made("REDUCE_PROD", f"product{i}", (), x, axis, options="ReducerOptions") for i, x in enumerate((free, inner))]
    flat = made("PACK", "flat", (2,), *products, options="PackOptions", ValuesCount=2)
    whole = made("CONCATENATION", "whole", (4,), free, ints("outputs", 5), options="ConcatenationOptions")
    x = made("RESHAPE", "pixels", (12, 3), image, flat, dtype=np.float32)
    w = f.tensor("w", data=random.standard_normal((5, 3)).astype(np.float32))
    bias = f.tensor("bias", data=random.standard_normal(5).astype(np.float32))
    x = made("FULLY_CONNECTED", "dense", (12, 5), x, w, bias, options="FullyConnectedOptions", dtype=np.float32, FusedActivationFunction=1)
    x = made("RESHAPE", "picture", (1, 4, 3, 5), x, whole, dtype=np.float32)
    f.write(path, [image], [made("MEAN", "logits", (1, 5), x, ints("over", 1, 2), options="ReducerOptions", dtype=np.float32)])


def test_a_dense_layer_of_each_pixel():
    needs_litert()
    tensordot("dense.tflite")
    done = convert("dense.tflite")
    check(done.returncode == 0 and "LiteRT's to " in done.stdout and " conv " in done.stdout, f"{done.stdout}{done.stderr}")


def test_an_operator_without_a_rule_is_named():
    small("net.tflite", activation="FLOOR")
    refused("net.tflite", "act (FLOOR)")


def test_damaged_files_are_refused():
    small("net.tflite")
    whole = open("net.tflite", "rb").read()
    random = np.random.RandomState(9)
    taken = 0
    for i in range(200):
        data = bytearray(whole)
        if i % 2:
            data = data[: random.randint(len(data))]
        else:
            for _ in range(4):
                data[random.randint(8, len(data))] = random.randint(256)
        with open("damaged.tflite", "wb") as f:
            f.write(data)
        try:
            read("damaged.tflite")
            taken += 1  # what was hit says nothing about the graph, a weight say
        except ConvertError:
            pass
    check(taken < 150, f"{taken} of 200 damaged files were taken")


def rewritten(whole, change):
    """A file's bytes with numbers of its tables set by change(model, put): put(table, field, value) writes
    an int32 field, put(table, field, value, i) item i of a vector, where item -1 is its length."""
    data = bytearray(whole)

    def put(table, field, value, i=None):
        at = table._tab.Offset(4 + 2 * field)
        at = table._tab.Pos + at if i is None else table._tab.Vector(at) + 4 * i
        data[at : at + 4] = struct.pack("<i", value)

    change(schema.Model.GetRootAsModel(bytes(whole), 0), put)
    return data


def test_numbers_that_point_out_of_their_tables_are_refused_by_name():
    """An operator's kind, the input's and the output's number: what stands beside the table is not its content."""
    small("net.tflite")
    whole = open("net.tflite", "rb").read()
    cases = (
        (lambda model, put: put(model.Subgraphs(0), 1, -1, 0), "input is tensor -1"),
        (lambda model, put: put(model.Subgraphs(0), 1, 99, 0), "input is tensor 99"),
        (lambda model, put: put(model.Subgraphs(0), 2, -1, 0), "an output is none of"),
        (lambda model, put: put(model.Subgraphs(0), 2, 99, 0), "an output is none of"),
        (lambda model, put: put(model.Subgraphs(0).Operators(1), 0, 99), "operator 1 is of kind 99"),
    )
    for change, word in cases:
        with open("damaged.tflite", "wb") as f:
            f.write(rewritten(whole, change))
        refused("damaged.tflite", word)


def test_options_of_another_kind_are_refused():
    f = File()
    image = f.tensor("image", (1, 4, 4, 3))
    logits, axes = f.tensor("logits", (1, 3)), f.tensor("axes", data=np.array([1, 2], np.int32))
    f.operator("MEAN", [image, axes], logits, "AddOptions", FusedActivationFunction=1)
    f.write("net.tflite", [image], [logits])
    refused("net.tflite", "no ReducerOptions")


def test_constants_that_grow_are_refused():
    """Each joins the one before it with itself: 2^40 numbers. A resized picture of 2^31 - 1 rows."""
    f = File()
    image, part = f.tensor("image", (1, 4, 4, 3)), f.tensor("part", data=np.ones(2, np.float32))
    for i in range(39):
        whole = f.tensor(f"joined{i}", (2,))  # the shape that is said is not asked
        f.operator("CONCATENATION", [part, part], whole, "ConcatenationOptions", Axis=0)
        part = whole
    logits = f.tensor("logits", (1, 4, 4, 3))
    f.operator("ADD", [image, part], logits, "AddOptions")
    f.write("net.tflite", [image], [logits])
    refused("net.tflite", "computes a constant of")
    f = File()
    image, size = f.tensor("image", (1, 4, 4, 3)), f.tensor("size", data=np.array([2**31 - 1, 4], np.int32))
    wide = f.tensor("wide", (1, 2**31 - 1, 4, 3))
    f.operator("RESIZE_NEAREST_NEIGHBOR", [image, size], wide, "ResizeNearestNeighborOptions")
    f.write("net.tflite", [image], [wide])
    refused("net.tflite", "resizes to [2147483647,4]")


def test_tensors_that_share_a_buffer_are_read_within_limits():
    """Sixty tensors are the same megabyte of int8: 2^24 numbers beyond the file's bytes are read, 60 million not."""
    for count, word in ((60, "share the buffers"), (10, None)):
        f = File()
        x = image = f.tensor("image", (1, 4, 4, 3))
        data = np.ones((1 << 20,), np.int8)
        f.buffers.append(data.tobytes())
        shared = len(f.buffers) - 1
        for i in range(count):
            scales, points = f.vector([1e-3], 4, "PrependFloat32"), f.vector([0], 8, "PrependInt64")
            fields = {"Shape": f.ints(data.shape), "Name": f.b.CreateString(f"part{i}"), "Type": 9, "Buffer": shared}
            f.tensors.append(f.table("Tensor", Quantization=f.table("QuantizationParameters", Scale=scales, ZeroPoint=points), **fields))
            part, axis, mean = len(f.tensors) - 1, f.tensor(f"axis{i}", data=np.zeros(1, np.int32)), f.tensor(f"product{i}", (1,))
            f.operator("REDUCE_PROD", [part, axis], mean, "ReducerOptions", KeepDims=True)
            y = f.tensor(f"sum{i}", (1, 4, 4, 3))
            f.operator("ADD", [x, mean], y, "AddOptions")
            x = y
        axes, logits = f.tensor("axes", data=np.array([1, 2], np.int32)), f.tensor("logits", (1, 3))
        f.operator("MEAN", [x, axes], logits, "ReducerOptions", KeepDims=False)
        f.write("net.tflite", [image], [logits])
        if word:
            refused("net.tflite", word)
        else:
            read("net.tflite")


def test_a_file_that_litert_refuses_or_crashes_on_is_not_written():
    """A version of the schema that there is not; a depthwise convolution without bias, on which LiteRT 2.3 crashes."""
    needs_litert()
    small("net.tflite")
    whole = open("net.tflite", "rb").read()
    graph = schema.Model.GetRootAsModel(whole, 0).Subgraphs(0)
    kernel = next(i for i in range(graph.TensorsLength()) if graph.Tensors(i).Name() == b"depthwise.w")
    depthwise = next(i for i in range(graph.OperatorsLength()) if kernel in graph.Operators(i).InputsAsNumpy())

    def no_bias(model, put):
        put(model.Subgraphs(0).Operators(depthwise), 1, 2, -1)

    for change in (lambda model, put: put(model, 0, 6), no_bias):
        with open("damaged.tflite", "wb") as f:
            f.write(rewritten(whole, change))
        done = convert("damaged.tflite")
        check(done.returncode == 2 and "LiteRT cannot run it" in done.stderr, f"{done.returncode}: {done.stderr}")
        check(not os.path.exists("net.agf"), "a file was written")
        check(not [name for name in os.listdir(".") if name.endswith(".tmp")], "a temporary file was left")
        check(convert("damaged.tflite", "--no-check").returncode == 0, "--no-check")
        os.remove("net.agf")


def test_quantised_input_and_an_implied_relu():
    """uint8 input; the convolution's output can hold nothing below 0, so that a ReLU stands behind it."""
    f = File()
    image = f.tensor("image", (1, 4, 4, 3), np.uint8, scale=0.02, point=100)
    w = f.tensor("w", data=np.full((2, 1, 1, 3), 129, np.uint8), scale=0.5, point=128)
    b = f.tensor("b", data=np.array([0, 50], np.int32), scale=0.01)
    y = f.tensor("y", (1, 4, 4, 2), np.uint8, scale=0.05, point=0)
    f.operator("CONV_2D", [image, w, b], y, "Conv2DOptions", Padding=1, StrideH=1, StrideW=1)
    mean = f.tensor("mean", (1, 2), np.uint8, scale=0.05, point=0)
    axes = f.tensor("axes", data=np.array([1, 2], np.int32))
    f.operator("MEAN", [y, axes], mean, "ReducerOptions", KeepDims=False)
    f.write("q.tflite", [image], [mean])
    imported = read("q.tflite")
    scale, bias = imported.finished.affine
    check(np.allclose(scale, 0.02) and np.allclose(bias, -2), imported.finished.affine)
    check(imported.range == (0, 255) and not imported.exact, imported.range)
    check(
        [node.op for node in imported.finished.nodes] == ["conv", "relu", "global_avgpool"], [node.op for node in imported.finished.nodes]
    )
    check(np.allclose(imported.finished.nodes[0].weights, 0.5) and np.allclose(imported.finished.nodes[0].bias, (0, 0.5)))


def teachable(path, quantised):
    """As Teachable Machine exports: a convolution, a mean, a dense layer, one without a bias, a softmax."""
    f, random = File(), np.random.RandomState(9)

    def made(kind, name, dims, inputs, options=None, scale=0.05, point=0, dtype=np.int8, **fields):
        y = f.tensor(name, dims, *((dtype, None, scale, point) if quantised else ()))
        f.operator(kind, inputs, y, options, **fields)
        return y

    def weights(name, *dims):
        if quantised:
            return f.tensor(name, data=random.randint(-127, 128, dims).astype(np.int8), scale=0.01)
        return f.tensor(name, data=random.standard_normal(dims).astype(np.float32))

    def bias(name, count, scale):
        return f.tensor(name, data=np.zeros(count, np.int32 if quantised else np.float32), scale=scale if quantised else None)

    x = image = f.tensor("image", (1, 8, 8, 3), *((np.uint8, None, 1 / 127.5, 127) if quantised else ()))
    if quantised:
        x = made("QUANTIZE", "signed", (1, 8, 8, 3), [image], scale=1 / 127.5, point=-1)
    x = made("CONV_2D", "conv", (1, 4, 4, 6), [x, weights("w", 6, 3, 3, 3), bias("b", 6, 0.01 / 127.5)], "Conv2DOptions",
             scale=6 / 255, point=-128, Padding=0, StrideH=2, StrideW=2, FusedActivationFunction=3)
    axes = f.tensor("axes", data=np.array([1, 2], np.int32))
    x = made("MEAN", "mean", (1, 6), [x, axes], "ReducerOptions", scale=6 / 255, point=-128, KeepDims=False)
    x = made("FULLY_CONNECTED", "dense", (1, 5), [x, weights("dense.w", 5, 6), bias("dense.b", 5, 0.06 / 255)],
             "FullyConnectedOptions", point=-128, FusedActivationFunction=1)
    x = made("FULLY_CONNECTED", "logits", (1, 3), [x, weights("logits.w", 3, 5), -1], "FullyConnectedOptions", scale=0.1)
    x = made("SOFTMAX", "probabilities", (1, 3), [x], "SoftmaxOptions", scale=1 / 256, point=-128, Beta=1.0)
    if quantised:
        x = made("QUANTIZE", "unsigned", (1, 3), [x], scale=1 / 256, dtype=np.uint8)
    f.write(path, [image], [x])


def test_teachable_machines_exports_as_the_readme_says():
    """Its labels' numbers go; pictures are cropped; float files are normalised as told, quantised ones take bytes."""
    needs_litert()
    import agf

    picture = np.random.RandomState(3).randint(0, 256, (8, 12, 3), np.uint8)
    with open("labels.txt", "w", encoding="utf-8") as f:
        f.write("0 Class 1\n1 my dog\n2 7 of 9\n")
    for quantised, told in ((False, ["--mean", "0.5", "--std", "0.5"]), (True, [])):
        teachable("model.tflite", quantised)
        done = convert("model.tflite", "--labels", "labels.txt", "--resize", "crop:8", *told)
        check(done.returncode == 0 and "checked: " in done.stdout, f"{done.stdout}{done.stderr}")
        with agf.Model("net.agf") as model, model.session() as session:
            check(model.labels == ["Class 1", "my dog", "7 of 9"], model.labels)
            tensor = model.preprocess(picture)
            square = picture[:, 2:10].transpose(2, 0, 1).astype(np.float32)
            # Bytes, or (x / 127.5) - 1 to float32's rounding.
            check(np.allclose(tensor, square if quantised else square / 127.5 - 1, atol=1e-6), "not the picture's centre")
            check(np.isfinite(session.run(tensor)).all() and np.isfinite(session.explain()).all(), "no map")


def test_a_file_compiled_for_the_edge_tpu_is_refused_by_name():
    f = File()
    image, logits = f.tensor("image", (1, 8, 8, 3), np.uint8, scale=0.02, point=0), f.tensor("logits", (1, 3), np.uint8, scale=0.1)
    f.operator("CUSTOM", [image], logits)
    f.custom = "edgetpu-custom-op"
    f.write("model_edgetpu.tflite", [image], [logits])
    refused("model_edgetpu.tflite", "before edgetpu_compiler")


def test_a_softmax_of_integers_may_change_its_type():
    """Full-integer files: softmax in int8, then uint8. The range from 0 is the softmax's, no ReLU."""
    f = File()
    image = f.tensor("image", (1, 4, 4, 2), np.int8, scale=0.02, point=0)
    logits = f.tensor("logits", (1, 2), np.int8, scale=0.05, point=-10)
    axes = f.tensor("axes", data=np.array([1, 2], np.int32))
    f.operator("MEAN", [image, axes], logits, "ReducerOptions", KeepDims=False)
    small, wide = (f.tensor(str(dtype), (1, 2), dtype, scale=1 / 256, point=point) for dtype, point in ((np.int8, -128), (np.uint8, 0)))
    f.operator("SOFTMAX", [logits], small, "SoftmaxOptions", Beta=1.0)
    f.operator("QUANTIZE", [small], wide)
    f.write("q.tflite", [image], [wide])
    finished = read("q.tflite").finished
    check([node.op for node in finished.nodes] == ["global_avgpool"], [node.op for node in finished.nodes])


def real(name):
    path = os.path.join(REAL, name)
    if not os.path.exists(path):
        raise Skip(f"{REAL} is not there (AGF_TEST_DATA)")
    needs_litert()
    return path


def test_real_float_networks_agree_to_a_ten_thousandth():
    for name in ("cifar_resnet8.tflite", "person_96.tflite"):
        path = real(name)
        done = convert(path)
        check(done.returncode == 0, done.stderr)
        error = float(done.stdout.split("LiteRT's to ")[1].split()[0])
        check(error <= 1e-4, done.stdout)


def test_real_quantised_networks_name_the_same_class():
    import agf
    from ai_edge_litert.interpreter import Interpreter
    from PIL import Image

    pictures = sorted(glob.glob(os.path.join(PICTURES, "*.jpg")))[:20]
    for name in ("mobilenet_v1_0.25_128_quant.tflite", "mobilenet_v1_0.5_160_quant.tflite"):
        path = real(name)
        if not pictures:
            raise Skip(f"{PICTURES} is not there (AGF_TEST_DATA)")
        done = convert(path)
        check(done.returncode == 0, done.stderr)
        interpreter = Interpreter(path, num_threads=1)
        interpreter.allocate_tensors()
        into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        side, agree = int(into["shape"][1]), 0
        with agf.Model("net.agf") as model, model.session() as session:
            check(model.labels[0] == "background" and len(model.labels) == 1001, "the labels of the file's metadata")
            for picture in pictures:
                pixels = np.asarray(Image.open(picture).convert("RGB").resize((side, side)))
                interpreter.set_tensor(into["index"], pixels[None])
                interpreter.invoke()
                logits = session.run(pixels.astype(np.float32).transpose(2, 0, 1), explain=False)
                agree += int(np.argmax(interpreter.get_tensor(out["index"])[0]) == np.argmax(logits))
        # Rounding activations to 256 steps changes the winner where two classes are close: one picture in twenty, seen.
        check(agree >= 0.85 * len(pictures), f"{name}: {agree} of {len(pictures)} pictures")


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:]))
