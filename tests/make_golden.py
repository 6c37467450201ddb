#!/usr/bin/env python3
"""Make the model files of tests/golden, and full-size cases.

    make_golden.py [--out DIR]            CASE/CASE.agf of every CASE/case.json and CASE/weights.npz, and cases.txt
    make_golden.py --full NAME --out DIR    a full-size network, its weights built from a fixed seed by
                                          golden/build.py, with the maps of golden/full -> DIR/NAME/

The same input gives the same bytes. A case's directory holds what a program without a JSON or zip reader can use:

    CASE.agf           the network: BatchNorm as its own nodes, no dropout, dead branches and node names as in case.json
    input.npy          the image, float32 [C,H,W]
    logits.npy         float64
    heat_*.npy         maps [H,W]: float64, of full-size cases float32
    cam_NODE.npy       float32, at the output of a node, for the first line of maps.txt; NODE "input" is the image
    g_NODE.npy         likewise
    METHOD_TARGET.npy  maps of the other methods, float64
    maps.txt           FILE TARGET REL_L2 OPTIONS: a map per line; REL_L2 is the relative L2 error of one ordinary
                       float32 implementation; OPTIONS are separated by commas, "-" for none
    methods.txt        FILE METHOD TARGET STEPS REL_L2: STEPS of integrated_gradients, 0 elsewhere
    case.json, weights.npz    the network as agf-spec.md, "The golden files", describes it

The results are those of a NumPy implementation of agf-spec.md that shares nothing with oracle.py. Two are oracle.py's,
fullgrad of shuffle_tiny: that implementation multiplied every bias of a BatchNorm of a vector by every gradient.
cases.txt lists the cases that the engine reads.
"""
import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
sys.path.insert(0, str(ROOT / "tools"))
from agf_convert import ModelFile, Network, Node, batchnorm_scale_bias, version_of  # noqa: E402

LEFT_OUT = ("dropout",)                                    # the inference pass copies its input
GOLDEN_OPS = {"bn": "batchnorm", "gap": "global_avgpool"}  # those that the model file calls otherwise
OPTIONS = {"gradcam": "fx_gradcam"}                        # likewise


def network_of(case, weights, name):
    """The Network of a case.json and its {name: array}."""
    nodes, alias = [], {}
    for n in case["nodes"]:
        inputs = [alias.get(i, i) for i in n["in"]]
        if n["op"] in LEFT_OUT:
            alias[n["out"]] = inputs[0]
            continue
        op = GOLDEN_OPS.get(n["op"], n["op"])
        node = Node(op, n["out"], inputs)
        if op in ("conv", "maxpool", "avgpool"):
            node.stride, node.pad = tuple(n["stride"]), tuple(n["pad"]) * 2
        if op in ("maxpool", "avgpool"):
            node.kernel, node.ceil_mode = tuple(n["k"]), bool(n.get("ceil", False))
            # The reference's average pool divides by kh * kw everywhere.
            node.count_include_pad = op == "avgpool" and any(n["pad"])
        if op in ("conv", "linear"):
            node.weights, node.bias = weights[n["w"]], weights[n["b"]] if "b" in n else None
        if op == "conv":
            node.kernel, node.dilation = node.weights.shape[2:], tuple(n["dil"])
            node.groups, node.flat = n["groups"], n["flat"]
        if op == "adaptive_avgpool":
            node.kernel = tuple(n["size"])
        if op == "batchnorm":
            parameters = (weights[n[k]] for k in ("gamma", "beta", "mean", "var"))
            node.weights, node.bias = batchnorm_scale_bias(*parameters, n["eps"])
        for what in ("kind", "alpha", "beta", "lo", "hi", "size", "k", "eps", "groups", "spatial", "perm"):
            if what in n and op in ("act", "norm", "lrn", "shuffle") and not isinstance(n[what], str) or what == "kind":
                setattr(node, what, n.get(what, ""))
        if op == "act" and "slope" in n:
            node.weights = weights[n["slope"]]
        if op == "norm":
            node.weights, node.bias = weights[n["gamma"]], weights[n["beta"]]
        if op == "slice":
            node.start, node.stop = n["from"], n["to"]
        if op == "pad":
            node.pad = tuple(n["pads"])
        nodes.append(node)
    return Network(tuple(case["input_shape"]), nodes, name=name, source="tests/golden")


def write_case(directory, name, network, image, maps, expected):
    """maps: entries of a full-size case's description; expected: the arrays that belong to them."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in (*directory.glob("*.npy"), *directory.glob("*.agf"), *directory.glob("*.txt")):
        old.unlink()
    ModelFile(network).write(directory / f"{name}.agf")
    np.save(directory / "input.npy", image.astype(np.float32))
    np.save(directory / "logits.npy", expected["logits"])
    lines = []
    for entry in maps:
        np.save(directory / f"{entry['map']}.npy", expected[entry["map"]])
        options = ",".join(OPTIONS.get(o, o) for o in entry["options"]) or "-"
        lines.append(f"{entry['map']}.npy {entry['target']} {entry['float32_error']['rel_l2']!r} {options}\n")
    write_text(directory / "maps.txt", lines)
    write_text(directory / "methods.txt", [])


def write_text(path, lines):
    path.write_bytes("".join(lines).encode())


def make_small(out, version):
    listed = []
    for directory in sorted(path.parent for path in GOLDEN.glob("*/case.json")):
        name, case = directory.name, json.loads((directory / "case.json").read_text())
        network = network_of(case, np.load(directory / "weights.npz"), name)
        (out / name).mkdir(parents=True, exist_ok=True)
        ModelFile(network).write(out / name / f"{name}.agf")
        if name == "vgg_tiny":
            ModelFile(network, f16=True).write(out / name / f"{name}_f16.agf")
        if version_of(network) <= version:
            listed.append(name)
        else:
            print(f"{name}: needs version {version_of(network)} of the format")
    write_text(out / "cases.txt", [name + "\n" for name in listed])


def make_full(source, name, out):
    if not (source / "full" / f"{name}.json").exists():
        sys.exit(f"{source / 'full'}: no case {name}")
    spec = importlib.util.spec_from_file_location("golden_build", source / "build.py")
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    case, weights, image = builder.build(name)
    maps = json.loads((source / "full" / f"{name}.json").read_text())["maps"]
    write_case(out / name, name, network_of(case, weights, name), image, maps, np.load(source / "full" / f"{name}.npz"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", metavar="NAME", help="a full-size case instead of the small ones")
    parser.add_argument("--source", type=Path, default=GOLDEN, help="of full-size cases (default: tests/golden)")
    parser.add_argument("--version", type=int, default=2, help="the newest model files that the engine reads")
    parser.add_argument("--out", type=Path, default=GOLDEN, help="where to write (default: tests/golden)")
    arguments = parser.parse_args()
    if arguments.full:
        make_full(arguments.source, arguments.full, arguments.out)
    else:
        make_small(arguments.out, arguments.version)


if __name__ == "__main__":
    main()
