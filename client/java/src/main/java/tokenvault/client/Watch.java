package tokenvault.client;

import io.grpc.CallOptions;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.time.Duration;
import java.util.Iterator;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import tokenvault.client.TokenVaultException.Details;
import tokenvault.v1.DelegationStatus;
import tokenvault.v1.WatchDelegationRequest;
import tokenvault.v1.WatchDelegationResponse;

/** Waits for what becomes of one delegation; a stream that breaks is taken up again. */
final class Watch {
  private static final Duration PAUSE = Duration.ofMillis(500);
  private static final DelegationStatus AWAITING = DelegationStatus.DELEGATION_STATUS_AWAITING_CONFIRMATION;

  private final Connections connections;
  private final String address;
  private final WatchDelegationRequest request;
  private final long end;

  Watch(Connections connections, String address, String delegationId, Duration timeout) {
    this.connections = connections;
    this.address = address;
    request = WatchDelegationRequest.newBuilder().setDelegationId(delegationId).build();
    end = System.nanoTime() + timeout.toNanos();
  }

  Delegated outcome() {
    while (true) {
      try {
        return outcome(request.getDelegationId(), lastEvent());
      } catch (TokenVaultException.Unavailable broken) {
        Duration pause = Objects.requireNonNullElse(broken.retryDelay(), PAUSE);
        if (end - System.nanoTime() <= pause.toNanos()) {
          throw broken;
        }
        sleep(pause);
      }
    }
  }

  private WatchDelegationResponse lastEvent() {
    var options = CallOptions.DEFAULT.withDeadlineAfter(end - System.nanoTime(), TimeUnit.NANOSECONDS);
    var last = WatchDelegationResponse.getDefaultInstance();
    var until = io.grpc.Context.current().withCancellation();
    var before = until.attach();
    try {
      Iterator<WatchDelegationResponse> events =
          ClientCalls.blockingServerStreamingCall(connections.channel(), Methods.WATCH_DELEGATION, options, request);
      while (last.getStatus() != AWAITING && events.hasNext()) { // then somebody has to act, though the stream goes on
        last = events.next();
      }
      return last;
    } catch (StatusRuntimeException failure) {
      throw Failures.of(failure, address);
    } finally {
      until.detach(before);
      until.cancel(null);
    }
  }

  static Delegated outcome(String delegationId, WatchDelegationResponse last) {
    switch (last.getStatus()) {
      case DELEGATION_STATUS_AWAITING_CONFIRMATION:
        String shown = "the consumer has logged in: ask for the confirmation code they were shown";
        throw new TokenVaultException.ConfirmationRequired(
            Details.of(shown, "CONFIRMATION_REQUIRED", Status.Code.UNKNOWN),
            delegationId,
            TokenVaultClient.instant(last.getExpireTime()));
      case DELEGATION_STATUS_COMPLETED:
        return TokenVaultClient.delegated(last.getDelegated());
      case DELEGATION_STATUS_EXPIRED:
        String late = "the consumer did not come back in time: start a new delegation";
        throw new TokenVaultException.DelegationExpired(Details.of(late, null, Status.Code.UNKNOWN));
      case DELEGATION_STATUS_DENIED, DELEGATION_STATUS_FAILED:
        String reason = last.getReason().name().replaceFirst("^ERROR_REASON_", "");
        String failed = "the delegation failed: nothing was stored, start a new one";
        throw new TokenVaultException.DelegationFailed(Details.of(failed, reason, Status.Code.UNKNOWN));
      default:
        String silent = "the sidecar stopped telling what becomes of the delegation: watch it again";
        throw new TokenVaultException.Unavailable(Details.of(silent, null, Status.Code.UNAVAILABLE));
    }
  }

  private static void sleep(Duration pause) {
    try {
      Thread.sleep(pause.toMillis());
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw new TokenVaultException(Details.of("interrupted", null, Status.Code.CANCELLED));
    }
  }
}
