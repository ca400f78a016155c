"""The store and the grid under kills, half-written rows and several processes; what a run's identity depends on."""
import copy
import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import joblib
import pandas as pd
import psutil
import pytest
import torch

import autodim.study.grid
from autodim.data.files import DataError
from autodim.method.choice import file_checkpoint
from autodim.training.checkpoint import FileCheckpoint
from autodim.method.retrain import TrainConfig
from autodim.method.search import SearchConfig, SearchResult
from autodim.study import runs as runs_module
from autodim.study.grid import Execution, begun_or_new, check_fingerprints, run_grid
from autodim.study.runs import GridSettings, Run, find_dims, make_grid, run_one, search_record, search_time_aucs
from autodim.study.store import Store
from autodim.training.runtime import Runtime

QUIET, SILENT = Execution(progress=False), Runtime(progress=False)
RESULTS = ["run_id", "method", "variant", "seed", "dims", "search", "val_auc", "val_logloss", "test_auc",
           "test_logloss", "space", "parameters", "best_epoch", "epochs", "fingerprint", "config"]


def tiny_grid() -> list[Run]:
    """Four runs of a fraction of a second on the planted data."""
    search = SearchConfig(dims=(2, 4), epochs=1, batch_size=8000, f=2)
    return make_grid("planted", ["MiD", "RaS", "AutoDim", "MaD"], [0], GridSettings(
        search, TrainConfig(epochs=2, batch_size=8000), variants=[1], draws=1, hidden=(4,)))


def fake_row(run_id: str, dims: dict | None = None, **more) -> dict[str, object]:
    """A row with a few of the columns."""
    return {"run_id": run_id, "test_auc": 0.75, "commit": "0123456789", "fingerprint": "12345e6789012345",
            "dims": json.dumps(dims or {"zip": 2}, ensure_ascii=False), "search": "", **more}


def stored(path, *run_ids: str, **more) -> Store:
    store = Store(path)
    for run_id in run_ids:
        store.append(fake_row(run_id, **more))
    return store


def wait_for(condition, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def in_processes(target, arguments) -> None:
    """Run a function in forked processes, one for each tuple of arguments, all at once."""
    processes = [get_context("fork").Process(target=target, args=a) for a in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * len(processes)


# ---------------------------------------------------------------- kills, and several processes

KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from autodim.study import grid
from test_study import QUIET, tiny_grid
real, done = grid.run_one, []
def run_one(*arguments):
    if len(done) == 2:
        open("third", "w").close()
        time.sleep(600)
    done.append(1)
    return real(*arguments)
grid.run_one = run_one
grid.run_grid(tiny_grid(), grid.Store("store.csv"), execution=QUIET)
"""


@pytest.mark.slow
def test_a_killed_study_resumes_and_ends_as_if_nothing_had_happened(tmp_path):
    runs, store = tiny_grid(), Store(tmp_path / "store.csv")
    child = subprocess.Popen([sys.executable, "-c", KILLED.format(tests=os.path.dirname(__file__))], cwd=tmp_path)
    try:
        wait_for(lambda: (tmp_path / "third").exists() or child.poll() is not None)
        assert child.poll() is None
        with store.claim(runs[2].run_id) as mine, store.claim(runs[0].run_id) as free:
            assert not mine and free  # the third run is the child's, the finished first nobody's
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert store.read().run_id.tolist() == [r.run_id for r in runs[:2]]
    with store.claim(runs[2].run_id) as mine:
        assert mine
    first = store.path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        resumed = run_grid(runs, store, execution=QUIET)
    assert store.path.read_bytes().startswith(first)  # finished rows stay as they are
    assert store.read().run_id.tolist() == [r.run_id for r in runs]
    torch.randn(5)  # whatever the caller drew in between
    whole = run_grid(runs[::-1], Store(tmp_path / "whole.csv"), execution=QUIET)[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(resumed[RESULTS], whole[RESULTS], check_exact=True)
    assert resumed.run_id.tolist() == [r.run_id for r in runs]


# ---------------------------------------------------------------- workers, and a cluster

@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> pd.DataFrame:
    """Rows of the tiny grid, one run after the other in this process."""
    return run_grid(tiny_grid(), Store(tmp_path_factory.mktemp("serial") / "s.csv"), execution=QUIET)


def test_threads_of_the_caller_do_not_change_a_row(tmp_path, serial):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rows = run_grid(tiny_grid()[:2], Store(tmp_path / "s.csv"), execution=QUIET)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(rows[RESULTS], serial[RESULTS][:2], check_exact=True)


def test_a_local_dask_cluster_gives_the_serial_rows(tmp_path, serial):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster), joblib.parallel_config(backend="dask"):
            rows = run_grid(tiny_grid(), Store(tmp_path / "s.csv"), execution=Execution(workers=2, progress=False, wait=0.2))
    pd.testing.assert_frame_equal(rows[RESULTS], serial[RESULTS], check_exact=True)


def longer(runs: list[Run]) -> list[Run]:
    """The same with several epochs, each of which leaves a state."""
    return [dataclasses.replace(r, train=TrainConfig(epochs=6, patience=6, batch_size=500)) for r in runs]


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes that carry out runs for it."""
    return [p for p in process.children() if "spawn_main" in " ".join(p.cmdline())]


def has_state(store: Store) -> bool:
    """Whether a run has ended an epoch."""
    return any(path.suffix != ".lock" for path in store.locks.glob("*"))


@pytest.mark.slow
def test_a_killed_worker_loses_no_run(tmp_path):
    runs, store, killed = longer(tiny_grid()), Store(tmp_path / "s.csv"), []

    def kill_one() -> None:
        wait_for(lambda: has_state(store))
        killed.extend(workers_of(psutil.Process())[:1])
        killed[0].kill()
    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    with pytest.warns(UserWarning, match=r"a worker process died \(exit code -9\)"):
        rows = run_grid(runs, store, execution=Execution(workers=2, progress=False, wait=0.2))
    thread.join(600)
    assert len(killed) == 1 and rows.run_id.tolist() == [r.run_id for r in runs]
    assert store.path.read_text().count("\n") == len(runs) + 1
    whole = run_grid(runs, Store(tmp_path / "serial.csv"), execution=QUIET)
    pd.testing.assert_frame_equal(rows[RESULTS], whole[RESULTS], check_exact=True)
    assert workers_of(psutil.Process()) == [] and not has_state(store)


def test_half_written_states_of_killed_workers_go_with_the_run(tmp_path):
    runs, store = tiny_grid()[:2], Store(tmp_path / "s.csv")
    store.locks.mkdir()
    for run in runs:
        for step in ("search", "train"):  # where a worker that is killed while it writes leaves them
            checkpoint = file_checkpoint(store.locks, f"{store.path.stem}-{run.run_id}-{step}")
            with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
                patch.setattr(Path, "unlink", lambda *_, **__: None)
                checkpoint.save({"epoch": 1})
    assert len(list(store.locks.glob(".*.part"))) == 4
    run_grid(runs, store, execution=QUIET)
    assert not has_state(store)


class Deadly(Run):
    """A run that kills the process that carries it out."""

    @property
    def network(self):
        if "spawn_main" not in " ".join(psutil.Process().cmdline()):
            return super().network
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_kills_its_process_raises_and_keeps_the_others(tmp_path):
    runs, store = tiny_grid(), Store(tmp_path / "s.csv")
    deadly = Deadly("planted", "Uniform", 0, dim=3, train=runs[0].train)
    with pytest.warns(UserWarning, match="a worker process died"), \
         pytest.raises(RuntimeError, match="1 of 3 runs have no row in .*s.csv.*Call again"):
        run_grid([*runs[:2], deadly], store, execution=Execution(workers=2, progress=False, wait=0.2))
    assert sorted(store.read().run_id) == sorted(r.run_id for r in runs[:2])
    with store.claim(deadly.run_id) as mine:
        assert mine


def test_what_a_worker_raises_is_raised(tmp_path):
    missing = [Run("movielens-1m", "Uniform", seed, dim=2) for seed in range(2)]
    with pytest.raises(DataError, match="movielens"):
        run_grid(missing, Store(tmp_path / "s.csv"),
                 execution=Execution(workers=2, progress=False, data_dir=tmp_path / "empty"))
    assert workers_of(psutil.Process()) == []


ENDED = """
import sys
sys.path.insert(0, {tests!r})
from autodim.study.grid import Execution, run_grid
from autodim.study.store import Store
from autodim.training.runtime import Runtime
from test_study import longer, tiny_grid
if __name__ == "__main__":
    run_grid(longer(tiny_grid()), Store("store.csv"), execution=Execution(workers=2, progress=False))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_began_them(how, tmp_path):
    script, store = tmp_path / "script.py", Store(tmp_path / "store.csv")
    script.write_text(ENDED.format(tests=os.path.dirname(__file__)))
    parent = subprocess.Popen([sys.executable, script], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: has_state(store) or parent.poll() is not None)
        assert parent.poll() is None
        workers = workers_of(psutil.Process(parent.pid))
    finally:
        parent.send_signal(how)
        parent.wait()
    assert len(workers) == 2
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers))
    rows = run_grid(longer(tiny_grid()), store, execution=QUIET)  # what they had claimed is free again
    assert len(rows) == 4


def fake_training(monkeypatch, seconds: float = 0.0) -> None:
    """Runs that do nothing but write their id and process to trained.txt in the current folder."""
    def run_one(run, data, runtime, begun):
        with open("trained.txt", "a") as file:
            file.write(f"{run.run_id} {os.getpid()}\n")
        time.sleep(seconds)
        return fake_row(run.run_id, dataset=run.dataset, seed=run.seed, config=run.config)
    monkeypatch.setattr("autodim.study.grid.load_once", lambda *a, **k: None)
    monkeypatch.setattr("autodim.study.grid.run_one", run_one)


def share_grid(path, runs) -> None:
    rows = run_grid(runs, Store(path), execution=Execution(progress=False, wait=0.05))
    assert rows.run_id.tolist() == [r.run_id for r in runs]


def test_two_processes_share_a_grid_and_each_run_is_done_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_training(monkeypatch, seconds=0.02)
    runs = [Run("planted", "Uniform", seed=0, dim=d) for d in range(1, 25)]
    in_processes(share_grid, [(tmp_path / "s.csv", runs), (tmp_path / "s.csv", runs[::-1]), (tmp_path / "s.csv", runs)])
    trained = [line.split() for line in (tmp_path / "trained.txt").read_text().splitlines()]
    assert Counter(run_id for run_id, _ in trained) == Counter(r.run_id for r in runs)
    assert len({process for _, process in trained}) == 3  # all took part
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert len(lines) == 25 and lines[0].startswith("run_id,") and sum(x.startswith("run_id,") for x in lines) == 1


def append_many(path, writer: int) -> None:
    for k in range(25):
        Store(path).append(fake_row(f"{writer}x{k}", {"f" * (40 * k): 2}))


def test_concurrent_appends_lose_nothing(tmp_path):
    in_processes(append_many, [(tmp_path / "s.csv", w) for w in range(4)])
    rows = Store(tmp_path / "s.csv").read().set_index("run_id")
    assert set(rows.index) == {f"{w}x{k}" for w in range(4) for k in range(25)}
    assert all(json.loads(rows.dims[f"{w}x{k}"]) == {"f" * (40 * k) or "zip": 2} or k == 0
               for w in range(4) for k in range(25))


# ---------------------------------------------------------------- the file

@pytest.mark.parametrize("name", ["zip", "Straße"])
def test_a_row_cut_anywhere_is_noticed_and_replaced(name, tmp_path):
    store = stored(tmp_path / "s.csv", "aaaaaaaaaaaa", "bbbbbbbbbbbb", dims={name: 2})
    whole = store.path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(whole)):
        store.path.write_bytes(whole[:cut])
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            assert store.read().run_id.tolist() == ["aaaaaaaaaaaa"]
        seen = [str(w.message) for w in seen if w.category is UserWarning]
        assert len(seen) == (cut > start) and all("s.csv line 3: half-written row" in text for text in seen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store.append(fake_row("bbbbbbbbbbbb", {name: 2}))
        assert store.path.read_bytes() == whole


def test_a_header_cut_anywhere_is_written_again(tmp_path):
    store = stored(tmp_path / "s.csv", "aaaaaaaaaaaa")
    whole = store.path.read_bytes()
    for cut in range(whole.index(b"\n") + 1):
        store.path.write_bytes(whole[:cut])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(store.read()) == 0
            store.append(fake_row("aaaaaaaaaaaa"))
        assert store.path.read_bytes() == whole


def test_a_store_with_windows_line_ends_loses_nothing(tmp_path):
    """As an editor or Git may leave it."""
    store = stored(tmp_path / "s.csv", "aaaaaaaaaaaa", "bbbbbbbbbbbb")
    store.path.write_bytes(store.path.read_bytes().replace(b"\n", b"\r\n"))
    store.append(fake_row("cccccccccccc"))
    rows = store.read()
    assert rows.run_id.tolist() == ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"]
    assert [json.loads(d) for d in rows.dims] == [{"zip": 2}] * 3


def test_a_store_without_searches_is_read_in_silence(tmp_path):
    store = stored(tmp_path / "s.csv", "aaaaaaaaaaaa")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.read().search.tolist() == [""]


@pytest.mark.parametrize("row", [
    fake_row("b" * 12, extra=1),
    {k: v for k, v in fake_row("b" * 12).items() if k != "search"},
    dict(reversed(fake_row("b" * 12).items())),
], ids=["one more", "one less", "another order"])
def test_other_columns_are_refused_and_the_file_stays(row, tmp_path):
    store = stored(tmp_path / "s.csv", "a" * 12)
    before = store.path.read_bytes()
    with pytest.raises(ValueError, match=r"s\.csv line 1: columns"):
        store.append(row)
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "run_id,a\n1,2\n3,4,5\n"])
def test_a_file_that_is_no_store_is_refused(text, tmp_path):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match="not a store of results"):
        Store(tmp_path / "s.csv").read()


def test_what_is_read_is_what_was_written(tmp_path):
    """Numbers to the last bit, ids and commits that look like numbers, JSON with commas, quotes and any script."""
    values = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    dims = {"a,\"b\"": 2, "c\nd": 4, "電影": 6}
    store = Store(tmp_path / "s.csv")
    for k, value in enumerate(values):
        store.append(fake_row(f"{k:012d}", dims, value=value))
    rows = store.read()
    assert rows.value.tolist() == values
    assert rows.run_id.tolist() == [f"{k:012d}" for k in range(200)]
    assert set(rows.fingerprint) == {"12345e6789012345"} and set(rows.commit) == {"0123456789"}
    assert set(rows.search) == {""}
    assert all(json.loads(d) == dims for d in rows.dims)


def test_committed_stores_are_read_and_never_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_training(monkeypatch)
    runs = [Run("planted", "Uniform", seed=0, dim=d) for d in range(1, 6)]
    committed = Store(tmp_path / "committed" / "s.csv")
    run_grid(runs[:3], committed, execution=QUIET)
    for folder in (committed.locks, committed.path.parent):
        for file in folder.glob("*.lock"):
            file.unlink()
    committed.locks.rmdir()
    before, stamp = committed.path.read_bytes(), committed.path.stat().st_mtime_ns
    (tmp_path / "trained.txt").unlink()
    own = Store(tmp_path / "own" / "s.csv")
    rows = run_grid(runs, own, committed=[committed], execution=QUIET)
    assert rows.run_id.tolist() == [r.run_id for r in runs]
    assert (committed.path.read_bytes(), committed.path.stat().st_mtime_ns) == (before, stamp)
    assert [f.name for f in committed.path.parent.iterdir()] == ["s.csv"]
    trained = [line.split()[0] for line in (tmp_path / "trained.txt").read_text().splitlines()]
    assert trained == own.read().run_id.tolist() == [r.run_id for r in runs[3:]]
    run_grid(runs[:3], Store(tmp_path / "none" / "s.csv"), committed=[committed], execution=QUIET)
    assert not (tmp_path / "none").exists()  # nothing was missing, so nothing is made


# ---------------------------------------------------------------- identity of runs

RUN = Run("planted", "AutoDim", 0, search=SearchConfig())


def changed(value: object) -> object:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 + 0.001
        case str():
            return {"AutoDim": "SAM"}.get(value, value + "-half")
        case tuple():
            return (*value, 999) if value and isinstance(value[0], int) else (*value, "zip")
    if value is None:
        return 3
    raise TypeError(value)


def altered(name: str, value: object) -> Run:
    """RUN with another value in one field, whether or not the two go together: only the identity is asked for."""
    run = copy.copy(RUN)
    object.__setattr__(run, name, value)
    return run


def variations() -> list[tuple[str, Run]]:
    """RUN with one field changed, of itself or of one of its configurations: all fields that there are."""
    found = [("no search", altered("search", None))]
    for f in dataclasses.fields(Run):
        value = getattr(RUN, f.name)
        if not dataclasses.is_dataclass(value):
            found.append((f.name, altered(f.name, changed(value))))
            continue
        for g in dataclasses.fields(value):
            inner = copy.copy(value)
            object.__setattr__(inner, g.name, changed(getattr(value, g.name)))
            found.append((f"{f.name}.{g.name}", altered(f.name, inner)))
    return found


def test_every_setting_is_part_of_the_run_id():
    ids = {RUN.run_id: "RUN"}
    for name, run in variations():
        assert run.run_id not in ids, f"{name} changes nothing, as {ids.get(run.run_id)}"
        ids[run.run_id] = name
    assert len(ids) > 25
    again = Run("planted", "AutoDim", 0, search=SearchConfig())
    assert again.run_id == RUN.run_id and RUN.run_id == hashlib.sha256(RUN.config.encode()).hexdigest()[:12]


def rebuilt(config: str) -> Run:
    """A run from its recorded configuration."""
    def tuples(settings: dict) -> dict:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    names = {f.metadata.get("recorded_as", f.name): f.name for f in dataclasses.fields(Run)}
    settings = {names[key]: value for key, value in tuples(json.loads(config)).items()}
    search = SearchConfig(**tuples(settings.pop("search"))) if settings["search"] else settings.pop("search")
    return Run(**settings | {"train": TrainConfig(**settings["train"])}, search=search)


OWN_SETTINGS = {"numerical", "retrieval", "tasks", "whole"}  # experiments whose rows are no `Run`, nor made of one


def test_recorded_rows_are_those_of_todays_configurations(root):
    """Each committed row's id is its configuration's, and today's Run gives the same: old results are found again."""
    assert rebuilt(RUN.config) == RUN
    for path in sorted((root / "results").glob("*.csv")):
        columns = path.read_text(encoding="utf-8").split("\n", 1)[0].split(",")
        if columns[0] != "run_id":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a study may be running
            rows = Store(path).read()
        for run_id, config in zip(rows.run_id, rows.config):
            assert hashlib.sha256(config.encode()).hexdigest()[:12] == run_id, f"{path.name}: {run_id}"
            if "method" in columns and path.stem not in OWN_SETTINGS:  # users' tables have no method
                own = json.loads(config)  # or what was made of the model of one
                run = json.dumps(own["run"], sort_keys=True, separators=(",", ":")) if "run" in own else config
                assert rebuilt(run).config == run, f"{path.name}: {run_id}"


@pytest.mark.parametrize("settings", [
    {"method": "AutoDim", "search": None},  # would train with dimension 1
    {"method": "SAM", "search": SearchConfig()},  # would be recorded as SAM, but searched by AutoDim
    {"method": "Uniform", "dim": 2, "search": SearchConfig()},  # would be recorded as Uniform, but searched
    {"method": "AutoDim", "dims": (2, 4), "search": SearchConfig()},  # Space relative to 4, dims up to 10
    {"method": "Uniform"},  # of no dimension
    {"method": "Uniform", "dim": 2, "draw": 3},  # would be another run than the same without a draw
    {"method": "RaS", "dim": 4},
    {"method": "Bias", "bfloat16": True},
], ids=["no search", "another method", "search of a uniform", "other dims", "uniform of none", "uniform of a draw",
        "draw of a dimension", "products of a bias"])
def test_contradictory_runs_are_refused(settings):
    with pytest.raises(ValueError):
        Run("planted", seed=0, **settings)


def test_a_grid_has_the_searches_that_its_rows_name():
    runs = make_grid("planted", ["Bias", "MiD", "MaD", "RaS", "SAM", "AutoDim"], [0, 1], GridSettings(draws=3))
    assert Counter(r.method for r in runs) == {"Bias": 2, "Uniform": 4, "RaS": 6, "SAM": 8, "AutoDim": 8}
    assert len({r.run_id for r in runs}) == len(runs)
    for run in runs:
        assert (run.search.method if run.search else None) == (run.method if run.method in ("SAM", "AutoDim") else None)
        assert run.search is None or run.search.dims == run.dims
    fields = type("Fields", (), {"fields": ("a", "b")})
    assert find_dims(runs[1], fields)[0] == {"a": 2, "b": 2} and find_dims(runs[2], fields)[0] == {"a": 10, "b": 10}


# ---------------------------------------------------------------- checks and records

def test_fingerprints_that_disagree_are_refused():
    base = pd.DataFrame([{"dataset": "d", "seed": seed, "fingerprint": f"f{seed}",
                          "config": Run("d", "Uniform", seed, dim=2, split=split, drop_fields=drop).config}
                         for seed in (0, 1) for split in ("random", "chronological") for drop in ((), ("zip",))])
    base["fingerprint"] = [f"{k:016x}" for k in range(8)]  # another split, other fields: other data
    twice = pd.concat([base, base])
    check_fingerprints(twice)
    for k in range(8):
        damaged = twice.reset_index(drop=True)
        damaged.loc[k, "fingerprint"] = "f" * 16
        with pytest.raises(ValueError, match=f"seed {damaged.seed[k]} come from different data"):
            check_fingerprints(damaged)


def test_a_grid_over_changed_data_raises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_training(monkeypatch)
    runs = [Run("planted", "Uniform", seed=0, dim=d) for d in (2, 4)]
    old = stored(tmp_path / "old.csv", runs[0].run_id, dataset="planted", seed=0, config=runs[0].config)
    old.path.write_text(old.path.read_text().replace("12345e6789012345", "ffffffffffffffff"))
    with pytest.raises(ValueError, match="fingerprints 12345e6789012345, ffffffffffffffff"):
        run_grid(runs, Store(tmp_path / "new.csv"), committed=[old], execution=QUIET)


def strict(text: str):
    """JSON as the standard has it: without NaN and Infinity."""
    def refuse(constant):
        raise ValueError(constant)
    return json.loads(text, parse_constant=refuse)


def a_search(steps: int, value: float = 0.5) -> SearchResult:
    alpha = torch.rand(steps, 3, 4, generator=torch.Generator().manual_seed(steps)).softmax(-1)
    history = {"step": 10 * torch.arange(steps), "tau": torch.linspace(2, 0.5, steps), "loss_train": torch.rand(steps),
               "loss_val": torch.full((steps,), value), "alpha": alpha}
    return SearchResult({}, alpha[-1], history, None)


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_a_row_says_with_which_instructions_and_threads_it_was_made(capability):
    """A processor's name tells neither; other vectors round sums differently. PyTorch is told which to take."""
    flags = set(open("/proc/cpuinfo").read().split()) if os.path.exists("/proc/cpuinfo") else set()
    if not {"avx2", "fma"} <= flags:
        pytest.skip("needs a processor with AVX2, to be told to do without")
    code = "from autodim.study import runs; print(runs.environment('cpu')['device'])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"})
    assert told.stdout.strip().endswith(f"({capability.upper()}), 1 of {os.cpu_count()} cores")


@pytest.mark.parametrize("points", [1, 7, 60])
@pytest.mark.parametrize("steps", [1, 2, 59, 60, 61, 119, 121, 4801])
def test_search_records_keep_the_last_step_and_at_most_so_many(steps, points):
    found = a_search(steps)
    record = strict(json.dumps(search_record(found, points)))
    path = record["path"]
    assert path["step"][-1] == 10 * (steps - 1) and len(path["step"]) <= points
    assert len(path["step"]) >= min(steps, points) / 2 and len(set(pd.Series(path["step"]).diff()[1:])) <= 1
    assert {len(v) for v in path.values()} == {len(path["step"])}
    for name in ("tau", "loss_train"):
        assert path[name] == pytest.approx([found.history[name][s // 10].item() for s in path["step"]], abs=1e-4)
    assert torch.tensor(record["alpha"]).sub(found.alpha).abs().max() < 1e-4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_search_records_have_null_where_there_is_no_number(value):
    assert strict(json.dumps(search_record(a_search(5, value))))["path"]["loss_val"] == [None] * 5


# ---------------------------------------------------------------- settings that came later

FIRST = {"dataset", "method", "seed", "dim", "draw", "dims", "search", "train", "split", "drop_fields", "hidden",
         "dropout"}
LATER = {"search_seed": None, "retrain_seed": None, "given": (), "probe": None, "bfloat16": False}


def small_run(method: str = "AutoDim", seed: int = 0, **settings) -> Run:
    """A run of a fraction of a second on small tables."""
    if method in ("AutoDim", "SAM"):
        settings["search"] = SearchConfig(method, dims=(2, 4, 6), epochs=2, batch_size=50, f=2, alpha_lr=0.1)
    train = TrainConfig(epochs=2, batch_size=50, lr=0.01)
    return Run("small", method, seed, dims=(2, 4, 6), train=train, **{"hidden": (4,), **settings})


def outcome(run: Run, data) -> dict:
    """The recorded row of a run but for its identity and its times, the search read from its JSON."""
    row = run_one(run, data, SILENT)
    kept = {k: row[k] for k in RESULTS if k not in ("run_id", "config")}
    return kept | {"search": json.loads(row["search"] or "{}")}


METRICS = ("val_auc", "val_logloss", "test_auc", "test_logloss")


def parts_of(row: dict) -> tuple:
    """What the search found, and what training came to."""
    return (row["dims"], row["search"].get("alpha")), tuple(row[k] for k in METRICS)


@pytest.mark.parametrize("method", ["Bias", "Uniform", "RaS", "SAM", "AutoDim"])
def test_runs_without_later_settings_are_the_old_runs(method):
    own = {"dim": 2} if method == "Uniform" else {}
    plain = small_run(method, **own)
    assert set(json.loads(plain.config)) == FIRST and not set(json.loads(plain.config)) & set(LATER)
    assert small_run(method, **own, **LATER).run_id == plain.run_id
    grid = make_grid("planted", ["MaD", "AutoDim"], [0], GridSettings(bfloat16=False))
    assert [r.run_id for r in grid] == [r.run_id for r in make_grid("planted", ["MaD", "AutoDim"], [0])]


@pytest.mark.parametrize("name, value", [("search_seed", 0), ("retrain_seed", 0), ("probe", 0), ("bfloat16", True)])
def test_a_later_setting_that_is_set_is_recorded_even_where_it_is_zero(name, value):
    run = small_run(**{name: value})
    assert json.loads(run.config) == json.loads(small_run().config) | {name: value}
    assert run.run_id != small_run().run_id and rebuilt(run.config) == run


def test_bfloat16_is_for_runs_with_an_mlp():
    runs = make_grid("planted", ["Bias", "MaD", "RaS", "SAM", "AutoDim"], [0], GridSettings(bfloat16=True))
    assert {(r.method == "Bias", r.bfloat16) for r in runs} == {(True, False), (False, True)}


@pytest.mark.parametrize("settings, text", [
    ({"method": "Given"}, "Given needs a dimension for each field"),
    ({"method": "Uniform", "dim": 2, "given": (2, 4)}, "the others choose theirs"),
    ({"method": "AutoDim", "given": (2, 4)}, "the others choose theirs"),
    ({"method": "RaS", "probe": 3}, "it does not search"),
    ({"method": "RaS", "probe": 0}, "it does not search"),
    ({"method": "Uniform", "dim": 2, "search_seed": 3}, "it does not search"),
], ids=["given nothing", "given to a uniform", "given to a search", "probe without search", "empty probe",
     "search seed without search"])
def test_later_settings_at_odds_with_the_method_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        small_run(**settings)


def test_given_dimensions_must_be_those_of_all_fields(make_data):
    with pytest.raises(ValueError, match="3 given dimensions for the 4 fields of small"):
        find_dims(small_run("Given", given=(2, 2, 4)), make_data())


@pytest.mark.parametrize("method", ["Bias", "Uniform", "RaS", "AutoDim", "SAM"])
def test_the_seed_of_retraining_moves_metrics_and_no_dimension(method, make_data):
    data, dim = make_data(), {"dim": 4} if method == "Uniform" else {}
    plain, other, same = (outcome(small_run(method, retrain_seed=s, **dim), data) for s in (None, 5, 0))
    (found, metrics), (found_5, metrics_5) = parts_of(plain), parts_of(other)
    assert found == found_5 and plain["space"] == other["space"] and plain["search"] == other["search"]
    assert metrics[1] != metrics_5[1] and metrics[3] != metrics_5[3]  # AUCs of few rows may be equal
    assert same == plain  # the run's own seed, said aloud


@pytest.mark.parametrize("method", ["AutoDim", "SAM"])
def test_the_seed_of_the_search_moves_alpha(method, make_data):
    """It is the seed of `search` itself; training depends on it through the dimensions alone."""
    data = make_data()
    plain, other, same = (outcome(small_run(method, search_seed=s), data) for s in (None, 5, 0))
    assert plain["search"]["alpha"] != other["search"]["alpha"] and same == plain
    crossed = outcome(small_run(method, seed=5, retrain_seed=0), data)
    assert parts_of(crossed) == parts_of(other) and crossed["search"] == other["search"]
    given = tuple(json.loads(other["dims"]).values())
    assert parts_of(outcome(small_run("Given", given=given), data))[1] == parts_of(other)[1]


def test_only_the_runs_own_seed_chooses_the_data(tmp_path):
    """Planted data, loaded as a grid loads it: five runs of which the last has another split."""
    (run,) = [r for r in tiny_grid() if r.method == "AutoDim"]
    several = [dataclasses.replace(run, **more) for more in (
        {}, {"search_seed": 1}, {"retrain_seed": 1}, {"search_seed": 1, "retrain_seed": 1}, {"seed": 1})]
    rows = run_grid(several, Store(tmp_path / "s.csv"), execution=QUIET)
    assert rows.fingerprint.nunique() == 2 and rows.fingerprint[:4].nunique() == 1
    assert rows.seed.tolist() == [0, 0, 0, 0, 1] and rows.test_logloss[0] != rows.test_logloss[2]
    alpha = [json.loads(text)["alpha"] for text in rows.search]
    assert alpha[0] == alpha[2] != alpha[1] == alpha[3]


@pytest.mark.parametrize("method, variant", [("AutoDim", 1), ("AutoDim", 4), ("SAM", 2)])
def test_given_the_found_dimensions_training_comes_to_the_same(method, variant, make_data):
    data, run = make_data(), small_run(method)
    run = dataclasses.replace(run, search=dataclasses.replace(run.search, variant=variant))
    found = outcome(run, data)
    given = tuple(json.loads(found["dims"]).values())
    again = outcome(small_run("Given", given=given), data)
    for name in ("dims", "space", "parameters", "best_epoch", "epochs", *METRICS):
        assert again[name] == found[name]
    changed_first = (4 if given[0] == 2 else 2, *given[1:])
    other = outcome(small_run("Given", given=changed_first), data)
    assert again["search"] == {} and json.loads(other["dims"]) == dict(zip(data.fields, changed_first))
    assert other["test_logloss"] != found["test_logloss"]


def test_bfloat16_moves_the_metrics_a_little(make_data):
    data = make_data(rows=(600, 200, 200))
    plain, short = (outcome(small_run("Uniform", dim=4, hidden=(16,), bfloat16=b), data) for b in (False, True))
    assert plain["dims"] == short["dims"] and all(plain[k] != short[k] for k in ("test_logloss", "val_logloss"))
    assert short["test_logloss"] == pytest.approx(plain["test_logloss"], abs=0.02)


@pytest.mark.parametrize("method", ["AutoDim", "SAM"])
@pytest.mark.parametrize("probe", [0, 3])
def test_a_probe_adds_search_time_aucs_and_changes_nothing_else(probe, method, make_data):
    data = make_data()
    plain, probed = outcome(small_run(method), data), outcome(small_run(method, probe=probe), data)
    aucs = probed["search"].pop("search_time_auc")
    assert probed == plain
    assert list(aucs) == ["mixture", "derived", "uniform", "random"]
    assert (len(aucs["uniform"]), len(aucs["random"])) == (3, probe)
    values = [aucs["mixture"], aucs["derived"], *aucs["uniform"], *aucs["random"]]
    assert all(0 < x < 1 and x == round(x, 6) for x in values) and len(set(values)) > 3


def test_a_probe_ranks_the_derived_the_uniform_and_the_random_choices_on_validation(make_data, monkeypatch):
    """The random ones are the draws of RaS of the same seed, which are trained elsewhere."""
    data, run, asked = make_data(), small_run(seed=3, probe=4), []

    def noted(model, part, dims=None):
        asked.append(dims)
        assert part is data.val
        return len(asked) / 16
    monkeypatch.setattr("autodim.study.runs.supernet_auc", noted)
    dims, found = find_dims(run, data, SILENT)
    aucs = search_time_aucs(run, data, found)
    by_auc = {(k + 1) / 16: dims if dims is None else list(dims) for k, dims in enumerate(asked)}
    draws = [list(find_dims(small_run("RaS", seed=3, draw=k), data)[0].values()) for k in range(4)]
    assert by_auc[aucs["mixture"]] is None and by_auc[aucs["derived"]] == list(dims.values())
    assert [by_auc[x] for x in aucs["uniform"]] == [[2] * 4, [4] * 4, [6] * 4]
    assert [by_auc[x] for x in aucs["random"]] == draws and len(asked) == 9


# ---------------------------------------------------------------- seeds that have begun, and those that have not

def many_runs() -> list[Run]:
    return [Run(dataset, "Uniform", seed, dim=d) for dataset in ("a", "b") for seed in range(3) for d in range(1, 4)]


@pytest.mark.parametrize("seed", range(20))
def test_begun_or_new_by_loops(seed):
    rng, runs = random.Random(seed), many_runs()
    rng.shuffle(runs)
    ids = [r.run_id for r in runs] + ["another"]
    committed = rng.sample(ids, rng.randint(0, 5))
    recorded = set(committed) | set(rng.sample(ids, rng.randint(0, 5)))
    expected = []
    for run in runs:
        begun = False
        for other in runs:
            if other.run_id in committed and other.dataset == run.dataset and other.seed == run.seed:
                begun = True
        if not begun or run.run_id in recorded:
            expected.append(run)
    found = begun_or_new(runs, committed, recorded)
    assert found == expected  # in their order
    assert begun_or_new(found, committed, recorded) == found
    assert {r.run_id for r in runs} & recorded <= {r.run_id for r in found}
    for run in runs:  # one more recorded run is one more run at most
        more = begun_or_new(runs, committed, recorded | {run.run_id})
        assert set(more) == set(found) | {run}


def test_begun_or_new_at_its_ends():
    runs, ids = many_runs(), [r.run_id for r in many_runs()]
    assert begun_or_new(runs, [], []) == begun_or_new(runs, [], ids) == begun_or_new(runs, ids, ids) == runs
    assert begun_or_new(runs, ids, []) == begun_or_new([], ids, ids) == []
    assert begun_or_new(runs, ids[:1], ids[:1]) == runs[:1] + runs[3:]
    assert begun_or_new(runs, [], ids[:1]) == runs  # recorded, but not committed: the seed goes on


def trained_ids(path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("complete", [False, True])
def test_an_incomplete_grid_trains_new_seeds_and_resumes_its_own(complete, tmp_path, monkeypatch):
    """Seed 0 is half committed, seed 1 half done in the own store, seed 2 is new."""
    monkeypatch.chdir(tmp_path)
    fake_training(monkeypatch)
    runs = [Run("planted", "Uniform", seed, dim=d) for d in range(1, 5) for seed in range(3)]  # seeds in turn
    by_seed = [[r for r in runs if r.seed == s] for s in range(3)]
    committed, own = Store(tmp_path / "committed.csv"), Store(tmp_path / "own.csv")
    run_grid(by_seed[0][1:3], committed, execution=QUIET)
    run_grid([by_seed[0][3], *by_seed[1][:2]], own, execution=QUIET)
    (tmp_path / "trained.txt").unlink()
    before = committed.path.read_bytes()
    rows = run_grid(runs, own, committed=[committed], execution=QUIET, complete=complete)
    missing = {r for r in runs if r not in (*by_seed[0][1:], *by_seed[1][:2])}
    expected = missing if complete else missing - set(by_seed[0])
    assert sorted(trained_ids(tmp_path / "trained.txt")) == sorted(r.run_id for r in expected)
    there = [r for r in runs if complete or r != by_seed[0][0]]
    assert rows.run_id.tolist() == [r.run_id for r in there] and len(rows) == (12 if complete else 11)
    assert committed.path.read_bytes() == before
    (tmp_path / "trained.txt").unlink()
    again = run_grid(runs, own, committed=[committed], execution=QUIET, complete=complete)
    assert again.run_id.tolist() == rows.run_id.tolist() and trained_ids(tmp_path / "trained.txt") == []


def test_an_incomplete_grid_of_begun_seeds_trains_nothing_and_makes_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_training(monkeypatch)
    runs = [Run("planted", "Uniform", seed, dim=d) for seed in range(2) for d in range(1, 5)]
    stores = [Store(tmp_path / name) for name in ("a.csv", "b.csv")]
    for store, run in zip(stores, (runs[1], runs[6])):
        run_grid([run], store, execution=QUIET)
    (tmp_path / "trained.txt").unlink()
    rows = run_grid(runs, Store(tmp_path / "none" / "s.csv"), stores, execution=QUIET, complete=False)
    assert rows.run_id.tolist() == [runs[1].run_id, runs[6].run_id]
    assert trained_ids(tmp_path / "trained.txt") == [] and not (tmp_path / "none").exists()


def test_an_incomplete_grid_interrupted_in_a_new_seed_ends_it_the_next_time(tmp_path, monkeypatch):
    """The own rows of a seed are not taken for committed ones, whichever run was the last."""
    monkeypatch.chdir(tmp_path)
    fake_training(monkeypatch)
    real, runs = autodim.study.grid.run_one, [Run("planted", "Uniform", 7, dim=d) for d in range(1, 5)]
    own = Store(tmp_path / "own.csv")

    def interrupted(run, *arguments):
        if run == runs[2]:
            raise KeyboardInterrupt
        return real(run, *arguments)
    monkeypatch.setattr("autodim.study.grid.run_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_grid(runs, own, execution=QUIET, complete=False)
    assert own.read().run_id.tolist() == [r.run_id for r in runs[:2]]
    monkeypatch.setattr("autodim.study.grid.run_one", real)
    assert run_grid(runs, own, execution=QUIET, complete=False).run_id.tolist() == [r.run_id for r in runs]
    assert trained_ids(tmp_path / "trained.txt") == [r.run_id for r in runs]


# ---------------------------------------------------------------- a run that is interrupted in the middle

class Stop(BaseException):
    """What ends a run from outside."""


def interrupted_after(saves: int, monkeypatch, seconds: float = 0.0) -> list[str]:
    """From now on, the so-many-th state that is kept is the last that happens. Returns the names, growing."""
    real, names = FileCheckpoint.save, []

    def save(self, state):
        time.sleep(seconds)
        real(self, state)
        names.append(self.path.stem.split("-")[-1])
        if len(names) == saves:
            raise Stop
    monkeypatch.setattr(FileCheckpoint, "save", save)
    return names


MIDDLES = [small_run("Uniform", dim=6), small_run("AutoDim", probe=2), small_run("SAM", backbone="FNN"),
           small_run("AutoDim", search_seed=3, retrain_seed=4), small_run("Uniform", dim=4, backbone="DeepFM")]


@pytest.mark.parametrize("run,after", [(run, k) for run in MIDDLES for k in range(1, 5 if run.search else 3)])
def test_a_run_interrupted_after_any_epoch_goes_on_to_the_same_row(run, after, make_data, tmp_path, monkeypatch):
    total = 4 if run.search else 2  # epochs of the search and of the training, none of which ends early
    monkeypatch.setattr("autodim.study.grid.load_once", lambda *a, **k: make_data())
    whole = run_grid([run], Store(tmp_path / "whole.csv"), execution=QUIET)
    store = Store(tmp_path / "cut.csv")
    with monkeypatch.context() as cut, pytest.raises(Stop):
        before = interrupted_after(after, cut, seconds=0.2)
        run_grid([run], store, execution=QUIET)
    assert len(before) == after and not store.path.exists()
    with monkeypatch.context() as counted:
        since = interrupted_after(-1, counted)
        rows = run_grid([run], store, execution=QUIET)
    assert before + since == ["search"] * (total - 2) + ["train"] * 2  # no epoch twice, none left out
    pd.testing.assert_frame_equal(rows[RESULTS], whole[RESULTS], check_exact=True)
    for step in ("search", "train"):
        assert rows[f"seconds_{step}"][0] >= 0.2 * (before.count(step) - 1)  # all but the writing of the last state
    assert [path.name for path in store.locks.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("change", ["code", "device", "data", "damage"])
def test_a_state_of_other_code_device_or_data_is_not_gone_on_from(change, make_data, tmp_path, monkeypatch):
    run, store = small_run("Uniform", dim=6), Store(tmp_path / "s.csv")
    monkeypatch.setattr("autodim.study.grid.load_once", lambda *a, **k: make_data())
    with monkeypatch.context() as cut, pytest.raises(Stop):
        interrupted_after(1, cut)
        run_grid([run], store, execution=QUIET)
    (left,) = store.locks.glob("*.state")
    if change == "code":
        monkeypatch.setattr("autodim.study.runs.code_key", lambda: "of other modules")
    elif change == "device":
        monkeypatch.setattr("autodim.study.runs.processor", lambda: "another one")
    elif change == "data":
        other = dataclasses.replace(make_data(), fingerprint="1" * 16)
        monkeypatch.setattr("autodim.study.grid.load_once", lambda *a, **k: other)
    else:
        left.write_bytes(left.read_bytes()[:50])
    with monkeypatch.context() as counted, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        since = interrupted_after(-1, counted)
        run_grid([run], store, execution=QUIET)
    assert since == ["train"] * 2
    assert any("damaged" in str(w.message) for w in seen) == (change == "damage")


def test_any_change_to_a_module_changes_the_key_of_the_code(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(runs_module.inspect, "getfile", lambda thing: str(tmp_path / "data" / "data.py"))
    keys = []
    for change in ("x = 1\n", "x = 2\n"):
        (tmp_path / "a.py").write_text(change)
        keys.append(runs_module.code_key.__wrapped__())
    (tmp_path / "b.py").write_text("")
    assert len({*keys, runs_module.code_key.__wrapped__()}) == 3


def test_without_a_store_a_run_keeps_nothing(make_data, monkeypatch):
    names = interrupted_after(1, monkeypatch)
    run_one(small_run("AutoDim"), make_data(), SILENT)
    assert names == []
