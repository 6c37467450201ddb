#!/usr/bin/env python3
"""AGF beside what people use today, in one interleaved run on this machine: how long one picture takes.

    bench/peers.py [--threads N] [--runs N] [--networks vgg19,resnet50,squeezenet1_1] [--squeezenet MODEL.onnx
    PICTURE.npy] [--json FILE]

Peers, each as its users call it: ONNX Runtime's forward pass, PyTorch's forward pass, captum's Saliency and LRP,
Grad-CAM of pytorch-grad-cam, alpha2-beta1 LRP of zennit, and AGF written in PyTorch with torch's own convolutions
(bench/torch_agf.py). What is not installed is left out, aloud. Networks are torchvision's with He-initialised random
weights, converted by tools/agf_convert.py; --squeezenet takes a real one. In every round each contestant runs once, in
turn, so that a machine that slows down slows all; the table gives medians and, in brackets, minimum and maximum, and
the ratio to ONNX Runtime's forward pass.
"""
import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "bench")]


def he_network(name):
    """torchvision's network with weights as Kaiming He's rule draws them."""
    import torch
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    return network


def last_convolution(network):
    """The layer that Grad-CAM's users name: the last one with a spatial output."""
    import torch

    return [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)][-1]


def without_inplace(network):
    """captum's and zennit's hooks need ReLUs that keep their input."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    return network


def ours(model, threads, x):
    """Contestants of this project; the forward pass of one of them leaves the next class's half done."""
    import agf

    session = agf.Model(model).session(threads=threads, height=x.shape[1], width=x.shape[2])
    image = np.ascontiguousarray(x, np.float32)

    def explain():
        session.run(image, explain=True)
        session.explain(top=1)

    return {"AGF in C: forward": lambda: session.run(image, explain=False), "AGF in C: one class": explain,
            "AGF in C: further class": lambda: session.explain(classes=[1])}


def onnx_runtime(path, threads, x):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    half = "float16" in session.get_inputs()[0].type
    image = np.ascontiguousarray(x[None], np.float16 if half else np.float32)
    return {"ONNX Runtime: forward": lambda: session.run(None, {name: image})}


def torch_peers(network, x):
    """PyTorch's forward pass and the libraries that stand on it, one contestant each."""
    import torch

    image = torch.from_numpy(np.ascontiguousarray(x[None], np.float32))
    target = int(network(image).argmax())
    found = {}

    def forward():
        with torch.no_grad():
            network(image)

    found["PyTorch: forward"] = forward
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        cam = GradCAM(model=network, target_layers=[last_convolution(network)])
        found["pytorch-grad-cam: Grad-CAM"] = lambda: cam(input_tensor=image, targets=[ClassifierOutputTarget(target)])
    except ImportError as missing:
        print(f"left out: pytorch-grad-cam ({missing})", file=sys.stderr)
    try:
        import captum.attr

        saliency = captum.attr.Saliency(network)
        found["captum: Saliency"] = lambda: saliency.attribute(image.clone().requires_grad_(), target=target)
        lrp = captum.attr.LRP(network)
        found["captum: LRP"] = lambda: lrp.attribute(image.clone().requires_grad_(), target=target)
    except ImportError as missing:
        print(f"left out: captum ({missing})", file=sys.stderr)
    try:
        import zennit.attribution
        import zennit.composites
        import zennit.rules
        import zennit.types

        composite = zennit.composites.LayerMapComposite([(zennit.types.Linear, zennit.rules.AlphaBeta(2, 1))])
        one_hot = torch.eye(network(image).shape[1])[[target]]

        def alpha2_beta1():
            with zennit.attribution.Gradient(model=network, composite=composite) as attributor:
                attributor(image.clone().requires_grad_(), one_hot)

        found["zennit: alpha2-beta1"] = alpha2_beta1
    except (ImportError, AttributeError) as missing:
        print(f"left out: zennit ({missing})", file=sys.stderr)
    try:
        import torch_agf

        explainer = torch_agf.AGF(network)
        found["AGF in PyTorch: one class"] = lambda: explainer.explain(image[0], target)
    except (ImportError, AttributeError) as missing:
        print(f"left out: AGF in PyTorch ({missing})", file=sys.stderr)
    return found


def usable(contestants):
    """Those that run at all; the others are named with their reason."""
    kept = {}
    for name, run in contestants.items():
        try:
            run()
            kept[name] = run
        except Exception as problem:  # a peer's own limits: say so and go on
            print(f"left out: {name} ({type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''})", file=sys.stderr)
    return kept


def measure(contestants, runs):
    seconds = {name: [] for name in contestants}
    for _ in range(runs):
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def table(network, threads, seconds):
    base = np.median(seconds["ONNX Runtime: forward"]) if "ONNX Runtime: forward" in seconds else None
    rows = [f"### {network}, {threads} thread{'s' if threads > 1 else ''}", "",
            "| | ms, median (min to max) | of ONNX Runtime's forward pass |", "| --- | ---: | ---: |"]
    for name, values in seconds.items():
        ms = 1e3 * np.asarray(values)
        rows.append(f"| {name} | {np.median(ms):.1f} ({ms.min():.1f} to {ms.max():.1f}) | "
                    f"{np.median(values) / base:.2f} |" if base else f"| {name} | {np.median(ms):.1f} | |")
    return "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--networks", default="vgg19,resnet50")
    parser.add_argument("--squeezenet", nargs=2, metavar=("MODEL.onnx", "PICTURE.npy"), help="a real SqueezeNet and its preprocessed input")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    try:
        import torch
        import agf_convert
    except ImportError as missing:
        sys.exit(f"peers.py: {missing}; `make torch` installs what it needs into build/venv")
    torch.set_num_threads(options.threads)
    results = {"date": datetime.date.today().isoformat(), "machine": platform.processor() or platform.machine(),
               "threads": options.threads, "runs": options.runs, "seconds": {}}
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for name in filter(None, options.networks.split(",")):
            network = he_network(name)
            x = np.random.RandomState(0).standard_normal((3, 224, 224)).astype(np.float32)
            model, onnx = (os.path.join(folder, name + ending) for ending in (".agf", ".onnx"))
            agf_convert.convert(network, model, size=(224, 224))
            torch.onnx.export(network, torch.from_numpy(x[None]), onnx, dynamo=False)
            jobs.append((name, model, onnx, network, x))
        if options.squeezenet:
            onnx, picture = options.squeezenet
            x = np.load(picture).astype(np.float32)
            x = x.reshape(x.shape[-3:])
            model = os.path.join(folder, "squeezenet.agf")
            if agf_convert.main([onnx, "-o", model]):
                sys.exit(1)
            jobs.append(("SqueezeNet 1.1, real weights and picture", model, onnx, None, x))
        for name, model, onnx, network, x in jobs:
            contestants = {**onnx_runtime(onnx, options.threads, x), **ours(model, options.threads, x)}
            if network is not None:
                contestants.update(torch_peers(without_inplace(network), x))
            seconds = measure(usable(contestants), options.runs)
            results["seconds"][name] = seconds
            print(table(name, options.threads, seconds), flush=True)
    if options.json:
        with open(options.json + ".new", "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)
        os.replace(options.json + ".new", options.json)


if __name__ == "__main__":
    main()
