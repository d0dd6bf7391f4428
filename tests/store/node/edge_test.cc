// What peers without identity, and keys that are misused, can do to the control service: they cost headers and a share,
// and administrators always get in.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/catalog.h"
#include "proto/metadata.h"
#include "tests/store/node/raw_client.h"
#include "tests/support/seed.h"

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
        call_(stub->PrepareCall(context_.get(), "/kvlink.store.v1.Store/" + method, &queue_)) {
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

// A field of a message: its number, and bytes.
std::string Field(int number, const std::string& bytes) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  size_t length = bytes.size();
  for (; length >= 0x80; length >>= 7) out.push_back(static_cast<char>(length | 0x80));
  out.push_back(static_cast<char>(length));
  return out + bytes;
}

class EdgeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = access_.path() + "/access";
    WriteAccessFile(path,
                    "reader  reader-key-123456 read  a\n"
                    "other   other-key-1234567 write a\n"
                    "admin   admin-key-1234567 admin *\n");
    node_ = std::make_unique<TestNode>(Carrier::kGrpc, [path](store::NodeOptions* options) {
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

TEST_F(EdgeTest, SessionsOfAKeyAreBoundedAndAdministratorsGetIn) {
  node_ = nullptr;
  const std::string path = access_.path() + "/access";
  node_ = std::make_unique<TestNode>(Carrier::kGrpc, [path](store::NodeOptions* options) {
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
