"""A test that hangs is named and costs itself: its process says where its tasks wait and ends, and another goes on.

Without it a run is killed from outside when its time is over, and nobody is told by which test. The process ends, as
nothing in it can be trusted to: a Trio loop that is left from a signal stays behind, and a thread cannot be stopped.
Under xdist (`make test`) a new one takes what is left of its tests, and the one that hung is counted as failed.
"""

from __future__ import annotations

import os
import signal
import traceback

import pytest
import trio

LIMIT_S = 400.0  # chosen: beyond every patience that a test has (300 s), within what a run of all tests may take


def tasks():
    """Lines: Trio's tasks, each with where it waits, if a loop runs in this thread."""
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        root = None
    return list(_lines(root)) if root is not None else ["no Trio loop runs in the main thread"]


def _lines(task, depth=0):
    indent = "  " * depth
    yield f"{indent}{task.name}"
    for frame, number in task.iter_await_frames():
        code = frame.f_code
        yield f"{indent}  at {code.co_filename}:{number} in {code.co_name}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _lines(child, depth + 1)


class Watchdog:
    """Looks after each test, with its fixtures. Those marked `slow` have no limit."""

    def __init__(self, config, limit_s=LIMIT_S):
        self._config, self._limit_s = config, limit_s

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        if item.get_closest_marker("slow"):
            return (yield)

        def bark(_number, frame):
            self._bark(item.nodeid, frame)

        before = signal.signal(signal.SIGALRM, bark)  # the main thread has it also in a lock and in `epoll`
        signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _bark(self, name, frame):
        self._config.pluginmanager.getplugin("capturemanager").suspend_global_capture()
        said = [f"{name} did not end within {self._limit_s:g} s. Its tasks:", *tasks(), "The main thread:"]
        os.write(2, "\n".join(["", *said, *traceback.format_stack(frame)]).encode())
        os._exit(1)
