package tokenvault.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.grpc.Status;
import java.time.Duration;
import java.time.Instant;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import org.junit.jupiter.api.Test;
import tokenvault.client.TokenVaultException.Details;

class TokenSourceTest {
  private final AtomicInteger calls = new AtomicInteger();

  private TokenSource source(Function<TokenRequest, Token> vault) {
    return new TokenSource(
        asked -> {
          calls.incrementAndGet();
          return vault.apply(asked);
        },
        TokenRequest.of("acme", Context.consumer("alice")));
  }

  private static Token token(String version, Duration life, boolean degraded) {
    return new Token("secret-" + version, "Bearer", Instant.now().plus(life), List.of(), version, null, degraded);
  }

  @Test
  void oneCallForAll() throws Exception {
    TokenSource source =
        source(
            asked -> {
              pause(100);
              return token("v1", Duration.ofHours(1), false);
            });
    var threads = Executors.newFixedThreadPool(50);
    var all = threads.invokeAll(Collections.nCopies(1000, (Callable<Token>) source::token));
    for (Future<Token> one : all) {
      assertEquals("v1", one.get().tokenVersion());
    }
    threads.shutdown();
    assertEquals(1, calls.get());
  }

  @Test
  void theRejectedVersionIsReported() {
    TokenSource source =
        source(asked -> token(asked.rejectedTokenVersion().equals("v1") ? "v2" : "v1", Duration.ofHours(1), false));
    source.token();
    source.reject("v0");
    assertEquals("v1", source.token().tokenVersion());
    source.reject("v1");
    assertEquals("v2", source.token().tokenVersion());
    assertEquals(2, calls.get());
  }

  @Test
  void whileThereIsNoSidecarTheHeldTokenServesUntilItsEnd() {
    Token first = token("v1", Duration.ofSeconds(3), true); // degraded: asked again after a second
    TokenSource source =
        source(
            asked -> {
              if (calls.get() == 1) {
                return first;
              }
              throw new TokenVaultException.Unavailable(Details.of("no", null, Status.Code.UNAVAILABLE));
            });
    while (calls.get() < 2) {
      assertSame(first, source.token());
      pause(10);
    }
    assertThrows(
        TokenVaultException.Unavailable.class,
        () -> {
          while (true) {
            source.token();
            pause(10);
          }
        });
    assertFalse(Instant.now().isBefore(first.expireTime()));
  }

  @Test
  void aFailureIsKeptForNobody() {
    TokenSource source =
        source(
            asked -> {
              if (calls.get() == 1) {
                throw new TokenVaultException.ConsentRequired(Details.of("no", null, Status.Code.NOT_FOUND), null);
              }
              return token("v1", Duration.ofHours(1), false);
            });
    assertThrows(TokenVaultException.ConsentRequired.class, source::token);
    assertEquals("v1", source.token().tokenVersion());
  }

  @Test
  void noSecretIsInAText() {
    Context whose = Context.consumer("secret");
    var link = new Challenge("d-1", "https://as/?state=secret", Instant.now());
    var code = new Confirmation("secret", Instant.now());
    for (Object shown :
        List.of(
            token("v1", Duration.ofHours(1), false),
            TokenRequest.of("acme", whose),
            link,
            code,
            new Delegation("acme", whose, List.of(), "", "secret", Map.of("login_hint", "secret")),
            new Delegated("acme", whose, List.of(), "secret", null, null, code),
            new TokenVaultException.ConsentRequired(Details.of("no", null, Status.Code.NOT_FOUND), link))) {
      assertFalse(shown.toString().contains("secret"), shown::toString);
    }
  }

  private static void pause(long milliseconds) {
    try {
      Thread.sleep(milliseconds);
    } catch (InterruptedException interrupted) {
      throw new IllegalStateException(interrupted);
    }
  }
}
