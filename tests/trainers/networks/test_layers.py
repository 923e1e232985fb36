"""Options of layers and of an actor's deviation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainers.networks.actor_critic import LARGEST, SMALLEST, Actor
from trainers.networks.layers import Body, Layers

OBS = jax.random.normal(jax.random.key(0), (6, 3))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_with_layer_norm_the_scale_of_what_comes_in_does_not_matter(layer_norm: bool) -> None:
    layers = Layers(Body((16,), head_sizes=(8,), layer_norm=layer_norm), 2, 1.0)
    params = layers.init(jax.random.key(1), OBS)
    one, other = (layers.apply(params, scale * OBS)[0] for scale in (100.0, 1000.0))
    assert np.allclose(one, other, atol=1e-4) == layer_norm


def test_a_deviation_of_the_state_depends_on_it_within_bounds() -> None:
    actor = Actor(Body((16,)), 2, -0.7, "state")
    params = actor.init(jax.random.key(1), OBS)
    (_, log_std), *_ = actor.apply(params, OBS)
    assert log_std.shape == (6, 2)
    np.testing.assert_allclose(log_std, -0.7, atol=0.1)
    assert np.all(np.ptp(log_std, axis=0) > 0)
    wide = jax.tree.map(lambda x: 1e4 * x, params)
    (_, log_std), *_ = actor.apply(wide, jnp.concatenate([OBS, -OBS]))
    assert {float(x) for x in np.ravel(log_std)} <= {SMALLEST, LARGEST}
