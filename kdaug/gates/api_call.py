"""A gate that holds the API call in an answer against its seed's (Gorilla, arXiv 2305.15334, §3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from kdaug.api_calls import calls_in, verdict_of
from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.programs import code_block
from kdaug.record import Drop, Record, text_of


@dataclass(frozen=True)
class ApiCall(Gate):
    """Compares the call in a record's answer with the completion of the seed that it comes from, as syntax trees.

    `api_call:hallucination`: an API that no seed has; `api_call:wrong`: one that another seed has, or this one without
    an argument that it must have; `api_call:syntax`: no Python; `api_call:no_reference`: it comes from no seed.
    """

    _references: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    name: ClassVar[str] = "api_call"

    def start(self, seeds: Sequence[Record]) -> ApiCall:
        if not seeds:
            raise ConfigError(
                "api_call: it compares with the completions of the seeds, and there are none here, as `kdaug curate` "
                "has no seeds: use it in `kdaug run RECIPE --seeds CALLS`"
            )
        live = ApiCall()
        for seed in seeds:
            call = text_of(seed.completion)
            try:
                if not calls_in(call):
                    raise ConfigError(f"api_call: the completion of seed {seed.id} is no call: {call!r}")
            except SyntaxError as e:
                raise ConfigError(f"api_call: the completion of seed {seed.id} is no Python: {e}") from e
            live._references[seed.id] = call
        return live

    def decide(self, prepared: Prepared) -> Drop | None:
        record = prepared.record
        made_from = [*record.parents, *record.roots]
        reference = next((self._references[i] for i in made_from if i in self._references), None)
        if reference is None:
            return Drop("api_call:no_reference")
        code = code_block(text_of(record.completion))
        verdict = verdict_of(code, reference, [*self._references.values()])
        return None if verdict == "match" else Drop(f"api_call:{verdict}", {"code": code, "reference": reference})
