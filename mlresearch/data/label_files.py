"""Files that state labels: their names and order, and which stands under which."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mlresearch.data.reading import read_lines
from mlresearch.errors import UserError, quote
from mlresearch.hierarchy import CycleError, parents_first
from mlresearch.label_space import LabelSpace, check_label_name

MAX_SHOWN = 50  # edges of a cycle in a message


def read_label_names(path: Path) -> LabelSpace:
    """Read a label space: a line a label, its name, and behind a tab its description if there is one."""
    return parse_label_names(read_lines(path), path)


def parse_label_names(lines: Iterable[tuple[int, str]], path: Path) -> LabelSpace:
    """Return the label space of numbered lines, see `read_label_names`."""
    found: dict[str, int] = {}
    descriptions = []
    for number, line in lines:
        if not line.strip():
            continue
        name, *description = line.rstrip("\r\n").split("\t")
        where = f"{path}, line {number}"
        check_label_name(name, where)
        if len(description) > 1:
            raise UserError(f"{where}: more than one tab; a line is a name, or a name, a tab and a description")
        if name in found:
            raise UserError(f"{where}: the label {quote(name)} stands on line {found[name]}, too")
        found[name] = number
        descriptions.append("".join(description).strip() or name)
    return LabelSpace(tuple(found), tuple(descriptions))


def read_parents(path: Path, known: Collection[str] | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Read ``child<tab>parent`` lines: all names, parents first, and the edges in the order of the file.

    Names keep the order of their appearance wherever parents allow it. A name that is not among `known` (if given), an
    edge that stands twice and a cycle are `UserError`s.
    """
    return parse_parents(read_lines(path), path, known)


def parse_parents(
    lines: Iterable[tuple[int, str]], path: Path, known: Collection[str] | None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the names and edges of numbered lines, see `read_parents`."""
    names: dict[str, None] = {}
    edges: dict[tuple[str, str], int] = {}  # and the line
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) > 2:
            raise UserError(f"{where}: {len(cells)} names; a line is a child, a tab and a parent, or one name alone")
        for name in cells:
            check_label_name(name, where)
            if known is not None and name not in known:
                raise UserError(f"{where}: the label {quote(name)} is not in the file label_names")
            names[name] = None
        if len(cells) == 2:
            edge = (cells[0], cells[1])
            if edge in edges:
                raise UserError(f"{where}: {_arrow(edge)} stands on line {edges[edge]}, too")
            edges[edge] = number
    if not edges:
        raise UserError(f"{path}: there is no edge in it: on no line stand a child, a tab and a parent")
    return _parents_first(list(names), edges, path), list(edges)


def _parents_first(names: Sequence[str], edges: Mapping[tuple[str, str], int], path: Path) -> list[str]:
    """Return the names such that parents stand before children, and else in their order; a cycle is a `UserError`."""
    rank = {name: place for place, name in enumerate(names)}
    try:
        order = parents_first(len(names), [(rank[child], rank[parent]) for child, parent in edges])
    except CycleError as error:
        cycle = [names[node] for node in error.cycle]
        steps = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))[:MAX_SHOWN]
        shown = "; ".join(f"line {edges[edge]}: {_arrow(edge)}" for edge in steps)
        raise UserError(f"{path}: {len(cycle)} labels form a cycle; remove one of its edges: {shown}") from None
    return [names[node] for node in order]


def _arrow(edge: tuple[str, str]) -> str:
    return f"{quote(edge[0])} -> {quote(edge[1])}"


def parents_by_separator(names: Iterable[str], separator: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Return sorted names with those they stand under, "a" and "a::b" for "a::b::c", and the edges between them."""
    edges: dict[tuple[str, str], None] = {}
    known = set()
    for name in names:
        parts = name.split(separator)
        above = [separator.join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        for place in above:
            check_label_name(place, f"table: label {name!r}, split at hierarchy_separator {separator!r}")
        known.update(above)
        edges |= dict.fromkeys(zip(above[1:], above[:-1], strict=True))
    if not edges:
        raise UserError(f"table: hierarchy_separator {separator!r} is in no label name")
    return sorted(known), sorted(edges)
