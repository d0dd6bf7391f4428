// Macros for absl::Status, the one error channel (the packaged Abseil has none).
#ifndef KVLINK_BASE_STATUS_H_
#define KVLINK_BASE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

#define KVLINK_CONCAT_INNER_(a, b) a##b
#define KVLINK_CONCAT_(a, b) KVLINK_CONCAT_INNER_(a, b)

// Returns the status from the enclosing function unless it is OK.
#define KVLINK_RETURN_IF_ERROR(expression)           \
  do {                                               \
    absl::Status kvlink_status_ = (expression);      \
    if (!kvlink_status_.ok()) return kvlink_status_; \
  } while (false)

// KVLINK_ASSIGN_OR_RETURN(auto x, F()): x = F().value(), or returns the status.
#define KVLINK_ASSIGN_OR_RETURN(lhs, expression) \
  KVLINK_ASSIGN_OR_RETURN_(KVLINK_CONCAT_(kvlink_statusor_, __LINE__), lhs, expression)
#define KVLINK_ASSIGN_OR_RETURN_(statusor, lhs, expression) \
  auto statusor = (expression);                             \
  if (!statusor.ok()) return std::move(statusor).status();  \
  lhs = std::move(statusor).value()

namespace kvlink {

// Prefixes the message with `where`: "<where>: <message>". OK stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view where) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(where, ": ", status.message()));
}

}  // namespace kvlink

#endif  // KVLINK_BASE_STATUS_H_
