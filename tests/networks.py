#!/usr/bin/env python3
"""Makes tests/networks.md: which of torchvision's and timm's classifiers convert, how exactly, and whether they
explain.

    python3 tests/networks.py [-k TEXT] [--results FILE]     about an hour for all; what FILE holds is not run again

Every network gets random weights and statistics. Logits are compared with torch's by the converter itself; maps of agf,
agf_a and agf_lc by the engine must be finite. Needs torch, torchvision, timm and build/libagf.so.
"""
import argparse
import json
import os
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))

SIZE = 96  # small enough for all of them in an hour, large enough for five halvings
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


def randomise(module):
    """Statistics and biases in which a mistake would show."""
    import torch
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
    return module.eval()


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


def finite_maps(path, image):
    """Whether the engine's maps are finite; a word on it."""
    import agf
    try:
        with agf.Model(path) as model, model.session(methods=("agf", "agf_a", "agf_lc")) as session:
            session.run(image)
            for method in ("agf", "agf_a", "agf_lc"):
                if not np.isfinite(session.explain(method=method)).all():
                    return f"{method} is not finite"
    except (agf.Error, OSError) as problem:
        return str(problem)
    return "finite"


def try_network(library, name):
    """The row of one network, as a dict."""
    from agf_convert import ConvertError, read_module
    from agf_convert.api import network_of, write_network
    began = time.monotonic()
    row = {"library": library, "name": name}
    try:
        module = randomise(module_of(library, name))
        imported = read_module(module, (3, SIZE, SIZE))
        network = network_of(imported, name, library, [], None)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "net.agf")
            file, checked = write_network(network, path, imported=imported)
            row.update(format=file.version, nodes=len(network.nodes), checked=checked,
                       maps=finite_maps(path, np.random.RandomState(1).standard_normal((3, SIZE, SIZE)).astype(np.float32)))
    except ConvertError as problem:
        row["refused"] = str(problem)
    except Exception as problem:  # the library's own, for a network that it cannot make at this size
        row["refused"] = f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"
    row["seconds"] = round(time.monotonic() - began, 1)
    return row


def table(rows):
    """The Markdown page."""
    lines = ["# Networks that convert", "",
             f"Made by tests/networks.py: random weights, {SIZE} x {SIZE} pixels. The check is the converter's own: logits of the file and",
             "of torch for a random tensor, relative.", ""]
    for library in ("torchvision", "timm"):
        mine = [row for row in rows if row["library"] == library]
        good = sum("refused" not in row for row in mine)
        lines += [f"## {library}: {good} of {len(mine)}", "", "| network | format | nodes | check | maps |",
                  "| --- | --- | --- | --- | --- |"]
        for row in mine:
            if "refused" in row:
                lines.append(f"| {row['name']} | - | - | refused: {row['refused'].replace('|', '/')} | - |")
            else:
                check = row["checked"].rsplit(" to ", 1)[-1].split()[0] if row["checked"].startswith("checked") else row["checked"]
                lines.append(f"| {row['name']} | {row['format']} | {row['nodes']} | {check} | {row['maps']} |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", metavar="TEXT", default="", help="networks whose name holds TEXT")
    parser.add_argument("--results", default=os.path.join(ROOT, "build", "networks.jsonl"), help="what has been tried already")
    parser.add_argument("--out", default=os.path.join(ROOT, "tests", "networks.md"))
    arguments = parser.parse_args()
    from torchvision import models
    names = [("torchvision", name) for name in models.list_models(module=models)] + [("timm", name) for name in TIMM]
    known = {}
    if os.path.exists(arguments.results):
        with open(arguments.results, encoding="utf-8") as f:
            known = {(row["library"], row["name"]): row for row in map(json.loads, f)}
    for library, name in names:
        if arguments.k in name and (library, name) not in known:
            row = known[library, name] = try_network(library, name)
            with open(arguments.results, "a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")
            print(f"{library} {name}: {row.get('refused') or row['checked']} ({row['seconds']} s)", flush=True)
    with open(arguments.out, "w", encoding="utf-8") as f:
        f.write(table([known[key] for key in names if key in known]))


if __name__ == "__main__":
    main()
