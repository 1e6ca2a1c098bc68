"""The units are understood by systemd, confined, and name what there is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.secured import DEPLOY

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MOST_EXPOSED = 1.5

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or shutil.which("systemd-sysusers") is None,
    reason="systemd is not installed: apt-get install systemd",
)


def asked(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root in which the programs that the units start exist."""
    for name in ("opt/runstore/bin/runstore", "usr/bin/true"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text().replace("/opt/runstore/bin/runstore", shutil.which("true") or "/bin/true")
    name = unit.name.replace("@.", "@8080.")
    (tmp_path / name).write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", tmp_path / name],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_confined(unit: Path) -> None:
    said = asked("systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSED * 10:.0f}", unit)

    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found is not None
    assert float(found[1]) <= MOST_EXPOSED


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_never_given_up(unit: Path) -> None:
    lines = unit.read_text().splitlines()

    assert {"StartLimitIntervalSec=0", "Restart=always", "WatchdogSec=30", "Type=notify"} <= set(lines)


def test_the_users_and_folders_are_made(root: Path) -> None:
    for name in ("sysusers", "tmpfiles"):
        folder = root / "usr" / "lib" / f"{name}.d"
        folder.mkdir(parents=True)
        shutil.copy(DEPLOY / "systemd" / f"{name}.conf", folder / "runstore.conf")
    (root / "etc" / "runstore").mkdir(parents=True)
    (root / "etc" / "runstore" / "gateway.env").write_text("x")

    asked("systemd-sysusers", f"--root={root}", "runstore.conf")
    asked("systemd-tmpfiles", f"--root={root}", "--create", "runstore.conf")

    users = (root / "etc" / "passwd").read_text()
    assert {line.split(":")[0] for line in users.splitlines()} == {"runstore", "runstore-worker"}
    assert all(line.endswith("/nologin") for line in users.splitlines())
    assert (root / "etc" / "runstore" / "gateway.env").stat().st_mode & 0o777 == 0o600


def test_a_worker_is_given_the_time_to_stop_that_it_may_take() -> None:
    from runstore_worker.config import WorkerConfig

    text = (DEPLOY / "systemd" / "runstore-worker.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert found is not None
    config = WorkerConfig()
    assert int(found[1]) > config.grace_s + config.kill_after_s + config.last_words_s
