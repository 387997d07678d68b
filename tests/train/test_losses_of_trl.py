"""Our losses against those of TRL: its trainers' own methods on random log-probabilities, values and gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdaug.train.cross_vocabulary import Shared, align, merged, uld
from kdaug.train.divergences import jsd
from kdaug.train.losses import linear_divergence
from kdaug.train.preference_losses import PREFERENCE_LOSSES, Pairs, kto, kto_z0
from kdaug.train.reward_losses import bradley_terry

pytestmark = pytest.mark.slow  # importing TRL takes several seconds

ROWS, LENGTH = 6, 8


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trainer(**settings: Any) -> SimpleNamespace:
    """What TRL's loss methods read of their trainer."""
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


class Answers:
    """Token log-probabilities of rows of answers, and a model that gives them to TRL: by each row's first token."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        self.lengths = torch.randint(2, LENGTH, (rows,), generator=torch.Generator().manual_seed(seed))
        self.mask = (torch.arange(LENGTH) > LENGTH - 1 - self.lengths[:, None]).long()  # the answer is at the end
        self.logprobs = (-normal(rows, LENGTH - 1, seed=seed + 1).abs()).requires_grad_()
        self.ids = torch.arange(rows)[:, None].expand(rows, LENGTH).contiguous()

    def __call__(self, input_ids: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        found = torch.where(labels[:, 1:] != -100, self.logprobs[input_ids[:, 0]], 0.0)
        blank = torch.zeros_like(found)
        return SimpleNamespace(log_probs=found, entropy=blank, mean_logits=blank, is_top1=blank.bool())

    @property
    def sums(self) -> Tensor:
        return (self.logprobs * self.mask[:, 1:]).sum(1)


def agree(ours: Tensor, theirs: Tensor, inputs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(loss, inputs, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


PAIRED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [  # ours, its settings, theirs
    ("dpo", {}, {"loss_types": ["sigmoid"]}),
    ("robust_dpo", {}, {"loss_types": ["robust"]}),
    ("ipo", {}, {"loss_types": ["ipo"]}),
    ("hinge", {}, {"loss_types": ["hinge"]}),
    ("dpo_norm", {"beta": 0.1}, {"loss_types": ["sigmoid_norm"]}),
    ("f_dpo", {"divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
    ("f_dpo", {"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
    ("f_dpo", {"divergence": "alpha", "alpha": 0.3}, {"f_divergence_type": "alpha_divergence"}),
    ("exo", {"label_smoothing": 0.1}, {"loss_types": ["exo_pair"]}),
    ("nca", {}, {"loss_types": ["nca_pair"]}),
    ("bco", {}, {"loss_types": ["bco_pair"]}),
    ("sppo_hard", {"beta": 0.1}, {"loss_types": ["sppo_hard"]}),
    ("apo_zero", {}, {"loss_types": ["apo_zero"]}),
    ("apo_down", {}, {"loss_types": ["apo_down"]}),
    ("aot", {"label_smoothing": 0.1}, {"loss_types": ["aot"]}),
]


@pytest.mark.parametrize(("name", "settings", "theirs"), PAIRED)
def test_pairs_with_a_reference(name: str, settings: dict[str, Any], theirs: dict[str, Any]) -> None:
    from trl import DPOTrainer

    answers = Answers(2 * ROWS)
    reference = answers.sums.detach() + normal(2 * ROWS, seed=7)
    defaults = {
        "loss_types": ["sigmoid"],
        "loss_weights": [1.0],
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.3,
        "beta": 0.1,
        "label_smoothing": 0.1,
        "use_weighting": False,
        "ld_alpha": None,
    }
    inputs = {
        "input_ids": answers.ids,
        "attention_mask": torch.ones_like(answers.ids),
        "completion_mask": answers.mask,
        "ref_chosen_logps": reference[:ROWS],
        "ref_rejected_logps": reference[ROWS:],
    }
    expected = DPOTrainer._compute_loss(trainer(**{**defaults, **theirs}), answers, inputs, False)
    pairs = Pairs(*answers.sums.split(ROWS), *answers.lengths.split(ROWS), *reference.split(ROWS))
    agree(PREFERENCE_LOSSES[name].bind(**settings)(pairs).mean(), expected, answers.logprobs)


@pytest.mark.parametrize("good", [[1, 0, 1, 1, 0, 0], [1] * 6, [0] * 6])
def test_kto(good: list[int]) -> None:
    from trl import KTOTrainer

    answers, desirable = Answers(2 * ROWS), torch.tensor(good).bool()
    reference = answers.sums.detach() + normal(2 * ROWS, seed=7) - 0.3
    first, mismatched = slice(0, ROWS), slice(ROWS, 2 * ROWS)
    inputs = {
        "input_ids": answers.ids[first],
        "attention_mask": torch.ones(ROWS, LENGTH),
        "completion_mask": answers.mask[first],
        "KL_input_ids": answers.ids[mismatched],
        "KL_attention_mask": torch.ones(ROWS, LENGTH),
        "KL_completion_mask": answers.mask[mismatched],
        "label": desirable,
        "ref_logps": reference[first],
        "ref_KL_logps": reference[mismatched],
    }
    stub = trainer(calculate_KL=True, loss_type="kto", beta=0.1, desirable_weight=1.2, undesirable_weight=0.8)
    stub._compute_kl_logps = partial(KTOTrainer._compute_kl_logps, stub)
    expected = KTOTrainer._compute_loss(stub, answers, inputs, False)
    ratios = answers.sums - reference
    z0 = kto_z0(ratios[mismatched])
    assert z0 > 0
    agree(kto(ratios[first], desirable, z0, 0.1, 1.2, 0.8).mean(), expected, answers.logprobs)


@pytest.mark.parametrize(("name", "loss_type"), [("cpo", "sigmoid"), ("simpo", "simpo")])
def test_pairs_without_a_reference(name: str, loss_type: str) -> None:
    from trl.experimental.cpo import CPOTrainer

    answers = Answers(2 * ROWS)
    pairs = Pairs(*answers.sums.split(ROWS), *answers.lengths.split(ROWS))
    stub = trainer(alpha=0.0, loss_type=loss_type, simpo_gamma=1.0, beta=2.0, label_smoothing=0.0)
    scores = pairs.means if name == "simpo" else (pairs.chosen, pairs.rejected)
    expected, *_ = CPOTrainer.cpo_loss(stub, *scores)
    settings = {"beta": 2.0, "alpha": 0.0} if name == "cpo" else {"beta": 2.0, "gamma_over_beta": 0.5}
    agree(PREFERENCE_LOSSES[name].bind(**settings)(pairs).mean(), expected.mean(), answers.logprobs)


def test_orpo() -> None:
    from trl.experimental.orpo import ORPOTrainer

    answers = Answers(2 * ROWS)
    pairs = Pairs(*answers.sums.split(ROWS), *answers.lengths.split(ROWS))
    odds, *_ = ORPOTrainer.odds_ratio_loss(trainer(beta=0.1), *pairs.means)
    agree(PREFERENCE_LOSSES["orpo"].bind()(pairs).mean(), (pairs.nll - odds).mean(), answers.logprobs)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_generalised_jsd(beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    teacher, student = normal(12, 20), normal(12, 20, seed=1).requires_grad_()
    expected = GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, temperature=1.5)
    ours = jsd((teacher / 1.5).log_softmax(-1), (student / 1.5).log_softmax(-1), beta).mean()
    agree(ours, expected, student)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_chunked_divergence(beta: float) -> None:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    states, head, guide_states, guide = normal(2, 6, 5), normal(20, 5), normal(2, 6, 7), normal(20, 7, seed=3)
    states.requires_grad_()
    mask = torch.tensor([[1, 1, 1, 0, 1, 1], [0, 1, 1, 1, 0, 0]])
    expected, _, _ = _chunked_divergence_loss(states, guide_states, head, guide, mask, beta, temperature=1.5)
    kept = mask.bool()
    divergence = partial(jsd, beta=beta)
    ours = linear_divergence(
        states[kept], head, guide_states[kept], guide, divergence, vocabulary=20, temperature=1.5, chunk=3
    )
    agree(ours.mean(), expected, states)


@pytest.mark.parametrize("hybrid", [False, True])
def test_aligned_vocabularies(hybrid: bool) -> None:
    """With its `bayesian` merge, whose rows are the right ones."""
    from trl.experimental.gold.gold_trainer import ULDLoss

    vocabularies = (
        {f"s{i}": i for i in range(9)} | {"a": 9, "b": 10},
        {f"t{i}": i for i in range(11)} | {"b": 11, "a": 12},
    )
    config = SimpleNamespace(
        uld_crossentropy_weight=0.0,
        uld_distillation_weight=1.0,
        uld_student_temperature=1.0,
        uld_teacher_temperature=1.0,
        uld_skip_student_eos=False,
        uld_skip_teacher_eos=False,
        use_extended_uld=True,
        uld_token_merge_strategy="bayesian",
        uld_use_hybrid_loss=hybrid,
        beta=0.3,
    )
    loss = ULDLoss(config, *(SimpleNamespace(get_vocab=lambda v=v: v) for v in vocabularies))
    ends = [3, 4, 6, 7, 9], [1, 3, 4, 7, 8, 9]  # after a prompt of two tokens each
    student, teacher = normal(1, 7, 11).requires_grad_(), normal(1, 8, 13, seed=1)
    ids = [torch.randint(11, (1, n), generator=torch.Generator().manual_seed(n)) for n in (7, 8)]
    labels = [torch.cat([torch.full((1, 2), -100), i[:, 2:]], 1) for i in ids]
    offsets = [torch.tensor([[[0, 0], [0, 0], *([0, e] for e in side)]]) for side in ends]
    expected = loss(student, teacher, *labels, *ids, *offsets)
    groups = align(*ends)
    assert [(len(s), len(t)) for s, t in groups] == [(1, 2), (1, 1), (2, 1), (1, 2)]
    rows = [
        merged(z[0, 1:-1].log_softmax(-1), i[0, 2:], own, "last")
        for z, i, own in ((teacher, ids[1], [t for _, t in groups]), (student, ids[0], [s for s, _ in groups]))
    ]
    divergence: Callable[..., Tensor] = partial(Shared.of(*vocabularies).hybrid, beta=0.3) if hybrid else uld
    agree(divergence(*rows).mean(), expected, student)


def test_rewards() -> None:
    from trl import RewardTrainer

    scores, margin = normal(2 * ROWS).requires_grad_(), normal(ROWS, seed=2)
    stub = trainer(args=SimpleNamespace(center_rewards_coefficient=0.01))
    inputs = {"margin": margin, "attention_mask": torch.ones(2 * ROWS, 3)}
    expected = RewardTrainer.compute_loss(stub, lambda **_: SimpleNamespace(logits=scores[:, None]), inputs)
    agree(bradley_terry(*scores.split(ROWS), margin=margin, centring=0.01).mean(), expected, scores)
