/** Signature Version 4 for API Gateway, with the credentials of the AWS SDK's ordinary chain. */

import { Sha256 } from "@aws-crypto/sha256-js";
import { defaultProvider } from "@aws-sdk/credential-provider-node";
import { SignatureV4 } from "@smithy/signature-v4";

import { NoCredentials, NotConfigured } from "./errors.js";

// ID, ID-vpce-… (an endpoint's alias for an API) or vpce-… (any API behind an endpoint)
const EXECUTE_API_HOST =
  /^(?:([a-z0-9]+)(?:-vpce-[a-z0-9]+)?|vpce-[a-z0-9-]+)\.execute-api\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com(?:\.cn)?$/;

/** AWS credentials. */
export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** Gives the credentials that are valid now; the AWS SDK's providers are such functions. */
export type CredentialProvider = () => Promise<Credentials>;

export interface SignerOptions {
  /** By default the AWS SDK's chain: environment, SSO, profile, web identity, ECS, EC2. */
  readonly credentials?: CredentialProvider;
  /** What to sign for where no execute-api host names it; by default `AWS_REGION`. */
  readonly region?: string;
  /** The Host header, where it is not the URL's: a VPC endpoint, the embedded AWS. */
  readonly host?: string;
}

/** Signs requests to one API. */
export class Signer {
  /** The ARN of the API's stage, as far as it is known: `*` for what is not. */
  readonly resource: string;
  readonly #region: string | undefined;
  readonly #host: string | undefined;
  readonly #credentials: CredentialProvider;

  /** @param url any URL of the API; an execute-api host names the region, the API and the stage */
  constructor(url: URL, options: SignerOptions) {
    const hosts = [options.host ?? "", url.hostname];
    const known = hosts.map((host) => EXECUTE_API_HOST.exec(host)).filter((match) => match !== null);
    const { AWS_REGION, AWS_DEFAULT_REGION } = process.env;
    this.#region = known[0]?.[2] ?? options.region ?? (AWS_REGION || AWS_DEFAULT_REGION);
    this.#host = options.host;
    this.#credentials = options.credentials ?? defaultProvider();
    const api = known.find((match) => match[1])?.[1] ?? "*";
    // Only an execute-api host has the stage in its path; a custom domain may have anything.
    const stage = known.length > 0 ? (url.pathname.split("/")[1] ?? "*") : "*";
    this.resource = `arn:${partitionOf(this.#region)}:execute-api:${this.#region ?? "*"}:*:${api}/${stage}`;
  }

  /**
   * All headers of a request, the signature among them.
   *
   * @throws NoCredentials there are no credentials now
   * @throws NotConfigured there is no region
   */
  async headers(method: string, url: URL, body: string | undefined): Promise<Record<string, string>> {
    const region = this.#region;
    if (!region) throw new NotConfigured("no AWS region: give TokenSource one, or set AWS_REGION");
    const credentials = await this.#found();
    const signer = new SignatureV4({ service: "execute-api", region, credentials, sha256: Sha256 });
    const signed = await signer.sign({
      method,
      protocol: url.protocol,
      hostname: url.hostname,
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      headers: {
        host: this.#host ?? url.host,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      body,
    });
    return signed.headers;
  }

  async #found(): Promise<Credentials> {
    try {
      return await this.#credentials();
    } catch (error) {
      // Its name alone: the text may quote a command, a file or a response.
      throw new NoCredentials(`no AWS credentials now (${error instanceof Error ? error.name : "unknown"})`);
    }
  }
}

function partitionOf(region: string | undefined): string {
  if (region?.startsWith("cn-")) return "aws-cn";
  return region?.startsWith("us-gov-") ? "aws-us-gov" : "aws";
}
