"""What `kdaug curate` takes for a million rows: seconds, memory, and what a kill costs.

The rows are made here: two JSONL files of question and answer (about 700 bytes a row), one in ten of them a copy of an
earlier one, one in a thousand no record at all. They are merged; copies fall, and answers under 20 words.

whole     a run from start to end, dataset included: a process of its own
killed    the same, killed (SIGKILL) once half of the rows are decided, then run again: what the two take together, and
          whether the data are the same, byte by byte
growth    peak memory at a tenth of the rows beside that at all of them
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from harness import Bound, Ran, finish, options, run

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from killing import data_of

from kdaug.errors import KdaugError
from kdaug.journal import Journal
from kdaug.rows import PAGE

GATES = "gates:\n  - heuristics: {min_words: 20, max_repetition: null, refusals: false, placeholders: false}\n"
COPIES, BAD = 10, 1_000  # one row in so many


def write_rows(folder: Path, number: int) -> list[str]:
    """Two files of together `number` rows; the same whenever they are made."""
    rng = Random(number)
    words = [f"{a}{b}" for a in ("ka", "to", "mi", "res", "lun") for b in ("ner", "dal", "vix", "por", "sha", "quo")]
    paths = [folder / f"part{i}-{number}.jsonl" for i in (1, 2)]
    for half, path in enumerate(paths):
        with path.open("w", encoding="utf-8") as file:
            for row in range(half * number // 2, (half + 1) * number // 2):
                at = rng.randrange(row) if row and row % COPIES == 0 else row
                text = Random(at)
                answer = " ".join(text.choices(words, k=text.randint(15, 160)))
                question = f"What of number {at}, {' '.join(text.choices(words, k=12))}?"
                broken = row % BAD == 1
                file.write((json.dumps({"prompt": question, "completion": answer})[: 40 if broken else None]) + "\n")
    return [str(path) for path in paths]


def curate(rows: list[str], gates: Path, out: Path, kill: Callable[[], bool] = lambda: False) -> Ran:
    command = [sys.executable, "-m", "kdaug", "curate", *rows, "--recipe", str(gates), "--out", str(out), "--quiet"]
    ran = run(command, kill=kill)
    if ran.exit_code not in (0, None):
        sys.exit(f"{' '.join(command)} failed: {ran.words}")
    return ran


def pages(out: Path) -> int:
    """How many are decided by now."""
    try:
        journal = Journal.read_only(out)
    except KdaugError:
        return 0
    try:
        return journal.committed(0)
    except KdaugError:
        return 0
    finally:
        journal.close()


def main() -> int:
    given = options(__doc__).parse_args()
    number = 60_000 if given.quick else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gates = folder / "gates.yaml"
        gates.write_text(GATES, encoding="utf-8")
        small, rows = write_rows(folder, number // 10), write_rows(folder, number)
        megabytes = sum(Path(path).stat().st_size for path in rows) / 2**20
        tenth = curate(small, gates, folder / "small")
        whole = curate(rows, gates, folder / "whole")
        facts = json.loads((folder / "whole" / "run.json").read_text(encoding="utf-8"))
        half = number // PAGE // 2
        first = curate(rows, gates, folder / "killed", lambda: pages(folder / "killed") >= half)
        second = curate(rows, gates, folder / "killed")
        same = data_of(folder / "killed") == data_of(folder / "whole")
        journal = (folder / "whole" / "journal.sqlite").stat().st_size / 2**20
    print(f"{number:,} rows, {megabytes:,.0f} MB: kept {facts['kept']:,}, dropped {facts['stages'][0]['dropped']}")
    print(
        f"whole: {whole.wall_s:.1f} s ({whole.cpu_s:.1f} s CPU), {number / whole.wall_s:,.0f} rows/s, of it "
        f"{facts['seconds']}; peak {whole.peak_mb:,.0f} MB, journal {journal:,.0f} MB"
    )
    print(f"a tenth of it: {tenth.wall_s:.1f} s, peak {tenth.peak_mb:,.0f} MB")
    print(f"killed after {first.wall_s:.1f} s, then {second.wall_s:.1f} s to the end, peak {second.peak_mb:,.0f} MB")
    figures = {
        "rows": number,
        "input_mb": megabytes,
        "kept": facts["kept"],
        "dropped": facts["stages"][0]["dropped"],
        "whole": {"wall_s": whole.wall_s, "cpu_s": whole.cpu_s, "peak_mb": whole.peak_mb, **facts["seconds"]},
        "rows_per_s": number / whole.wall_s,
        "rows_per_cpu_s": number / whole.cpu_s,
        "journal_mb": journal,
        "tenth": {"wall_s": tenth.wall_s, "peak_mb": tenth.peak_mb},
        "killed_after_s": first.wall_s,
        "resumed_s": second.wall_s,
        "resumed_peak_mb": second.peak_mb,
        "same_bytes": same,
    }
    more = whole.peak_mb - tenth.peak_mb
    bounds = [
        Bound("data the same after a kill", float(same), 1),
        Bound("killed and resumed over whole", (first.wall_s + second.wall_s) / whole.wall_s, 2.0, most=True),
        Bound(f"MB more at {number:,} rows than at a tenth", more, 80 if given.quick else 300, most=True),
        Bound("rows per CPU-second, start to end", number / whole.cpu_s, 4_000 if given.quick else 5_000),
    ]
    return finish("curate", given, figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
