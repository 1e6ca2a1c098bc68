"""What is fixed when a store is created: the number of partitions and an id."""

from secrets import token_hex
from typing import Final

from runstore.adapters.connection import StoreClient, is_forbidden
from runstore.core.errors import InvalidRequest, StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.partition import DEFAULT_PARTITIONS, partition_of
from runstore.wire.keys import META, PartitionKeys

MAX_PARTITIONS: Final = 4096
FORM: Final = 1
"""The form in which runs, feeds and indexes are stored; a store in a later one is left alone (docs/upgrading.md)."""

_LATER: Final = "this store is kept in form %s, and this version of runstore knows those up to %d: upgrade it"
_NO_STORE: Final = (
    "there is no store in this Redis yet, and this user may not make one: start `runstore projector` first"
)


class Meta:
    """The store's partitions and their keys."""

    def __init__(self, partitions: int, store_id: str) -> None:
        self.partitions = partitions
        self.store_id = store_id
        self.keys = tuple(PartitionKeys(partition) for partition in range(partitions))

    def keys_of(self, run_id: RunId) -> PartitionKeys:
        """Return the keys of the partition that a run lives in."""
        return self.keys[partition_of(run_id, self.partitions)]


async def load_meta(client: StoreClient, partitions: int | None = None) -> Meta:
    """Read what the store was created with, creating it where it is new (with so many partitions, 16 unless told).

    Raises: InvalidRequest for an impossible number; StoreUnavailable, also where the stored number is none.
    """
    if partitions is not None and not 1 <= partitions <= MAX_PARTITIONS:
        raise InvalidRequest(f"{partitions} is no number of partitions: give one from 1 to {MAX_PARTITIONS}")
    stored, store_id, form = await client.execute_command("HMGET", META, "partitions", "store_id", "form")
    if form is not None and (not form.isdigit() or int(form) > FORM):
        raise StoreUnavailable(_LATER % (form.decode(errors="replace")[:20], FORM))
    if stored is None or store_id is None:
        stored, store_id = await _create(client, partitions or DEFAULT_PARTITIONS)
    if not stored.isdigit() or not 1 <= int(stored) <= MAX_PARTITIONS:
        detail = f"the field partitions of {META} is no number from 1 to {MAX_PARTITIONS}: mend it"
        raise StoreUnavailable(detail) from ValueError(stored)
    return Meta(int(stored), store_id.decode())


async def _create(client: StoreClient, partitions: int) -> tuple[bytes, bytes]:
    pipe = client.pipeline(transaction=True)
    pipe.hsetnx(META, "partitions", str(partitions))
    pipe.hsetnx(META, "store_id", token_hex(8))
    pipe.hsetnx(META, "form", str(FORM))
    pipe.hmget(META, "partitions", "store_id")
    try:
        stored, store_id = (await pipe.execute())[-1]
    except StoreUnavailable as error:
        if is_forbidden(error):
            raise StoreUnavailable(_NO_STORE) from error
        raise
    return stored, store_id


async def renew_meta(client: StoreClient, meta: Meta) -> None:
    """Write down again how many partitions there are, under a new id, where somebody emptied the store meanwhile.

    Raises: StoreUnavailable.
    """
    pipe = client.pipeline(transaction=True)
    pipe.hsetnx(META, "partitions", str(meta.partitions))
    pipe.hsetnx(META, "store_id", token_hex(8))
    pipe.hsetnx(META, "form", str(FORM))
    await pipe.execute()
