"""Work folders: fresh, removed afterwards, and never anybody else's."""

import os
from pathlib import Path

from runstore_worker.folders import WorkFolders


async def test_a_folder_is_fresh_and_goes_whatever_a_model_made_of_it(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work")
    await folders.open()
    first, second = await folders.make("run"), await folders.make("run")
    (first / "deep").mkdir()
    (first / "deep" / "file").write_text("x")
    (first / "out").symlink_to(tmp_path)
    os.chmod(first / "deep", 0o500)

    await folders.remove(first)
    await folders.close()
    await folders.close()

    assert first != second
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["lock"]
    assert tmp_path.exists()


async def test_what_a_killed_worker_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    dead, living = WorkFolders(tmp_path), WorkFolders(tmp_path)
    await dead.open()
    await living.open()
    left, kept = await dead.make("run"), await living.make("run")
    os.close(dead._lock)

    await WorkFolders(tmp_path).open()

    assert not left.exists()
    assert kept.exists()


async def test_folders_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    for name in ("thesis", "0123456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "chapter").write_text("x")
    (tmp_path / "thesis" / "lock").write_text("x")
    (tmp_path / "notes").write_text("x")

    await WorkFolders(tmp_path).open()

    assert sorted(path.name for path in tmp_path.iterdir() if (path / "chapter").exists()) == [
        "0123456789abcdef",
        "thesis",
    ]
