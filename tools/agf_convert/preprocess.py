"""What goes into the file beside the network: preprocessing of pictures, labels."""
import numpy as np

from .errors import ConvertError
from .network import Preprocessing, check_text


def preprocessing_of(given, defaults, input_shape):
    """The Preprocessing, None for a network without one.

    given: {field of Preprocessing: what the user said}; defaults: the same for a network that is known by its name or
    whose file says it, or None.
    """
    if not given and not defaults:
        return None
    count = input_shape[0]
    values = {"mean": (0.0,), "std": (1.0,), **(defaults or {}), **given}
    if count not in (1, 3):
        raise ConvertError(f"an input of {count} channels is no picture: leave out mean, std, range, channels, resize; "
                           "the file then takes tensors")
    for what in ("mean", "std"):
        numbers = tuple(float(number) for number in np.ravel(values[what]))
        if len(numbers) not in (1, count):
            raise ConvertError(f"{len(numbers)} values of {what} for {count} channels")
        values[what] = numbers * (count // len(numbers))
    return Preprocessing(**values)


def parse_resize(text, size):
    """stretch, crop or crop:N as fields of Preprocessing; size: (height, width) of the input."""
    rule, _, number = text.partition(":")
    if rule == "stretch" and not number:
        return {"resize": "stretch", "resize_to": 0}
    if rule == "crop" and (not number or number.isdigit()):
        shorter = min(size)
        # Without a number the usual proportion of ImageNet networks: 256 for 224.
        resize_to = int(number) if number else round(shorter * 256 / 224)
        if resize_to < shorter:
            raise ConvertError(f"resize {text}: smaller than the input, {size[1]}x{size[0]}")
        return {"resize": "crop", "resize_to": resize_to}
    raise ConvertError(f"resize {text}: stretch, crop or crop:PIXELS")


def read_labels(path):
    """One label per line, UTF-8. Where every line begins with its own number, as Teachable Machine and Coral write
    them, the numbers go."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            labels = f.read().rstrip("\n").split("\n")
    except OSError as problem:
        raise ConvertError(f"{path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ConvertError(f"{path}: not UTF-8 text") from None
    numbered = [label.split(maxsplit=1) for label in labels]
    if all(len(parts) == 2 and parts[0] == str(number) for number, parts in enumerate(numbered)):
        labels = [parts[1] for parts in numbered]
    for number, label in enumerate(labels):
        check_text(f"{path}, line {number + 1}: the label", label)
    return labels


def labels_of(labels, one_output):
    """The classes' labels: of one output, LABEL or none, the two that the file has."""
    return [f"not {labels[0]}", labels[0]] if one_output and len(labels) == 1 else list(labels)
