"""Variants of a small trained model as artefacts of their own: one tower, or another recorded defence."""

from pathlib import Path

from model.artefact import save_artefact
from model.artefact_parts import ArtefactParts
from model.attacks.subjects import Subject
from model.hashers.weights import to_arrays


def save_variant(
    subject: Subject,
    models: Path,
    name: str,
    *,
    sides: tuple[str, ...] = ("image", "text"),
    defence="none",
    score=None,
) -> Path:
    """The artefact's folder. score: content of `score.safetensors`."""
    card = subject.card.manifest
    tensors = {key: array for key, array in to_arrays(subject.hasher).items() if key.startswith(sides)}
    parts = ArtefactParts(
        architecture={side: card["architecture"][side] for side in sides},
        bits=subject.card.bits,
        tensors=tensors,
        preprocessing=subject.preprocessing if "image" in sides else None,
        tokenizer=subject.text_codec().to_json() if "text" in sides else None,
        label_names=card["label_names"],
        training_data=card["training_data"],
        defence={"name": defence},
        seed=card["seed"],
        code_version=card["code_version"],
        score_tensors=score,
    )
    return save_artefact(models, name, parts)
