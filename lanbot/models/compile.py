"""torch.compile, where it pays: on a GPU, whose kernels it fuses. LANBOT_COMPILE=0 turns it off, to debug.

On a CPU it is off: it made a step 5% faster and took 32 s first, which a run of minutes never earns back.

The blocks are compiled in place, one program for all of them, so that hooks (all-gather of FSDP2, reduction
of gradients) stay outside, copies of the model run uncompiled, and the names of weights do not change. The rest of
a step is few kernels already: embedding, head (models/loss.py has its own compiled piece), orthogonalisation by
batched products, AdamW in one kernel.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo.config as dynamo_config

from lanbot.core.console import say
from lanbot.models.transformer import Transformer

BACKEND = "inductor"


def enabled(device: torch.device) -> bool:
    return device.type == "cuda" and os.environ.get("LANBOT_COMPILE") != "0"


def compile_blocks(model: Transformer) -> None:
    """For training in rows of one length: each shape is compiled, some seconds each, up to Dynamo's limit (8); further
    ones run uncompiled. Not for fp32, where the engine generates with the same model."""
    if enabled(model.embed_tokens.weight.device) and model.dtype != torch.float32:
        logging.getLogger("torch._dynamo.convert_frame").addFilter(fallbacks)
        for block in model.layers:
            block.compile(backend=BACKEND, dynamic=False)


class _Fallbacks(logging.Filter):
    """Counts Dynamo's warnings about its recompilation limit, and replaces the first by one line."""

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if "recompile_limit" not in record.getMessage():
            return True
        self.count += 1
        if self.count == 1:
            say(f"torch.compile: over {dynamo_config.recompile_limit} shapes of a batch; further ones run uncompiled")
        return False


fallbacks = _Fallbacks()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """function, compiled for each shape it is called with."""
    return torch.compile(function, backend=BACKEND, dynamic=False)
