"""MediaWiki: the articles of an XML dump, and the prose in an article's wikitext."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.etree.ElementTree import iterparse

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, HTMLEntity, Tag, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

# Tags whose content reads as text, and what surrounds it. Of all others (references,
# tables, galleries, formulas, listings) nothing stays.
INLINE = "abbr b big cite code dfn em font i ins kbd nowiki q samp small span strong"
INLINE += " sub sup tt u var"
BLOCK = "blockquote center div onlyinclude p poem section"
AROUND = dict.fromkeys(INLINE.split(), "") | dict.fromkeys(BLOCK.split(), "\n\n")
LIST_MARKS = frozenset("*#;:")
# Namespaces whose links show no words; a dump's own language adds its names for them.
FILE, CATEGORY = "6", "14"
SILENT = frozenset({"file", "image", "category"})
LANGUAGE = re.compile("[a-z]{2,3}(-[a-z]+)*")

# XML does not allow this character, so no page has it: it stands for a list's bullet.
_BULLET = "\x00"
_RESIDUE = [
    (re.compile(rf"^.*{_BULLET}.*$|^\s*(\{{\||\||=+.*=+\s*$).*$", re.M), ""),
    (re.compile(r"'{2,}|__[A-Z]+__|\[\[|\]\]|\{\{|\}\}|</?[a-z]+\b[^<>\n]*>"), ""),
    # What dropped templates leave of "(from X; born 1880)", "(X)" and "or X, and".
    (re.compile(r"\(\s*[,;:]\s*"), "("),
    (re.compile(r"[ \t\xa0]*\(\s*\)"), ""),
    (re.compile(r"[ \t\xa0]+([,.;:)])(?=\s|$)"), r"\1"),
    (re.compile(r",(\s*,)+"), ","),
]


def read_dump(file: BinaryIO) -> Iterator[tuple[str, str, str]]:
    """Yield id, title and prose of each article in a dump, one page in memory.

    Redirects and pages outside the main namespace are passed over; of a page with its
    history the last revision counts.

    Raises
    ------
    xml.etree.ElementTree.ParseError
        If the file is not well-formed XML.
    """
    events = iterparse(file, ("start", "end"))
    _, root = next(events)
    silent = set(SILENT)
    for event, element in events:
        if event == "start":
            continue
        tag = element.tag.rpartition("}")[2]
        if tag == "namespace" and element.get("key") in (FILE, CATEGORY):
            silent.add((element.text or "").lower())
        if tag == "page":
            in_main = element.findtext("{*}ns", "0") == "0"
            if in_main and element.find("{*}redirect") is None:
                title = element.findtext("{*}title", "")
                wikitext = [t.text for t in element.findall("{*}revision/{*}text")]
                text = prose((wikitext or [""])[-1] or "", frozenset(silent))
                yield element.findtext("{*}id", ""), title, text
            root.clear()


def prose(wikitext: str, silent: frozenset[str] = SILENT) -> str:
    """Return the running text of a page, one line a paragraph.

    Templates, tables, references, headings, lists, formulas, files, categories and
    comments are dropped; links leave the words that a reader sees.
    """
    # Quote marks are taken out below: the parser's own handling of '' loses templates
    # wherever an article does not balance them.
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    text = "".join(_pieces(code, silent))
    for pattern, replacement in _RESIDUE:
        text = pattern.sub(replacement, text)
    # Only an empty line ends a paragraph: some authors wrap theirs.
    return "\n".join(" ".join(block.split()) for block in re.split(r"\n\s*\n", text))


def _pieces(code: Wikicode, silent: frozenset[str]) -> Iterator[str]:
    """Yield what a reader sees of each node; of most kinds, nothing."""
    for node in code.nodes:
        match node:
            case Text():
                yield node.value
            case HTMLEntity():
                yield node.normalize()
            case ExternalLink() if node.title is not None:
                yield from _pieces(node.title, silent)
            case Wikilink() if not _is_silent(node, silent):
                words = "".join(_pieces(node.text or node.title, silent))
                yield words.removeprefix(":")
            case Tag() if str(node.wiki_markup) in LIST_MARKS:
                yield _BULLET
            case Tag():
                name = str(node.tag).strip().lower()
                if name == "br":
                    yield " "
                elif name in AROUND:
                    yield AROUND[name]
                    yield from _pieces(node.contents, silent)
                    yield AROUND[name]


def _is_silent(link: Wikilink, silent: frozenset[str]) -> bool:
    prefix, colon, _ = str(link.title).strip().partition(":")
    is_language = link.text is None and LANGUAGE.fullmatch(prefix)
    return bool(colon) and (bool(is_language) or prefix.strip().lower() in silent)
