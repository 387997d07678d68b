"""YAML as its readers expect it."""

from __future__ import annotations

import re
from typing import Any

import yaml

BOOL, FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"


def plain_yaml(text: str) -> Any:
    """The value of a YAML text: `on`, `off`, `yes` and `no` are words (our gates have a field `on`), 1e-4 is a number.

    Raises yaml.YAMLError, also for a key that stands twice in one mapping, and for a text that is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as e:
        raise yaml.YAMLError("nested too deeply") from e


class _Loader(yaml.SafeLoader):
    """As YAML 1.2 has it; PyYAML keeps to 1.1."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in (BOOL, FLOAT)]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_implicit_resolver(BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    FLOAT,
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF|nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
