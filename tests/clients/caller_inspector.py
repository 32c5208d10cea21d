"""The Inspector's command line calls other people's tools: a process and a connection for each."""

import json
import subprocess

from tests.clients.calls import Outcome, Plan, run


async def call_all(plan: Plan) -> list[Outcome]:
    """Call the tools of the plan."""
    settings = [word for name, value in plan.environment.items() for word in ("-e", f"{name}={value}")]
    shared = [*plan.program, "--cli", "--quiet", "--format", "json", "--protocol-era", plan.mode, *settings]
    return [_call(shared, plan, name, json.dumps(arguments)) for name, arguments in plan.calls]


def _call(shared: list[str], plan: Plan, name: str, arguments: str) -> Outcome:
    words = ["--method", "tools/call", "--tool-name", name, "--tool-args-json", arguments]
    command = [*shared, *words, "--", plan.command, *plan.arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
    try:
        result = json.loads(done.stdout)["result"]
    except (ValueError, KeyError):
        assert done.returncode != 0, done.stdout
        return {"content": None, "failed": True}
    return {"content": result["content"], "failed": bool(result.get("isError"))}


if __name__ == "__main__":
    run(call_all)
