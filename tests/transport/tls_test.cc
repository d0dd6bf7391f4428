// TLS files that are replaced under a running server and its clients: what they were connects until what they are is
// whole, connections that exist go on, and mistakes at the start name the file.
#include <fcntl.h>
#include <grpcpp/server.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/certificates.h"
#include "tests/support/scratch_directory.h"
#include "tests/transport/peers.h"
#include "transport/grpc/credentials.h"
#include "transport/grpc/grpc.h"
#include "transport/grpc/tls_files.h"

namespace kvlink::transport {
namespace {

// Handlers of exit() run in reverse order: this one, registered before anything initialised OpenSSL, runs after any of
// OpenSSL's own, as a thread of gRPC may.
bool draws_at_exit = false;
[[maybe_unused]] const int registered = std::atexit([] {
  unsigned char byte = 0;
  if (draws_at_exit && RAND_bytes(&byte, 1) != 1) _exit(3);
});

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

using namespace kvlink::testing;

constexpr absl::Duration kLook = absl::Milliseconds(100);

// Accepts connections over TLS at a port of its own choosing.
class TlsServer {
 public:
  explicit TlsServer(const TlsOptions& tls) : transport_(*NewGrpcTransport({})) {
    auto credentials = ServerCredentials(tls);
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    credentials_ = *std::move(credentials);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", credentials_, &port);
    const auto accept = [this](std::shared_ptr<Connection> connection) {
      const auto inbox = std::make_shared<Inbox>();
      MutexLock lock(&mutex_);
      accepted_.push_back({std::move(connection), inbox});
      return inbox;
    };
    listener_ = transport_->Register(&builder, accept, nullptr);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  ~TlsServer() {
    listener_ = nullptr;
    server_->Shutdown(std::chrono::system_clock::now());
    server_ = nullptr;
    MutexLock lock(&mutex_);
    accepted_.clear();
  }
  const std::string& address() const { return address_; }
  // The first connection, which was made before.
  Server::Accepted first() {
    MutexLock lock(&mutex_);
    return accepted_.front();
  }

 private:
  const std::unique_ptr<GrpcTransport> transport_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  Mutex mutex_;
  std::vector<Server::Accepted> accepted_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

class TlsTest : public ::testing::Test {
 protected:
  // Two sets of certificates under the same names, of two authorities.
  static void SetUpTestSuite() {
    if (!HaveOpenssl()) return;
    sets_ = new ScratchDirectory(/*in_memory=*/true);
    for (const char* set : {"old", "new"}) {
      fs::create_directory(Set(set));
      ASSERT_TRUE(MakeCertificates(Set(set)));
    }
  }
  static void TearDownTestSuite() {
    delete sets_;
    sets_ = nullptr;
  }
  void SetUp() override {
    if (!HaveOpenssl()) GTEST_SKIP() << "no openssl here";
    for (const char* name : {"ca.pem", "node.pem", "node.key", "client.pem", "client.key"}) Install("old", name);
  }

  static std::string Set(const std::string& set) { return sets_->path() + "/" + set; }
  std::string File(const std::string& name) const { return live_.path() + "/" + name; }
  void Install(const std::string& set, const std::string& name) const {
    fs::copy_file(Set(set) + "/" + name, File(name), fs::copy_options::overwrite_existing);
  }
  TlsOptions ServerFiles() const { return {File("ca.pem"), File("node.pem"), File("node.key")}; }
  static TlsOptions ClientFiles(const std::string& directory) {
    return {directory + "/ca.pem", directory + "/client.pem", directory + "/client.key"};
  }
  static std::unique_ptr<GrpcTransport> Client(const TlsOptions& tls) {
    auto client = NewGrpcTransport({}, tls);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  static absl::StatusOr<std::shared_ptr<Connection>> Connect(GrpcTransport* client, const TlsServer& server) {
    return client->Connect(server.address(), std::make_shared<Inbox>(), SteadyNow() + absl::Seconds(10));
  }
  // Waits until the client can connect.
  static void AwaitConnected(GrpcTransport* client, const TlsServer& server) {
    const absl::Time deadline = Patience();
    auto connected = Connect(client, server);
    while (!connected.ok() && SteadyNow() < deadline) {
      absl::SleepFor(kLook);
      connected = Connect(client, server);
    }
    EXPECT_TRUE(connected.ok()) << connected.status();
  }
  TlsState StateOfServerFiles() const {
    for (TlsState& state : TlsStates()) {
      if (state.files.key_file == File("node.key")) return std::move(state);
    }
    return {};
  }
  // Waits until the files of the server are refused for a reason that contains `why`.
  void AwaitRefused(const std::string& why) const {
    const absl::Time deadline = Patience();
    const auto said = [&] { return std::string(StateOfServerFiles().status.message()); };
    while (said().find(why) == std::string::npos && SteadyNow() < deadline) absl::SleepFor(kLook);
    EXPECT_THAT(said(), HasSubstr(why));
  }
  // Puts a pipe in the place of a file. Whoever reads it waits until a writer has written and gone.
  void MakePipe(const std::string& name) const {
    fs::remove(File(name));
    ASSERT_EQ(mkfifo(File(name).c_str(), 0600), 0);
  }
  // Opens the pipe for writing once somebody reads it.
  int AwaitReader(const std::string& name) const {
    int writer = -1;
    for (const absl::Time deadline = Patience(); writer < 0 && SteadyNow() < deadline; absl::SleepFor(kLook)) {
      writer = open(File(name).c_str(), O_WRONLY | O_NONBLOCK);
    }
    EXPECT_GE(writer, 0) << "nobody reads " << name;
    return writer;
  }

  static ScratchDirectory* sets_;
  const ScratchDirectory live_{/*in_memory=*/true};
};

ScratchDirectory* TlsTest::sets_ = nullptr;

TEST_F(TlsTest, BothSidesFollowTheirFiles) {
  TlsServer server(ServerFiles());
  const auto client = Client(ClientFiles(live_.path())), outdated = Client(ClientFiles(Set("old"))),
             newcomer = Client(ClientFiles(Set("new")));
  const auto inbox = std::make_shared<Inbox>();
  const auto connection = client->Connect(server.address(), inbox, Patience());
  ASSERT_TRUE(connection.ok()) << connection.status();
  ASSERT_TRUE((*connection)->SendMessage("before").ok());
  const Server::Accepted accepted = server.first();
  EXPECT_EQ(accepted.inbox->Next(), "before");
  EXPECT_TRUE(Connect(outdated.get(), server).ok());
  EXPECT_FALSE(Connect(newcomer.get(), server).ok());

  for (const char* name : {"ca.pem", "node.pem", "node.key", "client.pem", "client.key"}) Install("new", name);
  AwaitConnected(newcomer.get(), server);
  AwaitConnected(client.get(), server);
  EXPECT_FALSE(Connect(outdated.get(), server).ok());

  ASSERT_TRUE((*connection)->SendMessage("after").ok());
  EXPECT_EQ(accepted.inbox->Next(), "after");
  ASSERT_TRUE(accepted.connection->SendMessage("and back").ok());
  EXPECT_EQ(inbox->Next(), "and back");
}

TEST_F(TlsTest, WhatIsNotWholeIsNotUsed) {
  TlsServer server(ServerFiles());
  const auto client = Client(ClientFiles(Set("old")));
  EXPECT_TRUE(StateOfServerFiles().status.ok());

  Install("new", "node.pem");
  AwaitRefused(absl::StrCat(File("node.key"), " does not belong to the certificate ", File("node.pem")));
  EXPECT_TRUE(Connect(client.get(), server).ok());
  fs::resize_file(File("node.pem"), fs::file_size(File("node.pem")) / 2);
  AwaitRefused(File("node.pem") + " holds no certificate, or a damaged one");
  EXPECT_TRUE(Connect(client.get(), server).ok());
  fs::remove(File("node.pem"));
  AwaitRefused("cannot read the TLS certificate " + File("node.pem"));
  EXPECT_TRUE(Connect(client.get(), server).ok());
  // A channel that is made only now.
  EXPECT_TRUE(ChannelCredentials(ServerFiles()).ok());
  EXPECT_THAT(TlsTrouble(ServerFiles()),
              AllOf(HasSubstr("cannot be used now, and the old ones are in use"), HasSubstr(File("node.pem"))));

  Install("new", "node.pem");
  Install("new", "node.key");
  Install("new", "ca.pem");
  AwaitConnected(Client(ClientFiles(Set("new"))).get(), server);
  EXPECT_TRUE(StateOfServerFiles().status.ok()) << StateOfServerFiles().status;
  EXPECT_GE(StateOfServerFiles().replaced, 1);
  EXPECT_EQ(TlsTrouble(ServerFiles()), "");
}

// As on a file system that hangs. Only what reads the file waits, and nobody for it.
TEST_F(TlsTest, AFileThatHangsHoldsUpNobody) {
  TlsServer server(ServerFiles());
  const TlsOptions own = ClientFiles(live_.path());
  const auto client = Client(own);
  const auto used = ChannelCredentials(own), of_server = ChannelCredentials(ServerFiles());
  ASSERT_TRUE(used.ok() && of_server.ok());
  MakePipe("node.pem");
  const int writer = AwaitReader("node.pem");
  ASSERT_GE(writer, 0);
  const auto connected = Connect(client.get(), server);
  EXPECT_TRUE(connected.ok()) << connected.status();
  EXPECT_EQ(NewerCredentials(ServerFiles(), *of_server), nullptr);
  EXPECT_TRUE(StateOfServerFiles().status.ok()) << StateOfServerFiles().status;
  EXPECT_EQ(TlsTrouble(ServerFiles()), "");
  // After a while it is told.
  const auto files = TlsFiles::Of(ServerFiles());
  ASSERT_TRUE(files.ok()) << files.status();
  const absl::Status hangs = (*files)->State(SteadyNow() + absl::Minutes(1)).status;
  EXPECT_TRUE(absl::IsUnavailable(hangs)) << hangs;
  EXPECT_THAT(std::string(hangs.message()), HasSubstr("a file system hangs"));
  // Other files are followed.
  for (const char* name : {"client.pem", "client.key"}) Install("new", name);
  std::shared_ptr<grpc::ChannelCredentials> newer;
  for (const absl::Time deadline = Patience(); newer == nullptr && SteadyNow() < deadline; absl::SleepFor(kLook)) {
    newer = NewerCredentials(own, *used);
  }
  EXPECT_NE(newer, nullptr);
  close(writer);  // the reader finds an empty file
  AwaitRefused("not in PEM format");
  fs::remove(File("node.pem"));
}

// Half of a bundle may hold whole certificates.
TEST_F(TlsTest, WhatIsStillBeingWrittenIsNotUsed) {
  const auto text_of = [](const std::string& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string old = text_of(File("ca.pem")), half = text_of(Set("new") + "/ca.pem"), whole = half + old;
  const auto files = TlsFiles::Of(ServerFiles());
  ASSERT_TRUE(files.ok()) << files.status();
  MakePipe("ca.pem");
  int writer = AwaitReader("ca.pem");
  // Lets the look that waits find this text, and waits for the next look.
  const auto find = [&](const std::string& text) {
    EXPECT_EQ(write(writer, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    close(writer);
    for (const absl::Time deadline = Patience(); SteadyNow() < deadline; absl::SleepFor(absl::Milliseconds(1))) {
      const int reading = open(File("ca.pem").c_str(), O_WRONLY | O_NONBLOCK);
      if (reading < 0) break;
      close(reading);
    }
    writer = AwaitReader("ca.pem");
  };
  find(half);
  EXPECT_EQ((*files)->Current()->ca, old);
  find(whole);
  EXPECT_EQ((*files)->Current()->ca, old);
  for (const absl::Time deadline = Patience(); (*files)->Current()->ca != whole && SteadyNow() < deadline;) find(whole);
  EXPECT_EQ((*files)->Current()->ca, whole);
  fs::remove(File("ca.pem"));
  close(writer);
}

TEST_F(TlsTest, MistakesAtTheStartNameTheFile) {
  const auto error = [](const TlsOptions& tls) {
    const absl::Status status = ServerCredentials(tls).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  const std::string certificate = File("node.pem"), key = File("node.key");
  EXPECT_THAT(error({"", certificate, ""}), HasSubstr("together"));
  EXPECT_THAT(error({File("ca.pem"), "", ""}), HasSubstr("needs a certificate"));
  EXPECT_THAT(error({"", certificate, File("none")}),
              HasSubstr("cannot read the TLS key " + File("none") + ": No such file"));
  EXPECT_THAT(error({live_.path(), certificate, key}),
              HasSubstr("cannot read the TLS CA certificate " + live_.path() + ": Is a directory"));
  std::ofstream(File("text")) << "no certificate\n";
  EXPECT_THAT(error({"", File("text"), key}), HasSubstr(File("text") + " is not in PEM format"));
  EXPECT_THAT(error({"", key, certificate}), HasSubstr(key + " holds no certificate"));
  EXPECT_THAT(error({File("client.key"), certificate, key}), HasSubstr(File("client.key") + " holds no certificate"));
  EXPECT_THAT(error({"", certificate, File("client.key")}),
              HasSubstr(File("client.key") + " does not belong to the certificate " + certificate));
  EXPECT_THAT(error({"", certificate, File("client.pem")}), HasSubstr(File("client.pem") + " is no private key"));
  ASSERT_EQ(
      std::system(absl::StrCat("openssl pkey -aes128 -passout pass:x -in ", key, " -out ", File("locked.key")).c_str()),
      0);
  EXPECT_THAT(error({"", certificate, File("locked.key")}), HasSubstr(File("locked.key") + " is no private key"));
  // One certificate of several is damaged.
  std::ofstream(File("bundle.pem")) << std::ifstream(File("ca.pem")).rdbuf() << "-----BEGIN CERTIFICATE-----\nMIIC\n";
  EXPECT_THAT(error({File("bundle.pem"), certificate, key}),
              HasSubstr(File("bundle.pem") + " holds no certificate, or"));
  std::ofstream(File("long.pem")) << std::ifstream(File("ca.pem")).rdbuf() << std::string(1 << 20, '\n');
  EXPECT_THAT(error({File("long.pem"), certificate, key}), HasSubstr(File("long.pem") + " has more than 1 MiB"));
  EXPECT_TRUE(ServerCredentials(ServerFiles()).ok());
  EXPECT_THAT(std::string(ChannelCredentials({"", certificate, key}).status().message()), HasSubstr("CA certificate"));
}

TEST(TlsDeathTest, OpenSslServesThreadsThatOutliveMain) {
  const auto end = [] {
    draws_at_exit = true;
    unsigned char byte = 0;
    std::exit(RAND_bytes(&byte, 1) == 1 ? 0 : 2);
  };
  EXPECT_EXIT(end(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace kvlink::transport
