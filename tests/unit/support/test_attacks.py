"""A test of an attack that shows nothing is found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from keypost.errors import InvalidArgumentError, KeypostError
from keypost.protocol.identifiers import check_username
from support.attacks import AnotherReasonError, Attack, Without, check_said, check_told, check_untold, load, stopped_by
from support.defences import Defence
from support.stand_ins import assert_nothing

if TYPE_CHECKING:
    from pathlib import Path

CHECK = Defence("keypost.protocol.identifiers:check_username", returns_argument="username")
BEHIND = Defence("keypost.protocol.tokens:verify_token")
ALONE = Without((CHECK,), another_stops_it=False)
OF_SEVERAL = Without((CHECK,), another_stops_it=True)


def failed(code: grpc.StatusCode) -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize(
    ("entry", "why"), [('attack = "x"', "'defence' is missing"), ('atack = "x"\ndefence = "y"', "atack is no field")]
)
def test_a_slip_in_the_map_is_said(tmp_path: Path, entry: str, why: str) -> None:
    (tmp_path / "map.toml").write_text(f'["test_x.py::test_y"]\n{entry}\n')
    with pytest.raises(ValueError, match=why):
        load(tmp_path / "map.toml")


def test_an_entry_is_read_with_what_stands_behind(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(
        '["test_x.py::test_y"]\nattack = "x"\ndefence = ["a:b", "c:d"]\nreturns = 7\n'
        'behind = ["e:f", { function = "g:h", returns = true }]\n'
    )
    (attack,) = load(tmp_path / "map.toml").values()
    assert attack.defences == (Defence("a:b", returns=7), Defence("c:d", returns=7))
    assert attack.behind == (Defence("e:f"), Defence("g:h", returns=True))


def test_each_defence_is_taken_out_in_turn_and_then_with_what_stands_behind() -> None:
    assert Attack("x", (CHECK,)).runs() == [ALONE]
    together = Without((CHECK, BEHIND), another_stops_it=False)
    assert Attack("x", (CHECK,), behind=(BEHIND,)).runs() == [OF_SEVERAL, together]
    assert Attack("x", (CHECK,), behind=(BEHIND,), lastly="the database").runs() == [OF_SEVERAL]


def test_all_are_out_together() -> None:
    with Without((CHECK, BEHIND), another_stops_it=False).taken_out():
        assert check_username("NOT A NAME") == "NOT A NAME"
    with pytest.raises(KeypostError):
        check_username("NOT A NAME")


@pytest.mark.parametrize("run", [ALONE, OF_SEVERAL])
@pytest.mark.parametrize("harm", [AssertionError, pytest.fail.Exception])
def test_an_attack_that_does_its_harm_is_what_is_wanted(run: Without, harm: type[Exception]) -> None:
    with run.must_fail():
        raise harm


@pytest.mark.parametrize(
    "refusal", [InvalidArgumentError("refused"), AnotherReasonError(), failed(grpc.StatusCode.PERMISSION_DENIED)]
)
def test_a_further_refusal_counts_only_where_the_map_says_so(refusal: Exception) -> None:
    with OF_SEVERAL.must_fail():
        raise refusal
    with pytest.raises(type(refusal)) as caught, ALONE.must_fail():
        raise refusal
    assert "does no harm" in caught.value.__notes__[0]


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
def test_a_service_that_breaks_has_refused_nothing(code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError), OF_SEVERAL.must_fail():
        raise failed(code)


@pytest.mark.parametrize("run", [ALONE, OF_SEVERAL])
def test_a_test_that_passes_without_the_defence_is_found_out(run: Without) -> None:
    with pytest.raises(pytest.fail.Exception, match="passes"), run.must_fail():
        pass


@pytest.mark.parametrize("run", [ALONE, OF_SEVERAL])
def test_a_test_that_breaks_without_the_defence_is_found_out(run: Without) -> None:
    with pytest.raises(TypeError) as caught, run.must_fail():
        raise TypeError
    assert "shows nothing" in caught.value.__notes__[0]


def test_a_stand_in_that_asserts_shows_nothing() -> None:
    with pytest.raises(AssertionError) as caught, ALONE.must_fail():
        assert_nothing()
    assert "stand-in" in caught.value.__notes__[0]


def test_what_was_told_is_held_against_the_reason() -> None:
    check_told(["A", "B"], "B")
    with pytest.raises(AnotherReasonError, match="told of A instead of B"):
        check_told(["A"], "B")
    with pytest.raises(AssertionError, match="nobody"):
        check_told([], "B")


def test_what_was_told_though_nothing_should_be_is_another_reason() -> None:
    check_untold([])
    with pytest.raises(AnotherReasonError, match="told of A"):
        check_untold(["A"])


def test_the_words_tell_one_check_from_another() -> None:
    check_said("it went back", "back")
    with pytest.raises(AnotherReasonError, match="went back"):
        check_said("it went back", "vanished")


def test_an_attack_that_nothing_stops_has_succeeded() -> None:
    with stopped_by(KeypostError, "went back"):
        raise InvalidArgumentError("it went back")
    with pytest.raises(AnotherReasonError), stopped_by(KeypostError, "vanished"):
        raise InvalidArgumentError("it went back")
    with pytest.raises(pytest.fail.Exception), stopped_by(KeypostError, "went back"):
        pass
