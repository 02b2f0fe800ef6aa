"""Train the mid model: python scripts/mid_train.py RECIPE [--section.key value]; or torchrun --nproc-per-node N scripts/mid_train.py RECIPE."""

from lanbot.cli import phase_door

if __name__ == "__main__":
    phase_door("mid")
