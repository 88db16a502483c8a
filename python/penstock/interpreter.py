"""Raises ImportError in a sub-interpreter.

Imported before the binding, whose library serves only the first interpreter that tries to load it.
"""


def _is_main() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # from Python 3.13 on, and before
        try:
            module = __import__(name)
        except ImportError:
            continue
        return bool(module.get_current() == module.get_main())
    return True


if not _is_main():
    raise ImportError(
        "Penstock works in the main interpreter of a process only, and this is a sub-interpreter: "
        "use a process in its place (with mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
    )
