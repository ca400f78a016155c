"""Tables and pictures from made-up rows, against loops, SciPy, and what the Axes hold."""
import json
import math
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

import autodim.study.report as report
from autodim.study.figures import COLOURS, in_words, plot_comparisons, plot_dims, save_figure
from autodim.study.inference import compare
from autodim.study.report import (
    ORDER, best_of, claims_markdown, claims_text, compare_by_name, comparison_text, describe, markdown_table,
    means_table, named, ordered_names, over_uniform, paired_differences, paper_table, reported, setting, table3,
)  # fmt: skip


def from_page(page: str, *names: str) -> list:
    """Functions that an experiment's page defines for itself: its imports and their cells are executed, no others."""
    path, scope = Path(__file__).resolve().parents[1] / "nbs" / f"{page}.ipynb", {}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    imports, *codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for code in (imports, *(code for code in codes if any(f"def {name}(" in code for name in names))):
        exec(code, scope)
    return [scope[name] for name in names]


_, plot_auc_space, dims_table = from_page("exp_table3", "plot_paper_space", "plot_auc_space", "dims_table")
(plot_claims,) = from_page("exp_claims", "plot_claims")

DIMS = [2, 4, 6, 8, 10]
draws = pytest.mark.parametrize("draw", range(4))


def row(method: str, seed: int, rng, variant: int = 0, dim: int = 0, draw: int = 0) -> dict[str, object]:
    """A row as the study records it, with invented numbers."""
    auc, given = 0.8 + rng.normal(0, 0.003), {"userId": int(rng.choice(DIMS)), "movieId": int(rng.choice(DIMS))}
    search = {"f": int(rng.choice([1, 10])), "hard": False} if variant else None
    return {"run_id": f"{method}{variant}{dim}{draw}{seed}", "dataset": "made-up", "method": method, "variant": variant,
            "dim": dim, "draw": draw, "seed": seed, "val_auc": auc + rng.normal(0, 0.002), "test_auc": auc,
            "test_logloss": 0.5 + rng.normal(0, 0.01), "space": dim / 10 if dim else rng.uniform(0.2, 1),
            "test_positives": 6_000, "n_test": 10_000, "dims": json.dumps(given),
            "config": json.dumps({"dims": DIMS, "search": search, "drop_fields": ["zip"] * (seed % 2)})}


def made_up(draw: int = 0, seeds=range(5)) -> pd.DataFrame:
    """All methods of Table III in shuffled order: dims 1 to 10, ten random draws, two searches of four variants."""
    rng = np.random.default_rng(draw)
    rows = [row("Bias", s, rng) for s in seeds]
    rows += [row("Uniform", s, rng, dim=d) for s in seeds for d in range(1, 11)]
    rows += [row("RaS", s, rng, draw=k) for s in seeds for k in range(10)]
    rows += [row(m, s, rng, variant=v) for m in ("SAM", "AutoDim") for s in seeds for v in (1, 2, 3, 4)]
    return shuffled(pd.DataFrame(rows), draw)


def shuffled(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    return rows.sample(frac=1, random_state=seed).reset_index(drop=True)


def values_of(rows: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    """{name: {seed: value}} of Table III, one row after the other, without pandas' grouping."""
    records, found = rows.to_dict("records"), {}
    for r in records:
        name = {"Bias": "bias only", "RaS": None}.get(r["method"], f"{r['method']}-{r['variant']}")
        if r["method"] == "Uniform":
            name = {2: "MiD", 10: "MaD"}.get(r["dim"], f"uniform {r['dim']}")
        if name:
            found.setdefault(name, {})[r["seed"]] = r[column]
    for method, by, name in [("RaS", "val_auc", "RaS (best draw)")] + [
            (m, f"{by}_auc", f"{m} (best by {word})") for m in ("SAM", "AutoDim")
            for by, word in (("val", "validation"), ("test", "test"))]:
        own = [r for r in records if r["method"] == method]
        most = max(sum(r["seed"] == s for r in own) for s in {r["seed"] for r in own})
        for seed in {r["seed"] for r in own}:
            rivals = [r for r in own if r["seed"] == seed]
            if len(rivals) == most:
                found.setdefault(name, {})[seed] = max(rivals, key=lambda r: r[by])[column]
    return found


def without(rows: pd.DataFrame, **values) -> pd.DataFrame:
    """Rows but for those that have all these values."""
    hit = np.logical_and.reduce([rows[column] == value for column, value in values.items()])
    return rows[~hit].reset_index(drop=True)


def incomplete(draw: int) -> pd.DataFrame:
    """Seed 1 lacks a variant of AutoDim, seed 2 MaD, seed 3 a random draw."""
    rows = without(made_up(draw), method="AutoDim", variant=1 + draw % 4, seed=1)
    return without(without(rows, dim=10, seed=2), method="RaS", draw=draw, seed=3)


# ---------------------------------------------------------------- settings, and what a page is drawn from

def test_a_setting_of_each_row_by_json():
    rows = made_up()
    for keys, default in ((("search", "f"), 7), (("search", "hard"), None), (("drop_fields",), None),
                          (("search", "later"), "x"), (("none", "deeper"), 0)):
        expected = []
        for config in rows.config:
            value = json.loads(config)
            for key in keys:
                value = value[key] if value and key in value else None
            expected.append(default if value is None else value)
        assert list(setting(rows, *keys, default=default)) == expected
    assert setting(rows, "search", "hard", default=True).map(lambda x: x is False).any()  # set, and not to True


@pytest.mark.parametrize("datasets, seeds, planned, expected", [
    (["planted"], [0], 1, "planted (synthetic): 1 run, 1 seed"),
    (["movielens-1m"] * 3, [0, 1, 1], 3, "movielens-1m (real ratings): 3 runs, 2 seeds"),
    (["movielens-1m"] * 3, [4, 4, 4], 145, "movielens-1m (real ratings): 3 of 145 planned runs, 1 seed"),
    (["planted", "avazu"], [0, 0], 3, "avazu (real clicks), planted (synthetic): 2 of 3 planned runs, 1 seed"),
])
def test_descriptions(datasets, seeds, planned, expected):
    assert describe(pd.DataFrame({"dataset": datasets, "seed": seeds}), planned) == expected


# ---------------------------------------------------------------- the best of several

@draws
@pytest.mark.parametrize("method, size", [("RaS", 10), ("AutoDim", 4), ("SAM", 4)])
@pytest.mark.parametrize("by", ["val_auc", "test_auc"])
def test_the_best_of_each_seed_and_none_of_a_seed_with_fewer(by, method, size, draw):
    rows = made_up(draw)
    gone = rows[rows.method == method].groupby("seed").head(1)
    rows = rows.drop(gone.index[gone.seed.isin([1, 3])])  # an arbitrary one of seeds 1 and 3
    best = best_of(rows, method, by, "best").set_index("seed")
    assert sorted(best.index) == [0, 2, 4] and set(best.name) == {"best"} and set(best.method) == {method}
    for seed in (0, 2, 4):
        own = [r for r in rows.to_dict("records") if r["method"] == method and r["seed"] == seed]
        assert len(own) == size and best.run_id[seed] == max(own, key=lambda r: r[by])["run_id"]
    again = best_of(shuffled(rows, 9), method, by, "best").set_index("seed")
    assert again.run_id.sort_index().equals(best.run_id.sort_index())


@draws
def test_reported_rows_by_loops(draw):
    rows = incomplete(draw)
    for column in ("test_auc", "space", "run_id"):
        expected = values_of(rows, column)
        found = reported(rows)
        assert {(r.name, r.seed): getattr(r, column) for r in found.itertuples(index=False)} == {
            (name, seed): value for name, own in expected.items() for seed, value in own.items()}
        assert len(found) == sum(map(len, expected.values()))
    assert sorted(expected["AutoDim (best by test)"]) == [0, 2, 3, 4] and sorted(expected["RaS (best draw)"]) == [
        0, 1, 2, 4]


def test_one_variant_has_no_best():
    names = set(reported(made_up()[lambda rows: rows.variant <= 1]).name)
    assert {"SAM-1", "AutoDim-1", "RaS (best draw)", "uniform 1"} <= names and "best by" not in " ".join(names)


def test_order_of_names():
    names = list(ORDER) + ["uniform 1", "uniform 3", "uniform 9", "uniform 11"]
    for seed in range(20):
        assert ordered_names(np.random.default_rng(seed).permutation(names).tolist()) == names


# ---------------------------------------------------------------- means and pairs

@draws
def test_summary_by_loops(draw):
    rows = incomplete(draw)
    table, again = means_table(rows), means_table(shuffled(rows, 99))
    for column in ("test_auc", "test_logloss", "space"):
        expected = values_of(rows, column)
        assert set(table.index) == set(expected)
        for name, own in expected.items():
            values = list(own.values())
            line, sd = table.loc[name], statistics.stdev(values)
            assert line.n == len(values) and line[column] == pytest.approx(statistics.fmean(values), rel=1e-12)
            assert line[column + "_sd"] == pytest.approx(sd, rel=1e-9, abs=1e-15)
            half = stats.t.interval(0.95, len(values) - 1, 0, sd / len(values) ** 0.5)[1] if sd > 1e-12 else 0
            assert line[column + "_ci"] == pytest.approx(half, rel=1e-9, abs=1e-15)
    assert table.index.tolist() == ordered_names(table.index) and table.index[0] == "bias only"
    pd.testing.assert_frame_equal(table, again, rtol=1e-12)


def test_summary_of_one_seed_has_the_test_sets_error_alone():
    """Hanley and McNeil (1982): the error of an AUC is about that of drawn exponential scores of that AUC."""
    rows = made_up(seeds=[3])
    table = means_table(rows)
    assert table.filter(regex="_(sd|ci)$").isna().all(axis=None) and (table.n == 1).all()
    a, rng = table.test_auc["MaD"], np.random.default_rng(0)
    rate = a / (1 - a)  # P(x > y) = rate / (1 + rate) of exponential x, y whose means are as rate to 1
    found = []
    for _ in range(2000):
        negatives, positives = np.sort(rng.exponential(size=100)), rng.exponential(rate, 900)
        found.append(np.searchsorted(negatives, positives).mean() / 100)
    assert np.mean(found) == pytest.approx(a, abs=0.003)
    few, many = (means_table(rows.assign(test_positives=9 * n, n_test=10 * n)).auc_error["MaD"] for n in (100, 1000))
    assert few == pytest.approx(np.std(found), rel=0.06) and many == pytest.approx(few / 10**0.5, rel=0.01)


@draws
@pytest.mark.parametrize("against, column", [("MaD", "test_auc"), ("AutoDim (best by validation)", "test_logloss"),
                                             ("RaS (best draw)", "space")])
def test_paired_differences_by_loops(against, column, draw):
    rows = incomplete(draw)
    values = values_of(rows, column)
    table = paired_differences(rows, against, column)
    assert table.index.tolist() == ordered_names(set(values) - {against})
    for name, line in table.iterrows():
        pairs = [(value, values[against][seed]) for seed, value in values[name].items() if seed in values[against]]
        a, b = np.array(pairs).T
        t = stats.ttest_rel(a, b)
        assert line.n == len(pairs) in (3, 4, 5) and line["mean"] == pytest.approx(np.mean(a - b), rel=1e-9)
        assert (line.low, line.high) == pytest.approx(tuple(t.confidence_interval(0.95)), rel=1e-6)
        p = (t.pvalue, stats.wilcoxon(a, b).pvalue) if (a != b).any() else (math.nan, math.nan)
        assert (line.p, line.p_wilcoxon) == pytest.approx(p, rel=1e-6, nan_ok=True)


def test_pairs_without_a_partner_are_refused():
    with pytest.raises(ValueError, match="no rows of 'MaD' to compare with; there are .*AutoDim-1"):
        paired_differences(made_up()[lambda rows: rows.dim != 10])


@draws
def test_over_uniform_by_explicit_interpolation(draw):
    """Seed 0 has the whole curve, 1 lacks dimensions 4 and 5, 2 has no curve; Spaces fall on points and outside."""
    rows = made_up(draw)
    uniform = rows[(rows.method == "Uniform") & (rows.seed != 2) & ~((rows.seed == 1) & rows.dim.isin([4, 5]))]
    choices = reported(rows[rows.method == "AutoDim"])
    rng = np.random.default_rng(draw)
    choices["space"] = rng.choice([*rng.uniform(0.02, 1, 40), 0.3, 1.0, 0.05, 1.001], len(choices))
    expected = []
    for r in choices.to_dict("records"):
        curve = {u["space"]: u["test_auc"] for u in uniform.to_dict("records") if u["seed"] == r["seed"]}
        left = max((x for x in curve if x <= r["space"]), default=None)
        right = min((x for x in curve if x >= r["space"]), default=None)
        if left is None or right is None or right - left > 0.15:
            continue
        share = 0 if left == right else (r["space"] - left) / (right - left)
        rival = (1 - share) * curve[left] + share * curve[right]
        expected.append((r["seed"], r["name"], pytest.approx(r["test_auc"] - rival, abs=1e-12)))
    found = over_uniform(choices, uniform)
    assert list(found) == ["seed", "name", "difference"]
    assert sorted(found.itertuples(index=False, name=None)) == sorted(expected, key=lambda line: line[:2])
    assert 0 < len(found) < len(choices)
    assert len(over_uniform(choices, uniform[uniform.dim.isin([2, 10])])) < len(found) / 2
    pd.testing.assert_frame_equal(over_uniform(choices, shuffled(uniform, 1)), found)


@draws
def test_comparisons_by_name(draw):
    rng = np.random.default_rng(draw)
    table = pd.DataFrame({"seed": np.arange(24), "name": rng.choice(["uniform 3", "SAM-2", "MaD", "odd"], 24),
                          "difference": rng.normal(size=24)})
    found = compare_by_name(table)
    assert found.index.tolist() == ["MaD", "SAM-2", "odd", "uniform 3"]
    for name, line in found.iterrows():
        d = [x for x, other in zip(table.difference, table.name) if other == name]
        assert (line.n, line["mean"]) == (len(d), pytest.approx(sum(d) / len(d)))
        assert line.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, nan_ok=True)
    empty = compare_by_name(table[:0])
    assert len(empty) == 0 and list(empty) == list(found)


# ---------------------------------------------------------------- text

def test_comparisons_as_text():
    table = pd.DataFrame([compare(d) for d in ([0.001, 0.002, 0.0015], [-0.004], [0.01, 0.01001, 0.01])], list("ABC"))
    text = comparison_text(table)
    half = 100 * stats.t.ppf(0.975, 2) * statistics.stdev([0.001, 0.002, 0.0015]) / 3**0.5
    assert text.loc["A", "difference [95 %]"] == f"+0.15 [{0.15 - half:+.2f}, {0.15 + half:+.2f}]"
    assert text.loc["A", "p (t)"] == f"{stats.ttest_1samp([0.001, 0.002, 0.0015], 0).pvalue:.4f}"
    assert text.loc["B"].tolist() == [1, "-0.40", "", "", ""] and text.loc["C", "p (t)"] == "< .0001"
    assert comparison_text(table, unit=1, digits=4).loc["B", "difference [95 %]"] == "-0.0040"


@draws
def test_table3_by_loops_and_the_papers_file(draw, root):
    rows = incomplete(draw)
    shown = table3(rows.assign(dataset="movielens-1m"))
    for name, own in values_of(rows, "test_auc").items():
        values = [100 * x for x in own.values()]
        mean, sd = statistics.fmean(values), statistics.stdev(values)
        half = stats.t.ppf(0.975, len(values) - 1) * sd / len(values) ** 0.5
        assert shown.loc[name, "AUC %"] == f"{mean:.2f} ± {sd:.2f} [{mean - half:.2f}, {mean + half:.2f}]"
        assert shown.loc[name, "seeds"] == len(values)
    for name, own in values_of(rows, "space").items():
        assert shown.loc[name, "Space %"].startswith(f"{100 * statistics.fmean(own.values()):.1f} ± ")
    ours = {"MiD": "MiD", "MaD": "MaD", "RaS": "RaS (best draw)", "SAM": "SAM (best by test)",
            "AutoDim": "AutoDim (best by test)"}
    lines = [x.split(",") for x in (root / "results" / "paper.csv").read_text(encoding="utf-8").splitlines()]
    for table, dataset, item, quantity, value, sd in lines[1:]:
        if (table, dataset) == ("III", "movielens-1m"):
            digits = {"AUC %": 2, "Logloss": 3, "Space %": 1}[quantity]
            text = f"{float(value):.{digits}f}" + (f" ± {float(sd):.{digits}f}" if sd else "")
            assert shown.loc[ours[item], f"paper: {quantity}"] == text
    assert (shown.filter(like="paper:") != "").sum().tolist() == [5, 5, 5]
    assert not any(column.startswith("paper") for column in table3(rows))


@draws
def test_mean_dimensions_by_loops(draw):
    rows = made_up(draw)
    table = dims_table(rows)
    assert list(table) == [name for name in ORDER if name in set(table)] and len(table.columns) == 8
    for name in table:
        method, variant = name.split("-")
        own = [json.loads(r["dims"]) for r in rows.to_dict("records")
               if (r["method"], r["variant"]) == (method, int(variant))]
        assert table[name].to_dict() == pytest.approx({f: sum(d[f] for d in own) / 5 for f in ("userId", "movieId")})
    assert dims_table(rows[rows.method == "RaS"]).empty


def random_claims(draw: int, n: int = 12) -> pd.DataFrame:
    """Claims with and without estimate, interval, test and p, as read from a CSV."""
    rng = np.random.default_rng(draw)
    estimate, half = rng.normal(size=n) * 10.0 ** rng.integers(-2, 3, n), rng.exponential(size=n)
    half[rng.random(n) < 0.4] = np.nan
    estimate[0], half[0], half[1], half[2] = np.nan, np.nan, 0.0, 1.0
    return pd.DataFrame({
        "claim": [f"{'A' * (k + 1)} is better (AUC points; paper +0.1{k})" for k in range(n)],
        "section": rng.choice(["III-D 4, V", "III-E"], n), "experiment": rng.choice(["exp_a", "exp_table3"], n),
        "estimate": estimate, "low": estimate - half, "high": estimate + half, "n": rng.integers(0, 20, n),
        "test": rng.choice(["paired t", "exact", None], n), "p": rng.choice([np.nan, 1e-9, 0.00012, 0.5, 1.0], n),
        "verdict": rng.choice(list(report.VERDICTS), n)})


@draws
def test_claims_as_text_by_loops(draw):
    claims = random_claims(draw)
    text = claims_text(claims)
    signs = {"reproduced": "✓ reproduced", "not reproduced": "✗ not reproduced", "inconclusive": "? inconclusive"}
    for c, t in zip(claims.to_dict("records"), text.to_dict("records")):
        numbers = [f"{c[k]:.{2 if abs(c[k]) < 10 else 1}f}".replace("-0.00", "0.00") for k in ("estimate", "low", "high")]
        interval = f"{numbers[0]} [{numbers[1]}, {numbers[2]}]" if c["low"] < c["high"] else numbers[0]
        assert t["ours [95 %]"] == ("" if math.isnan(c["estimate"]) else interval)
        p = {1e-9: "p < .0001", 0.00012: "p = 0.00012", 0.5: "p = 0.5", 1: "p = 1"}.get(c["p"], "")
        test = "" if pd.isna(c["test"]) else c["test"]
        assert t["test"] == (f"{test}, {p}" if test and p else test + p)
        assert [t[k] for k in ("claim", "section", "n", "where")] == [
            c[k] for k in ("claim", "section", "n", "experiment")]
        assert t["verdict"] == signs[c["verdict"]]
    assert len(text) == len(claims) and not text.isin(["nan", "None"]).any(axis=None)


def cells(line: str) -> list[str]:
    assert line.startswith("| ") and line.endswith(" |")
    return [cell.strip() for cell in line[1:-1].split("|")]


@draws
def test_claims_as_markdown_say_the_same_and_link_to_pages(draw):
    claims = random_claims(draw)
    text = claims_text(claims)
    head, rule, *body = map(cells, claims_markdown(claims, "nbs/").splitlines())
    assert head == list(text) and len(body) == len(claims) and {len(line) for line in (rule, *body)} == {len(head)}
    for line, said, experiment in zip(body, text.astype(str).to_numpy().tolist(), claims.experiment):
        assert line[:2] == said[:2] and line[3:5] == said[3:5]
        assert [line[k].split("\N{NO-BREAK SPACE}") for k in (2, 5)] == [said[k].split(" ") for k in (2, 5)]  # unbroken
        assert line[6] == f"[{experiment[4:]}](nbs/{experiment}.ipynb)"
    assert "(exp_a.ipynb)" in claims_markdown(claims)


def test_committed_claims_make_a_markdown_table(root):
    claims = pd.read_csv(root / "results" / "claims.csv")
    assert not claims_text(claims).astype(str).apply(lambda c: c.str.contains(r"[|\n]")).any(axis=None)
    lines = claims_markdown(claims, "nbs/").splitlines()
    assert len(lines) == len(claims) + 2 and {len(cells(line)) for line in lines} == {7}
    assert "nan" not in " ".join(lines).lower().split()


def test_markdown_tables_have_numbers_to_the_right():
    table = pd.DataFrame({"name": ["a", "b"], "n": [1, 22], "x": [0.5, -1.25], "text": ["1", "2"]}, ["not", "shown"])
    assert markdown_table(table).splitlines() == [
        "| name | n | x | text |", "| :-- | --: | --: | :-- |", "| a | 1 | 0.5 | 1 |", "| b | 22 | -1.25 | 2 |"]


# ---------------------------------------------------------------- pictures

def axes() -> Axes:
    return Figure().subplots()


def error_bars(ax: Axes) -> dict[tuple[float, float], float]:
    """{(x, y): half its length} of all points that were drawn with error bars; NaN where a point has none."""
    found = {}
    for bars in ax.containers:
        points, segments = bars.lines[0], [s for lines in bars.lines[2] for s in lines.get_segments()]
        assert len(points.get_xdata()) == len(segments)
        for (x, y), segment in zip(points.get_xydata(), segments):
            found[x, y] = np.ptp(segment, axis=0).max() / 2 if len(segment) else math.nan
    return found


def on_grid(points) -> dict[tuple[float, float], float]:
    """Points rounded to nine digits, so that they can be looked up; -0.0 is 0."""
    return {(round(x, 9) + 0.0, round(y, 9) + 0.0): half for (x, y), half in points.items()}


@draws
@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_auc_against_space_has_each_mean_in_its_place(n_seeds, draw):
    """MaD at (100, 0); below MiD: named, not drawn; intervals from three seeds on; a search by its best on validation."""
    rows = without(made_up(draw, range(n_seeds + 1)), dim=10, seed=n_seeds)
    ax = axes()
    plot_auc_space(rows, ax)
    auc, space = ({name: {s: v for s, v in own.items() if s < n_seeds} for name, own in values_of(rows, column).items()
                   if name.startswith(("uniform", "M", "bias")) or "validation" in name} for column in ("test_auc", "space"))
    expected = {}
    over = {name: [100 * (own[s] - auc["MaD"][s]) for s in own] for name, own in auc.items()}
    below = {name: statistics.fmean(over.pop(name)) for name in ("uniform 1", "bias only")}
    for name, y in over.items():
        half = stats.t.ppf(0.975, n_seeds - 1) * statistics.stdev(y) / n_seeds**0.5 if n_seeds > 2 else 0
        expected[100 * statistics.fmean(space[name].values()), statistics.fmean(y)] = half
    found, expected = on_grid(error_bars(ax)), on_grid(expected)
    assert found == pytest.approx(expected, abs=1e-9) and found[100, 0] == 0
    texts = [t.get_text() for t in ax.texts]
    corner = sorted(below, key=below.get, reverse=True)
    assert "\n".join(f"↓ {in_words(name)}: {below[name]:.2f}" for name in corner) in texts
    assert {"2", "10", "3", "9", "SAM", "AutoDim"} <= set(texts)
    drawn = sum(len(line.get_xdata()) for line in ax.lines if line.get_alpha() == 0.3)
    assert drawn == n_seeds * (9 + 10 + 8)  # each run, RaS's draws among them
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {"uniform dimensions", "random draws", "SAM", "AutoDim"}


def test_methods_in_words():
    """Every short name has words, no two the same, and what is no method stays as it is."""
    words = [in_words(name) for name in [*ORDER, "uniform 3", "uniform 10", "RaS (mean of draws)", "uniform"]]
    assert len(set(words)) == len(words) and not [w for w in words if any(x in w for x in ("MiD", "MaD", "RaS", "("))]
    assert [in_words(x) for x in ("movieId", "f = 10", "random split")] == ["movieId", "f = 10", "random split"]
    assert in_words("SAM-4 - RaS") == "SAM, variant 4 minus random draws"


def test_the_papers_marks_stand_in_their_place():
    ax, rows = axes(), made_up().assign(dataset="movielens-1m")
    plot_auc_space(rows, ax)
    paper = paper_table("III", "movielens-1m").set_index(["item", "quantity"]).value
    (marks,) = [line for line in ax.lines if line.get_label().startswith("the paper") and len(line.get_xdata())]
    expected = [(paper[item, "Space %"], paper[item, "AUC %"] - paper["MaD", "AUC %"])
                for item in ("MiD", "MaD", "RaS", "SAM", "AutoDim")]
    assert sorted(map(tuple, marks.get_xydata())) == sorted(expected) and (100, 0) in expected
    assert "the paper (± sd)" in [t.get_text() for t in ax.get_legend().get_texts()]


@draws
@pytest.mark.parametrize("unit, margin", [(100, 0.001), (1, 0.02), (100, None)])
def test_comparisons_have_intervals_from_three_pairs_on(unit, margin, draw):
    rng = np.random.default_rng(draw)
    sizes = rng.permutation([1, 2, 2, 3, 4, 9]).tolist()
    values = [rng.normal(0.001, 0.002, n).tolist() for n in sizes]
    table = pd.DataFrame([compare(v) for v in values], [f"line {k}" for k in range(6)])
    ax = axes()
    plot_comparisons(table, ax, unit, margin)
    expected = {(unit * statistics.fmean(v), k): unit * stats.t.ppf(0.975, n - 1) * statistics.stdev(v) / n**0.5
                for k, (n, v) in enumerate(zip(sizes, values)) if n >= 3}
    assert on_grid(error_bars(ax)) == pytest.approx(on_grid(expected), abs=1e-9) and len(expected) == 3
    (hollow,) = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    few = {(unit * statistics.fmean(v), k): 0 for k, v in enumerate(values) if sizes[k] < 3}
    assert on_grid({tuple(point): 0 for point in hollow.get_xydata()}) == on_grid(few)
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"line {k} ({n})" for k, n in enumerate(sizes)]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # from the top
    bands = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]
    assert bands == ([pytest.approx((-unit * margin, unit * margin))] if margin else [])


@pytest.mark.parametrize("sizes", [(1, 2), (3, 5)])
def test_comparisons_with_few_pairs_or_many_alone(sizes):
    ax = axes()
    plot_comparisons(pd.DataFrame([compare(np.arange(n) / 1000) for n in sizes], list("ab")), ax)
    assert len(error_bars(ax)) == (2 if sizes[0] == 3 else 0)


def test_a_heat_map_has_each_dimension():
    table, ax = dims_table(made_up()), axes()
    plot_dims(table, DIMS, ax)
    assert [t.get_text() for t in ax.texts] == [f"{x:.3g}" for line in table.to_numpy() for x in line]
    assert [t.get_text() for t in ax.get_xticklabels()] == list(table)
    assert ax.collections[0].get_clim() == (2, 10)


@draws
def test_a_forest_of_claims_has_their_colours_and_the_papers_values(draw):
    """Claims on AUC with an estimate, from the top; filled and with an interval from three pairs on, else hollow."""
    claims = random_claims(draw)
    claims.loc[3, ["claim", "estimate", "low", "high", "n"]] = ["Space is saved (paper 36.2)", 1.5, 1.0, 2.0, 9]
    claims.loc[4, ["claim", "estimate", "low", "high", "n"]] = ["B (AUC points)", 0.5, 0.25, 0.75, 3]
    claims.loc[5, ["estimate", "low", "high", "n"]] = [0.5, 0.25, 0.75, 2]
    shown = [c for c in claims.to_dict("records") if "AUC" in c["claim"] and not math.isnan(c["estimate"])]
    assert 0 < len(shown) <= len(claims) - 2  # neither the first, without estimate, nor the one on Space
    (ax,) = plot_claims(claims).axes
    colours = {"reproduced": "#029e73", "not reproduced": "#d55e00", "inconclusive": "#7f7f7f"}
    expected = {(c["estimate"], y): c["high"] - c["estimate"] for y, c in enumerate(shown)
                if c["n"] > 2 and not math.isnan(c["high"])}
    found = {point: half for point, half in on_grid(error_bars(ax)).items() if not math.isnan(half)}
    assert found == pytest.approx(on_grid(expected), abs=1e-9)
    marks = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    for y, (c, mark) in enumerate(zip(shown, marks, strict=True)):
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (c["estimate"], y)
        colour, face = to_hex(mark.get_color()), to_hex(mark.get_markerfacecolor())
        assert (colour, face) == (colours[c["verdict"]], colour if c["n"] > 2 else "#ffffff")
    paper = [tuple(point) for line in ax.lines if line.get_marker() == "D" for point in line.get_xydata()]
    named_values = [(c["claim"].partition("paper ")[2].rstrip(")"), y) for y, c in enumerate(shown)]
    assert paper == [(float(value), y) for value, y in named_values if value]
    assert [t.get_text() for t in ax.get_yticklabels()] == [c["claim"].split(" (")[0] for c in shown]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    plt.close(ax.figure)


def test_saved_figures_are_the_same_byte_for_byte(tmp_path):
    rows = made_up()
    written = []
    for name, given in (("a", rows), ("b", rows), ("other", made_up(1))):
        ax = axes()
        plot_auc_space(given, ax)
        path = save_figure(ax.figure, f"exp_{name}", tmp_path / "deep" / "out")
        assert path == tmp_path / "deep" / "out" / "figures" / f"exp_{name}.png"
        written.append(path.read_bytes())
    assert written[0] == written[1] and written[0] != written[2] and b"Matplotlib" not in written[0]
    assert written[0][:8] == b"\x89PNG\r\n\x1a\n"
    assert save_figure(ax.figure, "exp_a", tmp_path / "deep" / "out").read_bytes() == written[2]  # written over


def test_families_have_colours_of_their_own():
    assert set(COLOURS) == {"bias only", "uniform", "RaS", "SAM", "AutoDim"} and len(set(COLOURS.values())) == 5
