/** What a call can fail with: one class per family of client/README.md. The reason tells the members of a family apart. */

import protobuf from "protobufjs";
import { Delegation, time } from "./models.js";

export class TokenVaultError extends Error {
  constructor(message, { reason = null, code = "UNKNOWN", retryAfter = null, metadata = {} } = {}) {
    super(message);
    this.name = this.constructor.name;
    this.reason = reason;
    this.code = code;
    this.retryAfter = retryAfter;
    this.metadata = metadata;
  }
}

export class ConsentRequired extends TokenVaultError {
  #challenge = null;

  /** The link to show, where getToken was asked for one; else null. */
  get challenge() {
    return this.#challenge;
  }

  static told(error, challenge) {
    error.#challenge = challenge;
  }
}
export class ConfirmationRequired extends TokenVaultError {
  delegationId = null;
  expireTime = null;
}
export class ConfirmationCodeWrong extends TokenVaultError {
  /** How many other codes may be tried; 0: the delegation is void. */
  get triesLeft() {
    return Number(this.metadata.tries_left ?? 0);
  }
}
export class ScopeNotGranted extends TokenVaultError {}
export class DelegationFailed extends TokenVaultError {}
export class DelegationExpired extends DelegationFailed {}
export class Unavailable extends TokenVaultError {}
export class AccessDenied extends TokenVaultError {}
export class InvalidRequest extends TokenVaultError {
  fieldViolations = [];
}
export class AuthorizationServerMisconfigured extends TokenVaultError {}
export class InternalError extends TokenVaultError {}
export class DeadlineExceeded extends TokenVaultError {}

const DOMAIN = "tokenvault.v1";

const BY_REASON = {
  GRANT_NOT_FOUND: ConsentRequired,
  CONSENT_REQUIRED: ConsentRequired,
  SESSION_ENDED: ConsentRequired,
  SCOPE_NOT_GRANTED: ScopeNotGranted,
  STATE_NOT_FOUND: DelegationFailed,
  AUTHORIZATION_DENIED: DelegationFailed,
  CODE_REJECTED: DelegationFailed,
  INVALID_ID_TOKEN: DelegationFailed,
  ISSUER_MISMATCH: DelegationFailed,
  SUBJECT_MISMATCH: DelegationFailed,
  AS_UNAVAILABLE: Unavailable,
  AS_MISCONFIGURED: AuthorizationServerMisconfigured,
  UNKNOWN_CALLER: AccessDenied,
  POLICY_DENIED: AccessDenied,
  BEARER_INVALID: AccessDenied,
  RATE_LIMITED: Unavailable,
  STORE_UNAVAILABLE: Unavailable,
  INVALID_REQUEST: InvalidRequest,
  INTERNAL: InternalError,
  CONFIRMATION_REQUIRED: ConfirmationRequired,
  CONFIRMATION_CODE_WRONG: ConfirmationCodeWrong,
};

const BY_CODE = {
  UNAVAILABLE: Unavailable,
  RESOURCE_EXHAUSTED: Unavailable,
  PERMISSION_DENIED: AccessDenied,
  UNAUTHENTICATED: AccessDenied,
  INVALID_ARGUMENT: InvalidRequest,
  INTERNAL: InternalError,
  UNKNOWN: InternalError,
  DEADLINE_EXCEEDED: DeadlineExceeded,
};

// Of google.rpc, as much as is read here.
const types = protobuf.parse(`
  syntax = "proto3";
  message Packed { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Packed details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message Delay { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Delay retry_delay = 1; }
  message Violation { string field = 1; string description = 2; }
  message BadRequest { repeated Violation field_violations = 1; }
  message ConsentChallenge { string authorization_url = 1; string delegation_id = 2; Delay expire_time = 3; }
`).root;

const DETAILS = {
  "google.rpc.ErrorInfo": "ErrorInfo",
  "google.rpc.RetryInfo": "RetryInfo",
  "google.rpc.BadRequest": "BadRequest",
  "tokenvault.v1.ConsentChallenge": "ConsentChallenge",
};

function details(error) {
  const found = {};
  try {
    const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
    if (!packed) return found;
    for (const { typeUrl, value } of types.lookupType("Status").decode(packed).details) {
      const name = DETAILS[typeUrl.split("/").at(-1)];
      if (name) found[name] = types.lookupType(name).decode(value);
    }
  } catch {
    // not the sidecar's: told by the code alone
  }
  return found;
}

/** Our error for gRPC's; `code` is its name. gRPC's own is not kept: it holds more than may be printed. */
export function errorFrom(error, code, address, timeout) {
  const { ErrorInfo: info, RetryInfo: retry, BadRequest: bad, ConsentChallenge: link } = details(error);
  const reason = info?.domain === DOMAIN ? info.reason : null;
  let message = error.details || "no details";
  if (reason === null && code === "UNAVAILABLE") message = `no connection to the sidecar at ${address}: ${message}`;
  if (reason === null && code === "DEADLINE_EXCEEDED") {
    message = `no answer from the sidecar at ${address} within ${timeout} s`;
  }
  const delay = retry?.retryDelay;
  const kind = BY_REASON[reason] ?? BY_CODE[code] ?? TokenVaultError;
  const ours = new kind(message, {
    reason,
    code,
    retryAfter: delay ? Number(delay.seconds) + delay.nanos / 1e9 : null,
    metadata: reason === null ? {} : { ...info.metadata },
  });
  if (ours instanceof InvalidRequest && bad) {
    ours.fieldViolations = bad.fieldViolations.map(({ field, description }) => ({ field, description }));
  }
  if (link) {
    const { authorizationUrl, delegationId, expireTime } = link;
    const expire_time = { seconds: Number(expireTime.seconds), nanos: expireTime.nanos };
    if (ours instanceof ConfirmationRequired) {
      Object.assign(ours, { delegationId, expireTime: time(expire_time) });
    } else if (ours instanceof ConsentRequired) {
      const answer = { authorization_url: authorizationUrl, delegation_id: delegationId, expire_time };
      ConsentRequired.told(ours, new Delegation(answer));
    }
  }
  return ours;
}

/** That the consumer has to bring a code, as a watch tells it. */
export function confirmationRequired(delegationId, expireTime) {
  const message = "the consumer has logged in: ask for the confirmation code they were shown";
  const error = new ConfirmationRequired(message, { reason: "CONFIRMATION_REQUIRED" });
  return Object.assign(error, { delegationId, expireTime });
}

/** What a delegation came to, by the reason it is told with; null for one that this client does not know. */
export function failure(told) {
  const known = typeof told === "string" && told !== "ERROR_REASON_UNSPECIFIED";
  const reason = known ? told.replace("ERROR_REASON_", "") : null;
  const why = reason === null ? "" : ` (${reason})`;
  return new DelegationFailed(`the delegation failed${why}: nothing was stored, start a new one`, { reason });
}
