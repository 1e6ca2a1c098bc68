"""Whatever is in the log, the projector makes of it what the core's fold makes of it."""

import asyncio
from collections import Counter
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runstore.adapters.store import RedisStore
from runstore.core.event import EntryId
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.projector import Projector, ProjectorConfig
from tests.conftest import emptied
from tests.projector.builders import run_id_of
from tests.projector.folded import fold_log

RUNS = [run_id_of(number, partition=0, partitions=1) for number in range(3)]
STATUSES = ["pending", "running", "success", "failed", "timed_out", "cancelled", "nonsense"]

events = st.fixed_dictionaries(
    {"run_id": st.sampled_from(RUNS), "status": st.sampled_from(STATUSES)},
    optional={
        "project_name": st.sampled_from(["forecasts", "other", "", None]),
        "attempt": st.sampled_from([1, 2, 3, 0, "x"]),
        "commit_sha": st.sampled_from(["a" * 40, "main", ""]),
        "error_message": st.text(max_size=20),
        "at": st.sampled_from(["2023-11-14T22:13:20+00:00", "2099-01-01T00:00:00", "yesterday"]),
        "output": st.dictionaries(st.sampled_from(["stdout", "outputs", "exit_code"]), st.text(max_size=9), max_size=2),
        "tags": st.lists(st.text(max_size=5), max_size=3),
        "progress": st.sampled_from([{"fraction": 0.5}, {"message": "x"}, {"fraction": 2}]),
        "numbered": st.booleans(),
        "worker": st.text(max_size=5),
    },
)
values = st.one_of(events.map(msgspec.json.encode), st.binary(max_size=30), st.just(b'{"run_id":"\\ud800"}'))
entries = st.fixed_dictionaries(
    {}, optional={b"event": values, b"may_write": st.sampled_from([b'["forecasts"]', b"[]", b"x"])}
)
logs = st.lists(entries.map(lambda fields: fields or {b"no": b"thing"}), min_size=1, max_size=25)


def folded(log: list[dict[bytes, bytes]]) -> tuple[dict[RunId, Run], dict[RunId, list[HistoryItem]], int]:
    """Fold a log by the core alone; runs are numbered as they come."""
    numbers: Counter[str] = Counter()

    def number(_: RunId, run: Run) -> int:
        numbers[run.project_name] += 1
        return numbers[run.project_name]

    entries = [(EntryId(1_700_000_000_000 + place, 0), fields) for place, fields in enumerate(log)]
    done = fold_log({0: entries}, 1, number)
    return done.runs, done.histories, done.dead


async def projected(url: str, log: list[dict[bytes, bytes]], batch_entries: int) -> tuple[Any, ...]:
    emptied(url)
    async with RedisStore.open(url, partitions=1) as store:
        pipe = store.client.pipeline(transaction=False)
        for place, fields in enumerate(log):
            flat = [part for item in fields.items() for part in item]
            pipe.execute_command("XADD", store.meta.keys[0].events, f"{1_700_000_000_000 + place}-0", *flat)
        await pipe.execute()
        await Projector(store, ProjectorConfig(batch_entries=batch_entries, heads=1)).drain()
        records = await store.runs.get_many(RUNS)
        runs = {record.run.run_id: record.run for record in records if record is not None}
        histories = {run_id: await store.runs.history(run_id) for run_id in runs}
        for run in runs.values():
            for ref in (run.output, run.late_output):
                assert ref is None or await store.outputs.view(run.run_id, ref) is not None
        return runs, histories, await store.client.xlen(store.meta.keys[0].dead)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs, batch_entries=st.sampled_from([1, 2, 256]))
def test_any_log_gives_what_the_fold_gives(real_server: str, log: list[dict[bytes, bytes]], batch_entries: int) -> None:
    assert asyncio.run(projected(real_server, log, batch_entries)) == folded(log)
