#!/usr/bin/env python3
"""Make tests/golden-extra: small networks for what tests/golden lacks but the specification defines.

    make_extra.py             every case -> tests/golden-extra/CASE/
    make_extra.py CASE ...    these cases only
    make_extra.py --add METHOD,...    to every case of tests/golden and tests/golden-extra, as it is, what it lacks of
                              these methods' maps, also of one class against another

The networks are drawn from fixed seeds, their maps are tests/oracle.py's in float64. The same command gives the same
networks and images; the maps may differ in their last bits where NumPy's linear algebra does. A directory holds what
tests/make_golden.py describes, without node tensors (`oracle.py --nodes` writes them), and where it applies

    errors.txt        METHOD TARGET STATUS: there is no map, the engine answers with this agf_status
    label_free.txt    FILE TARGET REL_L2 DIFFERENCE: an AGF map by the label-free procedure, with the latent vectors'
                      difference in the .npy file DIFFERENCE; TARGET is the classifier's prediction for it
    layers.txt        FILE METHOD LAYER TARGET REL_L2: gradcam and its like at LAYER's output, for every layer that has
                      a height and width
    against.txt       FILE METHOD TARGET AGAINST STEPS REL_L2: one class against another

In methods.txt, STEPS is integrated_gradients' number of steps and smoothgrad's number of samples (its seed is 0).

A map is a fair test only where float32 rounding cannot decide a branch: a seed is taken if no pre-activation, no margin
of a maximum and no phi lies near 0 in the measure of its own float32 noise (see near_zero), in every forward pass that
a method makes, and if a float32 run of the oracle stays near its float64 run.
"""
import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]
import oracle                                                               # noqa: E402
from agf_convert import IMAGE, ModelFile, Network, Node                      # noqa: E402

NOISE_MARGIN = 30        # a branch is safe where its argument is this many times the float32 noise seen in its tensor
LARGEST_ERROR = 3e-5     # of a float32 map: beyond it a division near zero amplifies noise, and the test would be blunt
SEEDS = 400              # tried before giving up


class Builder:
    """Draws a network's weights; every method adds a node and returns its name."""

    def __init__(self, seed):
        self.random = np.random.RandomState(seed)
        self.nodes = []

    def add(self, op, inputs, **fields):
        name = f"{op}_{len(self.nodes) + 1}"
        self.nodes.append(Node(op, name, [inputs] if isinstance(inputs, str) else list(inputs), **fields))
        return name

    def normal(self, *shape, scale=1.0):
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def conv(self, x, i, o, k, s=1, p=0, d=1, g=1, bias=True):
        """k, s, d: a number or (height, width); p: a number, (height, width) or (top, left, bottom, right)."""
        kh, kw = pair(k)
        p = pair(p)
        w = self.normal(o, i // g, kh, kw, scale=(2 / (i // g * kh * kw)) ** 0.5)
        flat = (kh, kw) == (1, 1) or self.reads_sum(x)
        return self.add("conv", x, kernel=(kh, kw), stride=pair(s), pad=p if len(p) == 4 else p * 2, dilation=pair(d),
                        groups=g, flat=flat, weights=w, bias=self.normal(o, scale=0.2) if bias else None)

    def reads_sum(self, name):
        """Whether a tensor comes from an Add, through any ReLU, pool or BatchNorm: then a convolution of it is flat."""
        node = next((node for node in self.nodes if node.name == name), None)
        passing = ("relu", "relu6", "batchnorm", "maxpool", "avgpool", "adaptive_avgpool", "global_avgpool")
        return node is not None and (node.op == "add" or node.op in passing and self.reads_sum(node.inputs[0]))

    def batchnorm(self, x, c, gain=1.0):
        scale = self.random.uniform(0.5, 1.5, c) * np.where(self.random.rand(c) < 0.1, -gain, gain)
        return self.add("batchnorm", x, weights=scale.astype(np.float32), bias=self.normal(c, scale=0.2))

    def response_norm(self, x, c):
        return self.add("norm", x, groups=1, response=True, eps=1e-6, weights=self.normal(c, scale=0.5),
                        bias=self.normal(c, scale=0.2))

    def linear(self, x, i, o, bias=True):
        return self.add("linear", x, weights=self.normal(o, i, scale=(2 / i) ** 0.5),
                        bias=self.normal(o, scale=0.2) if bias else None)

    def relu(self, x):
        return self.add("relu", x)

    def conv_relu(self, *arguments, **fields):
        return self.relu(self.conv(*arguments, **fields))

    def conv_relu6(self, x, i, o, k, gain=1.0, **fields):
        return self.add("relu6", self.batchnorm(self.conv(x, i, o, k, bias=False, **fields), o, gain))

    def pool(self, op, x, k, s, p=0, ceil=False, include_pad=False):
        return self.add(op, x, kernel=pair(k), stride=pair(s), pad=pair(p) * 2, ceil_mode=ceil,
                        count_include_pad=include_pad)

    def adaptive(self, x, height, width):
        return self.add("adaptive_avgpool", x, kernel=(height, width))

    def flatten(self, x):
        return self.add("flatten", x)

    def head(self, x, c, classes):
        """Global average pool, flatten, linear."""
        return self.linear(self.flatten(self.add("global_avgpool", x)), c, classes)


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


# The cases: each builds its network and returns the image's shape. What it is for stands in its first line.

def relu6_inverted(b):
    """ReLU6 that saturates; inverted residuals with depthwise stride 2; an input larger than the nominal one."""
    x = b.conv_relu6(IMAGE, 3, 10, 3, s=2, p=1, gain=4)
    x = b.conv_relu6(b.conv_relu6(x, 10, 20, 1), 20, 20, 3, s=2, p=1, g=20, gain=3)
    x = b.batchnorm(b.conv(x, 20, 12, 1, bias=False), 12)
    y = b.conv_relu6(b.conv_relu6(x, 12, 24, 1), 24, 24, 3, p=1, g=24, gain=3)
    x = b.add("add", [x, b.batchnorm(b.conv(y, 24, 12, 1, bias=False), 12)])
    b.head(b.conv_relu6(x, 12, 18, 1), 18, 6)
    return 3, 17, 21


def adaptive_uneven(b):
    """Adaptive pools to sizes that do not divide, to more than there is, and to one row; 37 outputs."""
    x = b.adaptive(b.conv_relu(IMAGE, 3, 11, 3, p=1), 5, 8)
    x = b.adaptive(b.conv_relu(x, 11, 19, 3, p=1), 7, 5)
    x = b.adaptive(b.conv_relu(x, 19, 19, 3), 1, 2)
    b.linear(b.relu(b.linear(b.flatten(x), 38, 37)), 37, 5)
    return 3, 13, 11


def conv_logits(b):
    """A convolution whose kernel covers its input makes the logits."""
    x = b.pool("maxpool", b.conv_relu(IMAGE, 3, 9, 3), 2, 2)
    b.conv(b.conv_relu(x, 9, 14, 3, p=1), 14, 6, (5, 6))
    return 3, 12, 14


def pooled_conv_logits(b):
    """A 1x1 convolution behind a global average pool makes the logits."""
    x = b.conv_relu(b.conv_relu(IMAGE, 3, 8, 3, p=1), 8, 17, 3, s=2)
    b.conv(b.add("global_avgpool", x), 17, 4, 1)
    return 3, 12, 13


def avgpool_edges(b):
    """Average pools that leave padding out of the divisor, with ceil mode; with padding in it."""
    x = b.pool("avgpool", b.conv_relu(IMAGE, 3, 12, 3, p=1), 3, 2, 1, ceil=True)
    x = b.pool("avgpool", b.conv_relu(x, 12, 18, 3, p=1), (3, 2), (2, 3), (1, 0), ceil=True, include_pad=True)
    b.linear(b.flatten(b.conv_relu(x, 18, 10, 3, p=1)), 10 * 5 * 3, 5)
    return 3, 14, 15


def maxpool_edges(b):
    """Max pools with padding and ceil mode over negative values, stride beyond the kernel, a dropped window."""
    x = b.pool("maxpool", b.conv(IMAGE, 3, 12, 3, p=1), 3, 2, 1, ceil=True)
    x = b.pool("maxpool", b.conv(b.relu(x), 12, 17, 3, p=1), (2, 3), (3, 1), (1, 1), ceil=True)
    b.linear(b.flatten(b.conv_relu(x, 17, 9, 3, p=1)), 9 * 3 * 9, 5)
    return 3, 15, 16


def grouped_odd(b):
    """Groups of 5 and 7 channels, dilated; of 20 and 9, strided; depthwise with two outputs each."""
    x = b.conv_relu(IMAGE, 3, 15, 3, p=1)
    x = b.conv_relu(x, 15, 21, 3, p=2, d=2, g=3)
    x = b.conv_relu(x, 21, 40, 1)
    x = b.conv_relu(x, 40, 18, 3, s=2, p=(2, 1), d=(2, 1), g=2)
    b.head(b.conv_relu(x, 18, 36, 3, p=1, g=18), 36, 6)
    return 3, 12, 14


def grouped_silent(b):
    """Depthwise convolutions without bias, whose outputs are 0 where all that they read is: cam is 0 there, the
    gradient is not."""
    x = b.conv_relu(IMAGE, 3, 8, 3, p=1)
    x = b.conv(x, 8, 16, (1, 2), g=8, bias=False)
    b.head(b.conv(b.relu(x), 16, 32, (2, 1), g=16, bias=False), 32, 5)
    return 3, 11, 12


def asymmetric(b):
    """1x7 and 7x1 kernels, four different pads, strides of two sizes, rows of outputs that see nothing but padding."""
    x = b.conv_relu(IMAGE, 3, 10, (1, 7), p=(0, 3))
    x = b.conv_relu(x, 10, 12, (7, 1), p=(3, 0))
    x = b.conv_relu(x, 12, 13, (5, 3), s=(2, 1), p=(1, 0, 2, 1))
    x = b.conv_relu(x, 13, 12, (2, 4), d=(1, 2), p=(0, 3, 1, 2))
    b.head(b.conv_relu(x, 12, 11, 2, p=3), 11, 5)
    return 3, 12, 13


def long_strides(b):
    """Strides beyond the kernel, pixels that no output reads: 1x1 stride 2, on odd and even sizes; 2x2 stride 3."""
    x = b.conv_relu(IMAGE, 3, 12, 3, p=1)
    x = b.conv_relu(x, 12, 14, 1, s=2, p=1)
    x = b.conv_relu(x, 14, 14, 3, p=1)
    b.head(b.conv_relu(x, 14, 10, 2, s=3), 10, 5)
    return 3, 16, 19


def gray(b):
    """An image of one channel; a bottleneck of one channel."""
    x = b.conv_relu(IMAGE, 1, 9, 3, p=1)
    x = b.conv_relu(b.conv_relu(x, 9, 1, 3), 1, 6, 3)
    b.head(x, 6, 3)
    return 1, 12, 13


def image_readers(b):
    """The image read by a convolution, a max pool, an average pool and a ReLU; two classes."""
    readers = [b.conv_relu(IMAGE, 3, 5, 3, s=2, p=1), b.pool("maxpool", IMAGE, 3, 2, 1),
               b.pool("avgpool", IMAGE, 2, 2, ceil=True), b.pool("maxpool", b.relu(IMAGE), 2, 2, ceil=True)]
    b.head(b.conv_relu(b.add("concat", readers), 14, 12, 3, p=1), 12, 2)
    return 3, 13, 15


def image_batchnorm(b):
    """A BatchNorm reads the image, so that the first convolution does not."""
    x = b.conv_relu(b.batchnorm(IMAGE, 3), 3, 12, 3, p=1)
    b.head(b.conv_relu(x, 12, 9, 3), 9, 4)
    return 3, 12, 12


def linear_middle(b):
    """A hidden linear layer reads a flattened 1x1 tensor; another, without bias, a vector, with a BatchNorm between."""
    x = b.conv_relu(b.conv_relu(IMAGE, 3, 8, 3), 8, 19, 3)
    x = b.linear(b.flatten(b.add("global_avgpool", x)), 19, 20)
    x = b.linear(b.relu(b.batchnorm(x, 20)), 20, 18, bias=False)
    b.linear(b.relu(x), 18, 5)
    return 3, 11, 12


def concat_odd(b):
    """Concat of 5, 7 and 19 channels, of a concat, of a tensor with itself; a convolution of negative values."""
    x = b.conv_relu(IMAGE, 3, 5, 3, p=1)
    y = b.conv(x, 5, 7, 3, p=1)
    y = b.add("concat", [x, y, b.conv_relu(x, 5, 19, 1)])
    y = b.add("concat", [b.conv_relu(y, 31, 6, 3, p=1), y])
    y = b.conv_relu(y, 37, 11, 3, p=1)
    b.head(b.conv_relu(b.add("concat", [y, y]), 22, 33, 3), 33, 5)
    return 3, 11, 12


def concat_parts(b):
    """Inputs of Concats that fill blocks of 16 channels, or do not: convolutions of the image, BatchNorms, pools, a
    Concat of Concats, one that several read, and one in which a tensor stands twice."""
    x = b.relu(b.add("concat", [b.conv(IMAGE, 3, 16, 3, p=1), b.conv(IMAGE, 3, 16, 1)]))
    y = b.add("concat", [b.conv_relu(x, 32, 16, 3, p=1), b.conv_relu(x, 32, 5, 1)])
    z = b.add("concat", [b.batchnorm(b.conv(x, 32, 16, 1), 16), b.pool("maxpool", x, 3, 1, p=1), x, x])
    w = b.add("concat", [z, y, b.conv_relu(y, 21, 16, 3, p=1)])
    b.head(b.conv_relu(w, 149, 24, 3, p=1), 24, 5)
    return 3, 9, 10


def add_self(b):
    """A tensor added to itself; a flat 3x3 convolution, and another one behind a BatchNorm and a pool."""
    x = b.conv_relu(IMAGE, 3, 12, 3, p=1)
    x = b.add("add", [x, x])
    y = b.conv_relu(b.conv_relu(x, 12, 12, 3, p=1), 12, 12, 3, p=1)
    y = b.relu(b.add("add", [y, x]))
    y = b.conv_relu(b.pool("maxpool", b.batchnorm(y, 12), 2, 2), 12, 14, 3, p=1)
    b.head(y, 14, 5)
    return 3, 12, 14


def add_relu6(b):
    """ReLU6 behind Adds whose sums it clips: of two ReLUs, of a BatchNorm and a ReLU, of a tensor with itself."""
    x = b.conv_relu(IMAGE, 3, 12, 3, p=1)
    y = b.add("relu6", b.add("add", [b.relu(b.batchnorm(b.conv(x, 12, 12, 3, p=1), 12, gain=4)), x]))
    y = b.add("relu6", b.add("add", [b.batchnorm(b.conv(y, 12, 12, 1), 12, gain=3), y]))
    y = b.conv_relu(b.add("relu6", b.add("add", [y, y])), 12, 14, 3)
    b.head(b.conv_relu(y, 14, 12, 3), 12, 5)
    return 3, 12, 13


def cancelling(b):
    """Adds and average pools of tensors that may be negative: read by a convolution, by a ReLU and a max pool, by two
    ReLUs (which leaves the plain rule), one input the image; pools of a convolution, of an Add, before the logits."""
    x = b.add("add", [IMAGE, b.conv(IMAGE, 3, 3, 3, p=1)])
    x = b.batchnorm(b.conv(x, 3, 20, 3, p=1), 20)
    x = b.add("add", [b.conv(b.relu(x), 20, 20, 3, p=1), x])
    y = b.add("concat", [b.conv_relu(b.relu(x), 20, 6, 1), b.pool("maxpool", x, 3, 1, p=1)])
    y = b.add("add", [b.conv(y, 26, 20, 3, p=1), x])
    y = b.add("add", [b.relu(y), b.conv(b.add("relu6", y), 20, 20, 1)])
    y = b.pool("avgpool", y, (2, 3), (2, 2), p=(0, 1), include_pad=True)
    y = b.adaptive(b.conv(y, 20, 12, 3, p=1), 3, 4)
    b.add("global_avgpool", b.conv(b.relu(y), 12, 5, 1))
    return 3, 11, 13


def copies(b):
    """Copies of pixels: a reflected image, repeated borders before a depthwise convolution (a blur pool), pixels
    repeated, and resized to sizes that do not divide; read by sums and a product too."""
    x = b.add("pad", IMAGE, pad=(1, 2, 3, 0), border="reflect")
    x = b.conv_relu(x, 3, 18, 3, s=2)
    y = b.add("pad", x, pad=(1, 1, 2, 0), border="replicate")
    y = b.relu(b.batchnorm(b.conv(y, 18, 18, 3, s=2, g=18, bias=False), 18))
    y = b.add("resize", b.conv_relu(y, 18, 18, 1), kernel=(2, 2))
    x = b.add("add", [x, b.add("resize", y, kernel=(7, 6), to_size=True)])
    gate = b.add("act", b.add("resize", b.conv(b.pool("avgpool", x, 3, 3), 18, 18, 1), kernel=(7, 6), to_size=True), kind="sigmoid")
    x = b.conv_relu(b.add("mul", [x, gate]), 18, 12, 3, p=1)
    b.head(b.add("resize", x, kernel=(3, 11), to_size=True), 12, 5)
    return 3, 11, 11


def responses(b):
    """Global response norms behind a GELU, of 20 channels, and behind a ReLU that leaves channels of zeros, of 37."""
    x = b.add("act", b.conv(IMAGE, 3, 20, 3, s=2), kind="gelu")
    x = b.conv(b.response_norm(x, 20), 20, 37, 3, p=1)
    x = b.relu(b.batchnorm(x, 37, gain=0.3))
    x = b.conv_relu(b.response_norm(x, 37), 37, 14, 3)
    b.head(b.response_norm(x, 14), 14, 5)
    return 3, 15, 17


def against(b):
    """One channel behind the image: a class's attribution has one sign everywhere, also that of evidence against it."""
    b.head(b.conv_relu(IMAGE, 3, 1, 3), 1, 3)
    return 3, 8, 9


def pooled_logits(b):
    """Logits out of a global average pool, two classes; a fire module."""
    q = b.conv_relu(b.pool("maxpool", b.conv_relu(IMAGE, 3, 12, 3), 3, 2, ceil=True), 12, 6, 1)
    x = b.add("concat", [b.conv_relu(q, 6, 9, 1), b.conv_relu(q, 6, 9, 3, p=1)])
    b.add("global_avgpool", b.conv_relu(x, 18, 2, 1))
    return 3, 13, 14


def black_image(b):
    """An image of zeros: no AGF map has support."""
    b.head(b.conv_relu(b.conv_relu(IMAGE, 3, 8, 3, p=1), 8, 6, 3), 6, 4)
    return 3, 9, 10


def flat_image(b):
    """An image of one value: nothing in it differs, so the box rule has nothing to share."""
    x = b.conv_relu(b.conv_relu(IMAGE, 3, 8, 3, p=1), 8, 6, 3)
    b.head(x, 6, 4)
    return 3, 9, 10


def clips(b):
    """Sums behind and before clips: one with lo > 0 passes what a negative sum gets, so its sum may cancel, and what it
    makes is never negative; one with hi < 0 makes a tensor negative whatever it reads."""
    def clip(x, lo, hi):
        return b.add("act", x, kind="clip", lo=lo, hi=hi)

    x = b.conv_relu(IMAGE, 3, 6, 3, p=1)
    y = clip(b.add("add", [b.conv(x, 6, 6, 1), b.conv(x, 6, 6, 3, p=1)]), 0.5, 3.0)
    z = b.add("add", [y, clip(x, -1.5, -0.25)])
    x = b.add("add", [b.conv(z, 6, 6, 3, p=1), b.conv(y, 6, 6, 1)])
    b.head(b.conv_relu(clip(x, 0.0, 4.0), 6, 6, 3), 6, 4)
    return 3, 10, 9


def sure(b):
    """One logit above 100: the other classes' probabilities add up to less than what 1 - p can tell in float64."""
    b.head(b.conv_relu(b.conv_relu(IMAGE, 3, 8, 3, p=1), 8, 6, 3), 6, 4)
    b.nodes[-1].bias[3] = 110
    return 3, 9, 10


def background(b):
    """A scan: the least value all around, the greatest inside. Windows that see the least wherever a weight is above 0
    and the greatest wherever one is below have nothing to share, and their Z is nothing but rounding."""
    x = b.add("concat", [b.conv_relu(IMAGE, 2, 8, 1), b.conv_relu(IMAGE, 2, 8, 3, p=1, g=2)])
    b.head(b.conv_relu(x, 16, 6, 3), 6, 4)
    return 2, 11, 10


def one_class(b):
    """One logit: no seed."""
    b.head(b.conv_relu(IMAGE, 3, 8, 3, p=1), 8, 1)
    return 3, 9, 10


CASES = (relu6_inverted, adaptive_uneven, conv_logits, pooled_conv_logits, avgpool_edges, maxpool_edges, grouped_odd,
         grouped_silent, asymmetric, long_strides, gray, image_readers, image_batchnorm, linear_middle, concat_odd, concat_parts,
         add_self, add_relu6, cancelling, copies, responses, against, pooled_logits, clips, sure, background, black_image, flat_image,
         one_class)
F16 = ("grouped_odd", "asymmetric", "adaptive_uneven")              # written with f16 weights
GRADCAM_LAYERS = ("relu6_inverted", "concat_odd", "add_self")
LABEL_FREE = ("linear_middle", "pooled_logits", "conv_logits")
NOMINAL = {"relu6_inverted": (3, 14, 16)}                            # where the image is not of the nominal size
FLAT = {"black_image": 0, "flat_image": np.float32(0.3)}
BACKGROUND = np.float32([-0.4242, 1.7])                              # its values where nothing is, and at most
USE_THE_BOX_RULE = ("agf", "agf_a", "agf_lc", "lrp_a1b0", "lrp_a2b1", "clrp", "sglrp", "lrp_lc")
ERRORS = {**{name: [(method, 1, "AGF_ERR_NUMERIC") for method in USE_THE_BOX_RULE] for name in FLAT},
          "one_class": [("agf", 0, "AGF_ERR_UNSUPPORTED")]}


# What makes a seed a fair test

def near_zero(value, noise):
    """Whether float32 rounding might decide the sign of an element. An exact zero in both precisions is decided."""
    return bool(((np.abs(value) < NOISE_MARGIN * noise) & ~((value == 0) & (noise == 0))).any())


def unsafe_forward(exact, single):
    """Names a node whose branches float32 noise could decide, in one pass of both precisions; None: all safe."""
    for n, node in enumerate(exact.nodes):
        x, x32 = exact.values[node.inputs[0]], single.values[node.inputs[0]]
        noise = np.where((x == 0) & (x32 == 0), 0, np.abs(x32 - x).max())
        if node.op in ("relu", "relu6") and near_zero(x, noise):
            return node.name
        if node.op == "relu6" and near_zero(x - 6, noise + np.finfo(np.float32).eps):
            return node.name
        if node.op == "maxpool":
            counts = exact.values[n + 1].shape[1:]
            windows, windows32 = (np.stack([oracle.padded(node, node.kernel, t, *counts, -np.inf)[:, rows, columns]
                                            for _, _, rows, columns in oracle.taps(node, node.kernel, *counts)])
                                  for t in (x, x32))
            order = np.argsort(-windows, axis=0, kind="stable")
            first, second = (np.take_along_axis(windows, order[i:i + 1], 0) for i in (0, 1))
            first32, second32 = (np.take_along_axis(windows32, order[i:i + 1], 0) for i in (0, 1))
            tied = (first == second) & (first32 == second32)
            if (~tied & (first - second < NOISE_MARGIN * np.abs(x32 - x).max())).any():
                return node.name
    return None


def unsafe_phi(exact, single, t, options):
    """Names a convolution whose sets P and N float32 noise could change, for one map; None: there is none."""
    seen, seen32 = {}, {}
    exact.explain(t, options=options, nodes=seen)
    single.explain(t, options=options, nodes=seen32)
    for n, node in enumerate(exact.nodes):
        if node.op != "conv" or node.flat or 0 in node.inputs or "cam/" + node.name not in seen:
            continue
        C, C32 = (oracle.absolute_rule(network.nodes[n], network.values[node.inputs[0]], cams["cam/" + node.name])
                  for network, cams in ((exact, seen), (single, seen32)))
        noise = np.linalg.norm(C32 - C) / max(np.linalg.norm(C), np.finfo(float).tiny)
        if near_zero(C.mean(axis=0), max(noise, 2.0 ** -24) * np.abs(C).mean(axis=0)):
            return node.name
    return None


def unfair(exact, single, classes):
    """Why a network and its image are no fair test; None if they are."""
    x = exact.values[0]
    deviation = 0.15 * (x.max() - x.min())
    steps, samples = (oracle.CASE_STEPS[method] for method in ("integrated_gradients", "smoothgrad"))
    inputs = [x] + [x * (k + 0.5) / steps for k in range(steps)]
    inputs += [x + deviation * oracle.standard_normal(0, n, x.shape) for n in range(samples)]
    for shifted in inputs:
        node = unsafe_forward(exact.run(shifted), single.run(shifted))
        if node:
            return f"{node} is near a branch"
    exact.run(x), single.run(x)
    z = exact.logits
    if np.abs(np.diff(np.sort(z))).min() < 1e-3 * np.abs(z).max():
        return "two logits are close"
    for t in classes:
        for option in [()] + [(option,) for option in oracle.OPTIONS]:
            node = unsafe_phi(exact, single, t, option)
            if node:
                return f"{node}'s phi is near 0"
    return None


def errors_of(directory):
    for file, column in (("maps.txt", 2), ("methods.txt", 4), ("label_free.txt", 2), ("layers.txt", 4), ("against.txt", 5)):
        path = Path(directory) / file
        if path.exists():
            yield from (float(line.split()[column]) for line in path.read_text().splitlines())


def write_label_free(directory, exact, single):
    """The image's latent vector minus that of a neighbour: the same image, mirrored."""
    x = exact.values[0]
    other = oracle.Network(os.path.join(directory, os.path.basename(directory) + ".agf")).run(x[:, :, ::-1])
    difference = (exact.latent - other.latent).astype(np.float32)
    oracle.save(os.path.join(directory, "difference.npy"), difference.reshape(-1))
    t = int(np.argmax(oracle.forward(exact.nodes[-1], [difference.astype(np.float64)])))
    heat = exact.explain(difference=difference)
    oracle.save(os.path.join(directory, "heat_difference.npy"), heat)
    error = float(oracle.relative_error(single.explain(difference=difference), heat))
    oracle.write_text(os.path.join(directory, "label_free.txt"),
                      [f"heat_difference.npy {t} {error!r} difference.npy\n"])


def add_layers(directory, exact, single, methods, t):
    """gradcam, or its like, at every layer that it can look at, inside of what an engine may compute in one step too;
    at the end of layers.txt."""
    lines = []
    for method, node in ((method, node) for method in methods for node in exact.nodes):
        try:
            heat = exact.explain(t, method, layer=node.name)
        except oracle.OracleError:
            continue
        file = f"{method}_{t}_at_{node.name}.npy"
        oracle.save(os.path.join(directory, file), heat)
        error = oracle.relative_error(single.explain(t, method, layer=node.name), heat)
        lines.append(f"{file} {method} {node.name} {t} {error!r}\n")
    oracle.write_text(os.path.join(directory, "layers.txt"), lines, "a")


def complete(directory, methods):
    """What a case lacks of these methods' maps: of the classes that methods.txt has, of its first class against its
    second (by rank, where it has one), and at every layer where it has layers.txt."""
    directory = Path(directory)
    stored = directory / f"{directory.name}.agf"
    model = oracle.read_case(directory) if (directory / "case.json").exists() else stored
    image = np.load(directory / "input.npy")
    exact, single = (oracle.Network(of, dtype).run(image) for of, dtype in ((model, np.float64), (stored, np.float32)))

    def listed(name):
        path = directory / name
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    found = listed("methods.txt")
    if not found:
        return
    classes, made = list(dict.fromkeys(int(line[2]) for line in found)), {line[1] for line in found}
    for t in classes:
        oracle.add_methods(directory, exact, single, [m for m in methods if m not in made], t, largest=LARGEST_ERROR)
    t, others = classes[0], classes[1:] or [k for k in map(exact.ranked, range(2)) if k != classes[0]]
    made |= {"agf", *methods}   # methods of several images want branches that no noise decides: where the case has them
    steps = [m for m in oracle.CASE_STEPS if m not in {line[1] for line in found}]
    done = {line[1] for line in listed("against.txt")}
    wanted = [m for m in oracle.METHODS if m in made and m not in (*oracle.NOT_AGAINST, *steps, *done)]
    oracle.add_methods(directory, exact, single, wanted, t, others[0], LARGEST_ERROR)
    layered = listed("layers.txt")
    if layered:
        done = {line[1] for line in layered}
        wanted = [m for m in methods if m in oracle.TAKE_LAYER and m not in done]
        add_layers(directory, exact, single, wanted, int(layered[0][3]))
    print(f"{directory.name}: largest float32 error {max(errors_of(directory)):.1e}")


def make(build, out):
    """Write one case, with the first seed that makes a fair test."""
    name = build.__name__
    for seed in range(SEEDS):
        builder = Builder(seed)
        shape = build(builder)
        image = builder.normal(*shape) + np.float32(0.5)
        if name in FLAT:
            image[:] = FLAT[name]
        if build is background:
            image = np.clip(image, *BACKGROUND)
            image[:, :4] = BACKGROUND[0]
        network = Network(NOMINAL.get(name, shape), builder.nodes, name=name, source="tests/make_extra.py")
        if name == "one_class":
            network.check = lambda: None  # the converter refuses one output; the engine has to say so itself
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            directory = os.path.join(scratch, name)
            os.mkdir(directory)
            path = os.path.join(directory, f"{name}.agf")
            ModelFile(network, f16=name in F16).write(path)
            exact, single = (oracle.Network(path, dtype).run(image) for dtype in (np.float64, np.float32))
            classes = [] if name in ERRORS else [exact.ranked(0), exact.ranked(1)]
            try:
                reason = unfair(exact, single, classes) if classes else None
                if reason is None:
                    oracle.write_case(directory, path, image, classes, classes[:1], classes[:1], with_nodes=False)
                    if name in LABEL_FREE:
                        write_label_free(directory, exact, single)
                    if name in GRADCAM_LAYERS:
                        add_layers(directory, exact, single, oracle.TAKE_LAYER, classes[0])
            except oracle.OracleError as error:
                reason = str(error)
            worst = max(errors_of(directory), default=0)
            if reason is None and not worst <= LARGEST_ERROR:
                reason = f"float32 error {worst:.1e}"
            if reason:
                continue
            if name in ERRORS:
                lines = [f"{method} {t} {status}\n" for method, t, status in ERRORS[name]]
                oracle.write_text(os.path.join(directory, "errors.txt"), lines)
            shutil.rmtree(out / name, ignore_errors=True)
            os.rename(directory, out / name)
            print(f"{name}: seed {seed}, largest float32 error {worst:.1e}")
            return
    sys.exit(f"{name}: none of {SEEDS} seeds makes a fair test; the last one: {reason}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [build.__name__ for build in CASES]
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--add", metavar="METHOD,...", help="to the cases that there are, these methods' maps")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "golden-extra")
    a = parser.parse_args()
    unknown = set(a.cases) - set(names)
    if unknown and a.add is None:
        parser.error(f"no case {', '.join(sorted(unknown))}")
    if a.add is not None:
        unknown = set(a.add.split(",")) - set(oracle.METHODS)
        if unknown:
            parser.error(f"no method {', '.join(sorted(unknown))}")
        for root in ("golden", "golden-extra"):
            for name in (ROOT / "tests" / root / "cases.txt").read_text().split():
                if not a.cases or name in a.cases:
                    complete(ROOT / "tests" / root / name, a.add.split(","))
        return
    a.out.mkdir(parents=True, exist_ok=True)
    for build in CASES:
        if not a.cases or build.__name__ in a.cases:
            make(build, a.out)
    oracle.write_text(a.out / "cases.txt", [name + "\n" for name in names])


if __name__ == "__main__":
    main()
