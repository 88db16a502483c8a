"""Executed by its path in a process that may be unable to import Penstock by name, to patch it.

Loads the package that this file lies in, whatever `sys.path` is. Then calls a function of
`penstock._multiprocessing.patching`: the caller passes its name as the global `function`.
"""

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

if "penstock" not in sys.modules:
    folder = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
    spec = PathFinder.find_spec("penstock", [folder])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["penstock"] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules["penstock"])
    except BaseException:
        del sys.modules["penstock"]
        raise

getattr(import_module("penstock._multiprocessing.patching"), globals()["function"])()
