"""The command that shows the audit log, and whether it is as it was written."""

from typing import Annotated

import typer

from models.shapes import AuditCheckDict, AuditEntryDict, AuditPageDict
from server.command_line.local import as_local_user
from server.command_line.terminal import say, say_json
from server.record import Caller

_WORDS = {"session_deleted": "session deleted", "user_deleted": "user deleted", "erased": "erased on the disk"}


def audit(
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain of all rows instead.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="The cursor that the page before ended with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show what the audit log has of you, newest first; with --verify exit code 1 where it was changed."""
    if verify:
        _verify(as_json=as_json)
        return

    async def page(caller: Caller) -> AuditPageDict:
        return await caller.service.get_audit_log(caller.user_id, limit, cursor)

    found = as_local_user(page)
    if as_json:
        say_json(found)
        return
    for entry in found["entries"]:
        say(_line(entry))
    if found["next_cursor"]:
        say(f"more: mcp-chat-server audit --limit {limit} --cursor {found['next_cursor']}")


def _verify(*, as_json: bool) -> None:
    async def check(caller: Caller) -> AuditCheckDict:
        return await caller.service.verify_audit_log()

    found = as_local_user(check)
    if as_json:
        say_json(found)
    elif found["broken_at"] is None:
        say(f"{found['rows']} rows, each as it was written; the detail of {found['erased']} was erased")
        say(f"head {found['head']}")
    else:
        say(f"row {found['broken_at']} is not as it was written, or does not follow the one before it")
    if found["broken_at"] is not None:
        raise typer.Exit(1)


def _line(entry: AuditEntryDict) -> str:
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in (entry["detail"] or {}).items())
    return f"{entry['id']:>6}  {entry['created_at'][:19].replace('T', ' ')}  {_WORDS[entry['action']]}: {counts}"
