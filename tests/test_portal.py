"""The synchronous face: wherever Python code can run, and without a trace when it ends."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cases import GOOD, QUERY, RUDE, Connect, Hostile
from hostile import HostileServer, hang, speak

from aligner_chains import Aligner, portal

# For a process of its own: every warning is an error there, and what is left open is a warning.
PREAMBLE = f"""
import asyncio, atexit, gc, os, sys
from aligner_chains import Aligner, Guard
URL, QUERY, RUDE, GOOD = {{url!r}}, {QUERY!r}, {RUDE!r}, {GOOD!r}
"""
# A fork of a process with threads is warned about from Python 3.12 on; here it is the point.
FLAGS = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]


def start(server: HostileServer | None, script: str) -> subprocess.Popen[str]:
    code = PREAMBLE.format(url=server and server.url) + script
    return subprocess.Popen(
        [sys.executable, *FLAGS, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(server: HostileServer | None, script: str) -> str:
    """What a script prints; it must end well and leave nothing on stderr."""
    process = start(server, script)
    printed, complaints = process.communicate(timeout=120)
    assert (process.returncode, complaints) == (0, "")
    return printed


async def test_a_call_works_inside_a_running_loop(hostile: Hostile, connect: Connect):
    aligner = connect(hostile())
    assert aligner.correct(QUERY, RUDE).text == GOOD
    assert "".join(chunk.text for chunk in aligner.stream(QUERY, RUDE)) == GOOD


def test_one_aligner_serves_fifty_threads(hostile: Hostile, connect: Connect):
    aligner = connect(hostile())
    with ThreadPoolExecutor(50) as threads:
        texts = list(threads.map(lambda number: aligner.correct(QUERY, f"{number}, you idiot").text, range(100)))
    assert texts == [str(number) for number in range(100)]


def test_many_drafts_may_come_from_a_generator_that_corrects_itself(hostile: Hostile, connect: Connect):
    aligner = connect(hostile())
    pairs = ((QUERY, aligner.correct(QUERY, draft).text) for draft in (RUDE, GOOD))
    assert [correction.text for correction in aligner.correct_many(pairs)] == [GOOD, GOOD]


async def test_one_aligner_serves_this_loop_and_the_background_loop(hostile: Hostile, connect: Connect):
    aligner = connect(hostile())
    assert (await aligner.acorrect(QUERY, RUDE)).text == aligner.correct(QUERY, RUDE).text == GOOD


def test_a_call_from_within_the_background_loop_raises_instead_of_waiting_for_ever(
    hostile: Hostile,
):
    aligner = Aligner.from_tgi(hostile().url)

    async def call() -> None:
        aligner.correct(QUERY, RUDE)

    with pytest.raises(RuntimeError, match="event loop thread"):
        portal.run(call)


def test_a_stream_that_is_not_read_to_its_end_hangs_up(hostile: Hostile, connect: Connect):
    server = hostile(speak("One", " two", end="hang"))
    stream = connect(server).stream(QUERY, RUDE)
    assert next(stream).text == "One"
    stream.close()
    assert server.dropped.wait(10)


def test_closing_drops_the_connections_and_the_next_call_opens_new_ones(hostile: Hostile):
    server = hostile()
    with Aligner.from_tgi(server.url) as aligner:
        aligner.correct(QUERY, RUDE)
        assert not server.left.is_set()
    assert server.left.wait(10)
    assert aligner.correct(QUERY, RUDE).text == GOOD


async def test_closing_in_a_loop_drops_its_connections(hostile: Hostile):
    server = hostile()
    async with Aligner.from_tgi(server.url) as aligner:
        await aligner.acorrect(QUERY, RUDE)
    assert server.left.wait(10)


def test_a_loop_that_ends_closes_its_connections(hostile: Hostile):
    server = hostile()
    aligner = Aligner.from_tgi(server.url)
    asyncio.run(aligner.acorrect(QUERY, RUDE))
    assert server.left.wait(10)
    assert asyncio.run(aligner.acorrect(QUERY, RUDE)).text == GOOD


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # which is true of such a loop
def test_a_loop_that_is_closed_without_its_end_loses_its_connections(hostile: Hostile):
    server = hostile()
    aligner = Aligner.from_tgi(server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(aligner.acorrect(QUERY, RUDE))
    loop.close()

    async def correct_in_another() -> None:
        assert (await aligner.acorrect(QUERY, RUDE)).text == GOOD
        gc.collect()
        assert server.left.wait(10)

    asyncio.run(correct_in_another())


def test_a_loop_that_is_closed_during_a_lookup_does_not_disturb_another(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch
):
    begun, go_on = threading.Event(), threading.Event()
    getaddrinfo = socket.getaddrinfo

    def slow(host: str, *args: Any, **options: Any) -> Any:
        if host != "slow.example":
            return getaddrinfo(host, *args, **options)
        begun.set()
        go_on.wait()
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # else it tells of the task that is never finished
    unfinished = loop.create_task(Aligner.from_tgi("http://slow.example").acorrect(QUERY, RUDE))
    loop.run_until_complete(asyncio.to_thread(begun.wait))
    loop.close()
    try:
        assert asyncio.run(Aligner.from_tgi(hostile().url).acorrect(QUERY, RUDE)).text == GOOD
    finally:
        go_on.set()
    assert not unfinished.done()


def test_an_aligner_that_is_dropped_closes_its_connections(hostile: Hostile):
    server = hostile()
    aligner = Aligner.from_tgi(server.url)
    aligner.correct(QUERY, RUDE)
    assert not server.left.is_set()
    del aligner
    gc.collect()
    assert server.left.wait(10)


def test_nothing_is_left_open_when_loops_end_and_aligners_are_dropped(hostile: Hostile):
    script = """
async def use():
    aligner = Aligner.from_openai(URL + "/v1")
    async for chunk in aligner.astream(QUERY, RUDE):
        pass
    print((await Aligner.from_tgi(URL).acorrect(QUERY, RUDE)).text)
    gc.collect()
    stream = aligner.astream(QUERY, RUDE)
    await anext(stream)

asyncio.run(use())
asyncio.run(use())
print(Aligner.from_tgi(URL).correct(QUERY, RUDE))
gc.collect()
kept = Aligner.from_tgi(URL)
kept.myself = kept
print(kept.correct(QUERY, RUDE))
next(kept.stream(QUERY, RUDE))
del kept
gc.collect()
kept = Aligner.from_tgi(URL)
print(kept.correct(QUERY, RUDE))
print(asyncio.run(kept.acorrect(QUERY, RUDE)))
"""
    assert run(hostile(), script) == f"{GOOD}\n" * 6


def test_functions_that_run_at_exit_can_correct(hostile: Hostile):
    script = """
aligner = Aligner.from_tgi(URL)
aligner.correct(QUERY, RUDE)
atexit.register(lambda: print(aligner.correct(QUERY, RUDE)))
"""
    assert run(hostile(), script) == f"{GOOD}\n"


def test_a_name_that_cannot_be_looked_up_at_exit_is_a_server_out_of_reach():
    script = """
options = {"prompt_format": "aligner-7b", "on_failure": "draft"}
Aligner.from_tgi("http://127.0.0.1:9", **options).correct(QUERY, RUDE)  # Python 3.12 starts no thread at its exit
aligner = Aligner.from_tgi("http://localhost:9", **options)
atexit.register(lambda: print(type(aligner.correct(QUERY, RUDE).error).__name__))
"""
    printed, _ = start(None, script).communicate(timeout=120)  # the log's warnings are no matter
    assert printed == "BackendConnectionError\n"


def test_a_local_model_writes_at_exit_although_its_thread_has_ended_and_reads_long_texts():
    script = """
def last():
    print(aligner.correct(QUERY, RUDE))
    print(type(aligner.correct("x " * 5100, RUDE, on_failure="draft").error).__name__)

atexit.register(last)  # before the thread is started, so it runs after the thread's end
aligner = Aligner.embedded(guard=Guard())
print(aligner.correct(QUERY, RUDE))
"""
    printed, _ = start(None, script).communicate(timeout=120)  # the log's warnings are no matter
    assert printed == f"{GOOD}\n{GOOD}\nContextLengthError\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forking is for POSIX")
def test_a_forked_child_can_correct_and_so_can_its_parent(hostile: Hostile):
    script = """
aligner = Aligner.from_tgi(URL, timeout=20)
print(aligner.correct(QUERY, RUDE), flush=True)
child = os.fork()
both = [str(aligner.correct(QUERY, RUDE)), "".join(map(str, aligner.stream(QUERY, RUDE)))]
os.write(1, (" ".join(both) + chr(10)).encode())  # at once, for two processes write here
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(aligner.correct(QUERY, RUDE))
"""
    assert run(hostile(), script).splitlines() == [GOOD, f"{GOOD} {GOOD}", f"{GOOD} {GOOD}", GOOD]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
@pytest.mark.parametrize("call", ["aligner.correct(QUERY, RUDE)", "list(aligner.stream(QUERY, RUDE))"])
def test_an_interrupt_cancels_the_request(hostile: Hostile, call: str):
    server = hostile(hang)
    process = start(
        server,
        f"""
aligner = Aligner.from_tgi(URL)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted")
print(aligner.correct(QUERY, RUDE))
""",
    )
    assert server.waiting.wait(60)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (f"interrupted\n{GOOD}\n", "")
    assert server.dropped.is_set()


def test_a_process_that_ends_in_the_middle_of_a_request_does_not_wait_for_it(hostile: Hostile):
    server = hostile(hang)
    script = """
import threading
threading.Thread(target=lambda: Aligner.from_tgi(URL, on_failure="draft").correct(QUERY, RUDE), daemon=True).start()
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, *FLAGS, "-c", PREAMBLE.format(url=server.url) + script],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.waiting.wait(60)
    process.communicate("", timeout=60)
    assert process.returncode == 0
    assert server.dropped.wait(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forking is for POSIX")
def test_a_local_model_writes_in_a_forked_child_and_at_exit_and_nobody_waits_for_what_is_not_read():
    script = """
aligner = Aligner.embedded(guard=Guard())
first = aligner.correct(QUERY, GOOD)
child = os.fork()
print(aligner.correct(QUERY, GOOD).text == first.text, flush=True)
if child:
    assert os.waitpid(child, 0)[1] == 0
    atexit.register(lambda: print(aligner.correct(QUERY, GOOD).text == first.text))
else:
    unread = aligner.stream(QUERY, "The moon is far away. " * 30)
    next(unread)
"""
    assert run(None, script).replace("\n", "") == "True" * 3  # parent and child write as they like
