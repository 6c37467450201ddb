"""Networks by their names: torchvision's and timm's, with weights from a file or fetched by name."""
import os
import re

import numpy as np

from .errors import ConvertError, describe, first_line

DEFAULT = "DEFAULT"  # --weights DEFAULT: those that the library itself fetches


def load_state_dict(path):
    """{name: tensor} of a .pth, .safetensors or .npz file."""
    import torch
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file
            state = load_file(path)
        elif path.endswith(".npz"):
            with np.load(path, allow_pickle=False) as arrays:
                state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise ConvertError(f"{path}: {problem.strerror or first_line(problem)}") from None
    except Exception as problem:  # each format's reader has exceptions of its own
        if "weights_only" in str(problem) or "Unsupported" in str(problem):
            raise ConvertError(f"{path}: not a state dict but a whole pickled object, which would run code when it is "
                               "loaded; save model.state_dict() instead of the model") from None
        raise ConvertError(f"{path}: not a state dict ({first_line(problem)})") from None
    for wrapper in ("state_dict", "model", "model_state_dict"):  # training scripts' checkpoints
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(torch.is_tensor(tensor) for tensor in state.values()):
        raise ConvertError(f"{path}: not a state dict")
    # DataParallel's and torch.compile's names for what they wrap
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): tensor for name, tensor in state.items()}


def fit_state_dict(model, state, path):
    """Load a state dict into a model of the same architecture."""
    parameters = model.state_dict()
    fitted = type(parameters)()
    for name, tensor in state.items():
        # DenseNet files of torchvision's early days
        name = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
        if not re.match(r"(aux1|aux2|AuxLogits)\.", name):
            fitted[name] = tensor
    fitted._metadata = parameters._metadata  # MNASNet wants its version, which only .pth files carry
    needed = {name for name in parameters if not name.endswith("num_batches_tracked")}
    for what, names in (("lacks", needed - set(fitted)), ("has the unknown", set(fitted) - set(parameters))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ConvertError(f"{path}: not weights of this network: {what} {min(names)}{more}; for a network with "
                               "changed layers use convert()")
    for name in needed:
        if fitted[name].shape != parameters[name].shape:
            raise ConvertError(f"{path}: not weights of this network: {name} is {describe([fitted[name].shape])}, "
                               f"not {describe([parameters[name].shape])}")
    model.load_state_dict(fitted, strict=False)


def similar(name, names):
    """"; A, B?" for messages."""
    import difflib
    near = difflib.get_close_matches(name, names, 3)
    return f"; {', '.join(near)}?" if near else ""


def torchvision_network(arch, weights=None, classes=None, transform_input="auto"):
    """torchvision's model of that name, with weights from a file, its own (DEFAULT), or random ones.

    Returns the module, its preprocessing's fields, (height, width), labels and a line on its source.
    """
    import torch
    import torchvision
    models = torchvision.models
    names = models.list_models(module=models)
    if arch not in names:
        raise ConvertError(f"--arch {arch}: torchvision has no such network{similar(arch, names)} (networks of timm: "
                           "--timm NAME)")
    if classes is not None and classes < 2:
        raise ConvertError(f"--classes {classes}: AGF contrasts two classes or more")
    entries = list(models.get_model_weights(arch))
    own = weights == DEFAULT
    entry = models.get_model_weights(arch).DEFAULT if own else None
    if own and classes not in (None, len(entry.meta["categories"])):
        raise ConvertError(f"--classes {classes}: torchvision's weights have {len(entry.meta['categories'])}")
    state = None
    if own:
        try:
            state = entry.get_state_dict(progress=False, check_hash=True)
        except Exception as problem:  # no network, no space, a changed file
            raise ConvertError(f"--weights DEFAULT: {entry.url} cannot be fetched ({first_line(problem)}); download it "
                               "and name the file") from None
    elif weights:
        state = load_state_dict(weights)
    options = {"weights": None}
    if arch in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=False)
    torch.manual_seed(0)
    model = models.get_model(arch, num_classes=classes or 1000, **options)
    if state is not None:
        head = [name for name, child in model.named_modules()
                if isinstance(child, (torch.nn.Linear, torch.nn.Conv2d))][-1] + ".weight"
        found = len(state[head]) if head in state else None
        if found is None:
            raise ConvertError(f"{weights}: not weights of {arch}: lacks {head}")
        if classes not in (None, found):
            raise ConvertError(f"{weights}: weights for {found} classes, not {classes}")
        if found != 1000:
            model = models.get_model(arch, num_classes=found, **options)
        fit_state_dict(model, state, weights)
        classes = found
    if hasattr(model, "transform_input"):
        # It belongs to torchvision's ImageNet weights, and so to what is fine-tuned from them.
        model.transform_input = transform_input == "on" or transform_input == "auto" and state is not None
    file = os.path.basename(entry.url if own else weights or "")
    entry = entry or next((entry for entry in entries if os.path.basename(entry.url) == file), entries[0])
    transforms = entry.transforms()
    defaults = {"mean": tuple(transforms.mean), "std": tuple(transforms.std), "range": 1.0, "channels": "rgb",
                "resize": "crop", "resize_to": transforms.resize_size[0]}
    # Random weights know no classes.
    labels = list(entry.meta["categories"]) if state is not None and classes == 1000 else []
    source = f"torchvision {torchvision.__version__.partition('+')[0]} {arch}, {file or 'random weights'}"
    return model, defaults, (transforms.crop_size[0],) * 2, labels, source


def timm_network(name, weights=None, classes=None):
    """timm's model of that name; the same as torchvision_network()."""
    import timm
    import torch
    if not timm.is_model(name):
        raise ConvertError(f"--timm {name}: timm {timm.__version__} has no such network{similar(name, timm.list_models())}")
    if classes is not None and classes < 2:
        raise ConvertError(f"--classes {classes}: AGF contrasts two classes or more")
    options = {} if classes is None else {"num_classes": classes}
    torch.manual_seed(0)
    if weights == DEFAULT:
        try:
            model = timm.create_model(name, pretrained=True, **options)
        except Exception as problem:  # no network, no weights of that name
            raise ConvertError(f"--weights DEFAULT: timm cannot fetch {name} ({first_line(problem)}); download the "
                               "weights and name the file") from None
    else:
        state = load_state_dict(weights) if weights else None
        if state is not None and classes is None:
            reference = timm.create_model(name, **options)
            head = reference.default_cfg.get("classifier")
            head = head if isinstance(head, str) else head[0] if head else ""
            found = state.get(f"{head}.weight")
            if found is not None and len(found) != reference.num_classes:
                options = {"num_classes": len(found)}
        model = timm.create_model(name, **options)
        if state is not None:
            fit_state_dict(model, state, weights)
    defaults, size = module_preprocessing(model)
    file = os.path.basename(weights or "")
    return model, defaults, size, [], f"timm {timm.__version__} {name}, {file or 'random weights'}"


def module_preprocessing(module):
    """What a module says of its input, as timm's do: (fields of Preprocessing, (height, width)); (None, None)."""
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if not isinstance(config, dict) or "mean" not in config or "std" not in config:
        return None, None
    _, height, width = config.get("input_size", (3, 224, 224))
    resize_to = max(int(min(height, width) / (config.get("crop_pct") or 0.875)), min(height, width))
    return {"mean": tuple(config["mean"]), "std": tuple(config["std"]), "range": 1.0, "channels": "rgb",
            "resize": "crop", "resize_to": resize_to}, (height, width)


def learner_parts(learner):
    """What a fastai Learner holds: (module, labels, fields of Preprocessing, (height, width), head); else None.

    Pictures are prepared as for its validation set. ConvertError where a file cannot say how that is done.
    """
    if not all(hasattr(learner, name) for name in ("model", "dls", "loss_func")):
        return None
    batch, item = (list(steps.fs) for steps in (learner.dls.valid.after_batch, learner.dls.valid.after_item))
    resizes = [step for step in item if type(step).__name__ in ("Resize", "RandomResizedCrop")]
    rule = {"crop": "crop", "squish": "stretch"}.get(getattr(resizes[0], "method", "")) if len(resizes) == 1 else None
    sizes = [step.size for step in resizes + batch if getattr(step, "size", None) is not None]
    width, height = np.broadcast_to(sizes[-1], 2).tolist() if sizes else (0, 0)
    if rule is None or len({tuple(np.broadcast_to(size, 2) / max(np.ravel(size))) for size in sizes}) > 1:
        steps = ", ".join(type(step).__name__ for step in item + batch)
        raise ConvertError(f"a fastai Learner prepares pictures by {steps}, of which only one Resize that crops or squishes is "
                           "understood: convert learn.model, and say size, labels, mean, std and resize")
    norm = next((step for step in batch if type(step).__name__ == "Normalize"), None)
    mean, std = ((0.0,), (1.0,)) if norm is None else (tuple(np.ravel(np.asarray(numbers.tolist())).tolist())
                                                       for numbers in (norm.mean, norm.std))
    head = "sigmoid" if type(learner.loss_func).__name__.startswith("BCE") else None
    return learner.model, [str(label) for label in getattr(learner.dls, "vocab", None) or []], {
        "mean": mean, "std": std, "range": 1.0, "channels": "rgb", "resize": rule,
        "resize_to": min(width, height) if rule == "crop" else 0}, (height, width), head
