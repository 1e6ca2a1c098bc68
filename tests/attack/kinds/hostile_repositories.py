"""Repositories as somebody hostile writes them: what git would run, follow or write elsewhere, were it let.

Each writer is given a repository with a healthy model, and a folder in which nothing may appear, change or go.
"""

import stat
from collections.abc import Callable
from pathlib import Path

from tests.attack.projects import git

Writer = Callable[[Path, Path], None]


def _script(path: Path, canary: Path, word: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {word} > {canary}/pwned-{word}\nexec cat\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _commit(repository: Path) -> None:
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "--allow-empty", "-m", "x")


def hooks(repository: Path, canary: Path) -> None:
    """Hooks of every name, in the repository and by its configuration."""
    names = (
        *("post-checkout", "pre-commit", "post-merge", "post-rewrite", "reference-transaction", "fsmonitor-watchman"),
        *("pre-receive", "update", "post-update", "upload-pack", "post-index-change"),
    )
    for name in names:
        _script(repository / ".git" / "hooks" / name, canary, f"hook-{name}")
    git(repository, "config", "core.hooksPath", str(repository / ".git" / "hooks"))


def configuration(repository: Path, canary: Path) -> None:
    """A configuration whose values are commands."""
    _script(repository / "run.sh", canary, "configured")
    _commit(repository)
    command = str(repository / "run.sh")
    for name in (
        *(
            "core.fsmonitor",
            "core.sshCommand",
            "core.gitProxy",
            "core.pager",
            "core.editor",
            "core.askPass",
            "credential.helper",
        ),
        *(
            "uploadpack.packObjectsHook",
            "diff.external",
            "filter.x.smudge",
            "filter.x.process",
            "gpg.program",
            "core.alternateRefsCommand",
        ),
        *("remote.origin.uploadpack", "alias.fetch", "sequence.editor"),
    ):
        git(repository, "config", name, command)


def attributes(repository: Path, canary: Path) -> None:
    """Attributes that ask for filters and expansions."""
    _script(repository / "run.sh", canary, "filter")
    (repository / ".gitattributes").write_text(
        "* filter=x diff=x merge=x ident export-subst eol=crlf\n*.bin working-tree-encoding=UTF-16\n"
    )
    git(repository, "config", "filter.x.clean", "cat")
    git(repository, "config", "filter.x.smudge", str(repository / "run.sh"))
    (repository / "other.txt").write_text("$Id$\n")
    _commit(repository)


def submodules(repository: Path, canary: Path) -> None:
    """Submodules whose addresses are commands and whose paths lie elsewhere."""
    (repository / ".gitmodules").write_text(
        "".join(
            f'[submodule "{name}"]\n\tpath = {path}\n\turl = {url}\n\tupdate = !touch {canary}/pwned-update\n'
            for name, path, url in (
                ("a", "a", f"ext::sh -c touch% {canary}/pwned-ext"),
                ("b", "b", f"-u./run.sh {canary}"),
                ("../../c", "../../c", "file:///etc"),
                ("d", "d", "ssh://-oProxyCommand=touch,pwned/x"),
                ("e", ".git/modules", "./"),
            )
        )
    )
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{head},a", "--cacheinfo", f"160000,{'1' * 40},b")
    git(repository, "add", ".gitmodules")
    git(repository, "commit", "-q", "-m", "x")


def links(repository: Path, canary: Path) -> None:
    """Symbolic links to everywhere, among them where the worker itself would write."""
    for name, target in (
        ("to-a-file", str(canary / "kept")), ("to-a-folder", str(canary)), ("up", "../../../../../.."),
        ("loop", "loop"),
        ("to-nothing", str(canary / "pwned-link")), ("environ", "/proc/self/environ"), ("dev", "/dev/zero"),
        ("inputs.json", str(canary / "kept")),
    ):  # fmt: skip
        (repository / name).symlink_to(target)
    _commit(repository)


def model_that_is_a_link(repository: Path, canary: Path) -> None:
    """A model that lies elsewhere."""
    (repository / "model.py").unlink()
    (repository / "model.py").symlink_to(canary / "kept")
    _commit(repository)


def _tree(repository: Path, entries: bytes) -> None:
    """Commit a tree that git itself would not write."""
    tree = git(repository, "hash-object", "-t", "tree", "-w", "--stdin", "--literally", stdin=entries)
    commit = git(repository, "commit-tree", tree, "-m", "x")
    git(repository, "update-ref", "refs/heads/main", commit)


def _entry(mode: str, name: bytes, sha: str) -> bytes:
    return mode.encode() + b" " + name + b"\0" + bytes.fromhex(sha)


def file_beneath_a_link(repository: Path, canary: Path) -> None:
    """A link to a folder and a folder of the same name, so that a file of it would be written through the link."""
    link = git(repository, "hash-object", "-w", "--stdin", stdin=str(canary).encode())
    file = git(repository, "hash-object", "-w", "--stdin", stdin=b"pwned")
    folder = git(repository, "mktree", stdin=f"100644 blob {file}\tpwned-through\n".encode())
    _tree(repository, _entry("120000", b"a", link) + _entry("40000", b"a", folder))


def names(repository: Path, _: Path) -> None:
    """Names that are no names: ways up, git's own folder in all its spellings, and what a terminal obeys."""
    file = git(repository, "hash-object", "-w", "--stdin", stdin=b"pwned")
    inner = git(repository, "mktree", stdin=f"100755 blob {file}\tpwned\n".encode())
    odd = (
        b"..",
        b".",
        b".git",
        b".GIT",
        b"git~1",
        b".git\xe2\x80\x8c",
        b"a/../../pwned",
        b"/pwned",
        b"\x1b[2J",
        b"a\nb",
        b"\xff\xfe",
        b"-rf",
        b"x" * 300,
    )
    _tree(repository, b"".join(_entry("40000", name, inner) for name in odd))


def odd_modes(repository: Path, _: Path) -> None:
    """Files that are set-user-ID, of no kind, or missing."""
    file = git(repository, "hash-object", "-w", "--stdin", stdin=b"x")
    modes = ("104755", "106755", "100000", "020000", "060000", "010000", "140000", "777777")
    _tree(
        repository,
        b"".join(_entry(mode, f"f{mode}".encode(), file) for mode in modes) + _entry("100644", b"gone", "2" * 40),
    )


def refs(repository: Path, canary: Path) -> None:
    """References whose names are options, ways up or commands, and a HEAD that lies elsewhere."""
    head = git(repository, "rev-parse", "HEAD")
    names = (
        *(
            "refs/heads/--upload-pack=touch",
            "refs/heads/$(touch pwned)",
            "refs/heads/../../../pwned",
            "refs/heads/.lock",
        ),
        *("refs/heads/a..b", "refs/heads/x.lock", "refs/heads/HEAD", "refs/tags/-x", "refs/heads/\x1b[2J", "HEAD"),
        *(f"refs/heads/{'x' * 300}", f"refs/replace/{head}"),
    )
    packed = "".join(f"{head} {name}\n" for name in names)
    (repository / ".git" / "packed-refs").write_text("# pack-refs with: peeled fully-peeled sorted \n" + packed)
    outside = repository / ".git" / "refs" / "heads" / "outside"
    outside.symlink_to(canary / "kept")
    (repository / ".git" / "refs" / "heads" / "no-sha").write_text("ref: ../../../../../etc/passwd\n")


def odd_refs(repository: Path, _: Path) -> None:
    """References whose names git lets be, and a shell or a program would not."""
    names = ("--upload-pack=touch", "-x", "$(id)", "`id`", ";id", "|id", "é", "HEAD", "refs/heads/main", "x" * 200)
    for name in names:
        git(repository, "update-ref", f"refs/heads/{name}", "HEAD")
    git(repository, "symbolic-ref", "refs/heads/a-link", "refs/heads/main")
    git(repository, "update-ref", "refs/runstore/HEAD", "HEAD")
    git(repository, "update-ref", "refs/replace/" + git(repository, "rev-parse", "HEAD"), "HEAD")


def head_elsewhere(repository: Path, canary: Path) -> None:
    """A HEAD that names a file outside."""
    (repository / ".git" / "HEAD").write_text(f"ref: refs/heads/../../../canary/{canary.name}\n")


def alternates(repository: Path, canary: Path) -> None:
    """Objects that are said to lie elsewhere, or nowhere."""
    info = repository / ".git" / "objects" / "info"
    info.mkdir(exist_ok=True)
    (info / "alternates").write_text(f"{canary}\n/dev/zero\n../../../../../..\n|touch {canary}/pwned-alternate\n")


def broken(repository: Path, _: Path) -> None:
    """Objects that are cut, spoilt or bombs."""
    for place in (repository / ".git" / "objects").rglob("*"):
        if place.is_file() and len(place.name) == 38:
            place.chmod(0o644)
            place.write_bytes(place.read_bytes()[:-3] + b"\x00\x00\x00")


def deep(repository: Path, _: Path) -> None:
    """A path of a thousand folders, longer than any system takes."""
    file = git(repository, "hash-object", "-w", "--stdin", stdin=b"x")
    tree = git(repository, "mktree", stdin=f"100644 blob {file}\tf\n".encode())
    for _number in range(1000):
        tree = git(repository, "mktree", stdin=f"040000 tree {tree}\tdddddddd\n".encode())
    _tree(repository, _entry("40000", b"d", tree))


def many(repository: Path, _: Path) -> None:
    """Twenty thousand files out of one."""
    file = git(repository, "hash-object", "-w", "--stdin", stdin=b"x")
    model = git(repository, "rev-parse", "HEAD:model.py")
    lines = "".join(f"100644 blob {file}\tf{number:05d}\n" for number in range(20_000))
    tree = git(repository, "mktree", stdin=f"{lines}100644 blob {model}\tmodel.py\n".encode())
    git(repository, "update-ref", "refs/heads/main", git(repository, "commit-tree", tree, "-m", "x"))


def no_repository(repository: Path, _: Path) -> None:
    """A folder whose .git is a file that points elsewhere."""
    inner = repository / ".git"
    inner.rename(repository / "moved")
    inner.write_text("gitdir: ../../../../../../etc\n")


WRITERS: dict[str, Writer] = {
    write.__name__.replace("_", "-"): write
    for write in (
        *(
            hooks,
            configuration,
            attributes,
            submodules,
            links,
            model_that_is_a_link,
            file_beneath_a_link,
            names,
            odd_modes,
        ),
        *(refs, odd_refs, head_elsewhere, alternates, broken, deep, many, no_repository),
    )
}
"""By the names of their projects."""
