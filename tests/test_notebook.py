#!/usr/bin/env python3
"""The notebook bench/peers.ipynb, as a reader runs it: every cell, and what it says about captum, zennit and
pytorch-grad-cam is so.

    python3 tests/test_notebook.py [-k TEXT]

Leaves the notebook with its results in $BUILD/peers.ipynb.
"""

import functools
import os
import re
import sys

from harness import ROOT, check, missing_library, needs, run_tests

needs("nbclient", "ipykernel", "captum", "zennit", "pytorch_grad_cam", "torch", "matplotlib")
import nbclient  # noqa: E402
import nbformat  # noqa: E402

sys.path.insert(0, os.path.join(ROOT, "tools"))
import agf  # noqa: E402

NOTEBOOK = os.path.join(ROOT, "bench", "peers.ipynb")
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))

# Relative errors in the norm: rounding of one float32 computation against one in double precision, or
# (pytorch-grad-cam) in float32 too. lrp_a2b1 subtracts two shares, each larger than what is left.
EXACT = 1e-6
LIMITS = {"lrp_a2b1": 1e-5}
COMPARED = {
    ("logits", "PyTorch"),
    ("gradient", "captum"),
    ("gradient_x_input", "captum"),
    ("integrated_gradients", "captum"),
    ("gradcam", "captum"),
    ("gradcam", "pytorch-grad-cam"),
    ("layercam", "pytorch-grad-cam"),
    ("hirescam", "pytorch-grad-cam"),
    ("lrp_a1b0", "zennit"),
    ("lrp_a1b0", "captum"),
    ("lrp_a2b1", "zennit"),
}


@functools.cache
def executed():
    """The notebook with its results; a cell that fails is a failure with the cell's message."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    os.environ["AGF_ROOT"] = ROOT
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    nbformat.write(notebook, os.path.join(BUILD, "peers.ipynb"))
    return notebook


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream")


def test_agreement():
    """With the settings that it shows, each peer's map is ours but for rounding."""
    rows = re.findall(r"^(\w+) +(\S+) +(\S+)$", printed(executed().cells[-1]), re.M)
    check({(method, peer) for method, peer, _ in rows} == COMPARED, f"compared: {rows}")
    for method, peer, error in rows:
        check(float(error) <= LIMITS.get(method, EXACT), f"{method} differs from {peer} by {error}")


def test_settings_matter():
    """Each setting that it names is one that the agreement needs: left out, the map is another one."""
    (cell,) = (cell for cell in executed().cells if "as above" in cell.source)
    found = dict(re.findall(r"^(\S.*?) +(\S+)$", printed(cell), re.M))
    exact = LIMITS["lrp_a2b1"]
    check(len(found) == 5 and float(found.pop("as above")) <= exact, f"{found}")
    for text, error in found.items():
        check(float(error) > 10 * exact, f"{text}: {error}")


def test_pictures():
    """It shows an explanation and a figure of all methods."""
    pictures = [
        output for cell in executed().cells if cell.cell_type == "code" for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    check(len(pictures) == 2, f"{len(pictures)} pictures")


def test_stored_without_results():
    """What is in the repository holds no output, so that it stays small and its history readable."""
    check(os.path.getsize(NOTEBOOK) < 30_000, f"{os.path.getsize(NOTEBOOK)} bytes")
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        check(cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None), cell.source[:60])


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:], missing_library(agf)))
