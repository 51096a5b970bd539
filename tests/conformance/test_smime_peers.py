"""S/MIME with others: OpenSSL and BouncyCastle, both directions (RFC 5652, 5083, 8551)."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from phr import clock
from phr.errors import MessageRefused
from phr.sharing.channels import mime, smime
from phr.sharing.channels.smime import Cipher, Transport
from tests.fixtures_direct import Authority, installed, key

CIPHERS = [Cipher.AES128_CBC, Cipher.AES256_CBC, Cipher.AES256_GCM]
TRANSPORTS = list(Transport)
JARS = [Path("/usr/share/java") / f"{name}.jar" for name in ("bcprov", "bcutil", "bcpkix")]
ENTITY = (
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + b"Tm8ga25vd24gYWxsZXJnaWVz\r\n" * 120
)


class Person:
    """A certificate and key, in memory and as files for other programs."""

    def __init__(self, folder: Path, name: str, number: int, *, named: bool = False) -> None:
        issuer = Authority()
        self.certificate = issuer.issue(address=f"{name}@direct.example", number=number)
        self.key = key(number, 2048)
        if named:  # a root's certificate names its key, an issued one of these tests does not
            self.key, self.certificate = issuer.key, issuer.certificate
        self.pem, self.key_pem = folder / f"{name}.pem", folder / f"{name}.key"
        self.der, self.key_der = folder / f"{name}.der", folder / f"{name}.pk8"
        self.pem.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        self.der.write_bytes(self.certificate.public_bytes(Encoding.DER))
        for path, form in ((self.key_pem, Encoding.PEM), (self.key_der, Encoding.DER)):
            path.write_bytes(self.key.private_bytes(form, PrivateFormat.PKCS8, NoEncryption()))

    @property
    def own(self) -> smime.Own:
        return self.certificate, self.key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mail")


@pytest.fixture(scope="module")
def ann(folder: Path) -> Person:
    return Person(folder, "ann", 1)


@pytest.fixture(scope="module")
def ben(folder: Path) -> Person:
    return Person(folder, "ben", 2)


def openssl(*words: str | Path, given: bytes = b"") -> bytes:
    program = installed("openssl", "openssl")
    done = subprocess.run([program, *words], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class Bouncy:
    """One Java process with BouncyCastle, asked line by line."""

    def __init__(self, folder: Path) -> None:
        compiler, java = (installed(name, "default-jdk-headless") for name in ("javac", "java"))
        if not all(jar.exists() for jar in JARS):
            pytest.skip("BouncyCastle is not installed (Debian package libbcmail-java)")
        path = ":".join(map(str, [*JARS, folder]))
        written = Path(__file__).parents[1] / "fakes" / "Bouncy.java"
        subprocess.run([compiler, "-d", folder, "-cp", path, written], check=True)
        self.process = subprocess.Popen(
            [java, "-Xmx128m", "-cp", path, "Bouncy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.folder, self.number = folder, 0

    def place(self, content: bytes = b"") -> Path:
        self.number += 1
        path = self.folder / f"job{self.number}"
        path.write_bytes(content)
        return path

    def __call__(self, *words: str | Path) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def gives(self, before: tuple[str | Path, ...], *after: str | Path) -> bytes:
        """Run a job whose output file stands between two groups of words; return the output."""
        into = self.place()
        assert self(*before, into, *after) == "ok"
        return into.read_bytes()


@pytest.fixture(scope="module")
def bouncy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bouncy]:
    peer = Bouncy(tmp_path_factory.mktemp("java"))
    with peer.process:
        yield peer
        assert peer.process.stdin is not None
        peer.process.stdin.close()


def as_mail(der: bytes, smime_type: str) -> bytes:
    kind = f'application/pkcs7-mime; smime-type={smime_type}; name="smime.p7m"'
    return mime.in_base64([("Content-Type", kind)], der)


def as_der(entity: bytes) -> bytes:
    return mime.decoded(mime.read(entity))


def detached(signature: bytes) -> bytes:
    edge = "edge-of-the-peer"
    piece = mime.in_base64([("Content-Type", "application/pkcs7-signature")], signature)
    kind = 'multipart/signed; protocol="application/pkcs7-signature"; micalg=sha-256'
    return mime.multipart([("Content-Type", f'{kind}; boundary="{edge}"')], [ENTITY, piece], edge)


# ------------------------------------------------------------------------------------ OpenSSL


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("cipher", CIPHERS)
def test_openssl_opens_what_we_encrypt_for_two(
    cipher: Cipher, transport: Transport, ann: Person, ben: Person
) -> None:
    sealed = smime.encrypt(
        ENTITY, [ann.certificate, ben.certificate], cipher=cipher, transport=transport
    )
    for one in (ann, ben):
        opened = openssl("cms", "-decrypt", "-recip", one.pem, "-inkey", one.key_pem, given=sealed)
        assert opened == ENTITY


@pytest.mark.parametrize("hashed", ["pkcs1", "sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("cipher", CIPHERS)
def test_we_open_what_openssl_encrypts_for_two(
    cipher: Cipher, hashed: str, ann: Person, ben: Person
) -> None:
    way = [] if hashed == "pkcs1" else ["-keyopt", "rsa_padding_mode:oaep"]
    way += [] if hashed in {"pkcs1", "sha1"} else ["-keyopt", f"rsa_oaep_md:{hashed}"]
    to = [word for one in (ann, ben) for word in ("-recip", one.pem, *way)]
    asked = "-" + cipher.replace("aes", "aes-").replace("_", "-")
    sealed = openssl("cms", "-encrypt", "-binary", asked, *to, given=ENTITY)
    for one in (ann, ben):
        assert smime.decrypt(sealed, [one.own]) == ENTITY


def test_openssl_smime_and_we_open_each_other(ann: Person) -> None:
    theirs = openssl("smime", "-encrypt", "-binary", "-aes256", ann.pem, given=ENTITY)
    assert smime.decrypt(theirs, [ann.own]) == ENTITY
    ours = smime.encrypt(ENTITY, [ann.certificate], transport=Transport.PKCS1)
    words = ("-recip", ann.pem, "-inkey", ann.key_pem)
    assert openssl("smime", "-decrypt", *words, given=ours) == ENTITY


def test_we_open_what_openssl_streams_in_indefinite_lengths(ann: Person) -> None:
    words = ("-encrypt", "-binary", "-aes-256-cbc", "-stream", "-indef", "-recip", ann.pem)
    sealed = openssl("cms", *words, given=ENTITY)
    assert b"\x30\x80" in as_der(sealed)[:2]
    assert smime.decrypt(sealed, [ann.own]) == ENTITY


@pytest.mark.parametrize("tool", ["cms", "smime"])
def test_openssl_verifies_what_we_sign(tool: str, ann: Person) -> None:
    signed = smime.sign(ENTITY, certificate=ann.certificate, key=ann.key, now=clock.now())
    words = ("-verify", "-noverify", "-certfile", ann.pem)
    assert openssl(tool, *words, given=signed) == ENTITY


@pytest.mark.parametrize("tool", ["cms", "smime"])
@pytest.mark.parametrize("form", ["detached", "opaque", "opaque-indefinite"])
@pytest.mark.parametrize("hashed", ["sha256", "sha384", "sha512"])
def test_we_verify_what_openssl_signs(tool: str, form: str, hashed: str, ann: Person) -> None:
    more = {"detached": [], "opaque": ["-nodetach"]}.get(form, ["-nodetach", "-stream", "-indef"])
    words = ("-sign", "-md", hashed, "-signer", ann.pem, "-inkey", ann.key_pem, "-binary", *more)
    signed = smime.verify(openssl(tool, *words, given=ENTITY))
    assert signed.content == ENTITY
    assert signed.signers == (ann.certificate,)


def test_we_verify_a_pss_signature_of_openssl(ann: Person) -> None:
    way = ("-keyopt", "rsa_padding_mode:pss", "-binary")
    words = ("-sign", "-md", "sha256", "-signer", ann.pem, "-inkey", ann.key_pem, *way)
    assert smime.verify(openssl("cms", *words, given=ENTITY)).content == ENTITY


def test_openssl_and_we_know_a_key_by_its_identifier_too(folder: Path) -> None:
    whole = Person(folder, "kim", 3, named=True)
    asked = ("-encrypt", "-binary", "-aes256", "-keyid", "-recip", whole.pem)
    sealed = openssl("cms", *asked, given=ENTITY)
    assert smime.decrypt(sealed, [whole.own]) == ENTITY
    words = ("-sign", "-keyid", "-signer", whole.pem, "-inkey", whole.key_pem, "-binary")
    assert smime.verify(openssl("cms", *words, given=ENTITY)).signers == (whole.certificate,)


def test_a_label_or_another_mask_in_the_padding_is_refused(ann: Person) -> None:
    for more in (["-keyopt", "rsa_oaep_label:6162"], ["-keyopt", "rsa_mgf1_md:md5"]):
        way = ["-keyopt", "rsa_padding_mode:oaep", *more]
        words = ("-encrypt", "-binary", "-aes256", "-recip", ann.pem, *way)
        sealed = openssl("cms", *words, given=ENTITY)
        with pytest.raises(MessageRefused):
            smime.decrypt(sealed, [ann.own])


def test_a_signature_without_attributes_is_refused(ann: Person) -> None:
    words = ("-sign", "-noattr", "-signer", ann.pem, "-inkey", ann.key_pem, "-binary")
    with pytest.raises(MessageRefused):
        smime.verify(openssl("cms", *words, given=ENTITY))


@pytest.mark.parametrize("hashed", ["sha1", "md5"])
def test_an_outdated_digest_of_openssl_is_refused(hashed: str, ann: Person) -> None:
    words = ("-sign", "-md", hashed, "-signer", ann.pem, "-inkey", ann.key_pem, "-binary")
    signed = openssl("cms", *words, given=ENTITY)
    with pytest.raises(MessageRefused):
        smime.verify(signed)


def test_triple_des_of_openssl_is_refused(ann: Person) -> None:
    sealed = openssl("cms", "-encrypt", "-des3", "-recip", ann.pem, given=ENTITY)
    with pytest.raises(MessageRefused):
        smime.decrypt(sealed, [ann.own])


def test_compressed_data_of_openssl_is_never_unpacked(ann: Person) -> None:
    der = openssl("cms", "-data_create", "-outform", "DER", given=b"x" * 1000)
    with pytest.raises(MessageRefused):
        smime.decrypt(as_mail(der, "compressed-data"), [ann.own])


# -------------------------------------------------------------------------------- BouncyCastle


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("cipher", CIPHERS)
def test_bouncy_castle_opens_what_we_encrypt_for_two(
    cipher: Cipher, transport: Transport, bouncy: Bouncy, ann: Person, ben: Person
) -> None:
    sealed = smime.encrypt(
        ENTITY, [ann.certificate, ben.certificate], cipher=cipher, transport=transport
    )
    der = bouncy.place(as_der(sealed))
    for one in (ann, ben):
        assert bouncy.gives(("decrypt", der), one.der, one.key_der) == ENTITY


@pytest.mark.parametrize("transport", ["pkcs1", "sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("cipher", CIPHERS)
def test_we_open_what_bouncy_castle_encrypts_for_two(
    cipher: Cipher, transport: str, bouncy: Bouncy, ann: Person, ben: Person
) -> None:
    for how in ("definite", "streamed"):
        before = ("encrypt", str(cipher), transport, how, bouncy.place(ENTITY))
        der = bouncy.gives(before, ann.der, ben.der)
        for one in (ann, ben):
            assert smime.decrypt(as_mail(der, "enveloped-data"), [one.own]) == ENTITY


def test_bouncy_castle_verifies_what_we_sign(bouncy: Bouncy, ann: Person) -> None:
    signed = smime.sign(ENTITY, certificate=ann.certificate, key=ann.key, now=clock.now())
    content, signature = mime.parts(mime.read(signed))
    der = bouncy.place(as_der(signature))
    assert bouncy.gives(("verify", der), bouncy.place(content)) == ENTITY
    assert bouncy("verify", der, bouncy.place(), bouncy.place(content + b"x")) != "ok"


@pytest.mark.parametrize("form", ["attached", "detached"])
def test_we_verify_what_bouncy_castle_signs(form: str, bouncy: Bouncy, ann: Person) -> None:
    der = bouncy.gives(("sign", form, bouncy.place(ENTITY)), ann.der, ann.key_der)
    entity = as_mail(der, "signed-data") if form == "attached" else detached(der)
    signed = smime.verify(entity)
    assert (signed.content, signed.signers) == (ENTITY, (ann.certificate,))


def test_triple_des_of_bouncy_castle_is_refused(bouncy: Bouncy, ann: Person) -> None:
    der = bouncy.gives(("encrypt", "des3", "pkcs1", "definite", bouncy.place(ENTITY)), ann.der)
    with pytest.raises(MessageRefused):
        smime.decrypt(as_mail(der, "enveloped-data"), [ann.own])


def test_a_changed_or_foreign_message_looks_the_same_whoever_made_it(
    bouncy: Bouncy, ann: Person, ben: Person
) -> None:
    before = ("encrypt", "aes256_cbc", "sha256", "definite", bouncy.place(ENTITY))
    der = bouncy.gives(before, ann.der)
    with pytest.raises(MessageRefused) as foreign:
        smime.decrypt(as_mail(der, "enveloped-data"), [ben.own])
    with pytest.raises(MessageRefused) as changed:
        smime.decrypt(as_mail(der[:-1] + bytes([der[-1] ^ 1]), "enveloped-data"), [ann.own])
    assert str(foreign.value) == str(changed.value)
    assert foreign.value.__cause__ is changed.value.__cause__ is None


def test_the_signer_is_named_by_its_certificate(ann: Person) -> None:
    signed = smime.sign(ENTITY, certificate=ann.certificate, key=ann.key, now=clock.now())
    (signer,) = smime.verify(signed).signers
    assert isinstance(signer, x509.Certificate)
    assert signer == ann.certificate
