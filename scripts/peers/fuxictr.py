"""FuxiCTR: BaseModel's fit and its NpzDataLoader around its FeatureEmbedding and MLP_Block."""
import sys

sys.path.append(sys.path.pop(0))  # this file has the library's name: look for the library first

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from common import columns, report, table
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel

arrays = table()
folder = Path(tempfile.mkdtemp())
feature_map = FeatureMap("random", str(folder))
for m, size in enumerate(arrays["sizes"].tolist()):
    feature_map.features[f"f{m}"] = {"type": "categorical", "source": "", "vocab_size": size, "padding_idx": None}
feature_map.labels, feature_map.num_fields = ["label"], len(arrays["sizes"])
feature_map.set_column_index()


class Network(BaseModel):
    """The paper's network in the library's parts."""

    def __init__(self) -> None:
        super().__init__(feature_map, verbose=0, model_root=str(folder), metrics=["AUC", "logloss"])
        self.embedding = FeatureEmbedding(feature_map, 10)
        self.mlp = MLP_Block(input_dim=10 * feature_map.num_fields, output_dim=1, hidden_units=[512, 512],
                             hidden_activations="ReLU", output_activation=self.output_activation,
                             dropout_rates=0.5, batch_norm=True)
        self.compile("adam", "binary_crossentropy", 0.001)
        self.reset_parameters()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"y_pred": self.mlp(self.embedding(self.get_inputs(inputs)).flatten(1))}


def loader(part: str, shuffle: bool) -> NpzDataLoader:
    """The library's loader over one part of the table."""
    path = folder / f"{part}.npz"
    np.savez(path, **columns(arrays[f"ids_{part}"]), label=arrays[f"labels_{part}"])
    return NpzDataLoader(feature_map, str(path), batch_size=1000, shuffle=shuffle, num_workers=1)


model = Network()
(folder / "random").mkdir()
train, val = loader("train", True), loader("val", False)
report(lambda: model.fit(train, epochs=int(arrays["epochs"]), validation_data=val), model,
       f"fuxictr {version('fuxictr')}")
