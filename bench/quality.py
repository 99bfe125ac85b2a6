"""Retrieval quality of an undefended hasher on a manifest folder, both protocols, with its conditions.

    python -m bench.quality --data DIR --models OUT [--recipe NAME] [--backbone FOLDER] [--seeds 0,1]

Trains with the real command, encodes with the serving encoder, scores with the tie-aware metrics and
writes `docs/quality/<set>-<bits>.json`. With `--backbone` it also fits CCA-ITQ on that backbone's
frozen features. The query split is read here and nowhere else.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.cca_itq import CcaItq
from model.data.manifest import Manifest, Record, read_manifest
from model.evaluation.retrieval import bootstrap_interval, chance_level, mean_average_precision
from model.inference import Encoder

TASKS = ("image-to-text", "text-to-image", "image-to-image", "text-to-text")
PROTOCOLS = {"train+database": ("train", "database"), "database": ("database",)}
Codes = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Side:
    """Codes and labels of one set of items; a side that the items lack is absent from `codes`."""

    codes: Codes
    labels: NDArray[np.bool_]
    texts: tuple[str, ...]


def usage_s() -> float:
    """CPU seconds of the finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(arguments: argparse.Namespace, seed: int) -> tuple[Path, dict[str, float]]:
    """Run `hashguard train`; returns the artefact's folder and {"wall_s", "cpu_s"}."""
    command = [sys.executable, "-m", "model.cli", "train", "--data", str(arguments.data), "--defence", "none"]
    command += ["--bits", str(arguments.bits), "--out", str(arguments.models), "--seed", str(seed)]
    if arguments.recipe:
        command += ["--recipe", arguments.recipe]
    if arguments.backbone:
        command += ["--backbone", str(arguments.backbone)]
    command += ["--name", f"{arguments.data.resolve().name}-{seed}"]
    started, used = time.perf_counter(), usage_s()
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    took = {"wall_s": round(time.perf_counter() - started, 1), "cpu_s": round(usage_s() - used, 1)}
    return Path(ran.stdout.strip().splitlines()[-1]), took


def encode(encoder: Encoder, manifest: Manifest, records: tuple[Record, ...]) -> Side:
    """Codes of the items as the service would store them: the image's, and the first text's."""
    codes: Codes = {}
    if all(r.image for r in records) and "image" in encoder.modalities:
        codes["image"] = encoder.encode_images(
            [encoder.decode(r.image.read_bytes()) for r in records if r.image]
        )
    if all(r.texts for r in records) and "text" in encoder.modalities:
        codes["text"] = encoder.encode_texts([r.texts[0] for r in records])
    return Side(codes, manifest.label_matrix(records), tuple(r.texts[0] if r.texts else "" for r in records))


def relevance(queries: Side, database: Side) -> NDArray[np.bool_]:
    """Bool (q, n): the two items share a label."""
    return queries.labels.astype(np.float32) @ database.labels.T.astype(np.float32) > 0


def score(queries: Side, database: Side, protocol: str, what: str) -> list[dict[str, Any]]:
    """One row for each task that both sides have codes for."""
    relevant = relevance(queries, database)
    chance = chance_level(relevant).mean
    rows = []
    for task in TASKS:
        source, target = task.split("-to-")
        if source not in queries.codes or target not in database.codes:
            continue
        scores = mean_average_precision(queries.codes[source], database.codes[target], relevant)
        low, high = bootstrap_interval(scores, seed=0)
        figures = {"map": scores.mean, "lo": low, "hi": high, "chance": chance}
        rows.append(
            {"what": what, "protocol": protocol, "task": task}
            | {name: round(value, 4) for name, value in figures.items()}
            | {"n": scores.n, "excluded": scores.excluded}
        )
    return rows


def subset(side: Side, keep: NDArray[np.bool_]) -> Side:
    """The items where `keep` (n,) is true."""
    texts = tuple(t for t, kept in zip(side.texts, keep, strict=True) if kept)
    return Side({name: codes[keep] for name, codes in side.codes.items()}, side.labels[keep], texts)


def training_texts(manifest: Manifest) -> set[str]:
    """Every text that training may have seen, letter case and outer space aside."""
    return {text.strip().lower() for record in manifest.of_split("train") for text in record.texts}


def unseen(queries: Side, train_texts: set[str]) -> NDArray[np.bool_]:
    """Which queries' texts stand nowhere in the training set, letter case and outer space aside."""
    return np.array([text.strip().lower() not in train_texts for text in queries.texts])


def backbone_features(folder: Path, records: tuple[Record, ...], size: int) -> NDArray[np.float64]:
    """Pooled features (n, d) of a frozen Hugging Face backbone, RGB scaled to [-1, 1] at `size` pixels."""
    from transformers import AutoModel  # noqa: PLC0415 - only this benchmark option needs it

    network = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    pictures = [
        np.asarray(Image.open(r.image).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
        for r in records
        if r.image
    ]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            batch = torch.from_numpy(np.stack(pictures[start : start + 64])).permute(0, 3, 1, 2).float()
            parts.append(network(batch / 127.5 - 1).pooler_output.flatten(1).double().numpy())
    return np.concatenate(parts)


def baseline(arguments: argparse.Namespace, manifest: Manifest, size: int) -> list[dict[str, Any]]:
    """CCA-ITQ rows on the frozen backbone's features and TF-IDF texts reduced to 512 dimensions."""
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

    splits = {name: manifest.of_split(name) for name in ("train", "database", "query")}
    images = {name: backbone_features(arguments.backbone, records, size) for name, records in splits.items()}
    tfidf = TfidfVectorizer(min_df=2, sublinear_tf=True)
    # All captions of a training item stand for it, as the learned hasher samples all of them.
    tfidf.fit([" ".join(r.texts) for r in splits["train"]])
    svd = TruncatedSVD(512, random_state=0).fit(tfidf.transform([" ".join(r.texts) for r in splits["train"]]))
    texts = {name: svd.transform(tfidf.transform([r.texts[0] for r in rs])) for name, rs in splits.items()}
    fitted = svd.transform(tfidf.transform([" ".join(r.texts) for r in splits["train"]]))
    best: tuple[float, CcaItq] | None = None
    for ridge in (1e-3, 1e-2, 1e-1, 1.0):
        candidate = CcaItq.fit(
            images["train"], fitted, arguments.bits, ridge=ridge, rng=np.random.default_rng(0)
        )
        value = _selection(candidate, images["train"], texts["train"], manifest.label_matrix(splits["train"]))
        if best is None or value > best[0]:
            best = (value, candidate)
    if best is None:
        raise RuntimeError("no ridge was tried")
    fit = best[1]
    sides = {
        name: Side(
            {"image": fit.image_codes(images[name]), "text": fit.text_codes(texts[name])},
            manifest.label_matrix(records),
            tuple(r.texts[0] for r in records),
        )
        for name, records in splits.items()
    }
    return protocols(
        sides, training_texts(manifest), f"CCA-ITQ on frozen {arguments.backbone.resolve().name}"
    )


def _selection(
    fit: CcaItq, images: NDArray[np.float64], texts: NDArray[np.float64], labels: NDArray[np.bool_]
) -> float:
    """Mean of I->T and T->I mAP of 500 training items against the others: how the ridge is chosen."""
    queries = Side(
        {"image": fit.image_codes(images[:500]), "text": fit.text_codes(texts[:500])}, labels[:500], ()
    )
    database = Side(
        {"image": fit.image_codes(images[500:]), "text": fit.text_codes(texts[500:])}, labels[500:], ()
    )
    return float(np.mean([row["map"] for row in score(queries, database, "", "")[:2]]))


def protocols(sides: dict[str, Side], seen: set[str], what: str) -> list[dict[str, Any]]:
    """Rows of both protocols, and of the queries whose text is nowhere in the training set."""
    rows = []
    for protocol, names in PROTOCOLS.items():
        parts = [sides[name] for name in names]
        shared = set.intersection(*({*part.codes} for part in parts))
        database = Side(
            {name: np.concatenate([part.codes[name] for part in parts]) for name in sorted(shared)},
            np.concatenate([part.labels for part in parts]),
            (),
        )
        rows += score(sides["query"], database, protocol, what)
        new = subset(sides["query"], unseen(sides["query"], seen))
        rows += score(new, database, protocol, f"{what}, query texts unseen in training")
    return rows


def evaluate(folder: Path, manifest: Manifest, what: str) -> tuple[list[dict[str, Any]], Encoder]:
    """Rows of a trained artefact."""
    encoder = Encoder.load(folder, device="auto")
    sides = {
        name: encode(encoder, manifest, manifest.of_split(name)) for name in ("train", "database", "query")
    }
    return protocols(sides, training_texts(manifest), what), encoder


def shown_command() -> str:
    """The command without the interpreter's path, as anyone can run it."""
    return shlex.join(["python", "-m", "bench.quality", *sys.argv[1:]])


def write(
    arguments: argparse.Namespace, manifest: Manifest, runs: list[dict[str, Any]], rows: list[Any]
) -> Path:
    """Write the data file; the photographs stay where they are, only counts and digests are named."""
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    name = arguments.data.resolve().name
    path = folder / f"{name}-{arguments.bits}.json"
    splits = {name: len(manifest.of_split(name)) for name in ("train", "database", "query")}
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    report = {
        "name": f"quality of the undefended hasher on {name}",
        "metric": "mAP@all, expected over tied orders; relevant: a shared label; text: texts[0]",
        "command": shown_command(),
        "machine": machine,
        "data": {"set": name, "fingerprint": manifest.fingerprint, "splits": splits},
        "bits": arguments.bits,
        "runs": runs,
        "rows": rows,
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print rows as a table."""
    table = Table(title=title)
    for column in ("what", "protocol", "task", "mAP", "95 % interval", "chance", "n"):
        table.add_column(column)
    for row in rows:
        interval = f"{row['lo']:.3f} - {row['hi']:.3f}"
        table.add_row(
            row["what"],
            row["protocol"],
            row["task"],
            f"{row['map']:.4f}",
            interval,
            f"{row['chance']:.3f}",
            str(row["n"]),
        )
    Console(width=160).print(table)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="manifest folder")
    parser.add_argument("--models", type=Path, default=Path("runs/quality"), help="where artefacts go")
    parser.add_argument("--out", default="docs/quality")
    parser.add_argument("--recipe", help="name or file of the training recipe")
    parser.add_argument("--backbone", type=Path, help="local folder of a pretrained image backbone")
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--seeds", default="0")
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.data)
    runs, rows = [], []
    size = 96
    for seed in (int(part) for part in arguments.seeds.split(",")):
        folder, took = train(arguments, seed)
        found, encoder = evaluate(folder, manifest, f"hashguard, seed {seed}")
        size = encoder.card.manifest["preprocessing"]["size"]
        runs.append(
            {"seed": seed, "recipe": arguments.recipe or "default", "model_digest": encoder.digest, **took}
        )
        rows += found
    if arguments.backbone:
        rows += baseline(arguments, manifest, size)
    show(rows, f"{arguments.data.resolve().name}, {arguments.bits} bits")
    Console().print(f"trained in {runs}\nwritten to {write(arguments, manifest, runs, rows)}")


if __name__ == "__main__":
    main()
