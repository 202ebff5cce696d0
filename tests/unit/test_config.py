"""Which database: flags, environment, files."""

import pytest

from seatctl.errors import Misconfigured, Usage
from seatctl.mongo import target as config
from seatctl.mongo.target import find_target, scrub

URI = "mongodb://host:27017/box"


@pytest.fixture
def uri_file(tmp_path):
    path = tmp_path / "uri"
    path.write_text(f"  {URI}\n")
    path.chmod(0o600)
    return path


def test_nothing_configured():
    """Without any word about it, the database is the embedded one."""
    assert find_target(None, None, None, {}) == config.Target(None, None, "embedded")


def test_order(uri_file, tmp_path):
    """Flags win over the environment, a URI over a file, both over the credentials of systemd."""
    (tmp_path / config.CREDENTIAL).write_text(URI)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert find_target(None, None, None, environment).source == "the credential seatctl-uri"

    environment["SEATCTL_URI_FILE"] = str(uri_file)
    assert find_target(None, None, None, environment).source == "SEATCTL_URI_FILE"

    environment["SEATCTL_URI"] = URI
    assert find_target(None, None, None, environment).source == "SEATCTL_URI"
    assert find_target(None, str(uri_file), None, environment).source == "--uri-file"
    assert find_target(URI, None, None, environment).source == "--uri"


@pytest.mark.parametrize("variable", ["SEATCTL_URI", "SEATCTL_URI_FILE", "CREDENTIALS_DIRECTORY"])
def test_empty_variable(variable):
    """An empty environment variable counts as not set."""
    assert find_target(None, None, None, {variable: ""}).source == "embedded"


def test_credentials_of_another_service(tmp_path):
    """A credentials directory without our credential says nothing about the database."""
    assert find_target(None, None, None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).uri is None


def test_flags_that_contradict():
    """Two flags for one thing are a usage error."""
    with pytest.raises(Usage, match="not both"):
        find_target(URI, "file", None, {})


def test_database():
    """The database of the flag wins over that of the environment; none leaves it to the URI."""
    environment = {"SEATCTL_DATABASE": "other"}

    assert find_target(URI, None, "mine", environment).database == "mine"
    assert find_target(URI, None, None, environment).database == "other"
    assert find_target(URI, None, None, {"SEATCTL_DATABASE": ""}).database is None


def test_empty_database():
    """A flag that a script left empty is a mistake, not another database."""
    with pytest.raises(Usage, match="--database must not be empty"):
        find_target(URI, None, "", {"SEATCTL_DATABASE": "other"})


@pytest.mark.parametrize("name", ["a b", "a/b", "a.b", 'a"b', "a$b", "a\\b", "a\x00b", "ä" * 32])
def test_impossible_database(name):
    """A name that no database can have is refused before the driver blames the URI."""
    with pytest.raises(Misconfigured, match="cannot be a database's name"):
        find_target(URI, None, name, {})


def test_file(uri_file):
    """A file holds the URI, with whatever space around it."""
    assert find_target(None, str(uri_file), None, {}) == config.Target(URI, None, "--uri-file")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_file_that_others_can_read(uri_file, mode):
    """A file that others can read is used, with a warning that says how to close it."""
    uri_file.chmod(mode)
    target = find_target(None, str(uri_file), None, {})

    assert target.uri == URI
    assert [f"run `chmod 600 {uri_file}`" in warning for warning in target.warnings] == [True]


def test_file_that_cannot_be_read(tmp_path):
    """A file that is missing, a directory or not text is a matter of configuration."""
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
def test_no_uri(uri, says):
    """What is no URI is refused without being quoted: it may hold a password."""
    with pytest.raises(Misconfigured, match=says) as refused:
        find_target(uri, None, None, {})
    assert not uri.strip() or uri not in str(refused.value)


def test_target_hides_its_uri():
    """A target in a log or traceback does not show its URI."""
    assert "secret" not in repr(find_target("mongodb://u:secret@host", None, None, {}))


@pytest.mark.parametrize(
    "uri", ["mongodb://user:p%40ssw0rd@host/db", "mongodb://user:p%40ssw0rd@host,other/db?x=y"]
)
def test_scrub(uri):
    """A password disappears as written, decoded, and inside any other URI."""
    told = f"cannot use {uri}: user:p%40ssw0rd, p%40ssw0rd or p@ssw0rd; mongodb+srv://a:b@c"
    scrubbed = scrub(told, uri)

    assert "ssw0rd" not in scrubbed
    assert "a:b" not in scrubbed
    assert "host" in scrubbed


def test_scrub_leaves_words_alone():
    """A URI without a password, or with one so short that it is in every word, hides nothing else."""
    assert scrub("the host is a host", URI) == "the host is a host"
    assert scrub("a dab", "mongodb://u:a@host") == "a dab"
