"""Append records to a file, also when the disk is full for a while."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from pathlib import Path

from trainers.run.files import Patience, naming

RECORD = 1 << 20  # bytes, more than any record has


class Records:
    """Appends records to a file. Those that the disk refuses wait in memory, with a warning, and are written later."""

    def __init__(self, path: Path, mode: str) -> None:
        self._file = path.open(mode, buffering=RECORD)
        self._waiting = deque[bytes]()
        self._patience = Patience()

    def append(self, record: bytes) -> None:
        """Write a record at once, if the disk takes it."""
        self._waiting.append(record)
        self._patience.try_to(self._write, "figures", "they are kept in memory and written later")

    def _write(self) -> None:
        """Write what waits, record by record: the file's own buffer holds at most the one that the disk refuses."""
        with naming(self._file.name):
            self._file.flush()
            while self._waiting:
                self._file.write(self._waiting.popleft())
                self._file.flush()

    def close(self) -> None:
        """Close the file. Warns if records that wait still cannot be written."""
        try:
            self._write()
        except OSError as error:
            lost = 1 + len(self._waiting)
            warnings.warn(f"the figures of the last {lost} updates could not be written ({error})", stacklevel=2)
        with contextlib.suppress(OSError):
            self._file.close()
