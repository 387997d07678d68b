"""`kdaug report` of 100,000 records (--quick: 5,000): what it takes, how large its page is, and how long it opens for.

Opening is the time on the page's own clock from when it is asked for until its plots in view are drawn, in a headless
Chromium that starts anew; those further down are drawn next, one by one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
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
ROUNDS = 5
TO_THE_END = "--virtual-time-budget=10000"  # else the DOM is that of the moment in which the page has loaded


def written(number: int, folder: Path) -> Path:
    file, writer = folder / "records.jsonl", Writer()
    rows = zip(writer.texts(number), writer.texts(number), strict=True)
    with file.open("wb") as lines:
        for prompt, answer in rows:
            lines.write(orjson.dumps({"prompt": prompt, "completion": answer}) + b"\n")
    return file


def opened(browser: str, page: Path, folder: Path, *flags: str) -> str:
    """The DOM that the browser leaves."""
    command = [browser, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()


def main() -> int:
    given = options(__doc__).parse_args()
    number = 5_000 if given.quick else 100_000
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("not run: no chromium is installed (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, page = written(number, folder), folder / "page.html"
        took = measured([sys.executable, "-m", "kdaug", "report", str(data), "--out", str(page)])
        times = [re.search(r'data-open="(\d+)"', opened(browser, page, folder)) for _ in range(ROUNDS)]
        dom = opened(browser, page, folder, TO_THE_END)
        size = page.stat().st_size / 2**20
    if not all(times):
        sys.exit("the page had loaded before its plots in view were drawn: how long it opens is not known")
    opening = median(int(found[1]) for found in times if found) / 1000
    drawn = re.search(r'data-drawn="(\d+)"', dom)
    plots = len(re.findall(r"<h3>", re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)))
    print(f"{number:,} records: {took['wall_s']:.1f} s, {took['cpu_s']:.1f} s of CPU, peak {took['peak_mb']:,.0f} MB")
    print(f"{plots} plots in {size:.1f} MB; open after {opening:.2f} s")
    figures = {"records": number, **took, "page_mb": size, "plots": plots, "opening_s": opening}
    bounds = [
        Bound("plots that are not drawn", plots - int(drawn[1] if drawn else 0), 0, most=True),
        Bound("seconds to open", opening, 2, most=True),
    ]
    return finish("report", given, figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
