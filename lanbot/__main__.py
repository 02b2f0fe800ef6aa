"""python -m lanbot: the command line."""

from lanbot.cli import main

if __name__ == "__main__":
    main()
