#!/usr/bin/env python3
"""The Python package as `pip install` makes it: a source distribution, a wheel from that, installed and used.

    python3 tests/test_package.py [-k TEXT]

Needs a C compiler, setuptools, numpy and Pillow; nothing is downloaded.
"""

import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from harness import ROOT, Skip, check, missing_library, needs, run_tests

needs("numpy", "PIL.Image", "setuptools")
import numpy as np  # noqa: E402

sys.path.insert(0, os.path.join(ROOT, "tools"))
import agf  # noqa: E402

SOURCES = (
    "agf.c",
    "agf.h",
    "kernels",
    "tools",
    "tests",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "LICENSE",
    "README.md",
)
DEMO = os.path.join(ROOT, "tests", "demo", "demo.agf")
PHOTO = os.path.join(ROOT, "tests", "demo", "butterfly-cup.png")


def run(*command, folder=".", **environment):
    """A command's output; its error as a failure."""
    env = {key: text for key, text in os.environ.items() if key not in ("AGF_LIBRARY", "PYTHONPATH")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**env, **environment},
        check=False,
    )
    check(done.returncode == 0, f"{' '.join(map(str, command[:6]))}: {done.stdout[-300:]}{done.stderr[-900:]}")
    return done.stdout


@functools.lru_cache(1)
def built():
    """(source distribution, wheel, folder that the wheel is installed in), made once."""
    if not any(shutil.which(c) for c in (os.environ.get("CC", "cc").split()[0], "cc", "gcc", "clang")):
        raise Skip("no C compiler")
    folder = tempfile.mkdtemp(prefix="agf_package_")
    source = os.path.join(folder, "source")
    os.mkdir(source)
    leave = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in SOURCES:
        path = os.path.join(ROOT, name)
        if os.path.isdir(path):
            shutil.copytree(path, os.path.join(source, name), ignore=leave)
        else:
            shutil.copy(path, source)
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('..')", folder=source)
    (archive,) = (os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".tar.gz"))
    shutil.rmtree(source)
    with tarfile.open(archive) as tar:
        tar.extractall(source, filter="data")
    (unpacked,) = os.listdir(source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    # The wheel is built of what is in the archive alone, and quickly: its bits do not depend on flags or kernels.
    run(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, os.path.join(source, unpacked),
        CFLAGS="-O0 -DAGF_NO_SIMD")  # fmt: skip
    (wheel,) = (os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".whl"))
    site = os.path.join(folder, "site")
    run(*pip, "install", "--no-deps", "--no-index", "--target", site, wheel)
    return archive, wheel, site


def test_wheel():
    """The wheel holds the modules and the compiled library, serves every Python 3, and says what it needs."""
    archive, wheel, _ = built()
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        metadata = next(z.read(name).decode() for name in names if name.endswith("METADATA"))
    for name in ("agf/__init__.py", "agf/py.typed", f"agf/{os.path.basename(agf.library_path())}"):
        check(name in names, f"{name} is not in the wheel: {names}")
    for package in ("agf_convert", "agf_eval"):
        modules = {name for name in os.listdir(os.path.join(ROOT, "tools", package)) if name.endswith(".py")}
        check(modules <= {name.partition("/")[2] for name in names if name.startswith(package + "/")}, f"all of {package}")
    check("-py3-none-" in wheel and f"Version: {agf.version()}\n" in metadata, f"{wheel}: {metadata[:200]}")
    with tarfile.open(archive) as tar:
        sources = [name.partition("/")[2] for name in tar.getnames()]
    for name in os.listdir(os.path.join(ROOT, "kernels")):
        check(f"kernels/{name}" in sources, f"kernels/{name} is not in the source distribution")


def test_installed():
    """An installed package explains with the bits of this repository's library."""
    *_, site = built()
    code = (
        "import agf, sys, numpy\n"
        f"with agf.Model({DEMO!r}) as model: numpy.save('map.npy', model.explain({PHOTO!r}, 'cup').map)\n"
        "print(agf.library_path())"
    )
    path = run(sys.executable, "-c", code, PYTHONPATH=site).strip()
    check(os.path.dirname(path) == os.path.join(site, "agf"), f"the wheel's own library: {path}")
    with agf.Model(DEMO) as model:
        check(np.array_equal(np.load("map.npy"), model.explain(PHOTO, "cup").map), "the same bits")


def test_commands():
    *_, site = built()
    for name, text in (("agf-convert", "usage: agf-convert"), ("agf-eval", "perturb")):
        script = os.path.join(site, "bin", name)
        check(text in run(sys.executable, script, "--help", PYTHONPATH=site), f"{name} --help")


if __name__ == "__main__":
    code = run_tests(dict(globals()), sys.argv[1:], missing_library(agf))
    if built.cache_info().currsize:
        shutil.rmtree(os.path.dirname(built()[0]))
    sys.exit(code)
