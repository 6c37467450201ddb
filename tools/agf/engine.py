"""The engine's shared library: where it is, its functions and structs as agf.h declares them, its errors."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import itertools
import os
import re
import sys
import threading
from ctypes import POINTER, c_char, c_char_p, c_double, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p

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
ABLATIONS = {"no_fx": 1, "no_fdx": 2, "no_m": 4, "no_a": 8, "no_reg": 16, "fx_gradcam": 32}
# AGF_METHOD_* in agf.h: what a method is, and what a request may ask of it.
TRAITS = {
    "built": 1,
    "takes_options": 2,
    "takes_difference": 4,
    "takes_steps": 8,
    "takes_samples": 16,
    "takes_layer": 32,
    "normalised": 64,
    "not_negative": 128,
    "planned": 256,
    "takes_against": 512,
}
RUN_EXPLAIN = 1
NEIGHBOURS_OTHERS = 1  # agf_neighbours: leave out vectors that equal the one asked about


class Error(RuntimeError):
    """The engine refused or failed. str(): its message; .status: the name of its code, such as "AGF_ERR_SHAPE"."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS[code] if 0 <= code < len(STATUS) else f"AGF_ERR_{code}"

    def __reduce__(self) -> tuple[type[Error], tuple[int, str]]:  # so that it survives a process pool
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
        ("is_affine", c_int),
        ("head", c_int),
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
        ("against", c_int),
    ]


class CRect(ctypes.Structure):
    _fields_ = [("left", c_double), ("top", c_double), ("width", c_double), ("height", c_double)]


class CBox(ctypes.Structure):
    _fields_ = [
        ("left", c_int),
        ("top", c_int),
        ("width", c_int),
        ("height", c_int),
        ("x", c_double),
        ("y", c_double),
    ]


class CPicture(ctypes.Structure):
    _fields_ = [
        ("format", c_int),
        ("width", c_int),
        ("height", c_int),
        ("planes", c_void_p * 3),
        ("strides", c_size_t * 3),
    ]


class CTimes(ctypes.Structure):
    _fields_ = [("forward", c_double), ("explain", c_double)]


STRUCTS: dict[str, type[ctypes.Structure]] = {
    "agf_error": CError,
    "agf_input": CInput,
    "agf_layer": CLayer,
    "agf_session_config": CConfig,
    "agf_request": CRequest,
    "agf_rect": CRect,
    "agf_box": CBox,
    "agf_picture": CPicture,
    "agf_times": CTimes,
}

FUNCTIONS = {  # name: (result, arguments)
    "agf_version": (c_char_p, []),
    "agf_struct_bytes": (c_size_t, [c_char_p]),
    "agf_op_name": (c_char_p, [c_int]),
    "agf_method_name": (c_char_p, [c_int]),
    "agf_method_find": (c_int, [c_char_p]),
    "agf_method_traits": (c_uint, [c_int]),
    "agf_model_open": (c_int, [c_char_p, c_void_p, POINTER(c_void_p), POINTER(CError)]),
    "agf_model_close": (None, [c_void_p]),
    "agf_model_input": (None, [c_void_p, POINTER(CInput)]),
    "agf_model_affine": (None, [c_void_p, c_int, POINTER(c_float), POINTER(c_float)]),
    "agf_model_name": (c_char_p, [c_void_p]),
    "agf_model_source": (c_char_p, [c_void_p]),
    "agf_model_classes": (c_int, [c_void_p]),
    "agf_model_label": (c_char_p, [c_void_p, c_int]),
    "agf_model_find": (c_int, [c_void_p, c_char_p, POINTER(c_int), c_int]),
    "agf_model_parameters": (c_uint64, [c_void_p]),
    "agf_model_file_bytes": (c_uint64, [c_void_p]),
    "agf_model_checksum": (c_uint64, [c_void_p]),
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
    "agf_neighbours": (
        c_int,
        [c_void_p, c_int, c_void_p, c_int, c_int, c_int, c_uint, c_void_p, c_void_p, POINTER(CError)],
    ),
    "agf_explain": (c_int, [c_void_p, POINTER(CRequest), c_void_p, POINTER(CError)]),
    "agf_layer_times": (c_int, [c_void_p, c_int, POINTER(CTimes)]),
    "agf_picture_to_input": (
        c_int,
        [c_void_p, c_int, c_int, c_void_p, c_int, c_int, c_size_t, c_void_p, POINTER(CRect), POINTER(CError)],
    ),
    "agf_pixel_format_name": (c_char_p, [c_int]),
    "agf_pixel_format_find": (c_int, [c_char_p]),
    "agf_picture_bytes": (c_size_t, [c_int, c_int, c_int]),
    "agf_picture_to_rgb": (c_int, [POINTER(CPicture), c_void_p, c_size_t, POINTER(CError)]),
    "agf_colormap_find": (c_int, [c_char_p]),
    "agf_colormap_name": (c_char_p, [c_int]),
    "agf_map_scale": (c_float, [c_void_p, c_int, c_int]),
    "agf_map_smooth": (c_int, [c_void_p, c_int, c_int, c_double, c_void_p, POINTER(CError)]),
    "agf_map_box": (c_int, [c_void_p, c_int, c_int, c_double, POINTER(CBox), POINTER(CError)]),
    "agf_render": (
        c_int,
        [c_void_p, c_int, c_int, c_int, c_float, c_void_p, c_int, c_int, c_size_t, c_int, POINTER(CError)],
    ),
    "agf_photo_mute": (c_int, [POINTER(CRect), c_void_p, c_int, c_int, c_size_t, POINTER(CError)]),
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


def library_path() -> str:
    """Where the engine is: AGF_LIBRARY if set, else beside this file, in ../../build, or installed. OSError: nowhere.

    An absolute path, or a bare name that the system's loader finds.
    """
    named = os.environ.get("AGF_LIBRARY")
    if named:
        if not os.path.isfile(named):
            raise OSError(f"AGF_LIBRARY names {named}, which is not a file")
        return os.path.abspath(named)  # a bare name would be looked for in the loader's folders
    file_name = {"win32": "agf.dll", "darwin": "libagf.dylib"}.get(sys.platform, "libagf.so")
    here = os.path.dirname(os.path.abspath(__file__))
    near = [os.path.join(here, file_name), os.path.join(os.path.dirname(os.path.dirname(here)), "build", file_name)]
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


_library: ctypes.CDLL | None = None
_library_lock = threading.Lock()


def library() -> ctypes.CDLL:
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
            check_version(loaded, path)
            _library = loaded
        return _library


VERSION = (1, 0)  # of agf.h, major and minor, as the structs and functions above are written


def check_version(loaded: ctypes.CDLL, path: str) -> None:
    """OSError where a library cannot be called through what stands above, which would read or write beyond a struct."""
    advice = "take the engine and the binding from one release, or build the engine beside this file with make"
    found = loaded.agf_version().decode()
    numbers = re.match(r"(\d+)\.(\d+)\.", found)
    if not numbers or int(numbers[1]) != VERSION[0] or int(numbers[2]) < VERSION[1]:
        raise OSError(
            f"{path} is version {found} of the engine; this binding is written for version {VERSION[0]}, "
            f"from {VERSION[0]}.{VERSION[1]} on: {advice}"
        )
    for name, mirror in STRUCTS.items():
        size, wanted = loaded.agf_struct_bytes(name.encode()), ctypes.sizeof(mirror)
        if size != wanted:
            raise OSError(f"{path}: its {name} has {size} bytes, this binding's has {wanted}: {advice}")


def version() -> str:
    """The version of the engine, such as "1.0.0"."""
    return library().agf_version().decode()


# Control characters (C0 and C1), which a terminal obeys; line and direction marks; bytes that were no UTF-8.
UNPRINTABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def printable(text: str) -> str:
    """Text from a file, such as a label, made safe for a terminal: what is no character to see becomes an escape."""
    return UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def c_text(text: str) -> bytes:
    """A name for the engine, to which a NUL is its end: behind one anything could stand unseen."""
    if "\0" in text:
        raise ValueError(f"{text!r}: a name has no NUL in it")
    return text.encode("utf-8", "replace")


def check(code: int, error: CError) -> None:
    """Raise the engine's error, if there is one."""
    if code:
        raise Error(code, printable(error.message.decode("utf-8", "replace")))


@functools.cache
def names_of(function: str) -> tuple[str, ...]:
    """The names that a function of the engine gives to 0, 1, 2 ..., up to "?"."""
    names = (getattr(library(), function)(number).decode() for number in itertools.count())
    return tuple(itertools.takewhile(lambda name: name != "?", names))


def methods() -> tuple[str, ...]:
    """The methods, in agf.h's order."""
    return names_of("agf_method_name")


def method_has(method: str, trait: str) -> bool:
    """Whether a method has one of TRAITS."""
    return bool(library().agf_method_traits(method_number(method)) & TRAITS[trait])


def options_of(method: str) -> tuple[str, ...]:
    """The options that Session.explain() takes for a method."""
    asked = {"takes_options": tuple(ABLATIONS), "takes_samples": ("samples", "seed")}
    asked.update(takes_steps=("steps",), takes_layer=("layer",), takes_against=("against",))
    return tuple(option for trait, options in asked.items() if method_has(method, trait) for option in options)


def colormaps() -> tuple[str, ...]:
    """The colormaps, in agf.h's order."""
    return names_of("agf_colormap_name")


def colormap(name: str) -> int:
    """The engine's number of a colormap."""
    if name not in colormaps():
        raise ValueError(f"no colormap {name!r}; there are {', '.join(colormaps())}")
    return colormaps().index(name)


def method_number(name: str) -> int:
    """The engine's number of a method."""
    if name not in methods():
        raise ValueError(f"no method {name!r}; there are {', '.join(methods())}")
    number = int(library().agf_method_find(name.encode()))
    if number < 0:
        raise ValueError(f"this engine was built without the method {name}")
    return number
