"""gm-bury: put records into the quarantine, exports of any machine, byte for byte, each job once."""

from __future__ import annotations

import os
from contextlib import ExitStack

from libgm import job
from libgm.errors import BadRecord, reason
from libgm.quarantine import audit, jobs, payloads
from libgm.quarantine.file import raw
from libgm.shell.signals import held
from libgm.tools.batch import Batch


class Row:
    """A row to bring in."""

    __slots__ = ("values", "size")

    def __init__(self, values: dict):
        self.values, self.size = values, len(values["data"])


class Bury(Batch):
    """gm-bury: brings rows in."""

    done_to = "buried"
    remain = "in quarantine"
    creates = True

    def item(self, where: str, record: dict) -> Row:
        values = jobs.from_record(record)
        if values["payload_file"] is not None:
            values = self.with_file(values, record)
        return Row(values)

    def with_file(self, values: dict, record: dict) -> dict:
        """A row whose payload is in a file beside the quarantine file; it counts by its content. Raises BadRecord."""
        if not self.is_open:
            self.open()
        path = self.store.beside(values["payload_file"])
        try:
            if payloads.owner(self.store, os.path.basename(path)) is None:
                raise FileNotFoundError
            values = {**values, "payload_file": path, "payload_digest": payloads.digest_of(path)}
        except FileNotFoundError:
            raise BadRecord(f"its payload is in {values['payload_file']}, which is not here") from None
        except OSError as error:
            raise BadRecord(f"{path}: cannot read its payload: {reason(error)}") from None
        return values if "key" in record else jobs.keyed(values, record)

    def process(self, batch: list[Row]) -> int:
        buried = []
        with ExitStack() as records_out:
            with self.store.transaction():
                records_out.enter_context(held())
                for row in batch:
                    ident, new = jobs.bring_in(self.store, row.values)
                    if new:
                        buried.append(dict(zip(jobs.COLUMNS, jobs.fetch(self.store, ident) or ())))
                audit.write_down(self.store, "bury", buried)
            self.done += len(buried)
            for found in buried:
                shown: dict = {"id": found["id"], "revision": found["revision"]}
                job.put(shown, "function", raw(found["function"]))
                job.put(shown, "unique", raw(found["unique_"]))
                self.output.emit(shown)
            self.output.flush()
        return len(batch)
