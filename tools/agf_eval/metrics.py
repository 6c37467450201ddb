"""What is measured: functions of arrays, which tests/test_eval.py checks against cases that can be done by hand."""


import numpy as np


def energy_inside(mask, heat):
    """The share of a map's positive part that lies in a mask; ValueError where nothing is positive."""
    positive = np.maximum(heat.astype(np.float64), 0)
    if not positive.sum() > 0:
        raise ValueError("nothing in its map is positive")
    return float(positive[mask].sum() / positive.sum())


def imputed(pixels, missing, seed):
    """pixels [H, W, 3] with the missing ones (bool [H, W]) as their neighbours would have them, and a little noise.

    Each is the mean of its neighbours, direct ones with the weight 1/6, diagonal ones 1/12 (fewer at an edge), solved
    for all missing pixels at once, plus normal noise of 0.01 of the scale, as in ROAD (Rong et al., ICML 2022): black
    pixels would tell the network where they were.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import spsolve

    height, width = missing.shape
    number = np.full((height, width), -1)
    rows, columns = np.nonzero(missing)
    number[rows, columns] = np.arange(len(rows))
    known = np.zeros((len(rows), pixels.shape[2]))
    at, to, weights, total = [], [], [], np.zeros(len(rows))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if not (dy or dx):
                continue
            y, x, weight = rows + dy, columns + dx, 1 / 6 if 0 in (dy, dx) else 1 / 12
            inside = np.nonzero((y >= 0) & (y < height) & (x >= 0) & (x < width))[0]
            neighbour = number[y[inside], x[inside]]
            total[inside] += weight
            given, asked = inside[neighbour < 0], inside[neighbour >= 0]
            known[given] += weight * pixels[y[given], x[given]]
            at.append(asked)
            to.append(neighbour[neighbour >= 0])
            weights.append(np.full(len(asked), -weight))
    every = np.arange(len(rows))
    system = coo_array(
        (np.concatenate([*weights, total]), (np.concatenate([*at, every]), np.concatenate([*to, every]))),
        (len(rows), len(rows)),
    )
    noise = np.random.RandomState(seed).normal(0, 0.01 * 255, known.shape)
    values = spsolve(system.tocsc(), known).reshape(known.shape) + noise if len(rows) else known
    filled = pixels.copy()
    filled[rows, columns] = np.clip(np.rint(values), 0, 255)
    return filled


def descending(heat):
    """Indices of a map's pixels, highest first; ties: the lower index (row-major) first."""
    return np.argsort(-heat.ravel(), kind="stable")


def perturbed(pixels, order, tenths):
    """pixels [H, W, 3] with the first int(H * W * tenths / 10) pixels of `order` black."""
    black = pixels.copy()
    black.reshape(-1, pixels.shape[2])[order[: len(order) * tenths // 10]] = 0
    return black


def perturbation_auc(accuracy):
    """Area under the accuracies [10] (or rows of them) at 0, 0.1, ..., 0.9 by trapezoids, x 100."""
    from scipy.integrate import trapezoid

    return trapezoid(accuracy, dx=0.1) * 100


def average_precision(mask, heat):
    """scikit-learn's average precision of a map as a ranking of a mask's pixels."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(mask.ravel(), heat.ravel()))


def overlap(mask, foreground):
    """[true positives, false positives, false negatives, true negatives] in pixels."""
    pairs = ((True, True), (False, True), (True, False), (False, False))
    return [int(((mask == m) & (foreground == f)).sum()) for m, f in pairs]


def pixel_accuracy(counts):
    """The share of pixels on the right side; counts as overlap() gives them, summed over the pictures."""
    tp, _, _, tn = counts
    return (tp + tn) / sum(counts)


def mean_iou(counts):
    """Intersection over union, averaged over foreground and background; a class that nobody has counts as 0."""
    tp, fp, fn, tn = counts
    return (tp / max(tp + fp + fn, 1) + tn / max(tn + fp + fn, 1)) / 2


def share_in_cell(heat, n, cell):
    """The share of a map's positive part in cell number `cell` (row-major) of n x n; 0 where nothing is positive."""
    positive = np.maximum(heat.astype(np.float64), 0)
    height, width = (side // n for side in heat.shape)
    row, column = divmod(cell, n)
    inside = positive[row * height : (row + 1) * height, column * width : (column + 1) * width].sum()
    total = positive.sum()
    return float(inside / total) if total > 0 else 0.0


def gaussian_blur(chw):
    """chw [C, H, W] blurred by an 11 x 11 Gaussian of sigma 5 that sums to 1; beyond the edge lie zeros (RISE)."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(chw.astype(np.float64), (0, 5.0, 5.0), radius=(0, 5, 5), mode="constant")


def area_under(curve):
    """Area under a curve sampled at equal steps from 0 to 1, by trapezoids."""
    from scipy.integrate import trapezoid

    return float(trapezoid(curve) / (len(curve) - 1))


def revealed(start, end, order, steps):
    """start [C, H, W], then in as many equal steps the next pixels of `order` taken from `end`, until all are."""
    current = start.copy()
    yield current
    flat, source = current.reshape(len(current), -1), end.reshape(len(end), -1)
    for step in range(steps):
        pixels = order[len(order) * step // steps : len(order) * (step + 1) // steps]
        flat[:, pixels] = source[:, pixels]
        yield current


def spearman(first, second):
    """Spearman's rank correlation of two maps' magnitudes; ValueError where one is constant and there is none."""
    from scipy.stats import spearmanr

    a, b = (np.abs(heat).ravel() for heat in (first, second))
    if a.min() == a.max() or b.min() == b.max():
        raise ValueError("a constant map has no rank correlation")
    return float(spearmanr(a, b).statistic)


def probabilities(logits, kind):
    """softmax or sigmoid of logits, in double."""
    from scipy import special

    return {"softmax": special.softmax, "sigmoid": special.expit}[kind](logits.astype(np.float64))


def class_miou(confusion):
    """Mean intersection over union of the classes that a confusion matrix [truth, found] holds pixels of."""
    both, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return float(np.mean(both[union > 0] / union[union > 0])) if union.any() else 0.0
