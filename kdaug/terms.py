"""Under whose terms a teacher's words come: facts by the model's name, and "unknown" where the name does not tell.

No legal advice: a licence or contract is named and linked, its rule on training other models is put in a few words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Terms:
    """`licence`: the Hub's identifier where it has one, else a name, else "unknown". `note`: the rule on training
    other models on the output, or why it is unknown."""

    licence: str
    url: str = ""
    note: str = ""

    @property
    def known(self) -> bool:
        return self.licence != UNKNOWN


_FREE = "no rule on what is trained on the output"
_APACHE = Terms("apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0", _FREE)
_MIT = Terms("mit", "https://opensource.org/license/mit", _FREE)
_BY_MODEL = Terms(UNKNOWN, "", "differs by model in this family: see the model's own card")


def _llama(version: str, licence: str) -> Terms:
    """From 3.1 on a model trained on the output has to carry "Llama" in its name; before, only Llama might be."""
    old = version in ("2", "3")
    note = (
        f"the output must not improve any other large language model than Llama {version} and its derivatives"
        if old
        else 'a model trained on the output must have a name that starts with "Llama", and say "Built with Llama"'
    )
    return Terms(licence, f"https://www.llama.com/llama{version.replace('.', '_')}/license/", note)


# (host organisations, pattern of the model's name, terms), the first match counts. A name without an organisation is
# matched by the pattern alone; another organisation's model of the same name is a derivative, so unknown.
_TABLE: tuple[tuple[tuple[str, ...], str, Terms], ...] = (
    (("openai",), r"gpt-oss-", _APACHE),
    (("openai-community",), r"gpt2", _MIT),
    (
        ("openai",),
        r"(gpt-[345]|chatgpt-|o[134](-|$))",
        Terms(
            "OpenAI terms of use",
            "https://openai.com/policies/terms-of-use/",
            "the output must not be used to develop models that compete with OpenAI",
        ),
    ),
    (
        ("anthropic",),
        r"claude-",
        Terms(
            "Anthropic commercial terms",
            "https://www.anthropic.com/legal/commercial-terms",
            "no building of competing products, training of competing models included",
        ),
    ),
    (
        ("google",),
        r"gemini-",
        Terms(
            "Gemini API terms",
            "https://ai.google.dev/gemini-api/terms",
            "the service must not be used to develop models that compete with it",
        ),
    ),
    (
        ("google",),
        r"(gemma-(\d+b|1\.1|2|3)(-|$)|gemma-3n-)",
        Terms(
            "gemma",
            "https://ai.google.dev/gemma/terms",
            "a model trained on the output to behave like Gemma counts as its derivative: the terms go with it",
        ),
    ),
    (("meta-llama",), r"llama-2-", _llama("2", "llama2")),
    (("meta-llama",), r"(meta-)?llama-3\.1-", _llama("3.1", "llama3.1")),
    (("meta-llama",), r"llama-3\.2-", _llama("3.2", "llama3.2")),
    (("meta-llama",), r"llama-3\.3-", _llama("3.3", "llama3.3")),
    (("meta-llama",), r"(meta-)?llama-3-", _llama("3", "llama3")),
    (("meta-llama",), r"llama-4-", _llama("4", "llama4")),
    (("qwen",), r"(qwen3-(coder-|next-)?\d+(\.\d+)?b|qwq-32b)", _APACHE),
    (("qwen",), r"qwen2\.5-(coder-|math-)?(0\.5|1\.5|7|14|32)b", _APACHE),
    (("qwen",), r"qwen2-(0\.5|1\.5|7)b", _APACHE),
    (
        ("qwen",),
        r"qwen2\.5-(coder-)?3b",
        Terms(
            "Qwen research licence",
            "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE",
            "non-commercial use only",
        ),
    ),
    (
        ("qwen",),
        r"qwen2\.5-(math-)?72b",
        Terms(
            "Qwen licence",
            "https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE",
            'a model trained on the output must say "Built with Qwen" or "Improved using Qwen"',
        ),
    ),
    (("huggingfacetb",), r"smollm[23]?-", _APACHE),
    (("microsoft",), r"(phi-(1|1_5|2)$|phi-(3|3\.5|4)(-|$))", _MIT),
    (("deepseek-ai",), r"deepseek-r1-distill-llama-", _BY_MODEL),  # MIT on top of a Llama licence
    (("deepseek-ai",), r"deepseek-(r1|r1-zero|r1-0528|r1-distill-qwen-.*|v3-0324|v3\.1)$", _MIT),
    (
        ("deepseek-ai",),
        r"deepseek-(chat|reasoner)$",
        Terms(
            "DeepSeek open platform terms",
            "https://cdn.deepseek.com/policies/en-US/deepseek-open-platform-terms-of-service.html",
            "training other models on the output is allowed, distillation named",
        ),
    ),
    (("mistralai",), r"(mistral-7b-|mixtral-8x(7|22)b-|mistral-nemo-)", _APACHE),
    (("tinyllama",), r"tinyllama-1\.1b", _APACHE),
    (("eleutherai",), r"pythia-", _APACHE),
    (
        ("openai", "google", "meta-llama", "qwen", "mistralai", "deepseek-ai"),
        r"(gpt|gemma|llama|qwen|mistral|mixtral|ministral|codestral|deepseek)",
        _BY_MODEL,
    ),
)

_NOBODY = Terms("none", "", "scripted replies, no model")


def terms_of(teacher: str) -> Terms:
    """The terms of a teacher by its name (`openai:gpt-4o`, `vllm:Qwen/Qwen3-32B`, `local:SmolLM2-135M-Instruct`).

    A model keeps its terms whoever serves it, so the kind of endpoint says nothing. An adapter (`?lora=`) adds terms of
    its own, which its name does not tell.
    """
    kind, _, model = teacher.partition(":")
    if kind == "fake":
        return _NOBODY
    if "?lora=" in model:
        base = terms_of(teacher.partition("?lora=")[0])
        return Terms(UNKNOWN, "", f"an adapter on a model under {base.licence}: see the adapter's own card")
    organisation, name = _model(model or kind)
    for organisations, pattern, terms in _TABLE:
        if organisation in ("", *organisations) and re.match(pattern, name):
            return terms
    return Terms(UNKNOWN)


def _model(model: str) -> tuple[str, str]:
    """(organisation or "", name), both lower-case; of a path the last folder alone, of a revision nothing."""
    plain = re.split(r"[?@]", model.replace("\\", "/"), maxsplit=1)[0].rstrip("/").lower()
    before, _, name = plain.rpartition("/")
    is_path = plain.startswith(("/", ".", "~")) or "/" in before
    return ("" if is_path else before), name


def shared_licence(teachers: list[Terms]) -> str | None:
    """The Hub identifier for a dataset's card: the licence that all agree on, `other` where they do not or the Hub
    has no identifier for it, None where one is unknown or there is nothing to say."""
    licences = {t.licence for t in teachers if t != _NOBODY}
    if not licences or UNKNOWN in licences:
        return None
    (first, *others) = sorted(licences)
    return first if not others and first in HUB_LICENCES else "other"


# Of the identifiers at https://huggingface.co/docs/hub/repositories-licenses, those that the table above has.
HUB_LICENCES = frozenset(
    {"apache-2.0", "mit", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"}
)
