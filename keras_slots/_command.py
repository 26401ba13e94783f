"""The command line up to where it needs Keras, whose import takes seconds.

`keras_slots` imports this module before Keras. In the process of the command, and in no other, `--help` and wrong
arguments are answered then, and what TensorFlow logs is hidden.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from keras_slots._files import check_path
from keras_slots.version import __version__

PROGRAM = "keras-slots"
#: The formats of `export_selected` for files, by suffix; a folder is a SavedModel.
EXPORT_FORMATS = {".h": "c", ".tflite": "litert", ".onnx": "onnx"}
#: What each command does, reads and writes.
_COMMANDS = {
    "info": ("show what a file holds", "FILE.slots", None),
    "pack": ("write the selected network of a saved slot model", "MODEL.keras", "FILE.slots"),
    "unpack": ("write a plain Keras model with the selected values", "FILE.slots", "PLAIN.keras"),
    "export": ("write FILE.tflite, FILE.onnx, FILE.h (C code) or the folder of a SavedModel", "MODEL", "OUT"),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the arguments; exits with status 2 if they are wrong, with 1 if a path does not fit."""
    what = "Looks into .slots files, and converts models to and from them."
    status = "Exit status: 0 after success, 1 after an error, 2 for a wrong command line."
    parser = argparse.ArgumentParser(PROGRAM, description=what, epilog=status)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (what, source, target) in _COMMANDS.items():
        one = commands.add_parser(name, help=what, description=f"{what.capitalize()}.")
        one.add_argument("file", type=Path, metavar=source)
        if target is not None:
            one.add_argument("out", type=Path, metavar=target)
            one.add_argument("--overwrite", action="store_true", help=f"replace an existing {target}")
        if name == "pack":
            one.add_argument("--fold-batch-norm", action="store_true", help="write scale and bias of each channel")
            one.add_argument("--float-dtype", choices=["float16"], help="round all floats but the kernels")
        if name == "export":
            text = "inputs to choose the scales of integers by, for FILE.tflite or FILE.h"
            one.add_argument("--calibration-data", type=Path, metavar="FILE.npy", help=text)
    args = parser.parse_args(argv)
    target = _COMMANDS[args.command][2]
    try:
        for file in filter(None, (args.file, getattr(args, "calibration_data", None))):
            if file.is_dir() or not file.exists():
                raise FileNotFoundError(f"{'not a file' if file.exists() else 'no such file'}: '{file}'")
        if target is not None:
            if os.path.lexists(args.out) and not args.overwrite:
                raise FileExistsError(f"'{args.out}' exists. Pass --overwrite, or choose another name.")
            folder = args.command == "export" and args.out.suffix not in EXPORT_FORMATS
            if folder and args.out.suffix[1:].isalpha():
                raise ValueError(
                    f"OUT must end in {', '.join(EXPORT_FORMATS)}, or be a folder. Received: '{args.out}'."
                )
            check_path(args.out, args.overwrite, suffix=Path(target).suffix or None, folder=folder)
        if args.command == "export" and args.file.suffix != ".keras":
            _check_plain_export(args)
    except (OSError, ValueError) as error:
        fail(args.command, error)
    return args


def _check_plain_export(args: argparse.Namespace) -> None:
    """Raises an error for what can only be made of the model that was trained."""
    if args.file.suffix != ".slots":
        raise ValueError(f"MODEL must end in .keras or .slots. Received: '{args.file}'.")
    if args.out.suffix == ".h" or args.calibration_data:
        raise ValueError(
            "C code and integers need the banks of the model that was trained. Received: "
            f"'{args.file}'. Pass the .keras file that `model.save` wrote."
        )


def fail(command: str, error: Exception) -> NoReturn:
    """Exits with a line that says why."""
    text = str(error) if isinstance(error, (OSError, ValueError)) else repr(error)
    sys.exit(f"{PROGRAM} {command}: {' '.join(text.split())}")


def _is_own_process() -> bool:
    argv = getattr(sys, "argv", None) or [""]
    if argv[0] == "-m":  # so Python calls it until it has found the module, and for that imported its package
        return sys.orig_argv[-len(argv) :][0] in ("keras_slots", "-mkeras_slots")
    return os.path.basename(argv[0]).removesuffix(".exe") == PROGRAM


if _is_own_process():
    parse()
    # TensorFlow logs its first lines whatever is set; on other backends Keras imports it to read a file. So only
    # Python still writes to standard error.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
