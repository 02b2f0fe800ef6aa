"""Trains the rl model.

python scripts/chat_rl.py RECIPE [--section.key value]
torchrun --nproc-per-node N scripts/chat_rl.py RECIPE [--section.key value]
"""

from lanbot.cli import run_phase

if __name__ == "__main__":
    run_phase("rl")
