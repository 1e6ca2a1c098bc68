"""The gateway."""

from runstore.gateway.app import Gateway
from runstore.gateway.config import GatewayConfig
from runstore.gateway.jwt_config import JwtConfig

__all__ = ["Gateway", "GatewayConfig", "JwtConfig"]
