"""Instances: inputs and outputs for an instruction, by one of Self-Instruct's two ways (arXiv 2212.10560, §2.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.parsing import Instance, instances_input_first, instances_output_first, says_yes
from kdaug.prompts import converse
from kdaug.record import Discarded, Drop, Record, assistant, user
from kdaug.teacher import Completion

_PARSERS = {"output_first": instances_output_first, "input_first": instances_input_first}


@dataclass(frozen=True)
class Instances:
    """Asks whether an instruction is a classification task, then for instances of it.

    Classification goes output first: the class labels, then an input for each, so that labels are balanced. Any other
    task goes input first, where the input may be absent. At most `max_instances` of the sound ones are kept, drawn at
    random; what is turned down comes out as `Discarded`, e.g. `instances:contradiction`.

    The templates hold examples of our own as turns of a conversation, 16 for the classification test (7 yes, 9 no; the
    paper has 31: 12 and 19).

    Raises ParseError("instances") when the reply holds none.
    """

    max_instances: int = 5  # paper's code
    temperature: float = 0.0  # paper's code
    presence_penalty: float = 1.5  # paper's code
    max_tokens: int = 350  # paper's code (300 for a batch that holds a classification task)
    test_max_tokens: int = 3  # paper's code, for the classification test; more for a model that reasons first

    name: ClassVar[str] = "instances"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.max_instances < 1:
            raise ConfigError(f"instances: max_instances is {self.max_instances}; it must be at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (task,) = parents
        verdict = await generate(
            converse("instances/classification", instruction=task.instruction),
            temperature=0.0,  # paper's code, as the two stops
            max_tokens=self.test_max_tokens,
            stop=("\n", "Task"),
        )
        way = "output_first" if says_yes(verdict.text) else "input_first"
        reply = await generate(
            converse(f"instances/{way}", instruction=task.instruction, count=self.max_instances),
            temperature=self.temperature,
            presence_penalty=self.presence_penalty,
            max_tokens=self.max_tokens,
            stop=(f"Example {self.max_instances + 1}", "Task:"),  # paper's code
        )
        found = _PARSERS[way](reply.text)
        if not found:
            raise ParseError("instances", reply.text)
        drops = verdicts(found, cut=reply.cut, limit=self.max_instances, rng=rng)
        made = [self._child(task, way, instance, (verdict, reply)) for instance in found]
        return [record if drop is None else Discarded(record, drop) for record, drop in zip(made, drops, strict=True)]

    def _child(self, task: Record, way: str, instance: Instance, replies: Sequence[Completion]) -> Record:
        text = f"{task.instruction}\n\n{instance.input}" if instance.input else task.instruction
        return task.child(
            by=f"{self.name}/{way}",
            replies=replies,
            prompt=user(text),
            completion=assistant(instance.output),
            rejected=None,
            label=None,
            meta={"instruction": task.instruction, "input": instance.input},
        )


def verdicts(found: Sequence[Instance], *, cut: bool, limit: int, rng: Random) -> list[Drop | None]:
    """Why each instance of one instruction is turned down, or None (paper's code; order and rules as there).

    A cut reply loses its last instance. Where one input has two outputs, no instance of the instruction can be trusted;
    an empty input may have several.
    """
    drops = [_flaw(instance) for instance in found]
    if cut:
        drops[-1] = Drop("instances:cut")
    sound = [i for i, drop in enumerate(drops) if drop is None]

    outputs: defaultdict[str, set[str]] = defaultdict(set)
    for i in sound:
        outputs[found[i].input].add(found[i].output)
    torn = next((given for given, answers in outputs.items() if given and len(answers) > 1), None)

    unique = {found[i]: i for i in reversed(sound)}  # the first of equals
    kept = sorted(unique.values())
    chosen = set(rng.sample(kept, limit)) if len(kept) > limit else set(kept)
    for i in sound:
        if torn is not None:
            drops[i] = Drop("instances:contradiction", {"input": torn, "outputs": [*sorted(outputs[torn])]})
        elif unique[found[i]] != i:
            drops[i] = Drop("instances:duplicate")
        elif i not in chosen:
            drops[i] = Drop("instances:surplus", {"max_instances": limit})
    return drops


def _flaw(instance: Instance) -> Drop | None:
    if not instance.output:
        return Drop("instances:empty_output")
    if instance.input == instance.output:
        return Drop("instances:output_is_input")
    if instance.input.endswith(":") or instance.output.endswith(":"):
        return Drop("instances:trailing_colon")
    return None
