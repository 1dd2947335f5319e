"""Notebook to web page: an nbconvert exporter with a small template of our own.

``jupyter nbconvert --to lvm_report notebook.ipynb`` writes one file that loads nothing:
code folded, formulas as MathML, styles and images inside.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections import Counter
from html import escape
from pathlib import Path
from urllib.parse import quote

from bs4 import BeautifulSoup, Tag
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import markdown_mistune as mistune
from nbformat import NotebookNode
from PIL import Image, ImageChops
from traitlets import List, Unicode
from traitlets.log import get_logger

# "0.5", "12,345", "+0.01 [−0.02, 0.04]", "1e-05", "8.4 M": a number, perhaps a unit.
NUMBER = re.compile(r"[^A-Za-z]*\d(?:[^A-Za-z]|e[+-]\d)*[A-Za-zµ/]{0,5}")
NO_VALUE = {"", "-", "–", "—", "nan", "NaN", "None", "missing", "failed"}


def to_mathml(latex: str, display: str = "inline") -> str:
    """Return LaTeX as MathML, or as readable code if it cannot be converted."""
    known = re.sub(r"\\(begin|end)\{(?:align|aligned|split)\}", r"\\\1{align*}", latex)
    try:
        mathml = convert(known.strip(), display=display)
    except Exception:  # the converter's errors have no common base class
        mathml = ""
    # What it does not know it passes through, or leaves an empty operator.
    if not mathml or re.search(r">\\|>&(?!#)|<mo />", mathml):
        get_logger().warning("Formula left as code: %s", latex)
        mathml = f"<code>{escape(latex)}</code>"
    scrolls = ' tabindex="0"' if display == "block" else ""
    return f'<span class="formula {display}"{scrolls}>{mathml}</span>'


class Renderer(mistune.IPythonRenderer):
    """Markdown as nbconvert renders it, but formulas as MathML and HTML untouched."""

    def inline_math(self, body: str) -> str:  # noqa: D102
        return to_mathml(body)

    def block_math(self, body: str) -> str:  # noqa: D102
        return to_mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:  # noqa: D102
        return to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def inline_html(self, html: str) -> str:  # noqa: D102
        return html  # nbconvert would close each tag right where it opens

    block_html = inline_html


class InlineParser(mistune.MathInlineParser):
    """Dollars as pandoc reads them, so that "$5 and $6" are prices, not a formula.

    No space after the opening dollar or before the closing one, no digit after it.
    """

    SPECIFICATION = mistune.MathInlineParser.SPECIFICATION | {
        "inline_math_tex": r"(?<![$\\])\$(?!\s)"
        r"(?P<math_inline_tex>(?:\\[\s\S]|[^$\\])+?)(?<!\s)\$(?!\d)"
    }


def plain_text(tag: Tag | None) -> str:
    """Return a tag's text with single spaces, nothing for no tag."""
    return " ".join(tag.get_text().split()) if tag else ""


def link_headings(page: BeautifulSoup) -> None:
    """Give h2 and h3 an id and a permalink, and list them in the contents.

    Ids are JupyterLab's (``Two-words``), so links within a notebook work in both.
    """
    seen: Counter[str] = Counter()
    for heading in page.main.find_all(["h2", "h3"]):
        text = plain_text(heading)
        name = text.replace(" ", "-")
        seen[name] += 1
        if seen[name] > 1:
            name += f"-{seen[name]}"
        heading["id"] = heading.get("id", name)
        target = {"href": "#" + quote(heading["id"])}
        entry = page.new_tag("li", attrs={"class": heading.name})
        entry.append(page.new_tag("a", attrs=target, string=text))
        page.nav.ol.append(entry)
        label = {"class": "permalink", "aria-label": f"Link to “{text}”"}
        heading.append(page.new_tag("a", attrs=target | label, string="#"))
    if not page.nav.li:
        page.nav.decompose()


def tidy_table(page: BeautifulSoup, table: Tag) -> None:
    """Scope the headers, align columns of numbers right, let wide tables scroll."""
    rows = table.find_all("tr")
    for row in rows:
        for cell in row.find_all("th"):
            cell["scope"] = "row" if row.find("td") else "col"
    plain = [row.find_all(["th", "td"]) for row in rows if not row.find(colspan=True)]
    # Counted from the right, where cells that span rows (on the left) do not matter.
    for j in range(1, max(map(len, plain), default=0) + 1):
        column = [row[-j] for row in plain if len(row) >= j]
        values = {plain_text(cell) for cell in column if cell.name == "td"} - NO_VALUE
        if values and all(NUMBER.fullmatch(value) for value in values):
            kind = ["number"]
        else:
            kind = ["long"] if max(map(len, values), default=0) > 40 else []
        for cell in column:
            cell["class"] = [*cell.get("class", []), *kind]
    heads = [plain_text(cell) for cell in rows[0].find_all("th")] if rows else []
    for row in rows[1:]:
        for head, cell in zip(heads, row.find_all(["th", "td"]), strict=False):
            cell["data-label"] = head
    name = plain_text(table.caption) or "Table"
    stacked = " stacked" if len(heads) > 3 else ""
    box = {"class": f"table{stacked}", "role": "group", "aria-label": name}
    table.wrap(page.new_tag("div", attrs=box | {"tabindex": "0"}))


PNG = "data:image/png;base64,"  # how an image inside the page begins


def shrink(image: Tag) -> None:
    """Give a PNG inside the page a palette of 256 colours: a third of the size.

    Left as it is where that would be larger, or a colour off by more than one in
    sixteen, so that no line of a figure takes another one's colour.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix(PNG))))
    plain = picture.convert("RGB")
    small = plain.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=0)
    off = ImageChops.difference(plain, small.convert("RGB")).getextrema()
    opaque = picture.convert("RGBA").getextrema()[3][0] == 255
    if opaque and max(most for _, most in off) <= 16:
        small.save(out := io.BytesIO(), "PNG", optimize=True)
        src = PNG + base64.b64encode(out.getvalue()).decode()
        image["src"] = min(image["src"], src, key=len)


def fold_asides(page: BeautifulSoup) -> None:
    """Fold texts tagged "setup" or "details", with all cells up to the next other text.

    What only makes the page goes under one word for all of it, details under their own
    first line.
    """
    for text in page.main.select("section.setup, section.details"):
        if text.find_parent("details"):
            continue
        setup = "setup" in text["class"]
        fold = page.new_tag("details", attrs={"class": "code" if setup else "details"})
        summary = page.new_tag("summary", string="How this page is made")
        if not setup:
            first = text.find(["h2", "h3", "h4", "p"])
            summary.string = plain_text(first)
            first.decompose()
        fold.append(summary)
        text.insert_before(fold)
        while cell := fold.next_sibling:
            other = cell.name == "section" and cell is not text
            if other and not (setup and "setup" in cell["class"]):
                break  # the next details, too, have a line of their own
            fold.append(cell)


def link_pages(page: BeautifulSoup, pages: list[list[str]], here: str) -> None:
    """Put the names of a report's pages on top, as links; `here` is the one shown."""
    bar = page.new_tag("nav", attrs={"class": "pages", "aria-label": "Pages"})
    for href, name in pages:
        link = page.new_tag("a", attrs={"href": href}, string=name)
        if href == here:
            link["aria-current"] = "page"
        bar.append(link)
    page.main.insert(0, bar)


def shorten_paths(page: BeautifulSoup, nb: NotebookNode) -> None:
    """Show what a notebook was given by absolute path under its last part alone.

    The rest says where it lay on one machine, to no reader's use. Only the very paths
    of papermill's cell of parameters, in that cell and wherever they are printed.
    """
    given = nb.metadata.get("papermill", {}).get("parameters", {}).values()
    given = re.findall("^(/.*[^/\n])", "\n".join(map(str, given)), flags=re.MULTILINE)
    if not given:
        return
    longest_first = "|".join(map(re.escape, sorted(given, reverse=True)))
    paths = re.compile(rf"(?<![\w./~-])({longest_first})(?![\w-])")
    for text in page.main.find_all(string=paths):
        text.replace_with(paths.sub(lambda path: Path(path[0]).name, text))


class ReportExporter(HTMLExporter):
    """One self-contained, readable page per notebook (see ``template``)."""

    export_from_notebook = "Report (HTML)"
    pages = List(help="href and name of each page of the report").tag(config=True)
    here = Unicode(help="href of the page at hand").tag(config=True)

    template_name = Unicode("template").tag(affects_template=True)
    extra_template_basedirs = List([str(Path(__file__).parent)])

    @property
    def default_config(self):
        """Join a cell's streams; leave out scripts, widgets, and cells for them."""
        config = super().default_config
        config.TagRemovePreprocessor.enabled = True
        config.TagRemovePreprocessor.remove_cell_tags = {"interactive"}
        config.CoalesceStreamsPreprocessor.enabled = True
        kinds = "text/html text/markdown image/png image/svg+xml image/jpeg text/latex"
        config.NbConvertBase.display_data_priority = [*kinds.split(), "text/plain"]
        return config

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """Return Markdown as HTML, its local images and attachments inside."""
        renderer = Renderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path=context["resources"]["metadata"].get("path", ""),
            exclude_anchor_links=True,
        )
        return mistune.MarkdownWithMath(renderer, inline=InlineParser()).render(source)

    def from_notebook_node(self, nb, resources=None, **kw):
        """Return the notebook's page, and the resources as nbconvert expects."""
        html, resources = super().from_notebook_node(nb, resources, **kw)
        page = BeautifulSoup(html, "html.parser")
        shorten_paths(page, nb)
        heading = page.main.h1
        name = nb.metadata.get("title") or resources["metadata"].get("name", "Report")
        page.title.string = plain_text(heading) or name
        text = plain_text(heading.find_next("p") if heading else page.main.p)
        about = page.find("meta", attrs={"name": "description"})
        about["content"] = textwrap.shorten(text, 200, placeholder="…")
        for style in page.select("style[scoped]"):  # pandas' own, at odds with ours
            style.decompose()
        for table in page.main.find_all("table"):
            tidy_table(page, table)
        for drawing in page.main.find_all("svg", role=False):
            drawing["role"] = "img"
            drawing["aria-label"] = plain_text(drawing.title) or "Drawing"
        for text in page.main.find_all("pre"):  # it scrolls, by keyboard too
            text["tabindex"] = "0"
        for image in page.main.find_all("img", src=re.compile(f"^{PNG}")):
            shrink(image)
        fold_asides(page)
        link_headings(page)
        if self.pages:
            link_pages(page, self.pages, self.here)
        return str(page), resources
