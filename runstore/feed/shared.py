"""What is asked about the feed, asked once for all who ask the same at about one time.

When a gateway is lost, all of its clients come to the next one with a few places among them: to ask for each client
would cost the store a crowd of questions with the same few answers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Shared(Generic[_K, _V]):
    """Questions, each shared by all who ask it within `fresh_s` of its beginning.

    An answer may be older than its question by so much. What is done to the store after it is noticed by whoever
    follows the feed, as it is when the answer is on its way.
    """

    def __init__(self, find: Callable[[_K], Awaitable[_V]], fresh_s: float) -> None:
        self._find = find
        self._fresh_s = fresh_s
        self._answers: dict[_K, asyncio.Task[_V]] = {}

    async def ask(self, question: _K) -> _V:
        """Ask, or share an answer. Raises: as `find`."""
        answer = self._answers.get(question)
        if answer is None:
            loop = asyncio.get_running_loop()
            answer = self._answers[question] = loop.create_task(self._ask(question))
            answer.add_done_callback(_retrieve)
            loop.call_later(self._fresh_s, self._forget, question, answer)
        return await asyncio.shield(answer)

    def forget_all(self) -> None:
        """Let nobody who asks from now on share an answer to what was asked before."""
        self._answers.clear()

    async def _ask(self, question: _K) -> _V:
        return await self._find(question)

    def _forget(self, question: _K, answer: "asyncio.Task[_V]") -> None:
        if self._answers.get(question) is answer:
            del self._answers[question]


def _retrieve(answer: "asyncio.Task[_V]") -> None:
    # whoever asked raises it; where all have hung up, nobody needs to hear of it
    if not answer.cancelled():
        answer.exception()
