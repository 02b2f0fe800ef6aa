"""Train the base model (and its tokenizer, if it has none): python scripts/base_train.py RECIPE [--section.key value]; or torchrun --nproc-per-node N scripts/base_train.py RECIPE."""

from lanbot.cli import phase_door

if __name__ == "__main__":
    phase_door("base")
