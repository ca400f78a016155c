"""autodim.data.columns against plain Python rules, and against a corpus of bad files, columns, labels and rows."""

import csv
import errno
import gzip
import json
import math
import multiprocessing
import os
import random
import threading
import warnings
from collections import Counter
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autodim.data.files import DataError, write_bytes
from autodim.data.vocabulary import Vocabulary, fit_vocabulary, vocabulary_from_dict, vocabulary_to_dict
from autodim.data.read import Layout, header_of
from autodim.data.columns import (
    MISSING, ColumnOptions, encode_labels, facts_of_column, judge, kind_of, recognise_frame, time_ranks,
)  # fmt: skip
from autodim.data.split import Split, SplitOptions, parts_of_rows, split_of
from autodim.data.table import encode_rows, prepare, read_table, stand_for

GOOD = b"user,land,price,click\n7,NA,1.5,1\n8,,2.5,0\n9,DE,3.5,1\n"
is_root = hasattr(os, "geteuid") and os.geteuid() == 0


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def recognise(frame: pd.DataFrame, label: str, categorical=(), numerical=None, exclude=()):
    """The schema of a frame."""
    return recognise_frame(frame, label, ColumnOptions(categorical, numerical, exclude))[0]


def split_table(labels, times: pd.Series | None = None, validation=0.1, test=0.1, seed=0) -> Split:
    """The rows of the three parts."""
    ranks = None if times is None else time_ranks(times, kind_of(times))
    return split_of(parts_of_rows(labels, SplitOptions("day", validation, test, seed), ranks))


def warnings_of(call) -> tuple[object, list[str]]:
    """What a call returns, and its warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return call(), [str(warning.message) for warning in told]


# ---------------------------------------------------------------- files that are read


def random_csv(rng: random.Random, separator: str) -> tuple[str, list[list[str | None]]]:
    """A table of awkward text, and its file: quotation marks, separators and line ends within values."""
    pieces = ["a", "ß", "7", " ", '"', separator, "\n", "NA", "x y"]
    rows = [["".join(rng.choice(pieces) for _ in range(rng.randrange(4))) or None for _ in range(3)] for _ in range(9)]
    rows = [[value if value not in MISSING else None for value in row] for row in rows]
    lines = []
    for row in [["one", "zwö", "three three"], *rows]:
        cells = ["" if value is None else value for value in row]
        lines.append(
            separator.join(
                '"' + c.replace('"', '""') + '"' if any(x in c for x in f'"\n{separator}') or rng.random() < 0.3 else c
                for c in cells
            )
        )
    return "\n".join(lines) + rng.choice(["", "\n"]), rows


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "tsv.gz", "CSV", "TSV.GZ"])
def test_text_is_read_as_it_was_written(ending, tmp_path):
    """Against the values themselves, and against Python's own reader where that can tell."""
    rng, separator = random.Random(ending), "\t" if "tsv" in ending.lower() else ","
    for _ in range(25):
        text, rows = random_csv(rng, separator)
        content = text.encode()
        path = written(tmp_path, f"x.y.{ending}", gzip.compress(content) if ending.lower().endswith("gz") else content)
        read = read_table(path)
        assert read.columns.tolist() == ["one", "zwö", "three three"]
        found = [[None if pd.isna(v) else str(v) for v in row] for row in read.astype(object).values.tolist()]
        loose = [[None if v is None else v.strip() for v in row] for row in rows]  # numbers: " 7" is 7
        assert [[None if v is None else v.strip() for v in row] for row in found] == loose or any(
            v is not None and v.strip().isdigit() for row in rows for v in row
        )
        if all(v is None or not v.strip().isdigit() for row in rows for v in row):
            assert found == rows
            assert [
                [v or None for v in row] for row in csv.reader(text.splitlines(keepends=True), delimiter=separator)
            ][1:] == rows


def test_types_of_text_files(tmp_path):
    frame = read_table(
        written(
            tmp_path,
            "x.csv",
            b"""whole,part,land,truth,day,hole,big,long
1,0.5,NA,true,2026-01-01,7,1234567890123456789,12345678901234567890
2,,DE,false,2026-01-02,,1234567890123456788,12345678901234567891
3,2,"",true,2026-01-03,NULL,,nan
""",
        )
    )
    assert frame.whole.tolist() == [1, 2, 3] and pd.api.types.is_integer_dtype(frame.whole.dtype)
    assert pd.api.types.is_float_dtype(frame.part.dtype) and frame.part.isna().tolist() == [False, True, False]
    assert frame.land.tolist()[:2] == ["NA", "DE"] and frame.land.isna().tolist() == [False, False, True]
    assert frame.truth.tolist() == [True, False, True]
    assert pd.api.types.is_datetime64_any_dtype(frame.day.dtype)
    assert frame.hole[0] == 7 and frame.hole.isna().tolist() == [False, True, True]
    assert frame.big[0] - frame.big[1] == 1 and pd.isna(frame.big[2])  # a float64 could not tell them apart
    assert frame.long.tolist()[:2] == ["12345678901234567890", "12345678901234567891"] and pd.isna(frame.long[2])


def test_large_quantities_stay_numbers(tmp_path):
    frame = read_table(written(tmp_path, "x.csv", b"a,b\n1e300,1\n0.5,2\n"))
    assert frame.a.tolist() == [1e300, 0.5]


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\r\n", b"\n\n"])
def test_a_byte_order_mark_and_empty_lines_are_no_names(start, tmp_path):
    frame = read_table(written(tmp_path, "x.csv", start + GOOD.replace(b"\n", b"\r\n")))
    assert frame.columns.tolist() == ["user", "land", "price", "click"] and frame.user.tolist() == [7, 8, 9]


def test_a_byte_order_mark_before_a_quoted_name(tmp_path):
    frame = read_table(written(tmp_path, "x.csv", '\ufeff"last, first","a ""b"""\nx,1\n'.encode()))
    assert frame.columns.tolist() == ["last, first", 'a "b"'] and frame.values.tolist() == [["x", 1]]


@pytest.mark.parametrize("end", ["", "\n"])
def test_one_column(end, tmp_path):
    """A line without anything is no row."""
    assert read_table(written(tmp_path, "x.csv", f"user\n7\n\n8{end}".encode())).user.tolist() == [7, 8]
    assert read_table(written(tmp_path, "x.csv", f'user\na\n"b\nc"{end}'.encode())).user.tolist() == ["a", "b\nc"]
    with pytest.raises(DataError, match="opened here and never closed"):
        read_table(written(tmp_path, "x.csv", f'user\na\n"b{end}'.encode()))


def test_very_many_columns(tmp_path):
    names = [f"a column with a name, number {i}" for i in range(2_000)]
    text = ",".join(f'"{name}"' for name in names) + "\n" + ",".join(map(str, range(2_000)))
    frame = read_table(written(tmp_path, "x.csv", text.encode()))
    assert frame.columns.tolist() == names and frame.iloc[0].tolist() == list(range(2_000))


def test_marks_within_values_are_no_quotation(tmp_path):
    frame = read_table(written(tmp_path, "x.csv", b'a,b\n1,5" pipe\n2,"two\nlines"\n'))
    assert frame.b.tolist() == ['5" pipe', "two\nlines"]


def test_types_of_parquet(tmp_path):
    big = 1234567890123456789
    table = pa.table(
        {
            "money": pa.array([Decimal("1.50"), Decimal("2"), None]),
            "name": pa.array([b"a", "ß".encode(), None]),
            "whole": pa.array([big, big - 1, None]),
            "far": pa.array([2**64 - 1, 2**64 - 2, None], pa.uint64()),
            "day": pa.array([date(2026, 1, 1)] * 3),
            "coded": pa.array(["x", "y", "x"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    frame = read_table(tmp_path / "x.parquet")
    assert frame.money.dtype == np.float64 and frame.money.tolist()[:2] == [1.5, 2.0]
    assert frame.name.tolist()[:2] == ["a", "ß"] and pd.isna(frame.name[2])
    assert frame.whole.tolist()[:2] == [big, big - 1] and pd.isna(frame.whole[2])
    assert frame.far.tolist()[:2] == [str(2**64 - 1), str(2**64 - 2)]  # beyond 63 bits: a name
    assert pd.api.types.is_datetime64_any_dtype(frame.day.dtype) and frame.coded.tolist() == ["x", "y", "x"]


def test_of_a_frame_in_parquet_a_named_index_is_a_column_and_another_is_none(tmp_path):
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": ["x", "y"], "c": [True, False]}, index=[5, 9])
    frame.to_parquet(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(read_table(str(tmp_path / "x.parquet")), frame.reset_index(drop=True), check_dtype=False)
    frame.set_index("b").to_parquet(tmp_path / "y.parquet")
    pd.testing.assert_frame_equal(read_table(str(tmp_path / "y.parquet")), frame.reset_index(drop=True)[["a", "c", "b"]], check_dtype=False)
    for name in "xy":
        assert set(header_of(tmp_path / f"{name}.parquet", Layout())) == {"a", "b", "c"}


@pytest.mark.parametrize("start", [7 * 10**18, 2**70])
def test_decimals_without_places_stay_whole_and_apart(start, tmp_path):
    numbers = [Decimal(start + k) for k in range(50)] + [None]
    table = pa.table({"id": pa.array(numbers, pa.decimal128(38, 0)), "price": pa.array([Decimal("1.5")] * 51)})
    pq.write_table(table, tmp_path / "x.parquet")
    frame = read_table(tmp_path / "x.parquet")
    assert [None if pd.isna(v) else int(v) for v in frame.id] == [None if n is None else int(n) for n in numbers]
    assert frame.price.dtype == np.float64 and frame.price.eq(1.5).all()


@pytest.mark.parametrize("content", [b"a,b", b"a,b\n", b"a,b\r\n\r\n"])
def test_a_header_alone_has_no_rows_however_it_ends(content, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match="x.csv: no rows"):
        read_table(tmp_path / "x.csv")


@pytest.mark.parametrize("options", [{}, {"categorical": ["price"]}, {"numerical": {"price": 5}}])
def test_infinity_is_refused_with_a_way_out_that_works(options):
    frame = pd.DataFrame({"price": [1.5, 2.5, np.inf, 1.5], "click": [0, 1, 0, 1]})
    with pytest.raises(DataError, match="column 'price' row 2: .*inf.*in 1 rows.; make it missing$"):
        recognise(frame, "click", **options)
    assert recognise(frame.replace(np.inf, np.nan), "click", **options).fields == ("price",)


# ---------------------------------------------------------------- files that are refused

MIXED = "a,b\n1,é\n2,ü\n".encode() + "3,ö\n".encode("latin-1") + b"4,x\n"
FILES = {
    "cut in a row": ("x.csv", GOOD[:-5], "line 4: 3 columns, expected 4; cut short"),
    "one column too many": ("x.csv", GOOD + b"1,2,3,4,5\n", "line 5: 5 columns, expected 4"),
    "cut in a quotation": ("x.csv", b'a,b\n1,x\n2,"x y', "line 3: a quotation is opened here and never closed.*cut short?"),
    "cut in a quoted number": ("x.csv", b'a,b\n1,3\n2,"5', "opened here and never closed"),
    "cut after a mark": ("x.csv", b'a,b\n1,3\n2,"', "opened here and never closed"),
    "cut in an early quotation": ("x.csv", b'a,b\n1,"x\n2,y\n3,z\n', "opened here and never closed"),
    "quotation in the header": ("x.csv", b'a,"b\n1,2\n', "opened here and never closed"),
    "a quotation without end in a long file": ("x.csv", b'a,b\n1,"x\n' + GOOD * 60_000, "opened here and never closed"),
    "cut gzip": ("x.csv.gz", gzip.compress(GOOD * 50)[:-20], "cannot be read .*cut short or damaged"),
    "damaged gzip": ("x.csv.gz", gzip.compress(GOOD * 50)[:30] + b"\0" * 20, "cannot be read .*cut short or damaged"),
    "plain as gzip": ("x.csv.gz", GOOD, "x.csv.gz is not gzipped, unlike its name; rename it to x.csv$"),
    "gzip as plain": ("x.csv", gzip.compress(GOOD), "x.csv is gzipped, unlike its name; rename it to x.csv.gz"),
    "a latin-1 line": ("x.csv", MIXED, r"line 4: b'\\xf6' is not UTF-8 text .column 'b'.; write the file anew"),
    "a latin-1 header": ("x.csv", "é,b\n1,2\n".encode("latin-1"), "line 1: .* is not UTF-8 text .header."),
    "UTF-16": ("x.csv", GOOD.decode().encode("utf-16"), "is not UTF-8 text .header.; write the file anew"),
    "header alone": ("x.csv", b"a,b\n", "no rows"),
    "nothing": ("x.csv", b"", "is empty: expected a header"),
    "empty lines": ("x.csv", b"\n\r\n\n", "is empty: expected a header"),
    "a byte order mark alone": ("x.csv", b"\xef\xbb\xbf", "is empty: expected a header"),
    "a header without end": ("x.csv", b'a,"b\n' + GOOD * 5_000, "line 1: a quotation is opened here and never closed"),
    "nothing in gzip": ("x.csv.gz", gzip.compress(b""), "is empty: expected a header"),
    "nothing as gzip": ("x.csv.gz", b"", "is empty: expected a header|cannot be read"),
    "a name twice": ("x.csv", b"a,b,a\n1,2,3\n", "column 'a' is there twice; rename one"),
    "no Parquet": ("x.parquet", b"PAR1 and no more", "cannot be read .*cut short or damaged"),
    "empty Parquet": ("x.parquet", b"", "cannot be read .*cut short or damaged"),
    "a workbook": ("x.xlsx", b"PK\x03\x04" + GOOD, "x.xlsx is an archive or a workbook"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_by_name(name, tmp_path):
    file, content, text = FILES[name]
    path = written(tmp_path, file, content)
    with pytest.raises(DataError, match=text) as caught:
        read_table(path)
    assert file in str(caught.value) and "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [file] and path.read_bytes() == content


def test_every_cut_within_a_row_or_quotation_is_noticed(tmp_path):
    """A file cut anywhere: an error, or a table whose last value alone is shorter."""
    content = 'name,price,"last one"\n"a, b",1.5,"x ""y"""\nß,2.5,"two\nlines"\nc,3.5,"z"\n'.encode()
    whole = read_table(written(tmp_path, "x.csv", content)).astype(str).values.tolist()
    noticed = 0
    for end in range(content.index(b"\n") + 1, len(content) - 1):
        try:
            cut = read_table(written(tmp_path, "x.csv", content[:end])).astype(str).values.tolist()
        except DataError as error:
            assert "x.csv" in str(error)
            noticed += 1
            continue
        assert cut[:-1] == whole[: len(cut) - 1]
        assert cut[-1][:2] == whole[len(cut) - 1][:2]  # the last value cannot be told from a shorter one
        assert content[:end].count(b'"') % 2 == 0
    assert noticed == 40  # of 63 places


@pytest.mark.parametrize("end", [10, 200, 400, -1, -9])
def test_a_parquet_file_cut_short_or_damaged(end, tmp_path):
    pq.write_table(pa.table({"a": list(range(50)), "b": [f"v{i}" for i in range(50)]}), tmp_path / "x.parquet")
    written(tmp_path, "x.parquet", (tmp_path / "x.parquet").read_bytes()[:end])
    with pytest.raises(DataError, match="x.parquet cannot be read .*cut short or damaged"):
        read_table(tmp_path / "x.parquet")


def test_parquet_with_a_name_twice_with_foreign_bytes_or_without_rows(tmp_path):
    path = tmp_path / "x.parquet"
    for table, text in (
        (pa.table([[1], [2]], names=["a", "a"]), "column 'a' is there twice; rename one"),
        (pa.table({"a": [b"x", "é".encode(), b"\xff"]}), "column 'a' is of type binary .*Invalid UTF8"),
        (pa.table({"a": pa.array([], pa.int64())}), "no rows"),
    ):
        pq.write_table(table, path)
        with pytest.raises(DataError, match=text):
            read_table(path)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match="nothing.csv: no such file"):
        read_table(tmp_path / "nothing.csv")
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(DataError, match="x.csv is not a file"):
        read_table(tmp_path / "x.csv")


@pytest.mark.skipif(is_root, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = written(tmp_path, "x.csv", GOOD)
    path.chmod(0)
    with pytest.raises(DataError, match="x.csv cannot be read .Permission|x.csv cannot be read .*[Pp]ermission"):
        read_table(path)


# ---------------------------------------------------------------- what a column is

N = 60
RNG = np.random.default_rng(0)
BASE = pd.DataFrame(
    {
        "user": [f"u{i % 7}" for i in range(N)],
        "shop": np.arange(N) % 3,
        "price": RNG.random(N),
        "click": [0, 1] * (N // 2),
    }
)


def cycled(*values, dtype=None) -> pd.Series:
    return pd.Series([values[i % len(values)] for i in range(N)], dtype=dtype)


VALUES, NUMBERS, TIME, ID = "values", "numbers", "a time", "a value of its own in every row, an id"
COLUMNS = {
    "text": (cycled("a", "b"), VALUES),
    "text and holes": (cycled("a", "b", None), VALUES),
    "string dtype": (cycled("a", pd.NA, dtype="string"), VALUES),
    "arrow text": (cycled("a", None, "b", dtype="string[pyarrow]"), VALUES),
    "whole": (cycled(1, 2), VALUES),
    "whole floats": (cycled(1.0, 2.0, np.nan), VALUES),
    "Int64": (cycled(1, 2, pd.NA, dtype="Int64"), VALUES),
    "arrow whole": (cycled(1, 2, None, dtype="int64[pyarrow]"), VALUES),
    "truth": (cycled(True, False), VALUES),
    "boolean": (cycled(True, pd.NA, dtype="boolean"), VALUES),
    "truth and holes": (cycled(True, False, None, dtype=object), VALUES),
    "fractions": (cycled(0.5, 2.0), NUMBERS),
    "float32": (cycled(0.5, 2.0, dtype="float32"), NUMBERS),
    "Float64": (cycled(0.5, pd.NA, dtype="Float64"), NUMBERS),
    "arrow fractions": (cycled(0.5, None, dtype="double[pyarrow]"), NUMBERS),
    "fractions as objects": (cycled(0.5, 2, None, dtype=object), NUMBERS),
    "fractions, each its own": (pd.Series(np.arange(N) / 7), NUMBERS),
    "categories": (cycled("a", "b", dtype="category"), VALUES),
    "categories of fractions": (cycled(0.5, 1.5).astype("category"), VALUES),
    "unused categories": (pd.Series(pd.Categorical(cycled("a", "b"), ["z", "b", "a"])), VALUES),
    "whole and text": (cycled(1, "a", None, dtype=object), VALUES),
    "one value and holes": (cycled("a", None), VALUES),
    "datetime": (pd.Series(pd.date_range("2026-01-01", periods=N)), TIME),
    "with a zone": (cycled(pd.Timestamp("2026-01-01", tz="UTC")), TIME),
    "dates": (cycled(date(2026, 1, 1), date(2026, 1, 2), None), TIME),
    "datetimes": (cycled(datetime(2026, 1, 1), None, dtype=object), TIME),
    "times of day": (cycled(time(12), time(13)), TIME),
    "spans": (cycled(timedelta(1), timedelta(2)), TIME),
    "periods": (cycled(pd.Period("2026-01", "M"), pd.Period("2026-02", "M")), TIME),
    "missing": (cycled(None, dtype=object), "all values are missing"),
    "NaN": (cycled(np.nan), "all values are missing"),
    "NA": (cycled(pd.NA, dtype="Int64"), "all values are missing"),
    "one value": (cycled("a"), "one value throughout"),
    "one number": (cycled(0.5), "one value throughout"),
    "one category": (pd.Series(pd.Categorical(cycled("a"), ["a", "b"])), "one value throughout"),
    "id": (pd.Series(range(N)), ID),
    "text id": (pd.Series([f"{i:x}" for i in range(N)]), ID),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_what_a_column_is(name):
    column, expected = COLUMNS[name]
    frame = BASE.assign(it=column)
    before = frame.copy(deep=True)
    schema, told = warnings_of(lambda: recognise(frame, "click"))
    assert schema.label == "click" and "click" not in schema.fields
    if expected in (VALUES, NUMBERS):
        assert schema.fields == ("user", "shop", "price", "it") and not schema.left_out and told == []
        assert schema.buckets == ({"price": 20, "it": 20} if expected == NUMBERS else {"price": 20})
    else:
        assert schema.fields == ("user", "shop", "price") and schema.left_out == {"it": expected}
        assert len(told) == 1 and f"'it' ({expected})" in told[0] and "Name a column in `categorical`" in told[0]
        named, told = warnings_of(lambda: recognise(frame, "click", categorical=["it"]))
        assert named.fields == ("user", "shop", "price", "it") and named.buckets == {"price": 20} and told == []
    excluded, told = warnings_of(lambda: recognise(frame, "click", exclude=["it"]))
    assert excluded.left_out == {"it": "excluded"} and excluded.fields == ("user", "shop", "price") and told == []
    pd.testing.assert_frame_equal(frame, before)


def test_all_that_is_left_out_is_told_in_one_warning_and_overrides_hold():
    frame = BASE.assign(row=range(N), empty=np.nan, shop=1)
    schema, told = warnings_of(lambda: recognise(frame, "click", ["row"], {"price": "criteo"}))
    assert schema.fields == ("user", "price", "row") and schema.buckets == {"price": "criteo"} and len(told) == 1
    assert "'shop'" in told[0] and "'empty'" in told[0] and "'row'" not in told[0]
    assert recognise(BASE, "click", numerical={"shop": 7}).buckets == {"shop": 7, "price": 20}
    assert recognise(BASE, "click", categorical=["price"]).buckets == {}


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_columns_changes_nothing_but_the_order(seed):
    frame = BASE.assign(row=range(N), when=pd.Timestamp("2026-01-01"), size=np.arange(N) / 3)
    order = np.random.default_rng(seed).permutation(frame.columns).tolist()
    (one, _), (other, _) = (warnings_of(lambda f=f: recognise(f, "click")) for f in (frame, frame[order]))
    assert sorted(one.fields) == sorted(other.fields) and one.buckets == other.buckets
    assert other.fields == tuple(name for name in order if name in one.fields) and one.left_out == other.left_out


OPTIONS = {
    "no label": (
        dict(label="clicks"),
        DataError,
        "label: column 'clicks' is not in the table; it has user, shop, price",
    ),
    "no categorical": (dict(categorical=["age"]), DataError, "categorical: column 'age' is not in the table"),
    "no numerical": (dict(numerical={"age": 3}), DataError, "numerical: column 'age' is not in the table"),
    "no exclude": (dict(exclude=["age"]), DataError, "exclude: column 'age' is not in the table"),
    "label excluded": (dict(exclude=["click"]), ValueError, "'click' is named by label and by exclude; name it in one"),
    "label categorical": (dict(categorical=["click"]), ValueError, "'click' is named by label and by categorical"),
    "label numerical": (dict(numerical={"click": 3}), ValueError, "'click' is named by label and by numerical"),
    "two kinds": (
        dict(categorical=["shop"], numerical={"shop": 3}),
        ValueError,
        "'shop' is named by categorical and by num",
    ),
    "kept and not": (
        dict(categorical=["shop"], exclude=["shop"]),
        ValueError,
        "'shop' is named by categorical and by excl",
    ),
    "text": (dict(categorical="user"), ValueError, r"categorical: 'user' is text, expected a list .*\['user'\]"),
    "list of numerical": (
        dict(numerical=["price"]),
        ValueError,
        r"numerical=\['price'\]: expected a dict of columns and rules",
    ),
    "unknown rule": (
        dict(numerical={"price": "log"}),
        ValueError,
        "numerical: column 'price' has the rule 'log', expected",
    ),
    "no buckets": (dict(numerical={"price": 0}), ValueError, "numerical: column 'price' has the rule 0"),
    "truth for buckets": (dict(numerical={"price": True}), ValueError, "numerical: column 'price' has the rule True"),
    "text in numbers": (
        dict(numerical={"user": 5}),
        DataError,
        "column 'user' row 0: 'u0' is not a number .*; make it missing",
    ),
    "dates in numbers": (dict(numerical={"when": 5}), DataError, "column 'when' row 0: .* is not a number"),
    "nothing left": (dict(exclude=["user", "shop", "price", "when"]), DataError, "no column is left to learn from"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_do_not_fit_are_refused(name):
    options, kind, text = OPTIONS[name]
    frame = BASE.assign(when=pd.date_range("2026-01-01", periods=N))
    with pytest.raises(kind, match=text):
        recognise(frame, **({"label": "click"} | options))


FRAMES = {
    "a name twice": (pd.concat([BASE, BASE[["user"]]], axis=1), "column 'user' is there twice"),
    "a number for a name": (
        BASE.rename(columns={"user": 0}),
        r"column 0: its name is no text; write frame.columns = .*astype",
    ),
    "no rows": (BASE.iloc[:0], "the table has no rows, only the columns user, shop, price, click"),
    "lists": (
        BASE.assign(tags=cycled(None, ["a"])),
        "column 'tags' row 1 holds a list, expected one value; leave .* out or give",
    ),
    "dicts": (BASE.assign(tags=cycled({"a": 1})), "column 'tags' row 0 holds a dict"),
    "arrays": (BASE.assign(tags=pd.Series([np.zeros(2)] * N)), "column 'tags' row 0 holds a ndarray"),
    "complex": (BASE.assign(z=1j), "column 'z' holds complex numbers"),
    "infinity": (
        BASE.assign(price=BASE.price.where(BASE.index != 41, -np.inf)),
        "column 'price' row 41: -inf is not a number",
    ),
    "the label alone": (BASE[["click"]], "no column is left to learn from"),
    "ids alone": (BASE[["click"]].assign(row=range(N)), r"no column is left .* 'row' \(a value of its own"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_cannot_be_used_are_refused(name):
    frame, text = FRAMES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an error is enough
        with pytest.raises(DataError, match=text):
            recognise(frame, "click")


def test_lists_in_parquet_are_refused_by_column(tmp_path):
    pq.write_table(pa.table({"tags": [[1], None], "click": [0, 1], "land": ["a", "b"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'tags' is of type list.*leave it out"):
        recognise(read_table(tmp_path / "x.parquet"), "click")


# ---------------------------------------------------------------- the label

LABELS = {
    "numbers": ([1, 0, 1], [0, 1]),
    "floats": ([1.0, 0.0], [0.0, 1.0]),
    "negative": ([-1, 1], [-1, 1]),
    "text": (["yes", "no"], ["no", "yes"]),
    "truth": ([True, False], [False, True]),
    "truth as objects": (np.array([True, False], dtype=object), [False, True]),
    "NumPy's own": (np.array([np.int64(3), np.int64(2)], dtype=object), [2, 3]),
    "boolean": (pd.array([True, False], dtype="boolean"), [False, True]),
    "Int64": (pd.array([2, 1], dtype="Int64"), [1, 2]),
    "categories": (pd.Categorical(["b", "a"], ["b", "a", "unused"]), ["a", "b"]),
    "string": (pd.array(["b", "a"], dtype="string"), ["a", "b"]),
}


@pytest.mark.parametrize("name", LABELS)
def test_two_classes_by_any_name(name):
    values, expected = LABELS[name]
    column = pd.Series(values, name="click", index=range(5, 5 + len(values)))
    codes, classes = encode_labels(column)
    assert (
        codes.dtype == np.int8
        and classes.tolist() == expected
        and [type(c) for c in classes.tolist()] == [type(c) for c in expected]
    )
    assert [expected[code] for code in codes] == column.tolist()
    assert (classes.dtype.kind == "O") == isinstance(
        expected[0], str
    )  # else scikit-learn's metrics do not know what it is


BAD_LABELS = {
    "three": ([0, 1, 2, 0], r"label 'click' has 3 distinct values \(0, 1, 2\), expected 2: .*say which labels are positive, as positive="),
    "many": (list("abcdefgh"), r"8 distinct values \('a', 'b', 'c', 'd', 'e', ...\), expected 2"),
    "one": ([1, 1], r"label 'click' has 1 distinct values \(1\), expected 2: nothing to learn"),
    "NaN": ([0, 1, np.nan, np.nan], r"label 'click' row 2: missing \(in 2 of 4 rows\); drop these rows"),
    "None": (["a", None, "b"], "label 'click' row 1: missing"),
    "NA": (pd.array([1, 0, pd.NA], dtype="Int64"), "row 2: missing"),
    "text and number": (
        np.array([0, "a"], dtype=object),
        "label 'click' has the values 0 and 'a', expected two texts or two numbers",
    ),
    "dates": (pd.date_range("2026-01-01", periods=2), "label 'click' has the values Timestamp.*expected two texts"),
    "decimals": (np.array([Decimal(0), Decimal(1)], dtype=object), "label 'click' has the values Decimal"),
    "missing throughout": ([None, None], "label 'click' row 0: missing"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_other_labels_are_refused(name):
    values, text = BAD_LABELS[name]
    with pytest.raises(DataError, match=text):
        encode_labels(pd.Series(values, name="click"))


# ---------------------------------------------------------------- three parts


@pytest.mark.parametrize("seed", range(30))
def test_a_stratified_split_is_disjoint_covers_and_keeps_the_shares(seed):
    rng = np.random.default_rng(seed)
    n, validation, test = int(rng.integers(6, 400)), *rng.uniform(0.05, 0.3, 2)
    labels = np.zeros(n, np.int8)
    labels[rng.permutation(n)[: rng.integers(3, n - 2)]] = 1
    parts = split_table(labels, validation=validation, test=test, seed=seed)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(n))
    for part, share in zip(parts, (1 - validation - test, validation, test)):
        assert part.tolist() == sorted(part.tolist())
        for value in (0, 1):
            of_class, here = (labels == value).sum(), (labels[part] == value).sum()
            assert here >= 1 and (abs(here - share * of_class) <= 1.001 or of_class < 5)
    again, other = (split_table(labels, validation=validation, test=test, seed=s) for s in (seed, seed + 1))
    assert all(a.tolist() == b.tolist() for a, b in zip(parts, again))
    if n > 100:
        assert parts.train.tolist() != other.train.tolist()


@pytest.mark.parametrize("validation, test", [(0.45, 0.45), (0.9, 0.05), (0.05, 0.9)])
def test_each_part_has_a_row_of_a_class_of_three(validation, test):
    labels = np.array([1, 1, 1] + [0] * 40)
    parts = split_table(labels, validation=validation, test=test)
    assert [int(labels[part].sum()) for part in parts] == [1, 1, 1] and sum(map(len, parts)) == 43


def test_a_random_split_has_each_row_in_the_test_equally_often():
    labels = (np.arange(50) % 5 == 0).astype(np.int8)
    counts = Counter(row for seed in range(600) for row in split_table(labels, seed=seed, test=0.2).test.tolist())
    assert all(abs(counts[row] / 600 - 0.2) < 4 * math.sqrt(0.16 / 600) for row in range(50))


TIMES = {
    "numbers": lambda t: pd.Series(t),
    "floats": lambda t: pd.Series(t / 4),
    "Int64": lambda t: pd.Series(t, dtype="Int64"),
    "datetimes": lambda t: pd.Timestamp("2026-01-01") + pd.to_timedelta(pd.Series(t), "D"),
    "with a zone": lambda t: pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(pd.Series(t), "D"),
    "dates": lambda t: pd.Series([date(2026, 1, 1) + timedelta(int(i)) for i in t], dtype=object),
    "spans": lambda t: pd.to_timedelta(pd.Series(t), "D"),
}


@pytest.mark.parametrize("kind", TIMES)
def test_a_split_by_time_has_no_row_before_an_older_part(kind):
    rng = np.random.default_rng(3)
    t = rng.integers(0, 200, 120)
    parts = split_table(np.zeros(120, np.int8), TIMES[kind](t), 0.2, 0.3)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(120)) and [len(p) for p in parts] == [
        60,
        24,
        36,
    ]
    assert t[parts.train].max() <= t[parts.val].min() and t[parts.val].max() <= t[parts.test].min()


@pytest.mark.parametrize(
    "times, text",
    [
        (
            ["9/12/2025"] * 30,
            "time 'day' row 0: '9/12/2025', expected dates or numbers; convert the column, as with pandas.to_d",
        ),
        ([1.0, *range(28)] + [np.nan], r"row 29: time 'day': missing \(in 1 of 30 rows\)"),
        ([pd.Timestamp("2026-01-01"), pd.NaT, pd.Timestamp("2026-01-02")] * 10, "row 1: time 'day': missing"),
        ([1, "a"] * 15, "time 'day' row 0: 1, expected dates or numbers"),
        ([None] * 30, "time 'day' row 0: None, expected dates"),
    ],
)
def test_times_that_do_not_order_the_rows_are_refused(times, text):
    with pytest.raises(DataError, match=text):
        prepare(BASE[:30].assign(day=times), "click", split=SplitOptions("day"))


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 0, 1, 1], [1] * 10])
def test_too_few_rows_for_three_parts_are_refused(labels):
    with pytest.raises(DataError, match="rows of class . among .*training, validation and test needs one; more data"):
        split_table(np.array(labels))


@pytest.mark.parametrize("validation, test", [(0, 0.1), (0.1, -0.1), (0.5, 0.5), (-0.1, 0.2), (0.9, 0.4), (math.nan, 0.1)])
def test_shares_that_leave_a_part_empty_are_refused(validation, test):
    with pytest.raises(ValueError, match="expected two positive shares"):
        split_table(np.array([0, 1] * 50), validation=validation, test=test)


# ---------------------------------------------------------------- new rows


def through_json(vocabulary: Vocabulary) -> Vocabulary:
    return vocabulary_from_dict(json.loads(json.dumps(vocabulary_to_dict(vocabulary))))


@pytest.mark.parametrize("name", [name for name, (_, kind) in COLUMNS.items() if kind != TIME])
@pytest.mark.parametrize("min_count", [1, 2, 15])
def test_rows_of_training_are_encoded_as_in_training(name, min_count):
    column, kind = COLUMNS[name]
    column = column.rename("it")
    vocabulary = fit_vocabulary(column.iloc[:45], min_count, 20 if kind == NUMBERS else None)
    frame, expected = pd.DataFrame({"it": column, "more": 0}), vocabulary.encode(column).tolist()
    for v in (vocabulary, through_json(vocabulary)):
        found, _ = warnings_of(lambda v=v: encode_rows(frame, [v]))
        assert found.shape == (N, 1) and found[:, 0].tolist() == expected


def ids_of(trained, new, **options) -> list[int]:
    vocabulary = fit_vocabulary(pd.Series(trained, name="it"), **options)
    ids = encode_rows(pd.DataFrame({"it": new}), [vocabulary])[:, 0].tolist()
    assert ids == encode_rows(pd.DataFrame({"it": new}), [through_json(vocabulary)])[:, 0].tolist()
    return ids


S, BIG = pd.Series, 1234567890123456789
CONVERSIONS = {  # training's values in their order have the ids 1, 2, ...; a missing one has the last
    "whole, with holes now": ([5, 7], [7.0, np.nan, 5.0, 6.0], [2, 0, 1, 0]),
    "Int64 now": ([5, 7, None], S([7, None], dtype="Int64"), [2, 3]),
    "holes in training": (S([5, 7, None], dtype="Int64"), [7, 5], [2, 1]),
    "floats in training": ([5.0, 7.0, np.nan], [7, 5], [2, 1]),
    "text for numbers": ([5, 7], ["7", None, " 5 ", "7.0", "x", "nan", "1_0", "7x"], [2, 0, 1, 2, 0, 0, 0, 0]),
    "text that only Python takes for a number": ([5, 10], ["1_0", "5"], [0, 1]),
    "text that says nan": ([5, 7, None], ["nan", "inf", "-Infinity", None], [0, 0, 0, 3]),
    "text objects for numbers": ([5, 7, None], S(["7", None, "x"], dtype=object), [2, 3, 0]),
    "categories of text for numbers": ([5, 7], S(["7", None, "5"], dtype="category"), [2, 0, 1]),
    "long text for numbers": ([BIG, BIG - 1], [str(BIG), None, str(BIG - 2)], [2, 0, 0]),
    "text for number objects": (S([5, 7, None], dtype=object), ["7", None], [2, 3]),
    "text for floats": ([0.0, 2.0], ["2", "0.0", "-0"], [2, 1, 1]),
    "numbers for text": (["5", "7"], [7, 5, 6], [2, 1, 0]),
    "floats for text": (["5", "7.5", None], [7.5, 5.0, np.nan], [2, 1, 3]),
    "Int64 for text": (["5", "7"], S([7, None], dtype="Int64"), [2, 0]),
    "number objects for text": (["5", "7"], S([7, None, 5.0], dtype=object), [2, 0, 1]),
    "categories of numbers for text": (["5", "7"], S([7, 5]).astype("category"), [2, 1]),
    "far numbers for text": (["5", str(10**300)], [1e300, np.inf, -np.inf, 5.0], [0, 0, 0, 2]),
    "truth for text": (["False", "True"], [True, False], [2, 1]),
    "text for truth": ([True, False], ["True", "false", "TRUE", "no", None], [2, 1, 2, 0, 0]),
    "text of numbers for truth": ([True, False], ["1.0", "0", "2"], [2, 1, 0]),
    "truth objects": ([True, False], S([True, None, False], dtype=object), [2, 0, 1]),
    "boolean": ([True, False], S([True, None], dtype="boolean"), [2, 0]),
    "numbers for truth": ([True, False], [1, 0, 2], [2, 1, 0]),
    "floats for truth": ([True, False], [1.0, np.nan, 0.0], [2, 0, 1]),
    "truth for numbers": ([0, 1], [True, False], [2, 1]),
    "boolean in training": (S([True, None, False], dtype="boolean"), [True, False], [2, 1]),
    "several kinds stay": (S([1, "1"], dtype=object), S(["1", 1], dtype=object), [2, 1]),
    "categories for text": (["a", "b"], S(["b", "z", "a"], dtype="category"), [2, 0, 1]),
    "text for categories": (S(["a", "b"], dtype="category"), ["b", "z"], [2, 0]),
    "leading noughts are text, and the only one that a number can mean": (["007", "8"], [7, 8], [1, 2]),
    "missing in many ways": (
        S(["a", None], dtype=object),
        S([None, np.nan, pd.NA, pd.NaT, "a"], dtype=object),
        [2, 2, 2, 2, 1],
    ),
    "a column without values": (["a"], S([], dtype=object), []),
    "missing throughout": (["a", None], [np.nan, np.nan], [2, 2]),
    "nothing known": (S([None, None], dtype=object), ["a", None], [0, 1]),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_values_that_come_as_another_type(name):
    trained, new, expected = CONVERSIONS[name]
    assert ids_of(trained, new) == expected


@pytest.mark.parametrize(
    "new, expected",
    [
        ([1.5, 9e9, -9e9, np.nan], [1, 2, 1, 3]),
        (["1.5", "9", None], [1, 2, 3]),
        (S([2.5, pd.NA], dtype="Float64"), [2, 3]),
        (S([2, None], dtype="Int64"), [1, 3]),
        (S(["1", "9"], dtype="category"), [1, 2]),
        ([True, False], [1, 1]),
    ],
)
def test_numbers_that_were_cut_in_training(new, expected):
    assert ids_of([1.0, 2.0, 2.5, 3.5, np.nan], new, buckets=2) == expected


@pytest.mark.parametrize("row, value, shown", [(1, "abc", "'abc'"), (0, np.inf, "inf"), (2, "1,5", "'1,5'")])
def test_text_and_infinity_among_numbers_are_refused_with_their_row(row, value, shown):
    vocabulary = fit_vocabulary(S([1.0, 2.5], name="it"), buckets=2)
    new = [value if i == row else 1.5 for i in range(3)]
    with pytest.raises(DataError, match=f"column 'it' row {row}: {shown} is not a number.*make it missing"):
        encode_rows(pd.DataFrame({"it": S(new, dtype=object)}), [vocabulary])


def test_columns_in_another_order_more_of_them_and_fewer():
    words, ages = fit_vocabulary(BASE.user), fit_vocabulary(BASE.price, buckets=5)
    expected = np.stack([words.encode(BASE.user), ages.encode(BASE.price)], 1)
    frame = BASE[["click", "price", "user"]].assign(other=[[1]] * N).sample(N, random_state=1)
    ids = encode_rows(frame, [words, ages])
    assert ids.dtype.is_signed and str(ids.dtype) == "torch.int32" and ids.tolist() == expected[frame.index].tolist()
    for name in ("user", "price"):
        with pytest.raises(DataError, match=f"fields: column '{name}' is not in the table; it has "):
            encode_rows(frame.drop(columns=name), [words, ages])
    with pytest.raises(DataError, match="column 'user' row 3 holds a list"):
        encode_rows(BASE.assign(user=S([["a"] if i == 3 else "a" for i in range(N)], dtype=object)), [words, ages])
    with pytest.raises(DataError, match="column 'user' is there twice"):
        encode_rows(pd.concat([BASE, BASE[["user"]]], axis=1), [words])
    assert encode_rows(BASE.iloc[:0], [words, ages]).shape == (0, 2)


@pytest.mark.parametrize(
    "trained, new, warns",
    [
        ([5, 7], [1] * 10, "such as 5;"),
        ([5, 7], [1] * 9 + [np.nan], ""),
        ([5, 7], [1] * 9 + [7], ""),
        (["a"], ["b"] * 12, "such as 'a';"),
        (["a", None], ["b"] * 10 + [None], "such as 'a';"),
        (["a"], ["b"] * 9, ""),
        (["a", None], [None] * 20, ""),
        ([True, False], ["no"] * 10, "such as False;"),
        (["a"], [1.5] * 10, "such as 'a';"),
    ],
)
def test_a_column_of_which_no_value_is_known_warns(trained, new, warns):
    vocabulary = fit_vocabulary(S(trained, name="it"))
    _, told = warnings_of(lambda: encode_rows(pd.DataFrame({"it": new, "b": 0}), [vocabulary]))
    assert len(told) == bool(warns) and all(
        warns in t and "column 'it': none of its" in t and "same column?" in t for t in told
    )


def test_a_hundred_thousand_distinct_values():
    rng = np.random.default_rng(0)
    values = np.concatenate([np.arange(100_000), rng.integers(0, 100_000, 50_000)])
    for column in (S(values, name="it"), S([f"v{v:06}" for v in values], name="it")):
        frame = pd.DataFrame({"it": column, "click": rng.integers(0, 2, len(values))})
        assert recognise(frame, "click").fields == ("it",)
        vocabulary = fit_vocabulary(column)
        assert encode_rows(frame, [vocabulary])[:, 0].tolist() == (values + 1).tolist()
        assert encode_rows(frame.iloc[::-1], [through_json(vocabulary)])[:, 0].tolist() == (values[::-1] + 1).tolist()
    assert judge(facts_of_column(S(range(100_000))))[1] == ID


@pytest.mark.parametrize("seed", range(20))
def test_text_of_a_number_stands_for_it_and_back(seed):
    rng = random.Random(seed)
    for value in (rng.randrange(-(10**18), 10**18), rng.uniform(-1e9, 1e9), float(rng.randrange(10**15))):
        text = stand_for(value, "text")
        assert float(text) == value if isinstance(value, float) else Fraction(text) == value
        assert stand_for(text, "number") == value
    assert stand_for("text", "number") == "text" and stand_for("maybe", "truth") == "maybe"


# ---------------------------------------------------------------- writing


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk_leaves_what_was_there(call, before, tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    if before:
        path.write_bytes(before)
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(DataError, match="x.bin cannot be written .No space left on device.: free some space or choose"):
        write_bytes(path, b"new" * 1000)
    assert [p.name for p in tmp_path.iterdir()] == (["x.bin"] if before else [])
    assert not before or path.read_bytes() == before


def test_a_disk_that_is_really_full(small_disk):
    write_bytes(small_disk / "x.bin", b"old")
    with pytest.raises(DataError, match="No space left on device"):
        write_bytes(small_disk / "x.bin", b"n" * 200_000)
    assert [p.name for p in small_disk.iterdir()] == ["x.bin"] and (small_disk / "x.bin").read_bytes() == b"old"


def test_no_permission(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DataError, match="x.bin cannot be written .Permission denied.: .*choose another folder"):
        write_bytes(tmp_path / "x.bin", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(is_root, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="Permission denied"):
        write_bytes(tmp_path / "x.bin", b"new")


def test_a_folder_or_a_file_is_in_the_way(tmp_path):
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(DataError, match="x.bin cannot be written"):
        write_bytes(tmp_path / "x.bin", b"new")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="y.bin cannot be written"):
        write_bytes(tmp_path / "file" / "y.bin", b"new")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "x.bin"]


def write_often(path: Path, letter: bytes, failed: list | None = None) -> None:
    try:
        for _ in range(30):
            write_bytes(path, letter * 200_000)
    except DataError as error:
        if failed is None:
            raise
        failed.append(error)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_of_two_writers_of_one_file_one_has_its_way(kind, tmp_path):
    path, failed = tmp_path / "x.bin", []
    fork = multiprocessing.get_context("fork")
    make = threading.Thread if kind == "threads" else fork.Process
    writers = [
        make(target=write_often, args=(path, letter, failed if kind == "threads" else None)) for letter in (b"a", b"b")
    ]
    write_bytes(path, b"c" * 200_000)
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in (b"a" * 200_000, b"b" * 200_000, b"c" * 200_000)
    for writer in writers:
        writer.join()
    assert failed == [] and (kind == "threads" or all(writer.exitcode == 0 for writer in writers))
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_an_id_with_holes_is_an_id_and_a_single_known_value_is_not():
    frame = pd.DataFrame({"row": [f"r{i}" for i in range(39)] + [None], "once": ["x"] + [None] * 39,
                          "user": [f"u{i % 4}" for i in range(40)], "click": [0, 1] * 20})
    with pytest.warns(UserWarning, match="'row'"):
        schema = recognise(frame, "click")
    assert dict(schema.left_out) == {"row": ID} and schema.fields == ("once", "user")


def test_a_time_that_is_the_same_throughout_orders_nothing():
    labels = np.arange(40) % 2
    with pytest.raises(DataError, match="'hour': .*14102100.* in every row.*orders nothing; give no .time."):
        split_table(labels, pd.Series([14102100] * 40, name="hour"))
    assert len(split_table(labels, pd.Series([14102100] * 20 + [14102101] * 20, name="hour")).test) == 4


# ---------------------------------------------------------------- codes that look like numbers, ids beyond a double

CODES = {  # distinct texts of an unnamed column, and whether they are codes
    "versions": (["14.1", "14.10", "9.2"], True),
    "versions without their double": (["3.9", "3.10", "3.11"], True),
    "zip codes": (["00501", "501", "10001"], True),
    "two codes of one number": (["00501", "501"], True),
    "two versions of one number": (["14.1", "14.10"], True),
    "exponents": (["1e5", "100000", "7"], True),
    "exponents of fractions": (["1e5", "0.5"], True),
    "hexadecimal": (["0x1F", "31", "7"], True),
    "signs": (["+7", "7", "8"], True),
    "noughts before fractions": (["00.5", "1.5"], True),
    "fractions beyond a double": (["0.12345678901234567891", "0.12345678901234567892", "0.5"], True),
    "whole numbers beyond a double": (["9007199254740993", "9007199254740992", "0.5"], True),
    "whole": (["7", "-8", "0", "1234567890123456789"], False),
    "prices": (["12.50", "9.99", "7.00"], False),
    "prices and whole ones": (["12.50", "9.99", "7"], False),
    "a single place": (["3.0", "14.0", "2.5"], False),
    "as Python prints": ([repr(v) for v in (0.25, 2.0, 1e-7, 1e22, 0.1 + 0.2, -0.0)], False),
    "as R prints": (["1e+05", "0.25", "1e-04"], False),
    "as Java prints": (["1.2345678E7", "1.0E-5", "0.25"], False),
    "as C prints": ([f"{v:.18e}" for v in (0.1, 1e5, 3.0)], False),
    "without a nought": ([".5", "-.25", "3."], False),
    "spaces around": ([" 7", "8 "], False),
}  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_numbers_that_are_written_as_none_is_printed_are_codes(name, tmp_path):
    texts, code = CODES[name]
    content = "it,click\n" + "".join(f"{texts[i % len(texts)]},{i % 2}\n" for i in range(90))
    prepared, told = warnings_of(lambda: prepare(written(tmp_path, "x.csv", content.encode()), "click",
                                                 ColumnOptions(min_count=1)))
    assert any("column 'it': no number is printed as" in text for text in told) == code
    values = prepared.data.vocabularies[0].values.tolist()
    assert not code or values == sorted(texts) and not prepared.schema.buckets
    assert code or not any(isinstance(value, str) for value in values)
    read, _ = warnings_of(lambda: read_table(tmp_path / "x.csv"))
    assert (kind_of(read["it"]) == "text") == code
    if name != "hexadecimal":
        numerical, told = warnings_of(lambda: prepare(tmp_path / "x.csv", "click", ColumnOptions(numerical={"it": 3})))
        assert numerical.schema.buckets == {"it": 3} and not told


@pytest.mark.parametrize("texts", [["14.1", "14.10"], ["00501", "501"], ["1e5", "100000"], ["12.50", "12.5"], ["0x1F", "31"],
                                   ["12:30", "12:30:00"], ["true", "True", "false"], [" 7", "7"], ["-0", "0"],
                                   ["2026-01-02", "2026-01-02 00:00:00"]])  # fmt: skip
@pytest.mark.parametrize("way", ["path", "path and y", "folder"])
def test_named_columns_are_text_character_for_character(texts, way, tmp_path):
    options, content = ColumnOptions(["it"], min_count=1), "it,click\n" + "".join(
        f"{text},{i % 2}\n" for i in range(30) for text in texts)
    path = written(tmp_path, "x.csv", content.encode())
    table = read_table(path, options=options) if way == "path and y" else path
    vocabulary = prepare(table, "click", options, folder=tmp_path / "made" if way == "folder" else None).data.vocabularies[0]
    assert vocabulary.values.tolist() == sorted(texts)
    new = read_table(path, ["it"], as_text=True)
    assert encode_rows(new, [vocabulary])[:, 0].tolist() == vocabulary.encode(pd.Series(texts * 30)).tolist()
    assert encode_rows(new.astype(object), [vocabulary])[:, 0].tolist() == [1 + sorted(texts).index(t) for t in texts] * 30


def test_what_was_learnt_from_a_file_is_known_in_a_frame_of_the_same_table_and_the_reverse(tmp_path):
    zips, prices, clocks = ["00501", "10001", "94110"], ["12.50", "9.99", "7.00"], ["12:30", "08:00", "23:59"]
    rows = [(zips[i % 3], prices[i % 3], clocks[i % 3], ["true", "false", "True"][i % 3], i // 3 % 2) for i in range(90)]
    path = tmp_path / "x.csv"
    pd.DataFrame(rows, columns=["zip", "price", "at", "on", "click"]).to_csv(path, index=False)
    options = ColumnOptions(["zip", "price", "at"], exclude=["on"])
    vocabularies = prepare(path, "click", options).data.vocabularies
    typed = pd.read_csv(path).assign(at=lambda f: [time.fromisoformat(t) for t in f["at"]])
    assert typed["zip"].dtype == np.int64 and typed.price.dtype == float  # what pandas makes of it
    expected = encode_rows(read_table(path, as_text=True), vocabularies)
    assert expected.min() == 1 and encode_rows(typed, vocabularies).equal(expected)
    assert encode_rows(pd.read_csv(path, dtype=str), vocabularies).equal(expected)
    of_frame = prepare(typed, "click", options).data.vocabularies
    assert [v.cardinality for v in of_frame] == [4, 4, 4]
    ids = encode_rows(typed, of_frame)
    assert ids.min() == 1 and encode_rows(read_table(path, as_text=True), of_frame)[:, :2].equal(ids[:, :2])


def test_a_number_that_was_two_codes_says_so():
    vocabulary = Vocabulary("zip", np.array(["00501", "501", "7"], dtype=object))
    ids, told = warnings_of(lambda: encode_rows(pd.DataFrame({"zip": [501, 7, 8]}), [vocabulary])[:, 0].tolist())
    assert ids == [2, 3, 0] and len(told) == 1 and "'501' and '00501' were two values in training" in told[0]


NEAR = [2**53 + 1, 2**53 + 2, 2**53 + 3, 2**60 + 1]  # of which a double cannot tell all apart
FORMS_OF_IDS = {
    "int64": lambda ids: S(ids, dtype="int64"),
    "uint64": lambda ids: S(ids, dtype="uint64"),
    "Int64": lambda ids: S(ids, dtype="Int64"),
    "UInt64": lambda ids: S(ids, dtype="UInt64"),
    "Arrow's int64": lambda ids: S(ids, dtype="int64[pyarrow]"),
    "Arrow's uint64": lambda ids: S(ids, dtype="uint64[pyarrow]"),
    "decimals": lambda ids: S([Decimal(i) for i in ids]),
    "Arrow's decimals": lambda ids: S(ids, dtype=pd.ArrowDtype(pa.decimal128(20, 0))),
    "objects": lambda ids: S(ids, dtype=object),
    "text": lambda ids: S([str(i) for i in ids]),
    "text with a place": lambda ids: S([f"{i}.0" for i in ids]),
    "categories": lambda ids: S(ids).astype("category"),
}


@pytest.mark.parametrize("new", FORMS_OF_IDS)
@pytest.mark.parametrize("trained", [name for name in FORMS_OF_IDS if name != "text with a place"])
def test_no_id_passes_through_a_float(trained, new):
    frame = pd.DataFrame({"id": FORMS_OF_IDS[trained](NEAR * 20), "click": [0, 1] * 40})
    vocabulary = prepare(frame, "click", ColumnOptions(min_count=1)).data.vocabularies[0]
    found, expected = FORMS_OF_IDS[new](NEAR), vocabulary.encode(frame["id"].iloc[:4]).tolist()
    assert sorted(expected) == [1, 2, 3, 4]
    if (trained, new) == ("text", "text with a place"):
        expected = [0, 0, 0, 0]
    assert encode_rows(found.to_frame("id"), [through_json(vocabulary)])[:, 0].tolist() == expected
    if new != "text with a place":
        holed = pd.concat([found.astype(object), S([None], dtype=object)], ignore_index=True)
        holed = holed if new in ("uint64", "int64", "categories", "decimals") else holed.astype(found.dtype)
        assert encode_rows(holed.to_frame("id"), [vocabulary])[:, 0].tolist() == [*expected, 0]


def test_ids_that_came_as_floats_are_refused_with_a_way_out(tmp_path):
    frame = pd.DataFrame({"id": NEAR * 20, "click": [0, 1] * 40})
    vocabulary = prepare(frame, "click").data.vocabularies[0]
    with pytest.raises(DataError, match="column 'id' row 1: .* is a float, which cannot tell ids above 2.53 apart; read"):
        encode_rows(pd.DataFrame({"id": [5, NEAR[0], None]}), [vocabulary])
    with pytest.raises(DataError, match="column 'id' has whole numbers above 2.53 as floats.*Int64 or text"):
        prepare(frame.assign(id=frame.id.where(frame.index != 3)), "click")
    holed = frame.assign(id=frame.id.astype("Int64").where(frame.index != 3))
    holed.to_parquet(tmp_path / "x.parquet")
    holed.to_csv(tmp_path / "x.csv", index=False)
    for table in (holed, tmp_path / "x.parquet", tmp_path / "x.csv"):
        assert prepare(table, "click").data.vocabularies[0].values.tolist() == sorted(NEAR)


# ---------------------------------------------------------------- further spellings of a missing value

def test_a_few_texts_among_numbers_are_named_with_the_flag_that_reads_them_as_missing(tmp_path):
    rng, n = np.random.default_rng(0), 2_000
    prices = [f"{v:.2f}" for v in rng.gamma(2, 9, n)]
    for k, text in ((3, "NA"), (400, "NA"), (900, "-")):
        prices[k] = text
    frame = pd.DataFrame({"price": prices, "click": rng.integers(0, 2, n)})
    frame.to_csv(tmp_path / "x.csv", index=False)
    odd, told = warnings_of(lambda: prepare(tmp_path / "x.csv", "click"))
    assert not odd.schema.buckets and len(told) == 1
    for words in ("column 'price': numbers, but for 'NA' in 2 rows, '-' in 1 rows", "text of 1,", "missing=['NA', '-']"):
        assert words in told[0]
    options = ColumnOptions(missing=["NA", "-"])
    for table in (tmp_path / "x.csv", read_table(tmp_path / "x.csv", options=options), frame.assign(
            price=[p if p in ("NA", "-") else float(p) for p in prices])):  # fmt: skip
        made, told = warnings_of(lambda table=table: prepare(table, "click", options))
        assert made.schema.buckets == {"price": 20} and made.schema.missing == ("NA", "-") and told == []
        new = pd.DataFrame({"price": ["NA", "9.99", None, "-"]})
        ids = encode_rows(new, made.data.vocabularies, made.schema.missing)[:, 0].tolist()
        assert ids[0] == ids[2] == ids[3] != ids[1] > 0
    with pytest.raises(DataError, match="'NA' is not a number"):
        encode_rows(new, made.data.vocabularies)


@pytest.mark.parametrize("texts, told", [
    (["38", "40", "42", "XL"], False), (["38", "40", "42", "?"], True), (["1.5", "2.5", "0.25", "cheap"], True),
    (["1.5", "b", "c", "d"], False), (["14.1", "14.10", "9.2", "NA"], False), (["2026-01-01", "2026-01-02"], False),
])  # fmt: skip
def test_only_what_would_be_numbers_is_told(texts, told, tmp_path):
    column = (texts[:-1] * 200)[:200] + [texts[-1]]
    pd.DataFrame({"it": column, "more": ["a", "b", "c"] * 67, "click": [0, 1, 0] * 67}).to_csv(tmp_path / "x.csv", index=False)
    _, notes = warnings_of(lambda: prepare(tmp_path / "x.csv", "click"))
    assert any("numbers, but for" in text for text in notes) == told


# ---------------------------------------------------------------- one table by every door

ARROW = {
    "dictionary": (pa.array(["a", "b", None] * 20).dictionary_encode(), "values"),
    "dictionary of fractions": (pa.array([0.5, 1.5, None] * 20).dictionary_encode(), "values"),
    "dictionary of dates": (pa.array([date(2026, 1, 1), date(2026, 1, 2), None] * 20).dictionary_encode(), "a time"),
    "dictionary of timestamps": (pa.array([datetime(2026, 1, 1), datetime(2026, 1, 2)] * 30).dictionary_encode(), "a time"),
    "decimal": (pa.array([Decimal("1.50"), Decimal("2"), None] * 20), "numbers"),
    "whole decimal": (pa.array([Decimal(7 * 10**18 + k % 5) for k in range(60)], pa.decimal128(38, 0)), "values"),
    "binary": (pa.array([b"a", "ß".encode(), None] * 20), "values"),
    "binary of one size": (pa.array([b"ab", b"cd", None] * 20, pa.binary(2)), "values"),
    "large text": (pa.array(["a", "b", None] * 20, pa.large_string()), "values"),
    "text view": (pa.array(["a", "b", None] * 20, pa.string_view()), "values"),
    "UUID": (pa.array([bytes([k % 3] * 16) for k in range(60)], pa.uuid()), "values"),
    "ids": (pa.array([2**63 + 1, 2**63 + 2, None] * 20, pa.uint64()), "values"),
    "whole and holes": (pa.array([2**53 + 1, 2**53 + 2, None] * 20), "values"),
    "truth and holes": (pa.array([True, False, None] * 20), "values"),
    "half floats": (pa.array(np.array([0.5, 1.5] * 30, np.float16)), "numbers"),
    "time of day": (pa.array([time(12), time(13, 30)] * 30), "a time"),
    "span": (pa.array([timedelta(1), timedelta(hours=2)] * 30), "a time"),
    "timestamp": (pa.array([datetime(2026, 1, 1), None, datetime(2026, 1, 2)] * 20), "a time"),
    "nothing": (pa.nulls(60), "all values are missing"),
    "list": (pa.array([[1], [2, 3]] * 30), None),
    "struct": (pa.array([{"a": 1}, {"a": 2}] * 30), None),
    "map": (pa.array([[("a", 1)], [("b", 2)]] * 30, pa.map_(pa.string(), pa.int64())), None),
    "bytes that are no text": (pa.array([b"\xff", b"a"] * 30), None),
}


@pytest.mark.parametrize("name", ARROW)
def test_a_column_of_arrow_is_the_same_by_every_door(name, tmp_path):
    column, expected = ARROW[name]
    table = pa.table({"it": column, "user": ["u", "v", "w"] * 20, "click": [0, 1] * 30})
    pq.write_table(table, tmp_path / "x.parquet")
    backed = pd.DataFrame({c: S(pd.arrays.ArrowExtensionArray(table[c])) for c in table.column_names})
    doors = {"file": tmp_path / "x.parquet", "Arrow": table, "batch": table.combine_chunks().to_batches()[0],
             "Arrow-backed": backed, "pandas": table.to_pandas(), "folder": tmp_path / "x.parquet"}
    if name not in ("map", "UUID", "half floats", "binary of one size", "dictionary of fractions", "dictionary of dates",
                    "dictionary of timestamps"):  # fmt: skip # which Polars has not, or has as another type
        doors["Polars"] = pl.from_arrow(table)
    if name in ("ids", "whole and holes"):
        del doors["pandas"]  # to which it gives floats
    if name == "dictionary of fractions":
        doors = {door: way for door, way in doors.items() if not isinstance(way, Path)}  # Parquet keeps them as numbers
    options = ColumnOptions(["it"] if expected == "a time" else [], min_count=1)
    for door, way in doors.items():
        folder = tmp_path / "made" if door == "folder" else None
        if expected is None:
            with pytest.raises(DataError, match="column 'it' "):
                prepare(way, "click", folder=folder)
            assert prepare(way, "click", ColumnOptions(exclude=["it"])).data.fields == ("user",)
            continue
        made, _ = warnings_of(lambda way=way, folder=folder: prepare(way, "click", ColumnOptions(min_count=1), folder=folder))
        assert made.schema.left_out == ({} if expected in ("values", "numbers") else {"it": expected}), door
        assert made.schema.buckets == ({"it": 20} if expected == "numbers" else {}), door
        assert made.schema.columns == ("it", "user"), door
        if expected != "all values are missing":
            vocabulary = prepare(way, "click", options).data.vocabularies[0]
            first = vocabulary_to_dict(vocabulary) if way is [*doors.values()][0] else first
            assert vocabulary_to_dict(vocabulary) == first, door
            for rows in (w for w in doors.values() if not isinstance(w, Path)):
                ids = encode_rows(rows, [vocabulary])[:, 0]
                assert ids.equal(encode_rows(read_table(tmp_path / "x.parquet", as_text=True), [vocabulary])[:, 0]), door


def test_frames_of_other_libraries_keep_names_and_ids(tmp_path):
    frame = pl.DataFrame({"id": [2**60 + k % 3 for k in range(60)], "at": [None, "x", "y"] * 20, "click": [0, 1] * 30})
    for table in (frame, frame.to_arrow(), frame.to_pandas()):
        prepared = prepare(table, "click", ColumnOptions(["at"]))
        assert prepared.data.fields == ("id", "at") and prepared.data.vocabularies[0].values.tolist() == [2**60 + k for k in range(3)]
    with pytest.raises(DataError, match="column 'a' is there twice"):
        prepare(pa.table([[1], [2]], names=["a", "a"]), "click")
