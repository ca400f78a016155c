"""Inference against SciPy, exact enumeration and loops, and what it must not depend on."""
import math
from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from autodim.method.metrics import delong
from autodim.study.inference import MARGIN, agreement, at_space, compare, half_width, variance_components, verdict

seeds = pytest.mark.parametrize("seed", range(12))
P_VALUES = ("p", "p_wilcoxon", "p_equivalence")


def paired(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """AUCs of two methods on 2 to 9 seeds that differ by about the margin."""
    rng = np.random.default_rng(seed)
    n = 2 + seed % 8
    split = rng.normal(0.8, 0.01, n)
    return split + rng.normal(rng.normal() * MARGIN, MARGIN, n), split


def tost(d, margin: float) -> float:
    """Two one-sided t tests written out."""
    n, mean = len(d), sum(d) / len(d)
    error = math.sqrt(sum((x - mean) ** 2 for x in d) / (n - 1) / n)
    return max(stats.t.sf((mean + margin) / error, n - 1), stats.t.cdf((mean - margin) / error, n - 1))


def signed_ranks(d) -> float:
    """Wilcoxon's exact p: how many of the 2^n patterns of signs have a rank sum as far out, without ties or zeros."""
    ranks = [1 + sum(abs(y) < abs(x) for y in d) for x in d]
    found = sum(r for r, x in zip(ranks, d) if x > 0)
    sums = [sum(r for r, plus in zip(ranks, signs) if plus) for signs in product((False, True), repeat=len(d))]
    tails = sum(s <= found for s in sums), sum(s >= found for s in sums)
    return min(1.0, 2 * min(tails) / len(sums))


# ---------------------------------------------------------------- paired differences

@seeds
@pytest.mark.parametrize("margin", [MARGIN, 0.0003, 0.02])
def test_compare_by_scipy_and_by_loops(seed, margin):
    a, b = paired(seed)
    found, t = compare(a - b, margin), stats.ttest_rel(a, b)
    assert (found.n, found.mean) == (len(a), pytest.approx(sum(a - b) / len(a), rel=1e-12))
    assert found.p == pytest.approx(t.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(t.confidence_interval(0.95)), rel=1e-9)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(a, b).pvalue, rel=1e-12)
    assert found.p_wilcoxon == pytest.approx(signed_ranks(a - b), rel=1e-12)
    assert found.p_equivalence == pytest.approx(tost((a - b).tolist(), margin), rel=1e-9)


@seeds
def test_the_default_margin_is_a_tenth_of_a_point(seed):
    a, b = paired(seed)
    assert compare(a - b).p_equivalence == pytest.approx(tost((a - b).tolist(), 0.001), rel=1e-9)


@seeds
def test_the_other_sign_mirrors_the_interval_and_leaves_p(seed):
    d = np.subtract(*paired(seed))
    one, other = compare(d), compare(-d)
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low), rel=1e-12)
    for name in P_VALUES:
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9)


@seeds
@pytest.mark.parametrize("factor", [1e-3, 0.7, 100.0])
def test_another_unit_leaves_p(seed, factor):
    d = np.subtract(*paired(seed))
    one, other = compare(d), compare(factor * d, factor * MARGIN)
    assert other[1:4] == pytest.approx([factor * x for x in one[1:4]], rel=1e-9)
    for name in P_VALUES:
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-8)


@seeds
def test_the_order_of_seeds_is_irrelevant(seed):
    d = np.subtract(*paired(seed))
    assert compare(d[::-1].tolist()) == pytest.approx(compare(np.sort(d)), rel=1e-9)


@seeds
def test_intervals_say_what_the_tests_say(seed):
    """p < .05 where the 95 % interval leaves 0 out; equivalent at 5 % where the 90 % interval is within the margin."""
    d = np.subtract(*paired(seed)) + np.random.default_rng(seed).choice([0, 2 * MARGIN, -5 * MARGIN])
    for margin in np.geomspace(MARGIN / 4, 32 * MARGIN, 8):
        found, half = compare(d, margin), half_width(d, 0.90)
        assert (found.p < 0.05) == (not found.low < 0 < found.high)
        assert (found.p_equivalence < 0.05) == (-margin < found.mean - half and found.mean + half < margin)


@pytest.mark.parametrize("d", [[], [0.3], [-2.0]])
def test_fewer_than_two_pairs_have_no_interval_and_no_p(d):
    found = compare(d)
    assert found.n == len(d) and np.isnan(found[2:]).all()
    assert found.mean == d[0] if d else np.isnan(found.mean)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("value", [0.0, 0.5, -1.0, 0.1, 0.0012, -0.0007, 1 / 3])
def test_equal_differences_have_no_test(value, n):
    """Whether or not their mean rounds to themselves: 0.1 + 0.1 + 0.1 is not 0.3."""
    found = compare([value] * n)
    assert (found.n, *found[1:4]) == (n, *[pytest.approx(value, rel=1e-12)] * 3) and np.isnan(found[4:]).all()


@seeds
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_half_width_is_that_of_the_t_interval(seed, level):
    values = paired(seed)[0]
    low, high = stats.t.interval(level, len(values) - 1, values.mean(), stats.sem(values))
    assert half_width(values, level) == pytest.approx((high - low) / 2, rel=1e-9)
    if level == 0.95:
        assert half_width(values.tolist()) == pytest.approx((high - low) / 2, rel=1e-9)


@pytest.mark.parametrize("values", [[], [0.8]])
def test_no_width_with_fewer_than_two_values(values):
    assert math.isnan(half_width(values))


# ---------------------------------------------------------------- AUC at a Space

@seeds
def test_a_straight_line_is_read_exactly_whatever_the_order_of_its_points(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=2)
    x = np.sort(rng.uniform(0, 1, 30))
    gap = 1.01 * np.diff(x).max()
    for space in rng.uniform(x[0], x[-1], 20):
        order = rng.permutation(30)
        found = at_space(x[order].tolist(), (a + b * x[order]).tolist(), space, gap)
        assert found == pytest.approx(a + b * space, rel=1e-9)


def by_neighbours(points: list[tuple[float, float]], space: float, gap: float) -> float:
    """The straight line between the nearest points on either side, searched for one by one."""
    left = max((p for p in points if p[0] <= space), default=None)
    right = min((p for p in points if p[0] >= space), default=None)
    if left is None or right is None or right[0] - left[0] > gap:
        return math.nan
    return left[1] if left == right else left[1] + (right[1] - left[1]) * (space - left[0]) / (right[0] - left[0])


@seeds
@pytest.mark.parametrize("gap", [0.11, 0.3])
def test_a_random_curve_by_its_neighbours(seed, gap):
    """The uniform dimensions 1 to 10 with some left out: at the points, between them, in gaps and outside."""
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.arange(1, 11))[:7] / 10
    points = list(zip(x.tolist(), rng.normal(size=7).tolist()))
    kinds = set()
    for space in [*x, 0.05, 1.0001, *rng.uniform(0, 1.1, 40)]:
        found, expected = at_space(*zip(*points), space, gap), by_neighbours(points, space, gap)
        assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)
        kinds.add(math.isnan(found))
    assert kinds == {True, False}


def test_two_steps_of_the_uniform_curve_are_a_gap_and_one_is_not():
    assert at_space([0.4, 0.5], [0.7, 0.8], 0.45) == pytest.approx(0.75)
    assert math.isnan(at_space([0.4, 0.6], [0.7, 0.8], 0.45))
    assert math.isnan(at_space([], [], 0.5))


# ---------------------------------------------------------------- variance

def random_groups(seed: int) -> list[list[float]]:
    """2 to 6 groups of 1 to 7 values, the first of at least two."""
    rng = np.random.default_rng(seed)
    sizes = [2, *rng.integers(1, 8, 1 + seed % 5)]
    return [(rng.normal(rng.normal(), 1, n)).tolist() for n in sizes]


@seeds
def test_variance_components_by_loops_and_by_scipy(seed):
    groups = random_groups(seed)
    total, k = sum(len(g) for g in groups), len(groups)
    grand = sum(x for g in groups for x in g) / total
    between = sum((sum(g) / len(g) - grand) ** 2 for g in groups for _ in g) / (k - 1)
    within = sum((x - sum(g) / len(g)) ** 2 for g in groups for x in g) / (total - k)
    size = (total - sum(len(g) ** 2 for g in groups) / total) / (k - 1)
    found = variance_components(groups)
    assert found[0] == pytest.approx(max(0, (between - within) / size), rel=1e-9, abs=1e-12)
    assert found[1] == pytest.approx(within, rel=1e-9)
    assert found[2] == pytest.approx(stats.f_oneway(*groups).pvalue, rel=1e-9)


@seeds
def test_variance_components_do_not_depend_on_order_or_level_and_scale_as_squares(seed):
    groups, expected = random_groups(seed), variance_components(random_groups(seed))
    turned = [g[::-1] for g in groups[::-1]]
    moved = [[3 + x for x in g] for g in groups]
    scaled = [[-5 * x for x in g] for g in groups]
    assert variance_components(turned) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert variance_components(moved) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert variance_components(scaled) == pytest.approx((25 * expected[0], 25 * expected[1], expected[2]), rel=1e-9)


def test_variance_components_are_unbiased_in_very_unequal_groups():
    """Means over 2000 draws of known variances, 16 between and 1 within: four standard errors."""
    rng = np.random.default_rng(0)
    sizes = [1, 1, 1, 1, 1, 1, 1, 2, 3, 30]
    found = np.array([variance_components([rng.normal(rng.normal(0, 4), 1, n) for n in sizes])[:2]
                      for _ in range(2000)])
    errors = found.std(0) / len(found) ** 0.5
    assert (abs(found.mean(0) - [16, 1]) < 4 * errors).all() and errors[0] < 0.3


def test_groups_that_differ_less_than_their_values_have_no_variance_between():
    assert variance_components([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0]])[0] == 0.0


@pytest.mark.parametrize("groups, text", [([], r"groups of \[\] values"), ([[1.0, 2.0]], r"groups of \[2\] values"),
                                          ([[1.0], [2.0], [3.0]], r"groups of \[1, 1, 1\] values: expected two, and")])
def test_too_few_values_for_variance_components_are_refused(groups, text):
    with pytest.raises(ValueError, match=text):
        variance_components(groups)


# ---------------------------------------------------------------- agreement

def random_assignments(seed: int) -> list[list[int]]:
    """2 to 6 searches over 1 to 9 fields that share a tendency."""
    rng = np.random.default_rng(seed)
    shape = 2 + seed % 5, int(rng.integers(1, 10))
    tendency, own = rng.choice([2, 4, 6], shape[1]), rng.choice([2, 4, 6], shape)
    own[0, 0], own[1, 0] = 2, 4  # never one dimension alone
    return np.where(rng.random(shape) < 0.4, tendency, own).tolist()


def fleiss(assignments) -> tuple[float, float]:
    """Fleiss (1971) by his counts n_ij, field by field; the share by a loop over pairs."""
    searches, fields = len(assignments), len(assignments[0])
    kinds = sorted({d for a in assignments for d in a})
    counts = [[sum(a[m] == d for a in assignments) for d in kinds] for m in range(fields)]
    observed = sum(sum(c * (c - 1) for c in row) / (searches * (searches - 1)) for row in counts) / fields
    chance = sum((sum(row[j] for row in counts) / (fields * searches)) ** 2 for j in range(len(kinds)))
    pairs = [(a, b) for i, a in enumerate(assignments) for b in assignments[:i]]
    share = sum(x == y for a, b in pairs for x, y in zip(a, b)) / len(pairs) / fields
    return share, (observed - chance) / (1 - chance)


@seeds
def test_agreement_by_loops_and_whatever_the_order_and_the_names(seed):
    assignments = random_assignments(seed)
    found = agreement(assignments)
    assert found == pytest.approx(fleiss(assignments), rel=1e-9, abs=1e-12)
    table, rng = np.array(assignments), np.random.default_rng(seed)
    others = table[rng.permutation(len(table))], table[:, rng.permutation(table.shape[1])], 8 - table, table ** 2 + 1
    for other in others:  # searches, fields, and dimensions by other names
        assert agreement(other.tolist()) == pytest.approx(found, rel=1e-9, abs=1e-12)


def test_agreement_at_its_ends():
    assert agreement([[2, 4, 6]] * 3) == (1.0, pytest.approx(1.0))
    assert agreement([[2, 2], [2, 2]]) == (1.0, 1.0)  # by chance as well: nothing but one dimension
    assert agreement([[2, 4], [4, 2]]) == (0.0, -1.0)
    chance = np.random.default_rng(0).choice([2, 4, 6, 8], (6, 4000), p=[0.4, 0.3, 0.2, 0.1])
    assert abs(agreement(chance.tolist())[1]) < 0.01 and agreement(chance.tolist())[0] == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("assignments, text", [
    ([], "0 assignments"), ([[2, 4]], r"1 assignments of \[2\] fields"),
    ([[2, 4], [2]], r"2 assignments of \[1, 2\] fields: expected at least two, of the same fields"),
])
def test_assignments_that_cannot_be_compared_are_refused(assignments, text):
    with pytest.raises(ValueError, match=text):
        agreement(assignments)


# ---------------------------------------------------------------- verdicts

GAIN = (0, np.inf), (-np.inf, 0.1)  # claimed, denied: they overlap in (0, 0.1)
BAND = (-0.1, 0.1), (0.1, np.inf)


@pytest.mark.parametrize("low, high, n, rule, expected", [
    (0.2, 0.4, 5, GAIN, "reproduced"),
    (0.01, 0.05, 5, GAIN, "reproduced"),  # small, and above 0 all the same: the claim comes first
    (-0.3, 0.05, 5, GAIN, "not reproduced"),
    (-0.3, -0.2, 5, GAIN, "not reproduced"),
    (-0.3, 0.3, 5, GAIN, "inconclusive"),
    (0.0, 0.3, 5, GAIN, "inconclusive"),  # open intervals: 0 is not above 0
    (-0.2, 0.1, 5, GAIN, "inconclusive"),
    (-0.05, 0.05, 3, BAND, "reproduced"),
    (0.11, 0.12, 3, BAND, "not reproduced"),
    (-0.2, -0.15, 3, BAND, "inconclusive"),  # neither allowed nor denied
    (0.05, 0.2, 3, BAND, "inconclusive"),
    (0.5, 0.5, 3, GAIN, "reproduced"),  # an interval of no width
    (0.2, 0.4, 2, GAIN, "inconclusive"),
    (-0.4, -0.2, 1, GAIN, "inconclusive"),
    (0.2, 0.4, 0, GAIN, "inconclusive"),
    (np.nan, 0.4, 5, GAIN, "inconclusive"),
    (0.2, np.nan, 5, GAIN, "inconclusive"),
    (np.nan, np.nan, 5, (GAIN[0], (-np.inf, np.inf)), "inconclusive"),
])
def test_verdicts(low, high, n, rule, expected):
    assert verdict(low, high, n, *rule) == expected


@seeds
def test_a_verdict_ignores_the_unit_and_mirrors(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        (low, high), claimed, denied = np.sort(rng.integers(-6, 7, (3, 2)) / 2, axis=1).tolist()
        word = verdict(low, high, 5, claimed, denied)
        mirrored = [[-10 * b, -10 * a] for a, b in ((low, high), claimed, denied)]
        assert verdict(*mirrored[0], 5, *mirrored[1:]) == word
        inside = [a < low and high < b for a, b in (claimed, denied)]
        assert word == ("reproduced" if inside[0] else "not reproduced" if inside[1] else "inconclusive")


# ---------------------------------------------------------------- two models, one test set

def scored(seed: int, models: int = 3, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n] and scores [K, n] of models of unequal worth that share part of their errors; odd seeds with ties."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(rows, int)
    labels[rng.permutation(rows)[:rng.integers(2, rows - 1)]] = 1
    shared = rng.normal(size=rows)
    scores = np.array([k * labels + shared + rng.normal(size=rows) for k in range(models)])
    return labels, scores.round(0) if seed % 2 else scores


def by_pairs(labels, scores) -> tuple[list[float], list[list[float]]]:
    """DeLong et al. (1988), Eqs. 4-6 written out: a loop over pairs of rows, and over pairs of models."""
    positive, negative = [np.flatnonzero(labels == value).tolist() for value in (1, 0)]
    def beats(a: float, b: float) -> float:
        return 1.0 if a > b else 0.5 if a == b else 0.0
    v10 = [[sum(beats(s[i], s[j]) for j in negative) / len(negative) for i in positive] for s in scores]
    v01 = [[sum(beats(s[i], s[j]) for i in positive) / len(positive) for j in negative] for s in scores]
    aucs = [sum(v) / len(v) for v in v10]
    def covariance(v, k, m) -> float:
        return sum((a - aucs[k]) * (b - aucs[m]) for a, b in zip(v[k], v[m])) / (len(v[k]) - 1)
    models = range(len(scores))
    return aucs, [[covariance(v10, k, m) / len(positive) + covariance(v01, k, m) / len(negative) for m in models]
                  for k in models]


@seeds
@pytest.mark.parametrize("models", [1, 2, 4])
def test_delong_by_loops_over_pairs_and_by_scikit_learn(seed, models):
    labels, scores = scored(seed, models)
    aucs, covariance = delong(labels, scores)
    expected = by_pairs(labels, scores)
    assert aucs.shape == (models,) and covariance.shape == (models, models)
    assert aucs.tolist() == pytest.approx(expected[0], abs=1e-12)
    assert aucs.tolist() == pytest.approx([roc_auc_score(labels, s) for s in scores], abs=1e-12)
    assert np.allclose(covariance, expected[1], rtol=0, atol=1e-14)
    for kind in (bool, float, np.float32):
        again = delong(labels.astype(kind), scores.tolist())
        assert (again[0] == aucs).all() and (again[1] == covariance).all()


@seeds
def test_delong_sees_ranks_alone_and_mirrors(seed):
    labels, scores = scored(seed)
    aucs, covariance = delong(labels, scores)
    for change in (lambda s: 7 * s - 3, np.exp, lambda s: np.arctan(s / 9), stats.rankdata):
        other = delong(labels, [change(s) for s in scores])
        assert np.allclose(other[0], aucs, atol=1e-12) and np.allclose(other[1], covariance, atol=1e-14)
    order = np.random.default_rng(seed).permutation(len(labels))
    other = delong(labels[order], scores[:, order])
    assert np.allclose(other[0], aucs, atol=1e-12) and np.allclose(other[1], covariance, atol=1e-14)
    for other in (delong(1 - labels, scores), delong(labels, -scores)):
        assert np.allclose(other[0], 1 - aucs, atol=1e-12) and np.allclose(other[1], covariance, atol=1e-14)
    other = delong(labels, scores[::-1])
    assert np.allclose(other[0], aucs[::-1]) and np.allclose(other[1], covariance[::-1, ::-1], atol=1e-14)


@seeds
def test_a_model_does_not_differ_from_itself(seed):
    labels, scores = scored(seed)
    aucs, covariance = delong(labels, [scores[0], scores[1], scores[0], np.exp(scores[0])])
    for other in (2, 3):
        contrast = np.zeros(4)
        contrast[[0, other]] = 1, -1
        assert contrast @ aucs == pytest.approx(0, abs=1e-15)
        assert contrast @ covariance @ contrast == pytest.approx(0, abs=1e-15)
    assert (np.linalg.eigvalsh(covariance) > -1e-12).all()


def test_models_that_separate_or_say_nothing():
    labels = np.array([0, 0, 1, 1, 1])
    aucs, covariance = delong(labels, [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [7, 7, 7, 7, 7]])
    assert aucs.tolist() == [1.0, 0.0, 0.5] and (covariance == 0).all()


@pytest.mark.parametrize("rows, share", [(600, 0.5), (900, 0.15)])
def test_delong_by_a_bootstrap_of_rows(rows, share):
    """2,000 resamplings within each class: a standard error is known to about two percent."""
    rng = np.random.default_rng(5)
    labels = (np.arange(rows) < share * rows).astype(int)
    shared = rng.normal(size=rows)
    scores = np.array([labels * gain + shared + noise * rng.normal(size=rows) for gain, noise in ((1, 1), (0.8, 0.3))])
    _, covariance = delong(labels, scores)
    positive, negative = np.flatnonzero(labels), np.flatnonzero(1 - labels)
    drawn = []
    for _ in range(2000):
        i, j = rng.choice(positive, len(positive)), rng.choice(negative, len(negative))
        ranks = stats.rankdata(scores[:, np.concatenate([i, j])], axis=1)[:, :len(i)]
        drawn.append((ranks.sum(1) / len(i) - (len(i) + 1) / 2) / len(j))
    found = np.cov(np.transpose(drawn))
    errors = [[c[0, 0], c[1, 1], c[0, 0] + c[1, 1] - 2 * c[0, 1]] for c in (covariance, found)]
    assert np.sqrt(errors[0]) == pytest.approx(np.sqrt(errors[1]), rel=0.08)
    assert errors[0][2] < errors[0][0]  # paired: the shared part cancels


def test_the_interval_covers_as_often_as_it_says():
    """Normal scores, whose true AUC is known: 95 % of 600 samples within four standard errors of that share."""
    rng, true, within = np.random.default_rng(1), stats.norm.cdf(1 / 2**0.5), 0
    labels = np.array([0, 1] * 100)
    for _ in range(600):
        aucs, covariance = delong(labels, [labels + rng.normal(size=200)])
        within += abs(aucs[0] - true) < 1.96 * covariance[0, 0] ** 0.5
    assert abs(within / 600 - 0.95) < 4 * (0.95 * 0.05 / 600) ** 0.5


@pytest.mark.parametrize("labels, text", [
    ([1, 0, 0], "1 positive and 2 negative rows: .*needs two of each"), ([1, 1, 0], "2 positive and 1 negative"),
    ([0, 0], "0 positive and 2"), ([], "0 positive and 0"),
])
def test_too_few_rows_for_delong_are_refused(labels, text):
    with pytest.raises(ValueError, match=text):
        delong(labels, [list(range(len(labels)))])
