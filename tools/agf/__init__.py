"""Attribution maps for convolutional networks: the AGF engine from Python.

    import agf
    with agf.Model("net.agf") as model:
        why = model.explain("photo.jpg", classes=["cup"])    # a path, a Pillow image, an array, or a list of them
        why.map, why.probability, why.label                  # float32 [H, W], the class's probability, its name
        why.save("why.png")                                  # the map over the photograph; a notebook shows it

and step by step, for what has to be fast or is not a picture:

    with agf.Model("net.agf") as model, model.session(threads=4) as session:
        session.run(model.preprocess(picture))          # numpy uint8 [height, width, 3], or a Pillow image
        maps = session.explain(classes=[281, 207])      # numpy float32 [2, H, W]
        seen = model.render(maps[0], over=picture)

Needs numpy, and Pillow where paths and figures are wanted, and the engine's shared library (`make` builds it), which is
looked for where AGF_LIBRARY says, in this folder, in ../../build, and where `make install` puts it. What the calls mean
is written in agf.h; here stand the Python types. Errors of the engine arrive as agf.Error with the engine's message. A
wrong argument is a TypeError or ValueError before the engine sees it.

The engine works with the interpreter lock released. A Model may be shared by threads, and closed while others use it:
what they are doing ends well, what they begin afterwards is refused. A Session belongs to one thread at a time: a
second one that calls it meanwhile, or that asks for results of a run that it did not make, gets a RuntimeError. After
os.fork() the child uses the Model and makes Sessions of its own. Neither can be copied or pickled. Ctrl-C ends a call
at the next layer.
"""

from .arrays import as_picture, frame
from .bank import Bank
from .engine import ABLATIONS, Error, colormaps, library, library_path, methods, printable, version
from .explanation import Box, Explanation, read_picture
from .model import Input, Layer, Model, Rect, Session, Times, map_scale, mute, overlay, render, smooth_map

METHODS: tuple[str, ...]
COLORMAPS: tuple[str, ...]


def __getattr__(name: str) -> tuple[str, ...]:
    """METHODS and COLORMAPS: the library is asked, and need not be there before."""
    if name in ("METHODS", "COLORMAPS"):
        return methods() if name == "METHODS" else colormaps()
    raise AttributeError(f"module 'agf' has no attribute {name!r}")


__all__ = [
    "ABLATIONS",
    "Bank",
    "Box",
    "COLORMAPS",
    "Error",
    "Explanation",
    "Input",
    "Layer",
    "METHODS",
    "Model",
    "Rect",
    "Session",
    "Times",
    "as_picture",
    "colormaps",
    "frame",
    "library",
    "library_path",
    "map_scale",
    "methods",
    "mute",
    "overlay",
    "printable",
    "read_picture",
    "render",
    "smooth_map",
    "version",
]
