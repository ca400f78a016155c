"""Backbones and models against NumPy (Eq. 8-10), dropout against its distribution, and a backbone of a user's own."""
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn as nn
from oracles import field_tables

import autodim.method.selection
from autodim.data.batches import Part
from autodim.method.lookup import Candidates, uniform_candidates
from autodim.method.metrics import predict
from autodim.method.backbones import BACKBONES, MLP, Backbone, Network
from autodim.method.models import DLRS, VARIANTS, SearchModel, loss_of
from autodim.training.layers import Dropout
from autodim.training.optimizer import Adam
from autodim.method.retrain import TrainConfig, retrain
from autodim.method.search import SearchConfig, Searcher, search
from autodim.method.selection import derive_dims
from autodim.training.runtime import Runtime


def numpy_mlp(state: dict, h0: np.ndarray) -> np.ndarray:
    """Eq. 8-9 in evaluation mode from a state dict, a row and a unit at a time: probabilities [B]."""
    w = {name.removeprefix("layers."): t.double().numpy() for name, t in state.items() if t.is_floating_point()}
    layers = sorted({int(name.split(".")[0]) for name in w})
    probabilities = []
    for h in h0:
        for k in layers:
            weight, bias = w[f"{k}.weight"], w[f"{k}.bias"]
            if weight.ndim == 2:
                h = [sum(a * x for a, x in zip(row, h)) + b for row, b in zip(weight, bias)]
            else:  # BatchNorm and the ReLU that follows it
                mean, sd = w[f"{k}.running_mean"], np.sqrt(w[f"{k}.running_var"] + 1e-5)
                h = [max(0.0, (x - mean[u]) / sd[u] * weight[u] + bias[u]) for u, x in enumerate(h)]
        probabilities.append(1 / (1 + math.exp(-h[0])))
    return np.array(probabilities)


@pytest.mark.parametrize("hidden", [(6,), (7, 5), (4, 4, 4), ()])
def test_equations_8_and_9(hidden, make_data):
    """A trained DLRS in evaluation mode, its embeddings looked up by loops."""
    torch.manual_seed(0)
    data, dims = make_data(), [2, 3, 2, 1]
    model = DLRS(data.cardinalities, dims, Network(hidden=hidden, dropout=0.3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(5):  # gains, shifts and running statistics away from 1, 0, 0 and 1
        loss_of(model(data.train.ids), data.train.labels).backward()
        optimizer.step()
    ids = data.val.ids[:25]
    tables = field_tables(model.embedding, data.cardinalities)
    h0 = np.array([[x for m, table in enumerate(tables) for x in table[row[m]].tolist()] for row in ids.tolist()])
    found = model.eval()(ids).sigmoid().detach()
    np.testing.assert_allclose(found, numpy_mlp(model.backbone.state_dict(), h0), rtol=1e-4)


def test_equation_10():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=40) * 4, rng.integers(0, 2, 40)
    expected = 0.0
    for z, y in zip(logits, labels):
        y_hat = 1 / (1 + math.exp(-z))
        expected += (-y * math.log(y_hat) - (1 - y) * math.log(1 - y_hat)) / 40
    assert loss_of(torch.tensor(logits), torch.tensor(labels).double()).item() == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- dropout

def kept(rate: float, *shape: int) -> np.ndarray:
    return (Dropout(rate)(torch.ones(*shape)) > 0).numpy()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    torch.manual_seed(1)
    y = Dropout(rate)(torch.ones(2000, 500))
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
    n_kept = int((y > 0).sum())
    assert scipy.stats.binomtest(n_kept, y.numel(), 1 - rate).pvalue > 0.001


@pytest.mark.parametrize("rate", [0.3, 0.5])
@pytest.mark.parametrize("lag", [1, 2, 7, 8, 16, 63, 64, 65, 128])
def test_dropout_is_independent_along_both_axes(rate, lag):
    """A chi-square test of the four outcomes of elements `lag` apart, in rows, in columns and from step to step."""
    torch.manual_seed(lag)
    first, second = kept(rate, 600, 513), kept(rate, 600, 513)
    pairs = ((first[:, :-lag], first[:, lag:]), (first[:-lag], first[lag:]), (first, second))
    for a, b in pairs:
        table = [[np.sum(~a & ~b), np.sum(~a & b)], [np.sum(a & ~b), np.sum(a & b)]]
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


def test_dropout_bytes_are_uniform():
    """All 256 patterns of eight neighbours, at each of the eight places of a random word, are equally frequent."""
    torch.manual_seed(2)
    bits = np.packbits(kept(0.5, 4096, 512).reshape(-1, 8, 8), axis=2)[..., 0]  # [words, bytes of a word]
    for place in range(8):
        counts = np.bincount(bits[:, place], minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (3, 21), (1, 64), (5, 13), (64, 1)])
def test_dropout_of_any_shape_covers_each_element(shape):
    """Sizes that are no multiple of a word: each element is kept in about half of 400 draws, in its own pattern."""
    torch.manual_seed(3)
    share = np.mean([kept(0.5, *shape) for _ in range(400)], axis=0)
    assert share.shape == shape and abs(share - 0.5).max() < 0.125  # five standard deviations


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_gradient_is_its_mask(rate):
    torch.manual_seed(4)
    x = torch.randn(30, 20, requires_grad=True)
    y, drop = Dropout(rate)(x), Dropout(rate).eval()
    y.sum().backward()
    torch.testing.assert_close(y, x * x.grad)
    assert drop(x) is x and Dropout(0.0)(x) is x


def test_dropout_follows_the_seed():
    torch.manual_seed(5)
    first = kept(0.5, 50, 50)
    torch.manual_seed(5)
    assert np.array_equal(first, kept(0.5, 50, 50))


# ---------------------------------------------------------------- another backbone

class FM(nn.Module):
    """A factorisation machine: first-order weights from ids, second order after a projection of each field."""

    def __init__(self, dims, cardinalities, network, k: int = 3) -> None:
        super().__init__()
        self.dims = list(dims)
        self.first = nn.ModuleList(nn.Embedding(c, 1) for c in cardinalities)
        self.projections = nn.ModuleList(nn.Linear(d, k, bias=False) for d in dims)

    def forward(self, h0, ids):
        v = torch.stack([f(h) for f, h in zip(self.projections, h0.split(self.dims, 1))], 1)  # [B, M, k]
        pairs = (v.sum(1) ** 2 - (v**2).sum(1)).sum(1) / 2
        return pairs + sum(e(ids[:, m]).squeeze(1) for m, e in enumerate(self.first))


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_backbone_is_searched_and_retrained(variant, make_data, monkeypatch):
    monkeypatch.setitem(BACKBONES, "my FM", Backbone(FM))
    data, network, quiet = make_data(), Network("my FM"), Runtime(progress=False)
    model = SearchModel(data.cardinalities, uniform_candidates(4, (2, 4)), variant, network)
    loss_of(model(data.train.ids, model.selection(1.0)), data.train.labels).backward()
    assert all(q.grad is not None and (q.grad != 0).any() for q in model.backbone.parameters())
    config = SearchConfig(variant=variant, dims=(2, 4), f=2, epochs=1, batch_size=50)
    dims = search(data, config, network, quiet).dims
    assert list(dims) == list(data.fields) and set(dims.values()) <= {2, 4}
    fitted = retrain(data, list(dims.values()), TrainConfig(epochs=8, batch_size=50, lr=0.03), network, quiet)
    assert isinstance(fitted.model.backbone, FM) and fitted.val.auc > 0.6
    assert [f.in_features for f in fitted.model.backbone.projections] == list(dims.values())
    assert predict(fitted.model, data.test).shape == data.test.labels.shape


# ---------------------------------------------------------------- a search does not depend on the order of fields

def permuted(model: SearchModel, order: list[int], sizes, candidates, **arguments) -> SearchModel:
    """The same model with its fields in another order."""
    other = SearchModel([sizes[m] for m in order], Candidates(
        candidates.dims, tuple(candidates.allowed[m] for m in order)), **arguments).double()
    ours, theirs = model.mixture, other.mixture
    tables = field_tables(ours.lookup.embedding, sizes)
    for m, table in zip(order, field_tables(theirs.lookup.embedding, [sizes[m] for m in order])):
        table.copy_(tables[m])
    for a, b in zip(getattr(ours, "weights", ()), getattr(theirs, "weights", ())):
        b.data.copy_(a[order] if len(a) > 1 else a)
    other.backbone.load_state_dict(model.backbone.state_dict())
    first = model.backbone.layers[0].weight.data.unflatten(1, (len(order), -1))
    other.backbone.layers[0].weight.data.copy_(first[:, order].flatten(1))
    return other


@pytest.mark.parametrize("method", ["AutoDim", "SAM"])
@pytest.mark.parametrize("variant, per_field", [(1, False), (2, False), (2, True), (3, False), (4, False), (4, True)])
def test_permuted_fields_give_permuted_dims(variant, per_field, method, make_data, monkeypatch):
    torch.manual_seed(variant)
    data, order = make_data(), [2, 0, 3, 1]
    candidates = Candidates((2, 3, 5), ((2, 3, 5), (2, 5), (3,), (2, 3, 5)))
    arguments = dict(variant=variant, per_field=per_field, network=Network(hidden=(8,), dropout=0.0))
    straight = SearchModel(data.cardinalities, candidates, **arguments).double()
    for table in straight.mixture.lookup.embedding.tables:
        nn.init.normal_(table.weight)
    models = straight, permuted(straight, order, data.cardinalities, candidates, **arguments)
    noises = [torch.tensor(noise) for noise in np.random.default_rng(0).gumbel(size=(40, 4, 3))]
    alphas = []
    for model, fields in zip(models, ([0, 1, 2, 3], order)):
        drawn = iter(noises)
        monkeypatch.setattr(autodim.method.selection, "gumbel_noise", lambda like, generator=None: next(drawn)[fields])
        searcher = Searcher(model, SearchConfig(method, variant, dims=candidates.dims, alpha_lr=0.1, lr=0.01))
        train, val = (Part(part.ids[:100, fields], part.labels[:100].double()) for part in (data.train, data.val))
        for _ in range(10):
            if method == "AutoDim":
                searcher.alpha_step(val, train)
            searcher.weight_step(train)
        alphas.append(model.selection.alpha().detach())
    torch.testing.assert_close(alphas[1], alphas[0][order], rtol=1e-6, atol=1e-9)
    assert (alphas[0] - alphas[0].mean(0)).abs().max() > 0.1  # the fields did learn different weights
    names = list("abcd")
    assert derive_dims(alphas[0], candidates, names) == derive_dims(
        alphas[1], models[1].selection.candidates, [names[m] for m in order])


@pytest.mark.parametrize("sparse", [False, True])
def test_adam_is_the_loop_and_lazy_adam_skips_rows_that_are_not_looked_up(sparse):
    """Kingma and Ba's update in NumPy; the lazy form moves only the rows of the batch, by the global step count."""
    torch.manual_seed(0)
    model = DLRS([6, 5], [3, 3])
    model.backbone = Sum()
    model.double()
    optimizer = Adam(model, model.parameters(), lr=0.1, sparse=sparse)
    table = model.embedding.tables[0].weight
    w = table.detach().numpy().copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    rng = np.random.default_rng(0)
    for t in range(1, 7):
        ids = rng.integers(0, [4, 3], size=(5, 2))  # rows 4 and 5 of the first field never occur
        labels = rng.integers(0, 2, 5)
        gradient, rows = np.zeros_like(w), ids + [0, 6]
        for row, label in zip(rows, labels):
            logit = w[row].sum()
            for r in row:
                gradient[r] += (1 / (1 + np.exp(-logit)) - label) / len(labels)
        moved = np.unique(rows) if sparse else np.arange(len(w))
        m[moved] = 0.9 * m[moved] + 0.1 * gradient[moved]
        v[moved] = 0.999 * v[moved] + 0.001 * gradient[moved] ** 2
        corrected = np.sqrt(v[moved] / (1 - 0.999**t)) + 1e-8 * (1 if not sparse else 1 / np.sqrt(1 - 0.999**t))
        w[moved] -= 0.1 * m[moved] / (1 - 0.9**t) / corrected
        optimizer.zero_grad()
        loss_of(model(torch.tensor(ids)), torch.tensor(labels).double()).backward()
        optimizer.step()
        np.testing.assert_allclose(table.detach().numpy(), w, rtol=1e-6, atol=1e-9)


class Sum(torch.nn.Module):
    """A backbone without weights: the sum of the embeddings."""

    def forward(self, h0, ids):
        return h0.sum(1)


# ---------------------------------------------------------------- products in bfloat16

def twins(hidden=(64, 32), widths=(5, 7, 4), dropout: float = 0.0) -> tuple[MLP, MLP]:
    """The same MLP with and without bfloat16, with gains, shifts and statistics away from their start."""
    torch.manual_seed(len(hidden))
    plain = Network(hidden=hidden, dropout=dropout).build(widths, widths)
    for layer in plain.layers:
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    short = Network(hidden=hidden, dropout=dropout, bfloat16=True).build(widths, widths)
    short.load_state_dict(plain.state_dict())
    return plain, short


def gradients_of(backbone: MLP, h0: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of every parameter and of the input, after the loss."""
    h0 = h0.clone().requires_grad_()
    loss_of(backbone(h0, h0), labels).backward()
    return {"input": h0.grad} | {name: q.grad for name, q in backbone.named_parameters()}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("hidden", [(64,), (64, 32), (512, 512), (32, 32, 32)])
def test_bfloat16_gradients_are_float32_and_close(hidden):
    """Eight bits of a number's digits: some per mille at the end, some per cent a layer further down, and not nothing.

    Biases before BatchNorm have no gradient but rounding noise.
    """
    plain, short = twins(hidden)
    h0, labels = torch.randn(2000, 16), torch.randint(2, (2000,)).float()
    expected, found = gradients_of(plain, h0, labels), gradients_of(short, h0, labels)
    idle = {f"layers.{4 * k}.bias" for k in range(len(hidden))}
    for name, g in found.items():
        assert g.dtype == torch.float32 and g.isfinite().all()
        if name in idle:
            assert g.norm() < 1e-2 * found[name.replace("bias", "weight")].norm()
        else:
            last = name.startswith(f"layers.{4 * len(hidden)}.")
            assert relative(g, expected[name]) < (0.005 if last else 0.04 * len(hidden)), name
    assert all(1e-4 < relative(found[name], expected[name]) for name in ("input", "layers.0.weight"))
    for name, t in short.state_dict().items():
        assert t.dtype == plain.state_dict()[name].dtype
        assert torch.equal(t, plain.state_dict()[name]) or relative(t, plain.state_dict()[name]) < 0.01, name


def test_bfloat16_logits_are_float32_and_their_last_product_too():
    """With no hidden layer there is nothing left to shorten; with one the logits are close, but others."""
    h0 = torch.randn(300, 16)
    for hidden, same_logits in (((), True), ((64,), False)):
        plain, short = twins(hidden)
        a, b = plain(h0, h0), short(h0, h0)
        assert a.dtype == b.dtype == torch.float32 and a.equal(b) == same_logits and relative(b, a) < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        hidden_units = short.layers[:-1](h0)
    torch.testing.assert_close(b, hidden_units.float() @ short.layers[-1].weight[0] + short.layers[-1].bias)


@pytest.mark.parametrize("hidden", [(64,), (64, 32)])
def test_evaluation_is_the_same_to_the_bit_with_and_without_bfloat16(hidden):
    plain, short = (m.eval() for m in twins(hidden, dropout=0.5))
    h0 = torch.randn(300, 16)
    assert short(h0, h0).equal(plain(h0, h0))
    plain.train()(h0, h0)
    short.train()(h0, h0)
    short.load_state_dict(plain.state_dict())  # and after training, from the same weights
    assert short.eval()(h0, h0).equal(plain.eval()(h0, h0))


@pytest.mark.parametrize("training", [True, False])
def test_float64_goes_through_as_float64(training):
    """To twelve digits by NumPy; nothing is rounded on the way."""
    plain = twins()[0].double().train(training)
    h0 = torch.randn(50, 16, dtype=torch.float64)
    h, layers = h0.numpy(), plain.layers
    for k in (0, 4):
        h = h @ layers[k].weight.detach().numpy().T + layers[k].bias.detach().numpy()
        norm = layers[k + 1]
        mean, var = (h.mean(0), h.var(0)) if training else (norm.running_mean.numpy(), norm.running_var.numpy())
        h = (h - mean) / np.sqrt(var + 1e-5) * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        h = np.maximum(h, 0)
    found = plain(h0, h0)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.detach(), (h @ layers[8].weight.detach().numpy().T)[:, 0] + layers[8].bias.item(),
                               rtol=1e-12, atol=1e-13)


def test_bfloat16_trains_as_well(make_data):
    data, config = make_data(), TrainConfig(epochs=8, patience=8, batch_size=50, lr=0.03)
    fitted = [retrain(data, [4] * 4, config, Network("MLP", (16,), 0.0, bfloat16), Runtime(progress=False))
              for bfloat16 in (False, True)]
    assert fitted[0].history != fitted[1].history
    assert fitted[1].val.auc == pytest.approx(fitted[0].val.auc, abs=0.03) and fitted[1].val.auc > 0.7
    assert all(t.dtype == torch.float32 for t in fitted[1].model.parameters())
