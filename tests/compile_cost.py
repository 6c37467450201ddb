"""What compiling agf.c costs with gcc on x86-64: user time, memory and text, so that nothing makes it dearer unseen.

Wanted, on an idle machine with gcc 12: 12 s with -O2, 10 s with -O0, 60 s sanitized; 350 KB of text. The limits on
memory and text are those of gcc 12 with up to a tenth to spare (other versions differ by less); those on time are
nearly twice what a machine takes that is busy with as much again, as there are slower ones.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined"]
# flags, seconds of user time, MB of memory, KB of text (None: sanitizers add what they like)
LIMITS = [
    (["-O2"], 30, 400, 360),
    (["-O2", "-DAGF_NO_SIMD"], 14, 200, 210),
    (["-O0"], 25, 400, 470),
    (SANITIZED, 110, 800, None),
]


def compile_cost(flags: list[str], target: Path) -> tuple[float, float]:
    """User seconds and megabytes of the largest process (the compiler proper, not its driver)."""
    command = ["gcc", "-std=c99", *flags, "-c", str(ROOT / "agf.c"), "-o", str(target)]
    report = subprocess.run([sys.executable, __file__, "--measure", *command], check=True, capture_output=True, text=True)
    seconds, megabytes = report.stdout.split()
    return float(seconds), float(megabytes)


def measure(command: list[str]) -> None:
    """Run the command and print what its processes took. In a process of its own, whose children are these alone."""
    import resource

    subprocess.run(command, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(used.ru_utime, used.ru_maxrss / 1024)


def sizes_said() -> tuple[float, float]:
    """What agf.h says that the code has with all, and what AGF_NO_SIMD takes off, in KB."""
    header = (ROOT / "agf.h").read_text()
    (everything,) = re.findall(r"(\d+) KB with all", header)
    (kernels,) = re.findall(r"AGF_NO_SIMD .* (\d+) KB$", header, re.M)
    return float(everything), float(kernels)


def main() -> int:
    if platform.machine() != "x86_64" or not shutil.which("gcc") or os.name != "posix":
        print("SKIP compile_cost: gcc on x86-64 is what the limits are for")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    passed = failed = 0
    texts = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "agf.o")
        for flags, seconds_at_most, megabytes_at_most, text_at_most in LIMITS:
            seconds, megabytes = compile_cost(flags, target)
            size = subprocess.run(["size", str(target)], check=True, capture_output=True, text=True).stdout
            text = int(re.findall(r"\d+", size)[0]) / 1024
            texts.append(text)
            print(f"gcc {' '.join(flags)}: {seconds:.1f} s, {megabytes:.0f} MB, {text:.0f} KB of text")
            for name, value, limit in (
                ("s", seconds, seconds_at_most),
                ("MB", megabytes, megabytes_at_most),
                ("KB of text", text, text_at_most),
            ):
                if limit is None:
                    continue
                if value <= limit:
                    passed += 1
                else:
                    failed += 1
                    print(f"FAIL gcc {' '.join(flags)}: {value:.0f} {name}, at most {limit}")
    # agf.h rounds to tens, and other versions of gcc differ by a tenth.
    for said, is_so in zip(sizes_said(), (texts[0], texts[0] - texts[1])):
        if abs(said - is_so) <= 0.1 * is_so + 10:
            passed += 1
        else:
            failed += 1
            print(f"FAIL agf.h says {said:.0f} KB of code, and it is {is_so:.0f}")
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2:])
    else:
        sys.exit(main())
