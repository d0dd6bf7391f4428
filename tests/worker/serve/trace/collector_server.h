// A collector of spans that answers as a test says, one connection after another. Thread-safety: all methods.
#ifndef KVLINK_TESTS_WORKER_SERVE_TRACE_COLLECTOR_SERVER_H_
#define KVLINK_TESTS_WORKER_SERVE_TRACE_COLLECTOR_SERVER_H_

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/descriptor.h"
#include "base/mutex.h"

namespace kvlink::serve::testing {

inline std::string HttpAnswer(absl::string_view status, absl::string_view body, absl::string_view headers = "") {
  return absl::StrCat("HTTP/1.1 ", status, "\r\n", headers, "Content-Length: ", body.size(), "\r\n\r\n", body);
}

class CollectorServer {
 public:
  struct Reply {
    std::string bytes;
    bool stays_open = false;  // until the server ends; otherwise the connection is closed
  };
  // `reply`: to the request of that number, from 0 on; on the server's thread.
  explicit CollectorServer(std::function<Reply(int number)> reply) : reply_(std::move(reply)) {
    listener_ = Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    auto* const name = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(listener_.get(), name, length), 0);
    EXPECT_EQ(::listen(listener_.get(), 16), 0);
    EXPECT_EQ(::getsockname(listener_.get(), name, &length), 0);
    url_ = absl::StrCat("http://127.0.0.1:", ntohs(address.sin_port));
    thread_ = std::thread([this] { Serve(); });
  }
  // One that takes everything.
  CollectorServer() : CollectorServer([](int) { return Reply{HttpAnswer("200 OK", "{}")}; }) {}
  ~CollectorServer() {
    ::shutdown(listener_.get(), SHUT_RDWR);  // accept returns
    thread_.join();
  }

  const std::string& url() const { return url_; }
  // The requests so far, with their headers.
  std::vector<std::string> requests() const {
    MutexLock lock(&mutex_);
    return requests_;
  }
  static std::string BodyOf(const std::string& request) { return request.substr(request.find("\r\n\r\n") + 4); }

 private:
  void Serve() {
    std::vector<Descriptor> open;
    for (int number = 0;; ++number) {
      Descriptor peer(::accept(listener_.get(), nullptr, nullptr));
      if (peer.get() < 0) return;
      const timeval patience = {60, 0};
      ::setsockopt(peer.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
      ::setsockopt(peer.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
      {
        std::string request = Receive(peer.get());
        MutexLock lock(&mutex_);
        requests_.push_back(std::move(request));
      }
      const Reply reply = reply_(number);
      absl::string_view rest = reply.bytes;
      while (!rest.empty()) {
        const ssize_t sent = ::send(peer.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
        if (sent <= 0) break;
        rest.remove_prefix(static_cast<size_t>(sent));
      }
      if (reply.stays_open) open.push_back(std::move(peer));
    }
  }
  static std::string Receive(int peer) {
    std::string request;
    size_t whole = std::string::npos;
    char piece[16384];
    while (request.size() < whole) {
      const ssize_t got = ::recv(peer, piece, sizeof(piece), 0);
      if (got <= 0) break;
      request.append(piece, static_cast<size_t>(got));
      const size_t end = request.find("\r\n\r\n"), length = request.find("Content-Length: ");
      if (end == std::string::npos) continue;
      size_t body = 0;
      const std::string digits = request.substr(length + 16, request.find("\r\n", length) - length - 16);
      EXPECT_TRUE(absl::SimpleAtoi(digits, &body)) << request;
      whole = end + 4 + body;
    }
    return request;
  }

  const std::function<Reply(int)> reply_;
  Descriptor listener_;
  std::string url_;
  mutable Mutex mutex_;
  std::vector<std::string> requests_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace kvlink::serve::testing

#endif  // KVLINK_TESTS_WORKER_SERVE_TRACE_COLLECTOR_SERVER_H_
