/**
 * Everything the client can fail with, as one tree; the same as the Python client's.
 *
 * BrokerClientError
 * ├── NotConfigured      no region
 * │   └── NoCredentials  no AWS credentials within the retry budget
 * ├── Refused            the broker refused the request, and would refuse it again
 * │   ├── InvalidRequest     400: the broker does not understand the request
 * │   ├── NotAllowed         403: IAM, or the grant's `callers`
 * │   ├── UnknownGrant       404: no such grant
 * │   └── UnexpectedResponse a status that the broker's contract does not have
 * ├── NoTokenInTime      the retry budget is spent
 * └── NotNow             one attempt failed, the next may not; never leaves `TokenSource`
 *
 * No message contains a token, a key or a signature: each is built from names, numbers and wire
 * codes. API Gateway's own text stays out, because it can quote the signed headers.
 */

/** Base of every error that the client throws on purpose. */
export class BrokerClientError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

/** There is no region to sign for. */
export class NotConfigured extends BrokerClientError {}

/** There are no AWS credentials now. Their service may be late, so this is retried. */
export class NoCredentials extends NotConfigured {}

export interface RefusedFacts {
  /** The grant that was requested. */
  readonly grant: string;
  /** The HTTP status. */
  readonly status: number;
  /** The wire code: the body's `error`, else API Gateway's error type; may be empty. */
  readonly code: string;
}

/** The broker refused the request, and would refuse it again. */
export class Refused extends BrokerClientError implements RefusedFacts {
  readonly grant: string;
  readonly status: number;
  readonly code: string;

  constructor(message: string, { grant, status, code }: RefusedFacts) {
    super(`grant ${grant}: HTTP ${status}${code && ` (${code})`}: ${message}`);
    this.grant = grant;
    this.status = status;
    this.code = code;
  }
}

/** The broker does not understand the request. */
export class InvalidRequest extends Refused {}

/** IAM does not allow the call, or the grant's `callers` do not name this caller. */
export class NotAllowed extends Refused {}

/** The broker keeps no grant of this name. */
export class UnknownGrant extends Refused {}

/** The response is not one of the broker: is the URL the stack's `TokenApiUrl`? */
export class UnexpectedResponse extends Refused {}

/** The retry budget is spent, and there is still no live token. */
export class NoTokenInTime extends BrokerClientError {
  /**
   * @param grant the grant that was requested
   * @param lastStatus the last HTTP status; undefined if the last attempt got no response
   * @param reason what was wrong with the last attempt
   */
  constructor(
    readonly grant: string,
    readonly lastStatus: number | undefined,
    readonly reason: string,
  ) {
    super(`grant ${grant}: no live token in time; last: ${reason}`);
  }
}

/** One attempt failed in a way that the next may not. */
export class NotNow extends BrokerClientError {
  /**
   * @param status the HTTP status; undefined without a response
   * @param retryAfter the seconds that a `Retry-After` header named; 0 without one
   */
  constructor(
    reason: string,
    readonly status?: number,
    readonly retryAfter: number = 0,
  ) {
    super(reason);
  }
}
