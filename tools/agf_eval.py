#!/usr/bin/env python3
"""Judge attribution methods on a folder of pictures: agf_eval.py --help lists the experiments.

The battery is the package agf_eval beside this file.
"""

import sys

from agf_eval.cli import main  # the package: Python looks for those before files of the same name

if __name__ == "__main__":
    sys.exit(main())
