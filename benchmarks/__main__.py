"""Runs benchmarks one after the other and prints all their results in one table at the end.

python -m benchmarks [NAME ...] [--footage DIR] [--quick]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.table import print_rows, read_rows

#: name -> the options that make it quick
BENCHMARKS = {
    "preprocess": ["--quick"],
    "build": ["--quick"],
    "memory": ["--quick"],
    "cuts": ["--rides", "2", "--seconds", "20"],
    "reader": ["--quick"],
    "rehearsal": ["--quick"],
    "isolation": ["--quick"],
    "train": ["--quick"],
}


def command_of(name: str, footage: Path | None, quick: bool) -> list[str]:
    options = ["--footage", str(footage)] if footage else []
    return [sys.executable, "-m", f"benchmarks.{name}", *options, *(BENCHMARKS[name] if quick else [])]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--footage", type=Path, help="folder with real footage; see each benchmark's --help")
    parser.add_argument("--quick", action="store_true", help="less of everything: do they run, roughly what")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    names = args.names or list(BENCHMARKS)
    failed = [name for name in names if subprocess.run(command_of(name, args.footage, args.quick)).returncode]
    for name in names:
        if name not in failed:
            print_rows(name, read_rows(name))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
