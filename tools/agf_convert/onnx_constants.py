"""What an ONNX graph computes from constants alone (shapes, reshaped weights): run here, within limits.

Only operations of a list are run, by onnx's own reference evaluator: a file must not make the converter loop, draw
random numbers, or fill the machine's memory.
"""
import math

import numpy as np

from .errors import first_line

# Elements of all constants that are computed: so many, and for each byte of the file so many more, as weights that are
# dequantised, transposed or normalised are computed in a few steps each.
MAX_ELEMENTS = 1 << 26
STEPS = 4

ALLOWED = set("""
    Abs Add And Cast CastLike Ceil Clip Concat Constant ConstantOfShape CumSum DequantizeLinear Div Dropout Equal Erf Exp Expand
    Flatten Floor Gather GatherElements GatherND Gemm Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual Log
    MatMul Max Mean Min Mod Mul Neg Not Or Pad Pow QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum Relu Reshape Round ScatterND Shape Sigmoid Sign Size Slice Softmax Split Sqrt Squeeze Sub Sum
    Tanh Tile Transpose Trilu Unsqueeze Where Xor
""".split())

RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def size_of(node, arguments):
    """An upper bound of the number of elements that a node makes; 0: no more than it was given."""
    op = node.op
    arrays = [array for array in arguments if array is not None]
    if op == "ConstantOfShape":
        return math.prod(int(n) for n in np.ravel(arrays[0]))
    if op == "Expand":
        shape = [int(n) for n in np.ravel(arrays[1])]
        rank = max(len(shape), arrays[0].ndim)
        return math.prod(max(sizes) for sizes in zip((1,) * (rank - len(shape)) + tuple(shape),
                                                     (1,) * (rank - arrays[0].ndim) + arrays[0].shape))
    if op == "Tile":
        return math.prod(int(n) for n in np.ravel(arrays[1])) * arrays[0].size
    if op == "Range":
        start, limit, delta = (float(np.ravel(array)[0]) for array in arrays)
        return max(0, math.ceil((limit - start) / delta))
    if op == "Pad":
        pads = np.ravel(arrays[1] if len(arrays) > 1 else node.attribute("pads", ()))
        return math.prod(size + 2 * int(np.abs(pads).max(initial=0)) for size in arrays[0].shape)
    if op == "Gather":
        return arrays[1].size * (arrays[0].size // max(arrays[0].shape[node.attribute("axis", 0)], 1))
    if op == "GatherElements":
        return arrays[1].size
    if op == "GatherND":
        picked = node.attribute("batch_dims", 0) + arrays[1].shape[-1]
        return math.prod(arrays[1].shape[:-1]) * math.prod(arrays[0].shape[picked:])
    if op == "Gemm":
        rows = arrays[0].shape[1 if node.attribute("transA", 0) else 0]
        return rows * arrays[1].shape[0 if node.attribute("transB", 0) else 1]
    if op == "MatMul":
        return arrays[0].size * arrays[1].size // max(arrays[0].shape[-1], 1)
    if op == "Concat":
        return sum(array.size for array in arrays)
    ranks = max((array.ndim for array in arrays), default=0)
    shapes = [(1,) * (ranks - array.ndim) + array.shape for array in arrays]
    return math.prod(max(sizes) for sizes in zip(*shapes))


def fold(node, arguments):
    """The outputs of a node whose inputs are all constants."""
    import onnx
    from onnx.reference import ReferenceEvaluator
    proto = node.proto
    if node.op in RANDOM:
        raise node.error("random numbers cannot be converted")
    if node.domain != "" or node.op not in ALLOWED:
        raise node.error("computes a constant by an operation that is not run here; fold constants first (onnxslim "
                         "NET.onnx NEW.onnx)")
    if node.op == "Identity":
        return [arguments[0]]
    try:
        elements = size_of(node, arguments)
    except (TypeError, ValueError, IndexError, ArithmeticError) as problem:
        raise node.error(f"a constant that cannot be computed ({first_line(problem)})") from None
    node.b.computing((elements,))
    given = {name: np.asarray(array) for name, array in zip(proto.input, arguments) if name}
    types = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    inputs = [onnx.helper.make_tensor_value_info(name, types[name], array.shape) for name, array in given.items()]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in proto.output if name]
    try:
        model = onnx.helper.make_model(onnx.helper.make_graph([proto], "constant", inputs, outputs),
                                       opset_imports=[onnx.helper.make_opsetid("", node.opset)])
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, given)
    except Exception as problem:  # the evaluator raises whatever the operation's own code runs into
        raise node.error(f"a constant that cannot be computed ({first_line(problem)})") from problem
    results = iter(np.asarray(result) for result in results)
    return [next(results) if name else None for name in proto.output]
