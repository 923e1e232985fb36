"""PPO of robots that talk: what the learner finds again of the rollout, which words pass gradients, and who is helped."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits, chatter
from helpers.chatter import SEEN
from helpers.commands import ROOT
from helpers.errands import QUIET

from entropy_env.types import PAYLOAD
from trainers.algorithms.ppo import PPO, Batch, Runner
from trainers.learn.normalize import init_moments, leave_alone, normalize

NEAR = 1e-6 if jax.default_backend() == "cpu" else 1e-4  # of probability ratios that should be 1
# Of those of payloads. Their first deviation is exp(-3), so an error in a mean of 1e-7, which is the rounding of float32,
# counts 20 times as much per deviation from the mean, in each of 4 numbers.
NEAR_PAYLOAD = 20 * NEAR
VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "mlp mean": {"kind": "mean", "shared_trunk": True},
    "mlp none": {"kind": None},
    "mlp central": {"critic": "central", "head_sizes": (8,), "deviation": "state"},
    "mlp privileged": {"critic": "privileged", "action_distribution": "tanh"},
    "mlp independent": {"sharing": "independent", "shared_trunk": True},
    "gru": {"network": "gru", "sequence_length": 4, "normalize_value": True},
    "gru shared": {"network": "gru", "shared_trunk": True, "sequence_length": 6, "burn_in": 4, "layer_norm": True},
    "gru central": {"network": "gru", "critic": "central", "sequence_length": 3, "deviation": "state"},
    "gru independent": {"network": "gru", "sharing": "independent", "sequence_length": 6},
    "lstm": {"network": "lstm", "head_sizes": (8,), "sequence_length": 4, "burn_in": 4},
    "lstm privileged": {"network": "lstm", "critic": "privileged", "action_distribution": "tanh"},
    "lstm independent central": {"network": "lstm", "sharing": "independent", "critic": "central"},
}
# `soft` has messages that are the policy's own and others, so it covers `reinforced` and `hard`.
PAIRS = [
    (name, method)
    for name in VARIANTS
    for method in ("soft", "differentiable")
    if (name, method) != ("mlp none", "differentiable")
]
QUICK = [("mlp", "soft"), ("gru shared", "differentiable")]
EVERY = [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS]


@pytest.fixture(autouse=True)
def precise():
    """GPUs would round products to a few digits."""
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def rolled_out(name: str, method: str, **changes: Any) -> tuple[PPO, Runner, Batch]:
    """A rollout that begins in the middle of episodes, with help for half of the messages where there is any."""
    ppo = chatter.make(method, **(VARIANTS[name] | changes))  # type: ignore[arg-type]
    assert ppo.speech is not None
    if ppo.speech.grounded:
        ppo = dataclasses.replace(ppo, speech=dataclasses.replace(ppo.speech, help=0.5))
    runner = ppo.init(jax.random.key(0), QUIET)
    gather = jax.jit(lambda runner, key: ppo.gather(runner, QUIET, key))
    scene, *_ = gather(runner, jax.random.key(1))
    moments = runner.moments.replace(mean=runner.moments.mean + 0.3, variance=2.0 * runner.moments.variance)
    moments = moments if ppo.inbox is None else leave_alone(moments, ppo.inbox.columns)
    runner = runner.replace(**scene._asdict(), moments=moments)
    batch = gather(runner, jax.random.key(2))[-1]
    return ppo, runner, batch


def recompute(ppo: PPO, params: Any, batch: Batch) -> tuple[Batch, Any]:
    """Half of the worlds as the learner sees them, and what describes their actions now."""
    worlds = jax.random.permutation(jax.random.key(2), ppo.config.num_envs)[: ppo.config.num_envs // 2]

    def judge(params: Any, batch: Batch) -> tuple:
        some = ppo.arrange(params, jax.tree.map(lambda x: x[worlds], batch))
        described, *_ = ppo.networks(params, some.obs, some.critic_input, some.memory, some.goes_on)
        return some, described

    return jax.jit(judge)(params, batch)


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_the_learner_finds_the_probabilities_of_the_rollout(name: str, method: str) -> None:
    ppo, runner, batch = rolled_out(name, method)
    some, described = recompute(ppo, runner.params, batch)
    mask = np.asarray(some.mask)
    ratio = np.exp(np.asarray(ppo.actions.log_prob(some.action, described) - some.log_prob))[mask]
    own = np.asarray(some.action)[..., -1][mask] > 0
    worded = own & (method != "differentiable")
    assert ratio.size > 60
    assert own.all() == (method in ("reinforced", "differentiable"))
    np.testing.assert_allclose(ratio[~worded], 1, atol=NEAR)
    np.testing.assert_allclose(ratio[worded], 1, atol=NEAR_PAYLOAD)


@pytest.mark.parametrize(("name", "method"), [*EVERY, pytest.param("mlp", "reinforced", marks=pytest.mark.slow)])
def test_an_update_with_words_leaves_everything_finite(name: str, method: str) -> None:
    ppo = chatter.make(method, **VARIANTS[name])
    runner, metrics = ppo.update(ppo.init(jax.random.key(0), QUIET), QUIET)
    kept = runner.replace(key=0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((kept, metrics)))
    counts = np.asarray(metrics["comm/token_distribution"])
    acted = float(metrics["train/active_share"]) * ppo.steps_per_update
    assert counts.sum() == pytest.approx(acted, abs=0.5)
    assert float(metrics["comm/silence_rate"]) == pytest.approx(counts[0] / counts.sum(), abs=1e-5)
    assert ("comm/attention_entropy" in metrics) == (ppo.inbox is not None)
    assert ("loss/communication" in metrics) == ("comm/grounding_accuracy" in metrics) == (method in ("hard", "soft"))
    if ppo.inbox is None:
        assert float(jnp.max(jnp.abs(runner.moments.mean[SEEN:]))) > 0
    else:
        assert np.all(runner.moments.mean[ppo.inbox.columns] == 0)
        assert np.all(runner.moments.variance[ppo.inbox.columns] == 1)
    assert np.all(runner.moments.mean[:SEEN] != 0)


def test_statistics_left_alone_change_no_word() -> None:
    moments = leave_alone(init_moments(40), slice(3, 30))
    words = jax.random.uniform(jax.random.key(0), (100, 40), minval=-1, maxval=1).at[0].set(1.0)
    np.testing.assert_array_equal(jax.jit(normalize)(moments, words)[:, 3:30], words[:, 3:30])


@pytest.mark.slow
def test_bf16_is_for_networks_alone() -> None:
    ppo = chatter.make("differentiable", precision="bf16", network="gru")
    runner, metrics = ppo.update(ppo.init(jax.random.key(0), QUIET), QUIET)
    kept = jax.tree.leaves((runner.params, runner.opt_state, runner.moments, metrics))
    assert {leaf.dtype.name for leaf in kept} == {"float32", "int32"}
    assert all(np.all(np.isfinite(leaf)) for leaf in kept)
    assert "bf16[64" in str(jax.make_jaxpr(ppo.networks.act)(runner.params, runner.obs, runner.memory[0]))


def test_who_is_told_to_have_been_heard_is_who_spoke() -> None:
    ppo, _, batch = rolled_out("mlp", "differentiable", noise=0.0)
    _, payload, token, _ = (np.asarray(x) for x in ppo.actions.split(batch.action))  # type: ignore[attr-defined]
    slots, who = np.asarray(ppo.inbox.split(batch.obs)[1]), np.asarray(batch.told)  # type: ignore[union-attr]
    np.testing.assert_array_equal(slots[..., 4] > 0, who >= 0)
    taken = np.argwhere(who[:, 1:] >= 0)
    assert len(taken) > 200
    for e, t, n, k in taken:
        speaker = who[e, t + 1, n, k]
        assert slots[e, t + 1, n, k, 4] * 31 == pytest.approx(token[e, t, speaker], abs=1e-4)
        np.testing.assert_allclose(slots[e, t + 1, n, k, 5:], np.clip(payload[e, t, speaker], -1, 1), atol=1e-6)


def test_words_of_a_minibatch_are_those_of_its_own_worlds() -> None:
    ppo, runner, batch = rolled_out("gru shared", "differentiable")
    later = jax.tree.map(lambda x: x + 0.02 * jnp.sign(x), runner.params)
    worlds = np.array([5, 2, 7])
    arrange = jax.jit(ppo.arrange)
    whole, some = arrange(later, batch), arrange(later, jax.tree.map(lambda x: x[worlds], batch))
    parts = ppo.config.num_steps // ppo.config.cuts.length
    rows = (worlds[:, None] * parts + np.arange(parts)).ravel()
    np.testing.assert_allclose(some.obs, whole.obs[:, rows], atol=1e-5)
    stored = ppo.config.cuts.cut(batch.obs)
    assert np.abs(whole.obs - stored).max() > 1e-3
    np.testing.assert_array_equal(whole.obs[0], stored[0])


@pytest.mark.parametrize("heard", [True, False])
def test_gradients_reach_speakers_through_those_who_heard_them(heard: bool) -> None:
    ppo, runner, batch = rolled_out("mlp", "differentiable")
    if not heard:
        batch = batch.replace(told=jnp.full_like(batch.told, -1))
    gradients = jax.jit(ppo.gradients)(runner.params, batch)[0]
    last = gradients["actor"]["params"]["MLP_0"]["Dense_1"]["bias"]
    payload, tokens = np.abs(last[2 : 2 + PAYLOAD]), np.abs(last[2 + PAYLOAD :])
    assert (payload.min() > 0, tokens.max() > 0) == (heard, heard)
    assert np.all(np.abs(last[:2]) > 0)
    assert np.any(gradients["actor"]["params"]["log_std"][2:] != 0) == heard


@pytest.mark.slow
def test_parts_of_a_minibatch_give_the_gradients_of_the_whole() -> None:
    ppo, runner, batch = rolled_out("gru shared", "differentiable")
    parts = dataclasses.replace(ppo, config=dataclasses.replace(ppo.config, accumulate=2))
    found = [jax.jit(each.gradients)(runner.params, batch)[0] for each in (ppo, parts)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), *found)


@pytest.mark.slow
def test_gradients_of_talk_are_the_same_on_two_devices() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command, more = [sys.executable, "-m", "helpers.spread_words"], {"XLA_FLAGS": flags, "PYTHONPATH": paths}
    done = subprocess.run(command, env=os.environ | more, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for name, (gradients, metrics) in json.loads(done.stdout).items():
        assert gradients < 1e-5, name
        assert metrics < 1e-4, name  # that of imitation is about 100


@pytest.mark.parametrize(
    ("method", "helps"), [("hard", [1, 1, 0, 0]), ("soft", [1, 0.5, 0, 0]), ("reinforced", [0] * 4)]
)
def test_help_ends_with_its_share_of_the_updates(method: str, helps: list[float]) -> None:
    ppo = dataclasses.replace(bits.make(method), num_updates=4)
    found = [float(ppo.at(jnp.int32(update)).speech.help) for update in range(4)]  # type: ignore[union-attr]
    assert found == helps


def test_the_loss_has_the_part_of_speaking() -> None:
    ppo, runner, batch = rolled_out("mlp", "soft")
    assert ppo.speech is not None

    def loss(**speech: Any) -> tuple[float, dict[str, Any]]:
        other = dataclasses.replace(ppo, speech=dataclasses.replace(ppo.speech, **speech))
        total, parts = jax.jit(lambda runner, batch: other.loss(runner.params, batch))(runner, batch)
        return float(total), parts

    (total, parts), (without, _) = loss(speaker_coefficient=0.3), loss(speaker_coefficient=0.0)
    assert total - without == pytest.approx(0.3 * 0.5 * float(parts["loss/communication"]), rel=1e-4)
