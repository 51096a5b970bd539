"""A grant's life: draft, approved with a fresh factor, extended, narrowed, paused, ended."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from phr import clock, ids
from phr.errors import Conflict, InvalidInput, StepUpNeeded
from phr.sharing import gate, grants, links
from phr.sharing import provision as policy
from phr.sharing.grants import StepUp
from phr.store import audit
from phr.store.models import Approval, Grant, GrantState, Handle, HandleState, RecipientKind
from tests.fixtures_sharing import ADA, Share, share

__all__ = ["share"]


def drafted(share: Share, session: Any, **more: Any) -> Grant:
    return links.draft(
        session,
        share.wish(**more),
        RecipientKind.LINK,
        ADA,
        grant_id=ids.new_id(),
        now=clock.now(),
    )


def state_of(share: Share, grant_id: str) -> str:
    with share.vault.read() as session:
        return grants.get(session, grant_id).state


def events(share: Share, grant_id: str) -> list[str]:
    with share.vault.read() as session:
        return [entry.event for entry in audit.entries(session, grant_id=grant_id)]


def test_a_draft_needs_a_factor_of_the_last_five_minutes(share: Share) -> None:
    now = clock.now()
    stale = StepUp("ada", "password", now - timedelta(minutes=5, seconds=1))

    def approve() -> None:
        with share.vault.write() as session:
            grant = drafted(share, session)
            grants.approve(
                session, share.vault, grant, step_up=stale, shown="x", actor=ADA, now=now
            )

    with pytest.raises(StepUpNeeded):
        approve()
    with share.vault.read() as session:
        assert grants.standing(session) == []


def test_the_approval_keeps_factor_and_hash_of_exactly_what_was_shown(share: Share) -> None:
    link = share.link()
    with share.vault.read() as session:
        approval = session.query(Approval).one()
    assert approval.grant_id == link.grant_id
    assert approval.factor == "password"
    assert approval.shown == "what was shown"
    assert approval.shown_hash == ids.fingerprint("what was shown")


def test_an_ended_grant_never_comes_back(share: Share) -> None:
    link = share.link()
    now = clock.now()
    assert gate.end(share.vault, link.grant_id, "patient", ADA, now=now)
    fresh = StepUp("ada", "password", now)
    given = {"step_up": fresh, "shown": "x", "actor": ADA, "now": now}
    for change in (grants.approve, grants.resume):
        with pytest.raises(Conflict), share.vault.write() as session:
            change(session, share.vault, grants.get(session, link.grant_id), **given)

    def extend() -> None:
        with share.vault.write() as session:
            grant = grants.get(session, link.grant_id)
            grants.extend(session, share.vault, grant, now + timedelta(days=2), **given)

    with pytest.raises(Conflict):
        extend()
    assert state_of(share, link.grant_id) == GrantState.ENDED


def test_ending_twice_writes_one_line_and_ends_the_handle(share: Share) -> None:
    link = share.link()
    assert gate.end(share.vault, link.grant_id, "patient", ADA, now=clock.now())
    assert not gate.end(share.vault, link.grant_id, "patient", ADA, now=clock.now())
    assert events(share, link.grant_id) == ["grant.ended", "grant.approved"]
    with share.vault.read() as session:
        assert session.get_one(Handle, link.handle_id).state == HandleState.ENDED


def test_the_house_remembers_an_ended_grant(share: Share) -> None:
    link = share.link()
    gate.end(share.vault, link.grant_id, "patient", ADA, now=clock.now())
    assert link.grant_id in share.home.house.buried("grant")


def test_a_grant_that_a_backup_brought_back_is_ended_at_opening(share: Share) -> None:
    link = share.link()
    share.home.house.bury("grant", link.grant_id)  # the house knows; the vault is older
    gate.reconcile(share.vault, now=clock.now())
    assert state_of(share, link.grant_id) == GrantState.ENDED
    with share.vault.read() as session:
        assert grants.get(session, link.grant_id).ended_because == "restored"


def test_a_crash_between_vault_and_house_is_mended_at_opening(share: Share) -> None:
    link = share.link()
    with share.vault.write() as session:  # the vault ended it, then the process died
        grants.end(session, share.vault, link.grant_id, "patient", actor=ADA, now=clock.now())
    assert link.grant_id not in share.home.house.buried("grant")
    gate.reconcile(share.vault, now=clock.now())
    assert link.grant_id in share.home.house.buried("grant")


def test_time_runs_out_by_itself(share: Share) -> None:
    link = share.link(ends_at=clock.now() + timedelta(hours=1))
    assert gate.expire(share.vault, now=clock.now()) == 0
    assert gate.expire(share.vault, now=clock.now() + timedelta(hours=1)) == 1
    with share.vault.read() as session:
        assert grants.get(session, link.grant_id).ended_because == "time"


@pytest.mark.parametrize("days", [0, -1, 31])
def test_the_end_lies_within_thirty_days(share: Share, days: int) -> None:
    with pytest.raises(InvalidInput):
        share.link(ends_at=clock.now() + timedelta(days=days))


def test_extending_needs_a_fresh_factor_and_never_passes_thirty_days(share: Share) -> None:
    link = share.link()
    now = clock.now()
    stale = StepUp("ada", "password", now - timedelta(hours=1))
    fresh = StepUp("ada", "totp", now)

    def extend(step_up: StepUp, days: int) -> None:
        with share.vault.write() as session:
            grants.extend(
                session,
                share.vault,
                grants.get(session, link.grant_id),
                now + timedelta(days=days),
                step_up=step_up,
                shown="longer",
                actor=ADA,
                now=now,
            )

    with pytest.raises(StepUpNeeded):
        extend(stale, 7)
    with pytest.raises(InvalidInput):
        extend(fresh, 31)
    extend(fresh, 7)
    with share.vault.read() as session:
        assert grants.get(session, link.grant_id).ends_at > now + timedelta(days=6)
        assert [each.factor for each in grants.approvals(session, link.grant_id)] == [
            "totp",
            "password",
        ]


def test_narrowing_asks_nothing_and_widening_is_refused(share: Share) -> None:
    link = share.link()

    def narrow(change: Callable[[policy.Provision], policy.Provision]) -> None:
        with share.vault.write() as session:
            grant = grants.get(session, link.grant_id)
            before = policy.from_json(grant.provision)
            grants.narrow(session, share.vault, grant, change(before), ADA)

    narrow(lambda before: replace(before, rules=before.rules[:1]))
    with pytest.raises(InvalidInput):
        narrow(lambda _: policy.preset("app", now=clock.now()))
    with share.vault.read() as session:
        assert len(policy.from_json(grants.get(session, link.grant_id).provision).rules) == 1


def test_a_form_sent_twice_makes_one_grant(share: Share) -> None:
    now = clock.now()
    given: dict[str, Any] = {
        "grant_id": ids.new_id(),
        "step_up": StepUp("ada", "password", now),
        "shown": "x",
        "actor": ADA,
        "public_url": "http://127.0.0.1:8081",
        "now": now,
    }
    links.make(share.vault, share.wish(), **given)
    with pytest.raises(Conflict):
        links.make(share.vault, share.wish(), **given)
    with share.vault.read() as session:
        assert len(grants.standing(session)) == 1


def test_a_name_with_line_breaks_and_markup_becomes_one_cut_line(share: Share) -> None:
    link = share.link(recipient="Dr. <b>Pell</b>\r\nBcc: x\x00" + "y" * 10_000, reason="a\nb" * 500)
    with share.vault.read() as session:
        grant = grants.get(session, link.grant_id)
        name = gate.actor_of(session, grant)["name"]
    assert name.startswith("Dr. <b>Pell</b> Bcc: x y")
    assert len(name) <= 120
    assert grant.reason is not None
    assert len(grant.reason) <= 200
    assert "\n" not in name + grant.reason


def test_nobody_is_no_recipient(share: Share) -> None:
    with pytest.raises(InvalidInput):
        share.link(recipient=" \n\t ")


def test_the_audit_chain_stays_sound(share: Share) -> None:
    link = share.link()
    share.claimed(link)
    gate.end(share.vault, link.grant_id, "patient", ADA, now=clock.now())
    with share.vault.read() as session:
        assert audit.verify(session, share.vault) == []
