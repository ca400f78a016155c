"""The whole recommender in one search: masks against the networks themselves, costs against counts in the modules."""
from dataclasses import replace
from itertools import product

import pytest
import torch

from autodim.data.batches import Task
from autodim.data.datasets import load_dataset
from autodim.method.backbones import Network
from autodim.method.lookup import uniform_candidates
from autodim.method.models import DLRS
from autodim.method.retrain import TrainConfig, retrain
from autodim.method.search import SearchConfig
from autodim.method.whole import (
    PARTS_OF, Choices, Design, NetworkSpace, WholeBackbone, derive_design, design_cost, search_whole,
)  # fmt: skip
from autodim.training.runtime import Runtime

SIZES = [4, 7, 12]


@pytest.mark.parametrize("backbone", PARTS_OF)
@pytest.mark.parametrize("hidden", [(), (5,), (5, 3)])
def test_bytes_are_those_of_the_served_network(backbone, hidden):
    """Numbers of the module, BatchNorm's two per unit folded away; FM's tables stand alone."""
    if "deep" not in PARTS_OF[backbone] and hidden:
        pytest.skip("it has no layers")
    design = Design((2, 4, 3), backbone, hidden)
    model = DLRS(SIZES, design.dims, design.network(Network(dropout=0.0)))
    assert design_cost(design, SIZES).bytes == 4 * (sum(q.numel() for q in model.parameters()) - 2 * sum(hidden))


def test_multiply_adds_of_an_mlp_by_hand():
    assert design_cost(Design((2, 4, 3), "MLP", (5, 3)), SIZES).macs == 9 * 5 + 5 * 3 + 3
    assert design_cost(Design((2, 4, 3), "MLP", ()), SIZES).macs == 9
    assert design_cost(Design((2, 4, 3), "FM", ()), SIZES).macs == 4 * 4


@pytest.mark.parametrize("seed", range(4))
def test_a_mixture_is_linear_in_depth_and_backbone(seed):
    """With sure widths, logits are the mean of those of sure designs under the product of their chances."""
    torch.manual_seed(seed)
    choices = Choices(uniform_candidates(3, (2, 4)), NetworkSpace((3, 6), 2, ("MLP", "FM", "DCNv2")))
    net = WholeBackbone(SIZES, choices, dropout=0.0).double()
    x, ids = torch.randn(9, 3, 4).double(), torch.zeros(9, 3, dtype=torch.int64)
    p = torch.zeros(choices.mask().shape).double()
    p[:5, 0] = 1.0
    depth, backbone = torch.rand(2, 3).double().softmax(1)
    p[5, :3], p[6, :3] = depth, backbone
    expected = torch.zeros(9).double()
    for d, b in product(range(3), range(3)):
        sure = p.clone()
        sure[5:] = 0.0
        sure[5, d] = sure[6, b] = 1.0
        expected += depth[d] * backbone[b] * net(x, ids, sure)
    torch.testing.assert_close(net(x, ids, p), expected)


def test_every_network_stands_once_and_alpha_gives_it_back():
    choices = Choices(uniform_candidates(1, (2, 4)), NetworkSpace((3, 6), 2, ("MLP", "FM")))
    networks = list(choices.networks())
    assert len(networks) == len(set(networks)) == 1 + 2 + 4 + 1
    alpha = torch.tensor([[0.1, 0.9, 0], [0.8, 0.2, 0], [0.3, 0.7, 0], [0.1, 0.2, 0.7], [0.6, 0.4, 0]])
    assert derive_design(alpha, choices) == Design((4,), "MLP", (3, 6))
    alpha[4] = torch.tensor([0.4, 0.6, 0])
    assert derive_design(alpha, choices) == Design((4,), "FM", ())
    with pytest.raises(ValueError, match="did the search diverge"):
        derive_design(alpha * torch.nan, choices)


def test_what_is_found_can_be_trained_and_is_found_again():
    data, config = load_dataset("planted", 0), SearchConfig(epochs=1, f=4, batch_size=2000)
    space, quiet = NetworkSpace((4, 8), 1), Runtime(3, progress=False)
    one, two = (search_whole(data, space, config, runtime=quiet) for _ in range(2))
    assert one.design == two.design and torch.equal(one.alpha, two.alpha)
    assert one.design.backbone in PARTS_OF and len(one.design.dims) == len(data.fields)
    fitted = retrain(data, one.design.dims, TrainConfig(epochs=1), one.design.network(), quiet)
    assert 0.5 < fitted.val.auc < 1


@pytest.mark.parametrize("wrong, words", [
    ({"widths": (8, 4)}, "expected increasing positive integers"), ({"widths": ()}, "expected increasing"),
    ({"layers": 0}, "layers=0: expected at least 1"), ({"backbones": ("AFM",)}, "expected some of MLP, FM"),
])
def test_spaces_that_cannot_be(wrong, words):
    with pytest.raises(ValueError, match=words):
        NetworkSpace(**wrong)


def test_other_tasks_are_refused():
    data = replace(load_dataset("planted", 0), task=Task("regression"))
    with pytest.raises(ValueError, match="task 'regression': the whole recommender is searched for labels 0 and 1"):
        search_whole(data)
