package tokenvault.client;

import com.google.protobuf.Timestamp;
import io.grpc.CallOptions;
import io.grpc.MethodDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import tokenvault.v1.CompleteDelegationRequest;
import tokenvault.v1.CompleteDelegationResponse;
import tokenvault.v1.ConfirmDelegationRequest;
import tokenvault.v1.GetTokenRequest;
import tokenvault.v1.InvalidateRequest;
import tokenvault.v1.StartDelegationRequest;

/**
 * Calls a sidecar. One serves a whole program, and all its threads. A failed call throws a {@link
 * TokenVaultException}.
 */
public final class TokenVaultClient implements AutoCloseable {
  private static final Duration CALL = Duration.ofSeconds(10);
  private static final Duration COMPLETE = Duration.ofSeconds(30); // the code is exchanged

  private static final Duration WATCH = Duration.ofDays(1); // the sidecar ends it when the link does

  private final Config config;
  private final Connections connections;

  /**
   * The files are read now, so that a wrong one is told at once; the connection is made at the first call.
   *
   * @throws java.io.UncheckedIOException naming the file that cannot be read
   * @throws IllegalArgumentException naming the file that is not PEM or broken, or the address
   */
  public TokenVaultClient(Config config) {
    this(config, new Connections(config));
  }

  private TokenVaultClient(Config config, Connections connections) {
    this.config = config;
    this.connections = connections;
  }

  /** By the TOKENVAULT_* variables. */
  public static TokenVaultClient fromEnvironment() {
    return new TokenVaultClient(Config.fromEnvironment());
  }

  /** The same client with another deadline, for some calls: over the same connection, which either of them closes. */
  public TokenVaultClient within(Duration timeout) {
    var other =
        new Config(
            config.address(), config.ca(), config.certificate(), config.privateKey(), config.serverName(), timeout);
    return new TokenVaultClient(other, connections);
  }

  /** Makes the challenge that asks a consumer for access. */
  public Challenge startDelegation(Delegation asked) {
    var request =
        StartDelegationRequest.newBuilder()
            .setBrandId(asked.brand())
            .setContext(asked.context().wire)
            .addAllScopes(asked.scopes())
            .setRedirectUri(asked.redirectUri())
            .setExpectedSubject(asked.expectedSubject())
            .putAllAuthorizationParameters(asked.authorizationParameters())
            .build();
    var answer = call(Methods.START_DELEGATION, request, CALL);
    return new Challenge(
        answer.getDelegationId(), answer.getAuthorizationUrl(), instant(answer.getExpireTime()));
  }

  /** Takes the query that arrived at the redirect URI, decoded. Not to be repeated once answered. */
  public Delegated completeDelegation(Map<String, String> query) {
    var request =
        CompleteDelegationRequest.newBuilder()
            .setState(query.getOrDefault("state", ""))
            .setCode(query.getOrDefault("code", ""))
            .setIss(query.getOrDefault("iss", ""))
            .setError(query.getOrDefault("error", ""))
            .setErrorDescription(query.getOrDefault("error_description", ""))
            .build();
    var answer = call(Methods.COMPLETE_DELEGATION, request, COMPLETE);
    return delegated(answer);
  }

  /**
   * Unlocks a delegation with the code that its consumer was shown, as they typed it. Safe to repeat.
   *
   * @throws TokenVaultException.ConfirmationCodeWrong where it is another, with how many more may be tried
   */
  public Delegated confirmDelegation(String delegationId, String code) {
    var request =
        ConfirmDelegationRequest.newBuilder().setDelegationId(delegationId).setConfirmationCode(code).build();
    return delegated(call(Methods.CONFIRM_DELEGATION, request, CALL).getDelegated());
  }

  /** As {@link #watchDelegation(String, Duration)}, for as long as the link works. */
  public Delegated watchDelegation(String delegationId) {
    return watchDelegation(delegationId, WATCH);
  }

  /**
   * Waits for what becomes of a delegation, whoever completes it. A connection that breaks meanwhile is made anew.
   *
   * @throws TokenVaultException.DelegationFailed where it came to nothing: "AUTHORIZATION_DENIED" where the consumer
   *     declined, DelegationExpired where they did not come back in time
   * @throws TokenVaultException.ConfirmationRequired as soon as they have logged in and were shown a code
   */
  public Delegated watchDelegation(String delegationId, Duration timeout) {
    return new Watch(connections, config.address(), delegationId, timeout).outcome();
  }

  /** Gives a valid access token. Safe to repeat. */
  public Token getToken(TokenRequest asked) {
    var request =
        GetTokenRequest.newBuilder()
            .setBrandId(asked.brand())
            .setContext(asked.context().wire)
            .addAllScopes(asked.scopes())
            .setRejectedTokenVersion(asked.rejectedTokenVersion())
            .setIncludeIdToken(asked.includeIdToken());
    if (asked.challenge() != null) {
      request
          .getChallengeBuilder()
          .addAllScopes(asked.challenge().scopes())
          .setRedirectUri(asked.challenge().redirectUri());
    }
    request.getMinTtlBuilder().setSeconds(asked.minTtl().getSeconds()).setNanos(asked.minTtl().getNano());
    var answer = call(Methods.GET_TOKEN, request.build(), CALL);
    return new Token(
        answer.getAccessToken(),
        answer.getTokenType(),
        answer.hasExpireTime() ? instant(answer.getExpireTime()) : null,
        answer.getScopesList(),
        answer.getTokenVersion(),
        answer.getIdToken().isEmpty() ? null : answer.getIdToken(),
        answer.getDegraded());
  }

  /**
   * Forgets a context: its tokens are deleted when this returns. Safe to repeat.
   *
   * @return what becomes of them at the authorization server: NOT_FOUND, QUEUED or NOT_SUPPORTED
   */
  public String invalidate(String brand, Context context) {
    var request = InvalidateRequest.newBuilder().setBrandId(brand).setContext(context.wire).build();
    var answer = call(Methods.INVALIDATE, request, CALL);
    return answer.getRevocation().name().replaceFirst("^REVOCATION_", "");
  }

  /** A source of one context's tokens, of these scopes if any. Keep it: the token is in it. */
  public TokenSource tokenSource(String brand, Context context, String... scopes) {
    return new TokenSource(this::getToken, TokenRequest.of(brand, context, scopes));
  }

  /** Closes the connection. Calls under way fail. */
  @Override
  public void close() {
    connections.close();
  }

  private <A, B> B call(MethodDescriptor<A, B> method, A request, Duration usual) {
    Duration timeout = Objects.requireNonNullElse(config.timeout(), usual);
    var options = CallOptions.DEFAULT.withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS);
    try {
      return ClientCalls.blockingUnaryCall(connections.channel(), method, options, request);
    } catch (StatusRuntimeException failure) {
      throw Failures.of(failure, config.address());
    }
  }

  static Delegated delegated(CompleteDelegationResponse answer) {
    return new Delegated(
        answer.getBrandId(),
        Context.of(answer.getContext()),
        answer.getGrantedScopesList(),
        answer.getSubject(),
        answer.hasAccessTokenExpireTime() ? instant(answer.getAccessTokenExpireTime()) : null,
        answer.hasSessionExpireTime() ? instant(answer.getSessionExpireTime()) : null,
        answer.hasConfirmation()
            ? new Confirmation(answer.getConfirmation().getCode(), instant(answer.getConfirmation().getExpireTime()))
            : null);
  }

  static Instant instant(Timestamp time) {
    return Instant.ofEpochSecond(time.getSeconds(), time.getNanos());
  }
}
