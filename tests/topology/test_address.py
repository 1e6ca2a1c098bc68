"""Where a URL leads."""

from typing import Any

import pytest

from runstore.adapters.address import Kind, address_of, read_address
from runstore.adapters.cluster import slot_of, slot_of_key
from runstore.adapters.store import RedisStore
from runstore.core.errors import InvalidRequest


def test_a_url_of_sentinels_names_them_their_service_and_who_asks() -> None:
    url = "rediss+sentinel://me:word@a:1,[::1]:2,c/runs/3?ssl_cert_reqs=none&sentinel_password=other"
    address = read_address(url)

    assert address.kind is Kind.SENTINEL
    assert address.nodes == (("a", 1), ("::1", 2), ("c", 26379))
    assert address.service == "runs"
    assert address.sentinel == (("password", "other"),)
    assert address.url_of("::1", 7) == "rediss://me:word@[::1]:7/3?ssl_cert_reqs=none"


def test_a_url_of_a_cluster_names_some_of_its_servers() -> None:
    address = read_address("redis+cluster://:word@a:1,b")

    assert (address.kind, address.nodes) == (Kind.CLUSTER, (("a", 1), ("b", 6379)))
    assert address.url_of("b", 2) == "redis://:word@b:2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:word@a:1/2", "redis://a:1/2"),
        ("redis+sentinel://me:word@a:1,b/runs/2?sentinel_password=x", "redis+sentinel://a:1,b:26379/runs/2"),
        ("redis+cluster://me:word@a:1,b", "redis+cluster://a:1,b:6379"),
        ("unix:///tmp/a?db=3", "unix:///tmp/a?db=3"),
        ("http://a", None),
        ("redis+sentinel://a:1", None),
    ],
)
def test_an_address_is_shown_without_who_asks(url: str, shown: str | None) -> None:
    assert address_of(url) == shown


@pytest.mark.parametrize(
    ("url", "about"),
    [
        ("redis+sentinel://a:1", "name of their service"),
        ("redis+sentinel://a:1/runs/x", "number of a database"),
        ("redis+sentinel://a:1/runs?sentinel_user=me", "sentinel_user"),
        ("redis+sentinel://a:port/runs", "."),
        ("redis+cluster://a:1/2", "database 0 only"),
        ("redis+cluster://a,,b", "no host and port"),
        ("unix+cluster://a", "begins with none of"),
        ("redis+file://a", "begins with none of"),
        ("http://a", "begins with none of"),
    ],
)
async def test_a_url_that_leads_nowhere_is_refused_with_what_to_mend(url: str, about: str) -> None:
    with pytest.raises(InvalidRequest, match=about):
        await RedisStore.connect(url)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("HGET", b"runstore:{3}:cursor", "n"), b"{3}"),
        (("EVALSHA", "sha", 2, b"runstore:{3}:cursor", b"runstore:{3}:feed", 1), b"{3}"),
        (("XREAD", "COUNT", 1, "STREAMS", b"runstore:{3}:feed", "0"), b"{3}"),
        (("TIME",), b"runstore:meta"),
        (("EVAL", "return 1", 0), b"runstore:meta"),
    ],
)
def test_a_command_goes_to_the_slot_of_its_first_key(command: tuple[Any, ...], key: bytes) -> None:
    assert slot_of(command) == slot_of_key(key)


def test_what_is_about_one_server_is_asked_of_no_cluster() -> None:
    with pytest.raises(ValueError, match="ask each primary"):
        slot_of(("SCAN", 0))
