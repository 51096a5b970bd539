"""Log lines: one a line, ids only, and nothing that a library says leaks."""

import io
import logging

import pytest

from phr import logs
from phr.errors import Sealed

log = logging.getLogger("phr.test")


@pytest.fixture
def lines() -> io.StringIO:
    kept = logging.getLogger().handlers[:], logging.getLogger().level
    stream = io.StringIO()
    logs.configure("info", stream)
    yield stream
    root = logging.getLogger()
    root.handlers[:] = kept[0]
    root.setLevel(kept[1])


def test_an_event_is_one_line_of_keys_and_values(lines: io.StringIO) -> None:
    logs.event(log, "pull.done", pull=7, connection="c1", seconds=1.5, ok=True)
    (line,) = lines.getvalue().splitlines()
    assert line.startswith("at=20")
    assert line.endswith(
        "level=info from=phr.test event=pull.done pull=7 connection=c1 seconds=1.5 ok=True"
    )


@pytest.mark.parametrize(
    "value", ["Ada Lovelace", "a\nb", 'x"y', "x" * 161, "https://h/?q=1", "é="]
)
def test_a_value_that_is_no_identifier_is_cut(lines: io.StringIO, value: str) -> None:
    logs.event(log, "x", value=value)
    assert value not in lines.getvalue()
    assert "value=[cut]" in lines.getvalue()


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("GET https://h.example/Patient?name=canary HTTP/1.1", "canary"),
        ("GET /s/0123456789abcdef.canary-secret", "canary"),
        ("Authorization: Bearer canary.token", "canary"),
        ("https://ada:canary@h.example/", "canary"),
        ("code aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3bC5dE7fG9h", "aB3dE5gH7"),
    ],
)
def test_foreign_lines_lose_queries_links_and_tokens(
    lines: io.StringIO, text: str, leak: str
) -> None:
    logging.getLogger("foreign").warning(text)
    assert leak not in lines.getvalue()
    assert "[cut]" in lines.getvalue()


def test_ids_of_ours_stay_readable_in_foreign_lines(lines: io.StringIO) -> None:
    logging.getLogger("foreign").warning("vault %s", "0123456789abcdef" * 2)
    assert "0123456789abcdef" * 2 in lines.getvalue()


def test_a_line_cannot_be_forged(lines: io.StringIO) -> None:
    logging.getLogger("foreign").warning('a\nat=x level=info event="forged"\u2028b')
    assert len(lines.getvalue().splitlines()) == 1
    assert '"forged"' not in lines.getvalue()


def fail(error: Exception) -> None:
    raise error


def test_an_exception_shows_places_not_messages(lines: io.StringIO) -> None:
    for error in (ValueError("canary: Ada has asthma"), Sealed()):
        try:
            fail(error)
        except (ValueError, Sealed):
            log.exception("failed")
    first, second = lines.getvalue().splitlines()
    assert "canary" not in first
    assert "error=ValueError places=test_an_exception_shows_places_not_messages:" in first
    assert "error=Sealed" in second
    assert "It opens when a member signs in" in second


def test_chatty_libraries_are_quiet(lines: io.StringIO) -> None:
    for name in logs.QUIET:
        logging.getLogger(name).info("canary")
    logs.event(log, "x", logging.DEBUG)
    assert lines.getvalue() == ""
