#!/usr/bin/env python3
"""Builds the golden networks from fixed seeds: build.py CASE OUTDIR writes OUTDIR/CASE/{case.json,weights.npz}.

NumPy only. The small cases lie here ready made, weights included; the full-size ones (vgg19, vgg16_bn, resnet50,
resnet18: up to 575 MB) are made on demand (make_golden.py --full), and only their expected maps lie here, in full/.

case.json: {"input_shape": [C,H,W], "nodes": [...]}; a node is {"op", "in": [tensor names], "out": name, ...}, in
topological order, "input" is the image tensor, strings such as "conv1.w" name arrays in weights.npz (float32, conv
weights [O, I/groups, kh, kw], linear weights [O, I]). "flat" marks the convolutions that agf-spec.md calls flat.
"""
import json
import os
import sys

import numpy as np


class Builder:
    def __init__(self, seed):
        self.r = np.random.RandomState(seed)
        self.nodes, self.weights = [], {}

    def add(self, op, ins, **a):
        out = f"{op}{len(self.nodes) + 1}"
        for k, v in list(a.items()):
            if isinstance(v, np.ndarray):
                self.weights[f"{out}.{k}"] = v
                a[k] = f"{out}.{k}"
        self.nodes.append({"op": op, "in": [ins] if isinstance(ins, str) else list(ins), "out": out, **a})
        return out

    def normal(self, *shape, scale=1.0):
        return (self.r.standard_normal(shape) * scale).astype(np.float32)

    def uniform(self, n, lo, hi):
        return self.r.uniform(lo, hi, n).astype(np.float32)

    def conv(self, x, i, o, k, s=1, p=0, d=1, g=1, bias=True):
        def pair(v):
            return [v, v] if isinstance(v, int) else list(v)

        kh, kw = pair(k)
        a = {"w": self.normal(o, i // g, kh, kw, scale=(2.0 / (i // g * kh * kw)) ** 0.5)}
        if bias:
            a["b"] = self.normal(o, scale=0.1)
        return self.add("conv", x, stride=pair(s), pad=pair(p), dil=pair(d), groups=g, **a)

    def bn(self, x, c, gain=1.0):
        a = {"mean": self.normal(c, scale=0.2), "var": self.uniform(c, 0.5, 1.5), "gamma": self.uniform(c, 0.5, 1.5),
             "beta": self.normal(c, scale=0.2)}
        a["gamma"][self.r.rand(c) < 0.1] *= -1
        a["gamma"] *= np.float32(gain)
        return self.add("bn", x, eps=1e-5, **a)

    def relu(self, x):
        return self.add("relu", x)

    def cr(self, *a, **k):
        return self.relu(self.conv(*a, **k))

    def cbr(self, *a, **k):
        return self.relu(self.bn(self.conv(*a, bias=False, **k), a[2]))

    def maxpool(self, x, k, s, p=0, ceil=False):
        return self.add("maxpool", x, k=[k, k], stride=[s, s], pad=[p, p], ceil=ceil)

    def aap(self, x, h, w):
        return self.add("adaptive_avgpool", x, size=[h, w])

    def flatten(self, x):
        return self.add("flatten", x)

    def linear(self, x, i, o):
        return self.add("linear", x, w=self.normal(o, i, scale=(2.0 / i) ** 0.5), b=self.normal(o, scale=0.1))

    def basic(self, x, i, w, s):
        y = self.cbr(x, i, w, 3, s=s, p=1)
        y = self.bn(self.conv(y, w, w, 3, p=1, bias=False), w, gain=0.3)
        if s != 1 or i != w:
            x = self.bn(self.conv(x, i, w, 1, s=s, bias=False), w)
        return self.relu(self.add("add", [y, x]))

    def bottleneck(self, x, i, w, s):
        y = self.cbr(self.cbr(x, i, w, 1), w, w, 3, s=s, p=1)
        y = self.bn(self.conv(y, w, 4 * w, 1, bias=False), 4 * w, gain=0.3)
        if s != 1 or i != 4 * w:
            x = self.bn(self.conv(x, i, 4 * w, 1, s=s, bias=False), 4 * w)
        return self.relu(self.add("add", [y, x]))

    def reads_sum(self, name):
        p = next((n for n in self.nodes if n["out"] == name), None)
        if p is None:
            return False
        return p["op"] == "add" or p["op"] in ("relu", "dropout", "maxpool", "avgpool", "bn") and self.reads_sum(p["in"][0])

    def case(self, shape):
        for n in self.nodes:
            if n["op"] == "conv":
                n["flat"] = self.weights[n["w"]].shape[2:] == (1, 1) or self.reads_sum(n["in"][0])
        return {"input_shape": list(shape), "nodes": self.nodes}


def vgg_tiny(b):
    x = b.cr(b.cr("input", 3, 16, 3, p=1), 16, 16, 3, p=1)
    x = b.maxpool(x, 2, 2)
    x = b.cr(b.cr(x, 16, 32, 3, p=1), 32, 32, 3, p=1)
    x = b.maxpool(x, 2, 2)
    x = b.maxpool(b.cr(x, 32, 48, 3, p=1), 2, 2)
    x = b.flatten(b.aap(x, 4, 4))
    x = b.add("dropout", b.relu(b.linear(x, 48 * 16, 64)))
    x = b.add("dropout", b.relu(b.linear(x, 64, 64)))
    b.linear(x, 64, 10)
    return 3, 32, 32


def vgg_bn_nonsquare(b):
    x = b.maxpool(b.cbr("input", 3, 12, 3, p=1), 2, 2)
    x = b.cbr(b.cbr(x, 12, 20, 3, p=1), 20, 20, 3, p=1)
    x = b.cbr(b.maxpool(x, 2, 2), 20, 24, 3, p=1)
    x = b.flatten(b.aap(x, 3, 4))
    b.linear(b.relu(b.linear(x, 24 * 12, 32)), 32, 7)
    return 3, 41, 58


def resnet_bottleneck(b):
    x = b.maxpool(b.cbr("input", 3, 16, 7, s=2, p=3), 3, 2, 1)
    x = b.bottleneck(b.bottleneck(x, 16, 8, 1), 32, 8, 1)
    x = b.bottleneck(b.bottleneck(x, 32, 12, 2), 48, 12, 1)
    b.linear(b.flatten(b.aap(x, 1, 1)), 48, 9)
    return 3, 66, 51


def resnet_basic(b):
    x = b.maxpool(b.cbr("input", 3, 16, 7, s=2, p=3), 3, 2, 1)
    x = b.basic(b.basic(b.basic(x, 16, 16, 1), 16, 24, 2), 24, 24, 1)
    b.linear(b.flatten(b.aap(x, 1, 1)), 24, 9)
    return 3, 64, 64


def squeeze_tiny(b):
    x = b.maxpool(b.cr("input", 3, 16, 3, s=2), 3, 2, ceil=True)
    for i in (16, 32):
        q = b.cr(x, i, 8, 1)
        x = b.add("concat", [b.cr(q, 8, 16, 1), b.cr(q, 8, 16, 3, p=1)])
    x = b.cr(b.maxpool(x, 3, 2, ceil=True), 32, 11, 1)
    b.add("gap", x)
    return 3, 63, 63


def dense_tiny(b):
    x, c = b.cbr("input", 3, 12, 3, p=1), 12
    for _ in range(3):
        y = b.conv(b.relu(b.bn(x, c)), c, 16, 1, bias=False)
        y = b.conv(b.relu(b.bn(y, 16)), 16, 6, 3, p=1, bias=False)
        x, c = b.add("concat", [x, y]), c + 6
    x = b.conv(b.relu(b.bn(x, c)), c, 16, 1, bias=False)
    x = b.relu(b.bn(b.add("avgpool", x, k=[2, 2], stride=[2, 2], pad=[0, 0]), 16))
    b.linear(b.flatten(b.aap(x, 1, 1)), 16, 8)
    return 3, 28, 36


def grouped_dilated(b):
    x = b.maxpool(b.cr("input", 3, 24, 11, s=4, p=2), 3, 2)
    x = b.cr(x, 24, 32, 5, p=2, g=2)
    x = b.cr(x, 32, 32, 3, p=2, d=2)
    x = b.cr(b.cr(x, 32, 32, 3, p=1, g=32), 32, 32, (3, 1), p=(1, 0))
    x = b.flatten(b.aap(x, 2, 2))
    b.linear(b.relu(b.linear(x, 128, 40)), 40, 10)
    return 3, 99, 95


def corners(b):
    """What the others lack: an image with a zero and a constant patch, two readers of it (one 1x1), ties in a max
    pool, convolutions with negative input, cam zero where g is not, a BatchNorm as the only reader of a ReLU, a padded
    average pool, a dead branch, flatten -> dropout -> linear."""
    x = [b.conv("input", 3, 10, 3, p=1), b.conv("input", 3, 6, 1)]
    for n in x:
        w = b.weights[n + ".b"]
        w[:] = -abs(w)
    x = b.maxpool(b.relu(b.add("concat", x)), 2, 2)
    x = b.cr(b.conv(x, 16, 18, 3, p=1, bias=False), 18, 16, 3, p=1)
    x = b.cr(b.bn(x, 16), 16, 20, 3, p=1)
    b.cr(x, 20, 5, 1)
    x = b.add("add", [b.cr(x, 20, 20, 3, p=1), x])
    x = b.add("avgpool", x, k=[3, 3], stride=[2, 2], pad=[1, 1])
    x = b.add("dropout", b.flatten(x))
    b.linear(b.relu(b.linear(x, 20 * 6 * 7, 24)), 24, 8)
    return 3, 24, 28


def vgg(cfg, bn):
    def f(b):
        x, i = "input", 3
        for v in cfg:
            if v == "M":
                x = b.maxpool(x, 2, 2)
            else:
                x, i = (b.cbr if bn else b.cr)(x, i, v, 3, p=1), v
        x = b.flatten(b.aap(x, 7, 7))
        b.linear(b.relu(b.linear(b.relu(b.linear(x, 512 * 49, 4096)), 4096, 4096)), 4096, 1000)
        return 3, 224, 224
    return f


def resnet(block, layers, mult):
    def f(b):
        x, i = b.maxpool(b.cbr("input", 3, 64, 7, s=2, p=3), 3, 2, 1), 64
        for w, n, s in zip((64, 128, 256, 512), layers, (1, 2, 2, 2)):
            for j in range(n):
                x, i = block(b, x, i, w, s if j == 0 else 1), w * mult
        b.linear(b.flatten(b.aap(x, 1, 1)), i, 1000)
        return 3, 224, 224
    return f


E = [64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M"]
D = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
CASES = {f.__name__: (100 + i, f) for i, f in enumerate(
    (vgg_tiny, vgg_bn_nonsquare, resnet_bottleneck, resnet_basic, squeeze_tiny, dense_tiny, grouped_dilated))}
CASES.update(corners=(128, corners), vgg19=(200, vgg(E, False)), vgg16_bn=(201, vgg(D, True)),
             resnet50=(202, resnet(Builder.bottleneck, (3, 4, 6, 3), 4)), resnet18=(203, resnet(Builder.basic, (2, 2, 2, 2), 1)))


def build(name):
    seed, f = CASES[name]
    b = Builder(seed)
    c = b.case(f(b))
    x = np.random.RandomState(seed + 800).standard_normal(c["input_shape"]).astype(np.float32)
    if name == "corners":
        x[:, 2:13, 3:14] = 0
        x[:, 12:, 15:] = np.float32([0.75, 1.25, -0.5])[:, None, None]
    return c, b.weights, x


def main(name, out):
    c, w, x = build(name)
    d = os.path.join(out, name)
    os.makedirs(d, exist_ok=True)
    with open(os.path.join(d, "case.json"), "w") as f:
        json.dump(c, f, indent=1)
    np.savez(os.path.join(d, "weights.npz"), **w)
    np.save(os.path.join(d, "input.npy"), x)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in CASES:
        sys.exit(f"usage: build.py CASE OUTDIR\ncases: {' '.join(CASES)}")
    main(*sys.argv[1:])
