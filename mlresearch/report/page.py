"""A page from its parts: a pure function to text that holds its style, its script and its data."""

import base64
import dataclasses
import hashlib
import json
import string
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mlresearch.files import write_bytes
from mlresearch.report.markup import Html, figure, join, tag


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page under a heading; name: what links within the page call it."""

    name: str
    title: str
    content: Html


@dataclasses.dataclass(frozen=True)
class Page:
    """What a page shows: a title, what stands before all sections, and the sections.

    data: what its script draws the parts from that are too large to stand in the page as they are shown, JSON-able.
    """

    title: str
    lead: Html
    sections: tuple[Section, ...]
    data: dict[str, Any]


def render(page: Page) -> str:
    """Return a page as HTML.

    Its policy lets a browser use the style and the script that stand in it, by their hashes, and images that it holds:
    it can fetch nothing, and no text in it can become a script.
    """
    style, script = _read("page.css"), _read("page.js")
    links = [tag("a", section.title, attributes={"href": f"#{section.name}"}) for section in page.sections]
    return string.Template(_read("page.html")).substitute(
        title=join([page.title]),
        style_hash=_hash(style),
        script_hash=_hash(script),
        style=style,
        script=script,
        lead=page.lead,
        links=join(links),
        sections=join(map(_section, page.sections)),
        data=to_script(page.data),
    )


def _section(section: Section) -> Html:
    heading = tag("h2", section.title)
    return tag("section", heading, section.content, attributes={"id": section.name})


def figures_section(figures: Sequence[tuple[str, str]]) -> list[Section]:
    """Return the section of figures, pairs of a title and SVG; none of none."""
    pictures = tag("div", *(figure(title, svg) for title, svg in figures), attributes={"class": "figures"})
    return [Section("figures", "Figures", pictures)] if figures else []


def to_script(data: Any) -> str:
    """Return JSON that may stand within a script element: no ``<`` is left that could end it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def write(page: Page, path: Path) -> None:
    """Write a page; halves of surrogate pairs, which no file can hold, become question marks."""
    write_bytes(path, render(page).encode(errors="replace"))


def _read(name: str) -> str:
    return resources.files("mlresearch.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
