"""Time and memory to draw a bank: one table, each row measured in a process of its own.

    python benchmarks/bank_generation.py --out benchmarks/results/bank_generation.json

The default count is the bank of VGG-19 with eight values per connection. The yardstick is NumPy's
`Generator.random(dtype=float32)`, whose values may change with NumPy, in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

VGG19_AT_8_VALUES = 160_000_000
YARDSTICK = "numpy Generator.random"
NAMES = (
    YARDSTICK,
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "signed_constant",
    "uniform_scores",
)
TARGET_SECONDS, TARGET_MB = 5.0, 750.0
FANS = (4608, 4608)  # of the 3x3 kernels with 512 channels, most of VGG-19


def draw(name: str, count: int) -> np.ndarray:
    """Draws `count` values the way of one row."""
    if name == YARDSTICK:
        return np.random.default_rng(0).random(count, dtype=np.float32)
    from keras_slots import initializers

    return initializers.get_scores(name).sample(0, count, FANS)


def measure_here(name: str, count: int) -> dict[str, float]:
    """Seconds and additional peak memory of one draw in this process."""
    draw(name, 1000)  # imports and first calls are not what is measured
    before = resident_mb()
    start = time.perf_counter()
    values = draw(name, count)
    seconds = time.perf_counter() - start
    assert values.shape == (count,)
    return {"seconds": seconds, "peak_extra_mb": peak_mb() - before}


def resident_mb() -> float:
    """Resident memory of this process now, in millions of bytes; the peak so far off Linux."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_mb()
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6


def peak_mb() -> float:
    """Largest resident memory of this process so far, in millions of bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(name: str, count: int, repeats: int) -> dict[str, float]:
    """Median seconds and largest memory over `repeats` fresh processes."""
    command = [sys.executable, __file__, "--count", str(count), "--only", name]
    rows = []
    for _ in range(repeats):
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
    seconds = [row["seconds"] for row in rows]
    return {
        "seconds": round(statistics.median(seconds), 3),
        "seconds_min": round(min(seconds), 3),
        "seconds_max": round(max(seconds), 3),
        "peak_extra_mb": round(max(row["peak_extra_mb"] for row in rows), 1),
    }


def print_table(rows: dict[str, dict[str, float]], count: int) -> None:
    """Prints the rows and how many times the yardstick each took."""
    print(f"{count} values, {4 * count / 1e6:.0f} MB of them")
    print(f"{'':<24}{'seconds':>9}{'min':>8}{'max':>8}{'ratio':>8}{'peak extra MB':>15}")
    for name, row in rows.items():
        ratio = row["seconds"] / rows[YARDSTICK]["seconds"]
        print(
            f"{name:<24}{row['seconds']:>9.3f}{row['seconds_min']:>8.3f}{row['seconds_max']:>8.3f}"
            f"{ratio:>8.2f}{row['peak_extra_mb']:>15.1f}"
        )


def versions() -> dict[str, str]:
    """What the figures depend on besides the machine."""
    import keras

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "keras": keras.__version__,
        "system": platform.system(),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=VGG19_AT_8_VALUES, help="values to draw")
    parser.add_argument("--repeats", type=int, default=5, help="processes per row")
    parser.add_argument("--machine", default="", help="kind of machine, for the result file")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument("--only", choices=NAMES, help="measure one row here and print it as JSON")
    options = parser.parse_args(arguments)
    if options.count < 1 or options.repeats < 1:
        parser.error(
            "--count and --repeats must be positive. "
            f"Received: --count {options.count} --repeats {options.repeats}"
        )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes; returns 1 when the default bank misses its target at the default count."""
    options = parse(arguments)
    if options.only:
        print(json.dumps(measure_here(options.only, options.count)))
        return 0
    rows = {name: measure(name, options.count, options.repeats) for name in NAMES}
    print_table(rows, options.count)
    default = rows["glorot_uniform"]
    has_target = options.count == VGG19_AT_8_VALUES
    met = default["seconds"] <= TARGET_SECONDS and default["peak_extra_mb"] <= TARGET_MB
    if has_target:
        verdict = "met" if met else "missed"
        print(f"glorot_uniform: target {TARGET_SECONDS} s and {TARGET_MB} MB {verdict}")
    if options.out:
        result = {
            "count": options.count,
            "repeats": options.repeats,
            "machine": options.machine or f"{os.cpu_count()} CPU cores ({platform.machine()})",
            "versions": versions(),
            "target": {"seconds": TARGET_SECONDS, "peak_extra_mb": TARGET_MB, "met": met}
            if has_target
            else None,
            "rows": rows,
        }
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if met or not has_target else 1


if __name__ == "__main__":
    sys.exit(main())
