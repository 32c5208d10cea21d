# mypy: ignore-errors
# It runs in an environment of its own, with an SDK whose names are not those of ours.
"""The Python SDK 1.x, from its second release on: clients that nobody has touched since."""

from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.clients.story import Answer, Plan, Report, run, tell


async def old_python(plan: Plan) -> Report:
    parameters = StdioServerParameters(command=plan.command, args=plan.arguments, env=plan.environment)
    async with stdio_client(parameters) as (reading, writing), ClientSession(reading, writing) as session:
        about = await session.initialize()

        async def call(name: str, arguments: dict[str, Any]) -> Answer:
            result = await session.call_tool(name, arguments)
            # Structured content came with 1.10; before that it is a field that the SDK does not know.
            structured = getattr(result, "structuredContent", None)
            return Answer("\n".join(block.text for block in result.content), structured, result.isError)

        names = [tool.name for tool in (await session.list_tools()).tools]
        return Report(str(about.protocolVersion), await tell(plan, names, call))


if __name__ == "__main__":
    run(old_python)
