"""The layout of a model file (agf.h, "The model file"): its records and how weights lie in it. Nothing else knows
it."""
import struct
from typing import Iterator

import numpy as np

from .errors import ConvertError

MAGIC = b"\x89AGF\r\n\x1a\n"
HEADER = struct.Struct("<8sIIQ7I12x")
INPUT = struct.Struct("<7I9f4I")
NODES = {1: struct.Struct("<20I"), 2: struct.Struct("<20I4f")}  # by the format's version
TENSOR = struct.Struct("<6I2Q")
NODES_AT = HEADER.size + INPUT.size
VECTOR, CONVOLUTION, GROUPED, LINEAR = range(4)
F32, F16 = 1, 2
INPUT_BLOCK = 16   # channels of an input block
OUTPUT_BLOCK = 32  # the outputs of a dense convolution and of a linear layer are filled up to a multiple of it
LARGEST = float(np.finfo(np.float32).max)


def align(size, multiple=64):
    """The next multiple."""
    return -(-size // multiple) * multiple


def fill(array, axis, multiple):
    """Zeros after the end of one axis, up to a multiple."""
    missing = [(0, 0)] * array.ndim
    missing[axis] = (0, -array.shape[axis] % multiple)
    return np.pad(array, missing)


class Tensor:
    """An entry of the tensor table, and its data in the layout that the kernels read."""

    def __init__(self, owner, layout, dims, array, f16) -> None:
        """array: vector [n], convolution [O, I / groups, kh, kw], linear [O, C * H * W]; owner names it in messages."""
        self.owner, self.layout, self.dims, self.array = owner, layout, dims, array
        self.f16 = f16 and layout != VECTOR
        self.offset = 0
        output_block = {VECTOR: 1, GROUPED: INPUT_BLOCK}.get(layout, OUTPUT_BLOCK)
        self.count = align(dims[0], output_block) * int(np.prod(dims[1:]))

    @property
    def bytes(self):
        return self.count * (2 if self.f16 else 4)

    def record(self):
        return TENSOR.pack(F16 if self.f16 else F32, self.layout, *self.dims, self.offset, self.bytes)

    def pieces(self):
        """The data, an input block at a time: a whole copy of a large linear layer would double the memory needed."""
        for piece in self._blocks():
            with np.errstate(over="ignore"):
                piece = np.asarray(piece, np.float32)
            if not np.isfinite(piece).all():
                raise ConvertError(f"{self.owner}: not all of its values are finite")
            if self.f16:
                with np.errstate(over="ignore"):
                    half = piece.astype("<f2")
                if not np.isfinite(half).all():
                    raise ConvertError(f"{self.owner}: {np.abs(piece).max():g} is beyond what f16 holds (65504); "
                                       "convert without --f16")
                piece = half
            yield np.ascontiguousarray(piece, "<f2" if self.f16 else "<f4").tobytes()

    def _blocks(self) -> Iterator[np.ndarray]:
        if self.layout == VECTOR:
            yield self.array
        elif self.layout == CONVOLUTION:
            for first in range(0, self.dims[1], INPUT_BLOCK):
                block = fill(self.array[:, first:first + INPUT_BLOCK], 0, OUTPUT_BLOCK)
                outputs, inputs, kh, kw = block.shape
                # [O/32, 32, I, kh, kw] to [kh, O/32, I, kw, 32]
                yield block.reshape(-1, OUTPUT_BLOCK, inputs, kh, kw).transpose(3, 0, 2, 4, 1)
        elif self.layout == GROUPED:
            for output in range(0, self.dims[0], INPUT_BLOCK):
                rows = fill(self.array[output:output + INPUT_BLOCK], 0, INPUT_BLOCK)
                for first in range(0, self.dims[1], INPUT_BLOCK):
                    # [16, I, kh, kw] to [kh, kw, I, 16]
                    yield rows[:, first:first + INPUT_BLOCK].transpose(2, 3, 1, 0)
        else:
            weights = self.array.reshape(self.dims)
            for first in range(0, self.dims[1], INPUT_BLOCK):
                # [O, c, H, W] to [H, W, c, O]
                yield fill(weights[:, first:first + INPUT_BLOCK].transpose(2, 3, 1, 0), 3, OUTPUT_BLOCK)


class Strings:
    """The string table: each text once, offset 0 is the empty one."""

    def __init__(self) -> None:
        self.data, self.offsets = bytearray(b"\0"), {"": 0}

    def offset(self, text):
        if text not in self.offsets:
            self.offsets[text] = len(self.data)
            self.data += text.encode("utf-8") + b"\0"
        return self.offsets[text]
