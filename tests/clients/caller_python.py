"""The Python SDK 2.x calls other people's tools."""

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from tests.clients.calls import Outcome, Plan, run


async def call_all(plan: Plan) -> list[Outcome]:
    """Call the tools of the plan."""
    parameters = StdioServerParameters(command=plan.command, args=plan.arguments, env=plan.environment)
    outcomes: list[Outcome] = []
    async with Client(stdio_client(parameters), mode=plan.mode) as client:
        await client.list_tools()
        for name, arguments in plan.calls:
            try:
                result = await client.call_tool(name, arguments)
            except MCPError as error:
                outcomes.append({"content": str(error), "failed": True})
                continue
            content = [block.model_dump(mode="json") for block in result.content]
            outcomes.append({"content": content, "failed": bool(result.is_error)})
    return outcomes


if __name__ == "__main__":
    run(call_all)
