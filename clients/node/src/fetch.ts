/** `brokerFetch(source, { origin })`: a `fetch` whose every request carries a live token. */

import { Audience } from "./origins.js";
import type { TokenSource } from "./source.js";

type Fetch = typeof globalThis.fetch;
type Input = Parameters<Fetch>[0];
type Init = NonNullable<Parameters<Fetch>[1]>;

export interface BrokerFetchOptions {
  /** The only origin that is sent the token, `https://host`. */
  readonly origin: string;
  /** What sends the requests; by default the global `fetch`. */
  readonly fetch?: Fetch;
}

/**
 * A `fetch` that sets the bearer token on requests to the origin. A token that Enable refuses with
 * 401 is reported, and the request repeated once with its replacement, if its body can be: none,
 * text, a buffer, a `Blob`, a form; not a stream, nor the body of a `Request`.
 *
 * It rejects as `fetch` does, and with the source's errors if there is no live token.
 *
 * @param source where the tokens come from; one for all
 * @throws TypeError the origin is not one, or is plain http to another machine
 */
export function brokerFetch(source: TokenSource, options: BrokerFetchOptions): Fetch {
  const audience = new Audience(options.origin);
  return async (input, init = {}) => {
    const fetch = options.fetch ?? globalThis.fetch;
    const given = input instanceof Request ? input : undefined;
    if (!audience.includes(new URL(given?.url ?? String(input)))) return fetch(input, init);
    const signal = init.signal ?? given?.signal;
    const token = await unlessAborted(source.get(), signal);
    const first = await fetch(input, withToken(given, init, token));
    const method = (init.method ?? given?.method ?? "GET").toUpperCase();
    const url = new URL(first.url || (given?.url ?? String(input))); // after redirects
    if (!audience.isRefusal(method, url, first.status)) return first;
    if (!isRepeatable(input, init, method, first)) {
      source.suspect(token);
      return first;
    }
    const replacement = await unlessAborted(source.replacement(token), signal);
    if (replacement === undefined) return first;
    await first.body?.cancel();
    const second = await fetch(input, withToken(given, init, replacement));
    audience.noteSecond(method, url, second.status);
    return second;
  };
}

function withToken(given: Request | undefined, init: Init, token: string): Init {
  const headers = new Headers(init.headers ?? given?.headers);
  headers.set("Authorization", `Bearer ${token}`);
  return { ...init, headers };
}

/** Whether the request can be sent again as it was: its body is still there. */
function isRepeatable(input: Input, init: Init, method: string, first: Response): boolean {
  // A redirect may have turned a POST into a GET: only what changes nothing is sent from the start.
  if (first.redirected && method !== "GET" && method !== "HEAD") return false;
  const { body } = init;
  if (body === undefined || body === null) return !(input instanceof Request && input.body);
  return (
    typeof body === "string" ||
    body instanceof ArrayBuffer ||
    ArrayBuffer.isView(body) ||
    body instanceof Blob ||
    body instanceof FormData ||
    body instanceof URLSearchParams
  );
}

/** What the promise gives, unless the caller's signal is aborted before. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | null | undefined): Promise<T> {
  if (!signal) return promise;
  let stop = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop);
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
