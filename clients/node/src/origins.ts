/** Which host is sent the token, and whose 401 counts against it. */

import { isIP } from "node:net";

const MOST_ROUTES = 256;

/** Warn the operator of this process; `process.on("warning")` sees it. */
export function warn(message: string): void {
  process.emitWarning(message, "EnableBrokerWarning");
}

/** Whether a URL's host name is this machine's own. */
export function isLoopback(hostname: string): boolean {
  const address = hostname.replace(/^\[|\]$/g, "");
  if (isIP(address) === 4) return address.startsWith("127.");
  if (isIP(address) === 6) return address === "::1";
  return hostname === "localhost" || hostname.endsWith(".localhost");
}

/** Whether what is sent to a URL cannot be read on the way. */
export function isConfidential(url: URL): boolean {
  return url.protocol === "https:" || (url.protocol === "http:" && isLoopback(url.hostname));
}

/**
 * The requests that are sent one source's token, and what their responses say about it.
 *
 * A 401 counts against the token, unless its route refuses each token: that is the route's fault,
 * and the others need the token.
 */
export class Audience {
  readonly #origin: string;
  readonly #warned = new Set<string>();
  readonly #refusing = new Set<string>();

  /**
   * @param origin `https://host`, the only one that is sent the token
   * @throws TypeError the origin is not one, or is plain http to another machine
   */
  constructor(origin: string) {
    this.#origin = checkedOrigin(origin);
  }

  /** Whether a request to this URL is sent the token; warns once of a host that is not. */
  includes(url: URL): boolean {
    const origin = originOf(url);
    if (origin === this.#origin) return true;
    if (!this.#warned.has(origin) && this.#warned.size < MOST_ROUTES) {
      this.#warned.add(origin);
      warn(`no token is sent to ${origin}: not the origin`);
    }
    return false;
  }

  /** Note the response to a request with the token; true if it counts against the token. */
  isRefusal(method: string, url: URL, status: number): boolean {
    if (originOf(url) !== this.#origin) return false; // after a redirect, without the token
    const route = routeOf(method, url);
    if (status === 401) return !this.#refusing.has(route);
    this.#refusing.delete(route);
    return false;
  }

  /** Note the response to the same request with the token's replacement. */
  noteSecond(method: string, url: URL, status: number): void {
    if (status !== 401) return;
    this.#refusing.add(routeOf(method, url));
    const [oldest] = this.#refusing;
    if (this.#refusing.size > MOST_ROUTES && oldest !== undefined) this.#refusing.delete(oldest);
  }
}

function checkedOrigin(origin: string): string {
  const url = new URL(origin);
  if (url.pathname.replaceAll("/", "") || url.search || url.hash) {
    throw new TypeError("origin must be https://host, without a path");
  }
  if (url.username || url.password) {
    throw new TypeError("origin must be https://host, without a user");
  }
  if (!isConfidential(url)) {
    throw new TypeError("origin must be https: a token would travel in the clear");
  }
  return originOf(url);
}

/** Scheme, host and port (RFC 6454 section 4); a host's final dot does not count. */
function originOf(url: URL): string {
  const port = url.port && `:${url.port}`;
  return `${url.protocol}//${url.hostname.replace(/\.$/, "")}${port}`;
}

/** What tells a request from another kind of request: all but the query. */
function routeOf(method: string, url: URL): string {
  return `${method} ${originOf(url)}${url.pathname}`;
}
