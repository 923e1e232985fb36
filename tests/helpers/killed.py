"""Kill a training in the middle of an update, as a kill of its process does: nothing more is saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from trainers.run import loop

TIMED = {"train/fps", "train/sps", "system/cpu_memory", "system/gpu_memory"}  # figures in which equal runs differ


class KilledError(BaseException):
    """The process ends."""


@contextlib.contextmanager
def killed_at(step: int) -> Iterator[None]:
    """A block in which `fit` must come to this step. There it is killed, after the hooks and before anything is written."""

    class Tracking(loop.Tracking):
        def log(self, at: int, metrics: Any) -> None:
            if at == step:
                raise KilledError
            super().log(at, metrics)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(loop, "Tracking", Tracking)
        yield
