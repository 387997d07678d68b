"""`kdaug report` of 100,000 records (--quick: 5,000): what it takes, how large its page is, and how long it opens for.

Opening is the wall time of a headless Chromium until the page has drawn all its plots, less that of an empty page.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import orjson
from harness import Bound, finish, measured, options
from sentences import Writer

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--allow-file-access-from-files", "--dump-dom", "--window-size=1200,900"),
)


def written(number: int, folder: Path) -> Path:
    file, writer = folder / "records.jsonl", Writer()
    rows = zip(writer.texts(number), writer.texts(number), strict=True)
    with file.open("wb") as lines:
        for prompt, answer in rows:
            lines.write(orjson.dumps({"prompt": prompt, "completion": answer}) + b"\n")
    return file


def opened(browser: str, url: str, folder: Path) -> tuple[float, str]:
    """Seconds until the page is drawn, and its DOM."""
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", url]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return time.perf_counter() - began, done.stdout.decode()


def main() -> int:
    given = options(__doc__).parse_args()
    number = 5_000 if given.quick else 100_000
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("not run: no chromium is installed (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, page, blank = written(number, folder), folder / "page.html", folder / "blank.html"
        took = measured([sys.executable, "-m", "kdaug", "report", str(data), "--out", str(page)])
        blank.write_text("<!doctype html><title>x</title>", encoding="utf-8")
        opened(browser, blank.as_uri(), folder)
        empty = [opened(browser, blank.as_uri(), folder)[0] for _ in range(3)]
        full = [opened(browser, page.as_uri(), folder) for _ in range(3)]
        size = page.stat().st_size / 2**20
    drawn = re.search(r'data-drawn="(\d+)"', full[0][1])
    plots = len(re.findall(r"<h3>", re.sub(r"<script.*?</script>", "", full[0][1], flags=re.DOTALL)))
    opening = median(seconds for seconds, _ in full) - median(empty)
    print(f"{number:,} records: {took['wall_s']:.1f} s, {took['cpu_s']:.1f} s of CPU, peak {took['peak_mb']:,.0f} MB")
    print(f"{plots} plots in {size:.1f} MB; an empty page opens in {median(empty):.2f} s, this {opening:.2f} s later")
    figures = {"records": number, **took, "page_mb": size, "plots": plots, "opening_s": opening}
    bounds = [
        Bound("plots that are not drawn", plots - int(drawn[1] if drawn else 0), 0, most=True),
        Bound("seconds to open", opening, 2, most=True),
    ]
    return finish("report", given, figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
