"""The tables of docs/operations.md: reindexing, scale and containers, from the benchmarks' data files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def chaos_table(folder: Path) -> str:
    """What happened under kill -9 and what the oracle said; empty without the data file."""
    path = folder / "chaos.json"
    if not path.is_file():
        return ""
    report = json.loads(path.read_text(encoding="utf-8"))
    clients, took = report["clients"], report["search_ms"]
    lines = [
        f"{report['items']} items, {clients['search']} clients search and {clients['write']} write, "
        f"{report['models']} models in turns, seed {report['seed']}; {report['machine']}. Searches took "
        f"{took['p50']:g} ms (median) and {took['p99']:g} ms (99th percentile); after a kill the service was "
        f"ready again in {_downs(report['kills'])}.",
        "",
        "| what | count | wanted |",
        "|---|---|---|",
    ]
    lines += [f"| {_plain(row['what'])} | {row['ours']:g} | {_wanted(row)} |" for row in report["rows"]]
    return "\n".join(lines)


def reindex_load_table(folder: Path) -> str:
    """Searches and throughput of a reindex beside their peers; empty without the data file."""
    path = folder / "reindex-load.json"
    if not path.is_file():
        return ""
    report = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        f"{report['items']} items, {report['clients']} clients, {report['threads']} threads in each process, "
        f"{len(report['rounds'])} rounds; {report['machine']}.",
        "",
        "| what | figure | peer | ratio (± half the range) |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['what']} | {row['ours']:.4g} {row['unit']} | {row['peer']:.4g} {row['unit']} "
        f"| {row['ratio']:.2f} ± {row['spread']:.2f} |"
        for row in report["rows"]
    ]
    return "\n".join(lines)


def rows_table(folder: Path, name: str) -> str:
    """A benchmark's rows beside what was wanted; empty without the data file."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return ""
    report = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        f"`{report['command'].strip()}`; {report['machine']}.",
        "",
        "| what | figure | peer |",
        "|---|---|---|",
    ]
    for row in report["rows"]:
        peer = "" if row["peer"] is None else f"{row['peer']:.4g} {row['unit']}"
        lines.append(f"| {row['what']} | {row['ours']:.4g} {row['unit']} | {peer} |")
    return "\n".join(lines)


def _plain(what: str) -> str:
    return what.removesuffix(" (peer: wanted)")


def _wanted(row: dict[str, Any]) -> str:
    if row["peer"] is not None:
        return f"at least {row['peer']:g}"
    return "0" if row["what"].startswith("wrong") else ""


def _downs(kills: list[dict[str, Any]]) -> str:
    """As "3.1 s to 5.2 s"."""
    downs = [kill["down_s"] for kill in kills if kill["down_s"] is not None]
    return f"{min(downs):.1f} s to {max(downs):.1f} s" if downs else "no time"
