package tokenvault.client;

import com.google.protobuf.Message;
import io.grpc.MethodDescriptor;
import io.grpc.protobuf.ProtoUtils;
import tokenvault.v1.CompleteDelegationRequest;
import tokenvault.v1.CompleteDelegationResponse;
import tokenvault.v1.ConfirmDelegationRequest;
import tokenvault.v1.ConfirmDelegationResponse;
import tokenvault.v1.GetTokenRequest;
import tokenvault.v1.GetTokenResponse;
import tokenvault.v1.InvalidateRequest;
import tokenvault.v1.InvalidateResponse;
import tokenvault.v1.StartDelegationRequest;
import tokenvault.v1.StartDelegationResponse;
import tokenvault.v1.WatchDelegationRequest;
import tokenvault.v1.WatchDelegationResponse;

/** The service's six calls: so few that no code generator of gRPC's, a program for each platform, is needed. */
final class Methods {
  static final MethodDescriptor<StartDelegationRequest, StartDelegationResponse> START_DELEGATION =
      unary(
          "StartDelegation",
          StartDelegationRequest.getDefaultInstance(),
          StartDelegationResponse.getDefaultInstance());
  static final MethodDescriptor<CompleteDelegationRequest, CompleteDelegationResponse> COMPLETE_DELEGATION =
      unary(
          "CompleteDelegation",
          CompleteDelegationRequest.getDefaultInstance(),
          CompleteDelegationResponse.getDefaultInstance());
  static final MethodDescriptor<ConfirmDelegationRequest, ConfirmDelegationResponse> CONFIRM_DELEGATION =
      unary(
          "ConfirmDelegation",
          ConfirmDelegationRequest.getDefaultInstance(),
          ConfirmDelegationResponse.getDefaultInstance());
  static final MethodDescriptor<WatchDelegationRequest, WatchDelegationResponse> WATCH_DELEGATION =
      method(
          MethodDescriptor.MethodType.SERVER_STREAMING,
          "WatchDelegation",
          WatchDelegationRequest.getDefaultInstance(),
          WatchDelegationResponse.getDefaultInstance());
  static final MethodDescriptor<GetTokenRequest, GetTokenResponse> GET_TOKEN =
      unary("GetToken", GetTokenRequest.getDefaultInstance(), GetTokenResponse.getDefaultInstance());
  static final MethodDescriptor<InvalidateRequest, InvalidateResponse> INVALIDATE =
      unary("Invalidate", InvalidateRequest.getDefaultInstance(), InvalidateResponse.getDefaultInstance());

  private Methods() {}

  private static <A extends Message, B extends Message> MethodDescriptor<A, B> unary(
      String name, A request, B response) {
    return method(MethodDescriptor.MethodType.UNARY, name, request, response);
  }

  private static <A extends Message, B extends Message> MethodDescriptor<A, B> method(
      MethodDescriptor.MethodType type, String name, A request, B response) {
    return MethodDescriptor.<A, B>newBuilder()
        .setType(type)
        .setFullMethodName(MethodDescriptor.generateFullMethodName("tokenvault.v1.TokenVault", name))
        .setRequestMarshaller(ProtoUtils.marshaller(request))
        .setResponseMarshaller(ProtoUtils.marshaller(response))
        .build();
  }
}
