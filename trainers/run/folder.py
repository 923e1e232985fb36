"""The folder that holds everything of one run. Only one process at a time can use it."""

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
# Files that a run may leave behind if it dies before its first checkpoint.
BARE = re.compile(r"\.lock|config\.yaml|\.config\.yaml\.\d+\.tmp|checkpoints/\.step_\d+\.safetensors\.\d+\.tmp")


@dataclasses.dataclass(frozen=True)
class LockedFolder:
    """A folder that one process trains in. It stays locked until `close`, or until the `with` block or process ends."""

    path: Path
    lock: int  # file descriptor
    made: tuple[Path, ...] = ()  # folders that this process made, inner ones first

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
        """Remove the empty folders that this process made, so that a run that fails at its start leaves no trace."""
        for folder in self.made:
            with contextlib.suppress(OSError):
                if os.listdir(folder) == [LOCK_FILE]:
                    (folder / LOCK_FILE).unlink()
                folder.rmdir()


class RunFolder(LockedFolder):
    """A locked folder with the paths of a run."""

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    def clear(self) -> None:
        if latest_step(self.checkpoints) is None:
            for name in filter(BARE.fullmatch, _files(self.path)):
                (self.path / name).unlink()
            super().clear()


def prepare_run_folder(path: str | os.PathLike[str], resume: bool = False) -> RunFolder:
    """Make and lock the folder of a new run, or lock the folder of a run to resume.

    If the `with` block of a new run fails before the first checkpoint, nothing of the run is left behind.
    Raises FileExistsError if a new run's folder already holds files, FileNotFoundError if there is no checkpoint to
    resume from, BlockingIOError while another process uses the folder.
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
    """Prepare the run folder `runs/<scenario>-<date>-<time>`, in local time.

    If it is taken, adds the first free number: `-2`, `-3`, ...
    """
    name = f"{scenario}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    while True:
        path = Path(root, next(names))
        try:
            return prepare_run_folder(path)
        except (FileExistsError, BlockingIOError):
            if not path.exists():  # `root` itself cannot be made, so another name would not help
                raise


def make_folders(*paths: Path) -> tuple[Path, ...]:
    """Make folders with their parents. Returns those that did not exist before, inner ones first."""
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
    bare = LOCK_FILE in files and all(map(BARE.fullmatch, files))  # without a lock file, a `config.yaml` is the user's
    if not resume and files and not bare:
        raise FileExistsError(f"{path} already holds a run: continue it with --resume, or choose another --run-dir")


def lock_folder(path: Path) -> int:
    """Lock a folder for this process, and return the file descriptor that holds the lock.

    The kernel drops the lock when the process ends, in whatever way. The lock file holds the process id, for the message.
    Raises BlockingIOError while another process holds the lock.
    """
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
