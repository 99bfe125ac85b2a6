"""Settings that all tests share."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import HealthCheck, settings
from real_servers import running_milvus, running_postgres

# Two test processes share the cores of a small machine: one thread each:
# set before torch or Faiss is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

# Time limits of single examples and of drawing them measure the machine's load, not the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_make_parametrize_id(val, argname):
    """Short names for long values: pytest puts a test's name into the environment, where a server that a
    test starts would find more than an operating system passes on ("Argument list too long")."""
    if not isinstance(val, str | bytes) or len(val) <= 200:
        return None
    data = val.encode("utf-8", "surrogatepass") if isinstance(val, str) else val
    return f"{argname}-{len(val)}-{hashlib.sha256(data).hexdigest()[:8]}"


@pytest.fixture(scope="session")
def postgres():
    """A running PostgreSQL with pgvector; `database()` gives the URL of a new database."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def milvus_url():
    """URL of a running Milvus."""
    with running_milvus() as url:
        yield url
