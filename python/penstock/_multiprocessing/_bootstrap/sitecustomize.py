"""How `penstock run` gets into a fresh interpreter, which imports this module before the program.

`penstock run` puts this folder first on `PYTHONPATH`. The module removes it again, so that the program finds
everything as under plain Python. It patches `multiprocessing` at the end of the first import of that: a
program that never imports it never loads Penstock.
"""

import os  # loaded already, as `sys` is; another module would be one that plain Python has not loaded
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_FOLDER = os.path.dirname(os.path.abspath(__file__))


class _PatchAfter:
    """Finder and loader of one module of the standard library, and of nothing else."""

    _loader: "Loader"

    def __init__(self, name: str, *folder: str) -> None:
        self._name = name
        self._folder = folder

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name != self._name:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        in_library = os.path.join(os.path.dirname(os.__file__), *self._folder)
        if spec.loader is not None and spec.origin is not None and os.path.dirname(spec.origin) == in_library:
            self._loader = spec.loader
            spec.loader = self  # type: ignore[assignment]
        return spec

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        return self._loader.create_module(spec)

    def exec_module(self, module: "ModuleType") -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        for finder in _finders:
            if finder in sys.meta_path:
                sys.meta_path.remove(finder)
        _patch()


# A program may import the module of executors first. That imports `multiprocessing`, and is not complete yet
# when this is patched.
_finders = [
    _PatchAfter("multiprocessing", "multiprocessing"),
    _PatchAfter("concurrent.futures.process", "concurrent", "futures"),
]


def _patch() -> None:
    import runpy

    runpy.run_path(os.path.join(_FOLDER, "call_patching.py"), {"function": "patch"})


# Restores the environment that `penstock._multiprocessing.running` has changed. Another interpreter of this
# process inherits `sys.path` but finds the environment restored. Penstock works in the first interpreter
# only, so nothing is patched in the others.
_is_first = os.environ.get("PYTHONPATH", "").split(os.pathsep)[0] == _FOLDER
if _is_first and "PENSTOCK_PYTHONPATH" in os.environ:
    os.environ["PYTHONPATH"] = os.environ.pop("PENSTOCK_PYTHONPATH")
elif _is_first:
    del os.environ["PYTHONPATH"]
sys.path.remove(_FOLDER)
sys.path_importer_cache.pop(_FOLDER, None)

if not _is_first:
    pass
elif "multiprocessing" in sys.modules:  # a .pth file has imported it
    _patch()
else:
    sys.meta_path[:0] = _finders

# The environment's own module of this name takes this one's place. What its import raises goes to the
# importer, the module `site`, which ignores that there is none.
del sys.modules[__name__]
__import__(__name__)
