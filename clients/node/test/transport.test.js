import assert from "node:assert/strict";
import { createServer } from "node:net";
import { afterEach, describe, test } from "node:test";

import { TokenSource } from "../dist/index.js";
import { credentials } from "./fakes.js";

let server;

/** A server of raw bytes; its URL. */
async function serving(onRequest) {
  server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", (data) => onRequest(socket, data.toString()));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}`;
}

function sourceAt(url, options = {}) {
  return new TokenSource(`${url}/v1`, "deals", { credentials, region: "eu-west-1", ...options });
}

const BODY = JSON.stringify({
  access_token: "token-1",
  token_type: "Bearer",
  scope: "read:deals",
  expires_in: 900,
  expires_at: "2025-03-01T12:00:00Z",
});

afterEach(() => new Promise((resolve) => server.close(resolve)));

describe("the transport", () => {
  test("signs, names the host it is told, and skips interim responses", async () => {
    let sent = "";
    const url = await serving((socket, data) => {
      sent = data;
      socket.write("HTTP/1.1 103 Early Hints\r\n\r\n");
      socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`);
    });
    assert.equal(await sourceAt(url, { host: "abc.execute-api.localhost" }).get(), "token-1");
    assert.match(sent, /^GET \/v1\/tokens\/deals HTTP\/1.1\r\n/);
    assert.match(sent, /\r\nhost: abc\.execute-api\.localhost\r\n/i);
    assert.match(sent, /AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE\/\d{8}\/eu-west-1\/execute-api\//);
    assert.match(sent, /SignedHeaders=host;x-amz-content-sha256;x-amz-date,/);
  });

  test("ends a response that drips when the request's time is over", async () => {
    const url = await serving((socket) => {
      socket.write("HTTP/1.1 200 OK\r\nX-Long: ");
      const drip = setInterval(() => socket.write("x"), 20);
      socket.on("close", () => clearInterval(drip));
    });
    const began = performance.now();
    await assert.rejects(sourceAt(url, { retryBudget: 0 }).get(), /no live token in time/);
    assert(performance.now() - began < 1500);
  });

  test("refuses a body that is too large", async () => {
    const url = await serving((socket) => {
      socket.end(`HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n${"x".repeat(70_000)}`);
    });
    await assert.rejects(sourceAt(url, { retryBudget: 0 }).get(), /it is too large/);
  });

  test("does not follow a redirect", async () => {
    const url = await serving((socket) => {
      socket.end("HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n");
    });
    await assert.rejects(sourceAt(url).get(), /HTTP 302: not a response of the broker/);
  });
});
