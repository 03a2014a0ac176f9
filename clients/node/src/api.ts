/** The broker's HTTP API for one grant: sign, send one request, read the response. */

import { createHash } from "node:crypto";

import {
  InvalidRequest,
  NoCredentials,
  NotAllowed,
  NotNow,
  type Refused,
  type RefusedFacts,
  UnexpectedResponse,
  UnknownGrant,
} from "./errors.js";
import { isConfidential } from "./origins.js";
import type { Signer } from "./signing.js";
import type { BrokerResponse, Transport } from "./transport.js";

const GRANT = /^[a-z][a-z0-9_-]{0,62}$/;
const TOKEN = /^[\x21-\x7e]+$/; // what a header can carry
const CODE = /^[A-Za-z_]{1,64}$/;
const DIGITS = /^[0-9]{1,6}$/;
const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/;
const SIGNATURE =
  "the signature is not accepted: check the AWS credentials, the region and this machine's clock";
const CAUSES_OF_403: Readonly<Record<string, string>> = {
  access_denied: "the grant's callers (grants.toml) do not name this caller",
  ExpiredTokenException: "the AWS credentials have expired",
  ForbiddenException:
    "API Gateway does not say why: check the URL's host, stage and path, then firewalls and" +
    " the API's resource policy",
  IncompleteSignatureException: SIGNATURE,
  InvalidSignatureException: SIGNATURE,
  MissingAuthenticationTokenException: "no such route: is the URL the stack's TokenApiUrl?",
  SignatureDoesNotMatch: SIGNATURE,
  UnrecognizedClientException: "AWS does not know the access key of these credentials",
};

/** The first 12 hex digits of a token's SHA-256: its name wherever one is needed. */
export function fingerprint(token: string): string {
  return createHash("sha256").update(token).digest("hex").slice(0, 12);
}

/** An Enable access token, to be sent as `Authorization: Bearer …`; printed, it hides the secret. */
export class Token {
  readonly #accessToken: string;
  /** Names the token in logs. */
  readonly fingerprint: string;

  /**
   * @param accessToken the secret itself
   * @param scope space-delimited (RFC 6749 section 3.3)
   * @param expiresAt by the broker's clock
   */
  constructor(
    accessToken: string,
    readonly scope: string,
    readonly expiresAt: Date,
  ) {
    this.#accessToken = accessToken;
    this.fingerprint = fingerprint(accessToken);
  }

  /** The secret itself. */
  get accessToken(): string {
    return this.#accessToken;
  }
}

/** One grant's two routes. */
export class TokenApi {
  readonly #url: string;

  /** @throws TypeError the URL is not https (or http to this machine), or the grant's name is none */
  constructor(
    url: URL,
    readonly grant: string,
    private readonly signer: Signer,
    private readonly transport: Transport,
  ) {
    if (url.search || url.hash || url.username) {
      throw new TypeError("url must be the stack's TokenApiUrl: https://host/stage");
    }
    if (!isConfidential(url)) {
      throw new TypeError("url must be https: a token would travel in the clear");
    }
    if (!GRANT.test(grant)) throw new TypeError(`grant must match ${GRANT.source}`);
    this.#url = `${url.href.replace(/\/+$/, "")}/tokens/${grant}`;
  }

  /**
   * Request the token once.
   *
   * @param seconds for all of it
   * @param otherThan fingerprint of a token that Enable refused: the broker looks for a newer one
   * @returns the token, and the whole seconds that it lived on when the broker responded
   * @throws NotNow, NoCredentials: the next attempt may succeed; another error: it would not
   */
  async vend(seconds: number, otherThan: string | undefined): Promise<[Token, number]> {
    const query = otherThan ? `?other_than=${otherThan}` : "";
    const response = await this.#send("GET", new URL(this.#url + query), undefined, seconds);
    if (response.status === 200) return readToken(response);
    throw this.#refusal(response);
  }

  /**
   * Report once that Enable refused a token.
   *
   * @throws NotNow there is no response, or it is 429 or 5xx: report again later
   * @throws NotConfigured the request cannot be signed; `NoCredentials` if it may be later
   */
  async report(tokenFingerprint: string, seconds: number): Promise<void> {
    const body = JSON.stringify({ fingerprint: tokenFingerprint });
    throwIfPassing(await this.#send("POST", new URL(`${this.#url}/rejection`), body, seconds));
  }

  async #send(
    method: "GET" | "POST",
    url: URL,
    body: string | undefined,
    seconds: number,
  ): Promise<BrokerResponse> {
    const endsAt = performance.now() + seconds * 1000;
    const headers = await within(
      seconds * 1000,
      () => this.signer.headers(method, url, body),
      new NoCredentials("no AWS credentials now (their provider is slow)"),
    );
    return within(
      endsAt - performance.now(),
      (signal) => this.transport({ method, url, headers, body }, signal).catch(rethrown),
      new NotNow("no response (timed out)"),
    );
  }

  #refusal(response: BrokerResponse): Refused {
    throwIfPassing(response);
    const { status } = response;
    const code = wireCode(response);
    const facts: RefusedFacts = { grant: this.grant, status, code };
    if (status === 400) return new InvalidRequest("the broker does not understand the request", facts);
    if (status === 403) return new NotAllowed(this.#whyNotAllowed(code), facts);
    if (status === 404) return new UnknownGrant("no such grant", facts);
    return new UnexpectedResponse("not a response of the broker", facts);
  }

  #whyNotAllowed(code: string): string {
    const resource = `${this.signer.resource}/GET/tokens/${this.grant}`;
    const needed = `the caller's IAM policy must allow execute-api:Invoke on ${resource}`;
    if (code === "") return `the response names no cause; if IAM refuses the call, ${needed}`;
    if (code === "AccessDeniedException") return needed;
    const unknown = "API Gateway, or a proxy before it, refuses the request with this code";
    return CAUSES_OF_403[code] ?? unknown;
  }
}

/** The work's result; after so many milliseconds the work is aborted, and the error is thrown. */
async function within<T>(
  milliseconds: number,
  work: (signal: AbortSignal) => Promise<T>,
  late: Error,
): Promise<T> {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(late);
      controller.abort();
    }, Math.max(0, milliseconds));
  });
  try {
    return await Promise.race([work(controller.signal), timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** A fault of the network by its code alone: its text may quote the response. */
function rethrown(error: unknown): never {
  if (error instanceof NotNow) throw error;
  const { code, name } = error as NodeJS.ErrnoException;
  throw new NotNow(`no response (${code ?? name ?? "unknown"})`);
}

/** Throw NotNow for what may be gone at the next attempt: 408, 425, 429 and 5xx. */
function throwIfPassing({ status, headers }: BrokerResponse): void {
  if (![408, 425, 429].includes(status) && status < 500) return;
  const retryAfter = String(headers["retry-after"] ?? "");
  throw new NotNow(`HTTP ${status}`, status, DIGITS.test(retryAfter) ? Number(retryAfter) : 0);
}

/** The JSON object; empty if there is none. No error, as it would quote the body. */
function readObject(body: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

/** @throws NotNow the response contains no token, so it does not come from the broker */
function readToken({ body }: BrokerResponse): [Token, number] {
  const { access_token, expires_in, token_type, expires_at, scope } = readObject(body);
  if (
    token_type !== "Bearer" ||
    typeof access_token !== "string" ||
    !TOKEN.test(access_token) ||
    typeof expires_in !== "number" ||
    !Number.isInteger(expires_in) ||
    expires_in < 0 ||
    expires_in >= 1e9 ||
    typeof expires_at !== "string" ||
    !RFC_3339.test(expires_at)
  ) {
    throw new NotNow("HTTP 200 without a token", 200);
  }
  return [new Token(access_token, String(scope ?? ""), new Date(expires_at)), expires_in];
}

/** The broker's own `error`, else the type of API Gateway's; empty if neither is plain. */
function wireCode({ body, headers }: BrokerResponse): string {
  const code = readObject(body)["error"] || headers["x-amzn-errortype"];
  return typeof code === "string" && CODE.test(code) ? code : "";
}
