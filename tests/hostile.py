"""Text that tokenizers get wrong."""

from lanbot.chat.formats.lanbot import LanBotFormat

HOSTILE = {
    "nothing": "",
    "emoji": "👍🏽 ok 🇩🇪🇫🇷 ☃️",
    "families": "👨‍👩‍👧‍👦👩🏿‍🚀" * 3,
    "NUL": "a\0b\0\0 \0",
    "spaces": " " * 100_000,
    "spaces in text": "x" + " " * 1_001 + "y \t  \n   z   ",
    "specials": "".join(LanBotFormat.special_tokens) + " <|bos|> <|user_end|><|endoftext|>",
    "half a special": "<|assistant_sta rt|> <|<|bos|>|> <|bos",
    "CRLF": "one\r\ntwo\r\n\r\n\tthree\rfour\n\n\n",
    "lone marks": "\u0301\u0308a \u200d \ufeff\u0e31 e\u0301",
    "scripts": "héllo Привет 你好世界 こんにちは שלום مرحبا हिन्दी ไทย ǅ ß İ ſ K",
    "digits": "3.14159265358979 1234567890123456789012345 007 ٣٤٥ ½ Ⅷ x2y",
    "apostrophes": "I'll they've WE'RE don't 'tis o'Clock 'ſ",
    "odd spaces": "a\u00a0b\u2028c\u2029d\u0085e\u3000f\v\f",
    "astral": "\U0001d54f\U0010ffff\U00020000 \uffff\ue000",
    "long word": "a" * 5_000 + "!" * 2_000,
}
