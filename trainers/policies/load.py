"""Load the policy of a run folder, and write the metadata that this needs."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from entropy_env.task import Task
from trainers.learn.normalize import init_moments
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.policies.own_spaces import OwnSpaces
from trainers.run.checkpoint import CheckpointError, load_checkpoint
from trainers.run.stopping import BEST

ALGORITHM = "jax_ppo"
Described = TypeVar("Described")


def describe_policy(actor: ActorSpec, task: Task | None, own: OwnSpaces | None = None) -> dict[str, Any]:
    """Return the metadata with which `load_run` can load a checkpoint. Its tree must have `params["actor"]` and `moments`.

    task: None for an environment that is no swarm. own: its spaces, where they are not what networks see and give.
    """
    about = {"algorithm": ALGORITHM, "policy": dataclasses.asdict(actor), "env": task and task.written()}
    return about if own is None else about | {"spaces": dataclasses.asdict(own)}


def load_run(run_dir: str | os.PathLike[str], best: bool = False) -> ActorPolicy:
    """See `trainers.policies.load_policy`."""
    if not Path(run_dir).is_dir():
        raise FileNotFoundError(f"no run folder {run_dir}")
    folder = Path(run_dir) / "checkpoints"
    if best:
        folder /= BEST
        if not folder.is_dir():
            raise FileNotFoundError(f"no best checkpoint in {run_dir}: --eval-interval keeps one in a training")
    _, metadata = load_checkpoint(folder, {}, partial=True)
    algorithm = metadata.get("algorithm")
    if algorithm != ALGORITHM:
        raise CheckpointError(f"{run_dir} holds a policy of {algorithm!r}; only those of {ALGORITHM!r} can be loaded")
    spec = _described(lambda values: ActorSpec(**values), metadata, "policy")
    task = _described(lambda values: values and Task.load(values), metadata, "env")
    own = _described(OwnSpaces.load, metadata, "spaces") if "spaces" in metadata else OwnSpaces()
    like = {
        "params": {"actor": jax.eval_shape(spec.init, jax.random.key(0))},
        "moments": init_moments(spec.obs_dim),
    }
    with warnings.catch_warnings(action="ignore"):  # the first load has already warned
        tree, metadata = load_checkpoint(folder, like, partial=True)
    return ActorPolicy(tree["params"]["actor"], tree["moments"], spec, task, metadata["step"], own)


def _described(read: Callable[[Any], Described], metadata: dict[str, Any], name: str) -> Described:
    try:
        return read(metadata[name])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's metadata do not describe its {name}: {error}") from error
