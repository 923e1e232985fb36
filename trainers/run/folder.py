"""The folder that holds everything of one run, and belongs to one process at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import itertools
import os
import re
from pathlib import Path
from typing import Self

from trainers.run.checkpoint import latest_step

LOCK_FILE = ".lock"
# what a run that died before its first checkpoint leaves
BARE = re.compile(r"\.lock|config\.yaml|\.config\.yaml\.\d+\.tmp|checkpoints/\.step_\d+\.safetensors\.\d+\.tmp")


@dataclasses.dataclass(frozen=True)
class LockedFolder:
    """A folder that one process trains in: it stays locked until `close`, the end of a `with` block or of the process."""

    path: Path
    lock: int  # file descriptor
    made: tuple[Path, ...] = ()  # folders that were not there before, inner ones first

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

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            self.clear()
        self.close()

    def clear(self) -> None:
        """Remove the folders that were made and hold nothing, so that what failed before it began leaves no trace."""
        for folder in self.made:
            with contextlib.suppress(OSError):
                if os.listdir(folder) == [LOCK_FILE]:
                    (folder / LOCK_FILE).unlink()
                folder.rmdir()


class RunFolder(LockedFolder):
    """Paths in a run folder."""

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    def clear(self) -> None:
        if latest_step(self.checkpoints) is None:
            for name in filter(BARE.fullmatch, _files(self.path)):
                (self.path / name).unlink()
            super().clear()


def prepare_run_folder(path: str | os.PathLike[str], resume: bool = False) -> RunFolder:
    """Make and lock the folder of a new run, or lock that of one to resume. If the `with` block fails before the first
    checkpoint, nothing is left of it.

    Raises FileExistsError if a new run would meet files, FileNotFoundError if there is no checkpoint to resume from,
    BlockingIOError while another process uses the folder.
    """
    path = Path(path)
    _check(path, resume)
    made = make_folders(path)
    folder = RunFolder(path, lock_folder(path), made)
    try:
        _check(path, resume)  # again, now that no other process can interfere
        inner = make_folders(folder.checkpoints, folder.videos)
        for leftover in path.glob(".config.yaml.*.tmp"):
            leftover.unlink()
    except BaseException:
        folder.close()
        raise
    return dataclasses.replace(folder, made=inner + made)


def begin_run_folder(scenario: str, root: str | os.PathLike[str] = "runs") -> RunFolder:
    """`prepare_run_folder` for `runs/<scenario>-<date>-<time>`, local time, or with the first number behind it that no
    other run has taken."""
    name = f"{scenario}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    while True:
        path = Path(root, next(names))
        try:
            return prepare_run_folder(path)
        except (FileExistsError, BlockingIOError):
            if not path.exists():  # `root` itself cannot be made, so no other name would do
                raise


def make_folders(*paths: Path) -> tuple[Path, ...]:
    """Make folders with their parents; those that were not there, inner ones first."""
    made: list[Path] = []
    for path in paths:
        made[:0] = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
    return tuple(made)


def _files(path: Path) -> list[str]:
    return [file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()]


def _check(path: Path, resume: bool) -> None:
    if resume and latest_step(path / "checkpoints") is None:
        raise FileNotFoundError(f"nothing to resume: no checkpoint in {path / 'checkpoints'}")
    files = _files(path)
    bare = LOCK_FILE in files and all(map(BARE.fullmatch, files))  # without a lock a `config.yaml` is somebody's own
    if not resume and files and not bare:
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
