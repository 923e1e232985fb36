"""sb3-contrib's LSTM policy, made several times faster to train on a CPU."""

from __future__ import annotations

import torch as th
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import nn

States = tuple[th.Tensor, th.Tensor]


class LstmPolicy(RecurrentActorCriticPolicy):
    """`MlpLstmPolicy` with the same weights and results.

    sb3-contrib walks through a sequence step by step in Python if an episode starts anywhere in it. But its buffer cuts
    sequences where episodes start, so only a first step can be a start. Here the states of such sequences are cleared
    first, and one call then runs through the whole sequence.
    """

    @staticmethod
    def _process_sequence(  # type: ignore[override]  # the states are a pair, which sb3-contrib's annotation omits
        features: th.Tensor, lstm_states: States, episode_starts: th.Tensor, lstm: nn.LSTM
    ) -> tuple[th.Tensor, States]:
        num_sequences = lstm_states[0].shape[1]
        starts = episode_starts.reshape(num_sequences, -1)
        if th.any(starts[:, 1:] != 0):
            return RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)  # type: ignore[return-value]
        keep = (1.0 - starts[:, 0]).view(1, num_sequences, 1)
        sequences = features.reshape(num_sequences, -1, lstm.input_size).swapaxes(0, 1)
        output, states = lstm(sequences, (keep * lstm_states[0], keep * lstm_states[1]))
        return th.flatten(output.transpose(0, 1), start_dim=0, end_dim=1), states
