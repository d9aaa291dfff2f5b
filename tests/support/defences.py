"""How a function that defends is taken out, whoever has imported it under whatever name."""

from __future__ import annotations

import importlib
import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from support.exchange import exchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Defence:
    """A function that an attack fails at, and what takes its place when it is out.

    Attributes:
        function: ``module:name`` or ``module:Class.name``.
        returns: What it returns when it is out; nothing by default, as functions that verify do.
        returns_argument: The parameter that it returns instead, for functions that pass on what they have checked.
        instead: ``module:name`` of a function that takes its place, for functions that do more than defend.
    """

    function: str
    returns: Any = None
    returns_argument: str | None = None
    instead: str | None = None

    @contextmanager
    def out(self) -> Iterator[None]:
        """Take the defence out while the block runs, whoever has imported it under whatever name."""
        function = find(self.function)
        with exchanged(function, self._stand_in(function)):
            yield

    def _stand_in(self, function: FunctionType) -> Callable[..., Any]:
        if self.instead is not None:
            return find(self.instead)
        signature = inspect.signature(function)

        def value(*args: Any, **kwargs: Any) -> Any:
            if self.returns_argument is None:
                return self.returns
            return signature.bind(*args, **kwargs).arguments[self.returns_argument]

        if not inspect.iscoroutinefunction(function):
            return value

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return value(*args, **kwargs)

        return coroutine


def find(name: str) -> FunctionType:
    """Return the function ``module:name`` or ``module:Class.name``; of a property its getter.

    Raises:
        ValueError: there is none.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = inspect.getattr_static(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {name}") from error
    for attribute in ("fget", "__func__", "__wrapped__"):
        found = getattr(found, attribute, None) or found
    if not isinstance(found, FunctionType):
        raise ValueError(f"{name} is no function")  # noqa: TRY004  # to who reads the map, it is a wrong name
    return found
