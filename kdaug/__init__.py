"""kdaug: from seed tasks and a teacher to a dataset and a student.

    import kdaug as kd

    seeds = kd.read("seeds.jsonl")
    stages = [kd.Stage(kd.SelfInstruct(), [kd.Rouge(0.7)]), kd.Stage(kd.Respond(), [kd.Dedup(0.9)])]
    recipe = kd.Recipe(kd.GrowingPool(seeds), stages, target=1000)
    data = kd.run(recipe, out="runs/first", teacher=kd.Local())

Names are loaded when they are first used, so that `import kdaug` is quick and needs no heavy library.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public names and where they live.
_HOMES = {
    "kdaug.dataset": ("Dataset",),
    "kdaug.engine": ("Stage",),
    "kdaug.errors": ("ConfigError", "KdaugError", "ParseError", "TeacherError"),
    "kdaug.gate": ("Gate", "Prepared"),
    "kdaug.gates.dedup": ("Dedup",),
    "kdaug.gates.heuristics": ("Heuristics",),
    "kdaug.gates.instructions": ("InstructionFilters",),
    "kdaug.gates.judge": ("Judge",),
    "kdaug.gates.rouge": ("Rouge",),
    "kdaug.generator": ("Generate", "Generator"),
    "kdaug.generators.evol_instruct": ("EvolInstruct",),
    "kdaug.generators.feedback": ("Feedback",),
    "kdaug.generators.instances": ("Instances",),
    "kdaug.generators.pass_through": ("Pass",),
    "kdaug.generators.respond": ("Respond",),
    "kdaug.generators.self_instruct": ("SelfInstruct",),
    "kdaug.generators.self_knowledge": ("SelfKnowledge",),
    "kdaug.prompts": ("render",),
    "kdaug.read": ("read",),
    "kdaug.recipe": ("Recipe",),
    "kdaug.record": ("Discarded", "Drop", "Message", "Record", "assistant", "system", "user"),
    "kdaug.running": ("arun", "run"),
    "kdaug.source": ("Each", "GrowingPool"),
    "kdaug.teacher": ("Completion", "Request", "Sampling", "Teacher"),
    "kdaug.teachers.fake": ("Fake",),
    "kdaug.teachers.local": ("Local",),
    "kdaug.teachers.openai": ("OpenAI",),
    "kdaug.teachers.retry": ("Retry",),
    "kdaug.teachers.vllm": ("VLLM",),
    "kdaug.train.evaluate": ("evaluate",),
    "kdaug.train.preference": ("DPO",),
    "kdaug.train.prune": ("prune",),
    "kdaug.train.sft": ("SFT",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"kdaug has no {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
