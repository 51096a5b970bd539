"""Deliveries: queued, sending, sent; put off, stopped, failed; and what a crash leaves behind."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from phr import clock, ids, push
from phr.errors import DeliveryFailed, InvalidInput, StepUpNeeded
from phr.sharing import channels, gate, outbox
from phr.sharing import provision as policy
from phr.sharing.channels import CHANNELS
from phr.sharing.channels.base import Channel, Parcel, Part, Receipt
from phr.sharing.channels.folder import Folder
from phr.sharing.grants import StepUp
from phr.store import audit
from phr.store.models import Delivery, DeliveryState
from tests.fixtures_sharing import ADA, PUBLIC_URL, Share, share

__all__ = ["share"]
NAME = "for Dr Pell"


@pytest.fixture
def ways(tmp_path: Path) -> dict[str, Channel]:
    return dict(channels.opened(tmp_path / "data" / "outbox"))


class Flaky(Folder):
    """A folder that does something before it sends, such as failing."""

    def __init__(self, outbox_folder: Path, before: Callable[[], None]) -> None:
        super().__init__(outbox_folder)
        self.before = before

    def send(self, parcel: Parcel, address: str) -> Receipt:
        self.before()
        return super().send(parcel, address)


def queued(share: Share, ways: Mapping[str, Channel], **more: Any) -> str:
    now = clock.now()
    return push.begin(
        share.vault,
        share.wish(**more),
        channel=ways["folder"],
        address=NAME,
        grant_id=ids.new_id(),
        step_up=StepUp("ada", "password", now),
        shown="x",
        actor=ADA,
        now=now,
    )


def deliver(share: Share, ways: Mapping[str, Channel], delivery_id: str, **more: Any) -> str:
    given = {"channels": ways, "public_url": PUBLIC_URL, "now": clock.now()}
    return push.deliver(share.vault, delivery_id, **{**given, **more})


def row(share: Share, delivery_id: str) -> Delivery:
    with share.vault.read() as session:
        return session.get_one(Delivery, delivery_id)


def sent_files(tmp_path: Path) -> list[Path]:
    return sorted(each for each in (tmp_path / "data" / "outbox").rglob("*") if each.is_file())


def events(share: Share, grant_id: str) -> list[str]:
    with share.vault.read() as session:
        return [each.event for each in audit.entries(session, grant_id=grant_id)][::-1]


def test_a_queued_delivery_is_sent_and_settled(
    share: Share, ways: dict[str, Channel], tmp_path: Path
) -> None:
    delivery_id = queued(share, ways)
    assert push.run_due(share.vault, channels=ways, public_url=PUBLIC_URL, now=clock.now()) == 1
    done = row(share, delivery_id)
    assert done.state == DeliveryState.SENT
    assert done.receipt is not None
    assert done.receipt["folder"] == f"{NAME}-{delivery_id}"
    page, bundle, *signed = sent_files(tmp_path)
    assert [each.name for each in signed] == ["signed.json", "signed.jws"]
    assert json.loads(bundle.read_bytes())["resourceType"] == "Bundle"
    assert b"Juniper Sample" in page.read_bytes()
    assert b"Hidden" not in page.read_bytes() + bundle.read_bytes()
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert events(share, done.grant_id) == [
        "grant.approved",
        "delivery.queued",
        "delivery.released",
        "delivery.sent",
    ]
    assert push.run_due(share.vault, channels=ways, public_url=PUBLIC_URL, now=clock.now()) == 0


def test_revoked_grant_stops_a_queued_delivery(
    share: Share, ways: dict[str, Channel], tmp_path: Path
) -> None:
    delivery_id = queued(share, ways)
    gate.end(share.vault, row(share, delivery_id).grant_id, "patient", ADA, now=clock.now())
    assert row(share, delivery_id).state == DeliveryState.STOPPED
    assert deliver(share, ways, delivery_id) == DeliveryState.STOPPED
    assert sent_files(tmp_path) == []


def test_revoked_grant_stops_a_delivery_already_claimed(
    share: Share, ways: dict[str, Channel], tmp_path: Path
) -> None:
    delivery_id = queued(share, ways)
    grant_id = row(share, delivery_id).grant_id
    before = row(share, delivery_id)

    def end_after_the_claim() -> None:
        assert row(share, delivery_id).state == DeliveryState.SENDING
        gate.end(share.vault, grant_id, "patient", ADA, now=clock.now())

    ways["folder"] = Flaky(tmp_path / "data" / "outbox", end_after_the_claim)
    assert before.state == DeliveryState.QUEUED
    assert deliver(share, ways, delivery_id) == DeliveryState.STOPPED
    assert sent_files(tmp_path) == []
    assert events(share, grant_id)[-1] == "delivery.stopped"


def test_an_expired_grant_sends_nothing(
    share: Share, ways: dict[str, Channel], tmp_path: Path
) -> None:
    delivery_id = queued(share, ways, ends_at=clock.now() + timedelta(hours=1))
    later = clock.now() + timedelta(hours=2)
    assert deliver(share, ways, delivery_id, now=later) == DeliveryState.STOPPED
    assert sent_files(tmp_path) == []


def test_a_failure_is_put_off_with_growing_waits_and_ends_at_last(
    share: Share, ways: dict[str, Channel], tmp_path: Path
) -> None:
    def fail() -> None:
        raise DeliveryFailed("The disk is full.")

    ways["folder"] = Flaky(tmp_path / "data" / "outbox", fail)
    delivery_id = queued(share, ways, ends_at=clock.now() + timedelta(days=30))
    now = clock.now()
    waits = []
    for _ in range(outbox.ATTEMPTS - 1):
        assert deliver(share, ways, delivery_id, now=now) == DeliveryState.QUEUED
        due = row(share, delivery_id).next_attempt_at
        assert due is not None
        waits.append((due - now) / timedelta(minutes=1))
        assert deliver(share, ways, delivery_id, now=now) == DeliveryState.QUEUED  # not due yet
        assert row(share, delivery_id).attempts == len(waits)
        now = due
    assert [round(each) for each in waits] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert deliver(share, ways, delivery_id, now=now) == DeliveryState.FAILED
    assert row(share, delivery_id).sentence == "The disk is full."


def test_a_permanent_failure_is_not_tried_again(
    share: Share, ways: dict[str, Channel], tmp_path: Path
) -> None:
    def fail() -> None:
        raise DeliveryFailed("No such address.", permanent=True)

    ways["folder"] = Flaky(tmp_path / "data" / "outbox", fail)
    delivery_id = queued(share, ways)
    assert deliver(share, ways, delivery_id) == DeliveryState.FAILED
    assert row(share, delivery_id).attempts == 1


def test_a_way_that_is_not_installed_any_more_fails_for_good(
    share: Share, ways: dict[str, Channel]
) -> None:
    delivery_id = queued(share, ways)
    assert deliver(share, {}, delivery_id) == DeliveryState.FAILED


def test_a_paused_grant_waits(share: Share, ways: dict[str, Channel], tmp_path: Path) -> None:
    delivery_id = queued(share, ways)
    gate.suspend(share.vault, row(share, delivery_id).grant_id, ADA)
    assert deliver(share, ways, delivery_id) == DeliveryState.QUEUED
    assert sent_files(tmp_path) == []


def test_two_workers_send_one_delivery_once(
    share: Share, ways: dict[str, Channel], tmp_path: Path
) -> None:
    delivery_id = queued(share, ways)
    seen: list[str] = []

    def another_worker() -> None:
        seen.append(deliver(share, ways, delivery_id))

    ways["folder"] = Flaky(tmp_path / "data" / "outbox", another_worker)
    assert deliver(share, ways, delivery_id) == DeliveryState.SENT
    assert seen == [DeliveryState.SENDING]
    assert row(share, delivery_id).attempts == 1


def test_a_crash_while_sending_is_tried_again_where_that_does_no_harm(
    share: Share, ways: dict[str, Channel], tmp_path: Path
) -> None:
    delivery_id = queued(share, ways)
    with share.vault.write() as session:
        outbox.claim(session, delivery_id, now=clock.now())  # and here the process died
    with share.vault.write() as session:
        outbox.recover(session, share.vault, ways, now=clock.now())
    assert row(share, delivery_id).state == DeliveryState.QUEUED
    assert deliver(share, ways, delivery_id) == DeliveryState.SENT
    assert deliver(share, ways, delivery_id) == DeliveryState.SENT
    assert len(sent_files(tmp_path)) == 4


def test_a_crash_while_sending_is_uncertain_where_twice_would_be_two(
    share: Share, ways: dict[str, Channel]
) -> None:
    class Postbox(Folder):
        repeatable = False

    delivery_id = queued(share, ways)
    with share.vault.write() as session:
        outbox.claim(session, delivery_id, now=clock.now())
    with share.vault.write() as session:
        outbox.recover(session, share.vault, {"folder": Postbox(Path("unused"))}, now=clock.now())
    left = row(share, delivery_id)
    assert left.state == DeliveryState.UNCERTAIN
    assert left.sentence is not None
    assert "may have arrived" in left.sentence


def test_queueing_needs_a_fresh_factor_and_a_good_address(
    share: Share, ways: dict[str, Channel]
) -> None:
    now = clock.now()
    given = {
        "channel": ways["folder"],
        "grant_id": ids.new_id(),
        "shown": "x",
        "actor": ADA,
        "now": now,
    }
    fresh, stale = StepUp("ada", "password", now), StepUp("ada", "password", now - timedelta(1))
    with pytest.raises(StepUpNeeded):
        push.begin(share.vault, share.wish(), address=NAME, step_up=stale, **given)
    for address in ("", "../up", "a/b", "x" * 61, ".hidden", "a\nb"):
        with pytest.raises(InvalidInput):
            push.begin(share.vault, share.wish(), address=address, step_up=fresh, **given)
    with share.vault.read() as session:
        assert session.query(Delivery).all() == []


def test_a_grant_without_download_is_not_delivered(
    share: Share, ways: dict[str, Channel], tmp_path: Path
) -> None:
    rules = policy.preset("emergency", now=clock.now()).rules
    delivery_id = queued(share, ways, provision=policy.Provision(rules))
    assert deliver(share, ways, delivery_id) == DeliveryState.QUEUED
    assert sent_files(tmp_path) == []


# ------------------------------------------------------------------ every channel's own contract


@pytest.mark.parametrize("kind", sorted(CHANNELS))
class TestEveryChannel:
    """What `channels.base.Channel` promises, for each row of the table."""

    def channel(self, kind: str, tmp_path: Path) -> Channel:
        return channels.opened(tmp_path / "outbox")[kind]

    def parcel(self, chunks: Iterator[bytes]) -> Parcel:
        return Parcel("0" * 32, (Part("record.json", "application/fhir+json", chunks),))

    def test_it_names_itself(self, kind: str, tmp_path: Path) -> None:
        channel = self.channel(kind, tmp_path)
        assert channel.kind == kind
        assert channel.title
        assert channel.address_label

    def test_it_says_what_is_wrong_with_an_address(self, kind: str, tmp_path: Path) -> None:
        assert all(each.endswith(".") for each in self.channel(kind, tmp_path).problems("\x00"))
        assert self.channel(kind, tmp_path).problems("\x00")

    def test_a_parcel_that_ends_midway_leaves_nothing_half_sent(
        self, kind: str, tmp_path: Path
    ) -> None:
        from phr.errors import Ended

        def chunks() -> Iterator[bytes]:
            yield b"half"
            raise Ended

        with pytest.raises(Ended):
            self.channel(kind, tmp_path).send(self.parcel(chunks()), NAME)
        assert [each for each in tmp_path.rglob("*") if each.is_file()] == []

    def test_the_world_refusing_becomes_a_delivery_failed(self, kind: str, tmp_path: Path) -> None:
        (tmp_path / "outbox").write_text("in the way")
        with pytest.raises(DeliveryFailed):
            self.channel(kind, tmp_path).send(self.parcel(iter([b"x"])), NAME)

    def test_sending_twice_is_sending_once_where_it_says_so(
        self, kind: str, tmp_path: Path
    ) -> None:
        channel = self.channel(kind, tmp_path)
        if channel.repeatable:
            for _ in range(2):
                assert channel.send(self.parcel(iter([b"x"])), NAME).facts
            assert len([each for each in tmp_path.rglob("*") if each.is_file()]) == 1
