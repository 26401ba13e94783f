"""What the benchmarks share: rows timed side by side, and the file that a run writes."""

import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path


def side_by_side(runs, steps, rounds, first="plain"):
    """Times all variants in turn, round by round, so that the noise of the machine hits all alike.

    Args:
        runs: name -> function that takes `steps` steps and waits for them.
        steps: number of steps of one call.
        rounds: number of rounds.
        first: the variant that the ratios refer to.

    Returns:
        One dict per variant: `milliseconds` a step (median over the rounds), `ratio` to `first` (median of
        the ratios within a round), `spread` of that ratio (middle half of the rounds), and `cpu_ratio`, the
        same ratio in seconds of the processor, which other programs on the machine disturb less.
    """
    for run in runs.values():
        run()  # traces and compiles
        run()
    wall, cpu = ({name: [] for name in runs} for _ in range(2))
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter(), time.process_time()
            run()
            wall[name].append((time.perf_counter() - began[0]) / steps)
            cpu[name].append((time.process_time() - began[1]) / steps)
    rows = []
    for name in runs:
        ratios, of_cpu = (
            sorted(a / b for a, b in zip(taken[name], taken[first], strict=True))
            for taken in (wall, cpu)
        )
        quarter = len(ratios) // 4
        rows.append(
            {
                "variant": name,
                "milliseconds": round(1e3 * statistics.median(wall[name]), 3),
                "ratio": round(statistics.median(ratios), 3),
                "spread": [round(ratios[quarter], 3), round(ratios[-1 - quarter], 3)],
                "cpu_ratio": round(statistics.median(of_cpu), 3),
            }
        )
    return rows


def print_rows(title, rows):
    """The table of `side_by_side` on standard output."""
    print(f"{title:34} {'ms':>9} {'ratio':>7} {'middle half':>15} {'CPU ratio':>10}")
    for row in rows:
        low, high = row["spread"]
        print(
            f"{row['variant']:34} {row['milliseconds']:9.2f} {row['ratio']:7.2f} "
            f"{low:6.2f} to {high:5.2f} {row['cpu_ratio']:10.2f}",
            flush=True,
        )


def processor():
    """Name of the processor, and its number of cores."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:  # not Linux
        pass
    return f"{name}, {os.cpu_count()} cores"


def origin(machine=None):
    """The command, the machine and the versions that figures come from."""
    versions = {"python": platform.python_version()}
    for name in ("keras", "tensorflow", "jax", "numpy", "keras_slots"):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__
    flags = sys.argv[1:]
    if "--out" in flags:  # the reader has folders of their own
        del flags[flags.index("--out") : flags.index("--out") + 2]
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *flags]),
        "machine": machine or processor(),
        "versions": versions,
    }


def write(path, rows, machine=None, **more):
    """Writes the rows as JSON, with their `origin` and `more`."""
    result = {**origin(machine), **more, "rows": rows}
    Path(path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
