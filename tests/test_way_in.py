"""Tables as strangers write them: other separators, no header, other names, decimal commas, labels by a rule."""
import gzip
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from written import call

from autodim import AutoDim, load
from autodim.data.columns import ColumnOptions, ReadOptions, positive_labels
from autodim.data.files import DataError
from autodim.data.prepare import read_manifest
from autodim.data.read import is_data, layout_of
from autodim.data.table import prepare, read_table

N = 300
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({
    "user": [f"u{k}" for k in RNG.integers(0, 20, N)], "shop": RNG.integers(1, 9, N), "price": RNG.gamma(2, 5, N).round(2),
    "tags": [("a;b", "c, d", "e|f", "g\th", 'i "j"')[k] for k in RNG.integers(0, 5, N)],
    "day": [f"2026-01-{k:02}" for k in RNG.integers(1, 29, N)], "stars": RNG.integers(1, 6, N)})  # fmt: skip
TABLE["click"] = np.where((TABLE["shop"] + RNG.integers(0, 9, N)) > 8, "yes", "no")
NAMES = tuple(TABLE.columns)
MARKS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}


def written(path: Path, frame: pd.DataFrame = TABLE, **options: object) -> Path:
    frame.to_csv(path, index=False, **options)
    return path


def prepared(path: Path, label: str = "click", **reading: object):
    """What is prepared of a file, and what is said of it."""
    options = ColumnOptions(reading=ReadOptions(**reading))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = prepare(path, label, options)
    return made, [str(w.message) for w in caught if str(w.message).startswith(f"{path}: ")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What is prepared of the plain file: commas, a header, `.csv`."""
    made, said = prepared(written(tmp_path_factory.mktemp("plain") / "t.csv"))
    assert said == []  # nothing is said of a file that is as its name says
    return made


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.data", "t.txt", "t.dat", "t", "t.csv.gz", "t.data.gz", "t.xlsx"])
@pytest.mark.parametrize("mark", MARKS)
def test_a_file_of_any_name_and_separator_is_the_same_table(mark, name, tmp_path, expected):
    made, said = prepared(written(tmp_path / name, sep=MARKS[mark], compression="gzip" if name.endswith("gz") else None))
    assert made.data.fingerprint == expected.data.fingerprint and made.schema == expected.schema
    usual = {"csv": "comma", "tsv": "tab"}.get(name.removesuffix(".gz").rpartition(".")[2])
    assert len(said) == (mark != usual) and all(f"separated by a {mark}" in note for note in said)
    made, said = prepared(tmp_path / name, sep=MARKS[mark])
    assert made.data.fingerprint == expected.data.fingerprint and said == []


@pytest.mark.parametrize("mark", MARKS)
def test_without_a_header_the_columns_have_the_names_that_are_given(mark, tmp_path, expected):
    path = written(tmp_path / "t.data", sep=MARKS[mark], header=False)
    made, said = prepared(path, names=NAMES)
    assert made.data.fingerprint == expected.data.fingerprint
    assert len(said) == 1 and "no header" not in said[0]
    made, said = prepared(path, "x6")
    assert made.data.train.ids.equal(expected.data.train.ids) and made.data.fields[:2] == ("x0", "x1")
    assert "its first row, " in said[0] and "looks like data and no header, so the columns are called x0 to x6" in said[0]
    with pytest.raises(DataError, match="label: column 'click' is not in the table; it has x0, x1, x2"):
        prepared(path)


def test_names_that_do_not_fit_are_refused(tmp_path, expected):
    path = written(tmp_path / "t.csv")
    assert prepared(path, names=NAMES)[0].data.fingerprint == expected.data.fingerprint  # they are its header
    with pytest.raises(DataError, match="its first row, user, shop, .* looks like a header: leave `names` out"):
        prepared(path, "b", names=tuple("abcdefg"))
    headerless = written(tmp_path / "h.csv", header=False)
    with pytest.raises(DataError, match="h.csv: 7 columns, expected 2 .`names`.: a, click"):
        prepared(headerless, names=("a", "click"))


@pytest.mark.parametrize("mark", ["semicolon", "tab", "bar"])
@pytest.mark.parametrize("header", [True, False])
def test_decimal_commas(mark, header, tmp_path, expected):
    path = written(tmp_path / "t.csv", sep=MARKS[mark], header=header, decimal=",")
    made, said = prepared(path, names=None if header else NAMES)
    assert made.data.fingerprint == expected.data.fingerprint and "the comma in price is taken as a decimal point" in said[0]
    named = ColumnOptions(["price"], reading=ReadOptions(names=None if header else NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = prepare(path, "click", named).data.vocabularies[2]
    assert all("," in value for value in text.values) and len(text.values)  # text, character for character
    made, _ = prepared(path, names=None if header else NAMES, decimal=".")
    assert "price" not in made.schema.buckets


def test_a_comma_that_may_stand_between_thousands_is_asked_about(tmp_path):
    frame = TABLE.assign(price=[f"{k % 9 + 1},{k % 1000:03}" for k in range(N)])
    path = written(tmp_path / "t.csv", frame, sep=";")
    with pytest.raises(DataError, match="column 'price': is the comma of '1,000' a decimal point, or .* Say decimal=','"):
        prepared(path)
    made, _ = prepared(path, decimal=",")
    assert max(made.data.vocabularies[2].edges) < 10
    assert prepared(path, decimal=".")[0].schema.left_out["price"].startswith("a value of its own")  # texts


def test_the_first_row_of_data_that_people_publish():
    """Of Adult, Mushroom, German credit, Iris, a table of years, and headers that look like data to a simple rule."""
    adult = [["39", " State-gov", " 77516", " <=50K"], ["50", " Self-emp", " 83311", " >50K"], ["?", " Private", " 1", " >50K"]]
    mushroom = [list(row) for row in ("pxsn", "exsy", "ebsw", "pxyw", "exsg", "exyy", "pxyw")]
    iris = [["5.1", "3.5", "Iris-setosa"], ["4.9", "3.0", "Iris-setosa"], ["7.0", "3.2", "Iris-virginica"]]
    times = [["2026-01-02", "b"], ["2026-02-03", "c"]]
    for rows in (adult, mushroom, iris, times, [["", *adult[1]], *([k, *row] for k, row in zip("ab", adult))]):
        assert is_data(rows)
        header = [f"column {k}" for k in range(len(rows[0]))]
        assert not is_data([header, *rows]) and not is_data([["" for _ in header], *rows])
    assert is_data([["user", "2024", "2025"], ["u1", "3", "5"], ["u2", "1", "7"]])  # so x0, x1, ... and a note
    assert not is_data([["user", "2024", "total"], ["u1", "3", "5"], ["u2", "1", "7"]])
    assert not is_data([["a", "b"], ["x", "y"], ["a", "b"], ["z", "y"]])  # a header that comes again


def test_a_header_of_numbers_is_one_where_it_has_the_label(tmp_path):
    frame = pd.DataFrame({"2024": RNG.integers(0, 9, N), "2025": RNG.integers(0, 9, N), "2026": RNG.integers(0, 2, N)})
    made, said = prepared(written(tmp_path / "t.csv", frame), "2026")
    assert made.data.fields == ("2024", "2025") and "taken for the header, though it looks like data" in said[0]
    made, said = prepared(written(tmp_path / "u.csv", frame.set_axis(range(3), axis=1)), "2")  # as pandas numbers columns
    assert made.data.fields == ("0", "1") and said == []


@pytest.mark.parametrize("seed", range(60))
def test_random_tables_are_read_as_they_were_written(seed, tmp_path):
    rng = np.random.default_rng(seed)
    n, mark = int(rng.integers(6, 40)), str(rng.choice(list(MARKS.values())))
    kinds = {"number": lambda: rng.normal(size=n).round(3), "whole": lambda: rng.integers(-5, 2000, n),
             "text": lambda: rng.choice(["a,b", "c;d", "e|f", "g\th", 'i"', "", "plain", "x y", "1,5"], n),
             "date": lambda: [f"2025-{m:02}-11 10:00" for m in rng.integers(1, 13, n)]}  # fmt: skip
    chosen = [str(rng.choice(list(kinds))) for _ in range(rng.integers(2, 7))] + ["whole"]
    frame = pd.DataFrame({f"c {k} {kind}": kinds[kind]() for k, kind in enumerate(chosen)})
    options = ColumnOptions(reading=ReadOptions(decimal="."))
    layout, _ = layout_of(written(tmp_path / "t.txt", frame, sep=mark), options, [])
    assert layout[:2] == ((), mark)
    layout, _ = layout_of(written(tmp_path / "t.txt", frame, sep=mark, header=False), options, [])
    assert layout[:2] == (tuple(f"x{k}" for k in range(len(chosen))), mark)


def test_several_files_of_one_table_are_written_alike(tmp_path, expected):
    halves = [written(tmp_path / f"{k}.data", TABLE[k * 150 : k * 150 + 150], sep=";", header=False) for k in (0, 1)]
    options = ColumnOptions(reading=ReadOptions(names=NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert prepare(halves, "click", options).data.fingerprint == expected.data.fingerprint
        with pytest.raises(DataError, match="0.data has no header, unlike t.csv, which has one"):
            prepare([written(tmp_path / "t.csv", sep=";"), halves[0]], "click")
        with pytest.raises(DataError, match="t.csv: its first row, user, .* looks like a header"):
            prepare([halves[0], tmp_path / "t.csv"], "x6")
        with pytest.raises(DataError, match="its separator seems to be a tab|expected 7 .`names`."):
            prepare([halves[0], written(tmp_path / "tabs.data", sep="\t", header=False)], "x6")
        with pytest.raises(DataError, match="all of them Parquet or all of them text"):
            prepare([halves[0], tmp_path / "t.parquet"], "x6")


@pytest.mark.parametrize("content,words", [(b"PK\x03\x04...", "an archive or a workbook"), (b"PAR1", "rename it to .parquet"),
                                           (b'{"a": 1}\n', "JSON"), (b'[{"a": 1}]', "JSON")])
def test_what_is_no_table_of_text_is_named(content, words, tmp_path):
    (tmp_path / "t.dat").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / "t.dat")
    (tmp_path / "t.dat.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / "t.dat.gz")


# ---------------------------------------------------------------- which labels are positive

@pytest.mark.parametrize("values", [[1, 2, 3, 4, 5], [1.0, 2.5, 4.0, 4.5, 5.0], [-3, 0, 3, 4, 9]])
@pytest.mark.parametrize("rule", [">=4", "> 3.5", "<4", "<=3", "=4", "4", " >= 4 ", "4.0", ">=4e0", "-3", "<-1"])
def test_rules_of_numbers_are_python_s(values, rule):
    sign = rule.strip().rstrip("0123456789.e -") or "=="
    wanted = [eval(f"{value} {'==' if sign == '=' else sign} {rule.strip().lstrip('<>= ')}") for value in values]
    assert positive_labels("stars", values, rule)[0] == wanted


@pytest.mark.parametrize("door", ["frame", "file"])
@pytest.mark.parametrize("label,rule,classes", [
    ("stars", ">=4", ["<4", ">=4"]), ("stars", "<3", [">=3", "<3"]), ("stars", "=5", ["not 5", "5"]),
    ("stars", "5", ["not 5", "5"]), ("click", "no", ["yes", "no"]), ("click", "=yes", ["no", "yes"]),
    ("user", "u7", ["not u7", "u7"])])  # fmt: skip
def test_a_rule_makes_two_classes_of_any_label(label, rule, classes, door, tmp_path):
    table = TABLE if door == "frame" else written(tmp_path / "t.csv")
    made = prepare(table, label, ColumnOptions(exclude=["price"], positive=rule))
    wanted = TABLE[label].eq(rule.lstrip("=")) if label != "stars" else TABLE[label].map(
        lambda v: eval(f"{v}{rule}" if rule[0] in "<>" else f"{v} == {rule.strip('=')}"))
    assert made.classes.tolist() == classes
    parts = (made.data.train, made.data.val, made.data.test)
    assert sum(float(part.labels.sum()) for part in parts) == wanted.sum()


@pytest.mark.parametrize("label,rule,words", [
    ("click", ">=1", "compares numbers, but it has the values 'no', 'yes'"), ("stars", ">9", "makes none of its values"),
    ("stars", ">=1", "makes all of its values"), ("click", "maybe", "makes none of its values positive; it has 'no', 'yes'"),
    ("stars", "many", "makes none of its values positive; it has 1, 2, 3, 4, 5")])  # fmt: skip
def test_rules_that_make_no_two_classes_are_refused(label, rule, words, tmp_path):
    for table in (TABLE, written(tmp_path / "t.csv")):
        with pytest.raises(DataError, match=words):
            prepare(table, label, ColumnOptions(positive=rule))


# ---------------------------------------------------------------- by the estimator and from the shell

QUICK = {"dims": (2, 4), "hidden": (4,), "search_epochs": 1, "epochs": 1, "rivals": False}


def test_the_estimator_reads_new_rows_as_it_read_those_of_training(tmp_path):
    """Also where they lack the label, and after it was saved; and it scores by the labels as they are."""
    path = written(tmp_path / "t.data", sep=";", header=False, decimal=",")
    new = written(tmp_path / "new.data", TABLE.drop(columns="stars"), sep=";", header=False, decimal=",")
    named = written(tmp_path / "named.csv", TABLE.drop(columns="stars"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        order = [*TABLE.columns.drop("stars"), "stars"]
        written(tmp_path / "t.data", TABLE[order], sep=";", header=False, decimal=",")
        model = AutoDim(names=order, positive=">=4", exclude=["day"], **QUICK).fit(path, label="stars")
        expected = model.predict_proba(TABLE)
        assert model.classes_.tolist() == ["<4", ">=4"] and np.ptp(expected[:, 1]) > 0
        model.save(tmp_path / "model")
        for each in (model, load(tmp_path / "model")):
            for rows in (path, new, named):
                assert np.array_equal(each.predict_proba(rows), expected), rows
            right = (each.predict(TABLE) == np.where(TABLE["stars"] >= 4, ">=4", "<4")).mean()
            assert each.score(TABLE, TABLE["stars"]) == each.score(new, TABLE["stars"]) == right

def test_the_shell_takes_what_strangers_write(tmp_path, monkeypatch, expected):
    monkeypatch.chdir(tmp_path)
    written(Path("adult.data"), sep=";", header=False, decimal=",")
    code, out, err = call("prepare", "adult.data", "--label", "click", "--names", ",".join(NAMES), "--sep", ";")
    assert code == 0 and "the comma in price is taken as a decimal point (--decimal . for texts)" in err
    assert read_manifest(Path("run/table"))["fingerprint"] == expected.data.fingerprint
    code, out, err = call("prepare", "adult.data", "--label", "x5", "--positive", ">=4", "--run", "stars")
    assert code == 0 and "positive: x5 = >=4" in out and "(--names gives them names)" in err and "(--sep names" in err
    written(Path("tabs.csv"), sep="\t")
    code, _, err = call("prepare", "tabs.csv", "--label", "click", "--run", "tabs", "--sep", "tab")
    assert code == 0 and "separated" not in err
    for flags, words in ((["--sep", "ab"], "--sep ab: expected one mark"),
                         (["--names", "a,a"], "expected a list of different names"),
                         (["--decimal", "x"], "--decimal x: expected None"), (["--positive", ">="], "--positive >=")):
        code, _, err = call("prepare", "tabs.csv", "--label", "click", "--run", "bad", *flags)
        assert code == 1 and words in err and err.count("\n") == 1, err
