"""autodim.data.read against the tables that were written, and against damage of every kind."""
import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from written import NASTY, rows_of, written

from autodim.data import read as reader
from autodim.data.files import DataError
from autodim.data.read import Layout, header_of, read_files


@pytest.fixture(params=[(256, 2, 64, 8), (4 << 20, 8, 1 << 20, 4096)], ids=["small pieces", "as it is"])
def blocks(request, monkeypatch):
    """Bytes of a block, blocks of a group, values that are told apart at once, and rows of a sample."""
    for name, value in zip(("BLOCK", "GROUP", "MERGED", "SAMPLE"), request.param):
        monkeypatch.setattr(reader, name, value)
    return request.param[0]


def read(files, layout, wanted, folder):
    """The texts of each wanted column, row by row, by the codes that files were read into; None: missing."""
    table = read_files(files, layout, wanted, folder, progress=False)
    found = {}
    for name in wanted:
        values, codes = table.values(name).to_list(), np.concatenate(list(table.codes(name)))
        assert len(set(values)) == len(values)
        assert table.counts(name).tolist() == np.bincount(codes % (len(values) + 1), minlength=len(values) + 1).tolist()
        found[name] = [None if k < 0 else values[k] for k in codes]
    assert table.rows == len(found[wanted[0]]) and table.names == tuple(wanted)
    assert [s.stop - s.start for s in table.slices()] == [len(codes) for codes in table.codes(wanted[0])]
    assert table.slices()[0].start == 0 and table.slices()[-1].stop == table.rows
    return found


@pytest.mark.parametrize("seed", range(12))
def test_rows_come_back_as_they_were_written(seed, blocks, tmp_path):
    """In any layout, cut into any blocks and files."""
    rng, n = np.random.default_rng(seed), 300
    quoted = bool(rng.random() < 0.8)
    separator = str(rng.choice([",", "\t", ";", "|"])) if quoted else "\t"
    some = np.array([*NASTY, None] if quoted else ["a", 'b"', '"', "'c", "é", " ", None], dtype=object)
    texts = {name: rng.choice(rng.permutation(some)[: int(rng.integers(2, 9))], n) for name in "xyz"}
    frame = pd.DataFrame(texts, dtype=object)
    layout = Layout(() if quoted else ("x", "y", "z"), separator, quoted)
    cuts = [0, *sorted(rng.integers(0, n, int(rng.integers(0, 3))).tolist()), n]  # a file may have no rows
    files = []
    for k, (start, stop) in enumerate(zip(cuts, cuts[1:])):
        columns = rng.permutation(["x", "y", "z"]).tolist() if quoted else ["x", "y", "z"]
        content, gzipped = written(rng, frame[start:stop], layout, columns), bool(rng.random() < 0.5)
        files.append(tmp_path / f"{k}.txt{'.gz' if gzipped else ''}")
        files[-1].write_bytes(gzip.compress(content) if gzipped else content)
    assert read(files, layout, ("z", "x"), tmp_path / "codes") == {name: texts[name].tolist() for name in "zx"}


def test_marks_amid_a_value_are_text_wherever_a_block_ends(tmp_path, monkeypatch):
    """5" is no quotation."""
    values = ['5"', '"a\nb"', '6"7"', "c", '"d""\n,"', '""', '8"']
    texts = ['5"', "a\nb", '6"7"', "c", 'd"\n,', None, '8"']
    chosen = np.random.default_rng(0).integers(0, 7, 400)
    (tmp_path / "inches.csv").write_text("label,x\n" + "".join(f"1,{values[k]}\n" for k in chosen))
    for size in (37, 38, 39, 43, 64, 1 << 20):
        monkeypatch.setattr(reader, "BLOCK", size)
        found = read([tmp_path / "inches.csv"], Layout(), ("x",), tmp_path / str(size))
        assert found["x"] == [texts[k] for k in chosen]


def test_only_the_first_byte_order_mark_is_none_of_the_text(blocks, tmp_path):
    """Wherever a block begins, one amid the file belongs to its value."""
    (tmp_path / "x.csv").write_text("\ufeffx,label\n" + "a,1\n\ufeffa,0\n" * 90)
    assert read([tmp_path / "x.csv"], Layout(), ("x",), tmp_path / "codes")["x"] == ["a", "\ufeffa"] * 90


def test_many_values_over_many_blocks(blocks, tmp_path):
    """Each row keeps its own."""
    values = [f"{v:x}" for v in np.random.default_rng(99).permutation(15_000)] * 2
    (tmp_path / "x.txt").write_text("".join(f"1\t{v}\n" for v in values))
    assert read([tmp_path / "x.txt"], Layout(("label", "x"), "\t", False), ("x",), tmp_path / "codes")["x"] == values


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_may(end, tmp_path):
    (tmp_path / "x.csv").write_bytes(end.join(["", "x,label", "a,1", "", '"b\nc",0', ""]).encode())
    assert header_of(tmp_path / "x.csv", Layout()) == ("x", "label")
    assert read([tmp_path / "x.csv"], Layout(), ("x", "label"), tmp_path / "codes") == {"x": ["a", "b\nc"],
                                                                                       "label": ["1", "0"]}


# ---------------------------------------------------------------- bad input


def refused(match, files, folder, layout=Layout(), wanted=("label", "x")):
    """Reading raises one DataError, of one line; what it left in the scratch folder is cleared away."""
    with pytest.raises(DataError, match=match) as error:
        read_files(files, layout, wanted, folder, progress=False)
    assert "\n" not in str(error.value)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("before", ["plain", "empty lines", "quoted line breaks", "CRLF", "byte order mark"])
def test_a_wrong_number_of_columns_is_named_by_its_line(before, named, blocks, tmp_path):
    """The line is the one that an editor shows, wherever blocks end and whatever comes before."""
    end = "\r\n" if before == "CRLF" else "\n"
    rng = np.random.default_rng(blocks)
    for bad in ("1", "0,a,b", "1,a,", ",,,,,"):
        lines = ["label,x"] * named + rows_of(120)
        if before == "empty lines":
            for place in sorted(rng.integers(0, len(lines), 30).tolist(), reverse=True):
                lines.insert(place, "")
        if before == "quoted line breaks":
            for place in rng.integers(named, len(lines), 30).tolist():
                lines[place] = '1,"two\n\nlines, ""or"" three"'
        place = int(rng.integers(40, len(lines)))
        content = ("\ufeff" if before == "byte order mark" else "") + end.join(lines[:place]) + end
        (tmp_path / "x.csv").write_bytes((content + end.join([bad, *lines[place:]])).encode())
        layout = Layout() if named else Layout(("label", "x"))
        line, found = content.count("\n") + 1, bad.count(",") + 1
        refused(f"x.csv line {line}: {found} columns, expected 2; cut short or a stray",
                [tmp_path / "x.csv"], tmp_path / "made", layout)


def test_the_first_of_two_bad_rows_is_named(blocks, tmp_path):
    lines = rows_of(400)
    lines[150] = lines[300] = "1"
    (tmp_path / "x.txt").write_text("\n".join(lines))
    refused("x.txt line 151: 1 columns", [tmp_path / "x.txt"], tmp_path / "made", Layout(("label", "x")))


def test_a_file_cut_in_the_middle_of_a_row(tmp_path):
    content = ("label,x,y\n" + "1,abc,5\n0,de,7\n" * 50).encode()
    for cut in range(len(content) - 15, len(content) - 1):
        (tmp_path / "x.csv").write_bytes(content[:cut])
        last = content[:cut].split(b"\n")[-1]
        if last and last.count(b",") < 2:
            refused(f"x.csv line {content[:cut].count(10) + 1}: {last.count(b',') + 1} columns, expected 3",
                    [tmp_path / "x.csv"], tmp_path / "made", wanted=("label", "x", "y"))
    (tmp_path / "x.csv").write_bytes(content)
    assert read([tmp_path / "x.csv"], Layout(), ("y",), tmp_path / "made")["y"] == ["5", "7"] * 50


def test_a_gzip_that_ends_early_or_is_damaged(tmp_path):
    rows = ("label,x\n" + "\n".join(rows_of(3000)) + "\n").encode()
    content, rng = gzip.compress(rows), np.random.default_rng(0)
    path = tmp_path / "x.csv.gz"
    for cut in [1, 2, 5, 9, 10, 11, len(content) - 9, *range(len(content) - 8, len(content)),
                *rng.integers(12, len(content), 15).tolist()]:
        path.write_bytes(content[:cut])
        refused("x.csv.gz (cannot be read .*: cut short or damaged|is not gzipped|is empty)", [path], tmp_path / "made")
    for damaged in (content[:-8] + b"1234" + content[-4:], content[:-4] + b"1234", content + b"more",
                    content[:2000] + bytes(40) + content[2040:]):
        path.write_bytes(damaged)
        refused("x.csv.gz cannot be read .*: cut short or damaged", [path], tmp_path / "made")
    path.write_bytes(b"")
    refused("x.csv.gz is empty", [path], tmp_path / "made")
    path.write_bytes(rows)
    refused("x.csv.gz is not gzipped, unlike its name; rename it to x.csv", [path], tmp_path / "made")
    (tmp_path / "x.csv").write_bytes(content)
    refused("x.csv is gzipped, unlike its name; rename it to x.csv.gz", [tmp_path / "x.csv"], tmp_path / "made")
    path.write_bytes(gzip.compress(rows[:5000]) + gzip.compress(rows[5000:]))  # as `cat a.gz b.gz` has it
    assert read([path], Layout(), ("x",), tmp_path / "made")["x"] == [row.split(",")[1] for row in rows_of(3000)]


def test_text_that_is_not_utf8_is_named_by_its_line(blocks, tmp_path):
    lines = [line.encode() for line in rows_of(200)]
    lines[20] = b'1,"a\nb"'
    lines[150] = b"1,caf\xe9"
    (tmp_path / "x.csv").write_bytes(b"label,x\n" + b"\n".join(lines))
    refused(r"x.csv line 153: b'\\xe9' is not UTF-8 text .*; write the file anew in that encoding",
            [tmp_path / "x.csv"], tmp_path / "made")


def test_a_quotation_that_is_never_closed(blocks, tmp_path):
    lines = rows_of(300)
    lines[120] = '1,"a'
    (tmp_path / "x.csv").write_text("label,x\n" + "\n".join(lines))
    refused("x.csv line 122: a quotation is opened here and never closed", [tmp_path / "x.csv"], tmp_path / "made")
    (tmp_path / "y.csv").write_text('label,"x\n' + "\n".join(rows_of(300)))
    refused("y.csv line 1: a quotation is opened here and never closed", [tmp_path / "y.csv"], tmp_path / "made")


@pytest.mark.parametrize("content, problem", [
    (b"", "x.csv is empty: expected a header"),
    (b"\n\r\n\n", "x.csv is empty: expected a header"),
    (b"\xef\xbb\xbf", "x.csv is empty: expected a header"),
    (b"label,x", "x.csv: no rows"),
    (b"label,x\n\n\n", "x.csv: no rows"),
    (b"label,x,x\n1,2,3\n", "x.csv: column 'x' is there twice; rename one"),
    (b"label,y\n1,2\n", "x.csv: column 'x' is not there; it has label, y"),
    (b"label,\xff\n1,2\n", r"x.csv line 1: .*is not UTF-8 text"),
    ("label,x\n1,2\n".encode("utf-16"), r"x.csv line 1: .*is not UTF-8 text"),
])
def test_tables_without_a_header_or_rows(content, problem, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    refused(problem, [tmp_path / "x.csv"], tmp_path / "made")


def test_files_that_do_not_fit_together_or_cannot_be_read(tmp_path, monkeypatch):
    good, other = tmp_path / "good.csv", tmp_path / "other.csv"
    good.write_text("label,x\n" + "\n".join(rows_of(200)))
    other.write_text("label,y\n1,2\n")
    refused("other.csv: column 'x' is not there; it has label, y", [good, other], tmp_path / "made")
    for path, problem in ((tmp_path / "no.csv", "no.csv: no such file"), (tmp_path, "is not a file")):
        refused(problem, [good, path], tmp_path / "made")
    other.write_text("label,x\n1,2\n")
    real = Path.open

    def forbidden(path, *arguments, **named):
        if path == other:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", forbidden)
    refused("other.csv cannot be read .Permission denied.", [good, other], tmp_path / "made")


def test_a_parquet_file_that_is_cut_short_or_damaged(tmp_path):
    n = 5000
    frame = pd.DataFrame({"label": np.arange(n) % 2, "x": np.random.default_rng(0).integers(0, 2**40, n).astype(str)})
    path = tmp_path / "x.parquet"
    frame.to_parquet(path, row_group_size=1000)
    content = path.read_bytes()
    for damaged in (b"", content[:3], content[:1000], content[:-1], content[:-20], content[:-5] + b"9" + content[-4:],
                    content[: len(content) // 2] + b"\xff" * 3000 + content[len(content) // 2 + 3000 :]):
        path.write_bytes(damaged)
        refused("x.parquet cannot be read .*: cut short or damaged", [path], tmp_path / "made")


def test_a_parquet_column_without_a_text(tmp_path):
    pd.DataFrame({"label": [0, 1], "x": [[1], [2]]}).to_parquet(tmp_path / "list.parquet")
    refused("list.parquet: column 'x' is of type list<.*leave it out, or write it as text", [tmp_path / "list.parquet"],
            tmp_path / "made")
