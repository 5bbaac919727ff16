cp -r proto "$1" && sed -i 's/ \[debug_redact = true\]//' "$1"/proto/*/*/*.proto && # protoc before 22 does not know it
protoc -I "$1/proto" --cpp_out="$1" --grpc_out="$1" --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" \
  "$1"/proto/tokenvault/v1/*.proto &&
g++ -std=c++17 -I "$1" client/examples/cpp/bot.cc "$1"/tokenvault/v1/*.cc -o "$1/bot" \
  $(pkg-config --cflags --libs grpc++ protobuf)
