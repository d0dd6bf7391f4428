// Peers without identity and misused keys at the control service: they cost headers and a share, and administrators
// always get in.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/catalog.h"
#include "proto/metadata.h"
#include "store/node/namespaces.h"
#include "tests/store/node/raw_client.h"
#include "tests/support/seed.h"
#include "transport/address.h"

namespace kvlink::testing {
namespace {

using ::testing::AnyOf;
namespace v1 = store::v1;

// The most memory that this process has had since ForgetPeak.
int64_t PeakBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  int64_t kilobytes = 0;
  while (status >> word) {
    if (word == "VmHWM:") status >> kilobytes;
  }
  return kilobytes << 10;
}
void ForgetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kMeasuresMemory = false;
#else
constexpr bool kMeasuresMemory = true;
#endif

// A call whose parts are sent one by one, or not at all.
class RawCall {
 public:
  RawCall(grpc::GenericStub* stub, const std::string& method, std::unique_ptr<grpc::ClientContext> context)
      : context_(std::move(context)),
        call_(stub->PrepareCall(context_.get(), method.front() == '/' ? method : "/kvlink.store.v1.Store/" + method,
                                &queue_)) {
    call_->StartCall(&started_);
    (void)Next(&started_);
  }
  ~RawCall() {
    context_->TryCancel();
    if (!finished_) (void)Finish();
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }
  // False: the call has ended.
  bool Write(const std::string& message) {
    const grpc::Slice slice(message);
    call_->Write(grpc::ByteBuffer(&slice, 1), &written_);
    return Next(&written_);
  }
  // Begins to write, and waits for nothing.
  void StartWrite(const grpc::ByteBuffer& message) { call_->Write(message, &written_); }
  grpc::Status Finish() {
    finished_ = true;
    call_->Finish(&status_, &ended_);
    (void)Next(&ended_);
    return status_;
  }

 private:
  bool Next(void* wanted) {
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
      if (tag == wanted) return ok;
    }
    return false;
  }

  grpc::CompletionQueue queue_;
  const std::unique_ptr<grpc::ClientContext> context_;
  const std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  grpc::Status status_;
  char started_ = 0, written_ = 0, ended_ = 0;
  bool finished_ = false;
};

std::unique_ptr<grpc::GenericStub> NewStub(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetMaxReceiveMessageSize(-1);
  return std::make_unique<grpc::GenericStub>(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

class EdgeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = access_.path() + "/access";
    WriteAccessFile(path,
                    "reader  reader-key-123456 read  a\n"
                    "other   other-key-1234567 write a\n"
                    "admin   admin-key-1234567 admin *\n");
    node_ = std::make_unique<TestNode>(Carrier::kGrpc, [path](store::node::NodeOptions* options) {
      options->access_file = path;
      options->limits.control_receive = absl::Seconds(1);
      options->limits.control_answer = absl::Seconds(1);
    });
    address_ = (*node_)->addresses().control;
  }
  std::unique_ptr<RawControl> Client(const std::string& key) const {
    auto client = std::make_unique<RawControl>(address_);
    const auto session = client->Open(key);
    EXPECT_TRUE(session.ok()) << session.status();
    return client;
  }
  // Somebody else's call, and an administrator who comes now.
  void ExpectServes() {
    const auto other = Client("other-key-1234567"), admin = Client("admin-key-1234567");
    EXPECT_TRUE(other->Stats().ok());
    EXPECT_TRUE(admin->Stats().ok());
    v1::CloseSessionResponse closed;
    EXPECT_TRUE((*other)->CloseSession(other->Context().get(), {}, &closed).ok());
    EXPECT_TRUE((*admin)->CloseSession(admin->Context().get(), {}, &closed).ok());
  }

  ScratchDirectory access_{/*in_memory=*/true};
  std::unique_ptr<TestNode> node_;
  std::string address_;
};

TEST_F(EdgeTest, StreamsWithoutIdentityAreAnsweredAtOnce) {
  const int count = Soak() ? 10000 : 500;
  const RawControl nobody(address_);
  const std::vector<std::string> methods = {"PutDocuments", "OpenSession", "Verify", "NoSuchMethod"};
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  std::vector<std::unique_ptr<RawCall>> open;
  ForgetPeak();
  const int64_t before = PeakBytes();
  for (int i = 0; i < count; ++i) {
    if (i % 50 == 0) stubs.push_back(NewStub(address_));
    open.push_back(std::make_unique<RawCall>(stubs.back().get(), methods[i % methods.size()], nobody.Context()));
  }
  ASSERT_NO_FATAL_FAILURE(ExpectServes());
  for (const auto& call : open) {
    EXPECT_THAT(call->Finish().error_code(), AnyOf(grpc::StatusCode::UNAUTHENTICATED, grpc::StatusCode::UNIMPLEMENTED));
  }
  if (kMeasuresMemory) {
    EXPECT_LT(PeakBytes() - before, (int64_t{64} << 20) + count * (int64_t{64} << 10));
  }
}

constexpr char kDataStream[] = "/kvlink.store.v1.Data/Connect";

std::unique_ptr<grpc::ClientContext> CallAs(const std::string& caller) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(ToSystemClock(Patience()));
  if (!caller.empty()) context->AddMetadata("kvlink-caller-bin", caller);
  return context;
}

TEST_F(EdgeTest, TheDataStreamReadsNothingOfStrangers) {
  const std::string megabytes(size_t{4000} << 10, 'x');
  const grpc::Slice slice(megabytes.data(), megabytes.size(), grpc::Slice::STATIC_SLICE);
  const auto reader = Client("reader-key-123456");
  v1::CloseSessionResponse closed;
  const std::string ended = Client("reader-key-123456")->token();
  RawControl over(address_);
  over.set_token(ended);
  ASSERT_TRUE(over->CloseSession(over.Context().get(), {}, &closed).ok());
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  std::vector<std::unique_ptr<RawCall>> open;
  ForgetPeak();
  const int64_t before = PeakBytes();
  for (int i = 0; i < 128; ++i) {
    if (i % 32 == 0) stubs.push_back(NewStub(address_));
    const std::vector<std::string> callers = {"", "nobody", std::string(store::node::kTokenBytes, '\0'), ended};
    open.push_back(std::make_unique<RawCall>(stubs.back().get(), kDataStream, CallAs(callers[i % callers.size()])));
    open.back()->StartWrite(grpc::ByteBuffer(&slice, 1));
  }
  for (const auto& call : open) EXPECT_EQ(call->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  if (kMeasuresMemory) {
    EXPECT_LT(PeakBytes() - before, int64_t{64} << 20);
  }
  // A crowd of them is one line of the log.
  const absl::Time limit = Patience();
  while (node_->log.Count("strangers_shut_out") < 1 && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_GE(node_->log.Count("strangers_shut_out"), 1);
  EXPECT_LE(node_->log.Count("strangers_shut_out"), 2);
  // One that is known is served.
  auto transport = NewTransport(Carrier::kGrpc);
  RawData data(transport.get(), node_->data_address(), reader->token());
  EXPECT_TRUE(data.Hello(reader->token()).ok());
  ASSERT_NO_FATAL_FAILURE(ExpectServes());
}

TEST(UcxEdgeTest, StrangersAreLogged) {
  TestNode node(Carrier::kUcx);
  const auto address = transport::Resolve(*transport::ParseAddress(node.data_address()));
  ASSERT_TRUE(address.ok());
  const Descriptor stranger(socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(connect(stranger.get(), address->get(), address->length), 0);
  const absl::Time limit = Patience();
  while (node.log.Count("strangers_shut_out") < 1 && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(node.log.Count("strangers_shut_out"), 1);
  EXPECT_EQ(node.log.Count("\"carrier\":\"ucx\""), 1);
}

TEST_F(EdgeTest, TheDataStreamInflatesNothing) {
  const auto reader = Client("reader-key-123456");
  const std::string zeros(size_t{256} << 20, '\0');
  const grpc::Slice slice(zeros.data(), zeros.size(), grpc::Slice::STATIC_SLICE);
  auto stub = NewStub(address_);
  auto context = CallAs(reader->token());
  context->set_compression_algorithm(GRPC_COMPRESS_GZIP);
  ForgetPeak();
  const int64_t before = PeakBytes();
  RawCall call(stub.get(), kDataStream, std::move(context));
  call.StartWrite(grpc::ByteBuffer(&slice, 1));
  EXPECT_FALSE(call.Finish().ok());
  if (kMeasuresMemory) {
    EXPECT_LT(PeakBytes() - before, int64_t{64} << 20);
  }
  ASSERT_NO_FATAL_FAILURE(ExpectServes());
}

// Known callers that say no more, or half of a message, are let go.
TEST_F(EdgeTest, ADataStreamThatSaysNothingEnds) {
  const auto reader = Client("reader-key-123456");
  auto stub = NewStub(address_);
  std::vector<std::unique_ptr<RawCall>> open;
  for (int i = 0; i < 20; ++i) {
    open.push_back(std::make_unique<RawCall>(stub.get(), kDataStream, CallAs(reader->token())));
  }
  for (const auto& call : open) {
    const grpc::Status status = call->Finish();
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
  }
  ASSERT_NO_FATAL_FAILURE(ExpectServes());
}

TEST_F(EdgeTest, ReflectionIsNotServed) {
  auto stub = NewStub(address_);
  const RawControl nobody(address_);
  const auto context = nobody.Context();
  grpc::CompletionQueue queue;
  const auto call =
      stub->PrepareCall(context.get(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(nullptr);
  void* tag = nullptr;
  bool ok = false;
  ASSERT_TRUE(queue.Next(&tag, &ok));
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(EdgeTest, AKeyThatSaysNothingHasItsShareAndNoMore) {
  const auto reader = Client("reader-key-123456");
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  std::vector<std::unique_ptr<RawCall>> open;
  for (int i = 0; i < 40; ++i) {
    if (i % 50 == 0) stubs.push_back(NewStub(address_));
    open.push_back(std::make_unique<RawCall>(stubs.back().get(), "GetDocuments", reader->Context()));
  }
  ASSERT_NO_FATAL_FAILURE(ExpectServes());
  // The first get their turn, say nothing, and are refused; so all come to an end.
  for (int i = 0; i < 8; ++i) EXPECT_EQ(open[i]->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << i;
  EXPECT_TRUE(reader->Stats().ok());
}

// gRPC may be done with a call that ends just when its turn to be read comes.
TEST_F(EdgeTest, CallsCancelledWhileTheyBeginLeaveNothing) {
  const int count = Soak() ? 20000 : 600;
  std::mt19937_64 random(TestSeed());
  const auto other = Client("other-key-1234567");
  const auto stub = NewStub(address_);
  struct Pending {
    std::unique_ptr<grpc::ClientContext> context;
    grpc::ByteBuffer request, response;
  };
  std::vector<std::unique_ptr<Pending>> calls;
  Mutex mutex;
  CondVar ended;
  int open = 0;
  const grpc::Slice slice("\x0a\x01\x61");  // of namespace "a"
  for (int i = 0; i < count; ++i) {
    calls.push_back(std::make_unique<Pending>());
    Pending* const call = calls.back().get();
    call->context = other->Context();
    call->request = grpc::ByteBuffer(&slice, 1);
    {
      MutexLock lock(&mutex);
      while (open >= 100) ended.Wait(&mutex);
      ++open;
    }
    stub->UnaryCall(call->context.get(), "/kvlink.store.v1.Store/ListDocuments", grpc::StubOptions(), &call->request,
                    &call->response, [&](const grpc::Status&) {
                      MutexLock lock(&mutex);
                      --open;
                      ended.SignalAll();
                    });
    for (uint64_t spin = random() % 20000; spin > 0; --spin) std::atomic_signal_fence(std::memory_order_seq_cst);
    if (i % 8 != 0) calls[i - random() % std::min(i + 1, 8)]->context->TryCancel();
  }
  {
    MutexLock lock(&mutex);
    while (open > 0) ended.Wait(&mutex);
  }
  // No place of the key's is lost.
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(other->Stats().ok()) << i;
  ASSERT_NO_FATAL_FAILURE(ExpectServes());
}

// Its headers were good when they came.
TEST_F(EdgeTest, AKeyThatIsTakenAwayWhileItsCallWaitsOpensNothing) {
  const RawControl nobody(address_);
  auto context = nobody.Context();
  context->AddMetadata(kKeyMetadata, "other-key-1234567");
  auto stub = NewStub(address_);
  RawCall call(stub.get(), "OpenSession", std::move(context));
  const auto admin = Client("admin-key-1234567");
  ASSERT_TRUE(admin->Stats().ok());
  WriteAccessFile(access_.path() + "/access", "admin   admin-key-1234567 admin *\n");
  ASSERT_TRUE((*node_)->UseAccess(store::node::AccessList::Load(access_.path() + "/access")).ok());
  v1::OpenSessionRequest request;
  request.set_protocol_min(2);
  request.set_protocol_max(2);
  (void)call.Write(request.SerializeAsString());
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(admin->Stats().ok());
}

TEST_F(EdgeTest, CompressedMessagesAreNotInflated) {
  for (const char* key : {"", "other-key-1234567"}) {
    const RawControl nobody(address_);
    const auto client = *key == '\0' ? nullptr : Client(key);
    auto stub = NewStub(address_);
    auto context = client == nullptr ? nobody.Context() : client->Context();
    context->set_compression_algorithm(GRPC_COMPRESS_GZIP);
    const std::string zeros(size_t{256} << 20, '\0');
    const grpc::Slice slice(zeros.data(), zeros.size(), grpc::Slice::STATIC_SLICE);
    ForgetPeak();
    const int64_t before = PeakBytes();
    grpc::ByteBuffer request(&slice, 1), response;
    Mutex mutex;
    CondVar ended;
    bool done = false;
    grpc::Status status;
    stub->UnaryCall(context.get(), "/kvlink.store.v1.Store/PutDocuments", grpc::StubOptions(), &request, &response,
                    [&](const grpc::Status& of) {
                      MutexLock lock(&mutex);
                      status = of;
                      done = true;
                      ended.SignalAll();
                    });
    {
      MutexLock lock(&mutex);
      while (!done) ended.Wait(&mutex);
    }
    EXPECT_FALSE(status.ok());
    std::printf("%s: %d %s\n", key, status.error_code(), status.error_message().c_str());
    if (kMeasuresMemory) {
      EXPECT_LT(PeakBytes() - before, int64_t{64} << 20) << key;
    }
    ASSERT_NO_FATAL_FAILURE(ExpectServes());
  }
}

TEST_F(EdgeTest, RepetitiveMessagesAreCountedBeforeTheyAreParsed) {
  const auto other = Client("other-key-1234567");
  const std::string two_million("\x12\x00", 2);
  std::string empties = Field(1, "a"), unknown = empties, nested;
  for (int i = 0; i < 1500000; ++i) empties += two_million;
  for (int i = 0; i < 1500000; ++i) unknown += std::string("\x78\x01", 2);
  for (int i = 0; i < 1500000; ++i) nested += std::string("\x78\x01", 2);
  for (const std::string& message :
       {empties, unknown, Field(1, "a") + Field(2, nested), std::string(3 << 20, '\x0b')}) {
    auto stub = NewStub(address_);
    ForgetPeak();
    const int64_t before = PeakBytes();
    RawCall call(stub.get(), "PutDocuments", other->Context());
    ASSERT_TRUE(call.Write(message));
    EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    if (kMeasuresMemory) {
      EXPECT_LT(PeakBytes() - before, int64_t{48} << 20);
    }
  }
  // Too long for any method.
  auto stub = NewStub(address_);
  RawCall call(stub.get(), "PutDocuments", other->Context());
  (void)call.Write(std::string(5 << 20, 'x'));
  EXPECT_FALSE(call.Finish().ok());
  ASSERT_NO_FATAL_FAILURE(ExpectServes());
}

TEST_F(EdgeTest, AnswersThatNobodyReadsEnd) {
  const auto other = Client("other-key-1234567"), reader = Client("reader-key-123456");
  const Synthetic encoding = MakeSynthetic(1);
  CatalogEntry entry = EntryOf({&encoding}, 1, "large");
  entry.parts[0].tokens.assign(400000, 70000);  // three bytes each
  v1::PutDocumentsRequest put;
  put.set_ns("a");
  put.add_documents()->set_id("large");
  put.mutable_documents(0)->set_entry(SerializeCatalogEntry(entry));
  v1::Results results;
  ASSERT_TRUE((*other)->PutDocuments(other->Context().get(), put, &results).ok());
  ASSERT_EQ(results.results(0).code(), 0u) << results.results(0).message();
  v1::GetDocumentsRequest get;
  get.set_ns("a");
  get.add_ids("large");
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  std::vector<std::unique_ptr<RawCall>> open;
  for (int i = 0; i < 24; ++i) {
    stubs.push_back(NewStub(address_));
    open.push_back(std::make_unique<RawCall>(stubs.back().get(), "GetDocuments", reader->Context()));
    (void)open.back()->Write(get.SerializeAsString());
  }
  ASSERT_NO_FATAL_FAILURE(ExpectServes());
  // The same key is served again once its answers were given up.
  v1::GetDocumentsResponse got;
  const grpc::Status again = (*reader)->GetDocuments(reader->Context().get(), get, &got);
  EXPECT_TRUE(again.ok()) << again.error_message();
}

// Names are for the asking, and each costs the node more than its bytes.
TEST_F(EdgeTest, NamespacesOfAKeyAreBoundedAndOthersHaveTheirs) {
  node_ = nullptr;
  const std::string path = access_.path() + "/access";
  WriteAccessFile(path,
                  "greedy  greedy-key-123456 write *\n"
                  "other   other-key-1234567 write *\n"
                  "admin   admin-key-1234567 admin *\n");
  node_ = std::make_unique<TestNode>(Carrier::kGrpc, [path](store::node::NodeOptions* options) {
    options->access_file = path;
    options->limits.namespaces = 64;
    options->limits.administrators_part = 16;
  });
  address_ = (*node_)->addresses().control;
  auto transport = NewTransport(Carrier::kGrpc);
  const auto control = Client("greedy-key-123456");
  RawData data(transport.get(), node_->data_address(), control->token());
  ASSERT_TRUE(data.Hello(control->token()).ok());
  const Synthetic encoding = MakeSynthetic(1);
  const auto put = [&](RawControl* by, const std::string& ns) {
    v1::PutDocumentsRequest request;
    request.set_ns(ns);
    request.add_documents()->set_id("one");
    request.mutable_documents(0)->set_entry(SerializeCatalogEntry(EntryOf({&encoding}, 1, "one")));
    v1::Results results;
    return (*by)->PutDocuments(by->Context().get(), request, &results);
  };
  int made = 0;
  absl::Status refused;
  for (int i = 0; i < 200 && refused.ok(); ++i, ++made) {
    const std::string ns = "greedy-" + std::to_string(i);
    if (i % 2 == 0) {
      const grpc::Status status = put(control.get(), ns);
      if (!status.ok())
        refused = absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
    } else {
      refused = data.Push(ns, encoding).status();
    }
  }
  EXPECT_EQ(made - 1, 30);  // half of what is not for administrators
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("30 namespaces"));
  // In those that it has it goes on, and others have theirs.
  EXPECT_TRUE(put(control.get(), "greedy-0").ok());
  EXPECT_TRUE(put(Client("other-key-1234567").get(), "others").ok());
  EXPECT_TRUE(put(Client("admin-key-1234567").get(), "administrators").ok());
  // After a restart the namespaces in the store count, and are charged to nobody.
  node_->Stop();
  node_->Start();
  address_ = (*node_)->addresses().control;
  const auto again = Client("greedy-key-123456");
  EXPECT_TRUE(put(again.get(), "greedy-1").ok());
  for (made = 0; made < 100 && put(again.get(), "more-" + std::to_string(made)).ok(); ++made) {
  }
  EXPECT_EQ(made, 14);
}

// One that nothing is in makes room for another.
TEST(NamespacesTest, IdleOnesAreForgotten) {
  store::node::Namespaces namespaces(8, 0);
  store::node::Grant grant;
  grant.name = "writer";
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(namespaces.Admit(grant, std::to_string(i)).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(namespaces.Admit(grant, "more")));
  namespaces.Forget({}, SteadyNow() - absl::Minutes(1));  // just written to
  EXPECT_EQ(namespaces.known(), 4);
  namespaces.Forget({"0", "2"}, SteadyNow() + absl::Seconds(1));
  EXPECT_EQ(namespaces.known(), 2);
  EXPECT_TRUE(namespaces.Admit(grant, "more").ok());
  EXPECT_TRUE(namespaces.Admit(grant, "0").ok());
  EXPECT_EQ(namespaces.known(), 3);
}

TEST_F(EdgeTest, SessionsOfAKeyAreBoundedAndAdministratorsGetIn) {
  node_ = nullptr;
  const std::string path = access_.path() + "/access";
  node_ = std::make_unique<TestNode>(Carrier::kGrpc, [path](store::node::NodeOptions* options) {
    options->access_file = path;
    options->limits.sessions = 20;
    options->limits.sessions_per_grant = 15;
    options->limits.sessions_reserved = 4;
  });
  address_ = (*node_)->addresses().control;
  const auto fill = [this](const std::string& key) {
    int opened = 0;
    RawControl control(address_);
    for (int i = 0; i < 40; ++i) {
      control.set_token("");
      opened += control.Open(key).ok() ? 1 : 0;
    }
    return opened;
  };
  EXPECT_EQ(fill("reader-key-123456"), 15);
  EXPECT_EQ(fill("other-key-1234567"), 5);
  EXPECT_EQ(fill("admin-key-1234567"), 4);
}

}  // namespace
}  // namespace kvlink::testing
