import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import tokenvault.client.BearerHttp;
import tokenvault.client.Context;
import tokenvault.client.Delegation;
import tokenvault.client.TokenVaultClient;
import tokenvault.client.TokenVaultException;

/** A bot that asks the brand's API as a consumer, who logs in where it must. Its argument is the API's URL. */
final class Bot {
  private static final Context CONVERSATION = Context.conversation("c-java");

  public static void main(String[] arguments) throws Exception {
    HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0])).build();
    try (TokenVaultClient vault = TokenVaultClient.fromEnvironment()) {
      BearerHttp api = new BearerHttp(HttpClient.newHttpClient(), vault.tokenSource("acme", CONVERSATION));
      HttpResponse<Void> answer;
      try {
        answer = api.send(request, HttpResponse.BodyHandlers.discarding());
      } catch (TokenVaultException.ConsentRequired never) { // never asked, or expired
        login(vault);
        answer = api.send(request, HttpResponse.BodyHandlers.discarding());
      }
      System.out.println("the brand's API answered " + answer.statusCode());
    }
  }

  /** Waits until the consumer has come back, to the sidecar or to whoever completes the delegation. */
  private static void login(TokenVaultClient vault) {
    var challenge = vault.startDelegation(Delegation.of("acme", CONVERSATION));
    System.out.println("please log in: " + challenge.authorizationUrl());
    vault.watchDelegation(challenge.delegationId());
  }
}
