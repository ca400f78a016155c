"""The store of trained models: several processes that ask for one model train it once; what is damaged is trained again."""
import subprocess
import sys

import pytest

from autodim.method.choice import file_checkpoint
from autodim.method.retrain import TrainConfig
from autodim.study.kept import kept_model
from autodim.study.runs import Run

RUN = Run("planted", "Uniform", seed=3, dim=2, train=TrainConfig(epochs=1), hidden=(8,))
ASK = """
import sys
from autodim.method.retrain import TrainConfig
from autodim.study.kept import kept_model
from autodim.study.runs import Run
kept = kept_model(Run("planted", "Uniform", seed=3, dim=2, train=TrainConfig(epochs=1), hidden=(8,)), sys.argv[1])
print(kept.seconds, kept.val.auc, kept.model.training)
"""


def test_two_processes_get_one_training(tmp_path):
    asked = [subprocess.Popen([sys.executable, "-c", ASK, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0] for process in asked)
    assert first == second and first.split()[2] == "False"  # equal seconds: the same training


def test_damaged_model_is_trained_again(tmp_path):
    before = kept_model(RUN, tmp_path)
    path = file_checkpoint(tmp_path, RUN.run_id, RUN.config).path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged"):
        after = kept_model(RUN, tmp_path)
    assert after.val == before.val and after.seconds != before.seconds
