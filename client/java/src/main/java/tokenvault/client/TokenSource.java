package tokenvault.client;

import io.grpc.Status;
import java.time.Duration;
import java.time.Instant;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.function.Function;
import tokenvault.client.TokenVaultException.Details;

/**
 * Gives a valid access token of one context: from memory, and from the sidecar only where the token is near its end or
 * was rejected. However many threads ask, one call is made. While the sidecar cannot be reached the token that is held
 * is given until its end.
 */
public final class TokenSource {
  private static final Duration MARGIN = Duration.ofSeconds(30);
  private static final Duration PAUSE = Duration.ofSeconds(1);

  /** A thread of its own: who is interrupted ends the call for nobody else. */
  private static final Executor FLIGHTS =
      flight -> {
        Thread thread = new Thread(flight, "tokenvault-source");
        thread.setDaemon(true);
        thread.start();
      };

  private final Function<TokenRequest, Token> vault;
  private final TokenRequest ask;
  private Token held;
  private Instant askAt = Instant.MAX;
  private String rejected = "";
  private CompletableFuture<Token> flight;

  TokenSource(Function<TokenRequest, Token> vault, TokenRequest ask) {
    this.vault = vault;
    this.ask = ask;
  }

  /** The token. Throws what {@link TokenVaultClient#getToken} does, to all who waited for it. */
  public Token token() {
    CompletableFuture<Token> wanted;
    synchronized (this) {
      Instant now = Instant.now();
      if (held != null && now.isBefore(askAt) && lives(held, now)) {
        return held;
      }
      if (flight == null) {
        flight = CompletableFuture.supplyAsync(this::renew, FLIGHTS);
      }
      wanted = flight;
    }
    try {
      return wanted.get();
    } catch (ExecutionException failed) {
      if (failed.getCause() instanceof RuntimeException cause) {
        throw cause;
      }
      throw new IllegalStateException(failed.getCause());
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw new TokenVaultException(Details.of("interrupted", null, Status.Code.CANCELLED));
    }
  }

  /** Says that the brand's API answered 401 to the token of this version: the next that is given is another. */
  public synchronized void reject(String version) {
    if (held != null && held.tokenVersion().equals(version)) {
      held = null;
      rejected = version;
    }
  }

  private Token renew() {
    try {
      Token token = vault.apply(ask.rejected(rejectedNow()));
      if (token.tokenVersion().equals(rejectedNow())) { // it was while the call was made
        token = vault.apply(ask.rejected(rejectedNow()));
      }
      return keep(token);
    } catch (TokenVaultException.Unavailable | TokenVaultException.DeadlineExceeded unreached) {
      return heldWhileItLives(unreached);
    } finally {
      synchronized (this) {
        flight = null; // a failure is kept for nobody: the next one asks again
      }
    }
  }

  private synchronized Token keep(Token token) {
    held = token;
    rejected = "";
    askAt = askAt(token, Instant.now());
    return token;
  }

  private synchronized Token heldWhileItLives(TokenVaultException unreached) {
    Instant now = Instant.now();
    if (held == null || !lives(held, now)) {
      throw unreached;
    }
    askAt = now.plus(PAUSE);
    return held;
  }

  private synchronized String rejectedNow() {
    return rejected;
  }

  private static boolean lives(Token token, Instant now) {
    return token.expireTime() == null || now.isBefore(token.expireTime());
  }

  /** A margin before the token's end, smaller for a short life; else, and for a degraded one, after a pause. */
  private static Instant askAt(Token token, Instant now) {
    Instant soonest = now.plus(PAUSE);
    Instant end = token.expireTime();
    if (token.degraded()) {
      return soonest;
    }
    if (end == null) {
      return Instant.MAX;
    }
    Duration fifth = Duration.between(now, end).dividedBy(5);
    Instant due = end.minus(fifth.compareTo(MARGIN) < 0 ? fifth : MARGIN);
    return due.isBefore(soonest) ? soonest : due;
  }
}
