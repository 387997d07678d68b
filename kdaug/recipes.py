"""Recipes as YAML, and teachers as `kind:model?key=value` strings. Errors name file, line and field."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug import prompts
from kdaug.address import load_class
from kdaug.attributes import Attributes
from kdaug.coercion import coerced
from kdaug.curate import curating, stages_of
from kdaug.documents import Chunks, Snippets
from kdaug.errors import ConfigError
from kdaug.gate import Gate
from kdaug.prices import Price
from kdaug.recipe import Recipe
from kdaug.recipe_file import CAPS, RecipeFile, unknown
from kdaug.record import Record
from kdaug.rows import Rows
from kdaug.source import Each, GrowingPool, Source, WithOthers
from kdaug.stage import Stage
from kdaug.teacher_specs import TEACHERS as TEACHERS
from kdaug.teacher_specs import teacher as teacher

if TYPE_CHECKING:
    from kdaug.loop_plan import Plan

# Parts by their short names. A new method adds one line here; `package.module:Class` and the entry-point group
# `kdaug.parts` work without one.
GENERATORS = {
    "self_instruct": "kdaug.generators.self_instruct:SelfInstruct",
    "instances": "kdaug.generators.instances:Instances",
    "selfee": "kdaug.generators.selfee:SelFee",
    "self_refine": "kdaug.generators.self_refine:SelfRefine",
    "self_align": "kdaug.generators.self_align:SelfAlign",
    "constitutional": "kdaug.generators.constitutional:Constitutional",
    "rlaif": "kdaug.generators.rlaif:Rlaif",
    "annotate": "kdaug.generators.annotate:Annotate",
    "panel": "kdaug.generators.panel:Panel",
    "best_of_n_preference": "kdaug.generators.best_of_n_preference:BestOfN",
    "reward_data": "kdaug.generators.reward_data:RewardData",
    "rlcd": "kdaug.generators.rlcd:Rlcd",
    "almost": "kdaug.generators.almost:Almost",
    "ultrafeedback": "kdaug.generators.ultrafeedback:UltraFeedback",
    "evol_instruct": "kdaug.generators.evol_instruct:EvolInstruct",
    "alpaca": "kdaug.generators.alpaca:Alpaca",
    "evol_code": "kdaug.generators.evol_code:EvolCode",
    "agent_instruct": "kdaug.generators.agent_instruct:AgentInstruct",
    "document_qa": "kdaug.generators.document_qa:DocumentQA",
    "document_summary": "kdaug.generators.document_summary:DocumentSummary",
    "humpback": "kdaug.generators.humpback:Humpback",
    "swap": "kdaug.generators.humpback:Swap",
    "tag": "kdaug.generators.humpback:Tag",
    "oss_instruct": "kdaug.generators.oss_instruct:OssInstruct",
    "magpie": "kdaug.generators.magpie:Magpie",
    "fusion": "kdaug.generators.fusion:Fusion",
    "rewrite": "kdaug.generators.rewrite:Rewrite",
    "attributed": "kdaug.generators.attributed:Attributed",
    "topic_tree": "kdaug.generators.topic_tree:TopicTree",
    "glan": "kdaug.generators.glan:Glan",
    "glan_subjects": "kdaug.generators.glan:GlanSubjects",
    "personas": "kdaug.generators.persona_hub:Personas",
    "persona_task": "kdaug.generators.persona_hub:PersonaTask",
    "evol_math": "kdaug.generators.evol_math:EvolMath",
    "auto_evol": "kdaug.generators.auto_evol:AutoEvol",
    "feedback": "kdaug.generators.feedback:Feedback",
    "lion": "kdaug.generators.lion:Lion",
    "llm2llm": "kdaug.generators.llm2llm:LLM2LLM",
    "reflection_tuning": "kdaug.generators.reflection_tuning:ReflectionTuning",
    "selective_reflection": "kdaug.generators.reflection_tuning:SelectiveReflection",
    "star": "kdaug.generators.star:STaR",
    "spin": "kdaug.generators.spin:Spin",
    "rest_em": "kdaug.generators.rest_em:RestEM",
    "self_rewarding": "kdaug.generators.self_rewarding:SelfRewarding",
    "self_knowledge": "kdaug.generators.self_knowledge:SelfKnowledge",
    "tool_queries": "kdaug.generators.tool_queries:ToolQueries",
    "dfsdt": "kdaug.generators.dfsdt:Dfsdt",
    "planning": "kdaug.generators.planning:Planning",
    "toolalpaca_tools": "kdaug.generators.toolalpaca_tools:ToolAlpacaTools",
    "toolalpaca": "kdaug.generators.toolalpaca:ToolAlpaca",
    "gorilla": "kdaug.generators.gorilla:Gorilla",
    "passage_queries": "kdaug.generators.passage_queries:PassageQueries",
    "judge_data": "kdaug.generators.judge_data:JudgeData",
    "aug_gpt": "kdaug.generators.aug_gpt:AugGpt",
    "zero_gen": "kdaug.generators.zero_gen:ZeroGen",
    "recommend": "kdaug.generators.recommend:Recommend",
    "long_reasoning": "kdaug.generators.long_reasoning:LongReasoning",
    "long_to_short": "kdaug.generators.long_to_short:LongToShort",
    "raft": "kdaug.generators.raft:Raft",
    "self_rag": "kdaug.generators.self_rag:SelfRag",
    "sail": "kdaug.generators.sail:Sail",
    "apigen": "kdaug.generators.apigen:ApiGen",
    "respond": "kdaug.generators.respond:Respond",
    "persd": "kdaug.generators.persd:Persd",
    "text_to_sql": "kdaug.generators.text_to_sql:TextToSql",
    "unit_tests": "kdaug.generators.unit_tests:UnitTests",
    "orca": "kdaug.generators.orca:Orca",
    "orca2": "kdaug.generators.orca2:Orca2",
    "lmsi": "kdaug.generators.lmsi:Lmsi",
    "baize": "kdaug.generators.baize:Baize",
    "ultrachat": "kdaug.generators.ultrachat:UltraChat",
    "ultrachat_openings": "kdaug.generators.ultrachat_openings:UltraChatOpenings",
    "pass": "kdaug.generators.pass_through:Pass",
}
GATES = {
    "copies": "kdaug.gates.copies:Copies",
    "cap": "kdaug.gates.cap:Cap",
    "instructions": "kdaug.gates.instructions:InstructionFilters",
    "product": "kdaug.gates.product:Product",
    "coverage": "kdaug.gates.coverage:Coverage",
    "same_text": "kdaug.gates.same_text:SameText",
    "rouge": "kdaug.gates.rouge:Rouge",
    "minhash": "kdaug.gates.minhash:MinHash",
    "dedup": "kdaug.gates.dedup:Dedup",
    "heuristics": "kdaug.gates.heuristics:Heuristics",
    "judge": "kdaug.gates.judge:Judge",
    "decontaminate": "kdaug.gates.decontaminate:Decontaminate",
    "pairwise": "kdaug.gates.pairwise:Pairwise",
    "deita": "kdaug.gates.deita:DeitaScores",
    "ifd": "kdaug.gates.ifd:Ifd",
    "tags": "kdaug.gates.tags:Tags",
    "reward": "kdaug.gates.reward:Reward",
    "pii": "kdaug.gates.pii:Pii",
    "toxicity": "kdaug.gates.toxicity:Toxicity",
    "language": "kdaug.gates.language:InLanguage",
    "readability": "kdaug.gates.readability:Readability",
    "code": "kdaug.gates.code:Code",
    "api_call": "kdaug.gates.api_call:ApiCall",
    "round_trip": "kdaug.gates.round_trip:RoundTrip",
    "maths": "kdaug.gates.maths:Maths",
    "json_schema": "kdaug.gates.json_schema:JsonSchema",
    "tool_calls": "kdaug.gates.tool_calls:ToolCalls",
    "sql": "kdaug.gates.sql:Sql",
    "grounded": "kdaug.gates.grounded:Grounded",
    "votes": "kdaug.gates.votes:Votes",
    "injection": "kdaug.gates.injection:Injection",
}
SELECTORS = {
    "deita": "kdaug.selectors.deita:Deita",
    "k_center": "kdaug.selectors.k_center:KCenter",
    "quota": "kdaug.selectors.quota:Quota",
    "balance": "kdaug.selectors.balance:Balance",
    "top_k": "kdaug.selectors.top_k:TopK",
    "sun_gen": "kdaug.selectors.sun_gen:SunGen",
}
TRAINERS = {
    "sft": "kdaug.train.sft:SFT",
    "distill": "kdaug.train.distill:Distill",
    "preference": "kdaug.train.preference:Preference",
    "dpo": "kdaug.train.preference:Preference",
}
SOURCES = {
    "each": Each,
    "growing_pool": GrowingPool,
    "with_others": WithOthers,
    "chunks": Chunks,
    "snippets": Snippets,
    "attributes": Attributes,
}
ENTRY_POINTS = "kdaug.parts"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def build(
    file: RecipeFile, seeds: Sequence[Record] | Rows, *, seeds_from: str = "", templates: Path | None = None
) -> Recipe:
    """The recipe that a file describes, over `seeds` or the rows of data to curate."""
    plain: dict[str, Any] = {}
    hints = typing.get_type_hints(Recipe)
    for key in ("target", *CAPS, "seed", "holdout"):
        if file.values.get(key) is not None:
            plain[key] = coerced(file, file.values[key], hints[key], key)
    plain["prices"] = _prices(file)
    built = stages_in(file)
    if isinstance(seeds, Rows):
        for name in ("seeds", "source", "holdout", "max_jobs"):
            if file.values.get(name):
                raise file.error("what is curated is the data that is given, all of it: leave this out", name)
        source: Source = seeds
        built = curating(built)
    else:
        source = _source(file, seeds)
    if file.values.get("select") is not None:
        plain["select"] = _make(file, SELECTORS, "selector", file.values["select"], "select")
    if file.values.get("judge_checks"):
        plain["judge_checks"] = coerced(file, file.values["judge_checks"], Sequence[Path], "judge_checks")
    try:
        return Recipe(source, built, name=file.name, seeds_from=seeds_from, templates=templates, **plain)
    except ConfigError as e:
        name, _, wrong = str(e).partition(" ")
        if name in file.options:
            raise ConfigError(f"--{name.replace('_', '-')} {wrong}") from e
        raise file.error(str(e)) from e


def seeds_of(file: RecipeFile, given: str | None = None) -> str:
    """Where a recipe's seeds are, if not in what is `given`: a path from here or from beside the recipe, one of those
    that are shipped, or else a Hub dataset. Raises ConfigError where there are none."""
    written = given or file.values.get("seeds")
    if written is None:
        raise ConfigError(f"{file.where}: no seeds: give them with --seeds PATH (JSONL, one task a line)")
    if not isinstance(written, str):
        raise file.error(f"expected the name of a file, a folder or a Hub dataset, found {written!r}", "seeds")
    shipped, beside = prompts.shipped() / "seeds" / written, Path(file.where).parent / written
    return next((str(path) for path in (Path(written), beside, shipped) if path.exists()), written)


def plan_of(file: RecipeFile) -> Plan:
    """How the rounds of `kdaug loop` follow each other: the block `loop` of a recipe. Raises ConfigError."""
    from kdaug.loop_plan import Measure, Plan

    written = file.values.get("loop")
    if not isinstance(written, dict) or "train" not in written:
        raise file.error("`kdaug loop` needs a block `loop` with `train`, such as loop: {train: sft}", "loop")
    fields = {str(name): value for name, value in written.items()}
    for name in ("train", "first"):
        if fields.get(name) is not None:
            fields[name] = _make(file, TRAINERS, "trainer", fields[name], "loop", name)
    if (measure := fields.get("evaluate")) is not None:
        if not isinstance(measure, dict) or not isinstance(measure.get("tasks"), str):
            raise file.error("expected {tasks: FILE, metric: …}", "loop", "evaluate")
        tasks = [(file.folder or Path()) / measure["tasks"], Path(measure["tasks"])]
        found = next((path for path in tasks if path.is_file()), None)
        if found is None:
            raise file.error(f"no file {measure['tasks']!r}, here or beside the recipe", "loop", "evaluate", "tasks")
        fields["evaluate"] = _construct(file, Measure, {**measure, "tasks": str(found)}, "loop", "evaluate")
    plan: Plan = _construct(file, Plan, fields, "loop")
    return plan


def _prices(file: RecipeFile) -> dict[str, Price]:
    """`prices: {gpt-x: {input: 0.4, output: 1.6}}`, in US dollars per million tokens."""
    written = file.values.get("prices") or {}
    if not isinstance(written, dict):
        raise file.error("expected a mapping from model to {input: …, output: …}", "prices")
    found: dict[str, Price] = {}
    for model, price in written.items():
        if not isinstance(price, dict) or price.keys() != {"input", "output"}:
            raise file.error("expected {input: …, output: …}, US dollars per million tokens", "prices", str(model))
        figures = [coerced(file, price[side], float, "prices", str(model), side) for side in ("input", "output")]
        found[str(model)] = Price(*figures)
    return found


def _source(file: RecipeFile, seeds: Sequence[Record]) -> Source:
    name, arguments = _part(file, file.values.get("source") or "each", "source")
    if name not in SOURCES:
        raise file.error(unknown("source", name, tuple(SOURCES)), "source")
    made: Source = _construct(file, SOURCES[name], {"seeds": seeds, **arguments}, "source", name)
    return made


def stages_in(file: RecipeFile) -> list[Stage]:
    """What a file has: `stages`, or `gates` alone: stages of `pass` (see `stages_of`)."""
    stages, gates = file.values.get("stages"), file.values.get("gates")
    if gates is not None:
        if stages is not None or not isinstance(gates, list):
            raise file.error("expected a list of gates, and no `stages` beside it", "gates")
        return stages_of(_gates(file, gates, "gates"))
    if not isinstance(stages, list) or not stages:
        raise file.error("expected a list with at least one stage (or `gates:`, a list of gates alone)", "stages")
    return [_stage(file, stage, number) for number, stage in enumerate(stages)]


def _gates(file: RecipeFile, gates: Sequence[object], *at: str | int) -> list[Gate]:
    return [_make(file, GATES, "gate", gate, *at, number) for number, gate in enumerate(gates)]


def _stage(file: RecipeFile, stage: object, number: int) -> Stage:
    at = ("stages", number)
    if not isinstance(stage, dict) or "generator" not in stage:
        raise file.error("a stage is a mapping with `generator` (and perhaps `gates` and `window`)", *at)
    for key in stage:
        if key not in ("generator", "gates", "window"):
            raise file.error(unknown("field", str(key), ("generator", "gates", "window")), *at, str(key))
    gates = stage.get("gates") or []
    if not isinstance(gates, list):
        raise file.error("expected a list of gates", *at, "gates")
    window = stage.get("window")
    if window is not None:
        window = coerced(file, window, int, *at, "window")
    generator = _make(file, GENERATORS, "generator", stage["generator"], *at, "generator")
    return Stage(generator, _gates(file, gates, *at, "gates"), window)


def keep_logprobs(file: RecipeFile, top_k: int) -> None:
    """What `--logprobs` means: the stage that gives the final answers keeps its teacher's `top_k` likeliest tokens at
    each step. Raises ConfigError where that stage's generator cannot."""
    if top_k < 1:
        raise ConfigError(f"--logprobs {top_k}: at least 1; to keep none, leave it out")
    stages = file.values.get("stages")
    asking = [s for s in stages or () if isinstance(s, dict) and s.get("generator") not in (None, "pass")]
    if not isinstance(stages, list) or not asking:
        raise ConfigError(f"--logprobs: no stage of {file.where} asks a teacher")
    at = ("stages", stages.index(asking[-1]), "generator")
    name, arguments = _part(file, asking[-1]["generator"], *at)
    if "logprobs" not in inspect.signature(_class_of(file, GENERATORS, "generator", name, *at)).parameters:
        raise ConfigError(
            f"--logprobs: {file.where} gets its final answers from {name}, which keeps no log-probabilities: let "
            "`kdaug run respond --seeds RUN --logprobs N` answer the prompts that this recipe makes"
        )
    asking[-1]["generator"] = {name: {**arguments, "logprobs": top_k}}


def _make(file: RecipeFile, table: Mapping[str, str], what: str, written: object, *at: str | int) -> Any:
    name, arguments = _part(file, written, *at)
    return _construct(file, _class_of(file, table, what, name, *at), arguments, *at, name)


def _class_of(file: RecipeFile, table: Mapping[str, str], what: str, name: str, *at: str | int) -> Any:
    """What a part's name stands for: one of ours, of an entry point, or of a module."""
    address = table.get(name) or (name if ":" in name else None)
    if address is None:
        found = [p for p in entry_points(group=ENTRY_POINTS) if p.name == name]
        if not found:
            more = tuple(p.name for p in entry_points(group=ENTRY_POINTS))
            raise file.error(unknown(what, name, (*table, *more)) + ", or package.module:Class", *at)
        address = found[0].value
    try:
        return load_class(address, file.folder)
    except ConfigError as e:
        raise file.error(str(e), *at) from e


def _part(file: RecipeFile, written: object, *at: str | int) -> tuple[str, dict[str, Any]]:
    """`name`, or `{name: {field: value}}`."""
    if isinstance(written, str):
        return written, {}
    if isinstance(written, dict) and len(written) == 1:
        [(name, arguments)] = written.items()
        if isinstance(name, str) and (arguments is None or isinstance(arguments, dict)):
            return name, {str(k): v for k, v in (arguments or {}).items()}
    raise file.error("expected a name, or {name: {field: value, …}}", *at)


def _beside(file: RecipeFile, made: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that name a file which lies beside the recipe, or have it as `data` in what they name."""
    if file.folder is None or not dataclasses.is_dataclass(made):
        return {}
    found: dict[str, Any] = {}
    for named in (field for field in dataclasses.fields(made) if field.metadata.get("beside")):
        value = arguments.get(named.name, named.default)
        if isinstance(value, str) and (file.folder / value).is_file():
            found[named.name] = str(file.folder / value)
        elif isinstance(value, Mapping):
            found[named.name] = {name: _data_beside(file.folder, one) for name, one in value.items()}
    return found


def _data_beside(folder: Path, written: object) -> object:
    data = written.get("data") if isinstance(written, dict) else None
    beside = folder / data if isinstance(data, str) else None
    return {**written, "data": str(beside)} if isinstance(written, dict) and beside and beside.exists() else written


def _construct(file: RecipeFile, made: Any, arguments: Mapping[str, Any], *at: str | int) -> Any:
    """The part itself, its fields checked against the types that it declares."""
    known = [n for n in inspect.signature(made).parameters if n != "seeds"]
    hints = typing.get_type_hints(made if dataclasses.is_dataclass(made) else made.__init__)
    checked: dict[str, Any] = _beside(file, made, arguments)
    for key, value in arguments.items():
        if key in checked:
            continue
        if key == "seeds":
            checked[key] = value
            continue
        if key not in known:
            raise file.error(unknown("field", key, tuple(known)), *at, key)
        checked[key] = coerced(file, value, hints.get(key, Any), *at, key)
    needed = (n for n, p in inspect.signature(made).parameters.items() if p.default is p.empty and p.kind in _NAMED)
    if missing := [name for name in needed if name not in checked]:
        raise file.error(f"needs {' and '.join(missing)}: write {{{at[-1]}: {{{missing[0]}: …}}}}", *at)
    try:
        return made(**checked)
    except TypeError as e:
        raise file.error(f"{e}", *at) from e
    except ConfigError as e:
        raise file.error(str(e), *at) from e
