#!/usr/bin/env python3
"""Steps whose forward pass is made together (agf_chain_of in agf.c): the same bits for every number of threads.

    python3 tests/test_chains.py [-k TEXT]     60 networks, always the same; with CI set 300 that none has seen before

With several threads the rows of a chain are cut into parts, and what needs rows of two parts, or of none, is made
behind them. So the networks here are a convolution with depthwise convolutions, pools and the like behind it, whose
borders may be larger than their windows: then rows see nothing but the border, and a part may be too small for any row.
Needs numpy.
"""
import os
import random
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]
import harness                                                              # noqa: E402
from harness import check                                                   # noqa: E402

harness.needs("numpy")
import numpy as np                                                          # noqa: E402

import agf                                                                  # noqa: E402
from agf_convert import IMAGE, ConvertError, ModelFile, Network, Node        # noqa: E402

THREADS = (1, 2, 3, 5)


def draw(seed):
    """A Network of at most eight steps and its image."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    channels = rng.choice((16, 20, 24, 32, 48))

    def weights(*shape):
        return numbers.normal(size=shape).astype(np.float32)

    def conv(name, source, groups, kernel, stride, pad, dilation=(1, 1)):
        inputs = 3 if groups == 1 else channels // groups
        return Node("conv", name, [source], kernel=kernel, stride=stride, pad=pad, dilation=dilation, groups=groups,
                    weights=weights(channels, inputs, *kernel), bias=weights(channels))

    side = rng.choice((1, 1, 3))
    nodes = [conv("head", IMAGE, 1, (side, side), (rng.choice((1, 1, 2)),) * 2, (side // 2,) * 4)]
    for i in range(rng.randint(1, 5)):
        source, name, stride = nodes[-1].name, f"step{i}", (rng.choice((1, 1, 2, 3)), rng.choice((1, 2)))
        op = rng.choice(("depthwise", "depthwise", "depthwise", "grouped", "relu", "act", "batchnorm", "maxpool", "avgpool", "add"))
        if op in ("depthwise", "grouped"):
            kernel, pad = (rng.choice((1, 2, 3, 5)), rng.choice((1, 2, 3))), [rng.choice((0, 0, 1, 2, 4)) for _ in range(4)]
            groups = channels if op == "depthwise" else channels // 4
            nodes.append(conv(name, source, groups, kernel, stride, tuple(pad), (rng.choice((1, 1, 2)), 1)))
        elif op in ("maxpool", "avgpool"):
            nodes.append(Node(op, name, [source], kernel=(3, 2), stride=stride, pad=(rng.choice((0, 1)),) * 4,
                              ceil_mode=rng.random() < 0.5))
        elif op == "act":
            nodes.append(Node("act", name, [source], kind=rng.choice(("silu", "hardswish", "sigmoid"))))
        elif op == "batchnorm":
            nodes.append(Node(op, name, [source], weights=weights(channels), bias=weights(channels)))
        else:
            nodes.append(Node(op, name, [source] if op == "relu" else [source, source]))
    nodes += [Node("global_avgpool", "pool", [nodes[-1].name]), Node("flatten", "flat", ["pool"]),
              Node("linear", "logits", ["flat"], weights=weights(4, channels), bias=weights(4))]
    shape = (3, rng.randint(5, 70), rng.randint(3, 20))
    return Network(shape, nodes, "chain"), numbers.normal(size=shape).astype(np.float32)


def what_is_left(model, image, threads):
    """The logits and a map as bytes, or the words of the refusal."""
    with model.session(threads=threads) as session:
        try:
            session.run(image)
            return session.logits.tobytes() + session.explain(1).tobytes()
        except agf.Error as problem:
            return str(problem)


def test_any_number_of_threads_leaves_the_same_bits():
    in_ci = bool(os.environ.get("CI"))
    first = random.SystemRandom().randrange(10**9) if in_ci else 1
    made = 0
    for seed in range(first, first + (300 if in_ci else 60)):
        network, image = draw(seed)
        try:
            ModelFile(network).write("chain.agf")
        except ConvertError:  # a window that does not fit
            continue
        with agf.Model("chain.agf") as model:
            left = [what_is_left(model, image, threads) for threads in THREADS]
        check(len(set(left)) == 1, f"seed {seed}: {[threads for threads, one in zip(THREADS, left) if one != left[0]]} threads")
        made += 1
    print(f"  seeds from {first} on: {made} networks")
    check(made >= (150 if in_ci else 30), f"only {made} networks")


if __name__ == "__main__":
    sys.exit(harness.run_tests(dict(globals()), sys.argv[1:]))
