"""The folders of trainings as in Entropy V2: one checkpoint at a time, and all finished models."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from pathlib import Path

from trainers.run.checkpoint import CheckpointError
from trainers.run.files import sync_folder, write_atomic
from trainers.run.folder import LockedFolder, lock_folder, make_folders
from trainers.sb3.checkpoint import NewerFormatError, Saved, unpack

NAME = re.compile(r"swarm_(\d+)")  # the name of a training
# Files that a killed process leaves.
LEFTOVERS = ("checkpoints/.*.tmp", "checkpoints/.*.new", "models/.*.zip.*.tmp", "videos/.video-*.gif")


class Workspace(LockedFolder):
    """A locked folder for trainings, one at a time, and the paths of their files."""

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint of the current training."""
        return self.checkpoints / "checkpoint.zip"

    @property
    def previous(self) -> Path:
        """The checkpoint before the newest, for when the newest is damaged."""
        return self.checkpoints / "previous.zip"

    @property
    def damaged(self) -> Path:
        """A checkpoint that could not be read."""
        return self.checkpoints / "damaged.zip"

    @property
    def models(self) -> Path:
        return self.path / "models"

    def clear(self) -> None:
        if not self.checkpoint.exists():
            super().clear()

    def run(self, name: str) -> Path:
        """Make and return the folder for the metrics and TensorBoard events of a training."""
        path = self.path / "runs" / name
        path.mkdir(exist_ok=True)
        return path

    def next_name(self) -> str:
        """Return `swarm_N`, where N is one more than the highest number among the models."""
        zips = self.models.glob("*.zip")
        numbers = [int(match[1]) for file in zips if (match := NAME.fullmatch(file.stem))]
        return f"swarm_{max(numbers, default=0) + 1}"

    def find_checkpoint(self) -> Saved | None:
        """Return the checkpoint to resume from, or None if there is none.

        If the newest is damaged, warn and return the one before. The damaged file is moved away; otherwise the next save
        would keep it as the one before. Raises CheckpointError if all checkpoints are damaged, if a newer version wrote
        one, or if one is only a model.
        """
        damage = []
        for path in (self.checkpoint, self.previous):
            try:
                saved = unpack(path)
            except FileNotFoundError:
                continue
            except NewerFormatError:
                raise
            except CheckpointError as error:
                damage.append(str(error))
                continue
            if not saved.is_checkpoint:
                raise CheckpointError(f"{path} is a model and no checkpoint: move it, and give it as --base-model")
            if damage:
                os.replace(self.checkpoint, self.damaged)
                warnings.warn(f"{damage[0]}; kept as {self.damaged.name}, falling back to {path}", stacklevel=2)
            return saved
        if damage:
            raise CheckpointError(f"{'; '.join(damage)}. Delete {self.checkpoint.parent} to begin anew")
        return None

    def save_checkpoint(self, data: bytes) -> None:
        """Write a new checkpoint, and keep the one before as `previous`. A crash or a full disk leaves the old one."""
        fresh = write_atomic(self.checkpoint.with_name(".checkpoint.new"), data)
        link = self.previous.with_name(".previous.new")
        with contextlib.suppress(OSError):  # there is no checkpoint yet, or the file system has no hard links
            link.unlink(missing_ok=True)
            os.link(self.checkpoint, link)
            os.replace(link, self.previous)
        os.replace(fresh, self.checkpoint)
        sync_folder(self.checkpoint.parent)

    def save_model(self, data: bytes, name: str, track_id: str) -> Path:
        """Write `models/NAME.zip`, or use the next free number if another training has taken that name.

        If this training wrote it and crashed before `drop_checkpoints`, it writes the same file again. track_id: tells
        trainings apart.
        """
        path = self.models / f"{name}.zip"
        try:
            mine = unpack(path).about.get("track_id") == track_id
        except FileNotFoundError:
            mine = True
        except CheckpointError:
            mine = False
        return write_atomic(path if mine else self.models / f"{self.next_name()}.zip", data)

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints, because the training is over."""
        for path in (self.previous, self.checkpoint):
            path.unlink(missing_ok=True)


def open_workspace(path: str | os.PathLike[str]) -> Workspace:
    """Make the folders of a workspace, and lock it. Raises BlockingIOError while another process trains there."""
    path = Path(path)
    made = make_folders(*(path / name for name in ("checkpoints", "models", "runs", "videos")))
    workspace = Workspace(path, lock_folder(path / "checkpoints"), made)
    for pattern in LEFTOVERS:
        for leftover in path.glob(pattern):
            leftover.unlink()
    return workspace
