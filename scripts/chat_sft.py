"""Trains the sft model, with python or torchrun: scripts/chat_sft.py RECIPE [--section.key value]."""

from lanbot.cli import run_phase

if __name__ == "__main__":
    run_phase("sft")
