// What a training step computes: a sequence of tokens as a request would lay it out, with the answer behind it.
//
// The layout is that of link::Stages, so that what is trained is what is served: the tokens of a document see only
// their own document, all others everything before them. Wrapper embeddings stand inside a document, links between
// documents.
// Thread-safety: plain values; a SequenceMaker's methods are const and thread-safe.
#ifndef KVLINK_WORKER_TRAIN_SEQUENCE_H_
#define KVLINK_WORKER_TRAIN_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/data/example.h"
#include "worker/files/config.h"
#include "worker/link/profile.h"
#include "worker/text/template/chat_template.h"
#include "worker/text/tokenizer.h"

namespace kvlink::train {

// Embeddings that are trained beside the model's. Their ids follow the vocabulary: links by slot, as a plan names
// them, then the wrapper's header and trailer.
struct Embeddings {
  int64_t links = 0;  // for each document
  int64_t slots = 0;  // 0: no links
  int64_t header = 0;
  int64_t trailer = 0;

  int64_t link_rows() const { return links * slots; }
  int64_t rows() const { return link_rows() + header + trailer; }
};

struct Sequence {
  std::vector<int32_t> tokens;  // ids >= vocabulary: rows of the embeddings above; positions are 0, 1, 2, ...
  // [begin, end) of each document with its wrapper, ascending. All other tokens see everything before them.
  std::vector<std::pair<int64_t, int64_t>> documents;
  // The tokens that are learned, ascending and never 0: the row before each predicts it.
  std::vector<int64_t> learned;
};

// How an example's documents are read. Of a chat, the turns before the last answer's are its documents.
enum class Reading {
  kLinked,  // each alone
  kFull,    // as ordinary text: every token sees everything before it
};

// The same learned tokens twice: as they are trained, and as the teacher sees them, with full attention and without any
// trained embedding.
struct Lesson {
  Sequence student;
  Sequence teacher;
};

class SequenceMaker {
 public:
  // `tokenizer`, `chat` and `profile` outlive the object; the profile's own links are not used. INVALID_ARGUMENT: the
  // model names no token that ends an answer.
  static absl::StatusOr<SequenceMaker> Create(const model::Tokenizer* tokenizer, const model::ChatTemplate* chat,
                                              const model::ChatOptions& options, const link::LinkProfile* profile,
                                              const model::ModelConfig& config, const Embeddings& embeddings);

  // Documents of more than `document_tokens` tokens (0: no limit) are cut into several. nullopt: longer than
  // `max_tokens` or the model's context, more documents than slots, or nothing to learn. Plain text is cut instead.
  // INVALID_ARGUMENT: text that is not UTF-8; errors of the chat template.
  absl::StatusOr<std::optional<Lesson>> Make(const data::Example& example, Reading reading, int64_t document_tokens,
                                             int64_t max_tokens) const;
  // The same without any trained embedding: what a request with the linker concat computes.
  Sequence WithoutEmbeddings(const Sequence& sequence) const;

 private:
  // A run of tokens behind the documents, or of a text.
  struct Piece {
    std::vector<int32_t> tokens;
    bool learned = false;
  };
  struct Parts {
    std::vector<int32_t> before;
    std::vector<std::vector<int32_t>> documents;
    std::vector<Piece> after;
  };
  SequenceMaker() = default;
  absl::StatusOr<Parts> PartsOfText(const std::string& text, int64_t max_tokens) const;
  absl::StatusOr<Parts> PartsOfDocuments(absl::Span<const data::Document> documents, int64_t document_tokens,
                                         const std::string& question, const std::string& answer) const;
  absl::StatusOr<Parts> PartsOfChat(const data::Chat& chat, bool linked) const;
  // Adds the rounds of further questions.
  absl::Status AddMore(const data::Question& question, Parts* parts) const;
  absl::StatusOr<std::vector<int32_t>> AnswerTokens(int32_t previous, const std::string& answer) const;
  absl::StatusOr<Sequence> LayOut(const Parts& parts, bool linked) const;

  const model::Tokenizer* tokenizer_ = nullptr;
  const model::ChatTemplate* chat_ = nullptr;
  model::ChatOptions options_;
  link::LinkProfile profile_;
  Embeddings embeddings_;
  int64_t vocab_ = 0;
  int64_t context_ = 0;
  int32_t end_of_answer_ = 0;
};

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_SEQUENCE_H_
