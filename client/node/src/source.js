/** A valid access token whenever it is asked: from memory, and from the sidecar only when it must be. */

import { DeadlineExceeded, Unavailable } from "./errors.js";

const MARGIN = 30_000;
const PAUSE = 1_000;

export class TokenSource {
  #ask;
  #held = null;
  #freshUntil = 0;
  #endsAt = 0;
  #rejected = null;
  #flight = null;

  constructor(ask) {
    this.#ask = ask;
  }

  /** `rejected`: the tokenVersion that the brand's API answered 401 to. Rejects as `getToken` does. */
  async token({ rejected } = {}) {
    if (rejected !== undefined && this.#held?.tokenVersion === rejected) {
      [this.#held, this.#rejected, this.#freshUntil, this.#endsAt] = [null, rejected, 0, 0];
    }
    for (;;) {
      if (this.#held && performance.now() < this.#freshUntil) return this.#held;
      this.#flight ??= this.#fly().finally(() => (this.#flight = null));
      const token = await this.#flight;
      if (token.tokenVersion !== this.#rejected) return token;
    }
  }

  /** As the global fetch, with the token; on 401 once more with a new one, where the body can be sent again. */
  fetch = async (input, init = {}) => {
    const token = await this.token();
    const again = resendable(input, init);
    const answer = await send(input, init, token);
    if (answer.status !== 401 || !shownAt(answer, input)) return answer;
    if (!again) {
      // the next call has a new token; that one's failure is told there
      await this.token({ rejected: token.tokenVersion }).catch(() => {});
      return answer;
    }
    const renewed = await this.token({ rejected: token.tokenVersion });
    if (renewed.tokenVersion === token.tokenVersion) return answer;
    await answer.body?.cancel();
    return send(input, init, renewed);
  };

  async #fly() {
    const reported = this.#rejected;
    let token;
    try {
      token = await this.#ask(reported);
    } catch (error) {
      const now = performance.now();
      const unreached = error instanceof Unavailable || error instanceof DeadlineExceeded;
      if (!unreached || !this.#held || now >= this.#endsAt) throw error;
      this.#freshUntil = Math.min(now + PAUSE, this.#endsAt);
      return this.#held;
    }
    if (this.#rejected === reported) this.#rejected = null;
    if (token.tokenVersion !== this.#rejected) this.#keep(token);
    return token;
  }

  #keep(token) {
    const now = performance.now();
    const life = token.expireTime ? token.expireTime.getTime() - Date.now() : Infinity;
    const fresh = token.degraded ? 0 : life - Math.min(MARGIN, life / 5);
    this.#held = token;
    this.#endsAt = now + life;
    this.#freshUntil = now + Math.max(fresh, Math.min(PAUSE, life));
  }
}

function send(input, init, token) {
  const headers = new Headers(init.headers ?? (input instanceof Request ? input.headers : undefined));
  headers.set("Authorization", `Bearer ${token.accessToken}`);
  return fetch(input, { ...init, headers });
}

/** Whether the answer is of the origin that was shown the token: fetch follows redirects elsewhere without it. */
function shownAt(answer, input) {
  return !answer.redirected || new URL(answer.url).origin === new URL(input.url ?? input).origin;
}

function resendable(input, { body }) {
  if (body === undefined || body === null) return !(input instanceof Request && input.body);
  return (
    typeof body === "string" ||
    body instanceof ArrayBuffer ||
    ArrayBuffer.isView(body) ||
    [Blob, FormData, URLSearchParams].some((kind) => body instanceof kind)
  );
}
