"""What `test_speech_ppo` runs in a process with two CPU devices: gradients of one batch of talk on one and on both."""

import dataclasses
import json

import jax
from helpers import chatter
from helpers.errands import QUIET
from helpers.spread import distance
from jax.sharding import PartitionSpec as P

from trainers.run.devices import make_mesh


def compared(method, **options):
    """How far the gradients are apart, and the metrics. See `distance`."""
    ppo = chatter.make(method, speech={"help": 0.5, "token_entropy_coefficient": 0.1}, **options)
    runner = ppo.init(jax.random.key(0), QUIET)
    batch = jax.jit(lambda runner: ppo.gather(runner, QUIET, jax.random.key(1)))(runner)[-1]
    params = jax.tree.map(lambda x: x + 0.05, runner.params)
    both = dataclasses.replace(ppo, mesh=make_mesh(2))

    def find(params, batch):
        return both.gradients(params, batch)

    shared = jax.shard_map(find, mesh=both.mesh, in_specs=(P(), P(both.axis)), out_specs=P(), check_vma=False)
    return distance(*(jax.device_get(jax.jit(each)(params, batch)) for each in (ppo.gradients, shared)))


if __name__ == "__main__":
    found = {"soft": compared("soft"), "differentiable": compared("differentiable", network="gru", sequence_length=4)}
    print(json.dumps(found))
