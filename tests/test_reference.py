"""Reference pages show what the code has, and what CONTRIBUTING.md says to do works."""
import inspect
import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import autodim
from autodim.app import reference
from autodim.app.cli import make_parser
from autodim.app.settings import SETTINGS, Settings
from autodim.method.backbones import BACKBONES
from autodim.study.front import claimed, figure, packed

ROOT = Path(__file__).resolve().parents[1]


def shown(page: str) -> str:
    """All that the cells of an executed notebook show, as text."""
    document = json.loads((ROOT / "nbs" / f"{page}.ipynb").read_text(encoding="utf-8"))
    data = [output["data"] for cell in document["cells"] for output in cell.get("outputs", []) if "data" in output]
    return unescape("\n".join("".join(d.get("text/html", d.get("text/markdown", ""))) for d in data))


AGAIN = "run make front"


# ---------------------------------------------------------------- the pages are in step

@pytest.mark.parametrize("name", reference.commands())
def test_the_page_of_commands_has_every_option_that_help_has(name):
    page = shown("ref_cli")
    section = page.split(f"## autodim {name}\n")[1].split("## autodim ")[0]
    flags = re.findall(r"^  (-[\w-]+(?:, --[\w-]+)*)", help_of(name), re.MULTILINE)
    assert len(flags) > 3
    for flag in flags:
        assert flag in section, f"{flag}: {AGAIN}"


def help_of(name: str) -> str:
    done = subprocess.run([sys.executable, "-m", "autodim.app.cli", name, "--help"], capture_output=True, text=True, cwd=ROOT)
    if done.stdout:
        return done.stdout
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("argparse.ArgumentParser._print_message", lambda self, message, file=None: lines.append(message))
        make_parser().parse_args([name, "--help"])
    return "".join(lines)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_page_of_settings_has_each_with_its_default_and_range(name):
    page = shown("ref_settings")
    row = re.search(rf'<th scope="row" class="text">{name}</th>(.*?)</tr>', page)
    assert row, f"{name}: {AGAIN}"
    for text in (repr(getattr(Settings, name)), SETTINGS[name].range.words, SETTINGS[name].help):
        assert f">{text}</td>" in row[1], f"{name}: {AGAIN}"


def test_the_page_of_names_has_every_public_one_and_their_parameters():
    page, names = shown("ref_api"), reference.public_names()
    for name, module in zip(names.name, names.module):
        assert f"[`{name}`]" in page and f"({module})" in page, f"{name}: {AGAIN}"
    for name in inspect.signature(autodim.search).parameters:
        assert f">{name}</th>" in page


def test_the_page_of_messages_has_every_one():
    page = shown("ref_errors")
    for text in reference.messages().message:
        assert text in page, f"{text}: {AGAIN}"


def test_the_gallery_has_every_figure():
    page = shown("gallery")
    for path in (ROOT / "figures").glob("*.png"):
        assert f"](../figures/{path.name})" in page, f"{path.name}: run make front"


def test_the_page_to_cite_has_what_the_citation_file_has():
    cff, page = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8")), shown("cite")
    (paper,) = cff["references"]
    for text in (cff["title"], cff["version"], paper["title"], *(a["family-names"] for a in paper["authors"])):
        assert text in page, "run scripts/run_notebooks.py nbs/cite.ipynb"


def test_the_decision_table_says_what_the_rows_say():
    claims, compression = (pd.read_csv(ROOT / "results" / f"{name}.csv") for name in ("claims", "compression"))
    p, worth = packed(compression), "AutoDim's dimensions are worth more than a uniform one of equal Space"
    for text in (f"{p.times:.1f} times smaller", figure(p.points, p.low, p.high), claimed(claims, worth + " (AUC"),
                 claimed(claims, worth + " (chronological")):
        assert text in shown("faq"), "run make front"


# ---------------------------------------------------------------- what CONTRIBUTING.md says to do

def recipe(section: str) -> str:
    """The code in Python of a section of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"(?s)```python\n(.*?)```", text.split(f"## {section}\n")[1].split("\n## ")[0])[0]


@pytest.mark.parametrize("section", ["A dataset", "A network", "A rival"])
def test_a_recipe_is_short(section):
    assert len([line for line in recipe(section).splitlines() if line.strip()]) <= 12


def test_the_recipe_for_a_dataset_works(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user": rng.integers(0, 9, 1000), "item": rng.integers(0, 5, 1000),
                          "price": rng.gamma(2, 5, 1000).round(2), "click": rng.integers(0, 2, 1000)})
    (tmp_path / "shop").mkdir()
    table.to_csv(tmp_path / "shop" / "clicks.csv", index=False)
    monkeypatch.setenv("AUTODIM_DATA", str(tmp_path))
    monkeypatch.setenv("AUTODIM_CACHE", str(tmp_path / "cache"))
    made = {}
    exec(recipe("A dataset"), made)
    made["CLICK_LOGS"].pop("shop")
    assert made["data"].fields == ("user", "item", "price")
    assert made["data"].cardinalities == (10, 6, 6)  # a row for what is unknown in each


def test_the_recipe_for_a_network_works(tmp_path):
    made = {}
    exec(recipe("A network"), made)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user": rng.integers(0, 9, 600).astype(str), "item": rng.integers(0, 5, 600).astype(str)})
    table["click"] = (rng.random(600) < np.where(table.user < "4", 0.8, 0.2)).astype(int)
    try:
        model = autodim.AutoDim(dims=(2, 4), backbone="Logistic", epochs=4, search_epochs=2, rivals=False)
        assert model.fit(table, label="click").outcomes_["AutoDim"].test.auc > 0.6
    finally:
        BACKBONES.pop("Logistic")


@pytest.mark.slow
def test_the_recipe_for_a_rival_works():
    made = {}
    exec(recipe("A rival"), made)
    assert 0 < made["choice"].space < 1 and made["choice"].test.auc > 0.6
