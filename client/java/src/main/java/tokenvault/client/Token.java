package tokenvault.client;

import java.time.Instant;
import java.util.List;

/**
 * An access token that is valid now. Its text leaves the tokens out.
 *
 * @param accessToken the access token (RFC 6750), a secret
 * @param expireTime when to stop using it; null: use it until it is rejected
 * @param tokenVersion names this token set; opaque, not a secret
 * @param idToken where asked for and allowed, else null
 * @param degraded whether it has less life left than asked for, but cannot be renewed now
 */
public record Token(
    String accessToken,
    String tokenType,
    Instant expireTime,
    List<String> scopes,
    String tokenVersion,
    String idToken,
    boolean degraded) {

  /** The value of the request header "Authorization". */
  public String authorizationHeader() {
    return tokenType + " " + accessToken;
  }

  @Override
  public String toString() {
    return "Token[tokenVersion=" + tokenVersion + ", expireTime=" + expireTime + "]";
  }
}
