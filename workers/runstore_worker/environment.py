"""What a model finds in its environment: a short list of the worker's own, the project's, and the run's.

The worker's settings hold secrets (a token, the address of Redis), so what is passed on is named here; nothing is
passed on because nobody thought of it. A model that runs as the same user could still read the worker's
environment in /proc, unless the worker has called `hide_from_models`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from runstore_worker import shim

PASSED_ON = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)
RESERVED = frozenset({"RUNSTORE_RUN_ID", "RUNSTORE_INPUTS", "RUNSTORE_OUTPUTS", "RUNSTORE_RUN_MARK"})


def model_environment(
    *,
    run_id: str,
    inputs: Path,
    outputs: Path,
    cwd: Path,
    project: Mapping[str, str],
    traceparent: str | None = None,
    own: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Make a model's environment; `own` is the worker's (`os.environ`)."""
    return {
        "PYTHONUNBUFFERED": "1",  # logs are watched as they come; a project may set it to an empty text
        "GIT_CEILING_DIRECTORIES": str(cwd.parent),  # or git would find a repository around the worker
        **base_environment(os.environ if own is None else own),
        **project,
        "RUNSTORE_RUN_ID": run_id,
        "RUNSTORE_INPUTS": str(inputs),
        "RUNSTORE_OUTPUTS": str(outputs),
        **({"TRACEPARENT": traceparent} if traceparent is not None else {}),
    }


def base_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Choose what is passed on of the worker's environment."""
    return {name: value for name, value in own.items() if name in PASSED_ON or name.startswith("LC_")}


def hide_from_models() -> bool:
    """Keep other processes of the same user from reading this one's environment, memory and pipes.

    Needs: to be called at start, before any model runs. It has no effect against root, nor outside Linux (false).
    """
    return shim.prctl(shim.PR_SET_DUMPABLE, 0)
