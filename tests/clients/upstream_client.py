"""A server of other people behind ours: our own client calls its tools through call_tool, then tells the story."""

import json
from typing import Any

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

from tests.clients.story import Answer, Plan, Report, run, tell


async def upstream(plan: Plan) -> Report:
    """Tell the story; `program` is how the other server is started."""
    command, *arguments = plan.program
    with open("servers.json", "w", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123 - before anything runs
        json.dump({"mcpServers": {"everything": {"command": command, "args": arguments}}}, file)
    environment = {**plan.environment, "MCP_CHAT_UPSTREAM_FILE": "servers.json"}
    parameters = StdioServerParameters(command=plan.command, args=plan.arguments, env=environment)
    async with Client(stdio_client(parameters)) as client:

        async def call(name: str, arguments: dict[str, Any]) -> Answer:
            result = await client.call_tool(name, arguments)
            text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
            return Answer(text, result.structured_content, bool(result.is_error))

        session_id = await _call_through(client, call)
        await call("delete_session", {"session_id": session_id})
        names = [tool.name for tool in (await client.list_tools()).tools]
        offered = [name for name in names if name not in ("call_tool", "list_server_tools")]
        assert len(names) == len(offered) + 2, f"the two tools are not offered: {names}"
        return Report(str(client.protocol_version), await tell(plan, offered, call))


async def _call_through(client: Client, call: Any) -> str:
    listed = (await call("list_server_tools", {"server": "everything"})).structured
    assert "echo" in [tool["name"] for tool in listed["tools"]], listed
    echoed = await call("call_tool", {"server": "everything", "tool": "echo", "arguments": {"message": "Grüße 👋"}})
    assert not echoed.is_error, echoed.text
    assert "Grüße 👋" in str(echoed.structured["result"]), echoed
    assert echoed.structured["seq"] == 1, echoed
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    long = {"server": "everything", "tool": "trigger-long-running-operation", "arguments": {"duration": 1, "steps": 2}}
    done = await client.call_tool("call_tool", long, progress_callback=hear)
    assert not done.is_error, done
    assert heard == [1, 2], heard
    usage = (await call("list_tool_usage", {})).structured
    assert [each["status"] for each in usage["tool_usages"]] == ["success", "success"], usage
    return str(echoed.structured["session_id"])


if __name__ == "__main__":
    run(upstream)
