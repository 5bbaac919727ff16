package tokenvault.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import org.junit.jupiter.api.Test;
import tokenvault.v1.CompleteDelegationResponse;
import tokenvault.v1.DelegationStatus;
import tokenvault.v1.ErrorReason;
import tokenvault.v1.WatchDelegationResponse;

class WatchTest {
  private static Delegated outcome(DelegationStatus status, ErrorReason reason) {
    var delegated = CompleteDelegationResponse.newBuilder().setBrandId("acme");
    return Watch.outcome(
        "d-1",
        WatchDelegationResponse.newBuilder().setStatus(status).setReason(reason).setDelegated(delegated).build());
  }

  @Test
  void whatADelegationCameTo() {
    var none = ErrorReason.ERROR_REASON_UNSPECIFIED;
    assertEquals("acme", outcome(DelegationStatus.DELEGATION_STATUS_COMPLETED, none).brand());
    assertThrows(
        TokenVaultException.DelegationExpired.class, () -> outcome(DelegationStatus.DELEGATION_STATUS_EXPIRED, none));
    assertThrows( // asked again
        TokenVaultException.Unavailable.class, () -> outcome(DelegationStatus.DELEGATION_STATUS_PENDING, none));
    var waits =
        assertThrows(
            TokenVaultException.ConfirmationRequired.class,
            () -> outcome(DelegationStatus.DELEGATION_STATUS_AWAITING_CONFIRMATION, none));
    assertEquals("d-1", waits.delegationId());
    assertEquals("CONFIRMATION_REQUIRED", waits.reason());
    var denied =
        assertThrows(
            TokenVaultException.DelegationFailed.class,
            () ->
                outcome(
                    DelegationStatus.DELEGATION_STATUS_DENIED, ErrorReason.ERROR_REASON_AUTHORIZATION_DENIED));
    assertEquals("AUTHORIZATION_DENIED", denied.reason());
  }
}
