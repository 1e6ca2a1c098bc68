"""What may be asked of git: repositories, commits and branches by name, each checked before git sees it.

A name that begins with a dash would be an option, and a URL like `ext::sh -c …` a command. The `retry` of an error says
whether the same request may succeed later.
"""

import re
from pathlib import Path
from typing import ClassVar

import msgspec

SCHEMES = ("file", "git", "http", "https", "ssh")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://.+")
_HELPER = re.compile(r"([A-Za-z0-9][A-Za-z0-9+.-]*)::")  # git takes `name::address` for a program git-remote-name
_SSH = re.compile(r"[^/:]+:[^/:].*|[^/:]+:/.*")  # host:path, a colon before any slash
_SHA = re.compile(r"[0-9a-f]{7,40}")
_NOT_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock/|^[/.-]|[/.]$|\.lock$")
_SECRET = re.compile(r"(?<=://)[^/@\s]*@")


class RepositoryError(Exception):
    """The repository, commit or branch cannot be had; the text is a sentence for the run's `error_message`."""

    retry: ClassVar[bool] = False


class RepositoryUnreachable(RepositoryError):
    """The repository did not answer, or not in time."""

    retry: ClassVar[bool] = True


class Source(msgspec.Struct, frozen=True):
    """Where a repository is."""

    url: str
    """An absolute path or a URL, as git is given it. May hold a password: not for messages."""
    shown: str
    """As it was written, without any password."""


def locate(repository: str, folder: Path) -> Source:
    """Find out what a project's `repository` means; a relative path counts from the folder.

    Raises: RepositoryError.
    """
    shown = without_secrets(repository)
    if not repository or repository.startswith("-") or not repository.isprintable():
        raise RepositoryError(f"{shown!r} is not a repository")
    if helper := _HELPER.match(repository):
        raise RepositoryError(f"the transport {helper[1]} of {shown} is not allowed; allowed are {', '.join(SCHEMES)}")
    if url := _URL.fullmatch(repository):
        if url[1] not in SCHEMES:
            raise RepositoryError(f"the transport {url[1]} of {shown} is not allowed; allowed are {', '.join(SCHEMES)}")
        return Source(url=repository, shown=shown)
    path = (folder / Path(repository).expanduser()).absolute()
    if _SSH.fullmatch(repository) and not path.exists():
        return Source(url=repository, shown=shown)
    return Source(url=str(path), shown=shown)


def checked_commit(commit_sha: str) -> str:
    """Take a commit or its beginning.

    Raises: RepositoryError.
    """
    lower = commit_sha.lower()
    if not _SHA.fullmatch(lower):
        raise RepositoryError(f"{commit_sha[:100]!r} is not a commit: 7 to 40 hex digits")
    return lower


def checked_branch(branch: str) -> str:
    """Take a branch by the rules of git check-ref-format.

    Raises: RepositoryError.
    """
    if not branch or branch == "@" or len(branch) > 200 or _NOT_IN_REF.search(branch):
        raise RepositoryError(f"{branch[:100]!r} is not a branch name")
    return branch


def without_secrets(said: str) -> str:
    """Cut user and password out of every URL in a text."""
    return _SECRET.sub("", said)
