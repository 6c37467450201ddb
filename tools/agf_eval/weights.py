"""Randomised copies of a model file (agf_convert.format knows the layout)."""

import math
import zlib

import numpy as np
from agf_convert import format as layout


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
