"""Commands about the local user."""

from typing import Annotated

import typer

from models.errors import Invalid
from models.inputs import UserChanges
from models.shapes import DeletedDict, UserDict
from server.command_line.local import as_local_user
from server.command_line.session_changes import NOT_OVERWRITTEN, print_receipt
from server.command_line.terminal import complain, say
from server.record import Caller


def build() -> typer.Typer:
    """Return the group of commands."""
    group = typer.Typer(help="The local user: whose record this is.", no_args_is_help=True)
    group.command()(show)
    group.command()(update)
    group.command()(delete)
    return group


def show() -> None:
    """Show the local user."""

    async def user(caller: Caller) -> UserDict:
        return await caller.service.get_user(caller.user_id)

    _print(as_local_user(user))


def update(
    email: Annotated[str | None, typer.Option(help="A new address; empty clears it.")] = None,
    display_name: Annotated[str | None, typer.Option(help="A new name to show; empty clears it.")] = None,
) -> None:
    """Change the local user's address or name."""
    given = {"email": email, "display_name": display_name}
    values = {name: value or None for name, value in given.items() if value is not None}
    if not values:
        raise Invalid("Nothing to change: give --email or --display-name.")

    async def changed(caller: Caller) -> UserDict:
        return await caller.service.update_user(caller.user_id, UserChanges.model_validate(values))

    _print(as_local_user(changed))


def delete(
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Delete the local user with all sessions, for good."""
    if not yes:
        typer.confirm("Delete your whole record, every session, for good?", abort=True)

    async def deleted(caller: Caller) -> DeletedDict:
        receipt = await caller.service.delete_user(caller.user_id)
        if not await caller.service.finish_deletions():
            complain(NOT_OVERWRITTEN)
        return receipt

    print_receipt(as_local_user(deleted))


def _print(user: UserDict) -> None:
    for name, value in user.items():
        say(f"{name:<13} {'' if value is None else value}")
