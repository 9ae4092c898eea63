"""The brake: a row of failures of different jobs is taken for an outage, in which failures are held, not counted.

gm-delivery(7), rule 8. All workers of a function share it in the quarantine file.
"""

from __future__ import annotations

import time

from libgm import wire
from libgm.quarantine import outages
from libgm.quarantine.file import Store

AHEAD = 16          # jobs that COMMAND may have in pipe mode: what it has cannot be given back
HOLD_MIN, HOLD_MAX = 1.0, 60.0   # seconds for which a failure is held
SPACING = 0.01      # of the outage's age, between two starts,
SPACING_MAX = 0.1   # seconds at most
LASTING = 7200.0    # seconds of an outage, after which failures count again
FRESH = 1.0         # seconds for which a success need not be written again
SKEW = 60.0         # seconds that the next start may be ahead, before the clock is taken to have been stepped


class Brake:
    """The brake of a worker's function. limit: failures of different jobs in a row; 0 for no brake at all.

    .row and .outage are as they were when last looked at: how many jobs have failed in a row, and whether that is an outage.
    """

    def __init__(self, settings):
        self.limit, self.function, self.delay = settings.brake, settings.function, settings.delay
        self.row, self.outage = 0, False

    def look(self, store: Store) -> outages.Brake:
        """Read it."""
        found = outages.read(store, self.function)
        self.row, self.outage = len(found.failed), found.since is not None
        return found

    def turn_over(self, store: Store, done: bool, coming: bool) -> float:
        """Note that jobs were done, and ask when the next may be started, in a transaction of the caller's; in how many seconds."""
        if not self.limit:
            return 0.0
        found = self.look(store)
        if done:
            self.succeeded(store, found)
        return self.start(store, found) if coming and self.outage else 0.0

    def ahead(self, window: int) -> int:
        """How many jobs may be begun before the outcome of the first is known: few once some have failed in a row."""
        if not (self.limit and self.row):
            return min(window, AHEAD)
        return 1 if self.outage else max(1, min(window, self.limit - self.row))

    def start(self, store: Store, found: outages.Brake) -> float:
        """Seconds until a job may be started in an outage, in which starts are spaced."""
        now = time.time()
        at = now if found.next_start > now + SKEW else max(now, found.next_start)
        outages.reserve(store, self.function, at + min(SPACING_MAX, SPACING * max(0.0, now - (found.since or now))))
        return at - now

    def succeeded(self, store: Store, found: outages.Brake) -> None:
        """A job was done. It ends an outage, and what was held is due."""
        now = time.time()
        if found.since is None and not found.failed and found.succeeded and 0 <= now - found.succeeded < FRESH:
            return
        outages.note_success(store, self.function, now)
        if found.since is not None:
            outages.release(store, self.function, now, True)
        self.row, self.outage = 0, False

    def failed(self, store: Store, header: wire.Header, error: str) -> float | None:
        """A job failed that did not judge itself; the seconds for which it is held, None where the failure counts.

        header: of the job, before this failure. header.known_bad is set where the job is to blame.
        """
        if not self.limit:
            return None
        with store.transaction(durable=False):   # other workers fail and succeed at the same time
            found, now = self.look(store), time.time()
            if found.since is not None and found.since > now:
                found.since = now
            header.known_bad = header.known_bad or came_between(header, found.succeeded)
            if header.known_bad:
                return None
            if found.since is not None:
                return self.hold(header) if now - found.since < LASTING else None
            key = wire.key_text(header.key)
            if key not in found.failed:
                failed = [*found.failed, key][-self.limit:]
                self.row, self.outage = len(failed), len(failed) >= self.limit
                outages.note_failure(store, self.function, failed, *((now, error) if self.outage else (None, None)))
            return None

    def hold(self, header: wire.Header) -> float:
        """Seconds for which a job that has failed so often is held."""
        return min(HOLD_MAX, max(HOLD_MIN, self.delay) * 2 ** min(header.attempts + header.holds, 9))


def came_between(header: wire.Header, succeeded: float | None) -> bool:
    """Whether a success came after the job's first failure, for all that its header tells: the time is in whole seconds, and of
    the life before, where the job was requeued."""
    return bool(succeeded and header.first_failed and not header.requeues and header.attempts + header.holds and
                succeeded >= header.first_failed + 1)
