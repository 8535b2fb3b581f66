"""Execute the chapters with a profile and build the book.

    python book/build.py cpu                                  the whole book, into build/cpu/html
    python book/build.py smoke --only 03 -p n_images 5000     one chapter, with another parameter

A chapter is executed again only when its code, its parameters, vcqlib or the data changed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from filelock import FileLock, Timeout

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the runner, and vcqlib of this very clone

from runner import profiles  # noqa: E402
from runner.chapters import Book, Refused  # noqa: E402
from runner.execute import Executor  # noqa: E402
from runner.pdf import pdf  # noqa: E402
from runner.report import Run  # noqa: E402
from runner.stage import html, stage  # noqa: E402
from runner.teaching import teach  # noqa: E402
from runner.terminal import Status  # noqa: E402


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("profile", help="smoke, cpu, gpu or paper: a file in book/profiles")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="these chapters alone: 03, 05_tokenizer",
    )
    add("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    add("--out", type=Path, help="output folder (build/PROFILE, with --only build/PROFILE/chapter)")
    add("--jobs", type=int, default=2, help="chapters executed side by side (2)")
    add("--force", action="store_true", help="execute even what is up to date")
    add("--no-html", action="store_true", help="execute only")
    add("--pdf", action="store_true", help="print the book, too: book.pdf in the output folder")
    add("--book", type=Path, default=HERE, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def build(options: argparse.Namespace) -> int:
    """Check the request, execute what is stale, build the HTML; return the exit status."""
    book = Book(options.book.resolve())
    profile = profiles.load(options.profile, book.folder / "profiles")
    chapters = book.select(options.only)
    given = {name: profiles.parse(name, text) for name, text in options.parameters}
    profiles.check(profile, book, chapters, set(given))
    if options.jobs < 1:
        raise Refused(f"--jobs must be at least 1, not {options.jobs}")
    out = book.root / "build" / profile.name / ("chapter" if options.only else "")
    out = (options.out or out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another build works in {out}; waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    with lock:
        run, fingerprint, work, keys = Run(out, profile), book.fingerprint(), [], {}
        values = {chapter: profile.for_chapter(chapter, given) for chapter in chapters}
        for chapter, overrides in values.items():
            keys[chapter.name] = chapter.key(overrides, fingerprint)
            if options.force or not run.current(chapter.name, keys[chapter.name]):
                work.append((chapter, overrides))
        # the longest first: they train what the others reuse, and two share the training
        work.sort(key=lambda task: -(profile.budget(task[0].name) or 0))
        status = Status(profile, len(work), len(chapters))
        overridden = {chapter.name: overrides for chapter, overrides in work}
        if work:
            run.note_machine(book.root)

        def finished(chapter, seconds: float) -> None:
            run.note(chapter.name, keys[chapter.name], overridden[chapter.name], seconds)
            status.finished(chapter.name, seconds)

        cores = os.cpu_count() or 1
        threads = max(1, min(int(profile.threads), cores // options.jobs))
        executor = Executor(book.root, out, threads, profile.timeout, options.jobs)
        failures = executor.run(work, finished, status.show)
        if failures:
            print(f"{len(failures)} of {len(chapters)} chapters failed; no HTML", file=sys.stderr)
            return 1
        if options.no_html:
            print(f"executed notebooks: {out / 'notebooks'}")
            return 0
        statistics = run.statistics(profile, [chapter.name for chapter in chapters])
        stage(book, profile, out, values, statistics)
        pages = html(book, out, strict=not options.only)
        if pages is None:
            return 1
        if not options.only:
            teach(book, chapters, out)  # slides and sheets, beside the pages
        print(f"open {pages / 'index.html'}")
        if options.pdf:
            print(f"printed: {pdf(book, out)}")
        return 0


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are ended too
    try:
        return build(arguments())
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # no space, no permission
        print(f"failed: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
