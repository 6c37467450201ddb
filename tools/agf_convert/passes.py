"""From what a Builder has collected to the nodes of a Network: each pass is a function on the list of nodes.

finish() runs them: what the output does not depend on goes; arithmetic with constants is merged, into a bias where one
belongs; padding goes into convolutions and pools where nothing changes; the image's normalisation becomes the network's
affine map; the head is brought into a form that the attribution can start from.
"""
import math
from dataclasses import dataclass, field, replace
from typing import List, Optional, Tuple

import numpy as np

from .errors import ConvertError, describe
from .network import IMAGE, Node, output_shape
from .ops import ACTIVATIONS, OPS


@dataclass
class Finished:
    """What finish() makes: the parts of a Network that a front end finds in a graph."""
    nodes: List[Node]
    affine: Optional[Tuple[np.ndarray, np.ndarray]] = None   # the network's own scale and bias of its input
    head: str = "softmax"
    stripped: str = ""               # what the original ends in behind the logits: "", softmax, log_softmax or sigmoid
    one_output: bool = False         # the original has one output z; the nodes' logits are -z/2 and z/2
    notes: List[str] = field(default_factory=list)


def finish(builder, output, head=None):
    """The Finished network whose logits are the Value `output`. head: what the user says it is, else what is found."""
    graph = Graph(builder)
    if not hasattr(output, "source"):
        raise ConvertError("the output does not depend on the image")
    if math.prod(output.dims) != max(output.dims, default=1):
        raise ConvertError(f"the output is {describe([output.dims])}; one number per class is needed, so this is no "
                           "image classifier (choose the logits with --output)")
    last = output.source
    if last == IMAGE:
        raise ConvertError("the output is the image itself")
    last, found = strip_head(graph, last)
    graph.drop_unused(last)
    merge_arithmetic(graph, last)
    if found is None:
        last, found = strip_head(graph, last)
    graph.drop_unused(last)
    last = fold_end(graph, last)
    graph.drop_unused(last)
    for run in (norm_parameters, parts_of_joins, hardsigmoids, pool_twice, gates_as_pictures,
                absorb_pads, affine_before_linear, read_image, absorb_space_to_depth):
        run(graph)
        graph.drop_unused(last)
    biases(graph)
    graph.drop_unused(last)
    for node in graph.nodes:
        graph.check_known(node)
    last, one_output = end_at(graph, last, found)
    graph.drop_unused(last)
    if head is None:
        head = "sigmoid" if found == "sigmoid" and not one_output else "softmax"
    elif one_output and head == "sigmoid":
        head = "softmax"
    for node in graph.nodes:
        for what in ("weights", "bias"):
            array = getattr(node, what)
            if array is not None:
                with np.errstate(over="ignore"):
                    setattr(node, what, np.ascontiguousarray(array, np.float32))
    return Finished(graph.nodes, graph.affine, head, found or "", one_output, builder.notes)


class Graph:
    """The nodes under way. Nodes are replaced, not changed in place, where others may still read them."""

    def __init__(self, builder) -> None:
        self.nodes = list(builder.nodes)
        self.by_name = dict(builder.by_name)
        self.shapes = dict(builder.shapes)
        self.arithmetic = set(builder.arithmetic)
        self.origins = builder.origins
        self.affine = None
        self.note = builder.note

    def readers(self):
        """{name: nodes that read it}, a node that reads it twice counted twice."""
        result = {}
        for node in self.nodes:
            for name in node.inputs:
                result.setdefault(name, []).append(node)
        return result

    def drop_unused(self, last):
        wanted = {last}
        for node in reversed(self.nodes):
            if node.name in wanted:
                wanted.update(node.inputs)
        self.nodes = [node for node in self.nodes if node.name in wanted]

    def bypass(self, name, by):
        """Everything that reads `name` reads `by` instead."""
        for node in self.nodes:
            node.inputs = [by if other == name else other for other in node.inputs]

    def put(self, node, new):
        """`new` in the place of `node`, under its name; its output's shape is checked."""
        self.nodes[self.nodes.index(node)] = new
        self.by_name[new.name] = new
        self.shapes[new.name] = self.output_shape(new)
        if new.op != "batchnorm":
            self.arithmetic.discard(new.name)

    def insert_after(self, node, new):
        self.nodes.insert(self.nodes.index(node) + 1, new)
        self.by_name[new.name] = new
        self.shapes[new.name] = self.output_shape(new)
        self.origins[new.name] = self.origins.get(node.name, "")

    def output_shape(self, node):
        try:
            return output_shape(node, [self.shapes[name] for name in node.inputs])
        except ConvertError as problem:
            raise ConvertError(f"{self.origins.get(node.name, 'node ' + node.name)}: {problem}") from None

    def unique(self, name):
        while name in self.shapes:
            name += "_"
        return name

    def check_known(self, node):
        where = self.origins.get(node.name, f"node {node.name}")
        if node.op == "function":
            hint = "; it can only be the network's last operation" if "softmax" in node.kind else \
                "; AGF has no rule for it, replace it in the network by a function that has one " \
                f"({', '.join(sorted(ACTIVATIONS))})"
            raise ConvertError(f"{where}: {node.kind} is not understood here{hint}")
        if node.op == "pad" and node.alpha != 0:
            raise ConvertError(f"{where}: pads with {node.alpha:g}; only zeros are understood, or -inf in front of a max "
                               "pool")


def strip_head(graph, last):
    """Leave out what follows the logits: softmax, sigmoid, flatten. Returns the last node's name and the function."""
    found = None
    while True:
        node = graph.by_name[last]
        if node.op == "flatten" and node.inputs[0] != IMAGE:
            last = node.inputs[0]
        elif node.kind in ("softmax", "log_softmax", "sigmoid"):
            if found is not None:
                raise ConvertError(f"{graph.origins[last]}: a {node.kind} in front of the {found} at the end, which is "
                                   "not understood; choose the logits with --output")
            found, last = node.kind, node.inputs[0]
        else:
            return last, found


def merge_arithmetic(graph, last):
    """Scales and shifts one behind another as one; those that change nothing left out."""
    for node in graph.nodes:
        if node.name not in graph.arithmetic:
            continue
        before = graph.by_name.get(node.inputs[0])
        if before is not None and before.name in graph.arithmetic:
            scale, shift = before.weights * node.weights, before.bias * node.weights + node.bias
            node.inputs, node.weights, node.bias = list(before.inputs), scale, shift
    for node in graph.nodes:
        # A product of reciprocals written in float32 is 1 to within a few units of 2^-24.
        if node.name in graph.arithmetic and np.all(np.abs(node.weights - 1) < 1e-6) and not np.any(node.bias) and \
                node.name != last:
            graph.bypass(node.name, node.inputs[0])


def norm_parameters(graph):
    """A scale and shift behind a normalisation that nobody else reads are its gamma and beta."""
    readers = graph.readers()
    for node in list(graph.nodes):
        before = graph.by_name.get(node.inputs[0])
        if node.name in graph.arithmetic and before is not None and before.op == "norm" and not before.response and \
                len(readers[before.name]) == 1:
            before.weights = before.weights * node.weights
            before.bias = before.bias * node.weights + node.bias
            graph.bypass(node.name, before.name)


def biases(graph):
    """A shift behind a convolution or linear layer without a bias that nobody else reads is its bias."""
    readers = graph.readers()
    for node in list(graph.nodes):
        before = graph.by_name.get(node.inputs[0])
        if node.name in graph.arithmetic and np.all(node.weights == 1) and before is not None and \
                before.op in ("conv", "linear") and before.bias is None and len(readers[before.name]) == 1:
            before.bias = node.bias
            graph.bypass(node.name, before.name)


def hardsigmoids(graph):
    """clip(a * x + c, lo, hi) * s + b with the bounds 0 and 1 is a hardsigmoid."""
    def uniform(name) -> tuple[str, float, float]:
        node = graph.by_name.get(name)
        if node is None or name not in graph.arithmetic or np.ptp(node.weights) or np.ptp(node.bias):
            return name, 1.0, 0.0
        return node.inputs[0], float(node.weights[0]), float(node.bias[0])

    def clipped(node) -> tuple[float, float] | None:
        if node is not None and node.op == "relu6":
            return 0.0, 6.0
        return (node.lo, node.hi) if node is not None and node.kind == "clip" else None

    for node in list(graph.nodes):
        middle, scale, shift = uniform(node.name)
        clip = graph.by_name.get(middle)
        bounds = clipped(clip)
        if bounds is None or not np.allclose([scale * bound + shift for bound in bounds], (0, 1), atol=1e-6):
            continue
        x, a, c = uniform(clip.inputs[0])
        graph.put(node, Node("act", node.name, [x], kind="hardsigmoid", alpha=a * scale, beta=c * scale + shift))


def pool_twice(graph):
    """A mean over rows and then over columns is a mean over both; a maximum likewise."""
    for node in list(graph.nodes):
        before = graph.by_name.get(node.inputs[0])
        pair = {"global_avgpool": "avgpool", "global_maxpool": "maxpool"}.get(node.op)
        if pair is None or before is None or before.op != pair or any(before.pad) or before.kernel != before.stride:
            continue
        shape = graph.shapes[before.inputs[0]]
        if before.kernel in ((shape[1], 1), (1, shape[2])):
            graph.put(node, replace(node, inputs=list(before.inputs)))


def nonnegative(graph, name):
    """Whether a tensor holds nothing below zero; graph: anything with the nodes by_name."""
    through = {"maxpool", "avgpool", "adaptive_avgpool", "global_avgpool", "global_maxpool", "concat", "slice", "shuffle",
               "pad", "resize", "flatten", "add", "lrn", "mul"}
    node = graph.by_name.get(name)
    if node is None:
        return False
    if node.op in ("relu", "relu6") or node.kind in ("sigmoid", "hardsigmoid", "softplus", "softmax") or \
            node.kind == "clip" and node.lo >= 0:
        return True
    return node.op in through and all(nonnegative(graph, other) for other in node.inputs)


def absorb_pads(graph):
    """Padding into the convolution or pool that reads it, where it changes nothing; else it stays a node of its own."""
    for node in list(graph.nodes):
        before = graph.by_name.get(node.inputs[0])
        if node.op not in ("conv", "maxpool", "avgpool") or before is None or before.op != "pad" or \
                before.border != "zeros":
            continue
        pad = tuple(a + b for a, b in zip(node.pad, before.pad))
        new = replace(node, inputs=list(before.inputs), pad=pad)
        if node.op == "avgpool":
            new.count_include_pad = any(pad)
        fits = max(p - k for p, k in zip(pad, tuple(node.kernel) * 2)) < 0  # every window reaches into the image
        value = before.alpha
        if node.op == "conv":
            good = value == 0
        elif node.op == "maxpool":
            # The ceiling rule may count the windows otherwise once the rows are padding.
            good = fits and (value == -math.inf or value == 0 and nonnegative(graph, before.inputs[0]))
        else:
            good = fits and value == 0 and not node.ceil_mode and (node.count_include_pad or not any(node.pad))
        if good and graph.output_shape(new) == graph.shapes[node.name]:
            graph.put(node, new)
        elif value != 0:
            raise ConvertError(f"{graph.origins[node.name]}: reads what {graph.origins[before.name]} has padded with "
                               f"{value:g}; only zeros are understood, or -inf where every window of a max pool "
                               "reaches into its input")


def affine_before_linear(graph):
    """A scale and shift for each element of a flattened picture, which no node can say, into the linear layers that
    read it."""
    for node in list(reversed(graph.nodes)):
        root = graph.by_name.get(node.inputs[0])
        while root is not None and root.op == "batchnorm":
            root = graph.by_name.get(root.inputs[0])
        if node.op != "batchnorm" or root is None or root.op != "flatten":
            continue
        shape = graph.shapes[root.inputs[0]]
        if len(shape) == 1 or shape[1:] == (1, 1):
            continue
        readers = graph.readers().get(node.name, [])
        if any(reader.op != "linear" for reader in readers):
            raise ConvertError(f"{graph.origins[node.name]}: scales each element of a flattened {describe([shape])}, "
                               "which only linear layers behind it can take in")
        for reader in readers:
            weights = reader.weights.astype(np.float64)
            bias = weights @ node.bias.astype(np.float64) + (0 if reader.bias is None else reader.bias)
            graph.put(reader, replace(reader, inputs=list(node.inputs), weights=weights * node.weights, bias=bias))
        graph.nodes.remove(node)


def parts_of_joins(graph):
    """A slice of joined tensors that is one of them is that one."""
    for node in list(graph.nodes):
        before = graph.by_name.get(node.inputs[0])
        if node.op != "slice" or before is None or before.op != "concat":
            continue
        start = 0
        for name in before.inputs:
            channels = graph.shapes[name][0]
            if (start, start + channels) == (node.start, node.stop) and graph.shapes[name] == graph.shapes[node.name]:
                graph.bypass(node.name, name)
            start += channels


def gates_as_pictures(graph):
    """A gate that linear layers make, a vector, as one that 1x1 convolutions make, [C,1,1]: what a product reads."""
    def picture(name) -> str:
        node = graph.by_name.get(name)
        if node is None or len(graph.shapes[name]) == 3:
            return name
        if node.op == "flatten":
            if graph.shapes[node.inputs[0]][1:] == (1, 1):
                return node.inputs[0]
        elif node.op == "linear":
            new = Node("conv", graph.unique(name), [picture(node.inputs[0])], kernel=(1, 1), stride=(1, 1), dilation=(1, 1),
                       groups=1, weights=node.weights[:, :, None, None], bias=node.bias)
            graph.insert_after(node, new)
            return new.name
        elif node.op == "batchnorm" or node.op in OPS and OPS[node.op].elementwise:
            new = replace(node, name=graph.unique(name), inputs=[picture(other) for other in node.inputs])
            graph.insert_after(node, new)
            if name in graph.arithmetic:
                graph.arithmetic.add(new.name)
            return new.name
        raise ConvertError(f"{graph.origins[name]}: makes a gate of a flattened tensor, which is not understood; use 1x1 "
                           "convolutions instead of linear layers")

    for node in list(graph.nodes):
        if node.op == "mul" and len(graph.shapes[node.name]) == 3 and len(graph.shapes[node.inputs[1]]) == 1:
            node.inputs = [node.inputs[0], picture(node.inputs[1])]


# The image

def read_image(graph):
    """What the network does to its input's channels before anything else: into graph.affine and the first weights."""
    channels = graph.shapes[IMAGE][0]
    readings = {IMAGE: (np.arange(channels), np.ones(channels), np.zeros(channels))}
    users = []
    for node in graph.nodes:
        if not all(name in readings for name in node.inputs) or node.op not in ("batchnorm", "slice", "shuffle", "concat"):
            users += [(node, name) for name in set(node.inputs) & set(readings)]
            continue
        order, scale, shift = (np.concatenate(parts) for parts in zip(*(readings[name] for name in node.inputs)))
        if node.op == "batchnorm":
            scale, shift = scale * node.weights, shift * node.weights + node.bias
        elif node.op == "slice":
            order, scale, shift = (array[node.start:node.stop] for array in (order, scale, shift))
        elif node.op == "shuffle":
            order, scale, shift = (array[list(node.perm)] for array in (order, scale, shift))
        readings[node.name] = order, scale, shift
    used = [readings[name] for _, name in users]
    if not used or all(name == IMAGE for _, name in users):
        return
    order, scale, shift = used[0]
    if any(not all(np.array_equal(mine, other) for mine, other in zip(used[0], others)) for others in used[1:]):
        graph.note("the network reads its input in several ways; what it does to it stays in the network, so that the "
                   "first layers are attributed like inner ones")
        return
    in_order = np.array_equal(order, np.arange(channels))
    image_scale, image_shift = np.ones(channels), np.zeros(channels)
    image_scale[order], image_shift[order] = scale, shift
    same = np.array_equal(image_scale[order], scale) and np.array_equal(image_shift[order], shift)
    foldable = in_order or same and all(node.op == "conv" and node.groups == 1 for node, _ in users)
    with np.errstate(over="ignore"):
        usable = np.all(np.isfinite(image_scale.astype(np.float32)) & (image_scale.astype(np.float32) != 0))
    if not (foldable and usable):
        graph.note("the network changes its input in a way that the file's input record cannot say; it stays in the "
                   "network, so that the first layers are attributed like inner ones")
        return
    for node, name in users:
        new = replace(node, inputs=[IMAGE if other == name else other for other in node.inputs])
        if not in_order:
            new.weights = np.zeros((len(node.weights), channels) + node.weights.shape[2:], np.float64)
            for mine, channel in enumerate(order):
                new.weights[:, channel] += node.weights[:, mine]
        graph.put(node, new)
    if np.any(image_scale != 1) or np.any(image_shift != 0):
        graph.affine = image_scale.astype(np.float32), image_shift.astype(np.float32)


def absorb_space_to_depth(graph):
    """A convolution that reads blocks of the image's pixels as channels, as one that reads the image."""
    for node in list(graph.nodes):
        before = graph.by_name.get(node.inputs[0])
        if node.op != "conv" or node.groups != 1 or node.dilation != (1, 1) or before is None or \
                before.op != "conv" or before.inputs != [IMAGE] or ".space_to_depth" not in before.name:
            continue
        block, (outputs, _, *kernel) = before.kernel, node.weights.shape
        weights = np.zeros((outputs, before.weights.shape[1], kernel[0] * block[0], kernel[1] * block[1]))
        for mine, channel, i, j in np.argwhere(before.weights):
            weights[:, channel, i::block[0], j::block[1]] += node.weights[:, mine]
        pad = tuple(p * b for p, b in zip(node.pad, block * 2))
        graph.put(node, replace(node, inputs=[IMAGE], weights=weights, kernel=weights.shape[2:], pad=pad,
                                stride=tuple(s * b for s, b in zip(node.stride, block))))


# The end

def linear_of(graph, name):
    """(input, weights, bias) of a linear layer, a convolution of one pixel to one, a scaled one, or a sum of such;
    None.

    In double; the bias is an array.
    """
    node = graph.by_name.get(name)
    if node is None:
        return None
    if node.op == "flatten" and graph.shapes[node.inputs[0]][1:] in ((), (1, 1)):
        return linear_of(graph, node.inputs[0])
    if node.op == "linear" or node.op == "conv" and covers_input(graph, node):
        weights = node.weights.reshape(len(node.weights), -1).astype(np.float64)
        bias = np.zeros(len(weights)) if node.bias is None else node.bias.astype(np.float64)
        return node.inputs[0], weights, bias
    if node.op == "batchnorm":
        inner = linear_of(graph, node.inputs[0])
        if inner is not None:
            scale = node.weights.astype(np.float64)
            return inner[0], inner[1] * scale[:, None], inner[2] * scale + node.bias
    if node.op == "add":
        parts = [linear_of(graph, other) for other in node.inputs]
        if None not in parts and len({part[0] for part in parts}) == 1 and \
                len({part[1].shape for part in parts}) == 1:
            return parts[0][0], sum(part[1] for part in parts), sum(part[2] for part in parts)
    return None


def covers_input(graph, node):
    """Whether a window's kernel is its whole input, without padding."""
    before = graph.shapes[node.inputs[0]]
    before = before + (1, 1) if len(before) == 1 else before
    return not any(node.pad) and tuple(node.kernel) == before[1:] and graph.shapes[node.name][1:] == (1, 1) and \
        node.groups in (0, 1)


def fold_end(graph, last):
    """What is affine behind the last layer into it; behind a pool, a linear layer of its own."""
    node = graph.by_name[last]
    if node.op not in ("batchnorm", "add"):
        return last
    folded = linear_of(graph, last)
    if folded is not None:
        source, weights, bias = folded
        if len(graph.shapes[source]) == 3:
            source = flatten_for(graph, node, source)
        graph.put(node, Node("linear", node.name, [source], weights=weights, bias=bias))
    elif node.op == "batchnorm" and all(size == 1 for size in graph.shapes[node.inputs[0]][1:]):
        source = node.inputs[0]
        if len(graph.shapes[source]) == 3:
            source = flatten_for(graph, node, source)
        graph.put(node, Node("linear", node.name, [source], weights=np.diag(node.weights.astype(np.float64)),
                             bias=node.bias))
    return last


def flatten_for(graph, node, source):
    """The name of a new flatten node in front of `node`."""
    flatten = Node("flatten", graph.unique(f"{node.name}.flatten"), [source])
    graph.nodes.insert(graph.nodes.index(node), flatten)
    graph.by_name[flatten.name] = flatten
    graph.shapes[flatten.name] = graph.output_shape(flatten)
    return flatten.name


def end_at(graph, last, found):
    """The logits in a form that the attribution can start from; (last node, whether there was one output)."""
    node = graph.by_name[last]
    shape = graph.shapes[last]
    where = graph.origins.get(last, f"node {last}")
    if node.op in ("avgpool",) and covers_input(graph, node):
        graph.put(node, Node("global_avgpool", last, node.inputs))
    elif node.op == "conv" and covers_input(graph, node):
        # The same sums as a linear layer's; the attribution starts at those.
        source = node.inputs[0]
        if len(graph.shapes[source]) == 3:
            source = flatten_for(graph, node, source)
        graph.put(node, Node("linear", last, [source], weights=node.weights.reshape(len(node.weights), -1),
                             bias=node.bias))
    elif node.op not in ("linear", "global_avgpool"):
        raise ConvertError(f"{where} ({node.op}) makes the output; AGF can start from a linear layer or a global average "
                           "pool (choose the logits with --output)")
    if shape[0] > 1:
        return last, False
    if "softmax" in (found or ""):
        raise ConvertError(f"{where}: a softmax of one output is always 1; this is no classifier")
    node = graph.by_name[last]
    if node.op != "linear":
        source = flatten_for(graph, node, last)  # in front, to be moved behind
        flatten = graph.by_name[source]
        graph.nodes.remove(flatten)
        graph.nodes.insert(graph.nodes.index(node) + 1, flatten)
        name = graph.unique(f"{last}.classes")
        two = Node("linear", name, [source], weights=np.array([[-0.5], [0.5]]), bias=np.zeros(2))
        graph.insert_after(flatten, two)
        last = name
    else:
        bias = np.zeros(1) if node.bias is None else node.bias
        graph.put(node, replace(node, weights=np.concatenate([-0.5 * node.weights, 0.5 * node.weights]),
                                bias=np.concatenate([-0.5 * bias, 0.5 * bias])))
    graph.note("the network has one output z; the file has two classes with the logits -z/2 and z/2, whose softmax is "
               "z's sigmoid")
    return last, True


# Flat convolutions

def mark_flat(nodes, published=False):
    """Set the flat flags (agf-spec, "Conv, flat"); published: the published code's, for ResNets' basic blocks."""
    made_by = {node.name: node for node in nodes}

    def reads_sum(node) -> bool:
        producer = made_by.get(node.inputs[0])
        while producer is not None and OPS[producer.op].passes_sum:
            producer = made_by.get(producer.inputs[0])
        return producer is not None and producer.op == "add"

    for node in nodes:
        node.flat = node.op == "conv" and (tuple(node.kernel) == (1, 1) or reads_sum(node))
    if published:
        for first, second in basic_blocks(nodes, made_by):
            first.flat, second.flat = False, True


def basic_blocks(nodes, made_by):
    """(first, second) convolution of each basic block: bn(conv(relu(bn(conv(x))))) + x, or + bn(conv(x))."""
    def up(name, *ops: str) -> Node | None:
        """The producer of a tensor, any of `ops` skipped."""
        node = made_by.get(name)
        while node is not None and node.op in ops:
            node = made_by.get(node.inputs[0])
        return node

    for node in nodes:
        if node.op != "add" or len(node.inputs) != 2:
            continue
        for branch, shortcut in (node.inputs, node.inputs[::-1]):
            second = up(branch, "batchnorm")
            first = up(second.inputs[0], "batchnorm", "relu") if second is not None and second.op == "conv" else None
            if first is None or first.op != "conv" or (1, 1) in (tuple(first.kernel), tuple(second.kernel)):
                continue
            other = up(shortcut, "batchnorm")
            projected = other is not None and other.op == "conv" and other.inputs == first.inputs
            if first.inputs == [shortcut] or projected:
                yield first, second
