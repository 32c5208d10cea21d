// The TypeScript SDK 2.x, whose client speaks both eras of the protocol: `mode` is its own word for which.

import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

import { run, tell } from "./story.mjs";

await run(async (plan) => {
  const client = new Client(
    { name: "typescript2-client", version: "1" },
    { versionNegotiation: { mode: plan.mode } },
  );
  await client.connect(
    new StdioClientTransport({ command: plan.command, args: plan.arguments, env: plan.environment }),
  );
  try {
    const session_id = await tell(plan, client);
    return { protocol_version: client.getNegotiatedProtocolVersion(), session_id };
  } finally {
    await client.close();
  }
});
