"""Trains the rl model, with python or torchrun: scripts/chat_rl.py RECIPE [--section.key value]."""

from lanbot.cli import run_phase

if __name__ == "__main__":
    run_phase("rl")
