import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { inspect } from "node:util";

import {
  fingerprint,
  InvalidRequest,
  NoCredentials,
  NotAllowed,
  NotConfigured,
  NoTokenInTime,
  steadyClock,
  TokenSource,
  UnexpectedResponse,
  UnknownGrant,
} from "../dist/index.js";
import { credentials, LIFETIME, settled, sourceOf, unavailable, URL_OF_API, warningsOf } from "./fakes.js";

describe("a live token", () => {
  test("is got once and used until its margin", async () => {
    const { source, broker, clock } = sourceOf();
    assert.equal(await source.get(), "token-1");
    clock.now += LIFETIME - 60.5;
    assert.equal(await source.get(), "token-1");
    assert.equal(broker.requests.length, 1);
  });

  test("is renewed within its margin, and served meanwhile", async () => {
    const { source, broker, clock } = sourceOf();
    await source.get();
    clock.now += LIFETIME - 59;
    broker.renew();
    assert.equal(await source.get(), "token-1");
    await settled();
    assert.equal(await source.get(), "token-2");
  });

  test("has a margin of at most half of what was left", async () => {
    const { source, broker, clock } = sourceOf();
    broker.renew(40);
    await source.get();
    clock.now += 19;
    await source.get();
    await settled();
    assert.equal(broker.requests.length, 1);
    clock.now += 2;
    await source.get();
    await settled();
    assert.equal(broker.requests.length, 2);
  });

  test("stays in use while the broker fails, and is due again after a pause", async () => {
    const { source, broker, clock } = sourceOf();
    await source.get();
    clock.now += LIFETIME - 30;
    broker.fault = { status: 403, headers: {}, body: "" };
    const warnings = await warningsOf(async () => {
      assert.equal(await source.get(), "token-1");
      await settled();
      assert.equal(await source.get(), "token-1");
    });
    assert.equal(broker.requests.length, 2);
    assert.match(warnings.join(), /not renewed yet, the live one is used: grant deals: HTTP 403/);
    clock.now += 11;
    await source.get();
    await settled();
    assert.equal(broker.requests.length, 3);
  });

  test("is never used after its end, nor when it had ended on its way", async () => {
    const { source, broker, clock } = sourceOf({ retryBudget: 1 });
    await source.get();
    clock.now += LIFETIME;
    broker.fault = async () => {
      const response = broker.vended();
      clock.now += LIFETIME; // the response took that long
      return response;
    };
    broker.renew();
    await assert.rejects(source.get(), /the token had expired when it came/);
  });

  test("counts from before the request", async () => {
    const { source, broker, clock } = sourceOf();
    broker.fault = async () => {
      const response = broker.vended();
      clock.now += 8;
      return response;
    };
    await source.get();
    broker.fault = undefined;
    broker.renew();
    clock.now += LIFETIME - 8;
    assert.equal(await source.get(), "token-2");
  });
});

describe("without a live token", () => {
  test("all callers share one request", async () => {
    const { source, broker } = sourceOf();
    const tokens = await Promise.all(Array.from({ length: 50 }, () => source.get()));
    assert.deepEqual(new Set(tokens), new Set(["token-1"]));
    assert.equal(broker.requests.length, 1);
  });

  test("the source requests again until the budget is spent", async () => {
    const { source, broker, clock } = sourceOf({ retryBudget: 12 });
    broker.fault = unavailable();
    await assert.rejects(source.get(), (error) => {
      assert(error instanceof NoTokenInTime);
      assert.deepEqual([error.grant, error.lastStatus, error.reason], ["deals", 503, "HTTP 503"]);
      return true;
    });
    assert.equal(clock.now, 1012);
    assert(broker.requests.length >= 4);
    assert(clock.slept.every((seconds) => seconds <= 5));
  });

  test("Retry-After is the least wait", async () => {
    const { source, broker, clock } = sourceOf();
    broker.fault = unavailable(7);
    const pending = source.get();
    broker.fault = () => {
      broker.fault = undefined;
      return unavailable(7);
    };
    assert.equal(await pending, "token-1");
    assert(clock.slept[0] >= 7.5 && clock.slept[0] <= 8, String(clock.slept[0]));
  });

  test("a network error is retried, and named by its code alone", async () => {
    const { source, broker } = sourceOf({ retryBudget: 1 });
    broker.fault = Object.assign(new Error("quotes token-1"), { code: "ECONNRESET" });
    await assert.rejects(source.get(), (error) => {
      assert.match(error.message, /no response \(ECONNRESET\)/);
      assert.doesNotMatch(inspect(error), /token-1/);
      return true;
    });
  });

  for (const [status, code, leaf, cause] of [
    [400, "invalid_request", InvalidRequest, /does not understand/],
    [403, "access_denied", NotAllowed, /callers/],
    [404, "unknown_grant", UnknownGrant, /no such grant/],
    [302, "", UnexpectedResponse, /not a response of the broker/],
  ]) {
    test(`HTTP ${status} ends at once`, async () => {
      const { source, broker } = sourceOf();
      broker.fault = { status, headers: {}, body: JSON.stringify({ error: code }) };
      await assert.rejects(source.get(), (error) => {
        assert(error instanceof leaf && error.name === leaf.name);
        assert.deepEqual([error.status, error.code, error.grant], [status, code, "deals"]);
        assert.match(error.message, cause);
        return true;
      });
      assert.equal(broker.requests.length, 1);
    });
  }

  test("a refusal by IAM names the action and the resource", async () => {
    const { source, broker } = sourceOf();
    broker.fault = {
      status: 403,
      headers: { "x-amzn-errortype": "AccessDeniedException" },
      body: '{"Message": "quotes the signed headers"}',
    };
    const resource = /execute-api:Invoke on arn:aws:execute-api:eu-west-1:\*:abc123\/v1\/GET\/tokens\/deals$/;
    await assert.rejects(source.get(), resource);
  });

  for (const body of ["", "[]", "{", '{"access_token": "a b", "token_type": "Bearer"}']) {
    test(`HTTP 200 with ${JSON.stringify(body)} is no token, and not quoted`, async () => {
      const { source, broker } = sourceOf({ retryBudget: 0 });
      broker.fault = { status: 200, headers: {}, body };
      await assert.rejects(source.get(), /last: HTTP 200 without a token$/);
    });
  }

  test("a transport that hangs is aborted, and the caller gets its error in time", async () => {
    let onAbort;
    const aborted = new Promise((resolve) => (onAbort = resolve));
    const { source, broker } = sourceOf({
      retryBudget: 0,
      clock: () => performance.now() / 1000,
    });
    broker.fault = (signal) => new Promise(() => signal.addEventListener("abort", onAbort));
    const began = performance.now();
    await assert.rejects(source.get(), NoTokenInTime);
    assert(performance.now() - began < 1500);
    await aborted;
  });

  test("credentials that are late are looked for again; a provider that hangs has an end", async () => {
    const { source } = sourceOf({
      retryBudget: 3,
      credentials: async () => {
        throw Object.assign(new Error("quotes a-key"), { name: "CredentialsProviderError" });
      },
    });
    await assert.rejects(source.get(), (error) => {
      assert(error instanceof NoCredentials);
      assert.match(error.message, /^no AWS credentials now \(CredentialsProviderError\)$/);
      return true;
    });
    const hanging = sourceOf({ retryBudget: 0, credentials: () => new Promise(() => {}) });
    await assert.rejects(hanging.source.get(), /no AWS credentials|no live token in time/);
  });

  test("no region is the deployer's to fix", async () => {
    const environ = { ...process.env };
    delete process.env.AWS_REGION;
    delete process.env.AWS_DEFAULT_REGION;
    try {
      const source = new TokenSource("https://broker.example/v1", "deals", { credentials });
      await assert.rejects(source.get(), NotConfigured);
    } finally {
      Object.assign(process.env, environ);
    }
  });
});

describe("a token that Enable refused", () => {
  test("is reported, and replaced by a newer one", async () => {
    const { source, broker } = sourceOf();
    await source.get();
    broker.fault = () => {
      broker.fault = undefined;
      broker.renew();
      return unavailable();
    };
    assert.equal(await source.replacement("token-1"), "token-2");
    assert.deepEqual(broker.reports, [fingerprint("token-1")]);
    assert.equal(broker.requests.at(-1).url.searchParams.get("other_than"), fingerprint("token-1"));
  });

  test("is used by others until its replacement is there", async () => {
    const { source, broker } = sourceOf();
    await source.get();
    let renew = () => {};
    broker.fault = () => new Promise((resolve) => (renew = () => resolve(broker.vended())));
    const replacement = source.replacement("token-1");
    assert.equal(await source.get(), "token-1");
    await settled();
    broker.renew();
    renew();
    assert.equal(await replacement, "token-2");
  });

  test("is dropped at once if the caller is certain", async () => {
    const { source, broker } = sourceOf();
    await source.get();
    broker.renew();
    await source.reject("token-1");
    assert.equal(await source.get(), "token-2");
    assert.deepEqual(broker.reports, [fingerprint("token-1")]);
  });

  test("stays in use if it replaced a refused one", async () => {
    const { source, broker } = sourceOf({ retryBudget: 1 });
    await source.get();
    broker.renew();
    await source.reject("token-1");
    broker.fault = unavailable();
    await warningsOf(() => source.reject("token-2"));
    assert.equal(await source.get(), "token-2");
  });

  test("is not taken from the broker again, and there may be none in time", async () => {
    const { source, broker } = sourceOf({ retryBudget: 2 });
    await source.get();
    const warnings = await warningsOf(async () => {
      assert.equal(await source.replacement("token-1"), undefined);
    });
    assert(broker.requests.length > 2);
    assert.match(warnings.join(), /no replacement for a token that Enable refused/);
    assert.equal(await source.get(), "token-1");
  });

  test("is reported once, and again when the report failed", async () => {
    const { source, broker, clock } = sourceOf({ retryBudget: 60 });
    await source.get();
    broker.reportResponse = unavailable(20);
    broker.fault = () => {
      if (clock.now < 1030) return unavailable();
      broker.fault = undefined;
      broker.renew();
      return broker.vended();
    };
    await warningsOf(async () => {
      assert.equal(await source.replacement("token-1"), "token-2");
    });
    assert.equal(broker.reports.length, 2);
    await source.replacement("token-1");
    assert.equal(broker.reports.length, 2);
  });
});

describe("secrets", () => {
  test("a token hides itself, and so does its source", async () => {
    const { source } = sourceOf();
    const token = await source.token();
    assert.equal(token.accessToken, "token-1");
    const shown = [inspect(token), JSON.stringify(token), `${token}`, inspect(source, { depth: 9 })];
    assert.doesNotMatch(shown.join(), /token-1|a-key/);
    assert.match(shown.join(), new RegExp(token.fingerprint));
  });
});

describe("arguments", () => {
  for (const url of ["http://broker.example/v1", `${URL_OF_API}?a=b`, "https://me@broker.example/v1"]) {
    test(`${url} is refused`, () => {
      assert.throws(() => new TokenSource(url, "deals"), /^TypeError: url must be/);
    });
  }
  test("a grant's name has no slash", () => {
    assert.throws(() => new TokenSource(URL_OF_API, "../grants"), /^TypeError: grant must match/);
  });
  test("this machine may be called in plain http", () => {
    for (const host of ["127.0.0.1", "localhost", "[::1]", "abc.execute-api.localhost"]) {
      assert(new TokenSource(`http://${host}:8000/v1`, "deals"));
    }
  });
});

describe("the clock", () => {
  test("counts the larger advance of two clocks, and never goes back", () => {
    let [monotonic, wall] = [50, 9000];
    const clock = steadyClock(
      () => monotonic,
      () => wall,
    );
    assert.equal(clock(), 50);
    wall += 3000; // a sleep
    assert.equal(clock(), 3050);
    wall -= 7200; // set back
    assert.equal(clock(), 3050);
    wall += 10; // a sleep that follows
    assert.equal(clock(), 3060);
    [monotonic, wall] = [monotonic + 5, wall + 5];
    assert.equal(clock(), 3065);
  });

  test("a caller after a sleep does not wait for a request from before it", async () => {
    const { source, broker, clock } = sourceOf({ retryBudget: 1 });
    broker.fault = () => new Promise(() => {}); // frozen with its connection
    source.get().catch(() => {});
    await settled();
    clock.now += 3000;
    broker.fault = undefined;
    broker.renew();
    assert.equal(await source.get(), "token-2");
  });
});
