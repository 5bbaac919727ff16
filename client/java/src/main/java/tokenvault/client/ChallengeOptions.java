package tokenvault.client;

import java.util.List;

/**
 * What the link asks for that comes with {@link TokenVaultException.ConsentRequired}.
 *
 * @param scopes none: the brand's default
 * @param redirectUri one of the brand's; empty: its first
 */
public record ChallengeOptions(List<String> scopes, String redirectUri) {
  /** The brand's own. */
  public static final ChallengeOptions DEFAULT = new ChallengeOptions(List.of(), "");
}
