"""Settings: safe defaults, every problem at once, nothing silently ignored."""

from pathlib import Path

import pytest

from phr.errors import SettingsError
from phr.settings import Settings, is_loopback, load, table


def refused(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    return caught.value.sentence


def test_without_a_variable_only_this_machine_is_listened_to() -> None:
    settings = load({})
    assert (settings.host, settings.public_host) == ("127.0.0.1", "127.0.0.1")
    assert settings.tls == "off"
    assert not settings.insecure
    assert not settings.demo
    assert settings.data.is_absolute()


def test_what_does_not_begin_with_our_prefix_is_nobodys_business() -> None:
    assert load({"PATH": "/bin", "HOMEPORT_CORPUS": "x"}) == load({})


def test_an_unknown_setting_is_reported_with_the_nearest_name() -> None:
    assert "PHR_HOTS is not a setting (did you mean PHR_HOST?)" in refused(PHR_HOTS="::")


def test_every_problem_is_reported_at_once() -> None:
    said = refused(PHR_HOTS="1", PHR_PORT="eighty", PHR_TLS="maybe", PHR_DEMO="perhaps")
    for name in ("PHR_HOTS", "PHR_PORT", "PHR_TLS", "PHR_DEMO"):
        assert name in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PHR_HOST", "example.org"),
        ("PHR_HOST", "256.1.1.1"),
        ("PHR_PORT", "65536"),
        ("PHR_PORT", "-1"),
        ("PHR_PORT", "٨٠"),
        ("PHR_HOME_URL", "phr.lan"),
        ("PHR_HOME_URL", "ftp://phr.lan"),
        ("PHR_HOME_URL", "https://user:secret@phr.lan"),
        ("PHR_HOME_URL", "https://phr.lan/?a=b"),
        ("PHR_HOME_URL", "https://phr.lan/#x"),
        ("PHR_HOME_URL", "https://phr.lan/a/../b"),
        ("PHR_HOME_URL", "https://phr.lan//x"),
        ("PHR_HOME_URL", "https://phr.lan:99999"),
        ("PHR_HOME_URL", "https://phr.lan/p"),
        ("PHR_TRUSTED_PROXIES", "everybody"),
        ("PHR_LAN_HOSTS", "fhir.lan"),
        ("PHR_LAN_HOSTS", "https://fhir.lan:1"),
        ("PHR_IDLE_MINUTES", "0"),
        ("PHR_BACKUP_HOUR", "24"),
        ("PHR_SETUP_CODE", "short"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(variable: str, value: str) -> None:
    assert variable in refused(**{variable: value, "PHR_TLS": "off"})


def test_beyond_this_machine_tls_of_our_own_is_the_default() -> None:
    settings = load({"PHR_HOST": "::"})
    assert settings.tls == "own"
    assert settings.home_url.startswith("https://")


def test_beyond_this_machine_plain_http_needs_the_explicit_switch() -> None:
    assert "PHR_INSECURE=1" in refused(PHR_HOST="192.168.1.4", PHR_TLS="off")
    settings = load({"PHR_HOST": "192.168.1.4", "PHR_INSECURE": "1"})
    assert settings.tls == "off"
    assert settings.home_is_plain_lan


def test_a_proxy_that_ends_tls_must_be_named() -> None:
    environ = {
        "PHR_TLS": "proxy",
        "PHR_HOME_URL": "https://a.example",
        "PHR_PUBLIC_URL": "https://b.example",
    }
    assert "PHR_TRUSTED_PROXIES" in refused(**environ)
    settings = load(environ | {"PHR_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8"})
    assert settings.trusted_proxies == ("127.0.0.1/32", "10.0.0.0/8")


@pytest.mark.parametrize("tls", ["own", "off", "proxy"])
def test_addresses_must_fit_who_ends_tls(tls: str) -> None:
    scheme = "http" if tls == "own" else "https"
    if tls == "proxy":
        scheme = "http"
    said = refused(
        PHR_TLS=tls, PHR_HOME_URL=f"{scheme}://phr.example", PHR_TRUSTED_PROXIES="127.0.0.1"
    )
    assert "PHR_HOME_URL" in said


def test_certificate_and_key_need_each_other() -> None:
    assert "need each other" in refused(PHR_TLS_CERT_FILE="a.pem")


def test_both_listeners_need_an_address_of_their_own() -> None:
    assert "must differ" in refused(PHR_PUBLIC_PORT="8080")


def test_a_secret_may_come_from_a_file_and_from_one_place_only(tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_text("a-long-set-up-code\n")
    assert load({"PHR_SETUP_CODE_FILE": str(file)}).setup_code == "a-long-set-up-code"
    both = {"PHR_SETUP_CODE_FILE": str(file), "PHR_SETUP_CODE": "another-long-code"}
    assert "keep one" in refused(**both)
    file.write_text("\n")
    assert "empty file" in refused(PHR_SETUP_CODE_FILE=str(file))
    assert "cannot be read" in refused(PHR_SETUP_CODE_FILE=str(tmp_path / "none"))


def test_a_key_is_never_taken_from_a_variable() -> None:
    assert "PHR_HOUSE_KEY is not a setting" in refused(PHR_HOUSE_KEY="00" * 32)


def test_secrets_do_not_show_in_logs_of_the_settings() -> None:
    assert "hushhushhush" not in repr(load({"PHR_SETUP_CODE": "hushhushhush"}))
    assert [row.name for row in table() if row.secret] == ["setup_code"]


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("http://127.0.0.1:8081", True),
        ("http://[::1]:8081", True),
        ("http://localhost:8081", True),
        ("http://phr.localhost", True),
        ("https://doors.example.org", True),
        ("http://doors.example.org", False),
        ("http://192.168.1.4:8081", False),
        ("http://localhost.example.org", False),
    ],
)
def test_a_link_is_made_only_where_the_way_is_safe(url: str, safe: bool) -> None:
    assert Settings(public_url=url).public_is_safe is safe


def test_origin_and_sub_path_are_what_a_browser_makes_of_the_address() -> None:
    settings = load(
        {
            "PHR_TLS": "proxy",
            "PHR_TRUSTED_PROXIES": "127.0.0.1",
            "PHR_HOME_URL": "https://Home.example:443/phr/",
            "PHR_PUBLIC_URL": "https://[2001:db8::1]:8443",
        }
    )
    assert (settings.home_origin, settings.home_path) == ("https://home.example", "/phr")
    assert (settings.public_origin, settings.public_path) == ("https://[2001:db8::1]:8443", "")
    assert settings.home_is_https


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "a.localhost"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["::", "10.0.0.1", "localhost.", "localhost.evil", ""])
def test_everything_else_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
