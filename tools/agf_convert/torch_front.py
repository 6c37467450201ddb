"""torch modules to networks, through torch.export: walking the exported graph. What its operations mean:
torch_ops.py."""
import contextlib
import copy
import io
import logging
import re
import warnings

import numpy as np

from . import torch_ops
from .builder import Builder, Value
from .errors import ConvertError, first_line
from .frontend import NO_ATTENTION, Imported
from .passes import finish


def evaluation_copy(module):
    """A copy of a module in evaluation mode, on the CPU, in float32; the module itself is not changed."""
    import torch
    # Modules may keep activations, which deepcopy refuses because they know how they were computed.
    memo = {}
    for child in module.modules():
        for value in vars(child).values():
            if torch.is_tensor(value) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo).cpu().float().eval()


@contextlib.contextmanager
def quiet():
    """torch's remarks on its own affairs stay away from the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(sink), contextlib.redirect_stdout(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def check_module(module):
    """Refuse, with what to do, what torch.export has no clear words for."""
    import torch
    if not isinstance(module, torch.nn.Module):
        kind = type(module).__name__
        way = {"ExportedProgram": "convert its module()", "str": "load it first: a path is no network",
               "OrderedDict": "a state dict has weights alone: load it into the network that it belongs to"}
        raise ConvertError(f"a torch.nn.Module is needed, not {kind}; {way.get(kind, 'give the network itself')}")
    if isinstance(module, torch.jit.ScriptModule):
        raise ConvertError("a TorchScript module, which torch.export does not take: convert the module that it was made from, or "
                           "the ONNX file that torch.onnx.export(module, (torch.zeros(1, C, H, W),), \"net.onnx\", dynamo=False) "
                           "makes of it")
    for name, child in module.named_modules():
        if ".quantized" in type(child).__module__ and hasattr(child, "_packed_params"):
            raise ConvertError(f"module {name} ({type(child).__name__}) is quantised, which is not understood in PyTorch: "
                               "convert the float network that it was made from, or a quantised file of ONNX or TensorFlow Lite")


def export(module, input_shape):
    """The ExportedProgram of a module for one image."""
    import torch
    if not hasattr(torch, "export") or not hasattr(torch.export, "export"):
        raise ConvertError(f"torch {torch.__version__} has no torch.export; 2.4 or newer is needed")
    example = (torch.zeros(1, *input_shape),)
    problems = []
    for options in ({"strict": False}, {"strict": True}):
        with quiet(), torch.no_grad():
            try:
                return torch.export.export(module, example, **options)
            except Exception as problem:  # whatever the module's forward or the exporter raises
                problems.append(problem)
    raise ConvertError(f"torch.export: {first_line(problems[0])}; the module must take a tensor "
                       f"[1,{','.join(map(str, input_shape))}] without looking at its values") from problems[0]


class GraphNode:
    """A node of the exported graph, as its handler sees it: b is the Builder."""

    def __init__(self, walk, fx, name, op) -> None:
        self.walk, self.fx, self.b, self.name, self.op = walk, fx, walk.builder, name, op

    def error(self, what):
        return self.b.error(what)

    @staticmethod
    def array(tensor) -> np.ndarray | np.float32 | None:
        """A constant as float32; None for None."""
        if tensor is None or isinstance(tensor, np.ndarray):
            return tensor
        return tensor.detach().float().numpy() if hasattr(tensor, "detach") else np.float32(tensor)

    def weights(self, tensor, what):
        if isinstance(tensor, Value):
            raise self.error(f"its {what} depends on the image, which AGF has no rule for")
        return self.array(tensor)


class Walk:
    def __init__(self, builder, leaves) -> None:
        self.builder, self.leaves = builder, leaves
        self.values = {}

    def run(self, graph, output):
        """Convert what the node `output` depends on."""
        shortcuts = torch_ops.find_shortcuts(graph, {node: value for node, value in self.values.items()
                                                     if not isinstance(value, Value)})
        order, seen, stack = [], set(), [(output, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen and node not in self.values:
                seen.add(node)
                stack.append((node, True))
                needs = [shortcuts[node][1]] if node in shortcuts else node.all_input_nodes
                stack += [(other, False) for other in reversed(needs)]
        for node in order:
            self._convert(node, shortcuts.get(node))
        return self.values[output]

    def name(self, fx):
        """What a node of the exported graph is called, and its operation."""
        op = str(getattr(fx.target, "_schema", None) and fx.target._schema.name or
                 getattr(fx.target, "__name__", fx.target)).removeprefix("aten::")
        return self._name_of(fx, op), op

    def _convert(self, fx, shortcut) -> None:
        if fx.op != "call_function":
            raise ConvertError(f"node {fx.name}: {fx.op} {fx.target} in the exported module is not understood")
        name, op = self.name(fx)
        self.builder.at(name, f"node {name} ({op})")
        node = GraphNode(self, fx, name, op)
        if shortcut is not None:
            self.values[fx] = shortcut[0](node, self.values[shortcut[1]])
            return
        import torch
        arguments = torch.fx.node.map_arg(fx.args, lambda other: self.values[other])
        options = torch.fx.node.map_arg(fx.kwargs, lambda other: self.values[other])
        if not any(isinstance(argument, Value) for argument in flat((arguments, options))):
            with torch.no_grad():
                self.values[fx] = fx.target(*arguments, **options)
            return
        if op == "getitem":
            self.values[fx] = arguments[0][arguments[1]]
            if self.values[fx] is None:
                raise node.error(f"its output {arguments[1]} is used; only the first one is understood")
            return
        inplace = op.endswith("_") and torch_ops.REGISTRY.find(op) is None
        handler = torch_ops.REGISTRY.find(op.rstrip("_") if inplace else op)
        if handler is None:
            raise node.error("AGF has no rule for this operation")
        try:
            self.values[fx] = handler(node, *arguments, **options)
        except ConvertError:
            raise
        except TypeError as problem:  # an overload that the handler does not know
            raise node.error(f"called in a way that is not understood ({first_line(problem)})") from problem

    def _name_of(self, fx, op) -> str:
        """layer1.0.conv1 for the call of a module; what is no module of its own has its operation's name behind it."""
        stack = fx.meta.get("nn_module_stack") or {}
        path = next(reversed(stack.values()))[0] if stack else ""
        path = re.sub(r"^L__self___?|^L\['self'\]\.?", "", path)
        path = re.sub(r"@\d+$", "", path)
        op = op.rstrip("_")
        if path in self.leaves:
            return path
        return f"{path}.{op}".lstrip(".")


def flat(arguments):
    """All that stands in nested tuples, lists and dicts."""
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(arguments, (tuple, list)):
        for argument in arguments:
            yield from flat(argument)
    else:
        yield arguments


def read(module, input_shape, head=None):
    """A torch.nn.Module, from an image batch to logits, as Imported."""
    import torch
    input_shape = tuple(int(size) for size in input_shape)
    check_module(module)
    module = evaluation_copy(module)
    program = export(module, input_shape)
    builder = Builder(input_shape)
    leaves = {name for name, child in module.named_modules() if name and not any(child.children())}
    walk = Walk(builder, leaves)
    signature = program.graph_signature
    stored = {**dict(program.named_parameters()), **dict(program.named_buffers()), **program.constants}
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
               **getattr(signature, "inputs_to_lifted_tensor_constants", {})}
    images = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in tensors:
                walk.values[node] = stored[tensors[node.name]].detach()
            else:
                images.append(node)
    if len(images) != 1:
        raise ConvertError(f"the module takes {len(images)} tensors; it should take one, the image")
    attention = torch_ops.find_attention(program.graph, images[0])
    if attention is not None:
        raise ConvertError("node {} ({}): {}".format(*walk.name(attention), NO_ATTENTION))
    walk.values[images[0]] = builder.image()
    outputs = [spec.arg.name for spec in signature.output_specs if spec.kind.name == "USER_OUTPUT"
               and hasattr(spec.arg, "name")]
    if len(outputs) != 1:
        raise ConvertError(f"the module returns {len(outputs)} tensors; it should return the logits alone, so wrap it in "
                           "a module that picks them")
    result = walk.run(program.graph, next(node for node in program.graph.nodes if node.name == outputs[0]))
    if not isinstance(result, Value):
        raise ConvertError("the module's output does not depend on the image")

    def reference(tensors) -> list[np.ndarray]:
        outputs = []
        for tensor in tensors:
            with torch.no_grad(), quiet():
                y = module(torch.from_numpy(np.ascontiguousarray(tensor, np.float32))[None])
            y = next(part for part in flat(y if isinstance(y, (tuple, list, dict)) else [y]) if torch.is_tensor(part))
            outputs.append(y.double().numpy().ravel())
        return outputs

    return Imported(finish(builder, result, head), input_shape, reference, f"torch {torch.__version__}")
