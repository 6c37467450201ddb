"""What tools/agf_eval.py makes of its records: numbers, plots, and a report as Markdown and as one HTML file.

`experiment` is an Experiment (base.py), `plan` its plan, `records` {unit: {method: numbers or {"problem": why}}}.
"""

import base64
import csv
import datetime
import html
import io
import math
import os
import re
import textwrap
import warnings

import agf
import numpy as np

RESAMPLES = 2000  # of a bootstrap interval: its ends then move by a few percent of its width from seed to seed


# Numbers


def mean_and_error(values):
    """Mean over the first axis, and its standard error (None for a single value)."""
    values = np.asarray(values, float)
    error = values.std(0, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    return values.mean(0).tolist(), None if error is None else error.tolist()


def usable_parts(plan, records):
    """{method: {unit: its numbers}} without what failed, in the plan's order."""
    return {
        method: {
            unit["id"]: records[unit["id"]][method]
            for unit in plan["units"]
            if "problem" not in records[unit["id"]].get(method, {"problem": ""})
        }
        for method in plan["settings"]["methods"]
    }


def tabulate(experiment, plan, records):
    """The numbers: rows for each method and metric, rows for each unit, {curve: {method: [x, y, error]}}, problems."""
    problems = list(plan["left_out"])
    for unit in plan["units"]:
        if "_problem" in records[unit["id"]]:
            problems.append(f"{unit['id']}: {records[unit['id']]['_problem']}")
    rows, single, curves = [], [], {}
    for method, usable in usable_parts(plan, records).items():
        problems += [
            f"{unit['id']}, {method}: {records[unit['id']][method]['problem']}"
            for unit in plan["units"]
            if "problem" in records[unit["id"]].get(method, {})
        ]
        if not usable:
            continue
        values = {unit: experiment.values(part) for unit, part in usable.items()}
        single += [
            {"unit": unit, "method": method, "metric": metric, "value": value} for unit in usable for metric, value in values[unit].items()
        ]
        pooled = experiment.pooled(experiment.settled(list(usable.values())))
        for metric, _, _ in experiment.metrics:
            row = {"method": method, "metric": metric, "value": None, "error": None, "units": len(usable)}
            if metric in pooled:
                row["value"] = pooled[metric]
            else:
                row["value"], row["error"] = mean_and_error([values[unit][metric] for unit in usable])
            rows.append(row)
        for name, curve in experiment.curve(list(usable.values())).items():
            curves.setdefault(name, {})[method] = curve
    return rows, single, curves, problems


def differences(experiment, plan, records, reference=None, metrics=None):
    """Every method against the reference (default: the first), on the units that both have: rows of method, metric,
    value, low, high, units. metrics: their names (default: all).

    value: the difference of the metric; low, high: its 95 % bootstrap interval (percentiles) over the units, which are
    drawn in pairs, so that what makes a picture hard for both does not count; units of one origin are drawn together.
    Nothing of a metric that is pooled some other way than by a mean unless the experiment pools any choice of records.
    """
    from scipy.stats import bootstrap

    rows, parts = [], usable_parts(plan, records)
    origins = {unit["id"]: experiment.origin(unit) for unit in plan["units"]}
    measured = [method for method in parts if parts[method]]
    first = reference or (measured or [None])[0]
    for method in [method for method in measured if method != first]:
        units = [unit for unit in parts[first] if unit in parts[method]]
        groups = {}
        for place, unit in enumerate(units):
            groups.setdefault(origins[unit], []).append(place)
        groups = list(groups.values())
        if len(groups) < 2:
            continue
        sizes = np.array([len(group) for group in groups])
        pairs = [[parts[name][unit] for unit in units] for name in (method, first)]
        values = [[experiment.values(part) for part in side] for side in pairs]
        pairs = [experiment.settled(side) for side in pairs]
        pooled = set(experiment.pooled(pairs[0]))
        for metric in metrics or [metric for metric, _, _ in experiment.metrics]:
            if metric in pooled:

                def difference(chosen, metric=metric, pairs=pairs) -> float:
                    a, b = ([side[i] for group in chosen for i in groups[int(group)]] for side in pairs)
                    return experiment.pooled(a)[metric] - experiment.pooled(b)[metric]

                sample, statistic, vectorized = np.arange(len(groups)), difference, False
            else:
                a, b = (np.array([value[metric] for value in side]) for side in values)
                sums = np.array([(a - b)[group].sum() for group in groups])

                def mean(chosen, axis=-1, sums=sums, sizes=sizes) -> np.ndarray:
                    return sums[chosen].sum(axis) / sizes[chosen].sum(axis)

                sample, statistic, vectorized = np.arange(len(groups)), mean, True
            value = float(statistic(sample))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # methods that agree on every unit have an interval without width
                interval = bootstrap(
                    (sample,),
                    statistic,
                    n_resamples=RESAMPLES,
                    vectorized=vectorized,
                    method="percentile",
                    rng=np.random.default_rng(plan["settings"]["seed"]),
                ).confidence_interval
            low, high = (float(end) if math.isfinite(end) else value for end in interval)
            rows.append({"method": method, "metric": metric, "value": value, "low": low, "high": high, "units": len(units)})
    return rows


def csv_text(rows, columns):
    """Rows as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# Plots


def pyplot():
    """matplotlib without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def plain(text):
    """Text from a file for matplotlib, which would read mathematics between dollar signs."""
    return agf.printable(text).replace("$", r"\$")


def wrapped(text, columns):
    """plain() in lines of so many columns."""
    return "\n".join(plain(line) for line in textwrap.wrap(text, columns))


def colours_of(methods):
    """{method: colour}, the same in every plot of a report."""
    palette = [pyplot().get_cmap("tab10")(i) for i in range(10)] + [pyplot().get_cmap("Dark2")(i) for i in range(8)]
    return {method: palette[number % len(palette)] for number, method in enumerate(methods)}


def save_figures(figure, formats, dpi):
    """The figure as bytes in each of these formats."""
    found = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a label in a script that the font lacks: boxes
        for kind in formats:
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=dpi, bbox_inches="tight")
            found.append(data.getvalue())
    pyplot().close(figure)
    return found


def save_figure(figure):
    """The figure as the bytes of a PNG."""
    figure.set_dpi(120)
    return save_figures(figure, ["png"], 120)[0]


def plot_bars(metrics, rows, methods):
    """A panel of bars for each metric, the best on top, with values and standard errors."""
    colours, count = colours_of(methods), len({row["method"] for row in rows})
    figure, axes = pyplot().subplots(1, len(metrics), squeeze=False, figsize=(4.6 * len(metrics), 1 + 0.32 * count), layout="constrained")
    for axis, (metric, title, better) in zip(axes[0], metrics):
        chosen = [row for row in rows if row["metric"] == metric]
        if better:
            chosen.sort(key=lambda row: row["value"], reverse=better == "higher")
        bars = axis.barh(
            range(len(chosen)),
            [row["value"] for row in chosen],
            xerr=[row["error"] or 0 for row in chosen],
            color=[colours[row["method"]] for row in chosen],
            error_kw={"lw": 1, "ecolor": "#333333"},
        )
        axis.bar_label(bars, [number_text(row["value"]) for row in chosen], padding=3, fontsize=7)
        axis.set_yticks(range(len(chosen)), [plain(row["method"]) for row in chosen], fontsize=7)
        axis.margins(x=0.15)
        axis.axvline(0, color="black", lw=0.6)
        axis.invert_yaxis()
        axis.set_title(title + (f" ({better} is better)" if better else ""), fontsize=9)
    return save_figure(figure)


def plot_curves(experiment, curves, methods):
    """A panel for each kind of curve, a line for each method, with a band of a standard error."""
    title, xlabel, ylabel = experiment.curves
    colours = colours_of(methods)
    figure, axes = pyplot().subplots(1, len(curves), squeeze=False, sharey=True, figsize=(5 * len(curves), 4))
    for axis, (name, lines) in zip(axes[0], curves.items()):
        for number, (method, (x, y, error)) in enumerate(lines.items()):
            style = ("-", "--", ":", "-.")[number // 18 % 4]
            axis.plot(x, y, label=plain(method), lw=1.3, ls=style, color=colours[method])
            if error is not None:
                low, high = np.subtract(y, error), np.add(y, error)
                axis.fill_between(x, low, high, color=colours[method], alpha=0.12, lw=0)
        axis.set_title(f"{title}, {name}" if len(curves) > 1 else title, fontsize=9)
        axis.set_xlabel(xlabel)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(ylabel)
    axes[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure)


# Reports


def number_text(value):
    if value is None:
        return "-"
    if 0 < abs(value) < 0.0005:  # "-0.000" would say nothing
        return f"{value:.1g}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def facts_of(experiment, plan):
    """What was measured, on what and with what, in a few words each."""
    settings, network = plan["settings"], os.path.basename(plan["model"])
    if os.path.isfile(plan["model"]):  # merge may not see it
        with agf.Model(plan["model"]) as model:
            network = model.name or network
    facts = [f"network {network}, input {settings['size'][1]}x{settings['size'][0]}"]
    facts += experiment.facts(settings)
    if "of" in plan:
        facts.append(f"so far {len(plan['units'])} of {plan['of']} units")
    return [agf.printable(fact) for fact in facts + [f"engine {settings['engine']}"]]


def method_lines(experiment, rows, cell):
    """A line of a table for each method: its name, cell(row) for each metric, and how many units."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = {row["metric"]: row for row in rows if row["method"] == method}
        cells = [cell(mine[metric]) for metric, _, _ in experiment.metrics]
        lines.append([agf.printable(method), *cells, str(next(iter(mine.values()))["units"])])
    return lines


def tables_of(experiment, plan, rows, compared):
    """[(heading, column titles, rows of cells)]: the results, and differences where there are several methods."""
    arrows = {"lower": " (↓)", "higher": " (↑)", "": ""}
    titles = ["method", *(title + arrows[better] for _, title, better in experiment.metrics_of(plan["settings"])), "n"]

    def with_error(row) -> str:
        return number_text(row["value"]) + (f" ± {number_text(row['error'])}" if row["error"] is not None else "")

    def with_interval(row) -> str:
        return f"{number_text(row['value'])} [{number_text(row['low'])}, {number_text(row['high'])}]"

    tables = [("", titles, method_lines(experiment, rows, with_error))]
    if compared:
        heading = f"Difference to {agf.printable(rows[0]['method'])}, with its 95 % interval"
        tables.append((heading, titles, method_lines(experiment, compared, with_interval)))
    return tables


def footnotes(experiment, rows, compared):
    """What the numbers in the tables mean."""
    notes = ["± is the standard error of the mean over units (n)."] if any(row["error"] for row in rows) else []
    if compared:
        notes.append(
            f"Differences are paired over the units that both methods have; intervals are bootstrapped over {experiment.origins} "
            f"({RESAMPLES} resamples, percentiles). One that holds 0 shows no difference."
        )
    return notes


def collapsed(problems, most=20):
    """Problems for people: those that say the same are counted, and at most `most` lines come back."""
    alike = {}
    for problem in problems:
        unit, _, why = problem.partition(": ")
        method = unit.rpartition(", ")[2] if ", " in unit else ""
        alike.setdefault((method, why), []).append(problem)
    lines = []
    for (method, why), same in alike.items():
        others = f" (and {len(same) - 1} more: {method + ', ' if method else ''}{why})" if len(same) > 1 else ""
        lines.append(agf.printable(same[0].partition(": ")[0] + others if others else same[0]))
    return lines[:most] + ([f"and {len(lines) - most} more (results.json)"] if len(lines) > most else [])


def markdown(experiment, plan, rows, compared, problems, title, command=None, pictures=()):
    """The results as Markdown. command: what made them. pictures: file names of plots to show."""
    lines = [f"## {title}", "", experiment.note, ""]
    lines += [f"{datetime.date.today().isoformat()}; {'; '.join(facts_of(experiment, plan))}.", ""]
    if command:
        lines += ["```", agf.printable(command), "```", ""]
    for heading, titles, cells in tables_of(experiment, plan, rows, compared):
        lines += [f"{heading}:", ""] if heading else []
        lines += [f"| {' | '.join(titles)} |", "| --- |" + " ---: |" * (len(titles) - 1)]
        lines += [f"| {' | '.join(line)} |" for line in cells] + [""]
    lines += [" ".join(footnotes(experiment, rows, compared)), ""]
    lines += [line for name in pictures for line in (f"![{os.path.splitext(name)[0]}]({name})", "")]
    if problems:
        lines += [f"{len(problems)} left out:", ""] + [f"- {line}" for line in collapsed(problems)] + [""]
    return "\n".join(lines)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .25em .8em; border-bottom: 1px solid #ddd }
th { text-align: left; background: #f4f4f4 } td:not(:first-child), th:not(:first-child) { text-align: right }
.best { font-weight: bold } pre { background: #f4f4f4; padding: .7em; overflow-x: auto } img { max-width: 100% }
"""


def html_page(experiment, plan, rows, compared, problems, title, command, pictures):
    """The results as one HTML file that needs no other. pictures: {name: bytes of a PNG}."""

    def text(value) -> str:
        return html.escape(agf.printable(value))

    better = [direction for _, _, direction in experiment.metrics_of(plan["settings"])]
    best = {}
    for (metric, _, _), direction in zip(experiment.metrics, better):
        found = [row["value"] for row in rows if row["metric"] == metric]
        if direction and len(found) > 1:
            best[metric] = (max if direction == "higher" else min)(found)
    parts = [f"<h1>{text(title)}</h1>", f"<p>{text(experiment.note)}</p>"]
    parts.append("<ul>" + "".join(f"<li>{text(fact)}</li>" for fact in facts_of(experiment, plan)) + "</ul>")
    for number, (heading, titles, lines) in enumerate(tables_of(experiment, plan, rows, compared)):
        parts.append(f"<h2>{text(heading)}</h2>" if heading else "")
        parts.append("<table><tr>" + "".join(f"<th>{text(cell)}</th>" for cell in titles) + "</tr>")
        for cells in lines:
            marks = [""] * len(cells)
            if number == 0:
                for column, (metric, _, _) in enumerate(experiment.metrics, 1):
                    value = next(row["value"] for row in rows if row["metric"] == metric and agf.printable(row["method"]) == cells[0])
                    marks[column] = ' class="best"' if best.get(metric) == value else ""
            parts.append("<tr>" + "".join(f"<td{m}>{text(cell)}</td>" for m, cell in zip(marks, cells)) + "</tr>")
        parts.append("</table>")
    parts += [f"<p>{text(note)}</p>" for note in footnotes(experiment, rows, compared)]
    for name, data in pictures.items():
        source = "data:image/png;base64," + base64.b64encode(data).decode()
        parts.append(f'<p><img alt="{text(os.path.splitext(name)[0])}" src="{source}"></p>')
    if problems:
        listed = "".join(f"<li>{text(problem)}</li>" for problem in problems)
        parts.append(f"<details><summary>{len(problems)} left out</summary><ul>{listed}</ul></details>")
    parts.append(f"<p>{datetime.date.today().isoformat()}, made by</p><pre>{text(command or '')}</pre>")
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def with_section(text, section):
    """A Markdown text with a section, which begins with a `## ` heading, in place of its namesake, or last."""
    heading = section.split("\n", 1)[0]
    section = section.strip() + "\n"
    parts = re.split(r"(?m)^(?=## )", text)
    for i, part in enumerate(parts):
        if part.split("\n", 1)[0] == heading:
            parts[i] = section + "\n"
            break
    else:
        parts.append(section if not text.strip() else ("" if text.endswith("\n\n") else "\n") + section)
    return "".join(parts).rstrip() + "\n"
