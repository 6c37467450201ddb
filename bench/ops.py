#!/usr/bin/env python3
"""What the operations around convolutions cost: nanoseconds an element, forward and on a class's way back.

    python3 bench/ops.py [--program build/agf]       a Markdown table; one thread; seconds

Each stands on [64,112,112] between a convolution and the pool of a small network; `agf bench` times it there. Beside it
stands what reading 4 bytes and writing 4 costs at the bandwidth that the same run measured. Needs torch.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
from torch import nn
from torch.nn import functional

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import agf_convert  # noqa: E402

CHANNELS, SIDE = 64, 112


class Function(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def layer_norm(x, norm):
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# what it is called, the module, the operation of the model file
OPS = [
    ("relu", nn.ReLU(), "relu"), ("relu6", nn.ReLU6(), "relu6"), ("leaky_relu", nn.LeakyReLU(), "act"),
    ("prelu", nn.PReLU(CHANNELS, 0.2), "act"), ("elu", nn.ELU(), "act"), ("silu", nn.SiLU(), "act"), ("hardswish", nn.Hardswish(), "act"),
    ("gelu", nn.GELU(), "act"), ("gelu, tanh", nn.GELU("tanh"), "act"), ("mish", nn.Mish(), "act"), ("sigmoid", nn.Sigmoid(), "act"),
    ("hardsigmoid", nn.Hardsigmoid(), "act"), ("tanh", nn.Tanh(), "act"), ("softplus", nn.Softplus(), "act"),
    ("clip", nn.Hardtanh(-1, 1), "act"),
    ("gate of a number a channel", Function(lambda x, gate: x * gate(x.mean((2, 3), keepdim=True)).sigmoid(),
                                            nn.Conv2d(CHANNELS, CHANNELS, 1)), "mul"),
    ("gate of a number a pixel", Function(lambda x, gate: x * gate(x).sigmoid(), nn.Conv2d(CHANNELS, 1, 1)), "mul"),
    ("sum of two", Function(lambda x, conv: x + conv(x), nn.Conv2d(CHANNELS, CHANNELS, 1)), "add"),
    ("layer norm", Function(layer_norm, nn.LayerNorm(CHANNELS)), "norm"), ("group norm, 8 groups", nn.GroupNorm(8, CHANNELS), "norm"),
    ("instance norm", nn.InstanceNorm2d(CHANNELS, affine=True), "norm"), ("local response norm, 5", nn.LocalResponseNorm(5), "lrn"),
    ("channel shuffle, 8 groups", nn.ChannelShuffle(8), "shuffle"), ("slice, half", Function(lambda x: x[:, CHANNELS // 2:]), "slice"),
    ("pad, zeros", Function(lambda x: functional.pad(x, (1, 1, 1, 1)).relu()), "pad"), ("pad, reflected", nn.ReflectionPad2d(1), "pad"),
    ("resize, twice", nn.Upsample(scale_factor=2), "resize"),
]


def measure(program, module, op, folder):
    """(ns an input element forward, on the way back, ns at the bandwidth) of a module's one node `op`."""
    torch.manual_seed(0)
    with torch.no_grad():
        channels = module.eval()(torch.zeros(1, CHANNELS, 8, 8)).shape[1]
    net = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), module, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).eval()
    path = os.path.join(folder, "net.agf")
    agf_convert.convert(net, path, (3, SIDE, SIDE))
    done = subprocess.run([program, "bench", path, "--threads", "1", "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    layer, = (layer for layer in found["layers"] if layer["op"] == op)
    elements = CHANNELS * SIDE * SIDE
    return layer["forward_ms"] * 1e6 / elements, layer["class_ms"] * 1e6 / elements, 8 / found["bandwidth_gbs"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "agf"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| operation | forward, ns an element | a class | read and written at the bandwidth |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for name, module, op in OPS:
            forward, back, bandwidth = measure(arguments.program, module, op, folder)
            print(f"| {name} | {forward:.2f} | {back:.2f} | {bandwidth:.2f} |", flush=True)


if __name__ == "__main__":
    main()
