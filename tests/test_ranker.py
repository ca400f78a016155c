"""The ranker as a user has it: tables, settings, report, folders; figures by oracles that rank with loops."""
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import stats
from sklearn.base import clone

from autodim import AutoDimRanker, load
from autodim.app.ranking import RankerSettings, packed_towers, ranker_search, read_interactions, uniform_rivals
from autodim.app.storage import load_trained
from autodim.data.files import DataError
from autodim.method.retrieval import planted_interactions
from autodim.method.search import SearchConfig
from autodim.method.two_towers import TowerConfig, fit_towers, search_towers, tower_scores
from autodim.training.runtime import Runtime

SMALL = AutoDimRanker(users=["user", "club"], items=["item", "shelf"], time="day", dims=(2, 6), width=6, batch_size=64,
                      epochs=4, search_epochs=2, max_space=0.4, tau=0.2)


@pytest.fixture(scope="module")
def log():
    made = planted_interactions(n_users=120, n_items=60, each=12)
    who = np.arange(120)
    pairs = np.concatenate([made.train, np.stack([who, made.val], 1), np.stack([who, made.test], 1)])
    frame = pd.DataFrame({"user": [f"u{u}" for u in pairs[:, 0]], "club": made.users[pairs[:, 0], 1],
                          "item": pairs[:, 1] + 500, "shelf": made.items[pairs[:, 1], 1], "day": np.arange(len(pairs)),
                          "unused": 1})
    return frame.sample(frac=1, random_state=1).reset_index(drop=True)


@pytest.fixture(scope="module")
def ranker(log):
    return clone(SMALL).fit(log)


def last_items(log):
    ordered = log.sort_values("day")
    return ordered.groupby("user").item.agg(lambda items: items.iloc[-1]), ordered


def gains_of(scores, data, log):
    """NDCG@10 of each user's last item, and whether it is among the ten, by loops over users and items."""
    (last, ordered), gains, hits = last_items(log), [], []
    for row, user in enumerate(data.user_names):
        had = set(ordered[ordered.user == user].item) - {last[user]}
        wanted = scores[row][list(data.item_names).index(last[user])]
        place = 1 + sum(scores[row][k] >= wanted for k, item in enumerate(data.item_names)
                        if item not in had and item != last[user])
        gains.append(1 / np.log2(1 + place) if place <= 10 else 0)
        hits.append(place <= 10)
    return gains, hits


def test_ndcg_and_recall_are_those_of_a_loop_over_users(ranker, log):
    data, own = ranker.towers_.data, ranker.record_["outcomes"][0]
    gains, hits = gains_of(tower_scores(ranker.towers_.model, data)(np.arange(len(data.users))), data, log)
    assert own["ndcg"] == pytest.approx(np.mean(gains)) and own["recall"] == pytest.approx(np.mean(hits))
    assert own["ndcg_half"] == pytest.approx(stats.sem(gains) * stats.t.ppf(0.975, len(gains) - 1))


def test_differences_are_paired_over_users_and_words_follow_their_interval(ranker):
    words = {d["rival"]: d for d in ranker.record_["differences"]}
    assert {"AutoDim", "popularity", "item-kNN", "EASE"} < set(words)
    own = {o["name"]: o for o in ranker.record_["outcomes"]}
    for name, d in words.items():
        assert d["of"] == ("AutoDim" if name.startswith("uniform") else "AutoDim, packed")
        assert d["mean"] == pytest.approx(own[d["of"]]["ndcg"] - own[name]["ndcg"])
        assert d["words"] == ("better" if d["low"] > 0 else "worse" if d["high"] < 0 else "not told apart")


def test_the_interval_of_a_difference_is_scipys_of_pairs(ranker, log):
    data = ranker.towers_.data
    places, ordered = {item: k for k, item in enumerate(data.item_names)}, log.sort_values("day")
    back = ordered.groupby("user").cumcount(ascending=False)  # popularity counts all but the last two of each user
    counts = np.bincount(ordered.item[back > 1].map(places), minlength=60)
    ours = gains_of(tower_scores(ranker.towers_.model, data)(np.arange(120)), data, log)[0]
    want = stats.ttest_rel(ours, gains_of(np.tile(counts, (120, 1)), data, log)[0]).confidence_interval()
    d = next(d for d in ranker.record_["differences"] if d["rival"] == "popularity")
    assert (d["low"], d["high"]) == pytest.approx((want.low, want.high))


def test_a_table_of_many_fields_has_states_with_names_that_a_disk_takes(log, tmp_path):
    wide = pd.concat([log, *(log.club.rename(f"f{k}") for k in range(120))], axis=1)
    own = clone(SMALL).set_params(users=["user", *(f"f{k}" for k in range(120))], folder=tmp_path, rivals=False,
                                  max_space=None, epochs=1, search_epochs=1).fit(wide)
    assert "and 115 smaller ones." in str(own.report())
    assert len(own.dims_) == 123 and len(list(tmp_path.glob("ranker-*.state"))) == 2


def test_rivals_that_would_need_a_matrix_of_all_items_are_left_out_and_named(log, monkeypatch):
    monkeypatch.setattr("autodim.app.ranking.MOST_ITEMS", 59)
    own = clone(SMALL).set_params(epochs=1, search_epochs=1, max_space=None).fit(log)
    names = {d["rival"] for d in own.record_["differences"]}
    assert "popularity" in names and not names & {"EASE", "item-kNN"}
    assert "Neighbours and EASE were left out, as there are more than 59 items" in str(own.report())


def test_packed_tables_keep_to_the_budget_and_are_what_the_folder_has(ranker, tmp_path):
    r = ranker.record_
    assert r["outcomes"][0]["bytes"] == sum(m.nbytes() for m in ranker.towers_.packed.values()) <= 0.4 * r["widest_bytes"]
    ranker.save(tmp_path)
    stored = (tmp_path / json.loads((tmp_path / "model.json").read_text())["weights"]).stat().st_size
    assert stored < 60_000  # no float32 table beside the packed ones
    again = load(tmp_path)
    pd.testing.assert_frame_equal(again.recommend(k=3), ranker.recommend(k=3))
    assert again.get_params() == clone(again).get_params() and str(again.report()) == str(ranker.report())
    with pytest.raises(DataError, match="towers that rank items.*autodim.load"):
        load_trained(tmp_path)


def test_what_somebody_has_had_is_not_recommended(ranker, log):
    had = log.groupby("user").item.agg(set)
    best = ranker.recommend(["u7", "u3"], k=48)
    assert list(best.user.unique()) == ["u7", "u3"] and best.groupby("user").score.apply(
        lambda s: s.is_monotonic_decreasing).all()
    assert all(not had[user] & set(own.item) and len(own) == 60 - len(had[user]) for user, own in best.groupby("user"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "polars"])
def test_a_file_or_another_frame_is_read_as_the_frame_is(log, tmp_path, kind):
    names = RankerSettings(users=["user", "club"], items=["item", "shelf"], time="day")
    want = read_interactions(log, names)
    if kind == "csv":
        log.to_csv(table := tmp_path / "log.csv", index=False)
    elif kind == "parquet":
        log.to_parquet(table := tmp_path / "log.parquet")
    else:
        table = pl.from_pandas(log)
    found = read_interactions(table, names)
    assert found.fingerprint == want.fingerprint
    assert list(found.user_names) == list(want.user_names) and list(found.item_names) == list(want.item_names)


def test_dates_order_rows_as_numbers_do_and_without_times_rows_do(log):
    names = RankerSettings(users=["user"], items=["item"], time="day")
    want = read_interactions(log, names)
    dates = read_interactions(log.assign(day=pd.Timestamp("2020-01-01") + pd.to_timedelta(log.day, unit="D")), names)
    rows = read_interactions(log.sort_values("day").reset_index(drop=True), replace(names, time=None))
    assert dates.fingerprint == want.fingerprint
    assert rows.test.tolist() == want.test.tolist() and {*map(tuple, rows.train)} == {*map(tuple, want.train)}


BAD = [
    ({}, lambda t: t.drop(columns="club"), "'club' is not in the table"),
    ({}, lambda t: t.assign(user=t.user.where(t.index != 5)), "row 5: 'user' is missing .* so the user is unknown"),
    ({}, lambda t: t.assign(item=t.item.where(t.index != 7)), "row 7: 'item' is missing .* so the item is unknown"),
    ({}, lambda t: t.assign(day=t.day.where(t.index != 9)), "row 9: time 'day': missing"),
    ({}, lambda t: t.assign(day="later"), "expected dates or numbers"),
    ({}, lambda t: t.groupby("user").head(2), "no 'user' has three interactions"),
    ({}, lambda t: t.iloc[:0], "the table has no rows"),
    ({}, lambda t: t.assign(shelf=t.index), "'shelf' has two values for item"),
    ({}, lambda t: t.assign(club=[*range(1, len(t)), "x"]), "'club' has values of several kinds"),
    ({}, lambda t: t[t.user == "u3"], "one 'user' alone has three 'item's or more"),
    ({}, lambda t: t.assign(item=pd.Timestamp("2020-01-01") + pd.to_timedelta(t.item, unit="D")), "'item' holds dates"),
    ({}, lambda t: t.to_numpy(), "expected a path or a frame"),
    ({"users": []}, None, r"users=\[\]: expected a list of different columns"),
    ({"users": "user"}, None, "users='user': expected a list"),
    ({"items": ["item", "club"]}, None, "'club' is named twice"),
    ({"dims": (4, 2)}, None, "dims=.*expected increasing"),
    ({"max_loss": 1.0}, None, "max_space=0.4, max_loss=1.0: give one of these limits"),
    ({"batch_size": 1}, None, "batch_size=1: expected a whole number from 2"),
    ({"max_space": None, "max_bytes": 10}, None, "10"),
]


@pytest.mark.parametrize("changed, table, message", BAD)
def test_what_cannot_be_used_is_named(log, changed, table, message):
    with pytest.raises(ValueError, match=message):
        clone(SMALL).set_params(epochs=1, search_epochs=1, rivals=False).set_params(**changed).fit(
            log if table is None else table(log))


def test_towers_stay_when_their_tables_cannot_be_packed_as_asked_for(log):
    own = clone(SMALL).set_params(epochs=1, search_epochs=1, rivals=False, max_space=None, max_bytes=10)
    with pytest.raises(ValueError):
        own.fit(log)
    assert len(own.recommend(["u1"], k=3)) == 3 and "No rival was fitted" in str(own.report())


def test_a_tolerance_is_kept_on_validation_items(log):
    s = RankerSettings(users=["user"], items=["item"], time="day", dims=(4,), width=6, epochs=3, max_loss=6.0)
    data = read_interactions(log, s)
    towers = fit_towers(data, [6, 6], TowerConfig(width=6, batch_size=64, epochs=3), Runtime(progress=False))
    found = packed_towers(data, towers.model, s, 0)
    tight = packed_towers(data, towers.model, replace(s, max_loss=None, max_bytes=int(found.bytes * 0.6)), 0)
    assert found.interval()[1] <= 6.0 and found.bytes < found.full_bytes / 2 and tight.bytes < found.bytes
    assert found.loss == pytest.approx(100 * (found.before.ndcg - found.after.ndcg))


def test_few_users_give_no_interval_no_verdict_and_no_promise(log):
    few = log[log.user.isin([f"u{k}" for k in range(49)])]
    own = clone(SMALL).set_params(epochs=1, search_epochs=1).fit(few)
    assert {d["words"] for d in own.record_["differences"]} == {"not told apart"}
    assert {d["low"] for d in own.record_["differences"]} == {o["ndcg_half"] for o in own.record_["outcomes"]} == {None}
    assert str(own.report()).startswith("Nothing here is sure: 49 users") and "unknown" not in own.report().html()
    with pytest.raises(ValueError, match="the validation rows are too few"):
        clone(own).set_params(max_space=None, max_loss=50.0, rivals=False).fit(few)
    clone(own).set_params(max_space=None, max_loss=50.0, sure=False, rivals=False).fit(few)


def test_uniform_rivals_take_no_more_bytes_than_the_choice():
    data = planted_interactions(n_users=50, n_items=30, each=6)
    s, rows = RankerSettings(dims=(2, 16)), sum(data.cardinalities)
    named = uniform_rivals(data, [2, 16, 16, 2], s)
    equal, widest = named.values()
    size = sum(d * v for d, v in zip([2, 16, 16, 2], data.cardinalities))
    assert equal * rows <= size < (equal + 1) * rows and widest == 16
    assert uniform_rivals(data, [16] * 4, s) == {}


def test_settings_that_are_not_given_follow_from_the_number_of_pairs():
    few, many = (ranker_search(RankerSettings(), n) for n in (1_000, 10_000_000))
    assert few.f == 1 and many.f == SearchConfig.f and few.alpha_lr > many.alpha_lr
    assert ranker_search(RankerSettings(f=3, alpha_lr=0.5), 1_000).f == 3


class Interrupted:
    """A checkpoint in memory, and a hand that stops the training after so many epochs."""

    def __init__(self, after: int) -> None:
        self.state, self.left = None, after

    def load(self):
        return self.state

    def save(self, state):
        self.state, self.left = state, self.left - 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 2])
def test_interrupted_steps_go_on_to_the_same_end(after):
    data, config = planted_interactions(n_users=60, n_items=40, each=8), TowerConfig(width=4, batch_size=32, epochs=4)
    search = SearchConfig(dims=(2, 4), f=2, epochs=4, lr=0.01, alpha_lr=0.05)

    def both(runtime):
        for step in (lambda r: search_towers(data, search, config, r)[1],
                     lambda r: fit_towers(data, [3] * 4, config, r).model.state_dict()):
            yield step, runtime()

    for step, runtime in both(lambda: Runtime(5, progress=False)):
        whole, kept = step(runtime), Interrupted(after)
        with pytest.raises(KeyboardInterrupt):
            step(replace(runtime, checkpoint=kept))
        assert kept.state is not None
        again = step(replace(runtime, checkpoint=kept))
        pairs = [(whole, again)] if torch.is_tensor(whole) else [(whole[name], again[name]) for name in whole]
        assert all(torch.equal(one, two) for one, two in pairs)


def test_a_folder_resumes_a_fit_and_settings_do_not_share_a_state(log, tmp_path):
    own = clone(SMALL).set_params(folder=tmp_path, rivals=False, max_space=None)
    first, again = clone(own).fit(log), clone(own).fit(log)
    pd.testing.assert_frame_equal(first.recommend(k=2), again.recommend(k=2))
    other = clone(own).set_params(lr=0.02).fit(log)
    alone = clone(own).set_params(lr=0.02, folder=None).fit(log)
    pd.testing.assert_frame_equal(other.recommend(k=2), alone.recommend(k=2))


def test_the_page_loads_nothing_escapes_names_and_says_what_beats_it(ranker, tmp_path):
    text = ranker.report().html()
    assert "<script" not in text and "http" not in text.replace("http-equiv", "") and "data:image" in text
    worse = [d["rival"] for d in ranker.record_["differences"] if d["words"] == "worse" and d["rival"] in ("EASE", "item-kNN")]
    assert not worse or f"{worse[-1]} ranks better" in text or f"{worse[0]} ranks better" in text
    record = json.loads(json.dumps(ranker.record_))
    record["fields"][0]["name"], record["ranking"]["table"] = "<b>user</b>", "<i>log</i>"
    report = type(ranker.report())(record)
    assert "<b>user" not in report.html() and "<i>log" not in report.html()
    assert report.save(tmp_path / "page.html").read_text() == report.html()
    del record["outcomes"]
    with pytest.raises(DataError, match="record"):
        report.html()


def test_damaged_folders_are_named(ranker, tmp_path):
    ranker.save(tmp_path)
    file = tmp_path / json.loads((tmp_path / "model.json").read_text())["weights"]
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="cut short or changed"):
        load(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path)
