"""torch.compile, where it pays: on a GPU, whose kernels it fuses. LANBOT_COMPILE=0 turns it off, to debug.

On a CPU it is off: it made a step 5% faster and took 32 s first, which a run of minutes never earns back.

The blocks are compiled in place, one program for all of them, so that hooks (FSDP2's gathering, the sending of
gradients) stay outside of it, copies of the model run as written, and the names of weights do not change. The rest of
a step is few kernels already: embedding, head (training/loss.py has its own compiled piece), orthogonalisation by
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
    """For training in rows of one length: each shape is compiled anew, some seconds each, up to eight of them. What
    shapes come beyond those runs as written. Not for fp32, in which the engine generates with this very model."""
    if enabled(model.embed_tokens.weight.device) and model.dtype != torch.float32:
        logging.getLogger("torch._dynamo.convert_frame").addFilter(fallbacks)
        for block in model.layers:
            block.compile(backend=BACKEND, dynamic=False)


class _Fallbacks(logging.Filter):
    """Counts what Dynamo says of its limit on recompilation, and says the first in one line of ours."""

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
