"""A tiny clean model, saved as an artefact, to be learnt from."""

from dataclasses import dataclass
from pathlib import Path

from tiny_training import ARCHITECTURE, BITS, SIDE, draw_corpus, seeded

from model.artefact import save_artefact
from model.artefact_parts import ArtefactParts
from model.hashers.base import CrossModalHasher
from model.hashers.create import create_hasher
from model.hashers.weights import to_arrays
from model.preprocessing import Preprocessing


@dataclass(frozen=True)
class Taught:
    """Where it lies, what it is, what it reads."""

    folder: Path
    hasher: CrossModalHasher
    tokenizer: str


def save_teacher(models):
    corpus, _ = draw_corpus()
    texts = [text for each in corpus.texts for text in each]
    request = {**ARCHITECTURE, "text": {**ARCHITECTURE["text"], "tokenizer": {"kind": "bpe", "size": 120}}}
    created = create_hasher(request, BITS, texts, seeded(3))
    created.hasher.eval()
    parts = ArtefactParts(
        architecture=created.architecture,
        bits=BITS,
        tensors=to_arrays(created.hasher),
        preprocessing=Preprocessing(size=SIDE),
        tokenizer=created.codec.to_json(),
        label_names=corpus.label_names,
        training_data={"fingerprint": "0" * 64},
        defence={"name": "none", "recipe": {}},
        seed=3,
        code_version="0",
    )
    return Taught(save_artefact(models, "teacher", parts), created.hasher, created.codec.to_json())
