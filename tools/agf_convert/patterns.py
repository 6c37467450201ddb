"""Normalisations that a graph spells out in arithmetic, recognised before its parts are converted.

A front end hands in a view of its graph: for a node `op(node)` is add, sub, mul, div, pow, mean, sqrt, rsqrt, norm2
(the L2 norm), multiply_add (torch's addcmul) or anything else; `arguments(node)` are nodes and constants;
`constant(argument)` is a NumPy array, or None for what depends on the image; `axes(node)` those of a mean or norm2 that
keeps its dimensions, else None. Nodes are compared by ==.
"""
import numpy as np


def number(view, argument):
    """A constant of one number, else None."""
    array = view.constant(argument)
    return float(np.ravel(array)[0]) if array is not None and np.size(array) == 1 else None


def with_number(view, node, op):
    """(the argument that is no constant, the number) of a binary op on a tensor and a number, else None."""
    if view.op(node) != op:
        return None
    for x, other in (view.arguments(node)[:2], view.arguments(node)[1::-1]):
        if view.constant(x) is None and number(view, other) is not None:
            return x, number(view, other)
    return None


def layer_norm(view, end):
    """(x, axes, eps) where `end` is (x - mean) / sqrt(mean of (x - mean)^2 + eps), both means over `axes`; else
    None."""
    if view.op(end) not in ("div", "mul") or any(view.constant(argument) is not None for argument in view.arguments(end)):
        return None
    orders = [view.arguments(end)] + ([view.arguments(end)[::-1]] if view.op(end) == "mul" else [])
    for difference, root in orders:
        inner = root_of(view, root, inverse=view.op(end) == "mul")
        shifted = inner is not None and with_number(view, inner, "add")
        centred = minus_mean(view, difference)
        if not shifted or centred is None or view.op(shifted[0]) != "mean":
            continue
        variance, eps = shifted
        if view.axes(variance) == centred[1] and is_square(view, view.arguments(variance)[0], centred) and eps > 0:
            return (*centred, eps)
    return None


def root_of(view, node, inverse):
    """What a node is the square root of (inverse: one over it), else None."""
    if view.op(node) == ("rsqrt" if inverse else "sqrt"):
        return view.arguments(node)[0]
    power = with_number(view, node, "pow")
    return power[0] if power and power[1] == (-0.5 if inverse else 0.5) else None


def minus_mean(view, node):
    """(x, axes) of x - mean of x, else None."""
    if view.op(node) != "sub":
        return None
    x, mean = view.arguments(node)[:2]
    if view.constant(mean) is None and view.op(mean) == "mean" and view.arguments(mean)[0] == x and view.axes(mean):
        return x, view.axes(mean)
    return None


def is_square(view, node, centred):
    """Whether a node is the square of x - mean of x, of the same one or of one computed again."""
    if view.op(node) == "mul":
        parts = view.arguments(node)[:2]
        return all(view.constant(part) is None and minus_mean(view, part) == centred for part in parts)
    power = with_number(view, node, "pow")
    return bool(power) and power[1] == 2 and minus_mean(view, power[0]) == centred


def response_norm(view, end):
    """(x, axes, over, eps, gamma, beta) where `end` is x + gamma * (x * n) + beta, n the L2 norms over `axes` divided
    by their mean over the axis `over` and eps (ConvNeXt V2); gamma and beta broadcast against x. Else None."""
    if view.op(end) != "add":
        return None
    for x, rest in (view.arguments(end)[:2], view.arguments(end)[1::-1]):
        if view.constant(x) is not None or view.constant(rest) is not None:
            continue
        parts = scaled_and_shifted(view, rest)
        product = parts and parts[0]
        if not parts or view.op(product) != "mul":
            continue
        for signal, ratio in (view.arguments(product)[:2], view.arguments(product)[1::-1]):
            if signal != x or view.constant(ratio) is not None or view.op(ratio) != "div":
                continue
            length, total = view.arguments(ratio)[:2]
            shifted = view.constant(total) is None and with_number(view, total, "add")
            if shifted and view.op(length) == "norm2" and view.arguments(length)[0] == x and view.axes(length) and \
                    view.op(shifted[0]) == "mean" and view.arguments(shifted[0])[0] == length and \
                    len(view.axes(shifted[0]) or ()) == 1 and shifted[1] > 0:
                return x, view.axes(length), view.axes(shifted[0])[0], shifted[1], parts[1], parts[2]
    return None


def scaled_and_shifted(view, node):
    """(y, gamma, beta) of gamma * y + beta with constants gamma and beta, else None."""
    if view.op(node) == "multiply_add":
        beta, first, second = (view.constant(argument) for argument in view.arguments(node)[:3])
        if beta is None or (first is None) == (second is None):
            return None
        return view.arguments(node)[2 if second is None else 1], second if first is None else first, beta
    if view.op(node) != "add":
        return None
    for scaled, shift in (view.arguments(node)[:2], view.arguments(node)[1::-1]):
        if view.constant(shift) is None or view.constant(scaled) is not None or view.op(scaled) != "mul":
            continue
        for y, scale in (view.arguments(scaled)[:2], view.arguments(scaled)[1::-1]):
            if view.constant(scale) is not None and view.constant(y) is None:
                return y, view.constant(scale), view.constant(shift)
    return None


def find(view, node):
    """(what makes it: a function of the Builder and the Value of x, x) where a known normalisation ends in `node`, else
    None."""
    found = layer_norm(view, node)
    if found is not None:
        x, axes, eps = found
        return (lambda b, value: b.normalise(value, axes, eps)), x
    found = response_norm(view, node)
    if found is not None:
        x, *rest = found
        return (lambda b, value: b.response_norm(value, *rest)), x
    return None
