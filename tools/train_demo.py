#!/usr/bin/env python3
"""Make the demo: a small trained network, and pictures that show what its attribution maps are good for.

    train_demo.py --out tests/demo                      train, check, write demo.agf, scenes, masks and demo.txt
    train_demo.py --scenes 500 --objects 2 --out DIR    write labelled scenes with masks and labels.csv, train nothing
    train_demo.py --odd 200 --out DIR                   the same of pairs of scenes that share all objects but one
    train_demo.py --self-supervised --out DIR           train a network without labels: selfsup.agf and selfsup.bank
    train_demo.py --multilabel --out DIR                train one for scenes of one to four objects: multilabel.agf
    train_demo.py --gated --out DIR                     the same, built like MobileNetV3: gated.agf

A scene is a textured background with one to three drawn objects of different classes (CLASSES). Colours, size,
rotation, proportions, texture and place are random and independent of the class: only the shape tells what an object is
(a key alone may lie at any angle). Everything follows from the seed: the drawings through a NumPy generator, the
network through torch.manual_seed (to the last bit only with the same torch, number of threads and kind of processor).

The network is a row of convolutions with BatchNorm, ReLU and max pools, a global average pool and one linear layer. It
is trained with one logit a class that answers "is there such an object in the picture?" (binary cross-entropy), on
scenes with one to three objects: because classes do not compete, evidence for one object is not learned as the absence
of the others. It never sees a mask. Top-1 accuracy is measured on held-out scenes with a single object, and must reach
MIN_ACCURACY.

What --out gets when training:
    demo.agf                  the network, f16, with labels and preprocessing
    SCENE.png                 held-out scenes with two or three objects, SIZE x SIZE, RGB
    SCENE.CLASS.mask.png      8-bit gray, 0..255: how much of each pixel the visible part of that object covers
    demo.txt                  a line for each scene: SCENE.png CLASS CLASS ...

What --out gets with --scenes: NNNNN.png, their masks named as above, and labels.csv with the columns
    file, label, second, third            the picture; the classes in it, largest visible area first
    mask, second_mask, third_mask         the files of their masks
where columns of objects that a scene does not have are empty. (With four objects: fourth and fourth_mask, too.)

With --odd: NNNNN.png, three objects; NNNNN.pair.png, two of them (drawn anew, elsewhere, on other ground) and another
one; NNNNN.odd.png and NNNNN.objects.png, the masks of the object that the first alone has and of all of its objects;
labels.csv with the columns file, label (the odd object's), pair, mask (the odd object's), objects_mask.

With --self-supervised: selfsup.agf, whose logits are the projection in which training compared pictures; selfsup.bank,
latent vectors of 200 scenes, whose names say what is in them, for people; and for the experiments selfsup-probe.agf
(the same features under a linear classifier of the classes), selfsup-trunk.agf, .bank (without a head), control.agf,
control.bank and control-probe.agf (never trained). With --multilabel: multilabel.agf, 64 x 64, its head a sigmoid; with
--gated: gated.agf, for the same pictures and questions, with inverted residuals, squeeze-and-excite and hard swish.

Needs numpy and Pillow; training needs torch, and agf_convert.py beside this file.
"""
import argparse
import colorsys
import contextlib
import csv
import io
import math
import os
import sys
import time
from collections import OrderedDict
from typing import Any

try:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter
except ModuleNotFoundError as missing:
    print(f"train_demo.py: error: needs the Python package {missing.name}: in a virtual environment, pip install numpy pillow, "
          "and torch for training", file=sys.stderr)
    sys.exit(2)

SIZE = 128           # scene and network input, pixels
SUPERSAMPLE = 4      # objects are drawn this much larger, then averaged down
MIN_ACCURACY = 0.97
MIN_VISIBLE = 0.75   # of each object's area, whatever lies over it


# Drawing. Objects live in their own coordinates: x right, y down, everything within about 1 of the centre.

def circle(cx, cy, rx, ry=None, start=0.0, stop=2 * math.pi, n=40):
    """Points [n, 2] on an ellipse from angle start to stop (radians, clockwise on the screen)."""
    t = np.linspace(start, stop, n)
    return np.stack([cx + rx * np.cos(t), cy + (rx if ry is None else ry) * np.sin(t)], 1)


def box(x0, y0, x1, y1):
    """The corners of a rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def smooth(points):
    """A closed shape with its corners cut twice (Chaikin), four times as many points."""
    p = np.asarray(points, float)
    for _ in range(2):
        following = np.roll(p, -1, 0)
        p = np.stack([0.75 * p + 0.25 * following, 0.25 * p + 0.75 * following], 1).reshape(-1, 2)
    return p


class Pen:
    """Draws one object: a transparent, supersampled canvas, a transform from object coordinates, and a palette."""

    def __init__(self, rng, radius, angle, flip, palette) -> None:
        """radius: pixels of the finished picture that 1 in object coordinates spans. angle: radians. flip: mirror
        in x. palette: name -> (r, g, b), as random_palette makes it."""
        self.rng, self.palette = rng, palette
        self.half = math.ceil(1.4 * radius) + 1
        self.scale = radius * SUPERSAMPLE
        c, s, f = math.cos(angle), math.sin(angle), -1.0 if flip else 1.0
        self.matrix = np.array([[c * f, s * f], [-s, c]]) * self.scale
        side = 2 * self.half * SUPERSAMPLE
        self.canvas = Image.new("RGBA", (side, side), palette["dark"] + (0,))
        self.draw = ImageDraw.Draw(self.canvas)
        self.line_width = max(2, round(0.055 * self.scale))

    def pixels(self, points):
        return [tuple(p) for p in np.asarray(points, float) @ self.matrix + self.half * SUPERSAMPLE]

    def fill(self, points, colour, outline=True):
        """A closed shape in a palette colour; None erases (a hole)."""
        p = self.pixels(points)
        self.draw.polygon(p, fill=self.palette["dark"] + (0,) if colour is None else self.palette[colour] + (255,))
        if outline:
            self.outline(points)

    def outline(self, points):
        """The dark line around a closed shape; over its first edge twice, so that the last corner is joined too."""
        p = self.pixels(points)
        self.draw.line(p + p[:2], fill=self.palette["dark"] + (255,), width=self.line_width, joint="curve")

    def stroke(self, points, width, colour):
        """A line of the given width (object coordinates) with round ends."""
        p, w = self.pixels(points), max(1, round(width * self.scale))
        self.draw.line(p, fill=self.palette[colour] + (255,), width=w, joint="curve")
        for x, y in (p[0], p[-1]):
            self.draw.ellipse((x - w / 2, y - w / 2, x + w / 2, y + w / 2), fill=self.palette[colour] + (255,))

    def outlined_stroke(self, points, width, colour):
        self.stroke(points, width + 0.09, "dark")
        self.stroke(points, width, colour)

    def finish(self):
        """The object at scene resolution, RGBA [2 half, 2 half, 4] in 0..1, lit from above left."""
        patch = np.asarray(self.canvas.reduce(SUPERSAMPLE), np.float32) / 255
        y, x = np.mgrid[-1:1:patch.shape[0] * 1j, -1:1:patch.shape[1] * 1j].astype(np.float32)
        patch = patch.copy()
        patch[..., :3] = np.clip(patch[..., :3] * (1 - 0.16 * (x + y))[..., None], 0, 1)
        return patch


def draw_butterfly(pen):
    u = pen.rng.uniform(-0.06, 0.06, 3)
    for side in (-1, 1):
        def wing(points) -> np.ndarray:
            return np.asarray(points) * (side, 1)
        pen.fill(wing(smooth([(0.02, 0.0), (0.5, 0.0), (0.82 + u[0], 0.35), (0.66, 0.88 + u[1]), (0.3, 0.88),
                              (0.06, 0.4)])), "second")
        pen.fill(wing(smooth([(0.0, 0.0), (0.25, -0.62), (0.7, -0.95 + u[2]), (1.08, -0.8), (1.02, -0.2), (0.68, 0.14),
                              (0.15, 0.16)])), "main")
        pen.fill(wing(circle(0.68, -0.42, 0.17)), "light", False)
        pen.fill(wing(circle(0.68, -0.42, 0.08)), "accent", False)
        pen.fill(wing(circle(0.45, 0.45, 0.11)), "accent", False)
        pen.stroke(wing([(0.03, -0.5), (0.12, -0.75), (0.28, -0.9)]), 0.06, "dark")
    pen.fill(circle(0, 0.08, 0.1, 0.6), "dark")
    pen.fill(circle(0, -0.52, 0.13), "dark")


def draw_cup(pen):
    u = pen.rng.uniform(-0.05, 0.05, 3)
    pen.fill(circle(-0.1, 0.78, 0.85, 0.17), "second")
    pen.fill(circle(0.55, 0.02, 0.4, 0.38 + u[0]), "main")
    pen.fill(circle(0.52, 0.02, 0.2, 0.19 + u[0]), None)
    pen.fill(np.concatenate([[(-0.8, -0.6), (0.55, -0.6)], circle(-0.125, 0.45, 0.55, 0.38, 0, math.pi, 20)]), "main")
    band = 0.1 + u[1]
    pen.fill([(-0.755, band - 0.16), (0.505, band - 0.16), (0.475, band + 0.14), (-0.725, band + 0.14)], "accent",
             False)
    for x in (-0.52, -0.125, 0.27):
        pen.fill(circle(x, band - 0.01, 0.09), "light", False)
    pen.fill(circle(-0.125, -0.6, 0.68, 0.2), "light")
    pen.fill(circle(-0.125, -0.56, 0.5, 0.11), "second", False)


def draw_fish(pen):
    u = pen.rng.uniform(-0.07, 0.07, 4)
    pen.fill([(0.4, 0.0), (0.95, -0.5 + u[0]), (0.8, 0.0), (0.95, 0.5 + u[1])], "second")
    pen.fill([(-0.35, -0.35), (-0.05, -0.82 + u[2]), (0.42, -0.62), (0.3, -0.25)], "second")
    pen.fill([(-0.1, 0.35), (0.18, 0.75 + u[3]), (0.3, 0.3)], "second")
    body = circle(-0.18, 0, 0.76, 0.5 + u[0] / 2)
    pen.fill(body, "main", False)
    for x in (-0.08, 0.22):
        pen.stroke(circle(x, 0, 0.1, 0.47 * math.sqrt(1 - ((x + 0.18) / 0.76) ** 2), -1.3, 1.3, 9), 0.13, "accent")
    pen.outline(body)
    pen.fill(circle(-0.57, -0.12, 0.16), "light")
    pen.fill(circle(-0.6, -0.11, 0.07), "dark", False)
    pen.stroke([(-0.86, 0.18), (-0.72, 0.22), (-0.6, 0.17)], 0.06, "dark")


def draw_house(pen):
    u = pen.rng.uniform(-0.08, 0.08, 4)
    pen.fill(box(0.35, -0.92, 0.6, -0.2), "accent")
    pen.fill(box(-0.72, -0.15, 0.72, 0.88), "main")
    pen.fill([(-0.98, -0.1), (u[0], -0.95), (0.98, -0.1)], "second")
    pen.fill(box(-0.52, 0.25 + u[1], -0.12, 0.88), "accent")
    pen.fill(circle(-0.21, 0.6, 0.045), "light", False)
    pen.fill(box(0.12, 0.12, 0.55, 0.52 + u[2]), "light")
    pen.stroke([(0.335, 0.14), (0.335, 0.5 + u[2])], 0.05, "dark")
    pen.stroke([(0.14, 0.32 + u[2] / 2), (0.53, 0.32 + u[2] / 2)], 0.05, "dark")
    pen.fill(circle(u[0] / 2, -0.42, 0.15), "light")


def draw_key(pen):
    u = pen.rng.uniform(-0.05, 0.05, 4)
    pen.fill([(-0.2, -0.13), (0.98, -0.13), (0.98, 0.13), (0.92, 0.13), (0.92, 0.55 + u[0]), (0.68, 0.55 + u[0]),
              (0.68, 0.13), (0.52, 0.13), (0.52, 0.42 + u[1]), (0.28, 0.42 + u[1]), (0.28, 0.13), (-0.2, 0.13)], "main")
    # Three leaves, first with their outlines, then without, which leaves the outline of their union.
    for radius, outlined in ((0.3, True), (0.26, False)):
        for angle in (0, 2.1, 4.2):
            leaf = circle(-0.55 - 0.2 * math.cos(angle), 0.2 * math.sin(angle), radius + u[2] / 2)
            pen.fill(leaf, "main", outlined)
    pen.fill(circle(-0.55, 0, 0.2), None)
    pen.fill(box(-0.14, -0.2, 0.0, 0.2), "second")
    pen.stroke([(0.1, -0.04), (0.85, -0.04)], 0.07, "light")
    for angle in (0, 2.1, 4.2):
        pen.fill(circle(-0.55 - 0.37 * math.cos(angle), 0.37 * math.sin(angle), 0.07), "accent", False)


def draw_mushroom(pen):
    u = pen.rng.uniform(-0.07, 0.07, 4)
    foot = circle(0, 0.75, 0.38 + u[0], 0.2, 0, math.pi, 16)
    pen.fill(np.concatenate([[(-0.24, 0.05), (0.24, 0.05)], foot]), "light")
    pen.fill(circle(0, 0.34, 0.36, 0.1, 0, math.pi, 16), "second", False)
    pen.fill(circle(0, 0.1, 0.88, 0.17), "second")
    for x in (-0.5, -0.25, 0.0, 0.25, 0.5):
        pen.stroke([(x * 0.6, 0.1), (x * 1.2, 0.2)], 0.035, "dark")
    cap = np.concatenate([circle(0, 0.05, 0.97, 0.92 + u[1], math.pi, 2 * math.pi, 32),
                          circle(0, 0.05, 0.97, 0.14, 0, math.pi, 20)])
    pen.fill(cap, "main")
    for x, y, r in ((-0.05 + u[2], -0.5, 0.2), (-0.55, -0.22 + u[3], 0.16), (0.5, -0.3, 0.17), (0.1, -0.08, 0.12),
                    (0.76, -0.02, 0.08)):
        pen.fill(circle(x, y, r, r * 0.85), "accent", False)


def draw_rocket(pen):
    u = pen.rng.uniform(-0.05, 0.05, 4)
    pen.fill([(-0.2, 0.5), (-0.28, 0.78), (-0.12, 0.75), (0.0, 1.05 + u[0]), (0.12, 0.75), (0.28, 0.78), (0.2, 0.5)],
             "accent")
    for side in (-1, 1):
        pen.fill(np.array([(0.25, 0.05), (0.62 + u[1], 0.4), (0.66 + u[1], 0.85), (0.22, 0.55)]) * (side, 1), "second")
    y = np.linspace(-1, 0.6, 24)
    half = 0.37 * np.sqrt(np.maximum(0, 1 - ((y - 0.1) / 1.1) ** 2)) + 0.01
    right = np.stack([half, y], 1)
    for side, colour in ((right, "main"), (right[y < -0.5], "second")):
        pen.fill(np.concatenate([side, side[::-1] * (-1, 1)]), colour)
    pen.fill(circle(0, -0.18 + u[2], 0.2), "dark", False)
    pen.fill(circle(0, -0.18 + u[2], 0.14), "light", False)
    pen.fill(box(-0.3, 0.28, 0.3, 0.4), "accent", False)
    pen.fill([(-0.05, 0.35), (0.05, 0.35), (0.06, 0.82), (-0.06, 0.82)], "second")


def draw_sailboat(pen):
    u = pen.rng.uniform(-0.07, 0.07, 4)
    pen.stroke([(0.0, -0.9), (0.0, 0.5)], 0.09, "dark")
    pen.fill([(0.02, -0.98), (0.32, -0.88), (0.02, -0.78)], "accent")
    pen.fill([(-0.08, -0.72), (-0.08, 0.3), (-0.8 + u[0], 0.3), (-0.42, -0.1)], "light")
    pen.fill([(0.1, -0.66 + u[1]), (0.4, -0.25), (0.68 + u[2], 0.3), (0.1, 0.3)], "second")
    pen.fill([(0.12, -0.12), (0.46, -0.12), (0.56 + u[2] / 2, 0.08), (0.12, 0.08)], "accent", False)
    pen.fill([(-0.98, 0.42), (0.98, 0.42), (0.68 + u[3], 0.88), (-0.62, 0.88)], "main")
    pen.fill([(-0.9, 0.5), (0.88, 0.5), (0.82, 0.6), (-0.83, 0.6)], "accent", False)
    for x in (-0.35, 0.0, 0.35):
        pen.fill(circle(x, 0.72, 0.06), "light", False)


def draw_tree(pen):
    u = pen.rng.uniform(-0.06, 0.06, 4)
    pen.fill(box(-0.15, 0.55, 0.15, 0.98), "second")
    for top, bottom, w in ((-0.25, 0.72, 0.85 + u[0]), (-0.62, 0.25, 0.66 + u[1]), (-0.98, -0.22, 0.48 + u[2])):
        hem = np.stack([np.linspace(w, -w, 9), bottom + 0.07 * np.array([0, 1, 0, 1, 0, 1, 0, 1, 0])], 1)
        pen.fill(np.concatenate([[(0, top)], hem]), "main")
    for x, y in ((0.02, -0.5), (-0.2, 0.02 + u[3]), (0.25, 0.08), (-0.42, 0.52), (0.05, 0.45 + u[3]), (0.5, 0.55)):
        pen.fill(circle(x, y, 0.085), "accent" if y > 0.05 else "light", False)


def draw_umbrella(pen):
    u = pen.rng.uniform(-0.06, 0.06, 3)
    hook = circle(-0.18, 0.72 + u[0], 0.18, 0.18, 0, math.pi, 14)
    pen.outlined_stroke(np.concatenate([[(0.0, -0.9)], hook]), 0.09, "accent")
    t = np.linspace(0, 1, 10)
    panels = 5
    edges = np.linspace(-0.97, 0.97, panels + 1)
    height = 0.85 + u[1]
    for i in range(panels):
        def rib(x) -> np.ndarray:
            return np.stack([x * np.sin(t * math.pi / 2), -0.78 + height * (1 - np.cos(t * math.pi / 2))], 1)
        a, b = edges[i], edges[i + 1]
        s = np.linspace(0, 1, 8)[1:-1]
        hem = np.stack([a + (b - a) * s, -0.78 + height - 0.13 * np.sin(s * math.pi)], 1)
        pen.fill(np.concatenate([rib(a), hem, rib(b)[::-1]]), ("main", "second")[i % 2])
    pen.fill(circle(0, -0.82, 0.07), "accent")


CLASSES = {"butterfly": draw_butterfly, "cup": draw_cup, "fish": draw_fish, "house": draw_house, "key": draw_key,
           "mushroom": draw_mushroom, "rocket": draw_rocket, "sailboat": draw_sailboat, "tree": draw_tree,
           "umbrella": draw_umbrella}
LABELS = list(CLASSES)


def hsv(h, s, v):
    return np.array(colorsys.hsv_to_rgb(h % 1, s, v))


def random_palette(rng, background):
    """Five colours, as 0..255 triples; the main one is told apart from the mean background colour [3] (0..1)."""
    while True:
        h, v = rng.uniform(), rng.uniform(0.6, 1.0)
        main = hsv(h, rng.uniform(0.45, 0.95), v)
        if np.linalg.norm(main - background) > 0.45:
            break
    step = rng.choice([-1, 1]) * rng.uniform(0.15, 0.4)
    colours = {
        "main": main,
        "second": hsv(h + step, rng.uniform(0.4, 0.95), rng.uniform(0.45, 1.0)),
        "accent": hsv(h + step * 1.9, rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.0)),
        "light": hsv(rng.uniform(), rng.uniform(0.0, 0.22), rng.uniform(0.9, 1.0)),
        "dark": hsv(rng.uniform(), rng.uniform(0.2, 0.7), rng.uniform(0.1, 0.3)),
    }
    return {name: tuple(int(round(255 * c)) for c in colour) for name, colour in colours.items()}


def noise(rng, cells):
    """Smooth noise [SIZE, SIZE] in about -1..1, with features SIZE / cells wide."""
    small = rng.uniform(-1, 1, (cells + 3, cells + 3)).astype(np.float32)
    side = SIZE * (cells + 3) // cells + 1
    return np.asarray(Image.fromarray(small).resize((side, side), Image.BICUBIC))[:SIZE, :SIZE]


def random_texture(rng):
    """A pattern [SIZE, SIZE] in about -1..1: one of seven kinds."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    angle, period = rng.uniform(0, math.pi), rng.uniform(9, 34)
    along = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period
    across = (y * math.cos(angle) - x * math.sin(angle)) * 2 * math.pi / period
    warp = rng.uniform(0, 2.5) * noise(rng, 4)
    kind = ("clouds", "stripes", "checks", "dots", "grain of wood", "slope", "grid")[rng.integers(7)]
    if kind == "clouds":
        return 0.7 * noise(rng, 5) + 0.5 * noise(rng, 11) + 0.3 * noise(rng, 27)
    if kind == "stripes":
        return np.tanh(3 * np.sin(along + warp))
    if kind == "checks":
        return np.tanh(6 * np.sin(along) * np.sin(across))
    if kind == "dots":
        return np.tanh(4 * (np.cos(along) + np.cos(across) - rng.uniform(0.2, 1.2)))
    if kind == "grain of wood":
        return np.sin(along * 0.4 + 3 * warp) + 0.3 * noise(rng, 40)
    if kind == "slope":
        return np.clip((x * math.cos(angle) + y * math.sin(angle)) / SIZE * 2 - 1, -1, 1) + 0.4 * noise(rng, 30)
    return np.maximum(np.cos(along), np.cos(across)) ** 8 * 2 - 1


def scatter_scraps(rng, picture):
    """Up to eight small shapes of no class, in colours like those around. picture: [SIZE, SIZE, 3] in 0..1."""
    layer = Image.new("RGBA", (SIZE * 2, SIZE * 2), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for _ in range(rng.integers(0, 9)):
        colour = np.clip(picture[rng.integers(SIZE), rng.integers(SIZE)] + rng.uniform(-0.3, 0.3, 3), 0, 1)
        corners = rng.integers(2, 7)
        t = np.sort(rng.uniform(0, 2 * math.pi, corners))
        points = rng.uniform(0, 2 * SIZE, 2) + rng.uniform(5, 22) * np.stack([np.cos(t), np.sin(t)], 1)
        points, fill = [tuple(p) for p in points], tuple(int(255 * c) for c in colour) + (255,)
        if corners == 2:
            draw.line(points, fill=fill, width=int(rng.integers(2, 8)))
        else:
            draw.polygon(points, fill=fill)
    scraps = np.asarray(layer.reduce(2), np.float32) / 255
    return picture * (1 - scraps[..., 3:]) + scraps[..., :3] * scraps[..., 3:]


def random_background(rng):
    """A texture of two related colours under uneven light, with scraps and film grain. [SIZE, SIZE, 3] in 0..1."""
    mix = (0.5 + 0.5 * np.clip(random_texture(rng), -1, 1))[..., None]
    h, s, v = rng.uniform(), rng.uniform(0.05, 0.5), rng.uniform(0.3, 0.95)
    a = hsv(h, s, v)
    b = hsv(h + rng.uniform(-0.12, 0.12), np.clip(s + rng.uniform(-0.2, 0.2), 0, 1),
            np.clip(v + rng.uniform(-0.28, 0.28), 0.15, 1))
    picture = a * (1 - mix) + b * mix
    picture += rng.uniform(0, 0.14) * noise(rng, 3)[..., None]
    picture = scatter_scraps(rng, np.clip(picture, 0, 1))
    grain = rng.normal(0, 1, (SIZE, SIZE, 1)) * rng.uniform(0.005, 0.035)
    return np.clip(picture + grain, 0, 1).astype(np.float32)


def overlap(canvas, patch, left, top):
    """Where patch [h, w, ...] lies over canvas [SIZE, SIZE, ...] if its corner is at (left, top): views of both."""
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(SIZE, top + patch.shape[0]), min(SIZE, left + patch.shape[1])
    return canvas[y0:y1, x0:x1], patch[y0 - top:y1 - top, x0 - left:x1 - left]


def draw_object(rng, name, radius, palette, proportions=None):
    """One object, RGBA [h, w, 4] in 0..1. A key may lie at any angle, the others within 35 degrees of upright.

    proportions: a generator of its own for the object's shape, so that the same object can be drawn again."""
    limit = math.pi if name == "key" else math.radians(35)
    pen = Pen(proportions or rng, radius, rng.uniform(-limit, limit), rng.integers(2) == 1, palette)
    CLASSES[name](pen)
    return pen.finish()


def place_object(rng, picture, patch, radius):
    """Put an object and its shadow at a random place of the picture (changed in place). Returns its coverage
    [SIZE, SIZE] in 0..1."""
    half, margin = patch.shape[0] // 2, 0.95 * radius
    left, top = (int(round(c)) - half for c in rng.uniform(margin, SIZE - margin, 2))
    shadow = Image.fromarray((patch[..., 3] * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.8))
    under, shade = overlap(picture, np.asarray(shadow, np.float32) / 255 * rng.uniform(0.2, 0.5), left + 2, top + 3)
    under *= 1 - shade[..., None]
    under, over = overlap(picture, patch, left, top)
    alpha = over[..., 3:]
    under[:] = under * (1 - alpha) + over[..., :3] * alpha
    coverage = np.zeros((SIZE, SIZE), np.float32)
    under, over = overlap(coverage, patch[..., 3], left, top)
    under[:] = over
    return coverage


RADII = {1: (19, 38), 2: (19, 30), 3: (18, 25), 4: (17, 22)}  # of the objects, by how many there are


def draw_scene(rng, objects, among=None):
    """A scene with `objects` objects of different classes; among: indices of LABELS to choose from (default all).

    Returns the picture, uint8 [SIZE, SIZE, 3], and a list of (class index, mask), largest visible area first; mask:
    uint8 [SIZE, SIZE], the share of each pixel that the object's visible part covers.
    """
    radii = RADII[objects]
    while True:
        picture = random_background(rng)
        background = picture.mean((0, 1))
        masks, areas = [], []
        classes = rng.permutation(len(LABELS) if among is None else among)[:objects]
        for k in classes:
            radius = rng.uniform(*radii)
            patch = draw_object(rng, LABELS[k], radius, random_palette(rng, background))
            coverage = place_object(rng, picture, patch, radius)
            masks = [mask * (1 - coverage) for mask in masks] + [coverage]
            areas.append(patch[..., 3].sum())
        if all(mask.sum() >= MIN_VISIBLE * area for mask, area in zip(masks, areas)):
            break
    found = sorted(zip(classes, masks), key=lambda item: -item[1].sum())
    return (picture * 255 + 0.5).astype(np.uint8), [(int(k), (mask * 255 + 0.5).astype(np.uint8)) for k, mask in found]


def lay_out(rng, things, background=None):
    """A picture of given things, each (class index, seed of its proportions, palette), and their masks as draw_scene()
    gives them. background: None: a new one, from which the things' main colours stand out."""
    while True:
        picture = random_background(rng) if background is None else background.copy()
        mains = [np.array(palette["main"]) / 255 for _, _, palette in things]
        if background is None and any(np.linalg.norm(main - picture.mean((0, 1))) < 0.3 for main in mains):
            continue
        masks, areas = [], []
        for k, seed, palette in things:
            radius = rng.uniform(*RADII[len(things)])
            patch = draw_object(rng, LABELS[k], radius, palette, np.random.default_rng(seed))
            coverage = place_object(rng, picture, patch, radius)
            masks = [mask * (1 - coverage) for mask in masks] + [coverage]
            areas.append(patch[..., 3].sum())
        if all(mask.sum() >= MIN_VISIBLE * area for mask, area in zip(masks, areas)):
            return (picture * 255 + 0.5).astype(np.uint8), [(mask * 255 + 0.5).astype(np.uint8) for mask in masks]


def random_things(rng, classes):
    """One thing of each class, for lay_out()."""
    return [(int(k), int(rng.integers(2**31)), random_palette(rng, np.full(3, rng.uniform()))) for k in classes]


def draw_twice(rng, objects):
    """Two pictures of the same things, as two photographs show them: elsewhere, another size, on other ground."""
    things = random_things(rng, rng.permutation(len(LABELS))[:objects])
    return lay_out(rng, things)[0], lay_out(rng, things)[0]


# Independent streams of random numbers: what one use draws never repeats in another, so --scenes, whatever its seed,
# shows scenes that the network was not trained on.
STREAMS = {"training": 0, "accuracy": 1, "demo": 2, "scenes": 3, "twice": 4, "probe": 5, "bank": 6, "odd": 7, "several": 8}


def stream(seed, name, *index: int):
    return np.random.default_rng([seed, STREAMS[name], *index])


def many_scenes(rng, count, objects):
    """`count` scenes with the given numbers of objects in turn: pictures uint8 [count, SIZE, SIZE, 3], and which
    classes are in each, float32 [count, classes], 0 or 1."""
    pictures = np.empty((count, SIZE, SIZE, 3), np.uint8)
    present = np.zeros((count, len(LABELS)), np.float32)
    for i in range(count):
        pictures[i], found = draw_scene(rng, objects[i % len(objects)])
        present[i, [k for k, _ in found]] = 1
    return pictures, present


# Training.

TRAINING_SCENES, TRAINING_OBJECTS = 9000, (1, 1, 2, 3)
HELD_OUT_SCENES = 1000
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 6, 64, 4e-3, 1e-3
# Weight of the mean activation, summed over the layers, in the loss. It keeps a unit silent where it has nothing to
# say, so units answer to fewer things each, and maps are finer: attribution reaches only what was active.
SPARSITY = 0.05
MEAN, STD = 0.5, 0.25

# The demo's scenes, as numbers for demo_scene(): picked by eye from the first 48 of the default seed, clear pictures
# that show every class once or twice, one with an overlap. The first is the one to show where only one is shown.
DEFAULT_SEED = 1
DEMO_SCENES = (1, 28, 36, 19, 11)


def build_network():
    """The network: [N, 3, SIZE, SIZE] to logits [N, classes].

    The convolution that reads the image takes 4x4 patches every 2 pixels, so each pixel lies in as many patches as any
    other (odd patches print a grid on the maps). Channels are multiples of 32, to which the file fills them anyway. All
    the convolutions behind it are plain ones in the attribution's sense: neither 1x1 nor fed by an addition.
    """
    from torch import nn

    network = nn.Sequential()

    def block(number, inputs, outputs, kernel=3, stride=1) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False)
        for name, module in (("conv", conv), ("norm", nn.BatchNorm2d(outputs)), ("relu", nn.ReLU())):
            network.add_module(f"{name}{number}", module)

    block(1, 3, 32, kernel=4, stride=2)               # [32, 64, 64]
    block(2, 32, 32)
    network.add_module("pool1", nn.MaxPool2d(2))      # [32, 32, 32]
    block(3, 32, 64)
    block(4, 64, 64)
    network.add_module("pool2", nn.MaxPool2d(2))      # [64, 16, 16]
    block(5, 64, 64)
    network.add_module("mean", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("classes", nn.Linear(64, len(LABELS)))
    return network


def to_input(pictures):
    """uint8 [N, SIZE, SIZE, 3] to the network's input, [N, 3, SIZE, SIZE]."""
    import torch
    return ((torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD).contiguous()


SMALL_SIZE = 64  # input of the networks below, pixels


def build_small_network(outputs):
    """For the networks beside the demo's: [N, 3, 64, 64] to [N, outputs], 0.2 million parameters."""
    from torch import nn

    network = nn.Sequential()
    inputs = 3
    for number, (channels, pool) in enumerate(((24, True), (48, False), (64, True), (96, False), (128, False)), 1):
        kernel, stride = (4, 2) if number == 1 else (3, 1)
        network.add_module(f"conv{number}", nn.Conv2d(inputs, channels, kernel, stride, padding=1, bias=False))
        network.add_module(f"norm{number}", nn.BatchNorm2d(channels))
        network.add_module(f"relu{number}", nn.ReLU())
        if pool:
            network.add_module(f"pool{number}", nn.MaxPool2d(2))
        inputs = channels
    network.add_module("mean", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("head", nn.Linear(inputs, outputs))
    return network


def build_gated_network(outputs):
    """In the manner of MobileNetV3 (Howard et al., ICCV 2019): [N, 3, 64, 64] to [N, outputs], 0.07 million
    parameters."""
    from torch import Tensor, nn

    def unit(inputs, outputs, kernel=1, stride=1, groups=1, padding=None) -> list[nn.Module]:
        padding = kernel // 2 if padding is None else padding
        return [nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(outputs)]

    class SqueezeExcite(nn.Module):
        """Each channel times a factor in 0..1 that the means of all channels decide."""

        def __init__(self, channels) -> None:
            super().__init__()
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels // 4, 1), nn.ReLU(),
                                      nn.Conv2d(channels // 4, channels, 1), nn.Hardsigmoid())

        def forward(self, x) -> Tensor:
            return x * self.gate(x)

    class InvertedResidual(nn.Module):
        def __init__(self, inputs, inner, outputs, kernel, stride) -> None:
            super().__init__()
            self.adds = stride == 1 and inputs == outputs
            self.body = nn.Sequential(
                *unit(inputs, inner), nn.Hardswish(),
                *unit(inner, inner, kernel, stride, groups=inner), nn.Hardswish(), SqueezeExcite(inner),
                *unit(inner, outputs))

        def forward(self, x) -> Tensor:
            return x + self.body(x) if self.adds else self.body(x)

    return nn.Sequential(*unit(3, 16, kernel=4, stride=2, padding=1), nn.Hardswish(),  # [16, 32, 32]
                         InvertedResidual(16, 32, 16, 3, 1),
                         InvertedResidual(16, 64, 24, 3, 2),                           # [24, 16, 16]
                         InvertedResidual(24, 96, 24, 3, 1),
                         InvertedResidual(24, 96, 48, 5, 2),                           # [48, 8, 8]
                         InvertedResidual(48, 144, 48, 5, 1),
                         *unit(48, 160), nn.Hardswish(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, outputs))


def resized(pictures, side):
    """uint8 [N, SIZE, SIZE, 3] to [N, side, side, 3], as the model file's preprocessing does it."""
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.BILINEAR)) for p in pictures])


def logits_and_activity(network, x):
    """The logits, and the mean activation summed over the ReLUs."""
    from torch import nn
    activity = 0
    for module in network:
        x = module(x)
        if isinstance(module, nn.ReLU):
            activity = activity + x.mean()
    return x, activity


def shuffled_batches(pictures, rng):
    """An epoch's batches: which pictures, and these as the network's input. Neither colour nor handedness tells the
    class, so swapping both at random only adds variety."""
    order = rng.permutation(len(pictures))
    for step in range(len(pictures) // BATCH):
        rows = order[step * BATCH:(step + 1) * BATCH]
        batch = pictures[rows][..., rng.permutation(3)][:, :, ::rng.choice([-1, 1])]
        yield rows, to_input(np.ascontiguousarray(batch))


def train(seed):
    """Draw the training scenes and train; returns the network in evaluation mode, its weights rounded to half precision
    as the file will hold them."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    started = time.time()
    pictures, present = many_scenes(stream(seed, "training"), TRAINING_SCENES, TRAINING_OBJECTS)
    print(f"drew {TRAINING_SCENES} scenes in {time.time() - started:.0f} s", flush=True)

    torch.set_num_threads(2)
    torch.manual_seed(seed)
    rng = stream(seed, "training", 1)
    network = build_network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    steps = len(pictures) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps * EPOCHS)
    for epoch in range(EPOCHS):
        total = 0.0
        for step, (rows, x) in enumerate(shuffled_batches(pictures, rng)):
            logits, activity = logits_and_activity(network, x)
            loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(present[rows]))
            # Phased in over the first half: units that are silenced before they have learned something never wake.
            sparsity = SPARSITY * min(1, 2 * (epoch * steps + step) / (EPOCHS * steps))
            optimizer.zero_grad()
            (loss + sparsity * activity).backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {total / steps:.4f}, {time.time() - started:.0f} s", flush=True)
    return finished(network)


# Learning without labels (SimCLR; Chen et al., ICML 2020). A network is shown two photographs of the same things and is
# to tell them from those of other things. What a thing is called it never hears, nor where it is: the pairs are what a
# film, or a camera that goes around an object, gives for nothing. On top come crops and changes of colour.

PAIRS, PAIR_OBJECTS = 3000, (1, 1, 1, 2)
PAIR_BATCH, PAIR_RATE = 64, 3e-3
# Epochs, temperature, and how strong the changes are that only disturb. With the first the loss stays at chance for
# long; what comes out of it learns fast with the second.
PAIR_CYCLES = ((14, 0.2, 1.0), (16, 0.1, 0.3))
PROJECTION = 32
VIEW_SOURCE = 80     # pixels at which pictures are kept for crops of SMALL_SIZE
MIN_PROBE = 0.85


def random_views(pictures, generator, strength):
    """Pictures, uint8 tensor [N, 3, h, w], as the network's input [N, 3, SMALL_SIZE, SMALL_SIZE], changed at random.

    Each is cropped to 0.7 to 1 of its area, stretched, turned, mirrored; its channels change their order, saturation,
    contrast and brightness. strength, 0 to 1: of up to 0.15 of another picture, a negative now and then, and noise."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    n = len(pictures)

    def uniform(low, high, *shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    area, aspect, angle = uniform(0.7, 1), torch.exp(uniform(-0.2, 0.2)), uniform(-0.3, 0.3)
    wide, high = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    across, down = uniform(-1, 1) * (1 - wide), uniform(-1, 1) * (1 - high)
    c, s = angle.cos(), angle.sin()
    rows = [torch.stack(row, 1) for row in ((c * wide * mirror, -s * high, across), (s * wide * mirror, c * high, down))]
    grid = affine_grid(torch.stack(rows, 1), (n, 3, SMALL_SIZE, SMALL_SIZE), align_corners=False)
    x = grid_sample(pictures.float() / 255, grid, padding_mode="reflection", align_corners=False)
    other = uniform(0, 0.15 * strength, 1, 1, 1)
    x = x * (1 - other) + other * x[torch.randperm(n, generator=generator)]
    order = torch.argsort(uniform(0, 1, 3), 1)
    x = torch.gather(x, 1, order[:, :, None, None].expand_as(x))
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * uniform(0, 1.5, 1, 1, 1)
    x = (x - 0.5) * uniform(0.6, 1.4, 1, 1, 1) + 0.5 + uniform(-0.15, 0.15, 3, 1, 1)
    x = torch.where(uniform(0, 1, 1, 1, 1) < 0.2 * strength, 1 - x, x)
    x = x + torch.randn(x.shape, generator=generator) * uniform(0, 0.05 * strength, 1, 1, 1)
    return ((x.clamp(0, 1) - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def train_self_supervised(seed):
    """Draw the pairs and train; returns the network in evaluation mode, weights rounded to half precision. Its last
    layer is the projection in which pictures are compared."""
    import torch

    started = time.time()
    sides = draw_pairs(seed)
    print(f"drew {PAIRS} pairs in {time.time() - started:.0f} s", flush=True)
    torch.set_num_threads(1)  # the number of threads decides about the last bit
    torch.manual_seed(seed)
    network = build_small_network(PROJECTION)
    network.head.bias = None  # the projection of a difference is then the difference of the projections
    network = network.to(memory_format=torch.channels_last)
    for number in range(len(PAIR_CYCLES)):
        train_on_pairs(network, sides, seed, number)
    return network


def draw_pairs(seed):
    """Two tensors uint8 [PAIRS, 3, VIEW_SOURCE, VIEW_SOURCE]: entry i of both shows the same things."""
    import torch
    rng = stream(seed, "twice")
    pairs = [draw_twice(rng, PAIR_OBJECTS[i % len(PAIR_OBJECTS)]) for i in range(PAIRS)]
    return [torch.from_numpy(resized(side, VIEW_SOURCE)).permute(0, 3, 1, 2).contiguous() for side in zip(*pairs)]


def train_on_pairs(network, sides, seed, number):
    """Cycle `number` of PAIR_CYCLES, in place; the network is left as finished() leaves it."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    started, (epochs, temperature, strength) = time.time(), PAIR_CYCLES[number]
    generator = torch.Generator().manual_seed(seed + number)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    steps = PAIRS // PAIR_BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PAIR_RATE, total_steps=steps * epochs)
    partner = torch.cat([torch.arange(PAIR_BATCH, 2 * PAIR_BATCH), torch.arange(PAIR_BATCH)])
    for epoch in range(epochs):
        order, total = torch.randperm(PAIRS, generator=generator), 0.0
        for step in range(steps):
            rows = order[step * PAIR_BATCH:(step + 1) * PAIR_BATCH]
            views = torch.cat([random_views(side[rows], generator, strength) for side in sides])
            z = normalize(network(views), dim=1)
            loss = cross_entropy((z @ z.T / temperature).fill_diagonal_(-1e9), partner)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"cycle {number + 1}, epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, "
              f"{time.time() - started:.0f} s", flush=True)
    finished(network)


def finished(network):
    """The network in evaluation mode, its weights rounded to half precision as the file will hold them."""
    import torch
    network.eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.weight.copy_(module.weight.half().float())
    return network


def latents(network, pictures):
    """What the network's last layer reads, float32 [N, channels], of scenes uint8 [N, SIZE, SIZE, 3]."""
    import torch
    small, body = resized(pictures, SMALL_SIZE), network[:-1]
    with torch.no_grad():
        return torch.cat([body(to_input(small[i:i + 100])) for i in range(0, len(small), 100)])


def probe_scenes(seed):
    """Scenes with one object to fit a probe on, and held-out ones: each pictures and classes, as many_scenes()."""
    return (many_scenes(stream(seed, "probe"), 2000, (1,)),
            many_scenes(stream(seed, "accuracy"), HELD_OUT_SCENES, (1,)))


def linear_probe(network, scenes):
    """How well a linear classifier reads the classes off the latent vectors: (its accuracy on the held-out of
    probe_scenes(), the classifier as a torch Linear). Labels serve this measurement alone."""
    import torch
    from torch.nn.functional import cross_entropy

    (seen, answers), (unseen, truth) = scenes
    x, y = latents(network, seen), torch.from_numpy(answers.argmax(1))
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    probe = torch.nn.Linear(x.shape[1], len(LABELS))
    torch.nn.init.zeros_(probe.weight)
    torch.nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cross_entropy(probe((x - mean) / deviation), y) + 1e-3 * probe.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():  # the standardisation becomes part of the layer
        probe.weight /= deviation
        probe.bias -= probe.weight @ mean
        right = (probe(latents(network, unseen)).argmax(1).numpy() == truth.argmax(1)).mean()
    return float(right), probe


SEVERAL_SCENES, SEVERAL_OBJECTS = 5000, (1, 2, 3, 4)


def train_multilabel(seed, build, epochs):
    """A network as a classifier of scenes with one to four objects: an answer of its own for each class (binary
    cross-entropy). Returns it in evaluation mode, weights rounded to half precision. build: outputs -> module."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    started = time.time()
    pictures, present = many_scenes(stream(seed, "several"), SEVERAL_SCENES, SEVERAL_OBJECTS)
    pictures = resized(pictures, SMALL_SIZE)
    print(f"drew {SEVERAL_SCENES} scenes in {time.time() - started:.0f} s", flush=True)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = stream(seed, "several", 1)
    network = build(len(LABELS)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    steps = len(pictures) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps * epochs)
    for epoch in range(epochs):
        total = 0.0
        for rows, x in shuffled_batches(pictures, rng):
            logits = network(x)
            loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(present[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {time.time() - started:.0f} s", flush=True)
    return finished(network)


def held_out_accuracy(network, seed, side=SIZE):
    """Top-1 accuracy on held-out scenes with one object. side: of the network's input, pixels."""
    import torch
    pictures, present = many_scenes(stream(seed, "accuracy"), HELD_OUT_SCENES, (1,))
    pictures = pictures if side == SIZE else resized(pictures, side)
    right = 0
    with torch.no_grad():
        for i in range(0, len(pictures), 100):
            guess = network(to_input(pictures[i:i + 100])).argmax(1).numpy()
            right += int((guess == present[i:i + 100].argmax(1)).sum())
    return right / len(pictures)


# Files.

@contextlib.contextmanager
def replacing(path):
    """A temporary name to write to, renamed to path if all goes well and removed if not: no half-written file stays."""
    temporary = path + ".tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def write_png(path, pixels):
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG", optimize=True)


def write_text(path, text):
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_scene(directory, name, picture, found):
    """Write NAME.png and its masks; returns the classes and the mask files, in the order of `found`."""
    write_png(os.path.join(directory, name + ".png"), picture)
    classes = [LABELS[k] for k, _ in found]
    masks = [f"{name}.{label}.mask.png" for label in classes]
    for file, (_, mask) in zip(masks, found):
        write_png(os.path.join(directory, file), mask)
    return classes, masks


def demo_scene(seed, number):
    """Candidate `number` for the demo: even ones hold two objects, odd ones three."""
    return draw_scene(stream(seed, "demo", number), 2 + number % 2)


def write_demo(directory, seed):
    lines = []
    for number in DEMO_SCENES:
        picture, found = demo_scene(seed, number)
        name = "-".join(LABELS[k] for k, _ in found)
        classes, _ = write_scene(directory, name, picture, found)
        lines.append(" ".join([name + ".png"] + classes))
    write_text(os.path.join(directory, "demo.txt"), "\n".join(lines) + "\n")


ORDINALS = ("", "second", "third", "fourth")


def write_table(directory, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(os.path.join(directory, "labels.csv"), text.getvalue())


def write_labelled_scenes(directory, count, objects, seed, among=None):
    """--scenes: see the head of this file. among: indices of LABELS to choose from (default all)."""
    rng = stream(seed, "scenes", objects)
    columns = max(3, objects)
    rows = [["file", "label", *ORDINALS[1:columns], "mask", *(f"{name}_mask" for name in ORDINALS[1:columns])]]
    for i in range(count):
        name = f"{i:05d}"
        classes, masks = write_scene(directory, name, *draw_scene(rng, objects, among))
        empty = [""] * (columns - objects)
        rows.append([name + ".png"] + classes + empty + masks + empty)
    write_table(directory, rows)


def write_odd_pairs(directory, count, seed):
    """--odd: see the head of this file."""
    rng = stream(seed, "odd")
    rows = [["file", "label", "pair", "mask", "objects_mask"]]
    for i in range(count):
        name = f"{i:05d}"
        things = random_things(rng, rng.permutation(len(LABELS))[:4])
        picture, masks = lay_out(rng, things[:3])
        pair, _ = lay_out(rng, [*things[:2], things[3]])
        files = [f"{name}.png", f"{name}.pair.png", f"{name}.odd.png", f"{name}.objects.png"]
        for file, pixels in zip(files, (picture, pair, masks[2], np.maximum.reduce(masks))):
            write_png(os.path.join(directory, file), pixels)
        rows.append([files[0], LABELS[things[2][0]], *files[1:]])
    write_table(directory, rows)


def convert_small(network, path, name, **options: Any):
    """Write one of the small networks as a model file."""
    import agf_convert
    agf_convert.convert(network, path, size=(SMALL_SIZE, SMALL_SIZE), mean=MEAN, std=STD, range=1, channels="rgb",
                        resize="stretch", name=name, f16=True, **options)


BANK_SCENES, BANK_OBJECTS = 200, (1, 2, 3, 3)


def bank_scenes(seed):
    """The pictures of the demo's bank, uint8 [BANK_SCENES, SIZE, SIZE, 3], and a name for each."""
    pictures, present = many_scenes(stream(seed, "bank"), BANK_SCENES, BANK_OBJECTS)
    names = ["-".join(LABELS[k] for k in np.flatnonzero(row)) + f"-{i:03d}.png" for i, row in enumerate(present)]
    return pictures, names


def with_head(network, name, head):
    """The small network under another last layer; None: without one."""
    from torch import nn
    layers = list(network.named_children())[:-1]
    return finished(nn.Sequential(OrderedDict(layers if head is None else [*layers, (name, head)])))


def make_self_supervised(directory, seed, network=None):
    """--self-supervised: see the head of this file; the exit status."""
    import torch
    import agf

    network, scenes = network or train_self_supervised(seed), probe_scenes(seed)
    accuracy, probe = linear_probe(network, scenes)
    print(f"linear probe, {HELD_OUT_SCENES} held-out scenes with one object: {100 * accuracy:.1f} %", flush=True)
    if not accuracy >= MIN_PROBE:
        return fail(f"the probe is below {100 * MIN_PROBE:.0f} %, nothing written", 1)

    def path(name) -> str:
        return os.path.join(directory, name)

    convert_small(network, path("selfsup.agf"), "self-supervised", head="none")
    pictures, names = bank_scenes(seed)
    with agf.Model(path("selfsup.agf")) as model:
        model.bank(list(pictures), names).save(path("selfsup.bank"))
    # For the experiments: the same features under other heads, and features that were never trained.
    convert_small(with_head(network, "probe", probe), path("selfsup-probe.agf"), "probe", labels=LABELS)
    convert_small(with_head(network, "", None), path("selfsup-trunk.agf"), "trunk", head="none")
    with agf.Model(path("selfsup-trunk.agf")) as model:
        model.bank(list(pictures), names).save(path("selfsup-trunk.bank"))
    torch.manual_seed(seed)
    control = build_small_network(PROJECTION)
    control.head.bias = None
    with torch.no_grad():  # its BatchNorm layers see pictures, so that it is no worse than it must be
        for _ in range(20):
            control(to_input(resized(pictures, SMALL_SIZE)))
    accuracy, probe = linear_probe(finished(control), scenes)
    print(f"linear probe of a network that was never trained: {100 * accuracy:.1f} %")
    convert_small(control, path("control.agf"), "never trained", head="none")
    with agf.Model(path("control.agf")) as model:
        model.bank(list(pictures), names).save(path("control.bank"))
    convert_small(with_head(control, "probe", probe), path("control-probe.agf"), "never trained", labels=LABELS)
    for name in ("selfsup.agf", "selfsup.bank"):
        print(f"wrote {path(name)} ({os.path.getsize(path(name))} bytes)")
    return 0


def make_multilabel(directory, seed, name="multilabel", build=build_small_network, epochs=8):
    """--multilabel: see the head of this file; the exit status."""
    network = train_multilabel(seed, build, epochs)
    accuracy = held_out_accuracy(network, seed, SMALL_SIZE)
    print(f"held-out top-1 accuracy, {HELD_OUT_SCENES} scenes with one object: {100 * accuracy:.1f} %")
    if not accuracy >= MIN_PROBE:
        return fail(f"accuracy below {100 * MIN_PROBE:.0f} %, nothing written", 1)
    path = os.path.join(directory, name + ".agf")
    convert_small(network, path, name, labels=LABELS, head="sigmoid")
    print(f"wrote {path} ({os.path.getsize(path)} bytes)")
    return 0


def make_gated(directory, seed):
    """--gated: see the head of this file; the exit status."""
    return make_multilabel(directory, seed, "gated", build_gated_network, 14)


def make_demo(directory, seed):
    """Train, check and write everything; the exit status."""
    import agf_convert

    network = train(seed)
    accuracy = held_out_accuracy(network, seed)
    print(f"held-out top-1 accuracy, {HELD_OUT_SCENES} scenes with one object: {100 * accuracy:.1f} %")
    if not accuracy >= MIN_ACCURACY:
        return fail(f"accuracy below {100 * MIN_ACCURACY:.0f} %, nothing written", 1)
    model = os.path.join(directory, "demo.agf")
    agf_convert.convert(network, model, size=(SIZE, SIZE), labels=LABELS, mean=MEAN, std=STD, range=1, channels="rgb",
                        resize="stretch", name="demo", f16=True)
    write_demo(directory, seed)
    print(f"wrote {model} ({os.path.getsize(model)} bytes) and {len(DEMO_SCENES)} scenes")
    return 0


def train_and_make(make, directory, seed):
    """What trains needs more packages: asked for first, so that what is missing shows before minutes of drawing."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    try:
        import torch  # noqa: F401
        import agf_convert
    except ImportError as problem:
        return fail(f"training needs torch and agf_convert.py: {problem}")
    try:
        return make(directory, seed)
    except agf_convert.ConvertError as problem:
        return fail(problem)


def fail(message, status=2):
    print(f"train_demo.py: {message}", file=sys.stderr)
    return status


def main():
    parser = argparse.ArgumentParser(
        description="Train the demo's network and draw its pictures, or draw labelled scenes.")
    parser.add_argument("--out", required=True, metavar="DIR", help="where everything goes; made if missing")
    parser.add_argument("--scenes", type=int, metavar="N", help="draw N labelled scenes instead of training")
    parser.add_argument("--objects", type=int, choices=(1, 2, 3, 4), help="objects in each of --scenes (default 1)")
    parser.add_argument("--self-supervised", action="store_true", help="train selfsup.agf, without labels, and its bank")
    parser.add_argument("--multilabel", action="store_true", help="train multilabel.agf, for scenes with 1 to 4 objects")
    parser.add_argument("--gated", action="store_true", help="train gated.agf, the same in the manner of MobileNetV3")
    parser.add_argument("--odd", type=int, metavar="N", help="draw N pairs of scenes that share all objects but one")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="default %(default)s")
    options = parser.parse_args()
    if options.seed < 0:
        parser.error(f"--seed {options.seed}: must not be negative")
    if options.scenes is not None and options.scenes < 1:
        parser.error(f"--scenes {options.scenes}: must be at least 1")
    if options.odd is not None and options.odd < 1:
        parser.error(f"--odd {options.odd}: must be at least 1")
    if options.scenes is None and options.objects is not None:
        parser.error("--objects goes with --scenes")
    if sum(map(bool, (options.scenes, options.odd, options.self_supervised, options.multilabel, options.gated))) > 1:
        parser.error("--scenes, --odd, --self-supervised, --multilabel, --gated: one at a time")
    try:
        os.makedirs(options.out, exist_ok=True)
        if options.scenes:
            write_labelled_scenes(options.out, options.scenes, options.objects or 1, options.seed)
        elif options.odd:
            write_odd_pairs(options.out, options.odd, options.seed)
        else:
            make = (make_self_supervised if options.self_supervised else
                    make_multilabel if options.multilabel else make_gated if options.gated else make_demo)
            return train_and_make(make, options.out, options.seed)
        return 0
    except OSError as problem:
        return fail(f"{problem.filename or options.out}: {problem.strerror or problem}")


if __name__ == "__main__":
    sys.exit(main())
