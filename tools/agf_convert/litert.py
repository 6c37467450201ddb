"""LiteRT in a process of its own: it crashes on some files that it should refuse, and then only that process ends.

    python3 litert.py NET.tflite TENSOR < input.npy > output.npy

TENSOR is the number of the output. Exit code 3 where LiteRT refuses the file, its reason as the last line of stderr.
"""

import io
import sys

import numpy as np


def main(path, number):
    from ai_edge_litert.interpreter import Interpreter

    tensor = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    try:
        interpreter = Interpreter(path, num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor)
        interpreter.invoke()
        outputs = [one["index"] for one in interpreter.get_output_details()]
        result = interpreter.get_tensor(number if number in outputs else outputs[0])
    except (RuntimeError, ValueError) as problem:
        print(" ".join(str(problem).split()), file=sys.stderr)
        return 3
    np.save(sys.stdout.buffer, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
