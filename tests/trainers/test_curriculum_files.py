"""A curriculum that no swarm could go through as it says is an error that names the stage."""

import pytest

from trainers.jax_ppo import PPOConfig, make_course
from trainers.run.config import ConfigError

TWO = "stages:\n- {}\n- "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages:\n- {promote: {}}\n- {}\n", ["stage 1", "promote={}"]),
        (TWO + "{promote: {success: 0.5}, demote: {success: 0.7}}\n", ["stage 2", "success", "0.7", "0.5"]),
        (TWO + "{promote: {collision_rate: 0.5}, demote: {collision_rate: 0.2}}\n", ["stage 2", "collision_rate"]),
        ("stages:\n- {demote: {success: 0.1}}\n- {}\n", ["stage 1", "no stage before the first"]),
        ("stages:\n- scenario: open\n  difficulty: 1\n  difficulty: 2\n", ["'difficulty' comes twice", "line"]),
        (TWO + "{entropy_coefficient: '0.01'}\n", ["entropy_coefficient='0.01' must be a number", "without quotes"]),
        (TWO + "{promote: {success: '0.5'}}\n", ["success='0.5' must be a number"]),
        (TWO + "{difficulty: hard}\n", ["stage 2", "difficulty='hard' must be one of 1, 2, 3, 4"]),
    ],
)
def test_a_curriculum_that_makes_no_sense_is_an_error(text, words, tmp_path):
    path = tmp_path / "stages.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        make_course(PPOConfig(num_envs=8, num_agents=2, curriculum=str(path)))
    assert all(word in str(caught.value) for word in [str(path), *words]), caught.value


def test_a_whole_demote_counts_from_the_second_stage_on_and_the_last_needs_no_promote(tmp_path):
    path = tmp_path / "stages.yaml"
    path.write_text("demote: {success: 0.1}\nstages:\n- {}\n- {promote: {}}\n")
    assert len(PPOConfig(num_envs=8, num_agents=2, curriculum=str(path)).plan.stages) == 2
