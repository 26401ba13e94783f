"""Writes the selected network of a run folder as a SavedModel, and checks the file.

    python examples/export.py runs/ours-lenet300100-gs-s0 --out selected --data-dir DIR

The SavedModel holds the selected values alone: no bank, no scores. It is loaded back with plain
TensorFlow, must predict what the trained model predicts, and its test accuracy is printed.

Exit status: 0, 1 when the export failed or predicts something else, 2 for a wrong command line.
"""

import sys
from pathlib import Path

import cli
from sources import check_source


def make_parser():
    parser = cli.Parser(description=__doc__, prog="export.py")
    parser.add_argument("run", metavar="RUN", help="run folder of train.py")
    parser.add_argument(
        "--out", metavar="DIR", help="the SavedModel to write (default: RUN/saved_model)"
    )
    parser.add_argument(
        "--state",
        default="best",
        metavar="STATE",
        help="best, last, or the number of a kept epoch (default: %(default)s)",
    )
    cli.add_data_flags(parser)
    return parser


def serve(path, images):
    """Logits of a SavedModel, loaded without Keras, for batches of at most 1,000 images."""
    import numpy as np
    import tensorflow as tf

    serving = tf.saved_model.load(str(path)).signatures["serving_default"]
    (name,) = serving.structured_input_signature[1]
    logits = []
    for start in range(0, len(images), 1000):
        (output,) = serving(**{name: tf.constant(images[start : start + 1000])}).values()
        logits.append(output.numpy())
    return np.concatenate(logits)


def folder_bytes(path):
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def main(argv=None):
    args = make_parser().parse_args(argv)
    import engine
    from runfolder import RunError

    recipe, _ = engine.recipe_of(args.run)
    if recipe.method != "slot":
        raise RunError(
            f"{args.run} holds a learned network, which has no selection to export; "
            "Keras' own model.export writes such a model"
        )
    check_source(recipe.dataset, args.data_dir, args.download)
    _, model = engine.load_model(args.run, args.state)
    options = engine.Options(data_dir=args.data_dir, download=args.download)
    images, labels = engine.load_data(recipe, options).test_images()

    from keras_slots import export_selected

    path = export_selected(model, args.out or Path(args.run) / "saved_model")
    logits = serve(path, images)
    expected = model.predict(images, batch_size=1000, verbose=0)
    same = float((logits.argmax(-1) == expected.argmax(-1)).mean())
    raw = sum(layer.kernel.shape.num_elements() * 4 for layer in model.layers if _is_slot(layer))
    print(f"{path}: {recipe.name}, seed {recipe.seed}, state {args.state}")
    cli.print_table(
        [
            ("test accuracy of the loaded file, %", float((logits.argmax(-1) == labels).mean())),
            ("same predictions as the trained model, %", same),
            ("largest difference of a logit", f"{abs(logits - expected).max():.1e}"),
            ("size on disk, bytes", f"{folder_bytes(path):,}"),
            ("selected values as float32, bytes", f"{raw:,}"),
        ]
    )
    if same < 1.0:
        raise RunError(f"{path} predicts something else than the trained model")
    return 0


def _is_slot(layer):
    return hasattr(layer, "selected_indices")


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "export.py"))
