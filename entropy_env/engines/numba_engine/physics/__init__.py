"""`entropy_env.physics` for compiled loops."""
