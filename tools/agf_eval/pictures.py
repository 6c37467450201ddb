"""Pictures, labels and masks: what a folder or a CSV lists."""

import csv
import hashlib
import os
import re
from collections import Counter


from .common import EvalError, PICTURE_FILES, progress, say


def class_of(text, labels, classes):
    """The class that a label names: its number, or its name in the model file. ValueError otherwise."""
    text = text.strip()
    if re.fullmatch(r"\d+", text):
        if int(text) < classes:
            return int(text)
        raise ValueError(f"class {int(text)} of a network with {classes} classes")
    matches = [k for k, label in enumerate(labels) if label.lower() == text.lower()]
    if len(matches) != 1:
        raise ValueError(f"{len(matches) or 'no'} class{'es are' if len(matches) > 1 else ' is'} called {text!r}")
    return matches[0]


def class_of_file_name(path, labels, classes):
    """The class that a file's name begins with: a number, or the longest label that fits."""
    stem = os.path.splitext(os.path.basename(path))[0]
    number = re.match(r"\d+", stem)
    if number:
        return class_of(number.group(), labels, classes)
    fitting = [label for label in labels if label and stem.lower().startswith(label.lower())]
    if not fitting:
        raise ValueError("its name begins with no class: give --labels")
    return class_of(max(fitting, key=len), labels, classes)


def rows_of_csv(path):
    """The rows of a CSV with at least the columns file and label; "" where a row is short."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, restkey="", restval="", strict=True)  # strict: an open quote is no field
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise EvalError(f"{path}: its first line must name the columns file and label")
            return list(reader)
    except UnicodeDecodeError:
        raise EvalError(f"{path}: not UTF-8: save it as UTF-8 text") from None
    except csv.Error as problem:
        raise EvalError(f"{path}: not a CSV, near line {reader.line_num}: {problem}") from None


def files_of(folder):
    """The pictures below a folder in a fixed order; what else looks like pictures is counted aloud."""
    found, others = [], Counter()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if name.lower().endswith(".mask.png"):
                continue
            if ending in PICTURE_FILES:
                found.append(os.path.relpath(os.path.join(parent, name), folder))
            elif not name.startswith(".") and name != "labels.csv":
                others[ending or "files without an ending"] += 1
    if others:
        counts = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        say(f"passed over in {folder}: {counts} (what is read ends in {', '.join(PICTURE_FILES)})")
    return sorted(found)


def list_pictures(folder, args, model):
    """The pictures of a folder in a fixed order: [{file, label, explain?, mask?, problem?}].

    file: its path below the folder. explain: the class in the CSV's column --explain, if that is not predicted or
    target. problem: why it cannot be used.
    """
    if not os.path.isdir(folder):
        raise EvalError(f"{folder}: no such folder")
    table = args.labels or os.path.join(folder, "labels.csv")
    column = None if args.explain in ("predicted", "target") else args.explain
    if os.path.isfile(table):
        rows = rows_of_csv(table)
        for name in (column, getattr(args, "mask_column", None)):
            if name and rows and name not in rows[0] and not (name == "mask" and args.masks):
                raise EvalError(f"{table}: there is no column {name}")
    elif args.labels:
        raise EvalError(f"{args.labels}: no such file")
    elif column:
        raise EvalError(f"--explain {column} names a column of a CSV: give --labels")
    else:
        table, rows = folder, [{"file": name} for name in files_of(folder)]
    if not rows:
        raise EvalError(f"{folder}: no pictures")
    pictures = []
    for number, row in enumerate(rows[: args.limit], 1):
        name = row["file"].replace(os.sep, "/")
        picture = {"file": name}
        try:
            if not name:
                picture["file"] = f"row {number}"
                raise ValueError("names no file")
            if "label" in row:
                picture["label"] = class_of(row["label"], model.labels, model.classes)
            elif "/" in name:
                picture["label"] = class_of(name.split("/")[-2], model.labels, model.classes)
            else:
                picture["label"] = class_of_file_name(name, model.labels, model.classes)
            if column:
                picture["explain"] = class_of(row[column], model.labels, model.classes)
        except ValueError as problem:
            picture["problem"] = str(problem)
        if getattr(args, "masks", None):
            picture["mask"] = os.path.splitext(name)[0] + ".png"
        elif row.get(getattr(args, "mask_column", "")):
            picture["mask"] = row[args.mask_column]
        pictures.append(picture)
    return each_once(pictures, table)


def each_once(pictures, table):
    """The pictures; EvalError if there are none, or if the table lists one twice."""
    if not pictures:
        raise EvalError(f"{table}: no pictures")
    twice = [name for name, count in Counter(picture["file"] for picture in pictures).items() if count > 1]
    if twice:
        raise EvalError(f"{table}: {twice[0]} is listed twice")
    return pictures


def lines_of(path):
    """The lines of a text file; EvalError if it is none."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            return f.read().splitlines()
    except UnicodeDecodeError:
        raise EvalError(f"{path}: not UTF-8 text") from None


def contents_of(pictures, plan):
    """{path below the folder, or below the masks' behind "mask ": size and a hash of the file} of what a run reads."""
    found = {}
    for picture in progress(pictures, "contents"):
        found[picture["file"]] = content_of(os.path.join(plan["folder"], picture["file"]))
        for name in masks_of(picture):
            found["mask " + name] = content_of(os.path.join(plan["masks"] or plan["folder"], name))
    return found


def masks_of(picture):
    """The names of a picture's masks."""
    own = [picture[key] for key in ("mask", "all_objects") if key in picture]
    return own + [name for _, name in picture.get("objects", ())]


def content_of(path):
    """Size and a hash of a file, as text; "-" where it cannot be read."""
    try:
        if not os.path.isfile(path):
            return "-"
        with open(path, "rb") as f:
            found = hashlib.sha256()
            for part in iter(lambda: f.read(1 << 20), b""):
                found.update(part)
            return f"{f.tell()} {found.hexdigest()[:32]}"
    except (OSError, ValueError):  # ValueError: a NUL in its name
        return "-"
