// Whose bodies are received, how much of them at a time, and for how long. What has to be taken when a test goes on is
// taken by whole requests that the handler holds.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/worker/serve/http_fixture.h"

namespace kvlink::serve::testing {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kSmall = 60000, kLarge = 2 * kMiB;

// Bodies belong to the header "key". An owner may have 4 MiB, of which large ones leave one to small ones.
HttpServer::Options Shared() {
  HttpServer::Options options;
  options.max_bodies_bytes = 16 * kMiB;
  options.max_body_bytes = kLarge;
  options.body_owner = [](const HttpRequest& head) { return std::string(head.header("key")); };
  return options;
}

std::string PostOf(const std::string& key, size_t size) {
  return absl::StrCat("POST / HTTP/1.1\r\nHost: x\r\nKey: ", key, "\r\nContent-Length: ", size, "\r\n\r\n",
                      std::string(size, 'b'));
}

std::string ChunkOf(const std::string& key, size_t size) {
  return absl::StrCat("POST / HTTP/1.1\r\nHost: x\r\nKey: ", key, "\r\nTransfer-Encoding: chunked\r\n\r\n",
                      absl::Hex(size), "\r\n", std::string(size, 'b'), "\r\n0\r\n\r\n");
}

// Requests that the handler has and does not answer.
class Held {
 public:
  explicit Held(TestServer* server) : server_(server) {}
  // False if the server has refused the request, for want of room.
  bool Hold(const std::string& request) {
    const int64_t refused = (*server_)->stats().malformed;
    clients_.push_back(std::make_unique<HttpClient>());
    EXPECT_TRUE(server_->Connect(clients_.back().get()));
    EXPECT_TRUE(clients_.back()->Send(request));
    std::shared_ptr<HttpExchange> exchange;
    EXPECT_TRUE(Eventually([&] {
      exchange = server_->TryNext();
      return exchange != nullptr || (*server_)->stats().malformed > refused;
    }));
    if (exchange != nullptr) {
      exchanges_.push_back(std::move(exchange));
      return true;
    }
    const Answer answer = clients_.back()->ReadAnswer();
    EXPECT_EQ(answer.status, 503) << answer.body;
    EXPECT_EQ(answer.headers.at("retry-after"), "1");
    clients_.pop_back();
    return false;
  }
  // Answers them and forgets them.
  void Release() {
    for (const auto& exchange : exchanges_) exchange->Respond(200, "", "");
    exchanges_.clear();
    clients_.clear();
    EXPECT_TRUE(Eventually([&] { return (*server_)->stats().connections == 0; }));
  }

 private:
  TestServer* const server_;
  std::vector<std::unique_ptr<HttpClient>> clients_;
  std::vector<std::shared_ptr<HttpExchange>> exchanges_;
};

TEST(HttpBodiesTest, NobodyTakesMoreThanAShare) {
  TestServer server(Shared());
  Held held(&server);
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(held.Hold(PostOf("a", kLarge)));
    EXPECT_FALSE(held.Hold(PostOf("a", kLarge - kMiB / 2)));
    EXPECT_FALSE(held.Hold(ChunkOf("a", kLarge - kMiB / 2)));
    EXPECT_TRUE(held.Hold(PostOf("a", kSmall)));
    EXPECT_TRUE(held.Hold(ChunkOf("a", kSmall)));
    EXPECT_TRUE(held.Hold(PostOf("b", kLarge)));
    EXPECT_TRUE(held.Hold(PostOf("", kLarge)));  // the address
    EXPECT_FALSE(held.Hold(PostOf("", kLarge)));
    held.Release();
  }
  // Small bodies, too, have their limit.
  int small = 0;
  while (small < 200 && held.Hold(PostOf("a", kSmall))) ++small;
  EXPECT_EQ(small, 4 * kMiB / kSmall);
  EXPECT_FALSE(held.Hold(ChunkOf("a", kSmall)));
  EXPECT_TRUE(held.Hold(PostOf("b", kSmall)));
}

TEST(HttpBodiesTest, LargeBodiesTogetherLeaveRoomForSmallOnes) {
  TestServer server(Shared());
  Held held(&server);
  for (const char* const key : {"a", "b", "c", "d", "e", "f"}) EXPECT_TRUE(held.Hold(PostOf(key, kLarge)));
  EXPECT_FALSE(held.Hold(PostOf("g", kMiB)));
  EXPECT_FALSE(held.Hold(ChunkOf("g", kMiB)));
  for (const char* const key : {"a", "g", "h"}) EXPECT_TRUE(held.Hold(PostOf(key, kSmall)));
  held.Release();
  EXPECT_TRUE(held.Hold(PostOf("g", kMiB)));
}

TEST(HttpBodiesTest, WhatIsAnnouncedTakesNothing) {
  TestServer server(Shared());
  HttpClient liars[8];
  for (HttpClient& liar : liars) {
    ASSERT_TRUE(server.Connect(&liar));
    ASSERT_TRUE(liar.Send(PostOf("a", kLarge).substr(0, 100)));
  }
  Held held(&server);
  EXPECT_TRUE(held.Hold(PostOf("a", kLarge)));
}

TEST(HttpBodiesTest, ADrippingBodyEnds) {
  HttpServer::Options options;
  options.body_timeout = absl::Milliseconds(150);
  TestServer server(options, Echo);
  HttpClient drippers[8];
  for (HttpClient& dripper : drippers) {
    ASSERT_TRUE(server.Connect(&dripper));
    ASSERT_TRUE(dripper.Send(Post("/", std::string(500000, 'b')).substr(0, 300000)));
  }
  HttpClient other;
  ASSERT_TRUE(server.Connect(&other));
  ASSERT_TRUE(other.Send(Post("/", std::string(2000, 'b'))));
  EXPECT_EQ(other.ReadAnswer().status, 200);
  EXPECT_TRUE(Eventually([&] {
    for (HttpClient& dripper : drippers) dripper.Send("b");
    return server->stats().timed_out == 8;
  }));
  for (HttpClient& dripper : drippers) EXPECT_EQ(dripper.ReadAnswer().status, 408);
  EXPECT_EQ(server->stats().requests, 1);
}

TEST(HttpBodiesTest, ABodyThatIsNotWantedIsNotReceived) {
  HttpServer::Options options;
  std::atomic<int> asked = 0;
  options.body_owner = [&](const HttpRequest& head) -> std::optional<std::string> {
    ++asked;
    EXPECT_TRUE(head.body.empty());
    if (head.header("key") != "a") return std::nullopt;
    return "a";
  };
  TestServer server(options);
  const std::string large = absl::StrCat("Content-Length: ", 32 * kMiB, "\r\n");
  for (const std::string& rest :
       {large + "\r\n", large + "Expect: 100-continue\r\n\r\n", large + "\r\n" + std::string(4 * kMiB, 'b'),
        std::string("Content-Length: 4\r\n\r\nbody"), std::string("Transfer-Encoding: chunked\r\n\r\n")}) {
    SCOPED_TRACE(rest.substr(0, 80));
    HttpClient client;
    ASSERT_TRUE(server.Connect(&client));
    ASSERT_TRUE(client.Send("POST /path HTTP/1.1\r\nHost: x\r\n" + rest.substr(0, 1000)));
    const auto exchange = server.Next();
    ASSERT_NE(exchange, nullptr);
    EXPECT_EQ(exchange->request().path, "/path");
    EXPECT_TRUE(exchange->request().body.empty());
    exchange->Respond(401, "", "no");
    EXPECT_TRUE(client.Send(absl::string_view(rest).substr(std::min<size_t>(1000, rest.size()))));
    const Answer answer = client.ReadAnswer();
    EXPECT_EQ(answer.status, 401);
    EXPECT_EQ(answer.headers.at("connection"), "close");
    EXPECT_TRUE(client.AtEnd());
  }
  EXPECT_EQ(asked, 5);
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/")));  // without a body, nothing is asked
  server.Next()->Respond(200, "", "");
  EXPECT_EQ(client.ReadAnswer().status, 200);
  EXPECT_EQ(asked, 5);
  ASSERT_TRUE(client.Send("POST / HTTP/1.1\r\nHost: x\r\nKey: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
  EXPECT_EQ(client.ReadAnswer().status, 100);
  ASSERT_TRUE(client.Send("body"));
  const auto exchange = server.Next();
  EXPECT_EQ(exchange->request().body, "body");
  exchange->Respond(200, "", "");
  EXPECT_EQ(client.ReadAnswer().status, 200);
  EXPECT_EQ(asked, 6);
}

TEST(HttpBodiesTest, LimitsThatNoBodyFitsAreRefused) {
  HttpServer::Options options;
  options.address = "127.0.0.1:0";
  options.max_bodies_bytes = 100 * kMiB;
  EXPECT_TRUE(absl::IsInvalidArgument(HttpServer::Start(options, Echo).status()));
}

}  // namespace
}  // namespace kvlink::serve::testing
