"""A reward term is one function: both engines compile it, presets weigh it, users hand in their own."""

import copy
import dataclasses
import importlib
import math
import pickle
import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.worlds import ENGINES

import entropy_env  # noqa: F401
from entropy_env import Swarm, SwarmSpec, make_engine, rewards, swarm_v0
from entropy_env.rewards import PRESETS, TERMS, Weights, import_path, preset_weights, resolve_term

SMALL = SwarmSpec(num_agents=8, num_rays=4, on_goal="next_goal")
COLUMNS = {name: column for column, name in enumerate(TERMS)}
NOT_A_NUMBER = float("nan")


def smooth(outcome, params):
    return -((outcome.left - outcome.right) ** 2) / 2


def crash(outcome, params):
    return -outcome.collision * (abs(outcome.left) + abs(outcome.right)) / params.max_wheel_speed


def near(outcome, params):
    return (outcome.distance < 2) * outcome.distance**0.5


OWN = {"smooth": smooth, "near": near, "crash": crash}
WEIGHTS = {"reward_smooth": 0.5, "reward_near": -2.0, "reward_crash": np.array([3.0, 1.0])}


def stays(outcome, params):
    return 0.0 if outcome.left else 1.0


def misspelt(outcome, params):
    return outcome.distanse


def root(outcome, params):
    return math.sqrt(outcome.distance)


def two(outcome, params):
    return outcome.left, outcome.right


def nothing(outcome, params):
    return None


def jax_alone(outcome, params):
    return jnp.sqrt(outcome.distance)


def property_of_params(outcome, params):
    return outcome.distance / params.reach


def begun(engine, env, **weights):
    worlds = make_engine(env, 2, env.resolve_params(**weights), engine)
    worlds.reset(1)
    return worlds


def test_both_engines_give_what_a_users_terms_say():
    env = Swarm(SMALL, "circle", reward_terms=OWN)
    rng, (numba, jitted) = np.random.default_rng(0), (begun(engine, env, **WEIGHTS) for engine in ENGINES)
    collided = False
    for _ in range(60):
        action = rng.uniform(0, 2, (2, 8, 2)).astype(np.float32)
        action[0, 0, 0] = NOT_A_NUMBER
        jitted.state = numba.state
        found, other = numba.step(action), jitted.step(action)
        assert found.reward_terms.shape == (2, 8, len(TERMS) + len(OWN))
        np.testing.assert_allclose(found.reward_terms, other.reward_terms, atol=2e-5)
        np.testing.assert_allclose(found.reward, other.reward, atol=5e-5)
        np.testing.assert_allclose(found.reward, found.reward_terms.sum(axis=-1), atol=1e-5)
        left, right = np.moveaxis(np.clip(np.nan_to_num(action), -1, 1), -1, 0)
        crashed, near_by, smoothly = np.moveaxis(found.reward_terms[..., len(TERMS) :], -1, 0)
        np.testing.assert_allclose(smoothly, -0.5 * (left - right) ** 2 / 2, atol=1e-6)
        np.testing.assert_allclose(crashed, [[-3], [-1]] * found.collision * (abs(left) + abs(right)), atol=1e-6)
        assert np.all(near_by <= 0) and np.all(near_by > -2 * math.sqrt(2))
        collided |= found.collision.any()
    assert collided


@pytest.mark.parametrize("engine", ENGINES)
def test_own_terms_leave_the_built_in_ones_as_they_are(engine):
    plain = begun(engine, Swarm(SMALL, "circle"))
    own = begun(engine, Swarm(SMALL, "circle", reward_terms=OWN), **WEIGHTS)
    for _ in range(20):
        action = np.ones((2, 8, 2), np.float32)
        before, after = plain.step(action), own.step(action)
        np.testing.assert_array_equal(after.reward_terms[..., : len(TERMS)], before.reward_terms)
        np.testing.assert_array_equal(after.obs, before.obs)


def test_replace_takes_the_keywords_of_make_params():
    params = Swarm(SMALL, reward_terms=OWN).make_params(**WEIGHTS)
    other = params.replace(reward_smooth=2.5, reward_time=0.5)
    assert (other.weight("smooth"), other.weight("time")) == (2.5, 0.5)
    assert other.weight("near") == params.weight("near") and params.weight("smooth") == WEIGHTS["reward_smooth"]
    assert other.replace(own_weights={**other.own_weights, "near": 4.0}).weight("near") == 4.0
    assert jax.tree.structure(other) == jax.tree.structure(params)
    with pytest.raises(ValueError, match="unknown parameter 'reward_smoth'; did you mean 'reward_smooth'"):
        params.replace(reward_smoth=1.0)
    with pytest.raises(ValueError, match="unknown parameter 'max_wheel_sped'; did you mean 'max_wheel_speed'"):
        Swarm(SMALL).make_params().replace(max_wheel_sped=1.0)


def test_a_term_that_is_defined_again_is_compiled_again():
    """Both functions have one name, file and line."""
    pays = [eval(f"lambda outcome, params: {value}.0") for value in (3, 5)]
    for value, term in zip((3, 5), pays, strict=True):
        worlds = begun("numba", Swarm(SMALL, reward_terms={"pay": term}), reward_pay=1.0)
        assert np.all(worlds.step(np.zeros((2, 8, 2))).reward_terms[..., -1] == value)


def test_the_numba_engine_refuses_a_changed_table_of_built_in_terms(monkeypatch):
    monkeypatch.setitem(rewards.TERMS, "time", nothing)
    with pytest.raises(ValueError, match=r"rewards.TERMS has other terms .*reward_terms="):
        make_engine(Swarm(SMALL), 1, engine="numba")


@pytest.mark.parametrize("engine", ENGINES)
def test_agents_that_have_left_earn_nothing(engine):
    env = Swarm(dataclasses.replace(SMALL, on_goal="terminate"), reward_terms={"always": "test_rewards:always"})
    worlds = begun(engine, env, reward_always=1.0)
    state = worlds.state
    worlds.state = state.replace(active=np.arange(8)[None] < np.array([[3], [8]]))
    found = worlds.step(np.zeros((2, 8, 2), np.float32))
    np.testing.assert_array_equal(found.reward_terms[..., -1], found.acted)
    assert not found.reward[0, 3:].any()


def always(outcome, params):
    return 1


def test_every_term_has_a_default_weight_and_shaped_is_made_of_them():
    assert [f"reward_{name}" for name in TERMS] == [field.name for field in dataclasses.fields(Weights)]
    assert preset_weights("shaped") == dataclasses.asdict(Weights())


def test_a_new_weight_leaks_into_no_other_preset(monkeypatch):
    monkeypatch.setitem(rewards.TERMS, "new", always)
    for preset, listed in PRESETS.items():
        weights = preset_weights(preset)
        assert weights.keys() == {f"reward_{name}" for name in TERMS}
        assert {name for name in TERMS if weights[f"reward_{name}"]} == {name for name in listed if listed[name]}
    assert preset_weights("v3")["reward_new"] == 0


def test_the_old_name_of_v3_warns_and_works():
    env = Swarm()
    with pytest.warns(FutureWarning, match="'seed' is now called 'v3'"):
        old = env.resolve_params("seed")
    assert old == env.resolve_params("v3") != env.resolve_params()


@pytest.mark.parametrize(
    ("terms", "error", "hint"),
    [
        ({"time": smooth}, ValueError, "'time' is a built-in term, weighted by reward_time"),
        ({"x y": smooth}, ValueError, "'x y' must be a name"),
        ({"terms": smooth}, ValueError, "'terms' must be a name"),
        ({"a": 3}, TypeError, "reward term 'a' must be a plain Python function.*not 3"),
        ({"a": jax.jit(smooth)}, TypeError, "reward term 'a' must be a plain Python function"),
        ("smooth", TypeError, "reward_terms='smooth' must be a dict"),
        ({"a": "smooth"}, ValueError, "'a'.*'smooth' is no import path"),
        ({"a": "no_such_module:f"}, ValueError, "'a' is not at 'no_such_module:f'"),
        ({"a": "test_rewards:rough"}, ValueError, "'a' is not at.*rough"),
        ({"a": stays}, ValueError, r"'a' \(.*test_rewards.py:\d+\) cannot be compiled by JAX: TracerBool"),
        ({"a": misspelt}, ValueError, r"'a' \(.*test_rewards.py:\d+\) cannot be compiled by JAX: .*distanse"),
        ({"a": root}, ValueError, r"'a' \(.*test_rewards.py:\d+\) cannot be compiled by JAX"),
        ({"a": two}, ValueError, "'a'.*must give one number"),
        ({"a": nothing}, ValueError, "'a'.*must give one number, not None"),
    ],
)
def test_a_wrong_term_is_refused_by_name(terms, error, hint):
    for make in (Swarm, swarm_v0.parallel_env):
        with pytest.raises(error, match=hint):
            make(reward_terms=terms)


def test_errors_point_at_the_line():
    with pytest.raises(ValueError) as refusal:
        Swarm(reward_terms={"a": misspelt})
    assert f"test_rewards.py:{misspelt.__code__.co_firstlineno + 1}" in str(refusal.value)


@pytest.mark.parametrize("engine", ["numba", "auto"])
@pytest.mark.parametrize(("term", "hint"), [(jax_alone, "sqrt"), (property_of_params, "reach")])
def test_a_term_that_numba_cannot_compile_is_refused_and_never_zero(engine, term, hint):
    env = Swarm(SMALL, reward_terms={"a": term})
    line = term.__code__.co_firstlineno
    with pytest.raises(ValueError, match=rf"'a' \(.*test_rewards.py:({line}|{line + 1})\).* Numba: .*{hint}.*'jax'"):
        make_engine(env, 1, env.resolve_params(reward_a=1), engine)
    worlds = begun("jax", env, reward_a=1)
    assert np.all(worlds.step(np.zeros((2, 8, 2), np.float32)).reward_terms[..., -1] > 0)


def test_terms_and_weights_go_together():
    env = Swarm(SMALL, reward_terms={"smooth": smooth})
    plain, params = Swarm(SMALL), env.make_params(reward_smooth=2)
    with pytest.raises(ValueError, match="'smooth' has no weight: give reward_smooth="):
        env.make_params()
    with pytest.raises(ValueError, match="'reward_smoth'; did you mean 'reward_smooth'"):
        env.make_params(reward_smoth=1)
    with pytest.raises(ValueError, match="'reward_smooth'"):
        plain.make_params(reward_smooth=1)
    with pytest.raises(ValueError, match="reward_smooth=inf must be from -1e"):
        env.make_params(reward_smooth=np.inf)
    with pytest.raises(ValueError, match=r"reward_smooth has shape \(3,\)"):
        make_engine(env, 2, env.resolve_params(reward_smooth=np.ones(3)))
    for engine in ENGINES:
        with pytest.raises(ValueError, match="the weight reward_smooth has no reward term"):
            make_engine(plain, 1, params, engine)
        with pytest.raises(ValueError, match="'smooth' has no weight"):
            make_engine(env, 1, plain.make_params(), engine)
    _, state = jax.eval_shape(plain.reset, jax.random.key(0), plain.make_params())
    with pytest.raises(ValueError, match="'smooth' has no weight"):
        env.step(jax.random.key(0), state, jnp.zeros((8, 2)), plain.make_params())


@pytest.mark.parametrize("engine", ENGINES)
def test_an_edit_of_the_source_is_noticed(engine, tmp_path, monkeypatch):
    """Also in what the term calls."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = "def double(x):\n    return {} * x\n\n\ndef term(outcome, params):\n    return double(outcome.left)\n"
    if engine == "numba":
        source = f"import numba\n\n\n@numba.extending.register_jitable\n{source}"
    file = tmp_path / f"edited_term_{engine}.py"
    file.write_text(source.format(2))
    found = []
    for factor in (2, 3):
        file.write_text(source.format(factor))
        importlib.invalidate_caches()
        sys.modules.pop(file.stem, None)
        env = Swarm(SMALL, reward_terms={"double": f"{file.stem}:term"})
        transition = begun(engine, env, reward_double=1).step(np.full((2, 8, 2), 0.5, np.float32))
        found.append(transition.reward_terms[0, 0, -1])
    assert found == [1.0, 1.5]


def test_an_import_path_stands_for_a_function_and_back():
    assert resolve_term("test_rewards:smooth") is smooth
    assert import_path(smooth) == "test_rewards:smooth"
    assert import_path(rewards.distance) == "entropy_env.rewards:distance"
    by_path, by_name = (Swarm(SMALL, reward_terms={"s": term}) for term in ("test_rewards:smooth", smooth))
    assert by_path == by_name

    def inner(outcome, params):
        return outcome.left

    own_copy = type(smooth)(smooth.__code__, smooth.__globals__, "smooth")
    for term in (inner, lambda outcome, params: outcome.left, own_copy):
        with pytest.raises(ValueError, match=r"test_rewards.py:\d+\) has no import path.*top level of a module"):
            import_path(term)


def test_a_function_of_the_main_script_has_no_import_path(monkeypatch):
    monkeypatch.setattr(smooth, "__module__", "__main__")
    with pytest.raises(ValueError, match="has no import path"):
        import_path(smooth)


def test_swarms_of_equal_terms_are_equal_whatever_the_order():
    a, b = Swarm(SMALL, reward_terms=OWN), Swarm(SMALL, reward_terms=dict(reversed(OWN.items())))
    assert a == b == pickle.loads(pickle.dumps(a)) == copy.deepcopy(a)
    assert hash(a) == hash(b)
    assert a != Swarm(SMALL) != Swarm(SMALL, reward_terms={"smooth": near})
    assert list(a.terms) == [*TERMS, "crash", "near", "smooth"]


def test_adapters_take_terms_and_report_them():
    keywords = {"reward_terms": {"smooth": "test_rewards:smooth"}, "reward_smooth": 2.0, "num_rays": 4}
    action = np.array([1.0, 0.0], np.float32)
    swarm = swarm_v0.parallel_env(2, **keywords)
    swarm.reset(seed=0)
    rewards_, infos = swarm.step(dict.fromkeys(swarm.agents, action))[1::3]
    terms = infos["agent_0"]["reward_terms"]
    assert terms["smooth"] == -1
    assert rewards_["agent_0"] == pytest.approx(sum(terms.values()))
    robot = gymnasium.make("entropy_env/Swarm-v0", **keywords)
    robot.reset(seed=0)
    assert robot.step(action)[4]["reward_terms"]["smooth"] == -1
    robots = gymnasium.make_vec("entropy_env/Swarm-v0", num_envs=2, **keywords)
    robots.reset(seed=0)
    np.testing.assert_array_equal(robots.step(np.stack([action] * 2))[4]["reward_terms"]["smooth"], [-1, -1])
    for make in (swarm_v0.parallel_env, swarm_v0.env, gymnasium.make_vec):
        given = {"id": "entropy_env/Swarm-v0"} if make is gymnasium.make_vec else {}
        with pytest.raises(ValueError, match="reward_smoth'; did you mean 'reward_smooth'"):
            make(**given, reward_terms={"smooth": smooth}, reward_smoth=1)
        with pytest.raises(ValueError, match="'smooth' has no weight"):
            make(**given, reward_terms={"smooth": smooth})


def test_sb3_takes_terms():
    module = pytest.importorskip("entropy_env.adapters.sb3")
    plain = module.SwarmVecEnv(2, 2, seed=0)
    lanes = module.SwarmVecEnv(2, 2, seed=0, reward_terms={"smooth": smooth}, reward_smooth=2.0)
    action = np.tile(np.array([1.0, 0.0], np.float32), (4, 1))
    for env in (plain, lanes):
        env.reset()
        env.step_async(action)
    np.testing.assert_allclose(lanes.step_wait()[1], plain.step_wait()[1] - 1, atol=1e-6)


@pytest.mark.parametrize("name", ["gymnax", "jaxmarl"])
def test_functional_adapters_take_terms(name):
    module = pytest.importorskip(f"entropy_env.adapters.{name}")
    key, found = jax.random.key(0), []
    for own in ({}, {"reward_terms": {"smooth": smooth}, "reward_smooth": 2.0}):
        if name == "gymnax":
            env = module.GymnaxSwarm(num_rays=4, **own)
            _, state = env.reset(key, env.default_params)
            found.append(float(env.step(key, state, jnp.array([1.0, 0.0]), env.default_params)[2]))
        else:
            env = module.JaxMARLSwarm(2, num_rays=4, **own)
            _, state = env.reset(key)
            found.append(float(env.step(key, state, dict.fromkeys(env.agents, jnp.array([1.0, 0.0])))[2]["agent_0"]))
    assert found[1] == pytest.approx(found[0] - 1, abs=1e-6)


def test_an_environment_with_terms_is_pickled_and_copied():
    env = swarm_v0.parallel_env(2, num_rays=4, reward_terms={"smooth": smooth}, reward_smooth=2.0)
    env.reset(seed=0)
    action = dict.fromkeys(env.agents, np.array([1.0, 0.0], np.float32))
    others = pickle.loads(pickle.dumps(env)), copy.deepcopy(env)
    infos = env.step(action)[4]
    for other in others:
        assert other.step(action)[4] == infos


def test_a_term_that_a_factory_made_keeps_the_path_it_came_by(tmp_path, monkeypatch):
    (tmp_path / "made_terms.py").write_text(
        "def make(by):\n    return lambda outcome, params: by * outcome.left\nleft = make(2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    term = resolve_term("made_terms:left")
    assert import_path(term) == "made_terms:left"


def test_the_old_name_of_a_preset_warns_whoever_uses_it():
    code = "from entropy_env import Swarm; Swarm().resolve_params(reward='seed')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'seed' is now called 'v3'" in done.stderr


def test_a_term_may_read_the_weights():
    env = Swarm(SwarmSpec(num_agents=2), reward_terms={"own": lambda outcome, params: params.weight("own")})
    assert env.make_params(reward_own=0.5).weight("own") == 0.5
