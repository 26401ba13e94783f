"""The command `keras-slots`, also `python -m keras_slots`, which `docs/saving.md` describes."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import keras

from keras_slots._command import PROGRAM, parse
from keras_slots._files import atomic_replace, check_path
from keras_slots.export import check_backend, write_export
from keras_slots.slots_file import load_slots, save_slots
from keras_slots.slots_file.container import split
from keras_slots.slots_file.records import summary

#: What `info` calls the forms of `slots_file.container.FORMS`.
_CODINGS = {"stored": "none", "packed": "fixed length", "hull": "lever steps", "nearest": "value steps"}


def info(file: Path) -> str:
    """Says what a file holds, without decoding it."""
    content = file.read_bytes()
    found = split(content)
    rows = [("weight", "shape", "values", "coding", "bytes", "bits per weight")]
    for record in found.records:
        name, size = _printable(record.name), len(record.payload)
        shape = " x ".join(map(str, record.shape)) or "one number"
        bits = f"{8 * size / max(record.size, 1):.2f}"
        rows.append((name, shape, summary(record), _CODINGS[record.form], f"{size:,}", bits))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<<<<>>"
    lines = []
    for row in rows:
        lines.append("  ".join(f"{x:{side}{width}}" for x, side, width in zip(row, sides, widths, strict=True)))
    plain, total = sum(record.nbytes for record in found.records), len(content)
    smaller = f"{plain / total:.1f} times smaller than" if total < plain else "not smaller than"
    config = found.architecture.get("config")
    name = config.get("name", "") if isinstance(config, dict) else ""
    model = _printable(f"{found.architecture['class_name']} '{name}'")
    lines += ["", f"{model}, .slots format version {found.version}"]
    lines += [f"{total:,} bytes, {smaller} its weights as plain arrays ({plain:,} bytes)"]
    return "\n".join(lines)


def pack(file: Path, out: Path, overwrite: bool) -> str:
    """Writes the selected network of a `.keras` file."""
    return _size(save_slots(keras.models.load_model(file, compile=False), out, overwrite=overwrite))


def unpack(file: Path, out: Path, overwrite: bool) -> str:
    """Writes a plain `.keras` file."""
    model = load_slots(file)
    with atomic_replace(check_path(out, overwrite, suffix=".keras")) as temporary:
        model.save(temporary)
    return _size(out)


def export(file: Path, out: Path, overwrite: bool) -> str:
    """Writes a SavedModel."""
    check_backend()
    write_export(load_slots(file), out, overwrite=overwrite)
    return str(out)


def _size(path: Path) -> str:
    return f"{path}: {path.stat().st_size:,} bytes"


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def main(argv: list[str] | None = None) -> None:
    """Runs a command; exits with a message and status 1 if it fails, with status 2 if the command line is wrong."""
    args = vars(parse(argv))
    command = args.pop("command")
    actions: dict[str, Callable[..., str]] = {"info": info, "pack": pack, "unpack": unpack, "export": export}
    try:
        with warnings.catch_warnings(record=True) as caught:
            answer = actions[command](**args)
    except Exception as error:  # Keras raises errors of many kinds for a file that it cannot read
        text = str(error) if isinstance(error, (OSError, ValueError)) else repr(error)
        sys.exit(f"{PROGRAM} {command}: {' '.join(text.split())}")
    for warning in caught:
        sys.stderr.write(f"{PROGRAM} {command}: {warning.message}\n")
    sys.stdout.write(f"{answer}\n")


if __name__ == "__main__":
    main()
