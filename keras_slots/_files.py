"""Atomic writes: files are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

#: What TensorFlow writes into a SavedModel folder; `assets.extra` is for files that users add.
_SAVED_MODEL = {
    *("saved_model.pb", "saved_model.pbtxt", "keras_metadata.pb", "fingerprint.pb"),
    *("variables", "assets", "assets.extra", "debug"),
}


def check_path(
    path: str | os.PathLike, overwrite: bool, *, folder: bool = False, suffix: str | None = None
) -> Path:
    """Checks that a file with that suffix, or a SavedModel folder, may be written; returns its path."""
    path = Path(path)
    if path.name in ("", ".."):
        path = Path(os.path.abspath(path))  # the name is needed
    if suffix is not None and path.suffix != suffix:
        raise ValueError(
            f"`path` must end in {suffix}. Received: path='{path}'. Pass for example '{path.stem}{suffix}'."
        )
    # `lexists` returns False instead of an error if this process may not read the folder.
    if not os.path.lexists(path):
        return path
    if not overwrite or path.is_symlink() or not (path.is_dir() if folder else path.is_file()):
        kind = "folder" if folder else "file"
        received = "a symbolic link" if path.is_symlink() else f"overwrite={overwrite}"
        raise FileExistsError(
            f"`path` must not exist, so that nothing is lost, or be a {kind} that `overwrite=True` may replace. "
            f"Received: path='{path}', {received}. Remove it or choose another."
        )
    if folder:
        _check_earlier_export(path)
    return path


def _check_earlier_export(folder: Path) -> None:
    """Refuses a folder that holds anything but a SavedModel, because its contents would be deleted."""
    with errors_name_path(folder):
        names = {x.name for x in folder.iterdir()}
        files = {f"variables/{x.name}" for x in folder.glob("variables/*")}
    others = names - _SAVED_MODEL if "saved_model.pb" in names else names
    others |= {x for x in files if not x.startswith("variables/variables.")}
    if others:
        raise FileExistsError(
            "`path` must not exist, or be an empty folder or an earlier export to replace with `overwrite=True`. "
            f"Received: path='{folder}', a folder that also holds {_shortened_list(others)}. Nothing was deleted. "
            "Move these away, or choose another path."
        )


def _shortened_list(names: set[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def unwritable_path_error(path: Path, error: OSError) -> OSError:
    """Returns an error for a path that cannot be written, which names the path."""
    return type(error)(
        f"`path` must be a place where this process can write. Received: path='{path}' "
        f"({error.strerror or error}). Nothing was changed. Choose another place, or make room."
    )


@contextlib.contextmanager
def errors_name_path(path: Path) -> Iterator[None]:
    """Makes each `OSError` in the block an error that names the path."""
    try:
        yield
    except OSError as error:
        raise unwritable_path_error(path, error) from error


def temporary_path_beside(path: Path, word: str = "") -> Path:
    """Returns a path beside `path` that does not exist; a hidden one if `word` is empty."""
    token = secrets.token_hex(4)
    name = f"{path.stem}.{word}-{token}" if word else f".{path.stem}.{token}"
    return path.with_name(name + path.suffix)


@contextlib.contextmanager
def atomic_replace(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which replaces `path` at the end of the block.

    After an error, an interrupt or a crash `path` is the old file or the new one. Both paths have the same suffix.
    """
    temporary = temporary_path_beside(path)
    with errors_name_path(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    with contextlib.suppress(OSError):  # folders cannot be synced here
        sync(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Writes a file atomically: a crash leaves the old file or the new one."""
    with atomic_replace(path) as temporary, open(temporary, "xb") as file:
        file.write(content)


def sync(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
