"""What is judged: methods, and a process's model, sessions and pictures."""

import functools
import os
import re
import tempfile
from collections import namedtuple

import agf
import numpy as np
from PIL import Image

from .common import EvalError, reason
from .weights import randomised


ACTIVATION_NORM = "activation_norm"  # of label-free alone: no method of the engine


class Method(namedtuple("Method", "text name options")):
    """A method with its options, as the user wrote it: text names it in every table."""

    @classmethod
    def parse(cls, text) -> "Method":
        """ "NAME" or "NAME:OPTION[=VALUE],..."; EvalError for an unknown method."""
        name, _, rest = text.partition(":")
        if name not in agf.METHODS and name != ACTIVATION_NORM:
            raise EvalError(f"no method {name!r}; there are {', '.join(agf.METHODS)}")
        options = {}
        for option in filter(None, rest.split(",")):
            key, equals, value = option.partition("=")
            options[key] = (int(value) if re.fullmatch(r"\d+", value) else value) if equals else True
        return cls(text, name, options)

    @property
    def centred(self):
        """Whether foreground is where a map of this method is above its mean, and not above 0."""
        return self.name in (
            *("lrp_a1b0", "fullgrad", "smoothgrad", "integrated_gradients", "gradcam", "layercam", "hirescam"),
            ACTIVATION_NORM,
        )


class Subject:
    """A process's model, sessions and pictures. plan: make_plan()'s, a plain dict that travels to workers."""

    def __init__(self, plan) -> None:
        self.plan, self.settings = plan, plan["settings"]
        self.methods = [Method.parse(text) for text in self.settings["methods"]]
        self.model = agf.Model(plan["model"])
        self.sessions, self.variants = {}, {}
        if not self.model.input.is_picture or self.model.input.channels != 3:
            raise EvalError(f"{plan['model']}: converted without preprocessing for RGB pictures (see agf_convert.py)")
        self.size = tuple(self.settings["size"])
        self.maps = functools.lru_cache(64)(self._maps)
        self.check_arguments()

    def check_arguments(self):
        """EvalError where the network, the machine or a method cannot take an argument: it is no picture's fault."""
        try:
            session = self.session(*self.size)
        except (agf.Error, ValueError) as problem:
            raise EvalError(reason(problem)) from None
        own = self.plan.get("options", ())  # the experiment's
        for method in self.methods:
            if method.name == ACTIVATION_NORM:
                if "trunk" not in self.settings:
                    raise EvalError(f"-m {ACTIVATION_NORM} goes with label-free and its --trunk")
                continue
            try:
                options = {key: value for key, value in method.options.items() if key not in own}
                session.explain(classes=0, method=method.name, **options)
            except (TypeError, ValueError) as problem:
                raise EvalError(f"-m {method.text}: {reason(problem)}") from None
            except agf.Error:  # nothing has been run; all before that was checked
                pass

    def session(self, height, width, model=None):
        """The session of a model (None: the one that is judged) for an input size; made once."""
        key = (id(model), height, width)
        if key not in self.sessions:
            names = tuple(sorted({method.name for method in self.methods} - {ACTIVATION_NORM}))
            self.sessions[key] = (model or self.model).session(
                height=height, width=width, threads=self.plan["threads"], isa=self.plan["isa"], methods=names
            )
        return self.sessions[key]

    def variant(self, layers):
        """The model with the top `layers` layers randomised. Only the last one is kept: they are large."""
        if layers not in self.variants:
            for old in self.variants.values():
                self.sessions = {key: session for key, session in self.sessions.items() if key[0] != id(old)}
                old.close()
            with open(self.plan["model"], "rb") as f:
                data = randomised(f.read(), layers, self.settings["seed"])
            descriptor, path = tempfile.mkstemp(suffix=".agf")
            try:
                with os.fdopen(descriptor, "wb") as f:
                    f.write(data)
                self.variants = {layers: agf.Model(path)}
            finally:
                os.remove(path)  # it stays mapped
        return self.variants[layers]

    def read(self, name, folder="folder"):
        """A picture file, upright, as a Pillow image."""
        path = os.path.join(self.plan[folder], name)
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError("no regular file")  # a FIFO would be waited for
        return agf.read_picture(path)

    def stretched(self, picture, size=None):
        """A picture stretched to the network's size (or another): uint8 [H, W, 3]."""
        height, width = size or self.size
        rgb = Image.fromarray(agf.as_picture(self.read(picture["file"])))
        return np.asarray(rgb.resize((width, height), Image.BILINEAR))

    def mask(self, picture):
        """A picture's mask at the network's size: bool [H, W]."""
        if "mask" not in picture:
            raise ValueError("it has no mask")
        folder = "masks" if self.plan["masks"] else "folder"
        image = self.read(picture["mask"], folder)
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise ValueError(f"its mask must have 8 bits a channel, not Pillow's mode {image.mode}")
        mask = np.asarray(image.convert("L").resize(self.size[::-1], Image.NEAREST)) >= 128
        if not mask.any():
            raise ValueError("its mask has no foreground")
        return mask

    def normalised(self, pixels):
        """uint8 [H, W, 3] as the network's input, [C, H, W]: the model's preprocessing without its resizing."""
        rule = self.model.input
        ordered = pixels[:, :, ::-1] if rule.channel_order == "bgr" else pixels
        values = (ordered / 255.0 * rule.range - rule.mean) / rule.std
        return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)

    def input_of(self, picture):
        """A picture at the network's size as its input."""
        return self.normalised(self.stretched(picture))

    def ran(self, picture, explain=True, model=None):
        """The session of a model (None: the one that is judged) that has just run a picture."""
        session = self.session(*self.size, model=model)
        session.run(self.input_of(picture), explain=explain)
        return session

    def explained_class(self, session, picture):
        """The class that --explain chooses, for a picture that has just been run."""
        which = self.settings["explain"]
        if which == "predicted":
            return session.ranked(0)
        return picture["label" if which == "target" else "explain"]

    def explain_each(self, session, k):
        """[(method, map, None) or (method, None, problem)] of class k, for the picture that was run last."""
        found = []
        for method in self.methods:
            try:
                found.append((method, session.explain(classes=k, method=method.name, **method.options)[0], None))
            except agf.Error as problem:
                found.append((method, None, str(problem)))
        return found

    def measured(self, session, k, measure):
        """{method: measure(method, map)} for the picture that was run last.

        {"problem": why} where there is no map of it, or nothing to measure in it.
        """
        results = {}
        for method, heat, problem in self.explain_each(session, k):
            if problem is None:
                try:
                    results[method.text] = measure(method, heat)
                    continue
                except ValueError as found:
                    problem = str(found)
            results[method.text] = {"problem": problem}
        return results

    def _maps(self, name, label) -> dict[str, np.ndarray | None]:
        """{method: its map of a picture's target class on the model that is judged, or None}, for Sanity."""
        session = self.ran({"file": name})
        return {method.text: heat for method, heat, _ in self.explain_each(session, label)}
