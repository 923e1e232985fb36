"""The folders of a pipeline like Entropy V2's: one checkpoint at a time, and a growing shelf of models."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import warnings
from pathlib import Path
from typing import Self

from trainers.common.checkpoint import CheckpointError
from trainers.common.files import sync_folder, write_atomic
from trainers.common.run_folder import lock_folder
from trainers.common.sb3.checkpoint import Saved, unpack

MODEL = re.compile(r"swarm_(\d+)\.zip")


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Paths in a folder, where one process trains at a time."""

    path: Path
    lock: int  # file descriptor

    @property
    def checkpoint(self) -> Path:
        """The newest state of the training under way."""
        return self.path / "checkpoints" / "checkpoint.zip"

    @property
    def previous(self) -> Path:
        """The checkpoint before that, should the newest be damaged."""
        return self.path / "checkpoints" / "previous.zip"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    def run(self, name: str) -> Path:
        """The folder of the metrics and TensorBoard events of a training, made if need be."""
        path = self.path / "runs" / name
        path.mkdir(exist_ok=True)
        return path

    def next_name(self) -> str:
        """`swarm_N` with the number after the highest among the models."""
        numbers = [int(match[1]) for file in self.models.iterdir() if (match := MODEL.fullmatch(file.name))]
        return f"swarm_{max(numbers, default=0) + 1}"

    def find_checkpoint(self) -> Saved | None:
        """What to resume from: the checkpoint or, with a warning where it is damaged, the one before; None without any.

        Raises CheckpointError where none that is there can be read.
        """
        damage = []
        for path in (self.checkpoint, self.previous):
            try:
                saved = unpack(path)
            except FileNotFoundError:
                continue
            except CheckpointError as error:
                damage.append(str(error))
                continue
            if damage:
                warnings.warn(f"{damage[0]}; falling back to {path}", stacklevel=2)
            return saved
        if damage:
            raise CheckpointError(f"{'; '.join(damage)}. Delete {self.checkpoint.parent} to begin anew")
        return None

    def save_checkpoint(self, data: bytes) -> None:
        """Replace the checkpoint, and keep the one it replaces. A crash or a full disk leaves the old one."""
        fresh = write_atomic(self.checkpoint.with_name(".checkpoint.new"), data)
        link = self.previous.with_name(".previous.new")
        with contextlib.suppress(OSError):  # no checkpoint yet, or a file system without links
            link.unlink(missing_ok=True)
            os.link(self.checkpoint, link)
            os.replace(link, self.previous)
        os.replace(fresh, self.checkpoint)
        sync_folder(self.checkpoint.parent)

    def save_model(self, data: bytes, name: str) -> Path:
        """Write `models/NAME.zip`, or under the next free number where that is taken."""
        path = self.models / f"{name}.zip"
        return write_atomic(self.models / f"{self.next_name()}.zip" if path.exists() else path, data)

    def drop_checkpoints(self) -> None:
        """The training is over."""
        for path in (self.previous, self.checkpoint):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self.lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_workspace(path: str | os.PathLike[str]) -> Workspace:
    """Make the folders and lock them. Raises BlockingIOError while another process trains there."""
    path = Path(path)
    for name in ("checkpoints", "models", "runs", "videos"):
        (path / name).mkdir(parents=True, exist_ok=True)
    return Workspace(path, lock_folder(path / "checkpoints"))
