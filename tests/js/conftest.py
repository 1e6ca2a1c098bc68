"""What the scripts speak to."""

from tests.sdk.running import publisher, running

__all__ = ["publisher", "running"]
