package tokenvault.client;

import java.time.Duration;
import java.util.List;

/**
 * What {@link TokenVaultClient#getToken} asks for.
 *
 * @param scopes the token must have, all of them granted; none: any
 * @param minTtl the life the token must have left, up to an hour
 * @param rejectedTokenVersion of a token the brand's API answered 401 to; empty: none was
 * @param includeIdToken whether to ask for the id token as well, where policy allows it
 * @param challenge what the link is to ask for where the consumer must be challenged; null: give none
 */
public record TokenRequest(
    String brand,
    Context context,
    List<String> scopes,
    Duration minTtl,
    String rejectedTokenVersion,
    boolean includeIdToken,
    ChallengeOptions challenge) {

  /** Any token of this context. */
  public static TokenRequest of(String brand, Context context, String... scopes) {
    return new TokenRequest(brand, context, List.of(scopes), Duration.ZERO, "", false, null);
  }

  /** The same, where the token of this version was rejected. */
  public TokenRequest rejected(String version) {
    return new TokenRequest(brand, context, scopes, minTtl, version, includeIdToken, challenge);
  }

  /** The same, and where there is no token ConsentRequired holds a link: one for all who ask while it is pending. */
  public TokenRequest challenging(ChallengeOptions options) {
    return new TokenRequest(brand, context, scopes, minTtl, rejectedTokenVersion, includeIdToken, options);
  }
}
