"""TLS of this box: its own local CA, the certificate it issues for itself, and their renewal.

The CA can vouch for household names and private addresses only, its key is encrypted under the
house key and never leaves. Certificates of other servers are not judged here.
"""

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from phr import clock
from phr.errors import SettingsError, TrustError
from phr.settings import Settings

CA_YEARS = 10
LEAF_DAYS = 90
RENEW_DAYS = 30  # a box that was switched off for two months still wakes with a valid certificate
_SKEW = timedelta(hours=1)  # clocks of phones differ
# Names that nobody outside a household can own (RFC 6762 §3, RFC 8375, ICANN's .internal, usage).
_HOUSEHOLD = ("localhost", "local", "home.arpa", "internal", "lan", "home")
_PRIVATE = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
    *("100.64.0.0/10", "::1/128", "fc00::/7", "fe80::/10"),
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Authority:
    """The local CA as devices see it: certificate and fingerprint. No key in here."""

    pem: bytes
    der: bytes
    fingerprint: str  # SHA-256, upper case hex in pairs, as operating systems show it


@dataclass(slots=True)
class Tls:
    """The certificate this box serves, and the context that both listeners share."""

    context: ssl.SSLContext
    settings: Settings
    house_key: bytes = field(repr=False)

    def renew(self) -> bool:
        """Exchange a certificate that nears its end, without a restart; tell whether it was."""
        if self.settings.tls_cert_file is not None or not _issue_if_due(
            self.settings, self.house_key
        ):
            return False
        _load(self.context, self.settings, self.house_key)
        return True


def prepare(settings: Settings, house_key: bytes) -> Tls | None:
    """Return what the listeners need to speak TLS, or None where this box does not end it.

    Without certificate files of the owner, the local CA and a certificate are made on first use.
    Raises TrustError when the CA does not open under this house key, SettingsError for bad files.
    """
    if settings.tls != "own":
        return None
    if settings.tls_cert_file is None:
        _issue_if_due(settings, house_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, settings, house_key)
    return Tls(context, settings, house_key)


def authority(settings: Settings) -> Authority | None:
    """Return the local CA to be trusted on other devices, or None where there is none."""
    file = settings.tls_path / "ca.pem"
    if settings.tls != "own" or settings.tls_cert_file is not None or not file.exists():
        return None
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    return Authority(
        pem=certificate.public_bytes(serialization.Encoding.PEM),
        der=certificate.public_bytes(serialization.Encoding.DER),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
    )


def expires_in_days(settings: Settings) -> int | None:
    """Return how many whole days the served certificate is still valid, or None without one."""
    file = settings.tls_cert_file or settings.tls_path / "server.pem"
    if settings.tls != "own" or not file.exists():
        return None
    return (_first(file).not_valid_after_utc - clock.now()).days


def _first(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(file.read_bytes())[0]


def _load(context: ssl.SSLContext, settings: Settings, house_key: bytes) -> None:
    try:
        if settings.tls_cert_file and settings.tls_key_file:
            context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
        else:
            folder = settings.tls_path
            password = _password(house_key)
            context.load_cert_chain(folder / "server.pem", folder / "server.key", password)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            "PHR_TLS_CERT_FILE and PHR_TLS_KEY_FILE cannot be used together: "
            f"{error.strerror or 'they do not fit'}."
        ) from error


# ------------------------------------------------------------------ names


def names(settings: Settings) -> list[str]:
    """Return every name and address this box is reached by, as far as it can know them."""
    found = [_host(settings.home_url), _host(settings.public_url), "localhost", "127.0.0.1", "::1"]
    machine = socket.gethostname().split(".")[0].lower()
    if machine and machine != "localhost":
        found += [f"{machine}.local", f"{machine}.lan", f"{machine}.home.arpa"]
    for listening in (settings.host, settings.public_host):
        unspecified = ipaddress.ip_address(listening).is_unspecified
        found += _own_addresses() if unspecified else [listening]
    return list(dict.fromkeys(found))


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _own_addresses() -> list[str]:
    """Return the addresses of this machine in its networks. No packet is sent."""
    found = []
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((far, 9))  # a datagram socket only looks up the route
                found.append(str(probe.getsockname()[0]))
            except OSError:
                continue
    return found


def _address(name: str) -> Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _alternative(name: str) -> x509.GeneralName:
    address = _address(name)
    return (
        x509.DNSName(name.encode("idna").decode()) if address is None else x509.IPAddress(address)
    )


def _permitted(constraints: Iterable[x509.GeneralName], name: str) -> bool:
    """Tell whether the CA's name constraints cover a name (RFC 5280 §4.2.1.10)."""
    address = _address(name)
    for one in constraints:
        if address is None and isinstance(one, x509.DNSName):
            if name == one.value or name.endswith("." + one.value):
                return True
        elif address is not None and isinstance(one, x509.IPAddress) and address in one.value:  # type: ignore[operator] # typed for single addresses too
            return True
    return False


# ------------------------------------------------------------------ issuing


def _password(house_key: bytes) -> bytes:
    """Return the passphrase of the key files: derived from the house key, for nothing else."""
    kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"homeport tls key files v1")
    return kdf.derive(house_key).hex().encode()


def _issue_if_due(settings: Settings, house_key: bytes) -> bool:
    """Issue a certificate when there is none, it nears its end, or names have been added."""
    folder = settings.tls_path
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = [_host(settings.home_url), _host(settings.public_url)]
    ca, ca_key = _open_or_make_authority(folder, house_key, wanted)
    constraints = ca.extensions.get_extension_for_class(x509.NameConstraints).value
    permitted = list(constraints.permitted_subtrees or ())
    hosts = [name for name in names(settings) if _permitted(permitted, name)]
    if not _is_due(folder / "server.pem", ca, hosts):
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _leaf(ca, ca_key, key.public_key(), hosts)
    _write_key(folder / "server.key", key, house_key)
    _write(folder / "server.pem", _pem(leaf) + _pem(ca))
    return True


def _is_due(file: Path, ca: x509.Certificate, hosts: list[str]) -> bool:
    if not file.exists() or not (file.parent / "server.key").exists():
        return True
    leaf = _first(file)
    alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    has = {str(name.value) for name in alternatives}
    ends_soon = leaf.not_valid_after_utc - clock.now() < timedelta(days=RENEW_DAYS)
    return ends_soon or leaf.issuer != ca.subject or not set(hosts) <= has


def _open_or_make_authority(
    folder: Path, house_key: bytes, wanted: list[str]
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the local CA; a new one when it is missing, over, or must not vouch for a name."""
    certificate, key = folder / "ca.pem", folder / "ca.key"
    if certificate.exists() and key.exists():
        ca = x509.load_pem_x509_certificate(certificate.read_bytes())
        constraints = ca.extensions.get_extension_for_class(x509.NameConstraints).value
        permitted = list(constraints.permitted_subtrees or ())
        lasts = ca.not_valid_after_utc - clock.now() > timedelta(days=LEAF_DAYS)
        if lasts and all(_permitted(permitted, name) for name in wanted):
            return ca, _read_key(key, house_key)
    return _make_authority(folder, house_key, wanted)


def _make_authority(
    folder: Path, house_key: bytes, wanted: list[str]
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Four digits of the key tell an old CA from its successor in a device's list.
    name = _name(f"Homeport of this household {ski.digest[:2].hex().upper()}")
    ca = (
        _builder(name, name, key.public_key(), timedelta(days=365 * CA_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(_subtrees(wanted), None), critical=True)
        .add_extension(ski, critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / "ca.key", key, house_key)
    _write(folder / "ca.pem", _pem(ca))
    return ca, key


def _subtrees(wanted: list[str]) -> list[x509.GeneralName]:
    """Return what the CA may vouch for: household names, private addresses, our own two names."""
    found: list[x509.GeneralName] = [x509.DNSName(name) for name in _HOUSEHOLD]
    found += [x509.IPAddress(ipaddress.ip_network(network)) for network in _PRIVATE]
    for name in wanted:
        if not _permitted(found, name):
            address = _address(name)
            own = _alternative(name) if address is None else x509.IPAddress(_only(address))
            found.append(own)
    return found


def _only(address: Address) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(address)


def _leaf(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    public_key: ec.EllipticCurvePublicKey,
    hosts: list[str],
) -> x509.Certificate:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    ski = x509.SubjectKeyIdentifier.from_public_key(public_key)
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    alternatives = x509.SubjectAlternativeName([_alternative(name) for name in hosts])
    return (
        _builder(_name("Homeport"), ca.subject, public_key, timedelta(days=LEAF_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(server, critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(issuer, critical=False)
        .add_extension(ski, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lasts: timedelta
) -> x509.CertificateBuilder:
    now = clock.now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + lasts)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


# ------------------------------------------------------------------ files


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _read_key(file: Path, house_key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), _password(house_key))
    except (ValueError, TypeError) as error:
        raise TrustError(
            "The local certificate authority was made with another house key. Move the folder tls "
            "out of the data folder to make a new one; your devices must then trust it anew."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TrustError
    return key


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey, house_key: bytes) -> None:
    secret = serialization.BestAvailableEncryption(_password(house_key))
    form = serialization.PrivateFormat.PKCS8
    _write(file, key.private_bytes(serialization.Encoding.PEM, form, secret))


def _write(file: Path, content: bytes) -> None:
    """Write a 0600 file whole or not at all: a power cut leaves the old or the new one."""
    fresh = file.with_suffix(file.suffix + ".new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())
    fresh.replace(file)
