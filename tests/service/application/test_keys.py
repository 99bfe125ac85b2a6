"""API keys: their shape, making and revoking them, and the keyring that checks them."""

import ast
import hashlib
import inspect
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_servers import POSTGRES
from structlog.testing import capture_logs

from service.application import keyring as keyring_module
from service.application.errors import Conflict, InvalidInput, NotFound, Unauthorised, Unavailable
from service.application.keyring import FRESH_S, RETRY_S, Keyring
from service.application.keys import MOST_KEYS, Keys, ShownKey, digest_of, key_id_of, read_key
from service.application.types import Scope
from service.catalog.catalog import open_catalog

START = datetime(2026, 1, 1, tzinfo=UTC)
UNKNOWN = "hg_" + "0" * 12 + "_" + "A" * 43


class Hands:
    """A clock and a monotonic clock that the test moves."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return START + timedelta(seconds=self.seconds)

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds + 1e-9  # a clock that a sleep does not move would be no clock


class Counting:
    """The catalog's keys, counting reads; `trouble` makes it fail."""

    def __init__(self, keys):
        self._keys, self.reads, self.trouble = keys, 0, None

    def in_force(self):
        self.reads += 1
        return self._keys.in_force()

    def touch(self, used):
        if self.trouble is not None:
            raise self.trouble
        self._keys.touch(used)


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=POSTGRES)])
def url(request, tmp_path):
    """URL of an empty database: everything here holds on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    return request.getfixturevalue("postgres").shared()


@pytest.fixture
def catalog(url, hands):
    catalog = open_catalog(url, hands.now)
    yield catalog
    catalog.close()


@pytest.fixture
def keys(catalog, hands):
    return Keys(catalog.keys, hands.now)


@pytest.fixture
def counting(catalog):
    return Counting(catalog.keys)


@pytest.fixture
def ring(counting, hands):
    ring = Keyring(counting, hands.now, hands.monotonic)
    ring.sleep = hands.sleep
    return ring


def enter(ring, text, sleep=None):
    """What a request does; a ring with a clock of the test's own says how time passes."""
    sleep = sleep or getattr(ring, "sleep", time.sleep)
    shown, arrived = read_key(text), ring.now()
    while (wait := ring.due_in(shown, arrived)) is not None:
        sleep(wait)
        ring.read()
    return ring.check(shown)


def refused(ring, text):
    with pytest.raises(Unauthorised) as error:
        enter(ring, text)
    return error.value.code, error.value.reason


# Shape


def test_a_key_has_256_random_bits_and_the_catalog_only_their_hash(keys, catalog, tmp_path):
    made = [keys.create("n", [Scope.SEARCH], None) for _ in range(20)]
    assert len({text for _, text in made}) == len({key.id for key, _ in made}) == 20
    key, text = made[0]
    assert text.startswith(f"hg_{key.id}_")
    assert len(text) == 3 + 12 + 1 + 43
    assert key.digest == hashlib.sha256(text.encode()).hexdigest()
    secret = text.rpartition(key.id)[2].encode()
    assert not [path for path in tmp_path.iterdir() if secret in path.read_bytes()]


@given(st.text(max_size=80) | st.from_regex(r"hg_[0-9a-f]{10,14}_[A-Za-z0-9_-]{41,45}", fullmatch=True))
def test_a_text_is_a_key_or_not_and_nothing_else_happens(text):
    shown = read_key(text)
    regular = (
        len(text) == 59
        and text.isascii()
        and text.startswith("hg_")
        and text[15] == "_"
        and set(text[3:15]) <= set("0123456789abcdef")
        and all(letter.isalnum() or letter in "_-" for letter in text[16:])
    )
    assert (shown is not None) is regular
    if shown is not None:
        assert (shown.id, shown.digest) == (text[3:15], digest_of(text))


def test_an_id_is_known_by_itself_or_in_its_key(keys):
    key, text = keys.create("n", [Scope.SEARCH], None)
    assert key_id_of(key.id) == key_id_of(text) == key.id
    for wrong in ("", "nobody", text[:-1], text.upper(), key.id + "\n"):
        with pytest.raises(InvalidInput, match="wanted the id of a key") as error:
            key_id_of(wrong)
        assert not wrong or wrong not in error.value.detail


# Making and revoking


@pytest.mark.parametrize(
    ("name", "scopes", "expires", "words"),
    [
        ("", [Scope.SEARCH], None, "1 to 200 printable"),
        ("x" * 201, [Scope.SEARCH], None, "1 to 200 printable"),
        ("a\nb", [Scope.SEARCH], None, "1 to 200 printable"),
        ("a\0", [Scope.SEARCH], None, "1 to 200 printable"),
        ("n", [], None, "at least one scope of search, write, admin"),
        ("n", [Scope.ADMIN], START, "in the future, got 2026-01-01"),
    ],
)
def test_what_makes_no_key(keys, name, scopes, expires, words):
    with pytest.raises(InvalidInput, match=words):
        keys.create(name, scopes, expires)
    assert keys.all() == []


def test_there_is_an_end_to_keys(keys, catalog, monkeypatch):
    monkeypatch.setattr("service.application.keys.MOST_KEYS", 1)
    keys.create("n", [Scope.SEARCH], None)
    with pytest.raises(Conflict, match="revoke some first"):
        keys.create("n", [Scope.SEARCH], None)
    assert MOST_KEYS == 1000


def test_only_good_keys_count(keys, hands):
    first, _ = keys.create("n", [Scope.SEARCH], None)
    keys.create("n", [Scope.SEARCH], START + timedelta(seconds=10))
    assert keys.count_valid() == 2
    hands.seconds = 10
    assert keys.count_valid() == 1
    assert keys.revoke(first.id).state(hands.now()) == "revoked"
    assert keys.count_valid() == 0
    assert {key.state(hands.now()) for key in keys.all()} == {"revoked", "expired"}
    with pytest.raises(NotFound, match="there is no key ffffffffffff"):
        keys.revoke("f" * 12)


# Checking


def test_several_keys_are_good_at_once_each_with_its_scopes(keys, ring):
    old, old_text = keys.create("app", [Scope.SEARCH], None)
    new, new_text = keys.create("app", [Scope.SEARCH, Scope.WRITE], None)
    assert enter(ring, old_text).scopes == {Scope.SEARCH}
    assert enter(ring, new_text).scopes == {Scope.SEARCH, Scope.WRITE}
    assert (enter(ring, old_text).key_id, enter(ring, new_text).key_id) == (old.id, new.id)


def test_a_wrong_secret_and_an_unknown_id_look_alike_to_callers(keys, ring):
    _, text = keys.create("n", [Scope.SEARCH], None)
    wrong = text[:-4] + ("AAAA" if text[-4:] != "AAAA" else "BBBB")
    assert refused(ring, wrong) == ("invalid_key", "mismatch")
    assert refused(ring, UNKNOWN) == ("invalid_key", "unknown")
    details = set()
    for bad in (wrong, UNKNOWN):
        with pytest.raises(Unauthorised) as error:
            enter(ring, bad)
        details.add(error.value.detail)
    assert len(details) == 1


def test_a_key_ends_at_its_time_without_any_read(keys, ring, hands, counting):
    _, text = keys.create("n", [Scope.SEARCH], START + timedelta(seconds=0.5))
    enter(ring, text)
    hands.seconds = 0.5
    assert refused(ring, text) == ("expired_key", "expired")
    assert counting.reads == 1


def test_a_revoked_key_is_refused_once_the_picture_is_old(keys, ring, hands):
    key, text = keys.create("n", [Scope.SEARCH], None)
    enter(ring, text)
    keys.revoke(key.id)
    hands.seconds = FRESH_S
    enter(ring, text)
    hands.seconds = FRESH_S + 0.01
    assert refused(ring, text) == ("invalid_key", "unknown")
    assert FRESH_S < 2


def test_a_new_key_is_good_at_once(keys, ring, hands):
    """However shortly before it was made the catalog was read: it waits for the next read."""
    refused(ring, UNKNOWN)
    hands.seconds += 0.001
    _, text = keys.create("n", [Scope.SEARCH], None)
    before = hands.seconds
    assert enter(ring, text).scopes == {Scope.SEARCH}
    assert hands.seconds - before <= RETRY_S + 1e-6
    assert enter(ring, text, pytest.fail).scopes == {Scope.SEARCH}


def test_who_shows_an_unknown_key_waits_for_one_read_and_no_more(ring, hands, counting):
    for _ in range(20):
        before = hands.seconds
        refused(ring, UNKNOWN)
        assert hands.seconds - before <= RETRY_S + 1e-6
    assert counting.reads <= 21


def test_a_read_that_began_before_the_key_was_made_does_not_refuse_it(keys, counting, hands):
    """The read is under way while the key is made and shown; its picture lacks the key."""
    ring = Keyring(counting, hands.now, hands.monotonic)
    shown = {}

    def late():
        if "text" not in shown:
            hands.seconds += 0.01
            shown["text"], shown["arrived"] = keys.create("n", [Scope.SEARCH], None)[1], hands.seconds
            return []
        return keys_in_force()

    keys_in_force, counting.in_force = counting.in_force, late
    ring.read()
    key, arrived = read_key(shown["text"]), shown["arrived"]
    wait = ring.due_in(key, arrived)
    assert 0 < wait <= RETRY_S
    hands.sleep(wait)
    ring.read()
    assert ring.due_in(key, arrived) is None
    assert ring.check(key).scopes == {Scope.SEARCH}


def test_a_flood_of_made_up_keys_reads_ten_times_a_second_at_most(ring, hands, counting):
    """A thousand a second arrive, and all that wait are waiting at the same time."""
    waiting = []
    for number in range(2000):
        hands.seconds = number / 1000
        waiting.append((read_key(f"hg_{number:012x}_" + "A" * 43), hands.seconds))
        due = [one for one in waiting if (wait := ring.due_in(*one)) is not None and wait <= 1e-9]
        if due:
            ring.read()
        waiting = [one for one in waiting if ring.due_in(*one) is not None]
        assert len(waiting) <= 1000 * RETRY_S + 2
    assert 2 <= counting.reads <= 21


def test_good_keys_read_once_a_second(keys, ring, hands, counting):
    _, text = keys.create("n", [Scope.SEARCH], None)
    for number in range(500):
        hands.seconds = number / 100
        enter(ring, text)
    assert counting.reads <= 6


def test_those_who_wait_for_a_read_share_it(catalog, hands):
    counting = Counting(catalog.keys)
    ring = Keyring(counting, hands.now, hands.monotonic)
    barrier = threading.Barrier(8)

    def read():
        barrier.wait()
        ring.read()

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counting.reads == 1


def test_a_replica_of_its_own_process_follows_within_two_seconds(keys, url, hands):
    """Real time, a second connection: what another replica sees."""
    other = open_catalog(url, hands.now)
    ring = Keyring(other.keys, hands.now)
    key, text = keys.create("n", [Scope.SEARCH], None)
    enter(ring, text)
    keys.revoke(key.id)
    limit = time.monotonic() + 2
    while time.monotonic() < limit:
        try:
            enter(ring, text)
        except Unauthorised:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the revoked key still opened after 2 seconds")
    other.close()


def test_digests_are_compared_in_constant_time_and_never_with_an_operator():
    tree = ast.parse(inspect.getsource(keyring_module))
    compared = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and "digest" in ast.unparse(node)
    ]
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert compared == []
    assert called.count("hmac.compare_digest") == 1


def test_there_is_a_comparison_also_when_nobody_has_the_id(ring, monkeypatch):
    seen = []
    monkeypatch.setattr(keyring_module.hmac, "compare_digest", lambda a, b: seen.append((a, b)) or False)
    ring.read()
    with pytest.raises(Unauthorised):
        ring.check(ShownKey("0" * 12, "a" * 64))
    assert seen == [("a" * 64, "0" * 64)]


def test_the_digest_that_stands_for_nobody_lets_nobody_in(ring):
    ring.read()
    with pytest.raises(Unauthorised):
        ring.check(ShownKey("0" * 12, "0" * 64))


# Last use


def test_the_last_use_is_written_when_it_is_flushed_and_not_per_request(keys, ring, hands):
    _, text = keys.create("n", [Scope.SEARCH], None)
    ring.flush()
    for second in range(5):
        hands.seconds = second
        enter(ring, text)
    assert keys.all()[0].last_used is None
    ring.flush()
    assert keys.all()[0].last_used == START + timedelta(seconds=4)


def test_a_last_use_that_cannot_be_written_comes_with_the_next(keys, ring, counting, hands):
    _, text = keys.create("n", [Scope.SEARCH], None)
    _, other = keys.create("n", [Scope.SEARCH], None)
    enter(ring, text)
    enter(ring, other)
    counting.trouble = Unavailable("busy")
    with capture_logs() as lines:
        ring.flush()
    assert lines[0]["event"] == "last_use_not_recorded"
    counting.trouble = None
    hands.seconds = 1
    enter(ring, text)
    ring.flush()
    assert [key.last_used for key in keys.all()].count(START) == 1
    assert START + timedelta(seconds=1) in [key.last_used for key in keys.all()]


def test_an_application_writes_the_last_use_when_it_closes(app, parts):
    _, text = Keys(parts.catalog.keys, lambda: datetime.now(UTC)).create("n", [Scope.SEARCH], None)
    enter(app.keyring, text)
    app.close()
    assert parts.catalog.keys.all()[0].last_used is not None
    app.close()
