package tokenvault.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Function;
import tokenvault.client.TokenVaultException.Details;
import tokenvault.client.TokenVaultException.FieldViolation;
import tokenvault.v1.ConsentChallenge;

/** From what gRPC throws to a TokenVaultException. */
final class Failures {
  private static final String DOMAIN = "tokenvault.v1";

  private static final Map<String, Function<Details, TokenVaultException>> BY_REASON =
      Map.ofEntries(
          Map.entry("SCOPE_NOT_GRANTED", TokenVaultException.ScopeNotGranted::new),
          Map.entry("STATE_NOT_FOUND", TokenVaultException.DelegationFailed::new),
          Map.entry("AUTHORIZATION_DENIED", TokenVaultException.DelegationFailed::new),
          Map.entry("CODE_REJECTED", TokenVaultException.DelegationFailed::new),
          Map.entry("INVALID_ID_TOKEN", TokenVaultException.DelegationFailed::new),
          Map.entry("ISSUER_MISMATCH", TokenVaultException.DelegationFailed::new),
          Map.entry("SUBJECT_MISMATCH", TokenVaultException.DelegationFailed::new),
          Map.entry("AS_UNAVAILABLE", TokenVaultException.Unavailable::new),
          Map.entry("AS_MISCONFIGURED", TokenVaultException.AuthorizationServerMisconfigured::new),
          Map.entry("UNKNOWN_CALLER", TokenVaultException.AccessDenied::new),
          Map.entry("POLICY_DENIED", TokenVaultException.AccessDenied::new),
          Map.entry("BEARER_INVALID", TokenVaultException.AccessDenied::new),
          Map.entry("RATE_LIMITED", TokenVaultException.Unavailable::new),
          Map.entry("STORE_UNAVAILABLE", TokenVaultException.Unavailable::new),
          Map.entry("INVALID_REQUEST", TokenVaultException.InvalidRequest::new),
          Map.entry("INTERNAL", TokenVaultException.InternalError::new),
          Map.entry("CONFIRMATION_CODE_WRONG", TokenVaultException.ConfirmationCodeWrong::new));

  private static final Set<String> CONSENT_REQUIRED = Set.of("GRANT_NOT_FOUND", "CONSENT_REQUIRED", "SESSION_ENDED");

  /** For a reason this client does not know, or none. */
  private static final Map<Status.Code, Function<Details, TokenVaultException>> BY_CODE =
      Map.of(
          Status.Code.UNAVAILABLE, TokenVaultException.Unavailable::new,
          Status.Code.RESOURCE_EXHAUSTED, TokenVaultException.Unavailable::new,
          Status.Code.PERMISSION_DENIED, TokenVaultException.AccessDenied::new,
          Status.Code.UNAUTHENTICATED, TokenVaultException.AccessDenied::new,
          Status.Code.INVALID_ARGUMENT, TokenVaultException.InvalidRequest::new,
          Status.Code.INTERNAL, TokenVaultException.InternalError::new,
          Status.Code.UNKNOWN, TokenVaultException.InternalError::new,
          Status.Code.DEADLINE_EXCEEDED, TokenVaultException.DeadlineExceeded::new);

  private Failures() {}

  static TokenVaultException of(StatusRuntimeException thrown, String address) {
    Status.Code code = thrown.getStatus().getCode();
    com.google.rpc.Status told = StatusProto.fromThrowable(thrown);
    ErrorInfo info = detail(told, ErrorInfo.class);
    boolean ours = info != null && info.getDomain().equals(DOMAIN);
    RetryInfo retry = detail(told, RetryInfo.class);
    BadRequest bad = detail(told, BadRequest.class);
    String message = thrown.getStatus().getDescription();
    if (!ours && code == Status.Code.UNAVAILABLE) {
      message = "no connection to the sidecar at " + address + ": " + message;
    } else if (!ours && code == Status.Code.DEADLINE_EXCEEDED) {
      message = "no answer in time from the sidecar at " + address;
    }
    Details details =
        new Details(
            message,
            ours ? info.getReason() : null,
            code,
            ours ? info.getMetadataMap() : Map.of(),
            retry == null
                ? null
                : Duration.ofSeconds(retry.getRetryDelay().getSeconds(), retry.getRetryDelay().getNanos()),
            bad == null
                ? List.of()
                : bad.getFieldViolationsList().stream()
                    .map(violation -> new FieldViolation(violation.getField(), violation.getDescription()))
                    .toList());
    if (ours && CONSENT_REQUIRED.contains(details.reason())) {
      return new TokenVaultException.ConsentRequired(details, challenge(detail(told, ConsentChallenge.class)));
    }
    if (ours && details.reason().equals("CONFIRMATION_REQUIRED")) {
      Challenge waits = challenge(detail(told, ConsentChallenge.class));
      return new TokenVaultException.ConfirmationRequired(
          details, waits == null ? null : waits.delegationId(), waits == null ? null : waits.expireTime());
    }
    Function<Details, TokenVaultException> fitting = BY_CODE.getOrDefault(code, TokenVaultException::new);
    return (ours ? BY_REASON.getOrDefault(details.reason(), fitting) : fitting).apply(details);
  }

  private static Challenge challenge(ConsentChallenge told) {
    return told == null
        ? null
        : new Challenge(
            told.getDelegationId(), told.getAuthorizationUrl(), TokenVaultClient.instant(told.getExpireTime()));
  }

  private static <M extends Message> M detail(com.google.rpc.Status told, Class<M> kind) {
    for (Any packed : told == null ? List.<Any>of() : told.getDetailsList()) {
      try {
        if (packed.is(kind)) {
          return packed.unpack(kind);
        }
      } catch (InvalidProtocolBufferException broken) {
        return null; // as good as none
      }
    }
    return null;
  }
}
