"""A generator and a gate of your own, beside the shipped ones.

    python examples/custom_parts.py            # on the embedded teacher
    python examples/custom_parts.py --fake     # on a scripted one, in a second

A generator is a coroutine: it gets the parents, the ability to ask (`generate`) and a random generator of its own, and
returns child records. A gate says why a record is dropped. Both are dataclasses: their fields are their configuration.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar

import kdaug as kd


@dataclass(frozen=True)
class Translate:
    """Asks for the prompt in another language: one child for each language."""

    languages: tuple[str, ...] = ("French", "German")
    name: ClassVar[str] = "translate"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(self, parents: Sequence[kd.Record], generate: kd.Generate, rng: Random) -> list[kd.Record]:
        (parent,) = parents
        children = []
        for language in self.languages:
            asked = f"Translate into {language}. Reply with the translation only.\n\n{parent.instruction}"
            reply = await generate(asked, temperature=0.0, max_tokens=128)
            children.append(parent.child(by=f"translate/{language}", prompt=kd.user(reply.text), replies=[reply]))
        return children


@dataclass
class AtMostWords(kd.Gate):
    """Drops prompts of too many words, and says how many there were."""

    most: int = 60
    name: ClassVar[str] = "at_most_words"

    def decide(self, prepared: kd.Prepared) -> kd.Drop | None:
        words = len(prepared.record.instruction.split())
        return kd.Drop("at_most_words:too_long", {"words": words, "most": self.most}) if words > self.most else None


def recipe() -> kd.Recipe:
    seeds = [kd.Record(prompt=kd.user(text)) for text in ("Name three rivers.", "Why is the sky blue?")]
    stages = [kd.Stage(Translate(), [AtMostWords(40)]), kd.Stage(kd.Respond(max_tokens=64, keep_cut=True))]
    return kd.Recipe(kd.Each(seeds), stages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fake", action="store_true", help="use a scripted teacher")
    parser.add_argument("--out", type=Path, help="the run folder (default: a temporary one)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        teacher: kd.Teacher = kd.Fake() if given.fake else kd.Local()
        for record in kd.run(recipe(), given.out or Path(folder) / "run", teacher=teacher):
            assert record.completion is not None
            print(f"{record.by}: {record.prompt[0].content!r} -> {record.completion[0].content!r}")


if __name__ == "__main__":
    main()
