"""The commands, by name; each lives in a module that is imported when it is asked for."""

import sys
from typing import TYPE_CHECKING, Final

from runstore import __version__
from runstore.cli.exits import Exit, of_error
from runstore.cli.screen import complain
from runstore.cli.streams import let_go_of
from runstore.core.errors import AmbiguousRunId, RunstoreError, Unauthorized

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

_COMMANDS: Final = {
    "Try it": {
        "demo": ("demo:demo", "Run the sample once, from the request to the pushed result, and clean up."),
        "dev": ("dev:dev", "Bring up everything on this machine: store, projector, gateway, worker."),
    },
    "Runs": {
        "run": ("run:run", "Ask for a run of a project."),
        "get": ("get:get", "Look a run up."),
        "list": ("list_runs:list_runs", "List runs, newest first."),
        "watch": ("watch:watch", "Be told as runs end."),
        "cancel": ("cancel:cancel", "Ask for a run to be cancelled."),
        "logs": ("logs:logs", "Show what a run wrote to stdout and stderr."),
        "exec": ("exec:exec_", "Run any command, and publish what becomes of it."),
    },
    "Services": {
        "gateway": ("services:gateway", "Serve HTTP and websockets."),
        "projector": ("services:projector", "Fold events into runs, and end the runs of lost workers."),
        "mcp": ("mcp:mcp", "Serve the tools for agents over stdin and stdout (MCP)."),
        "worker": ("services:worker", "Execute runs of the projects of runstore.toml."),
    },
    "Operation": {
        "token": ("token:app", "Create, list and revoke API tokens."),
        "archive": ("archive:app", "Move ended runs out of Redis, bring one back, erase for good."),
        "rebuild": ("rebuild:rebuild", "Fold the log once more, and tell what the store has made of it."),
        "doctor": ("doctor:doctor", "Look for what is wrong with a store, and say what to do."),
        "bench": ("bench:bench", "Measure runstore beside its yardsticks on this machine."),
    },
}


def build() -> "App":
    """Put the command line together."""
    from cyclopts import App, Group, Parameter

    app = App(
        name="runstore",
        help="The run store that workers publish into and that everybody who waits for a run listens to.",
        version=__version__,
        default_parameter=Parameter(negative=()),
        help_format="plaintext",
    )
    for place, (title, commands) in enumerate(_COMMANDS.items()):
        group = Group(title, sort_key=place)
        for name, (target, sentence) in commands.items():
            app.command(f"runstore.cli.{target}", name=name, group=group, help=sentence)
    options = Group("Options", sort_key=len(_COMMANDS))
    app.register_install_completion_command(group=options, help="Install tab completion for this shell.")
    for flag in ("--help", "--version"):
        app[flag].group = options
    return app


def run(words: list[str]) -> int | None:
    """Run one command and return its exit code; every error that is foreseen becomes a sentence and a code."""
    from cyclopts import CycloptsError

    try:
        returned = build()(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        complain(_said(error))
        return Exit.USAGE
    except AmbiguousRunId as error:
        complain("\n".join([error.detail, *(f"  {candidate}" for candidate in error.candidates)]))
        return of_error(error)
    except Unauthorized as error:
        complain(f"{error.detail}; a command takes it from --token or RUNSTORE_TOKEN")
        return of_error(error)
    except RunstoreError as error:
        complain(error.detail)
        if of_error(error) is Exit.UNWRITABLE:
            let_go_of(sys.stdout)
        return of_error(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        let_go_of(sys.stdout)
        return Exit.SUCCESS
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich, which writes the help, has let go of stdout itself
            return Exit.SUCCESS
        raise
    return returned if isinstance(returned, int) else None


def _said(error: "CycloptsError") -> str:
    from cyclopts import UnusedCliTokensError

    if isinstance(error, UnusedCliTokensError):
        return f"nothing takes {' '.join(map(repr, error.unused_tokens or ()))}; --help shows what the command takes"
    return str(error)
