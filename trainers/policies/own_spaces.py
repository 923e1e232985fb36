"""What an environment itself observes and takes as actions, where that is not what networks see and give."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces


@dataclasses.dataclass(frozen=True)
class OwnSpaces:
    """The observations and actions of one agent, as plain data that JSON can hold."""

    low: tuple[float, ...] = ()  # bounds of actions that are numbers
    high: tuple[float, ...] = ()
    observation: Any = None  # see `described`, or None for flat ones

    @classmethod
    def of(cls, observation: Any, action: Any) -> Self:
        """Describe the spaces of an environment. observation: of Gymnasium, or the shape of an array."""
        if isinstance(observation, spaces.Space):
            observation = described(observation)
        elif observation is not None:
            observation = {"Box": list(observation)}
        if not hasattr(action, "low"):
            return cls(observation=observation)
        low, high = (np.broadcast_to(np.asarray(bound, float), action.shape) for bound in (action.low, action.high))
        return cls(tuple(low.tolist()), tuple(high.tolist()), observation)

    @classmethod
    def load(cls, values: dict[str, Any]) -> Self:
        """Do the reverse of `dataclasses.asdict`, also after JSON. Raises TypeError for what is none."""
        return cls(tuple(values["low"]), tuple(values["high"]), values["observation"])

    def flatten(self, obs: Any, size: int) -> Any:
        """Return an observation of the environment as networks see it, (..., size). Flat ones stay as they are.

        Arrays of a Box may have leading axes. Raises ValueError for what is neither.
        """
        if self.observation is not None:
            space = _space(self.observation)
            if isinstance(space, spaces.Box):
                shape, given = space.shape, np.shape(obs)
                if given[len(given) - len(shape) :] == shape:
                    array = obs if isinstance(obs, jax.Array) else np.asarray(obs)
                    return array.reshape(*given[: len(given) - len(shape)], math.prod(shape))
            elif space.contains(obs):
                return np.asarray(spaces.flatten(space, obs), np.float32)
        if isinstance(obs, dict | tuple) or np.shape(obs)[-1:] != (size,):
            given = f"is a {type(obs).__name__}" if isinstance(obs, dict | tuple) else f"has shape {np.shape(obs)}"
            raise ValueError(
                f"obs {given}, this policy expects (..., {size}): one of an environment of Gymnasium is made flat with "
                "gymnasium.spaces.flatten(env.observation_space, obs)"
            )
        return obs

    def stretch(self, action: Any) -> Any:
        """Map actions (..., A) in [-1, 1] to the bounds. Choices, and numbers without bounds, stay as they are."""
        if not self.low:
            return action
        numpy: Any = jnp if isinstance(action, jax.Array) else np
        low, high = (np.asarray(bound, np.float32) for bound in (self.low, self.high))
        return numpy.clip(low + (action + 1) / 2 * (high - low), low, high)


def described(space: spaces.Space) -> Any:
    """Return what `gymnasium.spaces.flatten` needs to know of a space as plain data, or None for one it makes no vector of."""
    match space:
        case spaces.Box():
            return {"Box": list(space.shape)}
        case spaces.Discrete():
            return {"Discrete": [int(space.n), int(space.start)]}
        case spaces.MultiDiscrete():
            return {"MultiDiscrete": [space.nvec.tolist(), space.start.tolist()]}
        case spaces.MultiBinary():
            return {"MultiBinary": list(space.shape)}
        case spaces.Dict():
            inner = {name: described(part) for name, part in space.items()}
            return None if None in inner.values() or not all(type(name) is str for name in inner) else {"Dict": inner}
        case spaces.Tuple():
            parts = [described(part) for part in space]
            return None if None in parts else {"Tuple": parts}
    return None


def _space(description: dict[str, Any]) -> spaces.Space:
    """Do the reverse of `described`. Boxes have no bounds and hold floats."""
    ((kind, value),) = description.items()
    match kind:
        case "Box":
            return AnyBox(-np.inf, np.inf, tuple(value))
        case "Discrete":
            return spaces.Discrete(value[0], start=value[1])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(np.array(value[0]), start=np.array(value[1]))
        case "MultiBinary":
            return spaces.MultiBinary(value)
        case "Dict":
            return spaces.Dict([(name, _space(part)) for name, part in value.items()])
        case "Tuple":
            return spaces.Tuple([_space(part) for part in value])
    raise ValueError(f"there is no space {kind!r}")


class AnyBox(spaces.Box):
    """A Box of numbers of any type."""

    def contains(self, x: Any) -> bool:
        return np.shape(x) == self.shape
