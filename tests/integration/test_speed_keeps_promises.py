"""What was made quicker still holds: who hears when, what is escaped, which answers wait."""

import asyncio
import socket
import threading

import pytest

from phr import clock, views
from phr.cli.serve import _bind
from phr.sharing import endings, gate
from phr.views import Context
from tests.fixtures_records import NOW, as_records, concept
from tests.fixtures_sharing import ADA, Share, share

__all__ = ["share"]


def test_the_bell_rings_once_the_vault_has_committed_whatever_the_house_waits_for(
    share: Share,
) -> None:
    grant_id = share.link().grant_id
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with share.vault.house.write():
            held.set()
            over.wait(30)

    async def told() -> bool:
        with endings.watch(grant_id) as watch:
            ending.start()
            return await watch.ended(20)

    ending = threading.Thread(
        target=lambda: gate.end(share.vault, grant_id, "patient", ADA, now=clock.now())
    )
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    try:
        assert asyncio.run(told())
        assert ending.is_alive(), "the house was not busy, so nothing was proved"
    finally:
        over.set()
        holder.join()
        ending.join()
    assert grant_id in share.vault.house.buried("grant")


def test_an_ending_that_was_rolled_back_rings_no_bell(share: Share) -> None:
    rung: list[str] = []

    def fail() -> None:
        with share.vault.write() as session:
            session.info["after"] = [lambda: rung.append("rung")]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with share.vault.write():
        pass
    assert rung == []


def test_a_listener_sends_small_answers_at_once() -> None:
    with _bind("127.0.0.1", 0) as bound:  # asyncio looks at the protocol: see _bind
        assert bound.proto == socket.IPPROTO_TCP


def test_each_text_of_the_timeline_stays_in_its_own_row_and_escaped() -> None:
    hostile = as_records(
        {
            "resourceType": "Condition",
            "code": concept("<b>one</b>\nsecond\u202eline"),
            "onsetDateTime": "2026",
        },
        {
            "resourceType": "Condition",
            "code": concept("two & more"),
            "onsetDateTime": "<i>\nonce",
        },
        {"resourceType": "Condition", "code": concept("three"), "onsetDateTime": "2024"},
    )
    context = Context({}, NOW, link=lambda one: f'/x"{one.pk}')
    html = views.show(views.VIEWS["timeline"], hostile, context).body
    assert html.count('<li class="row">') == 3
    assert "&lt;b&gt;one&lt;/b&gt; second[U+202E]line</a>" in html
    assert "two &amp; more" in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert 'href="/x&#34;' in html
