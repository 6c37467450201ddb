"""A run: the plan, records that survive being killed, and where the work is done."""

import hashlib
import itertools
import json
import multiprocessing
import os
import re
import shlex
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import agf
from agf_convert import files

from .common import EvalError, checksum, make_folder, progress, reason, say, write_file
from .pictures import contents_of, masks_of
from .subject import Method, Subject
from .experiments import EXPERIMENTS
from .results import finish, section_file

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def make_plan(args):
    """What a worker needs, as a plain dict: paths, and settings, which decide about the numbers; and the pictures."""
    experiment = EXPERIMENTS[args.experiment]
    names = []
    for text in args.method or ["agf"]:
        names += [name for name in agf.METHODS if name not in names] if text == "all" else [text]
    if len(set(names)) < len(names):
        raise EvalError("a method is named twice")
    if args.sheet < 0:
        raise EvalError(f"--sheet {args.sheet} is negative")
    if not 0 <= args.seed < 2**32:
        raise EvalError(f"--seed must be between 0 and {2**32 - 1}")
    plan = {
        "model": os.path.abspath(args.model),
        "folder": os.path.abspath(args.pictures),
        "tools": TOOLS,
        "options": list(experiment.options),
        "masks": os.path.abspath(args.masks) if getattr(args, "masks", None) else "",
        "threads": args.threads,
        "isa": args.isa,
    }
    with agf.Model(args.model) as model:
        size = list(args.size or (model.input.height, model.input.width))
        pictures = experiment.pictures(args, model)
    plan["settings"] = {
        "experiment": args.experiment,
        "model": checksum(args.model),
        "size": size,
        "methods": [Method.parse(name).text for name in names],
        "explain": args.explain,
        "probability": args.probability,
        "seed": args.seed,
        **experiment.settings(args),
        "engine": agf.version(),
        "pictures": hashlib.sha256(json.dumps(pictures).encode()).hexdigest()[:16],
    }
    plan["contents"] = contents_of(pictures, plan)
    return plan, pictures


def read_plan(path):
    """A run.json; EvalError if it is damaged."""
    try:
        with open(path, "rb") as f:
            plan = json.load(f)
        if not isinstance(plan, dict):
            raise ValueError("no object")
        parts = {"settings": dict, "contents": dict, "units": list, "left_out": list, "model": str, "folder": str}
        settings = {"methods": list, "size": list, "model": str, "engine": str, "explain": str, "probability": str, "seed": int}
        for part, kinds in ((plan, parts), (plan["settings"], settings)):
            for key, kind in kinds.items():
                if not isinstance(part[key], kind):
                    raise ValueError(f"{key} is no {kind.__name__}")
        EXPERIMENTS[plan["settings"]["experiment"]]
        if not all(isinstance(unit["id"], str) for unit in plan["units"]):
            raise ValueError("a unit without a name")
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise EvalError(f"{path} is damaged ({reason(problem)}): delete the folder or choose another one") from None
    return plan


def other_settings(begun, plan):
    """The names of the settings in which two plans differ."""
    names = sorted({**begun["settings"], **plan["settings"]})
    return [name for name in names if begun["settings"].get(name) != plan["settings"].get(name)]


def prepare(args):
    """The plan with its units, from OUT/run.json where a run was begun there; EvalError if that had other settings."""
    plan, pictures = make_plan(args)
    path = os.path.join(args.out, "run.json")
    make_folder(args.out)
    if os.path.exists(path):
        begun = read_plan(path)
        differing = other_settings(begun, plan)
        if differing:
            raise EvalError(f"{args.out} holds a run with other settings ({', '.join(differing)}): choose another folder or delete it")
        changed = [name for name, content in plan["contents"].items() if begun["contents"].get(name) != content]
        # A picture that could not be used may have been repaired; what was measured must be as it was.
        bad = {name for name in changed if begun["contents"].get(name) == "-"}
        bad |= failed_files(args.out, begun)
        measured = [name for name in changed if name not in bad]
        if measured:
            raise EvalError(
                f"{args.out} holds a run over other contents ({len(measured)} changed, such as {measured[0]}): choose "
                "another folder or delete it"
            )
        plan = {**begun, **plan}
        if changed:
            write_file(path, json.dumps(plan, indent=1))
        return plan
    left_out = []

    def skipped(name, why) -> None:
        left_out.append(f"{name}: {why}")
        say(f"skipped {name}: {why}")

    subject = Subject(plan)
    plan["units"] = EXPERIMENTS[args.experiment].units(subject, pictures, skipped)
    plan["left_out"] = left_out
    write_file(path, json.dumps(plan, indent=1))
    return plan


def failed_files(folder, plan):
    """The files (keys of plan["contents"]) of the units that failed in a folder's records so far."""
    records, failed = {}, set()
    for name in record_files(folder):
        records.update(read_records(os.path.join(folder, name)))
    for unit in plan["units"]:
        if "_problem" in records.get(unit["id"], {}):
            for picture in unit.get("pictures", [unit.get("picture")]):
                failed |= {picture["file"], *("mask " + name for name in masks_of(picture))}
    return failed


def record_files(folder):
    """The names of the records in a folder."""
    return sorted(name for name in os.listdir(folder) if re.fullmatch(r"records.*\.jsonl", name))


def read_records(path):
    """{unit: result} of a records*.jsonl; of a unit that was tried again the last one. EvalError if it is damaged.

    A last line without an end is what a killed run leaves, and no record.
    """
    records = {}
    with open(path, "rb") as f:
        data = f.read()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record["unit"], str) or not isinstance(record["result"], dict):
                raise ValueError("no record")
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise EvalError(f"{path}, line {number}, is damaged ({reason(problem)}): delete the line to have it measured again") from None
        records[record["unit"]] = record["result"]
    return records


def locked(file):
    """Lock an open file for this process, as far as the system knows such locks; False if another process has it."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


class Records:
    """A records*.jsonl, a line for each finished unit, written at once: a killed run leaves at most half a line."""

    def __init__(self, path) -> None:
        """EvalError if another run is writing there: each would cut off what it takes for the other's half line."""
        self.path, self.records = path, {}
        self.file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if not locked(self.file):
                raise EvalError(f"{os.path.dirname(path)}: another run is writing there; wait for its end or choose another folder")
            self.records = read_records(path)
            with open(path, "r+b") as f:
                f.truncate(f.read().rfind(b"\n") + 1)
        except BaseException:
            os.close(self.file)
            raise

    def add(self, unit, result):
        os.write(self.file, (json.dumps({"unit": unit, "result": result}) + "\n").encode())
        self.records[unit] = result

    def close(self):
        os.close(self.file)


def attempt(subject, unit):
    """The unit's record, or {"_problem": why} if its picture cannot be used."""
    experiment = EXPERIMENTS[subject.settings["experiment"]]()
    problem = unit.get("picture", {}).get("problem")
    if problem:
        return {"_problem": problem}
    try:
        return experiment.measure(subject, unit)
    except Exception as found:  # whatever is wrong with one picture ends that one
        return {"_problem": reason(found)}


kept = threading.local()


def subject_of(text):
    """The Subject of a plan (as JSON); a worker's thread keeps its own between pictures."""
    if getattr(kept, "text", None) != text:
        kept.text, kept.subject = text, Subject(json.loads(text))
    return kept.subject


def measure_remotely(text, unit):
    """attempt() on a Dask worker."""
    return attempt(subject_of(text), unit)


def work_here(plan, units):
    """(unit, record) for each unit, in this process."""
    subject = Subject(plan)
    for unit in units:
        yield unit, attempt(subject, unit)


def travelling(plan):
    """What another process needs of a plan, as JSON."""
    return json.dumps({key: plan[key] for key in plan if key not in ("units", "contents")})


def end_with_parent():
    """Let this process end when the one that started it is gone: killed, it tells nobody."""

    def watch(parent) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, args=(multiprocessing.parent_process(),), daemon=True).start()


def work_in_processes(plan, units, jobs, measure=measure_remotely):
    """(unit, record) for each unit as one of `jobs` processes finishes it.

    A process that dies, killed or out of memory, takes along what the others are at: those units are measured again,
    one at a time, and the one with which a process dies again has that as its problem.
    """
    text, left = travelling(plan), iter(units)
    while lost := (yield from in_pool(text, left, jobs, 2 * jobs, measure)):
        again = iter(lost)
        while dead := (yield from in_pool(text, again, 1, 1, measure)):
            for unit in dead:
                yield unit, {"_problem": "the process that measured it ended (killed, or out of memory)"}


def in_pool(text, left, jobs, ahead, measure):
    """(unit, record) for each unit of an iterator as one of `jobs` processes finishes it, `ahead` handed out at a time.

    Returns the units that were handed out when a process died.
    """
    working, lost = {}, []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), end_with_parent) as pool:

        def hand(count) -> None:
            for unit in itertools.islice(left, count):
                try:
                    working[pool.submit(measure, text, unit)] = unit
                except BrokenProcessPool:
                    lost.append(unit)
                    return

        hand(ahead)
        while working:
            for future in wait(working, return_when=FIRST_COMPLETED).done:
                unit = working.pop(future)
                try:
                    record = future.result()
                except BrokenProcessPool:
                    lost.append(unit)
                    continue
                yield unit, record
                if not lost:
                    hand(1)
    return lost


def work_on_dask(plan, units, address):
    """(unit, record) for each unit as it is finished on a Dask cluster. A dead worker's units move to the others."""
    from dask.distributed import Client, as_completed

    tools = plan["tools"]

    def measure(text, unit) -> dict:  # a nested function travels by value: the worker need not have this module on its path
        import sys

        if tools not in sys.path:
            sys.path.insert(0, tools)
        from agf_eval import runs

        return runs.measure_remotely(text, unit)

    with Client(address) as client:
        text = travelling(plan)
        by_key = {}
        for number, unit in enumerate(units):
            # Records do not depend on the worker, but a cached one would hide a failure: the key is this run's own.
            future = client.submit(measure, text, unit, key=f"agf-{os.getpid()}-{time.time_ns()}-{number}", retries=3)
            by_key[future.key] = (unit, future)
        for future in as_completed([future for _, future in by_key.values()]):
            unit, _ = by_key.pop(future.key)
            yield unit, future.result()


def check_outputs(args, *inputs: str | None) -> None:
    """EvalError or OutputError, before anything is measured, where results have no place or would replace inputs."""
    if args.into:
        files.check(args.into, [name for name in inputs if name])
        section_file(args.into)
    for folder in inputs:
        if folder and os.path.isdir(folder) and os.path.isdir(args.out) and os.path.samefile(folder, args.out):
            raise EvalError(f"{args.out} holds what is judged: choose another folder for results")


def run(args):
    check_outputs(args, args.model, args.pictures, args.labels, getattr(args, "masks", None))
    plan = prepare(args)
    units, name = plan["units"], "records.jsonl"
    if args.shard:
        i, n = args.shard
        units, name = units[i - 1 :: n], f"records.{i}-of-{n}.jsonl"
    records = Records(os.path.join(args.out, name))
    waiting = [unit for unit in units if "_problem" in records.records.get(unit["id"], {"_problem": ""})]
    if args.minutes:
        end = time.monotonic() + 60 * args.minutes
        waiting_in_time = itertools.takewhile(lambda _: time.monotonic() < end, waiting)
    else:
        waiting_in_time = waiting
    if args.dask:
        source = work_on_dask(plan, waiting, args.dask)
    elif args.jobs > 1:
        source = work_in_processes(plan, waiting_in_time, args.jobs)
    else:
        source = work_here(plan, waiting_in_time)
    bar = progress(source, args.experiment, len(units), len(units) - len(waiting))
    for unit, record in bar:
        records.add(unit["id"], record)
        if "_problem" in record:
            bar.write(agf.printable(f"agf_eval.py: skipped {unit['id']}: {record['_problem']}"), file=sys.stderr)
    records.close()
    left = [unit["id"] for unit in units if unit["id"] not in records.records]
    if left:
        say(f"{len(left)} of {len(units)} units are left after {args.minutes:g} minutes: the same command goes on from here")
        if args.shard or not EXPERIMENTS[args.experiment].partial:
            return 3
        plan = {**plan, "of": len(units), "units": [unit for unit in units if unit["id"] in records.records]}
    if args.shard:
        print(
            f"shard {args.shard[0]} of {args.shard[1]} is complete; agf_eval.py merge {shlex.quote(args.out)} -o "
            f"{shlex.quote(args.out)} makes the results when all are"
        )
        return 0
    if left and not plan["units"]:
        return 3
    return finish(plan, records.records, args) or (3 if left else 0)


def merge(args):
    """Results of shards, which may lie in one folder or in several."""
    check_outputs(args)
    plan, records = None, {}
    for folder in args.outs:
        path = os.path.join(folder, "run.json")
        if not os.path.isfile(path):
            raise EvalError(f"{folder}: not a folder that agf_eval.py has written")
        found = read_plan(path)
        if plan and any(found[key] != plan[key] for key in ("settings", "contents", "units")):
            raise EvalError(f"{folder} and {args.outs[0]} are different experiments")
        plan = plan or found
        for name in record_files(folder):
            records.update(read_records(os.path.join(folder, name)))
    missing = [unit["id"] for unit in plan["units"] if unit["id"] not in records]
    if missing:
        raise EvalError(f"{len(missing)} of {len(plan['units'])} units are missing, such as {missing[0]}: finish the shards first")
    make_folder(args.out)
    return finish(plan, records, args)
