"""The command line. Imports of what is slow or may be missing stand where they are needed: --help needs nothing."""
import argparse
import os
import sys
import warnings

from .errors import ConvertError, first_line

DESCRIPTION = """\
Convert a network to an .agf model file: an ONNX or TensorFlow Lite file, or a network of torchvision or timm by its
name. What the converter does not understand it refuses by name; what it has written it compares with the original, on
a random tensor, where ONNX Runtime, torch or LiteRT is installed.
"""


def number_list(text):
    return tuple(float(part) for part in text.replace(",", " ").split())


def picture_size(text):
    """(height, width) of WxH, or N for NxN."""
    width, _, height = text.lower().partition("x")
    size = int(height or width), int(width)
    if min(size) < 1:
        raise ValueError
    return size


def called() -> str:
    """The command's name as it was called: agf_convert.py, or agf-convert where it is installed."""
    return "agf-convert" if os.path.basename(sys.argv[0]).startswith("agf-convert") else "agf_convert.py"


def parser():
    result = argparse.ArgumentParser(prog=called(), description=DESCRIPTION,
                                     epilog="Exit code 2, and no file, if the network or an option is not understood.")
    result.add_argument("net", nargs="?", metavar="NET", help="an ONNX file, opset 7 to 25, or a .tflite file")
    result.add_argument("-o", dest="path", metavar="NET.agf", required=True, help="the file to write")
    result.add_argument("--f16", action="store_true", help="store weights as 16-bit floats: half the size")
    result.add_argument("--flat", choices=("default", "published"), default="default",
                        help="which convolutions the attribution passes flat: the default rule's, or the published "
                        "code's, which differ in the basic blocks of ResNet-18 and -34")
    result.add_argument("--output", metavar="NAME", help="the logits, in a file with several outputs")
    result.add_argument("--layout", choices=("nchw", "nhwc"), help="the order of the file's input, if its shape does not tell")
    result.add_argument("--head", choices=("softmax", "sigmoid", "none"),
                        help="what makes probabilities of the logits (default: what the network ends in, else softmax)")
    result.add_argument("--no-check", action="store_true", help="do not compare the file with the original")
    group = result.add_argument_group("networks by name")
    group.add_argument("--arch", metavar="NAME", help="torchvision's name of the network, instead of a file")
    group.add_argument("--timm", metavar="NAME", help="timm's name of the network, instead of a file")
    group.add_argument("--weights", metavar="FILE",
                       help="its state dict, .pth, .safetensors or .npz; DEFAULT: those that torchvision or timm fetches "
                       "(default: random weights)")
    group.add_argument("--classes", type=int, metavar="N",
                       help="number of classes (default: as in the weights, else 1000)")
    group.add_argument("--transform-input", choices=("auto", "on", "off"), default="auto",
                       help="googlenet and inception_v3: torchvision's own change of the normalisation, which its "
                       "ImageNet weights need (auto: on with --weights)")
    group = result.add_argument_group("what goes into the file beside the network",
                                      "With none of --mean to --size a file's network gets no preprocessing and "
                                      "takes tensors only, unless the file says how pictures are prepared; networks by name "
                                      "get what they were trained with.")
    group.add_argument("--labels", metavar="FILE", help="class names, one per line")
    group.add_argument("--name", help="the network's name")
    group.add_argument("--mean", type=number_list, metavar="A,B,C", help="per channel, in the network's channel order")
    group.add_argument("--std", type=number_list, metavar="A,B,C", help="likewise; the input is (value - mean) / std")
    group.add_argument("--range", type=float, choices=(1.0, 255.0), help="what 255 is before mean and std (default 1)")
    group.add_argument("--channels", choices=("rgb", "bgr"), help="the network's channel order (default rgb)")
    group.add_argument("--resize", metavar="RULE",
                       help="stretch (default), or crop[:N]: shorter side to N pixels, then the centre")
    group.add_argument("--size", type=picture_size, metavar="WxH", help="the nominal input size")
    return result


def read_file(arguments):
    """The front end that a file belongs to, and what it has read."""
    if is_tflite(arguments.net):
        try:
            from . import tflite_front
        except ImportError as problem:
            if problem.name and problem.name.startswith("agf_convert"):
                raise ConvertError(f"{arguments.net}: this converter has no reader for TensorFlow Lite files") from None
            raise
        return tflite_front.read(arguments.net, arguments.size, arguments.output, arguments.head)
    from . import onnx_front
    layout = arguments.layout.upper() if arguments.layout else None
    return onnx_front.read(arguments.net, arguments.size, arguments.output, layout, arguments.head)


def is_tflite(path):
    if path.lower().endswith((".tflite", ".lite")):
        return True
    try:
        with open(path, "rb") as f:
            return f.read(8)[4:] == b"TFL3"
    except OSError:
        return False


def run(arguments):
    from . import api, files, zoo
    from .preprocess import parse_resize, preprocessing_of, read_labels
    from .summary import summary
    inputs = [name for name in (arguments.net, arguments.weights, arguments.labels) if name]
    try:
        files.check(arguments.path, inputs)
        for name in inputs:
            files.check_input(name)
    except files.OutputError as problem:
        raise ConvertError(str(problem)) from None
    given = {what: getattr(arguments, what) for what in ("mean", "std", "range", "channels")
             if getattr(arguments, what) is not None}
    labels, defaults = [], None
    named = arguments.arch or arguments.timm
    if named:
        if arguments.arch:
            module, defaults, own, labels, source = zoo.torchvision_network(
                arguments.arch, arguments.weights, arguments.classes, arguments.transform_input)
        else:
            module, defaults, own, labels, source = zoo.timm_network(arguments.timm, arguments.weights, arguments.classes)
        size = arguments.size or own or (224, 224)
        if defaults:
            defaults["resize_to"] = round(defaults["resize_to"] * min(size) / min(own))
        name = named
        from . import torch_front
        imported = torch_front.read(module, (3,) + tuple(size), arguments.head)
    else:
        imported = read_file(arguments)
        source = os.path.basename(arguments.net)
        name = os.path.splitext(source)[0]
        labels, defaults = imported.labels, imported.preprocessing or None
        if arguments.size and imported.input_shape[0] in (1, 3):
            given["resize"] = "stretch"
    if arguments.resize:
        given.update(parse_resize(arguments.resize, imported.input_shape[1:]))
    if arguments.labels:
        labels = read_labels(arguments.labels)
    network = api.network_of(imported, arguments.name or name, source, labels,
                             preprocessing_of(given, defaults, imported.input_shape))
    file, checked = api.write_network(network, arguments.path, arguments.f16, arguments.flat,
                                      None if arguments.no_check else imported, inputs + imported.files)
    print(summary(file, arguments.path, checked))
    if named and not arguments.weights:
        print("no --weights: the weights are random ones, and the classes have no names")
    sys.stdout.flush()


def main(argv=None):
    commands = parser()
    arguments = commands.parse_args(argv)
    if sum(map(bool, (arguments.arch, arguments.timm, arguments.net))) != 1:
        commands.error("one network, please: a file, --arch NAME or --timm NAME")
    for option in ("weights", "classes"):
        if getattr(arguments, option) is not None and arguments.net:
            commands.error(f"--{option} belongs to --arch or --timm")
    for option in ("output", "layout"):
        if getattr(arguments, option) is not None and not arguments.net:
            commands.error(f"--{option} belongs to a file")
    try:
        with warnings.catch_warnings():  # of NumPy and onnx, about numbers of the file that are checked here
            warnings.simplefilter("ignore")
            run(arguments)
    except ConvertError as problem:
        return fail(str(problem))
    except ImportError as problem:
        if isinstance(problem, ModuleNotFoundError) and problem.name:
            return fail(f"needs the Python package {problem.name}: pip install {problem.name}, in a virtual environment")
        return fail(first_line(problem))
    except MemoryError:
        return fail("there is not enough memory")
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except BrokenPipeError:  # whoever read the summary has seen enough; the file is complete
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def fail(text, code=2):
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    print(f"{called()}: error: {text}", file=sys.stderr)
    return code
