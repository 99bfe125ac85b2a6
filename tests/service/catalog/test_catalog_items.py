"""Items, codes, changes and blobs' bookkeeping in the real database."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from catalog_records import put, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.application.ports import ItemVersion, NewCode
from service.application.types import Condition, Filter
from service.catalog.catalog import open_catalog
from service.catalog.filters import matching_ids

CODE = bytes(range(8))
BOTH = frozenset({"image", "text"})


def test_a_put_takes_numbers_in_order_and_logs_the_change(catalog):
    first = put(catalog, record("a"), record("b"))
    second = put(catalog, record("a", text="again"))
    assert (first.first_seq, first.last_seq, first.created) == (1, 2, (True, True))
    assert (second.first_seq, second.last_seq, second.created) == (3, 3, (False,))
    assert catalog.codes.changes(0, 10) == [(1, "a"), (2, "b"), (3, "a")]
    assert catalog.codes.changes(1, 1) == [(2, "b")]
    assert (catalog.codes.last_seq(), catalog.items.count()) == (3, 2)


def test_nothing_is_left_of_a_put_that_fails_before_the_commit(catalog):
    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        catalog.items.put([record("a", k=1)], fail)
    assert (catalog.items.count(), catalog.codes.last_seq(), catalog.codes.changes(0, 9)) == (0, 0, [])
    assert put(catalog, record("a")).first_seq == 1


def test_numbers_are_never_given_twice_though_the_log_is_trimmed(catalog):
    put(catalog, record("a"), record("b"))
    catalog.codes.trim([], 2)
    assert catalog.codes.changes(0, 9) == []
    assert put(catalog, record("c")).first_seq == 3


def test_metadata_of_all_kinds_come_back(catalog):
    metadata = {"s": "text", "i": 3, "f": 0.5, "t": True, "n": False, "l": ["a", "b"], "e": [], "u": "ü\n"}
    put(catalog, record("a", **metadata))
    assert catalog.items.get(["a"])["a"].metadata == metadata


def test_many_ids_at_once(catalog):
    ids = [f"i{n:04}" for n in range(1700)]
    put(catalog, *(record(item_id, codes={"text": CODE}) for item_id in ids))
    put(catalog, *(record(item_id, codes={"text": CODE}) for item_id in ids))
    assert sorted(catalog.items.get(ids)) == ids
    assert list(catalog.codes.versions(ids, "m1")) == ids
    assert catalog.codes.all("m1", "text", 64)[0] == ids
    assert catalog.items.count() == 1700


def test_ids_are_ordered_by_their_bytes(catalog):
    ids = ["b", "B", "_", "a-1", "a.1", "a:1", "a_1", "10", "9"]
    put(catalog, *(record(item_id, codes={"text": CODE}) for item_id in ids))
    assert [item.id for item in catalog.items.page(None, 100)] == sorted(ids, key=str.encode)
    assert catalog.codes.all("m1", "text", 64)[0] == sorted(ids, key=str.encode)
    assert [item.id for item in catalog.items.page("a.1", 2)] == ["a:1", "a_1"]


def test_a_deleted_item_takes_codes_and_metadata_along(catalog):
    put(catalog, record("a", codes={"text": CODE}, k=1), record("b", codes={"text": CODE}, k=1))
    assert catalog.items.delete("a") == 3
    assert catalog.items.delete("a") is None
    assert catalog.codes.all("m1", "text", 64)[0] == ["b"]
    assert catalog.items.matching(Filter(must=(Condition("k", "eq", 1),))) == {"b"}
    with catalog.database.read() as connection:
        for table in ("codes", "item_metadata"):
            count = connection.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE item_id = 'a'")
            assert count.scalar_one() == 0
    assert catalog.codes.changes(2, 9) == [(3, "a")]


def test_a_code_of_an_old_version_is_not_taken(catalog):
    """A worker that encoded what an item was must not overwrite what it is."""
    put(catalog, record("a", text="old"), record("b"))
    stale = catalog.codes.versions(["a", "b"], "m2")
    put(catalog, record("a", text="new"))
    codes = [NewCode(version.id, version.seq, "text", CODE) for version in stale.values()]
    assert catalog.codes.add("m2", codes) == 1
    assert catalog.codes.all("m2", "text", 64)[0] == ["b"]
    assert [version.id for version in catalog.codes.lacking("m2", BOTH, None, 9)] == ["a"]


def test_codes_are_replaced_not_doubled(catalog):
    seq = put(catalog, record("a", image="f" * 64, codes={"text": CODE})).last_seq
    new = bytes(8)
    assert catalog.codes.add("m1", [NewCode("a", seq, "text", new), NewCode("a", seq, "image", CODE)]) == 2
    found = catalog.codes.versions(["a", "none"], "m1")
    assert found == {"a": ItemVersion("a", seq, "f" * 64, "text", {"text": new, "image": CODE})}
    assert catalog.codes.add("m1", []) == 0


def test_what_lacks_a_code_depends_on_the_sides_of_the_model(catalog):
    put(
        catalog,
        record("both", image="f" * 64),
        record("image", text=None, image="f" * 64),
        record("text", codes={"text": CODE}),
    )
    lacking = {
        sides: [one.id for one in catalog.codes.lacking("m1", frozenset(sides), None, 9)]
        for sides in (("image",), ("text",), ("image", "text"))
    }
    assert lacking == {
        ("image",): ["both", "image"],
        ("text",): ["both"],
        ("image", "text"): ["both", "image"],
    }
    assert catalog.codes.count_lacking("m1", BOTH) == 2
    assert [one.id for one in catalog.codes.lacking("m1", BOTH, "both", 9)] == ["image"]
    assert len(catalog.codes.lacking("m1", BOTH, None, 1)) == 1


def test_trimming_keeps_the_models_that_are_named(catalog):
    put(catalog, record("a", codes={"text": CODE}), record("b", codes={"text": CODE}, digest="m2"))
    catalog.codes.trim(["m2"], 1)
    assert catalog.codes.all("m1", "text", 64)[0] == []
    assert catalog.codes.all("m2", "text", 64)[0] == ["b"]
    assert catalog.codes.changes(0, 9) == [(2, "b")]


def test_a_blob_is_collected_when_its_last_item_is_gone(catalog):
    one, two = "1" * 64, "2" * 64
    put(catalog, record("a", image=one), record("b", image=one), record("c", image=two))
    removed = []
    catalog.items.delete("a")
    assert catalog.items.collect_blobs(removed.append) == 0
    put(catalog, record("b", image=two))
    put(catalog, record("c", image=two))
    assert catalog.items.collect_blobs(removed.append) == 1
    assert removed == [one]
    catalog.items.delete("b")
    catalog.items.delete("c")
    assert catalog.items.collect_blobs(removed.append) == 1
    assert removed == [one, two]
    assert catalog.items.collect_blobs(removed.append) == 0


def test_a_collection_that_fails_is_done_again(catalog):
    put(catalog, record("a", image="1" * 64))
    catalog.items.delete("a")

    def fail(digest):
        raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        catalog.items.collect_blobs(fail)
    assert catalog.items.collect_blobs(lambda digest: None) == 1


def test_writers_of_two_processes_wait_for_each_other(catalog, url, clock):
    other = open_catalog(url, clock)

    def churn(which, name):
        for n in range(25):
            which.items.put([record(f"{name}{n}")], lambda: None)

    with ThreadPoolExecutor(4) as pool:
        for call in [pool.submit(churn, [catalog, other][n % 2], f"w{n}-") for n in range(4)]:
            call.result()
    other.close()
    changes = catalog.codes.changes(0, 1000)
    assert [seq for seq, _ in changes] == list(range(1, 101))
    assert catalog.items.count() == 100


def test_readers_do_not_wait_for_a_writer(catalog):
    put(catalog, record("a"))
    inside, leave = threading.Event(), threading.Event()

    def hold():
        inside.set()
        leave.wait(10)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(catalog.items.put, [record("b")], hold)
        assert inside.wait(10)
        assert catalog.items.count() == 1
        assert [item.id for item in catalog.items.page(None, 9)] == ["a"]
        leave.set()
        writing.result()
    assert catalog.items.count() == 2


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, -1.5]),
    st.sampled_from(["", "1", "a", "b", "ä"]),
)
METADATA = st.dictionaries(
    st.sampled_from(["k", "l"]), st.one_of(SCALARS, st.lists(st.sampled_from(["1", "a", "b"]), max_size=3))
)
CONDITIONS = st.one_of(
    st.builds(Condition, st.sampled_from(["k", "l", "z"]), st.just("eq"), SCALARS),
    st.builds(Condition, st.sampled_from(["k", "l"]), st.just("in"), st.lists(SCALARS, max_size=4)),
    st.builds(
        Condition,
        st.sampled_from(["k", "l"]),
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        SCALARS.filter(lambda value: not isinstance(value, bool)),
    ),
)
FILTERS = st.builds(
    Filter, *(st.lists(CONDITIONS, max_size=2).map(tuple) for _ in ("must", "should", "must_not"))
)


def kind(value):
    return "bool" if isinstance(value, bool) else "str" if isinstance(value, str) else "number"


def holds(condition, metadata):
    """The oracle: the contract's words in Python."""
    if condition.key not in metadata:
        return False
    value = metadata[condition.key]
    values = value if isinstance(value, list) else [value]
    wanted = condition.value if condition.operator == "in" else [condition.value]
    tests = {
        "eq": lambda a, b: a == b, "in": lambda a, b: a == b, "gt": lambda a, b: a > b,
        "gte": lambda a, b: a >= b, "lt": lambda a, b: a < b, "lte": lambda a, b: a <= b,
    }  # fmt: skip
    return any(kind(a) == kind(b) and tests[condition.operator](a, b) for a in values for b in wanted)


def satisfies(condition, metadata):
    return (
        all(holds(one, metadata) for one in condition.must)
        and (not condition.should or any(holds(one, metadata) for one in condition.should))
        and not any(holds(one, metadata) for one in condition.must_not)
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(METADATA, min_size=1, max_size=6), st.lists(FILTERS, min_size=1, max_size=6))
def test_filters_agree_with_the_oracle(catalog, corpus, filters):
    for item in catalog.items.page(None, 100):
        catalog.items.delete(item.id)
    put(catalog, *(record(f"i{n}", **metadata) for n, metadata in enumerate(corpus)))
    for condition in filters:
        wanted = {f"i{n}" for n, metadata in enumerate(corpus) if satisfies(condition, metadata)}
        assert catalog.items.matching(condition) == wanted


@pytest.mark.parametrize(
    ("value", "other"), [(1, "1"), (1, True), (0, False), ("true", True), ("", False), (1.5, "1.5")]
)
def test_values_of_different_kinds_never_match(catalog, value, other):
    put(catalog, record("a", k=value))
    assert catalog.items.matching(Filter(must=(Condition("k", "eq", value),))) == {"a"}
    assert catalog.items.matching(Filter(must=(Condition("k", "eq", other),))) == frozenset()
    assert catalog.items.matching(Filter(must=(Condition("k", "in", [other]),))) == frozenset()


def test_times_come_back_in_utc_and_naive_ones_are_refused(catalog):
    assert put(catalog, record("a")).items[0].created == catalog.items.get(["a"])["a"].created
    naive = record("b")
    object.__setattr__(naive.item, "created", datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(Exception, match="needs a time zone"):
        put(catalog, naive)
    assert catalog.items.get(["a"])["a"].created.tzinfo is UTC


def test_long_values_are_compared_whole(catalog):
    """Longer than what is indexed, incompressible, and equal in what is indexed."""
    shared = "日" * 150
    noise = "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(1000))
    put(catalog, record("a", k=shared + "a"), record("b", k=shared + "b"), record("n", k=noise))
    for condition, wanted in [
        (Condition("k", "eq", shared + "a"), {"a"}),
        (Condition("k", "eq", shared), set()),
        (Condition("k", "in", [shared + "b", noise]), {"b", "n"}),
        (Condition("k", "gt", shared + "a"), {"b"}),
        (Condition("k", "gte", shared + "a"), {"a", "b"}),
        (Condition("k", "lt", shared + "b"), {"a", "n"}),
        (Condition("k", "lte", shared + "b"), {"a", "b", "n"}),
    ]:
        assert catalog.items.matching(Filter(must=(condition,))) == wanted, condition


def test_filters_on_strings_use_the_index(catalog):
    put(catalog, *(record(f"i{n}", k=f"v{n}") for n in range(40)))
    statement = matching_ids(Filter(must=(Condition("k", "eq", "v7"),)))
    with catalog.database.write() as connection:
        sql = str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
        if connection.dialect.name == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all()
        else:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            plan = connection.exec_driver_sql(f"EXPLAIN {sql}").all()
    assert "ix_item_metadata_text" in str(plan)
