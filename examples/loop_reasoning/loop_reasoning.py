"""A closed loop that measurably works: a 135M model teaches itself a procedural task, by ReST-EM.

    python examples/loop_reasoning/loop_reasoning.py --out runs/loop_reasoning

The student samples answers to problems, after a worked example; those that a checker finds right are what the base
model is trained on, without the example, and the next round's student samples again. Beside it stands the same training
on samples as they came, unchecked. All are measured on problems that nobody was trained on. Run it again, or kill it
and run it again: what is done is not done twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import kdaug as kd
from kdaug import recipes
from kdaug.intervals import wilson
from kdaug.loop import Rounds, loop
from kdaug.recipe_file import RecipeFile, load
from kdaug.train.generation import compare_on_tasks
from kdaug.train.tasks import Task, read_tasks

HERE = Path(__file__).parent
TRAIN, HELD_OUT = 100, 300
NOUNS = """
    apple river stone cloud horse table green paper tiger music bread chair plant water light house train glass smile
    ocean lemon knife field storm wheel beach crown dream eagle flame"""
WORKED = {"last_word": ("Last of: cat sun hill cup", "cup"), "addition": ("42 + 5", "47")}  # as in templates/


def last_word(rng: Random) -> tuple[str, str]:
    words = rng.sample(NOUNS.split(), 4)
    return f"Last of: {' '.join(words)}", words[-1]


def addition(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(10, 99), rng.randint(2, 9)
    return f"{a} + {b}", str(a + b)


TASKS: Mapping[str, Callable[[Random], tuple[str, str]]] = {"last_word": last_word, "addition": addition}


def write_problems(task: str, seed: int, folder: Path) -> None:
    """Those to learn from and those to measure by: no problem is in both."""
    rng, found = Random(f"{task}/{seed}"), dict[str, str]()
    while len(found) < TRAIN + HELD_OUT:
        problem, answer = TASKS[task](rng)
        found[problem] = answer
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"messages": [_turn("system", "Answer."), _turn("user", q), _turn("assistant", a)]})
            for q, a in found.items()]  # fmt: skip
    (folder / "train.jsonl").write_text("\n".join(rows[:TRAIN]) + "\n", "utf-8")
    (folder / "held_out.jsonl").write_text("\n".join(rows[TRAIN:]) + "\n", "utf-8")


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def recipe_file(task: str, seed: int, folder: Path) -> RecipeFile:
    """loop.yaml for one set of problems."""
    file = load(str(HERE / "loop.yaml"))
    file.set(f"loop.evaluate.tasks={(folder / 'held_out.jsonl').absolute()}")
    file.set(f"loop.train.sft.seed={seed}")
    file.set(f"rest_em.form={task}")
    file.put("seed", seed)
    return file


def recipe_of(file: RecipeFile, folder: Path) -> kd.Recipe:
    return recipes.build(file, kd.read(folder / "train.jsonl"), templates=HERE / "templates")


def self_taught(file: RecipeFile, model: str, folder: Path, rounds: int) -> Rounds:
    """Rounds of sampling, checking and training."""

    def players(student: str) -> dict[str, kd.Teacher]:
        return {"student": kd.Local(student, batch=64)}

    recipe, plan = recipe_of(file, folder), recipes.plan_of(file)
    return loop(lambda more: recipe, plan, student=model, players=players, out=folder / "loop", rounds=rounds)


def unverified(file: RecipeFile, model: str, folder: Path) -> float:
    """The same training, by as many steps, on the model's first sample for each problem, right or wrong."""
    for setting in ("verify=false", "samples=1", "max_kept=1"):
        file.set(f"rest_em.{setting}")
    data = kd.run(recipe_of(file, folder), folder / "unverified/run", student=kd.Local(model, batch=64))
    trainer = recipes.plan_of(file).trainer(0)
    student = trainer.fit(data, student=model, out=folder / "unverified/student")
    return right(str(student), read_tasks(folder / "held_out.jsonl", "answer"), folder / "unverified")


def right(model: str, tasks: Sequence[Task], folder: Path) -> float:
    """How many of the tasks a model does."""
    told = compare_on_tasks({"it": kd.Local(model, batch=64)}, tasks, "answer", "", max_tokens=4, out=folder / "asked")
    return told.rows[0].figures["answer"].value


def with_example(task: str, model: str, folder: Path) -> float:
    """How many the model that begins the loop does when it is shown the worked example."""
    question, answer = WORKED[task]
    shown = (kd.Message("user", question), kd.Message("assistant", answer))
    tasks = read_tasks(folder / "held_out.jsonl", "answer")
    return right(model, [Task((t.prompt[0], *shown, t.prompt[1]), t.references) for t in tasks], folder / "example")


def measure(task: str, seeds: Sequence[int], rounds: int, model: str, out: Path) -> dict[str, Any]:
    """The figures of all seeds, one list a row of the table."""
    found: dict[str, list[float]] = {}
    kept = []
    for seed in seeds:
        folder = out / task / f"seed-{seed}"
        write_problems(task, seed, folder)
        taught = self_taught(recipe_file(task, seed, folder), model, folder, rounds)
        rows = {"start": taught.start, "start, with the example": with_example(task, model, folder)}
        rows["unverified"] = unverified(recipe_file(task, seed, folder), model, folder)
        rows |= {f"round {r.number}": r.figure for r in taught.rounds}
        kept.append([r.records for r in taught.rounds])
        for name, figure in rows.items():
            assert figure is not None
            found.setdefault(name, []).append(figure)
    return {
        "task": task, "problems": {"train": TRAIN, "held_out": HELD_OUT}, "seeds": list(seeds), "kept": kept,
        "accuracy": {name: summary(figures) for name, figures in found.items()},
    }  # fmt: skip


def summary(figures: Sequence[float]) -> dict[str, Any]:
    """Each seed's share, the mean, and Wilson's 95 % interval of all held-out problems together."""
    right, asked = sum(round(f * HELD_OUT) for f in figures), HELD_OUT * len(figures)
    low, high = wilson(right, asked)
    return {"by_seed": list(figures), "mean": right / asked, "low": low, "high": high, "n": asked}


def draw(results: Sequence[Mapping[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(5.5 * len(results), 3.8), squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        names = list(result["accuracy"])
        for at, (name, told) in enumerate(result["accuracy"].items()):
            colour = "tab:green" if name.startswith("round") else "tab:red" if name == "unverified" else "tab:gray"
            axis.bar(at, told["mean"], color=colour, alpha=0.7)
            axis.vlines(at, told["low"], told["high"], color="black")
            axis.plot([at] * len(told["by_seed"]), told["by_seed"], "k.", alpha=0.5)
        axis.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], rotation=30, ha="right")
        axis.set(title=result["task"].replace("_", " "), ylabel="held-out accuracy", ylim=(0, 1))
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/loop_reasoning"))
    parser.add_argument("--tasks", nargs="+", default=["last_word"], choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="smollm2", help="teacher and student")
    given = parser.parse_args()
    results = [measure(task, given.seeds, given.rounds, given.model, given.out) for task in given.tasks]
    (given.out / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    draw(results, given.out / "accuracy.png")
    for result in results:
        print(f"\n{result['task']}: right answers to {HELD_OUT} held-out problems, {len(given.seeds)} seeds")
        for name, told in result["accuracy"].items():
            each = " ".join(f"{f:.3f}" for f in told["by_seed"])
            print(f"{name:24} {told['mean']:.3f} [{told['low']:.3f}, {told['high']:.3f}]   {each}")
    print(f"\n{given.out / 'results.json'}  {given.out / 'accuracy.png'}")


if __name__ == "__main__":
    main()
