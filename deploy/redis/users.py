#!/usr/bin/env python3
"""Write the file of Redis's users for runstore, with a password of its own for each role.

    python3 users.py --passwords passwords --out users.acl
    python3 users.py --rotate gateway      # a new password beside the old one: the first line of its file
    python3 users.py --forget gateway      # only the new one from now on

A password is read from its file in the folder `passwords` (`publisher`, `gateway`, …), or made there. The file of users
holds only their SHA-256. Needs nothing but Python. Redis reads the file at its start and by `ACL LOAD`.
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
    _of("i:*", "t:*", "tp:*", "tf:*", "s:*", only="%R", may="+zrangebylex +zrangebyscore +zrevrangebyscore"),
    _of("l:*", may="+hget +hset"),
    _of("leases", only="%R", may="+zscore"),
    _of("controls", only="%W", may="+xadd"),
    _BY_HASH,
]
_DATA = ["~runstore:*", "+@read", "+@write", "-@dangerous", "-@blocking", "-@scripting", "+xread", "+eval", "+evalsha"]
_SCRIPTS = ["+role", "+info", "+multi", "+exec", "+script|load", "+script|exists"]
_PROJECTOR = [*_DATA, *_SCRIPTS]
_ADMIN = [*_PROJECTOR, "+config|get", "+scan", "+rename", "+acl|log", "+acl|load"]
_BACKUP = ["+sync", "+replconf", "+info"]
ROLES = {
    "publisher": _PUBLISHER,
    "worker": _WORKER,
    "gateway": _GATEWAY,
    "projector": _PROJECTOR,
    "admin": _ADMIN,
    "backup": _BACKUP,
}


def users(passwords: dict[str, list[str]], *, since_7_2: bool = False) -> str:
    """Return the file of users."""
    # Nobody can be `default`, for it is off. It has every right all the same: Redis 7.0 reads its append-only file as
    # this user, and would skip what the file holds of transactions and scripts, which is nearly everything.
    lines = ["user default off resetpass ~* &* +@all"]
    for role, rules in ROLES.items():
        digests = [f"#{hashlib.sha256(each.encode()).hexdigest()}" for each in passwords[role]]
        talk = _TALK + (_SINCE_7_2 if since_7_2 else [])
        lines.append(" ".join([f"user {role} on resetchannels -@all", *digests, *talk, *rules]))
    return "\n".join(lines) + "\n"


def passwords_of(folder: Path, role: str) -> list[str]:
    """Read the passwords of a role, the newest first, making one where there is none."""
    place = folder / role
    if not place.exists():
        write(place, [secrets.token_urlsafe(32)])
    return place.read_text().split()


def write(place: Path, passwords: list[str]) -> None:
    """Write passwords where only we can read them, whole or not at all."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = place.with_name(f".{place.name}.new")
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(passwords) + "\n")
    made.replace(place)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passwords", type=Path, default=Path("passwords"), help="folder of one file a role")
    parser.add_argument("--out", type=Path, default=Path("users.acl"))
    parser.add_argument("--since-7-2", action="store_true", help="for Redis 7.2 or later, or Valkey")
    parser.add_argument("--rotate", choices=ROLES, help="give a role a new password beside its old one")
    parser.add_argument("--forget", choices=ROLES, help="take a role's old passwords away")
    asked = parser.parse_args()
    if asked.rotate:
        kept = passwords_of(asked.passwords, asked.rotate)
        write(asked.passwords / asked.rotate, [secrets.token_urlsafe(32), kept[0]])
    if asked.forget:
        write(asked.passwords / asked.forget, passwords_of(asked.passwords, asked.forget)[:1])
    text = users({role: passwords_of(asked.passwords, role) for role in ROLES}, since_7_2=asked.since_7_2)
    asked.out.touch(mode=0o640)
    asked.out.write_text(text)


if __name__ == "__main__":
    main()
