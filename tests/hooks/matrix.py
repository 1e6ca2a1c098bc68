"""Prove every hook against its real framework: `python tests/hooks/matrix.py [framework | "framework==version …"] …`.

Each row has an environment of its own, since the frameworks' pins clash. One line is printed for each, and the exit
code is 1 if a test failed anywhere, or if an environment ran none at all. With `--keep FOLDER` the environments stay
there for the next time.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
ROWS: Final = (
    "celery",
    "celery==5.4.* kombu<5.5",  # a newer kombu is no match for the redis that this celery asks for
    "rq",
    "rq==2.12.*",
    "rq==2.0.*",
    "arq",
    "arq==0.26.1",
    "saq",
    "saq==0.24.0",
    "dramatiq dramatiq-abort",
    "dramatiq==1.17.* dramatiq-abort",
    "taskiq",
    "taskiq==0.11.20 taskiq-redis==1.1.0",
    "huey",
    "huey==2.5.*",
)
"""The newest of each framework, and of some the oldest that is supported, with what it must be installed with."""


class Result(NamedTuple):
    """How one row went."""

    ok: bool
    line: str


def prove(row: str, folder: Path, pytest_args: Sequence[str]) -> Result:
    """Install one framework, and run the tests of its hook."""
    framework = re.split("[^a-z]", row)[0]
    tests = ROOT / "tests" / "hooks" / f"test_{framework}.py"
    if not tests.exists():
        return Result(False, f"{row}: there is no {tests.relative_to(ROOT)}")
    python = folder / "bin" / "python"
    log = folder / "log"
    report = folder / "report.xml"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("w") as out:
        try:
            if not python.exists():
                _run(out, sys.executable, "-m", "venv", str(folder))
            wanted = ["opentelemetry-api", *(row.split() if row != framework else ())]
            _run(
                out, str(python), "-m", "pip", "install", "--quiet", *wanted, "--editable", f"{ROOT}[test,{framework}]"
            )
            report.unlink(missing_ok=True)
            argv = [str(python), "-m", "pytest", str(tests), f"--junitxml={report}", f"-ocache_dir={folder / 'cache'}"]
            failed = subprocess.run([*argv, *pytest_args], cwd=ROOT, stdout=out, stderr=out, check=False).returncode
        except subprocess.CalledProcessError:
            return Result(False, f"{row}: could not be installed\n{log.read_text()[-4000:]}")
    took = f"{time.monotonic() - began:.0f} s"
    if not report.exists():
        return Result(False, f"{row}: the tests did not run\n{log.read_text()[-4000:]}")
    ran, skipped = _count(report)
    line = f"{framework} {_version(python, framework)}: {ran} run, {skipped} skipped, {took}"
    if failed or not ran:
        why = "FAILED" if failed else "NOTHING RAN"
        return Result(False, f"{line}: {why}\n{log.read_text()[-20_000:]}")
    return Result(True, f"{line}: ok")


def _run(out: object, *argv: str) -> None:
    subprocess.run(argv, cwd=ROOT, stdout=out, stderr=out, check=True)  # type: ignore[call-overload]


def _count(report: Path) -> tuple[int, int]:
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total = sum(int(suite.get("tests", 0)) for suite in suites)
    skipped = sum(int(suite.get("skipped", 0)) for suite in suites)
    return total - skipped, skipped


def _version(python: Path, framework: str) -> str:
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    asked = subprocess.run([python, "-c", code, framework], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "?"


def main() -> int:
    """Run the rows that were asked for, or all."""
    parser = argparse.ArgumentParser(description="Prove the hooks against their frameworks.")
    parser.add_argument(
        "rows", nargs="*", metavar="framework", help="one of its versions with ==, what goes with it behind"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environments there")
    parser.add_argument("--tries", type=int, default=1, metavar="N", help="how often a row may be run until it passes")
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS", help="for pytest, such as '-n 2 -x'")
    told = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="runstore-hooks-") as temporary:
        for row in told.rows or ROWS:
            folder = (told.keep or Path(temporary)).resolve() / re.sub("[^a-z0-9.]+", "-", row)
            for tries_left in reversed(range(max(1, told.tries))):
                result = prove(row, folder, told.pytest.split())
                print(result.line, flush=True)
                if result.ok or not tries_left:
                    break
            results.append(result.ok)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
