"""The grid pointing game."""

import functools

import numpy as np

from .common import EvalError, positive, progress, reason
from .metrics import probabilities, share_in_cell
from .base import Experiment, Settings, Unit


class Grid(Experiment):
    question, decisive = "where is this class, and not the others?", "share"
    help = "grid pointing game"
    metrics = (("share", "share in own cell", "higher"),)
    note = (
        "Pictures of different classes, each classified right with a probability above the confidence asked for, "
        "are put together to a grid; for every cell, the share of the positive part of the map of its class that "
        "lies in that cell. Chance is one over the number of cells. A map without a positive part counts as 0: "
        "lrp_a1b0 gives one wherever the class's logit for the whole grid is negative."
    )

    @staticmethod
    def arguments(parser) -> None:
        parser.add_argument("--cells", type=int, default=2, metavar="N", help="N x N pictures a grid (default 2)")
        parser.add_argument("--grids", type=int, default=100, metavar="N", help="number of grids (default 100)")
        parser.add_argument("--confidence", type=float, default=0.5, metavar="P", help="least probability of the label (default 0.5)")
        parser.add_argument(
            "--asked",
            type=positive,
            metavar="N",
            help="explain the classes of N cells of each grid, drawn at random (default: of all)",
        )
        parser.add_argument(
            "--fit",
            action="store_true",
            help="shrink the pictures so that the grid has the network's own size, instead of a grid of full-size pictures",
        )

    @staticmethod
    def settings(args) -> Settings:
        if args.cells < 2 or args.grids < 1:
            raise EvalError("a grid needs --cells of at least 2 and --grids of at least 1")
        if args.asked and args.asked > args.cells**2:
            raise EvalError(f"--asked {args.asked}: a grid of {args.cells}x{args.cells} has {args.cells**2} cells")
        own = {"cells": args.cells, "grids": args.grids, "confidence": args.confidence, "fit": args.fit}
        return {**own, "asked": args.asked} if args.asked else own

    @staticmethod
    def cell_size(subject) -> tuple[int, ...]:
        n = subject.settings["cells"] if subject.settings["fit"] else 1
        return tuple(side // n for side in subject.size)

    @staticmethod
    def units(subject, pictures, skipped) -> list[Unit]:
        settings, by_class = subject.settings, {}
        for picture in progress(pictures, "classify"):
            try:
                if "problem" in picture:
                    raise ValueError(picture["problem"])
                session = subject.ran(picture, explain=False)
            except Exception as problem:  # whatever is wrong with one picture ends that one
                skipped(picture["file"], reason(problem))
                continue
            p = probabilities(session.logits, settings["probability"])
            if session.ranked(0) == picture["label"] and p[picture["label"]] > settings["confidence"]:
                by_class.setdefault(picture["label"], []).append(picture)
        cells = settings["cells"] ** 2
        if len(by_class) < cells:
            raise EvalError(
                f"{len(by_class)} classes have a picture that is classified right with a confidence above "
                f"{settings['confidence']:g}; a grid needs {cells}"
            )
        random, classes = np.random.RandomState(settings["seed"]), sorted(by_class)
        units = []
        for number in range(settings["grids"]):
            chosen = [classes[i] for i in random.permutation(len(classes))[:cells]]
            pictures = [by_class[k][random.randint(len(by_class[k]))] for k in chosen]
            unit = {"id": f"grid {number:05d}", "pictures": pictures}
            if "asked" in settings:
                drawn = np.random.RandomState([settings["seed"], number]).permutation(cells)
                unit["asked"] = sorted(int(cell) for cell in drawn[: settings["asked"]])
            units.append(unit)
        return units

    @staticmethod
    def compose(subject, unit) -> np.ndarray:
        n, size = subject.settings["cells"], Grid.cell_size(subject)
        tiles = [subject.stretched(picture, size) for picture in unit["pictures"]]
        return np.concatenate([np.concatenate(tiles[row * n : (row + 1) * n], 1) for row in range(n)], 0)

    @staticmethod
    def exhibit(subject, unit) -> tuple[np.ndarray, int]:
        return Grid.compose(subject, unit), unit["pictures"][unit.get("asked", [0])[0]]["label"]

    def measure(self, subject, unit):
        pixels = self.compose(subject, unit)
        session = subject.session(*pixels.shape[:2])
        session.run(subject.normalised(pixels))
        n, cells = subject.settings["cells"], []
        for cell in unit.get("asked", range(n * n)):
            picture = unit["pictures"][cell]
            share = functools.partial(share_in_cell, n=n, cell=cell)
            cells.append(subject.measured(session, picture["label"], lambda _, heat, share=share: share(heat)))
        results = {}
        for method in subject.methods:
            shares = [cell[method.text] for cell in cells]
            failed = [share for share in shares if isinstance(share, dict)]
            results[method.text] = failed[0] if failed else {"shares": shares}
        return results

    def values(self, record):
        return {"share": float(np.mean(record["shares"]))}

    def facts(self, settings):
        return [
            f"{settings['cells']}x{settings['cells']} pictures, confidence above {settings['confidence']:g} "
            f"({settings['probability']}), chance {1 / settings['cells'] ** 2:.3f}",
            *([f"classes of {settings['asked']} cell(s) of each grid, at random"] if "asked" in settings else []),
        ]
