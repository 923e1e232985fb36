"""The folders of a pipeline like Entropy V2's: one checkpoint at a time, and a growing shelf of models."""

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

NAME = re.compile(r"swarm_(\d+)")  # of a training
# of a killed process
LEFTOVERS = ("checkpoints/.*.tmp", "checkpoints/.*.new", "models/.*.zip.*.tmp", "videos/.video-*.gif")


class Workspace(LockedFolder):
    """Paths in a folder of trainings, one at a time."""

    @property
    def checkpoint(self) -> Path:
        """The newest state of the training under way."""
        return self.checkpoints / "checkpoint.zip"

    @property
    def previous(self) -> Path:
        """The checkpoint before that, should the newest be damaged."""
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
        """The folder of the metrics and TensorBoard events of a training, made if need be."""
        path = self.path / "runs" / name
        path.mkdir(exist_ok=True)
        return path

    def next_name(self) -> str:
        """`swarm_N` with the number after the highest among the models."""
        zips = self.models.glob("*.zip")
        numbers = [int(match[1]) for file in zips if (match := NAME.fullmatch(file.stem))]
        return f"swarm_{max(numbers, default=0) + 1}"

    def find_checkpoint(self) -> Saved | None:
        """What to resume from: the checkpoint or, with a warning where it is damaged, the one before; None without any.

        A damaged one is moved out of the way, so that the next to be saved does not replace the whole one by it. Raises
        CheckpointError where none that is there can be read, and where the newest is of a newer version or a mere model.
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
        """Replace the checkpoint, and keep the one it replaces. A crash or a full disk leaves the old one."""
        fresh = write_atomic(self.checkpoint.with_name(".checkpoint.new"), data)
        link = self.previous.with_name(".previous.new")
        with contextlib.suppress(OSError):  # no checkpoint yet, or a file system without links
            link.unlink(missing_ok=True)
            os.link(self.checkpoint, link)
            os.replace(link, self.previous)
        os.replace(fresh, self.checkpoint)
        sync_folder(self.checkpoint.parent)

    def save_model(self, data: bytes, name: str, track_id: str) -> Path:
        """Write `models/NAME.zip`, or under the next free number where another training has taken that.

        One that crashed between this and `drop_checkpoints` has taken it itself, and writes the same again.
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
        """The training is over."""
        for path in (self.previous, self.checkpoint):
            path.unlink(missing_ok=True)


def open_workspace(path: str | os.PathLike[str]) -> Workspace:
    """Make the folders and lock them. Raises BlockingIOError while another process trains there."""
    path = Path(path)
    made = make_folders(*(path / name for name in ("checkpoints", "models", "runs", "videos")))
    workspace = Workspace(path, lock_folder(path / "checkpoints"), made)
    for pattern in LEFTOVERS:
        for leftover in path.glob(pattern):
            leftover.unlink()
    return workspace
