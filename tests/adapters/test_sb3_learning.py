"""Algorithms and wrappers of Stable-Baselines3 on `SwarmVecEnv`."""

import itertools
import pickle
import sys
import types
import warnings

import imageio_ffmpeg
import numpy as np
import pytest
from helpers.lanes import LANES, MODES, begun, make, make_single, roam, seek, small, weights
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize, VecVideoRecorder


@pytest.mark.filterwarnings("ignore:.*(minimum|maximum) value is -?infinity")
def test_stable_baselines_accepts_the_gymnasium_environment(recwarn):
    check_env(make_single().unwrapped)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("on_goal", MODES)
@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(PPO, "MlpPolicy"), (RecurrentPPO, "MlpLstmPolicy"), (SAC, "MlpPolicy"), (TD3, "MlpPolicy")],
)
def test_algorithms_learn_and_a_seed_gives_the_same_weights(algorithm, policy, on_goal):
    runs = []
    for _ in range(2 if on_goal == "respawn" else 1):
        model = small(algorithm, make(on_goal=on_goal, max_steps=9), policy)
        untrained = weights(model)
        model.learn(200)
        runs.append(weights(model))
    assert np.isfinite(runs[0]).all()
    assert not np.array_equal(runs[0], untrained)
    np.testing.assert_array_equal(runs[0], runs[-1])
    assert {"r", "l", "t"} == model.ep_info_buffer[0].keys()
    assert len(model.ep_success_buffer) > 0


class Listener(BaseCallback):
    """Keeps what every step of a rollout told, before the algorithm adds to the rewards."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def _on_step(self):
        self.steps.append((self.locals["rewards"].copy(), self.locals["infos"]))
        return True


def test_values_are_bootstrapped_at_time_limits_and_nowhere_else():
    env, listener = VecNormalize(make(max_steps=20, goal_radius=0.6), norm_reward=False), Listener()
    model = small(PPO, env, n_steps=60, batch_size=60, learning_rate=0.0)
    model.learn(60 * LANES, callback=listener)
    cut = arrived = 0
    for stored, (rewards, infos) in zip(model.rollout_buffer.rewards, listener.steps, strict=True):
        for lane, info in enumerate(infos):
            expected = rewards[lane]
            if info.get("TimeLimit.truncated"):
                (last, _), cut = model.policy.obs_to_tensor(info["terminal_observation"]), cut + 1
                expected += model.gamma * model.policy.predict_values(last).item()
            arrived += info.get("TimeLimit.truncated") is False
            assert stored[lane] == pytest.approx(expected, abs=1e-5)
    assert cut
    assert arrived


def test_normalised_observations_include_the_last():
    raw, obs = begun()
    normal = VecNormalize(pickle.loads(pickle.dumps(raw)), norm_reward=False)
    normal.reset(), raw.reset()
    ends = 0
    for _ in range(26):
        actions = seek(obs)
        obs, _, dones, infos = raw.step(actions)
        theirs, _, _, their_infos = normal.step(actions)
        np.testing.assert_allclose(theirs, normal.normalize_obs(obs), atol=1e-6)
        for lane in np.flatnonzero(dones):
            last, ends = normal.normalize_obs(infos[lane]["terminal_observation"]), ends + 1
            np.testing.assert_allclose(their_infos[lane]["terminal_observation"], last, atol=1e-6)
    assert ends > LANES


def test_the_figures_are_those_of_a_vec_monitor_which_warns_that_it_replaces_them(tmp_path):
    env, _ = begun()
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor` wrapper"):
        monitored = VecMonitor(pickle.loads(pickle.dumps(env)), str(tmp_path / "monitor.csv"))
    obs, ends = env.reset(), 0
    monitored.reset()
    for _ in range(60):
        actions = seek(obs)
        obs, _, dones, infos = env.step(actions)
        theirs = monitored.step(actions)[3]
        for lane in np.flatnonzero(dones):
            ends += 1
            assert theirs[lane]["episode"]["r"] == pytest.approx(infos[lane]["episode"]["r"], abs=1e-5)
            assert theirs[lane]["episode"]["l"] == infos[lane]["episode"]["l"]
    monitored.close()
    assert len((tmp_path / "monitor.csv").read_text().splitlines()) == ends + 2


def test_stacked_frames_end_with_the_last_observation_and_begin_afresh():
    env, obs = begun()
    stacked = VecFrameStack(pickle.loads(pickle.dumps(env)), 2)
    obs = env.reset()
    np.testing.assert_array_equal(stacked.reset(), np.hstack([np.zeros_like(obs), obs]))
    ends = 0
    for _ in range(26):
        before, actions = obs, seek(obs)
        obs, _, dones, infos = env.step(actions)
        both, _, _, their_infos = stacked.step(actions)
        np.testing.assert_array_equal(both, np.hstack([before * ~dones[:, None], obs]))
        for lane in np.flatnonzero(dones):
            last, ends = infos[lane]["terminal_observation"], ends + 1
            np.testing.assert_array_equal(their_infos[lane]["terminal_observation"], np.hstack([before[lane], last]))
    assert ends > LANES


FILMED = {
    "SwarmVecEnv": lambda: make(max_steps=25, seed=0, render_mode="rgb_array"),
    "DummyVecEnv": lambda: DummyVecEnv([lambda: make_single(render_mode="rgb_array")] * 2),
}


@pytest.mark.parametrize("make_env", FILMED.values(), ids=FILMED)
def test_a_video_is_recorded(make_env, tmp_path, monkeypatch):
    """Without moviepy, whose place is taken at the one call that writes."""
    written = []

    class Clip:
        def __init__(self, frames, fps):
            self.frames, self.fps = frames, fps

        def write_videofile(self, path):
            written.append((path, np.array(self.frames), self.fps))

    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        module = types.ModuleType(name)
        module.ImageSequenceClip = Clip
        monkeypatch.setitem(sys.modules, name, module)
    recorder = VecVideoRecorder(make_env(), str(tmp_path), lambda step: step == 0, video_length=3)
    roam(recorder, recorder.reset(), 4)
    recorder.close()
    [(path, frames, fps)] = written
    assert path.startswith(str(tmp_path))
    assert fps == 10
    assert len(frames) == 4
    assert frames.dtype == np.uint8
    assert all(np.any(one != other) for one, other in itertools.pairwise(frames))


def test_a_recorded_video_plays(tmp_path):
    pytest.importorskip("moviepy", reason="VecVideoRecorder wants moviepy")
    env, _ = begun(render_mode="rgb_array")
    recorder = VecVideoRecorder(env, str(tmp_path), lambda step: step == 0, video_length=3)
    roam(recorder, recorder.reset(), 4)
    recorder.close()
    [video] = tmp_path.glob("*.mp4")
    assert imageio_ffmpeg.count_frames_and_secs(str(video)) == (4, pytest.approx(0.4))


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: VecNormalize(env, training=False, norm_reward=False)])
def test_policies_are_evaluated_without_complaint(wrap, deterministic):
    env = wrap(make(max_steps=9, seed=0))
    model = small(PPO, env)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(
            model, env, n_eval_episodes=10, deterministic=deterministic, return_episode_rewards=True
        )
    assert len(returns) == len(lengths) == 10
    assert all(0 < length <= 9 for length in lengths)
    assert np.isfinite(returns).all()


def test_evaluation_believes_the_figures_of_the_lanes():
    env = make(max_steps=9, seed=0, on_goal="terminate")
    transition = []

    def listen(local, _):
        transition.append(local["info"].get("episode"))

    class Seeker:
        def predict(self, obs, **_):
            return seek(obs), None

    returns, lengths = evaluate_policy(
        Seeker(), env, n_eval_episodes=2 * LANES, callback=listen, return_episode_rewards=True
    )
    ended = [episode for episode in transition if episode]
    assert returns == [episode["r"] for episode in ended]
    assert lengths == [episode["l"] for episode in ended]
    assert min(lengths) < 9


def test_a_saved_model_goes_on_with_an_environment(tmp_path):
    env = VecNormalize(make(max_steps=9))
    model = small(PPO, env).learn(100)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "normal.pkl"))
    obs = env.reset()
    again = VecNormalize.load(str(tmp_path / "normal.pkl"), make(max_steps=9))
    for loaded in (PPO.load(tmp_path / "model", env=again), PPO.load(tmp_path / "model")):
        np.testing.assert_array_equal(weights(loaded), weights(model))
        loaded.set_env(again)
        np.testing.assert_array_equal(
            loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
        )
        loaded.learn(100, reset_num_timesteps=False)
        assert not np.array_equal(weights(loaded), weights(model))
