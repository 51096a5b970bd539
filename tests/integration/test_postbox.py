"""A patient's own side of Direct: address, certificates, whom to trust, and bundles of anchors."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
    pkcs12,
)

from phr import clock, push
from phr.errors import InvalidInput, NotFound, TrustError
from phr.http import Http
from phr.net import Guard
from phr.sharing import postbox
from phr.sharing.channels import bundles, identity, trust
from phr.sharing.channels.trust import Bound, Purpose
from phr.store import audit
from phr.store.models import Anchor, Direction, MailMode, TrustBundle
from tests.fixtures_direct import DAY, Authority, der
from tests.fixtures_net import RawServer, Reply, plain, raw_server
from tests.fixtures_sharing import ADA, Share, share

__all__ = ["raw_server", "share"]
ADDRESS = "juniper@home.test"


def wanted(address: str = ADDRESS, mode: MailMode = MailMode.STA, **more: object) -> postbox.Wanted:
    given = {"smtp_host": "mail.home.test", "smtp_port": 25, **more}
    return postbox.Wanted(address, mode, **given)  # type: ignore[arg-type] # given as a table


def set_up(share: Share, want: postbox.Wanted | None = None) -> None:
    with share.vault.write() as session:
        postbox.set_up(session, share.vault, want or wanted(), ADA, now=clock.now())


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


# ----------------------------------------------------------------------------- the own certificates


def test_setting_up_makes_a_root_and_a_certificate_that_others_accept(share: Share) -> None:
    set_up(share)
    with share.vault.read() as session:
        own, chain = postbox.current(session), postbox.chain(session)
        box = postbox.get(session)
        assert box is not None
        assert postbox.who_reads(box.mode) == postbox.READ_BY_NOBODY
    assert own is not None
    for purpose in Purpose:
        verdict = trust.judge(
            own.certificate,
            address=ADDRESS,
            purpose=purpose,
            anchors=chain,
            fetch=lambda _: b"",
            now=clock.now(),
        )
        assert verdict.trusted, verdict.sentence
    assert trust.binding(own.certificate, ADDRESS) is Bound.ADDRESS
    assert len(identity.fingerprint(own.certificate)) == 95
    assert not postbox.is_due(own.certificate, now=clock.now())
    assert postbox.is_due(own.certificate, now=clock.now() + timedelta(days=700))


def test_openssl_accepts_what_we_make(share: Share, tmp_path: Path) -> None:
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    set_up(share)
    with share.vault.read() as session:
        own, chain = postbox.current(session), postbox.chain(session)
    assert own is not None
    (tmp_path / "root.pem").write_bytes(pem(chain[0]))
    (tmp_path / "own.pem").write_bytes(pem(own.certificate))
    for purpose in ("smimesign", "smimeencrypt"):
        asked = [openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.pem"]
        subprocess.run([*asked, "own.pem"], cwd=tmp_path, check=True, capture_output=True)


def test_rotating_makes_a_new_key_below_the_same_root_and_the_old_one_still_opens(
    share: Share,
) -> None:
    set_up(share)
    with share.vault.read() as session:
        before, chain = postbox.current(session), postbox.chain(session)
    with share.vault.write() as session:
        made = postbox.rotate(session, share.vault, ADA, now=clock.now())
    with share.vault.read() as session:
        assert postbox.chain(session) == chain  # correspondents need not be asked again
        assert postbox.current(session).certificate == made.certificate  # type: ignore[union-attr]
        held = [each.certificate for each in postbox.identities(session)]
    assert before is not None
    assert held == [made.certificate, before.certificate]
    assert made.certificate.public_key() != before.certificate.public_key()


def test_settings_saved_again_keep_certificates_and_passwords(share: Share) -> None:
    login = {"smtp_login": "me", "smtp_password": "secret"}
    set_up(share, wanted(**login))
    with share.vault.read() as session:
        before = postbox.identities(session)
    set_up(share, wanted(smtp_login="me"))
    with share.vault.read() as session:
        box = postbox.get(session)
        assert box is not None
        assert box.smtp_password == "secret"
        assert "secret" not in repr(postbox.server(box))
        assert [each.certificate for each in postbox.identities(session)] == [
            each.certificate for each in before
        ]
    set_up(share)
    with share.vault.read() as session:
        box = postbox.get(session)
        assert box is not None
        assert box.smtp_password is None  # without a login it is forgotten
    set_up(share, wanted("j@home.test"))
    with share.vault.read() as session:
        own = postbox.current(session)
        assert own is not None
        assert trust.binding(own.certificate, "j@home.test") is Bound.ADDRESS
        assert len(postbox.identities(session)) == 2


def test_through_a_provider_there_are_no_own_certificates_and_it_says_who_reads(
    share: Share,
) -> None:
    set_up(share, wanted(mode=MailMode.HISP, smtp_login="me", smtp_password="x"))
    with share.vault.read() as session:
        box = postbox.get(session)
        assert box is not None
        assert "can read everything" in postbox.who_reads(box.mode)
        assert postbox.server(box).encrypt
        assert postbox.identities(session) == []


@pytest.mark.parametrize(
    "want",
    [
        wanted("no address"),
        wanted(smtp_port=0),
        wanted(smtp_host="mail home"),
        wanted(smtp_host="http://x"),
        wanted(imap_host="x y", imap_port=993),
        wanted(imap_host="mail.home.test"),
        wanted(mode=MailMode.HISP),
    ],
    ids=["address", "port", "host", "url", "imap host", "imap port", "no login"],
)
def test_odd_settings_are_refused_and_nothing_is_kept(share: Share, want: postbox.Wanted) -> None:
    with pytest.raises(InvalidInput):
        set_up(share, want)
    with share.vault.read() as session:
        assert postbox.get(session) is None


def test_without_an_address_there_is_nothing_to_rotate(share: Share) -> None:
    with share.vault.write() as session, pytest.raises(NotFound):
        postbox.rotate(session, share.vault, ADA, now=clock.now())


def test_an_export_opens_with_its_password_only(share: Share) -> None:
    set_up(share)
    with share.vault.read() as session:
        own, chain = postbox.current(session), postbox.chain(session)
    assert own is not None
    with pytest.raises(InvalidInput, match="12 characters"):
        identity.exported(own, chain, "short")
    file = identity.exported(own, chain, "correct horse battery")
    key, certificate, more = pkcs12.load_key_and_certificates(file, b"correct horse battery")
    assert certificate == own.certificate
    assert more == list(chain)
    assert key is not None
    with pytest.raises(ValueError, match="password"):
        pkcs12.load_key_and_certificates(file, b"wrong")
    assert "key=" not in repr(own)


# ---------------------------------------------------------------------------------- whom to trust


def test_anchors_are_kept_per_direction_and_patient(share: Share) -> None:
    root, other = Authority(), Authority("Other", number=1001)
    with share.vault.write() as session:
        for data, direction in ((pem(root.certificate), "out"), (der(other.certificate), "in")):
            postbox.add_anchor(
                session, share.vault, data, Direction(direction), ADA, now=clock.now()
            )
        again = pem(root.certificate)
        postbox.add_anchor(session, share.vault, again, Direction.OUT, ADA, now=clock.now())
    with share.vault.read() as session:
        assert postbox.anchors(session, Direction.OUT) == [root.certificate]
        assert postbox.anchors(session, Direction.IN) == [other.certificate]
        number = session.query(Anchor).filter_by(direction="out").one().id
    with share.vault.write() as session:
        postbox.remove_anchor(session, share.vault, number, ADA)
    with share.vault.read() as session:
        assert postbox.anchors(session, Direction.OUT) == []
        assert postbox.anchors(session, Direction.IN) == [other.certificate]
        said = [each.event for each in audit.entries(session)]
    assert {"direct.anchor_added", "direct.anchor_removed"} <= set(said)


def test_a_file_that_is_not_one_good_certificate_is_no_anchor(share: Share) -> None:
    root = Authority()
    both = pem(root.certificate) + pem(Authority("Other", number=1001).certificate)
    old = pem(root.issue("x@y.test", begins=-9 * DAY, ends=-DAY))
    with share.vault.write() as session:
        for data in (b"", b"junk", both, old):
            with pytest.raises(InvalidInput):
                postbox.add_anchor(session, share.vault, data, Direction.OUT, ADA, now=clock.now())
        with pytest.raises(NotFound):
            postbox.remove_anchor(session, share.vault, 99, ADA)


# ----------------------------------------------------------------------------------------- bundles


def collection(*certificates: x509.Certificate) -> bytes:
    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


@pytest.fixture
def signed(tmp_path: Path) -> Callable[[bytes, Authority], bytes]:
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")

    def sign(content: bytes, by: Authority) -> bytes:
        (tmp_path / "content").write_bytes(content)
        (tmp_path / "by.pem").write_bytes(pem(by.certificate))
        secret = by.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "by.key").write_bytes(secret)
        asked = [openssl, "cms", "-sign", "-binary", "-nodetach", "-outform", "DER", "-md"]
        asked += ["sha256", "-in", "content", "-signer", "by.pem", "-inkey", "by.key"]
        return subprocess.run(asked, cwd=tmp_path, check=True, capture_output=True).stdout

    return sign


def test_a_bundle_is_read_signed_or_not(signed: Callable[[bytes, Authority], bytes]) -> None:
    roots = [Authority(f"Root {number}", number=1000 + number) for number in range(3)]
    certificates = [each.certificate for each in roots]
    bare = bundles.read(collection(*certificates))
    assert set(bare.anchors) == set(certificates)
    assert bare.signer is None
    wrapped = bundles.read(signed(collection(*certificates), roots[2]))
    assert set(wrapped.anchors) == set(certificates)
    assert wrapped.signer == roots[2].certificate


def test_a_changed_byte_in_a_signed_bundle_is_refused(
    signed: Callable[[bytes, Authority], bytes],
) -> None:
    one, two = Authority("Root 1", number=1001), Authority("Root 2", number=1002)
    good = signed(collection(one.certificate), two)
    name = good.index(b"Root 1")
    for bad in (good[:name] + b"Toor 1" + good[name + 6 :], good[:-9] + b"123456789"):
        with pytest.raises(TrustError):
            bundles.read(bad)
    for junk in (b"", b"junk", collection(one.issue("a@b.test"))):  # nothing that may issue
        with pytest.raises(TrustError):
            bundles.read(junk)


def test_changes_say_what_came_and_what_went() -> None:
    one, two, three = (
        Authority(f"Root {number}", number=1000 + number).certificate for number in range(3)
    )
    assert bundles.changes([one, two], [two, three]) == ([three], [one])


class Following:
    """A vault that follows a bundle at a server whose answer can be changed."""

    def __init__(self, share: Share, server: RawServer, http: Http) -> None:
        self.share, self.server, self.http = share, server, http
        with share.vault.write() as session:
            row = postbox.add_bundle(
                session, share.vault, server.url + "/b.p7b", Direction.OUT, ADA, now=clock.now()
            )
            self.id = row.id

    def fetch(self, days: int = 0) -> int:
        now = clock.now() + timedelta(days=days)
        return push.refresh_bundles(self.share.vault, http=self.http, now=now)

    def trusted(self) -> list[x509.Certificate]:
        with self.share.vault.read() as session:
            return postbox.anchors(session, Direction.OUT)

    def row(self) -> TrustBundle:
        with self.share.vault.read() as session:
            return session.get_one(TrustBundle, self.id)


@pytest.fixture
def following(
    share: Share, raw_server: Callable[[Reply | bytes], RawServer]
) -> Callable[[Sequence[bytes]], Following]:
    set_up(share)

    def follow(answers: Sequence[bytes]) -> Following:
        left = list(answers)
        server = raw_server(lambda _, channel: channel.sendall(left.pop(0)))
        return Following(share, server, Http(Guard([server.place])))

    return follow


def test_a_followed_bundle_is_fetched_daily_and_says_what_changed(
    following: Callable[[Sequence[bytes]], Following],
) -> None:
    one, two, three = (
        Authority(f"Root {number}", number=1000 + number).certificate for number in range(3)
    )
    answers = [plain(collection(one, two)), plain(collection(two, three)), plain(b"", "503 down")]
    made = following(answers)
    assert made.fetch() == 1
    assert set(made.trusted()) == {one, two}
    assert made.fetch() == 0  # not due
    assert made.fetch(days=2) == 1
    assert set(made.trusted()) == {two, three}
    newest = made.row().changes[0]
    assert [each["name"] for each in newest["came"]] == ["CN=Root 2"]
    assert [each["fingerprint"] for each in newest["went"]] == [identity.fingerprint(one)]
    assert made.fetch(days=4) == 1
    assert "503" in str(made.row().sentence)
    assert set(made.trusted()) == {two, three}  # what was trusted stays
    made.http.close()


def test_a_bundle_signed_by_somebody_else_than_before_changes_nothing(
    following: Callable[[Sequence[bytes]], Following],
    signed: Callable[[bytes, Authority], bytes],
) -> None:
    one, two = Authority("Root 1", number=1001), Authority("Root 2", number=1002)
    first = signed(collection(one.certificate), one)
    second = signed(collection(two.certificate), two)
    made = following([plain(first), plain(second), plain(collection(two.certificate))])
    made.fetch()
    for days in (2, 4):
        made.fetch(days=days)
        assert made.trusted() == [one.certificate]
        assert "somebody else" in str(made.row().sentence)
    made.http.close()


def test_leaving_a_bundle_takes_along_what_only_it_named(
    following: Callable[[Sequence[bytes]], Following],
) -> None:
    one, two = Authority("Root 1", number=1001), Authority("Root 2", number=1002)
    made = following([plain(collection(one.certificate, two.certificate))])
    made.fetch()
    vault = made.share.vault
    with vault.write() as session:
        data = pem(one.certificate)
        postbox.add_anchor(session, vault, data, Direction.OUT, ADA, now=clock.now())
        named = session.query(Anchor).filter_by(bundle_id=made.id).first()
        assert named is not None
        with pytest.raises(NotFound):
            postbox.remove_anchor(session, vault, named.id, ADA)
        postbox.remove_bundle(session, vault, made.id, ADA)
    assert made.trusted() == [one.certificate]
    with vault.write() as session, pytest.raises(NotFound):
        postbox.remove_bundle(session, vault, made.id, ADA)
    made.http.close()
