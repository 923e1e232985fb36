"""What surrounds a learner in a training run: the loop, options, the run folder, checkpoints, the terminal."""
