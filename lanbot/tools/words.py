"""The words of a text that say what is meant."""

import re

_SAYING_NOTHING = """
a about am an and any are as at be by can could d did do does for from had has have he her him his how i if in is it its
know like ll m me my of on or our please re s say she so some t tell that the their them there they this to told us ve
was we were what when where which who whose why will with would you your
"""
STOP_WORDS = frozenset(_SAYING_NOTHING.split())


def content_words(text: str) -> list[str]:
    """Each word once, in lower case, in order; those that say nothing only if there are no others."""
    words = list(dict.fromkeys(re.findall(r"[^\W_]+", text.lower())))
    return [word for word in words if word not in STOP_WORDS] or words
