"""Seconds and memory to build the staircases of the paper's networks, from seed to arrays.

    python benchmarks/build_time.py --networks vgg19 --num-values 8 64 --out results.json

Each cell is a fresh process that builds all kernels of a network `--repeats` times, drawing bank
and scores with the default initializers. The table has the median and the range of the repeats.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np

import record

NETWORKS = {
    "lenet-300-100": [(784, 300), (300, 100), (100, 10)],
    "conv6": [
        *((3, 3, *pair) for pair in [(3, 64), (64, 64), (64, 128), (128, 128)]),
        *((3, 3, *pair) for pair in [(128, 256), (256, 256)]),
        *[(4096, 256), (256, 256), (256, 10)],
    ],
    "vgg19": [
        *((3, 3, *pair) for pair in [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256)]),
        *[(3, 3, 256, 256)] * 3,
        (3, 3, 256, 512),
        *[(3, 3, 512, 512)] * 7,
        (512, 10),
    ],
}


def build(shapes: list[tuple[int, ...]], num_values: int, workers: int) -> tuple[list, float]:
    """Builds the staircases of all kernels; also returns the seconds that drawing rows took."""
    from keras_slots.distributions import GlorotUniform, UniformScores
    from keras_slots.initializers import compute_fans
    from keras_slots.staircase import build_staircase

    drawing = []
    result = []
    for seed, shape in enumerate(shapes):
        fans = compute_fans(shape)

        def rows(start, stop, seed=seed, fans=fans):
            began = time.perf_counter()
            window = {"count": (stop - start) * num_values, "start": start * num_values}
            bank = GlorotUniform().sample(seed, fans=fans, stream=0, **window)
            scores = UniformScores().sample(seed, fans=fans, stream=1, **window)
            drawing.append(time.perf_counter() - began)
            return bank.reshape(-1, num_values), scores.reshape(-1, num_values)

        size = math.prod(shape)
        result.append(build_staircase(size, num_values, rows, workers=workers, progress=False))
    return result, sum(drawing) / workers


def status_mib(field: str) -> float:
    """Returns `VmRSS` (memory in use) or `VmHWM` (its peak) of this process in MiB, on Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def measure(network: str, num_values: int, repeats: int, workers: int, queue) -> None:
    """One cell of the table, in a process of its own, so that the peak is its own."""
    shapes = NETWORKS[network]
    build([(8, 8)], num_values, workers)
    seconds, drawing = [], []
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(repeats):
        arrays = None  # as in a new model: the arrays of the last repeat are gone
        began = time.perf_counter()
        arrays, drawn = build(shapes, num_values, workers)
        seconds.append(time.perf_counter() - began)
        drawing.append(drawn)
    connections = sum(map(math.prod, shapes))
    steps = sum(int((thresholds < np.inf).sum()) for thresholds, _ in arrays)
    queue.put(
        {
            "network": network,
            "num_values": num_values,
            "connections": connections,
            "seconds": seconds,
            "seconds_drawing": drawing,
            "peak_mib": status_mib("VmHWM") - before,
            "kept_mib": sum(a.nbytes for pair in arrays for a in pair) / 2**20,
            "bank_mib": 4 * connections * num_values / 2**20,
            "largest_steps": max(len(thresholds) for thresholds, _ in arrays),
            "mean_values": steps / connections + 1,
        }
    )


def machine() -> dict:
    import keras

    return {
        "machine": record.processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "keras": keras.__version__,
    }


def table(cells: list[dict]) -> str:
    lines = [
        (
            "| network | connections | K | build, s | of it drawing | peak memory, MiB | kept, MiB "
            "| float32 bank, MiB | values on the envelope |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        seconds = cell["seconds"]
        share = statistics.median(cell["seconds_drawing"]) / statistics.median(seconds)
        lines.append(
            f"| {cell['network']} | {cell['connections']:,} | {cell['num_values']} "
            f"| {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) "
            f"| {share:.0%} | {cell['peak_mib']:,.0f} | {cell['kept_mib']:,.0f} "
            f"| {cell['bank_mib']:,.0f} "
            f"| {cell['mean_values']:.2f}, at most {cell['largest_steps'] + 1} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--num-values", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="threads")
    parser.add_argument("--out", type=Path, help="also write all figures to this JSON file")
    args = parser.parse_args()
    cells = []
    context = multiprocessing.get_context("spawn")
    for network in args.networks:
        for num_values in args.num_values:
            queue = context.SimpleQueue()
            job = (network, num_values, args.repeats, args.workers, queue)
            process = context.Process(target=measure, args=job)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{network}, K={num_values} ended with code {process.exitcode}")
            cells.append(queue.get())
            print(table(cells[-1:]).splitlines()[-1], flush=True)
    print("\n" + table(cells))
    if args.out:
        results = {**machine(), "workers": args.workers, "repeats": args.repeats, "cells": cells}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
