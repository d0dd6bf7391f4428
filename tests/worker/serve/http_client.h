// A client of HTTP that sends any bytes and reads what comes. Thread-safety: one thread at a time.
#ifndef KVLINK_TESTS_WORKER_SERVE_HTTP_CLIENT_H_
#define KVLINK_TESTS_WORKER_SERVE_HTTP_CLIENT_H_

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/descriptor.h"

namespace kvlink::serve::testing {

struct Answer {
  int status = 0;                              // 0: the connection ended before there was a whole header
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  bool whole = false;  // to the end of the body
};

class HttpClient {
 public:
  // `receive_buffer`: bytes that the system takes for a client that does not read; 0: as it likes.
  explicit HttpClient(int receive_buffer = 0) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (receive_buffer > 0) Set(SO_RCVBUF, receive_buffer);
    const timeval patience = {60, 0};
    Set(SO_RCVTIMEO, patience);
    Set(SO_SNDTIMEO, patience);
  }
  virtual ~HttpClient() = default;

  // `address`: "127.0.0.1:PORT".
  bool Connect(const std::string& address) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    uint32_t port = 0;
    (void)absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port);
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return ::connect(fd(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0;
  }
  // False if the server has closed the connection.
  bool Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const int64_t sent = Transmit(bytes);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  // Reads until `end` was read, and returns all up to there; what came before the end of the connection, if it ends.
  std::string ReadThrough(const std::string& end) {
    size_t found = read_.find(end);
    while (found == std::string::npos && Fill()) found = read_.find(end);
    return TakeFront(found == std::string::npos ? read_.size() : found + end.size());
  }
  std::string ReadBytes(size_t size) {
    while (read_.size() < size && Fill()) {
    }
    return TakeFront(size);
  }
  std::string ReadToEnd() {
    while (Fill()) {
    }
    return TakeFront(read_.size());
  }
  // `head`: the answer to a HEAD request, without a body.
  Answer ReadAnswer(bool head = false) {
    Answer answer;
    const std::string header = ReadThrough("\r\n\r\n");
    if (!absl::EndsWith(header, "\r\n\r\n")) return answer;
    for (absl::string_view line : absl::StrSplit(header, "\r\n", absl::SkipEmpty())) {
      if (answer.status == 0) {
        EXPECT_TRUE(absl::StartsWith(line, "HTTP/1.1 ")) << line;
        EXPECT_TRUE(absl::SimpleAtoi(line.substr(9, 3), &answer.status)) << line;
        continue;
      }
      const std::pair<std::string, std::string> field = absl::StrSplit(line, absl::MaxSplits(": ", 1));
      answer.headers[absl::AsciiStrToLower(field.first)] = field.second;
    }
    if (head || answer.status == 100 || answer.status == 204 || answer.status == 304) {
      answer.whole = true;
    } else if (answer.headers.count("transfer-encoding") > 0) {
      while (true) {
        const std::string chunk = ReadChunk(&answer.whole);
        if (chunk.empty()) break;
        answer.body += chunk;
      }
    } else if (answer.headers.count("content-length") > 0) {
      size_t length = 0;
      EXPECT_TRUE(absl::SimpleAtoi(answer.headers["content-length"], &length));
      answer.body = ReadBytes(length);
      answer.whole = answer.body.size() == length;
    } else {
      answer.body = ReadToEnd();
      answer.whole = true;
    }
    return answer;
  }
  // The contents of the next chunk. "" at the end, of the body or the connection.
  std::string ReadChunk(bool* last = nullptr) {
    const std::string line = ReadThrough("\r\n");
    size_t size = 0;
    if (!absl::EndsWith(line, "\r\n") || !absl::SimpleHexAtoi(line.substr(0, line.size() - 2), &size)) return "";
    const std::string chunk = ReadBytes(size + 2);
    if (last != nullptr) *last = size == 0 && chunk.size() == 2;
    return chunk.substr(0, size);
  }
  // Waits for the server to close the connection. False if it sends something instead.
  bool AtEnd() { return ReadBytes(1).empty(); }

  void EndSending() { ::shutdown(fd(), SHUT_WR); }
  void Close() { socket_ = Descriptor(); }
  // The server notices at once.
  void Reset() {
    const linger at_once = {1, 0};
    Set(SO_LINGER, at_once);
    Close();
  }

 protected:
  int fd() const { return socket_.get(); }
  virtual int64_t Transmit(absl::string_view bytes) { return ::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  // 0 at the end of the connection.
  virtual int64_t Receive(char* to, size_t size) {
    const int64_t n = ::recv(fd(), to, size, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) ADD_FAILURE() << "waited too long for the server";
    return n < 0 ? 0 : n;
  }

 private:
  template <class T>
  void Set(int option, const T& value) {
    (void)::setsockopt(fd(), SOL_SOCKET, option, &value, sizeof(value));
  }
  bool Fill() {
    char piece[16384];
    const int64_t n = Receive(piece, sizeof(piece));
    if (n > 0) read_.append(piece, static_cast<size_t>(n));
    return n > 0;
  }
  std::string TakeFront(size_t size) {
    std::string front = read_.substr(0, size);
    read_.erase(0, size);
    return front;
  }

  Descriptor socket_;
  std::string read_;  // received and not yet asked for
};

}  // namespace kvlink::serve::testing

#endif  // KVLINK_TESTS_WORKER_SERVE_HTTP_CLIENT_H_
