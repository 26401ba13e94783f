"""What SelectionMonitor costs: epochs of LeNet-300-100 with and without it, alternately, in one process.

    python benchmarks/monitor.py --out FILE

An epoch is that of MNIST in the paper: 51,000 images, batch 128, no validation. `ratio` is the median, over
pairs of consecutive epochs, of (with / without). `share` is the time spent in the callback divided by that of
an epoch without it; other programs on the machine affect it less. `setup` is the time of the callback's
`on_train_begin`, once per `fit`. The images are random, because the times do not
depend on them.
"""

import statistics
import time

import keras
import numpy as np

import networks
import record
from keras_slots import SelectionMonitor


class Timed(SelectionMonitor):
    """Records the seconds of every call; sets itself up only in the first `fit`."""

    def __init__(self):
        super().__init__()
        self.setup, self.calls = 0.0, []

    def on_train_begin(self, logs=None):
        if not self.setup:
            began = time.perf_counter()
            super().on_train_begin(logs)
            self.setup = time.perf_counter() - began

    def on_epoch_end(self, epoch, logs=None):
        began = time.perf_counter()
        super().on_epoch_end(epoch, logs)
        self.calls.append(time.perf_counter() - began)


def measure(label, variant, num_values, args):
    """Returns the row of one variant."""
    model = networks.compiled(networks.make("lenet300100", variant, num_values))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((args.images, 784)).astype("float32")
    labels, monitor = rng.integers(0, 10, args.images), Timed()

    def epoch(*callbacks):
        arguments = {"batch_size": 128, "shuffle": False, "verbose": 0}
        model.fit(images, labels, **arguments, callbacks=list(callbacks))

    alone, with_it = record.side_by_side({"alone": epoch, label: lambda: epoch(monitor)}, 1, args.rounds)
    call = statistics.median(monitor.calls[-args.rounds :])
    return {
        **with_it,
        "alone_milliseconds": alone["milliseconds"],
        "call_milliseconds": round(1e3 * call, 2),
        "share": round(1e3 * call / alone["milliseconds"], 4),
        "setup_seconds": round(monitor.setup, 2),
    }


def main(argv=None):
    parser = networks.parser(__doc__, variants="per_connection,per_value,nearest", num_values="8")
    parser.add_argument("--images", type=int, default=51_000, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="pairs of epochs")
    args = parser.parse_args(argv)
    columns = {
        "epoch, ms": "{alone_milliseconds:.0f}",
        "callback, ms": "{call_milliseconds:.1f}",
        "share": "{share:.2%}",
        "ratio": "{ratio:.3f}",
        "middle half": "{spread[0]:.3f} to {spread[1]:.3f}",
        "setup, s": "{setup_seconds:.1f}",
    }
    record.print_head(f"lenet300100, {keras.backend.backend()}", columns)
    rows = []
    for label, (variant, num_values) in networks.labels(args.variants, args.num_values).items():
        rows.append(measure(label, variant, num_values, args))
        record.print_row(rows[-1], columns)
    record.write(args, rows)


if __name__ == "__main__":
    main()
