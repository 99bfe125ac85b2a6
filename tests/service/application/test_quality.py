"""The quality floor: figures against a slow oracle, refusals with the figures, and when there are none."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from fake_models import COLOURS, FakeEncoder, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.application.errors import InvalidInput
from service.application.quality import LEAST, MOST, falls_below, sample_ids
from service.application.types import ItemDraft, JobKind, JobPhase, Quality, TaskQuality
from service.scoring import packed_map
from service.settings import Settings
from service.wiring import build_runner, ensure_generation, open_parts, rebuild

COLOUR_NAMES = sorted(COLOURS)


def fill(app, count=40, labels=True, **more):
    """Pictures of one colour with its name as the text, and as the label when `labels`."""
    drafts = []
    for n in range(count):
        colour = COLOUR_NAMES[n % 4]
        shade = tuple((value + n) % 256 for value in COLOURS[colour])
        metadata = {"labels": [colour]} if labels else {}
        drafts.append(ItemDraft(f"i{n:03}", picture(shade), f"{colour} number{n}", metadata, **more))
    app.items.put_batch(drafts)


def build(home_settings, shelf, model="latest"):
    worker = open_parts(home_settings, shelf)
    try:
        return rebuild(worker, model)
    finally:
        worker.close()


def oracle_map(queries, items, relevance):
    """Mean over queries of the mean over all orders of tied items of the average precision, by sampling none:

    the expectation of precision at each relevant item, item by item, tie group by tie group.
    """
    values = []
    for query, relevant in zip(queries, relevance, strict=True):
        distances = np.unpackbits(items ^ query, axis=1).sum(axis=1)
        found = total = before = 0.0
        for distance in np.unique(distances):
            group = relevant[distances == distance]
            size, hits = len(group), int(group.sum())
            for place in range(1, size + 1):
                others = (hits - 1) / (size - 1) if size > 1 else 0.0
                precision = (found + 1 + (place - 1) * others) / (before + place)
                total += hits / size * precision
            found, before = found + hits, before + size
        if relevant.any():
            values.append(total / relevant.sum())
    return float(np.mean(values)) if values else math.nan


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 12))
def test_the_score_is_the_tie_aware_mean_average_precision(seed, queries, items):
    generator = np.random.default_rng(seed)
    asked, found = (generator.integers(0, 4, (n, 2), dtype=np.uint8) for n in (queries, items))
    relevance = generator.random((queries, items)) < 0.4
    assert packed_map(asked, found, relevance, 16) == pytest.approx(
        oracle_map(asked, found, relevance), nan_ok=True
    )


@pytest.mark.parametrize("labels", [True, False])
def test_both_figures_are_on_the_job_and_are_right(make_app, shelf, parts, labels):
    app = make_app()
    fill(app, 40, labels)
    shelf.publish("2", blind=True)
    job = build(parts.settings, shelf)
    assert (job.phase, job.model) == (JobPhase.DONE, "fake/2")  # no floor: told, not refused
    found = job.validation
    assert (found.image_count, found.text_count, found.canaries, found.note) == (40, 40, 80, None)
    quality = found.quality
    assert (quality.model, quality.live_model, quality.floor) == ("fake/2", "fake/1", None)
    assert quality.relevance == ("labels" if labels else "pairs")
    assert (quality.queries, quality.items) == ((20, 20) if labels else (40, 40))
    ids = sample_ids(sorted(f"i{n:03}" for n in range(40)))
    for task in quality.tasks:
        asked, searched = task.task.split("-to-")
        for version, figure in (("2", task.map), ("1", task.live_map)):
            digest = FakeEncoder(version).digest
            versions = parts.catalog.codes.versions(ids, digest)
            rows = {
                side: np.stack([np.frombuffer(versions[one].codes[side], np.uint8) for one in ids])
                for side in ("image", "text")
            }
            colour = np.array([int(one[1:]) % 4 for one in ids])
            if labels:
                wanted = oracle_map(rows[asked][:20], rows[searched][20:], colour[:20, None] == colour[20:])
            else:
                wanted = oracle_map(rows[asked], rows[searched], np.eye(40, dtype=bool))
            assert figure == pytest.approx(wanted, abs=1e-4)
    assert quality.tasks[0].map < quality.tasks[0].live_map - 0.05


def test_a_model_below_the_floor_is_refused_with_both_figures(make_app, shelf, home):
    app = make_app(quality_floor=0.05)
    fill(app)
    shelf.publish("2", blind=True)
    before = app.health.ready().generation_id
    job = build(settings_of(app, home), shelf)
    first = job.validation.quality.tasks[0]
    assert job.phase is JobPhase.FAILED
    assert f"mAP image-to-text {first.map:.3f}, live {first.live_map:.3f}" in job.error
    assert "20 queries, 20 items of the corpus, by labels); the quality floor allows 0.05 less" in job.error
    assert (job.validation.quality.floor, job.model) == (0.05, "fake/2")
    assert app.health.ready().generation_id == before
    assert len(list((home / "generations").iterdir())) == 1
    assert len(app.reindexing.generations()) == 1


def settings_of(app, home):
    return Settings(home=home, index_backend="memory", quality_floor=0.05, worker_heartbeat_s=0.1)


def test_the_request_s_floor_wins_over_the_service_s(make_app, shelf, parts):
    app = make_app()
    fill(app)
    shelf.publish("2", blind=True)
    runner = replace(build_runner(parts), quality_floor=0.0)
    for floor, phase in ((0.001, JobPhase.FAILED), (None, JobPhase.FAILED), (1.0, JobPhase.DONE)):
        started = app.reindexing._jobs.create(
            JobKind.REINDEX, "latest", True, None, app.reindexing._options.keep_key, None, floor
        )[0]
        done = runner.run(started.id, threading.Event())
        assert (done.phase, done.quality_floor) == (phase, floor), done.error
    assert app.reindexing.generations()[0].model_version == "2"


def test_a_better_model_passes_a_floor_of_nothing(make_app, shelf, parts):
    shelf.publish("1", blind=True)
    app = make_app()
    fill(app)
    shelf.publish("2")
    job = app.reindexing.start("latest", True, None, 0.0)
    app.reindexing._workers[job.id].join()
    done = parts.catalog.jobs.get(job.id)
    assert (done.phase, done.error) == (JobPhase.DONE, None)
    assert all(task.map > task.live_map for task in done.validation.quality.tasks)


def test_why_there_is_no_figure_is_said(make_app, shelf, parts):
    app = make_app()
    fill(app, LEAST - 1)
    assert build(parts.settings, shelf, "fake/1").validation.note.endswith(
        "the live generation is of the same model"
    )
    shelf.publish("2")
    job = build(replace_floor(parts.settings), shelf)
    assert (job.phase, job.validation.quality) == (JobPhase.DONE, None)
    assert f"19 of 19 items have an image and a text that both models encode, wanted {LEAST}" in (
        job.validation.note
    )


def replace_floor(settings):
    return settings.model_copy(update={"quality_floor": 0.0})


def test_labels_that_nobody_shares_give_no_figure(make_app, shelf, parts):
    app = make_app()
    app.items.put_batch(
        [ItemDraft(f"i{n}", picture((n, 0, 0)), f"word{n}", {"labels": f"own{n}"}) for n in range(LEAST)]
    )
    shelf.publish("2")
    assert "share a label" in build(parts.settings, shelf).validation.note


def test_a_model_that_lacks_a_side_is_refused_under_a_floor_and_told_without(make_app, shelf, parts):
    app = make_app()
    fill(app)
    shelf.publish("2", modalities=["image"])
    refused = build(replace_floor(parts.settings), shelf)
    assert (refused.phase, "does not encode texts, which the live model does" in refused.error) == (
        JobPhase.FAILED,
        True,
    )
    allowed = build(parts.settings, shelf)
    assert (allowed.phase, allowed.validation.quality) == (JobPhase.DONE, None)
    assert "0 of 40 items have an image and a text" in allowed.validation.note


def test_a_home_where_nothing_is_live_has_nothing_to_compare_with(parts, shelf):
    ensure_generation(parts)
    with parts.catalog.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM aliases")
    assert "no live model" in rebuild(parts, "latest").validation.note


def test_the_floor_is_a_share_of_one(make_app):
    app = make_app()
    for floor in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidInput, match="a quality floor is 0 to 1"):
            app.reindexing.start("latest", True, None, floor)
        with pytest.raises(ValidationError):
            Settings(quality_floor=floor)


def test_each_direction_must_keep_the_floor():
    quality = Quality(
        "m/2", "m/1", "pairs", 20, 20,
        (TaskQuality("image-to-text", 0.9, 0.5), TaskQuality("text-to-image", 0.5, 0.52)), 0.01,
    )  # fmt: skip
    assert [task.task for task in falls_below(quality)] == ["text-to-image"]
    assert falls_below(replace(quality, floor=0.03)) == []
    assert falls_below(replace(quality, floor=None)) == []


def test_the_sample_is_the_same_each_time_and_not_too_large():
    ids = [f"i{n}" for n in range(3 * MOST)]
    sample = sample_ids(ids)
    assert sample == sample_ids(ids)
    assert len(sample) == len(set(sample)) == MOST
    assert set(sample) <= set(ids)
    assert sample_ids([]) == []
    assert sorted(sample_ids(ids[:5])) == ids[:5]
