"""The command line: `convlayers train`, `evaluate`, `export`, `quantize`, `verify`, `import`, `summary`, `graph`, `layers`,
`operators`.

Exit codes: 0 done, 1 the work failed, 2 the call is wrong, 130 interrupted. The reason stands in one line on standard
error; a traceback is for people who write Python.
"""

import os
import sys
from collections.abc import Sequence
from traceback import extract_tb

from ..errors import ConfigError, ConvlayersError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with the arguments `argv`, by default the program's own, and return its exit code."""
    try:
        _run(argv)
    except ConfigError as error:
        return _fail(str(error), 2)
    except ConvlayersError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "interrupted", 130)
    except MemoryError:
        return _fail("out of memory; a smaller --batch-size or smaller images need less", 1)
    except OSError as error:
        # Standard output is gone, since files raise errors of ours; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Whoever read a pipe and has left, as `head` does, wants no word about it.
        return 1 if isinstance(error, BrokenPipeError) else _fail(f"cannot write the output: {error.strerror}", 1)
    except Exception as error:
        place = extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        return _fail(f"this is a bug, please report it: {type(error).__name__}: {error} ({where})", 1)
    return 0


def _run(argv: Sequence[str] | None) -> None:
    from .parser import parser

    try:
        args = parser().parse_args(argv)
    except SystemExit:  # --help and --version, which argparse has printed
        pass
    else:
        from . import commands

        # `import` is a word of Python's own.
        getattr(commands, "import_" if args.command == "import" else args.command)(args)
    print(end="", flush=True)


def _fail(reason: str, code: int) -> int:
    print("convlayers:", " ".join(reason.split()), file=sys.stderr)
    return code
