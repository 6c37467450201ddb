#!/usr/bin/env python3
"""Networks drawn at random, through the engine, tests/oracle.py and, where it is installed, PyTorch.

    random_graphs.py                     15 seeds, always the same; with CI set 150 that no run before has drawn
    random_graphs.py --seed S --count N  the seeds S to S + N - 1
    random_graphs.py --seed S --count 1 --keep DIR    and keep its files, and print its nodes

A network is drawn from its seed alone, one for each version of model files: every op that the engine has, with
BatchNorms and activations behind everything, several readers of any tensor (the image too), tensors of one pixel and of
one channel, groups, dilation, padding of four sizes, and every kind of head; a quarter of them is altered (alter).
What is asked of each:

    maps      every method and option: off from the float64 oracle by at most 8 times what the oracle's own float32 run
              is off, plus 1e-5 (relative L2). One run may be a lucky one: for a map that misses, the largest error of
              that run and of several in which every operation is rounded at random (Noisy) counts. Where a gradient
              that the map is made of is 0 but for rounding (vanishes) no map is a wrong one
    errors    where the oracle has no map the engine has none; the same runs say where rounding decides that
    logits    likewise, and the oracle's against PyTorch's in float64, with the gradient of one logit
    bits      the same from every instruction set of this machine, 1, 2 and 3 threads, with and without low_memory, with
              several classes at once

What is not drawn, because what the rules say of it is a multiple of rounding in any arithmetic: normalisations over one
or two values (beta, or beta and +-gamma, whatever comes in: their gradient is 0 in exact arithmetic but for eps), and
clrp and sglrp of an image of one pixel (a - b * (a / b)).

The table MAKERS says what can be drawn, since which version of the model file; what the engine does not read yet is
checked against PyTorch alone.
"""
import argparse
import copy
import itertools
import os
import sys
import tempfile
import traceback
from collections import namedtuple
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]
import agf                                                         # noqa: E402
import agf_convert                                                 # noqa: E402
import harness                                                     # noqa: E402
import oracle                                                      # noqa: E402
from oracle import Network, Node, OracleError     # noqa: E402
from to_converter import as_float32, converter_nodes                # noqa: E402

try:
    import torch
    import torch.nn.functional as F
    torch.set_num_threads(1)   # small tensors
except ImportError:
    torch = None

IMAGE = 0
# Each image of these is a forward and a backward pass of the oracle.
SHORT = {"smoothgrad": dict(samples=3), "integrated_gradients": dict(steps=3)}
ALTERED = 0.25   # of all networks
ROUNDINGS = 8    # runs of the oracle with random rounding, for a map that misses
MOST_FAILURES = 10
CHANNELS = (1, 2, 3, 4, 5, 8, 13, 16, 17, 20, 33)
LARGEST = 3000   # elements of a tensor; the oracle's time is what limits the number of networks


# Drawing

class Graph:
    """A network being drawn. Tensors are numbered as in a model file: 0 the image, n + 1 the output of node n."""

    def __init__(self, random, version):
        self.random, self.version, self.nodes = random, version, []
        self.input, self.affine = self._input(), None
        image = self.input
        if version >= 2 and self.chance(0.2):
            c = len(image)
            self.affine = self.uniform(0.5, 2, c) * self.choose((1, 1, -1)), self.normal(c)
            image = self.affine[0][:, None, None] * image + self.affine[1][:, None, None]
        self.values = [image]   # of every tensor, in float64

    def _input(self):
        random = self.random
        channels = self.choose((1, 2, 3, 3, 3, 3, 4))
        height, width = ((1, 1) if self.chance(0.04) else random.randint(3, 15, 2))
        x = random.standard_normal((channels, height, width)) + self.choose((0, 0, 0.5, 2))
        if self.chance(0.2):   # ties in max pools, zeros, the even background of a scan
            x[:, height // 3:, :width // 2 + 1] = self.choose((0, 0.75, x.min(), x.max()))
        return x.astype(np.float32).astype(float)

    def chance(self, p):
        return self.random.rand() < p

    def choose(self, options):
        return options[self.random.randint(len(options))]

    def normal(self, *shape, scale=1.0):
        return (self.random.standard_normal(shape) * scale).astype(np.float32).astype(float)

    def uniform(self, lo, hi, n):
        return self.random.uniform(lo, hi, n).astype(np.float32).astype(float)

    def shape(self, tensor):
        return self.values[tensor].shape

    def channels(self, tensor):
        return len(self.values[tensor])

    def vector(self, tensor):
        return self.values[tensor].ndim == 1

    def add(self, op, inputs, **fields):
        """The tensor that a new node makes; None where that is too large, or nothing."""
        inputs = [inputs] if isinstance(inputs, int) else list(inputs)
        node = Node(op, f"{op}{len(self.nodes) + 1}", inputs, **fields)
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                value = oracle.forward(node, [self.values[i] for i in inputs])
            except OracleError:
                return None   # a window that does not fit
        if not 0 < value.size <= LARGEST or not np.abs(value).max() < 1e4:
            return None
        self.nodes.append(node)
        self.values.append(value)
        return len(self.nodes)

    def pick(self):
        """A tensor to go on from: mostly the newest, sometimes one that has a reader already, or the image."""
        spatial = [tensor for tensor in range(len(self.values)) if not self.vector(tensor)]
        return spatial[-1] if self.chance(0.6) else self.choose(spatial)

    def like(self, x, same_channels):
        """Tensors as high and wide as x, or flattened from such, x among them."""
        kept = slice(0 if same_channels else 1, None)
        return [y for y in range(len(self.values)) if self.vector(y) == self.vector(x)
                and self.shape(y)[kept] == self.shape(x)[kept]
                and (not self.vector(x) or flattened_shape(self, y)[1:] == flattened_shape(self, x)[1:])]


def conv(g, x, kernel=None, channels=None, groups=None):
    c, height, width = g.shape(x)
    drawn = tuple(int(k) for k in g.random.randint(1, 5, 2)) if g.chance(0.5) else (g.choose((1, 3, 3, 5)),) * 2
    kernel = kernel or drawn
    groups = groups or g.choose([1] * 5 + [k for k in range(2, c + 1) if c % k == 0])
    channels = channels or groups * max(1, g.choose(CHANNELS) // groups)
    pad = tuple(int(p) for p in g.random.randint(0, 4, 4)) if g.chance(0.3) else (kernel[0] // 2, kernel[1] // 2) * 2
    stride = tuple(int(s) for s in g.random.randint(1, 4, 2)) if g.chance(0.4) else (1, 1)
    dilation = tuple(int(d) for d in g.random.randint(1, 4, 2)) if g.chance(0.25) else (1, 1)
    w = g.normal(channels, c // groups, *kernel, scale=(2 / (c // groups * kernel[0] * kernel[1])) ** 0.5)
    if g.chance(0.1):
        w[g.random.rand(*w.shape) < 0.4] = 0
    flat = kernel == (1, 1) or comes_from_add(g, x)
    if g.chance(0.05):    # "A model file may carry its own flags"
        flat = not flat
    return g.add("conv", x, kernel=kernel, stride=stride, pad=pad, dilation=dilation, groups=groups, flat=flat, w=w,
                 b=g.normal(channels, scale=0.2) if g.chance(0.75) else None)


def comes_from_add(g, x):
    """"its input comes from an Add, through any activation, pool, normalisation or Dropout"."""
    while x != IMAGE and g.nodes[x - 1].op in PASSING:
        x = g.nodes[x - 1].inputs[0]
    return x != IMAGE and g.nodes[x - 1].op == "add"


PASSING = oracle.POOLS + ("relu", "relu6", "batchnorm", "act", "norm", "lrn")


def depthwise(g, x):
    return conv(g, x, groups=g.channels(x))


def pointwise(g, x):
    return conv(g, x, kernel=(1, 1), groups=1)


def sparse(g, x):
    """Most channels of x, 0 where they are not far above their mean: what a ReLU leaves of a trained network."""
    x = conv_to(g, x, g.choose((4, 6, 8, 17))) if g.channels(x) < 4 else x
    flat = g.values[x].reshape(g.channels(x), -1)
    w = 1 / np.maximum(flat.std(1), 1e-3)
    b = (g.uniform(-0.8, 0.4, len(w)) - flat.mean(1) * w).astype(np.float32).astype(float)
    return relu(g, g.add("batchnorm", x, w=w.astype(np.float32).astype(float), b=b))


def grouped_over_zeros(g, x):
    """A depthwise or grouped convolution without biases whose windows see nothing but zeros in many a channel, so that
    its output is 0 where its gradient is not, and what goes on from there without a ReLU."""
    x = sparse(g, x)
    c = g.channels(x)
    groups = g.choose([c, c] + [k for k in range(2, c) if c % k == 0])
    kernel = g.choose(((3, 3), (2, 2), (1, 3), (2, 1)))
    channels = c * g.choose((1, 1, 2)) if groups == c else c
    w = g.normal(channels, c // groups, *kernel, scale=(2 / (c // groups * kernel[0] * kernel[1])) ** 0.5)
    y = g.add("conv", x, kernel=kernel, stride=(1, 1), dilation=(1, 1), groups=groups, flat=comes_from_add(g, x), w=w,
              pad=tuple(int(p) for p in g.random.randint(0, 2, 4)))
    return g.choose((pointwise, pointwise, conv, window_pool("avgpool")))(g, y)


def batchnorm(g, x):
    c = g.channels(x)
    factor = np.where(g.random.rand(c) < 0.1, -1, 1) * g.choose((1, 1, 1, 4))   # powers of 2: exact in float32
    return g.add("batchnorm", x, w=g.uniform(0.5, 1.5, c) * factor, b=g.normal(c, scale=0.2))


def relu(g, x):
    return g.add("relu", x)


def relu6(g, x):
    return g.add("relu6", x)


def window_pool(op):
    def make(g, x):
        kernel = tuple(int(k) for k in g.random.randint(1, 5, 2)) if g.chance(0.4) else (g.choose((2, 3)),) * 2
        stride = tuple(int(s) for s in g.random.randint(1, 4, 2)) if g.chance(0.4) else (2, 2)
        pad = tuple(int(g.random.randint(0, kernel[i % 2])) for i in range(4)) if g.chance(0.4) else (0, 0, 0, 0)
        dilated = g.version >= 2 and op == "maxpool" and g.chance(0.2)
        return g.add(op, x, kernel=kernel, stride=stride, pad=pad, ceil=g.chance(0.4),
                     include_pad=op == "avgpool" and g.chance(0.5),
                     dilation=tuple(int(d) for d in g.random.randint(1, 4, 2)) if dilated else (0, 0))
    return make


def adaptive_avgpool(g, x):
    return g.add("adaptive_avgpool", x, kernel=tuple(int(n) for n in g.random.randint(1, 7, 2)))


def global_avgpool(g, x):
    return g.add("global_avgpool", x) if g.chance(0.7) else g.add("adaptive_avgpool", x, kernel=(1, 1))


def add(g, x):
    count = g.choose((2, 2, 3, 4)) if g.version >= 2 else 2
    others = g.like(x, same_channels=True)
    if others == [x] and not g.vector(x) and g.chance(0.7):
        y = conv(g, x, kernel=(3, 3), channels=g.channels(x), groups=1)   # a residual branch, where it keeps the size
        if y is not None and g.shape(y) == g.shape(x):
            others.append(y)
    inputs = [x] + [g.choose(others) for _ in range(count - 1)]
    g.random.shuffle(inputs)
    return g.add("add", inputs)


def capped_sum(g, x):
    """A sum that a ReLU6 cuts, here and there."""
    others = g.like(x, same_channels=True)
    y = g.choose(others) if others != [x] else conv(g, x, kernel=(3, 3), channels=g.channels(x), groups=1)
    if y is None or g.shape(y) != g.shape(x):
        y = x
    total = np.abs(g.values[x] + g.values[y])
    factor = 2.0 ** np.ceil(np.log2(6 / max(np.quantile(total, g.choose((0.5, 0.8))), 1e-3)))   # exact in float32
    c = g.channels(x)
    scaled = [g.add("batchnorm", t, w=np.full(c, factor), b=g.normal(c, scale=0.2)) for t in dict.fromkeys((x, y))]
    return relu6(g, g.add("add", (scaled * 2)[:2]))


def concat(g, x):
    inputs = [x] + [g.choose(g.like(x, same_channels=False)) for _ in range(g.choose((1, 1, 2, 3)))]
    g.random.shuffle(inputs)
    return g.add("concat", inputs)


def act(g, x, kinds=None):
    kind = g.choose(kinds or list(oracle.ACTIVATIONS))
    fields = {"leaky_relu": dict(alpha=g.choose((0.01, 0.2))), "elu": dict(alpha=g.choose((1.0, 0.7))),
              "hardsigmoid": dict(g.choose((dict(alpha=1 / 6, beta=0.5), dict(alpha=0.2, beta=0.5)))),
              "clip": dict(g.choose((dict(lo=0.0, hi=4.0), dict(lo=-0.8, hi=1.2), dict(lo=0.5, hi=3.0), dict(lo=-1.5, hi=-0.2)))),
              "prelu": dict(w=g.uniform(-0.2, 0.4, g.channels(x)))}.get(kind, {})
    return g.add("act", x, kind=kind, **fields)


def scale(g, x):
    """One factor a channel; -1, as a difference has it."""
    c = g.channels(x)
    return g.add("batchnorm", x, w=g.choose((-np.ones(c), g.uniform(0.2, 0.8, c))), b=np.zeros(c))


def sub(g, x):
    others = g.like(x, same_channels=True)
    y = g.choose(others)
    return g.add("add", [x, g.add("batchnorm", y, w=-np.ones(g.channels(y)), b=np.zeros(g.channels(y)))])


GATES = ("sigmoid", "hardsigmoid", "tanh")


def squeeze_excite(g, x):
    c, inner = g.channels(x), g.choose((1, 3, 6))
    s = global_avgpool(g, x)
    s = linear(g, g.add("flatten", s), inner) if g.chance(0.3) else conv_to(g, s, inner)
    return g.add("mul", [x, act(g, conv_to(g, act(g, s), c), GATES)])


def spatial_gate(g, x):
    return g.add("mul", [x, act(g, conv_to(g, x, 1), GATES)])


def product(g, x):
    y = g.choose(g.like(x, same_channels=True))
    return g.add("mul", [x, act(g, y, GATES) if g.chance(0.5) else y])


def norm(g, x):
    """Layer, group, instance or global response normalisation."""
    c = g.channels(x)
    spatial = not g.vector(x) and g.chance(0.5)
    groups = g.choose([k for k in range(1, c + 1) if c % k == 0]) if g.chance(0.5) else 1
    if (np.prod(g.shape(x)) if spatial else c) // groups < 3:
        return None   # of one or two values: beta, or beta and +-gamma, whatever comes in; the gradient is rounding
    kind = {"groups": groups, "spatial": spatial}
    if spatial and groups == 1 and g.chance(0.5):
        kind = {"groups": 1, "response": True}
    return g.add("norm", x, eps=1e-5, w=g.uniform(0.5, 1.5, c), b=g.normal(c, scale=0.2), **kind)


def lrn(g, x):
    return g.add("lrn", x, size=g.choose((1, 2, 3, 5)), alpha=g.choose((1e-4, 0.5)), beta=0.75, k=g.choose((1.0, 2.0)))


def channel_slice(g, x):
    c = g.channels(x)
    first = g.random.randint(c)
    y = g.add("slice", x, channels=(int(first), int(g.random.randint(first, c)) + 1))
    if g.chance(0.5) and first:
        return g.add("concat", [g.add("slice", x, channels=(0, int(first))), y])
    return y


def shuffle(g, x):
    c = g.channels(x)
    groups = g.choose([k for k in range(1, c + 1) if c % k == 0])
    perm = np.arange(c).reshape(groups, -1).T.reshape(-1) if g.chance(0.7) else g.random.permutation(c)
    return g.add("shuffle", x, perm=tuple(int(p) for p in perm))


def pad(g, x):
    border = g.choose(("zeros", "zeros", "reflect", "replicate"))
    sides = np.array(g.shape(x)[1:] * 2) if border == "reflect" else 3
    return g.add("pad", x, pad=tuple(int(p) for p in np.minimum(g.random.randint(0, 3, 4), sides - 1)), border=border)


def resize(g, x):
    sides = g.shape(x)[1:]
    if g.chance(0.5) and max(sides) <= 8:
        return g.add("resize", x, kernel=(int(g.random.randint(1, 3)), int(g.random.randint(1, 4))))
    return g.add("resize", x, kernel=tuple(int(g.random.randint(1, side + 4)) for side in sides), to_size=True)


def global_maxpool(g, x):
    return g.add("global_maxpool", x) if g.chance(0.5) else g.add("maxpool", x, kernel=g.shape(x)[1:], stride=(1, 1))


Maker = namedtuple("Maker", "make since weight")   # since: the version of the model file that has it

MAKERS = (
    Maker(conv, 1, 8), Maker(depthwise, 1, 2), Maker(pointwise, 1, 3), Maker(window_pool("maxpool"), 1, 2),
    Maker(window_pool("avgpool"), 1, 2), Maker(adaptive_avgpool, 1, 1), Maker(global_avgpool, 1, 0.3), Maker(add, 1, 4),
    Maker(capped_sum, 1, 1.5), Maker(grouped_over_zeros, 1, 2), Maker(concat, 1, 3), Maker(batchnorm, 1, 0.5),
    Maker(relu, 1, 0.5), Maker(relu6, 1, 0.5),
    Maker(act, 2, 4), Maker(scale, 2, 0.5), Maker(sub, 2, 1), Maker(squeeze_excite, 2, 3), Maker(spatial_gate, 2, 1),
    Maker(product, 2, 1.5), Maker(norm, 2, 3), Maker(lrn, 2, 1), Maker(channel_slice, 2, 1.5), Maker(shuffle, 2, 1.5),
    Maker(pad, 2, 1), Maker(resize, 2, 1), Maker(global_maxpool, 2, 0.3),
)

# What may stand behind a node, [C,H,W] or a vector
BEHIND = {
    1: ((), (), (), (relu,), (relu,), (relu,), (batchnorm,), (batchnorm, relu), (batchnorm, relu), (relu6,), (relu6,),
        (batchnorm, relu6), (relu, batchnorm), (relu6, batchnorm, relu), (batchnorm, batchnorm), (relu, relu6)),
    2: ((), (), (act,), (act,), (batchnorm, act), (batchnorm, act), (norm, act), (norm,), (relu,), (relu6,),
        (batchnorm, relu), (act, batchnorm), (act, act), (scale,)),
}


def behind(g, x):
    """x, or what BatchNorms and activations make of it."""
    if g.vector(x) and np.prod(flattened_shape(g, x)[1:]) > 1:
        # Of a flattened [C,H,W] tensor only what works element by element.
        smooth = g.version >= 2 and g.chance(0.5)
        if g.chance(0.3):
            x = act(g, x, [kind for kind in oracle.ACTIVATIONS if kind != "prelu"]) if smooth else relu(g, x)
        return x
    for make in g.choose(BEHIND[g.version]):
        x = make(g, x) or x
    return x


def flattened_shape(g, x):
    """[C, H, W] of the tensor that a vector is flattened from; [N, 1, 1] of a linear layer's output."""
    while g.vector(x) and agf_convert.OPS[g.nodes[x - 1].op].elementwise:
        x = g.nodes[x - 1].inputs[0]
    return (g.shape(x) + (1, 1))[:3]


# Heads: each makes K logits of the tensor x, [C,H,W]

def linear(g, x, outputs):
    n = g.channels(x)
    return g.add("linear", x, w=g.normal(outputs, n, scale=(2 / n) ** 0.5),
                 b=g.normal(outputs, scale=0.2) if g.chance(0.8) else None)


def flatten(g, x):
    y = g.add("flatten", x)
    return g.add("flatten", y) if g.chance(0.1) else y


def linear_head(g, x, k):
    """Flattened, with hidden layers, a sum or a concat of vectors between."""
    if np.prod(g.shape(x)) > 400:
        x = g.add("adaptive_avgpool", x, kernel=g.choose(((2, 2), (1, 3), (3, 2))))
    x = behind(g, flatten(g, x))
    for _ in range(g.choose((0, 1, 1, 2))):
        x = behind(g, linear(g, x, g.choose((1, 7, 12, 19, 40))))
        if g.chance(0.2):
            x = behind(g, add(g, x))
        elif g.chance(0.1):
            x = behind(g, g.add("concat", [x, linear(g, x, 5)]))
    linear(g, x, k)


def pooled_head(g, x, k):
    x = behind(g, global_avgpool(g, x))
    x = behind(g, flatten(g, x))
    if g.version >= 2 and g.chance(0.5):
        x = behind(g, linear(g, x, g.choose((1, 6, 17))))
    linear(g, x, k)


def conv_pool_head(g, x, k):
    conv_to(g, x, k)
    behind(g, len(g.nodes))
    global_avgpool(g, len(g.nodes))


def conv_to(g, x, k, kernel=(1, 1)):
    c = g.channels(x)
    w = g.normal(k, c, *kernel, scale=(2 / c / kernel[0] / kernel[1]) ** 0.5)
    return g.add("conv", x, kernel=kernel, stride=(1, 1), dilation=(1, 1), groups=1, w=w,
                 flat=kernel == (1, 1) or comes_from_add(g, x), b=g.normal(k, scale=0.2) if g.chance(0.8) else None)


def pool_conv_head(g, x, k):
    conv_to(g, behind(g, global_avgpool(g, x)), k)


def covering_conv_head(g, x, k):
    conv_to(g, x, k, g.shape(x)[1:])


def covering_pool_head(g, x, k):
    x = behind(g, conv_to(g, x, k))
    g.add("avgpool", x, kernel=g.shape(x)[1:], stride=(1, 1), pad=(0, 0, 0, 0), ceil=False, include_pad=False)


HEADS = (linear_head, linear_head, linear_head, pooled_head, pooled_head, conv_pool_head, pool_conv_head,
         covering_conv_head, covering_pool_head)


def draw(seed, version):
    """The Graph of a seed, with makers since that version of the model file."""
    for attempt in itertools.count():
        g = Graph(np.random.RandomState([seed % 2 ** 32, attempt]), version)
        classes = g.choose((2, 2, 3, 5, 7, 7, 35))
        try:
            grow(g)
            g.choose(HEADS)(g, max(x for x in range(len(g.values)) if not g.vector(x)), classes)
        except TypeError:   # None in place of a tensor: a node that a maker builds on, or the head, was too large
            continue
        if g.nodes and g.values[-1].size == classes and g.nodes[-1].op in LAST:
            return g


LAST = ("linear", "conv", "avgpool", "adaptive_avgpool", "global_avgpool")


def grow(g):
    makers = [maker for maker in MAKERS if maker.since <= g.version]
    weights = np.array([maker.weight for maker in makers], float)
    if g.chance(0.15):
        behind(g, IMAGE)
    for _ in range(g.random.randint(2, 9)):
        maker = makers[g.random.choice(len(makers), p=weights / weights.sum())]
        x = maker.make(g, g.pick())
        if x is not None:
            behind(g, x)


def inserted(g, x, y):
    """A node that reads the tensor x, and perhaps y, and mostly keeps their shape: of any op, whether it can or not."""
    c = g.channels(x)
    makers = [("relu", {}), ("flatten", {}), ("pad", dict(pad=(1, 0, 0, 1))), ("pad", dict(pad=(0, 0, 0, 0))),
              ("slice", dict(channels=(0, c))), ("slice", dict(channels=(0, max(1, c - 1)))), ("concat", {}),
              ("shuffle", dict(perm=tuple(range(c))[::-1])), ("lrn", dict(size=3, alpha=0.5, beta=0.75, k=1.0)),
              ("batchnorm", dict(w=g.uniform(0.5, 1.5, c), b=g.normal(c, scale=0.2))), ("resize", dict(kernel=(1, 1))),
              ("adaptive_avgpool", dict(kernel=(1, 1))), ("global_maxpool", {}), ("act", dict(kind="silu")),
              ("act", dict(kind="prelu", w=g.uniform(-0.2, 0.4, c))),
              ("conv", dict(kernel=(1, 1), stride=(1, 1), dilation=(1, 1), groups=1, flat=True, w=g.normal(c, c, 1, 1))),
              ("linear", dict(w=g.normal(c, c, scale=c ** -0.5)))] + [("add", {}), ("mul", {})] * 3
    op, fields = g.choose([(op, fields) for op, fields in makers if agf_convert.OPS[op].version <= g.version])
    return Node(op, "inserted", [x, y] if op in ("add", "mul", "concat") else [x], **fields)


def alter(g):
    """Change the graph in one place as no maker would: a node reads another tensor, flattened or not, or one through a
    node that may stand nowhere in such a network. What the converter takes of it engine and oracle must take."""
    for _ in range(20):
        nodes = [copy.copy(node) for node in g.nodes]
        at = g.random.randint(len(nodes))
        node = nodes[at]
        node.inputs = list(node.inputs)
        slot = g.random.randint(len(node.inputs))
        if g.chance(0.5):
            node.inputs[slot] = int(g.random.randint(at + 1))
        else:
            new = inserted(g, node.inputs[slot], int(g.random.randint(at + 1)))
            node.inputs[slot] = at + 1
            for later in nodes[at + 1:]:
                later.inputs = [i + (i > at) for i in later.inputs]
            nodes.insert(at, new)
        try:
            network_of(g, nodes, g.input.shape).check()
        except agf_convert.ConvertError:
            continue
        values = g.values[:1]
        with np.errstate(over="ignore", invalid="ignore"):
            for node in nodes:
                values.append(oracle.forward(node, [values[i] for i in node.inputs]))
        if all(value.size <= LARGEST and np.abs(value).max() < 1e4 for value in values):
            g.nodes, g.values = nodes, values
            return


def network_of(g, nodes, shape):
    """The converter's form of nodes that read g's image, of that nominal shape."""
    affine = None if g.affine is None else tuple(as_float32(t) for t in g.affine)
    return agf_convert.Network(shape, converter_nodes(nodes), name="random", affine=affine)


def write(g, path, f16):
    """The graph as a model file, now and then of another nominal size than the image's, where its ops allow it."""
    shape = g.input.shape
    if g.chance(0.3):
        other = network_of(g, g.nodes, (shape[0], shape[1] + 2, shape[2] + 1))
        try:
            return agf_convert.ModelFile(other, f16=f16).write(path)
        except agf_convert.ConvertError:
            pass
    agf_convert.ModelFile(network_of(g, g.nodes, shape), f16=f16).write(path)


def check_file(g, network, f16):
    """The oracle has read what was drawn: numbers as a file holds them, weights too but for f16."""
    for drawn, read in zip(g.nodes, network.nodes, strict=True):
        for key, value in vars(drawn).items():
            found = getattr(read, key)
            if key == "dilation":
                same = oracle.dilation_of(drawn) == oracle.dilation_of(read)
            elif key in ("w", "b"):
                same = f16 or (value is None) == (found is None) and (value is None or np.array_equal(value, found))
            else:
                same = np.float32(value) == found if isinstance(value, float) else value == found
            if not same and key != "cancels":   # which only the oracle's network knows
                raise Failure(f"{drawn.name}: {key} {value} was written, {found} read")


# PyTorch: another forward pass, and its gradient

def torch_windows(node, size, axis):
    """How many windows a pool has along an axis, and the padding that makes all of them whole."""
    kernel = max(1, node.dilation[axis]) * (node.kernel[axis] - 1) + 1
    before, after, stride = node.pad[axis], node.pad[2 + axis], node.stride[axis]
    starts = range(0, size + before + after - kernel + 1 + (stride - 1 if node.ceil else 0), stride)
    starts = [start for start in starts if not node.ceil or start < size + before]
    return before, max(after, starts[-1] + kernel - size - before), len(starts)


def torch_pool(node, x):
    top, bottom, rows = torch_windows(node, x.shape[2], 0)
    left, right, columns = torch_windows(node, x.shape[3], 1)
    pad = left, right, top, bottom
    if node.op == "maxpool":
        dilation = tuple(max(1, d) for d in node.dilation)
        y = F.max_pool2d(F.pad(x, pad, value=-torch.inf), node.kernel, node.stride, dilation=dilation)
    else:
        y = F.avg_pool2d(F.pad(x, pad), node.kernel, node.stride)
        if not node.include_pad:
            y = y / F.avg_pool2d(F.pad(torch.ones_like(x), pad), node.kernel, node.stride)
    return y[:, :, :rows, :columns]


def torch_conv(node, x):
    top, left, bottom, right = node.pad
    x = F.pad(x.reshape((*x.shape, 1, 1)[:4]), (left, right, top, bottom))   # of a vector too
    return F.conv2d(x, tensor(node.w), tensor(node.b), stride=node.stride, dilation=node.dilation, groups=node.groups)


def torch_batchnorm(node, x):
    zeros = torch.zeros(len(node.w), dtype=torch.float64)
    return F.batch_norm(x, zeros, zeros + 1, tensor(node.w), tensor(node.b), eps=0)


def tensor(array):
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array, np.float64))


TORCH = {
    "conv": torch_conv, "batchnorm": torch_batchnorm, "maxpool": torch_pool, "avgpool": torch_pool,
    "relu": lambda n, x: F.relu(x), "relu6": lambda n, x: F.relu6(x),
    "adaptive_avgpool": lambda n, x: F.adaptive_avg_pool2d(x, n.kernel),
    "global_avgpool": lambda n, x: x.mean((2, 3), keepdim=True),
    "global_maxpool": lambda n, x: F.max_pool2d(x, x.shape[2:]),
    "linear": lambda n, x: F.linear(x, tensor(n.w), tensor(n.b)), "flatten": lambda n, x: x.flatten(1),
    "add": lambda n, *xs: torch.stack(xs).sum(0), "concat": lambda n, *xs: torch.cat(xs, 1),
    "act": lambda n, x: TORCH_ACTIVATIONS[n.kind](n, x),
    "mul": lambda n, x, s: x * (s if s.ndim == x.ndim else s[:, :, None, None]),
    "norm": lambda n, x: torch_norm(n, x),
    "lrn": lambda n, x: F.local_response_norm(x, n.size, n.alpha, n.beta, n.k),
    "slice": lambda n, x: x[:, n.channels[0]:n.channels[1]], "shuffle": lambda n, x: x[:, list(n.perm)],
    "pad": lambda n, x: F.pad(x, (n.pad[1], n.pad[3], n.pad[0], n.pad[2]), {"zeros": "constant"}.get(n.border, n.border)),
    "resize": lambda n, x: F.interpolate(x, n.kernel if n.to_size else None, None if n.to_size else n.kernel, "nearest"),
}

# hardtanh, not clamp: its slope is 0 at both ends, as the specification has it. softplus: PyTorch's own threshold, 20,
# leaves out 2e-9.
TORCH_ACTIVATIONS = {
    "leaky_relu": lambda n, x: F.leaky_relu(x, n.alpha), "prelu": lambda n, x: F.prelu(x, tensor(n.w)),
    "elu": lambda n, x: F.elu(x, n.alpha), "silu": lambda n, x: F.silu(x),
    "hardswish": lambda n, x: x * F.hardtanh(x / 6 + 0.5, 0.0, 1.0), "gelu": lambda n, x: F.gelu(x),
    "gelu_tanh": lambda n, x: F.gelu(x, approximate="tanh"), "mish": lambda n, x: F.mish(x),
    "sigmoid": lambda n, x: torch.sigmoid(x), "hardsigmoid": lambda n, x: F.hardtanh(n.alpha * x + n.beta, 0.0, 1.0),
    "tanh": lambda n, x: torch.tanh(x), "softplus": lambda n, x: F.softplus(x, threshold=40),
    "clip": lambda n, x: F.hardtanh(x, n.lo, n.hi),
}


def torch_norm(node, x):
    if node.response:
        length = x.norm(p=2, dim=(2, 3), keepdim=True)
        weight, bias = (tensor(array).reshape(1, -1, 1, 1) for array in (node.w, node.b))
        return x + bias + weight * x * (length / (length.mean(1, keepdim=True) + node.eps))
    if node.spatial:
        return torch.group_norm(x, node.groups, tensor(node.w), tensor(node.b), node.eps)
    grouped = x.reshape(1, node.groups, x.shape[1] // node.groups, -1)
    mean, var = grouped.mean(2, keepdim=True), grouped.var(2, keepdim=True, correction=0)
    y = ((grouped - mean) / torch.sqrt(var + node.eps)).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return y * tensor(node.w).reshape(shape) + tensor(node.b).reshape(shape)


def torch_logits(nodes, image):
    values = [tensor(image)[None]]
    for node in nodes:
        values.append(TORCH[node.op](node, *[values[i] for i in node.inputs]))
    return values[-1].flatten().numpy()


def torch_gradient(nodes, exact, t):
    """The gradient of logit t in the image, by PyTorch, where the tensors are what the oracle computed: which of two
    values that are equal but for rounding is a window's maximum the order of a sum decides."""
    values = [tensor(exact[0])[None].requires_grad_()]
    for node, value in zip(nodes, exact[1:], strict=True):
        y = TORCH[node.op](node, *[values[i] for i in node.inputs])
        values.append(tensor(value).reshape(y.shape) + (y - y.detach()))
    gradient, = torch.autograd.grad(values[-1].flatten()[t], values[0], allow_unused=True)
    return np.zeros_like(exact[0]) if gradient is None else gradient[0].numpy()


# Checking

class Failure(Exception):
    """What went wrong with a network, in one line."""


def requests_of(g, exact):
    """What is asked of a network: dicts of Network.explain's arguments."""
    best, other = exact.ranked(0), g.random.randint(len(exact.logits))
    asked = [dict(t=best, method=method, **SHORT.get(method, {})) for method in oracle.METHODS]
    if g.input[0].size == 1:   # of one pixel these two are a - b * (a / b)
        asked = [request for request in asked if request["method"] not in ("clrp", "sglrp")]
    asked += [dict(t=best, method="agf", options=(option,)) for option in oracle.OPTIONS]
    asked.append(dict(t=other, method="agf_a", options=("no_a",)))
    more = g.random.choice([request["method"] for request in asked if "options" not in request], 4, replace=False)
    asked += [dict(t=other, method=str(method), **SHORT.get(method, {})) for method in more]
    options = tuple(option for option in oracle.OPTIONS if g.chance(0.4))
    asked.append(dict(t=other, method=g.choose(("agf", "agf_lc")), options=options))
    layers = [node.name for node, value in zip(g.nodes, g.values[1:]) if value.ndim == 3]
    asked += [dict(t=other, method=method, layer=g.choose(layers)) for method in oracle.TAKE_LAYER]
    difference = g.normal(exact.latent.size).astype(np.float32)
    asked.append(dict(t=other, method=g.choose(("agf", "agf_a")), difference=difference))
    for method in oracle.METHODS:
        if method not in oracle.NOT_AGAINST and len(exact.logits) > 1:
            asked.append(dict(t=best, method=method, against=exact.ranked(1), **SHORT.get(method, {})))
    if len(exact.logits) > 1:
        against = exact.ranked(0 if exact.ranked(0) != other else 1)
        asked.append(dict(t=other, method=g.choose(("agf", "agf_a")), difference=difference, against=against))
        asked.append(dict(t=other, method=g.choose(oracle.TAKE_LAYER), layer=g.choose(layers), against=against))
    # 0.1: a Gaussian of one pixel; 5: wider than most of these images
    asked.append(dict(asked[g.random.randint(len(asked))], smooth=g.choose((0.1, 0.7, 2.0, 5.0))))
    return asked


def engine_map(session, request):
    """The engine's answer to a request: the map, or the status that stands in its place."""
    arguments = {key: value for key, value in request.items() if key not in ("t", "options", "smooth")}
    arguments.update(dict.fromkeys(request.get("options", ()), True))
    try:
        heat = session.explain(int(request["t"]), **arguments)[0]
        return agf.smooth_map(heat, request["smooth"]) if "smooth" in request else heat
    except agf.Error as problem:
        return problem


def oracle_map(network, request):
    try:
        heat = network.explain(**{key: value for key, value in request.items() if key != "smooth"})
        if "smooth" in request:
            heat = oracle.smoothed(heat, request["smooth"])
    except OracleError as problem:
        return problem
    # what is not finite is an error (agf-spec, "At the end"); a raw map may overflow in float32
    return heat if np.isfinite(heat).all() else OracleError("the map is not finite")


def distance(found, expected):
    """L2 error relative to the larger of the two, at most 2: where a map is nothing but rounding (clrp of two classes
    that share all evidence) no multiple of it is a measure. Infinite where one is a map and the other none."""
    if isinstance(found, Exception) or isinstance(expected, Exception):
        return 0.0 if isinstance(found, Exception) and isinstance(expected, Exception) else np.inf
    size = max(np.linalg.norm(found.astype(float)), np.linalg.norm(expected))
    return np.linalg.norm(found.astype(float) - expected) / size if size else 0.0


def describe(request):
    words = [request["method"], f"class {request['t']}", *request.get("options", ())]
    words += [f"{key} {request[key]}" for key in ("against", "layer", "smooth") if key in request]
    return " ".join(words + (["label-free"] if "difference" in request else []))


class Noisy(np.ndarray):
    """An array of float32 whose every operation rounds once more, at random: the Monte Carlo arithmetic of Parker
    (1997), the CESTAC method of Vignes (1993), whose spread estimates how far a correct float32 program may be off. A
    number that is odd in its last bit becomes one of its two neighbours. Which one depends on its size and on the run
    alone: equal numbers stay equal, opposite ones opposite, and what needs no rounding (a maximum, a copy, a factor of
    -1 or 2) leaves even numbers even, so ties are ties and what cancels exactly still does. Sums of many terms depend
    on their order: even ones become one of their even neighbours, or the mean of equal numbers would be known to be
    exact, and with it what a normalisation makes of them. The matrices of average pools are no weights, so no Noisy:
    the terms of their sums are rounded by their place (in_order), for the mean of three equal numbers need not be that
    of six, nor a + b + c what c + b + a is."""

    run = 0

    def __array_finalize__(self, source):
        self.run = getattr(source, "run", self.run)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if ufunc is np.matmul:
            inputs = [x if isinstance(x, Noisy) or x.ndim < 2 else in_order(x, axis, self.run)
                      for x, axis in zip(inputs, (-1, -2))]
        inputs = [np.asarray(x) if isinstance(x, Noisy) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(map(np.asarray, out))
        result = getattr(ufunc, method)(*inputs, **options)
        if result is None or result.dtype != np.float32:   # ufunc.at works in place; comparisons
            return result
        summed = ufunc is np.matmul or ufunc is np.add and method == "reduce"
        if out is None:
            return noisy(result, self.run, summed)
        result[...] = noisy(result, self.run, summed)
        return out[0]

    def __array_function__(self, function, types, arguments, options):
        result = super().__array_function__(function, types, arguments, options)
        return noisy(result, self.run) if type(result) is np.ndarray and result.dtype == np.float32 else result


def noisy(t, run, summed=False):
    bits = np.asarray(t, np.float32, order="C").view(np.uint32)
    size = bits & np.uint32(0x7fffffff)
    with np.errstate(over="ignore"):   # of scalars: an integer hash is taken modulo 2^32
        up = (size * np.uint32(2654435761) + np.uint32(run * 0x9e3779b9 % 2 ** 32)) * np.uint32(2246822519)
        up = (up ^ up >> np.uint32(15)) * np.uint32(3266489917) >> np.uint32(31)
        if summed:
            size = np.where((size % 2 == 0) & (size > 2) & (size < 0x7f000000), size + 4 * up - 2, size)
    rounded = (size + (size & up) & np.uint32(0x7ffffffe)) | bits & np.uint32(0x80000000)
    result = np.asarray(np.where(size < 0x7f800000, rounded, bits)).view(np.float32).view(Noisy)
    result.run = run
    return result


def in_order(matrix, axis, run):
    """A factor of a product whose sums run over this axis: a term of several is rounded at random by its place among
    those that are not 0."""
    there = matrix != 0
    place, terms = there.cumsum(axis), there.sum(axis, keepdims=True)
    up = np.random.default_rng(run).integers(0, 2, 1 + place.max())[place]
    return np.where(terms > 1, matrix * (1 + (2 * up - 1) * 2.0 ** -22), matrix).astype(matrix.dtype)


class Rounded(Network):
    """The oracle in float32 where the weights, the image and all that is computed of them are Noisy."""

    def __init__(self, model, run):
        super().__init__(model, np.float32)
        self.run_number = run
        for node in self.nodes:
            node.w, node.b = (None if t is None else noisy(t, run) for t in (node.w, node.b))

    def activations(self, x):
        return super().activations(noisy(x, self.run_number))


def vanishes(network, request):
    """Whether a gradient on the way of a map is 0 but for float64's rounding (the mean behind an instance
    normalisation does not depend on what is normalised): a map that is scaled to its largest value is then a multiple
    of whatever rounding leaves, and may have any sign."""
    seen = {}
    try:
        network.explain(**{key: value for key, value in request.items() if key != "smooth"}, nodes=seen)
    except OracleError:
        return False
    sizes = [np.abs(g).max() for key, g in seen.items() if key.startswith("g/")]
    return any(0 < size < 1e-12 * max(sizes) for size in sizes)


def rounded_runs(model, image):
    runs = [Rounded(model, run).run(image) for run in range(1, 1 + ROUNDINGS)]
    for node, value in zip(runs[0].nodes, runs[0].values[1:], strict=True):
        if not isinstance(value, Noisy):   # what is made of it would not be rounded, and the limit too low
            raise Failure(f"{node.name}: the oracle's {node.op} loses the random rounding")
    return runs


def check_flat(g):
    """The converter marks the convolutions that the specification calls flat."""
    marked = copy.deepcopy(network_of(g, g.nodes, g.input.shape).nodes)
    agf_convert.mark_flat(marked)
    for drawn, node in zip(g.nodes, marked, strict=True):
        flat = drawn.op == "conv" and (drawn.kernel == (1, 1) or comes_from_add(g, drawn.inputs[0]))
        if node.flat != flat:
            raise Failure(f"{node.name}: flat is {flat}, the converter says {node.flat}")


def check_torch(exact, model, image):
    if torch is None:
        return
    t = exact.ranked(0)
    logits, gradient = torch_logits(exact.nodes, exact.values[0]), torch_gradient(exact.nodes, exact.values, t)
    # Two float64 orders of sums of at most a few thousand terms; a hundred times what was seen. PyTorch's GELU adds 1
    # and a tanh, which far below 0 leaves a rounding in proportion to its input. A gradient may vanish (an instance
    # normalisation's mean does not depend on the image) where those that it is made of do not: rounding is in
    # proportion to them.
    gradients, largest = exact.gradients(exact.values, t), max(np.abs(value).max() for value in exact.values)
    for name, found, of, limit in (
            ("logits", logits, lambda network: network.logits, 1e-11 * np.linalg.norm(logits) + 1e-15 * largest),
            (f"gradient of logit {t}", gradient, lambda network: network.gradients(network.values, t)[IMAGE],
             1e-11 * max(np.linalg.norm(g) for g in gradients.values()))):
        error = np.linalg.norm(of(exact) - found)
        if not error <= limit:   # rounding may count for more in this network: float32's is 2^29 times float64's
            spread = max(np.linalg.norm(of(network) - of(exact)) for network in rounded_runs(model, image))
            limit = max(limit, 8 * 2.0 ** -29 * spread)
        if not error <= limit:
            raise Failure(f"oracle: {name} off from PyTorch's by {error:.1e}, limit {limit:.1e}")


def check(seed, version, scratch):
    """Draw and check one network. Returns (maps compared, maps excused, the ops that it holds)."""
    g = draw(seed, version)
    try:
        if g.chance(ALTERED):
            alter(g)
        path, f16 = str(Path(scratch) / "random.agf"), g.chance(0.15)
        write(g, path, f16)
        check_flat(g)
        image = g.input.astype(np.float32)
        exact = Network(path).run(image)
        check_file(g, exact, f16)
        check_torch(exact, path, image)
        ops = {node.op for node in g.nodes}
        if version <= engine_version():
            return *check_engine(g, path, image, exact), ops
        for request in requests_of(g, exact):
            oracle_map(exact, request)
        return 0, 0, ops
    except Failure as problem:
        raise Failure(f"{problem}\n{listing(g)}") from None


def check_engine(g, path, image, exact):
    """The engine against the oracle. Returns (maps compared, maps excused)."""
    single = Network(path, np.float32).run(image)
    for name, value in zip(["input"] + [node.name for node in single.nodes], single.values):
        if value.dtype != np.float32:   # then its error would not be that of float32
            raise Failure(f"{name}: the oracle computes in {value.dtype} where it was asked for float32")
    requests = requests_of(g, exact)
    expected = [oracle_map(exact, request) for request in requests]
    excused = 0
    with agf.Model(path) as model:
        first = None
        for configuration in configurations(g):
            with model.session(methods=oracle.METHODS, **configuration) as session:
                try:
                    logits = session.run(image, explain=g.chance(0.5))
                    maps = [engine_map(session, request) for request in requests]
                    several = session.explain([exact.ranked(0)] * 2, method="gradient_x_input")
                except agf.Error as problem:
                    raise Failure(f"{configuration}: {problem}") from None
                answers = [m if isinstance(m, np.ndarray) else np.array(m.code) for m in [logits, *maps, *several]]
                if first is None:
                    first, names = answers, ["logits", *map(describe, requests), "the first of two maps", "the second"]
                    excused = compare(path, image, exact, single, logits, requests, maps, expected)
                for name, a, b in zip(names, first, answers):
                    if a.tobytes() != b.tobytes():
                        raise Failure(f"{configuration}: {name} has other bits than {first_configuration(g)}")
    return len(requests), excused


def first_configuration(g):
    return next(iter(configurations(g)))


def configurations(g):
    """Sessions that must agree to the bit. The first one is what the machine does best, on one thread."""
    isas, (height, width) = available_isas(), g.input.shape[1:]
    made = [dict(isa=isas[-1], threads=1), dict(isa=isas[0], threads=2, low_memory=True), dict(isa=isas[-1], threads=3),
            dict(isa=isas[-1], threads=1, low_memory=True)] + [dict(isa=isa, threads=1) for isa in isas[1:-1]]
    return [dict(height=height, width=width, **configuration) for configuration in made]


def available_isas():
    """Instruction sets of this machine, the portable one first."""
    if not AVAILABLE:
        path = ROOT / "tests" / "demo" / "demo.agf"
        with agf.Model(str(path)) as model:
            for isa in ("ref", "neon", "avx2", "avx512"):
                try:
                    model.session(isa=isa, threads=1).close()
                    AVAILABLE.append(isa)
                except agf.Error:
                    pass
    return AVAILABLE


AVAILABLE = []


def compare(model, image, exact, single, logits, requests, maps, expected):
    """Every map, and the logits, within the limits at the head of this file. Returns how many were excused."""
    runs, excused = None, 0
    rows = [("logits", logits, exact.logits, single.logits, lambda network: network.logits, None)]
    for request, found, want in zip(requests, maps, expected):
        rows.append((describe(request), found, want, oracle_map(single, request),
                     lambda network, r=request: oracle_map(network, r), request))
    for name, found, want, in_single, again, request in rows:
        error, limit = distance(found, want), 8 * distance(in_single, want) + 1e-5
        if error <= limit:
            continue
        if runs is None:
            runs = rounded_runs(model, image)
        spread = max(distance(answer, want) for answer in (in_single, *map(again, runs)))
        limit = 8 * spread + 1e-5
        # A map that rounding turns into its opposite is made of what is left of sums that cancel: nothing may be left.
        nothing = isinstance(found, Exception) and spread >= 1
        if request is not None and (nothing or vanishes(exact, request)):
            limit = np.inf
        if not error <= limit:
            if np.isfinite(error):
                raise Failure(f"{name}: off by {error:.2e}, limit {limit:.1e}")
            answers = (f"'{answer}'" if isinstance(answer, Exception) else "a map" for answer in (found, want))
            raise Failure("{}: {}, the oracle has {}".format(name, *answers))
        excused += 1
    return excused


def listing(g):
    """The network, a node a line."""
    lines = [f"    0 input {list(g.shape(IMAGE))}"]
    for n, node in enumerate(g.nodes):
        fields = []
        for key, value in vars(node).items():
            if key not in ("op", "name", "inputs", "w", "b", "cancels") and value != getattr(Node("", "", []), key):
                fields.append(f"{key} {value}")
        lines.append(f"    {n + 1} {node.name} of {node.inputs} {list(g.shape(n + 1))} {', '.join(fields)}")
    return "\n".join(lines)


# Seeds that draw what others rarely do: a 1x1 convolution with a stride over rows of one pixel; a grouped convolution
# whose gradient is not 0 where its cam is; a max pool over means of three and of six equal numbers; an instance
# normalisation of equal numbers; sums that cancel but for rounding, which the engine's order leaves 0; a
# global max pool.
CAUGHT = (7500002, 4105, 63344, 63389, 9100029, 187)


def engine_version():
    """The newest model files that the engine reads."""
    header = (ROOT / "agf.h").read_text()
    return int(header.split("#define AGF_FORMAT_VERSION ")[1].split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="the first one (default: 1; with CI set, drawn and printed)")
    parser.add_argument("--count", type=int, help="seeds (default: 15; with CI set, 150)")
    parser.add_argument("--format", type=int, choices=(1, 2), help="version of model files to draw for (default: both)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write random.agf and input.npy there")
    a = parser.parse_args()
    if harness.missing_library(agf):
        print(f"FAIL: {harness.missing_library(agf)}\n0 passed, 1 failed")
        sys.exit(1)
    in_ci = bool(os.environ.get("CI"))
    seed = a.seed if a.seed is not None else int.from_bytes(os.urandom(3), "big") if in_ci else 1
    count = a.count if a.count is not None else 150 if in_ci else 15
    passed = failed = maps = excused = 0
    seen: set[str] = set()
    skipped = torch is None
    if skipped:
        print("SKIP PyTorch: it is not installed; logits and gradients are compared with the oracle's alone")
    with tempfile.TemporaryDirectory() as scratch:
        for s in [*(CAUGHT if a.seed is None else ()), *range(seed, seed + count)]:
            if failed == MOST_FAILURES:
                print(f"  {failed} networks fail; the rest is not tried")
                break
            for version in (a.format,) if a.format else (1, 2):
                try:
                    compared, forgiven, ops = check(s, version, scratch)
                    maps, excused, passed = maps + compared, excused + forgiven, passed + 1
                    seen |= ops
                except Exception as problem:
                    failed += 1
                    if not isinstance(problem, Failure):
                        traceback.print_exc(file=sys.stdout)
                    print(f"FAIL seed {s}: {problem}\n  again: build/venv/bin/python tests/random_graphs.py --seed {s} "
                          f"--count 1 --format {version}", flush=True)
                if a.keep:
                    keep(s, version, a.keep)
    missing = sorted(set(oracle.OPS[1:]) - seen)
    if missing and not failed and a.seed is None and a.count is None and a.format is None:
        failed += 1   # a maker is missing, or what it makes is never taken
        print(f"FAIL: no network holds {', '.join(missing)}")
    print(f"  seeds {seed} to {seed + count - 1}: {maps} maps compared, {excused} of them excused: rounding decides")
    print(f"{passed} passed, {failed} failed" + (", 1 skipped" if skipped else ""))
    sys.exit(failed > 0)


def keep(seed, version, directory):
    g = draw(seed, version)
    if g.chance(ALTERED):
        alter(g)
    directory.mkdir(parents=True, exist_ok=True)
    write(g, str(directory / "random.agf"), False)
    np.save(directory / "input.npy", g.input.astype(np.float32))
    print(listing(g))


if __name__ == "__main__":
    main()
