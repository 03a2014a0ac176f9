/**
 * The caller's side of the Enable token broker: a live Enable token in three lines.
 *
 * `TokenSource` gives the token, `brokerFetch` puts it on every request to Enable.
 */

export { fingerprint, type Token } from "./api.js";
export { type Clock, steadyClock } from "./clock.js";
export {
  BrokerClientError,
  InvalidRequest,
  NoCredentials,
  NotAllowed,
  NotConfigured,
  NoTokenInTime,
  Refused,
  UnexpectedResponse,
  UnknownGrant,
} from "./errors.js";
export { brokerFetch, type BrokerFetchOptions } from "./fetch.js";
export type { CredentialProvider, Credentials } from "./signing.js";
export { TokenSource, type TokenSourceOptions } from "./source.js";
export { type BrokerRequest, type BrokerResponse, httpTransport, type Transport } from "./transport.js";
