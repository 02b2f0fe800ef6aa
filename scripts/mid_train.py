"""Trains the mid model, with python or torchrun: scripts/mid_train.py RECIPE [--section.key value]."""

from lanbot.cli import run_phase

if __name__ == "__main__":
    run_phase("mid")
