package tokenvault.client;

import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;

/** The three files: read, and found in order, or the one at fault is named. */
final class Pem {
  private Pem() {}

  /**
   * What the channel shows, and whom it trusts.
   *
   * @throws IOException naming the file that cannot be read
   * @throws IllegalArgumentException naming the file that is not PEM, or is half-written, or the two that are no pair
   */
  static ChannelCredentials credentials(Config config) throws IOException {
    byte[] ca = read(config.ca(), "CERTIFICATE");
    byte[] own = read(config.certificate(), "CERTIFICATE");
    byte[] key = read(config.privateKey(), "PRIVATE KEY");
    first(config.ca(), ca);
    if (!fit(first(config.certificate(), own), key)) {
      throw new IllegalArgumentException(config.certificate() + ", " + config.privateKey() + ": not a pair, or broken");
    }
    return TlsChannelCredentials.newBuilder()
        .trustManager(new ByteArrayInputStream(ca))
        .keyManager(new ByteArrayInputStream(own), new ByteArrayInputStream(key))
        .build();
  }

  private static byte[] read(Path file, String label) throws IOException {
    byte[] content = Files.readAllBytes(file);
    if (!new String(content, StandardCharsets.ISO_8859_1).contains(label + "-----")) {
      throw new IllegalArgumentException(file + ": holds no PEM " + label);
    }
    return content;
  }

  private static Certificate first(Path file, byte[] content) {
    try {
      return CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(content));
    } catch (GeneralSecurityException broken) {
      throw new IllegalArgumentException(file + ": holds no whole certificate");
    }
  }

  /** Whether what the key signs is the certificate's: TLS itself would find out only when it connects. */
  private static boolean fit(Certificate certificate, byte[] pem) {
    try {
      String encoded = new String(pem, StandardCharsets.ISO_8859_1).replaceAll("-----[^-]+-----", "");
      String kind = certificate.getPublicKey().getAlgorithm();
      var specification = new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(encoded));
      PrivateKey key = KeyFactory.getInstance(kind).generatePrivate(specification);
      Signature signature =
          Signature.getInstance(kind.equals("EC") ? "SHA256withECDSA" : kind.equals("RSA") ? "SHA256withRSA" : kind);
      signature.initSign(key);
      signature.update(pem);
      byte[] signed = signature.sign();
      signature.initVerify(certificate.getPublicKey());
      signature.update(pem);
      return signature.verify(signed);
    } catch (GeneralSecurityException | IllegalArgumentException broken) {
      return false;
    }
  }
}
