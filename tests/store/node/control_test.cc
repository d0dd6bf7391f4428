// The node's gRPC service: sessions, rights, catalog, namespaces, administration.
#include <arpa/inet.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/metadata.h"
#include "tests/store/node/raw_client.h"
#include "transport/grpc/status.h"

namespace kvlink::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace v1 = store::v1;

absl::StatusCode Code(const v1::Result& result) { return static_cast<absl::StatusCode>(result.code()); }

// An unguarded node, or one with an access file.
std::string AsPut(const std::string& entry) {
  auto parsed = ParseCatalogEntry({entry.data(), entry.size()});
  EXPECT_TRUE(parsed.ok() && parsed->written_at_us > 0) << parsed.status();
  return parsed.ok() ? ContentOf(*std::move(parsed)) : "";
}

class ControlTest : public ::testing::Test {
 protected:
  void Guard() {
    WriteAccessFile(access_.path() + "/access",
                    "reader  reader-key-123456 read  a\n"
                    "writer  writer-key-123456 write a,b\n"
                    "admin   admin-key-1234567 admin *\n"
                    "owner   owner-key-1234567 admin a\n");
    change_ = [this](store::node::NodeOptions* options) { options->access_file = access_.path() + "/access"; };
  }
  void SetUp() override {}
  void StartNode() {
    node_ = std::make_unique<TestNode>(Carrier::kLoopback, [this](store::node::NodeOptions* options) {
      if (change_) change_(options);
    });
  }
  std::unique_ptr<RawControl> Client(const std::string& key = "") {
    auto client = std::make_unique<RawControl>((*node_)->addresses().control);
    const auto session = client->Open(key);
    EXPECT_TRUE(session.ok()) << session.status();
    return client;
  }
  static absl::Status Put(const RawControl& client, const std::string& ns, const std::string& id,
                          const CatalogEntry& entry) {
    v1::PutDocumentsRequest request;
    request.set_ns(ns);
    v1::Document* const document = request.add_documents();
    document->set_id(id);
    document->set_entry(SerializeCatalogEntry(entry));
    v1::Results results;
    const absl::Status status = transport::FromGrpc(client->PutDocuments(client.Context().get(), request, &results));
    if (!status.ok()) return status;
    return absl::Status(Code(results.results(0)), results.results(0).message());
  }

  ScratchDirectory access_{/*in_memory=*/true};
  TestNode::Change change_;
  std::unique_ptr<TestNode> node_;
};

TEST_F(ControlTest, DocumentsAreKeptListedAndDeleted) {
  StartNode();
  const auto client = Client();
  const Synthetic encoding = MakeSynthetic(1);
  v1::PutDocumentsRequest put;
  put.set_ns("a");
  for (const char* id : {"one", "two", "bad\x01name"}) {
    v1::Document* const document = put.add_documents();
    document->set_id(id);
    document->set_entry(SerializeCatalogEntry(EntryOf({&encoding}, 5, "Title")));
  }
  put.add_documents()->set_id("three");
  v1::Results results;
  ASSERT_TRUE((*client)->PutDocuments(client->Context().get(), put, &results).ok());
  ASSERT_EQ(results.results_size(), 4);
  EXPECT_EQ(Code(results.results(0)), absl::StatusCode::kOk);
  EXPECT_EQ(Code(results.results(1)), absl::StatusCode::kOk);
  EXPECT_EQ(Code(results.results(2)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code(results.results(3)), absl::StatusCode::kInvalidArgument);  // no entry
  EXPECT_EQ(results.results(0).generation(), 5u);
  EXPECT_EQ(results.results(2).generation(), 0u);

  v1::GetDocumentsRequest get;
  get.set_ns("a");
  get.add_ids("two");
  get.add_ids("three");
  v1::GetDocumentsResponse got;
  ASSERT_TRUE((*client)->GetDocuments(client->Context().get(), get, &got).ok());
  ASSERT_EQ(got.results_size(), 2);
  EXPECT_EQ(AsPut(got.entries(0)), put.documents(1).entry());
  EXPECT_EQ(Code(got.results(1)), absl::StatusCode::kNotFound);
  EXPECT_TRUE(got.entries(1).empty());

  // A lower generation does not replace a higher one.
  EXPECT_EQ(Put(*client, "a", "one", EntryOf({&encoding}, 4)).code(), absl::StatusCode::kFailedPrecondition);

  v1::ListDocumentsRequest list;
  list.set_ns("a");
  list.set_after("one");
  list.set_limit(10);
  v1::ListDocumentsResponse listed;
  ASSERT_TRUE((*client)->ListDocuments(client->Context().get(), list, &listed).ok());
  ASSERT_EQ(listed.documents_size(), 1);
  EXPECT_EQ(listed.documents(0).id(), "two");
  EXPECT_EQ(listed.documents(0).title(), "Title");
  EXPECT_EQ(listed.documents(0).generation(), 5u);
  EXPECT_EQ(listed.documents(0).tokens(), 3);
  EXPECT_GT(listed.documents(0).written_at_us(), 0u);
  EXPECT_TRUE(listed.next().empty());
  list.set_after("");
  list.set_limit(1);
  listed.Clear();
  ASSERT_TRUE((*client)->ListDocuments(client->Context().get(), list, &listed).ok());
  EXPECT_EQ(listed.next(), "one") << "there may be more after it";

  v1::DeleteDocumentsRequest remove;
  remove.set_ns("a");
  for (const uint64_t generation : {uint64_t{6}, uint64_t{3}}) {
    v1::DeletedDocument* const document = remove.add_documents();
    document->set_id(generation == 6 ? "two" : "one");
    document->set_generation(generation);
  }
  results.Clear();
  ASSERT_TRUE((*client)->DeleteDocuments(client->Context().get(), remove, &results).ok());
  EXPECT_EQ(Code(results.results(0)), absl::StatusCode::kOk);
  EXPECT_EQ(Code(results.results(1)), absl::StatusCode::kFailedPrecondition);

  // Kept over a restart.
  node_->Start();
  const auto later = Client();
  got.Clear();
  get.add_ids("one");
  ASSERT_TRUE((*later)->GetDocuments(later->Context().get(), get, &got).ok());
  EXPECT_EQ(Code(got.results(0)), absl::StatusCode::kNotFound);
  EXPECT_EQ(AsPut(got.entries(2)), put.documents(0).entry());
}

TEST_F(ControlTest, BatchesAreBounded) {
  StartNode();
  const auto client = Client();
  v1::Results results;
  v1::PutDocumentsRequest put;
  put.set_ns("a");
  EXPECT_EQ((*client)->PutDocuments(client->Context().get(), put, &results).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  v1::GetDocumentsRequest get;
  get.set_ns("a");
  for (int i = 0; i < 1025; ++i) get.add_ids("x");
  v1::GetDocumentsResponse got;
  EXPECT_EQ((*client)->GetDocuments(client->Context().get(), get, &got).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  get.clear_ids();
  get.add_ids("x");
  get.set_ns("");
  EXPECT_EQ((*client)->GetDocuments(client->Context().get(), get, &got).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ControlTest, ATokenIsNeeded) {
  StartNode();
  RawControl client((*node_)->addresses().control);
  for (const std::string& token : {std::string(), std::string("x"), std::string(16, 'x'), std::string(2000, 'x')}) {
    client.set_token(token);
    EXPECT_EQ(client.Stats().status().code(), absl::StatusCode::kUnauthenticated);
  }
  const auto session = client.Open();
  ASSERT_TRUE(session.ok());
  EXPECT_TRUE(client.Stats().ok());
  v1::CloseSessionResponse closed;
  EXPECT_TRUE(client->CloseSession(client.Context().get(), {}, &closed).ok());
  EXPECT_EQ(client.Stats().status().code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(ControlTest, SessionsExpireUnlessRenewed) {
  change_ = [](store::node::NodeOptions* options) { options->limits.session_lifetime = absl::Seconds(3); };
  StartNode();
  const auto renewed = Client(), left = Client();
  const absl::Time begin = SteadyNow();
  while (SteadyNow() < begin + absl::Seconds(5)) {
    v1::Session session;
    ASSERT_TRUE((*renewed)->RenewSession(renewed->Context().get(), {}, &session).ok());
    EXPECT_EQ(session.token(), renewed->token());
    absl::SleepFor(absl::Milliseconds(100));
  }
  EXPECT_EQ(left->Stats().status().code(), absl::StatusCode::kUnauthenticated);
  const auto stats = renewed->Stats();
  ASSERT_TRUE(stats.ok());
  v1::Session session;
  EXPECT_EQ((*left)->RenewSession(left->Context().get(), {}, &session).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(ControlTest, SessionsAreBounded) {
  change_ = [](store::node::NodeOptions* options) {
    options->limits.sessions = 3, options->limits.sessions_reserved = 0;
  };
  StartNode();
  const auto first = Client(), second = Client(), third = Client();
  RawControl fourth((*node_)->addresses().control);
  const auto context = fourth.Context();
  v1::Session session;
  v1::OpenSessionRequest request;
  request.set_protocol_min(kProtocols.min);
  request.set_protocol_max(kProtocols.max);
  EXPECT_EQ(fourth->OpenSession(context.get(), request, &session).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(context->GetServerTrailingMetadata().count(kRetryAfterMetadata), 1u);
  v1::CloseSessionResponse closed;
  ASSERT_TRUE((*first)->CloseSession(first->Context().get(), {}, &closed).ok());
  EXPECT_TRUE(fourth.Open().ok());
}

TEST_F(ControlTest, RightsAreThoseOfTheKey) {
  Guard();
  StartNode();
  RawControl stranger((*node_)->addresses().control);
  EXPECT_EQ(stranger.Open("").status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(stranger.Open("reader-key-12345").status().code(), absl::StatusCode::kUnauthenticated);
  const auto reader = Client("reader-key-123456"), writer = Client("writer-key-123456"),
             admin = Client("admin-key-1234567"), owner = Client("owner-key-1234567");
  const Synthetic encoding = MakeSynthetic(1);
  const CatalogEntry entry = EntryOf({&encoding}, 1);
  EXPECT_EQ(Put(*reader, "a", "one", entry).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(Put(*writer, "a", "one", entry).ok());
  EXPECT_TRUE(Put(*writer, "b", "one", entry).ok());
  EXPECT_EQ(Put(*writer, "c", "one", entry).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(Put(*admin, "c", "one", entry).ok());

  v1::ListDocumentsRequest list;
  list.set_ns("b");
  list.set_limit(1);
  v1::ListDocumentsResponse listed;
  EXPECT_EQ((*reader)->ListDocuments(reader->Context().get(), list, &listed).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  list.set_ns("a");
  EXPECT_TRUE((*reader)->ListDocuments(reader->Context().get(), list, &listed).ok());

  // A session sees the namespaces that it may read.
  v1::ListNamespacesResponse namespaces;
  ASSERT_TRUE((*reader)->ListNamespaces(reader->Context().get(), {}, &namespaces).ok());
  ASSERT_EQ(namespaces.namespaces_size(), 1);
  EXPECT_EQ(namespaces.namespaces(0).name(), "a");
  const auto stats = writer->Stats();
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->namespaces_size(), 2);

  v1::PutNamespaceRequest quota;
  v1::PutNamespaceResponse kept;
  quota.set_name("a");
  quota.set_capacity_bytes(64 << 20);
  EXPECT_EQ((*writer)->PutNamespace(writer->Context().get(), quota, &kept).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE((*owner)->PutNamespace(owner->Context().get(), quota, &kept).ok());
  quota.set_name("b");
  EXPECT_EQ((*owner)->PutNamespace(owner->Context().get(), quota, &kept).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  v1::DropDramTierResponse dropped;
  EXPECT_EQ((*owner)->DropDramTier(owner->Context().get(), {}, &dropped).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE((*admin)->DropDramTier(admin->Context().get(), {}, &dropped).ok());
  // Keys are in no log.
  for (const std::string& line : node_->log.lines()) EXPECT_THAT(line, Not(HasSubstr("-key-")));
}

TEST_F(ControlTest, NamespacesKeepTheirLimits) {
  StartNode();
  const auto client = Client();
  v1::PutNamespaceRequest quota;
  v1::PutNamespaceResponse kept;
  quota.set_name("a");
  quota.set_capacity_bytes(32 << 20);
  quota.set_pinned_bytes(1 << 20);
  ASSERT_TRUE((*client)->PutNamespace(client->Context().get(), quota, &kept).ok());
  EXPECT_EQ(kept.settings().revision(), 1u);
  // Once more, as by whoever lost the answer; then another change of that revision.
  quota.set_revision(1);
  ASSERT_TRUE((*client)->PutNamespace(client->Context().get(), quota, &kept).ok());
  EXPECT_EQ(kept.settings().revision(), 1u);
  quota.set_pinned_bytes(2 << 20);
  const grpc::Status old = (*client)->PutNamespace(client->Context().get(), quota, &kept);
  EXPECT_EQ(old.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(old.error_message(), HasSubstr("revision 1 does not replace the current revision 1"));
  quota.set_pinned_bytes(1 << 20);
  quota.set_revision(5);
  ASSERT_TRUE((*client)->PutNamespace(client->Context().get(), quota, &kept).ok());
  EXPECT_EQ(kept.settings().revision(), 5u);
  quota.clear_revision();
  quota.set_capacity_bytes(-1);
  EXPECT_EQ((*client)->PutNamespace(client->Context().get(), quota, &kept).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  node_->Start();
  const auto later = Client();
  v1::ListNamespacesResponse namespaces;
  ASSERT_TRUE((*later)->ListNamespaces(later->Context().get(), {}, &namespaces).ok());
  ASSERT_EQ(namespaces.namespaces_size(), 1);
  EXPECT_EQ(namespaces.namespaces(0).capacity_bytes(), 32 << 20);
  EXPECT_EQ(namespaces.namespaces(0).pinned_bytes(), 1 << 20);
  EXPECT_EQ(namespaces.namespaces(0).revision(), 5u);
}

TEST_F(ControlTest, EncodingsAreListedAndVerified) {
  StartNode();
  const auto client = Client();
  const auto transport = node_->NewClientTransport();
  RawData data(transport.get(), node_->data_address());
  ASSERT_TRUE(data.Hello(client->token()).ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(data.Push("a", MakeSynthetic(i)).ok());
  v1::ListEncodingsRequest list;
  list.set_ns("a");
  list.set_limit(2);
  std::vector<Manifest> manifests;
  while (true) {
    v1::ListEncodingsResponse listed;
    ASSERT_TRUE((*client)->ListEncodings(client->Context().get(), list, &listed).ok());
    if (listed.manifests_size() == 0) break;
    for (const std::string& bytes : listed.manifests()) {
      manifests.push_back(*ParseManifest({bytes.data(), bytes.size()}));
      list.set_after(std::string(BytesOf(manifests.back().identity)));
    }
  }
  EXPECT_EQ(manifests.size(), 3u);
  list.set_after("short");
  v1::ListEncodingsResponse listed;
  EXPECT_EQ((*client)->ListEncodings(client->Context().get(), list, &listed).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);

  const auto context = client->Context();
  const auto stream = (*client)->Verify(context.get(), {});
  v1::VerifyProgress progress, last;
  while (stream->Read(&progress)) last = progress;
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(last.finished());
  EXPECT_EQ(last.encodings(), 3);
  EXPECT_EQ(last.damaged_size(), 0);
}

TEST_F(ControlTest, ADrainLetsReadersEnd) {
  StartNode();
  const auto client = Client();
  const auto transport = node_->NewClientTransport();
  RawData data(transport.get(), node_->data_address());
  ASSERT_TRUE(data.Hello(client->token()).ok());
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data.Push("a", encoding).ok());
  // A pull that waits for its receives.
  const uint64_t first = data.TakePayloadIds(2);
  const uint64_t pull = data.Send(RawData::PullOf("a", encoding.manifest, first, 2));
  ASSERT_TRUE(data.Next(pull)->has_pull_started());

  v1::DrainRequest request;
  request.set_stop(true);
  const auto context = client->Context();
  const auto stream = (*client)->Drain(context.get(), request);
  v1::DrainProgress progress;
  ASSERT_TRUE(stream->Read(&progress));
  EXPECT_FALSE(progress.drained());
  EXPECT_EQ(progress.pulls(), 1);
  EXPECT_FALSE((*node_)->WaitForStop(SteadyNow()));

  EXPECT_EQ(data.Push("a", MakeSynthetic(2)).status().code(), absl::StatusCode::kUnavailable);
  // Reads go on.
  EXPECT_NE((*data.Lookup("a", {encoding.manifest.identity}))[0].tier, 0);
  std::vector<Completion> arrived(2);
  for (int i = 0; i < 2; ++i) {
    const int64_t length = encoding.manifest.layers[i].length;
    data.connection()->PostReceive(first + i, {*transport->Allocate(length), 0, length}, Patience(),
                                   arrived[i].ForReceive());
  }
  EXPECT_TRUE(arrived[0].Wait().ok());
  EXPECT_TRUE(arrived[1].Wait().ok());
  while (stream->Read(&progress)) continue;
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(progress.drained());
  EXPECT_TRUE((*node_)->WaitForStop(Patience()));
}

// A call whose messages have no generated code here: one request, one response.
absl::StatusOr<std::string> CallRaw(const std::string& address, const std::string& method, const std::string& request) {
  grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(ToSystemClock(Patience()));
  grpc::CompletionQueue queue;
  const auto done = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto stream = stub.PrepareCall(&context, method, &queue);
  const grpc::Slice slice(request);
  grpc::ByteBuffer response;
  grpc::Slice answer;
  grpc::Status status;
  stream->StartCall(nullptr);
  (void)done();
  // The answer may be there before the question is read.
  stream->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  (void)done();
  stream->Read(&response, nullptr);
  const bool read = done();
  stream->Finish(&status, nullptr);
  (void)done();
  if (!status.ok()) return transport::FromGrpc(status);
  if (!read || !response.DumpToSingleSlice(&answer).ok()) return absl::InternalError("no response");
  return std::string(reinterpret_cast<const char*>(answer.begin()), answer.size());
}

TEST_F(ControlTest, HealthIsToldUntilADrain) {
  StartNode();
  const auto health = [this](const std::string& service) {
    return CallRaw((*node_)->addresses().control, "/grpc.health.v1.Health/Check", Field(1, service));
  };
  const std::string serving("\x08\x01"), not_serving("\x08\x02");
  for (const char* service : {"", "kvlink.store.v1.Store"}) {
    const auto told = health(service);
    ASSERT_TRUE(told.ok()) << "'" << service << "': " << told.status();
    EXPECT_EQ(*told, serving) << service;
  }
  (*node_)->Drain();
  for (const char* service : {"", "kvlink.store.v1.Store"}) EXPECT_EQ(health(service).value_or(""), not_serving);
}

TEST_F(ControlTest, NothingIsServedToOtherHostsWithoutAnAccessFile) {
  ScratchDirectory directory(/*in_memory=*/true);
  for (int i = 0; i < 3; ++i) {
    store::node::NodeOptions options;
    options.directory = directory.path() + "/store";
    options.log = [](absl::string_view) {};
    (i == 0 ? options.control_address : i == 1 ? options.data_address : options.metrics_address) = "0.0.0.0:0";
    const auto node = store::node::Node::Start(std::move(options));
    EXPECT_EQ(node.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(node.status().message()), HasSubstr("access file"));
  }
  {
    // UCX by itself would listen on every device.
    unsetenv("UCX_NET_DEVICES");
    store::node::NodeOptions options;
    options.directory = directory.path() + "/store";
    options.log = [](absl::string_view) {};
    options.data_address = "127.0.0.1:0";
    const auto node = store::node::Node::Start(std::move(options));
    ASSERT_TRUE(node.ok()) << node.status();
    const auto addresses = Listening();
    EXPECT_GE(addresses.size(), 2u);
    EXPECT_EQ(addresses.count("0100007F"), addresses.size()) << *addresses.begin();
  }
  Guard();
  change_ = [this](store::node::NodeOptions* options) {
    options->access_file = access_.path() + "/access";
    options->control_address = "0.0.0.0:0";
    options->tls.insecure = true;
  };
  StartNode();
}

TEST_F(ControlTest, UcxListensOnOneNetwork) {
  Guard();
  for (const char* everywhere : {"0.0.0.0:0", "[::]:0"}) {
    ScratchDirectory directory(/*in_memory=*/true);
    store::node::NodeOptions options;
    options.directory = directory.path() + "/store";
    options.log = [](absl::string_view) {};
    options.access_file = access_.path() + "/access";
    options.data_address = everywhere;
    const auto node = store::node::Node::Start(std::move(options));
    EXPECT_EQ(node.status().code(), absl::StatusCode::kInvalidArgument) << node.status();
    EXPECT_THAT(std::string(node.status().message()), HasSubstr("one network"));
  }
}

// An address of this host that others may reach; "" if it has none.
std::string AddressOnANetwork() {
  ifaddrs* all = nullptr;
  std::string found;
  if (getifaddrs(&all) != 0) return found;
  for (const ifaddrs* of = all; of != nullptr && found.empty(); of = of->ifa_next) {
    if (of->ifa_addr == nullptr || of->ifa_addr->sa_family != AF_INET || (of->ifa_flags & IFF_LOOPBACK) != 0) continue;
    char text[INET_ADDRSTRLEN];
    found = inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(of->ifa_addr)->sin_addr, text, sizeof(text));
  }
  freeifaddrs(all);
  return found;
}

TEST_F(ControlTest, WhomUcxTrustsIsLogged) {
  const std::string network = AddressOnANetwork();
  if (network.empty()) GTEST_SKIP() << "this host has no network";
  Guard();
  for (const auto& [address, warnings] : {std::pair<std::string, int>("127.0.0.1", 0), {network, 1}}) {
    ScratchDirectory directory(/*in_memory=*/true);
    LogLines log;
    store::node::NodeOptions options;
    options.directory = directory.path() + "/store";
    options.log = log.Sink();
    options.access_file = access_.path() + "/access";
    options.data_address = address + ":0";
    // UCX may be kept from this network, and the node then does not start.
    store::node::Node::Start(std::move(options)).status().IgnoreError();
    EXPECT_EQ(log.Count("ucx_trusts_its_peers"), warnings) << address;
  }
}

TEST_F(ControlTest, ABusyAddressIsRefused) {
  StartNode();
  ScratchDirectory directory(/*in_memory=*/true);
  store::node::NodeOptions options;
  options.directory = directory.path() + "/store";
  options.log = [](absl::string_view) {};
  options.control_address = (*node_)->addresses().control;
  EXPECT_EQ(store::node::Node::Start(std::move(options)).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvlink::testing
