"""LiteRT in a process of its own: it crashes on some files that it should refuse, and then only that process ends.

    python3 litert.py NET.tflite TENSOR < inputs.npy > outputs.npy

Inputs and outputs are stacked along a first axis. TENSOR is the number of the output, or of a tensor within the
network, for which all tensors are kept and the operators run one by one. Exit code 3 where LiteRT refuses the file,
its reason as the last line of stderr.
"""

import io
import sys

import numpy as np


def main(path, number):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    tensors = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    try:
        interpreter = Interpreter(path, num_threads=1)
        if number not in [one["index"] for one in interpreter.get_output_details()]:
            plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # a delegate keeps what lies between its operators to itself
            interpreter = Interpreter(
                path, num_threads=1, experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True
            )
        interpreter.allocate_tensors()
        results = []
        for tensor in tensors:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor)
            interpreter.invoke()
            results.append(interpreter.get_tensor(number))
    except (RuntimeError, ValueError) as problem:
        print(" ".join(str(problem).split()), file=sys.stderr)
        return 3
    np.save(sys.stdout.buffer, np.array(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
