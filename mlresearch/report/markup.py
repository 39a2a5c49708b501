"""Pieces of HTML. What is not `Html` already is text, and is escaped where it is put into a piece."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence


class Html(str):
    """Text that is HTML."""


def tag(name: str, *content: str, attributes: Mapping[str, str] | None = None) -> Html:
    """Return an element; an attribute without a value is on by being there."""
    given = "".join(f' {key}="{html.escape(value)}"' for key, value in (attributes or {}).items())
    return Html(f"<{name}{given}>{join(content)}</{name}>")


def join(content: Iterable[str]) -> Html:
    """Return pieces one after another."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in content))


def breakable(text: str) -> Html:
    """Return a name that may go on in the next line after the signs that join its parts; an arrow stays with it."""
    joined = re.sub(" (?=[↑↓])", "\N{NO-BREAK SPACE}", html.escape(text))
    return Html(re.sub(r"([_+/.])(?=\w)", r"\1<wbr>", joined))


def paragraphs(text: str) -> Html:
    """Return text whose paragraphs stand apart by blank lines."""
    return join(tag("p", " ".join(part.split())) for part in text.split("\n\n") if part.strip())


def bullets(lines: Iterable[str], kind: str = "notes") -> Html:
    """Return lines as a list, nothing of none."""
    items = [tag("li", line) for line in lines]
    return tag("ul", *items, attributes={"class": kind}) if items else Html("")


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Return names and what is said of them."""
    rows = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs]
    return tag("dl", *rows, attributes={"class": "facts"})


def fold(title: str, *content: str, kind: str = "fold") -> Html:
    """Return what is shown when its title is opened."""
    return tag("details", tag("summary", title), *content, attributes={"class": kind})


def cell(text: str, value: float | int | None = None, kind: str = "") -> Html:
    """Return a cell of a table; value: what a sortable table's rows are ordered by, if not by the text."""
    attributes = {"class": kind} if kind else {}
    if value is not None:
        attributes["data-value"] = repr(value)
    return tag("td", text, attributes=attributes)


def table(
    caption: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    sortable: bool = False,
    low: bool = False,
    above: str = "",
) -> Html:
    """Return a table, a row's first cell being its heading, in a region that scrolls by mouse and by keyboard.

    rows: a heading, and cells as `cell` makes them. low: whether many rows are scrolled, too. above: a row of headings
    that stands over the others.
    """
    head = tag("tr", *(tag("th", heading, attributes={"scope": "col"}) for heading in headings))
    body = [tag("tr", tag("th", first, attributes={"scope": "row"}), *cells) for first, *cells in rows]
    made = tag(
        "table",
        tag("caption", caption),
        tag("thead", above, head),
        tag("tbody", *body),
        attributes={"class": "sortable" if sortable else "plain"},
    )
    kind = "wide window" if low else "wide"
    return tag("div", made, attributes={"class": kind, "role": "region", "aria-label": caption, "tabindex": "0"})


COLUMN_POINTS = 288.0
"""A picture that is wider has both columns of a page for itself."""


def figure(title: str, svg: str) -> Html:
    """Return a picture, as an image that can neither run a script nor fetch anything."""
    width = re.match(r'<svg\b[^>]*?\swidth="([\d.]+)pt"', svg)
    wide = width is not None and float(width[1]) > COLUMN_POINTS
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return tag(
        "figure",
        Html(f'<img src="{source}" alt="{html.escape(title)}">'),
        tag("figcaption", title),
        attributes={"class": "wide"} if wide else {},
    )
