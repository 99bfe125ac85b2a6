"""The README's figures are those of the data files."""

from __future__ import annotations

import subprocess
import sys

import gauge


def test_the_readme_agrees_with_the_data_files() -> None:
    ran = subprocess.run([sys.executable, "-m", "bench.tables", "--check"], cwd=gauge.ROOT, check=False)
    assert ran.returncode == 0, "run: python -m bench.tables"
