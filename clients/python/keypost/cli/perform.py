"""Perform a command: from its options to an open client, and from what went wrong to a sentence and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.cli.asking import check_can_ask
from keypost.cli.errors import UsageError
from keypost.cli.exit_codes import ExitCode, exit_code_of
from keypost.cli.hints import GET_A_BUNDLE, hint_for
from keypost.cli.output import HumanOutput, JsonOutput, Output
from keypost.cli.passphrases import PROFILE, passphrase_for
from keypost.cli.profiles import is_profile, no_profile, profile_path
from keypost.client import Client
from keypost.errors import InvalidArgumentError, KeypostError
from keypost.keystore import KeyFile, KeyStoreExistsError, SystemKeyRing, Unlock
from keypost.keystore.backups import undo_restore
from keypost.protocol.suites import suite_named

if TYPE_CHECKING:
    from keypost.client.context import IdentityChange
    from keypost.protocol.steps import Step

DEBUG_VARIABLE = "KEYPOST_DEBUG"

Action = Callable[[Client, Output], Awaitable[None]]
Prepare = Callable[[Path, Unlock, Output], None]
"""Makes a profile, before it is opened: its folder, what is to unlock it, and where to say how far it is."""


@dataclass(frozen=True)
class Options:
    """The options before the command."""

    profile: str
    bundle: Path | None
    json: bool
    steps: bool
    minimum_suite: str
    key_file: Path | None
    key_ring: bool
    on_identity_change: IdentityChange = "block"

    def output(self) -> Output:
        """Return what the command talks through."""
        return JsonOutput() if self.json else HumanOutput()


def perform(
    options: Options, action: Action, *, creates: bool = False, asks: bool = False, prepare: Prepare | None = None
) -> int:
    """Open the client, do ``action``, close it; say what went wrong in one sentence.

    Args:
        options: The options before the command.
        action: What the command does.
        creates: The command may make a new profile: a passphrase is asked for twice.
        asks: The command asks before it does what cannot be undone: somebody has to be there.
        prepare: Makes the profile; there must be none.

    Returns:
        The exit code.
    """
    output = options.output()
    try:
        if asks:
            check_can_ask(is_for_people=output.is_for_people)
        asyncio.run(_perform(options, output, action, creates=creates, prepare=prepare))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        raise  # whoever read it has gone, as head does: typer ends without a word
    except KeypostError as error:
        output.error(error.reason, str(error), hint_for(error), error.metadata)
        return exit_code_of(error)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        sentence = f"something unforeseen happened: {type(error).__name__}"
        output.error("UNEXPECTED", sentence, f"{DEBUG_VARIABLE}=1 shows where.", {})
        return ExitCode.FAILED
    finally:
        output.close()
    return ExitCode.OK


async def _perform(options: Options, output: Output, action: Action, *, creates: bool, prepare: Prepare | None) -> None:
    profile = profile_path(options.profile)
    if prepare is None:
        _check(options, profile, creates=creates)
    else:
        _check_new(options, profile)
    unlock = unlock_for(options, new=not is_profile(profile))
    with _prepared(prepare, profile, unlock, output):
        client = await _open(options, profile, unlock, output)
    async with client:
        await action(client, output)


@contextlib.contextmanager
def _prepared(prepare: Prepare | None, profile: Path, unlock: Unlock, output: Output) -> Iterator[None]:
    """Make the profile, and remove it again if it cannot be opened by the bundle that was given for it."""
    if prepare is None:
        yield
        return
    is_new = not profile.exists()
    prepare(profile, unlock, output)
    try:
        yield
    except InvalidArgumentError as error:
        if error.metadata.get("field") == "bundle":
            # Found before the key is renewed: the device that the backup is of has noticed nothing.
            undo_restore(profile, with_folder=is_new)
        raise


async def _open(options: Options, profile: Path, unlock: Unlock, output: Output) -> Client:
    def observer(step: Step) -> None:
        if options.steps:
            output.step(step)

    return await Client.open(
        profile,
        unlock=unlock,
        bundle=options.bundle,
        observer=observer,
        on_event=lambda event: output.notice(event.kind, event.reason, event.sentence),
        minimum_suite=suite_named(options.minimum_suite),
        on_identity_change=options.on_identity_change,
    )


def _check(options: Options, profile: Path, *, creates: bool) -> None:
    """Find what is missing before anybody is asked for a passphrase, and before anything is made."""
    _check_options(options)
    if is_profile(profile):
        return
    if not creates:
        raise no_profile(options.profile)
    if options.bundle is None:
        raise UsageError(
            "a new profile starts from the bundle of its realm, and none is given",
            f"Give it by --bundle FILE or KEYPOST_BUNDLE. {GET_A_BUNDLE}",
        )


def _check_new(options: Options, profile: Path) -> None:
    _check_options(options)
    if is_profile(profile):
        raise KeyStoreExistsError(f"there is a profile {options.profile} already ({profile}); nothing is overwritten")


def _check_options(options: Options) -> None:
    if options.key_file is not None and options.key_ring:
        raise UsageError(
            "a profile is unlocked either by a key file or by the key ring, and both are given",
            "Leave out --key-file (KEYPOST_KEY_FILE) or --key-ring (KEYPOST_KEY_RING).",
        )
    if options.bundle is not None and not options.bundle.is_file():
        raise UsageError(f"there is no bundle at {options.bundle}", f"Check --bundle or KEYPOST_BUNDLE. {GET_A_BUNDLE}")


def unlock_for(options: Options, *, new: bool) -> Unlock:
    """Return how the local key store is unlocked: key file, key ring, the variable, or the question.

    Raises:
        UsageError: nothing is given and there is nobody to ask.
    """
    if options.key_file is not None:
        return KeyFile(options.key_file)
    if options.key_ring:
        return SystemKeyRing()
    return passphrase_for(PROFILE, new=new)
