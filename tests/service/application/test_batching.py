"""The model thread: joins, bounds, deadlines, and one bad input that harms nobody else."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_models import FakeEncoder, picture

from service.application.batching import BatchingEncoder, BatchingOptions, ModelThread
from service.application.errors import InvalidInput, NotFound, Unavailable


@pytest.fixture
def make_thread():
    made = []

    def make(max_batch=8, max_delay_s=0.0, max_queue=64, deadline_s=60.0, max_decodes=2):
        made.append(ModelThread(BatchingOptions(max_batch, max_delay_s, max_queue, deadline_s, max_decodes)))
        return made[-1]

    yield make
    for thread in made:
        thread.close()


class Recorder:
    """Work that notes its batches; "bad" fails, and `gate` can hold it."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, values):
        self.entered.set()
        self.gate.wait(60)
        self.batches.append(list(values))
        for value in values:
            if isinstance(value, Exception):
                raise value
        return np.array([[value] for value in values], dtype=np.uint8)


def held(thread, work, key="k"):
    """Start a call that holds the model thread until the gate opens."""
    work.gate.clear()
    work.entered.clear()
    pool = ThreadPoolExecutor(32)
    first = pool.submit(thread.run, key, work, [0])
    assert work.entered.wait(60)
    return pool, first


def wait_for_depth(thread, depth):
    deadline = time.monotonic() + 60
    while thread.depth < depth:
        assert time.monotonic() < deadline, f"depth is {thread.depth}, wanted {depth}"
        time.sleep(0.001)


def test_waiting_inputs_are_joined_to_batches_in_their_order(make_thread):
    thread, work = make_thread(max_batch=4), Recorder()
    pool, first = held(thread, work)
    calls = []
    for n in range(1, 7):
        calls.append(pool.submit(thread.run, "k", work, [n]))
        wait_for_depth(thread, n)
    work.gate.set()
    assert [call.result()[0, 0] for call in [first, *calls]] == list(range(7))
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]
    pool.shutdown()


def test_different_kinds_are_never_mixed(make_thread):
    thread, images, texts = make_thread(), Recorder(), Recorder()
    pool, _ = held(thread, images, key="image")
    calls = []
    for n in range(1, 7):
        kind, work = ("text", texts) if n % 2 else ("image", images)
        calls.append(pool.submit(thread.run, kind, work, [n]))
        wait_for_depth(thread, n)
    images.gate.set()
    assert [call.result()[0, 0] for call in calls] == [1, 2, 3, 4, 5, 6]
    assert texts.batches == [[1, 3, 5]]
    assert images.batches == [[0], [2, 4, 6]]
    pool.shutdown()


def test_the_thread_waits_a_little_for_company(make_thread):
    thread, work = make_thread(max_batch=3, max_delay_s=20.0, deadline_s=60.0), Recorder()
    thread.run("k", work, [0, 1, 2])
    started = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: thread.run("k", work, [n]), range(3)))
    assert [len(batch) for batch in work.batches] == [3, 3]
    assert time.monotonic() - started < 10  # a full batch does not wait any longer


def test_who_comes_alone_does_not_wait(make_thread):
    thread, work = make_thread(max_delay_s=20.0, deadline_s=60.0), Recorder()
    started = time.monotonic()
    for n in range(3):
        thread.run("k", work, [n])
    assert time.monotonic() - started < 10
    assert work.batches == [[0], [1], [2]]


def test_long_inputs_go_in_pieces(make_thread):
    thread, work = make_thread(max_batch=4, max_queue=4), Recorder()
    assert thread.run("k", work, list(range(10)))[:, 0].tolist() == list(range(10))
    assert [len(batch) for batch in work.batches] == [4, 4, 2]


def test_a_full_queue_refuses_at_once_and_recovers(make_thread):
    thread, work = make_thread(max_queue=3), Recorder()
    pool, first = held(thread, work)
    waiting = [pool.submit(thread.run, "k", work, [n]) for n in (1, 2, 3)]
    wait_for_depth(thread, 3)
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        thread.run("k", work, [4])
    assert time.monotonic() - started < 0.5
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1)
    work.gate.set()
    assert [call.result()[0, 0] for call in [first, *waiting]] == [0, 1, 2, 3]
    assert thread.run("k", work, [4])[0, 0] == 4
    pool.shutdown()


def test_what_waited_beyond_its_deadline_is_not_run(make_thread):
    thread, work = make_thread(deadline_s=0.1), Recorder()
    pool, first = held(thread, work)
    late = pool.submit(thread.run, "k", work, [1])
    with pytest.raises(Unavailable) as caught:
        late.result(60)
    assert caught.value.code == "deadline"
    work.gate.set()
    with pytest.raises(Unavailable):
        first.result(60)  # it was run, but too late for its caller
    assert thread.run("k", work, [2])[0, 0] == 2
    assert [1] not in work.batches
    pool.shutdown()


def test_the_thread_tells_late_inputs_itself(make_thread):
    thread, work = make_thread(deadline_s=0.2), Recorder()
    pool, _ = held(thread, work)
    late = pool.submit(thread.run, "k", work, [1])
    wait_for_depth(thread, 1)
    time.sleep(0.25)
    work.gate.set()
    with pytest.raises(Unavailable, match="in time"):
        late.result(60)
    assert [1] not in work.batches
    pool.shutdown()


def test_one_bad_input_does_not_harm_its_batch(make_thread):
    thread, work = make_thread(), Recorder()
    pool, _ = held(thread, work)
    values = [1, RuntimeError("bad"), 3, NotFound("service error"), MemoryError()]
    calls = []
    for n, value in enumerate(values, 1):
        calls.append(pool.submit(thread.run, "k", work, [value]))
        wait_for_depth(thread, n)
    work.gate.set()
    assert calls[0].result()[0, 0] == 1
    assert calls[2].result()[0, 0] == 3
    for call, error, code in (
        (calls[1], InvalidInput, "not_encodable"),
        (calls[3], NotFound, "not_found"),
        (calls[4], Unavailable, "out_of_memory"),
    ):
        with pytest.raises(error) as caught:
            call.result(60)
        assert caught.value.code == code
    assert thread.run("k", work, [9])[0, 0] == 9
    pool.shutdown()


def test_draining_finishes_what_waits_and_refuses_the_rest(make_thread):
    thread, work = make_thread(), Recorder()
    pool, first = held(thread, work)
    waiting = pool.submit(thread.run, "k", work, [1])
    wait_for_depth(thread, 1)
    thread.drain()
    with pytest.raises(Unavailable, match="shutting down"):
        thread.run("k", work, [2])
    work.gate.set()
    assert (first.result()[0, 0], waiting.result()[0, 0]) == (0, 1)
    thread.close()
    thread.close()
    with pytest.raises(Unavailable, match="shut down"):
        thread.run("k", work, [3])
    pool.shutdown()


def test_many_threads_get_their_own_answers(make_thread):
    thread, encoder = make_thread(max_batch=16, max_delay_s=0.001, max_queue=1000), FakeEncoder("1")
    batching = BatchingEncoder(encoder, thread)
    texts = [f"word{n}" for n in range(300)]
    alone = [FakeEncoder("1").encode_texts([text])[0].tobytes() for text in texts]
    with ThreadPoolExecutor(32) as pool:
        joined = list(pool.map(lambda text: batching.encode_texts([text])[0].tobytes(), texts))
    assert joined == alone
    assert max(encoder.batches) > 1
    assert max(encoder.batches) <= 16


def test_decoding_is_bounded(make_thread):
    class Slow(FakeEncoder):
        busy, most = 0, 0

        def decode(self, data):
            Slow.busy += 1
            Slow.most = max(Slow.most, Slow.busy)
            time.sleep(0.02)
            Slow.busy -= 1
            return super().decode(data)

    batching = BatchingEncoder(Slow("1"), make_thread(max_decodes=2))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(batching.decode, [picture("red")] * 10))
    assert Slow.most == 2


def test_decoding_refuses_when_no_turn_comes(make_thread):
    thread = make_thread(max_decodes=1, deadline_s=0.05)
    batching = BatchingEncoder(FakeEncoder("1"), thread)
    with thread.decoding, pytest.raises(Unavailable, match="wait to be decoded"):
        batching.decode(picture("red"))
    assert batching.decode(picture("red")).shape == (8, 8, 3)
