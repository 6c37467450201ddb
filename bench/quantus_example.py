#!/usr/bin/env python3
"""Quantus judges the engine's maps: three of its metrics through tools/agf.

    tools/train_demo.py --scenes 20 --objects 2 --out build/scenes
    bench/quantus_example.py tests/demo/demo.agf build/scenes -m agf -m gradcam

PICTURES is a folder whose labels.csv has the columns file, label and mask. Quantus asks for a torch.nn.Module: the
one below hands its batches to a session, so that forward passes and maps both are the engine's.

Needs quantus (tried with 0.6.0) and torch beside numpy and Pillow.
"""

import argparse
import csv
import os
import sys
import warnings

import numpy as np
import quantus
import torch
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
import agf


class EngineModule(torch.nn.Module):
    """A session as a module: float [N, C, H, W] to logits [N, K]."""

    def __init__(self, session):
        super().__init__()
        self.session = session

    def forward(self, batch):
        return torch.from_numpy(np.stack([self.session.run(image, explain=False) for image in batch.float().numpy()]))


def explain(model, inputs, targets, method="agf", **kwargs):
    """Quantus's explain_func: maps [N, 1, H, W] of inputs [N, C, H, W] for the classes targets [N]."""
    maps = []
    for image, target in zip(np.asarray(inputs), np.asarray(targets)):
        model.session.run(image.astype(np.float32))
        maps.append(model.session.explain(classes=int(target), method=method))
    return np.stack(maps)


def load(model, folder, limit):
    """Inputs [N, C, H, W], labels [N] and masks [N, 1, H, W] of the pictures in a folder's labels.csv."""
    with open(os.path.join(folder, "labels.csv"), newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))[:limit]
    size = (model.input.width, model.input.height)
    inputs = [model.preprocess(Image.open(os.path.join(folder, row["file"]))) for row in rows]
    masks = [np.asarray(Image.open(os.path.join(folder, row["mask"])).convert("L").resize(size)) >= 128 for row in rows]
    return np.stack(inputs), np.array([model.labels.index(row["label"]) for row in rows]), np.stack(masks)[:, None]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="NET.agf")
    parser.add_argument("pictures", metavar="PICTURES")
    parser.add_argument("-m", "--method", action="append", choices=agf.METHODS, help="may be repeated (default agf)")
    parser.add_argument("--limit", type=int, default=8, help="number of pictures (default 8)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="quantus")
    methods = args.method or ["agf"]
    with agf.Model(args.model) as model, model.session(methods=methods) as session:
        x, y, masks = load(model, args.pictures, args.limit)
        metrics = {
            "sparseness (complexity)": quantus.Sparseness(disable_warnings=True),
            "relevance rank accuracy (localisation)": quantus.RelevanceRankAccuracy(disable_warnings=True),
            "pixel flipping, mean probability (faithfulness)": quantus.PixelFlipping(
                features_in_step=model.input.width * 8, perturb_baseline="black", disable_warnings=True
            ),
        }
        module = EngineModule(session).eval()
        for title, metric in metrics.items():
            for method in methods:
                scores = metric(
                    model=module,
                    x_batch=x,
                    y_batch=y,
                    s_batch=masks,
                    explain_func=explain,
                    explain_func_kwargs={"method": method},
                    device="cpu",
                    softmax=True,
                )
                print(f"{title:48} {method:22} {np.mean(scores):.3f}")


if __name__ == "__main__":
    main()
