/**
 * One HTTP request and its response: replaceable, so that tests need no socket.
 *
 * Each request has a connection of its own. A token is requested every few minutes, so that a kept
 * connection saves nothing, and one that is never used again cannot give the response of another
 * request.
 */

import * as http from "node:http";
import * as https from "node:https";

import { NotNow } from "./errors.js";

const MAX_BODY_BYTES = 65_536;

/** A signed request to the broker. */
export interface BrokerRequest {
  readonly method: "GET" | "POST";
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | undefined;
}

/** What the broker sent; header names are in lower case. */
export interface BrokerResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

/** Sends a request once: no retries, no redirects. Gives up when the signal is aborted. */
export type Transport = (request: BrokerRequest, signal: AbortSignal) => Promise<BrokerResponse>;

/**
 * The default: HTTP/1.1, one connection for each request.
 *
 * @param agent an agent with TLS settings or a proxy (`https-proxy-agent`); by default none
 */
export function httpTransport(agent: http.Agent | false = false): Transport {
  return ({ method, url, headers, body }, signal) =>
    new Promise((resolve, reject) => {
      const send = url.protocol === "https:" ? https.request : http.request;
      const request = send(url, { method, headers, agent, signal });
      request.on("error", reject);
      request.on("response", (response) => {
        read(response).then(
          (text) => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text }),
          reject,
        );
      });
      request.end(body);
    });
}

async function read(response: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new NotNow("no response (it is too large)");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}
