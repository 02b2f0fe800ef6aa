"""The words of a text, in one form for what is stored and what is searched for."""

import unicodedata

import regex

_STOP_WORDS = """
a about am an and any are as at be by can could d did do does for from had has have he her him his how i if in is it its
know like ll m me my of on or our please re s say she so some t tell that the their them there they this to told us ve
was we were what when where which who whose why will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that are written without spaces: each character is a word."""
_WORD = regex.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[\p{{L}}\p{{N}}\p{{M}}])+")
_ACCENTS = regex.compile("[\u0300-\u036f]")


def fold(text: str) -> str:
    """The text in lower case, without accents and in one Unicode form, so that it can be compared."""
    if text.isascii():
        return text.lower()
    letters = unicodedata.normalize("NFKD", text).casefold().replace("ı", "i")
    return unicodedata.normalize("NFC", _ACCENTS.sub("", letters))


def words(text: str) -> list[str]:
    """All words of a text, folded."""
    return _WORD.findall(fold(text))


def content_words(text: str) -> list[str]:
    """Each word once, folded, in order; stop words only if there are no others."""
    found = list(dict.fromkeys(words(text)))
    return [word for word in found if word not in STOP_WORDS] or found
