"""What ``tests/attacks/defences.toml`` says of each attack, and when its test may count as having shown something."""

from __future__ import annotations

import tomllib
import traceback
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from keypost.errors import KeypostError
from support.defences import Defence

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

FILE = Path(__file__).parents[1] / "attacks/defences.toml"
_STAND_INS = ("returns", "returns_argument", "instead")
_FIELDS = {"attack", "defence", "behind", "lastly", *_STAND_INS}
HARM = (AssertionError, pytest.fail.Exception)


class AnotherReasonError(Exception):
    """The attack was stopped, but not for the reason that its test expects."""


def check_told(reasons: Collection[str], expected: str) -> None:
    """Demand that the victim was told of the attack for the reason that is expected.

    Raises:
        AssertionError: nothing was told: the attack went unnoticed.
        AnotherReasonError: something else was told.
    """
    assert reasons, f"nobody was told of {expected}"
    if expected not in reasons:
        raise AnotherReasonError(f"told of {', '.join(reasons)} instead of {expected}")


def check_untold(reasons: Collection[str]) -> None:
    """Demand that the victim was told of nothing: what is stopped here is nothing to worry about.

    Raises:
        AnotherReasonError: something was told: another check has stopped the attack, and takes it for worse.
    """
    if reasons:
        raise AnotherReasonError(f"told of {', '.join(reasons)}")


def check_said(sentence: str, words: str) -> None:
    """Demand that a sentence has these words, which tell one check from another with the same reason.

    Raises:
        AnotherReasonError: it has not.
    """
    if words not in sentence:
        raise AnotherReasonError(f"said {sentence!r} without {words!r}")


@contextmanager
def stopped_by(error: type[KeypostError], words: str) -> Iterator[None]:
    """Demand that the block raises an error of this kind with these words.

    Raises:
        Failed: nothing is raised: the attack has succeeded.
        AnotherReasonError: the error has other words: another check has stopped the attack.
    """
    with pytest.raises(error) as caught:
        yield
    check_said(str(caught.value), words)


@dataclass(frozen=True)
class Attack:
    """What ``defences.toml`` says of an attack.

    Attributes:
        attack: What the attacker does, in a sentence.
        defences: Each of them is taken out in turn; then the test of the attack must fail.
        behind: What stops the attack for another reason when one of these is out; all are then taken out together,
            and the attack must do its harm.
        lastly: What stops it even then and is no function of ours, in a sentence.
    """

    attack: str
    defences: tuple[Defence, ...]
    behind: tuple[Defence, ...] = ()
    lastly: str | None = None

    def runs(self) -> list[Without]:
        """Return the runs without defences that CI makes."""
        another = bool(self.behind or self.lastly)
        single = [Without((defence,), another_stops_it=another) for defence in self.defences]
        together = [Without((defence, *self.behind), another_stops_it=False) for defence in self.defences]
        return single + (together if self.behind and not self.lastly else [])


@dataclass(frozen=True)
class Without:
    """One run of an attack's test without some of the defences.

    Attributes:
        out: What is taken out.
        another_stops_it: Another defence may refuse for a reason of its own; otherwise the attack must do its harm.
    """

    out: tuple[Defence, ...]
    another_stops_it: bool

    def __str__(self) -> str:
        return "without " + " and ".join(defence.function for defence in self.out)

    @contextmanager
    def taken_out(self) -> Iterator[None]:
        """Take the defences out while the block runs."""
        with ExitStack() as stack:
            for defence in self.out:
                stack.enter_context(defence.out())
            yield

    @contextmanager
    def must_fail(self) -> Iterator[None]:
        """Demand that the test, which runs in the block, fails: by the attack's harm, or as another stops it."""
        try:
            yield
        except HARM as failure:
            if not _is_of_a_stand_in(failure):
                return
            failure.add_note(f"{self}: the stand-in asserts itself, that shows nothing")
            raise
        except (AnotherReasonError, KeypostError, grpc.RpcError) as error:
            if self.another_stops_it and not _is_unforeseen(error):
                return
            error.add_note(f"{self}: the attack does no harm; is there another defence behind? (behind, lastly)")
            raise
        except Exception as error:
            error.add_note(f"{self}: the attack broke, that shows nothing")
            raise
        pytest.fail(f"{self}: the test passes, so it does not show what defends", pytrace=False)


def _is_of_a_stand_in(failure: BaseException) -> bool:
    frames = traceback.extract_tb(failure.__traceback__)
    return Path(frames[-1].filename).stem.endswith("stand_ins")


def _is_unforeseen(error: Exception) -> bool:
    """Return whether a service, or the client, failed rather than refused."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    return getattr(error, "reason", "") == "INTERNAL"


def load(file: Path = FILE) -> dict[str, Attack]:
    """Return the attacks by test, ``FILE.py::TEST``.

    Raises:
        ValueError: an entry has a field that is none, or lacks one.
    """
    return {test: _read(test, entry) for test, entry in tomllib.loads(file.read_text(encoding="utf-8")).items()}


def _read(test: str, entry: dict[str, Any]) -> Attack:
    if unknown := set(entry) - _FIELDS:
        raise ValueError(f"{test}: {', '.join(sorted(unknown))} is no field")
    try:
        own = {name: entry[name] for name in _STAND_INS if name in entry}
        functions = [entry["defence"]] if isinstance(entry["defence"], str) else entry["defence"]
        behind = (one if isinstance(one, dict) else {"function": one} for one in entry.get("behind", ()))
        return Attack(
            entry["attack"],
            tuple(Defence(function, **own) for function in functions),
            tuple(Defence(**one) for one in behind),
            entry.get("lastly"),
        )
    except KeyError as error:
        raise ValueError(f"{test}: {error} is missing") from error
