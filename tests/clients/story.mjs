// The story that every client tells our server: the twin of story.py, for the clients that are written in TypeScript.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";

const ABSENT_SESSION = "01890000-0000-7000-8000-000000000000";

/** Read the plan that the command line names, run a client with it, and write its report. */
export async function run(client) {
  const [planFile, reportFile] = process.argv.slice(2);
  const report = await client(JSON.parse(readFileSync(planFile, "utf8")));
  writeFileSync(reportFile, JSON.stringify(report));
}

/** Tell the story through an SDK's connected client, and return the session's id. */
export async function tell(plan, client) {
  const { tools } = await client.listTools();
  assert.deepEqual(tools.map((tool) => tool.name).sort(), [...plan.tool_names].sort(), "the names of the tools");

  const started = await good(client, "start_session", plan.session);
  const session_id = started.structuredContent.id;
  assert.ok(textOf(started).includes(`id=${session_id}`), "the text names the same session");
  const added = await good(client, "add_messages", { session_id, messages: plan.messages });
  assert.deepEqual(added.structuredContent.messages.map((message) => message.seq), [1, 2]);
  const logged = await good(client, "log_tool_usage", { session_id, ...plan.tool_usage });
  assert.equal(logged.structuredContent.seq, 3);

  await refused(client, "session", "get_session_history", { session_id: ABSENT_SESSION });
  const messages = [{ role: "narrator", content: "never stored" }];
  await refused(client, "role", "add_messages", { session_id, messages });

  const concise = await good(client, "get_session_history", { session_id });
  plan.messages.forEach((message, index) => {
    // Lines after the first are indented, so that none passes for an entry.
    assert.ok(textOf(concise).replaceAll("\n    ", "\n").includes(message.content), `the concise history does not hold ${message.content}`);
    assert.equal(concise.structuredContent.entries[index].content, message.content);
  });
  assert.ok(textOf(concise).includes(plan.tool_usage.tool_name));

  const detailed = await good(client, "get_session_history", { session_id, detail: "detailed" });
  const expected = [...plan.messages, plan.tool_usage];
  // In the text of the detailed form each entry is a line of JSON below the heading.
  const inText = textOf(detailed).split("\n").slice(1).map((line) => JSON.parse(line));
  for (const entries of [detailed.structuredContent.entries, inText]) {
    assert.deepEqual(entries.map((entry) => entry.seq), [1, 2, 3]);
    const shown = entries.map((entry, index) => pick(entry, Object.keys(expected[index])));
    assert.deepEqual(shown, expected, "the history");
  }
  return session_id;
}

async function good(client, name, given) {
  const result = await client.callTool({ name, arguments: given });
  assert.ok(!result.isError, `${name} was refused: ${textOf(result)}`);
  return result;
}

async function refused(client, field, name, given) {
  const result = await client.callTool({ name, arguments: given });
  assert.ok(result.isError, `${name} was not refused: ${textOf(result)}`);
  assert.ok(textOf(result).includes(field), `the refusal of ${name} does not name ${field}: ${textOf(result)}`);
}

function textOf(result) {
  return result.content.map((block) => block.text).join("\n");
}

function pick(entry, names) {
  return Object.fromEntries(names.map((name) => [name, entry[name]]));
}
