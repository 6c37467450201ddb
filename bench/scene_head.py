#!/usr/bin/env python3
"""A photographs' network on the procedural scenes: its features, as they are, under a new last layer.

    scene_head.py LITE0.agf OUT.agf     the network with the demo's classes; prints its accuracy on held-out scenes

So people fine-tune a network in the least time, and so a network that comes without masks of its photographs can be
asked whether its maps lie on the object: scenes have masks. The layer is a logistic regression on the latent vectors of
scenes with one object. Pictures are stretched to the network's input, so that no mask is cut. Needs numpy, Pillow,
scikit-learn and build/libagf.so.
"""
import argparse
import os
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests")]
import agf                                                                             # noqa: E402
import oracle                                                                          # noqa: E402
import train_demo                                                                      # noqa: E402
from agf_convert import ModelFile, Network, Preprocessing                              # noqa: E402
from to_converter import converter_nodes                                               # noqa: E402


def fit(path, training, held_out, strength=0.1):
    """A logistic regression on the latent vectors that the network at `path` makes of `training`, (pictures, classes),
    and its accuracy on `held_out`. strength: scikit-learn's C."""
    with agf.Model(path) as model:
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(model.bank(training[0]).latents, training[1])
        return fitted, fitted.score(model.bank(held_out[0]).latents, held_out[1])


def with_head(path, name, weights, bias, labels, source):
    """The Network of a model file under another last layer, [classes, n] and [classes], for stretched pictures."""
    found = oracle.read_model(path)
    nodes = converter_nodes(found.nodes)
    if nodes[-1].op != "linear":
        raise SystemExit(f"{path}: its last layer is a {nodes[-1].op}, not a linear one")
    nodes[-1].weights, nodes[-1].bias = weights.astype(np.float32), bias.astype(np.float32)
    with agf.Model(path) as model:
        given = model.input
    return Network(tuple(found.input_shape), nodes, name, source, labels,
                   Preprocessing(given.mean, given.std, given.range, given.channel_order), found.affine)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("out")
    a = parser.parse_args()
    scenes = [(pictures, present.argmax(1)) for pictures, present in train_demo.probe_scenes(0)]
    fitted, accuracy = fit(a.network, *scenes)
    print(f"{100 * accuracy:.1f} % of {len(scenes[1][1])} held-out scenes")
    name = os.path.splitext(os.path.basename(a.out))[0]
    network = with_head(a.network, name, fitted.coef_, fitted.intercept_, train_demo.LABELS, "bench/scene_head.py")
    ModelFile(network, f16=True).write(a.out)


if __name__ == "__main__":
    main()
