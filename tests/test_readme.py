#!/usr/bin/env python3
"""The README's C program compiles without a warning and explains with the model that the repository carries."""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = os.path.join(ROOT, "tests", "demo", "demo.agf")
passed = failed = 0


def check(ok, message):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("FAIL test_readme:", message)


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
    programs = re.findall(r"```c\n(.*?)```", f.read(), re.S)
check(programs, "the README shows no C program")
for text in programs:
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "program.c"), os.path.join(folder, "program")
        with open(source, "w", encoding="utf-8") as f:
            f.write(text)
        made = run(os.environ.get("CC", "cc"), "-std=c99", "-Wall", "-Wextra", "-I.", source, "build/libagf.a", "-o", program, "-lm",
                   "-lpthread")
        check(made.returncode == 0 and not made.stderr, made.stderr)
        if made.returncode == 0:
            done = run(program, MODEL)
            check(done.returncode == 0 and "evidence at the centre" in done.stdout, f"{done.stdout}{done.stderr}")
            wrong = run(program, "no/such.agf")
            check(wrong.returncode == 2 and "no/such.agf" in wrong.stderr, f"a missing model: {wrong.stdout}{wrong.stderr}")
print(f"{passed} passed, {failed} failed")
sys.exit(failed != 0)
