"""What a gateway counts as it works: plain integers, so that counting costs next to nothing."""

from typing import Final

from aiohttp import web

from runstore.gateway.route import Route

Row = list[int]
"""Answers of one route, by the first digit of their status."""

ROW: Final = web.RequestKey("row", Row)
_CLASSES: Final = 6


class GatewayCounts:
    """The counts of one gateway. `rows` are the answers of each route, `nowhere` those to what is none."""

    __slots__ = (
        "connections_refused",
        "messages_refused",
        "nowhere",
        "requests_refused",
        "rows",
        "slow_readers",
        "sockets",
        "stream_pushes",
        "streams",
        "subscriptions",
        "websocket_pushes",
    )

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.nowhere: Row = [0] * _CLASSES
        self.sockets = self.streams = self.subscriptions = 0
        self.websocket_pushes = self.stream_pushes = self.slow_readers = 0
        self.requests_refused = self.messages_refused = self.connections_refused = 0

    def row(self, route: Route) -> Row:
        """Return the row of a route."""
        return self.rows.setdefault((route.method, route.path), [0] * _CLASSES)

    def answered(self, request: web.BaseRequest, status: int) -> None:
        """Count an answer."""
        row = request.get(ROW, self.nowhere)
        row[status // 100] += 1
