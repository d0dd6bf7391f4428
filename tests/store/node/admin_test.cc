// Administration of a node: statistics, deleting, limits of namespaces, draining; and who is an administrator: access
// files that change, TLS.
#include "store/client/control/admin.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "base/descriptor_limit.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/client/remote.h"
#include "store/node/watch/statistics.h"
#include "tests/store/node/raw_client.h"
#include "tests/support/certificates.h"
#include "transport/address.h"

namespace kvlink::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace v1 = store::v1;

class AdminTest : public ::testing::Test {
 protected:
  void StartNode(const TestNode::Change& change = {}) {
    node_ = std::make_unique<TestNode>(Carrier::kLoopback, change);
    transport_ = node_->NewClientTransport();
  }
  std::unique_ptr<store::client::NodeAdmin> Admin(const std::string& key = "",
                                                  const transport::TlsOptions& tls = {}) const {
    return store::client::NodeAdmin::Create({(*node_)->addresses().control, key, "admin", tls});
  }
  std::unique_ptr<RawControl> Client(const std::string& key = "") const {
    auto client = std::make_unique<RawControl>((*node_)->addresses().control);
    const auto session = client->Open(key);
    EXPECT_TRUE(session.ok()) << session.status();
    return client;
  }
  static void Put(const RawControl& client, const std::string& ns, const std::string& id, const CatalogEntry& entry,
                  absl::StatusCode expected = absl::StatusCode::kOk) {
    v1::PutDocumentsRequest request;
    request.set_ns(ns);
    request.add_documents()->set_id(id);
    request.mutable_documents(0)->set_entry(SerializeCatalogEntry(entry));
    v1::Results results;
    ASSERT_TRUE(client->PutDocuments(client.Context().get(), request, &results).ok());
    EXPECT_EQ(static_cast<absl::StatusCode>(results.results(0).code()), expected) << results.results(0).message();
  }
  static std::vector<std::string> Ids(const RawControl& client, const std::string& ns, const std::string& prefix = "") {
    v1::ListDocumentsRequest request;
    request.set_ns(ns);
    request.set_prefix(prefix);
    request.set_limit(1000);
    v1::ListDocumentsResponse listed;
    EXPECT_TRUE(client->ListDocuments(client.Context().get(), request, &listed).ok());
    std::vector<std::string> ids;
    for (const v1::DocumentInfo& one : listed.documents()) ids.push_back(one.id());
    return ids;
  }

  std::unique_ptr<TestNode> node_;
  std::unique_ptr<transport::Transport> transport_;
  ScratchDirectory scratch_{/*in_memory=*/true};
};

// Every row of the table is in the protocol (hence in JSON) and on the page of Prometheus, with the same value.
TEST_F(AdminTest, EveryStatisticIsShownEverywhere) {
  StartNode();
  const auto client = Client();
  RawData data(transport_.get(), node_->data_address());
  ASSERT_TRUE(data.Hello(client->token()).ok());
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data.Push("a", encoding).ok());
  ASSERT_TRUE(data.Pull("a", encoding.manifest).ok());
  ASSERT_TRUE(data.Act("a", proto::EncodingAction::PIN, {encoding.manifest.identity}).ok());
  const auto status = Admin()->Status(Patience());
  ASSERT_TRUE(status.ok()) << status.status();
  const std::string page = (*node_)->MetricsText();
  const auto all = store::node::AllStatistics();
  EXPECT_EQ(all.size(), status->values.size());
  for (const store::node::Statistic& one : all) {
    EXPECT_EQ(status->values.count(one.name), 1u) << one.name;
    std::string labels = absl::StrReplaceAll(one.labels, {{"=", "=\""}, {",", "\","}});
    if (!labels.empty()) labels = absl::StrCat("{", labels, "\"}");
    // Prometheus orders labels by name.
    bool found = false;
    for (const absl::string_view line : absl::StrSplit(page, '\n')) {
      if (!absl::StartsWith(line, absl::StrCat("kvlink_", one.metric, labels.empty() ? " " : "{"))) continue;
      bool has_all = true;
      for (const absl::string_view label : absl::StrSplit(one.labels, ',', absl::SkipEmpty())) {
        has_all &= absl::StrContains(line, absl::StrReplaceAll(label, {{"=", "=\""}}));
      }
      found |= has_all;
    }
    EXPECT_TRUE(found) << "kvlink_" << one.metric << labels;
    EXPECT_THAT(page, HasSubstr(absl::StrCat("# TYPE kvlink_", one.metric, one.counts ? " counter" : " gauge")));
  }
  EXPECT_GT(status->values.at("uptime_ms"), 0);
  EXPECT_EQ(status->values.at("pinned_encodings"), 1);
  EXPECT_EQ(status->values.at("hit_tokens_dram"), encoding.manifest.tokens);
  ASSERT_EQ(status->namespaces.size(), 1u);
  EXPECT_GT(status->namespaces[0].dram_bytes, 0);
  EXPECT_THAT(page, HasSubstr("kvlink_namespace_dram_bytes{namespace=\"a\"}"));
}

// Verification of a whole store must not take processors from threads that serve readers.
TEST_F(AdminTest, StreamsStepBackBehindReaders) {
  const int mine = getpriority(PRIO_PROCESS, 0);
  if (mine > 4) GTEST_SKIP() << "this process is at niceness " << mine << ": there is no room below it";
  StartNode();
  const auto niceness_of = [](const std::string& name) {
    std::vector<int> found;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::ifstream file(task.path() / "comm");
      std::string comm;
      std::getline(file, comm);
      if (comm != name) continue;
      found.push_back(getpriority(PRIO_PROCESS, static_cast<id_t>(std::stoi(task.path().filename().string()))));
    }
    return found;
  };
  const absl::Time limit = Patience();
  while (SteadyNow() < limit) {  // the threads are just starting
    const std::vector<int> streams = niceness_of("control-stream");
    if (!streams.empty() && *std::min_element(streams.begin(), streams.end()) == mine + 15) break;
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_THAT(niceness_of("control-stream"), Each(mine + 15));
  EXPECT_THAT(niceness_of("control-worker"), Each(mine));
  EXPECT_THAT(niceness_of("serving"), Each(mine));
}

TEST_F(AdminTest, DocumentsAreDeletedByIdAndByPrefix) {
  StartNode();
  const auto client = Client();
  const auto admin = Admin();
  const Synthetic encoding = MakeSynthetic(1);
  for (const char* id : {"a", "b", "b/1", "b/2", "b0", "c"}) Put(*client, "n", id, EntryOf({&encoding}, 7));
  const auto deleted = admin->DeleteDocuments("n", {"a", "none"}, false, Patience());
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_TRUE((*deleted)[0].ok()) << (*deleted)[0];
  EXPECT_TRUE(absl::IsNotFound((*deleted)[1])) << (*deleted)[1];
  EXPECT_THAT(Ids(*client, "n"), ElementsAre("b", "b/1", "b/2", "b0", "c"));
  EXPECT_THAT(Ids(*client, "n", "b/"), ElementsAre("b/1", "b/2"));
  auto gone = admin->DeletePrefix("n", "b/", Patience());
  ASSERT_TRUE(gone.ok()) << gone.status();
  EXPECT_EQ(gone->documents, 2);
  gone = admin->DeletePrefix("n", "b", Patience());
  EXPECT_EQ(gone->documents, 2);
  EXPECT_THAT(Ids(*client, "n"), ElementsAre("c"));
  // The generation is remembered: what is older does not come back.
  Put(*client, "n", "a", EntryOf({&encoding}, 6), absl::StatusCode::kFailedPrecondition);
  Put(*client, "n", "a", EntryOf({&encoding}, 8));
}

TEST_F(AdminTest, AnAbsurdGenerationIsRepaired) {
  StartNode();
  const auto client = Client();
  const Synthetic encoding = MakeSynthetic(1);
  Put(*client, "n", "a", EntryOf({&encoding}, std::numeric_limits<uint64_t>::max()));
  Put(*client, "n", "a", EntryOf({&encoding}, 1), absl::StatusCode::kFailedPrecondition);
  const auto deleted = Admin()->DeleteDocuments("n", {"a", "never there"}, /*forget=*/true, Patience());
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_EQ((*deleted)[0], absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound((*deleted)[1])) << (*deleted)[1];
  Put(*client, "n", "a", EntryOf({&encoding}, 1));
  // Known deletions can be forgotten, once.
  const auto outcome = [&](bool forget) {
    const auto again = Admin()->DeleteDocuments("n", {"a"}, forget, Patience());
    return again.ok() ? (*again)[0] : again.status();
  };
  EXPECT_EQ(outcome(/*forget=*/false), absl::OkStatus());
  EXPECT_EQ(outcome(/*forget=*/true), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(outcome(/*forget=*/true)));
}

TEST_F(AdminTest, ANamespaceGoesWithAllThatIsInIt) {
  StartNode();
  const auto client = Client();
  const auto admin = Admin();
  RawData data(transport_.get(), node_->data_address());
  ASSERT_TRUE(data.Hello(client->token()).ok());
  const Synthetic encoding = MakeSynthetic(1), other = MakeSynthetic(2);
  ASSERT_TRUE(data.Push("typo", encoding).ok());
  ASSERT_TRUE(data.Push("typo", other).ok());
  ASSERT_TRUE(data.Push("kept", encoding).ok());
  ASSERT_TRUE(data.Act("typo", proto::EncodingAction::PIN, {other.manifest.identity}).ok());
  for (int i = 0; i < 20; ++i) Put(*client, "typo", absl::StrCat("d", i), EntryOf({&encoding}, 1));
  Put(*client, "kept", "d", EntryOf({&encoding}, 1));
  ASSERT_TRUE(admin->SetNamespace({"typo", int64_t{64} << 20}, Patience()).ok());
  const auto gone = admin->DeleteNamespace("typo", Patience());
  ASSERT_TRUE(gone.ok()) << gone.status();
  EXPECT_EQ(gone->documents, 20);
  for (int round = 0; round < 2; ++round) {
    const auto status = Admin()->Status(Patience());
    ASSERT_TRUE(status.ok()) << status.status();
    ASSERT_EQ(status->namespaces.size(), 1u) << status->namespaces[0].limits.name;
    EXPECT_EQ(status->namespaces[0].limits.name, "kept");
    EXPECT_EQ(status->namespaces[0].encodings, 1);
    node_->Start();
  }
  Put(*Client(), "typo", "d0", EntryOf({&encoding}, 0));  // nothing is remembered
}

TEST_F(AdminTest, PinsAreTakenBack) {
  StartNode();
  const auto client = Client();
  RawData data(transport_.get(), node_->data_address());
  ASSERT_TRUE(data.Hello(client->token()).ok());
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data.Push("a", encoding).ok());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(data.Act("a", proto::EncodingAction::PIN, {encoding.manifest.identity}).ok());
  const auto admin = Admin();
  EXPECT_EQ(admin->DropPins("b", Patience()).value_or(-1), 0);
  EXPECT_EQ(admin->DropPins("a", Patience()).value_or(-1), 2);
  EXPECT_EQ(admin->Status(Patience())->values.at("pinned_encodings"), 0);
}

TEST_F(AdminTest, LimitsChangeOnlyWhereTheyAreGiven) {
  StartNode();
  const auto admin = Admin();
  auto outcome = admin->SetNamespace({"a", int64_t{32} << 20, int64_t{8} << 20}, Patience());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  outcome = admin->SetNamespace({"a", std::nullopt, int64_t{4} << 20}, Patience());
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(outcome->limits.capacity_bytes, 32 << 20);
  EXPECT_EQ(outcome->limits.pinned_bytes, 4 << 20);
  outcome = admin->GetNamespace("a", Patience());
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(outcome->limits.capacity_bytes, 32 << 20);
  EXPECT_EQ(outcome->bytes_over, 0);
  const auto client = Client();
  RawData data(transport_.get(), node_->data_address());
  ASSERT_TRUE(data.Hello(client->token()).ok());
  ASSERT_TRUE(data.Push("a", MakeSynthetic(1)).ok());
  outcome = admin->SetNamespace({"a", 4096}, Patience());
  ASSERT_TRUE(outcome.ok());
  EXPECT_GT(outcome->bytes_over, 0);
}

TEST_F(AdminTest, ADrainedNodeTakesNothingMore) {
  const std::string access = scratch_.path() + "/access";
  WriteAccessFile(access, "writer writer-key-123456 write *\nadmin admin-key-1234567 admin *\n");
  StartNode([&](store::node::NodeOptions* options) { options->access_file = access; });
  const auto writer = Client("writer-key-123456");
  RawData data(transport_.get(), node_->data_address());
  ASSERT_TRUE(data.Hello(writer->token()).ok());
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data.Push("a", encoding).ok());
  ASSERT_TRUE(Admin("admin-key-1234567")
                  ->Drain(
                      false, [](const auto&) { return true; }, Patience())
                  .ok());
  EXPECT_TRUE(absl::IsUnavailable(data.Pull("a", encoding.manifest).status()));
  v1::Session session;
  EXPECT_EQ((*writer)->RenewSession(writer->Context().get(), {}, &session).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Admin("admin-key-1234567")->Status(Patience()).ok());
}

TEST_F(AdminTest, AnAccessFileThatOthersMayReadIsRefused) {
  const std::string access = scratch_.path() + "/access";
  WriteAccessFile(access, "admin admin-key-1234567 admin *\n");
  for (const mode_t mode : {0640, 0604, 0620, 0666}) {
    ASSERT_EQ(chmod(access.c_str(), mode), 0);
    store::node::NodeOptions options;
    options.directory = scratch_.path() + "/store";
    options.access_file = access;
    options.log = [](absl::string_view) {};
    const auto node = store::node::Node::Start(std::move(options));
    EXPECT_EQ(node.status().code(), absl::StatusCode::kFailedPrecondition) << mode;
    EXPECT_THAT(std::string(node.status().message()), HasSubstr("chmod 600"));
  }
}

TEST_F(AdminTest, KeysComeAndGoWhileTheNodeServes) {
  const std::string access = scratch_.path() + "/access";
  WriteAccessFile(access, "one one-key-123456789 read a\ntwo two-key-123456789 read a\n");
  StartNode([&](store::node::NodeOptions* options) { options->access_file = access; });
  const auto one = Client("one-key-123456789"), two = Client("two-key-123456789");
  // A mistake changes nothing.
  WriteAccessFile(access, "one short read a\n");
  EXPECT_FALSE((*node_)->UseAccess(store::node::AccessList::Load(access)).ok());
  EXPECT_TRUE(one->Stats().ok());
  WriteAccessFile(access, "one one-key-123456789 read a\nthree three-key-1234567 read a\n");
  EXPECT_TRUE((*node_)->UseAccess(store::node::AccessList::Load(access)).ok());
  EXPECT_TRUE(one->Stats().ok());
  EXPECT_EQ(two->Stats().status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(RawControl((*node_)->addresses().control).Open("two-key-123456789").status().code(),
            absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(Client("three-key-1234567")->Stats().ok());
  // Another right is another grant.
  WriteAccessFile(access, "one one-key-123456789 write a\n");
  EXPECT_TRUE((*node_)->UseAccess(store::node::AccessList::Load(access)).ok());
  EXPECT_EQ(one->Stats().status().code(), absl::StatusCode::kUnauthenticated);
}

// Connects and says nothing.
Descriptor Silent(const std::string& address) {
  const auto to = transport::Resolve(*transport::ParseAddress(address));
  Descriptor silent(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(silent.get(), to->get(), to->length), 0);
  return silent;
}

TEST_F(AdminTest, SilentConnectionsDoNotHoldUpMetrics) {
  StartNode([](store::node::NodeOptions* options) { options->metrics_address = "127.0.0.1:0"; });
  const std::string address = (*node_)->addresses().metrics;
  std::vector<Descriptor> silent;
  const int64_t count = std::min<int64_t>(1000, RaiseDescriptorLimit() - 1000);
  for (int64_t i = 0; i < count; ++i) silent.push_back(Silent(address));
  absl::SleepFor(absl::Milliseconds(100));
  const absl::Time began = SteadyNow();
  const Descriptor reader = Silent(address);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  ASSERT_EQ(send(reader.get(), request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string page;
  char piece[4096];
  for (ssize_t got = 0; (got = recv(reader.get(), piece, sizeof(piece), 0)) > 0;) page.append(piece, got);
  EXPECT_THAT(page, HasSubstr("kvlink_sessions"));
  EXPECT_LT(SteadyNow() - began, absl::Seconds(20));  // it was 30 s for each silent connection
}

TEST_F(AdminTest, AMetricsAddressInUseIsNamedWithTheReason) {
  StartNode([](store::node::NodeOptions* options) { options->metrics_address = "127.0.0.1:0"; });
  store::node::NodeOptions options;
  options.directory = scratch_.path() + "/store";
  options.metrics_address = (*node_)->addresses().metrics;
  options.log = [](absl::string_view) {};
  const auto second = store::node::Node::Start(std::move(options));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*node_)->addresses().metrics));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
}

// An authority, and certificates of it for 127.0.0.1.
class TlsTest : public AdminTest {
 protected:
  void SetUp() override {
    if (!HaveOpenssl()) GTEST_SKIP() << "no openssl here";
    ASSERT_TRUE(MakeCertificates(scratch_.path()));
  }
  std::string File(const std::string& name) const { return scratch_.path() + "/" + name; }
};

TEST_F(TlsTest, ClientsCheckTheNode) {
  StartNode([&](store::node::NodeOptions* options) {
    options->tls.certificate_file = File("node.pem");
    options->tls.key_file = File("node.key");
  });
  transport::TlsOptions tls;
  tls.ca_file = File("ca.pem");
  EXPECT_TRUE(Admin("", tls)->Status(Patience()).ok());
  tls.ca_file = File("stranger.pem");
  EXPECT_FALSE(Admin("", tls)->Status(SteadyNow() + absl::Seconds(3)).ok());
  EXPECT_FALSE(Admin()->Status(SteadyNow() + absl::Seconds(3)).ok()) << "plain text";
}

// The way of encodings is encrypted, too, unless one that is not is named; and the node is found by a name that stands
// for several addresses, at some of which nobody listens.
TEST_F(TlsTest, EncodingsTravelEncrypted) {
  node_ = std::make_unique<TestNode>(Carrier::kUcx, [&](store::node::NodeOptions* options) {
    options->tls.certificate_file = File("node.pem");
    options->tls.key_file = File("node.key");
  });
  const std::string address = (*node_)->addresses().control;
  store::client::RemoteOptions options;
  options.address = absl::StrCat("localhost", address.substr(address.rfind(':')));
  options.tls.ca_file = File("ca.pem");
  options.name = "test";
  options.receive_bytes = options.sending_bytes = int64_t{8} << 20;
  const Synthetic encoding = MakeSynthetic(1);
  for (const store::client::Carrier carrier :
       {store::client::Carrier::kAuto, store::client::Carrier::kGrpc, store::client::Carrier::kUcx}) {
    options.carrier = carrier;
    const auto store = store::client::OpenRemote(options);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->ReadCarrier(), carrier == store::client::Carrier::kUcx ? "ucx" : "grpc");
    const auto put = (*store)->Put("a", encoding.manifest, encoding.spans(), Patience());
    ASSERT_TRUE(put.ok()) << put.status();
    const auto lease =
        (*store)->Read("a", encoding.manifest.identity, Codec::kRawBf16, encoding.manifest.etag, Patience());
    ASSERT_TRUE(lease.ok()) << lease.status();
    EXPECT_TRUE((*lease)->WaitLayer(1, Patience()).ok());
    if (carrier == store::client::Carrier::kAuto) {
      EXPECT_THAT((*store)->Stats()->io, HasSubstr("ucx does not encrypt"));
    }
  }
}

TEST_F(TlsTest, ANodeMayAskClientsForTheirCertificates) {
  StartNode([&](store::node::NodeOptions* options) {
    options->tls = {File("ca.pem"), File("node.pem"), File("node.key")};
  });
  transport::TlsOptions tls;
  tls.ca_file = File("ca.pem");
  EXPECT_FALSE(Admin("", tls)->Status(SteadyNow() + absl::Seconds(3)).ok());
  tls.certificate_file = File("client.pem");
  tls.key_file = File("client.key");
  const auto status = Admin("", tls)->Status(Patience());
  EXPECT_TRUE(status.ok()) << status.status();
}

TEST_F(TlsTest, CertificatesAreRenewedWithoutARestart) {
  const std::string renewed = File("renewed");
  std::filesystem::create_directory(renewed);
  ASSERT_TRUE(MakeCertificates(renewed));
  const auto install = [&](const std::string& name) {
    std::filesystem::copy_file(renewed + "/" + name, File(name), std::filesystem::copy_options::overwrite_existing);
  };
  // Waits for a line of the log. It may also tell of files of other tests in this process.
  const auto await_line = [&](const std::string& event, const std::string& text) {
    const auto logged = [&] {
      return absl::c_any_of(node_->log.lines(), [&](const std::string& line) {
        return absl::StrContains(line, event) && absl::StrContains(line, text);
      });
    };
    const absl::Time deadline = Patience();
    while (!logged() && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(50));
    EXPECT_TRUE(logged()) << event << " " << text;
  };
  std::string address = "127.0.0.1:0";
  StartNode([&](store::node::NodeOptions* options) {
    options->tls = {File("ca.pem"), File("node.pem"), File("node.key")};
    options->control_address = address;
  });
  address = (*node_)->addresses().control;
  const auto admin = Admin("", {File("ca.pem"), File("client.pem"), File("client.key")});
  ASSERT_TRUE(admin->Status(Patience()).ok());

  install("node.pem");
  const std::string why = "does not belong to the certificate " + File("node.pem");
  await_line("tls_files_not_used", why);
  // The node still presents the certificate of the authority that these clients know.
  EXPECT_TRUE(Admin("", {File("ca.pem"), File("client.pem"), File("client.key")})->Status(Patience()).ok());
  for (const char* name : {"node.key", "ca.pem", "client.pem", "client.key"}) install(name);
  await_line("tls_files_replaced", File("node.pem"));
  EXPECT_EQ(node_->log.Count(why), 1) << "once";
  EXPECT_TRUE(admin->Status(Patience()).ok()) << "over the connection that there is";
  EXPECT_TRUE(
      Admin("", {renewed + "/ca.pem", renewed + "/client.pem", renewed + "/client.key"})->Status(Patience()).ok());

  // A client that has to connect anew follows its own files.
  node_->Start();
  const auto status = admin->Status(Patience());
  EXPECT_TRUE(status.ok()) << status.status();
}

// As on a file system that hangs.
TEST_F(TlsTest, ANodeEndsWhileAFileHangs) {
  StartNode([&](store::node::NodeOptions* options) {
    options->tls = {File("ca.pem"), File("node.pem"), File("node.key")};
  });
  std::filesystem::remove(File("node.pem"));
  ASSERT_EQ(mkfifo(File("node.pem").c_str(), 0600), 0);
  // Can be opened once somebody reads, who then waits for what is never written.
  int writer = -1;
  for (const absl::Time deadline = Patience(); writer < 0 && SteadyNow() < deadline;) {
    absl::SleepFor(absl::Milliseconds(50));
    writer = open(File("node.pem").c_str(), O_WRONLY | O_NONBLOCK);
  }
  ASSERT_GE(writer, 0) << "nobody reads the file";
  std::atomic<bool> ended{false};
  bool waited = false;
  Thread frees("frees", [&] {
    for (const absl::Time deadline = Patience(); !ended && SteadyNow() < deadline;) {
      absl::SleepFor(absl::Milliseconds(50));
    }
    waited = !ended;
    close(writer);
  });
  node_ = nullptr;
  ended = true;
  frees.Join();
  EXPECT_FALSE(waited) << "the node waited for the file";
}

TEST_F(TlsTest, MistakesAreNamed) {
  transport::TlsOptions tls;
  tls.ca_file = File("missing.pem");
  const auto admin = store::client::NodeAdmin::Create({"127.0.0.1:1", "", "admin", tls});
  EXPECT_THAT(std::string(admin->Status(Patience()).status().message()), HasSubstr("missing.pem"));
  store::node::NodeOptions options;
  options.directory = scratch_.path() + "/store";
  options.tls.certificate_file = File("node.pem");
  const auto node = store::node::Node::Start(std::move(options));
  EXPECT_EQ(node.status().code(), absl::StatusCode::kInvalidArgument) << node.status();
}

TEST_F(AdminTest, AKeyDoesNotTravelInPlainText) {
  const auto admin = store::client::NodeAdmin::Create({"192.0.2.1:7400", "sixteen-letters-a", "admin"});
  const auto status = admin->Status(SteadyNow() + absl::Seconds(2));
  EXPECT_EQ(status.status().code(), absl::StatusCode::kFailedPrecondition) << status.status();
  store::node::NodeOptions options;
  options.directory = scratch_.path() + "/store";
  options.access_file = scratch_.path() + "/access";
  options.control_address = "0.0.0.0:0";
  options.log = [](absl::string_view) {};
  WriteAccessFile(options.access_file, "admin admin-key-1234567 admin *\n");
  EXPECT_EQ(store::node::Node::Start(std::move(options)).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace kvlink::testing
