"""The site without Quarto: render the notebooks that _quarto.yml lists into _preview/, readable without a network.

The notebooks pass the same filter as on the site (scripts/nbdev_filter.py), nbconvert makes them HTML, and TeX becomes
MathML, which browsers draw by themselves. Figures are embedded; nothing is loaded from elsewhere.

    python scripts/preview.py [FOLDER]
"""
import base64
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
PENDING = "<summary>"  # a callout's title that the next line says
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - {site}</title>
<meta name="description" content="{purpose}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="{icon}">
<style>
{style}
</style>
</head>
<body>
<nav class="pages" aria-label="Pages">
<p class="site"><a href="{front}">{site}</a></p>
<details class="all"><summary>All pages</summary>
{menu}
</details>
</nav>
<main>
{contents}
{body}
<p class="neighbours">{neighbours}</p>
<footer>{footer}</footer>
</main>
</body>
</html>
"""


class MathRenderer(IPythonRenderer):
    """nbconvert's Markdown with TeX turned into MathML here, where nbconvert leaves it to a script from a server."""

    def _src_to_base64(self, src: str) -> str | None:
        """A picture of figures/, which nbconvert would not embed: it lies beside the notebook's folder, not in it."""
        path = (Path(self.path) / src).resolve()
        if not (path.is_file() and path.is_relative_to(ROOT)):
            return None
        return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"

    def heading(self, text: str, level: int, **attrs) -> str:
        """A heading with the id that Quarto gives it: the words in small letters, a definition's own name as it is."""
        words = html.unescape(re.sub(r"<annotation.*?</annotation>|<[^>]+>", "", text)).strip()
        whole = re.fullmatch(r"<code>(\w+)</code>", text.strip())
        place = words if whole else re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", words)).lower().lstrip("0123456789-._")
        return (f'<h{level} id="{place}">{text}<a class="anchor-link" href="#{place}" aria-label="Link to this heading">'
                f"#</a></h{level}>\n")

    def inline_html(self, text: str) -> str:
        """A tag as it is; nbconvert would close each by itself when it looks for pictures to embed."""
        return super().inline_html(text) if "<img" in text else text

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
        renderer = MathRenderer(escape=False, embed_images=True, path=path)
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
            cell.source = callouts(cell.source)
            continue
        chosen = options(cell)
        if "code-fold" in chosen:
            state = "" if chosen["code-fold"] == "true" else "open"
            cell.metadata["fold"] = {"state": state, "summary": chosen.get("code-summary", "Code")}
        if chosen.get("echo") == "false":
            cell.metadata["no_source"] = True
        if chosen.get("output") == "false":
            cell.outputs = []
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                describe_picture(output, chosen)
    return notebook


def pages_of(contents: list) -> list[tuple[str, str]]:
    """The pages of a part of the sidebar of _quarto.yml, in its order: [(text, notebook)]."""
    found = []
    for entry in contents:
        found += [(entry["text"], entry["href"])] if "text" in entry and "href" in entry else []
        found += pages_of(entry.get("contents", []))
    return found


def page_link(href: str, current: str) -> str:
    """From the page of one notebook to that of another."""
    return Path(os.path.relpath(href, Path(current).parent)).with_suffix(".html").as_posix()


def menu(contents: list, current: str) -> str:
    """The sidebar as HTML: each section a fold, that of the current page open and the page marked."""
    parts, items = [], []
    for entry in contents:
        if "contents" in entry:
            state = " open" if current in [href for _, href in pages_of(entry["contents"])] else ""
            parts.append(f"<details{state}><summary>{html.escape(entry['section'])}</summary>\n"
                         f"{menu(entry['contents'], current)}\n</details>")
        else:
            mark = ' aria-current="page"' if entry["href"] == current else ""
            items.append(f'<li><a href="{page_link(entry["href"], current)}"{mark}>{html.escape(entry["text"])}</a></li>')
    return "\n".join((["<ul>", *items, "</ul>"] if items else []) + parts)


def neighbours(contents: list, current: str) -> str:
    """Links to the page before and after, within the section of the sidebar."""
    pages = next(pages for pages in map(pages_of, ([block] for block in contents)) if current in dict(pages).values())
    here, links = [href for _, href in pages].index(current), []
    for place, sign in ((here - 1, "← {}"), (here + 1, "{} →")):
        if 0 <= place < len(pages):
            text, href = pages[place]
            links.append(f'<a href="{page_link(href, current)}">{sign.format(html.escape(text))}</a>')
        else:
            links.append("<span></span>")
    return "".join(links)


def table_of_contents(body: str) -> str:
    """The headings of a page as links: beside the text, on a phone in a fold above it."""
    heads = re.findall(r'(?s)<h([23]) id="([^"]+)">(.*?)<a [^>]*class="anchor-link"', body)
    items = [f'<li class="h{level}"><a href="#{place}">{re.sub("<[^>]+>", "", text)}</a></li>'
             for level, place, text in heads]
    return (f'<details class="contents"><summary>On this page</summary><ul>\n{"".join(items)}\n</ul></details>'
            if len(items) > 1 else "")


def purpose(notebook) -> str:
    """The one-line purpose under the title: the page's description."""
    lines = re.match(r"#[^\n]*\n\s*((?:>[^\n]*\n?)+)", notebook.cells[0].source)
    return re.sub(r"\s+", " ", lines[1].replace(">", " ").replace("`", "")).strip() if lines else ""


def callouts(source: str) -> str:
    """Quarto's fenced divs (`::: {.callout-note title="Caveats" collapse="true"}`) as folds and boxes of HTML."""
    lines, ends, code = [], [], False
    for line in source.splitlines():
        code ^= line.lstrip().startswith("```")
        head = re.fullmatch(r":::+\s*\{(.+)\}\s*", line)
        if code or not line.startswith(":::"):
            heading = ends and lines[-1] == PENDING and re.fullmatch(r"#+ (.*)", line)
            if heading:
                lines[-1] = f"<summary>{html.escape(heading[1])}</summary>\n"
                continue
            if ends and lines[-1] == PENDING and line.strip():
                lines[-1] = "<summary>Note</summary>\n"
            lines += [] if ends and lines[-1] == PENDING else [line]
        elif head and ".callout" in head[1]:
            title, folded = re.search(r'title="([^"]*)"', head[1]), re.search(r'collapse="?true', head[1])
            lines += [f'\n<details class="callout"{"" if folded else " open"}>',
                      f"<summary>{html.escape(title[1])}</summary>\n" if title else PENDING]
            ends.append("</details>")
        elif head:
            classes = " ".join(re.findall(r"[.]([-\w]+)", head[1]))
            lines.append(f'\n<div class="{classes}">\n')
            ends.append("</div>")
        elif ends:
            lines.append(f"\n{ends.pop()}\n")
    return "\n".join(lines)


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
    website = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    contents, style = website["sidebar"]["contents"], stylesheet()
    icon = "data:image/svg+xml;base64," + base64.b64encode((ROOT / website["favicon"]).read_bytes()).decode()
    exporter = PageExporter(template_name="basic", raw_template=CELLS, embed_images=True,
                            exclude_input_prompt=True, exclude_output_prompt=True, filters={"clean_html": our_own})
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for text, href in pages_of(contents):
        source = root / href
        if not source.exists():
            raise ValueError(f"_quarto.yml: {href} is listed and does not exist")
        try:
            notebook = read_page(source)
            body, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(source.parent)}})
        except ValueError as error:
            raise ValueError(f"{href}: {error}") from error
        body = re.sub(r'href="/(nbs/[^"#]+\.ipynb)', lambda m: f'href="{os.path.relpath(m[1], Path(href).parent)}', body)
        body = re.sub(r'href="(?!https?:)([^"#]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', body)
        page = folder / Path(href).relative_to("nbs").with_suffix(".html")
        page.parent.mkdir(exist_ok=True)
        page.write_text(PAGE.format(title=html.escape(text), site=html.escape(website["title"]), style=style, body=body,
                                    purpose=html.escape(purpose(notebook)), icon=icon,
                                    front=page_link("nbs/index.ipynb", href), menu=menu(contents, href),
                                    contents=table_of_contents(body), neighbours=neighbours(contents, href),
                                    footer=html.escape(website["page-footer"]["left"])), encoding="utf-8")
        written.append(page)
    return written


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_preview"
    try:
        pages = render(target)
    except ValueError as error:
        sys.exit(f"preview: {error}")
    print(f"{len(pages)} pages: open {target / 'index.html'}")
