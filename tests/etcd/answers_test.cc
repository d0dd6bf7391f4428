// What the client makes of answers that a real etcd gives only by chance: a server of the test stands in for a member.
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "etcd/client.h"
#include "etcd/etcd.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/patience.h"

namespace kvlink::etcd {
namespace {

namespace pb = etcdserverpb;
using ::testing::HasSubstr;

using kvlink::testing::Patience;

grpc::Status TokenRefused() { return {grpc::StatusCode::UNAUTHENTICATED, "etcdserver: invalid auth token"}; }

// Opens once; those who wait go on.
class Gate {
 public:
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.SignalAll();
  }
  void Await() {
    const absl::Time deadline = Patience();
    MutexLock lock(&mutex_);
    while (!open_ && changed_.WaitUntil(&mutex_, deadline)) {
    }
    EXPECT_TRUE(open_) << "it was not opened in time";
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

// Answers as a test says, each call on a thread of its own. Those of keys are given the key and the token of the call.
struct Answers {
  using OfKey = std::function<grpc::Status(const std::string& key, const std::string& token)>;
  OfKey range = [](const std::string&, const std::string&) { return grpc::Status::OK; };
  OfKey put = range;
  std::function<grpc::Status(std::string* token)> authenticate = [](std::string*) { return grpc::Status::OK; };
};

class Member {
 public:
  explicit Member(Answers answers) : answers_(std::move(answers)) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&kv_);
    builder.RegisterService(&auth_);
    server_ = builder.BuildAndStart();
    endpoint_ = absl::StrCat("127.0.0.1:", port);
  }
  ~Member() { server_->Shutdown(); }
  std::unique_ptr<Client> NewClient(const std::string& user) const {
    ClientOptions options;
    options.endpoints = endpoint_;
    options.prefix = "shared/";
    options.user = options.password = user;
    // A call that is held is left by nobody.
    options.answer_timeout = absl::Minutes(1);
    auto client = Client::Open(options);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

 private:
  static std::string TokenOf(const grpc::ServerContext& context) {
    const auto found = context.client_metadata().find("token");
    return found == context.client_metadata().end() ? "" : std::string(found->second.data(), found->second.size());
  }
  struct Kv : pb::KV::Service {
    explicit Kv(const Answers* answers) : answers(answers) {}
    grpc::Status Range(grpc::ServerContext* context, const pb::RangeRequest* request,
                       pb::RangeResponse* response) override {
      return answers->range(request->key(), TokenOf(*context));
    }
    grpc::Status Put(grpc::ServerContext* context, const pb::PutRequest* request, pb::PutResponse* response) override {
      return answers->put(request->key(), TokenOf(*context));
    }
    const Answers* const answers;
  };
  struct Auth : pb::Auth::Service {
    explicit Auth(const Answers* answers) : answers(answers) {}
    grpc::Status Authenticate(grpc::ServerContext* context, const pb::AuthenticateRequest* request,
                              pb::AuthenticateResponse* response) override {
      return answers->authenticate(response->mutable_token());
    }
    const Answers* const answers;
  };

  const Answers answers_;
  Kv kv_{&answers_};
  Auth auth_{&answers_};
  std::unique_ptr<grpc::Server> server_;
  std::string endpoint_;
};

// When an old token is refused after another call has got a new one, no third is requested.
TEST(AnswersTest, LateRefusalOfOldTokenKeepsNewToken) {
  std::atomic<int> tokens{0};
  std::atomic<bool> expired{false};
  Gate held, refuse;
  Answers answers;
  answers.authenticate = [&](std::string* token) {
    *token = absl::StrCat(++tokens);
    return grpc::Status::OK;
  };
  answers.range = [&](const std::string& key, const std::string& token) {
    if (token != "1") return grpc::Status::OK;
    if (key == "shared/late") {
      held.Open();
      refuse.Await();
      return TokenRefused();
    }
    return expired ? TokenRefused() : grpc::Status::OK;
  };
  const Member member(answers);
  const auto client = member.NewClient("user");
  ASSERT_TRUE(client->Get("key", {}, Patience()).ok());
  absl::Status late;
  Thread caller("test-late", [&] { late = client->Get("late", {}, Patience()).status(); });
  held.Await();
  expired = true;
  EXPECT_TRUE(client->Get("key", {}, Patience()).ok());
  EXPECT_EQ(tokens, 2);
  refuse.Open();
  caller.Join();
  EXPECT_TRUE(late.ok()) << late;
  EXPECT_EQ(tokens, 2);
}

// The token expires between the read that precedes a write and the write.
TEST(AnswersTest, EveryCallCarriesToken) {
  std::atomic<int> tokens{0}, nameless{0};
  Gate confirming, confirm, dropped, renew;
  Answers answers;
  answers.authenticate = [&](std::string* token) {
    const int number = ++tokens;
    *token = absl::StrCat(number);
    if (number == 2) {
      dropped.Open();
      renew.Await();
    }
    return grpc::Status::OK;
  };
  const auto named = [&](const std::string& token) {
    if (!token.empty()) return grpc::Status::OK;
    ++nameless;
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "etcdserver: user name is empty");
  };
  answers.range = [&](const std::string& key, const std::string& token) {
    if (key == "shared/" && token == "1") {
      confirming.Open();
      confirm.Await();
    }
    if (key == "shared/refused" && token == "1") return TokenRefused();
    return named(token);
  };
  answers.put = [&](const std::string& key, const std::string& token) { return named(token); };
  const Member member(answers);
  const auto client = member.NewClient("user");
  // Brings the token, and confirms nothing.
  ASSERT_TRUE(client->Get("key", {.serializable = true}, Patience()).ok());
  absl::Status put, get;
  Thread writer("test-writer", [&] { put = client->Put("key", "x", kNoLease, Patience()).status(); });
  confirming.Await();
  Thread reader("test-reader", [&] { get = client->Get("refused", {}, Patience()).status(); });
  dropped.Await();
  confirm.Open();
  writer.Join();
  renew.Open();
  reader.Join();
  EXPECT_TRUE(put.ok()) << put;
  EXPECT_TRUE(get.ok()) << get;
  EXPECT_EQ(nameless, 0);
}

// Authentication fails before any member is asked for the watch.
TEST(AnswersTest, DeniedAuthenticationEndsWatch) {
  Answers answers;
  answers.authenticate = [](std::string*) { return grpc::Status(grpc::StatusCode::PERMISSION_DENIED, "not you"); };
  const Member member(answers);
  const auto client = member.NewClient("user");
  const absl::Status status = client->WatchFrom("key", false, 1)->Next(Patience()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("not you"));
}

// etcd reports that its space is used up even for the write that it has just carried out.
TEST(AnswersTest, WriteWithoutSpaceIsUnknown) {
  std::string message = "etcdserver: mvcc: database space exceeded";
  Answers answers;
  answers.put = [&](const std::string&, const std::string&) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, message);
  };
  const Member member(answers);
  const auto client = member.NewClient("");
  const absl::Status status = client->Put("key", "x", kNoLease, Patience()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  message = "etcdserver: too many requests";
  EXPECT_EQ(client->Put("key", "x", kNoLease, Patience()).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace kvlink::etcd
