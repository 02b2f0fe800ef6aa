"""What the licences of open weights ask of those who pass a trained model on."""

import re
from dataclasses import dataclass
from pathlib import Path

from lanbot.models.config import ModelConfig

PAPERS = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md")
"""Files beside open weights that say under which terms they are; a run that begins from them keeps these."""
KEPT = "origin"
"""The folder of a run where they are."""


@dataclass(frozen=True)
class Licence:
    id: str
    """As the hub names it."""
    name: str
    link: str = ""
    prefix: str = ""
    """With what the name of a derived model has to begin."""
    built_with: str = ""
    """What has to be shown with it."""
    notice: str = ""
    """What its NOTICE file has to say."""

    @property
    def own(self) -> bool:
        """Whether the hub has no name for it, so that its own is given beside `other`."""
        return self.id.startswith("qwen")


def _llama(version: str, prefix: str = "Llama", brand: str = "Llama") -> Licence:
    name = f"{brand} {version} Community License"
    return Licence(
        f"llama{version}",
        name,
        f"https://www.llama.com/llama{version.replace('.', '_')}/license/",
        prefix,
        f"Built with {'Llama' if prefix == 'Llama' else f'{brand} {version}'}",
        f"{brand} {version} is licensed under the {name}, Copyright © Meta Platforms, Inc. All Rights Reserved.",
    )


def _qwen(kind: str, name: str, size: str) -> Licence:
    link = f"https://huggingface.co/Qwen/Qwen2.5-{size}/blob/main/LICENSE"
    notice = f"Qwen is licensed under the {name}, Copyright (c) Alibaba Cloud. All Rights Reserved."
    return Licence(kind, name, link, built_with="Built with Qwen", notice=notice)


LICENCES = {
    licence.id: licence
    for licence in (
        Licence("apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
        Licence("mit", "MIT License"),
        _llama("3", "Llama 3", "Meta Llama"),
        _llama("3.1"),
        _llama("3.2"),
        _llama("3.3"),
        _qwen("qwen-research", "Qwen RESEARCH LICENSE AGREEMENT", "3B"),
        _qwen("qwen", "Qwen LICENSE AGREEMENT", "72B"),
    )
}
"""Those whose conditions are known here."""

QWEN_SHAPES = {(2048, 36): "qwen-research", (8192, 80): "qwen"}
"""Width and layers of Qwen 2.5's 3B and 72B, which are not under Apache 2.0 as its other sizes are."""
LLAMA_SHAPES = {(2048, 16): "llama3.2", (3072, 28): "llama3.2"}
LLAMA_TOKENS = range(128_256, 128_512)
"""Meta's vocabulary, with room for tokens that were added."""


def licence_of(stated: str, config: ModelConfig) -> Licence | None:
    """The licence of open weights: what their card states, unless their shape is that of a model under a stricter one.
    None: not known."""
    shape = config.dim, config.n_layers
    known = ""
    if config.family == "qwen2":
        known = QWEN_SHAPES.get(shape, "")
    elif config.family == "llama" and config.vocab_size in LLAMA_TOKENS:
        known = LLAMA_SHAPES.get(shape, "llama3.1")
    if known and not stated.startswith(known[:4]):
        return LICENCES[known]
    return LICENCES.get(stated) or (Licence(stated, stated) if stated else None)


def stated_in(readme: Path) -> str:
    """The licence that a model card's first lines name: as the hub does, or, of `other`, by its own name. "": none."""
    try:
        text = readme.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = dict(re.findall(r"^(license(?:_name)?):\s*[\"']?([\w.-]+)", front[1] if front else "", re.MULTILINE))
    named: str = found.get("license", "")
    return found.get("license_name", "") if named == "other" else named
