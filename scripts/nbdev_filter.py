"""Notebook filter for Quarto (`ipynb-filters`) and for `make preview`: notebook JSON on stdin, notebook JSON on stdout.

nbdev's own processors do the small things (languages, `hide`, `hide_line`, `filter_stream`, ANSI colours). Left out are
those that assume nbdev's folder layout (front matter, link rewriting) and the three that replace the source of an
exported cell by its documentation. Here the implementation is the story: an exported cell keeps its source, in a
fold that is open, under a heading and the signature of every public name it defines. A name of the package that stands
in backticks becomes a link to its definition, and a term of the glossary has its meaning as hover text where it is
first used.
"""
import ast
import html
import json
import os
import re
import sys
import textwrap
from collections import Counter
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

from execnb.nbio import dict2nb, mk_cell, nb2dict
from nbdev.process import NBProcessor, Processor
from nbdev.processors import (clean_magics, filter_stream_, hide_, hide_line, populate_language, rm_header_dash,
                              strip_ansi, strip_hidden_metadata)

import autodim

ROOT = Path(__file__).resolve().parents[1]
EXPORTS = {"export", "exports", "exporti"}
WORDS = {"random_state"}  # also an argument
# what is no prose: blocks of code, headings, quotes, links and pictures, code in two backticks, formulas, tags
FIXED = r"(?ms)^```.*?^```|^[#>].*?$|!?\[[^\]]*\]\([^)]*\)|``.*?``|\$\$.*?\$\$|\$[^$\n]+\$|<[^>\n]+>"
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def is_exported(cell) -> bool:
    """Whether nbdev writes this cell into the module."""
    return cell.cell_type == "code" and bool(EXPORTS & cell.directives_.keys())


def constructor(node: ast.ClassDef) -> str:
    """The arguments a class is called with: of `__init__`, else the annotated fields of a dataclass or NamedTuple."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return ast.unparse(item.args).removeprefix("self").removeprefix(", ")
    return ", ".join(ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign))


def signature(node: ast.AST) -> str:
    """The definition without its body: `auc(labels: Tensor, scores: Tensor) -> float`."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        head, arguments = f"class {node.name}({bases})" if bases else f"class {node.name}", constructor(node)
        return f"{head}\n{wrap(f'{node.name}({arguments})')}" if arguments else head
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return wrap(f"{node.name}({ast.unparse(node.args)}){result}")


def wrap(call: str) -> str:
    """Break a long call between its arguments, so that no reader has to scroll sideways."""
    glued = call.replace(": ", ":\N{NO-BREAK SPACE}")  # a name stays beside its type
    indent = " " * (call.index("(") + 1)
    lines = textwrap.fill(glued, 88, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def plain(text: str) -> str:
    """Escape what Markdown would take for markup (`x^2 * y_i`), except inside backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*^~<>_|])", r"\\\1", part) for part in parts)


def card(node: ast.AST) -> str:
    """Markdown for one public definition: heading, signature, first paragraph of the docstring."""
    first = plain((ast.get_docstring(node) or "").split("\n\n")[0])
    return f"### `{node.name}`\n\n```python\n{signature(node)}\n```\n\n{first}".rstrip()


def fold(cell, state: str, summary: str) -> None:
    """Put the cell's code into a fold that is open (`show`) or closed (`true`)."""
    cell.source = f'#| code-fold: {state}\n#| code-summary: "{summary}"\n{cell.source}'


def fold_imports(cell):
    """Close the fold over a cell of imports alone: needed to run the page, seldom to follow it."""
    body = cell.parsed_() if cell.cell_type == "code" else None
    only_imports = body and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)
    if only_imports and "echo:" not in cell.directives_:
        fold(cell, "true", "Imports of the module" if is_exported(cell) else "Imports of this page")
        cell.directives_ = {}


class fold_experiments(Processor):
    """On an experiment's page, one with parameters, close folds over these and over code that draws or makes tables."""

    def begin(self):
        tags = [cell.metadata.get("tags", []) for cell in self.nb.cells]
        for cell, own in zip(self.nb.cells, tags) if any("parameters" in own for own in tags) else ():
            shows = re.search(r"^\s*(save_figure|show_table)\(", cell.source, re.MULTILINE)
            said = re.search(r"^#\| (echo|code-fold):", cell.source, re.MULTILINE)
            if cell.cell_type == "code" and "parameters" in own:
                fold(cell, "true", "Parameters")
            elif cell.cell_type == "code" and shows and not said:
                fold(cell, "true", "How it is drawn" if shows[1] == "save_figure" else "How it is made")


class show_exports(Processor):
    """Put the signatures above each exported cell, and its source into an open fold."""

    def begin(self):
        cells = []
        for cell in self.nb.cells:
            if is_exported(cell):
                public = [node for node in ast.parse(cell.source).body
                          if isinstance(node, DEFINITIONS) and not node.name.startswith("_")]
                cells += [mk_cell(card(node), "markdown", id=f"{cell.id}-{node.name}") for node in public]
                fold(cell, "show", "Source")
            cells.append(cell)
        self.nb.cells = cells


def spell_tag(cell):
    """Write an equation's number as text: MathML in browsers knows no `\\tag`."""
    if cell.cell_type == "markdown":
        cell.source = re.sub(r"\\tag\{([^{}]*)\}", r"\\qquad \\text{(\1)}", cell.source)


@cache
def definitions() -> dict[str, str]:
    """Where each public name of the package is defined, from the site's root: `/nbs/method/05_metrics.ipynb#auc`."""
    found = [(node.name, f"/{path.relative_to(ROOT).as_posix()}#{node.name}")
             for path in sorted((ROOT / "nbs").glob("*/[0-9]*.ipynb"))
             for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
             if cell["cell_type"] == "code" and re.match(r"#\| exports?$", "".join(cell["source"]), re.MULTILINE)
             for node in ast.parse("".join(cell["source"])).body if isinstance(node, DEFINITIONS)]
    count = Counter(name for name, _ in found)
    return {name: place for name, place in found
            if count[name] == 1 and name not in WORDS and not name.startswith("_")}


def place_of(name: str) -> str | None:
    """Where a name in backticks is defined; of plain words, `f()` and what the package itself offers: others are columns."""
    bare = name.removesuffix("()")
    plain_word = re.fullmatch("[a-z]+", name) and name not in autodim.__all__
    return None if plain_word else definitions().get(bare)


def link_names(cell):
    """Link names in backticks to their definitions; headings, code and what is linked already stay as they are."""
    def link(match):
        place = place_of(match["name"] or "")
        return f"[`{match['name']}`]({place})" if place else match[0]

    if cell.cell_type == "markdown":
        cell.source = re.sub(rf"{FIXED}|`(?P<name>\w+(?:\(\))?)`", link, cell.source)


@cache
def terms() -> dict[str, str]:
    """The terms that the glossary has in bold, with their meanings."""
    path = ROOT / "nbs" / "glossary.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []
    rows = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return dict(re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \|$", rows, re.MULTILINE))


class explain_terms(Processor):
    """Give a term of the glossary its meaning as hover text where a page's prose first uses it."""

    def begin(self):
        left = {} if self.nb.cells[0].source.startswith("# Glossary") else dict(terms())

        def explain(match):
            meaning = left.pop(match["term"], None) if match["term"] else None
            return f'<abbr title="{html.escape(meaning)}">{match["term"]}</abbr>' if meaning else match[0]

        names = "|".join(map(re.escape, sorted(left, key=len, reverse=True)))
        prose = re.compile(rf"{FIXED}|`[^`]*`|(?<![\w-])(?P<term>{names})(?![\w-])")
        for cell in self.nb.cells if left else []:
            if cell.cell_type == "markdown":
                cell.source = prose.sub(explain, cell.source)
            for output in cell.get("outputs", []):
                text = "".join(output.get("data", {}).get("text/markdown", ""))
                if text and not text.startswith("<details"):  # what is folded away is not met first
                    output["data"]["text/markdown"] = prose.sub(explain, text)


def drop_empty(cell):
    """Remove cells of directives alone, such as `#| default_exp data`."""
    lines = cell.source.splitlines()
    if cell.cell_type == "code" and all(not line.strip() or line.lstrip().startswith("#|") for line in lines):
        del cell["source"]


PROCESSORS = [populate_language, strip_ansi, hide_line, filter_stream_, hide_, rm_header_dash, drop_empty,
              spell_tag, fold_imports, fold_experiments, show_exports, link_names, explain_terms, clean_magics,
              strip_hidden_metadata]


def filter_notebook(text: str) -> str:
    """Filter one notebook given as JSON; raises ValueError when the text is no notebook."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"stdin is not a notebook: {error}") from None
    if "cells" not in document:
        raise ValueError('stdin is not a notebook: no "cells"')
    notebook = dict2nb(document)
    with open(os.devnull, "w", encoding="utf-8") as quiet, redirect_stdout(quiet):
        NBProcessor(nb=notebook, procs=PROCESSORS).process()
    return json.dumps(nb2dict(notebook), ensure_ascii=False, indent=1) + "\n"


def for_quarto(text: str) -> str:
    """A filtered notebook as Quarto needs it.

    HTML goes as Markdown that holds HTML: Quarto adds require.js and jQuery from a server to any page with an output
    of type text/html. A picture's own alternative text becomes its cell's, the one-line purpose the page's description,
    and headings of names keep the name as id.
    """
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt and "#| fig-alt:" not in cell["source"]:
                cell["source"] = f"#| fig-alt: {json.dumps(alt, ensure_ascii=False)}\n{cell['source']}"
            page = output.get("data", {}).pop("text/html", None)
            if page is not None:
                output["data"]["text/markdown"] = f"``````{{=html}}\n{''.join(page)}\n``````\n"
        if cell["cell_type"] == "markdown":
            cell["source"] = re.sub(r"(?m)^### `(\w+)`$", r"### `\1` {#\1}", "".join(cell["source"]))
    first = notebook["cells"][0]
    purpose = re.match(r"(# [^\n]*\n)\s*((?:>[^\n]*(?:\n|$))+)", "".join(first["source"]))
    if purpose:
        line = re.sub(r"\s*\n> *", " ", purpose[2].removeprefix(">")).strip()
        first["source"] = purpose[1] + first["source"][purpose.end():]
        notebook["cells"].insert(0, {"cell_type": "raw", "id": "description", "metadata": {},
                                     "source": f"---\ndescription: {json.dumps(line, ensure_ascii=False)}\n---\n"})
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8")
    try:
        sys.stdout.write(for_quarto(filter_notebook(sys.stdin.read())))
    except ValueError as error:
        sys.exit(f"nbdev_filter: {error}")
