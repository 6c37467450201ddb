#!/usr/bin/env python3
"""Convert networks to .agf model files.

    agf_convert.py NET.onnx -o NET.agf          an ONNX file, opsets 7 to 20
    agf_convert.py --arch resnet50 -o NET.agf   a torchvision network, by its name

From Python, convert(module, path) takes any torch.nn.Module. An ONNX file needs numpy and onnx; --arch and convert()
also need torch (and torchvision for its names, safetensors for weights in that format). agf.h describes the file that
is written.
"""
import argparse
import os
import re
import struct
import sys
import zlib
from dataclasses import dataclass, field, replace
from typing import List, Optional, Tuple

import numpy as np


class ConvertError(Exception):
    """What is wrong with the user's network, file or option: one line that names it."""


# The network, as the engine sees it

IMAGE = "input"  # the name that a node's inputs use for the image; no node is called so

OPS = {"conv": 1, "batchnorm": 2, "relu": 3, "relu6": 4, "maxpool": 5, "avgpool": 6, "adaptive_avgpool": 7,
       "global_avgpool": 8, "linear": 9, "flatten": 10, "add": 11, "concat": 12}


@dataclass
class Node:
    """One node. Only the fields that its op uses are set; pairs are (height, width)."""
    op: str                                  # a key of OPS
    name: str                                # unique; other nodes read this node's output by it
    inputs: List[str]
    kernel: Tuple[int, int] = (0, 0)         # adaptive_avgpool: the output's size
    stride: Tuple[int, int] = (0, 0)
    pad: Tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: Tuple[int, int] = (0, 0)
    groups: int = 0
    flat: bool = False                       # agf-spec: "Conv, flat"
    ceil_mode: bool = False
    count_include_pad: bool = False
    weights: Optional[np.ndarray] = None     # conv [O, I / groups, kh, kw], linear [O, I], batchnorm scale [C]
    bias: Optional[np.ndarray] = None        # conv and linear [O], batchnorm [C]


@dataclass
class Preprocessing:
    """From an 8-bit picture to the input: resize, then (value / 255 * range - mean) / std per channel."""
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    range: float = 1.0                       # what 255 becomes before mean and std: 1 or 255
    channels: str = "rgb"                    # rgb, bgr
    resize: str = "stretch"                  # stretch, crop
    resize_to: int = 0                       # crop: the shorter side before the centre crop


@dataclass
class Network:
    """A network in topological order; the last node makes the logits."""
    input_shape: Tuple[int, int, int]        # [C, H, W], nominal
    nodes: List[Node]
    name: str = ""
    source: str = ""
    labels: List[str] = field(default_factory=list)
    preprocessing: Optional[Preprocessing] = None

    def shapes(self):
        """Output shapes of the image and of every node at the nominal size: {name: (C, H, W), or (N,) if flattened}."""
        shapes = {IMAGE: tuple(self.input_shape)}
        for node in self.nodes:
            if node.name in shapes:
                raise ConvertError(f"two nodes are called {node.name}")
            try:
                shapes[node.name] = output_shape(node, [shapes[name] for name in node.inputs])
            except ConvertError as problem:
                raise ConvertError(f"node {node.name} ({node.op}): {problem}") from None
        return shapes


    def flattened(self, shapes):
        """What each vector was before it was flattened: {name: (C, H, W)}, (N, 1, 1) for a linear layer's output.

        A linear layer's weights are stored in the order of that tensor; only what works element by element may stand in
        between.
        """
        origins = {}
        for node in self.nodes:
            if len(shapes[node.name]) == 3:
                continue
            found = {origins.get(name, shapes[name]) for name in node.inputs}
            if node.op == "linear":
                found = {shapes[node.name] + (1, 1)}
            elif node.op in ("batchnorm", "concat") and all(origin[1:] == (1, 1) for origin in found):
                found = {shapes[node.name] + (1, 1)}
            elif node.op not in ("flatten", "relu", "relu6", "add") or len(found) != 1:
                raise ConvertError(f"node {node.name} ({node.op}): reads the flattened {describe(sorted(found))}, "
                                   "which only a linear layer, ReLU or Add can")
            origins[node.name] = found.pop()
        return origins


def window_size(size, kernel, stride, pad_before, pad_after, dilation=1, ceil_mode=False):
    """Number of positions of a sliding window along one axis; below 1 where it does not fit."""
    room = size + pad_before + pad_after - dilation * (kernel - 1) - 1
    if room < 0:
        return 0
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    # A last window that would begin beyond the input and its left padding is dropped (agf-spec, "Pools").
    if ceil_mode and (count - 1) * stride >= size + pad_before:
        count -= 1
    return count


def output_shape(node, inputs):
    """Shape of a node's output for its inputs' shapes; ConvertError, without the node's name, if they do not fit."""
    def need(condition, what):
        if not condition:
            raise ConvertError(f"{what}, its input is {describe(inputs)}")

    def windows(dilation=(1, 1)):
        need(min(tuple(node.kernel) + node.stride + dilation) > 0, "kernel, stride and dilation must be positive")
        size = tuple(window_size(inputs[0][1 + i], node.kernel[i], node.stride[i], node.pad[i], node.pad[2 + i],
                                 dilation[i], node.ceil_mode) for i in (0, 1))
        need(min(size) > 0, f"the {node.kernel[0]}x{node.kernel[1]} window does not fit")
        return size

    x = inputs[0]
    if node.op in ("conv", "maxpool", "avgpool", "adaptive_avgpool", "global_avgpool"):
        need(len(x) == 3, "needs a [C,H,W] tensor")
    if node.op == "conv":
        outputs, inputs_per_group = node.weights.shape[:2]
        need(node.groups > 0 and x[0] == inputs_per_group * node.groups and outputs % node.groups == 0,
             f"weights {describe([node.weights.shape])} in {node.groups} group(s) do not fit")
        return (outputs,) + windows(node.dilation)
    if node.op in ("maxpool", "avgpool"):
        need(all(p < k for p, k in zip(node.pad, tuple(node.kernel) * 2)), f"padded by {node.pad}, beyond its window")
        return (x[0],) + windows()
    if node.op == "adaptive_avgpool":
        return (x[0],) + tuple(node.kernel)
    if node.op == "global_avgpool":
        return (x[0], 1, 1)
    if node.op == "linear":
        need(len(x) == 1, "needs a flattened tensor")
        need(x[0] == node.weights.shape[1], f"weights {describe([node.weights.shape])} do not fit")
        return (node.weights.shape[0],)
    if node.op == "flatten":
        return (int(np.prod(x)),)
    if node.op == "add":
        need(len(inputs) == 2 and inputs[0] == inputs[1], "adds two tensors of one shape")
        return x
    if node.op == "concat":
        need(all(len(other) == len(x) and other[1:] == x[1:] for other in inputs),
             "joins tensors of one height and width")
        return (sum(other[0] for other in inputs),) + x[1:]
    if node.op == "batchnorm":
        need(x[0] == len(node.weights), f"{len(node.weights)} channels do not fit")
    return x


def describe(shapes):
    """[3,224,224] and [10] for messages."""
    return " and ".join("[" + ",".join(map(str, shape)) + "]" for shape in shapes)


def batchnorm_scale_bias(gamma, beta, mean, var, eps):
    """An inference BatchNorm as y = scale * x + bias: computed in double, rounded once."""
    gamma, beta, mean, var = (np.asarray(array, np.float64) for array in (gamma, beta, mean, var))
    scale = gamma / np.sqrt(var + eps)
    return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)


# The model file (agf.h, "The model file, version 1")

MAGIC = b"\x89AGF\r\n\x1a\n"
FORMAT_VERSION = 1
HEADER, INPUT, NODE, TENSOR = (struct.Struct("<" + layout) for layout in ("8sIIQ7I12x", "7I9f2I8x", "20I", "6I2Q"))
VECTOR, CONVOLUTION, GROUPED, LINEAR = range(4)
INPUT_BLOCK = 16   # channels of an input block
OUTPUT_BLOCK = 32  # the outputs of a dense convolution and of a linear layer are filled up to a multiple of it


def align(size, multiple=64):
    """The next multiple."""
    return -(-size // multiple) * multiple


def fill(array, axis, multiple):
    """Zeros after the end of one axis, up to a multiple."""
    missing = [(0, 0)] * array.ndim
    missing[axis] = (0, -array.shape[axis] % multiple)
    return np.pad(array, missing)


class Tensor:
    """An entry of the tensor table, and its data in the layout that the kernels read."""

    def __init__(self, owner, layout, dims, array, f16):
        """array: vector [n], convolution [O, I / groups, kh, kw], linear [O, C * H * W]; owner names it in messages."""
        self.owner, self.layout, self.dims, self.array = owner, layout, dims, array
        self.f16 = f16 and layout != VECTOR
        self.offset = 0
        output_block = {VECTOR: 1, GROUPED: INPUT_BLOCK}.get(layout, OUTPUT_BLOCK)
        self.count = align(dims[0], output_block) * int(np.prod(dims[1:]))

    @property
    def bytes(self):
        return self.count * (2 if self.f16 else 4)

    def pieces(self):
        """The data, an input block at a time: a whole copy of a large linear layer would double the memory needed."""
        for piece in self._blocks():
            if not np.isfinite(piece).all():
                raise ConvertError(f"{self.owner}: not all of its values are finite")
            if self.f16:
                with np.errstate(over="ignore"):
                    half = piece.astype("<f2")
                if not np.isfinite(half).all():
                    raise ConvertError(f"{self.owner}: {np.abs(piece).max():g} is beyond what f16 holds (65504)")
                piece = half
            yield np.ascontiguousarray(piece, "<f2" if self.f16 else "<f4").tobytes()

    def _blocks(self):
        if self.layout == VECTOR:
            yield self.array
        elif self.layout == CONVOLUTION:
            for first in range(0, self.dims[1], INPUT_BLOCK):
                block = fill(self.array[:, first:first + INPUT_BLOCK], 0, OUTPUT_BLOCK)
                outputs, inputs, kh, kw = block.shape
                # [O/32, 32, I, kh, kw] to [kh, O/32, I, kw, 32]
                yield block.reshape(-1, OUTPUT_BLOCK, inputs, kh, kw).transpose(3, 0, 2, 4, 1)
        elif self.layout == GROUPED:
            for output in range(0, self.dims[0], INPUT_BLOCK):
                rows = fill(self.array[output:output + INPUT_BLOCK], 0, INPUT_BLOCK)
                for first in range(0, self.dims[1], INPUT_BLOCK):
                    # [16, I, kh, kw] to [kh, kw, I, 16]
                    yield rows[:, first:first + INPUT_BLOCK].transpose(2, 3, 1, 0)
        else:
            weights = self.array.reshape(self.dims)
            for first in range(0, self.dims[1], INPUT_BLOCK):
                # [O, c, H, W] to [H, W, c, O]
                yield fill(weights[:, first:first + INPUT_BLOCK].transpose(2, 3, 1, 0), 3, OUTPUT_BLOCK)


class Strings:
    """The string table: each text once, offset 0 is the empty one."""

    def __init__(self):
        self.data, self.offsets = b"\0", {"": 0}

    def offset(self, text):
        if "\0" in text:
            raise ConvertError(f"a name or label contains a NUL character: {text!r}")
        if text not in self.offsets:
            self.offsets[text] = len(self.data)
            self.data += text.encode("utf-8") + b"\0"
        return self.offsets[text]


class ModelFile:
    """Lays a Network out as a model file and writes it. The bytes depend on the network and on f16 alone."""

    def __init__(self, network, f16=False):
        self.network, self.f16 = network, f16
        self.shapes = network.shapes()
        self.flattened = network.flattened(self.shapes)
        self.strings, self.tensors, self.edges = Strings(), [], []
        self.input = self._input()
        index = {IMAGE: 0}
        nodes = []
        for number, node in enumerate(network.nodes):
            nodes.append(self._node(node, [index[name] for name in node.inputs]))
            index[node.name] = number + 1
        self.nodes = b"".join(nodes)
        classes = int(np.prod(self.shapes[network.nodes[-1].name]))
        if network.labels and len(network.labels) != classes:
            raise ConvertError(f"{len(network.labels)} labels for a network of {classes} classes")
        self.labels = [self.strings.offset(label) for label in network.labels]
        tables = HEADER.size + INPUT.size + len(self.nodes) + 4 * len(self.edges) + TENSOR.size * len(self.tensors)
        self.header_bytes = align(tables + 4 * len(self.labels) + len(self.strings.data))
        self.file_bytes = self.header_bytes
        for tensor in self.tensors:
            tensor.offset = self.file_bytes
            self.file_bytes += align(tensor.bytes)

    def _input(self):
        network, p = self.network, self.network.preprocessing
        names = self.strings.offset(network.name), self.strings.offset(network.source)
        if p is None:
            return INPUT.pack(*network.input_shape, 0, 0, 0, 0, *[0.0] * 9, *names)
        channels = network.input_shape[0]
        for what, values in (("mean", p.mean), ("std", p.std)):
            if len(values) != channels:
                raise ConvertError(f"{len(values)} values of {what} for {channels} channels")
        rest = [0.0] * (4 - channels)
        order, rule = ("rgb", "bgr").index(p.channels), ("stretch", "crop").index(p.resize)
        return INPUT.pack(*network.input_shape, 1, order, rule, p.resize_to,
                          p.range, *p.mean, *rest, *p.std, *rest, *names)

    def _node(self, node, inputs):
        first_edge = len(self.edges)
        self.edges += inputs
        weights, bias = self._weights(node), 0
        if node.bias is not None:
            bias = self._tensor(node, "bias", VECTOR, (len(node.bias), 1, 1, 1), node.bias)
        flags = node.flat | node.ceil_mode << 1 | node.count_include_pad << 2
        outputs = node.weights.shape[0] if node.op in ("conv", "linear") else 0
        return NODE.pack(OPS[node.op], flags, self.strings.offset(node.name), first_edge, len(inputs), *node.kernel,
                         *node.stride, *node.pad, *node.dilation, node.groups, outputs, weights, bias, 0)

    def _weights(self, node):
        if node.weights is None:
            return 0
        if node.op == "conv":
            layout = CONVOLUTION if node.groups == 1 else GROUPED
            return self._tensor(node, "weights", layout, node.weights.shape, node.weights)
        if node.op == "linear":
            dims = (len(node.weights),) + self.flattened[node.inputs[0]]
            return self._tensor(node, "weights", LINEAR, dims, node.weights)
        return self._tensor(node, "scale", VECTOR, (len(node.weights), 1, 1, 1), node.weights)

    def _tensor(self, node, what, layout, dims, array):
        self.tensors.append(Tensor(f"node {node.name}, {what}", layout, tuple(dims), array, self.f16))
        return len(self.tensors)

    def write(self, path):
        """Write the file under a temporary name and rename it when it is complete."""
        temporary = f"{path}.{os.getpid()}.tmp"
        f = open(temporary, "xb")
        try:
            with f:
                f.write(bytes(self.header_bytes))
                data_crc = 0
                for tensor in self.tensors:
                    for piece in tensor.pieces():
                        data_crc = zlib.crc32(piece, data_crc)
                        f.write(piece)
                    gap = bytes(align(tensor.bytes) - tensor.bytes)
                    data_crc = zlib.crc32(gap, data_crc)
                    f.write(gap)
                f.seek(0)
                header = self._header(0, data_crc)
                f.write(self._header(zlib.crc32(header), data_crc))
            os.replace(temporary, path)
        except BaseException:
            os.remove(temporary)
            raise

    def _header(self, header_crc, data_crc):
        """Everything before the first tensor."""
        parts = [HEADER.pack(MAGIC, FORMAT_VERSION, self.header_bytes, self.file_bytes, header_crc, data_crc,
                             len(self.nodes) // NODE.size, len(self.edges), len(self.tensors), len(self.labels),
                             len(self.strings.data)),
                 self.input, self.nodes, struct.pack(f"<{len(self.edges)}I", *self.edges)]
        for t in self.tensors:
            parts.append(TENSOR.pack(2 if t.f16 else 1, t.layout, *t.dims, t.offset, t.bytes))
        parts += [struct.pack(f"<{len(self.labels)}I", *self.labels), self.strings.data]
        return b"".join(parts).ljust(self.header_bytes, b"\0")


# ONNX graphs

OPSETS = range(7, 21)
VIEWS = "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"


@dataclass
class Value:
    """An ONNX tensor that depends on the image: the output of one of our nodes, with what is still to be applied to it.

    Reshapes, zero padding and per-channel arithmetic are kept here until a node reads the tensor: only then is it known
    whether they flatten it, belong to a convolution, or change nothing that is used (after the logits).
    """
    source: str                            # name of our node, or IMAGE
    dims: Tuple[int, ...]                  # as ONNX sees it, the batch of 1 included
    origin: str                            # "node NAME (OP)" that made it
    pad: Optional[Tuple[int, int, int, int]] = None   # top, left, bottom, right; dims include it
    pad_value: float = 0.0
    scale: Optional[np.ndarray] = None     # then x * scale + shift, float64, one per channel (both or none)
    shift: Optional[np.ndarray] = None
    channels: Optional[List[int]] = None   # IMAGE: those of the image's channels that it holds, in this order
    probabilities: bool = False            # a softmax has been taken
    tensor: str = ""                       # the ONNX tensor that our node's output is, if nothing was done to it since

    def affine(self):
        """Scale and shift, per channel of this value; (1, 0) where nothing is pending."""
        count = len(self.channels) if self.channels is not None else self.dims[1]
        return (np.ones(count), np.zeros(count)) if self.scale is None else (self.scale, self.shift)


class OnnxImport:
    """One ONNX graph, node by node, to a list of Nodes."""

    def __init__(self, graph, opset, constants, image, input_shape):
        """constants: {tensor name: array}; image: the name of the tensor that is the picture, [1, *input_shape]."""
        self.graph, self.opset = graph, opset
        self.values = dict(constants)
        self.values[image] = Value(IMAGE, (1,) + tuple(input_shape), "the image", channels=list(range(input_shape[0])))
        self.shapes = {IMAGE: tuple(input_shape)}
        self.nodes, self.by_name = [], {}
        self.flattened = {}      # name of our node -> name of the flatten node after it
        self.image_reading = None  # (channels, scale, shift) in which the nodes read the image
        self.readers = {}        # ONNX tensor -> number of needed nodes that read it

    def run(self, output):
        """Convert everything that the tensor `output` depends on; returns the nodes, the last one making the logits."""
        for node in self._needed(output):
            self.node = node
            arguments = [self._argument(name) for name in node.input]
            if node.op_type == "Identity":
                results = arguments
            elif not any(isinstance(argument, Value) for argument in arguments):
                results = self._fold(arguments)
            elif node.op_type in ("Shape", "Size"):
                results = [self._shape(arguments[0])]
            else:
                results = self._convert(arguments)
            for name, result in zip(node.output, results if isinstance(results, list) else [results]):
                self.values[name] = result
        logits = self.values.get(output)
        if not isinstance(logits, Value):
            raise ConvertError(f"output {output} does not depend on the image")
        if logits.scale is not None:
            logits = self._apply_affine(logits)
        return self._end_at(logits)

    def _needed(self, output):
        """The nodes that `output` depends on, in the file's order. Others (auxiliary heads, losses) are left out."""
        all_nodes = list(self.graph.node)
        made_by = {name: i for i, node in enumerate(all_nodes) for name in node.output if name}
        wanted, needed = [output], set()
        while wanted:
            i = made_by.get(wanted.pop())
            if i is not None and i not in needed:
                needed.add(i)
                wanted += all_nodes[i].input
        nodes = [all_nodes[i] for i in sorted(needed)]
        for node in nodes:
            for name in node.input:
                self.readers[name] = self.readers.get(name, 0) + 1
        self.readers[output] = self.readers.get(output, 0) + 1
        return nodes

    def _argument(self, name):
        if name == "":
            return None
        if name not in self.values:
            raise self.error(f"reads {name}, which nothing before it makes")
        return self.values[name]

    def here(self):
        """The current node in messages."""
        domain = f"{self.node.domain}::" if self.node.domain not in ("", "ai.onnx") else ""
        return f"node {self.node.name or self.node.output[0]} ({domain}{self.node.op_type})"

    def error(self, what):
        return ConvertError(f"{self.here()}: {what}")

    def attribute(self, name, default=None):
        import onnx
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def option(self, arguments, index, name, default=None):
        """What newer opsets take as a constant input and older ones as an attribute."""
        if index < len(arguments) and arguments[index] is not None:
            return self.constant(arguments[index], name)
        return self.attribute(name, default)

    def constant(self, argument, what):
        if isinstance(argument, Value):
            raise self.error(f"its {what} depends on the image")
        return argument

    def weights(self, argument, what):
        """A constant tensor as float32, f16 widened exactly."""
        array = self.constant(argument, what)
        if array is None or array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise self.error(f"its {what} are not floating point numbers" if array is not None else f"has no {what}")
        return np.asarray(array, np.float32)

    # Constants

    def _fold(self, arguments):
        """Run a node whose inputs are all constants."""
        import onnx
        from onnx.reference import ReferenceEvaluator
        if self.node.op_type.startswith("Random") or self.node.op_type in ("Bernoulli", "Multinomial"):
            raise self.error("random numbers cannot be converted")
        given = {name: array for name, array in zip(self.node.input, arguments) if name}
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
        inputs = [onnx.helper.make_tensor_value_info(name, types[name], array.shape) for name, array in given.items()]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in self.node.output if name]
        domains = {"": self.opset, self.node.domain: self.opset}
        model = onnx.helper.make_model(onnx.helper.make_graph([self.node], "constant", inputs, outputs),
                                       opset_imports=[onnx.helper.make_opsetid(*pair) for pair in domains.items()])
        try:
            results = ReferenceEvaluator(model).run(None, given)
        except Exception as problem:  # the evaluator raises whatever the operation's own code runs into
            raise self.error(f"a constant that cannot be computed ({first_line(problem)})") from problem
        results = iter(np.asarray(result) for result in results)
        return [next(results) if name else None for name in self.node.output]

    def _shape(self, value):
        if self.node.op_type == "Size":
            return np.array(int(np.prod(value.dims)), np.int64)
        return np.array(value.dims[slice(self.attribute("start", 0), self.attribute("end"))], np.int64)

    # Nodes

    def _convert(self, arguments):
        node = self.node
        known = node.domain in ("", "ai.onnx") or (node.domain, node.op_type) == (OWN_DOMAIN, ADAPTIVE_POOL)
        convert = getattr(self, f"on_{'view' if node.op_type in VIEWS else node.op_type}", None) if known else None
        if convert is None:
            raise self.error("AGF has no rule for this operation")
        first = arguments[0]
        if any(isinstance(a, Value) and a.probabilities for a in arguments) and node.op_type not in VIEWS + ("Cast",):
            raise self.error("reads probabilities: a softmax can only be the network's last operation")
        for name in node.output[1:]:
            if self.readers.get(name) and not (node.op_type == "Split" and isinstance(first, Value)):
                raise self.error(f"its output {name} is used; only the first one is understood")
        if node.domain != OWN_DOMAIN:
            import onnx
            context = onnx.checker.C.CheckerContext()
            context.ir_version, context.opset_imports = onnx.IR_VERSION, {"": self.opset, "ai.onnx": self.opset}
            try:
                onnx.checker.check_node(node, context)
            except onnx.checker.ValidationError as problem:
                raise self.error(f"not valid in opset {self.opset} ({first_line(problem)})") from None
        return convert(*arguments)

    def emit(self, op, inputs, suffix="", **fields):
        """Append a node of ours, and the Value of its output."""
        name = self._name() + suffix
        unique, count = name, 1
        while unique in self.shapes:
            count += 1
            unique = f"{name}_{count}"
        node = Node(op, unique, inputs, **fields)
        try:
            shape = output_shape(node, [self.shapes[name] for name in inputs])
        except ConvertError as problem:
            raise self.error(str(problem)) from None
        self.shapes[unique] = shape
        self.nodes.append(node)
        self.by_name[unique] = node
        return Value(unique, (1,) + shape, self.here(), tensor=self.node.output[0])

    def _name(self):
        return self.node.name or self.node.output[0]

    def read(self, value, padded=False):
        """The name of our node whose output is this value, after whatever was pending: a flatten, a scale and shift.

        padded: the caller takes value.pad upon itself; elsewhere a pad is an error.
        """
        if not isinstance(value, Value):
            raise self.error("reads a constant where it should read a tensor that depends on the image")
        if value.pad is not None and not padded:
            raise self.error(f"reads what {value.origin} has padded; only a convolution or a pool can take that in")
        if value.scale is not None and value.source != IMAGE:
            return self.read(self._apply_affine(value), padded)
        if value.source == IMAGE:
            self._read_image(value)
        shape = self.shapes[value.source]
        dims = value.dims
        if value.pad is not None:
            top, left, bottom, right = value.pad
            dims = dims[:2] + (dims[2] - top - bottom, dims[3] - left - right)
        if dims == (1,) + shape:
            return value.source
        if dims == (1, int(np.prod(shape))):
            if value.source not in self.flattened:
                self.flattened[value.source] = self.emit("flatten", [value.source], suffix=".flatten").source
            return self.flattened[value.source]
        raise self.error(f"reads a tensor that {value.origin} has turned from {describe([(1,) + shape])} into "
                         f"{describe([dims])}; only flattening is understood")

    def _read_image(self, value):
        """Remember the scale, shift and channel order in which the image is read: they go into the preprocessing."""
        count = self.shapes[IMAGE][0]
        if sorted(value.channels) != list(range(count)):
            raise self.error(f"reads the image's channels {value.channels}; only all of them together are understood")
        reading = (value.channels, *value.affine())
        if self.image_reading is None:
            self.image_reading = reading
        if not all(np.array_equal(mine, other) for mine, other in zip(reading, self.image_reading)):
            raise self.error("reads the image normalised in another way than the nodes before it")

    def _apply_affine(self, value):
        """A pending scale and shift as a BatchNorm node."""
        plain = replace(value, scale=None, shift=None)
        source = self.read(plain)
        scale, shift = value.scale.astype(np.float32), value.shift.astype(np.float32)
        result = self.emit("batchnorm", [source], suffix=".scale", weights=scale, bias=shift)
        # Others that read the same value find the node instead of making another one.
        for name, other in self.values.items():
            if other is value:
                self.values[name] = result
        return result

    # Convolutions, pools, linear layers

    def window(self, dims, kernel):
        """Stride, pad (top, left, bottom, right) and dilation of a window over the last two of dims."""
        stride = tuple(self.attribute("strides", [1, 1]))
        dilation = tuple(self.attribute("dilations", [1, 1]))
        auto_pad = self.attribute("auto_pad", "NOTSET")
        if (len(dims), len(kernel), len(stride), len(dilation)) != (4, 2, 2, 2):
            raise self.error(f"needs two dimensional windows over a [1,C,H,W] tensor, its input is {describe([dims])}")
        if auto_pad == "NOTSET":
            pad = tuple(self.attribute("pads", [0, 0, 0, 0]))
        elif auto_pad == "VALID":
            pad = (0, 0, 0, 0)
        elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            total = [max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
                     for size, k, s, d in zip(dims[2:], kernel, stride, dilation)]
            less, more = [t // 2 for t in total], [t - t // 2 for t in total]
            pad = tuple(less + more if auto_pad == "SAME_UPPER" else more + less)
        else:
            raise self.error(f"auto_pad {auto_pad} is not understood")
        if len(pad) != 4 or min(pad) < 0:
            raise self.error(f"padding {list(pad)} is not understood")
        return stride, pad, dilation

    def on_Conv(self, x, weights, bias=None):
        weights = self.weights(weights, "weights")
        if weights.ndim != 4:
            raise self.error(f"needs [O,I,kh,kw] weights, has {describe([weights.shape])}")
        kernel = weights.shape[2:]
        stride, pad, dilation = self.window(x.dims, kernel)
        source = self.read(x, padded=True)
        if x.pad is not None:
            if x.pad_value != 0:
                raise self.error(f"reads what {x.origin} has padded with {x.pad_value:g}; only zeros are understood")
            pad = add_pads(pad, x.pad)
        bias = None if bias is None else self.weights(bias, "bias")
        return self.emit("conv", [source], kernel=kernel, stride=stride, pad=pad, dilation=dilation,
                         groups=self.attribute("group", 1), weights=weights, bias=bias)

    def _pool(self, x):
        kernel = tuple(self.attribute("kernel_shape"))
        stride, pad, dilation = self.window(x.dims, kernel)
        if dilation != (1, 1):
            raise self.error("dilated pooling is not understood")
        return self.read(x, padded=True), kernel, stride, pad, bool(self.attribute("ceil_mode", 0))

    def on_MaxPool(self, x):
        source, kernel, stride, pad, ceil_mode = self._pool(x)
        if x.pad is not None:
            # Zeros change no maximum where nothing is below zero, as long as every window reaches into the image.
            nonnegative = source in self.by_name and self.by_name[source].op in ("relu", "relu6")
            if not (x.pad_value == -np.inf or x.pad_value == 0 and nonnegative):
                raise self.error(f"reads what {x.origin} has padded with {x.pad_value:g}, which may become a maximum")
            pad = add_pads(pad, x.pad)
        return self.emit("maxpool", [source], kernel=kernel, stride=stride, pad=pad, ceil_mode=ceil_mode)

    def on_AveragePool(self, x):
        source, kernel, stride, pad, ceil_mode = self._pool(x)
        counts_padding = bool(self.attribute("count_include_pad", 0)) or not any(pad)
        if x.pad is not None:
            if x.pad_value != 0 or not counts_padding:
                raise self.error(f"reads what {x.origin} has padded, and pads again in another way")
            pad = add_pads(pad, x.pad)
        counts_padding = counts_padding and any(pad)
        if ceil_mode and counts_padding:
            raise self.error("ceil_mode together with counted padding: how the last windows count is not defined")
        return self.emit("avgpool", [source], kernel=kernel, stride=stride, pad=pad, ceil_mode=ceil_mode,
                         count_include_pad=counts_padding)

    def on_GlobalAveragePool(self, x):
        return self.emit("global_avgpool", [self.read(x)])

    def on_AdaptiveAvgPool(self, x):
        size = tuple(self.attribute("size"))
        if size == (1, 1):
            return self.on_GlobalAveragePool(x)
        return self.emit("adaptive_avgpool", [self.read(x)], kernel=size)

    def on_ReduceMean(self, x, axes=None):
        axes = self.option([x, axes], 1, "axes", [])
        axes = sorted(int(axis) % len(x.dims) for axis in np.ravel(axes))
        if len(x.dims) != 4 or axes != [2, 3]:
            raise self.error(f"averages {describe([x.dims])} over axes {axes}; only height and width are understood")
        mean = self.on_GlobalAveragePool(x)
        return mean if self.attribute("keepdims", 1) else replace(mean, dims=mean.dims[:2])

    def on_Gemm(self, a, b, c=None):
        vector = a
        if isinstance(a, Value) and self.attribute("transA", 0) and len(a.dims) == 2:
            vector = replace(a, dims=a.dims[::-1])
        weights = self.weights(b, "weights")
        if not self.attribute("transB", 0):
            weights = weights.T
        bias = None if c is None else self.weights(c, "bias")
        return self._linear(vector, scaled(weights, self.attribute("alpha", 1.0)), bias, self.attribute("beta", 1.0))

    def on_MatMul(self, a, b):
        return self._linear(a, self.weights(b, "right-hand side").T, None)

    def _linear(self, x, weights, bias, bias_scale=1.0):
        if weights.ndim != 2:
            raise self.error(f"needs a matrix of weights, has {describe([weights.shape])}")
        if not isinstance(x, Value) or len(x.dims) != 2:
            raise self.error("needs a flattened tensor, [1,N]")
        if bias is not None:
            if bias.size != 1 and bias.shape not in ((len(weights),), (1, len(weights))):
                raise self.error(f"its bias {describe([bias.shape])} does not fit {len(weights)} outputs")
            bias = np.broadcast_to(scaled(bias, bias_scale).ravel(), len(weights))
        return self.emit("linear", [self.read(x)], weights=weights, bias=bias)

    def on_BatchNormalization(self, x, gamma, beta, mean, var):
        if self.attribute("training_mode", 0):
            raise self.error("is in training mode; export the network in evaluation mode")
        if not self.attribute("spatial", 1):
            raise self.error("normalises every position by itself (spatial=0), which is not understood")
        scale, shift = batchnorm_scale_bias(*(self.weights(a, "parameters") for a in (gamma, beta, mean, var)),
                                            self.attribute("epsilon", 1e-5))
        return self.emit("batchnorm", [self.read(x)], weights=scale, bias=shift)

    # Elementwise

    def on_Relu(self, x):
        return self.emit("relu", [self.read(x)])

    def on_Clip(self, *arguments):
        x = arguments[0]
        low, high = (float(np.reshape(self.option(arguments, index, name, default), ()))
                     for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)))
        # Exporters write "no upper limit" as the largest number of the type.
        if low == 0 and high >= np.finfo(np.float16).max:
            return self.on_Relu(x)
        if (low, high) != (0, 6):
            raise self.error(f"clips to {low:g} .. {high:g}; only ReLU6, 0 .. 6, is understood")
        return self.emit("relu6", [self.read(x)])

    def on_Add(self, a, b):
        if isinstance(a, Value) and isinstance(b, Value):
            return self.emit("add", [self.read(a), self.read(b)])
        x, constant, name = (a, b, self.node.input[0]) if isinstance(a, Value) else (b, a, self.node.input[1])
        shift = self._per_channel(x, constant)
        producer = self.by_name.get(x.source)
        if x.tensor == name and self.readers[name] == 1 and producer.op in ("conv", "linear") and producer.bias is None:
            producer.bias = shift.astype(np.float32)
            return replace(x, origin=self.here(), tensor="")
        return self._scaled(x, 1.0, shift)

    def on_Sum(self, *arguments):
        if len(arguments) == 1:
            return arguments[0]
        if len(arguments) != 2:
            raise self.error(f"adds {len(arguments)} tensors at once; only two are understood")
        return self.on_Add(*arguments)

    def on_Sub(self, a, b):
        if isinstance(a, Value) and isinstance(b, Value):
            raise self.error("subtracts one tensor from another, which AGF has no rule for")
        if isinstance(a, Value):
            return self.on_Add(a, -np.asarray(b, np.float64))
        return self._scaled(b, -1.0, self._per_channel(b, a))

    def on_Mul(self, a, b):
        if isinstance(a, Value) and isinstance(b, Value):
            raise self.error("multiplies two tensors, which AGF has no rule for")
        x, constant = (a, b) if isinstance(a, Value) else (b, a)
        return self._scaled(x, self._per_channel(x, constant), 0.0)

    def on_Div(self, a, b):
        if isinstance(b, Value):
            raise self.error("divides by a tensor, which AGF has no rule for")
        return self._scaled(a, 1.0 / self._per_channel(a, b), 0.0)

    def _per_channel(self, x, constant):
        """A constant as one float64 per channel of x."""
        constant = np.asarray(constant, np.float64)
        scale, _ = x.affine()
        if constant.size == 1:
            return np.full(len(scale), constant.item())
        aligned = (1,) * (len(x.dims) - constant.ndim) + constant.shape
        if len(aligned) < 2 or len(aligned) > len(x.dims) or not aligned[1] == constant.size == len(scale):
            raise self.error(f"its constant {describe([constant.shape])} is not one number per channel of "
                             f"{describe([x.dims])}")
        return constant.ravel()

    def _scaled(self, x, scale, shift):
        """x * scale + shift, left pending."""
        if x.pad is not None:
            raise self.error(f"reads what {x.origin} has padded; only a convolution or a pool can take that in")
        if x.source != IMAGE and len(x.dims) == 2 and x.scale is None:
            x = replace(x, source=self.read(x))
        old_scale, old_shift = x.affine()
        return replace(x, scale=old_scale * scale, shift=old_shift * scale + shift, origin=self.here(), tensor="")

    def on_Cast(self, x):
        return x

    def on_Dropout(self, x, *ratio_and_mode):
        return x

    def on_Softmax(self, x):
        axis = self.attribute("axis", -1 if self.opset >= 13 else 1) % len(x.dims)
        # Before opset 13 everything from the axis on is taken together.
        classes = x.dims[axis] if self.opset >= 13 else int(np.prod(x.dims[axis:]))
        if classes != int(np.prod(x.dims)):
            raise self.error(f"takes {describe([x.dims])} along axis {axis}, which does not hold all classes")
        return replace(x, probabilities=True)

    on_LogSoftmax = on_Softmax

    # Shapes and parts

    def on_view(self, x, *arguments):
        """Reshapes: nothing but the dimensions changes."""
        if not isinstance(x, Value):
            raise self.error("reshapes a constant to a shape that depends on the image's values")
        if x.scale is not None and x.source != IMAGE:
            x = self._apply_affine(x)
        op, dims = self.node.op_type, x.dims
        if op == "Flatten":
            axis = self.attribute("axis", 1)
            axis += len(dims) if axis < 0 else 0
            dims = (int(np.prod(dims[:axis])), int(np.prod(dims[axis:])))
        elif op == "Reshape":
            target = [int(size) for size in np.ravel(self.option([x, *arguments], 1, "shape"))]
            if not self.attribute("allowzero", 0):
                target = [dims[i] if size == 0 and i < len(dims) else size for i, size in enumerate(target)]
            dims = self._reshaped(dims, target)
        elif op == "Transpose":
            order = self.attribute("perm", list(range(len(dims)))[::-1])
            if [axis for axis in order if dims[axis] != 1] != [axis for axis in range(len(dims)) if dims[axis] != 1]:
                raise self.error(f"reorders {describe([dims])} by {list(order)}, which is not understood")
            dims = tuple(dims[axis] for axis in order)
        else:
            axes = self.option([x, *arguments], 1, "axes")
            if op == "Squeeze":
                axes = [i for i, size in enumerate(dims) if size == 1] if axes is None else np.ravel(axes)
                axes = {int(axis) % len(dims) for axis in axes}
                if any(dims[axis] != 1 for axis in axes):
                    raise self.error(f"axes {sorted(axes)} of {describe([dims])} are not all 1")
                dims = tuple(size for i, size in enumerate(dims) if i not in axes)
            else:
                rank = len(dims) + np.size(axes)
                axes = {int(axis) % rank for axis in np.ravel(axes)}
                rest = iter(dims)
                dims = tuple(1 if i in axes else next(rest) for i in range(rank))
        if x.pad is not None and dims != x.dims:
            raise self.error(f"reads what {x.origin} has padded; only a convolution or a pool can take that in")
        return replace(x, dims=dims, origin=self.here(), tensor="")

    def _reshaped(self, dims, target):
        known = int(np.prod([size for size in target if size != -1]))
        total = int(np.prod(dims))
        if target.count(-1) == 1 and known and total % known == 0:
            target = [total // known if size == -1 else size for size in target]
        if -1 in target or int(np.prod(target)) != total:
            raise self.error(f"cannot turn {describe([dims])} into {describe([target])}")
        return tuple(target)

    def on_Pad(self, x, *arguments):
        mode = self.attribute("mode", "constant")
        if mode != "constant":
            raise self.error(f"pads by {mode}; only constant padding is understood")
        pads = [int(size) for size in np.ravel(self.option([x, *arguments], 1, "pads"))]
        value = self.option([x, *arguments], 2, "value", 0.0)
        axes = self.option([x, *arguments], 3, "axes", range(len(x.dims)))
        axes = [int(axis) % len(x.dims) for axis in np.ravel(axes)]
        before, after = dict(zip(axes, pads)), dict(zip(axes, pads[len(axes):]))
        if not any(pads):
            return x
        if len(x.dims) != 4 or min(pads) < 0 or any(before[a] or after[a] for a in axes if a < 2):
            raise self.error(f"pads {describe([x.dims])} by {pads}; only more rows and columns are understood")
        pad = tuple(side.get(axis, 0) for side in (before, after) for axis in (2, 3))
        source = self.read(x)
        dims = x.dims[:2] + (x.dims[2] + pad[0] + pad[2], x.dims[3] + pad[1] + pad[3])
        result = Value(source, dims, self.here(), pad=pad, pad_value=float(np.reshape(value, ())))
        if source == IMAGE:
            result = replace(result, channels=x.channels, scale=x.scale, shift=x.shift)
        return result

    def on_Concat(self, *arguments):
        rank = max(len(a.dims) for a in arguments if isinstance(a, Value))
        if len(arguments) == 1:
            return arguments[0]
        if self.attribute("axis", 1) % rank != 1:
            raise self.error("joins along another axis than the channels")
        if all(isinstance(a, Value) and a.source == IMAGE and a.pad is None for a in arguments):
            channels = sum((a.channels for a in arguments), [])
            if len(set(channels)) == len(channels):  # the image put together again, as in torchvision's transform_input
                scale, shift = (np.concatenate(parts) for parts in zip(*(a.affine() for a in arguments)))
                dims = (1, len(channels)) + arguments[0].dims[2:]
                return Value(IMAGE, dims, self.here(), channels=channels, scale=scale, shift=shift)
        return self.emit("concat", [self.read(a) for a in arguments])

    def _image_channels(self, x, axis, selection):
        """Some of the image's channels; selection: what NumPy indexes an array with."""
        if x.source != IMAGE or axis % len(x.dims) != 1 or len(x.dims) != 4 or x.pad is not None:
            raise self.error("takes a part of a tensor; only the image's channels may be picked")
        index = np.arange(x.dims[1])[selection]
        scale, shift = x.affine()
        dims = (1,) + index.shape + x.dims[2:]
        index = index.ravel()
        return Value(IMAGE, dims, self.here(), channels=[x.channels[i] for i in index], scale=scale[index],
                     shift=shift[index])

    def on_Gather(self, x, indices):
        indices = self.constant(indices, "index")
        if not isinstance(x, Value):
            raise self.error("picks from a constant by values of the image")
        return self._image_channels(x, self.attribute("axis", 0), indices)

    def on_Slice(self, x, *arguments):
        inputs = [x, *arguments]
        starts, ends = (np.ravel(self.option(inputs, i, name)) for i, name in ((1, "starts"), (2, "ends")))
        axes = np.ravel(self.option(inputs, 3, "axes", range(len(starts))))
        steps = np.ravel(self.option(inputs, 4, "steps", [1] * len(starts)))
        parts = {int(axis) % len(x.dims): slice(*map(int, part)) for axis, *part in zip(axes, starts, ends, steps)}
        # Slices that take everything are what exporters make of x[:, 1:2].
        parts = {axis: part for axis, part in parts.items() if range(x.dims[axis])[part] != range(x.dims[axis])}
        if not parts:
            return x
        if list(parts) != [1]:
            raise self.error("takes a part of a tensor; only the image's channels may be picked")
        return self._image_channels(x, 1, parts[1])

    def on_Split(self, x, *arguments):
        axis = self.attribute("axis", 0)
        count = len(self.node.output)
        sizes = self.option([x, *arguments], 1, "split")
        if sizes is None:
            each = -(-x.dims[axis] // count)
            sizes = [each] * (count - 1) + [x.dims[axis] - each * (count - 1)]
        ends = np.cumsum(np.ravel(sizes))
        return [self._image_channels(x, axis, slice(end - size, end)) for size, end in zip(np.ravel(sizes), ends)]

    # The last node

    def _end_at(self, logits):
        """The nodes up to the one that makes the logits, in a form that the attribution can start from."""
        last = self.by_name.get(logits.source)
        if last is None:
            raise ConvertError("the output is the image itself")
        while last.op == "flatten":
            last = self.by_name[last.inputs[0]]
        nodes = self.nodes[:self.nodes.index(last) + 1]
        shape = self.shapes[last.name]
        before = self.shapes[last.inputs[0]]
        covers = len(before) == 3 and not any(last.pad) and tuple(last.kernel) == before[1:] and shape[1:] == (1, 1)
        if last.op == "avgpool" and covers:
            nodes[-1] = Node("global_avgpool", last.name, last.inputs)
        elif last.op == "conv" and covers and last.groups == 1:
            # The same sums as a linear layer's; the attribution starts at those.
            flatten = Node("flatten", f"{last.name}.flatten", last.inputs)
            nodes[-1:] = [flatten, Node("linear", last.name, [flatten.name], bias=last.bias,
                                        weights=last.weights.reshape(len(last.weights), -1))]
        elif last.op not in ("linear", "global_avgpool"):
            raise ConvertError(f"node {last.name} ({last.op}) makes the output; AGF can start from a linear layer or "
                               "a global average pool")
        if shape[0] < 2:
            raise ConvertError(f"node {last.name} ({last.op}) makes one output; AGF contrasts two classes or more")
        return nodes


def add_pads(first, second):
    return tuple(a + b for a, b in zip(first, second))


def scaled(array, factor):
    """array * factor, computed in double and rounded once."""
    return array if factor == 1 else (array.astype(np.float64) * factor).astype(np.float32)


def first_line(problem):
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def load_onnx(path):
    """The ModelProto, external data and local functions included."""
    import onnx
    import onnx.inliner
    try:
        model = onnx.load(path)
    except OSError as problem:
        raise ConvertError(f"{problem.filename or path}: {problem.strerror or first_line(problem)}") from None
    except onnx.checker.ValidationError as problem:
        raise ConvertError(f"{path}: {first_line(problem)}") from None
    except Exception as problem:  # protobuf's DecodeError, by whichever of its implementations is installed
        raise ConvertError(f"{path}: not an ONNX file ({first_line(problem)})") from None
    if not model.graph.node:
        raise ConvertError(f"{path}: not an ONNX file, or an empty one")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return model


def opset_of(model, path):
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise ConvertError(f"{path}: opset {opset}; {OPSETS[0]} to {OPSETS[-1]} are understood")
    return opset


def image_input(graph, constants, size):
    """Name and [C, H, W] of the graph's one input; size (height, width) replaces its own."""
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ConvertError(f"the network must have one input, the image; it has {names}")
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in inputs[0].type.tensor_type.shape.dim]
    what = f"input {inputs[0].name}"
    if len(dims) != 4:
        raise ConvertError(f"{what} has {len(dims)} dimensions; an image batch [1,C,H,W] is needed")
    if dims[0] > 1:
        raise ConvertError(f"{what} is a batch of {dims[0]}; export the network with a batch of 1 or a dynamic one")
    if dims[1] < 1:
        raise ConvertError(f"{what} has a dynamic number of channels; export the network with a fixed one")
    height, width = size or dims[2:]
    if height < 1 or width < 1:
        raise ConvertError(f"{what} has a dynamic height and width; say --size WxH")
    return inputs[0].name, (dims[1], height, width)


def read_onnx(path, size=None, output=None):
    """Nodes, input shape and how they read the image (OnnxImport.image_reading), of an ONNX file."""
    import onnx
    model = load_onnx(path)
    graph, opset = model.graph, opset_of(model, path)
    if graph.sparse_initializer:
        raise ConvertError(f"{path}: sparse weights are not understood")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    image, input_shape = image_input(graph, constants, size)
    outputs = [value.name for value in graph.output]
    if output is None and len(outputs) != 1:
        raise ConvertError(f"{path}: has the outputs {', '.join(outputs)}; choose the logits with --output")
    if output is not None and output not in outputs:
        raise ConvertError(f"{path}: has no output {output}, but {', '.join(outputs)}")
    importer = OnnxImport(graph, opset, constants, image, input_shape)
    return importer.run(output or outputs[0]), input_shape, importer.image_reading


# What the file says beside the nodes

def mark_flat(nodes, published=False):
    """Set the flat flags (agf-spec, "Conv, flat"); published: the published code's, for ResNets' basic blocks."""
    made_by = {node.name: node for node in nodes}
    through = {"relu", "relu6", "maxpool", "avgpool", "adaptive_avgpool", "global_avgpool", "batchnorm"}

    def reads_sum(node):
        producer = made_by.get(node.inputs[0])
        while producer is not None and producer.op in through:
            producer = made_by.get(producer.inputs[0])
        return producer is not None and producer.op == "add"

    for node in nodes:
        node.flat = node.op == "conv" and (tuple(node.kernel) == (1, 1) or reads_sum(node))
    if published:
        for first, second in basic_blocks(nodes, made_by):
            first.flat, second.flat = False, True


def basic_blocks(nodes, made_by):
    """(first, second) convolution of each basic block: bn(conv(relu(bn(conv(x))))) + x, or + bn(conv(x))."""
    def up(name, *ops):
        """The producer of a tensor, any of `ops` skipped."""
        node = made_by.get(name)
        while node is not None and node.op in ops:
            node = made_by.get(node.inputs[0])
        return node

    for node in nodes:
        if node.op != "add":
            continue
        for branch, shortcut in (node.inputs, node.inputs[::-1]):
            second = up(branch, "batchnorm")
            first = up(second.inputs[0], "batchnorm", "relu") if second is not None and second.op == "conv" else None
            if first is None or first.op != "conv" or (1, 1) in (tuple(first.kernel), tuple(second.kernel)):
                continue
            other = up(shortcut, "batchnorm")
            projected = other is not None and other.op == "conv" and other.inputs == first.inputs
            if first.inputs == [shortcut] or projected:
                yield first, second


def preprocessing_of(given, defaults, input_shape, image_reading):
    """The Preprocessing, None for a network without one.

    given: {field of Preprocessing: what the user said}; defaults: the same for a network known by its name, or None;
    image_reading: scale and shift that the network's own first operations apply, folded into mean and std here.
    """
    channels, scale, shift = image_reading
    count = input_shape[0]
    in_order = channels == list(range(count))
    normalises = not in_order or np.any(scale != 1) or np.any(shift != 0)
    if not given and defaults is None:
        if normalises:
            raise ConvertError("the network normalises its input itself, which goes into the file's mean and std: say "
                               "what its input is, --range 1 or --range 255 (--mean, --std if it is normalised before)")
        return None
    if count not in (1, 3):
        raise ConvertError(f"an input of {count} channels is no picture: leave out mean, std, range, channels, resize")
    values = {"mean": (0.0,), "std": (1.0,), **(defaults or {}), **given}
    for what in ("mean", "std"):
        numbers = tuple(float(number) for number in np.ravel(values[what]))
        if len(numbers) not in (1, count):
            raise ConvertError(f"{len(numbers)} values of {what} for {count} channels")
        if not np.all(np.isfinite(numbers)) or what == "std" and min(numbers) <= 0:
            raise ConvertError(f"{what} {' '.join(f'{number:g}' for number in numbers)}: not a usable one")
        values[what] = numbers * (count // len(numbers))
    if normalises:
        if not in_order and channels != [2, 1, 0]:
            raise ConvertError(f"the network reads the image's channels in the order {channels}")
        if np.any(scale <= 0):
            raise ConvertError("the network multiplies the image by a number that is not positive")
        # scale * (v - mean) / std + shift = (v - (mean - shift * std / scale)) / (std / scale)
        mean, std = (np.array(values[what])[channels] for what in ("mean", "std"))
        values["mean"], values["std"] = tuple(mean - shift * std / scale), tuple(std / scale)
        if not in_order:
            values["channels"] = {"rgb": "bgr", "bgr": "rgb"}[values.get("channels", "rgb")]
    return Preprocessing(**values)


def parse_resize(text, size):
    """stretch, crop or crop:N as fields of Preprocessing; size: (height, width) of the input."""
    rule, _, number = text.partition(":")
    if rule == "stretch" and not number:
        return {"resize": "stretch", "resize_to": 0}
    if rule == "crop" and (not number or number.isdigit()):
        shorter = min(size)
        # Without a number the usual proportion of ImageNet networks: 256 for 224.
        resize_to = int(number) if number else round(shorter * 256 / 224)
        if resize_to < shorter:
            raise ConvertError(f"resize {text}: smaller than the input, {size[1]}x{size[0]}")
        return {"resize": "crop", "resize_to": resize_to}
    raise ConvertError(f"resize {text}: stretch, crop or crop:PIXELS")


def read_labels(path):
    """One label per line, UTF-8."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            return f.read().rstrip("\n").split("\n")
    except OSError as problem:
        raise ConvertError(f"{path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ConvertError(f"{path}: not UTF-8 text") from None


# torch modules

# What export_module writes for a pool that torch.onnx would fix to one input size.
OWN_DOMAIN, ADAPTIVE_POOL = "agf", "AdaptiveAvgPool"


def export_module(module, input_shape):
    """Trace a module into an ONNX graph without weights: (GraphProto, opset, {parameter name: array}, image's name).

    The older exporter in PRESERVE mode keeps every BatchNorm; the newer one folds them whatever it is told.
    """
    import copy
    import io
    import warnings

    import onnx
    import torch
    from torch.onnx import symbolic_helper

    @symbolic_helper.parse_args("v", "is")
    def adaptive_pool(graph, x, size):
        pooled = graph.op(f"{OWN_DOMAIN}::{ADAPTIVE_POOL}", x, size_i=size)
        return pooled.setType(x.type().with_sizes(x.type().sizes()[:2] + list(size)))

    image, opset, file = "agf_image", 17, io.BytesIO()
    torch.onnx.register_custom_op_symbolic("aten::adaptive_avg_pool2d", adaptive_pool, opset)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            module = copy.deepcopy(module).cpu().float().eval()
            torch.onnx.export(module, (torch.zeros(1, *input_shape),), file, dynamo=False, opset_version=opset,
                              training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False, export_params=False,
                              input_names=[image])
    except Exception as problem:  # whatever the module's forward or the exporter raises
        raise ConvertError(f"torch.onnx.export: {first_line(problem)}") from problem
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::adaptive_avg_pool2d", opset)
    graph = onnx.load_from_string(file.getvalue()).graph
    tensors = {name: tensor.detach().numpy() for name, tensor in module.state_dict(keep_vars=True).items()}
    return graph, opset, tensors, image


def module_path(name, modules):
    """layer1.0.conv1 for the exporter's /layer1/layer1.0/conv1/Conv; what is no module keeps its operation's name."""
    *scopes, operation = name.strip("/").split("/")
    path = []
    for scope in scopes:
        # A module of a Sequential is called by its parent's name and its own.
        if path and scope.startswith(path[-1] + "."):
            path[-1] = scope
        else:
            path.append(scope)
    path = ".".join(path)
    # The second call of one module is called by its name and _1.
    if path in modules or re.sub(r"_\d+$", "", path) in modules:
        return path
    return f"{path}.{operation.lower()}".lstrip(".")


def read_module(module, input_shape):
    """read_onnx for a torch.nn.Module."""
    graph, opset, constants, image = export_module(module, input_shape)
    unknown = [value.name for value in graph.input if value.name not in constants and value.name != image]
    if unknown:
        raise ConvertError(f"torch.onnx.export: {unknown[0]} is neither a parameter nor a buffer of the module")
    if len(graph.output) != 1:
        raise ConvertError(f"the module returns {len(graph.output)} tensors; it should return the logits")
    leaves = {name for name, child in module.named_modules() if not any(child.children())}
    for node in graph.node:
        node.name = module_path(node.name, leaves)
    importer = OnnxImport(graph, opset, constants, image, input_shape)
    return importer.run(graph.output[0].name), input_shape, importer.image_reading


def load_state_dict(path):
    """{name: tensor} of a .pth, .safetensors or .npz file."""
    import torch
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file
            state = load_file(path)
        elif path.endswith(".npz"):
            with np.load(path, allow_pickle=False) as arrays:
                state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise ConvertError(f"{path}: {problem.strerror or first_line(problem)}") from None
    except Exception as problem:  # each format's reader has exceptions of its own
        raise ConvertError(f"{path}: not a state dict ({first_line(problem)})") from None
    for wrapper in ("state_dict", "model", "model_state_dict"):  # training scripts' checkpoints
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(torch.is_tensor(tensor) for tensor in state.values()):
        raise ConvertError(f"{path}: not a state dict")
    return state


def fit_state_dict(model, state, path):
    """Load a state dict into torchvision's model of the same architecture."""
    parameters = model.state_dict()
    fitted = type(parameters)()
    for name, tensor in state.items():
        name = re.sub(r"^module\.", "", name)  # DataParallel's
        # DenseNet files of torchvision's early days
        name = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
        if not re.match(r"(aux1|aux2|AuxLogits)\.", name):
            fitted[name] = tensor
    fitted._metadata = parameters._metadata  # MNASNet wants its version, which only .pth files carry
    needed = {name for name in parameters if not name.endswith("num_batches_tracked")}
    for what, names in (("lacks", needed - set(fitted)), ("has the unknown", set(fitted) - set(parameters))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ConvertError(f"{path}: not weights of this network: {what} {min(names)}{more}; for a network with "
                               "changed layers use convert()")
    for name in needed:
        if fitted[name].shape != parameters[name].shape:
            raise ConvertError(f"{path}: not weights of this network: {name} is {describe([fitted[name].shape])}, "
                               f"not {describe([parameters[name].shape])}")
    model.load_state_dict(fitted, strict=False)


def torchvision_network(arch, weights=None, classes=None, transform_input="auto"):
    """torchvision's model of that name, with weights from a file or random ones.

    Returns the module, its preprocessing's fields, the side of its square input, labels and a line on its source.
    """
    import difflib

    import torch
    import torchvision
    models = torchvision.models
    names = models.list_models(module=models)
    if arch not in names:
        near = difflib.get_close_matches(arch, names, 3)
        hint = f"; {', '.join(near)}?" if near else ""
        raise ConvertError(f"--arch {arch}: torchvision has no such network{hint}")
    if classes is not None and classes < 2:
        raise ConvertError(f"--classes {classes}: AGF contrasts two classes or more")
    state = load_state_dict(weights) if weights else None
    options = {"weights": None}
    if arch in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=False)
    torch.manual_seed(0)
    model = models.get_model(arch, num_classes=classes or 1000, **options)
    if state is not None:
        head = [name for name, child in model.named_modules()
                if isinstance(child, (torch.nn.Linear, torch.nn.Conv2d))][-1] + ".weight"
        found = next((len(tensor) for name, tensor in state.items() if name in (head, "module." + head)), None)
        if found is None:
            raise ConvertError(f"{weights}: not weights of {arch}: lacks {head}")
        if classes not in (None, found):
            raise ConvertError(f"{weights}: weights for {found} classes, not {classes}")
        if found != 1000:
            model = models.get_model(arch, num_classes=found, **options)
        fit_state_dict(model, state, weights)
        classes = found
    if hasattr(model, "transform_input"):
        # It belongs to torchvision's ImageNet weights, and so to what is fine-tuned from them.
        model.transform_input = transform_input == "on" or transform_input == "auto" and state is not None
    entries = list(models.get_model_weights(arch))
    file = os.path.basename(weights or "")
    entry = next((entry for entry in entries if os.path.basename(entry.url) == file), entries[0])
    transforms = entry.transforms()
    defaults = {"mean": tuple(transforms.mean), "std": tuple(transforms.std), "range": 1.0, "channels": "rgb",
                "resize": "crop", "resize_to": transforms.resize_size[0]}
    labels = list(entry.meta["categories"]) if classes in (None, 1000) else []
    source = f"torchvision {torchvision.__version__.partition('+')[0]} {arch}, {file or 'random weights'}"
    return model, defaults, transforms.crop_size[0], labels, source


def convert(module, path, size=224, labels=None, *, mean=None, std=None, range=None, channels=None, resize=None,
            name=None, f16=False, flat="default"):
    """Write a torch.nn.Module, from an image batch to logits, as a model file.

    size: of the nominal input, (C, H, W), (H, W) with three channels, or one number for a square.
    labels: a list of class names. mean, std: a number, or one per channel; range: what 255 becomes before mean and
    std, 1 or 255; channels: "rgb" or "bgr"; resize: "stretch", "crop" or "crop:N" (shorter side to N, then the centre).
    If none of those five is given, the file has no preprocessing and takes tensors only.
    f16: weights in half precision; flat: "default", or "published" for the published code's flags.
    ConvertError says what cannot be converted; nothing is left behind then. The module is not changed.
    """
    size = tuple(int(number) for number in np.ravel(size))
    if len(size) not in (1, 2, 3) or min(size) < 1:
        raise ConvertError(f"size {size}: (C, H, W), (H, W) or one number")
    input_shape = {1: (3,) + size * 2, 2: (3,) + size, 3: size}[len(size)]
    for what, value, allowed in (("range", range, (None, 1, 255)), ("channels", channels, (None, "rgb", "bgr")),
                                 ("flat", flat, ("default", "published"))):
        if value not in allowed:
            raise ConvertError(f"{what} {value!r}: one of {', '.join(map(str, allowed))}")
    options = {"mean": mean, "std": std, "range": range, "channels": channels}
    given = {what: value for what, value in options.items() if value is not None}
    if resize is not None:
        given.update(parse_resize(resize, input_shape[1:]))
    nodes, input_shape, image_reading = read_module(module, input_shape)
    kind = type(module).__name__
    network = Network(input_shape, nodes, name or kind, f"torch {kind}", list(labels or []),
                      preprocessing_of(given, None, input_shape, image_reading))
    return write_network(network, path, f16, flat)


def write_network(network, path, f16, flat):
    """Set the flags and write; returns the ModelFile."""
    mark_flat(network.nodes, published=flat == "published")
    file = ModelFile(network, f16)
    try:
        file.write(path)
    except OSError as problem:
        raise ConvertError(f"{path}: {problem.strerror}") from None
    return file


# The command line

def summary(file, path):
    """What has been written, for the terminal."""
    network, p = file.network, file.network.preprocessing
    rows = [("op", "nodes", "flat", "parameters")]
    for op in OPS:
        nodes = [node for node in network.nodes if node.op == op]
        if nodes:
            flat = sum(node.flat for node in nodes)
            rows.append((op, str(len(nodes)), str(flat) if op == "conv" else "", f"{sum(map(parameters, nodes)):,}"))
    rows.append(("total", str(len(network.nodes)), "", f"{sum(map(parameters, network.nodes)):,}"))
    classes = int(np.prod(file.shapes[network.nodes[-1].name]))
    lines = [f"{path}: {network.name}, {file.file_bytes / 1e6:.1f} MB, {'f16' if file.f16 else 'f32'}, {classes} "
             f"{'labelled ' if network.labels else ''}classes",
             "input " + "x".join(map(str, network.input_shape))]
    if p is None:
        lines[1] += ", no preprocessing: the file takes tensors, not pictures"
    else:
        rule = "stretched" if p.resize == "stretch" else f"shorter side to {p.resize_to}, centre crop"
        lines[1] += (f": {rule}; {p.channels}, 0..{p.range:g}, mean {' '.join(f'{v:.6g}' for v in p.mean)}, "
                     f"std {' '.join(f'{v:.6g}' for v in p.std)}")
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  " + "  ".join(cells))
    return "\n".join(lines)


def parameters(node):
    return sum(array.size for array in (node.weights, node.bias) if array is not None)


def number_list(text):
    return tuple(float(part) for part in text.replace(",", " ").split())


def picture_size(text):
    """(height, width) of WxH, or N for NxN."""
    width, _, height = text.lower().partition("x")
    size = int(height or width), int(width)
    if min(size) < 1:
        raise ValueError
    return size


def command_line():
    parser = argparse.ArgumentParser(description="Convert a network to an .agf model file.",
                                     epilog="Exit code 2, and no file, if the network or an option is not understood.")
    parser.add_argument("onnx", nargs="?", metavar="NET.onnx", help="an ONNX file, opset 7 to 20")
    parser.add_argument("-o", dest="path", metavar="NET.agf", required=True, help="the file to write")
    parser.add_argument("--f16", action="store_true", help="store weights as 16-bit floats: half the size")
    parser.add_argument("--flat", choices=("default", "published"), default="default",
                        help="which convolutions the attribution passes flat: the default rule's, or the published "
                        "code's, which differ in the basic blocks of ResNet-18 and -34")
    parser.add_argument("--output", metavar="NAME", help="the logits, in an ONNX file with several outputs")
    group = parser.add_argument_group("torchvision networks")
    group.add_argument("--arch", metavar="NAME", help="torchvision's name of the network, instead of an ONNX file")
    group.add_argument("--weights", metavar="FILE",
                       help="its state dict, .pth, .safetensors or .npz (default: random weights)")
    group.add_argument("--classes", type=int, metavar="N",
                       help="number of classes (default: as in the weights, else 1000)")
    group.add_argument("--transform-input", choices=("auto", "on", "off"), default="auto",
                       help="googlenet and inception_v3: torchvision's own change of the normalisation, which its "
                       "ImageNet weights need (auto: on with --weights); it goes into mean and std")
    group = parser.add_argument_group("what goes into the file beside the network",
                                      "With none of --mean to --size an ONNX file's network gets no preprocessing and "
                                      "takes tensors only; torchvision's get ImageNet's.")
    group.add_argument("--labels", metavar="FILE", help="class names, one per line")
    group.add_argument("--name", help="the network's name")
    group.add_argument("--mean", type=number_list, metavar="A,B,C", help="per channel, in the network's channel order")
    group.add_argument("--std", type=number_list, metavar="A,B,C", help="likewise; the input is (value - mean) / std")
    group.add_argument("--range", type=float, choices=(1.0, 255.0), help="what 255 is before mean and std (default 1)")
    group.add_argument("--channels", choices=("rgb", "bgr"), help="the network's channel order (default rgb)")
    group.add_argument("--resize", metavar="RULE",
                       help="stretch (default), or crop[:N]: shorter side to N pixels, then the centre")
    group.add_argument("--size", type=picture_size, metavar="WxH", help="the nominal input size")
    return parser


def run(arguments):
    given = {what: getattr(arguments, what) for what in ("mean", "std", "range", "channels")
             if getattr(arguments, what) is not None}
    labels, defaults = [], None
    if arguments.arch:
        module, defaults, side, labels, source = torchvision_network(
            arguments.arch, arguments.weights, arguments.classes, arguments.transform_input)
        size = arguments.size or (side, side)
        defaults["resize_to"] = round(defaults["resize_to"] * min(size) / side)
        name = arguments.arch
        nodes, input_shape, image_reading = read_module(module, (3,) + size)
    else:
        nodes, input_shape, image_reading = read_onnx(arguments.onnx, arguments.size, arguments.output)
        source = os.path.basename(arguments.onnx)
        name = os.path.splitext(source)[0]
        if arguments.size and input_shape[0] in (1, 3):
            given["resize"] = "stretch"
    if arguments.resize:
        given.update(parse_resize(arguments.resize, input_shape[1:]))
    if arguments.labels:
        labels = read_labels(arguments.labels)
    network = Network(input_shape, nodes, arguments.name or name, source, labels,
                      preprocessing_of(given, defaults, input_shape, image_reading))
    print(summary(write_network(network, arguments.path, arguments.f16, arguments.flat), arguments.path))
    if arguments.arch and not arguments.weights:
        print("no --weights: the weights are random ones")


def main(argv=None):
    parser = command_line()
    arguments = parser.parse_args(argv)
    if bool(arguments.arch) == bool(arguments.onnx):
        parser.error("one network, please: NET.onnx or --arch NAME")
    for option, belongs in (("weights", "arch"), ("classes", "arch"), ("output", "onnx")):
        if getattr(arguments, option) is not None and not getattr(arguments, belongs):
            parser.error(f"--{option} belongs to {'--arch' if belongs == 'arch' else 'an ONNX file'}")
    try:
        run(arguments)
    except ConvertError as problem:
        print(f"agf_convert.py: error: {problem}", file=sys.stderr)
        return 2
    except ImportError as problem:
        print(f"agf_convert.py: error: needs the Python package {problem.name}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
