// What every piece of one answer repeats. Thread-safety: a plain value.
#ifndef KVLINK_WORKER_SERVE_API_ANSWER_H_
#define KVLINK_WORKER_SERVE_API_ANSWER_H_

#include <cstdint>
#include <string>

namespace kvlink::serve {

struct Answer {
  std::string id;             // "chatcmpl-...", "cmpl-...", "resp_..." or "msg_..."
  int64_t created = 0;        // seconds since 1970
  std::string model;          // as the client named it
  bool stream_usage = false;  // CompletionRequest
  bool report = false;        // KvOptions
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_API_ANSWER_H_
