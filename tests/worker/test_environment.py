"""What a model finds in its environment."""

import subprocess
import sys
from pathlib import Path

from runstore_worker.environment import base_environment, model_environment

OWN = {
    "PATH": "/bin",
    "LC_ALL": "C",
    "TZ": "UTC",
    "RUNSTORE_TOKEN": "secret",
    "RUNSTORE_REDIS_URL": "redis://secret",
    "RUNSTORE_RUN_MARK": "another",
    "AWS_SECRET_ACCESS_KEY": "secret",
}


def made(project: dict[str, str]) -> dict[str, str]:
    return model_environment(
        run_id="r", inputs=Path("/w/in"), outputs=Path("/w/out"), cwd=Path("/w/work"), project=project, own=OWN
    )


def test_only_what_is_named_is_passed_on():
    assert base_environment(OWN) == {"PATH": "/bin", "LC_ALL": "C", "TZ": "UTC"}
    assert "secret" not in str(made({}))


def test_the_run_and_its_files_are_named():
    env = made({})

    assert (env["RUNSTORE_RUN_ID"], env["RUNSTORE_INPUTS"], env["RUNSTORE_OUTPUTS"]) == ("r", "/w/in", "/w/out")


def test_a_project_overrides_the_worker_but_not_the_run():
    env = made({"PATH": "/opt", "RUNSTORE_RUN_ID": "forged"})

    assert (env["PATH"], env["RUNSTORE_RUN_ID"]) == ("/opt", "r")


def test_a_hidden_worker_cannot_be_read_by_a_model():
    code = """
import ctypes
from runstore_worker.environment import hide_from_models
hidden = hide_from_models()
print(hidden, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == (["True", "0"] if sys.platform == "linux" else ["False", "-1"])
