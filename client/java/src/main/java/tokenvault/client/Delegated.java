package tokenvault.client;

import java.time.Instant;
import java.util.List;

/**
 * What the consumer has delegated.
 *
 * @param subject who logged in; empty for a conversation. Not in its text
 * @param accessTokenExpireTime null where the authorization server did not say
 * @param sessionExpireTime when the session ends unless used; null for a conversation
 * @param confirmation there where {@link TokenVaultClient#completeDelegation} has locked the grant; else null
 */
public record Delegated(
    String brand,
    Context context,
    List<String> grantedScopes,
    String subject,
    Instant accessTokenExpireTime,
    Instant sessionExpireTime,
    Confirmation confirmation) {
  @Override
  public String toString() {
    return "Delegated[brand=" + brand + ", context=" + context + ", grantedScopes=" + grantedScopes + "]";
  }
}
