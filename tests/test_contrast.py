#!/usr/bin/env python3
"""One class against another, LayerCAM, HiResCAM and lrp_lc: the golden maps against a second implementation.

The maps that tests/make_extra.py --add has written are the oracle's. Here they are made again by PyTorch in float64:
gradients by its own differentiation, LRP's rules as vector-Jacobian products, agf_lc's seed as the gradient of the
formula that tests/agf-spec.md states, agf by bench/torch_agf.py. What is shared with the oracle is the reading of model
files, SmoothGrad's noise, and which sums and pools may cancel."""
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools"), str(TESTS.parent / "bench")]
import harness                                                              # noqa: E402
from harness import check                                                   # noqa: E402

harness.needs("torch", "scipy")
import torch                                                                # noqa: E402
from scipy import ndimage                                                   # noqa: E402
from torch.nn import functional as F                                        # noqa: E402

import agf as agf_engine                                                    # noqa: E402
import agf_convert                                                          # noqa: E402
import oracle                                                               # noqa: E402
import torch_agf                                                            # noqa: E402
from random_graphs import TORCH, tensor                                     # noqa: E402
from to_converter import converter_nodes                                    # noqa: E402

torch.set_num_threads(1)

# Two float64 implementations of some thousand operations; where they divide by sums near 0 the worst was 3e-9.
EXACT = 1e-7
ADDED = ("layercam", "hirescam", "lrp_lc")


def cases():
    """(folder, oracle's network after its run, the same network's nodes and image) of every golden case with maps."""
    for root in ("golden", "golden-extra"):
        for name in (TESTS / root / "cases.txt").read_text().split():
            folder = TESTS / root / name
            if (folder / "against.txt").exists():
                stored = folder / f"{name}.agf" if root == "golden-extra" else oracle.read_case(folder)
                yield folder, oracle.Network(stored).run(np.load(folder / "input.npy"))


def lines(path):
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def run(nodes, image, last=None):
    """Every tensor's value, with PyTorch's graph behind it."""
    values = [tensor(image)[None].requires_grad_()]
    for node in nodes[:last]:
        values.append(TORCH[node.op](node, *[values[i] for i in node.inputs]))
    return values


def score(values, t, u):
    z = values[-1].flatten()
    return z[t] if u is None else z[t] - z[u]


def gradient_at(nodes, image, t, u, at):
    """(value, gradient) of tensor number `at`."""
    values = run(nodes, image)
    g, = torch.autograd.grad(score(values, t, u), values[at])
    return values[at].detach()[0], g[0]


def resized(heat, image):
    size = image.shape[1:]
    return F.interpolate(heat[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def of_gradients(network, t, u, method, steps):
    image = network.values[0]
    if method == "integrated_gradients":
        others = [image * ((k + 0.5) / steps) for k in range(steps)]
    elif method == "smoothgrad":
        deviation = 0.15 * (image.max() - image.min())
        others = [image + deviation * oracle.standard_normal(0, n, image.shape) for n in range(steps)]
    else:
        others = [image]
    g = sum(gradient_at(network.nodes, other, t, u, 0)[1] for other in others) / len(others)
    return (g.abs() if method in ("gradient", "smoothgrad") else tensor(image) * g).sum(0)


def of_layer(network, t, u, method, layer):
    names = [network.name(i) for i in range(len(network.values))]
    at = network.gradcam_layer() if layer is None else names.index(layer)
    x, g = gradient_at(network.nodes, network.values[0], t, u, at)
    weights = {"gradcam": g.mean((1, 2), keepdim=True), "layercam": g.clamp(min=0), "hirescam": g}[method]
    heat = F.relu((x * weights).sum(0))
    return resized(heat / heat.max() if heat.max() > 0 else heat, network.values[0])


def fullgrad(network, t, u):
    def added(v):
        v = v.reshape((*v.shape, 1, 1)[:3]).abs()
        a = v - v.min()
        return resized((a / a.max() if a.max() > 0 else a).sum(0), network.values[0])

    values = run(network.nodes, network.values[0])
    wanted = {0: None}
    for n, node in enumerate(network.nodes):
        if node.op in ("conv", "batchnorm") and node.b is not None:
            wanted[n + 1] = tensor(node.b)
    found = torch.autograd.grad(score(values, t, u), [values[i] for i in wanted], allow_unused=True)
    total = 0
    for bias, g in zip(wanted.values(), found):
        if g is not None:
            factor = values[0].detach()[0] if bias is None else bias.reshape(-1, *[1] * (g.ndim - 2))
            total = total + added(factor * g[0])
    return total


def local_seed(network, t, u):
    """(tensor number, X, gradient of mean_h T softplus(L_t - log sum_j exp L_j) in X) by differentiating that."""
    pool = network.pooled_head()
    at = network.nodes[pool].inputs[0]
    z = tensor(network.logits)
    others = [j for j in range(len(z)) if j != t] if u is None else [u]
    T = (z[others] - z[t]).abs().max()
    X = tensor(network.values[at]).requires_grad_()
    total = 0
    for h in range(X.shape[1]):
        for w in range(X.shape[2]):
            values = [None] * (pool + 1) + [X[None, :, h:h + 1, w:w + 1]]
            for node in network.nodes[pool + 1:]:
                values.append(TORCH[node.op](node, *[values[i] for i in node.inputs]))
            L = values[-1].flatten() / T
            total = total + T * F.softplus(L[t] - torch.logsumexp(L[others], 0), threshold=50)
    g, = torch.autograd.grad(total / X[0].numel(), X)
    return at, X.detach(), g


def pulled(function, inputs, R):
    """x_i * (J_i^T sdiv(R, y)) of y = function(*inputs), with the 1e-9 of sdiv."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = function(*inputs)
    found = torch.autograd.grad(y, inputs, torch_agf.sdiv(R.reshape(y.shape), y.detach()), allow_unused=True)
    return [torch.zeros_like(x) if g is None else (x * g).detach() for x, g in zip(inputs, found)]


def apply(node, w, x):
    """conv or linear with the weights w, without a bias."""
    from dataclasses import replace
    return TORCH[node.op](replace(node, w=w.numpy(), b=None), x)


def lrp_node(node, xs, R):
    x = xs[0]
    if node.op in ("conv", "linear"):
        w = tensor(node.w)
        positive, negative = w.clamp(min=0), w.clamp(max=0)
        if node.op == "conv" and 0 in node.inputs:
            lo, hi = torch.full_like(x, x.min()), torch.full_like(x, x.max())
            return [sum(pulled(lambda x, lo, hi: apply(node, w, x) - apply(node, positive, lo) - apply(node, negative, hi),
                               [x, lo, hi], R))]
        parts = [pulled(lambda a, wi=wi: apply(node, wi, a), [a], R)[0]
                 for wi, a in ((positive, x.clamp(min=0)), (negative, x.clamp(max=0)))]
        # f's two quotients share nothing: each has its own sum below it
        return [parts[0] + parts[1]]
    if node.op in ("maxpool", "avgpool", "adaptive_avgpool", "global_avgpool", "global_maxpool", "add"):
        return pulled(lambda *a: TORCH[node.op](node, *a), [a.abs() if node.cancels else a for a in xs], R)
    if node.op == "mul":
        return [R, torch.zeros_like(xs[1])]
    if node.op in ("flatten", "concat", "slice", "shuffle", "pad", "resize"):
        xs = [x.detach().requires_grad_() for x in xs]
        y = TORCH[node.op](node, *xs)
        return list(torch.autograd.grad(y, xs, R.reshape(y.shape)))
    return [R]


def lrp_lc(network, t, u):
    at, X, g = local_seed(network, t, u)
    values = [value.detach() for value in run(network.nodes, network.values[0])]
    arriving = {at: [(X * g)[None]]}
    for i in range(at, -1, -1):
        if i not in arriving:
            continue
        parts = arriving[i]
        R = parts[0] if len(parts) == 1 else values[i] * sum(torch_agf.sdiv(part, values[i]) for part in parts)
        if i == 0:
            return R[0].sum(0)
        node = network.nodes[i - 1]
        for source, part in zip(node.inputs, lrp_node(node, [values[j] for j in node.inputs], R)):
            arriving.setdefault(source, []).append(part.reshape(values[source].shape))
    raise AssertionError("nothing arrived at the image")


def pair_seed(u):
    """The seed of class t against u, as torch_agf.seed has its own."""
    def seed(z, t):
        z = z.detach().requires_grad_()
        both = torch.stack([z[t], z[u]])
        p = torch.softmax(both / (both[0] - both[1]).abs().detach(), 0)[0]
        dz = torch.zeros_like(z)
        dz[t], dz[u] = (p * (1 - p)).detach(), -(p * (1 - p)).detach()
        return dz
    return seed


def agf(network, folder, t, u):
    """By bench/torch_agf.py; None where it does not make the ordinary map: it has the published rules alone."""
    image, own = network.values[0], torch_agf.seed
    try:
        other = torch_agf.AGF(agf_convert.Network(image.shape, converter_nodes(network.nodes)), dtype=torch.float64)
        if oracle.relative_error(other.explain(image, t).numpy(), np.load(folder / f"heat_{t}.npy")) > EXACT:
            return None
        torch_agf.seed = pair_seed(u)
        return other.explain(image, t)
    except (ValueError, RuntimeError, TypeError):
        return None
    finally:
        torch_agf.seed = own


def second(network, folder, method, t, u, steps, layer=None):
    """The map by PyTorch; None where this file has no rules for it."""
    if method == "agf":
        return agf(network, folder, t, u)
    if method in ("gradcam", "layercam", "hirescam"):
        return of_layer(network, t, u, method, layer)
    if method in ("gradient", "gradient_x_input", "smoothgrad", "integrated_gradients"):
        return of_gradients(network, t, u, method, steps)
    if method == "fullgrad":
        return fullgrad(network, t, u)
    return lrp_lc(network, t, u) if method == "lrp_lc" else None


def compare(folder, network, file, method, t, u, steps, layer=None):
    """1 if the golden map was compared."""
    found = second(network, folder, method, t, u, steps, layer)
    if found is None:
        return 0
    expected = np.load(folder / file)
    error = oracle.relative_error(found.detach().numpy(), expected)
    check(error <= EXACT, f"{folder.name}/{file}: off from PyTorch's by {error:.2g}")
    return 1


def test_golden_maps():
    compared = dict.fromkeys(("agf", "gradient", "gradient_x_input", "smoothgrad", "integrated_gradients", "fullgrad",
                              "gradcam", *ADDED), 0)
    for folder, network in cases():
        for file, method, t, steps, _ in lines(folder / "methods.txt"):
            if method in ADDED:
                compared[method] += compare(folder, network, file, method, int(t), None, int(steps))
        for file, method, t, u, steps, _ in lines(folder / "against.txt"):
            if method in compared:
                compared[method] += compare(folder, network, file, method, int(t), int(u), int(steps))
        for file, method, layer, t, _ in lines(folder / "layers.txt"):
            compare(folder, network, file, method, int(t), None, 0, layer)
    print("  compared: " + ", ".join(f"{n} of {method}" for method, n in compared.items()))
    check(min(compared.values()) >= 5, f"too few maps: {compared}")


def test_seeds_of_pairs():
    """agf_lc against u is the gradient of its formula with u alone; agf's limit where two logits are equal."""
    for folder, network in cases():
        try:
            network.pooled_head()
        except oracle.OracleError:
            continue
        t, u = network.ranked(0), network.ranked(1)
        for other in (None, u):
            at, X, g = local_seed(network, t, other)
            found = network._local_seed(t, other)
            check(found[0] == at, f"{folder.name}: X")
            error = oracle.relative_error(found[2], g.numpy())
            check(error <= EXACT, f"{folder.name}: agf_lc's seed off by {error:.2g}")
    z = np.array([0.3, 2.0, -1.0])
    near = [oracle.pair_gradient(z + np.array([0, 1.7, 0]) * (x - 1), 0, 1) for x in (0, 1e-9)]
    check(np.allclose(near[0], near[1], 1e-15, 0), f"the limit: {near}")
    close = torch.softmax(torch.tensor([1.0, 0.0], dtype=torch.float64), 0)[0].item()
    check(abs(oracle.pair_gradient(z, 1, 0)[1] - close * (1 - close)) <= 1e-16, "P(1-P)")


def test_smoothing():
    """The oracle's blur is SciPy's, of any size of map and kernel."""
    random = np.random.RandomState(0)
    for shape, sigma in (((9, 14), 1.5), ((3, 40), 6.0), ((1, 1), 2.0), ((20, 20), 0.3), ((33, 5), 0.1)):
        heat = random.standard_normal(shape)
        found, expected = oracle.smoothed(heat, sigma), ndimage.gaussian_filter(heat, sigma, mode="reflect", truncate=4.0)
        check(oracle.relative_error(found, expected) <= 1e-13, f"{shape}, sigma {sigma}")
        check(abs(found.sum() - heat.sum()) <= 1e-12 * np.abs(heat).sum(), f"{shape}, sigma {sigma}: the sum")


def test_equal_logits():
    """Two classes whose logits are equal to the bit: agf has a limit there, agf_lc and lrp_lc say they have none."""
    if harness.missing_library(agf_engine):
        raise harness.Skip(harness.missing_library(agf_engine))
    random = np.random.RandomState(1)

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32)

    nodes = [agf_convert.Node("conv", "c", [agf_convert.IMAGE], kernel=(3, 3), stride=(1, 1), pad=(1,) * 4,
                              dilation=(1, 1), groups=1, weights=normal(6, 3, 3, 3)),
             agf_convert.Node("relu", "r", ["c"]), agf_convert.Node("global_avgpool", "p", ["r"]),
             agf_convert.Node("flatten", "f", ["p"]), agf_convert.Node("linear", "l", ["f"], weights=normal(3, 6))]
    nodes[-1].weights[2] = nodes[-1].weights[0]
    agf_convert.ModelFile(agf_convert.Network((3, 9, 8), nodes)).write("equal.agf")
    image = normal(3, 9, 8)
    network = oracle.Network("equal.agf").run(image)
    with agf_engine.Model("equal.agf") as model, model.session(threads=1, methods=agf_engine.METHODS) as session:
        session.run(image)
        z = session.logits
        check(z[0] == z[2], f"logits {z}")
        for method in ("agf_lc", "lrp_lc"):
            for make in (session.explain, network.explain):
                try:
                    make(0, method=method, against=2)
                except oracle.OracleError:
                    continue
                except agf_engine.Error as problem:
                    check(problem.status == "AGF_ERR_NUMERIC" and "class 0" in str(problem) and "class 2" in str(problem), problem)
                    continue
                check(False, f"{method} of two equal logits")
        # The same two rows: nothing speaks for one rather than the other, and agf has no map to show either.
        check(not session.explain(0, method="gradient_x_input", against=2).any(), "the gradient of a difference of 0")
        try:
            session.explain(0, against=2)
            check(False, "agf of two equal rows")
        except agf_engine.Error as problem:
            check("no support" in str(problem), problem)
    # Equal logits of different rows: the bias makes up for what the weights do.
    nodes[-1].weights[2] = normal(6)
    nodes[-1].bias = np.zeros(3, np.float32)
    agf_convert.ModelFile(agf_convert.Network((3, 9, 8), nodes)).write("level.agf")
    network = oracle.Network("level.agf").run(image)
    dz = oracle.pair_gradient(network.logits, 0, 2)
    level = network.logits.copy()
    level[2] = level[0]
    check(np.array_equal(oracle.pair_gradient(level, 0, 2), np.abs(dz) * np.sign([1, 0, -1])), "the limit is the value beside it")
    with agf_engine.Model("level.agf") as model, model.session(threads=1) as session:
        session.run(image)
        heat, expected = session.explain(0, against=2)[0], network.explain(0, against=2)
        # agf-spec.md, "How exact a float32 map can be", of a float32 run that is off by 1e-6 here.
        check(oracle.relative_error(heat, expected) <= 1e-5, "agf of a pair")


if __name__ == "__main__":
    sys.exit(harness.run_tests(dict(globals()), sys.argv[1:]))
