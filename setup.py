"""Builds the one compiled file of the Python package: the engine, which tools/agf loads. pyproject.toml says the rest.

pip install .            needs a C compiler; on Windows the build brings one along (ziglang)
"""

import os
import pathlib
import re
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = pathlib.Path(__file__).parent
LIBRARY = {"win32": "agf.dll", "darwin": "libagf.dylib"}.get(sys.platform, "libagf.so")  # as tools/agf/engine.py has it


def version() -> str:
    """The engine's, from agf.h."""
    text = (HERE / "agf.h").read_text(encoding="utf-8")
    return ".".join(re.findall(r"^#define AGF_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", text, re.M))


class BuildLibrary(build_ext):
    """A plain shared library beside the package's modules, no Python module: one wheel serves every version."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(pathlib.Path(*fullname.split(".")[:-1], LIBRARY))

    def get_export_symbols(self, ext: Extension) -> list:
        return []

    def build_extension(self, ext: Extension) -> None:
        if sys.platform != "win32":
            super().build_extension(ext)
            return
        # Python's own compiler there is MSVC, which has no pthreads.
        target = pathlib.Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = [sys.executable, "-m", "ziglang", "cc"]
        flags = ["-std=c99", "-O2", "-DAGF_API=__declspec(dllexport)", "-shared", "-o", str(target)]
        subprocess.run([*compiler, *flags, *ext.sources], check=True)


class PlatformWheel(bdist_wheel):
    """One wheel for every Python 3 of a platform."""

    def get_tag(self) -> tuple:
        return "py3", "none", super().get_tag()[2]


setup(
    version=version(),
    ext_modules=[
        Extension(
            "agf.libagf",
            ["agf.c"],
            depends=["agf.h", *sorted(str(path.relative_to(HERE)) for path in (HERE / "kernels").iterdir())],
            include_dirs=["."],
            # Python's own flags say -O3, which takes twice as long here for nothing; whoever sets CFLAGS decides.
            extra_compile_args=["-std=c99"] + ([] if "-O" in os.environ.get("CFLAGS", "") else ["-O2"]),
            extra_link_args=["-s"] if sys.platform == "linux" else [],
            libraries=["m", "pthread"],
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
