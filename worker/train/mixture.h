// What is learned from: sources of examples and how often each is drawn.
//
// A JSON object: {"sources": [SOURCE, ...]}. A SOURCE has
//   "weight"           its share of all examples; shares are relative
//   "format"           of worker/data/reader.h, with "path" (relative to the JSON file); or "generated" without a path
//   "reading"          "linked" (the default) or "full"; text is always read in full
//   "document_tokens"  documents are cut after as many tokens; generated: [least, most] of each document
//   "documents"        generated: [least, most]
//   "kinds"            generated: names of kinds
//   "answers"          generated: "names" (the default), or "sentences", which say the question's relation as well,
//                      or "steps": a sentence for each fact
//   "questions"        generated: how many are asked about the same documents, at most
//   "names"            generated: of "syllables" (the default) or of random "letters"
//   "seed"             generated
// Thread-safety: plain values and pure functions; an ExampleStream is used by one thread at a time.
#ifndef KVLINK_WORKER_TRAIN_MIXTURE_H_
#define KVLINK_WORKER_TRAIN_MIXTURE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/example.h"
#include "worker/data/question_generator.h"
#include "worker/data/reader.h"
#include "worker/train/sequence.h"

namespace kvlink::train {

struct Source {
  double weight = 1;
  std::optional<data::Format> format;  // nullopt: generated
  std::string path;
  Reading reading = Reading::kLinked;
  int64_t cut = 0;  // tokens after which a document is cut; 0: never
  // Generated.
  std::pair<int64_t, int64_t> documents = {2, 10};
  std::pair<int64_t, int64_t> document_tokens = {50, 250};
  std::vector<data::Kind> kinds;  // not empty
  enum Answers { kNames, kSentences, kSteps } answers = kNames;
  int64_t questions = 1;  // the most about the same documents
  data::Names names = data::Names::kSyllables;
  uint64_t seed = 1;
};
struct Mixture {
  std::vector<Source> sources;
};

// INVALID_ARGUMENT naming the source and the member. Paths are relative to `directory`.
absl::StatusOr<Mixture> ParseMixture(absl::string_view json, absl::string_view directory);
// Generated questions of every kind, read alone.
Mixture GeneratedMixture();
// KVLink's shares: 20% text, 30% chat, 25% chat whose earlier turns are read alone, 10% questions over documents in
// full and 10% alone, 5% summaries of segments of 100 tokens. Files by format, as "chat:tulu.jsonl"; several of a share
// divide it equally; questions without a file are generated. INVALID_ARGUMENT: an unknown format, or no file of text,
// chats or summaries.
absl::StatusOr<Mixture> PaperMixture(const std::vector<std::string>& files);
// All that decides which examples are drawn, in one line; of files, their names and sizes.
std::string DescribeMixture(const Mixture& mixture);

// The examples of a mixture, without end: files are read again from their beginning. Every 50th example of a file, and
// generated ones of their own, are held out: they are never drawn for training.
class ExampleStream {
 public:
  struct Drawn {
    data::Example example;
    const Source* source = nullptr;
  };
  // `mixture` outlives the stream. The same seed draws the same examples. `reader`: of files; what is skipped counts in
  // each reading. `stopped` (may be empty): asked now and then. INVALID_ARGUMENT: standard input, which cannot be read
  // again; errors of data::Reader.
  static absl::StatusOr<std::unique_ptr<ExampleStream>> Open(const Mixture* mixture, uint64_t seed, bool held_out,
                                                             const data::ReaderOptions& reader = {},
                                                             std::function<bool()> stopped = nullptr);
  // INVALID_ARGUMENT for a damaged example, as data::Reader says, and for a file without examples. CANCELLED: stopped.
  absl::StatusOr<Drawn> Next();
  // Skips to where a stream is after `drawn` calls of Next. CANCELLED: stopped.
  absl::Status Skip(int64_t drawn);
  int64_t drawn() const { return drawn_; }

 private:
  struct State {
    const Source* source = nullptr;
    std::unique_ptr<data::Reader> reader;  // opened when it is first drawn from
    int64_t read = 0;                      // since it was opened
    int64_t skipped = 0;                   // to be read and dropped
  };
  ExampleStream(const Mixture* mixture, uint64_t seed, bool held_out, const data::ReaderOptions& reader,
                std::function<bool()> stopped);
  absl::Status Reopen(State& state) const;
  // Called for each example that is read, made or passed over. CANCELLED: stopped.
  absl::Status Count();
  size_t Choose() const;
  absl::StatusOr<data::Example> Generate(const Source& source) const;
  absl::StatusOr<data::Example> Read(State& state);

  const uint64_t seed_;
  const bool held_out_;
  const data::ReaderOptions reader_;
  const std::function<bool()> stopped_;
  int64_t counted_ = 0;
  double total_ = 0;  // of the weights
  int64_t drawn_ = 0;
  std::vector<State> states_;
};

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_MIXTURE_H_
