"""Folders that keep compiled code from one process to the next."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def user_cache(kind: str) -> Path:
    """Return this package's folder for one kind of code, inside the user's cache folder.

    Raises RuntimeError if the user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "entropy_env", kind)


def make_writable(folder: Path) -> Path:
    """Make a folder with its parents, and return it. Raises OSError if no file can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder
