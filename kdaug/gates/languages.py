"""Which language a text is plainly not in: by its script, and by the small words of some languages."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_LETTERS = re.compile(r"[^\W\d_]")
_SCRIPTS = {
    "Latin": re.compile(r"[A-Za-z\u00aa-\u024f\u1e00-\u1eff]"),
    "Cyrillic": re.compile(r"[\u0400-\u052f]"),
    "Greek": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    "Arabic": re.compile(r"[\u0600-\u06ff\u0750-\u077f]"),
    "Hebrew": re.compile(r"[\u0590-\u05ff]"),
    "Devanagari": re.compile(r"[\u0900-\u097f]"),
    "Thai": re.compile(r"[\u0e00-\u0e7f]"),
    "Hangul": re.compile(r"[\u1100-\u11ff\uac00-\ud7af]"),
    "kana": re.compile(r"[\u3041-\u30ff]"),
    "Han": re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]"),
}
SCRIPT_SHARE = 0.5  # of the letters
DENSE_SHARE = 0.2  # of the letters in scripts where a character is a syllable or a word: foreign names outweigh them
SMALL_WORDS_FROM = 20  # words: a shorter text may lack any language's small words
SMALL_WORDS_SHARE = 0.12  # of the words: running text has 0.2 to 0.5 of its own language's
SMALL_WORDS_SEEN = 4  # different ones: `i` and `y` in a loop are names in a program


@dataclass(frozen=True)
class Language:
    """Its script, and for languages in Latin script the small words that set it apart from the others here."""

    script: str
    small_words: frozenset[str] = frozenset()


def _latin(small_words: str) -> Language:
    return Language("Latin", frozenset(small_words.split()))


LANGUAGES: dict[str, Language] = {
    "en": _latin("the of and to is that it for are with as this be have from you which not they but at their or an by"),
    "de": _latin(
        "der und das ist nicht ein eine zu den mit auf für von sich dem auch als wird sind werden oder ich sie im"
    ),
    "fr": _latin(
        "le les des et est une du dans que pour qui pas sur il ce vous avec sont plus au ou cette être par nous"
    ),
    "es": _latin("el los las y que es una del por con para se su como más lo pero sus al o esta está son muy también"),
    "it": _latin(
        "il di che è per non un sono della con del gli le nel si da alla anche più come dei questo essere ma i"
    ),
    "pt": _latin("o os que do da em um uma é para não com se por mais as dos das ao como foi são ou você seu também"),
    "nl": _latin(
        "de het een van en is dat niet te op voor met zijn aan er ook als maar bij of om deze wordt worden je"
    ),
    "sv": _latin("och att det som en är på av för med den till inte ett om har de kan vi ska eller från så"),
    "pl": _latin("na nie się że jest jak po od przez ale dla są lub oraz czy być tym które może tylko także ich jego"),
    "tr": _latin("ve bir bu için ile de da olarak çok daha en gibi olan ne kadar ama veya değil var her sonra"),
    "id": _latin(
        "dan yang di untuk dengan ini itu adalah dari pada dalam tidak akan atau juga dapat ke sebagai oleh saya"
    ),
    "vi": _latin("và của là có các cho không được một trong với để những này người khi đã từ cũng như"),
    "ru": Language("Cyrillic"),
    "uk": Language("Cyrillic"),
    "bg": Language("Cyrillic"),
    "el": Language("Greek"),
    "ar": Language("Arabic"),
    "fa": Language("Arabic"),
    "he": Language("Hebrew"),
    "hi": Language("Devanagari"),
    "th": Language("Thai"),
    "ko": Language("Hangul"),
    "ja": Language("kana"),
    "zh": Language("Han"),
}


def prose(text: str) -> str:
    """Without code: fenced blocks, and what stands between backticks."""
    return _FENCED.sub(" ", text)


def foreign_to(language: str, text: str) -> str | None:
    """What speaks against `language`, such as "25 % Latin letters" or "small words of es"; None where nothing does.

    Languages that share a script and have no list of small words (Russian and Ukrainian) are not told apart, and a
    text in Latin script passes unless it is plainly in another of the languages listed. Code blocks are left out; a
    text without letters passes.
    """
    said = prose(text)
    return _other_script(language, said) or _other_small_words(language, said)


def _other_script(language: str, text: str) -> str | None:
    total = len(_LETTERS.findall(text))
    if total == 0:
        return None
    count = {script: len(letters.findall(text)) for script, letters in _SCRIPTS.items()}
    script = LANGUAGES[language].script
    expected = count[script]
    if language == "ja" and (count["kana"] or total < SMALL_WORDS_FROM):  # a short Japanese text may be all Han
        expected += count["Han"]
    if language == "zh" and count["kana"] > 0.1 * count["Han"]:  # then it is Japanese
        expected = 0
    if expected >= (DENSE_SHARE if script in ("Han", "kana", "Hangul") else SCRIPT_SHARE) * total:
        return None
    most = max(count, key=lambda name: count[name])
    return f"{round(100 * count[most] / total)} % {most} letters"


def _other_small_words(language: str, text: str) -> str | None:
    said = re.findall(r"[^\W\d_]+", text.lower())
    own = LANGUAGES[language].small_words
    if not own or len(said) < SMALL_WORDS_FROM:
        return None
    shares = {name: sum(word in known.small_words for word in said) / len(said) for name, known in LANGUAGES.items()}
    other = max(shares, key=lambda name: shares[name])
    seen = LANGUAGES[other].small_words.intersection(said)
    if len(seen) < SMALL_WORDS_SEEN or shares[other] < max(SMALL_WORDS_SHARE, 2 * shares[language]):
        return None
    return f"small words of {other}"
