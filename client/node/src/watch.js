/** What comes of a delegation: one stream after the other, for as long as the link works. */

import { setTimeout as sleep } from "node:timers/promises";
import { DelegationExpired, Unavailable, confirmationRequired, failure } from "./errors.js";
import { Delegated, time } from "./models.js";

const PAUSE = 0.5;
const LONGEST = 86_400;
const AWAITING = "DELEGATION_STATUS_AWAITING_CONFIRMATION";
const GRACE = 30_000; // the sidecar tells the link's end itself, by its own clock

export class Watch {
  #delegationId;
  #open;
  #errorOf;
  #signal;
  #timeout;
  #end;

  /** `open` starts a stream; `errorOf` gives our error for gRPC's. Times as of `watchDelegation`. */
  constructor(delegationId, open, errorOf, { timeout = LONGEST, expireTime = null, signal }) {
    this.#delegationId = delegationId;
    this.#open = open;
    this.#errorOf = errorOf;
    this.#signal = signal;
    this.#timeout = Math.min(timeout, LONGEST);
    this.#end = Date.now() + this.#timeout * 1000;
    this.#linkEnds(expireTime);
  }

  async outcome() {
    for (;;) {
      this.#signal?.throwIfAborted();
      let pause = PAUSE * 1000;
      try {
        const done = outcome(this.#delegationId, await this.#last());
        if (done) return done;
      } catch (error) {
        if (!(error instanceof Unavailable)) throw error;
        if (error.retryAfter !== null) pause = error.retryAfter * 1000;
        if (Date.now() + pause >= this.#end) throw error;
      }
      if (Date.now() >= this.#end) throw this.#late();
      await sleep(pause, undefined, { signal: this.#signal }).catch(() => {});
    }
  }

  #linkEnds(expireTime) {
    if (expireTime) this.#end = Math.min(this.#end, expireTime.getTime() + GRACE);
  }

  #late() {
    return this.#errorOf({ code: 4 }, this.#timeout);
  }

  #last() {
    return new Promise((resolve, reject) => {
      let last;
      const stream = this.#open();
      const cancel = () => stream.cancel();
      let timer = setTimeout(cancel, this.#end - Date.now());
      const ended = (settle, value) => {
        clearTimeout(timer);
        this.#signal?.removeEventListener("abort", cancel);
        settle(value);
      };
      this.#signal?.addEventListener("abort", cancel);
      stream.on("data", (event) => {
        last = event;
        this.#linkEnds(time(event.expire_time));
        clearTimeout(timer);
        timer = setTimeout(cancel, this.#end - Date.now());
        if (event.status === AWAITING) {
          ended(resolve, event); // somebody has to act, though the stream goes on
          stream.cancel();
        }
      });
      stream.on("end", () => ended(resolve, last));
      stream.on("error", (error) => {
        if (this.#signal?.aborted) ended(reject, this.#signal.reason);
        else ended(reject, Date.now() >= this.#end ? this.#late() : this.#errorOf(error));
      });
    });
  }
}

/** What was delegated; undefined where the last event was not final. Throws what came of it instead. */
function outcome(delegationId, last) {
  switch (last?.status) {
    case AWAITING:
      throw confirmationRequired(delegationId, time(last.expire_time));
    case "DELEGATION_STATUS_COMPLETED":
      return new Delegated(last.delegated);
    case "DELEGATION_STATUS_EXPIRED":
      throw new DelegationExpired("the consumer did not come back in time");
    case "DELEGATION_STATUS_DENIED":
    case "DELEGATION_STATUS_FAILED":
      throw failure(last.reason);
  }
}
