"""Dispatch: how a worker, anybody's, finds runs to execute and holds them.

    async with Dispatch.open("redis://127.0.0.1:6379") as dispatch:
        await dispatch.register([ServedProject(name="forecasts")])
        claim = await dispatch.claim()                  # waits without polling
        if await dispatch.begin(claim) is Standing.HELD:
            ...                                         # publish `running`, work, publish the end
            await dispatch.heartbeat(claim)             # every `heartbeat_s`, and when `heard` returns
        await dispatch.finish(claim)

Whoever does not say so in time loses the run to another attempt: `heartbeat` then answers LOST, and the work is to be
ended without a word. What is published about a run carries the claim's attempt, which is the fence against two at once.
"""

from runstore.adapters.dispatch import Released, Standing
from runstore.dispatch.claims import Dispatch
from runstore.dispatch.records import Claim, DispatchConfig, ServedProject

__all__ = ["Claim", "Dispatch", "DispatchConfig", "Released", "ServedProject", "Standing"]
