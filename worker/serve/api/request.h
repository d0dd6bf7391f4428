// What a client asks for, whichever API it speaks. Thread-safety: plain values.
#ifndef KVLINK_WORKER_SERVE_API_REQUEST_H_
#define KVLINK_WORKER_SERVE_API_REQUEST_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace kvlink::serve {

struct Message {
  std::string role;  // "system" (which "developer" means, too), "user" or "assistant"
  std::string text;
};

// Of a title; texts are bounded by what fits into the model's context.
constexpr int64_t kMaxTitleBytes = 64 << 10;

// A document by its id in the catalog, or by its text.
struct DocumentReference {
  std::string id;     // of a stored document; empty: `text` is given
  std::string parts;  // of a stored one: "2-5", as kvlink ask --parts; empty: all
  std::string title;
  std::string text;
};

// The extension "kv" of every request.
struct KvOptions {
  enum class OnMiss : uint8_t {
    kCompute,  // encode it, and store that
    kText,     // compute the document where it stands, as part of the prompt
    kFail,
  };
  OnMiss on_miss = OnMiss::kCompute;  // when the store lacks an encoding
  bool store = true;                  // write back what was computed
  std::string linker;                 // as kvlink ask --linker; empty: the profile's
  std::optional<int64_t> deadline_ms;
  bool report = false;  // say in the answer where the encodings came from
};

// The form of an answer: any text, a JSON object, or a value of a JSON schema.
struct AnswerFormat {
  enum class Kind : uint8_t { kText, kJsonObject, kJsonSchema };
  Kind kind = Kind::kText;
  std::string schema;  // as the client wrote it
  std::string field;   // of the request, which errors name
};

// A completion of a chat or of a text.
struct CompletionRequest {
  std::string model;
  std::vector<Message> messages;      // of a chat: not empty, the last one of the user
  std::optional<std::string> prompt;  // of a text, instead of messages
  std::vector<DocumentReference> documents;
  int64_t max_tokens = 0;           // 0: as many as fit
  bool default_max_tokens = false;  // the number is the API's, not the client's
  double temperature = 1;
  double top_p = 1;
  double min_p = 0;
  int64_t top_k = 0;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  int64_t choices = 1;  // answers, each with a seed of its own: the request's and those after it
  double presence_penalty = 0;
  double frequency_penalty = 0;
  double repetition_penalty = 1;
  std::map<int32_t, double> logit_bias;  // by token
  // Log-probabilities: of each token of the answers, and of so many tokens that are the likeliest in its place.
  std::optional<int64_t> top_logprobs;
  AnswerFormat format;
  bool stream = false;
  bool stream_usage = false;  // a last chunk with the usage
  KvOptions kv;
  std::string cache_salt;  // the group that the encodings of its texts are shared in; empty: everybody
};

// One of many changes of stored documents.
struct DocumentChange {
  std::string id;
  std::string title;
  std::string text;
  bool deletes = false;  // otherwise it puts the title and the text
};

// Documents that a request may be about soon.
struct PrefetchRequest {
  std::vector<DocumentReference> documents;
  std::string linker;      // KvOptions
  std::string cache_salt;  // CompletionRequest
};

// What is reported beside an answer.
struct Usage {
  int64_t prompt_tokens = 0;  // all of the prompt's
  int64_t cached_tokens = 0;  // of these, read from encodings
  int64_t stored_tokens = 0;  // of these, in encodings that this request made and handed to the store
  int64_t completion_tokens = 0;
  // Where the documents' encodings were found, for KvOptions::report.
  int64_t resident = 0, host = 0, dram = 0, disk = 0, encoded = 0;
  int64_t text = 0;  // documents that were computed as part of the prompt
  double first_token_ms = 0;
};

enum class Finish : uint8_t { kStop, kStopString, kLength };

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_API_REQUEST_H_
