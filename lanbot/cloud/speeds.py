"""Speeds of all that is not a matrix product.

Each is measured (docs/results.md and its experiments), counted, or marked as assumed. `lanbot plan` has no other
constants than these, those of gpus.py and the sizes of data in averages.py; none belongs to one phase of one model.
"""

from lanbot.cloud.ranges import Range

TOKENIZER = Range(2.0e6, 2.9e6, 8.0e6)
"""Characters/s of tokenizer training on one core. Expected: 2 billion characters with 20 million distinct words in
11m20s (experiment 008); high: ordinary text, 114 million characters in 14 s; low: assumed, a slower core."""
ENCODE = Range(1.9e6, 2.7e6, 14.3e6)
"""Tokens/s of a loader process that reads and encodes text (experiment 008). Expected: tiktoken; high: fastokens; low:
a core at 0.7 of that."""
RENDER = Range(0.7e6, 1.0e6, 2.0e6)
"""Tokens/s of a loader process that renders and packs conversations (experiment 009). As ENCODE."""
SEARCH = Range(0.8e6, 1.0e6, 1.3e6)
"""Words/s of the search for contamination, on rank 0 (experiment 009)."""

OPERATIONS = 28
"""Kernels that a layer launches for one decoded token, counted on the engine: 560 at depth 20."""
KERNEL = Range(1.5e-6, 3e-6, 20e-6)
"""Seconds of each in a captured graph, besides memory. Low and expected: assumed; high: assumed for steps that are not
captured, which the host launches one by one."""
ENGINE = Range(0.2e-3, 0.4e-3, 1.5e-3)
"""Seconds of the host for a decoding step. Expected: Python's 9% of a step of sixteen rows in 4.4 ms (docs/results.md);
low and high: assumed."""
ROW = Range(2e-6, 5e-6, 20e-6)
"""Seconds of the host for each answer and token: draws, parsing. Low: measured on one core; expected and high:
assumed."""
EQUAL = Range(0.2, 0.5, 0.8)
"""Share of RL's groups whose rewards are all equal, for which `refill` asks further questions. Assumed."""
GRADE = Range(4e-3, 50e-3, 0.5)
"""Seconds of a core for grading a program. Low: 240 runs/s a core (experiment 011); expected and high: assumed, with
one in a hundred and one in ten that run into a limit of some seconds."""
CORES = 8
"""Of the host for each GPU, that grade programs. Assumed."""
MEMORY = Range(0.5, 0.65, 0.8)
"""Share of the memory's bandwidth that decoding reaches. Assumed; large copies reach 0.8 to 0.9."""
DECODED = Range(0.6, 0.91, 1.0)
"""Decoding steps until the last answer of a batch has ended, as a share of the limit. Expected: 1,863 steps counted in
eight batches of at most 256 tokens; low: assumed."""

STEP = Range(10e-3, 15e-3, 40e-3)
"""Seconds of an update besides forward and backward. Expected: d20 on eight H100s in docs/scaling.md."""
START = Range(30.0, 60.0, 180.0)
"""Seconds that a phase starts and ends: processes, weights, compilation, the last checkpoint. Assumed."""
FILLED = 0.99
"""The share of packed rows of conversations that is not padding (experiment 008)."""
