"""Imports modules; run by the Python of a cell, on its processor or an emulated one.

It prints a line for its Python, and one before and after each import, so that a crash names its module.
"""

from __future__ import annotations

import importlib
import json
import platform
import site
import sys
import traceback

MARK = "jbuild-import "


def _report(**facts: str | None) -> None:
    sys.stdout.write(MARK + json.dumps(facts) + "\n")
    sys.stdout.flush()


def import_all(folder: str, names: list[str]) -> None:
    """Import modules, with the packages in a folder."""
    site.addsitedir(folder)
    _report(python=platform.python_version(), machine=platform.machine())
    for name in names:
        _report(begin=name)
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  # a module may raise anything
            traceback.print_exc()
            lacking = error.name if isinstance(error, ModuleNotFoundError) else None
            _report(end=name, problem=f"{type(error).__name__}: {error}", lacking=lacking)
        else:
            _report(end=name, problem=None, lacking=None)


if __name__ == "__main__":
    import_all(sys.argv[1], sys.argv[2:])
