"""Listings, newest first."""

from runstore.adapters.connection import StoreClient
from runstore.adapters.meta import Meta
from runstore.ports import ListPage, ListPosition, ListQuery


async def list_runs(
    client: StoreClient, meta: Meta, query: ListQuery, position: ListPosition | None, limit: int
) -> ListPage:
    """List runs, newest first, from a position on."""
    raise NotImplementedError
