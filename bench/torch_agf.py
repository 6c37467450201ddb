"""Attribution Guided Factorization in PyTorch, written straight from its rules with torch's own convolutions.

    network = torch_agf.AGF(module)                 # a torch.nn.Module, or a Network of tools/agf_convert.py
    heat = network.explain(x, t)                    # x [C, H, W], class t -> [H, W]

For comparison only: this is what AGF costs, and how far its float32 maps move, as ordinary PyTorch code. Nothing is
fused and nothing is shared between the rules beyond what the rules themselves say. Names are the rules' own: cam is the
attribution of a tensor's elements, g the gradient of the seed's probability.
"""

import os
import sys

import torch
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
import agf_convert


def sdiv(a, b):
    """a / b where b is not 0, else 0, with the 1e-9 that is part of the result."""
    denominator = b + 1e-9
    denominator = torch.where(denominator == 0, torch.full_like(b, 1e-9), denominator)
    return torch.where(b == 0, torch.zeros_like(a), a / denominator)


def nz(t):
    return (t != 0).to(t.dtype)


def shift(c, r):
    """c + r with the total of c."""
    count = nz(c).sum()
    return c + r - (r.sum() / count if count > 0 else 0.0) * nz(c)


def factorised(q, phi):
    """F(q) of q [1, C, H, W]: how pixels fall to the positive and negative parts of phi [1, 1, H, W]; [1, 1, H, W]."""

    def mean_over(where):
        count = where.sum()
        return (q * where).sum((0, 2, 3)) / count if count > 0 else q.new_zeros(q.shape[1])

    r = torch.stack([mean_over((phi < 0).to(q.dtype)), mean_over((phi > 0).to(q.dtype))], 1)
    w = torch.linalg.solve(r.T @ r + torch.eye(2, dtype=q.dtype), r.T @ q.flatten(2)[0])
    return F.relu(F.relu(w[1]) - F.relu(w[0])).view(1, 1, *q.shape[2:])


def seed(z, t):
    """dz [K]: the gradient of p_t in the logits z [K]."""
    z = z.detach().requires_grad_(True)
    d = z - z[t]
    sigma = d.abs()[(d.abs() == d.abs().max()).nonzero()[0, 0]]
    p = torch.softmax(z[t] * torch.exp(-((d / sigma) ** 2) / 2), 0)
    return torch.autograd.grad(p[t], z)[0]


class AGF:
    """A network with its attribution.

    network: a Network of agf_convert.py whose flat flags are set, or a module for images [3, 224, 224].
    channels_last: torch's other memory format. dtype: torch.float32, or torch.float64 for a reference.
    """

    def __init__(self, network, channels_last=False, dtype=torch.float32):
        if isinstance(network, torch.nn.Module):
            nodes = agf_convert.read_module(network, (3, 224, 224)).finished.nodes
            agf_convert.mark_flat(nodes)
            network = agf_convert.Network((3, 224, 224), nodes)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.dtype = dtype
        self.nodes = self._used(network.nodes)
        self.by_name = {node.name: node for node in self.nodes}
        self.w = {node.name: self._tensor(node.weights) for node in self.nodes}
        self.b = {node.name: self._tensor(node.bias) for node in self.nodes}

    @staticmethod
    def _used(nodes):
        """Those that the logits depend on, up to the node that makes them."""
        nodes = list(nodes)
        while nodes[-1].op == "flatten":
            nodes.pop()
        wanted, used = {nodes[-1].name}, []
        for node in reversed(nodes):
            if node.name in wanted:
                used.append(node)
                wanted.update(node.inputs)
        return used[::-1]

    def _tensor(self, array):
        if array is None:
            return None
        tensor = torch.as_tensor(array, dtype=self.dtype)
        return tensor.contiguous(memory_format=self.format) if tensor.dim() == 4 else tensor

    @torch.no_grad()
    def forward(self, x):
        """{name: value} of every node and of "input", for x [C, H, W]."""
        values = {"input": self._tensor(x[None])}
        for node in self.nodes:
            values[node.name] = self._forward(node, [values[name] for name in node.inputs])
        return values

    def _forward(self, node, inputs):
        x, w, b = inputs[0], self.w[node.name], self.b[node.name]
        if node.op == "conv":
            return F.conv2d(x, w, b, **self._geometry(node))
        if node.op == "linear":
            return F.linear(x, w, b)
        if node.op == "batchnorm":
            return x * w.view(1, -1, 1, 1) + b.view(1, -1, 1, 1)
        if node.op == "relu":
            return F.relu(x)
        if node.op == "flatten":
            return x.flatten(1)
        if node.op == "add":
            return inputs[0] + inputs[1]
        if node.op == "concat":
            return torch.cat(inputs, 1)
        return self._pool(node)(x)

    def _geometry(self, node):
        if node.pad[:2] != node.pad[2:]:
            raise ValueError(f"{node.name}: padding that differs between two sides")
        return {"stride": node.stride, "padding": node.pad[:2], "dilation": node.dilation, "groups": node.groups}

    def _pool(self, node):
        if node.op == "maxpool":
            return lambda x: F.max_pool2d(x, node.kernel, node.stride, node.pad[:2], ceil_mode=node.ceil_mode)
        if node.op == "avgpool":
            return lambda x: F.avg_pool2d(
                x, node.kernel, node.stride, node.pad[:2], node.ceil_mode, node.count_include_pad
            )
        if node.op in ("adaptive_avgpool", "global_avgpool"):
            return lambda x: F.adaptive_avg_pool2d(x, node.kernel if node.op == "adaptive_avgpool" else 1)
        raise ValueError(f"{node.name}: no rule for {node.op}")

    def explain(self, x, t, values=None):
        """The map [H, W] of class t. values: what forward(x) returned, if it is at hand."""
        values = self.forward(x) if values is None else values
        last = self.nodes[-1]
        arriving = {name: [] for name in values}  # (cam, g) from each reader
        self._seed(last, values, t, arriving)
        for node in reversed(self.nodes[:-1]):
            cam, g = self._merged(values[node.name], arriving[node.name])
            with torch.no_grad():
                backward = self._backward(node, values, cam, g)
            for name, pair in zip(node.inputs, backward):
                arriving[name].append(pair)
        cam, _ = self._merged(values["input"], arriving["input"])
        return (cam / cam.max()).sum((0, 1))

    def _seed(self, last, values, t, arriving):
        x = values[last.inputs[0]]
        dz = seed(values[last.name].flatten(), t)
        if last.op == "linear":
            g = (dz @ self.w[last.name])[None]
        elif last.op == "global_avgpool":
            g = (dz / x[0, 0].numel()).view(1, -1, 1, 1).expand_as(x)
        else:
            raise ValueError(f"{last.name}: no seed at {last.op}")
        arriving[last.inputs[0]].append((x * g, g))

    @staticmethod
    def _merged(x, arriving):
        if len(arriving) == 1:
            return arriving[0]
        cam = x * sum(sdiv(cam, x) for cam, _ in arriving)
        return cam, (sum(g for _, g in arriving) if arriving[0][1] is not None else None)

    def _backward(self, node, values, cam, g):
        """[(cam, g)] at each input. g is None below a convolution of the image: nothing needs it there."""
        inputs, y = [values[name] for name in node.inputs], values[node.name]
        x = inputs[0]
        if node.op == "relu":
            return [(torch.where((x > 0) & (cam != 0), x * cam / (x + 1e-9), torch.zeros_like(x)), g * (x > 0))]
        if node.op == "batchnorm":
            return [(cam, g * self.w[node.name].view(1, -1, 1, 1))]
        if node.op == "flatten":
            return [(cam.view_as(x), g.view_as(x))]
        if node.op == "concat":
            parts = [part.shape[1] for part in inputs]
            return list(zip(cam.split(parts, 1), g.split(parts, 1)))
        if node.op == "add":
            s = sdiv(cam, y * nz(cam)) * nz(cam)
            return [(part * s, g) for part in inputs]
        if node.op == "linear":
            return [self._linear(node, values, cam, g)]
        if node.op == "conv":
            return [self._conv(node, x, cam, g)]
        return [(x * self._pool_adjoint(node, x, sdiv(cam, y * nz(cam))), self._pool_adjoint(node, x, g))]

    def _pool_adjoint(self, node, x, s):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self._pool(node)(x), x, s)[0]

    def _linear(self, node, values, cam, g):
        x, w = values[node.inputs[0]], self.w[node.name]
        g_in = g @ w
        c = x.abs() * (sdiv(cam, F.linear(x.abs(), w.abs()) * nz(cam)) @ w.abs())
        producer = self.by_name.get(node.inputs[0])
        if producer is not None and producer.op == "flatten":
            image = values[producer.inputs[0]].shape
            m = F.relu((x * g_in).view(image).mean(1, keepdim=True)).expand(image).reshape_as(c) * nz(c)
            c = shift(c, sdiv(m, m.max()))
        return c, g_in

    def _conv(self, node, x, cam, g):
        w, geometry = self.w[node.name], self._geometry(node)

        def conv(x, w):
            return F.conv2d(x, w, None, **geometry)

        def conv_adjoint(w, s):
            return conv2d_input(x.shape, w, s.contiguous(memory_format=self.format), **geometry)

        if node.inputs[0] == "input":
            low, high = x.min(), x.max()
            positive, negative = w.clamp(min=0), w.clamp(max=0)
            z = conv(x, w) - conv(torch.full_like(x, low), positive) - conv(torch.full_like(x, high), negative)
            s = sdiv(cam, z)
            cam = x * conv_adjoint(w, s) - low * conv_adjoint(positive, s) - high * conv_adjoint(negative, s)
            return cam, None
        mask = nz(cam)
        c = x.abs() * conv_adjoint(w.abs(), sdiv(cam, conv(x.abs(), w.abs()) * mask))
        g_in = conv_adjoint(w, g)
        if node.flat:
            return c, g_in
        g_masked = conv_adjoint(w, g * mask)
        m = F.relu((x * g_in).mean(1, keepdim=True))
        m = sdiv(m, m.max())
        phi = c.mean(1, keepdim=True)
        fx = factorised(torch.sigmoid(10 * sdiv(x, x.max())), phi)
        fdx = factorised(torch.sigmoid(10 * sdiv(g_masked, g_masked.max())), phi)
        a = conv_adjoint(w.abs(), sdiv(cam, conv(torch.ones_like(x), w.abs()) * mask))
        r = (sdiv((fx + m).expand_as(c), 1 + torch.exp(-c)) + fdx + a) * nz(c)
        return shift(c, r), g_in
