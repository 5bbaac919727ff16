package tokenvault.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.sun.net.httpserver.HttpServer;
import io.grpc.Status;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.Function;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import tokenvault.client.TokenVaultException.Details;

class BearerHttpTest {
  private final List<String> came = new CopyOnWriteArrayList<>();
  private final List<String> reported = new CopyOnWriteArrayList<>();
  private HttpServer api;

  @BeforeEach
  void anApiThatTakesTheSecondToken() throws IOException {
    api = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    api.createContext(
        "/",
        exchange -> {
          String shown = exchange.getRequestHeaders().getFirst("Authorization");
          came.add(shown + " " + new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8));
          exchange.sendResponseHeaders(shown.equals("Bearer t2") ? 200 : 401, -1);
          exchange.close();
        });
    api.start();
  }

  @AfterEach
  void stop() {
    api.stop(0);
  }

  private int sent(BodyPublisher body, Function<String, Token> vault) throws Exception {
    TokenSource source =
        new TokenSource(
            asked -> {
              reported.add(asked.rejectedTokenVersion());
              return vault.apply(asked.rejectedTokenVersion());
            },
            TokenRequest.of("acme", Context.consumer("alice")));
    URI address = URI.create("http://127.0.0.1:" + api.getAddress().getPort() + "/");
    var request = HttpRequest.newBuilder(address).POST(body).build();
    return new BearerHttp(HttpClient.newHttpClient(), source).send(request, BodyHandlers.discarding()).statusCode();
  }

  private static Token token(String rejected) {
    String number = rejected.isEmpty() ? "1" : "2";
    return new Token("t" + number, "Bearer", null, List.of(), "v" + number, null, false);
  }

  @Test
  void onceMoreAfterA401() throws Exception {
    assertEquals(200, sent(BodyPublishers.ofString("order"), BearerHttpTest::token));
    assertEquals(List.of("Bearer t1 order", "Bearer t2 order"), came);
    assertEquals(List.of("", "v1"), reported);
  }

  @Test
  void aStreamIsSentOnce() throws Exception {
    var stream = new ByteArrayInputStream("order".getBytes(StandardCharsets.UTF_8));
    assertEquals(401, sent(BodyPublishers.ofInputStream(() -> stream), BearerHttpTest::token));
    assertEquals(List.of("Bearer t1 order"), came);
  }

  @Test
  void theSameTokenIsNotSentAgain() throws Exception {
    assertEquals(401, sent(BodyPublishers.noBody(), rejected -> token("")));
    assertEquals(List.of("Bearer t1 "), came);
  }

  @Test
  void aConsentThatWasWithdrawnIsToldInsteadOfThe401() {
    assertThrows(
        TokenVaultException.ConsentRequired.class,
        () ->
            sent(
                BodyPublishers.noBody(),
                rejected -> {
                  if (rejected.isEmpty()) {
                    return token(rejected);
                  }
                  throw new TokenVaultException.ConsentRequired(Details.of("no", null, Status.Code.NOT_FOUND), null);
                }));
  }
}
