import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, beforeEach, describe, test } from "node:test";

import { brokerFetch } from "../dist/index.js";
import { sourceOf, unavailable, warningsOf } from "./fakes.js";

const seen = [];
let refused = new Set();
let origin;
let elsewhere;

/** Enable: 401 for a refused token, and always on /forbidden; /moved redirects. */
async function enable(request, response) {
  let body = "";
  for await (const chunk of request) body += chunk;
  const token = request.headers.authorization?.replace("Bearer ", "");
  seen.push({ method: request.method, path: request.url, host: request.headers.host, token, body });
  const path = request.url.split("?")[0];
  if (path === "/moved") response.writeHead(302, { location: `${elsewhere}/forbidden` });
  else response.writeHead(path === "/forbidden" || refused.has(token) ? 401 : 200);
  response.end("a body");
}

const servers = [createServer(enable), createServer(enable)];

before(async () => {
  for (const server of servers) {
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  }
  [origin, elsewhere] = servers.map((server) => `http://127.0.0.1:${server.address().port}`);
});

after(() => {
  for (const server of servers) server.close().closeAllConnections();
});

beforeEach(() => {
  seen.length = 0;
  refused = new Set();
});

/** A broker that makes a new token after each report, and the fetch behind it. */
function fetchOf() {
  const { source, broker } = sourceOf({ retryBudget: 1 });
  broker.onReport = () => broker.renew();
  return { broker, reports: broker.reports, fetch: brokerFetch(source, { origin }) };
}

describe("brokerFetch", () => {
  test("sets the token on requests to the origin, and keeps the caller's headers", async () => {
    const { fetch } = fetchOf();
    const headers = { accept: "application/vnd.api+json", authorization: "Bearer old" };
    assert.equal((await fetch(`${origin}/v1/deals?page=2`, { headers })).status, 200);
    assert.equal((await fetch(new Request(new URL("/v1/users", origin)))).status, 200);
    assert.deepEqual(seen.map(({ path, token }) => [path, token]), [
      ["/v1/deals?page=2", "token-1"],
      ["/v1/users", "token-1"],
    ]);
  });

  test("sends no token to any other origin, and warns once", async () => {
    const { fetch, broker } = fetchOf();
    const warnings = await warningsOf(async () => {
      await fetch(`${elsewhere}/v1/deals`);
      await fetch(`${elsewhere}/v1/deals`);
    });
    assert.deepEqual(seen.map(({ token }) => token), [undefined, undefined]);
    assert.equal(broker.requests.length, 0);
    assert.equal(warnings.filter((text) => text.includes("not the origin")).length, 1);
  });

  test("a redirect to another origin takes no token along, and its 401 does not count", async () => {
    const { fetch, reports } = fetchOf();
    assert.equal((await fetch(`${origin}/moved`)).status, 401);
    assert.deepEqual(seen.map(({ path, token }) => [path, token]), [
      ["/moved", "token-1"],
      ["/forbidden", undefined],
    ]);
    assert.deepEqual(reports, []);
  });

  for (const [kind, body] of [
    ["no body", undefined],
    ["text", "a=b"],
    ["bytes", new TextEncoder().encode("a=b")],
    ["a form", new URLSearchParams({ a: "b" })],
    ["a blob", new Blob(["a=b"])],
  ]) {
    test(`repeats a request with ${kind} once with the replacement`, async () => {
      const { fetch, reports } = fetchOf();
      refused.add("token-1");
      const method = body === undefined ? "GET" : "POST";
      assert.equal((await fetch(`${origin}/v1/deals`, { method, body })).status, 200);
      const text = body === undefined ? "" : "a=b";
      assert.deepEqual(seen.map((request) => [request.token, request.body]), [
        ["token-1", text],
        ["token-2", text],
      ]);
      assert.equal(reports.length, 1);
    });
  }

  test("does not repeat a stream; the next request has the replacement", async () => {
    const { fetch, reports } = fetchOf();
    refused.add("token-1");
    const body = new Blob(["a=b"]).stream();
    const first = await fetch(`${origin}/v1/deals`, { method: "POST", body, duplex: "half" });
    assert.deepEqual([first.status, await first.text()], [401, "a body"]);
    const request = new Request(`${origin}/v1/deals`, { method: "POST", body: "a=b" });
    assert.equal((await fetch(request)).status, 200);
    assert.deepEqual(seen.map(({ token }) => token), ["token-1", "token-2"]);
    assert.equal(reports.length, 1);
  });

  test("a route that refuses each token gets one replacement, and the tokens stay in use", async () => {
    const { fetch, reports } = fetchOf();
    for (let count = 0; count < 4; count += 1) {
      assert.equal((await fetch(`${origin}/forbidden?n=${count}`)).status, 401);
    }
    assert.equal((await fetch(`${origin}/v1/deals`)).status, 200);
    assert.deepEqual(seen.map(({ token }) => token), [
      "token-1",
      "token-2",
      "token-2",
      "token-2",
      "token-2",
      "token-2",
    ]);
    assert.equal(reports.length, 1);
  });

  test("returns the 401 if there is no replacement in time", async () => {
    const { fetch, broker } = fetchOf();
    broker.onReport = () => {};
    refused.add("token-1");
    const warnings = await warningsOf(async () => {
      const response = await fetch(`${origin}/v1/deals`);
      assert.deepEqual([response.status, await response.text()], [401, "a body"]);
    });
    assert.match(warnings.join(), /no replacement/);
  });

  test("rejects without a live token, and when the caller gives up", async () => {
    const { fetch, broker } = fetchOf();
    broker.fault = () => new Promise(() => {});
    const controller = new AbortController();
    const pending = fetch(`${origin}/v1/deals`, { signal: controller.signal });
    controller.abort(new Error("enough"));
    await assert.rejects(pending, /enough/);
    const { fetch: other, broker: down } = fetchOf();
    down.fault = unavailable();
    await assert.rejects(other(`${origin}/v1/deals`), /no live token in time; last: HTTP 503/);
    assert.equal(seen.length, 0);
  });

  for (const faulty of ["http://enable.example", "https://enable.example/v1", "https://me@enable.example"]) {
    test(`${faulty} is no origin`, () => {
      const { source } = sourceOf();
      assert.throws(() => brokerFetch(source, { origin: faulty }), /^TypeError: origin must be https/);
    });
  }
});
