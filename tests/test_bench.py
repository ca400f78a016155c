"""The bench: memory against arithmetic, steps that do what they say, medians and percentiles by hand."""
import time

import numpy as np
import pandas as pd
import pytest
import torch

import autodim.study.bench as bench
from autodim.study.bench import (
    measured, peak_memory, random_data, ratio, search_steps, synthetic_log, take_turns, training_steps,
)  # fmt: skip
from autodim.method.search import SearchConfig, Searcher


@pytest.mark.slow
def test_training_grows_by_table_gradient_and_two_moments():
    """4 bytes x 10 columns x (weight, gradient, two moments of Adam) a row."""
    small, large = (peak_memory((rows, rows), 0, batch_size=100) for rows in (200_000, 500_000))
    assert (large - small) / (600_000 * 160) == pytest.approx(1, abs=0.1)


def test_a_large_parent_does_not_hide_what_its_child_needs():
    ballast = np.ones(60_000_000)  # 480 MB, resident
    assert peak_memory((100_000, 100_000), 0, batch_size=100) > 200_000 * 100
    assert ballast[-1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("variant, columns", [(1, 10), (4, 30)])
def test_a_search_grows_with_its_own_table_and_not_with_n_of_them(variant, columns):
    """Weight-sharing: one table of the widest candidate; separate: Σ d_n columns; no copies beside Adam's."""
    small, large = (peak_memory((rows, rows), variant, batch_size=100) for rows in (100_000, 300_000))
    assert (large - small) / (400_000 * 16 * columns) == pytest.approx(1, abs=0.15)


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


@pytest.mark.parametrize("method, alpha_steps", [("AutoDim", 1), ("SAM", 0)])
def test_a_search_contender_does_f_weight_steps_and_the_alpha_step(method, alpha_steps, monkeypatch):
    done = []
    for name in ("weight_step", "alpha_step"):
        real = getattr(Searcher, name)
        monkeypatch.setattr(Searcher, name, lambda s, *a, n=name, r=real: (done.append(n), r(s, *a))[1])
    search_steps(random_data((3, 4), 400), SearchConfig(method=method, dims=(2, 4), f=7, batch_size=40))()
    assert (done.count("weight_step"), done.count("alpha_step")) == (7, alpha_steps)


def test_training_steps_train(monkeypatch):
    losses, real = [], bench.loss_of
    monkeypatch.setattr(bench, "loss_of", lambda *a: (losses.append(real(*a)), losses[-1])[1])
    run = training_steps(random_data((3, 4), 40), (2, 2), batch_size=40, steps=40)
    run()
    assert len(losses) == 40 and torch.stack(losses[-5:]).mean() < torch.stack(losses[:5]).mean()


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
