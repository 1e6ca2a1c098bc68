"""The log and what a projector makes of it, end to end."""

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.status import Status
from runstore.projector import Projector

RUN = RunId("6f1c0f4e-6d2b-5d3e-9c1a-2b7f3a9d8e10")


async def test_an_appended_event_becomes_a_run(store: RedisStore, projector: Projector) -> None:
    await store.log.append(RUN, b'{"run_id":"%s","status":"running","project_name":"forecasts"}' % RUN.encode())

    await projector.drain()

    [record] = await store.runs.get_many([RUN])
    assert record is not None
    assert record.run.status is Status.RUNNING
