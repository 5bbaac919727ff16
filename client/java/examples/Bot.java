import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.URLDecoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
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
      System.out.println("The brand's API answers " + answer.statusCode());
    }
  }

  private static void login(TokenVaultClient vault) throws Exception {
    var challenge = vault.startDelegation(Delegation.of("acme", CONVERSATION));
    System.out.println("Log in here: " + challenge.authorizationUrl());
    System.out.print("Then paste the address your browser was sent to: ");
    String arrived = new BufferedReader(new InputStreamReader(System.in)).readLine();
    Map<String, String> query = new HashMap<>();
    for (String pair : arrived.substring(arrived.indexOf('?') + 1).split("&")) {
      String[] parts = pair.split("=", 2);
      query.put(parts[0], URLDecoder.decode(parts[parts.length - 1], StandardCharsets.UTF_8));
    }
    vault.completeDelegation(query);
  }
}
