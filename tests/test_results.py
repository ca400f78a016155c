"""What is committed fits together: rows and their identities, claims, the front pages, figures and pages."""
import csv
import hashlib
import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from write_readme import code_block, example, marks, parts_of_rows, printed, with_parts

from autodim.study.front import came_out

ROOT = Path(__file__).resolve().parents[1]


def whole_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV as text, up to its last complete line: a study may be running."""
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(StringIO(text[:text.rfind("\n") + 1], newline="")))


TABLES = {path.name: whole_rows(path) for path in sorted((ROOT / "results").glob("*.csv"))}
STORES = [name for name, rows in TABLES.items() if rows and "run_id" in rows[0]]
PAGES = {path.stem for path in (ROOT / "nbs").glob("*.ipynb")}


# ---------------------------------------------------------------- rows

def test_there_are_stores():
    assert {"table3.csv", "planted.csv"} <= set(STORES)


@pytest.mark.parametrize("name", STORES)
def test_a_row_is_named_by_its_configuration_and_stands_once(name):
    rows = TABLES[name]
    for line, row in enumerate(rows, 2):
        digest = hashlib.sha256(row["config"].encode("utf-8")).hexdigest()
        assert row["run_id"] == digest[:12], f"{name} line {line}"
    assert len({row["run_id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("name", STORES)
def test_a_row_has_possible_numbers(name):
    for line, row in enumerate(TABLES[name], 2):
        assert None not in row and None not in row.values(), f"{name} line {line}: columns"
        if "test_ndcg10" in row:  # of ranks among all items
            assert 0 < float(row["val_ndcg10"]) < 1 and 0 < float(row["test_ndcg10"]) < 1, f"{name} line {line}"
            assert int(row["bytes"]) > 0 and len(json.loads(row["ranks"])) == int(row["users"]), f"{name} line {line}"
            continue
        if "full_auc" in row:  # judged part by part of a history, packed and not
            assert 0.5 < float(row["auc"]) < 1 and 0.5 < float(row["full_auc"]) < 1, f"{name} line {line}"
            assert int(row["bytes"]) > 0 and 0 < float(row["share"]) < 1, f"{name} line {line}"
            continue
        if "rmse" in row:  # of stars, as numbers or as classes
            assert 0.7 < float(row["rmse"]) < 1.2 and 0.7 < float(row["val"]) < 1.6, f"{name} line {line}"
            assert (row["task"] == "classes") == bool(row["accuracy"]) and int(row["bytes"]) > 0, f"{name} line {line}"
            continue
        if "macs" in row:  # of a whole recommender: tables, then packed, and the network
            assert 0.5 < float(row["test_auc"]) < 1 and 0.5 < float(row["val_auc"]) < 1, f"{name} line {line}"
            assert 0 < int(row["packed_bytes"]) <= int(row["table_bytes"]) < int(row["bytes"]), f"{name} line {line}"
            assert int(row["macs"]) > 0 and len(json.loads(row["all_val"])) == int(row["trials"]), f"{name} line {line}"
            continue
        least = 0.4 if "bits" in row else 0.5  # of tables of which nothing is left, chance decides
        assert least < float(row["test_auc"]) < 1 and least < float(row["val_auc"]) < 1, f"{name} line {line}"
        if "bits" in row:  # of a compressed model: no training of its own
            assert 0 < float(row["share"]) == int(row["bytes"]) / int(row["full_bytes"]) <= 2, f"{name} line {line}"
            continue
        if "number_parameters" in row:  # an encoding of numbers
            assert int(row["number_parameters"]) >= 0 < float(row["best_epoch"]) <= 30, f"{name} line {line}"
            assert row["method"] == "fine" or json.loads(row["choice"]), f"{name} line {line}"
            continue
        assert 0 < float(row["space"]) <= 1, f"{name} line {line}"
        assert 0 < int(row["test_positives"]) < int(row["n_test"]), f"{name} line {line}"
        assert 0 < float(row["best_epoch"]) <= float(row["epochs"]), f"{name} line {line}"


# ---------------------------------------------------------------- claims

COLUMNS = ["claim", "section", "experiment", "estimate", "low", "high", "n", "test", "p", "verdict"]


@pytest.fixture(scope="module")
def claims() -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / "claims.csv")


def test_claims_have_their_columns_verdicts_and_pages(claims):
    assert list(claims) == COLUMNS and len(claims) > 20 and claims.claim.is_unique
    assert set(claims.verdict) <= {"reproduced", "not reproduced", "inconclusive"}
    assert set(claims.experiment) <= PAGES
    assert not claims[["claim", "section", "experiment", "n", "verdict"]].isna().any(axis=None)


def test_claims_have_their_estimates_within_their_intervals(claims):
    for c in claims.itertuples():
        assert np.isnan(c.low) == np.isnan(c.high), c.claim
        assert np.isnan(c.low) or c.low <= c.estimate <= c.high, c.claim
        assert np.isnan(c.p) or 0 <= c.p <= 1, c.claim
        assert not np.isnan(c.estimate) or (c.n == 0 and c.verdict == "inconclusive"), c.claim


# ---------------------------------------------------------------- what the front pages say

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST, LAST = marks("claims")
TEXT = f"# Title\n\n{FIRST}\nold\n{LAST}\n\nthe rest\n"


def markdown_of(page: str) -> str:
    """What the cells of an executed notebook show as Markdown."""
    document = json.loads((ROOT / "nbs" / f"{page}.ipynb").read_text(encoding="utf-8"))
    found = [o["data"].get("text/markdown", "") for cell in document["cells"] for o in cell.get("outputs", []) if "data" in o]
    return "\n".join(map("".join, found))


def test_the_readme_says_what_the_rows_say():
    assert README == with_parts(README, parts_of_rows(ROOT)), "run make front"


def test_the_index_says_what_the_rows_say(claims):
    said = came_out(claims, pd.read_csv(ROOT / "results" / "compression.csv"))
    assert said in markdown_of("index"), "run make front"


def test_the_readme_is_short_and_code_comes_early():
    lines = README.splitlines()
    assert len(lines) <= 130 and lines.index("```python") < 40


def test_the_readme_links_to_what_there_is():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 10 and all((ROOT / link).exists() for link in links), links


@pytest.mark.slow
def test_the_readmes_example_prints_what_it_shows():
    """But for digits: the last ones depend on the processor."""
    shown = README.split(marks("printed")[0])[1].split(marks("printed")[1])[0]
    masked = [re.sub(r"[-+−]?[0-9.]+", "#", text) for text in (shown.strip(), code_block(printed(example(README))))]
    assert masked[0] == masked[1]


@pytest.mark.parametrize("old", ["", "old\n", "| a |\n| :-- |\n"])
def test_only_what_is_between_the_marks_is_written(old):
    before, after = f"# Title\n\n{FIRST}\n", f"{LAST}\n\nthe rest\n"
    written = with_parts(before + old + after, {"claims": "| new |"})
    assert written == f"{before}| new |\n{after}" == with_parts(written, {"claims": "| new |"})


@pytest.mark.parametrize("text", ["", FIRST, LAST, TEXT + FIRST, TEXT + TEXT, f"{LAST}\n{FIRST}\n"],
                         ids=["none", "no end", "no beginning", "two beginnings", "two tables", "turned round"])
def test_a_readme_without_the_marks_is_refused(text):
    with pytest.raises(ValueError, match="once each and in this order"):
        with_parts(text, {"claims": "x"})


# ---------------------------------------------------------------- figures

def test_every_figure_is_a_pages():
    figures = sorted((ROOT / "figures").glob("*.png"))
    assert figures
    for path in figures:
        assert any(path.stem == page or path.stem.startswith(page + "-") for page in PAGES), path.name
        assert path.read_bytes().startswith(b"\x89PNG")
