"""Load what autodim.app.export wrote, with the real library, and print one line of JSON: tests/test_export.py compares.

It runs in the environment of `make peers`. The folder holds the exported files, ids.npy, int64 [B, M], and outside.npy:
the same with an id in each row that its field does not have.

    python scripts/peers/load_exports.py torchrec|deepctr|fuxictr FOLDER
"""
import sys

sys.path.append(sys.path.pop(0))  # beside this file lie others with the libraries' names: look for the library first

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

Result = dict[str, object]


def outcome(action: Callable[[], object]) -> str:
    """"runs", or the error that the action ends with."""
    try:
        action()
    except Exception as error:  # whatever the library raises is the answer
        return f"{type(error).__name__}: {error}"
    return "runs"


def fbgemm_outcomes() -> dict[str, str]:
    """What FBGEMM's fused table says to each of the dimensions 1 to 16, and whether it can look up."""
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen,
    )  # fmt: skip

    def look_up(dim: int) -> None:
        spec = [(10, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)]
        table = SplitTableBatchedEmbeddingBagsCodegen(embedding_specs=spec)
        assert table(torch.tensor([1, 2]), torch.tensor([0, 1, 2])).shape == (2, dim)

    return {str(dim): outcome(lambda: look_up(dim)) for dim in range(1, 17)}


def fused_outcomes(outside: np.ndarray, sizes: list[int]) -> list[str]:
    """What FBGEMM's fused tables, which lie one behind the other, say to each row of ids [n, M]; "runs": as to id 0."""
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen,
    )  # fmt: skip

    specs = [(size, 4, EmbeddingLocation.HOST, ComputeDevice.CPU) for size in sizes]
    fused, ends = SplitTableBatchedEmbeddingBagsCodegen(embedding_specs=specs), torch.arange(len(sizes) + 1)
    fused.init_embedding_weights_uniform(-1.0, 1.0)

    def look_up(row: np.ndarray) -> None:
        plain = np.where((row >= 0) & (row < sizes), row, 0)
        found, expected = (fused(torch.from_numpy(ids.copy()), ends) for ids in (row, plain))  # it changes ids in place
        if not torch.equal(found, expected):
            raise ArithmeticError("another row was read")

    return [outcome(lambda: look_up(row)) for row in outside]


def load_torchrec(folder: Path, ids: np.ndarray, outside: np.ndarray) -> Result:
    """An EmbeddingBagCollection with the exported weights: what it looks up, each field under its name."""
    import safetensors.torch
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

    configs = [EmbeddingBagConfig(**entry) for entry in json.loads((folder / "torchrec.json").read_text())]
    collection = EmbeddingBagCollection(tables=configs, device=torch.device("cpu"))
    collection.load_state_dict(safetensors.torch.load_file(folder / "torchrec.safetensors"))
    keys = [name for config in configs for name in config.feature_names]

    def look_up(ids: np.ndarray) -> object:
        values = torch.from_numpy(ids.T.copy()).flatten()  # a feature's ids of all rows, then the next feature's
        return collection(KeyedJaggedTensor(keys, values, lengths=torch.ones_like(values, dtype=torch.int32)))

    looked_up = look_up(ids)
    return {"keys": looked_up.keys(), "embeddings": {key: looked_up[key].tolist() for key in keys},
            "outside": [outcome(lambda: look_up(row[None])) for row in outside],
            "fused": fused_outcomes(outside, [config.num_embeddings for config in configs]), "fbgemm": fbgemm_outcomes()}


def load_deepctr(folder: Path, ids: np.ndarray, outside: np.ndarray) -> Result:
    """A WDL trained for an epoch on the exported features; and which of the library's models take mixed dimensions."""
    import requests

    def offline(*arguments: object, **settings: object) -> None:
        raise OSError("tests need no network")

    requests.get = offline  # the library asks for its newest version when it is imported
    import deepctr_torch.models as library
    from deepctr_torch.inputs import SparseFeat

    features = [SparseFeat(**entry) for entry in json.loads((folder / "deepctr.json").read_text())]

    def named(ids: np.ndarray) -> dict[str, np.ndarray]:
        return {feature.name: ids[:, m] for m, feature in enumerate(features)}

    inputs = named(ids)
    labels = np.arange(len(ids)) % 2
    model = library.WDL(linear_feature_columns=features, dnn_feature_columns=features)
    shapes = [list(model.embedding_dict[feature.embedding_name].weight.shape) for feature in features]
    model.compile("adam", "binary_crossentropy")
    model.fit(inputs, labels, batch_size=4, epochs=1, verbose=0)

    def predict(name: str) -> None:
        columns = [features] if name in ("PNN", "MLR") else [features, features]  # without or with a linear part
        made = getattr(library, name)(*columns)
        assert np.isfinite(made.predict(inputs, batch_size=4)).all()

    names = ["WDL", "DCN", "DCNMix", "MLR"]
    names += ["DeepFM", "xDeepFM", "PNN", "NFM", "AFM", "AutoInt", "FiBiNET", "ONN", "IFM", "DIFM", "CCPM"]
    return {"shapes": shapes, "predictions": model.predict(inputs).ravel().tolist(),
            "outside": [outcome(lambda: model.predict(named(row[None]))) for row in outside],
            "models": {name: outcome(lambda: predict(name)) for name in names}}


def load_fuxictr(folder: Path, ids: np.ndarray, outside: np.ndarray) -> Result:
    """FuxiCTR's feature map and embeddings from our ids, and its own map of raw data with the exported dimensions."""
    import polars as pl
    import yaml
    from fuxictr.features import FeatureMap
    from fuxictr.preprocess import FeatureProcessor
    from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
    from fuxictr.utils import load_config

    feature_map = FeatureMap("autodim", str(folder))
    feature_map.load(str(folder / "feature_map.json"), {"embedding_dim": 3})
    layer = FeatureEmbedding(feature_map, embedding_dim=3)
    column_of = feature_map.get_column_index

    def batch_of(ids: np.ndarray) -> dict[str, torch.Tensor]:
        return {feature: torch.from_numpy(ids[:, column_of(feature)]) for feature in feature_map.features}

    batch = batch_of(ids)
    found = layer.embedding_layer(batch)
    flat = layer(batch, flatten_emb=True)
    network = MLP_Block(input_dim=feature_map.sum_emb_out_dim(), output_dim=1, hidden_units=[8])
    rows = {feature: table.weight.shape[0] for feature, table in layer.embedding_layer.embedding_layers.items()}

    def dummies_are_trained(layer: FeatureEmbedding) -> list[bool]:
        zeros = {feature: torch.zeros(1, dtype=torch.int64) for feature in feature_map.features}
        layer(zeros, flatten_emb=True).sum().backward()
        tables = layer.embedding_layer.embedding_layers.values()
        return [bool((table.weight.grad[0] != 0).all()) for table in tables]

    # the other way: FuxiCTR encodes raw text itself; its map has one dimension for all until it reads feature_specs
    specs = yaml.safe_load((folder / "feature_specs.yaml").read_text())["feature_specs"]
    (folder / "raw").mkdir()
    pl.DataFrame({f"{s['name']}": [f"v{i}" for i in ids[:, m]] for m, s in enumerate(specs)}).with_columns(
        label=pl.lit(1.0)).write_csv(folder / "raw.csv")
    columns = [{"name": s["name"], "active": True, "dtype": "str", "type": "categorical"} for s in specs]
    label = {"name": "label", "dtype": "float"}

    def built(name: str, feature_cols: list[dict[str, object]]) -> str:
        processor = FeatureProcessor(feature_cols, label, dataset_id=name, data_root=str(folder / "raw"))
        processor.fit(processor.preprocess(processor.read_data(str(folder / "raw.csv"))))
        processor.feature_map.save(processor.json_file)
        return processor.json_file

    (folder / "model_config.yaml").write_text(
        "Base: {model_root: x}\nmine:\n    model: DNN\n    dataset_id: own\n    embedding_dim: 3\n"
        + "".join(f"    {line}\n" for line in (folder / "feature_specs.yaml").read_text().splitlines()))
    (folder / "dataset_config.yaml").write_text("own: {data_root: raw}\n")
    own = FeatureMap("own", str(folder))
    own.load(built("own", columns), load_config(str(folder), "mine"))
    in_columns = FeatureMap("columns", str(folder))
    in_columns.load(built("columns", [column | s for column, s in zip(columns, specs)]), {"embedding_dim": 3})

    # and a map of our ids that FuxiCTR makes itself from sizes
    sized = [column | s | {"vocab_size": rows[s["name"]]} for column, s in zip(columns, specs)]
    processor = FeatureProcessor(sized, label, dataset_id="sized", data_root=str(folder / "raw"))
    processor.fit(None, rebuild_dataset=False)

    def widths(a_map: FeatureMap) -> dict[str, int]:
        modules = FeatureEmbedding(a_map, embedding_dim=3).embedding_layer.embedding_layers
        return {feature: table.weight.shape[1] for feature, table in modules.items()}

    return {"fields": list(found), "shapes": {feature: list(e.shape) for feature, e in found.items()}, "rows": rows,
            "flat": list(flat.shape), "output": list(network(flat).shape), "stacked": outcome(lambda: layer(batch)),
            "outside": [outcome(lambda: layer(batch_of(row[None]), flatten_emb=True)) for row in outside],
            "dummy_gradient": dummies_are_trained(layer),
            "own": widths(own), "in_columns": widths(in_columns),
            "padding": [spec["padding_idx"] for spec in processor.feature_map.features.values()]}


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    loaders = {"torchrec": load_torchrec, "deepctr": load_deepctr, "fuxictr": load_fuxictr}
    exports = Path(sys.argv[2])
    ids, outside = (np.load(exports / name) for name in ("ids.npy", "outside.npy"))
    print("\n" + json.dumps(loaders[sys.argv[1]](exports, ids, outside)))
