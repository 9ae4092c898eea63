"""gm-drop: remove quarantined jobs."""

from __future__ import annotations

from contextlib import ExitStack

from libgm.quarantine import audit, jobs, payloads, processes
from libgm.shell.signals import held
from libgm.tools.batch import Action, Item


class Drop(Action):
    """gm-drop: removes jobs; what it prints is the whole record, which gm-bury takes back."""

    done_to = "removed"

    def process(self, batch: list[Item]) -> int:
        dropped: dict[int, dict] = {}
        used = 0
        with ExitStack() as records_out:
            with self.store.transaction():
                records_out.enter_context(held())
                for item, values in self.look_up(batch):
                    used += 1
                    if item.ident not in dropped and self.is_meant(item, values):
                        found = dict(zip(self.columns, values))
                        if found["claim"] is not None and processes.lives(self.store, found["claim"]):
                            self.report(f"{item}: is being sent back by another process")
                        else:
                            dropped[item.ident] = found
                    if self.stopped:
                        break
                audit.write_down(self.store, "drop", list(dropped.values()), self.why)
                jobs.remove(self.store, list(dropped.values()))
            self.done += len(dropped)
            for found in dropped.values():
                if found["payload_file"] is not None:
                    payloads.discard(self.store, found["payload_file"])
                self.output.emit(jobs.record([found[name] for name in jobs.COLUMNS], lambda process: False))
            self.output.flush()
        return used
