"""From a network as the oracle reads it to the converter's form, to alter it and write it again."""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from agf_convert import IMAGE, Node


def as_float32(array):
    return None if array is None else np.asarray(array, np.float32)


def converter_nodes(nodes):
    """The oracle's nodes as the converter's, every field, so that nothing is lost; weights are float32."""
    names = [IMAGE] + [node.name for node in nodes]
    return [Node(node.op, node.name, [names[i] for i in node.inputs], kernel=node.kernel, stride=node.stride, pad=node.pad,
                 dilation=node.dilation, groups=node.groups, flat=node.flat, ceil_mode=node.ceil,
                 count_include_pad=node.include_pad, weights=as_float32(node.w), bias=as_float32(node.b), kind=node.kind,
                 alpha=node.alpha, beta=node.beta, lo=node.lo, hi=node.hi, spatial=node.spatial, response=node.response,
                 eps=node.eps, size=node.size, k=node.k, start=node.channels[0], stop=node.channels[1], perm=node.perm,
                 border=node.border, to_size=node.to_size) for node in nodes]
