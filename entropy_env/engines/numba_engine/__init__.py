"""The step of the simulator in compiled loops, for CPUs: `entropy_env.engines.make_engine(..., engine="numba")`."""
