"""Two real processes under torchrun: the search and training of one, to rounding; one that writes; one that is lost."""
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import processes_job as job
import pytest
import torch
import torch.distributed
import torch.nn as nn

from autodim.data.batches import Part
from autodim.method.lookup import uniform_candidates
from autodim.method.metrics import predict
from autodim.method.models import SearchModel
from autodim.training.checkpoint import FileCheckpoint
from autodim.training.distributed import ProcessLost, Processes, check_agreement, parallel, torchrun
from autodim.training.layers import BatchNorm, BatchStatistics, shared_epoch

ALONE = Processes()
pytestmark = pytest.mark.xdist_group("processes")  # by one process of pytest: the two are launched once for all


def launched(folder: Path, task: str) -> subprocess.CompletedProcess:
    """The job in two processes of one thread."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = Path(job.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, job.__file__, folder, task], capture_output=True, text=True, env=environment,
                          timeout=900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where both processes leave what they found; with two checkpoints by one process, to go on from."""
    folder = tmp_path_factory.mktemp("two")
    job.searched(replace(job.SEARCHES["AutoDim-2"], epochs=1), ALONE,
                 checkpoint=FileCheckpoint(folder / "one, then two.pt", "k"))
    job.fitted(replace(job.FITS["dense"], epochs=2), ALONE, FileCheckpoint(folder / "fit one, then two.pt", "k"))
    return folder


@pytest.fixture(scope="module")
def both(folder) -> list[dict]:
    """What process 0 and process 1 found."""
    ended = launched(folder, "all")
    assert ended.returncode == 0, ended.stderr[-5000:]
    assert "Warning" not in ended.stderr, ended.stderr
    return [torch.load(folder / f"all {rank}.pt", weights_only=False) for rank in (0, 1)]


def same(a: dict, b: dict) -> bool:
    """Equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(-9), b[k].nan_to_num(-9)) for k in a)


def close(a: dict, b: dict, eps: float = 1e-7) -> None:
    """Equal to the rounding of float64, which Adam's root of squares near zero enlarges."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name].double(), b[name].double(), rtol=0, atol=eps, equal_nan=True, msg=name)


# ---------------------------------------------------------------- two processes find what one finds

@pytest.mark.parametrize("name", job.SEARCHES)
def test_a_search_is_that_of_one_process(name, both):
    """Weights, running statistics, alpha and its path, losses; and the two have the same model, bit for bit."""
    found, other = (b["search"][name] for b in both)
    assert same(found, other)
    one = job.searched(job.SEARCHES[name], ALONE)
    close(found, one)
    start = job.searched(replace(job.SEARCHES[name], epochs=1), ALONE)
    assert (one["selection.logits"] - start["selection.logits"]).abs().max() > 1e-2  # 1e-7 is small
    assert any("running_var" in key for key in found)


@pytest.mark.parametrize("name", job.BRANCHES)
def test_a_search_of_the_branch_form_is_that_of_one_process(name, both):
    found, other = (b["branches"][name] for b in both)
    assert same(found, other)
    one = job.searched(job.SEARCHES[name], ALONE, branches=True)
    for key in [key for key in one if "branches.biases" in key]:  # without a gradient but for rounding
        del one[key], found[key]
    drift = [key for key in one if "norms" in key and "running_mean" in key]  # the biases' drift is seen here alone
    close({k: t for k, t in found.items() if k not in drift}, {k: t for k, t in one.items() if k not in drift}, 1e-6)


@pytest.mark.parametrize("name", job.FITS)
def test_a_training_is_that_of_one_process(name, both):
    """The best epoch's weights, losses and validation metrics, and when it stops."""
    found, other = (b["fit"][name] for b in both)
    assert same(found, other)
    one = job.fitted(job.FITS[name], ALONE)
    assert found["best"] == one["best"] and len(found["history"]) == len(one["history"])
    close(found, one, 1e-6)
    if name == "stops early":
        assert len(one["history"]) < 30


@pytest.mark.parametrize("name", job.TASKS)
def test_a_training_of_other_tasks_is_that_of_one_process(name, both):
    """Of classes each row has several outputs, which the processes gather."""
    found, other = (b["tasks"][name] for b in both)
    assert same(found, other)
    close(found, job.fitted(job.FITS["dense"], ALONE, task=job.TASKS[name]), 1e-6)


def test_numbers_and_the_search_of_their_kinds_are_those_of_one_process(both):
    found, other = (b["numbers"] for b in both)
    assert same(found, other)
    one = job.numbers(ALONE)
    close(found, one, 1e-6)
    assert (one["path alpha"][-1] - one["path alpha"][0]).abs().max() > 1e-2


def test_batchnorm_is_that_of_all_rows(both):
    """Outputs, gradients and running statistics; [B, C] and [B, C, L]; a fixed momentum and the mean of all batches."""
    for (size, momentum), found in both[0]["norm"].items():
        assert same(found, both[1]["norm"][size, momentum])
        close(found, job.normalised(ALONE, size, momentum), 1e-11)


def test_all_processes_have_one_model_with_dropout_in_float32(both):
    for name in ("noisy search", "noisy training"):
        assert same(both[0][name], both[1][name])
    assert both[0]["history"] == both[1]["history"]
    assert both[0]["global random numbers"].equal(both[1]["global random numbers"])


def test_masks_differ_between_processes_and_epochs(both):
    drawn = [tuple(mask.tolist()) for b in both for mask in b["masks"].values()]
    assert len(set(drawn)) == 8
    assert all(10 < sum(mask) < 60 for mask in drawn)


# ---------------------------------------------------------------- one writes, all resume

def test_only_the_first_process_writes_and_shows_progress(both):
    assert both[0]["saves"] == [3, 3] and both[1]["saves"] == [0, 0]
    assert "search" in both[0]["progress"][0] and "train" in both[0]["progress"][1]
    assert both[1]["progress"] == ["", ""]


def test_resumed_is_uninterrupted(both):
    for found in both:
        assert same(found["resumed search"], found["noisy search"])
        assert same(found["resumed training"], found["noisy training"])
        assert found["resumed history"] == found["history"]


def test_another_number_of_processes_goes_on(both, folder):
    """Two after one, and one after two, where nothing is dropped out: as if it had been one from the start."""
    for search, fit in ((both[0]["one, then two"], both[0]["fit one, then two"]), (
            job.searched(job.SEARCHES["AutoDim-2"], ALONE,
                         checkpoint=FileCheckpoint(folder / "two, then one.pt", "k")),
            job.fitted(job.FITS["dense"], ALONE, FileCheckpoint(folder / "fit two, then one.pt", "k")))):
        close(search, job.searched(job.SEARCHES["AutoDim-2"], ALONE))
        close(fit, job.fitted(job.FITS["dense"], ALONE), 1e-6)


@pytest.mark.slow
def test_a_lost_process_ends_the_job_with_a_message_and_the_same_command_goes_on(both, folder):
    ended = launched(folder, "lose")
    assert ended.returncode != 0 and not list(folder.glob("lose*.pt"))
    (message,) = [line for line in ended.stderr.splitlines() if "ProcessLost: " in line]
    assert "[rank0]" in message and "process 0 of 2" in message
    assert message.endswith("start the same command again: it goes on from the last checkpoint")
    assert "exitcode  : -9" in ended.stderr and "SIGKILL" in ended.stderr  # torchrun says which one it was, and why
    done = len(FileCheckpoint(folder / "lost.pt", "k").load()["log"])
    assert done == 1 and not list(folder.glob("*.tmp*"))
    ended = launched(folder, "resume")
    assert ended.returncode == 0, ended.stderr[-5000:]
    for rank in (0, 1):
        assert same(torch.load(folder / f"resume {rank}.pt"), both[rank]["noisy search"])


def test_a_mistake_in_one_process_shows_its_own_traceback_and_the_other_says_that_it_is_gone(folder):
    ended = launched(folder, "mistake")
    assert ended.returncode != 0 and not list(folder.glob("mistake*.pt"))
    lines = {rank: [line for line in ended.stderr.splitlines() if line.startswith(f"[rank{rank}]")] for rank in (0, 1)}
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in lines[1][-1]
    assert any("processes_job.py" in line for line in lines[1]) and not any("ProcessLost" in line for line in lines[1])
    assert "ProcessLost: process 0 of 2" in lines[0][-1]


# ---------------------------------------------------------------- what cannot be

def test_errors_are_the_same_in_both_processes(both):
    for found in both:
        for message in found["odd batch"]:
            assert "a batch of 61 rows has no equal shares for 2 processes: choose a batch_size" in message
        assert "a batch of 121 rows" in found["small validation"]
        assert "BatchNorm1d of torch.nn" in found["foreign"] and "autodim.training.layers.BatchNorm" in found["foreign"]
        assert "epochs done: 1 in process 1, 0 in process 0" in found["unlike"]
        assert "epochs done: 0 in process 1, 3 in process 0" in found["half known"] and "one folder" in found["half known"]


def test_afterwards_a_model_is_an_ordinary_one(both):
    for found in both:
        assert len(found["alone again"]) > 10 and all(found["alone again"])
        assert found["gathered"].tolist() == list(range(7))
        assert found["bfloat16"].dtype == torch.float32 and found["bfloat16"].abs().max() > 0


# ---------------------------------------------------------------- in one process

@pytest.mark.parametrize("size", [(6, 3), (4, 3, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_batchnorm_with_the_statistics_of_another_process(size, affine, monkeypatch):
    """The other's rows are far away and of another spread; by loops over all rows, in NumPy."""
    rng = np.random.default_rng(0)
    mine, other = rng.normal(size=size), rng.normal(50, 7, size=size)
    apart = torch.tensor(np.moveaxis(other, 1, 0).reshape(3, -1))
    theirs = torch.stack([apart.var(1, correction=0), apart.mean(1)])
    monkeypatch.setattr(Processes, "stack", lambda self, own: torch.stack([theirs, own]))
    norm = BatchNorm(3, affine=affine).double()
    norm.processes = Processes(1, 2)
    if affine:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    found = norm(torch.tensor(mine)).detach().numpy()
    for c in range(3):
        values = np.concatenate([mine[:, c].ravel(), other[:, c].ravel()])
        expected = (mine[:, c] - values.mean()) / np.sqrt(values.var() + 1e-5)
        expected = expected * norm.weight[c].item() + norm.bias[c].item() if affine else expected
        np.testing.assert_allclose(found[:, c], expected, atol=1e-10)
        assert norm.running_mean[c].item() == pytest.approx(0.1 * values.mean())
        assert norm.running_var[c].item() == pytest.approx(0.9 + 0.1 * values.var(ddof=1))
    assert norm.num_batches_tracked == 1


def test_evaluation_and_frozen_statistics_need_no_other_process():
    norm = BatchNorm(3).eval()
    norm.processes = Processes(1, 2)
    assert norm(torch.ones(2, 3)).equal(nn.BatchNorm1d(3).eval()(torch.ones(2, 3)))


def test_a_shared_epoch_is_undone_after_an_error():
    model, two = SearchModel([5, 9], uniform_candidates(2, (2, 4)), 2), Processes(0, 2)
    norms = [m for m in model.modules() if isinstance(m, BatchStatistics)]
    assert len(norms) == 3
    with pytest.raises(KeyError), shared_epoch(model, two, 0, 0):
        assert all(m.processes is two for m in norms)
        raise KeyError
    assert all(m.processes == ALONE for m in norms) and BatchStatistics.processes == ALONE


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_shares_are_a_partition(size):
    part = Part(torch.arange(2 * 84).view(84, 2), torch.arange(84.0))
    shares = [Processes(rank, size).share(part) for rank in range(size)]
    assert torch.cat([s.ids for s in shares]).equal(part.ids) and torch.cat([s.labels for s in shares]).equal(part.labels)
    assert {len(s.labels) for s in shares} == {84 // size}
    for n in range(size, 40):
        rows = [range(n)[Processes(rank, size).rows(n)] for rank in range(size)]
        assert sum(map(list, rows), []) == list(range(n)) and {len(r) for r in rows} <= {n // size, -(-n // size)}


def test_too_few_rows_for_the_processes():
    with pytest.raises(ValueError, match="2 rows are too few for 3 processes: start fewer"):
        Processes(0, 3).rows(2)


def test_alone_nothing_is_touched(monkeypatch):
    """Not even where the connection would fail."""
    for name in ("all_reduce", "barrier", "all_gather_object", "init_process_group", "get_world_size"):
        monkeypatch.setattr(torch.distributed, name, None)
    x, model = torch.ones(3), job.DLRS([3], [2], job.NOISY)
    assert ALONE.mean(x) is x and ALONE.gather(x, 3) is x and parallel(model, ALONE) is model
    ALONE.wait(), check_agreement(ALONE, {"a": 1})
    with shared_epoch(model, ALONE, 0, 0):
        assert model.backbone.layers[3].generator is None
    with torchrun() as processes:
        assert processes == ALONE


@pytest.fixture
def one_of_two(monkeypatch):
    """As torchrun starts a process, the last of two, which do not meet."""
    for name, value in (("WORLD_SIZE", 2), ("RANK", 1), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", [
    RuntimeError("[gloo/transport/tcp/pair.cc:5] Connection closed by peer [10.0.0.2]:123\nmore"), torch.distributed.DistBackendError("NCCL"),
    torch.distributed.DistStoreError("Socket Timeout"), RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 3000ms for recv"),
])
def test_what_breaks_says_what_to_do_and_what_it_was(error, one_of_two):
    with pytest.raises(ProcessLost) as raised, torchrun():
        raise error
    first = str(error).splitlines()[0]
    assert str(raised.value) == (f"process 1 of 2 ends ({first}); if another one was lost, start the same command again: "
                                 "it goes on from the last checkpoint")
    assert raised.value.__cause__ is error  # the traceback shows where it was
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # not to cut the message off


def test_sigterm_becomes_an_error_and_is_ignored_after_it(one_of_two):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ProcessLost, match="process 1 of 2 was told to end.*start the same command again"), torchrun():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.signal(signal.SIGTERM, before) == signal.SIG_IGN
    with torchrun():
        pass
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("error", [
    ValueError("batch_size"), KeyError("x"), KeyboardInterrupt(), torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (60x16 and 8x1)"),  # a mistake in a network
])
def test_errors_that_are_no_failure_of_a_call_go_through(error, one_of_two):
    with pytest.raises(type(error)) as raised, torchrun():
        raise error
    assert raised.value is error


def test_more_processes_than_gpus(monkeypatch):
    for name, value in (("WORLD_SIZE", 4), ("RANK", 3), ("LOCAL_RANK", 3)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="process 3 of 4 has no GPU, there are 2: one process for each GPU"):
        with torchrun("cuda"):
            pass


def test_lazy_adam_is_refused_by_nccl(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    model = job.DLRS([3], [2], job.PLAIN)
    model.embedding.tables[0].sparse = True
    with pytest.raises(ValueError, match="sparse=True on several GPUs"):
        parallel(model, Processes(0, 2))


def test_evaluate_by_shares_scores_all_rows(make_data, monkeypatch):
    """Each process scores its own rows; put together they are the logits that one process has."""
    data, shares = make_data(), []
    model = job.DLRS(data.cardinalities, [2] * 4, job.PLAIN)
    monkeypatch.setattr(Processes, "gather", lambda self, own, n: shares.append(own) or own)
    for rank in range(3):
        predict(model, data.val, 7, Processes(rank, 3))
    assert [len(logits) for logits in shares] == [40, 40, 40]
    torch.testing.assert_close(torch.cat(shares), predict(model, data.val), rtol=0, atol=1e-6)
