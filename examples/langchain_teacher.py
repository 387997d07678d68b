"""LangChain on both sides: one of its chat models as the teacher, and a generator of kdaug as a part of its chains.

    pip install 'kdaug[langchain]'
    python examples/langchain_teacher.py                    # on LangChain's own scripted model, in a second
    python examples/langchain_teacher.py langchain_openai:ChatOpenAI gpt-x     # on a model of yours

With the command line: kdaug run respond --teacher 'langchain:langchain_openai:ChatOpenAI?model=gpt-x'
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda

import kdaug as kd

TASKS = ("Name three rivers.", "Why is the sky blue?", "What does a bee eat?")


def scripted() -> BaseChatModel:
    """A model that says what it is told to; a real one goes here."""
    used = {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14}
    replies = (AIMessage(f"Answer {n}.", usage_metadata=used) for n in range(100))
    return GenericFakeChatModel(messages=replies)


def run(teacher: kd.Teacher, out: Path) -> None:
    """A run like any other: journalled, resumable, with a card."""
    seeds = [kd.Record(prompt=kd.user(task)) for task in TASKS]
    recipe = kd.Recipe(kd.Each(seeds), [kd.Stage(kd.Respond(max_tokens=64))])
    for record in kd.run(recipe, out=out, teacher=teacher, quiet=True).records():
        print(f"{record.prompt[0].content}  {record.completion[0].content if record.completion else ''}")


def chain(teacher: kd.Teacher) -> None:
    """A chain: a topic becomes a task, the generator answers it, and the answers are taken out of its records."""
    task = PromptTemplate.from_template("Write one sentence about {topic}.")
    as_record = RunnableLambda(lambda prompt: {"prompt": prompt.to_string()})
    respond = kd.as_runnable(kd.Respond(max_tokens=64), teacher=teacher)
    answers = RunnableLambda(lambda records: [record["completion"][0]["content"] for record in records])
    whole = task | as_record | respond | answers
    for said in whole.batch([{"topic": "rivers"}, {"topic": "bees"}]):
        print(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", help="package.module:Class of a chat model")
    parser.add_argument("model", nargs="?", help="its `model` argument")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    arguments = {"model": given.model} if given.model else {}
    teacher = kd.LangChain(given.address or scripted(), **arguments)
    with tempfile.TemporaryDirectory() as folder:
        run(teacher, given.out or Path(folder) / "run")
    chain(teacher)


if __name__ == "__main__":
    main()
