"""Experiments that compare maps with masks."""

import os
import zlib

import agf
import numpy as np
from PIL import Image

from .common import EvalError, say
from .metrics import average_precision, class_miou, energy_inside, mean_iou, overlap, pixel_accuracy
from .pictures import class_of, each_once, lines_of, rows_of_csv
from .base import Experiment, Picture, Record, Settings


class Segment(Experiment):
    question, decisive = "which pixels make up the object?", "miou"
    help = "maps as segmentations, against masks"
    note = (
        "Foreground is where the map is positive; for methods whose maps are not signed around 0 (lrp_a1b0, "
        "fullgrad, smoothgrad, integrated_gradients, gradcam and its like), where it is above its mean. Pixel accuracy and"
        " mIoU (mean over foreground and background) pool the pixels of all pictures; average precision takes"
        " the map itself as a ranking, a mean over pictures. Energy is the share of the map's positive part that lies "
        "in the mask (the energy-based pointing game), a mean over pictures; chance is the mask's share of the picture."
    )
    metrics = (
        ("pixel_accuracy", "pixel accuracy", "higher"),
        ("miou", "mIoU", "higher"),
        ("ap", "average precision", "higher"),
        ("energy", "energy in the mask", "higher"),
    )

    @staticmethod
    def arguments(parser) -> None:
        parser.add_argument("--masks", metavar="FOLDER", help="masks, STEM.png for each picture")
        parser.add_argument("--mask-column", default="mask", metavar="NAME", help="the CSV's column that names the masks (default mask)")

    @staticmethod
    def settings(args) -> Settings:
        return {} if args.masks else {"mask_column": args.mask_column}

    def measure(self, subject, unit):
        mask = subject.mask(unit["picture"])
        session = subject.ran(unit["picture"])
        k = subject.explained_class(session, unit["picture"])
        return subject.measured(session, k, lambda method, heat: self.judged(mask, method, heat))

    @staticmethod
    def judged(mask, method, heat) -> Record:
        """A map against a mask."""
        threshold = float(heat.astype(np.float64).mean()) if method.centred else 0.0
        return {
            "counts": overlap(mask, heat > threshold),
            "ap": average_precision(mask, heat),
            "energy": energy_inside(mask, heat),
        }

    def values(self, record):
        return {
            "ap": record["ap"],
            "energy": record["energy"],
            "pixel_accuracy": pixel_accuracy(record["counts"]),
            "miou": mean_iou(record["counts"]),
        }

    def pooled(self, records):
        counts = [sum(column) for column in zip(*(record["counts"] for record in records))]
        return {"pixel_accuracy": pixel_accuracy(counts), "miou": mean_iou(counts)}


# The classes of PASCAL VOC's masks, by their colour's index from 1 on.
VOC_NAMES = (
    "aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,pottedplant,sheep,sofa,train,tvmonitor"
).split(",")
VOID = 255  # in such a mask: an object's outline, which does not count


class SegmentClasses(Experiment):
    question, decisive = "which pixels belong to which of several classes?", "miou"
    help = "several labels a picture: each class's map against that class's own mask"
    note = (
        "For every class that a picture's masks hold, its map. Average precision takes each map as a ranking of its own "
        "class's pixels: a mean over a class's pictures, then over classes (mAP). For the segmentation, every pixel "
        "belongs to the class whose map is highest there, each map divided by the magnitude that 0.5 % of its pixels "
        "exceed, or to the background where none is above a threshold; pixel accuracy, and mIoU as the mean over the "
        "background and the classes. The threshold is the one with the best mIoU on the other half of the pictures."
    )
    metrics = (
        ("miou", "mIoU", "higher"),
        ("pixel_accuracy", "pixel accuracy", "higher"),
        ("map", "mAP", "higher"),
    )
    THRESHOLDS = [round(0.05 * step, 2) for step in range(21)]

    @staticmethod
    def arguments(parser) -> None:
        parser.add_argument(
            "--objects",
            action="append",
            metavar="LABEL:MASK",
            help="columns of the CSV that name an object's class and its mask; may be repeated (default label:mask)",
        )
        parser.add_argument(
            "--split",
            default="val",
            metavar="NAME",
            help="of a folder in PASCAL VOC's layout: the list ImageSets/Segmentation/NAME.txt (default val)",
        )
        parser.add_argument(
            "--names",
            metavar="FILE",
            help="the class of each index of a VOC mask from 1 on, a line each: a label, or a number; an empty line is a "
            "class that does not count (default: VOC's own names, as far as the network has them)",
        )

    @staticmethod
    def settings(args) -> Settings:
        names = lines_of(args.names) if args.names else None
        return {"objects": args.objects or ["label:mask"], "split": args.split, "names": names}

    @staticmethod
    def pictures(args, model) -> list[Picture]:
        listed = os.path.join(args.pictures, "ImageSets", "Segmentation", args.split + ".txt")
        if os.path.isdir(os.path.join(args.pictures, "JPEGImages")):
            return SegmentClasses.voc_pictures(args, model, listed)
        pairs = [pair.partition(":")[::2] for pair in args.objects or ["label:mask"]]
        table = args.labels or os.path.join(args.pictures, "labels.csv")
        if not os.path.isfile(table):
            raise EvalError(f"{args.pictures}: neither in PASCAL VOC's layout (JPEGImages ...) nor with a labels.csv")
        rows, pictures = rows_of_csv(table), []
        for pair in pairs:
            for column in pair:
                if rows and column not in rows[0]:
                    raise EvalError(f"{table}: there is no column {column!r}")
        for row in rows[: args.limit]:
            picture = {"file": row["file"], "objects": []}
            try:
                for label, mask in pairs:
                    if row[label] and row[mask]:
                        picture["objects"].append([class_of(row[label], model.labels, model.classes), row[mask]])
            except ValueError as problem:
                picture["problem"] = str(problem)
            pictures.append(picture)
        return each_once(pictures, table)

    @staticmethod
    def voc_pictures(args, model, listed) -> list[Picture]:
        if not os.path.isfile(listed):
            raise EvalError(f"{listed}: no such file (--split names it)")
        names = SegmentClasses.settings(args)["names"] or VOC_NAMES
        classes, missing = [], []
        for name in names:
            try:
                classes.append(class_of(name, model.labels, model.classes) if name.strip() else None)
            except ValueError as problem:
                if args.names:
                    raise EvalError(f"{args.names}: {problem}") from None
                classes.append(None)
                missing.append(name)
        if not any(k is not None for k in classes):
            raise EvalError("the network has none of VOC's classes by name: give --names, a label or a number a line")
        if missing:
            say(f"the network lacks {len(missing)} of VOC's classes, which do not count: {', '.join(missing)}")
        names = [line.split()[0] for line in lines_of(listed) if line.strip()]
        pictures = [
            {"file": f"JPEGImages/{name}.jpg", "mask": f"SegmentationClass/{name}.png", "classes": classes} for name in names[: args.limit]
        ]
        return each_once(pictures, listed)

    @staticmethod
    def truth(subject, picture) -> np.ndarray:
        """int [H, W] at the network's size: 0 background, k + 1 where class k is, -1 what does not count."""
        size = subject.size[::-1]
        if "objects" in picture:
            truth = np.zeros(subject.size, int)
            for k, name in picture["objects"]:
                truth[subject.mask({"mask": name})] = k + 1
        else:
            image = subject.read(picture["mask"])
            if image.mode not in ("P", "L"):
                raise ValueError(f"its mask must hold a class's index in each pixel, not Pillow's mode {image.mode}")
            index = np.asarray(image.resize(size, Image.NEAREST))
            table = np.full(256, -1)
            table[0] = 0
            for i, k in enumerate(picture["classes"], 1):
                if k is not None and i != VOID:
                    table[i] = k + 1
            unknown = set(np.unique(index)) - set(range(len(picture["classes"]) + 1)) - {VOID}
            if unknown:
                raise ValueError(f"its mask has the indices {sorted(map(int, unknown))}, which --names does not name")
            truth = table[index]
        if not (truth > 0).any():
            raise ValueError("its masks hold no class of the network")
        return truth

    @staticmethod
    def exhibit(subject, unit) -> tuple[np.ndarray, int]:
        truth = SegmentClasses.truth(subject, unit["picture"])
        return subject.stretched(unit["picture"]), int(truth[truth > 0].min()) - 1

    def measure(self, subject, unit):
        truth = self.truth(subject, unit["picture"])
        classes = [int(k) - 1 for k in np.unique(truth[truth > 0])]
        session = subject.ran(unit["picture"])
        fold, counts = zlib.crc32(unit["id"].encode("utf-8", "surrogateescape")) & 1, truth >= 0
        results = {}
        for method in subject.methods:
            try:
                maps = session.explain(classes=classes, method=method.name, **method.options)
            except agf.Error as problem:
                results[method.text] = {"problem": str(problem)}
                continue
            aps = {str(k): average_precision((truth == k + 1)[counts], heat[counts]) for k, heat in zip(classes, maps)}
            scaled = np.stack([heat / agf.map_scale(heat) for heat in maps])
            winner, height = np.asarray(classes)[scaled.argmax(0)] + 1, scaled.max(0)
            confusions = []
            for threshold in self.THRESHOLDS:
                found = np.where(height > threshold, winner, 0)
                pairs, number = np.unique(np.stack([truth[counts], found[counts]]), axis=1, return_counts=True)
                confusions.append([[int(t), int(f), int(n)] for (t, f), n in zip(pairs.T, number)])
            results[method.text] = {"fold": fold, "aps": aps, "confusions": confusions}
        return results

    def values(self, record):
        return {"map": float(np.mean(list(record["aps"].values())))}

    def settled(self, records):
        """Of each record the confusions at the threshold that the other half of the records chooses."""
        names = sorted({index for r in records for triples in r["confusions"] for t, f, _ in triples for index in (t, f)})
        place = {index: i for i, index in enumerate([0, *(n for n in names if n)])}
        folds = np.zeros((2, len(self.THRESHOLDS), len(place), len(place)), int)
        for record in records:
            for step, triples in enumerate(record["confusions"]):
                for t, f, n in triples:
                    folds[record["fold"], step, place[t], place[f]] += n
        chosen = []
        for fold in (0, 1):  # a half without records leaves the choice to the other
            other = folds[1 - fold] if folds[1 - fold].any() else folds[fold]
            chosen.append(int(np.argmax([class_miou(confusion) for confusion in other])))
        settled = []
        for record in records:
            confusion = np.zeros(folds.shape[2:], int)
            for t, f, n in record["confusions"][chosen[record["fold"]]]:
                confusion[place[t], place[f]] = n
            settled.append({"confusion": confusion, "aps": record["aps"]})
        return settled

    def pooled(self, records):
        confusion = sum(record["confusion"] for record in records)
        by_class = {}
        for record in records:
            for k, ap in record["aps"].items():
                by_class.setdefault(k, []).append(ap)
        return {
            "miou": class_miou(confusion),
            "pixel_accuracy": float(np.trace(confusion) / confusion.sum()),
            "map": float(np.mean([np.mean(aps) for aps in by_class.values()])),
        }

    def facts(self, settings):
        return ["explained classes: those of each picture's masks"]
