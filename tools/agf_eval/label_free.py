"""Label-free maps: what sets a picture apart from its nearest neighbours."""

import math
import os

import agf
import numpy as np
from PIL import Image

from .common import EvalError, checksum
from .metrics import energy_inside
from .pictures import each_once, rows_of_csv
from .subject import ACTIVATION_NORM
from .base import Picture, Settings, Shown
from .masks import Segment


class LabelFree(Segment):
    question, decisive = "what is there, without any label?", "ap"
    help = "label-free maps, of what sets a picture apart from its nearest neighbours: on the objects, on the odd one?"
    note = (
        "Each picture is compared with its nearest neighbours in a bank, or with the picture in the CSV's column --pair, by "
        "the label-free procedure. Options of agf and agf_a: neighbours=K, from the mean of the K nearest; shared, what it "
        "shares with them instead; cosine, the nearest by the angle between latent vectors; own, the ordinary seed, of the "
        "picture's own latent vector, for the class that the difference chose. Methods that take no difference (gradcam, "
        "lrp_a1b0 ...) explain that class. activation_norm is the norm over the channels of the tensor before the last "
        "pooling, enlarged. Foreground, pixel accuracy, mIoU, average precision and energy as in segment. In odd-object, "
        "evidence is what part of the positive evidence on the objects of --objects-column lies in the mask; chance is the "
        "mask's part of their area."
    )
    options = ("neighbours", "shared", "cosine", "own")

    @staticmethod
    def arguments(parser) -> None:
        Segment.arguments(parser)
        parser.add_argument("--bank", metavar="FILE", help="a bank that `agf bank` made")
        parser.add_argument("--pair", metavar="NAME", help="the CSV's column that names the picture to compare with, instead of a bank")
        parser.add_argument("--objects-column", metavar="NAME", help="the CSV's column of the masks of all objects")
        parser.add_argument("--trunk", metavar="NET.agf", help="for -m activation_norm: the network up to its last pooling")

    @staticmethod
    def settings(args) -> Settings:
        if bool(args.bank) == bool(args.pair):
            raise EvalError("label-free needs either --bank or --pair")
        files_named = {name: checksum(getattr(args, name)) for name in ("bank", "trunk") if getattr(args, name)}
        paths = {f"{name}_file": os.path.abspath(getattr(args, name)) for name in files_named}
        return {**Segment.settings(args), "pair": args.pair, "objects_column": args.objects_column, **files_named, **paths}

    @staticmethod
    def pictures(args, model) -> list[Picture]:
        """As list_pictures(), without labels, which the network does not have; with --pair's and --objects-column's."""
        table = args.labels or os.path.join(args.pictures, "labels.csv")
        if not os.path.isfile(table):
            raise EvalError(f"{args.pictures}: label-free needs a CSV that names masks: give --labels")
        wanted = {"mask": args.mask_column, "pair": args.pair, "all_objects": args.objects_column}
        rows, pictures = rows_of_csv(table), []
        for column in filter(None, wanted.values()):
            if rows and column not in rows[0]:
                raise EvalError(f"{table}: there is no column {column}")
        for row in rows[: args.limit]:
            pictures.append({"file": row["file"], **{key: row[column] for key, column in wanted.items() if column}})
        return each_once(pictures, table)

    @staticmethod
    def bank_of(subject) -> agf.Bank:
        """The bank, read once for a process."""
        if not hasattr(subject, "bank"):
            subject.bank = subject.model.bank(subject.settings["bank_file"])
        return subject.bank

    @staticmethod
    def comparison(subject, session, picture, options) -> tuple[np.ndarray, int]:
        """(the difference that is explained, the class that it chooses) of the picture that was run last."""
        latent = session.latent()
        if picture.get("pair"):
            with subject.model.session(height=subject.size[0], width=subject.size[1], threads=1) as other:
                other.run(subject.input_of({"file": picture["pair"]}), explain=False)
                bank = agf.Bank([picture["pair"]], other.latent()[None], subject.model.checksum, subject.size)
        else:
            bank = LabelFree.bank_of(subject)
        k, searched, sought = options.get("neighbours", 1), bank, latent
        if options.get("cosine"):
            unit = bank.latents / np.maximum(np.linalg.norm(bank.latents, axis=1, keepdims=True), 1e-12)
            searched = agf.Bank(bank.names, unit, bank.checksum, bank.input_size)
            sought = latent / np.maximum(np.linalg.norm(latent), np.float32(1e-12))
        # The picture itself, whose input may differ in a last bit here, is known by its name.
        own = os.path.basename(picture["file"])
        places = searched.nearest(sought, min(k + 1, len(bank)))[0]
        places = [at for at in places if at >= 0 and bank.names[at] != own][:k]
        if not len(places):
            raise ValueError("the bank holds no other picture")
        difference = bank.compare(latent, places, bool(options.get("shared")))
        session.explain(difference=difference, method="agf_a")
        return difference, session.explained[0]

    @staticmethod
    def label_free_map(subject, session, picture, method) -> np.ndarray:
        """The method's map of the picture that was run last."""
        if method.name == ACTIVATION_NORM:
            if not hasattr(subject, "trunk"):
                subject.trunk = agf.Model(subject.settings["trunk_file"])
            trunk = subject.ran(picture, explain=False, model=subject.trunk)
            channels = subject.trunk.classes
            side = math.isqrt(len(trunk.latent()) // channels)
            norm = np.sqrt((trunk.latent().astype(np.float64).reshape(channels, side, -1) ** 2).sum(0))
            return np.asarray(Image.fromarray(norm.astype(np.float32)).resize(subject.size[::-1], Image.BILINEAR))
        options = {key: value for key, value in method.options.items() if key not in LabelFree.options}
        difference, chosen = LabelFree.comparison(subject, session, picture, method.options)
        if agf.engine.method_has(method.name, "takes_difference") and not method.options.get("own"):
            return session.explain(classes=chosen, difference=difference, method=method.name, **options)[0]
        return session.explain(classes=chosen, method=method.name, **options)[0]

    @staticmethod
    def exhibit(subject, unit) -> tuple[np.ndarray, int]:
        return subject.stretched(unit["picture"]), 0

    @staticmethod
    def shown(subject, session, unit, k) -> list[Shown]:
        found = []
        for method in subject.methods:
            try:
                found.append((method, LabelFree.label_free_map(subject, session, unit["picture"], method), None))
            except (agf.Error, ValueError) as problem:
                found.append((method, None, str(problem)))
        return found

    def measure(self, subject, unit):
        picture = unit["picture"]
        mask = subject.mask(picture)
        objects = subject.mask({"mask": picture["all_objects"]}) if picture.get("all_objects") else None
        session, results = subject.ran(picture), {}
        for method in subject.methods:
            try:
                heat = self.label_free_map(subject, session, picture, method)
                results[method.text] = self.judged(mask, method, heat)
                if objects is not None:
                    evidence = np.where(objects | mask, heat, 0)
                    results[method.text]["share"] = energy_inside(mask, evidence)
                    results[method.text]["chance"] = float(mask.sum() / (objects | mask).sum())
            except (agf.Error, ValueError) as problem:
                results[method.text] = {"problem": str(problem)}
        return results

    def values(self, record):
        return {**super().values(record), **{key: record[key] for key in ("share", "chance") if key in record}}

    def facts(self, settings):
        return ["compared with " + (f"the picture in the column {settings['pair']}" if settings["pair"] else "a bank")]


class OddObject(LabelFree):
    question, decisive = "what sets this picture apart from that one?", "share"
    help = "label-free maps of pairs of scenes that share all objects but one: is the evidence on that one?"
    metrics = (
        ("share", "evidence on the odd object", "higher"),
        ("chance", "its share of the objects", ""),
        *LabelFree.metrics[2:],
    )

    @staticmethod
    def settings(args) -> Settings:
        if not args.objects_column:
            raise EvalError("odd-object needs --objects-column")
        return LabelFree.settings(args)

    def pooled(self, records):
        return {}
