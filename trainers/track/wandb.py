"""Track a run with Weights & Biases. Any failure of it is only a warning: training goes on."""

from __future__ import annotations

import netrc
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

PATIENCE = 20  # s, longest wait for the server at the start


class Tracker:
    """A run of W&B: online if there is a key, else offline, in a folder that `wandb sync` can upload later.

    The key is the one that `wandb login` has stored, or WANDB_API_KEY. WANDB_MODE overrides the choice.
    """

    def __init__(self, folder: Path, project: str, name: str, config: Mapping[str, Any]) -> None:
        """Begin the run. Raises ModuleNotFoundError naming the extra to install if wandb is missing."""
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"tracking needs wandb ({error}): pip install 'entropy-env[tracking]'") from error
        self._wandb, self._run = wandb, None
        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(init_timeout=PATIENCE, console="off", silent=True)
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        given: dict[str, Any] = {
            "project": project,
            "name": name,
            "config": dict(config),
            "dir": str(folder),
        }
        for choice in dict.fromkeys((mode, "offline")):
            try:
                unique = name if choice == mode else f"{name}-{choice}"  # W&B still holds the id that failed
                self._run = wandb.init(id=unique, mode=choice, settings=settings, resume="allow", **given)
                break
            except Exception as error:  # noqa: BLE001 - for example no connection, a refused key, a full disk
                warnings.warn(f"W&B does not work {choice} ({error})", stacklevel=2)
        self.where = "not at all" if self._run is None else f"{choice}, in {folder / 'wandb'}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the figures of a step."""
        self._try(lambda run: run.log(dict(metrics), step=step))

    def log_video(self, name: str, path: Path) -> None:
        """Record a GIF."""
        self._try(lambda run: run.log({name: self._wandb.Video(str(path), format="gif")}))

    def close(self) -> None:
        self._try(lambda run: run.finish())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self, act: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            act(self._run)
        except Exception as error:  # noqa: BLE001 - training goes on
            self._run = None
            warnings.warn(f"W&B failed ({error}); nothing more is tracked", stacklevel=3)


def has_key() -> bool:
    """Whether there is a key to log in with."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
