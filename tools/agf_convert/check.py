"""Whether the file computes what the original does: both on one random tensor, on several where one tells too little.

The file's side is the engine through tools/agf where its library is built, else NumPy's forward pass of the
intermediate network; the original's is ONNX Runtime, torch or LiteRT, where that is installed.
"""
import numpy as np

from .errors import ConvertError, first_line

HALF_WEIGHTS = 1e-2  # weights rounded to f16 are off by up to 2^-12 each, and the logits by a few times that
RESEMBLANCE = 0.6    # correlation of a quantised original's logits with ours: its activations have 256 steps
SEVERAL = 16         # tensors for a quantised original of one or two classes, whose logits correlate from tensor to tensor
STEPS = 8            # different values that its logits must have: with fewer their rounding hides what they follow


def random_tensor(imported, number=0):
    """A tensor [C,H,W] for the network: slow waves and noise, of deviation 1 after the network's own normalisation.

    Those of other numbers than 0 are of other contrast and brightness too.
    """
    channels, height, width = imported.input_shape
    random = np.random.RandomState(1 + number)
    rows, columns = np.arange(height)[:, None] / height, np.arange(width)[None] / width
    x = np.zeros((channels, height, width))
    for channel in x:
        for _ in range(4):
            fy, fx, phase = random.uniform(-4, 4), random.uniform(-4, 4), random.uniform(0, 2 * np.pi)
            channel += 0.5 * np.cos(2 * np.pi * (fy * rows + fx * columns) + phase)
    x += 0.7 * random.standard_normal(x.shape)
    if number:
        x = x * 2 ** random.uniform(-2, 1) + random.uniform(-2, 2)
    if imported.range is not None:
        low, high = max(imported.range[0], -255), min(imported.range[1], 255)
        return np.clip(np.round((low + high) / 2 + x * (high - low) / 5), low, high).astype(np.float32)
    if imported.finished.affine is not None:
        scale, bias = (np.asarray(array, np.float64)[:, None, None] for array in imported.finished.affine)
        x = (x - bias) / scale
    return x.astype(np.float32)


def engine_logits(path, tensors):
    """(the engine's logits for a model file, a list, ""); (None, why) where there is no library, or it is older than
    the file."""
    try:
        import agf
        agf.library()
    except (ImportError, OSError) as problem:
        return None, first_line(problem)
    try:
        with agf.Model(path) as model, model.session() as session:
            return [np.array(session.run(tensor, explain=False), np.float64) for tensor in tensors], ""
    except agf.Error as problem:
        if problem.status == "AGF_ERR_VERSION":
            return None, "this build of the engine cannot read the file's format yet"
        raise ConvertError(f"the engine refuses what was converted: {first_line(problem)}") from None


def as_original(logits, finished):
    """Our logits as the original's output, before the function that it ends in."""
    return 2 * logits[1:] if finished.one_output else logits


def before_function(output, function):
    """The original's output before the softmax or sigmoid at its end, as far as it can be told: (values, where)."""
    with np.errstate(all="ignore"):
        if function in ("softmax", "log_softmax"):
            z = np.log(output) if function == "softmax" else output
            return z, np.isfinite(z) & (z > -80)
        if function == "sigmoid":
            # Nearer to 0 or 1 float32 holds too few digits of z.
            return np.log(output / (1 - output)), (output > 1e-6) & (output < 1 - 1e-4)
    return output, np.isfinite(output)


def compare(imported, network, f16, path):
    """One line on what was compared; ConvertError where it differs. path: of the file that was written, or None."""
    several = not imported.exact and network.shapes()[network.nodes[-1].name][0] < 3
    tensors = [random_tensor(imported, number) for number in range(SEVERAL if several else 1)]
    logits, why = engine_logits(path, tensors) if path is not None else (None, "the output is no file")
    ours = "the engine's" if logits is not None else "NumPy's forward pass's"
    because = f" ({why})" if why else ""
    if imported.reference is None:
        return f"not checked: {imported.reference_name} is not installed"
    if logits is None:
        logits = [network.forward(tensor).astype(np.float64) for tensor in tensors]
    try:
        outputs = [np.asarray(output, np.float64).ravel() for output in imported.reference(tensors)]
    except ConvertError:
        raise
    except Exception as problem:  # what the original's runtime raises
        return f"not checked: {imported.reference_name} cannot run the original ({first_line(problem)})"
    all_got = [as_original(one, imported.finished) for one in logits]
    got, output = all_got[0], outputs[0]
    if got.shape != output.shape:
        raise ConvertError(f"{imported.reference_name} has {output.size} outputs for a random tensor, the file {got.size}; "
                           "nothing was written (--no-check writes it all the same)")
    if several:
        return course(all_got, outputs, imported, ours) + because
    want, known = before_function(output, imported.finished.stripped)
    if not known.any() or not np.isfinite(got).all():
        return f"not checked: {imported.reference_name}'s output for a random tensor says too little"
    got, want = got[known], want[known]
    if imported.finished.stripped in ("softmax", "log_softmax"):
        got, want = got - got.mean(), want - want.mean()
    if not imported.exact:
        return resemblance(got, want, imported, ours) + because
    size = np.linalg.norm(want)
    error = np.linalg.norm(got - want) / size if size > 0 else np.linalg.norm(got)
    limit = max(imported.tolerance, HALF_WEIGHTS if f16 else 0)
    if not error <= limit:
        moved = sensitivity(imported, tensors[0], known)
        if moved >= 0.1 * error:
            return f"not checked: {imported.reference_name}'s own logits move by {moved:.2g} of their size when the random "\
                   f"tensor moves by 1e-6 of its own, ours differ by {error:.2g} (random weights?)"
        raise ConvertError(f"the logits for a random tensor differ from {imported.reference_name}'s by {error:.2g} of "
                           f"their size ({limit:g} is allowed): the conversion is wrong; nothing was written "
                           "(--no-check writes it all the same)")
    return f"checked: {ours} logits for a random tensor are {imported.reference_name}'s to {error:.1g}{because}"


def sensitivity(imported, tensor, known):
    """How far the original's logits move, relative, when a tensor moves by 1e-6: such a network says nothing."""
    if imported.range is not None:
        return 0.0
    noise = 1 + 1e-6 * np.random.RandomState(2).standard_normal(tensor.shape)
    outputs = imported.reference([tensor, (tensor * noise).astype(np.float32)])
    results = [before_function(np.asarray(output, np.float64).ravel(), imported.finished.stripped)[0][known] for output in outputs]
    size = np.linalg.norm(results[0])
    return float(np.linalg.norm(results[1] - results[0]) / size) if size > 0 else 0.0


def resemblance(got, want, imported, ours):
    """A quantised original: its logits are sums of rounded numbers, so only their course compares."""
    with np.errstate(all="ignore"):
        correlation = np.corrcoef(got, want)[0, 1] if len(got) > 2 else np.nan
    if len(got) < 3 or np.all(want == want[0]):
        return f"not checked: {imported.reference_name}'s output for a random tensor says too little"
    return judged(correlation, imported, ours, "a random tensor")


def course(got, outputs, imported, ours):
    """A quantised original of one or two classes: the course of its logits from tensor to tensor."""
    function = imported.finished.stripped
    pairs = []
    for mine, output in zip(got, outputs):
        want, known = before_function(output, function)
        if known.all() and np.isfinite(mine).all():
            pairs.append((mine - mine.mean(), want - want.mean()) if "softmax" in (function or "") else (mine, want))
    values = len({tuple(want) for _, want in pairs})
    if values > 1:
        mine, want = (np.array(side) - np.mean(side, axis=0) for side in zip(*pairs))
        with np.errstate(all="ignore"):
            correlation = np.sum(mine * want) / np.sqrt(np.sum(mine**2) * np.sum(want**2))
        if values >= STEPS or correlation >= RESEMBLANCE:
            return judged(correlation, imported, ours, f"{len(pairs)} random tensors")
    return f"not checked: {imported.reference_name}'s output has {values} different values for {len(got)} random tensors, which " \
           "say too little"


def judged(correlation, imported, ours, what):
    if not correlation >= RESEMBLANCE:
        raise ConvertError(f"the logits for {what} do not resemble those of the quantised original in "
                           f"{imported.reference_name} (correlation {correlation:.2f}, {RESEMBLANCE} is needed): the "
                           "conversion is wrong; nothing was written (--no-check writes it all the same)")
    return f"checked: {ours} logits for {what} follow {imported.reference_name}'s, correlation {correlation:.2f}"
