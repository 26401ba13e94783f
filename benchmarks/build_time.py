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


def build(shapes: list[tuple[int, ...]], num_values: int) -> list:
    """Builds the staircases of all kernels."""
    from keras_slots.banks import InitialValues
    from keras_slots.distributions import GlorotUniform, UniformScores
    from keras_slots.initializers import compute_fans
    from keras_slots.staircase import build_staircase

    rest = GlorotUniform(), UniformScores(), "connection"
    return [
        build_staircase(InitialValues(shape, num_values, compute_fans(shape), seed, *rest))
        for seed, shape in enumerate(shapes)
    ]


def status_mib(field: str) -> float:
    """Returns `VmRSS` (memory in use) or `VmHWM` (its peak) of this process in MiB, on Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def measure(network: str, num_values: int, repeats: int, queue) -> None:
    """One cell of the table, in a process of its own, so that the peak is its own."""
    shapes = NETWORKS[network]
    build([(8, 8)], num_values)
    seconds = []
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(repeats):
        arrays = None  # as in a new model: the arrays of the last repeat are gone
        began = time.perf_counter()
        arrays = build(shapes, num_values)
        seconds.append(time.perf_counter() - began)
    connections = sum(map(math.prod, shapes))
    used = [a < np.finfo(a.dtype).max for s in arrays for a in (s.thresholds, s.tall_thresholds)]
    steps = sum(map(np.count_nonzero, used))
    queue.put(
        {
            "network": network,
            "num_values": num_values,
            "connections": connections,
            "seconds": seconds,
            "peak_mib": status_mib("VmHWM") - before,
            "kept_mib": sum(a.nbytes for staircase in arrays for a in staircase) / 2**20,
            "bank_mib": 4 * connections * num_values / 2**20,
            "levels": max(len(staircase.thresholds) for staircase in arrays),
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
            "| network | connections | K | build, s | peak memory, MiB | kept, MiB "
            "| float32 bank, MiB | values on the envelope |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        seconds = cell["seconds"]
        lines.append(
            f"| {cell['network']} | {cell['connections']:,} | {cell['num_values']} "
            f"| {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) "
            f"| {cell['peak_mib']:,.0f} | {cell['kept_mib']:,.0f} "
            f"| {cell['bank_mib']:,.0f} "
            f"| {cell['mean_values']:.2f}, room for {cell['levels'] + 1} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--num-values", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write all figures to this JSON file")
    args = parser.parse_args()
    cells = []
    context = multiprocessing.get_context("spawn")
    for network in args.networks:
        for num_values in args.num_values:
            queue = context.SimpleQueue()
            job = (network, num_values, args.repeats, queue)
            process = context.Process(target=measure, args=job)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{network}, K={num_values} ended with code {process.exitcode}")
            cells.append(queue.get())
            print(table(cells[-1:]).splitlines()[-1], flush=True)
    print("\n" + table(cells))
    if args.out:
        results = {**machine(), "threads": os.cpu_count(), "repeats": args.repeats, "cells": cells}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
