"""On paper: step time and memory of ResNet-50 at K = 8 on many devices, from counted bytes and flops.

    KERAS_BACKEND=jax python benchmarks/scaling.py --out FILE

Counted: the variables that a slot layer really makes, and the flops and bytes that XLA's cost
analysis gives for one compiled training step of it and of the plain layer. Assumed, and set by
flags: what a device computes, reads and sends. Step time = flops / rate + bytes of the values /
memory bandwidth + ring all-reduce of the gradients, nothing overlapping: an upper bound in form,
and no measurement.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np

from keras_slots import SlotDense

VARIANTS = ("plain", "per_connection", "per_value")


def layer_of(variant, num_values):
    """A layer whose kernel is so large beside its input that its bytes are those of the values."""
    if variant == "plain":
        return keras.layers.Dense(1024, use_bias=False)
    return SlotDense(1024, use_bias=False, num_values=num_values, score_mode=variant, seed=1)


def counted(variant, num_values):
    """Bytes of one connection: state, gradient, traffic of a step; flops beyond the plain layer's."""
    model = keras.Sequential([keras.Input((1024,)), layer_of(variant, num_values)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    connections = 1024 * 1024
    x = np.zeros((1, 1024), "float32")
    model.train_on_batch(x, x)
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    step = jax.jit(model.train_step, donate_argnums=0).lower(state, (x, x)).compile()
    cost = step.cost_analysis()
    held = sum(v.value.nbytes for v in [*model.variables, *model.optimizer.variables])
    gradient = sum(v.value.nbytes for v in model.trainable_variables)
    return {
        "variant": variant,
        "num_values": 1 if variant == "plain" else num_values,
        "state": held / connections,
        "gradient": gradient / connections,
        "traffic": cost["bytes accessed"] / connections,
        "flops": cost["flops"] / connections,
    }


def resnet50():
    """Connections of ResNet-50 and flops of one training step per image (three forward passes)."""
    model = keras.applications.ResNet50(weights=None)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]

    def forward(trained, other, x):
        return model.stateless_call(trained, other, x)[0]

    groups = (model.trainable_variables, model.non_trainable_variables)
    values = ([variable.value for variable in group] for group in groups)
    images = np.zeros((1, 224, 224, 3), "float32")
    cost = jax.jit(forward).lower(*values, images).cost_analysis()
    return sum(int(np.prod(k.shape)) for k in kernels), 3 * cost["flops"]


def project(row, connections, flops, devices, args):
    """Memory and step time on `devices` of them, each with `args.images` images."""
    sent = 2 * (devices - 1) / devices * row["gradient"] * connections / (args.link * 1e9)
    compute = flops * args.images / (args.tflops * 1e12)
    values = row["traffic"] * connections / (args.bandwidth * 1e9)
    return {
        "variant": row["variant"],
        "devices": devices,
        "memory_gb": (row["state"] + row["gradient"]) * connections / 1e9,
        "sent_gb": row["gradient"] * connections / 1e9,
        "compute_ms": 1e3 * compute,
        "values_ms": 1e3 * values,
        "all_reduce_ms": 1e3 * sent,
        "step_ms": 1e3 * (compute + values + sent),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-values", type=int, default=8)
    parser.add_argument("--images", type=int, default=64, help="images of a device in one step")
    parser.add_argument("--tflops", type=float, default=100, help="10^12 flops a second, reached")
    parser.add_argument("--bandwidth", type=float, default=3000, help="GB/s of memory, reached")
    parser.add_argument("--link", type=float, default=40, help="GB/s of a device to the others")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    rows = [counted(variant, args.num_values) for variant in VARIANTS]
    print("bytes a connection      state  gradient  traffic of a step")
    for row in rows:
        print(
            f"{row['variant']:20} {row['state']:8.1f} {row['gradient']:9.1f} {row['traffic']:9.1f}"
        )
    connections, flops = resnet50()
    print(f"ResNet-50: {connections:,} connections, {flops / 1e9:.1f} GFLOP an image and step")
    table = [project(r, connections, flops, n, args) for n in (1, 8, 64) for r in rows]
    print("devices variant          memory GB  sent GB  compute  values  all-reduce  step ms")
    for line in table:
        print(
            f"{line['devices']:7} {line['variant']:15} {line['memory_gb']:10.2f} "
            f"{line['sent_gb']:8.2f} {line['compute_ms']:8.1f} {line['values_ms']:7.1f} "
            f"{line['all_reduce_ms']:11.1f} {line['step_ms']:8.1f}"
        )
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k != "out"}
        versions = {"keras": keras.__version__, "jax": jax.__version__}
        found = {"settings": settings, "versions": versions, "counted": rows}
        found |= {"connections": connections, "flops": flops, "projected": table}
        Path(args.out).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
