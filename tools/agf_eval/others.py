"""Randomised weights, and time."""

import time

import agf
import numpy as np

from . import report
from .common import EvalError
from .metrics import spearman
from .weights import weight_tensors
from .base import Experiment, Record, Settings, Unit


class Sanity(Experiment):
    question, decisive = "does the map show what the network has learned?", "all"
    help = "do maps change when the weights are randomised, layer by layer from the top?"
    metrics = (("correlation", "mean rank correlation", "lower"), ("all", "all layers randomised", "lower"))
    note = (
        "Spearman's rank correlation of |map| of the label's class before and after the weights of the top "
        "layers are drawn anew (normal, with the deviation of the trained ones; biases and BatchNorms stay), "
        "cumulatively from the logits down. A map that does not change does not show what the network has "
        "learned."
    )
    partial = False  # the deepest come last
    origins = "pictures"
    curves = ("rank correlation with the trained network's map", "randomised layers, from the top", "Spearman's rho")

    @staticmethod
    def arguments(parser) -> None:
        parser.add_argument(
            "--stages",
            type=int,
            default=8,
            metavar="N",
            help="how many depths of randomisation, the first layer and all layers included (default 8)",
        )

    @staticmethod
    def settings(args) -> Settings:
        if args.stages < 1:
            raise EvalError("--stages must be at least 1")
        return {"stages": args.stages}

    @staticmethod
    def units(subject, pictures, skipped) -> list[Unit]:
        with open(subject.plan["model"], "rb") as f:
            layers = len(weight_tensors(f.read()))
        depths = sorted({round(depth) for depth in np.linspace(1, layers, min(subject.settings["stages"], layers))})
        if len(depths) == 1:
            depths = [layers]
        return [
            {"id": f"{depth} layers, {picture['file']}", "depth": depth, "picture": picture} for depth in depths for picture in pictures
        ]

    @staticmethod
    def exhibit(subject, unit) -> tuple[np.ndarray, int]:
        return subject.stretched(unit["picture"]), unit["picture"]["label"]

    @staticmethod
    def origin(unit) -> str:
        return unit["picture"]["file"]

    def measure(self, subject, unit):
        picture = unit["picture"]
        before = subject.maps(picture["file"], picture["label"])
        session = subject.ran(picture, model=subject.variant(unit["depth"]))

        def correlated(method, heat) -> Record:
            if before[method.text] is None:
                raise ValueError("the trained network gives no map")
            return {"depth": unit["depth"], "rho": spearman(before[method.text], heat)}

        return subject.measured(session, picture["label"], correlated)

    def values(self, record):
        return {"correlation": record["rho"]}

    def pooled(self, records):
        deepest = max(record["depth"] for record in records)
        return {"all": float(np.mean([record["rho"] for record in records if record["depth"] == deepest]))}

    def curve(self, records):
        depths = sorted({record["depth"] for record in records})
        found = [report.mean_and_error([r["rho"] for r in records if r["depth"] == depth]) for depth in depths]
        means, errors = zip(*found)
        return {"correlation": (depths, list(means), None if None in errors else list(errors))}

    def facts(self, settings):
        return ["explained class: target"]


class Speed(Experiment):
    question, decisive = "which is the fastest?", "total"
    help = "milliseconds"
    metrics = (
        ("total", "picture to map, ms", "lower"),
        ("forward", "forward pass, ms", "lower"),
        ("map", "map, ms", "lower"),
    )
    note = (
        "Forward pass and map of one class, the fastest of several rounds on each picture, then the median "
        "over pictures (a mean's standard error does not apply). Methods that run the network again do so "
        "within the map's time."
    )

    @staticmethod
    def arguments(parser) -> None:
        parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds on each picture (default 3)")

    @staticmethod
    def settings(args) -> Settings:
        if args.rounds < 1:
            raise EvalError("--rounds must be at least 1")
        return {"rounds": args.rounds}

    def measure(self, subject, unit):
        session = subject.session(*subject.size)
        chw = subject.input_of(unit["picture"])
        results = {}
        for method in subject.methods:
            rounds = []
            try:
                for _ in range(subject.settings["rounds"]):
                    start = time.perf_counter()
                    session.run(chw, explain=method.name.startswith("agf"))
                    ran = time.perf_counter()
                    session.explain(method=method.name, **method.options)
                    rounds.append((time.perf_counter() - start, ran - start))
                total, forward = min(rounds)
                results[method.text] = {"total": 1e3 * total, "forward": 1e3 * forward, "map": 1e3 * (total - forward)}
            except agf.Error as problem:
                results[method.text] = {"problem": str(problem)}
        return results

    def pooled(self, records):
        return {key: float(np.median([record[key] for record in records])) for key, _, _ in self.metrics}
