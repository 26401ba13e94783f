"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

#: What TensorFlow writes into the folder of a SavedModel; `assets.extra` is for what its user adds.
_SAVED_MODEL = {
    *("saved_model.pb", "saved_model.pbtxt", "keras_metadata.pb", "fingerprint.pb"),
    *("variables", "assets", "assets.extra", "debug"),
}


def check_path(
    path: str | os.PathLike, overwrite: bool, *, folder: bool = False, suffix: str | None = None
) -> Path:
    """The path of a file of that suffix, or of the folder of a SavedModel, that may be written."""
    path = Path(path)
    if path.name in ("", ".."):
        path = Path(os.path.abspath(path))  # its name is needed
    if suffix is not None and path.suffix != suffix:
        raise ValueError(
            f"`path` must end in {suffix}, the kind of file that is written. Received: path='{path}'. Pass for "
            f"example '{path.stem}{suffix}'."
        )
    # `lexists` is False, not an error, where this process may not look.
    if not os.path.lexists(path):
        return path
    if not overwrite or path.is_symlink() or not (path.is_dir() if folder else path.is_file()):
        kind = "folder" if folder else "file"
        raise FileExistsError(
            f"`path` must not exist, so that nothing earlier is lost, or be a {kind} to replace with "
            f"`overwrite=True`. Received: path='{path}', overwrite={overwrite}. Remove it or choose another."
        )
    if folder:
        _check_earlier_export(path)
    return path


def _check_earlier_export(folder: Path) -> None:
    """Refuses a folder that holds anything but a SavedModel: all that is in it would be deleted."""
    try:
        names = {x.name for x in folder.iterdir()}
        files = {f"variables/{x.name}" for x in folder.glob("variables/*")}
    except OSError as error:
        raise unwritable_path_error(folder, error) from error
    others = names - _SAVED_MODEL if "saved_model.pb" in names else names
    others |= {x for x in files if not x.startswith("variables/variables.")}
    if others:
        raise FileExistsError(
            "`path` must not exist, or be an empty folder or an earlier export to replace with `overwrite=True`. "
            f"Received: path='{folder}', a folder that also holds {_listed(others)}. Nothing was deleted. Move "
            "these away, or choose another path."
        )


def _listed(names: set[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def unwritable_path_error(path: Path, error: OSError) -> OSError:
    """The error of a path that cannot be written, with the path in it."""
    return type(error)(
        f"`path` must be a place where this process can write. Received: path='{path}' "
        f"({error.strerror or error}). Nothing was changed. Choose another place, or make room."
    )


def name_beside(path: Path, word: str = "") -> Path:
    """A path that does not exist, on the file system of `path`; hidden if there is no word to say what it is."""
    token = secrets.token_hex(4)
    name = f"{path.stem}.{word}-{token}" if word else f".{path.stem}.{token}"
    return path.with_name(name + path.suffix)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the name of a new file to write, which takes the place of `path` at the end of the block.

    After an error, an interrupt or a crash the old file is there, or the new one. The name ends as `path` does.
    """
    temporary = name_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise unwritable_path_error(path, error) from error
        raise
    with contextlib.suppress(OSError):  # where folders cannot be synced
        sync(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Puts a file in its place: a crash leaves the old one or the new one."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(content)


def sync(path: Path) -> None:
    """Returns once the file, or the folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
