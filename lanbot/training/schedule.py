"""Warm-up, stable, decay: the learning rates' scale over a phase."""


def wsd(progress: float, warmup: float, decay: float) -> float:
    """The scale at `progress` (0 to 1 of the phase): up linearly over `warmup`, flat, down to 0 over `decay`.

    The very first step is not zero: a step that changes nothing would be wasted.
    """
    up = 1.0 if progress >= warmup else (progress + 0.02 * warmup) / (1.02 * warmup)
    down = 1.0 if progress <= 1 - decay else (1 - progress) / decay
    return max(0.0, min(up, down))
