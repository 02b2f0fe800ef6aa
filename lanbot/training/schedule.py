"""Warm-up, stable, decay: the learning rates' scale over a phase."""

import math


def wsd(progress: float, warmup: float, decay: float, cosine: bool = False) -> float:
    """The scale at `progress` (0 to 1 of the phase): up linearly over `warmup`, flat, down to 0 over `decay`, along a
    line or half a cosine.

    The very first step is not zero: a step that changes nothing would be wasted.
    """
    up = 1.0 if progress >= warmup else (progress + 0.02 * warmup) / (1.02 * warmup)
    down = 1.0 if progress <= 1 - decay else (1 - progress) / decay
    if cosine:
        down = (1 - math.cos(math.pi * max(0.0, down))) / 2
    return max(0.0, min(up, down))
