"""Where compiled code is kept from one process to the next."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def user_cache(kind: str) -> Path:
    """The folder of this package, for one kind of code, in the user's cache folder. RuntimeError for a user without a
    home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "entropy_env", kind)


def make_writable(folder: Path) -> Path:
    """Make a folder with its parents, and return it. OSError where no file can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder
