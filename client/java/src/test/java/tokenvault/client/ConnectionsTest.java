package tokenvault.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.io.TempDir;
import tokenvault.v1.DelegationStatus;
import tokenvault.v1.GetTokenResponse;
import tokenvault.v1.WatchDelegationResponse;

@EnabledIfEnvironmentVariable(named = ScriptedSidecar.FILES, matches = ".+", disabledReason = "make test-java gives it")
class ConnectionsTest {
  private static final TokenRequest ASKED = TokenRequest.of("acme", Context.consumer("alice"));

  @TempDir Path folder;
  private ScriptedSidecar sidecar;
  private Config config;
  private TokenVaultClient vault;

  @BeforeEach
  void connect() throws Exception {
    sidecar = new ScriptedSidecar();
    sidecar.get = ConnectionsTest::token;
    config = sidecar.config(folder);
    vault = new TokenVaultClient(config);
  }

  @AfterEach
  void close() {
    vault.close();
    sidecar.close();
  }

  private static void token(StreamObserver<GetTokenResponse> to) {
    to.onNext(GetTokenResponse.newBuilder().setAccessToken("secret").setTokenVersion("v1").build());
    to.onCompleted();
  }

  private static <T> void away(StreamObserver<T> to) {
    to.onError(Status.UNAVAILABLE.withDescription("not now").asException());
  }

  private String shown() {
    vault.getToken(ASKED);
    return sidecar.callers.get(sidecar.callers.size() - 1);
  }

  @Test
  void aNewCertificateIsShownWhileWhatIsUnderWayEndsOnTheOldConnection() throws Exception {
    var watches = new AtomicInteger();
    var held = new CompletableFuture<StreamObserver<WatchDelegationResponse>>();
    sidecar.watch =
        to -> {
          watches.incrementAndGet();
          held.complete(to);
        };
    var outcome = CompletableFuture.supplyAsync(() -> vault.watchDelegation("d-1"));
    held.get(20, TimeUnit.SECONDS);
    assertEquals("bot", shown());
    ScriptedSidecar.show("bot-2", folder);
    Instant end = Instant.now().plusSeconds(30);
    while (!shown().equals("bot-2")) {
      assertTrue(Instant.now().isBefore(end), "still the old certificate");
      Thread.sleep(50);
    }
    var done = DelegationStatus.DELEGATION_STATUS_COMPLETED;
    held.get().onNext(WatchDelegationResponse.newBuilder().setStatus(done).build());
    held.get().onCompleted();
    outcome.get(20, TimeUnit.SECONDS); // and was not taken up again
    assertEquals(1, watches.get());
  }

  @Test
  void filesThatAreHalfWrittenChangeNothing() throws Exception {
    assertEquals("bot", shown());
    Path key = folder.resolve("own.key");
    Files.write(key, new byte[] {}); // then nothing, half of it, and another's
    for (byte[] content : new byte[][] {half("bot.key"), Files.readAllBytes(ScriptedSidecar.from("bot-2.key"))}) {
      Thread.sleep(1100); // past the next look
      assertEquals("bot", shown());
      Files.write(key, content);
    }
    Files.write(folder.resolve("ca.pem"), half("ca.pem"));
    Thread.sleep(1100);
    assertEquals("bot", shown());
    Files.copy(ScriptedSidecar.from("ca.pem"), folder.resolve("new"));
    Files.move(folder.resolve("new"), folder.resolve("ca.pem"), StandardCopyOption.REPLACE_EXISTING);
    ScriptedSidecar.show("bot-2", folder);
    Thread.sleep(1100);
    assertEquals("bot-2", shown());
  }

  private static byte[] half(String name) throws Exception {
    byte[] whole = Files.readAllBytes(ScriptedSidecar.from(name));
    return Arrays.copyOf(whole, whole.length / 2);
  }

  @Test
  void unavailableIsRepeatedFourTimesInAll() {
    sidecar.get = ConnectionsTest::away;
    assertThrows(TokenVaultException.Unavailable.class, () -> vault.getToken(ASKED));
    assertEquals(4, sidecar.callers.size());
  }

  @Test
  void whereTheSidecarForbidsItNothingIsRepeated() {
    var trailers = new Metadata();
    trailers.put(Metadata.Key.of("grpc-retry-pushback-ms", Metadata.ASCII_STRING_MARSHALLER), "-1");
    sidecar.get = to -> to.onError(Status.UNAVAILABLE.asException(trailers));
    assertThrows(TokenVaultException.Unavailable.class, () -> vault.getToken(ASKED));
    assertEquals(1, sidecar.callers.size());
  }

  @Test
  void aDelegationIsSentOnce() {
    sidecar.start = ConnectionsTest::away;
    var asked = Delegation.of("acme", Context.consumer("alice"));
    assertThrows(TokenVaultException.Unavailable.class, () -> vault.startDelegation(asked));
    assertEquals(1, sidecar.callers.size());
  }

  @Test
  void deadlines() {
    vault.getToken(ASKED);
    assertTrue(sidecar.deadline > 5 && sidecar.deadline <= 10, () -> sidecar.deadline + " s");
    vault.within(Duration.ofSeconds(100)).getToken(ASKED);
    assertTrue(sidecar.deadline > 60 && sidecar.deadline <= 100, () -> sidecar.deadline + " s");
    sidecar.get = to -> {};
    var hurried = vault.within(Duration.ofMillis(200));
    assertThrows(TokenVaultException.DeadlineExceeded.class, () -> hurried.getToken(ASKED));
  }

  @Test
  void aFileThatIsMissingOrBrokenIsNamedAtOnce() throws Exception {
    Files.write(config.privateKey(), Files.readAllBytes(ScriptedSidecar.from("bot-2.key")));
    var pair = assertThrows(IllegalArgumentException.class, () -> new TokenVaultClient(config));
    assertTrue(pair.getMessage().contains("own.key"), pair.getMessage());
    Files.write(config.ca(), Files.readAllBytes(config.privateKey()));
    var kind = assertThrows(IllegalArgumentException.class, () -> new TokenVaultClient(config));
    assertTrue(kind.getMessage().contains("ca.pem"), kind.getMessage());
    Files.delete(config.ca());
    var none = assertThrows(UncheckedIOException.class, () -> new TokenVaultClient(config));
    assertTrue(none.getMessage().contains("ca.pem"), none.getMessage());
  }

  @Test
  void whatIsMissingInTheEnvironmentIsNamed() {
    var told =
        assertThrows(
            IllegalStateException.class,
            () -> Config.from(Map.of("TOKENVAULT_ADDRESS", "127.0.0.1:1", "TOKENVAULT_CA", "ca", "TOKENVAULT_KEY", "")));
    assertTrue(told.getMessage().endsWith("TOKENVAULT_CERT, TOKENVAULT_KEY"), told.getMessage());
  }
}
