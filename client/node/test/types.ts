// What a program in TypeScript may and may not write; `tsc` says whether it is so.

import { ConsentRequired, InvalidRequest, TokenVaultClient, TokenVaultError } from "tokenvault";
import type { Delegated, Token, TokenSource } from "tokenvault";

const vault: TokenVaultClient = TokenVaultClient.fromEnvironment({ timeout: 5 });
const giveUp = new AbortController();

export async function answer(conversation: string, show: (url: string) => Promise<void>): Promise<Response> {
  const orders: TokenSource = vault.tokenSource("acme", { conversation, scopes: ["orders"] });
  try {
    return await orders.fetch("https://api.example/orders", { method: "POST", body: "{}" });
  } catch (error) {
    if (error instanceof InvalidRequest) throw new Error(error.fieldViolations.map(({ field }) => field).join());
    if (!(error instanceof ConsentRequired)) throw error;
    const reason: string | null = error.reason;
    const family: TokenVaultError = error;
    await vault.challenge("acme", { conversation, signal: giveUp.signal }, (url, { expireTime }) => {
      console.log(reason, family.retryAfter, expireTime?.getTime());
      return show(url);
    });
    return orders.fetch(new URL("https://api.example/orders"));
  }
}

export async function watched(id: string, expireTime: Date | null): Promise<string[]> {
  const done: Delegated = await vault.watchDelegation(id, { expireTime, timeout: 60, signal: giveUp.signal });
  const token: Token = await vault.getToken(done.brand, { consumer: "alice", minTtl: 30 });
  const code: string | undefined = (await vault.completeDelegation({ state: "s" })).confirmation?.code;
  const confirmed: Delegated = await vault.confirmDelegation(id, code ?? "1234 5678", { timeout: 5 });
  console.log(confirmed.brand);
  // @ts-expect-error: one of consumer and conversation is needed
  await vault.getToken("acme", {});
  // @ts-expect-error: and not both
  await vault.getToken("acme", { consumer: "alice", conversation: "c-1" });
  // @ts-expect-error: an answer is read only
  token.accessToken = "another";
  return token.scopes;
}
