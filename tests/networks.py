#!/usr/bin/env python3
"""Makes tests/networks.md: which of torchvision's and timm's classifiers convert, how exactly, and whether they
explain.

    python3 tests/networks.py [-k TEXT] [--minutes N] [--results FILE]     about an hour for all, on one core

What FILE (a JSON line for each network) holds is not run again, so that the run can be cut into pieces of N minutes;
the table is written after each. Small networks come first. Every network gets random weights and statistics that fit
them. Its logits are compared with torch's; maps of agf, agf_a and agf_lc must be finite, and are compared with
tests/oracle.py in float64 where the network is small; a forward pass, and that and one class, are timed beside ONNX
Runtime's forward pass. Needs torch, torchvision, timm, onnxruntime and the engine's library.
"""
import contextlib
import copy
import datetime
import json
import math
import os
import platform
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests")]
from survey import survey                                                              # noqa: E402

SIZE = 96              # small enough for all of them in an hour, large enough for five halvings; else the network's own
WANTED = 1e-4          # between the engine's logits and torch's, relative; where it is more, float64 says whose fault that is
MOST_PARAMETERS = 4e8  # beyond it no maps and no times: the machine's memory
SMALL = 6e6            # parameters up to which the oracle, which is NumPy, is asked
ORDERS = 5e-3          # by so much two correct float32 orders may differ (agf-spec.md)
ROUNDINGS = 3          # runs of the oracle with every operation rounded at random, for a map that is farther from float64's
ROUNDS = 3             # of each time the smallest
METHODS = ("agf", "agf_a", "agf_lc")
TIMM = """
bat_resnext26ts convmixer_768_32 convnext_atto convnext_femto convnext_pico convnext_nano convnext_tiny convnextv2_atto
convnextv2_nano cs3darknet_s cs3darknet_m cs3darknet_focus_s cs3edgenet_x cspdarknet53 cspresnet50 cspresnext50 cs3sedarknet_l
darknet17 darknet21 darknet53 densenet121 densenet169 densenetblur121d dla34 dla46_c dla60 dla60_res2net dla60x_c dm_nfnet_f0
dpn48b dpn68 dpn68b eca_botnext26ts_256 eca_nfnet_l0 eca_resnet33ts ecaresnet26t ecaresnet50t ecaresnetlight edgenext_xx_small
efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b0_g16_evos efficientnet_b0_gn efficientnet_b3_pruned efficientnet_el
efficientnet_em efficientnet_es efficientnet_lite0 efficientnet_lite1 efficientnet_lite2 efficientnetv2_rw_t efficientnetv2_s
fastvit_t8 fbnetc_100 fbnetv3_b gcresnet33ts gcresnext26ts gernet_s gernet_m ghostnet_050 ghostnet_100 ghostnetv2_100 halonet26t
hardcorenas_a hardcorenas_f hgnet_tiny hgnet_small hgnetv2_b0 hgnetv2_b2 hrnet_w18_small hrnet_w18 inception_resnet_v2
inception_v3 inception_v4 lambda_resnet26t lcnet_050 lcnet_100 legacy_senet154 legacy_seresnet18 legacy_seresnet50
legacy_seresnext26_32x4d legacy_xception mixnet_s mixnet_m mixnet_l mnasnet_small mnasnet_100 mobilenetv1_100 mobilenetv2_050
mobilenetv2_100 mobilenetv2_120d mobilenetv3_large_100 mobilenetv3_rw mobilenetv3_small_050 mobilenetv3_small_100
mobilenetv4_conv_small mobilenetv4_conv_medium mobilenetv4_hybrid_medium mobileone_s0 mobileone_s2 mobileone_s4 nf_ecaresnet26
nf_regnet_b0 nf_resnet26 nf_resnet50 nfnet_l0 regnetv_040 regnetx_002 regnetx_016 regnety_002 regnety_016 regnetz_b16 regnetz_c16
regnetz_d8 repghostnet_050 repghostnet_100 repvgg_a0 repvgg_a2 repvgg_b0 repvit_m1 res2net50_26w_4s res2net50_14w_8s res2net101d
res2next50 resnest14d resnest26d resnest50d resnest50d_1s4x24d resnet10t resnet14t resnet18 resnet18d resnet26 resnet26t resnet34d
resnet50 resnet50_gn resnet50c resnet50t resnet101 resnetaa50 resnetblur50 resnetrs50 resnetv2_50 resnetv2_50d_gn
resnetv2_50x1_bit resnext26ts resnext50_32x4d rexnet_100 rexnet_150 rexnetr_200 selecsls42 selecsls42b selecsls60 semnasnet_075
semnasnet_100 seresnet18 seresnet33ts seresnet50 seresnext26d_32x4d seresnext50_32x4d skresnet18 skresnet34 skresnext50_32x4d
spnasnet_100 starnet_s1 tf_efficientnet_b0 tf_efficientnet_cc_b0_4e tf_efficientnet_es tf_efficientnet_lite0 tf_efficientnetv2_b0
tf_efficientnetv2_s tf_mixnet_s tf_mobilenetv3_large_075 tf_mobilenetv3_small_minimal_100 tinynet_a tinynet_c tinynet_e tresnet_m
tresnet_l vgg11 vgg13_bn vgg16 wide_resnet50_2 xception41 xception41p xception65 xcit_nano_12_p16_224
""".split()


def initialise(module, size):
    """Weights as the library draws them, what it leaves at 0 or 1 (biases, scales) moved a little, and statistics that
    fit: activations as large as in a trained network, in which a mistake would show."""
    import torch
    torch.manual_seed(0)
    images = torch.randn(4, 3, *size) + torch.nn.functional.interpolate(torch.randn(4, 3, 4, 4), size, mode="bilinear")
    norms = [layer for layer in module.modules()
             if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None]
    module.eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1 and parameter.numel() > 1 and parameter.max() == parameter.min():
                parameter += 0.2 * torch.randn_like(parameter)
        for layer in norms:
            layer.train()
            layer.momentum = None  # the mean over all batches, of which there is one
            layer.reset_running_stats()
        module(images)
        for layer in norms:
            layer.eval()
            layer.running_mean += 0.1 * layer.running_var.sqrt() * torch.randn_like(layer.running_mean)
            layer.running_var *= torch.empty_like(layer.running_var).uniform_(0.8, 1.25)
            layer.running_var += 0.01 * layer.running_var.mean()
    return module


def sizes_of(module):
    """[(height, width)] to try: the common one, and that which the network says of itself."""
    own = getattr(module, "default_cfg", {}).get("input_size", (3, 224, 224))[1:]
    return [(SIZE, SIZE), tuple(own)]


def module_of(library, name):
    if library == "timm":
        import timm
        try:
            return timm.create_model(name, num_classes=10, img_size=SIZE)
        except TypeError:  # most networks take any size
            return timm.create_model(name, num_classes=10)
    from torchvision import models
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, num_classes=10, **options)


def maps_of(path, image, small):
    """Whether the engine's maps are finite, and their largest distance from the oracle's, relative."""
    import agf
    import oracle
    import random_graphs
    found = {}
    try:
        with agf.Model(path) as model, model.session(methods=METHODS, threads=1) as session:
            chosen = int(np.argmax(session.run(image)))
            for method in METHODS:
                try:
                    found[method] = np.asarray(session.explain(chosen, method=method))
                except agf.Error as problem:
                    found[method] = str(problem)
    except (agf.Error, OSError) as problem:
        return {"maps": str(problem)}
    refused = [f"{method}: {found.pop(method)}" for method in METHODS if isinstance(found[method], str)]
    infinite = [f"{method} is not finite" for method in found if not np.isfinite(found[method]).all()]
    said = "; ".join((infinite or ["finite"]) + refused)
    if infinite or not small:
        return {"maps": said}
    network = oracle.Network(path)
    exact = network.run(image)
    maps = {method: exact.explain(chosen, method) for method in found}
    worst = max(found, key=lambda method: float(oracle.relative_error(found[method], maps[method])))
    row = {"maps": said, "oracle": float(oracle.relative_error(found[worst], maps[worst]))}
    if not row["oracle"] <= ORDERS:  # is it the engine, or does the map itself hang on roundings?
        rounded = (random_graphs.Rounded(path, run).run(image).explain(chosen, worst) for run in range(1, 1 + ROUNDINGS))
        row["rounded"] = max(float(oracle.relative_error(np.asarray(each, float), maps[worst])) for each in rounded)
    return row


def distances_to_float64(path, module, image):
    """The distances of the engine's and of torch's logits from torch's in float64, relative."""
    import agf
    import torch
    batch = torch.from_numpy(image[None])
    with torch.no_grad():
        single, exact = module(batch)[0].numpy(), copy.deepcopy(module).double()(batch.double())[0].numpy()
    with agf.Model(path) as model, model.session(threads=1) as session:
        logits = np.asarray(session.run(image, explain=False))
    return [float(np.linalg.norm(each - exact) / np.linalg.norm(exact)) for each in (logits, single)]


def distance_of(checked):
    """The figure in what the converter says of its check; NaN where there is none."""
    return float(checked.rsplit(" to ", 1)[-1].split()[0]) if checked.startswith("checked") else math.nan


def times_of(path, module, size, folder):
    """Milliseconds on one thread: the engine's forward pass, that and one class, ONNX Runtime's forward pass.

    They take turns, and what counts is the processor's time, not the clock's: others may use the machine.
    """
    import agf
    import onnxruntime
    import torch
    image = np.random.RandomState(1).standard_normal((3, *size)).astype(np.float32)
    exported = os.path.join(folder, "net.onnx")
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        torch.onnx.export(module, (torch.from_numpy(image[None]),), exported, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    runtime = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    name = runtime.get_inputs()[0].name

    def timed(run):
        began = time.process_time()
        run()
        return time.process_time() - began

    with agf.Model(path) as model, model.session(threads=1) as session:
        def explained():
            session.run(image)
            session.explain()
        runs = (lambda: session.run(image, explain=False), explained, lambda: runtime.run(None, {name: image[None]}))
        rounds = [[timed(run) for run in runs] for _ in range(1 + ROUNDS)][1:]  # the first one fills caches and arenas
    return [round(1e3 * min(each), 2) for each in zip(*rounds)]


def try_network(library, name):
    """The row of one network, as a dict."""
    import torch
    from agf_convert import ConvertError, read_module
    from agf_convert.api import network_of, write_network
    began = time.monotonic()
    row = {"library": library, "name": name}
    torch.manual_seed(0)  # the weights
    try:
        module = module_of(library, name)
        for size in sizes_of(module):
            try:
                with torch.no_grad():
                    module.eval()(torch.zeros(1, 3, *size))
                break
            except Exception:  # the network's own, where it does not take this size
                continue
        initialise(module, size)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        row.update(size=size, parameters=parameters)
        imported = read_module(module, (3, *size))
        network = network_of(imported, name, library, [], None)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "net.agf")
            file, checked = write_network(network, path, imported=imported)
            row.update(format=file.version, nodes=len(network.nodes), checked=checked, maps="not made: too large")
            image = np.random.RandomState(1).standard_normal((3, *size)).astype(np.float32)
            if distance_of(checked) > WANTED:
                row["float64"] = distances_to_float64(path, module, image)
            if parameters <= MOST_PARAMETERS:
                row.update(maps_of(path, image, parameters <= SMALL))
                try:
                    row["times"] = times_of(path, module, size, folder)
                except Exception as problem:  # the exporter's or ONNX Runtime's, which do not take all that torch does
                    row["untimed"] = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
    except ConvertError as problem:
        row["refused"] = str(problem)
    except Exception as problem:  # the library's own, for a network that it cannot make
        row["refused"] = f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"
    row["seconds"] = round(time.monotonic() - began, 1)
    return row


def parameters_of(library, name):
    """How many parameters a network has, without the memory for them; infinitely many where it cannot be made so."""
    import torch
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in module_of(library, name).parameters())
    except Exception:  # the network's own
        return math.inf


def smallest_first(names, path):
    """The names by their networks' sizes, which are kept in the file path: it takes minutes to find them."""
    sizes = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            sizes = {(library, name): size for library, name, size in json.load(f)}
    else:
        sizes = {key: parameters_of(*key) for key in names}
        with open(path, "w", encoding="utf-8") as f:
            json.dump([[*key, size] for key, size in sizes.items()], f)
    return sorted(names, key=lambda key: sizes.get(key, math.inf))


def machine():
    """The processor's name."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def summary_of(rows):
    """A sentence on the times of all networks that have any."""
    timed = np.array([row["times"] for row in rows if "times" in row])
    if not len(timed):
        return []
    forward, one_class = np.median(timed[:, :2] / timed[:, 2:], axis=0)
    return [f"Over the {len(timed)} networks with times, a forward pass takes {forward:.2f} times as long as ONNX Runtime's (median), "
            f"that and a", f"map of one class {one_class:.2f} times.", ""]


def table(rows):
    """The Markdown page."""
    from agf_convert.frontend import NO_ATTENTION
    lines = ["# Networks that convert", "",
             f"Made by tests/networks.py. Random weights, pictures of {SIZE} x {SIZE} pixels where the network takes them. Logits: the",
             f"distance of the engine's from torch's for one random tensor, relative; where it is more than {WANTED:g}, in brackets the",
             "distances of the engine's and of torch's from torch's own in float64 for another: such a network magnifies any rounding.",
             f"Maps: whether agf, agf_a and agf_lc of the predicted class are finite, for networks of up to {MOST_PARAMETERS / 1e6:g}",
             f"million parameters. Oracle: their largest distance from float64's, relative, for networks of up to {SMALL / 1e6:g} million;",
             f"two correct float32 orders differ by up to {ORDERS:g} where a ReLU's input lies near 0 (agf-spec.md); where it is more,",
             f"in brackets the largest distance of {ROUNDINGS} float32 runs of the oracle in which every operation is rounded at random:",
             "how far a correct program may be off.",
             f"ONNX Runtime: its forward pass, milliseconds of the processor on one thread, best of {ROUNDS}; forward, a",
             "class: how many times that the engine's forward pass takes, and this with a map of agf. The three took turns.",
             f"{datetime.date.today()}, {machine()}.", "", *summary_of(rows)]
    for library in ("torchvision", "timm"):
        mine = [row for row in rows if row["library"] == library]
        attention = [row["name"] for row in mine if NO_ATTENTION in row.get("refused", "")]
        others = [row for row in mine if row["name"] not in attention]
        good = sum("refused" not in row for row in others)
        lines += [f"## {library}: {good} of {len(others)}", ""]
        if attention:
            lines += [f"Not counted, refused for their {NO_ATTENTION}: {', '.join(attention)}.", ""]
        lines += ["| network | size | million parameters | format | nodes | logits | maps | oracle | ONNX Runtime | forward | a class |",
                  "| --- " * 11 + "|"]
        for row in others:
            size = "x".join(map(str, row.get("size", "-")))
            millions = f"{row['parameters'] / 1e6:.1f}" if "parameters" in row else "-"
            start = f"| {row['name']} | {size} | {millions} | "
            if "refused" in row:
                lines.append(start + f"- | - | refused: {row['refused'].replace('|', '/')} |" + " - |" * 5)
            else:
                off = distance_of(row["checked"])
                check = row["checked"] if math.isnan(off) else f"{off:.0e}"
                check += " ({:.0e}, {:.0e})".format(*row["float64"]) if "float64" in row else ""
                distance = f"{row['oracle']:.0e}" if "oracle" in row else "-"
                distance += f" ({row['rounded']:.0e})" if "rounded" in row else ""
                times = ["-"] * 3
                if "times" in row:
                    forward, one_class, runtime = row["times"]
                    times = [f"{runtime:.1f} ms", f"{forward / runtime:.2f}", f"{one_class / runtime:.2f}"]
                elif "untimed" in row:
                    times[0] = "does not take it"
                lines.append(start + f"{row['format']} | {row['nodes']} | {check} | {row.get('maps', '-')} | {distance} | " +
                             " | ".join(times) + " |")
        lines.append("")
    return "\n".join(lines)


def listed():
    from torchvision import models
    return [("torchvision", name) for name in models.list_models(module=models)] + [("timm", name) for name in TIMM]


def main():
    survey(__doc__.splitlines()[0], "networks", listed, lambda row: (row["library"], row["name"]), try_network,
           lambda row: row.get("refused") or row["checked"], table, lambda keys, results: smallest_first(keys, results + ".sizes"))


if __name__ == "__main__":
    main()
