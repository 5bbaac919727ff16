import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, before, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { OPTIONS } from "../src/connection.js";
import { TokenVaultClient, Unavailable } from "../src/index.js";
import { Sidecar, connected, failing } from "./sidecar.js";

const warnings = [];
process.on("warning", (warning) => warnings.push(warning));

let sidecar, vault, files, show, close;
before(async () => (sidecar = await new Sidecar().start()));
beforeEach(() => {
  close?.();
  ({ vault, files, show, close } = connected(sidecar));
  Object.assign(sidecar, { answers: [], calls: [] });
});
after(() => {
  close();
  sidecar.stop();
});

const token = (call, callback) => callback(null, { access_token: "s3cret", token_type: "Bearer" });
const get = () => vault.getToken("acme", { consumer: "alice" });

/** Who the sidecar took the caller for. */
async function shown() {
  let peer;
  sidecar.answers.push((call, callback) => {
    peer = call.getAuthContext().sslPeerCertificate;
    token(call, callback);
  });
  await get();
  return peer.subject.CN;
}

test("certificates that change are shown to the calls that follow", async () => {
  assert.equal(await shown(), "bot");
  show("bot-2");
  const until = Date.now() + 30_000;
  while ((await shown()) !== "bot-2") {
    assert.ok(Date.now() < until, "still the old certificate");
    await sleep(100);
  }
});

test("broken or half-written files change nothing", async () => {
  assert.equal(await shown(), "bot");
  const whole = readFileSync(files.privateKey);
  writeFileSync(files.privateKey, whole.subarray(0, whole.length / 2));
  await sleep(1100); // past the next look at the files
  assert.equal(await shown(), "bot");
  show("bot-2");
  await sleep(1100);
  assert.equal(await shown(), "bot-2");
});

test("what is missing in the environment is named, and a file that is none", () => {
  const environment = { TOKENVAULT_ADDRESS: "127.0.0.1:1", TOKENVAULT_CA: files.ca, TOKENVAULT_KEY: "" };
  const make = (more) => () => TokenVaultClient.fromEnvironment({}, { ...environment, ...more });
  assert.throws(make({}), { message: /: TOKENVAULT_CERT, TOKENVAULT_KEY$/ });
  const key = files.privateKey;
  assert.throws(make({ TOKENVAULT_CERT: "nowhere.pem", TOKENVAULT_KEY: key }), { message: /nowhere\.pem/ });
  assert.throws(make({ TOKENVAULT_CERT: key, TOKENVAULT_KEY: key }), { message: `${key}: holds no PEM CERTIFICATE` });
});

test("a call has its own deadline, the client's, or 10 s; completing 30 s", async () => {
  const seconds = async (client, call) => {
    sidecar.answers.push(token);
    await call(client);
    return Math.round((sidecar.calls.at(-1).getDeadline() - Date.now()) / 10_000) * 10;
  };
  const ask = (options) => (client) => client.getToken("acme", { consumer: "alice", ...options });
  assert.equal(await seconds(vault, ask({})), 10);
  assert.equal(await seconds(vault, ask({ timeout: 100 })), 100);
  assert.equal(await seconds(vault, (client) => client.completeDelegation({ state: "s", code: "c" })), 30);
  const patient = new TokenVaultClient({ address: `127.0.0.1:${sidecar.port}`, ...files, timeout: 60 });
  assert.equal(await seconds(patient, ask({})), 60);
  patient.close();
});

test("UNAVAILABLE is repeated, four attempts are all", async () => {
  sidecar.answers = [...Array(2).fill(failing(grpc.status.UNAVAILABLE)), token];
  assert.equal((await get()).accessToken, "s3cret");
  assert.equal(sidecar.calls.length, 3);
  sidecar.answers = Array(9).fill(failing(grpc.status.UNAVAILABLE));
  await assert.rejects(get(), Unavailable);
  assert.equal(sidecar.calls.length, 3 + 4);
});

test("where the sidecar forbids it, nothing is repeated", async () => {
  sidecar.answers = Array(9).fill(failing(grpc.status.UNAVAILABLE, { "grpc-retry-pushback-ms": "-1" }));
  await assert.rejects(get(), Unavailable);
  assert.equal(sidecar.calls.length, 1);
});

test("a delegation is sent once", async () => {
  sidecar.answers = Array(9).fill(failing(grpc.status.UNAVAILABLE));
  await assert.rejects(vault.startDelegation("acme", { consumer: "alice" }), Unavailable);
  assert.equal(sidecar.calls.length, 1);
});

test("the sidecar's certificate must carry the address, or the name that is given for it", async () => {
  const named = await new Sidecar().start("named");
  named.answers = Array(9).fill(token);
  const reached = async (options) => {
    const { vault, close } = connected(named, options);
    await vault.getToken("acme", { consumer: "alice", timeout: 5 }).finally(close);
  };
  const there = { address: `localhost:${named.port}` };
  await assert.rejects(reached({}), Unavailable); // an IP address
  await assert.rejects(reached({ serverName: "127.0.0.1" }), Unavailable);
  await assert.rejects(reached({ serverName: "other.test" }), Unavailable);
  await reached({ serverName: "vault.test" });
  await reached(there);
  await assert.rejects(reached({ ...there, serverName: "127.0.0.1" }), Unavailable);
  named.stop();
});

test("an address that is an IP address makes Node warn of nothing", async () => {
  assert.equal(await shown(), "bot");
  assert.deepEqual(warnings, []);
});

test("keepalive is as client/README.md says", () => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const [, time, timeout] = readme.match(/a ping after (\d+) s of silence during a call, answered within (\d+) s/);
  assert.equal(OPTIONS["grpc.keepalive_time_ms"], time * 1000);
  assert.equal(OPTIONS["grpc.keepalive_timeout_ms"], timeout * 1000);
  assert.equal(OPTIONS["grpc.keepalive_permit_without_calls"], 0);
});
