/** The sidecar's calls. */

import grpc from "@grpc/grpc-js";
import { Connection, fromEnvironment } from "./connection.js";
import { errorFrom } from "./errors.js";
import { Delegated, Delegation, Token } from "./models.js";
import { TokenSource } from "./source.js";
import { Watch } from "./watch.js";

const TIMEOUT = 10;
const COMPLETE_TIMEOUT = 30;

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

  /**
   * Unlocks a delegation with the code that its consumer was shown, as they typed it. Safe to repeat.
   *
   * Throws ConfirmationCodeWrong where it is another, with how many more may be tried.
   */
  async confirmDelegation(delegationId, code, { timeout } = {}) {
    const request = { delegation_id: delegationId, confirmation_code: code };
    return new Delegated((await this.#call("ConfirmDelegation", request, timeout)).delegated);
  }

  /**
   * Waits for what comes of a delegation; a link that breaks is taken up again. Throws ConfirmationRequired as soon as
   * the consumer has logged in and was shown a code.
   *
   * No longer than `timeout` (seconds; a day), and than the link works: `expireTime` is the delegation's, and the
   * sidecar tells it too. `signal` ends it, with the signal's reason.
   */
  watchDelegation(delegationId, options = {}) {
    const open = () => this.#connection.stub().WatchDelegation({ delegation_id: delegationId });
    return new Watch(delegationId, open, (...failed) => this.#error(...failed), options).outcome();
  }

  /** Starts a delegation, gives its link to `send`, and waits for what comes of it; `signal` ends the waiting. */
  async challenge(brand, { signal, ...options }, send) {
    const delegation = await this.startDelegation(brand, options);
    await send(delegation.authorizationUrl, delegation);
    return this.watchDelegation(delegation.delegationId, { expireTime: delegation.expireTime, signal });
  }

  async getToken(brand, options) {
    const request = {
      brand_id: brand,
      context: context(options),
      scopes: options.scopes ?? [],
      min_ttl: options.minTtl === undefined ? null : duration(options.minTtl),
      rejected_token_version: options.rejectedTokenVersion ?? "",
      include_id_token: options.includeIdToken ?? false,
      challenge: challengeOptions(options.challenge),
    };
    return new Token(await this.#call("GetToken", request, options.timeout));
  }

  /** What becomes of the token at the authorization server, such as "QUEUED". */
  async invalidate(brand, options) {
    const request = { brand_id: brand, context: context(options) };
    const { revocation } = await this.#call("Invalidate", request, options.timeout);
    return String(revocation).replace("REVOCATION_", ""); // a number where this client does not know it
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

function challengeOptions(wanted) {
  if (!wanted) return null;
  return { scopes: wanted.scopes ?? [], redirect_uri: wanted.redirectUri ?? "" };
}

function duration(seconds) {
  return { seconds: Math.floor(seconds), nanos: Math.round((seconds % 1) * 1e9) };
}
