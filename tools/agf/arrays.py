"""What a caller may hand in, as what the engine takes: arrays are converted, or refused with the reason."""

from __future__ import annotations

from ctypes import byref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import CError, CPicture, check, library, names_of


def as_floats(values: Any, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    """values as a C-contiguous float32 array of this shape; a leading 1 (a batch of one) may be left over."""
    refuse_mask(values, what)
    array = np.asarray(values)
    if array.dtype.kind != "f":
        hint = "; a picture becomes an input through preprocess()" if array.dtype.kind in "iu" else ""
        raise TypeError(f"{what} must be floats, not {array.dtype}{hint}")
    if array.shape == (1,) + shape:
        array = array[0]
    if array.shape != shape:
        raise ValueError(f"{what} must have the shape {list(shape)}, not {list(array.shape)}")
    with np.errstate(over="ignore"):  # a double beyond float32 becomes Inf, which the engine names
        return np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def refuse_mask(values: Any, what: str) -> None:
    """TypeError for a masked array: numpy.asarray would count what is masked out."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{what} must not be a masked array: fill what is masked, as with .filled(0)")


def is_image(value: Any) -> bool:
    """Whether a value is a Pillow image (which need not be installed)."""
    return not isinstance(value, np.ndarray) and callable(getattr(value, "convert", None))


def as_picture(image: Any) -> NDArray[np.uint8]:
    """image as a C-contiguous uint8 array [height, width, 3].

    image: uint8 [height, width, 3], or a Pillow image of any mode that has a scale: of 16-bit gray the high byte
    counts, as in the program (Pillow's own conversion would clip it at 255).
    """
    refuse_mask(image, "a picture")
    if is_image(image):
        if image.mode.startswith("I;16"):
            image = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, 2)
        elif image.mode in ("I", "F"):
            raise ValueError(f"a picture of Pillow's mode {image.mode} has no scale: make it 8-bit first")
        else:
            image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise TypeError(f"a picture must be uint8 [height, width, 3] or a Pillow image, not {array.dtype}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        hint = "; of gray values give a Pillow image, Image.fromarray(values)" if array.ndim == 2 else ""
        raise ValueError(f"a picture must have the shape [height, width, 3], not {list(array.shape)}{hint}")
    return np.ascontiguousarray(array)


def frame(
    data: Any, width: int, height: int, format: str = "rgb24", strides: tuple[int, ...] = ()
) -> NDArray[np.uint8]:
    """A frame of a camera or a video as a picture, uint8 [height, width, 3].

    data: bytes, or anything with a buffer of bytes, plane after plane. format: rgb24, bgr24, gray, yuv420 (I420) or
    nv12; the latter two in the range of video (Y 16 to 235), as cameras give them. strides: bytes from row to row of
    each plane, where rows have gaps.
    """
    known = names_of("agf_pixel_format_name")
    if format not in known:
        raise ValueError(f"no pixel format {format!r}; there are {', '.join(known)}")
    width, height = as_int(width, "width", 1, 2**15), as_int(height, "height", 1, 2**15)
    given = np.frombuffer(data, np.uint8)
    half = (width + 1) // 2
    row = {"rgb24": (3 * width,), "bgr24": (3 * width,), "gray": (width,), "yuv420": (width, half, half)}
    rows = row.get(format, (width, 2 * half))  # nv12
    steps = tuple(as_int(step, "a stride", least) for step, least in zip(strides, rows)) if strides else rows
    if len(strides) not in (0, len(rows)):
        raise ValueError(f"{format} has {len(rows)} planes, and {len(strides)} strides are given")
    heights = (height, *[(height + 1) // 2] * (len(rows) - 1))
    starts = np.concatenate(([0], np.cumsum(np.multiply(steps, heights)))).tolist()
    needed = starts[len(rows) - 1] + steps[-1] * (heights[-1] - 1) + rows[-1]  # nothing behind the last row is read
    if not needed <= given.size <= starts[-1]:
        raise ValueError(f"{width}x{height} pixels of {format} are {starts[-1]} bytes, not {given.size}")
    picture, error = CPicture(known.index(format), width, height), CError()
    for plane, (start, step) in enumerate(zip(starts, steps)):
        picture.planes[plane], picture.strides[plane] = given.ctypes.data + start, step
    out = np.empty((height, width, 3), np.uint8)
    check(library().agf_picture_to_rgb(byref(picture), out.ctypes.data, out.strides[0], byref(error)), error)
    return out


def as_map(values: Any) -> NDArray[np.float32]:
    """values as a C-contiguous float32 array [H, W]."""
    refuse_mask(values, "a map")
    array = np.asarray(values)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"a map must have the shape [H, W], not {list(array.shape)}")
    return as_floats(array, array.shape, "a map")


def as_int(value: Any, what: str, least: int = 0, most: int = 2**31 - 1) -> int:
    """value as an int within the bounds; bool and float are refused, numpy integers are welcome."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be an integer, not {type(value).__name__}")
    number: int = value.__index__()
    if not least <= number <= most:
        raise ValueError(f"{what} must be between {least} and {most}, not {number}")
    return number
