package tokenvault.client;

import java.util.List;
import java.util.Map;

/**
 * What {@link TokenVaultClient#startDelegation} asks for.
 *
 * @param scopes to ask for; none: the brand's default
 * @param redirectUri one of the brand's; empty: its first
 * @param expectedSubject who must log in, where it is not empty; consumers only. Not in its text
 * @param authorizationParameters more of them, as far as the brand allows. Not in its text
 */
public record Delegation(
    String brand,
    Context context,
    List<String> scopes,
    String redirectUri,
    String expectedSubject,
    Map<String, String> authorizationParameters) {

  /** With the brand's defaults. */
  public static Delegation of(String brand, Context context) {
    return new Delegation(brand, context, List.of(), "", "", Map.of());
  }

  @Override
  public String toString() {
    return "Delegation[brand=" + brand + ", context=" + context + ", scopes=" + scopes + "]";
  }
}
