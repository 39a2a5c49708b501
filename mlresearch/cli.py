"""The command line: ``mlresearch COMMAND``, one of `COMMANDS`."""

import importlib
import os
import sys

from absl import flags

from mlresearch.allocator import restart_with_large_pages
from mlresearch.errors import UserError, suggest

COMMANDS = ("train", "evaluate", "predict", "sweep", "reproduce", "table", "figures", "report", "data", "doctor")
"""Their names; each is a module of `mlresearch.commands`."""

USAGE = """usage: mlresearch COMMAND [--flags]

  train     --config=FILE --workdir=DIR [--config.KEY=VALUE ...]   train, evaluate and record one run
  evaluate  --workdir=DIR --split=validation|test [--json]         the metrics of a trained run
            ... --intervals=1000 [--level=0.95] [--seed=0]         with bootstrap intervals over examples
            ... --per_label [--sort=f1] [--top=40] [--decision=D]  a classification report of its labels
  predict   --workdir=DIR --text "..."                             labels of a text
            --workdir=DIR --input F.jsonl --output G.jsonl         labels of many: {"text": ...} a line
  sweep     STUDY [--dry-run] [--pack=10] [--stale]                run what is missing of experiments/STUDY
            [--launcher=inline|local|slurm] [--workers=2] ...      here, in several processes, on a cluster
  reproduce STUDY [--workdir=DIR] [...]                            run all of it anew, and compare with its records
  table     STUDY | RUN ... [--format=markdown|latex|csv|json]     mean ± sd over seeds, with paired tests
            ... [--allow=missing,code,data] [--workdir=DIR]        with faults marked; where a study's runs lie
            ... [--baseline=ROW]                                   the row that the others are tested against
  figures   STUDY | RUN ... [--output=DIR] [--workdir=DIR]         curves, ranks and what else there are data for
            ... [--only=precision_recall,...] [--row=NAME ...]     some figures; some rows
  report    RUN | STUDY [--split=test] [--output=FILE.html]        one page of HTML: labels, examples, tables
  data      list                                                   data sets by name
            prepare NAME | describe NAME [--json] [--plot=DIR]     read upstream files; what is in them
            export NAME --output=DIR                               JSON Lines with a Croissant description
            ... [--manual_dir=DIR] [--config=FILE] [--config.data.KEY=VALUE ...]
  doctor                                                           devices, versions, what is missing

'mlresearch COMMAND --help' lists the flags of a command.
"""


def main(argv: list[str]) -> int:
    """Run one command; returns the exit status: 0, or 2 for a mistake, whose message is printed without a traceback."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if argv else 2
    try:
        if argv[0] not in COMMANDS:
            raise UserError(f"there is no command {argv[0]!r}{suggest(argv[0], COMMANDS)}")
        command = importlib.import_module(f"mlresearch.commands.{argv[0]}")  # alone: some import what others do without
        return command.run(argv)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, flags.Error) as error:
        print(f"mlresearch {argv[0]}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mlresearch {argv[0]}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mlresearch {argv[0]}: interrupted", file=sys.stderr)
        return 130


def run() -> None:
    """Run the command of the process."""
    restart_with_large_pages()
    sys.exit(main(sys.argv[1:]))
