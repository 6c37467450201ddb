#!/usr/bin/env python3
"""The README's C programs compile without a warning and explain with the model that the repository carries, all with
one result and without undefined behaviour; the one that brings its own memory is linked to a malloc that ends the
program. The Python programs that the README starts by their names are executable.
"""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = os.path.join(ROOT, "tests", "demo", "demo.agf")
NO_HEAP = """#include <stdio.h>
#include <stdlib.h>
void *__wrap_malloc(size_t n) { fprintf(stderr, "malloc of %lu bytes\\n", (unsigned long)n); exit(3); }
"""
UNDEFINED = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
passed = failed = skipped = 0


def check(ok, message):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("FAIL test_readme:", message)


def skip(message):
    global skipped
    skipped += 1
    print("SKIP", message)


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def compiled(folder, name, text, *flags):
    """The program made of `text`; its compiler's run."""
    source, program = os.path.join(folder, name + ".c"), os.path.join(folder, name)
    with open(source, "w", encoding="utf-8") as f:
        f.write(text)
    command = [os.environ.get("CC", "cc"), "-std=c99", "-Wall", "-Wextra", *flags, "-I.", source, "build/libagf.a"]
    return program, run(*command, "-o", program, "-lm", "-lpthread")


def links(folder, *flags):
    """Whether the compiler makes a program with these flags that runs."""
    program, made = compiled(folder, "probe", "int main(void) { return 0; }", *flags)
    return made.returncode == 0 and run(program).returncode == 0


def explains(program):
    """What the program prints about the model; its mistakes of use end with one line that names what is wrong."""
    done = run(program, MODEL)
    check(done.returncode == 0 and "evidence at the centre" in done.stdout and not done.stderr,
          f"code {done.returncode}: {done.stdout}{done.stderr}")
    wrong = run(program, "no/such.agf")
    check(wrong.returncode == 2 and "no/such.agf" in wrong.stderr and wrong.stderr.count("\n") == 1,
          f"a missing model: code {wrong.returncode}: {wrong.stdout}{wrong.stderr}")
    none = run(program)
    check(none.returncode == 2 and none.stderr == "usage: explain MODEL\n",
          f"no argument: code {none.returncode}: {none.stdout}{none.stderr}")
    return done.stdout


with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
    readme = f.read()
programs = re.findall(r"```c\n(.*?)```", readme, re.S)
check(len(programs) == 3, f"the README shows {len(programs)} C programs")
own_memory = [text for text in programs if re.search(r"\bagf_allocator\b", text)]
check(len(own_memory) == 1, f"{len(own_memory)} of the README's C programs bring an allocator")
printed = set()
with tempfile.TemporaryDirectory() as folder:
    no_heap = os.path.join(folder, "no_heap.c")
    with open(no_heap, "w", encoding="utf-8") as f:
        f.write(NO_HEAP)
    openmp = links(folder, "-fopenmp")
    sanitizer = UNDEFINED if links(folder, *UNDEFINED) else []
    if not sanitizer:
        skip("undefined behaviour: the compiler does not link -fsanitize=undefined")
    for i, text in enumerate(programs):
        flags = list(sanitizer)
        if "#pragma omp" in text:
            if not openmp:
                skip("the program on OpenMP: the compiler takes no -fopenmp")
                continue
            flags.append("-fopenmp")
        if text in own_memory:
            flags += [no_heap, "-Wl,--wrap=malloc"]
        program, made = compiled(folder, f"program{i}", text, *flags)
        check(made.returncode == 0 and not made.stderr, made.stderr)
        if made.returncode == 0:
            printed.add(explains(program))
check(len(printed) == 1, f"the programs print different results: {printed}")

tools = set()
for commands in re.findall(r"```sh\n(.*?)```", readme, re.S):
    tools.update(re.findall(r"^(tools/\w+\.py)\b", commands, re.M))
check(tools, "the README starts no Python program by its name")
for tool in sorted(tools):
    check(os.path.isfile(os.path.join(ROOT, tool)) and os.access(os.path.join(ROOT, tool), os.X_OK),
          f"{tool}, which begins a command of the README, is no executable file")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(failed != 0)
