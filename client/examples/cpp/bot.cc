#include <fstream>
#include <iostream>
#include <sstream>
#include <grpcpp/grpcpp.h>
#include "tokenvault/v1/token_vault.grpc.pb.h"

std::string file(const char* variable) {
  return (std::ostringstream() << std::ifstream(std::getenv(variable)).rdbuf()).str();
}

int main(int, char** arguments) {
  auto mtls = grpc::SslCredentials({file("TOKENVAULT_CA"), file("TOKENVAULT_KEY"), file("TOKENVAULT_CERT")});
  auto vault = tokenvault::v1::TokenVault::NewStub(grpc::CreateChannel(std::getenv("TOKENVAULT_ADDRESS"), mtls));
  grpc::ClientContext call;
  call.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  tokenvault::v1::StartDelegationRequest request;
  request.set_brand_id(arguments[1]);
  request.mutable_context()->mutable_conversation()->set_conversation_id(arguments[2]);
  tokenvault::v1::StartDelegationResponse delegation;
  auto status = vault->StartDelegation(&call, request, &delegation);
  std::cout << (status.ok() ? delegation.authorization_url() : status.error_message()) << std::endl;
  return status.error_code();
}
