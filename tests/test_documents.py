"""What the documents say, where a machine can tell: links, commands, settings, numbers, and the citation file."""

import datetime
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from mlresearch.cli import COMMANDS, main
from mlresearch.config import check_key
from mlresearch.definitions import title
from mlresearch.model_card import LICENSE
from mlresearch.tables import COLUMNS

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("experiments/*/README.md")])
NAMED = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tokens(path):
    """All tokens of a document, those within a line among them."""
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text()):
        yield from token.children or [token]


def anchors(path):
    """What headings are linked by: their words in lower case, with hyphens between."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMED)
def test_links_lead_somewhere(path):
    for token in tokens(path):
        link = token.attrGet("href") if token.type == "link_open" else None
        if link is None or re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def code(path):
    """Lines of code, in a block or within a line; a line that ends with a backslash goes on."""
    for token in tokens(path):
        if token.type in ("fence", "code_inline"):
            yield from token.content.replace("\\\n", " ").splitlines()


def commands(path):
    """Command lines of `mlresearch` without what is told beside them."""
    for line in code(path):
        found = re.match(r"(?:.*&& )?mlresearch (\S+)( .*)?$", line)
        if found:
            yield found[1], (found[2] or "").partition(" # ")[0].partition("  #")[0]


@pytest.fixture(scope="module")
def flags():
    """The flags of each command, as its help lists them."""
    return {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMED)
def test_commands_and_flags_are_those_of_the_command_line(path, flags, capsys):
    for command, rest in commands(path):
        assert command in COMMANDS
        if command not in flags:
            with pytest.raises(SystemExit):
                main([command, "--help"])
            flags[command] = set(re.findall(r"--(?:\[no\])?(\w+)", capsys.readouterr().out)) | {"config"}
        for flag in re.findall(r"(?<!\S)--([\w-]+)", rest):
            assert flag.replace("-", "_") in flags[command], f"{command} --{flag}"


def test_some_commands_were_found():
    assert {command for command, _ in commands(ROOT / "README.md")} == set(COMMANDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMED)
def test_settings_exist(path):
    for line in code(path):
        for key in re.findall(r"--config\.([a-z_.0-9]+[a-z_0-9])", line):
            check_key(key)


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMED)
def test_targets_of_make_exist(path):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in code(path):
        found = re.match(r"(?:.*&& )?make ([\w-]+)", line)
        assert found is None or found[1] in targets, line


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "experiments/demo/README.md"], ids=["README", "demo"])
def test_the_demo_s_tables_are_its_records(path):
    """Each number is the record's, rounded; the last tables that were committed are those of the last records."""
    records = [json.loads(file.read_text()) for file in (ROOT / "experiments/demo/records").glob("*.json")]
    by_row = {(record["data"]["name"], record["row"]): record for record in records}
    places = {title(place): place for place in COLUMNS}
    data_set, titles, found = "", [], set()
    for line in path.read_text().splitlines():
        named = re.fullmatch(r"(?:`|\*\*demo: )(icd10cm/\w+)(?:`|\*\*)", line)
        data_set = named[1] if named else data_set
        cells = [cell.strip(" *↑↓") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if "num_steps" in cells:
            titles = cells
        elif not cells:
            titles = []
        elif titles and cells[0].strip("-:"):
            record = by_row[data_set, cells[0]]
            found.add((data_set, cells[0]))
            for heading, cell in zip(titles[1:-1], cells[1:-1], strict=True):
                if heading in places:
                    split, group, metric = places[heading].split(".")
                    value = record["metrics"][split][group][metric]
                else:
                    value = {"num_steps": record["num_steps"], "seconds": record["seconds"]["train"]}[heading]
                if value is None:
                    assert cell == "—", (cells, heading)
                else:
                    half = 0.5000001 * 10.0 ** -len(cell.partition(".")[2])
                    assert abs(float(cell) - value) <= half, (cells, heading)
    assert found == set(by_row)


def test_the_citation_file_is_as_its_schema_has_it():
    """Citation File Format 1.2.0: what must be there, what may be, and of what kind."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    known = {
        *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
        *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
        *("repository-code", "title", "type", "url", "version"),
    }
    assert set(citation) <= known
    assert citation["type"] in ("software", "dataset")
    assert all(isinstance(citation[key], str) and citation[key] for key in ("message", "title", "version"))
    of_authors = {"name", "given-names", "family-names", "alias", "affiliation", "orcid", "email", "website"}
    assert all(set(author) <= of_authors for author in citation["authors"])
    assert len({*citation["keywords"]}) == len(citation["keywords"])
    assert isinstance(citation["date-released"], datetime.date)
    assert citation["version"] == PROJECT["version"]


def test_there_is_one_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["license"] == LICENSE
    assert "Apache License" in (ROOT / "LICENSE").read_text()
