"""Networks to .agf model files: the command is tools/agf_convert.py, the Python function convert().

    network.py         the intermediate network: Node, Network, its checks and its forward pass in NumPy
    ops.py             its operations, a class each: shape, forward pass, number in the file
    builder.py         what front ends build it with: operations on tensors of any layout
    patterns.py        normalisations that graphs spell out in arithmetic
    passes.py          from there to the nodes that are written
    onnx_front.py ...  the front ends, each with a registry of handlers (onnx_ops.py, torch_ops.py, tflite_ops.py)
    onnx_constants.py  what an ONNX file computes from constants; onnx_external.py: the files beside it
    format.py          the layout of the file; writer.py writes it, files.py without losing anything
    foreign.py         what a file is that none of them reads, and what to do with it
    check.py           the comparison with the original; litert.py runs LiteRT in a process of its own
"""
import importlib
from typing import Any

# Imported when they are first used: the command's --help needs no NumPy.
_PUBLIC = {name: (module, name) for module, names in {
    "errors": ("ConvertError",),
    "network": ("IMAGE", "Network", "Node", "Preprocessing", "batchnorm_scale_bias"),
    "ops": ("OPS",),
    "format": ("HEADER", "INPUT", "NODES", "NODES_AT", "TENSOR", "Tensor"),
    "writer": ("ModelFile", "version_of"),
    "passes": ("mark_flat",),
    "api": ("convert", "network_of", "write_network"),
    "cli": ("main",),
    "zoo": ("torchvision_network", "timm_network"),
}.items() for name in names}
_PUBLIC.update(read_onnx=("onnx_front", "read"), read_module=("torch_front", "read"))
__all__ = sorted(_PUBLIC)


def __getattr__(name) -> Any:
    if name in _PUBLIC:
        module, name = _PUBLIC[name]
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return __all__
