"""The port Outputs: written whole, read in views and in pieces, gone in a week unless a commit keeps them."""

import random

import msgspec
import pytest

from runstore.adapters.outputs import CHUNK_BYTES
from runstore.adapters.store import RedisStore
from runstore.core.errors import OutputNotFound
from runstore.core.event import OutputRef
from runstore.core.ids import RunId, to_bytes
from tests.projector.builders import run_id_of

RUN: RunId = run_id_of(1)


def output_of(size: int, *, noise: bool = False) -> bytes:
    text = random.Random(size).randbytes(size // 2).hex() if noise else "x" * size
    return msgspec.json.encode({"status": "success", "exit_code": 0, "stdout": text, "stderr": "", "outputs": None})


def key_of(store: RedisStore, ref: OutputRef) -> bytes:
    """Return the one key of a small output."""
    assert not ref.chunks
    return store.meta.keys_of(RUN).output(to_bytes(RUN), ref.token, "v")


async def pieces(store: RedisStore, ref: object, start: int, stop: int) -> bytes:
    return b"".join([piece async for piece in store.outputs.read(RUN, ref, start, stop)])  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [10, 3000, CHUNK_BYTES - 100, CHUNK_BYTES, 3 * CHUNK_BYTES + 17])
@pytest.mark.parametrize("noise", [False, True])
async def test_what_was_written_is_read_whole_and_its_view_is_within_the_cap(
    real_store: RedisStore, size: int, noise: bool
) -> None:
    output = output_of(size, noise=noise)

    ref = await real_store.outputs.write(RUN, output)

    view = await real_store.outputs.view(RUN, ref)
    assert view is not None
    assert len(view) <= CHUNK_BYTES
    assert ref.truncated is (len(output) > CHUNK_BYTES)
    assert (view == output) is not ref.truncated
    assert ref.output_bytes == len(output)
    assert await pieces(real_store, ref, 0, len(output)) == output


async def test_any_range_of_a_large_output_is_what_lies_there(store: RedisStore) -> None:
    output = output_of(2 * CHUNK_BYTES + 500, noise=True)
    ref = await store.outputs.write(RUN, output)

    for start, stop in [
        (0, 0),
        (0, 1),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (5, 2 * CHUNK_BYTES + 9),
        (len(output) - 1, len(output) + 99),
        (len(output), len(output) + 5),
    ]:
        assert await pieces(store, ref, start, stop) == output[start:stop]


async def test_an_output_that_no_event_names_expires(store: RedisStore) -> None:
    ref = await store.outputs.write(RUN, output_of(10))

    key = key_of(store, ref)
    assert 6 * 86400 < await store.client.ttl(key) <= 7 * 86400


async def test_an_output_that_is_gone_has_no_view_and_no_pieces(store: RedisStore) -> None:
    ref = await store.outputs.write(RUN, output_of(10))
    assert await store.client.delete(key_of(store, ref))

    assert await store.outputs.view(RUN, ref) is None
    with pytest.raises(OutputNotFound):
        await pieces(store, ref, 0, 5)


async def test_writing_again_under_the_same_token_never_makes_a_kept_output_expire(store: RedisStore) -> None:
    ref = await store.outputs.write(RUN, output_of(10), token=b"again")
    key = key_of(store, ref)
    await store.client.persist(key)

    assert await store.outputs.write(RUN, output_of(10), token=b"again") == ref

    assert await store.client.ttl(key) == -1
