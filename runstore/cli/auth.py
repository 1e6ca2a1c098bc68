"""What the settings say about issuers of JWTs."""

from typing import TYPE_CHECKING

from runstore.config import JWT, Settings, SettingUnusable
from runstore.core.errors import InvalidRequest

if TYPE_CHECKING:
    from runstore.gateway.jwt_config import JwtConfig


def read_jwt(settings: Settings) -> "JwtConfig | None":
    """Read whose JWTs are taken (None: nobody's). Letting nobody in by mistake is worse than not starting.

    Raises: SettingUnusable.
    """
    from runstore.gateway.jwt_config import JwtConfig, check_jwt

    record = settings.record(JWT, JwtConfig)
    if record == JwtConfig():
        return None
    try:
        return check_jwt(record)
    except InvalidRequest as error:
        raise SettingUnusable(error.detail) from None
