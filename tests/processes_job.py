"""What tests/test_processes.py starts with torchrun in two processes, and runs in one itself to compare.

    torchrun --nproc-per-node 2 processes_job.py FOLDER all|lose|resume|mistake
"""
import contextlib
import copy
import io
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.nn as nn

from autodim.data.batches import Data, Part, Task
from autodim.data.vocabulary import Vocabulary
from autodim.method.backbones import BACKBONES, MLP, Backbone, Network
from autodim.method.lookup import uniform_candidates
from autodim.method.models import DLRS, SearchModel, with_outputs
from autodim.method.number_choice import NumberSearchModel, Options
from autodim.method.numbers import KINDS, Encoding, number_model
from autodim.method.retrain import TrainConfig, fit, retrain
from autodim.method.search import SearchConfig, Searcher, run_epochs, search
from autodim.training.checkpoint import FileCheckpoint
from autodim.training.distributed import Processes, check_agreement, torchrun
from autodim.training.layers import BatchNorm, Dropout, shared_epoch
from autodim.training.runtime import Runtime

SEARCHES = {
    "AutoDim-1": SearchConfig(), "AutoDim-2": SearchConfig(variant=2), "AutoDim-3": SearchConfig(variant=3),
    "AutoDim-4": SearchConfig(variant=4), "per field": SearchConfig(variant=2, per_field=True),
    "SAM-1": SearchConfig("SAM"), "SAM-4": SearchConfig("SAM", variant=4), "hard": SearchConfig(hard=True),
    "sparse": SearchConfig(sparse=True), "sparse SAM-2": SearchConfig("SAM", variant=2, sparse=True),
    "second order-1": SearchConfig(xi=0.05), "second order-2": SearchConfig(variant=2, xi=0.05),
    "second order-4": SearchConfig(variant=4, xi=0.05),
}
SEARCHES = {name: replace(c, dims=(2, 4), epochs=2, f=2, batch_size=60, tau_decay=0.05, lr=0.01, alpha_lr=0.05)
            for name, c in SEARCHES.items()}
BRANCHES = ("AutoDim-1", "AutoDim-2")  # these also in the paper's N-branch form
FITS = {name: TrainConfig(epochs=4, patience=4, batch_size=60, lr=0.02, sparse=sparse)
        for name, sparse in (("dense", False), ("sparse", True))}
FITS["stops early"] = replace(FITS["dense"], epochs=30, patience=1, lr=0.1)
PLAIN, NOISY = Network(hidden=(16, 8), dropout=0.0), Network(hidden=(16, 8), dropout=0.5)


def table(double: bool = True) -> Data:
    """300, 121 and 120 rows of four fields, whose values have effects; labels in float64 for models in float64."""
    rng, sizes, rows = np.random.default_rng(0), (5, 9, 4, 30), (300, 121, 120)
    ids = np.stack([rng.integers(0, size, sum(rows)) for size in sizes], 1)
    logits = sum(1.5 * rng.normal(size=size)[ids[:, m]] for m, size in enumerate(sizes))
    labels, ends = rng.random(len(ids)) < 1 / (1 + np.exp(-logits)), np.cumsum(rows)[:-1]
    parts = [Part(torch.tensor(i, dtype=torch.int32), torch.tensor(y, dtype=torch.float64 if double else torch.float32))
             for i, y in zip(np.split(ids, ends), np.split(labels, ends))]
    vocabularies = tuple(Vocabulary(f"field {m}", np.arange(1, size)) for m, size in enumerate(sizes))
    return Data("small", vocabularies, *parts, fingerprint="0" * 16)


def searched(config: SearchConfig, processes: Processes, branches: bool = False, checkpoint=None) -> dict:
    """A search in float64 without dropout: weights, running statistics, α, its path and the losses."""
    data = table()
    torch.manual_seed(1)
    candidates = uniform_candidates(len(data.fields), config.dims)
    model = SearchModel(data.cardinalities, candidates, config.variant, PLAIN, config.per_field, branches).double()
    searcher = Searcher(model, config, processes)
    runtime = Runtime(progress=False, checkpoint=checkpoint, processes=processes)
    history = run_epochs(searcher, data, torch.Generator().manual_seed(1), runtime)
    return {**model.state_dict(), **{f"history {name}": t for name, t in history.items()}}


TASKS = {"regression": Task("regression", mean=0.5, scale=0.5), "classes": Task("classes", 3)}


def of_task(task: Task) -> Data:
    """The same table with labels of the task: 0, 1 or 2, what is left over of the sum of the ids."""
    data = table()
    if task == Task():
        return data
    parts = [part._replace(labels=(part.ids.double().sum(1) % 3)) for part in (data.train, data.val, data.test)]
    return replace(data, train=parts[0], val=parts[1], test=parts[2], task=task)


def fitted(config: TrainConfig, processes: Processes, checkpoint=None, task: Task = Task()) -> dict:
    """A training in float64 without dropout: the best weights and the history."""
    data = of_task(task)
    torch.manual_seed(1)
    model = with_outputs(DLRS(data.cardinalities, [2, 4, 2, 8], PLAIN), task).double()
    result = fit(model, data, config, Runtime(1, "cpu", False, checkpoint, processes))
    rows = torch.tensor([list(row.values()) for row in result.history], dtype=torch.float64)
    return {**result.model.state_dict(), "history": rows, "best": torch.tensor(result.best_epoch)}


def numbers(processes: Processes) -> dict:
    """A search of kinds and a training of numbers, in float64 without dropout: both models' states, α and the losses."""
    data = table()
    bins = {m: Vocabulary(f"field {m}", np.arange(size - 1), 0, "quantiles", tuple(np.arange(size - 2) + 0.5))
            for m, size in ((1, 9), (3, 30))}
    data = replace(data, vocabularies=tuple(bins.get(m, v) for m, v in enumerate(data.vocabularies)))
    dims, fields = dict(zip(data.fields, (2, 4, 2, 3))), tuple(v.name for v in bins.values())
    torch.manual_seed(1)
    options = Options(fields, tuple(Encoding(kind, 3 * (kind != "out")) for kind in KINDS))
    choice = NumberSearchModel(data, dims, options, PLAIN).double()
    searcher = Searcher(choice, SEARCHES["AutoDim-1"], processes)
    runtime = Runtime(progress=False, processes=processes)
    history = run_epochs(searcher, data, torch.Generator().manual_seed(1), runtime)
    model = number_model(data, dims, dict(zip(fields, (Encoding("periodic", 2), Encoding("tree", 5)))), PLAIN).double()
    result = fit(model, data, FITS["dense"], replace(runtime, seed=1))
    rows = torch.tensor([list(row.values()) for row in result.history], dtype=torch.float64)
    return {**{f"choice {name}": t for name, t in choice.state_dict().items()}, "history": rows,
            **{f"path {name}": t for name, t in history.items()}, **result.model.state_dict()}


def noisy_search(epochs: int, processes: Processes, checkpoint=None, progress: bool = False):
    """The public search in float32, with dropout."""
    config = replace(SEARCHES["AutoDim-2"], epochs=epochs)
    return search(table(double=False), config, NOISY, Runtime(3, "cpu", progress, checkpoint, processes))


def noisy_training(epochs: int, processes: Processes, checkpoint=None, progress: bool = False):
    """The public training in float32, with dropout."""
    config = replace(FITS["dense"], epochs=epochs)
    runtime = Runtime(3, "cpu", progress, checkpoint, processes)
    return retrain(table(double=False), [2, 4, 2, 8], config, NOISY, runtime)


def normalised(processes: Processes, size: tuple[int, ...], momentum: float | None) -> dict[str, torch.Tensor]:
    """BatchNorm of two batches of which each process has a share: outputs, gradients and running statistics of all."""
    torch.manual_seed(2)
    norm, x = BatchNorm(size[1], momentum=momentum).double(), torch.randn(*size, dtype=torch.float64) * 3 + 20
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    pull, out = torch.randn(*size, dtype=torch.float64), {}
    own, n = processes.rows(len(x)), len(x)
    mine = x[own].clone().requires_grad_()
    for _ in range(2):
        with shared_epoch(norm, processes, 0, 0):
            y = norm(mine)
        loss = (y * pull[own]).flatten(1).sum(1).mean()
        slopes = torch.autograd.grad(loss, [mine, norm.weight, norm.bias])
    for name, own_rows in (("y", y.detach()), ("slope in x", slopes[0] / processes.size)):  # of the mean over processes
        columns = [processes.gather(c, n) for c in own_rows.flatten(1).T]
        out[name] = torch.stack(columns, 1)
    out["slope in weight"], out["slope in bias"] = (processes.mean(g) for g in slopes[1:])
    return out | {name: t.clone() for name, t in norm.state_dict().items()}


class Counting(FileCheckpoint):
    """Counts what it saves."""
    saves = 0

    def save(self, state) -> None:
        self.saves += 1
        super().save(state)


def failure(call) -> str:
    """The error of a call that must fail."""
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("no error")


def masks(processes: Processes, rate: float, epoch: int) -> torch.Tensor:
    """Which of 64 units a dropout keeps in an epoch."""
    model = nn.Sequential(nn.Linear(1, 1), Dropout(rate))
    with shared_epoch(model, processes, seed=5, epoch=epoch):
        return model[1](torch.ones(64)) > 0


def progress_of(call) -> str:
    """What a call writes to stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as text:
        call()
    return text.getvalue()


def everything(folder: Path, processes: Processes) -> dict:
    """All that is compared."""
    def kept(name: str) -> Counting:
        return Counting(folder / f"{name}.pt", "k")

    out = {"search": {name: searched(c, processes) for name, c in SEARCHES.items()},
           "branches": {name: searched(SEARCHES[name], processes, True) for name in BRANCHES},
           "fit": {name: fitted(c, processes) for name, c in FITS.items()},
           "norm": {(size, m): normalised(processes, size, m) for size in ((12, 3), (6, 4, 5)) for m in (0.1, None)}}
    out["numbers"] = numbers(processes)
    out["tasks"] = {name: fitted(FITS["dense"], processes, task=task) for name, task in TASKS.items()}
    whole, trained = noisy_search(3, processes), noisy_training(3, processes)
    out["noisy search"] = {**whole.model.state_dict(), **whole.history, "alpha": whole.alpha}
    out["noisy training"], out["history"] = trained.model.state_dict(), trained.history
    out["global random numbers"] = torch.rand(4)
    counting = kept("search"), kept("training")
    noisy_search(1, processes, counting[0]), noisy_training(2, processes, counting[1])
    resumed, again = noisy_search(3, processes, counting[0]), noisy_training(3, processes, counting[1])
    out["resumed search"] = {**resumed.model.state_dict(), **resumed.history, "alpha": resumed.alpha}
    out["resumed training"], out["resumed history"] = again.model.state_dict(), again.history
    out["saves"] = [c.saves for c in counting]
    one = replace(SEARCHES["AutoDim-2"], epochs=1)
    searched(one, processes, checkpoint=kept("two, then one"))
    fitted(replace(FITS["dense"], epochs=2), processes, kept("fit two, then one"))
    out["one, then two"] = searched(SEARCHES["AutoDim-2"], processes, checkpoint=kept("one, then two"))
    out["fit one, then two"] = fitted(FITS["dense"], processes, kept("fit one, then two"))
    out["masks"] = {(rate, epoch): masks(processes, rate, epoch) for rate in (0.5, 0.3) for epoch in (0, 1)}
    out["progress"] = [progress_of(lambda: call(1, processes, None, True)) for call in (noisy_search, noisy_training)]
    out["gathered"] = processes.gather(torch.arange(7.0)[processes.rows(7)], 7)
    odd = replace(SEARCHES["AutoDim-1"], batch_size=61)
    out["odd batch"] = [failure(lambda: searched(odd, processes)),
                        failure(lambda: fitted(replace(FITS["dense"], batch_size=61), processes))]
    out["small validation"] = failure(lambda: searched(replace(odd, batch_size=150), processes))
    out["unlike"] = failure(lambda: check_agreement(processes, {"data": "same", "epochs done": processes.rank}))
    out["half known"] = failure(lambda: noisy_search(  # a checkpoint that process 1 cannot see
        3, processes, counting[0] if processes.rank == 0 else kept("nowhere")))
    layers = list(whole.model.modules())
    out["alone again"] = [getattr(m, "processes", Processes()) == Processes() for m in layers] + [
        m.generator is None for m in layers if isinstance(m, Dropout)]
    foreign = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    out["foreign"] = failure(lambda: shared_epoch(foreign, processes, 0, 0).__enter__())
    copy.deepcopy(whole.model)(table().train.ids, whole.model.selection(1.0).detach()).sum().backward()
    bfloat = Network(hidden=(8,), bfloat16=True).build([4], [9])
    with shared_epoch(bfloat, processes, 0, 0):
        bfloat(torch.randn(6, 4), None).sum().backward()
    out["bfloat16"] = bfloat.layers[0].weight.grad
    return out


class Mortal(MLP):
    """A backbone in which process 1 is killed at a training batch."""
    batches, last = 0, 0

    def forward(self, h0, ids):
        Mortal.batches += self.training
        if Mortal.batches == Mortal.last and int(os.environ["RANK"]) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(h0, ids)


if __name__ == "__main__":
    folder, task = Path(sys.argv[1]), sys.argv[2]
    with torchrun() as processes:
        assert processes == Processes(int(os.environ["RANK"]), 2) and processes != Processes()
        if task == "all":
            found = everything(folder, processes)
        elif task == "mistake":
            torch.ones(2, 3) @ torch.ones(3 - processes.rank, 3)  # the shapes do not fit in process 1
            found = processes.wait()
        else:  # the search of "noisy search", killed or gone on with; an epoch is 5 batches for W, and 2 or 3 for alpha
            Mortal.last = 14 if task == "lose" else 0
            BACKBONES["Mortal"] = Backbone(Mortal)
            NOISY = replace(NOISY, name="Mortal")
            result = noisy_search(3, processes, FileCheckpoint(folder / "lost.pt", "k"))
            found = {**result.model.state_dict(), **result.history, "alpha": result.alpha}
    assert not torch.distributed.is_initialized()
    torch.save(found, folder / f"{task} {processes.rank}.pt")
