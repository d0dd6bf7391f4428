// A transport and a connection that forward everything to another one; tests derive from them and change one thing.
// Thread-safety and lifetime: as the inner one, which they share.
#ifndef KVLINK_TESTS_STORE_CLIENT_FORWARDING_TRANSPORT_H_
#define KVLINK_TESTS_STORE_CLIENT_FORWARDING_TRANSPORT_H_

#include <memory>
#include <string>
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

class ForwardingConnection : public transport::Connection {
 public:
  explicit ForwardingConnection(std::shared_ptr<transport::Connection> inner) : inner_(std::move(inner)) {}
  absl::Status SendMessage(absl::string_view message) override { return inner_->SendMessage(message); }
  void PostReceive(uint64_t id, transport::Slice into, absl::Time deadline, transport::Received done) override {
    inner_->PostReceive(id, std::move(into), deadline, std::move(done));
  }
  void Send(uint64_t id, transport::Slice from, absl::Time deadline, transport::Sent done) override {
    inner_->Send(id, std::move(from), deadline, std::move(done));
  }
  void CancelReceive(uint64_t id) override { inner_->CancelReceive(id); }
  void CancelSend(uint64_t id) override { inner_->CancelSend(id); }
  void Close() override { inner_->Close(); }
  std::string peer() const override { return inner_->peer(); }

 private:
  const std::shared_ptr<transport::Connection> inner_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLIENT_FORWARDING_TRANSPORT_H_
