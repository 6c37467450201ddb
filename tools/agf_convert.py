#!/usr/bin/env python3
"""Convert networks to .agf model files.

    agf_convert.py NET.onnx -o NET.agf          an ONNX file, opsets 7 to 25
    agf_convert.py NET.tflite -o NET.agf        a TensorFlow Lite file
    agf_convert.py --arch resnet50 -o NET.agf   a torchvision network by its name (--timm: one of timm's)

The converter is the package agf_convert beside this file. An ONNX file needs numpy and onnx; networks by name need
torch, with torchvision or timm. agf.h describes the file that is written.
"""
import sys

from agf_convert.cli import main  # the package: Python looks for those before files of the same name

if __name__ == "__main__":
    sys.exit(main())
