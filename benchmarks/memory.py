"""Memory of building a network and taking one training step: plain, per_connection and per_value.

    python benchmarks/memory.py --networks lenet300100,vgg19 --num-values 8,64 --limit-gib 8 --out FILE

Each row is measured in a process of its own: its peak resident memory above that of the imports.
`state` counts bytes of trainable variables, their gradients and the optimizer's momentum, for each connection.
With `--limit-gib` a process that asks for more memory than that fails, and its row says so.
"""

import argparse
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import record


def peak():
    """Peak resident memory of this process in MiB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


def child(name, mode, num_values, batch_size):
    """Builds, trains one step, and prints one row as JSON."""
    import keras
    import numpy as np

    import networks
    from keras_slots import slotify

    keras.utils.set_random_seed(0)
    np.asarray(keras.ops.zeros(1))
    base = peak()
    model = networks.plain_network(name)
    connections = sum(w.shape.num_elements() for w in model.trainable_variables)
    if mode != "plain":
        model = slotify(model, num_values=num_values, score_mode=mode, seed=1)
    built = peak() - base
    networks.compiled(model)
    x = np.random.default_rng(0).standard_normal((batch_size, *model.input_shape[1:]))
    loss = model.train_on_batch(x.astype("float32"), np.arange(batch_size) % 10)
    if not np.isfinite(loss):
        raise SystemExit(f"the loss is {loss}")
    trained = sum(w.shape.num_elements() for w in model.trainable_variables)
    moments = sum(v.shape.num_elements() for v in model.optimizer.variables if v.shape.rank)
    row = {"network": name, "variant": mode, "num_values": num_values, "connections": connections}
    row |= {"build_mib": built, "step_mib": peak() - base}
    row |= {"state_bytes_per_connection": 4 * (2 * trained + moments) / connections}
    print(json.dumps(row))


def measure(name, mode, num_values, args):
    """One row, from a process of its own; `failed` is its status when it did not end well."""
    flags = ["--child", name, mode, str(num_values), "--batch-size", str(args.batch_size)]
    if args.limit_gib:
        flags += ["--limit-gib", str(args.limit_gib)]
    done = subprocess.run(
        [sys.executable, __file__, *flags], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    # TensorFlow that is refused memory may end by a signal, and then says nothing of use.
    last = (done.stderr.strip().splitlines() or [""])[-1][:100]
    why = last if done.returncode > 0 else signal.Signals(-done.returncode).name
    row = {"network": name, "variant": mode, "num_values": num_values}
    return row | {"failed": done.returncode, "why": why, "limit_gib": args.limit_gib}


def print_row(row):
    start = f"{row['network']:12} {row['variant']:15} {row['num_values']:3d}"
    if "failed" in row:
        print(f"{start} failed with status {row['failed']}: {row['why']}", flush=True)
        return
    state = row["state_bytes_per_connection"]
    print(f"{start} {row['build_mib']:10.0f} {row['step_mib']:9.0f} {state:13.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="lenet300100")
    parser.add_argument("--num-values", default="8,64")
    parser.add_argument("--modes", default="plain,per_connection,per_value")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--limit-gib", type=float, help="memory that a process may have")
    parser.add_argument("--machine", help="its description in FILE")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        if args.limit_gib:
            limit = int(args.limit_gib * 2**30)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        name, mode, k = args.child
        child(name, mode, int(k), args.batch_size)
        return
    print(f"{'network':12} {'variant':15}   K  build MiB  step MiB  state B/conn")
    rows = []
    for name in args.networks.split(","):
        for mode in args.modes.split(","):
            for k in [0] if mode == "plain" else map(int, args.num_values.split(",")):
                rows.append(measure(name, mode, k, args))
                print_row(rows[-1])
    if args.out:
        import keras  # noqa: F401
        import tensorflow  # noqa: F401  (both for their versions)

        record.write(args.out, rows, args.machine)


if __name__ == "__main__":
    main()
