"""Memory of training, or sizes of files, of the plain network and of slot networks.

    python benchmarks/size.py --networks lenet300100,conv6,vgg19 --limit-gib 8 --out FILE
    python benchmarks/size.py --files --out FILE

Each network is measured in its own process: the peak of resident memory, above that of the imports, after
building it (`build_mib`) and after one training step (`step_mib`). `state_bytes_per_connection` counts trainable
variables, their gradients and the optimizer's momentum. With `--limit-gib` a process that asks for more memory
fails, and its row says so.

`--files` trains one step and measures the file of `model.save` (`keras_mb`), the folder of `export_selected`
(`saved_model_mb`; for the plain network that of `model.export`), and the folder of `model.export`
(`model_export_mb`), which also contains the bank and the scores. The raw weights are 4 bytes a connection.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path

import keras
import numpy as np

import networks
import record
from keras_slots import export_selected

MEMORY = {
    "built, MiB": "{build_mib:.0f}",
    "step, MiB": "{step_mib:.0f}",
    "state, B/conn.": "{state_bytes_per_connection:.1f}",
}
FILES = {
    ".keras, MB": "{keras_mb:.2f}",
    "SavedModel, MB": "{saved_model_mb:.2f}",
    "export, MB": "{model_export_mb:.2f}",
}


def train_one_step(model, batch_size):
    networks.compiled(model)
    x = np.random.default_rng(0).standard_normal((batch_size, *model.input_shape[1:]), "float32")
    loss = model.train_on_batch(x, np.arange(batch_size) % 10)
    if not np.isfinite(loss):
        raise SystemExit(f"the loss is {loss}")


def memory_here(name, variant, num_values, batch_size):
    """Builds a network and trains it for one step, in this process."""
    keras.utils.set_random_seed(0)
    np.asarray(keras.ops.zeros(1))
    base = record.peak_mib()
    model = networks.make(name, variant, num_values)
    built = record.peak_mib() - base
    train_one_step(model, batch_size)
    connections = networks.count(networks.plain_network(name).trainable_variables)
    moments = [v for v in model.optimizer.variables if len(v.shape)]
    state = 4 * (2 * networks.count(model.trainable_variables) + networks.count(moments))
    return {
        "connections": connections,
        "build_mib": built,
        "step_mib": record.peak_mib() - base,
        "state_bytes_per_connection": state / connections,
    }


def files(name, variant, num_values, batch_size):
    """Trains a network for one step and writes its files."""
    model = networks.make(name, variant, num_values)
    train_one_step(model, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        keras_file, exported, selected = (Path(folder, x) for x in ("m.keras", "all", "selected"))
        model.save(keras_file)
        model.export(exported, verbose=False)
        if variant == "plain":
            selected = exported
        else:
            export_selected(model, selected)
        return {
            "keras_mb": bytes_of(keras_file) / 1e6,
            "saved_model_mb": bytes_of(selected) / 1e6,
            "model_export_mb": bytes_of(exported) / 1e6,
        }


def bytes_of(path):
    """Size of a file, or of all files in a folder."""
    found = [path, *path.rglob("*")]
    return sum(file.stat().st_size for file in found if file.is_file())


def measure(task, args):
    """One row: of `files` in this process, or of `memory_here` in a fresh one."""
    if args.files:
        return files(*task, args.batch_size)
    flags = ["--batch-size", str(args.batch_size)]
    flags += ["--limit-gib", str(args.limit_gib)] if args.limit_gib else []
    return record.fresh_process(task, flags)


def parse(argv=None):
    parser = networks.parser(
        __doc__, networks="lenet300100", variants="plain,per_connection,per_value", num_values="8,64"
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--limit-gib", type=float, help="memory that a process may have")
    parser.add_argument("--files", action="store_true", help="sizes of files instead of memory")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    if args.child:
        if args.limit_gib:
            limit = int(args.limit_gib * 2**30)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        print(json.dumps(memory_here(*args.child, args.batch_size)))
        return
    rows, columns = [], FILES if args.files else MEMORY
    for name in args.networks:
        record.print_head(f"{name}, {'files' if args.files else 'memory'}", columns)
        for label, (variant, num_values) in networks.labels(args.variants, args.num_values).items():
            found = measure((name, variant, num_values), args)
            rows.append({"network": name, "variant": label, **found})
            record.print_row(rows[-1], columns)
    record.write(args, rows)


if __name__ == "__main__":
    main()
