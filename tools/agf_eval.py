#!/usr/bin/env python3
"""Judge attribution methods on a folder of pictures: agf_eval.py --help lists the experiments.

The battery is the package agf_eval beside this file.
"""

import sys

try:
    from agf_eval.cli import main  # the package: Python looks for those before files of the same name
except ModuleNotFoundError as missing:
    print(f"agf_eval.py: error: needs the Python package {missing.name}: in a virtual environment, pip install numpy pillow "
          "matplotlib tqdm scikit-learn scipy", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
