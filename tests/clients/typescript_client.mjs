// The TypeScript SDK 1.x, which most clients of today are built on; it checks results against our output schemas.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

import { run, tell } from "./story.mjs";

await run(async (plan) => {
  const client = new Client({ name: "typescript-client", version: "1" });
  const transport = new StdioClientTransport({
    command: plan.command,
    args: plan.arguments,
    env: plan.environment,
  });
  // This SDK keeps what was negotiated to itself, and hands it only to transports that ask.
  let protocol_version = "unknown";
  transport.setProtocolVersion = (version) => {
    protocol_version = version;
  };
  await client.connect(transport);
  try {
    return { protocol_version, session_id: await tell(plan, client) };
  } finally {
    await client.close();
  }
});
