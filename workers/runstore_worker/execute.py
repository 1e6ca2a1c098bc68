"""One claimed run from its commit to its terminal event, held by heartbeats all the while.

Three things may end it before its own end: a cancel (it is terminated, and ends as `cancelled`), the worker's stop (it
is terminated, and goes to another attempt), and a lost lease (it is killed, and nothing is said: the run is another's).
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import msgspec

from runstore import AsyncPublisher, Status, StoreUnavailable
from runstore.core.event import Event
from runstore.dispatch import Claim, Dispatch, Released, Standing
from runstore.telemetry import Span, begin
from runstore_worker.config import Project, WorkerConfig
from runstore_worker.ending import Ending, cancelled, failed, judge, with_output
from runstore_worker.environment import model_environment
from runstore_worker.folders import WorkFolders
from runstore_worker.held import Command
from runstore_worker.logs import LogSender
from runstore_worker.outputs import Unreadable, read_outputs
from runstore_worker.process import Cancelled, Logs, Outcome, execute
from runstore_worker.repository import Mirrors
from runstore_worker.source import RepositoryError
from runstore_worker.tail import Tail

MAX_BACKOFF_S = 2.0
MAX_HEARTBEAT_BACKOFF_S = 1.0

log = logging.getLogger(__name__)
T = TypeVar("T")


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What all runs of a worker share."""

    config: WorkerConfig
    name: str
    dispatch: Dispatch
    publisher: AsyncPublisher
    mirrors: Mirrors
    folders: WorkFolders
    one_at_a_time: asyncio.Semaphore


class Asked(StrEnum):
    """Why a run is to end before its own end."""

    CANCEL = "cancel"
    STOP = "stop"


class Interrupted(Exception):
    """The run was asked to end before its command began."""


class Execution:
    """One run in this worker's hands."""

    def __init__(self, claim: Claim, project: Project, tools: Tools) -> None:
        self.claim = claim
        self._project = project
        self._tools = tools
        self._asked: Asked | None = None
        self._end = asyncio.Event()
        self._is_lost = False
        self._is_killed = False
        self._hurry_at = float("inf")
        self._work: asyncio.Task[Ending | None] | None = None
        self._command: asyncio.Task[Outcome] | None = None
        self._commit_sha: str | None = None
        self._span = Span()
        self.outcome = ""
        """What became of it, as far as this worker is concerned: a terminal status, `lost` or `returned`."""

    async def run(self) -> None:
        """Execute the run and publish how it ended."""
        keeper = asyncio.create_task(self._keep(), name=f"runstore-lease-{self.claim.run_id}")
        self._span = self._begin_span()
        try:
            ending = await self._ending()
            if ending is not None and (self._asked is Asked.STOP and ending.status is Status.CANCELLED):
                ending = await self._give_back(ending)
            if ending is not None:
                await self._publish(ending)
        except StoreUnavailable as error:
            log.error("end_not_published", extra={"run_id": self.claim.run_id, "reason": error.detail[:200]})
        finally:
            keeper.cancel()
            await asyncio.wait({keeper})
            self._tools.dispatch.forget(self.claim)
            self._end_span()

    def _begin_span(self) -> Span:
        claim = self.claim
        told: dict[str, Any] = {"run_id": claim.run_id, "project": claim.project.name, "attempt": claim.attempt}
        return begin("runstore.execute", claim.request.traceparent, kind="consumer", **told)

    def _end_span(self) -> None:
        self._span.note(outcome=self.outcome or "not told")
        if self.outcome != Status.SUCCESS:
            self._span.fail(self.outcome or "not told")
        self._span.end()

    def stop(self) -> None:
        """Terminate the command, for another attempt."""
        self._hurry_at = asyncio.get_running_loop().time() + self._tools.config.last_words_s
        self._ask(Asked.STOP)

    def kill(self) -> None:
        """Kill what was told to end and did not."""
        self._is_killed = True
        if self._command is not None:
            self._command.cancel()

    async def _ending(self) -> Ending | None:
        self._work = asyncio.create_task(self._execute(), name=f"runstore-run-{self.claim.run_id}")
        try:
            return await self._work
        except asyncio.CancelledError:
            if self._is_lost:
                return None
            raise
        except Interrupted:
            return cancelled()
        except RepositoryError as error:
            return failed(str(error))
        except StoreUnavailable:
            raise
        except Exception as error:
            log.exception("run_broken_off", extra={"run_id": self.claim.run_id})
            return failed(f"the worker could not execute it: {_innermost(error)}")

    async def _execute(self) -> Ending | None:
        folder = await self._tools.folders.make(f"{self.claim.run_id}-{self.claim.attempt}")
        try:
            return await self._execute_in(folder)
        finally:
            await self._tools.folders.remove(folder)

    async def _execute_in(self, folder: Path) -> Ending | None:
        checkout = folder / "checkout"
        self._commit_sha = sha = await self._unless_asked(self._check_out(checkout))
        standing = await self._unless_asked(self._surely(lambda: self._tools.dispatch.begin(self.claim)))
        if standing is Standing.LOST:
            self._log_lost()
            return None
        if standing is Standing.CANCEL_ASKED:
            self._ask(Asked.CANCEL)
        running = self._event(Status.RUNNING)
        await self._unless_asked(self._send(running))
        log.info("run_began", extra={"run_id": self.claim.run_id, "attempt": self.claim.attempt, "commit_sha": sha})
        keep_bytes = self._tools.config.keep_bytes
        with Tail(folder / "stdout", keep_bytes) as stdout, Tail(folder / "stderr", keep_bytes) as stderr:
            logs = Logs(stdout=stdout, stderr=stderr)
            outputs = folder / "outputs.json"
            outcome = await self._run_command(self._make_command(folder, checkout, outputs), logs)
            async with self._tools.one_at_a_time:
                return await asyncio.to_thread(_end_of, outcome, outputs, logs, self.claim.timeout_s)

    async def _check_out(self, into: Path) -> str:
        source, request = self._project.source, self.claim.request
        mirrors = self._tools.mirrors
        sha = await mirrors.resolve(source, commit_sha=request.commit_sha, branch=request.branch)
        await mirrors.checkout(source, sha, into)
        return sha

    def _make_command(self, folder: Path, checkout: Path, outputs: Path) -> Command:
        inputs = folder / "inputs.json"
        inputs.write_bytes(bytes(self.claim.request.inputs))
        return Command(
            run_id=self.claim.run_id,
            argv=self._project.command,
            cwd=checkout,
            env=model_environment(
                run_id=self.claim.run_id,
                inputs=inputs,
                outputs=outputs,
                cwd=checkout,
                project=self._project.env,
                traceparent=self._span.traceparent or self.claim.request.traceparent,
            ),
            timeout_s=self.claim.timeout_s,
            grace_s=self._project.grace_s,
        )

    async def _run_command(self, command: Command, logs: Logs) -> Outcome:
        config, dispatch = self._tools.config, self._tools.dispatch
        sender = LogSender(
            lambda pieces: dispatch.append_logs(self.claim, pieces),
            every_s=config.logs_every_s,
            most_bytes=config.logs_bytes,
        )
        sending = asyncio.create_task(sender.run())
        self._command = asyncio.create_task(execute(command, logs=logs, on_chunk=sender.offer, cancel=self._end))
        if self._is_killed:
            self._command.cancel()
        try:
            return await self._command
        except asyncio.CancelledError:
            if not self._is_killed or self._is_lost:
                raise
            return Cancelled()
        finally:
            sending.cancel()
            await asyncio.wait({sending})
            if not self._is_lost:
                await sender.flush()

    async def _unless_asked(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what comes before the command, unless the run is to end meanwhile. Raises: Interrupted."""
        task, asked = asyncio.ensure_future(work), asyncio.ensure_future(self._end.wait())
        try:
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if self._end.is_set():
                raise Interrupted
            return task.result()
        finally:
            for each in (task, asked):
                each.cancel()
            await asyncio.wait({task, asked})

    async def _keep(self) -> None:
        """Renew the lease in time, and at once when something is said about the run."""
        dispatch = self._tools.dispatch
        pause_s = dispatch.heartbeat_s
        while True:
            await dispatch.heard(self.claim, pause_s)
            try:
                standing = await dispatch.heartbeat(self.claim)
            except Exception as error:  # noqa: BLE001 - whatever it was, a run that is not renewed is lost
                log.warning("heartbeat_missed", extra={"run_id": self.claim.run_id, "reason": str(error)[:200]})
                pause_s = min(MAX_HEARTBEAT_BACKOFF_S, dispatch.heartbeat_s / 3)
                continue
            pause_s = dispatch.heartbeat_s
            if standing is Standing.CANCEL_ASKED:
                self._ask(Asked.CANCEL)
            elif standing is Standing.LOST:
                self._lose()
                return

    def _lose(self) -> None:
        if self._work is not None and not self._work.done():
            self._log_lost()
            self._is_lost = True
            self._work.cancel()

    def _log_lost(self) -> None:
        self.outcome = "lost"
        log.warning("run_lost", extra={"run_id": self.claim.run_id, "attempt": self.claim.attempt})

    def _ask(self, asked: Asked) -> None:
        if self._asked is not Asked.CANCEL:
            self._asked = asked
        self._end.set()

    async def _give_back(self, ending: Ending) -> Ending | None:
        match await self._surely(lambda: self._tools.dispatch.release(self.claim)):
            case Released.REQUEUED | Released.LOST as released:
                self.outcome = "returned" if released is Released.REQUEUED else "lost"
                return None
            case Released.CANCEL_ASKED:
                return ending
            case Released.SPENT:
                stopped = failed("worker stopped")
                return msgspec.structs.replace(stopped, output=_told_status(ending.output, Status.FAILED))

    async def _publish(self, ending: Ending) -> None:
        event = self._event(ending.status, reason=ending.reason, output=ending.output)
        await self._send(event)
        self.outcome = ending.status.value
        log.info("run_ended", extra={"run_id": self.claim.run_id, "status": ending.status.value})
        try:
            await self._tools.dispatch.finish(self.claim)
        except StoreUnavailable as error:
            log.warning("lease_not_ended", extra={"run_id": self.claim.run_id, "reason": error.detail[:200]})

    async def _send(self, event: Event) -> None:
        """Publish, and wait for the store itself: what is in the spool is told to nobody yet."""
        published = await self._surely(lambda: self._tools.publisher.send(event))
        if published.cursor is None:
            await self._surely(self._tools.publisher.flush)

    async def _surely(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do something with the store, however long it is away, unless the worker is to stop.

        Raises: StoreUnavailable then.
        """
        for failures in itertools.count():
            try:
                return await act()
            except StoreUnavailable:
                if asyncio.get_running_loop().time() >= self._hurry_at:
                    raise
                most = min(MAX_BACKOFF_S, 0.05 * 2 ** min(failures, 10))
                await asyncio.sleep(random.uniform(most / 2, most))  # noqa: S311 - spreads load only
        raise AssertionError("unreachable")

    def _event(self, status: Status, *, reason: str | None = None, output: bytes | None = None) -> Event:
        return Event(
            run_id=self.claim.run_id,
            status=status,
            project_name=self.claim.project.name,
            at_us=time.time_ns() // 1000,
            commit_sha=self._commit_sha,
            attempt=self.claim.attempt,
            error_message=reason,
            output=output,
            event_id=str(uuid4()),
            worker=self._tools.name,
        )


def _end_of(outcome: Outcome, path: Path, logs: Logs, timeout_s: float) -> Ending:
    outputs: dict[str, Any] | Unreadable = read_outputs(path)
    return with_output(judge(outcome, outputs, timeout_s), outcome, outputs, logs)


def _told_status(output: bytes | None, status: Status) -> bytes | None:
    if output is None:
        return None
    told = msgspec.json.decode(output, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**told, "status": status})


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
