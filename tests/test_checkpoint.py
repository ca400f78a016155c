"""An interrupted training goes on as if nothing had happened: resumed = uninterrupted, to the last bit."""
import copy
from dataclasses import replace

import pytest
import torch

from autodim.method.backbones import Network
from autodim.method.retrain import TrainConfig, retrain
from autodim.method.search import SearchConfig, search
from autodim.training.runtime import Runtime

NETWORK = Network(hidden=(16, 8))
DIMS = [2, 4, 2, 8]


class Memory:
    """Keeps states in memory; interrupts after the n-th save, as Ctrl-C would. A saved state must not change later."""

    def __init__(self, interrupt_after: int = 0) -> None:
        self.states, self.left = [], interrupt_after

    def load(self):
        return copy.deepcopy(self.states[-1]) if self.states else None

    def save(self, state):
        self.states.append(state)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def quiet(checkpoint=None) -> Runtime:
    return Runtime(1, progress=False, checkpoint=checkpoint)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(-9), b[name].nan_to_num(-9)) for name in a)


SEARCHES = {
    "AutoDim-1": SearchConfig(), "AutoDim-2": SearchConfig(variant=2), "AutoDim-3": SearchConfig(variant=3),
    "AutoDim-4": SearchConfig(variant=4), "SAM": SearchConfig("SAM"), "second order": SearchConfig(xi=0.01),
    "hard": SearchConfig(hard=True), "sparse": SearchConfig(sparse=True), "decay": SearchConfig(weight_decay=0.01),
    "per field": SearchConfig(variant=2, per_field=True),
}


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_resumed_search_equals_an_uninterrupted_one(name, stop, make_data):
    data = make_data()  # 300 training and 120 validation rows: batches of 50 end within the validation's own epoch
    config = replace(SEARCHES[name], dims=(2, 4), epochs=3, f=2, batch_size=50, tau_decay=0.05)
    memory = Memory(stop)
    whole = search(data, config, NETWORK, quiet())
    with pytest.raises(KeyboardInterrupt):
        search(data, config, NETWORK, quiet(memory))
    torch.rand(5)  # the caller's random numbers are not those of the search
    resumed = search(data, config, NETWORK, quiet(memory))
    assert torch.equal(resumed.alpha, whole.alpha) and resumed.dims == whole.dims
    assert same(resumed.history, whole.history)
    assert same(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("options", [{}, {"sparse": True}, {"validations": 3, "weight_decay": 0.01}])
def test_a_resumed_training_equals_an_uninterrupted_one(options, stop, make_data):
    config = TrainConfig(epochs=5, patience=4, batch_size=50, lr=0.01, **options)
    data, memory = make_data(), Memory(stop)
    whole = retrain(data, DIMS, config, NETWORK, quiet())
    with pytest.raises(KeyboardInterrupt):
        retrain(data, DIMS, config, NETWORK, quiet(memory))
    resumed = retrain(data, DIMS, config, NETWORK, quiet(memory))
    assert len(resumed.history) > stop  # something was left to do
    assert resumed.history == whole.history and resumed.best_epoch == whole.best_epoch and resumed.val == whole.val
    assert same(resumed.model.state_dict(), whole.model.state_dict())


def test_a_finished_training_is_not_done_again(make_data):
    config = TrainConfig(epochs=30, patience=1, batch_size=50, lr=0.05)
    data, memory = make_data(), Memory()
    whole = retrain(data, DIMS, config, NETWORK, quiet(memory))
    assert len(whole.history) < 30  # patience ended it
    saved = len(memory.states)
    again = retrain(data, DIMS, config, NETWORK, quiet(memory))
    assert len(memory.states) == saved and again.history == whole.history
    assert same(again.model.state_dict(), whole.model.state_dict())


def test_saved_states_do_not_change_as_training_goes_on(make_data):
    memory = Memory()
    retrain(make_data(), DIMS, TrainConfig(epochs=3, batch_size=50), NETWORK, quiet(memory))
    first, last = memory.states[0], memory.states[-1]
    weights, later = first["fitting"]["model"], last["fitting"]["model"]
    assert any(not torch.equal(weights[name], later[name]) for name in weights)
    assert len(first["fitting"]["history"]) == 1


def leaves(state) -> list:
    """What stands in nested dicts and lists."""
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else None
    return [state] if inner is None else [leaf for value in inner for leaf in leaves(value)]


def test_a_state_is_tensors_and_plain_values_on_the_cpu(make_data):
    memory = Memory()
    search(make_data(), SearchConfig(dims=(2, 4), epochs=1, batch_size=50), NETWORK, quiet(memory))
    found = leaves(memory.states[0])
    assert {type(leaf) for leaf in found} <= {torch.Tensor, int, float, bool, type(None)}
    assert all(leaf.device.type == "cpu" for leaf in found if isinstance(leaf, torch.Tensor))
