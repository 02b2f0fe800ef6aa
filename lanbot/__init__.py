"""LanBot: train a chat model of your own, end to end, and put it to work."""

__version__ = "0.1.0"
