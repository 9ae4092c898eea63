"""One call at a time behind the rest, in a thread: for SQLite, which lets the interpreter go on while it works."""

from __future__ import annotations

import threading


class Behind:
    """begin() a call, do something else, and end() it: what it returned, or the exception that it raised."""

    def __init__(self):
        self.done = threading.Event()
        self.done.set()
        self.result, self.error = None, None

    def begin(self, call, *arguments) -> None:
        """Begin a call, the one before having been ended."""
        thread = threading.Thread(target=self._run, args=(call, *arguments))
        self.done.clear()
        try:
            thread.start()
        except RuntimeError:   # there can be no more threads
            self._run(call, *arguments)

    def _run(self, call, *arguments) -> None:
        try:
            self.result = call(*arguments)
        except BaseException as error:
            self.error = error
        self.done.set()

    def end(self):
        """Wait for the call, if there is one. None where there is none."""
        self.done.wait()
        result, error = self.result, self.error
        self.result = self.error = None
        if error is not None:
            raise error
        return result
