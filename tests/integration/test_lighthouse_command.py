"""The `lighthouse` command among broken lists and wrong use: one sentence, one object, a code."""

import gzip
import json
import os
import socket
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lighthouse import listening, publish, redirect, snapshot
from lighthouse.__main__ import main
from lighthouse.index import write_catalogue
from lighthouse.search import Search
from tests.fakes.list_server import Said
from tests.fixtures_lighthouse import (
    HILL,
    LAKE,
    NOW,
    Lighthouse,
    endpoint,
    free_port,
    organization,
    people_type,
)

KEY = "A" * 43  # in the form of a public key
GOOD = json.dumps(
    {"Endpoints": [{"URL": "https://good.example.org/r4", "OrganizationName": "Good Clinic"}]}
)
HALF = GOOD.replace("good.", "half.").replace("Good Clinic", "Half \\ud800 \\u0000")


def run(*words, typed=None):
    return CliRunner().invoke(main, list(map(str, words)), input=typed)


@pytest.fixture
def lists(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "good.json").write_text(GOOD)
    return folder


@pytest.fixture
def taken(lists, tmp_path):
    where = tmp_path / "cat.db"
    assert run("ingest", "--from", lists, "--catalogue", where).exit_code == 0
    return where


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("deep.json", b"[" * 200_000, "nested too deeply"),
        ("deep2.json", b'{"a":' * 200_000, "nested too deeply"),
        ("cut.json.gz", gzip.compress(GOOD.encode())[:-9], "cut or broken"),
        ("alias.json", b'{"resourceType": "Bundle", "entry": [], "meta": 5}', "shape it begins"),
        ("long.csv", b"base_url,org_name,org_npi\n" + b"x" * 200_000, "no CSV"),
        ("npidata_pfile_20260101-20260108.csv.gz", b"no gzip", "gzip"),
        ("pl_pfile_20260101-20260108.csv", b"", "no column NPI"),
        ("NPPES_Data.zip", b"PK", "zip"),
    ],
)
def test_broken_list_is_reported_and_the_others_are_taken(lists, tmp_path, name, raw, reason):
    (lists / name).write_bytes(raw)

    done = run("ingest", "--from", lists, "--catalogue", tmp_path / "c.db", "--json")

    said = json.loads(done.stdout)
    assert (done.exit_code, said["lists"]) == (1, 1)
    assert said["broken"][0]["list"] == name
    assert reason in said["broken"][0]["reason"]


def test_broken_register_file_is_reported_and_the_lists_are_taken(lists, tmp_path):
    (lists / "register.toml").write_text("a = " + "[" * 50_000)

    done = run("ingest", "--from", lists, "--catalogue", tmp_path / "c.db", "--json")

    assert (done.exit_code, json.loads(done.stdout)["lists"]) == (1, 1)


def test_half_letters_and_nul_in_a_name_do_not_stop_the_others(lists, tmp_path):
    (lists / "half.json").write_text(HALF)

    done = run("ingest", "--from", lists, "--catalogue", tmp_path / "c.db", "--json")

    assert (done.exit_code, json.loads(done.stdout)["lists"]) == (0, 2)


def test_hostile_list_at_a_server_is_held_and_the_next_one_is_asked_for(tmp_path, list_server):
    list_server.answers["/deep"] = Said(b"[" * 200_000)
    list_server.answers["/good"] = Said(GOOD.encode())
    (tmp_path / "register.toml").write_text(
        "".join(
            f'[[list]]\nname = "{name}"\nurl = "{list_server.url(f"/{name}")}"\n'
            for name in ("deep", "good")
        )
    )

    allowed = f"127.0.0.1:{list_server.port}"
    done = run("fetch", "--register", tmp_path, "--allow", allowed, "--json")

    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["outcome"] for one in told] == ["held", "new"]
    assert "nested too deeply" in told[0]["reason"]
    assert done.exit_code == 1


@pytest.mark.parametrize("text", ["[" * 200_000, "[]", '{"a": 1}', '{"a": {"b": 1}}'])
def test_state_file_that_cannot_be_read_is_told_in_a_sentence(tmp_path, text):
    (tmp_path / "register.toml").write_text("list = []")
    (tmp_path / "register.state").write_text(text)

    done = run("fetch", "--register", tmp_path, "--json")

    assert done.exit_code == 1
    assert "register.state cannot be read" in json.loads(done.stdout)["sentence"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("own.csv", "name,address\nA Clinic,https://a.example.org/r4\n"), ("own.json", '{"a": 1}'),
     ("own2.json", '[{"a": 1}]'), ("own3.json", "5")],
)  # fmt: skip
def test_file_of_no_known_shape_is_named_and_fails_where_it_is_alone(lists, tmp_path, name, text):
    (lists / name).write_text(text)
    words = ("ingest", "--from", lists, "--catalogue", tmp_path / "c.db", "--json")

    beside = run(*words)
    (lists / "good.json").unlink()
    alone = run(*words)

    assert (beside.exit_code, json.loads(beside.stdout)["unknown"]) == (0, [name])
    assert f"{name}: no shape that is known" in beside.stderr
    assert (alone.exit_code, json.loads(alone.stdout)["unknown"]) == (1, [name])


def test_empty_folder_says_so_and_leaves_no_catalogue(tmp_path):
    (tmp_path / "empty").mkdir()

    done = run("ingest", "--from", tmp_path / "empty", "--catalogue", tmp_path / "c.db", "--json")

    assert done.exit_code == 1
    assert "There is no list below" in json.loads(done.stdout)["sentence"]
    assert not (tmp_path / "c.db").exists()


def wrong_uses(folder):
    missing = folder / "missing"
    (folder / "here").write_text("here")
    (folder / "pub").mkdir(exist_ok=True)
    yield 2, "no catalogue", ("search", "--catalogue", missing)
    yield 2, "no catalogue", ("stats", "--catalogue", missing, "--json")
    yield 2, "no catalogue", ("probe", "--catalogue", missing, "--json")
    yield 2, "--limit", ("search", "--catalogue", missing, "--limit", "0")
    yield 2, "--limit", ("search", "--catalogue", missing, "--limit", "-3")
    yield 1, "could not be opened", ("stats", "--catalogue", folder / "here", "--json")
    yield 1, "exists already", ("key", "--out", folder / "here", "--json")
    yield 1, "No such file", ("key", "--out", folder / "no" / "k", "--json")
    delegate = ("delegate", "--root-key", folder / "here", "--signing", KEY, "--json", "--out")
    yield 1, "exists already", (*delegate, folder / "here")
    yield 2, "no key that can be read", (*delegate, folder / "new")
    yield 2, "--days", (*delegate, folder / "new", "--days", "-4")
    yield 2, "--key", ("sign", "--snapshots", folder, "--json")
    here = folder / "here"
    sign = ("sign", "--snapshots", folder, "--key", here, "--delegation", here, "--json")
    yield 2, "no key", sign
    yield 1, "cannot be read", ("delta", here, here, "--out", folder / "d", "--json")
    yield 1, "register.toml", ("fetch", "--register", folder, "--json")
    yield 1, "waits for a decision", ("agree", "--register", folder, "sites", "--json")
    yield 2, "frobnicate", ("frobnicate", "--json")


def test_every_error_keeps_the_form_of_json_and_its_exit_code(tmp_path):
    for code, sentence, words in wrong_uses(tmp_path):
        done = run(*words)

        said = json.loads(done.stdout)
        assert (done.exit_code, said["exit"]) == (code, code), words
        assert set(said) == {"error", "sentence", "exit"}
        assert said["error"] == ("usage" if code == 2 else "failed")
        assert sentence in said["sentence"]


def test_error_without_json_is_a_sentence_on_standard_error_alone(tmp_path):
    done = run("stats", "--catalogue", tmp_path / "missing")

    assert (done.exit_code, done.stdout) == (2, "")
    assert "There is no catalogue" in done.stderr


@pytest.mark.parametrize(
    "where",
    ["postgresql://me:s3cr3t@t0p@127.0.0.1:1/x", "nosuch://me:s3cr3t@t0p@127.0.0.1/x",
     "postgresql://me:s3cr3t@t0p@127.0.0.1:port/x",
     "postgresql://127.0.0.1:1/x?user=me&password=s3cr3t@t0p"],
)  # fmt: skip
def test_no_sentence_repeats_the_password_of_a_catalogue(where):
    for command in ("stats", "search", "probe"):
        done = run(command, "--catalogue", where)

        assert done.exit_code == 1
        assert "could not be opened" in done.stderr
        assert "s3cr3t" not in done.output
        assert "t0p" not in done.output


def test_search_says_that_an_index_is_no_catalogue(tmp_path):
    write_catalogue(tmp_path / "i.idx", people_type(), [LAKE, HILL])
    before = (tmp_path / "i.idx").read_bytes()

    done = run("search", "--catalogue", tmp_path / "i.idx")

    assert done.exit_code == 2
    assert "is a search index" in json.loads(done.stdout)["sentence"]
    assert (tmp_path / "i.idx").read_bytes() == before


def test_empty_query_line_has_a_line_without_hits(taken):
    done = run("search", "--catalogue", taken, typed="\ngood clinic\n  \n")

    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["q"] for answer in answers] == ["", "good clinic", "  "]
    assert [len(answer["hits"]) for answer in answers] == [0, 1, 0]


def test_unsigned_folder_says_what_to_run(tmp_path):
    light = Lighthouse(tmp_path / "pub")
    light.publish(people_type())
    (light.folder / "snapshot.json").unlink()
    words = ("--snapshots", light.folder, "--root", publish.public_of(light.root))

    told = run("verify", *words, "--json")
    said = run("verify", *words)
    made = run("replica", *words, "--index", tmp_path / "i", "--json")
    gone = run("verify", "--snapshots", tmp_path / "no", *words[2:], "--json")

    sentence = "It is not signed yet: run `lighthouse sign`."
    assert json.loads(told.stdout) == {"ok": False, "reason": "unsigned", "sentence": sentence}
    assert (told.exit_code, said.exit_code, said.stdout.strip()) == (1, 1, sentence)
    assert json.loads(made.stdout)["sentence"] == sentence
    assert (gone.exit_code, json.loads(gone.stdout)["reason"]) == (1, "missing")


def test_verify_looks_at_the_deltas_that_lie_in_the_folder(tmp_path):
    light = Lighthouse(tmp_path / "pub")
    many = [organization(n, f"Clinic {n * n}", LAKE) for n in range(1, 400)]
    light.publish(many)
    signed = light.publish([*many, organization(999, "New Clinic", LAKE)])
    words = ("verify", "--snapshots", light.folder, "--root", publish.public_of(light.root))
    words = (*words, "--at", NOW.isoformat(), "--json")

    whole = run(*words)
    delta = light.folder / signed.deltas[0].file
    delta.write_bytes(delta.read_bytes()[::-1])
    wrong = run(*words)

    assert (whole.exit_code, json.loads(whole.stdout)["deltas"]) == (0, 1)
    assert (wrong.exit_code, json.loads(wrong.stdout)["reason"]) == (1, "hash")


@pytest.mark.parametrize("raw", [b"", b'{"is":"later"}'])
def test_content_that_is_empty_or_ends_within_a_line_is_refused(raw):
    with pytest.raises(snapshot.Refused, match=r"empty|within a line"):
        snapshot.read_content(raw)


def test_serve_says_that_it_waits_for_its_index(tmp_path):
    command = [sys.executable, "-m", "lighthouse", "serve", "--index", str(tmp_path / "later.idx")]
    running = subprocess.Popen(
        [*command, "--port", str(free_port())], stderr=subprocess.PIPE, text=True
    )
    try:
        said = json.loads(running.stderr.readline())
    finally:
        running.terminate()
        running.communicate(timeout=20)

    assert said["event"] == "index awaited"
    assert "later.idx" in said["reason"]


# ------------------------------------------------------------------- what people type


def crowd():
    """Sixty universities, one of which is spelt wrong in its list, and who is meant."""
    many = [
        organization(100 + n, f"University Clinic {chr(97 + n // 26)}{chr(97 + n % 26)}burg", LAKE)
        for n in range(60)
    ]
    return [
        *many,
        organization(1, "Oakdale Univeristy Physicians", HILL),
        organization(2, "Stanford University Hospital", LAKE),
        organization(3, "Mass General Brigham", LAKE),
        organization(4, "Massachusetts Genesis Dental", HILL),
        organization(5, "Loyola Medicine", LAKE),
        organization(6, "Harbor Clinic", endpoint("https://b.example.org/r4"),
                     city="Boston", state="MA", zip="02115"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("stanford univeristy", "Stanford University Hospital"),
        ("massachusetts general hospital", "Mass General Brigham"),
        ("massachusets genral hospital", "Mass General Brigham"),
        ("massachusetts general", "Mass General Brigham"),
        ("massachusetts gener", "Mass General Brigham"),
        ("LUHS", "Loyola Medicine"),
        ("2115", "Harbor Clinic"),
        ("oakdale univeristy", "Oakdale Univeristy Physicians"),
    ],
)
def test_slip_beginning_and_short_zip_find_who_is_meant(typed, named):
    assert named in {hit.organization.name for hit in Search(crowd()).find(typed, 3)}


ORDER = """
from lighthouse.search import Search
from tests.fixtures_lighthouse import organization, LAKE
names = [f"Cl{chr(97 + n // 26)}{chr(97 + n % 26)}nic Smith" for n in range(300)]
many = [organization(n, name, LAKE) for n, name in enumerate(names)]
found = Search(many)
print([found._spelling(word) for word in ("clinic", "clunnic", "clanc", "smithh")])
print([hit.organization.name for hit in found.find("clinnic smith", 20)])
"""


def test_order_of_hits_does_not_depend_on_the_hash_seed():
    said = {
        subprocess.run(
            [sys.executable, "-c", ORDER],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2", "77")
    }

    assert len(said) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "--snapshots", ".", "--root", "zzz"),
        ("verify", "--snapshots", ".", "--root", KEY, "--threshold", 2),
        ("verify", "--snapshots", ".", "--root", KEY, "--newest", -1),
        ("replica", "--snapshots", ".", "--root", "zzz", "--index", "i.db"),
        ("delegate", "--root-key", __file__, "--signing", KEY, "--out", "d.json"),
        ("delegate", "--root-key", __file__, "--signing", "zzz", "--out", "d.json"),
        ("sign", "--snapshots", ".", "--key", __file__, "--delegation", __file__),
        ("build", "--catalogue", "c.db", "--snapshots", "s", "--serial", -1),
        ("build", "--catalogue", "c.db", "--snapshots", "s", "--days", 0),
        ("probe", "--catalogue", "c.db", "--workers", 0),
        ("probe", "--catalogue", "c.db", "--budget", 0),
        ("serve", "--index", "i.db", "--port", 0),
    ],
    ids=lambda words: " ".join(str(word).rpartition("/")[2] for word in words),
)
def test_wrong_value_is_wrong_use_in_one_sentence(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)

    done = run(*words)

    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_probe_of_an_impossible_port_asks_nobody(taken):
    done = run("probe", "--catalogue", taken, "--allow", "127.0.0.1:99999")

    assert (done.exit_code, "127.0.0.1:99999" in done.stderr) == (2, True)


def test_name_that_is_not_in_the_register_is_told(tmp_path):
    (tmp_path / "register.toml").write_text('[[list]]\nname = "a"\nurl = "https://a.example/l"\n')

    done = run("fetch", "--register", tmp_path, "--only", "b")

    assert done.exit_code == 2
    assert "No list in register.toml is called b." in done.stderr


@pytest.mark.parametrize("command", [main, redirect.main], ids=["serve", "redirect"])
def test_port_that_is_in_use_is_one_sentence(tmp_path, command):
    key = tmp_path / "key.pem"
    key.touch(mode=0o600)
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    index = tmp_path / "index.db"
    write_catalogue(index, people_type(), [LAKE, HILL])
    options = ["serve", "--index", index] if command is main else ["--key", key]
    options += [] if command is main else ["--installations", tmp_path / "i.db"]
    with socket.create_server(("127.0.0.1", 0)) as taken_port:
        port = taken_port.getsockname()[1]
        done = CliRunner().invoke(command, [*map(str, options), "--port", str(port)])

    assert done.exit_code == 1
    assert done.stderr == (
        f"Error: Cannot listen on 127.0.0.1 port {port}: the port is in use. "
        "Is it running already? Another port can be given with --port.\n"
    )


def test_host_that_is_none_of_this_machine_is_one_sentence():
    with pytest.raises(click.ClickException, match="no address of this machine"):
        listening.bound("no-such-host.invalid", 8090)


def test_listening_names_the_protocol_so_that_answers_are_not_held_back():
    sockets = listening.bound("127.0.0.1", free_port())

    assert [one.proto for one in sockets] == [socket.IPPROTO_TCP]
    for one in sockets:
        one.close()
