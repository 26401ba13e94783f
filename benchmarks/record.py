"""Shared by the benchmarks: timing in turn or in fresh processes, tables, and the file of a run."""

import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path


def side_by_side(runs, steps, rounds):
    """Times all variants in turn, round by round, so that noise of the machine affects all alike.

    Args:
        runs: Maps each name to a function that takes `steps` steps and waits for them.
        steps: Number of steps per call.
        rounds: Number of rounds.

    Returns:
        One dict per variant: `milliseconds` per step (median over the rounds), `ratio` to the first variant
        (median of the ratios within a round), `spread` of that ratio (middle half of the rounds), and `cpu_ratio`,
        the same ratio in CPU seconds, which other programs on the machine affect less.
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
    rows, first = [], next(iter(runs))
    for name in runs:
        ratios, of_cpu = (
            sorted(a / b for a, b in zip(taken[name], taken[first], strict=True)) for taken in (wall, cpu)
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


def fresh_process(task, flags=()):
    """Runs this script in a new process with `--child task`, and returns the row that it prints as its last line.

    If the process fails, the row holds its status as `failed`, and `why`.
    """
    command = [sys.executable, sys.argv[0], *flags, "--child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    # If TensorFlow is refused memory, a signal may end it, and its output does not help.
    last = (done.stderr.strip().splitlines() or [""])[-1][:100]
    why = last if done.returncode > 0 else signal.Signals(-done.returncode).name
    return {"failed": done.returncode, "why": why}


def peak_mib():
    """Peak resident memory of this process so far, in MiB."""
    # On Linux `getrusage` includes the peak of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def resident_mib():
    """Current resident memory of this process in MiB; outside Linux, its peak so far."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_mib()
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20


def print_head(title, columns):
    """Prints the head of a table; `columns` maps each heading to a format of a row's figures."""
    print(f"\n{title:34}" + "".join(f"{heading:>16}" for heading in columns))


def print_row(row, columns):
    if "failed" in row:
        print(f"{row['variant']:34} failed with status {row['failed']}: {row['why']}", flush=True)
        return
    cells = "".join(f"{text.format(**row):>16}" for text in columns.values())
    print(f"{row['variant']:34}{cells}", flush=True)


def processor():
    """Name and number of cores of the processor."""
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
    """The command, machine and versions that figures come from."""
    versions = {"python": platform.python_version()}
    for name in ("keras", "tensorflow", "jax", "torch", "numpy", "keras_slots"):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__
    flags = sys.argv[1:]
    if "--out" in flags:  # the reader writes elsewhere
        del flags[flags.index("--out") : flags.index("--out") + 2]
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    start = ["python"] if backend == "tensorflow" else [f"KERAS_BACKEND={backend}", "python"]
    return {
        "command": " ".join([*start, f"benchmarks/{Path(sys.argv[0]).name}", *flags]),
        "machine": machine or processor(),
        "versions": versions,
    }


def write(args, rows, **more):
    """Writes the rows, their `origin` and `more` as JSON to `--out`, if given."""
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        result = {**origin(args.machine), **more, "rows": rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
