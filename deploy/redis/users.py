#!/usr/bin/env python3
"""Write the file of Redis's users for runstore, with a password of its own for each role.

    python3 users.py --passwords passwords --out users.acl

A password is read from its file in the folder `passwords` (`publisher`, `gateway`, …), or made there. The file of users
holds only their SHA-256. Needs nothing but Python.
"""

import argparse
import hashlib
import os
import secrets
from pathlib import Path

_TALK = ["+ping", "+role", "+time", "+select", "+cluster|slots", "+client|setname", "+wait"]
_SINCE_7_2 = ["+client|setinfo", "+waitaof"]

_META = "(%R~runstore:meta +hget +hmget)"
_BY_HASH = "(~runstore:* +evalsha)"
"""To begin a script that a projector has loaded. What the script then does, it does with its caller's own rights."""


def _of(*keys: str, may: str, only: str = "") -> str:
    """Some commands on some keys of every partition."""
    patterns = " ".join(f"{only}~runstore:{{[0-9]*}}:{key}" for key in keys)
    return f"({patterns} {may})"


_PUBLISHER = [
    _META,
    _of("events", only="%W", may="+xadd"),
    _of("o:*", only="%W", may="+set"),
    _of("cursor", only="%R", may="+hget +hmget"),
    _of("l:*", may="+hget +hmget +hset +del"),
    _of("leases", may="+zadd +zrem"),
    _BY_HASH,
]
_WORKER = [
    *_PUBLISHER,
    _of("leases", "deadlines", "queue_deadlines", "w:*", may="+zadd +zrem +zscore +zrange"),
    _of("q:*", only="%R", may="+get"),
    _of("offers", only="%W", may="+xadd"),
    _of("offers", "controls", only="%R", may="+xread +xrevrange"),
    _of("g:*", only="%W", may="+xadd +expire"),
    "(%W~runstore:served +zadd)",
]
_GATEWAY = [
    _META,
    "(%R~runstore:tokens +hgetall)",
    "(~runstore:run_token_keys +hgetall +hset +hdel)",
    "(%R~runstore:served +zrangebyscore)",
    _of("events", only="%W", may="+xadd"),
    _of("events", only="%R", may="+exists +xinfo|stream +xrange"),
    _of("o:*", only="%W", may="+set"),
    _of("o:*", only="%R", may="+get"),
    _of("cursor", "projects", "r:*", only="%R", may="+hget +hmget +hgetall +hkeys"),
    _of("feed", "mark", "g:*", only="%R", may="+xread +xrange +xrevrange"),
    _of("i:*", "t:*", "tp:*", "tf:*", "s:*", only="%R", may="+zrange +zrangebylex +zrangebyscore +zrevrangebyscore"),
    _of("l:*", may="+hget +hset"),
    _of("leases", only="%R", may="+zscore"),
    _of("controls", only="%W", may="+xadd"),
    _BY_HASH,
]
_DATA = ["~runstore:*", "+@read", "+@write", "-@dangerous", "-@blocking", "-@scripting", "+xread", "+eval", "+evalsha"]
_SCRIPTS = ["+role", "+info", "+multi", "+exec", "+script|load", "+script|exists"]
_PROJECTOR = [*_DATA, *_SCRIPTS]
_ADMIN = [*_PROJECTOR, "+config|get", "+scan", "+rename", "+acl|log"]
ROLES = {
    "publisher": _PUBLISHER,
    "worker": _WORKER,
    "gateway": _GATEWAY,
    "projector": _PROJECTOR,
    "admin": _ADMIN,
}


def users(passwords: dict[str, str], *, since_7_2: bool = False) -> str:
    """Return the file of users."""
    # Nobody can be `default`, for it is off. It has every right all the same: Redis 7.0 reads its append-only file as
    # this user, and would skip what the file holds of transactions and scripts, which is nearly everything.
    lines = ["user default off resetpass ~* &* +@all"]
    for role, rules in ROLES.items():
        digest = hashlib.sha256(passwords[role].encode()).hexdigest()
        talk = _TALK + (_SINCE_7_2 if since_7_2 else [])
        lines.append(" ".join([f"user {role} on resetchannels -@all #{digest}", *talk, *rules]))
    return "\n".join(lines) + "\n"


def password(folder: Path, role: str) -> str:
    """Read the password of a role, making one where there is none."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = folder / role
    if not place.exists():
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
            made.write(secrets.token_urlsafe(32))
    return place.read_text().strip()


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passwords", type=Path, default=Path("passwords"), help="folder of one file a role")
    parser.add_argument("--out", type=Path, default=Path("users.acl"))
    parser.add_argument("--since-7-2", action="store_true", help="for Redis 7.2 or later, or Valkey")
    asked = parser.parse_args()
    text = users({role: password(asked.passwords, role) for role in ROLES}, since_7_2=asked.since_7_2)
    asked.out.touch(mode=0o640)
    asked.out.write_text(text)


if __name__ == "__main__":
    main()
