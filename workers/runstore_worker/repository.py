"""A bare mirror for each repository: commits are found in it and checked out of it.

The mirror is fetched when the commit is not there, and when a branch's head is asked for; one fetch at a time, across
processes. It is a cache: where git fails on it though the repository answers, it is thrown away and made anew, once.
A checkout has no `.git`; no hook or filter runs in it, and a submodule is an empty folder.
"""

import asyncio
import hashlib
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from runstore_worker.git import TIMEOUT_S, GitFailed, git, git_afar
from runstore_worker.lock import file_lock
from runstore_worker.source import RepositoryError, RepositoryUnreachable, Source, checked_branch, checked_commit

HEAD = "refs/runstore/HEAD"
REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
FETCH = (
    *("fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--update-shallow"),
    *("--no-recurse-submodules", "--end-of-options"),
)

T = TypeVar("T")


class Mirrors:
    """The mirrors in one cache folder; several workers may share it."""

    def __init__(self, cache: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        """Units: `timeout_s` is for each call of git, and for each wait for another's fetch."""
        self._cache = cache
        self._timeout_s = timeout_s
        self._fetched: dict[Path, float] = {}

    async def resolve(self, source: Source, *, commit_sha: str | None = None, branch: str | None = None) -> str:
        """Find the full sha of a commit (or its beginning), else of a branch's head, else of the default branch's.

        Raises: RepositoryError.
        """
        if commit_sha is not None:
            begin = checked_commit(commit_sha)
            return await self._on_mirror(source, lambda: self._commit(source, begin))
        ref = HEAD if branch is None else f"refs/heads/{checked_branch(branch)}"
        return await self._on_mirror(source, lambda: self._head(source, ref, branch))

    async def checkout(self, source: Source, sha: str, into: Path) -> None:
        """Write a commit's files to a folder.

        Needs: a folder that does not exist; on failure it is removed.
        Raises: RepositoryError, FileExistsError.
        """
        begin = checked_commit(sha)
        into.mkdir(parents=True, mode=0o700)  # noqa: ASYNC240
        try:
            await self._on_mirror(source, lambda: self._checkout(source, begin, into))
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise

    def mirror(self, source: Source) -> Path:
        """Say where a repository's mirror is kept."""
        return self._cache / f"{hashlib.sha256(source.url.encode()).hexdigest()[:32]}.git"

    async def _commit(self, source: Source, begin: str) -> str:
        found = await self._commits(source, begin)
        if not found:
            await self._fetch(source)
            found = await self._commits(source, begin)
        if not found:
            raise RepositoryError(f"no commit {begin} in {source.shown}")
        if len(found) > 1:
            raise RepositoryError(f"more than one commit begins with {begin} in {source.shown}")
        return found[0]

    async def _commits(self, source: Source, begin: str) -> list[str]:
        """Look for objects, not names: a branch may be called like the beginning of a commit."""
        if not self.mirror(source).exists():
            return []
        candidates = await self._git(source, "rev-parse", f"--disambiguate={begin}")
        told = await self._git(source, "cat-file", "--batch-check=%(objectname) %(objecttype)", stdin=candidates)
        return [line.split()[0] for line in told.decode().splitlines() if line.endswith(" commit")]

    async def _head(self, source: Source, ref: str, branch: str | None) -> str:
        await self._fetch(source)
        told = await self._git(source, "for-each-ref", "--format=%(refname) %(objectname)", "--end-of-options", ref)
        heads = dict(line.split() for line in told.decode().splitlines())  # a pattern: what lies beneath it is told too
        if ref not in heads:
            what = "default branch" if branch is None else f"branch {branch}"
            raise RepositoryError(f"no {what} in {source.shown}")
        return heads[ref]

    async def _checkout(self, source: Source, begin: str, into: Path) -> None:
        sha = await self._commit(source, begin)
        with tempfile.TemporaryDirectory(prefix="index-", dir=self._cache) as scratch:
            env = {"GIT_INDEX_FILE": f"{scratch}/index", "GIT_WORK_TREE": str(into)}
            await self._git(source, "read-tree", "--end-of-options", sha, env=env)
            await self._git(source, "checkout-index", "--all", "--force", "--quiet", env=env)

    async def _fetch(self, source: Source) -> None:
        asked = time.monotonic()
        mirror = self.mirror(source)
        async with self._lock(source):
            if self._fetched.get(mirror, -1.0) > asked and mirror.exists():
                return  # another run's fetch began while this one waited
            self._fetched[mirror] = began = time.monotonic()
            try:
                await self._make(mirror)
                await self._fetch_refs(source)
            except BaseException:
                if self._fetched.get(mirror) == began:
                    del self._fetched[mirror]
                raise

    async def _fetch_refs(self, source: Source) -> None:
        try:
            await self._fetch_from(source, f"+HEAD:{HEAD}", *REFSPECS)
        except GitFailed as error:
            if "couldn't find remote ref HEAD" not in str(error):
                await self._probe(source)
                raise
            await self._git(source, "update-ref", "-d", HEAD)
            await self._fetch_from(source, *REFSPECS)

    async def _fetch_from(self, source: Source, *refspecs: str) -> None:
        await git_afar(f"--git-dir={self.mirror(source)}", *FETCH, source.url, *refspecs, timeout_s=self._timeout_s)

    async def _probe(self, source: Source) -> None:
        """Tell a repository that does not answer from a mirror that is broken."""
        try:
            await git_afar("ls-remote", "--quiet", "--end-of-options", source.url, "HEAD", timeout_s=self._timeout_s)
        except GitFailed as error:
            raise RepositoryUnreachable(f"cannot fetch {source.shown}: {error}") from error

    async def _make(self, mirror: Path) -> None:
        if mirror.exists():  # noqa: ASYNC240
            return
        with tempfile.TemporaryDirectory(prefix="new-", dir=self._cache) as scratch:
            made = Path(scratch) / "mirror"
            await git("init", "--quiet", "--bare", "--template=", "--end-of-options", made, timeout_s=self._timeout_s)
            made.rename(mirror)

    async def _on_mirror(self, source: Source, act: Callable[[], Awaitable[T]]) -> T:
        self._cache.mkdir(parents=True, exist_ok=True)
        seen = _identity(self.mirror(source))
        try:
            try:
                return await act()
            except GitFailed:
                await self._discard(source, seen)
            return await act()
        except GitFailed as error:
            raise RepositoryError(f"git failed on {source.shown}: {error}") from error
        except TimeoutError as error:
            raise RepositoryUnreachable(f"waited {self._timeout_s:g} s for another fetch of {source.shown}") from error

    async def _discard(self, source: Source, seen: int | None) -> None:
        mirror = self.mirror(source)
        async with self._lock(source):
            if mirror.exists() and seen in {None, _identity(mirror)}:  # else another has made it anew already
                aside = tempfile.mkdtemp(prefix="old-", dir=self._cache)
                mirror.rename(Path(aside) / "mirror")
                await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)

    def _lock(self, source: Source) -> AbstractAsyncContextManager[None]:
        return file_lock(self.mirror(source).with_suffix(".lock"), self._timeout_s)

    async def _git(
        self, source: Source, *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None
    ) -> bytes:
        return await git(
            f"--git-dir={self.mirror(source)}", *arguments, stdin=stdin, env=env, timeout_s=self._timeout_s
        )


def _identity(mirror: Path) -> int | None:
    return mirror.stat().st_ino if mirror.exists() else None
