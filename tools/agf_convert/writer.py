"""From a Network to a model file."""
import struct
import zlib

import numpy as np

from . import files
from .errors import ConvertError
from .format import (CONVOLUTION, GROUPED, HEADER, INPUT, LARGEST, LINEAR, MAGIC, NODES, NODES_AT, TENSOR, VECTOR,
                     Strings, Tensor, align)
from .network import HEADS, IMAGE
from .ops import ACTIVATIONS, BORDERS, OPS


def version_of(network):
    """The first version of the format that can hold the network."""
    since_2 = network.affine is not None or network.head != "softmax" or any(
        node.op == "add" and len(node.inputs) > 2 or node.op == "maxpool" and max(node.dilation) > 1
        for node in network.nodes)
    return max([1 + since_2] + [OPS[node.op].version for node in network.nodes])


class ModelFile:
    """Lays a Network out as a model file and writes it. The bytes depend on the network and on f16 alone."""

    def __init__(self, network, f16=False) -> None:
        network.check()
        self.network, self.f16 = network, f16
        self.version = version_of(network)
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
        self.labels = [self.strings.offset(label) for label in network.labels]
        tables = NODES_AT + len(self.nodes) + 4 * len(self.edges) + TENSOR.size * len(self.tensors)
        self.header_bytes = align(tables + 4 * len(self.labels) + len(self.strings.data))
        self.file_bytes = self.header_bytes
        for tensor in self.tensors:
            tensor.offset = self.file_bytes
            self.file_bytes += align(tensor.bytes)

    def _input(self) -> bytes:
        network, p = self.network, self.network.preprocessing
        names = self.strings.offset(network.name), self.strings.offset(network.source)
        affine = [0, 0]
        if network.affine is not None:
            affine = [self._vector(f"the input's {what}", array)
                      for what, array in zip(("scale", "bias"), network.affine)]
        head = HEADS.index(network.head) << 8
        if p is None:
            return INPUT.pack(*network.input_shape, head, 0, 0, 0, *[0.0] * 9, *names, *affine)
        rest = [0.0] * (4 - network.input_shape[0])
        order, rule = ("rgb", "bgr").index(p.channels), ("stretch", "crop").index(p.resize)
        return INPUT.pack(*network.input_shape, 1 | head, order, rule, p.resize_to,
                          p.range, *p.mean, *rest, *p.std, *rest, *names, *affine)

    def _node(self, node, inputs) -> bytes:
        first_edge = len(self.edges)
        self.edges += inputs
        weights, bias = self._weights(node), 0
        if node.bias is not None:
            bias = self._vector(f"node {node.name}, bias", node.bias)
        flags = node.flat | node.ceil_mode << 1 | node.count_include_pad << 2
        outputs = {"conv": lambda: node.weights.shape[0], "linear": lambda: node.weights.shape[0],
                   "slice": lambda: node.stop - node.start}.get(node.op, lambda: 0)()
        dilation = node.dilation
        if node.op == "maxpool":
            dilation = (0, 0) if self.version == 1 else tuple(d or 1 for d in dilation)
        elif node.op != "conv":
            dilation = (0, 0)
        argument, parameters = self._parameters(node)
        if self.version == 1:
            parameters = []
        return NODES[self.version].pack(
            OPS[node.op].number, flags, self.strings.offset(node.name), first_edge, len(inputs), *node.kernel,
            *node.stride, *node.pad, *dilation, node.groups, outputs, weights, bias, argument, *parameters)

    @staticmethod
    def _parameters(node) -> tuple[int, list[float]]:
        """The argument and the four numbers of a node of version 2."""
        argument, numbers = 0, []
        if node.op == "act":
            argument, names, _ = ACTIVATIONS[node.kind]
            numbers = [min(max(float(getattr(node, name)), -LARGEST), LARGEST) for name in names]
        elif node.op == "norm":
            argument, numbers = 2 if node.response else int(node.spatial), [node.eps]
        elif node.op == "lrn":
            argument, numbers = node.size, [node.alpha, node.beta, node.k]
        elif node.op == "slice":
            argument = node.start
        elif node.op == "pad":
            argument = BORDERS.index(node.border)
        elif node.op == "resize":
            argument = int(node.to_size)
        return argument, numbers + [0.0] * (4 - len(numbers))

    def _weights(self, node) -> int:
        if node.op == "shuffle":
            return self._vector(f"node {node.name}, perm", np.array(node.perm, np.float32))
        if node.weights is None:
            return 0
        if node.op == "conv":
            layout = CONVOLUTION if node.groups == 1 else GROUPED
            return self._tensor(f"node {node.name}, weights", layout, node.weights.shape, node.weights)
        if node.op == "linear":
            dims = (len(node.weights),) + self.flattened[node.inputs[0]]
            return self._tensor(f"node {node.name}, weights", LINEAR, dims, node.weights)
        return self._vector(f"node {node.name}, scale", node.weights)

    def _vector(self, owner, array) -> int:
        array = np.asarray(array)
        return self._tensor(owner, VECTOR, (len(array), 1, 1, 1), array)

    def _tensor(self, owner, layout, dims, array) -> int:
        self.tensors.append(Tensor(owner, layout, tuple(dims), array, self.f16))
        return len(self.tensors)

    def write(self, path, inputs=(), check=None):
        """Write the file as files.replacing does; inputs: files that must not be overwritten.

        check: called with the path of the complete file before it takes its place (None: there is no such path); what
        it raises keeps the old file. ConvertError, or OSError of the system's.
        """
        try:
            with files.replacing(path, inputs) as f:
                self.write_to(f)
                f.flush()
                if check is not None:
                    check(getattr(f, "name", None))
        except files.OutputError as problem:
            raise ConvertError(str(problem)) from None

    def write_to(self, f):
        """Write to a binary file that can seek."""
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

    def _header(self, header_crc, data_crc) -> bytes:
        """Everything before the first tensor."""
        parts = [HEADER.pack(MAGIC, self.version, self.header_bytes, self.file_bytes, header_crc, data_crc,
                             len(self.network.nodes), len(self.edges), len(self.tensors), len(self.labels),
                             len(self.strings.data)),
                 self.input, self.nodes, struct.pack(f"<{len(self.edges)}I", *self.edges)]
        parts += [tensor.record() for tensor in self.tensors]
        parts += [struct.pack(f"<{len(self.labels)}I", *self.labels), bytes(self.strings.data)]
        return b"".join(parts).ljust(self.header_bytes, b"\0")
