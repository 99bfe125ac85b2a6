"""Labels for pairs that have none, from clusters of their texts.

Training needs to know which pairs mean the same. Without labels, TF-IDF vectors of the texts are
factored (non-negative matrix factorisation, Lee and Seung 1999) and every text gets the topics that
carry a good share of it: several for a text about several things, as with real labels. The choice of
NMF over k-means is ours: k-means gives one cluster per text, and relevance by one shared cluster is
too coarse a target for multi-label hashing. Whoever uses these labels must say so; they are a guess.
Needs scikit-learn, which only the training extra installs.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer

from model.errors import DataError

# A topic counts for a text when it carries at least this share of the text's weight.
SHARE = 0.25
MAX_CLUSTERS = 1000
MAX_WORDS = 20_000
TOP_WORDS = 5


@dataclass(frozen=True)
class PseudoLabels:
    """`labels[i]` are text i's labels (`cluster:007`), none for a text without a known word.

    `summary` has one line per cluster for people: its label, how many texts have it, its top words.
    """

    labels: tuple[tuple[str, ...], ...]
    summary: tuple[str, ...]


def pseudo_labels(texts: Sequence[str], clusters: int, seed: int) -> PseudoLabels:
    """Cluster `texts` into multi-label topics; the same arguments give the same labels.

    Raises DataError when `clusters` is not 2 to MAX_CLUSTERS, or the texts have fewer different
    words, or are fewer, than that.
    """
    if not 2 <= clusters <= MAX_CLUSTERS:
        raise DataError(f"wanted 2 to {MAX_CLUSTERS} text clusters, got {clusters}")
    if len(texts) < clusters:
        raise DataError(f"wanted at least {clusters} texts for as many clusters, got {len(texts)}")
    vectorizer = TfidfVectorizer(
        stop_words="english", sublinear_tf=True, max_features=MAX_WORDS, dtype=np.float64
    )
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise DataError(f"no words to cluster in {len(texts)} texts: {error}") from error
    words = vectorizer.get_feature_names_out()
    if len(words) < clusters:
        raise DataError(f"wanted at least {clusters} different words for as many clusters, got {len(words)}")
    model = NMF(clusters, init="nndsvda", random_state=seed, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        # An unfinished factorisation is still a clustering; the iteration limit bounds the time.
        warnings.simplefilter("ignore", ConvergenceWarning)
        topics = model.fit_transform(weights)
    # The factorisation leaves the scale between its two factors open; this one makes topics comparable.
    topics = topics * model.components_.sum(axis=1)
    total = topics.sum(axis=1, keepdims=True)
    share = np.divide(topics, total, out=np.zeros_like(topics), where=total > 0)
    strongest = share.max(axis=1, keepdims=True)
    member = (share >= np.minimum(SHARE, strongest)) & (share > 0)
    names = [f"cluster:{cluster:03d}" for cluster in range(clusters)]
    labels = tuple(tuple(names[c] for c in np.flatnonzero(row)) for row in member)
    summary = tuple(
        f"{name} ({int(member[:, c].sum())} texts): "
        + ", ".join(words[w] for w in np.argsort(-model.components_[c], kind="stable")[:TOP_WORDS])
        for c, name in enumerate(names)
    )
    return PseudoLabels(labels, summary)
