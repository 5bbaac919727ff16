package tokenvault.client;

import com.google.gson.Gson;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.TimeUnit;

/** Gives the channel to call by: a new one where the files have changed, the old one ends with its last call. */
final class Connections implements AutoCloseable {
  private static final long LOOK_EVERY = TimeUnit.SECONDS.toNanos(1);
  private static final long RECONNECT_EVERY = TimeUnit.MILLISECONDS.toNanos(100);
  private static final String SERVICE_CONFIG = "/tokenvault/v1/token_vault_grpc_service_config.json";

  private final Config config;
  private ManagedChannel current;
  private List<Object> stamps;
  private long lookedAt = System.nanoTime();
  private long retriedAt = System.nanoTime() - RECONNECT_EVERY;
  private EpollEventLoopGroup loops; // for unix sockets

  Connections(Config config) {
    this.config = config;
    stamps = stampsNow();
    try {
      current = open();
    } catch (IOException problem) {
      throw new UncheckedIOException(problem);
    }
  }

  synchronized ManagedChannel channel() {
    long now = System.nanoTime();
    if (now - lookedAt >= LOOK_EVERY && !current.isShutdown()) {
      lookedAt = now;
      List<Object> found = stampsNow();
      if (!found.equals(stamps)) {
        try {
          ManagedChannel fresh = open();
          current.shutdown(); // calls under way end on it
          current = fresh;
          stamps = found;
        } catch (IOException | IllegalArgumentException halfWritten) {
          return current; // looked at again in a second
        }
      }
    }
    // gRPC for Java waits up to two minutes by itself: find out fast that a sidecar is back after a restart
    if (current.getState(false) == ConnectivityState.TRANSIENT_FAILURE && now - retriedAt >= RECONNECT_EVERY) {
      retriedAt = now;
      current.resetConnectBackoff();
    }
    return current;
  }

  @Override
  public synchronized void close() {
    current.shutdownNow();
    if (loops != null) {
      loops.shutdownGracefully(0, 1, TimeUnit.SECONDS);
    }
  }

  private ManagedChannel open() throws IOException {
    var credentials = Pem.credentials(config);
    NettyChannelBuilder builder;
    String name = config.serverName();
    if (config.address().startsWith("unix:")) {
      loops = loops == null ? new EpollEventLoopGroup(1) : loops;
      var socket = new DomainSocketAddress(config.address().substring("unix:".length()));
      builder =
          NettyChannelBuilder.forAddress(socket, credentials)
              .eventLoopGroup(loops)
              .channelType(EpollDomainSocketChannel.class, DomainSocketAddress.class);
      name = Objects.requireNonNullElse(name, "localhost"); // a path is no name that a certificate could carry
    } else if (config.address().contains(":")) {
      String target = config.address().replaceFirst("^dns:(?!//)", "dns:///");
      builder = NettyChannelBuilder.forTarget(target, credentials);
    } else {
      throw new IllegalArgumentException(
          "address " + config.address() + ": write host:port, dns:host:port or unix:/path");
    }
    if (name != null) {
      builder.overrideAuthority(name);
    }
    return builder
        .defaultServiceConfig(serviceConfig())
        .disableServiceConfigLookUp() // none from DNS
        .enableRetry()
        // https_proxy is meant for the way out, not for the way to the sidecar
        .proxyDetector(address -> null)
        // a dead peer is noticed during a call; idle connections stay silent, as servers want it
        .keepAliveTime(20, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        .keepAliveWithoutCalls(false)
        .build();
  }

  @SuppressWarnings("unchecked")
  private static Map<String, ?> serviceConfig() throws IOException {
    try (var stream = Connections.class.getResourceAsStream(SERVICE_CONFIG)) {
      var reader = new InputStreamReader(Objects.requireNonNull(stream), StandardCharsets.UTF_8);
      return (Map<String, ?>) new Gson().fromJson(reader, Map.class);
    }
  }

  private List<Object> stampsNow() {
    List<Object> found = new ArrayList<>();
    for (Path file : List.of(config.ca(), config.certificate(), config.privateKey())) {
      try {
        var attributes = Files.readAttributes(file, BasicFileAttributes.class);
        found.addAll(Arrays.asList(attributes.lastModifiedTime(), attributes.size(), attributes.fileKey()));
      } catch (IOException missing) {
        found.add("missing");
      }
    }
    return found;
  }
}
