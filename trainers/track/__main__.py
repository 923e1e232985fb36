"""Replay a finished run into trackers: its figures, from metrics.jsonl, its options and its files.

    python -m trainers.track runs/rooms --to mlflow wandb

A tracker that already has the run gets what it lacks.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from trainers.run.folder import LOCK_FILE, lock_folder
from trainers.run.terminal import say, warnings_as_lines
from trainers.track.replay import replay
from trainers.track.tracking import PROJECT, TRACKERS, check_installed, check_trackers

Trackers = Annotated[tuple[str, ...], tyro.conf.arg(help=f"Trackers to give it to: {', '.join(TRACKERS)}.")]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to replay."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of a finished run, the one with metrics.jsonl."""
    to: Trackers
    project: str = PROJECT
    """Project in Weights & Biases and trackio, experiment in MLflow."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status.

    It is 2, with a message on stderr, if the run could not be replayed into all trackers. The others have got it.
    """
    options = tyro.cli(Options, args=argv, prog="python -m trainers.track", description=__doc__)
    lock = None
    with warnings_as_lines():
        try:
            check_trackers(options.to)
            check_installed(options.to)
            if (options.run_dir / LOCK_FILE).exists():
                lock = lock_folder(options.run_dir)
            failed = [name for name in options.to if not _give(options, name)]
        except Exception as error:  # noqa: BLE001 - whatever the tracker's library raises
            say(f"error: {error}", sys.stderr)
            return 2
        finally:
            if lock is not None:
                os.close(lock)
    return 2 if failed else 0


def _give(options: Options, name: str) -> bool:
    """Replay into one tracker, and return whether that worked."""
    try:
        say(f"{name}: {replay(options.run_dir, name, options.project):,} updates")
    except Exception as error:  # noqa: BLE001 - whatever the tracker's library raises
        say(f"error: {name}: {error}", sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
