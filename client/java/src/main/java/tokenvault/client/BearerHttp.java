package tokenvault.client;

import java.io.IOException;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/**
 * Sends requests with the bearer header (RFC 6750 section 2.1). Where the API answers 401 the token is reported as
 * rejected, and the request sent once more with another unless its body is of unknown length, as a stream is.
 */
public final class BearerHttp {
  private final HttpClient http;
  private final TokenSource source;

  /** Give a client that follows no redirects to hosts that must not see the token, which is the default. */
  public BearerHttp(HttpClient http, TokenSource source) {
    this.http = http;
    this.source = source;
  }

  /**
   * As {@link HttpClient#send}; throws what {@link TokenSource#token} does, too: ConsentRequired instead of a 401 where
   * that is why.
   */
  public <T> HttpResponse<T> send(HttpRequest request, HttpResponse.BodyHandler<T> handler)
      throws IOException, InterruptedException {
    Token token = source.token();
    HttpResponse<T> answer = http.send(with(token, request), handler);
    if (answer.statusCode() != 401) {
      return answer;
    }
    source.reject(token.tokenVersion());
    if (request.bodyPublisher().map(body -> body.contentLength() < 0).orElse(false)) {
      return answer;
    }
    Token other = source.token();
    return other.tokenVersion().equals(token.tokenVersion()) ? answer : http.send(with(other, request), handler);
  }

  private static HttpRequest with(Token token, HttpRequest request) {
    return HttpRequest.newBuilder(request, (name, value) -> !name.equalsIgnoreCase("Authorization"))
        .header("Authorization", token.authorizationHeader())
        .build();
  }
}
