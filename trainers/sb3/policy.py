"""Convert the actor of a recurrent policy of Stable-Baselines3 to JAX, from a network or a zip."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

from entropy_env.spaces import action_space, observation_space
from entropy_env.task import Task
from trainers.policies.lstm import Cell, Dense, LSTMPolicy
from trainers.run.checkpoint import CheckpointError
from trainers.run.stopping import BEST
from trainers.sb3.checkpoint import Saved, load_state, unpack
from trainers.sb3.lstm import LstmPolicy

EPSILON, CLIP = 1e-8, 10.0  # VecNormalize adds the first to variances, and clips normalised values to the second


def as_policy(
    network: RecurrentActorCriticPolicy, task: Task, step: int, moments: Mapping[str, np.ndarray] | None = None
) -> LSTMPolicy:
    """Copy the actor of a network to a policy in JAX.

    moments: arrays with `normalizer/obs_mean` and `normalizer/obs_var` (obs_dim,) if observations were normalised in
    training, else None.
    """
    weights = {name: np.array(tensor.cpu().numpy(), np.float32) for name, tensor in network.state_dict().items()}

    def dense(name: str) -> Dense:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]  # type: ignore[return-value]

    def gates(kind: str, layer: int) -> Dense:
        return weights[f"lstm_actor.weight_{kind}_l{layer}"], weights[f"lstm_actor.bias_{kind}_l{layer}"]  # type: ignore[return-value]

    layers = sum(name.startswith("lstm_actor.weight_hh_l") for name in weights)
    hidden = sorted(
        {int(match[1]) for name in weights if (match := re.match(r"mlp_extractor\.policy_net\.(\d+)\.", name))}
    )
    obs_dim = weights["lstm_actor.weight_ih_l0"].shape[1]
    shift, scale, limit = np.zeros(obs_dim, np.float32), np.ones(obs_dim, np.float32), np.inf
    if moments is not None:
        shift = moments["normalizer/obs_mean"].astype(np.float32)
        scale = (1 / np.sqrt(moments["normalizer/obs_var"] + EPSILON)).astype(np.float32)
        limit = CLIP
    return LSTMPolicy(
        cells=tuple(Cell(gates("ih", layer), gates("hh", layer)) for layer in range(layers)),
        hidden=tuple(dense(f"mlp_extractor.policy_net.{index}") for index in hidden),
        head=dense("action_net"),
        log_std=weights["log_std"],  # type: ignore[arg-type]
        shift=shift,  # type: ignore[arg-type]
        scale=scale,  # type: ignore[arg-type]
        limit=limit,
        task=task,
        step=step,
    )


def load_zip(path: str | os.PathLike[str], best: bool = False) -> LSTMPolicy:
    """See `trainers.policies.load_policy`."""
    if best:
        path = Path(path).with_name(f"{Path(path).stem}-{BEST}.zip")
    saved = unpack(path)
    if "env" not in saved.about:
        raise CheckpointError(
            f"{path} was saved by Stable-Baselines3 itself and does not say in which worlds it was trained: it can only "
            f"be the --base-model of trainers.sb3_lstm"
        )
    try:
        task, step = Task.load(saved.about["env"]), int(saved.about["step"])
        env, _ = task.resolve()
        moments = saved.arrays if saved.about["config"]["normalize_obs"] else None
        if moments is not None and moments["normalizer/obs_mean"].shape != (env.spec.obs_dim,):
            raise ValueError("its normaliser is for observations of another size")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe what it was trained in ({error!r})") from error
    network = LstmPolicy(observation_space(env.spec), action_space(env.spec), lambda _: 0.0, **shape_of(saved))
    load_state(network, saved)
    return as_policy(network, task, step, moments)


def shape_of(saved: Saved) -> dict[str, Any]:
    """Return the `policy_kwargs` that make a network with the shapes of these weights."""
    weights: Mapping[str, th.Tensor] = saved.weights["policy"]
    return {
        "lstm_hidden_size": weights["lstm_actor.weight_hh_l0"].shape[1],
        "n_lstm_layers": sum(name.startswith("lstm_actor.weight_hh_l") for name in weights),
        "enable_critic_lstm": any(name.startswith("lstm_critic.") for name in weights),
    }
