"""Run by tests/test_rowwise.py in the environment of `make peers`: FBGEMM's inference tables look up what we stored.

    .peers/exports/bin/python scripts/peers/fused_rows.py FOLDER

The folder holds tables.json, [rows, dim, format] of each, tables.safetensors and ids.npy, int64 [B, M]; it prints JSON:
the bytes of FBGEMM's weights, and the rows that it finds [B, Σ dim].
"""
import sys

sys.path.append(sys.path.pop(0))  # beside this file lie others with the libraries' names: look for the library first

import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tables = json.loads((folder / "tables.json").read_text())
    tensors, ids = safetensors.torch.load_file(folder / "tables.safetensors"), np.load(folder / "ids.npy")
    specs = [(str(m), rows, dim, getattr(SparseType, kind), EmbeddingLocation.HOST)
             for m, (rows, dim, kind) in enumerate(tables)]
    fused = IntNBitTableBatchedEmbeddingBagsCodegen(specs, device="cpu", output_dtype=SparseType.FP32)
    fused.initialize_weights()
    stored = [(tensors[f"{m}/weights"].view(torch.uint8), tensors.get(f"{m}/scale_shift")) for m in range(len(tables))]
    fused.assign_embedding_weights(stored)
    indices = torch.from_numpy(ids.T.copy()).flatten().int()  # a table's ids of all rows, then the next one's
    found = fused(indices, torch.arange(len(indices) + 1, dtype=torch.int32))
    size = sum(part.nbytes for own in fused.split_embedding_weights() for part in own if part is not None)
    print("\n" + json.dumps({"bytes": size, "found": found.tolist()}))
