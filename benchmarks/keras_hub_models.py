"""Which weights of KerasHub's models become slots, and whether training and all files then work.

    python -m pip install keras-hub
    python benchmarks/keras_hub_models.py --models bert,gpt2,vit,resnet --out FILE

Backbones of random weights, in small configurations; nothing is downloaded. For each one the script slotifies it,
trains two steps, and writes and reads a `.keras` and a `.slots` file. It stops with an error if an output of
`materialize` or of a file that was read differs in one bit. `kernels` are the weights of two or more dimensions
that are no biases, and `others` those of them that stay plain, by name.
"""

import argparse
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import keras
import keras_hub
import numpy as np
from keras_hub import models

import record
from keras_slots import load_slots, materialize, save_slots, slotify, summary_dict

COLUMNS = {
    "weights": "{weights:,}",
    "kernels": "{kernels:,}",
    "slots": "{slots:,}",
    "of kernels, %": "{percent:.2f}",
    "slotify, s": "{seconds:.1f}",
    ".slots, kB": "{kilobytes:.0f}",
    "others": "  {others}",
}
TEXT = {"num_layers": 2, "hidden_dim": 128, "intermediate_dim": 512}
MODELS = {
    "bert": lambda: models.BertBackbone(
        vocabulary_size=30522, num_heads=2, max_sequence_length=128, dropout=0.1, **TEXT
    ),
    "gpt2": lambda: models.GPT2Backbone(
        vocabulary_size=50257, num_heads=2, max_sequence_length=128, dropout=0.1, **TEXT
    ),
    "vit": lambda: models.ViTBackbone(
        image_shape=(64, 64, 3), patch_size=(8, 8), num_layers=4, num_heads=4, hidden_dim=192, mlp_dim=768
    ),
    "resnet": lambda: models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(64, 64, 3),
    ),
    "t5": lambda: models.T5Backbone(vocabulary_size=32128, num_heads=2, **TEXT),
    "llama": lambda: models.LlamaBackbone(vocabulary_size=32000, num_query_heads=4, num_key_value_heads=2, **TEXT),
}


def random_inputs(model, count=4):
    """Token numbers, masks of ones, and images, by the names of the inputs."""
    rng = np.random.default_rng(0)

    def numbers(name, tensor):
        shape = (count, *(size or 16 for size in tensor.shape[1:]))
        if "mask" in name:
            return np.ones(shape, "int32")
        if "int" in tensor.dtype:
            return rng.integers(0, 2 if "segment" in name else 30000, shape)
        return rng.normal(size=shape).astype("float32")

    if isinstance(model.input, dict):
        return {name: numbers(name, tensor) for name, tensor in model.input.items()}
    return numbers("images", model.input)


def outputs(model, inputs):
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(inputs, training=False))]


def check_equal(name, expected, model, inputs):
    if not all(map(np.array_equal, outputs(model, inputs), expected)):
        raise AssertionError(f"the outputs of {name} differ from those of the slot model")


def measure(name, mode):
    keras.utils.set_random_seed(0)
    plain = MODELS[name]()
    kernels = [v for v in plain.weights if len(v.shape) > 1 and "bias" not in v.name]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the weights that stay plain, which the table lists
        slot = slotify(plain, num_values=8, score_mode=mode, seed=1)
    seconds = time.perf_counter() - start
    inputs = random_inputs(slot)
    targets = keras.tree.map_structure(lambda y: np.zeros(y.shape, "float32"), slot(inputs))
    slot.compile("adam", loss=keras.tree.map_structure(lambda y: "mse", targets))
    slot.fit(inputs, targets, batch_size=2, epochs=1, verbose=0)
    expected = outputs(slot, inputs)
    back = materialize(slot)
    check_equal("materialize", expected, back, inputs)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the classes of KerasHub, which is imported
        slot.save(Path(folder) / "model.keras")
        check_equal("the .keras file", expected, keras.models.load_model(Path(folder) / "model.keras"), inputs)
        path = save_slots(slot, Path(folder) / "model.slots")
        check_equal("the .slots file", expected, load_slots(path), inputs)
        size = path.stat().st_size
    ours = summary_dict(slot)["total"]["connections"]
    left = Counter()
    for v in slot.weights:
        if len(v.shape) > 1 and v.name not in ("lever", "scores", "bank") and "bias" not in v.name:
            left[v.name] += int(np.prod(v.shape))
    total = sum(int(np.prod(v.shape)) for v in kernels)
    if ours + sum(left.values()) != total:
        raise AssertionError("kernels were lost or counted twice")
    return {
        "weights": plain.count_params(),
        "kernels": total,
        "slots": ours,
        "percent": 100 * ours / total,
        "others": ", ".join(f"{key} {count:,}" for key, count in left.items()),
        "seconds": seconds,
        "kilobytes": size / 1000,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--score-mode", default="nearest")
    parser.add_argument("--machine", help="name of the machine, for the file")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    record.print_head(f"keras-hub {keras_hub.__version__}, {keras.backend.backend()}", COLUMNS)
    rows = []
    for name in args.models.split(","):
        rows.append({"variant": name, **measure(name, args.score_mode)})
        record.print_row(rows[-1], COLUMNS)
    record.write(args, rows, keras_hub=keras_hub.__version__)


if __name__ == "__main__":
    main()
