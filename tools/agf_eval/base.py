"""What every experiment is."""

from typing import Any

import numpy as np

from .pictures import list_pictures

# What is written as JSON: a picture's row (pictures.list_pictures), a unit of work, what a method measured of one, and
# the options that decide about numbers.
Picture = dict[str, Any]
Unit = dict[str, Any]
Record = dict[str, Any]
Settings = dict[str, Any]
# A method's map on the contact sheet: (method, map, None), or (method, None, problem).
Shown = tuple[Any, np.ndarray | None, str | None]


class Experiment:
    """What one subcommand measures. Each unit of work gives a record; units are independent and can run anywhere."""

    help = ""
    note = ""
    question = ""  # what a user asks, and
    decisive = ""  # the metric that answers it, for the summary
    metrics = ()  # (key, title, "higher" or "lower" or "" for what is better)
    origins = "units"  # what origin() gives
    curves = None  # (title, x axis, y axis)
    partial = True  # whether the units that are finished say something while others are not
    options = ()  # of methods, besides the engine's own

    def metrics_of(self, settings):
        """The metrics as the settings turn them."""
        return self.metrics

    @staticmethod
    def arguments(parser) -> None:
        """Add the experiment's own options."""

    @staticmethod
    def settings(args) -> Settings:
        """Those that decide about the numbers."""
        return {}

    @staticmethod
    def pictures(args, model) -> list[Picture]:
        """What list_pictures() gives: [{file, label, ...}]."""
        return list_pictures(args.pictures, args, model)

    @staticmethod
    def units(subject, pictures, skipped) -> list[Unit]:
        """The units: dicts with a unique "id". skipped(name, why) reports a picture that is left out."""
        return [{"id": picture["file"], "picture": picture} for picture in pictures]

    @staticmethod
    def exhibit(subject, unit) -> tuple[np.ndarray, int]:
        """(pixels [H, W, 3], class) of a unit, for the contact sheet."""
        pixels = subject.stretched(unit["picture"])
        session = subject.session(*subject.size)
        session.run(subject.normalised(pixels))
        return pixels, subject.explained_class(session, unit["picture"])

    @staticmethod
    def shown(subject, session, unit, k) -> list[Shown]:
        """[(method, map, None) or (method, None, problem)] of an exhibit that was run last, for the contact sheet."""
        return subject.explain_each(session, k)

    @staticmethod
    def origin(unit) -> str:
        """The name of what a bootstrap draws instead of a unit: whatever several units have in common."""
        return unit["id"]

    def measure(self, subject, unit):
        """The unit's record: {method: numbers or {"problem": ...}}, whatever else under keys that begin with "_"."""
        raise NotImplementedError

    def values(self, record):
        """{metric: number} of one method's part of one record."""
        return record

    def settled(self, records):
        """Records for pooled(), after whatever is chosen over all of them (a threshold) has been chosen."""
        return records

    def pooled(self, records):
        """{metric: number} that come from all of a method's settled records together."""
        return {}

    def curve(self, records):
        """{name of a curve: (x, y, standard errors or None)} of one method's records."""
        return {}

    def facts(self, settings):
        """What a reader of the numbers must know, in a few words each."""
        return [f"explained class: {settings['explain']}"]
