"""A hospital on loopback that answers every question 50 ms late: the other end of `pipeline`.

Run as `python -m phr.bench.slow_hospital FILE PAGES`: FILE holds received records as NDJSON, dealt
out as PAGES pages to each kind of KINDS; prints its port.
"""

import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from phr.bench import corpus

DELAY = 0.05  # seconds before each answer
PAGE = 100  # records a page
KINDS = (
    "Observation",
    "Condition",
    "Encounter",
    "Procedure",
    "Immunization",
    "DiagnosticReport",
    "MedicationRequest",
    "AllergyIntolerance",
)


def answers(bodies: list[bytes], pages: int) -> dict[tuple[str, int], bytes]:
    """Return the answer to each (kind, page number)."""
    made = {("Patient", 0): b'{"resourceType":"Patient","id":"%s"}' % corpus.PATIENT.encode()}
    for place, kind in enumerate(KINDS):
        for page in range(pages):
            begin = (place * pages + page) * PAGE
            more = f"{kind}?page={page + 1}" if page + 1 < pages else None
            made[kind, page] = corpus.bundle(bodies[begin : begin + PAGE], more, pages * PAGE)
    return made


def handler(ready: Mapping[tuple[str, int], bytes]) -> type[BaseHTTPRequestHandler]:
    """Return a handler that serves what is ready, and an empty page for all else."""
    nothing = corpus.bundle([])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            time.sleep(DELAY)
            parts = urlsplit(self.path)
            kind = parts.path.split("/")[2]
            page = dict(parse_qsl(parts.query)).get("page", "0")
            body = ready.get((kind, int(page)), nothing)
            head = f"HTTP/1.1 {HTTPStatus.OK} OK\r\nContent-Type: application/fhir+json\r\n"
            self.wfile.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def main(path: Path, pages: int) -> None:
    """Serve until ended."""
    ready = answers(path.read_bytes().splitlines(), pages)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(ready))
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
