// Three members, of which some are killed, frozen or cut off from the others while a client reads, writes, watches and
// keeps leases.
#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/thread.h"
#include "etcd/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/etcd_cluster.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::etcd {
namespace {

using testing::EtcdCluster;
using ::testing::HasSubstr;

using kvlink::testing::Patience;

class FailoverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdCluster::Installed()) GTEST_SKIP() << "no etcd here (Debian's etcd-server)";
    etcd_ = std::make_unique<EtcdCluster>(3);
    etcd_->Leader();
    options_.endpoints = etcd_->endpoints();
    options_.progress_interval = absl::Milliseconds(500);
    options_.answer_timeout = absl::Seconds(1);
    client_ = NewClient();
  }
  std::unique_ptr<Client> NewClient() const {
    auto client = Client::Open(options_);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  // A client that begins with that member, so that what is done to it meets the client.
  std::unique_ptr<Client> ClientOf(int member) {
    ClientOptions options = options_;
    options.endpoints = etcd_->endpoint(member);
    auto client = Client::Open(options);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  ClientOptions options_;
  std::unique_ptr<EtcdCluster> etcd_;
  std::unique_ptr<Client> client_;
};

// Reads and writes continue while any one member is stopped or frozen.
TEST_F(FailoverTest, AnyOneMemberMayFail) {
  int64_t written = 0;
  const auto check = [&](const std::string& what) {
    const auto put = client_->Put("key", absl::StrCat(++written), kNoLease, Patience());
    // Only a leader that goes in the middle of it leaves a write unknown, and this client knows it to be alive.
    ASSERT_TRUE(put.ok() || absl::IsUnknown(put.status())) << what << ": " << put.status();
    const auto got = NewClient()->Get("key", {}, Patience());
    ASSERT_TRUE(got.ok()) << what << ": " << got.status();
    if (put.ok()) {
      EXPECT_EQ(got->found[0].value, absl::StrCat(written)) << what;
    }
  };
  check("all there");
  for (int member = 0; member < etcd_->size(); ++member) {
    etcd_->Kill(member);
    check(absl::StrCat(member, " is killed"));
    etcd_->Restart(member);
    etcd_->Leader();
    etcd_->Freeze(member);
    check(absl::StrCat(member, " is frozen"));
    etcd_->Thaw(member);
    etcd_->Leader();
  }
}

// The read before a write detects a frozen leader, so the write's outcome is known.
TEST_F(FailoverTest, FrozenLeaderLeavesNoWriteUnknown) {
  ASSERT_TRUE(client_->Put("key", "before", kNoLease, Patience()).ok());
  absl::SleepFor(absl::Milliseconds(1500));
  etcd_->Freeze(etcd_->Leader());
  const auto put = client_->Commit({{Compare::Value("key", "before")}, {PutOp{"key", "after"}}, {}}, Patience());
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(put->succeeded);
  EXPECT_EQ(client_->Get("key", {}, Patience())->found[0].value, "after");
}

// No member answers: each call ends at its deadline and reports what it knows.
TEST_F(FailoverTest, AllMembersFrozen) {
  ASSERT_TRUE(client_->Put("key", "x", kNoLease, Patience()).ok());
  const auto watch = client_->WatchFrom("key", false, 1);
  ASSERT_TRUE(watch->Next(Patience()).ok());
  for (int member = 0; member < etcd_->size(); ++member) etcd_->Freeze(member);
  const auto within = [](const char* what, absl::Duration time, const auto& call) {
    const absl::Time deadline = SteadyNow() + time;
    const absl::Status status = call(deadline);
    // It is bounded; that it is exact is not for a test on a machine that others use.
    EXPECT_LT(SteadyNow(), deadline + absl::Seconds(5)) << what;
    return status;
  };
  const auto get = [&](absl::Time deadline) { return client_->Get("key", {}, deadline).status(); };
  const auto put = [&](absl::Time deadline) { return client_->Put("key", "y", kNoLease, deadline).status(); };
  absl::Status status = within("put, right after an answer", absl::Seconds(2), put);
  EXPECT_TRUE(absl::IsUnknown(status) || absl::IsDeadlineExceeded(status)) << status;
  status = within("get", absl::Milliseconds(300), get);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  status = within("get", absl::Seconds(4), get);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  for (int member = 0; member < etcd_->size(); ++member) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(etcd_->endpoint(member)));
  }
  status = within("put", absl::Seconds(2), put);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << "nothing was sent: " << status;
  status = within("watch", absl::Seconds(2), [&](absl::Time deadline) {
    absl::Status status;
    while (status.ok()) status = watch->Next(deadline).status();
    return status;
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  for (int member = 0; member < etcd_->size(); ++member) etcd_->Thaw(member);
  EXPECT_TRUE(client_->Get("key", {}, Patience()).ok());
}

// A member cut off from the others refuses linearizable reads and serves only reads that accept old data.
TEST_F(FailoverTest, IsolatedMemberServesOnlyStaleReads) {
  ASSERT_TRUE(client_->Put("key", "x", kNoLease, Patience()).ok());
  const auto alone = ClientOf(0);
  ASSERT_TRUE(alone->Get("key", {}, Patience()).ok());
  etcd_->Freeze(1);
  etcd_->Freeze(2);
  // Until it has noticed.
  absl::Status put;
  for (int tries = 0; tries < 20 && !absl::IsUnavailable(put); ++tries) {
    put = alone->Put("key", "y", kNoLease, SteadyNow() + absl::Seconds(3)).status();
    ASSERT_FALSE(put.ok());
  }
  EXPECT_THAT(std::string(put.message()), HasSubstr("no leader"));
  const auto got = alone->Get("key", {.serializable = true}, Patience());
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->found.size(), 1u);
}

// A lease is renewed without the leader; one that cannot be renewed is reported before etcd could have ended it.
TEST_F(FailoverTest, LeasesAreRenewedOrReportedLostInTime) {
  // Longer than an election takes on a busy machine.
  const auto lease = client_->Grant(absl::Seconds(15), Patience());
  ASSERT_TRUE(lease.ok()) << lease.status();
  std::atomic<bool> kept_lost{false};
  const auto kept = client_->Keep(*lease, [&](const absl::Status&) { kept_lost = true; });
  const int leader = etcd_->Leader();
  etcd_->Freeze(leader);
  for (const absl::Time valid = kept->valid_until(); kept->valid_until() <= valid;) {
    ASSERT_FALSE(kept_lost);
    absl::SleepFor(absl::Milliseconds(20));
  }
  etcd_->Thaw(leader);

  const auto brief = client_->Grant(absl::Seconds(2), Patience());
  ASSERT_TRUE(brief.ok()) << brief.status();
  std::atomic<bool> lost{false};
  absl::Time when;
  absl::Status why;
  const auto keep = client_->Keep(*brief, [&](const absl::Status& status) {
    when = SteadyNow();
    why = status;
    lost = true;
  });
  for (int member = 0; member < etcd_->size(); ++member) etcd_->Freeze(member);
  absl::Time valid = absl::InfinitePast();
  while (!lost) {
    valid = std::max(valid, keep->valid_until());
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(why.code(), absl::StatusCode::kDeadlineExceeded) << why;
  EXPECT_GE(when, valid) << "it was still alive";
  EXPECT_EQ(keep->valid_until(), absl::InfinitePast());
}

// A watch reports each change once and in order, whatever happens to members. Faults are random, by seed.
TEST_F(FailoverTest, WatchesResume) {
  std::mt19937_64 random(testing::TestSeed());
  const auto begin = client_->Get("", {.prefix = true}, Patience());
  ASSERT_TRUE(begin.ok()) << begin.status();
  const auto watch = client_->WatchFrom("watched/", true, begin->revision + 1);
  constexpr int kWrites = 300;
  std::atomic<bool> done{false};
  // What was written, by revision; a write of unknown outcome may be there.
  std::map<int64_t, std::string> written;
  std::atomic<int> unknown{0};
  Thread writer("test-writer", [&] {
    const auto client = NewClient();
    for (int i = 0; i < kWrites; ++i) {
      const auto put = client->Put(absl::StrCat("watched/", i % 7), absl::StrCat(i), kNoLease, Patience());
      if (put.ok()) {
        written[*put] = absl::StrCat(i);
      } else {
        EXPECT_TRUE(absl::IsUnknown(put.status())) << put.status();
        ++unknown;
      }
      absl::SleepFor(absl::Milliseconds(20));
    }
    done = true;
  });
  Thread faults("test-faults", [&] {
    while (!done) {
      const int member = static_cast<int>(random() % 3);
      if (random() % 2 == 0) {
        etcd_->Kill(member);
        absl::SleepFor(absl::Milliseconds(random() % 1000));
        etcd_->Restart(member);
      } else {
        etcd_->Freeze(member);
        absl::SleepFor(absl::Milliseconds(random() % 3000));
        etcd_->Thaw(member);
      }
      absl::SleepFor(absl::Milliseconds(500 + random() % 1000));
    }
  });
  std::map<int64_t, std::string> told;
  int64_t last = begin->revision;
  const auto take = [&] {
    const auto batch = watch->Next(SteadyNow() + absl::Seconds(1));
    if (!batch.ok()) {
      ASSERT_EQ(batch.status().code(), absl::StatusCode::kDeadlineExceeded) << batch.status();
      return;
    }
    for (const Event& event : batch->events) {
      ASSERT_GT(event.key_value.mod_revision, last);
      last = event.key_value.mod_revision;
      told[last] = event.key_value.value;
    }
  };
  while (!done && !HasFatalFailure()) take();
  writer.Join();
  faults.Join();
  const absl::Time deadline = Patience();
  while (!HasFatalFailure() && !written.empty() && last < written.rbegin()->first && SteadyNow() < deadline) take();
  for (const auto& [revision, value] : written) EXPECT_EQ(told[revision], value) << "revision " << revision;
  EXPECT_LE(told.size(), written.size() + unknown);
  EXPECT_GT(written.size(), static_cast<size_t>(kWrites / 2));
}

}  // namespace
}  // namespace kvlink::etcd
