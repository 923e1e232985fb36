"""Atomic writes, writes that may fail, and JSON that every reader accepts."""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Replace a file by data; text is written as UTF-8. A crash at any moment leaves either the old or the new file.

    Raises OSError naming path.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            with partial.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    return path


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the path to an OSError raised in this context. For example, the error of a full disk does not name the file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # has only a text, which would be lost
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


class Patience:
    """Tries writes that may fail, because a later one makes up for them. Warns of the first failure in a row."""

    def __init__(self) -> None:
        self._failed = False

    def try_to(self, write: Callable[[], object], what: str, then: str) -> bool:
        """Write, and return whether that worked. what, then: name in the warning what was to be written, and what follows."""
        try:
            write()
        except OSError as error:
            if not self._failed:
                warnings.warn(f"{what} could not be written ({error}): {then}", stacklevel=2)
            self._failed = True
            return False
        self._failed = False
        return True


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, so that new files and renames survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any, indent: int | None = None) -> str:
    """Convert to standard JSON: NaN and infinities become null, arrays become lists, paths become strings."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _plain(value.tolist()) if hasattr(value, "tolist") else value
