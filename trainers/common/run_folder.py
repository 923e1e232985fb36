"""The folder that holds everything of one run, and belongs to one process at a time."""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import os
from pathlib import Path
from typing import Self

from trainers.common.checkpoint import latest_step

LOCK_FILE = ".lock"
BARE = {LOCK_FILE, "config.yaml"}  # what a run that died before its first checkpoint leaves


@dataclasses.dataclass(frozen=True)
class LockedFolder:
    """A folder that one process trains in: it stays locked until `close`, the end of a `with` block or of the process."""

    path: Path
    lock: int  # file descriptor

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    def close(self) -> None:
        os.close(self.lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RunFolder(LockedFolder):
    """Paths in a run folder."""

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"


def prepare_run_folder(path: str | os.PathLike[str], resume: bool = False) -> RunFolder:
    """Make and lock the folder of a new run, or lock that of one to resume.

    Raises FileExistsError if a new run would meet files, FileNotFoundError if there is no checkpoint to resume from,
    BlockingIOError while another process uses the folder.
    """
    path = Path(path)
    _check(path, resume)
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path, lock_folder(path))
    try:
        _check(path, resume)  # again, now that no other process can interfere
        folder.checkpoints.mkdir(exist_ok=True)
        folder.videos.mkdir(exist_ok=True)
    except BaseException:
        folder.close()
        raise
    return folder


def default_run_dir(scenario: str, root: str | os.PathLike[str] = "runs") -> Path:
    """`runs/<scenario>-<date>-<time>`, local time."""
    return Path(root) / f"{scenario}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _check(path: Path, resume: bool) -> None:
    if resume and latest_step(path / "checkpoints") is None:
        raise FileNotFoundError(f"nothing to resume: no checkpoint in {path / 'checkpoints'}")
    if not resume and any(file.name not in BARE for file in path.rglob("*") if not file.is_dir()):
        raise FileExistsError(f"{path} already holds a run: continue it with --resume, or choose another --run-dir")


def lock_folder(path: Path) -> int:
    """A lock the kernel drops with its process, however that ends; the file names the process for the message. The file
    descriptor that holds it; BlockingIOError while another process does."""
    lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise BlockingIOError(f"{path} is in use by process {owner}") from error
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock
