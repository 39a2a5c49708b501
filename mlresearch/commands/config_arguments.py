"""Command lines with a config; apart from other command lines, as `doctor` works where a config cannot be loaded."""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from mlresearch.commands.arguments import parse
from mlresearch.config import base_config, check_key
from mlresearch.errors import UserError, suggest


def parse_config(values: flags.FlagValues, argv: list[str]) -> tuple[ConfigDict, list[str], list[str]]:
    """Parse the flags of a command that takes a config: the file's, or the defaults where no file is named.

    Returns the config with the settings of the command line, the keys of these, and the words that are no flags.
    """
    words = [word.lstrip("-") for word in argv if word.startswith(("--config.", "-config."))]
    given = [word.removeprefix("config.").partition("=")[0] for word in words]
    for key in given:
        check_key(key)
    flags.DEFINE_string("manual_dir", "", "The folder of upstream files.", flag_values=values)
    for word in argv:
        path = word.partition("=")[2].partition(":")[0] if word.startswith(("--config=", "-config=")) else ""
        if path and not Path(path).is_file():
            near = [str(file) for file in Path(path).parent.glob("*.py")]
            raise UserError(f"--config: there is no file {path}{suggest(path, near) if near else ''}")
    if names_config(argv):
        config_flags.DEFINE_config_file("config", None, "The config file.", flag_values=values, sys_argv=argv)
    else:
        config_flags.DEFINE_config_dict("config", base_config(), flag_values=values, sys_argv=argv)
    rest = parse(values, argv)
    try:
        values.config.keys()
    except OSError as error:  # kept back by ml_collections until the config is used
        raise UserError(f"cannot load the config: {str(error).split('Attempted', 1)[-1].strip()}") from None
    if values.manual_dir:
        values.config.data.manual_dir = values.manual_dir
    return values.config, given, rest


def names_config(argv: list[str]) -> bool:
    """Return whether a command line names a config file."""
    return any(word.startswith(("--config=", "-config=")) or word in ("--config", "-config") for word in argv)
