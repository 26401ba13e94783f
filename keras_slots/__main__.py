"""`python -m keras_slots`: looks into `.slots` files, and turns models into them and back.

    python -m keras_slots info FILE.slots
    python -m keras_slots pack MODEL.keras FILE.slots
    python -m keras_slots unpack FILE.slots PLAIN.keras
    python -m keras_slots export FILE.slots FOLDER

`info` lists what a file holds. `pack` writes the selected network of a saved slot model. `unpack` writes a plain
Keras model with the selected values, `export` a TensorFlow SavedModel of it. Exit status: 0, 1 when something
failed, 2 for a wrong command line.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras

from keras_slots._files import check_path, replacing, write_file
from keras_slots._keras import inner_layers
from keras_slots.export import put_exported
from keras_slots.kernels.base import SlotKernel
from keras_slots.slots_file import describe, rebuild
from keras_slots.slots_file.container import join, split, version_of
from keras_slots.slots_file.records import summary

_BAR_AFTER = 3.0  # seconds


class Bar:
    """A progress bar on a terminal, for what takes more than three seconds.

    Args:
        total: What will be done.
    """

    def __init__(self, total: int):
        self.total, self.done, self.began = max(total, 1), 0, time.monotonic()
        self.bar: keras.utils.Progbar | None = None

    def __call__(self, count: int) -> None:
        self.done = min(self.done + count, self.total)
        late = time.monotonic() - self.began > _BAR_AFTER
        if self.bar is None and late and sys.stdout.isatty():
            self.bar = keras.utils.Progbar(self.total, unit_name="connection")
        if self.bar is not None:
            self.bar.update(self.done)


def info(path: Path) -> None:
    """Prints what a file holds, without decoding it."""
    content = path.read_bytes()
    architecture, records = split(content)
    config = architecture.get("config")
    name = config.get("name", "") if isinstance(config, dict) else ""
    rows = [("weight", "shape", "values", "choices", "bytes", "bits a weight")]
    for record in records:
        values, choices = summary(record)
        bits = 8 * len(record.payload) / max(record.size, 1)
        size = f"{len(record.payload):,}"
        shape = " x ".join(map(str, record.shape)) or "one number"
        title = record.name if record.name.isprintable() else ascii(record.name)
        rows.append((title, shape, values, choices, size, f"{bits:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        _say("  ".join(cells).rstrip())
    plain, total = sum(record.nbytes for record in records), len(content)
    _say(
        f"{architecture['class_name']} '{name}', format version {version_of(content)}: {total:,} bytes, weights "
        f"{plain:,} in memory, {plain / total:.1f} times as much"
    )


def pack(source: Path, path: Path, overwrite: bool) -> None:
    """Writes the selected network of a `.keras` file."""
    path = check_path(path, overwrite, suffix=".slots")
    model = keras.models.load_model(source, compile=False)
    connections = sum(k.initial.num_connections for k in _kernels(model))
    write_file(path, join(*describe(model, Bar(2 * connections))))
    _say(f"{path}: {path.stat().st_size:,} bytes")


def unpack(source: Path, path: Path, overwrite: bool) -> None:
    """Writes a plain `.keras` file."""
    path = check_path(path, overwrite, suffix=".keras")
    model = _load(source)
    with replacing(path) as temporary:
        model.save(temporary)
    _say(f"{path}: {path.stat().st_size:,} bytes")


def export(source: Path, path: Path, overwrite: bool) -> None:
    """Writes a SavedModel."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"A SavedModel needs the TensorFlow backend. Received: backend {keras.backend.backend()!r}. Set "
            "KERAS_BACKEND=tensorflow."
        )
    path = check_path(path, overwrite, folder=True)
    put_exported(_load(source), path, overwrite=overwrite)
    _say(f"{path}")


def _load(source: Path) -> keras.Model:
    architecture, records = split(source.read_bytes())
    coded = sum(record.size for record in records if record.form in ("hull", "nearest"))
    return rebuild(architecture, records, progress=Bar(coded))


def _kernels(model: keras.Model) -> list[SlotKernel]:
    return [layer for layer in inner_layers(model) if isinstance(layer, SlotKernel)]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_slots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    actions: dict[str, tuple[Callable[..., None], str, str]] = {
        "pack": (pack, "MODEL.keras", "FILE.slots"),
        "unpack": (unpack, "FILE.slots", "PLAIN.keras"),
        "export": (export, "FILE.slots", "FOLDER"),
    }
    one = commands.add_parser("info", help=info.__doc__)
    one.add_argument("file", type=Path, metavar="FILE.slots")
    for name, (action, source, target) in actions.items():
        one = commands.add_parser(name, help=action.__doc__)
        one.add_argument("file", type=Path, metavar=source)
        one.add_argument("out", type=Path, metavar=target)
        one.add_argument("--overwrite", action="store_true", help="replace what exists")
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
