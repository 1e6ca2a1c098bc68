"""What one caller may do on a websocket, beside what its other requests and websockets do."""

from runstore.core.principal import Principal
from runstore.gateway.context import Services


class Allowance:
    """The share of one caller in a gateway's limits, and in what it counts."""

    __slots__ = ("_principal", "_services", "counts")

    def __init__(self, services: Services, principal: Principal) -> None:
        self._services = services
        self._principal = principal
        self.counts = services.counts

    def spend(self, run_ids: int = 0) -> None:
        """Count a message, by how many runs it names.

        Raises: RateLimited.
        """
        self._services.rates.spend_on_message(self._principal, run_ids)

    def subscribe(self, runs: int) -> None:
        """Count the runs of a subscription.

        Raises: RateLimited where they are too many with those of all others.
        """
        self._services.subscribed.take(self._principal, runs)
        self._services.counts.subscriptions += 1

    def unsubscribe(self, runs: int) -> None:
        """Count them no longer."""
        self._services.subscribed.give_back(self._principal, runs)
        self._services.counts.subscriptions -= 1
