"""What gm-work was asked to do."""

from __future__ import annotations

from dataclasses import dataclass

# Exit statuses of a worker: to be replaced; its queue is empty (--until-empty); the quarantine file is another one now
RETIRED, EMPTY, REPLACED = 0, 10, 11


@dataclass(frozen=True)
class Settings:
    """The options of gm-work; times in seconds, None where there is no limit."""

    function: bytes
    argv: list[str]             # COMMAND and its arguments
    exits: dict[int, str]       # exit status -> verdict
    servers: list               # of address.Server
    server_list: str            # the same, sorted, as text: workers with equal lists share delayed retries
    quarantine: str             # path of the quarantine file
    jobs: int = 1               # worker processes
    tries: int = 3
    brake: int = 5              # failures of different jobs in a row that are an outage; 0 for never
    delay: float = 5.0
    max_delay: float = 3600.0
    grace: float = 10.0
    timeout: float | None = None
    max_age: float | None = 120.0
    max_jobs: int | None = None
    via: bytes | None = None    # function of a gm-collect
    pipe: bool = False
    until_empty: bool = False
    foreground: bool = False
    quiet: bool = False
