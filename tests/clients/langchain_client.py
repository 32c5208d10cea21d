# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""langchain-mcp-adapters, which start our server anew for every call and hand a model the text alone."""

from typing import Any

from langchain_mcp_adapters.client import MultiServerMCPClient

from tests.clients.story import Answer, Plan, Report, run, tell


async def langchain(plan: Plan) -> Report:
    connection = {
        "transport": "stdio",
        "command": plan.command,
        "args": plan.arguments,
        "env": plan.environment,
    }
    client = MultiServerMCPClient({"chat": connection})
    async with client.session("chat", auto_initialize=False) as session:
        about = await session.initialize()
    tools = {tool.name: tool for tool in await client.get_tools()}

    async def call(name: str, arguments: dict[str, Any]) -> Answer:
        request = {"type": "tool_call", "id": "1", "name": name, "args": arguments}
        message = await tools[name].ainvoke(request)
        structured = message.artifact["structured_content"] if message.artifact else None
        text = "\n".join(block["text"] for block in message.content)
        return Answer(text, structured, message.status == "error")

    return Report(str(about.protocolVersion), await tell(plan, tools.keys(), call))


if __name__ == "__main__":
    run(langchain)
