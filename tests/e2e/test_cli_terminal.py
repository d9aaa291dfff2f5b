"""The command line on a terminal, in a pipe, and under a shell that completes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.pseudo_terminal import command_of, environment, on_a_terminal
from support.qr import scanned

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support.command_line import User

BOX = re.compile("[─━│┃┏┓└┘╇]")
ESCAPE = re.compile("\x1b\\[")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|4[0-7]|9[0-7])[;m]")


def in_a_shell(text: str, variables: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        ["bash", "--norc", "-ec", text],
        env=environment(**(variables or {})),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tables_and_colours_are_for_terminals(people: tuple[User, User]) -> None:
    alice, _ = people
    shown = on_a_terminal(alice, "devices", COLUMNS="80")
    assert ESCAPE.search(shown)
    heads = next(line for line in shown.splitlines() if "this device" in line)
    assert "fingerprint" in heads
    assert re.search(rf"{alice.name}/[a-z2-7]+  good +RSA3072_AES256", shown), "nothing is folded inside the word"
    assert COLOUR.search(on_a_terminal(alice, "keys", "nobody-at-all"))
    assert not COLOUR.search(on_a_terminal(alice, "keys", "nobody-at-all", NO_COLOR="1"))


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}], ids=str)
def test_a_piped_table_is_plain_columns_for_awk(people: tuple[User, User], variables: dict[str, str]) -> None:
    alice, bob = people
    devices = shlex.join(command_of(alice, "devices"))
    keys = shlex.join(command_of(bob, "keys", alice.name))
    address, state, suite, own = in_a_shell(f"{devices} | awk '{{print $1, $2, $3, $6}}'", variables).split()
    assert address.startswith(f"{alice.name}/")
    assert (state, suite, own) == ("good", "RSA3072_AES256", "yes")
    shown = in_a_shell(f"{keys} | cat", variables)
    assert re.fullmatch(r"\S+\tgood\tRSA3072_AES256\t[0-9a-f]{8}\t\d{4}-\d\d-\d\dT\d\d:\d\dZ\t-\n", shown)
    assert not BOX.search(shown)


def test_a_safety_number_is_scanned_from_the_others_terminal(people: tuple[User, User]) -> None:
    alice, bob = people
    shown = on_a_terminal(bob, "verify", alice.name, answer="\n")
    assert "[y/n]" in shown
    (verified,) = alice.run_json("verify", bob.name, "--scan", scanned(shown))
    assert verified == {"event": "verified", "username": bob.name}
    assert "yes" in alice.run("keys", bob.name)
    assert "no longer verified" not in on_a_terminal(alice, "verify", bob.name, answer="y\n")
    bob.run("send", alice.name, "it is me")
    assert f"{bob.name}/" in (said := alice.run("receive"))
    assert " ✓: it is me" in said


def test_a_person_says_whether_the_numbers_match(people: tuple[User, User]) -> None:
    alice, bob = people
    alice.run("verify", bob.name, "--remove")
    assert "(SAFETY_NUMBER_DIFFERS)" in on_a_terminal(alice, "verify", bob.name, answer="n\n")
    assert f"{bob.name} is verified." not in on_a_terminal(alice, "verify", bob.name, answer="\n")
    assert f"{bob.name} is verified." in on_a_terminal(alice, "verify", bob.name, answer="y\n")
    (number,) = alice.run_json("verify", bob.name)
    assert (number["verified"], number["changed"]) == (True, False)


def test_digits_are_compared_for_scripts(people: tuple[User, User]) -> None:
    alice, bob = people
    (number,) = bob.run_json("verify", alice.name)
    alice.run("verify", bob.name, "--matches", number["digits"])
    alice.run("verify", bob.name, "--remove")
    other = f"{(int(number['digits'][0]) + 1) % 10}{number['digits'][1:]}"
    failure = alice.fail("verify", bob.name, "--matches", other)
    assert (failure.code, "SAFETY_NUMBER_DIFFERS" in failure.sentence) == (5, True)
    assert alice.fail("verify", bob.name, "--matches", other, "--remove").code == 2


def test_messages_and_results_are_plain_when_piped(people: tuple[User, User]) -> None:
    alice, bob = people
    assert not ESCAPE.search(alice.run("send", bob.name, "Hello Bob"))
    shown = bob.run("receive")
    assert "Hello Bob" in shown
    assert not ESCAPE.search(shown)
    failure = alice.fail("keys", "nobody-at-all")
    assert not ESCAPE.search(failure.sentence)


def test_a_progress_bar_is_for_terminals(people: tuple[User, User], tmp_path: Path) -> None:
    alice, bob = people
    (tmp_path / "photo.jpg").write_bytes(bytes(700_000))
    send = ("send", bob.name, "--file", str(tmp_path / "photo.jpg"))
    shown = on_a_terminal(alice, *send)
    assert BOX.search(shown)
    assert "KiB" in shown
    both = in_a_shell(f"{shlex.join(command_of(alice, *send))} 2>&1 | cat")
    assert both.startswith("Sent photo.jpg")
    assert both.count("\n") == 1
    assert not BOX.search(both)
    bob.run("receive", "--output-dir", str(tmp_path / "inbox"))


@pytest.mark.parametrize("options", [(), ("--json",)], ids=str)
def test_a_reader_that_goes_away_ends_it_without_a_word(people: tuple[User, User], options: tuple[str, ...]) -> None:
    alice, _ = people
    ours, theirs = os.pipe()
    os.close(ours)
    command = command_of(alice, *options, "devices")
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=environment(), check=False, timeout=60)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


COMPLETE = """
eval "$(keypost --show-completion bash)"
complete -p keypost
COMP_WORDS=({words} {last}); COMP_CWORD={count}
_keypost_completion keypost
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(last: str, *words: str, **variables: str) -> set[str]:
    """Return what bash offers for the last word."""
    text = COMPLETE.format(words=shlex.join(["keypost", *words]), last=shlex.quote(last), count=len(words) + 1)
    registration, *offered = in_a_shell(text, variables).splitlines()
    assert "_keypost_completion keypost" in registration
    return set(offered)


def test_bash_completes_commands_and_options() -> None:
    assert completed("re") == {"receive", "renew", "reset", "restore"}
    assert completed("--key-", "--json") == {"--key-file", "--key-ring"}
    assert completed("--me", "send") == {"--media-type"}
    assert completed("RSA3", "enroll", "--suite") == {"RSA3072_AES256"}


def test_bash_completes_the_names_of_profiles(tmp_path: Path) -> None:
    for name in ("work", "wiki", "home"):
        folder = tmp_path / "keypost" / "profiles" / name
        folder.mkdir(parents=True)
        (folder / "keystore.sqlite3").write_bytes(b"something")
    assert completed("w", "--profile", XDG_DATA_HOME=str(tmp_path)) == {"wiki", "work"}


def asked(variables: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["keypost"], env=environment(**variables), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_zsh_and_fish_complete_too() -> None:
    zsh = asked({"_KEYPOST_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "keypost re"})
    assert '"receive":"Show the messages that wait."' in zsh
    fish = {"_KEYPOST_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": "keypost re"}
    assert asked(fish | {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}).splitlines()[0].startswith("receive")


@pytest.mark.parametrize(
    ("shell", "line"), [("bash", "complete -o default"), ("zsh", "compdef _keypost"), ("fish", "complete --command")]
)
def test_every_shell_has_a_script(shell: str, line: str) -> None:
    # Without the test's switch typer takes the shell that it is called from.
    switch = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert line in in_a_shell(f"keypost --show-completion {shell}", switch)


def test_completion_is_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    said = in_a_shell("keypost --install-completion; :", {"HOME": str(tmp_path)})
    assert "bash completion installed" in said
    registered = in_a_shell("source ~/.bashrc; complete -p keypost", {"HOME": str(tmp_path)})
    assert "_keypost_completion" in registered
