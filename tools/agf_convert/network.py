"""The intermediate network: what every front end makes and the writer writes.

A Network is a list of Nodes in topological order, each an operation of ops.OPS; the last one makes the logits. Front
ends do not make Nodes themselves: builder.Builder does, from operations as frameworks know them.
"""
from dataclasses import dataclass, field
from typing import List, Optional, Tuple

import numpy as np

from .errors import ConvertError, describe
from .ops import MAX_CHANNELS, MAX_ELEMENTS, MAX_SIDE, OPS, OpError

IMAGE = "input"  # the name that a node's inputs use for the image; no node is called so

MAX_NODES = 1 << 12
MAX_EDGES = 1 << 20

HEADS = ("softmax", "sigmoid", "none")  # what makes probabilities of the logits


@dataclass
class Node:
    """One node. Only the fields that its op uses (ops.OPS[op].fields) are set; pairs are (height, width)."""
    op: str                                  # a key of ops.OPS
    name: str                                # unique; other nodes read this node's output by it
    inputs: List[str]
    kernel: Tuple[int, int] = (0, 0)         # adaptive_avgpool: the output's size; resize: see to_size
    stride: Tuple[int, int] = (0, 0)
    pad: Tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: Tuple[int, int] = (0, 0)       # pools: (0, 0) is (1, 1)
    groups: int = 0
    flat: bool = False                       # agf-spec: "Conv, flat"
    ceil_mode: bool = False
    count_include_pad: bool = False
    weights: Optional[np.ndarray] = None     # conv [O, I / groups, kh, kw], linear [O, I], batchnorm scale [C], norm
                                             # gamma [C], prelu slopes [C]
    bias: Optional[np.ndarray] = None        # conv and linear [O], batchnorm [C], norm beta [C]
    kind: str = ""                           # act: a key of ops.ACTIVATIONS
    alpha: float = 0.0                       # act, lrn
    beta: float = 0.0
    lo: float = -np.inf                      # clip
    hi: float = np.inf
    spatial: bool = False                    # norm
    response: bool = False                   # norm
    eps: float = 0.0
    size: int = 0                            # lrn
    k: float = 0.0
    start: int = 0                           # slice
    stop: int = 0
    perm: Tuple[int, ...] = ()               # shuffle
    border: str = "zeros"                    # pad
    to_size: bool = False                    # resize


@dataclass
class Preprocessing:
    """From an 8-bit picture to the tensor that the network takes: resize, then (value / 255 * range - mean) / std."""
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
    affine: Optional[Tuple[np.ndarray, np.ndarray]] = None  # scale and bias [C]: image = scale * tensor + bias
    head: str = "softmax"                    # one of HEADS
    notes: List[str] = field(default_factory=list)  # what the user should know about the conversion, a line each

    def shapes(self, size=None):
        """Output shapes of the image and of every node: {name: (C, H, W), or (N,) if flattened}.

        size: (height, width), default the nominal one. ConvertError names the node that does not fit, or that the
        engine would refuse.
        """
        image = (self.input_shape[0],) + tuple(size or self.input_shape[1:])
        if not (0 < image[0] <= MAX_CHANNELS and 0 < min(image[1:]) and max(image[1:]) <= MAX_SIDE):
            raise ConvertError(f"input {describe([image])}: the engine takes 1 to {MAX_CHANNELS} channels and sides of "
                               f"1 to {MAX_SIDE}")
        shapes = {IMAGE: image}
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
            if node.op == "linear" or all(origin[1:] == (1, 1) for origin in found):
                found = {shapes[node.name] + (1, 1)}
            elif not OPS[node.op].elementwise or len(found) != 1 or node.kind == "prelu":
                raise ConvertError(f"node {node.name} ({node.op}): reads the flattened {describe(sorted(found))}, "
                                   "which only a linear layer, an activation, a product or a sum can")
            origins[node.name] = found.pop()
        return origins

    def check(self):
        """The engine's rules that shapes() does not know: ConvertError where it would refuse the file."""
        if not self.nodes:
            raise ConvertError("the network has no nodes")
        shapes = self.shapes()
        last = self.nodes[-1]
        edges = sum(len(node.inputs) for node in self.nodes)
        for count, cap, what in ((len(self.nodes), MAX_NODES, "nodes"), (edges, MAX_EDGES, "inputs of nodes")):
            if count > cap:
                raise ConvertError(f"the network has {count} {what}; the engine takes {cap}")
        if last.op not in ("linear", "conv", "avgpool", "adaptive_avgpool", "global_avgpool"):
            raise ConvertError(f"node {last.name} ({last.op}) makes the output; AGF can start from a linear layer, a "
                               "convolution or an average pool (take the logits before it with --output)")
        shape = shapes[last.name]
        if any(size != 1 for size in shape[1:]):
            raise ConvertError(f"node {last.name} ({last.op}) makes an output of {describe([shape])}; one number per "
                               "class is needed, so this is no image classifier")
        if shape[0] < 2:
            raise ConvertError(f"node {last.name} ({last.op}) makes one output; AGF contrasts two classes or more")
        if self.labels and len(self.labels) != shape[0]:
            raise ConvertError(f"{len(self.labels)} labels for a network of {shape[0]} classes")
        for what, texts in (("the name", [self.name]), ("the source", [self.source]), ("the label", self.labels),
                            ("the node's name", [node.name for node in self.nodes])):
            for text in texts:
                check_text(what, text)
        if self.head not in HEADS:
            raise ConvertError(f"head {self.head!r}: one of {', '.join(HEADS)}")
        check_preprocessing(self)
        self.flattened(shapes)

    def forward(self, tensor, dtype=np.float32, keep=None):
        """The logits [K] for the tensor [C,H,W] that a user hands in: NumPy's, independent of the engine.

        keep: a dict that receives every node's output, beside IMAGE.
        """
        x = np.asarray(tensor, dtype)
        if self.affine is not None:
            scale, bias = (np.asarray(array, dtype)[:, None, None] for array in self.affine)
            x = x * scale + bias
        values = {IMAGE: x}
        last_reader = {name: i for i, node in enumerate(self.nodes) for name in node.inputs}
        with np.errstate(all="ignore"):
            for i, node in enumerate(self.nodes):
                values[node.name] = OPS[node.op].forward(node, [values[name] for name in node.inputs])
                if keep is None:
                    for name in set(node.inputs):
                        if last_reader[name] == i:
                            del values[name]
        if keep is not None:
            keep.update(values)
        return values[self.nodes[-1].name].ravel()


def output_shape(node, inputs):
    """Shape of a node's output for its inputs' shapes; ConvertError, without the node's name, if they do not fit."""
    op = OPS.get(node.op)
    if op is None:
        raise ConvertError(f"AGF has no rule for {node.op}")
    if not op.inputs[0] <= len(inputs) <= op.inputs[1]:
        raise ConvertError(f"{len(inputs)} inputs")
    try:
        shape = op.shape(node, [tuple(shape) for shape in inputs])
    except OpError as problem:
        raise ConvertError(str(problem)) from None
    if max(shape[1:], default=1) > MAX_SIDE or len(shape) == 3 and shape[0] > MAX_CHANNELS:
        raise ConvertError(f"its output {describe([shape])} is beyond the engine's {MAX_CHANNELS} channels and sides of "
                           f"{MAX_SIDE}")
    if int(np.prod(shape, dtype=object)) > MAX_ELEMENTS:
        raise ConvertError(f"its output {describe([shape])} has 2^31 elements or more")
    if node.op == "linear" and shape[0] > MAX_CHANNELS:
        raise ConvertError(f"{shape[0]} outputs; the engine takes {MAX_CHANNELS}")
    return shape


def check_text(what, text):
    """Refuse what the engine refuses in a string: control characters, which would reach terminals; and surrogates."""
    for character in text:
        if ord(character) < 32 or 127 <= ord(character) < 160 or 0xD800 <= ord(character) < 0xE000:
            raise ConvertError(f"{what} {text!r:.100} contains the character U+{ord(character):04X}, which a model file "
                               "cannot hold; remove it")


def check_preprocessing(network):
    p, channels = network.preprocessing, network.input_shape[0]
    if network.affine is not None:
        for what, values in zip(("scale", "bias"), network.affine):
            with np.errstate(over="ignore"):
                values = np.asarray(values, np.float32)
            if values.shape != (channels,) or not np.isfinite(values).all() or what == "scale" and not values.all():
                raise ConvertError(f"the {what} that the network applies to its input, {values}, is not one usable "
                                   f"number for each of {channels} channels")
    if p is None:
        return
    if channels not in (1, 3):
        raise ConvertError(f"an input of {channels} channels is no picture: leave out mean, std, range, channels, "
                           "resize; the file then takes tensors")
    for what, values in (("mean", p.mean), ("std", p.std)):
        if len(values) != channels:
            raise ConvertError(f"{len(values)} values of {what} for {channels} channels")
        with np.errstate(over="ignore", under="ignore"):
            stored = np.asarray(values, np.float64).astype(np.float32)
        if not np.isfinite(stored).all() or what == "std" and not (stored > 0).all():
            raise ConvertError(f"{what} {' '.join(f'{number:g}' for number in values)}: not a usable one (in 32 bits "
                               f"{' '.join(f'{number:g}' for number in stored)})")
    if not 0 <= p.resize_to <= MAX_SIDE:
        raise ConvertError(f"resize {p.resize}:{p.resize_to}: at most {MAX_SIDE} pixels")


def batchnorm_scale_bias(gamma, beta, mean, var, eps):
    """An inference BatchNorm as y = scale * x + bias: computed in double, rounded once."""
    gamma, beta, mean, var = (np.asarray(array, np.float64) for array in (gamma, beta, mean, var))
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + eps)
        return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)
