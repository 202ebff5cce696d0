"""Which database: flags, environment, files; and what of it must never be printed."""

import re
from contextlib import suppress
from pathlib import Path

import pytest

from seatctl.errors import Misconfigured, Usage
from seatctl.mongo import secrets, target
from seatctl.mongo.target import CREDENTIAL, Target, find_target

URI = "mongodb://host:27017/box"


@pytest.fixture
def uri_file(tmp_path):
    path = tmp_path / "uri"
    path.write_text(f"  {URI}\n")
    path.chmod(0o600)
    return path


def test_with_nothing_configured_the_database_is_the_embedded_one():
    assert find_target(None, None, None, {}) == Target(None, None)


def test_flags_win_over_the_environment_a_uri_over_a_file_both_over_credentials(uri_file, tmp_path):
    (tmp_path / CREDENTIAL).write_text("mongodb://credential")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert find_target(None, None, None, environment).uri == "mongodb://credential"

    environment["SEATCTL_URI_FILE"] = str(uri_file)
    assert find_target(None, None, None, environment).uri == URI

    environment["SEATCTL_URI"] = "mongodb://environment"
    assert find_target(None, None, None, environment).uri == "mongodb://environment"
    assert find_target(None, str(uri_file), None, environment).uri == URI
    assert find_target("mongodb://flag", None, None, environment).uri == "mongodb://flag"


def test_the_environment_is_this_processs_by_default(monkeypatch):
    monkeypatch.setenv("SEATCTL_URI", URI)
    assert find_target(None, None, None).uri == URI


@pytest.mark.parametrize("variable", ["SEATCTL_URI", "SEATCTL_URI_FILE", "CREDENTIALS_DIRECTORY"])
def test_an_empty_variable_counts_as_not_set(variable):
    assert find_target(None, None, None, {variable: ""}).uri is None


def test_credentials_without_ours_say_nothing_about_the_database(tmp_path):
    assert find_target(None, None, None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).uri is None


def test_two_flags_for_one_thing_are_a_usage_error():
    with pytest.raises(Usage, match="not both"):
        find_target(URI, "file", None, {})


def test_the_database_of_the_flag_wins_over_the_environments_and_none_leaves_it_to_the_uri():
    environment = {"SEATCTL_DATABASE": "other"}

    assert find_target(URI, None, "mine", environment).database == "mine"
    assert find_target(URI, None, None, environment).database == "other"
    assert find_target(URI, None, None, {"SEATCTL_DATABASE": ""}).database is None


def test_a_flag_that_a_script_left_empty_is_a_mistake_not_another_database():
    with pytest.raises(Usage, match="--database must not be empty"):
        find_target(URI, None, "", {"SEATCTL_DATABASE": "other"})


@pytest.mark.parametrize("name", ["a b", "a/b", "a.b", 'a"b', "a$b", "a\\b", "a\x00b", "ä" * 32])
def test_a_name_that_no_database_can_have_is_refused(name):
    with pytest.raises(Misconfigured, match="is not a valid database name"):
        find_target(URI, None, name, {})


def test_a_file_holds_the_uri_with_whatever_space_around_it(uri_file):
    assert find_target(None, str(uri_file), None, {}) == Target(URI, None)


@pytest.mark.parametrize(
    ("mode", "can"),
    [
        (0o640, "read"),
        (0o604, "read"),
        (0o644, "read"),
        (0o620, "changed"),
        (0o602, "changed"),
        (0o666, "read and changed"),
    ],
)
def test_a_file_that_others_can_read_or_change_is_used_with_a_warning(uri_file, mode, can):
    uri_file.chmod(mode)
    target = find_target(None, str(uri_file), None, {})

    assert target.uri == URI
    assert target.warnings == (f"{uri_file} can be {can} by other users; run `chmod 600 {uri_file}`",)


def test_a_file_that_cannot_be_read_is_a_matter_of_configuration(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("none", "No such file"), (".", "Is a directory"), ("binary", "not UTF-8 text")):
        with pytest.raises(Misconfigured, match=f"cannot read the URI from .*{reason}"):
            find_target(None, str(tmp_path / name), None, {})


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("localhost:27017", "does not hold a MongoDB URI"),
        ("http://host", "does not hold a MongoDB URI"),
        (f"{URI}\n{URI}", "more than one URI"),
        ("mongodb://host/a b", "with spaces in it"),
    ],
)
def test_what_is_no_uri_is_refused_without_being_quoted(uri, says):
    with pytest.raises(Misconfigured, match=says) as refused:
        find_target(uri, None, None, {})
    assert not uri.strip() or uri not in str(refused.value)


def test_a_target_in_a_log_does_not_show_its_uri():
    assert "secret" not in repr(find_target("mongodb://u:secret@host", None, None, {}))


# --- secrets -------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch):
    monkeypatch.setattr(secrets, "remembered", set())


@pytest.mark.parametrize(
    "uri", ["mongodb://user:p%40ssw0rd@host/db", "mongodb://user:p%40ssw0rd@host,other/db?x=y"]
)
def test_a_password_disappears_as_written_decoded_and_inside_any_other_uri(uri):
    secrets.remember(uri)
    scrubbed = secrets.scrub(
        f"cannot use {uri}: user:p%40ssw0rd, p%40ssw0rd or p@ssw0rd; mongodb+srv://a:b@c"
    )

    assert "ssw0rd" not in scrubbed
    assert "a:b" not in scrubbed
    assert "host" in scrubbed


@pytest.mark.parametrize(
    "option",
    [
        "tlsCertificateKeyFilePassword=hush%21",
        "proxypassword=hush%21",
        "authMechanismProperties=AWS_SESSION_TOKEN:hush%21,OTHER:1",
    ],
)
def test_a_secret_in_an_option_disappears(option):
    secrets.remember(f"mongodb://host/?x=y&{option}&z=1")

    assert secrets.scrub("hush%21 and hush!, z=1") == "*** and ***, z=1"


def test_every_uri_that_is_read_is_remembered_also_one_that_is_refused():
    for uri in ("mongodb://user:first@host", "mongo://user:second@host"):
        with suppress(Misconfigured):
            find_target(uri, None, None, {})

    assert secrets.scrub("first, second") == "***, ***"


def test_words_are_left_alone():
    """A URI without a password, with a name alone, or with one so short that it is in every word,
    hides nothing else."""
    for uri in (URI, "mongodb://u:a@host", "mongodb://name@host", "no URI at all"):
        secrets.remember(uri)

    assert secrets.scrub("the host is a dab of a name") == "the host is a dab of a name"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("SEATCTL_URI_FIEL", "SEATCTL_URI_FILE"), ("SEATCTL_URL", "SEATCTL_URI"), ("SEATCTL_HOME", None)],
)
def test_a_misspelt_variable_is_named_with_the_one_that_is_meant(name, meant):
    warnings = find_target(None, None, None, {name: "/etc/seatctl/uri", "SEATCTL_DEBUG": "1"}).warnings
    assert warnings == ((f"there is no variable {name}; is it {meant}?",) if meant else ())


def test_each_variable_that_is_read_is_known():
    """One that is not would be called misspelt."""
    sources = Path(target.__file__).parents[1].rglob("*.py")
    read = {name for source in sources for name in re.findall(r"SEATCTL_[A-Z_]+[A-Z]", source.read_text())}
    assert read == set(target.VARIABLES) - {target.PREFIX}
