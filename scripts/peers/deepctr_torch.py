"""DeepCTR-Torch: BaseModel's fit around its DNN layer; no linear part. Its loss is a sum, whose scale Adam ignores."""
import sys

sys.path.append(sys.path.pop(0))  # this file has the library's name: look for the library first

from importlib.metadata import version

import torch
from common import columns, report, table
from deepctr_torch.inputs import SparseFeat, combined_dnn_input
from deepctr_torch.layers import DNN
from deepctr_torch.models.basemodel import BaseModel

arrays = table()
sizes = arrays["sizes"].tolist()
features = [SparseFeat(f"f{m}", size, embedding_dim=10) for m, size in enumerate(sizes)]


class Network(BaseModel):
    """The paper's network in the library's parts."""

    def __init__(self) -> None:
        super().__init__([], features, l2_reg_linear=0, l2_reg_embedding=0)
        self.dnn = DNN(10 * len(sizes), (512, 512), use_bn=True, dropout_rate=0.5)
        self.last = torch.nn.Linear(512, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sparse, dense = self.input_from_feature_columns(x, features, self.embedding_dict)
        return self.out(self.last(self.dnn(combined_dnn_input(sparse, dense))))


model = Network()
model.compile(torch.optim.Adam(model.parameters(), lr=0.001), "binary_crossentropy", metrics=["auc"])
report(lambda: model.fit(columns(arrays["ids_train"]), arrays["labels_train"], batch_size=1000,
                         epochs=int(arrays["epochs"]), verbose=0,
                         validation_data=(columns(arrays["ids_val"]), arrays["labels_val"])),
       model, f"deepctr-torch {version('deepctr-torch')}")
