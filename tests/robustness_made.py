"""A made robustness.json, as `hashguard evaluate --record` would write it for a model of a given digest."""

import copy

PROTOCOLS = ("train+database", "database")
LEVELS = ((2, 0.61), (4, 0.47), (8, 0.33), (255, 0.09))
"""Levels of 255 and the worst case there, of 0.70 clean: 8/255 takes more than half."""


def figures(value, **more):
    return {"map": value, "lo": value - 0.02, "hi": value + 0.02, "chance": 0.15, "n": 100, **more}


def case(task, protocol, norm, eps, value, clean=0.70, attacks=("apgd:mainstay", "apgd:own-code")):
    place = {"task": task, "protocol": protocol, "norm": norm, "eps": eps}
    return {**place, **figures(value, clean_map=clean, attacks=list(attacks))}


def cases(levels=LEVELS):
    """Worst cases of both sides under both protocols; the strict one's are a little lower."""
    found = []
    for protocol, less in zip(PROTOCOLS, (0.0, 0.01), strict=True):
        found += [case("image-to-text", protocol, "linf", n / 255, value - less) for n, value in levels]
        for norm, eps, value in (("text", 0.2, 0.40), ("words", 0.2, 0.50), ("typos", 1.0, 0.42)):
            attacks = {"words": ["words:mainstay"], "typos": ["typos:mainstay"]}.get(
                norm, ["words:mainstay", "typos:mainstay"]
            )
            found.append(case("text-to-image", protocol, norm, eps, value - less, attacks=attacks))
    return found


def attack(name, side="image", norm="linf", eps=8 / 255, **more):
    effort = {"steps": 30, "restarts": 2, "queries": 0, "n": 100, "purpose": "suite", **more}
    return {"attack": name, "side": side, "norm": norm, "eps": eps, **effort}


def robustness_table(digest="ab" * 32, **changes):
    """The content as plain JSON; `changes` replace fields at the top."""
    table = {
        "format": 1,
        "model": {"name": "tiny", "version": "1", "digest": digest},
        "data": {
            "name": "scenes",
            "fingerprint": "cd" * 32,
            "split_digest": "ef" * 32,
            "counts": {"train": 500, "database": 200, "query": 100},
            "queries": 100,
        },
        "threat": {
            "goals": ["untargeted: what is relevant to a query is to rank low"],
            "knowledge": ["white box: weights, hash layer, preprocessing"],
            "capability": ["pictures: L-inf up to 8/255", "texts: at most 20 % of the words"],
            **dict.fromkeys(("metric", "relevance", "ties", "intervals", "wordnet"), "in words"),
        },
        "profile": "quick",
        "seed": 0,
        "command": "hashguard evaluate --data scenes --model tiny/1 --attacks quick --out out --seed 0",
        "twin": None,
        "attacks": [attack("apgd:mainstay"), attack("words:mainstay", "text", "words", 0.2, steps=0)],
        "clean": [
            {"task": task, "protocol": protocol, **figures(0.70)}
            for task in ("image-to-text", "text-to-image")
            for protocol in PROTOCOLS
        ],
        "worst_case": cases(),
        "gates": {
            "judged": 2,
            "held": ["deterministic", "works-on-twin"],
            "not_judged": [{"name": "transfer", "why": "no surrogate was given"}],
        },
        "not_run": [],
        "versions": {"torch": "2.13.0", "hashguard": "0.1.0"},
    }
    return copy.deepcopy({**table, **changes})
