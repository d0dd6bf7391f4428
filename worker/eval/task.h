// Questions and other examples as the runner asks them: documents in tokens, and what an answer is compared with.
// Thread-safety: plain values and pure functions.
#ifndef KVLINK_WORKER_EVAL_TASK_H_
#define KVLINK_WORKER_EVAL_TASK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/example.h"
#include "worker/data/question_generator.h"
#include "worker/infer/generator.h"
#include "worker/link/profile.h"
#include "worker/text/tokenizer.h"

namespace kvlink::eval {

struct Task {
  std::string id;
  std::string kind;
  std::string question;
  std::vector<std::string> answers;     // accepted; may be empty
  std::vector<std::string> candidates;  // the right one first; empty: no forced choice
  std::string stem;                     // what the model has said before a candidate; may be empty
  std::vector<infer::RequestDocument> documents;
  std::vector<int64_t> gold;          // ascending indices into documents; empty: not known
  bool long_answer = false;           // the answers are summaries or a chat's turn, which no answer contains as a whole
  std::vector<int32_t> continuation;  // of a text: its last piece; of others nothing
};

// A hash of question, answers and document tokens, for the id of a task from a file that may change.
std::string ContentDigest(const Task& task);

// Tokenises as ingest does. Errors of Tokenizer::Encode.
absl::StatusOr<Task> TaskOf(const data::Item& item, const model::Tokenizer& tokenizer,
                            const link::LinkProfile& profile);

struct TaskOptions {
  int64_t max_documents = 0;  // 0: all; otherwise all gold documents, and the first others as long as there is room
  int64_t max_document_tokens = 0;  // longer documents are cut into several; 0: none is
};
// Of the example with this number in its file. Of a chat, the last question is asked and the turns before it are the
// documents; of a text, all pieces but the last are, which is the continuation. nullopt: there are none. Errors of
// Tokenizer::Encode.
absl::StatusOr<std::optional<Task>> TaskOf(const data::Example& example, int64_t number,
                                           const model::Tokenizer& tokenizer, const link::LinkProfile& profile,
                                           const TaskOptions& options);

}  // namespace kvlink::eval

#endif  // KVLINK_WORKER_EVAL_TASK_H_
