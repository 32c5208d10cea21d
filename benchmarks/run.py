"""Runs every benchmark, or those that are named, and prints a table for each: `python -m benchmarks.run [NAME …]`."""

import argparse
import asyncio
import importlib
import pkgutil

import benchmarks


def names() -> list[str]:
    """Return the benchmarks there are: every module beside this one that has a `main`."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg)
    return [name for name in found if name != "run" and not name.startswith("_")]


def main() -> None:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="*", help="which benchmarks to run; all, if none is named")
    parser.add_argument("--rounds", type=int, default=15, help="how often each alternative is taken")
    arguments = parser.parse_args()
    for name in arguments.name or names():
        asyncio.run(importlib.import_module(f"benchmarks.{name}").main(arguments.rounds))


if __name__ == "__main__":
    main()
