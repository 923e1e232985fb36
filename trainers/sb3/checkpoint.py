"""Models and checkpoints of Stable-Baselines3 in one file, with everything that a training needs to go on.

The file is SB3's own zip, which `RecurrentPPO.load` opens. It has two more members, which SB3 ignores: a description in
JSON, and arrays as safetensors. They are inside the zip, so they always belong to its weights. Nothing is unpickled when
a zip is read here: weights are loaded with torch's `weights_only`, and SB3's pickled settings are not read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch as th
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.vec_env import VecNormalize

from entropy_env import SwarmSpec, __version__
from trainers.run.checkpoint import CheckpointError
from trainers.run.files import to_json

FORMAT = 1
ABOUT, ARRAYS = "entropy_env.json", "entropy_env.safetensors"
V2_ARENA = 8.0, 6.0  # m, by which Entropy V2 divided goal offsets
WINDOW = 100  # episodes that SB3 averages over
STATISTICS = ("mean", "var", "count")


@dataclasses.dataclass(frozen=True)
class Saved:
    """The contents of a zip."""

    path: Path
    weights: dict[str, Any]  # state dicts: `policy`, and `policy.optimizer` if there is one
    about: dict[str, Any]  # the description; empty in a zip that SB3 itself wrote, such as one of Entropy V2
    arrays: dict[str, np.ndarray]

    @property
    def is_checkpoint(self) -> bool:
        """Whether a training can go on from it. It cannot from a finished model, which lacks the training's progress."""
        return "last_episode_starts" in self.arrays and "policy.optimizer" in self.weights

    @property
    def obs_dim(self) -> int:
        return self.weights["policy"]["lstm_actor.weight_ih_l0"].shape[1]


def pack(model: RecurrentPPO, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the zip of a model. about: the description, anything JSON can hold."""
    buffer = io.BytesIO()
    with _stock_policy(model):
        model.save(buffer)
    info = {"format": FORMAT, "version": __version__, **about}
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(ABOUT, to_json(info, indent=2))
        archive.writestr(ARRAYS, safetensors.numpy.save({name: np.asarray(a, order="C") for name, a in arrays.items()}))
    return buffer.getvalue()


@contextlib.contextmanager
def _stock_policy(model: RecurrentPPO) -> Iterator[None]:
    """Let a model name sb3-contrib's policy class as its own, so that its zip can be opened with sb3-contrib alone."""
    own = model.policy_class
    model.policy_class = RecurrentActorCriticPolicy
    try:
        yield
    finally:
        model.policy_class = own


class NewerFormatError(CheckpointError):
    """The file is undamaged, but was written by a newer version of this package."""


def unpack(path: str | os.PathLike[str]) -> Saved:
    """Read a zip.

    Raises OSError if it cannot be read, NewerFormatError if a newer version wrote it, and CheckpointError if it is
    damaged or holds something else.
    """
    path = Path(path)
    data = path.read_bytes()  # outside of `try`, so that an error of the disk does not count as damage
    try:
        return _parse(path, data)
    except (CheckpointError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: its weights are damaged, or hold objects that are not weights"
        ) from error
    except Exception as error:  # damage can make the parsers raise anything
        raise CheckpointError(f"{path} cannot be read ({error})") from error


def _parse(path: Path, data: bytes) -> Saved:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        damaged = archive.testzip()  # compares everything with its check sums
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged ({damaged} does not match its check sum)")
        names = archive.namelist()
        about = json.loads(archive.read(ABOUT)) if ABOUT in names else {}
        if about.get("format", FORMAT) > FORMAT:
            raise NewerFormatError(
                f"{path} was written by entropy-env {about['version']} in format {about['format']}; this is "
                f"{__version__}, which reads up to format {FORMAT}: upgrade it"
            )
        if not all(isinstance(about.get(part, {}), dict) for part in ("config", "env", "curriculum")):
            raise CheckpointError(f"{path} has a description that makes no sense")
        arrays = safetensors.numpy.load(archive.read(ARRAYS)) if ARRAYS in names else {}
        weights = {
            name.removesuffix(".pth"): _load(archive.read(name))
            for name in ("policy.pth", "policy.optimizer.pth")
            if name in names
        }
    policy = weights.get("policy", {})
    needed = {"lstm_actor.weight_ih_l0", "lstm_actor.weight_hh_l0"}
    if not needed <= policy.keys() or not all(isinstance(tensor, th.Tensor) for tensor in policy.values()):
        raise CheckpointError(f"{path} holds no recurrent policy of Stable-Baselines3")
    return Saved(path, weights, about, arrays)


def _load(data: bytes) -> Any:
    with warnings.catch_warnings(action="ignore"):  # torch warns of pickles that it then refuses
        return th.load(io.BytesIO(data), "cpu", weights_only=True)


def load_state(policy: RecurrentActorCriticPolicy, saved: Saved) -> None:
    """Put saved weights into a policy. Raises CheckpointError naming the first one that has another shape."""
    mine = policy.state_dict()
    for name in sorted(mine.keys() | saved.weights["policy"].keys()):
        ours, theirs = (
            tuple(weights[name].shape) if name in weights else None for weights in (mine, saved.weights["policy"])
        )
        if ours != theirs:
            raise CheckpointError(f"{saved.path}: {name} has shape {theirs}, this model needs {ours}")
    policy.load_state_dict(saved.weights["policy"])


def fit_goals_of_v2(saved: Saved, goal_scale: float) -> Saved:
    """Adapt the weights of an Entropy V2 policy to the observations of this simulator.

    V2 divided goal offsets by V2_ARENA, this simulator by `goal_scale` (m). Scaling the weights of these two inputs makes
    up for it exactly. Raises CheckpointError if this package wrote the zip.
    """
    if saved.about:
        raise CheckpointError(f"{saved.path} was trained here, not by Entropy V2: leave out --base-from-v2")
    policy, goal = dict(saved.weights["policy"]), SwarmSpec().slice("goal")
    for name in ("lstm_actor.weight_ih_l0", "lstm_critic.weight_ih_l0"):
        if name in policy:
            policy[name] = policy[name].clone()
            policy[name][:, goal] *= th.tensor([goal_scale / length for length in V2_ARENA])
    return dataclasses.replace(saved, weights=saved.weights | {"policy": policy})


def progress_of(model: RecurrentPPO) -> dict[str, np.ndarray]:
    """Return all that SB3 carries from one rollout to the next, with its normaliser and its random number generators."""
    assert model._last_lstm_states is not None
    states = (*model._last_lstm_states.pi, *model._last_lstm_states.vf)
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - SB3 draws from it
    arrays = {
        "counts": np.array([model.num_timesteps, model._n_updates, model._episode_num]),
        "last_obs": np.asarray(model._last_obs),
        "last_episode_starts": np.asarray(model._last_episode_starts),
        "lstm_states": np.stack([state.cpu().numpy() for state in states]),
        "episodes": np.array([[e["r"], e["l"], e["t"]] for e in model.ep_info_buffer or ()], float).reshape(-1, 3),
        "successes": np.array(model.ep_success_buffer or (), float),
        "rng/torch": th.get_rng_state().numpy(),
        "rng/numpy": np.append(keys.astype(np.int64), [position, has_gauss]),
        "rng/numpy_cached": np.array(cached),
    }
    if th.cuda.is_available():
        arrays["rng/cuda"] = th.cuda.get_rng_state().numpy()
    normalizer = model.get_vec_normalize_env()
    return arrays | (normalizer_arrays(normalizer) if normalizer else {})


def resume_progress(model: RecurrentPPO, arrays: Mapping[str, np.ndarray]) -> None:
    """Restore what `progress_of` returned."""
    model.num_timesteps, model._n_updates, model._episode_num = (int(count) for count in arrays["counts"])
    model._last_obs = arrays["last_obs"].copy()
    model._last_episode_starts = arrays["last_episode_starts"].copy()
    states = [th.tensor(state, device=model.device) for state in arrays["lstm_states"]]
    model._last_lstm_states = RNNStates((states[0], states[1]), (states[2], states[3]))  # type: ignore[assignment]
    names = ("r", "l", "t")
    model.ep_info_buffer = deque((dict(zip(names, row, strict=True)) for row in arrays["episodes"].tolist()), WINDOW)
    model.ep_success_buffer = deque(arrays["successes"].tolist(), WINDOW)
    normalizer = model.get_vec_normalize_env()
    if normalizer:
        set_normalizer(normalizer, arrays)
    th.set_rng_state(th.tensor(arrays["rng/torch"]))
    if "rng/cuda" in arrays and th.cuda.is_available():
        th.cuda.set_rng_state(th.tensor(arrays["rng/cuda"]))
    *keys, position, has_gauss = arrays["rng/numpy"].tolist()
    cached = float(arrays["rng/numpy_cached"])
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002


def normalizer_arrays(normalizer: VecNormalize) -> dict[str, np.ndarray]:
    """Return the running statistics of observations and returns."""
    arrays = {
        f"normalizer/{of}_{name}": np.array(getattr(rms, name))
        for of, rms in _moments(normalizer).items()
        for name in STATISTICS
    }
    return arrays | {"normalizer/returns": normalizer.returns.copy()}


def set_normalizer(normalizer: VecNormalize, arrays: Mapping[str, np.ndarray]) -> None:
    """Restore what `normalizer_arrays` returned."""
    for of, rms in _moments(normalizer).items():
        for name in STATISTICS:
            value = arrays[f"normalizer/{of}_{name}"]
            setattr(rms, name, value.copy() if value.ndim else value.item())
    normalizer.returns = arrays["normalizer/returns"].copy()


def _moments(normalizer: VecNormalize) -> dict[str, Any]:
    """Return the running moments by name. Without `norm_obs`, VecNormalize has none of observations."""
    return {"return": normalizer.ret_rms} | ({"obs": normalizer.obs_rms} if normalizer.norm_obs else {})
