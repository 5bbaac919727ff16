/** The sidecar's calls. */

import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { Connection, fromEnvironment } from "./connection.js";
import { DelegationExpired, Unavailable, errorFrom, failure } from "./errors.js";
import { Delegated, Delegation, Token } from "./models.js";
import { TokenSource } from "./source.js";

const TIMEOUT = 10;
const COMPLETE_TIMEOUT = 30;
const WATCH_PAUSE = 0.5;

export class TokenVaultClient {
  #connection;
  #timeout;

  constructor(options) {
    this.#connection = new Connection(options);
    this.#timeout = options.timeout;
  }

  static fromEnvironment(options = {}, environment = process.env) {
    return new TokenVaultClient({ ...fromEnvironment(environment), ...options });
  }

  async startDelegation(brand, options) {
    const request = {
      brand_id: brand,
      context: context(options),
      scopes: options.scopes ?? [],
      redirect_uri: options.redirectUri ?? "",
      expected_subject: options.expectedSubject ?? "",
      authorization_parameters: options.authorizationParameters ?? {},
    };
    return new Delegation(await this.#call("StartDelegation", request, options.timeout));
  }

  /** `query`: the redirect's parameters, URLSearchParams or an object of strings. */
  async completeDelegation(query, { timeout } = {}) {
    const given = query instanceof URLSearchParams ? Object.fromEntries(query) : query;
    const names = ["state", "code", "iss", "error", "error_description"];
    const request = Object.fromEntries(names.map((name) => [name, given[name] ?? ""]));
    return new Delegated(await this.#call("CompleteDelegation", request, timeout, COMPLETE_TIMEOUT));
  }

  /** Waits for what comes of a delegation; a link that breaks is taken up again. */
  async watchDelegation(delegationId) {
    for (;;) {
      let pause = WATCH_PAUSE;
      try {
        const last = await this.#watched(delegationId);
        const reason = last?.reason.replace("ERROR_REASON_", "");
        switch (last?.status.replace("DELEGATION_STATUS_", "")) {
          case "COMPLETED":
            return new Delegated(last.delegated);
          case "EXPIRED":
            throw new DelegationExpired("the consumer did not come back in time");
          case "DENIED":
          case "FAILED":
            throw failure(reason);
        }
      } catch (error) {
        if (!(error instanceof Unavailable)) throw error;
        pause = error.retryAfter ?? pause;
      }
      await sleep(pause * 1000);
    }
  }

  /** Starts a delegation, gives its link to `send`, and waits for what comes of it. */
  async challenge(brand, options, send) {
    const delegation = await this.startDelegation(brand, options);
    await send(delegation.authorizationUrl, delegation);
    return this.watchDelegation(delegation.delegationId);
  }

  async getToken(brand, options) {
    const request = {
      brand_id: brand,
      context: context(options),
      scopes: options.scopes ?? [],
      min_ttl: options.minTtl === undefined ? null : duration(options.minTtl),
      rejected_token_version: options.rejectedTokenVersion ?? "",
      include_id_token: options.includeIdToken ?? false,
    };
    return new Token(await this.#call("GetToken", request, options.timeout));
  }

  /** What becomes of the token at the authorization server, such as "QUEUED". */
  async invalidate(brand, options) {
    const request = { brand_id: brand, context: context(options) };
    const { revocation } = await this.#call("Invalidate", request, options.timeout);
    return revocation.replace("REVOCATION_", "");
  }

  tokenSource(brand, options) {
    context(options);
    return new TokenSource((rejected) =>
      this.getToken(brand, { ...options, rejectedTokenVersion: rejected ?? undefined }),
    );
  }

  close() {
    this.#connection.close();
  }

  #call(method, request, given, usual = TIMEOUT) {
    const timeout = given ?? this.#timeout ?? usual;
    return new Promise((resolve, reject) => {
      const deadline = Date.now() + timeout * 1000;
      this.#connection.stub()[method](request, { deadline }, (error, answer) => {
        if (error) reject(this.#error(error, timeout));
        else resolve(answer);
      });
    });
  }

  #watched(delegationId) {
    return new Promise((resolve, reject) => {
      let last;
      const stream = this.#connection.stub().WatchDelegation({ delegation_id: delegationId });
      stream.on("data", (answer) => (last = answer));
      stream.on("error", (error) => reject(this.#error(error)));
      stream.on("end", () => resolve(last));
    });
  }

  #error(error, timeout) {
    return errorFrom(error, grpc.status[error.code] ?? "UNKNOWN", this.#connection.address, timeout);
  }
}

function context({ consumer, conversation }) {
  if (Boolean(consumer) === Boolean(conversation)) {
    throw new TypeError("exactly one of consumer and conversation must be given");
  }
  return consumer ? { consumer: { consumer_id: consumer } } : { conversation: { conversation_id: conversation } };
}

function duration(seconds) {
  return { seconds: Math.floor(seconds), nanos: Math.round((seconds % 1) * 1e9) };
}
