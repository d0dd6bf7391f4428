// A connection without a peer. Thread-safety: all methods.
#ifndef KVLINK_TESTS_STORE_CLIENT_SILENT_CONNECTION_H_
#define KVLINK_TESTS_STORE_CLIENT_SILENT_CONNECTION_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "transport/transport.h"

namespace kvlink::testing {

// Accepts messages and sends none.
class SilentConnection : public transport::Connection {
 public:
  absl::Status SendMessage(absl::string_view) override { return absl::OkStatus(); }
  void PostReceive(uint64_t, transport::Slice, absl::Time, transport::Received) override {}
  void Send(uint64_t, transport::Slice, absl::Time, transport::Sent) override {}
  void CancelReceive(uint64_t) override {}
  void CancelSend(uint64_t) override {}
  void Close() override {}
  std::string peer() const override { return "nobody"; }
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLIENT_SILENT_CONNECTION_H_
