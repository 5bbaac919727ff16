#include <fstream>
#include <iostream>
#include <grpcpp/grpcpp.h>
#include "tokenvault/v1/token_vault.grpc.pb.h"

std::string file(const char* variable) {
  return {std::istreambuf_iterator<char>(std::ifstream(std::getenv(variable)).rdbuf()), {}};
}

int main(int, char** arguments) {
  auto mtls = grpc::SslCredentials({file("TOKENVAULT_CA"), file("TOKENVAULT_KEY"), file("TOKENVAULT_CERT")});
  grpc::ChannelArguments direct;
  direct.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // https_proxy is meant for the way out
  tokenvault::v1::TokenVault::Stub vault(grpc::CreateCustomChannel(std::getenv("TOKENVAULT_ADDRESS"), mtls, direct));
  grpc::ClientContext call;
  call.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  tokenvault::v1::StartDelegationRequest request;
  request.set_brand_id(arguments[1]);
  request.mutable_context()->mutable_conversation()->set_conversation_id(arguments[2]);
  tokenvault::v1::StartDelegationResponse delegation;
  auto status = vault.StartDelegation(&call, request, &delegation);
  std::cout << (status.ok() ? delegation.authorization_url() : status.error_message()) << std::endl;
  return status.error_code();
}
