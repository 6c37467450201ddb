"""What a run writes: tables, plots, reports."""

import functools
import json
import os
import platform

import agf
from PIL import Image

from . import report
from .common import EvalError, reason, say, write_file
from .metrics import probabilities
from .subject import Subject
from .label_free import LabelFree
from .experiments import EXPERIMENTS


def class_name(subject, k):
    """A class for a figure's caption: the label's first name, or its number."""
    label = subject.model.labels[k] if subject.model.labels else ""
    return label.split(",")[0][:24] or f"class {k}"


def plot_sheet(plan, records, count):
    """The first pictures, with label and prediction, and every method's map over them in gray; the bytes of a PNG."""
    subject = Subject(plan)
    experiment = EXPERIMENTS[plan["settings"]["experiment"]]
    shown = {}
    for unit in plan["units"]:  # a picture comes again for every depth of Sanity
        if len(shown) < count and "_problem" not in records[unit["id"]]:
            shown.setdefault(unit.get("picture", unit).get("file", unit["id"]), unit)
    columns = 1 + len(subject.methods)
    figure, axes = report.pyplot().subplots(len(shown), columns, squeeze=False, figsize=(1.6 * columns, 2.1 * len(shown)))
    for axis_row, unit in zip(axes, shown.values()):
        for axis in axis_row:
            axis.axis("off")
        try:
            pixels, k = experiment.exhibit(subject, unit)
        except Exception as problem:  # it was there when it was measured
            axis_row[0].text(0, 0.5, report.wrapped(reason(problem), 24), fontsize=6)
            continue
        gray = Image.fromarray(pixels).convert("L").convert("RGBA")
        session = subject.session(*pixels.shape[:2])
        p = probabilities(session.run(subject.normalised(pixels)), subject.settings["probability"])
        predicted = session.ranked(0)
        lines = [f"predicted {class_name(subject, predicted)} ({p[predicted]:.0%})", f"maps: {class_name(subject, k)}"]
        if issubclass(experiment, LabelFree):
            lines = [unit["picture"]["file"]]
        elif "picture" in unit:
            label = unit["picture"].get("label")
            lines.insert(0, f"label {class_name(subject, label)}" if label is not None else unit["picture"]["file"])
        axis_row[0].imshow(pixels)
        axis_row[0].set_title("\n".join(report.plain(line) for line in lines), fontsize=6)
        for axis, (method, heat, problem) in zip(axis_row[1:], experiment.shown(subject, session, unit, k)):
            axis.set_title(report.wrapped(method.text.replace(":", ": "), 16), fontsize=6)
            if problem is None:
                layer = Image.fromarray(subject.model.render(heat, transparent=True))
                axis.imshow(Image.alpha_composite(gray, layer))
            else:
                axis.text(0.5, 0.5, "no map", ha="center", va="center", fontsize=8)
    return report.save_figure(figure)


def section_file(path):
    """The text of a file that a section is to go into; "" if there is none. EvalError if it is no text."""
    if not os.path.isfile(path):
        return ""
    try:
        with open(path, encoding="utf-8", newline="") as f:
            return f.read()
    except UnicodeDecodeError:
        raise EvalError(f"{path}: not UTF-8 text; a report cannot go into it") from None


def put_section(path, section, inputs=()):
    """Put a Markdown section, which begins with a `## ` heading, into a file: in place of its namesake, or last."""
    text = section_file(path)
    write_file(path, report.with_section(text, section), inputs)


def check_records(experiment, plan, records, folder):
    """EvalError for a record that is JSON, but not what the experiment measures: of no unit may the rest be trusted."""
    for unit in plan["units"]:
        for method in plan["settings"]["methods"]:
            try:
                part = records[unit["id"]].get(method, {"problem": ""})
                if "problem" not in part:
                    experiment.values(part), experiment.curve([part])
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
                raise EvalError(
                    f"{folder}: the record of {agf.printable(unit['id'])}, {method}, is damaged ({reason(problem)}): delete its line "
                    "in records*.jsonl to have it measured again"
                ) from None


def finish(plan, records, args):
    """Write every result; the exit code: 1 if nothing could be measured."""
    experiment, settings = EXPERIMENTS[plan["settings"]["experiment"]](), plan["settings"]
    check_records(experiment, plan, records, args.out)
    rows, single, curves, problems = report.tabulate(experiment, plan, records)
    compared = report.differences(experiment, plan, records)
    out = functools.partial(os.path.join, args.out)
    found = {"settings": settings, "results": rows, "differences": compared, "curves": curves, "problems": problems}
    write_file(out("results.json"), json.dumps(found, indent=1) + "\n")
    write_file(out("results.csv"), report.csv_text(rows, ["method", "metric", "value", "error", "units"]))
    write_file(out("pictures.csv"), report.csv_text(single, ["unit", "method", "metric", "value"]))
    if not rows:
        say(f"error: nothing could be measured; the first problem: {(problems or ['no units'])[0]}")
        return 1
    pictures = {"bars.png": report.plot_bars(experiment.metrics_of(settings), rows, settings["methods"])}
    if curves:
        pictures["curves.png"] = report.plot_curves(experiment, curves, settings["methods"])
    if args.sheet and os.path.isfile(plan["model"]) and os.path.isdir(plan["folder"]):
        pictures["sheet.png"] = plot_sheet(plan, records, args.sheet)
    for name, data in pictures.items():
        write_file(out(name), data)
    title = agf.printable(args.title or f"{settings['experiment']}: {os.path.basename(plan['model'])}")
    parts = (experiment, plan, rows, compared, problems, title, args.command)
    text = report.markdown(*parts, pictures)
    write_file(out("report.md"), f"<!-- {platform.platform()} -->\n{text}")
    write_file(out("report.html"), report.html_page(*parts, pictures))
    if args.into:
        put_section(args.into, report.markdown(*parts), [plan["model"]])
    print(text)
    print(f"wrote {agf.printable(out('report.html'))}")
    return 0
