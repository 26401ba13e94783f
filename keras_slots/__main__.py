"""The command `keras-slots`, also `python -m keras_slots`, which `docs/saving.md` describes."""

import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_slots._command import EXPORT_FORMATS, PROGRAM, fail, parse
from keras_slots._files import atomic_replace, check_path
from keras_slots.export import export_selected, write_export
from keras_slots.slots_file import load_slots, name_records, save_slots
from keras_slots.slots_file.container import split
from keras_slots.slots_file.records import summary

#: What `info` calls the forms of `slots_file.container.FORMS`.
_CODINGS = {"stored": "none", "packed": "fixed length", "hull": "lever steps", "nearest": "value steps"}


def info(file: Path) -> str:
    """Says what a file holds, without decoding it."""
    content = file.read_bytes()
    contents = split(content)
    architecture, records, version = contents.architecture, name_records(contents), contents.version
    rows = [("weight", "shape", "values", "coding", "bytes", "bits per weight")]
    for record in records:
        name, size = _printable(record.name), len(record.payload)
        shape = " x ".join(map(str, record.shape)) or "one number"
        bits = f"{8 * size / max(record.size, 1):.2f}"
        rows.append((name, shape, summary(record), _CODINGS[record.form], f"{size:,}", bits))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "  ".join(f"{{:{side}{width}}}" for side, width in zip("<<<<>>", widths, strict=True))
    config = architecture.get("config")
    model = f"{architecture['class_name']} '{config.get('name', '') if isinstance(config, dict) else ''}'"
    plain, total = sum(record.nbytes for record in records), len(content)
    smaller = f"{plain / total:.1f} times smaller than" if total < plain else "not smaller than"
    frame = total - sum(len(record.payload) for record in records)
    sizes = f"{total:,} bytes, of which {frame:,} are architecture and headers, "
    sizes += f"{smaller} its weights in memory ({plain:,} bytes)"
    lines = [line.format(*row) for row in rows]
    return "\n".join([*lines, "", f"{_printable(model)}, .slots format version {version}", sizes])


def convert(
    command: str, file: Path, out: Path, overwrite: bool, calibration_data: Path | None = None, **options: Any
) -> str:
    """Writes what `pack`, `unpack` or `export` makes of a file; says what was written."""
    if command == "export":
        kind = EXPORT_FORMATS.get(out.suffix, "tf_saved_model")
        if file.suffix == ".slots":
            write_export(load_slots(file), out, kind, overwrite=overwrite)
        else:
            data = None if calibration_data is None else _read_array(calibration_data)
            model = keras.models.load_model(file, compile=False)
            export_selected(model, out, format=kind, overwrite=overwrite, calibration_data=data)
        return str(out)
    if command == "pack":
        save_slots(keras.models.load_model(file, compile=False), out, overwrite=overwrite, **options)
    else:
        model = load_slots(file)
        with atomic_replace(check_path(out, overwrite, suffix=".keras")) as temporary:
            model.save(temporary)
    return f"{out}: {out.stat().st_size:,} bytes"


def _read_array(path: Path) -> np.ndarray:
    """The array of an .npy file."""
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            "`--calibration-data` must be an array of inputs in an .npy file, as `numpy.save` writes it. "
            f"Received: '{path}' ({error})."
        ) from error


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def main(argv: list[str] | None = None) -> None:
    """Runs a command; exits with status 1 after an error and 2 for a wrong command line, and says why."""
    args = parse(argv)
    try:
        with warnings.catch_warnings(record=True) as caught:
            answer = info(args.file) if args.command == "info" else convert(**vars(args))
    except Exception as error:  # Keras raises errors of many kinds for a file that it cannot read
        fail(args.command, error)
    for warning in caught:
        sys.stderr.write(f"{PROGRAM} {args.command}: {warning.message}\n")
    sys.stdout.write(f"{answer}\n")


if __name__ == "__main__":
    main()
