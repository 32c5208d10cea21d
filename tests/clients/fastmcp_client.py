# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""The client of fastmcp 4, in both eras of the protocol: `mode` says which."""

from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from tests.clients.story import Answer, Plan, Report, run, tell


async def fastmcp(plan: Plan) -> Report:
    transport = StdioTransport(command=plan.command, args=plan.arguments, env=plan.environment, keep_alive=False)
    async with Client(transport, mode=plan.mode) as client:

        async def call(name: str, arguments: dict[str, Any]) -> Answer:
            result = await client.call_tool(name, arguments, raise_on_error=False)
            text = "\n".join(block.text for block in result.content)
            return Answer(text, result.structured_content, result.is_error)

        names = [tool.name for tool in await client.list_tools()]
        session_id = await tell(plan, names, call)
        return Report(str(client.protocol_version), session_id)


if __name__ == "__main__":
    run(fastmcp)
