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
from sklearn.linear_model import LogisticRegression

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests")]
import agf                                                                             # noqa: E402
import oracle                                                                          # noqa: E402
import train_demo                                                                      # noqa: E402
from agf_convert import IMAGE, ModelFile, Network, Node, Preprocessing                  # noqa: E402

PAIR = [train_demo.LABELS.index(label) for label in ("cup", "house")]  # of alike size and outline
TRAINING, HELD_OUT, SCENES = 400, 200, 60


def features(session, model, pictures):
    """The latent vectors of pictures [N, H, W, 3], [N, n]."""
    vectors = []
    for picture in pictures:
        session.run(model.preprocess(picture), explain=False)
        vectors.append(session.latent())
    return np.array(vectors)


def single_objects(rng, count):
    """`count` scenes with one object, and which of PAIR it is."""
    drawn = [train_demo.draw_scene(rng, 1, PAIR) for _ in range(count)]
    return [picture for picture, _ in drawn], np.array([PAIR.index(found[0][0]) for _, found in drawn])


def with_head(path, name, weights, bias):
    """The Network of a model file under another last layer, of two classes."""
    model = oracle.read_model(path)
    names = [IMAGE] + [node.name for node in model.nodes]
    nodes = [Node(node.op, node.name, [names[i] for i in node.inputs], kernel=node.kernel, stride=node.stride, pad=node.pad,
                  dilation=node.dilation, groups=node.groups, flat=node.flat, ceil_mode=node.ceil,
                  count_include_pad=node.include_pad, weights=node.w, bias=node.b) for node in model.nodes]
    nodes[-1].weights, nodes[-1].bias = weights.astype(np.float32), bias.astype(np.float32)
    return Network(tuple(model.input_shape), nodes, name, "bench/two_classes.py", [train_demo.LABELS[k] for k in PAIR],
                   Preprocessing((train_demo.MEAN,) * 3, (train_demo.STD,) * 3))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo")
    parser.add_argument("out")
    a = parser.parse_args()
    os.makedirs(os.path.join(a.out, "scenes"), exist_ok=True)
    rng = train_demo.stream(0, "scenes", 9)
    with agf.Model(a.demo) as model, model.session() as session:
        pictures, labels = single_objects(rng, TRAINING)
        fitted = LogisticRegression(C=0.1, max_iter=1000).fit(features(session, model, pictures), labels)
        pictures, labels = single_objects(rng, HELD_OUT)
        print(f"{100 * fitted.score(features(session, model, pictures), labels):.1f} % of {HELD_OUT} held-out scenes")
    weights, bias = fitted.coef_[0], fitted.intercept_[0]
    half = np.stack([-weights / 2, weights / 2])
    started = rng.uniform(-1, 1, half.shape).mean(0) / np.sqrt(len(weights))  # as torch draws a linear layer
    for name, common in (("one", 0), ("two", started)):
        network = with_head(a.demo, name, half + common, np.array([-bias / 2, bias / 2]))
        ModelFile(network, f16=True).write(os.path.join(a.out, f"{name}.agf"))
    train_demo.write_labelled_scenes(os.path.join(a.out, "scenes"), SCENES, 2, 9, PAIR)


if __name__ == "__main__":
    main()
