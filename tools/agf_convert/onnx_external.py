"""Weights that an ONNX file keeps in files beside it: which those are, checked before anything of them is read.

Their names, offsets and lengths stand in a file that may come from anywhere. They must lie in the file's folder, be
regular files, and hold every tensor in full; all tensors together may not be much larger than the files.
"""
import math
import os
import re
import stat

from .errors import ConvertError, describe, first_line

KEYS = ("location", "offset", "length", "checksum")  # what the format knows
MAX_SHARED = 1 << 26  # bytes that tensors may hold beyond what the files hold: tied weights share a piece of a file
BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}  # TensorProto's types below a byte


def tensors_of(model):
    """Every tensor of a model: initialisers and attributes, in subgraphs and functions too."""
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        yield from getattr(graph, "initializer", ())
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs


def load(model, path):
    """Read the model's external tensors into it; the paths of the files that they lie in."""
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
    folder = os.path.dirname(os.path.abspath(path))
    tensors = [tensor for tensor in tensors_of(model) if uses_external_data(tensor)]
    sizes, total = {}, 0
    for tensor in tensors:
        name, length = _checked(tensor, folder, path)
        sizes[name] = os.path.getsize(name)
        total += length
    if total > sum(sizes.values()) + MAX_SHARED:
        raise ConvertError(f"{path}: its tensors share pieces of its external data: {total} bytes of {sum(sizes.values())}, "
                           f"and {MAX_SHARED} more are understood")
    for tensor in tensors:
        try:
            load_external_data_for_tensor(tensor, folder)
        except OSError as problem:
            raise ConvertError(f"{problem.filename or path}: {problem.strerror or first_line(problem)}") from None
        except MemoryError:
            raise
        except Exception as problem:  # onnx.checker.ValidationError: a link, say, which onnx does not follow
            raise ConvertError(f"{path}: {first_line(problem)}") from None
        tensor.data_location = tensor.DEFAULT
        del tensor.external_data[:]
    return list(sizes)


def _checked(tensor, folder, path) -> tuple[str, int]:
    """(path, bytes) of an external tensor's data; its length is written into the tensor where it is missing."""
    def error(what) -> ConvertError:
        return ConvertError(f"{path}: the external data of {tensor.name or 'a constant'} {what}")

    entries = {}
    for entry in tensor.external_data:
        if entry.key not in KEYS or entry.key in entries:
            raise error(f"has the key {entry.key[:40]!r} {'twice' if entry.key in entries else 'that is not understood'}")
        entries[entry.key] = entry.value
    location = entries.get("location", "")
    here = os.path.join(folder, location)
    inside = os.path.realpath(folder)
    try:
        if not location or os.path.isabs(location) or ".." in re.split(r"[/\\]", location):
            raise error(f"is called {location[:80]!r}; a file in the folder of the ONNX file, or below it, is understood")
        if os.path.commonpath([inside, os.path.realpath(here)]) != inside:
            raise error(f"lies outside of the folder of the ONNX file, behind a link: {location}; copy it there")
        status = os.stat(here)
    except (OSError, ValueError) as problem:  # not there, a loop of links; a name with a zero byte or too long
        raise error(f"cannot be read: {location[:80]}: {getattr(problem, 'strerror', None) or first_line(problem)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise error(f"is no regular file: {location}")
    numbers = {}
    for key in ("offset", "length"):
        if not re.fullmatch("[0-9]{1,18}", entries.get(key, "0")):
            raise error(f"has the {key} {entries[key][:40]!r}, which is no number of bytes")
        numbers[key] = int(entries.get(key, "0"))
    needed = _bytes(tensor)
    if needed is None:
        raise error(f"is of a type that is not understood ({tensor.data_type})")
    if "length" in entries and numbers["length"] != needed:
        raise error(f"has {numbers['length']} bytes, {describe([tensor.dims])} needs {needed}")
    if numbers["offset"] + needed > status.st_size:
        raise error(f"ends behind {location}, which has {status.st_size} bytes: {needed} from {numbers['offset']} on")
    if "length" not in entries:  # else all the rest of the file would be read
        tensor.external_data.add(key="length", value=str(needed))
    return here, needed


def _bytes(tensor) -> int | None:
    """The size of a tensor's data, None of a type that onnx does not know or a negative size."""
    import onnx
    try:
        bits = BITS.get(tensor.data_type) or onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    except KeyError:
        return None
    return (math.prod(tensor.dims) * bits + 7) // 8 if min(tensor.dims, default=0) >= 0 else None
