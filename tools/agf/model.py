"""Models and sessions: the engine's objects."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import byref, c_float, c_int, c_size_t, c_void_p
from typing import Any, NamedTuple, NoReturn, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_floats, as_int, as_map, as_picture
from .bank import Bank
from .engine import (
    ABLATIONS,
    PROGRESS,
    RUN_EXPLAIN,
    STATUS,
    CConfig,
    CError,
    CInput,
    CLayer,
    CRect,
    CRequest,
    CTimes,
    Error,
    c_text,
    check,
    colormap,
    library,
    method_number,
    options_of,
    printable,
)
from .explanation import Explanation, as_subject, is_batch

Picture = NDArray[np.uint8]


class Input(NamedTuple):
    """How the network wants its pictures: agf_input in agf.h; channel_order and resize as words."""

    channels: int
    height: int
    width: int
    is_picture: bool
    channel_order: str
    resize: str
    resize_to: int
    range: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    #: what makes probabilities of the logits: softmax, sigmoid (each label's own), none (the file does not say)
    head: str
    #: what the network itself does to each channel of its input first, image = scale * tensor + bias; None: nothing
    affine: tuple[tuple[float, ...], tuple[float, ...]] | None


class Layer(NamedTuple):
    """One node: agf_layer in agf.h. inputs: 0 is the image, n + 1 the output of layer n."""

    name: str
    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int, int, int]
    groups: int
    flat: bool
    parameters: int


class Rect(NamedTuple):
    """A part of a picture, in its pixels."""

    left: float
    top: float
    width: float
    height: float


class Times(NamedTuple):
    """Seconds that the last run, and the explanations since, spent in one layer."""

    forward: float
    explain: float


class _Uncopyable:
    """What owns something of the engine's: a copy would free it twice, and another process does not have it."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__module__}.{type(self).__name__} cannot be copied or pickled: it stands for memory of this "
            "process; open the model file, or make a session, where it is needed"
        )


class _ModelHandle(_Uncopyable):
    """Owns the engine's model, which is closed when nothing refers to this any more.

    A call holds it while it works, a session's finalizer as long as the session lives: Model.close() lets go of it.
    """

    def __init__(self, path: str | bytes | os.PathLike[Any]) -> None:
        engine = library()
        pointer, error = c_void_p(), CError()
        check(engine.agf_model_open(os.fsencode(path), None, byref(pointer), byref(error)), error)
        self.pointer = pointer
        weakref.finalize(self, engine.agf_model_close, pointer)


def _destroy_session(pointer: c_void_p, model_handle: _ModelHandle, process: int) -> None:
    """model_handle is not used: its being an argument keeps the model open until here."""
    if os.getpid() == process:  # a forked child has the memory, not the threads
        library().agf_session_destroy(pointer)


class Model(_Uncopyable):
    """A model file, opened and checked. A context manager; close() also closes the sessions made from it.

    path: str, bytes or os.PathLike. Error if the file cannot be opened, is damaged, or is not a model file.
    """

    def __init__(self, path: str | bytes | os.PathLike[Any]) -> None:
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._own = threading.local()  # each thread's session for explain()
        self._handle: _ModelHandle | None = None
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
        #: int: what tells the file from any other (agf_model_checksum); a bank carries it
        self.checksum = engine.agf_model_checksum(pointer)
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
            ("softmax", "sigmoid", "none")[found.head],
            self._affine(pointer, found.channels) if found.is_affine else None,
        )

    @staticmethod
    def _affine(pointer: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        scale, bias, pairs = c_float(), c_float(), []
        for c in range(channels):
            library().agf_model_affine(pointer, c, byref(scale), byref(bias))
            pairs.append((scale.value, bias.value))
        return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)

    def _open(self) -> _ModelHandle:
        """The handle, to be held for as long as its pointer is used: another thread may close the model meanwhile."""
        handle = self._handle
        if handle is None:
            raise ValueError("the model is closed")
        return handle

    def __repr__(self) -> str:
        state = "" if self._handle else ", closed"
        return f"<agf.Model {printable(self.name) or ascii(self.path)}, {self.classes} classes{state}>"

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the model and every session of it. May be called again; waits for what sessions do in other threads."""
        with self._lock:  # from here on no session joins
            self._handle = None
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def layers(self, height: int = 0, width: int = 0) -> list[Layer]:
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

    def layer_index(self, layer: str | int) -> int:
        """The index in layers() of a layer, given by that or by its name; ValueError if there is none."""
        layers = self.layers()
        if isinstance(layer, str):
            found = [i for i, known in enumerate(layers) if known.name == layer]
            if not found:
                raise ValueError(f"no layer is called {layer!r}")
            return found[0]
        return as_int(layer, "layer", most=len(layers) - 1)

    def class_index(self, name: str | int) -> int:
        """A class by its number, or by its label as agf_model_find() of agf.h reads it: exact, in other letter case,
        one of the names between its commas, a part of it. ValueError where that finds none, or several."""
        if not isinstance(name, str):
            return as_int(name, "a class", 0, self.classes - 1)
        wanted, found = name.strip(), (c_int * 8)()
        count = library().agf_model_find(self._open().pointer, c_text(wanted), found, len(found))
        if count == 1:
            return found[0]
        if count:
            some = ", ".join(f"{self.labels[k]} ({k})" for k in found[:count])
            raise ValueError(
                f"{count} classes are called {name!r}: {some}{', ...' if count > len(found) else ''}; give the number of one"
            )
        names, wanted = [label.casefold() for label in self.labels], wanted.casefold()
        if not names:
            raise ValueError(f"no class is called {name!r}: the model file has no labels; give the class's number")
        close = difflib.get_close_matches(wanted, names, 3)
        hint = "; did you mean " + " or ".join(repr(self.labels[names.index(label)]) for label in close)
        raise ValueError(f"no class is called {name!r}{hint if close else ''}")

    def class_name(self, k: int) -> str:
        """The label of a class, or "class 7" where the model file has none."""
        return (self.labels[k] if self.labels else "") or f"class {k}"

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """What the network's head makes of logits, in double: their softmax, or each one's sigmoid where the labels do
        not exclude one another. NaN where the file does not say which."""
        z = np.asarray(logits, np.float64)
        if self.input.head == "none":
            return np.full_like(z, np.nan)
        if self.input.head == "sigmoid":
            return 1 / (1 + np.exp(-np.clip(z, -700, 700)))
        e = np.exp(z - z.max())
        return e / e.sum()

    @overload
    def explain(self, photo: str | os.PathLike[str], *args: Any, **options: Any) -> Explanation: ...

    @overload
    def explain(self, photo: list[Any] | tuple[Any, ...], *args: Any, **options: Any) -> list[Explanation]: ...

    @overload
    def explain(self, photo: Any, *args: Any, **options: Any) -> Any: ...

    def explain(
        self,
        photo: Any,
        classes: str | int | Sequence[str | int] | None = None,
        top: int | None = None,
        method: str = "agf",
        *,
        size: tuple[int, int] | None = None,
        threads: int = 0,
        smooth: float = 0.0,
        **options: Any,
    ) -> Explanation | list[Explanation]:
        """Why the network sees a class in a picture: an Explanation. A list of pictures: a list of them.

        photo: a path (PNG, JPEG, WebP, BMP, PPM, TIFF, GIF, turned upright; .npy: a tensor), a Pillow image, uint8
        [height, width, 3] in RGB, or a preprocessed tensor, floats [C, H, W]. A batch is any iterable of these, or an
        array with one more dimension in front.
        classes: labels or numbers; or top=n: the n highest logits (default: the prediction).
        method, options: as in Session.explain(). smooth: smooth_map()'s deviation in pixels, for the maps (0: as they
        are). size: (height, width) of the network's input (None: nominal, or the
        tensor's). threads: 0 for all cores.
        The session behind it is kept for the next call in the same thread.
        """
        if is_batch(photo):
            more = {"classes": classes, "top": top, "method": method, "size": size, "threads": threads, "smooth": smooth}
            more |= options
            done = []
            for i, one in enumerate(photo):
                try:
                    done.append(self.explain(one, **more))
                except (Error, TypeError, ValueError) as problem:
                    problem.args = (f"picture {i}{f' ({one})' if isinstance(one, (str, os.PathLike)) else ''}: {problem}",)
                    raise
            return done
        if classes is not None:
            single = isinstance(classes, str) or (hasattr(classes, "__index__") and np.ndim(classes) == 0)
            given: Any = [classes] if single else classes
            classes = [self.class_index(name) for name in given]
        subject, path = as_subject(photo)
        tensor = isinstance(subject, np.ndarray) and subject.dtype.kind == "f"
        channels = self.input.channels
        if tensor and subject.ndim == 3:
            if subject.shape[0] != channels:
                hint = "; a picture is uint8 [height, width, 3]" if subject.shape[2] == channels else ""
                raise ValueError(f"a tensor must have the shape [{channels}, height, width], not {list(subject.shape)}{hint}")
            size = size or subject.shape[1:]
        session = self._session_of_thread(method, *(size or (0, 0)), threads)
        picture, seen = None, None
        if tensor:
            x = subject
        else:
            picture = as_picture(subject)
            x, seen = self.to_input(picture, *session.input_shape[1:])
        logits = session.run(x)
        maps = session.explain(classes=classes, top=top, method=method, **options)  # type: ignore[arg-type]
        if smooth:
            maps = np.stack([smooth_map(heat, smooth) for heat in maps])
        p = self.probabilities(logits)
        return Explanation(
            maps=maps,
            classes=session.explained,
            labels=[self.class_name(k) for k in session.explained],
            probabilities=[float(p[k]) for k in session.explained],
            logits=logits,
            method=method,
            picture=picture,
            seen=seen,
            path=path,
            against=self.class_name(self.class_index(options["against"])) if "against" in options else "",
        )

    def _session_of_thread(self, method: str, height: int, width: int, threads: int) -> Session:
        """This thread's session of that size, planned for the method and those that were asked for before."""
        own = self._own
        method_number(method)
        key = (height, width, threads, os.getpid())
        if getattr(own, "key", None) != key:
            own.methods = set()
        if getattr(own, "key", None) != key or method not in own.methods:
            old, own.session, own.key = getattr(own, "session", None), None, None  # until there is a new one
            if old is not None:
                old.close()
            own.methods.add(method)
            own.session = self.session(height=height, width=width, threads=threads, methods=sorted(own.methods))
            own.key = key
        session: Session = own.session
        return session

    def bank(
        self,
        pictures: str | os.PathLike[str] | Iterable[Any],
        names: Sequence[str] | None = None,
        *,
        size: tuple[int, int] | None = None,
        threads: int = 0,
    ) -> Bank:
        """The latent vectors of pictures, for the label-free procedure: a Bank.

        pictures: the path of a file that `agf bank` or Bank.save() wrote (ValueError where it is damaged, or of another
        model); or an iterable of what explain() takes as photo. names: one for each picture (default: a path's last
        part, else "picture 0" and so on). size: (height, width) of the network's input (None: nominal).
        """
        if isinstance(pictures, (str, os.PathLike)):
            if names is not None:
                raise ValueError("a bank's file has its names already")
            return Bank.read(pictures, self.checksum)
        found, latents = [], []
        with self.session(height=(size or (0, 0))[0], width=(size or (0, 0))[1], threads=threads) as session:
            for number, photo in enumerate(pictures):
                subject, path = as_subject(photo)
                tensor = isinstance(subject, np.ndarray) and subject.dtype.kind == "f"
                session.run(subject if tensor else session.preprocess(subject), explain=False)
                latents.append(session.latent())
                found.append(os.path.basename(path) if path else f"picture {number}")
            input_size = session.input_shape[1:]
        if names is not None:
            found = [str(name) for name in names]
        if not latents:
            raise ValueError("a bank needs at least one picture")
        return Bank(found, np.stack(latents), self.checksum, input_size)

    def session(self, **config: Any) -> Session:
        """A Session on this model; the arguments are Session's."""
        return Session(self, **config)

    def preprocess(self, image: Any, height: int = 0, width: int = 0) -> NDArray[np.float32]:
        """A picture as the network's input: float32 [channels, H, W].

        image: uint8 [height, width, 3] in RGB, or a Pillow image. height, width: the input size (0, 0: nominal).
        """
        return self.to_input(image, height, width)[0]

    def seen(self, image: Any, height: int = 0, width: int = 0) -> Rect:
        """The part of a picture that reaches the network's input after its own resizing and cropping, as a Rect."""
        return self.to_input(image, height, width)[1]

    def to_input(self, image: Any, height: int = 0, width: int = 0) -> tuple[NDArray[np.float32], Rect]:
        """preprocess() and seen() in one."""
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

    def render(
        self,
        map: ArrayLike,
        cmap: str = "rdbu",
        over: Any = None,
        size: tuple[int, int] | None = None,
        vmax: float = 0.0,
        alpha: float = 0.8,
        transparent: bool = False,
    ) -> Picture:
        """A map as a picture, uint8 [height, width, 3].

        map: float [H, W]. cmap: one of COLORMAPS. over: a picture as in preprocess(); the map is laid over the part of
        it that the network saw, evidence of magnitude vmax with opacity alpha. Without `over`: size = (height, width)
        of the result (None: the map's), and transparent=True makes it [height, width, 4], clear where there is no
        evidence.
        vmax: the value at the end of the colormap (0: the magnitude that 0.5 % of the pixels exceed).
        """
        values = as_map(map)
        if over is None:
            return render(values, cmap, size, vmax, transparent)
        if size is not None or transparent:
            raise ValueError("size and transparent do not go with over: the result is the picture's size, and opaque")
        height, width = values.shape
        return overlay(values, over, self.seen(over, height, width), cmap, vmax, alpha)


def render(
    map: ArrayLike,
    cmap: str = "rdbu",
    size: tuple[int, int] | None = None,
    vmax: float = 0.0,
    transparent: bool = False,
) -> Picture:
    """A map as a picture by itself; the arguments are those of Model.render()."""
    values, number, error = as_map(map), colormap(cmap), CError()
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


def map_scale(map: ArrayLike) -> float:
    """Where a colour scale for a map [H, W] should end: the magnitude that 0.5 % of its pixels exceed (agf.h)."""
    values = as_map(map)
    return float(library().agf_map_scale(values.ctypes.data, *values.shape))


def smooth_map(map: ArrayLike, sigma: float) -> NDArray[np.float32]:
    """A map [H, W] blurred by a Gaussian of deviation sigma pixels, 0 to 256, its edges reflected (agf_map_smooth)."""
    values, error = as_map(map).copy(), CError()
    scratch = np.empty_like(values)
    check(
        library().agf_map_smooth(values.ctypes.data, *values.shape, sigma, scratch.ctypes.data, byref(error)),
        error,
    )
    return values


def overlay(map: ArrayLike, over: Any, seen: Rect, cmap: str = "rdbu", vmax: float = 0.0, alpha: float = 0.8) -> Picture:
    """A map over the part `seen` of a picture; the arguments are those of Model.render()."""
    values, number, error = as_map(map), colormap(cmap), CError()
    picture, rect = np.array(as_picture(over)), CRect(*seen)
    check(
        library().agf_overlay(
            values.ctypes.data,
            values.shape[0],
            values.shape[1],
            number,
            vmax,
            alpha,
            byref(rect),
            picture.ctypes.data,
            picture.shape[1],
            picture.shape[0],
            picture.strides[0],
            byref(error),
        ),
        error,
    )
    return picture


def mute(picture: Any, seen: Rect | None = None) -> Picture:
    """A picture as light gray, for a map to lie over; outside of `seen` (None: nowhere) it is pale (agf_photo_mute)."""
    muted, error = np.array(as_picture(picture)), CError()
    rect = byref(CRect(*seen)) if seen is not None else None
    height, width = muted.shape[:2]
    check(library().agf_photo_mute(rect, muted.ctypes.data, width, height, muted.strides[0], byref(error)), error)
    return muted


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
        model: Model,
        *,
        threads: int = 0,
        height: int = 0,
        width: int = 0,
        low_memory: bool = False,
        isa: str | None = None,
        max_bytes: int = 0,
        methods: str | Iterable[str] = ("agf",),
        progress: Callable[[float], object] | None = None,
        any_thread: bool = False,
    ) -> None:
        self._finalize: weakref.finalize | None = None
        self._lock = threading.Lock()
        self._caller: int | None = None  # the thread that a call belongs to, while there is one
        self._runner: int | None = None  # the thread that made the last run
        self._any_thread, self._process = bool(any_thread), os.getpid()
        self._signals: _Signals | None = None
        self._failure: BaseException | None = None
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
            isa=None if isa is None else c_text(isa),
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
        self.explained: list[int] = []
        #: list of (name, distance): whom explain() compared the picture with when it was last given a bank
        self.neighbours: list[tuple[str, float]] = []

    def __repr__(self) -> str:
        state = "" if self._finalize is not None and self._finalize.alive else ", closed"
        return f"<agf.Session {list(self.input_shape)}, {self.isa}, {self.threads} thread(s){state}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the session. May be called again; waits for a call in another thread."""
        if self._finalize is None or os.getpid() != self._process:
            return
        if self._caller == threading.get_ident():
            raise RuntimeError("the session is in use by the call that this callback belongs to")
        with self._lock:
            self._finalize()

    def preprocess(self, image: Any) -> NDArray[np.float32]:
        """model.preprocess() at this session's input size."""
        return self.model.preprocess(image, *self.input_shape[1:])

    def run(self, x: ArrayLike, explain: bool = True) -> NDArray[np.float32]:
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
    def logits(self) -> NDArray[np.float32]:
        """The logits of the last run, float32 [classes]; Error before one."""
        with self._use(results=True):
            return self._logits()

    def _logits(self) -> NDArray[np.float32]:
        logits = library().agf_logits(self._pointer)
        if not logits:
            raise Error(STATUS.index("AGF_ERR_STATE"), "there are no logits before a successful run")
        return np.ctypeslib.as_array(logits, (self.model.classes,)).copy()

    def ranked(self, r: int = 0) -> int:
        """The class of the r-th largest logit of the last run; r = 0: the prediction."""
        r = as_int(r, "the rank", most=self.model.classes - 1)
        with self._use(results=True):
            self._logits()
            return int(library().agf_ranked(self._pointer, r))

    def latent(self) -> NDArray[np.float32]:
        """The latent vector of the last run, float32 [n] in CHW order: the input of the layer that makes the logits."""
        with self._use(results=True):
            values, error = np.empty(library().agf_latent_size(self._pointer), np.float32), CError()
            check(library().agf_latent(self._pointer, values.ctypes.data, byref(error)), error)
            return values

    def _compared(self, bank: Bank, k: int, shared: bool) -> tuple[NDArray[np.float32], list[tuple[str, float]]]:
        """The vector that the label-free procedure explains, and the neighbours that it comes from."""
        if bank.checksum != self.model.checksum:
            raise ValueError("the bank is of another model")
        if tuple(bank.input_size) != self.input_shape[1:]:
            raise ValueError(f"the bank is of inputs of {bank.input_size}, the session's are {self.input_shape[1:]}")
        latent = self.latent()
        places, distances = bank.nearest(latent, min(as_int(k, "neighbours", 1), len(bank)))
        places = places[places >= 0]
        if not len(places):
            raise ValueError("the bank has no other picture to compare this one with")
        return bank.compare(latent, places, shared), [(bank.names[at], float(d)) for at, d in zip(places, distances, strict=False)]

    def explain(
        self,
        classes: int | Sequence[int] | NDArray[np.integer] | None = None,
        top: int | None = None,
        method: str = "agf",
        difference: ArrayLike | None = None,
        bank: Bank | None = None,
        neighbours: int = 1,
        shared: bool = False,
        **options: Any,
    ) -> NDArray[np.float32]:
        """Maps of the last run, float32 [n, H, W], one for each class; their classes are then in .explained.

        classes: a class or a sequence of classes; or top=n: the n highest logits (default: the highest).
        method: one of METHODS.
        difference: [len(latent())] floats, for the label-free procedure: this picture's latent vector minus a
        neighbour's. bank: the same with the neighbours found in a Bank of this model: the difference is from the mean
        of the `neighbours` nearest, or with shared=True what the picture shares with all of them; who they are is then
        in .neighbours.
        options: against=a class, by its label or number: why each class rather than that one, of all methods but
        lrp_a1b0, lrp_a2b1, clrp and sglrp; of smoothgrad, samples=n (noisy images) and seed=n; of integrated_gradients,
        steps=n; of gradcam, layercam and hirescam, layer=the name of the node whose output is weighted, or its index in
        model.layers(); of agf, agf_a and agf_lc, the paper's ablations, True or False: no_fx, no_fdx, no_m, no_a,
        no_reg, fx_gradcam.
        """
        if classes is not None and top is not None:
            raise ValueError("classes or top, not both")
        if bank is not None:
            if difference is not None:
                raise ValueError("difference or bank, not both")
            difference, self.neighbours = self._compared(bank, neighbours, shared)
        elif shared or neighbours != 1:
            raise ValueError("neighbours and shared go with a bank")
        request, error = CRequest(method=method_number(method)), CError()
        if classes is None:
            request.count = as_int(1 if top is None else top, "top", 1, self.model.classes)
        else:
            given: Any = [classes] if hasattr(classes, "__index__") and np.ndim(classes) == 0 else classes
            wanted = [as_int(k, "a class", 0, self.model.classes - 1) for k in given]
            if not wanted:
                raise ValueError("no classes are given")
            request.count, request.classes = len(wanted), (c_int * len(wanted))(*wanted)
        for name, value in options.items():
            known = options_of(method)
            if name not in known:
                raise TypeError(f"{method} has no option {name!r}; it has {', '.join(known) or 'none'}")
            if name in ABLATIONS:
                if not isinstance(value, (bool, np.bool_)):  # "no" would be true
                    raise TypeError(f"{name} must be True or False, not {value!r:.100}")
                request.options |= ABLATIONS[name] if value else 0
            elif name == "seed":
                request.seed = as_int(value, name, most=2**64 - 1)
            elif name == "layer":
                request.layer = self.model.layer_index(value) + 1
            elif name == "against":
                request.against = self.model.class_index(value) + 1
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

    def times(self, i: int) -> Times:
        """What layer i took in the last run() and the explain() calls since, as Times."""
        found = CTimes()
        with self._use(results=True):
            code = library().agf_layer_times(self._pointer, as_int(i, "a layer"), byref(found))
        check(code, CError(message=f"there is no layer {i}".encode()))
        return Times(found.forward, found.explain)

    @contextlib.contextmanager
    def _use(self, results: bool = False) -> Iterator[None]:
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

    def _call(self, function: Callable[..., int], first: Any, second: Any, error: CError) -> None:
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

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Any]] = []
        self.handlers: dict[int, Callable[..., object]] = {}

    def __enter__(self) -> _Signals:
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

    def _note(self, number: int, frame: Any) -> None:
        self.waiting.append((number, frame))

    def deliver(self) -> None:
        while self.waiting:
            number, frame = self.waiting.pop(0)
            self.handlers[number](number, frame)

    def __exit__(self, *exception: object) -> None:
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


def _progress(progress: Callable[[float], object] | None, session: weakref.ref[Session]) -> Callable[[object, float], int]:
    """The engine's progress callback: signals, then the caller's own progress. session: a weak reference."""

    def report(context: object, share: float) -> int:
        own: Any = session()  # a call of it is what leads here
        try:
            own._signals.deliver()
            return 1 if progress is not None and progress(share) else 0
        except BaseException as problem:  # ctypes would only print it
            own._failure = problem
            return 1

    return report
