// A real etcd with clusters in it, and helpers shared by tests of their members.
// Thread-safety: one thread at a time, except for Events.
#ifndef KVLINK_TESTS_STORE_CLUSTER_CLUSTER_ETCD_H_
#define KVLINK_TESTS_STORE_CLUSTER_CLUSTER_ETCD_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "gtest/gtest.h"
#include "store/cluster/members/administration.h"
#include "store/cluster/members/membership.h"
#include "store/cluster/members/registration.h"
#include "tests/support/etcd_cluster.h"
#include "tests/support/node_id.h"
#include "tests/support/patience.h"

namespace kvlink::testing {

namespace cluster = store::cluster;

// The events given to an EventSink. Thread-safety: all methods.
class Events {
 public:
  cluster::EventSink sink() {
    return [this](cluster::Severity, absl::string_view event, absl::string_view what) {
      MutexLock lock(&mutex_);
      told_.push_back(absl::StrCat(event, ": ", what));
    };
  }
  bool Told(const std::string& part) const {
    MutexLock lock(&mutex_);
    for (const std::string& one : told_) {
      if (one.find(part) != std::string::npos) return true;
    }
    return false;
  }

 private:
  mutable Mutex mutex_;
  std::vector<std::string> told_ ABSL_GUARDED_BY(mutex_);
};

// While closed, holds back changes from etcd. Thread-safety: all methods.
class Gate {
 public:
  void Set(bool closed) {
    MutexLock lock(&mutex_);
    closed_ = closed;
    opened_.SignalAll();
  }
  void Pass() {
    MutexLock lock(&mutex_);
    while (closed_) opened_.WaitUntil(&mutex_, Patience());
  }

 private:
  Mutex mutex_;
  CondVar opened_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

class ClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdCluster::Installed()) GTEST_SKIP() << "no etcd here (Debian's etcd-server)";
  }
  void StartEtcd(int members, const std::vector<std::string>& arguments = {}) {
    etcd_ = std::make_unique<EtcdCluster>(members, arguments);
    if (members > 1) etcd_->Leader();
  }
  // Configured for fast failover.
  cluster::ClusterAddress Address(const std::string& name = "default") const {
    cluster::ClusterAddress address;
    address.etcd.endpoints = etcd_->endpoints();
    address.etcd.progress_interval = absl::Milliseconds(500);
    address.etcd.answer_timeout = absl::Seconds(1);
    address.name = name;
    return address;
  }
  std::unique_ptr<cluster::Connection> Connect(const std::string& name = "default") const {
    auto connection = cluster::Connection::Open(Address(name));
    EXPECT_TRUE(connection.ok()) << connection.status();
    return *std::move(connection);
  }
  cluster::ClusterSettings Create(const std::string& name = "default", int copies = 2) const {
    cluster::ClusterSettings settings;
    settings.copies = settings.acknowledged = copies;
    auto made = cluster::CreateCluster(Connect(name).get(), settings, Patience());
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  std::unique_ptr<cluster::Membership> Open(const std::string& name = "default") {
    cluster::MembershipOptions options;
    options.address = Address(name);
    options.events = events_.sink();
    auto membership = cluster::Membership::Open(std::move(options), Patience());
    EXPECT_TRUE(membership.ok()) << membership.status();
    return membership.ok() ? *std::move(membership) : nullptr;
  }
  std::unique_ptr<cluster::Membership> OpenBehind(Gate* gate) {
    cluster::MembershipOptions options;
    options.address = Address();
    options.events = events_.sink();
    options.on_view = [gate](const std::shared_ptr<const cluster::View>&) { gate->Pass(); };
    auto membership = cluster::Membership::Open(std::move(options), Patience());
    EXPECT_TRUE(membership.ok()) << membership.status();
    return membership.ok() ? *std::move(membership) : nullptr;
  }
  absl::StatusOr<std::unique_ptr<cluster::Registration>> Register(cluster::Membership* membership, uint8_t node,
                                                                  uint64_t incarnation = 1,
                                                                  const std::string& address = "") {
    return cluster::Registration::Start(membership, RegistrationOf(node, incarnation, address), Patience());
  }
  cluster::RegistrationOptions RegistrationOf(uint8_t node, uint64_t incarnation, const std::string& address = "") {
    cluster::RegistrationOptions options;
    options.node_id = NodeOf(node);
    options.incarnation = incarnation;
    options.record.address = address.empty() ? absl::StrCat("127.0.0.1:", 7000 + node) : address;
    options.record.build = "test";
    options.ttl = absl::Seconds(1);
    options.events = events_.sink();
    options.entered = entered_[node];
    options.keep = [this, node](uint64_t entered) {
      entered_[node] = entered;
      return absl::OkStatus();
    };
    return options;
  }
  static bool AllFilled(const std::map<cluster::NodeId, cluster::ProgressRecord>&) { return true; }
  // The member's index in the view; the test fails if there is none.
  static int IndexOf(const cluster::View& view, uint8_t node) {
    const auto& members = view.placement.members();
    for (size_t i = 0; i < members.size(); ++i) {
      if (members[i].node_id == NodeOf(node)) return static_cast<int>(i);
    }
    return -1;
  }
  static bool AliveIn(const cluster::View& view, uint8_t node) {
    const int index = IndexOf(view, node);
    return index >= 0 && view.alive(static_cast<uint16_t>(index));
  }

  Events events_;
  std::map<uint8_t, uint64_t> entered_;  // what the directories of the nodes keep
  std::unique_ptr<EtcdCluster> etcd_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLUSTER_CLUSTER_ETCD_H_
