"""Go through the points of a story: told once undisturbed, then once for each call and moment."""

import asyncio
import logging
import shutil
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import msgspec

from runstore.engine import EngineConfig, EngineKind, start
from runstore.wire.keys import PartitionKeys
from tests.conftest import emptied
from tests.crashes.fate import Call, Moment, Point, fated
from tests.crashes.stories import STORIES_TOLD, Story
from tests.crashes.world import PARTITIONS, World
from tests.ledger import check, dump_of
from tests.projector.builders import event_of, run_id_of

LAST = run_id_of(99)
MOST_MISSES = 4
"""A point may lie behind what only time decides: then the story is told again."""


class Survey(msgspec.Struct):
    """The points of one process of a story: how many there are, which were met, and what each that failed left."""

    points: int = 0
    met: int = 0
    deaths: int = 0
    failures: list[str] = msgspec.field(default_factory=list)


async def survey(url: str, story: Story, role: str) -> Survey:
    """Tell a story with every fate of one of its processes."""
    found = Survey()
    calls = await _told(url, story, role, None, found)
    todo = _points(calls, story)
    known = set(todo)
    names = {call.name for call in calls}
    misses: Counter[Point] = Counter()
    while todo:
        point = todo.pop(0)
        seen = await _told(url, story, role, point, found)
        # what is called only after a failure is a point like any other
        more = [new for new in _points(seen, story) if new not in known and new.call.name not in names]
        known.update(more)
        todo += more
        if point not in _met:
            misses[point] += 1
            if misses[point] < MOST_MISSES:
                todo.append(point)
    found.points, found.met = len(known), len(known & _met)
    found.failures += [f"{role}: never met {point}" for point in known - _met]
    _met.clear()
    return found


def _points(calls: list[Call], story: Story) -> list[Point]:
    return [Point(call, moment) for call in calls if call.nth < story.most_repeats for moment in Moment]


_met: set[Point] = set()


async def _told(url: str, story: Story, role: str, point: Point | None, found: Survey) -> list[Call]:
    folder = Path(mkdtemp(prefix="runstore-spool-"))
    emptied(url)
    with fated():
        world = World(url, folder, role, point)
        try:
            await story.tell(world)
            await _rest(world)
            wrong = await _differences(world)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        finally:
            await world.aclose()
            shutil.rmtree(folder, ignore_errors=True)
    if point is not None and world.fate.met:
        _met.add(point)
    where = f"{role} {point.moment}, {point.call.name} #{point.call.nth}" if point else f"{role} undisturbed"
    found.failures += [f"{where}: {sentence}" for sentence in wrong]
    found.deaths += world.fate.met and point is not None and point.moment in {Moment.DIES_BEFORE, Moment.DIES_AFTER}
    return list(world.fate.calls)


async def _rest(world: World) -> None:
    """Let one more numbered run be begun and ended by a fresh projector: what was left over is then forgotten."""
    await world.end_all()
    event = event_of(LAST, "success", numbered=True)
    await world.do("feeder", lambda process: process.store.log.append(LAST, event))
    await world.drain("last projector")


async def _differences(world: World) -> list[str]:
    dump = dump_of(world.url)
    wrong = check(dump, PARTITIONS)
    runs = await world.do("reader", lambda process: process.store.runs.get_many(list(world.ends)))
    for (run_id, status), record in zip(world.ends.items(), runs, strict=True):
        if record is None or record.run.status is not status:
            wrong.append(f"the run {run_id} ends as {record and record.run.status}, not {status}")
    # what is in the log is in the store, as was just seen
    log = b"".join(fields.get(b"event", b"") for _, fields in dump.get(PartitionKeys(0).events, []))
    lost = [event_id for event_id in world.acknowledged if event_id.encode() not in log]
    return wrong + [f"the acknowledged event {event_id} is lost" for event_id in lost]


def survey_one(name: str, role: str) -> Survey:
    """Go through one process of one story, on a server of its own."""
    logging.disable(logging.CRITICAL)
    with TemporaryDirectory() as folder, start(EngineConfig(data_dir=Path(folder), kind=EngineKind.WHEEL)) as engine:
        return asyncio.run(survey(engine.redis_url, STORIES_TOLD[name], role))
