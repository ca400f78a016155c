"""torch-rechub: CTRTrainer around its EmbeddingLayer and MLP; its default weight decay is switched off."""
import sys

sys.path.append(sys.path.pop(0))  # this file has the library's name: look for the library first

import tempfile
from importlib.metadata import version

import torch
from common import columns, report, table
from torch_rechub.basic.features import SparseFeature
from torch_rechub.basic.layers import MLP, EmbeddingLayer
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator

arrays = table()
features = [SparseFeature(f"f{m}", vocab_size=size, embed_dim=10) for m, size in enumerate(arrays["sizes"].tolist())]


class Network(torch.nn.Module):
    """The paper's network in the library's parts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = EmbeddingLayer(features)
        self.mlp = MLP(10 * len(features), dims=[512, 512], dropout=0.5)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.sigmoid(self.mlp(self.embedding(x, features, squeeze_dim=True)).squeeze(1))


model, folder = Network(), tempfile.mkdtemp()
trainer = CTRTrainer(model, optimizer_params={"lr": 0.001}, n_epoch=int(arrays["epochs"]), model_path=folder)
ids, val = columns(arrays["ids_train"]), columns(arrays["ids_val"])
train_loader, val_loader, _ = DataGenerator(ids, arrays["labels_train"]).generate_dataloader(
    x_val=val, y_val=arrays["labels_val"], x_test=val, y_test=arrays["labels_val"], batch_size=1000)
report(lambda: trainer.fit(train_loader, val_loader), model, f"torch-rechub {version('torch-rechub')}")
