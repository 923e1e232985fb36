"""What words are worth: figures of known distributions, robots that follow a rule, and what is refused."""

import dataclasses
import io
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from rich.console import Console

from entropy_env.task import Task
from entropy_env.types import HEARD, PAYLOAD, TOKENS, SwarmSpec
from entropy_env.vocabulary import Word
from trainers import evaluate as command
from trainers.evaluate import main, make_env
from trainers.evaluation.figures import check_fits, evaluate_policy, worst_tenth
from trainers.evaluation.play import Episode, attuned, episode_key, live
from trainers.evaluation.player import _figures
from trainers.evaluation.signals import (
    NONE,
    OCTANTS,
    ROWS,
    SYMBOLS,
    entropy,
    mutual_information,
    octant,
    signalling,
    tally,
)
from trainers.evaluation.watching import FreshWorlds
from trainers.evaluation.words import DROPS, RANGES, describe, evaluate_words, make_up, shuffle, words_table
from trainers.learn.distributions import Gaussian
from trainers.learn.normalize import init_moments
from trainers.learn.speech import Talking
from trainers.networks.inbox import Inbox
from trainers.policies import load_policy
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.policies.load import describe_policy
from trainers.policies.lstm import Cell, LSTMPolicy
from trainers.run.checkpoint import save_checkpoint

RELAY = Task.of("relay", num_agents=2, num_rays=4, substeps=1, comm_neighbours=2, max_steps=150)


class Relayer(struct.PyTreeNode):
    """Tells its partner's goal, and drives to the place that it is told. Knows offsets over 10 m."""

    task: Task = struct.field(pytree_node=False, default=RELAY)
    step: int = 0

    @property
    def obs_dim(self):
        return self.task.resolve()[0].spec.obs_dim

    def begin(self, num_agents):
        return ()

    def act(self, obs, memory, key=None):
        spec = self.task.resolve()[0].spec
        goal, partner = obs[:, spec.slice("goal")], obs[:, spec.slice("partner")]
        slot = obs[:, spec.slice("inbox")].reshape(len(obs), -1, HEARD)[:, 0]
        cos, sin, ahead, left = (slot[:, column] for column in (2, 3, 7, 8))
        place = slot[:, :2] * 10 + 10 * jnp.stack([ahead * cos - left * sin, ahead * sin + left * cos], axis=1)
        turn = jnp.arctan2(place[:, 1], place[:, 0])
        speed = jnp.where(jnp.abs(turn) < 0.3, jnp.minimum(jnp.linalg.norm(place, axis=1) * 5, 1.0), 0.0)
        motors = jnp.clip(jnp.stack([speed - turn, speed + turn], axis=1), -1, 1) * (slot[:, 4:5] > 0)
        token = jnp.arange(TOKENS) == int(Word.FOUND_TARGET)
        scores = jnp.broadcast_to(jnp.where(token, 1.0, -1.0), (len(obs), TOKENS))
        return jnp.concatenate([motors, scores, partner, goal], axis=1), memory


class Still(struct.PyTreeNode):
    """Neither moves nor speaks."""

    obs_dim: int = struct.field(pytree_node=False)
    action_dim: int = struct.field(pytree_node=False)
    task: Task | None = struct.field(pytree_node=False, default=None)
    step: int = 0

    def begin(self, num_agents):
        return ()

    def act(self, obs, memory, key=None):
        return jnp.zeros((len(obs), self.action_dim)), memory


def listener(task, kind="attention", reach=10.0):
    """An untrained policy that talks, and listens unless `kind` is None."""
    spec = task.resolve()[0].spec
    inbox = kind and Inbox(spec.slice("inbox").start, spec.comm_neighbours, reach, 10.0, kind)
    actor = ActorSpec.of(spec.obs_dim, Talking(Gaussian(2)), hidden_sizes=(8,), inbox=inbox)
    return ActorPolicy(actor.init(jax.random.key(0)), init_moments(spec.obs_dim), actor, task)


def recurrent(task, units=4):
    """An untrained policy of the kind that Stable-Baselines3 trains."""
    spec, rng = task.resolve()[0].spec, np.random.default_rng(0)

    def dense(rows, columns):
        return jnp.asarray(rng.normal(size=(rows, columns)), jnp.float32), jnp.zeros(rows)

    cell = Cell(dense(4 * units, spec.obs_dim), dense(4 * units, units))
    head, shift, scale = dense(spec.action_dim, units), jnp.zeros(spec.obs_dim), jnp.ones(spec.obs_dim)
    return LSTMPolicy((cell,), (), head, jnp.zeros(spec.action_dim), shift, scale, np.inf, task, 0)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr(command, "cache_compilations", lambda: None)


@pytest.fixture(scope="module")
def worth():
    """The figures of robots that solve `relay` by words."""
    env, params = make_env(Relayer())
    return evaluate_words(Relayer(), env, params, episodes=48, seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of an untrained policy."""
    task = dataclasses.replace(RELAY, params=RELAY.params | {"max_steps": 5})
    policy, folder = listener(task), tmp_path_factory.mktemp("talking")
    tree = SimpleNamespace(params={"actor": policy.params}, moments=policy.moments)
    save_checkpoint(folder / "checkpoints", vars(tree), 7, describe_policy(policy.spec, task))
    return folder


def test_octants_lie_around_their_directions():
    angle = np.arange(16) * np.pi / 8 + 0.1
    places = np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
    assert octant(places).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 0]
    assert octant(jnp.zeros(2)) == NONE


def test_a_tally_counts_what_each_robot_says_where_its_goal_is():
    token, active = jnp.array([7, 0, 3]), jnp.array([True, True, False])
    payload = jnp.array([[1.0, 0, 0, -1], [1, 0, 0, 1], [1, 0, 1, 0]])
    counts = np.array(tally(token, payload, jnp.array([[0.0, 2], [-1, 0], [1, 0]]), active))
    assert counts.shape == (3, ROWS, OCTANTS + 1)
    assert not counts[2].any()
    for robot, told in ((0, (7, 0, 6)), (1, (0, NONE, NONE))):  # in silence a payload tells nothing
        for rows, symbol in zip(SYMBOLS.values(), told, strict=True):
            (found,) = np.argwhere(counts[robot, rows])
            assert found.tolist() == [symbol, (2, 4)[robot]]


def test_entropy_and_mutual_information_of_known_distributions():
    assert entropy([5, 5, 5, 5, 0]) == 2
    assert entropy([0, 9]) == 0
    assert mutual_information(3 * np.eye(8)) == pytest.approx(3)
    assert mutual_information(np.outer([1, 2, 3], [4, 5])) == pytest.approx(0, abs=1e-12)
    noisy = np.array([[9, 1], [1, 9]])  # a binary channel that errs one time in ten
    assert mutual_information(noisy) == pytest.approx(1 + 0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))


def test_signalling_is_what_words_tell_beyond_chance():
    robots, steps = 64, 50
    rng = np.random.default_rng(1)
    goal, habit = rng.integers(OCTANTS, size=robots), rng.integers(TOKENS, size=robots)

    def told(token):
        counts = np.zeros((robots, TOKENS, OCTANTS), int)
        counts[np.arange(robots), token, goal] = steps
        return counts

    truthful, constant, habitual = (told(token) for token in (goal, np.full(robots, 7), habit))
    by_chance = (OCTANTS - 1) ** 2 / (2 * robots * np.log(2))  # bits; Miller 1955
    assert signalling(truthful) == pytest.approx(entropy(np.bincount(goal)) - by_chance, abs=0.2)
    assert signalling(constant) == pytest.approx(0, abs=1e-9)
    assert mutual_information(habitual.sum(axis=0)) > 1  # 64 robots are few
    assert signalling(habitual) == pytest.approx(0, abs=0.15)


def test_shuffled_words_are_those_of_other_active_robots():
    said, active = jnp.arange(6.0)[:, None] * jnp.ones(3), jnp.array([True, False, True, True, False, True])
    keys = jax.random.split(jax.random.key(0), 600)
    who = np.array(jax.vmap(lambda key: shuffle(key, said, active)[:, 0])(keys)).astype(int)
    assert np.all(np.sort(who, axis=1) == np.arange(6))
    assert np.all(who[:, [1, 4]] == [1, 4])
    for robot in (0, 2, 3, 5):
        counts = np.bincount(who[:, robot], minlength=6)
        others = [other for other in (0, 2, 3, 5) if other != robot]
        assert counts[others].sum() == 600
        assert np.all(np.abs(counts[others] - 200) < 60)
    alone = jnp.arange(6) == 2
    np.testing.assert_array_equal(shuffle(keys[0], said, alone), said)
    np.testing.assert_array_equal(shuffle(keys[0], said, jnp.zeros(6, bool)), said)


def test_made_up_words_are_any_with_any_payload():
    said = np.array(make_up(jax.random.key(0), jnp.zeros((6400, TOKENS + PAYLOAD)), None))
    counts = np.bincount(said[:, :TOKENS].argmax(axis=1), minlength=TOKENS)
    assert np.all(np.abs(counts - 200) < 75)
    payload = said[:, TOKENS:]
    assert np.all(np.abs(payload) <= 1) and np.abs(payload.mean()) < 0.05 and payload.std() > 0.5


def test_robots_that_live_by_words_fail_without_them(worth):
    success = {name: interval["mean"] for name, interval in worth["success"].items()}
    assert [*success] == ["as_they_are", "cut", "shuffled", "noise"]
    assert success["as_they_are"] > 0.9
    assert success["cut"] == 0
    assert max(success["shuffled"], success["noise"]) < 0.3
    drops = [point["mean"] for point in worth["comm_drop"]]
    assert [point["comm_drop"] for point in worth["comm_drop"]] == [*DROPS]
    assert (drops[0], drops[-1]) == (success["as_they_are"], success["cut"])
    assert drops[1] > drops[4]


def test_a_longer_or_shorter_range_does_not_mislead_a_policy(worth):
    ranges = {point["comm_range"]: point["mean"] for point in worth["comm_range"]}
    assert [*ranges] == pytest.approx([10 * stretch for stretch in RANGES])
    assert ranges[7.5] > 0.85 and ranges[15] == pytest.approx(ranges[10], abs=0.05)
    assert ranges[2.5] < ranges[10] - 0.2


def test_words_as_they_are_have_the_success_of_the_evaluation(worth):
    env, params = make_env(Relayer())
    assert evaluate_policy(Relayer(), env, params, 48, 1)["success"] == worth["success"]["as_they_are"]


def test_it_is_counted_what_robots_say(worth):
    assert worth["messages"] == 1 and worth["silence_rate"] == 0 and worth["token_bits"] == 0
    assert worth["token_distribution"][Word.FOUND_TARGET] == 1
    told = worth["signalling_bits"]
    assert told["token"] == pytest.approx(0, abs=1e-9)
    assert told["payload_second_half"] > 2 > told["payload_first_half"]
    text = render(words_table(worth))
    assert all(part in text for part in ("as they are", "FOUND_TARGET 100%", "comm_drop 0.25", "comm_range 2.5 m"))


def render(table):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_without_a_goal_in_sight_nothing_is_signalled():
    told = np.zeros((2, 3, ROWS, OCTANTS + 1), int)
    told[..., [0, TOKENS + NONE, ROWS - 1], NONE] = 5
    figures = describe(told)
    assert figures["silence_rate"] == 1 and figures["messages"] == 0
    assert set(figures["signalling_bits"].values()) == {None}


def test_the_command_reports_what_words_are_worth_unless_told_not_to(run, capsys, monkeypatch):
    assert main([str(run), "--episodes", "3", "--gif", str(run / "a.gif")]) == 0
    assert "shuffled" in capsys.readouterr().out and (run / "a.gif").exists()
    written = json.loads((run / "evaluation.json").read_text())
    assert written["words"]["success"]["as_they_are"] == written["success"]
    assert 0 < written["words"]["token_bits"] <= 5
    results = {name: value for name, value in written.items() if name != "words"}
    monkeypatch.setattr(command, "evaluate_policy", lambda *given: results)
    assert main([str(run), "--episodes", "3", "--no-words"]) == 0
    assert "shuffled" not in capsys.readouterr().out
    assert "words" not in json.loads((run / "evaluation.json").read_text())


def test_time_steps_show_what_robots_listen_to(run):
    policy = load_policy(run)
    *steps, last = live(policy, *make_env(policy))(episode_key(0, 0), True)
    assert not steps[0].attention.any()  # nobody has spoken
    for step in (*steps[1:], last):
        tokens = step.obs[:, policy.spec.inbox.columns].reshape(2, 2, HEARD)[..., 4]
        assert np.all((step.attention > 0) == (tokens > 0))
        np.testing.assert_allclose(step.attention.sum(axis=1), (tokens > 0).any(axis=1), atol=1e-5)
    assert any(step.attention.any() for step in steps)


def test_a_policy_of_another_kind_is_evaluated_and_shows_no_attention():
    task = dataclasses.replace(RELAY, params=RELAY.params | {"max_steps": 3})
    policy = recurrent(task)
    env, params = make_env(policy)
    assert 0 < evaluate_words(policy, env, params, 2, 0)["messages"] <= 1
    assert [step.attention for step in live(policy, env, params)(episode_key(0, 0), True)] == [None] * 4


def test_a_policy_is_tuned_to_the_range_of_the_worlds():
    policy = listener(RELAY)
    _, near = RELAY.but(comm_range=4.0).make("terminate")
    assert attuned(policy, near).spec.inbox.reach == 4
    assert attuned(policy, RELAY.make()[1]).spec == policy.spec
    for other in (recurrent(RELAY), listener(RELAY, None)):
        assert attuned(other, near) is other


@pytest.mark.parametrize(
    ("trained", "here", "message"),
    [
        (Task.of("open"), {"scenario": "relay", "num_agents": 2}, "comm_neighbours=0 in 'open', and comm_neighbours=8"),
        (Task.of("relay", num_agents=2), {"scenario": "open"}, "comm_neighbours=8 in 'relay', and comm_neighbours=0"),
        (RELAY, {"comm_neighbours": 4}, "comm_neighbours=2 in 'relay', and comm_neighbours=4"),
        (RELAY, {"comm_channel": "team"}, "comm_channel='broadcast' in 'relay', and comm_channel='team'"),
        (Task.of("open", comm_neighbours=8), {"scenario": "relay"}, r"only here: partner"),
        (Task.of("relay", num_agents=2), {"scenario": "lookout"}, r"only where it was trained: partner"),
    ],
)
def test_a_policy_with_other_words_is_refused(trained, here, message):
    policy = Still(trained.resolve()[0].spec.obs_dim, 2, trained)
    with pytest.raises(ValueError, match=message):
        make_env(policy, **{"num_agents": trained.num_agents} | here)
    check_fits(policy, trained.resolve()[0])


def test_where_nobody_talks_words_have_no_figures():
    task = Task.of("open", num_agents=2)
    env, params = task.make()
    with pytest.raises(ValueError, match="comm_neighbours=0: nobody talks"):
        evaluate_words(Still(env.spec.obs_dim, 2, task), env, params, 1, 0)


def test_the_worst_tenth_is_of_the_worlds_rounded_up():
    assert worst_tenth(np.arange(20)[::-1]) == 0.5
    assert worst_tenth(np.arange(21)) == 1
    assert worst_tenth(np.array([0.7, 0.4])) == 0.4


def test_figures_are_about_robots_with_a_goal():
    spec = SwarmSpec(num_agents=4, components=("role",))
    every = np.arange(4)[None]
    episode = Episode(None, every > 0, every, every, every, every).of_carriers(spec)
    assert episode.reached.tolist() == [[True, True]] and episode.steps.tolist() == [[2, 3]]
    state = SimpleNamespace(goals_reached=np.array([0, 0, 1, 0]), step=3, over=False)
    shown = _figures(SimpleNamespace(state=state, total_reward=np.array([9.0, 9.0, 1.0, 2.0])), spec)
    assert (shown[1][0], shown[5][0]) == ("50%      ", "1.50      ")


def test_scouts_arrive_nowhere_and_count_nowhere(monkeypatch):
    played, of_carriers = [], Episode.of_carriers
    monkeypatch.setattr(Episode, "of_carriers", lambda self, spec: played.append(self) or of_carriers(self, spec))
    task = Task.of("lookout", num_agents=2, num_rays=4, substeps=1, comm_neighbours=0, goal_radius=20.0)  # at the goal
    env, params = task.make(on_goal="terminate")
    policy = Still(env.spec.obs_dim, env.spec.action_dim, task)
    results, fresh = evaluate_policy(policy, env, params, 2, 0), FreshWorlds(env, params, 2, 0)(policy)
    assert len(played) == 3
    for episodes in played:
        assert episodes.reached.tolist() == [[False, True]] * 2 and episodes.steps.tolist() == [[1, 1]] * 2
    for figures in (results, results["deterministic"]):
        assert figures["success"]["mean"] == figures["world_success"]["mean"] == figures["worst_tenth"]["mean"] == 1
        assert (figures["spl"]["mean"], figures["steps_to_goal"]["mean"]) == (1, 1)
    assert fresh["success"] == fresh["world_success"] == 1
    assert fresh["return"] == pytest.approx(results["return"]["mean"])
