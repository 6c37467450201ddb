#!/usr/bin/env python3
"""The README's C programs compile without a warning and explain with the model that the repository carries, all with one
result; the one that promises to need no heap is linked to a malloc that ends the program."""
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
passed = failed = skipped = 0


def check(ok, message):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("FAIL test_readme:", message)


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def compiled(folder, name, text, *flags):
    """The program made of `text`; its compiler's run."""
    source, program = os.path.join(folder, name + ".c"), os.path.join(folder, name)
    with open(source, "w", encoding="utf-8") as f:
        f.write(text)
    return program, run(os.environ.get("CC", "cc"), "-std=c99", "-Wall", "-Wextra", *flags, "-I.", source, "build/libagf.a", "-o",
                        program, "-lm", "-lpthread")


with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
    programs = re.findall(r"```c\n(.*?)```", f.read(), re.S)
check(len(programs) == 3, f"the README shows {len(programs)} C programs")
printed = set()
with tempfile.TemporaryDirectory() as folder:
    no_heap = os.path.join(folder, "no_heap.c")
    with open(no_heap, "w", encoding="utf-8") as f:
        f.write(NO_HEAP)
    openmp = compiled(folder, "probe", "int main(void) { return 0; }", "-fopenmp")[1].returncode == 0
    for i, text in enumerate(programs):
        flags = []
        if "#pragma omp" in text:
            flags = ["-fopenmp"]
            if not openmp:
                skipped += 1
                print("SKIP the program on OpenMP: the compiler takes no -fopenmp")
                continue
        elif "malloc" not in text:
            flags = [no_heap, "-Wl,--wrap=malloc"]
        program, made = compiled(folder, f"program{i}", text, *flags)
        check(made.returncode == 0 and not made.stderr, made.stderr)
        if made.returncode == 0:
            done = run(program, MODEL)
            check(done.returncode == 0 and "evidence at the centre" in done.stdout, f"{done.stdout}{done.stderr}")
            printed.add(done.stdout)
            wrong = run(program, "no/such.agf")
            check(wrong.returncode == 2 and "no/such.agf" in wrong.stderr, f"a missing model: {wrong.stdout}{wrong.stderr}")
check(len(printed) == 1, f"the programs print different results: {printed}")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(failed != 0)
