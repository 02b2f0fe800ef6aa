"""Trains the tokenizer, with python or torchrun: scripts/tok_train.py RECIPE [--section.key value]."""

from lanbot.cli import run_phase

if __name__ == "__main__":
    run_phase("tokenizer")
