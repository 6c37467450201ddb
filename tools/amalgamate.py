#!/usr/bin/env python3
"""Write the drop-in pair: agf.h, and agf.c with every quoted #include but "agf.h" replaced by the file's text.

Nothing else is changed, so the pair has the same bytes every time. A file is inlined where it is named; a second
#include of a file without parameters (its head has an include guard) is dropped, as its guard would do.
"""
import argparse
import os
import re
import sys

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[^\n]*\n', re.M)
GUARD = re.compile(r"^#ifndef (\w+)\n#define \1\b", re.M)


def inlined(path, seen):
    with open(path, encoding="utf-8") as f:
        text = f.read()

    def replace(match) -> str:
        name = match.group(1)
        if os.path.basename(name) == "agf.h":
            return match.group(0)
        target = os.path.normpath(os.path.join(os.path.dirname(path), name))
        if not os.path.isfile(target):
            sys.exit(f"amalgamate.py: {path} includes {name}, which is not there")
        with open(target, encoding="utf-8") as f:
            guarded = GUARD.search(f.read()) is not None
        if guarded and target in seen:
            return ""
        seen.add(target)
        return inlined(target, seen)

    return INCLUDE.sub(replace, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", help="where agf.h and agf.c are written; made if it is missing")
    folder = parser.parse_args().folder
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(root, "agf.h"), encoding="utf-8") as f:
        header = f.read()
    for name, text in (("agf.h", header), ("agf.c", inlined(os.path.join(root, "agf.c"), set()))):
        temporary = os.path.join(folder, name + ".new")
        with open(temporary, "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
        os.replace(temporary, os.path.join(folder, name))


if __name__ == "__main__":
    main()
