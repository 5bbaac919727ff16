// The Node client's driver: see ../README.md.

import { createInterface } from "node:readline";
import { inspect } from "node:util";
import { TokenVaultClient, TokenVaultError } from "../../../client/node/src/index.js";

const FAMILIES = [
  "ConsentRequired", "ConfirmationRequired", "ConfirmationCodeWrong", "ScopeNotGranted", "DelegationFailed", "Unavailable", "AccessDenied", "InvalidRequest",
  "AuthorizationServerMisconfigured", "InternalError", "DeadlineExceeded",
];
const vault = TokenVaultClient.fromEnvironment();
const sources = new Map();

const seconds = (date) => (date ? date.getTime() / 1000 : null);
const challenge = (c) => ({
  delegation_id: c.delegationId, authorization_url: c.authorizationUrl, expire_time: seconds(c.expireTime),
});
const delegated = ({ brand, consumer, conversation, confirmation }) => ({
  brand, consumer, conversation, confirmation_code: confirmation?.code,
});
const token = (t) => ({
  access_token: t.accessToken, token_type: t.tokenType, expire_time: seconds(t.expireTime), scopes: t.scopes,
  token_version: t.tokenVersion, degraded: t.degraded,
});

function source({ brand, consumer, conversation }) {
  const key = JSON.stringify([brand, consumer, conversation]);
  if (!sources.has(key)) sources.set(key, vault.tokenSource(brand, { consumer, conversation }));
  return sources.get(key);
}

const OPS = {
  async start_delegation({ brand, ...options }) {
    return challenge(await vault.startDelegation(brand, options));
  },
  async complete_delegation({ query }) {
    return delegated(await vault.completeDelegation(query));
  },
  async confirm_delegation({ delegation_id, code }) {
    return delegated(await vault.confirmDelegation(delegation_id, code));
  },
  async watch_delegation({ delegation_id }) {
    return delegated(await vault.watchDelegation(delegation_id));
  },
  async get_token({ brand, rejected_token_version, timeout, ...context }) {
    const options = { ...context, rejectedTokenVersion: rejected_token_version ?? undefined };
    return token(await vault.getToken(brand, { ...options, timeout: timeout ?? undefined }));
  },
  async invalidate({ brand, ...context }) {
    return { revocation: await vault.invalidate(brand, context) };
  },
  async source(command) {
    const held = source(command);
    return token((await Promise.all(Array.from({ length: command.times }, () => held.token()))).at(-1));
  },
  async fetch(command) {
    const answer = await source(command).fetch(command.url);
    await answer.body?.cancel();
    return { status: answer.status };
  },
  async bench({ brand, consumer, by, seconds: span }) {
    const held = source({ brand, consumer });
    const ask = by === "memory" ? () => held.token() : () => vault.getToken(brand, { consumer });
    const began = performance.now();
    let calls = 0;
    for (; performance.now() - began < span * 1000; calls++) await ask();
    return { calls, seconds: (performance.now() - began) / 1000 };
  },
};

function told(error) {
  if (!(error instanceof TokenVaultError)) throw error;
  let kind = error.constructor;
  while (!FAMILIES.includes(kind.name) && kind !== TokenVaultError) kind = Object.getPrototypeOf(kind);
  const link = error.challenge ? { challenge: challenge(error.challenge) } : {};
  const more = { ...link, delegation_id: error.delegationId, tries_left: error.triesLeft };
  return { family: kind.name, reason: error.reason, code: error.code, text: inspect(error), ...more };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...command } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: await OPS[op](command) };
  } catch (error) {
    answer = { error: told(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
vault.close();
