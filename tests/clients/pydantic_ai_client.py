# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""The MCP toolset of Pydantic AI, which hands a model the structured content alone."""

from typing import Any

from fastmcp.client.transports import StdioTransport
from pydantic_ai import ModelRetry
from pydantic_ai.mcp import MCPToolset

from tests.clients.story import Answer, Plan, Report, run, tell


async def pydantic_ai(plan: Plan) -> Report:
    transport = StdioTransport(command=plan.command, args=plan.arguments, env=plan.environment, keep_alive=False)
    async with MCPToolset(transport) as toolset:

        async def call(name: str, arguments: dict[str, Any]) -> Answer:
            try:
                result = await toolset.direct_call_tool(name, arguments)
            except ModelRetry as refusal:
                return Answer(str(refusal), None, is_error=True)
            if isinstance(result, dict):
                return Answer(None, result, is_error=False)
            return Answer(str(result), None, is_error=False)

        names = [tool.name for tool in await toolset.list_tools()]
        session_id = await tell(plan, names, call)
        return Report(str(toolset.client.protocol_version), session_id)


if __name__ == "__main__":
    run(pydantic_ai)
