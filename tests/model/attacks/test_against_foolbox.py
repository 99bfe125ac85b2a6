"""Against Foolbox's PGD on the same loss and budget at equal steps: ours must be at least as strong.

Foolbox (Rauber et al. 2020) is a test dependency only. Its attacks keep the last iterate; ours the best.
"""

import os
import warnings

import pytest
import torch
from tiny_hashers import Trained, World, seeded

from model.attacks.base import Target
from model.attacks.iterative import apgd, pgd
from model.attacks.mainstay import signs
from model.attacks.objectives import Mainstay, OwnCode
from model.attacks.relaxation import Relaxation
from model.attacks.threat import Threat
from model.attacks.victims import ImageModel

with warnings.catch_warnings():
    # Foolbox 3.3.4 imports names that SciPy has moved, and GitPython, which looks for git, for its model zoo.
    warnings.simplefilter("ignore", DeprecationWarning)
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import eagerpy
    import foolbox

STEPS = 12
RELATIVE = 0.2
THREATS = {"linf": Threat("linf", 12 / 255), "l2": Threat("l2", 1.0)}
AIMS = {"own-code": OwnCode(1.0), "mainstay": Mainstay()}


def by_foolbox(trained: Trained, world: World, target: Target, aim, threat: Threat):
    """Their PGD, maximising the sum of our objective over tanh of the same logits."""
    base = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[threat.norm]

    class OnCodes(base):
        def get_loss_fn(self, model, labels):
            def loss(inputs):
                h = torch.tanh(model(inputs).raw)
                return eagerpy.astensor(aim(h, target).sum())

            return loss

    attack = OnCodes(rel_stepsize=RELATIVE, steps=STEPS, random_start=True)
    model = foolbox.PyTorchModel(trained.hasher.image_tower().eval(), bounds=(0, 1), device="cpu")
    labels = torch.zeros(len(world.images), dtype=torch.int64)  # unused: the aim is in the target
    with torch.random.fork_rng():
        torch.manual_seed(0)
        criterion = foolbox.criteria.Misclassification(labels)
        _, clipped, _ = attack(model, world.images, criterion, epsilons=threat.eps)
    trained.hasher.zero_grad(set_to_none=True)
    return clipped


@pytest.fixture(params=["undefended", "defended"])
def trained(request) -> Trained:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize("norm", THREATS)
def test_ours_is_at_least_as_strong_at_equal_steps(trained, norm, aim, queries):
    objective, threat = AIMS[aim], THREATS[norm]
    target = objective.target(trained.knowledge(queries), generator=seeded(0))
    theirs = by_foolbox(trained, queries, target, objective, threat)
    assert threat.contains(theirs, queries.images, 1e-4).all()
    with torch.no_grad():
        logits = trained.hasher.image_tower()(theirs)
    soft_theirs = objective(torch.tanh(logits), target).mean()
    hard_theirs = objective(signs(logits), target).mean()
    clean = objective(trained.codes(queries), target).mean()
    assert soft_theirs > clean  # their attack works: the comparison says something
    model = ImageModel(trained.hasher)

    # The same loss (the model's own tanh), steps and step length, judged by that loss.
    same = pgd(threat, objective, steps=STEPS, step=RELATIVE, relaxation=Relaxation("tanh"))
    found = same(
        model,
        queries.images,
        target,
        generator=seeded(0),
        criterion=lambda z, t: objective(torch.tanh(z), t),
    )
    assert found.value.mean() >= soft_theirs - 0.005

    # As the suite runs it, judged by what retrieval sees: the bits.
    for attack in (pgd(threat, objective, steps=STEPS), apgd(threat, objective, steps=STEPS)):
        ours = attack(model, queries.images, target, generator=seeded(0))
        assert ours.loss.mean() >= hard_theirs - 0.005
