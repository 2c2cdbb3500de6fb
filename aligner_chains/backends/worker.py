"""A thread that does one thing after another."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

_Jobs: TypeAlias = "SimpleQueue[Callable[[], None] | None]"


class Worker:
    """One thread in each process, which does what it is given in the order given.

    An executor would do, were it not that its thread is missing in a forked child, where work then waits for ever, and
    that it takes no more work once the interpreter is about to exit.

    Args:
        name: The thread's name.

    Attributes:
        ended: Set when the worker was ended, and while its thread is, which happens when it is dropped and at the
            interpreter's exit. A job that takes long should look at it now and then.
    """

    def __init__(self, name: str) -> None:
        self.ended = threading.Event()
        self._name = name
        self._by_process: dict[int, tuple[_Jobs, threading.Thread]] = {}

    def submit(self, job: Callable[[], None]) -> None:
        """Has something done, which must not raise; here and now once the interpreter's exit has taken the thread."""
        jobs, thread = self._by_process.get(os.getpid()) or self._start()
        if thread.is_alive():
            jobs.put(job)
        else:
            job()

    def _start(self) -> tuple[_Jobs, threading.Thread]:
        jobs: _Jobs = SimpleQueue()
        thread = threading.Thread(target=_work, args=(jobs,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is about to exit
            return jobs, thread
        # At exit it must not be cut off in the middle of a job, in code that holds no lock of Python's.
        weakref.finalize(self, _end, self.ended, jobs, thread)
        started = self._by_process.setdefault(os.getpid(), (jobs, thread))
        if started[0] is not jobs:
            jobs.put(None)
        return started


def _work(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # it would keep what it holds alive until the next one comes


def _end(ended: threading.Event, jobs: _Jobs, thread: threading.Thread) -> None:
    was_ended = ended.is_set()
    ended.set()
    jobs.put(None)
    if thread is not threading.current_thread():
        thread.join()
        if not was_ended:
            ended.clear()  # a function that runs at exit after this one may have more to do
