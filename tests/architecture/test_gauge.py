"""Gates of the house gauge: each test names the places that break it."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
from pathlib import Path

import gauge
import grimp
import pytest

TOP_LEVEL = {
    *("service", "model", "index", "docker", "tests", "docs", "bench", "clients", "requirements", ".ci"),
    *("docker-compose.yml", "pyproject.toml", "README.md", "Makefile", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("LICENSE", ".gitignore", ".dockerignore"),
}
VAGUE = {"utils", "common", "helpers", "misc", "http"}


def tracked_files() -> list[Path]:
    """The files that git tracks; the whole tree where there is no git."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=gauge.ROOT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout: nothing tells the project's files from others")
    return [Path(name) for name in os.fsdecode(listing.stdout).split("\0") if name]


def test_functions_stay_short() -> None:
    strict = [
        f"{m.name}:{f.lineno} {f.name} {gauge.length(f)}"
        for m in gauge.modules("service", "index")
        for f in gauge.functions(m)
        if gauge.length(f) > 50
    ]
    assert not strict
    sizes = [gauge.length(f) for m in gauge.modules("model") for f in gauge.functions(m)]
    assert sum(size > 50 for size in sizes) <= 0.01 * len(sizes)


def test_functions_take_few_parameters() -> None:
    many = [
        f"{m.name}:{f.lineno} {f.name} takes {gauge.parameters(f)}"
        for m in gauge.modules()
        for f in gauge.functions(m)
        if gauge.parameters(f) > 7 and not gauge.is_command(m, f)
    ]
    assert not many


def test_public_names_have_docstrings() -> None:
    names = [pair for m in gauge.modules() for pair in gauge.public_names(m)]
    bare = [name for name, documented in names if not documented]
    assert not [name for name in bare if name.endswith(".py")], "a module says what it is for"
    assert len(bare) <= 0.05 * len(names), bare


def test_little_is_written_twice() -> None:
    share, examples = gauge.duplicated_share(gauge.modules())
    assert share <= 0.05, f"{share:.1%}: {examples[:20]}"


def test_imports_stand_at_the_top() -> None:
    inner = [
        f"{m.name}:{node.lineno}"
        for m in gauge.modules()
        for f in gauge.functions(m)
        for node in ast.walk(f)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert not inner


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\.cuda\(", "the device follows the tensor"),
        (
            r"torch\.(cuda\.)?manual_seed(_all)?\(|np\.random\.seed\(|\brandom\.seed\(",
            "no global seed: a generator comes in",
        ),
        (r"import (pickle|joblib|dill|shelve)|pickle\.loads?\(|allow_pickle=True", "nothing is unpickled"),
        (r"weights_only\s*=\s*False", "nothing is unpickled"),
        (r"[\"']/(home|root|tmp|work|usr)/", "no path of one machine"),
        (r"\bexcept\s*:", "no bare except"),
        (r"trust_remote_code\s*=\s*True", "no code from a hub"),
    ],
)
def test_pattern_is_not_there(pattern: str, why: str) -> None:
    found = [
        f"{m.name}:{number}: {line.strip()}"
        for m in gauge.modules()
        for number, line in enumerate(m.source.splitlines(), start=1)
        if re.search(pattern, line) and not line.lstrip().startswith(("#", '"""'))
    ]
    assert not found, why


def test_assert_never_checks_a_caller() -> None:
    found = [
        f"{m.name}:{node.lineno}"
        for m in gauge.modules()
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Assert)
    ]
    assert not found


def test_init_files_hold_a_docstring_only() -> None:
    found = [
        m.name
        for m in gauge.modules()
        if m.path.name == "__init__.py" and [n for n in m.tree.body if not isinstance(n, ast.Expr)]
    ]
    assert not found


def test_no_module_has_a_vague_name() -> None:
    assert not [m.name for m in gauge.modules() if VAGUE & {*m.path.parts, m.path.stem}]


def test_there_are_no_import_cycles() -> None:
    graph = grimp.build_graph(*gauge.PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        order = list(graphlib.TopologicalSorter(imports).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")
    assert len(order) == len(graph.modules)


def test_the_http_side_loads_no_torch() -> None:
    code = "import sys, service.api.app; print(sorted({'torch', 'faiss', 'transformers'} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=gauge.ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


def test_only_known_things_stand_at_the_top() -> None:
    assert {path.parts[0] for path in tracked_files()} <= TOP_LEVEL


def test_no_photograph_of_a_data_set_is_tracked() -> None:
    pictures = [p for p in tracked_files() if p.suffix.lower() in {".jpg", ".jpeg", ".npz", ".npy", ".pt"}]
    assert not pictures


def test_trends_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    figures = gauge.trends()
    with capsys.disabled():
        print("\n" + "\n".join(f"  {name}: {value}" for name, value in figures.items()))
    assert float(figures["test : code lines"]) > 0


def test_the_gauge_sees_what_it_should(tmp_path: Path) -> None:
    """The gauge itself: a duplicated run, a long function and a bare name are found."""
    block = "\n".join(f"    value_{i} = compute(value_{i - 1})" for i in range(1, 9))
    source = f"def one(a):\n{block}\n\ndef two(a):\n{block}\n"
    path = gauge.ROOT / "model" / "imagined.py"
    module = gauge.Module(path, source, ast.parse(source))
    share, examples = gauge.duplicated_share([module])
    assert share > 0.8
    assert examples
    assert [gauge.length(f) for f in gauge.functions(module)] == [9, 9]
    assert [documented for _, documented in gauge.public_names(module)] == [False, False, False]
