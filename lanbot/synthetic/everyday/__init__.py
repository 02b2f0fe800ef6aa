"""Everyday requests, as people who have not read the manual type them, with answers; files and memory really change.

Every conversation is a pure function of (split, index). The English is in the .txt files of this folder.
"""

from lanbot.synthetic.everyday.conversations import KINDS, everyday
from lanbot.synthetic.everyday.typed import as_typed

__all__ = ["KINDS", "as_typed", "everyday"]
