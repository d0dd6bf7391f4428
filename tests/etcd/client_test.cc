// The client against a real etcd of one member: keys, transactions, leases, watches; users, TLS, and what it says of
// mistakes.
#include "etcd/client.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/address.h"
#include "tests/support/certificates.h"
#include "tests/support/etcd_cluster.h"
#include "tests/support/patience.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::etcd {
namespace {

// A proxy where nobody listens, before there are threads: no call to etcd goes there.
[[maybe_unused]] const int kProxySet = setenv("http_proxy", "http://127.0.0.1:1", /*overwrite=*/1);

using ::testing::ElementsAre;
using testing::EtcdCluster;
using ::testing::HasSubstr;

using kvlink::testing::Patience;
absl::Time Soon() { return SteadyNow() + absl::Seconds(2); }

class ClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdCluster::Installed()) GTEST_SKIP() << "no etcd here (Debian's etcd-server)";
  }
  void StartEtcd(const std::vector<std::string>& arguments = {}, const std::string& scheme = "http") {
    etcd_ = std::make_unique<EtcdCluster>(1, arguments, scheme);
    options_.endpoints = etcd_->endpoints();
    options_.prefix = "shared/";
  }
  std::unique_ptr<Client> NewClient() const {
    auto client = Client::Open(options_);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  std::unique_ptr<Client> NewClient(const std::string& user, const std::string& password) {
    options_.user = user;
    options_.password = password;
    return NewClient();
  }
  // What a read by these options fails with.
  absl::Status ReadError(absl::Time deadline = Patience()) const {
    return NewClient()->Get("key", {}, deadline).status();
  }

  ClientOptions options_;
  std::unique_ptr<EtcdCluster> etcd_;
};

std::vector<std::string> Keys(const std::vector<KeyValue>& found) {
  std::vector<std::string> keys;
  for (const KeyValue& one : found) keys.push_back(one.key);
  return keys;
}

TEST_F(ClientTest, PutsReadsAndDeletesKeys) {
  StartEtcd();
  const auto client = NewClient();
  const auto first = client->Put("a/1", "one", kNoLease, Patience());
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(client->Put("a/2", std::string("\0two", 4), kNoLease, Patience()).ok());
  ASSERT_TRUE(client->Put("b", "three", kNoLease, Patience()).ok());
  const auto second = client->Put("a/1", "uno", kNoLease, Patience());
  ASSERT_TRUE(second.ok());

  auto got = client->Get("a/1", {}, Patience());
  ASSERT_TRUE(got.ok()) << got.status();
  ASSERT_EQ(got->found.size(), 1u);
  EXPECT_EQ(got->found[0].value, "uno");
  EXPECT_EQ(got->found[0].create_revision, *first);
  EXPECT_EQ(got->found[0].mod_revision, *second);
  EXPECT_EQ(got->revision, *second);

  got = client->Get("a/", {.prefix = true}, Patience());
  ASSERT_TRUE(got.ok());
  EXPECT_THAT(Keys(got->found), ElementsAre("a/1", "a/2"));
  EXPECT_EQ(got->found[1].value, std::string("\0two", 4));
  EXPECT_FALSE(got->more);
  got = client->Get("", {.prefix = true, .limit = 2}, Patience());
  ASSERT_TRUE(got.ok());
  EXPECT_THAT(Keys(got->found), ElementsAre("a/1", "a/2"));
  EXPECT_TRUE(got->more);
  got = client->Get("a/1", {.revision = *first, .serializable = true}, Patience());
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->found[0].value, "one");
  got = client->Get("none", {}, Patience());
  ASSERT_TRUE(got.ok());
  EXPECT_TRUE(got->found.empty());

  auto deleted = client->Delete("a/", true, Patience());
  ASSERT_TRUE(deleted.ok());
  EXPECT_EQ(deleted->deleted, 2);
  EXPECT_EQ(deleted->revision, *second + 1);
  deleted = client->Delete("a/1", false, Patience());
  ASSERT_TRUE(deleted.ok());
  EXPECT_EQ(deleted->deleted, 0);
}

// Two clients of different prefixes do not see each other.
TEST_F(ClientTest, PrefixesAreSeparate) {
  StartEtcd();
  const auto one = NewClient();
  options_.prefix = "";
  const auto all = NewClient();
  ASSERT_TRUE(all->Put("other", "x", kNoLease, Patience()).ok());
  ASSERT_TRUE(one->Put("key", "y", kNoLease, Patience()).ok());
  EXPECT_THAT(Keys(one->Get("", {.prefix = true}, Patience())->found), ElementsAre("key"));
  EXPECT_THAT(Keys(all->Get("", {.prefix = true}, Patience())->found), ElementsAre("other", "shared/key"));
}

TEST_F(ClientTest, ComparesInTransactions) {
  StartEtcd();
  const auto client = NewClient();
  const Transaction create = {{Compare::Absent("key")}, {PutOp{"key", "first"}}, {GetOp{"key"}}};
  auto result = client->Commit(create, Patience());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->succeeded);
  const int64_t created = result->revision;
  result = client->Commit(create, Patience());
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->succeeded);
  ASSERT_EQ(result->results.size(), 1u);
  ASSERT_EQ(result->results[0].found.size(), 1u);
  EXPECT_EQ(result->results[0].found[0].key, "key");
  EXPECT_EQ(result->results[0].found[0].mod_revision, created);

  // Of two who change what they read, one succeeds.
  const auto change = [&](const std::string& value) {
    return client->Commit({{Compare::ModRevision("key", created)}, {PutOp{"key", value}}, {}}, Patience());
  };
  EXPECT_TRUE(change("second")->succeeded);
  EXPECT_FALSE(change("third")->succeeded);

  EXPECT_TRUE(client->Commit({{Compare::Value("key", "second")}, {}, {}}, Patience())->succeeded);
  EXPECT_FALSE(client->Commit({{Compare::Value("key", "first")}, {}, {}}, Patience())->succeeded);
  EXPECT_TRUE(client->Commit({{Compare::Lease("key", kNoLease)}, {}, {}}, Patience())->succeeded);
  const Compare later = {"key", Compare::Target::kModRevision, Compare::Relation::kGreater, created, ""};
  EXPECT_TRUE(client->Commit({{later}, {}, {}}, Patience())->succeeded);
  const Compare unequal = {"key", Compare::Target::kCreateRevision, Compare::Relation::kNotEqual, created, ""};
  EXPECT_FALSE(client->Commit({{unequal}, {}, {}}, Patience())->succeeded);

  result = client->Commit({{}, {DeleteOp{"", true}, PutOp{"other", "x"}}, {}}, Patience());
  EXPECT_FALSE(result.ok()) << "etcd does not change a key twice";
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  result = client->Commit({{}, {DeleteOp{"key"}, PutOp{"other", "x"}}, {}}, Patience());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->results[0].deleted, 1);
}

TEST_F(ClientTest, RejectsInvalidRequests) {
  StartEtcd();
  const auto client = NewClient();
  EXPECT_EQ(client->Put("key", "x", 12345, Patience()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(client->Get("key", {.revision = 1000}, Patience()).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(client->Put("key", std::string(2 << 20, 'x'), kNoLease, Patience()).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(client->Put("key", std::string(1700000, 'x'), kNoLease, Patience()).status().code(),
            absl::StatusCode::kInvalidArgument);
  options_.prefix = "";
  EXPECT_EQ(NewClient()->Get("", {}, Patience()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(client->Revoke(12345, Patience()).ok());
}

// Records what KeepAlive reports.
class Losses {
 public:
  KeepAlive::Lost callback() {
    return [this](const absl::Status& why) {
      MutexLock lock(&mutex_);
      told_.emplace_back(why, SteadyNow());
      changed_.SignalAll();
    };
  }
  std::pair<absl::Status, absl::Time> Await() {
    const absl::Time deadline = Patience();
    MutexLock lock(&mutex_);
    while (told_.empty() && changed_.WaitUntil(&mutex_, deadline)) {
    }
    EXPECT_EQ(told_.size(), 1u);
    return told_.empty() ? std::pair(absl::OkStatus(), absl::Time()) : told_[0];
  }
  bool none() {
    MutexLock lock(&mutex_);
    return told_.empty();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::pair<absl::Status, absl::Time>> told_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(ClientTest, LeasesExpireUnlessKeptAlive) {
  StartEtcd();
  const auto client = NewClient();
  const auto kept = client->Grant(absl::Seconds(5), Patience()), left = client->Grant(absl::Seconds(2), Patience());
  ASSERT_TRUE(kept.ok()) << kept.status();
  ASSERT_TRUE(left.ok());
  EXPECT_GE(kept->ttl, absl::Seconds(2));
  Losses losses;
  {
    const auto keep = client->Keep(*kept, losses.callback());
    const auto revision = client->Put("kept", "x", kept->id, Patience());
    ASSERT_TRUE(revision.ok());
    ASSERT_TRUE(client->Put("left", "x", left->id, Patience()).ok());
    const auto watch = client->WatchFrom("", true, *revision + 2);
    const auto batch = watch->Next(Patience());
    ASSERT_TRUE(batch.ok()) << batch.status();
    ASSERT_EQ(batch->events.size(), 1u);
    EXPECT_TRUE(batch->events[0].deleted);
    EXPECT_EQ(batch->events[0].key_value.key, "left");
    EXPECT_GE(SteadyNow(), left->valid_until) << "etcd ended it early";
    // It has been renewed.
    while (SteadyNow() < kept->valid_until) {
      ASSERT_GT(keep->valid_until(), SteadyNow());
      absl::SleepFor(absl::Milliseconds(50));
    }
    EXPECT_EQ(client->Get("kept", {}, Patience())->found.size(), 1u);
    EXPECT_EQ(client->Get("kept", {}, Patience())->found[0].lease, kept->id);
  }
  EXPECT_TRUE(losses.none()) << "the end of the object is no loss";
  ASSERT_TRUE(client->Revoke(kept->id, Patience()).ok());
  EXPECT_TRUE(client->Get("kept", {}, Patience())->found.empty());
}

TEST_F(ClientTest, ReportsRevokedLease) {
  StartEtcd();
  const auto client = NewClient();
  const auto lease = client->Grant(absl::Seconds(2), Patience());
  ASSERT_TRUE(lease.ok());
  Losses losses;
  const auto keep = client->Keep(*lease, losses.callback());
  ASSERT_TRUE(client->Revoke(lease->id, Patience()).ok());
  EXPECT_EQ(losses.Await().first.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(keep->valid_until(), absl::InfinitePast());
}

TEST_F(ClientTest, WatchesReportEachChangeOnceInOrder) {
  StartEtcd();
  const auto client = NewClient();
  const auto first = client->Put("a/0", "0", kNoLease, Patience());
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(client->Put("b", "not watched", kNoLease, Patience()).ok());
  const auto watch = client->WatchFrom("a/", true, *first);
  for (int i = 1; i < 20; ++i) ASSERT_TRUE(client->Put(absl::StrCat("a/", i % 3), "x", kNoLease, Patience()).ok());
  ASSERT_TRUE(client->Delete("a/", true, Patience()).ok());
  int64_t last = 0;
  size_t puts = 0, deletions = 0;
  while (deletions == 0) {
    const auto batch = watch->Next(Patience());
    ASSERT_TRUE(batch.ok()) << batch.status();
    for (const Event& event : batch->events) {
      ++(event.deleted ? deletions : puts);
      EXPECT_GE(event.key_value.mod_revision, last);
      last = event.key_value.mod_revision;
    }
    EXPECT_GE(batch->revision, last);
  }
  EXPECT_EQ(puts, 20u);
  EXPECT_EQ(deletions, 3u) << "a revision arrives whole";
  EXPECT_EQ(watch->Next(SteadyNow() + absl::Milliseconds(50)).status().code(), absl::StatusCode::kDeadlineExceeded);
}

// A revision that exceeds one message of etcd arrives in fragments.
TEST_F(ClientTest, LargeRevisionsArriveWhole) {
  StartEtcd();
  const auto client = NewClient();
  constexpr int kKeys = 100, kTimes = 5;
  const auto begin = client->Get("", {.prefix = true}, Patience());
  ASSERT_TRUE(begin.ok());
  for (int i = 0; i < kKeys; ++i) {
    ASSERT_TRUE(client->Put(absl::StrCat("large/", i), std::string(20000, 'x'), kNoLease, Patience()).ok());
  }
  // Deleting has small events; a transaction that puts all is as large as etcd lets it be.
  for (int i = 0; i < kTimes; ++i) {
    Transaction all;
    for (int key = 0; key < 70; ++key) all.then.push_back(PutOp{absl::StrCat("large/", key), std::string(20000, 'y')});
    ASSERT_TRUE(client->Commit(all, Patience()).ok());
  }
  const auto watch = client->WatchFrom("large/", true, begin->revision + 1);
  size_t events = 0;
  while (events < kKeys + 70 * kTimes) {
    const auto batch = watch->Next(Patience());
    ASSERT_TRUE(batch.ok()) << batch.status();
    events += batch->events.size();
    const auto of_last = [&](const Event& event) { return event.key_value.mod_revision == batch->revision; };
    const auto count = std::count_if(batch->events.begin(), batch->events.end(), of_last);
    if (batch->revision > begin->revision + kKeys) {
      EXPECT_EQ(count, 70);
    }
  }
  EXPECT_EQ(events, static_cast<size_t>(kKeys + 70 * kTimes));
}

TEST_F(ClientTest, ProgressArrivesDuringSilence) {
  StartEtcd();
  options_.progress_interval = absl::Milliseconds(100);
  const auto client = NewClient();
  const auto begin = client->Get("", {.prefix = true}, Patience());
  ASSERT_TRUE(begin.ok());
  const auto watch = client->WatchFrom("watched", false, begin->revision + 1);
  const auto revision = client->Put("other", "x", kNoLease, Patience());
  ASSERT_TRUE(revision.ok());
  int64_t told = 0;
  while (told < *revision) {
    const auto batch = watch->Next(Patience());
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_TRUE(batch->events.empty());
    told = batch->revision;
  }
  EXPECT_EQ(told, *revision);
  // Progress hides nothing that follows.
  ASSERT_TRUE(client->Put("watched", "y", kNoLease, Patience()).ok());
  while (true) {
    const auto batch = watch->Next(Patience());
    ASSERT_TRUE(batch.ok()) << batch.status();
    if (!batch->events.empty()) break;
  }
}

TEST_F(ClientTest, ReportsCompactedRevision) {
  StartEtcd();
  const auto client = NewClient();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(client->Put("key", absl::StrCat(i), kNoLease, Patience()).ok());
  const auto now = client->Get("key", {}, Patience());
  ASSERT_TRUE(now.ok());
  etcd_->Compact(now->revision);
  const auto watch = client->WatchFrom("key", false, 3);
  const auto batch = watch->Next(Patience());
  EXPECT_EQ(batch.status().code(), absl::StatusCode::kOutOfRange) << batch.status();
  EXPECT_EQ(watch->compact_revision(), now->revision);
  EXPECT_EQ(watch->Next(Patience()).status().code(), absl::StatusCode::kOutOfRange) << "for good";
  EXPECT_EQ(client->Get("key", {.revision = 3}, Patience()).status().code(), absl::StatusCode::kOutOfRange);
  // As it says: read anew and watch from there.
  const auto again = client->WatchFrom("key", false, now->revision + 1);
  ASSERT_TRUE(client->Put("key", "new", kNoLease, Patience()).ok());
  EXPECT_EQ(again->Next(Patience())->events[0].key_value.value, "new");
}

// In releases before 2025, compacting at a deletion drops it: a watch that begins there is told that it is too late.
TEST_F(ClientTest, ReportsCompactedDeletion) {
  StartEtcd();
  const auto client = NewClient();
  const auto put = client->Put("key", "x", kNoLease, Patience());
  ASSERT_TRUE(put.ok()) << put.status();
  const auto deleted = client->Delete("key", false, Patience());
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  etcd_->Compact(deleted->revision);
  const auto watch = client->WatchFrom("key", false, *put + 1);
  const auto batch = watch->Next(Patience());
  EXPECT_EQ(batch.status().code(), absl::StatusCode::kOutOfRange) << batch.status();
  EXPECT_EQ(watch->compact_revision(), deleted->revision);
}

// An etcd restored from an old backup lacks acknowledged writes: its answers are not taken for current.
TEST_F(ClientTest, DetectsRestoredEtcd) {
  StartEtcd();
  const auto client = NewClient();
  ASSERT_TRUE(client->Put("key", "old", kNoLease, Patience()).ok());
  etcd_->Backup();
  // A read finds the member again; a write right after an answer could go to the connection that is gone.
  ASSERT_TRUE(client->Get("key", {}, Patience()).ok());
  const auto put = client->Put("key", "new", kNoLease, Patience());
  ASSERT_TRUE(put.ok()) << put.status();
  const auto watch = client->WatchFrom("key", false, *put);
  ASSERT_TRUE(watch->Next(Patience()).ok());
  etcd_->Restore();
  EXPECT_EQ(client->Get("key", {}, Patience()).status().code(), absl::StatusCode::kDataLoss);
  absl::Status told;
  while (told.ok() || absl::IsDeadlineExceeded(told)) told = watch->Next(Patience()).status();
  EXPECT_EQ(told.code(), absl::StatusCode::kDataLoss) << told;
  EXPECT_EQ(NewClient()->Get("key", {}, Patience())->found[0].value, "old");
}

// A revision known only from progress, or only to another client, existed.
TEST_F(ClientTest, WatchDetectsRestoredEtcd) {
  StartEtcd();
  options_.progress_interval = absl::Milliseconds(100);
  const auto writer = NewClient(), client = NewClient();
  const auto put = writer->Put("key", "old", kNoLease, Patience());
  ASSERT_TRUE(put.ok()) << put.status();
  etcd_->Backup();
  ASSERT_TRUE(writer->Get("key", {}, Patience()).ok());
  const auto watch = client->WatchFrom("key", false, *put + 1);
  ASSERT_TRUE(watch->Next(Patience()).ok());
  const auto last = writer->Put("other", "x", kNoLease, Patience());
  ASSERT_TRUE(last.ok()) << last.status();
  for (int64_t told = 0; told < *last;) {
    const auto batch = watch->Next(Patience());
    ASSERT_TRUE(batch.ok()) << batch.status();
    told = batch->revision;
  }
  etcd_->Restore();
  const auto end_of = [](Watch* watch) {
    const absl::Time deadline = Patience();
    absl::Status end;
    while ((end.ok() || absl::IsDeadlineExceeded(end)) && SteadyNow() < deadline) end = watch->Next(deadline).status();
    return end.code();
  };
  EXPECT_EQ(end_of(watch.get()), absl::StatusCode::kDataLoss);
  const auto another = NewClient();
  EXPECT_EQ(end_of(another->WatchFrom("key", false, *last + 1).get()), absl::StatusCode::kDataLoss);
}

TEST_F(ClientTest, CancelEndsWaitingWatch) {
  StartEtcd();
  const auto client = NewClient();
  const auto watch = client->WatchFrom("key", false, 1);
  Thread canceller("test-cancel", [&] {
    absl::SleepFor(absl::Milliseconds(50));
    watch->Cancel();
  });
  EXPECT_EQ(watch->Next(Patience()).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(ClientTest, AuthenticatesUsers) {
  StartEtcd({"--auth-token-ttl", "2"});
  etcd_->EnableAuthentication();
  EXPECT_EQ(ReadError().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(ReadError().message()), HasSubstr("requires a user and a password"));
  const auto root = NewClient("root", "root");
  ASSERT_TRUE(root->Put("key", "x", kNoLease, Patience()).ok());
  ASSERT_TRUE(NewClient("reader", "wrong")->Get("key", {}, Patience()).status().code() ==
              absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(ReadError().message()), HasSubstr("does not accept user reader with this password"));
  const auto reader = NewClient("reader", "reader");
  const auto got = reader->Get("key", {}, Patience());
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(reader->Put("key", "y", kNoLease, Patience()).status().code(), absl::StatusCode::kPermissionDenied);

  const auto watch = reader->WatchFrom("key", false, got->revision + 1);
  ASSERT_EQ(watch->Next(SteadyNow() + absl::Milliseconds(100)).status().code(), absl::StatusCode::kDeadlineExceeded);
  const auto later = NewClient();
  ASSERT_TRUE(later->Get("key", {}, Patience()).ok());
  // Tokens that have expired are renewed, also those of watches.
  absl::SleepFor(absl::Seconds(4));
  ASSERT_TRUE(root->Put("key", "z", kNoLease, Patience()).ok());
  EXPECT_TRUE(reader->Get("key", {}, Patience()).ok());
  EXPECT_TRUE(watch->Next(Patience()).ok());
  EXPECT_TRUE(later->WatchFrom("key", false, got->revision + 1)->Next(Patience()).ok());

  options_.prefix = "private/";
  const auto denied = NewClient("reader", "reader")->WatchFrom("key", false, 1)->Next(Patience());
  EXPECT_EQ(denied.status().code(), absl::StatusCode::kPermissionDenied) << denied.status();
  const auto nobody = NewClient("", "")->WatchFrom("key", false, 1)->Next(Patience());
  EXPECT_EQ(nobody.status().code(), absl::StatusCode::kUnauthenticated) << nobody.status();
}

// Without authentication no user is required, and giving one does no harm.
TEST_F(ClientTest, AcceptsUserWithoutAuthentication) {
  StartEtcd();
  const auto client = NewClient("root", "root");
  ASSERT_TRUE(client->Put("key", "x", kNoLease, Patience()).ok());
  etcd_->EnableAuthentication();
  EXPECT_TRUE(client->Put("key", "y", kNoLease, Patience()).ok()) << "it is used when it is switched on";
}

class TlsTest : public ClientTest {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "OpenSSL is not instrumented, and reports itself";
#endif
    ClientTest::SetUp();
    if (IsSkipped()) return;
    if (!testing::HaveOpenssl()) GTEST_SKIP() << "no openssl here";
    ASSERT_TRUE(testing::MakeCertificates(scratch_.path()));
  }
  std::string File(const std::string& name) const { return scratch_.path() + "/" + name; }

  testing::ScratchDirectory scratch_{/*in_memory=*/true};
};

TEST_F(TlsTest, AuthenticatesMembersAndClients) {
  StartEtcd({"--cert-file", File("node.pem"), "--key-file", File("node.key"), "--client-cert-auth", "--trusted-ca-file",
             File("ca.pem")},
            "https");
  options_.tls = {File("ca.pem"), File("client.pem"), File("client.key")};
  const auto client = NewClient();
  const auto put = client->Put("key", "x", kNoLease, Patience());
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(client->WatchFrom("key", false, *put)->Next(Patience()).ok());

  options_.tls.ca_file = File("stranger.pem");
  absl::Status status = ReadError();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("not signed by the CA in " + File("stranger.pem")));
  options_.tls = {File("ca.pem")};
  status = ReadError(Soon());
  EXPECT_THAT(std::string(status.message()), HasSubstr("requires client certificates"));
  options_.tls = {};
  status = ReadError(Soon());
  EXPECT_THAT(std::string(status.message()), HasSubstr("if it requires TLS"));
}

TEST_F(TlsTest, FollowsRenewedCertificates) {
  const std::string renewed = File("renewed");
  std::filesystem::create_directory(renewed);
  ASSERT_TRUE(testing::MakeCertificates(renewed));
  StartEtcd({"--cert-file", File("node.pem"), "--key-file", File("node.key"), "--client-cert-auth", "--trusted-ca-file",
             File("ca.pem")},
            "https");
  options_.tls = {File("ca.pem"), File("client.pem"), File("client.key")};
  options_.progress_interval = absl::Seconds(1);
  const auto client = NewClient();
  const auto put = client->Put("key", "x", kNoLease, Patience());
  ASSERT_TRUE(put.ok()) << put.status();
  const auto watch = client->WatchFrom("key", false, *put);
  ASSERT_TRUE(watch->Next(Patience()).ok());

  for (const auto& one : std::filesystem::directory_iterator(renewed)) {
    std::filesystem::copy_file(one.path(), File(one.path().filename()),
                               std::filesystem::copy_options::overwrite_existing);
  }
  EXPECT_TRUE(client->Get("key", {}, Patience()).ok()) << "over the connection that there is";
  etcd_->Kill(0);
  etcd_->Restart(0);  // it accepts only the renewed ones
  const absl::Time deadline = Patience();
  auto again = client->Put("key", "y", kNoLease, deadline);
  while (!again.ok() && SteadyNow() < deadline) again = client->Put("key", "y", kNoLease, deadline);
  ASSERT_TRUE(again.ok()) << again.status();
  auto batch = watch->Next(deadline);
  while (batch.ok() && batch->events.empty()) batch = watch->Next(deadline);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_EQ(batch->events.back().key_value.value, "y");
}

TEST_F(TlsTest, ReportsTlsMismatch) {
  StartEtcd();
  options_.tls = {File("ca.pem")};
  const absl::Status status = ReadError(Soon());
  EXPECT_THAT(std::string(status.message()), HasSubstr("check that it uses TLS"));
}

TEST_F(ClientTest, ChecksOptions) {
  const auto error = [](const ClientOptions& options) {
    const auto client = Client::Open(options);
    return client.ok() ? std::string() : client.status().ToString();
  };
  EXPECT_THAT(error({.endpoints = ""}), HasSubstr("is not host:port"));
  EXPECT_THAT(error({.endpoints = "127.0.0.1:1,http://x"}), HasSubstr("\"http://x\" is not host:port"));
  EXPECT_THAT(error({.endpoints = "127.0.0.1:1", .tls = {.ca_file = "/none"}}), HasSubstr("/none"));
  EXPECT_THAT(error({.endpoints = "127.0.0.1:1", .password = "x"}), HasSubstr("without a user"));
  EXPECT_THAT(error({.endpoints = "192.0.2.1:1", .user = "x"}), HasSubstr("plain text"));
}

TEST_F(ClientTest, NoMemberAnswers) {
  options_.endpoints = absl::StrCat(testing::UnusedAddress(), ",", testing::UnusedAddress());
  const absl::Status status = ReadError(Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  for (const absl::string_view one : absl::StrSplit(options_.endpoints, ',')) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(one)));
  }
  EXPECT_THAT(std::string(status.message()), HasSubstr("refused"));
  const auto put = NewClient()->Put("key", "x", kNoLease, Soon());
  EXPECT_EQ(put.status().code(), absl::StatusCode::kUnavailable) << "it was not written: " << put.status();
}

// Whichever cluster answers first is the client's.
TEST_F(ClientTest, RefusesOtherClusterByName) {
  StartEtcd();
  EtcdCluster other(1);
  ASSERT_TRUE(NewClient()->Put("key", "here", kNoLease, Patience()).ok());
  options_.endpoints = absl::StrCat(etcd_->endpoint(0), ",", other.endpoint(0));
  const auto client = NewClient();
  const auto got = client->Get("key", {}, Patience());
  ASSERT_TRUE(got.ok()) << got.status();
  EtcdCluster& own = got->found.empty() ? other : *etcd_;
  EtcdCluster& stranger = got->found.empty() ? *etcd_ : other;
  own.Kill(0);
  // A write right after an answer could still be sent to the member that was killed.
  EXPECT_EQ(client->Get("key", {}, Soon()).status().code(), absl::StatusCode::kUnavailable);
  const absl::Status put = client->Put("new", "x", kNoLease, Soon()).status();
  EXPECT_EQ(put.code(), absl::StatusCode::kUnavailable) << put;
  EXPECT_THAT(std::string(put.message()),
              HasSubstr(absl::StrCat(stranger.endpoint(0), " belongs to another etcd cluster")));
  options_.endpoints = stranger.endpoint(0);
  EXPECT_TRUE(NewClient()->Get("new", {}, Patience())->found.empty()) << "it was written to another cluster";
  // It continues with its own cluster.
  own.Restart(0);
  EXPECT_TRUE(client->Put("new", "x", kNoLease, Patience()).ok());
}

}  // namespace
}  // namespace kvlink::etcd
