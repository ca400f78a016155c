"""autodim.data.prepare against pandas with `encode_table`, against a plain loop, and against damage of every kind."""
import gzip
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
import torch
from written import NASTY, rows_of, written

from autodim.data import prepare as preparing
from autodim.data import read as reader
from autodim.data.batches import DiskPart
from autodim.data.encode import encode_table
from autodim.data.files import DataError
from autodim.data.split import row_draws, split_of
from autodim.data.vocabulary import vocabulary_to_dict
from autodim.method.models import DLRS
from autodim.method.backbones import Network
from autodim.data.read import Layout, TableFiles
from autodim.method.retrain import TrainConfig, fit
from autodim.training.runtime import Runtime
from autodim.data.datasets import CLICK_LOGS, CRITEO, load_dataset
from autodim.data.columns import Rule, typed
from autodim.data.prepare import Preparation, open_prepared, prepare_files
from autodim.data.split import ScatteredSplit

ROOT = Path(__file__).resolve().parents[1]


def made_table(rng, n, commas=True):
    """A random table as pandas would have it, and the rule of each field."""
    columns, rules = {}, {}
    for k in range(int(rng.integers(2, 6))):
        name = [f"f{k}", f'od"d, {k}', f"ü\n{k}"][rng.choice(3, p=[0.7, 0.2, 0.1])] if commas else f"f{k}"
        holes = rng.random(n) < rng.choice([0, 0.3])
        kind = str(rng.choice(["text", "whole", "number", "truth"]))
        buckets = None
        if kind == "text":
            some = np.array(NASTY if commas else ["a", 'b"', '"', "'c", "é", " "], dtype=object)
            values = pd.Series(rng.choice(rng.permutation(some)[: int(rng.integers(1, 12))], n))
        elif kind == "whole":
            buckets = [None, "criteo", 4][rng.integers(3)]
            values = pd.Series(np.exp(rng.normal(1, 2, n)).astype(int) - 3, dtype="Int64")
        elif kind == "number":
            buckets = ["criteo", 1, 3, 10][rng.integers(4)]
            values = pd.Series(np.round(rng.normal(2, 5, n), int(rng.integers(0, 17))))
        else:
            values = pd.Series(rng.random(n) < 0.3, dtype=object)
        values[holes] = None
        columns[name], rules[name] = values, Rule(kind, buckets)
    columns["label"] = pd.Series((rng.random(n) < 0.3).astype(int))
    return pd.DataFrame(columns), rules


def expected_of(frame, plan):
    """What the in-memory path makes of a table."""
    labels = frame[plan.label].to_numpy()
    split = split_of(plan.split(labels))
    buckets = {name: rule.buckets for name, rule in plan.rules.items() if rule.buckets}
    return encode_table(frame[[*plan.rules, plan.label]], split, plan.label, plan.name, plan.min_count, buckets)


def assert_same(data, expected):
    assert data.fields == expected.fields and data.cardinalities == expected.cardinalities
    for one, other in zip(data.vocabularies, expected.vocabularies):
        assert vocabulary_to_dict(one) == vocabulary_to_dict(other)
    for one, other in zip((data.train, data.val, data.test), (expected.train, expected.val, expected.test)):
        assert one.ids.dtype == other.ids.dtype and one.ids.equal(other.ids) and one.labels.equal(other.labels)
    assert data.fingerprint == expected.fingerprint


def as_parquet(frame, path, rng):
    """Columns by their own types, or such as may be taken for them."""
    typed = {}
    for name in frame:
        values = frame[name].dropna().tolist()
        if values and isinstance(values[0], (bool, np.bool_)):
            typed[name] = frame[name].astype("boolean")
        elif values and isinstance(values[0], str) and rng.random() < 0.5:
            typed[name] = frame[name].astype("category")
        else:
            typed[name] = frame[name]
    pd.DataFrame(typed).to_parquet(path, row_group_size=int(rng.integers(30, 400)))


def prepare(files, layout, plan, folder, workers=1, wanted=None):
    wanted = wanted or (plan.label, *plan.rules)
    prepare_files(TableFiles(tuple(files), layout, wanted), lambda table: plan, "test", folder, workers, progress=False)
    return open_prepared(folder)


@pytest.mark.parametrize("seed", range(36))
def test_a_random_table_equals_the_one_in_memory(seed, tmp_path, monkeypatch):
    rng = np.random.default_rng(seed)
    kind = ["plain", "gz", "parquet"][seed % 3]
    n = int(rng.integers(150, 500))
    quoted = bool(rng.random() < 0.8)
    frame, rules = made_table(rng, n, commas=quoted or kind == "parquet")
    columns = rng.permutation(frame.columns).tolist()
    named = quoted and rng.random() < 0.7
    layout = Layout(() if named else tuple(columns), str(rng.choice([",", "\t", ";", "|"])) if quoted else "\t", quoted)
    fields = rng.permutation([c for c in columns if c != "label"]).tolist()
    plan = Preparation("random", "label", {name: rules[name] for name in fields[: max(1, len(fields) - 1)]},
                       min_count=int(rng.integers(1, 5)), split=ScatteredSplit(
                           positive_rate=[None, 0.5][rng.integers(2)], seed=int(rng.integers(9)),
                           fractions=[(0.8, 0.1, 0.1), (0.4, 0.4, 0.2)][rng.integers(2)]))
    monkeypatch.setattr(reader, "BLOCK", int(rng.choice([500, 900, 16 << 20])))
    monkeypatch.setattr(reader, "GROUP", int(rng.integers(1, 4)))
    monkeypatch.setattr(reader, "MERGED", int(rng.choice([20, 1 << 20])))
    monkeypatch.setattr(reader, "SAMPLE", int(rng.choice([2, 4096])))
    files = []
    cuts = [0, *sorted(rng.integers(0, n, int(rng.integers(0, 3))).tolist()), n]  # a file may have no rows
    for k, (start, stop) in enumerate(zip(cuts, cuts[1:])):
        piece = frame[start:stop].reset_index(drop=True)
        files.append(tmp_path / f"{k}.{'parquet' if kind == 'parquet' else 'txt' if kind == 'plain' else 'txt.gz'}")
        if kind == "parquet":
            as_parquet(piece[columns], files[-1], rng)
        else:
            order = rng.permutation(columns).tolist() if named else columns  # another order in each file
            content = written(rng, piece, layout, order)
            files[-1].write_bytes(content if kind == "plain" else gzip.compress(content))
    assert_same(prepare(files, layout, plan, tmp_path / "made"), expected_of(frame, plan))


def shop(n=600, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"site": rng.choice(list("abcdefgh"), n), "price": np.round(rng.lognormal(1, 1, n), 2),
                          "label": (rng.random(n) < 0.3).astype(int)})
    frame.loc[rng.random(n) < 0.1, "site"] = None
    plan = Preparation("shop", "label", {"site": Rule(), "price": Rule("number", 5)}, min_count=2,
                       split=ScatteredSplit(positive_rate=0.5))
    return frame, plan


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    """Four files of one table, a plan, and what it is in memory."""
    frame, plan = shop()
    folder = tmp_path_factory.mktemp("shops")
    files = [folder / f"{k}.csv{'.gz' if k == 2 else ''}" for k in range(4)]
    for k, path in enumerate(files):
        frame[150 * k : 150 * k + 150].to_csv(path, index=False)
    return files, plan, expected_of(frame, plan)


def test_processes_make_the_same(shops, tmp_path):
    files, plan, expected = shops
    assert_same(prepare(files, Layout(), plan, tmp_path / "one"), expected)
    assert_same(prepare(files, Layout(), plan, tmp_path / "two", workers=2), expected)
    (tmp_path / "bad.csv").write_text("label,site,price\n1,a,2\n0,a\n")
    with pytest.raises(DataError, match="bad.csv line 3: 2 columns, expected 3"):
        prepare([*files, tmp_path / "bad.csv"], Layout(), plan, tmp_path / "three", workers=2)
    assert sorted(os.listdir(tmp_path)) == [".one.lock", ".three.lock", ".two.lock", "bad.csv", "one", "two"]


def test_a_dask_cluster_makes_the_same(shops, tmp_path):
    files, plan, expected = shops
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster), joblib.parallel_config(backend="dask"):
            assert_same(prepare(files, Layout(), plan, tmp_path / "made", workers=2), expected)


def criteo_bucket(text):
    v = float(text)
    return math.floor(math.log(v) ** 2) if v > 2 else int(v)


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_criteo_table_equals_a_loop(gzipped, tmp_path, monkeypatch):
    """Counted, cut, numbered and split with dictionaries; only the lots are NumPy's, as everywhere."""
    rng, n, seed = np.random.default_rng(5), 700, 3
    columns = ("label", "I1", "I2", "C1", "C2")
    rows = [[str(int(rng.random() < 0.3)), *(str(int(np.exp(rng.normal(2, 2))) - 2) for _ in "12"),
             f"{rng.zipf(1.3) % 40:08x}", f"{rng.zipf(1.6) % 90:08x}"] for _ in range(n)]
    rows = [[row[0], *("" if rng.random() < 0.15 else v for v in row[1:])] for row in rows]
    path = tmp_path / ("train.txt.gz" if gzipped else "train.txt")
    content = "".join("\t".join(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if gzipped else content)
    monkeypatch.setattr(reader, "BLOCK", 700)
    monkeypatch.setattr(reader, "GROUP", 3)
    rules = {name: Rule("number", "criteo") if name[0] == "I" else Rule() for name in columns[1:]}
    plan = Preparation("criteo", "label", rules, min_count=6,
                       split=ScatteredSplit(seed, (0.6, 0.2, 0.2), positive_rate=0.4))
    data = prepare([path], Layout(columns, "\t", quoted=False), plan, tmp_path / "made")

    split, stays = row_draws(seed, 0, n).tolist()
    positives = sum(row[0] == "1" for row in rows)
    chance = positives * 0.6 / 0.4 / (n - positives)
    part_rows = {"train": [], "val": [], "test": []}
    for k, row in enumerate(rows):
        if row[0] == "1" or stays[k] < chance:
            part_rows["train" if split[k] < 0.6 else "val" if split[k] < 0.8 else "test"].append(row)
    ids = {}
    for c, name in enumerate(columns[1:], 1):
        def value(text):
            return None if text == "" else criteo_bucket(text) if name[0] == "I" else text
        counts = Counter(value(row[c]) for row in part_rows["train"])
        kept = sorted(v for v, count in counts.items() if v is not None and count >= 6)
        ids[c] = {v: i for i, v in enumerate(kept, 1)} | ({None: len(kept) + 1} if counts[None] >= 6 else {})
        assert data.cardinalities[c - 1] == 1 + len(ids[c]) and 2 < len(ids[c]) < len(counts)
        for part in part_rows:
            found = getattr(data, part).ids[:, c - 1].tolist()
            assert found == [ids[c].get(value(row[c]), 0) for row in part_rows[part]]
    for part in part_rows:
        assert getattr(data, part).labels.tolist() == [float(row[0]) for row in part_rows[part]]
    manifest = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert manifest["rows"] == {part: len(found) for part, found in part_rows.items()} and manifest["rows_read"] == n
    assert manifest["positives"] == {part: sum(r[0] == "1" for r in found) for part, found in part_rows.items()}


# ---------------------------------------------------------------- the real samples


def sample(name):
    """A file of the real samples, or a skipped test."""
    for base in (os.environ.get("AUTODIM_DATA") or "data", "../shared/data"):
        path = ROOT / Path(base).expanduser() / name
        if path.is_file():
            return path
    pytest.skip(f"no {name} below AUTODIM_DATA")


def test_criteo_as_published_equals_its_sample_with_commas(tmp_path):
    """The same 8,000 rows, with tabs and no header, and with commas and one."""
    raw, commas = sample("criteo/train_first8000.txt"), sample("criteo/criteo_80k.csv")
    with commas.open() as file:
        (tmp_path / "first.csv").write_text("".join(line for _, line in zip(range(8001), file)))
    plan = Preparation("criteo", "label", CRITEO, min_count=5, split=ScatteredSplit(positive_rate=0.5))
    one = prepare([raw], CLICK_LOGS["criteo"].layout, plan, tmp_path / "raw")
    other = prepare([tmp_path / "first.csv"], CLICK_LOGS["criteo-sample"].layout, plan, tmp_path / "commas")
    assert_same(one, other)
    frame = pd.read_csv(raw, sep="\t", names=["label", *CRITEO], dtype={f"C{k}": str for k in range(1, 27)})
    assert len(frame) == 8000 and one.fields == tuple(CRITEO)
    expected = expected_of(frame, plan)
    assert one.fingerprint == expected.fingerprint and one.cardinalities == expected.cardinalities
    assert abs(one.train.labels.mean() - 0.5) < 0.03


def test_avazu_equals_pandas(tmp_path, monkeypatch):
    path = sample("avazu/train_first8999.csv")
    monkeypatch.setenv("AUTODIM_CACHE", str(tmp_path))
    data = load_dataset("avazu-sample", 2, data_dir=path.parents[1], min_count=4)
    log = CLICK_LOGS["avazu-sample"]
    frame = pd.read_csv(path, dtype=str).astype({"click": int})
    plan = Preparation("avazu-sample", "click", log.rules, min_count=4, split=ScatteredSplit(2, positive_rate=0.5))
    assert len(frame) == log.rows and len(data.fields) == 22
    assert_same(data, expected_of(frame, plan))
    fewer = load_dataset("avazu-sample", 2, drop_fields=("hour", "C21"), data_dir=path.parents[1], min_count=4)
    assert fewer.fields == tuple(f for f in data.fields if f not in ("hour", "C21"))
    assert fewer.test.ids[:, 0].equal(data.test.ids[:, 1])


def test_a_log_of_another_length_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTODIM_CACHE", str(tmp_path / "cache"))
    columns = ("click", *CLICK_LOGS["avazu"].rules)
    (tmp_path / "avazu").mkdir()
    (tmp_path / "avazu" / "train.csv").write_text("\n".join([",".join(columns), *[",".join("1" * 23)] * 3]))
    with pytest.raises(DataError, match=r"train.csv: 3 rows, expected 40,428,967: another file, or cut short"):
        load_dataset("avazu", 0, data_dir=tmp_path)
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]


# ---------------------------------------------------------------- values


NUMBERS = ["1e3", " 7", "7 ", "+5", "007", "5.", ".5", "1E5", "-0", "-0.0", "0.1", "12345678901234567890", "1_000", "nan",
           "NaN", "inf", "-Infinity", "1e400", "0x10", "1,5", "1e", "abc", "1 2", "٣", "−3", "True"]  # fmt: skip


def test_numbers_are_those_of_pandas():
    """Text that is a finite number is that number; all else is refused, as it is in memory."""
    for text in NUMBERS:
        number = pd.to_numeric(pd.Series([text], dtype=object), errors="coerce").astype(float)[0]
        if text == "True" or not np.isfinite(number):
            with pytest.raises(DataError, match="is no number value"):
                typed("x", pl.Series([text]), Rule("number"))
        else:
            assert typed("x", pl.Series([text]), Rule("number")).tolist()[0] == number, text


@pytest.mark.parametrize("kind, texts, values", [
    ("whole", ["5", "05", " 5", "-5", str(2**63 - 1), str(-(2**63))], [5, 5, 5, -5, 2**63 - 1, -(2**63)]),
    ("truth", ["true", "False", "TRUE", "0", " 1"], [True, False, True, False, True]),
    ("text", ["5", "05", " 5"], ["5", "05", " 5"]),
])
def test_texts_of_each_kind(kind, texts, values):
    column = typed("x", pl.Series(texts), Rule(kind))
    assert column.tolist()[:-1] == values and column.isna().tolist() == [False] * len(values) + [True]


@pytest.mark.parametrize("kind, text", [("whole", "5.0"), ("whole", str(2**63)), ("whole", "1e3"), ("whole", ""),
                                        ("truth", "yes"), ("truth", "2"), ("number", "5,0")])
def test_texts_of_no_such_kind(kind, text):
    with pytest.raises(DataError, match=f"column 'x': '{text}' is no {kind} value.*take the column as it is"):
        typed("x", pl.Series(["1", text]), Rule(kind))


def test_types_of_a_parquet_file(tmp_path):
    """Each column equals its text; NaN is missing, and a float32 is the number that it is."""
    n = 200
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "label": rng.integers(0, 2, n).astype(float), "single": rng.normal(size=n).astype("float32").round(1),
        "double": rng.normal(size=n), "big": rng.integers(0, 5, n).astype("uint64") + 2**63, "truth": rng.random(n) < 0.5,
        "day": pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.integers(0, 5, n), "D"), "bytes": [b"a", b"b"] * (n // 2),
    })  # fmt: skip
    frame.loc[3:9, "double"] = np.nan
    frame.to_parquet(tmp_path / "x.parquet")
    rules = {"single": Rule("number", 4), "double": Rule("number", "criteo"), "big": Rule(), "truth": Rule("truth"),
             "day": Rule(), "bytes": Rule()}
    plan = Preparation("types", "label", rules)
    data = prepare([tmp_path / "x.parquet"], Layout(), plan, tmp_path / "made")
    expected = expected_of(frame.assign(single=frame.single.astype(float), truth=frame.truth.astype(object)), plan)
    assert data.fingerprint == expected.fingerprint and data.cardinalities == expected.cardinalities
    assert data.vocabularies[0].edges == expected.vocabularies[0].edges
    one, other = (pa.table({"label": [0, 1] * 50, "x": pa.array([1.5, hole] * 50)}) for hole in (float("nan"), None))
    for k, table in enumerate((one, other)):
        pa_parquet.write_table(table, tmp_path / f"{k}.parquet")
    holes = [prepare([tmp_path / f"{k}.parquet"], Layout(), Preparation("nan", "label", {"x": Rule("number", 2)},
                                                                                     split=ScatteredSplit(4)), tmp_path / f"nan {k}") for k in (0, 1)]
    assert holes[0].vocabularies[0].missing_id == 2 and holes[0].fingerprint == holes[1].fingerprint


# ---------------------------------------------------------------- bad input


def refused(match, files, folder, layout=Layout(), plan=None, workers=1):
    """Preparing raises one DataError, of one line, and leaves nothing but the lock."""
    before = sorted(os.listdir(folder.parent))
    plan = plan or Preparation("bad", "label", {"x": Rule()})
    with pytest.raises(DataError, match=match) as error:
        prepare(files, layout, plan, folder, workers)
    assert "\n" not in str(error.value)
    assert set(os.listdir(folder.parent)) == {*before, f".{folder.name}.lock"}


@pytest.mark.parametrize("content, problem", [
    (b"label,x\n1,2\n0\n", "x.csv line 3: 1 columns, expected 2"),
    (b"label,x\n,2\n1,3\n", r"x.csv, row 0 \(counted from 0\): label 'label': missing, expected 0 or 1 \(in 1 rows\)"),
    (b"label,x\n0,2\n1,3\n2,3\n2,4\n", r"x.csv, row 2 \(counted from 0\): label 'label': '2', expected 0 or 1 \(in 2 rows\)"),
    (b"label,x\n0.0,2\n1.0,3\n", r"row 0 .*label 'label': '0.0', expected 0 or 1 \(in 2 rows\)"),
    (b"label,x\n" + b"1,2\n" * 9, "label 'label': all 9 rows are 1, nothing to learn"),
    (b"label,x\n1,2\n" + b"0,2\n" * 9, "the . rows that fall to (train|val|test) have one class; more rows are needed"),
])
def test_tables_of_which_nothing_can_be_made(content, problem, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    refused(problem, [tmp_path / "x.csv"], tmp_path / "made")


def test_the_second_of_two_files_is_bad_or_missing(tmp_path):
    good, other = tmp_path / "good.csv", tmp_path / "other.csv"
    good.write_text("label,x\n" + "\n".join(rows_of(200)))
    other.write_text("label,x\n1,2\n,3\n")
    refused(r"other.csv, row 1 \(counted from 0\): label 'label': missing", [good, other], tmp_path / "made")
    for path, problem in ((tmp_path / "no.csv", "no.csv: no such file"), (tmp_path, "is not a file")):
        with pytest.raises(DataError, match=problem):
            prepare([good, path], Layout(), Preparation("bad", "label", {"x": Rule()}), tmp_path / "none")
    assert sorted(os.listdir(tmp_path)) == [".made.lock", "good.csv", "other.csv"]  # nothing was begun


def test_a_value_that_is_no_number_is_named_by_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK", 60)
    monkeypatch.setattr(reader, "GROUP", 3)
    plan = Preparation("bad", "label", {"x": Rule("number", 4)})
    for value, k in (("abc", 150), ("inf", 3), ("nan", 199), ("1_000", 20), ("1e999", 77)):
        lines = rows_of(200)
        lines[k] = f"1,{value}"
        (tmp_path / "x.csv").write_text("label,x\n" + "\n".join(lines))
        refused(rf"x.csv, row {k} \(counted from 0\): column 'x': '{value}' is no number value, as others are "
                r"\(in all 1 such values\); make it missing, or take", [tmp_path / "x.csv"], tmp_path / "made", plan=plan)
    (tmp_path / "first.csv").write_text("label,x\n" + "\n".join(rows_of(200)))
    refused(r"/x.csv, row 77 ", [tmp_path / "first.csv", tmp_path / "x.csv"], tmp_path / "made", plan=plan)
    for kind in ("whole", "truth"):
        refused(r"x.csv, row \d+ .* is no " + kind, [tmp_path / "x.csv"], tmp_path / "made",
                plan=Preparation("bad", "label", {"x": Rule(kind)}))


# ---------------------------------------------------------------- the folder


@pytest.fixture
def table(tmp_path):
    """A file, its plan, and what it is in memory."""
    frame, plan = shop(400)
    frame.to_csv(tmp_path / "shop.csv", index=False)
    return tmp_path / "shop.csv", plan, expected_of(frame, plan)


def settled(path, plan, folder, settings="test"):
    source = TableFiles((path,), Layout(), ("label", "site", "price"))
    prepare_files(source, lambda table: plan, settings, folder, progress=False)
    return open_prepared(folder)


def test_a_folder_is_made_anew_when_anything_changes(table, tmp_path, monkeypatch):
    path, plan, expected = table
    monkeypatch.chdir(tmp_path)
    assert settled(path, plan, "deep/er/made").fingerprint == expected.fingerprint  # from where one is
    folder = tmp_path / "deep" / "er" / "made"
    assert open_prepared(folder).fingerprint == expected.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "read_files", None)  # it is not read again
        assert settled(path, plan, folder).fingerprint == expected.fingerprint
    other = settled(path, replace(plan, min_count=40), folder, settings="other")
    assert other.fingerprint != expected.fingerprint
    os.utime(path, (1, 1))
    assert settled(path, plan, folder, "other").fingerprint == expected.fingerprint
    path.write_text(path.read_text().replace("a,", "z,"))
    assert "z" in settled(path, plan, folder, "other").vocabularies[0].values
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))
    assert "z" in settled(path, plan, folder, "other").vocabularies[0].values
    assert sorted(os.listdir(folder.parent)) == [".made.lock", "made"]
    assert sorted(os.listdir(folder)) == sorted(preparing.FILES)
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777  # whoever may read others may read it


@pytest.mark.parametrize("name", ["odd [1] *?", "ü", "a.part-b"])
def test_a_folder_of_any_name_and_what_a_killed_process_left(name, table, tmp_path):
    path, plan, expected = table
    (tmp_path / f".{name}.part-123").mkdir()
    (tmp_path / f".{name}.part-123" / "codes").write_bytes(b"x")
    (tmp_path / f".{name}.lock").touch()
    assert settled(path, plan, tmp_path / name).fingerprint == expected.fingerprint
    (tmp_path / f".{name}.part-124").mkdir()
    assert settled(path, plan, tmp_path / name).fingerprint == expected.fingerprint
    assert sorted(os.listdir(tmp_path)) == sorted([f".{name}.lock", name, "shop.csv"])


def test_what_is_no_prepared_folder_is_never_replaced(table, tmp_path):
    path, plan, _ = table
    for place in (tmp_path, path):  # the folder of the table itself, and a file
        with pytest.raises(DataError, match="is no prepared folder, it holds 'shop.csv', and is not replaced: choose"):
            settled(path, plan, place)
    (tmp_path / "made").mkdir()
    assert settled(path, plan, tmp_path / "made")  # an empty one is
    (tmp_path / "made" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds 'notes.txt'"):
        settled(path, plan, tmp_path / "made", "other")
    assert (tmp_path / "made" / "notes.txt").read_text() == "mine" and open_prepared(tmp_path / "made")


def test_a_link_to_a_folder_stays_one(table, tmp_path):
    path, plan, expected = table
    (tmp_path / "large disk").mkdir()
    (tmp_path / "made").symlink_to(tmp_path / "large disk")
    for settings in ("one", "two"):
        assert settled(path, plan, tmp_path / "made", settings).fingerprint == expected.fingerprint
    assert (tmp_path / "made").is_symlink() and (tmp_path / "large disk" / "manifest.json").is_file()


def test_a_folder_that_cannot_be_written(table, tmp_path):
    path, plan, _ = table
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/made cannot be written .*choose another folder"):
        settled(path, plan, tmp_path / "file" / "made")


def test_a_disk_that_is_full(table, tmp_path, small_disk):
    path, plan, expected = table
    subprocess.run(["mount", "-o", "remount,size=128k", small_disk], check=True)
    assert settled(path, plan, small_disk / "made").fingerprint == expected.fingerprint
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (small_disk / "made").iterdir())
    frame, _ = shop(20_000)
    frame.to_csv(path, index=False)
    with pytest.raises(DataError, match="made cannot be written .No space left on device.*: free some space"):
        settled(path, plan, small_disk / "made")
    assert sorted(os.listdir(small_disk)) == [".made.lock", "made"]
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (small_disk / "made").iterdir()) == before
    assert open_prepared(small_disk / "made").fingerprint == expected.fingerprint


DAMAGES = {
    "no manifest": ("manifest.json", lambda b: None, "no prepared folder of this version"),
    "half a manifest": ("manifest.json", lambda b: b[:100], "no prepared folder of this version"),
    "a list": ("manifest.json", lambda b: b"[]", "no prepared folder of this version"),
    "another format": ("manifest.json", lambda b: b'{"format": 0}', "no prepared folder of this version"),
    "no rows": ("manifest.json", lambda b: b'{"format": 1, "key": "x"}', "is damaged"),
    "rows of no part": ("manifest.json", lambda b: b.replace(b'"val"', b'"vol"'), "is damaged"),
    "other rows": ("manifest.json", lambda b: b.replace(b'"train": ', b'"train": 1'), "has other rows than the manifest"),
    "other fields": ("manifest.json", lambda b: b.replace(b'"price":', b'"cost":'), "other fields or values"),
    "no vocabularies": ("vocabularies.jsonl", lambda b: None, "is damaged .*No such file"),
    "half a vocabulary": ("vocabularies.jsonl", lambda b: b[:-9], "is damaged"),
    "a vocabulary too few": ("vocabularies.jsonl", lambda b: b.split(b"\n")[0], "other fields or values"),
    "a value too few": ("vocabularies.jsonl", lambda b: b.replace(b'"h"]', b"]").replace(b', ],', b'],'), "is damaged"),
    "no ids": ("val-ids.npy", lambda b: None, "is damaged .*No such file"),
    "ids cut short": ("train-ids.npy", lambda b: b[:-4], "is damaged"),
    "empty labels": ("test-labels.npy", lambda b: b"", "is damaged"),
    "labels of another part": ("test-labels.npy", lambda b: b.replace(b"(", b"(1", 1), "is damaged"),
    "ids of another type": ("val-ids.npy", lambda b: b.replace(b"<i4", b"<f4"), "has other rows than the manifest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder(damage, table, tmp_path):
    path, plan, expected = table
    settled(path, plan, tmp_path / "made")
    name, change, problem = DAMAGES[damage]
    content = change((tmp_path / "made" / name).read_bytes())
    (tmp_path / "made" / name).unlink()
    if content is not None:
        (tmp_path / "made" / name).write_bytes(content)
    for in_memory in (None, False):
        with pytest.raises(DataError, match=problem):
            open_prepared(tmp_path / "made", in_memory)
    try:
        assert settled(path, plan, tmp_path / "made").fingerprint == expected.fingerprint
    except DataError as error:
        assert "is damaged" in str(error) and "delete it, and prepare the table again" in str(error)
        shutil.rmtree(tmp_path / "made")
        assert settled(path, plan, tmp_path / "made").fingerprint == expected.fingerprint


def test_mapped_arrays_are_those_in_memory(table, tmp_path, monkeypatch):
    path, plan, expected = table
    settled(path, plan, tmp_path / "made")
    mapped = open_prepared(tmp_path / "made", in_memory=False)
    assert isinstance(mapped.val, DiskPart)
    assert_same(mapped, expected)
    mapped.train.ids[0, 0] = 9  # a copy is written to, not the file
    assert_same(open_prepared(tmp_path / "made", in_memory=True), expected)
    monkeypatch.setattr(preparing, "MEMORY", 4 * 3 * sum(len(p.labels) for p in (mapped.train, mapped.val, mapped.test)))
    assert not isinstance(open_prepared(tmp_path / "made").train, DiskPart)
    monkeypatch.setattr(preparing, "MEMORY", preparing.MEMORY - 1)
    assert isinstance(open_prepared(tmp_path / "made").train, DiskPart)


# ---------------------------------------------------------------- killed, full, at once

FORKS = '''
import json, os, random, resource, signal, sys, time, hashlib
from pathlib import Path
import numpy as np
from autodim.data import read as reader
from autodim.data.read import Layout, TableFiles
from autodim.data.columns import Rule
from autodim.data.prepare import Preparation, prepare_files

folder, files = Path(sys.argv[2]), [Path(sys.argv[1]) / f"{k}.csv" for k in range(3)]
reader.BLOCK, reader.GROUP = 4000, 2

def prepare(folder, min_count=2):
    plan = Preparation("shop", "label", {"site": Rule(), "price": Rule("number", 5)}, min_count=min_count)
    source = TableFiles(files, Layout(), ("label", "site", "price"))
    return prepare_files(source, lambda table: plan, min_count, folder, progress=False)["fingerprint"]

def fork(work, limit=None):
    """A process, and what it has to say."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        told = ["made", work()]
    except Exception as error:
        told = [type(error).__name__, str(error)]
    os.write(writer, json.dumps(told).encode())
    os._exit(0)

def wait(pid, reader):
    told = os.read(reader, 1 << 16)
    os.close(reader)
    os.waitpid(pid, 0)
    return json.loads(told) if told else None

def seen():
    """The fingerprint that the arrays of the folder have, where it looks finished: NumPy and hashlib alone."""
    if not (folder / "manifest.json").exists():
        return None
    digest = hashlib.sha256("site\\x1fprice".encode())
    for part in ("train", "val", "test"):
        ids, labels = (np.load(folder / f"{part}-{what}.npy") for what in ("ids", "labels"))
        digest.update(repr(ids.shape).encode() + ids.tobytes() + labels.tobytes())
    found = digest.hexdigest()[:16]
    assert found == json.loads((folder / "manifest.json").read_text())["fingerprint"]
    return found

def left():
    return sorted(p.name for p in folder.parent.iterdir() if "part-" in p.name)

def tell(*words):
    print(json.dumps(words), flush=True)
'''


def forks(script, files, folder):
    """What processes that a small one forks have to say; the small one has run nothing of Polars, which cannot fork."""
    done = subprocess.run([sys.executable, "-c", FORKS + script, files, folder], capture_output=True, text=True,
                          timeout=900, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """Three files of 6,000 rows, and their fingerprints with a min_count of 2 and of 3,000."""
    frame, plan = shop(6_000)
    folder = tmp_path_factory.mktemp("larger")
    for k in range(3):
        frame[2000 * k : 2000 * k + 2000].to_csv(folder / f"{k}.csv", index=False)
    plans = [replace(plan, split=ScatteredSplit(), min_count=count) for count in (2, 3000)]
    return folder, *(expected_of(frame, plan).fingerprint for plan in plans)


@pytest.mark.slow
def test_killed_at_random_points_twenty_times(larger, tmp_path):
    """Nothing looks finished unless it is; the next call makes the right thing, and clears away what was left."""
    files, right, other = larger
    told = forks('''
began = time.time()
wait(*fork(lambda: prepare(folder.parent / "elsewhere")))
lasts, dice = time.time() - began, random.Random(0)
tell("lasts", lasts)
for k in range(20):
    pid, reader = fork(lambda: prepare(folder, 2 if k % 2 else 3000))
    time.sleep(lasts * 1.1 * dice.random())
    os.kill(pid, signal.SIGKILL)
    wait(pid, reader)
    tell(seen(), left())
tell(wait(*fork(lambda: prepare(folder))), seen(), left())
''', files, tmp_path / "made")
    assert all(found in (None, right, other) for found, _ in told[1:-1])
    assert sum(bool(parts) for _, parts in told[1:-1]) >= 5  # most were killed on the way
    assert told[-1] == [["made", right], right, []]


@pytest.mark.slow
def test_two_processes_at_once(larger, tmp_path):
    files, right, other = larger
    told = forks('''
running = [fork(lambda: prepare(folder)) for _ in range(3)] + [fork(lambda: prepare(folder, 3000))]
tell(*(wait(*process) for process in running))
tell(left(), seen())
''', files, tmp_path / "made")
    assert told[0] == [["made", right]] * 3 + [["made", other]] and told[1][0] == [] and told[1][1] in (right, other)


@pytest.mark.slow
def test_no_file_may_grow_beyond_a_limit(larger, tmp_path):
    """As on a disk that is full, wherever that happens: the folder before stays, and nothing else."""
    files, right, other = larger
    told = forks('''
tell(wait(*fork(lambda: prepare(folder, 3000))))
for limit in (100, 300, 800, 1500, 3000, 8000, 15000, 20000, 24000, 30000, 36000, 40000):
    tell(limit, wait(*fork(lambda: prepare(folder), limit)), left(), seen())
''', files, tmp_path / "made")
    assert told[0] == [["made", other]]
    failed = [(limit, said, parts, found) for limit, said, parts, found in told[1:] if said[0] != "made"]
    assert 8 <= len(failed) < len(told) - 1
    for limit, said, parts, found in failed:
        assert said[0] == "DataError" and f"{tmp_path / 'made'} cannot be written" in said[1], (limit, said)
        assert parts == [] and found == other, limit


# ---------------------------------------------------------------- others


def test_values_of_a_field_that_is_one_or_none_or_odd(tmp_path):
    n = 120
    rng = np.random.default_rng(99)
    frame = pd.DataFrame({"label": rng.integers(0, 2, n), "one": "x", "none": None, "far": str(2**70), "nul": "\x00",
                          'a.b "c", \n\u2028d': rng.choice(["\u2028", "\x1f", "\\N", "{}"], n)}, dtype=object)
    frame["label"] = frame["label"].astype(int)
    frame.to_csv(tmp_path / "x.csv", index=False)
    plan = Preparation("odd", "label", {name: Rule() for name in frame if name != "label"})
    data = prepare([tmp_path / "x.csv"], Layout(), plan, tmp_path / "made")
    assert_same(data, expected_of(frame, plan))
    assert data.cardinalities == (2, 2, 2, 2, 5)


def test_training_from_disk_learns_what_training_in_memory_does(make_data):
    """Rows come in another order, so the same but for noise; validation is by the same rows."""
    data = make_data(rows=(6000, 2000, 2000))
    mapped = replace(data, train=DiskPart(*data.train, block=64, buffer=8),
                     **{part: DiskPart(*getattr(data, part)) for part in ("val", "test")})
    found = []
    for one in (data, mapped, mapped):
        torch.manual_seed(0)
        model = DLRS(one.cardinalities, (4,) * 4, Network(hidden=(16,), dropout=0.0))
        found.append(fit(model, one, TrainConfig(epochs=3, batch_size=100, lr=0.01), Runtime(progress=False)).val)
    assert found[0].auc > 0.8 and abs(found[0].auc - found[1].auc) < 0.01
    assert found[1] == found[2]  # the same order again


def test_a_log_that_is_not_known_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="'netflix' is not known: expected one of .*avazu"):
        load_dataset("netflix", 0, data_dir=tmp_path)


@pytest.mark.parametrize("rate", [0.0, 1.0, 1.5, -0.2])
def test_a_share_of_positives_that_cannot_be_is_refused(rate, tmp_path):
    pd.DataFrame({"x": list("abcd") * 30, "label": [0, 1, 1] * 40}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="between 0 and 1"):
        prepare([tmp_path / "t.csv"], Layout(), Preparation("t", "label", {"x": Rule()}, split=ScatteredSplit(positive_rate=rate)), tmp_path / "made")
