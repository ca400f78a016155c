"""Retrieval: who is left out, ranks, baselines, by oracles of their own."""
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import ndcg_score

from autodim.method.retrieval import (
    interactions, leave_last_out, ndcg_at, planted_interactions, ranks, recall_at, recommend)
from autodim.method.retrieval_baselines import BASELINES, ease, ials, item_knn, popularity, tuned


@pytest.fixture(scope="module")
def data():
    return planted_interactions(n_users=60, n_items=40, each=9)


def test_last_and_second_last_are_those_of_pandas():
    rng = np.random.default_rng(0)
    user, item, time = rng.integers(0, 30, 500), rng.integers(0, 50, 500), rng.permutation(500)
    frame = pd.DataFrame({"user": user, "item": item, "time": time})
    once = frame.sort_values("time").drop_duplicates(["user", "item"], keep="last")
    data = interactions(frame, ["user"], ["item"], time)
    for number, (_, own) in enumerate(once.groupby("user")):
        assert [data.val[number], data.test[number]] == own.item.tolist()[-2:]
    assert len(data.train) == len(once) - 2 * 30 and data.ties == 0


def test_ties_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(1)
    user, item = np.repeat(np.arange(9), 6), np.tile(np.arange(6), 9)
    time, order = np.zeros(54), rng.permutation(54)
    place, _, ties = leave_last_out(user, item, time)
    assert ties == 1
    assert (leave_last_out(user[order], item[order], time[order])[0] == place[order]).all()
    assert len(set(item[place == 0])) == 1 and item[place == 0][0] == np.random.default_rng(0).permutation(6).argmax()


def test_ndcg_is_that_of_scikit_learn(data):
    scores = np.random.default_rng(2).normal(size=(60, 40))
    users, rank = ranks(lambda u: scores[u], data, "test")
    seen = data.matrix().toarray() > 0
    seen[np.arange(60), data.val] = True
    for u, r in zip(users, rank):
        truth = (np.arange(40) == data.test[u])[~seen[u]]
        assert_allclose(ndcg_at(np.array([r]), 10)[0], ndcg_score([truth], [scores[u][~seen[u]]], k=10))
    assert (recall_at(rank, 40 - 8) == 1).all()


def test_a_user_without_three_interactions_is_all_training():
    frame = pd.DataFrame({"u": [0, 0, 1, 1, 1], "i": [0, 1, 0, 1, 2]})
    data = interactions(frame, ["u"], ["i"], np.arange(5))
    assert data.val.tolist() == [-1, 1] and len(data.train) == 3
    assert ranks(lambda u: np.ones((len(u), 3)), data)[0].tolist() == [1]


@pytest.mark.parametrize("change, says", [
    (lambda f: f.drop(columns="i"), "'i' is missing"),
    (lambda f: f.assign(i=[np.nan] * 5), "without gaps"),
    (lambda f: f.assign(u=range(5)), "three interactions"),
])
def test_bad_tables_are_named(change, says):
    frame = pd.DataFrame({"u": [0, 0, 1, 1, 1], "i": [0, 1, 0, 1, 2]})
    with pytest.raises(ValueError, match=says):
        interactions(change(frame), ["u"], ["i"], np.arange(5))


def test_ease_meets_the_first_order_conditions(data):
    x, lam = data.matrix(), 3.0
    dense = x.toarray().astype(float)
    b = ease(x, lam).score  # scores of unit histories are not to be had: each column by its own ridge regression
    for j in range(0, 40, 7):
        others = np.arange(40) != j
        a = dense[:, others]
        column = np.linalg.solve(a.T @ a + lam * np.eye(39), a.T @ dense[:, j])
        assert_allclose(b(np.arange(60))[:, j], a @ column, atol=1e-4)


def test_ials_does_not_raise_its_loss(data):
    x = data.matrix()
    dense, a, lam = x.toarray().astype(float), 0.1, 0.02

    def loss(sweeps):
        fitted = ials(x, 4, lam, a, sweeps)
        s = fitted.score(np.arange(60))
        return ((dense * (s - 1) ** 2).sum() + a * (s**2).sum())

    assert loss(10) < loss(1)


def test_baselines_rank_above_popularity_and_tuning_reads_validation_alone(data):
    class Unread(type(data)):
        test = property(lambda self: pytest.fail("tuning has read test items"))
    plain = planted_interactions(n_users=300, n_items=120)
    hidden = object.__new__(Unread)
    for name in ("users", "items", "train", "val", "user_fields", "item_fields"):
        object.__setattr__(hidden, name, getattr(plain, name))
    floor = ndcg_at(ranks(popularity(plain.matrix()).score, plain)[1], 10).mean()
    for name, settings in {"item-kNN": [{"k": 40}], "EASE": [{"regularisation": 30}], "iALS": [{"width": 8}]}.items():
        model, values = tuned(name, hidden, settings)
        assert values[0] > floor and name in BASELINES
        assert_allclose(values[0], ndcg_at(ranks(model.score, plain)[1], 10).mean())


def test_neighbours_keep_k(data):
    x = data.matrix()
    one = item_knn(x, 1, 0)
    assert one.bytes == 8 * 40
    assert ((one.score(np.arange(60)) > 0).sum(1) <= 40).all()


def test_the_best_items_are_those_of_a_loop_in_the_tables_names():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"who": rng.choice([f"u{i}" for i in range(20)], 150),
                          "what": rng.choice(list("zyxwvutsrq"), 150)})
    data = interactions(frame, ["who"], ["what"], rng.permutation(150))
    scores = rng.normal(size=(20, 10))
    users, items, had = sorted(set(frame.who)), sorted(set(frame.what)), frame.groupby("who").what.agg(set)
    found = recommend(lambda u: scores[u], data, k=3, batch=7)
    for number, user in enumerate(users):
        free = [i for i in np.argsort(-scores[number]) if items[i] not in had[user]][:3]
        own = found[found.user == user]
        assert own.item.tolist() == [items[i] for i in free] and own.place.tolist() == list(range(1, 1 + len(free)))
        assert_allclose(own.score, scores[number, free])
    some = recommend(lambda u: scores[u], data, ["u7", "u2"], k=3)
    none = recommend(lambda u: scores[u], data, [], k=3)
    assert not len(none) and list(none) == list(found)
    assert some.user.unique().tolist() == [u for u in ("u7", "u2") if u in set(found.user)]


@pytest.mark.parametrize("change, says", [
    ({"users": [3, 999]}, "user 999 is not in the table"), ({"k": 0}, "k=0; expected 1 item or more"),
    ({"score": lambda u: np.full((len(u), 40), np.nan)}, "a score is NaN"),
])
def test_bad_wishes_are_named(data, change, says):
    with pytest.raises(ValueError, match=says):
        recommend(**{"score": lambda u: np.ones((len(u), 40)), "data": data} | change)
