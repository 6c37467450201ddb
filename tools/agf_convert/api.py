"""From Python: convert() for modules, and what it shares with the command line."""
import numpy as np

from . import check
from .errors import ConvertError
from .network import Network
from .passes import mark_flat
from .preprocess import labels_of, parse_resize, preprocessing_of
from .writer import ModelFile


def convert(module, path, size=None, labels=None, *, mean=None, std=None, range=None, channels=None, resize=None,
            name=None, f16=False, flat="default", head=None, check=True):
    """Write a torch.nn.Module, from an image batch to logits, as a model file; or a fastai Learner, which says labels,
    size and preprocessing by itself.

    size: of the nominal input, (C, H, W), (H, W) with three channels, or one number for a square; default what the
    module says of itself (timm's do), else 224. labels: a list of class names. mean, std: a number, or one per channel;
    range: what 255 becomes before mean and std, 1 or 255; channels: "rgb" or "bgr"; resize: "stretch", "crop" or
    "crop:N" (shorter side to N, then the centre). If none of those five is given, they are what the module says of
    itself; if it says nothing, the file has no preprocessing and takes tensors only.
    f16: weights in half precision; flat: "default", or "published" for the published code's flags; head: "softmax",
    "sigmoid" or "none", what makes probabilities of the logits (default: what the module ends in, else softmax);
    check: compare the file's logits with the module's on a random tensor.
    ConvertError says what cannot be converted; nothing is left behind then. The module is not changed. Returns the
    ModelFile.
    """
    from . import torch_front, zoo
    learned = zoo.learner_parts(module)
    if learned is None:
        defaults, own_size = zoo.module_preprocessing(module)
    else:
        module, own_labels, defaults, own_size, own_head = learned
        labels, head = labels or own_labels, head or own_head
    size = own_size or 224 if size is None else size
    size = tuple(int(number) for number in np.ravel(size))
    if len(size) not in (1, 2, 3) or min(size) < 1:
        raise ConvertError(f"size {size}: (C, H, W), (H, W) or one number")
    input_shape = {1: (3,) + size * 2, 2: (3,) + size, 3: size}[len(size)]
    for what, value, allowed in (("range", range, (None, 1, 255)), ("channels", channels, (None, "rgb", "bgr")),
                                 ("flat", flat, ("default", "published")),
                                 ("head", head, (None, "softmax", "sigmoid", "none"))):
        if value not in allowed:
            raise ConvertError(f"{what} {value!r}: one of {', '.join(map(str, allowed))}")
    options = {"mean": mean, "std": std, "range": range, "channels": channels}
    given = {what: value for what, value in options.items() if value is not None}
    if resize is not None:
        given.update(parse_resize(resize, input_shape[1:]))
    if given or input_shape[0] != 3:
        defaults = None
    elif defaults and own_size != input_shape[1:]:
        defaults["resize_to"] = round(defaults["resize_to"] * min(input_shape[1:]) / min(own_size))
    imported = torch_front.read(module, input_shape, head)
    kind = type(module).__name__
    network = network_of(imported, name or kind, f"torch {kind}", labels or [],
                         preprocessing_of(given, defaults, input_shape))
    return write_network(network, path, f16, flat, imported if check else None)[0]


def network_of(imported, name, source, labels, preprocessing):
    """The Network of what a front end has read and what belongs beside it."""
    finished = imported.finished
    return Network(imported.input_shape, finished.nodes, name, source, labels_of(labels, finished.one_output), preprocessing,
                   finished.affine, finished.head, list(finished.notes))


def write_network(network, path, f16=False, flat="default", imported=None, inputs=()):
    """Set the flags and write; returns (the ModelFile, a line on what was checked).

    imported: what the network is compared with, None for no comparison; inputs: files that must not be overwritten.
    """
    mark_flat(network.nodes, published=flat == "published")
    file = ModelFile(network, f16)
    checked = []
    comparison = None
    if imported is not None:
        def comparison(written) -> None:
            checked.append(check.compare(imported, network, f16, written))
    try:
        file.write(path, inputs, comparison)
    except OSError as problem:
        raise ConvertError(f"{path}: {problem.strerror or problem}") from None
    return file, "".join(checked)
