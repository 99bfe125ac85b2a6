"""A data set encoded by one model, held together with that model's digest, and what an attacker makes of it.

The codes of train, database and queries are computed once per model, by the model itself, and everything
(scores, aims of attacks, gates) is made from this one object: codes of two models have the same width, so
nothing else would notice a mix-up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.attacks.knowledge import Knowledge, choose_goals, shared_labels
from model.attacks.mainstay import mainstay_codes
from model.attacks.rounding import to_levels
from model.attacks.subjects import BATCH, Subject
from model.data.manifest import Manifest, Record
from model.errors import DataError
from model.evaluation.scoring import PROTOCOLS, Bits, Pool, Scorer
from model.inference import Encoder

SPLITS = ("query", "train", "database")

Report = Callable[[int, int], None]
"""Called with (items encoded, items in all)."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Items of one split. codes: bool (n, K) by side; a side holds the items that have it (`of_side`)."""

    records: tuple[Record, ...]
    codes: Mapping[str, Bits]

    def of_side(self, side: str) -> tuple[Record, ...]:
        """The items that the codes of `side` belong to, in order."""
        return tuple(record for record in self.records if has_side(record, side))


@dataclass(frozen=True, eq=False)
class EncodedData:
    """All splits. digest: of the model that encoded them; fingerprint: of the manifest."""

    digest: str
    fingerprint: str
    manifest: Manifest
    splits: Mapping[str, Encoded]

    def labels(self, records: Sequence[Record]) -> Bits:
        """Bool (n, C)."""
        found: Bits = self.manifest.label_matrix(records)
        return found


def has_side(record: Record, side: str) -> bool:
    """Whether an item has the picture or the text."""
    return bool(record.image) if side == "image" else bool(record.texts)


def encode_data(
    subject: Subject, manifest: Manifest, queries: Sequence[Record], report: Report | None = None
) -> EncodedData:
    """Encode the queries, and all labelled items of train and database, by `subject` itself, as served."""
    sides, encoder = sides_of_subject(subject), encoder_of(subject)
    splits = {
        "query": tuple(queries),
        "train": tuple(r for r in manifest.of_split("train") if r.labels),
        "database": tuple(r for r in manifest.of_split("database") if r.labels),
    }
    total = sum(has_side(r, side) for records in splits.values() for r in records for side in sides)
    done, encoded = 0, {}
    for name, records in splits.items():
        codes: dict[str, Bits] = {}
        for side in sides:
            mine = [record for record in records if has_side(record, side)]
            parts = [np.zeros((0, subject.card.bits), dtype=np.bool_)]
            for start in range(0, len(mine), BATCH):
                parts.append(_codes(subject, encoder, side, mine[start : start + BATCH]))
                done += len(parts[-1])
                if report:
                    report(done, total)
            codes[side] = np.concatenate(parts)
        encoded[name] = Encoded(records, codes)
    return EncodedData(subject.digest, manifest.fingerprint, manifest, encoded)


def sides_of_subject(subject: Subject) -> tuple[str, ...]:
    """What the model reads raw: "image", "text" or both."""
    readers = {"image": subject.preprocessing, "text": subject.codec}
    return tuple(side for side, reader in readers.items() if reader is not None)


def make_scorer(own: EncodedData, database: EncodedData, goals: Bits | None, floor: Bits) -> Scorer:
    """Scores against `database`, which the same model must have encoded (the gates look at its digest)."""
    pools = {}
    for protocol, names in PROTOCOLS.items():
        parts = [database.splits[name] for name in names]
        for side in {side for part in parts for side in part.codes}:
            records = [record for part in parts for record in part.of_side(side)]
            codes = np.concatenate([part.codes[side] for part in parts])
            texts = tuple(record.texts[0] if record.texts else "" for record in records)
            pools[side, protocol] = Pool(
                codes, database.labels(records), tuple(record.id for record in records), texts
            )
    return Scorer(own.labels(own.splits["query"].records), goals, floor, pools)


def knowledge_from(encoded: EncodedData, side: str, *, seed: int, device: torch.device) -> Knowledge:
    """What a white-box attacker of `side` queries knows, as subjects.knowledge_of, without encoding again.

    The reference set is the train items that have every side the model reads. Goals are drawn with `seed`,
    None where some query shares a label with every item: then there is nothing to aim at. Raises DataError
    when there is no reference item or no query.
    """
    train, query = encoded.splits["train"], encoded.splits["query"]
    sides = tuple(query.codes)
    both = [record for record in train.records if all(has_side(record, s) for s in sides)]
    if not both or not query.records:
        raise DataError(
            f"wanted labelled queries and labelled train items to aim by, got {len(query.records)} and "
            f"{len(both)}"
        )
    chosen = {record.id for record in both}
    codes = {
        s: signed(train.codes[s][[record.id in chosen for record in train.of_side(s)]], device) for s in sides
    }
    labels = torch.from_numpy(encoded.labels(query.records)).float().to(device)
    everything = torch.cat(list(codes.values()))
    all_labels = torch.from_numpy(encoded.labels(both)).float().to(device).repeat(len(sides), 1)
    other = "text" if side == "image" else "image"
    paired = signed(query.codes[other], device) if other in sides else None
    return Knowledge(
        clean=signed(query.codes[side], device),
        labels=labels,
        codes=everything,
        code_labels=all_labels,
        paired=paired,
        other_side=codes.get(other),
        goals=_goals(labels, all_labels, seed),
    )


def _goals(labels: torch.Tensor, code_labels: torch.Tensor, seed: int) -> torch.Tensor | None:
    if bool(shared_labels(labels, code_labels).all(1).any()):
        return None
    return choose_goals(labels, code_labels, generator=torch.Generator().manual_seed(seed))


def floor_codes(knowledge: Knowledge) -> Bits:
    """Minus the mainstay codes, bool (n, K)."""
    mainstay = mainstay_codes(knowledge.labels, knowledge.codes, knowledge.code_labels)
    found: Bits = (mainstay < 0).cpu().numpy()
    return found


def signed(codes: Bits, device: torch.device) -> torch.Tensor:
    """Bool (n, K) as floats -1/+1 on the device."""
    return torch.from_numpy(codes).to(device).float() * 2 - 1


def digest_of_split(manifest: Manifest, queries: Sequence[Record]) -> str:
    """SHA-256 (hex) over the ids of the evaluated queries and of every split, each sorted."""
    digest = hashlib.sha256()
    parts = [queries, *(manifest.of_split(name) for name in ("query", "train", "database"))]
    for records in parts:
        digest.update(len(records).to_bytes(8, "big"))
        for item_id in sorted(record.id for record in records):
            digest.update(item_id.encode() + b"\0")
    return digest.hexdigest()


def encoder_of(subject: Subject) -> Encoder:
    """The service's own encoder over the subject's hasher: all codes that are scored come out of it."""
    return Encoder(
        subject.card,
        subject.hasher,
        subject.preprocessing,
        subject.codec,
        calibration={},
        device=subject.device,
    )


def _codes(subject: Subject, encoder: Encoder, side: str, records: Sequence[Record]) -> Bits:
    if side == "text":
        return encoder.encode_texts([record.texts[0] for record in records])
    return encoder.encode_images(list(to_levels(subject.images(records))))
