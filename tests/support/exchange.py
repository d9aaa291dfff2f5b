"""Another function in the place of one, for everybody who holds it, under whatever name it was imported."""

from __future__ import annotations

from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_stand_ins: list[Callable[..., Any]] = []
_NUMBER = "which one"


@contextmanager
def exchanged(function: FunctionType, stand_in: Callable[..., Any]) -> Iterator[None]:
    """Have calls of a function reach another one while the block runs."""
    code = function.__code__
    number = len(_stand_ins)
    _stand_ins.append(stand_in)
    function.__code__ = _calling(number, code)
    try:
        yield
    finally:
        function.__code__ = code


def copied(function: FunctionType) -> FunctionType:
    """Return the function as it is now, whatever takes its place later."""
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def stand_in_of(number: int) -> Callable[..., Any]:
    """Return what was put in the place of a function."""
    return _stand_ins[number]


def _template(*args: Any, **kwargs: Any) -> Any:
    # Code runs with the globals of the function that it is set on.
    from support.exchange import stand_in_of as find  # noqa: PLC0415

    return find("which one")(*args, **kwargs)  # type: ignore[arg-type]  # _calling puts the number here


def _calling(number: int, replaced: CodeType) -> CodeType:
    """Return code that calls a stand-in; set on a function, it reaches all who hold that function."""
    code = _template.__code__
    constants = tuple(number if constant == _NUMBER else constant for constant in code.co_consts)
    return code.replace(co_consts=constants, co_freevars=replaced.co_freevars, co_name=replaced.co_name)
