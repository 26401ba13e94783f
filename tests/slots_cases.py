"""Small slot models with moved levers and scores, files of them, and the reader in C, for the tests of `.slots` "
"files."""

import functools
import os
import shutil
import struct
import subprocess
import tempfile
import warnings
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_slots
from keras_slots.slots_file.values import Values

READER = Path(__file__).resolve().parent.parent / "reader"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")

NEAREST = {"score_mode": "nearest", "bank_initializer": "stratified_uniform"}
#: What the kernels of a model are made of, and the form that is expected in the file.
KERNELS = {
    "lever": ({"score_mode": "per_connection"}, "hull"),
    "scores": ({"num_values": 4}, "hull"),
    "two_values": ({"num_values": 2, "score_mode": "per_connection"}, "hull"),
    "odd": ({"num_values": 5, "bank_initializer": "he_uniform"}, "hull"),
    "normal": ({"bank_initializer": "he_normal", "score_mode": "per_connection"}, "hull"),
    "constant": ({"bank_initializer": "signed_constant", "num_values": 4}, "hull"),
    "strata": (NEAREST, "nearest"),
    "strata_16": ({**NEAREST, "num_values": 16}, "nearest"),
    "nearest": ({"score_initializer": "nearest", "bank_initializer": "glorot_normal"}, "nearest"),
    "layer": ({"sharing": "layer"}, "hull"),
    "nearest_layer": ({**NEAREST, "sharing": "layer"}, "nearest"),
    "nearest_bank": (
        {"score_mode": "nearest", "sharing": keras_slots.ValueBank(8, bound=0.5, seed=5)},
        "nearest",
    ),
    "bank": ({"sharing": keras_slots.ValueBank(8, bound=0.2, seed=5)}, "hull"),
    "many": ({**NEAREST, "num_values": 300}, "packed"),
    "keras": ({"bank_initializer": keras.initializers.RandomNormal(seed=1)}, "stored"),
    "one": ({"num_values": 1}, "stored"),
}


def moved(model, size=1.0, seed=0):
    """Moves what training would move, by random steps that are alike for neighbouring inputs."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        for kernel in getattr(layer, "slot_kernels", {}).values():
            (variable,) = kernel.trained_variables()
            shape = kernel.initial.kernel_shape
            lever = (
                np.cumsum(random.normal(size=shape), axis=0)
                / np.sqrt(1 + np.arange(shape[0]))[(...,) + (None,) * (len(shape) - 1)]
            )
            nearest = "nearest" in repr(kernel.score_initializer).lower()
            unit = float(np.std(np.asarray(kernel.bank))) if nearest else 0.3
            step = (size * unit * lever).astype("float32")
            if variable.name == "scores":
                step = step[..., None] * np.asarray(kernel.bank, "float32")
            variable.assign(np.asarray(variable) + step)
        for variable in layer.trainable_variables:
            if "bias" in variable.path or "batch" in variable.path:
                variable.assign(random.normal(size=variable.shape))
    return model


@functools.cache
def saved(name):
    """The file of a model with the kernels of that name, as bytes, and the weights that it stands for."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The kernel", UserWarning)
        model = moved(conv_model() if name == "conv" else dense_model(**KERNELS[name][0]))
        path = keras_slots.save_slots(model, Path(folder, "m.slots"))
        plain = keras_slots.materialize(model)
        weights = [(v.path, np.array(keras.ops.convert_to_numpy(v))) for v in plain.variables]
        return path.read_bytes(), weights, plain.to_json()


def dense_model(units=(24, 6), inputs=40, **slot_arguments):
    layers = [
        keras_slots.SlotDense(n, seed=11 + i, name=f"dense{i}", **slot_arguments)
        for i, n in enumerate(units)
    ]
    return keras.Sequential([keras.Input((inputs,)), *layers], name="small")


def conv_model(**slot_arguments):
    """Convolution, batch norm, nested model and dropout: every kind of weight."""
    arguments = {"seed": 3, "score_mode": "per_connection", **slot_arguments}
    inputs = keras.Input((8, 8, 3))
    x = keras_slots.SlotConv2D(24, 3, use_bias=False, name="conv", **arguments)(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.5)(keras.layers.ReLU()(x))
    inner = keras.Sequential(
        [keras.Input((6, 6, 24)), keras_slots.SlotSeparableConv2D(4, 3, name="apart", **arguments)]
    )
    x = keras.layers.Flatten()(inner(x))
    return keras.Model(inputs, keras_slots.SlotDense(5, name="logits", **arguments)(x))


def with_checksum(content):
    """The bytes with a header and a checksum that are right for them."""
    content = bytearray(content)
    content[16:24] = struct.pack("<Q", len(content))
    content[-4:] = struct.pack("<I", zlib.crc32(bytes(content[:-4])))
    return bytes(content)


def plain_values(values: Values, start, stop):
    """The values of a kernel, in plain Python for each: an independent reading of docs/slots_format.md."""
    return np.array(
        [[_value(values, c, k) for k in range(values.num_values)] for c in range(start, stop)]
    )


def _value(values, connection, k):
    c = 0 if values.shared else connection
    f = np.float32(values.factor)
    if values.kind == "given":
        x = values.given[k]
    elif values.kind == "strata":
        bits = min(16, 23 - (values.num_values - 1).bit_length())
        state = _mix((c + values.seed) & 0xFFFFFFFF) ^ values.seed >> 32
        word = _mix(state ^ (k // 2 * 0x9E3779B9) & 0xFFFFFFFF)
        half = word >> 16 if k % 2 else word & 0xFFFF
        x = np.float32((half >> 16 - bits) + (k << bits) - (values.num_values << bits) // 2) * f
    else:
        word = philox_word(values.seed, 0, c * values.num_values + k)
        x = {
            "uniform": np.float32((word >> 8) / 2**23 - 1),
            "positive_uniform": np.float32((word >> 8) / 2**24),
            "signed_constant": np.float32(1 if word >> 31 else -1),
        }[values.kind] * f
    if values.rounded:
        bits = int(x.view("uint32"))
        x = np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view("float32")
    return np.float32(x)


def _mix(x):
    for multiplier, shift in ((0x21F0AAAD, 16), (0xD35A2D97, 15)):
        x = (x ^ x >> shift) * multiplier & 0xFFFFFFFF
    return x ^ x >> 15


@functools.lru_cache(maxsize=4096)
def _philox(seed, stream, block):
    x, key, wrap = [block, 0, 0, 0], [seed, stream], 2**64
    for _ in range(10):
        a, b = x[0] * 0xD2E7470EE14C6C93, x[2] * 0xCA5A826395121157
        x = [b // wrap ^ x[1] ^ key[0], b % wrap, a // wrap ^ x[3] ^ key[1], a % wrap]
        key = [(key[0] + 0x9E3779B97F4A7C15) % wrap, (key[1] + 0xBB67AE8584CAA73B) % wrap]
    return x


def philox_word(seed, stream, i):
    return _philox(seed, stream, i // 8)[i % 8 // 2] >> 32 * (i % 2) & 0xFFFFFFFF


def compile_program(folder, source, *flags):
    """Builds a program of C; where CI says that there is a compiler, its absence is a failure."""
    if shutil.which("gcc") is None and not os.environ.get("KERAS_SLOTS_HAS_GCC"):
        pytest.skip("the reader in C is built with gcc, which is not installed; CI demands it")
    program = folder / source.stem
    command = ["gcc", *WARNINGS, *flags, "-o", program, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def run_program(program, *arguments):
    return subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=300,
    )
