"""torch's operations: a handler each, by the name that torch.export gives them (aten's, without in-place underscores).

An argument is a Value (depends on the image), a tensor, a number, a list of such, or None.
"""
import math
from typing import Any

import numpy as np

from . import patterns
from .builder import Value
from .errors import describe
from .frontend import Registry

REGISTRY = Registry()
handles = REGISTRY.handles


def pair(value, default=None):
    """What torch takes as a number, a list of one or of two, as two numbers."""
    if value is None or isinstance(value, (list, tuple)) and not value:
        return default
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return (int(values[0]), int(values[-1]))


def image_batch(node, x):
    """[C,H,W] as [1,C,H,W]."""
    return node.b.reshape(x, (1,) + x.dims) if len(x.dims) == 3 else x


# Convolutions, pools, linear layers

@handles("conv2d")
def conv2d(node, x, weight, bias=None, stride=(1,), padding=(0,), dilation=(1,), groups=1):
    weights = node.weights(weight, "weights")
    bias = None if bias is None else node.weights(bias, "bias")
    stride, dilation = pair(stride, (1, 1)), pair(dilation, (1, 1))
    if padding == "valid":
        pad = (0, 0, 0, 0)
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weights.shape[2:])]
        pad = tuple([t // 2 for t in total] + [t - t // 2 for t in total])
    else:
        pad = pair(padding, (0, 0)) * 2
    return node.b.conv(x, weights, bias, stride, pad, dilation, groups)


@handles("conv1d")
def conv1d(node, x, weight, bias=None, stride=(1,), padding=(0,), dilation=(1,), groups=1):
    weights = node.weights(weight, "weights")
    bias = None if bias is None else node.weights(bias, "bias")
    (stride, _), (dilation, _) = pair(stride, (1, 1)), pair(dilation, (1, 1))
    if padding == "same":
        total = dilation * (weights.shape[2] - 1)
        pad = total // 2, total - total // 2
    else:
        pad = (0, 0) if padding == "valid" else pair(padding, (0, 0))
    return node.b.conv1d(x, weights, bias, stride, pad, dilation, groups)


@handles("convolution")
def convolution(node, x, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    if transposed:
        raise node.error("a transposed convolution, which AGF has no rule for")
    if len(weight.shape) == 3:
        return conv1d(node, x, weight, bias, stride, padding, dilation, groups)
    return conv2d(node, x, weight, bias, stride, padding, dilation, groups)


@handles("max_pool2d", "max_pool2d_with_indices")
def max_pool2d(node, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    kernel = pair(kernel_size)
    y = node.b.maxpool(x, kernel, pair(stride, kernel), pair(padding, (0, 0)) * 2, pair(dilation, (1, 1)), ceil_mode)
    return y if node.op == "max_pool2d" else [y, None]


@handles("avg_pool2d")
def avg_pool2d(node, x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
               divisor_override=None):
    kernel, pad = pair(kernel_size), pair(padding, (0, 0)) * 2
    factor = 1.0
    if divisor_override is not None:
        if any(pad) and not count_include_pad or ceil_mode:
            raise node.error(f"divisor_override={divisor_override} together with padding or ceil_mode; set it to None")
        factor = kernel[0] * kernel[1] / divisor_override
    return node.b.affine(node.b.avgpool(x, kernel, pair(stride, kernel), pad, ceil_mode, count_include_pad), factor)


@handles("adaptive_avg_pool2d")
def adaptive_avg_pool2d(node, x, output_size):
    sizes = output_size if isinstance(output_size, (list, tuple)) else [output_size] * 2
    return node.b.adaptive_avgpool(x, tuple(x.dims[-2 + i] if size is None else size for i, size in enumerate(sizes)))


@handles("adaptive_max_pool2d")
def adaptive_max_pool2d(node, x, output_size):
    if pair(output_size) != (1, 1):
        raise node.error(f"an adaptive maximum of {list(pair(output_size))}; only 1x1 is understood")
    return [node.b.global_maxpool(x), None]


@handles("linear")
def linear(node, x, weight, bias=None):
    return node.b.linear(x, node.weights(weight, "weights"), None if bias is None else node.weights(bias, "bias"))


@handles("addmm")
def addmm(node, bias, x, weight, beta=1, alpha=1):
    if beta != 1 or alpha != 1:
        raise node.error(f"beta {beta} and alpha {alpha}; only 1 is understood")
    return node.b.linear(x, node.weights(weight, "weights").T, node.weights(bias, "bias"))


@handles("matmul", "mm", "bmm")
def matmul(node, x, other):
    if not isinstance(x, Value):
        raise node.error("multiplies a constant from the left, which is not understood")
    weights = node.array(other)
    if weights.ndim != 2:
        raise node.error(f"needs a matrix of weights, has {describe([weights.shape])}")
    return node.b.linear(x, weights.T)


# Normalisations

@handles("batch_norm")
def batch_norm(node, x, weight, bias, mean, var, training, momentum, eps, cudnn_enabled=True):
    if training or mean is None or var is None:
        raise node.error("normalises by the batch at hand (no running statistics), which is not defined for one image")
    return inference_norm(node, x, weight, bias, mean, var, eps)


@handles("_native_batch_norm_legit_no_training", "_batch_norm_no_training")
def native_batch_norm(node, x, weight, bias, mean, var, momentum, eps):
    return [inference_norm(node, x, weight, bias, mean, var, eps), None, None]


def inference_norm(node, x, weight, bias, mean, var, eps):
    mean, var = node.weights(mean, "mean"), node.weights(var, "variance")
    weight = np.ones_like(mean) if weight is None else node.weights(weight, "weights")
    bias = np.zeros_like(mean) if bias is None else node.weights(bias, "bias")
    return node.b.batchnorm(x, weight, bias, mean, var, eps)


@handles("layer_norm")
def layer_norm(node, x, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    axes = range(len(x.dims) - len(normalized_shape), len(x.dims))
    return node.b.normalise(x, axes, eps, node.array(weight), node.array(bias))


@handles("group_norm")
def group_norm(node, x, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    inner = (num_groups, x.dims[1] // num_groups)
    view = node.b.reshape(x, (1,) + inner + x.dims[2:])
    gamma, beta = (None if a is None else node.array(a).reshape(inner + (1,) * (len(x.dims) - 2)) for a in (weight, bias))
    return node.b.reshape(node.b.normalise(view, range(2, len(view.dims)), eps, gamma, beta), x.dims)


@handles("instance_norm")
def instance_norm(node, x, weight, bias, mean, var, use_input_stats, momentum, eps, cudnn_enabled=True):
    if not use_input_stats:
        return inference_norm(node, x, weight, bias, mean, var, eps)
    shape = (-1,) + (1,) * (len(x.dims) - 2)
    gamma, beta = (None if a is None else node.array(a).reshape(shape) for a in (weight, bias))
    return node.b.normalise(x, range(2, len(x.dims)), eps, gamma, beta)


# Activations

@handles("relu")
def relu(node, x):
    return node.b.relu(x)


SIMPLE = {name: name for name in ("sigmoid", "tanh", "mish", "silu", "hardswish", "erf", "exp", "sqrt", "abs")}


@handles(*SIMPLE)
def simple_activation(node, x):
    return node.b.act(x, SIMPLE[node.op.rstrip("_")])


@handles("relu6")
def relu6(node, x):
    return node.b.relu6(x)


@handles("hardtanh")
def hardtanh(node, x, min_val=-1, max_val=1):
    return node.b.clip(x, min_val, max_val)


@handles("clamp", "clip")
def clamp(node, x, min=None, max=None):
    if isinstance(min, Value) or isinstance(max, Value):
        raise node.error("clips by a tensor, which AGF has no rule for")
    return node.b.clip(x, -np.inf if min is None else float(min), np.inf if max is None else float(max))


@handles("clamp_min")
def clamp_min(node, x, min):
    return clamp(node, x, min)


@handles("clamp_max")
def clamp_max(node, x, max):
    return clamp(node, x, None, max)


@handles("hardsigmoid")
def hardsigmoid(node, x):
    return node.b.act(x, "hardsigmoid", alpha=1 / 6, beta=0.5)


@handles("leaky_relu")
def leaky_relu(node, x, negative_slope=0.01):
    return node.b.act(x, "leaky_relu", alpha=float(negative_slope))


@handles("prelu")
def prelu(node, x, weight):
    return node.b.prelu(x, node.weights(weight, "slopes").reshape((-1,) + (1,) * (len(x.dims) - 2)))


@handles("elu")
def elu(node, x, alpha=1.0, scale=1.0, input_scale=1.0):
    # x > 0: scale * x; else scale * alpha * (exp(input_scale * x) - 1)
    y = node.b.act(node.b.affine(x, input_scale), "elu", alpha=float(alpha * input_scale))
    return node.b.affine(y, scale / input_scale)


@handles("selu")
def selu(node, x):
    return elu(node, x, 1.6732632423543772, 1.0507009873554805)


@handles("celu")
def celu(node, x, alpha=1.0):
    return elu(node, x, alpha, 1.0, 1 / alpha)


@handles("softplus")
def softplus(node, x, beta=1, threshold=20):
    return node.b.affine(node.b.act(node.b.affine(x, float(beta)), "softplus"), 1 / beta)


@handles("gelu")
def gelu(node, x, approximate="none"):
    return node.b.act(x, {"none": "gelu", "tanh": "gelu_tanh"}[approximate])


@handles("pow")
def power(node, x, exponent):
    if isinstance(exponent, Value) or not isinstance(x, Value):
        raise node.error("a power with an exponent that depends on the image, which AGF has no rule for")
    return x if exponent == 1 else node.b.act(x, "pow", alpha=float(exponent))


@handles("softmax", "_softmax")
def softmax(node, x, dim, dtype=None):
    return node.b.softmax(x, dim)


@handles("log_softmax", "_log_softmax")
def log_softmax(node, x, dim, dtype=None):
    return node.b.softmax(x, dim, log=True)


# Arithmetic

def number(node, constant):
    """A constant as a NumPy array in double."""
    return np.asarray(constant.detach().numpy() if hasattr(constant, "detach") else constant, np.float64)


@handles("add")
def add(node, a, b, alpha=1):
    if isinstance(a, Value) and isinstance(b, Value):
        return node.b.add(a, b if alpha == 1 else node.b.affine(b, float(alpha)))
    if isinstance(a, Value):
        return node.b.affine(a, 1.0, number(node, b) * alpha)
    return node.b.affine(b, float(alpha), number(node, a))


@handles("sub", "subtract")
def subtract(node, a, b, alpha=1):
    if isinstance(a, Value) and isinstance(b, Value):
        return node.b.add(a, node.b.affine(b, -float(alpha)))
    if isinstance(a, Value):
        return node.b.affine(a, 1.0, -number(node, b) * alpha)
    return node.b.affine(b, -float(alpha), number(node, a))


@handles("rsub")
def reverse_subtract(node, a, b, alpha=1):
    return subtract(node, b, a, alpha)


@handles("mul", "multiply")
def multiply(node, a, b):
    if isinstance(a, Value) and isinstance(b, Value):
        return node.b.mul(a, b)
    x, constant = (a, b) if isinstance(a, Value) else (b, a)
    return node.b.affine(x, number(node, constant))


@handles("div", "divide", "true_divide")
def divide(node, a, b, rounding_mode=None):
    if isinstance(b, Value) or rounding_mode is not None:
        raise node.error("divides by a tensor that depends on the image, or rounds, which AGF has no rule for")
    return node.b.affine(a, 1.0 / number(node, b))


@handles("neg")
def negate(node, x):
    return node.b.affine(x, -1.0)


# Reductions

@handles("mean", "sum", "amax")
def reduce(node, x, dim=None, keepdim=False, dtype=None):
    run = {"mean": node.b.mean, "sum": node.b.sum, "amax": node.b.max}[node.op]
    dim = range(len(x.dims)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return run(x, dim, keepdim)


@handles("max")
def maximum_along(node, x, dim=None, keepdim=False):
    if not isinstance(dim, int):
        raise node.error("a maximum over everything or of two tensors, which AGF has no rule for")
    return [node.b.max(x, [dim], keepdim), None]


# What changes nothing

@handles("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def dropout(node, x, p=0.5, train=False):
    if train and p > 0:
        raise node.error("drops out even in evaluation mode, which is random")
    return x


@handles("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "_assert_tensor_metadata", "identity")
def unchanged(node, x, *arguments: Any, **options: Any):
    return x


@handles("to", "_to_copy", "type_as", "float")
def to(node, x, *arguments: Any, dtype=None, **options: Any):
    import torch
    dtypes = [dtype] + [argument for argument in arguments if isinstance(argument, torch.dtype)]
    if any(kind is not None and not kind.is_floating_point for kind in dtypes):
        raise node.error("casts to integers, which rounds; AGF has no rule for it, leave it out of the network")
    return x


# Shapes and parts

@handles("view", "reshape", "_unsafe_view")
def reshape(node, x, size):
    return node.b.reshape(x, size)


@handles("flatten")
def flatten(node, x, start_dim=0, end_dim=-1):
    rank = len(x.dims)
    start, end = start_dim % rank, end_dim % rank
    return node.b.reshape(x, x.dims[:start] + (math.prod(x.dims[start:end + 1]),) + x.dims[end + 1:])


@handles("unflatten")
def unflatten(node, x, dim, sizes):
    dim %= len(x.dims)
    sizes = list(sizes)
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.dims[dim] // -math.prod(sizes)
    return node.b.reshape(x, x.dims[:dim] + tuple(sizes) + x.dims[dim + 1:])


@handles("permute")
def permute(node, x, dims):
    return node.b.transpose(x, dims)


@handles("transpose", "swapaxes")
def transpose(node, x, dim0, dim1):
    order = list(range(len(x.dims)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return node.b.transpose(x, order)


@handles("unsqueeze")
def unsqueeze(node, x, dim):
    return node.b.unsqueeze(x, [dim])


@handles("squeeze")
def squeeze(node, x, dim=None):
    if dim is None:
        return node.b.squeeze(x)
    dims = [dim] if isinstance(dim, int) else list(dim)
    return node.b.squeeze(x, [d for d in dims if x.dims[d] == 1])


@handles("cat", "concat", "concatenate")
def cat(node, tensors, dim=0):
    if not all(isinstance(tensor, Value) for tensor in tensors):
        raise node.error("joins a constant to a tensor that depends on the image, which AGF has no rule for")
    return node.b.concat(list(tensors), dim)


@handles("stack")
def stack(node, tensors, dim=0):
    return node.b.stack(list(tensors), dim)


@handles("slice")
def slice_(node, x, dim=0, start=None, end=None, step=1):
    return node.b.slice(x, dim, start, end, step)


@handles("select")
def select(node, x, dim, index):
    return node.b.pick(x, dim, index)


@handles("index_select")
def index_select(node, x, dim, index):
    return node.b.pick(x, dim, np.asarray(index))


@handles("index")
def index_(node, x, indices):
    used = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(used) != 1 or isinstance(used[0][1], Value):
        raise node.error("picks by several lists, or by values of the image, which is not understood")
    return node.b.pick(x, used[0][0], np.asarray(used[0][1]))


def parts(node, x, sizes, dim):
    ends = np.cumsum(sizes)
    return [node.b.slice(x, dim, int(end - size), int(end)) for size, end in zip(sizes, ends)]


@handles("split", "split_with_sizes")
def split(node, x, size, dim=0):
    length = x.dims[dim]
    sizes = list(size) if isinstance(size, (list, tuple)) else \
        [min(size, length - i) for i in range(0, length, size)]
    return parts(node, x, sizes, dim)


@handles("chunk")
def chunk(node, x, chunks, dim=0):
    return split(node, x, -(-x.dims[dim] // chunks), dim)


@handles("unbind")
def unbind(node, x, dim=0):
    return [node.b.pick(x, dim, i) for i in range(x.dims[dim])]


@handles("expand", "expand_as", "broadcast_to")
def expand(node, x, size, implicit=False):
    size = list(size.dims) if isinstance(size, Value) else list(size)
    wanted = [mine if one == -1 else one for one, mine in zip(size, (1,) * (len(size) - len(x.dims)) + x.dims)]
    if len(wanted) == 4 and x.dims[1] == 1 and wanted[1] > 1 and tuple(wanted[2:]) == x.dims[2:]:
        return node.b.concat([x] * wanted[1], 1)
    return x  # what reads it spreads it, or says that it cannot


@handles("repeat")
def repeat(node, x, repeats):
    if len(repeats) == 4 and list(repeats[:1]) + list(repeats[2:]) == [1, 1, 1] and len(x.dims) == 4:
        return node.b.concat([x] * repeats[1], 1)
    raise node.error(f"repeats {describe([x.dims])} {list(repeats)} times; only channels can be repeated")


@handles("pad", "constant_pad_nd")
def pad(node, x, amounts, mode="constant", value=None):
    if node.op == "constant_pad_nd":
        mode, value = "constant", 0.0 if mode == "constant" else mode
    borders = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate"}
    if mode not in borders:
        raise node.error(f"pads by {mode}; only zeros, reflection and replication are understood, AGF has no rule for others")
    pairs = [(0, 0)] * len(x.dims)
    for i in range(0, len(amounts), 2):
        pairs[len(x.dims) - 1 - i // 2] = (amounts[i], amounts[i + 1])
    return node.b.pad(x, pairs, float(value or 0.0), borders[mode])


@handles("reflection_pad2d", "replication_pad2d")
def copying_pad(node, x, amounts):
    return pad(node, x, amounts, {"reflection_pad2d": "reflect", "replication_pad2d": "replicate"}[node.op])


@handles("upsample_nearest2d", "_upsample_nearest_exact2d")
def upsample_nearest(node, x, size=None, *factors: Any):
    """size: the output's, or None where factors give it; which pixels are copied torch says itself."""
    import torch
    factors = [number for factor in factors for number in (factor if isinstance(factor, (list, tuple)) else [factor])
               if number is not None] or None
    if isinstance(size, Value):
        raise node.error("resizes to a size that depends on the image's values")
    mode = "nearest" if node.op == "upsample_nearest2d" else "nearest-exact"
    height, width = x.dims[2:]
    pixels = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width)
    copied = torch.nn.functional.interpolate(pixels, None if size is None else tuple(size),
                                             factors if size is None else None, mode)[0, 0].long().numpy()
    return node.b.resize(x, copied[:, 0] // width, copied[0] % width)


@handles("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def upsample_smooth(node, x, size=None, *arguments: Any):
    if size is not None and tuple(size) == x.dims[2:]:
        return x
    raise node.error("resizes smoothly; only copies of pixels (mode nearest) are understood, AGF has no rule for others")


@handles("zero_pad2d")
def zero_pad2d(node, x, amounts):
    return pad(node, x, amounts)


@handles("channel_shuffle")
def channel_shuffle(node, x, groups):
    view = node.b.reshape(x, (1, groups, x.dims[1] // groups) + x.dims[2:])
    return node.b.reshape(node.b.transpose(view, (0, 2, 1, 3, 4)), x.dims)


@handles("pixel_unshuffle")
def pixel_unshuffle(node, x, factor):
    _, channels, height, width = x.dims
    if height % factor or width % factor:
        raise node.error(f"blocks of {factor} do not divide {describe([x.dims])}")
    view = node.b.reshape(x, (1, channels, height // factor, factor, width // factor, factor))
    view = node.b.transpose(view, (0, 1, 3, 5, 2, 4))
    return node.b.reshape(view, (1, channels * factor * factor, height // factor, width // factor))


@handles("argmax", "topk")
def label(node, *arguments: Any, **options: Any):
    raise node.error("makes a label of the logits inside the module, which has no gradient; return the logits")


ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}
PRODUCTS = {"matmul", "mm", "bmm", "baddbmm", "einsum", "linear"}


def find_attention(graph, image):
    """The first node that is attention; None. Looked for before anything is converted: what prepares it is not
    understood either."""
    depends = {image}
    for fx in graph.nodes:
        sources = [other for other in fx.all_input_nodes if other in depends]
        if sources:
            depends.add(fx)
        if name_of(fx) in ATTENTION or name_of(fx) in PRODUCTS and len(sources) > 1:
            return fx
    return None


# Functions that torch takes apart: recognised in the graph before its parts are converted

def name_of(fx):
    """The operation's name of a node of the graph, "" for others."""
    schema = getattr(fx.target, "_schema", None) if getattr(fx, "op", "") == "call_function" else None
    return schema.name.removeprefix("aten::").rstrip("_") if schema is not None else ""


def find_shortcuts(graph, stored):
    """{node: (handler, the one node that it needs)} for nodes that end a known pattern; stored: {node: tensor}."""
    found, view = {}, GraphView(stored)
    for fx in graph.nodes:
        match = local_response_norm(fx) if name_of(fx) == "div" else None
        if match is None:
            made = patterns.find(view, fx)
            match = made and (lambda node, value, make=made[0]: make(node.b, value), made[1])
        if match is not None:
            found[fx] = match
    return found


class GraphView:
    """The exported graph as patterns.py looks at it. stored: {node: tensor} of parameters and buffers."""
    NAMES = {"linalg_vector_norm": "norm2", "addcmul": "multiply_add", "subtract": "sub", "multiply": "mul", "divide": "div",
             "true_divide": "div"}

    def __init__(self, stored) -> None:
        self.stored = stored

    def op(self, fx):
        name = name_of(fx)
        if name == "linalg_vector_norm" and (len(fx.args) > 1 and fx.args[1] != 2 or fx.kwargs.get("ord", 2) != 2):
            return ""
        if name in ("add", "sub") and fx.kwargs.get("alpha", 1) != 1 or name == "addcmul" and fx.kwargs.get("value", 1) != 1:
            return ""
        return self.NAMES.get(name, name)

    @staticmethod
    def arguments(fx) -> list:
        return list(fx.args)

    def constant(self, argument):
        """A number, a stored tensor, or one of it reshaped."""
        if isinstance(argument, (int, float)):
            return np.float32(argument)
        if argument in self.stored:
            return self.stored[argument].detach().float().numpy()
        if name_of(argument) in ("view", "reshape") and argument.args[0] in self.stored:
            return self.stored[argument.args[0]].detach().float().reshape(tuple(argument.args[1])).numpy()
        if name_of(argument) == "unsqueeze":
            inner = self.constant(argument.args[0])
            return None if inner is None else np.expand_dims(inner, argument.args[1])
        return None

    def axes(self, fx):
        place = 2 if self.op(fx) == "norm2" else 1
        dim = fx.args[place] if len(fx.args) > place else fx.kwargs.get("dim")
        keep = fx.args[place + 1] if len(fx.args) > place + 1 else fx.kwargs.get("keepdim", False)
        shape = fx.args[0].meta.get("val")
        if dim is None or not keep or shape is None:
            return None
        return tuple(sorted(axis % len(shape.shape) for axis in (dim if isinstance(dim, (list, tuple)) else [dim])))


def local_response_norm(div):
    """torch.nn.functional.local_response_norm: x / (k + alpha * mean of squares over channels) ** beta."""
    x, y = div.args[0], div.args[1]

    def under(fx, name) -> Any:
        return fx if name_of(fx) == name else None

    power_ = under(y, "pow")
    shift = power_ and under(power_.args[0], "add")
    scale = shift and under(shift.args[0], "mul")
    if not scale or not all(isinstance(fx.args[1], (int, float)) for fx in (power_, shift, scale)):
        return None
    inner = scale.args[0]
    size = None
    while name_of(inner) in ("view", "reshape", "squeeze", "unsqueeze", "pad", "constant_pad_nd", "avg_pool3d", "avg_pool2d"):
        if name_of(inner).startswith("avg_pool"):
            size = inner.args[1][0]
        inner = inner.args[0]
    if size is None or name_of(inner) != "mul" or list(inner.args) != [x, x]:
        return None
    alpha, k, beta = scale.args[1], shift.args[1], power_.args[1]
    return (lambda node, value: node.b.lrn(value, size, alpha, beta, k)), x
