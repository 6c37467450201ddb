#!/usr/bin/env python3
"""Networks of two classes made of the demo's, as people fine-tune networks: its features under a new last layer.

    two_classes.py tests/demo/demo.agf OUT     OUT/one.agf, two.agf; OUT/scenes: pictures that show an object of either
                                               class

The layer is a logistic regression on the features of scenes with one object. Its accuracy on other such scenes is
printed. one.agf is what the converter makes of a layer with one output, two.agf of one with two outputs under a
softmax: their difference is trained, their sum stays what the layer began with, since a softmax's gradient does not
move it. Probabilities are the same. Needs numpy, Pillow, scikit-learn and build/libagf.so.
"""
import argparse
import os
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "bench")]
import train_demo                                                                      # noqa: E402
from agf_convert import ModelFile                                                       # noqa: E402
from scene_head import fit, with_head                                                   # noqa: E402

PAIR = [train_demo.LABELS.index(label) for label in ("cup", "house")]  # of alike size and outline
TRAINING, HELD_OUT, SCENES = 400, 200, 60


def single_objects(rng, count):
    """`count` scenes with one object, and which of PAIR it is."""
    drawn = [train_demo.draw_scene(rng, 1, PAIR) for _ in range(count)]
    return [picture for picture, _ in drawn], np.array([PAIR.index(found[0][0]) for _, found in drawn])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo")
    parser.add_argument("out")
    a = parser.parse_args()
    os.makedirs(os.path.join(a.out, "scenes"), exist_ok=True)
    rng = train_demo.stream(0, "scenes", 9)
    fitted, accuracy = fit(a.demo, single_objects(rng, TRAINING), single_objects(rng, HELD_OUT))
    print(f"{100 * accuracy:.1f} % of {HELD_OUT} held-out scenes")
    weights, bias = fitted.coef_[0], fitted.intercept_[0]
    half = np.stack([-weights / 2, weights / 2])
    started = rng.uniform(-1, 1, half.shape).mean(0) / np.sqrt(len(weights))  # as torch draws a linear layer
    for name, common in (("one", 0), ("two", started)):
        network = with_head(a.demo, name, half + common, np.array([-bias / 2, bias / 2]),
                            [train_demo.LABELS[k] for k in PAIR], "bench/two_classes.py")
        ModelFile(network, f16=True).write(os.path.join(a.out, f"{name}.agf"))
    train_demo.write_labelled_scenes(os.path.join(a.out, "scenes"), SCENES, 2, 9, PAIR)


if __name__ == "__main__":
    main()
