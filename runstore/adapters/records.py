"""Records read from run hashes, and what to make of a key that holds none."""

from collections.abc import Sequence
from logging import getLogger
from typing import Any

import msgspec

from runstore.adapters.connection import StoreClient
from runstore.adapters.meta import Meta
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, to_bytes
from runstore.wire.record import PROJECTED, Record, decode_record

_log = getLogger("runstore.adapters.records")


async def get_records(client: StoreClient, meta: Meta, run_ids: Sequence[RunId]) -> list[Record | None]:
    """Get records in one round trip; a key that holds no record counts as no run, and is logged."""
    if not run_ids:
        return []
    if len(run_ids) == 1:
        return [await _get_record(client, meta, run_ids[0])]
    pipe = client.pipeline(transaction=False)
    for run_id in run_ids:
        pipe.execute_command("HMGET", meta.keys_of(run_id).run(to_bytes(run_id)), *PROJECTED)
    replies = await pipe.execute(raise_on_error=False)
    return [_read(run_id, reply) for run_id, reply in zip(run_ids, replies, strict=True)]


async def _get_record(client: StoreClient, meta: Meta, run_id: RunId) -> Record | None:
    """Get one record by one command: a pipeline costs the client as much again."""
    reply: Any
    try:
        reply = await client.execute_command("HMGET", meta.keys_of(run_id).run(to_bytes(run_id)), *PROJECTED)
    except StoreUnavailable as error:
        if not str(error.__cause__).startswith("WRONGTYPE"):
            raise
        reply = error.__cause__
    return _read(run_id, reply)


def _read(run_id: RunId, reply: Any) -> Record | None:
    try:
        return read_record(run_id, reply)
    except CorruptRecord as error:
        _log.error("record_unreadable", extra={"run_id": run_id, "reason": str(error)})
        return None


class CorruptRecord(StoreUnavailable):
    """A run's key holds something that is no record."""


def read_record(run_id: RunId, reply: Any) -> Record | None:
    """Read the reply to an HMGET of the record's fields, or the error that a script passed on as text.

    Raises: CorruptRecord; StoreUnavailable where the reply is another error.
    """
    if isinstance(reply, Exception | bytes):
        said = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
        if said.startswith("WRONGTYPE"):
            raise CorruptRecord("the run's key has the wrong type")
        raise StoreUnavailable(f"a run could not be read: {said[:200]}")
    try:
        return decode_record(
            run_id, {name: value for name, value in zip(PROJECTED, reply, strict=True) if value is not None}
        )
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise CorruptRecord("the run's record cannot be read") from error
