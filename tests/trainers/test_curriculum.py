"""Curricula: what a file may say, when a swarm moves on, what its worlds then play, and that it resumes exactly."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from helpers.commands import ROOT, code_blocks
from helpers.killed import killed_at

from entropy_env import Swarm, SwarmSpec, vector
from entropy_env.scenarios import SCENARIOS
from entropy_env.scenarios.stages import Stages
from trainers.curriculum.promotion import Promotion
from trainers.curriculum.worlds import StagedParams, StagedWorlds
from trainers.jax_ppo import PPOConfig, main, make_course, make_ppo, train
from trainers.policies import load_policy
from trainers.run.config import ConfigError
from trainers.run.hooks import Moment

TINY = PPOConfig(
    num_envs=8, num_agents=2, num_steps=4, num_minibatches=2, hidden_sizes=(8,), total_steps=10 * 64,
    checkpoint_interval=64,
)  # fmt: skip
EASY = {  # every robot stands on its goal, so each stage is left as soon as it may be
    "episodes": 8,
    "replay": 0.25,
    "stages": [
        {"scenario": "open", "max_steps": 4, "goal_radius": 20},
        {"scenario": "open", "difficulty": 2, "max_steps": 6, "goal_radius": 20, "entropy_coefficient": 0.01},
        {"scenario": "rooms", "max_steps": 8, "goal_radius": 20, "max_wheel_speed": 0.5},
    ],
}


@pytest.fixture
def plan_file(tmp_path):
    """Writes a curriculum, and returns the options that name it."""

    def write(content):
        path = tmp_path / "stages.yaml"
        path.write_text(yaml.safe_dump(content))
        return dataclasses.replace(TINY, curriculum=str(path))

    return write


def stages(*given, **whole):
    return {"stages": list(given), **whole}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (stages({"dificulty": 2}), ["stage 1: a stage has no 'dificulty'", "'difficulty'"]),
        (stages({}, {"entropy_coeficient": 0.1}), ["stage 2", "'entropy_coefficient'"]),
        (stages({"num_agents": 5}), ["'num_agents' cannot change between stages"]),
        (stages({"num_rays": 5}), ["'num_rays' cannot change between stages"]),
        (stages({"num_steps": 8}), ["'num_steps' cannot change between stages"]),
        (stages({}, {"scenario": "romms"}), ["stage 2: unknown scenario 'romms'", "'rooms'"]),
        (stages({"difficulty": 5}), ["difficulty=5"]),
        (stages({"agent_radius": 2}), ["num_agents=2 is more than scenario 'open' holds"]),
        (stages({"dt": -1}), ["dt=-1"]),
        (stages({"max_steps": "never"}), ["max_steps='never'"]),
        (stages({"clip": "much"}), ["clip='much' must be a number"]),
        (stages({}, {"gamma": 2}), ["stage 2", "gamma=2.0 must be from 0 to 1"]),
        (stages({"learning_rate": 0}), ["stage 1", "learning_rate=0.0 must be above 0"]),
        (stages({"promote": {"sucess": 1}}), ["promote has no 'sucess'", "'success'"]),
        (stages({"promote": {"success": 80}}), ["promote: success=80 must be from 0 to 1"]),
        (stages({}, demote={"collision_rate": -0.1}), ["demote: collision_rate=-0.1 must be from 0 to 1"]),
        (stages({"promote": 0.5}), ["promote=0.5"]),
        (stages({}, episode=5), ["the curriculum has no 'episode'", "'episodes'"]),
        (stages({}, episodes=0), ["episodes=0"]),
        (stages({}, replay=1.0), ["replay=1.0"]),
        (stages(5), ["stage 1: 5"]),
        (stages(), ["`stages:`"]),
        ([], ["`stages:`"]),
    ],
)
def test_a_stage_that_cannot_be_had_is_named(content, words, plan_file, capsys):
    config = plan_file(content)
    with pytest.raises(ConfigError) as caught:
        make_ppo(config)
    assert all(word in str(caught.value) for word in [config.curriculum, *words])


def test_a_file_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["--curriculum", str(tmp_path / "none.yaml"), "--run-dir", str(tmp_path / "run")]) == 2
    assert "cannot read the curriculum" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_example_of_the_page_can_be_had(tmp_path):
    blocks = code_blocks((ROOT / "trainers" / "README.md").read_text(encoding="utf-8"), "yaml")
    (text,) = [code for _, code, _ in blocks if "stages:" in code]
    (tmp_path / "stages.yaml").write_text(text)
    plan = PPOConfig(curriculum=str(tmp_path / "stages.yaml")).plan
    assert [len(stage.options) for stage in plan.stages] == [1, 0, 0, 1]
    assert plan.stages[2].promote == {"success": 0.9, "collision_rate": 0.02}


def test_the_default_has_the_levels_of_the_scenario_curriculum():
    plan = dataclasses.replace(TINY, curriculum="default").plan
    assert [(stage.task.scenario, stage.task.difficulty) for stage in plan.stages] == [
        ("curriculum", level) for level in (1, 2, 3, 4)
    ]


def test_inputs_of_all_stages_have_the_same_shapes_and_those_of_replaying_worlds_are_of_earlier_stages(plan_file):
    course = make_course(plan_file(EASY))
    inputs = [course.inputs(number) for number in (1, 2, 3)]
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in inputs]
    assert shapes[0] == shapes[1] == shapes[2]
    last = inputs[2].env_params
    assert last.swarm.difficulty.tolist() == [1, 3, 3, 3, 3, 3, 3, 2]
    assert last.counted.tolist() == [False, *[True] * 6, False]
    assert last.swarm.max_steps.tolist() == [4, 8, 8, 8, 8, 8, 8, 6]
    np.testing.assert_allclose(last.swarm.max_wheel_speed, [1, *[0.5] * 6, 1])
    assert last.swarm.goal_radius.shape == ()
    assert [float(each.options["entropy_coefficient"]) for each in inputs] == pytest.approx([0.001, 0.01, 0.001])


ALL = [("open", 2), ("rooms", 2), ("open", 4), ("crossing", 1), ("obstacles", 3), ("curriculum", 3)]


@pytest.mark.parametrize(
    ("kinds", "count"), [([("open", 2), ("circle", 1), ("open", 4)], 2), pytest.param(ALL, 5, marks=pytest.mark.slow)]
)
def test_each_world_draws_what_its_stage_alone_would(kinds, count):
    families = [SCENARIOS[name](level) for name, level in kinds]
    spec = SwarmSpec(num_agents=4, on_goal="respawn")
    whole = Swarm(spec, Stages(stages=tuple(families)))
    assert len(whole.scenario.families) == count
    params = whole.make_params(difficulty=1, max_steps=200)
    keys = jax.random.split(jax.random.key(0), 3)
    draw = jax.jit(jax.vmap(whole.generate, (0, None)))
    for number, family in enumerate(families, 1):
        mine = draw(keys, params.replace(difficulty=jnp.int32(number)))
        alone = Swarm(spec, family)
        theirs = jax.jit(jax.vmap(alone.generate, (0, None)))(keys, alone.make_params())
        assert mine.valid.all()
        for name in ("size", "spawns", "goals"):
            np.testing.assert_allclose(
                getattr(mine, name), getattr(theirs, name), atol=1e-4, err_msg=str(kinds[number - 1])
            )
        for name, mask in (("walls", "wall_mask"), ("boxes", "box_mask"), ("discs", "disc_mask")):
            assert getattr(mine, mask).sum() == getattr(theirs, mask).sum()
            np.testing.assert_allclose(
                getattr(mine, name)[getattr(mine, mask)], getattr(theirs, name)[getattr(theirs, mask)], atol=1e-4
            )
    assert draw._cache_size() == 1
    assert not whole.generate(keys[0], params.replace(difficulty=jnp.int32(len(kinds) + 1))).valid


def test_worlds_begin_anew_where_their_stage_has_changed_and_nowhere_else():
    env = Swarm(
        SwarmSpec(num_agents=2, on_goal="respawn"), Stages(stages=(SCENARIOS["circle"](1), SCENARIOS["circle"](4)))
    )
    worlds = StagedWorlds(vector.batch(env, 4))
    params = env.make_params(difficulty=1, max_steps=200)
    before = StagedParams(params.replace(difficulty=jnp.ones(4, jnp.int32)), jnp.ones(4, bool))
    moved = jnp.array([False, True, False, True])
    after = StagedParams(params.replace(difficulty=1 + moved.astype(jnp.int32)), moved)
    step = jax.jit(worlds.step)
    _, state = jax.jit(worlds.reset)(jax.random.key(0), before)
    action = jnp.zeros((4, 2, 2))
    for _ in range(3):
        _, state, _, _, truncated, info = step(jax.random.key(1), state, action, before)
    assert not truncated.any()
    assert info["counted"].all()
    sizes = state.swarm.worlds.layout.size
    obs, state, _, _, truncated, info = step(jax.random.key(2), state, action, after)
    assert truncated.tolist() == [[False] * 2, [True] * 2, [False] * 2, [True] * 2]
    assert info["episode_length"].tolist() == [[4, 4]] * 4
    assert not info["counted"].any()
    assert state.swarm.worlds.step.tolist() == [4, 0, 4, 0]
    np.testing.assert_allclose(state.swarm.worlds.layout.size, jnp.where(moved[:, None], jnp.array([4.0, 4.0]), sizes))
    np.testing.assert_allclose(state.swarm.next_layout.size[moved], [[4.0, 4.0]] * 2)
    seen = jax.vmap(env.observe, (0, None))(state.swarm.worlds, params)
    np.testing.assert_allclose(obs, seen, atol=1e-6)
    _, state, _, _, truncated, info = step(jax.random.key(3), state, action, after)
    assert not truncated.any()
    assert info["counted"].tolist() == [[bool(there)] * 2 for there in moved]
    assert info["episode_length"].tolist() == [[5, 5], [1, 1], [5, 5], [1, 1]]
    assert step._cache_size() == 1


def judged(course, figures, step=64):
    """The stage after each update with these figures (success, return, collision rate), of 10 episodes each."""
    hook, numbers = Promotion(course, steps_per_period=1), []
    for index, (success, earned, collisions) in enumerate(figures, 1):
        metrics = {"env/goal_reached_rate": success, "train/episode_return": earned, "env/collision_rate": collisions}
        hook(moment := Moment(index * step, None, None, metrics | {"env/episodes": 10, "train/episodes": 10}))
        numbers.append(hook.state()["stage"])
        assert moment.inputs is None or moment.inputs.env_params.swarm.difficulty[1] == numbers[-1]
    return numbers


@pytest.mark.parametrize(
    ("promote", "good", "bad"),
    [
        ({"success": 0.5}, (0.5, 0, 1), (0.4, 9, 0)),
        ({"return": 2}, (0, 2, 1), (1, 1.9, 0)),
        ({"collision_rate": 0.1}, (0, 0, 0.1), (1, 9, 0.2)),
        ({"success": 0.5, "collision_rate": 0.1}, (0.5, 0, 0.1), (0.5, 0, 0.2)),
    ],
)
def test_a_swarm_moves_on_when_all_figures_are_good_enough(promote, good, bad, plan_file):
    course = make_course(plan_file(EASY | {"episodes": 10, "promote": promote}))
    assert judged(course, [bad, bad, good, good, bad, good, good]) == [1, 1, 2, 3, 3, 3, 3]


def test_a_swarm_falls_back_where_the_file_says_so(plan_file):
    course = make_course(plan_file(EASY | {"episodes": 20, "promote": {"success": 0.8}, "demote": {"success": 0.5}}))
    good, fair, bad = (1, 0, 0), (0.6, 0, 0), (0, 0, 0)
    assert judged(course, [bad, bad, good, good, fair, fair, bad, bad, bad]) == [1, 1, 1, 2, 2, 2, 1, 1, 1]


def test_a_stage_is_judged_once_every_world_has_had_the_time_of_an_episode(plan_file):
    course = make_course(plan_file(EASY | {"episodes": 10}))
    assert judged(course, [(1, 0, 0)] * 6, step=2) == [1, 2, 2, 2, 3, 3]


def lines(run):
    timed = {"train/fps", "train/sps", "system/cpu_memory", "system/gpu_memory"}
    text = (run / "metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in text.splitlines()]


@pytest.mark.slow
def test_a_curriculum_runs_to_its_last_stage_compiles_once_and_resumes_exactly(plan_file, tmp_path):
    config = dataclasses.replace(plan_file(EASY), run_dir=tmp_path / "whole")
    compiled = []

    def count(event, seconds, **_):
        compiled.append(event) if event == "/jax/core/compile/backend_compile_duration" else None

    numbers = []

    def watch(moment):
        numbers.append(len(compiled))

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        train(config, hooks=[watch])
    finally:
        jax.monitoring.clear_event_listeners()
    assert [line["env/stage"] for line in lines(config.run_dir)] == sorted(
        line["env/stage"] for line in lines(config.run_dir)
    )
    assert {line["env/stage"] for line in lines(config.run_dir)} == {1, 2, 3}
    assert [line["env/difficulty"] for line in lines(config.run_dir)][-1] == 1
    assert numbers[0] > 0
    assert numbers[0] == numbers[-1], "something was compiled after the first update"

    parts = dataclasses.replace(config, run_dir=tmp_path / "parts", checkpoint_interval=128)
    with killed_at(5 * 64):
        train(parts)
    train(dataclasses.replace(parts, resume=True))
    assert lines(parts.run_dir) == lines(config.run_dir)
    assert load_policy(parts.run_dir).task.scenario == "rooms"
    plan_file(EASY | {"episodes": 9})
    with pytest.raises(ValueError, match="the curriculum is not the one"):
        train(dataclasses.replace(parts, resume=True, total_steps=11 * 64))


def test_without_a_curriculum_inputs_are_the_parameters_of_the_worlds():
    ppo, inputs, _ = make_ppo(TINY)
    assert isinstance(ppo.env, vector.VectorSwarm)
    assert inputs == TINY.task.make(on_goal="respawn")[1]
