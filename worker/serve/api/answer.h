// What every piece of one response repeats, and the pieces. Thread-safety: plain values.
#ifndef KVLINK_WORKER_SERVE_API_ANSWER_H_
#define KVLINK_WORKER_SERVE_API_ANSWER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "worker/serve/api/request.h"

namespace kvlink::serve {

struct Answer {
  std::string id;             // "chatcmpl-...", "cmpl-...", "resp_..." or "msg_..."
  int64_t created = 0;        // seconds since 1970
  std::string model;          // as the client named it
  bool stream_usage = false;  // CompletionRequest
  bool report = false;        // KvOptions
  int64_t choices = 1;        // CompletionRequest
  bool logprobs = false;      // CompletionRequest::top_logprobs is given
};

struct TokenLogprob {
  std::string bytes;
  double logprob = 0;
};
// A token of an answer.
struct AnswerToken {
  TokenLogprob chosen;
  std::vector<TokenLogprob> likeliest;  // in its place, most likely first
  int64_t offset = 0;                   // where its text begins in the answer, in characters
};

// A part of an answer, or all of it.
struct AnswerPiece {
  std::string text;
  std::vector<AnswerToken> tokens;  // whose text ends in it; none unless Answer::logprobs
};

// One of the answers to a request.
struct Choice {
  AnswerPiece answer;
  Finish finish = Finish::kStop;
  std::string stop;  // the string that ended it, with kStopString
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_API_ANSWER_H_
