"""The layer rule of docs/design.md, read from the syntax trees, and what `import kdaug` may pull in."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kdaug

PACKAGE = Path(kdaug.__file__).parent

# Row by row; a module imports only from rows above its own, or from its own row within one folder.
ROWS = (
    ("errors", "record"),
    (
        *("teacher", "batcher", "device", "generator", "seeds", "source", "gate"),
        *("prompts", "parsing", "judging", "answers", "structured", "sketch", "plain_yaml", "declared", "address"),
        *(
            "words",
            "overlap",
            "intervals",
            "sandbox",
            "jail",
            "seccomp",
            "voting",
            "erasure",
            "pairs",
            "samples",
            "dialogue",
            "worker",
            "queries",
            "equality",
            "schemas",
            "harness",
            "programs",
            "references",
            "openapi",
            "tool_definitions",
            "mcp_session",
            "toolbox",
            "tool_traces",
            "api_calls",
        ),
    ),
    (
        *(
            "logprobs",
            "database",
            "journal",
            "tallies",
            "prices",
            "budget",
            "lull",
            "calls",
            "scope",
            "stage",
            "work",
            "engine",
        ),
        *(
            "recipe",
            "facts",
            "identity",
            "running",
            "progress",
            "read",
            "documents",
            "attributes",
            "shapes",
            "rows",
            "dataset",
            "parquet",
            "dropped",
            "columns",
            "export",
            "hub",
        ),
        *(
            "card",
            "judges",
            "selector",
            "terms",
            "models",
            "gguf",
            "chat",
            "embedding",
            "sequence_model",
            "static_embedding",
            "vectors",
            "approximate",
            "retrieval",
        ),
    ),
    ("teachers", "generators", "gates", "selectors", "train"),
    (
        *(
            "recipes",
            "recipe_file",
            "coercion",
            "teacher_specs",
            "curate",
            "mix",
            "check",
            "judge_check",
            "estimate",
            "show",
            "doctor",
            "batches",
        ),
        *("loop", "loop_plan", "runnable", "diversity", "topics", "survey", "measures", "plots", "page", "report"),
        *("methods", "method_pages", "scaffold"),
    ),
    ("cli", "__main__"),
)
FOLDERS = ROWS[3]
HEAVY = {
    "aiohttp",
    "datasets",
    "faiss",
    "huggingface_hub",
    "markitdown",
    "jinja2",
    "json_repair",
    "jsonschema",
    "langchain_core",
    "lingua",
    "math_verify",
    "mcp",
    "matplotlib",
    "model2vec",
    "numba",
    "numpy",
    "openai",
    "plotly",
    "pyarrow",
    "rensa",
    "rich",
    "sentence_transformers",
    "torch",
    "transformers",
    "vllm",
}

# Modules that are one heavy library's through and through; they are themselves imported inside functions.
COMPILED = {"gates.compiled": {"numpy"}, "gates.kernels": {"numba", "numpy"}, "gates.postings": {"numpy"}}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] != "templates" and inside != Path("__init__.py"):
            yield ".".join(inside.with_suffix("").parts), ast.parse(path.read_text(encoding="utf-8"))


def row(module: str) -> int:
    top = module.split(".")[0]
    found = [number for number, names in enumerate(ROWS) if top in names]
    assert found, f"kdaug/{module} stands in no row of tests/test_layers.py: give it its place"
    return found[0]


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime_nodes(node)


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module of kdaug that is imported, wherever the statement stands, but for types alone."""
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("kdaug.") for a in node.names if a.name.startswith("kdaug."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kdaug":
            inner = node.module.removeprefix("kdaug").removeprefix(".")
            for alias in node.names:
                name = f"{inner}.{alias.name}".removeprefix(".")
                is_module = (PACKAGE / f"{name.replace('.', '/')}.py").exists()
                if inner or is_module:
                    yield name if is_module else inner


def test_every_module_imports_only_from_rows_above_or_its_own() -> None:
    wrong = []
    for module, tree in modules():
        for other in imports(tree):
            mine, theirs = row(module), row(other)
            top, other_top = module.split(".")[0], other.split(".")[0]
            if theirs > mine or (top in FOLDERS and other_top in FOLDERS and top != other_top):
                wrong.append(f"{module} imports {other}")
    assert wrong == []


def test_heavy_libraries_are_imported_inside_the_functions_that_use_them() -> None:
    wrong = []
    for module, tree in modules():
        for node in tree.body:
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            wrong += [f"{module} imports {n} at its top" for n in names if _is_heavy(n, module)]
    assert wrong == []


def _is_heavy(name: str, module: str) -> bool:
    if module not in COMPILED and name.removeprefix("kdaug.") in COMPILED:
        return True
    return name.split(".")[0] in HEAVY - COMPILED.get(module, set())


def test_import_kdaug_and_help_pull_in_nothing_heavy() -> None:
    code = """
import sys, kdaug
from kdaug.cli import parser
parser().format_help()
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)


def test_every_public_name_is_there() -> None:
    assert kdaug.__all__ == sorted(kdaug.__all__)
    for name in kdaug.__all__:
        assert getattr(kdaug, name) is not None
    # Also where the submodule of the same name was imported first.
    code = "import kdaug.recipes, kdaug.mix, kdaug as kd; assert all(map(callable, (kd.read, kd.curate, kd.mix)))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(kdaug.__all__) <= set(dir(kdaug))
