"""autodim.data.datasets: planted truth, MovieLens against a line-by-line reader, downloads from a local server, bad files.

Counts of the real MovieLens-1M are checked where AUTODIM_DATA holds it; all else runs on invented files.
"""
import hashlib
import http.server
import io
import os
import re
import socket
import threading
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from autodim.data import datasets
from autodim.data.files import DataError
from autodim.data.datasets import (
    GENRES, LAYOUT, MOVIELENS_FIELDS, PLANTED, PLANTED_DIMS, load_dataset, movielens_1m, planted, planted_effects,
    planted_logits,
)  # fmt: skip


# --- planted ----------------------------------------------------------------------------------------------------


def test_planted_logits_equal_a_loop():
    frame, effects = planted(n=300, seed=4), planted_effects(seed=4)
    for i in range(300):
        row = frame.iloc[i]
        expected = sum(effects[name][row[name], 0] for name in PLANTED)
        for left, right in (("rank4_left", "rank4_right"), ("rank8_left", "rank8_right")):
            expected += sum(u * v for u, v in zip(effects[left][row[left], 1:], effects[right][row[right], 1:]))
        assert planted_logits(frame, seed=4)[i] == pytest.approx(expected, abs=1e-12)


def test_planted_labels_follow_the_logits():
    """In each tenth of the rows, ordered by their true chance, the share of positives is that chance."""
    frame = planted()
    chance = 1 / (1 + np.exp(-planted_logits(frame)))
    for rows in np.array_split(np.argsort(chance), 10):
        assert frame.label.iloc[rows].mean() == pytest.approx(chance[rows].mean(), abs=0.025)


def test_planted_needs_are_what_is_written_down():
    effects = planted_effects()
    for name, effect in effects.items():
        assert effect.shape == (PLANTED[name].size, 1 + PLANTED[name].rank)
        assert (effect[:, 0].std() > 0) == (not name.startswith(("none", "rank")))
        assert np.allclose(effect.mean(0), 0)
    for rank in (4, 8):
        product = effects[f"rank{rank}_left"][:, 1:] @ effects[f"rank{rank}_right"][:, 1:].T
        values = np.linalg.svd(product).S
        assert np.allclose(values[:rank], values[0]) and np.allclose(values[rank:], 0)
        assert PLANTED_DIMS[f"rank{rank}_left"] == PLANTED_DIMS[f"rank{rank}_right"] == rank
    assert all(PLANTED_DIMS[name] == 2 for name in PLANTED if not name.startswith("rank"))


@pytest.fixture
def one_thread():
    """A small network is trained faster by one thread than by several that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def planted_auc(dims, data, epochs=6):
    """Test AUC, at the best epoch in validation, of a small network with one nn.Embedding for each field."""
    torch.manual_seed(0)
    tables = torch.nn.ModuleList(torch.nn.Embedding(v, d) for v, d in zip(data.cardinalities, dims))
    for table in tables:
        torch.nn.init.normal_(table.weight, std=0.01)
    widths = [sum(dims), 96, 96]
    layers = [m for a, b in zip(widths, widths[1:]) for m in (torch.nn.Linear(a, b), torch.nn.BatchNorm1d(b),
                                                              torch.nn.ReLU())]
    head = torch.nn.Sequential(*layers, torch.nn.Linear(96, 1))
    optimizer = torch.optim.Adam([*tables.parameters(), *head.parameters()], lr=2e-3, fused=True)

    def logits(ids):
        return head(torch.cat([table(ids[:, m]) for m, table in enumerate(tables)], 1)).squeeze(1)

    best = (0.0, 0.0)
    for _ in range(epochs):
        head.train()
        for rows in torch.randperm(len(data.train.labels)).split(500):
            ids, labels = data.train.ids[rows], data.train.labels[rows]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits(ids), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        head.eval()
        with torch.no_grad():
            best = max(best, tuple(roc_auc_score(p.labels, logits(p.ids)) for p in (data.val, data.test)))
    return best[1]


def test_planted_dimensions_matter_to_a_network(one_thread):
    """The truth beats 2 for all fields clearly, and 10 for all is not better than the truth."""
    data = load_dataset("planted", seed=0)
    truth = planted_auc([PLANTED_DIMS[f] for f in data.fields], data)
    assert truth - planted_auc([2] * 10, data) > 0.02
    assert truth - planted_auc([10] * 10, data) > -0.01


# --- MovieLens on invented files --------------------------------------------------------------------------------


def write_files(folder, ratings=300, seed=0):
    """A tiny MovieLens in GroupLens's layout with its oddities: accents, ZIP+4, years inside titles."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    ages, zips = (1, 18, 25, 35), ("00231", "98107-2117", "55117", "V9B4K2")
    users = [(u, "FM"[rng.integers(2)], rng.choice(ages), rng.integers(21), rng.choice(zips)) for u in range(1, 31)]
    titles = ["Misérables, Les (1995)", "Lost (in 1914) (1999)", "No year at all", "2001: A Space Odyssey (1968)"]
    genres = ["|".join(sorted(rng.choice(GENRES, 1 + k % 3, replace=False))) for k in range(20)]
    films = [(7 * k + 1, titles[k % 4], genres[k]) for k in range(20)]
    pairs = rng.choice(30 * 20, ratings, replace=False)
    votes = [(p // 20 + 1, 7 * (p % 20) + 1, rng.integers(1, 6), 956703932 + int(rng.integers(9e7))) for p in pairs]
    for name, rows in (("users.dat", users), ("movies.dat", films), ("ratings.dat", votes)):
        text = "".join("::".join(map(str, row)) + "\n" for row in rows)
        (folder / name).write_bytes(text.encode("latin-1"))
    return folder


def read_by_line(folder):
    """The table as a list of dictionaries, by str.split and lookups."""
    def lines(name):
        return [line.split("::") for line in (folder / name).read_bytes().decode("latin-1").split("\n") if line]

    users, films = {u[0]: u for u in lines("users.dat")}, {f[0]: f for f in lines("movies.dat")}
    table = []
    for user, film, rating, time in lines("ratings.dat"):
        year = re.search(r"\((\d\d\d\d)\)$", films[film][1])
        row = {genre: int(genre in films[film][2].split("|")) for genre in GENRES}
        row |= {"year": year[1] if year else None, "timestamp": f"{datetime.fromtimestamp(int(time), UTC):%Y-%m}"}
        row |= {"age": int(users[user][2]), "occupation": int(users[user][3]), "zip": users[user][4],
                "gender": users[user][1], "userId": int(user), "movieId": int(film), "label": int(int(rating) >= 4)}
        table.append(row)
    return table


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A data folder with a tiny ml-1m, and an empty cache."""
    monkeypatch.setenv("AUTODIM_DATA", str(tmp_path))
    monkeypatch.setenv("AUTODIM_CACHE", str(tmp_path / "cache"))
    write_files(tmp_path / "ml-1m")
    return tmp_path


def as_rows(frame):
    return [{k: None if v != v else v for k, v in row.items()} for row in frame.astype(object).to_dict("records")]


def test_movielens_equals_a_reader_line_by_line(home):
    frame = movielens_1m().frame
    assert list(frame.columns) == [*MOVIELENS_FIELDS, "label"]
    assert as_rows(frame) == read_by_line(home / "ml-1m")
    assert all(isinstance(frame[f].dtype, pd.CategoricalDtype) for f in MOVIELENS_FIELDS)


def test_fields_can_be_dropped(home):
    frame = movielens_1m(drop_fields=("timestamp", "userId")).frame
    assert list(frame.columns) == [f for f in MOVIELENS_FIELDS if f not in ("timestamp", "userId")] + ["label"]


def test_windows_line_ends_make_no_difference(home):
    expected = as_rows(movielens_1m().frame)
    for name in LAYOUT:
        path = home / "ml-1m" / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert as_rows(movielens_1m().frame) == expected


def test_load_splits_by_time_and_encodes(home):
    table = pd.DataFrame(read_by_line(home / "ml-1m"))
    data = load_dataset("movielens-1m", seed=0, split="chronological")
    assert [len(p.labels) for p in (data.train, data.val, data.test)] == [240, 30, 30]
    times = pd.read_csv(home / "ml-1m" / "ratings.dat", sep="::", engine="python", header=None)[3]
    order = np.argsort(times.to_numpy(), kind="stable")
    for m, field in enumerate(data.fields):
        values = data.vocabularies[m].values.tolist()
        column = [None if v is None or v != v else v for v in table[field]]
        known = set(column[i] for i in order[:240])
        missing = data.vocabularies[m].missing_id
        ids = {value: values.index(value) + 1 for value in known - {None}} | {None: missing}
        expected = [ids.get(column[i], 0) for i in order]
        assert torch.cat([data.train.ids, data.val.ids, data.test.ids])[:, m].tolist() == expected
    rare = load_dataset("movielens-1m", seed=0, min_count=10)
    assert sum(rare.cardinalities) < sum(data.cardinalities) and rare.name == "movielens-1m"
    assert load_dataset("movielens-1m", seed=0).fingerprint != load_dataset("movielens-1m", seed=1).fingerprint


# --- bad input --------------------------------------------------------------------------------------------------


def change_line(path, number, line):
    text = path.read_bytes().decode("latin-1").split("\n")
    text[number - 1] = line
    path.write_bytes("\n".join(text).encode("latin-1"))


@pytest.mark.parametrize("name,number,line,message", [
    ("ratings.dat", 3, "1::914::3",
     r"^ratings.dat line 3: 3 columns, expected 4 \(UserID::MovieID::Rating::Timestamp\)$"),
    ("ratings.dat", 3, "1::8::3::956703932::9", "^ratings.dat line 3: 5 columns, expected 4"),
    ("ratings.dat", 1, "1::8::3::956703932::9", "^ratings.dat line 1: 5 columns, expected 4"),
    ("ratings.dat", 5, "", "^ratings.dat line 5: 1 columns, expected 4"),
    ("ratings.dat", 7, "1::8::good::956703932", "^ratings.dat line 7: Rating 'good', expected a whole number$"),
    ("ratings.dat", 7, "1::8::4.5::956703932", "^ratings.dat line 7: Rating '4.5', expected a whole number$"),
    ("ratings.dat", 7, "1::8::::956703932", "^ratings.dat line 7: Rating '', expected a whole number$"),
    ("ratings.dat", 7, "1:8:3:956703932", "^ratings.dat line 7: 1 columns, expected 4"),
    ("ratings.dat", 2, "1::8::6::956703932", "^ratings.dat line 2: Rating 6, expected 1 to 5$"),
    ("ratings.dat", 2, "99::8::5::956703932", "^ratings.dat line 2: UserID 99 is not in users.dat$"),
    ("ratings.dat", 2, "1::9::5::956703932", "^ratings.dat line 2: MovieID 9 is not in movies.dat$"),
    ("users.dat", 4, "4::F::25::3", "^users.dat line 4: 4 columns, expected 5"),
    ("users.dat", 4, "4::F::old::3::55117", "^users.dat line 4: Age 'old', expected a whole number"),
    ("users.dat", 4, "3::F::25::3::55117", "^users.dat line 4: UserID 3 is there twice$"),
    ("movies.dat", 2, "8::Film (1999)", "^movies.dat line 2: 2 columns, expected 3"),
    ("movies.dat", 2, "8::Film (1999)::Drama|Sitcom", "^movies.dat line 2: genre 'Sitcom', expected one of Action"),
])
def test_bad_lines_are_named(home, name, number, line, message):
    change_line(home / "ml-1m" / name, number, line)
    with pytest.raises(DataError, match=message):
        movielens_1m().frame


@pytest.mark.parametrize("name", LAYOUT)
@pytest.mark.parametrize("text", [b"", b"\n\n", None])
def test_empty_and_missing_files_are_named(home, name, text):
    path = home / "ml-1m" / name
    path.unlink() if text is None else path.write_bytes(text)
    with pytest.raises(DataError, match=f"{name} is {'missing' if text is None else 'empty'}"):
        movielens_1m().frame


def test_unknown_times_are_refused_with_the_way_out(home):
    change_line(home / "ml-1m" / "ratings.dat", 4, "1::8::5::0")
    with pytest.raises(DataError, match=re.escape('line 4: timestamp 0 (unknown), as in 1 of 300 lines: '
                                                  'leave the field out with drop_fields=("timestamp",)')):
        load_dataset("movielens-1m", seed=0)
    assert len(load_dataset("movielens-1m", seed=0, drop_fields=("timestamp",)).fields) == 25
    with pytest.raises(DataError, match="a chronological split needs all of them"):
        load_dataset("movielens-1m", seed=0, split="chronological", drop_fields=("timestamp",))


@pytest.mark.parametrize("arguments,message", [
    (dict(dataset="movielens"), "'movielens' is not known: expected one of planted, movielens-1m, movielens-1m-half"),
    (dict(dataset="movielens-1m", drop_fields=("genre",)), "drop_fields names genre; the fields are Action, Adventure"),
    (dict(dataset="movielens-1m", drop_fields="timestamp"), r'expected a sequence of names, as \("timestamp",\)'),
    (dict(dataset="movielens-1m", drop_fields=MOVIELENS_FIELDS), "drop_fields names all fields"),
    (dict(dataset="planted", drop_fields=("zip",)), "drop_fields names zip; the fields are none_small"),
    (dict(dataset="planted", split="chronological"), "expected 'random', or 'chronological' where rows have times"),
    (dict(dataset="movielens-1m", split="by user"), "split 'by user' of dataset 'movielens-1m'"),
    (dict(dataset="movielens-1m-half"), "ml-1m-users-1-2999 is missing: put ratings.dat, users.dat, movies.dat there"),
])
def test_wrong_arguments_are_refused(home, arguments, message):
    with pytest.raises(DataError, match=message) as error:
        load_dataset(seed=0, **arguments)
    assert "\n" not in str(error.value)


# --- downloads --------------------------------------------------------------------------------------------------


def zip_bytes(members):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return raw.getvalue()


@pytest.fixture
def server():
    """A local web server; `server.content` is what it sends, `server.cut` how many bytes of it it swallows."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            httpd.requests += 1
            self.send_response(200 if httpd.content else 404)
            self.send_header("Content-Length", str(len(httpd.content)))
            self.end_headers()
            self.wfile.write(httpd.content[: len(httpd.content) - httpd.cut])

        def log_message(self, *arguments):
            pass

    httpd = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    httpd.content, httpd.cut, httpd.requests = b"", 0, 0
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/ml-1m.zip"
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def remote(server, tmp_path, monkeypatch):
    """A server that offers a tiny ml-1m.zip under the name and checksum that autodim expects, and no local data."""
    source = write_files(tmp_path / "source")
    members = {"ml-1m/": b"", "ml-1m/README": b"read me"} | {f"ml-1m/{n}": (source / n).read_bytes() for n in LAYOUT}
    server.content = zip_bytes(members)
    monkeypatch.setattr(datasets, "MOVIELENS_URL", server.url)
    monkeypatch.setattr(datasets, "MOVIELENS_MD5", hashlib.md5(server.content).hexdigest())
    monkeypatch.setenv("AUTODIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AUTODIM_DATA", str(tmp_path / "data"))
    return server


def test_download_happens_once(remote, tmp_path):
    frame = movielens_1m().frame
    assert as_rows(frame) == read_by_line(tmp_path / "source")
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["ml-1m", "ml-1m.zip"]
    assert sorted(p.name for p in (tmp_path / "data" / "ml-1m").iterdir()) == sorted(["README", *LAYOUT])
    movielens_1m().frame
    assert remote.requests == 1


def test_a_zip_put_there_by_hand_is_used(remote, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ml-1m.zip").write_bytes(remote.content)
    assert len(movielens_1m().frame) == 300 and remote.requests == 0


def test_a_download_cut_short_leaves_nothing_and_can_be_repeated(remote, tmp_path):
    remote.cut = 1000
    with pytest.raises(DataError, match="cannot be downloaded"):
        movielens_1m()
    assert list((tmp_path / "data").iterdir()) == []
    remote.cut = 0
    assert len(movielens_1m().frame) == 300


@pytest.mark.parametrize("reached", [True, False])
def test_a_half_written_zip_is_not_taken_for_a_finished_one(remote, tmp_path, reached):
    (tmp_path / "data").mkdir()
    archive, half = tmp_path / "data" / "ml-1m.zip", remote.content[:-1000]
    archive.write_bytes(half)
    if reached:
        assert len(movielens_1m().frame) == 300 and archive.read_bytes() == remote.content
    else:
        remote.content = b""
        with pytest.raises(DataError, match="cannot be downloaded"):
            movielens_1m()
        assert [p.name for p in (tmp_path / "data").iterdir()] == ["ml-1m.zip"] and archive.read_bytes() == half


def test_wrong_checksum_of_a_download(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "MOVIELENS_MD5", "0" * 32)
    with pytest.raises(DataError, match="hash of downloaded file .*expected .*0000.*fetch it by other means") as error:
        movielens_1m()
    assert "\n" not in str(error.value) and list((tmp_path / "data").iterdir()) == []


def test_no_network_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/ml-1m.zip"
    monkeypatch.setattr(datasets, "MOVIELENS_URL", url)
    with pytest.raises(DataError) as error:
        movielens_1m(data_dir=tmp_path)
    message = str(error.value)
    assert message.startswith(f"{url} cannot be downloaded (") and "\n" not in message
    assert f"fetch it by other means and put it at {tmp_path / 'ml-1m.zip'}" in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_page_is_a_failed_download(remote):
    remote.content = b""
    with pytest.raises(DataError, match="cannot be downloaded .*404"):
        movielens_1m()


def test_only_expected_members_are_unpacked_and_none_beside_the_folder(remote, tmp_path, monkeypatch):
    with zipfile.ZipFile(io.BytesIO(remote.content)) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    odd = dict.fromkeys(["../evil", "/evil", "ml-1m/../../evil", "..\\evil", "ml-1m/run.sh", "other"], b"x")
    remote.content = zip_bytes(members | odd)
    monkeypatch.setattr(datasets, "MOVIELENS_MD5", hashlib.md5(remote.content).hexdigest())
    movielens_1m()
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["ml-1m", "ml-1m.zip"]
    assert sorted(p.name for p in (tmp_path / "data" / "ml-1m").iterdir()) == sorted(["README", *LAYOUT])
    assert not [*tmp_path.rglob("*evil*"), *tmp_path.rglob("other")]


def test_a_data_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="set AUTODIM_DATA to a folder that can be written"):
        movielens_1m(data_dir=tmp_path / "file")


# --- the real files ---------------------------------------------------------------------------------------------


def real(folder):
    """The folder below AUTODIM_DATA, relative to the repository's root, or a skipped test."""
    base = Path(__file__).resolve().parents[1] / Path(os.environ.get("AUTODIM_DATA") or "data").expanduser()
    if not (base / folder / "ratings.dat").is_file():
        pytest.skip(f"no {folder} below AUTODIM_DATA ({base})")
    return base


def test_real_movielens_counts(tmp_path, monkeypatch):
    base = real("ml-1m")
    monkeypatch.setenv("AUTODIM_CACHE", str(tmp_path))
    frame = movielens_1m(drop_fields=("timestamp",), data_dir=base).frame
    assert len(frame) == 1_000_209 and len(frame.columns) == 26
    assert frame.nunique()[["userId", "movieId", "year", "zip", "age", "occupation", "gender"]].tolist() == [
        6040, 3706, 81, 3439, 7, 21, 2]
    assert (frame[list(GENRES)].nunique() == 2).all() and len(GENRES) == 18
    assert round(frame.label.mean(), 3) == 0.575
    assert not frame.isna().any().any()
    data = load_dataset("movielens-1m", seed=0, drop_fields=("timestamp",), data_dir=base)
    assert len(data.fields) == 25 and len(data.train.labels) == 800_167


def test_real_half_has_all_fields_and_times(tmp_path, monkeypatch):
    base = real("ml-1m-users-1-2999")
    monkeypatch.setenv("AUTODIM_CACHE", str(tmp_path))
    data = load_dataset("movielens-1m-half", seed=0, split="chronological", data_dir=base)
    assert data.fields == MOVIELENS_FIELDS
    assert sum(len(p.labels) for p in (data.train, data.val, data.test)) == 487_650


def test_real_copy_with_lost_times_refuses_the_timestamp(tmp_path, monkeypatch):
    base = real("ml-1m")
    monkeypatch.setenv("AUTODIM_CACHE", str(tmp_path))
    if (datasets.read_dat(base / "ml-1m" / "ratings.dat")["Timestamp"] > 0).all():
        pytest.skip("this copy knows all its times")
    with pytest.raises(DataError, match='drop_fields='):
        movielens_1m(data_dir=base).frame
