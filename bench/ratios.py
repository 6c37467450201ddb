#!/usr/bin/env python3
"""How far the engine is from ONNX Runtime, and from what this machine allows, network by network.

    bench/ratios.py [NETWORK ...] [--rounds N] [--isa NAME] [--folder DIR] [--anew]
    bench/ratios.py --scaling [NETWORK ...] [--rounds N] [--folder DIR] [--anew]

In every round each contestant runs once, in turn: ONNX Runtime's forward pass; the engine's, one class, each further
class, one class of agf_a, Grad-CAM; all on one thread, in processor time, so that another process takes nothing but
cache and bandwidth away. Beside each is what the machine allows. DIR (build/bench/ratios) keeps networks and results:
what is there is not measured again unless --anew, so the command can be stopped and started; the table of all is
printed at the end.

--scaling: one class on two threads against one, as a share of what the peak probe gains from the second: wall times, so
it needs a machine that does nothing else.

The limit of a layer is the larger of its multiply-adds at the probe's peak, as if nothing were 0, and its bytes at the
probe's bandwidth, as if no cache kept a tensor; a network's is the sum over its layers. A forward pass reads a layer's
inputs and weights and writes its output. One class does so twice over (|W||x| is a second tensor), reads these two, cam
and g at the output, x and the weights, and writes cam and g at the input: 5 convolutions' work, 4 where the rule is
flat; agf_a has no g, and one less. Grad-CAM: the forward pass. Kernels that skip zeros, and caches, go below it.

Random weights, with statistics that fit them (tests/networks.py); SQUEEZENET=MODEL.onnx in the environment adds a real
SqueezeNet. Needs torch, torchvision, timm and ONNX Runtime: `make torch`.
"""
import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests")]

NETWORKS = {  # as the tables call them: library, name there, input size
    "VGG-19": ("torchvision", "vgg19"),
    "ResNet-50": ("torchvision", "resnet50"),
    "SqueezeNet 1.1": ("torchvision", "squeezenet1_1"),
    "MobileNetV2": ("torchvision", "mobilenet_v2"),
    "EfficientNet-Lite0": ("timm", "efficientnet_lite0"),
    "MobileNetV3-large": ("torchvision", "mobilenet_v3_large"),
    "EfficientNet-B0": ("torchvision", "efficientnet_b0"),
    "RegNetY-400MF": ("torchvision", "regnet_y_400mf"),
    "DenseNet-121": ("torchvision", "densenet121"),
    "ShuffleNetV2": ("torchvision", "shufflenet_v2_x1_0"),
    "ConvNeXt-tiny": ("torchvision", "convnext_tiny"),
}
if os.environ.get("SQUEEZENET"):
    NETWORKS["SqueezeNet 1.1, real"] = ("file", os.environ["SQUEEZENET"])
SCALED = ("VGG-19", "ResNet-50", "MobileNetV2", "SqueezeNet 1.1")
SIZE = 224
RUNTIME, FORWARD, ONE, NEXT, ONE_A, GRADCAM = "ONNX Runtime", "forward", "one class", "further class", "agf_a", "Grad-CAM"


def make(name, folder):
    """The paths of a network as .agf and as .onnx, made where they are not there yet."""
    library, own = NETWORKS[name]
    if library == "file":
        import agf_convert
        model = os.path.join(folder, "real.agf")
        if not os.path.exists(model) and agf_convert.main([own, "-o", model, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]):
            raise SystemExit(f"ratios.py: {own} does not convert")
        return model, own
    model, exported = (os.path.join(folder, own + ending) for ending in (".agf", ".onnx"))
    if not (os.path.exists(model) and os.path.exists(exported)):
        import agf_convert
        import networks
        import torch
        if library == "timm":
            import timm
            network = timm.create_model(own)
        else:
            import torchvision
            network = torchvision.models.get_model(own, weights=None)
        networks.initialise(network, (SIZE, SIZE))
        torch.onnx.export(network, (torch.zeros(1, 3, SIZE, SIZE),), exported + ".new", dynamo=False)
        agf_convert.convert(network, model, size=(SIZE, SIZE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        os.replace(exported + ".new", exported)
    return model, exported


def limits(model, peak, bandwidth):
    """Seconds that each contestant takes where the machine alone decides, by name."""
    seconds = dict.fromkeys((FORWARD, ONE, ONE_A, GRADCAM), 0.0)
    layers = model.layers()
    sizes = [(model.input.channels, model.input.height, model.input.width)] + [layer.shape for layer in layers]
    for layer in layers:
        out = int(np.prod(layer.shape))
        x = sum(int(np.prod(sizes[i])) for i in layer.inputs)
        work, convolution = 0.0, layer.op in ("conv", "linear")
        if convolution:
            ci = sizes[layer.inputs[0]][0] if layer.op == "conv" else x
            taps = layer.kernel[0] * layer.kernel[1] if layer.op == "conv" else 1
            work = 2.0 * out * (ci // max(layer.groups, 1)) * taps
        if not convolution and layer.op in ("batchnorm", "relu", "relu6", "flatten", "identity", "dropout"):
            continue  # part of the convolution before it, or nothing
        w = layer.parameters
        reads_image = layer.inputs[0] == 0
        first = 4 if layer.flat else 5
        for key, times, bytes_ in (
            (FORWARD, 1, x + out + w),
            (GRADCAM, 1, x + out + w),
            (ONE, 2 if reads_image else first, x + 2 * out + w + (4 * out + 3 * x + w)),
            (ONE_A, 2 if reads_image else first - 1, x + 2 * out + w + (3 * out + 2 * x + w)),
        ):
            seconds[key] += max(work * times / peak, 4.0 * bytes_ / bandwidth)
    return seconds


def probe(threads=1, runs=15):
    """Multiply-adds, counted as two operations, and bytes a second."""
    said = subprocess.run([os.path.join(ROOT, "build", "agf"), "bench", os.path.join(ROOT, "tests", "demo", "demo.agf"),
                           "--threads", str(threads), "--runs", str(runs), "--json"], check=True, capture_output=True)
    found = json.loads(said.stdout)
    return 1e9 * found["peak_gflops"], 1e9 * found["bandwidth_gbs"]


def contestants(model, exported, isa):
    """(what to call for each, the engine's instruction set, bytes of one session for agf)"""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    runtime = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    given = runtime.get_inputs()[0]
    image = np.random.RandomState(1).standard_normal((3, model.input.height, model.input.width)).astype(np.float32)
    theirs = image[None].astype(np.float16 if "float16" in given.type else np.float32)
    plain, bare, cam = (model.session(threads=1, methods=(method,), isa=isa) for method in ("agf", "agf_a", "gradcam"))

    def explained(session, method, ahead):
        session.run(image, explain=ahead)
        session.explain(method=method)

    return {RUNTIME: lambda: runtime.run(None, {given.name: theirs}),
            FORWARD: lambda: plain.run(image, explain=False),
            ONE: lambda: explained(plain, "agf", True),
            NEXT: lambda: plain.explain(classes=[plain.ranked(1)]),
            ONE_A: lambda: explained(bare, "agf_a", True),
            GRADCAM: lambda: explained(cam, "gradcam", False)}, plain.isa, plain.bytes


def measure(name, model_path, exported, rounds, isa):
    """The row of one network, as a dict."""
    import agf
    peak, bandwidth = probe()
    with agf.Model(model_path) as model:
        runs, used, size = contestants(model, exported, isa)
        seconds = {key: [] for key in runs}
        for index in range(rounds + 1):  # the first warms up
            for key, run in runs.items():
                began = time.process_time()
                run()
                if index:
                    seconds[key].append(time.process_time() - began)
        return {"network": name, "isa": used, "rounds": rounds, "session_bytes": size, "peak": peak, "bandwidth": bandwidth,
                "seconds": {key: [min(v), float(np.median(v)), max(v)] for key, v in seconds.items()},
                "ratios": {key: float(np.median(np.array(v) / seconds[RUNTIME])) for key, v in seconds.items()},
                "a_of_agf": float(np.median(np.array(seconds[ONE_A]) / seconds[ONE])),
                "limits": limits(model, peak, bandwidth)}


def scaling(name, model, rounds):
    """Two threads against one, beside the probe's gain."""
    gains, probes = [], []
    for _ in range(rounds):
        one, two = ({**json.loads(subprocess.run(
            [os.path.join(ROOT, "build", "agf"), "bench", model, "--threads", str(threads), "--runs", "3", "--json"],
            check=True, capture_output=True).stdout)} for threads in (1, 2))
        gains.append(one["explain_ms"] / two["explain_ms"])
        probes.append(two["peak_gflops"] / one["peak_gflops"])
    gain, of_probe = float(np.median(gains)), float(np.median(probes))
    return {"network": name, "scaling": gain, "probe": of_probe, "share": gain / of_probe, "rounds": rounds}


def table(rows):
    """Markdown. Ratios are of ONNX Runtime's forward pass, within the rounds of one network, agf_a's of agf. "Times the
    limits": 1 is all that the machine allows."""
    lines = ["| | ISA | ONNX Runtime ms | forward | one class | further class | Grad-CAM | agf_a of agf |"
             " limits: forward, one class, ms | times the limits | session MB |", "| --- | --- |" + " ---: |" * 9]
    for row in rows:
        ratio, limit, median = row["ratios"], row["limits"], {key: v[1] for key, v in row["seconds"].items()}
        lines.append(
            f"| {row['network']} | {row['isa']} | {1e3 * median[RUNTIME]:.1f} | {ratio[FORWARD]:.2f} | {ratio[ONE]:.2f} | {ratio[NEXT]:.2f}"
            f" | {ratio[GRADCAM]:.2f} | {row['a_of_agf']:.2f} | {1e3 * limit[FORWARD]:.1f}, {1e3 * limit[ONE]:.1f}"
            f" | {median[FORWARD] / limit[FORWARD]:.2f}, {median[ONE] / limit[ONE]:.2f} | {row['session_bytes'] / 1e6:.0f} |")
    return "\n".join(lines)


def scaling_table(rows):
    lines = ["| | 2 threads against 1 | of the probe's own |", "| --- | ---: | ---: |"]
    lines += [f"| {row['network']} | {row['scaling']:.2f} | {row['share']:.2f} of {row['probe']:.2f} |" for row in rows]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--isa", help="the engine's instruction set, such as avx2")
    parser.add_argument("--folder", default=os.path.join(ROOT, "build", "bench", "ratios"))
    parser.add_argument("--anew", action="store_true", help="measure again what has been measured")
    parser.add_argument("--scaling", action="store_true", help="two threads against one; wants a quiet machine")
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    wanted = options.networks or list(SCALED if options.scaling else NETWORKS)
    for name in wanted:
        if name not in NETWORKS:
            parser.error(f"no network is called {name!r}: {', '.join(NETWORKS)}")
    results = os.path.join(options.folder, ("scaling" if options.scaling else options.isa or "ratios") + ".json")
    rows = {}
    if os.path.exists(results):
        with open(results, encoding="utf-8") as f:
            rows = json.load(f)
    for name in wanted:
        if name in rows and not options.anew:
            continue
        model, exported = make(name, options.folder)
        rows[name] = (scaling(name, model, options.rounds) if options.scaling
                      else measure(name, model, exported, options.rounds, options.isa))
        with open(results + ".new", "w", encoding="utf-8") as f:
            json.dump(rows, f, indent=1)
        os.replace(results + ".new", results)
        print((scaling_table if options.scaling else table)([rows[name]]), flush=True)
    print()
    print((scaling_table if options.scaling else table)([rows[name] for name in NETWORKS if name in rows]))


if __name__ == "__main__":
    main()
