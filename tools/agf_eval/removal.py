"""Experiments that take pixels away and ask the network again."""

import itertools

import numpy as np

from . import report
from .common import EvalError, positive
from .metrics import area_under, descending, gaussian_blur, imputed, perturbation_auc, perturbed, probabilities, revealed
from .base import Experiment, Record, Settings


class Perturb(Experiment):
    question, decisive = "which pixels can the answer least do without?", "positive"
    help = "accuracy while the pixels that a map ranks highest, or lowest, are blacked out"
    note = (
        "Top-1 accuracy while 10 % to 90 % of the pixels are removed, those with the highest values of "
        "the map first (positive) or the lowest first (negative); area under the accuracy by trapezoids over "
        "0 to 0.9, x 100 (at most 90). When the explained class is the label or the prediction, a good map "
        "loses accuracy fast under positive perturbation and keeps it under negative. When it is another object's "
        "in the same picture, a good map does the opposite: it takes that object away first, and the label's last."
    )
    metrics = (
        ("positive", "positive AUC", "lower"),
        ("negative", "negative AUC", "higher"),
        ("clean", "clean accuracy", ""),
    )
    curves = ("top-1 accuracy", "share of the pixels removed", "accuracy")

    def metrics_of(self, settings):
        other = {"lower": "higher", "higher": "lower", "": ""}
        turned = settings["explain"] not in ("predicted", "target")
        road = ", ROAD" if settings["fill"] == "road" else ""
        return tuple((metric, title + road * bool(better), other[better] if turned else better) for metric, title, better in self.metrics)

    @staticmethod
    def arguments(parser) -> None:
        parser.add_argument(
            "--fill",
            choices=("black", "road"),
            default="black",
            help="what takes a pixel's place: black (default), or its neighbours' colours with a little noise (ROAD)",
        )

    @staticmethod
    def settings(args) -> Settings:
        return {"fill": args.fill}

    def facts(self, settings):
        fill = {"black": "black", "road": "imputed from neighbours, with noise (ROAD), instead of black"}
        return [*super().facts(settings), f"perturbed pixels: {fill[settings['fill']]}"]

    @staticmethod
    def removed(subject, pixels, order, tenths) -> np.ndarray:
        if subject.settings["fill"] == "black":
            return perturbed(pixels, order, tenths)
        missing = np.zeros(len(order), bool)
        missing[order[: len(order) * tenths // 10]] = True
        return imputed(pixels, missing.reshape(pixels.shape[:2]), subject.settings["seed"])

    def measure(self, subject, unit):
        pixels, picture = subject.stretched(unit["picture"]), unit["picture"]
        session = subject.session(*subject.size)
        session.run(subject.normalised(pixels))
        clean, k = session.ranked(0), subject.explained_class(session, picture)

        def accuracies(method, heat) -> Record:
            kept = {}
            for sign, order in (("positive", descending(heat)), ("negative", descending(-heat))):
                kept[sign] = [int(clean == picture["label"])]
                for tenths in range(1, 10):
                    session.run(subject.normalised(self.removed(subject, pixels, order, tenths)), explain=False)
                    kept[sign].append(int(session.ranked(0) == picture["label"]))
            return kept

        return subject.measured(session, k, accuracies)

    def values(self, record):
        areas = {sign: float(perturbation_auc(record[sign])) for sign in ("positive", "negative")}
        return {**areas, "clean": float(record["positive"][0])}

    def curve(self, records):
        x = [tenths / 10 for tenths in range(10)]
        return {sign: (x, *report.mean_and_error([record[sign] for record in records])) for sign in ("positive", "negative")}


class SingleDelete(Experiment):
    question, decisive = "how much does each region matter?", "correlation"
    help = "does a patch's share of the map rank as the probability that is lost without it?"
    note = (
        "The picture is divided into patches; each by itself is replaced by the blurred picture (Gaussian, 11 x 11, "
        "sigma 5), and the fall of the class's probability is compared with the map's sum over the patch: Spearman's "
        "rank correlation over the patches."
    )
    metrics = (("correlation", "rank correlation", "higher"),)

    @staticmethod
    def arguments(parser) -> None:
        parser.add_argument("--patches", type=positive, default=8, metavar="N", help="N x N patches (default 8)")

    @staticmethod
    def settings(args) -> Settings:
        if args.patches < 2:
            raise EvalError("--patches must be at least 2")
        return {"patches": args.patches}

    def measure(self, subject, unit):
        from scipy.stats import spearmanr

        session, n = subject.session(*subject.size), subject.settings["patches"]
        chw = subject.input_of(unit["picture"])
        session.run(chw)
        k, blurred = subject.explained_class(session, unit["picture"]), gaussian_blur(chw).astype(np.float32)
        kind = subject.settings["probability"]
        found = subject.measured(session, k, lambda _, heat: heat.astype(np.float64))
        whole = probabilities(session.logits, kind)[k]
        edges = [np.linspace(0, side, n + 1).astype(int) for side in subject.size]
        patches = [(slice(*y), slice(*x)) for y in itertools.pairwise(edges[0]) for x in itertools.pairwise(edges[1])]
        drops = []
        for patch in patches:
            without = chw.copy()
            without[:, *patch] = blurred[:, *patch]
            drops.append(whole - probabilities(session.run(without, explain=False), kind)[k])
        if min(drops) == max(drops):
            raise ValueError("no patch changes the probability")
        results = {}
        for method, heat in found.items():
            if isinstance(heat, dict):
                results[method] = heat
                continue
            sums = [float(heat[patch].sum()) for patch in patches]
            if min(sums) == max(sums):
                results[method] = {"problem": "a constant map has no rank correlation"}
            else:
                results[method] = {"correlation": float(spearmanr(sums, drops).statistic)}
        return results

    def facts(self, settings):
        facts = super().facts(settings)
        return [*facts, f"{settings['patches']}x{settings['patches']} patches", f"probability: {settings['probability']}"]


class InsertDelete(Experiment):
    question, decisive = "which pixels carry the probability?", "difference"
    help = "probability while pixels appear in a blurred picture, or vanish (RISE)"
    metrics = (
        ("insertion", "insertion AUC", "higher"),
        ("deletion", "deletion AUC", "lower"),
        ("difference", "insertion - deletion", "higher"),
    )
    note = (
        "The probability of the explained class while the pixels that the map ranks highest are put into a "
        "blurred picture (Gaussian, 11 x 11, sigma 5) or set to 0, the mean colour, in equal steps, one for each row of "
        "pixels unless another number is given; area under it."
    )
    curves = ("probability of the class", "share of the pixels", "probability")

    @staticmethod
    def arguments(parser) -> None:
        parser.add_argument("--steps", type=positive, metavar="N", help="steps of each curve (default: one for each row of pixels)")

    @staticmethod
    def settings(args) -> Settings:
        return {"steps": args.steps} if args.steps else {}

    def measure(self, subject, unit):
        session = subject.session(*subject.size)
        chw = subject.input_of(unit["picture"])
        session.run(chw)
        k = subject.explained_class(session, unit["picture"])
        blurred, empty = gaussian_blur(chw).astype(np.float32), np.zeros_like(chw)
        steps = subject.settings.get("steps", chw.shape[1])

        def curves(method, heat) -> Record:
            order, found = descending(heat), {}
            for name, start, end in (("insertion", blurred, chw), ("deletion", chw, empty)):
                curve = []
                for current in revealed(start, end, order, steps):
                    session.run(current, explain=False)
                    curve.append(float(probabilities(session.logits, subject.settings["probability"])[k]))
                found[name] = {"auc": area_under(curve), "curve": [round(p, 5) for p in curve]}
            return found

        return subject.measured(session, k, curves)

    def values(self, record):
        insertion, deletion = record["insertion"]["auc"], record["deletion"]["auc"]
        return {"insertion": insertion, "deletion": deletion, "difference": insertion - deletion}

    def curve(self, records):
        steps = len(records[0]["insertion"]["curve"])
        x = np.linspace(0, 1, steps).tolist()
        return {name: (x, *report.mean_and_error([record[name]["curve"] for record in records])) for name in ("insertion", "deletion")}

    def facts(self, settings):
        steps = [f"{settings['steps']} steps"] if "steps" in settings else []
        return [*super().facts(settings), f"probability: {settings['probability']}", *steps]
