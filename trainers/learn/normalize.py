"""Running mean and variance of observations and of returns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from trainers.learn.losses import over_devices

CLIP = 10.0  # standard deviations


class RunningMoments(struct.PyTreeNode):
    """Mean and variance of everything seen so far."""

    count: jax.Array  # ()
    mean: jax.Array  # (D,)
    variance: jax.Array  # (D,)


def init_moments(size: int) -> RunningMoments:
    """Return moments of zero mean and unit variance, with almost no weight."""
    return RunningMoments(jnp.float32(1e-4), jnp.zeros(size, jnp.float32), jnp.ones(size, jnp.float32))


def update_moments(
    moments: RunningMoments, batch: jax.Array, mask: jax.Array, axis: str | None = None
) -> RunningMoments:
    """Merge the rows of a batch (..., D) where the mask (...,) is set into the moments (Chan et al. 1979).

    axis: that of the devices over which the batch is spread, if it is.
    """
    axes = tuple(range(mask.ndim))
    weight = mask[..., None].astype(batch.dtype)
    count = over_devices(jnp.sum(weight), axis)
    mean = over_devices(jnp.sum(batch * weight, axis=axes), axis) / jnp.maximum(count, 1)
    variance = over_devices(jnp.sum(jnp.square(batch - mean) * weight, axis=axes), axis) / jnp.maximum(count, 1)
    total = moments.count + count
    delta = mean - moments.mean
    share = count / total
    return RunningMoments(
        count=total,
        mean=moments.mean + delta * share,
        variance=moments.variance * (1 - share) + variance * share + jnp.square(delta) * share * (1 - share),
    )


def leave_alone(moments: RunningMoments, columns: slice) -> RunningMoments:
    """Return moments with which `normalize` changes nothing in some columns, unless it clips there."""
    mean, variance = moments.mean.at[columns].set(0.0), moments.variance.at[columns].set(1.0)
    return moments.replace(mean=mean, variance=variance)


def normalize(moments: RunningMoments, obs: jax.Array) -> jax.Array:
    """Scale observations (..., D) to standard deviations from the mean, and clip them."""
    return jnp.clip((obs - moments.mean) * jax.lax.rsqrt(moments.variance + 1e-8), -CLIP, CLIP)


def standardize(moments: RunningMoments | None, x: jax.Array) -> jax.Array:
    """Scale numbers (...,) to standard deviations from the mean. moments: of size 1, or None to change nothing."""
    return x if moments is None else (x - moments.mean[0]) * jax.lax.rsqrt(moments.variance[0] + 1e-8)


def unstandardize(moments: RunningMoments | None, x: jax.Array) -> jax.Array:
    """Undo `standardize`."""
    return x if moments is None else x * jnp.sqrt(moments.variance[0] + 1e-8) + moments.mean[0]
