"""TensorFlow Lite files to networks: reading and walking the graph. The operators stand in tflite_ops.py.

The file's schema comes from the PyPI package `tflite`. Quantised files become the network that they approximate:
weights and biases through their scales, activations as real numbers, no rounding in between. Where the quantised range
of a tensor cuts off what is below 0, as TensorFlow's converter arranges it when it drops a ReLU, the ReLU is put back.
"""

import importlib.util
import io
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import patterns, tflite_ops
from .builder import Builder, Value
from .errors import ConvertError, describe, first_line
from .frontend import Imported
from .passes import finish

TYPES = {
    0: np.float32,
    1: np.float16,
    2: np.int32,
    3: np.uint8,
    4: np.int64,
    6: np.bool_,
    7: np.int16,
    9: np.int8,
    10: np.float64,
    15: np.uint32,
    16: np.uint16,
}  # TensorType, for the types that classifiers hold
FUSED = {0: None, 1: "relu", 2: "relu_n1_to_1", 3: "relu6", 4: "tanh"}  # ActivationFunctionType
INTEGERS = (np.uint8, np.int8, np.int16)
MAX_SHARED = 1 << 24  # elements that constants may have beyond the file's bytes: tensors may share a buffer
MAX_OPERATORS = 1 << 14  # four times the engine's nodes
MAX_OPERANDS = 1 << 10  # of one operator; the widest concatenations in use have some dozens


ARITHMETIC = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}


@dataclass
class Operator:
    """One operator of the file. options: its options' table, or None."""

    kind: str
    name: str
    inputs: list  # tensor numbers, -1 where left out
    outputs: list
    options: object
    options_type: int  # of BuiltinOptions


class Graph:
    """The main subgraph under way: what each tensor is, a Value or an array."""

    def __init__(self, path, data) -> None:
        try:
            import tflite
        except ImportError:
            raise ConvertError("reading .tflite files needs the package tflite: pip install tflite flatbuffers") from None
        self.schema = tflite
        if data[4:8] != b"TFL3":
            raise ConvertError(f"{path}: no TensorFlow Lite file (its identifier is missing)")
        self.model = tflite.Model.GetRootAsModel(data, 0)
        if self.model.SubgraphsLength() < 1:
            raise ConvertError(f"{path}: holds no graph")
        self.main = self.model.Subgraphs(0)
        self.operator_names = {number: name for name, number in vars(tflite.BuiltinOperator).items() if isinstance(number, int)}
        if self.main.InputsLength() != 1:
            raise ConvertError(f"{path}: {self.main.InputsLength()} inputs; one image is needed")
        self.values = {}
        self.constants, self.read = {}, 0  # what constant() has read: {tensor number: array}, elements
        self.most = len(data) + MAX_SHARED
        if not 0 <= self.main.Inputs(0) < self.main.TensorsLength():
            raise ConvertError(f"{path}: its input is tensor {self.main.Inputs(0)}, which the file lacks")
        dims = self.dims(self.main.Inputs(0))
        if len(dims) != 4 or dims[0] not in (1, -1) and dims[0] < 1 or min(dims[1:]) < 1:
            raise ConvertError(f"{path}: its input is {describe([dims])}; one image, [1,H,W,C], is needed")
        self.input_shape = (dims[3], dims[1], dims[2])
        self.b = Builder(self.input_shape)

    # The file's tables

    def tensor(self, number):
        return self.main.Tensors(number)

    def name_of(self, number):
        raw = self.tensor(number).Name() or b""
        return raw.decode("utf-8", "replace") or f"tensor {number}"

    def dims(self, number):
        """A tensor's shape; the batch of a file made for several images is 1."""
        tensor = self.tensor(number)
        return tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()

    def dtype(self, number):
        kind = self.tensor(number).Type()
        if kind not in TYPES:
            raise self.b.error(f"tensor {self.name_of(number)} has TensorType {kind}, which is not understood")
        return TYPES[kind]

    def quantization(self, number):
        """(scales, zero points, axis) of a quantised tensor, else None."""
        q = self.tensor(number).Quantization()
        if q is None or q.ScaleLength() == 0 or self.dtype(number) not in INTEGERS + (np.int32, np.int64):
            return None
        scales = q.ScaleAsNumpy().astype(np.float64)
        points = q.ZeroPointAsNumpy().astype(np.float64) if q.ZeroPointLength() else np.zeros(1)
        if len(points) not in (1, len(scales)) or not np.all(scales > 0) or not np.all(np.isfinite(scales)):
            raise self.b.error(f"tensor {self.name_of(number)} has unusable scales or zero points")
        return scales, np.broadcast_to(points, scales.shape), q.QuantizedDimension()

    def constant(self, number):
        """A constant tensor as the numbers that it stands for (float32 where it is quantised), or None."""
        if number not in self.constants:
            self.constants[number] = self.read_constant(number)
        return self.constants[number]

    def read_constant(self, number):
        tensor = self.tensor(number)
        if not 0 <= tensor.Buffer() < self.model.BuffersLength():
            raise self.b.error(f"tensor {self.name_of(number)} names buffer {tensor.Buffer()}, which the file lacks")
        buffer = self.model.Buffers(tensor.Buffer())
        dims, dtype = self.dims(number), self.dtype(number)
        if buffer.DataLength() == 0:
            return np.zeros(dims, dtype) if 0 in dims else None
        if tensor.Sparsity() is not None:
            raise self.b.error(f"tensor {self.name_of(number)} is stored sparse; export without weight pruning's sparse format")
        raw = buffer.DataAsNumpy()
        wanted = int(np.prod(dims, dtype=object)) * np.dtype(dtype).itemsize
        if raw.nbytes != wanted:
            raise self.b.error(f"tensor {self.name_of(number)} holds {raw.nbytes} bytes where {describe([dims])} needs {wanted}")
        self.read += raw.nbytes // np.dtype(dtype).itemsize
        if self.read > self.most:
            raise self.b.error(f"reads {self.name_of(number)}: constants of {self.read} elements, which share the buffers of a smaller "
                               f"file; {self.most} are understood")
        array = np.frombuffer(raw.tobytes(), dtype).reshape(dims)
        quantised = self.quantization(number)
        if quantised is None:
            return array.astype(np.float32) if array.dtype == np.float16 else array
        scales, points, axis = quantised
        if len(scales) > 1:
            if not 0 <= axis < len(dims) or dims[axis] != len(scales):
                raise self.b.error(f"tensor {self.name_of(number)} has {len(scales)} scales along axis {axis} of {describe([dims])}")
            shape = [1] * len(dims)
            shape[axis] = -1
            scales, points = scales.reshape(shape), points.reshape(shape)
        return ((array.astype(np.float64) - points) * scales).astype(np.float32)

    # What handlers call

    def get(self, op, i):
        """Input i of an operator: a Value, an array, or None where it is left out."""
        if i >= len(op.inputs) or op.inputs[i] < 0:
            return None
        number = op.inputs[i]
        if number not in self.values:
            self.values[number] = self.constant(number)
        value = self.values[number]
        if value is None:
            raise self.b.error(f"reads {self.name_of(number)}, which nothing has computed")
        return value

    def value(self, op, i=0):
        x = self.get(op, i)
        if not isinstance(x, Value):
            raise self.b.error("reads a constant where a tensor that depends on the image belongs")
        return x

    def array(self, op, i, what):
        """Input i, which must be a constant."""
        x = self.get(op, i)
        if x is None or isinstance(x, Value):
            raise self.b.error(f"{what} is no constant; only constant ones are understood")
        return x

    def options(self, op, kind):
        """The operator's options as the schema's class `kind`."""
        options = getattr(self.schema, kind)()
        if op.options is None:
            raise self.b.error(f"its {kind} are missing")
        if op.options_type != getattr(self.schema.BuiltinOptions, kind):
            raise self.b.error(f"its options are of type {op.options_type}, no {kind}")
        options.Init(op.options.Bytes, op.options.Pos)
        return options

    def activation(self, op):
        """The number of the activation that a sum, difference, product or quotient carries along."""
        return self.options(op, ARITHMETIC[op.kind]).FusedActivationFunction()

    def nchw(self, x):
        if len(x.dims) != 4:
            raise self.b.error(f"needs [1,H,W,C], its input is {describe([x.dims])}")
        return self.b.transpose(x, (0, 3, 1, 2))

    def nhwc(self, x):
        return self.b.transpose(x, (0, 2, 3, 1))

    def fused(self, x, number):
        """The activation that an operator carries along."""
        if number not in FUSED:
            raise self.b.error(f"fused activation {number} is not understood")
        kind = FUSED[number]
        if kind == "relu_n1_to_1":
            return self.b.clip(x, -1, 1)
        if kind == "tanh":
            return self.b.act(x, "tanh")
        return x if kind is None else getattr(self.b, kind)(x)

    def range_of(self, number):
        """(least, greatest) number that a quantised tensor can hold; None where it is not quantised."""
        quantised = self.quantization(number)
        if quantised is None or self.dtype(number) not in INTEGERS:
            return None
        scales, points, _ = quantised
        info = np.iinfo(self.dtype(number))
        return float(((info.min - points) * scales)[0]), float(((info.max - points) * scales)[0])

    def result(self, op, x, fused=0):
        """What an operator that may go below 0 makes, behind its activation or the ReLU that its range implies."""
        limits = self.range_of(op.outputs[0])
        if fused == 0 and limits is not None and limits[0] == 0:
            six = abs(limits[1] - 6) <= limits[1] / 255  # the greatest number is 6 up to one step
            self.b.note("where the quantised range cuts off what is below 0, a ReLU or ReLU6 stands in the network")
            return self.b.relu6(x) if six else self.b.relu(x)
        return self.fused(x, fused)

    def padding(self, x, kernel, stride, dilation, number):
        """Padding for x [1,C,H,W]: SAME (0) puts the odd pixel last, VALID (1) has none."""
        if number == 0:
            return self.b.same_padding(x, kernel, stride, dilation)
        if number == 1:
            return (0, 0, 0, 0)
        raise self.b.error(f"padding {number} is neither SAME nor VALID")

    # The walk

    def operators(self):
        if self.main.OperatorsLength() > MAX_OPERATORS:
            raise ConvertError(f"{self.main.OperatorsLength()} operators; {MAX_OPERATORS} are understood")
        for i in range(self.main.OperatorsLength()):
            raw = self.main.Operators(i)
            if not 0 <= raw.OpcodeIndex() < self.model.OperatorCodesLength():
                raise ConvertError(f"operator {i} is of kind {raw.OpcodeIndex()}, and the file has {self.model.OperatorCodesLength()}")
            code = self.model.OperatorCodes(raw.OpcodeIndex())
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            kind = self.operator_names.get(number, f"operator {number}")
            if kind == "CUSTOM":
                kind = (code.CustomCode() or b"custom").decode("utf-8", "replace")
            if raw.InputsLength() > MAX_OPERANDS or raw.OutputsLength() > MAX_OPERANDS:
                raise ConvertError(f"operator {i} ({kind}) has more than {MAX_OPERANDS} inputs or outputs")
            outputs = [int(raw.Outputs(k)) for k in range(raw.OutputsLength())]
            inputs = [int(raw.Inputs(k)) for k in range(raw.InputsLength())]
            count = self.main.TensorsLength()
            if not outputs or any(not -1 <= n < count for n in inputs) or any(not 0 <= n < count for n in outputs):
                raise ConvertError(f"operator {i} ({kind}) names tensors that the file lacks")
            yield Operator(kind, self.name_of(outputs[0]), inputs, outputs, raw.BuiltinOptions(), raw.BuiltinOptionsType())

    def run(self, outputs):
        """Convert what the tensors `outputs`, and the file's own, depend on."""
        b = self.b
        number = self.main.Inputs(0)
        b.at("input", "the input")
        x = b.image("NHWC")
        quantised = self.quantization(number)
        if quantised is not None:
            scale, point = float(quantised[0][0]), float(quantised[1][0])
            x = b.affine(x, scale, -scale * point)
        self.values[number] = x
        operators = list(self.operators())
        made_by = {number: op for op in operators for number in op.outputs}
        shortcuts = find_shortcuts(self, made_by)
        needed = {*outputs, *(int(self.main.Outputs(i)) for i in range(self.main.OutputsLength()))}
        wanted = []
        for op in reversed(operators):  # each stands behind those that it reads
            if needed.intersection(op.outputs):
                shortcut = shortcuts.get(op.outputs[0])
                needed.update(op.inputs if shortcut is None else [shortcut[1]])
                wanted.append(op)
        for op in reversed(wanted):
            b.at(op.name, f"node {op.name} ({op.kind})")
            shortcut = shortcuts.get(op.outputs[0])
            if shortcut is not None and isinstance(self.values.get(shortcut[1]), Value):
                made = shortcut[0](b, self.values[shortcut[1]])
                self.values[op.outputs[0]] = self.result(op, made, self.activation(op))
                continue
            handler = tflite_ops.REGISTRY.find(op.kind)
            if handler is None:
                raise b.error("AGF has no rule for this operator; leave it out of the network, or cut the network before it")
            results = handler(self, op)
            results = results if isinstance(results, list) else [results]
            self.values.update(zip(op.outputs, results))


class GraphView:
    """A graph as patterns.py looks at it; its nodes are the numbers of tensors. An operator with an activation of its
    own may only be the end of a pattern."""

    NAMES = {
        "ADD": "add",
        "SUB": "sub",
        "MUL": "mul",
        "DIV": "div",
        "POW": "pow",
        "SQUARE": "square",
        "SQUARED_DIFFERENCE": "difference2",
        "NEG": "neg",
        "SQRT": "sqrt",
        "RSQRT": "rsqrt",
        "MEAN": "mean",
    }

    def __init__(self, graph, made_by) -> None:
        self.graph, self.made_by, self.end = graph, made_by, None

    def op(self, number):
        op = self.made_by.get(number)
        if op is None or op.kind in ARITHMETIC and number != self.end and self.graph.activation(op):
            return ""
        return self.NAMES.get(op.kind, "")

    def arguments(self, number):
        return list(self.made_by[number].inputs)

    def constant(self, number):
        return None if number in self.made_by or number < 0 else self.graph.constant(number)

    def axes(self, number):
        op = self.made_by[number]
        axes, count = self.constant(op.inputs[1]), len(self.graph.dims(op.inputs[0]))
        if axes is None or not self.graph.options(op, "ReducerOptions").KeepDims():
            return None
        return tuple(sorted(int(axis) % max(count, 1) for axis in np.ravel(axes)))


def find_shortcuts(graph, made_by):
    """{a tensor: (what makes it, the tensor that it needs)} for operators that end a known pattern."""
    view, found = GraphView(graph, made_by), {}
    for number, op in made_by.items():
        if op.kind in ARITHMETIC:
            view.end = number
            match = patterns.find(view, number)
            if match is not None:
                found[number] = match
    return found


def read(path, size=None, output=None, head=None):
    """The Imported network of a .tflite file, with the labels and the normalisation that its metadata names.

    size: (height, width), which the file must agree with; output: the name of the tensor that holds the logits, where
    the file has several outputs; head: as finish() takes it. Raises ConvertError.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise ConvertError(f"{path}: {problem.strerror or problem}") from None
    try:
        graph = Graph(path, data)
        if size is not None and tuple(size) != graph.input_shape[1:]:
            raise ConvertError(f"{path}: made for {graph.input_shape[2]}x{graph.input_shape[1]} pixels; leave out --size")
        graph.run([number for number in range(graph.main.TensorsLength()) if graph.name_of(number) == output])
        chosen = choose_output(graph, output)
        graph.b.at("output", f"the output {graph.name_of(chosen)}")
        value = graph.values.get(chosen)
        if not isinstance(value, Value):
            raise graph.b.error("does not depend on the image")
        finished = finish(graph.b, value, head)
        imported = Imported(
            finished,
            graph.input_shape,
            files=[str(path)],
            reference_name="LiteRT",
            reference=reference(path, graph.main.Inputs(0), chosen, graph),
        )
        describe_pictures(imported, graph, path, value)
    except (AttributeError, IndexError, ValueError, TypeError, OverflowError, struct.error, RecursionError) as problem:
        # The generated readers check no offset, so that a damaged file ends in one of these.
        raise ConvertError(
            f"{path}: damaged, or made by a newer TensorFlow Lite than the package tflite reads "
            f"({type(problem).__name__}: {first_line(problem)})"
        ) from None
    return imported


def reference(path, number, chosen, graph):
    """The original in LiteRT: tensors [C,H,W] to the output's numbers for each. None where it is not installed."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        return None
    dtype, scale = graph.dtype(number), graph.quantization(chosen)

    def run(tensors) -> list[np.ndarray]:
        given = io.BytesIO()
        np.save(given, np.ascontiguousarray(np.asarray(tensors).transpose(0, 2, 3, 1)[:, None].astype(dtype)))
        command = [sys.executable, str(Path(__file__).with_name("litert.py")), os.path.abspath(path), str(chosen)]
        ended = subprocess.run(command, input=given.getvalue(), capture_output=True, check=False)
        said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        if ended.returncode < 0:
            said = [f"it crashes with signal {-ended.returncode}"]
        if ended.returncode:
            # Nothing else says whether a file that its own runtime does not take means what was read from it.
            raise ConvertError(
                f"{path}: LiteRT cannot run it ({first_line(said[-1] if said else 'no reason is given')}): damaged, or newer than "
                "the LiteRT that is installed; nothing was written (--no-check writes it all the same)"
            )
        y = np.load(io.BytesIO(ended.stdout), allow_pickle=False).astype(np.float64).reshape(len(tensors), -1)
        return list(y if scale is None else (y - scale[1][0]) * scale[0][0])

    return run


def choose_output(graph, output):
    numbers = [int(graph.main.Outputs(i)) for i in range(graph.main.OutputsLength())]
    if any(not 0 <= number < graph.main.TensorsLength() for number in numbers):
        raise ConvertError(f"an output is none of the file's {graph.main.TensorsLength()} tensors")
    names = {graph.name_of(number): number for number in range(graph.main.TensorsLength())}
    if output is not None:
        if output not in names:
            raise ConvertError(f"no tensor is called {output}; the outputs are {', '.join(map(graph.name_of, numbers))}")
        return names[output]
    numbers = [number for number in numbers if isinstance(graph.values.get(number), Value)]
    if len(numbers) != 1:
        raise ConvertError(
            f"{len(numbers)} outputs that depend on the image: {', '.join(map(graph.name_of, numbers))}; choose the logits with --output"
        )
    return numbers[0]


# Metadata (TensorFlow Lite's metadata_schema.fbs: a flatbuffer in a buffer of the file, its files in a zip behind it)


def describe_pictures(imported, graph, path, output):
    """Labels and preprocessing from the file's metadata; for an input of integers, what they mean."""
    number = graph.main.Inputs(0)
    mean, std, label_file = metadata(graph)
    quantised, note = graph.quantization(number), graph.b.note
    if graph.dtype(number) in INTEGERS:
        info = np.iinfo(graph.dtype(number))
        imported.range = float(info.min), float(info.max)
    if any(graph.range_of(op.outputs[0]) for op in graph.operators()):
        imported.exact = False
        note("quantised: the network is the one that the integers approximate, in floating point without rounding in between")
    if imported.input_shape[0] in (1, 3):
        if mean is not None:
            scale, point = (float(part[0]) for part in quantised[:2]) if quantised is not None else (1.0, 0.0)
            means, stds = (np.broadcast_to(np.asarray(numbers, np.float64), imported.input_shape[0]) for numbers in (mean, std))
            imported.preprocessing = {
                "mean": tuple((means - point * scale * stds).tolist()),
                "std": tuple((stds * scale).tolist()),
                "range": 255.0,
            }
        elif imported.range is not None:
            imported.preprocessing = {"mean": (0.0 - imported.range[0],), "std": (1.0,), "range": 255.0}
            note(
                "the file does not say how pictures are normalised: their bytes are taken as they are, as quantised networks "
                "are fed as a rule"
            )
    if label_file:
        labels, outputs = read_labels(path, label_file), int(np.prod(output.dims))
        if len(labels) == outputs:
            imported.labels = labels
        elif labels:
            note(f"{label_file} in the file names {len(labels)} labels for {outputs} classes; left out")
    imported.finished.notes = graph.b.notes


def read_labels(path, name):
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(name).file_size > 1 << 24:
                return []
            lines = archive.read(name).decode("utf-8", "replace").splitlines()
    except (zipfile.BadZipFile, KeyError, OSError, NotImplementedError, RuntimeError):
        return []
    return [line.strip() for line in lines if line.strip()]


def metadata(graph):
    """(mean, std, name of the label file) from the file's metadata, None where it does not say."""
    import flatbuffers.number_types as number_types
    from flatbuffers.table import Table

    def field(table, number) -> int:
        """The offset of a table's field, 0 where it is absent."""
        return table.Offset(4 + 2 * number)

    def child(table, number) -> Any:
        at = field(table, number)
        return Table(table.Bytes, table.Indirect(at + table.Pos)) if at else None

    def children(table, number) -> list:
        at = field(table, number)
        start = table.Vector(at) if at else 0
        return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(at) if at else 0)]

    def byte(table, number) -> int:
        at = field(table, number)
        return table.Get(number_types.Uint8Flags, at + table.Pos) if at else 0

    def floats(table, number) -> list[float]:
        at = field(table, number)
        start = table.Vector(at) if at else 0
        return [table.Get(number_types.Float32Flags, start + 4 * i) for i in range(table.VectorLen(at) if at else 0)]

    root = None
    for i in range(graph.model.MetadataLength()):
        if graph.model.Metadata(i).Name() == b"TFLITE_METADATA":
            data = graph.model.Buffers(graph.model.Metadata(i).Buffer()).DataAsNumpy().tobytes()
            root = Table(data, int.from_bytes(data[:4], "little"))
    if root is None:
        return None, None, None
    mean = std = label_file = None
    for subgraph in children(root, 3)[:1]:  # ModelMetadata.subgraph_metadata
        for tensor in children(subgraph, 2)[:1]:  # SubGraphMetadata.input_tensor_metadata
            for unit in children(tensor, 4):  # TensorMetadata.process_units
                if byte(unit, 0) == 1 and child(unit, 1) is not None:  # ProcessUnitOptions.NormalizationOptions
                    mean, std = floats(child(unit, 1), 0), floats(child(unit, 1), 1)
        for tensor in children(subgraph, 3)[:1]:  # SubGraphMetadata.output_tensor_metadata
            for file in children(tensor, 6):  # TensorMetadata.associated_files
                if byte(file, 2) in (2, 3) and field(file, 0) and label_file is None:  # labels of an axis, of values
                    label_file = file.String(field(file, 0) + file.Pos).decode("utf-8", "replace")
    if not mean or not std or len(mean) != len(std):
        mean = std = None
    return mean, std, label_file
