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
        ended: Set when the worker was ended, which it also is when it is dropped and at the interpreter's exit. A job
            that takes long should look at it now and then.
    """

    def __init__(self, name: str) -> None:
        self.ended = threading.Event()
        self._name = name
        self._jobs_by_process: dict[int, _Jobs] = {}

    def submit(self, job: Callable[[], None]) -> None:
        """Has something done, which must not raise.

        Raises:
            RuntimeError: The thread would have to be started, and the interpreter is about to exit.
        """
        process = os.getpid()
        if process not in self._jobs_by_process:
            jobs: _Jobs = SimpleQueue()
            thread = threading.Thread(target=_work, args=(jobs,), name=self._name, daemon=True)
            thread.start()
            # At exit it must not be cut off in the middle of a job, in code that holds no lock of Python's.
            weakref.finalize(self, _end, self.ended, jobs, thread)
            if self._jobs_by_process.setdefault(process, jobs) is not jobs:
                jobs.put(None)
        self._jobs_by_process[process].put(job)


def _work(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # it would keep what it holds alive until the next one comes


def _end(ended: threading.Event, jobs: _Jobs, thread: threading.Thread) -> None:
    ended.set()
    jobs.put(None)
    if thread is not threading.current_thread():
        thread.join()
