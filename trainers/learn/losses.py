"""Losses over arrays. A mask (...,) leaves idle lanes out of every mean.

Arrays may be spread over devices. Then `axis` names the axis of the devices, and means are those over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def over_devices(total: jax.Array, axis: str | None) -> jax.Array:
    """Add up what each device has."""
    return total if axis is None else jax.lax.psum(total, axis)


def mean_over_devices(tree: Any, axis: str | None) -> Any:
    """Return the means of what each device has."""
    return tree if axis is None else jax.lax.pmean(tree, axis)


def masked_mean(x: jax.Array, mask: jax.Array, axis: str | None = None) -> jax.Array:
    """Return the mean of x where the mask is set, (), or 0 if it is set nowhere."""
    total = over_devices(jnp.sum(jnp.where(mask, x, 0.0)), axis)
    return total / jnp.maximum(over_devices(jnp.sum(mask, dtype=jnp.int32), axis), 1)


def masked_standardize(x: jax.Array, mask: jax.Array, axis: str | None = None) -> jax.Array:
    """Scale x to zero mean and unit variance where the mask is set. Returns 0 elsewhere."""
    mean = masked_mean(x, mask, axis)
    std = jnp.sqrt(masked_mean(jnp.square(x - mean), mask, axis))
    return jnp.where(mask, (x - mean) / (std + 1e-8), 0.0)


def clipped_policy_loss(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    mask: jax.Array,
    clip: float,
    axis: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute PPO's clipped loss (Schulman et al. 2017, eq. 7).

    Returns the loss, and the metrics `approx_kl` (Schulman 2020, k3) and `clip_fraction`.
    """
    log_ratio = log_prob - old_log_prob
    ratio = jnp.exp(log_ratio)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
    metrics = {
        "approx_kl": masked_mean(ratio - 1 - log_ratio, mask, axis),
        "clip_fraction": masked_mean((jnp.abs(ratio - 1) > clip).astype(jnp.float32), mask, axis),
    }
    return -masked_mean(surrogate, mask, axis), metrics


def value_loss(value: jax.Array, target: jax.Array, mask: jax.Array, axis: str | None = None) -> jax.Array:
    """Return half the mean squared error, ()."""
    return 0.5 * masked_mean(jnp.square(value - target), mask, axis)


def explained_variance(value: jax.Array, target: jax.Array, mask: jax.Array, axis: str | None = None) -> jax.Array:
    """Return the explained variance, (): 1 for a perfect critic, 0 for one that is no better than a constant."""
    residual = target - value
    spread = masked_mean(jnp.square(target - masked_mean(target, mask, axis)), mask, axis)
    unexplained = masked_mean(jnp.square(residual - masked_mean(residual, mask, axis)), mask, axis)
    return 1 - unexplained / jnp.maximum(spread, 1e-8)


def weighted_gradients(loss: Callable, params: Any, parts: Any, weights: jax.Array) -> tuple[Any, Any]:
    """Do as `jax.grad` of a loss with metrics, one part of a batch after the other, to save memory.

    parts: (P, ...) each. weights: (P,), what each part counts.
    """

    def add(total: Any, part_and_weight: tuple[Any, jax.Array]) -> tuple[Any, None]:
        part, weight = part_and_weight
        found = jax.grad(loss, has_aux=True)(params, part)
        return jax.tree.map(lambda so_far, new: so_far + weight * new, total, found), None

    first = jax.tree.map(lambda x: x[0], parts)
    zero = jax.tree.map(jnp.zeros_like, (params, jax.eval_shape(loss, params, first)[1]))
    return jax.lax.scan(add, zero, (parts, weights))[0]
