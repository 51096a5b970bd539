"""The audit log in sentences: every event has words, and nothing in it can break them."""

from typing import Any

import pytest

from phr import clock
from phr.cli.commands import AT_THE_SHELL
from phr.sharing import activity
from phr.store.models import AuditEntry

PELL = {"kind": "recipient", "id": "r", "name": "Dr. Pell"}
ADA = {"kind": "account", "id": "ada", "name": "Ada"}
HOMEPORT = {"kind": "appliance"}


def line(event: str, actor: dict[str, str], **detail: Any) -> activity.Line:
    entry = AuditEntry(seq=1, at=clock.now(), event=event, actor=actor, grant_id="g", detail=detail)
    return activity.line(entry, {"g": "Dr. Pell"}, "ada")


@pytest.mark.parametrize("event", sorted(activity.EVENTS))
def test_every_event_is_a_whole_sentence(event: str) -> None:
    shown = line(event, PELL, left=4, records=12, browser="Firefox", until="2026-11-22T10:00:00Z")
    assert shown.what.endswith(".")
    assert "{" not in shown.what + shown.aside


def test_an_event_without_words_still_gets_a_line() -> None:
    shown = line("vault.rekeyed", HOMEPORT)
    assert (shown.who, shown.what) == ("Homeport", "did “vault rekeyed”.")


def test_a_wrong_code_is_somebody_and_not_the_doctor() -> None:
    shown = line("link.wrong_code", PELL, left=1, browser="Firefox on Linux")
    assert shown.who == ""
    assert shown.what == "Somebody typed a wrong code for the link of Dr. Pell. 1 try left."
    assert shown.aside == "on Firefox on Linux · nothing was shown"


def test_you_are_you_and_others_have_names() -> None:
    assert line("grant.ended", ADA, because="patient").who == "You"
    assert line("grant.ended", {**ADA, "id": "ben", "name": "Ben"}, because="patient").who == "Ben"


def test_time_and_not_the_appliance_ends_a_grant() -> None:
    shown = line("grant.ended", HOMEPORT, because="time")
    assert (shown.what, shown.aside) == ("ended what Dr. Pell could see.", "the time had run out")


@pytest.mark.parametrize(
    "detail", [{"left": "x"}, {"records": None}, {"until": 3}, {"section": []}]
)
def test_odd_details_break_nothing(detail: dict[str, Any]) -> None:
    for event in activity.EVENTS:
        assert line(event, PELL, **detail).what


def test_braces_in_a_name_stay_braces() -> None:
    shown = activity.line(
        AuditEntry(
            seq=1,
            at=clock.now(),
            event="grant.ended",
            actor=ADA,
            grant_id="g",
            detail={"because": "patient"},
        ),
        {"g": "Dr. {factor} %s"},
        "ada",
    )
    assert shown.what == "stopped sharing with Dr. {factor} %s."


@pytest.mark.parametrize(
    ("places", "said"),
    [({3: "Saltmarsh"}, "asked Saltmarsh for news."), ({}, "asked a source for")],
)
def test_a_pull_names_the_place_and_not_its_number(places: dict[int, str], said: str) -> None:
    entry = AuditEntry(
        seq=1, at=clock.now(), event="pull.done", actor=HOMEPORT, detail={"connection": 3}
    )
    assert activity.line(entry, {}, None, places).what.startswith(said)


def test_removing_a_connection_says_what_became_of_its_records() -> None:
    assert line("connection.removed", ADA, connection=1, records="kept").aside == (
        "its records are kept"
    )


def test_a_record_was_only_asked_for_because_it_may_not_be_there() -> None:
    shown = line("link.viewed", PELL, section="record", type="Condition")
    assert shown.what == "asked for one record: problems."
    assert line("link.file", PELL, section="record").what == "asked for a file of one record."


def test_who_became_a_member_and_who_is_none_any_more_is_named_with_the_role() -> None:
    added = line("member.added", ADA, member="Ben", role="viewer")
    removed = line("member.removed", ADA, member="Ben", role="proxy")
    assert (added.who, added.what, added.aside) == ("You", "added Ben.", "may look")
    assert removed.what == "removed Ben."
    assert removed.aside == "until then: may change and share · the record has a new key"


def test_a_line_from_before_names_were_written_down_still_is_a_sentence() -> None:
    shown = line("member.removed", ADA)
    assert (shown.what, shown.aside) == ("removed a member.", "the record has a new key")


def test_what_was_stopped_at_the_shell_is_not_said_of_homeport() -> None:
    shown = line("grant.ended", AT_THE_SHELL, because="patient")
    assert f"{shown.who} {shown.what}" == (
        "The command line on this machine stopped sharing with Dr. Pell."
    )
