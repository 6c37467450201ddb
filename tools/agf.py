"""Attribution maps for convolutional networks: the AGF engine from Python.

    import agf
    with agf.Model("net.agf") as model, model.session(threads=4) as session:
        session.run(model.preprocess(picture))          # numpy uint8 [height, width, 3], or a Pillow image
        maps = session.explain(classes=[281, 207])      # numpy float32 [2, H, W]
        seen = model.render(maps[0], "seismic", over=picture)

One file; needs numpy and the engine's shared library (`make` builds it), which is looked for where AGF_LIBRARY says,
beside this file, in ../build, and where `make install` puts it. What the calls mean is written in agf.h; here stand the
Python types. Errors of the engine arrive as agf.Error with the engine's message. A wrong argument is a TypeError or
ValueError before the engine sees it.

The engine works with the interpreter lock released. A Model may be shared by threads, and closed while others use it:
what they are doing ends well, what they begin afterwards is refused. A Session belongs to one thread at a time: a
second one that calls it meanwhile, or that asks for results of a run that it did not make, gets a RuntimeError. After
os.fork() the child uses the Model and makes Sessions of its own. Neither can be copied or pickled. Ctrl-C ends a call
at the next layer.
"""

import contextlib
import ctypes
import ctypes.util
import os
import re
import signal
import sys
import threading
import weakref
from collections import namedtuple
from ctypes import POINTER, byref, c_char, c_char_p, c_double, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p

import numpy as np

__all__ = [
    "ABLATIONS",
    "COLORMAPS",
    "Error",
    "Input",
    "Layer",
    "METHODS",
    "Model",
    "Rect",
    "Session",
    "library_path",
    "version",
]

STATUS = (
    "AGF_OK",
    "AGF_ERR_ARGUMENT",
    "AGF_ERR_IO",
    "AGF_ERR_FORMAT",
    "AGF_ERR_VERSION",
    "AGF_ERR_UNSUPPORTED",
    "AGF_ERR_SHAPE",
    "AGF_ERR_MEMORY",
    "AGF_ERR_LIMIT",
    "AGF_ERR_NUMERIC",
    "AGF_ERR_STATE",
    "AGF_ERR_CANCELLED",
    "AGF_ERR_BUILD",
)
METHODS = (
    "agf",
    "agf_a",
    "agf_lc",
    "gradient",
    "gradient_x_input",
    "smoothgrad",
    "integrated_gradients",
    "gradcam",
    "fullgrad",
    "lrp_a1b0",
    "lrp_a2b1",
    "clrp",
    "sglrp",
)
ABLATIONS = {"no_fx": 1, "no_fdx": 2, "no_m": 4, "no_a": 8, "no_reg": 16, "fx_gradcam": 32}
OPTIONS = {"smoothgrad": ("samples", "seed"), "integrated_gradients": ("steps",), "gradcam": ("layer",)}
OPTIONS.update({method: tuple(ABLATIONS) for method in ("agf", "agf_a", "agf_lc")})
COLORMAPS = ("seismic", "jet", "viridis", "turbo", "gray")
RUN_EXPLAIN = 1

Input = namedtuple("Input", "channels height width is_picture channel_order resize resize_to range mean std")
Input.__doc__ = "How the network wants its pictures: agf_input in agf.h; channel_order and resize as words."
Layer = namedtuple("Layer", "name op inputs shape kernel stride dilation pad groups flat parameters")
Layer.__doc__ = "One node: agf_layer in agf.h. inputs: 0 is the image, n + 1 the output of layer n."
Rect = namedtuple("Rect", "left top width height")
Rect.__doc__ = "A part of a picture, in its pixels."
Times = namedtuple("Times", "forward explain")
Times.__doc__ = "Seconds that the last run, and the explanations since, spent in one layer."


class Error(RuntimeError):
    """The engine refused or failed. str(): its message; .status: the name of its code, such as "AGF_ERR_SHAPE"."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.status = STATUS[code] if 0 <= code < len(STATUS) else f"AGF_ERR_{code}"

    def __reduce__(self):  # so that it survives a process pool
        return type(self), (self.code, str(self))


# The structs of agf.h, field by field; tests/test_python.py compares sizes and offsets with what a C compiler makes.


class CError(ctypes.Structure):
    _fields_ = [("code", c_int), ("message", c_char * 256)]


class CInput(ctypes.Structure):
    _fields_ = [
        ("channels", c_int),
        ("height", c_int),
        ("width", c_int),
        ("is_picture", c_int),
        ("channel_order", c_int),
        ("resize", c_int),
        ("resize_to", c_int),
        ("range", c_float),
        ("mean", c_float * 4),
        ("std", c_float * 4),
    ]


class CLayer(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("op", c_int),
        ("inputs", c_int),
        ("shape", c_int * 3),
        ("kernel", c_int * 2),
        ("stride", c_int * 2),
        ("dilation", c_int * 2),
        ("pad", c_int * 4),
        ("groups", c_int),
        ("flat", c_int),
        ("parameters", c_uint64),
    ]


PROGRESS = ctypes.CFUNCTYPE(c_int, c_void_p, c_double)


class CConfig(ctypes.Structure):
    _fields_ = [
        ("height", c_int),
        ("width", c_int),
        ("threads", c_int),
        ("low_memory", c_int),
        ("isa", c_char_p),
        ("max_bytes", c_size_t),
        ("allocator", c_void_p),
        ("memory", c_void_p),
        ("memory_bytes", c_size_t),
        ("parallel_for", c_void_p),
        ("parallel_ctx", c_void_p),
        ("progress", PROGRESS),
        ("progress_ctx", c_void_p),
        ("observer", c_void_p),
        ("observer_ctx", c_void_p),
        ("methods", c_uint),
    ]


class CRequest(ctypes.Structure):
    _fields_ = [
        ("method", c_int),
        ("options", c_uint),
        ("count", c_int),
        ("classes", POINTER(c_int)),
        ("difference", c_void_p),
        ("explained", POINTER(c_int)),
        ("steps", c_int),
        ("samples", c_int),
        ("seed", c_uint64),
        ("layer", c_int),
    ]


class CRect(ctypes.Structure):
    _fields_ = [("left", c_double), ("top", c_double), ("width", c_double), ("height", c_double)]


class CTimes(ctypes.Structure):
    _fields_ = [("forward", c_double), ("explain", c_double)]


FUNCTIONS = {  # name: (result, arguments)
    "agf_version": (c_char_p, []),
    "agf_op_name": (c_char_p, [c_int]),
    "agf_method_find": (c_int, [c_char_p]),
    "agf_model_open": (c_int, [c_char_p, c_void_p, POINTER(c_void_p), POINTER(CError)]),
    "agf_model_close": (None, [c_void_p]),
    "agf_model_input": (None, [c_void_p, POINTER(CInput)]),
    "agf_model_name": (c_char_p, [c_void_p]),
    "agf_model_source": (c_char_p, [c_void_p]),
    "agf_model_classes": (c_int, [c_void_p]),
    "agf_model_label": (c_char_p, [c_void_p, c_int]),
    "agf_model_parameters": (c_uint64, [c_void_p]),
    "agf_model_file_bytes": (c_uint64, [c_void_p]),
    "agf_model_layers": (c_int, [c_void_p]),
    "agf_model_layer": (c_int, [c_void_p, c_int, c_int, c_int, POINTER(CLayer), POINTER(CError)]),
    "agf_model_layer_input": (c_int, [c_void_p, c_int, c_int]),
    "agf_session_bytes": (c_int, [c_void_p, POINTER(CConfig), POINTER(c_size_t), POINTER(CError)]),
    "agf_session_create": (c_int, [c_void_p, POINTER(CConfig), POINTER(c_void_p), POINTER(CError)]),
    "agf_session_destroy": (None, [c_void_p]),
    "agf_isa_name": (c_char_p, [c_void_p]),
    "agf_session_threads": (c_int, [c_void_p]),
    "agf_run": (c_int, [c_void_p, c_void_p, c_uint, POINTER(CError)]),
    "agf_logits": (POINTER(c_float), [c_void_p]),
    "agf_ranked": (c_int, [c_void_p, c_int]),
    "agf_latent_size": (c_int, [c_void_p]),
    "agf_latent": (c_int, [c_void_p, c_void_p, POINTER(CError)]),
    "agf_explain": (c_int, [c_void_p, POINTER(CRequest), c_void_p, POINTER(CError)]),
    "agf_layer_times": (c_int, [c_void_p, c_int, POINTER(CTimes)]),
    "agf_picture_to_input": (
        c_int,
        [c_void_p, c_int, c_int, c_void_p, c_int, c_int, c_size_t, c_void_p, POINTER(CRect), POINTER(CError)],
    ),
    "agf_render": (
        c_int,
        [c_void_p, c_int, c_int, c_int, c_float, c_void_p, c_int, c_int, c_size_t, c_int, POINTER(CError)],
    ),
    "agf_overlay": (
        c_int,
        [
            c_void_p,
            c_int,
            c_int,
            c_int,
            c_float,
            c_float,
            POINTER(CRect),
            c_void_p,
            c_int,
            c_int,
            c_size_t,
            POINTER(CError),
        ],
    ),
}


# The shared library


def library_path():
    """Where the engine is: AGF_LIBRARY if set, else beside this file, in ../build, or installed. OSError: nowhere.

    An absolute path, or a bare name that the system's loader finds.
    """
    named = os.environ.get("AGF_LIBRARY")
    if named:
        if not os.path.isfile(named):
            raise OSError(f"AGF_LIBRARY names {named}, which is not a file")
        return os.path.abspath(named)  # a bare name would be looked for in the loader's folders
    file_name = {"win32": "agf.dll", "darwin": "libagf.dylib"}.get(sys.platform, "libagf.so")
    here = os.path.dirname(os.path.abspath(__file__))
    near = [os.path.join(here, file_name), os.path.join(os.path.dirname(here), "build", file_name)]
    # Where `make install` puts it. The loader is asked last: its cache may be older than the file.
    installed = [os.path.join(prefix, "lib", file_name) for prefix in (sys.prefix, "/usr/local", "/usr")]
    for path in near + installed:
        if os.path.isfile(path):
            return path
    found = ctypes.util.find_library("agf")
    if found:
        return found
    raise OSError(
        f"the engine is not at {' or '.join(near)}, nor installed: build it with make, install it with make install, "
        "or set AGF_LIBRARY to its path"
    )


_library = None
_library_lock = threading.Lock()


def library():
    """The loaded engine, a ctypes.CDLL with all prototypes set; loaded on first use."""
    global _library
    with _library_lock:
        if _library is None:
            path = library_path()
            loaded = ctypes.CDLL(path)
            for name, (result, arguments) in FUNCTIONS.items():
                try:
                    function = getattr(loaded, name)
                except AttributeError:
                    raise OSError(f"{path} has no function {name}: not the engine, or another version of it") from None
                function.restype, function.argtypes = result, arguments
            found = loaded.agf_version().decode()
            if found.split(".")[0] != "1":
                raise OSError(f"{path} is version {found} of the engine; this file is written for version 1")
            _library = loaded
        return _library


def version():
    """The version of the engine, such as "1.0.0"."""
    return library().agf_version().decode()


# Control characters (C0 and C1), which a terminal obeys; line and direction marks; bytes that were no UTF-8.
UNPRINTABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def printable(text: str) -> str:
    """Text from a file, such as a label, made safe for a terminal: what is no character to see becomes an escape."""
    return UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def check(code, error):
    """Raise the engine's error, if there is one."""
    if code:
        raise Error(code, printable(error.message.decode("utf-8", "replace")))


# Arguments


def as_floats(values, shape, what):
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


def refuse_mask(values, what):
    """TypeError for a masked array: numpy.asarray would count what is masked out."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{what} must not be a masked array: fill what is masked, as with .filled(0)")


def as_picture(image):
    """image as a C-contiguous uint8 array [height, width, 3]."""
    refuse_mask(image, "a picture")
    if not isinstance(image, np.ndarray) and callable(getattr(image, "convert", None)):
        if image.mode.startswith("I;16"):  # the high byte, as the program takes it; Pillow would clip at 255
            image = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, 2)
        elif image.mode in ("I", "F"):
            raise ValueError(f"a picture of Pillow's mode {image.mode} has no scale: make it 8-bit first")
        else:
            image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise TypeError(f"a picture must be uint8 [height, width, 3] or a Pillow image, not {array.dtype}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"a picture must have the shape [height, width, 3], not {list(array.shape)}")
    return np.ascontiguousarray(array)


def as_map(values):
    """values as a C-contiguous float32 array [H, W]."""
    refuse_mask(values, "a map")
    array = np.asarray(values)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"a map must have the shape [H, W], not {list(array.shape)}")
    return as_floats(array, array.shape, "a map")


def as_int(value, what, least=0, most=2**31 - 1):
    """value as an int within the bounds; bool and float are refused, numpy integers are welcome."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be an integer, not {type(value).__name__}")
    value = value.__index__()
    if not least <= value <= most:
        raise ValueError(f"{what} must be between {least} and {most}, not {value}")
    return value


def colormap(name):
    """The engine's number of a colormap."""
    if name not in COLORMAPS:
        raise ValueError(f"no colormap {name!r}; there are {', '.join(COLORMAPS)}")
    return COLORMAPS.index(name)


def method_number(name):
    """The engine's number of a method."""
    if name not in METHODS:
        raise ValueError(f"no method {name!r}; there are {', '.join(METHODS)}")
    number = library().agf_method_find(name.encode())
    if number < 0:
        raise ValueError(f"this engine was built without the method {name}")
    return number


# Objects


class _Uncopyable:
    """What owns something of the engine's: a copy would free it twice, and another process does not have it."""

    def __reduce_ex__(self, protocol):
        raise TypeError(
            f"{type(self).__module__}.{type(self).__name__} cannot be copied or pickled: it stands for memory of this "
            "process; open the model file, or make a session, where it is needed"
        )


class _ModelHandle(_Uncopyable):
    """Owns the engine's model, which is closed when nothing refers to this any more.

    A call holds it while it works, a session's finalizer as long as the session lives: Model.close() lets go of it.
    """

    def __init__(self, path):
        engine = library()
        pointer, error = c_void_p(), CError()
        check(engine.agf_model_open(os.fsencode(path), None, byref(pointer), byref(error)), error)
        self.pointer = pointer
        weakref.finalize(self, engine.agf_model_close, pointer)


def _destroy_session(pointer, model_handle, process):
    """model_handle is not used: its being an argument keeps the model open until here."""
    if os.getpid() == process:  # a forked child has the memory, not the threads
        library().agf_session_destroy(pointer)


class Model(_Uncopyable):
    """A model file, opened and checked. A context manager; close() also closes the sessions made from it.

    path: str, bytes or os.PathLike. Error if the file cannot be opened, is damaged, or is not a model file.
    """

    def __init__(self, path):
        self._sessions, self._lock = weakref.WeakSet(), threading.RLock()
        self._handle = None
        self.path = os.fspath(path)
        if isinstance(path, bool) or b"\0" in os.fsencode(path):
            raise ValueError(f"a path without NUL characters is needed, not {path!r}")
        self._handle = _ModelHandle(path)
        engine, pointer = library(), self._handle.pointer
        #: str: the network's name and what it was converted from; "" if the file does not say
        self.name = engine.agf_model_name(pointer).decode("utf-8", "replace")
        self.source = engine.agf_model_source(pointer).decode("utf-8", "replace")
        #: int: the number of logits, of weights, and the file's size
        self.classes = engine.agf_model_classes(pointer)
        self.parameters = engine.agf_model_parameters(pointer)
        self.file_bytes = engine.agf_model_file_bytes(pointer)
        #: list of str: a name for each class, or an empty list
        self.labels = [engine.agf_model_label(pointer, k).decode("utf-8", "replace") for k in range(self.classes)]
        if not any(self.labels):
            self.labels = []
        found = CInput()
        engine.agf_model_input(pointer, byref(found))
        #: Input: nominal shape and preprocessing; mean and std are tuples as long as there are channels
        self.input = Input(
            found.channels,
            found.height,
            found.width,
            bool(found.is_picture),
            ("rgb", "bgr")[found.channel_order],
            ("stretch", "crop")[found.resize],
            found.resize_to,
            found.range,
            tuple(found.mean)[: found.channels],
            tuple(found.std)[: found.channels],
        )

    def _open(self):
        """The handle, to be held for as long as its pointer is used: another thread may close the model meanwhile."""
        handle = self._handle
        if handle is None:
            raise ValueError("the model is closed")
        return handle

    def __repr__(self):
        state = "" if self._handle else ", closed"
        return f"<agf.Model {printable(self.name) or ascii(self.path)}, {self.classes} classes{state}>"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Close the model and every session of it. May be called again; waits for what sessions do in other threads."""
        with self._lock:  # from here on no session joins
            self._handle = None
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def layers(self, height=0, width=0):
        """The network's nodes in topological order, as a list of Layer, at an input size (0, 0: nominal)."""
        engine, handle, layers = library(), self._open(), []
        height, width = as_int(height, "height"), as_int(width, "width")
        for i in range(engine.agf_model_layers(handle.pointer)):
            c, error = CLayer(), CError()
            check(engine.agf_model_layer(handle.pointer, i, height, width, byref(c), byref(error)), error)
            inputs = tuple(engine.agf_model_layer_input(handle.pointer, i, j) for j in range(c.inputs))
            layers.append(
                Layer(
                    c.name.decode("utf-8", "replace"),
                    engine.agf_op_name(c.op).decode(),
                    inputs,
                    tuple(c.shape),
                    tuple(c.kernel),
                    tuple(c.stride),
                    tuple(c.dilation),
                    tuple(c.pad),
                    c.groups,
                    bool(c.flat),
                    c.parameters,
                )
            )
        return layers

    def layer_index(self, layer):
        """The index in layers() of a layer, given by that or by its name; ValueError if there is none."""
        layers = self.layers()
        if isinstance(layer, str):
            found = [i for i, known in enumerate(layers) if known.name == layer]
            if not found:
                raise ValueError(f"no layer is called {layer!r}")
            return found[0]
        return as_int(layer, "layer", most=len(layers) - 1)

    def session(self, **config):
        """A Session on this model; the arguments are Session's."""
        return Session(self, **config)

    def preprocess(self, image, height=0, width=0):
        """A picture as the network's input: float32 [channels, H, W].

        image: uint8 [height, width, 3] in RGB, or a Pillow image. height, width: the input size (0, 0: nominal).
        """
        return self._to_input(image, height, width)[0]

    def seen(self, image, height=0, width=0):
        """The part of a picture that reaches the network's input after its own resizing and cropping, as a Rect."""
        return self._to_input(image, height, width)[1]

    def _to_input(self, image, height, width):
        handle, picture = self._open(), as_picture(image)
        height = as_int(height, "height") or self.input.height
        width = as_int(width, "width") or self.input.width
        if height * width > 2**28:
            raise ValueError(f"an input of {width}x{height} pixels is too large")
        chw, seen, error = np.empty((self.input.channels, height, width), np.float32), CRect(), CError()
        check(
            library().agf_picture_to_input(
                handle.pointer,
                height,
                width,
                picture.ctypes.data,
                picture.shape[1],
                picture.shape[0],
                picture.strides[0],
                chw.ctypes.data,
                byref(seen),
                byref(error),
            ),
            error,
        )
        return chw, Rect(seen.left, seen.top, seen.width, seen.height)

    def render(self, map, cmap="seismic", over=None, size=None, vmax=0.0, alpha=0.8, transparent=False):
        """A map as a picture, uint8 [height, width, 3].

        map: float [H, W]. cmap: one of COLORMAPS. over: a picture as in preprocess(); the map is laid over the part of
        it that the network saw, evidence of magnitude vmax with opacity alpha. Without `over`: size = (height, width)
        of the result (None: the map's), and transparent=True makes it [height, width, 4], clear where there is no
        evidence.
        vmax: the value at the end of the colormap (0: the map's largest magnitude).
        """
        values, number, error = as_map(map), colormap(cmap), CError()
        if over is not None:
            if size is not None or transparent:
                raise ValueError(
                    "size and transparent do not go with over: the result is the picture's size, and opaque"
                )
            picture = np.array(as_picture(over))
            seen = CRect(*self.seen(picture, *values.shape))
            check(
                library().agf_overlay(
                    values.ctypes.data,
                    values.shape[0],
                    values.shape[1],
                    number,
                    vmax,
                    alpha,
                    byref(seen),
                    picture.ctypes.data,
                    picture.shape[1],
                    picture.shape[0],
                    picture.strides[0],
                    byref(error),
                ),
                error,
            )
            return picture
        height, width = values.shape if size is None else size
        height, width = as_int(height, "height", 1, 2**15), as_int(width, "width", 1, 2**15)
        out = np.empty((height, width, 4 if transparent else 3), np.uint8)
        check(
            library().agf_render(
                values.ctypes.data,
                values.shape[0],
                values.shape[1],
                number,
                vmax,
                out.ctypes.data,
                width,
                height,
                out.strides[0],
                out.shape[2],
                byref(error),
            ),
            error,
        )
        return out


class Session(_Uncopyable):
    """The memory and threads that run and explain one picture at a time. A context manager.

    height, width: input size (0, 0: nominal). threads: 0 for all cores. low_memory: less memory, more time, the same
    bits. isa: "ref", "avx2", "avx512", "neon", or None for the best there is. max_bytes: refuse to need more (0: no
    cap).
    methods: those that explain() will be asked for: the memory is sized for them.
    progress: called as progress(share) between layers, 0 <= share <= 1; a true result cancels (Error,
    AGF_ERR_CANCELLED), an exception cancels and is raised from the call.
    any_thread: let a thread read and explain a run that another thread made; without it that is refused, because
    threads that share a session would get each other's maps. Calls that overlap in time are refused either way.
    Error if the network cannot take the size or the machine cannot give the rest.
    """

    def __init__(
        self,
        model,
        *,
        threads=0,
        height=0,
        width=0,
        low_memory=False,
        isa=None,
        max_bytes=0,
        methods=("agf",),
        progress=None,
        any_thread=False,
    ):
        self._finalize = None
        self._lock, self._caller, self._runner = threading.Lock(), None, None
        self._any_thread, self._process = bool(any_thread), os.getpid()
        self._signals, self._failure = None, None
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be callable, not {type(progress).__name__}")
        methods = (methods,) if isinstance(methods, str) else tuple(methods)
        bits = [1 << method_number(method) for method in methods]
        if isa is not None and not isinstance(isa, str):
            raise TypeError(f"isa must be a name, not {type(isa).__name__}")
        config = CConfig(
            height=as_int(height, "height"),
            width=as_int(width, "width"),
            threads=as_int(threads, "threads"),
            low_memory=bool(low_memory),
            isa=None if isa is None else isa.encode(),
            methods=sum(set(bits)),
            max_bytes=as_int(max_bytes, "max_bytes", most=2**63 - 1),
        )
        # The engine calls it as long as the session lives; it must not itself keep the session alive.
        self._callback = PROGRESS(_progress(progress, weakref.ref(self)))
        config.progress = self._callback
        engine, handle, pointer, size, error = library(), model._open(), c_void_p(), c_size_t(), CError()
        check(engine.agf_session_bytes(handle.pointer, byref(config), byref(size), byref(error)), error)
        check(engine.agf_session_create(handle.pointer, byref(config), byref(pointer), byref(error)), error)
        self._pointer = pointer
        self._finalize = weakref.finalize(self, _destroy_session, pointer, handle, self._process)
        with model._lock:
            if model._handle is None:
                self._finalize()
                raise ValueError("the model was closed while this session was made")
            model._sessions.add(self)
        self.model = model
        #: (channels, H, W) of what run() takes
        self.input_shape = (
            model.input.channels,
            config.height or model.input.height,
            config.width or model.input.width,
        )
        #: int: bytes of memory taken, threads in use; str: the instruction set in use
        self.bytes = size.value
        self.threads = engine.agf_session_threads(pointer)
        self.isa = engine.agf_isa_name(pointer).decode()
        #: list of int: the classes of the maps that explain() returned last
        self.explained = []

    def __repr__(self):
        state = "" if self._finalize is not None and self._finalize.alive else ", closed"
        return f"<agf.Session {list(self.input_shape)}, {self.isa}, {self.threads} thread(s){state}>"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Free the session. May be called again; waits for a call in another thread."""
        if self._finalize is None or os.getpid() != self._process:
            return
        if self._caller == threading.get_ident():
            raise RuntimeError("the session is in use by the call that this callback belongs to")
        with self._lock:
            self._finalize()

    def preprocess(self, image):
        """model.preprocess() at this session's input size."""
        return self.model.preprocess(image, *self.input_shape[1:])

    def run(self, x, explain=True):
        """Run the network on one image and return the logits, float32 [classes].

        x: floats [C, H, W], preprocessed. explain: prepare for explain() on the way, which makes the first one faster.
        """
        chw, error = as_floats(x, self.input_shape, "the input"), CError()
        with self._use():
            self._runner = None  # a run that fails leaves no results
            self._call(library().agf_run, chw.ctypes.data, RUN_EXPLAIN if explain else 0, error)
            self._runner = threading.get_ident()
            return self._logits()

    @property
    def logits(self):
        """The logits of the last run, float32 [classes]; Error before one."""
        with self._use(results=True):
            return self._logits()

    def _logits(self):
        logits = library().agf_logits(self._pointer)
        if not logits:
            raise Error(STATUS.index("AGF_ERR_STATE"), "there are no logits before a successful run")
        return np.ctypeslib.as_array(logits, (self.model.classes,)).copy()

    def ranked(self, r=0):
        """The class of the r-th largest logit of the last run; r = 0: the prediction."""
        r = as_int(r, "the rank", most=self.model.classes - 1)
        with self._use(results=True):
            self._logits()
            return library().agf_ranked(self._pointer, r)

    def latent(self):
        """The latent vector of the last run, float32 [n] in CHW order: the input of the layer that makes the logits."""
        with self._use(results=True):
            values, error = np.empty(library().agf_latent_size(self._pointer), np.float32), CError()
            check(library().agf_latent(self._pointer, values.ctypes.data, byref(error)), error)
            return values

    def explain(self, classes=None, top=None, method="agf", difference=None, **options):
        """Maps of the last run, float32 [n, H, W], one for each class; their classes are then in .explained.

        classes: a class or a sequence of classes; or top=n: the n highest logits (default: the highest).
        method: one of METHODS.
        difference: [len(latent())] floats, for the label-free procedure: this picture's latent vector minus a
        neighbour's.
        options: of smoothgrad, samples=n (noisy images) and seed=n; of integrated_gradients, steps=n; of gradcam,
        layer=the name of the node whose output is weighted, or its index in model.layers(); of agf, agf_a and agf_lc,
        the paper's ablations, True or False: no_fx, no_fdx, no_m, no_a, no_reg, fx_gradcam.
        """
        if classes is not None and top is not None:
            raise ValueError("classes or top, not both")
        request, error = CRequest(method=method_number(method)), CError()
        if classes is None:
            request.count = as_int(1 if top is None else top, "top", 1, self.model.classes)
        else:
            wanted = [classes] if hasattr(classes, "__index__") and np.ndim(classes) == 0 else list(classes)
            wanted = [as_int(k, "a class", 0, self.model.classes - 1) for k in wanted]
            if not wanted:
                raise ValueError("no classes are given")
            request.count, request.classes = len(wanted), (c_int * len(wanted))(*wanted)
        for name, value in options.items():
            known = OPTIONS.get(method, ())
            if name not in known:
                raise TypeError(f"{method} has no option {name!r}; it has {', '.join(known) or 'none'}")
            if name in ABLATIONS:
                request.options |= ABLATIONS[name] if value else 0
            elif name == "seed":
                request.seed = as_int(value, name, most=2**64 - 1)
            elif name == "layer":
                request.layer = self.model.layer_index(value) + 1
            else:
                setattr(request, name, as_int(value, name, 1))
        explained = (c_int * request.count)()
        request.explained = explained
        with self._use(results=True):
            if difference is not None:
                vector = as_floats(difference, (library().agf_latent_size(self._pointer),), "the difference")
                request.difference = vector.ctypes.data
            maps = np.empty((request.count,) + self.input_shape[1:], np.float32)
            self._call(library().agf_explain, byref(request), maps.ctypes.data, error)
            self.explained = list(explained)
            return maps

    def times(self, i):
        """What layer i took in the last run() and the explain() calls since, as Times."""
        found = CTimes()
        with self._use(results=True):
            code = library().agf_layer_times(self._pointer, as_int(i, "a layer"), byref(found))
        check(code, CError(message=f"there is no layer {i}".encode()))
        return Times(found.forward, found.explain)

    @contextlib.contextmanager
    def _use(self, results=False):
        """Hold the session for one call, which wants results of the last run or makes one; refuse to mix threads."""
        me = threading.get_ident()
        if os.getpid() != self._process:
            raise Error(STATUS.index("AGF_ERR_STATE"), "the session was made before fork(): make one in this process")
        if self._caller == me:
            raise RuntimeError("the session is in use by the call that this callback belongs to")
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("the session is in use by another thread: make a session for each thread")
        try:
            self._caller = me
            if self._finalize is None or not self._finalize.alive:
                raise ValueError("the session is closed")
            if results and not self._any_thread and self._runner not in (None, me):
                raise RuntimeError(
                    "the session is in use by another thread, which made the last run: make a session for each thread "
                    "(or any_thread=True, to explain here what was run there)"
                )
            yield
        finally:
            self._caller = None
            self._lock.release()

    def _call(self, function, first, second, error):
        """function(session, first, second, &error) of the engine, which signals and callbacks may cancel."""
        self._signals, self._failure = _Signals(), None
        try:
            with self._signals:
                code = function(self._pointer, first, second, byref(error))
        finally:
            failure, self._failure, self._signals = self._failure, None, None
        if failure is not None:
            raise failure
        check(code, error)


class _Signals:
    """Holds back Python's handlers of signals while the main thread is in the engine.

    Python runs them on the way into the progress callback, where ctypes prints and drops what they raise, such as
    KeyboardInterrupt. deliver() runs them where that can be kept; those that come too late for it run at the end.
    """

    def __enter__(self):
        self.waiting, self.handlers = [], {}
        if threading.current_thread() is threading.main_thread():
            try:
                for number in HANDLED_SIGNALS:
                    handler = signal.getsignal(number)
                    if callable(handler):
                        self.handlers[number] = handler
                        signal.signal(number, self._note)
            except BaseException:  # a handler that was not yet held back
                self.__exit__()
                raise
        return self

    def _note(self, number, frame):
        self.waiting.append((number, frame))

    def deliver(self):
        while self.waiting:
            number, frame = self.waiting.pop(0)
            self.handlers[number](number, frame)

    def __exit__(self, *exception):
        for number in reversed(self.handlers):
            if signal.getsignal(number) == self._note:  # a handler may have set another one
                signal.signal(number, self.handlers[number])
        self.deliver()


# The first ones are the last whose handlers are put back: these may raise at once.
HANDLED_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK", "SIGALRM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]


def _progress(progress, session):
    """The engine's progress callback: signals, then the caller's own progress. session: a weak reference."""

    def report(context, share):
        own = session()
        try:
            own._signals.deliver()
            return 1 if progress is not None and progress(share) else 0
        except BaseException as problem:  # ctypes would only print it
            own._failure = problem
            return 1

    return report
