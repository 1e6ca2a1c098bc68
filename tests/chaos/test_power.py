"""The shim sees what a power cut takes: it tells apart what was fsynced and what was only written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.power import Power, build_shim
from tests.chaos.server import Server
from tests.waiting import happens

ROUNDS = 10


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build_shim(tmp_path_factory.mktemp("shim"))
    if built is None:
        pytest.skip("no C compiler")
    return built


class Machine:
    def __init__(self, shim: Path, folder: Path, fsync: str) -> None:
        self.power = Power(shim, folder / "power", folder / "data")
        self.server = Server(folder / "data", self.power, fsync=fsync)
        self.begin()

    def begin(self) -> None:
        self.server.start()
        self.server.ready()
        self.client = self.server.client()

    def cut(self) -> None:
        self.server.kill()
        self.power.cut()
        self.begin()


@pytest.fixture
def machine(shim: Path, tmp_path: Path, fsync: str):
    made = Machine(shim, tmp_path, fsync)
    yield made
    made.server.kill()


@pytest.mark.parametrize("fsync", ["always"])
def test_a_power_cut_takes_nothing_that_was_acknowledged_under_always(machine: Machine) -> None:
    for key in range(100):
        machine.client.set(key, "x")

    machine.cut()

    assert machine.client.dbsize() == 100


@pytest.mark.parametrize("fsync", ["everysec"])
async def test_a_power_cut_takes_the_newest_writes_under_everysec_and_no_older_ones(machine: Machine) -> None:
    for number in range(ROUNDS):
        machine.client.set(f"early {number}", "x")
        await happens(lambda: machine.power.at_risk() == 0)
        machine.client.set(f"late {number}", "x")

        machine.cut()

        assert machine.client.exists(*(f"early {n}" for n in range(number + 1))) == number + 1
        if not machine.client.exists(f"late {number}"):
            return  # seldom does the disk get it in this moment, and not ten times in a row
    pytest.fail("nothing was ever lost under everysec")


@pytest.mark.parametrize("fsync", ["no"])
def test_a_power_cut_takes_everything_where_nothing_is_ever_forced_onto_the_disk(machine: Machine) -> None:
    machine.client.set("early", "x")
    machine.server.kill()
    machine.begin()
    assert machine.client.exists("early"), "a kill alone takes nothing"

    machine.cut()

    assert machine.client.dbsize() == 0


@pytest.mark.parametrize("fsync", ["always"])
async def test_a_step_of_the_clock_is_seen_by_the_server(machine: Machine) -> None:
    before = machine.client.time()[0]

    machine.power.step(3600)

    await happens(lambda: 3500 < machine.client.time()[0] - before < 4000)


def test_a_full_disk_takes_no_bytes_until_it_has_room_again(shim: Path, tmp_path: Path) -> None:
    power = Power(shim, tmp_path / "power", tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    code = "import sys; f = open(sys.argv[1], 'wb', buffering=0); f.write(b'x')"

    def write(path: Path) -> int:
        words = [sys.executable, "-c", code, str(path)]
        return subprocess.run(words, env={**os.environ, **power.env}, capture_output=True, check=False).returncode

    power.fill(True)
    assert write(tmp_path / "disk" / "a") != 0
    assert write(tmp_path / "elsewhere") == 0

    power.fill(False)
    assert write(tmp_path / "disk" / "a") == 0


@pytest.mark.parametrize("name", ["a:b", "a b"])
def test_a_folder_whose_library_no_process_would_load_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="choose another folder"):
        build_shim(tmp_path / name)
