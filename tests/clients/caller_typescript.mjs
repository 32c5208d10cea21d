// The TypeScript SDK 1.x calls other people's tools.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

import { run } from "./story.mjs";

await run(async (plan) => {
  const client = new Client({ name: "typescript-client", version: "1" });
  const { command, arguments: args, environment: env } = plan;
  await client.connect(new StdioClientTransport({ command, args, env }));
  const outcomes = [];
  try {
    await client.listTools();
    for (const [name, given] of plan.calls) {
      try {
        const result = await client.callTool({ name, arguments: given });
        outcomes.push({ content: result.content, failed: Boolean(result.isError) });
      } catch (error) {
        outcomes.push({ content: String(error), failed: true });
      }
    }
  } finally {
    await client.close();
  }
  return outcomes;
});
