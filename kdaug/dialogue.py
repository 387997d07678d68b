"""Dialogues: two speakers in turn, what ends them, and transcripts of them.

A round is a turn of the user and the assistant's answer to it. A dialogue begins with the user and ends with the
assistant; a system message may stand before it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from kdaug.record import Message, Messages, Record, assistant, user
from kdaug.teacher import Completion

End: TypeAlias = Literal["rounds", "farewell", "role_slip", "repeat", "cut", "empty"]
Speak: TypeAlias = Callable[[Messages], Awaitable[Completion]]

# What assistants say and users do not: of oneself, as an offer, at the end of an answer, and a speaker's tag.
_SLIPS = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|(?:ai |virtual )?assistant)\b"
    r"|\bi(?:'|’)?(?:m| am) an? (?:ai|(?:large )?language model|(?:ai |virtual )?assistant)\b"
    r"|\bhow (?:can|may) i (?:help|assist) you\b"
    r"|\bi(?:'|’)?(?:m| am) here to (?:help|assist)\b"
    r"|\bi(?:'|’)?(?:d| would) be (?:happy|glad) to (?:help|assist)\b"
    r"|\b(?:feel free|don(?:'|’)?t hesitate) to (?:ask|reach out|contact)\b"
    r"|\blet me know if (?:you|there)\b"
    r"|\b(?:i )?hope (?:this|that) helps\b"
    r"|\byou(?:'|’)?(?:re| are) (?:very |most )?welcome\b"
    r"|^\W*(?:certainly|of course|sure|absolutely)\b[!,.]? *(?:here(?:'|’)?s|here (?:is|are)|i can|i(?:'|’)ll)\b"
    r"|^\W*(?:that(?:'|’)?s|what) an? (?:great|good|excellent|interesting) question\b"
    r"|^\W*\[?(?:assistant|ai|chatbot|bot)\]?\W*:",
    re.IGNORECASE | re.MULTILINE,
)
_FAREWELL = re.compile(
    r"\b(?:good ?bye|bye(?: ?bye)?|farewell|see you(?: (?:later|soon|again))?|take care|talk to you later)\b"
    r"|\bhave an? (?:\w+ )?(?:day|evening|night|weekend|time)\b"
    r"|\bthat(?:'|’)?(?:s| is| was| will be) (?:all|everything)(?: (?:for now|i (?:need(?:ed)?|wanted)|from me)\b|\W*$)"
    r"|\b(?:no|don(?:'|’)?t have any|have no)(?: \w+){0,2} questions\b",
    re.IGNORECASE,
)
_THANKS = re.compile(
    r"\b(?:thanks?|thank you|thx|cheers|appreciate|grateful|helpful|(?:great|perfect|awesome) help)\b"
    r"|^\W*(?:(?:that(?:'|’)?s|this is|it(?:'|’)?s) )?(?:great|perfect|wonderful|awesome|excellent|amazing|cool|nice|"
    r"ok(?:ay)?|got it|i see|understood)\b",
    re.IGNORECASE,
)
# A wish, at the start of a sentence or of a part of it.
_ASKS = re.compile(
    r"(?:^|[,;:]|\b(?:now|please|and|then|also|but|next)\b)\W*(?:(?:please|also|now|then)\W+)*"
    r"(?:explain|tell|give|show|write|describe|list|name|make|help|compare|add|suggest|rewrite|summari[sz]e|continue|"
    r"translate|draft|what|how|why|which|where|when|who)\b"
    r"|\b(?:can|could|would|will) you\b|\bi(?:(?:'|’)d| would) (?:also )?like (?:to know|you to|a|an|some)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_POLITE = 14  # words of a sentence that is thanks and no more; a longer one says something besides


@dataclass(frozen=True)
class Talk:
    """A dialogue of two models: its `messages`, the replies that are in it, what ended it, and the text that did."""

    messages: Messages
    replies: tuple[Completion, ...]
    ended: End
    last: str = ""


async def talk(begin: Messages, ask: Speak, answer: Speak, *, rounds: int) -> Talk:
    """Lets two speakers go on from `begin`, which ends with a turn of the user, until it has `rounds` rounds.

    `answer` gives the assistant's turns, `ask` the user's: it simulates a user, and what a user would not say ends the
    dialogue before it is said: an assistant's words (`role_slip`), a farewell, an earlier turn once more (`repeat`).
    Either's turn that was cut or is empty ends it too. What stands before is whole: it ends with the assistant.
    """
    said, replies = begin, tuple[Completion, ...]()
    while True:
        reply = await answer(said)
        if end := _broken(reply):
            return Talk(said[:-1], replies[:-1], end, reply.text)  # without the turn that has no answer
        said, replies = (*said, *assistant(reply.text.strip())), (*replies, reply)
        if count_rounds(said) >= rounds:
            return Talk(said, replies, "rounds")
        reply = await ask(said)
        if end := _broken(reply) or _no_user(reply.text, said):
            return Talk(said, replies, end, reply.text)
        said, replies = (*said, *user(reply.text.strip())), (*replies, reply)


def _broken(reply: Completion) -> End | None:
    if reply.cut:
        return "cut"
    return None if reply.text.strip() else "empty"


def _no_user(text: str, said: Messages) -> End | None:
    if role_slip(text):
        return "role_slip"
    if is_farewell(text):
        return "farewell"
    words = text.casefold().split()
    return "repeat" if any(words == message.content.casefold().split() for message in said) else None


def count_rounds(messages: Sequence[Message]) -> int:
    """Turns of the user that have an answer: a turn of each is one round, not two."""
    return sum(one.role == "user" and two.role == "assistant" for one, two in pairwise(messages))


def alternates(messages: Sequence[Message]) -> bool:
    """Whether user and assistant speak in turn, the user first and the assistant last, none of them nothing."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    wanted = ("user", "assistant") * (len(turns) // 2)
    return bool(turns) and tuple(m.role for m in turns) == wanted and all(m.content.strip() for m in turns)


def role_slip(text: str) -> str | None:
    """What in a user's turn an assistant would say ("How can I help you?", "As an AI…"); None in a user's own words."""
    found = _SLIPS.search(text)
    return found[0].strip() if found else None


def is_farewell(text: str) -> bool:
    """Whether a turn of the user says goodbye, or nothing but thanks: no sentence of it asks for anything.

    "Thanks, now explain the tides." goes on; "Thank you, that's all." does not.
    """
    sentences = [piece.strip() for piece in _SENTENCE.findall(text) if re.search(r"\w", piece)]
    if any(sentence.endswith("?") or _ASKS.search(sentence) for sentence in sentences):
        return False
    if any(_FAREWELL.search(sentence) for sentence in sentences):
        return True
    polite = (_THANKS.search(sentence) and len(sentence.split()) <= _POLITE for sentence in sentences)
    return bool(sentences) and all(polite)


def parse_transcript(text: str, *, user_tag: str = "[Human]", assistant_tag: str = "[AI]") -> Messages:
    """The exchanges of a transcript that one model wrote (Baize, arXiv 2304.01196, authors' code).

    What stands before the first user's tag is no part of it, and neither is the last exchange, which may be truncated.
    At one that has not exactly one assistant's tag, or a turn of no words, it ends; what stands before is kept.
    """
    _, *chunks = re.split(re.escape(user_tag), text, flags=re.IGNORECASE)
    messages: Messages = ()
    for chunk in chunks[:-1]:
        asked, *answers = (part.strip() for part in re.split(re.escape(assistant_tag), chunk, flags=re.IGNORECASE))
        if len(answers) != 1 or not asked or not answers[0]:
            break
        messages = (*messages, *user(asked), *assistant(answers[0]))
    return messages


def dialogue_record(
    record: Record, messages: Messages, *, by: str, replies: Sequence[Completion], **changes: Any
) -> Record:
    """The record of a dialogue: its prompt ends with the first turn of the user, and every answer of the assistant is
    in the completion, so that all of them are trained."""
    first = next(place for place, message in enumerate(messages) if message.role == "user") + 1
    return record.child(
        by=by,
        replies=replies,
        prompt=messages[:first],
        completion=messages[first:],
        rejected=None,
        label=None,
        **changes,
    )
