// A network on which single nodes can be frozen: their messages are held back, or no connection reaches them.
//
// Thread-safety: all methods. Lifetime: as ForwardingTransport; thaw and open all before destruction.
#ifndef KVLINK_TESTS_STORE_CLIENT_FREEZER_H_
#define KVLINK_TESTS_STORE_CLIENT_FREEZER_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "tests/store/client/forwarding_transport.h"

namespace kvlink::testing {

class Freezer : public ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;

  // Holds back messages of the node at `address` after the next `messages`.
  void Freeze(const std::string& address, int messages = 0) {
    MutexLock lock(&mutex_);
    nodes_[address].frozen = true;
    nodes_[address].messages = messages;
  }
  // Delivers them.
  void Thaw(const std::string& address) {
    MutexLock lock(&mutex_);
    Node& node = nodes_[address];
    node.frozen = false;
    for (const auto& [events, message] : node.kept) events->OnMessage(message);
    node.kept.clear();
  }
  // Loses them, and closes the connections.
  void Cut(const std::string& address) {
    MutexLock lock(&mutex_);
    Node& node = nodes_[address];
    node.frozen = false;
    node.kept.clear();
    for (const auto& weak : node.connections) {
      if (const auto connection = weak.lock()) connection->Close();
    }
    node.connections.clear();
  }
  // Currently open connections.
  int64_t open() const { return open_.load(); }
  // Connecting waits until Open.
  void Shut(const std::string& address) {
    MutexLock lock(&mutex_);
    nodes_[address].shut = true;
  }
  void Open(const std::string& address) {
    MutexLock lock(&mutex_);
    nodes_[address].shut = false;
    opened_.SignalAll();
  }
  absl::StatusOr<std::shared_ptr<transport::Connection>> ConnectAs(absl::string_view caller, absl::string_view address,
                                                                   std::shared_ptr<transport::ConnectionEvents> events,
                                                                   absl::Time deadline) override {
    const std::string name(address);
    {
      MutexLock lock(&mutex_);
      while (nodes_[name].shut) {
        if (!opened_.WaitUntil(&mutex_, deadline)) return absl::DeadlineExceededError("shut");
      }
    }
    auto inner =
        ForwardingTransport::ConnectAs(caller, address, std::make_shared<Events>(this, name, events), deadline);
    if (!inner.ok()) return inner.status();
    ++open_;
    MutexLock lock(&mutex_);
    nodes_[name].connections.push_back(*inner);
    return inner;
  }

 private:
  class Events : public transport::ConnectionEvents {
   public:
    Events(Freezer* freezer, std::string address, std::shared_ptr<transport::ConnectionEvents> inner)
        : freezer_(freezer), address_(std::move(address)), inner_(std::move(inner)) {}
    void OnMessage(absl::string_view message) override {
      if (!freezer_->Keep(address_, inner_, message)) inner_->OnMessage(message);
    }
    void OnClosed(const absl::Status& why) override {
      inner_->OnClosed(why);
      --freezer_->open_;
    }

   private:
    Freezer* const freezer_;
    const std::string address_;
    const std::shared_ptr<transport::ConnectionEvents> inner_;
  };
  struct Node {
    bool frozen = false, shut = false;
    int messages = 0;
    std::vector<std::pair<std::shared_ptr<transport::ConnectionEvents>, std::string>> kept;
    std::vector<std::weak_ptr<transport::Connection>> connections;
  };

  bool Keep(const std::string& address, const std::shared_ptr<transport::ConnectionEvents>& events,
            absl::string_view message) {
    MutexLock lock(&mutex_);
    Node& node = nodes_[address];
    if (!node.frozen || node.messages-- > 0) return false;
    node.kept.emplace_back(events, std::string(message));
    return true;
  }

  std::atomic<int64_t> open_{0};
  Mutex mutex_;
  CondVar opened_;
  std::map<std::string, Node> nodes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLIENT_FREEZER_H_
