"""The bench: medians and percentiles by hand, turns, logs, and memory of a process of its own."""
import time

import numpy as np
import pandas as pd
import pytest

import autodim.study.bench as bench
from autodim.study.bench import measured, ratio, synthetic_log, take_turns


def test_a_ratio_is_formed_within_rounds():
    rng = np.random.default_rng(0)
    ratios = rng.uniform(1, 2, 21)
    b = rng.uniform(0.1, 10, 21)
    found = ratio(pd.DataFrame({"a": ratios * b, "b": b}), "a", "b")
    ordered = np.sort(ratios)
    assert found == pytest.approx({"ratio": ordered[10], "low": ordered[2], "high": ordered[18]})


def test_turns_rotate_and_are_timed_one_by_one(monkeypatch):
    calls, clock = [], iter(range(1000))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    seconds = take_turns({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=4)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert (seconds == 1).all(axis=None) and list(seconds) == ["a", "b", "c"]


def test_a_synthetic_log_has_criteos_shape_and_something_to_learn(tmp_path):
    names = synthetic_log(tmp_path / "log.txt", 120_000, numbers=3, sizes=(7, 900, 50_000))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    assert names == ("label", "I1", "I2", "I3", "C1", "C2", "C3") and len(rows) == 120_000
    assert all(len(row) == 7 and row[0] in "01" for row in rows)
    frame = pd.DataFrame(rows, columns=names)
    assert [round((frame[c] == "").mean(), 2) for c in names[1:4]] == [0.0, 0.05, 0.1]
    assert [frame[c].nunique() for c in names[4:6]] == [7, 900] and 10_000 < frame.C3.nunique() <= 50_000
    assert frame.C3.str.fullmatch("[0-9a-f]{8}").all()
    rates = frame.assign(label=frame.label.astype(int)).groupby("C1").label.mean()
    assert rates.max() - rates.min() > 0.05
    synthetic_log(tmp_path / "shorter.txt", 100_000, numbers=3, sizes=(7, 900, 50_000))
    assert (tmp_path / "shorter.txt").read_text().splitlines() == lines[:100_000]  # a longer log begins with a shorter


def test_measured_is_of_a_process_of_its_own():
    ballast = np.ones(60_000_000)  # 480 MB, resident
    little, much = measured(time.sleep, 0.3), measured(np.ones, 40_000_000)
    assert 0.3 <= little["seconds"] and little["peak_mib"] < 700
    assert 290 < much["peak_mib"] - little["peak_mib"] < 400 and ballast[-1] == 1  # 305 MiB of float64
