// Reads of many encodings: asked for together, so that their round trips are one.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "gtest/gtest.h"
#include "proto/data.h"
#include "tests/store/client/forwarding_transport.h"
#include "tests/store/client/remote_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

using store::ReadRequest;
using store::client::RemoteOptions;

// A network on which no message arrives until so many pulls have been asked for.
class Gate : public ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  void CloseUntil(int pulls) {
    MutexLock lock(&mutex_);
    awaited_ = pulls;
  }
  absl::StatusOr<std::shared_ptr<transport::Connection>> ConnectAs(absl::string_view caller, absl::string_view address,
                                                                   std::shared_ptr<transport::ConnectionEvents> events,
                                                                   absl::Time deadline) override {
    auto inner =
        ForwardingTransport::ConnectAs(caller, address, std::make_shared<Events>(this, std::move(events)), deadline);
    if (!inner.ok()) return inner.status();
    return std::make_shared<Side>(this, *std::move(inner));
  }

 private:
  class Events : public transport::ConnectionEvents {
   public:
    Events(Gate* gate, std::shared_ptr<transport::ConnectionEvents> inner) : gate_(gate), inner_(std::move(inner)) {}
    void OnMessage(absl::string_view message) override { gate_->Arrived(inner_, std::string(message)); }
    void OnClosed(const absl::Status& why) override { inner_->OnClosed(why); }

   private:
    Gate* const gate_;
    const std::shared_ptr<transport::ConnectionEvents> inner_;
  };
  class Side : public ForwardingConnection {
   public:
    Side(Gate* gate, std::shared_ptr<transport::Connection> inner)
        : ForwardingConnection(std::move(inner)), gate_(gate) {}
    absl::Status SendMessage(absl::string_view message) override {
      const absl::Status sent = ForwardingConnection::SendMessage(message);
      const auto request = ParseRequest(message);
      if (request.ok() && request->has_pull()) gate_->Asked();
      return sent;
    }

   private:
    Gate* const gate_;
  };

  void Arrived(const std::shared_ptr<transport::ConnectionEvents>& events, std::string message) {
    MutexLock lock(&mutex_);
    waiting_.emplace_back(events, std::move(message));
    if (awaited_ <= 0) Deliver();
  }
  void Asked() {
    MutexLock lock(&mutex_);
    if (--awaited_ <= 0) Deliver();
  }
  void Deliver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const auto& [events, message] : waiting_) events->OnMessage(message);
    waiting_.clear();
  }

  Mutex mutex_;
  int awaited_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::pair<std::shared_ptr<transport::ConnectionEvents>, std::string>> waiting_ ABSL_GUARDED_BY(mutex_);
};

std::vector<Synthetic> PutMany(store::Store* store, int count) {
  std::vector<Synthetic> documents;
  for (int i = 0; i < count; ++i) {
    documents.push_back(MakeSynthetic(i + 1, 2, 40 + i % 7));
    const Synthetic& one = documents.back();
    EXPECT_TRUE(store->Put("ns", one.manifest, one.spans(), Patience()).ok());
  }
  return documents;
}

std::vector<ReadRequest> RequestsFor(const std::vector<Synthetic>& documents) {
  std::vector<ReadRequest> requests;
  for (const Synthetic& one : documents) requests.push_back({one.manifest.identity, one.manifest.etag});
  return requests;
}

void ExpectWhole(const std::vector<Synthetic>& documents,
                 const std::vector<absl::StatusOr<std::unique_ptr<store::Lease>>>& leases) {
  ASSERT_EQ(leases.size(), documents.size());
  for (size_t i = 0; i < leases.size(); ++i) {
    ASSERT_TRUE(leases[i].ok()) << i << ": " << leases[i].status();
    for (size_t layer = 0; layer < documents[i].slabs.size(); ++layer) {
      EXPECT_EQ(CompareLayer(leases[i]->get(), documents[i], layer, Patience()), absl::OkStatus());
    }
  }
}

TEST(ReadManyTest, AsksForAllBeforeTheFirstAnswer) {
  std::shared_ptr<Gate> gate;
  RemotePlaceOptions options;
  options.client = [&gate](RemoteOptions* client) {
    gate = std::make_shared<Gate>(client->transport);
    client->transport = gate;
  };
  RemotePlace place(options);
  const std::vector<Synthetic> documents = PutMany(place.store(), 40);
  gate->CloseUntil(40);
  ExpectWhole(documents, place.store()->ReadMany(nullptr, "ns", Codec::kRawBf16, RequestsFor(documents), Patience()));
}

TEST(ReadManyTest, KeepsToWhatTheNodeAllows) {
  RemotePlaceOptions options;
  options.node = [](store::node::NodeOptions* node) { node->limits.pulls_per_connection = 3; };
  RemotePlace place(options);
  const std::vector<Synthetic> documents = PutMany(place.store(), 50);
  ExpectWhole(documents, place.store()->ReadMany(nullptr, "ns", Codec::kRawBf16, RequestsFor(documents), Patience()));
}

// However many are wanted, a node that is away costs the patience of one read.
TEST(ReadManyTest, TriesAgainTogether) {
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) { client->patience = absl::Milliseconds(200); };
  RemotePlace place(options);
  const std::vector<Synthetic> documents = PutMany(place.store(), 40);
  place.StopNode();
  const int64_t retries = place.remote()->Counters().retries;
  for (const auto& lease :
       place.store()->ReadMany(nullptr, "ns", Codec::kRawBf16, RequestsFor(documents), Patience())) {
    EXPECT_TRUE(absl::IsUnavailable(lease.status())) << lease.status();
  }
  EXPECT_LE(place.remote()->Counters().retries - retries, 16);
}

}  // namespace
}  // namespace kvlink::testing
