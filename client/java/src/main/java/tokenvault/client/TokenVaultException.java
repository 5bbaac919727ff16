package tokenvault.client;

import io.grpc.Status;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;

/**
 * A call failed. The message holds no token, code or state. Catch by family: {@link ConsentRequired}, {@link
 * ConfirmationRequired}, {@link ConfirmationCodeWrong}, {@link DelegationFailed}, {@link Unavailable}, {@link
 * AccessDenied}, {@link InvalidRequest}, {@link ScopeNotGranted}, {@link AuthorizationServerMisconfigured}, {@link
 * InternalError}, {@link DeadlineExceeded}.
 */
public class TokenVaultException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  private final transient Details details;

  /** What is known of a failure. */
  record Details(
      String message,
      String reason,
      Status.Code code,
      Map<String, String> metadata,
      Duration retryDelay,
      List<FieldViolation> fieldViolations) {

    /** With no more than that. */
    static Details of(String message, String reason, Status.Code code) {
      return new Details(message, reason, code, Map.of(), null, List.of());
    }
  }

  /** A field that is missing or wrong, by its name in the proto. */
  public record FieldViolation(String field, String description) {}

  TokenVaultException(Details details) {
    super((details.reason() == null ? details.code().name() : details.reason()) + ": " + details.message());
    this.details = details;
  }

  /** The contract's ErrorReason without its prefix, as in "GRANT_NOT_FOUND"; null where the sidecar gave none. */
  public String reason() {
    return details.reason();
  }

  /** The gRPC code. */
  public Status.Code code() {
    return details.code();
  }

  /** The particulars that come with the reason. */
  public Map<String, String> metadata() {
    return details.metadata();
  }

  /** How long to wait before trying again; null where the sidecar did not say that waiting helps. */
  public Duration retryDelay() {
    return details.retryDelay();
  }

  /** The fields at fault. */
  public List<FieldViolation> fieldViolations() {
    return details.fieldViolations();
  }

  /** There is no token to give: challenge the consumer. GRANT_NOT_FOUND, CONSENT_REQUIRED, SESSION_ENDED. */
  public static final class ConsentRequired extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    private final transient Challenge challenge;

    ConsentRequired(Details details, Challenge challenge) {
      super(details);
      this.challenge = challenge;
    }

    /** The link to show, where it was asked for by {@link TokenRequest#challenging}; else null. */
    public Challenge challenge() {
      return challenge;
    }
  }

  /** The consumer has logged in: ask for the code they were shown, and give it to confirmDelegation. */
  public static final class ConfirmationRequired extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    private final String delegationId;
    private final Instant expireTime;

    ConfirmationRequired(Details details, String delegationId, Instant expireTime) {
      super(details);
      this.delegationId = delegationId;
      this.expireTime = expireTime;
    }

    /** Of which delegation; not a secret. */
    public String delegationId() {
      return delegationId;
    }

    /** When the code stops working. */
    public Instant expireTime() {
      return expireTime;
    }
  }

  /** Not the code that the consumer was shown. */
  public static final class ConfirmationCodeWrong extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    ConfirmationCodeWrong(Details details) {
      super(details);
    }

    /** How many other codes may be tried; 0: the delegation is void, start a new one. */
    public int triesLeft() {
      return Integer.parseInt(metadata().getOrDefault("tries_left", "0"));
    }
  }

  /** The delegation came to nothing, and nothing was stored: start a new one. */
  public static sealed class DelegationFailed extends TokenVaultException permits DelegationExpired {
    private static final long serialVersionUID = 1L;

    DelegationFailed(Details details) {
      super(details);
    }
  }

  /** The consumer did not come back in time. */
  public static final class DelegationExpired extends DelegationFailed {
    private static final long serialVersionUID = 1L;

    DelegationExpired(Details details) {
      super(details);
    }
  }

  /** Not now: the authorization server, the store, a limit, or no connection. Try again. */
  public static final class Unavailable extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    Unavailable(Details details) {
      super(details);
    }
  }

  /** The configuration does not let this caller. */
  public static final class AccessDenied extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    AccessDenied(Details details) {
      super(details);
    }
  }

  /** A field is missing or wrong: see fieldViolations. */
  public static final class InvalidRequest extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    InvalidRequest(Details details) {
      super(details);
    }
  }

  /** More scopes were asked for than were granted. */
  public static final class ScopeNotGranted extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    ScopeNotGranted(Details details) {
      super(details);
    }
  }

  /** The operator's problem; costs no grant. */
  public static final class AuthorizationServerMisconfigured extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    AuthorizationServerMisconfigured(Details details) {
      super(details);
    }
  }

  /** A defect of the sidecar; its log has the details. */
  public static final class InternalError extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    InternalError(Details details) {
      super(details);
    }
  }

  /** No answer in time: whether it was done is not known. */
  public static final class DeadlineExceeded extends TokenVaultException {
    private static final long serialVersionUID = 1L;

    DeadlineExceeded(Details details) {
      super(details);
    }
  }
}
