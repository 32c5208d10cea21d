"""The command that searches everything that was said and done."""

from typing import Annotated

import typer

from models.shapes import SearchHitDict, SearchPageDict
from server.command_line.local import as_local_user
from server.command_line.sessions import AsJson
from server.command_line.terminal import complain, in_one_line, local_time, say, say_json
from server.record import Caller


def search(
    query: Annotated[
        str,
        typer.Argument(
            help='Words, "phrases", -left-out, role:, tool:, session:, before:, after:. One that begins with - comes '
            "after --."
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="The cursor that the page before ended with.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search the messages and tool calls of all your sessions."""

    async def page(caller: Caller) -> SearchPageDict:
        return await caller.service.search_history(caller.user_id, query, limit, cursor)

    found = as_local_user(page)
    if not found["is_complete"]:
        complain("the newest entries could not be searched, since nothing can be written to the database")
    if as_json:
        say_json(found)
        return
    for hit in found["hits"]:
        _print_hit(hit)
    if not found["hits"] and found["next_cursor"] is None:
        say("nothing found in what was said and done; `mcp-chat-server sessions --query` looks for titles")
    if found["next_cursor"]:
        say(f"more: the same with --cursor {found['next_cursor']}")


def _print_hit(hit: SearchHitDict) -> None:
    when = local_time(hit["said_at"] or hit["created_at"])
    who = in_one_line(hit["role"] or f"tool {hit['tool_name']}")
    say(f"{when}  {hit['session_id']} [{hit['seq']}] {who}  {in_one_line(hit['session_title'] or 'Untitled')}")
    say(f"    {in_one_line(hit['snippet'])}\n")
