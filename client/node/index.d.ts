export type Context =
  | { consumer: string; conversation?: undefined }
  | { conversation: string; consumer?: undefined };

/** Files are PEM; times are seconds. */
export interface ConnectionOptions {
  address: string;
  ca: string;
  certificate: string;
  privateKey: string;
  serverName?: string;
  timeout?: number;
}

export interface CallOptions {
  timeout?: number;
}

export type DelegationOptions = Context &
  CallOptions & {
    scopes?: string[];
    redirectUri?: string;
    expectedSubject?: string;
    authorizationParameters?: Record<string, string>;
  };

export interface WatchOptions {
  timeout?: number;
  expireTime?: Date | null;
  signal?: AbortSignal;
}

export type TokenOptions = Context &
  CallOptions & {
    scopes?: string[];
    minTtl?: number;
    rejectedTokenVersion?: string;
    includeIdToken?: boolean;
    challenge?: boolean | { scopes?: string[]; redirectUri?: string };
  };

export interface Token {
  readonly accessToken: string;
  readonly idToken: string | null;
  readonly tokenType: string;
  readonly expireTime: Date | null;
  readonly scopes: string[];
  readonly tokenVersion: string;
  readonly degraded: boolean;
}

export interface Delegation {
  readonly delegationId: string;
  readonly authorizationUrl: string;
  readonly expireTime: Date | null;
}

export interface Confirmation {
  readonly code: string;
  readonly expireTime: Date | null;
}

export interface Delegated {
  readonly brand: string;
  readonly consumer: string | null;
  readonly conversation: string | null;
  readonly subject: string | null;
  readonly grantedScopes: string[];
  readonly accessTokenExpireTime: Date | null;
  readonly sessionExpireTime: Date | null;
  readonly confirmation: Confirmation | null;
}

export class TokenVaultClient {
  constructor(options: ConnectionOptions);
  static fromEnvironment(
    options?: Partial<ConnectionOptions>,
    environment?: Record<string, string | undefined>,
  ): TokenVaultClient;
  startDelegation(brand: string, options: DelegationOptions): Promise<Delegation>;
  completeDelegation(query: URLSearchParams | Record<string, string>, options?: CallOptions): Promise<Delegated>;
  confirmDelegation(delegationId: string, code: string, options?: CallOptions): Promise<Delegated>;
  watchDelegation(delegationId: string, options?: WatchOptions): Promise<Delegated>;
  challenge(
    brand: string,
    options: DelegationOptions & { signal?: AbortSignal },
    send: (url: string, delegation: Delegation) => unknown,
  ): Promise<Delegated>;
  getToken(brand: string, options: TokenOptions): Promise<Token>;
  invalidate(brand: string, options: Context & CallOptions): Promise<string>;
  tokenSource(brand: string, options: Context & CallOptions & { scopes?: string[] }): TokenSource;
  close(): void;
}

export class TokenSource {
  constructor(ask: (rejected: string | null) => Promise<Token>);
  token(options?: { rejected?: string }): Promise<Token>;
  fetch: typeof fetch;
}

export class TokenVaultError extends Error {
  readonly reason: string | null;
  readonly code: string;
  readonly retryAfter: number | null;
  readonly metadata: Record<string, string>;
}
export class ConsentRequired extends TokenVaultError {
  readonly challenge: Delegation | null;
}
export class ConfirmationRequired extends TokenVaultError {
  readonly delegationId: string | null;
  readonly expireTime: Date | null;
}
export class ConfirmationCodeWrong extends TokenVaultError {
  readonly triesLeft: number;
}
export class ScopeNotGranted extends TokenVaultError {}
export class DelegationFailed extends TokenVaultError {}
export class DelegationExpired extends DelegationFailed {}
export class Unavailable extends TokenVaultError {}
export class AccessDenied extends TokenVaultError {}
export class InvalidRequest extends TokenVaultError {
  readonly fieldViolations: { field: string; description: string }[];
}
export class AuthorizationServerMisconfigured extends TokenVaultError {}
export class InternalError extends TokenVaultError {}
export class DeadlineExceeded extends TokenVaultError {}
