"""Trains the tokenizer.

python scripts/tok_train.py RECIPE [--section.key value]
torchrun --nproc-per-node N scripts/tok_train.py RECIPE [--section.key value]
"""

from lanbot.cli import phase_door

if __name__ == "__main__":
    phase_door("tokenizer")
