"""The site without Quarto: render the notebooks that _quarto.yml lists into _preview/, readable without a network.

The notebooks pass the same filter as on the site (scripts/nbdev_filter.py), nbconvert makes them HTML, and TeX becomes
MathML, which browsers draw by themselves. Figures are embedded; nothing is loaded from elsewhere.

    python scripts/preview.py [FOLDER]
"""
import html
import os
import re
import sys
from pathlib import Path

import nbformat
import yaml
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from nbdev_filter import filter_notebook

ROOT = Path(__file__).resolve().parents[1]
CELLS = """{% extends 'index.html.j2' %}
{% block input_group %}{% if not cell.metadata.get('no_source') %}{{ super() }}{% endif %}{% endblock %}
{% block input %}{% set fold = cell.metadata.get('fold') %}
{% if fold %}<details {{ fold.state }}><summary>{{ fold.summary }}</summary>{{ super() }}</details>
{% else %}{{ super() }}{% endif %}{% endblock %}"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - {site}</title>
<style>
{style}
</style>
</head>
<body>
<nav aria-label="Pages">
<p class="site"><a href="{front}">{site}</a></p>
{menu}
</nav>
<main>
{body}
<footer>{neighbours}</footer>
</main>
</body>
</html>
"""


class MathRenderer(IPythonRenderer):
    """nbconvert's Markdown with TeX turned into MathML here, where nbconvert leaves it to a script from a server."""

    def block_math(self, body: str) -> str:
        return f'<div class="equation">{self.mathml(body, "block")}</div>'

    def inline_math(self, body: str) -> str:
        return self.mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def block_html(self, html: str) -> str:
        """HTML as it stands: to embed its pictures nbconvert would close a `<details>` before what it folds."""
        return super().block_html(html) if "<img" in html else html

    def mathml(self, body: str, display: str) -> str:
        tex = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{align*}", body.strip())
        tex = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", tex)
        try:
            made = convert(tex, display=display)
        except Exception as error:
            raise ValueError(f"formula not understood ({type(error).__name__}): {tex}") from error
        unknown = re.search(r"\\[a-zA-Z]+", re.sub(r"<annotation.*?</annotation>", "", made))
        if unknown:
            raise ValueError(f"formula with {unknown[0]}, which latex2mathml does not know: {tex}")
        return re.sub(r"(<mi>(?:log|ln|exp)</mi>)(?=<m(?!o))", r'\1<mspace width="0.167em" />', made)


class PageExporter(HTMLExporter):
    """nbconvert's bare HTML of the cells: no prompts, no scripts, exported source in folds."""

    def _init_resources(self, resources):
        return super()._init_resources(resources) | {"should_sanitize_html": False}

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        renderer = MathRenderer(escape=False, embed_images=True, path=path, anchor_link_text="#")
        return MarkdownWithMath(renderer=renderer).render(source)


def options(cell) -> dict[str, str]:
    """Take the Quarto options (`#| key: value`) off the head of a cell and return them."""
    found = {}
    lines = cell.source.splitlines()
    while lines and (match := re.match(r"#\|\s*([\w-]+):\s*(.*)", lines[0])):
        found[match[1]] = match[2].strip().strip('"')
        lines.pop(0)
    cell.source = "\n".join(lines)
    return found


def describe_picture(output, chosen: dict[str, str]) -> None:
    """Give a picture its alternative text and its caption, as Quarto does with fig-alt and fig-cap."""
    alt, caption = chosen.get("fig-alt", chosen.get("fig-cap", "")), chosen.get("fig-cap", "")
    source = f"data:image/png;base64,{output.data.pop('image/png').strip()}"
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    alt = alt or output.metadata.get("image/png", {}).get("alt", "")
    output.data["text/html"] = f'<figure><img src="{source}" alt="{html.escape(alt)}">{words}</figure>'


def read_page(path: Path):
    """The filtered notebook with Quarto's options carried out."""
    notebook = nbformat.reads(filter_notebook(path.read_text(encoding="utf-8")), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        chosen = options(cell)
        if "code-fold" in chosen:
            state = "" if chosen["code-fold"] == "true" else "open"
            cell.metadata["fold"] = {"state": state, "summary": chosen.get("code-summary", "Code")}
        if chosen.get("echo") == "false":
            cell.metadata["no_source"] = True
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                describe_picture(output, chosen)
    return notebook


def sections(config: dict) -> list[tuple[str, list[tuple[str, str]]]]:
    """The sidebar of _quarto.yml: (section, [(text, notebook)])."""
    return [(block["section"], [(entry["text"], entry["href"]) for entry in block["contents"]])
            for block in config["website"]["sidebar"]["contents"]]


def page_link(href: str, current: str) -> str:
    """From the page of one notebook to that of another."""
    return Path(os.path.relpath(href, Path(current).parent)).with_suffix(".html").as_posix()


def menu(blocks, current: str) -> str:
    """The sidebar as HTML, with the current page marked."""
    parts = []
    for section, entries in blocks:
        parts.append(f"<h2>{html.escape(section)}</h2>\n<ul>")
        for text, href in entries:
            mark = ' aria-current="page"' if href == current else ""
            parts.append(f'<li><a href="{page_link(href, current)}"{mark}>{html.escape(text)}</a></li>')
        parts.append("</ul>")
    return "\n".join(parts)


def neighbours(blocks, current: str) -> str:
    """Links to the page before and after, in the order of the sidebar."""
    pages = [entry for _, entries in blocks for entry in entries]
    here = [href for _, href in pages].index(current)
    links = []
    for step, sign in ((-1, "← {}"), (1, "{} →")):
        if 0 <= here + step < len(pages):
            text, href = pages[here + step]
            links.append(f'<a href="{page_link(href, current)}">{sign.format(html.escape(text))}</a>')
        else:
            links.append("<span></span>")
    return "".join(links)


def stylesheet() -> str:
    """scripts/preview.css and the colours of the code, light and dark."""
    code = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    own = (ROOT / "scripts" / "preview.css").read_text(encoding="utf-8")
    return f"{code}\n{own}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def our_own(source: str) -> str:
    """Code that Pygments has marked up, without nbconvert's wash for notebooks of strangers: half of the time."""
    return source


def render(folder: Path, root: Path = ROOT) -> list[Path]:
    """Write one page for each notebook that the sidebar of root/_quarto.yml lists; a missing notebook is an error."""
    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    blocks, site, style = sections(config), config["website"]["title"], stylesheet()
    exporter = PageExporter(template_name="basic", raw_template=CELLS, embed_images=True,
                            exclude_input_prompt=True, exclude_output_prompt=True, filters={"clean_html": our_own})
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for text, href in (entry for _, entries in blocks for entry in entries):
        source = root / href
        if not source.exists():
            raise ValueError(f"_quarto.yml: {href} is listed and does not exist")
        try:
            body, _ = exporter.from_notebook_node(read_page(source), {"metadata": {"path": str(source.parent)}})
        except ValueError as error:
            raise ValueError(f"{href}: {error}") from error
        body = re.sub(r'href="(?!https?:)([^"#]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', body)
        page = folder / Path(href).relative_to("nbs").with_suffix(".html")
        page.parent.mkdir(exist_ok=True)
        page.write_text(PAGE.format(title=html.escape(text), site=html.escape(site), style=style, body=body,
                                    front=page_link("nbs/index.ipynb", href), menu=menu(blocks, href),
                                    neighbours=neighbours(blocks, href)), encoding="utf-8")
        written.append(page)
    return written


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_preview"
    try:
        pages = render(target)
    except ValueError as error:
        sys.exit(f"preview: {error}")
    print(f"{len(pages)} pages: open {target / 'index.html'}")
