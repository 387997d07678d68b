"""Distillation: by a teacher beside the student, by what a run has kept of it, and on the student's own answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import kdaug as kd
from kdaug.chat import Chat
from kdaug.cli import main
from kdaug.dataset import write_dataset
from kdaug.errors import ConfigError
from kdaug.record import Messages, Record, assistant, user
from kdaug.teacher import Sampling
from kdaug.teachers.fake import Fake
from kdaug.train.distill import Distill, FromRun, FromTeacher, Pace
from kdaug.train.distributed import World
from kdaug.train.guide import Present
from kdaug.train.lesson import lessons_of
from kdaug.train.loop import Step
from kdaug.train.on_policy import OnPolicy, Remade, by_itself
from kdaug.train.sft import SFT
from kdaug.train.stored import Stored
from kdaug.train.student import Student, load

FAST = Distill(epochs=3, lr=5e-3, length=128, accumulate=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    """A tiny model that has learnt to answer in words and to end."""
    folder = tmp_path_factory.mktemp("teacher")
    records = [
        Record(prompt=user(f"How is the {thing}?"), completion=assistant(f"The {thing} is {how}."))
        for thing in ("sea", "moon", "tea", "rain", "chess", "bread")
        for how in ("deep", "far away")
    ]
    student = make_model(folder / "untrained", seed=1, layers=3)
    return SFT(epochs=40, lr=1e-2, length=128, accumulate=1).fit(records, student=student, out=folder / "teacher")


@pytest.fixture(scope="module")
def run(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has kept all of its teacher's view: every token of the vocabulary."""
    everything = len(load_file(teacher / "model.safetensors")["model.embed_tokens.weight"])
    prompts = [Record(prompt=user(f"How is the {thing}?")) for thing in ("sea", "moon", "tea", "rain", "cat", "dog")]
    out = tmp_path_factory.mktemp("runs") / "run"
    respond = kd.Respond(logprobs=everything, max_tokens=24, temperature=0.3, keep_cut=True)
    kd.run(kd.Recipe(kd.Each(prompts), [kd.Stage(respond)]), out, teacher=kd.Local(str(teacher)), quiet=True)
    return out


def closeness(model: Path, run: Path, teacher: Path) -> float:
    found = kd.evaluate(model, kd.Dataset(run), teacher=teacher, length=128).kl
    assert found is not None
    return found


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def pupil(folder: Path) -> Student:
    return load(folder, Chat.load(folder), "cpu", "float32")


def gradients(student: Student) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in student.model.named_parameters() if p.grad is not None}
    student.model.zero_grad()
    return found


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "total_variation"])
def test_a_student_comes_closer_to_its_teacher(
    tiny: Path, teacher: Path, run: Path, out: Path, divergence: str
) -> None:
    how = replace(FAST, divergence=divergence)
    assert how.fit(kd.Dataset(run), student=tiny, teacher=teacher, out=out) == out
    assert closeness(out, run, teacher) < 0.9 * closeness(tiny, run, teacher)
    about = json.loads((out / "training.json").read_text())
    (name,) = about["teachers"]  # whose words and whose view they are: its terms are known by it
    assert name.startswith("local:teacher@")


def test_the_stored_view_of_the_whole_vocabulary_trains_as_the_teacher_itself(
    tiny: Path, teacher: Path, run: Path
) -> None:
    student = pupil(tiny)
    lessons, records, _ = lessons_of(kd.Dataset(run), student.chat, 128)
    stored = Stored(run, student.chat)
    taught, coverage = stored.teach(records, lessons)
    assert coverage.covered == coverage.tokens, "some reply is not its record's: choose another seed"
    whole = len(student.head)
    online = FromTeacher(FAST, student, Present.load(teacher, student.chat, "cpu", "float32"), whole)
    offline = FromRun(FAST, student, stored, whole)
    expected, _ = online.loss([lessons[:3], lessons[3:]])
    expected.backward()
    by_teacher = gradients(student)
    found, more = offline.loss([taught[:3], taught[3:]])
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)  # log-probabilities are kept as float16
    assert more["nll"].item() == 0
    for name, value in gradients(student).items():
        torch.testing.assert_close(value, by_teacher[name], atol=2e-2, rtol=2e-2)
    few, _ = FromRun(FAST, student, stored, 5).loss([taught[:3], taught[3:]])
    assert 0 < few.item() < found.item()  # all tokens but five in one bucket


def test_a_run_teaches_without_a_teacher(
    tiny: Path, teacher: Path, run: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="kdaug"):
        FAST.fit(kd.Dataset(run), student=tiny, out=out)
    assert closeness(out, run, teacher) < 0.8 * closeness(tiny, run, teacher)
    assert "6 of 6 records have a stored view" in caplog.text
    again = FAST.fit(kd.read(run), student=tiny, out=out.with_name("again"))  # as the command line reads it
    assert losses(again) == losses(out)
    named = FAST.fit(list(kd.Dataset(run)), student=tiny, out=out.with_name("named"), run=run)
    assert losses(named) == losses(out)


def test_tokens_without_a_view_are_trained_as_in_sft(tiny: Path, run: Path, out: Path) -> None:
    records = list(kd.Dataset(run))
    edited = [replace(r, completion=assistant("I do not know.")) for r in records[1:]]
    student = pupil(tiny)
    lessons, kept, _ = lessons_of([records[0], *edited], student.chat, 128)
    stored = Stored(run, student.chat)
    taught, coverage = stored.teach(kept, lessons)
    assert 0 < coverage.covered < coverage.tokens
    _, more = FromRun(FAST, student, stored, 5).loss([taught])
    plain = student.sums([lesson.document for lesson in lessons], 128)
    assert more["nll"].item() == pytest.approx(-plain[1:].sum().item(), rel=1e-4)
    unseen, _ = FromRun(FAST, student, stored, 5).loss([taught[1:]])  # a row without any view
    assert unseen.item() == pytest.approx(-plain[1:].sum().item(), rel=1e-4)


def test_alpha_mixes_in_the_cross_entropy(tiny: Path, teacher: Path, run: Path) -> None:
    student = pupil(tiny)
    lessons, records, _ = lessons_of(kd.Dataset(run), student.chat, 128)
    stored = Stored(run, student.chat)
    taught, _ = stored.teach(records, lessons)
    guide = Present.load(teacher, student.chat, "cpu", "float32")
    nll = -student.sums([lesson.document for lesson in lessons], 128).sum().item()

    def loss(alpha: float, by: str) -> float:
        how = replace(FAST, alpha=alpha)
        objective = (
            FromRun(how, student, stored, 20) if by == "run" else FromTeacher(how, student, guide, len(student.head))
        )
        return objective.loss([taught if by == "run" else lessons])[0].item()

    for by in ("run", "teacher"):
        assert loss(0, by) == pytest.approx(nll, rel=1e-4)
        assert loss(0.25, by) == pytest.approx(0.25 * loss(1, by) + 0.75 * nll, rel=1e-4)


def test_what_the_teacher_says_is_kept_for_another_student(
    tiny: Path, teacher: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = kd.Dataset(run), tmp_path / "cache"
    FAST.fit(data, student=tiny, teacher=teacher, out=tmp_path / "online")
    FAST.fit(data, student=tiny, teacher=teacher, out=tmp_path / "first", cache=cache)
    assert losses(tmp_path / "first") == pytest.approx(losses(tmp_path / "online"), rel=1e-2)
    monkeypatch.setattr(Present, "load", lambda *given: pytest.fail("the teacher was loaded again"))
    other = replace(FAST, seed=1, divergence="jsd")
    other.fit(data, student=tiny, teacher=teacher, out=tmp_path / "second", cache=cache)
    with pytest.raises(pytest.fail.Exception, match="loaded again"):  # other data
        other.fit(list(data)[1:], student=tiny, teacher=teacher, out=tmp_path / "third", cache=cache)


@pytest.mark.parametrize("cached", [False, True])
def test_hidden_states_are_drawn_to_the_teachers(
    tiny: Path, teacher: Path, run: Path, tmp_path: Path, cached: bool
) -> None:
    """Through a projection that is trained and resumed with the student, and is no part of it."""
    how = replace(FAST, hidden=5.0, hidden_layers=1 if cached else 0, hidden_projection="xavier")
    given: dict[str, Any] = {"student": tiny, "teacher": teacher, "cache": tmp_path / "cache" if cached else None}
    whole = how.fit(kd.Dataset(run), out=tmp_path / "whole", **given)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["hidden"] < 0.95 * lines[0]["hidden"]
    for line in lines:
        assert line["loss"] == pytest.approx(line["divergence"] + 5 * line["hidden"], rel=1e-5)
    assert load_file(whole / "model.safetensors").keys() == load_file(tiny / "model.safetensors").keys()

    def interrupt(step: Step) -> None:
        if step.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        how.fit(kd.Dataset(run), out=tmp_path / "parts", on_step=interrupt, **given)
    how.fit(kd.Dataset(run), out=tmp_path / "parts", **given)
    assert losses(tmp_path / "parts") == losses(whole)


@pytest.fixture(scope="module")
def held_out(run: Path, tmp_path_factory: pytest.TempPathFactory) -> kd.Dataset:
    """The run's records, two of them held out from training."""
    records, folder = list(kd.Dataset(run)), tmp_path_factory.mktemp("data") / "data"
    write_dataset(folder, lambda: records, held_out={root for r in records[:2] for root in r.roots}, facts={})
    return kd.Dataset(folder)


@pytest.mark.parametrize("way", ["teacher", "cache", "stored", "gold"])
def test_the_student_is_the_closest_to_its_teacher_on_held_out_records(
    tiny: Path, teacher: Path, run: Path, held_out: kd.Dataset, tmp_path: Path, way: str
) -> None:
    how = replace(FAST, epochs=6, eval_every=2, **({"divergence": "gold", "beta": 0.0} if way == "gold" else {}))
    given: dict[str, Any] = {"run": run} if way == "stored" else {"teacher": teacher}
    given |= {"cache": tmp_path / "cache"} if way == "cache" else {}
    out = how.fit(held_out, student=tiny, out=tmp_path / "model", **given)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    looks = {m["step"]: m["held_out"] for m in metrics if "held_out" in m}
    best = min(looks, key=lambda step: looks[step])
    assert json.loads((out / "training.json").read_text())["results"]["best_step"] == best
    judged = kd.evaluate(out, held_out, teacher=teacher, length=128)  # of its test split alone
    assert judged.kl == pytest.approx(looks[best], rel=5e-3)


def test_taid_judges_its_student_by_the_teacher_at_every_step(
    tiny: Path, teacher: Path, held_out: kd.Dataset, out: Path
) -> None:
    how = replace(FAST, divergence="taid", lr=0.0, eval_every=1)  # nothing changes but the pace
    how.fit(held_out, student=tiny, teacher=teacher, out=out)
    looks = [json.loads(line)["held_out"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(looks) > 2 and looks == pytest.approx([looks[0]] * len(looks), rel=1e-6)
    assert losses(out)[0] != pytest.approx(looks[0], rel=1e-2)


def test_an_interrupted_distillation_goes_on_as_if_nothing_had_been(
    tiny: Path, teacher: Path, run: Path, tmp_path: Path
) -> None:
    how = replace(FAST, on_policy=0.5, max_new_tokens=8)
    data = kd.Dataset(run)
    how.fit(data, student=tiny, teacher=teacher, out=tmp_path / "whole")

    def interrupt(step: Step) -> None:
        if step.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        how.fit(data, student=tiny, teacher=teacher, out=tmp_path / "parts", on_step=interrupt)
    how.fit(data, student=tiny, teacher=teacher, out=tmp_path / "parts")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def at(student: Any, step: int) -> Any:
    """A training that is about to take a step."""
    return SimpleNamespace(step=step - 1, world=World(), whole=lambda: (student, None))


def test_the_student_answers_itself_with_probability_lambda(tiny: Path, run: Path) -> None:
    student = pupil(tiny)
    lessons, _, _ = lessons_of(kd.Dataset(run), student.chat, 128)
    asked: list[Messages] = []

    def sampler(by: Student, prompts: Sequence[Messages], how: Sampling) -> list[list[int]]:
        asked.extend(prompts)
        return [[7, 8, student.chat.ends[0]] for _ in prompts]

    how = Sampling(max_tokens=8, logprobs=1)
    never, always, half = (OnPolicy(student, sampler, student.plan, s, how, 128, 0) for s in (0.0, 1.0, 0.5))
    assert never.begin([lessons], at(student, 1)) == [lessons] and not asked
    rows = always.begin([lessons[:4], lessons[4:]], at(student, 1))
    assert sorted(m[0].content for m in asked) == sorted(lesson.prompt[0].content for lesson in lessons)
    for lesson in (lesson for row in rows for lesson in row):
        prompt = student.chat.ask(lesson.prompt)
        assert lesson.document.ids.tolist() == [*prompt, 7, 8, student.chat.ends[0]]
        assert lesson.document.targets.tolist() == [*[-100] * (len(prompt) - 1), 7, 8, student.chat.ends[0], -100]
        assert lesson.number is None
    asked.clear()
    for step in range(40):
        half.begin([lessons], at(student, step))
    assert 0.35 < len(asked) / (40 * len(lessons)) < 0.65


def test_its_own_answers_end_where_the_student_ends(teacher: Path, run: Path) -> None:
    student = pupil(teacher)
    student.model.train()
    prompts = [record.prompt for record in kd.Dataset(run)]
    answers = by_itself(student, prompts, Sampling(temperature=0, max_tokens=24))
    assert student.model.training
    alone = [by_itself(student, [prompt], Sampling(temperature=0, max_tokens=24))[0] for prompt in prompts]
    assert answers == alone  # whatever else is padded beside it
    assert all(a.count(student.chat.ends[0]) == (a[-1] == student.chat.ends[0]) for a in answers)
    assert student.chat.decode(answers[0]) == "The sea is deep." or len(answers[0]) <= 24


def test_a_teacher_that_is_remade_samples_the_current_student(tiny: Path, teacher: Path, run: Path, out: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> Any:
        made.append(folder)
        return kd.Local(str(folder))

    sampler = Remade(make, out.with_name("weights"), every=2)
    how = replace(FAST, epochs=4, on_policy=1.0, max_new_tokens=8)
    how.fit(kd.Dataset(run), student=tiny, teacher=teacher, out=out, sampler=sampler)
    sampler.close()
    assert len(made) == len(losses(out)) / 2
    with pytest.raises(ConfigError, match="no token ids"):
        Remade(lambda folder: Fake(), out.with_name("weights"))(pupil(tiny), [user("?")], Sampling(max_tokens=4))


@pytest.mark.parametrize(
    ("how", "more", "wrong"),
    [
        ({"divergence": "kl"}, {}, "give one of forward_kl"),
        ({"alpha": 1.5}, {}, "between 0 and 1"),
        ({"divergence": "jsd"}, {}, "stored log-probabilities give forward_kl alone"),
        ({"temperature": 2.0}, {}, "stored at temperature 1"),
        ({"on_policy": 0.5}, {}, "knows nothing of what the student says"),
        ({"on_policy": 0.5}, {"teacher": True, "cache": "c"}, "a cache knows nothing"),
        ({"on_policy": 0.5, "alpha": 0.5}, {"teacher": True}, "in its own words"),
        ({"hidden": 1.0}, {}, "hidden states are those of a --teacher"),
        ({"hidden": 1.0, "divergence": "gold"}, {"teacher": True}, "hidden states are those of a --teacher"),
        ({"hidden": 1.0}, {"teacher": True, "cache": "c"}, "give hidden_layers=1"),
        ({"hidden": 1.0, "hidden_layers": 9}, {"teacher": True}, "the student has 2"),
        ({"beta": 0.3}, {"teacher": True}, "beta=0.3: only divergence=jsd or gold has it"),
        ({"max_new_tokens": 9}, {"teacher": True}, "max_new_tokens=9: only on_policy above 0 has it"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tiny: Path, teacher: Path, answers: list[Record], out: Path, how: dict[str, Any], more: dict[str, Any], wrong: str
) -> None:
    named = {**more, "teacher": teacher} if "teacher" in more else more
    with pytest.raises(ConfigError, match=wrong):
        replace(FAST, **how).fit(answers, student=tiny, out=out, **named)
    assert not out.exists()


def test_records_of_no_run_want_a_teacher(tiny: Path, answers: list[Record], out: Path) -> None:
    with pytest.raises(ConfigError, match="which run they are of"):
        FAST.fit(answers, student=tiny, out=out)


def test_a_teacher_of_another_vocabulary_is_refused(
    tiny: Path, answers: list[Record], tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    from transformers import AutoTokenizer

    other = make_model(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ConfigError, match=r"vocabulary: different .* with one id in both.*divergence=gold"):
        FAST.fit(answers, student=tiny, teacher=other, out=tmp_path / "out")


@pytest.mark.slow
def test_from_prompts_to_a_distilled_student_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run, two signals: the embedded teacher's answers and its log-probabilities, then no teacher any more."""
    seeds, run, cut, out = (str(tmp_path / name) for name in ("prompts.jsonl", "run", "cut", "out"))
    Path(seeds).write_text("".join(json.dumps({"prompt": f"Name {n} colours."}) + "\n" for n in range(2, 8)), "utf-8")
    respond = ["run", "respond", "--seeds", seeds, "--teacher", "local", "--set", "respond.keep_cut=true"]
    assert main([*respond, "--set", "respond.max_tokens=12", "--logprobs", "20", "--out", run]) == 0
    assert main(["prune", "smollm2", "--layers", "26", "--out", cut]) == 0
    how = ["--student", cut, "--epochs", "2", "--lr", "3e-4", "--length", "128", "--accumulate", "1"]
    assert main(["train", "distill", "--data", run, *how, "--out", out]) == 0
    assert f"student: {out}" in capsys.readouterr().out
    assert losses(Path(out))[-1] < losses(Path(out))[0]
    before, after = (kd.evaluate(m, kd.Dataset(run), teacher="smollm2").kl for m in (cut, out))
    assert before is not None and after is not None and after < 0.8 * before
    Path(seeds).write_text('{"prompt": "Hello!", "completion": "Hello."}\n', "utf-8")
    assert main(["train", "distill", "--data", seeds, *how, "--out", f"{out}-2"]) == 2
    assert "prompts.jsonl lies in no run folder: name that run" in capsys.readouterr().err


def test_taid_goes_from_the_students_own_view_to_the_teachers(
    tiny: Path, teacher: Path, answers: list[Record], tmp_path: Path
) -> None:
    """t rises along a line over all the steps; from t = 1 on it is cross-entropy to the teacher: forward KL, and its
    entropy, which has no gradient."""
    pace = Pace(0.4, 3)
    seen = []
    for step in (1, 2, 3):
        pace([], at(None, step))
        seen.append(round(pace.t, 6))
    assert seen == [0.4, 0.6, 0.8]

    def trained(name: str, **more: Any) -> bytes:
        how = replace(FAST, divergence=name, epochs=1, **more)
        out = how.fit(answers, student=tiny, teacher=teacher, out=tmp_path / f"{name}{len(more)}")
        return (out / "model.safetensors").read_bytes()

    def weights(data: bytes) -> Any:
        from safetensors.torch import load

        return load(data)

    as_forward, whole = weights(trained("forward_kl")), weights(trained("taid", taid_start=1.0))
    partly = weights(trained("taid"))
    assert all(torch.allclose(as_forward[name], whole[name], atol=2e-5) for name in as_forward)
    assert not all(torch.allclose(as_forward[name], partly[name], atol=2e-5) for name in as_forward)
