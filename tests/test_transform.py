"""Both forms of the transformations against loops over rows, fields, candidates and digits (Eq. 1-4 and 7)."""
import copy

import numpy as np
import pytest
import torch
from oracles import Transformation, candidate_embeddings, field_tables, random_candidates, random_ids

from autodim.method import lookup as lookup_module
from autodim.method.lookup import Candidates, SeparateLookup, SharedLookup, uniform_candidates
from autodim.method.transform import make_mixture

KINDS = [("zero-padding", False), ("linear", False), ("linear", True)]
LOOKUPS = [SharedLookup, SeparateLookup]
all_forms = pytest.mark.parametrize("branches", [True, False], ids=["branches", "closed"])
all_lookups = pytest.mark.parametrize("lookup_class", LOOKUPS)


@pytest.fixture(params=[2**62, -(2**62)], ids=["rows", "values"], autouse=True)
def saved_at_least(request, monkeypatch) -> int:
    """Each test twice: no block saves enough to be normalised by its distinct values, and every one does."""
    monkeypatch.setattr(lookup_module, "SAVED_AT_LEAST", request.param)
    return request.param


all_kinds = pytest.mark.parametrize("kind, per_field", KINDS)


def random_mixture(seed, lookup_class, kind, per_field, branches, uniform=False):
    """A random mixture in float64, its cardinalities, and the generator that drew them."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    sizes = rng.integers(2, 9, rng.integers(1, 4)).tolist()
    lookup = lookup_class(sizes, random_candidates(rng, len(sizes), uniform))
    mixture = make_mixture(lookup, kind, per_field, branches).double()
    for table in lookup.embedding.tables:  # near the size of sqrt(eps), where a misplaced eps shows
        torch.nn.init.normal_(table.weight, mean=0.01, std=0.01)
    return mixture, sizes, rng


def random_p(rng, candidates) -> torch.Tensor:
    return torch.tensor(rng.random((len(candidates.allowed), len(candidates.dims)))) * candidates.mask()


def reference(mixture, biases: str = "own") -> Transformation:
    """The loops with the weights of a mixture, and its own biases, or "none", or "random" ones."""
    source = getattr(mixture, "branches", mixture)
    candidates = mixture.lookup.candidates
    if not hasattr(source, "weights"):
        return Transformation(candidates.dims, len(candidates.allowed))
    weights = [w.detach().numpy() for w in source.weights]
    b = [np.random.default_rng(0).normal(size=w[:, 0].shape) * (biases == "random") for w in weights]
    if biases == "own" and hasattr(source, "biases"):
        b = [q.detach().numpy() for q in source.biases]
    return Transformation(candidates.dims, len(candidates.allowed), weights, b)


def copy_weights(source, target) -> None:
    """Give one form the weights of the other; biases, which only the branch form has, stay."""
    ours, theirs = ([q for name, q in m.named_parameters() if "biases" not in name] for m in (source, target))
    for a, b in zip(ours, theirs, strict=True):
        b.data.copy_(a)


@all_forms
@all_lookups
@all_kinds
@pytest.mark.parametrize("seed", range(4))
def test_equations_in_training_and_evaluation(kind, per_field, lookup_class, branches, seed):
    """Training batches of changing size, evaluation with the statistics that they left, then both again."""
    mixture, sizes, rng = random_mixture(seed, lookup_class, kind, per_field, branches, uniform=seed % 2 == 0)
    candidates, oracle = mixture.lookup.candidates, reference(mixture)
    tables = field_tables(mixture.lookup.embedding, sizes)
    for training in (True, True, False, True, False):
        ids, p = random_ids(rng, sizes, int(rng.integers(2, 12))), random_p(rng, candidates)
        x = candidate_embeddings(tables, candidates, lookup_class is SharedLookup, ids)
        found = mixture.train(training)(ids, p).detach().numpy()
        np.testing.assert_allclose(found, oracle(x, p.numpy(), training), rtol=1e-8, atol=1e-10)


@all_lookups
@all_kinds
def test_running_statistics_are_the_loops(kind, per_field, lookup_class):
    """Momentum 0.1 and the unbiased variance, kept for each field, candidate and digit."""
    mixture, sizes, rng = random_mixture(3, lookup_class, kind, per_field, True, uniform=True)
    closed = make_mixture(mixture.lookup, kind, per_field).double()
    copy_weights(mixture, closed)
    oracle, plain = reference(mixture), reference(mixture, "none")
    candidates = mixture.lookup.candidates
    tables = field_tables(mixture.lookup.embedding, sizes)
    for _ in range(5):
        ids, p = random_ids(rng, sizes, 9), random_p(rng, candidates)
        x = candidate_embeddings(tables, candidates, lookup_class is SharedLookup, ids)
        for form in (mixture, closed):
            form(ids, p)
        oracle(x, p.numpy(), True), plain(x, p.numpy(), True)
    for n, (d, norm) in enumerate(zip(candidates.dims, mixture.branches.norms)):
        d = candidates.d_max if kind == "linear" else d
        for found, expected in ((norm.running_mean, oracle.mean), (norm.running_var, oracle.var)):
            np.testing.assert_allclose(found.unflatten(0, (len(sizes), d)), expected[:, n, :d], rtol=1e-9, atol=1e-12)
    if kind == "linear":
        np.testing.assert_allclose(closed.running_mean, plain.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(closed.running_var, plain.var, rtol=1e-9, atol=1e-12)


@all_forms
@all_lookups
@pytest.mark.parametrize("per_field", [False, True])
def test_biases_cancel_in_training(lookup_class, per_field, branches):
    mixture, sizes, rng = random_mixture(5, lookup_class, "linear", per_field, branches)
    candidates, oracle = mixture.lookup.candidates, reference(mixture, "random")
    ids, p = random_ids(rng, sizes, 11), random_p(rng, candidates)
    tables = field_tables(mixture.lookup.embedding, sizes)
    x = candidate_embeddings(tables, candidates, lookup_class is SharedLookup, ids)
    expected = oracle(x, p.numpy(), True)
    np.testing.assert_allclose(mixture(ids, p).detach(), expected, rtol=1e-7, atol=1e-9)
    for bias in getattr(mixture, "branches", mixture).biases if branches else ():
        torch.nn.init.normal_(bias)
    np.testing.assert_allclose(mixture(ids, p).detach(), expected, rtol=1e-7, atol=1e-9)


@all_lookups
@all_kinds
def test_forms_agree_to_rounding_in_float32(kind, per_field, lookup_class):
    """At a real search's sizes and weights; there biases of 0.5 on values of 0.01 cost the branch form digits."""
    torch.manual_seed(0)
    sizes = [2, 30, 500]
    slow = make_mixture(lookup_class(sizes, uniform_candidates(3)), kind, per_field, branches=True)
    fast, exact = make_mixture(slow.lookup, kind, per_field), copy.deepcopy(slow).double()
    copy_weights(slow, fast)
    p = torch.rand(3, 5).softmax(1)
    for _ in range(3):
        ids = torch.stack([torch.randint(c, (1000,)) for c in sizes], 1)
        truth = exact(ids, p.double()).detach()
        assert (fast(ids, p) - truth).abs().max() < 3e-5
        assert (slow(ids, p) - truth).abs().max() < (1e-3 if kind == "linear" else 3e-5)


@all_forms
@all_lookups
@all_kinds
def test_gradient_in_p_by_finite_differences(kind, per_field, lookup_class, branches):
    mixture, sizes, rng = random_mixture(7, lookup_class, kind, per_field, branches)
    ids, p = random_ids(rng, sizes, 8), random_p(rng, mixture.lookup.candidates).requires_grad_()
    pull = torch.tensor(rng.normal(size=(8, len(sizes), mixture.lookup.candidates.d_max)))
    for training in (True, False):
        mixture.train(training)
        (gradient,) = torch.autograd.grad((mixture(ids, p) * pull).sum(), p)
        for place in np.ndindex(*p.shape):
            nudge = torch.zeros_like(p)
            nudge[place] = 1e-4
            with torch.no_grad():
                slope = ((mixture(ids, p + nudge) - mixture(ids, p - nudge)) * pull).sum().item() / 2e-4
            assert gradient[place].item() == pytest.approx(slope, rel=1e-6, abs=1e-7)


@all_lookups
@all_kinds
@pytest.mark.parametrize("seed", range(3))
def test_forms_have_the_same_gradients_in_all_weights(kind, per_field, lookup_class, seed):
    slow, sizes, rng = random_mixture(seed, lookup_class, kind, per_field, True)
    fast = make_mixture(slow.lookup, kind, per_field).double()
    copy_weights(slow, fast)
    ids, p = random_ids(rng, sizes, 13), random_p(rng, slow.lookup.candidates)
    pull = torch.tensor(rng.normal(size=(13, len(sizes), slow.lookup.candidates.d_max)))
    gradients = []
    for form in (slow, fast):
        weights = [q for name, q in form.named_parameters() if "biases" not in name]
        gradients.append(torch.autograd.grad((form(ids, p) * pull).sum(), weights))
    for a, b in zip(*gradients):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-7 * a.abs().max().item() + 1e-12)


@all_forms
@all_lookups
@all_kinds
def test_a_candidate_of_weight_zero_has_no_influence(kind, per_field, lookup_class, branches):
    """Digits beyond a field's largest allowed candidate get no gradient, and other fields never feel it."""
    torch.manual_seed(1)
    sizes, candidates = [4, 5], Candidates((2, 4), ((2,), (2, 4)))
    mixture = make_mixture(lookup_class(sizes, candidates), kind, per_field, branches)
    ids = torch.stack([torch.randint(c, (20,)) for c in sizes], 1)
    p = torch.tensor([[1.0, 0.0], [0.4, 0.6]])
    x = mixture(ids, p).detach()
    if kind == "zero-padding":
        assert (x[:, 0, 2:] == 0).all()
    narrow = mixture.lookup.embedding.tables[0].weight
    assert narrow.shape[1] == 2  # field 0 stores two digits only
    with torch.no_grad():
        narrow.mul_(3).add_(1)
    y = mixture(ids, p).detach()
    assert y[:, 1].equal(x[:, 1]) and not y[:, 0].equal(x[:, 0])


@all_forms
@all_lookups
@pytest.mark.parametrize("transformation, per_field", KINDS)
def test_a_training_batch_of_one_row_is_refused(transformation, per_field, lookup_class, branches):
    mixture = make_mixture(lookup_class([5, 7], uniform_candidates(2)), transformation, per_field, branches)
    with pytest.raises(ValueError, match="one row|more than 1 value"):
        mixture(torch.zeros(1, 2, dtype=torch.long), torch.full((2, 5), 0.2))
