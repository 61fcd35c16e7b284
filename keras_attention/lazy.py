"""Names of a package that are imported when somebody asks for them (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping


def names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Makes what a package's `__init__` needs to offer names without importing them.

    Args:
        package: Its `__name__`.
        modules: Names, each with the module of the package that defines it.

    Returns:
        `__getattr__`, `__dir__` and `__all__`.
    """

    def get(name):
        if name in modules:
            module = importlib.import_module(f"{package}.{modules[name]}")
            return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def known():
        return sorted({*vars(importlib.import_module(package)), *modules})

    return get, known, sorted(modules)
