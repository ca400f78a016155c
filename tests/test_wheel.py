"""The wheel: built, installed into an empty environment, and used there; every subpackage is in it."""
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


def called(*command: object, **options) -> str:
    """What a command prints; its error output if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # lest this tree shine in
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """Built from a copy, so that no earlier build shines through and none is left here."""
    copy, folder = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(root / "autodim", copy / "autodim", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "settings.ini", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(root / name, copy)
    called(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, copy)
    (made,) = folder.glob("autodim-*.whl")
    return made


@pytest.fixture(scope="module")
def home(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel alone; its dependencies are found behind it, where this one has them."""
    home = tmp_path_factory.mktemp("home")
    called(sys.executable, "-m", "venv", home)
    called(home / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    own = called(home / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(own) / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def test_every_module_of_the_repository_is_in_the_wheel(root, wheel):
    here = {path.relative_to(root).as_posix() for path in (root / "autodim").rglob("*.py")}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")} == here


def test_every_module_can_be_imported_from_it(home, tmp_path):
    code = ("import importlib, pkgutil, autodim; "
            "names = [m.name for m in pkgutil.walk_packages(autodim.__path__, 'autodim.')]; "
            "[importlib.import_module(name) for name in names]; print(autodim.__file__); print(len(names))")
    where, n = called(home / "bin" / "python", "-c", code, cwd=tmp_path).split()
    assert Path(where).is_relative_to(home) and int(n) > 20


def test_its_command_line_prepares_a_table(home, tmp_path):
    rows = [f"{u % 7},{u % 3},{int(u % 7 > 3)}" for u in range(200)]
    (tmp_path / "clicks.csv").write_text("\n".join(["user,item,click", *rows]) + "\n")
    said = called(home / "bin" / "autodim", "prepare", "clicks.csv", "--label", "click", "--run", "shop", "--quiet",
                  cwd=tmp_path)
    assert "positive: click = 1" in said and (tmp_path / "shop" / "run.json").is_file()
