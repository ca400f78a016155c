"""Selection of dimensions against loops and SciPy (Eq. 5, 6 and 13)."""
import json

import numpy as np
import oracles
import pytest
import scipy.stats
import torch

from autodim.method.lookup import Candidates, uniform_candidates
from autodim.method.selection import (
    Selection, derive_dims, entropy, gumbel_noise, gumbel_softmax, load_dims, margin, temperature,
)  # fmt: skip


def random_log_alpha(rng, m=4, n=5) -> np.ndarray:
    return np.log(rng.dirichlet(np.ones(n), m))


@pytest.mark.parametrize("tau", [2.0, 1.0, 0.5, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_equation_6(tau, seed):
    rng = np.random.default_rng(seed)
    log_alpha, noise = random_log_alpha(rng), rng.gumbel(size=(4, 5))
    p = gumbel_softmax(torch.tensor(log_alpha), tau, torch.tensor(noise))
    np.testing.assert_allclose(p, oracles.gumbel_softmax(log_alpha, tau, noise), rtol=1e-9, atol=1e-300)
    plain = gumbel_softmax(torch.tensor(log_alpha), tau)
    np.testing.assert_allclose(plain, oracles.gumbel_softmax(log_alpha, tau, 0 * noise), rtol=1e-9, atol=1e-300)


def test_noise_is_standard_gumbel():
    noise = gumbel_noise(torch.empty(20_000, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert scipy.stats.kstest(noise.numpy(), scipy.stats.gumbel_r.cdf).pvalue > 0.01
    assert gumbel_noise(torch.empty(1_000_000), torch.Generator().manual_seed(1)).isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_hard_samples_follow_alpha(seed):
    """Eq. 5: the argmax of log alpha + g is n with probability alpha^n, by a chi-square test of 20,000 draws."""
    selection = Selection(uniform_candidates(20_000))
    alpha = np.random.default_rng(seed).dirichlet(np.full(5, 3.0))
    selection.logits.data[:] = torch.tensor(alpha).log()
    drawn = selection(tau=0.7, hard=True, generator=torch.Generator().manual_seed(seed)).sum(0)
    assert scipy.stats.chisquare(drawn.detach().double(), alpha * 20_000).pvalue > 0.001


@pytest.mark.parametrize("seed", range(5))
def test_hard_is_one_hot_forward_and_soft_backward(seed):
    torch.manual_seed(seed)
    log_alpha = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    noise, pull = gumbel_noise(log_alpha), torch.randn(4, 5, dtype=torch.float64)
    soft, hard = (gumbel_softmax(log_alpha, 0.8, noise, hard=h) for h in (False, True))
    expected = np.eye(5)[(log_alpha + noise).detach().numpy().argmax(1)]
    np.testing.assert_allclose(hard.detach(), expected, atol=1e-15)
    gradients = [torch.autograd.grad((p * pull).sum(), log_alpha)[0] for p in (soft, hard)]
    torch.testing.assert_close(*gradients)


def test_temperature_schedule():
    """max(.5, 2 - .0005 t): linear to step 3000, then constant; the other lineage's values likewise."""
    for step in (0, 1, 10, 1500, 2999, 3000, 3001, 10**6):
        assert temperature(step) == pytest.approx(2 - 0.0005 * step if step < 3000 else 0.5, abs=1e-12)
        later = temperature(step, start=1.0, decay=0.00005, floor=0.01)
        assert later == pytest.approx(1 - 0.00005 * step if step < 19_800 else 0.01, abs=1e-12)
    assert temperature(19_799, 1.0, 0.00005, 0.01) > 0.01 == temperature(19_801, 1.0, 0.00005, 0.01)


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_allowed_candidates_learn_and_forbidden_ones_do_not(seed, hard, noisy):
    rng = np.random.default_rng(seed)
    dims = (2, 4, 6, 8)
    sets = [tuple(sorted(rng.choice(dims, rng.integers(2, 5), replace=False).tolist())) for _ in range(6)]
    selection = Selection(Candidates(dims, tuple(sets)))
    selection.logits.data[:] = torch.tensor(rng.normal(size=(6, 4)) * 2)
    p = selection(1.0, hard, torch.Generator().manual_seed(seed), noisy)
    (p * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))).sum().backward()
    allowed = np.array([[d in s for d in dims] for s in sets])
    assert (selection.logits.grad.numpy()[allowed] != 0).all()
    for values in (p.detach(), selection.alpha().detach(), selection.logits.grad):
        assert (values.numpy()[~allowed] == 0).all()
    logits = np.where(allowed, selection.logits.detach(), -np.inf)
    np.testing.assert_allclose(selection.alpha().detach(), scipy.special.softmax(logits, 1), rtol=1e-5)


def test_a_seed_fixes_the_sample_and_each_sample_differs():
    selection, generator = Selection(uniform_candidates(3)), torch.Generator().manual_seed(4)
    first, second = selection(1.0, generator=generator), selection(1.0, generator=generator)
    again = gumbel_softmax(selection.log_alpha(), 1.0, gumbel_noise(first, torch.Generator().manual_seed(4)))
    assert again.equal(first) and not second.equal(first)


@pytest.mark.parametrize("seed", range(5))
def test_entropy_and_margin_against_scipy(seed):
    rng = np.random.default_rng(seed)
    alpha = rng.dirichlet(np.ones(4), 7)
    alpha[0] = [0.5, 0.5, 0, 0]
    found = entropy(torch.tensor(alpha)).numpy()
    np.testing.assert_allclose(found[1:], scipy.stats.entropy(alpha[1:], axis=1) / np.log(4))
    assert found[0] == pytest.approx(1.0)
    ordered = np.sort(alpha, 1)
    np.testing.assert_allclose(margin(torch.tensor(alpha)), ordered[:, -1] - ordered[:, -2])


@pytest.mark.parametrize("seed", range(10))
def test_derived_dims_are_numpys_argmax_ties_included(seed):
    """Eq. 13; few distinct values, so most rows have ties, and the smaller dimension wins them."""
    rng = np.random.default_rng(seed)
    candidates, fields = uniform_candidates(50, (2, 4, 6, 8)), [f"f{m}" for m in range(50)]
    alpha = rng.integers(0, 3, (50, 4)) / 7
    expected = {f: candidates.dims[int(np.argmax(row))] for f, row in zip(fields, alpha)}
    assert derive_dims(torch.tensor(alpha), candidates, fields) == expected
    assert list(derive_dims(torch.tensor(alpha), candidates, fields)) == fields


def test_derived_dims_are_allowed_even_if_a_forbidden_logit_is_the_largest():
    selection = Selection(Candidates((2, 4), ((2,), (2, 4))))
    selection.logits.data[:] = torch.tensor([[0.0, 9.0], [0.0, 9.0]])
    assert derive_dims(selection.alpha(), selection.candidates, "ab") == {"a": 2, "b": 4}


def test_a_diverged_search_has_no_dims():
    """An alpha that is not a number is an error, not a small dimension."""
    with pytest.raises(ValueError):
        derive_dims(torch.tensor([[0.5, 0.5], [torch.nan, torch.nan]]), uniform_candidates(2, (2, 4)), "ab")


@pytest.mark.parametrize("columns", [2, 4])
def test_alpha_of_another_grid_has_no_dims(columns):
    with pytest.raises(ValueError, match=f"shape \\[2, {columns}\\] for 2 field names and 3 candidates"):
        derive_dims(torch.full((2, columns), 0.5), uniform_candidates(2, (2, 4, 6)), "ab")


def test_dims_file_keeps_any_field_name_and_the_order(tmp_path):
    dims = {"zip": 2, "Straße": 4, "電影": 6, "a \"b\"\\,\n\t": 8, "é": 10, "e\u0301": 2, "😀": 4, "": 6, "a": 8}
    (tmp_path / "dims.json").write_text(json.dumps(dims, ensure_ascii=False), encoding="utf-8")
    assert list(load_dims(tmp_path / "dims.json").items()) == list(dims.items())
