#!/usr/bin/env python3
"""Makes tests/networks-keras.md: which of Keras's classifiers (keras.applications) convert, and how exactly.

    python3 tests/networks_keras.py [-k TEXT] [--minutes N] [--results FILE]     minutes a network, on one core

As tests/networks.py, in an environment of its own: needs tensorflow-cpu, tf2onnx, tflite, ai-edge-litert, onnx,
onnxruntime and the engine's library. Each network gets random weights and statistics that fit them, and is converted
through TensorFlow Lite and through ONNX; the engine's logits are compared with those of Keras itself.
"""
import datetime
import importlib.metadata
import math
import os
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests")]
from survey import survey                                                              # noqa: E402

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's remarks

SIZE = 96
CLASSES = 10
WANTED = 1e-4  # between the engine's logits and Keras's, relative; where it is more, the file's own runtime is asked too
SIZES = {"NASNetMobile": 224}  # a 96 pixels wide picture leaves its last cells odd sides, which it refuses
NAMES = """
MobileNet MobileNetV2 MobileNetV3Small EfficientNetB0 EfficientNetV2B0 NASNetMobile DenseNet121 ResNet50V2 ResNet50 InceptionV3
Xception ConvNeXtTiny MobileNetV3Large VGG16 InceptionResNetV2
""".split()


def network_of(name, size):
    """The network with statistics of BatchNorm that fit its weights, and what it makes of one tensor."""
    import keras
    import tensorflow as tf
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, classes=CLASSES, classifier_activation=None,
                                              input_shape=(size, size, 3))
    random = np.random.RandomState(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # the statistics of the one batch
    batch = random.standard_normal((4, size, size, 3)).astype(np.float32)
    if name.startswith(("EfficientNet", "MobileNetV3", "ConvNeXt")):  # they normalise themselves
        batch = 128 + 50 * batch
    model(tf.constant(batch), training=True)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):  # what is left at 1 and 0 hides mistakes
            for variable in (layer.gamma, layer.beta):
                if variable is not None:
                    variable.assign_add(0.2 * random.standard_normal(variable.shape))
    return model, batch[0]


def exported(model, size, way, path):
    """The network as a file: TensorFlow Lite by its own converter, ONNX by Keras's export, which tf2onnx does."""
    import tensorflow as tf
    if way == "onnx":
        model.export(path, format="onnx", verbose=False,
                     input_signature=[tf.TensorSpec((1, size, size, 3), tf.float32, name="image")])
        return
    with open(path, "wb") as f:
        f.write(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def distance(path, image, wanted):
    """Between the engine's logits and those wanted, relative."""
    import agf
    with agf.Model(path) as model, model.session(threads=1) as session:
        logits = np.asarray(session.run(np.ascontiguousarray(image.transpose(2, 0, 1)), explain=False))
        finite = np.isfinite(session.run(np.ascontiguousarray(image.transpose(2, 0, 1)))).all() and \
            np.isfinite(session.explain()).all()
    return float(np.linalg.norm(logits - wanted) / np.linalg.norm(wanted)) if finite else math.nan


def try_network(name):
    """The row of one network, as a dict."""
    from agf_convert import ConvertError, onnx_front, tflite_front
    from agf_convert.api import network_of as finished
    from agf_convert.api import write_network
    began, size = time.monotonic(), SIZES.get(name, SIZE)
    model, image = network_of(name, size)
    wanted = np.asarray(model(image[None], training=False), np.float64)[0]
    row = {"name": name, "size": size, "parameters": int(model.count_params())}
    for way, front in (("tflite", tflite_front), ("onnx", onnx_front)):
        with tempfile.TemporaryDirectory() as folder:
            path, written = os.path.join(folder, f"net.{way}"), os.path.join(folder, "net.agf")
            try:
                exported(model, size, way, path)
            except Exception as problem:  # TensorFlow's or tf2onnx's own
                row[way] = f"not exported: {type(problem).__name__}: {problem}".splitlines()[0][:200]
                continue
            try:
                imported = front.read(path)
                _, checked = write_network(finished(imported, name, "keras", [], None), written, imported=imported)
                row[way] = distance(written, image, wanted)
                (original,) = imported.reference([image.transpose(2, 0, 1)])
                row[way + " original"] = float(np.linalg.norm(original - wanted) / np.linalg.norm(wanted))
                if not checked.startswith("checked"):
                    row[way + " said"] = checked
            except ConvertError as problem:
                row[way] = f"refused: {problem}"
    row["seconds"] = round(time.monotonic() - began, 1)
    return row


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def cell(row, way):
    if not isinstance(row[way], float):
        return row[way].replace("|", "/")
    original = row.get(way + " original")
    return f"{row[way]:.0e}" + (f" ({original:.0e})" if original is not None and not row[way] <= WANTED else "")


def table(rows):
    """The Markdown page."""
    ways = ("tflite", "onnx")
    good = [sum(isinstance(row[way], float) for row in rows) for way in ways]
    packages = [("keras", "Keras"), ("tensorflow-cpu", "TensorFlow"), ("tf2onnx", "tf2onnx")]
    lines = ["# Keras applications that convert", "",
             "Made by tests/networks_keras.py. Random weights, statistics that fit them; logits of the engine against Keras's own for",
             "one tensor, relative, of the file that TensorFlow's converter makes and of the one that Keras exports to ONNX; where it is",
             f"more than {WANTED:g}, in brackets the distance of LiteRT's or ONNX Runtime's from Keras's: such a network magnifies",
             "any rounding.",
             f"{', '.join(f'{title} {version(package)}' for package, title in packages)}; {datetime.date.today()}.",
             f"{good[0]} of {len(rows)} through TensorFlow Lite, {good[1]} through ONNX.", "",
             "| network | size | million parameters | TensorFlow Lite | ONNX |", "| --- " * 5 + "|"]
    for row in rows:
        cells = [cell(row, way) for way in ways]
        lines.append(f"| {row['name']} | {row['size']}x{row['size']} | {row['parameters'] / 1e6:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    survey(__doc__.splitlines()[0], "networks-keras", lambda: [(name,) for name in NAMES], lambda row: (row["name"],), try_network,
           lambda row: f"TensorFlow Lite {row['tflite']}, ONNX {row['onnx']}", table)


if __name__ == "__main__":
    main()
