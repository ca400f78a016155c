"""Algorithm 1: gradients against finite differences of an explicit loss, what each step reads and moves, seeds."""
import dataclasses

import numpy as np
import pytest
import torch
from oracles import Transformation, candidate_embeddings, field_tables, random_candidates, search_loss
from sklearn.metrics import roc_auc_score

import autodim.method.selection
from autodim.data.batches import Part
from autodim.method.lookup import Candidates, SharedLookup, uniform_candidates
from autodim.method.backbones import Network
from autodim.method.models import VARIANTS, SearchModel
from autodim.method.search import SearchConfig, Searcher, alpha_gradient, run_epochs, search, supernet_auc
from autodim.training.runtime import Runtime

DIMS = (2, 3, 5)
CASES = [(1, False), (2, False), (2, True), (3, False), (4, False), (4, True)]
all_cases = pytest.mark.parametrize("variant, per_field", CASES)


SMALL = Network(hidden=(8,), dropout=0.0)


def small_search(data, seed=0, network=SMALL, candidates=None, **settings):
    config = SearchConfig(**{"dims": (2, 4), "f": 3, "epochs": 2, "batch_size": 50, **settings})
    return search(data, config, network, Runtime(seed, progress=False), candidates)


def same(a, b) -> bool:
    """Whether two searches took the same path, bit for bit."""
    names = ("step", "tau", "loss_train", "alpha")
    return a.alpha.equal(b.alpha) and a.dims == b.dims and all(a.history[k].equal(b.history[k]) for k in names)


# ---------------------------------------------------------------- gradients

@pytest.fixture
def drawn(monkeypatch):
    """Fix the Gumbel noise: installs a list of arrays, handed out one a forward pass."""
    def install(*noises: np.ndarray) -> None:
        queue = iter(noises)
        monkeypatch.setattr(autodim.method.selection, "gumbel_noise", lambda like, generator=None: torch.tensor(next(queue)))
    return install


def explicit(variant: int, per_field: bool, make_data):
    """A search model in float64, two batches, and its weights as the oracle takes them."""
    torch.manual_seed(variant)
    data = make_data(sizes=(3, 6, 4))
    model = SearchModel(data.cardinalities, uniform_candidates(3, DIMS), variant, SMALL, per_field).double()
    for table in model.mixture.lookup.embedding.tables:
        torch.nn.init.normal_(table.weight)  # larger than usual, so that gradients are clear of rounding
    torch.nn.init.normal_(model.selection.logits)
    batches = [Part(part.ids[:20], part.labels[:20].double()) for part in (data.train, data.val)]
    layers = model.backbone.layers
    weights = {
        "tables": [t.clone() for t in field_tables(model.mixture.lookup.embedding, data.cardinalities)],
        "W": [w.detach().clone() for w in getattr(model.mixture, "weights", ())],
        "A1": layers[0].weight, "c1": layers[0].bias, "gain": layers[1].weight, "shift": layers[1].bias,
        "A2": layers[4].weight, "c2": layers[4].bias,
    }
    return model, *batches, weights, (DIMS, isinstance(model.mixture.lookup, SharedLookup))


def mapped(function, weights: dict) -> dict:
    """A function applied to each tensor of the oracle's weights, in their order."""
    return {k: [function(t) for t in v] if isinstance(v, list) else function(v) for k, v in weights.items()}


def unrolled(weights, shape, logits, noises, tau, xi, train, val) -> float:
    """Eq. 11-12 for fixed noise as a plain number: one step of size xi on all weights, then the validation loss."""
    if xi > 0:
        weights, flat = mapped(lambda t: t.detach().requires_grad_(), weights), []
        mapped(flat.append, weights)
        slopes = iter(torch.autograd.grad(search_loss(weights, shape, logits, noises[0], tau, *train), flat))
        weights = mapped(lambda t: t.detach() - xi * next(slopes), weights)
    return search_loss(weights, shape, logits, noises[-1], tau, *val).item()


@all_cases
@pytest.mark.parametrize("xi, tau", [(0.0, 2.0), (0.0, 0.6), (0.7, 1.3), (0.05, 0.5)])
def test_alpha_gradient_by_finite_differences(variant, per_field, xi, tau, drawn, make_data):
    model, train, val, weights, shape = explicit(variant, per_field, make_data)
    noises = list(np.random.default_rng(variant).gumbel(size=(2 if xi else 1, 3, len(DIMS))))
    drawn(*noises)
    loss, gradient = alpha_gradient(model, val, train, tau, xi)
    noises, start = [torch.tensor(g) for g in noises], model.selection.logits.detach()

    def value(logits) -> float:
        return unrolled(weights, shape, logits, noises, tau, xi, train, val)
    assert loss.item() == pytest.approx(value(start), rel=1e-9)
    for place in np.ndindex(*start.shape):
        nudge = torch.zeros_like(start)
        nudge[place] = 1e-4
        slope = (value(start + nudge) - value(start - nudge)) / 2e-4
        assert gradient[place].item() == pytest.approx(slope, rel=1e-4, abs=2e-7)
    assert gradient.abs().max() > 1e-3


@all_cases
def test_first_order_gradient_by_autograd(variant, per_field, drawn, make_data):
    """To rounding, and the training batch has no part in it."""
    model, train, val, weights, shape = explicit(variant, per_field, make_data)
    noise = np.random.default_rng(0).gumbel(size=(3, len(DIMS)))
    drawn(noise)
    _, gradient = alpha_gradient(model, val, Part(train.ids + 10**6, train.labels * torch.nan), tau=0.9)
    logits = model.selection.logits.detach().requires_grad_()
    (expected,) = torch.autograd.grad(search_loss(weights, shape, logits, torch.tensor(noise), 0.9, *val), logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


@all_cases
def test_weight_step_descends_the_training_loss(variant, per_field, drawn, make_data):
    """The first step of Adam is lr times the gradient's sign; alpha does not move, in SAM it does likewise."""
    for method in ("AutoDim", "SAM"):
        model, train, val, weights, shape = explicit(variant, per_field, make_data)
        noise = np.random.default_rng(1).gumbel(size=(3, len(DIMS)))
        drawn(noise)
        logits, a1 = model.selection.logits.detach().clone().requires_grad_(), weights["A1"].detach().clone()
        table = weights["tables"][1].requires_grad_()
        loss = search_loss(weights, shape, logits, torch.tensor(noise), 2.0, *train)
        slopes = torch.autograd.grad(loss, [weights["A1"], table, logits])
        found = Searcher(model, SearchConfig(method, lr=0.001, alpha_lr=0.01)).weight_step(train)
        assert found.item() == pytest.approx(loss.item(), rel=1e-9)
        moved = model.backbone.layers[0].weight - a1
        torch.testing.assert_close(moved, -0.001 * slopes[0].sign(), rtol=1e-2, atol=1e-6)
        moved = field_tables(model.mixture.lookup.embedding, (3, 6, 4))[1] - table.detach()
        torch.testing.assert_close(moved, -0.001 * slopes[1].sign() * (slopes[1].abs() > 1e-12), rtol=1e-2, atol=1e-6)
        expected = -0.01 * slopes[2].sign() if method == "SAM" else torch.zeros(3, 3, dtype=torch.float64)
        torch.testing.assert_close(model.selection.logits - logits, expected, rtol=1e-2, atol=1e-6)
        assert (model.selection.logits.grad is None) == (method == "AutoDim")


# ---------------------------------------------------------------- what a step moves

def snapshot(model, optimizer) -> list[torch.Tensor]:
    """W, all buffers (BatchNorm's among them), and the optimiser's memory of W."""
    memory = [t for part in optimizer.parts for state in part.state.values() for t in state.values()]
    kept = [t for name, t in model.state_dict().items() if not name.startswith("selection.")]
    return [t.clone() for t in kept + memory]


@all_cases
@pytest.mark.parametrize("branches", [True, False])
@pytest.mark.parametrize("xi, hard", [(0.0, False), (0.0, True), (0.1, False)])
def test_alpha_step_moves_alpha_alone(variant, per_field, branches, xi, hard, make_data):
    torch.manual_seed(0)
    data = make_data()
    model = SearchModel(data.cardinalities, uniform_candidates(4, (2, 4)), variant, SMALL, per_field, branches)
    searcher = Searcher(model, SearchConfig(variant=variant, xi=xi, hard=hard, dims=(2, 4)))
    train, val = (Part(*(t[:40] for t in part)) for part in (data.train, data.val))
    for _ in range(2):
        searcher.weight_step(train)
    before, alpha = snapshot(model, searcher.w_optimizer), model.selection.logits.detach().clone()
    gradients = [q.grad.clone() for q in model.weights()]
    searcher.alpha_step(val, train)
    after = snapshot(model, searcher.w_optimizer)
    assert len(before) == len(after) and all(a.equal(b) for a, b in zip(before, after))
    assert all(g.equal(q.grad) for g, q in zip(gradients, model.weights()))
    assert (model.selection.logits != alpha).all() and searcher.step == 2
    searcher.weight_step(train)
    moved = [not a.equal(b) for a, b in zip(before, snapshot(model, searcher.w_optimizer))]
    assert np.mean(moved) > 0.5  # and statistics are recorded again


class Recorder(Searcher):
    """Writes down each step: its kind, the rows it read (their number is field 0), and what it moved."""

    def __init__(self, model, config) -> None:
        super().__init__(model, config)
        self.log, self.read = [], []
        model.register_forward_pre_hook(lambda _, inputs: self.read.extend(inputs[0][:, 0].tolist()))

    def observed(self, kind, step, *parts):
        logits = self.model.selection.logits.detach().clone()
        weights = [q.detach().clone() for q in self.model.weights()]
        self.read.clear()
        loss = step(*parts)
        alpha_moved = not logits.equal(self.model.selection.logits)
        weights_moved = any(not a.equal(b) for a, b in zip(weights, self.model.weights()))
        self.log.append((kind, list(self.read), alpha_moved, weights_moved))
        return loss

    def alpha_step(self, val, train):
        return self.observed("alpha", super().alpha_step, val, train)

    def weight_step(self, train):
        return self.observed("weights", super().weight_step, train)


def recorded(make_data, config, rows=(103, 40, 40)):
    """The log of a search on data in which field 0 is the row's number, a vocabulary as large as the table."""
    data = make_data(sizes=(sum(rows), 4), rows=rows)
    for part, start in zip((data.train, data.val, data.test), (0, rows[0], rows[0] + rows[1])):
        part.ids[:, 0] = torch.arange(start, start + len(part.labels))
    torch.manual_seed(0)
    searcher = Recorder(SearchModel(data.cardinalities, uniform_candidates(2, (2, 4)), 1, SMALL), config)
    history = run_epochs(searcher, data, torch.Generator().manual_seed(0), Runtime(progress=False))
    return searcher.log, history


@pytest.mark.parametrize("f", [1, 3, 10, 100])
def test_alpha_moves_once_in_f_steps_by_validation_rows(f, make_data):
    """30 steps of 10 rows in 3 epochs: alpha before steps 0, f, ...; an epoch reads 100 of 103 training rows once."""
    log, history = recorded(make_data, SearchConfig(f=f, epochs=3, batch_size=10, dims=(2, 4)))
    kinds = [kind for kind, *_ in log]
    expected = [kind for t in range(30) for kind in (["alpha"] if t % f == 0 else []) + ["weights"]]
    assert kinds == expected and history["step"].tolist() == list(range(0, 30, f))
    for kind, rows, alpha_moved, weights_moved in log:
        assert (alpha_moved, weights_moved) == (kind == "alpha", kind == "weights")
        assert len(rows) == 10 and all(103 <= r < 143 if kind == "alpha" else r < 103 for r in rows)
    trained = [rows for kind, rows, *_ in log if kind == "weights"]
    epochs = [sum(trained[10 * e:10 * e + 10], []) for e in range(3)]
    assert all(len(set(rows)) == 100 for rows in epochs) and epochs[0] != epochs[1]
    validated = sum((rows for kind, rows, *_ in log if kind == "alpha"), [])
    assert len(set(validated[:40])) == len(validated[:40])  # no validation row twice before all were read


def test_second_order_reads_a_training_and_a_validation_batch(make_data):
    log, _ = recorded(make_data, SearchConfig(f=2, epochs=1, batch_size=10, dims=(2, 4), xi=0.01))
    following = [(step, log[i + 1]) for i, step in enumerate(log) if step[0] == "alpha"]
    for (_, rows, *_), (_, trained, *_) in following:
        assert rows[:10] == trained and all(103 <= r < 143 for r in rows[10:]) and len(rows) == 20


def test_sam_moves_both_by_training_rows(make_data):
    log, history = recorded(make_data, SearchConfig("SAM", f=4, epochs=2, batch_size=10, dims=(2, 4)))
    assert len(log) == 20 and history["loss_val"].isnan().all() and history["step"].tolist() == [0, 4, 8, 12, 16]
    assert all(k == "weights" and max(rows) < 103 and moved == [True, True] for k, rows, *moved in log)


def test_logged_path(make_data):
    """Temperatures of the logged steps and alpha after them; the last is the result, as it did not move since."""
    result = small_search(make_data(), f=5, tau_decay=0.1, epochs=3)
    assert result.history["step"].tolist() == [0, 5, 10, 15]
    assert result.history["tau"].tolist() == pytest.approx([2.0, 1.5, 1.0, 0.5])
    assert result.history["alpha"][-1].equal(result.alpha) and result.history["loss_val"].isfinite().all()


# ---------------------------------------------------------------- what a search depends on

def poisoned(data, **parts: Part):
    return dataclasses.replace(data, **parts)


GARBAGE = Part(torch.full((50, 4), 10**6, dtype=torch.int32), torch.full((50,), torch.nan))


def flipped(part: Part) -> Part:
    return Part(part.ids, 1 - part.labels)


@pytest.mark.parametrize("method, xi", [("AutoDim", 0.0), ("AutoDim", 0.1), ("SAM", 0.0)])
def test_the_test_part_is_never_read(method, xi, make_data):
    data = make_data()
    paths = [small_search(d, method=method, xi=xi) for d in (data, poisoned(data, test=GARBAGE))]
    assert same(*paths)


def test_sam_never_reads_the_validation_part(make_data):
    data = make_data()
    assert same(small_search(data, method="SAM"), small_search(poisoned(data, val=GARBAGE), method="SAM"))


def test_validation_labels_pull_alpha_and_training_labels_pull_weights(make_data):
    """With alpha's rate at 0 validation labels reach nothing; with W's rate at 0 training labels do not reach alpha."""
    data = make_data()
    plain, val, train = data, poisoned(data, val=flipped(data.val)), poisoned(data, train=flipped(data.train))
    assert not small_search(plain).alpha.equal(small_search(val).alpha)
    frozen = [small_search(d, alpha_lr=0.0) for d in (plain, val, train)]
    assert same(frozen[0], frozen[1])
    assert not frozen[0].history["loss_train"].equal(frozen[2].history["loss_train"])
    still = [small_search(d, lr=0.0) for d in (plain, train, val)]
    assert still[0].alpha.equal(still[1].alpha) and not still[0].alpha.equal(still[2].alpha)


@pytest.mark.parametrize("settings", [{}, {"method": "SAM"}, {"variant": 4, "xi": 0.05}, {"hard": True}],
                         ids=["first order", "SAM", "second order", "hard"])
def test_a_seed_fixes_everything_and_the_callers_random_numbers_go_on(settings, make_data):
    data, noisy, results = make_data(), Network(hidden=(8,), dropout=0.5), []
    torch.manual_seed(77)
    for seed in (0, 0, 1):
        before = torch.get_rng_state()
        results.append(small_search(data, seed, noisy, **settings))
        assert torch.get_rng_state().equal(before)
        torch.randn(3)
    assert same(results[0], results[1])
    assert not results[0].alpha.equal(results[2].alpha)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forbidden_candidates_stay_out(variant, make_data):
    candidates = Candidates((2, 4, 6), ((2, 4, 6), (2,), (4, 6), (6,)))
    result = small_search(make_data(), candidates=candidates, variant=variant, alpha_lr=0.3)
    for m, (d, allowed) in enumerate(zip(result.dims.values(), candidates.allowed)):
        assert d in allowed
        assert [a == 0 for a in result.alpha[m].tolist()] == [c not in allowed for c in candidates.dims]
    assert result.alpha[1, 0] == result.alpha[3, 2] == 1


@pytest.mark.parametrize("sizes, rows, settings", [
    ((2, 2, 20_000, 2), (300, 60, 60), {}),  # one field matters, most of its values are never seen
    ((5, 9, 4, 30), (300, 7, 60), {}),  # validation smaller than a batch
    ((5, 9, 4, 30), (30, 60, 60), {"batch_size": 1000}),  # one batch is the whole training part
    ((1, 1, 1), (300, 60, 60), {}),  # fields of a single value: variance 0 everywhere
    ((6,), (300, 60, 60), {"dims": (3,)}),  # one field, one candidate
], ids=["large vocabulary", "small validation part", "small training part", "constant fields", "no choice"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_odd_data(variant, sizes, rows, settings, make_data):
    data = make_data(sizes=sizes, rows=rows)
    result = small_search(data, variant=variant, **settings)
    assert list(result.dims) == list(data.fields) and result.alpha.isfinite().all()
    torch.testing.assert_close(result.alpha.sum(1), torch.ones(len(sizes)))
    assert result.history["loss_train"].isfinite().all() and result.history["loss_val"].isfinite().all()


# ---------------------------------------------------------------- AUC within the search model

SIZES = (23, 31, 17)


def searched(variant: int, per_field: bool, candidates: Candidates, n: int) -> tuple[SearchModel, Part]:
    """A search model in float64, far from its start, in the middle of training, and n rows, each another.

    Its first layer is wide, so that no two rows leave it all zero: their logits would tie up to rounding, which
    differs with the processor. All zero after the second layer is an exact tie: the last bias.
    """
    rng = np.random.default_rng(variant)
    torch.manual_seed(variant)
    model = SearchModel(SIZES, candidates, variant, Network(hidden=(24, 5)), per_field).double()
    for q in model.parameters():
        torch.nn.init.normal_(q)
    ids = rng.permutation(np.stack(np.unravel_index(rng.choice(np.prod(SIZES), n, replace=False), SIZES), 1))
    part = Part(torch.tensor(ids, dtype=torch.int32), torch.tensor(rng.random(n) < 0.4, dtype=torch.float32))
    model(part.ids, model.selection(1.0))  # running statistics that are not the batch's
    return model, part


def batch_statistics(h: np.ndarray) -> np.ndarray:
    """BatchNorm without gain and shift over the rows at hand, a unit at a time."""
    columns = []
    for unit in h.T.tolist():
        mean = sum(unit) / len(unit)
        var = sum((x - mean) ** 2 for x in unit) / len(unit)
        columns.append([(x - mean) / (var + 1e-5) ** 0.5 for x in unit])
    return np.array(columns).T


def supernet_logits(model: SearchModel, p: np.ndarray, ids) -> np.ndarray:
    """Eq. 1-4 and 7-9 in float64 over one piece of rows, by its own statistics and without dropout."""
    lookup, candidates = model.mixture.lookup, model.selection.candidates
    tables = field_tables(lookup.embedding, SIZES)
    x = candidate_embeddings(tables, candidates, isinstance(lookup, SharedLookup), ids)
    weights = [w.detach().numpy() for w in getattr(model.mixture, "weights", ())]
    zeros = [np.zeros((len(w), w.shape[2])) for w in weights]
    h = Transformation(candidates.dims, len(SIZES), weights or None, zeros)(x, p, training=True).reshape(len(ids), -1)
    a = {name.removeprefix("layers."): t.numpy() for name, t in model.backbone.state_dict().items()}
    for k in (0, 4):
        h = batch_statistics(h @ a[f"{k}.weight"].T + a[f"{k}.bias"])
        h = np.maximum(0, h * a[f"{k + 1}.weight"] + a[f"{k + 1}.bias"])
    return (h @ a["8.weight"].T + a["8.bias"])[:, 0]


def weights_of(model: SearchModel, dims) -> np.ndarray:
    """One-hot choices of the dimensions, or, for None, alpha by loops over the allowed candidates."""
    candidates, logits = model.selection.candidates, model.selection.logits.tolist()
    p = np.zeros((len(SIZES), len(candidates.dims)))
    for m, allowed in enumerate(candidates.allowed):
        for n, d in enumerate(candidates.dims):
            if dims is not None:
                p[m, n] = d == dims[m]
            elif d in allowed:
                p[m, n] = np.exp(logits[m][n]) / sum(np.exp(logits[m][candidates.dims.index(e)]) for e in allowed)
    return p


@all_cases
@pytest.mark.parametrize("batch_size", [1000, 45, 20])
@pytest.mark.parametrize("seed", range(3))
def test_supernet_auc_by_loops(seed, batch_size, variant, per_field):
    """In pieces of nearly equal size, each normalised by its own statistics."""
    rng = np.random.default_rng(seed)
    candidates, n = random_candidates(rng, len(SIZES)), 91 + seed
    model, part = searched(variant, per_field, candidates, n)
    for dims in (None, [int(rng.choice(allowed)) for allowed in candidates.allowed]):
        p, starts = weights_of(model, dims), np.arange(n)
        pieces = np.array_split(starts, int(np.ceil(n / batch_size)))
        logits = np.concatenate([supernet_logits(model, p, part.ids[piece]) for piece in pieces])
        assert np.diff(np.unique(logits)).min() > 1e-9  # equal or clearly apart: no order by rounding
        expected = roc_auc_score(part.labels, logits)
        assert supernet_auc(model, part, dims, batch_size) == pytest.approx(expected, abs=1e-9)


@all_cases
def test_supernet_auc_tells_dimensions_mixtures_and_pieces_apart(variant, per_field):
    model, part = searched(variant, per_field, uniform_candidates(3, DIMS), 200)
    found = [supernet_auc(model, part, dims, size) for size in (1000, 50)
             for dims in (None, (2, 2, 2), (5, 5, 5), (5, 2, 3))]
    assert len(set(found)) == len(found)
    assert supernet_auc(model, part, (5, 2, 3)) == found[3] and supernet_auc(model, part) == found[0]


@all_cases
@pytest.mark.parametrize("training", [True, False])
def test_supernet_auc_leaves_the_model_as_it_was(training, variant, per_field):
    """Weights, running statistics, each module's own mode, gradients, and the caller's random numbers."""
    model, part = searched(variant, per_field, uniform_candidates(3, DIMS), 60)
    model.train(training)
    model.backbone.layers[1].train(not training)  # a module on its own
    modes = [m.training for m in model.modules()]
    state, random = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    graphs = []
    handle = model.register_forward_hook(lambda _, inputs, logits: graphs.append(logits.requires_grad))
    supernet_auc(model, part, (2, 5, 3), 25)
    supernet_auc(model, part)
    handle.remove()
    assert graphs == [False] * 4  # three pieces and one, and no graph of any
    assert [m.training for m in model.modules()] == modes and torch.get_rng_state().equal(random)
    assert all(t.equal(state[name]) for name, t in model.state_dict().items())
    assert all(q.grad is None for q in model.parameters()) and torch.is_grad_enabled()
    model.train()
    model(part.ids, model.selection(1.0))
    changed = {name for name, t in model.state_dict().items() if not t.equal(state[name])}
    assert changed and all("running" in name or "num_batches" in name for name in changed)  # recorded again


@pytest.mark.parametrize("seed", range(3))
def test_supernet_auc_ignores_the_order_of_rows_in_one_piece_and_alpha_where_dims_are_given(seed):
    model, part = searched(1 + seed, False, uniform_candidates(3, DIMS), 80)
    order = torch.randperm(80)
    for dims in (None, (3, 5, 2)):
        found = supernet_auc(model, part, dims)
        assert supernet_auc(model, Part(*(t[order] for t in part)), dims) == pytest.approx(found, abs=1e-9)
    torch.nn.init.normal_(model.selection.logits)
    assert supernet_auc(model, part, dims) == found


def test_supernet_auc_refuses_a_dimension_that_is_no_candidate():
    model, part = searched(1, False, uniform_candidates(3, DIMS), 40)
    with pytest.raises(ValueError, match=r"\(2, 4, 5\): expected 3 of the candidates \(2, 3, 5\)"):
        supernet_auc(model, part, (2, 4, 5))
    with pytest.raises(ValueError, match=r"\[2\]: expected 3 of the candidates"):
        supernet_auc(model, part, [2])


@pytest.mark.parametrize("setting", [
    {"variant": 5}, {"dims": ()}, {"dims": (4, 2)}, {"lr": -0.1}, {"alpha_lr": -1}, {"xi": -0.1}, {"tau_decay": -1},
    {"tau_floor": 0.0},
], ids=str)
def test_settings_out_of_their_range_are_refused(setting):
    with pytest.raises(ValueError):
        SearchConfig(**setting)
