// Reads one request from a connection's bytes, however they are cut; knows no sockets. Refuses what proxies and servers
// have been known to understand in different ways, for the sake of those that stand in front of this one.
//
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_SERVE_HTTP_REQUEST_PARSER_H_
#define KVLINK_WORKER_SERVE_HTTP_REQUEST_PARSER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "worker/serve/http/body_budget.h"
#include "worker/serve/http/response.h"
#include "worker/serve/http/server.h"

namespace kvlink::serve {

class RequestParser {
 public:
  enum class State : uint8_t {
    kHeader,
    kBody,
    kComplete,
    kRefused,
  };
  // The body is charged to `budget` as it arrives, for its owner, or `peer`. `options` outlives the parser.
  RequestParser(const HttpServer::Options& options, std::shared_ptr<BodyBudget> budget, std::string peer);
  ~RequestParser();

  // Takes bytes of the request, and returns how many. The rest is to be given again together with the bytes that
  // follow, or, in kComplete, belongs to the next request. Not called in kRefused.
  size_t Put(absl::string_view bytes);
  State state() const;
  // Once the header is read: whether the client waits for "100 Continue" before it sends the body.
  bool expects_continue() const;
  // In kRefused: what to answer before the connection is closed.
  const Refusal& refusal() const;

  // In kComplete, once: the request.
  struct Parsed {
    HttpRequest request;
    BodyCharge charge;
    Framing framing;
  };
  Parsed Take();

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_HTTP_REQUEST_PARSER_H_
