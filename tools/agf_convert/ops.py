"""The operations of the intermediate network: one class each, with everything that depends on the operation.

An operation has
    number      its number in the model file (agf.h, agf_op)
    version     the first version of the format that has it
    inputs      (least, most) number of inputs
    fields      the fields of a Node that it uses beside op, name and inputs
    elementwise whether it works on a flattened tensor of any size, element by element
    passes_sum  whether a convolution that reads it reads a sum where it reads one itself (agf-spec, "Conv, flat"); no
                default, so that a class that does not say fails
    shape(node, inputs)    its output's shape for its inputs' shapes; OpError where they do not fit
    forward(node, inputs)  its output for its inputs' arrays, in their precision: what the file's network computes

Shapes are (C, H, W), or (N,) for a vector (behind flatten and linear). To add an operation, write its class here; the
writer's and summary's tables follow.
"""
import math

import numpy as np

from .errors import describe

MAX_SIDE = 1 << 16      # the engine's caps: height, width, kernel, stride, padding, dilation
MAX_CHANNELS = 1 << 20
MAX_ELEMENTS = 2 ** 31 - 1


Shape = tuple[int, ...]  # (C, H, W), or (N,) for a vector


class OpError(Exception):
    """Why a node does not fit its inputs, without the node's name."""


def need(condition, what, inputs):
    if not condition:
        raise OpError(f"{what}, its input is {describe(inputs)}")


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


def dilation_of(node):
    """A node's dilation; pools may leave it out."""
    return tuple(d or 1 for d in node.dilation)


def windows(node, inputs):
    """Output height and width of a node with a sliding window."""
    dilation = dilation_of(node)
    numbers = tuple(node.kernel) + tuple(node.stride) + dilation
    need(min(numbers) > 0, "kernel, stride and dilation must be positive", inputs)
    need(max(numbers + tuple(node.pad)) <= MAX_SIDE, f"kernel, stride, padding or dilation above {MAX_SIDE}", inputs)
    need(min(node.pad) >= 0, f"negative padding {list(node.pad)}", inputs)
    size = tuple(window_size(inputs[0][1 + i], node.kernel[i], node.stride[i], node.pad[i], node.pad[2 + i],
                             dilation[i], node.ceil_mode) for i in (0, 1))
    need(min(size) > 0, f"the {node.kernel[0]}x{node.kernel[1]} window does not fit", inputs)
    return size


def as_picture(x):
    """A vector as [N, 1, 1]; anything else as it is."""
    return x[:, None, None] if x.ndim == 1 else x


def image_shape(shape):
    return tuple(shape) + (1, 1) if len(shape) == 1 else tuple(shape)


def padded(node, x, value, out):
    """x with its padding, and as many rows and columns more as ceil_mode's last windows reach beyond it."""
    ends = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, node.stride, dilation_of(node), node.kernel)]
    top, left, bottom, right = node.pad
    more = [max(0, end - size - before) for end, size, before in zip(ends, x.shape[1:], (top, left))]
    return np.pad(x, ((0, 0), (top, max(bottom, more[0])), (left, max(right, more[1]))), constant_values=value)


def taps(node, x, out):
    """For each element (i, j) of the window: what it sees of the padded x at every output position, [C, Ho, Wo]."""
    dilation = dilation_of(node)
    for i in range(node.kernel[0]):
        for j in range(node.kernel[1]):
            rows = slice(i * dilation[0], i * dilation[0] + (out[0] - 1) * node.stride[0] + 1, node.stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + (out[1] - 1) * node.stride[1] + 1, node.stride[1])
            yield i, j, x[:, rows, columns]


def per_channel(array, like):
    """A vector [C] shaped so that it works on every pixel of `like`, in its precision."""
    return np.asarray(array, like.dtype).reshape((-1,) + (1,) * (like.ndim - 1))


class Op:
    number, version, inputs, fields, elementwise = 0, 1, (1, 1), (), False
    passes_sum: bool

    @staticmethod
    def shape(node, inputs) -> Shape:
        return inputs[0]


class Conv(Op):
    """weights [O, I / groups, kh, kw], bias [O] or None."""
    number = 1
    passes_sum = False
    fields = ("kernel", "stride", "pad", "dilation", "groups", "flat", "weights", "bias")

    @staticmethod
    def shape(node, inputs) -> Shape:
        x = image_shape(inputs[0])
        need(len(inputs[0]) == 3 or len(x) == 3, "needs a [C,H,W] tensor", inputs)
        need(node.weights is not None and node.weights.ndim == 4, "needs [O,I,kh,kw] weights", inputs)
        outputs, inputs_per_group = node.weights.shape[:2]
        need(tuple(node.kernel) == node.weights.shape[2:],
             f"a kernel of {list(node.kernel)} for weights {describe([node.weights.shape])}", inputs)
        need(node.groups > 0 and x[0] == inputs_per_group * node.groups and outputs % node.groups == 0,
             f"weights {describe([node.weights.shape])} in {node.groups} group(s) do not fit", inputs)
        need(node.bias is None or node.bias.shape == (outputs,), f"a bias that is not one number for each of its "
             f"{outputs} outputs", inputs)
        return (outputs,) + windows(node, [x])

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        x = as_picture(inputs[0])
        out = windows(node, [x.shape])
        weights = node.weights.astype(x.dtype)
        groups, (outputs, per_group) = node.groups, weights.shape[:2]
        x = padded(node, x, 0, out)
        y = np.zeros((groups, outputs // groups, out[0] * out[1]), x.dtype)
        for i, j, seen in taps(node, x, out):
            w = weights[:, :, i, j].reshape(groups, outputs // groups, per_group)
            seen = seen.reshape(groups, per_group, -1)
            y += w * seen if per_group == 1 else w @ seen
        y = y.reshape((outputs,) + out)
        return y if node.bias is None else y + per_channel(node.bias, y)


class BatchNorm(Op):
    """y = weights * x + bias per channel: an inference BatchNorm, or a scale and shift."""
    number, fields = 2, ("weights", "bias")
    passes_sum = True

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(node.weights is not None and node.bias is not None and
             node.weights.shape == node.bias.shape == inputs[0][:1],
             f"{np.size(node.weights)} scales and {np.size(node.bias)} biases do not fit", inputs)
        return inputs[0]

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        x = inputs[0]
        return x * per_channel(node.weights, x) + per_channel(node.bias, x)


class Relu(Op):
    number, elementwise = 3, True
    passes_sum = True

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return np.maximum(inputs[0], 0)


class Relu6(Op):
    number, elementwise = 4, True
    passes_sum = True

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return np.clip(inputs[0], 0, 6)


class Pool(Op):
    passes_sum = True

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(len(inputs[0]) == 3, "needs a [C,H,W] tensor", inputs)
        need(all(p < k for p, k in zip(node.pad, tuple(node.kernel) * 2)),
             f"padded by {list(node.pad)}, beyond its {list(node.kernel)} window", inputs)
        return (inputs[0][0],) + windows(node, inputs)


class MaxPool(Pool):
    number, fields = 5, ("kernel", "stride", "pad", "dilation", "ceil_mode")

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        out = windows(node, [inputs[0].shape])
        x = padded(node, inputs[0], -np.inf, out)
        y = None
        for _, _, seen in taps(node, x, out):
            y = seen.copy() if y is None else np.maximum(y, seen)
        return y


class AvgPool(Pool):
    number, fields = 6, ("kernel", "stride", "pad", "ceil_mode", "count_include_pad")

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        out = windows(node, [inputs[0].shape])
        y = sum(seen for _, _, seen in taps(node, padded(node, inputs[0], 0, out), out))
        if node.count_include_pad:
            return y / (node.kernel[0] * node.kernel[1])
        inside = padded(node, np.ones_like(inputs[0][:1]), 0, out)
        return y / sum(seen for _, _, seen in taps(node, inside, out))


class AdaptiveAvgPool(Op):
    """kernel: the output's size."""
    number, fields = 7, ("kernel",)
    passes_sum = True

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(len(inputs[0]) == 3, "needs a [C,H,W] tensor", inputs)
        need(0 < min(node.kernel) and max(node.kernel) <= MAX_SIDE, f"an output of {list(node.kernel)}", inputs)
        return (inputs[0][0],) + tuple(node.kernel)

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        x = inputs[0]
        for axis, count in ((1, node.kernel[0]), (2, node.kernel[1])):
            size = x.shape[axis]
            bins = [np.take(x, range(i * size // count, -(-(i + 1) * size // count)), axis).mean(axis)
                    for i in range(count)]
            x = np.stack(bins, axis)
        return x


class GlobalAvgPool(Op):
    number = 8
    passes_sum = True

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(len(inputs[0]) == 3, "needs a [C,H,W] tensor", inputs)
        return (inputs[0][0], 1, 1)

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return inputs[0].mean((1, 2), keepdims=True)


class Linear(Op):
    """weights [O, I], the inputs in the order of the flattened [C,H,W]; bias [O] or None."""
    number, fields = 9, ("weights", "bias")
    passes_sum = False

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(len(inputs[0]) == 1, "needs a flattened tensor", inputs)
        need(node.weights is not None and node.weights.ndim == 2 and node.weights.shape[1] == inputs[0][0],
             f"weights {describe([np.shape(node.weights)])} do not fit", inputs)
        outputs = len(node.weights)
        need(node.bias is None or node.bias.shape == (outputs,), f"a bias that is not one number for each of its "
             f"{outputs} outputs", inputs)
        return (outputs,)

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        y = node.weights.astype(inputs[0].dtype) @ inputs[0]
        return y if node.bias is None else y + per_channel(node.bias, y)


class Flatten(Op):
    number, elementwise = 10, True
    passes_sum = False

    @staticmethod
    def shape(node, inputs) -> Shape:
        return (math.prod(inputs[0]),)

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return inputs[0].ravel()


class Add(Op):
    """Version 1 adds two tensors, version 2 any number."""
    number, inputs, elementwise = 11, (2, 1 << 20), True
    passes_sum = False

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(len(inputs) > 1 and len(set(inputs)) == 1, "adds tensors of one shape", inputs)
        return inputs[0]

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return sum(inputs[1:], inputs[0])


class Concat(Op):
    """Along the channels."""
    number, inputs = 12, (1, 1 << 20)
    passes_sum = False

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(all(len(other) == len(inputs[0]) and other[1:] == inputs[0][1:] for other in inputs),
             "joins tensors of one height and width", inputs)
        return (sum(other[0] for other in inputs),) + inputs[0][1:]

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return np.concatenate(inputs)


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def erf(x):
    """The error function in x's precision, 1e-15 in double (no library beside NumPy is needed for it).

    Below 3 the series erf(x) = 2 / sqrt(pi) * exp(-x^2) * sum over n of 2^n x^(2n+1) / (1 * 3 * ... * (2n+1)), whose
    terms are all positive; above, the continued fraction of erfc, from its 60th term.
    """
    z = np.abs(np.asarray(x, np.float64))
    near, far = np.minimum(z, 3.0), np.maximum(z, 3.0)
    term, total = near.copy(), near.copy()
    for n in range(1, 60):
        term = term * (2 * near * near / (2 * n + 1))
        total += term
    low = 2 / np.sqrt(np.pi) * np.exp(-near * near) * total
    fraction = far.copy()
    for n in range(60, 0, -1):
        fraction = far + n / 2 / fraction
    high = 1 - np.exp(-np.minimum(far * far, 700)) / np.sqrt(np.pi) / fraction
    return np.copysign(np.where(z < 3, low, high), x).astype(np.asarray(x).dtype)


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


# kind: (number in the file, its parameters in the file's order, the function of x and the node)
ACTIVATIONS = {
    "leaky_relu": (1, ("alpha",), lambda x, n: np.where(x > 0, x, x * x.dtype.type(n.alpha))),
    "prelu": (2, (), lambda x, n: np.where(x > 0, x, x * per_channel(n.weights, x))),
    "elu": (3, ("alpha",), lambda x, n: np.where(x > 0, x, x.dtype.type(n.alpha) * np.expm1(np.minimum(x, 0)))),
    "silu": (4, (), lambda x, n: x * sigmoid(x)),
    "hardswish": (5, (), lambda x, n: x * np.clip(x / 6 + x.dtype.type(0.5), 0, 1)),
    "gelu": (6, (), lambda x, n: x / 2 * (1 + erf(x / x.dtype.type(math.sqrt(2))))),
    "gelu_tanh": (7, (), lambda x, n: x / 2 * (1 + np.tanh(x.dtype.type(math.sqrt(2 / math.pi)) *
                                                           (x + x.dtype.type(0.044715) * x ** 3)))),
    "mish": (8, (), lambda x, n: x * np.tanh(softplus(x))),
    "sigmoid": (9, (), lambda x, n: sigmoid(x)),
    "hardsigmoid": (10, ("alpha", "beta"),
                    lambda x, n: np.clip(x.dtype.type(n.alpha) * x + x.dtype.type(n.beta), 0, 1)),
    "tanh": (11, (), lambda x, n: np.tanh(x)),
    "softplus": (12, (), lambda x, n: softplus(x)),
    "clip": (13, ("lo", "hi"), lambda x, n: np.clip(x, x.dtype.type(n.lo), x.dtype.type(n.hi))),
}
GATES = {"sigmoid", "hardsigmoid", "tanh"}  # agf-spec, "Mul": of two equal shapes these make the gate


class Act(Op):
    """kind: a key of ACTIVATIONS, with its parameters; prelu's slopes are weights [C]."""
    number, version, fields, elementwise = 13, 2, ("kind", "alpha", "beta", "lo", "hi", "weights"), True
    passes_sum = True

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(node.kind in ACTIVATIONS, f"an unknown kind, {node.kind!r}", inputs)
        numbers = [getattr(node, what) for what in ACTIVATIONS[node.kind][1]]
        need(all(map(math.isfinite, numbers)) or node.kind == "clip" and node.lo < node.hi,
             f"{node.kind} with {numbers}", inputs)
        need((node.weights is not None) == (node.kind == "prelu"), f"{node.kind} with slopes or without", inputs)
        need(node.weights is None or node.weights.shape == inputs[0][:1],
             f"{np.size(node.weights)} slopes do not fit", inputs)
        return inputs[0]

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        with np.errstate(over="ignore", under="ignore"):
            return ACTIVATIONS[node.kind][2](inputs[0], node).astype(inputs[0].dtype)


class Mul(Op):
    """inputs: signal, gate; the gate is [C,1,1], [1,H,W] or of the signal's shape."""
    number, version, inputs, elementwise = 14, 2, (2, 2), True
    passes_sum = False

    @staticmethod
    def shape(node, inputs) -> Shape:
        x, gate = inputs
        if len(gate) == 1 and len(x) == 3:  # passes.py makes a picture of it
            gate = gate + (1, 1)
        one = (1,) * (len(x) - 1)
        fits = len(gate) == len(x) and (gate[0] == x[0] and gate[1:] in (x[1:], one) or gate[0] == 1 and gate[1:] == x[1:])
        need(fits, "multiplies by a tensor of another shape than [C,1,1], [1,H,W] or the signal's", inputs)
        return x

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return inputs[0] * (as_picture(inputs[1]) if inputs[0].ndim == 3 else inputs[1])


class Norm(Op):
    """spatial: over the pixels of a group of channels (group norm; instance norm: groups = C), else over the channels
    of each pixel (layer norm), in `groups` groups; gamma and beta are weights and bias [C]. response: global response
    norm, x + gamma * x * n + beta, n the L2 norm of each channel over the mean of all and eps; groups 1."""
    number, version, fields = 15, 2, ("groups", "spatial", "response", "eps", "weights", "bias")
    passes_sum = True

    @staticmethod
    def shape(node, inputs) -> Shape:
        channels = inputs[0][0]
        need(node.groups > 0 and channels % node.groups == 0, f"{node.groups} groups do not divide the channels", inputs)
        need(node.eps > 0 and math.isfinite(node.eps), f"eps {node.eps:g} is not positive", inputs)
        need(np.shape(node.weights) == np.shape(node.bias) == (channels,), "gamma and beta do not fit", inputs)
        return inputs[0]

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        x = inputs[0]
        if node.response:
            length = np.sqrt((x * x).sum((1, 2), keepdims=True))
            length /= length.mean() + x.dtype.type(node.eps)
            return x + x * length * per_channel(node.weights, x) + per_channel(node.bias, x)
        groups = x.reshape((node.groups, -1) + x.shape[1:])
        axes = tuple(range(1, groups.ndim)) if node.spatial else (1,)
        mean, var = groups.mean(axes, keepdims=True), groups.var(axes, keepdims=True)
        y = ((groups - mean) / np.sqrt(var + x.dtype.type(node.eps))).reshape(x.shape)
        return y * per_channel(node.weights, y) + per_channel(node.bias, y)


class Lrn(Op):
    """torch's LocalResponseNorm: x / (k + alpha / size * sum of squares over `size` channels) ** beta."""
    number, version, fields = 16, 2, ("size", "alpha", "beta", "k")
    passes_sum = True

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(len(inputs[0]) == 3, "needs a [C,H,W] tensor", inputs)
        need(0 < node.size <= MAX_SIDE and all(map(math.isfinite, (node.alpha, node.beta, node.k))),
             f"size {node.size}, alpha {node.alpha}, beta {node.beta}, k {node.k}", inputs)
        return inputs[0]

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        x = inputs[0]
        squares = np.pad(x * x, ((node.size // 2, (node.size - 1) // 2), (0, 0), (0, 0)))
        total = sum(squares[i:i + len(x)] for i in range(node.size))
        return x / (x.dtype.type(node.k) + x.dtype.type(node.alpha / node.size) * total) ** x.dtype.type(node.beta)


class Slice(Op):
    """The channels [start, stop) (agf-spec: from, to)."""
    number, version, fields = 17, 2, ("start", "stop")
    passes_sum = False

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(0 <= node.start < node.stop <= inputs[0][0], f"takes the channels {node.start} to {node.stop}", inputs)
        return (node.stop - node.start,) + inputs[0][1:]

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return inputs[0][node.start:node.stop]


class Shuffle(Op):
    """Output channel c is input channel perm[c]."""
    number, version, fields = 18, 2, ("perm",)
    passes_sum = False

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(sorted(node.perm) == list(range(inputs[0][0])), "its perm is no permutation of the channels", inputs)
        return inputs[0]

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return inputs[0][list(node.perm)]


BORDERS = ("zeros", "reflect", "replicate")  # in the order of their numbers in the file


class Pad(Op):
    """Zeros or copies of pixels around each channel; pad: top, left, bottom, right; border: one of BORDERS."""
    number, version, fields = 19, 2, ("pad", "border")
    passes_sum = False

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(len(inputs[0]) == 3, "needs a [C,H,W] tensor", inputs)
        need(0 <= min(node.pad) and max(node.pad) <= MAX_SIDE, f"padded by {list(node.pad)}", inputs)
        need(node.border in BORDERS, f"padded by {node.border}", inputs)
        top, left, bottom, right = node.pad
        channels, height, width = inputs[0]
        need(node.border != "reflect" or max(top, bottom) < height and max(left, right) < width,
             f"reflects {list(node.pad)} pixels, which is more than there are", inputs)
        return channels, height + top + bottom, width + left + right

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        top, left, bottom, right = node.pad
        mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}[node.border]
        return np.pad(inputs[0], ((0, 0), (top, bottom), (left, right)), mode)


class GlobalMaxPool(GlobalAvgPool):
    number, version = 20, 2

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        return inputs[0].max((1, 2), keepdims=True)


class Resize(Op):
    """Pixels repeated kernel[0] times downwards and kernel[1] times to the right; to_size: the output is [C, *kernel],
    its row i of n being row floor(i * m / n) of m, and columns likewise."""
    number, version, fields = 21, 2, ("kernel", "to_size")
    passes_sum = False

    @staticmethod
    def shape(node, inputs) -> Shape:
        need(len(inputs[0]) == 3, "needs a [C,H,W] tensor", inputs)
        need(0 < min(node.kernel) and max(node.kernel) <= MAX_SIDE, f"resized by {list(node.kernel)}", inputs)
        channels, height, width = inputs[0]
        return (channels,) + (tuple(node.kernel) if node.to_size else (height * node.kernel[0], width * node.kernel[1]))

    @staticmethod
    def forward(node, inputs) -> np.ndarray:
        shape = Resize.shape(node, [inputs[0].shape])
        rows, columns = (np.arange(n) * m // n for n, m in zip(shape[1:], inputs[0].shape[1:]))
        return inputs[0][:, rows][:, :, columns]


OPS = {"conv": Conv, "batchnorm": BatchNorm, "relu": Relu, "relu6": Relu6, "maxpool": MaxPool, "avgpool": AvgPool,
       "adaptive_avgpool": AdaptiveAvgPool, "global_avgpool": GlobalAvgPool, "linear": Linear, "flatten": Flatten,
       "add": Add, "concat": Concat, "act": Act, "mul": Mul, "norm": Norm, "lrn": Lrn, "slice": Slice,
       "shuffle": Shuffle, "pad": Pad, "global_maxpool": GlobalMaxPool, "resize": Resize}
