"""What `test_devices` runs in a process with four CPU devices: gradients of one batch on 1, 2 and 4 of them."""

import json

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from trainers.algorithms.ppo import PPO, Batch
from trainers.algorithms.ppo_options import Hyperparameters
from trainers.learn.distributions import Categorical, Gaussian, action_shape
from trainers.run.devices import make_mesh

WORLDS, STEPS, LANES, OBS = 8, 5, 3, 6


def batch_of(actions, key):
    """A batch with idle lanes, of which the devices have different numbers."""
    keys = jax.random.split(key, 6)
    lanes = WORLDS, STEPS, LANES
    one = action_shape(actions)
    action = jax.random.normal(keys[0], lanes + one.shape) if one.shape else jax.random.randint(keys[0], lanes, 0, 3)
    scales = zip(keys[1:5], (0.1, 1, 2, 3), (2, 0, 1, 0), strict=True)
    numbers = [scale * jax.random.normal(key, lanes) - shift for key, scale, shift in scales]
    idle = jax.random.uniform(keys[5], lanes) < jnp.linspace(0, 0.9, WORLDS)[:, None, None]
    return Batch(jax.random.normal(keys[0], (*lanes, OBS)), action, *numbers, ~idle)


def gradients(actions, devices, accumulate=1, **options):
    """The gradients of that batch's loss, with its worlds spread over devices."""
    config = Hyperparameters(
        WORLDS, STEPS, num_minibatches=1, hidden_sizes=(16,), accumulate=accumulate, entropy_coefficient=0.1, **options
    )
    ppo = PPO(config, None, OBS, actions, LANES, 1, make_mesh(devices))
    k_actor, k_critic, k_batch = jax.random.split(jax.random.key(0), 3)
    params = ppo.networks.init(k_actor, k_critic, jnp.zeros((LANES, OBS)), None)
    params = jax.tree.map(lambda x: x + 0.1, params)
    batch = batch_of(actions, k_batch)
    batch = batch.replace(goes_on=batch.mask, memory=ppo.networks.begin((WORLDS, 1, LANES)))

    def find(params, batch):
        return ppo.gradients(params, batch)

    if ppo.mesh is not None:
        find = jax.shard_map(find, mesh=ppo.mesh, in_specs=(P(), P(ppo.axis)), out_specs=P(), check_vma=False)
    return jax.tree.map(jax.device_get, jax.jit(find)(params, batch))


def distance(one, other):
    """How far gradients are from each other, as a share of their norm, and the largest gap between metrics."""
    (one, told), (other, also) = one, other
    gap = sum(
        float(jnp.sum(jnp.square(a - b))) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
    norm = sum(float(jnp.sum(jnp.square(a))) for a in jax.tree.leaves(one))
    return (gap / norm) ** 0.5, max(abs(float(told[name]) - float(also[name])) for name in told)


if __name__ == "__main__":
    found = {}
    remembering = {"network": "gru", "cell_size": 8, "sharing": "independent"}
    for actions, options in ((Gaussian(2), {}), (Categorical(3), {}), (Gaussian(2), remembering)):
        whole = gradients(actions, 1, **options)
        for devices, accumulate in ((2, 1), (4, 1), (2, 2)):
            name = f"{actions} {devices} {accumulate} {options}"
            found[name] = distance(whole, gradients(actions, devices, accumulate, **options))
    print(json.dumps(found))
