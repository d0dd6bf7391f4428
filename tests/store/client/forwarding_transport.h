// A transport that passes everything on to another one: what tests derive theirs from that differ in one thing.
// Thread-safety and lifetime: as the inner one, which it shares.
#ifndef KVLINK_TESTS_STORE_CLIENT_FORWARDING_TRANSPORT_H_
#define KVLINK_TESTS_STORE_CLIENT_FORWARDING_TRANSPORT_H_

#include <memory>
#include <utility>

#include "transport/transport.h"

namespace kvlink::testing {

class ForwardingTransport : public transport::Transport {
 public:
  explicit ForwardingTransport(std::shared_ptr<transport::Transport> inner) : inner_(std::move(inner)) {}
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> Allocate(int64_t bytes) override {
    return inner_->Allocate(bytes);
  }
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> Register(std::byte* data, int64_t bytes,
                                                                        const transport::MemoryPlace& place,
                                                                        std::shared_ptr<void> owner) override {
    return inner_->Register(data, bytes, place, std::move(owner));
  }
  absl::StatusOr<std::unique_ptr<transport::Listener>> Listen(absl::string_view address,
                                                              transport::Accept accept) override {
    return inner_->Listen(address, std::move(accept));
  }
  absl::StatusOr<std::shared_ptr<transport::Connection>> Connect(absl::string_view address,
                                                                 std::shared_ptr<transport::ConnectionEvents> events,
                                                                 absl::Time deadline) override {
    return ConnectAs("", address, std::move(events), deadline);
  }
  absl::StatusOr<std::shared_ptr<transport::Connection>> ConnectAs(absl::string_view caller, absl::string_view address,
                                                                   std::shared_ptr<transport::ConnectionEvents> events,
                                                                   absl::Time deadline) override {
    return inner_->ConnectAs(caller, address, std::move(events), deadline);
  }
  transport::TransportStats Stats() const override { return inner_->Stats(); }

 private:
  const std::shared_ptr<transport::Transport> inner_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLIENT_FORWARDING_TRANSPORT_H_
