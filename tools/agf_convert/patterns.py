"""Normalisations that a graph spells out in arithmetic, recognised before its parts are converted.

A front end hands in a view of its graph: for a node `op(node)` is add, sub, mul, div, pow, square, difference2 (the
square of a difference), neg, mean, sqrt, rsqrt, reciprocal, norm2 (the L2 norm), multiply_add (torch's addcmul) or
anything else; `arguments(node)` are nodes and constants; `constant(argument)` is a NumPy array, or None for what
depends on the image; `axes(node)` those of a mean or norm2 that keeps its dimensions, else None. Nodes are compared
by ==.
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
        centred, found = minus_mean(view, difference), deviation(view, root, inverse=view.op(end) == "mul")
        if centred is not None and found is not None and found[:2] == centred:
            return found
    return None


def scaled_layer_norm(view, end):
    """(x, axes, eps, gamma, beta) where `end` is x * r - mean * r + beta, r = gamma / sqrt(variance + eps), as
    TensorFlow orders it; gamma and beta constants that broadcast against x. Else None."""
    if view.op(end) not in ("add", "sub"):
        return None
    beta, products = np.float32(0), []
    for sign, term in terms(view, end):
        constant = view.constant(term)
        if constant is not None:
            beta = beta + np.float32(sign) * constant
        elif view.op(term) == "mul":
            products.append((sign, *view.arguments(term)[:2]))
        else:
            return None
    if len(products) != 2:
        return None
    for (plus, *signal), (minus, *shift) in (products, products[::-1]):
        for x, root in (signal, signal[::-1]):
            for mean, again in (shift, shift[::-1]):
                if view.constant(mean) is None and view.op(mean) == "neg":
                    mean, sign = view.arguments(mean)[0], -minus
                else:
                    sign = minus
                if again != root or view.constant(root) is not None or (plus, sign) != (1, -1):
                    continue
                gamma, inner = scaled(view, root)
                found = deviation(view, inner, inverse=True)
                if found is not None and found[0] == x and is_mean(view, mean, *found[:2]):
                    return (*found, gamma, beta)
    return None


def terms(view, node, sign=1, depth=3):
    """[(1 or -1, term)] of a sum, its inner sums and negations taken apart to a depth."""
    if view.constant(node) is None and depth > 0 and view.op(node) in ("add", "sub", "neg"):
        first, *second = view.arguments(node)[:2]
        if view.op(node) == "neg":
            return terms(view, first, -sign, depth - 1)
        other = sign if view.op(node) == "add" else -sign
        return terms(view, first, sign, depth - 1) + terms(view, second[0], other, depth - 1)
    return [(sign, node)]


def scaled(view, node):
    """(gamma, y) of gamma * y with a constant gamma; (1, node) of others."""
    if view.op(node) == "mul":
        for y, scale in (view.arguments(node)[:2], view.arguments(node)[1::-1]):
            if view.constant(scale) is not None and view.constant(y) is None:
                return view.constant(scale), y
    return np.float32(1), node


def deviation(view, node, inverse):
    """(x, axes, eps) where a node is sqrt(variance of x over `axes` + eps), or inverse: one over that. Else None."""
    inner = root_of(view, node, inverse)
    shifted = inner is not None and view.constant(inner) is None and with_number(view, inner, "add")
    found = variance_of(view, shifted[0]) if shifted else None
    return (*found, shifted[1]) if shifted and found is not None and shifted[1] > 0 else None


def variance_of(view, node):
    """(x, axes) where a node is the mean over `axes` of (x - mean)^2, or of x^2 less the mean's square. Else None."""
    if view.op(node) == "mean":
        found = squared_difference(view, view.arguments(node)[0])
        return found if found is not None and view.axes(node) == found[1] else None
    if view.op(node) == "sub" and not any(view.constant(argument) is not None for argument in view.arguments(node)[:2]):
        whole, mean = view.arguments(node)[:2]
        mean, x = square_of(view, mean), square_of(view, view.arguments(whole)[0]) if view.op(whole) == "mean" else None
        if x is not None and mean is not None and view.axes(whole) and is_mean(view, mean, x, view.axes(whole)):
            return x, view.axes(whole)
    return None


def root_of(view, node, inverse):
    """What a node is the square root of (inverse: one over it), else None."""
    if view.constant(node) is not None:
        return None
    if inverse and view.op(node) == "reciprocal":
        return root_of(view, view.arguments(node)[0], False)
    if view.op(node) == ("rsqrt" if inverse else "sqrt"):
        return view.arguments(node)[0]
    power = with_number(view, node, "pow")
    return power[0] if power and power[1] == (-0.5 if inverse else 0.5) else None


def is_mean(view, node, x, axes):
    """Whether a node is the mean of x over `axes`."""
    return view.constant(node) is None and view.op(node) == "mean" and view.arguments(node)[0] == x and view.axes(node) == axes


def less_mean(view, x, mean):
    """(x, axes) where `mean` is the mean of x, else None."""
    if view.constant(mean) is None and view.op(mean) == "mean" and view.axes(mean) and is_mean(view, mean, x, view.axes(mean)):
        return x, view.axes(mean)
    return None


def minus_mean(view, node):
    """(x, axes) of x - mean of x, else None."""
    if view.constant(node) is not None or view.op(node) != "sub":
        return None
    return less_mean(view, *view.arguments(node)[:2])


def square_of(view, node):
    """What a node is the square of, else None."""
    if view.constant(node) is not None:
        return None
    if view.op(node) == "mul" and view.arguments(node)[0] == view.arguments(node)[1]:
        return view.arguments(node)[0]
    if view.op(node) == "square":
        return view.arguments(node)[0]
    power = with_number(view, node, "pow")
    return power[0] if power and power[1] == 2 else None


def squared_difference(view, node):
    """(x, axes) where a node is the square of x - mean of x, of the same one or of one computed again. Else None."""
    if view.constant(node) is not None:
        return None
    if view.op(node) == "difference2":
        x, mean = view.arguments(node)[:2]
        return less_mean(view, x, mean) or less_mean(view, mean, x)
    if view.op(node) == "mul":
        found = [minus_mean(view, part) for part in view.arguments(node)[:2]]
        return found[0] if found[0] == found[1] else None
    root = square_of(view, node)
    return None if root is None else minus_mean(view, root)


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
    found = scaled_layer_norm(view, node)
    if found is not None:
        x, *rest = found
        return (lambda b, value: b.normalise(value, *rest)), x
    found = response_norm(view, node)
    if found is not None:
        x, *rest = found
        return (lambda b, value: b.response_norm(value, *rest)), x
    return None
