package tokenvault.client;

import java.time.Instant;

/**
 * For the page on which the consumer's login ends: the bot is told the code by the consumer, and brings it to {@link
 * TokenVaultClient#confirmDelegation}. Its text leaves the code out.
 *
 * @param code a secret of the consumer's
 * @param expireTime when it stops working
 */
public record Confirmation(String code, Instant expireTime) {
  @Override
  public String toString() {
    return "Confirmation[expireTime=" + expireTime + "]";
  }
}
