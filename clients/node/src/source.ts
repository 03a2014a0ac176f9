/** A grant's live token, kept in this process: shared by all its tasks, renewed in time. */

import { fingerprint, type Token, TokenApi } from "./api.js";
import { type Clock, steadyClock } from "./clock.js";
import { BrokerClientError, NoCredentials, NoTokenInTime, NotNow } from "./errors.js";
import { warn } from "./origins.js";
import { Signer, type SignerOptions } from "./signing.js";
import { httpTransport, type Transport } from "./transport.js";

const REQUEST_SECONDS = 10; // the vend function takes longer only in a cold storm
const ASIDE_SECONDS = 5; // for what no caller waits for: an early renewal, a report
const LAST_REQUEST_SECONDS = 0.5; // for a request that begins when the budget ends
const FIRST_WAIT_SECONDS = 0.5;
const LONGEST_WAIT_SECONDS = 5;
const RENEWAL_PAUSE_SECONDS = 10; // between two early renewals, at most
const OVERDUE_SECONDS = 20; // a report and a request
const NOBODY_WAITS = -Infinity;
const MOST_REFUSED = 16;

/** A token that is kept; times are the source's clock's. */
interface Kept {
  readonly token: Token;
  readonly expiresAt: number;
  readonly renewAt: number;
  /** The token before it was refused. */
  readonly isReplacement: boolean;
}

/** Requests for a token; shared by all that wait for their outcome. */
interface Flight {
  /** By the source's clock; the last attempt begins then. Those who join put it off. */
  deadline: number;
  /** A flight that goes on after that is frozen with its connection: the next caller starts another. */
  overdueAt: number;
  /** The last status and reason. */
  failure: { status?: number | undefined; reason: string };
  /** Never rejects: gives the error, if any. */
  outcome: Promise<{ error?: unknown }>;
}

export interface TokenSourceOptions extends SignerOptions {
  /** Seconds before expiry to renew, at most half of what was left; 60 by default. */
  readonly minTtl?: number;
  /** Seconds that a call may wait when there is no live token, and half a second; 30 by default. */
  readonly retryBudget?: number;
  /** Sends a request; by default `httpTransport()`. */
  readonly transport?: Transport;
  /** Seconds that only grow; by default a `steadyClock()`. */
  readonly clock?: Clock;
  /** Waits for that many seconds. */
  readonly sleep?: (seconds: number) => Promise<void>;
}

/**
 * Gives the live token of one grant; made once, shared by all tasks.
 *
 * A live token is returned at once. From a margin before its expiry on, the source tries to renew it
 * meanwhile. Without a live token the source requests one, again and again within the budget, and
 * every caller waits for it.
 */
export class TokenSource {
  readonly #api: TokenApi;
  readonly #minTtl: number;
  readonly #budget: number;
  readonly #clock: Clock;
  readonly #sleep: (seconds: number) => Promise<void>;
  #kept: Kept | undefined;
  #flight: Flight | undefined;
  #refused: string[] = [];
  #isRefused = false; // the last token that was kept
  #unreported: string | undefined;
  #reportAt = 0;

  /**
   * @param url the stack's `TokenApiUrl`
   * @param grant the grant's name
   * @throws TypeError the URL is not https (or http to this machine), or the grant's name is none
   */
  constructor(url: string | URL, grant: string, options: TokenSourceOptions = {}) {
    const parsed = new URL(url);
    const transport = options.transport ?? httpTransport();
    this.#api = new TokenApi(parsed, grant, new Signer(parsed, options), transport);
    this.#minTtl = options.minTtl ?? 60;
    this.#budget = options.retryBudget ?? 30;
    this.#clock = options.clock ?? steadyClock();
    this.#sleep = options.sleep ?? slept;
  }

  /** The access token, live now; rejects as `token` does. */
  async get(): Promise<string> {
    return (await this.token()).accessToken;
  }

  /**
   * The token with its scope and expiry, live now.
   *
   * Rejects with `NoTokenInTime` if there is none, and none came within the retry budget; with
   * `NoCredentials` likewise, for want of AWS credentials; with `NotConfigured` or a `Refused` if
   * there is none, and another request would not help.
   */
  async token(): Promise<Token> {
    return this.#find(() => this.#live());
  }

  /**
   * Drop a token that Enable refused with 401, and report it to the broker. Never rejects.
   *
   * The broker still vends it until it has renewed the grant; such a token is passed over. A token
   * that replaced a refused one stays in use until its own replacement is there: more likely than
   * two bad tokens is a route that refuses each of them.
   */
  async reject(token: string): Promise<void> {
    if (!this.#doubt(token)) return;
    if (this.#kept && !this.#kept.isReplacement) this.#kept = undefined;
    await endedWithin(this.#join(NOBODY_WAITS), ASIDE_SECONDS);
  }

  /** As `reject`, but others may use the token until its replacement is there; at once. */
  suspect(token: string): void {
    if (this.#doubt(token)) this.#join(NOBODY_WAITS);
  }

  /** Suspect a token, and give the one to use instead; undefined if there is none in time. */
  async replacement(token: string): Promise<string | undefined> {
    this.#doubt(token);
    try {
      return (await this.#find(() => this.#unsuspected())).accessToken;
    } catch (error) {
      if (!(error instanceof BrokerClientError)) throw error;
      warn(`no replacement for a token that Enable refused: ${error.message}`);
      return undefined;
    }
  }

  async #find(find: () => Kept | undefined): Promise<Token> {
    const deadline = this.#clock() + this.#budget;
    for (;;) {
      const kept = find();
      if (kept) return kept.token;
      const flight = this.#join(deadline);
      const now = this.#clock();
      const left = Math.max(0, deadline - now) + LAST_REQUEST_SECONDS;
      const patience = Math.max(0, flight.overdueAt - now) + LAST_REQUEST_SECONDS;
      const ended = await endedWithin(flight, Math.min(left, patience));
      if (ended && "error" in ended) throw ended.error;
      if (!ended && left <= patience) throw this.#noTokenInTime(flight);
    }
  }

  #live(): Kept | undefined {
    const kept = this.#kept;
    const now = this.#clock();
    if (!kept || now >= kept.expiresAt) return undefined;
    if (now >= kept.renewAt) this.#join(NOBODY_WAITS);
    return kept;
  }

  #unsuspected(): Kept | undefined {
    const kept = this.#live();
    return kept && !this.#refused.includes(kept.token.fingerprint) ? kept : undefined;
  }

  /** Pass over a refused token from now on; false if it is, or is in use no more. */
  #doubt(token: string): boolean {
    const name = fingerprint(token);
    const isOther = this.#kept && this.#kept.token.fingerprint !== name;
    if (isOther || this.#refused.includes(name)) return false;
    this.#refused = [...this.#refused, name].slice(-MOST_REFUSED);
    this.#isRefused = true;
    this.#unreported = name;
    this.#reportAt = this.#clock();
    return true;
  }

  /** The flight in progress, or a new one; it goes on until the deadline at least. */
  #join(deadline: number): Flight {
    const now = this.#clock();
    const current = this.#flight;
    if (current && now <= current.overdueAt) {
      current.deadline = Math.max(current.deadline, deadline);
      return current;
    }
    const flight: Flight = {
      deadline,
      overdueAt: now + OVERDUE_SECONDS,
      failure: { reason: "the request has no response yet" },
      outcome: Promise.resolve({}),
    };
    this.#flight = flight;
    flight.outcome = this.#fly(flight);
    return flight;
  }

  /** Request until there is a token, or no one waits any more. */
  async #fly(flight: Flight): Promise<{ error?: unknown }> {
    try {
      this.#land(flight, await this.#requested(flight));
      return {};
    } catch (error) {
      return { error: this.#crash(flight, error) };
    }
  }

  /** Use a new token, unless what is kept lasts longer and nobody refused it. */
  #land(flight: Flight, fresh: Kept): void {
    const kept = this.#kept;
    const isGood = kept && !this.#refused.includes(kept.token.fingerprint);
    if (isGood && this.#clock() < kept.expiresAt && kept.expiresAt >= fresh.expiresAt) {
      this.#kept = this.#putOff(kept, RENEWAL_PAUSE_SECONDS);
    } else {
      this.#kept = fresh;
      this.#isRefused = false;
    }
    this.#end(flight);
  }

  /** Leave what is kept in use; it is due again after a pause. Returns the callers' error. */
  #crash(flight: Flight, error: unknown): unknown {
    const pause = (error instanceof NotNow && error.retryAfter) || RENEWAL_PAUSE_SECONDS;
    this.#end(flight);
    if (this.#kept) {
      const reason = error instanceof BrokerClientError ? error.message : (error as Error).name;
      this.#kept = this.#putOff(this.#kept, pause);
      warn(`token not renewed yet, the live one is used: ${reason}`);
    }
    return error instanceof NotNow ? this.#noTokenInTime(flight) : error;
  }

  #end(flight: Flight): void {
    if (this.#flight === flight) this.#flight = undefined;
  }

  #putOff(kept: Kept, pause: number): Kept {
    const now = this.#clock();
    return { ...kept, renewAt: now + Math.max(1, Math.min(pause, (kept.expiresAt - now) / 2)) };
  }

  /** Try until there is a token or the deadline has passed; the last time at its very end. */
  async #requested(flight: Flight): Promise<Kept> {
    for (let longest = FIRST_WAIT_SECONDS; ; longest = Math.min(LONGEST_WAIT_SECONDS, 2 * longest)) {
      flight.overdueAt = this.#clock() + OVERDUE_SECONDS;
      try {
        return await this.#attempt(this.#secondsFor(flight));
      } catch (error) {
        if (!(error instanceof NotNow || error instanceof NoCredentials)) throw error;
        const pause = this.#pauseAfter(flight, error, longest);
        flight.overdueAt = this.#clock() + pause + OVERDUE_SECONDS;
        await this.#sleep(pause);
      }
    }
  }

  /** Seconds to wait after a failed attempt; throws it when the deadline has passed. */
  #pauseAfter(flight: Flight, error: NotNow | NoCredentials, longest: number): number {
    const { status, retryAfter } = error instanceof NotNow ? error : { status: undefined, retryAfter: 0 };
    flight.failure = { status, reason: error.message };
    const left = flight.deadline - this.#clock();
    if (left <= 0) {
      this.#end(flight); // nobody joins between this look and the end
      throw error;
    }
    return Math.min(left, Math.max(retryAfter && retryAfter + jitter(), longest * jitter()));
  }

  /** Seconds for one request. */
  #secondsFor(flight: Flight): number {
    if (flight.deadline === NOBODY_WAITS) return ASIDE_SECONDS;
    const left = flight.deadline - this.#clock();
    return Math.min(REQUEST_SECONDS, Math.max(LAST_REQUEST_SECONDS, left));
  }

  /** Request once; throws if there is no token that may be used, `NotNow` if it may come. */
  async #attempt(seconds: number): Promise<Kept> {
    if (this.#unreported && this.#clock() >= this.#reportAt) {
      await this.#report(this.#unreported, Math.min(seconds, ASIDE_SECONDS));
    }
    const sentAt = this.#clock();
    const [token, expiresIn] = await this.#api.vend(seconds, this.#refused.at(-1));
    if (this.#refused.includes(token.fingerprint)) {
      throw new NotNow("the token that Enable refused is not replaced yet", 200);
    }
    const expiresAt = sentAt + expiresIn;
    const left = expiresAt - this.#clock();
    if (left <= 0) throw new NotNow("the token had expired when it came", 200);
    const renewAt = expiresAt - Math.min(this.#minTtl, left / 2);
    return { token, expiresAt, renewAt, isReplacement: this.#isRefused };
  }

  /** Report a refused token to the broker; if that fails, again at a later attempt. */
  async #report(name: string, seconds: number): Promise<void> {
    try {
      await this.#api.report(name, seconds);
      if (this.#unreported === name) this.#unreported = undefined;
    } catch (error) {
      if (!(error instanceof BrokerClientError)) throw error;
      this.#reportAt = this.#clock() + (error instanceof NotNow ? error.retryAfter : 0);
      warn(`refusal of ${name} by Enable not reported yet: ${error.message}`);
    }
  }

  #noTokenInTime({ failure }: Flight): NoTokenInTime {
    return new NoTokenInTime(this.#api.grant, failure.status, failure.reason);
  }
}

/** A flight's outcome; undefined if it goes on after so many seconds. */
async function endedWithin(flight: Flight, seconds: number): Promise<{ error?: unknown } | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, seconds * 1000, undefined);
  });
  try {
    return await Promise.race([flight.outcome, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

function slept(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

/** Between a half and one, so that callers that failed together do not retry together. */
function jitter(): number {
  return 0.5 + Math.random() / 2;
}
