"""Device time and memory of training steps on JAX, as ratios to the first variant in one run.

    KERAS_BACKEND=jax python benchmarks/device_step.py --network conv6 \\
        --variants plain,per_connection:8,per_value:8 --out FILE

Many steps are one compiled loop over batches that lie on the device, so that the time of Python's calls is
not in the figures. Each round times all variants in turn; a ratio is the median over the rounds. `state` and
`scratch` are what the compiled step needs; `peak` is what the device counted, and belongs to a variant only
when it runs alone. `limit` is the time to move the bytes of `least_bytes` at the measured copy bandwidth.
On a CPU the gradient of a convolution takes JAX a hundred times longer in a compiled loop: there only LeNet tells.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import jax
import keras
import numpy as np

import networks
import record
from keras_slots import slotify

BATCHES = 4  # on the device, taken in turn


def least_bytes(mode, num_values, connections):
    """Bytes that a step of per_value has to move for its scores, however well it is compiled.

    Forward reads scores and bank; the update reads the bank (for the gradient), momentum and scores, and
    writes momentum and scores: seven float32 numbers a value. None for the other variants.
    """
    return 28 * num_values * connections if mode == "per_value" else None


def copy_bandwidth(megabytes, repeats=20):
    """Bytes read and written per second by a compiled pass over a large array."""
    # A plain copy would be left out; donated, so that no call waits for fresh memory.
    negate = jax.jit(lambda array: -array, donate_argnums=0)
    array = negate(jax.numpy.ones(megabytes * 250_000, "float32")).block_until_ready()
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            array = negate(array)
        array.block_until_ready()
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * array.nbytes / best


def compiled_steps(model, batch_size, steps):
    """Compiles `steps` training steps as one loop; returns it and its first state."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    shape = (BATCHES, batch_size, *model.input_shape[1:])
    batches = jax.device_put(rng.standard_normal(shape, "float32"))
    labels = jax.device_put(rng.integers(0, 10, (BATCHES, batch_size)))

    def forward(trained, other, x, y):
        outputs, other = model.stateless_call(trained, other, x, training=True)
        return loss(y, outputs), other

    def step(state, index, batches, labels):
        trained, other, moments = state
        x, y = batches[index % BATCHES], labels[index % BATCHES]
        gradient = jax.value_and_grad(forward, has_aux=True)
        (value, other), gradients = gradient(trained, other, x, y)
        trained, moments = optimizer.stateless_apply(moments, gradients, trained)
        return (trained, other, moments), value

    def run(state, batches, labels):
        indices = jax.numpy.arange(steps)
        return jax.lax.scan(lambda s, i: step(s, i, batches, labels), state, indices)

    groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    # Copies, because the state is given away in each call.
    state = tuple([jax.numpy.copy(v.value) for v in group] for group in groups)
    compiled = jax.jit(run, donate_argnums=0).lower(state, batches, labels).compile()
    return compiled, state, (batches, labels)


class Variant:
    """One network, ready to be timed."""

    def __init__(self, network, name, batch_size, steps):
        self.name, self.steps = name, steps
        self.mode, _, values = name.partition(":")
        self.num_values = int(values or 0)
        model = networks.plain_network(network)
        self.connections = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        if self.mode != "plain":
            slots = {"num_values": self.num_values, "score_mode": self.mode}
            model = slotify(model, seed=1, **slots)
        start = time.perf_counter()
        self.compiled, self.state, self.data = compiled_steps(model, batch_size, steps)
        self.compile_seconds = time.perf_counter() - start
        del model  # its variables are copied
        self.run()

    def run(self):
        """Milliseconds a step."""
        start = time.perf_counter()
        self.state, losses = self.compiled(self.state, *self.data)
        last = float(losses[-1])
        seconds = time.perf_counter() - start
        if not np.isfinite(last):
            raise SystemExit(f"device_step.py: error: {self.name}: the loss is {last}")
        return 1e3 * seconds / self.steps

    def memory(self):
        """Millions of bytes of the state and of what the compiled loop needs besides."""
        parts = self.compiled.memory_analysis()
        return {
            "state_mb": sum(array.nbytes for group in self.state for array in group) / 1e6,
            "scratch_mb": parts.temp_size_in_bytes / 1e6,
        }


def row(variant, times, first_times, bandwidth):
    """The figures of one variant."""
    ratios = sorted(a / b for a, b in zip(times, first_times, strict=True))
    milliseconds = statistics.median(times)
    result = {
        "variant": variant.name,
        "milliseconds": milliseconds,
        "ratio": statistics.median(ratios),
        "spread": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "connections": variant.connections,
        "compile_seconds": round(variant.compile_seconds, 1),
        **variant.memory(),
    }
    moved = least_bytes(variant.mode, variant.num_values, variant.connections)
    if moved and bandwidth:
        limit = 1e3 * moved / bandwidth
        added = milliseconds - statistics.median(first_times)
        result |= {"least_mb": moved / 1e6, "limit_milliseconds": limit}
        result |= {"added_over_limit": added / limit}
    return result


def measure(args):
    """All figures of one process."""
    names = args.variants.split(",")
    variants = [Variant(args.network, name, args.batch_size, args.steps) for name in names]
    times = {variant.name: [] for variant in variants}
    for _ in range(args.rounds):
        for variant in variants:
            times[variant.name].append(variant.run())
    device = jax.devices()[0]
    counted = (device.memory_stats() or {}).get("peak_bytes_in_use")
    bandwidth = copy_bandwidth(args.copy_mb) if args.copy_mb else None
    first = times[names[0]]
    return {
        **record.origin(),
        "device": f"{device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores",
        "network": args.network,
        "batch_size": args.batch_size,
        "copy_gb_per_second": bandwidth and bandwidth / 1e9,
        "peak_mb": counted and counted / 1e6,
        "rows": [row(v, times[v.name], first, bandwidth) for v in variants],
    }


def print_table(result):
    """The figures, one line for each variant."""
    gbs = result["copy_gb_per_second"]
    copying = f", copies {gbs:.0f} GB/s" if gbs else ""
    print(f"{result['network']}, batches of {result['batch_size']}, {result['device']}{copying}")
    print(
        f"{'variant':18} {'ms/step':>9} {'ratio':>7} {'state MB':>9} {'scratch MB':>11}  limit ms"
    )
    for entry in result["rows"]:
        limit = entry.get("limit_milliseconds")
        print(
            f"{entry['variant']:18} {entry['milliseconds']:9.3f} {entry['ratio']:7.2f} "
            f"{entry['state_mb']:9.1f} {entry['scratch_mb']:11.1f}  "
            + (f"{limit:.3f}" if limit else "-")
        )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=networks.NAMES, default="lenet300100")
    parser.add_argument(
        "--variants",
        default="plain,per_connection:8,per_value:8",
        help="plain, or score mode and K: per_value:8 (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="steps in one compiled loop")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--copy-mb", type=int, default=2000, help="array to copy; 0: none")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if keras.backend.backend() != "jax":
        parser.exit(2, "device_step.py: error: it measures JAX; set KERAS_BACKEND=jax\n")
    result = measure(args)
    print_table(result)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
