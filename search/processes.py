"""How a search starts processes of its own."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess


def start_process(name: str, target: Callable[..., None], *arguments: object) -> tuple[BaseProcess, Connection]:
    """`target(connection, *arguments)` in a new process, and this end of the connection.

    Spawned, not forked: torch may have threads by now. When this process dies, the connection ends, which is how the
    other learns of it.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    resource_tracker.ensure_running()  # starting it would lift the block below
    process = context.Process(target=target, args=(there, *arguments), name=name)
    # Ctrl-C reaches all processes of a terminal: until the new one ignores it, it must not die by it with a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    there.close()
    return process, here
