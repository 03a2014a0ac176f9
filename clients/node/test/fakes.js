/** A clock that stands still, and a broker behind the client's transport. */

import { TokenSource } from "../dist/index.js";

export const URL_OF_API = "https://abc123.execute-api.eu-west-1.amazonaws.com/v1";
export const LIFETIME = 900;

/** Stands still but for sleep. */
export class Clock {
  now = 1000;
  slept = [];
  read = () => this.now;
  sleep = async (seconds) => {
    this.slept.push(seconds);
    this.now += seconds;
  };
}

/** A transport: vends `token-1`, `token-2` … each for LIFETIME from when it is made. */
export class Broker {
  constructor(clock) {
    this.clock = clock;
    this.requests = [];
    this.reports = [];
    this.fault = undefined; // a response, an error, or a function that makes one
    this.reportResponse = { status: 202, headers: {}, body: "{}" };
    this.onReport = () => {};
    this.made = 0;
    this.renew();
  }

  renew(lifetime = LIFETIME) {
    this.made += 1;
    this.current = `token-${this.made}`;
    this.expiresAt = this.clock.now + lifetime;
  }

  send = async (request, signal) => {
    if (request.method === "POST") {
      this.reports.push(JSON.parse(request.body).fingerprint);
      this.onReport();
      return this.reportResponse;
    }
    this.requests.push(request);
    const fault = typeof this.fault === "function" ? await this.fault(signal) : this.fault;
    if (fault instanceof Error) throw fault;
    return fault ?? this.vended();
  };

  vended() {
    // A wall clock that is decades off does no harm: expires_at is not reckoned with.
    const body = {
      access_token: this.current,
      token_type: "Bearer",
      scope: "read:deals",
      expires_in: Math.floor(this.expiresAt - this.clock.now),
      expires_at: "2001-01-01T00:00:00Z",
    };
    return { status: 200, headers: {}, body: JSON.stringify(body) };
  }
}

export function unavailable(retryAfter) {
  const headers = retryAfter === undefined ? {} : { "retry-after": String(retryAfter) };
  return { status: 503, headers, body: "" };
}

export const credentials = async () => ({ accessKeyId: "AKIDEXAMPLE", secretAccessKey: "a-key" });

/** A source beside its fakes. */
export function sourceOf(options = {}) {
  const clock = new Clock();
  const broker = new Broker(clock);
  const source = new TokenSource(URL_OF_API, "deals", {
    credentials,
    transport: broker.send,
    clock: clock.read,
    sleep: clock.sleep,
    ...options,
  });
  return { clock, broker, source };
}

/** Let what is in progress without a timer go on to its end. */
export const settled = () => new Promise((resolve) => setTimeout(resolve, 5));

/** The warnings while the block runs. */
export async function warningsOf(block) {
  const seen = [];
  const listener = (warning) => seen.push(warning.message);
  process.on("warning", listener);
  try {
    await block();
    await settled();
  } finally {
    process.off("warning", listener);
  }
  return seen;
}
