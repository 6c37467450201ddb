"""Judge attribution methods on a folder of pictures.

    agf_eval.py perturb       NET.agf PICTURES -o OUT   accuracy while a map's highest (lowest) pixels are blacked out
    agf_eval.py segment       NET.agf PICTURES -o OUT   maps as segmentations, against masks
    agf_eval.py segment-classes NET.agf PICTURES -o OUT several labels a picture: each class's map against its own mask
    agf_eval.py grid          NET.agf PICTURES -o OUT   grid pointing: is the evidence in the explained picture's cell?
    agf_eval.py insert-delete NET.agf PICTURES -o OUT   probability while pixels appear in a blurred picture, or vanish
    agf_eval.py single-delete NET.agf PICTURES -o OUT   does a patch's share of the map rank as the loss without it?
    agf_eval.py sanity        NET.agf PICTURES -o OUT   do maps change when weights are randomised, from the top down?
    agf_eval.py label-free    NET.agf PICTURES -o OUT   maps against nearest neighbours: on objects, on the odd object?
    agf_eval.py odd-object    NET.agf PICTURES -o OUT   the same of pairs of scenes that share all objects but one
    agf_eval.py speed         NET.agf PICTURES -o OUT   milliseconds
    agf_eval.py merge         OUT [OUT ...] -o OUT      put the shards of one experiment together
    agf_eval.py summary       OUT [OUT ...] -o OUT      which method for which question, over several experiments

Methods:  -m agf -m agf_lc -m agf:no_a,no_reg -m integrated_gradients:steps=20 -m gradcam:layer=NODE, or -m all.
Labels:   a CSV with the columns file, label (--labels, or labels.csv in the folder), else the names of subfolders,
          else the beginnings of file names (0271.jpg, cup_3.png). A label is a class's number, or its name in the
          model file.
Masks:    8-bit PNGs, foreground from 128 on: named in the CSV's column mask, or --masks FOLDER with a STEM.png for
          each picture.

OUT receives report.html, one file that shows everything, report.md, results.json, results.csv, pictures.csv and plots
(PNG). records*.jsonl there holds a line for each finished picture: a run that was killed continues after them and ends
in the same numbers; one that is given other settings, pictures or masks refuses. A picture that cannot be used is
reported and skipped, and tried again when the run is continued. PNG, JPEG, WebP, BMP, PPM, TIFF and GIF (the first
frame) are read.

A machine's cores: --jobs N. Machines that share a file system: with GNU parallel
(https://www.gnu.org/software/parallel/), four shards,

    parallel --sshlogin :,host1,host2 --workdir . --progress \\
        python3 tools/agf_eval.py perturb NET.agf PICTURES -o OUT -m all --shard {}/4 ::: 1 2 3 4
    python3 tools/agf_eval.py merge OUT -o OUT

or with Dask, which moves the pictures of a worker that dies to the others:

    dask scheduler &    dask worker tcp://HOST:8786 --nthreads 1    (on every machine)
    python3 tools/agf_eval.py perturb NET.agf PICTURES -o OUT -m all --dask tcp://HOST:8786

Needs numpy, Pillow, matplotlib, tqdm, scikit-learn (segment), scipy (sanity), dask.distributed (--dask).
"""

import argparse
import math
import os
import re
import shlex
import sys

import agf
from agf_convert import files

from .common import EvalError, positive, reason, say
from .experiments import EXPERIMENTS
from .runs import merge, run
from .summary import summarise


def fraction(text):
    """ "i/n" with 1 <= i <= n."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found.group(1)) <= int(found.group(2)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N")
    return int(found.group(1)), int(found.group(2))


def picture_size(text):
    """ "WxH" as (height, width)."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or not int(found.group(1)) * int(found.group(2)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(found.group(2)), int(found.group(1))


def minutes(text):
    """A positive number of minutes."""
    try:
        if 0 < float(text) < math.inf:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of minutes")


def command_line():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("-o", "--out", required=True, metavar="OUT", help="the folder for results")
    output.add_argument("--sheet", type=int, default=6, metavar="N", help="pictures on the contact sheet (default 6; 0: none)")
    output.add_argument("--title", help="the report's heading")
    output.add_argument(
        "--into",
        metavar="FILE.md",
        help="also put the report into this file, in place of the section with the same title",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("model", metavar="NET.agf")
    common.add_argument("pictures", metavar="PICTURES", help="folder")
    common.add_argument("-m", "--method", action="append", metavar="NAME[:OPTIONS]", help="may be repeated (default agf)")
    common.add_argument("--labels", metavar="FILE.csv", help="columns file, label")
    common.add_argument(
        "--explain",
        default="predicted",
        metavar="WHICH",
        help="explain the predicted class (default), the target, or the class in this column of the CSV",
    )
    common.add_argument(
        "--probability",
        choices=("softmax", "sigmoid"),
        default="softmax",
        help="how the network's logits become probabilities (default softmax)",
    )
    common.add_argument("--limit", type=positive, metavar="N", help="only the first N pictures")
    common.add_argument("--size", type=picture_size, metavar="WxH", help="input size (default: the network's)")
    common.add_argument("--seed", type=int, default=0, help="of grids and random weights (default 0)")
    common.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes that share the units (default 1)")
    common.add_argument("--threads", type=int, help="of each process (default: all cores; 1 with --jobs)")
    common.add_argument(
        "--minutes",
        type=minutes,
        metavar="M",
        help="begin no more units after M minutes, and report what is finished; exit code 3 where some are left",
    )
    common.add_argument("--isa", help="instruction set (default: the best)")
    common.add_argument("--shard", type=fraction, metavar="I/N", help="do the I-th of N parts; then merge")
    common.add_argument("--dask", metavar="ADDRESS", help="spread the pictures over a Dask cluster")
    for name, experiment in EXPERIMENTS.items():
        own = commands.add_parser(name, parents=[common, output], help=experiment.help, description=experiment.note)
        experiment.arguments(own)
    own = commands.add_parser("summary", parents=[output], help="which method for which question, over several experiments")
    own.add_argument("outs", nargs="+", metavar="OUT")
    own = commands.add_parser("merge", parents=[output], help="put the shards of one experiment together")
    own.add_argument("outs", nargs="+", metavar="OUT")
    return parser


def main(argv=None):
    parser = command_line()
    args = parser.parse_args(argv)
    other = {"merge": merge, "summary": summarise}.get(args.experiment)
    if other is None:
        if args.threads is None:
            args.threads = 1 if args.jobs > 1 else 0
        if args.dask and (args.jobs > 1 or args.minutes):
            parser.error("--dask goes with neither --jobs nor --minutes")
    args.command = shlex.join(["tools/agf_eval.py"] + (sys.argv[1:] if argv is None else list(argv)))
    try:
        return (other or run)(args)
    except BrokenPipeError:  # the reader of the report has seen enough; everything is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (EvalError, files.OutputError, agf.Error, OSError) as problem:
        say(f"error: {reason(problem)}")
    except ImportError as problem:
        say(f"error: needs the Python package {problem.name}")
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    return 2
