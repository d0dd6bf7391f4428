// Public data is read as it is asked, so that --count of a file of gigabytes reads its beginning only.
#include "worker/cli/eval_tasks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace kvlink::cli {
namespace {

// Room for what else is in a prompt: system message, markers and template; and what may stand around each document.
constexpr int64_t kPromptTokens = 256, kDocumentTokens = 32;

class Generated final : public EvalTasks {
 public:
  Generated(const data::ItemOptions& items, std::vector<data::Kind> kinds, int64_t count)
      : items_(items), kinds_(std::move(kinds)), count_(count * static_cast<int64_t>(kinds_.size())) {}
  absl::StatusOr<std::optional<eval::Task>> Next(AskSession& session) override {
    if (next_ == count_) return std::optional<eval::Task>();
    const int64_t kinds = static_cast<int64_t>(kinds_.size()), i = next_++;
    KVLINK_ASSIGN_OR_RETURN(const data::Item item, data::MakeItem(items_, kinds_[i % kinds], i / kinds));
    KVLINK_ASSIGN_OR_RETURN(eval::Task task, eval::TaskOf(item, *session.opened().tokenizer, session.opened().profile));
    return std::optional<eval::Task>(std::move(task));
  }
  int64_t count() const override { return count_; }

 private:
  const data::ItemOptions items_;
  const std::vector<data::Kind> kinds_;
  const int64_t count_;
  int64_t next_ = 0;
};

class OfFile final : public EvalTasks {
 public:
  explicit OfFile(std::vector<Question> questions) : questions_(std::move(questions)) {}
  absl::StatusOr<std::optional<eval::Task>> Next(AskSession& session) override {
    if (next_ == questions_.size()) return std::optional<eval::Task>();
    const Question& question = questions_[next_++];
    eval::Task task;
    task.kind = "file";
    task.question = question.text;
    task.answers = question.expected;
    for (const encode::DocumentParts& wanted : question.documents) {
      KVLINK_RETURN_IF_ERROR(Annotate(session.AddStored(wanted, &task.documents), absl::StrCat("question ", next_)));
    }
    // What it asks and of which tokens, so that a results file serves a changed file of questions as well.
    task.id = absl::StrCat(next_, "-", eval::ContentDigest(task));
    return std::optional<eval::Task>(std::move(task));
  }
  int64_t count() const override { return static_cast<int64_t>(questions_.size()); }

 private:
  const std::vector<Question> questions_;
  size_t next_ = 0;
};

class OfData final : public EvalTasks {
 public:
  explicit OfData(const DataOptions& options) : options_(options) {}

  absl::Status Open(const data::DataFile& file) {
    KVLINK_ASSIGN_OR_RETURN(auto reader, data::Reader::Open(file.format, file.path, options_.reader));
    eval::TaskOptions task = options_.task;
    if (file.format == data::Format::kText) task.max_document_tokens = options_.text_tokens;
    if (file.format == data::Format::kNeedle) task = {};  // its passages have the number and length of documents wanted
    inputs_.push_back({file.path, std::move(reader), task});
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<eval::Task>> Next(AskSession& session) override {
    for (size_t tried = 0; tried < inputs_.size(); ++tried) {
      Input& input = inputs_[next_];
      next_ = (next_ + 1) % inputs_.size();
      KVLINK_ASSIGN_OR_RETURN(std::optional<eval::Task> task, NextOf(input, session));
      if (task) return task;
    }
    return std::optional<eval::Task>();
  }
  int64_t count() const override { return options_.count * static_cast<int64_t>(inputs_.size()); }
  std::string left_out() const override {
    std::vector<std::string> reasons;
    if (short_ > 0) reasons.push_back(absl::StrCat(short_, " examples without documents before their last part"));
    if (long_ > 0) reasons.push_back(absl::StrCat(long_, " examples too long for the model's context"));
    return absl::StrJoin(reasons, " and ");
  }

 private:
  struct Input {
    std::string path;
    std::unique_ptr<data::Reader> reader;
    eval::TaskOptions options;
    int64_t read = 0;   // examples
    int64_t tasks = 0;  // of these
  };

  absl::StatusOr<std::optional<eval::Task>> NextOf(Input& input, AskSession& session) {
    const OpenedModel& opened = session.opened();
    while (input.tasks < options_.count) {
      KVLINK_ASSIGN_OR_RETURN(const std::optional<data::Example> example, input.reader->Next());
      if (!example) break;
      ++input.read;
      KVLINK_ASSIGN_OR_RETURN(std::optional<eval::Task> task,
                              eval::TaskOf(*example, input.read, *opened.tokenizer, opened.profile, input.options));
      if (!task) {
        ++short_;
        continue;
      }
      KVLINK_ASSIGN_OR_RETURN(const bool fits, Fits(*task, opened));
      if (!fits) {
        ++long_;
        continue;
      }
      ++input.tasks;
      return task;
    }
    if (input.tasks > 0) return std::optional<eval::Task>();
    const std::string why = left_out();
    return absl::InvalidArgumentError(
        absl::StrCat(input.path, ": contains nothing to ask", why.empty() ? "" : absl::StrCat("; left out: ", why)));
  }

  absl::StatusOr<bool> Fits(const eval::Task& task, const OpenedModel& opened) const {
    KVLINK_ASSIGN_OR_RETURN(const std::vector<int32_t> question,
                            opened.tokenizer->Encode(task.question, /*parse_special=*/false));
    int64_t tokens = static_cast<int64_t>(question.size()) + options_.answer_tokens + kPromptTokens;
    const int64_t around = std::max(kDocumentTokens, opened.wrapper.tokens() + opened.profile.links_per_document);
    for (const infer::RequestDocument& document : task.documents) {
      tokens += static_cast<int64_t>(document.tokens.size()) + around;
    }
    return tokens <= opened.model->config().context;
  }

  const DataOptions options_;
  std::vector<Input> inputs_;
  size_t next_ = 0;
  int64_t short_ = 0;
  int64_t long_ = 0;
};

}  // namespace

std::unique_ptr<EvalTasks> GeneratedTasks(const data::ItemOptions& items, std::vector<data::Kind> kinds,
                                          int64_t count) {
  return std::make_unique<Generated>(items, std::move(kinds), count);
}

std::unique_ptr<EvalTasks> FileTasks(std::vector<Question> questions) {
  return std::make_unique<OfFile>(std::move(questions));
}

absl::StatusOr<std::unique_ptr<EvalTasks>> OpenDataTasks(const std::vector<data::DataFile>& files,
                                                         const DataOptions& options) {
  auto tasks = std::make_unique<OfData>(options);
  for (const data::DataFile& file : files) KVLINK_RETURN_IF_ERROR(tasks->Open(file));
  return std::unique_ptr<EvalTasks>(std::move(tasks));
}

}  // namespace kvlink::cli
