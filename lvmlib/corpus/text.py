"""From a source of text to articles, and from articles to chunks of sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import sentencex

from lvmlib.corpus.sources import SourceError, read_rows

MIN_CHUNKS = 6  # five vectors of context and a target; shorter documents are dropped
HEADING = 60  # a line shorter than this that ends no sentence is a heading
WRAPPED = 100  # in a text without a longer line the lines were broken at a margin
CLAUSE_END = re.compile(r"[,;:)\]—–]\s")
SENTENCE_END = re.compile(r"""[.!?…。！？।؟]["'’”»)\]]*$""")


@dataclass(frozen=True)
class Article:
    """A document: its paragraphs in reading order, without headings."""

    document_id: str
    title: str
    paragraphs: tuple[str, ...]


def read_articles(
    source: str | Path,
    max_documents: int = 0,
    title_column: str = "title",
    text_column: str = "text",
    passed_over: list[str] | None = None,
) -> Iterator[Article]:
    """Yield the articles of a source, streamed: memory does not grow with its size.

    A line of text is a paragraph, as WikiExtractor and the Wikipedia datasets write it,
    unless no line is longer than 100 characters: then paragraphs end at empty lines.
    Lines shorter than 60 characters that end no sentence are headings, and dropped.

    Parameters
    ----------
    source : str or Path
        A MediaWiki XML dump (redirects and other namespaces are passed over);
        WikiExtractor's ``<doc>`` blocks or JSON Lines; JSON Lines, a JSON array, CSV or
        Parquet with the columns title, text and, where there is one, id; a text file or
        Markdown, whose name is its title; any of these compressed (but Parquet); a
        folder of such files, read in the order of their paths, others, also tables
        without these columns, passed over; or a Hugging Face dataset, ``owner/name`` or
        ``owner/name:config``, of which the split train is streamed. Documents without
        an id are numbered from 1.
    max_documents : int
        Stop after this many articles; 0 reads all.
    title_column, text_column : str
        What these two columns are called.
    passed_over : list, optional
        Gets the names of a folder's files that are passed over.

    Yields
    ------
    Article
        Also those without text, with no paragraphs, for the reader to count.

    Raises
    ------
    SourceError
        If the source is missing, damaged, of no known kind, or holds no text at all.
    """
    has_text = False
    rows = read_rows(str(source), title_column, text_column, passed_over)
    rows = islice(rows, max_documents or None)
    for number, (document_id, title, text) in enumerate(rows, start=1):
        article = Article(document_id or str(number), title, tuple(_paragraphs(text)))
        has_text = has_text or bool(article.paragraphs)
        yield article
    if not has_text:
        raise SourceError(
            f"{source} holds no article with text: check that it is what you meant."
        )


def _paragraphs(text: str) -> Iterator[str]:
    lines = [line.strip() for line in text.splitlines()]
    if max(map(len, lines), default=0) <= WRAPPED:
        lines = re.split(r"\n{2,}", "\n".join(lines))
    for line in lines:
        paragraph = " ".join(line.split())
        if len(paragraph) >= HEADING or SENTENCE_END.search(paragraph):
            yield paragraph


def chunk(
    paragraphs: Iterable[str], characters: int = 210, counts: Counter | None = None
) -> list[str]:
    """Cut paragraphs into chunks of whole sentences.

    Sentences of one paragraph are joined until the chunk has 5/7 of `characters`; one
    that would make it longer than twice `characters` opens the next chunk. A chunk
    without a letter is dropped. A sentence longer than that stays whole, up to four
    times `characters`, of which encoders still read most; a longer one (a list, a table
    that lost its lines) is split, see `split_sentence`, and counted in
    ``counts["sentences_split"]``.

    At 210 English Wikipedia gives 210 characters on average; other numbers shift the
    mean less than in proportion, since sentences (140 on average) and paragraphs
    bound it: 105 gives 151, and 420 gives 307.
    """
    closes_at, longest = round(characters * 5 / 7), 2 * characters
    chunks = []
    for paragraph in paragraphs:
        current = ""
        for sentence in sentencex.segment("en", paragraph):
            pieces = [sentence.strip()]
            if len(pieces[0]) > 2 * longest:
                pieces = split_sentence(pieces[0], characters)
                if counts is not None:
                    counts["sentences_split"] += 1
            for piece in pieces:
                joined = f"{current} {piece}".strip()
                if current and len(joined) > longest:
                    chunks.append(current)
                    joined = piece
                current = joined
                if len(current) >= closes_at:
                    chunks.append(current)
                    current = ""
        chunks.append(current)
    return [text for text in chunks if any(map(str.isalpha, text))]


def split_sentence(sentence: str, characters: int) -> list[str]:
    """Split a sentence into pieces of at most `characters`.

    After the last clause that fits, else the last word, else wherever it must.
    """
    pieces = []
    while len(sentence) > characters:
        ends = [m.end() for m in CLAUSE_END.finditer(sentence, 0, characters)]
        end = ends[-1] if ends else sentence.rfind(" ", 0, characters) + 1
        end = end or characters
        pieces.append(sentence[:end].strip())
        sentence = sentence[end:].lstrip()
    return [piece for piece in (*pieces, sentence) if piece]
