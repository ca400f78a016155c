"""Sums that follow a stream, against all rows weighted by their age; plans in other shapes."""
from dataclasses import replace

import pytest
import torch

from autodim.data.batches import Part
from autodim.data.datasets import load_dataset
from autodim.memory.compress import Compression, Compressor, apply_plan
from autodim.memory.stream import Follower, curvature_drift, fitted_plan, forgotten, frequency_drift
from autodim.method.backbones import Network
from autodim.method.models import DLRS


@pytest.fixture(scope="module")
def followed():
    """A network as it was initialised, planted rows in three steps, and a follower after two updates."""
    data = load_dataset("planted", seed=1)
    torch.manual_seed(0)
    model = DLRS(data.cardinalities, [4] * len(data.fields), Network(hidden=(8,))).eval()
    steps = [Part(data.train.ids[k * 900 : (k + 1) * 900], data.train.labels[:900]) for k in range(3)]
    first = replace(data, train=steps[0])
    follower = Follower(Compressor(model, first, Compression(groups=3)), first, keep=0.3)
    for rows in steps[1:]:
        follower.update(rows)
    return data, model, steps, follower


def test_sums_are_those_of_all_rows_weighted_by_age(followed):
    """Row by row, in float64: p(1-p) g gᵀ by autograd of one row's logit."""
    data, model, steps, follower = followed
    wide, s = model.double(), follower.sums[2]
    m, of_ids = s.table.field, s.groups.of_ids()
    expected = torch.zeros(len(s.groups.starts), 4, 4).double()
    for weight, rows in zip((0.09, 0.3, 1.0), steps):
        for ids in rows.ids[:40]:
            vectors = wide.embedding(ids.unsqueeze(0)).detach().requires_grad_()
            logit = wide.backbone(vectors, ids.unsqueeze(0))[0]
            (g,) = torch.autograd.grad(logit, vectors)
            own, p = g.flatten()[4 * m : 4 * m + 4], logit.detach().sigmoid()
            expected[of_ids[ids[m]]] += weight * p * (1 - p) * own.unsqueeze(1) * own.unsqueeze(0)
    model.float()
    short = [Part(rows.ids[:40], rows.labels[:40]) for rows in steps]
    few = Follower(follower.first, replace(data, train=short[0]), keep=0.3)
    for rows in short[1:]:
        few.update(rows)
    torch.testing.assert_close(few.sums[2].gradients.sum(0), expected, rtol=1e-4, atol=1e-9)
    assert few.sums[2].rows.sum().item() == pytest.approx(40 * 1.39)


@pytest.mark.parametrize("keep, kept", [(0.0, [2]), (1.0, [0, 1, 2])])
def test_nothing_or_all_is_kept(followed, keep, kept):
    data, model, steps, follower = followed
    first = replace(data, train=steps[0])
    other = Follower(follower.first, first, keep)
    for rows in steps[1:]:
        other.update(rows)
    rows = torch.cat([steps[k].ids for k in kept])
    for s in other.sums:
        torch.testing.assert_close(s.counts.double(), torch.bincount(rows[:, s.table.field],
                                                                     minlength=len(s.counts)).double())


def test_a_followed_compressor_packs_within_its_budget(followed):
    data, model, _, follower = followed
    now = follower.compressor(data.val)
    made = apply_plan(now, now.within(0.3 * now.full_bytes))
    assert made.bytes <= 0.3 * now.full_bytes
    changed = DLRS(data.cardinalities, [4] * len(data.fields), Network(hidden=(8,)))
    follower.update(Part(data.train.ids[:500], data.train.labels[:500]), changed)
    later = follower.compressor(data.val)
    weights = {o.table.module.weight.data_ptr() for o in later.offers}
    assert not weights & {q.data_ptr() for q in (*model.parameters(), *changed.parameters())}  # of a copy
    assert torch.equal(later.offers[0].table.weight().float(), changed.embedding(
        torch.arange(data.cardinalities[0]).unsqueeze(1).repeat(1, len(data.fields)).clamp(
            max=torch.tensor(data.cardinalities) - 1))[:, :4].double().float())


def test_drift_by_hand():
    assert frequency_drift(torch.tensor([1, 1, 2]), torch.tensor([4, 0, 0])) == pytest.approx(0.75)
    assert frequency_drift(torch.tensor([3, 1]), torch.tensor([6, 2])) == 0


def test_curvature_drift_is_none_of_the_same_and_one_of_twice(followed):
    s = followed[3].sums[0]
    assert curvature_drift(s, s) == 0
    assert curvature_drift(s, replace(s, gradients=2 * s.gradients)) == pytest.approx(1)


def test_errors_name_the_table(followed):
    s, t = followed[3].sums[:2]
    with pytest.raises(ValueError, match="keep=-1: expected a share from 0 to 1"):
        forgotten(s, s, -1)
    with pytest.raises(ValueError, match=f"table '{t.table.name}': sums by other groups"):
        forgotten(s, t, 0.5)


def test_a_plan_of_fewer_or_more_components_is_fitted(followed):
    c = followed[3].first
    plan = c.within(0.3 * c.full_bytes)
    longer = [torch.cat([bits, torch.ones_like(bits)]) for bits in plan]
    assert all(torch.equal(a, b) for a, b in zip(fitted_plan(longer, c), plan))
    shorter = fitted_plan([bits[:1] for bits in plan], c)
    assert all(torch.equal(a[:1], b[:1]) and not a[1:].any() for a, b in zip(shorter, plan))
    with pytest.raises(ValueError, match="groups, the plan has"):
        fitted_plan([bits.repeat(1, 9) for bits in plan], c)
