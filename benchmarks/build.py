"""Time and memory to build a network from its seed, or to draw values; each row from fresh processes.

    python benchmarks/build.py --networks vgg19 --out FILE
    python benchmarks/build.py --draw 160000000 --out FILE

Building is `slotify`: it draws all values and, for `per_connection`, computes all staircases. The row of the
plain network is the time to build what `slotify` starts from. `peak_mib` is the peak of resident memory above
that before the build, `kept_mib` the size of the variables of the network, `bank_mib` that of its bank in
float32, stored or not.

`--draw COUNT` draws that many values of each distribution (160 million: the bank of VGG-19 at K = 8). The
reference is NumPy's `Generator.random(dtype=float32)`, whose values may differ between versions of NumPy.
"""

import argparse
import json
import statistics
import time

import keras
import numpy as np

import networks
import record
from keras_slots import slotify
from keras_slots.values import initializers

YARDSTICK = "numpy Generator.random"
DISTRIBUTIONS = (
    YARDSTICK,
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "signed_constant",
    "uniform_scores",
)
FANS = (4608, 4608)  # of the 3x3 kernels with 512 channels, most of VGG-19
COLUMNS = {
    "seconds": "{seconds:.2f}",
    "range": "{seconds_range[0]:.2f} to {seconds_range[1]:.2f}",
    "peak, MiB": "{peak_mib:.0f}",
}
SIZES = {"kept, MiB": "{kept_mib:.0f}", "bank, MiB": "{bank_mib:.0f}"}


def timed(function):
    """Returns the result of `function`, and the seconds and additional peak memory that it took."""
    base, began = record.resident_mib(), time.perf_counter()
    result = function()
    return result, {"seconds": time.perf_counter() - began, "peak_mib": record.peak_mib() - base}


def draw(name, count):
    """Draws `count` values of one distribution, in this process."""

    def values(count):
        if name == YARDSTICK:
            return np.random.default_rng(0).random(count, dtype=np.float32)
        return initializers.get_scores(name).sample(0, count, FANS)

    values(1000)  # imports and first calls are not measured
    return timed(lambda: values(count))[1]


def build(name, variant, num_values):
    """Builds a network in this process."""
    arguments = networks.VARIANTS[variant]
    tiny = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    if arguments is None:
        model, row = timed(lambda: networks.plain_network(name))
        connections = networks.count(model.trainable_variables)
    else:
        slotify(tiny, num_values, **arguments)
        plain = networks.plain_network(name)
        connections = networks.count(plain.trainable_variables)
        model, row = timed(lambda: slotify(plain, num_values, seed=1, **arguments))
    kept = sum(networks.count([v]) * np.dtype(v.dtype).itemsize for v in model.variables)
    row |= {"connections": connections, "kept_mib": kept / 2**20}
    return row | {"bank_mib": 4 * connections * num_values / 2**20}


def measure(task, repeats):
    """Returns the median and range of the seconds, and the largest peak, over fresh processes."""
    rows = [record.fresh_process(task) for _ in range(repeats)]
    failed = [row for row in rows if "failed" in row]
    if failed:
        return failed[0]
    seconds = [row["seconds"] for row in rows]
    row = rows[0] | {"seconds": statistics.median(seconds), "peak_mib": max(r["peak_mib"] for r in rows)}
    return row | {"seconds_range": [min(seconds), max(seconds)]}


def parse(argv=None):
    parser = networks.parser(__doc__, networks="lenet300100", variants="plain,per_connection", num_values="8,64")
    parser.add_argument("--repeats", type=int, default=3, help="processes per row")
    parser.add_argument("--draw", type=int, metavar="COUNT", help="draw values instead")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    if args.child:
        kind, *task = args.child
        print(json.dumps({"draw": draw, "build": build}[kind](*task)))
        return
    tasks = {f"{args.draw} values": {x: ("draw", x, args.draw) for x in DISTRIBUTIONS}}
    columns = COLUMNS
    if not args.draw:
        labels, columns = networks.labels(args.variants, args.num_values), COLUMNS | SIZES
        tasks = {
            name: {label: ("build", name, *choice) for label, choice in labels.items()} for name in args.networks
        }
    rows = []
    for title, group in tasks.items():
        record.print_head(title, columns)
        for label, task in group.items():
            rows.append({"of": title, "variant": label, **measure(task, args.repeats)})
            record.print_row(rows[-1], columns)
    record.write(args, rows, repeats=args.repeats)


if __name__ == "__main__":
    main()
