"""The spool's file: what was appended is read in order, whatever happened to the process or the file meanwhile."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.ids import RunId
from runstore.publish.config import PublisherConfig
from runstore.publish.spool import Spool, SpoolFailed
from runstore.publish.spools import abandoned, spool_for, spool_root, waiting
from runstore.wire.spool import decode_head, encode_head, encode_record, read_records

MIB = 1024 * 1024
URL = "redis://127.0.0.1:6379"
A = RunId("aaaaaaaa-0000-4000-8000-000000000000")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def a_spool(folder: Path, most_bytes: int = MIB) -> Spool:
    return Spool(folder, "redis://127.0.0.1:6379/0", most_bytes)


def all_of(spool: Spool, at_once: int = 100) -> list[bytes]:
    found: list[bytes] = []
    while not spool.is_empty:
        batch = spool.read(at_once, MIB)
        found += batch.events
        spool.advance(batch)
    return found


def only_file(folder: Path) -> Path:
    (path,) = folder.rglob("*.spool")
    return path


@contextmanager
def dead_process(folder: Path, *events: bytes) -> Iterator[Path]:
    """Leave the spool of a process that was killed."""
    child = os.fork()
    if child == 0:
        a_spool(folder).append(events)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    yield only_file(folder)


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_events_are_read_in_the_order_in_which_they_were_appended(folder: Path, at_once: int) -> None:
    spool = a_spool(folder)
    spool.append([b"1", b"2"])
    spool.append([b"3"])

    assert all_of(spool, at_once) == [b"1", b"2", b"3"]


def test_a_spool_with_nothing_in_it_leaves_no_file(folder: Path) -> None:
    spool = a_spool(folder)
    spool.append([b"1"])
    assert only_file(folder).stat().st_mode & 0o777 == 0o600

    all_of(spool)

    assert not list(folder.iterdir())
    spool.append([b"2"])
    assert all_of(spool) == [b"2"]


def test_a_spool_that_is_closed_with_events_in_it_is_there_for_another(folder: Path) -> None:
    spool = a_spool(folder)
    spool.append([b"1", b"2"])
    spool.advance(spool.read(1, MIB))
    spool.close()

    (found,) = abandoned(folder)

    assert all_of(found) == [b"2"]
    assert not list(folder.iterdir())


def test_a_spool_that_is_in_use_is_adopted_by_nobody(folder: Path) -> None:
    spool = a_spool(folder)
    spool.append([b"1"])

    assert not list(abandoned(folder))


def test_what_a_killed_process_appended_is_there(folder: Path) -> None:
    with dead_process(folder, b"1", b"2"):
        (found,) = abandoned(folder)

        assert all_of(found) == [b"1", b"2"]


def test_a_forked_child_neither_uses_nor_frees_its_parents_spool(folder: Path) -> None:
    spool = a_spool(folder)
    spool.append([b"parent"])
    child = os.fork()
    if child == 0:
        ok = spool.is_empty and not list(abandoned(folder))
        spool.append([b"child"])
        os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    (left,) = abandoned(folder)
    assert all_of(left) == [b"child"]
    assert all_of(spool) == [b"parent"]


@pytest.mark.parametrize("cut", [1, 5, 12, 15])
def test_a_torn_tail_is_cut_and_the_rest_is_there(folder: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    with dead_process(folder, b"first", b"last") as path:
        os.truncate(path, path.stat().st_size - cut)

        (found,) = abandoned(folder)

        assert all_of(found) == [b"first"]
        assert "spool_damaged" in caplog.text


def test_damage_in_the_middle_costs_only_what_it_hit(folder: Path) -> None:
    with dead_process(folder, b"one", b"two", b"three") as path:
        data = path.read_bytes()
        path.write_bytes(data.replace(b"two", b"tWo"))

        (found,) = abandoned(folder)

        assert all_of(found) == [b"one", b"three"]


def test_a_file_that_is_no_spool_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "1-a.spool").write_bytes(b"something else")
    (folder / "2-b.spool").write_bytes(b"")

    assert not list(abandoned(folder))
    assert len(list(folder.iterdir())) == 2


def test_a_full_spool_says_so_and_keeps_what_it_has(folder: Path) -> None:
    spool = a_spool(folder, most_bytes=200)
    spool.append([b"x" * 50])

    with pytest.raises(SpoolFailed, match="full"):
        spool.append([b"y", b"z" * 200])

    assert all_of(spool) == [b"x" * 50]


def test_what_was_delivered_makes_room(folder: Path) -> None:
    spool = a_spool(folder, most_bytes=1000)
    numbers = iter(range(1000))
    told = [b"%50d" % next(numbers) for _ in range(10)]
    spool.append(told)
    heard: list[bytes] = []

    for _ in range(100):
        batch = spool.read(2, MIB)
        heard += batch.events
        spool.advance(batch)
        told += (more := [b"%50d" % next(numbers) for _ in range(2)])
        spool.append(more)

    assert heard + all_of(spool) == told


@contextmanager
def disk_that_takes(most_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, usual)


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def test_a_disk_that_takes_no_more_leaves_a_whole_spool(folder: Path) -> None:
    spool = a_spool(folder)
    spool.append([b"kept"])
    with disk_that_takes(only_file(folder).stat().st_size + 100), pytest.raises(SpoolFailed, match="cannot be written"):
        spool.append([b"x" * 1000])

    spool.append([b"later"])
    assert all_of(spool) == [b"kept", b"later"]


@pytest.mark.parametrize("takes_bytes", [0, 10])
def test_a_disk_that_took_no_beginning_costs_nothing_that_comes_later(folder: Path, takes_bytes: int) -> None:
    spool = a_spool(folder)
    with disk_that_takes(takes_bytes), pytest.raises(SpoolFailed, match="cannot be written"):
        spool.append([b"lost"])
    spool.append([b"later"])
    spool.close()

    (found,) = abandoned(folder)

    assert all_of(found) == [b"later"]
    assert not list(folder.iterdir())


def test_a_disk_that_is_full_keeps_nothing_from_being_delivered(folder: Path) -> None:
    spool = a_spool(folder, most_bytes=10_000)
    told = [b"%100d" % number for number in range(80)]
    spool.append(told)
    heard: list[bytes] = []
    before = open_files()

    with disk_that_takes(100):
        for _ in range(5):
            batch = spool.read(12, MIB)
            heard += batch.events
            spool.advance(batch)

    assert open_files() == before
    assert [path.suffix for path in folder.iterdir()] == [".spool"]
    spool.append([b"more"])
    assert heard + all_of(spool) == [*told, b"more"]


def test_what_a_crash_left_half_made_is_swept_up(folder: Path) -> None:
    with dead_process(folder, b"1") as path:
        path.with_suffix(".new").write_bytes(b"RUNSPOOL, and then the power went")
        (folder / "3-c.new").touch()

        (found,) = abandoned(folder)

        assert all_of(found) == [b"1"]
        assert not list(folder.iterdir())


def test_what_is_refused_holds_up_nothing_and_keeps_its_order(folder: Path) -> None:
    spool = a_spool(folder, most_bytes=100)
    spool.append([b"a1", b"b1", b"b2", b"a2", b"b3"])

    spool.advance(spool.read(1, MIB), {0: A})
    spool.append([b"a3"])
    rest = spool.read(100, MIB)

    assert (rest.events, spool.aside) == ([b"b1", b"b2", b"a2", b"b3", b"a3"], {A})
    spool.advance(rest, {2: A, 4: A})
    assert not spool.aside
    assert all_of(spool, at_once=2) == [b"a1", b"a2", b"a3"]
    assert not list(folder.iterdir())


def test_what_was_delivered_beside_what_is_refused_makes_room(folder: Path) -> None:
    spool = a_spool(folder, most_bytes=1000)
    told = [b"a1", b"a2"]
    spool.append(told)
    spool.advance(spool.read(2, MIB), {0: A, 1: A})

    for number in range(100):
        spool.append([b"%100d" % number])
        while (batch := spool.read(2, MIB)).events[0] in told:
            spool.advance(batch, {index: A for index, event in enumerate(batch.events) if event in told})
        spool.advance(batch)

    assert only_file(folder).stat().st_size < 2000
    assert all_of(spool) == told


def test_what_was_delivered_beside_what_is_refused_is_not_left_to_others(folder: Path) -> None:
    spool = a_spool(folder)
    spool.append([b"a1", b"b1", b"a2", b"b2"])
    spool.advance(spool.read(3, MIB), {0: A, 2: A})
    spool.close()

    (found,) = abandoned(folder)

    assert all_of(found) == [b"a1", b"a2", b"b2"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_nobody_sends_what_another_user_put_there(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with dead_process(folder, b"1") as path:
        os.chown(path, 54321, 54321)

        assert not list(abandoned(folder))
        assert "spool_not_adopted" in caplog.text


def test_what_was_delivered_from_a_folder_that_lets_nothing_go_is_not_sent_again() -> None:
    with TemporaryDirectory() as made:  # the test's own folder lets no other user in
        outer = Path(made)
        folder = outer / "spool"
        outer.chmod(0o777)
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setuid(54321)
                a_spool(folder).append([b"1"])
                folder.chmod(0o555)
                for told in ([b"1"], []):
                    (found,) = abandoned(folder)
                    assert all_of(found) == told
                    found.close()
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if folder.exists():
            folder.chmod(0o755)

    assert os.waitstatus_to_exitcode(status) == 0


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SpoolFailed, match="cannot be written"):
        a_spool(tmp_path / "file" / "spool").append([b"1"])


def test_what_waits_can_be_seen_without_touching_it(folder: Path) -> None:
    with dead_process(folder, b"12", b"345"):
        spool = a_spool(folder)
        spool.append([b"6"])

        seen = {(each.label, each.events, each.bytes, each.held) for each in waiting(folder)}

        assert seen == {("redis://127.0.0.1:6379/0", 2, 5, False), ("redis://127.0.0.1:6379/0", 1, 1, True)}
        assert len(list(abandoned(folder))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://127.0.0.1:6379?db=1", "redis://127.0.0.1:6379?db=2"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://?host=a", "redis://?host=b"),
    ],
)
def test_what_waits_for_one_database_is_never_sent_to_another(one: str, other: str) -> None:
    config = PublisherConfig()

    assert spool_for(one, config).folder != spool_for(other, config).folder


def test_a_folder_stays_where_it_is_when_the_program_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spool = spool_for(URL, PublisherConfig(spool_dir="spool"))
    monkeypatch.chdir("/")

    spool.append([b"1"])

    assert only_file(tmp_path / "spool")
    assert all_of(spool) == [b"1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that nobody knows")
def test_a_user_without_a_home_has_a_spool_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    child = os.fork()
    if child == 0:
        os.setuid(54321)
        try:
            os._exit(0 if spool_root(PublisherConfig()).is_absolute() else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_each_store_has_a_folder_of_its_own_whatever_the_password(tmp_path: Path) -> None:
    config = PublisherConfig(spool_dir=str(tmp_path))
    folders = [
        spool_for(url, config).folder
        for url in ("redis://:secret@127.0.0.1:6379/0", "redis://u:other@127.0.0.1", "redis://127.0.0.1:6379/1")
    ]

    assert folders[0] == folders[1] != folders[2]
    spool = spool_for("redis://:secret@127.0.0.1", config)
    spool.append([b"1"])
    assert b"secret" not in only_file(tmp_path).read_bytes()


@given(st.lists(st.binary(max_size=50), max_size=20), st.data())
def test_whatever_a_crash_cuts_off_what_is_before_the_cut_is_read(events: list[bytes], data: st.DataObject) -> None:
    head = encode_head("redis://x")
    whole = head + b"".join(map(encode_record, events))
    cut = data.draw(st.integers(len(head), len(whole)))

    read = [span.event for span in read_records(whole[:cut], len(head))]

    assert read == events[: len(read)]
    sizes = [len(encode_record(event)) for event in events[: len(read) + 1]]
    assert len(read) == len(events) or len(head) + sum(sizes) > cut


@given(st.binary(max_size=80))
def test_no_bytes_make_the_reader_fail(data: bytes) -> None:
    decode_head(data)
    list(read_records(data, 0))
