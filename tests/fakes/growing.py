"""A hospital as a program of its own, whose records grow when it is told to.

    python -m tests.fakes.growing         prints its base address, serves until its input ends

What it serves is a function of kind, number and version, so anybody can say what it has sent.
`GET /fhir/grow` adds and changes records, `GET /fhir/told` says how many versions each has by now.
"""

import json
import sys
from hashlib import sha256
from threading import Lock
from typing import Final

from tests.fakes.hospital import FHIR, PATIENT, Exchange, Hospital, patient
from tests.fixtures_net import plain

KINDS: Final = ("Observation", "Condition", "MedicationRequest")
AT_FIRST, MORE, CHANGED = 120, 30, 7
PAGE: Final = 20


def resource(kind: str, number: int, version: int) -> bytes:
    """The bytes of one version of one record, the same each time."""
    return (
        b'{"resourceType":"%b","id":"%b-%d","meta":{"versionId":"%d"},"status":"active",'
        b'"subject":{"reference":"Patient/%b"},"code":{"text":"Thing %d, told %d times"},'
        b'"recorded":"2024-01-%02d"}'
    ) % (
        kind.encode(),
        kind.lower().encode(),
        number,
        version,
        PATIENT.encode(),
        number % 50,
        version,
        number % 28 + 1,
    )


def name_of(body: bytes) -> str:
    """How the oracle names some received bytes."""
    return sha256(body).hexdigest()[:32]


def told(versions: dict[str, list[int]]) -> dict[str, str]:
    """Every version that was ever served, by its name, as "Kind/id"; the Patient too."""
    found = {
        name_of(resource(kind, number, version)): f"{kind}/{kind.lower()}-{number}"
        for kind, last in versions.items()
        for number, newest in enumerate(last)
        for version in range(1, newest + 1)
    }
    return found | {name_of(patient()): f"Patient/{PATIENT}"}


class Growing:
    """The hospital and what it has told so far: kind -> newest version of each number."""

    def __init__(self) -> None:
        self.versions: dict[str, list[int]] = {kind: [1] * AT_FIRST for kind in KINDS}
        self._lock = Lock()
        self.hospital = Hospital(page=PAGE)
        self.hospital.behaviours = {"grow": self._grow, "told": self._told}
        self._offer()

    def _offer(self) -> None:
        self.hospital.records = {"Patient": [patient()]} | {
            kind: [resource(kind, number, version) for number, version in enumerate(last)]
            for kind, last in self.versions.items()
        }

    def _grow(self, exchange: Exchange) -> bool:
        with self._lock:
            for last in self.versions.values():
                for number in range(len(last) % 11, len(last), len(last) // CHANGED):
                    last[number] += 1
                last.extend([1] * MORE)
            self._offer()
        return self._told(exchange)

    def _told(self, exchange: Exchange) -> bool:
        exchange.send(plain(json.dumps(self.versions).encode(), "200 OK", FHIR))
        return True


def main() -> None:
    growing = Growing()
    sys.stdout.write(growing.hospital.base + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    growing.hospital.close()


if __name__ == "__main__":
    main()
