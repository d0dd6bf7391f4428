// What `kvlink eval` asks, made one at a time: generated questions, questions of a file over stored documents, or
// examples of public data sets.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_CLI_EVAL_TASKS_H_
#define KVLINK_WORKER_CLI_EVAL_TASKS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/cli/ask_session.h"
#include "worker/cli/questions.h"
#include "worker/data/question_generator.h"
#include "worker/data/reader.h"
#include "worker/eval/task.h"

namespace kvlink::cli {

class EvalTasks {
 public:
  virtual ~EvalTasks() = default;
  // nullopt at the end. Errors of what makes the task, naming it.
  virtual absl::StatusOr<std::optional<eval::Task>> Next(AskSession& session) = 0;
  // At most this many.
  virtual int64_t count() const = 0;
  // What was left out so far and why, for the user; or empty.
  virtual std::string left_out() const { return ""; }
};

// `count` of each kind. Kinds take turns, so that an interrupted run has answered some of each.
std::unique_ptr<EvalTasks> GeneratedTasks(const data::ItemOptions& items, std::vector<data::Kind> kinds, int64_t count);
std::unique_ptr<EvalTasks> FileTasks(std::vector<Question> questions);

struct DataOptions {
  data::ReaderOptions reader;
  eval::TaskOptions task;
  int64_t text_tokens = 200;  // of the pieces of a text
  int64_t count = 20;         // tasks of each file
  int64_t answer_tokens = 32;
};
// Files take turns. Examples without documents, and those for which the model's context is too short, are left out.
// Errors of Reader::Open; later INVALID_ARGUMENT naming a file that has nothing to ask.
absl::StatusOr<std::unique_ptr<EvalTasks>> OpenDataTasks(const std::vector<data::DataFile>& files,
                                                         const DataOptions& options);

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_EVAL_TASKS_H_
