"""The scripts of those who may send none: projectors load them, and publishers, gateways and workers run them by hash.

A server forgets its scripts when it is started anew, and a promoted replica never had any: see `docs/adr/0007`.
"""

from typing import Final

from runstore.adapters import dispatch, feed, holding, log, served, signing_keys
from runstore.adapters.connection import Script, StoreClient

SHARED: Final[tuple[Script, ...]] = (
    *(dispatch.SHARED + holding.SHARED + served.SHARED),
    *(log.SHARED + feed.SHARED + signing_keys.SHARED),
)


async def load_scripts(client: StoreClient) -> int:
    """Load what a server does not know, on each server that takes writes, and return how many it were.

    Raises: StoreUnavailable.
    """
    loaded = 0
    for server in await client.servers():
        known = await server.execute_command("SCRIPT EXISTS", *(script.sha for script in SHARED))
        missing = [script for script, is_known in zip(SHARED, known, strict=True) if not is_known]
        for script in missing:
            await server.execute_command("SCRIPT LOAD", script.lua)
        loaded += len(missing)
    return loaded
