"""The Inspector's command line: a process and a connection for each call, and a strict look at our schemas."""

import json
import subprocess
from typing import Any

from tests.clients.story import Answer, Plan, Report, run, tell

_TOOL_ERROR = 5
"""How the Inspector exits where a tool's result is an error."""


async def inspector(plan: Plan) -> Report:
    """Tell the story; `program` is how the Inspector is started, `mode` its own word for the era of the protocol."""
    settings = [word for name, value in plan.environment.items() for word in ("-e", f"{name}={value}")]
    shared = [*plan.program, "--cli", "--quiet", "--format", "json", "--protocol-era", plan.mode, *settings]

    def ask(method: str, *more: str, allowed: int = 0) -> dict[str, Any]:
        command = [*shared, "--method", method, *more, "--", plan.command, *plan.arguments]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
        assert done.returncode in (0, allowed), f"{method} exited with {done.returncode}: {done.stderr}"
        result: dict[str, Any] = json.loads(done.stdout)["result"]
        return result

    async def call(name: str, arguments: dict[str, Any]) -> Answer:
        given = json.dumps(arguments, ensure_ascii=False)
        result = ask("tools/call", "--tool-name", name, "--tool-args-json", given, allowed=_TOOL_ERROR)
        text = "\n".join(block["text"] for block in result["content"])
        return Answer(text, result.get("structuredContent"), bool(result.get("isError")))

    about = ask("initialize")
    # Strict: where a schema is one that some model's provider refuses, this fails.
    names = [tool["name"] for tool in ask("tools/list", "--strict")["tools"]]
    return Report(str(about["protocolVersion"]), await tell(plan, names, call))


if __name__ == "__main__":
    run(inspector)
