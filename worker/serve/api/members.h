// What the requests of several APIs have in common: the messages' rules, sampling, and KVLink's own members
// `documents`, `kv` and `cache_salt`. Errors are remembered by the fields. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_SERVE_API_MEMBERS_H_
#define KVLINK_WORKER_SERVE_API_MEMBERS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve {

inline constexpr int64_t kMaxTokens = INT32_MAX;
inline constexpr int64_t kMaxDocuments = 1000;
inline constexpr int64_t kMaxNameBytes = 1024;  // of models, ids, strings that stop an answer
inline constexpr int64_t kMaxSaltBytes = 256;

// `model`, `temperature`, `top_p`, `min_p`, `top_k`, `seed`, `stream`, `documents`, `kv` and `cache_salt`.
void ReadCommon(const Field& body, double max_temperature, CompletionRequest& request);

// A stored document, {"id": "...", "parts": "2-5"}, or a text, {"title": "...", "text": "..."}.
DocumentReference ReadReference(const Field& entry);
// `cache_salt`; empty if it is not given.
std::string ReadSalt(const Field& salt);

// Appends a document; `field` says which one is too many.
void AddDocument(const Field& field, DocumentReference document, CompletionRequest& request);

// A string, or the texts of a list of parts {"type": "text", "text": "..."}, one per line. `types`: those that mean
// text.
std::string ReadText(const Field& content, absl::Span<const absl::string_view> types);

// Strings that end an answer: one, or a list of at most `max`, none empty. Not given: none.
std::vector<std::string> ReadStop(const Field& stop, int64_t max);

// A message and where it stands.
struct Turn {
  Field field;
  Message message;
};
// A message in the form of OpenAI's APIs: {"role": "user", "content": "..."}.
Turn ReadTurn(const Field& entry, absl::Span<const absl::string_view> types);
// The messages of a request: those of the role "system" first, which become one; none without text; the last one of the
// user.
void SetMessages(const Field& list, std::vector<Turn> turns, CompletionRequest& request);

// Refuses each of these members that asks for something: that is not null, false, zero or empty.
void RefuseUnsupported(const Field& body, absl::Span<const absl::string_view> names);
// Refuses `field` if it is given and not `only`.
void RefuseOther(const Field& field, const Json& only);

// KvOptions::report, as member "kv" of an answer.
OrderedJson Report(const Usage& usage);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_API_MEMBERS_H_
