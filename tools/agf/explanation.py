"""What Model.explain() takes and returns: pictures of every kind, and the maps of one with what belongs to them."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from ctypes import byref
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import as_map, is_image
from .engine import CBox, CError, check, library, method_has, printable

# Pillow knows many more formats, and starts other programs for some (PostScript, whatever the file is called).
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")


def read_picture(path: str | bytes | os.PathLike[Any]) -> Any:
    """A picture file, upright, as a Pillow image: PNG, JPEG, WebP, BMP, PPM, TIFF or GIF (the first frame)."""
    from PIL import Image, ImageOps

    with Image.open(os.fspath(path), formats=PICTURE_FORMATS) as image:
        return ImageOps.exif_transpose(image)


def as_subject(photo: Any) -> tuple[Any, str]:
    """(a picture, or a tensor of floats [C, H, W]; the path it was read from, or "")."""
    if isinstance(photo, (str, bytes, os.PathLike)):
        path = os.fsdecode(photo)
        return (np.load(path, allow_pickle=False) if path.lower().endswith(".npy") else read_picture(photo)), path
    if is_image(photo):
        return photo, ""
    if not isinstance(photo, np.ma.MaskedArray):  # which as_picture and as_floats refuse
        photo = np.asarray(photo)
    return photo, ""


def is_batch(photo: Any) -> bool:
    """Whether it is several pictures: any iterable of them that is no picture itself, or an array of 4 dimensions."""
    if isinstance(photo, (str, bytes, os.PathLike)) or is_image(photo):
        return False
    dimensions = getattr(photo, "ndim", None)
    return dimensions == 4 if dimensions is not None else hasattr(photo, "__iter__")


def percent(share: float) -> str:
    """A share of 1 in percent, with as many digits as tell it from 0 and from 100, as the program prints it."""
    value, rest = 100 * share, 100 - 100 * share
    if value == 0 or rest == 0:
        return f"{value:.0f} %"
    if rest < 1e-4:
        return "> 99.9999 %"
    if rest < 1:
        return f"{value:.{1 - math.floor(math.log10(rest))}f} %"
    if value < 1e-4:
        return "< 0.0001 %"
    return f"{value:.2g} %" if value < 1 else f"{value:.1f} %"


class Box(NamedTuple):
    """Where evidence lies, in pixels of a map; x, y: its centre of mass, 0.5, 0.5 being the first pixel's middle."""

    left: int
    top: int
    width: int
    height: int
    x: float
    y: float


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """The maps of one picture: plain arrays, which may be kept, copied and pickled, and outlive the model.

    With several classes, map, probability, label and class_index are the first one's; indexing with a number or a label
    gives an Explanation of one class, and iterating one after the other. A notebook shows what overlay() gives.
    """

    maps: NDArray[np.float32]  #: [n, H, W], positive where a pixel speaks for the class
    classes: list[int]  #: the class of each map
    labels: list[str]  #: its name; "class 7" where the model file has none
    probabilities: list[float]  #: its probability; NaN where the file does not say what makes them of the logits
    logits: NDArray[np.float32]  #: [K], of all classes
    method: str
    picture: NDArray[np.uint8] | None  #: [height, width, 3]; None if a tensor was explained
    seen: Any  #: the Rect of the picture that the network saw
    path: str = ""  #: where the picture was read from, if that was given
    against: str = ""  #: the label of the class that the others are explained against, if there is one

    @property
    def map(self) -> NDArray[np.float32]:
        return self.maps[0]

    @property
    def class_index(self) -> int:
        return self.classes[0]

    @property
    def label(self) -> str:
        return self.labels[0]

    @property
    def probability(self) -> float:
        return self.probabilities[0]

    def __repr__(self) -> str:
        found = ", ".join(
            f"{label} " + (f"score {self.logits[k]:.3g}" if math.isnan(p) else percent(p))
            for label, k, p in zip(self.labels, self.classes, self.probabilities)
        )
        of, other = f" of {self.path}" if self.path else "", f", against {self.against}" if self.against else ""
        return printable(f"<agf.Explanation {self.method}{of}: {found}{other}>")

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, which: int | str) -> Explanation:
        if isinstance(which, str):
            if which not in self.labels:
                raise KeyError(f"no map of {which!r} here; there are {', '.join(self.labels)}")
            which = self.labels.index(which)
        i = range(len(self))[which]
        return replace(
            self,
            maps=self.maps[i : i + 1],
            classes=[self.classes[i]],
            labels=[self.labels[i]],
            probabilities=[self.probabilities[i]],
        )

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def overlay(self, cmap: str | None = None, vmax: float = 0.0, alpha: float = 0.8, colour: bool = False) -> Any:
        """The maps over the picture, side by side, as a Pillow image; a tensor's maps by themselves.

        cmap, vmax, alpha: as in Model.render(); None: rdbu, viridis for methods whose maps are never negative. colour:
        over the picture as it is, not as light gray that is pale where the network did not look.
        """
        from PIL import Image

        from .model import mute, overlay, render

        cmap = cmap or ("viridis" if method_has(self.method, "not_negative") else "rdbu")
        if self.picture is None:
            tiles = [render(heat, cmap, vmax=vmax) for heat in self.maps]
        else:
            below = self.picture if colour else mute(self.picture, self.seen)
            tiles = [overlay(heat, below, self.seen, cmap, vmax, alpha) for heat in self.maps]
        return Image.fromarray(np.concatenate(tiles, 1))

    def box(self, share: float = 0.9) -> Box:
        """The first map's box of positive evidence: beyond each side lies at most (1 - share) / 2 of it.

        Error (AGF_ERR_NUMERIC) where nothing speaks for the class.
        """
        heat, found, error = as_map(self.map), CBox(), CError()
        check(library().agf_map_box(heat.ctypes.data, *heat.shape, share, byref(found), byref(error)), error)
        return Box(found.left, found.top, found.width, found.height, found.x, found.y)

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write overlay(**options) in the format of the file name's ending; .npy: the maps, float32 [n, H, W]."""
        if os.fspath(path).lower().endswith(".npy"):
            np.save(path, self.maps)
        else:
            self.overlay(**options).save(path)

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.overlay().save(data, "PNG")
        return data.getvalue()
