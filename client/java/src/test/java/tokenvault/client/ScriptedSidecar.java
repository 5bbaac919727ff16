package tokenvault.client;

import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.ServerServiceDefinition;
import io.grpc.TlsServerCredentials;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import javax.net.ssl.SSLPeerUnverifiedException;
import tokenvault.v1.GetTokenResponse;
import tokenvault.v1.StartDelegationResponse;
import tokenvault.v1.WatchDelegationResponse;

/** A sidecar over mutual TLS that answers what a test says. TOKENVAULT_TEST_FILES: where ca, server, bot and bot-2 are. */
final class ScriptedSidecar implements AutoCloseable {
  static final String FILES = "TOKENVAULT_TEST_FILES";

  /** Who called, by the certificate's name. */
  final List<String> callers = new CopyOnWriteArrayList<>();

  volatile Consumer<StreamObserver<GetTokenResponse>> get;
  volatile Consumer<StreamObserver<StartDelegationResponse>> start;
  volatile Consumer<StreamObserver<WatchDelegationResponse>> watch;
  volatile long deadline;
  private final Server server;

  ScriptedSidecar() throws IOException {
    var credentials =
        TlsServerCredentials.newBuilder()
            .keyManager(from("server.pem").toFile(), from("server.key").toFile())
            .trustManager(from("ca.pem").toFile())
            .clientAuth(TlsServerCredentials.ClientAuth.REQUIRE)
            .build();
    server =
        Grpc.newServerBuilderForPort(0, credentials)
            .addService(
                ServerServiceDefinition.builder("tokenvault.v1.TokenVault")
                    .addMethod(Methods.GET_TOKEN, ServerCalls.asyncUnaryCall((asked, to) -> get.accept(to)))
                    .addMethod(Methods.START_DELEGATION, ServerCalls.asyncUnaryCall((asked, to) -> start.accept(to)))
                    .addMethod(
                        Methods.WATCH_DELEGATION,
                        ServerCalls.asyncServerStreamingCall((asked, to) -> watch.accept(to)))
                    .build())
            .intercept(new Note())
            .build()
            .start();
  }

  private final class Note implements ServerInterceptor {
    @Override
    public <A, B> ServerCall.Listener<A> interceptCall(
        ServerCall<A, B> call, Metadata headers, ServerCallHandler<A, B> next) {
      try {
        var session = call.getAttributes().get(Grpc.TRANSPORT_ATTR_SSL_SESSION);
        callers.add(session.getPeerPrincipal().getName().replaceFirst(".*CN=([^,]+).*", "$1"));
      } catch (SSLPeerUnverifiedException impossible) {
        throw new IllegalStateException(impossible);
      }
      var until = io.grpc.Context.current().getDeadline();
      deadline = until == null ? 0 : until.timeRemaining(TimeUnit.SECONDS);
      return next.startCall(call, headers);
    }
  }

  static Path from(String name) {
    return Path.of(System.getenv(FILES)).resolve(name);
  }

  /** How a caller with files of its own in this folder reaches it. */
  Config config(Path folder) throws IOException {
    show("bot", folder);
    Files.copy(from("ca.pem"), folder.resolve("ca.pem"), StandardCopyOption.REPLACE_EXISTING);
    String address = "127.0.0.1:" + server.getPort();
    return Config.of(address, folder.resolve("ca.pem"), folder.resolve("own.pem"), folder.resolve("own.key"));
  }

  /** Puts this caller's certificate and key where config has its own. */
  static void show(String name, Path folder) throws IOException {
    for (String kind : List.of(".key", ".pem")) {
      Files.copy(from(name + kind), folder.resolve("own" + kind), StandardCopyOption.REPLACE_EXISTING);
    }
  }

  @Override
  public void close() {
    server.shutdownNow();
  }
}
