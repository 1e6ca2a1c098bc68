"""The client: ask a gateway for runs, look them up, and hear of them as they go on. Needs no Redis."""

from runstore.client.asynchronous import AsyncClient
from runstore.client.blocking import Client
from runstore.client.config import ClientConfig
from runstore.client.errors import GatewayUnreachable, UnexpectedAnswer, WaitTimeout
from runstore.client.run import ListedRun, Output, Run, RunEvent, RunPage, RunToken

__all__ = [
    "AsyncClient",
    "Client",
    "ClientConfig",
    "GatewayUnreachable",
    "ListedRun",
    "Output",
    "Run",
    "RunEvent",
    "RunPage",
    "RunToken",
    "UnexpectedAnswer",
    "WaitTimeout",
]
