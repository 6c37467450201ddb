"""ONNX files to networks: reading and walking the graph. What each operation means stands in onnx_ops.py."""
import os
from typing import Any

import numpy as np

from . import foreign, onnx_constants, onnx_external, onnx_ops, patterns
from .builder import Builder, Value
from .errors import ConvertError, describe, first_line
from .frontend import Imported
from .passes import finish

OPSETS = range(7, 26)
MAX_CALLS = 64       # functions that call each other; exporters' call some five deep
MAX_GROWN = 1 << 28  # bytes that a graph may grow by when functions are put in place
MAX_GRAPH = 1 << 17  # nodes after inlining: far beyond any image classifier, far below what fills a machine's memory


class GraphNode:
    """A node of the graph, as its handler sees it: b is the Builder, opset the version of its domain."""

    def __init__(self, walk, proto) -> None:
        self.walk, self.proto, self.b = walk, proto, walk.builder
        self.op, self.domain = proto.op_type, proto.domain if proto.domain != "ai.onnx" else ""
        self.opset = walk.opset_of(self.domain)
        self.outputs = list(proto.output)

    def describe(self):
        domain = f"{self.domain}::" if self.domain else ""
        return f"node {self.proto.name or self.outputs[0]} ({domain}{self.op})"

    def error(self, what):
        return self.b.error(what)

    def attribute(self, name, default=None):
        import onnx
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return default

    def option(self, argument, name, default=None):
        """What newer opsets take as a constant input (argument, None: left out) and older ones as an attribute."""
        return self.attribute(name, default) if argument is None else self.constant(argument, name)

    def ints(self, argument, name, default=None):
        """option() as a list of ints; None where there is neither."""
        array = self.option(argument, name, default)
        return None if array is None else [int(number) for number in np.ravel(array)]

    def constant(self, argument, what):
        if isinstance(argument, Value):
            raise self.error(f"its {what} depends on the image; export the network with fixed sizes and weights")
        return argument

    def weights(self, argument, what):
        """A constant tensor as float32, f16 widened exactly."""
        array = self.constant(argument, what)
        if array is None:
            raise self.error(f"has no {what}")
        if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise self.error(f"its {what} are {array.dtype.name}, not floating point numbers")
        with np.errstate(over="ignore"):
            return np.asarray(array, np.float32)

    def is_used(self, index):
        """Whether an output of the node is read by anything that the logits depend on."""
        return index < len(self.outputs) and self.walk.readers.get(self.outputs[index], 0) > 0


class Walk:
    """One walk over a graph: from its nodes, in the order of their needs, to calls of the Builder."""

    def __init__(self, opsets, builder, values, batch=1) -> None:
        """opsets: {domain: version}; values: {tensor name: array or Value} of what is there at the start."""
        self.opsets, self.builder, self.values, self.batch = opsets, builder, values, batch
        self.readers = {}
        self.quantised = False  # whether activations of the original are rounded to integers
        self.shortcuts = {}     # output of a node that ends a known pattern -> (what makes it, the tensor that it needs)

    def opset_of(self, domain):
        return self.opsets.get(domain, self.opsets.get("ai.onnx", 0) if domain == "" else 1)

    def run(self, nodes, outputs):
        """Convert what the tensors `outputs` depend on; their values."""
        for node in self._in_order(nodes, outputs):
            self._convert(GraphNode(self, node))
        for name in outputs:
            if name not in self.values:
                raise ConvertError(f"the output {name} is made by no node")
        return [self.values[name] for name in outputs]

    def _in_order(self, nodes, outputs) -> list:
        """The nodes that the outputs depend on, each behind those that it reads. Others (auxiliary heads) are left
        out."""
        made_by = {name: node for node in nodes for name in node.output if name}
        self.shortcuts = find_shortcuts(self, nodes, made_by)
        order, state = [], {}
        stack = [(made_by[name], False) for name in outputs if name in made_by]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
                state[id(node)] = 2
                continue
            if state.get(id(node)) == 2:
                continue
            if state.get(id(node)) == 1:
                raise ConvertError(f"node {node.name or node.output[0]} ({node.op_type}): depends on its own output")
            state[id(node)] = 1
            stack.append((node, True))
            for name in reversed(self._needs(node)):
                maker = made_by.get(name)
                if maker is not None and name not in self.values and state.get(id(maker)) != 2:
                    if state.get(id(maker)) == 1:
                        raise ConvertError(f"node {maker.name or maker.output[0]} ({maker.op_type}): depends on its own "
                                           "output")
                    stack.append((maker, False))
        for node in order:
            for name in self._needs(node):
                self.readers[name] = self.readers.get(name, 0) + 1
        for name in outputs:
            self.readers[name] = self.readers.get(name, 0) + 1
        return order

    def _needs(self, node) -> list[str]:
        shortcut = self.shortcuts.get(node.output[0]) if node.output else None
        return inputs_of(node) if shortcut is None else [shortcut[1]]

    def _convert(self, node) -> None:
        proto = node.proto
        self.builder.at(proto.name or proto.output[0], node.describe())
        shortcut = self.shortcuts.get(proto.output[0]) if proto.output else None
        if shortcut is not None and isinstance(self.values.get(shortcut[1]), Value):
            self.values[proto.output[0]] = shortcut[0](self.builder, self.values[shortcut[1]])
            return
        arguments = []
        for name in proto.input:
            if name and name not in self.values:
                raise node.error(f"reads {name}, which nothing before it makes")
            arguments.append(self.values[name] if name else None)
        if node.op == "If" and node.domain == "":
            results = self._branch(node, arguments[0])
        elif not any(isinstance(argument, Value) for argument in arguments) and node.op != "DequantizeLinear":
            results = onnx_constants.fold(node, arguments)
        else:
            results = self._call(node, arguments)
            self._charge(results, arguments)
        for name, result in zip(proto.output, results if isinstance(results, list) else [results]):
            if name:
                self.values[name] = result

    def _call(self, node, arguments) -> Any:
        handler = onnx_ops.REGISTRY.find(f"{node.domain}::{node.op}" if node.domain else node.op, node.opset)
        if handler is None:
            raise node.error("AGF has no rule for this operation")
        if node.domain == "":
            self._check_schema(node)
        try:
            return handler(node, *arguments)
        except ConvertError:
            raise
        except Exception as problem:  # a malformed node, in a way that its handler did not think of
            raise node.error(f"cannot be understood ({type(problem).__name__}: {first_line(problem)}); is the file "
                             "damaged?") from problem

    def _charge(self, results, arguments) -> None:
        """Count the constants that a handler has made."""
        for result in results if isinstance(results, list) else [results]:
            if isinstance(result, np.ndarray) and not any(result is argument for argument in arguments):
                self.builder.computing(result.shape)

    def _check_schema(self, node) -> None:
        import onnx
        context = onnx.checker.C.CheckerContext()
        context.ir_version, context.opset_imports = onnx.IR_VERSION, {"": node.opset, "ai.onnx": node.opset}
        try:
            onnx.checker.check_node(node.proto, context)
        except (onnx.checker.ValidationError, UnicodeDecodeError) as problem:  # its text quotes the file, UTF-8 or not
            raise node.error(f"not valid in opset {node.opset} ({first_line(problem)})") from None

    def _branch(self, node, condition) -> Any:
        """An If whose condition is known: the nodes of the branch that is taken."""
        chosen = "then_branch" if np.all(node.constant(condition, "condition")) else "else_branch"
        graph = node.attribute(chosen)
        inner = Walk(self.opsets, self.builder, dict(self.values), self.batch)
        inner.values.update(constants_of(graph))
        return inner.run(list(graph.node), [output.name for output in graph.output])


class GraphView:
    """A graph as patterns.py looks at it; its nodes are the names of tensors."""
    NAMES = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Sqrt": "sqrt", "ReduceMean": "mean",
             "ReduceL2": "norm2", "Neg": "neg", "Reciprocal": "reciprocal"}

    def __init__(self, walk, made_by) -> None:
        self.walk, self.made_by = walk, made_by

    def op(self, name):
        node = self.made_by.get(name)
        return self.NAMES.get(node.op_type, "") if node is not None and node.domain in ("", "ai.onnx") else ""

    def arguments(self, name):
        return list(self.made_by[name].input)

    def constant(self, name):
        import onnx
        value = self.walk.values.get(name)
        node = self.made_by.get(name)
        if value is None and node is not None and node.op_type == "Constant" and node.attribute[0].HasField("t"):
            value = onnx.numpy_helper.to_array(node.attribute[0].t)
        return value if isinstance(value, np.ndarray) else None

    def axes(self, name):
        node = GraphNode(self.walk, self.made_by[name])
        axes = self.constant(node.proto.input[1]) if len(node.proto.input) > 1 else node.attribute("axes")
        if axes is None or not node.attribute("keepdims", 1):
            return None
        return tuple(sorted(int(axis) for axis in np.ravel(axes)))


def find_shortcuts(walk, nodes, made_by):
    """{a node's output: (what makes it, the tensor that it needs)} for nodes that end a known pattern."""
    view, found = GraphView(walk, made_by), {}
    for node in nodes:
        if node.op_type in ("Div", "Add", "Sub", "Mul") and len(node.output) == 1:
            match = patterns.find(view, node.output[0])
            if match is not None:
                found[node.output[0]] = match
    return found


def inputs_of(node):
    """The tensors that a node reads, its subgraphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            own = {name for inner in graph.node for name in inner.output} | {t.name for t in graph.initializer}
            names += [name for inner in graph.node for name in inputs_of(inner) if name not in own]
            names += [output.name for output in graph.output if output.name not in own]
    return names


def constants_of(graph):
    import onnx
    constants = {}
    for tensor in graph.initializer:
        try:
            constants[tensor.name] = onnx.numpy_helper.to_array(tensor)
        except Exception as problem:  # sizes that do not fit, a type that NumPy has not
            raise ConvertError(f"initializer {tensor.name}: cannot be read ({first_line(problem)}); is the file "
                               "damaged?") from None
    return constants


def load(path):
    """The ModelProto, external data and local functions included, and the files that it was read from."""
    import onnx
    import onnx.inliner
    files = [path]
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as problem:
        raise ConvertError(f"{path}: {problem.strerror or first_line(problem)}{foreign.advice(path)}") from None
    except Exception as problem:  # protobuf's DecodeError, by whichever of its implementations is installed
        raise ConvertError(f"{path}: not an ONNX file ({first_line(problem)}){foreign.advice(path)}") from None
    if not model.graph.node:
        raise ConvertError(f"{path}: not an ONNX file, or an empty one{foreign.advice(path)}")
    check_names(model, path)
    files += onnx_external.load(model, path)
    if model.functions:
        check_functions(model, path)
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as problem:  # the inliner's own
            raise ConvertError(f"{path}: its functions cannot be put in place ({first_line(problem)})") from None
    return model, sorted(set(files))


def check_names(model, path):
    for node in model.graph.node:
        for name in (node.name, node.op_type, *node.input, *node.output):
            if isinstance(name, bytes):  # what protobuf makes of text that is not UTF-8
                raise ConvertError(f"{path}: a node's name is not UTF-8 text: {name!r:.80}")


def check_functions(model, path):
    """Refuse functions that call themselves, and those that grow beyond measure when they are put in place."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes = {}

    def total(nodes, calls) -> tuple[int, int, int]:
        """(nodes, bytes, depth of calls) of nodes with their functions in place; calls: those that they stand in."""
        parts = [size_of((node.domain, node.op_type), calls) if (node.domain, node.op_type) in functions else
                 (1, node.ByteSize(), 0) for node in nodes]
        return sum(part[0] for part in parts), sum(part[1] for part in parts), max((part[2] for part in parts), default=0)

    def check(what, size) -> None:
        if size[0] > MAX_GRAPH:
            raise ConvertError(f"{path}: {what} stands for more than {MAX_GRAPH} nodes")
        if size[2] > MAX_CALLS:
            raise ConvertError(f"{path}: {what} goes through more than {MAX_CALLS} functions that call each other")
        if size[1] > held + MAX_GROWN:
            raise ConvertError(f"{path}: {what} stands for {size[1]} bytes of constants and nodes; {MAX_GROWN} more than the "
                               "file's own are understood")

    def size_of(key, calls) -> tuple[int, int, int]:
        if key in calls:
            raise ConvertError(f"{path}: the function {key[1]} calls itself; only plain graphs are understood")
        if len(calls) >= MAX_CALLS:
            raise ConvertError(f"{path}: the function {key[1]} is called by more than {MAX_CALLS}, each by the next")
        if key not in sizes:
            nodes, size, depth = total(functions[key].node, (*calls, key))
            sizes[key] = nodes, size, depth + 1
            check(f"the function {key[1]}", sizes[key])
        return sizes[key]

    held = sum(node.ByteSize() for graph in (model.graph, *model.functions) for node in graph.node)
    check("the graph with its functions put in place", total(model.graph.node, ()))


def opsets_of(model, path):
    opsets = {}
    for entry in model.opset_import:
        opsets["" if entry.domain == "ai.onnx" else entry.domain] = entry.version
    if opsets.get("", 0) not in OPSETS:
        raise ConvertError(f"{path}: opset {opsets.get('', 0)}; {OPSETS[0]} to {OPSETS[-1]} are understood")
    return opsets


def image_input(graph, constants, size, layout):
    """(name, [C, H, W], layout, batch, element type) of the graph's one input; size (height, width) replaces its
    own."""
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ConvertError(f"the network must have one input, the image; it has {names}")
    tensor = inputs[0].type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
    what = f"input {inputs[0].name}"
    if len(dims) != 4:
        raise ConvertError(f"{what} has {len(dims)} dimensions; an image batch [1,C,H,W] or [1,H,W,C] is needed")
    if layout is None:
        # Pictures have up to four channels; a first size of that kind is the channels in doubt.
        layout = "NHWC" if dims[3] in (1, 3, 4) and dims[1] not in (1, 3, 4) else "NCHW"
    channels, *own = (dims[1], dims[2], dims[3]) if layout == "NCHW" else (dims[3], dims[1], dims[2])
    if channels < 1:
        raise ConvertError(f"{what} has a dynamic number of channels; export the network with a fixed one")
    height, width = size or own
    if height < 1 or width < 1:
        raise ConvertError(f"{what} has a dynamic height and width; say --size WxH")
    return inputs[0].name, (channels, height, width), layout, max(dims[0], 1), tensor.elem_type


# How far the original's logits may lie from ours, relative: float32 sums in another order differ by 1e-6 to 1e-5, the
# activations of a network in f16, which ours keeps in f32, by 2^-11 each.
SINGLE, HALF = 1e-3, 3e-2
LABEL_OPS = ("ArgMax", "TopK")


def choose_output(graph, output, path):
    """The name of the output to explain: the user's, or the only one that is no label."""
    made_by = {name: node for node in graph.node for name in node.output if name}
    names = [value.name for value in graph.output]
    if output is not None:
        if output not in names and output not in made_by:
            raise ConvertError(f"{path}: has no output {output}, but {', '.join(names)}")
        return output

    def is_label(name) -> bool:
        node = made_by.get(name)
        while node is not None and node.op_type in ("Cast", "Squeeze", "Unsqueeze", "Reshape", "Identity", "Gather"):
            node = made_by.get(node.input[0])
        return node is not None and node.op_type in LABEL_OPS + ("ZipMap",)

    scores = [name for name in names if not is_label(name)]
    if not scores and names:  # only the label is handed out: explain what it is chosen from
        node = made_by[names[0]]
        while node.op_type not in LABEL_OPS:
            node = made_by[node.input[0]]
        return node.input[0]
    if len(scores) != 1:
        described = []
        for value in graph.output:
            dims = [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
            described.append(f"{value.name} {describe([dims])}")
        raise ConvertError(f"{path}: has the outputs {', '.join(described)}; the attribution starts from one vector of "
                           "logits, choose it with --output")
    return scores[0]


INTEGERS = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 6: (0, 255), 7: (0, 255)}  # TensorProto's


def read(path, size=None, output=None, layout=None, head=None):
    """An ONNX file as Imported. size (height, width) replaces the input's own; output: the logits' name."""
    model, files = load(path)
    graph, opsets = model.graph, opsets_of(model, path)
    if graph.sparse_initializer:
        raise ConvertError(f"{path}: sparse weights are not understood; store them densely")
    constants = constants_of(graph)
    image, input_shape, layout, batch, element = image_input(graph, constants, size, layout)
    output = choose_output(graph, output, path)
    if len(graph.node) > MAX_GRAPH:
        raise ConvertError(f"{path}: {len(graph.node)} nodes; {MAX_GRAPH} are understood")
    builder = Builder(input_shape)
    builder.budget = onnx_constants.MAX_ELEMENTS + onnx_constants.STEPS * sum(map(os.path.getsize, files))
    integer = element in INTEGERS
    values = {**constants, image: builder.image(layout, integer)}
    if batch > 1:
        builder.note(f"the original takes batches of {batch}; the file takes one picture at a time")
    if layout == "NHWC":
        builder.note("the original takes [H,W,C]; the file takes the same numbers as [C,H,W]")
    walk = Walk(opsets, builder, values, batch)
    (result,) = walk.run(list(graph.node), [output])
    if not isinstance(result, Value):
        raise ConvertError(f"output {output} does not depend on the image")
    finished = finish(builder, result, head)
    return Imported(finished, input_shape, reference(path, model, image, output, layout, batch, element),
                    "ONNX Runtime", INTEGERS.get(element), files, exact=not walk.quantised,
                    tolerance=HALF if any(tensor.data_type == 10 for tensor in graph.initializer) else SINGLE)


def reference(path, model, image, output, layout, batch, element):
    """A function that runs the original file in ONNX Runtime; None where that is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None

    def run(tensors) -> list[np.ndarray]:
        import onnx
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Fused kernels round otherwise, and Runtime's optimiser is no part of the original.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        names = [value.name for value in model.graph.output]
        if output in names:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        else:
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(output))
            session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
        outputs = []
        for tensor in tensors:
            x = np.asarray(tensor).astype(dtype)[None]
            x = np.ascontiguousarray(np.repeat(x if layout == "NCHW" else x.transpose(0, 2, 3, 1), batch, 0))
            result = np.asarray(session.run([output], {image: x})[0], np.float64)
            outputs.append(result.reshape(batch, -1)[0] if result.size % batch == 0 else result.ravel())
        return outputs

    return run

