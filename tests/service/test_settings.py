"""Settings: from the environment, frozen, checked, and passed on whole to a worker process."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import CallerSettings, Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in os.environ:
        if name.startswith("HASHGUARD_"):
            monkeypatch.delenv(name)


def test_the_environment_is_read_and_arguments_win(monkeypatch, tmp_path):
    monkeypatch.setenv("HASHGUARD_HOME", str(tmp_path))
    monkeypatch.setenv("HASHGUARD_PORT", "9000")
    assert (Settings().home, Settings().port, Settings(port=1).port) == (tmp_path, 9000, 1)


def test_folders_lie_under_home(tmp_path):
    settings = Settings(home=tmp_path)
    folders = [
        settings.models_folder,
        settings.generations_folder,
        settings.cache_folder,
        settings.logs_folder,
    ]
    assert [folder.name for folder in folders] == ["models", "generations", "cache", "logs"]
    assert {folder.parent for folder in folders} == {tmp_path}
    assert settings.database_url() == f"sqlite:///{tmp_path}/catalog.db"
    assert settings.blob_store_url() == f"file://{tmp_path}/blobs"


def test_a_relative_home_works_from_anywhere():
    assert str(Path.cwd()) in Settings(home="here").database_url()
    assert str(Path.cwd()) in Settings(home="here").blob_store_url()


def test_secrets_may_come_from_files_and_are_not_shown(tmp_path):
    (tmp_path / "url").write_text("postgresql://user:secret@host/db\n")
    settings = Settings(catalog_url_file=tmp_path / "url")
    assert settings.database_url() == "postgresql://user:secret@host/db"
    direct = Settings(catalog_url="postgresql://user:secret@host/db", blobs_url="s3://bucket")
    assert direct.database_url() == "postgresql://user:secret@host/db"
    assert direct.blob_store_url() == "s3://bucket"
    assert "secret" not in repr(direct)


@pytest.mark.parametrize(
    "given",
    [
        {"port": 70_000},
        {"port": -1},
        {"keep_generations": 0},
        {"drain_s": 0},
        {"no_such_setting": 1},
        {"log_level": "loud"},
        {"attack_score": "maybe"},
        {"catalog_url": "x", "catalog_url_file": "y"},
        {"worker_timeout_s": 3, "worker_heartbeat_s": 2},
        {"authentication": "maybe"},
        {"authentication": "required", "allow_unauthenticated": True},
    ],
)
def test_what_does_not_fit_is_refused(given):
    with pytest.raises(ValidationError):
        Settings(**given)


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_a_worker_sees_the_same_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("HASHGUARD_PORT", "9000")
    settings = Settings(
        home=tmp_path, catalog_url="sqlite:///x.db", keep_generations=7, reindex_skips_broken_items=True
    )
    environment = settings.child_environment()
    assert environment["PATH"] == os.environ["PATH"]
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert Settings() == settings


def test_who_is_asked_for_a_key_is_said_in_one_of_two_ways():
    assert not Settings().asks_nobody
    assert not Settings(authentication="required").asks_nobody
    assert Settings(authentication="off").asks_nobody
    assert Settings(allow_unauthenticated=True).asks_nobody


def test_a_catalog_by_url_counts_as_there_and_one_in_the_home_when_it_is(tmp_path):
    own = Settings(home=tmp_path)
    assert not own.catalog_is_there()
    (tmp_path / "catalog.db").touch()
    assert own.catalog_is_there()
    assert Settings(home=tmp_path / "no", catalog_url="sqlite:///x.db").catalog_is_there()
    assert Settings(home=tmp_path / "no", catalog_url_file=tmp_path / "url").catalog_is_there()


def test_the_key_of_a_caller_comes_from_the_environment_or_a_file_and_is_not_shown(monkeypatch, tmp_path):
    assert CallerSettings().key() is None
    (tmp_path / "key").write_text("hg_from_file\n")
    monkeypatch.setenv("HASHGUARD_API_KEY_FILE", str(tmp_path / "key"))
    assert CallerSettings().key() == "hg_from_file"
    with pytest.raises(ValidationError, match="not both"):
        CallerSettings(api_key="x")
    monkeypatch.delenv("HASHGUARD_API_KEY_FILE")
    monkeypatch.setenv("HASHGUARD_API_KEY", "hg_secret")
    assert CallerSettings().key() == "hg_secret"
    assert "hg_secret" not in repr(CallerSettings())
    assert "HASHGUARD_API_KEY" not in Settings().child_environment()
