"""Memory of building a network and taking one training step: plain, per_connection and per_value.

    python benchmarks/memory.py --networks lenet300100,conv6 --num-values 8,64 --out FILE

Each row is measured in a process of its own: its peak resident memory above that of the imports.
`state` counts bytes of trainable variables, their gradients and the optimizer's momentum, for each connection.
"""

import argparse
import json
import resource
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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="lenet300100")
    parser.add_argument("--num-values", default="8,64")
    parser.add_argument("--modes", default="plain,per_connection,per_value")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--machine", help="its description in FILE")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, mode, k = args.child
        child(name, mode, int(k), args.batch_size)
        return
    rows = []
    print(
        f"{'network':12} {'variant':15} {'K':>3} {'build MiB':>10} {'step MiB':>9} {'state B/conn':>13}"
    )
    for name in args.networks.split(","):
        for mode in args.modes.split(","):
            for k in [0] if mode == "plain" else map(int, args.num_values.split(",")):
                command = [sys.executable, __file__, "--child", name, mode, str(k)]
                command += ["--batch-size", str(args.batch_size)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or [""])[-1]
                    print(
                        f"{name:12} {mode:15} {k:3d} failed with status {done.returncode}: {last[:80]}"
                    )
                    failed = {"network": name, "variant": mode, "num_values": k}
                    rows.append({**failed, "failed": done.returncode})
                    continue
                row = json.loads(done.stdout.strip().splitlines()[-1])
                rows.append(row)
                print(
                    f"{name:12} {mode:15} {k:3d} {row['build_mib']:10.0f} {row['step_mib']:9.0f} "
                    f"{row['state_bytes_per_connection']:13.1f}",
                    flush=True,
                )
    if args.out:
        import keras  # noqa: F401
        import tensorflow  # noqa: F401  (both for their versions)

        record.write(args.out, rows, args.machine)


if __name__ == "__main__":
    main()
