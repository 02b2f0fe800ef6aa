"""Keys of the environment, which no model, log, session or error may see."""

import base64
from collections.abc import Iterable
from urllib.parse import quote

HIDDEN = "[hidden]"


def without_keys(text: str, keys: Iterable[str]) -> str:
    """What a server answered, in which it may have sent back the keys that it was sent. "" is no key."""
    for key in set(keys) - {""}:
        for form in (key, quote(key, safe=""), base64.b64encode(key.encode()).decode()):
            text = text.replace(form, HIDDEN)
    return text
