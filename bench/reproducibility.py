#!/usr/bin/env python3
"""How far do two maps of the same picture lie apart, by thread count, instruction set and memory layout?

    bench/reproducibility.py SQUEEZENET.onnx PICTURES --into bench/RESULTS.md

Explains the predicted class of the first pictures with SqueezeNet 1.1 and with a random ResNet-50 in every
configuration: the PyTorch AGF of torch_agf.py with 1 and 2 threads, ATEN_CPU_CAPABILITY=avx2 and default, channels_last
and not, each in a process of its own; and the engine with every instruction set of this machine and 1, 2 and 5 threads.
The table shows the largest difference between any two maps of one implementation.

Needs torch, torchvision and onnx beside what agf_eval.py needs.
"""

import argparse
import datetime
import itertools
import os
import pickle
import platform
import shlex
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tools"))
import agf  # noqa: E402
import agf_convert as convert  # noqa: E402
import agf_eval.pictures  # noqa: E402
import agf_eval.results  # noqa: E402

TITLE = "Reproducibility: the same picture, the same network, another configuration"
# How the ONNX zoo's Caffe-born SqueezeNet 1.1 wants its pictures.
CAFFE = convert.Preprocessing((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), 255.0, "bgr")
IMAGENET = convert.Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ISAS = ("ref", "avx2", "avx512", "neon")


def networks(onnx_path):
    """[(title, Network)], the flat flags set."""
    squeezenet = convert.network_of(convert.read_onnx(onnx_path), "SqueezeNet 1.1", "", [], CAFFE)
    resnet = convert.network_of(convert.read_module(convert.torchvision_network("resnet50")[0], (3, 224, 224)),
                                "ResNet-50, random weights", "", [], IMAGENET)
    for network in (squeezenet, resnet):
        convert.mark_flat(network.nodes)
    return [squeezenet, resnet]


def engine_maps(path, pictures):
    """The inputs, their predictions, and {configuration: maps [N, H, W]} for every instruction set and thread count."""
    found = {}
    with agf.Model(path) as model:
        inputs = [model.preprocess(picture) for picture in pictures]
        for isa, threads in itertools.product(ISAS, (1, 2, 5)):
            try:
                session = model.session(isa=isa, threads=threads)
            except agf.Error:  # this machine does not have it
                continue
            with session:
                maps, classes = [], []
                for x in inputs:
                    session.run(x)
                    maps.append(session.explain()[0])
                    classes += session.explained
            found[f"{isa}, {threads} thread{'s' * (threads > 1)}"] = np.stack(maps)
    return inputs, classes, found


def torch_maps(job):
    """The maps [N, H, W] of a job, (network, inputs, classes, channels_last, threads); in a process of its own."""
    import torch

    import torch_agf

    network, inputs, classes, channels_last, threads = job
    torch.set_num_threads(threads)
    explainer = torch_agf.AGF(network, channels_last)
    return np.stack([explainer.explain(x, k).numpy() for x, k in zip(inputs, classes)])


def torch_processes(network, inputs, classes):
    """{configuration: maps [N, H, W]}."""
    found = {}
    for threads, capability, channels_last in itertools.product((1, 2), ("default", "avx2"), (False, True)):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "job")
            with open(path, "wb") as f:
                pickle.dump((network, inputs, classes, channels_last, threads), f)
            environment = dict(os.environ)
            environment.pop("ATEN_CPU_CAPABILITY", None)
            if capability != "default":
                environment["ATEN_CPU_CAPABILITY"] = capability
            subprocess.run([sys.executable, os.path.abspath(__file__), "--job", path], check=True, env=environment)
            name = f"{threads} thread{'s' * (threads > 1)}, {capability}{', channels_last' * channels_last}"
            found[name] = np.load(path + ".npy")
    return found


def spread(maps):
    """(number of different results, largest absolute difference, largest relative L2 difference, of which pair)."""
    distinct = len({m.tobytes() for m in maps.values()})
    largest, relative, pair = 0.0, 0.0, "-"
    for (first, a), (second, b) in itertools.combinations(maps.items(), 2):
        difference = a.astype(np.float64) - b
        largest = max(largest, float(np.abs(difference).max()))
        norms = np.linalg.norm(difference, axis=(1, 2)) / np.linalg.norm(a.astype(np.float64), axis=(1, 2))
        if norms.max() > relative:
            relative, pair = float(norms.max()), f"{first} / {second}"
    return distinct, largest, relative, pair


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", nargs="?", metavar="SQUEEZENET.onnx")
    parser.add_argument("pictures", nargs="?", metavar="PICTURES")
    parser.add_argument("--limit", type=int, default=4, help="number of pictures (default 4)")
    parser.add_argument("--into", metavar="FILE.md", help="put the table into this file's section")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        with open(args.job, "rb") as f:
            maps = torch_maps(pickle.load(f))
        np.save(args.job + ".npy", maps)
        return
    if not args.pictures:
        parser.error("SQUEEZENET.onnx and PICTURES, please")
    import torch

    names = sorted(name for name in os.listdir(args.pictures) if name.lower().endswith(agf_eval.pictures.PICTURE_FILES))
    pictures = [agf_eval.pictures.Image.open(os.path.join(args.pictures, name)).convert("RGB") for name in names[: args.limit]]
    lines = [
        f"## {TITLE}",
        "",
        f"{datetime.date.today().isoformat()}; {len(pictures)} pictures, predicted class; torch {torch.__version__}, "
        f"engine {agf.version()}, {platform.machine()}. Maps are about 1 at their highest. PyTorch: 1 and 2 threads, "
        "ATEN_CPU_CAPABILITY default and avx2, channels_last and not. Engine: every instruction set of this machine, "
        "with 1, 2 and 5 threads.",
        "",
        "```",
        shlex.join(["bench/reproducibility.py"] + sys.argv[1:]),
        "```",
        "",
        "| network | implementation | configurations | different results | largest difference of a pixel | of a map, "
        "relative L2 | between |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for network in networks(args.onnx):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "network.agf")
            convert.ModelFile(network).write(path)
            inputs, classes, ours = engine_maps(path, pictures)
        for title, maps in (("PyTorch AGF", torch_processes(network, inputs, classes)), ("engine", ours)):
            distinct, largest, relative, pair = spread(maps)
            cells = (network.name, title, len(maps), distinct, f"{largest:.2g}", f"{relative:.2g}", pair)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
            print(lines[-1], flush=True)
    if args.into:
        agf_eval.results.put_section(args.into, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
