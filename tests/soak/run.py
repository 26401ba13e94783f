"""The scorecard: kills, load and hostile files, on both backends.

    python tests/soak/run.py [--quick] [--parts kills load hostile] [--out scorecard.json]

Takes an hour on two cores; --quick takes minutes, with fewer tries. Each part runs in a process of its own; what
it says on the way goes to stderr. A file that is there keeps the rows of parts that do not run again. Exit status:
0 if every figure is held, else 1.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from scorecard import ROOT, say

BACKENDS = ("tensorflow", "jax")
PARTS = ("kills", "load", "hostile")
#: What depends on no backend runs on one.
ONCE = {"hostile": ("tensorflow",)}


def run(part, backend, quick):
    """The rows of one part on one backend; a part that broke down is a row that is not held."""
    words = [sys.executable, str(Path(__file__).with_name(f"{part}.py"))] + ["--quick"] * quick
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    began = time.monotonic()
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"part"')]
    expected = 0 if all(row["held"] for row in rows) else 1
    if done.returncode != expected or not rows:
        name = f"{part} broke down, status {done.returncode}"
        rows.append({"part": part, "name": name, "backend": backend, "held": False})
    say(f"--- {part} on {backend}: {time.monotonic() - began:.0f} s")
    return rows


def table(rows):
    """The scorecard as lines of text."""
    for row in rows:
        tries = f"{row['survived']:,} / {row['tried']:,}" if row.get("tried") is not None else ""
        facts = ", ".join(f"{name} {value}" for name, value in row.get("measured", {}).items())
        mark = "held " if row["held"] else "SHORT"
        figure = f"({row['figure']})" if "figure" in row else ""
        yield " ".join(f"{mark} {row['backend']:10} {row['name']}: {tries} {facts} {figure}".split())


def markdown(rows):
    """The scorecard as a table of a page."""
    yield "| | backend | held | survived / tried | measured | figure |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        tries = f"{row['survived']:,} / {row['tried']:,}" if row.get("tried") is not None else ""
        facts = "; ".join(f"{_words(k)} {_shown(v)}" for k, v in row.get("measured", {}).items())
        mark = "yes" if row["held"] else "**short**"
        figure = row.get("figure", "")
        yield f"| {row['name']} | {row['backend']} | {mark} | {tries} | {facts} | {figure} |"


def _words(name):
    return name.replace("_", " ")


def _shown(value):
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine():
    """The kind of processor and its number of cores."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.machine()}, {os.cpu_count()} cores"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tries")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--backends", nargs="*", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for the rows, JSON")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the rows of a file as Markdown")
    args = parser.parse_args(argv)
    if args.show:
        print("\n".join(markdown(json.loads(args.show.read_text(encoding="utf-8"))["rows"])))
        return 0
    rows = []
    for part in args.parts:
        for backend in args.backends:
            if backend in ONCE.get(part, BACKENDS):
                more = run(part, backend, args.quick)
                print("\n".join(table(more)), flush=True)
                rows += more
        if args.out:
            write(args.out, rows, args)
    short = [row for row in rows if not row["held"]]
    print("\n".join(["", *table(rows), f"{len(rows) - len(short)} of {len(rows)} figures held"]))
    return 0 if not short else 1


def write(path, rows, args):
    """Writes the rows, and keeps those that the file has of parts that this command does not run."""
    kept = []
    if path.exists():
        ours = {(row["part"], row["backend"]) for row in rows}
        kept = json.loads(path.read_text(encoding="utf-8"))["rows"]
        kept = [row for row in kept if (row["part"], row["backend"]) not in ours]
    order = {part: number for number, part in enumerate(PARTS)}
    result = {
        "command": " ".join(["python tests/soak/run.py", *["--quick"] * args.quick]),
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("keras", "tensorflow", "jax", "numpy")},
        "rows": sorted(kept + rows, key=lambda row: (order[row["part"]], row["backend"])),
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
