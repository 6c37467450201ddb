"""ONNX operations: a handler each, by name and opset, that gets the node and its arguments and calls the Builder.

An argument is a Value (depends on the image), a NumPy array, or None where the node leaves it out. Operations of other
domains stand under "domain::Name".
"""
import math
from typing import Any

import numpy as np

from .builder import Value
from .errors import describe
from .frontend import NO_ATTENTION, Registry
from .passes import nonnegative

REGISTRY = Registry()
handles = REGISTRY.handles


def scaled(array, factor):
    """array * factor, computed in double and rounded once."""
    return array if factor == 1 else (array.astype(np.float64) * factor).astype(np.float32)


# Convolutions, pools, linear layers

def window(node, x, kernel):
    """Stride, pad (top, left, bottom, right) and dilation of a window over the last two dimensions of x."""
    stride = tuple(node.attribute("strides", [1, 1]))
    dilation = tuple(node.attribute("dilations", [1, 1]))
    auto_pad = node.attribute("auto_pad", "NOTSET")
    if not isinstance(x, Value):
        raise node.error("reads a constant where it should read a tensor that depends on the image")
    if (len(x.dims), len(kernel), len(stride), len(dilation)) != (4, 2, 2, 2):
        raise node.error(f"needs two dimensional windows over a [1,C,H,W] tensor, its input is {describe([x.dims])}")
    if min(stride + dilation + tuple(kernel)) < 1:
        raise node.error(f"kernel {list(kernel)}, stride {list(stride)} and dilation {list(dilation)} must be positive")
    if auto_pad == "NOTSET":
        pad = tuple(node.attribute("pads", [0, 0, 0, 0]))
    elif auto_pad == "VALID":
        pad = (0, 0, 0, 0)
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pad = node.b.same_padding(x, kernel, stride, dilation, auto_pad == "SAME_UPPER")
    else:
        raise node.error(f"auto_pad {auto_pad} is not understood")
    if len(pad) != 4 or min(pad) < 0:
        raise node.error(f"padding {list(pad)} is not understood")
    return stride, pad, dilation


@handles("Conv")
def conv(node, x, weights, bias=None):
    weights = node.weights(weights, "weights")
    bias = None if bias is None else node.weights(bias, "bias")
    kernel = node.attribute("kernel_shape")
    if kernel is not None and tuple(kernel) != weights.shape[2:]:
        raise node.error(f"has kernel_shape {list(kernel)} and weights {describe([weights.shape])}")
    if weights.ndim == 3 and node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID"):
        (stride,), (dilation,) = node.attribute("strides", [1]), node.attribute("dilations", [1])
        return node.b.conv1d(x, weights, bias, stride, tuple(node.attribute("pads", [0, 0])), dilation,
                             node.attribute("group", 1))
    if weights.ndim != 4:
        raise node.error(f"needs [O,I,kh,kw] weights, has {describe([weights.shape])}; only two dimensional "
                         "convolutions are understood")
    stride, pad, dilation = window(node, x, weights.shape[2:])
    return node.b.conv(x, weights, bias, stride, pad, dilation, node.attribute("group", 1))


def kernel_of(node):
    kernel = node.attribute("kernel_shape")
    if kernel is None:
        raise node.error("has no kernel_shape")
    return tuple(kernel)


@handles("MaxPool")
def maxpool(node, x):
    if node.is_used(1):
        raise node.error(f"its output {node.outputs[1]}, the positions of the maxima, is used; only the first one is "
                         "understood")
    kernel = kernel_of(node)
    stride, pad, dilation = window(node, x, kernel)
    return node.b.maxpool(x, kernel, stride, pad, dilation, node.attribute("ceil_mode", 0))


@handles("AveragePool")
def average_pool(node, x):
    kernel = kernel_of(node)
    stride, pad, dilation = window(node, x, kernel)
    if dilation != (1, 1):
        raise node.error("a dilated average is not understood; AGF has no rule for it")
    return node.b.avgpool(x, kernel, stride, pad, node.attribute("ceil_mode", 0), node.attribute("count_include_pad", 0))


@handles("GlobalAveragePool")
def global_average_pool(node, x):
    return node.b.global_avgpool(x)


@handles("GlobalMaxPool")
def global_max_pool(node, x):
    return node.b.global_maxpool(x)


@handles("ReduceMean", "ReduceSum", "ReduceMax")
def reduce(node, x, axes=None):
    axes = node.ints(axes, "axes")
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            return x
        axes = range(len(x.dims))
    run = {"ReduceMean": node.b.mean, "ReduceSum": node.b.sum, "ReduceMax": node.b.max}[node.op]
    return run(x, axes, bool(node.attribute("keepdims", 1)))


def bias_of(node, bias, outputs, scale=1.0):
    """A bias that broadcasts over [1, outputs], as [outputs]; None for None."""
    if bias is None:
        return None
    bias = node.weights(bias, "bias")
    if bias.size != 1 and bias.shape not in ((outputs,), (1, outputs)):
        raise node.error(f"its bias {describe([bias.shape])} does not fit {outputs} outputs")
    return np.broadcast_to(scaled(bias, scale).ravel(), outputs).copy()


@handles("Gemm")
def gemm(node, a, b, c=None):
    if isinstance(a, Value) and node.attribute("transA", 0):
        a = node.b.transpose(a, (1, 0)) if len(a.dims) == 2 else a
    weights = node.weights(b, "weights")
    if weights.ndim != 2:
        raise node.error(f"needs a matrix of weights, has {describe([weights.shape])}")
    if not node.attribute("transB", 0):
        weights = weights.T
    if not isinstance(a, Value) or len(a.dims) != 2:
        raise node.error("needs a flattened tensor, [1,N]")
    bias = bias_of(node, c, len(weights), node.attribute("beta", 1.0))
    return node.b.linear(a, scaled(weights, node.attribute("alpha", 1.0)), bias)


@handles("MatMul")
def matmul(node, a, b):
    if isinstance(a, Value) and isinstance(b, Value):
        raise node.error(NO_ATTENTION)
    weights = node.weights(b, "right-hand side")
    if weights.ndim > 2 and weights.size == np.prod(weights.shape[-2:]):
        weights = weights.reshape(weights.shape[-2:])
    if weights.ndim != 2:
        raise node.error(f"needs a matrix of weights, has {describe([weights.shape])}")
    return node.b.linear(a, weights.T)


# Normalisations

@handles("BatchNormalization")
def batch_normalization(node, x, gamma, beta, mean, var):
    if node.attribute("training_mode", 0) or node.opset < 14 and any(node.is_used(i) for i in range(1, 5)):
        raise node.error("is in training mode; export the network in evaluation mode")
    if not node.attribute("spatial", 1):
        raise node.error("normalises every position by itself (spatial=0), which is not understood")
    arrays = (node.weights(array, "parameters") for array in (gamma, beta, mean, var))
    return node.b.batchnorm(x, *arrays, node.attribute("epsilon", 1e-5))


def along_channels(x, array):
    """Parameters of dimension 1, to broadcast against x."""
    return np.asarray(array).reshape((-1,) + (1,) * (len(x.dims) - 2))


@handles("InstanceNormalization")
def instance_normalization(node, x, gamma, beta):
    gamma, beta = (along_channels(x, node.weights(array, "parameters")) for array in (gamma, beta))
    return node.b.normalise(x, range(2, len(x.dims)), node.attribute("epsilon", 1e-5), gamma, beta)


@handles("GroupNormalization", since=18)
def group_normalization(node, x, gamma, beta):
    groups = node.attribute("num_groups")
    gamma, beta = (node.weights(array, "parameters") for array in (gamma, beta))
    if node.opset < 21:  # one number for each group
        gamma, beta = (np.repeat(array, x.dims[1] // groups) for array in (gamma, beta))
    view = node.b.reshape(x, (1, groups, x.dims[1] // groups) + x.dims[2:])
    shape = (groups, x.dims[1] // groups) + (1,) * (len(x.dims) - 2)
    y = node.b.normalise(view, range(2, len(view.dims)), node.attribute("epsilon", 1e-5), gamma.reshape(shape),
                         beta.reshape(shape))
    return node.b.reshape(y, x.dims)


@handles("LayerNormalization", since=17)
def layer_normalization(node, x, gamma, beta=None):
    if node.is_used(1) or node.is_used(2):
        raise node.error("its mean and deviation are used; only the first output is understood")
    axis = node.attribute("axis", -1) % len(x.dims)
    gamma = node.weights(gamma, "scale")
    beta = None if beta is None else node.weights(beta, "bias")
    return node.b.normalise(x, range(axis, len(x.dims)), node.attribute("epsilon", 1e-5), gamma, beta)


@handles("LRN")
def lrn(node, x):
    return node.b.lrn(x, node.attribute("size"), node.attribute("alpha", 1e-4), node.attribute("beta", 0.75),
                      node.attribute("bias", 1.0))


# Activations

@handles("Relu")
def relu(node, x):
    return node.b.relu(x)


SIMPLE = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Mish": "mish", "HardSwish": "hardswish",
          "Erf": "erf", "Sqrt": "sqrt", "Exp": "exp", "Abs": "abs"}


@handles(*SIMPLE)
def simple_activation(node, x):
    return node.b.act(x, SIMPLE[node.op])


@handles("LeakyRelu")
def leaky_relu(node, x):
    return node.b.act(x, "leaky_relu", alpha=node.attribute("alpha", 0.01))


@handles("PRelu")
def prelu(node, x, slope):
    return node.b.prelu(x, node.weights(slope, "slope"))


@handles("Elu")
def elu(node, x):
    return node.b.act(x, "elu", alpha=node.attribute("alpha", 1.0))


@handles("Selu")
def selu(node, x):
    y = node.b.act(x, "elu", alpha=node.attribute("alpha", 1.67326319217681884765625))
    return node.b.affine(y, node.attribute("gamma", 1.05070102214813232421875))


@handles("HardSigmoid")
def hard_sigmoid(node, x):
    return node.b.act(x, "hardsigmoid", alpha=node.attribute("alpha", 0.2), beta=node.attribute("beta", 0.5))


@handles("Gelu", since=20)
def gelu(node, x):
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    approximate = node.attribute("approximate", "none")
    if approximate not in kinds:
        raise node.error(f"approximate {approximate} is not understood")
    return node.b.act(x, kinds[approximate])


@handles("com.microsoft::Gelu")
def microsoft_gelu(node, x):
    return node.b.act(x, "gelu")


@handles("Swish", since=24)
def swish(node, x):
    alpha = node.attribute("alpha", 1.0)
    return node.b.affine(node.b.act(node.b.affine(x, alpha), "silu"), 1 / alpha)


@handles("com.microsoft::QuickGelu")
def quick_gelu(node, x):
    alpha = node.attribute("alpha", 1.702)
    return node.b.affine(node.b.act(node.b.affine(x, alpha), "silu"), 1 / alpha)


def bound(node, argument, name, infinite):
    """A limit of Clip: infinite where it is none, or the largest number of its type, as exporters write "no limit"."""
    value = node.option(argument, name)
    if value is None:
        return infinite
    if np.size(value) != 1:
        raise node.error(f"its {name} is {describe([np.shape(value)])}; one number is needed")
    array = np.asarray(value).ravel()
    kind = array.dtype if array.dtype.kind == "f" and argument is not None else np.dtype(np.float32)
    number = float(array[0])
    largest = float(np.finfo(kind).max)
    return infinite if abs(number) >= largest * (1 - 1e-6) and number * infinite > 0 else number


@handles("Clip")
def clip(node, x, low=None, high=None):
    return node.b.clip(x, bound(node, low, "min", -np.inf), bound(node, high, "max", np.inf))


@handles("Max", "Min")
def extremes(node, *arguments: Any):
    values = [argument for argument in arguments if isinstance(argument, Value)]
    constants = [np.asarray(argument, np.float64) for argument in arguments if not isinstance(argument, Value)]
    if len(values) != 1 or any(np.ptp(constant) for constant in constants):
        raise node.error("compares two tensors; only a bound, one number, is understood, AGF has no rule for more")
    x = values[0]
    if constants and node.op == "Max":
        return node.b.clip(x, lo=max(float(constant.ravel()[0]) for constant in constants))
    if constants:
        return node.b.clip(x, hi=min(float(constant.ravel()[0]) for constant in constants))
    return x


@handles("Pow")
def power(node, x, exponent):
    exponent = np.asarray(node.constant(exponent, "exponent"), np.float64)
    if exponent.size != 1:
        raise node.error("its exponent is not one number")
    exponent = float(exponent.ravel()[0])
    return x if exponent == 1 else node.b.act(x, "pow", alpha=exponent)


@handles("Softmax", "LogSoftmax")
def softmax(node, x):
    axis = node.attribute("axis", -1 if node.opset >= 13 else 1) % len(x.dims)
    if node.opset < 13:  # everything from the axis on is taken together
        x = node.b.reshape(x, (math.prod(x.dims[:axis]), math.prod(x.dims[axis:])))
        axis = 1
    return node.b.softmax(x, axis, log=node.op == "LogSoftmax")


# Arithmetic

@handles("Add", "Sum")
def add(node, *arguments: Any):
    constants = [argument for argument in arguments if not isinstance(argument, Value)]
    values = [argument for argument in arguments if isinstance(argument, Value)]
    x = node.b.add(*values)
    for constant in constants:
        x = node.b.affine(x, shift=constant)
    return x


@handles("Sub")
def subtract(node, a, b):
    if not isinstance(a, Value):
        return node.b.affine(b, -1.0, a)
    if not isinstance(b, Value):
        return node.b.affine(a, 1.0, -np.asarray(b, np.float64))
    return node.b.add(a, b, signs=[1, -1])


@handles("Neg")
def negate(node, x):
    return node.b.affine(x, -1.0)


@handles("Mul")
def multiply(node, a, b):
    if isinstance(a, Value) and isinstance(b, Value):
        return node.b.mul(a, b)
    x, constant = (a, b) if isinstance(a, Value) else (b, a)
    return node.b.affine(x, constant)


@handles("Div")
def divide(node, a, b):
    if isinstance(b, Value):
        raise node.error("divides by a tensor that depends on the image, which AGF has no rule for (a normalisation? "
                         "export with opset 17 or later, which has LayerNormalization)")
    with np.errstate(divide="ignore"):
        reciprocal = 1.0 / np.asarray(b, np.float64)
    if not np.isfinite(reciprocal).all():
        raise node.error("divides by zero")
    return node.b.affine(a, reciprocal)


@handles("Mean")
def mean(node, *arguments: Any):
    if not all(isinstance(argument, Value) for argument in arguments):
        raise node.error("averages tensors and constants, which is not understood")
    return node.b.affine(node.b.add(*arguments), 1 / len(arguments))


# What changes nothing

@handles("Identity", "Dropout")
def identity(node, x, *ratio_and_mode: Any):
    if node.op == "Dropout" and node.is_used(1):
        raise node.error(f"its output {node.outputs[1]}, the mask, is used; only the first one is understood")
    return x


@handles("Cast")
def cast(node, x):
    return cast_to(node, x, node.attribute("to"))


@handles("CastLike")
def cast_like(node, x, like):
    import onnx
    if isinstance(like, Value):
        return x
    return cast_to(node, x, onnx.helper.np_dtype_to_tensor_dtype(np.asarray(like).dtype))


def cast_to(node, x, kind):
    """Between floating point types a cast changes nothing but rounding; of integers only the input holds any."""
    from dataclasses import replace

    import onnx
    floating = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
    if kind in floating:
        return replace(x, integer=False)
    name = onnx.TensorProto.DataType.Name(kind).lower()
    if x.integer and name in ("int16", "int32", "int64", "uint16", "uint32", "uint64"):
        return x
    raise node.error(f"casts to {name}, which rounds; AGF has no rule for it, leave it out of the network")


# Shapes and parts

@handles("Shape")
def shape(node, x):
    dims = np.array(x.dims, np.int64)
    return [dims[slice(node.attribute("start", 0), node.attribute("end"))]]


@handles("Size")
def size(node, x):
    return [np.array(math.prod(x.dims), np.int64)]


@handles("Flatten")
def flatten(node, x):
    return node.b.flatten(x, node.attribute("axis", 1))


@handles("Reshape")
def reshape(node, x, target=None):
    if not isinstance(x, Value):
        raise node.error("reshapes a constant to a shape that depends on the image's values")
    target = node.ints(target, "shape")
    if not node.attribute("allowzero", 0):
        target = [x.dims[i] if size == 0 and i < len(x.dims) else size for i, size in enumerate(target)]
    batch = node.walk.batch
    if batch > 1 and target and target[0] == batch and -1 not in target and \
            math.prod(target) == batch * math.prod(x.dims):
        target[0] = 1  # a fixed batch
    elif batch > 1 and target and target[0] == batch:
        target[0] = 1
    return node.b.reshape(x, target)


@handles("Squeeze")
def squeeze(node, x, axes=None):
    return node.b.squeeze(x, node.ints(axes, "axes"))


@handles("Unsqueeze")
def unsqueeze(node, x, axes=None):
    return node.b.unsqueeze(x, node.ints(axes, "axes"))


@handles("Transpose")
def transpose(node, x):
    return node.b.transpose(x, node.attribute("perm", list(range(len(x.dims)))[::-1]))


@handles("Pad")
def pad(node, x, pads=None, value=None, axes=None):
    mode = node.attribute("mode", "constant")
    borders = {"constant": "zeros", "reflect": "reflect", "edge": "replicate"}
    if mode not in borders:
        raise node.error(f"pads by {mode}; only constant, reflect and edge are understood, AGF has no rule for others")
    amounts = node.ints(pads, "pads")
    value = node.option(value, "value", 0.0)
    rank = len(x.dims)
    axes = [axis % rank for axis in (range(rank) if axes is None else node.ints(axes, "axes"))]
    if len(amounts) != 2 * len(axes):
        raise node.error(f"has {len(amounts)} paddings for {len(axes)} axes")
    before, after = dict(zip(axes, amounts)), dict(zip(axes, amounts[len(axes):]))
    return node.b.pad(x, [(before.get(i, 0), after.get(i, 0)) for i in range(rank)], float(np.ravel(value)[0]),
                      borders[mode])


@handles("Upsample")
def upsample(node, x, scales=None):
    return resized(node, x, scales=node.option(scales, "scales"), transformation="asymmetric", rounding="floor")


@handles("Resize")
def resize_10(node, x, scales=None):
    return resized(node, x, scales=scales, transformation="asymmetric", rounding="floor")


@handles("Resize", since=11)
def resize(node, x, roi=None, scales=None, sizes=None):
    if node.attribute("antialias", 0) or node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch" and \
            sizes is not None:
        raise node.error("resizes with antialiasing or a fixed aspect ratio, which is not understood")
    return resized(node, x, scales, sizes, node.attribute("coordinate_transformation_mode", "half_pixel"),
                   node.attribute("nearest_mode", "round_prefer_floor"), node.attribute("axes"))


def resized(node, x, scales=None, sizes=None, transformation="half_pixel", rounding="floor", axes=None):
    """Resize by ONNX's rules: which pixel each output pixel copies, in float32 as runtimes compute it."""
    node.b.needs_picture(x)
    axes = [axis % 4 for axis in (range(4) if axes is None else axes)]
    numbers = [scales, sizes]
    for i, array in enumerate(numbers):
        array = None if array is None else np.ravel(node.constant(array, "scales or sizes"))
        numbers[i] = None if array is None or array.size == 0 else dict(zip(axes, array))
    scales, sizes = numbers
    if scales is None and sizes is None:
        raise node.error("has neither scales nor sizes")
    new = [int(sizes.get(i, old)) if sizes is not None else int(np.floor(old * np.float64(scales.get(i, 1))))
           for i, old in enumerate(x.dims)]
    new[0] = 1 if new[0] == node.walk.batch else new[0]
    if tuple(new) == x.dims:
        return x
    if node.attribute("mode", "nearest") != "nearest":
        raise node.error(f"resizes by {node.attribute('mode')}; only copies of pixels (mode nearest) are understood, AGF has "
                         "no rule for others")
    if new[:2] != [1, x.dims[1]]:
        raise node.error(f"resizes {describe([x.dims])} to {describe([new])}; only rows and columns are understood")
    copied = []
    for axis in (2, 3):
        old, count = x.dims[axis], new[axis]
        scale = np.float32(count / old if sizes is not None else scales.get(axis, 1))
        i = np.arange(count, dtype=np.float32)
        if transformation == "asymmetric":
            at = i / scale
        elif transformation == "align_corners" and count > 1:
            at = i * np.float32(old - 1) / np.float32(count - 1)
        elif transformation == "half_pixel" or transformation == "pytorch_half_pixel" and count > 1:
            at = (i + np.float32(0.5)) / scale - np.float32(0.5)
        elif transformation in ("align_corners", "pytorch_half_pixel"):
            at = i * 0
        else:
            raise node.error(f"coordinate_transformation_mode {transformation} is not understood")
        steps = {"floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda a: np.ceil(a - np.float32(0.5)),
                 "round_prefer_ceil": lambda a: np.floor(a + np.float32(0.5))}
        if rounding not in steps:
            raise node.error(f"nearest_mode {rounding} is not understood")
        copied.append(np.clip(steps[rounding](at), 0, old - 1).astype(int))
    return node.b.resize(x, *copied)


@handles("Concat")
def concat(node, *arguments: Any):
    if not all(isinstance(argument, Value) for argument in arguments):
        raise node.error("joins a constant to a tensor that depends on the image, which AGF has no rule for")
    return node.b.concat(list(arguments), node.attribute("axis", 1))


@handles("Gather")
def gather(node, x, indices):
    if not isinstance(x, Value):
        raise node.error("picks from a constant by values of the image")
    return node.b.pick(x, node.attribute("axis", 0), node.constant(indices, "index"))


@handles("Slice")
def slice_(node, x, starts=None, ends=None, axes=None, steps=None):
    starts, ends = node.ints(starts, "starts"), node.ints(ends, "ends")
    axes = node.ints(axes, "axes") or range(len(starts))
    steps = [1] * len(starts) if steps is None else node.ints(steps, "steps")
    for axis, start, end, step in zip(axes, starts, ends, steps):
        x = node.b.slice(x, axis, start, end, step)
    return x


@handles("Split")
def split(node, x, sizes=None):
    axis = node.attribute("axis", 0)
    sizes = node.ints(sizes, "split")
    if sizes is None:
        count = len(node.outputs)
        each = -(-x.dims[axis] // count)
        sizes = [each] * (count - 1) + [x.dims[axis] - each * (count - 1)]
    ends = np.cumsum(sizes)
    return [node.b.slice(x, axis, int(end - size), int(end)) if node.is_used(i) else None
            for i, (size, end) in enumerate(zip(sizes, ends))]


@handles("Expand")
def expand(node, x, target):
    target = [int(size) for size in np.ravel(node.constant(target, "shape"))]
    rank = max(len(target), len(x.dims))
    x = node.b.reshape(x, (1,) * (rank - len(x.dims)) + x.dims)
    target = [1] * (rank - len(target)) + target
    repeats = [max(mine, wanted) // mine for mine, wanted in zip(x.dims, target)]
    return repeat(node, x, repeats)


@handles("Tile", since=6)
def tile(node, x, repeats):
    return repeat(node, x, [int(count) for count in np.ravel(node.constant(repeats, "repeats"))])


def repeat(node, x, repeats):
    """x several times along the channels; elsewhere only a product can take it, which spreads x itself."""
    if repeats[0] == node.walk.batch > 1:
        repeats[0] = 1
    for axis, count in enumerate(repeats):
        if count == 1:
            continue
        if x.dims[axis] == 1 and axis != 1 or x.dims[axis] == 1 and not node.b.is_picture(x):
            if math.prod(x.dims) == math.prod(x.dims[:2]):
                continue  # a gate [1,C,1,1] for every pixel: the product that reads it spreads it
        if axis != 1 or len(x.dims) != 4:
            raise node.error(f"repeats {describe([x.dims])} {repeats} times; only channels can be repeated")
        x = node.b.concat([x] * count, 1)
    return x


@handles("SpaceToDepth")
def space_to_depth(node, x):
    block = node.attribute("blocksize")
    _, channels, height, width = x.dims
    if block < 1 or height % block or width % block:
        raise node.error(f"blocks of {block} do not divide {describe([x.dims])}")
    view = node.b.reshape(x, (1, channels, height // block, block, width // block, block))
    view = node.b.transpose(view, (0, 3, 5, 1, 2, 4))
    return node.b.reshape(view, (1, channels * block * block, height // block, width // block))


@handles("Attention", "com.microsoft::Attention", "com.microsoft::MultiHeadAttention", "Einsum")
def attention(node, *arguments: Any):
    raise node.error(NO_ATTENTION)


@handles("ArgMax", "TopK")
def label(node, x, *rest: Any):
    raise node.error("makes a label of the logits inside the network, which has no gradient; choose the logits with "
                     "--output")


# Quantised networks: weights through their scales, activations as they would be without rounding

NOTE = "the original is quantised; the file computes in 32-bit floats what it would without rounding"


def dequantised(node, array, scale, zero=None, axis=None):
    """A constant of integers as real numbers, float32."""
    array = np.asarray(node.constant(array, "weights"))
    scale = np.asarray(node.constant(scale, "scale"), np.float64)
    zero = np.zeros(()) if zero is None else np.asarray(node.constant(zero, "zero point"), np.float64)
    if scale.size > 1 and axis is not None:
        shape = [1] * array.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
        zero = zero.reshape(shape) if zero.size > 1 else zero
    elif zero.size == 1:
        scale, zero = (x.reshape(()) if x.size == 1 else x for x in (scale, zero))
    return ((array.astype(np.float64) - zero) * scale).astype(np.float32)


def real(node, x, scale, zero, axis=None):
    """An operand of a quantised operation: a Value as it is (the image of integers through its scale), or a
    constant."""
    from dataclasses import replace
    if not isinstance(x, Value):
        return dequantised(node, x, scale, zero, axis)
    if x.integer:
        scale, zero = (float(np.ravel(node.constant(a, "scale"))[0]) if a is not None else 0.0 for a in (scale, zero))
        return replace(node.b.affine(x, scale, -scale * zero), integer=False)
    return x


def rounded(node, y, scale, zero):
    """What quantising a tensor does beside rounding: its lower bound is the ReLU that quantisers leave out."""
    node.walk.quantised = True
    node.b.note(NOTE)
    if scale is None or y.source not in node.b.by_name:
        return y
    scale = float(np.ravel(node.constant(scale, "scale"))[0])
    zero = np.zeros(1, np.uint8) if zero is None else np.ravel(node.constant(zero, "zero point"))[:1]
    if zero.dtype.kind not in "iu":
        return y
    limits = np.iinfo(zero.dtype)
    low, high = ((limit - float(zero[0])) * scale for limit in (limits.min, limits.max))
    if low < 0 or nonnegative(node.b, y.source) or node.b.by_name[y.source].kind == "log_softmax":
        return y
    # 6 to within a step is ReLU6's bound.
    return node.b.relu6(y) if abs(high - 6) <= scale else node.b.relu(y)


@handles("QuantizeLinear", "com.microsoft::QuantizeLinear")
def quantize(node, x, scale, zero=None):
    return rounded(node, x, scale, zero)


@handles("DequantizeLinear", "com.microsoft::DequantizeLinear")
def dequantize(node, x, scale, zero=None):
    if node.attribute("block_size", 0):
        raise node.error("is quantised in blocks, which is not understood")
    return real(node, x, scale, zero, node.attribute("axis", 1))


@handles("DynamicQuantizeLinear")
def dynamic_quantize(node, x):
    node.walk.quantised = True
    node.b.note(NOTE)
    return [x, np.float32(1), np.zeros((), np.uint8)]


@handles("QLinearConv")
def qlinear_conv(node, x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias=None):
    x = real(node, x, x_scale, x_zero)
    weights = dequantised(node, w, w_scale, w_zero, axis=0)
    stride, pad, dilation = window(node, x, weights.shape[2:])
    if bias is not None:
        steps = float(np.ravel(x_scale)[0]) * np.asarray(w_scale, np.float64).ravel()
        bias = (np.asarray(node.constant(bias, "bias"), np.float64) * steps).astype(np.float32)
    y = node.b.conv(x, weights, bias, stride, pad, dilation, node.attribute("group", 1))
    return rounded(node, y, y_scale, y_zero)


@handles("ConvInteger")
def conv_integer(node, x, w, x_zero=None, w_zero=None):
    weights = dequantised(node, w, np.float32(1), w_zero, axis=0)
    x = real(node, x, np.float32(1), x_zero)
    stride, pad, dilation = window(node, x, weights.shape[2:])
    return node.b.conv(x, weights, None, stride, pad, dilation, node.attribute("group", 1))


@handles("MatMulInteger")
def matmul_integer(node, a, b, a_zero=None, b_zero=None):
    return node.b.linear(real(node, a, np.float32(1), a_zero), dequantised(node, b, np.float32(1), b_zero, axis=1).T)


@handles("QLinearMatMul")
def qlinear_matmul(node, a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    y = node.b.linear(real(node, a, a_scale, a_zero), dequantised(node, b, b_scale, b_zero, axis=1).T)
    return rounded(node, y, y_scale, y_zero)


@handles("com.microsoft::QGemm")
def qgemm(node, a, a_scale, a_zero, b, b_scale, b_zero, bias=None, y_scale=None, y_zero=None):
    weights = dequantised(node, b, b_scale, b_zero, axis=0 if node.attribute("transB", 0) else 1)
    weights = weights if node.attribute("transB", 0) else weights.T
    if bias is not None:
        steps = float(np.ravel(a_scale)[0]) * np.asarray(b_scale, np.float64).ravel()
        bias = (np.asarray(node.constant(bias, "bias"), np.float64) * steps * node.attribute("alpha", 1.0)).astype(np.float32)
    y = node.b.linear(real(node, a, a_scale, a_zero), scaled(weights, node.attribute("alpha", 1.0)), bias)
    return rounded(node, y, y_scale, y_zero) if y_scale is not None else y


@handles("com.microsoft::QLinearAdd", "com.microsoft::QLinearMul")
def qlinear_pair(node, a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    a, b = real(node, a, a_scale, a_zero), real(node, b, b_scale, b_zero)
    y = add(node, a, b) if node.op == "QLinearAdd" else multiply(node, a, b)
    return rounded(node, y, y_scale, y_zero)


@handles("com.microsoft::QLinearConcat")
def qlinear_concat(node, y_scale, y_zero, *rest: Any):
    values = [real(node, *rest[i:i + 3]) for i in range(0, len(rest), 3)]
    return rounded(node, node.b.concat(values, node.attribute("axis", 1)), None, None)


@handles("com.microsoft::QLinearGlobalAveragePool")
def qlinear_global_average(node, x, x_scale, x_zero, y_scale, y_zero):
    x = real(node, x, x_scale, x_zero)
    if node.attribute("channels_last", 0):
        return node.b.transpose(node.b.global_avgpool(node.b.transpose(x, (0, 3, 1, 2))), (0, 2, 3, 1))
    return rounded(node, node.b.global_avgpool(x), None, None)


@handles("com.microsoft::QLinearAveragePool")
def qlinear_average(node, x, x_scale, x_zero, y_scale, y_zero):
    if node.attribute("channels_last", 0):
        raise node.error("averages [H,W,C]; only channels first is understood")
    return rounded(node, average_pool(node, real(node, x, x_scale, x_zero)), None, None)


@handles("com.microsoft::QLinearLeakyRelu")
def qlinear_leaky(node, x, x_scale, x_zero, y_scale, y_zero):
    return rounded(node, leaky_relu(node, real(node, x, x_scale, x_zero)), None, None)


@handles("com.microsoft::QLinearSigmoid")
def qlinear_sigmoid(node, x, x_scale, x_zero, y_scale, y_zero):
    return rounded(node, node.b.act(real(node, x, x_scale, x_zero), "sigmoid"), None, None)


@handles("com.microsoft::QLinearSoftmax")
def qlinear_softmax(node, x, x_scale, x_zero, y_scale, y_zero):
    return rounded(node, node.b.softmax(real(node, x, x_scale, x_zero), node.attribute("axis", -1)), None, None)


@handles("com.microsoft::FusedConv")
def fused_conv(node, x, weights, bias=None, z=None):
    y = conv(node, x, weights, bias)
    if z is not None:
        y = node.b.add(y, z)
    activation = node.attribute("activation", "")
    parameters = node.attribute("activation_params", [])
    if activation in ("", "Relu", "Sigmoid", "Tanh"):
        return {"": lambda v: v, "Relu": node.b.relu}.get(activation, lambda v: node.b.act(v, activation.lower()))(y)
    if activation == "LeakyRelu":
        return node.b.act(y, "leaky_relu", alpha=parameters[0])
    if activation == "Clip":
        return node.b.clip(y, *parameters)
    if activation == "HardSigmoid":
        return node.b.act(y, "hardsigmoid", alpha=parameters[0], beta=parameters[1])
    raise node.error(f"its activation {activation} is not understood")
