#!/usr/bin/env python3
"""Why label-free maps do not find the object that one of two scenes has alone, and what finds it more often.

    odd_object.py SELFSUP.agf TRUNK.agf PAIRS [--into FILE.md]

SELFSUP.agf, TRUNK.agf: what tools/train_demo.py --self-supervised makes. PAIRS: a folder of its --odd. For each pair
several seeds are laid over the activations X [C, H, W] before the global pool (z: their means, y: the other scene's,
W: the projection, the network's last layer), as sum over c of seed_c * X_c, and the share of the positive part on the
objects that lies on the odd one is compared with that object's share of the objects' area, cell by cell:

    difference              z - y, as the procedure has it
    whitened                the difference divided by the covariance of the scenes' latent vectors
    projected difference    W^T W (z - y): half the gradient of the squared distance of the projections
    similarity              minus the gradient in z of the cosine of W z and W y, which training made large where
                            objects are the same
    novelty                 no seed: at each position 1 - the largest cosine of W X there and W Y anywhere in the other
                            scene, times |W X|
    norm                    no seed: |X|

Needs numpy, Pillow and the engine's library.
"""

import argparse
import csv
import math
import os
import sys

import numpy as np
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests")]
import agf  # noqa: E402
import oracle  # noqa: E402
from agf_eval import results  # noqa: E402


def unit(vectors):
    """Columns of length 1; 0 stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)


def seeds(x, y, projection, precision):
    """{name: map [positions]} of activations x, y [C, positions] of a scene and the other one."""
    z, other = x.mean(1), y.mean(1)
    u, v = projection @ z, projection @ other
    away = projection.T @ (unit(u) * (unit(u) @ unit(v)) - unit(v)) / np.linalg.norm(u)
    wx, wy = projection @ x, projection @ y
    return {
        "difference": (z - other) @ x,
        "whitened": (precision @ (z - other)) @ x,
        "projected difference": (projection.T @ (u - v)) @ x,
        "similarity": away @ x,
        "novelty": (1 - (unit(wx).T @ unit(wy)).max(1)) * np.linalg.norm(wx, axis=0),
        "norm": np.linalg.norm(x, axis=0),
    }


def coverage(path, side):
    """A mask file as the share of each of side x side cells that it covers, [side * side]."""
    mask = np.asarray(Image.open(path)) >= 128
    return mask.reshape(side, mask.shape[0] // side, side, -1).mean((1, 3)).ravel()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("trunk")
    parser.add_argument("pairs")
    parser.add_argument("--into", metavar="FILE.md", help="put the section into this file")
    args = parser.parse_args()
    weights = oracle.read_model(args.network).nodes[-1].w
    projection = np.asarray(weights, float).reshape(len(weights), -1)
    with open(os.path.join(args.pairs, "labels.csv"), newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    with agf.Model(args.trunk) as model, model.session(threads=1) as session:
        channels = projection.shape[1]

        def activations(name):
            session.run(model.preprocess(agf.read_picture(os.path.join(args.pairs, name))), explain=False)
            return session.latent().astype(float).reshape(channels, -1)

        scenes = [(activations(row["file"]), activations(row["pair"])) for row in rows]
    vectors = np.array([x.mean(1) for pair in scenes for x in pair])
    covariance = np.cov(vectors.T)
    precision = np.linalg.inv(covariance + 0.1 * np.trace(covariance) / channels * np.eye(channels))
    shares, area = {}, []
    side = math.isqrt(scenes[0][0].shape[1])
    for row, (x, y) in zip(rows, scenes):
        odd, objects = (coverage(os.path.join(args.pairs, row[column]), side) for column in ("mask", "objects_mask"))
        area.append(odd.sum() / objects.sum())
        for name, heat in seeds(x, y, projection, precision).items():
            evidence = np.maximum(heat, 0)
            inside = (evidence * objects).sum()
            shares.setdefault(name, []).append((evidence * odd).sum() / inside if inside > 0 else np.nan)
    lines = [
        "## Label-free: what finds the odd object",
        "",
        f"{len(rows)} pairs of scenes that share all objects but one; `bench/odd_object.py`, which says what each row is. The share of the",
        "positive evidence on objects that lies on the odd one, and how much that is above the object's share of the area.",
        "",
        "| seed | evidence on the odd object | above its share of the objects | n |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, found in shares.items():
        found, own = np.array(found), np.array(area)
        there = np.isfinite(found)
        gain = (found - own)[there]
        error = gain.std(ddof=1) / math.sqrt(len(gain))
        lines.append(f"| {name} | {found[there].mean():.3f} | {gain.mean():.3f} ± {error:.3f} | {len(gain)} |")
    print("\n".join(lines))
    if args.into:
        results.put_section(args.into, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
