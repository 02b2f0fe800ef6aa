"""LanBot: train a chat model of your own, end to end, and put it to work."""

import os

__version__ = "0.1.0"

# By default torch's OpenMP threads busy-wait for each other long after their part is done. On a machine that does
# anything else they then keep each other off the cores: training with two threads beside one busy program falls from
# 8,000 to 3,000 tokens/s, at worst to 250; with short waits to 6,000. Read when torch is loaded, so it is set here.
os.environ.setdefault("GOMP_SPINCOUNT", "300")
