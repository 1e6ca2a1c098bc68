"""Mirrors: commits and branches found, files checked out, nothing of the repository's executed."""

import asyncio
import os
import shutil
import sys

import pytest
import uvloop

from runstore_worker.repository import Mirrors
from runstore_worker.source import RepositoryError, RepositoryUnreachable, locate
from tests.worker.site import happens


@pytest.fixture
def mirrors(tmp_path):
    return Mirrors(tmp_path / "cache", timeout_s=30)


@pytest.fixture
def source(tmp_path, repo):
    return locate("./theirs", tmp_path)


def files_of(folder) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


async def refused(work) -> str:
    with pytest.raises(RepositoryError) as caught:
        await work
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_without_a_wish_the_default_branchs_head_is_taken(mirrors, repo, source):
    repo.git("checkout", "-q", "-b", "trunk")
    sha = repo.commit(a="1")

    assert await mirrors.resolve(source) == sha


async def test_the_head_is_the_newest_though_the_mirror_is_older(mirrors, repo, source):
    repo.commit(a="1")
    await mirrors.resolve(source)
    second = repo.commit(a="2")

    assert await mirrors.resolve(source) == second
    assert await mirrors.resolve(source, branch="main") == second


async def test_a_branch_is_its_head_also_after_it_was_rewritten(mirrors, repo, source):
    repo.commit(a="1")
    repo.git("checkout", "-q", "-b", "topic/x")
    repo.commit(a="2")
    await mirrors.resolve(source, branch="topic/x")
    repo.git("reset", "-q", "--hard", "main")
    rewritten = repo.commit(a="3")

    assert await mirrors.resolve(source, branch="topic/x") == rewritten


async def test_a_branch_that_was_deleted_is_no_branch(mirrors, repo, source):
    repo.commit(a="1")
    repo.git("branch", "topic")
    await mirrors.resolve(source, branch="topic")
    repo.git("branch", "-D", "topic")
    repo.git("branch", "topic/deeper")

    assert await refused(mirrors.resolve(source, branch="topic")) == "no branch topic in ./theirs"
    assert await mirrors.resolve(source, branch="topic/deeper")


async def test_a_commit_may_be_named_by_its_beginning_in_any_case(mirrors, repo, source):
    sha = repo.commit(a="1")

    assert await mirrors.resolve(source, commit_sha=sha) == sha
    assert await mirrors.resolve(source, commit_sha=sha[:7].upper()) == sha


async def test_a_commit_that_is_known_needs_no_repository_any_more(mirrors, repo, source):
    sha = repo.commit(a="1")
    await mirrors.resolve(source)
    shutil.rmtree(repo.path)

    assert await mirrors.resolve(source, commit_sha=sha[:10]) == sha


async def test_a_branch_called_like_a_commits_beginning_is_not_taken_for_it(mirrors, repo, source):
    first = repo.commit(a="1")
    repo.commit(a="2")
    repo.git("branch", first[:7])

    assert await mirrors.resolve(source, commit_sha=first[:7]) == first


async def test_a_tree_is_no_commit(mirrors, repo, source):
    repo.commit(a="1")
    tree = repo.git("rev-parse", "HEAD^{tree}")

    assert await refused(mirrors.resolve(source, commit_sha=tree)) == f"no commit {tree} in ./theirs"


async def test_what_is_not_there_is_named(mirrors, repo, source, tmp_path):
    assert await refused(mirrors.resolve(source)) == "no default branch in ./theirs"
    repo.commit(a="1")

    assert await refused(mirrors.resolve(source, commit_sha="abc1234")) == "no commit abc1234 in ./theirs"
    assert await refused(mirrors.resolve(source, branch="nope")) == "no branch nope in ./theirs"


async def test_a_repository_that_does_not_answer_is_worth_another_try(mirrors, tmp_path):
    with pytest.raises(RepositoryUnreachable, match=r"cannot fetch \./nowhere: .*does not appear to be") as caught:
        await mirrors.resolve(locate("./nowhere", tmp_path))

    assert caught.value.retry


@pytest.mark.parametrize(
    "branch", ["--upload-pack=touch /tmp/x", "-x", "a..b", "a b", "", "@", "a@{1}", "x.lock", "a//b"]
)
async def test_a_branch_that_is_an_option_or_no_name_never_reaches_git(mirrors, source, branch):
    assert "is not a branch name" in await refused(mirrors.resolve(source, branch=branch))
    assert not mirrors.mirror(source).exists()


@pytest.mark.parametrize("sha", ["-x", "--output=x", "abc123", "g" * 40, "a" * 41, "", "HEAD", "abcdef1\n"])
async def test_a_commit_that_is_an_option_or_no_sha_never_reaches_git(mirrors, source, sha, tmp_path):
    assert "is not a commit" in await refused(mirrors.resolve(source, commit_sha=sha))
    assert "is not a commit" in await refused(mirrors.checkout(source, sha, tmp_path / "work"))


@pytest.mark.parametrize("name", ["a/b", "feature-1", "ü", "a.b", "release/2026.1", "x@y"])
async def test_a_branch_name_that_git_takes_is_taken(mirrors, repo, source, name):
    sha = repo.commit(a="1")
    repo.git("branch", name)

    assert await mirrors.resolve(source, branch=name) == sha


@pytest.mark.parametrize(
    "repository",
    ["-x", "--upload-pack=x", "ext::sh -c true", "fd::17", "ftp://a/b", "http::ext::x", "", "a\nb", "rsync://a/b"],
)
def test_a_repository_that_is_an_option_or_a_command_is_refused(tmp_path, repository):
    with pytest.raises(RepositoryError):
        locate(repository, tmp_path)


def test_a_relative_repository_counts_from_the_configurations_folder(tmp_path):
    assert locate("./x", tmp_path).url == str(tmp_path / "x")
    assert locate("git@example.com:a/b.git", tmp_path).url == "git@example.com:a/b.git"
    assert locate("https://example.com/a.git", tmp_path).url == "https://example.com/a.git"


def test_a_password_in_a_url_is_never_shown(tmp_path):
    assert locate("https://me:secret@example.com/a.git", tmp_path).shown == "https://example.com/a.git"


async def test_a_checkout_holds_the_files_and_nothing_else(mirrors, repo, source, tmp_path):
    repo.commit(a="1", b="2")
    (repo.path / "deep").mkdir()
    (repo.path / "deep" / "run.sh").write_text("#!/bin/sh\n")
    (repo.path / "deep" / "run.sh").chmod(0o755)
    (repo.path / "link").symlink_to("/etc/passwd")
    sha = repo.commit()

    await mirrors.checkout(source, sha, tmp_path / "work")

    assert {p.name for p in (tmp_path / "work").iterdir()} == {"a", "b", "deep", "link"}
    assert os.access(tmp_path / "work" / "deep" / "run.sh", os.X_OK)
    assert (tmp_path / "work" / "link").is_symlink()
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {
        mirrors.mirror(source).name,
        mirrors.mirror(source).stem + ".lock",
    }


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
async def test_a_repository_of_another_user_is_taken_as_configured(mirrors, repo, source, tmp_path):
    sha = repo.commit(a="1")
    for path in (repo.path, *repo.path.rglob("*")):
        os.chown(path, 12345, 12345)

    assert await mirrors.resolve(source) == sha
    await mirrors.checkout(source, sha, tmp_path / "work")


async def test_a_shallow_clone_serves_what_it_has(mirrors, repo, source, tmp_path):
    old = repo.commit(a="1")
    sha = repo.commit(a="2")
    repo.git("clone", "-q", "--depth", "1", f"file://{repo.path}", str(tmp_path / "shallow"))
    shallow = locate("./shallow", tmp_path)

    assert await mirrors.resolve(shallow) == sha
    await mirrors.checkout(shallow, sha, tmp_path / "work")
    assert files_of(tmp_path / "work") == {"a": "2"}
    assert await refused(mirrors.resolve(shallow, commit_sha=old)) == f"no commit {old} in ./shallow"


async def test_an_old_commit_is_checked_out_as_it_was(mirrors, repo, source, tmp_path):
    first = repo.commit(a="1")
    repo.commit(a="2")

    await mirrors.checkout(source, first, tmp_path / "work")

    assert files_of(tmp_path / "work") == {"a": "1"}


async def test_a_folder_that_exists_is_not_written_to(mirrors, repo, source, tmp_path):
    sha = repo.commit(a="1")
    (tmp_path / "work").mkdir()

    with pytest.raises(FileExistsError):
        await mirrors.checkout(source, sha, tmp_path / "work")


async def test_a_checkout_that_fails_leaves_no_folder(mirrors, repo, source, tmp_path):
    repo.commit(a="1")

    await refused(mirrors.checkout(source, "abc1234", tmp_path / "work"))

    assert not (tmp_path / "work").exists()


async def test_neither_hooks_nor_filters_of_a_repository_run(mirrors, repo, source, tmp_path, monkeypatch):
    trap = f"touch {tmp_path}/sprung"
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # of whoever started the worker
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "filter.trap.smudge")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", trap)
    repo.commit(**{".gitattributes": "* filter=trap\n", "a": "1"})
    sha = repo.git("rev-parse", "HEAD")
    for key in ("filter.trap.smudge", "core.fsmonitor", "core.sshCommand", "uploadpack.packObjectsHook"):
        repo.git("config", key, trap)
    for name in ("post-checkout", "post-index-change", "reference-transaction", "pre-receive", "post-update"):
        for hooks in (repo.path / ".git" / "hooks", repo.path / "hooks"):
            hooks.mkdir(exist_ok=True)
            (hooks / name).write_text(f"#!/bin/sh\n{trap}\n")
            (hooks / name).chmod(0o755)

    await mirrors.resolve(source)
    await mirrors.checkout(source, sha, tmp_path / "work")

    assert files_of(tmp_path / "work")["a"] == "1"
    assert not (tmp_path / "sprung").exists()


async def test_a_hook_smuggled_into_the_mirror_does_not_run(mirrors, repo, source, tmp_path):
    repo.commit(a="1")
    await mirrors.resolve(source)
    hook = mirrors.mirror(source) / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    hook.chmod(0o755)
    repo.commit(a="2")

    await mirrors.resolve(source)

    assert not (tmp_path / "sprung").exists()


async def test_a_submodule_is_an_empty_folder(mirrors, repo, source, tmp_path):
    sha = repo.commit(**{".gitmodules": '[submodule "s"]\n\tpath = s\n\turl = ext::sh -c "touch sprung"\n'})
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{sha},s")
    repo.git("commit", "-q", "-m", "x")

    await mirrors.checkout(source, repo.git("rev-parse", "HEAD"), tmp_path / "work")

    assert list((tmp_path / "work" / "s").iterdir()) == []


def no_head(mirror):
    (mirror / "HEAD").unlink()


def a_file_in_its_place(mirror):
    shutil.rmtree(mirror)
    mirror.write_text("?")


def objects_cut(mirror):
    for path in (mirror / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:10])


def no_objects(mirror):
    shutil.rmtree(mirror / "objects")


def a_lock_left_behind(mirror):
    (mirror / "packed-refs.lock").touch()
    (mirror / "refs" / "heads" / "main.lock").touch()


@pytest.mark.parametrize("harm", [no_head, objects_cut, no_objects, a_lock_left_behind, a_file_in_its_place])
async def test_a_broken_mirror_is_made_anew(mirrors, repo, source, tmp_path, harm):
    first = repo.commit(a="1")
    await mirrors.resolve(source)
    second = repo.commit(a="2")
    harm(mirrors.mirror(source))

    assert await mirrors.resolve(source) == second
    harm(mirrors.mirror(source))
    await mirrors.checkout(source, first, tmp_path / "work")
    assert files_of(tmp_path / "work") == {"a": "1"}


async def test_a_mirror_outlives_a_repository_that_does_not_answer(mirrors, repo, source, tmp_path):
    sha = repo.commit(a="1")
    await mirrors.resolve(source)
    repo.path.rename(tmp_path / "away")

    await refused(mirrors.resolve(source, branch="main"))

    assert await mirrors.resolve(source, commit_sha=sha) == sha


async def test_many_at_once_from_two_caches_owners_all_succeed(repo, source, tmp_path):
    sha = repo.commit(a="1")
    owners = [Mirrors(tmp_path / "cache", timeout_s=30) for _ in range(2)]  # as two processes would

    shas = await asyncio.gather(*(owner.resolve(source) for owner in owners for _ in range(3)))
    await asyncio.gather(*(owners[n % 2].checkout(source, sha, tmp_path / f"work{n}") for n in range(4)))

    assert set(shas) == {sha}
    assert all(files_of(tmp_path / f"work{n}") == {"a": "1"} for n in range(4))


async def test_a_cancelled_fetch_leaves_no_process_and_lets_the_next_one_in(
    mirrors, repo, source, tmp_path, monkeypatch, witness
):
    sha = repo.commit(a="1")
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nexec 7>{witness.path}\necho ready >&7\nsleep 60 & wait\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))

    fetching = asyncio.create_task(mirrors.resolve(locate("ssh://host/x", tmp_path)))
    await witness.hears("ready")
    fetching.cancel()

    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert witness.everybody_is_gone()
    assert await mirrors.resolve(source) == sha


async def test_a_fetch_does_not_outlive_a_worker_that_is_killed(tmp_path, monkeypatch, witness):
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nexec 7>{witness.path}\necho ready >&7\nsleep 60 & wait\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    code = f"""
import asyncio, pathlib
from runstore_worker.repository import Mirrors
from runstore_worker.source import locate
here = pathlib.Path({str(tmp_path)!r})
asyncio.run(Mirrors(here / "cache").resolve(locate("ssh://host/x", here)))
"""
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await witness.hears("ready")

    worker.kill()
    await worker.wait()

    await happens(witness.everybody_is_gone)


async def test_a_repository_that_never_answers_is_given_up(repo, tmp_path, monkeypatch, witness):
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nexec 7>{witness.path}\nsleep 60 & wait\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))

    with pytest.raises(RepositoryUnreachable, match=r"longer than 0\.5 s"):
        await Mirrors(tmp_path / "cache", timeout_s=0.5).resolve(locate("host:x", tmp_path))
    assert witness.everybody_is_gone()


async def test_git_is_given_its_input_under_either_event_loop(repo, source, tmp_path):
    sha = repo.commit(a="1")

    def resolve() -> str:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Mirrors(tmp_path / "under-uvloop").resolve(source, commit_sha=sha[:10]))

    assert [await asyncio.to_thread(resolve) for _ in range(3)] == [sha] * 3
