"""Size of `.slots` files, and time and memory to pack and to unpack them.

    python benchmarks/slots_file.py --networks lenet300100,vgg19 --variants per_connection,nearest --out FILE
    python benchmarks/slots_file.py --models trained.keras other.keras --out FILE

Without `--models` nothing is trained. Instead each lever gets a normal random step, of `--step` times 0.3 for
the paper's scores, and of `--step` times the spread of the values for nearest scores. These steps determine
the size, so the sizes say nothing about trained networks; times and memory hardly depend on them. With
`--models` trained slot models are loaded and packed.

`entropy` is that of the moves in bits a weight, if the distribution of each kernel is known; `row_entropy`,
if that of each row is known. They bound what a coder without and with a context for each input row can reach.
`pack_mib` and `unpack_mib` are the peak of resident memory above what the process held before. Packing
includes reading the result back. CPU seconds are summed over all threads. Each row is measured in fresh
processes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import networks
import record
from keras_slots import load_slots, save_slots
from keras_slots._keras import inner_layers
from keras_slots.kernels.base import SlotKernel
from keras_slots.slots_file import name_records
from keras_slots.slots_file.coder import moves_to_choices
from keras_slots.slots_file.container import split
from keras_slots.slots_file.records import coding_of, find_choices, values_of

COLUMNS = {
    "file, kB": "{kilobytes:.1f}",
    "bits/weight": "{bits:.3f}",
    "entropy": "{entropy:.3f}",
    "by row": "{row_entropy:.3f}",
    "pack, s": "{pack_seconds:.1f}",
    "of CPU": "{pack_cpu_seconds:.1f}",
    "unpack, s": "{unpack_seconds:.1f}",
    "of CPU ": "{unpack_cpu_seconds:.1f}",
    "pack, MiB": "{pack_mib:.0f}",
    "unpack, MiB": "{unpack_mib:.0f}",
}


def kernels(model):
    return [layer for layer in inner_layers(model) if isinstance(layer, SlotKernel)]


def move(model, size):
    """Moves all levers by random steps."""
    random = np.random.default_rng(0)
    for kernel in kernels(model):
        nearest = "Nearest" in type(kernel.score_initializer).__name__
        unit = float(np.std(np.asarray(kernel.initial.bank_rows(0, 1000)))) if nearest else 0.3
        lever = kernel.trained_variables()[0]
        step = size * unit * random.standard_normal(lever.shape, "float32")
        lever.assign(np.asarray(lever) + step)


def bits_of(counts):
    """Bits of all counted moves, if their distribution is known."""
    share = counts[counts > 0] / counts.sum()
    return -float(counts.sum() * (share * np.log2(share)).sum())


def entropies(model):
    """Bits a weight of the moves, given the distribution of each kernel, and given that of each row."""
    by_kernel = by_row = connections = 0
    for kernel in kernels(model):
        values, selected = values_of(kernel), np.asarray(kernel.select_greedily())
        found = find_choices(kernel, values, selected.reshape(-1))
        coding = coding_of(found, values, selected.shape)
        total = np.zeros(2 * kernel.num_values, "int64")
        for first, last, stairs in coding.blocks(values):
            moves = moves_to_choices(stairs, found.index[first:last])[0] + kernel.num_values
            for row in moves.reshape(-1, coding.width):
                counts = np.bincount(row, minlength=len(total))
                by_row += bits_of(counts)
                total += counts
        by_kernel += bits_of(total)
        connections += selected.size
    return {"entropy": by_kernel / connections, "row_entropy": by_row / connections}


def pack(name, variant, num_values, path, args):
    """Builds or loads a slot model and writes its file."""
    if args.models:
        model = keras.models.load_model(name, compile=False)
    else:
        keras.utils.set_random_seed(0)
        model = networks.make(name, variant, num_values)
        move(model, args.step)
    row = entropies(model)
    base, began, cpu = record.peak_mib(), time.perf_counter(), time.process_time()
    save_slots(model, path)
    row |= {
        "pack_seconds": time.perf_counter() - began,
        "pack_cpu_seconds": time.process_time() - cpu,
        "pack_mib": record.peak_mib() - base,
    }
    records = name_records(split(Path(path).read_bytes()))
    coded = [r for r in records if "kernel" in r.name]
    connections = sum(r.size for r in coded)
    return row | {
        "kilobytes": Path(path).stat().st_size / 1e3,
        "bits": 8 * sum(len(r.payload) for r in coded) / connections,
        "connections": connections,
        "forms": [r.form for r in coded],
    }


def unpack(path):
    """Reads a file."""
    np.asarray(keras.ops.zeros(1))
    base, began, cpu = record.resident_mib(), time.perf_counter(), time.process_time()
    load_slots(path)
    return {
        "unpack_seconds": time.perf_counter() - began,
        "unpack_cpu_seconds": time.process_time() - cpu,
        "unpack_mib": record.peak_mib() - base,
    }


def parse(argv=None):
    parser = networks.parser(__doc__, networks="lenet300100", variants="per_connection,nearest", num_values="8")
    parser.add_argument("--models", nargs="+", help=".keras files of slot models to pack instead")
    parser.add_argument("--step", type=float, default=1.0, help="size of the random steps")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure(task, args):
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.slots"))
        flags = ["--step", str(args.step)]
        flags += ["--models", "given"] if args.models else []
        row = record.fresh_process(["pack", *task, path], flags)
        return row if "failed" in row else row | record.fresh_process(["unpack", path], flags)


def main(argv=None):
    args = parse(argv)
    if args.child:
        what, *task = args.child
        print(json.dumps(pack(*task, args) if what == "pack" else unpack(*task)))
        return
    tasks = {}
    if args.models:
        tasks = {Path(model).stem: (model, None, None) for model in args.models}
    else:
        for name in args.networks:
            labels = networks.labels(args.variants, args.num_values)
            tasks |= {f"{name} {label}": (name, *task) for label, task in labels.items()}
    rows = []
    record.print_head("file of", COLUMNS)
    for label, task in tasks.items():
        rows.append({"variant": label, **measure(task, args)})
        record.print_row(rows[-1], COLUMNS)
    record.write(args, rows)


if __name__ == "__main__":
    main()
