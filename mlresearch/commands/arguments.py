"""Flags that several commands have, and how command lines are parsed."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mlresearch.errors import UserError, suggest


def define_workdir(values: flags.FlagValues) -> None:
    """Define --workdir."""
    flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=values)


def read_workdir(values: flags.FlagValues) -> Path:
    """Return the folder that --workdir names; none is a `UserError`."""
    if not values.workdir:
        raise UserError("--workdir is missing: name the run's folder")
    return Path(values.workdir)


def refuse_idle(values: flags.FlagValues, names: Sequence[str], why: str) -> None:
    """Raise `UserError` for the first of some flags that is given, since it would not act."""
    for name in names:
        if values[name].present:
            raise UserError(f"--{name} {why}")


def parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parse the flags of a command and return what is not a flag; mistakes become `UserError`s."""
    flags.DEFINE_bool("help", False, "Show these flags.", short_name="h", flag_values=values)
    try:
        rest = values([_underscored(word) for word in argv])
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"there is no flag --{error.flagname}{suggest(error.flagname, values)}") from None
    except Exception as error:  # from ml_collections, or from the user's config file
        said: object = error
        while isinstance(said, KeyError):  # whose text is a quotation
            said = said.args[0]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "get_config" in frame.name]
        where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
        raise UserError(where + " ".join(str(said).replace("\\n", " ").split())) from None
    if values.help:
        print(f"mlresearch {argv[0]}\n\n{values.get_help()}")
        sys.exit(0)
    return rest[1:]


def _underscored(word: str) -> str:
    """Return a flag with underscores in its name, where dashes are written as well."""
    name, sign, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + sign + value if word.startswith("--") else word
