"""opyard: declare ops once, run them on the best registered kernel of any device, and know why.

    import opyard as oy

    y = oy.matmul(a, b)                                        # eager, on NumPy, CuPy or OpenCL arrays
    block = oy.compile(lambda x, w, b: oy.relu(oy.matmul(x, w) + b))
    print(block.explain(x, w, b))

Importing this package imports nothing else: every name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from os.path import dirname, exists, join
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if _is_module(name):  # `from opyard import testing`, before or after anything else was imported
        return import_module(f".{name}", __name__)
    api = import_module(".api", __name__)
    if name not in api.__all__:
        from .errors import did_you_mean

        raise AttributeError(
            f"module 'opyard' has no attribute {name!r}.{did_you_mean(name, tuple(api.__all__))}"
        )
    globals()[name] = getattr(api, name)
    return globals()[name]


def _is_module(name: str) -> bool:
    path = join(dirname(__file__), name)
    return exists(f"{path}.py") or exists(path)


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module(".api", __name__).__all__})
