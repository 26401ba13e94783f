"""`python -m keras_slots`: inspects `.slots` files and converts models to and from them.

    python -m keras_slots info FILE.slots
    python -m keras_slots pack MODEL.keras FILE.slots
    python -m keras_slots unpack FILE.slots PLAIN.keras
    python -m keras_slots export FILE.slots FOLDER

`info` lists the contents of a file. `pack` writes the selected network of a saved slot model. `unpack` writes a
plain Keras model with the selected values, and `export` a TensorFlow SavedModel of it. The exit status is 0 on
success, 1 after an error and 2 for a wrong command line.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import keras

from keras_slots._files import atomic_replace, check_path
from keras_slots.export import check_backend, write_export
from keras_slots.slots_file import load_slots, save_slots
from keras_slots.slots_file.container import split
from keras_slots.slots_file.records import summary


def info(path: Path) -> None:
    """Prints the contents of a file, without decoding it."""
    content = path.read_bytes()
    file = split(content)
    config = file.architecture.get("config")
    name = config.get("name", "") if isinstance(config, dict) else ""
    rows = [("weight", "shape", "values", "choices", "bytes", "bits a weight")]
    for record in file.records:
        values, choices = summary(record)
        bits = 8 * len(record.payload) / max(record.size, 1)
        shape = " x ".join(map(str, record.shape)) or "one number"
        title = record.name if record.name.isprintable() else ascii(record.name)
        rows.append((title, shape, values, choices, f"{len(record.payload):,}", f"{bits:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        _say("  ".join(cells).rstrip())
    plain, total = sum(record.nbytes for record in file.records), len(content)
    _say(
        f"{file.architecture['class_name']} '{name}', format version {file.version}: {total:,} bytes, weights "
        f"{plain:,} in memory, {plain / total:.1f} times as much"
    )


def pack(source: Path, path: Path, overwrite: bool) -> None:
    """Writes the selected network of a `.keras` file."""
    check_path(path, overwrite, suffix=".slots")  # before the model is loaded
    path = save_slots(keras.models.load_model(source, compile=False), path, overwrite=overwrite)
    _say(f"{path}: {path.stat().st_size:,} bytes")


def unpack(source: Path, path: Path, overwrite: bool) -> None:
    """Writes a plain `.keras` file."""
    path = check_path(path, overwrite, suffix=".keras")
    model = load_slots(source)
    with atomic_replace(path) as temporary:
        model.save(temporary)
    _say(f"{path}: {path.stat().st_size:,} bytes")


def export(source: Path, path: Path, overwrite: bool) -> None:
    """Writes a SavedModel."""
    check_backend()
    path = check_path(path, overwrite, folder=True)
    write_export(load_slots(source), path, overwrite=overwrite)
    _say(f"{path}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_slots", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser("info", help=info.__doc__)
    one.add_argument("file", type=Path, metavar="FILE.slots")
    actions: dict[str, tuple[Callable[..., None], str, str]] = {
        "pack": (pack, "MODEL.keras", "FILE.slots"),
        "unpack": (unpack, "FILE.slots", "PLAIN.keras"),
        "export": (export, "FILE.slots", "FOLDER"),
    }
    for name, (action, source, target) in actions.items():
        one = commands.add_parser(name, help=action.__doc__)
        one.add_argument("file", type=Path, metavar=source)
        one.add_argument("out", type=Path, metavar=target)
        one.add_argument("--overwrite", action="store_true", help="replace an existing target")
    args = parser.parse_args(argv)
    try:
        if args.command == "info":
            info(args.file)
        else:
            actions[args.command][0](args.file, args.out, args.overwrite)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"python -m keras_slots {args.command}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
