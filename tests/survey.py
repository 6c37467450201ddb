"""What the commands that try many networks and make a page of them have in common: they can be stopped and started."""
import argparse
import json
import math
import os
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def survey(description, stem, keys, key_of, try_network, outcome, table, in_turn=None):
    """The command that makes the page `stem` in tests; what has been tried stands in build under it, a row a line.

    keys(): of every network, in the page's order, tuples that end in its name. try_network(*key): its row, a dict with
    the "seconds" that it took; key_of(row): the key of that; outcome(row): in words; table(rows): the page.
    in_turn(keys, results): the order to try them in (default: the page's), results being the name of the file.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-k", metavar="TEXT", default="", help="networks whose name holds TEXT")
    parser.add_argument("--minutes", metavar="N", type=float, default=math.inf, help="begin no network after N minutes")
    parser.add_argument("--results", default=os.path.join(ROOT, "build", f"{stem}.jsonl"), help="what has been tried already")
    parser.add_argument("--out", default=os.path.join(ROOT, "tests", f"{stem}.md"))
    arguments = parser.parse_args()
    listed, known = keys(), {}
    if os.path.exists(arguments.results):
        with open(arguments.results, encoding="utf-8") as f:
            known = {key_of(row): row for row in map(json.loads, f)}
    began = time.monotonic()
    for key in in_turn(listed, arguments.results) if in_turn else listed:
        if arguments.k not in key[-1] or key in known:
            continue
        if time.monotonic() - began > 60 * arguments.minutes:
            break
        row = known[key] = try_network(*key)
        with open(arguments.results, "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
        print(f"{' '.join(key)}: {outcome(row)} ({row['seconds']} s)", flush=True)
    with open(arguments.out, "w", encoding="utf-8") as f:
        f.write(table([known[key] for key in listed if key in known]))
