"""One page over several experiments: which method for which question, and a plot of the differences."""

import functools
import os

import agf

from . import report
from .common import EvalError, make_folder, write_file
from .experiments import EXPERIMENTS
from .results import put_section
from .runs import read_plan, read_records, record_files


def finished_part(folder):
    """(plan, records) of the units of a folder that are finished; EvalError where there are none."""
    path = os.path.join(folder, "run.json")
    if not os.path.isfile(path):
        raise EvalError(f"{folder}: not a folder that agf_eval.py has written")
    plan, records = read_plan(path), {}
    for name in record_files(folder):
        records.update(read_records(os.path.join(folder, name)))
    units = [unit for unit in plan["units"] if unit["id"] in records]
    if not units:
        raise EvalError(f"{folder}: no unit is finished")
    if len(units) < len(plan["units"]):
        if not EXPERIMENTS[plan["settings"]["experiment"]].partial:
            raise EvalError(f"{folder}: {len(units)} of {len(plan['units'])} units are finished, and this experiment needs all")
        plan = {**plan, "units": units}
    return plan, records


def network_of(plan):
    """The network's name, or its file's."""
    if os.path.isfile(plan["model"]):
        with agf.Model(plan["model"]) as model:
            return agf.printable(model.name or os.path.basename(plan["model"]))
    return agf.printable(os.path.basename(plan["model"]))


def judged(folder):
    """What a folder says about its experiment's question: a dict for the table and the plot."""
    plan, records = finished_part(folder)
    experiment = EXPERIMENTS[plan["settings"]["experiment"]]()
    key = experiment.decisive
    _, title, better = next(metric for metric in experiment.metrics_of(plan["settings"]) if metric[0] == key)
    rows = [row for row in report.tabulate(experiment, plan, records)[0] if row["metric"] == key]
    if not rows:
        raise EvalError(f"{folder}: no method could be measured")
    best = (max if better == "higher" else min)(rows, key=lambda row: row["value"])
    against = functools.partial(report.differences, experiment, plan, records, metrics=[key])
    to_best = against(reference=best["method"])
    return {
        "question": experiment.question,
        "measure": f"{plan['settings']['experiment']}: {title} ({better} is better)",
        "network": network_of(plan),
        "rows": rows,
        "best": best,
        "alike": [row["method"] for row in to_best if row["low"] <= 0 <= row["high"]],
        "reference": rows[0]["method"],
        "differences": against(),
    }


def table_of(found):
    """The summary as lines of Markdown: a row for each question and network."""
    lines = ["| question | measured by | network | best | as good | worst | n |", "| --- | --- | --- | --- | --- | --- | ---: |"]
    for one in found:
        best, rows = one["best"], one["rows"]
        worst = max(rows, key=lambda row: abs(row["value"] - best["value"]))
        number = report.number_text
        alike = ", ".join(f"`{agf.printable(method)}`" for method in one["alike"]) or "none"
        ends = [f"`{agf.printable(row['method'])}` {number(row['value'])}" for row in (best, worst)]
        lines.append(f"| {one['question']} | {one['measure']} | {one['network']} | {ends[0]} | {alike} | {ends[1]} | {best['units']} |")
    return lines


def plot_differences(found):
    """A panel for each experiment: every method's difference to the first, with its 95 % interval."""
    plt = report.pyplot()
    columns = min(3, len(found))
    height = max(len(one["differences"]) for one in found)
    shape = (-(-len(found) // columns), columns)
    figure, axes = plt.subplots(*shape, squeeze=False, figsize=(3.4 * columns, (0.9 + 0.19 * height) * shape[0]), layout="constrained")
    colours = report.colours_of(dict.fromkeys(row["method"] for one in found for row in one["rows"]))
    for axis, one in zip(axes.flat, found):
        for place, row in enumerate(one["differences"]):
            axis.plot([row["low"], row["high"]], [place, place], color=colours[row["method"]], lw=1.6, solid_capstyle="butt")
            axis.plot([row["value"]], [place], "o", color=colours[row["method"]], ms=3.5)
        axis.set_yticks(range(len(one["differences"])), [report.plain(row["method"]) for row in one["differences"]], fontsize=7)
        axis.set_ylim(len(one["differences"]) - 0.5, -0.5)
        axis.axvline(0, color="black", lw=0.7)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3, lw=0.5)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(f"{report.plain(one['network'])}, n = {one['best']['units']}\n{one['measure']}", fontsize=7)
        axis.set_xlabel(f"difference to {report.plain(one['reference'])}", fontsize=7)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    return figure


def summarise(args):
    """The command summary: its page as Markdown, its plot as PNG and, for print, PDF; the exit code."""
    found = [judged(folder) for folder in args.outs]
    title = agf.printable(args.title or "Which method for which question")
    lines = [f"## {title}", "", *table_of(found), ""]
    lines += [
        "As good: methods whose paired difference to the best has a 95 % bootstrap interval that holds 0. `agf_eval.py summary`",
        "made this table of the experiments' records.",
    ]
    text = "\n".join(lines) + "\n"
    make_folder(args.out)
    figure = plot_differences(found)
    for name, data in zip(("summary.png", "summary.pdf"), report.save_figures(figure, ("png", "pdf"), dpi=200)):
        write_file(os.path.join(args.out, name), data)
    write_file(os.path.join(args.out, "summary.md"), f"{text}\n![differences](summary.png)\n")
    if args.into:
        put_section(args.into, text)
    print(text)
    print(f"wrote {agf.printable(os.path.join(args.out, 'summary.md'))}")
    return 0
