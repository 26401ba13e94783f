"""Load: large banks and files, long training, many cycles, every number of values.

    python tests/soak/load.py [--quick] [--only L1 L2 ...]

Each part runs in a process of its own, so that memory is its own.
"""

import gc
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from scorecard import ROOT, main, row, say

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
#: SHA-256 of 160 million values of the bank of seed 7, as little-endian float32.
GOLDEN = "9e753981550572d3f517088367e0bd454304cbea8e51b6b2c28b9bac7e922fc9"
GOLDEN_QUICK = "1763a6ecbb9af0815a896d1c4b8216f93f544732ba4ef746fb5a3d206ad29815"  # 1.6 million values
VALUES = (1, 2, 3, 5, 8, 16, 64, 128, 256, 300)
NEAREST = {"score_mode": "nearest", "bank_initializer": "stratified_uniform"}
MIB = 2**20


def status(field):
    """A field of /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew


def bank(quick):
    """L1: a bank of 160 million values."""
    from keras_slots import GlorotUniform, UniformScores
    from keras_slots.values.initial_values import InitialValues

    shape = (400, 500) if quick else (4000, 5000)
    initial = InitialValues(shape, 8, shape, 7, GlorotUniform(), UniformScores(), "connection")
    gc.collect()
    reset_peak()
    base, began = status("VmRSS"), time.perf_counter()
    values = initial.bank()
    seconds, memory = time.perf_counter() - began, status("VmHWM") - base
    found = hashlib.sha256(values.astype("<f4", copy=False).tobytes()).hexdigest()
    golden = GOLDEN_QUICK if quick else GOLDEN
    say(f"L1: sha256 {found}")
    yield row(
        "load",
        "L1 bank of 160 million values",
        seconds <= 5 and memory * MIB <= 0.75e9 and found == golden,
        None,
        "<= 5 s, <= 0.75 GB, golden hash",
        seconds=round(seconds, 2),
        gigabytes=round(memory * MIB / 1e9, 3),
        values=values.size,
        golden_hash=found == golden,
    )


def rebuild(quick):
    """L2: a .slots file of 20 million connections."""
    import keras
    import numpy as np

    from keras_slots import SlotDense, save_slots

    size = (400, 500) if quick else (4000, 5000)
    layer = SlotDense(size[1], use_bias=False, seed=7, name="large", **NEAREST)
    model = keras.Sequential([keras.Input((size[0],)), layer])
    kernel = layer.slot_kernel
    unit = float(np.std(kernel.lever)) * 0.3
    random = np.random.default_rng(0)
    kernel.lever.assign(np.asarray(kernel.lever) + unit * random.normal(size=size).astype("float32"))
    expected = hashlib.sha256(np.asarray(layer.kernel).tobytes()).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.slots")
        began = time.perf_counter()
        save_slots(model, path)
        wrote, length = time.perf_counter() - began, path.stat().st_size
        del model, layer, kernel
        code = f"import load; load.rebuild_here({str(path)!r})"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    above = found["peak"] - found["result"]
    yield row(
        "load",
        "L2 .slots file of 20 million connections, rebuilt",
        found["seconds"] <= 30 and above * MIB <= 150e6 and found["hash"] == expected,
        None,
        "<= 30 s, <= 150 MB above the result",
        seconds=round(found["seconds"], 2),
        megabytes_above_the_result=round(above * MIB / 1e6, 1),
        connections=size[0] * size[1],
        file_bytes=length,
        written_in_seconds=round(wrote, 1),
        same=found["hash"] == expected,
    )


def rebuild_here(path):
    """Rebuilds a file in this process, and prints what it took."""
    import keras
    import numpy as np

    from keras_slots import load_slots

    np.asarray(keras.ops.zeros(1))
    gc.collect()
    reset_peak()
    base, began = status("VmRSS"), time.perf_counter()
    model = load_slots(path)
    seconds, peak = time.perf_counter() - began, status("VmHWM") - base
    kernel = np.asarray(keras.ops.convert_to_numpy(model.layers[-1].kernel))
    found = {
        "seconds": seconds,
        "peak": peak,
        "result": kernel.nbytes / MIB,
        "hash": hashlib.sha256(kernel.tobytes()).hexdigest(),
    }
    print(json.dumps(found))


def _network(num_values=8, **arguments):
    import keras

    from keras_slots import SlotConv2D, SlotDense

    slots = {"num_values": num_values, **arguments}
    x = inputs = keras.Input((8, 8, 2))
    x = SlotConv2D(6, 3, activation="relu", seed=1, name="conv", **slots)(x)
    x = keras.layers.Dropout(0.2)(keras.layers.BatchNormalization()(x))
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, SlotDense(5, seed=2, name="dense", **slots)(x))


def _data(count=64):
    import numpy as np

    random = np.random.default_rng(0)
    return random.normal(size=(count, 8, 8, 2)).astype("float32"), random.integers(0, 5, count)


def _compile(model):
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    return model


def steps(quick):
    """L3: 10,000 training steps."""
    import keras

    class Traced(keras.layers.Layer):
        """Counts how often Python runs through it."""

        traces = 0

        def call(self, inputs):
            Traced.traces += 1
            return inputs

    number = 1000 if quick else 10_000
    for name, arguments in (
        ("scores, probabilistic", {"selection": "probabilistic"}),
        ("levers", {"score_mode": "per_connection"}),
        ("nearest", NEAREST),
    ):
        net = _network(**arguments)
        model = _compile(keras.Model(net.input, Traced()(net.output)))
        x, y = _data()
        model.fit(x, y, batch_size=8, epochs=number // 8 // 10, verbose=0)  # a tenth: warm by then
        gc.collect()
        before, traces = status("VmRSS"), Traced.traces
        model.fit(x, y, batch_size=8, epochs=number // 8 - number // 8 // 10, verbose=0)
        gc.collect()
        growth = status("VmRSS") / before - 1
        yield row(
            "load",
            f"L3 {number:,} training steps, {name}",
            growth < 0.05 and Traced.traces == traces,
            None,
            "memory growth < 5 %, no retrace",
            growth_percent=round(100 * growth, 2),
            traces_more=Traced.traces - traces,
            steps=int(model.optimizer.iterations),
        )


def cycles(quick):
    """L4: 1,000 cycles of save and load."""
    import keras
    import numpy as np

    from keras_slots import SlotDense, load_slots, materialize, save_slots

    number = 50 if quick else 1000
    slots = {"score_mode": "per_connection", "seed": 1}
    layers = [SlotDense(24, **slots), keras.layers.Dropout(0.5), SlotDense(6, **slots)]
    model = _compile(keras.Sequential([keras.Input((40,)), *layers]))
    random = np.random.default_rng(0)
    model.fit(random.normal(size=(64, 40)), random.integers(0, 6, 64), epochs=2, verbose=0)
    expected = [np.asarray(v) for v in materialize(model).variables]
    with tempfile.TemporaryDirectory() as folder:
        path, weights = Path(folder, "m.slots"), Path(folder, "m.weights.h5")
        first = save_slots(model, path).read_bytes()
        same, descriptors = 0, len(os.listdir("/proc/self/fd"))
        places = (tempfile.gettempdir(), folder)
        files = [set(os.listdir(place)) for place in places]
        memory = None
        for cycle in range(number):
            plain = load_slots(path)
            arrays = [np.asarray(v) for v in plain.variables]
            model.save_weights(weights)
            model.load_weights(weights)
            again = save_slots(model, path, overwrite=True).read_bytes()
            same += again == first and all(map(np.array_equal, arrays, expected))
            if cycle == number // 10:
                memory = status("VmRSS")
        leaked = len(os.listdir("/proc/self/fd")) - descriptors
        more = [
            sorted(set(os.listdir(place)) - before - {weights.name})
            for place, before in zip(places, files, strict=True)
        ]
        more[0] = [name for name in more[0] if "slots" in name]  # others use that folder too
        growth = status("VmRSS") / memory - 1
    yield row(
        "load",
        "L4 cycles of save and load",
        same if leaked <= 0 and not any(more) else 0,
        number,
        "same bytes, no leaked descriptors or temporary files",
        descriptors_more=leaked,
        files_more=sum(map(len, more)),
        memory_growth_percent_from_a_tenth_on=round(100 * growth, 1),
    )


def values(quick):
    """L5: trained == materialized == exported == rebuilt, for every number of values."""
    import numpy as np

    from keras_slots import export_selected, load_slots, materialize, save_slots

    kinds = {"scores": {}, "levers": {"score_mode": "per_connection"}, "nearest": NEAREST}
    survived = tried = 0
    for num_values in (1, 8, 300) if quick else VALUES:
        for name, arguments in kinds.items():
            tried += 1
            model = _compile(_network(num_values, **arguments))
            model.fit(*_data(), epochs=3, batch_size=16, verbose=0)
            trained = {n: np.asarray(model.get_layer(n).kernel) for n in ("conv", "dense")}
            held = [materialize(model)]
            with tempfile.TemporaryDirectory() as folder:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    held.append(load_slots(save_slots(model, Path(folder, "m.slots"))))
                same = all(
                    np.array_equal(np.asarray(other.get_layer(n).kernel), kernel)
                    for other in held
                    for n, kernel in trained.items()
                )
                if BACKEND == "tensorflow":
                    exported = _exported(export_selected(model, Path(folder, "served")))
                    same &= all(
                        any(np.array_equal(kernel, other) for other in exported) for kernel in trained.values()
                    )
            x = _data()[0]
            outputs = [np.asarray(m.predict(x, verbose=0)) for m in (model, *held)]
            same &= all(np.array_equal(outputs[0], y) for y in outputs[1:])
            survived += same
            say(f"L5: K = {num_values}, {name}: {'equal' if same else 'DIFFERENT'}")
    yield row(
        "load",
        "L5 trained == materialized == exported == rebuilt"
        if BACKEND == "tensorflow"
        else "L5 trained == materialized == rebuilt (exports need TensorFlow)",
        survived,
        tried,
        "with ==, dense and convolution",
        values=list((1, 8, 300) if quick else VALUES),
    )


def _exported(path):
    """The arrays that a SavedModel holds."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    return [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]


def layers(quick):
    """L7: 100 layers of equal shape under one global seed."""
    import keras
    import numpy as np

    from keras_slots import SlotDense

    for name, arguments in (("scores", {}), ("levers", {"score_mode": "per_connection"})):
        keras.utils.set_random_seed(0)
        banks = set()
        for _ in range(100):
            layer = SlotDense(10, **arguments)
            layer.build((None, 10))
            banks.add(np.asarray(layer.bank).tobytes())
        yield row("load", f"L7 100 layers, {name}", len(banks), 100, "all banks different")


def imports(quick):
    """L8: what `import keras_slots` adds to `import keras`, and whether JAX alone is enough."""
    code = (
        "import sys, time; import keras; began = time.perf_counter(); import keras_slots;"
        "print(time.perf_counter() - began, 'tensorflow' in sys.modules)"
    )
    taken, with_tensorflow = [], set()
    for _ in range(3 if quick else 9):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
        )
        seconds, loaded = done.stdout.split()
        taken.append(float(seconds))
        with_tensorflow.add(loaded)
    fine = BACKEND == "tensorflow" or with_tensorflow == {"False"}
    yield row(
        "load",
        "L8 import of keras_slots after keras",
        statistics.median(taken) < 0.3 and fine,
        None,
        "< 0.3 s; on JAX no TensorFlow",
        seconds=round(statistics.median(taken), 3),
        tensorflow_imported=sorted(with_tensorflow),
    )


PARTS = {"L1": bank, "L2": rebuild, "L3": steps, "L4": cycles, "L5": values, "L7": layers, "L8": imports}

if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS))
