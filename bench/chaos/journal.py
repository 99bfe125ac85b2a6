"""What happened, as lines of JSON: each thread of the driver writes a file, the oracle reads them all.

Times are seconds of the system's monotonic clock, which all processes of one machine share. Events:

- `put`, `delete`: `id`, what was sent (`image` and `text` are numbers of contents or null, `metadata`).
- `search`: `from`, `to`, `query` (number of the content), `k`, `max_distance`, `filter`.
  These three have `t0`, `t1` and an outcome: `status` and `body`, or `error` when no answer came; a failure
  has `retry_after` and `type` (the media type) too.
- `reindex`: `model`, `t0` (first sent), `t1` (seen to be final), `phase`, `generation`, `error`.
- `kill`: `targets`, `at`, and `ready_at` when the service was ready again (null when it was not killed).
- `generations`, `listing`, `pictures`, `enumeration`: what the end found (`ending.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

Event = dict[str, Any]


class Journal:
    """Appends events to `FOLDER/NAME.jsonl`; one thread each."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{name}.jsonl").open("a", encoding="utf-8")

    def write(self, event: Event) -> None:
        """Append one event."""
        self._file.write(json.dumps(event, separators=(",", ":")) + "\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_events(folder: Path, name: str) -> Iterator[Event]:
    """The events of the files `NAME*.jsonl`, file by file."""
    for path in sorted(folder.glob(f"{name}*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
