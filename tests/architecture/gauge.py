"""Measures the house gauge on the three packages from their syntax trees; `test_gauge.py` holds the gates.

What counts: every `.py` file below service/, model/ and index/, migrations excepted (Alembic writes
their shape).
"""

from __future__ import annotations

import ast
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("service", "model", "index")
RUN = 6  # lines that must agree for a run to count as duplicated

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file with its syntax tree."""

    path: Path
    source: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """The path below the root, as shown in a failure."""
        return self.path.relative_to(ROOT).as_posix()


@cache
def read(path: Path) -> Module:
    """A source file, parsed once."""
    source = path.read_text(encoding="utf-8")
    return Module(path, source, ast.parse(source))


def modules(*packages: str) -> list[Module]:
    """Every module of `packages`, in the order of their paths."""
    return [
        read(path)
        for package in packages or PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if "versions" not in path.parts
    ]


def functions(module: Module) -> Iterator[Function]:
    """Every function and method of a module, nested ones included."""
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    """Lines of a function from `def` to its end, without its docstring and blank lines."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def parameters(function: Function) -> int:
    """Parameters of a function, `self` and `cls` not counted."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([n for n in names if n not in {"self", "cls"}])


def is_command(module: Module, function: Function) -> bool:
    """Whether a function is a Typer command: its parameters are the command's options, not a call's."""
    named = "commands" in module.path.stem or "commands" in module.path.parts
    return named and not function.name.startswith("_")


def public_names(module: Module) -> Iterator[tuple[str, bool]]:
    """(name, has a docstring) for the module and each public class, function and method."""
    yield module.name, ast.get_docstring(module.tree) is not None

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, bool]]:
        for node in body:
            if isinstance(
                node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            ) and not node.name.startswith("_"):
                yield f"{prefix}{node.name}", ast.get_docstring(node) is not None
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{prefix}{node.name}.")

    yield from walk(module.tree.body, f"{module.name}:")


def significant_lines(module: Module) -> list[tuple[int, str]]:
    """(line number, text) of the lines that count for duplication.

    Imports, comments, docstrings and lone punctuation do not.
    """
    skipped: set[int] = set()
    for node in ast.walk(module.tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, (ast.Import, ast.ImportFrom)) or is_text:
            assert isinstance(node, ast.stmt)
            assert node.end_lineno is not None
            skipped.update(range(node.lineno, node.end_lineno + 1))
    kept = []
    for number, line in enumerate(module.source.splitlines(), start=1):
        text = line.strip()
        if number not in skipped and not text.startswith("#") and re.search(r"[A-Za-z]", text):
            kept.append((number, text))
    return kept


def duplicated_share(found: list[Module]) -> tuple[float, list[str]]:
    """Share of significant lines that stand in a run of RUN lines found elsewhere too, and where."""
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    total = 0
    lines_of = {}
    for module in found:
        lines = significant_lines(module)
        lines_of[module.name] = lines
        total += len(lines)
        for start in range(len(lines) - RUN + 1):
            places[tuple(text for _, text in lines[start : start + RUN])].append((module.name, start))
    duplicated: set[tuple[str, int]] = set()
    examples = []
    for spots in places.values():
        if len(spots) > 1:
            examples.append(" ~ ".join(f"{name}:{lines_of[name][start][0]}" for name, start in spots))
            for name, start in spots:
                duplicated.update((name, start + offset) for offset in range(RUN))
    return len(duplicated) / max(total, 1), examples


def trends() -> dict[str, str]:
    """The figures that are printed, not gated: sizes of files and functions, tests per line of code."""
    found = modules()
    files = sorted(m.source.count("\n") for m in found)
    sizes = sorted(length(f) for m in found for f in functions(m))
    tests = [read(path) for path in (ROOT / "tests").rglob("*.py")]
    test_lines = sum(m.source.count("\n") for m in tests)
    cases = [f for m in tests for f in functions(m) if f.name.startswith("test_")]
    failing = [f for f in cases if re.search(r"raises|status|exit_code|problem|refus", ast.dump(f))]
    file_p95, size_p95 = files[int(len(files) * 0.95)], sizes[int(len(sizes) * 0.95)]
    mocking = sum("mock" in m.source.lower() for m in tests)
    return {
        "file lines median / p95 / max": f"{statistics.median(files):.0f} / {file_p95} / {files[-1]}",
        "function lines median / p95": f"{statistics.median(sizes):.0f} / {size_p95}",
        "test : code lines": f"{test_lines / sum(files):.2f}",
        "tests that check a failure": f"{len(failing) / max(len(cases), 1):.0%} of {len(cases)}",
        "mocks per 100 tests": f"{100 * mocking / max(len(cases), 1):.1f}",
    }
