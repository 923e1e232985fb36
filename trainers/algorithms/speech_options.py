"""Options of how policies listen and learn to speak, where robots talk."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from entropy_env.env import Swarm
from entropy_env.types import SwarmParams
from trainers.learn.speech import Speech
from trainers.networks.inbox import Inbox


@dataclasses.dataclass(frozen=True)
class SpeechOptions:
    """Listening and learning to speak."""

    SPEECH: ClassVar[frozenset[str]] = frozenset(
        {"comm", "speech", "grounding_share", "speaker_coefficient", "token_entropy_coefficient"}
    )

    comm: Literal["attention", "mean", "none"] = "attention"
    """How networks take in what robots hear: by attention, as the mean of all, or as plain numbers. Only where robots talk,
    as do the next four."""
    speech: Literal["reinforced", "hard", "soft", "differentiable"] = "reinforced"
    """How robots learn what to say: by the reward alone; or at first saying the truth, always (hard) or with a probability
    that falls to 0 (soft), in scenarios that know it; or by listeners' gradients (differentiable)."""
    grounding_share: float = 0.5
    """Share of the training in which hard or soft says the truth."""
    speaker_coefficient: float = 0.1
    """Weight of imitating the truth meanwhile, with hard or soft."""
    token_entropy_coefficient: float = 0.0
    """Weight of the entropy bonus of tokens, which keeps robots trying other words."""

    def check_speech(self) -> None:
        """Raise ValueError for a share that is none, or a negative weight."""
        if not 0 < self.grounding_share <= 1:
            raise ValueError(f"grounding_share={self.grounding_share} must be above 0 and at most 1")
        for name in ("speaker_coefficient", "token_entropy_coefficient"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")

    def speech_in(self, env: Swarm, params: SwarmParams) -> tuple[Speech | None, Inbox | None]:
        """Return how to speak and what listens in a swarm, None where nobody talks.

        Raises ValueError if the swarm cannot have what the options ask for.
        """
        spec = env.spec
        if not spec.talks:
            if self.speech != "reinforced":
                raise ValueError(f"speech={self.speech!r} needs robots that talk: give comm_neighbours, for example 8")
            return None, None
        if self.speech in ("hard", "soft") and not env.scenario.tells:
            raise ValueError(
                f"speech={self.speech!r} needs a scenario that knows what to say, and {env.scenario.name!r} does not: choose "
                "relay or lookout, or speech reinforced or differentiable"
            )
        if self.speech == "differentiable":
            if self.comm == "none":
                raise ValueError("speech='differentiable' needs something that listens: choose comm attention or mean")
            if spec.comm_history:
                raise ValueError(
                    f"speech='differentiable' needs words without delay, not comm_history={spec.comm_history}"
                )
        speech = Speech(self.speech, self.grounding_share, self.speaker_coefficient, self.token_entropy_coefficient)
        if self.comm == "none":
            return speech, None
        first = spec.slice("inbox").start
        return speech, Inbox(first, spec.comm_neighbours, float(params.comm_range), float(params.goal_scale), self.comm)
