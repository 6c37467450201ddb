#!/usr/bin/env python3
"""A folder of pictures: the program over all of it, beside pytorch-grad-cam over the same pictures in batches.

    bench/folder.py [NETWORK] [--pictures N] [--batch N] [--rounds N] [--threads N] [--folder DIR]

Prints, as medians over rounds in which each runs once: pictures a second of each, and the share of the cores' time that
the engine works in, which is the time that one picture takes it on one thread (`agf bench`), times the pictures, of
the wall time times the threads. The program runs twice: as its users do first, with AGF and figures of 448 pixels,
which is more work than theirs; then with what pytorch-grad-cam does, Grad-CAM and an overlay, as high as theirs and
wider. Reading, preparing, explaining and writing count for both, imports and the reading of weights do not count for
pytorch-grad-cam. Wall times: it needs a machine that does nothing else.

NETWORK: one of bench/ratios.py (MobileNetV2), with random weights. Pictures: made of noise of every scale. Needs
grad-cam, torch and Pillow: `sh tests/environment.sh torch eval`.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import ratios

ROOT = ratios.ROOT
AGF = os.path.join(ROOT, "build", "agf")
WIDTH, HEIGHT, SEEN = 640, 480, 224  # of a picture; of its middle, as the network sees it


def make_pictures(folder, count):
    """JPEG files of about 50 KB."""
    from PIL import Image
    os.makedirs(folder, exist_ok=True)
    for index in range(count):
        path = os.path.join(folder, f"{index:04}.jpg")
        if os.path.exists(path):
            continue
        random, total = np.random.RandomState(index), np.zeros((HEIGHT, WIDTH, 3))
        for cells in (4, 16, 64):
            noise = Image.fromarray(random.randint(0, 256, (3 * cells // 4, cells, 3), np.uint8))
            total += np.asarray(noise.resize((WIDTH, HEIGHT), Image.BICUBIC), float) / 3
        Image.fromarray(total.round().astype(np.uint8)).save(path, quality=90)


def paths_of(folder):
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]


def gradcam(name, folder, out, batch, threads):
    """A function that explains the folder's pictures with pytorch-grad-cam, as its users write it."""
    import peers
    import torch
    import torchvision
    from PIL import Image
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image
    library, own = ratios.NETWORKS[name]
    if library == "timm":
        import timm
        network = timm.create_model(own)
    else:
        network = torchvision.models.get_model(own, weights=None)
    network.eval()
    torch.set_num_threads(threads)
    cam = GradCAM(model=network, target_layers=[peers.last_convolution(network)])
    prepare = torchvision.transforms.Compose([torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(SEEN),
                                              torchvision.transforms.ToTensor()])
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def run():
        paths = paths_of(folder)
        for first in range(0, len(paths), batch):
            chosen = paths[first:first + batch]
            pictures = [prepare(Image.open(path).convert("RGB")) for path in chosen]
            maps = cam(input_tensor=torch.stack([normalise(picture) for picture in pictures]), targets=None)
            for path, picture, found in zip(chosen, pictures, maps, strict=True):
                shown = show_cam_on_image(picture.permute(1, 2, 0).numpy(), found, use_rgb=True)
                Image.fromarray(shown).save(os.path.join(out, os.path.basename(path)[:-4] + ".png"))
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("network", nargs="?", default="MobileNetV2", choices=ratios.NETWORKS, metavar="NETWORK")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", default=os.path.join(ROOT, "build", "bench", "ratios"))
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    model = ratios.make(options.network, options.folder)[0]
    pictures = os.path.join(options.folder, f"pictures-{options.pictures}")
    make_pictures(pictures, options.pictures)
    outs = [os.path.join(options.folder, name) for name in ("maps", "alike", "grad-cam")]
    theirs = gradcam(options.network, pictures, outs[2], options.batch, options.threads)

    def agf(out, *how):
        done = subprocess.run([AGF, "explain", model, pictures, "-o", out, "-q", "--threads", str(options.threads), *how])
        if done.returncode:
            sys.exit(f"folder.py: agf explain ends with {done.returncode}")

    def ours():
        agf(outs[0])

    def alike():
        agf(outs[1], "-m", "gradcam", "--overlay", "--layout", "bare", "--colour", "--cmap", "jet", "--width",
            str(-(-WIDTH * SEEN // HEIGHT)))

    seconds, shares = {ours: [], alike: [], theirs: []}, []
    for _ in range(options.rounds):
        for run, out in zip(seconds, outs, strict=True):
            shutil.rmtree(out, ignore_errors=True)
            os.makedirs(out)
            began = time.perf_counter()
            run()
            seconds[run].append(time.perf_counter() - began)
        said = subprocess.run([AGF, "bench", model, "--threads", "1", "--runs", "9", "--json"], check=True, capture_output=True)
        engine = 1e-3 * json.loads(said.stdout)["explain_ms"] * options.pictures
        shares.append(engine / (options.threads * seconds[ours][-1]))
    rates = [options.pictures / float(np.median(runs)) for runs in seconds.values()]
    print(f"{options.network}, {options.pictures} pictures, {options.threads} threads, medians of {options.rounds} rounds")
    print(f"agf explain DIR: {rates[0]:.1f} pictures a second, {np.median(shares):.2f} of the cores' time in the engine")
    print(f"agf explain DIR -m gradcam, overlays: {rates[1]:.1f} pictures a second")
    print(f"pytorch-grad-cam, batches of {options.batch}: {rates[2]:.1f} pictures a second; "
          f"agf / it: {rates[0] / rates[2]:.2f}, doing the same {rates[1] / rates[2]:.2f}")


if __name__ == "__main__":
    main()
