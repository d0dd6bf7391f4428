// One table for both APIs. The clients of both repeat a request after 408, 409, 429 and 5xx, so what would fail again
// is told as another 4xx.
#include "worker/serve/api/errors.h"

#include <optional>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "worker/serve/api/json.h"

namespace kvlink::serve {
namespace {

constexpr char kParameter[] = "kvlink/parameter";
constexpr char kTooLarge[] = "kvlink/too-large";
constexpr char kCause[] = "kvlink/cause";

constexpr ErrorKind kInvalid = {400, "invalid_request_error", "", "invalid_request_error", 400};
constexpr ErrorKind kUnauthenticated = {401, "invalid_request_error", "invalid_api_key", "authentication_error", 401};
constexpr ErrorKind kDenied = {403, "invalid_request_error", "insufficient_permissions", "permission_error", 403};
constexpr ErrorKind kNotFound = {404, "invalid_request_error", "not_found", "not_found_error", 404};
constexpr ErrorKind kModelNotFound = {404, "invalid_request_error", "model_not_found", "not_found_error", 404};
constexpr ErrorKind kPayload = {413, "invalid_request_error", "request_too_large", "request_too_large", 413};
constexpr ErrorKind kBusy = {429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error", 429};
constexpr ErrorKind kInternal = {500, "server_error", "", "api_error", 500};
constexpr ErrorKind kOverloaded = {503, "server_error", "service_unavailable", "overloaded_error", 529};
constexpr ErrorKind kTimeout = {504, "server_error", "timeout", "timeout_error", 504};

std::string PayloadOf(const absl::Status& status, absl::string_view name) {
  const absl::optional<absl::Cord> payload = status.GetPayload(name);
  return payload.has_value() ? std::string(*payload) : "";
}

}  // namespace

absl::Status ParameterError(absl::string_view parameter, absl::string_view what) {
  if (parameter.empty()) return absl::InvalidArgumentError(absl::StrCat("the body ", what));
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(parameter, ": ", what));
  status.SetPayload(kParameter, absl::Cord(parameter));
  return status;
}

absl::Status TooLargeError(absl::string_view what) {
  absl::Status status = absl::InvalidArgumentError(what);
  status.SetPayload(kTooLarge, absl::Cord());
  return status;
}

absl::Status UnknownModelError(absl::string_view model) {
  absl::Status status = absl::NotFoundError(
      absl::StrCat("model: there is no ", Quoted(model), " here; GET /v1/models lists what there is"));
  status.SetPayload(kParameter, absl::Cord("model"));
  return status;
}

absl::Status WithCause(absl::Status told, const absl::Status& cause) {
  told.SetPayload(kCause, absl::Cord(absl::StrCat(absl::StatusCodeToString(cause.code()), ": ", cause.message())));
  return told;
}

std::string CauseOf(const absl::Status& status) { return PayloadOf(status, kCause); }
std::string ParameterOf(const absl::Status& status) { return PayloadOf(status, kParameter); }

ErrorKind KindOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return status.GetPayload(kTooLarge).has_value() ? kPayload : kInvalid;
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
      return kInvalid;
    case absl::StatusCode::kUnauthenticated:
      return kUnauthenticated;
    case absl::StatusCode::kPermissionDenied:
      return kDenied;
    case absl::StatusCode::kNotFound:
      return ParameterOf(status) == "model" ? kModelNotFound : kNotFound;
    case absl::StatusCode::kResourceExhausted:
      return kBusy;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:  // seen by a client only if the server ends its work
      return kOverloaded;
    case absl::StatusCode::kDeadlineExceeded:
      return kTimeout;
    default:
      return kInternal;
  }
}

}  // namespace kvlink::serve
