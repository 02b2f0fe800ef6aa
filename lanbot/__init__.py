"""LanBot: train a chat model of your own, end to end, and put it to work."""

import os

__version__ = "0.1.0"

# By default torch's OpenMP threads busy-wait for each other long after their part is done. On a machine that does
# anything else they then keep each other off the cores: the demo's training step with two threads beside one busy
# program falls from 12,300 to 3,200 tokens/s; with waits this short it has 12,300 and 5,100. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
