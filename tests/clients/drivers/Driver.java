import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.function.Supplier;
import tokenvault.client.BearerHttp;
import tokenvault.client.Challenge;
import tokenvault.client.ChallengeOptions;
import tokenvault.client.Context;
import tokenvault.client.Delegated;
import tokenvault.client.Delegation;
import tokenvault.client.Token;
import tokenvault.client.TokenRequest;
import tokenvault.client.TokenSource;
import tokenvault.client.TokenVaultClient;
import tokenvault.client.TokenVaultException;

/** The Java client's driver. */
final class Driver {
  private static final Gson JSON = new Gson();

  private final TokenVaultClient vault;
  private final HttpClient http = HttpClient.newHttpClient();
  private final Map<String, TokenSource> sources = new HashMap<>();

  private Driver(TokenVaultClient vault) {
    this.vault = vault;
  }

  public static void main(String[] arguments) throws Exception {
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    try (TokenVaultClient vault = TokenVaultClient.fromEnvironment()) {
      Driver driver = new Driver(vault);
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        System.out.println(JSON.toJson(driver.answer(JSON.fromJson(line, JsonObject.class))));
      }
    }
  }

  private Map<String, Object> answer(JsonObject command) throws Exception {
    try {
      return Map.of("ok", play(command));
    } catch (TokenVaultException failure) {
      Map<String, Object> told = new HashMap<>();
      Class<?> family = failure.getClass();
      while (family.getSuperclass() != TokenVaultException.class && family != TokenVaultException.class) {
        family = family.getSuperclass();
      }
      told.put("family", family.getSimpleName());
      told.put("reason", failure.reason());
      told.put("code", failure.code().name());
      told.put("text", failure.toString());
      if (failure instanceof TokenVaultException.ConsentRequired never && never.challenge() != null) {
        told.put("challenge", told(never.challenge()));
      }
      if (failure instanceof TokenVaultException.ConfirmationRequired waits) {
        told.put("delegation_id", waits.delegationId());
      }
      if (failure instanceof TokenVaultException.ConfirmationCodeWrong wrong) {
        told.put("tries_left", wrong.triesLeft());
      }
      return Map.of("error", told);
    }
  }

  private Object play(JsonObject command) throws Exception {
    var vault = command.has("timeout") ? this.vault.within(span(command, "timeout")) : this.vault;
    switch (text(command, "op")) {
      case "start_delegation":
        return told(vault.startDelegation(Delegation.of(text(command, "brand"), context(command))));
      case "complete_delegation":
        Map<String, String> query = new HashMap<>();
        command.getAsJsonObject("query").entrySet().forEach(e -> query.put(e.getKey(), e.getValue().getAsString()));
        return told(vault.completeDelegation(query));
      case "confirm_delegation":
        return told(vault.confirmDelegation(text(command, "delegation_id"), text(command, "code")));
      case "watch_delegation":
        return told(vault.watchDelegation(text(command, "delegation_id")));
      case "get_token":
        var asked = TokenRequest.of(text(command, "brand"), context(command));
        if (command.has("rejected_token_version")) {
          asked = asked.rejected(text(command, "rejected_token_version"));
        }
        if (command.has("challenge")) {
          asked = asked.challenging(ChallengeOptions.DEFAULT);
        }
        return told(vault.getToken(asked));
      case "invalidate":
        return Map.of("revocation", vault.invalidate(text(command, "brand"), context(command)));
      case "source":
        return told(together(source(command), command.get("times").getAsInt()));
      case "fetch":
        var request = HttpRequest.newBuilder(URI.create(text(command, "url"))).build();
        var api = new BearerHttp(http, source(command));
        return Map.of("status", api.send(request, HttpResponse.BodyHandlers.discarding()).statusCode());
      case "bench":
        return bench(command);
      default:
        throw new IllegalArgumentException("no such op: " + text(command, "op"));
    }
  }

  private TokenSource source(JsonObject command) {
    Context whose = context(command);
    String key = text(command, "brand") + "\n" + whose.consumerId() + "\n" + whose.conversationId();
    return sources.computeIfAbsent(key, none -> vault.tokenSource(text(command, "brand"), whose));
  }

  /** Asks a source so many times, fifty at once; the last of what came. */
  private static Token together(TokenSource source, int times) throws Exception {
    var threads = Executors.newFixedThreadPool(Math.min(times, 50));
    try {
      var all = threads.invokeAll(Collections.nCopies(times, (Callable<Token>) source::token));
      Token last = null;
      for (var one : all) {
        last = one.get();
      }
      return last;
    } finally {
      threads.shutdown();
    }
  }

  private Object bench(JsonObject command) {
    TokenSource source = source(command);
    TokenRequest asked = TokenRequest.of(text(command, "brand"), context(command));
    Supplier<Token> once = text(command, "by").equals("rpc") ? () -> vault.getToken(asked) : source::token;
    once.get();
    long began = System.nanoTime();
    long limit = span(command, "seconds").toNanos();
    long calls = 0;
    for (; System.nanoTime() - began < limit; calls++) {
      once.get();
    }
    return Map.of("calls", calls, "seconds", (System.nanoTime() - began) / 1e9);
  }

  private static Map<String, Object> told(Challenge challenge) {
    return Map.of(
        "delegation_id", challenge.delegationId(),
        "authorization_url", challenge.authorizationUrl(),
        "expire_time", seconds(challenge.expireTime()));
  }

  private static Map<String, Object> told(Delegated done) {
    Map<String, Object> told = new HashMap<>();
    told.put("brand", done.brand());
    told.put("consumer", done.context().consumerId());
    told.put("conversation", done.context().conversationId());
    if (done.confirmation() != null) {
      told.put("confirmation_code", done.confirmation().code());
    }
    return told;
  }

  private static Map<String, Object> told(Token token) {
    Map<String, Object> told = new HashMap<>();
    told.put("access_token", token.accessToken());
    told.put("token_type", token.tokenType());
    told.put("expire_time", token.expireTime() == null ? null : seconds(token.expireTime()));
    told.put("scopes", token.scopes());
    told.put("token_version", token.tokenVersion());
    told.put("degraded", token.degraded());
    return told;
  }

  private static Context context(JsonObject command) {
    return command.has("consumer")
        ? Context.consumer(text(command, "consumer"))
        : Context.conversation(text(command, "conversation"));
  }

  private static String text(JsonObject command, String member) {
    return command.get(member).getAsString();
  }

  private static Duration span(JsonObject command, String member) {
    return Duration.ofMillis(Math.round(command.get(member).getAsDouble() * 1000));
  }

  private static double seconds(Instant instant) {
    return instant.toEpochMilli() / 1000.0;
  }
}
