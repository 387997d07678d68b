"""kdaug: from seed tasks and a teacher to a dataset and a student.

    import kdaug as kd

    seeds = kd.read("seeds.jsonl")
    stages = [kd.Stage(kd.SelfInstruct(), [kd.Rouge(0.7)]), kd.Stage(kd.Respond(), [kd.Dedup(0.9)])]
    recipe = kd.Recipe(kd.GrowingPool(seeds), stages, target=1000)
    data = kd.run(recipe, out="runs/first", teacher=kd.Local())

Names (all of them: `__init__.pyi`) are loaded when they are first used, so that `import kdaug` is quick and needs no
heavy library.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_HOME_OF = {name: home for home, name in re.findall(r"^from (\S+) import (\w+) as", _STUB, re.MULTILINE)}
__all__ = sorted(_HOME_OF)


class _Package(ModuleType):
    """An import sets a submodule as an attribute of its package: `read`, `curate` and `mix` stay the functions."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"kdaug has no {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
