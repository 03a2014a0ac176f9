/**
 * The client for tests/client_matrix: a request and a response are one line of JSON each.
 *
 * `{"id", "key", "make": {url, grant, region, budget, startedAt, events}}` makes a source,
 * `{"id", "key"}` gets its token, `{"id", "key", "refused": TOKEN}` its replacement. The response is
 * `{"id", "token"}` or `{"id", "error", "message"}`.
 */

import { createInterface } from "node:readline";

import { httpTransport, steadyClock, TokenSource } from "../dist/index.js";
import { credentials } from "./fakes.js";

process.removeAllListeners("warning"); // of renewals that fail, as they should here
const sources = new Map();

/** Seconds of the clock that all processes of a machine share. */
const monotonic = () => Number(process.hrtime.bigint()) / 1e9;

/** A source whose wall clock is set, and whose machine sleeps, as its case says. */
function make({ url, grant, region, budget, startedAt, events }) {
  const past = (kinds) =>
    events
      .filter(({ at }) => at <= monotonic() - startedAt)
      .reduce((sum, event) => kinds.reduce((all, kind) => all + (event[kind] ?? 0), sum), 0);
  const send = httpTransport();
  return new TokenSource(url, grant, {
    credentials,
    region,
    retryBudget: budget,
    clock: steadyClock(undefined, () => Date.now() / 1000 + past(["wall_seconds", "sleep_seconds"])),
    transport: (request, signal) => {
      const headers = { ...request.headers, "x-slept": String(past(["sleep_seconds"])) };
      return send({ ...request, headers }, signal);
    },
  });
}

async function respond({ id, key, make: facts, refused }) {
  try {
    if (facts) sources.set(key, make(facts));
    const source = sources.get(key);
    const token = facts ? null : await (refused ? source.replacement(refused) : source.get());
    return { id, token: token ?? null };
  } catch (error) {
    return { id, error: error.name, message: error.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  respond(JSON.parse(line)).then((response) => process.stdout.write(`${JSON.stringify(response)}\n`));
}
process.exit();
