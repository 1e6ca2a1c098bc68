"""The gateway."""

from runstore.gateway.app import Gateway
from runstore.gateway.config import GatewayConfig

__all__ = ["Gateway", "GatewayConfig"]
