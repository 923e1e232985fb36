"""What a training run needs around its learner: options, a folder, checkpoints, a terminal."""
