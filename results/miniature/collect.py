"""Take over from a study's folder what belongs in the repository, and write the report again:

    python results/miniature/collect.py runs/miniature

Of each finished transfer: its results, the outcomes of its test, its curves; further the plan, the
baselines' tickets, and the two dense networks that check.sh tests again. Of the report the verdict,
the tables and the figures; `bash script/report.sh results/miniature/runs --out DIR` makes its page.
The README's tables are filled in from it.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from tables import write_tables  # noqa: E402

from errors import InputError, run_main  # noqa: E402
from files import names  # noqa: E402
from report.console import print_verdict  # noqa: E402
from report.write import write_report  # noqa: E402

OF_A_TRANSFER = (names.ARGS, names.METRICS, names.OUTCOMES, names.RESULTS)
OF_A_BASELINE = (names.ARGS, names.ticket(3), names.ticket(6))
TESTED_AGAIN = "transfer/*/folder/adv/f0.1/state0/seed1"
# Where the code lay on the machine that ran is nobody's business.
PLACE = re.compile(r'/[^"]*?(?=main_\w+\.py|results/miniature/study\.toml)')


def collect(runs: Path) -> None:
    finished = [path.parent for path in runs.glob(f"transfer/**/{names.RESULTS}")]
    if not finished:
        raise InputError(f"{runs}: no finished transfer; give the study's folder")
    for folder in finished:
        take(runs, folder, OF_A_TRANSFER)
    for folder in set(runs.glob(TESTED_AGAIN)) & set(finished):
        take(runs, folder, [names.RA_BEST])
    for folder in [*runs.glob("omp/*"), *runs.glob("random/*")]:
        take(runs, folder, OF_A_BASELINE)
    take(runs, runs, [names.STUDY])


def take(runs: Path, folder: Path, files: tuple[str, ...] | list[str]) -> None:
    target = HERE / "runs" / folder.relative_to(runs)
    target.mkdir(parents=True, exist_ok=True)
    for name in files:
        if name.endswith(".json"):
            (target / name).write_text(PLACE.sub("", (folder / name).read_text()))
        else:
            shutil.copyfile(folder / name, target / name)


def write_report_again() -> int:
    shutil.rmtree(HERE / "report", ignore_errors=True)  # a figure that is not drawn any more
    verdict, files = write_report(HERE / "runs", HERE / "report")
    kept = [path for path in files if path.suffix in (".json", ".csv", ".tex", ".png")]
    for path in set(files) - set(kept):
        path.unlink()
    write_tables()
    print_verdict(verdict, kept)
    return len(verdict.errors) > 0


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        raise InputError("usage: python results/miniature/collect.py RUNS")
    collect(Path(argv[0]))
    return write_report_again()


if __name__ == "__main__":
    run_main(lambda: sys.exit(main(sys.argv[1:])))
