"""The dashboard and runstore.js: a fixed list of files, read once, and nothing else is ever served by its name.

The page names its own files under a digest of them all, so that a browser keeps them for good; under any other digest
(another version's, while an upgrade is under way) and under none it is told to ask again each time.
"""

import re
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

from aiohttp import web

from runstore.gateway.headers import matches
from runstore.gateway.problems import HttpProblem

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "ts": "text/plain; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE: Final = "index.html"
_DIGEST: Final = re.compile(r"[0-9a-f]{16}")
_HERE: Final = "@@"
"""What stands for the digest in the page."""

_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_FOR_GOOD: Final = "public, max-age=31536000, immutable"
_ASK_AGAIN: Final = "no-cache"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets};"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)


class File(NamedTuple):
    """A file that is served."""

    body: bytes
    media: str
    etag: str


class Files(NamedTuple):
    """All files, by name, and the digest of them all."""

    digest: str
    by_name: dict[str, File]


@cache
def load_files() -> Files:
    """Read the files out of the package."""
    read = {
        file.name: file.read_bytes()
        for file in sorted((files("runstore.gateway") / "static").iterdir(), key=lambda file: file.name)
        if file.name.rpartition(".")[2] in _TYPES
    }
    digest = sha256(b"".join(b"%b\n%d\n%b" % (name.encode(), len(body), body) for name, body in read.items()))
    short = digest.hexdigest()[:16]
    read[_PAGE] = read[_PAGE].replace(_HERE.encode(), short.encode())
    return Files(short, {name: _file(name, body) for name, body in read.items()})


async def get_dashboard(request: web.Request) -> web.StreamResponse:
    """Answer with the page. What it may load and speak to, its own policy says."""
    host = request.headers.get("Host", "")
    # `'self'` stands for websockets to the same address in some browsers only
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    headers = {
        "Content-Security-Policy": _POLICY.format(sockets=sockets),
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return _respond(request, load_files().by_name[_PAGE], _ASK_AGAIN, headers)


async def get_static(request: web.Request) -> web.StreamResponse:
    """Answer with one of the files.

    Raises: HttpProblem for any other name.
    """
    kept = load_files()
    folder, _, name = request.match_info["name"].rpartition("/")
    file = kept.by_name.get(name) if name != _PAGE else None
    if file is None or (folder and not _DIGEST.fullmatch(folder)):
        raise HttpProblem("not_found", "there is no such file; the page is at /")
    return _respond(request, file, _FOR_GOOD if folder == kept.digest else _ASK_AGAIN, {})


def _respond(request: web.Request, file: File, cache_control: str, headers: dict[str, str]) -> web.StreamResponse:
    told = {**headers, "ETag": file.etag, "Cache-Control": cache_control}
    if matches(request, file.etag):
        return web.Response(status=304, headers=told)
    return web.Response(body=file.body, headers={**told, "Content-Type": file.media})


def _file(name: str, body: bytes) -> File:
    return File(body, _TYPES[name.rpartition(".")[2]], f'"{sha256(body).hexdigest()[:32]}"')
