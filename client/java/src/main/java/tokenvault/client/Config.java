package tokenvault.client;

import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * How the sidecar is reached. The files are PEM; where one changes, later calls use a new connection with what is in
 * them.
 *
 * @param address "host:port", "dns:host:port" or "unix:/path"
 * @param ca the file of the authority that issued the sidecar's certificate
 * @param certificate this caller's
 * @param privateKey that certificate's, PKCS #8
 * @param serverName the name in the sidecar's certificate; null: the address's host, "localhost" on a unix socket
 * @param timeout of each call; null: 10 s, and 30 s for completeDelegation
 */
public record Config(
    String address, Path ca, Path certificate, Path privateKey, String serverName, Duration timeout) {

  /** With the default name and timeouts. */
  public static Config of(String address, Path ca, Path certificate, Path privateKey) {
    return new Config(address, ca, certificate, privateKey, null, null);
  }

  /**
   * By TOKENVAULT_ADDRESS, TOKENVAULT_CA, TOKENVAULT_CERT and TOKENVAULT_KEY.
   *
   * @throws IllegalStateException naming each that is not set
   */
  public static Config fromEnvironment() {
    return from(System.getenv());
  }

  static Config from(Map<String, String> environment) {
    List<String> values = new ArrayList<>();
    List<String> missing = new ArrayList<>();
    for (String name : List.of("ADDRESS", "CA", "CERT", "KEY")) {
      String value = environment.getOrDefault("TOKENVAULT_" + name, "");
      (value.isEmpty() ? missing : values).add(value.isEmpty() ? "TOKENVAULT_" + name : value);
    }
    if (!missing.isEmpty()) {
      throw new IllegalStateException("not set in the environment: " + String.join(", ", missing));
    }
    return of(values.get(0), Path.of(values.get(1)), Path.of(values.get(2)), Path.of(values.get(3)));
  }
}
