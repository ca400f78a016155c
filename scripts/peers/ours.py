"""autodim: fit with validation AUC after each epoch."""
from common import report, table

import torch

from autodim import __version__
from autodim.data.batches import Data, Part
from autodim.data.vocabulary import Vocabulary
from autodim.method.models import DLRS
from autodim.method.retrain import TrainConfig, fit
from autodim.training.runtime import Runtime

arrays = table()
sizes = arrays["sizes"].tolist()
parts = [Part(torch.from_numpy(arrays[f"ids_{p}"]).int(), torch.from_numpy(arrays[f"labels_{p}"]).float())
         for p in ("train", "val")]
vocabularies = tuple(Vocabulary(f"f{m}", list(range(1, size))) for m, size in enumerate(sizes))
data = Data("random", vocabularies, *parts, parts[1], fingerprint="0" * 16)
model = DLRS(sizes, [10] * len(sizes))
config = TrainConfig(epochs=int(arrays["epochs"]), patience=int(arrays["epochs"]), batch_size=1000)
report(lambda: fit(model, data, config, Runtime(progress=False)), model, f"autodim {__version__}")
