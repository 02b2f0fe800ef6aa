"""Trains the base model, and its tokenizer if there is none: scripts/base_train.py RECIPE [--section.key value]."""

from lanbot.cli import run_phase

if __name__ == "__main__":
    run_phase("base")
