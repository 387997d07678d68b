"""`kdaug report`: what it counts and writes, and how its page stands in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from kdaug.cli import main
from kdaug.dataset import Dataset, is_dataset, write_dataset
from kdaug.errors import ConfigError
from kdaug.record import Record, assistant, user
from kdaug.report import Report
from kdaug.survey import Copies, bin_width, bins, quantile, score_bins, survey

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>{{ 7*7 }}</b> & --a \u2028"
TASKS = ("Write a poem about the {}", "Bake a cake with {}", "Explain the history of {}", "Sum the prices of {}")
THINGS = ("moon", "plums", "Rome", "bread", "rain", "iron", "tea", "owls", "jazz", "chess", "sand", "wool")


def records() -> list[Record]:
    found = [
        Record(prompt=user(task.format(thing)), completion=assistant(f"Here is what there is on {thing}. " * 6))
        for task in TASKS
        for thing in THINGS
    ]
    odd = ["我喜欢猫和狗", "🎉🎉🎉", "word " * 30_000, HOSTILE]
    found += [Record(prompt=user(text), completion=assistant("Yes."), scores={"judge": 3.0}) for text in odd]
    found.append(Record(prompt=user("Tell me a joke"), completion=assistant("I'm sorry, but I can't help with that.")))
    found.append(Record(prompt=user("tell me a JOKE!"), completion=assistant("A man walks into a bar and " * 5)))
    return found


def jsonl(path: Path, rows: Iterable[Record]) -> Path:
    lines = [{"prompt": r.prompt[0].content, "completion": r.completion[0].content} for r in rows if r.completion]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def numbers(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_one_pass_counts_every_record_and_samples_evenly() -> None:
    found = survey(records(), sample=10, seed=0)
    assert found.records == 54 and found.kinds == {"completion": 54} and found.turns == {1: 54}
    assert found.refusals == 1 and found.cut_off == 1 and found.empty_prompts == 0
    assert found.copies.share == pytest.approx(1 / 54)  # the joke, letter case and marks aside
    assert found.lengths["prompt"].total() == 54 and max(found.lengths["prompt"]) == 30_000
    assert found.scores["judge"].number == 4 and found.scores["judge"].total == 12
    ids = [r.id for r in records()]
    places = [ids.index(s.id) for s in found.sample]
    assert len(places) == 10 and places == sorted(places)
    assert places == [ids.index(s.id) for s in survey(records(), sample=10, seed=0).sample]
    assert max(len(s.prompt) for s in found.sample) <= 8_000


def test_copies_are_counted_in_bounded_memory() -> None:
    copies = Copies(limit=1_000)
    for number in range(20_000):
        copies.see(f"text {number % 15_000}")  # 5,000 of 20,000 came before
    assert len(copies.seen) <= 1_000
    assert copies.share == pytest.approx(0.25, abs=0.05)


def test_bins_hold_everything() -> None:
    counts = {3: 5, 12: 90, 400: 1}
    assert (quantile(counts, 0.05), quantile(counts, 0.5), quantile(counts, 1)) == (3, 12, 400)
    width, last = bin_width([counts])
    assert sum(bins(counts, width, last)) == 96
    assert bins(counts, 5, 15) == [5, 0, 90, 1]
    assert score_bins([1, 1, 10, 5.5], 1, 10, 2) == [2, 2] and score_bins([3, 3], 3, 3, 2) == [2, 0]
    assert bin_width([]) == (1, 1)


def test_a_dataset_folder_gets_page_json_and_a_section_of_its_card(tmp_path: Path) -> None:
    data = tmp_path / "mine"
    write_dataset(data, records, facts={})
    for _ in range(2):  # the second report takes the first one's place
        page = Report(sample=50).write([data])
    assert page == tmp_path / "mine.report.html" and page.stat().st_size < 8e6
    card = (data / "README.md").read_text(encoding="utf-8")
    assert card.count("## Diversity and health") == 1 and "| Answers that begin with a refusal | 1.85 % |" in card
    assert is_dataset(data) and len(Dataset(data)) == 54
    known = numbers(tmp_path / "mine.report.json")["datasets"][0]
    assert known["records"] == 54 and known["sampled"] == 50
    assert 1 < known["semantic"]["vendi"] < 50
    assert known["copies"] == pytest.approx(1 / 54) and known["health"]["refusals"] == pytest.approx(1 / 54)
    assert ["bake", "cake"] in [pair[:2] for pair in known["verb_noun"]["pairs"]]
    assert sum(known["semantic"]["topics"]) == sum(known["semantic"]["nearest"]) == 50
    first = page.read_bytes()
    assert Report(sample=50).write([data]).read_bytes() == first  # deterministic


def test_likeness_to_seeds_leaves_out_a_seeds_own_text(tmp_path: Path) -> None:
    seeds = jsonl(tmp_path / "seeds.jsonl", records()[:12])
    data = jsonl(tmp_path / "data.jsonl", records()[:24])
    known = Report(seeds=str(seeds)).measure([data])["datasets"][0]["novelty"]
    assert (known["seeds"], known["seeds_own"], known["compared"]) == (12, 12, 12)
    assert known["near_copies"] == 0 and sum(known["bins"]) == 12


def test_two_are_measured_on_equally_many(tmp_path: Path) -> None:
    one, other = jsonl(tmp_path / "a.jsonl", records()), jsonl(tmp_path / "b.jsonl", records()[:12])
    found = Report().measure([one, other])
    assert [d["name"] for d in found["datasets"]] == ["a.jsonl", "b.jsonl"]
    assert [d["records"] for d in found["datasets"]] == [54, 12]
    assert [d["sampled"] for d in found["datasets"]] == [12, 12]
    assert all(len(d["semantic"]["topics"]) == len(found["topics"]) for d in found["datasets"])
    assert 0 < found["datasets"][0]["semantic"]["in_the_other"] <= 1
    with pytest.raises(ConfigError, match="one dataset, or two"):
        Report().measure([one, one, one])


@pytest.mark.parametrize("text", ["One alone", "🎉", "word " * 50_000, ""])
def test_one_record_is_a_dataset_too(tmp_path: Path, text: str) -> None:
    data = tmp_path / "one"
    write_dataset(data, lambda: [Record(prompt=user(text))], facts={})
    page = Report().write([data])
    known = numbers(page.with_suffix(".json"))["datasets"][0]
    assert known["records"] == 1 and known["words"]["prompt"]["self_bleu"] is None


def test_an_empty_dataset_has_a_page_too(tmp_path: Path) -> None:
    data = tmp_path / "none"
    write_dataset(data, list, facts={})
    assert "0 records" in Report().write([data]).read_text(encoding="utf-8")


def test_without_an_encoder_the_page_says_so_and_holds_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kdaug.errors

    found = kdaug.errors.find_spec
    monkeypatch.setattr("kdaug.errors.find_spec", lambda name: None if name == "faiss" else found(name))
    page = Report().write([jsonl(tmp_path / "a.jsonl", records())])
    assert "pip install &#39;kdaug[embed]&#39;" in page.read_text(encoding="utf-8")
    known = numbers(page.with_suffix(".json"))
    assert known["topics"] == [] and known["datasets"][0]["words"]["prompt"]["self_bleu"] > 0


def test_a_run_shows_what_it_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds, run = jsonl(tmp_path / "seeds.jsonl", records()[:20]), tmp_path / "run"
    asked = ["run", "respond", "--seeds", str(seeds), "--teacher", "fake:echo", "--out", str(run)]
    assert main(asked) == 0
    capsys.readouterr()
    assert main(["report", str(run), "--sample", "10"]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'} (the numbers: {run / 'report.json'})\n"
    known = numbers(run / "report.json")["datasets"][0]
    assert next(stage["jobs"] for stage in known["run"]["stages"]) == 20
    assert [r["replies"] for r in known["run"]["replies"].values()] == [20]
    assert known["novelty"]["seeds"] == 20
    assert main(asked) == 0  # what the report wrote is not in the run's way


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.jsonl"], "no file nowhere.jsonl"),
        (["{data}", "--out", "{folder}"], "--out is the page's file, such as report.html"),
        (["{data}", "--sample", "0"], "sample must be at least 1"),
        (["{data}", "--seeds", "gone.jsonl"], "no file gone.jsonl"),
        (["{data}", "{data}", "{data}"], "one dataset, or two to put side by side"),
        (["{data}", "--model", "{folder}"], "{folder}"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = jsonl(tmp_path / "a.jsonl", records()[:3])
    fill = {"data": str(data), "folder": str(tmp_path)}
    assert main(["report", *(word.format(**fill) for word in words)]) == 2
    said = capsys.readouterr().err
    assert says.format(**fill) in said and said.count("\n") == 1


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        says = "not run: no chromium is installed (apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(says)
        pytest.skip(says)
    return found


FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--allow-file-access-from-files", "--virtual-time-budget=10000", "--dump-dom"),
)


def opened(browser: str, page: Path, folder: Path) -> str:
    """The page's DOM once its scripts have run."""
    command = [browser, *FLAGS, "--window-size=1200,900", f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=240, check=True)
    return done.stdout.decode()


def without_scripts(dom: str) -> str:
    return re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)


@pytest.mark.slow
def test_the_page_draws_its_plots_in_a_browser(tmp_path: Path, browser: str) -> None:
    data = tmp_path / "mine"
    write_dataset(data, records, facts={})
    dom = without_scripts(opened(browser, Report().write([data]), tmp_path))
    titles = re.findall(r"<h3>(.*?)</h3>", dom)
    expected = ["Prompt length", "Answer length", "Verbs and their objects", "Most frequent openings", "Topics"]
    assert titles == [*expected, "Map of the prompts", "Likeness to the nearest other prompt", "Score: judge"]
    assert f'data-drawn="{len(titles)}"' in dom and "data-errors" not in dom
    boxes = dom.split("data-plot=")[1:]
    assert len(boxes) == len(titles)
    for title, box in zip(titles, boxes, strict=True):  # every plot has marks, not only axes
        assert re.search(r'class="(?:point|points|slice|surface)', box), title


@pytest.mark.slow
def test_what_a_record_says_never_runs(tmp_path: Path, browser: str) -> None:
    hostile = [Record(prompt=user(f"{HOSTILE} {n}"), completion=assistant(HOSTILE), by=HOSTILE) for n in range(30)]
    data = tmp_path / "<img onerror=x>"
    write_dataset(data, lambda: hostile, facts={})
    dom = opened(browser, Report().write([data]), tmp_path)
    assert "data-errors" not in dom and "<title>owned" not in dom
    # Its text is there, as text; of its elements there is none.
    assert "{{ 7*7 }}" in dom and not re.search(r"<img src=.?x", dom) and "<b>{{" not in dom


PROBE = """<!doctype html><body><script>
for (const width of [1200, 390]) {
  const frame = document.createElement("iframe");
  frame.src = "PAGE"; frame.style.width = width + "px"; frame.style.height = "900px"; frame.style.border = 0;
  frame.onload = () => setTimeout(() => {
    document.body.dataset["at" + width] = frame.contentDocument.documentElement.scrollWidth <= width;
  }, 1500);
  document.body.append(frame);
}
</script>"""


@pytest.mark.slow
def test_nothing_scrolls_sideways_on_a_screen_or_a_telephone(tmp_path: Path, browser: str) -> None:
    long = [Record(prompt=user("x" * 500 + str(n)), by="y" * 200) for n in range(40)]
    data = jsonl(tmp_path / "a.jsonl", records())
    write_dataset(tmp_path / "long", lambda: [*records(), *long], facts={})
    page = Report().write([data, tmp_path / "long"], tmp_path / "page.html")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.replace("PAGE", page.as_uri()), encoding="utf-8")
    dom = opened(browser, probe, tmp_path)
    assert 'data-at1200="true"' in dom and 'data-at390="true"' in dom


def test_help_names_the_options() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "kdaug", "report", "--help"], capture_output=True, text=True, check=True
    )
    assert all(
        option in said.stdout for option in ("--out", "--seeds", "--sample", "--split", "--model", "side by side")
    )
