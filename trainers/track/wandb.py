"""Track a run with Weights & Biases."""

from __future__ import annotations

import netrc
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from trainers.run.terminal import say
from trainers.track.tracker import Figure, Histogram, Run, safe_name

PATIENCE = 20  # s, longest wait for the server at the start


class WandB:
    """A run of W&B: online if there is a key, else offline, in a folder that `wandb sync` can upload later.

    The key is the one that `wandb login` has stored, or WANDB_API_KEY. WANDB_MODE overrides the choice. Films are media,
    other files artifacts: the checkpoint of type `model`, the rest of type `report`.
    """

    SKIPS = True

    def __init__(self, run: Run) -> None:
        """Begin the run or go on. Raises RuntimeError if that works neither online nor offline."""
        settings = wandb.Settings(init_timeout=PATIENCE, console="off", silent=True)
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        given: dict[str, Any] = {"project": run.project, "name": run.name, "config": run.config, "dir": str(run.folder)}
        for choice in dict.fromkeys((mode, "offline")):
            try:
                unique = safe_name(
                    run.id if choice == mode else f"{run.id}-{choice}"
                )  # W&B still holds the id that failed
                self._run = wandb.init(id=unique, mode=choice, settings=settings, resume="allow", **given)
                break
            except Exception as error:  # noqa: BLE001 - for example no connection, a refused key, a full disk
                warnings.warn(f"W&B does not work {choice} ({error})", stacklevel=2)
        else:
            raise RuntimeError("W&B works neither online nor offline")
        self._id = unique
        # Online, the server ignores steps that it has. Offline, this file tells which one is the last.
        self._last = run.folder / "wandb" / f"{unique}.last_step" if choice == "offline" else None
        self._done = int(self._last.read_text() or -1) if self._last and self._last.exists() else -1
        self._done = max(self._done, self._run.starting_step - 1)  # what the server has of a run that goes on
        say(f"W&B: {choice}, in {run.folder / 'wandb'}")

    def log(self, step: int, figures: Mapping[str, Figure]) -> None:
        if step > self._done:
            self._run.log({name: _value(figure) for name, figure in figures.items()}, step=step)
            self._done = step
            if self._last:
                self._last.write_text(str(step))

    def file(self, name: str, path: Path) -> None:
        if name.startswith("video/"):
            kind: Any = path.suffix[1:]
            self._run.log({name: wandb.Video(str(path), format=kind)})
            return
        kind = "model" if name == "checkpoint" else "report"
        artifact = wandb.Artifact(f"{self._id}-{safe_name(name)}", kind)
        artifact.add_file(str(path), path.name)
        self._run.log_artifact(artifact)

    def close(self, converged: bool = False) -> None:
        self._run.finish()


def _value(figure: Figure) -> Any:
    if isinstance(figure, Histogram):
        return wandb.Histogram(np_histogram=(np.array(figure.counts), np.array(figure.edges)))
    return figure


def has_key() -> bool:
    """Whether there is a key to log in with."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
