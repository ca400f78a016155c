"""Run by tests/test_modules.py in the environment of `make peers`: models of others, packed as they are.

    .peers/exports/bin/python scripts/peers/pack_modules.py deepctr|fuxictr

Prints JSON: the share of the bytes of the tables, and the error of the outputs in units of their standard deviation.
"""
import sys

sys.path.append(sys.path.pop(0))  # beside this file lie others with the libraries' names: look for the library first

import json
from collections import OrderedDict

import numpy as np
import torch
import torch.nn as nn

from autodim.memory.modules import Adapter, compress_modules, embedding_modules

SIZES = (500, 300, 7)


def deepctr(ids: torch.Tensor) -> tuple[nn.Module, list, str]:
    """DeepFM of DeepCTR-Torch, which takes a matrix of floats and gives probabilities."""
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat(f"f{m}", v, embedding_dim=8) for m, v in enumerate(SIZES)]
    return DeepFM(columns, columns, dnn_hidden_units=(32,), init_std=0.3), list(ids.float().split(500)), "probability"


def fuxictr(ids: torch.Tensor) -> tuple[nn.Module, list, str]:
    """The embedding layer of FuxiCTR under a network, which takes a dictionary of columns and gives logits."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import FeatureEmbedding

    features = FeatureMap("data", ".")
    features.num_fields, features.features = len(SIZES), OrderedDict(
        (f"f{m}", {"source": "", "type": "categorical", "vocab_size": v, "padding_idx": 0})
        for m, v in enumerate(SIZES))
    embedding = FeatureEmbedding(features, 8)
    for weight in embedding.parameters():
        nn.init.normal_(weight, std=0.5)
    net = nn.Sequential(embedding, nn.Flatten(), nn.Tanh(), nn.Linear(8 * len(SIZES), 1))
    return net, [{f"f{m}": x[:, m] for m in range(len(SIZES))} for x in ids.split(500)], "logit"


if __name__ == "__main__":
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model, batches, output = {"deepctr": deepctr, "fuxictr": fuxictr}[sys.argv[1]](
        torch.tensor(np.stack([rng.integers(0, v, 4000) for v in SIZES], 1)))
    full = sum(m[0].weight.nbytes for m in embedding_modules(model.eval()).values())
    found = compress_modules(model, batches, 0.2 * full, adapter=Adapter(output=output))
    with torch.no_grad():
        before, after = (torch.cat([m(b).flatten() for b in batches]) for m in (model, found.model))
    print(json.dumps({"share": found.bytes / full, "tables": sorted(found.modules),
                      "error": ((after - before).square().mean().sqrt() / before.std()).item()}))
