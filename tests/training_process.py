"""One of several processes that run train.py; started by jax_only/test_distribution.py.

    python training_process.py EXAMPLES RUN_DIR FLAG...

Trains with scores, stops after the first epoch as if it were killed, and goes on; trains with
levers; asks for another run in a folder that is taken, and exits with the status of that.
"""

import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import keras

import cli
import engine
import train


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


def main(run_dir, *flags):
    def start(mode, *more):
        places = ["--run-dir", str(Path(run_dir) / mode), "--results", f"{run_dir}/{mode}.csv"]
        return cli.guarded(train.main, "train.py", [*flags, "--score-mode", mode, *places, *more])

    whole = engine.train
    engine.train = lambda recipe, options: whole(recipe, options, callbacks=[Stop()])
    assert start("per_value") == cli.STOPPED
    engine.train = whole
    assert start("per_value") == start("per_connection") == 0
    return start("per_connection", "--seed", "5")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[2:]))
