export { TokenVaultClient } from "./client.js";
export {
  AccessDenied,
  AuthorizationServerMisconfigured,
  ConfirmationCodeWrong,
  ConfirmationRequired,
  ConsentRequired,
  DeadlineExceeded,
  DelegationExpired,
  DelegationFailed,
  InternalError,
  InvalidRequest,
  ScopeNotGranted,
  TokenVaultError,
  Unavailable,
} from "./errors.js";
export { TokenSource } from "./source.js";
