"""The version of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def distribution_version() -> str:
    """The version of the distribution `hashguard`; `0+source` when it runs from a bare folder."""
    try:
        return version("hashguard")
    except PackageNotFoundError:
        return "0+source"
