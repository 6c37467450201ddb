"""What a file is that no front end reads, and the way from there to one that is read."""
import os

KERAS = ('a Keras file: keras.models.load_model() reads it, tf.lite.TFLiteConverter.from_keras_model() makes a .tflite file of '
         'that (README, "Keras"); one of Teachable Machine is exported as TensorFlow Lite')
SAVED_MODEL = 'a TensorFlow SavedModel: tf.lite.TFLiteConverter.from_saved_model() makes a .tflite file of its folder'
TENSORFLOW_JS = "a TensorFlow.js network: export TensorFlow Lite (Teachable Machine offers it too)"
STATE_DICT = ('for a PyTorch state dict say --arch NAME --weights FILE (or --timm NAME); a network of your own is converted in '
              'Python, agf_convert.convert(module, "net.agf", size=...), or exported to ONNX')
ENDINGS = {
    (".h5", ".hdf5", ".keras"): KERAS,
    (".pb",): "a TensorFlow graph: python -m tf2onnx.convert makes an ONNX file of it",
    (".pkl",): "for a fastai export say in Python agf_convert.convert(load_learner(FILE), \"net.agf\")",
    (".pth", ".pt", ".safetensors", ".npz", ".bin", ".ckpt"): STATE_DICT,
    (".pdmodel", ".pdiparams"): "a PaddlePaddle network: the package paddle2onnx makes an ONNX file of it",
    (".caffemodel", ".prototxt"): "a Caffe network, which is not understood: convert it to ONNX",
    (".mlmodel", ".mlpackage", ".xml", ".engine", ".plan", ".trt", ".rknn", ".hef", ".eim", ".blob", ".mnn", ".param", ".ncnn"):
        "made for one runtime and not understood: convert the file that it was made from, an ONNX or .tflite file or a network "
        "of PyTorch",
    (".zip", ".gz", ".tar", ".7z"): "an archive: unpack it, and convert the network within",
}
STARTS = {
    b"\x89HDF": KERAS,
    b"\x89AGF": "it is an .agf file already",
    b"PK\x03\x04": STATE_DICT,
}


def advice(path):
    """"; " and what a file that is none of ours may be; "" where nothing tells."""
    if os.path.exists(os.path.join(path, "saved_model.pb")) or os.path.basename(path) == "saved_model.pb":
        return f"; {SAVED_MODEL}"
    for endings, said in ENDINGS.items():
        if path.lower().endswith(endings):
            return f"; {said}"
    try:
        with open(path, "rb") as f:
            start = f.read(2048)
    except OSError:
        return ""
    if b'"modelTopology"' in start:
        return f"; {TENSORFLOW_JS}"
    return next((f"; {said}" for first, said in STARTS.items() if start.startswith(first)), "")
