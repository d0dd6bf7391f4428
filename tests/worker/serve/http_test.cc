// Requests and responses over real sockets: what a well-behaved client sees. Seeded; the seed is printed.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/seed.h"
#include "tests/support/subprocess.h"
#include "tests/worker/serve/http_fixture.h"
#include "worker/serve/http/request.h"

namespace kvlink::serve::testing {
namespace {

TEST(HttpTest, OneConnectionServesManyRequests) {
  TestServer server({}, Echo);
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  for (int i = 0; i < 20; ++i) {
    const std::string body(static_cast<size_t>(i) * 5000, 'b');
    ASSERT_TRUE(client.Send(Post(absl::StrCat("/p/", i, "?q=1&r=%20"), body)));
    const Answer answer = client.ReadAnswer();
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.headers.at("content-type"), "text/plain");
    EXPECT_EQ(answer.headers.count("connection"), 0u);
    EXPECT_TRUE(answer.headers.at("date").ends_with(" GMT"));
    EXPECT_EQ(answer.body, absl::StrCat("POST /p/", i, " q=1&r=%20\n", body));
  }
  EXPECT_EQ(server->stats().accepted, 1);
  EXPECT_EQ(server->stats().requests, 20);
}

TEST(HttpTest, HeadersArriveInLowerCase) {
  TestServer server;
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(
      client.Send("\r\nDELETE /a%2Fb%20%41?x=%41 HTTP/1.1\r\nHOST: x\r\nAuthorization:  Bearer k \r\nX-A: 1\r\n\r\n"));
  const auto exchange = server.Next();
  ASSERT_NE(exchange, nullptr);
  EXPECT_EQ(exchange->request().method, "DELETE");
  EXPECT_EQ(exchange->request().path, "/a/b A");
  EXPECT_EQ(exchange->request().query, "x=%41");
  EXPECT_EQ(exchange->request().header("authorization"), "Bearer k");
  EXPECT_EQ(exchange->request().header("x-a"), "1");
  EXPECT_EQ(exchange->request().header("x-b"), "");
  exchange->Respond(404, "text/plain", "", {{"X-Id", "a\r\nSet-Cookie: b"}, {"Retry-After", "7"}});
  exchange->Respond(200, "text/plain", "a second response is ignored");
  const Answer answer = client.ReadAnswer();
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(answer.headers.at("x-id"), "a  Set-Cookie: b");
  EXPECT_EQ(answer.headers.at("retry-after"), "7");
}

TEST(HttpTest, Targets) {
  const auto path = [](absl::string_view text) {
    const auto target = ParseTarget(text);
    return target.ok() ? target->path + "|" + target->query : "refused";
  };
  EXPECT_EQ(path("/"), "/|");
  EXPECT_EQ(path("/a%c3%a9%2f?b=%zz?c"), "/a\xc3\xa9/|b=%zz?c");
  EXPECT_EQ(path("http://host:80/a?b"), "/a|b");
  EXPECT_EQ(path("HTTPS://host"), "/|");
  EXPECT_EQ(path("http://host?b"), "/|b");
  EXPECT_EQ(path("*"), "*|");
  for (const char* bad : {"", "a", "/%", "/%4", "/%4g", "/%00", "/a b", "/\xc3\xa9", "/a#b", "host:80", "ftp://h/a"}) {
    EXPECT_EQ(path(bad), "refused") << bad;
  }
}

TEST(HttpTest, PipelinedRequestsAreHandledOneAfterAnother) {
  TestServer server;
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/1") + Post("/2", "two") + Get("/3")));
  for (const std::string path : {"/1", "/2", "/3"}) {
    const auto exchange = server.Next();
    ASSERT_NE(exchange, nullptr);
    EXPECT_EQ(exchange->request().path, path);
    EXPECT_EQ(server->stats().requests, path[1] - '0');
    exchange->Respond(200, "", path);
    EXPECT_EQ(client.ReadAnswer().body, path);
  }
}

TEST(HttpTest, WhatIsSentAheadWaits) {
  TestServer server;
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/1")));
  const auto first = server.Next();
  const std::string ahead = Post("/2", std::string(30000, 'b'));
  size_t sent = 0;
  for (const size_t size : {size_t{10}, size_t{60}, size_t{9000}, ahead.size()}) {
    ASSERT_TRUE(client.Send(absl::string_view(ahead).substr(sent, size)));
    sent += std::min(size, ahead.size() - sent);
    absl::SleepFor(absl::Milliseconds(20));  // the server reads piece by piece
  }
  EXPECT_EQ(server->stats().requests, 1);
  first->Respond(200, "", "1");
  EXPECT_EQ(client.ReadAnswer().body, "1");
  const auto second = server.Next();
  EXPECT_EQ(second->request().body, std::string(30000, 'b'));
  second->Respond(200, "", "2");
  EXPECT_EQ(client.ReadAnswer().body, "2");
}

TEST(HttpTest, HeadHasNoBody) {
  TestServer server;
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(
      client.Send("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n"
                  "HEAD /b HTTP/1.1\r\nHost: x\r\n\r\n" +
                  Get("/c")));
  server.Next()->Respond(200, "text/plain", "four");
  EXPECT_EQ(client.ReadAnswer(true).headers.at("content-length"), "4");
  const auto stream = server.Next();
  stream->Begin(200, "text/plain");
  stream->Write("not sent");
  stream->End();
  EXPECT_EQ(client.ReadAnswer(true).status, 200);
  server.Next()->Respond(204, "", "");
  const Answer last = client.ReadAnswer();
  EXPECT_EQ(last.status, 204);
  EXPECT_EQ(last.headers.count("content-length"), 0u);
}

TEST(HttpTest, AStreamArrivesPieceByPiece) {
  TestServer server;
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/")));
  const auto exchange = server.Next();
  exchange->Begin(200, "text/event-stream", {{"Cache-Control", "no-cache"}});
  const std::string header = client.ReadThrough("\r\n\r\n");
  EXPECT_NE(header.find("Transfer-Encoding: chunked\r\n"), std::string::npos) << header;
  EXPECT_NE(header.find("Cache-Control: no-cache\r\n"), std::string::npos) << header;
  for (int i = 0; i < 20; ++i) {
    const std::string piece = absl::StrCat("data: ", i, "\n\n");
    exchange->Write("");  // would be the end
    exchange->Write(piece);
    EXPECT_EQ(client.ReadChunk(), piece);  // before the next is written
  }
  exchange->End();
  bool last = false;
  EXPECT_EQ(client.ReadChunk(&last), "");
  EXPECT_TRUE(last);
  ASSERT_TRUE(client.Send(Get("/again")));
  server.Next()->Respond(200, "", "again");
  EXPECT_EQ(client.ReadAnswer().body, "again");
}

TEST(HttpTest, AClientOfHttp10) {
  TestServer server;
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
  server.Next()->Respond(200, "", "kept");
  const Answer kept = client.ReadAnswer();
  EXPECT_EQ(kept.body, "kept");
  EXPECT_EQ(kept.headers.at("connection"), "keep-alive");
  ASSERT_TRUE(client.Send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
  const auto exchange = server.Next();
  exchange->Begin(200, "text/plain");
  exchange->Write("a");
  exchange->Write("b");
  exchange->End();
  const Answer answer = client.ReadAnswer();
  EXPECT_EQ(answer.headers.count("transfer-encoding"), 0u);
  EXPECT_EQ(answer.headers.at("connection"), "close");
  EXPECT_EQ(answer.body, "ab");
}

TEST(HttpTest, AClientMayAskToClose) {
  TestServer server({}, Echo);
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send("GET /a HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n" + Get("/not_answered")));
  const Answer answer = client.ReadAnswer();
  EXPECT_EQ(answer.headers.at("connection"), "close");
  EXPECT_EQ(answer.body, "GET /a \n");
  EXPECT_TRUE(client.AtEnd());
  EXPECT_TRUE(Eventually([&] {
    client.Close();
    return server->stats().connections == 0;
  }));
  EXPECT_EQ(server->stats().requests, 1);
}

TEST(HttpTest, AClientThatHasSentAllMayCloseItsSide) {
  TestServer server({}, Echo);
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/a") + Get("/b")));
  client.EndSending();
  EXPECT_EQ(client.ReadAnswer().body, "GET /a \n");
  EXPECT_EQ(client.ReadAnswer().body, "GET /b \n");
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpTest, ExpectContinue) {
  TestServer server({}, Echo);
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
  EXPECT_EQ(client.ReadAnswer().status, 100);
  ASSERT_TRUE(client.Send("body"));
  EXPECT_EQ(client.ReadAnswer().body, "POST / \nbody");
  // The whole request is there: nobody waits.
  ASSERT_TRUE(client.Send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nb"));
  EXPECT_EQ(client.ReadAnswer().body, "POST / \nb");
}

TEST(HttpTest, ALargeResponseNeedsNoBufferOfItsSize) {
  HttpServer::Options options;
  options.max_unread_bytes = 1000;
  TestServer server(options);
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/")));
  const std::string body(size_t{8} << 20, 'l');
  server.Next()->Respond(200, "text/plain", body);
  EXPECT_EQ(client.ReadAnswer().body, body);
}

TEST(HttpTest, AnExchangeThatIsDroppedIsAnswered) {
  TestServer server;
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/")));
  server.Next().reset();
  EXPECT_EQ(client.ReadAnswer().status, 500);
  ASSERT_TRUE(client.Send(Get("/")));
  auto exchange = server.Next();
  exchange->Begin(200, "text/plain");
  exchange->Write("part");
  exchange.reset();
  const Answer cut = client.ReadAnswer();
  EXPECT_EQ(cut.body, "part");
  EXPECT_FALSE(cut.whole);
}

TEST(HttpTest, DrainAnswersWhatIsInProgress) {
  TestServer server;
  HttpClient idle, silent, waiting, streaming;
  for (HttpClient* client : {&idle, &silent, &waiting, &streaming}) ASSERT_TRUE(server.Connect(client));
  ASSERT_TRUE(idle.Send(Get("/")));
  server.Next()->Respond(200, "", "");
  EXPECT_EQ(idle.ReadAnswer().status, 200);
  ASSERT_TRUE(waiting.Send(Get("/")));
  const auto answered = server.Next();
  ASSERT_TRUE(streaming.Send(Get("/")));
  const auto streamed = server.Next();
  streamed->Begin(200, "text/plain");
  streaming.ReadThrough("\r\n\r\n");

  server->Drain(SteadyNow());  // too short for those in progress
  EXPECT_TRUE(idle.AtEnd());
  EXPECT_TRUE(silent.AtEnd());
  EXPECT_TRUE(Eventually([&] { return !HttpClient().Connect(server->address()); }));
  idle.Close();
  silent.Close();
  answered->Respond(200, "", "done");
  const Answer answer = waiting.ReadAnswer();
  EXPECT_EQ(answer.body, "done");
  EXPECT_EQ(answer.headers.at("connection"), "close");
  EXPECT_TRUE(waiting.AtEnd());
  waiting.Close();
  streamed->Write("last");
  streamed->End();
  EXPECT_EQ(streaming.ReadChunk(), "last");
  streaming.ReadToEnd();
  streaming.Close();
  server->Drain(kvlink::testing::Patience());
  EXPECT_EQ(server->stats().connections, 0);
}

TEST(HttpTest, ExchangesOutliveTheServer) {
  TestServer server;
  HttpClient client, other;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/") + Get("/never_handled")));
  const auto exchange = server.Next();
  ASSERT_TRUE(server.Connect(&other));
  ASSERT_TRUE(other.Send(Post("/", "b")));
  const auto unanswered = server.Next();
  int gone = 0;  // written before the server's threads end
  exchange->OnGone([&] { ++gone; });
  exchange->Begin(200, "text/plain");
  server.Destroy();
  EXPECT_EQ(gone, 1);
  exchange->Write("nobody reads this");
  exchange->End();
  unanswered->OnGone([&] { ++gone; });
  EXPECT_EQ(gone, 2);
  unanswered->Respond(200, "", "");
  EXPECT_EQ(unanswered->request().body, "b");
  client.ReadToEnd();
}

TEST(HttpTest, ManyConnections) {
  const int count = kvlink::testing::Soak() ? 4000 : kvlink::testing::kSanitized ? 100 : 500;
  TestServer server;
  std::vector<std::unique_ptr<HttpClient>> clients;
  std::vector<std::shared_ptr<HttpExchange>> streams;
  int64_t before = 0;
  for (int i = 0; i < count; ++i) {
    if (i == count / 5) before = kvlink::testing::ResidentBytes(getpid());  // what the first need, all share
    clients.push_back(std::make_unique<HttpClient>());
    ASSERT_TRUE(server.Connect(clients.back().get()));
    ASSERT_TRUE(clients.back()->Send(Get("/stream")));
    streams.push_back(server.Next());
    ASSERT_NE(streams.back(), nullptr);
    streams.back()->Begin(200, "text/event-stream");
    streams.back()->Write("data: 1\n\n");
    clients.back()->ReadThrough("\r\n\r\n");
    ASSERT_EQ(clients.back()->ReadChunk(), "data: 1\n\n");
  }
  const int64_t grown = kvlink::testing::ResidentBytes(getpid()) - before;
  if (!kvlink::testing::kSanitized) {
    EXPECT_LT(grown / (count - count / 5), 64 << 10);
  }
  EXPECT_EQ(server->stats().connections, count);
  for (int i = 0; i < count; ++i) {
    streams[i]->Write(absl::StrCat(i));
    streams[i]->End();
    ASSERT_EQ(clients[i]->ReadChunk(), absl::StrCat(i));
    ASSERT_EQ(clients[i]->ReadChunk(), "");
  }
  // All idle now, and all still there.
  for (int i = 0; i < count; i += 7) {
    ASSERT_TRUE(clients[i]->Send(Get("/")));
    server.Next()->Respond(200, "", absl::StrCat("again ", i));
    ASSERT_EQ(clients[i]->ReadAnswer().body, absl::StrCat("again ", i));
  }
}

TEST(HttpTest, RequestsInRandomFragments) {
  std::mt19937_64 random(kvlink::testing::TestSeed());
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  TestServer server({}, Echo);
  for (int round = 0; round < (kvlink::testing::Soak() ? 500 : 20); ++round) {
    std::string bytes;
    std::vector<std::string> expected;
    for (size_t i = 0, requests = 1 + below(5); i < requests; ++i) {
      const std::string path = absl::StrCat("/", random());
      const std::string body(below(3) == 0 ? 0 : below(20000), static_cast<char>('a' + below(26)));
      const bool chunked = below(2) == 0;
      expected.push_back(absl::StrCat(chunked || below(2) == 0 ? "PUT " : "POST ", path, " q\n", body));
      absl::StrAppend(&bytes, expected.back().substr(0, expected.back().find(' ')), " ", path,
                      "?q HTTP/1.1\r\nHost: x\r\n");
      for (size_t extra = below(4); extra > 0; --extra) absl::StrAppend(&bytes, "X-", extra, ": ", random(), "\r\n");
      if (!chunked) {
        absl::StrAppend(&bytes, "Content-Length: ", body.size(), "\r\n\r\n", body);
        continue;
      }
      bytes += "Transfer-Encoding: Chunked\r\n\r\n";
      for (size_t at = 0; at < body.size();) {
        const size_t size = std::min(body.size() - at, 1 + below(3000));
        absl::StrAppend(&bytes, absl::Hex(size), below(2) == 0 ? ";a=\"b\"\r\n" : "\r\n", body.substr(at, size),
                        "\r\n");
        at += size;
      }
      bytes += below(2) == 0 ? "0\r\n\r\n" : "0\r\nX-Trailer: t\r\n\r\n";
    }
    HttpClient client;
    ASSERT_TRUE(server.Connect(&client));
    const size_t longest = below(2) == 0 ? 3 : 5000;
    const bool bytewise = bytes.size() < 3000 || longest > 3;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = bytewise ? 1 + below(longest) : 1 + below(2000);
      ASSERT_TRUE(client.Send(absl::string_view(bytes).substr(at, size)));
      at += size;
    }
    for (const std::string& one : expected) {
      const Answer answer = client.ReadAnswer();
      ASSERT_EQ(answer.status, 200) << answer.body;
      ASSERT_EQ(answer.body, one);
    }
  }
  EXPECT_EQ(server->stats().malformed, 0);
}

TEST(HttpTest, AddressesThatCannotBeServed) {
  const auto start = [](const std::string& address) {
    HttpServer::Options options;
    options.address = address;
    return HttpServer::Start(options, Echo).status().code();
  };
  EXPECT_EQ(start("127.0.0.1"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start("192.0.2.1:0"), absl::StatusCode::kUnavailable);
  TestServer server;
  EXPECT_EQ(start(server->address()), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvlink::serve::testing
