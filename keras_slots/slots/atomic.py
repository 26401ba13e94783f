"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def check_path(path: str | os.PathLike, overwrite: bool, folder: bool = False) -> Path:
    """The path of a file, or a folder, that may be written."""
    path = Path(path)
    # `lexists` is False, not an error, where this process may not look.
    if os.path.lexists(path) and not (
        overwrite and not path.is_symlink() and (path.is_dir() if folder else path.is_file())
    ):
        kind = "folder" if folder else "file"
        raise FileExistsError(
            f"`path` must not exist, so that nothing earlier is lost, or be a {kind} to replace with "
            f"`overwrite=True`. Received: path='{path}', overwrite={overwrite}. Remove it or choose another."
        )
    return path


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[int, str]]:
    """A new file on the file system of `path`, to be renamed when it is whole; gone if it is not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise no_place(path, error) from error
    try:
        yield descriptor, name
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise no_place(path, error) from error
        raise


def no_place(path: Path, error: OSError) -> OSError:
    """The error of a path that cannot be written, with the path in it."""
    if isinstance(
        error.__cause__, OSError
    ):  # of a file inside a folder that was to take that place
        error = error.__cause__
    return type(error)(
        f"`path` must be a place where this process can write. Received: path='{path}' "
        f"({error.strerror or error}). Nothing was changed. Choose another place, or make room."
    )


def write_file(path: Path, content: bytes) -> None:
    """Puts a file in its place: a crash leaves the old one or the new one."""
    with _temporary(path) as (descriptor, name):
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    with contextlib.suppress(OSError):  # where folders cannot be synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
