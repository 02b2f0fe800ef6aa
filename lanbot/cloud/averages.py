"""Sizes of the shipped tasks' data, for plans made without it.

Measured with LanBot's chat format and a vocabulary of 65,536, on 1,000 rows of each task, and on 1,500 documents of
educational text. `lanbot data plan` counts the data itself. everyday and newcomer: in proportion to agent_tasks,
counted with the demo's vocabulary.
"""

import math
from typing import NamedTuple


class Average(NamedTuple):
    rows: int
    """Of the training split; 0: the task has none."""
    tokens: float
    """Of a training conversation."""
    test_rows: int
    prompt: float
    """Tokens of a test question, up to where the answer begins."""


TASKS = {
    "agent_tasks": Average(1_000_000, 50, 2_000, 16),
    "arc_challenge": Average(1_119, 75, 1_172, 75),
    "arc_easy": Average(2_251, 67, 2_376, 65),
    "everyday": Average(1_000_000, 39, 2_000, 17),
    "gsm8k": Average(7_473, 172, 1_319, 64),
    "handwritten": Average(0, 21, 100, 17),
    "humaneval": Average(0, 375, 164, 154),
    "identity": Average(10_000, 36, 500, 29),
    "identity:builtin": Average(1_000_000, 33, 2_000, 12),
    "long_chat": Average(1_000_000, 94, 0, 75),
    "mmlu": Average(99_842, 106, 14_042, 111),
    "newcomer": Average(0, 17, 150, 12),
    "programs": Average(314, 180, 81, 88),
    "simple_spelling": Average(275_430, 22, 39_238, 12),
    "simple_spelling:builtin": Average(9_028, 21, 391, 11),
    # The chats measured are short ones (182). The reference's mid trained for 813 steps of 524,288 tokens; less the
    # tokens of its other parts as above, its 460,000 chats had 880 tokens each.
    "smoltalk": Average(460_341, 880, 0, 131),
    "spelling_bee": Average(275_430, 53, 39_238, 15),
    "spelling_bee:builtin": Average(9_028, 50, 391, 14),
    "sums": Average(1_000_000, 24, 2_000, 10),
    "tool_use": Average(1_000_000, 73, 2_000, 16),
    "word_problems": Average(1_000_000, 51, 2_000, 28),
    "word_problems:practice": Average(1_000_000, 36, 2_000, 28),
    "world_chat": Average(1_000_000, 28, 0, 18),
}
CHARS = 4.6
"""Characters of a token of text."""
WORDS = 0.78
"""Words of a token."""
VOCABULARY = 65_536
HALVED = 1.065
"""By how much a vocabulary half as large makes texts longer: 1.2 times from 65,536 to 8,192 tokens."""


def longer(vocab_size: int) -> float:
    """How many tokens this vocabulary needs for one of the table's."""
    return float(HALVED ** math.log2(VOCABULARY / vocab_size))
