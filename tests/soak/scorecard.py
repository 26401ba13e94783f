"""What the scripts of this folder share: rows of a scorecard, and how long they may be."""

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the package beside these scripts, whatever is installed


def row(part, name, survived, tried, figure, **measured):
    """One line of the scorecard: how many of the tries survived, the figure to hold, what was measured.

    A line without tries is held when `survived` is true.
    """
    return {
        "part": part,
        "name": name,
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "held": survived == tried if tried is not None else bool(survived),
        "survived": survived if tried is not None else None,
        "tried": tried,
        "figure": figure,
        "measured": measured,
    }


def say(line):
    print(line, file=sys.stderr, flush=True)


def main(description, parts, argv=None):
    """Runs the chosen parts, each a function `quick -> rows`, and prints each row as a line of JSON."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer tries, in about a minute")
    parser.add_argument("--only", nargs="*", choices=[*parts], help="parts to run")
    args = parser.parse_args(argv)
    held = True
    for name, part in parts.items():
        if args.only and name not in args.only:
            continue
        for line in part(args.quick):
            held &= line["held"]
            print(json.dumps(line), flush=True)
    return 0 if held else 1
