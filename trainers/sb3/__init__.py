"""All code of the trainers that needs torch and Stable-Baselines3."""

try:
    import sb3_contrib  # noqa: F401
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"training with Stable-Baselines3 needs torch and sb3-contrib ({error}): pip install 'entropy-env[sb3]'",
        name=error.name,
    ) from error
