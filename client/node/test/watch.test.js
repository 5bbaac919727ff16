import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { inspect } from "node:util";
import grpc from "@grpc/grpc-js";
import { ConfirmationRequired, DeadlineExceeded, DelegationExpired, DelegationFailed, Unavailable } from "../src/index.js";
import { Sidecar, connected, failing } from "./sidecar.js";

let sidecar, vault, close;
before(async () => {
  sidecar = await new Sidecar().start();
  ({ vault, close } = connected(sidecar));
});
beforeEach(() => Object.assign(sidecar, { answers: [], calls: [] }));
after(() => {
  close();
  sidecar.stop();
});

const told = (...events) => (call) => {
  for (const event of events) call.write(event);
  call.end();
};
const PENDING = { status: "DELEGATION_STATUS_PENDING" };
const COMPLETED = { status: "DELEGATION_STATUS_COMPLETED", delegated: { brand_id: "acme", granted_scopes: ["orders"] } };
const away = failing(grpc.status.UNAVAILABLE);
const hanging = (event = PENDING) => (call) => call.write(event);
const seconds = (from) => ({ seconds: Math.floor(Date.now() / 1000) + from, nanos: 0 });

for (const [status, reason, kind, expected] of [
  ["DENIED", "ERROR_REASON_AUTHORIZATION_DENIED", DelegationFailed, "AUTHORIZATION_DENIED"],
  ["FAILED", "ERROR_REASON_SUBJECT_MISMATCH", DelegationFailed, "SUBJECT_MISMATCH"],
  ["FAILED", 4711, DelegationFailed, null],
  ["EXPIRED", 0, DelegationExpired, null],
]) {
  test(`${status} with reason ${reason} is told as ${kind.name}`, async () => {
    sidecar.answers = [told(PENDING, { status: `DELEGATION_STATUS_${status}`, reason })];
    await assert.rejects(vault.watchDelegation("d-1"), (error) => {
      assert.equal(error.constructor, kind);
      assert.equal(error.reason, expected);
      return true;
    });
  });
}

test("a watch that breaks, or ends without an outcome, is taken up again", async () => {
  sidecar.answers = [away, told(PENDING), told(PENDING, COMPLETED)];
  const began = performance.now();
  assert.deepEqual((await vault.watchDelegation("d-1")).grantedScopes, ["orders"]);
  assert.ok(performance.now() - began > 950);
  assert.equal(sidecar.calls.length, 3);
});

test("a code is asked for though the stream goes on, and brought", async () => {
  let letGo;
  const gone = new Promise((resolve) => (letGo = resolve));
  const expire_time = { seconds: 2_000_000_000, nanos: 0 };
  const awaiting = { status: "DELEGATION_STATUS_AWAITING_CONFIRMATION", expire_time };
  sidecar.answers = [
    (call) => {
      call.on("cancelled", letGo);
      call.write(PENDING);
      call.write(awaiting);
    },
    (call, callback) => callback(null, { delegated: COMPLETED.delegated }),
  ];
  await assert.rejects(vault.watchDelegation("d-1"), (error) => {
    assert.ok(error instanceof ConfirmationRequired);
    assert.equal(error.reason, "CONFIRMATION_REQUIRED");
    assert.equal(error.delegationId, "d-1");
    assert.equal(error.expireTime.getTime(), 2e12);
    return true;
  });
  await gone;
  assert.deepEqual((await vault.confirmDelegation("d-1", "1234 5678")).grantedScopes, ["orders"]);
  assert.deepEqual(sidecar.calls.at(-1).request, { delegation_id: "d-1", confirmation_code: "1234 5678" });
});

test("a code for the page is in nothing printed", async () => {
  const expire_time = { seconds: 2_000_000_000, nanos: 0 };
  sidecar.answers = [(call, callback) => callback(null, { brand_id: "acme", confirmation: { code: "01234567", expire_time } })];
  const done = await vault.completeDelegation({ state: "s", code: "c" });
  assert.equal(done.confirmation.code, "01234567");
  assert.ok(!`${inspect(done)} ${JSON.stringify(done)}`.includes("01234567"));
});

test("a watch that is refused is not", async () => {
  sidecar.answers = [failing(grpc.status.PERMISSION_DENIED)];
  await assert.rejects(vault.watchDelegation("d-1"), { name: "AccessDenied" });
  assert.equal(sidecar.calls.length, 1);
});

test("its timeout bounds it, and it is let go at the sidecar", async () => {
  let letGo;
  const gone = new Promise((resolve) => (letGo = resolve));
  sidecar.answers = [(call) => call.on("cancelled", letGo)];
  await assert.rejects(vault.watchDelegation("d-1", { timeout: 0.3 }), DeadlineExceeded);
  await gone;
});

test("the link's end bounds it, as told by the sidecar or by the delegation", async () => {
  sidecar.answers = [hanging({ ...PENDING, expire_time: seconds(-29) }), hanging()];
  await assert.rejects(vault.watchDelegation("d-1"), DeadlineExceeded);
  await assert.rejects(vault.watchDelegation("d-1", { expireTime: new Date(Date.now() - 29_700) }), DeadlineExceeded);
});

test("without a sidecar it ends with the last failure, not later than its end", async () => {
  sidecar.answers = Array(9).fill(away);
  await assert.rejects(vault.watchDelegation("d-1", { timeout: 1.2 }), Unavailable);
  assert.ok(sidecar.calls.length <= 3);
});

test("a signal ends it with its reason: during a stream, between two, and before the first", async () => {
  const leave = async (answer) => {
    const giveUp = new AbortController();
    sidecar.answers = [answer];
    const watching = vault.watchDelegation("d-1", { signal: giveUp.signal });
    const refused = assert.rejects(watching, (error) => error === giveUp.signal.reason);
    while (sidecar.answers.length) await new Promise(setImmediate);
    giveUp.abort(new Error("the consumer has left"));
    await refused;
  };
  await leave(hanging());
  await leave(away);
  await assert.rejects(vault.watchDelegation("d-1", { signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("challenge hands its link out, and passes its end and the signal on", async () => {
  const started = { delegation_id: "d-1", authorization_url: "https://as.example/authorize", expire_time: seconds(-29) };
  sidecar.answers = [(call, callback) => callback(null, started), hanging()];
  const links = [];
  const send = (link) => links.push(link);
  await assert.rejects(vault.challenge("acme", { consumer: "alice" }, send), DeadlineExceeded);
  sidecar.answers = [(call, callback) => callback(null, started)];
  const signal = AbortSignal.abort();
  await assert.rejects(vault.challenge("acme", { consumer: "alice", signal }, send), { name: "AbortError" });
  assert.deepEqual(links, Array(2).fill("https://as.example/authorize"));
});
