"""Load time and compressed weight of every page of a built book, in Chromium over HTTP.

    python benchmarks/pages.py build/cpu/html

Weight: what a first visit transfers, each file as gzip would send it (pictures as they are). Goal:
under 2 s and at most 1.5 MB a page. Below: how long the model in the page computes for one picture,
as the page itself measures it (`data-ms` of draw.js), the first one and the median of `DRAWS` more.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import statistics
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, sync_playwright

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("book", "")]
from runner.pdf import TYPESET, chromium  # noqa: E402

SECONDS, MEGABYTES = 2.0, 1.5
DRAWS = 20
PACKED = {".png", ".jpg", ".webp", ".woff2", ".gz"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a line for each."""

    def log_message(self, *_: object) -> None:
        pass


def weight(path: Path) -> int:
    """Bytes on the wire."""
    data = path.read_bytes()
    return len(data) if path.suffix in PACKED else len(gzip.compress(data, 6))


def measure(browser: Browser, address: str, folder: Path, page: str) -> tuple[float, float, float]:
    """Seconds until the page is loaded and until its mathematics is set, and its megabytes."""
    context = browser.new_context()  # nothing cached: a first visit
    tab = context.new_page()
    asked: set[str] = set()
    tab.on("request", lambda request: asked.add(unquote(urlsplit(request.url).path)))
    start = time.perf_counter()
    tab.goto(f"{address}/{page}", wait_until="load", timeout=120_000)
    loaded = time.perf_counter() - start
    tab.wait_for_function(TYPESET, timeout=120_000)
    ready = time.perf_counter() - start
    context.close()
    files = [folder / path.lstrip("/") for path in asked]
    return loaded, ready, sum(weight(file) for file in files if file.is_file()) / 1e6


def pictures(browser: Browser, page: str) -> dict[str, list[float]]:
    """Milliseconds of each picture that the page draws, from each of its models."""
    context = browser.new_context(reduced_motion="reduce")  # nothing plays meanwhile
    tab = context.new_page()
    tab.goto(page, wait_until="load", timeout=120_000)
    found: dict[str, list[float]] = {}
    for i, name in enumerate(tab.locator("[name=model] option").all_inner_texts()):
        tab.select_option("[name=model]", index=i)
        for _ in range(1 + DRAWS):
            tab.click("[data-act=draw]")
            live = tab.wait_for_selector(".vcq-live[data-state=ready]", timeout=120_000)
            found.setdefault(name, []).append(float(live.get_attribute("data-ms")))
    context.close()
    return found


def main(folder: Path) -> None:
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        print("| page | loaded, s | mathematics set, s | MB | |\n|---|--:|--:|--:|---|")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
            )
            for page in sorted(path.name for path in folder.glob("*.html")):
                loaded, ready, size = measure(browser, address, folder, page)
                over = "over the goal" if loaded > SECONDS or size > MEGABYTES else ""
                print(f"| {page} | {loaded:.2f} | {ready:.2f} | {size:.2f} | {over} |", flush=True)
            if (folder / "draw.html").exists():
                print("\n| a picture from | first, ms | then, ms |\n|---|--:|--:|")
                for name, (first, *then) in pictures(browser, f"{address}/draw.html").items():
                    print(f"| {name} | {first:.1f} | {statistics.median(then):.1f} |")
            browser.close()
        server.shutdown()


if __name__ == "__main__":
    book = Path(sys.argv[1] if len(sys.argv) > 1 else "build/cpu/html").resolve()
    if not (book / "index.html").exists():
        sys.exit(f"no book in {book}: run `make book`, or name one (benchmarks/pages.py FOLDER)")
    main(book)
