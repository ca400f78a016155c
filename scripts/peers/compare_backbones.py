"""Our backbones against DeepCTR-Torch's models and FuxiCTR's blocks: logits of the same rows by the same weights.

It runs in the environment of `make peers` and prints one line of JSON, an entry for each comparison: the model, the
library, the largest difference of the logits in float64, their range, and what was set to make the two equal.
tests/test_backbones.py reads it.

    python scripts/peers/compare_backbones.py
"""
import sys
from pathlib import Path

sys.path.append(sys.path.pop(0))  # beside this file lie others with the libraries' names: look for the library first
sys.path.append(str(Path(__file__).resolve().parents[2]))  # autodim, which this environment has not installed

import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from types import ModuleType

import torch
import torch.nn as nn

from autodim.method.backbones import BACKBONES, DCN, MLP, Attention, Linear, Network
from autodim.method.models import DLRS

SIZES, D, HIDDEN, ROWS = (7, 11, 5, 9, 3), 6, (16, 8), 64
MAPS, LAYERS, ATTENTION, HEADS = (6, 4), 3, 5, 2
FIELDS = [f"f{m}" for m in range(len(SIZES))]
NO_NORM = "its MLP has no BatchNorm: ours is the identity"
NO_LINEAR = "its linear part is left out: ours has none"
NO_MAP_BIAS = "the biases of its convolutions are 0: ours have none"
Comparison = tuple[str, DLRS, Callable[[torch.Tensor], torch.Tensor], str]  # name, ours, the peer's logits, what is set


def randomised(module: nn.Module) -> nn.Module:
    """In evaluation, with random weights and BatchNorm statistics, none of them zero or one."""
    for weight in module.parameters():
        if weight.is_floating_point():  # FuxiCTR keeps a mask among its parameters
            nn.init.normal_(weight, std=0.5)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return module.eval()


def blank(name: str, **settings: object) -> DLRS:
    """Our model, all weights and statistics NaN: one that is not copied from the peer makes the comparison fail."""
    dims, network = [D] * len(SIZES), Network(name, HIDDEN, learned_scale=False)
    with torch.random.fork_rng():  # its draws are thrown away: the peers' are the same whatever we build
        model = DLRS(SIZES, dims, network).eval()
        model.backbone = BACKBONES[name].build(dims, SIZES, network, **settings).eval()
    for t in model.state_dict().values():
        if t.is_floating_point():
            t.fill_(torch.nan)
    return model


# ---------------------------------------------------------------- copies into ours

def copy_linear(linear: Linear, tables: Iterable[nn.Embedding], bias: torch.Tensor) -> None:
    """The linear part: each field's column of weights, and w_0."""
    linear.weights.tables[0].weight.copy_(torch.cat([table.weight for table in tables]))
    linear.bias.copy_(bias.squeeze())


def identity(n: int) -> nn.BatchNorm1d:
    """A BatchNorm that changes nothing in evaluation."""
    norm = nn.BatchNorm1d(n)
    norm.running_var.fill_(1 - norm.eps)
    return norm


def copy_mlp(mlp: MLP, linears: Sequence[nn.Linear], norms: Sequence[nn.BatchNorm1d], last: torch.Tensor,
             bias: torch.Tensor) -> None:  # fmt: skip
    """The MLP, with its last layer's weights and bias; without norms, ours become the identity."""
    norms = norms or [identity(n) for n in HIDDEN]
    for kind, parts in ((nn.Linear, linears), (nn.BatchNorm1d, norms)):
        own = [part for part in mlp.layers[:-1] if isinstance(part, kind)]
        for ours, theirs in zip(own, parts, strict=True):
            ours.load_state_dict(theirs.state_dict())
    mlp.layers[-1].weight.copy_(last)
    mlp.layers[-1].bias.copy_(bias.squeeze())


def copy_cross(dcn: DCN, weights: Iterable[torch.Tensor], biases: Iterable[torch.Tensor], out: torch.Tensor) -> None:
    """The cross layers' weights, as nn.Linear has them, and what their output is multiplied by."""
    for l, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        dcn.cross[l].weight.copy_(weight)
        (dcn.cross[l].bias if dcn.matrix else dcn.biases[l]).copy_(bias.flatten())
    dcn.out.weight.copy_(out)


# ---------------------------------------------------------------- DeepCTR-Torch

def deepctr_library() -> ModuleType:
    """Its models; it asks for its newest version when it is imported, which tests must not wait for."""
    import requests

    def offline(*arguments: object, **settings: object) -> None:
        raise OSError("tests need no network")

    requests.get = offline
    import deepctr_torch.models as library

    return library


def deepctr_pair(name: str, peer: nn.Module, **settings: object) -> tuple[DLRS, nn.Module]:
    """Ours and the peer, whose embeddings and, if ours has them, linear part and MLP are copied."""
    ours, nothing = blank(name, **settings), torch.zeros(())
    randomised(peer)
    ours.embedding.tables[0].weight.copy_(torch.cat([peer.embedding_dict[field].weight for field in FIELDS]))
    linear, deep = (getattr(ours.backbone, part, None) for part in ("linear", "deep"))
    if linear is not None:
        copy_linear(linear, [peer.linear_model.embedding_dict[field] for field in FIELDS], peer.out.bias)
    if deep is not None:
        last = peer.dnn_linear.weight[:, -HIDDEN[-1] :]  # of DCN's, what is behind the cross layers'
        norms = peer.dnn.bn if peer.dnn.use_bn else []
        copy_mlp(deep, peer.dnn.linears, norms, last, nothing if linear is not None else peer.out.bias)
    return ours, peer


def deepctr_sums(library: ModuleType, features: list) -> Iterable[Comparison]:
    """Models whose parts are those that `deepctr_pair` copies."""
    settings = {"task": "regression", "dnn_hidden_units": HIDDEN}  # regression: the logit, without a sigmoid
    made = [
        ("FM", library.DeepFM(features, features, task="regression", dnn_hidden_units=()), "DeepFM without its MLP"),
        ("WideDeep", library.WDL(features, features, dnn_use_bn=True, **settings), ""),
        ("DeepFM", library.DeepFM(features, features, dnn_use_bn=True, **settings), ""),
        ("NFM", library.NFM(features, features, **settings), NO_NORM),
        ("IPNN", library.PNN(features, **settings), NO_NORM),
    ]
    for name, peer, what in made:
        yield name, *deepctr_pair(name, peer), what


def deepctr_attention(library: ModuleType, features: list) -> Iterable[Comparison]:
    """AFM and AutoInt."""
    ours, peer = deepctr_pair("AFM", library.AFM(features, features, attention_factor=ATTENTION, task="regression"),
                              attention=ATTENTION)
    ours.backbone.hidden.weight.copy_(peer.fm.attention_W.T)
    ours.backbone.hidden.bias.copy_(peer.fm.attention_b)
    ours.backbone.score.weight.copy_(peer.fm.projection_h.T)
    ours.backbone.out.weight.copy_(peer.fm.projection_p.T)
    yield "AFM", ours, peer, ""
    ours, peer = deepctr_pair("AutoInt", library.AutoInt([], features, att_layer_num=LAYERS, att_head_num=HEADS,
                                                         dnn_hidden_units=(), task="regression"),
                              layers=LAYERS, heads=HEADS, head_width=D // HEADS)  # fmt: skip
    for layer, theirs in zip(ours.backbone.layers, peer.int_layers, strict=True):
        assert isinstance(layer, Attention)
        for own, weight in ((layer.query, theirs.W_Query), (layer.key, theirs.W_key), (layer.value, theirs.W_Value),
                            (layer.residual, theirs.W_Res)):
            own.weight.copy_(weight.T)
    ours.backbone.out.weight.copy_(peer.dnn_linear.weight)
    ours.backbone.out.bias.copy_(peer.out.bias)
    yield "AutoInt", ours, peer, f"{NO_LINEAR}; its heads together are as wide as the embedding"


def deepctr_crosses(library: ModuleType, features: list) -> Iterable[Comparison]:
    """Deep&Cross and xDeepFM."""
    settings = {"dnn_hidden_units": HIDDEN, "dnn_use_bn": True, "task": "regression"}
    for name, kind in (("DCN", "vector"), ("DCNv2", "matrix")):
        peer = library.DCN([], features, cross_num=LAYERS, cross_parameterization=kind, **settings)
        ours, peer = deepctr_pair(name, peer, layers=LAYERS)
        kernels = peer.crossnet.kernels if kind == "matrix" else peer.crossnet.kernels.transpose(1, 2)
        copy_cross(ours.backbone, kernels, peer.crossnet.bias, peer.dnn_linear.weight[:, : -HIDDEN[-1]])
        yield name, ours, peer, NO_LINEAR
    peer = library.xDeepFM(features, features, cin_layer_size=MAPS, cin_split_half=False, cin_activation="linear",
                           **settings)
    ours, peer = deepctr_pair("xDeepFM", peer, maps=MAPS)
    for compress, theirs in zip(ours.backbone.maps, peer.cin.conv1ds, strict=True):
        theirs.bias.zero_()
        compress.weight.copy_(theirs.weight.squeeze(2))
    ours.backbone.out.weight.copy_(peer.cin_linear.weight)
    yield "xDeepFM", ours, peer, f"cin_split_half=False, cin_activation='linear'; {NO_MAP_BIAS}"


def deepctr_logits(peer: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """It takes ids as floating-point numbers."""
    return peer(ids.double())


def deepctr() -> Iterable[Comparison]:
    """All of its models that we have too."""
    library = deepctr_library()
    from deepctr_torch.inputs import SparseFeat

    features = [SparseFeat(field, size, embedding_dim=D) for field, size in zip(FIELDS, SIZES)]
    for make in (deepctr_sums, deepctr_attention, deepctr_crosses):
        for name, ours, peer, what in make(library, features):
            yield name, ours, partial(deepctr_logits, peer), what


# ---------------------------------------------------------------- FuxiCTR

class Blocks(nn.Module):
    """A network of FuxiCTR's blocks: embeddings, FactorizationMachine with its linear part, MLP_Block, and others.

    Args:
        n_deep: inputs of the MLP.
        others: more blocks.
    """

    def __init__(self, n_deep: int, others: dict[str, nn.Module]) -> None:
        super().__init__()
        from fuxictr.features import FeatureMap
        from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block

        feature_map = FeatureMap("random", ".")
        feature_map.num_fields = len(SIZES)
        for field, size in zip(FIELDS, SIZES):
            feature_map.features[field] = {"type": "categorical", "source": "", "vocab_size": size, "padding_idx": None}
        feature_map.set_column_index()
        self.embedding, self.fm = FeatureEmbedding(feature_map, D), FactorizationMachine(feature_map)
        self.linear, self.others = self.fm.lr_layer, nn.ModuleDict(others)
        self.deep = MLP_Block(n_deep, list(HIDDEN), output_dim=1, batch_norm=True)

    def tables(self, embedding: nn.Module) -> list[nn.Embedding]:
        """The tables of one of its embeddings, in the order of the fields."""
        return [embedding.embedding_layer.embedding_layers[field] for field in FIELDS]


def fuxictr_pair(name: str, n_deep: int, others: dict[str, nn.Module], **settings: object) -> tuple[DLRS, Blocks]:
    """Ours and FuxiCTR's blocks, of which the embeddings and, if ours has them, linear part and MLP are copied."""
    ours, blocks = blank(name, **settings), Blocks(n_deep, others)
    randomised(blocks)
    ours.embedding.tables[0].weight.copy_(torch.cat([t.weight for t in blocks.tables(blocks.embedding)]))
    linear, deep = (getattr(ours.backbone, part, None) for part in ("linear", "deep"))
    if linear is not None:
        copy_linear(linear, blocks.tables(blocks.linear.embedding_layer), blocks.linear.bias)
    if deep is not None:
        *linears, last = [part for part in blocks.deep.mlp if isinstance(part, nn.Linear)]
        norms = [part for part in blocks.deep.mlp if isinstance(part, nn.BatchNorm1d)]
        copy_mlp(deep, linears, norms, last.weight, last.bias)
    return ours, blocks


def fuxictr_networks() -> Iterable[tuple[str, DLRS, Blocks, Callable[..., torch.Tensor], str]]:
    """Name, ours, the blocks, their logit as a function of (blocks, batch, embeddings [B, M, d]), and what was set."""
    from fuxictr.pytorch.layers import CompressedInteractionNet, CrossNet, CrossNetV2, InnerProductInteraction

    m, n = len(SIZES), len(SIZES) * D
    yield "FM", *fuxictr_pair("FM", 1, {}), lambda b, batch, e: b.fm(batch, e), ""
    yield ("WideDeep", *fuxictr_pair("WideDeep", n, {}),
           lambda b, batch, e: b.linear(batch) + b.deep(e.flatten(1)), "")
    yield ("DeepFM", *fuxictr_pair("DeepFM", n, {}),
           lambda b, batch, e: b.fm(batch, e) + b.deep(e.flatten(1)), "")
    pooling = {"products": InnerProductInteraction(m, output="bi_interaction")}
    yield ("NFM", *fuxictr_pair("NFM", D, pooling),
           lambda b, batch, e: b.linear(batch) + b.deep(b.others["products"](e)), "")
    inner = {"products": InnerProductInteraction(m, output="inner_product")}
    yield ("IPNN", *fuxictr_pair("IPNN", n + m * (m - 1) // 2, inner),
           lambda b, batch, e: b.deep(torch.cat([e.flatten(1), b.others["products"](e)], 1)), "")
    for name, block in (("DCN", CrossNet), ("DCNv2", CrossNetV2)):
        cross = {"cross": block(n, LAYERS), "out": nn.Linear(n, 1, bias=False)}
        ours, blocks = fuxictr_pair(name, n, cross, layers=LAYERS)
        layers = blocks.others["cross"].cross_net if name == "DCN" else blocks.others["cross"].cross_layers
        weights = [layer.weight.weight if name == "DCN" else layer.weight for layer in layers]
        copy_cross(ours.backbone, weights, [layer.bias for layer in layers], blocks.others["out"].weight)
        yield (name, ours, blocks,
               lambda b, batch, e: b.others["out"](b.others["cross"](e.flatten(1))) + b.deep(e.flatten(1)), "")
    cin = CompressedInteractionNet(m, list(MAPS))
    ours, blocks = fuxictr_pair("xDeepFM", n, {"cin": cin}, maps=MAPS)
    for compress, theirs in zip(ours.backbone.maps, cin.cin_layer.values(), strict=True):
        theirs.bias.zero_()
        by_field = theirs.weight.squeeze(2).unflatten(1, (m, -1))  # [H, M, H of the layer before]
        compress.weight.copy_(by_field.transpose(1, 2).flatten(1))
    ours.backbone.out.weight.copy_(cin.fc.weight)
    ours.backbone.linear.bias += cin.fc.bias.squeeze()
    yield ("xDeepFM", ours, blocks, lambda b, batch, e: b.linear(batch) + b.others["cin"](e) + b.deep(e.flatten(1)),
           f"{NO_MAP_BIAS}; its fields come before its maps, ours after them")


def fuxictr_logits(blocks: Blocks, logit: Callable[..., torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """It takes a field's ids by its name."""
    batch = {field: ids[:, m] for m, field in enumerate(FIELDS)}
    return logit(blocks, batch, blocks.embedding(batch))


def fuxictr() -> Iterable[Comparison]:
    """Models put together of its blocks; those of its model zoo are not in the package."""
    for name, ours, blocks, logit, what in fuxictr_networks():
        yield name, ours, partial(fuxictr_logits, blocks, logit), what


def compared(library: str, comparisons: Iterable[Comparison]) -> list[dict[str, object]]:
    """The largest difference of the logits of some random rows, for each model."""
    ids, entries = torch.stack([torch.randint(size, (ROWS,)) for size in SIZES], 1), []
    for name, ours, peer, what in comparisons:
        a, b = ours(ids), peer(ids).squeeze(1)
        assert a.shape == b.shape == (ROWS,) and a.dtype == b.dtype == torch.float64
        entries.append({"model": name, "library": f"{library} {version(library)}", "set": what,
                        "difference": (a - b).abs().max().item(), "range": (b.max() - b.min()).item()})
    return entries


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    with torch.no_grad():
        print("\n" + json.dumps(compared("deepctr-torch", deepctr()) + compared("fuxictr", fuxictr())))
