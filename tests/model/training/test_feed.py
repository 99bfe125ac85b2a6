"""Images, tokens and batches: same pixels from memory and disk, same items for one process and for two."""

import json
from dataclasses import replace

import pytest
import torch

from model.data.manifest import read_manifest
from model.data.text import TokenizerOptions, train_codec
from model.errors import DataError
from model.preprocessing import Preprocessing
from model.training.batches import Feed, Sides, plain_images, plain_tokens
from model.training.config import from_table
from model.training.corpus import load_corpus
from model.training.distributed import World
from model.training.images import ImagesFromDisk, ImagesInMemory, decode_file, open_images
from model.training.tokens import TokenTable, read_marks

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
SMALL = Preprocessing(size=16)


def quiet(done, total):
    """No display."""


@pytest.fixture
def corpus(folder, recipe):
    return load_corpus(read_manifest(folder), recipe, (True, True), [].append)


@pytest.fixture
def codec(corpus):
    return train_codec(corpus.training_texts(), TokenizerOptions(size=200, min_frequency=1), 12)


def make_sides(corpus, codec, mode="sample"):
    images = ImagesInMemory.decode(corpus.images, SMALL, quiet)
    return Sides(images, TokenTable(codec, corpus.texts, mode, seed=0))


def make_feed(recipe, corpus, codec, world=ALONE):
    return Feed(recipe, corpus, make_sides(corpus, codec), world)


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_and_disk_give_the_same_pixels(corpus, workers):
    paths = (*corpus.images[:9], None)
    parts = [torch.tensor([3, 1]), torch.tensor([9, 0, 8])]
    memory = list(open_images(paths, SMALL, 1, workers, quiet).stream(parts))
    disk = list(open_images(paths, SMALL, 0, workers, quiet).stream(parts))
    for a, b in zip(memory, disk, strict=True):
        assert a.dtype == torch.uint8
        assert torch.equal(a, b)
    assert not memory[1][0].any(), "an item without an image is black"


def test_which_source_is_chosen_depends_on_size(corpus):
    paths = corpus.images * 20  # 1440 * 768 bytes is a little over 1 MiB
    assert isinstance(open_images(paths, SMALL, 2, 0, quiet), ImagesInMemory)
    assert isinstance(open_images(paths, SMALL, 1, 0, quiet), ImagesFromDisk)


def test_decoding_ticks_and_a_tick_can_stop_it(corpus):
    seen = []
    ImagesInMemory.decode(corpus.images[:5], SMALL, lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImagesInMemory.decode(corpus.images, SMALL, stop)


def test_a_broken_image_is_named(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        decode_file(path, SMALL)
    with pytest.raises(DataError, match=r"absent\.jpg"):
        decode_file(tmp_path / "absent.jpg", SMALL)


def test_sampled_texts_follow_from_epoch_and_item(corpus, codec):
    table = TokenTable(codec, corpus.texts, "sample", seed=0)
    items = torch.arange(60)
    first, again, later = (table.rows(items, epoch) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.shape != later.shape or not torch.equal(first, later)
    alone = table.rows(items[10:11], 0)[0]
    assert torch.equal(first[10][: len(alone)], alone)
    both = codec.encode(list(corpus.texts[10]))
    assert any(torch.equal(row[row != 0], alone[alone != 0]) for row in both)


def test_first_and_joined_texts(corpus, codec):
    items = torch.arange(5)
    first = TokenTable(codec, corpus.texts, "first", seed=0)
    assert torch.equal(first.rows(items, 3), codec.encode([t[0] for t in corpus.texts[:5]]))
    sampled = TokenTable(codec, corpus.texts, "sample", seed=0)
    assert torch.equal(sampled.rows(items, None), first.rows(items, None))
    joined = TokenTable(codec, corpus.texts, "joined", seed=0)
    assert torch.equal(joined.rows(items, 0), codec.encode([" . ".join(t) for t in corpus.texts[:5]]))


def test_items_without_text_are_padding(codec):
    table = TokenTable(codec, [("a red square",), ()], "sample", seed=0)
    rows = table.rows(torch.tensor([0, 1]), 0)
    assert table.present.tolist() == [True, False]
    assert (rows[1] == codec.padding_id).all()
    assert table.rows(torch.tensor([1]), 0).shape == (1, 1)


def test_marks_are_read_from_the_tokenizer(codec):
    marks = read_marks(codec)
    content = json.loads(codec.to_json())
    vocabulary = content["model"]["vocab"]
    assert marks.unknown == vocabulary["[UNK]"]
    assert {vocabulary["[PAD]"], vocabulary["[TXT]"]} <= set(marks.special.tolist())


def test_every_epoch_is_another_permutation_of_the_trained_items(recipe, corpus, codec):
    feed = make_feed(recipe, corpus, codec)
    assert feed.steps == 3
    orders = [torch.cat(feed.order(epoch)) for epoch in range(3)]
    assert all(len(set(order.tolist())) == 48 for order in orders)
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], torch.cat(feed.order(0)))


def test_a_batch_holds_what_it_says(recipe, corpus, codec):
    batch = next(make_feed(recipe, corpus, codec).epoch(0))
    assert batch.images.shape == (16, 3, 16, 16)
    assert 0 <= batch.images.min() <= batch.images.max() <= 1
    assert batch.tokens.shape[0] == 16
    positions = corpus.trained[batch.items]
    assert torch.equal(batch.labels, corpus.labels[positions])
    assert batch.has_image.tolist() == [1.0] * 16


def test_an_epoch_can_begin_in_its_middle(recipe, corpus, codec):
    feed = make_feed(recipe, corpus, codec)
    whole = list(feed.epoch(1))
    rest = list(feed.epoch(1, done=2))
    assert len(rest) == 1
    assert torch.equal(rest[0].images, whole[2].images)
    assert torch.equal(rest[0].tokens, whole[2].tokens)


def test_two_processes_share_out_what_one_would_get(recipe, corpus, codec):
    whole = next(make_feed(recipe, corpus, codec).epoch(2))
    parts = [next(make_feed(recipe, corpus, codec, World(rank, 2, CPU)).epoch(2)) for rank in (0, 1)]
    for name in ("images", "tokens", "labels", "has_image", "has_text", "items"):
        together = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(together, getattr(whole, name)), name


def test_batches_shrink_to_small_data_and_to_the_number_of_processes(tiny, corpus, codec):
    large = from_table({**tiny, "schedule": {"epochs": 1, "batch": 1000}})
    assert make_feed(large, corpus, codec).batch_size == 54
    assert make_feed(large, corpus, codec, World(0, 4, CPU)).batch_size == 52


def test_too_many_processes_are_refused(recipe, corpus, codec):
    with pytest.raises(DataError, match="2 items per process"):
        make_feed(recipe, corpus, codec, World(0, 9, CPU))


def test_plain_inputs_are_not_augmented(corpus, codec):
    sides = make_sides(corpus, codec)
    items = torch.arange(72)
    images = torch.cat(list(plain_images(sides.images, items, CPU)))
    assert torch.equal(images, sides.images.images.permute(0, 3, 1, 2).float() / 255)
    tokens = torch.cat(list(plain_tokens(sides.tokens, items, CPU)))
    assert torch.equal(tokens, codec.encode([t[0] for t in corpus.texts]))


@pytest.mark.parametrize(
    ("small_side", "sides"), [(0, [16, 16, 16, 16]), (8, [8, 8, 16, 16]), (32, [16] * 4)]
)
def test_images_are_small_in_the_first_share_of_the_epochs(recipe, corpus, codec, small_side, sides):
    schedule = replace(recipe.schedule, epochs=4, small_side=small_side, small_until=0.5)
    feed = make_feed(replace(recipe, schedule=schedule), corpus, codec)
    first = [next(feed.epoch(epoch)) for epoch in range(4)]
    assert [batch.images.shape[2] for batch in first] == sides
    assert all(batch.images.shape[3] == side for batch, side in zip(first, sides, strict=True))


def test_a_small_image_is_the_mean_of_its_blocks(recipe, corpus, codec):
    whole = next(make_feed(recipe, corpus, codec).epoch(0)).images
    schedule = replace(recipe.schedule, small_side=8, small_until=1.0)
    small = next(make_feed(replace(recipe, schedule=schedule), corpus, codec).epoch(0)).images
    blocks = whole.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    assert torch.allclose(small, blocks, atol=1e-6)
