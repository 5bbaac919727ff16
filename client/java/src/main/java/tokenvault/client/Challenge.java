package tokenvault.client;

import java.time.Instant;

/**
 * What to show to the consumer. Its text leaves the link out.
 *
 * @param delegationId names the delegation; not a secret
 * @param authorizationUrl for the consumer's browser, never for a log
 * @param expireTime when the link stops working
 */
public record Challenge(String delegationId, String authorizationUrl, Instant expireTime) {
  @Override
  public String toString() {
    return "Challenge[delegationId=" + delegationId + ", expireTime=" + expireTime + "]";
  }
}
