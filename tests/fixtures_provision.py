"""One record as the index would know it, for tests of what a provision covers; no vault."""

import json
from datetime import UTC, datetime
from typing import Any

from phr import clock
from phr.fhir import kinds
from phr.fhir.intake import Intake
from phr.fhir.labels import Label
from phr.fhir.record import Record


def make_record(
    type_: str,
    date: str | None,
    category: str | None,
    *,
    labels: Label = Label.NONE,
    local_id: str = "0000000000000001",
    connection_id: int = 1,
    withdrawn: bool = False,
) -> Record:
    """Return a record with what rules look at: type, date, category, labels, place."""
    document: dict[str, Any] = {"resourceType": type_, "id": "x"}
    if date:
        path = kinds.KINDS[type_].dates[0]
        document[path] = {"start": date, "end": date} if path == "period" else date
    if category:
        document["category"] = [{"coding": [{"code": category}]}]
    body = json.dumps(document).encode()
    taken = Intake().take(body, kinds.KINDS[type_])
    when = None if taken.time is None else clock.from_ms(taken.time)
    return Record(
        pk=1,
        local_id=local_id,
        connection_id=connection_id,
        type=type_,
        remote_id="x",
        version=1,
        received_at=datetime(2026, 11, 22, tzinfo=UTC),
        when=when,
        labels=labels,
        withdrawn=withdrawn,
        body=body,
    )
