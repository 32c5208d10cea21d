# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""openai-agents over stdio; our schemas are also turned into its function tools, with strict schemas and without."""

from typing import Any

from agents.mcp import MCPServerStdio
from agents.mcp.util import MCPUtil

from tests.clients.story import Answer, Plan, Report, run, tell


async def openai_agents(plan: Plan) -> Report:
    parameters = {"command": plan.command, "args": plan.arguments, "env": plan.environment}
    async with MCPServerStdio(params=parameters, client_session_timeout_seconds=60) as server:

        async def call(name: str, arguments: dict[str, Any]) -> Answer:
            result = await server.call_tool(name, arguments)
            text = "\n".join(block.text for block in result.content)
            return Answer(text, result.structured_content, result.is_error)

        tools = await server.list_tools()
        for strict in (False, True):
            functions = [MCPUtil.to_function_tool(tool, server, strict) for tool in tools]
            assert [function.name for function in functions] == [tool.name for tool in tools], functions
        session_id = await tell(plan, [tool.name for tool in tools], call)
        return Report(str(server.session.protocol_version), session_id)


if __name__ == "__main__":
    run(openai_agents)
