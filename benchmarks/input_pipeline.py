"""Images a second of the input pipelines of examples/, beside the training that they feed.

    python benchmarks/input_pipeline.py --out FILE

Three rates for each network: the pipeline alone (augmentation, normalisation, batches), training on one batch that
stays in memory, and training fed by the pipeline. The images are random bytes in the number and shape of the data
set, because no time depends on what they show. Each round measures all three in turn; a rate is the median.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Recipe -> training images, their shape, and the batches of a round: of the pipeline, of training.
CASES = {
    "ours-lenet300100-learned": (51_000, (28, 28, 1), 398, 398),
    "ours-lenet300100-gs": (51_000, (28, 28, 1), 398, 398),
    "ours-conv2-learned": (45_000, (32, 32, 3), 200, 10),
    "ours-conv2-gs": (45_000, (32, 32, 3), 200, 10),
}


def random_data(recipe, count, shape):
    """A `Data` of examples/data.py with random images."""
    import data

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    labels = rng.integers(0, 10, count).astype("int32")
    splits = {"train": (images, labels)}
    mean, std = (np.float32(numbers) for numbers in data.NORMALISATION[recipe.dataset])
    settings = (10, recipe.batch_size, recipe.augmentation, recipe.seed)
    return data.Data(recipe.dataset, splits, mean, std, *settings)


def drain(batches, steps):
    """Seconds to take `steps` batches out of a pipeline."""
    iterator = iter(batches.repeat())
    next(iterator)
    start = time.perf_counter()
    for _ in range(steps):
        next(iterator)
    return time.perf_counter() - start


def train(model, batches, steps):
    """Seconds of `steps` training steps; one call runs as many as the recipe's run would group."""
    together = model.steps_per_execution
    calls = max(steps // together, 1)
    iterator = iter(batches.repeat())
    model.train_function(iterator)
    start = time.perf_counter()
    for _ in range(calls):
        logs = model.train_function(iterator)
    np.asarray(logs["loss"])
    return (time.perf_counter() - start) * steps / (calls * together)


def measure(name, rounds):
    """One row: the three rates of a recipe, in images a second."""
    import tensorflow as tf

    import engine
    import modeling
    from recipes import get_recipe

    recipe = get_recipe(name)
    count, shape, drained, trained = CASES[name]
    data = random_data(recipe, count, shape)
    model = modeling.build_model(recipe, shape, 10)
    steps = data.steps_per_epoch
    modeling.compile_model(model, recipe, engine.Options(), steps)
    model.make_train_function()
    fed = data.training(0, 1)
    images, labels = next(iter(fed))
    fixed = tf.data.Dataset.from_tensors((images, labels))
    jobs = {
        "pipeline": lambda: recipe.batch_size * drained / drain(fed, drained),
        "training": lambda: recipe.batch_size * trained / train(model, fixed, trained),
        "both": lambda: recipe.batch_size * trained / train(model, fed, trained),
    }
    train(model, fixed, 1)  # traces and compiles
    rates = {key: [] for key in jobs}
    for _ in range(rounds):
        for key, job in jobs.items():
            rates[key].append(job())
    medians = {key: statistics.median(values) for key, values in rates.items()}
    ranges = {f"{key}_range": [min(values), max(values)] for key, values in rates.items()}
    return {"recipe": name, "augmentation": recipe.augmentation, **medians, **ranges}


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", default=",".join(CASES), help=f"out of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--machine", default=platform.processor() or platform.machine())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    names = args.recipes.split(",")
    if not set(names) <= set(CASES):
        parser.error(f"--recipes must be out of {', '.join(CASES)}. Received: {args.recipes}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.insert(0, str(EXAMPLES))
    import keras
    import tensorflow as tf

    rows = [measure(name, args.rounds) for name in names]
    print(
        f"{'recipe':26} {'augmentation':12} {'pipeline':>10} {'training':>10} {'both':>10}  images/s"
    )
    for row in rows:
        rates = " ".join(f"{row[key]:>10,.0f}" for key in ("pipeline", "training", "both"))
        print(f"{row['recipe']:26} {row['augmentation']:12} {rates}")
    if args.out:
        result = {
            "command": " ".join(
                ["python", "benchmarks/input_pipeline.py", *(argv or sys.argv[1:])]
            ),
            "machine": f"{args.machine}, {os.cpu_count()} cores",
            "versions": {
                "python": platform.python_version(),
                "keras": keras.__version__,
                "tensorflow": tf.__version__,
                "numpy": np.__version__,
            },
            "rounds": args.rounds,
            "images_per_second": rows,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
