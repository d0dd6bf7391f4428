// Statuses cross gRPC as code and message; absl's payloads are dropped.
#include "transport/grpc/status.h"

#include <string>

#include "absl/strings/string_view.h"

namespace kvlink::transport {

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const absl::string_view message = status.message();
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(message.data(), message.size()));
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace kvlink::transport
