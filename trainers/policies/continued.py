"""Begin a training with what another run has learnt."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from trainers.policies.jax import ActorSpec
from trainers.run.checkpoint import CheckpointError, load_checkpoint

LEARNT = ("params", "moments", "critic_moments", "value_moments")  # of a runner
Runner = TypeVar("Runner", bound=Any)


def begin_from(source: str, runner: Runner, own: ActorSpec, channel: str) -> Runner:
    """Return a new runner with the networks, and the statistics of observations and returns, of a run folder.

    own: the actor that it has. channel: of the words in its worlds. Raises FileNotFoundError if the source is no folder of a
    run, CheckpointError if its networks are others, or its words had another channel.
    """
    told, folder = f"init_from={source!r}", Path(source) / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{told} is no folder of a run")
    learnt = {name: getattr(runner, name) for name in LEARNT if getattr(runner, name) is not None}
    try:
        _, about = load_checkpoint(folder, {}, partial=True)
        _check_same(about.get("policy"), own)
        its = (about.get("env") or {}).get("comm_channel", channel)
        if own.talks and its != channel:
            raise CheckpointError(f"its words have comm_channel={its!r} and not {channel!r}")
        tree, _ = load_checkpoint(folder, learnt, partial=True)
    except CheckpointError as error:
        raise CheckpointError(f"{told}: {error}") from error
    return runner.replace(**jax.tree.map(jnp.asarray, tree))


def _check_same(policy: Any, own: ActorSpec) -> None:
    """Raise CheckpointError if the actor that a source describes is another. How far it hears may be."""
    try:
        its = ActorSpec(**policy)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"its checkpoints do not describe a policy of this algorithm: {error}") from error
    if its.inbox is not None and own.inbox is not None:
        its = dataclasses.replace(its, inbox=dataclasses.replace(its.inbox, reach=own.inbox.reach))
    pairs = {field.name: (getattr(its, field.name), getattr(own, field.name)) for field in dataclasses.fields(own)}
    others = [f"{name}={there!r} and not {here!r}" for name, (there, here) in pairs.items() if there != here]
    if others:
        raise CheckpointError(f"its networks have {', '.join(others)}")
