"""A tree of topics grown from its root, and tasks for each of its leaves (UltraChat's and Orca-Math's kind of
coverage; the survey's curation from topics, arXiv 2402.13116, §3.1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError, TeacherError
from kdaug.generator import Generate, settled
from kdaug.parsing import numbered_list
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, text_of, user
from kdaug.samples import list_items
from kdaug.teacher import Completion
from kdaug.words import words


@dataclass(frozen=True)
class Leaf:
    """A path of topics from the root, and the replies that named them."""

    path: tuple[str, ...]
    replies: tuple[Completion, ...] = ()


@dataclass(frozen=True)
class TopicTree:
    """Grows a tree from a parent's topic, `width` subtopics at each of `depth` levels, and writes `tasks` instructions
    for each leaf.

    Every node is asked for its own children, and is told its path, so that a name like "history" means one thing. A
    topic that is in the tree already is a leaf only once; a node whose reply is no list is a leaf itself. A leaf whose
    tasks are no list, or fail, is a drop. The path is in `meta.attributes.topic`, so the gate `coverage` counts it; it
    is not in the prompt. Answer in a stage of `respond`.
    """

    depth: int = 2
    width: int = 5
    tasks: int = 3
    temperature: float = 0.9
    max_tokens: int = 1024

    name: ClassVar[str] = "topic_tree"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if min(self.depth, self.width, self.tasks) < 1:
            raise ConfigError("topic_tree: depth, width and tasks must be at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (root,) = parents
        leaves = await self._leaves(text_of(root.prompt).strip(), generate)
        results = await settled([self._tasks(leaf, generate.branch(f"tasks.{n}")) for n, leaf in enumerate(leaves)])
        made: list[Record | Discarded] = []
        for leaf, result in zip(leaves, results, strict=True):
            if isinstance(result, TeacherError | ParseError):
                made.append(Discarded(root, Drop(result.reason, {"topic": [*leaf.path], "error": str(result)})))
                continue
            reply, items = result
            for item, flaw in items:
                child = self._child(root, leaf, item, reply)
                made.append(Discarded(child, Drop(f"{self.name}:{flaw}")) if flaw else child)
        return made

    async def _leaves(self, topic: str, generate: Generate) -> list[Leaf]:
        """The lowest level that was reached, in order, each topic once."""
        level, seen = [Leaf((topic,))], {_key(topic)}
        ended: list[Leaf] = []
        for depth in range(self.depth):
            found = await settled([self._below(leaf, generate.branch(f"{depth}.{n}")) for n, leaf in enumerate(level)])
            below: list[Leaf] = []
            for leaf, children in zip(level, found, strict=True):
                new = (
                    [child for child in children if _key(child.path[-1]) not in seen]
                    if isinstance(children, list)
                    else []
                )
                new = list({_key(child.path[-1]): child for child in reversed(new)}.values())[::-1]
                seen.update(_key(child.path[-1]) for child in new)
                below += new
                if not new:
                    ended.append(leaf)
            level = below
        return [*level, *ended]

    async def _below(self, leaf: Leaf, generate: Generate) -> list[Leaf]:
        asked = render(f"{self.name}/subtopics", path=leaf.path, count=self.width)
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        names = numbered_list(reply.text)
        names = names[:-1] if reply.cut else names
        return [Leaf((*leaf.path, name.strip(" .")), (*leaf.replies, reply)) for name in names[: self.width]]

    async def _tasks(self, leaf: Leaf, generate: Generate) -> tuple[Completion, list[tuple[str, str | None]]]:
        asked = render(f"{self.name}/tasks", path=leaf.path, count=self.tasks)
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        return reply, list_items(reply, self.tasks)

    def _child(self, root: Record, leaf: Leaf, item: str, reply: Completion) -> Record:
        return root.child(
            by=self.name,
            replies=[*leaf.replies, reply],
            prompt=user(item),
            completion=None,
            rejected=None,
            label=None,
            meta={"attributes": {"topic": " > ".join(leaf.path[1:]) or leaf.path[0]}},
        )


def _key(topic: str) -> str:
    return " ".join(words(topic)) or topic
