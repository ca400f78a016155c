"""Labels that are numbers or several classes: losses, metrics, search, training and compression against loops."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from autodim.app.export import Within
from autodim.app.steps import OF_CLASSES
from autodim.data.batches import Data, Part, Task
from autodim.data.encode import encode_table, task_of
from autodim.data.files import DataError
from autodim.data.split import Split, random_split
from autodim.memory.compress import Compression, Compressor, apply_plan, compress, judged
from autodim.memory.modules import Adapter, compress_modules
from autodim.memory.recalibrate import recalibrate
from autodim.memory.rowwise import row_vectors
from autodim.memory.sensitivity import frequency_groups, model_tables, sensitivities
from autodim.method.backbones import BACKBONES, Network
from autodim.method.baselines import bias_only
from autodim.method.choice import train_choice
from autodim.method.metrics import ClassMetrics, Errors, Metrics, evaluate, measure, predict
from autodim.method.models import DLRS, SearchModel, loss_of, with_outputs
from autodim.method.retrain import TrainConfig, fit, retrain
from autodim.method.search import SearchConfig, alpha_gradient, search, supernet_auc, supernet_outputs
from autodim.method.lookup import uniform_candidates
from autodim.study.frontier import score
from autodim.study.grid import Execution
from autodim.study.kept import checked, train_state
from autodim.study.runs import Run
from autodim.training.checkpoint import FileCheckpoint
from autodim.training.runtime import Runtime

QUIET = Runtime(progress=False)
STARS, FIVE = Task("regression", mean=3.0, scale=1.25), Task("classes", 5)


def table(task: str, n: int = 1500, noise: float = 0.5, seed: int = 0) -> Data:
    """Numbers that are a sum of effects of three fields, or these in four classes; synthetic."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, size, n) for size in (12, 30, 4)], 1)
    y = sum(rng.normal(size=size)[ids[:, m]] for m, size in enumerate((12, 30, 4))) + noise * rng.normal(size=n)
    label = 100 + 20 * y if task == "regression" else np.digitize(y, (-1, 0, 1))
    frame = pd.DataFrame(ids.astype(str), columns=["a", "b", "c"]).assign(label=label)
    return encode_table(frame, random_split(n, seed, (0.6, 0.2, 0.2)), task=task)


@pytest.mark.parametrize("seed", range(3))
def test_losses_and_metrics_are_the_textbook_ones(seed):
    rng = np.random.default_rng(seed)
    z, y = torch.tensor(rng.normal(size=70)), torch.tensor(rng.normal(3, 1.25, 70))
    squares = [(3 + 1.25 * float(a) - float(b)) ** 2 for a, b in zip(z, y)]
    assert loss_of(z, y, STARS).item() == pytest.approx(np.mean(squares) / 1.25**2)
    assert measure(z, y, STARS).rmse == pytest.approx(mean_squared_error(y, STARS.link(z)) ** 0.5)
    logits, k = torch.tensor(rng.normal(size=(70, 5))), torch.tensor(rng.integers(0, 5, 70)).float()
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    np.testing.assert_allclose(FIVE.link(logits), p)
    expected = log_loss(k, p, labels=range(5))
    assert loss_of(logits, k, FIVE).item() == pytest.approx(expected)
    assert measure(logits, k, FIVE) == pytest.approx((expected, accuracy_score(k, p.argmax(1))))
    soft = rng.dirichlet(np.ones(5), 70)  # probabilities as labels, a teacher's
    assert loss_of(logits, torch.tensor(soft), FIVE).item() == pytest.approx(-(soft * np.log(p)).sum(1).mean())


def test_the_better_of_two_and_by_how_much():
    assert Errors(0.9).order > Errors(1.0).order and Errors(0.8).loss(Errors(0.84)) == pytest.approx(5)
    assert ClassMetrics(1.2, 0.4).order > ClassMetrics(1.3, 0.5).order > ClassMetrics(1.3, 0.4).order
    assert ClassMetrics(1.2, 0.4).loss(ClassMetrics(1.23, 0.6)) == pytest.approx(3)
    assert Metrics(0.8, 0.5).loss(Metrics(0.79, 0.4)) == pytest.approx(1)


@pytest.mark.parametrize(("task", "outputs"), [("regression", [0.0, float("nan")]), ("classes", [[0.0, float("nan")]] * 2)])
def test_a_diverged_training_is_said(task, outputs):
    with pytest.raises(ValueError, match=f"{task}: an output is NaN; did training diverge"):
        measure(torch.tensor(outputs), torch.tensor([0.0, 1.0]), Task(task))


HALVES = Split(np.arange(4), np.array([4, 5]), np.array([6]))
WRONG = [
    ("regression", [1, 2, 3, float("nan"), 5, 6, 7], r"label 'stars' row 3: missing, expected a finite number.*classes"),
    ("regression", [1, "x", 3, 4, 5, 6, 7], "row 1: 'x', expected a finite number"),
    ("regression", [1, 1e39, 3, 4, 5, 6, 7], "row 1: 1e\\+39, expected a finite number"),  # not in float32
    ("regression", [2, 2, 2, 2, 5, 6, 7], "all of the train are 2, nothing to learn"),
    ("classes", [0, 1, 2.5, 1, 0, 1, 0], r"row 2: 2.5, expected a whole number from 0 on.*regression"),
    ("classes", [0, -1, 2, 1, 0, 1, 0], "row 1: -1"),
    ("classes", [0, 1, 3, 1, 0, 1, 0], "no training row has class 2 of 0 to 3"),
    ("classes", [0, 1, 0, 1, 0, 1, 2], "no training row has class 2 of 0 to 2"),
    ("ordinal", [0, 1, 0, 1, 0, 1, 1], "task 'ordinal': expected 'binary', 'regression' or 'classes'"),
]


@pytest.mark.parametrize(("task", "labels", "message"), WRONG)
def test_a_label_that_does_not_fit_its_task(task, labels, message):
    with pytest.raises(ValueError, match=message):
        task_of(pd.Series(labels, name="stars", dtype=object), HALVES, task)


def test_numbers_are_standardised_by_training_rows_alone():
    labels = [1.0, 2.0, 3.0, 4.0, 1e6, -1e6, 5.0]
    values, task = task_of(pd.Series(labels), HALVES, "regression")
    assert values.tolist() == labels and (task.mean, task.scale) == (2.5, pytest.approx(1.25**0.5))


def test_a_0_1_label_is_what_it_was():
    """The task changes neither ids nor fingerprint, and two classes are another task than one logit."""
    frame = pd.DataFrame({"a": list("xyxyzz") * 5, "label": [0, 1, 1] * 10})
    one, two = (encode_table(frame, random_split(30, 0), task=task) for task in ("binary", "classes"))
    assert (one.task, two.task) == (Task(), Task("classes", 2)) and one.fingerprint == two.fingerprint


@pytest.mark.parametrize("xi", [0.0, 0.3])
@pytest.mark.parametrize("task", ["regression", "classes"])
def test_alpha_gradient_is_a_difference_quotient(task, xi):
    data = table(task)
    torch.manual_seed(0)
    model = SearchModel(data.cardinalities, uniform_candidates(3, (1, 2, 3)), 1, Network(hidden=(6,), dropout=0.0))
    model = with_outputs(model, data.task).double()
    val, train = (Part(p.ids[:80], p.labels[:80].double()) for p in (data.val, data.train))

    def loss(shift: float) -> tuple[float, torch.Tensor]:
        torch.manual_seed(1)  # the same Gumbel noise
        moved = copy.deepcopy(model)
        with torch.no_grad():
            moved.selection.logits[1, 2] += shift
        return alpha_gradient(moved, val, train, 1.0, xi)

    (high, _), (low, _), (_, gradient) = loss(1e-4), loss(-1e-4), loss(0.0)
    assert gradient[1, 2].item() == pytest.approx((high - low).item() / 2e-4, rel=1e-4)


def test_linear_regression_is_found():
    """The bias-only model, trained long, against the normal equations."""
    data = table("regression", 600)
    fitted = bias_only(data, TrainConfig(epochs=120, patience=120, batch_size=360, lr=0.05, last=True), QUIET)
    hot = [np.concatenate([np.eye(v)[p.ids[:, m]] for m, v in enumerate(data.cardinalities)], 1)
           for p in (data.train, data.test)]
    exact = LinearRegression().fit(hot[0], data.train.labels)
    np.testing.assert_allclose(data.task.link(predict(fitted.model, data.test)), exact.predict(hot[1]), atol=0.3)


@pytest.mark.parametrize("task", ["regression", "classes"])
def test_search_and_training_come_near_what_can_be_known(task):
    data = table(task, 4000)
    found = search(data, SearchConfig(dims=(1, 2, 4), epochs=1, batch_size=200, f=2), Network(hidden=(16,)), QUIET)
    choice = train_choice(data, found.dims, 4, TrainConfig(20, batch_size=200, lr=0.01), Network(hidden=(32,), dropout=0.0),
                          QUIET)
    assert evaluate(choice.model, data.test, task=data.task) == choice.test
    if task == "regression":  # the noise is 10; labels spread by 36
        assert 9 < choice.test.rmse < 13 and choice.val.rmse == min(row["rmse_val"] for row in choice.history)
    else:
        shares = np.bincount(data.train.labels.int()) / len(data.train.labels)
        assert choice.test.logloss < 0.7 * log_loss(data.test.labels, np.tile(shares, (len(data.test.labels), 1)))
        assert choice.val.logloss == min(row["logloss_val"] for row in choice.history)


def test_an_interrupted_training_goes_on(tmp_path):
    data, dims, config = table("regression"), [2, 2, 2], TrainConfig(4, batch_size=100, lr=0.01)
    whole = retrain(data, dims, config, Network(hidden=(8,)), QUIET)
    runtime = replace(QUIET, checkpoint=FileCheckpoint(tmp_path / "state", "key"))
    retrain(data, dims, replace(config, epochs=2), Network(hidden=(8,)), runtime)
    again = retrain(data, dims, config, Network(hidden=(8,)), runtime)
    assert (again.val, again.history) == (whole.val, whole.history)


def test_one_output_does_not_do_for_classes():
    data = table("classes")
    for name in OF_CLASSES:
        assert retrain(data, [2, 2, 2], TrainConfig(1), Network(name, (4,)), QUIET).val.logloss > 0
    for name in BACKBONES.keys() - {*OF_CLASSES}:
        with pytest.raises(ValueError, match="has one output, and the task 4 classes: take the backbone MLP"):
            retrain(data, [2, 2, 2], TrainConfig(1), Network(name, (4,)), QUIET)
    with pytest.raises(ValueError, match="for 4 classes: expected a logit for each"):
        fit(DLRS(data.cardinalities, [2, 2, 2]), data, TrainConfig(1), QUIET)


@pytest.mark.parametrize("task", ["regression", "classes"])
def test_the_curvature_is_that_of_the_loss(task):
    """δᵀGδ of each field against second differences of the mean loss under the model's own predictions, in float64."""
    data = table(task, 300)
    torch.manual_seed(0)
    model = with_outputs(DLRS(data.cardinalities, (3, 2, 2), Network(hidden=())), data.task).double().eval()
    rows = data.train.ids
    counts = [torch.bincount(rows[:, m], minlength=v) for m, v in enumerate(data.cardinalities)]
    numbers = task == "regression"
    forward = (lambda ids: 2**0.5 * model(ids)) if numbers else model
    found = sensitivities(forward, model_tables(model, data.fields), counts, [frequency_groups(c, 4) for c in counts],
                          rows.split(50), of_loss=numbers)
    out = model(rows).detach()
    own = data.task.link(out)  # its own predictions, as labels: the residual's part of the Hessian is 0
    for s in found:
        step = 1e-3 * torch.randn(s.curvature().shape[0], generator=torch.Generator().manual_seed(1)).double()

        def loss(sign: int) -> float:
            moved = copy.deepcopy(model)
            t = model_tables(moved, data.fields)[s.table.field]
            with torch.no_grad():
                t.module.weight[t.rows, t.columns] += sign * step
                return loss_of(moved(rows), own, data.task).item()

        second = loss(1) + loss(-1) - 2 * loss(0)
        assert (step @ s.curvature() @ step).item() == pytest.approx(second, rel=1e-4)


@pytest.fixture(scope="module", params=["regression", "classes"])
def trained(request):
    data = table(request.param, 6000)
    config = TrainConfig(12, batch_size=200, lr=0.01)
    return data, retrain(data, [6, 6, 6], config, Network(hidden=(16,), dropout=0.0), QUIET).model


def test_predicted_and_measured_rises_agree(trained):
    """Of the training loss, where the change is small enough for its second order."""
    data, model = trained
    c = Compressor(model, data, Compression(groups=4, renumbered=False))
    before = loss_of(predict(c.model, data.train), data.train.labels, data.task).item()
    made = [apply_plan(c, c.within(share * c.full_bytes)) for share in (0.25, 0.35, 0.6)]
    rises = [loss_of(predict(m.model, data.train), data.train.labels, data.task).item() - before for m in made]
    assert made[0].predicted > made[1].predicted > made[2].predicted > 0
    assert 0.4 < rises[0] / made[0].predicted < 2.5
    assert all(m.before == made[0].before == evaluate(model, data.val, task=data.task) for m in made)


def test_a_tolerance_is_kept_to(trained):
    data, model = trained
    made = compress(model, data, max_loss=2.0)
    assert made.loss <= 2.0 and made.bytes < 0.5 * made.full_bytes
    assert made.loss == pytest.approx(made.before.loss(made.after))
    again = recalibrate(Compressor(model, data), made, data, runtime=QUIET)
    assert again.after != made.after and np.isfinite(again.error)
    with pytest.raises(ValueError, match="RMSE rises by .* per cent|Logloss rises by .* hundredths of a nat"):
        compress(model, data, max_loss=-50.0)


@pytest.mark.parametrize("task", [STARS, FIVE])
def test_the_error_of_a_loss_is_that_of_the_bootstrap(task):
    rng = np.random.default_rng(0)
    n = 2000
    labels = torch.tensor(rng.normal(3, 1, n) if task is STARS else rng.integers(0, 5, n))
    one = torch.tensor(rng.normal(size=(n, task.outputs))).squeeze(1)
    two = one + 0.3 * torch.tensor(rng.normal(size=one.shape))
    before, after, error = judged(one, two, labels, task)
    draws = [rng.integers(0, n, n) for _ in range(400)]
    spread = np.std([measure(one[r], labels[r], task).loss(measure(two[r], labels[r], task)) for r in draws])
    assert 100 * error == pytest.approx(spread, rel=0.15)
    assert before.loss(after) > 0


def test_a_search_model_has_outputs_of_its_task_and_an_auc_of_none_but_0_and_1():
    data = table("classes", 300)
    torch.manual_seed(0)
    model = with_outputs(SearchModel(data.cardinalities, uniform_candidates(3, (1, 2, 3)), 1,
                                     Network(hidden=(6,), dropout=0.0)), data.task)
    p = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    expected = model(data.val.ids, p).detach()  # in training mode: BatchNorms look at the batch
    torch.testing.assert_close(supernet_outputs(model, data.val, (3, 1, 2)), expected)
    assert measure(supernet_outputs(model, data.val), data.val.labels, data.task).logloss > 0
    with pytest.raises(ValueError, match="task 'classes': a search model's AUC is of labels 0 and 1 alone; take measure"):
        supernet_auc(model, data.val)


@pytest.mark.parametrize("task", ["regression", "classes"])
def test_what_knows_0_and_1_alone_says_so(task, tmp_path):
    data, run = table(task, 300), Run("planted", "Uniform", 0, dim=2)
    for use, words in ((lambda: score(None, data), "AUC, which labels 0 and 1 alone have; evaluate the candidate"),
                       (lambda: train_state(run, data, tmp_path / "a", Execution()), "kept of labels 0 and 1 alone"),
                       (lambda: checked(run, data, {}, tmp_path / "a"), "kept of labels 0 and 1 alone; train and save")):
        with pytest.raises(ValueError, match=f"task '{task}': .*{words}"):
            use()


def test_tables_in_rows_are_judged_by_the_task(trained):
    data, model = trained
    c = Compressor(model, data, Compression(renumbered=False))
    within = Within(c, 0.7 * c.full_bytes)
    changed = copy.deepcopy(c.model)
    for own, row in zip(model_tables(changed, data.fields), within.rows):
        with torch.no_grad():
            own.module.weight[own.rows, own.columns] = row_vectors(row).to(own.module.weight)
    found = within.judged()
    assert found.before == evaluate(model, data.val, task=data.task)
    assert found.after == evaluate(changed, data.val, task=data.task) != found.before
    assert found.error > 0


class Theirs(torch.nn.Module):
    """Anybody's model, [B, K] of K outputs, or [B] of one."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.net = torch.nn.Embedding(13, 5), torch.nn.Embedding(31, 5), torch.nn.Linear(10, outputs)

    def forward(self, ids):
        return self.net(torch.cat([self.a(ids[:, 0]), self.b(ids[:, 1])], 1)).squeeze(1)


@pytest.fixture(scope="module", params=["regression", "classes"])
def theirs(request):
    data = table(request.param, 4000)
    task = data.task if request.param == "classes" else Task("regression")  # the model gives the number itself
    torch.manual_seed(0)
    model, rows = Theirs(task.outputs), data.train
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        loss = loss_of(model(rows.ids.long()), rows.labels, task)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batches = [ids.long() for ids in rows.ids.split(200)]
    return data, task, model, batches, [(data.val.ids.long(), data.val.labels)]


def test_anybodys_model_for_another_task_is_packed(theirs):
    """The rise of the training loss that is predicted, against what is measured; and the metrics of the task."""
    data, task, model, batches, validation = theirs
    made = compress_modules(model, batches, 0.17 * 4 * 5 * 44, validation=validation, adapter=Adapter(task=task))

    def loss(own: torch.nn.Module) -> float:
        return loss_of(own(data.train.ids.long()), data.train.labels, task).item()

    assert 0.4 < (loss(made.model) - loss(model)) / made.predicted < 2.5
    assert made.before == measure(model(validation[0][0]).detach(), data.val.labels, task)
    assert made.loss == pytest.approx(made.before.loss(made.after)) and made.error > 0
    limit = max(made.loss, 0.5)
    least = compress_modules(model, batches, max_loss=limit, validation=validation, adapter=Adapter(task=task))
    assert least.loss <= limit


def test_a_model_of_another_task_is_not_taken_for_a_logit(theirs):
    data, task, model, batches, validation = theirs
    if task.name == "classes":
        with pytest.raises(ValueError, match=r'shape \[200, 4\]: expected one a row, \[B\]; of several classes, say '
                                             r'task=Task\("classes", 4\)'):
            compress_modules(model, batches, 500)
        wrong = Adapter(task=Task("classes", 3))
        with pytest.raises(ValueError, match=r"shape \[200, 4\] for 3 classes"):
            compress_modules(model, batches, 500, adapter=wrong)
    odd = [(validation[0][0], data.val.labels + (0.5 if task.name == "classes" else float("inf")))]
    with pytest.raises(ValueError, match="a class, 0 to 3, for each|a finite number for each of 800 rows"):
        compress_modules(model, batches, 500, validation=odd, adapter=Adapter(task=task))
    with pytest.raises(ValueError, match="probability.* is of labels 0 and 1 alone"):
        Adapter(output="probability", task=task)
