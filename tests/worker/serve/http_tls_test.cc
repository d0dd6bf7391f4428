// The server behind TLS, and files that are no certificate.
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "tests/support/certificates.h"
#include "tests/support/resident_bytes.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/seed.h"
#include "tests/worker/serve/http_fixture.h"

namespace kvlink::serve::testing {
namespace {

class TlsClient : public HttpClient {
 public:
  explicit TlsClient(const std::string& authority)
      : context_(SSL_CTX_new(TLS_client_method()), SSL_CTX_free), tls_(nullptr, SSL_free) {
    EXPECT_EQ(SSL_CTX_load_verify_locations(context_.get(), authority.c_str(), nullptr), 1);
    SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    tls_.reset(SSL_new(context_.get()));
  }
  bool Handshake() {
    SSL_set_fd(tls_.get(), fd());
    return SSL_connect(tls_.get()) == 1;
  }
  // Says that it ends.
  void ShutDown() { SSL_shutdown(tls_.get()); }
  // Keeps the connection open.
  Descriptor Duplicate() const { return Descriptor(dup(fd())); }

 private:
  int64_t Transmit(absl::string_view bytes) override {
    return SSL_write(tls_.get(), bytes.data(), static_cast<int>(bytes.size()));
  }
  int64_t Receive(char* to, size_t size) override { return SSL_read(tls_.get(), to, static_cast<int>(size)); }

  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context_;
  std::unique_ptr<SSL, void (*)(SSL*)> tls_;
};

class HttpTlsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = std::make_unique<kvlink::testing::ScratchDirectory>();
    have_files_ = kvlink::testing::HaveOpenssl() && kvlink::testing::MakeCertificates(files_->path());
  }
  static void TearDownTestSuite() { files_.reset(); }
  void SetUp() override {
    if (!kvlink::testing::HaveOpenssl()) GTEST_SKIP() << "no openssl program";
    ASSERT_TRUE(have_files_);
  }
  HttpServer::Options Options(const std::string& certificate = "node.pem", const std::string& key = "node.key") {
    HttpServer::Options options;
    options.address = "127.0.0.1:0";
    options.certificate = File(certificate);
    options.key = File(key);
    return options;
  }
  std::string File(const std::string& name) { return files_->path() + "/" + name; }

 private:
  static inline std::unique_ptr<kvlink::testing::ScratchDirectory> files_;
  static inline bool have_files_ = false;
};

TEST_F(HttpTlsTest, RequestsAndStreams) {
  TestServer server(Options());
  TlsClient client(File("ca.pem"));
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Handshake());
  const std::string body(300000, 'b');
  ASSERT_TRUE(client.Send(Post("/a", body) + Get("/b")));
  const auto first = server.Next();
  EXPECT_EQ(first->request().body, body);
  first->Respond(200, "text/plain", body + body);
  EXPECT_EQ(client.ReadAnswer().body, body + body);
  const auto second = server.Next();
  second->Begin(200, "text/event-stream");
  client.ReadThrough("\r\n\r\n");
  for (int i = 0; i < 10; ++i) {
    second->Write(absl::StrCat("data: ", i));
    EXPECT_EQ(client.ReadChunk(), absl::StrCat("data: ", i));
  }
  second->End();
  EXPECT_EQ(client.ReadChunk(), "");
  ASSERT_TRUE(client.Send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  server.Next()->Respond(200, "", "last");
  EXPECT_EQ(client.ReadAnswer().body, "last");
  EXPECT_TRUE(client.AtEnd());
  client.ShutDown();
  client.Close();
  EXPECT_TRUE(Eventually([&] { return server->stats().connections == 0; }));
}

TEST_F(HttpTlsTest, AClientThatGoesAwayIsNoticed) {
  TestServer server(Options());
  for (const int how : {0, 1, 2}) {
    TlsClient client(File("ca.pem"));
    ASSERT_TRUE(server.Connect(&client));
    ASSERT_TRUE(client.Handshake());
    ASSERT_TRUE(client.Send(Get("/")));
    const auto exchange = server.Next();
    std::atomic<int> gone = 0;
    exchange->OnGone([&] { ++gone; });
    exchange->Begin(200, "text/event-stream");
    exchange->Write("part");
    client.ReadThrough("part");
    if (how == 0) client.ShutDown();
    if (how == 1) client.Close();
    if (how == 2) client.Reset();
    EXPECT_TRUE(Eventually([&] {
      exchange->Write("more");
      return gone == 1;
    }));
    EXPECT_TRUE(Eventually([&] { return server->stats().connections == 0; }));
  }
}

TEST_F(HttpTlsTest, AClientThatSaysThatItEndsReadsItsAnswer) {
  TestServer server(Options(), Echo);
  TlsClient client(File("ca.pem"));
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Handshake());
  ASSERT_TRUE(client.Send(Post("/", std::string(100000, 'b'))));
  client.ShutDown();
  client.EndSending();
  EXPECT_EQ(client.ReadAnswer().body.size(), 100000 + std::string("POST / \n").size());
}

// Much more than the system takes at once, in both directions, and both at the same time.
TEST_F(HttpTlsTest, LargeBodiesBothWays) {
  TestServer server(Options());
  TlsClient client(File("ca.pem"));
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Handshake());
  const std::string body(4 << 20, 'b'), answer(8 << 20, 'a');
  ASSERT_TRUE(client.Send(Post("/a", body)));
  const auto first = server.Next();
  EXPECT_EQ(first->request().body.size(), body.size());
  first->Respond(200, "text/plain", answer);
  ASSERT_TRUE(client.Send(Get("/b")));  // before it has read any of the answer
  EXPECT_EQ(client.ReadAnswer().body, answer);
  const auto second = server.Next();
  second->Respond(200, "text/plain", "b");
  EXPECT_EQ(client.ReadAnswer().body, "b");
}

TEST_F(HttpTlsTest, StreamsThatWaitTakeLittleMemory) {
  const int count = kvlink::testing::Soak() ? 1000 : kvlink::testing::kSanitized ? 50 : 500;
  TestServer server(Options());
  std::vector<Descriptor> sockets;  // of clients, which take no memory themselves
  std::vector<std::shared_ptr<HttpExchange>> streams;
  int64_t before = 0;
  for (int i = 0; i < count; ++i) {
    if (i == count / 5) before = kvlink::testing::ResidentBytes();  // what the first need, all share
    TlsClient client(File("ca.pem"));
    ASSERT_TRUE(server.Connect(&client));
    ASSERT_TRUE(client.Handshake());
    ASSERT_TRUE(client.Send(Post("/stream", std::string(2000, 'b'))));
    streams.push_back(server.Next());
    ASSERT_NE(streams.back(), nullptr);
    streams.back()->Begin(200, "text/event-stream");
    streams.back()->Write(std::string(40000, 's'));
    client.ReadThrough("\r\n\r\n");
    ASSERT_EQ(client.ReadChunk().size(), 40000u);
    sockets.push_back(client.Duplicate());
  }
  const int64_t each = (kvlink::testing::ResidentBytes() - before) / (count - count / 5);
  RecordProperty("bytes_of_a_stream", absl::StrCat(each));
  if (!kvlink::testing::kSanitized) {
    EXPECT_LT(each, 40 << 10);
  }
  EXPECT_EQ(server->stats().connections, count);
}

TEST_F(HttpTlsTest, WhoDoesNotSpeakTlsIsClosed) {
  HttpServer::Options options = Options();
  options.header_timeout = absl::Milliseconds(150);
  TestServer server(options, Echo);
  HttpClient plain, silent;
  ASSERT_TRUE(server.Connect(&plain));
  ASSERT_TRUE(plain.Send(Get("/")));
  plain.ReadToEnd();
  ASSERT_TRUE(server.Connect(&silent));
  EXPECT_TRUE(silent.AtEnd());
  EXPECT_TRUE(Eventually([&] { return server->stats().connections == 0; }));
  EXPECT_EQ(server->stats().requests, 0);
  TlsClient stranger(File("stranger.pem"));
  ASSERT_TRUE(server.Connect(&stranger));
  EXPECT_FALSE(stranger.Handshake());
}

TEST_F(HttpTlsTest, DrainAndDestructionEndConnections) {
  auto server = std::make_unique<TestServer>(Options(), Echo);
  TlsClient idle(File("ca.pem")), other(File("ca.pem"));
  HttpClient silent;
  for (TlsClient* client : {&idle, &other}) {
    ASSERT_TRUE(server->Connect(client));
    ASSERT_TRUE(client->Handshake());
    ASSERT_TRUE(client->Send(Get("/")));
    EXPECT_EQ(client->ReadAnswer().status, 200);
  }
  ASSERT_TRUE(server->Connect(&silent));
  (*server)->Drain(SteadyNow());
  EXPECT_TRUE(idle.AtEnd());
  server.reset();
  EXPECT_TRUE(other.AtEnd());
  EXPECT_TRUE(silent.AtEnd());
}

TEST_F(HttpTlsTest, FilesThatAreNoCertificate) {
  const auto start = [&](const HttpServer::Options& options) {
    return HttpServer::Start(options, Echo).status().code();
  };
  EXPECT_EQ(start(Options("node.pem", "node.key")), absl::StatusCode::kOk);
  EXPECT_EQ(start(Options("node.pem", "none.key")), absl::StatusCode::kNotFound);
  EXPECT_EQ(start(Options("none.pem", "node.key")), absl::StatusCode::kNotFound);
  EXPECT_EQ(start(Options("node.pem", "client.key")), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start(Options("node.key", "node.key")), absl::StatusCode::kInvalidArgument);
  HttpServer::Options half = Options();
  half.key.clear();
  EXPECT_EQ(start(half), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvlink::serve::testing
