"""What training commands share: the command line, the run folder, and telling the user how it went."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax

from trainers.run.checkpoint import CheckpointError
from trainers.run.config import parse_config
from trainers.run.devices import END, about_devices, follow, tell
from trainers.run.folder import RunFolder, begin_run_folder, prepare_run_folder
from trainers.run.hooks import Hook
from trainers.run.loop import Learner, TrainingDivergedError, fit
from trainers.run.options import RunOptions
from trainers.run.terminal import say, warnings_as_lines

Options = TypeVar("Options", bound=RunOptions)


def open_folder(options: RunOptions, name: str) -> RunFolder:
    """Open the run folder of the options, or the next free one in `runs/` whose name begins with `name`."""
    return prepare_run_folder(options.run_dir, options.resume) if options.run_dir else begin_run_folder(name)


def train_in_folder(
    learner: Learner, inputs: Any, options: RunOptions, metadata: dict[str, Any], hooks: Sequence[Hook],
    *, name: str, command: str, evaluate: str = "",
) -> Path:  # fmt: skip
    """Do `fit`, and return the run folder.

    With several processes, the first one does, and the others follow it and return at its end.
    name: of a new folder, see `open_folder`. command: what goes on after Ctrl-C. evaluate: what evaluates the run, if there
    is such a command. Raises the errors of `fit` and of run folders. After Ctrl-C it saves the run and raises
    KeyboardInterrupt.
    """
    if jax.process_index():  # the first process alone has a folder
        follow(learner, inputs, options.seed)
        return options.run_dir or Path("runs")
    try:
        with open_folder(options, name) as folder:
            last = fit(learner, inputs, options, folder, metadata | about_devices(learner), hooks)
            path = folder.path
    finally:
        if jax.process_count() > 1:
            tell(END)
    if not last.metrics:  # nothing was left to train
        return path
    if last.interrupted:
        say(f"Stopped and saved. Continue with: {command} --resume --run-dir {shlex.quote(str(path))}")
        raise KeyboardInterrupt
    why = f" and stopped: {last.stopped}" if last.stopped else ""
    say(
        f"Trained {last.step:,} agent steps{why}. {f'Evaluate with: {evaluate} {shlex.quote(str(path))}' if evaluate else f'Run: {path}'}"
    )
    return path


def run_command(
    cls: type[Options],
    train: Callable[[Options], object],
    argv: list[str] | None,
    *,
    command: str,
    description: str | None,
) -> int:
    """Run the command line of a trainer. A resumed run begins with the options that it has kept. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parse = partial(parse_config, cls, prog=command, description=description)
    config = parse(argv)
    if config.resume and config.run_dir:
        if any(flag.startswith("--config") for flag in argv):
            say("error: a resumed run keeps its own options: leave out --config", sys.stderr)
            return 2
        kept = config.run_dir / "config.yaml"
        config = parse(["--config", str(kept), *argv]) if kept.exists() else config
    try:
        with warnings_as_lines():
            train(config)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, CheckpointError, TrainingDivergedError) as error:
        say(f"error: {error}", sys.stderr)
        return 1 if isinstance(error, TrainingDivergedError) else 2
    return 0
