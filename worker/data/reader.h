// Examples from the files of public data sets, in the shapes in which their authors publish them. A file is read as a
// stream, one example in memory at a time, also where it is one JSON array of gigabytes; gzip and Zstandard are
// recognised (worker/ingest/source/byte_stream.h). JSON formats take an array or JSON lines.
//
//   format           members of an example, beside others that are ignored
//   hotpotqa, 2wiki  _id, question, answer, context: [[title, [sentences]]], supporting_facts: [[title, number]]; or as
//                    in the Hugging Face copy id, context: {title, sentences}, supporting_facts: {title, sent_id}.
//                    github.com/hotpotqa/hotpot and github.com/Alab-NII/2wikimultihop, README.md
//   musique          id, question, answer, answer_aliases, answerable, paragraphs: [{title, paragraph_text,
//                    is_supporting}]. github.com/StonyBrookNLP/musique
//   nq               question, answers, ctxs: [{title, text, isgold}], from nq-open-*_gold_at_*.jsonl.gz of "Lost in
//                    the Middle". github.com/nelson-liu/lost-in-the-middle, README.md
//   triviaqa         id, question, answers, target, ctxs: [{title, text}], in order of retrieval.
//                    github.com/facebookresearch/FiD, README.md, "Data format"
//   multinews        document, with "|||||" between articles; summary. huggingface.co/datasets/alexfabbri/multi_news.
//                    Or its files NAME.src (also NAME.src.cleaned) and NAME.tgt, one line an example: name the former
//   samsum           id, dialogue, summary. arxiv.org/abs/1911.12237
//   xsum             id, document, summary. github.com/EdinburghNLP/XSum, as huggingface.co/datasets/xsum exports it
//   chat             id, messages: [{role, content}], as in huggingface.co/datasets/allenai/tulu-3-sft-mixture; or
//                    system, conversations: [{from, value}], as in huggingface.co/datasets/nvidia/Daring-Anteater
//   text             plain text, in passages; JSON lines with the member text if the name says so (.jsonl, .json)
//   needle           the same, with a fact hidden in each passage at several depths and a question for it, after
//                    github.com/gkamradt/LLMTest_NeedleInAHaystack
//
// The supporting facts, is_supporting and isgold say which documents are gold; in triviaqa nothing does.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_DATA_READER_H_
#define KVLINK_WORKER_DATA_READER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/data/example.h"
#include "worker/ingest/source/interrupt.h"

namespace kvlink::data {

enum class Format {
  kHotpotQa,
  kTwoWiki,
  kMusique,
  kNaturalQuestions,
  kTriviaQa,
  kMultiNews,
  kSamsum,
  kXsum,
  kChat,
  kText,
  kNeedle,
};
absl::Span<const Format> AllFormats();
absl::string_view FormatName(Format format);
// INVALID_ARGUMENT: lists the formats.
absl::StatusOr<Format> ParseFormat(absl::string_view name);

struct DataFile {
  Format format = Format::kHotpotQa;
  std::string path;
};
// "NAME:FILE". INVALID_ARGUMENT: not of this form, or an unknown name.
absl::StatusOr<DataFile> ParseDataFile(absl::string_view text);

struct ReaderOptions {
  // Damaged examples that are skipped before Next() fails. `on_skipped` (may be empty) is told the error of each.
  int64_t max_skipped = 0;
  std::function<void(const absl::Status&)> on_skipped;
  // May be null, otherwise outlives the reader: ends its waits for input with CANCELLED.
  const ingest::Interrupt* interrupt = nullptr;
  int64_t max_example_bytes = int64_t{64} << 20;  // of one line or element; a longer one is damaged
  int64_t passage_bytes = int64_t{16} << 10;      // text, needle: maximum length of a passage of plain text
  // Of needles. A passage is cut into documents; its fact is drawn from the seed.
  std::vector<int64_t> needle_depths = {0, 25, 50, 75, 100};  // percent of the passage
  int64_t needle_documents = 5;
  uint64_t seed = 1;
};

class Reader {
 public:
  // "-" is standard input. INVALID_ARGUMENT: not a file, or not of this compression; errors of ByteStream::Open.
  static absl::StatusOr<std::unique_ptr<Reader>> Open(Format format, const std::string& path,
                                                      const ReaderOptions& options);
  virtual ~Reader() = default;

  // nullopt at the end. INVALID_ARGUMENT naming the file, the line or element, the member and what was expected: more
  // than max_skipped examples are damaged, or the rest of the file cannot be read; errors of ByteStream::Read. After an
  // error, all further calls return it.
  absl::StatusOr<std::optional<Example>> Next();

 protected:
  explicit Reader(const ReaderOptions& options) : options_(options) {}
  const ReaderOptions& options() const { return options_; }
  // The next example, or why it is damaged; nullopt at the end. An error ends the file.
  virtual absl::StatusOr<std::optional<absl::StatusOr<Example>>> Read() = 0;

 private:
  const ReaderOptions options_;
  int64_t skipped_ = 0;
  absl::Status status_;
};

}  // namespace kvlink::data

#endif  // KVLINK_WORKER_DATA_READER_H_
