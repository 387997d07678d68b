"""What `package.module:name` stands for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from kdaug.errors import ConfigError


def load_class(address: str, folder: Path | None = None) -> Any:
    """`package.module:Class`, or any other name in a module, which may also lie in `folder`: beside the recipe that
    names it, say. Raises ConfigError."""
    module, _, name = address.partition(":")
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that it hides nothing that is installed
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, SyntaxError, ValueError) as e:
        raise ConfigError(f"cannot import {module} for {address} ({e})") from e
    except AttributeError as e:
        raise ConfigError(f"{module} has no {name}") from e
