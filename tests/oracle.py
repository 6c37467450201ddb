#!/usr/bin/env python3
"""The attribution methods of the engine once more, in NumPy and float64: what the C engine is checked against.

    oracle.py MODEL.agf INPUT.npy -c 3                      an AGF map of class 3: its totals; -o OUT.npy keeps the map
    oracle.py MODEL.agf INPUT.npy -c 3 -m lrp_a1b0 -o R.npy another method
    oracle.py MODEL.agf INPUT.npy -c 3 --nodes DIR          cam and g at every node, DIR/cam_NAME.npy and DIR/g_NAME.npy
    oracle.py MODEL.agf INPUT.npy -c 3 -c 5 --make-case DIR a test case like those in tests/golden

Written from agf-spec.md beside it and agf.h alone, with a reader of model files of its own. It is made to be compared:
every rule stands beside its sentence of the specification, nothing is shared between classes, fused or skipped. Names
are the specification's: x input, w weights, y output, s a quotient on its way back, cam, g, C, G, Gm, M, A, Fx, Fdx, R.

As a module: Network(path).run(x).explain(t) -> map [H, W]. With dtype=np.float32 the same code runs in single
precision, which tells how exact a float32 map of the same network can be.

What model files cannot say yet (the chapter "Newer networks") is read from a Model made in Python, or from case.json
and weights.npz (read_case).
"""
import argparse
import json
import math
import os
import shutil
import struct
import sys
import zlib
from dataclasses import dataclass, field, replace
from typing import List, Optional, Tuple

import numpy as np

EPS = 1e-9  # of sdiv and of the ReLU's rule; part of the result


class OracleError(Exception):
    """A file, an input or a request for which there is no map: one line that says what and where."""


# Helpers of the specification

def sdiv(a, b):
    """0 where b == 0, else a / (b + 1e-9); where b + 1e-9 == 0 the denominator is 1e-9."""
    shifted = b + np.asarray(EPS, np.asarray(b).dtype)
    denominator = np.where(shifted == 0, np.asarray(EPS, shifted.dtype), shifted)
    return np.where(b == 0, np.zeros_like(shifted), a / denominator)


def nz(t):
    """1 where t != 0, else 0."""
    return (t != 0).astype(t.dtype)


def shift(C, R):
    """C + R - sum(R)/count(C != 0) * nz(C): adds R without changing the total of C."""
    count = int(np.count_nonzero(C))
    return C + R - (R.sum() / count if count else 0) * nz(C)


def relu(t):
    return np.maximum(t, 0)


def sigmoid(t):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-t))


def softmax(z):
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


# Model files (agf.h, "The model file")

MAGIC = b"\x89AGF\r\n\x1a\n"
OPS = (None, "conv", "batchnorm", "relu", "relu6", "maxpool", "avgpool", "adaptive_avgpool", "global_avgpool", "linear",
       "flatten", "add", "concat",                                                                    # version 1
       "act", "mul", "norm", "lrn", "slice", "shuffle", "pad", "global_maxpool", "resize")            # version 2
KINDS = (None, "leaky_relu", "prelu", "elu", "silu", "hardswish", "gelu", "gelu_tanh", "mish", "sigmoid", "hardsigmoid",
         "tanh", "softplus", "clip")
BORDERS = ("zeros", "reflect", "replicate")
PARAMETERS = {"leaky_relu": ("alpha",), "elu": ("alpha",), "hardsigmoid": ("alpha", "beta"), "clip": ("lo", "hi"),
              "norm": ("eps",), "lrn": ("alpha", "beta", "k")}
LAYOUTS = VECTOR, CONVOLUTION, GROUPED, LINEAR = range(4)


@dataclass
class Node:
    """One node. Pairs are (height, width); fields that the op does not use keep their defaults."""
    op: str
    name: str
    inputs: List[int]                # tensor numbers: 0 the image, n + 1 the output of node n; mul: signal, gate
    kernel: Tuple[int, int] = (0, 0)           # adaptive_avgpool: the output's size; resize: see to_size
    stride: Tuple[int, int] = (0, 0)
    pad: Tuple[int, int, int, int] = (0, 0, 0, 0)   # top, left, bottom, right
    dilation: Tuple[int, int] = (0, 0)         # of convolutions and max pools, where 0 says 1
    groups: int = 0                  # conv, norm
    flat: bool = False
    ceil: bool = False
    include_pad: bool = False
    w: Optional[np.ndarray] = None   # conv [O, I / groups, kh, kw]; linear [O, CHW order]; batchnorm's scale, norm's
    #                                  gamma, prelu's slope [C]
    b: Optional[np.ndarray] = None   # [O] or [C]
    cancels: bool = False            # an add or average pool whose summands may cancel (find_cancelling)
    kind: str = ""                   # act: of ACTIVATIONS
    alpha: float = 0.0               # leaky_relu, elu, hardsigmoid, lrn
    beta: float = 0.0                # hardsigmoid, lrn
    lo: float = 0.0                  # clip
    hi: float = 0.0
    spatial: bool = False            # norm: over the pixels too
    response: bool = False           # norm: global response norm
    eps: float = 0.0                 # norm
    size: int = 0                    # lrn
    k: float = 0.0                   # lrn
    channels: Tuple[int, int] = (0, 0)   # slice: first, one past the last
    perm: Tuple[int, ...] = ()       # shuffle: output channel c is input channel perm[c]
    border: str = "zeros"            # pad: of BORDERS
    to_size: bool = False            # resize: the kernel is the output's size, else how often a pixel is repeated


@dataclass
class Model:
    input_shape: Tuple[int, int, int]
    nodes: List[Node]
    name: str = ""
    source: str = ""
    labels: List[str] = field(default_factory=list)
    affine: Optional[Tuple[np.ndarray, np.ndarray]] = None   # the input's: the image is scale * input + bias, [C] each


def read_model(path):
    """Read and check a model file. Weights keep the type that they are stored in, float32 or float16."""
    with open(path, "rb") as f:
        data = f.read()

    def need(condition, what):
        if not condition:
            raise OracleError(f"{path}: {what}")

    need(len(data) >= 144 and data[:8] == MAGIC, "not a model file")
    version, header_bytes = struct.unpack_from("<2I", data, 8)
    file_bytes, header_crc, data_crc = struct.unpack_from("<Q2I", data, 16)
    node_count, edge_count, tensor_count, label_count, string_bytes = struct.unpack_from("<5I", data, 32)
    need(version in (1, 2), f"format version {version}, this reader knows versions 1 and 2")
    need(file_bytes == len(data) and file_bytes % 64 == 0, f"{len(data)} bytes, its header says {file_bytes}")
    need(header_bytes % 64 == 0 and 144 <= header_bytes <= file_bytes, f"header of {header_bytes} bytes")
    need(zlib.crc32(data[:24] + bytes(4) + data[28:header_bytes]) == header_crc, "the header's CRC does not match")
    need(zlib.crc32(data[header_bytes:]) == data_crc, "the data's CRC does not match")
    affine = struct.unpack_from("<2I", data, 136)
    need(data[52:64] == bytes(12) and (version == 2 or affine == (0, 0)), "reserved bytes are not 0")

    nodes_at, node_bytes = 144, 80 if version == 1 else 96
    edges_at = nodes_at + node_bytes * node_count
    tensors_at = edges_at + 4 * edge_count
    labels_at = tensors_at + 40 * tensor_count
    strings_at = labels_at + 4 * label_count
    strings_end = strings_at + string_bytes
    need(strings_end <= header_bytes < strings_end + 64, "the tables do not fill the header")
    need(not any(data[strings_end:header_bytes]), "the header's fill is not 0")
    need(string_bytes and data[strings_at] == data[strings_end - 1] == 0, "the string table is not NUL-terminated")

    def string(offset):
        need(offset < string_bytes, f"string at {offset} of {string_bytes}")
        return data[strings_at + offset:data.index(b"\0", strings_at + offset)].decode("utf-8")

    arrays, position = [], header_bytes
    for i in range(tensor_count):
        kind, layout, *dims, offset, size = struct.unpack_from("<6I2Q", data, tensors_at + 40 * i)
        need(kind == 1 or kind == 2 and layout != VECTOR, f"tensor {i}: type {kind} in layout {layout}")
        need(layout in LAYOUTS, f"tensor {i}: layout {layout} is unknown")
        need(offset == position and size <= file_bytes - position, f"tensor {i}: at {offset}, expected at {position}")
        element = np.dtype("<f4" if kind == 1 else "<f2")
        need(size % element.itemsize == 0, f"tensor {i}: {size} bytes")
        stored = np.frombuffer(data, element, size // element.itemsize, offset)
        arrays.append(unblock(stored, layout, dims, lambda what, i=i: need(False, f"tensor {i}: {what}")))
        position = -(-(offset + size) // 64) * 64
        need(not any(data[offset + size:position]), f"tensor {i}: the fill behind it is not 0")
    need(position == file_bytes, f"{file_bytes - position} bytes behind the last tensor")

    nodes = []
    for i in range(node_count):
        (op, flags, name, first_edge, edges, kh, kw, sh, sw, top, left, bottom, right, dh, dw, groups, channels,
         tensor0, tensor1, argument) = struct.unpack_from("<20I", data, nodes_at + node_bytes * i)
        numbers = struct.unpack_from("<4f", data, nodes_at + node_bytes * i + 80) if version == 2 else ()
        need(0 < op < (13 if version == 1 else len(OPS)), f"node {i}: op {op} is unknown")
        need(version == 2 or argument == 0, f"node {i}: reserved bytes are not 0")
        need(first_edge + edges <= edge_count, f"node {i}: edges beyond the table's end")
        need(max(tensor0, tensor1) <= tensor_count, f"node {i}: tensors beyond the table's end")
        inputs = list(struct.unpack_from(f"<{edges}I", data, edges_at + 4 * first_edge))
        need(inputs and max(inputs) <= i, f"node {i}: its inputs {inputs} do not come before it")
        w, b = (arrays[t - 1] if t else None for t in (tensor0, tensor1))
        if OPS[op] in ("conv", "linear"):
            need(w is not None and len(w) == channels, f"node {i}: {channels} channels do not fit its weights")
        if OPS[op] == "linear":
            w = w.reshape(channels, -1)
        nodes.append(Node(OPS[op], string(name), inputs, (kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw),
                          groups, bool(flags & 1), bool(flags & 2), bool(flags & 4), w, b))
        if version == 2:
            set_parameters(nodes[-1], argument, channels, numbers)
    need(nodes, "no nodes")
    need(max(affine) <= tensor_count, "the input's affine map is beyond the table of tensors")
    need(all(affine) or not any(affine), "the input's affine map has a scale or a bias alone")
    labels = [string(o) for o in struct.unpack_from(f"<{label_count}I", data, labels_at)]
    name, source = struct.unpack_from("<2I", data, 64 + 64)
    return Model(struct.unpack_from("<3I", data, 64), nodes, string(name), string(source), labels,
                 tuple(arrays[t - 1] for t in affine) if all(affine) else None)


def set_parameters(node, argument, channels, numbers):
    """What version 2 says of a node beyond version 1: an argument and four numbers."""
    if node.op == "act":
        node.kind = KINDS[argument]
    node.spatial = node.op == "norm" and argument == 1
    node.response = node.op == "norm" and argument == 2
    node.size = argument if node.op == "lrn" else 0
    node.border = BORDERS[argument] if node.op == "pad" else "zeros"
    node.to_size = node.op == "resize" and bool(argument)
    if node.op == "slice":
        node.channels = argument, argument + channels
    if node.op == "shuffle":
        node.perm, node.w = tuple(int(c) for c in node.w), None
    for name, number in zip(PARAMETERS.get(node.kind or node.op, ()), numbers):
        setattr(node, name, number)


def read_case(directory):
    """The network that case.json and weights.npz describe (agf-spec.md, "The golden files"). BatchNorms in float64."""
    with open(os.path.join(directory, "case.json"), encoding="utf-8") as f:
        case = json.load(f)
    stored = np.load(os.path.join(directory, "weights.npz"))
    weights = {name: stored[name].astype(np.float64) for name in stored}
    nodes, tensor = [], {"input": 0}
    for n in case["nodes"]:
        inputs = [tensor[name] for name in n["in"]]
        if n["op"] == "dropout":
            tensor[n["out"]] = inputs[0]
            continue
        node = Node({"bn": "batchnorm", "gap": "global_avgpool"}.get(n["op"], n["op"]), n["out"], inputs)
        node.w, node.b = (weights.get(n.get(key)) for key in ("w", "b"))
        if n["op"] in ("conv", "maxpool", "avgpool"):
            node.kernel = tuple(n["k"]) if "k" in n else node.w.shape[2:]
            node.stride, node.pad, node.dilation = tuple(n["stride"]), tuple(n["pad"]) * 2, tuple(n.get("dil", (1, 1)))
            node.groups, node.flat, node.ceil = n.get("groups", 0), n.get("flat", False), n.get("ceil", False)
            node.include_pad = n["op"] == "avgpool"
        elif n["op"] == "bn":
            gamma, beta, mean, var = (weights[n[key]] for key in ("gamma", "beta", "mean", "var"))
            node.w = gamma / np.sqrt(var + n["eps"])
            node.b = beta - mean * node.w
        elif n["op"] == "norm":
            node.w, node.b = weights[n["gamma"]], weights[n["beta"]]
            node.groups, node.spatial, node.eps = n["groups"], n["spatial"], n["eps"]
        elif n["op"] == "act":
            node.w = weights.get(n.get("slope"))
            node.kind, *rest = (n["kind"], *(n.get(key, 0.0) for key in ("alpha", "beta", "lo", "hi")))
            node.alpha, node.beta, node.lo, node.hi = rest
        elif n["op"] == "lrn":
            node.size, node.alpha, node.beta, node.k = n["size"], n["alpha"], n["beta"], n["k"]
        elif n["op"] == "slice":
            node.channels = n["from"], n["to"]
        elif n["op"] == "adaptive_avgpool":
            node.kernel = tuple(n["size"])
        node.perm, node.pad = tuple(n.get("perm", ())), tuple(n.get("pads", node.pad))
        nodes.append(node)
        tensor[n["out"]] = len(nodes)
    return Model(tuple(case["input_shape"]), nodes)


def unblock(stored, layout, dims, fail):
    """A tensor's elements in the order of its dimensions: agf.h, "Layouts"."""
    if layout == VECTOR:
        if dims[1:] != [1, 1, 1] or stored.size != dims[0]:
            fail(f"{stored.size} elements for a vector of dimensions {dims}")
        return stored
    outputs, inputs, height, width = dims
    multiple = 16 if layout == GROUPED else 32
    blocks = -(-outputs // multiple)
    if 0 in dims or stored.size != blocks * multiple * inputs * height * width:
        fail(f"{stored.size} elements for dimensions {dims}")
    w = np.empty((blocks * multiple, inputs, height, width), stored.dtype)
    at = 0

    def take(*shape):
        nonlocal at
        at += int(np.prod(shape))
        return stored[at - int(np.prod(shape)):at].reshape(shape)

    input_blocks = [slice(first, min(first + 16, inputs)) for first in range(0, inputs, 16)]
    if layout == CONVOLUTION:  # [ic block][kh][oc block][ic][kw][32]
        for block in input_blocks:
            piece = take(height, blocks, block.stop - block.start, width, 32)
            w[:, block] = piece.transpose(1, 4, 2, 0, 3).reshape(-1, block.stop - block.start, height, width)
    elif layout == GROUPED:    # [oc block][ic block][kh][kw][ic][16]
        for first in range(0, blocks * 16, 16):
            for block in input_blocks:
                piece = take(height, width, block.stop - block.start, 16)
                w[first:first + 16, block] = piece.transpose(3, 2, 0, 1)
    else:                      # linear: [ic block][H][W][ic][oc]
        for block in input_blocks:
            w[:, block] = take(height, width, block.stop - block.start, blocks * 32).transpose(3, 2, 0, 1)
    if w[outputs:].any():
        fail("the outputs that fill a block are not 0")
    return w[:outputs]


# Convolutions and their adjoints, one matrix product per kernel tap

def window_count(size, kernel, stride, before, after, dilation=1, ceil=False):
    """Positions of a window along one axis. "Ceil mode rounds the output size up and drops a last window that would
    begin beyond input plus left padding"."""
    room = size + before + after - dilation * (kernel - 1) - 1
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= size + before:
        count -= 1
    return count if room >= 0 else 0


def dilation_of(node):
    return tuple(max(1, d) for d in node.dilation)


def window_counts(node, kernel, height, width):
    top, left, bottom, right = node.pad
    dilation = dilation_of(node)
    counts = (window_count(height, kernel[0], node.stride[0], top, bottom, dilation[0], node.ceil),
              window_count(width, kernel[1], node.stride[1], left, right, dilation[1], node.ceil))
    if min(counts) < 1:
        raise OracleError(f"node {node.name} ({node.op}): a {kernel[0]}x{kernel[1]} window does not fit "
                          f"{height}x{width}")
    return counts


def taps(node, kernel, ho, wo):
    """For every element (i, j) of the window: the rows and columns of the padded input that it meets, one
    per output."""
    dh, dw = dilation_of(node)
    sh, sw = node.stride
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            yield (i, j, slice(i * dh, i * dh + (ho - 1) * sh + 1, sh), slice(j * dw, j * dw + (wo - 1) * sw + 1, sw))


def padded(node, kernel, x, ho, wo, value=0.0):
    """x with its padding, and as much more below and at the right as the last windows of ceil mode reach."""
    top, left, bottom, right = node.pad
    dh, dw = dilation_of(node)
    reach_h = (ho - 1) * node.stride[0] + dh * (kernel[0] - 1) + 1 - x.shape[1] - top
    reach_w = (wo - 1) * node.stride[1] + dw * (kernel[1] - 1) + 1 - x.shape[2] - left
    height, width = top + x.shape[1] + max(bottom, reach_h), left + x.shape[2] + max(right, reach_w)
    xp = np.full_like(x, value, shape=(len(x), height, width))
    xp[:, top:top + x.shape[1], left:left + x.shape[2]] = x
    return xp


def by_tap(node, w):
    """[O, I/groups, kh, kw] -> [kh, kw, groups, O/groups, I/groups]"""
    outputs, inputs, kh, kw = w.shape
    return np.ascontiguousarray(w.reshape(node.groups, outputs // node.groups, inputs, kh, kw).transpose(3, 4, 0, 1, 2))


def conv(node, x, w):
    """conv(x, w), no bias: [I, H, W] -> [O, Ho, Wo]."""
    kernel = w.shape[2:]
    if x.shape[0] != w.shape[1] * node.groups or w.shape[0] % node.groups:
        raise OracleError(f"node {node.name} (conv): weights {list(w.shape)} in {node.groups} groups do not fit "
                          f"{list(x.shape)}")
    ho, wo = window_counts(node, kernel, *x.shape[1:])
    xp = padded(node, kernel, x, ho, wo)
    xp = xp.reshape(node.groups, w.shape[1], *xp.shape[1:])
    wt = by_tap(node, w)
    y = np.zeros_like(x, shape=(node.groups, w.shape[0] // node.groups, ho * wo))
    for i, j, rows, columns in taps(node, kernel, ho, wo):
        y += wt[i, j] @ xp[:, :, rows, columns].reshape(node.groups, w.shape[1], ho * wo)
    return y.reshape(-1, ho, wo)


def conv_t(node, w, s, shape):
    """convT(w, s): the gradient of <conv(x, w), s> in x, which has the given shape: [O, Ho, Wo] -> [I, H, W]."""
    kernel = w.shape[2:]
    (top, left, _, _), (_, ho, wo) = node.pad, s.shape
    xp = padded(node, kernel, np.zeros_like(s, shape=shape), ho, wo)
    xp = xp.reshape(node.groups, w.shape[1], *xp.shape[1:])
    wt = by_tap(node, w)
    s = s.reshape(node.groups, -1, ho * wo)
    for i, j, rows, columns in taps(node, kernel, ho, wo):
        xp[:, :, rows, columns] += (wt[i, j].swapaxes(1, 2) @ s).reshape(node.groups, -1, ho, wo)
    return xp.reshape(shape[0], *xp.shape[2:])[:, top:top + shape[1], left:left + shape[2]]


def product(node, x, w):
    """L(x, w) of a conv or a linear layer, without bias."""
    return conv(node, x, w) if node.op == "conv" else w @ x


def product_t(node, w, s, x):
    """Its adjoint T(w, s), shaped as x."""
    return conv_t(node, w, s, x.shape) if node.op == "conv" else w.T @ s


# Pools and their adjoints

def average_matrices(node, shape, dtype):
    """Average pooling is y = rows @ x @ columns.T, channel by channel: its windows are products of intervals and so is
    what it divides by. Rows [Ho, H] and columns [Wo, W]."""
    if node.op == "global_avgpool":
        spans = [[(0, size, size)] for size in shape[1:]]
    elif node.op == "adaptive_avgpool":
        # "adaptive bins run from floor(i*H/o) to ceil((i+1)*H/o)"
        spans = []
        for size, bins in zip(shape[1:], node.kernel):
            edges = [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]
            spans.append([(start, stop, stop - start) for start, stop in edges])
    else:
        # "divides by kh*kw (count_include_pad; else by the pixels inside)"
        counts = window_counts(node, node.kernel, *shape[1:])
        spans = []
        for axis in (0, 1):
            spans.append([])
            for i in range(counts[axis]):
                start = i * node.stride[axis] - node.pad[axis]
                inside = max(start, 0), min(start + node.kernel[axis], shape[1 + axis])
                spans[axis].append((*inside, node.kernel[axis] if node.include_pad else inside[1] - inside[0]))
    matrices = []
    for size, spans_of_axis in zip(shape[1:], spans):
        matrix = np.zeros((len(spans_of_axis), size), dtype)
        for row, (start, stop, divisor) in zip(matrix, spans_of_axis):
            if divisor <= 0:
                raise OracleError(f"node {node.name} ({node.op}): a window that holds nothing but padding")
            row[start:stop] = 1 / divisor
        matrices.append(matrix)
    return matrices


def max_positions(node, x):
    """The first maximum, in row-major order, of every window: flat indices into [H, W], [C, Ho, Wo]."""
    if node.op == "global_maxpool":   # one window, the whole input
        return x.reshape(len(x), -1).argmax(axis=1).reshape(-1, 1, 1)
    (top, left, _, _), (_, height, width) = node.pad, x.shape
    ho, wo = window_counts(node, node.kernel, height, width)
    xp = padded(node, node.kernel, x, ho, wo, -np.inf)  # "padding is never a max pool's maximum"
    best = np.full_like(x, -np.inf, shape=(x.shape[0], ho, wo))
    position = np.full(best.shape, -1)
    row = np.arange(ho)[:, None] * node.stride[0] - top
    column = np.arange(wo)[None, :] * node.stride[1] - left
    dh, dw = dilation_of(node)
    for i, j, rows, columns in taps(node, node.kernel, ho, wo):
        value = xp[:, rows, columns]
        larger = value > best
        best = np.where(larger, value, best)
        position = np.where(larger, (row + i * dh) * width + column + j * dw, position)
    if (position < 0).any():
        raise OracleError(f"node {node.name} (maxpool): a window that holds nothing but padding")
    return position


def pool(node, x):
    """[C, H, W] -> [C, Ho, Wo]"""
    if node.op in ("maxpool", "global_maxpool"):
        position = max_positions(node, x)
        return np.take_along_axis(x.reshape(len(x), -1), position.reshape(len(x), -1), axis=1).reshape(position.shape)
    rows, columns = average_matrices(node, x.shape, x.dtype)
    return rows @ x @ columns.T


def pool_t(node, x, s):
    """poolT(s), the adjoint at the input x (max: s goes "to the first maximum ...; overlapping windows add up")."""
    if node.op in ("maxpool", "global_maxpool"):
        position = max_positions(node, x).reshape(len(x), -1)
        out = np.zeros_like(s, shape=(len(x), x[0].size))
        np.add.at(out, (np.arange(len(x))[:, None], position), s.reshape(position.shape))
        return out.reshape(x.shape)
    rows, columns = average_matrices(node, x.shape, x.dtype)
    return rows.T @ s @ columns


AVERAGE_POOLS = ("avgpool", "adaptive_avgpool", "global_avgpool")
POOLS = ("maxpool", "global_maxpool") + AVERAGE_POOLS


# Sums and average pools that may cancel

def rectifies(node):
    """It is 0 where its input is negative."""
    return node.op in ("relu", "relu6") or node.op == "act" and node.kind == "clip" and node.lo == 0


def clears_sign(node):
    """"A tensor may be negative unless a ReLU, ReLU6, sigmoid, hardsigmoid, softplus or a clip with lo >= 0 made it
    ..." """
    return (rectifies(node) or node.op == "act" and
            (node.kind in ("sigmoid", "hardsigmoid", "softplus") or node.kind == "clip" and node.lo >= 0))


def keeps_sign(node):
    """"or a pool, flatten, reshape, concat, dropout, pad, resize, slice, shuffle, LRN, other activation but a clip with
    hi < 0, Add or Mul all of whose inputs may not (the image may)." """
    return node.op in KEEPS_SIGN and not (node.op == "act" and node.kind == "clip" and node.hi < 0)


KEEPS_SIGN = POOLS + ("flatten", "concat", "pad", "resize", "slice", "shuffle", "lrn", "act", "add", "mul")


def find_cancelling(nodes):
    """Sets .cancels: "An average pool of a tensor that may be negative cancels, and an Add with an input that may be,
    except where every reader of the Add is a ReLU, ReLU6 or clip with lo = 0". Readers: of the nodes that the logits
    depend on."""
    negative = [True]
    for node in nodes:
        kept = keeps_sign(node) and not any(negative[i] for i in node.inputs)
        negative.append(not (kept or clears_sign(node)))
    live = {len(nodes)}
    for tensor in range(len(nodes), 0, -1):
        if tensor in live:
            live.update(nodes[tensor - 1].inputs)
    for tensor, node in enumerate(nodes, 1):
        signed = any(negative[i] for i in node.inputs)
        readers = [reader for n, reader in enumerate(nodes, 1) if n in live and tensor in reader.inputs]
        rectified = bool(readers) and all(rectifies(reader) for reader in readers)
        node.cancels = signed and (node.op in AVERAGE_POOLS or node.op == "add" and not rectified)


def summand(node, x):
    """What an add or a pool shares its output's attribution by: x, or |x| where the x may cancel."""
    return np.abs(x) if node.cancels else x


# Activations y = f(x) and their slopes dy/dx. "At a kink the slope is that of the side x <= kink, of a clip 0 at both
# ends."

def softplus(x):
    """ln(1 + e^x)"""
    return np.logaddexp(0, x)


def normal_cdf(x):
    """1/2 * (1 + erf(x / sqrt 2)) = 1/2 * erfc(-x / sqrt 2), which is exact far below 0 too, where the sum is rounded
    to 0 (below -8.3; in float32 below -5.4) and nz of an activation would depend on how it is written."""
    return (np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2)) / 2).astype(x.dtype)


def gelu_inner(x):
    """sqrt(2/pi) * (x + 0.044715 x^3)"""
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)


def inside(x, lo, hi):
    return ((x > lo) & (x < hi)).astype(x.dtype)


def tanh_slope(u):
    """1 / cosh(u)^2, which 1 - tanh(u)^2 loses to rounding where tanh is near 1."""
    e = np.exp(-np.abs(u))
    return (2 * e / (1 + e * e)) ** 2


def sigmoid_slope(x):
    return sigmoid(x) * sigmoid(-x)


ACTIVATIONS = {
    "leaky_relu": (lambda n, x: np.where(x > 0, x, n.alpha * x),
                   lambda n, x: np.where(x > 0, np.ones_like(x), np.full_like(x, n.alpha))),
    "prelu": (lambda n, x: np.where(x > 0, x, per_channel(n.w, x) * x),
              lambda n, x: np.where(x > 0, np.ones_like(x), per_channel(n.w, x))),
    "elu": (lambda n, x: np.where(x > 0, x, n.alpha * np.expm1(np.minimum(x, 0))),
            lambda n, x: np.where(x > 0, np.ones_like(x), n.alpha * np.exp(np.minimum(x, 0)))),
    "silu": (lambda n, x: x * sigmoid(x),
             lambda n, x: sigmoid(x) + x * sigmoid_slope(x)),
    "hardswish": (lambda n, x: x * np.clip(x / 6 + 0.5, 0, 1),
                  lambda n, x: np.clip(x / 6 + 0.5, 0, 1) + x / 6 * inside(x / 6 + 0.5, 0, 1)),
    "gelu": (lambda n, x: x * normal_cdf(x),
             lambda n, x: normal_cdf(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)),
    # (1 + tanh u) / 2 = sigmoid(2 u), and its slope 2 sigmoid'(2 u): exact far below 0, as normal_cdf
    "gelu_tanh": (lambda n, x: x * sigmoid(2 * gelu_inner(x)),
                  lambda n, x: sigmoid(2 * gelu_inner(x)) + x * 2 * sigmoid_slope(2 * gelu_inner(x))
                  * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)),
    "mish": (lambda n, x: x * np.tanh(softplus(x)),
             lambda n, x: np.tanh(softplus(x)) + x * tanh_slope(softplus(x)) * sigmoid(x)),
    "sigmoid": (lambda n, x: sigmoid(x),
                lambda n, x: sigmoid_slope(x)),
    "hardsigmoid": (lambda n, x: np.clip(n.alpha * x + n.beta, 0, 1),
                    lambda n, x: n.alpha * inside(n.alpha * x + n.beta, 0, 1)),
    "tanh": (lambda n, x: np.tanh(x),
             lambda n, x: tanh_slope(x)),
    "softplus": (lambda n, x: softplus(x),
                 lambda n, x: sigmoid(x)),
    "clip": (lambda n, x: np.clip(x, n.lo, n.hi),
             lambda n, x: inside(x, n.lo, n.hi)),
}


# Normalisations

def normalise(node, x):
    """(x - mean) / sqrt(var + eps) and sqrt(var + eps), in x's groups of channels, [G, C/G, H, W]; mean and var over
    the channels of a group at each pixel, or over its pixels too."""
    grouped = x.reshape(node.groups, len(x) // node.groups, *(x.shape[1:] or (1, 1)))
    axes = norm_axes(node)
    deviation = np.sqrt(grouped.var(axis=axes, keepdims=True) + node.eps)
    return (grouped - grouped.mean(axis=axes, keepdims=True)) / deviation, deviation


def norm_axes(node):
    return (1, 2, 3) if node.spatial else (1,)


def response(node, x):
    """|x_c|, "the L2 norm of channel c", and the mean over the channels plus eps."""
    length = np.sqrt((x * x).sum(axis=(1, 2)))
    return length, length.mean() + node.eps


def norm(node, x):
    """y = (x - mean) / sqrt(var + eps) * gamma + beta; of responses "y = x + gamma*x*n + beta"."""
    if node.response:
        length, mean = response(node, x)
        return x * per_channel(1 + node.w * length / mean, x) + per_channel(node.b, x)
    return normalise(node, x)[0].reshape(x.shape) * per_channel(node.w, x) + per_channel(node.b, x)


def norm_t(node, x, g):
    """The gradient "through mean and variance"."""
    if node.response:
        # With a_c = gamma_c * sum of g*x over the pixels: dL/dn_c = a_c, and n_c = |x_c| / m.
        length, mean = response(node, x)
        a = node.w * (g * x).sum(axis=(1, 2))
        to_length = a / mean - (a * length).sum() / (len(x) * mean ** 2)
        unit = np.where(length > 0, to_length / np.where(length > 0, length, 1), 0)
        return g * per_channel(1 + node.w * length / mean, x) + x * per_channel(unit, x)
    y, deviation = normalise(node, x)
    g = (g * per_channel(node.w, x)).reshape(y.shape)
    axes = norm_axes(node)
    through = g.mean(axis=axes, keepdims=True) + y * (g * y).mean(axis=axes, keepdims=True)
    return ((g - through) / deviation).reshape(x.shape)


def lrn_window(node, x):
    """Sums over the window of channels, as torch has it: [C, C], row c from c - size // 2 on, size channels."""
    distance = np.arange(len(x))[None, :] - np.arange(len(x))[:, None]
    return ((distance >= -(node.size // 2)) & (distance < node.size - node.size // 2)).astype(x.dtype)


def lrn_base(node, x):
    """k + alpha/size * sum of squares over the window of channels"""
    return node.k + node.alpha / node.size * np.tensordot(lrn_window(node, x), x * x, 1)


def lrn(node, x):
    return x / lrn_base(node, x) ** node.beta


def lrn_t(node, x, g):
    base = lrn_base(node, x)
    through = np.tensordot(lrn_window(node, x).T, g * x * base ** (-node.beta - 1), 1)
    return g / base ** node.beta - 2 * node.beta * node.alpha / node.size * x * through


# Products

def mul_t(xs, g):
    """"g_x = g*s, g_s = g*x summed to s's shape\""""
    x, s = xs
    summed = tuple(axis for axis, size in enumerate(s.shape) if size == 1)
    return [g * s, (g * x).sum(axis=summed, keepdims=True)]


# Copies of pixels

def copied(node, size):
    """The input rows and columns that those of the output copy, and 1 where they do, 0 where a pad has zeros."""
    sources, copies = [], []
    for axis, length in enumerate(size):
        if node.op == "resize":  # "output row i of n copies input row floor(i*m/n) of m"
            count = node.kernel[axis] if node.to_size else node.kernel[axis] * length
            sources.append(np.arange(count) * length // count)
            copies.append(np.ones(count, bool))
            continue
        at = np.arange(-node.pad[axis], length + node.pad[2 + axis])
        within = (at >= 0) & (at < length)
        copies.append(within | (node.border != "zeros"))
        if node.border == "reflect":
            if max(node.pad[axis], node.pad[2 + axis]) >= length:
                raise OracleError(f"node {node.name} (pad): {length} pixels are fewer than are to be reflected")
            at = length - 1 - np.abs(length - 1 - np.abs(at))
        sources.append(np.clip(at, 0, length - 1))
    return sources, copies


# The network: forward, and the ordinary gradient of each op

def per_channel(values, x):
    """A vector of channels, shaped to meet [C, H, W] or [N]."""
    return values.reshape((-1,) + (1,) * (x.ndim - 1))


def as_read(node, x):
    """A vector [N] that a convolution reads is [N,1,1]."""
    return x.reshape(-1, 1, 1) if node.op == "conv" and x.ndim == 1 else x


def forward(node, xs):
    """The node's output for its inputs."""
    x = as_read(node, xs[0])
    if node.op in ("conv", "linear"):
        if node.op == "linear" and x.shape != (node.w.shape[1],):
            raise OracleError(f"node {node.name} (linear): weights {list(node.w.shape)} do not fit {list(x.shape)}")
        y = product(node, x, node.w)
        return y if node.b is None else y + per_channel(node.b, y)
    if node.op == "batchnorm":
        return per_channel(node.w, x) * x + per_channel(node.b, x)
    if node.op == "relu":
        return relu(x)
    if node.op == "relu6":
        return np.minimum(relu(x), 6)
    if node.op in POOLS:
        return pool(node, x)
    if node.op == "act":
        return ACTIVATIONS[node.kind][0](node, x)
    if node.op == "norm":
        return norm(node, x)
    if node.op == "lrn":
        return lrn(node, x)
    if node.op == "flatten":
        return x.reshape(-1)
    if node.op == "slice":
        return x[slice(*node.channels)]
    if node.op == "shuffle":
        return x[list(node.perm)]
    if node.op in ("pad", "resize"):
        (rows, columns), (has_row, has_column) = copied(node, x.shape[1:])
        return x[:, rows][:, :, columns] * has_row[:, None] * has_column
    fits = len({x.shape for x in xs}) == 1
    if node.op == "add" and fits:
        return sum(xs[1:], xs[0])
    if node.op == "mul" and x.ndim == xs[1].ndim and all(s in (1, n) for s, n in zip(xs[1].shape, x.shape)):
        return x * xs[1]   # "s is [C,1,1], [1,H,W] or of x's shape"
    if node.op == "concat" and len({x.shape[1:] for x in xs}) == 1:
        return np.concatenate(xs)
    if node.op not in ("add", "mul", "concat"):
        raise OracleError(f"node {node.name}: no forward pass is known of {node.op}")
    raise OracleError(f"node {node.name} ({node.op}): inputs {[list(x.shape) for x in xs]} do not fit")


def adjoint(node, xs, g):
    """The gradients at the node's inputs, for g at its output."""
    x = xs[0]
    if node.op in ("conv", "linear"):
        return [product_t(node, node.w, g, as_read(node, x)).reshape(x.shape)]
    if node.op == "batchnorm":
        return [per_channel(node.w, x) * g]
    if node.op == "relu":
        return [g * (x > 0)]
    if node.op == "relu6":
        return [g * ((x > 0) & (x < 6))]
    if node.op in POOLS:
        return [pool_t(node, x, g)]
    if node.op == "act":
        return [g * ACTIVATIONS[node.kind][1](node, x)]
    if node.op == "norm":
        return [norm_t(node, x, g)]
    if node.op == "lrn":
        return [lrn_t(node, x, g)]
    if node.op == "mul":
        return mul_t(xs, g)
    if node.op == "add":
        return [g] * len(xs)
    if node.op in ARRANGE:
        return arranged(node, xs, g)
    raise OracleError(f"node {node.name}: no gradient is known of {node.op}")


def arranged(node, xs, t):
    """How a quantity, and the gradient, passes the ops that only arrange elements."""
    x = xs[0]
    if node.op == "flatten":     # "reshaped"
        return [t.reshape(x.shape)]
    if node.op == "concat":      # "split by channel"
        return np.split(t, np.cumsum([len(x) for x in xs])[:-1])
    out = np.zeros_like(x)
    if node.op == "slice":       # "cam goes to its place, 0 elsewhere"
        out[slice(*node.channels)] = t
    elif node.op == "shuffle":   # "output channel c is input channel perm[c]; cam likewise"
        np.add.at(out, list(node.perm), t)
    else:                        # pad, resize: "the sums over its copies", of zeros "cam is cropped"
        (rows, columns), (has_row, has_column) = copied(node, x.shape[1:])
        np.add.at(out, (slice(None), rows[:, None], columns), t * has_row[:, None] * has_column)
    return [out]


ARRANGE = ("flatten", "concat", "slice", "shuffle", "pad", "resize")


# The rules of AGF: (cam, g) at a node's output -> cam at its inputs

# The ablation that the specification calls gradcam is fx_gradcam here: gradcam is a method.
OPTIONS = ("no_fx", "no_fdx", "no_m", "no_a", "no_reg", "fx_gradcam")


def absolute_rule(node, x, cam):
    """C = |x| * convT(|w|, sdiv(cam, conv(|x|,|w|) * m)), m = nz(cam); the same for a linear layer. No bias."""
    w = np.abs(node.w)
    return np.abs(x) * product_t(node, w, sdiv(cam, product(node, np.abs(x), w) * nz(cam)), x)


def box_rule(node, x, cam):
    """A convolution that reads the image itself. lo, hi = min and max of the image over all its elements;
    w+ = max(w,0), w- = min(w,0); Z = conv(x, w) - conv(lo*1, w+) - conv(hi*1, w-) (no bias; zero padding also pads
    the constant images); s = sdiv(cam, Z); cam = x*convT(w, s) - lo*convT(w+, s) - hi*convT(w-, s).
    Where lo == hi, Z is 0 but for rounding, and there is no map. "A window that sees lo wherever w > 0 and hi wherever
    w < 0 has Z = 0\": exactly."""
    if x.min() == x.max():
        raise OracleError(f"every value of the image is {x.min():g}: there is no evidence to share")
    w, positive, negative = node.w, np.maximum(node.w, 0), np.minimum(node.w, 0)
    lo, hi = np.full_like(x, x.min()), np.full_like(x, x.max())
    Z = conv(node, x, w) - conv(node, lo, positive) - conv(node, hi, negative)
    evidence = conv(node, (x != lo).astype(x.dtype), positive) - conv(node, (x != hi).astype(x.dtype), negative)
    s = sdiv(cam, Z * nz(evidence))
    return (x * conv_t(node, w, s, x.shape) - lo * conv_t(node, positive, s, x.shape)
            - hi * conv_t(node, negative, s, x.shape))


def linear_rule(node, x, cam, g_in, flattened):
    """A linear layer that does not make the logits. flattened: [C, H, W] of the tensor that its input is, else None."""
    C = absolute_rule(node, x, cam)
    if flattened is None:
        return C
    # M = relu(mean over channels of (x*g_in)) at each position, spread over the channels, * nz(C), then
    # M = sdiv(M, max M)
    M = relu((x * g_in).reshape(flattened).mean(axis=0))
    M = np.broadcast_to(M, flattened).reshape(-1) * nz(C)
    return shift(C, sdiv(M, M.max()))


def factor_weights(C):
    """P = {phi > 0} and N = {phi < 0} of phi = mean over channels of C, as weights of a sum over pixels: 1/|P| on P,
    1/|N| on N (via sdiv: 0 for an empty set), each [HW]."""
    phi = C.mean(axis=0).reshape(-1)
    sets = (phi > 0).astype(C.dtype), (phi < 0).astype(C.dtype)
    return [sdiv(members, members.sum()) for members in sets]


def factorise(q, on_positive, on_negative):
    """F(q), one map [H, W]: a_c and b_c are the means of channel c over P and N; the 2x2 system (R^T R + I) W = R^T q
    with columns R = [b a] over channels; F = relu(relu(W_a) - relu(W_b))."""
    flat = q.reshape(len(q), -1)
    R = np.stack([flat @ on_negative, flat @ on_positive], axis=1)
    W_b, W_a = np.linalg.solve(R.T @ R + np.eye(2, dtype=q.dtype), R.T @ flat)
    return relu(relu(W_a) - relu(W_b)).reshape(q.shape[1:])


def plain_conv_rule(node, x, cam, g, G, options):
    """"Conv, any other". G = convT(w, g)."""
    m = nz(cam)
    C = absolute_rule(node, x, cam)
    Gm = conv_t(node, node.w, g * m, x.shape)
    R = np.zeros_like(C)

    # Fx + M, or what the options leave of it; maps [H, W], spread over the channels where they are added
    on_positive, on_negative = factor_weights(C)
    term = np.zeros_like(x, shape=x.shape[1:])
    if "fx_gradcam" in options:
        term = relu((x * Gm.mean(axis=(1, 2), keepdims=True)).mean(axis=0))
    else:
        if "no_fx" not in options:
            term = term + factorise(sigmoid(10 * sdiv(x, x.max())), on_positive, on_negative)
        if "no_m" not in options:
            M = relu((x * G).mean(axis=0))
            term = term + sdiv(M, M.max())
    if "no_reg" in options:
        R += term
    else:
        with np.errstate(over="ignore"):
            R += sdiv(np.broadcast_to(term, C.shape), 1 + np.exp(-C))  # an overflow makes the quotient 0

    if "no_fdx" not in options:
        R += factorise(sigmoid(10 * sdiv(Gm, Gm.max())), on_positive, on_negative)
    if "no_a" not in options:
        w = np.abs(node.w)
        R += conv_t(node, w, sdiv(cam, conv(node, np.ones_like(x), w) * m), x.shape)
    return shift(C, R * nz(C))


def agf_rule(node, xs, cam, g, flattened, options):
    """One node: the list of (cam, g) at its inputs."""
    x = xs[0]
    gs = adjoint(node, xs, g)
    if node.op in ("relu", "relu6"):
        # "x * cam / (x + 1e-9) where x > 0 and cam != 0, else 0"; ReLU6: with its output in place of x
        y = forward(node, xs)
        cams = [np.where(x > 0, y * cam / (y + np.asarray(EPS, y.dtype)), np.zeros_like(cam))]
    elif node.op in POOLS:
        # "y = pool(x) masked by nz(cam); x * poolT(sdiv(cam, y))", or the same of |x|
        a = summand(node, x)
        cams = [a * pool_t(node, a, sdiv(cam, pool(node, a) * nz(cam)))]
    elif node.op == "add":
        # "y = sum of x_i masked by nz(cam), s = sdiv(cam, y) masked; cam_i = x_i * s"; "y = sum of |x_i| ..."
        parts = [summand(node, x) for x in xs]
        s = sdiv(cam, sum(parts) * nz(cam))
        cams = [part * s for part in parts]
    elif node.op == "act":
        # "cam * nz(y)"
        cams = [cam * nz(forward(node, xs))]
    elif node.op == "mul":
        # "cam_x = cam * nz(y), cam_s = 0"
        cams = [cam * nz(forward(node, xs)), np.zeros_like(xs[1])]
    elif node.op in ("batchnorm", "norm", "lrn"):
        cams = [cam]
    elif node.op in ARRANGE:
        cams = arranged(node, xs, cam)
    elif node.op == "linear":
        cams = [linear_rule(node, x, cam, gs[0], flattened)]
    elif node.op != "conv":
        raise OracleError(f"node {node.name}: no rule is known of {node.op}")
    elif 0 in node.inputs:
        cams = [box_rule(node, x, cam)]
    elif node.flat:
        cams = [absolute_rule(node, x, cam)]
    else:
        cams = [plain_conv_rule(node, x, cam, g, gs[0], options)]
    return list(zip(cams, gs))


def merge(x, pairs):
    """A tensor x that several nodes read: cam = x * sum_i sdiv(cam_i, x), g = sum of the g_i. "With one reader cam
    passes as it is." Either of cam and g may be None throughout."""
    cams, gs = zip(*pairs)
    if len(pairs) == 1:
        return pairs[0]
    cam = None if cams[0] is None else x * sum(sdiv(cam, x) for cam in cams)
    return cam, None if gs[0] is None else sum(gs)


# Seeds

def seed_gradient(z, t):
    """dz, the gradient of p_t in the logits z: d_i = z_i - z_t, sigma = max_i |d_i|,
    u_i = z_t * exp(-(d_i/sigma)^2 / 2), p = softmax(u); z_t and sigma are part of it."""
    if len(z) == 1:
        raise OracleError("one class: the seed has no gradient")
    d = z - z[t]
    m = int(np.argmax(np.abs(d)))  # "d sigma/dz goes through the first index that attains the maximum"
    sigma = np.abs(d[m])
    if sigma == 0:
        raise OracleError("all logits are equal: the seed has no gradient")
    r = d / sigma
    e = np.exp(-r * r / 2)
    p = softmax(z[t] * e)
    du = -p[t] * p                              # dp_t / du; p_t * (1 - p_t) at t, where 1 - p_t is the others' sum:
    du[t] = p[t] * np.delete(p, t).sum()        # of a sure network the difference is nothing but rounding
    dr = du * z[t] * e * -r                     # dp_t / dr, u depending on r
    dz = dr / sigma                             # r_i = (z_i - z_t) / sigma: through z_i,
    dz[t] += (du * e).sum() - dr.sum() / sigma  # through u's factor z_t and through r's z_t,
    through_sigma = -(dr * r).sum() / sigma * np.sign(d[m])
    dz[m] += through_sigma                      # and through sigma = |z_m - z_t|
    dz[t] -= through_sigma
    return dz.astype(z.dtype)


def pair_gradient(z, t, u):
    """dz of class t against u alone: "P(1-P) (e_t - e_u), P = softmax of z / |z_t - z_u| over the two classes"; "where
    z_t = z_u it is the limit": P is 1/(1+1/e) or 1/(1+e)."""
    apart = (z[t] - z[u]) / np.abs(z[t] - z[u]) if z[t] != z[u] else 1.0
    P = 1 / (1 + np.exp(-apart))
    dz = np.zeros_like(z)
    dz[t], dz[u] = P * (1 - P), -P * (1 - P)
    return dz


def local_contrast(l_h, z, t, against=None):
    """The gradient in one position's logits l_h of "T * softplus(L_t - log sum_{j != t} exp L_j)", L = l_h / T,
    T = max_i |z_i - z_t| held fixed: P * (e_t - q), P = softmax(L)_t, q = softmax of L over the classes other than
    t, or over `against` alone."""
    others = np.arange(len(z)) != t if against is None else np.arange(len(z)) == against
    T = np.abs(z[others] - z[t]).max(initial=0)
    if T == 0:
        raise OracleError("agf_lc needs two classes whose logits differ")
    s = np.zeros_like(l_h)
    s[t], s[others] = 1, -softmax(l_h[others] / T)
    return softmax(np.append(l_h[others], l_h[t]) / T)[-1] * s


# Heads as they are stored

def fold_head(nodes):
    """"What follows the last linear layer, convolution or pool is folded into it where it is affine (scale,
    temperature, BatchNorm, a sum of two linear layers of one tensor); softmax, sigmoid and argmax are dropped." """
    nodes = list(nodes)
    while nodes[-1].op in ("act", "batchnorm", "add"):
        last = nodes.pop()
        made = [nodes[i - 1] for i in last.inputs if i]
        if last.op == "act" and last.kind == "sigmoid":
            continue
        affine = last.op != "act" and all(node.op in ("linear", "conv") for node in made)
        of_one_tensor = len({tuple(node.inputs) for node in made}) == 1
        just_before = sorted(last.inputs) == list(range(len(nodes) - len(made) + 1, len(nodes) + 1))
        if not (affine and of_one_tensor and just_before):
            raise OracleError(f"node {last.name} ({last.op}) cannot be folded into what makes the logits")
        del nodes[-len(made):]
        bias = sum(0 if node.b is None else node.b for node in made) + np.zeros(len(made[0].w))
        w = sum(node.w for node in made)
        if last.op == "batchnorm":
            w, bias = w * last.w.reshape((-1,) + (1,) * (w.ndim - 1)), last.w * bias + last.b
        nodes.append(replace(made[0], w=w, b=bias))
    return nodes


def two_classes(nodes):
    """"One output z becomes two classes with the logits (-z/2, z/2), whose softmax is z's sigmoid." """
    head = nodes[-1]
    if head.op not in ("linear", "conv") or len(head.w) != 1:
        raise OracleError(f"node {head.name} ({head.op}) does not make one output")
    half = [None if t is None else np.concatenate([-t, t]) / 2 for t in (head.w, head.b)]
    return list(nodes[:-1]) + [replace(head, w=half[0], b=half[1])]


# SmoothGrad's noise

def philox4x32(counter, key):
    """Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). counter:
    four, key: two 32-bit words, as uint64 arrays or integers that broadcast; the four output words as uint64 arrays."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (int(word) for word in key)
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def standard_normal(seed, sample, shape, dtype=np.float64):
    """SmoothGrad's noise before scaling: sample number `sample` (from 0), one normal deviate per element of the image.

    Element `index` (in CHW order, from 0) takes the first two words r0, r1 of Philox4x32-10 with
        counter words  c0 = sample, c1 = index, c2 = c3 = 0
        key words      k0 = seed mod 2^32, k1 = floor(seed / 2^32)        (seed: unsigned, 64 bits)
    and makes two uniform numbers of their 24 highest bits, exact in float32:
        u = ((r0 >> 8) + 1) / 2^24   in (0, 1]
        v = (r1 >> 8) / 2^24         in [0, 1)
    The deviate is Box-Muller's cosine, sqrt(-2 ln u) * cos(2 pi v). Its sine, r2 and r3 are not used."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    r0, r1, _, _ = philox4x32((sample, index, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    u = (((r0 >> np.uint64(8)) + np.uint64(1)) / 2.0 ** 24).astype(dtype)
    v = ((r1 >> np.uint64(8)) / 2.0 ** 24).astype(dtype)
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).reshape(shape)


# Layer-wise relevance propagation

def alpha_beta_rule(node, x, R, alpha):
    """alpha * f(w+, w-, x+, x-) - (alpha-1) * f(w-, w+, x+, x-),
    f(w1,w2,x1,x2) = x1*T(w1, sdiv(R, L(x1,w1))) + x2*T(w2, sdiv(R, L(x2,w2)))."""
    def f(w1, w2):
        return sum(xi * product_t(node, wi, sdiv(R, product(node, xi, wi)), x) for xi, wi in ((x1, w1), (x2, w2)))

    x1, x2 = np.maximum(x, 0), np.minimum(x, 0)
    positive, negative = np.maximum(node.w, 0), np.minimum(node.w, 0)
    relevance = alpha * f(positive, negative)
    return relevance if alpha == 1 else relevance - (alpha - 1) * f(negative, positive)


def lrp_rule(node, xs, R, alpha):
    """One node: R at its inputs."""
    x = xs[0]
    if node.op == "conv" and 0 in node.inputs:
        return [box_rule(node, x, R)]
    if node.op in ("conv", "linear"):
        return [alpha_beta_rule(node, x, R, alpha)]
    if node.op in POOLS:
        a = summand(node, x)
        return [a * pool_t(node, a, sdiv(R, pool(node, a)))]
    if node.op == "add":
        parts = [summand(node, x) for x in xs]
        s = sdiv(R, sum(parts))
        return [part * s for part in parts]
    if node.op == "mul":   # "all to the signal"
        return [R, np.zeros_like(xs[1])]
    if node.op in ARRANGE:
        return arranged(node, xs, R)
    if node.op in ("relu", "relu6", "batchnorm", "act", "norm", "lrn"):
        return [R]         # "ReLU, Dropout, BatchNorm pass R", "activations, normalisations and LRN pass R"
    raise OracleError(f"node {node.name}: no relevance propagation is known of {node.op}")


def contrast(a, b):
    """a - b * (sum a / sum b) of two finished maps; 0 for the second term where sum b is 0."""
    return a if b.sum() == 0 else a - b * (a.sum() / b.sum())


# Maps on the image's grid

def bilinear(t, height, width):
    """[..., H, W] -> [..., height, width], half-pixel centres, edges repeated."""
    def matrix(size, wanted):
        rows = np.zeros((wanted, size), t.dtype)
        at = np.maximum((np.arange(wanted) + 0.5) * (size / wanted) - 0.5, 0)
        below = np.minimum(at.astype(int), size - 1)
        share = at - below
        np.add.at(rows, (np.arange(wanted), below), 1 - share)
        np.add.at(rows, (np.arange(wanted), np.minimum(below + 1, size - 1)), share)
        return rows

    return matrix(t.shape[-2], height) @ t @ matrix(t.shape[-1], width).T


def psi(v):
    """FullGrad's normalisation: a = |v| - min |v| over the whole tensor, a / max a; 0 where max a is 0."""
    a = np.abs(v) - np.abs(v).min()
    return a / a.max() if a.max() > 0 else a


def smoothed(heat, sigma):
    """"out = A map B, A and B the convolutions by the Gaussian; beyond an edge the map is reflected" """
    def blur(size):
        rows, r = np.zeros((size, size), heat.dtype), int(np.floor(4 * sigma + 0.5))
        weights = np.exp(-np.arange(-r, r + 1) ** 2 / (2 * sigma ** 2)) if r else np.ones(1)
        for i in range(size):
            at = np.arange(i - r, i + r + 1) % (2 * size)   # d c b a | a b c d | d c b a repeats after 2 * size
            np.add.at(rows[i], np.minimum(at, 2 * size - 1 - at), weights / weights.sum())
        return rows

    return blur(heat.shape[0]) @ heat @ blur(heat.shape[1]).T


METHODS = ("agf", "agf_a", "agf_lc", "gradient", "gradient_x_input", "smoothgrad", "integrated_gradients", "gradcam",
           "fullgrad", "lrp_a1b0", "lrp_a2b1", "clrp", "sglrp", "layercam", "hirescam", "lrp_lc")
TAKE_LAYER = ("gradcam", "layercam", "hirescam")
NOT_AGAINST = ("lrp_a1b0", "lrp_a2b1", "clrp", "sglrp")   # they have "seeds of their own"


class Network:
    """A model file, or a Model, and, after run(), the activations of one image.

    Tensors are numbered as in the file: 0 is the image, n + 1 the output of node n. Flattened
    tensors have shape [N]."""

    def __init__(self, model, dtype=np.float64):
        def typed(t):
            return None if t is None else t.astype(dtype)

        self.model = model if isinstance(model, Model) else read_model(model)
        self.nodes = [replace(node, w=typed(node.w), b=typed(node.b)) for node in self.model.nodes]
        self.dtype, self.values = dtype, None
        find_cancelling(self.nodes)

    def name(self, tensor):
        return self.nodes[tensor - 1].name if tensor else "input"

    def run(self, x):
        """Forward pass of one input [C, H, W]; returns self. "What a network does to its input per channel before the
        first layer is part of the model file; the image that all rules speak of is the one after it." """
        x = np.asarray(x, self.dtype)
        if self.model.affine and len(x) == self.model.input_shape[0]:
            scale, bias = (per_channel(t, x).astype(self.dtype) for t in self.model.affine)
            x = scale * x + bias
        if x.ndim != 3 or x.shape[0] != self.model.input_shape[0]:
            raise OracleError(f"the input is {list(x.shape)}, the network reads [{self.model.input_shape[0]}, H, W]")
        self.values = self.activations(x)
        return self

    @property
    def logits(self):
        return self.values[-1].reshape(-1)

    def ranked(self, r=0):
        """The r-th largest logit's class; "ties: the lowest index first"."""
        return int(np.argsort(-self.logits, kind="stable")[r])

    @property
    def latent(self):
        """The input of the node that makes the logits."""
        return self.values[self.nodes[-1].inputs[0]]

    def explain(self, t=None, method="agf", options=(), difference=None, nodes=None, steps=50, samples=50, seed=0,
                layer=None, against=None):
        """A map [H, W] of class t (None: the prediction) for the image of the last run().

        options: of OPTIONS, for agf, agf_a and agf_lc. difference: label-free procedure, shaped as .latent or flat, for
        agf and agf_a. nodes: a dict that receives cam/NAME and g/NAME at every node (gradients: g alone, LRP: cam
        alone). steps: of integrated_gradients. samples, seed: of smoothgrad. layer: of TAKE_LAYER, this node's output.
        against: the other class of "One class against another"."""
        if self.values is None:
            raise OracleError("explain() before run()")
        if method not in METHODS:
            raise OracleError(f"no method {method}; there are {', '.join(METHODS)}")
        for option in options:
            if option not in OPTIONS:
                raise OracleError(f"no option {option}; there are {', '.join(OPTIONS)}")
        if difference is not None:
            if method not in ("agf", "agf_a"):
                raise OracleError(f"{method} takes no difference of latent vectors")
            difference = np.asarray(difference, self.dtype)
            if difference.size != self.latent.size:
                raise OracleError(f"a difference of {difference.size} values, the latent vector has {self.latent.size}")
            difference = difference.reshape(self.latent.shape)
        z = self._logits_of(difference)
        t = int(np.argmax(z)) if t is None else t
        if not 0 <= t < len(z):
            raise OracleError(f"no class {t}; there are {len(z)}")
        if against is not None:
            if method in NOT_AGAINST:
                raise OracleError(f"{method} takes no class against which it explains")
            if not 0 <= against < len(z) or against == t:
                raise OracleError(f"class {t} against {against}: there are {len(z)} classes")
        seen = {} if nodes is None else nodes
        if method in ("agf", "agf_a", "agf_lc"):
            return self._agf(t, method, options, difference, seen, against)
        if method == "integrated_gradients":
            return self._integrated_gradients(t, steps, against)
        if method == "smoothgrad":
            return self._smoothgrad(t, samples, seed, against)
        if method in TAKE_LAYER:
            return self._gradcam(t, method, layer, against)
        if method == "fullgrad":
            return self._fullgrad(t, seen, against)
        if method in ("gradient", "gradient_x_input"):
            return self._gradient(t, method, seen, against)
        return self._lrp(t, method, seen, against)

    # The two directions

    def activations(self, x):
        """All tensors' values for one image, which the last run() need not have been."""
        values = [x]
        for tensor in range(len(self.nodes) + 1):
            if tensor:
                node = self.nodes[tensor - 1]
                with np.errstate(over="ignore", invalid="ignore"):
                    values.append(forward(node, [values[i] for i in node.inputs]))
            if not np.isfinite(values[tensor]).all():
                raise OracleError(f"a value of {self.name(tensor)} is not finite")
        return values

    def _backward(self, values, seeds, rule, seen=None, last=0):
        """From seeds {tensor: (cam, g)} to the image, or to tensor number `last`. rule(node, inputs, cam, g)
        gives the pairs at the node's inputs. Nodes that the seeds do not depend on are never reached. {tensor: merged
        (cam, g)}"""
        pending, merged = {tensor: [pair] for tensor, pair in seeds.items()}, {}
        for tensor in range(max(seeds), last - 1, -1):
            if tensor not in pending:
                continue
            cam, g = merged[tensor] = merge(values[tensor], pending.pop(tensor))
            if seen is not None:
                seen.update({f"{what}/{self.name(tensor)}": t for what, t in (("cam", cam), ("g", g)) if t is not None})
            if tensor > last:
                node = self.nodes[tensor - 1]
                pairs = rule(node, [as_read(node, values[i]) for i in node.inputs], cam, g)
                for source, pair in zip(node.inputs, pairs):
                    shape = values[source].shape
                    pending.setdefault(source, []).append([None if t is None else t.reshape(shape) for t in pair])
        return merged

    # AGF, agf_a, agf_lc

    def _logits_of(self, difference):
        """The task classifier's logits of a latent vector; None: of the image's own."""
        return self.logits if difference is None else forward(self.nodes[-1], [difference]).reshape(-1)

    def _agf(self, t, method, options, difference, seen, against):
        options = set(options)
        if method != "agf":
            options |= {"no_m", "no_fx", "no_fdx"}
        if method == "agf_lc":
            tensor, x, g = self._local_seed(t, against)
        else:
            head = self.nodes[-1]
            tensor = head.inputs[0]
            makes_logits = head.op in ("conv", "linear", "avgpool", "adaptive_avgpool", "global_avgpool")
            if not makes_logits or self.values[-1].size != len(self.values[-1]):
                raise OracleError(f"node {head.name} ({head.op}) makes {list(self.values[-1].shape)}: no seed there")
            x = self.latent if difference is None else difference
            # "g at that node's input = gradient of p_t there; cam at its input = input * g"
            z = self._logits_of(difference)
            dz = seed_gradient(z, t) if against is None else pair_gradient(z, t, against)
            g = adjoint(head, [self.latent], dz.reshape(self.values[-1].shape))[0]

        def rule(node, xs, cam, g):
            return agf_rule(node, xs, cam, g, self._flattened(node), options)

        cam = self._backward(self.values, {tensor: (x * g, g)}, rule, seen)[0][0]
        # "M = max(cam) over all elements where that is > 0, else -min(cam)"
        peak = cam.max() if cam.max() > 0 else -cam.min()
        heat = cam.sum(axis=0) / peak if peak != 0 else None
        if heat is None or not np.isfinite(heat).all():
            raise OracleError(f"class {t}: the map has no support, or is not finite")
        return heat

    def _flattened(self, node):
        """[C, H, W] of the tensor that a linear layer's input is flattened from; None for any other vector."""
        source = node.inputs[0]
        while source and self.nodes[source - 1].op == "flatten":
            source = self.nodes[source - 1].inputs[0]
        shape = self.values[source].shape
        return shape if len(shape) == 3 else None

    def pooled_head(self):
        """The index of the global average pool behind which the logits depend on nothing else: "any head that works
        position by position behind the global pool". Of several the last one that reads more than one pixel, if there
        is one."""
        live = self.gradients(self.values, 0)
        found, lowest = [], len(self.nodes)
        for n in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[n]
            if n + 1 not in live:
                continue
            pools = node.op in ("global_avgpool", "adaptive_avgpool") and self.values[n + 1][0].size == 1
            if pools and lowest >= n + 1:
                found.append(n)
            lowest = min(lowest, *node.inputs)
        found.sort(key=lambda n: self.values[self.nodes[n].inputs[0]][0].size == 1)   # stable: the last one first
        if not found:
            raise OracleError("agf_lc needs a global average pool behind which the logits depend on nothing else")
        return found[0]

    def _local_seed(self, t, against):
        """agf_lc's tensor X [C,H,W], which the pool reads: its number, its values, and g there: the gradient of the
        mean over positions h of the contrast of l(h) = head(X(h)), the head being all that is behind the pool."""
        pool = self.pooled_head()
        X = self.values[self.nodes[pool].inputs[0]]
        g, values = np.empty_like(X), list(self.values)
        for h in np.ndindex(*X.shape[1:]):
            values[pool + 1] = X[(slice(None), *h)].reshape(-1, 1, 1)
            for n in range(pool + 1, len(self.nodes)):
                values[n + 1] = forward(self.nodes[n], [values[i] for i in self.nodes[n].inputs])
            s = local_contrast(values[-1].reshape(-1), self.logits, t, against) / X[0].size
            g[(slice(None), *h)] = self._gradients_of(values, s, last=pool + 1)[pool + 1].reshape(-1)
        return self.nodes[pool].inputs[0], X, g

    # Gradients

    def gradients(self, values, t, seen=None, against=None):
        """{tensor: dz_t / dtensor}, or of z_t - z_u where u = against is given."""
        e = np.zeros(values[-1].size, self.dtype)
        e[t] = 1
        if against is not None:
            e[against] = -1
        return self._gradients_of(values, e, seen)

    def _gradients_of(self, values, s, seen=None, last=0):
        """{tensor: d<s, logits> / dtensor}, down to tensor number `last`."""
        def rule(node, xs, cam, g):
            return [(None, g_i) for g_i in adjoint(node, xs, g)]

        seeds = {len(self.nodes): (None, s.reshape(values[-1].shape))}
        return {tensor: g for tensor, (_, g) in self._backward(values, seeds, rule, seen, last).items()}

    def _gradient(self, t, method, seen, against):
        g = self.gradients(self.values, t, seen, against)[0]
        return np.abs(g).sum(axis=0) if method == "gradient" else (self.values[0] * g).sum(axis=0)

    def _integrated_gradients(self, t, steps, against):
        """"baseline 0, m steps at (k + 0.5)/m, x * mean gradient\""""
        x = self.values[0]
        images = (x * self.dtype((k + 0.5) / steps) for k in range(steps))
        total = sum(self.gradients(self.activations(image), t, None, against)[0] for image in images)
        return (x * total / steps).sum(axis=0)

    def _smoothgrad(self, t, samples, seed, against):
        """"mean over n of the signed gradient at x + noise, then |.| summed over channels; deviation
        0.15 * (max x - min x)\""""
        x = self.values[0]
        deviation = self.dtype(0.15) * (x.max() - x.min())
        noise = (deviation * standard_normal(seed, n, x.shape, self.dtype) for n in range(samples))
        total = sum(self.gradients(self.activations(x + noise_n), t, None, against)[0] for noise_n in noise)
        return np.abs(total / samples).sum(axis=0)

    def _gradcam(self, t, method, layer, against):
        """"relu(sum_c act_c * mean_hw grad_c), divided by its max where that is > 0, then bilinear to the image's
        size"; layercam, hirescam: "the gradient of each pixel in place of its mean", of the former what is above 0."""
        gradients = self.gradients(self.values, t, None, against)
        names = [self.name(n) for n in range(len(self.values))]
        if layer is not None and layer not in names:
            raise OracleError(f"{method}: no layer {layer}")
        tensor = self.gradcam_layer() if layer is None else names.index(layer)
        if tensor not in gradients or self.values[tensor].ndim != 3:
            raise OracleError(f"{method}: the logits do not depend on {self.name(tensor)}, or it is no [C,H,W] tensor")
        x, g = self.values[tensor], gradients[tensor]
        weights = {"gradcam": g.mean(axis=(1, 2), keepdims=True), "layercam": relu(g), "hirescam": g}[method]
        heat = relu((x * weights).sum(axis=0))
        return bilinear(heat / heat.max() if heat.max() > 0 else heat, *self.values[0].shape[1:])

    def gradcam_layer(self):
        """"back from the logits along first inputs, the input of the first pooling to a size or global pooling, else
        the first tensor of more than one pixel\""""
        back = [len(self.nodes)]
        while back[-1]:
            node = self.nodes[back[-1] - 1]
            back.append(node.inputs[0])
            if node.op in ("adaptive_avgpool", "global_avgpool", "global_maxpool"):
                return back[-1]
        for tensor in back:
            if self.values[tensor].ndim == 3 and self.values[tensor][0].size > 1:
                return tensor
        raise OracleError("gradcam: no pooling to a size and no tensor of more than one pixel before the logits")

    def fullgrad_terms(self, t, seen=None, against=None):
        """x * grad_x and, for every conv with a bias and every BatchNorm that the logits depend on, bias_c * gradient
        at its output: the terms of FullGrad before psi. With those of the linear layers' biases they add up to z_t."""
        gradients = self.gradients(self.values, t, seen, against)
        terms = [self.values[0] * gradients[0]]
        for n, node in enumerate(self.nodes):
            if node.op in ("conv", "batchnorm") and node.b is not None and n + 1 in gradients:
                terms.append(per_channel(node.b, gradients[n + 1]) * gradients[n + 1])
        return terms

    def _fullgrad(self, t, seen, against):
        height, width = self.values[0].shape[1:]
        heat = np.zeros((height, width), self.dtype)
        for term in self.fullgrad_terms(t, seen, against):
            heat += bilinear(psi(term.reshape((len(term),) + (term.shape[1:] or (1, 1)))), height, width).sum(axis=0)
        return heat

    # LRP

    def _relevance(self, seed, alpha, seen=None, tensor=None):
        """The finished map, summed over channels, for relevance `seed` at a tensor, by default the logits."""
        def rule(node, xs, R, g):
            return [(R_i, None) for R_i in lrp_rule(node, xs, R, alpha)]

        tensor = len(self.nodes) if tensor is None else tensor
        seeds = {tensor: (seed.reshape(self.values[tensor].shape), None)}
        return self._backward(self.values, seeds, rule, seen)[0][0].sum(axis=0)

    def _lrp(self, t, method, seen, against):
        z = self.logits
        e = (np.arange(len(z)) == t).astype(self.dtype)
        if method in ("lrp_a1b0", "lrp_a2b1"):
            return self._relevance(z * e, 1 if method == "lrp_a1b0" else 2, seen)
        if method == "lrp_lc":   # "R = X * g at agf_lc's tensor X"
            tensor, X, g = self._local_seed(t, against)
            return self._relevance(X * g, 1, seen, tensor)
        if len(z) == 1:
            raise OracleError(f"{method} needs two classes")
        if method == "clrp":
            target, others = np.abs(z[t]) * e, (1 - e) / (len(z) - 1) * np.abs(z[t])
        elif method == "sglrp":
            p = softmax(z)
            target, others = e * (p * (1 - p) + self.dtype(1e-8)), (1 - e) * p[t] * p
        else:
            raise OracleError(f"no maps are known of {method}")
        return contrast(self._relevance(target, 1), self._relevance(others, 1))


# The command line

# Methods whose float32 run would need the same noise and steps as the map: how many a test case takes, to stay small.
CASE_STEPS = {"integrated_gradients": 8, "smoothgrad": 4}


def relative_error(actual, expected):
    """Relative L2 error; against a map of zeros, 0 or infinity."""
    norm = np.linalg.norm(expected)
    error = np.linalg.norm(actual.astype(np.float64) - expected)
    return float(error / norm) if norm else (0.0 if error == 0 else np.inf)


def file_name(key):
    """cam/NAME -> cam_NAME, fit for a file's name."""
    return key.replace("/", "_").replace(os.sep, "_")


def save(path, array):
    """Write an .npy file under a temporary name and rename it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "xb") as f:
            np.save(f, array)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_case(directory, model_path, x, classes, option_classes=None, method_classes=None, with_nodes=True):
    """A test case: the files that tests/make_golden.py describes. maps.txt has every class, and every option for
    option_classes (default: all); methods.txt every method that the network allows for method_classes (default: all),
    smoothgrad with seed 0 and its number of samples as STEPS; against.txt the first class against the second. Node
    tensors for the first class."""
    name = os.path.basename(os.path.abspath(directory))
    os.makedirs(directory, exist_ok=True)
    model_copy = os.path.join(directory, f"{name}.agf")
    if os.path.abspath(model_path) != os.path.abspath(model_copy):
        shutil.copyfile(model_path, model_copy)
    exact, single = (Network(model_path, dtype).run(x) for dtype in (np.float64, np.float32))
    save(os.path.join(directory, "input.npy"), np.asarray(x, np.float32))
    save(os.path.join(directory, "logits.npy"), exact.logits)

    def add(file, t, **request):
        heat = exact.explain(t, **request)
        save(os.path.join(directory, file), heat)
        return relative_error(single.explain(t, **request), heat)

    lines = []
    for t in classes:
        with_options = option_classes is None or t in option_classes
        for option in (None,) + (OPTIONS if with_options else ()):
            file = f"heat_{t}.npy" if option is None else f"heat_{t}_{option}.npy"
            error = add(file, t, options=[option] if option else [])
            lines.append(f"{file} {t} {error!r} {option or '-'}\n")
    write_text(os.path.join(directory, "maps.txt"), lines)

    write_text(os.path.join(directory, "methods.txt"), [])
    for t in classes if method_classes is None else method_classes:
        add_methods(directory, exact, single, [m for m in METHODS if m != "agf"], t)
    if len(classes) > 1:
        add_methods(directory, exact, single, [m for m in METHODS if m not in NOT_AGAINST], classes[0], classes[1])

    if with_nodes and classes:
        seen = {}
        exact.explain(classes[0], nodes=seen)
        for key, tensor in seen.items():
            save(os.path.join(directory, file_name(key) + ".npy"), tensor.astype(np.float32))


def add_methods(directory, exact, single, methods, t, against=None, largest=np.inf):
    """Maps of class t by methods, those that the network allows, at the end of a case's methods.txt; of class t
    against another one at the end of its against.txt. exact, single: the network in both precisions, run. Maps whose
    float32 error is above `largest` are left out. Differences of two classes cancel, and one float32 run may be exact
    by luck: their error is the largest of several, at images that rounding could have made of this one."""
    name, lines, singles = os.path.basename(os.path.abspath(directory)), [], [single]
    if against is not None:
        random, image = np.random.RandomState(0), exact.values[0]   # behind an affine map of the input
        values, which = np.unique(image, return_inverse=True)       # what is equal stays equal: a tie in a max pool
        for _ in range(4):
            moved = values * (1 + 2.0 ** -24 * random.uniform(-1, 1, len(values)))
            singles.append(Network(single.model, np.float32))
            singles[-1].values = singles[-1].activations(np.float32(moved[which].reshape(image.shape)))
    for method in methods:
        steps = CASE_STEPS.get(method, 0)
        request = {"method": method, "against": against, **({"steps": steps, "samples": steps} if steps else {})}
        file = f"{method}{f'_{steps}' if steps else ''}_{t}{'' if against is None else f'_against_{against}'}.npy"
        try:
            heat = exact.explain(t, **request)
            error = max(relative_error(network.explain(t, **request), heat) for network in singles)
            if not error <= largest:
                raise OracleError(f"float32 is off by {error:.1e}")
        except OracleError as reason:
            print(f"{name}: no {method}: {reason}")
            continue
        save(os.path.join(directory, file), heat)
        classes = t if against is None else f"{t} {against}"
        lines.append(f"{file} {method} {classes} {steps} {error!r}\n")
    write_text(os.path.join(directory, "methods.txt" if against is None else "against.txt"), lines, "a")


def write_text(path, lines, mode="w"):
    with open(path, mode, newline="\n") as f:
        f.writelines(lines)


def read_input(path):
    try:
        x = np.load(path, allow_pickle=False)
    except ValueError as reason:
        raise OracleError(f"{path}: {reason}") from None
    if x.ndim == 4 and x.shape[0] == 1:
        x = x[0]
    if x.ndim != 3 or x.dtype.kind not in "fiu":
        raise OracleError(f"{path}: {x.dtype} {list(x.shape)}, expected floats [C,H,W] or [1,C,H,W]")
    return x


def main():
    parser = argparse.ArgumentParser(description="Attribution maps in float64, for checking the engine.")
    parser.add_argument("model", help="a .agf file")
    parser.add_argument("input", help="an .npy file, [C,H,W] or [1,C,H,W]")
    parser.add_argument("-c", "--class", dest="classes", type=int, action="append", default=[], metavar="CLASS",
                        help="class to explain; several only with --make-case (default: the prediction)")
    parser.add_argument("-m", "--method", choices=METHODS, default="agf")
    parser.add_argument("--options", default="", metavar="A,B", help=f"of {', '.join(OPTIONS)}")
    parser.add_argument("--difference", metavar="FILE",
                        help="an .npy file of the latent vector's size: label-free procedure")
    parser.add_argument("--steps", type=int, default=50, help="of integrated_gradients (default 50)")
    parser.add_argument("--samples", type=int, default=50, help="of smoothgrad (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of smoothgrad, 0 to 2^64 - 1 (default 0)")
    parser.add_argument("--layer", help=f"of {', '.join(TAKE_LAYER)}: at this node's output")
    parser.add_argument("--against", type=int, metavar="CLASS", help="why that class rather than this one")
    parser.add_argument("--smooth", type=float, default=0, metavar="SIGMA", help="blur the map, in pixels (default 0)")
    parser.add_argument("--float32", action="store_true", help="the same code in single precision")
    parser.add_argument("-o", "--output", metavar="OUT.npy", help="the map, [H,W]")
    parser.add_argument("--nodes", metavar="DIR", help="cam_NAME.npy and g_NAME.npy of every node")
    parser.add_argument("--make-case", metavar="DIR",
                        help="write a test case of these classes, with every option and method")
    a = parser.parse_args()
    if len(a.classes) > 1 and not a.make_case:
        parser.error("one class at a time, but with --make-case")
    if a.steps < 1 or a.samples < 1 or not 0 <= a.seed < 2 ** 64:
        parser.error("--steps and --samples begin at 1, --seed is 0 to 2^64 - 1")
    try:
        x = read_input(a.input)
        if a.make_case:
            write_case(a.make_case, a.model, x, a.classes or [Network(a.model).run(x).ranked()])
            return
        network = Network(a.model, np.float32 if a.float32 else np.float64).run(x)
        t = a.classes[0] if a.classes else None
        nodes = {} if a.nodes else None
        options = [option for option in a.options.split(",") if option]
        difference = np.load(a.difference, allow_pickle=False) if a.difference else None
        heat = network.explain(t, a.method, options, difference, nodes, a.steps, a.samples, a.seed, a.layer,
                               a.against)
        if a.smooth:
            heat = smoothed(heat, a.smooth)
        if a.nodes:
            os.makedirs(a.nodes, exist_ok=True)
            for key, tensor in nodes.items():
                save(os.path.join(a.nodes, file_name(key) + ".npy"), tensor)
        if a.output:
            save(a.output, heat)
        order = [network.ranked(r) for r in range(min(5, len(network.logits)))]
        print("logits  " + "  ".join(f"{k}: {network.logits[k]:.6g}" for k in order))
        height, width = heat.shape
        print(f"map     {height}x{width}  sum {heat.sum():.9g}  min {heat.min():.9g}  max {heat.max():.9g}")
    except (OracleError, OSError, ValueError) as reason:
        print(f"oracle.py: {reason}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
