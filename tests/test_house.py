"""The rules of the house: notebooks, the modules they export, and the site stay in step.

Each rule is a function from a repository's root to a list of complaints. It has to be silent on this repository and
to speak up on a small one in which exactly that rule is broken.
"""
import ast
import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path, PurePosixPath

import pytest
import yaml

from preview import pages_of

from autodim.study.parameters import parameters_of

BIN = Path(sys.executable).parent
DEFAULT_EXP = re.compile(r"^#\|\s*default_exp\s+(\S+)", re.MULTILINE)
EXPORT = re.compile(r"^#\|\s*exports?\s*$", re.MULTILINE)
QUARTO_OPTION = re.compile(r"#\| (code-fold|code-summary|echo|output|eval|label|fig-cap|fig-alt|tbl-cap|warning): ")
ROOMS = ("data", "training", "method", "memory", "study", "app")  # imports go one way, from left to right
MAX_LINE = 120
MAX_CELL = 60
MAX_PRINTED = 95
# distribution name -> import name, where they differ
IMPORT_NAMES = {"PyYAML": "yaml", "scikit-learn": "sklearn"}


# ---------------------------------------------------------------- reading

def notebooks(root: Path) -> list[Path]:
    found = (root / "nbs").rglob("*.ipynb")
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def components(root: Path) -> list[Path]:
    return [path for path in notebooks(root) if path.name[:2].isdigit()]


def cells(path: Path, kind: str = "code") -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == kind]


def outputs(path: Path) -> list[dict]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return [output for cell in document["cells"] for output in cell.get("outputs", [])]


def module_of(path: Path) -> str | None:
    match = DEFAULT_EXP.search("\n".join(cells(path)))
    return match[1] if match else None


def parse(code: str) -> ast.Module:
    """A cell's syntax tree; lines of magics are left out."""
    return ast.parse("\n".join(line for line in code.splitlines() if not line.lstrip().startswith(("%", "!"))))


def package_imports(tree: ast.Module, package: str = "autodim") -> set[str]:
    """Modules of this package that the code imports, as `room.name`; a relative import as it stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith(package + ".")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            whole = node.module if node.module.count(".") == 2 else ""  # else names are modules, or of the package
            found |= {whole} if whole else {f"{node.module}.{name.name}" for name in node.names}
    return {name.removeprefix(package + ".") for name in found} - {"__version__"}


def settings(root: Path) -> dict[str, str]:
    parser = ConfigParser()
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def working_copy(root: Path, folder: Path) -> Path:
    """A copy of what nbdev reads and writes."""
    folder.mkdir()
    for name in ("nbs", "autodim"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(root / "settings.ini", folder)
    return folder


# ---------------------------------------------------------------- the rules

def not_in_step(root: Path, copy: Path) -> list[str]:
    """autodim/ is what nbdev_export makes of nbs/."""
    working_copy(root, copy)
    subprocess.run([BIN / "nbdev_export"], cwd=copy, check=True, capture_output=True)
    before, after = ({str(path.relative_to(folder)): path.read_text() for path in (folder / "autodim").rglob("*.py")}
                     for folder in (root, copy))
    return [f"{name} differs from its notebook: run nbdev_export"
            for name in sorted(before | after) if before.get(name) != after.get(name)]


def stale_modules(root: Path) -> list[str]:
    """Every module has its notebook: nbdev_export leaves the module of a deleted notebook behind."""
    exported = {module_of(path) for path in notebooks(root)}
    files = {path.relative_to(root / "autodim").with_suffix("") for path in (root / "autodim").rglob("*.py")}
    here = {".".join(path.parts) for path in files if path.name not in ("__init__", "_modidx")}
    return [f"autodim/{name.replace('.', '/')}.py has no notebook: delete it" for name in sorted(here - exported)]


def not_clean(root: Path, copy: Path) -> list[str]:
    """nbdev_clean has nothing to do, and no output changes from run to run or names somebody's folder."""
    working_copy(root, copy)
    subprocess.run([BIN / "nbdev_clean"], cwd=copy, check=True, capture_output=True)
    found = [f"{path.name}: run nbdev_clean" for path in notebooks(root)
             if path.read_bytes() != (copy / path.relative_to(root)).read_bytes()]
    for path in notebooks(root):
        text = "".join("".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", ""))
                       for output in outputs(path))
        for pattern in (r" at 0x[0-9a-f]+", r"(?<![\w.])/(?:home|root|tmp|Users)/\S+"):
            found += [f"{path.name}: output with {match!r}" for match in re.findall(pattern, text)]
        if any(output.get("name") == "stderr" or output["output_type"] == "error" for output in outputs(path)):
            found.append(f"{path.name}: output on stderr")
    return found


def not_executed(root: Path) -> list[str]:
    """Component notebooks carry their pictures and tables."""
    return [f"{path.name} has no outputs: run make notebooks" for path in components(root) if not outputs(path)]


def backward_imports(root: Path) -> list[str]:
    """A component imports only from rooms before its own, and there from lower numbers; so data flows one way."""
    def place(path: Path) -> tuple[int, str]:
        room = path.parent.name
        return ROOMS.index(room) if room in ROOMS else len(ROOMS), path.name[:2]

    places = {module_of(path): place(path) for path in components(root)}
    found = []
    for path in components(root):
        for name in sorted(set().union(*(package_imports(parse(code)) for code in cells(path)))):
            if places.get(name, (len(ROOMS), "99")) >= place(path):
                found.append(f"{path.parent.name}/{path.name} imports autodim.{name}")
    return found


def misnamed(root: Path) -> list[str]:
    """nbs/room/NN_name.ipynb exports room.name, opens with `# name` and a one-line purpose; others export nothing."""
    found = []
    for path in notebooks(root):
        module, numbered = module_of(path), path.name[:2].isdigit()
        head = cells(path, "markdown")[0].splitlines()
        if module != (f"{path.parent.name}.{path.stem[3:]}" if numbered else None):
            found.append(f"{path.name} exports {module}")
        if numbered != (path.parent.name in ROOMS):
            found.append(f"{path.name} is in {path.parent.name}: components stand in a room, NN_name, others in nbs/")
        if numbered and not (head[0] == f"# {path.stem[3:]}" and re.search(r"^> .+", "\n".join(head), re.MULTILINE)):
            found.append(f"{path.name}: the first cell is not '# {path.stem[3:]}' and '> purpose'")
    return found


def unshaped_cells(root: Path) -> list[str]:
    """Cells stay small, and imports stand apart (nbdev runs such cells when it builds documentation)."""
    found = []
    for path in notebooks(root):
        for code in cells(path):
            first = code.splitlines()[0]
            if re.search(r"^#\|\s*(export\w*|hide|default_exp)\s*:", code, re.MULTILINE):
                found.append(f"{path.name}: directive with a colon: {first}")
            found += [f"{path.name}: {len(line)} columns: {line[:60]}" for line in code.splitlines()
                      if len(line) > MAX_LINE and not line.startswith("#| fig-")]
            if EXPORT.search(code) and len(code.splitlines()) > MAX_CELL:
                found.append(f"{path.name}: exported cell of {len(code.splitlines())} lines: {code.splitlines()[1]}")
            body = parse(code).body
            imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
            if EXPORT.search(code) and imports and len(imports) < len(body):
                found.append(f"{path.name}: imports beside other code: {code.splitlines()[1]}")
            found += [f"{path.name}: star import from {node.module}" for node in imports
                      if any(name.name == "*" for name in node.names)]
    return found


def unproved(root: Path) -> list[str]:
    """Every exported public definition has a docstring, and an assertion within the next three code cells."""
    found = []
    for path in components(root):
        codes = cells(path)
        for i, code in enumerate(codes):
            if not EXPORT.search(code):
                continue
            following = [other for other in codes[i + 1:] if not EXPORT.search(other)][:3]
            proved = any(re.search(r"\bassert\b|\btest_\w+\(", other) for other in following)
            for node in parse(code).body:
                if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                    continue
                if not ast.get_docstring(node):
                    found.append(f"{path.name}: {node.name} has no docstring")
                if not proved:
                    found.append(f"{path.name}: no assertion in the three code cells after {node.name}")
    return found


def undescribed_pictures(root: Path) -> list[str]:
    """Every picture has an alternative text on the site, and a figure that is saved a caption too."""
    found = [f"{path.name}: a picture without fig-alt: {''.join(cell['source']).splitlines()[0]}"
             for path in notebooks(root) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
             if "#| fig-alt: " not in "".join(cell["source"]) and any(
                 "image/png" in output.get("data", {}) and not output["metadata"].get("image/png", {}).get("alt")
                 for output in cell.get("outputs", []))]
    return found + [f"{path.name}: {option} is missing: {code.splitlines()[0]}" for path in notebooks(root)
            for code in cells(path) if re.search(r"^\s*save_figure\(", code, re.MULTILINE) and not EXPORT.search(code)
            and not path.name[:2].isdigit()
            for option in ("fig-cap", "fig-alt") if not re.search(rf'^#\| {option}: ".+"$', code, re.MULTILINE)]


TO_COME = {  # pages that do not keep a rule yet; the list only shrinks
    "untitled_tables": ["guide_own_data.ipynb"],
    "answers_late": ["exp_compression.ipynb"],
}


def is_page_of_results(path: Path) -> bool:
    """Experiments, guides and the front page: what is read for its figures."""
    return path.parent.name == "nbs" and path.stem.startswith(("exp_", "guide_", "index"))


def cut_off_lines(root: Path) -> list[str]:
    """No printed line is wider than the box that a page shows of it; results are no printed tables."""
    found = []
    for path in notebooks(root):
        wide = [line for output in outputs(path) if output["output_type"] == "stream"
                for line in "".join(output["text"]).splitlines() if len(line) > MAX_PRINTED]
        found += [f"{path.name}: {len(line)} characters printed: {line[:60]}" for line in wide]
        if is_page_of_results(path):
            found += [f"{path.name}: a printed table, not show_table: {code.splitlines()[0]}"
                      for code in cells(path) if re.search(r"print\(.*\.to_string\(|display\(.*_text\(", code)]
    return found


def untitled_tables(root: Path) -> list[str]:
    """Where a cell shows several tables, each says in a caption what it is."""
    found = []
    for path in notebooks(root):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            pages = ["".join(output.get("data", {}).get("text/html", "")) for output in cell.get("outputs", [])]
            tables = [page for page in pages if "<table" in page]
            if len(tables) > 1 and not all("caption>" in page for page in tables):
                found.append(f"{path.name}: tables without captions: {''.join(cell['source']).splitlines()[0]}")
    return found


def typed_intervals(root: Path) -> list[str]:
    """No interval is typed by hand: it would outlive the rows that it came from."""
    interval = re.compile(r"\[\s*[-+−]?\d*\.?\d+\s*(?:,|to)\s*[-+−]?\d*\.?\d+\s*\]")
    return [f"{path.name}: {match} stands in prose: make it from rows (autodim.study.tables.prose)"
            for path in notebooks(root) if is_page_of_results(path) for text in cells(path, "markdown")
            for match in interval.findall(re.sub(r"`[^`]*`|\$[^$]*\$", "", text))]


def answers_late(root: Path) -> list[str]:
    """An experiment opens with its answer, then a reading of at most 200 words, both made from rows, before all else."""
    found = []
    for path in notebooks(root):
        if not path.stem.startswith("exp_"):
            continue
        whole = json.loads(path.read_text(encoding="utf-8"))["cells"]
        made = ["".join("".join(o.get("data", {}).get("text/markdown", "")) for o in cell.get("outputs", []))
                for cell in whole]
        reading = "".join(whole[3]["source"]).strip() + made[4] if whole[3]["cell_type"] == "markdown" else made[3]
        if not re.search(r"^answer\(", "".join(whole[2]["source"]), re.MULTILINE):
            found.append(f"{path.name}: the third cell is not the answer")
        elif not reading.startswith("## Reading"):
            found.append(f"{path.name}: no Reading made from rows after the answer")
        elif not 10 < len(reading.split()) <= 205:
            found.append(f"{path.name}: a Reading of {len(reading.split())} words")
    return found


def not_on_site(root: Path) -> list[str]:
    """Every notebook is rendered and stands in the sidebar, once; the sidebar names no other."""
    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    listed = [href for _, href in pages_of(config["website"]["sidebar"]["contents"])]
    here = [path.relative_to(root).as_posix() for path in notebooks(root)]
    found = [f"_quarto.yml: {href} does not exist" for href in sorted(set(listed) - set(here))]
    found += [f"_quarto.yml: {href} is not in the sidebar" for href in sorted(set(here) - set(listed))]
    found += [f"_quarto.yml: {href} is listed twice" for href in sorted(set(listed)) if listed.count(href) > 1]
    found += [f"_quarto.yml: {href} is not rendered" for href in here
              if not any(PurePosixPath(href).match(pattern) for pattern in config["project"]["render"])]
    return found


def undeclared(root: Path) -> list[str]:
    """What the package imports is in settings.ini, and what settings.ini names is pinned in requirements.txt."""
    lines = [line.strip() for line in (root / "requirements.txt").read_text().splitlines()]
    pins = [line for line in lines if line and not line.startswith("#")]
    found = [f"requirements.txt: {line} is not an exact pin" for line in pins
             if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    pinned = {line.split("==")[0].lower() for line in pins}
    named = {key: [re.split(r"[<>=]", item)[0] for item in settings(root)[key].split()]
             for key in ("requirements", "test_requirements", "dev_requirements")}
    found += [f"requirements.txt lacks {name} of settings.ini" for names in named.values() for name in names
              if name.lower() not in pinned]
    there = {"autodim", "IPython", *sys.stdlib_module_names}  # IPython: wherever a notebook runs, and only there
    known = {IMPORT_NAMES.get(name, name) for name in named["requirements"]} | there
    for path in sorted((root / "autodim").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [f"{path.relative_to(root)} imports {name}, which settings.ini does not require"
                      for name in names if name.split(".")[0] not in known]
    return found


def versions_apart(root: Path) -> list[str]:
    """One version: settings.ini, autodim/__init__.py, CITATION.cff, the site's footer."""
    version = settings(root)["version"]
    places = {"autodim/__init__.py": f'__version__ = "{version}"', "CITATION.cff": f"version: {version}",
              "_quarto.yml": f"autodim {version}"}
    return [f"{name} does not say version {version}" for name, text in places.items()
            if text not in (root / name).read_text()]


def filter_notebook(path: Path) -> subprocess.CompletedProcess:
    """Run the filter as Quarto does: the notebook on stdin, in the notebook's folder."""
    script = Path(__file__).resolve().parents[1] / "scripts" / "nbdev_filter.py"
    return subprocess.run([sys.executable, script], input=path.read_text(encoding="utf-8"), cwd=path.parent,
                          capture_output=True, text=True)


def unreadable_page(path: Path) -> list[str]:
    """The filter gives a notebook; exported source and signatures are in it, nbdev's directives are not."""
    result = filter_notebook(path)
    if result.returncode:
        return [f"{path.name}: filter failed: {result.stderr.strip()}"]
    page = json.loads(result.stdout)
    sources = ["".join(cell["source"]) for cell in page["cells"]]
    found = []
    if not {"cells", "metadata", "nbformat", "nbformat_minor"} <= page.keys():
        found.append(f"{path.name}: the filter's output is no notebook")
    found += [f"{path.name}: an output of text/html, for which Quarto loads scripts from a server"
              for cell in page["cells"] for output in cell.get("outputs", []) if "text/html" in output.get("data", {})]
    directives = [line for cell, source in zip(page["cells"], sources) if cell["cell_type"] == "code"
                  for line in source.splitlines() if line.startswith("#|")]
    found += [f"{path.name}: visible directive {line}" for line in directives
              if not QUARTO_OPTION.match(line)]
    shown = "\n".join(sources)
    for code in (code for code in cells(path) if EXPORT.search(code)):
        body = "\n".join(line for line in code.splitlines() if not line.startswith("#|")).strip()
        if body not in shown:
            found.append(f"{path.name}: exported source is not shown: {body.splitlines()[0]}")
        for node in parse(code).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                if f"### `{node.name}`" not in shown:
                    found.append(f"{path.name}: no heading for {node.name}")
    return found


# ---------------------------------------------------------------- this repository keeps them

PLAIN_RULES = [stale_modules, backward_imports, misnamed, unshaped_cells, unproved, undescribed_pictures, not_on_site,
               undeclared, versions_apart, not_executed, cut_off_lines, untitled_tables, typed_intervals, answers_late]
COPY_RULES = [not_in_step, not_clean]


@pytest.mark.house
@pytest.mark.parametrize("rule", PLAIN_RULES, ids=lambda rule: rule.__name__)
def test_rule(rule, root):
    complaints = [one for one in rule(root) if one.split(":")[0] not in TO_COME.get(rule.__name__, ())]
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.house
@pytest.mark.parametrize("rule", COPY_RULES, ids=lambda rule: rule.__name__)
def test_rule_with_nbdev(rule, root, tmp_path):
    complaints = rule(root, tmp_path / "copy")
    assert not complaints, "\n" + "\n".join(complaints)


NOTEBOOKS = notebooks(Path(__file__).resolve().parents[1])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_page_is_readable(path):
    complaints = unreadable_page(path)
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.house
def test_experiments_fold_their_parameters_and_what_draws(root):
    page = json.loads(filter_notebook(root / "nbs" / "exp_settings.ipynb").stdout)
    codes = ["".join(cell["source"]) for cell in page["cells"] if cell["cell_type"] == "code"]
    closed = [code for code in codes if code.startswith("#| code-fold: true\n")]
    for sign in ("most_rows =", "save_figure(figure", "show_table(table"):
        assert any(sign in code for code in closed), sign
    assert not any("def missing_rows" in code for code in closed)  # what is measured stays open


ALONE = ("exp_numbers", "exp_numerical", "exp_retrieval", "exp_scale", "exp_settings", "exp_speed",
         "exp_table2", "exp_tasks", "exp_whole")  # need no rows that others train
TOGETHER = pytest.mark.xdist_group("experiments")  # the others: by one process after the other, for their rows' sake
EXPERIMENTS = [pytest.param(path, id=path.stem, marks=() if path.stem in ALONE else TOGETHER)
               for path in NOTEBOOKS if path.stem.startswith("exp_")]


@pytest.fixture(scope="module")
def quick_out(tmp_path_factory) -> Path:
    """One folder for the experiments' new rows: what one has trained the next need not."""
    return tmp_path_factory.mktemp("quick")


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_experiment_runs_through_papermill(path, root, tmp_path, quick_out):
    """The quick configuration, cut shorter; all files in a temporary folder, and the committed ones untouched."""
    watched = [entry for name in ("results", "figures", "nbs") for entry in (root / name).rglob("*") if entry.is_file()]
    before = {entry: entry.stat().st_mtime_ns for entry in watched}
    executed = tmp_path / path.name
    command = [BIN / "papermill", path, executed, "-f", root / "configs" / "quick.yaml", "-p", "out", quick_out,
               "-y", "{search_epochs: 2, epochs: 3, rounds: 1, draws: 1, search_seeds: [0, 1], threads: 1, workers: 1}"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert list((quick_out / "results").glob("*.csv")) and list((quick_out / "figures").glob(f"{path.stem}*.png"))
    assert {entry: entry.stat().st_mtime_ns for entry in before} == before


@pytest.mark.house
@pytest.mark.parametrize("path", EXPERIMENTS)
def test_experiment_checks_its_parameters(path):
    """First of all after them: else a mistyped one is a run under the defaults."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    place = next(i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", []))
    assert cells[place + 1]["source"][0] == "check_parameters(In)\n" and parameters_of(path)


@pytest.mark.house
def test_configurations_name_parameters_of_their_experiments(root):
    """An experiment's own has no other names; what all share has none that nobody has."""
    known = {param.values[0].stem[4:]: set(parameters_of(param.values[0])) for param in EXPERIMENTS}
    for path in (root / "configs").glob("*.yaml"):
        named = set(yaml.safe_load(path.read_text()))
        own = known.get(path.stem) or known.get(path.stem.split("-")[0], known["table3"])  # stream-planted: of stream
        fitting = set().union(*known.values(), {"shared"}) if "shared" in named else own
        assert named <= fitting, path.name


def test_a_mistyped_parameter_fails_the_experiment(root, tmp_path):
    command = [BIN / "papermill", root / "nbs" / "exp_table3.ipynb", tmp_path / "out.ipynb", "-p", "sedes", "3", "-p", "out", tmp_path]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "parameter 'sedes': expected one of name, dataset," in done.stderr
    assert "did you mean 'seeds'?" in done.stderr and not list(tmp_path.glob("results/*"))


@pytest.mark.house
def test_readme_commands_exist(root):
    """Each `make` target that the README names is one of the Makefile's."""
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", (root / "README.md").read_text()))
    assert {"study", "test"} <= named <= targets


# ---------------------------------------------------------------- each rule speaks up when it is broken

ALPHA, BETA, FRONT = "nbs/data/00_alpha.ipynb", "nbs/method/00_beta.ipynb", "nbs/index.ipynb"


def write_notebook(path: Path, *sources: str, output: str = "1\n") -> None:
    """A clean notebook of these cells; a source that starts with '# ' is prose. The last code cell has an output."""
    made = []
    for i, source in enumerate(sources):
        cell = {"cell_type": "code", "execution_count": None, "id": f"c{i}", "metadata": {}, "outputs": [],
                "source": source.splitlines(keepends=True)}
        if source.startswith("# "):
            cell = {"cell_type": "markdown", "id": f"c{i}", "metadata": {}, "source": cell["source"]}
        made.append(cell)
    code = [cell for cell in made if cell["cell_type"] == "code"]
    if code and output:
        code[-1]["outputs"] = [{"name": "stdout", "output_type": "stream", "text": [output]}]
    document = {"cells": made, "metadata": {"kernelspec": {"display_name": "python3", "language": "python",
                "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def component(name: str, imports: str, function: str = "", test: str = "", room: str = "data") -> list[str]:
    function = function or f'def {name}_size(x: int) -> int:\n    """Eq. 0: the size of x."""\n    return x'
    return [f"# {name}\n\n> What {name} is for.", f"#| default_exp {room}.{name}", f"#| export\n{imports}",
            f"#| export\n{function}", test or f"assert {name}_size(1) == 1"]


@pytest.fixture(scope="module")
def small_original(tmp_path_factory, root) -> Path:
    """A repository of two components and a front page that keeps every rule."""
    folder = tmp_path_factory.mktemp("house") / "small"
    for room in ("data", "method"):
        (folder / "nbs" / room).mkdir(parents=True)
    write_notebook(folder / ALPHA, *component("alpha", "import math"))
    write_notebook(folder / BETA, *component("beta", "from autodim.data.alpha import alpha_size", room="method"))
    write_notebook(folder / "nbs/index.ipynb", "# Front\n", "print(1)")
    for name in ("settings.ini", "requirements.txt", "CITATION.cff"):
        shutil.copy(root / name, folder)
    site = {"project": {"render": ["nbs/index.ipynb", "nbs/*/*.ipynb"]}, "website": {
        "page-footer": {"left": f"autodim {settings(root)['version']}"}, "sidebar": {"contents": [
            {"section": "All", "contents": [{"text": href, "href": href} for href in (FRONT, ALPHA, BETA)]}]}}}
    (folder / "_quarto.yml").write_text(yaml.safe_dump(site))
    (folder / "autodim").mkdir()
    subprocess.run([BIN / "nbdev_export"], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def small(small_original, tmp_path) -> Path:
    """A copy of the small repository, to be broken."""
    return shutil.copytree(small_original, tmp_path / "small")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit(name: str, old: str, new: str):
    """A damage: replace text in one file of the small repository."""
    return lambda root: change(root / name, old, new)


OUTPUT = '{\n     "name": "stdout",\n     "output_type": "stream",\n     "text": [\n      "1\\n"\n     ]\n    }'
TABLE = OUTPUT.replace('"name": "stdout"', '"metadata": {}').replace("stream", "display_data").replace(
    '"text": [\n      "1\\n"\n     ]', '"data": {"text/html": ["<table></table>"]}')
BROKEN = {
    "module edited by hand": (not_in_step, edit("autodim/data/alpha.py", "return x", "return x + 1"), "alpha.py"),
    "notebook not exported": (not_in_step, edit(ALPHA, "return x", "return x + 1"), "alpha.py"),
    "notebook deleted": (stale_modules, lambda r: (r / BETA).unlink(), "autodim/method/beta.py"),
    "execution count": (not_clean, edit(ALPHA, '"execution_count": null', '"execution_count": 7'),
        "nbdev_clean"),
    "path in an output": (not_clean, edit(FRONT, '"1\\n"', '"/home/me/x\\n"'), "/home/me"),
    "stderr in an output": (not_clean, edit(FRONT, '"stdout"', '"stderr"'), "stderr"),
    "never run": (not_executed, lambda r: write_notebook(r / ALPHA, *component("alpha", "import math"),
                                                         output=""), "00_alpha"),
    "import from above": (backward_imports, edit(ALPHA, "import math", "from autodim.method.beta import beta_size"),
        "autodim.method.beta"),
    "relative import from above": (backward_imports, edit(ALPHA, "import math", "from ..method.beta import x"),
        "..method.beta"),
    "wrong title": (misnamed, edit(ALPHA, "# alpha", "# Alphabet"), "00_alpha"),
    "front page exports": (misnamed, edit(FRONT, "print(1)", "#| default_exp x"), "exports x"),
    "long line": (unshaped_cells, edit(FRONT, "print(1)", "x = " + "1" * MAX_LINE), "columns"),
    "colon": (unshaped_cells, edit(ALPHA, "#| export", "#| export:"), "colon"),
    "star import": (unshaped_cells, edit(ALPHA, "import math", "from math import *"), "star"),
    "long cell": (unshaped_cells, lambda r: write_notebook(r / ALPHA, *component(
        "alpha", "import math", "def alpha_size(x):\n" + "    x += 1\n" * 70)), "exported cell of"),
    "mixed imports": (unshaped_cells, edit(ALPHA, "def alpha_size", "import re\\n\",\n    \"def alpha_size"),
        "imports beside"),
    "no assertion": (unproved, edit(ALPHA, "assert alpha_size(1) == 1", "alpha_size(1)"), "no assertion"),
    "no docstring": (unproved, edit(ALPHA, '\\"\\"\\"Eq. 0: the size of x.\\"\\"\\"', "pass"), "no docstring"),
    "no alternative text": (undescribed_pictures, edit(FRONT, "print(1)", '#| fig-cap: \\"x\\"\\nsave_figure(f, 1, 2)'),
        "fig-alt is missing"),
    "wide print": (cut_off_lines, edit(FRONT, '"1\\n"', '"' + "1 " * 60 + '\\n"'), "characters printed"),
    "printed table": (cut_off_lines, edit(FRONT, "print(1)", "print(x.to_string())"), "not show_table"),
    "tables without captions": (untitled_tables, edit(FRONT, OUTPUT, f"{TABLE},{TABLE}"), "without captions"),
    "typed interval": (typed_intervals, edit(FRONT, "# Front", "# Front -0.02 [-0.11, +0.06]"), "[-0.11, +0.06]"),
    "no answer": (answers_late, lambda r: write_notebook(r / "nbs/exp_x.ipynb", "# X\n", "import math", "print(1)",
                                                         "# Reading\n", "print(2)"), "not the answer"),
    "not in the sidebar": (not_on_site, edit("_quarto.yml", f"href: {BETA}", f"href: {FRONT}"),
        "00_beta.ipynb is not in"),
    "not rendered": (not_on_site, edit("_quarto.yml", "- nbs/*/*.ipynb", "- nbs/data/*.ipynb"), "not rendered"),
    "loose requirement": (undeclared, edit("requirements.txt", "tqdm==", "tqdm>="), "tqdm"),
    "undeclared import": (undeclared, edit("autodim/data/alpha.py", "import math", "import requests"), "requests"),
    "version": (versions_apart, edit("settings.ini", "version = 0.1.0", "version = 0.2.0"), "CITATION"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rule_is_noticed(name, small, tmp_path):
    rule, damage, expected = BROKEN[name]
    def complaints(copy: str) -> list[str]:
        return rule(small, tmp_path / copy) if rule in COPY_RULES else rule(small)

    assert complaints("before") == []
    damage(small)
    assert expected in "\n".join(complaints("after"))


def test_broken_page_is_noticed(small, monkeypatch):
    path = small / ALPHA
    complaints = unreadable_page(path)
    assert not complaints, "\n" + "\n".join(complaints)
    shown = filter_notebook(path).stdout
    for old, new in (("    return x", "    ..."), ("#| code-fold: show", "#| export"), ("### `alpha_size`", "")):
        assert old in shown
        damaged = subprocess.CompletedProcess([], 0, stdout=shown.replace(old, new), stderr="")
        monkeypatch.setattr(sys.modules[__name__], "filter_notebook", lambda _: damaged)
        assert unreadable_page(path) != []


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_filter_refuses_what_is_no_notebook(text, tmp_path):
    (tmp_path / "x.ipynb").write_text(text)
    result = filter_notebook(tmp_path / "x.ipynb")
    assert result.returncode != 0 and result.stderr.startswith("nbdev_filter: stdin is not a notebook")
    assert len(result.stderr.splitlines()) == 1
