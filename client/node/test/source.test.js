import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import { ConsentRequired, TokenSource, Unavailable } from "../src/index.js";
import { Delegated, Delegation, Token } from "../src/models.js";

function made(version, life = 3600, degraded = false) {
  const ends = Math.floor(Date.now() / 1000) + life;
  return new Token({
    access_token: `secret-${version}`, id_token: "", token_type: "Bearer",
    expire_time: { seconds: ends, nanos: 0 }, scopes: [], token_version: version, degraded,
  });
}

test("a thousand who ask at once are one call, and a fresh token is none", async () => {
  let calls = 0;
  const source = new TokenSource(async () => made(`v${++calls}`));
  await Promise.all(Array.from({ length: 1000 }, () => source.token()));
  await source.token();
  assert.equal(calls, 1);
});

test("what is rejected is reported once, and another's version changes nothing", async () => {
  const reports = [];
  const source = new TokenSource(async (rejected) => made(`v${reports.push(rejected)}`));
  await source.token();
  assert.equal((await source.token({ rejected: "v0" })).tokenVersion, "v1");
  assert.equal((await source.token({ rejected: "v1" })).tokenVersion, "v2");
  assert.deepEqual(reports, [null, "v1"]);
});

test("a failure is told to all who waited and kept for nobody", async () => {
  let calls = 0;
  const source = new TokenSource(async () => {
    if (++calls === 1) throw new ConsentRequired("challenge the consumer");
    return made("v1");
  });
  const outcomes = await Promise.allSettled([source.token(), source.token()]);
  assert.ok(outcomes.every(({ reason }) => reason instanceof ConsentRequired));
  assert.equal((await source.token()).tokenVersion, "v1");
});

test("a rejected token does not serve while there is no sidecar", async () => {
  let up = true;
  const source = new TokenSource(async () => {
    if (up) return made("v1");
    throw new Unavailable("no connection");
  });
  await source.token();
  up = false;
  await assert.rejects(source.token({ rejected: "v1" }), Unavailable);
});

test("no printed form tells a token, a link, a code or who it is of", () => {
  const link = new Delegation({ delegation_id: "d-1", authorization_url: "https://as.example/?state=secret" });
  const consent = new ConsentRequired("challenge the consumer");
  ConsentRequired.told(consent, link);
  const context = { consumer: { consumer_id: "secret" }, conversation: { conversation_id: "secret" } };
  const delegated = new Delegated({ context, subject: "secret", confirmation: { code: "secret" } });
  for (const it of [made("v1"), link, consent, delegated, new TokenSource(async () => made("v1"))]) {
    for (const text of [inspect(it, { showHidden: true, depth: 9 }), JSON.stringify(it), String(it)]) {
      assert.ok(!text.includes("secret"), text);
    }
  }
});
