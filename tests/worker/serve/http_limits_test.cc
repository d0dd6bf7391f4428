// Clients that send what they should not, too much, too little, too slowly, or do not read. Timeouts are short; what is
// tested is how things end, not when.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/thread.h"
#include "nlohmann/json.hpp"
#include "tests/support/seed.h"
#include "tests/worker/serve/http_fixture.h"

namespace kvlink::serve::testing {
namespace {

constexpr absl::Duration kShort = absl::Milliseconds(150);

void ExpectError(const Answer& answer, int status) {
  EXPECT_EQ(answer.status, status) << answer.body;
  const auto json = nlohmann::json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(json.is_object()) << answer.body;
  EXPECT_FALSE(json.value(nlohmann::json::json_pointer("/error/message"), "").empty()) << answer.body;
  EXPECT_EQ(answer.headers.at("content-type"), "application/json");
  EXPECT_EQ(answer.headers.at("connection"), "close");
}

TEST(HttpLimitsTest, MalformedRequestsAreRefused) {
  const struct {
    const char* bytes;
    int status;
  } kCases[] = {
      {"\x16\x03\x01 this is TLS\r\n\r\n", 400},
      {"GET\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},  // no Host
      {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\n\r\n", 505},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"GET / HTTP/1.1\nHost: x\n\n\r\n\r\n", 505},
      {"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 505},
      {"GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"CONNECT host:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501},
      {"GET / HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nX: \x01\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nExpect: cake\r\nContent-Length: 1\r\n\r\nb", 417},
      // A proxy in front might understand the ends of these bodies differently.
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nbb", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nb", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\nb", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nb", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\nb", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nb", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nb", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nb", 501},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\nb", 501},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nbb\r\n0\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;\x01\r\nb\r\n0\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n", 413},
  };
  TestServer server(
      {}, [](std::shared_ptr<HttpExchange> exchange) { ADD_FAILURE() << "handled: " << exchange->request().path; });
  for (const auto& one : kCases) {
    SCOPED_TRACE(one.bytes);
    HttpClient client;
    ASSERT_TRUE(server.Connect(&client));
    ASSERT_TRUE(client.Send(one.bytes));
    ExpectError(client.ReadAnswer(), one.status);
    EXPECT_TRUE(client.AtEnd());
  }
  EXPECT_EQ(server->stats().malformed, static_cast<int64_t>(std::size(kCases)));
}

TEST(HttpLimitsTest, LargeHeadersAreRefused) {
  HttpServer::Options options;
  options.max_header_bytes = 2000;
  TestServer server(options, Echo);
  const std::string wide = "GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(3000, 'x') + "\r\n\r\n";
  std::string many = "GET / HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 150; ++i) many += "a: b\r\n";
  std::string tall = "GET / HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 50; ++i) tall += "a: " + std::string(50, 'b') + "\r\n";
  const std::string target = "GET /" + std::string(3000, 'x');
  for (const std::string& bytes : {wide, many + "\r\n", tall, target}) {
    HttpClient client;
    ASSERT_TRUE(server.Connect(&client));
    for (size_t at = 0; at < bytes.size(); at += 60) {  // line by line, each of them small
      if (!client.Send(absl::string_view(bytes).substr(at, 60))) break;
    }
    ExpectError(client.ReadAnswer(), 431);
  }
  // What surrounds chunks is no way around the limit, whether or not it is complete.
  const std::string part(1500, 'a');
  for (const std::string& chunks : {"1;a=" + part + part + "\r\nb\r\n0\r\n\r\n", "1;a=" + part + part,
                                    "1\r\nb\r\n0\r\nA: " + part + "\r\nB: " + part + "\r\n\r\n"}) {
    HttpClient client;
    ASSERT_TRUE(server.Connect(&client));
    ASSERT_TRUE(client.Send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks));
    ExpectError(client.ReadAnswer(), 400);
  }
}

TEST(HttpLimitsTest, LargeBodiesAreRefused) {
  HttpServer::Options options;
  options.max_body_bytes = 1000;
  TestServer server(options, Echo);
  for (const std::string& bytes :
       {Post("/", std::string(1001, 'b')),
        std::string("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5000000000\r\n\r\n"),
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + std::string(1000, 'b') +
            "\r\n1\r\n"}) {
    HttpClient client;
    ASSERT_TRUE(server.Connect(&client));
    ASSERT_TRUE(client.Send(bytes));
    ExpectError(client.ReadAnswer(), 413);
  }
  // A client that sends all of a large body nevertheless reads why it was in vain.
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  EXPECT_TRUE(client.Send(Post("/", std::string(4 << 20, 'b'))));
  ExpectError(client.ReadAnswer(), 413);
  HttpClient fits;
  ASSERT_TRUE(server.Connect(&fits));
  ASSERT_TRUE(fits.Send(Post("/", std::string(1000, 'b'))));
  EXPECT_EQ(fits.ReadAnswer().status, 200);
}

TEST(HttpLimitsTest, ABodyEndsWhereItsLengthSays) {
  TestServer server({}, Echo);
  HttpClient more;
  ASSERT_TRUE(server.Connect(&more));
  ASSERT_TRUE(
      more.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nbodyGET / HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_EQ(more.ReadAnswer().body, "POST / \nbod");
  EXPECT_EQ(more.ReadAnswer().body, "yGET / \n");
  HttpClient fewer;
  ASSERT_TRUE(server.Connect(&fewer));
  ASSERT_TRUE(fewer.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\nbody"));
  fewer.EndSending();
  EXPECT_TRUE(fewer.AtEnd());
  EXPECT_EQ(server->stats().requests, 2);
}

TEST(HttpLimitsTest, SlowRequestsEnd) {
  HttpServer::Options options;
  options.header_timeout = options.body_timeout = kShort;
  TestServer server(options, Echo);
  HttpClient silent, header, body;
  ASSERT_TRUE(server.Connect(&silent));
  EXPECT_TRUE(silent.AtEnd());
  ASSERT_TRUE(server.Connect(&header));
  // A byte now and then does not help.
  EXPECT_TRUE(Eventually([&] { return server->stats().timed_out == 2 || !header.Send("G"); }));
  ExpectError(header.ReadAnswer(), 408);
  ASSERT_TRUE(server.Connect(&body));
  ASSERT_TRUE(body.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\nbody"));
  ExpectError(body.ReadAnswer(), 408);
  EXPECT_EQ(server->stats().timed_out, 3);
  EXPECT_EQ(server->stats().requests, 0);
}

TEST(HttpLimitsTest, IdleConnectionsEnd) {
  HttpServer::Options options;
  options.idle_timeout = kShort;
  TestServer server(options, Echo);
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/")));
  EXPECT_EQ(client.ReadAnswer().status, 200);
  EXPECT_TRUE(client.AtEnd());
  EXPECT_EQ(server->stats().timed_out, 0);
}

TEST(HttpLimitsTest, AHandlerMayTakeItsTime) {
  HttpServer::Options options;
  options.header_timeout = options.body_timeout = options.write_timeout = options.idle_timeout = absl::Milliseconds(50);
  TestServer server(options);
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/")));
  const auto exchange = server.Next();
  absl::SleepFor(absl::Milliseconds(300));
  exchange->Begin(200, "text/plain");
  absl::SleepFor(absl::Milliseconds(300));
  exchange->Write("late");
  exchange->End();
  EXPECT_EQ(client.ReadAnswer().body, "late");
}

TEST(HttpLimitsTest, AStreamThatNobodyReadsEnds) {
  HttpServer::Options options;
  options.max_unread_bytes = 100000;
  options.write_timeout = absl::Hours(1);
  TestServer server(options);
  HttpClient client(4096);
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/")));
  const auto exchange = server.Next();
  std::atomic<int> gone = 0;
  exchange->OnGone([&] { ++gone; });
  exchange->Begin(200, "text/event-stream");
  for (int i = 0; i < 6400 && gone == 0; ++i) {  // far more than the system takes
    exchange->Write(std::string(10000, 's'));
    absl::SleepFor(absl::Milliseconds(1));  // piece by piece: the connection waits for the client before the limit
  }
  EXPECT_TRUE(Eventually([&] { return gone > 0; }));
  exchange->Write("more");
  exchange->End();
  EXPECT_TRUE(Eventually([&] { return server->stats().connections == 0; }));
  EXPECT_EQ(server->stats().timed_out, 1);
  EXPECT_EQ(server->stats().gone, 1);
  server.Destroy();
  EXPECT_EQ(gone, 1);
}

TEST(HttpLimitsTest, AResponseThatNobodyReadsEnds) {
  HttpServer::Options options;
  options.write_timeout = kShort;
  TestServer server(options);
  HttpClient client(4096);
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/")));
  server.Next()->Respond(200, "text/plain", std::string(32 << 20, 'r'));
  EXPECT_TRUE(Eventually([&] { return server->stats().connections == 0; }));
  EXPECT_EQ(server->stats().timed_out, 1);
  EXPECT_EQ(server->stats().gone, 1);
}

TEST(HttpLimitsTest, AClientThatGoesAwayIsNoticed) {
  TestServer server;
  for (const bool begun : {false, true}) {
    for (const int how : {0, 1, 2}) {
      SCOPED_TRACE(absl::StrCat(begun, " ", how));
      HttpClient client;
      ASSERT_TRUE(server.Connect(&client));
      ASSERT_TRUE(client.Send(Get("/") + Get("/pipelined")));
      const auto exchange = server.Next();
      std::atomic<int> gone = 0;
      exchange->OnGone([&] {
        ++gone;
        exchange->End();  // may be called back
      });
      if (begun) {
        exchange->Begin(200, "text/plain");
        exchange->Write("part");
        client.ReadThrough("part");
      }
      if (how == 0) client.Close();
      if (how == 1) client.Reset();
      if (how == 2) client.EndSending();
      EXPECT_TRUE(Eventually([&] { return gone == 1; }));
      exchange->Write("nobody reads this");
      int late = 0;
      exchange->OnGone([&] { ++late; });
      EXPECT_EQ(late, 1);
      EXPECT_TRUE(Eventually([&] { return server->stats().connections == 0; }));
      EXPECT_EQ(gone, 1);
    }
  }
  EXPECT_EQ(server->stats().gone, 6);
  EXPECT_EQ(server->stats().requests, 6);
}

TEST(HttpLimitsTest, AClientThatGoesAwayBehindManyBytesIsNoticed) {
  TestServer server;
  HttpClient clients[3];
  std::vector<std::shared_ptr<HttpExchange>> exchanges;
  std::atomic<int> gone = 0;
  for (HttpClient& client : clients) {
    ASSERT_TRUE(server.Connect(&client));
    ASSERT_TRUE(client.Send(Get("/") + Post("/ahead", std::string(100000, 'b'))));
    exchanges.push_back(server.Next());
    exchanges.back()->OnGone([&] { ++gone; });
  }
  clients[0].Close();
  clients[1].Reset();
  clients[2].EndSending();
  EXPECT_TRUE(Eventually([&] { return server->stats().connections == 0; }));
  EXPECT_EQ(gone, 3);
  EXPECT_EQ(server->stats().gone, 3);
  EXPECT_EQ(server->stats().requests, 3);
}

TEST(HttpLimitsTest, AFinishedResponseReleasesItsCallback) {
  TestServer server;
  HttpClient client;
  ASSERT_TRUE(server.Connect(&client));
  ASSERT_TRUE(client.Send(Get("/")));
  const auto exchange = server.Next();
  const auto owned = std::make_shared<int>(0);
  exchange->OnGone([owned] { ++*owned; });
  exchange->Begin(200, "text/plain");
  EXPECT_EQ(owned.use_count(), 2);
  exchange->End();
  EXPECT_EQ(owned.use_count(), 1);
  client.Close();
  EXPECT_TRUE(Eventually([&] { return server->stats().connections == 0; }));
  EXPECT_EQ(*owned, 0);
}

TEST(HttpLimitsTest, ConnectionsBeyondTheLimitAreTurnedAway) {
  HttpServer::Options options;
  options.max_connections = 2;
  TestServer server(options, Echo);
  HttpClient first, second;
  for (HttpClient* client : {&first, &second}) {
    ASSERT_TRUE(server.Connect(client));
    ASSERT_TRUE(client->Send(Get("/")));
    EXPECT_EQ(client->ReadAnswer().status, 200);
  }
  HttpClient third;
  ASSERT_TRUE(server.Connect(&third));
  EXPECT_EQ(third.ReadAnswer().status, 503);
  EXPECT_TRUE(third.AtEnd());
  EXPECT_EQ(server->stats().refused, 1);
  first.Close();
  EXPECT_TRUE(Eventually([&] { return server->stats().connections == 1; }));
  HttpClient fourth;
  ASSERT_TRUE(server.Connect(&fourth));
  ASSERT_TRUE(fourth.Send(Get("/")));
  EXPECT_EQ(fourth.ReadAnswer().status, 200);
}

// What else the process does needs descriptors, too.
TEST(HttpLimitsTest, ConnectionsTakeAQuarterOfTheDescriptors) {
  const auto counts = [] {
    const rlimit few = {100, 100};
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
    TestServer server({}, Echo);
    HttpClient clients[35];
    for (HttpClient& client : clients) EXPECT_TRUE(server.Connect(&client));
    return Eventually([&] { return server->stats().accepted == 25 && server->stats().refused == 10; });
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(std::exit(counts() ? 0 : 1), ::testing::ExitedWithCode(0), "");
}

TEST(HttpLimitsTest, WithoutDescriptorsConnectionsWait) {
  TestServer server({}, Echo);
  HttpClient first, second;
  ASSERT_TRUE(server.Connect(&first));
  ASSERT_TRUE(first.Send(Get("/")));
  EXPECT_EQ(first.ReadAnswer().status, 200);
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const int unused = dup(1);
  ASSERT_GE(unused, 0);
  close(unused);
  const rlimit none_left = {static_cast<rlim_t>(unused), before.rlim_max};  // all below are in use
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none_left), 0);
  const bool connected = server.Connect(&second) && second.Send(Get("/second"));
  for (int i = 0; i < 50; ++i) {  // those who are there are served
    EXPECT_TRUE(first.Send(Get("/first")));
    EXPECT_EQ(first.ReadAnswer().body, "GET /first \n");
    absl::SleepFor(absl::Milliseconds(5));
  }
  const int64_t accepted = server->stats().accepted;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(connected);
  EXPECT_EQ(accepted, 1);
  EXPECT_EQ(second.ReadAnswer().body, "GET /second \n");
}

// Clients that come, ask, and leave as they like, while other threads answer.
TEST(HttpLimitsTest, RandomClients) {
  const uint64_t seed = kvlink::testing::TestSeed();
  HttpServer::Options options;
  options.max_connections = 5;
  options.max_unread_bytes = 3000;
  options.max_body_bytes = 2000;
  TestServer server(options);
  std::atomic<bool> stop = false;
  std::atomic<int64_t> handled = 0, gone = 0;
  std::vector<std::shared_ptr<HttpExchange>> held;  // by the first of the threads
  const auto handle = [&](int thread) {
    std::mt19937_64 random(seed + static_cast<uint64_t>(thread));
    while (!stop) {
      const std::shared_ptr<HttpExchange> exchange = server.TryNext();
      if (exchange == nullptr) {
        absl::SleepFor(absl::Microseconds(200));
        continue;
      }
      ++handled;
      exchange->OnGone([&gone] { ++gone; });
      if (exchange->request().path == "/hold" && thread == 0) {
        held.push_back(exchange);
      } else if (random() % 3 == 0) {
        Echo(exchange);
      } else if (random() % 10 > 0) {  // else: dropped
        exchange->Begin(200, "text/event-stream");
        for (uint64_t left = random() % 20; left > 0; --left) exchange->Write(std::string(1 + random() % 500, 'p'));
        if (random() % 5 > 0) exchange->End();
      }
    }
  };
  const auto ask = [&](int thread) {
    std::mt19937_64 random(seed + 100 + static_cast<uint64_t>(thread));
    for (int i = kvlink::testing::Soak() ? 5000 : 100; i > 0; --i) {
      const uint64_t what = random() % 6;
      SCOPED_TRACE(absl::StrCat("client ", thread, ", kind ", what));
      HttpClient client;
      if (!server.Connect(&client)) continue;
      switch (what) {
        case 0:
          client.Send(Get("/a") + Post("/b", std::string(random() % 3000, 'b')));
          client.ReadAnswer();
          break;
        case 1:
          client.Send(Get("/hold"));
          client.Reset();
          break;
        case 2:
          client.Send(Get("/a") + Get("/hold") + Get("/c"));
          client.ReadThrough("\r\n");
          break;
        case 3:
          client.Send(std::string(random() % 100, static_cast<char>(random())) + "\r\n\r\n");
          client.EndSending();
          client.ReadToEnd();
          break;
        case 4:
          client.Send(Post("/d", std::string(1000, 'd')));
          client.EndSending();
          client.ReadToEnd();
          break;
        default:
          break;
      }
    }
  };
  {
    std::vector<Thread> handlers, clients;
    for (int i = 0; i < 2; ++i) handlers.emplace_back("handler", [&, i] { handle(i); });
    for (int i = 0; i < 4; ++i) clients.emplace_back("client", [&, i] { ask(i); });
    clients.clear();
    EXPECT_TRUE(Eventually([&] { return server->stats().connections == 0; }));  // nobody waits for what is held
    EXPECT_TRUE(Eventually([&] { return server->stats().requests == handled; }));
    stop = true;
    handlers.clear();
    server.Destroy();
  }
  for (const auto& exchange : held) {
    exchange->Begin(200, "text/plain");
    exchange->Write("nobody reads this");
    exchange->End();
  }
  EXPECT_LE(gone, handled);
}

}  // namespace
}  // namespace kvlink::serve::testing
