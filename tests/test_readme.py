#!/usr/bin/env python3
"""What README.md, bench/README.md and CONTRIBUTING.md show works, and every file that the repository names is in it.

    python3 tests/test_readme.py [-k TEXT] [-v]

C programs compile without a warning and explain with the model that the repository carries, all with one result and
without undefined behaviour; the one that brings its own memory is linked to a malloc that ends the program. Commands
run as they stand, in a folder that looks like a clone with the files they speak of; those that install, need other
machines or take minutes are named below, and all others are run. Python programs run one after the other, as a reader
would type them.
"""

import functools
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys

from harness import ROOT, Skip, check, missing_file, run_tests

BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))  # the tests run in folders of their own
LIBRARY = os.path.join(BUILD, "libagf.a")
DEMO = os.path.join(ROOT, "tests", "demo", "demo.agf")
DOCUMENTS = ("README.md", "bench/README.md", "CONTRIBUTING.md")
PATIENCE = 900  # seconds; nothing here takes a minute on an idle machine
NO_HEAP = """#include <stdio.h>
#include <stdlib.h>
void *__wrap_malloc(size_t n) { fprintf(stderr, "malloc of %lu bytes\\n", (unsigned long)n); exit(3); }
"""
UNDEFINED = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", text_of(path), re.S)


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)


# C programs

def compiled(name, text, *flags):
    """The program made of `text`; its compiler's run."""
    source, program = os.path.abspath(name + ".c"), os.path.abspath(name)
    with open(source, "w", encoding="utf-8") as f:
        f.write(text)
    command = [*os.environ.get("CC", "cc").split(), "-std=c99", "-Wall", "-Wextra", *flags, "-I" + ROOT, source, LIBRARY]
    return program, run(*command, "-o", program, "-lm", "-lpthread")


def links(*flags):
    """Whether the compiler makes a program with these flags that runs."""
    program, made = compiled("probe", "int main(void) { return 0; }", *flags)
    return made.returncode == 0 and run(program).returncode == 0


def explains(program):
    """What the program prints about the model; its mistakes of use end with one line that names what is wrong."""
    done = run(program, DEMO)
    check(
        done.returncode == 0 and "evidence at the centre" in done.stdout and not done.stderr,
        f"code {done.returncode}: {done.stdout}{done.stderr}",
    )
    wrong = run(program, "no/such.agf")
    check(
        wrong.returncode == 2 and "no/such.agf" in wrong.stderr and wrong.stderr.count("\n") == 1,
        f"a missing model: code {wrong.returncode}: {wrong.stdout}{wrong.stderr}",
    )
    none = run(program)
    check(
        none.returncode == 2 and none.stderr == "usage: explain MODEL\n",
        f"no argument: code {none.returncode}: {none.stdout}{none.stderr}",
    )
    return done.stdout


def test_c_programs():
    programs = blocks("README.md", "c")
    check(len(programs) == 3, f"the README shows {len(programs)} C programs")
    own_memory = [text for text in programs if re.search(r"\bagf_allocator\b", text)]
    check(len(own_memory) == 1, f"{len(own_memory)} of the README's C programs bring an allocator")
    with open("no_heap.c", "w", encoding="utf-8") as f:
        f.write(NO_HEAP)
    sanitizer = UNDEFINED if links(*UNDEFINED) else []
    printed = set()
    for i, text in enumerate(programs):
        flags = list(sanitizer)
        if "#pragma omp" in text:
            if not links("-fopenmp"):
                print("SKIP the program on OpenMP: the compiler takes no -fopenmp")
                continue
            flags.append("-fopenmp")
        if text in own_memory:
            flags += [os.path.abspath("no_heap.c"), "-Wl,--wrap=malloc"]
        program, made = compiled(f"program{i}", text, *flags)
        check(made.returncode == 0 and not made.stderr, made.stderr)
        printed.add(explains(program))
    check(len(printed) == 1, f"the programs print different results: {printed}")


def test_switches():
    """The table of the build's switches says what agf.h says, and names no other."""
    sizes = re.findall(r"^ \*   (AGF_NO_\w+) .*?(\S+ KB)$", text_of("agf.h"), re.M)
    shown = re.findall(r"^\| `-D(AGF_NO_\w+)` \|.*\| (\S+ KB) \|$", text_of("README.md"), re.M)
    check(len(sizes) >= 5 and sorted(sizes) == sorted(shown), f"{shown}, not {sizes}")


def test_op_of_contributing():
    """The op that CONTRIBUTING.md adds as an example compiles in today's engine without a warning; its row is whole."""
    section, row = blocks("CONTRIBUTING.md", "c")
    engine, header = text_of("agf.c"), text_of("agf.h")
    end = engine.index("/* clang-format on */", engine.index("agf_op_table[]"))
    end = engine.rindex("};", 0, end)
    engine = engine[:end] + ",\n" + row.rstrip().rstrip(",") + engine[end:]
    engine = engine.replace("/* MARK: op: reshaping", section + "\n/* MARK: op: reshaping", 1)
    engine += """
int main(void) {
  return strcmp(agf_op_name(AGF_OP_ABS), "abs") || agf_missing_function(agf_rules_of(AGF_OP_ABS));
}
"""
    last = re.findall(r"(AGF_OP_\w+ = (\d+))", header)[-1]
    header = header.replace(last[0], f"{last[0]},\n  AGF_OP_ABS = {int(last[1]) + 1}", 1)
    for name, text in (("agf.h", header), ("engine.c", engine)):
        with open(name, "w", encoding="utf-8") as f:
            f.write(text)
    made = run(
        *os.environ.get("CC", "cc").split(),
        "-std=c99",
        *["-Wall", "-Wextra", "-DAGF_NO_SIMD", "-DAGF_KERNELS_LINKED", "-DAGF_API=static", "-I" + ROOT],  # as tests/inside.h
        *["engine.c", LIBRARY, "-o", "engine", "-lm", "-lpthread"],
    )
    check(made.returncode == 0 and not made.stderr, made.stderr)
    check(run(os.path.abspath("engine")).returncode == 0, "the op's row is not whole")


# Commands

# What is not run here, and why.
NOT_RUN = (
    (r"^sudo apt-get install -y [a-z0-9 -]+( && make (demo|test))?$", "installs packages"),
    (r"^(sudo )?make( test| torch test|$)", "runs this test"),
    (r"^python3 -m venv ", "installs packages"),
    (r"^(\S*/)?pip install ", "installs packages"),
    (r"^parallel ", "needs other machines"),
    (r"--dask tcp:", "needs other machines"),
    (r"^sh bench/results.sh", "takes hours"),
    (r"^make bench$", "runs what the table under it names, each for all networks"),
    (r"^make mca$", "needs llvm-mca 19, which Debian 12 lacks"),
    (r"agf_page.py", "does not end: tests/test_page.py runs it"),
)
# What a reader replaces by names and sizes of his own.
REPLACED = (
    (r"\bconv_7\b", "conv2"),
    (r"--scenes 100\b", "--scenes 6"),
    (r"--cells 3 --confidence 0.9", "--cells 2 --confidence 0.5 --grids 5"),
    (r" MODEL \[PICTURE\]", " net.agf dog.jpg"),
    (r"\bbench/ratios.py\b", "bench/ratios.py MobileNetV2 --rounds 1"),  # one network and one round show that it runs
    (r"\bbench/peers.py\b", "bench/peers.py --networks resnet50 --runs 1"),
    (r"^build/check_kernels --bench$", "build/check_kernels --bench --kernel row_max"),
    (r"\bbench/folder.py\b", "bench/folder.py MobileNetV2 --pictures 8 --rounds 1"),
    (r"^rpicam-vid .*--codec mjpeg -o - \|", "cat dog.jpg dog.jpg |"),  # a camera
    (r"^rpicam-vid .*--codec yuv420 -o - \|", "head -c 921600 /dev/urandom |"),  # two of its frames, 640x480
    (r"\| ffplay -$", "| cat >shown.mjpeg"),  # a screen
)


def commands_of(path):
    """The commands of a document, a list for each block; of bench/README.md, those in its table's last column."""
    if path == "bench/README.md":
        cells = [line.rsplit("|", 2)[1] for line in text_of(path).splitlines() if re.match(r"\| \w.*\|.*\|.*\|$", line)]
        found = [re.match(r" `([^`]*)`", cell) for cell in cells]
        return [[part.strip() for part in m[1].split(";")] for m in found if m and " " in m[1]]
    lists = []
    for block in blocks(path, "sh"):
        lines = block.replace("\\\n", " ").splitlines()
        lists.append([re.sub(r"(^|\s)#\s.*", "", line).strip() for line in lines])
    return [[command for command in commands if command] for commands in lists]


def python_has(*modules):
    return all(importlib.util.find_spec(module) for module in modules)


def clone():
    """A folder that looks like a clone of the repository, built, with a reader's own files; made in the current one."""
    from test_cli import jpeg_bytes, save

    for name in os.listdir(ROOT):
        if name not in ("build", ".git", "dist"):
            os.symlink(os.path.join(ROOT, name), name)
    os.mkdir("build")
    for path in [*glob.glob(os.path.join(BUILD, "*")), os.path.join(ROOT, "build", "venv")]:
        name = os.path.join("build", os.path.basename(path))
        if os.path.exists(path) and not os.path.lexists(name):
            os.symlink(path, name)
    own_network()
    with open("labels.txt", "w", encoding="utf-8") as f:
        f.writelines(f"thing {i}\n" for i in range(12))
    save("dog.jpg", jpeg_bytes([[20 * (i + j) for i in range(8)] for j in range(5)]))
    os.mkdir("photos")
    for k, name in enumerate(("0_a.jpg", "1_b.jpg", "2_c.jpg", "1_d.jpg")):
        save("photos/" + name, jpeg_bytes([[(37 * i * (k + 1) + 11 * j) % 256 for i in range(8)] for j in range(5)]))


def own_network():
    from test_cli import write_model

    labels = [f"thing {i}" for i in range(300)]
    labels[282] = "tiger cat"
    write_model("net.agf", labels=labels)


def own_files(command):
    """Makes what a command reads besides: a tensor, an ONNX file, weights. Raises Skip where it cannot."""
    if "x.npy" in command:
        from test_cli import npy_bytes, save

        save("x.npy", npy_bytes([0.01 * (i % 97) for i in range(3 * 32 * 40)], (3, 32, 40)))
    if "net.onnx" in command:
        if not python_has("numpy", "onnx"):
            raise Skip("numpy and onnx are not installed")
        import numpy
        from onnx import TensorProto, helper, numpy_helper, save

        random = numpy.random.RandomState(1)
        weights = [
            numpy_helper.from_array(random.randn(*shape).astype(numpy.float32), name)
            for name, shape in (("w", (8, 3, 7, 7)), ("v", (12, 8)), ("b", (12,)))
        ]
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], strides=[4, 4]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "v", "b"], ["y"], transB=1),
        ]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", [1, 3, 224, 224]), ("y", [1, 12]))
        ]
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "net.onnx")
    if "fine_tuned.pth" in command:
        if not os.environ.get("CI") or not python_has("torch", "torchvision"):
            raise Skip("PyTorch is not installed, or this is not CI: 100 MB of weights")
        import torch
        import torchvision

        torch.save(torchvision.models.resnet50(weights=None, num_classes=12).state_dict(), "fine_tuned.pth")
    if "agf_eval.py" in command:
        if not python_has("numpy", "matplotlib", "PIL", "scipy", "sklearn", "tqdm"):
            raise Skip("what the battery draws with is not installed")
        if " net.agf photos " in command and not os.path.exists("photos/labels.csv"):  # a network that knows its pictures
            shutil.rmtree("photos")
            shutil.copy(DEMO, "net.agf")
            draw = ("--scenes", "8", "--objects", "1", "--out", "photos")
            done = run(sys.executable, os.path.join(ROOT, "tools", "train_demo.py"), *draw)
            check(done.returncode == 0, done.stderr)
    if "--multilabel" in command:
        if not os.path.exists("build/multilabel/multilabel.agf"):  # what follows asks the demo's network instead
            os.makedirs("build/multilabel", exist_ok=True)
            shutil.copy(DEMO, "build/multilabel/multilabel.agf")
        raise Skip("it trains for minutes")
    if "train_demo.py" in command and not python_has("numpy", "PIL"):
        raise Skip("numpy and Pillow are not installed")
    if command.startswith("aarch64-linux-gnu-gcc"):
        if not os.environ.get("CI") or not shutil.which("aarch64-linux-gnu-gcc"):
            raise Skip("gcc for aarch64 is not installed, or this is not CI: it compiles for a minute")
    if re.search(r"bench/(ops|ratios|folder|peers)\.py", command):
        peers = ("torch", "torchvision", "timm", "onnxruntime", "pytorch_grad_cam", "captum", "zennit")
        if not os.environ.get("CI") or not python_has(*peers):
            raise Skip("PyTorch and its peers are not installed, or this is not CI: it measures for a minute")
    if "bench_conv" in command and not os.environ.get("CI"):
        raise Skip("this is not CI: it compiles and measures for minutes")


def check_commands(path):
    """Runs a document's commands; returns how many."""
    clone()
    environment = dict(os.environ, PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    ran, skipped = 0, {}
    for commands in commands_of(path):
        own_network()  # where the block before converted another
        for command in commands:
            why = next((why for pattern, why in NOT_RUN if re.search(pattern, command)), None)
            if why:
                continue
            for pattern, own in REPLACED:
                command = re.sub(pattern, own, command)
            try:
                own_files(command)
            except Skip as reason:
                skipped.setdefault(str(reason), []).append(command)
                continue
            done = run("sh", "-c", command, env=environment)
            check(done.returncode == 0, f"{path}: {command}: code {done.returncode}: {done.stdout[-300:]}{done.stderr[-600:]}")
            ran += 1
    for reason, commands in skipped.items():
        print(f"SKIP {len(commands)} commands of {path}: {reason}")
    return ran


def test_commands_of_the_readme():
    check(check_commands("README.md") >= 6, "the README's commands were not found")
    for name in ("why.png", "maps.npy", "maps"):
        check(os.path.exists(name), f"the README's commands did not make {name}")


def test_commands_of_the_benchmarks():
    check(check_commands("bench/README.md") >= 1, "the commands of bench/README.md were not found")


def test_commands_of_contributing():
    check(check_commands("CONTRIBUTING.md") >= 3, "the commands of CONTRIBUTING.md were not found")


def test_packages_go_into_an_environment():
    """Debian 12 and Raspberry Pi OS refuse pip outside of one."""
    for path in DOCUMENTS:
        for commands in commands_of(path):
            made = False
            for command in commands:
                made |= "-m venv " in command
                check(made or "pip install" not in command, f"{path}: {command}: no environment is made before")


def test_python_programs():
    if not python_has("numpy", "PIL"):
        raise Skip("numpy and Pillow are not installed")
    clone()
    programs = blocks("README.md", "python")
    check(programs, "the README shows no Python")
    text = "from PIL import Image\nphoto = Image.open('dog.jpg')\n" + "\n".join(programs)
    done = run(sys.executable, "-c", text, env=dict(os.environ, AGF_LIBRARY=os.path.join(BUILD, "libagf.so")))
    check(done.returncode == 0, f"the README's Python: {done.stdout[-300:]}{done.stderr[-800:]}")


# Names

@functools.lru_cache(maxsize=1)
def repository():
    """The repository's files, by git's account or, in a copy without git, by the folder's."""
    listed = run("git", "ls-files", cwd=ROOT)
    if listed.returncode == 0:
        return sorted(set(listed.stdout.split("\n")) - {""})
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in ("build", "dist", ".git", "__pycache__")]
        found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names]
    return found


def test_programs_can_be_started():
    """What a command begins with is executable, and so is every script with a first line that says how to run it."""
    for path in repository():
        if os.path.islink(os.path.join(ROOT, path)) or not path.endswith((".py", ".sh")):
            continue
        with open(os.path.join(ROOT, path), "rb") as f:
            says = f.read(2) == b"#!"
        check(not says or os.access(os.path.join(ROOT, path), os.X_OK), f"{path} begins with #! and is not executable")


def test_files_that_are_named():
    """A path in a comment, a document or a message is that of a file here; a link leads somewhere."""
    files = repository()
    folders = {os.path.dirname(path) for path in files}
    folders |= {os.path.dirname(folder) for folder in folders}
    missing = []
    for path in files:
        if not path.endswith((".c", ".h", ".inc", ".py", ".sh", ".md", ".toml", ".txt", "Makefile", "run")):
            continue
        try:
            text = text_of(path)
        except UnicodeDecodeError:
            continue
        named = re.findall(r"(?<![\w/.$}{-])((?:tests|tools|bench|kernels)/[\w./-]*\.(?:c|h|inc|py|sh|md|txt))\b", text)
        if path.endswith(".md"):
            links = [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if " " not in link]
            named += [os.path.normpath(os.path.join(os.path.dirname(path), link)) for link in links]
        made = set(re.findall(r"Makes? (tests/[\w./-]+)", text))  # what a program says that it makes
        missing += [f"{path} names {name}" for name in named if name not in files and name not in folders | made]
    check(not missing, "; ".join(missing))


def test_versions():
    """Every place a version stands says the same."""
    header = dict(re.findall(r"#define AGF_VERSION_(MAJOR|MINOR|PATCH) (\d+)", text_of("agf.h")))
    version = ".".join(header[part] for part in ("MAJOR", "MINOR", "PATCH"))
    check(re.search(rf"^## {re.escape(version)}\b", text_of("CHANGELOG.md"), re.M), f"CHANGELOG.md has no heading {version}")
    check(f"SONAME = libagf.so.{header['MAJOR']}\n" in text_of("Makefile"), "the Makefile's SONAME has another version")
    bound = re.search(r"^VERSION = \((\d+), (\d+)\)", text_of("tools/agf/engine.py"), re.M)
    check(bound and bound.groups() == (header["MAJOR"], header["MINOR"]), f"tools/agf/engine.py is for another version: {bound}")
    said = run(os.path.join(BUILD, "agf"), "--version").stdout
    check(said.startswith(f"agf {version} "), f"agf --version says {said}")


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:], missing_file(LIBRARY, os.path.join(BUILD, "agf"))))
