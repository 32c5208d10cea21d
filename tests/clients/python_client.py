"""The Python SDK 2.x, the one that our server is built with, in both eras of the protocol: `mode` says which."""

from typing import Any

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

from tests.clients.story import Answer, Plan, Report, run, tell


async def python(plan: Plan) -> Report:
    parameters = StdioServerParameters(command=plan.command, args=plan.arguments, env=plan.environment)
    async with Client(stdio_client(parameters), mode=plan.mode) as client:

        async def call(name: str, arguments: dict[str, Any]) -> Answer:
            result = await client.call_tool(name, arguments)
            text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
            return Answer(text, result.structured_content, bool(result.is_error))

        names = [tool.name for tool in (await client.list_tools()).tools]
        session_id = await tell(plan, names, call)
        return Report(str(client.protocol_version), session_id)


if __name__ == "__main__":
    run(python)
