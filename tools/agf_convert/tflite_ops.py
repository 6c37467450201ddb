"""TensorFlow Lite's operators as calls of the Builder: a handler for each, which gets the graph and the operator."""

import numpy as np

from .builder import Value
from .errors import describe
from .frontend import NO_ATTENTION, Registry
from .ops import MAX_SIDE

REGISTRY = Registry()
handles = REGISTRY.handles


def strides(options):
    return options.StrideH(), options.StrideW()


@handles("CONV_2D", "DEPTHWISE_CONV_2D")
def conv_2d(graph, op):
    depthwise = op.kind == "DEPTHWISE_CONV_2D"
    options = graph.options(op, "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions")
    weights = graph.array(op, 1, "the kernel")
    if weights.ndim != 4:
        raise graph.b.error(f"a kernel of {describe([weights.shape])}")
    # [out, kernel height, kernel width, in of a group]; a depthwise one is [1, kernel height, kernel width, out]
    weights = np.ascontiguousarray(np.transpose(weights, (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)))
    x = graph.nchw(graph.value(op))
    dilation = options.DilationHFactor(), options.DilationWFactor()
    pad = graph.padding(x, weights.shape[2:], strides(options), dilation, options.Padding())
    bias = None if graph.get(op, 2) is None else graph.array(op, 2, "the bias")
    groups = x.dims[1] if depthwise else x.dims[1] // max(weights.shape[1], 1)
    y = graph.b.conv(x, weights, bias, strides(options), pad, dilation, groups)
    return graph.result(op, graph.nhwc(y), options.FusedActivationFunction())


@handles("FULLY_CONNECTED")
def fully_connected(graph, op):
    options = graph.options(op, "FullyConnectedOptions")
    if options.WeightsFormat() != 0:
        raise graph.b.error("its weights are stored shuffled, which is not understood")
    x, weights = graph.value(op), graph.array(op, 1, "the matrix of weights")
    bias = None if graph.get(op, 2) is None else graph.array(op, 2, "the bias")
    if weights.ndim != 2:
        raise graph.b.error(f"weights {describe([weights.shape])}")
    if not options.KeepNumDims():
        x = graph.b.reshape(x, (-1, weights.shape[1]))
    return graph.result(op, graph.b.linear(x, weights, bias), options.FusedActivationFunction())


@handles("AVERAGE_POOL_2D", "MAX_POOL_2D")
def pool_2d(graph, op):
    options = graph.options(op, "Pool2DOptions")
    kernel = options.FilterHeight(), options.FilterWidth()
    x = graph.nchw(graph.value(op))
    pad = graph.padding(x, kernel, strides(options), (1, 1), options.Padding())
    pool = graph.b.avgpool if op.kind == "AVERAGE_POOL_2D" else graph.b.maxpool
    return graph.fused(graph.nhwc(pool(x, kernel, strides(options), pad)), options.FusedActivationFunction())


@handles("MEAN", "SUM", "REDUCE_MAX")
def reduce(graph, op):
    x = graph.value(op)
    axes = [int(axis) for axis in np.ravel(graph.array(op, 1, "the list of axes"))]
    keep = bool(graph.options(op, "ReducerOptions").KeepDims())
    return {"MEAN": graph.b.mean, "SUM": graph.b.sum, "REDUCE_MAX": graph.b.max}[op.kind](x, axes, keep)


@handles("ADD", "SUB", "MUL", "DIV")
def arithmetic(graph, op):
    b, left, right = graph.b, graph.get(op, 0), graph.get(op, 1)
    options = graph.options(op, f"{op.kind.capitalize()}Options")
    if not isinstance(left, Value) and not isinstance(right, Value):
        return folded(graph, {"ADD": np.add, "SUB": np.subtract, "MUL": np.multiply, "DIV": divide}[op.kind], left, right)
    if isinstance(left, Value) and isinstance(right, Value):
        if op.kind == "DIV":
            raise b.error("divides by a tensor that depends on the image, which AGF has no rule for")
        y = b.mul(left, right) if op.kind == "MUL" else b.add(left, right, signs=[1, -1 if op.kind == "SUB" else 1])
    else:
        x, constant = (left, right) if isinstance(left, Value) else (right, left)
        if op.kind == "DIV":
            if x is not left:
                raise b.error("divides a constant by a tensor that depends on the image, which AGF has no rule for")
            y = b.affine(x, divide(1.0, np.asarray(constant, np.float64)))
        elif op.kind == "MUL":
            y = b.affine(x, constant)
        elif op.kind == "SUB":
            y = b.affine(x, 1.0, -np.asarray(constant, np.float64)) if x is left else b.affine(x, -1.0, constant)
        else:
            y = b.affine(x, 1.0, constant)
    return graph.result(op, y, options.FusedActivationFunction())


def divide(a, b):
    with np.errstate(all="ignore"):
        return np.divide(a, b)


def folded(graph, function, *arrays: np.ndarray):
    """A constant computed from constants, if it is small."""
    graph.b.computing(np.broadcast_shapes(*(array.shape for array in arrays)))
    return function(*arrays)


@handles("CONCATENATION")
def concatenation(graph, op):
    options = graph.options(op, "ConcatenationOptions")
    parts = [graph.get(op, i) for i in range(len(op.inputs))]
    if not any(isinstance(part, Value) for part in parts):
        graph.b.computing((sum(part.size for part in parts if part is not None),))
        return np.concatenate(parts, options.Axis())
    if not all(isinstance(part, Value) for part in parts):
        raise graph.b.error("joins constants and tensors that depend on the image, which is not understood")
    return graph.fused(graph.b.concat(parts, options.Axis()), options.FusedActivationFunction())


@handles("PAD", "PADV2")
def pad(graph, op):
    pads = graph.array(op, 1, "the padding")
    number = float(np.ravel(graph.array(op, 2, "the number to pad with"))[0]) if len(op.inputs) > 2 else 0.0
    return graph.b.pad(graph.value(op), [tuple(pair) for pair in np.asarray(pads).tolist()], number)


@handles("BATCH_MATMUL")
def batch_matmul(graph, op):
    raise graph.b.error(NO_ATTENTION)


@handles("MIRROR_PAD")
def mirror_pad(graph, op):
    if graph.options(op, "MirrorPadOptions").Mode() != 0:
        raise graph.b.error("pads by reflection with the outermost pixels doubled, which AGF has no rule for; export with mode "
                            "REFLECT")
    pads = np.asarray(graph.array(op, 1, "the padding")).tolist()
    return graph.b.pad(graph.value(op), [tuple(pair) for pair in pads], border="reflect")


@handles("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR")
def resize(graph, op):
    x = graph.nchw(graph.value(op))
    graph.b.needs_picture(x)
    new = tuple(np.ravel(graph.array(op, 1, "the size")).tolist())
    if new == x.dims[2:]:
        return graph.value(op)
    if op.kind == "RESIZE_BILINEAR":
        raise graph.b.error("resizes smoothly; only copies of pixels (nearest neighbour) are understood, AGF has no rule for others")
    options = graph.options(op, "ResizeNearestNeighborOptions")
    if len(new) != 2 or not all(1 <= size <= MAX_SIDE for size in new):
        raise graph.b.error(f"resizes to {describe([new])}; the engine's sides are 1 to {MAX_SIDE}")
    copied = []
    for old, count in zip(x.dims[2:], new):
        corners = options.AlignCorners() and count > 1
        scale = np.float32((old - 1) / (count - 1) if corners else old / count)
        at = (np.arange(count, dtype=np.float32) + np.float32(0.5 if options.HalfPixelCenters() else 0)) * scale
        copied.append(np.clip(np.floor(at + np.float32(0.5)) if corners else np.floor(at), 0, old - 1).astype(int))
    return graph.nhwc(graph.b.resize(x, *copied))


@handles("RESHAPE")
def reshape(graph, op):
    x = graph.get(op, 0)
    if len(op.inputs) > 1 and op.inputs[1] >= 0:
        dims = np.ravel(graph.array(op, 1, "the new shape")).tolist()
    elif op.options is not None:
        dims = graph.options(op, "ReshapeOptions").NewShapeAsNumpy().tolist()
    else:
        raise graph.b.error("names no new shape")
    return graph.b.reshape(x, dims) if isinstance(x, Value) else x.reshape(dims)


@handles("SQUEEZE")
def squeeze(graph, op):
    options = graph.options(op, "SqueezeOptions")
    axes = options.SqueezeDimsAsNumpy().tolist() if options.SqueezeDimsLength() else None
    return graph.b.squeeze(graph.value(op), axes)


@handles("EXPAND_DIMS")
def expand_dims(graph, op):
    axes = np.ravel(graph.array(op, 1, "the axis")).tolist()
    x = graph.get(op, 0)
    return graph.b.unsqueeze(x, axes) if isinstance(x, Value) else np.expand_dims(x, axes[0])


@handles("TRANSPOSE")
def transpose(graph, op):
    order = np.ravel(graph.array(op, 1, "the order of axes")).tolist()
    x = graph.get(op, 0)
    return graph.b.transpose(x, order) if isinstance(x, Value) else np.transpose(x, order)


@handles("SHAPE")
def shape(graph, op):
    x = graph.get(op, 0)
    return np.array(x.dims if isinstance(x, Value) else x.shape, np.int32)


@handles("GATHER")
def gather(graph, op):
    x = graph.array(op, 0, "what it picks from")
    places, options = graph.array(op, 1, "the list of places"), graph.options(op, "GatherOptions")
    if options.BatchDims():
        raise graph.b.error(f"picks with batch_dims={options.BatchDims()}, which is not understood")
    graph.b.computing((places.size, x.size // max(x.shape[options.Axis()], 1)))
    return np.take(x, places, axis=options.Axis())


@handles("REDUCE_PROD")
def reduce_prod(graph, op):
    axes = tuple(int(axis) for axis in np.ravel(graph.array(op, 1, "the list of axes")))
    return np.prod(graph.array(op, 0, "its input"), axis=axes, keepdims=bool(graph.options(op, "ReducerOptions").KeepDims()))


@handles("PACK")
def pack(graph, op):
    parts = [graph.array(op, i, "a part") for i in range(len(op.inputs))]
    graph.b.computing((sum(part.size for part in parts),))
    return np.stack(parts, graph.options(op, "PackOptions").Axis())


@handles("STRIDED_SLICE")
def strided_slice(graph, op):
    options = graph.options(op, "StridedSliceOptions")
    x = graph.get(op, 0)
    begin, end, step = (np.ravel(graph.array(op, i, "begin, end or step")).tolist() for i in (1, 2, 3))
    if options.EllipsisMask() or options.NewAxisMask():
        raise graph.b.error("uses an ellipsis or new axis, which is not understood")
    index = []
    for i in range(len(begin)):
        if options.ShrinkAxisMask() >> i & 1:
            index.append(begin[i])
        else:
            index.append(slice(None if options.BeginMask() >> i & 1 else begin[i], None if options.EndMask() >> i & 1 else end[i], step[i]))
    if not isinstance(x, Value):
        return np.asarray(x[tuple(index)])
    dropped = [i for i, part in enumerate(index) if isinstance(part, int)]
    for i, part in enumerate(index):
        if isinstance(part, int):
            part = slice(part, part + 1 or None, 1)
        x = graph.b.slice(x, i, part.start, part.stop, part.step)
    return graph.b.squeeze(x, dropped) if dropped else x


@handles("SLICE")
def slice_(graph, op):
    begin, size = (np.ravel(graph.array(op, i, "begin or size")).tolist() for i in (1, 2))
    x = graph.value(op)
    for axis, (first, count) in enumerate(zip(begin, size)):
        x = graph.b.slice(x, axis, first, x.dims[axis] if count == -1 else first + count)
    return x


@handles("SPLIT", "SPLIT_V")
def split(graph, op):
    if op.kind == "SPLIT":  # axis, then the tensor
        axis, x, count = int(np.ravel(graph.array(op, 0, "the axis"))[0]), graph.value(op, 1), len(op.outputs)
        if x.dims[axis] % count:
            raise graph.b.error(f"splits {describe([x.dims])} into {count} parts along axis {axis}")
        sizes = [x.dims[axis] // count] * count
    else:
        x, sizes, axis = (
            graph.value(op),
            np.ravel(graph.array(op, 1, "the sizes")).tolist(),
            int(np.ravel(graph.array(op, 2, "the axis"))[0]),
        )
        if sizes.count(-1) == 1:
            sizes[sizes.index(-1)] = x.dims[axis] - sum(size for size in sizes if size != -1)
    ends = np.cumsum(sizes).tolist()
    if ends[-1] != x.dims[axis] or min(sizes) < 1:
        raise graph.b.error(f"splits {describe([x.dims])} into {sizes} along axis {axis}")
    return [graph.b.slice(x, axis, end - size, end) for size, end in zip(sizes, ends)]


@handles("RELU", "RELU6", "TANH", "LOGISTIC", "HARD_SWISH", "ELU", "RELU_N1_TO_1", "RELU_0_TO_1")
def activation(graph, op):
    b, x = graph.b, graph.value(op)
    return {
        "RELU": b.relu,
        "RELU6": b.relu6,
        "TANH": lambda x: b.act(x, "tanh"),
        "LOGISTIC": lambda x: b.act(x, "sigmoid"),
        "HARD_SWISH": lambda x: b.act(x, "hardswish"),
        "ELU": lambda x: b.act(x, "elu", alpha=1.0),
        "RELU_N1_TO_1": lambda x: b.clip(x, -1, 1),
        "RELU_0_TO_1": lambda x: b.clip(x, 0, 1),
    }[op.kind](x)


@handles("LEAKY_RELU")
def leaky_relu(graph, op):
    return graph.b.act(graph.value(op), "leaky_relu", alpha=float(graph.options(op, "LeakyReluOptions").Alpha()))


@handles("GELU")
def gelu(graph, op):
    approximate = op.options is not None and graph.options(op, "GeluOptions").Approximate()
    return graph.b.act(graph.value(op), "gelu_tanh" if approximate else "gelu")


@handles("PRELU")
def prelu(graph, op):
    return graph.b.prelu(graph.value(op), graph.array(op, 1, "the slopes"))


@handles("MAXIMUM", "MINIMUM")
def bound(graph, op):
    left, right = graph.get(op, 0), graph.get(op, 1)
    x, constant = (left, right) if isinstance(left, Value) else (right, left)
    if isinstance(constant, Value) or not isinstance(x, Value) or constant.size != 1:
        raise graph.b.error("compares two tensors; only one number as a bound is understood")
    number = float(np.ravel(constant)[0])
    return graph.b.clip(x, lo=number) if op.kind == "MAXIMUM" else graph.b.clip(x, hi=number)


@handles("SOFTMAX")
def softmax(graph, op):
    beta = float(graph.options(op, "SoftmaxOptions").Beta())
    x = graph.value(op)
    return graph.b.softmax(x if beta == 1 else graph.b.affine(x, beta))


@handles("LOG_SOFTMAX")
def log_softmax(graph, op):
    return graph.b.softmax(graph.value(op), log=True)


@handles("LOCAL_RESPONSE_NORMALIZATION")
def local_response_normalization(graph, op):
    options = graph.options(op, "LocalResponseNormalizationOptions")
    size = 2 * options.Radius() + 1  # TensorFlow's alpha is not divided by the window's size, torch's is
    x = graph.nchw(graph.value(op))
    return graph.nhwc(graph.b.lrn(x, size, options.Alpha() * size, options.Beta(), options.Bias()))


@handles("SPACE_TO_DEPTH")
def space_to_depth(graph, op):
    b, x, block = graph.b, graph.value(op), graph.options(op, "SpaceToDepthOptions").BlockSize()
    if len(x.dims) != 4 or block < 1 or x.dims[1] % block or x.dims[2] % block:
        raise b.error(f"moves blocks of {block} pixels of {describe([x.dims])} into channels")
    _, height, width, channels = x.dims
    x = b.reshape(x, (height // block, block, width // block, block, channels))
    return b.reshape(b.transpose(x, (0, 2, 1, 3, 4)), (1, height // block, width // block, block * block * channels))


@handles("QUANTIZE", "DEQUANTIZE")
def between_integers_and_reals(graph, op):
    """Values are real numbers throughout, so only the ReLU that a range stands for is left of these."""
    x, limits = graph.get(op, 0), graph.range_of(op.inputs[0])
    if not isinstance(x, Value):
        return np.asarray(x, np.float32)
    return x if limits is not None and limits[0] >= 0 else graph.result(op, x)  # as a softmax's, from int8 to uint8


@handles("CAST")
def cast(graph, op):
    x = graph.get(op, 0)
    to = graph.dtype(op.outputs[0])
    if not isinstance(x, Value):
        graph.b.computing(x.shape)
        return x.astype(to)
    exact = op.inputs[0] == graph.main.Inputs(0) and graph.quantization(op.inputs[0]) is None
    if np.issubdtype(to, np.floating) and (np.issubdtype(graph.dtype(op.inputs[0]), np.floating) or exact):
        return x
    raise graph.b.error(f"casts to {np.dtype(to).name}, which changes the numbers; leave the cast out of the network")


@handles("edgetpu-custom-op")
def edge_tpu(graph, op):
    raise graph.b.error("the file is compiled for the Edge TPU: convert the one before edgetpu_compiler, model.tflite")


@handles("ARG_MAX")
def arg_max(graph, op):
    """A label: no part of the logits. choose_output() leaves it out."""
    return np.zeros(0, np.int64)
