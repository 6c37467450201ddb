"""What the front ends build networks with: operations as frameworks know them, on tensors of any layout.

A front end makes one Builder for the network's input, walks its own graph in order, says before each node which one it
is (`builder.at(name, "node conv1 (Conv)")`), and calls one method of the Builder for it. Tensors that depend on the
image are Values; everything else is a NumPy array. At the end `passes.finish(builder, value)` makes the list of nodes.

    b = Builder((3, 224, 224))
    x = b.image()                                  # a Value with dims (1, 3, 224, 224); image("NHWC"): (1, 224, 224, 3)
    b.at("conv1", "node conv1 (CONV_2D)")
    x = b.conv(x, weights, bias, stride=(2, 2), pad=(0, 0, 1, 1))      # conv and pools want NCHW ...
    x = b.transpose(b.relu(b.transpose(x, (0, 2, 3, 1))), (0, 3, 1, 2))  # ... b.transpose() costs nothing

A Value knows how its dimensions lie in the [C,H,W] tensor of the node that it comes from, as strides, so that reshapes,
transposes and flattening in any order cost no node: they are resolved where an operation reads the Value. What cannot
be resolved is refused by name. Batches are 1: the first dimension of a Value is 1, or gone.

Arithmetic with constants becomes batchnorm nodes, padding becomes pad nodes, unknown functions become `act` nodes of a
kind that no engine has; passes.py merges, absorbs and recognises them, and refuses what is left.
"""
import math
from dataclasses import dataclass, replace
from typing import Any, Tuple

import numpy as np

from .errors import ConvertError, describe
from .network import IMAGE, Node, batchnorm_scale_bias, output_shape
from .ops import ACTIVATIONS, GATES, Shape

MAX_PARAMETERS = 1 << 30  # weights and biases of all nodes: the largest convolutional networks in use have 10^9

CHANNELS, ROWS, COLUMNS = range(3)  # the axes of a node's [C,H,W]

Atoms = Tuple[Tuple[int, int], ...]  # (size, stride) pairs, outermost first


@dataclass(frozen=True)
class Value:
    """A tensor of the original network that depends on the image: a view of a node's output.

    dims: as the original network has them. atoms: for each dimension the (size, stride) pairs, outermost first, that it
    runs through in the node's [C,H,W] tensor, taken as contiguous; dimensions of 1 have none.
    """
    source: str                                     # the name of a node, or IMAGE
    dims: Tuple[int, ...]
    atoms: Tuple[Atoms, ...]
    integer: bool = False                           # the image before it is cast to floating point


def merged(atoms):
    """Neighbouring (size, stride) pairs that are one run through memory, as one."""
    result = []
    for size, stride in atoms:
        if size == 1:
            continue
        if result and result[-1][1] == size * stride:
            result[-1] = (result[-1][0] * size, stride)
        else:
            result.append((size, stride))
    return tuple(result)


def covers(parts, size):
    """Whether parts (axis, size, stride) of one axis run through all `size` positions of it in order."""
    return merged([part[1:] for part in parts]) == ((size, 1),) if size > 1 else not parts


class Builder:
    def __init__(self, input_shape) -> None:
        """input_shape: [C, H, W] of the image."""
        self.nodes, self.by_name = [], {}
        self.shapes = {IMAGE: tuple(input_shape)}
        self.arithmetic = set()   # names of batchnorm nodes that are no BatchNorm of the original
        self.origins = {}         # name of a node -> "node NAME (OP)" of the original, for messages
        self.notes = []           # what the user should know, a line each
        self.budget = 1 << 24     # elements of all constants that may be computed while reading; a front end's own to set
        self._parameters = 0      # weights and biases of all nodes
        self._flattened = {}      # name of a node -> name of the flatten node behind it
        self._shuffled = {}       # likewise of shuffle nodes, by name and order
        self._name, self._here = "node", "the network"

    # Where we are

    def at(self, name, description):
        """The original node that the next calls belong to: nodes are named after it, errors name it."""
        self._name, self._here = name, description

    def error(self, what):
        """A ConvertError that names the original node; say in it what is not understood and what to do."""
        return ConvertError(f"{self._here}: {what}")

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def computing(self, shape):
        """Count a constant of a shape before it is computed: a file must not fill the machine's memory with them."""
        self.budget -= max(0, math.prod(int(size) for size in shape))
        if self.budget < 0:
            raise self.error(f"computes a constant of {describe([shape])}: with those before it more elements than are "
                             "understood")

    # Values

    def image(self, layout="NCHW", integer=False):
        value = self.value(IMAGE)
        if layout == "NHWC":
            value = self.transpose(value, (0, 2, 3, 1))
        return replace(value, integer=integer)

    def value(self, name):
        """A node's output as [1,C,H,W], or [1,N] for a vector."""
        shape = self.shapes[name]
        strides = [math.prod(shape[i + 1:]) for i in range(len(shape))]
        return Value(name, (1,) + shape, ((),) + tuple(merged([pair]) for pair in zip(shape, strides)))

    def picture_shape(self, x):
        """[C,H,W] of the node that a Value comes from; (N, 1, 1) of a vector."""
        shape = self.shapes[x.source]
        return shape + (1, 1) if len(shape) == 1 else shape

    def parts(self, x, dim):
        """What a dimension runs through: a list of (axis, size, stride within that axis), outermost first.

        None where it runs across the axes in a way that no such list has.
        """
        channels, height, width = self.picture_shape(x)
        units = {CHANNELS: height * width, ROWS: width, COLUMNS: 1}
        sizes = {CHANNELS: channels, ROWS: height, COLUMNS: width}
        result = []
        for size, stride in x.atoms[dim]:
            pieces = []
            for axis in (COLUMNS, ROWS, CHANNELS):
                end = units[axis] * sizes[axis]
                if size > 1 and stride < end:
                    if stride % units[axis] or end % stride:
                        return None
                    here = min(size, end // stride)
                    if size % here:
                        return None
                    pieces.insert(0, (axis, here, stride // units[axis]))
                    size, stride = size // here, end
            if size > 1:
                return None
            result += pieces
        return result

    def axis_of(self, x, dim):
        """CHANNELS, ROWS or COLUMNS if a dimension is exactly that axis in order, else None."""
        parts = self.parts(x, dim)
        if parts is None or len({part[0] for part in parts}) != 1:
            return None
        axis = parts[0][0]
        return axis if covers(parts, self.picture_shape(x)[axis]) else None

    def is_picture(self, x):
        """Whether a Value is [1,C,H,W] as its node has it."""
        return len(x.dims) == 4 and x == replace(self.value(x.source), integer=x.integer) or \
            len(x.dims) == 4 and x.dims == (1,) + self.picture_shape(x) and \
            x.atoms == self._canonical(self.picture_shape(x))

    @staticmethod
    def _canonical(shape) -> tuple[Atoms, ...]:
        channels, height, width = shape
        return ((), merged([(channels, height * width)]), merged([(height, width)]), merged([(width, 1)]))

    def is_flat(self, x):
        """Whether a Value is everything of its node, in the node's order, as [1,N] or [N]."""
        total = math.prod(self.picture_shape(x))
        return math.prod(x.dims) == total == max(x.dims) and merged(sum(x.atoms, ())) == merged([(total, 1)])

    def read(self, x):
        """The name of a node whose output is this Value as [C,H,W]: what convolutions and pools read.

        Shuffles channels or gathers blocks of pixels into channels where the Value has been reshaped that way.
        """
        if not isinstance(x, Value):
            raise self.error("reads a constant where it should read a tensor that depends on the image; fold constants "
                             "first (onnxslim)")
        if self.is_picture(x):
            return x.source
        parts = [self.parts(x, dim) for dim in range(len(x.dims))]
        if len(x.dims) == 4 and x.dims[0] == 1 and None not in parts:
            (_, inner, rows, columns), (channels, height, width) = parts, self.picture_shape(x)
            if all(part[0] == CHANNELS for part in inner) and math.prod(x.dims[1:]) == channels * height * width and \
                    covers(rows, height) and covers(columns, width) and \
                    all(part[0] == ROWS for part in rows) and all(part[0] == COLUMNS for part in columns):
                return self.shuffle_node(x.source, self.offsets(inner))
            if self._is_space_to_depth(x, inner, rows, columns):
                return self._space_to_depth(x, inner)
        raise self._unreadable(x)

    def _unreadable(self, x) -> ConvertError:
        return self.error(f"reads {describe([x.dims])}, which reshapes and transposes have made of "
                          f"{describe([(1,) + self.shapes[x.source]])}; only flattening, channel shuffles, blocks of "
                          "pixels moved into channels and the orders NCHW and NHWC are understood here")

    def shuffle_node(self, source, order):
        """A shuffle node on a node's channels (nothing where they stay in order)."""
        order = tuple(int(i) for i in order)
        if order == tuple(range(len(order))):
            return source
        if (source, order) not in self._shuffled:
            self._shuffled[source, order] = self.emit("shuffle", [source], suffix=".shuffle", perm=order).source
        return self._shuffled[source, order]

    @staticmethod
    def offsets(parts) -> np.ndarray:
        """Positions within the axis of parts (axis, size, stride), in order."""
        result = np.zeros(1, np.int64)
        for _, size, stride in parts:
            result = (result[:, None] + np.arange(size) * stride).ravel()
        return result

    @staticmethod
    def view_offsets(x) -> np.ndarray:
        """Where each element of a Value, in its own order, lies in its node's [C,H,W]."""
        return Builder.offsets([(0, *atom) for atom in sum(x.atoms, ())])

    def _is_space_to_depth(self, x, inner, rows, columns) -> bool:
        _, height, width = self.picture_shape(x)
        return (height % x.dims[2] == 0 and width % x.dims[3] == 0 and math.prod(x.dims) == math.prod(self.picture_shape(x))
                and rows == [(ROWS, x.dims[2], height // x.dims[2])][:x.dims[2] > 1]
                and columns == [(COLUMNS, x.dims[3], width // x.dims[3])][:x.dims[3] > 1])

    def _space_to_depth(self, x, inner) -> Value:
        """Blocks of pixels as channels: a convolution that picks one pixel for each output."""
        channels, height, width = self.picture_shape(x)
        block = height // x.dims[2], width // x.dims[3]
        weights = np.zeros((x.dims[1], channels) + block, np.float32)
        axes = np.zeros((3, 1), np.int64)
        for axis, size, stride in inner:
            step = np.zeros((3, 1, size), np.int64)
            step[axis] = np.arange(size) * stride
            axes = (axes[:, :, None] + step).reshape(3, -1)
        weights[np.arange(x.dims[1]), axes[0], axes[1], axes[2]] = 1
        return self.emit("conv", [x.source], suffix=".space_to_depth", kernel=block, stride=block, dilation=(1, 1),
                         groups=1, weights=weights).source

    def read_vector(self, x):
        """(name of a vector node, order): element i of the Value is element order[i] of the vector; None: as it is."""
        if math.prod(x.dims) != max(x.dims, default=1) or math.prod(x.dims) != math.prod(self.shapes[x.source]):
            raise self._unreadable(x)
        name = self.flatten_node(x.source)
        offsets = None if self.is_flat(x) else self.view_offsets(x)
        return name, offsets

    def flatten_node(self, source):
        if len(self.shapes[source]) == 1:
            return source
        if source not in self._flattened:
            self._flattened[source] = self.emit("flatten", [source], suffix=".flatten").source
        return self._flattened[source]

    def emit(self, op, inputs, suffix="", **fields: Any):
        """Append a node, and the Value of its output."""
        name = unique = self._name + suffix
        count = 1
        while unique in self.shapes:
            count += 1
            unique = f"{name}_{count}"
        node = Node(op, unique, list(inputs), **fields)
        try:
            shape = output_shape(node, [self.shapes[name] for name in inputs])
        except ConvertError as problem:
            raise self.error(str(problem)) from None
        self._parameters += sum(array.size for array in (node.weights, node.bias) if array is not None)
        if self._parameters > MAX_PARAMETERS:
            raise self.error(f"with it the network has {self._parameters} weights, each node its own where the original shares "
                             f"them; {MAX_PARAMETERS} are understood")
        self.shapes[unique] = shape
        self.nodes.append(node)
        self.by_name[unique] = node
        self.origins[unique] = self._here
        return self.value(unique)

    # Reshaping: no node

    def reshape(self, x, dims):
        """dims: positive numbers, at most one -1."""
        dims = [int(size) for size in dims]
        known = math.prod(size for size in dims if size != -1)
        total = math.prod(x.dims)
        if dims.count(-1) == 1 and known > 0 and total % known == 0:
            dims = [total // known if size == -1 else size for size in dims]
        if min(dims, default=1) < 1 or math.prod(dims) != total:
            raise self.error(f"cannot turn {describe([x.dims])} into {describe([dims])}")
        left = list(merged(sum(x.atoms, ())))
        atoms = []
        for size in dims:
            mine = []
            while size > 1:
                count, stride = left.pop(0)
                if size % count == 0:
                    mine.append((count, stride))
                    size //= count
                elif count % size == 0:
                    mine.append((size, stride * (count // size)))
                    left.insert(0, (count // size, stride))
                    size = 1
                else:
                    raise self.error(f"turns {describe([x.dims])} into {describe([dims])} across its layout in memory, "
                                     "which is not understood")
            atoms.append(merged(mine))
        return replace(x, dims=tuple(dims), atoms=tuple(atoms))

    def transpose(self, x, order):
        order = [int(axis) % len(x.dims) for axis in order]
        if sorted(order) != list(range(len(x.dims))):
            raise self.error(f"reorders {describe([x.dims])} by {order}")
        return replace(x, dims=tuple(x.dims[axis] for axis in order), atoms=tuple(x.atoms[axis] for axis in order))

    def flatten(self, x, axis=1):
        """All dimensions from `axis` on as one, those before as one (ONNX's Flatten)."""
        axis += len(x.dims) if axis < 0 else 0
        return self.reshape(x, (math.prod(x.dims[:axis]), math.prod(x.dims[axis:])))

    def squeeze(self, x, axes=None):
        """axes None: all dimensions of 1."""
        if axes is None:
            axes = [i for i, size in enumerate(x.dims) if size == 1]
        axes = {int(axis) % len(x.dims) for axis in axes}
        if any(x.dims[axis] != 1 for axis in axes):
            raise self.error(f"axes {sorted(axes)} of {describe([x.dims])} are not all 1")
        return self.reshape(x, [size for i, size in enumerate(x.dims) if i not in axes])

    def unsqueeze(self, x, axes):
        rank = len(x.dims) + len(axes)
        axes = {int(axis) % rank for axis in axes}
        rest = iter(x.dims)
        return self.reshape(x, [1 if i in axes else next(rest) for i in range(rank)])

    # Convolutions, pools, linear layers: x as [1,C,H,W]

    def conv(self, x, weights, bias=None, stride=(1, 1), pad=(0, 0, 0, 0), dilation=(1, 1), groups=1):
        """weights [O, I / groups, kh, kw], bias [O] or None, pad top, left, bottom, right."""
        self.needs_picture(x)
        if weights.ndim != 4:
            raise self.error(f"needs [O,I,kh,kw] weights, has {describe([weights.shape])}; only two dimensional "
                             "convolutions are understood")
        return self.emit("conv", [self.read(x)], kernel=weights.shape[2:], stride=tuple(stride), pad=tuple(pad),
                         dilation=tuple(dilation), groups=groups, weights=weights, bias=bias)

    def maxpool(self, x, kernel, stride, pad=(0, 0, 0, 0), dilation=(1, 1), ceil_mode=False):
        self.needs_picture(x)
        return self.emit("maxpool", [self.read(x)], kernel=tuple(kernel), stride=tuple(stride), pad=tuple(pad),
                         dilation=tuple(dilation), ceil_mode=bool(ceil_mode))

    def avgpool(self, x, kernel, stride, pad=(0, 0, 0, 0), ceil_mode=False, count_include_pad=False):
        """count_include_pad: divide by the window's size everywhere, else by the pixels inside the input."""
        self.needs_picture(x)
        count_include_pad = bool(count_include_pad) and any(pad)
        if ceil_mode and count_include_pad:
            raise self.error("ceil_mode together with counted padding: how the last windows count is not defined; "
                             "export with count_include_pad=False or ceil_mode=False")
        return self.emit("avgpool", [self.read(x)], kernel=tuple(kernel), stride=tuple(stride), pad=tuple(pad),
                         ceil_mode=bool(ceil_mode), count_include_pad=count_include_pad)

    def adaptive_avgpool(self, x, size):
        if tuple(size) == (1, 1):
            return self.global_avgpool(x)
        self.needs_picture(x)
        return self.emit("adaptive_avgpool", [self.read(x)], kernel=tuple(size))

    def global_avgpool(self, x):
        self.needs_picture(x)
        return self.emit("global_avgpool", [self.read(x)])

    def global_maxpool(self, x):
        self.needs_picture(x)
        return self.emit("global_maxpool", [self.read(x)])

    def needs_picture(self, x):
        if not isinstance(x, Value):
            raise self.error("reads a constant where it should read a tensor that depends on the image")
        if len(x.dims) != 4:
            raise self.error(f"needs two dimensional windows over a [1,C,H,W] tensor, its input is {describe([x.dims])}")

    def same_padding(self, x, kernel, stride, dilation=(1, 1), upper=True):
        """TensorFlow's SAME for a Value [1,C,H,W]: (top, left, bottom, right), the odd pixel last if `upper`."""
        if min(tuple(stride) + tuple(kernel) + tuple(dilation)) < 1:
            raise self.error("kernel, stride and dilation must be positive")
        total = [max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
                 for size, k, s, d in zip(x.dims[2:], kernel, stride, dilation)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        return tuple(less + more if upper else more + less)

    def linear(self, x, weights, bias=None):
        """x [..., I] times weights [O, I], plus bias [O]: a linear layer, or a 1x1 convolution where x has pixels."""
        if not isinstance(x, Value):
            raise self.error("reads a constant where it should read a tensor that depends on the image")
        if weights.ndim != 2:
            raise self.error(f"needs a matrix of weights, has {describe([weights.shape])}")
        if not x.dims or x.dims[-1] != weights.shape[1]:
            raise self.error(f"weights {describe([weights.shape])} do not fit its input {describe([x.dims])}")
        if math.prod(x.dims) == x.dims[-1] and math.prod(x.dims) == math.prod(self.shapes[x.source]):
            name, order = self.read_vector(x)
            if order is not None:
                mine = np.empty_like(weights)
                mine[:, order] = weights
                weights = mine
            y = self.emit("linear", [name], weights=weights, bias=bias)
            return replace(y, dims=x.dims[:-1] + (len(weights),), atoms=((),) * (len(x.dims) - 1) + y.atoms[1:])
        last = self.parts(x, len(x.dims) - 1)
        others = [self.parts(x, dim) for dim in range(len(x.dims) - 1)]
        if last is None or any(part[0] != CHANNELS for part in last) or None in others or \
                any(part[0] == CHANNELS for parts in others for part in parts) or \
                len(self.offsets(last)) != self.picture_shape(x)[CHANNELS]:
            raise self.error(f"multiplies {describe([x.dims])} by a matrix along something else than the channels "
                             "of a picture or a flattened tensor, which is not understood")
        mine = np.empty_like(weights)
        mine[:, self.offsets(last)] = weights
        y = self.emit("conv", [x.source], kernel=(1, 1), stride=(1, 1), dilation=(1, 1), groups=1,
                      weights=mine[:, :, None, None], bias=bias)
        _, height, width = self.picture_shape(x)
        return replace(y, dims=x.dims[:-1] + (len(weights),),
                       atoms=x.atoms[:-1] + (merged([(len(weights), height * width)]),))

    def conv1d(self, x, weights, bias=None, stride=1, pad=(0, 0), dilation=1, groups=1):
        """x [1,I,L] with weights [O, I / groups, k], pad before and after: along the elements of a vector, such as the
        channels behind a global pool (efficient channel attention), it is the linear layer with its matrix."""
        if not isinstance(x, Value) or len(x.dims) != 3 or math.prod(x.dims) != math.prod(self.shapes[x.source]) or \
                math.prod(x.dims) != max(x.dims):
            raise self.error("a one dimensional convolution, which is understood along the elements of a vector alone (its input "
                             f"is {describe([getattr(x, 'dims', ())])}); use two dimensional ones for pictures")
        (_, inputs, length), (outputs, per_group, kernel) = x.dims, weights.shape
        count = (length + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1
        if per_group * groups != inputs or outputs % groups or count < 1 or min(pad) < 0:
            raise self.error(f"weights {describe([weights.shape])} in {groups} group(s) do not fit {describe([x.dims])}")
        matrix = np.zeros((outputs, count, inputs, length), weights.dtype)
        for output in range(outputs):
            first = output // (outputs // groups) * per_group
            for i in range(count):
                for tap in range(kernel):
                    at = i * stride - pad[0] + tap * dilation
                    if 0 <= at < length:
                        matrix[output, i, first:first + per_group, at] += weights[output, :, tap]
        y = self.linear(self.reshape(x, (1, inputs * length)), matrix.reshape(outputs * count, inputs * length),
                        None if bias is None else np.repeat(bias, count))
        return self.reshape(y, (1, outputs, count))

    # Element by element

    def elementwise(self, x, op, suffix="", **fields: Any):
        """An op that works on every element alike: the layout stays."""
        if not isinstance(x, Value):
            raise self.error("works on a constant, which should have been computed; fold constants first (onnxslim)")
        x = self._own(x)
        y = self.emit(op, [x.source], suffix=suffix, **fields)
        return replace(y, dims=x.dims, atoms=x.atoms)

    def _own(self, x) -> Value:
        """A Value that is a flattened tensor of more than a pixel, as a view of the flatten node: what follows works on
        the flattened tensor, as in the original, which the linear layer's rule asks for."""
        if self.is_flat(x) and len(self.shapes[x.source]) == 3 and len(x.dims) <= 2 and \
                self.picture_shape(x)[1:] != (1, 1):
            y = self.value(self.flatten_node(x.source))
            return replace(y, dims=x.dims, atoms=tuple(y.atoms[1] if size > 1 else () for size in x.dims))
        return x

    def relu(self, x):
        return self.elementwise(x, "relu")

    def relu6(self, x):
        return self.elementwise(x, "relu6")

    def act(self, x, kind, **parameters: Any):
        """kind: a key of ops.ACTIVATIONS, or a function that a pass may recognise a part of (erf, softmax ...)."""
        if kind not in ACTIVATIONS:
            x = self._own(x)
            y = self.emit("flatten" if len(self.shapes[x.source]) == 1 else "relu", [x.source])
            node = self.by_name[y.source]
            node.op, node.kind = "function", kind
            for name, number in parameters.items():
                setattr(node, name, number)
            return replace(y, dims=x.dims, atoms=x.atoms)
        return self.elementwise(x, "act", kind=kind, **parameters)

    def clip(self, x, lo=-np.inf, hi=np.inf):
        """lo, hi: infinite where there is no bound."""
        lo, hi = float(lo), float(hi)
        if math.isnan(lo) or math.isnan(hi) or lo >= hi:
            raise self.error(f"clips to {lo:g} .. {hi:g}, which leaves nothing")
        if (lo, hi) == (-math.inf, math.inf):
            return x
        if (lo, hi) == (0, math.inf):
            return self.relu(x)
        if (lo, hi) == (0, 6):
            return self.relu6(x)
        return self.act(x, "clip", lo=lo, hi=hi)

    def prelu(self, x, slopes):
        """slopes: a constant that broadcasts against x, one number per channel or one for all."""
        vector = self.channel_vector(x, slopes)
        if np.all(vector == vector[0]):
            return self.act(x, "leaky_relu", alpha=float(vector[0]))
        return self.act(x, "prelu", weights=vector.astype(np.float32))

    def softmax(self, x, axis=-1, log=False):
        """Along one dimension, which must hold all of the tensor (the head's), or two alternatives of every channel."""
        axis %= len(x.dims)
        if x.dims[axis] == 2 < math.prod(x.dims) and self._is_channel_group(x, axis) and not log:
            # Of two numbers a softmax is the sigmoid of their difference.
            first, second = (self.pick(x, axis, i) for i in range(2))
            both = [self.act(self.add(*pair, signs=[1, -1]), "sigmoid") for pair in ((first, second), (second, first))]
            return self.stack(both, axis)
        if x.dims[axis] != math.prod(x.dims):
            raise self.error(f"takes the softmax of {describe([x.dims])} along axis {axis}, which does not hold all "
                             "classes; attention is not understood, AGF has no rule for it")
        return self.act(x, "log_softmax" if log else "softmax")

    def _is_channel_group(self, x, axis) -> bool:
        """Whether a dimension is a part of what the channels have been reshaped into."""
        parts = self.parts(x, axis)
        return bool(parts) and all(part[0] == CHANNELS for part in parts) and x.dims[axis] < self.picture_shape(x)[CHANNELS]

    def stack(self, values, axis):
        """Values of one shape, joined along a new dimension: their channels one behind another."""
        dims, shapes = values[0].dims, {self.shapes[value.source] for value in values}
        values = self.aligned(values)
        natural = self.reshape(self.value(values[0].source), values[0].dims)
        if len(shapes) != 1 or any(value.atoms != natural.atoms for value in values):
            raise self.error(f"joins {describe([value.dims for value in values])} along a new axis, which is understood for "
                             "tensors in the layout [C,H,W] alone")
        y = self.emit("concat", [value.source for value in values])
        axis %= len(dims) + 1
        view = self.reshape(y, (len(values),) + dims)
        order = list(range(1, len(dims) + 1))
        order.insert(axis, 0)
        return self.transpose(view, order)

    # Arithmetic

    def channel_vector(self, x, constant):
        """A constant that broadcasts against x, as one float64 for each channel of its node."""
        constant = np.asarray(constant, np.float64)
        channels = self.shapes[x.source][0]
        if constant.size == 1:
            return np.full(channels, constant.item())
        aligned = (1,) * (len(x.dims) - constant.ndim) + constant.shape
        if len(aligned) > len(x.dims) or any(size not in (1, mine) for size, mine in zip(aligned, x.dims)):
            raise self.error(f"its constant {describe([constant.shape])} does not fit {describe([x.dims])}")
        parts = [self.parts(x, dim) for dim, size in enumerate(aligned) if size > 1]
        if None in parts or any(part[0] != CHANNELS for part in sum(parts, [])):
            raise self.error(f"its constant {describe([constant.shape])} is not one number per channel of "
                             f"{describe([x.dims])}, which AGF has no rule for")
        order = self.offsets(sum(parts, []))
        if len(order) != channels:  # the same for all channels of a group, say
            full = np.broadcast_to(constant.reshape(aligned), x.dims)
            order, constant = self._channels_of(x), full
            vector = np.full(channels, np.nan)
            vector[order.ravel()] = constant.ravel()
            return vector
        vector = np.empty(channels)
        vector[order] = constant.ravel()
        return vector

    def _channels_of(self, x) -> np.ndarray:
        _, height, width = self.picture_shape(x)
        return self.view_offsets(x) // (height * width)

    def affine(self, x, scale=1.0, shift=0.0):
        """x * scale + shift for constants that broadcast against x: one number per channel."""
        x = self._own(x)
        scale, shift = self.channel_vector(x, scale), self.channel_vector(x, shift)
        if np.all(scale == 1) and np.all(shift == 0):
            return x
        y = self.elementwise(x, "batchnorm", suffix=".scale", weights=scale, bias=shift)
        self.arithmetic.add(y.source)
        return y

    def batchnorm(self, x, gamma, beta, mean, var, eps):
        """An inference BatchNorm over dimension 1 of x (parameters [C])."""
        scale, shift = batchnorm_scale_bias(gamma, beta, mean, var, eps)
        if len(x.dims) < 2 or scale.shape != (x.dims[1],) or shift.shape != scale.shape:
            raise self.error(f"parameters for {scale.size} channels do not fit {describe([x.dims])}")
        shape = (-1,) + (1,) * (len(x.dims) - 2)
        x = self._own(x)
        vectors = [self.channel_vector(x, array.reshape(shape)).astype(np.float32) for array in (scale, shift)]
        return self.elementwise(x, "batchnorm", weights=vectors[0], bias=vectors[1])

    def add(self, *values: Value, signs=None):
        """A sum of tensors of one shape; signs: +1 or -1 for each."""
        signs = signs or [1] * len(values)
        values = [value if sign > 0 else self.affine(value, -1.0) for value, sign in zip(values, signs)]
        if len(values) == 1:
            return values[0]
        dims = {value.dims for value in values}
        if len(dims) != 1:
            raise self.error(f"adds {describe([value.dims for value in values])}; only tensors of one shape are "
                             "understood")
        values = self.aligned(values)
        y = self.emit("add", [value.source for value in values])
        return replace(y, dims=values[0].dims, atoms=values[0].atoms)

    def aligned(self, values):
        """Values of equal dims as views that lie alike in tensors of one shape."""
        values = [self._own(value) for value in values]
        if len({(value.atoms, self.shapes[value.source]) for value in values}) == 1:
            return values
        if len(values[0].dims) == 4 and values[0].dims[0] == 1:
            return [self.value(self.read(value)) for value in values]
        # [1,H,W,C] of one as [1,C,H,W], if that is what the others are.
        if all(math.prod(value.dims) == max(value.dims) == math.prod(self.shapes[value.source]) for value in values):
            result = []
            for value in values:
                name, order = self.read_vector(value)
                if order is not None:
                    raise self._unreadable(value)
                result.append(replace(self.value(name), dims=value.dims,
                                      atoms=tuple(((size, 1),) if size > 1 else () for size in value.dims)))
            return result
        raise self.error("reads tensors that have been reshaped and transposed in different ways: "
                         f"{describe([(1,) + self.shapes[value.source] for value in values])} as "
                         f"{describe([values[0].dims])}")

    def mul(self, a, b):
        """A product of two tensors: signal and gate (agf-spec, "Mul"). The patterns of SiLU, GELU ... are
        recognised."""
        known = self._known_product(a, b) or self._known_product(b, a)
        if known is not None:
            return known
        signal, gate, dims = self._signal_and_gate(a, b)
        y = self.emit("mul", [signal.source, self._one_a_channel(gate.source, self.shapes[signal.source])])
        return replace(y, dims=signal.dims if len(signal.dims) >= len(dims) else dims, atoms=signal.atoms)

    def _signal_and_gate(self, a, b) -> tuple[str, str, Shape]:
        rank = max(len(a.dims), len(b.dims))
        a, b = (self.reshape(x, (1,) * (rank - len(x.dims)) + x.dims) if len(x.dims) < rank else x for x in (a, b))
        dims = tuple(max(pair) for pair in zip(a.dims, b.dims))
        if any(one not in (1, size) for x in (a, b) for one, size in zip(x.dims, dims)):
            raise self.error(f"multiplies {describe([a.dims, b.dims])}, which do not fit each other")
        if a.dims == b.dims:
            signal, gate = self.aligned([a, b])
            if self._is_gate(signal.source) and not self._is_gate(gate.source):
                signal, gate = gate, signal
            return signal, gate, dims
        signal, gate = (a, b) if a.dims == dims else (b, a)
        if signal.dims != dims:
            raise self.error(f"multiplies {describe([a.dims, b.dims])}: each is spread over the other, which is not "
                             "understood")
        for dim, size in enumerate(gate.dims):
            mine, other = self.parts(gate, dim), self.parts(signal, dim)
            if size > 1 and (mine is None or mine != other):
                if len(dims) == 4 and dims[0] == 1:
                    signal, gate = self.value(self.read(signal)), self.value(self.read(gate))
                    break
                raise self._unreadable(gate)
        return signal, gate, dims

    def _one_a_channel(self, name, signal) -> str:
        """A gate of one value for a whole picture as one for each channel, which a product reads: a layer of ones."""
        ones = np.ones((signal[0], 1), np.float32)
        if math.prod(self.shapes[name]) > 1 or len(ones) == 1 or math.prod(signal[1:]) == 1:
            return name
        gate = self.value(name)
        return (self.linear(gate, ones) if len(self.shapes[name]) == 1 else self.conv(gate, ones[:, :, None, None])).source

    def _is_gate(self, name) -> bool:
        """Whether a tensor comes out of a sigmoid, hardsigmoid, tanh or softmax, through linear ops."""
        linear = {"batchnorm", "conv", "linear", "avgpool", "adaptive_avgpool", "global_avgpool", "flatten", "slice",
                  "shuffle", "pad", "resize"}
        node = self.by_name.get(name)
        while node is not None and node.op in linear:
            node = self.by_name.get(node.inputs[0])
        return node is not None and (node.kind in GATES or node.kind == "softmax")

    def _uniform(self, name) -> tuple[str, float, float]:
        """(root, scale, shift): a node's output as scale * root + shift with the same numbers for all channels."""
        scale, shift = 1.0, 0.0
        while name in self.arithmetic:
            node = self.by_name[name]
            if np.ptp(node.weights) or np.ptp(node.bias):
                break
            shift += scale * float(node.bias[0])
            scale *= float(node.weights[0])
            name = node.inputs[0]
        return name, scale, shift

    def _known_product(self, a, b) -> Value | None:
        """x times a function of x that together are an activation: its Value, else None. x is a, the function b."""
        if not (isinstance(a, Value) and isinstance(b, Value)) or a.dims != b.dims or a.atoms != b.atoms or \
                self.shapes[a.source] != self.shapes[b.source]:
            return None
        x, scale, shift = self._uniform(a.source)
        f, outer, offset = self._uniform(b.source)
        node = self.by_name.get(f)
        if node is None or shift != 0 or node.op not in ("act", "relu6", "function"):
            return None

        def near(number, wanted) -> bool:
            return abs(number - wanted) <= 1e-5 * abs(wanted)  # exporters round constants to float32 or five digits

        root, inner, inner_shift = self._uniform(node.inputs[0])
        source, kind, inside = x, None, 1.0
        if node.kind == "sigmoid" and root == x and inner_shift == 0 and offset == 0:
            kind, inside, factor = "silu", inner, scale * outer / inner
        elif node.kind == "hardsigmoid" and root == x and offset == 0 and near(node.alpha * inner, 1 / 6) and \
                near(node.alpha * inner_shift + node.beta, 0.5):
            kind, factor = "hardswish", scale * outer
        elif node.op == "relu6" and root == x and near(inner, 1) and near(inner_shift, 3) and offset == 0:
            kind, factor = "hardswish", 6 * scale * outer
        elif node.kind == "erf" and root == x and inner_shift == 0 and near(inner, math.sqrt(0.5)) and near(offset, outer):
            kind, factor = "gelu", 2 * scale * outer
        elif node.kind == "tanh" and inner_shift == 0 and offset == 0 and inner == 1 and root in self.by_name and \
                self.by_name[root].kind == "softplus" and self.by_name[root].inputs == [x]:
            kind, factor = "mish", scale * outer
        elif node.kind == "tanh" and inner_shift == 0 and near(offset, outer) and self._is_gelu_inside(root, inner, x):
            kind, factor = "gelu_tanh", 2 * scale * outer
        if kind is None:
            return None
        y = replace(a, source=source)
        if inside != 1:
            y = self.affine(y, inside)
        y = self.act(y, kind)
        return y if abs(factor - 1) <= 1e-6 else self.affine(y, factor)

    def _is_gelu_inside(self, root, factor, x) -> bool:
        """Whether factor * root is sqrt(2 / pi) * (x + 0.044715 x^3), as GELU's tanh form has it."""
        node = self.by_name.get(root)
        if node is None or abs(factor - math.sqrt(2 / math.pi)) > 1e-5:
            return False
        if node.op == "add" and len(node.inputs) == 2:
            for line, cube in (node.inputs, node.inputs[::-1]):
                name, scale, shift = self._uniform(cube)
                if line == x and shift == 0 and abs(scale - 0.044715) < 1e-6 and self._power(name, x) == 3:
                    return True
        if node.op == "mul":  # x * (1 + 0.044715 x^2)
            for line, square in (node.inputs, node.inputs[::-1]):
                name, scale, shift = self._uniform(square)
                if line == x and abs(shift - 1) < 1e-6 and abs(scale - 0.044715) < 1e-6 and self._power(name, x) == 2:
                    return True
        return False

    def _power(self, name, x) -> float | None:
        """n if a node is x ** n, else None."""
        node = self.by_name.get(name)
        if name == x:
            return 1
        if node is not None and node.kind == "pow" and node.inputs == [x]:
            return node.alpha
        if node is not None and node.op == "mul":
            powers = [self._power(other, x) for other in node.inputs]
            return None if None in powers else sum(powers)
        return None

    # Normalisations

    def normalise(self, x, axes, eps, gamma=None, beta=None):
        """(x - mean) / sqrt(var + eps) * gamma + beta, mean and var over the dimensions `axes`: layer, group and
        instance norm, by what those dimensions are. gamma and beta broadcast against x, one number per channel."""
        channels, height, width = self.picture_shape(x)
        axes = sorted(int(axis) % len(x.dims) for axis in axes)
        parts = [self.parts(x, dim) for dim in range(len(x.dims))]
        if None in parts or math.prod(x.dims) != channels * height * width:
            raise self._unreadable(x)
        over = sum((parts[axis] for axis in axes), [])
        kept = sum((part for dim, part in enumerate(parts) if dim not in axes), [])
        inner = [part for part in over if part[0] == CHANNELS]
        pixels = [math.prod(part[1] for part in over if part[0] == axis) for axis in (ROWS, COLUMNS)]
        count = math.prod(part[1] for part in inner)
        spatial = pixels == [height, width] and height * width > 1
        if not spatial and max(pixels) > 1 or inner and not covers(inner, count) or \
                any(part[0] == CHANNELS and part[2] < count for part in kept):
            raise self.error(f"normalises {describe([x.dims])} over axes {axes}, which is no layer, group or instance "
                             "norm that AGF has a rule for")
        if count == 1 and not spatial:
            raise self.error(f"normalises {describe([x.dims])} over axes {axes}, one number at a time")
        gamma, beta = (self.channel_vector(x, default if array is None else array).astype(np.float32)
                       for array, default in ((gamma, 1.0), (beta, 0.0)))
        return self.elementwise(x, "norm", groups=channels // count, spatial=spatial, eps=float(eps), weights=gamma,
                                bias=beta)

    def response_norm(self, x, axes, over, eps, gamma, beta):
        """x + gamma * x * n + beta, n the L2 norm over `axes`, which are rows and columns, divided by its mean over the
        axis `over`, the channels, and eps; gamma and beta broadcast against x, one number per channel."""
        axes, over = sorted(int(axis) % len(x.dims) for axis in axes), int(over) % len(x.dims)
        if [self.axis_of(x, axis) for axis in (over, *axes)] != [CHANNELS, ROWS, COLUMNS]:
            raise self.error(f"normalises {describe([x.dims])} by norms over axes {axes} and their mean over axis {over}; only "
                             "norms over height and width and a mean over the channels are understood")
        gamma, beta = (self.channel_vector(x, array).astype(np.float32) for array in (gamma, beta))
        return self.elementwise(x, "norm", groups=1, response=True, eps=float(eps), weights=gamma, bias=beta)

    def lrn(self, x, size, alpha, beta, k):
        """torch's local response normalisation (alpha is divided by size); x as [1,C,H,W]."""
        self.needs_picture(x)
        return self.emit("lrn", [self.read(x)], size=int(size), alpha=float(alpha), beta=float(beta), k=float(k))

    # Reductions

    def mean(self, x, axes, keepdims=True):
        return self._reduce(x, axes, keepdims, "mean")

    def sum(self, x, axes, keepdims=True):
        count = math.prod(x.dims[int(axis)] for axis in axes)
        y = self._reduce(x, axes, keepdims, "mean")
        return self.affine(y, float(count))

    def max(self, x, axes, keepdims=True):
        return self._reduce(x, axes, keepdims, "max")

    def _reduce(self, x, axes, keepdims, what) -> Value:
        axes = sorted({int(axis) % len(x.dims) for axis in axes})
        channels, height, width = self.picture_shape(x)
        parts = [self.parts(x, axis) for axis in axes]
        over = None if None in parts else sum(parts, [])
        sizes = {axis: math.prod(part[1] for part in over if part[0] == axis) for axis in range(3)} if over is not None \
            else {}
        dims = tuple(1 if i in axes else size for i, size in enumerate(x.dims))
        rest = tuple(() if i in axes else atoms for i, atoms in enumerate(x.atoms))
        if not over and over is not None:
            y = replace(x, dims=dims, atoms=rest)
        elif what == "mean" and len(axes) == 1 and self._is_channel_group(x, axes[0]):
            count = x.dims[axes[0]]
            y = self.add(*(self.pick(x, axes[0], i) for i in range(count)))
            y = self.reshape(self.affine(y, 1 / count), dims)
        elif over is not None and sizes[CHANNELS] == 1 and (sizes[ROWS], sizes[COLUMNS]) in (
                (height, width), (height, 1), (1, width)):
            rows, columns = sizes[ROWS], sizes[COLUMNS]
            if (rows, columns) == (height, width):
                y = self.emit("global_avgpool" if what == "mean" else "global_maxpool", [x.source])
            else:
                y = self.emit("avgpool" if what == "mean" else "maxpool", [x.source], kernel=(rows, columns),
                              stride=(rows, columns))
            y = self._without(y, x, dims, axes)
        elif over is not None and what == "mean" and (sizes[ROWS], sizes[COLUMNS]) == (1, 1) and \
                sizes[CHANNELS] == channels:
            y = self.emit("conv", [x.source], kernel=(1, 1), stride=(1, 1), dilation=(1, 1), groups=1,
                          weights=np.full((1, channels, 1, 1), 1 / channels, np.float32))
            y = self._without(y, x, dims, axes)
        else:
            raise self.error(f"takes the {what} of {describe([x.dims])} over axes {axes}; only height, width or both, "
                             f"{'and all channels, ' if what == 'mean' else ''}are understood")
        return y if keepdims else self.reshape(y, [size for i, size in enumerate(dims) if i not in axes])

    def _without(self, y, x, dims, axes) -> Value:
        """A reduction's output as a view with the dimensions of x, those of `axes` being 1."""
        new = self.picture_shape(y)
        strides = {CHANNELS: new[1] * new[2], ROWS: new[2], COLUMNS: 1}
        atoms = []
        for dim in range(len(dims)):
            parts = [] if dim in axes else self.parts(x, dim)
            if parts is None:
                raise self._unreadable(x)
            atoms.append(merged([(size, stride * strides[axis]) for axis, size, stride in parts]))
        return replace(y, dims=dims, atoms=tuple(atoms))

    # Parts

    def concat(self, values, axis):
        """Along the dimension that is the channels."""
        if len(values) == 1:
            return values[0]
        rank = len(values[0].dims)
        axis %= rank
        if any(len(value.dims) != rank for value in values):
            raise self.error(f"joins {describe([value.dims for value in values])}")
        if rank == 4 and axis == 1:
            return self.emit("concat", [self.read(value) for value in values])
        if all(math.prod(value.dims) == value.dims[axis] == math.prod(self.shapes[value.source]) for value in values):
            values = [self._own(value) for value in values]
            if all(self.is_flat(value) for value in values):
                if len({len(self.shapes[value.source]) for value in values}) > 1:  # a vector and a [C,1,1]
                    values = [self.value(self.flatten_node(value.source)) for value in values]
                y = self.emit("concat", [value.source for value in values])
                dims = tuple(self.shapes[y.source][0] if i == axis else 1 for i in range(rank))
                return replace(y, dims=dims, atoms=tuple(y.atoms[1] if i == axis else () for i in range(rank)))
        orders = {tuple(None if i == axis else value.atoms[i] for i in range(rank)) for value in values}
        whole = all(self.axis_of(value, axis) == CHANNELS or value.dims[axis] == self.picture_shape(value)[CHANNELS] == 1
                    for value in values)
        if len(orders) == 1 and whole and len({self.shapes[value.source][1:] for value in values}) == 1:
            y = self.emit("concat", [value.source for value in values])
            _, height, width = self.picture_shape(y)
            total = self.shapes[y.source][0]
            return replace(y, dims=tuple(total if i == axis else size for i, size in enumerate(values[0].dims)),
                           atoms=tuple(merged([(total, height * width)]) if i == axis else atoms
                                       for i, atoms in enumerate(values[0].atoms)))
        raise self.error(f"joins {describe([value.dims for value in values])} along axis {axis}, which is not the "
                         "channels' axis; only channels can be joined")

    def slice(self, x, axis, start, stop, step=1):
        """x[start:stop:step] along a dimension, as Python counts."""
        axis %= len(x.dims)
        chosen = range(x.dims[axis])[start:stop:step]
        if chosen == range(x.dims[axis]):
            return x
        if not chosen:
            raise self.error(f"takes nothing of {describe([x.dims])} along axis {axis}")
        x = self._own(x)
        parts = self.parts(x, axis)
        if parts and {part[0] for part in parts} == {CHANNELS}:
            return self._pick_channels(x, axis, parts, list(chosen))
        if parts and len(parts) == 1 and parts[0][0] != CHANNELS and self.axis_of(x, axis) is not None:
            return self._pick_pixels(x, axis, parts[0][0], chosen)
        raise self.error(f"takes a part of {describe([x.dims])} along axis {axis}; only channels, and pixels at regular "
                         "distances, may be picked")

    def pick(self, x, axis, indices):
        """x.take(indices, axis) for a list of indices; a number drops the dimension."""
        axis %= len(x.dims)
        indices = np.asarray(indices)
        chosen = [int(i) % x.dims[axis] for i in indices.ravel()]
        if len(chosen) == 0 or np.max(np.abs(indices)) > x.dims[axis]:
            raise self.error(f"picks {indices.tolist()} of {x.dims[axis]}")
        if chosen == list(range(x.dims[axis])):
            y = x
        else:
            x = self._own(x)
            parts = self.parts(x, axis)
            if not parts or {part[0] for part in parts} != {CHANNELS}:
                raise self.error(f"picks parts of {describe([x.dims])} along axis {axis}; only channels may be picked")
            y = self._pick_channels(x, axis, parts, chosen)
        if indices.ndim == 1:
            return y
        return self.reshape(y, y.dims[:axis] + indices.shape + y.dims[axis + 1:])

    def _pick_channels(self, x, axis, parts, chosen) -> Value:
        channels = self.picture_shape(x)[CHANNELS]
        _, height, width = self.picture_shape(x)
        kept = [self.offsets(self.parts(x, dim)) for dim in range(len(x.dims))
                if dim != axis and self.parts(x, dim) and self.parts(x, dim)[0][0] == CHANNELS]
        mine = self.offsets(parts)[chosen]
        if len(kept) > 1 or kept and len(self.offsets(parts)) * len(kept[0]) != channels:
            raise self._unreadable(x)
        if kept and len(chosen) == 1:  # one of the groups that the channels have been reshaped into
            wanted = mine[0] + kept[0]
        elif kept:
            raise self.error(f"takes a part of {describe([x.dims])} along axis {axis}, a part of each group of "
                             "channels, which is not understood")
        else:
            wanted = mine
        source = x.source
        if not kept and len(self.offsets(parts)) == channels:  # slices of shuffled channels share the shuffle
            source, wanted = self.shuffle_node(source, self.offsets(parts)), chosen
        y = self.pick_node(source, wanted)
        atoms = []
        for dim in range(len(x.dims)):
            inside = self.parts(x, dim)
            if dim == axis:
                atoms.append(() if kept else merged([(len(wanted), height * width)]))
            elif kept and inside and inside[0][0] == CHANNELS:
                atoms.append(merged([(len(wanted), height * width)]))
            else:
                atoms.append(x.atoms[dim])
        dims = tuple(len(chosen) if i == axis else size for i, size in enumerate(x.dims))
        return replace(x, source=y, dims=dims, atoms=tuple(atoms))

    def pick_node(self, source, wanted):
        """The name of a node that holds these channels of another, in this order: slices, joined where needed."""
        wanted = [int(i) for i in wanted]
        if sorted(wanted) == list(range(self.shapes[source][0])):
            return self.shuffle_node(source, wanted)
        runs = []
        for channel in wanted:
            if runs and runs[-1][1] == channel:
                runs[-1][1] += 1
            else:
                runs.append([channel, channel + 1])
        if len(runs) > 64:
            if sorted(set(wanted)) == sorted(wanted):
                rest = sorted(set(range(self.shapes[source][0])) - set(wanted))
                shuffled = self.shuffle_node(source, wanted + rest)
                return self.emit("slice", [shuffled], suffix=".slice", start=0, stop=len(wanted)).source
            raise self.error(f"picks {len(wanted)} channels with repetitions, which is not understood")
        names = [source if (start, stop) == (0, self.shapes[source][0]) else
                 self.emit("slice", [source], suffix=".slice", start=start, stop=stop).source for start, stop in runs]
        return names[0] if len(names) == 1 else self.emit("concat", names, suffix=".concat").source

    def _pick_pixels(self, x, axis, which, chosen) -> Value:
        """Every step-th row or column: an average pool over single pixels."""
        step, first = chosen.step, chosen.start
        channels, height, width = self.picture_shape(x)
        size = (height, width)[which - 1]
        if step < 1 or first != 0 or len(range(0, size, step)) != len(chosen):
            raise self.error(f"crops {describe([x.dims])} along axis {axis}; only every n-th row or column from the "
                             "first on can be picked")
        stride = (step, 1) if which == ROWS else (1, step)
        y = self.emit("avgpool", [x.source], kernel=(1, 1), stride=stride)
        new = self.picture_shape(y)
        strides = {CHANNELS: new[1] * new[2], ROWS: new[2], COLUMNS: 1}
        atoms = []
        for dim in range(len(x.dims)):
            if dim == axis:
                atoms.append(merged([(len(chosen), strides[which])]))
                continue
            parts = self.parts(x, dim)
            if parts is None:
                raise self._unreadable(x)
            atoms.append(merged([(size, stride * strides[axis_]) for axis_, size, stride in parts]))
        return replace(x, source=y.source, atoms=tuple(atoms),
                       dims=tuple(len(chosen) if i == axis else size for i, size in enumerate(x.dims)))

    def resize(self, x, rows, columns):
        """Output pixel (i, j) is pixel (rows[i], columns[j]) of x [1,C,H,W]; the lists repeat or leave out pixels
        evenly."""
        self.needs_picture(x)
        sides = x.dims[2:]
        for size, chosen in zip(sides, (rows, columns)):
            if list(chosen) != [i * size // len(chosen) for i in range(len(chosen))]:
                raise self.error(f"resizes {describe([x.dims])} to {len(rows)} x {len(columns)} pixels by another rule than "
                                 "that output pixel i of n copies input pixel floor(i * m / n) of m; only that is understood")
        new = len(rows), len(columns)
        if new == sides:
            return x
        to_size = any(n % m for n, m in zip(new, sides))
        return self.emit("resize", [self.read(x)], to_size=to_size,
                         kernel=new if to_size else tuple(n // m for n, m in zip(new, sides)))

    def pad(self, x, pads, value=0.0, border="zeros"):
        """pads: (before, after) for each dimension of x; rows and columns become a pad node, channels a convolution.
        border: of ops.BORDERS; "zeros" pads with `value`."""
        pads = [(int(before), int(after)) for before, after in pads]
        if not any(any(pair) for pair in pads):
            return x
        if min(min(pair) for pair in pads) < 0:
            raise self.error(f"pads {describe([x.dims])} by {pads}: a crop is not understood")
        sides = {}
        for dim, pair in enumerate(pads):
            if any(pair):
                axis = self.axis_of(x, dim)
                if axis is None and x.dims[dim] == 1 and len(x.dims) == 4:
                    axis = {1: CHANNELS, 2: ROWS, 3: COLUMNS}.get(dim) if self.is_picture(x) else None
                if axis is None or axis in sides:
                    raise self.error(f"pads {describe([x.dims])} by {pads}; only rows, columns and channels are "
                                     "understood")
                sides[axis] = (dim, pair)
        y = x.source
        if CHANNELS in sides:
            if value != 0 or border != "zeros":
                raise self.error(f"pads channels with {value if border == 'zeros' else border}; only zeros are understood")
            (before, after), channels = sides[CHANNELS][1], self.picture_shape(x)[CHANNELS]
            weights = np.zeros((before + channels + after, channels, 1, 1), np.float32)
            weights[np.arange(channels) + before, np.arange(channels)] = 1
            y = self.emit("conv", [y], suffix=".pad_channels", kernel=(1, 1), stride=(1, 1), dilation=(1, 1), groups=1,
                          weights=weights).source
        (top, bottom), (left, right) = (sides.get(axis, (0, (0, 0)))[1] for axis in (ROWS, COLUMNS))
        if top or bottom or left or right:
            y = self.emit("pad", [y], pad=(top, left, bottom, right), border=border).source
            self.by_name[y].alpha = float(value)  # passes.py absorbs other numbers than 0, or refuses them
        new = self.shapes[y]
        strides = {CHANNELS: new[1] * new[2], ROWS: new[2], COLUMNS: 1}
        atoms, dims = [], []
        for dim, size in enumerate(x.dims):
            size += sum(pads[dim])
            parts = self.parts(x, dim)
            axes = [axis for axis, (where, _) in sides.items() if where == dim]
            if parts is None or axes and len(parts) > 1:
                raise self._unreadable(x)
            atoms.append(merged([(size, strides[axes[0]])]) if axes else
                         merged([(count, stride * strides[axis]) for axis, count, stride in parts]))
            dims.append(size)
        return replace(x, source=y, dims=tuple(dims), atoms=tuple(atoms))
