"""Files that are either whole or absent, writes that may fail, and JSON that every reader accepts."""

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
    """Replace path by data (text as UTF-8) so that a crash at any moment leaves the old file or the new one. OSError names
    path."""
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
    """Have an OSError say which file could not be written; a full disk's says none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # nothing but a text, which says more
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


class Patience:
    """Lets writes fail that a later one makes up for. The first failure in a row costs a warning."""

    def __init__(self) -> None:
        self._failed = False

    def try_to(self, write: Callable[[], object], what: str, then: str) -> bool:
        """Whether it could be written. what, then: for the warning, and what happens now."""
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
    """Make the names in a folder, renames included, survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any, indent: int | None = None) -> str:
    """Standard JSON: NaN and the infinities become null, arrays become lists, paths become strings."""
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
